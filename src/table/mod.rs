//! What is known and what was made of it: filters, connections, ways, paths, merged filters, and the links between parents
//! and what derives from them.
//!
//! ```text
//! filter ──< way ──< path ──< merged filter >── connection
//! ```
//!
//! A *way* is the list of filters with what each `ct` found (direction, protocol, which parts `nat` changes); its paths differ
//! by their cut. A cascade follows the links to the right: a filter takes its ways with it, a way its paths, a path its merged
//! filters; a connection takes its merged filters. Nothing here talks to the hardware: what must go is handed out, and what
//! is gone is told.

pub mod chain;
mod overlap;
mod stale;

pub use chain::{Chains, Inserted, Neighbour};
pub use overlap::overlap;
pub use stale::Shadowed;

use crate::{
    conntrack::{Connection, ConnectionId, Direction},
    flower::{Action, Cookie, Counters, Filter, FilterId, Match, Port},
    hardware::{MergedId, Reading},
    merge::{Parent, Path, Refusal, Refused, template::Template},
};
use hashbrown::{HashMap, HashSet};
use slab::Slab;
use smallvec::SmallVec;
use std::collections::BTreeSet;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The connections of a merged filter, in the order in which the way meets them.
pub type Connections = SmallVec<[ConnectionId; 2]>;

/// What a `ct` action of a way found, as far as all its walks share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CtKey {
    /// Which of the walk's connections.
    pub index: u8,
    /// The packet's direction in it.
    pub direction: Direction,
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// IP protocol.
    pub proto: u8,
    /// Which of source address, destination address, source port and destination port `nat` changes.
    pub changes: [bool; 4],
}

/// What walks of one way share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WayKey {
    /// Where their packets come in.
    pub port: Port,
    /// The filters, and what each `ct` that ran found.
    pub steps: Vec<(Cookie, SmallVec<[Option<CtKey>; 2]>)>,
}

/// A filter and what hangs on it.
#[derive(Clone, Debug)]
pub struct FilterEntry {
    /// The filter.
    pub filter: Filter,
    /// What its actions were given by merged filters.
    pub counters: Vec<Counters>,
    ways: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
struct Way {
    key: WayKey,
    paths: Vec<usize>,
    /// What was found out about packets that are not merged.
    refused: Vec<Refused>,
}

/// Most refusals that a way remembers; the oldest makes room.
const REFUSED: usize = 64;

#[derive(Clone, Debug)]
struct PathEntry {
    path: Path,
    /// How many of its conditions keep out shadows that came later.
    later: usize,
    way: usize,
    merged: Map<Connections, MergedId>,
}

#[derive(Clone, Debug)]
struct ConnectionEntry {
    connection: Connection,
    merged: HashSet<MergedId, foldhash::fast::RandomState>,
}

/// A merged filter that is in hardware.
#[derive(Clone, Debug)]
pub struct Merged {
    /// Its match, as installed.
    pub matches: Match,
    /// Its actions, as installed.
    pub actions: Vec<Action>,
    /// The connections it was filled in with.
    pub connections: Connections,
    /// What it has counted in all, as TC would have.
    pub counters: Counters,
    path: usize,
    last: Reading,
}

/// What a merged filter has counted since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// All its packets.
    pub all: Counters,
    /// Those that its policer passed on.
    pub passed: Counters,
}

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    filters: Map<Cookie, FilterEntry>,
    cookies: Map<FilterId, Cookie>,
    /// What filters had been given that were replaced and are not destroyed yet.
    retired: Map<Cookie, Vec<Counters>>,
    /// Order of classification.
    pub chains: Chains,
    connections: Map<ConnectionId, ConnectionEntry>,
    ways: Slab<Way>,
    way_of: Map<WayKey, usize>,
    /// Ways that remember a refusal because of a filter in front of theirs.
    refused_for: Map<FilterId, HashSet<usize, foldhash::fast::RandomState>>,
    /// Ways that remember a refusal and would send to a port, or into it.
    refused_at: Map<Port, BTreeSet<usize>>,
    paths: Slab<PathEntry>,
    /// The paths whose filters send to a port, or into it.
    senders: Map<Port, BTreeSet<usize>>,
    merged: Map<MergedId, Merged>,
}

/// A path of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathId(usize);

/// A way of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WayId(usize);

impl Table {
    /// The filter with this cookie.
    pub fn filter(&self, cookie: Cookie) -> Option<&FilterEntry> {
        self.filters.get(&cookie)
    }

    /// All filters.
    pub fn filters(&self) -> impl Iterator<Item = (Cookie, &FilterEntry)> {
        self.filters.iter().map(|(&c, e)| (c, e))
    }

    /// The filter of this identity.
    pub fn cookie(&self, id: FilterId) -> Option<Cookie> {
        self.cookies.get(&id).copied()
    }

    /// Puts a filter in. What derived from one of this cookie, or from the one it replaces, must be gone. Gives the other filters
    /// whose place among each other that changes ([`Chains::insert`]).
    pub fn insert_filter(
        &mut self,
        cookie: Cookie,
        filter: Filter,
        inserted: Inserted,
        instead: Option<Cookie>,
    ) -> Vec<Cookie> {
        let reordered = self.chains.insert(cookie, &filter, inserted, instead);
        let counters = vec![Counters::default(); filter.actions.len()];
        self.retired.remove(&cookie);
        self.cookies.insert(filter.id, cookie);
        self.filters.insert(cookie, FilterEntry { filter, counters, ways: BTreeSet::new() });
        reordered
    }

    /// Takes a filter out, with its ways. Their merged filters must be gone. `keep_place` leaves its place in the order of
    /// classification to a successor.
    pub fn remove_filter(&mut self, cookie: Cookie, keep_place: bool) -> Option<FilterEntry> {
        let ways = self.filters.get_mut(&cookie).map(|e| std::mem::take(&mut e.ways))?;
        for way in ways {
            self.remove_way(way);
        }
        let entry = self.filters.remove(&cookie)?;
        self.forgive(entry.filter.id);
        if self.cookie(entry.filter.id) == Some(cookie) {
            self.cookies.remove(&entry.filter.id);
        }
        if !keep_place {
            self.chains.remove(cookie);
        }
        Some(entry)
    }

    /// Keeps what a filter had been given that another replaced, until TC destroys it.
    pub fn retire(&mut self, cookie: Cookie, counters: Vec<Counters>) {
        self.retired.insert(cookie, counters);
    }

    /// A filter that was put in again has what it had been given before.
    pub fn restore(&mut self, cookie: Cookie, counters: Vec<Counters>) {
        if let Some(entry) = self.filters.get_mut(&cookie) {
            entry.counters = counters;
        }
    }

    /// What a retired filter had been given, once.
    pub fn take_retired(&mut self, cookie: Cookie) -> Option<Vec<Counters>> {
        self.retired.remove(&cookie)
    }

    /// What a retired filter had been given.
    pub fn retired(&self, cookie: Cookie) -> Option<&Vec<Counters>> {
        self.retired.get(&cookie)
    }

    fn remove_way(&mut self, way: usize) {
        let Some(Way { key, paths, .. }) = self.ways.try_remove(way) else {
            return;
        };
        self.way_of.remove(&key);
        for path in paths {
            self.remove_path(path);
        }
        for (cookie, _) in &key.steps {
            if let Some(entry) = self.filters.get_mut(cookie) {
                entry.ways.remove(&way);
            }
        }
    }

    /// The way of these filters and findings, made if it is new. All its filters must exist.
    pub fn way(&mut self, key: WayKey) -> WayId {
        if let Some(&way) = self.way_of.get(&key) {
            return WayId(way);
        }
        let way = self.ways.insert(Way { key: key.clone(), paths: Vec::new(), refused: Vec::new() });
        for (cookie, _) in &key.steps {
            if let Some(entry) = self.filters.get_mut(cookie) {
                entry.ways.insert(way);
            }
        }
        self.way_of.insert(key, way);
        WayId(way)
    }

    /// Why such a walk of the way is not merged, if that was found out. `fits`: whether the walk is like those that a template
    /// describes.
    pub fn refusal(&self, way: WayId, fits: impl Fn(&Template) -> bool) -> Option<&Refusal> {
        let like = |r: &&Refused| r.others.as_ref().is_some_and(&fits);
        self.ways[way.0].refused.iter().find(like).map(|r| &r.refusal)
    }

    /// All that is remembered of walks that are not merged.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        self.ways.iter().flat_map(|(_, way)| &way.refused).map(|r| &r.refusal)
    }

    /// Remembers why such walks of the way are not merged, until one of its filters changes or the shadow goes that was the
    /// reason.
    pub fn refuse(&mut self, way: WayId, refused: Refused) {
        if refused.others.is_none() {
            return;
        }
        if let Some(shadow) = refused.refusal.shadow() {
            self.refused_for.entry(shadow).or_default().insert(way.0);
        }
        for &port in &refused.targets {
            self.refused_at.entry(port).or_default().insert(way.0);
        }
        let all = &mut self.ways[way.0].refused;
        if all.len() == REFUSED {
            all.remove(0);
        }
        all.push(refused);
    }

    /// Forgets what was refused because this filter stands in front.
    pub fn forgive(&mut self, shadow: FilterId) {
        for way in self.refused_for.remove(&shadow).unwrap_or_default() {
            if let Some(way) = self.ways.get_mut(way) {
                way.refused.retain(|r| r.refusal.shadow() != Some(shadow));
            }
        }
    }

    /// Forgets what was refused of ways that would send to this port, or into it.
    pub fn forgive_at(&mut self, port: Port) {
        for way in self.refused_at.remove(&port).unwrap_or_default() {
            if let Some(way) = self.ways.get_mut(way) {
                way.refused.retain(|r| !r.targets.contains(&port));
            }
        }
    }

    /// The paths of a way.
    pub fn paths(&self, way: WayId) -> impl Iterator<Item = (PathId, &Path)> {
        self.ways[way.0].paths.iter().map(|&p| (PathId(p), &self.paths[p].path))
    }

    /// Adds a path to a way.
    pub fn add_path(&mut self, way: WayId, path: Path) -> PathId {
        let targets = path.course.targets.clone();
        let id = self.paths.insert(PathEntry { path, later: 0, way: way.0, merged: Map::default() });
        for port in targets {
            self.senders.entry(port).or_default().insert(id);
        }
        self.ways[way.0].paths.push(id);
        PathId(id)
    }

    /// Drops a path, whose merged filters must be gone; and its way, if it was the last and nothing is remembered of the way.
    pub fn drop_path(&mut self, path: PathId) {
        let Some(way) = self.remove_path(path.0) else { return };
        if let Some(w) = self.ways.get_mut(way) {
            w.paths.retain(|&p| p != path.0);
            if w.paths.is_empty() && w.refused.is_empty() {
                self.remove_way(way);
            }
        }
    }

    fn remove_path(&mut self, path: usize) -> Option<usize> {
        let PathEntry { path: gone, way, merged, .. } = self.paths.try_remove(path)?;
        debug_assert!(merged.is_empty(), "merged filters are removed before their path");
        for port in &gone.course.targets {
            if let Some(senders) = self.senders.get_mut(port) {
                senders.remove(&path);
                if senders.is_empty() {
                    self.senders.remove(port);
                }
            }
        }
        Some(way)
    }

    /// The merged filters of a path.
    pub fn merged_of_path(&self, path: PathId) -> impl Iterator<Item = MergedId> {
        self.paths.get(path.0).into_iter().flat_map(|p| p.merged.values().copied())
    }

    /// The path.
    pub fn path(&self, path: PathId) -> &Path {
        &self.paths[path.0].path
    }

    /// The merged filter of a path and these connections.
    pub fn merged_of(&self, path: PathId, connections: &Connections) -> Option<MergedId> {
        self.paths[path.0].merged.get(connections).copied()
    }

    /// How many merged filters a way has for these connections.
    pub fn merged_of_way(&self, way: WayId, connections: &Connections) -> usize {
        self.ways[way.0].paths.iter().filter(|&&p| self.paths[p].merged.contains_key(connections)).count()
    }

    /// Enters a merged filter that was installed.
    pub fn insert_merged(
        &mut self,
        id: MergedId,
        path: PathId,
        connections: Connections,
        matches: Match,
        actions: Vec<Action>,
    ) {
        for connection in &connections {
            if let Some(entry) = self.connections.get_mut(connection) {
                entry.merged.insert(id);
            }
        }
        self.paths[path.0].merged.insert(connections.clone(), id);
        let merged = Merged {
            matches,
            actions,
            connections,
            counters: Counters::default(),
            path: path.0,
            last: Reading::default(),
        };
        self.merged.insert(id, merged);
    }

    /// Takes out a merged filter that is gone from hardware.
    pub fn remove_merged(&mut self, id: MergedId) -> Option<Merged> {
        let merged = self.merged.remove(&id)?;
        self.paths[merged.path].merged.remove(&merged.connections);
        for connection in &merged.connections {
            if let Some(entry) = self.connections.get_mut(connection) {
                entry.merged.remove(&id);
            }
        }
        Some(merged)
    }

    /// The merged filter.
    pub fn merged(&self, id: MergedId) -> Option<&Merged> {
        self.merged.get(&id)
    }

    /// All merged filters.
    pub fn all_merged(&self) -> impl Iterator<Item = (MergedId, &Merged)> {
        self.merged.iter().map(|(&id, m)| (id, m))
    }

    /// How many merged filters there are.
    pub fn merged_count(&self) -> usize {
        self.merged.len()
    }

    /// The path of a merged filter.
    pub fn path_of(&self, merged: &Merged) -> &Path {
        &self.paths[merged.path].path
    }

    /// Hands what a merged filter has counted since the last reading to its parents. `bytes` turns the difference of two
    /// readings, packets and bytes, into bytes as TC counts them.
    pub fn count(&mut self, id: MergedId, reading: Reading, bytes: impl Fn(&Path, u64, u64) -> u64) {
        let Some(merged) = self.merged.get_mut(&id) else { return };
        let path = &self.paths[merged.path].path;
        let counted = merged.advance(reading, |packets, all| bytes(path, packets, all));
        hand(&mut self.filters, &mut self.retired, &path.parents, counted);
    }

    /// Hands counters to filters: each action that the way runs counts them.
    pub fn hand(&mut self, parents: &[Parent], counted: Counted) {
        hand(&mut self.filters, &mut self.retired, parents, counted);
    }

    /// The merged filters that derive from a filter.
    pub fn derived_from_filter(&self, cookie: Cookie) -> Vec<MergedId> {
        let ways = self.filters.get(&cookie).into_iter().flat_map(|e| &e.ways);
        ways.flat_map(|&w| &self.ways[w].paths).flat_map(|&p| self.paths[p].merged.values().copied()).collect()
    }

    /// The paths that go through a filter.
    pub fn paths_through(&self, cookie: Cookie) -> impl Iterator<Item = PathId> {
        let ways = self.filters.get(&cookie).into_iter().flat_map(|e| &e.ways);
        ways.flat_map(|&w| self.ways[w].paths.iter().map(|&p| PathId(p)))
    }

    /// The paths whose filters send to a port, or into it.
    pub fn sending_to(&self, port: Port) -> impl Iterator<Item = PathId> {
        self.senders.get(&port).into_iter().flatten().map(|&p| PathId(p))
    }

    /// Forgets the ways of a filter, whose merged filters must be gone.
    pub fn forget_ways(&mut self, cookie: Cookie) {
        let ways = self.filters.get_mut(&cookie).map(|e| std::mem::take(&mut e.ways)).unwrap_or_default();
        for way in ways {
            self.remove_way(way);
        }
    }

    /// The connection.
    pub fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(&id).map(|e| &e.connection)
    }

    /// Enters a connection, or what it is now.
    pub fn insert_connection(&mut self, id: ConnectionId, connection: Connection) {
        match self.connections.get_mut(&id) {
            Some(entry) => entry.connection = connection,
            None => {
                self.connections.insert(id, ConnectionEntry { connection, merged: HashSet::default() });
            }
        }
    }

    /// Takes a connection out. Its merged filters must be gone.
    pub fn remove_connection(&mut self, id: ConnectionId) -> Option<Connection> {
        let entry = self.connections.remove(&id)?;
        debug_assert!(entry.merged.is_empty(), "merged filters are removed before their connection");
        Some(entry.connection)
    }

    /// The merged filters that derive from a connection.
    pub fn derived_from_connection(&self, id: ConnectionId) -> Vec<MergedId> {
        self.connections.get(&id).into_iter().flat_map(|e| e.merged.iter().copied()).collect()
    }

    /// How many paths there are.
    pub fn path_count(&self) -> usize {
        self.paths.len()
    }
}

impl Merged {
    /// Takes a reading over; what was counted since the last one, as TC would have. `bytes` turns packets and bytes into bytes as TC counts
    /// them.
    pub fn advance(&mut self, reading: Reading, bytes: impl Fn(u64, u64) -> u64) -> Counted {
        let last = std::mem::replace(&mut self.last, reading);
        let packets = reading.packets.saturating_sub(last.packets);
        if packets == 0 {
            return Counted::default();
        }
        let all = bytes(packets, reading.bytes.saturating_sub(last.bytes));
        let dropped = reading.policed.packets.saturating_sub(last.policed.packets);
        let lost = bytes(dropped, reading.policed.bytes.saturating_sub(last.policed.bytes));
        let last_used = reading.last_used;
        let all = Counters { packets, bytes: all, last_used };
        let passed = packets.saturating_sub(dropped);
        let passed = match passed {
            0 => Counters::default(),
            packets => Counters { packets, bytes: all.bytes.saturating_sub(lost), last_used },
        };
        self.counters.add(all);
        Counted { all, passed }
    }
}

fn hand(
    filters: &mut Map<Cookie, FilterEntry>,
    retired: &mut Map<Cookie, Vec<Counters>>,
    parents: &[Parent],
    counted: Counted,
) {
    if counted.all.packets == 0 {
        return;
    }
    for parent in parents {
        let there = filters.get_mut(&parent.cookie).map(|e| &mut e.counters);
        let Some(actions) = there.or_else(|| retired.get_mut(&parent.cookie)) else { continue };
        let here = |counters: Counters| {
            let longer = parent.longer.saturating_mul(i64::try_from(counters.packets).unwrap_or(i64::MAX));
            Counters { bytes: counters.bytes.saturating_add_signed(longer), ..counters }
        };
        let (all, passed) = (here(counted.all), here(counted.passed));
        for (i, action) in actions.iter_mut().enumerate() {
            match (parent.ran >> i & 1, parent.behind >> i & 1) {
                (0, _) => {}
                (_, 0) => action.add(all),
                _ => action.add(passed),
            }
        }
    }
}

#[cfg(test)]
mod tests;
