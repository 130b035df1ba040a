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
    glance::{Glance, VerdictId},
    hardware::{Hardware, HardwareError, MergedId, Offer, Reading},
    sync::atomic::Ordering::Relaxed,
    table::{
        Doom, Merged, PathId, Shard, Table,
        life::{Event, State},
        meter::{Remains, Sums},
    },
};
use smallvec::SmallVec;

/// How many are taken out between two moments in which others get at the shard.
///
/// Few: whoever else wants the shard is to have it before it gives up spinning and goes to sleep.
const BATCH: usize = 32;

/// Who takes a doomed merged filter out of hardware.
pub(super) enum Fate {
    /// Whoever asked.
    Mine,
    /// Another thread, which is about it.
    Others,
    /// Nobody: it is not there.
    Gone,
}

/// Some that were doomed, by who is about them.
#[derive(Default)]
struct Fates {
    mine: Vec<MergedId>,
    others: Vec<MergedId>,
    gone: Vec<MergedId>,
}

impl Fates {
    fn add(&mut self, id: MergedId, fate: Fate) {
        match fate {
            Fate::Mine => self.mine.push(id),
            Fate::Others => self.others.push(id),
            Fate::Gone => self.gone.push(id),
        }
    }
}

/// How far a shard is with what is doomed.
struct Progress {
    index: u8,
    doom: usize,
    /// Of a path that stays: from which of its merged filters on to look.
    from: Option<MergedId>,
}

impl Progress {
    fn new(index: u8) -> Progress {
        Progress { index, doom: 0, from: None }
    }

    /// What comes next of what is doomed and may be here.
    fn next<'a>(&mut self, doomed: &'a [Doom]) -> Option<&'a Doom> {
        let left = doomed.get(self.doom..).unwrap_or_default();
        self.doom += left.iter().position(|doom| doom.may_be_in(self.index)).unwrap_or(left.len());
        doomed.get(self.doom)
    }
}

/// How many paths, or merged filters of those that stay, are looked at in one go: of most there may be nothing to take out.
const LOOKED_AT: usize = 256;

/// Connections of other shards, and what they no longer carry.
type Elsewhere = SmallVec<[(ConnectionHandle, MergedId); 2]>;

/// A removal that was tried.
pub(super) type Tried = (MergedId, Result<Reading, HardwareError>);

impl<H: Hardware> Merger<H> {
    /// Takes out what must go.
    pub(super) fn carry_out(&self, doomed: &[Doom], now: u64, failed: &mut Vec<HardwareError>) {
        let mut batch = Fates::default();
        // A little of each shard in turn: whoever waits for one has it while the others are worked on.
        let mut shards: SmallVec<[Progress; 8]> = (0..self.count()).map(Progress::new).collect();
        shards.retain(|progress| progress.next(doomed).is_some());
        while !shards.is_empty() {
            shards.retain(|progress| {
                let is_left = self.doom_some(progress, doomed, &mut batch);
                self.remove_from(progress.index, &batch.mine, now, failed);
                batch.mine.clear();
                is_left
            });
        }
        self.wait_for(&batch.others, failed);
        let buried = self.table.write().bury(doomed);
        drop(buried);
    }

    /// Dooms some of what must go of one shard. Whether that may not have been all.
    fn doom_some(&self, progress: &mut Progress, doomed: &[Doom], batch: &mut Fates) -> bool {
        let mut shard = self.shard(progress.index);
        // What was looked at last may have gone meanwhile; what came meanwhile stands in front, and is not reached.
        progress.from = progress.from.filter(|&id| shard.is_linked(id));
        let mut looked_at = 0;
        while let Some(Doom { path, only, .. }) = progress.next(doomed) {
            if batch.mine.len() >= BATCH || looked_at >= LOOKED_AT {
                break;
            }
            if only.is_empty() {
                let most = BATCH - batch.mine.len();
                let is_done = shard.unlink_some(*path, most, |id, merged| {
                    batch.add(id, doom(merged));
                    looked_at += 1;
                });
                progress.doom += usize::from(is_done);
                looked_at += 1;
                continue;
            }
            let next = match progress.from {
                Some(id) => shard.after(id),
                None => shard.first_of(*path),
            };
            let Some(id) = next else {
                progress.doom += 1;
                progress.from = None;
                continue;
            };
            looked_at += 1;
            if !self.is_reached(&shard, id, only) {
                progress.from = Some(id);
                continue;
            }
            batch.add(id, doom_one(&mut shard, id));
            shard.unlink(id);
        }
        let mut elsewhere = Elsewhere::new();
        batch.gone.drain(..).for_each(|id| elsewhere.extend(self.freed(&mut shard, id)));
        drop(shard);
        self.forget_elsewhere(&elsewhere);
        progress.next(doomed).is_some()
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
        for group in ids.chunk_by(|&a, &b| self.shard_of_merged(a) == self.shard_of_merged(b)) {
            self.remove_from(self.shard_of_merged(group[0]), group, now, failed);
        }
    }

    /// The same, all of one shard.
    fn remove_from(&self, index: u8, ids: &[MergedId], now: u64, failed: &mut Vec<HardwareError>) {
        if !ids.is_empty() {
            let tried: Vec<Tried> = ids.iter().map(|&id| (id, self.hardware.remove(id))).collect();
            self.removed_from(index, &tried, now, failed);
        }
    }

    /// What came of a removal.
    pub(super) fn removed(&self, tried: Tried, now: u64, failed: &mut Vec<HardwareError>) {
        self.removed_from(self.shard_of_merged(tried.0), &[tried], now, failed);
    }

    /// What came of removals from one shard.
    fn removed_from(&self, index: u8, tried: &[Tried], now: u64, failed: &mut Vec<HardwareError>) {
        let table = self.table.read();
        let mut sums = Sums::default();
        let mut overhead = (PathId(u32::MAX), 0);
        let mut told = Vec::with_capacity(tried.len());
        let mut kept: SmallVec<[(MergedId, Remains, &HardwareError); 1]> = SmallVec::new();
        let mut shard = self.shard(index);
        for (id, result) in tried {
            let meter = match result {
                Ok(reading) => shard.read(*id, reading, &mut sums),
                Err(HardwareError::Missing { .. }) => shard.meter(*id),
                // From now on it counts where it is tracked as stuck.
                Err(error) => {
                    shard.merged_mut(*id).into_iter().for_each(|merged| merged.step(Event::Kept));
                    kept.extend(shard.stop(*id).map(|remains| (*id, remains, error)));
                    continue;
                }
            };
            let Some(meter) = meter else { continue };
            if overhead.0 != meter.path {
                overhead = (meter.path, table.entry(meter.path).map_or(0, |entry| entry.overhead));
            }
            let bytes = |packets, all| counters::bytes(self.capabilities.counts, overhead.1, packets, all);
            let counters = meter.counters(bytes);
            tracing::trace!(%id, packets = counters.packets, "left");
            told.push(Removed { id: *id, counters });
        }
        if !kept.is_empty() {
            drop(shard);
            for (id, remains, error) in kept {
                failed.push(error.clone());
                self.keep(id, remains, &table, error, now);
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
        self.hand(&table, sums);
        // Until here what has left was being removed for all others, who may have seen it while the shard was not locked.
        let mut elsewhere = Elsewhere::new();
        let mut unseen = Unseen::default();
        let mut freed = 0;
        for (id, _) in tried {
            let Some(mut merged) = shard.free(*id) else { continue };
            if merged.state == State::Removing {
                merged.step(Event::Left);
            }
            unseen.add(self.glance(), &table, &merged);
            forget(&mut shard, index, *id, &merged, &mut elsewhere);
            freed += 1;
        }
        self.merged.fetch_sub(freed, Relaxed);
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

    pub(super) fn tell_removed(&self, told: Vec<Removed>) {
        self.tallies.left.add(told.len() as u64);
        let mut removed = self.removed.lock();
        let too_many = (removed.len() + told.len()).saturating_sub(REMOVED);
        removed.drain(..too_many);
        removed.extend(told);
    }

    /// Keeps what the hardware did not remove.
    fn keep(&self, id: MergedId, remains: Remains, table: &Table, error: &HardwareError, now: u64) {
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
        let Some(entry) = shard.merged(id).and_then(|merged| table.entry(merged.path)) else { return };
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
            merged: remains,
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
        if let Some(merged) = shard.merged(id) {
            Unseen::default().add(self.glance(), table, merged);
        }
    }

    /// Frees the slot of a merged filter that is gone, and tells its connections of that shard; those of others are given back.
    pub(super) fn freed(&self, shard: &mut Shard, id: MergedId) -> Elsewhere {
        let mut elsewhere = Elsewhere::new();
        let Some(merged) = shard.free(id) else { return elsewhere };
        self.merged.fetch_sub(1, Relaxed);
        forget(shard, self.shard_of_merged(id), id, &merged, &mut elsewhere);
        elsewhere
    }
}

/// Takes off merged filters what datapaths see of them. What that is neighbours on one path share, if they rest on connections; it is
/// not changed while the table is locked.
#[derive(Default)]
struct Unseen(Option<(PathId, Option<VerdictId>)>);

impl Unseen {
    fn add(&mut self, glance: &Glance, table: &Table, merged: &Merged) {
        let [first, others @ ..] = merged.connections.all() else { return table.hide(merged.path) };
        let verdict = match self.0 {
            Some((path, verdict)) if path == merged.path => verdict,
            _ => table.entry(merged.path).and_then(|entry| *entry.verdict.lock()),
        };
        self.0 = Some((merged.path, verdict));
        if let Some(verdict) = verdict {
            glance.unlist(*first, others.first().copied(), verdict);
        }
    }
}

/// Connections of this shard, where it was, no longer carry a merged filter; those of others are told.
fn forget(shard: &mut Shard, index: u8, id: MergedId, merged: &Merged, elsewhere: &mut Elsewhere) {
    for &handle in merged.connections.all() {
        match handle.shard() == index {
            true => shard.forget(handle, id),
            false => elsewhere.push((handle, id)),
        }
    }
}

/// A merged filter must go.
pub(super) fn doom_one(shard: &mut Shard, id: MergedId) -> Fate {
    shard.merged_mut(id).map_or(Fate::Others, doom)
}

fn doom(merged: &mut Merged) -> Fate {
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
