//! Counters: read from the hardware in bulk, gathered by path, handed to the parents.

use super::Merger;
use crate::{
    flower::{Cookie, Counters, Counts},
    hardware::{Hardware, HardwareError, MergedId, Reading},
    sync::atomic::Ordering::Relaxed,
    table::{Counted, Merged, PathId, Table, life::State},
};
use smallvec::SmallVec;

/// How many are read between two moments in which others get at the shard.
const BATCH: usize = 512;

/// How often a list that changes is begun again before it is held still.
const AGAIN: usize = 3;

/// What merged filters counted since they were last read, summed while neighbours share a path, as most do: so the parents are handed
/// one sum, and what the path says is looked up once.
pub(super) struct Sums<'t> {
    table: &'t Table,
    counts: Counts,
    path: Option<PathId>,
    overhead: u64,
    sum: Counted,
    before: SmallVec<[(PathId, Counted); 4]>,
}

impl<'t> Sums<'t> {
    /// Nothing yet.
    pub fn new(table: &'t Table, counts: Counts) -> Sums<'t> {
        Sums { table, counts, path: None, overhead: 0, sum: Counted::default(), before: SmallVec::new() }
    }

    /// Takes a merged filter's reading over.
    #[inline]
    pub fn take(&mut self, merged: &mut Merged, reading: &Reading) {
        self.turn_to(merged.path);
        let counted = merged.advance(reading, |packets, all| bytes(self.counts, self.overhead, packets, all));
        self.sum.add(counted);
    }

    /// What a merged filter has counted in all, as TC would have.
    pub fn counters(&mut self, merged: &Merged) -> Counters {
        self.turn_to(merged.path);
        merged.counters(|packets, all| bytes(self.counts, self.overhead, packets, all))
    }

    #[inline]
    fn turn_to(&mut self, path: PathId) {
        if self.path != Some(path) {
            self.end_path();
            self.overhead = self.table.entry(path).map_or(0, |entry| entry.overhead);
            self.path = Some(path);
        }
    }

    fn end_path(&mut self) {
        let sum = std::mem::take(&mut self.sum);
        if let Some(path) = self.path.filter(|_| sum.all.packets > 0) {
            self.before.push((path, sum));
        }
    }

    /// The sums.
    pub fn all(mut self) -> SmallVec<[(PathId, Counted); 4]> {
        self.end_path();
        self.before
    }
}

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
                from = shard.from(slot, BATCH as u32, |id, merged| {
                    if merged.state == State::Installed {
                        ids.push(id);
                    }
                });
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
        let mut sums = Sums::new(&table, self.capabilities.counts);
        let mut shard = self.shard(index);
        if shard.epoch() != epoch {
            return;
        }
        for (id, reading) in &*read {
            // What is stuck counts where it is tracked from now on.
            if let Some(merged) = shard.merged_mut(*id).filter(|m| m.state != State::Stuck) {
                sums.take(merged, reading);
            }
        }
        // Before anyone can take one of them out and tell its last counts.
        self.hand(&table, &sums.all());
    }
}

impl<H> Merger<H> {
    /// Hands what paths counted to their parents.
    pub(super) fn hand(&self, table: &Table, gathered: &[(PathId, Counted)]) {
        if gathered.is_empty() {
            return;
        }
        let mut ledger = self.ledger.lock();
        for &(path, counted) in gathered {
            if let Some(entry) = table.entry(path) {
                ledger.hand(entry.parents(), counted);
            }
        }
    }

    /// How many merged filters there are, on their way in and out included.
    pub fn merged_count(&self) -> usize {
        self.merged.load(Relaxed)
    }
}
