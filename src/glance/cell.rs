//! A connection's cell: one line of the cache, all in atomics. Datapaths read it, count in it and mark what they queue; writers, one at a time for
//! each cell, do the rest.
//!
//! What is queued is marked by the generation that the mark is for, in a word for each direction. So marking and unmarking are plain stores:
//! whoever is late marks a connection that is no more. A mark never outlives what it stands for: it is set *before* the walk is handed over,
//! and removed by whoever takes that walk out, or by the datapath if there was no room. (Of two datapaths that hand over at once one may
//! remove the other's mark. Then a walk is queued twice, and nothing else.)

use super::{
    chunks::Chunks,
    verdict::{Decided, Verdicts},
};
use crate::{
    conntrack::{ConnectionHandle, Direction},
    flower::{Key, Port},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    walk::Steps,
};
use smallvec::SmallVec;

/// Verdicts that a cell has room for.
const LISTED: usize = 5;

const OPEN: u32 = 1 << 24;
const QUALIFIED: u32 = 1 << 25;
const WAITS: [u32; 2] = [1 << 26, 1 << 27];

/// In an entry the number of a verdict, and 1, in the low bits; above them the place of the second connection.
const INDEX: u64 = (1 << 24) - 1;

#[repr(align(64))]
#[derive(Debug)]
pub(super) struct Cell {
    /// The generation in 24 bits, and the flags above.
    control: AtomicU32,
    seen: AtomicU32,
    worth_at: AtomicU32,
    queued: [AtomicU32; 2],
    entries: [AtomicU64; LISTED],
}

#[cfg(not(any(feature = "loom", feature = "shuttle")))]
const _: () = assert!(size_of::<Cell>() == 64);

impl Default for Cell {
    fn default() -> Cell {
        Cell {
            control: AtomicU32::new(0),
            seen: AtomicU32::new(0),
            worth_at: AtomicU32::new(0),
            queued: [const { 0 }; 2].map(AtomicU32::new),
            entries: [const { 0 }; LISTED].map(AtomicU64::new),
        }
    }
}

/// What the control word said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control(u32);

impl Control {
    #[inline]
    pub(super) fn qualified(self) -> bool {
        self.0 & QUALIFIED != 0
    }

    #[inline]
    pub(super) fn waits(self, direction: Direction) -> bool {
        self.0 & WAITS[direction as usize] != 0
    }
}

/// How a verdict came into a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Free,
    Already,
    /// In place of this one.
    InPlaceOf(u32),
}

/// The place of a second connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(u64);

impl Place {
    /// That of no connection: there is one only.
    pub(super) const NONE: Place = Place((1 << 40) - 1);

    #[inline]
    pub(super) fn of(connection: ConnectionHandle) -> Place {
        Place(connection.place())
    }
}

fn entry(verdict: u32, other: Option<ConnectionHandle>) -> u64 {
    other.map_or(Place::NONE, Place::of).0 << 24 | (u64::from(verdict) + 1)
}

#[inline]
fn verdict_of(entry: u64) -> Option<u32> {
    (entry & INDEX).checked_sub(1).map(|index| index as u32)
}

/// The generation after that of a closed cell's control word.
fn after(generation: u32) -> u32 {
    generation % ConnectionHandle::LAST_GENERATION + 1
}

impl Cell {
    /// The control word, if it is this connection's.
    #[inline]
    pub(super) fn control(&self, connection: ConnectionHandle) -> Option<Control> {
        let control = self.control.load(Ordering::Acquire);
        let is = control & (ConnectionHandle::LAST_GENERATION | OPEN);
        (is == connection.generation() | OPEN).then_some(Control(control))
    }

    /// What was decided about such a packet of the connection, which had this control word. `second`: the place of the walk's second
    /// connection.
    #[inline(always)]
    pub(super) fn looked_up(
        &self,
        verdicts: &Verdicts,
        control: Control,
        second: Place,
        port: Port,
        key: &Key,
        steps: &Steps,
    ) -> Option<Decided> {
        for entry in &self.entries {
            // What is listed was published before.
            let listed = entry.load(Ordering::Acquire);
            if listed >> 24 != second.0 {
                continue;
            }
            let Some(verdict) = verdict_of(listed) else { continue };
            // A slot is used for another verdict only when no cell lists it. So if it held another one, the list has changed; and if
            // the list is another connection's, so is the cell. The slot was read before. (It may have been listed anew by
            // now, at the same place: then it holds.)
            if let Some(decided) = verdicts.agrees(verdict, port, key, steps)
                && entry.load(Ordering::Acquire) == listed
                && self.control.load(Ordering::Relaxed) == control.0
            {
                return Some(decided);
            }
        }
        None
    }

    #[inline]
    pub(super) fn is_queued(&self, connection: ConnectionHandle, direction: Direction) -> bool {
        self.queued[direction as usize].load(Ordering::Relaxed) == connection.generation()
    }

    #[inline]
    pub(super) fn queue(&self, connection: ConnectionHandle, direction: Direction) {
        self.queued[direction as usize].store(connection.generation(), Ordering::Relaxed);
    }

    pub(super) fn unqueue(&self, connection: ConnectionHandle, direction: Direction) {
        if self.is_queued(connection, direction) {
            // After what was decided: who does not see the mark may as well see that.
            self.queued[direction as usize].store(0, Ordering::Release);
        }
    }

    /// Counts a walk, and tells whether that are enough.
    #[inline]
    pub(super) fn worth(&self) -> bool {
        let seen = self.seen.load(Ordering::Relaxed).saturating_add(1);
        self.seen.store(seen, Ordering::Relaxed);
        seen >= self.worth_at.load(Ordering::Relaxed)
    }

    pub(super) fn seen(&self) -> u32 {
        self.seen.load(Ordering::Relaxed)
    }

    pub(super) fn set_worth_at(&self, seen: u32) {
        self.worth_at.store(seen, Ordering::Relaxed);
    }

    pub(super) fn qualify(&self, connection: ConnectionHandle, qualifies: bool) {
        self.flag(connection, QUALIFIED, qualifies);
    }

    pub(super) fn wait(&self, connection: ConnectionHandle, direction: Direction, waits: bool) {
        self.flag(connection, WAITS[direction as usize], waits);
    }

    fn flag(&self, connection: ConnectionHandle, flag: u32, set: bool) {
        if let Some(Control(control)) = self.control(connection) {
            self.control.store(if set { control | flag } else { control & !flag }, Ordering::Release);
        }
    }

    pub(super) fn list(&self, verdict: u32, other: Option<ConnectionHandle>) -> Listed {
        let new = entry(verdict, other);
        let entries = || self.entries.iter().map(|e| e.load(Ordering::Relaxed));
        if entries().any(|e| e == new) {
            return Listed::Already;
        }
        let free = entries().position(|e| e == 0);
        // Any will do. That of the lowest number has probably been there for long.
        let oldest = || entries().enumerate().min_by_key(|(_, e)| e & INDEX).map_or(0, |(at, _)| at);
        let slot = &self.entries[free.unwrap_or_else(oldest)];
        let displaced = verdict_of(slot.load(Ordering::Relaxed));
        slot.store(new, Ordering::Release);
        displaced.map_or(Listed::Free, Listed::InPlaceOf)
    }

    /// Whether it was listed.
    pub(super) fn unlist(&self, verdict: u32, other: Option<ConnectionHandle>) -> bool {
        let old = entry(verdict, other);
        let found = self.entries.iter().find(|e| e.load(Ordering::Relaxed) == old);
        found.map(|slot| slot.store(0, Ordering::Release)).is_some()
    }

    /// Closes the cell, if it is this connection's. Gives what it listed.
    pub(super) fn close(&self, connection: ConnectionHandle) -> SmallVec<[u32; LISTED]> {
        if self.control(connection).is_none() {
            return SmallVec::new();
        }
        self.control.store(connection.generation(), Ordering::Release);
        let entries = self.entries.iter().filter_map(|slot| {
            let verdict = verdict_of(slot.load(Ordering::Relaxed));
            slot.store(0, Ordering::Release);
            verdict
        });
        entries.collect()
    }

    /// Opens a closed cell for the next connection. Gives its generation.
    fn open(&self) -> Option<u32> {
        let control = self.control.load(Ordering::Relaxed);
        if control & OPEN != 0 {
            return None;
        }
        let generation = after(control);
        self.seen.store(0, Ordering::Relaxed);
        self.worth_at.store(0, Ordering::Relaxed);
        self.control.store(generation | OPEN, Ordering::Release);
        Some(generation)
    }
}

/// The cells of all shards.
#[derive(Debug)]
pub(super) struct Cells {
    cells: Chunks<Cell>,
    of_shard: usize,
    shards: usize,
}

impl Cells {
    pub(super) fn new(shards: usize, of_shard: usize) -> Cells {
        let shards = shards.clamp(1, 256);
        Cells { cells: Chunks::new(shards * of_shard), of_shard, shards }
    }

    #[inline]
    fn index(&self, shard: u8, slot: u32) -> Option<usize> {
        let slot = slot as usize;
        (slot < self.of_shard).then(|| usize::from(shard) * self.of_shard + slot)
    }

    /// The cell of a place, opened or not.
    #[inline]
    pub(super) fn get(&self, connection: ConnectionHandle) -> Option<&Cell> {
        self.cells.get(self.index(connection.shard(), connection.slot())?)
    }

    /// The cell of a connection that is there, and what its control word says.
    #[inline]
    pub(super) fn of(&self, connection: ConnectionHandle) -> Option<(&Cell, Control)> {
        let cell = self.get(connection)?;
        Some((cell, cell.control(connection)?))
    }

    pub(super) fn open(&self, shard: u8, slot: u32) -> Option<ConnectionHandle> {
        // The last place of all stands for no connection.
        if usize::from(shard) >= self.shards || slot == u32::MAX {
            return None;
        }
        let cell = self.cells.make(self.index(shard, slot)?)?;
        ConnectionHandle::new(shard, slot, cell.open()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_go_round_and_leave_0_out() {
        let last = ConnectionHandle::LAST_GENERATION;
        assert_eq!([0, 1, last - 1, last].map(after), [1, 2, last, 1]);
    }
}
