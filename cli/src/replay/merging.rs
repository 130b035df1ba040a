//! Merged filters in hardware: the library itself, as a driver would use it, with the table in memory for hardware; and
//! the record of what came of each walk, for the report.

use super::{
    engine::{Met, Received},
    known::{Known, has_wrong_length, known, trailing},
    offload::{Arrival, Handled, Offload},
    totals,
    workers::Workers,
};
use flowmerge::{
    conntrack::{ConnectionId, is_excluded},
    flower::{Action, ActionKind, Capabilities, Cookie, Counters, Counts, Field, Filter, FilterId, Hook, Port, Tunnel},
    hardware::{Entry, Memory, MergedId},
    merge::{Path, Refusal},
    merger::{ConnectionEvent, Merger, NotRemoved, Outcome, ReplaceError},
    packet::{
        self,
        apply::{Applied, End, apply_through},
    },
    table::Inserted,
    walk::{Hit, Walk},
};
use merge_model::conntrack::observed::{Change, ChangeKind};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// A merged filter of the run.
pub struct Record {
    /// The filter as it could be given to TC.
    pub filter: Filter,
    /// The filters that it came from, in the order of the hits.
    pub parents: Vec<FilterId>,
    /// Its connections, in words.
    pub connections: Vec<String>,
    /// What it handled.
    pub counters: Counters,
    /// The walk that it came from.
    pub walk: Walk,
    /// What each `ct` of the walk found.
    pub met: Vec<Option<Met>>,
    /// How many actions of the parents run.
    pub ran: usize,
    /// Packets are cut to their datagram and go on at a port's ingress, where they are counted anew.
    recounted: bool,
    /// The policers among these actions: how many actions have run with each, and its index.
    policers: Vec<(usize, u32)>,
}

impl Record {
    /// Whether software took a packet the way that this describes, and sent these frames for it.
    fn is_as_in(&self, software: &Received, applied: &Applied) -> bool {
        let sent = applied.sent.iter().filter(|sent| !sent.ingress).map(|sent| (sent.port, &sent.frame));
        self.parents == software.hits
            && self.met == software.met
            && self.ran == software.ran
            && sent.eq(software.sent.iter().map(|(port, frame)| (*port, frame)))
    }

    /// Why software made something else of a frame, if that is one of the known differences.
    fn why_not(&self, frame: &[u8], software: &Received) -> Option<Known> {
        // `csum` drops what is too short to be summed up: nothing behind it runs, or counts.
        let ended_early =
            self.parents.starts_with(&software.hits) && self.met.starts_with(&software.met) && software.ran < self.ran;
        // `pedit` ends at the first word that is not there; which that is depends on the order of its words.
        let ended = self.parents == software.hits && self.met == software.met && software.ran == self.ran;
        if ended_early || ended {
            return has_wrong_length(frame).then_some(Known::Length);
        }
        let first = self.met.iter().zip(&software.met).find(|(mine, found)| mine != found);
        // Conntrack found nothing where this rests on a connection.
        if matches!(first, Some((Some(_), None))) { known(frame) } else { None }
    }
}

/// The merger, its hardware, and the record.
pub struct Merging {
    merger: Arc<Merger<Memory>>,
    /// Who merges; nobody: the replay's own thread.
    workers: Option<Workers>,
    /// The merged filters of the run, by name.
    pub records: BTreeMap<u64, Record>,
    /// Walks and what became of them.
    pub walks: totals::Walks,
    /// Merged filters and refusals, in numbers.
    pub merged: totals::Merged,
    /// Packets that merged filters match and that software judges by more than a table looks at, left to it: by why.
    pub known: BTreeMap<Known, u64>,
    /// What became of the last walk.
    pub last: Option<Outcome>,
    /// The refusals by reason, each in words with the number of walks.
    pub refusals: BTreeMap<&'static str, BTreeMap<String, u64>>,
    /// What hardware failed to do.
    pub failures: Vec<String>,
    paths: HashMap<Vec<Cookie>, Vec<Path>>,
    /// Connections whose mark or labels the current frame has changed.
    marked: BTreeSet<ConnectionId>,
}

impl Default for Merging {
    /// Nothing merged yet, into a table that can do everything.
    fn default() -> Merging {
        Merging::into_table(Capabilities::all())
    }
}

impl Merging {
    /// Nothing merged yet, into a table that can do this.
    pub fn into_table(capabilities: Capabilities) -> Merging {
        Merging {
            merger: Arc::new(Merger::new(Memory::new(capabilities))),
            workers: None,
            records: BTreeMap::new(),
            walks: totals::Walks::default(),
            merged: totals::Merged::default(),
            known: BTreeMap::new(),
            last: None,
            refusals: BTreeMap::new(),
            failures: Vec::new(),
            paths: HashMap::new(),
            marked: BTreeSet::new(),
        }
    }

    /// From now on so many threads merge the walks; with 0 the caller's own does.
    pub fn with_threads(mut self, threads: usize) -> Merging {
        self.workers = (threads > 0).then(|| Workers::new(&self.merger, threads));
        self
    }

    /// What became of a walk.
    fn outcome(&mut self, walk: Walk) -> Option<Outcome> {
        let ticket = self.merger.walk(walk)?;
        let Some(workers) = &self.workers else {
            return self.merger.drain(0).walks.pop().map(|(_, outcome)| outcome);
        };
        let outcome = workers.outcome(ticket);
        if outcome.is_none() {
            self.failures.push("a worker died".to_string());
        }
        outcome
    }

    /// The library's own state.
    pub fn merger(&self) -> &Merger<Memory> {
        &self.merger
    }

    fn enter(&mut self, cookie: Cookie, filter: &Filter, inserted: Inserted) {
        match self.merger.replace(cookie, filter.clone(), inserted) {
            Ok(_) => {}
            Err(ReplaceError::SkipSw(refusal)) => self.failures.push(format!("{}: {refusal}", filter.id)),
            Err(error) => self.failures.push(error.to_string()),
        }
        if filter.skip_sw {
            // It went into hardware at once.
            let all = self.merger.merged().into_iter().map(|merged| merged.id);
            let new: Vec<MergedId> = all.filter(|id| !self.records.contains_key(&id.0)).collect();
            new.into_iter().for_each(|id| self.record_alone(id));
        }
    }

    /// Notes a merged filter that was installed without a walk: a `skip_sw` filter's. Its walk is the filter alone.
    fn record_alone(&mut self, id: MergedId) {
        let Some(merged) = self.merger.merged_by(id) else { return };
        let path = &merged.path;
        let hits = path.parents.iter().map(|parent| Hit { filter: parent.cookie, found: Vec::new() });
        let walk = Walk { port: path.port, key: merged.matches.key, hits: hits.collect() };
        self.record(id, &walk);
    }

    /// Notes a merged filter that was installed for a walk.
    fn record(&mut self, id: MergedId, walk: &Walk) {
        let merger = &*self.merger;
        let Some(merged) = merger.merged_by(id) else { return };
        let path = &*merged.path;
        let table = merger.table();
        let cookies: Vec<Cookie> = path.parents.iter().map(|p| p.cookie).collect();
        let filter = |cookie: &Cookie| Some(table.filter(*cookie)?.filter.id);
        let connection = |c| merger.connection_of(c).map(|c| c.to_string());
        let found = walk.hits.iter().flat_map(|hit| &hit.found);
        let met =
            found.map(|found| found.and_then(|f| Some(Met::new(&merger.connection_of(f.connection)?, f.direction))));
        let enters = |action: &Action| matches!(action.kind, ActionKind::Mirred(mirred) if mirred.ingress);
        let parents = cookies.iter().filter_map(|&cookie| table.filter(cookie));
        let recounted =
            path.course.program.trim.is_some() && parents.flat_map(|entry| &entry.filter.actions).any(enters);
        let ran = path.parents.iter().flat_map(|parent| {
            let actions = table.filter(parent.cookie).map_or(&[][..], |entry| &entry.filter.actions);
            actions.iter().enumerate().filter(|(at, _)| parent.ran >> at & 1 == 1).map(|(_, action)| action)
        });
        let policers = ran.zip(1..).filter(|(action, _)| matches!(action.kind, ActionKind::Police(_)));
        let record = Record {
            recounted,
            policers: policers.map(|(action, ran)| (ran, action.index)).collect(),
            filter: Filter::alone(path.port, id.0 as u32, merged.matches, merged.actions.clone()),
            parents: cookies.iter().filter_map(filter).collect(),
            connections: merged.connections.iter().filter_map(|&c| connection(c)).collect(),
            counters: Counters::default(),
            walk: walk.clone(),
            met: met.collect(),
            ran: path.parents.iter().map(|parent| parent.ran.count_ones() as usize).sum(),
        };
        let paths = self.paths.entry(cookies).or_default();
        if !paths.contains(path) {
            self.walks.paths += 1;
            paths.push(path.clone());
        }
        self.merged.installed += 1;
        self.records.insert(id.0, record);
    }

    /// Whether a walk has itself changed what it found: its `ct` gave a connection another mark or labels, so that the next
    /// packet may not take its way any more.
    fn changes_itself(&self, walk: &Walk) -> bool {
        let mut found = walk.hits.iter().flat_map(|hit| &hit.found).flatten();
        found.any(|f| self.marked.contains(&f.connection))
    }

    /// Whether a walk's connections all qualify for being merged, there is one, and its packet is not excluded.
    fn is_established(&self, walk: &Walk) -> bool {
        let table = self.merger.table();
        let mut found_any = false;
        for hit in &walk.hits {
            let Some(entry) = table.filter(hit.filter) else {
                return false;
            };
            let cts = entry.filter.actions.iter().filter_map(|action| match &action.kind {
                ActionKind::Ct(ct) => Some(ct),
                _ => None,
            });
            for (_, found) in cts.zip(&hit.found).filter(|(ct, _)| !ct.clear) {
                let connection = found.and_then(|f| self.merger.connection_of(f.connection));
                if connection.is_none_or(|c| c.qualifies().is_err()) {
                    return false;
                }
                found_any = true;
            }
        }
        found_any && !is_excluded(&walk.key)
    }

    /// The merged filter that would take a frame, and what it would make of it; nothing is counted.
    pub fn peek(&mut self, port: Port, frame: &[u8], tunnel: Option<&Tunnel>) -> Option<(Entry, Applied)> {
        let key = Tunnel::tell(tunnel, packet::arrived(frame)).with(Field::Indev, port.0.into());
        let table = self.merger.hardware();
        let entry = table.entry(table.lookup(port, &key)?)?;
        let applied = apply_through(&entry.actions, entry.trim, frame, tunnel).ok()?;
        Some((entry, applied))
    }

    /// Why software made something else of a frame than the merged filter that matches it, for a reason that is known.
    fn judged_otherwise(&mut self, arrival: Arrival, software: &Received) -> Option<Known> {
        let Arrival { port, frame, tunnel, .. } = arrival;
        let (entry, applied) = self.peek(port, frame, tunnel)?;
        let id = entry.id.0;
        let record = self.records.get(&id)?;
        if record.recounted && trailing(frame) > 0 {
            return Some(Known::Trailing);
        }
        if record.is_as_in(software, &applied) { None } else { record.why_not(frame, software) }
    }

    /// A policer judges packets in hardware and in software alike: as in the run before, in which a packet that one did not let
    /// pass ran no further.
    fn police(&mut self, arrival: Arrival, software: &Received) {
        let entry = self.peek(arrival.port, arrival.frame, arrival.tunnel).map(|(entry, _)| entry.id.0);
        let Some(record) = entry.and_then(|id| self.records.get(&id)) else { return };
        let has_ended = record.parents.starts_with(&software.hits) && software.ran < record.ran;
        for &(ran, index) in &record.policers {
            self.merger.hardware().police(index, !(has_ended && software.ran == ran));
        }
    }

    fn failed(&mut self, done: Result<(), NotRemoved>) {
        self.failures.extend(done.err().map(|error| error.to_string()));
    }

    fn refused(&mut self, refusal: &Refusal) {
        *self.merged.refused.entry(refusal.reason().to_string()).or_default() += 1;
        let sentences = self.refusals.entry(refusal.reason()).or_default();
        *sentences.entry(refusal.to_string()).or_default() += 1;
    }
}

impl Offload for Merging {
    fn add(&mut self, cookie: Cookie, filter: &Filter, dumped: bool) {
        let inserted = if dumped { Inserted::Dumped } else { Inserted::Observed };
        self.enter(cookie, filter, inserted);
    }

    fn replace(&mut self, old: Cookie, cookie: Cookie, filter: &Filter) -> Vec<Counters> {
        self.enter(cookie, filter, Inserted::Observed);
        self.destroy(old)
    }

    fn destroy(&mut self, cookie: Cookie) -> Vec<Counters> {
        let last = self.merger.destroy(cookie);
        last.unwrap_or_else(|error| {
            self.failures.push(error.to_string());
            Vec::new()
        })
    }

    fn bind(&mut self, side: Hook, block: u32) {
        let done = self.merger.bind(side, block);
        self.failed(done);
    }

    fn unbind(&mut self, side: Hook, block: u32) {
        let done = self.merger.unbind(side, block);
        self.failed(done);
    }

    fn port(&mut self, port: Port, up: bool) {
        let done = self.merger.port(port, up);
        self.failed(done);
    }

    fn connection(&mut self, change: &Change) {
        let known = self.merger.connection_of(change.id);
        let now = &change.connection;
        if known.is_some_and(|k| (k.mark, k.labels) != (now.mark, now.labels)) {
            self.marked.insert(change.id);
        }
        let event = match change.kind {
            ChangeKind::Created | ChangeKind::Updated => ConnectionEvent::Is(change.id, change.connection),
            ChangeKind::Destroyed => ConnectionEvent::Gone(change.id),
        };
        let done = self.merger.connection(event);
        self.failed(done);
    }

    fn walk(&mut self, walk: Walk) {
        let established = self.is_established(&walk);
        let changes_itself = self.changes_itself(&walk);
        self.walks.recorded += 1;
        self.walks.established += u64::from(established);
        if let Some(outcome) = self.outcome(walk.clone()) {
            match &outcome {
                Ok(merge) => {
                    self.walks.established_merged += u64::from(established);
                    if merge.installed {
                        self.record(merge.id, &walk);
                    }
                }
                Err(refusal) => {
                    // The connection that it was a walk of is no more.
                    let is_over = changes_itself && matches!(refusal, Refusal::Changed { .. });
                    self.walks.established -= u64::from(established && is_over);
                    self.refused(refusal);
                }
            }
            self.last = Some(outcome);
        }
    }

    fn receive(&mut self, arrival: Arrival) -> Option<Handled> {
        self.marked.clear();
        let Arrival { port, frame, tunnel, now, software } = arrival;
        if let Some(known) = software.and_then(|software| self.judged_otherwise(arrival, software)) {
            *self.known.entry(known).or_default() += 1;
            return None;
        }
        if let Some(software) = software {
            self.police(arrival, software);
        }
        let handled = self.merger.hardware().receive_through(port, frame, tunnel, now)?;
        if !self.records.contains_key(&handled.id.0) {
            // A skip_sw filter at a port that came later, or again.
            self.record_alone(handled.id);
        }
        if let Some(record) = self.records.get_mut(&handled.id.0) {
            record.counters.add(Counters::one(Counts::Ingress.bytes(frame), now));
        }
        Some(Handled { merged: handled.id.0, sent: handled.sent, passes: matches!(handled.end, End::Passed(_)) })
    }

    fn stats(&mut self, cookie: Cookie) -> Vec<Counters> {
        self.merger.stats(cookie)
    }
}
