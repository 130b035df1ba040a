//! The tracker fed by a trace. It holds the connections that ctnetlink reported, moves their state by the frames that pass
//! through `ct` as `nf_conntrack_in` would (`net/netfilter/nf_conntrack_core.c`), and takes from the reports that follow a
//! frame what only the kernel knew: which translation a new connection got, and that the connection it found had expired.
//!
//! Reports come with their place in the trace. What follows a frame and precedes the next received one was caused by that
//! frame, so [`Tracker::begin`] says how far that is; reports before the frame are taken over then.
//!
//! Connections that OVS's own datapath commits report little more than their birth and death. Their state comes from
//! the frames alone, also from those that TC missed: such a frame's [`Passage`] is kept, and when the frame comes out, the
//! caller walks it once more under [`Tracker::resume`], which leaves alone what the first walk has moved already. OVS takes a
//! packet from one `ct` to the next, putting filters in before each; so a frame may be resumed more than once.
//!
//! No timeout is simulated: a connection ends when the trace says so.

mod choice;
mod commit;
mod entry;
mod icmp;
mod offload;
mod report;
mod transport;

pub use report::{Report, Reported};

use super::{Conntrack, EntryId, Glimpse, Info, Shown, Tracked, tcp::Verdict};
use entry::Entry;
use flowmerge::{
    conntrack::{Connection, ConnectionId, Direction, Tuple, proto},
    flower::action::{Nat, NatSide},
    netlink::{ConnectionEvent, ConnectionMessage, status},
};
use icmp::Icmp;
use report::{Reports, name};
use std::collections::{BTreeSet, HashMap, VecDeque};

/// What a connection event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// A new connection is in the table.
    Created,
    /// State, reply tuple, mark or labels changed.
    Updated,
    /// It left the table.
    Destroyed,
}

/// A change of the connection table. Each generation of a tuple has an id of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The connection; the number is that of its [`EntryId`].
    pub id: ConnectionId,
    /// What happened.
    pub kind: ChangeKind,
    /// The connection as it is now, or was last.
    pub connection: Connection,
}

/// What one frame has moved.
#[derive(Clone, Debug, Default)]
pub struct Passage {
    moved: Vec<(u16, EntryId)>,
}

impl Passage {
    /// It has come further, and moved these, too.
    pub fn join(&mut self, more: Passage) {
        self.moved.extend(more.moved);
    }
}

/// How long after a frame its finding of an expired connection is still reported: far more than the kernel takes, far
/// less than any timeout, so that the end of a connection that the frame kept alive is not mistaken for it.
const AT_ONCE: u64 = 500_000_000;

/// How long the unconfirmed connection of a missed frame waits for OVS to commit it.
const UPCALL: u64 = 2_000_000_000;

/// The tracker.
#[derive(Debug, Default)]
pub struct Tracker {
    entries: HashMap<EntryId, Entry>,
    by_tuple: HashMap<(u16, Tuple), EntryId>,
    /// Entries that came or went since the last frame: those not in the table go when no packet can refer to them.
    passing: Vec<EntryId>,
    last_id: u64,
    reports: Reports,
    /// The current frame's time, and the position of the next one.
    now: u64,
    horizon: usize,
    passage: Passage,
    /// What an earlier walk of the same frame moved.
    resumed: Passage,
    /// The frame goes through OVS's own datapath, which knows nothing of act_ct's flow table.
    resuming: bool,
    /// The last packet opened a closed connection again.
    reopened: bool,
    /// Removed by a frame before their end was reported.
    ended: Vec<(u16, Tuple, Tuple)>,
    /// Unconfirmed connections of missed frames, by what they are, and with the time until which they wait.
    waiting: HashMap<(u16, Tuple), Vec<EntryId>>,
    until: VecDeque<(u64, EntryId)>,
    /// The zones that ever had a connection.
    zones: BTreeSet<u16>,
    changes: Vec<Change>,
}

impl Tracker {
    /// A tracker that begins with a dump of connections and will hear these reports, in the order of time.
    pub fn new(dump: impl IntoIterator<Item = Report>, reports: impl IntoIterator<Item = Reported>) -> Tracker {
        let mut tracker = Tracker { reports: reports.into_iter().collect(), ..Tracker::default() };
        for report in dump {
            tracker.take(report);
        }
        tracker
    }

    /// Takes over all reports before that position.
    pub fn advance(&mut self, at: usize) {
        while let Some(r) = self.reports.take_before(at) {
            self.now = self.now.max(r.time);
            self.take(r.report);
        }
    }

    /// A frame arrives at position `at`; the next one after it at `next`.
    pub fn begin(&mut self, at: usize, time: u64, next: usize) {
        self.advance(at);
        self.now = time;
        self.horizon = next;
        self.ended.clear();
        self.passage = Passage::default();
        self.resumed = Passage::default();
        self.resuming = false;
        while self.until.front().is_some_and(|&(until, _)| until < time) {
            if let Some((_, id)) = self.until.pop_front() {
                self.waits_no_more(id);
                self.passing.push(id);
            }
        }
        for id in std::mem::take(&mut self.passing) {
            if self.entries.get(&id).is_some_and(|e| !e.waiting && (e.dead || !e.confirmed)) {
                self.entries.remove(&id);
            }
        }
    }

    fn waits_no_more(&mut self, id: EntryId) {
        let Some(entry) = self.entries.get_mut(&id).filter(|e| e.waiting) else {
            return;
        };
        entry.waiting = false;
        let name = (entry.connection.zone, entry.connection.original);
        if let Some(ids) = self.waiting.get_mut(&name) {
            ids.retain(|&waiting| waiting != id);
            if ids.is_empty() {
                self.waiting.remove(&name);
            }
        }
    }

    /// The connections that were over when a frame came at position `at`, though the kernel notices and tells only as it
    /// looks them up: nothing may rest on them any more. The table still has them.
    pub fn over(&mut self, at: usize, time: u64, next: usize) -> Vec<Change> {
        self.begin(at, time, next);
        let over = |r: &Reported| {
            let c = &r.report.connection;
            let (id, _) = self.find(c.zone, c.original)?;
            let entry = &self.entries[&id];
            let is_over = match r.report.event {
                ConnectionEvent::New => entry.reported && entry.connection.original == c.original,
                _ => self.is_found_over(r, entry),
            };
            is_over.then_some(Change {
                id: ConnectionId(id.0),
                kind: ChangeKind::Destroyed,
                connection: entry.connection,
            })
        };
        self.ahead().filter_map(over).collect()
    }

    /// The frame of the last [`Tracker::begin`] was missed: OVS may commit its connection and send it on. What it moved is
    /// handed back for [`Tracker::resume`].
    pub fn missed(&mut self) -> Passage {
        for &(_, id) in &self.passage.moved {
            if let Some(entry) = self.entries.get_mut(&id).filter(|e| !e.confirmed && !e.waiting) {
                entry.waiting = true;
                let name = (entry.connection.zone, entry.connection.original);
                self.waiting.entry(name).or_default().push(id);
                self.until.push_back((self.now.saturating_add(UPCALL), id));
            }
        }
        std::mem::take(&mut self.passage)
    }

    /// As [`Tracker::begin`], for a missed frame that comes out at position `at`.
    pub fn resume(&mut self, passage: &Passage, at: usize, time: u64, next: usize) {
        self.begin(at, time, next);
        self.resumed = passage.clone();
        self.resuming = true;
    }

    /// Whether a packet goes in the reply direction of a connection, in whatever zone.
    pub fn is_answer(&self, shown: &Shown) -> bool {
        self.zones.iter().any(|&zone| matches!(self.find(zone, shown.tuple), Some((_, Direction::Reply))))
    }

    /// Moves the connections that a missed frame may have passed through, where its way through OVS is not known: those of
    /// its tuple, in whatever zone, and of what they translate it to. What the frame has moved already is left alone.
    pub fn move_all(&mut self, shown: &Shown) {
        let mut shown = shown.clone();
        let mut zones = self.zones.clone();
        while let Some(&zone) = zones.iter().find(|zone| self.find(**zone, shown.tuple).is_some()) {
            zones.remove(&zone);
            let had = |p: &Passage| p.moved.iter().any(|(z, _)| *z == zone);
            let Some((id, direction)) = self.find(zone, shown.tuple) else {
                break;
            };
            if !had(&self.passage) && !had(&self.resumed) {
                self.track(zone, &shown);
            }
            shown.tuple = self.entries[&id].connection.translated(direction);
        }
    }

    /// What changed in the table since the last call.
    pub fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// The live connections.
    pub fn connections(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.entries.iter().filter(|(_, e)| e.confirmed && !e.dead).map(|(id, e)| (ConnectionId(id.0), &e.connection))
    }

    fn find(&self, zone: u16, tuple: Tuple) -> Option<(EntryId, Direction)> {
        let &id = self.by_tuple.get(&(zone, tuple))?;
        let connection = &self.entries.get(&id)?.connection;
        // Of two equal tuples the reply's is found: it was put in last.
        let direction = match connection.original == tuple && connection.reply != tuple {
            true => Direction::Original,
            false => Direction::Reply,
        };
        Some((id, direction))
    }

    fn insert(&mut self, entry: Entry) -> EntryId {
        self.last_id += 1;
        let id = EntryId(self.last_id);
        self.entries.insert(id, entry);
        self.passing.push(id);
        id
    }

    fn entry(&mut self, id: EntryId) -> &mut Entry {
        // Ids are only made by `insert`, and entries stay for as long as the frame that got the id is under way.
        self.entries.get_mut(&id).expect("an entry outlives the frame that uses it")
    }

    fn changed(&mut self, id: EntryId, kind: ChangeKind) {
        let Some(entry) = self.entries.get(&id).filter(|e| e.confirmed) else {
            return;
        };
        let change = Change { id: ConnectionId(id.0), kind, connection: entry.connection };
        self.changes.push(change);
    }

    /// Lets a change happen to an entry, and tells of it if it was one.
    fn update(&mut self, id: EntryId, change: impl FnOnce(&mut Entry)) {
        let entry = self.entry(id);
        let before = entry.connection;
        change(entry);
        if entry.connection.original.proto == proto::TCP {
            entry.connection.tcp = Some(entry.tcp.state);
        }
        if entry.connection != before && !entry.dead {
            self.changed(id, ChangeKind::Updated);
        }
    }

    /// Puts an entry into the table.
    fn confirm(&mut self, id: EntryId) {
        let connection = &self.entry(id).connection;
        let (zone, tuples) = (connection.zone, [connection.original, connection.reply]);
        self.zones.insert(zone);
        for tuple in tuples {
            if let Some(&old) = self.by_tuple.get(&(zone, tuple)).filter(|&&old| old != id) {
                self.remove(old);
            }
            self.by_tuple.insert((zone, tuple), id);
        }
        self.entry(id).confirmed = true;
        self.changed(id, ChangeKind::Created);
    }

    /// Takes an entry out of the table.
    fn remove(&mut self, id: EntryId) {
        let entry = self.entry(id);
        if std::mem::replace(&mut entry.dead, true) {
            return;
        }
        self.passing.push(id);
        let connection = &self.entry(id).connection;
        let (zone, tuples) = (connection.zone, [connection.original, connection.reply]);
        for tuple in tuples {
            if self.by_tuple.get(&(zone, tuple)) == Some(&id) {
                self.by_tuple.remove(&(zone, tuple));
            }
        }
        self.changed(id, ChangeKind::Destroyed);
    }

    /// A frame ends a connection; the report of that will follow.
    fn end(&mut self, id: EntryId) {
        let c = &self.entry(id).connection;
        let name = (c.zone, c.original, c.reply);
        self.ended.push(name);
        self.remove(id);
    }

    /// Takes over a report.
    fn take(&mut self, report: Report) {
        let Report { event, connection: c, .. } = report;
        let is_it = |id: &EntryId| self.entries[id].connection.original == c.original;
        let found = self.find(c.zone, c.original).map(|(id, _)| id).filter(is_it);
        if event == ConnectionEvent::Destroy {
            if let Some(i) = self.ended.iter().position(|&e| e == name(&c)) {
                self.ended.swap_remove(i);
            } else if let Some(id) = found.filter(|id| self.entries[id].connection.reply == c.reply) {
                self.remove(id);
            }
            return;
        }
        if event != ConnectionEvent::New && found.is_none() && self.ended.contains(&name(&c)) {
            // What the frame did to it before it ended it.
            return;
        }
        // A birth reported twice is the birth of the next generation.
        let again = |id: &EntryId| {
            let entry = &self.entries[id];
            event == ConnectionEvent::New && entry.reported || entry.connection.reply != c.reply
        };
        let id = found.filter(|id| !again(id)).unwrap_or_else(|| {
            let id = self.adopt(&c);
            self.entry(id).connection.reply = c.reply;
            self.apply(id, &c);
            if c.status.is_some_and(|status| status & status::OFFLOAD != 0) {
                self.was_offloaded(id, &c);
            }
            self.confirm(id);
            id
        });
        self.apply(id, &c);
        self.entry(id).reported = true;
    }

    /// The entry that a connection first heard of continues: that of a missed frame, if it began there.
    fn adopt(&mut self, c: &ConnectionMessage) -> EntryId {
        let waiting = self.waiting.get(&(c.zone, c.original)).into_iter().flatten();
        let began = waiting.rev().find(|id| self.entries.get(id).is_some_and(|e| !e.confirmed)).copied();
        let id = began.unwrap_or_else(|| self.insert(Entry::new(c.zone, c.original)));
        self.waits_no_more(id);
        // Whoever put it into the table may have seen more of it.
        self.entry(id).tcp.lose_track();
        id
    }

    fn apply(&mut self, id: EntryId, told: &ConnectionMessage) {
        let now = self.now;
        self.update(id, |entry| {
            let c = &mut entry.connection;
            let has = |bit| told.status.unwrap_or(0) & bit != 0;
            // A report may be older than the frames seen since, and these are never taken back.
            c.seen_reply |= has(status::SEEN_REPLY);
            c.assured |= has(status::ASSURED);
            c.expected |= has(status::EXPECTED);
            c.seqadj |= has(status::SEQ_ADJUST) || told.has_seqadj;
            c.helper |= has(status::HELPER) || told.helper.is_some();
            entry.translated[NatSide::Src as usize] |= has(status::SRC_NAT_DONE);
            entry.translated[NatSide::Dst as usize] |= has(status::DST_NAT_DONE);
            c.mark = told.mark.unwrap_or(0);
            c.labels = told.labels.unwrap_or(c.labels);
            if let Some(timeout) = told.timeout {
                entry.told = Some((now, u64::from(timeout) * 1_000_000_000));
            }
            if let Some(state) = told.tcp {
                entry.tcp.correct(state);
            }
        });
    }

    /// The reports that the current frame caused: before the next frame, and no later than OVS takes to commit.
    fn ahead(&self) -> impl Iterator<Item = &Reported> {
        self.reports.iter().take_while(|r| self.is_ahead(r))
    }

    fn is_ahead(&self, r: &Reported) -> bool {
        r.at < self.horizon && r.time <= self.now.saturating_add(UPCALL)
    }

    /// The report of the birth of this frame's connection.
    fn birth(&self, zone: u16, original: Tuple) -> Option<&ConnectionMessage> {
        let (birth, _) = self.reports.birth(zone, original)?;
        self.is_ahead(birth).then_some(&birth.report.connection)
    }

    /// Whether the kernel found this connection expired when the current frame came, and dropped it there and then: its end
    /// is told at once, or else (of one made before anyone listened) the birth of another in its place.
    fn expired(&self, id: EntryId, zone: u16, tuple: Tuple) -> bool {
        let entry = &self.entries[&id];
        self.ahead().any(|r| self.is_found_over(r, entry))
            || entry.may_be_over(self.now) && self.birth(zone, tuple).is_some()
    }

    /// Whether this report tells that. The frame itself may end a connection, too: by force, after it was found alive.
    fn is_found_over(&self, r: &Reported, entry: &Entry) -> bool {
        let c = &entry.connection;
        entry.may_be_over(self.now)
            && r.report.event == ConnectionEvent::Destroy
            && !r.report.by_hand
            && r.time <= self.now.saturating_add(AT_ONCE)
            && name(&r.report.connection) == (c.zone, c.original, c.reply)
    }

    /// An unconfirmed entry for a packet of no known connection.
    fn unconfirmed(&mut self, zone: u16, tuple: Tuple) -> EntryId {
        let mut entry = Entry::new(zone, tuple);
        let birth = self.committed(zone, tuple, |_| true);
        entry.connection.expected = birth.and_then(|b| b.status).is_some_and(|s| s & status::EXPECTED != 0);
        entry.connection.helper = birth.is_some_and(|b| b.helper.is_some());
        entry.born = Some(self.now);
        self.insert(entry)
    }

    /// An ICMP error belongs to the connection of the packet that it is about (`nf_conntrack_inet_error`).
    fn error(&self, zone: u16, shown: &Shown) -> Tracked {
        let found = shown.inner.and_then(|inner| self.find(zone, inner.inverse()));
        match found {
            Some((id, direction)) if self.entries[&id].connection.tuple(direction).dst == shown.tuple.dst => {
                let info = match direction {
                    Direction::Original => Info::Related,
                    Direction::Reply => Info::RelatedReply,
                };
                Tracked::Entry(id, info)
            }
            _ => Tracked::Invalid,
        }
    }

    fn info(&self, id: EntryId, direction: Direction) -> Info {
        let c = &self.entries[&id].connection;
        match direction {
            Direction::Reply => Info::EstablishedReply,
            Direction::Original if c.seen_reply => Info::Established,
            Direction::Original if c.expected => Info::Related,
            Direction::Original => Info::New,
        }
    }
}

impl Conntrack for Tracker {
    fn track(&mut self, zone: u16, shown: &Shown) -> Tracked {
        let icmp = matches!(shown.tuple.proto, proto::ICMP | proto::ICMPV6).then(|| Icmp::of(&shown.tuple));
        match icmp {
            Some(Icmp::Error) => return self.error(zone, shown),
            Some(Icmp::Untracked) => return Tracked::Invalid,
            _ => {}
        }
        self.reopened = false;
        let moved_before = |p: &Passage, id| p.moved.contains(&(zone, id));
        loop {
            let found = self.find(zone, shown.tuple);
            if let Some((id, direction)) = found
                && moved_before(&self.resumed, id)
            {
                return Tracked::Entry(id, self.info(id, direction));
            }
            let expected_end = found.filter(|&(id, _)| self.expired(id, zone, shown.tuple));
            let (id, direction) = match found {
                Some(found) => found,
                None if icmp == Some(Icmp::Answer) => return Tracked::Invalid,
                None => (self.unconfirmed(zone, shown.tuple), Direction::Original),
            };
            let info = self.info(id, direction);
            let Entry { tcp, sctp, dccp, .. } = self.entries[&id];
            let verdict = self.transport(id, &shown.transport, direction);
            match verdict {
                Verdict::Reopen => {
                    self.reopened = true;
                    self.end(id);
                    continue;
                }
                Verdict::Die => self.end(id),
                // The kernel never moved it: it was over when the packet came.
                _ if expected_end.is_some() => {
                    let entry = self.entry(id);
                    (entry.tcp, entry.sctp, entry.dccp) = (tcp, sctp, dccp);
                    self.end(id);
                    continue;
                }
                Verdict::Invalid => return Tracked::Invalid,
                Verdict::Accept | Verdict::Assure => {}
            }
            if info == Info::EstablishedReply {
                self.update(id, |entry| entry.connection.seen_reply = true);
            }
            let now = self.now;
            self.entry(id).touched = Some(now);
            self.passage.moved.push((zone, id));
            return Tracked::Entry(id, info);
        }
    }

    fn reopened(&self) -> bool {
        self.reopened
    }

    fn connection(&self, entry: EntryId) -> &Connection {
        &self.entries[&entry].connection
    }

    fn is_confirmed(&self, entry: EntryId) -> bool {
        self.entries.get(&entry).is_some_and(|e| e.confirmed)
    }

    fn translate(&mut self, entry: EntryId, nat: &Nat) {
        self.translating(entry, nat);
    }

    fn commit(&mut self, entry: EntryId, mark: Option<(u32, u32)>, labels: Option<(u128, u128)>) -> Option<EntryId> {
        self.committing(entry, mark, labels)
    }

    fn kill(&mut self, id: EntryId) {
        if self.is_confirmed(id) {
            self.end(id);
        }
    }

    fn bypass(&mut self, zone: u16, glimpse: &Glimpse) -> Option<(EntryId, Info)> {
        self.bypassing(zone, glimpse)
    }

    fn offload(&mut self, entry: EntryId, info: Info) {
        self.offloading(entry, info);
    }
}

#[cfg(test)]
mod tests;
