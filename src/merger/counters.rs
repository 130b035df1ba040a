//! Counters: read from the hardware in bulk, gathered by path, handed to the parents.

use super::Merger;
use crate::{
    flower::{Cookie, Counters, Counts},
    hardware::{Hardware, HardwareError, MergedId, Reading},
    sync::atomic::Ordering::Relaxed,
    table::{PathId, Table, meter::Sums},
};

/// How many are read between two moments in which others get at the shard.
const BATCH: usize = 512;

/// How often a list that changes is begun again before it is held still.
const AGAIN: usize = 3;

/// Bytes as TC counts them, of what the hardware counted.
pub(super) fn bytes(counts: Counts, overhead: u64, packets: u64, bytes: u64) -> u64 {
    match counts {
        Counts::Ingress => bytes,
        Counts::Frame => bytes.saturating_sub(packets.saturating_mul(overhead)),
    }
}

impl<H: Hardware> Merger<H> {
    /// What merged filters counted for each action of a filter, read from the hardware now.
    pub fn stats(&self, cookie: Cookie) -> Vec<Counters> {
        let paths: Vec<PathId> = self.table.read().paths_through(cookie).collect();
        for path in paths {
            for index in 0..self.count() {
                self.read_path(index, path);
            }
        }
        self.counted(cookie)
    }

    /// What merged filters had counted for each action of a filter when they were last read; the hardware is not asked.
    pub fn counted(&self, cookie: Cookie) -> Vec<Counters> {
        let account = self.table.read().account(cookie);
        account.map(|account| self.ledger.lock().of(account).to_vec()).unwrap_or_default()
    }

    /// Reads all merged filters' counters and hands them to their parents.
    pub fn read_all(&self) {
        let mut read = Vec::with_capacity(BATCH);
        let mut ids = Vec::with_capacity(BATCH);
        for index in 0..self.count() {
            let mut from = Some(0);
            while let Some(slot) = from {
                ids.clear();
                let shard = self.shard(index);
                let epoch = shard.epoch();
                // Of those that are not in hardware now it says that they are missing.
                from = shard.counting(slot, BATCH as u32, |id| ids.push(id));
                drop(shard);
                self.read(index, epoch, &ids, &mut read);
            }
        }
    }

    /// Reads a path's merged filters of one shard.
    fn read_path(&self, index: u8, path: PathId) {
        let mut from: Option<MergedId> = None;
        let mut again = 0;
        let (mut ids, mut read) = (Vec::new(), Vec::new());
        loop {
            ids.clear();
            let shard = self.shard(index);
            let epoch = shard.epoch();
            if from.is_some_and(|id| !shard.is_linked(id)) {
                // What is read twice counts once.
                from = None;
                again += 1;
            }
            let most = if again < AGAIN { BATCH } else { usize::MAX };
            let mut next = from.map_or_else(|| shard.first_of(path), |id| shard.after(id));
            while let Some(id) = next.filter(|_| ids.len() < most) {
                ids.push(id);
                next = shard.after(id);
            }
            drop(shard);
            self.read(index, epoch, &ids, &mut read);
            if next.is_none() {
                return;
            }
            from = ids.last().copied();
        }
    }

    /// Reads some merged filters of one shard. `epoch`: how often the hardware had lost everything when they were there. `read`: room
    /// for what is read.
    fn read(&self, index: u8, epoch: u32, ids: &[MergedId], read: &mut Vec<(MergedId, Reading)>) {
        read.clear();
        self.hardware.read(ids, &mut |id, reading| match reading {
            Ok(reading) => read.push((id, reading)),
            // It has gone meanwhile, with its last reading, or is not there yet.
            Err(HardwareError::Missing { .. }) => {}
            Err(error) => {
                self.tallies.faults.one();
                tracing::debug!(%error, "not read");
            }
        });
        if read.is_empty() {
            return;
        }
        let table = self.table.read();
        let mut sums = Sums::default();
        let mut shard = self.shard(index);
        if shard.epoch() != epoch {
            return;
        }
        for (id, reading) in &*read {
            shard.read(*id, reading, &mut sums);
        }
        // Before anyone can take one of them out and tell its last counts.
        self.hand(&table, sums);
    }
}

impl<H> Merger<H> {
    /// Hands what paths counted to their parents.
    pub(super) fn hand(&self, table: &Table, sums: Sums) {
        let sums = sums.all();
        if sums.is_empty() {
            return;
        }
        let mut ledger = self.ledger.lock();
        for (path, sum) in sums {
            if let Some(entry) = table.entry(path) {
                let counted = sum.counted(|packets, all| bytes(self.capabilities.counts, entry.overhead, packets, all));
                ledger.hand(entry.parents(), counted);
            }
        }
    }

    /// How many merged filters there are, on their way in and out included.
    pub fn merged_count(&self) -> usize {
        self.merged.load(Relaxed)
    }
}
