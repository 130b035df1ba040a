//! What a datapath can see without a lock of what was decided: whether a packet like this one is merged already, or was refused,
//! is queued, or is not worth a merge.
//!
//! **The idea.** A *verdict* says of the packets of one way, with some bits compared, that they are merged, or that they are refused. It is
//! written once for all connections (`verdict`). Each connection has a *cell* (`cell`), which its handle leads to: it lists the
//! verdicts that hold for the connection. So a finished walk is looked up by the first connection that it found. Walks that found none,
//! and refusals that hold for any connection, stand in a small table by their way (`table`).
//!
//! **Why that is the same as asking whether the merged filter matches.** A merged filter matches what agrees with the constants of its
//! path and with the tuples that the path was filled in with. A verdict compares: the port and the filters hit, each; for each `ct` whether it
//! found a connection, which of the walk's, in which direction; and all constants that the path asks for, so also its cut, the exclusions, and
//! protocol and family of the packet. The cell tells which connections: the first by itself, a second by its place beside the
//! listed verdict. What is left is not compared since it follows. A packet of that protocol, not a fragment, for which `ct`
//! found this connection in this direction has its tuple at that point, and the writes before it are the path's, the filters being the same:
//! so it arrived with the path's bits of the tuple. And a port within the ranges of the path's filters: it hit them.
//!
//! **What may go wrong, and what may not.** What is not recognised is handed to the workers, who judge by the merged filter itself:
//! a collision, a cell that has no room left, a slot that is just being written cost time. A verdict that does not hold (any more)
//! must not be taken for one that does: it would keep a flow in software. So [`retire`](Glance::retire) ends a verdict at once, whichever
//! cells still list it; its slot is used again only when none does; and what was read of a slot counts only if slot, list
//! and cell are as before when it has been read (`looked_up` in `cell`). What a walk is judged by then held when it was
//! judged: after a change only walks that were being judged can still be taken for what they were.
//!
//! Writers come from many threads: calls for one connection must not overlap (its shard's lock), others may.

mod cell;
mod chunks;
#[cfg(test)]
mod interleaved;
mod table;
#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests;
mod verdict;

pub use verdict::{Decided, Verdict, VerdictId};

use crate::{
    conntrack::{ConnectionHandle, Direction},
    flower::{Key, Port},
    sync::atomic::{AtomicU64, Ordering},
    walk::Steps,
};
use cell::{Cell, Cells, Control, Place};
use table::Table;
use verdict::Verdicts;

/// How much a glance has room for. Memory is taken as it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Shards of connections, 256 at most.
    pub shards: usize,
    /// Connections in each shard.
    pub connections: usize,
    /// Verdicts, 16 million at most.
    pub verdicts: usize,
    /// Verdicts that can be found by their way; more of them displace each other.
    pub ways: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { shards: 16, connections: 1 << 17, verdicts: 1 << 16, ways: 1 << 14 }
    }
}

/// How often there was no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turned {
    /// Connections beyond the limit: they get no handle.
    pub connections: u64,
    /// Verdicts beyond the limit, or too long to compare: such walks are not recognised.
    pub verdicts: u64,
    /// Verdicts that another one displaced from a cell.
    pub listed: u64,
    /// Verdicts that another one displaced from the table.
    pub shown: u64,
}

/// What a glance at a finished walk tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glimpse {
    /// A merged filter matches the packet.
    Merged,
    /// Such packets were refused.
    Refused,
    /// A walk of the connection in this direction is with the workers.
    Queued,
    /// One of its connections does not qualify.
    NotQualified,
    /// Too few walks of the connection were seen.
    NotYet,
    /// The connection waits for the hardware in this direction.
    Waiting,
    /// It names a connection that is not there any more.
    Gone,
    /// For the workers to judge.
    New,
}

/// Connections that are to list a verdict, one after the other: [`Glance::lists`].
#[derive(Debug)]
pub struct Lists<'g> {
    glance: &'g Glance,
    verdict: VerdictId,
    about: u32,
    /// Holds on the verdict that nobody lists yet.
    left: std::cell::Cell<u32>,
}

impl Lists<'_> {
    /// As [`Glance::list`].
    #[inline]
    pub fn list(&self, connection: ConnectionHandle, other: Option<ConnectionHandle>) -> bool {
        let Lists { glance, verdict, .. } = *self;
        let Some(cell) = glance.cells.get(connection).filter(|cell| cell.control(connection).is_some()) else {
            return false;
        };
        if self.left.get() == 0 {
            if !glance.verdicts.hold_often(verdict, self.about) {
                return false;
            }
            self.left.set(self.about);
        }
        let listed = cell.list(verdict.index(), other);
        if let cell::Listed::Already = listed {
            return true;
        }
        self.left.update(|left| left - 1);
        if let cell::Listed::InPlaceOf(displaced) = listed {
            glance.verdicts.release(displaced);
            glance.turned.listed.fetch_add(1, Ordering::Relaxed);
        }
        true
    }
}

impl Drop for Lists<'_> {
    fn drop(&mut self) {
        self.glance.verdicts.release_often(self.verdict.index(), self.left.get());
    }
}

/// A number for a walk's way, not different for all ways that differ.
pub(crate) fn way_of(port: Port, steps: &Steps) -> u64 {
    verdict::way_number(port, steps.filters().iter().map(|filter| filter.0), *steps.findings().words())
}

/// The connections of a walk behind its first.
struct Others {
    /// Of the second, if there is no third: ways that meet three are not recognised.
    second: Option<Place>,
    /// Whether all of them do.
    qualify: bool,
}

/// What was decided, for all datapaths to see.
#[derive(Debug)]
pub struct Glance {
    cells: Cells,
    verdicts: Verdicts,
    table: Table,
    turned: Counters,
}

#[derive(Debug)]
struct Counters {
    connections: AtomicU64,
    verdicts: AtomicU64,
    listed: AtomicU64,
    shown: AtomicU64,
}

impl Glance {
    /// One that knows of nothing yet.
    pub fn new(limits: Limits) -> Glance {
        let zero = || AtomicU64::new(0);
        Glance {
            cells: Cells::new(limits.shards, limits.connections),
            verdicts: Verdicts::new(limits.verdicts),
            table: Table::new(limits.ways),
            turned: Counters { connections: zero(), verdicts: zero(), listed: zero(), shown: zero() },
        }
    }

    /// How often there was no room.
    pub fn turned(&self) -> Turned {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { connections, verdicts, listed, shown } = &self.turned;
        Turned { connections: of(connections), verdicts: of(verdicts), listed: of(listed), shown: of(shown) }
    }

    /// What can be told of a finished walk, not too long. If it is [`Glimpse::New`], walks of its first connection in that direction are
    /// [`Glimpse::Queued`] from now on, until [`judged`](Glance::judged) is called.
    #[inline]
    pub fn look(&self, port: Port, key: &Key, steps: &Steps) -> Glimpse {
        let Some(first) = steps.first() else { return self.look_by_way(port, key, steps) };
        let Some((cell, control)) = self.cells.of(first) else { return Glimpse::Gone };
        let others = match steps.connection_count() {
            1 => Others { second: Some(Place::NONE), qualify: true },
            _ => match self.others(steps) {
                Some(others) => others,
                None => return Glimpse::Gone,
            },
        };
        let in_cell = |second| cell.looked_up(&self.verdicts, control, second, port, key, steps);
        match others.second.and_then(in_cell) {
            Some(Decided::Merged) => Glimpse::Merged,
            Some(Decided::Refused) => Glimpse::Refused,
            None if !others.qualify || !control.qualified() => Glimpse::NotQualified,
            None => self.look_at_connection(cell, control, port, key, steps),
        }
    }

    // What follows stands apart, so that the way of most packets, above, is short.

    /// A walk that met no connection.
    #[inline(never)]
    fn look_by_way(&self, port: Port, key: &Key, steps: &Steps) -> Glimpse {
        match self.table.find(&self.verdicts, port, key, steps) {
            Some(Decided::Merged) => Glimpse::Merged,
            Some(Decided::Refused) => Glimpse::Refused,
            None => Glimpse::New,
        }
    }

    /// The connections behind the first. `None` if one of them is gone.
    #[inline(never)]
    fn others(&self, steps: &Steps) -> Option<Others> {
        let mut others = Others { second: None, qualify: true };
        for n in 1..steps.connection_count() {
            let connection = steps.connection(n)?;
            others.qualify &= self.cells.of(connection)?.1.qualified();
            others.second = (n == 1).then(|| Place::of(connection));
        }
        Some(others)
    }

    /// A walk that no verdict of its connection agrees with, and whose connections qualify.
    #[inline(never)]
    fn look_at_connection(&self, cell: &Cell, control: Control, port: Port, key: &Key, steps: &Steps) -> Glimpse {
        let Some(first) = steps.first() else { return Glimpse::New };
        let direction = steps.first_direction().unwrap_or(Direction::Original);
        if control.waits(direction) {
            return Glimpse::Waiting;
        }
        if cell.is_queued(first, direction) {
            return Glimpse::Queued;
        }
        if self.table.find(&self.verdicts, port, key, steps) == Some(Decided::Refused) {
            return Glimpse::Refused;
        }
        if !cell.worth() {
            return Glimpse::NotYet;
        }
        cell.queue(first, direction);
        Glimpse::New
    }

    /// The walk that this connection had queued was judged, or was not handed over after all.
    #[inline]
    pub fn judged(&self, connection: ConnectionHandle, direction: Direction) {
        if let Some(cell) = self.cells.get(connection) {
            cell.unqueue(connection, direction);
        }
    }

    /// There is a connection in this place: its handle. `None` if there is no room for it. What was there must have been closed.
    pub fn open(&self, shard: u8, slot: u32) -> Option<ConnectionHandle> {
        let handle = self.cells.open(shard, slot);
        if handle.is_none() {
            self.turned.connections.fetch_add(1, Ordering::Relaxed);
        }
        handle
    }

    /// The connection is gone. What its cell still listed is forgotten.
    pub fn close(&self, connection: ConnectionHandle) {
        let Some(cell) = self.cells.get(connection) else { return };
        for verdict in cell.close(connection) {
            self.verdicts.release(verdict);
        }
    }

    /// Whether the connection qualifies. To begin with it does not.
    pub fn qualify(&self, connection: ConnectionHandle, qualifies: bool) {
        if let Some(cell) = self.cells.get(connection) {
            cell.qualify(connection, qualifies);
        }
    }

    /// Whether the connection waits for the hardware in this direction: no walk of it is handed over meanwhile.
    pub fn wait(&self, connection: ConnectionHandle, direction: Direction, waits: bool) {
        if let Some(cell) = self.cells.get(connection) {
            cell.wait(connection, direction, waits);
        }
    }

    /// No walk of the connection is handed over before so many were seen ([`seen`](Glance::seen)).
    pub fn worth_at(&self, connection: ConnectionHandle, seen: u32) {
        if let Some(cell) = self.cells.get(connection).filter(|cell| cell.control(connection).is_some()) {
            cell.set_worth_at(seen);
        }
    }

    /// How many walks of the connection were seen that could have been handed over: about, when several datapaths see them.
    pub fn seen(&self, connection: ConnectionHandle) -> Option<u32> {
        let cell = self.cells.get(connection)?;
        cell.control(connection).map(|_| cell.seen())
    }

    /// Makes a verdict known, to be [listed](Glance::list) or [shown](Glance::show). `None` if there is no room for it: such walks
    /// are not recognised. It holds until it is [retired](Glance::retire).
    pub fn publish(&self, verdict: &Verdict) -> Option<VerdictId> {
        let id = self.verdicts.publish(verdict);
        if id.is_none() {
            self.turned.verdicts.fetch_add(1, Ordering::Relaxed);
        }
        id
    }

    /// The verdict holds for the connection, being the first that the way meets, `other` the second. Ways that meet three are not
    /// recognised. False if nothing was listed. A cell without room lists the verdict in place of another.
    pub fn list(&self, connection: ConnectionHandle, other: Option<ConnectionHandle>, verdict: VerdictId) -> bool {
        self.lists(verdict, 1).list(connection, other)
    }

    /// The same for many connections, about so many. The verdict knows how many list it; that number, which all threads write, is raised
    /// for all of them at once.
    pub fn lists(&self, verdict: VerdictId, about: u32) -> Lists<'_> {
        Lists { glance: self, verdict, about, left: std::cell::Cell::new(0) }
    }

    /// It no longer does.
    pub fn unlist(&self, connection: ConnectionHandle, other: Option<ConnectionHandle>, verdict: VerdictId) {
        let Some(cell) = self.cells.get(connection).filter(|cell| cell.control(connection).is_some()) else {
            return;
        };
        if self.verdicts.is(verdict) && cell.unlist(verdict.index(), other) {
            self.verdicts.release(verdict.index());
        }
    }

    /// The verdict holds whatever connections a walk meets; one that says merged only for walks that meet none. False if it is
    /// not shown.
    pub fn show(&self, verdict: VerdictId) -> bool {
        let shown = self.table.show(&self.verdicts, verdict);
        if shown == Some(true) {
            self.turned.shown.fetch_add(1, Ordering::Relaxed);
        }
        shown.is_some()
    }

    /// The verdict no longer holds, for any connection. Its id means nothing from now on.
    pub fn retire(&self, verdict: VerdictId) {
        if self.verdicts.retire(verdict) {
            self.table.hide(&self.verdicts, verdict);
            self.verdicts.release(verdict.index());
        }
    }
}
