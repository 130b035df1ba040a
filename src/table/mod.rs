//! What is known and what was made of it: filters, connections, ways, paths, merged filters, and the links between parents
//! and what derives from them.
//!
//! ```text
//! filter ──< way ──< path ──< merged filter >── connection
//! └──────── Table ───────┘ └────────── Shard ───────────┘
//! ```
//!
//! A *way* is the list of filters with what each `ct` found (direction, protocol, which parts `nat` changes); its paths differ
//! by their cut. A cascade follows the links to the right: a filter takes its ways with it, a way its paths, a path its merged
//! filters; a connection takes its merged filters. Nothing here talks to the hardware: what must go is handed out ([`Doom`]), and
//! what is gone is told.
//!
//! Filters, ways and paths change seldom and are read with every walk: they are the [`Table`]. Connections and merged filters change
//! all the time, and are spread over [`Shard`]s.

pub mod chain;
mod ledger;
pub mod life;
pub mod meter;
mod molds;
mod overlap;
mod refused;
pub mod shard;
pub mod slots;
mod stale;
mod way;
mod ways;

pub use chain::{Chains, Inserted, Neighbour};
pub use ledger::{Account, Ledger};
pub use molds::Molds;
pub use overlap::overlap;
pub use shard::{ConnectionEntry, Links, Merged, Shard};
pub use way::{CtKey, WayKey};

use crate::{
    flower::{Action, Cookie, Filter, FilterId, Hook, Port},
    glance::{Decided, Glance, VerdictId},
    merge::{Parent, Path, Ports, template::Is},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use hashbrown::{HashMap, HashSet};
use slots::{NONE, Slots};
use smallvec::SmallVec;
use ways::{Places, Way, Ways, join, leave};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
type Set<K> = HashSet<K, foldhash::fast::RandomState>;

/// A filter and what hangs on it.
#[derive(Clone, Debug)]
pub struct FilterEntry {
    /// The filter.
    pub filter: Filter,
    /// Where its counters are.
    pub account: Account,
    /// When it was entered, in entered filters: a walk that was finished before does not mean it.
    pub born: u64,
    /// The ways through it.
    ways: Vec<u32>,
}

/// A path and what hangs on it.
#[derive(Debug)]
pub struct PathEntry {
    /// What datapaths see of it, if there is room for that.
    pub verdict: Mutex<Option<VerdictId>>,
    /// The path.
    pub path: Arc<Path>,
    /// The accounts of its parents.
    accounts: Box<[Account]>,
    /// Bytes of each of its frames that TC does not count.
    pub overhead: u64,
    /// How many of its conditions keep out shadows that came later.
    later: usize,
    way: u32,
    /// Where it stands among the paths that send to each of its targets.
    sends: Places,
    /// The hits up to the first that found a connection: the tuple is asked for there.
    pinned: Option<u8>,
    /// It is a `skip_sw` filter's.
    pub alone: bool,
    /// It holds no more: nothing is made of it, and what was made is being removed.
    dead: bool,
    /// The shards in which merged filters of it have been, a bit each.
    homes: AtomicU64,
}

impl PathEntry {
    /// The parents with their accounts.
    pub fn parents(&self) -> impl Iterator<Item = (Account, &Parent)> {
        self.accounts.iter().copied().zip(self.path.parents.iter())
    }

    /// A merged filter of it is about to be in this shard.
    pub fn comes_to(&self, shard: u8) {
        let bit = home(shard);
        if self.homes.load(Relaxed) & bit == 0 {
            self.homes.fetch_or(bit, Relaxed);
        }
    }
}

/// A shard's bit; of more than 64 shards some share one.
fn home(shard: u8) -> u64 {
    1 << (shard % 64)
}

/// Merged filters that must go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doom {
    /// All of this path.
    pub path: PathId,
    /// If there are any: only those for whose connections all of this holds, and the path stays.
    pub only: Vec<Is>,
    /// The shards in which they may be, a bit each.
    homes: u64,
}

impl Doom {
    /// All of this path, or only some. With the table for oneself, so that all know where they are.
    fn new(path: PathId, entry: &PathEntry, only: Vec<Is>) -> Doom {
        Doom { path, only, homes: entry.homes.load(Relaxed) }
    }

    /// Whether there may be any in this shard.
    pub fn may_be_in(&self, shard: u8) -> bool {
        self.homes & home(shard) != 0
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    filters: Map<Cookie, FilterEntry>,
    cookies: Map<FilterId, Cookie>,
    /// The accounts of filters that were replaced and are not destroyed yet.
    retired: Map<Cookie, Account>,
    /// Order of classification.
    pub chains: Chains,
    /// The shared blocks at each side of a port.
    pub blocks: Map<Hook, Set<u32>>,
    /// The ports that are down.
    pub down: Set<Port>,
    ways: Ways,
    /// Ways that remember a refusal because of a filter in front of theirs.
    refused_for: Map<FilterId, Set<u32>>,
    /// Ways that remember a refusal and would send to a port, or into it.
    refused_at: Map<Port, Set<u32>>,
    paths: Slots<PathEntry>,
    /// The paths whose filters send to a port, or into it.
    senders: Map<Port, Vec<u32>>,
    /// What folds have left for others.
    pub molds: Molds,
    /// What datapaths can see.
    glance: Option<Arc<Glance>>,
    /// What must go since it was last asked.
    doomed: Vec<Doom>,
    /// The paths that hold no more and whose merged filters are being removed.
    dying: Vec<PathId>,
}

/// A path of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathId(pub(crate) u32);

/// A way of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WayId(u32);

/// Most dying paths that a new one is compared with; with more of them at its port it waits.
const COMPARED: usize = 32;

impl Table {
    /// An empty table, of which datapaths see what was decided.
    pub fn seen_by(glance: Arc<Glance>) -> Table {
        Table { glance: Some(glance), ..Table::default() }
    }

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

    /// Puts a filter in, its counters in this account. No other must have its cookie or its identity. Gives the other filters
    /// whose place among each other that changes ([`Chains::insert`]).
    pub fn insert_filter(
        &mut self,
        cookie: Cookie,
        filter: Filter,
        account: Account,
        inserted: Inserted,
        instead: Option<Cookie>,
        born: u64,
    ) -> Vec<Cookie> {
        let reordered = self.chains.insert(cookie, &filter, inserted, instead);
        self.cookies.insert(filter.id, cookie);
        self.filters.insert(cookie, FilterEntry { filter, account, born, ways: Vec::new() });
        reordered
    }

    /// Takes a filter out, with its ways. `keep_place` leaves its place in the order of classification to a successor.
    pub fn remove_filter(&mut self, cookie: Cookie, keep_place: bool) -> Option<FilterEntry> {
        self.forget_ways(cookie);
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

    /// Keeps the account of a filter that another replaced, until TC destroys it. One that it had been kept under this cookie before.
    pub fn retire(&mut self, cookie: Cookie, account: Account) -> Option<Account> {
        self.retired.insert(cookie, account)
    }

    /// The account of a retired filter, once.
    pub fn take_retired(&mut self, cookie: Cookie) -> Option<Account> {
        self.retired.remove(&cookie)
    }

    /// The account of a filter, also of a retired one.
    pub fn account(&self, cookie: Cookie) -> Option<Account> {
        self.filters.get(&cookie).map(|e| e.account).or_else(|| self.retired.get(&cookie).copied())
    }

    fn retire_verdict(&self, verdict: Option<VerdictId>) {
        if let (Some(verdict), Some(glance)) = (verdict, self.glance.as_deref()) {
            glance.retire(verdict);
        }
    }

    /// Lets datapaths see a path whose merged filters rest on no connection, and of which one is in hardware now.
    pub fn show(&self, path: PathId) {
        let (Some(entry), Some(glance)) = (self.entry(path).filter(|e| !e.dead), self.glance.as_deref()) else {
            return;
        };
        let mut verdict = entry.verdict.lock();
        if verdict.is_none()
            && let Some(way) = self.ways.get(entry.way)
            && let Some(id) = glance.publish(&way.key.verdict(&entry.path.template.known.unpack(), Decided::Merged))
        {
            glance.show(id);
            *verdict = Some(id);
        }
    }

    /// None of them is in hardware any more.
    pub fn hide(&self, path: PathId) {
        if let Some(entry) = self.entry(path) {
            let verdict = entry.verdict.lock().take();
            self.retire_verdict(verdict);
        }
    }

    /// The paths of a way.
    #[inline]
    pub fn paths(&self, way: WayId) -> impl Iterator<Item = (PathId, &PathEntry)> {
        let paths = self.ways.get(way.0).into_iter().flat_map(|way| &way.paths);
        paths.filter_map(|&p| Some((PathId(p), self.paths.get(p)?)))
    }

    /// The way of a path.
    #[inline]
    pub fn way_of(&self, path: PathId) -> Option<WayId> {
        self.paths.get(path.0).map(|p| WayId(p.way))
    }

    /// Whether one of a way's filters was entered after a walk was finished.
    #[inline]
    pub fn is_younger(&self, way: WayId, epoch: u64) -> bool {
        self.ways.get(way.0).is_none_or(|way| way.born > epoch)
    }

    /// The last filter of a way.
    #[inline]
    pub fn last_filter(&self, way: WayId) -> Option<FilterId> {
        self.ways.get(way.0)?.last
    }

    /// Changes actions of filters; the filters of which one was changed.
    pub fn change_actions(&mut self, change: &mut dyn FnMut(&mut Action) -> bool) -> Vec<Cookie> {
        let mut changed = Vec::new();
        for (&cookie, entry) in &mut self.filters {
            let mut any = false;
            entry.filter.actions.iter_mut().for_each(|action| any |= change(action));
            if any {
                changed.push(cookie);
            }
        }
        changed.sort_unstable();
        changed
    }

    /// Adds a path to a way; `alone`: it is a `skip_sw` filter's.
    pub fn add_path(&mut self, way: WayId, mut path: Path, alone: bool) -> PathId {
        let nobody = Account::NOBODY;
        let accounts = path.parents.iter().map(|p| self.filters.get(&p.cookie).map_or(nobody, |e| e.account)).collect();
        let targets = path.course.targets.clone();
        if let Some((_, other)) = self.paths(way).next() {
            path.share(&other.path);
        }
        let overhead = path.overhead();
        // One that rests on connections stands in their cells; one that rests on none is shown when something is in hardware.
        let key = self.ways.get(way.0).map(|way| &way.key);
        let pinned = key.and_then(WayKey::first_found);
        let verdict = self
            .glance
            .as_deref()
            .zip(key)
            .filter(|(_, key)| key.meets())
            .and_then(|(glance, key)| glance.publish(&key.verdict(&path.template.known.unpack(), Decided::Merged)));
        let verdict = Mutex::new(verdict);
        let entry = PathEntry {
            verdict,
            path: Arc::new(path),
            accounts,
            overhead,
            pinned,
            later: 0,
            way: way.0,
            sends: Places::new(),
            alone,
            dead: false,
            homes: AtomicU64::new(0),
        };
        let (id, _) = self.paths.insert(entry);
        let Table { paths, senders, ways, .. } = self;
        let sends = targets.iter().enumerate().map(|(n, port)| match targets[..n].contains(port) {
            true => NONE,
            false => join(senders.entry(*port).or_default(), id),
        });
        if let (Some(entry), Some(way)) = (paths.get_mut(id), ways.get_mut(way.0)) {
            entry.sends = sends.collect();
            way.paths.push(id);
        }
        PathId(id)
    }

    /// A path holds no more. It is not found by its way, and stays until its merged filters are gone ([`bury`](Table::bury)).
    fn kill(&mut self, path: PathId) {
        let Some(entry) = self.paths.get_mut(path.0).filter(|p| !p.dead) else { return };
        entry.dead = true;
        let verdict = entry.verdict.get_mut().take();
        let doom = Doom::new(path, entry, Vec::new());
        let (targets, sends) = (entry.path.course.targets.clone(), std::mem::take(&mut entry.sends));
        for (port, place) in targets.iter().zip(sends) {
            let Some(senders) = self.senders.get_mut(port) else { continue };
            let moved = leave(senders, path.0, place);
            if senders.is_empty() {
                self.senders.remove(port);
            }
            let moved = moved.and_then(|other| self.paths.get_mut(other));
            if let Some(moved) = moved
                && let Some(at) = moved.path.course.targets.iter().position(|target| target == port)
                && let Some(to) = moved.sends.get_mut(at)
            {
                *to = place;
            }
        }
        self.retire_verdict(verdict);
        self.dying.push(path);
        self.doomed.push(doom);
    }

    /// Gives up a path; and its way, if it was the last and nothing is remembered of the way.
    pub fn drop_path(&mut self, path: PathId) {
        let Some(way) = self.paths.get(path.0).filter(|p| !p.dead).map(|p| p.way) else { return };
        self.kill(path);
        if let Some(w) = self.ways.get_mut(way) {
            w.paths.retain(|p| *p != path.0);
            if w.paths.is_empty() && w.refused.is_empty() {
                self.remove_way(way);
            }
        }
    }

    /// What must go, since this was last asked.
    pub fn take_doomed(&mut self) -> Vec<Doom> {
        std::mem::take(&mut self.doomed)
    }

    /// Of these paths nothing is left in hardware: those that hold no more are forgotten. They are given out, so that their memory is
    /// given back while nobody waits for the table.
    pub fn bury(&mut self, doomed: &[Doom]) -> Vec<PathEntry> {
        let gone: Set<PathId> =
            doomed.iter().map(|d| d.path).filter(|&p| self.entry(p).is_some_and(|e| e.dead)).collect();
        if gone.is_empty() {
            return Vec::new();
        }
        self.dying.retain(|path| !gone.contains(path));
        gone.iter().filter_map(|path| self.paths.remove(path.0)).collect()
    }

    /// Whether merged filters that are on their way out may match packets of this path. While they do, nothing is made of it. Not
    /// meant are those of the very connections that something is to be made of: they are looked at one by one.
    #[inline]
    pub fn is_held_off(&self, path: PathId) -> bool {
        if self.dying.is_empty() {
            return false;
        }
        let Some(mine) = self.entry(path) else { return true };
        // Where both come to a connection by the same hits, a packet of both is one of the same connection.
        let same = |other: &PathEntry| {
            mine.pinned.is_some_and(|hits| {
                let cookies = |e: &PathEntry| {
                    e.path.parents.iter().take(hits.into()).map(|p| p.cookie).collect::<SmallVec<[Cookie; 6]>>()
                };
                other.pinned == Some(hits) && cookies(mine) == cookies(other)
            })
        };
        let dying = self.dying.iter().filter_map(|&p| self.entry(p));
        let mut here = dying.filter(|e| e.path.port == mine.path.port && !same(e));
        let near = here.by_ref().take(COMPARED).any(|e| e.path.template.may_overlap(&mine.path.template));
        near || here.next().is_some()
    }

    /// The path, also while what was made of it is being removed.
    #[inline]
    pub fn entry(&self, path: PathId) -> Option<&PathEntry> {
        self.paths.get(path.0)
    }

    /// All paths that hold.
    pub fn all_paths(&self) -> impl Iterator<Item = (PathId, &PathEntry)> {
        self.paths.iter().filter(|(_, _, e)| !e.dead).map(|(p, _, e)| (PathId(p), e))
    }

    /// The paths that go through a filter.
    pub fn paths_through(&self, cookie: Cookie) -> impl Iterator<Item = PathId> {
        let ways = self.filters.get(&cookie).into_iter().flat_map(|e| &e.ways);
        ways.flat_map(|&way| self.paths(WayId(way))).map(|(path, _)| path)
    }

    /// The paths whose filters send to a port, or into it.
    pub fn sending_to(&self, port: Port) -> impl Iterator<Item = PathId> {
        self.senders.get(&port).into_iter().flatten().map(|&p| PathId(p))
    }

    /// Forgets the ways of filters that stay: what was folded of them no longer holds.
    pub fn forget(&mut self, filters: &[Cookie]) {
        for &cookie in filters {
            self.forget_ways(cookie);
            // Others may stand before it now.
            if let Some(id) = self.filter(cookie).map(|e| e.filter.id) {
                self.forgive(id);
            }
        }
    }

    /// Forgets the paths that send to these ports, or into them: what was folded of them no longer holds.
    pub fn forget_sends(&mut self, ports: &[Port]) {
        for &port in ports {
            let paths: Vec<_> = self.sending_to(port).collect();
            paths.into_iter().for_each(|path| self.drop_path(path));
            self.forgive_at(port);
        }
    }

    /// The ports at which a hook's filters stand.
    pub fn ports_of(&self, hook: Hook) -> Vec<Port> {
        match hook {
            Hook::Ingress(port) | Hook::Egress(port) => vec![port],
            Hook::Block(_) => self.sides_of(hook).into_iter().flat_map(|side| self.ports_of(side)).collect(),
        }
    }

    /// The sides of ports at which a hook's filters stand.
    pub fn sides_of(&self, hook: Hook) -> Vec<Hook> {
        match hook {
            Hook::Ingress(_) | Hook::Egress(_) => vec![hook],
            Hook::Block(block) => {
                self.blocks.iter().filter(|(_, b)| b.contains(&block)).map(|(&side, _)| side).collect()
            }
        }
    }

    /// Whether filters stand at a side of a port, its own or those of a shared block.
    fn has_filters(&self, side: Hook) -> bool {
        let mut blocks = self.blocks.get(&side).into_iter().flatten();
        self.chains.any(side) || blocks.any(|&b| self.chains.any(Hook::Block(b)))
    }

    /// How many paths there are.
    pub fn path_count(&self) -> usize {
        self.paths.count()
    }

    /// How many ways there are.
    pub fn way_count(&self) -> usize {
        self.ways.count()
    }
}

impl Ports for Table {
    fn is_down(&self, port: Port) -> bool {
        self.down.contains(&port)
    }

    fn has_egress_filters(&self, port: Port) -> bool {
        self.has_filters(Hook::Egress(port))
    }

    fn has_ingress_filters(&self, port: Port) -> bool {
        self.has_filters(Hook::Ingress(port))
    }

    fn is_bound(&self, port: Port, block: u32) -> bool {
        self.blocks.get(&Hook::Ingress(port)).is_some_and(|blocks| blocks.contains(&block))
    }
}

#[cfg(test)]
mod tests;
