//! A way's key: what all walks of the way share, as a few words, so that each walk is looked up with a handful of comparisons.
//!
//! ```text
//! port, number of hits │ cookie of each filter hit … │ what each ct found …
//! ```
//!
//! What a `ct` found is a word: the number of its hit in the high half, a [`CtKey`] in the low one (0: no connection).

use crate::{
    conntrack::{Connection, Direction},
    flower::{Cookie, Match, Port},
    glance::{Decided, Verdict},
    merge,
};
use smallvec::SmallVec;

/// What a `ct` action of a way found, as far as all its walks share it, packed: which of the walk's connections, the packet's direction in
/// it, address family, IP protocol, and which of source address, destination address, source port and destination port `nat` changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CtKey(u32);

/// Set in each, so that none is 0.
const SOME: u32 = 1 << 4;
const PROTO: u32 = 8;
const INDEX: u32 = 16;
const IPV6: u32 = 1 << 24;
const REPLY: u32 = 1 << 25;

impl CtKey {
    /// What a packet of this direction finds in a connection, being the walk's first.
    pub fn of(connection: &Connection, direction: Direction) -> CtKey {
        let changes = merge::changes(connection, direction);
        let changes = changes.iter().fold(0, |bits, &changed| bits << 1 | u32::from(changed));
        let ipv6 = if connection.original.src.is_ipv6() { IPV6 } else { 0 };
        let reply = if direction == Direction::Reply { REPLY } else { 0 };
        CtKey(reply | ipv6 | u32::from(connection.original.proto) << PROTO | SOME | changes)
    }

    /// The same where the connection is this one of the walk's.
    pub fn at(self, index: u8) -> CtKey {
        CtKey(self.0 & !(0xff << INDEX) | u32::from(index) << INDEX)
    }

    fn index(self) -> u8 {
        (self.0 >> INDEX) as u8
    }

    fn direction(self) -> Direction {
        if self.0 & REPLY == 0 { Direction::Original } else { Direction::Reply }
    }
}

impl std::fmt::Debug for CtKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{:?}:{:#x}", self.index(), self.direction(), self.0 & 0xffff)
    }
}

/// What walks of one way share.
#[derive(Clone, PartialEq, Eq)]
pub struct WayKey(SmallVec<[u64; 8]>);

impl WayKey {
    /// Of these filters, in the order of the hits, at a port. What was found is told next.
    #[inline]
    pub fn new(port: Port, filters: &[Cookie]) -> WayKey {
        let mut words = SmallVec::new();
        words.push(u64::from(port.0) << 32 | filters.len() as u64);
        for cookie in filters {
            words.push(cookie.0);
        }
        WayKey(words)
    }

    /// What the next `ct` found, of this hit: `None` where there is no connection.
    #[inline]
    pub fn found(&mut self, hit: u32, found: Option<CtKey>) {
        self.0.push(u64::from(hit) << 32 | u64::from(found.map_or(0, |found| found.0)));
    }

    /// All of it.
    #[inline]
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    /// Where its packets come in.
    pub fn port(&self) -> Port {
        Port((self.0[0] >> 32) as u32)
    }

    fn hits(&self) -> usize {
        self.0[0] as u32 as usize
    }

    /// The filters, in the order of the hits.
    pub fn filters(&self) -> impl DoubleEndedIterator<Item = Cookie> + ExactSizeIterator {
        self.0[1..=self.hits()].iter().map(|&word| Cookie(word))
    }

    /// What each `ct` found, with the number of its hit.
    fn all_found(&self) -> impl Iterator<Item = (u32, Option<CtKey>)> {
        let found = self.0[1 + self.hits()..].iter();
        found.map(|&word| ((word >> 32) as u32, (word as u32 != 0).then_some(CtKey(word as u32))))
    }

    /// Whether both have the same port, as many hits, and find the same: they differ in their filters, if at all.
    pub fn is_like(&self, other: &WayKey) -> bool {
        self.0[0] == other.0[0] && self.0[1 + self.hits()..] == other.0[1 + other.hits()..]
    }

    /// Whether it meets a connection.
    pub fn meets(&self) -> bool {
        self.first_found().is_some()
    }

    /// The hits up to the first that found a connection.
    pub fn first_found(&self) -> Option<u8> {
        let (hit, _) = self.all_found().find(|(_, found)| found.is_some())?;
        u8::try_from(hit + 1).ok()
    }

    /// What a datapath compares to tell that a packet goes this way and has these bits.
    pub fn verdict(&self, matches: &Match, decided: Decided) -> Verdict {
        let mut verdict = Verdict::new(self.port(), decided);
        let mut all = self.all_found().peekable();
        for (hit, filter) in (0..).zip(self.filters()) {
            verdict.hit(filter);
            while let Some((_, found)) = all.next_if(|(of, _)| *of == hit) {
                verdict.found(found.map(|f| (usize::from(f.index()), f.direction())));
            }
        }
        verdict.compare(matches);
        verdict
    }
}

impl std::fmt::Debug for WayKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let found: Vec<_> = self.all_found().collect();
        write!(f, "{:?} {:?} {found:?}", self.port(), self.filters().collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::{Tuple, proto};

    fn connection() -> Connection {
        let host = |n| std::net::Ipv4Addr::new(10, 0, 0, n).into();
        let original = Tuple { src: host(1), dst: host(2), proto: proto::UDP, src_port: 1, dst_port: 2 };
        Connection::established(1, original, Tuple { dst: host(3), ..original.inverse() })
    }

    #[test]
    fn what_was_told_comes_back() {
        let of = |direction, index| CtKey::of(&connection(), direction).at(index);
        let [first, second] = [of(Direction::Reply, 1), of(Direction::Original, 200)];
        let mut key = WayKey::new(Port(u32::MAX), &[Cookie(u64::MAX), Cookie(0), Cookie(7)]);
        key.found(1, None);
        key.found(1, Some(first));
        key.found(2, Some(second));
        assert_eq!((key.port(), key.first_found()), (Port(u32::MAX), Some(2)));
        assert_eq!(key.filters().collect::<Vec<_>>(), [Cookie(u64::MAX), Cookie(0), Cookie(7)]);
        assert_eq!(key.all_found().collect::<Vec<_>>(), [(1, None), (1, Some(first)), (2, Some(second))]);
        assert_eq!((first.index(), first.direction()), (1, Direction::Reply));
        assert_eq!((second.index(), second.direction()), (200, Direction::Original));
    }

    #[test]
    fn connections_of_which_a_ct_finds_something_else_differ() {
        let own = CtKey::of(&connection(), Direction::Original);
        assert_ne!(own, CtKey::of(&connection(), Direction::Reply));
        assert_ne!(own, own.at(1));
        let with = |filters: &[Cookie], found| {
            let mut key = WayKey::new(Port(1), filters);
            key.found(0, found);
            key
        };
        assert!(with(&[Cookie(1)], Some(own)).is_like(&with(&[Cookie(2)], Some(own))));
        assert!(!with(&[Cookie(1)], Some(own)).is_like(&with(&[Cookie(1)], Some(own.at(1)))));
        assert!(!with(&[Cookie(1)], Some(own)).is_like(&with(&[Cookie(1), Cookie(2)], Some(own))));
        let plain = Connection { reply: connection().original.inverse(), ..connection() };
        assert_ne!(own, CtKey::of(&plain, Direction::Original));
        let mut key = WayKey::new(Port(1), &[Cookie(2)]);
        assert!(!key.meets());
        let mut none = key.clone();
        none.found(0, None);
        assert!(none != key && !none.meets());
        key.found(0, Some(own));
        assert!(none != key && key.meets());
    }
}
