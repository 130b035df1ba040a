//! Verdicts by their way: for walks without a connection, and for what is refused whatever the connection.
//!
//! A way has one place, of a few entries; ways that meet there displace each other. An entry is a verdict's number and eight bits of its way's, so
//! that other ways are passed over without looking at them.

use super::{
    verdict::{Decided, VerdictId, Verdicts},
    way_of,
};
use crate::{
    flower::{Key, Port},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    walk::Steps,
};

/// Entries in a place: half a line of the cache.
const ENTRIES: usize = 8;

#[derive(Debug)]
pub(super) struct Table {
    places: Box<[[AtomicU32; ENTRIES]]>,
    /// Who writes has it; which entry is displaced next.
    writer: Mutex<usize>,
}

/// An entry: the number of the verdict, and 1, below the bits of its way's number.
fn entry(verdict: u32, way: u64) -> u32 {
    tag(way) | (verdict + 1)
}

#[inline]
fn tag(way: u64) -> u32 {
    (way >> 56 << 24) as u32
}

#[inline]
fn verdict_of(entry: u32) -> Option<u32> {
    (entry & 0x00ff_ffff).checked_sub(1)
}

impl Table {
    /// Room for about so many.
    pub(super) fn new(ways: usize) -> Table {
        let places = ways.div_ceil(ENTRIES).next_power_of_two();
        Table { places: (0..places).map(|_| [0; ENTRIES].map(AtomicU32::new)).collect(), writer: Mutex::new(0) }
    }

    #[inline]
    fn place(&self, way: u64) -> &[AtomicU32; ENTRIES] {
        &self.places[way as usize & (self.places.len() - 1)]
    }

    /// What was decided about such a packet.
    #[inline(never)]
    pub(super) fn find(&self, verdicts: &Verdicts, port: Port, key: &Key, steps: &Steps) -> Option<Decided> {
        let way = way_of(port, steps);
        let tag = tag(way);
        for entry in self.place(way) {
            let shown = entry.load(Ordering::Acquire);
            // Shown still, it is the verdict that was read, as in a cell.
            if shown & 0xff00_0000 == tag
                && let Some(verdict) = verdict_of(shown)
                && let Some(decided) = verdicts.agrees(verdict, port, key, steps)
                && entry.load(Ordering::Acquire) == shown
            {
                return Some(decided);
            }
        }
        None
    }

    /// Shows a verdict. Gives whether another one had to go; `None` if it is not shown.
    pub(super) fn show(&self, verdicts: &Verdicts, id: VerdictId) -> Option<bool> {
        if !verdicts.hold(id) {
            return None;
        }
        let Some((way, true)) = verdicts.way(id) else {
            verdicts.release(id.index());
            return None;
        };
        let mut next = self.writer.lock();
        let (place, new) = (self.place(way), entry(id.index(), way));
        let entries = || place.iter().map(|e| e.load(Ordering::Relaxed));
        if entries().any(|e| e == new) {
            verdicts.release(id.index());
            return Some(false);
        }
        let at = entries().position(|e| e == 0).unwrap_or_else(|| {
            *next = (*next + 1) % ENTRIES;
            *next
        });
        let displaced = verdict_of(place[at].load(Ordering::Relaxed));
        // Retired meanwhile, it was looked for here, or will be now that the lock is free.
        let shown = !verdicts.is_retired(id);
        place[at].store(if shown { new } else { 0 }, Ordering::Release);
        drop(next);
        displaced.into_iter().for_each(|verdict| verdicts.release(verdict));
        if !shown {
            verdicts.release(id.index());
            return None;
        }
        Some(displaced.is_some())
    }

    /// Shows a retired verdict no more.
    pub(super) fn hide(&self, verdicts: &Verdicts, id: VerdictId) {
        let Some((way, _)) = verdicts.way(id) else { return };
        let old = entry(id.index(), way);
        let writer = self.writer.lock();
        let shown = self.place(way).iter().find(|e| e.load(Ordering::Relaxed) == old);
        shown.inspect(|slot| slot.store(0, Ordering::Release));
        drop(writer);
        if shown.is_some() {
            verdicts.release(id.index());
        }
    }
}
