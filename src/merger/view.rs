//! A look inside: what is in hardware, what is not and why, and how much of everything there is.

use super::{Displaced, Merger, Turned, counters, walks::View};
use crate::{
    conntrack::{Connection, ConnectionId},
    flower::{Action, Cookie, Counters, Filter, Match, Port},
    hardware::{HardwareError, MergedId, Offer},
    merge::{Path, Refusal},
    sync::{Arc, atomic::Ordering::Relaxed},
    table::{PathId, life::State},
};
use smallvec::SmallVec;
use std::{collections::BTreeMap, fmt};

/// A merged filter.
#[derive(Clone, Debug)]
pub struct MergedView {
    /// Its name.
    pub id: MergedId,
    /// Where it is in its life.
    pub state: State,
    /// Its path, with the parents.
    pub path: Arc<Path>,
    /// The number of the path, the same for all that share it.
    pub path_id: PathId,
    /// What it matches.
    pub matches: Match,
    /// What it does.
    pub actions: Vec<Action>,
    /// The connections that it was filled in with.
    pub connections: Vec<ConnectionId>,
    /// What it has counted until it was last read.
    pub counters: Counters,
}

/// Everything, at about one moment: each part is taken for itself.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The filters, with what merged filters counted for each action.
    pub filters: Vec<(Cookie, Filter, Vec<Counters>)>,
    /// Ways, each a list of filters with the findings of their `ct` actions.
    pub ways: usize,
    /// Paths: where their packets come in, and the parents in the order of the hits.
    pub paths: Vec<(PathId, Port, Vec<Cookie>)>,
    /// The merged filters.
    pub merged: Vec<MergedView>,
    /// The connections, how many merged filters rest on each, and what keeps it out of hardware.
    pub connections: Vec<(ConnectionId, Connection, usize, Option<String>)>,
    /// Walks that wait.
    pub queue: usize,
    /// Merged filters that wait to be offered again.
    pub waiting: usize,
    /// What the hardware should have removed and has not.
    pub stuck: Vec<HardwareError>,
    /// The `skip_sw` filters that are not where they should be.
    pub displaced: Vec<Displaced>,
    /// What limits turned away, and what happened how often.
    pub turned: Turned,
    /// How many walks were refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

/// What keeps packets of a filter, or of a connection, out of hardware.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Why {
    /// Whether it is known at all.
    pub known: bool,
    /// Merged filters in hardware that derive from it.
    pub merged: usize,
    /// Why others are not, each once.
    pub reasons: Vec<String>,
}

impl<H> Merger<H> {
    /// A merged filter.
    pub fn merged_by(&self, id: MergedId) -> Option<MergedView> {
        let table = self.table.read();
        let (state, path_id, links, counted) = {
            let shard = self.shard(self.shard_of_merged(id));
            let merged = shard.merged(id)?;
            (merged.state, merged.path, merged.connections.clone(), *shard.meter(id)?)
        };
        let (path, overhead) = table.entry(path_id).map(|e| (Arc::clone(&e.path), e.overhead))?;
        let locked = self.lock(links.all());
        let entries: SmallVec<[_; 2]> = links.all().iter().filter_map(|&c| locked.connection(c)).collect();
        let known: SmallVec<[&Connection; 2]> = entries.iter().map(|e| &e.connection).collect();
        if known.len() < links.all().len() {
            return None;
        }
        let entry = Offer { id, path: &path, connections: &known, mend: self.mends() }.entry();
        let bytes = |packets, all| counters::bytes(self.capabilities.counts, overhead, packets, all);
        let connections = entries.iter().map(|e| e.id).collect();
        let (matches, actions) = (entry.matches, entry.actions);
        Some(MergedView { id, state, path_id, matches, actions, connections, counters: counted.counters(bytes), path })
    }

    /// All merged filters, on their way in and out included.
    pub fn merged(&self) -> Vec<MergedView> {
        let mut ids = Vec::new();
        for index in 0..self.count() {
            let shard = self.shard(index);
            shard.from(0, shard.end(), |id, _, _| ids.push(id));
        }
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| self.merged_by(id)).collect()
    }

    /// Whether a merged filter of this name is tracked.
    pub fn is_merged(&self, id: MergedId) -> bool {
        self.shard(self.shard_of_merged(id)).merged(id).is_some()
    }

    /// Everything there is.
    pub fn snapshot(&self) -> Snapshot {
        let merged = self.merged();
        let table = self.table.read();
        let mut filters: Vec<_> = table.filters().map(|(c, e)| (c, e.filter.clone(), e.account)).collect();
        filters.sort_unstable_by_key(|f| f.0);
        let ledger = self.ledger.lock();
        let filters = filters.into_iter().map(|(c, f, account)| (c, f, ledger.of(account).to_vec())).collect();
        drop(ledger);
        let parents = |path: &Path| path.parents.iter().map(|p| p.cookie).collect();
        let paths = table.all_paths().map(|(id, e)| (id, e.path.port, parents(&e.path))).collect();
        let ways = table.way_count();
        drop(table);
        let mut connections = Vec::new();
        for index in 0..self.count() {
            let shard = self.shard(index);
            let all = shard.connections();
            connections.extend(all.map(|e| (e.id, e.connection, e.merged.len(), e.keeps_out())));
        }
        connections.sort_unstable_by_key(|c| c.0);
        // One lock after the other: what is locked in the expression below stays so to its end.
        let queue = self.queue.lock().len();
        let waiting = self.retries.lock().len();
        let refused = self.refused();
        Snapshot {
            filters,
            ways,
            paths,
            merged,
            connections,
            queue,
            waiting,
            stuck: self.stuck(),
            displaced: self.displaced(),
            turned: self.turned(),
            refused,
        }
    }

    /// The merged filters that derive from a filter.
    pub fn derived_from(&self, cookie: Cookie) -> Vec<MergedId> {
        let table = self.table.read();
        let mut ids = Vec::new();
        for path in table.paths_through(cookie) {
            for index in 0..self.count() {
                let shard = self.shard(index);
                ids.extend(std::iter::successors(shard.first_of(path), |&id| shard.after(id)));
            }
        }
        ids
    }

    /// What keeps packets of a filter out of hardware.
    pub fn why(&self, cookie: Cookie) -> Why {
        let displaced = self.displaced();
        let mut why = Why { known: self.table.read().filter(cookie).is_some(), ..Why::default() };
        for id in self.derived_from(cookie) {
            match self.shard(self.shard_of_merged(id)).merged(id).map(|m| m.state) {
                Some(State::Installed) => why.merged += 1,
                Some(State::Waiting) => {
                    why.tell(format!("the hardware failed to install {id}, and is asked again"));
                }
                _ => {}
            }
        }
        let table = self.table.read();
        let Some(entry) = table.filter(cookie) else { return why };
        for what in &entry.filter.undecoded {
            why.tell(format!("{}: {what} is not understood", entry.filter.id));
        }
        table.refusals_through(cookie).for_each(|refusal| why.tell(refusal));
        displaced.iter().filter(|d| d.cookie == cookie).for_each(|d| why.tell(&d.why));
        let met = self.last_refused.lock();
        met.get(&cookie).into_iter().for_each(|refusal| why.tell(refusal));
        if why.merged == 0 && why.reasons.is_empty() {
            why.tell("no walk through it has come to its end yet");
        }
        why
    }

    /// What keeps packets of a connection out of hardware.
    pub fn why_connection(&self, id: ConnectionId) -> Why {
        let shard = self.shard_of(id);
        let Some(entry) = shard.handle(id).and_then(|handle| shard.connection(handle)) else { return Why::default() };
        let mut why = Why { known: true, merged: entry.merged.len(), ..Why::default() };
        entry.keeps_out().into_iter().for_each(|reason| why.tell(reason));
        entry.refused.iter().for_each(|refusal| why.tell(refusal));
        if why.merged == 0 && why.reasons.is_empty() {
            why.tell("no walk of it has come to its end yet");
        }
        why
    }

    /// Notes a refusal, for those who ask why.
    pub(super) fn tell_refused(&self, view: &View<'_>, refusal: &Refusal) {
        tracing::trace!(%refusal, "refused");
        *self.refused.lock().entry(refusal.reason()).or_default() += 1;
        for &handle in &view.handles {
            if let Some(entry) = self.shard(handle.shard()).connection_mut(handle)
                && entry.refused.as_deref() != Some(refusal)
            {
                entry.refused = Some(Box::new(refusal.clone()));
            }
        }
        if let Some(&last) = view.filters.last() {
            // A filter that is gone meanwhile leaves nothing behind.
            let table = self.table.read();
            if table.filter(last).is_some() {
                self.last_refused.lock().insert(last, refusal.clone());
            }
        }
    }

    /// How many walks were refused, by reason.
    pub fn refused(&self) -> BTreeMap<&'static str, u64> {
        self.refused.lock().clone()
    }

    /// How many walks wait.
    pub fn queued(&self) -> usize {
        self.queue.lock().len()
    }

    /// How many connections are known.
    pub fn connection_count(&self) -> usize {
        (0..self.count()).map(|index| self.shard(index).connection_count()).sum()
    }

    /// How many accounts of filters are open: as many as filters, and replaced ones that TC has not destroyed yet.
    pub fn account_count(&self) -> usize {
        self.ledger.lock().count()
    }

    /// The latest time that was told.
    pub fn time(&self) -> u64 {
        self.clock.load(Relaxed)
    }
}

impl Why {
    fn tell(&mut self, reason: impl ToString) {
        let reason = reason.to_string();
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.known {
            return f.write_str("not known");
        }
        write!(f, "{} merged filters in hardware", self.merged)?;
        self.reasons.iter().try_for_each(|reason| write!(f, "\n  {reason}"))
    }
}
