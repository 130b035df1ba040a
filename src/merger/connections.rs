//! Connections: what conntrack tells of them, and what it has to be told: which are busy in hardware, where it does not see them.

use super::{ConnectionEvent, Merger, NotRemoved, told_of};
use crate::{
    conntrack::{Connection, ConnectionHandle, ConnectionId, proto},
    hardware::{Hardware, HardwareError, MergedId},
    sync::{MutexGuard, atomic::Ordering::Relaxed},
    table::{Shard, life::State, shard::Worth},
};
use smallvec::SmallVec;

/// A connection that had traffic in hardware, which conntrack did not see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alive {
    /// The connection.
    pub id: ConnectionId,
    /// When it was last used in hardware, in nanoseconds of the caller's clock.
    pub last_used: u64,
    /// Until when conntrack should keep it: what its timeout would be, had conntrack seen that packet.
    pub until: u64,
}

/// Slots that are looked at between two moments in which others get at the shard.
const BATCH: u32 = 1024;

impl<H: Hardware> Merger<H> {
    /// Conntrack tells of a connection. Whatever rested on what it was leaves the hardware.
    ///
    /// Events of one connection, and of two that have the same tuple in the same zone, must be told one after the other, as conntrack
    /// makes them.
    ///
    /// # Errors
    /// The hardware did not remove a merged filter.
    pub fn connection(&self, event: ConnectionEvent) -> Result<(), NotRemoved> {
        let now = self.now();
        let mut failed = Vec::new();
        match event {
            ConnectionEvent::Is(id, is) => {
                let worth = (self.settings.policy)(&is);
                let mut shard = self.shard_of(id);
                let Some(handle) = shard.handle(id) else {
                    let open = |shard, slot| self.glance().open(shard, slot);
                    match shard.insert_connection(id, is, worth, open) {
                        Some(handle) => self.show(&shard, handle),
                        None => self.tallies.connections.one(),
                    }
                    return Ok(());
                };
                let rests = |e: &crate::table::ConnectionEntry| rests_on_change(&e.connection, &is);
                if shard.connection(handle).is_some_and(rests) {
                    shard = self.clear(shard, handle, now, &mut failed);
                }
                if let Some(entry) = shard.connection_mut(handle) {
                    entry.liberal &= is.tcp.is_some();
                    entry.becomes(is);
                    entry.worth = worth;
                    entry.closing = false;
                }
                self.show(&shard, handle);
            }
            ConnectionEvent::Gone(id) => {
                let shard = self.shard_of(id);
                if let Some(handle) = shard.handle(id) {
                    let mut shard = self.clear(shard, handle, now, &mut failed);
                    self.glance().close(handle);
                    shard.remove_connection(handle);
                }
            }
        }
        told_of(failed)
    }

    /// Gives a connection back to software: everything derived from it leaves the hardware, and nothing is merged on it until
    /// [`take_back`](Merger::take_back). Whether there is such a connection.
    ///
    /// # Errors
    /// The hardware did not remove a merged filter.
    pub fn give_back(&self, id: ConnectionId) -> Result<bool, NotRemoved> {
        let mut failed = Vec::new();
        let shard = self.shard_of(id);
        let Some(handle) = shard.handle(id) else { return Ok(false) };
        let mut shard = self.clear(shard, handle, self.now(), &mut failed);
        if let Some(entry) = shard.connection_mut(handle) {
            entry.held = true;
            entry.closing = false;
        }
        self.show(&shard, handle);
        drop(shard);
        tracing::debug!(id = id.0, "given back to software");
        told_of(failed).map(|()| true)
    }

    /// A connection that was given back may be merged again. Whether there is such a connection.
    pub fn take_back(&self, id: ConnectionId) -> bool {
        let mut shard = self.shard_of(id);
        let Some(handle) = shard.handle(id) else { return false };
        if let Some(entry) = shard.connection_mut(handle) {
            entry.held = false;
        }
        self.show(&shard, handle);
        true
    }

    /// Lets datapaths see whether a connection, whose shard is locked, is worth handing over a walk.
    fn show(&self, shard: &Shard, handle: ConnectionHandle) {
        if let Some(entry) = shard.connection(handle) {
            self.glance().qualify(handle, entry.qualifies());
            if let Worth::After(walks) = entry.worth {
                self.glance().worth_at(handle, walks);
            }
        }
    }

    /// Takes out what derives from a connection, whose shard is locked before and after. It stays marked as closing, so that nothing
    /// new is made of it meanwhile. Should another call that was about the same connection end before, and take that mark off, what
    /// was made of it since then goes, too.
    fn clear<'a>(
        &'a self,
        mut shard: MutexGuard<'a, Shard>,
        handle: ConnectionHandle,
        now: u64,
        failed: &mut Vec<HardwareError>,
    ) -> MutexGuard<'a, Shard> {
        let mut cleared: SmallVec<[MergedId; 4]> = SmallVec::new();
        let mut stuck_too = false;
        while let Some(entry) = shard.connection_mut(handle) {
            // What is gone may still be linked to it for a moment, from another shard.
            let left = entry.merged.iter().filter(|id| !cleared.contains(id));
            let ids: SmallVec<[MergedId; 4]> = left.copied().collect();
            // What another call could not take out is linked to it no more.
            let stuck = !stuck_too && self.stuck_count.load(Relaxed) > 0;
            if ids.is_empty() && !stuck {
                break;
            }
            entry.closing = true;
            drop(shard);
            self.remove_all(&ids, now, failed);
            cleared.extend(ids);
            if stuck {
                stuck_too = true;
                self.remove_stuck_on(handle, now, failed);
            }
            shard = self.shard(handle.shard());
        }
        shard
    }
}

impl<H> Merger<H> {
    /// The connections that had traffic in hardware since this was last asked, as far as counters were read since then
    /// ([`read_all`](Merger::read_all)), so that their timeouts can be extended: conntrack does not see that traffic, and would let
    /// them expire. `now`: in nanoseconds of the caller's clock.
    pub fn keep_alive(&self, now: u64) -> Vec<Alive> {
        let since = self.alive.swap(now, Relaxed);
        let mut used: Vec<(ConnectionHandle, u64)> = Vec::new();
        for index in 0..self.count() {
            let mut from = Some(0);
            while let Some(slot) = from {
                from = self.shard(index).from(slot, BATCH, |_, merged, meter| {
                    if merged.state == State::Installed && meter.was_used() && meter.used >= since {
                        used.extend(merged.connections.all().iter().map(|&c| (c, meter.used)));
                    }
                });
            }
        }
        // Each once, its latest use last.
        used.sort_unstable();
        let latest = used.chunk_by(|a, b| a.0 == b.0).filter_map(|uses| uses.last());
        latest
            .filter_map(|&(handle, last_used)| {
                let shard = self.shard(handle.shard());
                let entry = shard.connection(handle)?;
                let timeout = match entry.connection.original.proto {
                    proto::TCP => self.settings.tcp_timeout,
                    _ => self.settings.udp_timeout,
                };
                Some(Alive { id: entry.id, last_used, until: last_used.saturating_add(timeout) })
            })
            .collect()
    }
}

/// Whether merged filters that rest on a connection must go when it becomes this.
fn rests_on_change(before: &Connection, now: &Connection) -> bool {
    now.qualifies().is_err()
        || (before.zone, before.original, before.reply) != (now.zone, now.original, now.reply)
        || (before.mark, before.labels) != (now.mark, now.labels)
}
