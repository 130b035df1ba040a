//! Installs: merged filters are offered to the hardware, no lock held, and what came of it is noted.

use super::{Locked, Merge, Merger, Outcome, walks::Handles, work::leaving};
use crate::{
    conntrack::{Connection, ConnectionHandle},
    flower::FilterId,
    glance::{Glance, Lists},
    hardware::{Hardware, HardwareError, MergedId, Offer},
    merge::{Path, Refusal},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    table::{
        PathEntry, PathId,
        life::{Event, State},
        overlap,
    },
};
use smallvec::SmallVec;

/// Connections for which a path's verdict is made ready at once.
const AT_ONCE: u32 = 32;

/// Merged filters that are about to be installed by this thread. Neighbours have most in common, and what they share is looked up, and
/// counted for all threads to see, once for all of them.
pub(super) struct Installs<'m> {
    pub all: Vec<Pending>,
    paths: Vec<OnPath<'m>>,
    pub room: Room<'m>,
    glance: &'m Glance,
}

/// A merged filter that is about to be installed.
pub(super) struct Pending {
    pub id: MergedId,
    /// Its path, among those of the same [`Installs`].
    on: usize,
    pub handles: Handles,
    connections: SmallVec<[Connection; 1]>,
    /// There are TCP connections that conntrack has to be liberal about first.
    liberal: bool,
}

/// What installs on a path share.
struct OnPath<'m> {
    id: PathId,
    path: Arc<Path>,
    /// The way's last filter, to name in a refusal.
    filter: FilterId,
    /// Where datapaths see that its packets are merged.
    seen: Option<Lists<'m>>,
}

impl<'m> Installs<'m> {
    /// Adds one of a path, of which the last filter is this, and of these connections, which are all there, their shards locked.
    #[inline]
    pub fn push(
        &mut self,
        id: MergedId,
        (path, entry, filter): (PathId, &PathEntry, FilterId),
        handles: &[ConnectionHandle],
        locked: &Locked<'_>,
    ) {
        let (mut connections, mut liberal) = (SmallVec::new(), false);
        for entry in handles.iter().filter_map(|&handle| locked.connection(handle)) {
            liberal |= entry.wants_liberal();
            connections.push(entry.connection);
        }
        if self.paths.last().is_none_or(|last| last.id != path) {
            let seen = entry.verdict.lock().map(|verdict| self.glance.lists(verdict, AT_ONCE));
            self.paths.push(OnPath { id: path, path: Arc::clone(&entry.path), filter, seen });
        }
        let on = self.paths.len() - 1;
        self.all.push(Pending { id, on, handles: Handles::from_slice(handles), connections, liberal });
    }
}

/// Room for merged filters, taken from the limit for several at a time: the count is one that all threads write. What is left is given
/// back in the end.
pub(super) struct Room<'m> {
    merged: &'m AtomicUsize,
    limit: usize,
    at_once: usize,
    left: usize,
}

impl Room<'_> {
    /// Takes room for one more. False if there is none.
    #[inline]
    pub fn take(&mut self) -> bool {
        for wanted in [self.at_once, 1] {
            if self.left > 0 {
                break;
            }
            let before = self.merged.fetch_add(wanted, Relaxed);
            if before.saturating_add(wanted) <= self.limit {
                self.left = wanted;
            } else {
                self.merged.fetch_sub(wanted, Relaxed);
            }
        }
        let is_there = self.left > 0;
        self.left -= usize::from(is_there);
        is_there
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.left > 0 {
            self.merged.fetch_sub(self.left, Relaxed);
        }
    }
}

impl<H: Hardware> Merger<H> {
    /// Nothing to install yet, but soon, and then about so many.
    pub(super) fn installs(&self, about: usize) -> Installs<'_> {
        let room = Room { merged: &self.merged, limit: self.settings.limits.merged, at_once: about, left: 0 };
        Installs { all: Vec::with_capacity(about), paths: Vec::new(), room, glance: self.glance() }
    }

    /// Offers them to the hardware, in order; what came of the last. What is on a datapath's walks nobody waits for.
    pub(super) fn install(&self, installs: &mut Installs<'_>, now: u64) -> Option<Outcome> {
        let (mut last, mut installed) = (None, 0);
        for pending in &installs.all {
            let outcome = self.install_one(pending, &installs.paths[pending.on], now);
            installed += u64::from(outcome.is_ok());
            last = Some(outcome);
        }
        installs.all.clear();
        installs.paths.clear();
        if installed > 0 {
            self.tallies.installed.add(installed);
        }
        last
    }

    fn install_one(&self, pending: &Pending, on: &OnPath<'_>, now: u64) -> Outcome {
        let (id, filter) = (pending.id, on.filter);
        let refused = |why: String| Refusal::Hardware { filter, why };
        let mut known: SmallVec<[&Connection; 2]> = SmallVec::new();
        for connection in &pending.connections {
            known.push(connection);
        }
        let offer = Offer { id, path: &on.path, connections: &known, mend: self.mends() };
        if self.stuck_count.load(Relaxed) > 0
            && let Some(why) = self.stuck_in_the_way(&offer)
        {
            self.came_of(pending, on, Event::Declined, now);
            return Err(refused(why));
        }
        if pending.liberal
            && let Err(why) = self.make_liberal(pending)
        {
            self.came_of(pending, on, Event::Declined, now);
            return Err(refused(format!("conntrack is not liberal about the connection's windows: {why}")));
        }
        let done = match self.hardware.install(&offer) {
            Err(HardwareError::Full { .. }) => self.displace(&offer, &pending.handles, now),
            done => done,
        };
        let event = match &done {
            Ok(()) => Event::Accepted,
            Err(HardwareError::Failed { .. }) => Event::Busy,
            // It went in after the hardware was reset and before that was told: nobody else has its name.
            Err(HardwareError::Unsure { .. } | HardwareError::Exists { .. }) => Event::Unsure,
            Err(_) => Event::Declined,
        };
        let installed = self.came_of(pending, on, event, now);
        match done {
            Ok(()) if installed => {
                tracing::trace!(%id, filter = %filter, "installed");
                Ok(Merge { id, installed: true })
            }
            Ok(()) => Err(leaving(filter)),
            Err(error) => {
                self.tallies.faults.one();
                tracing::debug!(%id, %error, "not installed");
                Err(refused(error.to_string()))
            }
        }
    }

    /// Why nothing may be installed beside what the hardware has not removed.
    #[cold]
    fn stuck_in_the_way(&self, offer: &Offer<'_>) -> Option<String> {
        let matches = offer.matches();
        let stuck = self.stuck.lock();
        let same = stuck.iter().find(|s| s.port == offer.path.port && overlap(&s.matches, &matches))?;
        Some(format!("{} should be gone, is not, and matches the same packets", same.id))
    }

    /// What came of an offer. Whether the merged filter is in hardware, and stays.
    fn came_of(&self, pending: &Pending, on: &OnPath<'_>, event: Event, now: u64) -> bool {
        let installed = self.came_of_one(pending.id, Some((pending, on)), event, now);
        if installed && pending.handles.is_empty() {
            let table = self.table.read();
            // Gone again, it must not be seen.
            let there = self.shard(self.shard_of_merged(pending.id)).merged(pending.id).map(|m| m.state);
            if there == Some(State::Installed) {
                table.show(on.id);
            }
        }
        installed
    }

    fn came_of_one(&self, id: MergedId, pending: Option<(&Pending, &OnPath<'_>)>, event: Event, now: u64) -> bool {
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
                if let Some((Pending { handles, .. }, OnPath { seen: Some(seen), .. })) = pending
                    && let [first, others @ ..] = &handles[..]
                    && others.len() < 2
                {
                    seen.list(*first, others.first().copied());
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
            let mut installs = self.installs(1);
            if self.prepare_again(&mut installs, id).is_some() {
                // What comes of it, its state tells.
                let _ = self.install(&mut installs, now);
            } else {
                self.came_of_one(id, None, Event::Declined, now);
            }
            // No walk will bring it again.
            let alone = path.filter(|&p| !self.is_merged(id) && self.table.read().entry(p).is_some_and(|e| e.alone));
            self.lost.lock().extend(alone);
        }
    }

    fn prepare_again(&self, installs: &mut Installs<'_>, id: MergedId) -> Option<()> {
        let table = self.table.read();
        let (path, links) = {
            let shard = self.shard(self.shard_of_merged(id));
            let merged = shard.merged(id)?;
            (merged.path, merged.connections.clone())
        };
        let locked = self.lock(links.all());
        let is_there = |&handle: &ConnectionHandle| locked.connection(handle).is_some();
        let on = (path, table.entry(path)?, table.last_filter(table.way_of(path)?)?);
        links.all().iter().all(is_there).then(|| installs.push(id, on, links.all(), &locked))
    }
}
