//! The work on walks: from way and connections to a known path, or to a new one, and the install.
//!
//! A walk on a known path needs the table for reading, and the shard of its connection; so several threads do it at once. Only what is
//! new, or out of the ordinary, takes the table for itself ([`Merger::fold`]). The hardware is called behind that, for a batch of walks.

use super::{
    Locked, Merge, Merger, Outcome, Ticket, Waiting,
    install::Installs,
    walks::{Entries, Met, View},
};
use crate::{
    conntrack::{Connection, ConnectionHandle, ConnectionId},
    datapath::Batch,
    flower::{Cookie, Counts, FilterId},
    hardware::{Hardware, MergedId, Offer},
    merge::{self, Mold, Order, Otherwise, Path, Refusal, Refused, Scene, Step},
    table::{Links, PathEntry, PathId, Table, WayId, life::State},
};
use smallvec::SmallVec;

/// Walks that are worked on between two moments in which others get at the table.
const BATCH: usize = 32;

type Known<'a> = SmallVec<[&'a Connection; 2]>;

/// What is to be done about a walk.
enum Plan {
    Done(Outcome),
    /// What was prepared.
    Install,
    /// It is new, or out of the ordinary.
    Fold,
    /// An install that this thread is to do comes first.
    Later,
}

impl<H: Hardware> Merger<H> {
    /// Merges the walks that wait: those of [`Merger::walk`], whose outcomes it gives, then those of the datapaths.
    pub(super) fn work(&self, now: u64) -> Vec<(Ticket, Outcome)> {
        let mut done = Vec::new();
        loop {
            let next = self.queue.lock().pop_front();
            let Some(Waiting { ticket, epoch, walk }) = next else { break };
            let view = View::named(&walk, epoch, |name| self.handle(ConnectionId(name)));
            done.push((ticket, self.merge(&view, now)));
        }
        let mut batch = self.batches.lock().pop().unwrap_or_else(|| self.inbox.batch());
        while self.inbox.take(&mut batch, BATCH) > 0 {
            self.merge_batch(&mut batch, now);
        }
        self.batches.lock().push(batch);
        done
    }

    /// What becomes of a walk.
    fn merge(&self, view: &View<'_>, now: u64) -> Outcome {
        let mut installs = self.installs(1);
        let mut plan = self.plan(&self.table.read(), view, &mut installs, now);
        if let Plan::Fold = plan {
            plan = self.fold(view, &mut installs, now);
        }
        let outcome = match plan {
            Plan::Done(outcome) => outcome,
            Plan::Install => self.install(&mut installs, now).unwrap_or(Err(Refusal::NoHits)),
            Plan::Fold | Plan::Later => Err(Refusal::NoHits),
        };
        if let Err(refusal) = &outcome {
            self.tell_refused(view, refusal);
        }
        outcome
    }

    /// Walks of datapaths: as many as are on known paths with one look at the table.
    fn merge_batch(&self, batch: &mut Batch, now: u64) {
        let mut installs = self.installs(BATCH);
        let mut table = None;
        while let Some(recorded) = batch.next_walk() {
            let view = View::recorded(recorded);
            let mut plan = self.plan(table.get_or_insert_with(|| self.table.read()), &view, &mut installs, now);
            if let Plan::Fold = plan {
                table = None;
                plan = self.fold(&view, &mut installs, now);
            }
            match plan {
                Plan::Install | Plan::Done(Ok(_)) | Plan::Fold => {}
                Plan::Done(Err(refusal)) => {
                    table = None;
                    self.tell_refused(&view, &refusal);
                }
                Plan::Later => {
                    table = None;
                    let _ = self.install(&mut installs, now);
                    let _ = self.merge(&view, now);
                }
            }
        }
        drop(table);
        let _ = self.install(&mut installs, now);
    }

    /// A walk of which all is known.
    fn plan(&self, table: &Table, view: &View<'_>, installs: &mut Installs<'_>, now: u64) -> Plan {
        let mut locked = self.lock(&view.handles);
        match self.known(table, view, &locked) {
            Some(path) => self.make(table, path, &view.handles, &mut locked, installs, now),
            None => Plan::Fold,
        }
    }

    /// The path of a walk that is nothing out of the ordinary.
    #[inline]
    fn known(&self, table: &Table, view: &View<'_>, locked: &Locked<'_>) -> Option<PathId> {
        let entries = view.entries(locked)?;
        if !entries.iter().all(|entry| entry.is_ready()) || view.filters.len() > self.settings.limits.hits {
            return None;
        }
        let way = table.find_way(&view.way_key(&entries)?)?;
        if table.is_younger(way, view.epoch) {
            return None;
        }
        path_of(table, way, view, &known(&entries))
    }

    /// What is to be done about a walk on this path, of which these are the connections, their shards locked.
    fn make<'m>(
        &'m self,
        table: &Table,
        path: PathId,
        handles: &[ConnectionHandle],
        locked: &mut Locked<'m>,
        installs: &mut Installs<'_>,
        now: u64,
    ) -> Plan {
        let Some(filter) = table.way_of(path).and_then(|way| table.last_filter(way)) else { return Plan::Fold };
        if handles.is_empty() {
            let index = self.shard_of_path(path);
            locked.0.push((index, self.shard(index)));
        }
        match self.there_already(locked, path, handles) {
            Some((_, State::Installing)) if !installs.all.is_empty() => return Plan::Later,
            Some((id, state)) => return Plan::Done(Self::told(id, state, filter)),
            None => {}
        }
        if table.is_held_off(path) {
            return Plan::Done(Err(leaving(filter)));
        }
        self.prepare(table, (path, filter), handles, locked, installs, now)
            .map_or_else(|refusal| Plan::Done(Err(refusal)), |()| Plan::Install)
    }

    /// What there is of a path and connections, or what is on its way out and keeps more from being made of them.
    fn there_already(
        &self,
        locked: &Locked<'_>,
        path: PathId,
        handles: &[ConnectionHandle],
    ) -> Option<(MergedId, State)> {
        let Some(&first) = handles.first() else {
            let shard = locked.of(self.shard_of_path(path))?;
            let id = shard.first_of(path)?;
            return Some((id, shard.merged(id)?.state));
        };
        let shard = locked.of(first.shard())?;
        for &id in &shard.connection(first)?.merged {
            // One that begins with another connection is in that one's shard, and matches other packets.
            let Some(merged) = shard.merged(id) else { continue };
            let same = merged.path == path && merged.connections.all() == handles;
            if same || matches!(merged.state, State::Removing | State::Recalled) {
                return Some((id, merged.state));
            }
        }
        None
    }

    /// What becomes of a walk for which there is a merged filter in this state.
    fn told(id: MergedId, state: State, filter: FilterId) -> Outcome {
        match state {
            State::Installed | State::Installing => Ok(Merge { id, installed: false }),
            State::Waiting => Err(Refusal::Hardware { filter, why: format!("{id} waits to be offered again") }),
            _ => Err(leaving(filter)),
        }
    }

    /// Makes room for a merged filter among the others, and links it to what it comes from. It is to be installed next.
    pub(super) fn prepare(
        &self,
        table: &Table,
        (path, filter): (PathId, FilterId),
        handles: &[ConnectionHandle],
        locked: &mut Locked<'_>,
        installs: &mut Installs<'_>,
        now: u64,
    ) -> Result<(), Refusal> {
        let gone = || Refusal::Changed { filter, what: Otherwise::Connection };
        let home = handles.first().map_or_else(|| self.shard_of_path(path), |first| first.shard());
        // Locked, since there is nothing yet of this path and these connections.
        let (entry, shard) = table.entry(path).zip(locked.of_mut(home)).ok_or_else(gone)?;
        if !installs.room.take() {
            self.tallies.merged.one();
            let why = format!("{} merged filters are the limit", self.settings.limits.merged);
            return Err(Refusal::Hardware { filter, why });
        }
        entry.comes_to(home);
        let id = shard.reserve(path, Links::of(handles), now);
        installs.push(id, (path, entry, filter), handles, locked);
        for &handle in handles {
            if let Some(entry) = locked.of_mut(handle.shard()).and_then(|shard| shard.connection_mut(handle)) {
                entry.merged.push(id);
            }
        }
        Ok(())
    }

    pub(super) fn shard_of_path(&self, path: PathId) -> u8 {
        (path.0 % u32::from(self.count())) as u8
    }

    /// What is to be done about a walk that is new, or out of the ordinary.
    fn fold(&self, view: &View<'_>, installs: &mut Installs<'_>, now: u64) -> Plan {
        self.try_fold(view, installs, now).unwrap_or_else(|refusal| Plan::Done(Err(refusal)))
    }

    /// The same, with the table for itself.
    fn try_fold(&self, view: &View<'_>, installs: &mut Installs<'_>, now: u64) -> Result<Plan, Refusal> {
        let mut table = self.table.write();
        let last = self.check(&table, view)?;
        let mut locked = self.lock(&view.handles);
        self.gate(&table, view, &mut locked)?;
        let path = {
            let changed = || Refusal::Changed { filter: last, what: Otherwise::Connection };
            let entries = view.entries(&locked).ok_or_else(changed)?;
            let way = table.way(view.way_key(&entries).ok_or_else(changed)?);
            self.path_of(&mut table, view, way, last, &entries, &locked)?
        };
        Ok(self.make(&table, path, &view.handles, &mut locked, installs, now))
    }

    /// The way's path for a walk, a known one or a new one.
    #[inline]
    fn path_of(
        &self,
        table: &mut Table,
        view: &View<'_>,
        way: WayId,
        last: FilterId,
        entries: &Entries<'_>,
        locked: &Locked<'_>,
    ) -> Result<PathId, Refusal> {
        let known = known(entries);
        if let Some(path) = path_of(table, way, view, &known) {
            return Ok(path);
        }
        if let Some(refusal) = table.refusal(way, |others| others.fits(view.key, &known)) {
            return Err(refusal.clone());
        }
        if self.merged_of_way(table, way, locked, &view.handles) >= self.settings.limits.merged_per_way {
            self.tallies.merged_per_way.one();
            return Err(Refusal::TooMany { filter: last, limit: self.settings.limits.merged_per_way });
        }
        if let Some(path) = table.cast(way, view.key, &known) {
            if cfg!(debug_assertions) {
                let folded = self.folded(table, way, view, &known).map(|(path, _)| path);
                assert_eq!(folded.as_ref(), Ok(&path), "what is cast is what would be folded");
            }
            self.tallies.cast.one();
            return Ok(table.add_path(way, path, false));
        }
        let folded = self.folded(table, way, view, &known).and_then(|(path, mold)| {
            self.fits_hardware(last, &path, &known).map_err(|refusal| {
                // Others like it fit no better.
                let targets = path.course.targets.clone();
                Box::new(Refused { refusal, others: Some(path.template.clone()), targets: targets.to_vec() })
            })?;
            Ok((path, mold))
        });
        let (path, mold) = folded.map_err(|refused| {
            let refusal = refused.refusal.clone();
            table.refuse(way, *refused);
            refusal
        })?;
        if !path.fits(view.key, &known) {
            return Err(Refusal::Changed { filter: last, what: Otherwise::Connection });
        }
        if let Some(mold) = mold {
            table.keep_mold(way, mold);
        }
        tracing::debug!(filter = %last, parents = path.parents.len(), "new path");
        Ok(table.add_path(way, path, false))
    }

    /// Each hit must be of a filter that was there then, and each connection known. Gives the last filter.
    fn check(&self, table: &Table, view: &View<'_>) -> Result<FilterId, Refusal> {
        let mut last = Err(Refusal::NoHits);
        for (hit, &cookie) in view.filters.iter().enumerate() {
            let entry = table.filter(cookie).filter(|e| e.born <= view.epoch);
            let filter = entry.ok_or(Refusal::UnknownFilter { hit, cookie })?.filter.id;
            if hit == self.settings.limits.hits {
                return Err(Refusal::TooLong { filter, hits: view.filters.len(), limit: hit });
            }
            last = Ok(filter);
            for met in view.found_at(hit) {
                let connection = match met {
                    Met::Nothing => continue,
                    Met::Connection(index, _) => {
                        let handle = view.handles[usize::from(index)];
                        if self.shard(handle.shard()).connection(handle).is_some() {
                            continue;
                        }
                        handle.bits()
                    }
                    Met::Unknown(name) => name,
                };
                return Err(Refusal::UnknownConnection { filter, connection });
            }
        }
        last
    }

    /// Each connection must qualify, and be worth it, before anything is folded.
    fn gate(&self, table: &Table, view: &View<'_>, locked: &mut Locked<'_>) -> Result<(), Refusal> {
        for (hit, &cookie) in view.filters.iter().enumerate() {
            let Some(filter) = table.filter(cookie).map(|e| e.filter.id) else { continue };
            for met in view.found_at(hit) {
                let Met::Connection(index, _) = met else { continue };
                let handle = view.handles[usize::from(index)];
                let Some(entry) = locked.of_mut(handle.shard()).and_then(|s| s.connection_mut(handle)) else {
                    continue;
                };
                entry.gate.map_err(|why| Refusal::NotQualified { filter, why })?;
                // Datapaths count for themselves.
                entry.seen = entry.seen.saturating_add(1).max(self.glance().seen(handle).unwrap_or_default());
                if let Some(why) = entry.not_worth() {
                    return Err(Refusal::Policy { filter, why });
                }
                if entry.closing {
                    return Err(leaving(filter));
                }
            }
        }
        Ok(())
    }

    /// How many merged filters a way has for these connections.
    fn merged_of_way(&self, table: &Table, way: WayId, locked: &Locked<'_>, handles: &[ConnectionHandle]) -> usize {
        let Some(&first) = handles.first() else {
            let made = |path: &PathId| self.shard(self.shard_of_path(*path)).first_of(*path).is_some();
            return table.paths(way).filter(|(path, _)| made(path)).count();
        };
        let Some(shard) = locked.of(first.shard()) else { return 0 };
        let merged = shard.connection(first).into_iter().flat_map(|e| &e.merged);
        let merged = merged.filter_map(|&id| shard.merged(id)).filter(|m| m.connections.all() == handles);
        merged.filter(|m| table.way_of(m.path) == Some(way)).count()
    }

    fn folded(
        &self,
        table: &mut Table,
        way: WayId,
        view: &View<'_>,
        known: &Known<'_>,
    ) -> Result<(Path, Option<Mold>), Box<Refused>> {
        let (fronts, families) = (fronts(table, view), table.families(way));
        let mut steps = Vec::with_capacity(view.filters.len());
        for (hit, (&cookie, front)) in view.filters.iter().zip(&fronts).enumerate() {
            let met = view.found_at(hit).map(|met| match met {
                Met::Connection(index, direction) => {
                    Some(merge::Met { index, direction, connection: known[usize::from(index)] })
                }
                Met::Nothing | Met::Unknown(_) => None,
            });
            let met = met.collect();
            let Some(entry) = table.filter(cookie) else { continue };
            let in_front = front.iter().filter_map(|&(c, order)| Some((&table.filter(c)?.filter, order))).collect();
            steps.push(Step { cookie, filter: &entry.filter, in_front, met });
        }
        let scene = Scene {
            port: view.port,
            key: view.key,
            steps,
            connections: known.to_vec(),
            tell_tag: self.capabilities.counts == Counts::Frame,
            masks: &self.capabilities.masks,
        };
        merge::fold_and_mold(&scene, &families, &*table)
    }

    /// Whether the hardware can hold what a path comes to.
    pub(super) fn fits_hardware(&self, filter: FilterId, path: &Path, known: &[&Connection]) -> Result<(), Refusal> {
        let refused = |why: String| Refusal::Hardware { filter, why };
        if !self.mends() && path.course.program.must_mend() {
            let why =
                "it can only compute checksums anew, and would right one that pedit left stale before ct translated";
            return Err(refused(why.into()));
        }
        let offer = Offer { id: MergedId(0), path, connections: known, mend: self.mends() };
        let entry = offer.entry();
        let matches = self.capabilities.check_match(&entry.matches);
        let lacking = matches.and_then(|()| self.capabilities.check_actions(&entry.actions));
        lacking.map_err(|lacking| refused(lacking.to_string()))
    }
}

/// The path of a way for this walk.
#[inline]
fn path_of(table: &Table, way: WayId, view: &View<'_>, known: &Known<'_>) -> Option<PathId> {
    let mut paths = table.paths(way);
    paths.find(|(_, PathEntry { path, .. })| path.fits(view.key, known)).map(|(id, _)| id)
}

#[inline]
fn known<'a>(entries: &Entries<'a>) -> Known<'a> {
    let mut known = Known::new();
    for entry in entries {
        known.push(&entry.connection);
    }
    known
}

/// What stands in front of each hit.
fn fronts(table: &mut Table, view: &View<'_>) -> Vec<Vec<(Cookie, Order)>> {
    let mut before = None;
    let in_front = view.filters.iter().map(|&cookie| {
        let front = table.in_front(cookie, before);
        before = Some(cookie);
        front
    });
    in_front.collect()
}

/// What is in the way is on its way out.
pub(super) fn leaving(filter: FilterId) -> Refusal {
    Refusal::Leaving { filter }
}
