//! The work on walks: from way and connections to a known path, or to a new one, and the install.
//!
//! A walk on a known path needs the table for reading, and the shard of its connection; so several threads do it at once. Only what is
//! new, or out of the ordinary, takes the table for itself ([`Merger::fold`]). The hardware is called behind that, for a batch of walks.

use super::{Locked, Merge, Merger, Outcome, Ticket, Waiting};
use crate::{
    conntrack::{Connection, ConnectionHandle, ConnectionId, Direction},
    datapath::Batch,
    flower::{Cookie, Counts, FilterId, Key, Port},
    glance::VerdictId,
    hardware::{Hardware, HardwareError, MergedId, Offer},
    merge::{self, Met, Mold, Order, Otherwise, Path, Refusal, Refused, Scene, Step},
    sync::{Arc, atomic::Ordering::Relaxed},
    table::{
        CtKey, Links, PathEntry, PathId, Table, WayId, WayKey,
        life::{Event, State},
        overlap,
    },
    walk::{Recorded, Walk},
};
use smallvec::{SmallVec, smallvec};

/// Walks that are worked on between two moments in which others get at the table.
const BATCH: usize = 32;

/// What a `ct` of a walk found: the connection, or the caller's name for one that nobody knows.
pub(super) type FoundBy = Option<(Result<ConnectionHandle, u64>, Direction)>;

/// A walk as the work takes it.
pub(super) struct View<'a> {
    pub port: Port,
    pub key: &'a Key,
    /// The filters hit, and how many findings each has.
    pub hits: SmallVec<[(Cookie, u8); 6]>,
    /// What each `ct` found, hit by hit.
    pub found: SmallVec<[FoundBy; 3]>,
    /// When the walk was finished, in entered filters.
    pub epoch: u64,
}

type Known<'a> = SmallVec<[&'a Connection; 2]>;
type Handles = SmallVec<[ConnectionHandle; 2]>;

/// A merged filter that is about to be installed.
pub(super) struct Pending {
    pub id: MergedId,
    /// The way's last filter, to name in a refusal.
    pub filter: FilterId,
    pub path: Arc<Path>,
    pub handles: Handles,
    pub connections: SmallVec<[Connection; 1]>,
    /// What datapaths see of the path.
    verdict: Option<VerdictId>,
    path_id: PathId,
    /// TCP connections that conntrack has to be liberal about first.
    liberal: bool,
}

impl Pending {
    /// One of this path and these connections, whose shards are locked.
    fn new(
        id: MergedId,
        filter: FilterId,
        (path_id, entry): (PathId, &PathEntry),
        handles: Handles,
        locked: &Locked<'_>,
    ) -> Pending {
        let (connections, liberal) = locked.values(&handles);
        let (path, verdict) = (Arc::clone(&entry.path), *entry.verdict.lock());
        Pending { id, filter, path, handles, connections, verdict, path_id, liberal }
    }
}

/// What is to be done about a walk.
enum Plan {
    Done(Outcome),
    Install(Pending),
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
            let view = self.view(&walk, epoch);
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
        let plan = self.plan(&self.table.read(), view, false, now);
        let outcome = match plan {
            Plan::Done(outcome) => outcome,
            Plan::Install(pending) => self.install_one(pending, now),
            Plan::Fold | Plan::Later => match self.fold(view, now) {
                Ok(Plan::Install(pending)) => self.install_one(pending, now),
                Ok(Plan::Done(outcome)) => outcome,
                Ok(Plan::Fold | Plan::Later) => Err(Refusal::NoHits),
                Err(refusal) => Err(refusal),
            },
        };
        if let Err(refusal) = &outcome {
            self.tell_refused(view, refusal);
        }
        outcome
    }

    /// Walks of datapaths: as many as are on known paths with one look at the table.
    fn merge_batch(&self, batch: &mut Batch, now: u64) {
        let mut installs: SmallVec<[Pending; 4]> = SmallVec::new();
        let mut table = None;
        while let Some(recorded) = batch.next_walk() {
            let view = View::recorded(recorded);
            let plan = self.plan(table.get_or_insert_with(|| self.table.read()), &view, !installs.is_empty(), now);
            match plan {
                Plan::Done(Ok(_)) => {}
                Plan::Install(pending) => installs.push(pending),
                Plan::Done(Err(refusal)) => {
                    table = None;
                    self.tell_refused(&view, &refusal);
                }
                Plan::Fold | Plan::Later => {
                    table = None;
                    // What is installed for it is there before the next.
                    installs.drain(..).for_each(|pending| drop(self.install_one(pending, now)));
                    let _ = self.merge(&view, now);
                }
            }
        }
        drop(table);
        installs.into_iter().for_each(|pending| drop(self.install_one(pending, now)));
    }

    /// A walk of which all is known.
    fn plan(&self, table: &Table, view: &View<'_>, busy: bool, now: u64) -> Plan {
        let Some(handles) = view.handles() else { return Plan::Fold };
        let locked = self.lock(&handles);
        let Some(key) = view.way_key(&handles, &locked) else { return Plan::Fold };
        let Some(way) = table.find_way(&key) else { return Plan::Fold };
        if table.is_younger(way, view.epoch) || view.hits.len() > self.settings.limits.hits {
            return Plan::Fold;
        }
        let found = {
            let mut known = Known::new();
            for &handle in &handles {
                match locked.connection(handle) {
                    Some(entry) if entry.is_ready() => known.push(&entry.connection),
                    _ => return Plan::Fold,
                }
            }
            table.paths(way).find(|(_, entry)| entry.path.fits(view.key, &known))
        };
        let Some((path, entry)) = found else { return Plan::Fold };
        let Some(filter) = table.last_filter(way) else { return Plan::Fold };
        self.make(table, (path, entry), filter, handles, locked, busy, now)
    }

    /// What is to be done about a walk on this path, of which these are the connections, their shards locked.
    #[allow(clippy::too_many_arguments)]
    fn make<'a>(
        &'a self,
        table: &Table,
        (path, entry): (PathId, &PathEntry),
        filter: FilterId,
        handles: Handles,
        mut locked: Locked<'a>,
        busy: bool,
        now: u64,
    ) -> Plan {
        if handles.is_empty() {
            let index = self.shard_of_path(path);
            locked.0.push((index, self.shard(index)));
        }
        match self.there_already(&locked, path, &handles) {
            Some((_, State::Installing)) if busy => return Plan::Later,
            Some((id, state)) => return Plan::Done(Self::told(id, state, filter)),
            None => {}
        }
        if table.is_held_off(path) {
            return Plan::Done(Err(leaving(filter)));
        }
        match self.enter_merged(&mut locked, filter, path, &handles, now) {
            Ok(id) => Plan::Install(Pending::new(id, filter, (path, entry), handles, &locked)),
            Err(refusal) => Plan::Done(Err(refusal)),
        }
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

    /// Makes room for a merged filter among the others, and links it to what it comes from.
    fn enter_merged(
        &self,
        locked: &mut Locked<'_>,
        filter: FilterId,
        path: PathId,
        handles: &[ConnectionHandle],
        now: u64,
    ) -> Result<MergedId, Refusal> {
        if self.merged.fetch_add(1, Relaxed) >= self.settings.limits.merged {
            self.merged.fetch_sub(1, Relaxed);
            self.tallies.merged.one();
            let why = format!("{} merged filters are the limit", self.settings.limits.merged);
            return Err(Refusal::Hardware { filter, why });
        }
        let home = handles.first().map_or_else(|| self.shard_of_path(path), |first| first.shard());
        let id = locked.of_mut(home).map(|shard| shard.reserve(path, Links::of(handles), now));
        // The shard is locked, since there is nothing yet of this path and these connections.
        let id = id.ok_or(Refusal::Changed { filter, what: Otherwise::Connection })?;
        for &handle in handles {
            if let Some(entry) = locked.of_mut(handle.shard()).and_then(|shard| shard.connection_mut(handle)) {
                entry.merged.push(id);
            }
        }
        Ok(id)
    }

    /// The same for a path without connections.
    pub(super) fn reserve(&self, table: &Table, filter: FilterId, path: PathId, now: u64) -> Result<Pending, Refusal> {
        let entry = table.entry(path).ok_or(Refusal::NoHits)?;
        let index = self.shard_of_path(path);
        let mut locked = Locked(smallvec![(index, self.shard(index))]);
        let id = self.enter_merged(&mut locked, filter, path, &[], now)?;
        Ok(Pending::new(id, filter, (path, entry), Handles::new(), &locked))
    }

    pub(super) fn shard_of_path(&self, path: PathId) -> u8 {
        (path.0 % u32::from(self.count())) as u8
    }

    /// A walk that is new, or out of the ordinary: with the table for itself.
    fn fold(&self, view: &View<'_>, now: u64) -> Result<Plan, Refusal> {
        let mut table = self.table.write();
        let last = self.check(&table, view)?;
        let handles = view.handles().unwrap_or_default();
        let mut locked = self.lock(&handles);
        self.gate(&table, view, &mut locked)?;
        let Some(key) = view.way_key(&handles, &locked) else {
            return Err(Refusal::Changed { filter: last, what: Otherwise::Connection });
        };
        let way = table.way(key);
        let path = self.path_of(&mut table, view, way, last, &handles, &locked)?;
        let entry = table.entry(path).ok_or(Refusal::NoHits)?;
        Ok(self.make(&table, (path, entry), last, handles, locked, false, now))
    }

    /// The way's path for a walk, a known one or a new one.
    fn path_of(
        &self,
        table: &mut Table,
        view: &View<'_>,
        way: WayId,
        last: FilterId,
        handles: &[ConnectionHandle],
        locked: &Locked<'_>,
    ) -> Result<PathId, Refusal> {
        let known: Known<'_> = handles.iter().filter_map(|&h| Some(&locked.connection(h)?.connection)).collect();
        if let Some((path, _)) = table.paths(way).find(|(_, entry)| entry.path.fits(view.key, &known)) {
            return Ok(path);
        }
        if let Some(refusal) = table.refusal(way, |others| others.fits(view.key, &known)) {
            return Err(refusal.clone());
        }
        if self.merged_of_way(table, way, locked, handles) >= self.settings.limits.merged_per_way {
            self.tallies.merged_per_way.one();
            return Err(Refusal::TooMany { filter: last, limit: self.settings.limits.merged_per_way });
        }
        if let Some(path) = table.cast(way, view.key, &known) {
            if cfg!(debug_assertions) {
                let folded = self.folded(table, way, view, handles, locked).map(|(path, _)| path);
                assert_eq!(folded.as_ref(), Ok(&path), "what is cast is what would be folded");
            }
            return Ok(table.add_path(way, path, false));
        }
        let folded = self.folded(table, way, view, handles, locked).and_then(|(path, mold)| {
            self.fits_hardware(last, &path, &known).map_err(|refusal| {
                // Others like it fit no better.
                let targets = path.course.targets.to_vec();
                Box::new(Refused { refusal, others: Some(path.template.clone()), targets })
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

    /// The walk's last filter, if its filters and connections are all there.
    fn check(&self, table: &Table, view: &View<'_>) -> Result<FilterId, Refusal> {
        let mut last = Err(Refusal::NoHits);
        let mut found = view.found.iter();
        for (hit, &(cookie, findings)) in view.hits.iter().enumerate() {
            let entry = table.filter(cookie).filter(|e| e.born <= view.epoch);
            let filter = entry.ok_or(Refusal::UnknownFilter { hit, cookie })?.filter.id;
            if hit == self.settings.limits.hits {
                return Err(Refusal::TooLong { filter, hits: view.hits.len(), limit: hit });
            }
            last = Ok(filter);
            for found in found.by_ref().take(findings.into()).flatten() {
                let connection = match found.0 {
                    Ok(handle) if self.shard(handle.shard()).connection(handle).is_some() => continue,
                    Ok(handle) => handle.bits(),
                    Err(id) => id,
                };
                return Err(Refusal::UnknownConnection { filter, connection });
            }
        }
        last
    }

    /// Each connection must qualify, and be worth it, before anything is folded.
    fn gate(&self, table: &Table, view: &View<'_>, locked: &mut Locked<'_>) -> Result<(), Refusal> {
        let mut found = view.found.iter();
        for &(cookie, findings) in &view.hits {
            let Some(filter) = table.filter(cookie).map(|e| e.filter.id) else { continue };
            for (handle, _) in found.by_ref().take(findings.into()).flatten() {
                let Ok(handle) = handle else { continue };
                let Some(entry) = locked.of_mut(handle.shard()).and_then(|s| s.connection_mut(*handle)) else {
                    continue;
                };
                entry.gate.map_err(|why| Refusal::NotQualified { filter, why })?;
                // Datapaths count for themselves.
                entry.seen = entry.seen.saturating_add(1).max(self.glance().seen(*handle).unwrap_or_default());
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
        handles: &[ConnectionHandle],
        locked: &Locked<'_>,
    ) -> Result<(Path, Option<Mold>), Box<Refused>> {
        let (fronts, families) = (fronts(table, view), table.families(way));
        let mut steps = Vec::with_capacity(view.hits.len());
        let mut found = view.found.iter();
        for (&(cookie, findings), front) in view.hits.iter().zip(&fronts) {
            let met = found.by_ref().take(findings.into()).map(|f| {
                let (handle, direction) = (*f)?;
                let handle = handle.ok()?;
                let connection = &locked.connection(handle)?.connection;
                Some(Met { index: index(handles, handle), direction, connection })
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
            connections: handles.iter().filter_map(|&h| Some(&locked.connection(h)?.connection)).collect(),
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

    /// Offers a merged filter to the hardware.
    pub(super) fn install_one(&self, pending: Pending, now: u64) -> Outcome {
        let refused = |why: String| Refusal::Hardware { filter: pending.filter, why };
        let id = pending.id;
        let known: Known<'_> = pending.connections.iter().collect();
        let offer = Offer { id, path: &pending.path, connections: &known, mend: self.mends() };
        if self.stuck_count.load(Relaxed) > 0 {
            let matches = offer.matches();
            let stuck = self.stuck.lock();
            let same = stuck.iter().find(|s| s.port == pending.path.port && overlap(&s.matches, &matches));
            if let Some(why) = same.map(|s| format!("{} should be gone, is not, and matches the same packets", s.id)) {
                drop(stuck);
                self.came_of(&pending, Event::Declined, now);
                return Err(refused(why));
            }
        }
        if pending.liberal
            && let Err(why) = self.make_liberal(&pending)
        {
            self.came_of(&pending, Event::Declined, now);
            return Err(refused(format!("conntrack is not liberal about the connection's windows: {why}")));
        }
        let done = match self.hardware.install(&offer) {
            Err(HardwareError::Full { .. }) => self.displace(&offer, &pending, now),
            done => done,
        };
        let event = match &done {
            Ok(()) => Event::Accepted,
            Err(HardwareError::Failed { .. }) => Event::Busy,
            // It went in after the hardware was reset and before that was told: nobody else has its name.
            Err(HardwareError::Unsure { .. } | HardwareError::Exists { .. }) => Event::Unsure,
            Err(_) => Event::Declined,
        };
        let installed = self.came_of(&pending, event, now);
        match done {
            Ok(()) if installed => {
                self.tallies.installed.one();
                tracing::trace!(%id, filter = %pending.filter, "installed");
                Ok(Merge { id, installed: true })
            }
            Ok(()) => Err(leaving(pending.filter)),
            Err(error) => {
                self.tallies.faults.one();
                tracing::debug!(%id, %error, "not installed");
                Err(refused(error.to_string()))
            }
        }
    }

    /// What came of an offer. Whether the merged filter is in hardware, and stays.
    fn came_of(&self, pending: &Pending, event: Event, now: u64) -> bool {
        let installed = self.came_of_one(pending.id, Some(pending), event, now);
        if installed && pending.handles.is_empty() {
            let table = self.table.read();
            // Gone again, it must not be seen.
            let there = self.shard(self.shard_of_merged(pending.id)).merged(pending.id).map(|m| m.state);
            if there == Some(State::Installed) {
                table.show(pending.path_id);
            }
        }
        installed
    }

    fn came_of_one(&self, id: MergedId, pending: Option<&Pending>, event: Event, now: u64) -> bool {
        let index = self.shard_of_merged(id);
        let mut shard = self.shard(index);
        let Some(merged) = shard.merged_mut(id) else { return false };
        let recalled = merged.state == State::Recalled;
        merged.attempts = if event == Event::Busy { merged.attempts.saturating_add(1) } else { 0 };
        let given_up = event == Event::Busy && merged.attempts >= self.settings.attempts;
        merged.step(if given_up { Event::Declined } else { event });
        let (state, attempts) = (merged.state, merged.attempts);
        match state {
            State::Installed => {
                if let Some(Pending { handles, verdict: Some(verdict), .. }) = pending
                    && let [first, others @ ..] = &handles[..]
                    && others.len() < 2
                {
                    self.glance().list(*first, others.first().copied(), *verdict);
                }
                return true;
            }
            State::Waiting => self.retries.lock().push(now.saturating_add(self.settings.wait(attempts)), id),
            State::Removing => {
                drop(shard);
                // Whoever recalled it is told of a failure by what is stuck then.
                self.remove_now(&[id], now, &mut Vec::new());
                return false;
            }
            _ => {
                if given_up {
                    self.tallies.given_up.one();
                }
                let elsewhere = self.freed(&mut shard, id);
                drop(shard);
                self.forget_elsewhere(&elsewhere);
            }
        }
        if recalled {
            self.home(index).left.notify_all();
        }
        false
    }

    fn make_liberal(&self, pending: &Pending) -> Result<(), String> {
        for (&handle, connection) in pending.handles.iter().zip(&pending.connections) {
            let id = match self.shard(handle.shard()).connection(handle) {
                Some(entry) if entry.wants_liberal() => entry.id,
                _ => continue,
            };
            self.settings.conntrack.make_liberal(id, connection)?;
            if let Some(entry) = self.shard(handle.shard()).connection_mut(handle) {
                entry.liberal = true;
            }
        }
        Ok(())
    }

    /// Offers what waited, and whose state says that this thread does.
    pub(super) fn offer_again(&self, ids: &[MergedId], now: u64) {
        for &id in ids {
            let path = self.shard(self.shard_of_merged(id)).merged(id).map(|m| m.path);
            if let Some(pending) = self.pending(id) {
                // What comes of it, its state tells.
                let _ = self.install_one(pending, now);
            } else {
                self.came_of_one(id, None, Event::Declined, now);
            }
            // No walk will bring it again.
            let alone = path.filter(|&p| !self.is_merged(id) && self.table.read().entry(p).is_some_and(|e| e.alone));
            self.lost.lock().extend(alone);
        }
    }

    fn pending(&self, id: MergedId) -> Option<Pending> {
        let table = self.table.read();
        let (path, links) = {
            let shard = self.shard(self.shard_of_merged(id));
            let merged = shard.merged(id)?;
            (merged.path, merged.connections.clone())
        };
        let handles: Handles = links.all().into();
        let locked = self.lock(&handles);
        let filter = table.last_filter(table.way_of(path)?)?;
        let pending = Pending::new(id, filter, (path, table.entry(path)?), handles, &locked);
        (pending.connections.len() == pending.handles.len()).then_some(pending)
    }

    fn view<'a>(&self, walk: &'a Walk, epoch: u64) -> View<'a> {
        let mut view = View { port: walk.port, key: &walk.key, hits: SmallVec::new(), found: SmallVec::new(), epoch };
        for hit in &walk.hits {
            view.hits.push((hit.filter, hit.found.len().min(u8::MAX.into()) as u8));
            for found in &hit.found {
                let by = |id: ConnectionId| self.handle(id).ok_or(id.0);
                view.found.push(found.map(|f| (by(f.connection), f.direction)));
            }
        }
        view
    }
}

impl<'a> View<'a> {
    /// A walk that a datapath recorded.
    fn recorded(recorded: &'a Recorded) -> View<'a> {
        let mut view = View {
            port: recorded.port,
            key: &recorded.key,
            hits: SmallVec::new(),
            found: SmallVec::new(),
            epoch: recorded.steps().epoch(),
        };
        let steps = recorded.steps();
        for &filter in steps.filters() {
            view.hits.push((filter, 0));
        }
        for (hit, found) in steps.all_found() {
            if let Some((_, findings)) = view.hits.get_mut(hit) {
                *findings += 1;
            }
            view.found.push(found.map(|(handle, direction)| (Ok(handle), direction)));
        }
        view
    }

    /// The connections of the walk, each once, in the order in which it meets them; `None` if one is not known.
    fn handles(&self) -> Option<Handles> {
        let mut out = Handles::new();
        for (handle, _) in self.found.iter().flatten() {
            let handle = (*handle).ok()?;
            if !out.contains(&handle) {
                out.push(handle);
            }
        }
        Some(out)
    }

    /// The walk's way; `None` if a connection is not there any more.
    fn way_key(&self, handles: &[ConnectionHandle], locked: &Locked<'_>) -> Option<WayKey> {
        let mut found = SmallVec::new();
        for f in &self.found {
            found.push(match f {
                None => None,
                Some((handle, direction)) => {
                    let handle = (*handle).ok()?;
                    let [original, reply] = locked.connection(handle)?.ct;
                    let ct = if *direction == Direction::Original { original } else { reply };
                    Some(CtKey { index: index(handles, handle), ..ct })
                }
            });
        }
        Some(WayKey { port: self.port, hits: self.hits.clone(), found })
    }
}

/// What stands in front of each hit.
fn fronts(table: &mut Table, view: &View<'_>) -> Vec<Vec<(Cookie, Order)>> {
    let mut before = None;
    let in_front = view.hits.iter().map(|&(cookie, _)| {
        let front = table.in_front(cookie, before);
        before = Some(cookie);
        front
    });
    in_front.collect()
}

fn index(handles: &[ConnectionHandle], handle: ConnectionHandle) -> u8 {
    handles.iter().position(|&h| h == handle).unwrap_or_default() as u8
}

/// What is in the way is on its way out.
fn leaving(filter: FilterId) -> Refusal {
    Refusal::Leaving { filter }
}
