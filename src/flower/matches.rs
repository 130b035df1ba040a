//! What a filter asks of a packet: a key under a mask, and port ranges.

use super::{field::Field, key::Key};

/// An inclusive range of a port field, in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// The lowest port that matches.
    pub min: u16,
    /// The highest port that matches.
    pub max: u16,
}

impl Range {
    /// Whether the range holds the port.
    pub fn contains(&self, port: u16) -> bool {
        (self.min..=self.max).contains(&port)
    }

    /// Whether a port of the range has `value` under `mask`.
    pub fn meets(&self, mask: u16, value: u16) -> bool {
        smallest(mask, value & mask, self.min).is_some_and(|port| port <= self.max)
    }

    /// Whether every port that has `value` under `mask` is in the range.
    pub fn covers(&self, mask: u16, value: u16) -> bool {
        let (low, high) = (value & mask, value & mask | !mask);
        self.min <= low && high <= self.max
    }

    /// The ports that both have, if there are any.
    pub fn both(self, other: Range) -> Option<Range> {
        let both = Range { min: self.min.max(other.min), max: self.max.min(other.max) };
        (both.min <= both.max).then_some(both)
    }
}

/// The smallest number from `min` on that has `value` under `mask`; `value` has no bits outside of it.
fn smallest(mask: u16, value: u16, min: u16) -> Option<u16> {
    // The free bits as `min` has them, then what lies below the first difference at its least.
    let near = value | min & !mask;
    let below = |bit: u32| ((1u32 << bit) - 1) as u16;
    let Some(first) = (near ^ min).checked_ilog2() else {
        return Some(near);
    };
    if near > min {
        return Some(near & !(below(first) & !mask));
    }
    // Too small: a free bit above that `min` does not have must be set.
    let raise = (first + 1..16).find(|&bit| (mask | min) >> bit & 1 == 0)?;
    Some((near | 1 << raise) & !(below(raise) & !mask))
}

/// Key, mask and port ranges of a filter. Bits of the key outside the mask are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Match {
    /// The values asked for.
    pub key: Key,
    /// The bits that are compared.
    pub mask: Key,
    /// Range of the source port.
    pub src_range: Option<Range>,
    /// Range of the destination port.
    pub dst_range: Option<Range>,
}

impl Match {
    /// Adds a comparison. Bits already asked for keep their place in the mask and take the new value.
    pub fn set(&mut self, field: Field, value: u128, mask: u128) {
        let mask = mask & field.ones();
        self.mask.set(field, self.mask.get(field) | mask);
        self.key.set(field, self.key.get(field) & !mask | value & mask);
    }

    /// The same, by value, for building.
    pub fn with(mut self, field: Field, value: u128, mask: u128) -> Match {
        self.set(field, value, mask);
        self
    }

    /// Drops the comparison of a field; a range of it stays.
    pub fn clear(&mut self, field: Field) {
        self.mask.set(field, 0);
        self.key.set(field, 0);
    }

    /// An exact comparison of the whole field.
    pub fn exact(self, field: Field, value: u128) -> Match {
        self.with(field, value, field.ones())
    }

    /// The port ranges with their fields.
    pub fn ranges(&self) -> impl Iterator<Item = (Field, Range)> {
        [(Field::SrcPort, self.src_range), (Field::DstPort, self.dst_range)]
            .into_iter()
            .filter_map(|(f, r)| Some((f, r?)))
    }

    /// The fields compared: field, value, mask.
    pub fn terms(&self) -> impl Iterator<Item = (Field, u128, u128)> + '_ {
        self.mask.fields().map(|(f, mask)| (f, self.key.get(f), mask))
    }

    /// What a packet is that matches this and the other; `None` if a bit or a port range says that none does.
    pub fn both(&self, other: &Match) -> Option<Match> {
        if !self.key.agrees(&other.key, &self.mask.and(&other.mask)) {
            return None;
        }
        let mut both = *self;
        for (field, value, mask) in other.terms() {
            both.set(field, value, mask);
        }
        for (field, range) in other.ranges() {
            let slot = both.range_mut(field);
            *slot = Some(slot.map_or(Some(range), |r| r.both(range))?);
        }
        let meets =
            |(field, range): (Field, Range)| range.meets(both.mask.get(field) as u16, both.key.get(field) as u16);
        both.ranges().all(meets).then_some(both)
    }

    /// Drops what bits and ranges of a port tell of each other: bits that all of the range have, and a range that holds all ports
    /// with these bits. False if no port of the range has the bits.
    pub fn settle_ranges(&mut self) -> bool {
        if self.src_range.is_none() && self.dst_range.is_none() {
            return true;
        }
        for field in [Field::SrcPort, Field::DstPort] {
            let Some(range) = *self.range_mut(field) else { continue };
            let (key, mut mask) = (self.key.get(field) as u16, self.mask.get(field) as u16);
            if !range.meets(mask, key) {
                return false;
            }
            if range.covers(mask, key) {
                *self.range_mut(field) = None;
                continue;
            }
            for bit in (0..16).map(|bit| 1 << bit) {
                if mask & bit != 0 && !range.meets(mask, key ^ bit) {
                    mask &= !bit;
                }
            }
            self.mask.set(field, mask.into());
            self.key.set(field, (key & mask).into());
        }
        true
    }

    /// The range of the source port, or of the destination port.
    pub fn range_mut(&mut self, field: Field) -> &mut Option<Range> {
        match field {
            Field::SrcPort => &mut self.src_range,
            _ => &mut self.dst_range,
        }
    }

    /// Whether a packet with this key matches.
    pub fn fits(&self, packet: &Key) -> bool {
        self.key.agrees(packet, &self.mask)
            && self.ranges().all(|(field, range)| range.contains(packet.get(field) as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_and_ranges_meet_where_some_number_is_in_both() {
        let mut state = 1u32;
        let mut dice = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as u16
        };
        for _ in 0..3000 {
            // Eight bits are looked at, the others are fixed in most.
            let high = if dice() & 7 == 0 { 0 } else { 0xff00 };
            let (mask, value) = (dice() & 0xff | high, dice() & 0x01ff);
            let (a, b) = (dice() & 0x1ff, dice() & 0x1ff);
            let range = Range { min: a.min(b), max: a.max(b) };
            let of_pattern = |n: &u16| (n ^ value) & mask == 0;
            let brute = (range.min..=range.max).any(|n| of_pattern(&n));
            assert_eq!(range.meets(mask, value), brute, "{mask:x} {value:x} {range:?}");
            let all = (0..=u16::MAX).filter(of_pattern).all(|n| range.contains(n));
            assert_eq!(range.covers(mask, value), all, "{mask:x} {value:x} {range:?}");
        }
        assert!(Range { min: u16::MAX, max: u16::MAX }.meets(0, 0));
        assert!(!Range { min: 0x8000, max: u16::MAX }.meets(0x8000, 0));
    }
}
