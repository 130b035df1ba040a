//! What the datapath writes while a packet walks: fixed in size, no look-up, nothing that could fail.
//!
//! A [`Record`] stands on the caller's stack and borrows the arrived packet's key. Telling it of a hit is one store. What does not
//! fit is counted and not kept: such a walk is [too long](Steps::too_long), and no more becomes of it than a number.

use super::{Found, Hit, Walk};
use crate::{
    conntrack::{ConnectionHandle, ConnectionId, Direction},
    flower::{Cookie, Key, Port},
};

/// Hits that a record has room for.
pub const HITS: usize = 16;
/// `ct` actions that a record has room for.
pub const FOUND: usize = 16;
/// Different connections that a record has room for.
pub const CONNECTIONS: usize = 4;

/// The walk of one packet, while it is on its way. Dropping it abandons the walk.
#[derive(Clone, Debug)]
pub struct Record<'k> {
    /// The port the packet came in on.
    pub port: Port,
    /// The packet as it arrived, before any action.
    pub key: &'k Key,
    pub(crate) steps: Steps,
}

impl<'k> Record<'k> {
    /// Begins a walk. `epoch`: how many filters had been entered until then.
    #[inline]
    pub fn new(port: Port, key: &'k Key, epoch: u64) -> Record<'k> {
        Record { port, key, steps: Steps { epoch, ..Steps::default() } }
    }

    /// The packet matched this filter.
    #[inline]
    pub fn hit(&mut self, filter: Cookie) {
        self.steps.hit(filter);
    }

    /// The next `ct` action of the last filter hit found this connection, the packet going in this direction; `None` where there is no
    /// confirmed connection (new, invalid, cleared).
    #[inline]
    pub fn found(&mut self, connection: Option<ConnectionHandle>, direction: Direction) {
        self.steps.found(connection, direction);
    }

    /// What was recorded.
    #[inline]
    pub fn steps(&self) -> &Steps {
        &self.steps
    }
}

/// A walk that was recorded, with a key of its own.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The port the packet came in on.
    pub port: Port,
    /// The packet as it arrived, before any action.
    pub key: Key,
    pub(crate) steps: Steps,
}

impl Default for Recorded {
    fn default() -> Recorded {
        Recorded { port: Port(0), key: Key::ZERO, steps: Steps::default() }
    }
}

impl Recorded {
    /// Begins another walk in place of this one.
    #[inline]
    pub(crate) fn begin(&mut self, port: Port, key: &Key, epoch: u64) {
        self.port = port;
        self.key = *key;
        self.steps.clear();
        self.steps.epoch = epoch;
    }

    /// What was recorded.
    #[inline]
    pub fn steps(&self) -> &Steps {
        &self.steps
    }

    /// The walk, with the caller's names for its connections.
    pub fn walk(&self, name: impl Fn(ConnectionHandle) -> ConnectionId) -> Walk {
        let found = |found: Option<(ConnectionHandle, Direction)>| {
            found.map(|(connection, direction)| Found { connection: name(connection), direction })
        };
        let hits = self.steps.hits().map(|(filter, of_hit)| Hit { filter, found: of_hit.map(found).collect() });
        Walk { port: self.port, key: self.key, hits: hits.collect() }
    }
}

/// The hits of a walk and what was found on it, packed.
#[derive(Clone, Debug)]
pub struct Steps {
    epoch: u64,
    /// Also those that there is no room for.
    hits: usize,
    connections: u32,
    /// More was found than there is room for.
    too_long: bool,
    findings: Findings,
    filters: [Cookie; HITS],
    met: [Option<ConnectionHandle>; CONNECTIONS],
}

impl Default for Steps {
    #[inline]
    fn default() -> Steps {
        Steps {
            epoch: 0,
            hits: 0,
            connections: 0,
            too_long: false,
            findings: Findings::default(),
            filters: [Cookie(0); HITS],
            met: [None; CONNECTIONS],
        }
    }
}

/// What the `ct` actions of a walk found, a byte each: the number of the hit in the low four bits, then one more than the number of the
/// connection among the walk's (0: none), and at the top the direction. In words, so that they are compared as such, and so that what is
/// written is not read as something wider: processors take long over that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    count: u32,
    /// Those that are not there are 0.
    words: [u64; FOUND / 8],
}

const REPLY: u8 = 0x80;
const WHICH: u32 = 4;

impl Findings {
    /// What the next `ct` action found, of hit number `hit`: which of the walk's connections, in which direction. Whether there was room.
    #[inline]
    pub(crate) fn push(&mut self, hit: u32, found: Option<(usize, Direction)>) -> bool {
        let hit = hit as u8 & 0xf;
        let byte = match found {
            None => hit,
            Some((index, Direction::Original)) => hit | (index as u8 + 1) << WHICH,
            Some((index, Direction::Reply)) => hit | (index as u8 + 1) << WHICH | REPLY,
        };
        let room = self.words.get_mut(self.count as usize / 8);
        let is_there = room.is_some();
        if let Some(word) = room {
            *word |= u64::from(byte) << (self.count % 8 * 8);
            self.count += 1;
        }
        is_there
    }

    /// Findings of these words, of which so many are there.
    #[inline]
    pub(crate) fn from_words(words: [u64; FOUND / 8], count: usize) -> Findings {
        Findings { count: count.min(FOUND) as u32, words }
    }

    #[inline]
    pub(crate) fn words(&self) -> &[u64; FOUND / 8] {
        &self.words
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.count as usize
    }

    /// The first that is of a connection.
    #[inline]
    fn first_found(&self) -> Option<u8> {
        const OF_ONE: u64 = u64::from_ne_bytes([!0xf; 8]);
        let word = self.words.iter().find(|&word| word & OF_ONE != 0)?;
        Some((word >> ((word & OF_ONE).trailing_zeros() & !7)) as u8)
    }

    #[inline]
    fn bytes(&self) -> impl Iterator<Item = u8> + '_ {
        (0..self.count).map(|n| (self.words[n as usize / 8] >> (n % 8 * 8)) as u8)
    }
}

impl Steps {
    /// Forgets all of it.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.hits = 0;
        self.connections = 0;
        self.met[0] = None;
        self.too_long = false;
        self.findings = Findings::default();
    }

    #[inline]
    pub(crate) fn hit(&mut self, filter: Cookie) {
        // No question whether there is room: that is asked when the walk ends. And a store that cannot reach the number, so that
        // the next hit need not wait for it to come back from memory.
        self.filters[self.hits % HITS] = filter;
        self.hits += 1;
    }

    #[inline]
    pub(crate) fn found(&mut self, connection: Option<ConnectionHandle>, direction: Direction) {
        let found = connection.map(|connection| (self.index(connection), direction));
        // Found before any hit, it is of none.
        let hit = self.hits.checked_sub(1);
        let recorded = hit.is_some_and(|hit| self.findings.push(hit as u32, found));
        self.too_long |= !recorded;
    }

    /// Which of the walk's connections this is; it becomes one.
    #[inline]
    fn index(&mut self, connection: ConnectionHandle) -> usize {
        // Most walks meet one, perhaps several times.
        if self.met[0] == Some(connection) {
            return 0;
        }
        if self.connections == 0 {
            self.met[0] = Some(connection);
            self.connections = 1;
            return 0;
        }
        self.index_of_many(connection)
    }

    #[inline(never)]
    fn index_of_many(&mut self, connection: ConnectionHandle) -> usize {
        let known = self.connections as usize;
        if let Some(index) = self.met.iter().take(known).position(|&c| c == Some(connection)) {
            return index;
        }
        match self.met.get_mut(known) {
            Some(slot) => {
                *slot = Some(connection);
                self.connections += 1;
            }
            None => self.too_long = true,
        }
        known
    }

    /// Whether more happened than there is room for.
    #[inline]
    pub fn too_long(&self) -> bool {
        self.too_long || self.hits > HITS
    }

    /// How many filters had been entered when the walk began: one entered later with a cookie of the walk is not what it hit.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The filters hit, in order; of a walk that is too long some of them.
    #[inline]
    pub fn filters(&self) -> &[Cookie] {
        &self.filters[..self.hits.min(HITS)]
    }

    /// The connections found, each once, in the order in which the walk met them.
    #[inline]
    pub fn connections(&self) -> impl Iterator<Item = ConnectionHandle> + '_ {
        self.met[..self.connections as usize].iter().copied().flatten()
    }

    /// The first connection found.
    #[inline]
    pub(crate) fn first(&self) -> Option<ConnectionHandle> {
        self.met[0]
    }

    /// How many connections there are.
    #[inline]
    pub(crate) fn connection_count(&self) -> usize {
        self.connections as usize
    }

    /// The `n`-th connection.
    #[inline]
    pub(crate) fn connection(&self, n: usize) -> Option<ConnectionHandle> {
        self.met.get(n).copied().flatten()
    }

    /// What the `ct` actions found.
    #[inline]
    pub(crate) fn findings(&self) -> &Findings {
        &self.findings
    }

    /// The direction of the packet in the first connection found.
    #[inline]
    pub(crate) fn first_direction(&self) -> Option<Direction> {
        self.findings.first_found().map(direction_of)
    }

    /// The filters hit, each with what its `ct` actions found, in order.
    pub fn hits(&self) -> impl Iterator<Item = (Cookie, impl Iterator<Item = Option<(ConnectionHandle, Direction)>>)> {
        self.filters().iter().enumerate().map(move |(hit, &filter)| {
            let of_hit = self.findings.bytes().filter(move |byte| usize::from(byte & 0xf) == hit);
            (filter, of_hit.map(|byte| self.found_of(byte)))
        })
    }

    /// What the `ct` actions found, in order, each with the number of its hit: which of the walk's connections, in which direction.
    #[inline]
    pub(crate) fn all_met(&self) -> impl Iterator<Item = (u32, Option<(u8, Direction)>)> {
        self.findings.bytes().map(|byte| {
            let which = (byte & !REPLY) >> WHICH;
            (u32::from(byte & 0xf), which.checked_sub(1).map(|index| (index, direction_of(byte))))
        })
    }

    /// What a byte stands for.
    fn found_of(&self, byte: u8) -> Option<(ConnectionHandle, Direction)> {
        let which = usize::from(byte & !REPLY & !0xf) >> WHICH;
        Some((self.connection(which.checked_sub(1)?)?, direction_of(byte)))
    }

    #[inline]
    pub(crate) fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// The filters hit, when steps are put together again.
    #[inline]
    pub(crate) fn set_filters(&mut self, filters: &[u64]) {
        self.hits = filters.len().min(HITS);
        self.filters.iter_mut().zip(filters).for_each(|(to, &filter)| *to = Cookie(filter));
    }

    /// The next connection that the walk meets, when steps are put together again.
    #[inline]
    pub(crate) fn meet(&mut self, connection: ConnectionHandle) {
        self.index(connection);
    }

    /// What the `ct` actions found, when steps are put together again.
    #[inline]
    pub(crate) fn set_findings(&mut self, findings: Findings) {
        self.findings = findings;
    }
}

#[inline]
fn direction_of(byte: u8) -> Direction {
    if byte & REPLY == 0 { Direction::Original } else { Direction::Reply }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Told = Vec<(u64, Vec<Option<(ConnectionHandle, Direction)>>)>;

    fn told(steps: &Steps) -> Told {
        steps.hits().map(|(filter, found)| (filter.0, found.collect())).collect()
    }

    fn handle(slot: u32) -> ConnectionHandle {
        ConnectionHandle::new(7, slot, 1).expect("in range")
    }

    #[test]
    fn what_is_told_comes_back() {
        let key = Key::ZERO;
        let mut record = Record::new(Port(3), &key, 0);
        let (a, b) = (handle(0), handle(1));
        record.hit(Cookie(10));
        record.found(Some(a), Direction::Reply);
        record.hit(Cookie(11));
        record.hit(Cookie(12));
        record.found(None, Direction::Original);
        record.found(Some(b), Direction::Original);
        record.found(Some(a), Direction::Original);
        let expected: Told = vec![
            (10, vec![Some((a, Direction::Reply))]),
            (11, vec![]),
            (12, vec![None, Some((b, Direction::Original)), Some((a, Direction::Original))]),
        ];
        assert_eq!(told(record.steps()), expected);
        assert_eq!(record.steps().connections().collect::<Vec<_>>(), [a, b]);
        assert_eq!(record.steps().first_direction(), Some(Direction::Reply));
        assert!(!record.steps().too_long());
    }

    #[test]
    fn what_has_no_room_makes_it_too_long_and_nothing_else() {
        let full = |hits: usize, founds: usize, connections: u32| {
            let mut steps = Steps::default();
            (0..hits).for_each(|n| steps.hit(Cookie(n as u64)));
            (0..founds).for_each(|n| steps.found(Some(handle(n as u32 % connections)), Direction::Original));
            steps
        };
        assert!(!full(HITS, FOUND, CONNECTIONS as u32).too_long());
        assert!(full(HITS + 1, FOUND, CONNECTIONS as u32).too_long());
        assert!(full(HITS, FOUND + 1, CONNECTIONS as u32).too_long());
        assert!(full(HITS, FOUND, CONNECTIONS as u32 + 1).too_long());
        assert!(full(1000, 1000, 1000).too_long());
        assert_eq!(full(1000, 1000, 1000).hits().count(), HITS);
        assert!(full(0, 1, 1).too_long(), "found by no hit");
        let mut steps = full(1000, 1000, 1000);
        steps.clear();
        assert_eq!((told(&steps), steps.too_long(), steps.first()), (vec![], false, None));
    }
}
