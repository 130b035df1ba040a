//! The merger and the model side by side.

use crate::packets::{IN, INNER, Packet, checksums, connections};
use flowmerge::{
    conntrack::{Connection, ConnectionId},
    flower::{Capabilities, Cookie, Counts, Filter, FilterId, Hook, Port, action::Nat, capabilities::Abilities},
    hardware::Memory,
    merge::Refusal,
    merger::{ConnectionEvent, Merge, Merger},
    table::Inserted,
    walk::{Found, Hit, Walk},
};
use merge_model::{
    Model, PortState, Verdict,
    conntrack::{Conntrack, EntryId, Info, Shown, Tracked},
    outcome::Outcome,
};
use proptest::{prop_assert, prop_assert_eq, test_runner::TestCaseError};
use std::collections::HashMap;

const BLOCK: u32 = 7;

/// A tracker that knows established connections, and takes everything else for invalid.
pub struct Established {
    /// The connections.
    pub connections: Vec<Connection>,
    /// Which of them are there.
    pub alive: Vec<bool>,
}

impl Conntrack for Established {
    fn track(&mut self, zone: u16, shown: &Shown) -> Tracked {
        for (i, c) in self.connections.iter().enumerate().filter(|(i, c)| c.zone == zone && self.alive[*i]) {
            for (tuple, info) in [(c.original, Info::Established), (c.reply, Info::EstablishedReply)] {
                if tuple == shown.tuple {
                    return Tracked::Entry(EntryId(i as u64), info);
                }
            }
        }
        Tracked::Invalid
    }
    fn connection(&self, entry: EntryId) -> &Connection {
        &self.connections[entry.0 as usize]
    }
    fn is_confirmed(&self, _: EntryId) -> bool {
        true
    }
    fn translate(&mut self, _: EntryId, _: &Nat) {}
    fn commit(&mut self, entry: EntryId, _: Option<(u32, u32)>, _: Option<(u128, u128)>) -> Option<EntryId> {
        Some(entry)
    }
    fn kill(&mut self, _: EntryId) {}
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    Packet(Packet),
    Add(Filter),
    Remove(u8),
    /// With this one's match, if that leaves the mask alone, and actions; `true`: under the same cookie.
    Replace(u8, Filter, bool),
    Mark(usize, u32),
    Labels(usize, u128),
    /// A connection leaves, or comes back.
    There(usize, bool),
    Port(u32, bool),
    /// Whether the shared block is bound at the inner port.
    Bound(bool),
}

/// How a run is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setting {
    /// The hardware counts whole frames.
    pub frames: bool,
    /// The hardware cannot mend checksums.
    pub no_mend: bool,
    /// Nobody saw in which order the first filters were inserted.
    pub dumped: bool,
    /// Bytes follow the IP datagram. `ct` cuts them off, which an arrival behind it counts and hardware does not.
    pub padded: bool,
    /// The inner port's filters are those of a shared block.
    pub shared: bool,
}

type Counted = HashMap<(FilterId, usize), (u64, u64)>;

/// The merger and the model side by side.
pub struct World {
    setting: Setting,
    pub model: Model,
    pub merger: Merger<Memory>,
    pub tracker: Established,
    filters: Vec<(Filter, Cookie)>,
    cookies: u64,
    counted: Counted,
    software: Counted,
    now: u64,
    pub handled: usize,
    pub refused: Vec<&'static str>,
}

fn up(up: bool) -> PortState {
    PortState { up, mtu: 1500 }
}

impl World {
    pub fn new(setting: Setting) -> World {
        let mut capabilities = Capabilities::all();
        if setting.frames {
            capabilities.counts = Counts::Frame;
        }
        if setting.no_mend {
            capabilities.abilities -= Abilities::MEND;
        }
        let connections = connections();
        let mut world = World {
            setting,
            model: Model::new(),
            merger: Merger::new(Memory::new(capabilities)),
            tracker: Established { alive: vec![true; connections.len()], connections },
            filters: Vec::new(),
            cookies: 0,
            counted: Counted::new(),
            software: Counted::new(),
            now: 0,
            handled: 0,
            refused: Vec::new(),
        };
        for port in 1..5 {
            world.model.set_port(Port(port), up(true));
        }
        for i in 0..world.tracker.connections.len() {
            world.tell(i);
        }
        if setting.shared {
            world.bind(true);
        }
        world
    }

    fn tell(&mut self, i: usize) {
        let is = ConnectionEvent::Is(ConnectionId(i as u64), self.tracker.connections[i].clone());
        self.merger.connection(is).expect("memory removes");
    }

    fn bind(&mut self, bound: bool) {
        let side = Hook::Ingress(INNER);
        if bound {
            self.model.filters.bind(side, BLOCK);
            self.merger.bind(side, BLOCK).expect("memory removes");
        } else {
            self.model.filters.unbind(side);
            self.merger.unbind(side, BLOCK).expect("memory removes");
        }
    }

    /// The kernel takes no two filters of one priority and the same match.
    fn twice(&self, filter: &Filter, but: Option<FilterId>) -> bool {
        let place = |f: &Filter| (f.id.hook, f.id.chain, f.id.prio, f.matches);
        self.filters.iter().any(|(f, _)| Some(f.id) != but && place(f) == place(filter))
    }

    pub fn add(&mut self, filter: Filter) {
        if let Some((filter, cookie)) = self.enter(filter) {
            self.model.filters.replace(filter.clone());
            self.merger.replace(cookie, filter, Inserted::Observed).expect("memory removes");
        }
    }

    /// Filters that were there before: the model knows their order, the merger hears of them the other way round.
    pub fn dump(&mut self, filters: &[Filter]) {
        let mut dumped: Vec<_> = filters.iter().filter_map(|f| self.enter(f.clone())).collect();
        for (filter, _) in &dumped {
            self.model.filters.load(filter.clone());
        }
        dumped.reverse();
        for (filter, cookie) in dumped {
            self.merger.replace(cookie, filter, Inserted::Dumped).expect("memory removes");
        }
    }

    fn enter(&mut self, mut filter: Filter) -> Option<(Filter, Cookie)> {
        if self.setting.shared && filter.id.hook == Hook::Ingress(INNER) {
            filter.id.hook = Hook::Block(BLOCK);
        }
        if self.twice(&filter, None) {
            return None;
        }
        self.cookies += 1;
        filter.id.handle = self.cookies as u32;
        let entered = (filter, Cookie(self.cookies));
        self.filters.push(entered.clone());
        Some(entered)
    }

    fn pick(&self, n: u8) -> Option<usize> {
        (!self.filters.is_empty()).then(|| n as usize % self.filters.len())
    }

    /// What a filter's actions have counted is what the model counted; it begins at 0 again.
    fn settle(&mut self, filter: &Filter, merged: &[flowmerge::flower::Counters]) -> Result<(), TestCaseError> {
        prop_assert_eq!(merged.len(), filter.actions.len());
        for (i, m) in merged.iter().enumerate() {
            let at = (filter.id, i);
            let (packets, bytes) = self.software.remove(&at).unwrap_or_default();
            let want = self.counted.remove(&at).unwrap_or_default();
            let id = filter.id;
            let trimmed = self.setting.padded && id.hook != Hook::Ingress(IN);
            let bytes = if trimmed { want.1 } else { bytes + m.bytes };
            prop_assert_eq!((packets + m.packets, bytes), want, "{} action {}", id, i);
        }
        Ok(())
    }

    pub fn happens(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match event {
            Event::Packet(packet) => {
                self.packet(packet.port, &packet.frame(self.setting.padded))?;
            }
            Event::Add(filter) => self.add(filter.clone()),
            Event::Remove(n) => {
                if let Some(i) = self.pick(*n) {
                    let (filter, cookie) = self.filters.remove(i);
                    self.model.filters.remove(filter.id);
                    let counters = self.merger.destroy(cookie).expect("memory removes");
                    self.settle(&filter, &counters)?;
                }
            }
            Event::Replace(n, with, same) => {
                if let Some(i) = self.pick(*n) {
                    self.replace(i, with, *same)?;
                }
            }
            Event::Mark(i, mark) => {
                self.tracker.connections[*i].mark = *mark;
                self.changed(*i);
            }
            Event::Labels(i, labels) => {
                self.tracker.connections[*i].labels = *labels;
                self.changed(*i);
            }
            Event::There(i, there) => {
                self.tracker.alive[*i] = *there;
                match there {
                    true => self.tell(*i),
                    false => {
                        let gone = ConnectionEvent::Gone(ConnectionId(*i as u64));
                        self.merger.connection(gone).expect("memory removes");
                    }
                }
            }
            Event::Port(port, is) => {
                self.model.set_port(Port(*port), up(*is));
                self.merger.port(Port(*port), *is).expect("memory removes");
            }
            Event::Bound(bound) if self.setting.shared => self.bind(*bound),
            Event::Bound(_) => {}
        }
        Ok(())
    }

    fn changed(&mut self, i: usize) {
        if self.tracker.alive[i] {
            self.tell(i);
        }
    }

    /// The kernel lets a filter be replaced by one of the same mask only.
    fn replace(&mut self, i: usize, with: &Filter, same: bool) -> Result<(), TestCaseError> {
        let (old, cookie) = self.filters[i].clone();
        let mut new = Filter { actions: with.actions.clone(), ..old.clone() };
        if with.id.protocol == old.id.protocol
            && with.matches.mask == old.matches.mask
            && with.matches.dst_range.is_some() == old.matches.dst_range.is_some()
        {
            new.matches = with.matches;
        }
        if self.twice(&new, Some(old.id)) || (old.id.hook != Hook::Ingress(IN) && with.id.hook == Hook::Ingress(IN)) {
            return Ok(());
        }
        self.model.filters.replace(new.clone());
        if same {
            let counters = self.merger.stats(cookie);
            self.settle(&old, &counters)?;
            self.merger.replace(cookie, new.clone(), Inserted::Observed).expect("memory removes");
            self.filters[i] = (new, cookie);
        } else {
            self.cookies += 1;
            let now = Cookie(self.cookies);
            self.merger.replace(now, new.clone(), Inserted::Observed).expect("memory removes");
            let counters = self.merger.destroy(cookie).expect("memory removes");
            self.settle(&old, &counters)?;
            self.filters[i] = (new, now);
        }
        Ok(())
    }

    /// What software does with a frame; nothing is counted here.
    pub fn software(&mut self, port: Port, frame: &[u8]) -> Outcome {
        self.model.receive(port, frame, self.now, &mut self.tracker)
    }

    /// A frame: gives what was merged from it.
    pub fn packet(&mut self, port: Port, frame: &[u8]) -> Result<Option<Merge>, TestCaseError> {
        self.now += 1;
        let outcome = self.software(port, frame);
        let compared = |frame: &[u8]| {
            let mut frame = frame.to_vec();
            if self.setting.no_mend {
                checksums(&frame).into_iter().for_each(|at| frame[at..at + 2].fill(0));
            }
            frame
        };
        // The model also tells what is seen coming in at a port whose filters take it up.
        let taken_up = |s: &&merge_model::outcome::Sent| s.ingress && self.model.filters.is_filtered(s.port);
        let sent = outcome.sent.iter().filter(|s| !taken_up(s));
        let sent: Vec<_> = sent.map(|s| (s.port, s.ingress, compared(&s.frame))).collect();
        add(&mut self.counted, &outcome);
        let decided = match outcome.verdict {
            Verdict::Decided(_) => true,
            Verdict::Passed(_) => !outcome.hits.is_empty(),
            _ => false,
        };
        if let Some(h) = self.merger.hardware().receive(port, frame, self.now) {
            self.handled += 1;
            let entry = self.merger.hardware().entries().find(|e| e.id == h.id).cloned();
            prop_assert!(decided, "{frame:x?} handled by {entry:#?} but {outcome:#?}");
            let got: Vec<_> = h.sent.into_iter().map(|s| (s.port, s.ingress, compared(&s.frame))).collect();
            prop_assert_eq!(got, sent, "{:x?} {:#?} {:#?}", frame, entry, outcome.hits);
            return Ok(None);
        }
        add(&mut self.software, &outcome);
        if !decided {
            return Ok(None);
        }
        let cookies: HashMap<FilterId, Cookie> = self.filters.iter().map(|(f, c)| (f.id, *c)).collect();
        let walk = walk(port, &outcome, &cookies);
        self.merger.walk(walk).expect("the queue is long");
        let merged = self.merger.drain().walks.pop().expect("one walk").1;
        match merged {
            Ok(merge) => {
                prop_assert!(merge.installed, "{frame:x?} was not handled by what it is said to match");
                let id = self.merger.hardware().lookup(port, &outcome.key);
                prop_assert!(id.is_some(), "{frame:x?} does not match what was merged from it");
                Ok(Some(merge))
            }
            Err(refusal) => {
                let junk = ["unknown-filter", "unknown-connection", "broken", "stale"].contains(&refusal.reason());
                let guessed = outcome.hits.iter().any(|h| h.guessed);
                prop_assert!(!junk || guessed, "{frame:x?}: {refusal} {:#?} {:#?}", outcome.hits, self.filters);
                self.refused.push(match refusal {
                    Refusal::Action { why, .. } | Refusal::Hidden { why, .. } => why,
                    refusal => refusal.reason(),
                });
                Ok(None)
            }
        }
    }

    pub fn finish(&mut self) -> Result<(), TestCaseError> {
        let overlaps = self.merger.hardware().overlaps();
        prop_assert!(overlaps.is_empty(), "{overlaps:?}");
        for (filter, cookie) in self.filters.clone() {
            let counters = self.merger.stats(cookie);
            self.settle(&filter, &counters)?;
        }
        Ok(())
    }
}

fn add(to: &mut Counted, outcome: &Outcome) {
    for c in &outcome.counted {
        let entry = to.entry((c.filter, c.action)).or_default();
        *entry = (entry.0 + 1, entry.1 + c.bytes);
    }
}

fn walk(port: Port, outcome: &Outcome, cookies: &HashMap<FilterId, Cookie>) -> Walk {
    let hits = outcome.hits.iter().filter(|h| h.branch == 0).map(|h| {
        let found =
            h.found.iter().map(|f| f.map(|f| Found { connection: ConnectionId(f.entry.0), direction: f.direction }));
        Hit { filter: cookies[&h.filter], found: found.collect() }
    });
    Walk { port, key: outcome.key, hits: hits.collect() }
}

/// Runs it all.
pub fn run(setting: Setting, filters: &[Filter], events: &[Event]) -> Result<World, TestCaseError> {
    let mut world = World::new(setting);
    match setting.dumped {
        true => world.dump(filters),
        false => filters.iter().for_each(|f| world.add(f.clone())),
    }
    for event in events {
        world.happens(event)?;
    }
    world.finish()?;
    Ok(world)
}
