//! Hardware that failed is asked again, each time later: what it would not remove (*stuck*), and what it could not install
//! (*waiting*).

use super::{Merger, Removed, counters};
use crate::{
    conntrack::ConnectionHandle,
    flower::{Match, Port},
    hardware::{Hardware, HardwareError, MergedId, Reading},
    merge::Parent,
    sync::atomic::Ordering::Relaxed,
    table::{
        Account, Links,
        life::{Event, State},
        meter::Remains,
    },
};
use smallvec::SmallVec;
use std::{cmp::Reverse, collections::BinaryHeap};

/// A merged filter that should be gone, but that the hardware did not remove.
#[derive(Debug)]
pub(super) struct Stuck {
    pub id: MergedId,
    pub port: Port,
    pub matches: Match,
    pub connections: Links,
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

/// When what is stuck is due while a thread is about it.
const TRIED: u64 = u64::MAX;

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
        let due = take(&mut self.stuck.lock(), |s| s.due <= now);
        self.remove_again(&due, now);
    }

    /// Tries again at once what the hardware would not remove and counts for one of these accounts, so that the accounts can be closed;
    /// what fails is told. `failed`: what failed just now, and is not tried again at once.
    pub(super) fn remove_stuck_of(&self, accounts: &[Account], now: u64, failed: &mut Vec<HardwareError>) {
        self.remove_stuck_if(|s| s.parents.iter().any(|(account, _)| accounts.contains(account)), now, failed);
    }

    /// The same for what rests on a connection.
    pub(super) fn remove_stuck_on(&self, connection: ConnectionHandle, now: u64, failed: &mut Vec<HardwareError>) {
        self.remove_stuck_if(|s| s.connections.all().contains(&connection), now, failed);
    }

    fn remove_stuck_if(&self, concerns: impl Fn(&Stuck) -> bool, now: u64, failed: &mut Vec<HardwareError>) {
        if self.stuck_count.load(Relaxed) == 0 {
            return;
        }
        let failed_now: SmallVec<[MergedId; 4]> = failed.iter().map(HardwareError::id).collect();
        let concerns = |s: &Stuck| concerns(s) && !failed_now.contains(&s.id);
        let mut stuck = self.stuck.lock();
        while stuck.iter().any(|s| s.due == TRIED && concerns(s)) {
            self.tried.wait(&mut stuck);
        }
        let due = take(&mut stuck, concerns);
        drop(stuck);
        self.remove_again(&due, now);
        let stuck = self.stuck.lock();
        failed.extend(stuck.iter().filter(|s| due.contains(&s.id)).map(|s| s.error.clone()));
    }

    fn remove_again(&self, due: &[MergedId], now: u64) {
        for &id in due {
            let removed = self.hardware.remove(id);
            self.removed_at_last(id, removed, now);
            self.tried.notify_all();
        }
    }

    fn removed_at_last(&self, id: MergedId, removed: Result<Reading, HardwareError>, now: u64) {
        let mut all = self.stuck.lock();
        // A reset may have taken it off the list.
        let Some(at) = all.iter().position(|s| s.id == id) else { return };
        let reading = match removed {
            Ok(reading) => Some(reading),
            Err(HardwareError::Missing { .. }) => None,
            Err(error) => {
                let stuck = &mut all[at];
                stuck.failures = stuck.failures.saturating_add(1);
                stuck.due = now.saturating_add(self.settings.wait(stuck.failures)).min(TRIED - 1);
                stuck.error = error;
                self.tallies.faults.one();
                return;
            }
        };
        let mut stuck = all.swap_remove(at);
        if let Some(reading) = reading {
            let bytes = |packets, all| counters::bytes(self.capabilities.counts, stuck.overhead, packets, all);
            let counted = stuck.merged.advance(&reading).counted(bytes);
            self.ledger.lock().hand(stuck.parents.iter().map(|(account, parent)| (*account, parent)), counted);
        }
        drop(all);
        self.stuck_count.fetch_sub(1, Relaxed);
        self.gone_at_last(&stuck);
    }

    /// Tells that what was stuck is gone.
    pub(super) fn gone_at_last(&self, stuck: &Stuck) {
        let bytes = |packets, all| counters::bytes(self.capabilities.counts, stuck.overhead, packets, all);
        tracing::debug!(id = %stuck.id, "left at last");
        self.tell_removed(vec![Removed { id: stuck.id, counters: stuck.merged.counters(bytes) }]);
    }
}

/// Takes those that are due: nobody else asks the hardware for them, but all see them.
fn take(stuck: &mut [Stuck], is_due: impl Fn(&Stuck) -> bool) -> Vec<MergedId> {
    let due = stuck.iter_mut().filter(|s| s.due != TRIED && is_due(s));
    due.map(|s| {
        s.due = TRIED;
        s.id
    })
    .collect()
}

impl<H> Merger<H> {
    /// The merged filters that the hardware should have removed and has not, and why.
    pub fn stuck(&self) -> Vec<HardwareError> {
        self.stuck.lock().iter().map(|s| s.error.clone()).collect()
    }
}
