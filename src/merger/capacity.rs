//! Room in the hardware: a full table, idle merged filters, and a table that has lost everything.
//!
//! [`Merger::sweep`] is called now and then, the interval being the caller's: it reads all counters, takes out what is idle, and notes
//! the least used. When the table is full, one of these makes room for a newcomer that is busier by far: its connection brought at
//! least twice as many walks to software in an interval as the other has packets in hardware, and the other has been there for a while.
//! So two that are alike do not push each other out.

use super::Merger;
use crate::{
    conntrack::ConnectionHandle,
    hardware::{Hardware, HardwareError, MergedId, Offer},
    sync::atomic::Ordering::Relaxed,
    table::life::{Event, State},
};

/// How many of the least used are known at a time.
const COLD: usize = 1024;

/// Slots that are looked at between two moments in which others get at the shard.
const BATCH: u32 = 512;

impl<H: Hardware> Merger<H> {
    /// Reads all counters, takes out what has been idle for too long, and begins a new interval for what is busy. `now`: in nanoseconds of
    /// the caller's clock. What the hardware did not remove is tracked and tried again.
    pub fn sweep(&self, now: u64) {
        self.clock.fetch_max(now, Relaxed);
        self.read_all();
        let mut cold: Vec<(u32, MergedId)> = Vec::new();
        let mut idle: Vec<MergedId> = Vec::new();
        for index in 0..self.count() {
            let mut from = Some(0);
            while let Some(slot) = from {
                let table = self.table.read();
                let mut shard = self.shard(index);
                from = shard.from_mut(slot, BATCH, |id, merged, meter| {
                    let recent = std::mem::take(&mut meter.recent);
                    if merged.state != State::Installed || table.entry(merged.path).is_none_or(|e| e.alone) {
                        return;
                    }
                    let unused = now.saturating_sub(meter.used);
                    if self.settings.idle.is_some_and(|most| unused >= most) {
                        idle.push(id);
                    } else if unused >= self.settings.settled || meter.was_used() {
                        cold.push((recent, id));
                    }
                });
                shard.begin_interval(slot, BATCH);
            }
            // The least used are kept, the others need not be known.
            if cold.len() > 4 * COLD {
                least(&mut cold);
            }
        }
        least(&mut cold);
        cold.sort_unstable_by(|a, b| b.cmp(a));
        *self.cold.lock() = cold;
        self.tallies.idle.add(idle.len() as u64);
        if !idle.is_empty() {
            tracing::debug!(count = idle.len(), "idle");
            self.remove_all(&idle, now, &mut Vec::new());
        }
    }

    /// The table is full: a merged filter that is used much less makes room, if there is one.
    pub(super) fn displace(
        &self,
        offer: &Offer<'_>,
        handles: &[ConnectionHandle],
        now: u64,
    ) -> Result<(), HardwareError> {
        let full = Err(HardwareError::Full { id: offer.id, size: self.merged_count() });
        let seen = handles.iter().filter_map(|&h| Some(self.shard(h.shard()).connection(h)?.recent));
        let seen = seen.max().unwrap_or(0).max(1);
        loop {
            // In a statement of its own, so that the list is free again before it is asked for once more, and the hardware is called.
            let Some((recent, id)) = self.cold.lock().pop() else { break };
            if u64::from(seen) <= 2 * u64::from(recent) {
                // All others are busier still.
                self.cold.lock().push((recent, id));
                break;
            }
            let mine = {
                let mut shard = self.shard(self.shard_of_merged(id));
                let merged = shard.merged_mut(id);
                // It may have become busy, or gone, since it was looked at.
                merged.filter(|m| m.state == State::Installed).map(|m| m.step(Event::Doomed)).is_some()
            };
            if !mine {
                continue;
            }
            let (removed, installed) = self.hardware.replace(id, offer);
            tracing::debug!(%id, by = %offer.id, "displaced");
            self.removed((id, removed), now, &mut Vec::new());
            self.tallies.displaced.one();
            return installed;
        }
        self.tallies.full.one();
        full
    }

    /// The hardware was reset and has lost all its entries, with what they counted since they were last read. Each is offered again by the
    /// next [`drain`](Merger::drain)s; what it would not remove is gone. From the loss until this returns the hardware installs nothing: it
    /// fails ([`HardwareError::Failed`]). No call into the hardware may be under way that was begun before the reset, but for installs and
    /// removals, whose outcome is not relied upon.
    pub fn reset(&self, now: u64) {
        self.clock.fetch_max(now, Relaxed);
        tracing::info!("hardware was reset");
        for index in 0..self.count() {
            let table = self.table.read();
            let mut shard = self.shard(index);
            shard.begin_epoch();
            let mut again = Vec::new();
            let end = shard.end();
            let mut all = Vec::new();
            shard.from(0, end, |id, _, _| all.push(id));
            all.into_iter().for_each(|id| self.unseen(&table, &shard, id));
            shard.from_mut(0, end, |id, merged, meter| {
                // What was stuck at an earlier reset may not have been freed yet.
                if merged.state == State::Gone {
                    return;
                }
                merged.step(Event::Reset);
                if merged.state == State::Waiting {
                    meter.begin_anew();
                    again.push(id);
                }
            });
            let mut retries = self.retries.lock();
            again.into_iter().for_each(|id| retries.push(now, id));
        }
        let stuck = std::mem::take(&mut *self.stuck.lock());
        self.stuck_count.fetch_sub(stuck.len(), Relaxed);
        for one in stuck {
            self.gone_at_last(&one);
        }
    }
}

/// Keeps the least used.
fn least(cold: &mut Vec<(u32, MergedId)>) {
    if cold.len() > COLD {
        cold.select_nth_unstable(COLD);
        cold.truncate(COLD);
    }
}
