//! The baseline: merging without walks, the eager way that a shipped driver takes.
//!
//! All first filters (chain 0, with `ct`), all last filters and all connections are kept. Each pair of a first and a last filter is
//! tested once: can a packet that the first lets on be one that the last takes? Then each connection is tested against each
//! pair, and each that fits is a merged filter, packets or none:
//!
//! ```text
//! first filter ─┐
//!               ├─ pair ─┐
//! last filter ──┘        ├─ merged filter ──► hardware
//! connection ────────────┘
//! ```
//!
//! So what a connection costs grows with the product of the filters, and what a filter costs with the connections. Nothing
//! is recorded in the datapath: that is what it has over walks. It knows neither shadows, nor more than one `ct`, nor more than two
//! filters, nor what must go on through conntrack.
//!
//! It is written over the library's own data types, and as one would for use: what a pair has in common is worked out once, tests end at
//! the first difference, lists give up a member in constant time, and nothing is copied that is not kept.

mod compatible;

use compatible::{Behind, Tested, translation};
use flowmerge::{
    conntrack::{Connection, ConnectionId, Direction, Tuple},
    flower::{Action, ActionKind, Control, Cookie, Counters, Filter, Match},
};
use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;

type Map<K, V> = hashbrown::HashMap<K, V, RandomState>;

/// The hardware, as far as this needs it.
pub trait Sink {
    /// A merged filter goes in.
    fn install(&mut self, id: u64, matches: &Match, actions: &[Action]);
    /// It comes out; what it has counted since it went in.
    fn remove(&mut self, id: u64) -> Counters;
    /// What it has counted since it went in.
    fn read(&mut self, id: u64) -> Counters;
}

/// One direction of a connection, as a flow table hands it to the driver.
type EntryKey = (ConnectionId, Direction);

#[derive(Debug)]
struct Parent {
    filter: Filter,
    pairs: Vec<usize>,
    counters: Counters,
}

/// A first and a last filter that packets may pass one after the other.
#[derive(Debug)]
struct Pair {
    first: Cookie,
    last: Cookie,
    zone: u16,
    /// Where it stands among the zone's pairs.
    place: usize,
    tested: Tested,
    merged: Vec<usize>,
}

/// One direction of a connection.
#[derive(Debug)]
struct Entry {
    key: EntryKey,
    zone: u16,
    tuple: Tuple,
    translated: Tuple,
    mark: u32,
    labels: u128,
    merged: SmallVec<[usize; 2]>,
}

#[derive(Debug)]
struct Merged {
    id: u64,
    pair: usize,
    entry: usize,
    /// Where it stands among the pair's.
    place: usize,
    /// Kept as installed, as the driver does: hardware that is reset gets them again.
    matches: Match,
    actions: Vec<Action>,
    read: Counters,
}

#[derive(Debug, Default)]
struct Zone {
    pairs: Vec<usize>,
    entries: Map<EntryKey, usize>,
}

/// The eager merger.
#[derive(Debug)]
pub struct Eager<S> {
    /// The hardware.
    pub sink: S,
    firsts: Map<Cookie, Parent>,
    lasts: Map<Cookie, Parent>,
    zones: Map<u16, Zone>,
    pairs: Slab<Pair>,
    entries: Slab<Entry>,
    /// Each on its own, since a million of them in one piece would be moved whenever it grows.
    merged: Slab<Box<Merged>>,
    /// What is made already, by its parents: conntrack tells of a connection more than once.
    by_parents: Map<(Cookie, Cookie, EntryKey), usize>,
    ids: u64,
}

impl<S: Sink> Eager<S> {
    /// One that knows nothing yet.
    pub fn new(sink: S) -> Eager<S> {
        Eager {
            sink,
            firsts: Map::default(),
            lasts: Map::default(),
            zones: Map::default(),
            pairs: Slab::new(),
            entries: Slab::new(),
            merged: Slab::new(),
            by_parents: Map::default(),
            ids: 0,
        }
    }

    /// A filter, new or in place of one of the same cookie. Whether it is one of those that can be merged: the first of a pipeline
    /// or the last.
    pub fn filter(&mut self, cookie: Cookie, filter: Filter) -> bool {
        self.destroy(cookie);
        let parent = Parent { filter, pairs: Vec::new(), counters: Counters::default() };
        let (first, cookies): (bool, Vec<Cookie>) = match role(&parent.filter) {
            None => return false,
            Some(Role::First) => (true, self.lasts.keys().copied().collect()),
            Some(Role::Last) => (false, self.firsts.keys().copied().collect()),
        };
        if first { &mut self.firsts } else { &mut self.lasts }.insert(cookie, parent);
        for other in cookies {
            if first { self.pair(cookie, other) } else { self.pair(other, cookie) }
        }
        true
    }

    /// Tests a pair, and the connections against it.
    fn pair(&mut self, first: Cookie, last: Cookie) {
        let (Some(f), Some(l)) = (self.firsts.get_mut(&first), self.lasts.get_mut(&last)) else { return };
        let Some((zone, tested)) = compatible::pair(&f.filter, &l.filter) else { return };
        let in_zone = self.zones.entry(zone).or_default();
        let place = in_zone.pairs.len();
        let pair = self.pairs.insert(Pair { first, last, zone, place, tested, merged: Vec::new() });
        in_zone.pairs.push(pair);
        f.pairs.push(pair);
        l.pairs.push(pair);
        let entries: Vec<usize> = in_zone.entries.values().copied().collect();
        for entry in entries {
            self.merge(pair, entry);
        }
    }

    /// One direction of an established connection, new or told again.
    pub fn connection(&mut self, id: ConnectionId, direction: Direction, connection: &Connection) {
        let key = (id, direction);
        let entry = Entry {
            key,
            zone: connection.zone,
            tuple: connection.tuple(direction),
            translated: connection.translated(direction),
            mark: connection.mark,
            labels: connection.labels,
            merged: SmallVec::new(),
        };
        let old = self.zones.get(&entry.zone).and_then(|z| z.entries.get(&key)).copied();
        let place = match old {
            Some(old) if self.entries[old].is_still(&entry) => old,
            _ => {
                self.gone(id, direction, entry.zone);
                let zone = entry.zone;
                let place = self.entries.insert(entry);
                self.zones.entry(zone).or_default().entries.insert(key, place);
                place
            }
        };
        let zone = self.entries[place].zone;
        for at in 0..self.zones[&zone].pairs.len() {
            self.merge(self.zones[&zone].pairs[at], place);
        }
    }

    /// Makes the merged filter of a pair and a connection, if they fit.
    fn merge(&mut self, pair: usize, entry: usize) {
        let (p, e) = (&self.pairs[pair], &self.entries[entry]);
        let behind =
            Behind { tuple: &e.translated, reply: e.key.1 == Direction::Reply, mark: e.mark, labels: e.labels };
        if !p.tested.fits(&e.tuple, &behind) {
            return;
        }
        let hashbrown::hash_map::Entry::Vacant(vacant) = self.by_parents.entry((p.first, p.last, e.key)) else {
            return;
        };
        let matches = p.tested.with(&e.tuple);
        let mut actions = Vec::with_capacity(p.tested.before.len() + p.tested.behind.len() + 1);
        actions.extend_from_slice(&p.tested.before);
        actions.extend(p.tested.nat.then(|| translation(&e.tuple, &e.translated)).flatten());
        actions.extend_from_slice(&p.tested.behind);
        self.ids += 1;
        self.sink.install(self.ids, &matches, &actions);
        let place = p.merged.len();
        let read = Counters::default();
        let made = self.merged.insert(Box::new(Merged { id: self.ids, pair, entry, place, matches, actions, read }));
        vacant.insert(made);
        self.pairs[pair].merged.push(made);
        self.entries[entry].merged.push(made);
    }

    /// One direction of a connection is gone, and what was made of it.
    pub fn gone(&mut self, id: ConnectionId, direction: Direction, zone: u16) {
        let Some(place) = self.zones.get_mut(&zone).and_then(|z| z.entries.remove(&(id, direction))) else { return };
        for merged in std::mem::take(&mut self.entries[place].merged) {
            self.remove(merged);
        }
        self.entries.remove(place);
    }

    /// A filter is gone, and what was made of it. What it had been handed, if it was known.
    pub fn destroy(&mut self, cookie: Cookie) -> Option<Counters> {
        let pairs = self.firsts.get(&cookie).or_else(|| self.lasts.get(&cookie))?.pairs.clone();
        for pair in pairs {
            self.part(pair, cookie);
        }
        self.firsts.remove(&cookie).or_else(|| self.lasts.remove(&cookie)).map(|parent| parent.counters)
    }

    /// Takes a pair apart, since one of its filters goes.
    fn part(&mut self, pair: usize, goes: Cookie) {
        while let Some(&merged) = self.pairs[pair].merged.last() {
            self.remove(merged);
        }
        let gone = self.pairs.remove(pair);
        if let Some(zone) = self.zones.get_mut(&gone.zone) {
            zone.pairs.swap_remove(gone.place);
            if let Some(&moved) = zone.pairs.get(gone.place) {
                self.pairs[moved].place = gone.place;
            }
        }
        let stays = if gone.first == goes { self.lasts.get_mut(&gone.last) } else { self.firsts.get_mut(&gone.first) };
        if let Some(stays) = stays {
            stays.pairs.retain(|&p| p != pair);
        }
    }

    /// Takes a merged filter out: of hardware, its last reading to its parents, then out of every list.
    fn remove(&mut self, merged: usize) {
        let gone = self.merged.remove(merged);
        let reading = self.sink.remove(gone.id);
        let pair = &mut self.pairs[gone.pair];
        hand(&mut self.firsts, &mut self.lasts, pair, gone.read, reading);
        pair.merged.swap_remove(gone.place);
        if let Some(&moved) = pair.merged.get(gone.place) {
            self.merged[moved].place = gone.place;
        }
        let entry = &mut self.entries[gone.entry];
        entry.merged.retain(|m| *m != merged);
        self.by_parents.remove(&(pair.first, pair.last, entry.key));
    }

    /// Reads all merged filters, and hands what they have counted to their filters.
    pub fn read_all(&mut self) {
        for (_, pair) in &self.pairs {
            for &merged in &pair.merged {
                let merged = &mut self.merged[merged];
                let reading = self.sink.read(merged.id);
                hand(&mut self.firsts, &mut self.lasts, pair, merged.read, reading);
                merged.read = reading;
            }
        }
    }

    /// What a filter was handed.
    pub fn counters(&self, cookie: Cookie) -> Option<Counters> {
        self.firsts.get(&cookie).or_else(|| self.lasts.get(&cookie)).map(|parent| parent.counters)
    }

    /// How many merged filters there are.
    pub fn merged(&self) -> usize {
        self.merged.len()
    }

    /// The merged filters: match and actions.
    pub fn all(&self) -> impl Iterator<Item = (&Match, &[Action])> {
        self.merged.iter().map(|(_, m)| (&m.matches, &m.actions[..]))
    }
}

impl Entry {
    /// Whether what was made of it holds for what the connection is now.
    fn is_still(&self, now: &Entry) -> bool {
        (self.tuple, self.translated, self.mark, self.labels) == (now.tuple, now.translated, now.mark, now.labels)
    }
}

enum Role {
    First,
    Last,
}

/// Whether a filter begins a pipeline, with a `ct` and on to another chain, or ends one behind a `ct`.
fn role(filter: &Filter) -> Option<Role> {
    let cts = filter.actions.iter().filter(|a| matches!(a.kind, ActionKind::Ct(_))).count();
    let control = filter.actions.last()?.control;
    match (filter.id.chain, cts, control) {
        (0, 1, Control::Goto(_)) => Some(Role::First),
        (0, ..) => None,
        (_, 0, Control::Shot | Control::Stolen | Control::Trap | Control::Ok) => Some(Role::Last),
        _ => None,
    }
}

/// Hands both filters of a pair what was counted between two readings.
fn hand(
    firsts: &mut Map<Cookie, Parent>,
    lasts: &mut Map<Cookie, Parent>,
    pair: &Pair,
    before: Counters,
    now: Counters,
) {
    let counted =
        Counters { packets: now.packets - before.packets, bytes: now.bytes - before.bytes, last_used: now.last_used };
    if counted.packets == 0 {
        return;
    }
    for parent in [firsts.get_mut(&pair.first), lasts.get_mut(&pair.last)].into_iter().flatten() {
        parent.counters.add(counted);
    }
}

#[cfg(test)]
mod tests;
