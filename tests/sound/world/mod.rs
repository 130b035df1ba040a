//! The merger and the model side by side.
//!
//! Each packet is offered to the table of merged filters, and to the model with it. If a merged filter handled it, the model
//! must have gone the way that the filter was merged from, with the same connections, must have sent the same frames and
//! left conntrack alone; else the model's walk is handed to the merger.

mod changes;
mod compare;
mod setting;

pub use changes::Event;
pub use compare::{Way, decided, excluded};
pub use setting::{Setting, setting};

use crate::{
    connections::connections,
    coverage::Coverage,
    packet::{Flaw, Outer, Packet},
    packets::IN,
    rule::Rule,
    tracker::Tracker,
};
use flowmerge::{
    conntrack::{Connection, ConnectionId},
    flower::{Cookie, Counters, FilterId, Hook, Port},
    hardware::{Entry, Memory, MergedId},
    merge::Refusal,
    merger::{ConnectionEvent, Merger, Ticket},
    walk::{Hit, Walk},
};
use merge_model::{Arrival, Model, PortState, outcome::Outcome};
use proptest::{prop_assert, prop_assert_eq, test_runner::TestCaseError};
use std::collections::{BTreeMap, BTreeSet, HashMap};

const BLOCK: u32 = 7;

/// The policers that filters share, by index.
pub const POLICERS: std::ops::Range<u32> = 1..4;

type Counted = HashMap<(FilterId, usize), (u64, u64)>;

/// A merged filter, and the packet that it was merged from.
#[derive(Clone, Debug)]
pub struct Made {
    pub entry: Entry,
    pub packet: Packet,
    pub way: Way,
}

/// A walk that was handed in.
#[derive(Clone, Debug)]
struct Waiting {
    packet: Packet,
    outcome: Outcome,
    way: Way,
}

/// The merger and the model side by side.
pub struct World {
    pub setting: Setting,
    pub model: Model,
    pub merger: Merger<Memory>,
    pub tracker: Tracker,
    /// The connections that the merger was told of, by their place in the tracker.
    told: Vec<Option<Connection>>,
    pub filters: Vec<(Rule, Cookie)>,
    cookies: u64,
    counted: Counted,
    software: Counted,
    now: u64,
    waiting: BTreeMap<Ticket, Waiting>,
    /// The policers whose rate all packets exceed.
    exceeded: BTreeSet<u32>,
    /// The merged filters in hardware.
    pub made: HashMap<MergedId, Made>,
    /// How many packets merged filters handled.
    pub handled: usize,
    /// How many of them were flawed in a way that only software sees.
    pub flawed: usize,
    pub coverage: Coverage,
}

fn up(up: bool) -> PortState {
    PortState { up, mtu: 1500 }
}

impl World {
    pub fn new(setting: Setting) -> World {
        let connections = connections();
        let hardware = Memory::new(setting.capabilities());
        let mut world = World {
            setting,
            model: Model::new(),
            merger: Merger::with_limits(hardware, setting.limits()),
            tracker: Tracker::new(&connections),
            told: Vec::new(),
            filters: Vec::new(),
            cookies: 0,
            counted: Counted::new(),
            software: Counted::new(),
            now: 0,
            waiting: BTreeMap::new(),
            exceeded: BTreeSet::new(),
            made: HashMap::new(),
            handled: 0,
            flawed: 0,
            coverage: Coverage::default(),
        };
        for port in 1..5 {
            world.model.set_port(Port(port), up(true));
        }
        for index in POLICERS {
            world.model.set_policer(index, true);
        }
        world.tell();
        if setting.shared {
            world.bind(true);
        }
        world
    }

    /// Tells the merger what has become of connections.
    fn tell(&mut self) {
        let now = self.tracker.table();
        self.told.resize(self.told.len().max(now.len()), None);
        for (i, told) in self.told.iter_mut().enumerate() {
            let now = now.get(i).cloned().flatten();
            if *told != now {
                let id = ConnectionId(i as u64);
                let event = match now {
                    Some(connection) => ConnectionEvent::Is(id, connection),
                    None => ConnectionEvent::Gone(id),
                };
                self.merger.connection(event).expect("memory removes");
                *told = now;
            }
        }
    }

    /// What a filter's actions have counted is what the model counted; it begins at 0 again.
    fn settle(&mut self, rule: &Rule, merged: &[Counters]) -> Result<(), TestCaseError> {
        prop_assert_eq!(merged.len(), rule.filter.actions.len());
        for (i, m) in merged.iter().enumerate() {
            let id = rule.filter.id;
            let (packets, bytes) = self.software.remove(&(id, i)).unwrap_or_default();
            let want = self.counted.remove(&(id, i)).unwrap_or_default();
            let trimmed = self.setting.padded && id.hook != Hook::Ingress(IN);
            let bytes = if trimmed { want.1 } else { bytes + m.bytes };
            prop_assert_eq!((packets + m.packets, bytes), want, "{} action {}", id, i);
        }
        Ok(())
    }

    /// What software does with a frame; nothing is counted here.
    pub fn software(&mut self, packet: &Packet, frame: &[u8]) -> Outcome {
        let tunnel = packet.tunnel.map(Outer::tunnel);
        let arrival = Arrival { port: packet.port, frame, tunnel: tunnel.as_ref(), now: self.now };
        let outcome = self.model.arrive(arrival, &mut self.tracker);
        self.tracker.sweep();
        outcome
    }

    /// A packet. Gives what was merged.
    pub fn packet(&mut self, packet: &Packet) -> Result<Vec<Made>, TestCaseError> {
        self.now += 1;
        let frame = packet.frame(self.setting.padded);
        let tunnel = packet.tunnel.map(Outer::tunnel);
        let handled = self.merger.hardware().receive_through(packet.port, &frame, tunnel.as_ref(), self.now);
        let before = self.tracker.clone();
        let outcome = self.software(packet, &frame);
        if let Some(handled) = handled {
            self.handled += 1;
            self.compare(packet, &frame, &handled, outcome, before)?;
            return Ok(Vec::new());
        }
        add(&mut self.counted, &outcome, 0);
        add(&mut self.software, &outcome, 0);
        // The news of a connection comes before its walk, or after.
        let first = self.now.is_multiple_of(2);
        if first {
            self.tell();
        }
        if compare::decided(&outcome) {
            let way = Way::of(packet.port, &outcome);
            self.check_wide(packet, &outcome, &way)?;
            let ticket = self.merger.walk(self.walk(packet.port, &outcome)).expect("the queue is long");
            self.waiting.insert(ticket, Waiting { packet: packet.clone(), outcome, way });
        }
        let made = if self.setting.lazy { Vec::new() } else { self.drain()? };
        if !first {
            self.tell();
        }
        self.forget();
        Ok(made)
    }

    /// Lets the merger work.
    pub fn drain(&mut self) -> Result<Vec<Made>, TestCaseError> {
        let mut all = Vec::new();
        for (ticket, merged) in self.merger.drain(self.now).walks {
            let Some(Waiting { packet, outcome, way }) = self.waiting.remove(&ticket) else {
                continue;
            };
            match merged {
                Ok(merge) => {
                    let id = self.merger.hardware().lookup(packet.port, &outcome.key);
                    prop_assert!(id.is_some(), "{packet:?} does not match what was merged from it");
                    prop_assert!(
                        merge.installed || self.setting.lazy,
                        "{packet:?} was not handled by its merged filter"
                    );
                    if !merge.installed {
                        continue;
                    }
                    self.coverage.merged(&self.filters, &outcome, &self.tracker);
                    let entry = self.merger.hardware().entry(merge.id);
                    let made = Made { entry: entry.expect("installed"), packet, way };
                    self.made.insert(merge.id, made.clone());
                    all.push(made);
                }
                Err(refusal) => {
                    let junk = ["unknown-filter", "unknown-connection", "broken", "stale"].contains(&refusal.reason());
                    let guessed = outcome.hits.iter().any(|h| h.guessed);
                    let killed = matches!(refusal, Refusal::UnknownConnection { .. });
                    // What cannot be done to a packet that is cut off drops it, amid the actions.
                    let cut = matches!(packet.flaw, Flaw::Cut(_));
                    let excused = guessed || self.setting.lazy || killed || cut || self.hides_order(&refusal);
                    let half = matches!(&refusal, Refusal::Hardware { why, .. } if why.contains("as a whole"));
                    prop_assert!(!half, "{packet:?}: asked for less than the table can compare: {refusal}");
                    prop_assert!(!junk || excused, "{packet:?}: {refusal} {:#?} {:#?}", outcome.hits, self.filters);
                    self.coverage.refused(&refusal);
                }
            }
        }
        Ok(all)
    }

    /// A filter whose match is not known in full stands in front of another by what is not known.
    fn hides_order(&self, refusal: &Refusal) -> bool {
        let Refusal::Stale { shadow, .. } = refusal else { return false };
        self.filters.iter().any(|(rule, _)| rule.filter.id == *shadow && rule.hides_match())
    }

    /// Forgets the merged filters that are gone.
    fn forget(&mut self) {
        let merger = &self.merger;
        self.made.retain(|&id, _| merger.is_merged(id));
    }

    fn walk(&self, port: Port, outcome: &Outcome) -> Walk {
        let cookies: HashMap<FilterId, Cookie> = self.filters.iter().map(|(r, c)| (r.filter.id, *c)).collect();
        let hits = outcome.hits.iter().filter(|h| h.branch == 0).map(|hit| {
            let found = hit.found.iter().map(|f| compare::found(f, &outcome.key));
            Hit { filter: cookies[&hit.filter], found: found.collect() }
        });
        Walk { port, key: outcome.key, hits: hits.collect() }
    }

    pub fn finish(&mut self) -> Result<(), TestCaseError> {
        self.drain()?;
        self.forget();
        self.check_overlaps()?;
        for (rule, cookie) in self.filters.clone() {
            let counters = self.merger.stats(cookie);
            self.settle(&rule, &counters)?;
        }
        Ok(())
    }
}

/// Adds what was counted, each packet `less` bytes shorter.
fn add(to: &mut Counted, outcome: &Outcome, less: u64) {
    for c in &outcome.counted {
        let entry = to.entry((c.filter, c.action)).or_default();
        *entry = (entry.0 + 1, entry.1 + c.bytes - less);
    }
}

/// Runs it all.
pub fn run(setting: Setting, filters: &[Rule], events: &[Event]) -> Result<World, TestCaseError> {
    run_with(setting, filters, events, |_, _| Ok(()))
}

/// Runs it all, and does something with each merged filter when it is made.
pub fn run_with(
    setting: Setting,
    filters: &[Rule],
    events: &[Event],
    mut with: impl FnMut(&mut World, &Made) -> Result<(), TestCaseError>,
) -> Result<World, TestCaseError> {
    let mut world = World::new(setting);
    match setting.dumped {
        true => world.dump(filters),
        false => filters.iter().for_each(|f| world.add(f.clone())),
    }
    for event in events {
        for made in world.happens(event)? {
            with(&mut world, &made)?;
        }
    }
    world.finish()?;
    Ok(world)
}
