//! A match without what it does not compare: for what is kept in great number, and held against many packets.
//!
//! A key has a place for every field, and a match compares few of them. So of key and mask only the words are kept in which
//! something is compared, and a number whose bits say which words these are.

use super::{
    field::Field,
    key::{Key, WORDS},
    matches::{Match, Range},
};
use std::fmt;

/// A match, of whose key and mask the words are left out that are not compared.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Packed {
    /// Bit n: word n is compared.
    at: u64,
    /// Mask and value of these, in order.
    words: Box<[[u64; 2]]>,
    /// Range of the source port.
    pub src_range: Option<Range>,
    /// Range of the destination port.
    pub dst_range: Option<Range>,
}

const _: () = assert!(WORDS <= 64, "a bit for every word of a key");

/// The positions of the bits that are set, the lowest first.
#[inline]
fn bits(mut all: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (all != 0).then(|| all.trailing_zeros() as usize)?;
        all &= all - 1;
        Some(bit)
    })
}

impl Packed {
    /// What a match says.
    pub fn new(m: &Match) -> Packed {
        let (key, mask) = (m.key.words(), m.mask.words());
        let at: u64 = (0..WORDS).filter(|&i| mask[i] != 0).fold(0, |at, i| at | 1 << i);
        let mut words = Vec::with_capacity(at.count_ones() as usize);
        words.extend(bits(at).map(|i| [mask[i], key[i] & mask[i]]));
        Packed { at, words: words.into(), src_range: m.src_range, dst_range: m.dst_range }
    }

    /// The same with a packet's values of these bits, as far as they are compared.
    pub fn recast(&self, packet: &Key, bits: &Key) -> Packed {
        let (packet, bits) = (packet.words(), bits.words());
        let mut words = self.words.clone();
        for (i, [mask, value]) in self::bits(self.at).zip(&mut words) {
            *value = *value & !bits[i] | packet[i] & bits[i] & *mask;
        }
        Packed { words, ..*self }
    }

    /// The match.
    pub fn unpack(&self) -> Match {
        let mut m = Match { src_range: self.src_range, dst_range: self.dst_range, ..Match::default() };
        for (i, &[mask, value]) in self.words() {
            m.mask.set_word(i, mask);
            m.key.set_word(i, value);
        }
        m
    }

    #[inline]
    fn words(&self) -> impl Iterator<Item = (usize, &[u64; 2])> {
        bits(self.at).zip(&self.words)
    }

    /// The bits of a field that are compared, and their value.
    pub fn get(&self, field: Field) -> (u128, u128) {
        let word = |i: usize| match self.at >> i & 1 {
            0 => [0; 2],
            _ => self.words[(self.at & ((1 << i) - 1)).count_ones() as usize],
        };
        let [mask, value] = [0, 1].map(|part| Key::pick(field, |i| word(i)[part]));
        (mask, value)
    }

    /// Whether a packet with this key matches, as [`Match::fits`] says.
    #[inline]
    pub fn fits(&self, packet: &Key) -> bool {
        let packet_words = packet.words();
        let bits = self.words().all(|(i, [mask, value])| packet_words.get(i).is_some_and(|word| word & mask == *value));
        let within = |range: Option<Range>, field| range.is_none_or(|r| r.contains(packet.get(field) as u16));
        bits && within(self.src_range, Field::SrcPort) && within(self.dst_range, Field::DstPort)
    }

    /// Whether a packet could match both, by bits and port ranges: as [`Match::both`] says.
    pub fn overlaps(&self, other: &Packed) -> bool {
        let before = |all: u64, bit: usize| (all & ((1 << bit) - 1)).count_ones() as usize;
        let agree = bits(self.at & other.at).all(|bit| {
            let ([mask, value], [others, other_value]) =
                (self.words[before(self.at, bit)], other.words[before(other.at, bit)]);
            (value ^ other_value) & mask & others == 0
        });
        agree && self.ports_meet(other, Field::SrcPort) && self.ports_meet(other, Field::DstPort)
    }

    fn range(&self, field: Field) -> Option<Range> {
        if field == Field::SrcPort { self.src_range } else { self.dst_range }
    }

    /// Whether a port can be what both ask, where the bits that both compare agree.
    fn ports_meet(&self, other: &Packed, field: Field) -> bool {
        let range = match (self.range(field), other.range(field)) {
            (None, None) => return true,
            (Some(a), Some(b)) => a.both(b),
            (one, None) | (None, one) => one,
        };
        let ((mask, value), (others, other_value)) = (self.get(field), other.get(field));
        range.is_some_and(|r| r.meets((mask | others) as u16, (value | other_value) as u16))
    }
}

impl From<&Match> for Packed {
    fn from(m: &Match) -> Packed {
        Packed::new(m)
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.unpack().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Few fields, some of two words and some of one, and few values: so that words are shared, left out, and often agree.
    fn matches() -> impl Strategy<Value = Match> {
        use Field::*;
        let fields = vec![Indev, Protocol, VlanId, IpTos, Ipv4Src, Ipv6Dst, SrcPort, DstPort, TcpFlags, CtLabels, Spi];
        let mask = prop_oneof![Just(u128::MAX), Just(1), Just(3), Just(1 << 64), Just(3 << 63)];
        let term = (prop::sample::select(fields), prop::sample::select(vec![0, 1, 2, 1 << 64, u128::MAX]), mask);
        let range = || {
            prop::option::weighted(0.3, (0u16..6, 0u16..6)).prop_map(|r| r.map(|(min, n)| Range { min, max: min + n }))
        };
        (prop::collection::vec(term, 0..5), range(), range()).prop_map(|(terms, src_range, dst_range)| {
            let ranges = Match { src_range, dst_range, ..Match::default() };
            terms.into_iter().fold(ranges, |m, (field, value, mask)| m.with(field, value, mask))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn a_packed_match_says_what_the_match_says(a in matches(), b in matches(), noise in matches()) {
            let (packed, other) = (Packed::new(&a), Packed::new(&b));
            prop_assert_eq!(packed.unpack(), a);
            prop_assert_eq!(packed == other, a == b);
            for &field in Field::ALL {
                prop_assert_eq!(packed.get(field), (a.mask.get(field), a.key.get(field)));
            }
            prop_assert_eq!(packed.overlaps(&other), a.both(&b).is_some());
            // A packet that has some of it, one that has all of it but the ranges, and one that is within these.
            let mut like = noise.key;
            a.terms().for_each(|(field, value, mask)| like.set(field, like.get(field) & !mask | value));
            let within = a.ranges().fold(like, |key, (field, range)| key.with(field, range.min.into()));
            for packet in [noise.key, b.key, like, within] {
                prop_assert_eq!(packed.fits(&packet), a.fits(&packet), "{:?}", packet);
            }
        }
    }
}
