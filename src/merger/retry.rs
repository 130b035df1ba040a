//! Hardware that failed is asked again, each time later: what it would not remove (*stuck*), and what it could not install
//! (*waiting*).

use super::{Merger, Removed, counters};
use crate::{
    flower::{Match, Port},
    hardware::{Hardware, HardwareError, MergedId},
    merge::Parent,
    sync::atomic::Ordering::Relaxed,
    table::{
        Account,
        life::{Event, State},
        shard::Remains,
    },
};
use smallvec::smallvec;
use std::{cmp::Reverse, collections::BinaryHeap};

/// A merged filter that should be gone, but that the hardware did not remove.
#[derive(Debug)]
pub(super) struct Stuck {
    pub id: MergedId,
    pub port: Port,
    pub matches: Match,
    pub merged: Remains,
    pub parents: Vec<(Account, Parent)>,
    pub overhead: u64,
    pub failures: u8,
    pub due: u64,
    pub error: HardwareError,
}

/// The merged filters that are to be offered again, and when.
#[derive(Debug, Default)]
pub(super) struct Retries(BinaryHeap<Reverse<(u64, MergedId)>>);

impl Retries {
    pub fn push(&mut self, due: u64, id: MergedId) {
        self.0.push(Reverse((due, id)));
    }

    fn take(&mut self, now: u64, most: usize) -> Vec<MergedId> {
        let mut due = Vec::new();
        while due.len() < most
            && let Some(&Reverse((when, id))) = self.0.peek()
            && when <= now
        {
            self.0.pop();
            due.push(id);
        }
        due
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// How many are offered again between two moments in which others get at them.
const BATCH: usize = 64;

impl<H: Hardware> Merger<H> {
    /// Tries again what is due.
    pub(super) fn try_again(&self, now: u64) {
        if self.stuck_count.load(Relaxed) > 0 {
            self.remove_stuck(now);
        }
        // Of those that were due at the beginning: what fails again may be due at once.
        let mut left = self.retries.lock().len();
        while left > 0 {
            let due = self.retries.lock().take(now, BATCH.min(left));
            if due.is_empty() {
                return;
            }
            left -= due.len();
            let due = due.into_iter().filter(|&id| {
                let mut shard = self.shard(self.shard_of_merged(id));
                let merged = shard.merged_mut(id).filter(|m| m.state == State::Waiting);
                merged.map(|m| m.step(Event::Due)).is_some()
            });
            let due: Vec<MergedId> = due.collect();
            self.offer_again(&due, now);
        }
    }

    /// Tries again what the hardware would not remove.
    fn remove_stuck(&self, now: u64) {
        // Those that are tried are with this thread: nobody else asks the hardware for them, but all see them.
        let due: Vec<MergedId> = {
            let mut stuck = self.stuck.lock();
            let due = stuck.iter_mut().filter(|s| s.due <= now);
            due.map(|s| {
                s.due = u64::MAX;
                s.id
            })
            .collect()
        };
        for id in due {
            let removed = self.hardware.remove(id);
            let mut all = self.stuck.lock();
            let Some(at) = all.iter().position(|s| s.id == id) else { continue };
            match removed {
                Ok(reading) => {
                    let mut stuck = all.swap_remove(at);
                    let bytes = |packets, all| counters::bytes(self.capabilities.counts, stuck.overhead, packets, all);
                    let counted = stuck.merged.advance(&reading, bytes);
                    self.ledger.lock().hand(stuck.parents.iter().map(|(account, parent)| (*account, parent)), counted);
                    drop(all);
                    self.stuck_count.fetch_sub(1, Relaxed);
                    self.gone_at_last(&stuck);
                }
                Err(HardwareError::Missing { .. }) => {
                    let stuck = all.swap_remove(at);
                    drop(all);
                    self.stuck_count.fetch_sub(1, Relaxed);
                    self.gone_at_last(&stuck);
                }
                Err(error) => {
                    let stuck = &mut all[at];
                    stuck.failures = stuck.failures.saturating_add(1);
                    stuck.due = now.saturating_add(self.settings.wait(stuck.failures));
                    stuck.error = error;
                    self.tallies.faults.one();
                }
            }
        }
    }

    /// Tells that what was stuck is gone.
    pub(super) fn gone_at_last(&self, stuck: &Stuck) {
        let bytes = |packets, all| counters::bytes(self.capabilities.counts, stuck.overhead, packets, all);
        tracing::debug!(id = %stuck.id, "left at last");
        self.tell_removed(smallvec![Removed { id: stuck.id, counters: stuck.merged.counters(bytes) }]);
    }
}

impl<H> Merger<H> {
    /// The merged filters that the hardware should have removed and has not, and why.
    pub fn stuck(&self) -> Vec<HardwareError> {
        self.stuck.lock().iter().map(|s| s.error.clone()).collect()
    }
}
