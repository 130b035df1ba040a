//! The façade that a driver holds: filters and connections go in as TC and conntrack tell of them, walks as the datapath
//! finishes them; merged filters go to the hardware, their counts back to the filters.
//!
//! ```text
//! TC's calls ──► control ──┐ writes                       ┌──► hardware
//!                          ▼                              │
//! walks ──► queue ──► work: Table (read) ─► Shard (lock) ─┤  no lock held
//!                                   ▲                     │
//! conntrack's events ──► connections┘        readings ◄───┘──► Ledger ──► stats
//! ```
//!
//! All calls take `&self` and may come from any thread. Locks are taken in this order and given back before the hardware is
//! called: the [`Table`] (filters, ways, paths), then [`Shard`]s by number (connections, merged filters), then one of the small
//! ones (ledger, queue, lists). TC's own calls take turns besides, as they do in the kernel.
//!
//! Everything that takes merged filters out (a filter destroyed or replaced, a new shadow, a connection that leaves established)
//! does so before it returns, with the last reading handed to the parents first, also where an install was in flight in another
//! thread: [`life`](crate::table::life) has the steps.

mod alone;
mod capacity;
mod connections;
mod control;
mod counters;
mod install;
#[cfg(not(feature = "shuttle"))]
mod planted;
#[cfg(feature = "shuttle")]
#[doc(hidden)]
pub mod planted;
mod removal;
mod retry;
mod settings;
mod view;
mod walks;
mod work;
mod workers;

pub use crate::table::shard::Worth;
pub use alone::Displaced;
pub use connections::Alive;
pub use settings::{Conntrack, Liberal, Limits, Policy, Settings, Turned};
pub use view::{MergedView, Snapshot, Why};
pub use workers::Workers;

use crate::{
    conntrack::{Connection, ConnectionHandle, ConnectionId},
    datapath::{Batch, Bell, Datapath, Inbox},
    flower::{Capabilities, Cookie, Counters, capabilities::Abilities},
    glance::{self, Glance},
    hardware::{Hardware, HardwareError, MergedId},
    merge::Refusal,
    sync::{
        Apart, Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    table::{ConnectionEntry, Ledger, PathId, Shard, Table},
    walk::Walk,
};
use alone::Alone;
use hashbrown::HashMap;
use retry::{Retries, Stuck};
use settings::Tallies;
use smallvec::SmallVec;
use std::{
    collections::{BTreeMap, VecDeque},
    hash::BuildHasher,
};
use workers::Alarm;

/// What became of a walk.
pub type Outcome = Result<Merge, Refusal>;

/// A walk that is in hardware now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The merged filter that handles packets like this one. With several workers it may still be on its way into hardware in another's
    /// hands, and may not get there.
    pub id: MergedId,
    /// Whether it was installed for this walk, rather than there already.
    pub installed: bool,
}

/// The ticket of a walk handed in, told again with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What conntrack tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// There is a connection, or it changed.
    Is(ConnectionId, Connection),
    /// It is gone.
    Gone(ConnectionId),
}

/// A merged filter that left the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The merged filter.
    pub id: MergedId,
    /// What it counted since it was last installed; its parents have it already.
    pub counters: Counters,
}

/// What has happened since the last `drain`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// The walks handed in, in order.
    pub walks: Vec<(Ticket, Outcome)>,
    /// The merged filters that left the hardware, before the walks were merged. Of more than [`REMOVED`] the oldest are not told.
    pub removed: Vec<Removed>,
    /// The `skip_sw` filters that left the hardware or did not come in at a port, and were not told by an error.
    pub displaced: Vec<Displaced>,
}

/// Most removals that are kept to be told by `drain`.
pub const REMOVED: usize = 1 << 16;

/// Merged filters that the hardware did not remove. They are tracked on, and each `drain` tries again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not removed from hardware, and tried again: {}", .0.iter().map(|e| e.to_string()).collect::<Vec<_>>().join("; "))]
pub struct NotRemoved(pub Vec<HardwareError>);

/// What `replace` did not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplaceError {
    /// The filter is entered, unless it is `skip_sw`, but what it takes the place of is still in hardware.
    #[error(transparent)]
    NotRemoved(#[from] NotRemoved),
    /// A `skip_sw` filter that cannot go into hardware. It is not entered: nobody would look at it. What it was to replace stays.
    #[error("a skip_sw filter that cannot go into hardware: {0}")]
    SkipSw(Refusal),
}

/// The library's façade.
pub struct Merger<H> {
    hardware: H,
    capabilities: Capabilities,
    settings: Settings,
    table: Apart<RwLock<Table>>,
    shards: Box<[Apart<Home>]>,
    ledger: Mutex<Ledger>,
    /// TC's calls take turns.
    control: Mutex<Alone>,
    queue: Mutex<VecDeque<Waiting>>,
    tickets: AtomicU64,
    merged: Apart<AtomicUsize>,
    stuck: Mutex<Vec<Stuck>>,
    /// With `stuck`: a removal was tried again.
    tried: Condvar,
    stuck_count: AtomicUsize,
    retries: Mutex<Retries>,
    /// The paths of `skip_sw` filters whose merged filters waited to be offered again, and were turned down.
    lost: Mutex<Vec<PathId>>,
    removed: Mutex<VecDeque<Removed>>,
    cold: Mutex<Vec<(u32, MergedId)>>,
    alive: AtomicU64,
    tallies: Apart<Tallies>,
    refused: Mutex<BTreeMap<&'static str, u64>>,
    /// Why the last walk that ended with a filter and was not merged was not.
    last_refused: Mutex<HashMap<Cookie, Refusal>>,
    /// The latest time that was told.
    clock: Apart<AtomicU64>,
    hasher: Seeds,
    inbox: Arc<Inbox>,
    batches: Mutex<Vec<Batch>>,
    alarm: Arc<Alarm>,
}

/// What spreads connections over shards: names come from the network, hence seeds. A checker repeats its runs, hence none there.
#[cfg(not(feature = "shuttle"))]
type Seeds = foldhash::fast::RandomState;
#[cfg(feature = "shuttle")]
type Seeds = foldhash::fast::FixedState;

/// A shard, and those who wait for something to leave it.
struct Home {
    shard: Mutex<Shard>,
    left: Condvar,
}

/// A walk that waits to be merged.
struct Waiting {
    ticket: Ticket,
    epoch: u64,
    walk: Walk,
}

impl<H: Hardware> Merger<H> {
    /// A merger for this hardware, with default settings.
    pub fn new(hardware: H) -> Merger<H> {
        Merger::with(hardware, Settings::default())
    }

    /// A merger for this hardware with these limits.
    pub fn with_limits(hardware: H, limits: Limits) -> Merger<H> {
        Merger::with(hardware, Settings::with_limits(limits))
    }

    /// A merger for this hardware.
    pub fn with(hardware: H, mut settings: Settings) -> Merger<H> {
        let shards = settings.shards.max(1);
        let glance = Arc::new(Glance::new(glance::Limits { shards: shards.into(), ..settings.seen }));
        let alarm = Arc::new(Alarm::default());
        let bell = match settings.wake.take() {
            Some(wake) => Bell::new(wake),
            None => {
                let alarm = Arc::clone(&alarm);
                Bell::new(move || alarm.ring())
            }
        };
        let home = |index| Apart(Home { shard: Mutex::new(Shard::new(index, shards)), left: Condvar::new() });
        Merger {
            capabilities: hardware.capabilities(),
            hardware,
            inbox: Arc::new(Inbox::new(Arc::clone(&glance), bell, settings.datapath)),
            batches: Mutex::new(Vec::new()),
            alarm,
            table: Apart(RwLock::new(Table::seen_by(glance))),
            shards: (0..shards).map(home).collect(),
            ledger: Mutex::new(Ledger::default()),
            control: Mutex::new(Alone::default()),
            queue: Mutex::new(VecDeque::new()),
            tickets: AtomicU64::new(0),
            merged: Apart(AtomicUsize::new(0)),
            stuck: Mutex::new(Vec::new()),
            tried: Condvar::new(),
            stuck_count: AtomicUsize::new(0),
            retries: Mutex::new(Retries::default()),
            lost: Mutex::default(),
            // Whoever adds to it must not wait for it to grow.
            removed: Mutex::new(VecDeque::with_capacity(REMOVED)),
            cold: Mutex::new(Vec::new()),
            alive: AtomicU64::new(0),
            tallies: Apart::default(),
            refused: Mutex::default(),
            last_refused: Mutex::default(),
            clock: Apart(AtomicU64::new(0)),
            hasher: Seeds::default(),
            settings,
        }
    }

    /// A finished walk. It is merged by the next [`drain`](Merger::drain); `None` if the queue is full and it was dropped.
    pub fn walk(&self, walk: Walk) -> Option<Ticket> {
        let epoch = self.inbox.epoch();
        let mut queue = self.queue.lock();
        if queue.len() >= self.settings.limits.queue {
            self.tallies.queue.one();
            return None;
        }
        let ticket = Ticket(self.tickets.fetch_add(1, Relaxed) + 1);
        queue.push_back(Waiting { ticket, epoch, walk });
        drop(queue);
        self.inbox.bell().told();
        Some(ticket)
    }

    /// Tries again what the hardware would not remove or install, as far as it is time for it, then merges the walks handed in. `now`: in
    /// nanoseconds of the caller's clock. May be called from several threads.
    pub fn drain(&self, now: u64) -> Drained {
        let now = self.clock.fetch_max(now, Relaxed).max(now);
        self.try_again(now);
        if let Some(mut turn) = self.control.try_lock() {
            self.recover(&mut turn, now);
            turn.try_again();
            self.settle(&mut turn, now);
        }
        let removed = self.removed.lock().drain(..).collect();
        let walks = self.work(now);
        let displaced = self.control.try_lock().map(|mut turn| std::mem::take(&mut turn.displaced)).unwrap_or_default();
        Drained { walks, removed, displaced }
    }
}

impl<H> Merger<H> {
    /// The hardware.
    pub fn hardware(&self) -> &H {
        &self.hardware
    }

    /// A datapath for one more processor, receive queue or thread: what a driver calls for each packet.
    pub fn datapath(&self) -> Datapath {
        self.inbox.datapath()
    }

    /// Where datapaths hand walks over: what became of them, and whether workers may sleep.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    #[inline]
    fn glance(&self) -> &Glance {
        self.inbox.glance()
    }

    /// What the limits turned away, and what happened how often.
    pub fn turned(&self) -> Turned {
        self.tallies.told()
    }

    /// Filters, ways and paths, to look things up in; while it is held nothing is merged that is new.
    pub fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read()
    }

    /// The connection of this name.
    pub fn connection_of(&self, id: ConnectionId) -> Option<Connection> {
        let shard = self.shard_of(id);
        let entry = shard.connection(shard.handle(id)?)?;
        Some(entry.connection)
    }

    /// The library's own name for a connection, for the datapath to keep beside its conntrack entry.
    pub fn handle(&self, id: ConnectionId) -> Option<ConnectionHandle> {
        self.shard_of(id).handle(id)
    }

    #[inline]
    fn shard(&self, index: u8) -> MutexGuard<'_, Shard> {
        self.home(index).shard.lock()
    }

    #[inline]
    fn home(&self, index: u8) -> &Home {
        &self.shards[usize::from(index) % self.shards.len()]
    }

    /// How many shards there are.
    #[inline]
    fn count(&self) -> u8 {
        self.shards.len() as u8
    }

    fn shard_index(&self, id: ConnectionId) -> u8 {
        (self.hasher.hash_one(id) >> 32) as u8 % self.count()
    }

    fn shard_of(&self, id: ConnectionId) -> MutexGuard<'_, Shard> {
        self.shard(self.shard_index(id))
    }

    #[inline]
    fn shard_of_merged(&self, id: MergedId) -> u8 {
        id.parts(self.count()).map_or(0, |(_, _, shard)| shard)
    }

    /// The shards of these connections, locked in order.
    #[inline]
    fn lock(&self, handles: &[ConnectionHandle]) -> Locked<'_> {
        // Most walks meet one connection.
        if let [one] = handles {
            let mut locked = Locked(SmallVec::new());
            locked.0.push((one.shard(), self.shard(one.shard())));
            return locked;
        }
        let mut indexes: SmallVec<[u8; 2]> = handles.iter().map(|h| h.shard()).collect();
        indexes.sort_unstable();
        indexes.dedup();
        Locked(indexes.into_iter().map(|index| (index, self.shard(index))).collect())
    }

    #[inline]
    fn mends(&self) -> bool {
        self.capabilities.abilities.contains(Abilities::MEND)
    }
}

/// Some shards, locked.
struct Locked<'a>(SmallVec<[(u8, MutexGuard<'a, Shard>); 2]>);

impl Locked<'_> {
    /// One of them.
    #[inline]
    fn of(&self, index: u8) -> Option<&Shard> {
        self.0.iter().find(|(i, _)| *i == index).map(|(_, shard)| &**shard)
    }

    #[inline]
    fn of_mut(&mut self, index: u8) -> Option<&mut Shard> {
        self.0.iter_mut().find(|(i, _)| *i == index).map(|(_, shard)| &mut **shard)
    }

    #[inline]
    fn connection(&self, handle: ConnectionHandle) -> Option<&ConnectionEntry> {
        self.of(handle.shard())?.connection(handle)
    }
}

fn told_of(failed: Vec<HardwareError>) -> Result<(), NotRemoved> {
    if failed.is_empty() { Ok(()) } else { Err(NotRemoved(failed)) }
}

#[cfg(test)]
mod tests;
