//! One run through a trace: every received frame through hardware, if there is any, else through the model, and what comes
//! of it held against what the kernel did.
//!
//! What the kernel does besides TC shows only in its frames. A frame that TC missed goes up to OVS, which sends it
//! itself, having put filters for its way into TC first; so when such a frame comes out, walking it once more says which
//! connections it passed through on the way ([`Tracker::resume`]). Behind each `ct` on that way it is missed anew, and other
//! frames may come before it is out: that it has come so far the filters tell, each time that OVS puts some in.

use super::{
    datapath::Datapath,
    ledger::{Identity, Ledger, Sent, Settled},
    offload::{self, Offload},
    timeline::{Step, Timeline, What},
    totals::Compared,
    tunnels::Said,
};
use flowmerge::{
    conntrack::{Connection, ConnectionId, Direction, Tuple, proto},
    flower::{Counters, Field, FilterId, Hook, Key, Port, Tunnel},
    netlink::{Event, FilterMessage, Message},
    walk::{Found, Hit, Walk},
};
use merge_model::{
    Arrival, Fragments, Outcome, Terminal, Verdict,
    conntrack::{
        Conntrack, Info,
        observed::{Passage, Report, Reported, Tracker},
    },
};

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, VecDeque},
};

/// What became of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A filter's action ended it.
    Decided,
    /// No filter did.
    Missed,
    /// A merged filter did it all.
    Handled,
}

/// A connection as a packet met it at a `ct`: the same one in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Met {
    /// The zone.
    pub zone: u16,
    /// The tuple of the original direction.
    pub original: Tuple,
    /// The packet's direction.
    pub direction: Direction,
}

impl Met {
    /// A packet of this direction meets a connection.
    pub fn new(connection: &Connection, direction: Direction) -> Met {
        Met { zone: connection.zone, original: connection.original, direction }
    }
}

/// A received frame and what the run made of it.
pub struct Received {
    /// Number of the packet in the file.
    pub number: u64,
    /// The port it came in on.
    pub port: Port,
    /// What became of it.
    pub fate: Fate,
    /// The filters that it hit in software: hook, chain, priority, handle.
    pub hits: Vec<FilterId>,
    /// What each `ct` of these filters found; nothing for a connection that is not in the table, or not yet.
    pub met: Vec<Option<Met>>,
    /// How many of their actions ran.
    pub ran: usize,
    /// The merged filter that handled it.
    pub merged: Option<u64>,
    /// The frames sent.
    pub sent: Vec<(Port, Vec<u8>)>,
    /// What stands against the result: the verdict hangs on what is not known.
    pub doubt: Option<String>,
}

/// Something that is not as in the kernel.
pub enum Difference {
    /// A frame was to be sent, and the kernel did not.
    NotSent {
        /// The received frame that asks for it.
        number: u64,
        /// Out of this port.
        port: Port,
        /// The frame.
        sent: Vec<u8>,
        /// What the kernel sent there instead, where something looks like it.
        kernel: Option<Vec<u8>>,
    },
    /// A frame was sent to a tunnel device as in the kernel, and was to leave it in another outer packet.
    Wrapped {
        /// The received frame that asks for it.
        number: u64,
        /// The tunnel device.
        port: Port,
        /// What the kernel's outer packet and the frame's metadata say.
        said: Box<Said>,
    },
    /// The kernel sent a frame for no reason that is known.
    Unaccounted {
        /// Number of its packet.
        number: u64,
        /// Out of this port.
        port: Port,
        /// The frame.
        kernel: Vec<u8>,
    },
    /// A filter counted otherwise; `None` if it should not be there.
    Counters {
        /// The filter.
        filter: FilterId,
        /// What the kernel counted, by action.
        expected: Vec<Counters>,
        /// What the run counted.
        got: Option<Vec<Counters>>,
    },
}

/// What a run came to.
#[derive(Default)]
pub struct Run {
    /// The received frames.
    pub received: Vec<Received>,
    /// The sums.
    pub compared: Compared,
    /// What differs.
    pub differences: Vec<Difference>,
    /// Positions of the frames that filters redirected to a port's ingress, and that are seen there as received.
    pub redirected: BTreeSet<usize>,
    /// Numbers of the frames that TC did not send: a frame that it missed or let pass is thought to be the cause.
    pub excused: Vec<u64>,
    /// Different filters.
    pub seen: u64,
    /// Those with something not decoded.
    pub undecoded: u64,
}

impl Run {
    /// How many frames had that fate.
    pub fn count(&self, fate: Fate) -> u64 {
        self.received.iter().filter(|r| r.fate == fate).count() as u64
    }
}

/// A frame that TC did not send on its way; OVS or the stack may.
struct Open {
    /// When it came: its place among the steps.
    at: usize,
    port: Port,
    frame: Vec<u8>,
    /// What it has moved in conntrack, until it comes out and moves the rest.
    passage: Option<Passage>,
}

/// A frame that came in: when, its place among the steps, and where.
struct Came {
    at: usize,
    port: Port,
    frame: Vec<u8>,
}

/// Where a frame goes, and what is known of it besides its bytes.
struct Target {
    port: Port,
    /// Into the port, rather than out of it.
    ingress: bool,
    tunnel: Option<Tunnel>,
    random: Option<std::ops::Range<usize>>,
}

struct Engine<'a> {
    timeline: &'a Timeline,
    horizons: Vec<usize>,
    datapath: Datapath,
    tracker: Tracker,
    hardware: &'a mut dyn Offload,
    sent: Ledger<Open>,
    /// What came out of OVS in fragments.
    fragments: Fragments,
    /// Frames at a port's ingress: those that filters redirected there are not received from outside.
    arrived: Ledger<()>,
    /// Hardware's counters are read, and nothing has come in since.
    is_read: bool,
    /// The run without hardware.
    before: Option<&'a Run>,
    run: Run,
}

/// Runs a trace. `before` is an earlier run without hardware, which knows what each frame is to come to, and which frames
/// did not come from outside; `progress` is told each step's position.
pub fn run(timeline: &Timeline, hardware: &mut dyn Offload, before: Option<&Run>, progress: &dyn Fn(usize)) -> Run {
    let frames = |inbound: bool| {
        timeline.steps.iter().enumerate().filter_map(move |(at, step)| match &step.what {
            What::Received(port, bytes) if inbound => Some(sent(at, *port, bytes)),
            What::Sent(port, bytes) if !inbound => Some(sent(at, *port, bytes)),
            _ => None,
        })
    };
    let dump = timeline.start.iter().filter_map(|envelope| report(&envelope.message, 0));
    let reports = timeline.steps.iter().enumerate().filter_map(|(at, step)| match &step.what {
        What::Told(envelope) => {
            Some(Reported { at, time: step.time, report: report(&envelope.message, envelope.port_id)? })
        }
        _ => None,
    });
    let mut engine = Engine {
        timeline,
        horizons: timeline.horizons(),
        datapath: Datapath::default(),
        tracker: Tracker::new(dump, reports),
        hardware,
        sent: Ledger::new(frames(false)),
        fragments: Fragments::default(),
        arrived: Ledger::new(frames(true)),
        is_read: false,
        before,
        run: Run { redirected: before.map(|run| run.redirected.clone()).unwrap_or_default(), ..Run::default() },
    };
    for envelope in &timeline.start {
        engine.datapath.apply(&envelope.message, true, engine.hardware);
    }
    engine.tell_changes();
    for (at, step) in timeline.steps.iter().enumerate() {
        match &step.what {
            What::Told(envelope) => {
                // Of what a dump told in mid-run the order is as unknown as at the start.
                engine.datapath.apply(&envelope.message, envelope.is_dump(), engine.hardware);
                engine.tracker.advance(at + 1);
                if let Message::Filter(told) = &envelope.message
                    && told.event == Event::New
                {
                    engine.put(at, step, told.filter.id);
                }
            }
            What::Counted(filter) => engine.datapath.recount(filter),
            What::Last(last) => engine.answer(last),
            What::Received(port, bytes) => engine.receive(at, step, *port, bytes),
            What::Sent(port, bytes) => engine.settle(at, step, *port, bytes),
        }
        engine.tell_changes();
        progress(at);
    }
    engine.finish()
}

fn sent(at: usize, port: Port, bytes: &[u8]) -> Sent {
    Sent { at, port, bytes: bytes.to_vec() }
}

fn report(message: &Message, port_id: u32) -> Option<Report> {
    match message {
        Message::Connection { event, connection } => {
            Some(Report { event: *event, by_hand: port_id != 0, connection: (**connection).clone() })
        }
        _ => None,
    }
}

impl Engine<'_> {
    fn tell_changes(&mut self) {
        for change in self.tracker.changes() {
            self.hardware.connection(&change);
        }
    }

    fn receive(&mut self, at: usize, step: &Step, port: Port, bytes: &[u8]) {
        self.is_read = false;
        if self.arrived.settle(&sent(at, port, bytes), step.time) == Settled::Accounted {
            self.run.redirected.insert(at);
        }
        if self.run.redirected.contains(&at) {
            return;
        }
        let mut open = Open { at, port, frame: bytes.to_vec(), passage: None };
        let tunnel = self.timeline.tunnels.received(at);
        if !self.timeline.filtered.contains(&port) {
            open.passage = self.timeline.has_ovs.then(Passage::default);
            return self.sent.open(step.time, bytes, open);
        }
        let mut received = Received {
            number: step.number,
            port,
            fate: Fate::Missed,
            hits: Vec::new(),
            met: Vec::new(),
            ran: 0,
            merged: None,
            sent: Vec::new(),
            doubt: None,
        };
        for change in self.tracker.over(at, step.time, self.horizons[at]) {
            self.hardware.connection(&change);
        }
        // Before all is told nothing is merged.
        let ready = at >= self.timeline.ready;
        // Each run receives the same frames, one by one.
        let software = self.before.and_then(|run| run.received.get(self.run.received.len()));
        let arrival = offload::Arrival { port, frame: bytes, tunnel: tunnel.flatten(), now: step.time, software };
        if tunnel == Some(None) && self.datapath.looks_at_tunnel(port) {
            let nothing = "filters look at the outer packet, and none that came at this time has this frame in it";
            received.doubt = Some(nothing.to_owned());
            open.passage = self.timeline.has_ovs.then(Passage::default);
            self.sent.open(step.time, bytes, open);
            return self.run.received.push(received);
        }
        let handled = ready.then(|| self.hardware.receive(arrival)).flatten();
        self.tracker.begin(at, step.time, self.horizons[at]);
        // What hardware handles is shown to conntrack all the same: it was, when the run was recorded, and a reset that comes
        // later is judged by the data before it.
        let outcome = self.arrive(at, step.time, port, bytes);
        if let Some(handled) = handled {
            received.fate = Fate::Handled;
            received.merged = Some(handled.merged);
            for sent in handled.sent {
                let to = Target { port: sent.port, ingress: sent.ingress, tunnel: None, random: None };
                self.goes_out(at, step, &mut received, to, sent.frame);
            }
            if handled.passes {
                open.passage = self.timeline.has_ovs.then(|| self.tracker.missed());
                self.sent.open(step.time, bytes, open);
            }
            self.tell_changes();
            return self.run.received.push(received);
        }
        for counted in &outcome.counted {
            let more = Counters::one(counted.bytes, step.time);
            self.datapath.count(counted.filter, counted.action, more);
        }
        for sent in outcome.sent.clone() {
            let to = Target { port: sent.port, ingress: sent.ingress, tunnel: sent.tunnel, random: sent.random };
            self.goes_out(at, step, &mut received, to, sent.frame);
        }
        received.hits = outcome.hits.iter().map(|hit| hit.filter).collect();
        let found = outcome.hits.iter().flat_map(|hit| &hit.found);
        let met = found.map(|found| {
            let found = found.filter(|f| f.confirmed)?;
            Some(Met::new(self.tracker.connection(found.entry), found.direction))
        });
        received.met = met.collect();
        received.ran = outcome.counted.len();
        let passes = match &outcome.verdict {
            Verdict::Decided(terminal) => {
                received.fate = Fate::Decided;
                // A fragment that was held goes where the whole packet goes, maybe into a miss.
                matches!(terminal, Terminal::Pass | Terminal::Held)
            }
            Verdict::Missed { .. } | Verdict::Passed(_) => true,
            Verdict::Undecidable { filter, why } => {
                received.doubt = Some(format!("{filter}: {why}"));
                true
            }
        };
        if passes {
            open.passage = self.timeline.has_ovs.then(|| self.tracker.missed());
            self.sent.open(step.time, bytes, open);
        }
        self.tell_changes();
        if ready
            && received.fate == Fate::Decided
            && let Some(walk) = self.walk(port, &outcome)
        {
            self.hardware.walk(walk);
        }
        self.run.received.push(received);
    }

    /// The record of a packet, as a driver would have it. `None` if a filter is not known any more.
    fn walk(&self, port: Port, outcome: &Outcome) -> Option<Walk> {
        let is_error = |info| matches!(info, Info::Related | Info::RelatedReply) && is_icmp(&outcome.key);
        let hits = outcome.hits.iter().filter(|hit| hit.branch == 0).map(|hit| {
            let found = hit.found.iter().map(|found| {
                let found = found.filter(|f| f.confirmed && !is_error(f.info))?;
                Some(Found { connection: ConnectionId(found.entry.0), direction: found.direction })
            });
            Some(Hit { filter: self.datapath.cookie(hit.filter)?, found: found.collect() })
        });
        Some(Walk { port, key: outcome.key, hits: hits.collect::<Option<_>>()? })
    }

    /// A frame that came in, at this position, through the model.
    fn arrive(&mut self, at: usize, now: u64, port: Port, frame: &[u8]) -> Outcome {
        let tunnel = self.timeline.tunnels.received(at).flatten();
        self.datapath.model.arrive(Arrival { port, frame, tunnel, now }, &mut self.tracker)
    }

    /// A frame that a received one sends, out of a port or into it.
    fn goes_out(&mut self, at: usize, step: &Step, received: &mut Received, to: Target, frame: Vec<u8>) {
        if to.ingress {
            self.arrived.expect(at, to.port, &frame, None);
        } else {
            received.sent.push((to.port, frame.clone()));
            self.expect(at, step, to, &frame);
        }
    }

    fn expect(&mut self, at: usize, step: &Step, to: Target, frame: &[u8]) {
        let (number, port) = (step.number, to.port);
        if !self.timeline.recorded.contains(&port) {
            return;
        }
        self.run.compared.frames += 1;
        let Some(found) = self.sent.expect(at, port, frame, to.random) else {
            let difference = Difference::NotSent { number, port, sent: frame.to_vec(), kernel: None };
            return self.run.differences.push(difference);
        };
        if let Some((wrapped, tunnel)) = self.timeline.tunnels.sent(found).zip(to.tunnel) {
            if let Some(said) = wrapped.differs(&tunnel, frame) {
                return self.run.differences.push(Difference::Wrapped { number, port, said });
            }
            self.run.compared.wrapped += 1;
        }
        self.run.compared.identical += 1;
    }

    fn settle(&mut self, at: usize, step: &Step, port: Port, bytes: &[u8]) {
        match self.sent.settle(&sent(at, port, bytes), step.time) {
            Settled::Accounted => {}
            Settled::SentFor(open) => {
                self.run.excused.push(step.number);
                if let Some(passage) = open.passage.take() {
                    let came = Came { at: open.at, port: open.port, frame: open.frame.clone() };
                    self.resume(&passage, at, step, &came);
                }
            }
            Settled::Unaccounted if self.timeline.is_machines_own(at, port) => {}
            Settled::Unaccounted => {
                self.run.compared.frames += 1;
                self.run.differences.push(Difference::Unaccounted {
                    number: step.number,
                    port,
                    kernel: bytes.to_vec(),
                });
            }
        }
    }

    /// A missed frame has come out: it went through the connections on its way. A packet in fragments did so as a whole, and
    /// which filters that would hit is not known: they were made for its fragments.
    fn resume(&mut self, passage: &Passage, at: usize, step: &Step, came: &Came) {
        let Some(whole) = self.fragments.whole(&came.frame, step.time) else { return };
        self.tracker.resume(passage, at, step.time, self.horizons[at]);
        let is_decided = matches!(whole, Cow::Borrowed(_)) && {
            let outcome = self.arrive(came.at, step.time, came.port, &came.frame);
            matches!(outcome.verdict, Verdict::Decided(_))
        };
        if !is_decided && let Some(shown) = merge_model::shown(&whole) {
            self.tracker.move_all(&shown);
        }
    }

    /// OVS puts a filter in, and then takes the frame that it is for as far as that goes. An answer moves its connections on the way;
    /// of new ones the kernel tells.
    fn put(&mut self, at: usize, step: &Step, filter: FilterId) {
        if !self.timeline.has_ovs {
            return;
        }
        let is_meant = |open: &&mut Open| filter.hook == Hook::Ingress(open.port);
        let mut all: Vec<_> = self.sent.still_open(step.time).filter(is_meant).collect();
        all.sort_by_key(|open| open.at);
        for open in all {
            let Some(passage) = &mut open.passage else { continue };
            let is_whole = matches!(Fragments::default().whole(&open.frame, step.time), Some(Cow::Borrowed(_)));
            let Some(shown) = merge_model::shown(&open.frame).filter(|_| is_whole) else { continue };
            if self.tracker.is_answer(&shown) {
                self.tracker.resume(passage, at, step.time, self.horizons[at]);
                let tunnel = self.timeline.tunnels.received(open.at).flatten();
                let arrival = Arrival { port: open.port, frame: &open.frame, tunnel, now: step.time };
                self.datapath.model.arrive(arrival, &mut self.tracker);
                passage.join(self.tracker.missed());
            }
        }
    }

    /// Compares what a filter has counted up to here.
    fn answer(&mut self, last: &FilterMessage) {
        self.read();
        let got = self.datapath.read(last.filter.id);
        let is_identical = got.as_ref().is_some_and(|got| {
            got.len() == last.counters.len()
                && got.iter().zip(&last.counters).all(|(a, b)| (a.packets, a.bytes) == (b.packets, b.bytes))
        });
        self.run.compared.counters += 1;
        if is_identical {
            self.run.compared.counters_identical += 1;
        } else {
            self.run.differences.push(Difference::Counters {
                filter: last.filter.id,
                expected: last.counters.clone(),
                got,
            });
        }
    }

    /// Adds what hardware has counted since the last time.
    fn read(&mut self) {
        if !std::mem::replace(&mut self.is_read, true) {
            self.datapath.read_hardware(self.hardware);
        }
    }

    fn finish(mut self) -> Run {
        for last in &self.timeline.last {
            self.answer(last);
        }
        self.read();
        self.pair();
        self.run.seen = self.datapath.seen;
        self.run.undecoded = self.datapath.undecoded;
        self.run
    }
}

impl Engine<'_> {
    /// Puts frames that are missing and frames that nothing accounts for together where they are of one packet and port:
    /// two sides of one difference.
    fn pair(&mut self) {
        let (mut missing, mut rest): (Vec<_>, Vec<_>) =
            self.run.differences.drain(..).partition(|d| matches!(d, Difference::NotSent { .. }));
        let mut others: HashMap<(Port, Identity), VecDeque<usize>> = HashMap::new();
        for (i, other) in rest.iter().enumerate() {
            if let Difference::Unaccounted { port, kernel, .. } = other
                && let Some(identity) = Identity::of(kernel)
            {
                others.entry((*port, identity)).or_default().push_back(i);
            }
        }
        let mut paired = BTreeSet::new();
        for difference in &mut missing {
            if let Difference::NotSent { port, sent, kernel, .. } = difference
                && let Some(identity) = Identity::of(sent)
                && let Some(i) = others.get_mut(&(*port, identity)).and_then(VecDeque::pop_front)
                && let Difference::Unaccounted { kernel: frame, .. } = &mut rest[i]
            {
                *kernel = Some(std::mem::take(frame));
                paired.insert(i);
            }
        }
        let rest = rest.into_iter().enumerate().filter(|(i, _)| !paired.contains(i));
        missing.extend(rest.map(|(_, other)| other));
        self.run.differences = missing;
    }
}

fn is_icmp(key: &Key) -> bool {
    matches!(key.get(Field::IpProto) as u8, proto::ICMP | proto::ICMPV6)
}
