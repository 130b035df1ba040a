//! Which of the filters of one mask overlap a match, without trying all.
//!
//! Two matches overlap if they agree in the bits that both compare, and their ports meet. The filters of a [`Bin`] share a mask, so
//! the bits that they compare together with a query are the same for all of them. An index holds the members sorted by a hash of
//! just these bits; those of the query's hash are looked up and compared in full. A range on either side cannot be hashed: there
//! each member is entered under the aligned blocks of ports that make up its range, and under its lowest port. Those that
//! overlap the query's range either hold its first port, which lies in one block of each size, or begin behind it.
//!
//! An index costs memory and upkeep, so it must be earned: it is built when queries of its kind have compared nearly as many
//! members in vain as there are, which is at once if there was no other to use. A bin has a few at most. A query without one of its own uses the
//! best of those whose bits are among its own; and the one that spared least makes room for a new one.

use crate::flower::{Field, Key, Match, Range};
use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;
use std::{
    collections::BTreeSet,
    hash::{BuildHasher, Hasher},
};

/// Most indexes of one bin.
const INDEXES: usize = 16;

/// Most kinds of queries that are remembered for want of an index.
const WISHES: usize = 32;

/// So few comparisons in vain that no index would be quicker.
const FEW: usize = 16;

const PORTS: [Field; 2] = [Field::SrcPort, Field::DstPort];

/// Words of a key, where the bin's mask has any bits.
type Words = SmallVec<[u64; 6]>;

/// The filters of one mask, with what the owner keeps of each.
#[derive(Clone, Debug)]
pub struct Bin<T> {
    mask: Words,
    /// Which words of a key those are.
    at: SmallVec<[u8; 6]>,
    /// How they compare ports.
    ends: [Compares; 2],
    members: Slab<Member<T>>,
    /// The filters' protocols as value and mask, and how many have each: one, as TC has it.
    protocols: Vec<((u16, u16), usize)>,
    indexes: Vec<Index>,
    wishes: Vec<(Kind, usize)>,
    hasher: RandomState,
}

#[derive(Clone, Debug)]
struct Member<T> {
    key: Words,
    protocol: (u16, u16),
    ports: [Ports; 2],
    owned: T,
}

/// What queries an index serves: the bits that they compare, and whether ports of one end may differ and yet meet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kind {
    mask: Words,
    end: Option<usize>,
}

#[derive(Clone, Debug)]
struct Index {
    kind: Kind,
    /// By hash of the bits, and with an end of the block of ports.
    by_hash: BTreeSet<(u64, usize)>,
    /// By hash of the bits and lowest port.
    by_low: BTreeSet<(u64, u16, usize)>,
    /// How many members it has spared queries.
    spared: usize,
}

/// A query, as a bin sees it.
struct Query {
    key: Words,
    protocol: (u16, u16),
    ports: [Ports; 2],
    kind: Kind,
}

impl<T> Bin<T> {
    /// For filters of this mask, and with ranges of source and destination ports or without. Of which protocol they are is no
    /// part of the mask.
    pub fn new(mask: &Key, ranges: [bool; 2]) -> Bin<T> {
        let mask = mask.with(Field::Protocol, 0);
        let at: SmallVec<[u8; 6]> = (0u8..).zip(mask.words()).filter(|(_, w)| **w != 0).map(|(i, _)| i).collect();
        Bin {
            mask: at.iter().map(|&i| mask.words()[i as usize]).collect(),
            at,
            ends: comparisons(&mask, ranges),
            members: Slab::new(),
            protocols: Vec::new(),
            indexes: Vec::new(),
            wishes: Vec::new(),
            hasher: RandomState::default(),
        }
    }

    /// How many filters there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// What is kept of each filter.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.members.iter().map(|(_, m)| &m.owned)
    }

    /// What is kept of this one.
    pub fn get(&self, slot: usize) -> &T {
        &self.members[slot].owned
    }

    /// Enters a filter, whose mask is the bin's; its slot is its name until it is taken out.
    pub fn insert(&mut self, matches: &Match, owned: T) -> usize {
        let protocol = protocol(matches);
        match self.protocols.iter_mut().find(|(p, _)| *p == protocol) {
            Some((_, count)) => *count += 1,
            None => self.protocols.push((protocol, 1)),
        }
        let key = self.at.iter().zip(&self.mask).map(|(&i, mask)| matches.key.words()[i as usize] & mask).collect();
        let slot = self.members.insert(Member { key, protocol, ports: Ports::of(matches), owned });
        let member = &self.members[slot];
        for index in &mut self.indexes {
            index.insert(&self.hasher, slot, &member.key, &member.ports);
        }
        slot
    }

    /// Takes a filter out.
    pub fn remove(&mut self, slot: usize) -> T {
        let member = self.members.remove(slot);
        for index in &mut self.indexes {
            index.remove(&self.hasher, slot, &member.key, &member.ports);
        }
        if let Some(i) = self.protocols.iter().position(|(p, _)| *p == member.protocol) {
            self.protocols[i].1 -= 1;
            if self.protocols[i].1 == 0 {
                self.protocols.swap_remove(i);
            }
        }
        member.owned
    }

    /// The filters that overlap this match, in no order.
    pub fn overlapping(&mut self, matches: &Match) -> Vec<usize> {
        let query = self.query(matches);
        if !self.protocols.iter().any(|&(p, _)| agree(p, query.protocol)) {
            return Vec::new();
        }
        let own = self.indexes.iter().position(|i| i.kind == query.kind);
        let best = own.or_else(|| self.best(&query));
        let mut found: Vec<usize> = match best {
            Some(i) => self.indexes[i].find(&self.hasher, &query).collect(),
            None => self.members.iter().map(|(slot, _)| slot).collect(),
        };
        let tried = found.len();
        if let Some(i) = best {
            let index = &mut self.indexes[i];
            index.spared = index.spared.saturating_add(self.members.len() - tried);
        }
        found.retain(|&slot| self.members[slot].meets(&query));
        let in_vain = tried - found.len();
        if own.is_none() && in_vain > FEW {
            self.wish(query.kind, in_vain);
        }
        found
    }

    fn query(&self, matches: &Match) -> Query {
        let words = |key: &Key| -> Words { self.at.iter().map(|&i| key.words()[i as usize]).collect() };
        let mask = words(&matches.mask).iter().zip(&self.mask).map(|(q, m)| q & m).collect();
        let asked = comparisons(&matches.mask, [matches.src_range.is_some(), matches.dst_range.is_some()]);
        // Ports that both compare bit by bit are hashed. With ranges at both ends the second is left to the comparison.
        let meet = |&end: &usize| {
            let both = [asked[end], self.ends[end]];
            !both.contains(&Compares::Nothing) && both.contains(&Compares::Range)
        };
        let kind = Kind { mask, end: [1, 0].into_iter().find(meet) };
        Query { key: words(&matches.key), protocol: protocol(matches), ports: Ports::of(matches), kind }
    }

    /// Of the indexes that serve this query too, the one that leaves the fewest members to try.
    fn best(&self, query: &Query) -> Option<usize> {
        let (mut best, mut fewest) = (None, self.members.len());
        for (i, index) in self.indexes.iter().enumerate().filter(|(_, i)| i.kind.serves(&query.kind)) {
            let count = index.find(&self.hasher, query).take(fewest).count();
            if count < fewest {
                (best, fewest) = (Some(i), count);
            }
        }
        best
    }

    /// Queries of this kind have compared so many members in vain.
    fn wish(&mut self, kind: Kind, in_vain: usize) {
        let i = self.wishes.iter().position(|(k, _)| *k == kind).unwrap_or_else(|| {
            let least = |w: &[(Kind, usize)]| (0..w.len()).min_by_key(|&i| w[i].1);
            if let Some(i) = least(&self.wishes).filter(|_| self.wishes.len() == WISHES) {
                self.wishes.swap_remove(i);
            }
            self.wishes.push((kind, 0));
            self.wishes.len() - 1
        });
        self.wishes[i].1 += in_vain;
        if self.wishes[i].1 < self.members.len() * 3 / 4 {
            return;
        }
        if self.indexes.len() == INDEXES {
            let least = (0..INDEXES).min_by_key(|&i| self.indexes[i].spared).unwrap_or_default();
            // What was useful once need not be for ever.
            let spared = self.indexes[least].spared;
            self.indexes[least].spared /= 2;
            if spared > self.wishes[i].1 {
                return;
            }
            self.indexes.swap_remove(least);
        }
        let (kind, spared) = self.wishes.swap_remove(i);
        let index = Index::new(kind, spared, &self.hasher, &self.members);
        self.indexes.push(index);
    }
}

impl<T> Member<T> {
    fn meets(&self, query: &Query) -> bool {
        let words = self.key.iter().zip(&query.key).zip(&query.kind.mask);
        words.fold(0, |differ, ((a, b), mask)| differ | (a ^ b) & mask) == 0
            && agree(self.protocol, query.protocol)
            && self.ports.iter().zip(&query.ports).all(|(a, b)| a.meets(b))
    }
}

impl Kind {
    /// Whether an index of this kind serves queries of another: it must not tell apart what they do not.
    fn serves(&self, other: &Kind) -> bool {
        self.mask.iter().zip(&other.mask).all(|(mine, theirs)| mine & !theirs == 0)
    }

    fn hash(&self, hasher: &RandomState, key: &Words) -> u64 {
        let mut hash = hasher.build_hasher();
        key.iter().zip(&self.mask).for_each(|(word, mask)| hash.write_u64(word & mask));
        hash.finish()
    }
}

impl Index {
    fn new<T>(kind: Kind, spared: usize, hasher: &RandomState, members: &Slab<Member<T>>) -> Index {
        let hash = |m: &Member<T>| kind.hash(hasher, &m.key);
        let (by_hash, by_low) = match kind.end {
            None => (members.iter().map(|(slot, m)| (hash(m), slot)).collect(), BTreeSet::new()),
            Some(end) => {
                let spans = || members.iter().map(|(slot, m)| (slot, hash(m), m.ports[end].span()));
                let of = |(slot, hash, span)| blocks(span).map(move |b| (with_block(hasher, hash, b), slot));
                (spans().flat_map(of).collect(), spans().map(|(slot, hash, span)| (hash, span.min, slot)).collect())
            }
        };
        Index { kind, by_hash, by_low, spared }
    }

    fn insert(&mut self, hasher: &RandomState, slot: usize, key: &Words, ports: &[Ports; 2]) {
        let hash = self.kind.hash(hasher, key);
        let Some(end) = self.kind.end else {
            self.by_hash.insert((hash, slot));
            return;
        };
        for block in blocks(ports[end].span()) {
            self.by_hash.insert((with_block(hasher, hash, block), slot));
        }
        self.by_low.insert((hash, ports[end].span().min, slot));
    }

    fn remove(&mut self, hasher: &RandomState, slot: usize, key: &Words, ports: &[Ports; 2]) {
        let hash = self.kind.hash(hasher, key);
        let Some(end) = self.kind.end else {
            self.by_hash.remove(&(hash, slot));
            return;
        };
        for block in blocks(ports[end].span()) {
            self.by_hash.remove(&(with_block(hasher, hash, block), slot));
        }
        self.by_low.remove(&(hash, ports[end].span().min, slot));
    }

    /// The members that a query of this kind, or of one that this serves, may overlap: all that it does, each once.
    fn find<'a>(&'a self, hasher: &'a RandomState, query: &Query) -> impl Iterator<Item = usize> + use<'a> {
        let hash = self.kind.hash(hasher, &query.key);
        let Range { min, max } = self.kind.end.map_or(ALL, |end| query.ports[end].span());
        // None: no block at all, the hash alone.
        let sizes = match self.kind.end {
            None => 0..1,
            Some(_) if min > max => 0..0,
            Some(_) => 0..17,
        };
        let ended = self.kind.end.is_some();
        let first = sizes.flat_map(move |bits| {
            let hash = if ended { with_block(hasher, hash, (bits, u32::from(min) >> bits)) } else { hash };
            self.by_hash.range((hash, 0)..=(hash, usize::MAX)).map(|&(_, slot)| slot)
        });
        let behind = (ended && min < max).then(|| self.by_low.range((hash, min + 1, 0)..=(hash, max, usize::MAX)));
        first.chain(behind.into_iter().flatten().map(|&(_, _, slot)| slot))
    }
}

/// How a filter compares the ports of one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compares {
    Nothing,
    Bits,
    Range,
}

fn comparisons(mask: &Key, ranges: [bool; 2]) -> [Compares; 2] {
    std::array::from_fn(|end| match (ranges[end], mask.get(PORTS[end])) {
        (true, _) => Compares::Range,
        (false, 0) => Compares::Nothing,
        (false, _) => Compares::Bits,
    })
}

/// The aligned blocks of ports that make up a range, each as the number of bits that are free in it and the value of the others.
fn blocks(range: Range) -> impl Iterator<Item = (u32, u32)> {
    let (mut at, end) = (u32::from(range.min), u32::from(range.max) + 1);
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let bits = at.trailing_zeros().min((end - at).ilog2()).min(16);
        let block = (bits, at >> bits);
        at += 1 << bits;
        Some(block)
    })
}

fn with_block(hasher: &RandomState, hash: u64, (bits, value): (u32, u32)) -> u64 {
    let mut with = hasher.build_hasher();
    with.write_u64(hash);
    with.write_u32(bits);
    with.write_u32(value);
    with.finish()
}

const ALL: Range = Range { min: 0, max: u16::MAX };

/// What is asked of the ports of one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    key: u16,
    mask: u16,
    range: Option<Range>,
}

impl Ports {
    fn of(matches: &Match) -> [Ports; 2] {
        std::array::from_fn(|end| {
            let (key, mask) = (matches.key.get(PORTS[end]) as u16, matches.mask.get(PORTS[end]) as u16);
            Ports { key, mask, range: [matches.src_range, matches.dst_range][end] }
        })
    }

    /// From the lowest port that may match to the highest. Empty, `max` below `min`, if none does.
    fn span(&self) -> Range {
        let range = self.range.unwrap_or(ALL);
        Range { min: range.min.max(self.key & self.mask), max: range.max.min(self.key | !self.mask) }
    }

    /// Whether a port can be both, where the bits that both compare agree.
    fn meets(&self, other: &Ports) -> bool {
        let range = match (self.range, other.range) {
            (Some(a), Some(b)) => a.both(b),
            (Some(range), None) | (None, Some(range)) => Some(range),
            (None, None) => return true,
        };
        range.is_some_and(|r| r.meets(self.mask | other.mask, self.key | other.key))
    }
}

/// The filter's own protocol, as value and mask.
fn protocol(matches: &Match) -> (u16, u16) {
    (matches.key.get(Field::Protocol) as u16, matches.mask.get(Field::Protocol) as u16)
}

fn agree(a: (u16, u16), b: (u16, u16)) -> bool {
    (a.0 ^ b.0) & a.1 & b.1 == 0
}

/// Whether a packet could match both, by bits and port ranges.
pub fn overlap(a: &Match, b: &Match) -> bool {
    a.both(b).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PROTO: Field = Field::IpProto;

    /// A match that compares bits of few fields, so that many overlap and as many do not.
    fn matches() -> impl Strategy<Value = Match> {
        let bits = prop::sample::select(vec![0u128, 0, 0xff, 0x0f, 0xf0, 0x3f]);
        let range = prop::option::weighted(0.3, (0u16..300, 0u16..60));
        let port = prop::sample::select(vec![0u128, 0, 0xffff, 0xfff0]);
        let end = (port, 0u128..300, range);
        (bits.clone(), bits, any::<[u8; 2]>(), end.clone(), end).prop_map(|(tos, dst, values, a, b)| {
            let m =
                Match::default().with(Field::IpTos, values[0].into(), tos).with(Field::Ipv4Dst, values[1].into(), dst);
            let m = m.with(PROTO, 6, 0xff).with(Field::SrcPort, a.1, a.0).with(Field::DstPort, b.1, b.0);
            let range = |(min, wide)| if wide == 59 { ALL } else { Range { min, max: min + wide } };
            Match { src_range: a.2.map(range), dst_range: b.2.map(range), ..m }
        })
    }

    /// Another filter of the same mask.
    fn like(m: &Match, with: &Match, protocol: bool) -> Match {
        let mut out = Match { mask: m.mask, ..*with };
        out.key = with.key.and(&m.mask);
        out.src_range = m.src_range.and(with.src_range.or(m.src_range));
        out.dst_range = m.dst_range.and(with.dst_range.or(m.dst_range));
        if protocol { out.exact(Field::Protocol, 0x800) } else { out }
    }

    fn found(bin: &mut Bin<usize>, query: &Match) -> Vec<usize> {
        let mut found: Vec<usize> = bin.overlapping(query).into_iter().map(|slot| *bin.get(slot)).collect();
        found.sort_unstable();
        found
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_scan_finds(
            shape in matches(),
            filters in prop::collection::vec((matches(), prop::bool::weighted(0.9)), 1..150),
            queries in prop::collection::vec(matches(), 4..40),
            steps in prop::collection::vec((any::<u8>(), any::<u8>()), 0..200),
        ) {
            let filters: Vec<Match> = filters.iter().map(|(m, protocol)| like(&shape, m, *protocol)).collect();
            let queries: Vec<Match> = queries.iter().zip([false, true, true].iter().cycle()).map(|(q, protocol)| {
                if *protocol { q.exact(Field::Protocol, 0x800) } else { q.exact(Field::Protocol, 0x86dd) }
            }).collect();
            let mut bin = Bin::new(&shape.mask, [shape.src_range.is_some(), shape.dst_range.is_some()]);
            let mut slots: Vec<Option<usize>> = (0..filters.len()).map(|i| Some(bin.insert(&filters[i], i))).collect();
            for (what, which) in steps {
                let i = which as usize % filters.len();
                match (what % 4, slots[i]) {
                    (0, Some(slot)) => {
                        prop_assert_eq!(bin.remove(slot), i);
                        slots[i] = None;
                    }
                    (0, None) => slots[i] = Some(bin.insert(&filters[i], i)),
                    _ => {
                        let query = &queries[which as usize % queries.len()];
                        let scan: Vec<usize> =
                            (0..filters.len()).filter(|&i| slots[i].is_some() && overlap(&filters[i], query)).collect();
                        prop_assert_eq!(found(&mut bin, query), scan);
                    }
                }
                prop_assert!(bin.indexes.len() <= INDEXES && bin.wishes.len() <= WISHES);
            }
        }

        #[test]
        fn what_a_packet_matches_both_of_overlaps(a in matches(), b in matches(), packet in matches()) {
            // A packet that matches the first, and perhaps the second.
            let mut key = packet.key;
            for (field, value, mask) in a.terms() {
                key.set(field, key.get(field) & !mask | value);
            }
            for (field, Range { min, max }) in a.ranges().filter(|(f, _)| a.mask.get(*f) == 0) {
                key.set(field, u128::from(min + key.get(field) as u16 % (max - min).saturating_add(1)));
            }
            prop_assert!(!a.fits(&key) || !b.fits(&key) || overlap(&a, &b), "{key:?}");
            prop_assert_eq!(overlap(&a, &b), overlap(&b, &a));
        }

        #[test]
        fn blocks_make_up_their_range(min in any::<u16>(), wide in any::<u16>()) {
            let range = Range { min, max: min.saturating_add(wide) };
            let mut next = u32::from(range.min);
            for (bits, value) in blocks(range) {
                prop_assert_eq!(value << bits, next);
                next += 1 << bits;
            }
            prop_assert_eq!(next, u32::from(range.max) + 1);
            prop_assert!(blocks(range).count() <= 30);
        }
    }

    #[test]
    fn no_query_tries_all_twice() {
        let to = |n: u32, port: u16| {
            Match { dst_range: Some(Range { min: port, max: port + 9 }), ..Match::default() }
                .exact(PROTO, 6)
                .exact(Field::Ipv4Dst, n.into())
        };
        let shape = to(0, 0);
        let mut bin = Bin::new(&shape.mask, [false, true]);
        let slots: Vec<usize> = (0..1000u32).map(|n| bin.insert(&to(n, n as u16 % 50 * 10), n as usize)).collect();
        // By address, by a part of it, and by port alone, exact and not.
        let port = Match::default().exact(Field::DstPort, 333);
        let queries = [
            (Match::default().exact(Field::Ipv4Dst, 77), 1),
            (Match::default().with(Field::Ipv4Dst, 0x80, 0x3c0), 64),
            (port, 20),
            (Match { dst_range: Some(Range { min: 330, max: 349 }), ..Match::default() }, 40),
            (port.exact(Field::Ipv4Dst, 33), 1),
            (Match::default().exact(PROTO, 17), 0),
        ];
        for (query, hits) in queries {
            assert_eq!(found(&mut bin, &query).len(), hits, "{query:?}");
            let query = bin.query(&query);
            let index = bin.best(&query).expect("an index was built");
            assert_eq!(bin.indexes[index].find(&bin.hasher, &query).count(), hits, "{:?}", query.kind);
        }
        // More kinds than there may be indexes: those that there are stay right, and few; and what comes often gets its own.
        for i in 0..120u32 {
            let (a, b) = (i % 10, i / 10 % 4);
            let query = Match::default().with(Field::Ipv4Dst, 0, (1 << a) | 1 << (a + 1 + b));
            let is_0 = |n: &u32| n & (1 << a | 1 << (a + 1 + b)) == 0;
            assert_eq!(found(&mut bin, &query).len(), (0..1000).filter(is_0).count());
        }
        assert_eq!(bin.indexes.len(), INDEXES);
        let often = Match::default().with(Field::Ipv4Dst, 0, 0x249);
        for _ in 0..40 {
            assert_eq!(found(&mut bin, &often).len(), (0..1000).filter(|n| n & 0x249 == 0).count());
        }
        let kind = bin.query(&often).kind;
        assert!(bin.indexes.iter().any(|i| i.kind == kind));
        for slot in slots {
            bin.remove(slot);
        }
        assert!(bin.protocols.is_empty() && bin.indexes.iter().all(|i| i.by_hash.is_empty() && i.by_low.is_empty()));
    }
}
