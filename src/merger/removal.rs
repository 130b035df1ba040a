//! Out of hardware: what is doomed is taken out in batches, its last counts handed to the parents, and waited for where another
//! thread is about it.
//!
//! A merged filter that the hardware does not give up is *stuck*: it may still handle packets. So it stays known, keeps its
//! packets from being merged again, and hands on what it counts to those parents that are left, until it is gone.

use super::{
    Merger, REMOVED, Removed, counters,
    planted::{self, Fault},
    retry::Stuck,
};
use crate::{
    conntrack::{Connection, ConnectionHandle},
    hardware::{Hardware, HardwareError, MergedId, Offer, Reading},
    sync::atomic::Ordering::Relaxed,
    table::{
        Counted, Doom, PathId, Shard, Table,
        life::{Event, State},
    },
};
use smallvec::SmallVec;

/// How many are taken out between two moments in which others get at the shard.
const BATCH: usize = 64;

/// Who takes a doomed merged filter out of hardware.
pub(super) enum Fate {
    /// Whoever asked.
    Mine,
    /// Another thread, which is about it.
    Others,
    /// Nobody: it is not there.
    Gone,
}

/// A removal that was tried.
pub(super) type Tried = (MergedId, Result<Reading, HardwareError>);

impl<H: Hardware> Merger<H> {
    /// Takes out what must go.
    pub(super) fn carry_out(&self, doomed: &[Doom], now: u64, failed: &mut Vec<HardwareError>) {
        let mut others = Vec::new();
        for index in 0..self.count() {
            self.carry_out_in(index, doomed, now, &mut others, failed);
        }
        self.wait_for(&others, failed);
        self.table.write().bury(doomed);
    }

    fn carry_out_in(
        &self,
        index: u8,
        doomed: &[Doom],
        now: u64,
        others: &mut Vec<MergedId>,
        failed: &mut Vec<HardwareError>,
    ) {
        let mut left = doomed.iter();
        let mut doom = left.next();
        // Of a path that stays: from which of its merged filters on to look.
        let mut from: Option<MergedId> = None;
        while doom.is_some() {
            let mut mine: SmallVec<[MergedId; BATCH]> = SmallVec::new();
            let mut elsewhere: SmallVec<[_; 2]> = SmallVec::new();
            let mut shard = self.shard(index);
            // What was looked at last may have gone meanwhile; what came meanwhile stands in front, and is not reached.
            from = from.filter(|&id| shard.is_linked(id));
            while let Some(Doom { path, only }) = doom
                && mine.len() < BATCH
            {
                let next = match from {
                    Some(id) => shard.after(id),
                    None => shard.first_of(*path),
                };
                let Some(id) = next else {
                    doom = left.next();
                    from = None;
                    continue;
                };
                if !only.is_empty() && !self.is_reached(&shard, id, only) {
                    from = Some(id);
                    continue;
                }
                match doom_one(&mut shard, id) {
                    Fate::Mine => mine.push(id),
                    Fate::Others => others.push(id),
                    Fate::Gone => elsewhere.extend(self.freed(&mut shard, id)),
                }
                shard.unlink(id);
            }
            drop(shard);
            self.forget_elsewhere(&elsewhere);
            self.remove_now(&mine, now, failed);
        }
    }

    /// Whether a filter that reaches connections like this takes packets of the merged filter.
    fn is_reached(&self, shard: &Shard, id: MergedId, only: &[crate::merge::template::Is]) -> bool {
        let Some(merged) = shard.merged(id) else { return false };
        let known: SmallVec<[&Connection; 2]> =
            merged.connections.all().iter().filter_map(|&c| Some(&shard.connection(c)?.connection)).collect();
        // Of connections that are not here nobody can tell.
        known.len() < merged.connections.all().len() || only.iter().all(|is| is.holds(&known))
    }

    /// Takes these out, wherever they are.
    pub(super) fn remove_all(&self, ids: &[MergedId], now: u64, failed: &mut Vec<HardwareError>) {
        let mut others = Vec::new();
        for ids in ids.chunks(BATCH) {
            let mut mine: SmallVec<[MergedId; BATCH]> = SmallVec::new();
            for &id in ids {
                let mut shard = self.shard(self.shard_of_merged(id));
                if shard.merged(id).is_none() {
                    continue;
                }
                match doom_one(&mut shard, id) {
                    Fate::Mine => mine.push(id),
                    Fate::Others => others.push(id),
                    Fate::Gone => {
                        let elsewhere = self.freed(&mut shard, id);
                        drop(shard);
                        self.forget_elsewhere(&elsewhere);
                    }
                }
            }
            self.remove_now(&mine, now, failed);
        }
        self.wait_for(&others, failed);
    }

    /// Asks the hardware to remove these, whose state says that this thread does.
    pub(super) fn remove_now(&self, ids: &[MergedId], now: u64, failed: &mut Vec<HardwareError>) {
        let tried: SmallVec<[Tried; 4]> = ids.iter().map(|&id| (id, self.hardware.remove(id))).collect();
        self.removed(&tried, now, failed);
    }

    /// What came of removals.
    pub(super) fn removed(&self, tried: &[Tried], now: u64, failed: &mut Vec<HardwareError>) {
        for group in tried.chunk_by(|a, b| self.shard_of_merged(a.0) == self.shard_of_merged(b.0)) {
            self.removed_from(self.shard_of_merged(group[0].0), group, now, failed);
        }
    }

    fn removed_from(&self, index: u8, tried: &[Tried], now: u64, failed: &mut Vec<HardwareError>) {
        let table = self.table.read();
        let mut counted: SmallVec<[(PathId, Counted); 4]> = SmallVec::new();
        let mut told: SmallVec<[Removed; 4]> = SmallVec::new();
        let mut kept = false;
        let mut shard = self.shard(index);
        for (id, result) in tried {
            let Some(merged) = shard.merged_mut(*id) else { continue };
            let path = merged.path;
            let overhead = table.entry(path).map_or(0, |e| e.overhead);
            let bytes = |packets, all| counters::bytes(self.capabilities.counts, overhead, packets, all);
            match result {
                Ok(reading) => {
                    let more = merged.advance(reading, bytes);
                    counters::gather(&mut counted, path, more);
                }
                Err(HardwareError::Missing { .. }) => {}
                // From now on it counts where it is tracked as stuck.
                Err(_) => {
                    merged.step(Event::Kept);
                    kept = true;
                    continue;
                }
            }
            let counters = merged.counters(bytes);
            tracing::trace!(%id, packets = counters.packets, "left");
            told.push(Removed { id: *id, counters });
        }
        if kept {
            drop(shard);
            for (id, result) in tried {
                if let Err(error) = result
                    && !matches!(error, HardwareError::Missing { .. })
                {
                    failed.push(error.clone());
                    self.keep(*id, &table, error, now);
                }
            }
            shard = self.shard(index);
        }
        if planted::is(Fault::FreedFirst) {
            tried.iter().for_each(|(id, _)| drop(self.freed(&mut shard, *id)));
            drop(shard);
            self.home(index).left.notify_all();
            shard = self.shard(index);
        }
        // The parents have their counts, and what is stuck is known, before anyone can see that it is gone.
        self.hand(&table, &counted);
        // Until here what has left was being removed for all others, who may have seen it while the shard was not locked.
        for (id, _) in tried {
            self.unseen(&table, &shard, *id);
            if let Some(merged) = shard.merged_mut(*id).filter(|merged| merged.state == State::Removing) {
                merged.step(Event::Left);
            }
        }
        let elsewhere: SmallVec<[_; 4]> = tried.iter().flat_map(|(id, _)| self.freed(&mut shard, *id)).collect();
        drop(shard);
        drop(table);
        self.forget_elsewhere(&elsewhere);
        self.home(index).left.notify_all();
        self.tell_removed(told);
    }

    /// Connections of other shards no longer carry these.
    pub(super) fn forget_elsewhere(&self, elsewhere: &[(ConnectionHandle, MergedId)]) {
        for &(handle, id) in elsewhere {
            self.shard(handle.shard()).forget(handle, id);
        }
    }

    pub(super) fn tell_removed(&self, told: SmallVec<[Removed; 4]>) {
        self.tallies.left.add(told.len() as u64);
        let mut removed = self.removed.lock();
        for one in told {
            if removed.len() == REMOVED {
                removed.pop_front();
            }
            removed.push_back(one);
        }
    }

    /// Keeps what the hardware did not remove.
    fn keep(&self, id: MergedId, table: &Table, error: &HardwareError, now: u64) {
        let links = match self.shard(self.shard_of_merged(id)).merged(id) {
            Some(merged) => merged.connections.clone(),
            None => return,
        };
        let locked = self.lock(links.all());
        let known: SmallVec<[&Connection; 2]> =
            links.all().iter().filter_map(|&c| Some(&locked.connection(c)?.connection)).collect();
        let index = self.shard_of_merged(id);
        let own;
        let shard = match locked.of(index) {
            Some(shard) => shard,
            None => {
                own = self.shard(index);
                &own
            }
        };
        let (Some(merged), Some(entry)) =
            (shard.merged(id), table.entry(shard.merged(id).map_or(PathId(0), |m| m.path)))
        else {
            return;
        };
        let matches = match known.len() == links.all().len() {
            true => Offer { id, path: &entry.path, connections: &known, mend: self.mends() }.matches(),
            // It may match whatever the path's constants allow.
            false => entry.path.template.known.unpack(),
        };
        let stuck = Stuck {
            id,
            port: entry.path.port,
            matches,
            connections: links.clone(),
            merged: merged.remains(),
            parents: entry.parents().map(|(account, parent)| (account, *parent)).collect(),
            overhead: entry.overhead,
            failures: 1,
            due: now,
            error: error.clone(),
        };
        tracing::warn!(%id, %error, "stuck");
        self.tallies.faults.one();
        self.stuck.lock().push(stuck);
        self.stuck_count.fetch_add(1, Relaxed);
    }

    /// Waits until other threads have taken these out.
    pub(super) fn wait_for(&self, others: &[MergedId], failed: &mut Vec<HardwareError>) {
        if planted::is(Fault::NotWaited) {
            return;
        }
        for &id in others {
            let home = self.home(self.shard_of_merged(id));
            let mut shard = home.shard.lock();
            while shard.merged(id).is_some() {
                home.left.wait(&mut shard);
            }
        }
        if !others.is_empty() && self.stuck_count.load(Relaxed) > 0 {
            let stuck = self.stuck.lock();
            failed.extend(stuck.iter().filter(|s| others.contains(&s.id)).map(|s| s.error.clone()));
        }
    }
}

impl<H> Merger<H> {
    /// Datapaths see no more that there is this merged filter, whose shard is locked.
    pub(super) fn unseen(&self, table: &Table, shard: &Shard, id: MergedId) {
        let Some(merged) = shard.merged(id) else { return };
        match merged.connections.all() {
            [] => table.hide(merged.path),
            [first, others @ ..] => {
                if let Some(verdict) = table.entry(merged.path).and_then(|e| *e.verdict.lock()) {
                    self.glance().unlist(*first, others.first().copied(), verdict);
                }
            }
        }
    }

    /// Frees the slot of a merged filter that is gone, and tells its connections of that shard; those of others are given back.
    pub(super) fn freed(&self, shard: &mut Shard, id: MergedId) -> SmallVec<[(ConnectionHandle, MergedId); 2]> {
        let mut elsewhere = SmallVec::new();
        let Some(merged) = shard.free(id) else { return elsewhere };
        self.merged.fetch_sub(1, Relaxed);
        for &handle in merged.connections.all() {
            if handle.shard() == self.shard_of_merged(id) {
                shard.forget(handle, id);
            } else {
                elsewhere.push((handle, id));
            }
        }
        elsewhere
    }
}

/// A merged filter must go.
pub(super) fn doom_one(shard: &mut Shard, id: MergedId) -> Fate {
    let Some(merged) = shard.merged_mut(id) else { return Fate::Others };
    let before = merged.state;
    if before == State::Installing && planted::is(Fault::NotRecalled) {
        return Fate::Others;
    }
    merged.step(Event::Doomed);
    match (before, merged.state) {
        (State::Installed, _) => Fate::Mine,
        (_, State::Gone) => Fate::Gone,
        _ => Fate::Others,
    }
}
