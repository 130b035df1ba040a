//! The truth: what the model does with every packet of a universe.

use crate::{
    actions::IN,
    connections::Tracker,
    pipeline::{Case, ports},
    universe::{Part, Spec},
};
use flowmerge::{
    conntrack::{Connection, ConnectionId, Direction, is_excluded},
    flower::{Cookie, Field, Filter, FilterId, Key, Port},
    packet::apply::{Applied, End},
    walk::{Found, Hit, Walk},
};
use merge_model::{Model, Outcome, PortState, Terminal, Verdict};
use std::collections::HashMap;

/// A way: the filters hit, and what each `ct` found.
pub type Way = Vec<(FilterId, Vec<Option<(u64, Direction)>>)>;

/// What became of a packet itself, as far as software and a table can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It went out, or nowhere.
    Away,
    Passed,
    Trapped,
}

/// A packet, and what software does with it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub spec: Spec,
    pub frame: Vec<u8>,
    pub key: Key,
    /// Its way, by number.
    pub way: usize,
    /// A filter decided.
    pub decided: bool,
    /// The filters were left without one deciding.
    pub missed: bool,
    /// A hit rests on an order that nobody observed.
    pub guessed: bool,
    /// A connection was found on the way.
    pub connected: bool,
    /// Software must go on seeing it if there is a connection.
    pub excluded: bool,
    /// Its headers: tags, ethertype, IP protocol, fragment.
    pub shape: (u32, u32, u32, bool),
    pub sent: Vec<(Port, bool, Vec<u8>)>,
    pub gone: Gone,
    pub counted: Vec<(FilterId, usize, u64)>,
    pub walk: Walk,
}

/// Software with its filters and connections.
pub struct Software {
    model: Model,
    tracker: Tracker,
    cookies: HashMap<FilterId, Cookie>,
    ways: HashMap<Way, usize>,
}

/// The driver's name for a filter.
pub fn cookie(filter: &Filter) -> Cookie {
    Cookie(filter.id.handle.into())
}

/// The header shape, of which the ethertypes of the tags matter, not what they say.
fn shape(spec: &Spec) -> (u32, u32, u32, bool) {
    let tpids = spec.get(Part::Tags).to_le_bytes().map(|t| if t == 0 { 0 } else { 1 | (t - 1) & 4 });
    (u32::from_le_bytes(tpids), spec.get(Part::EtherType), spec.get(Part::Proto), spec.is_fragment())
}

impl Software {
    /// Software as a case has it.
    pub fn new(case: &Case) -> Software {
        let mut model = Model::new();
        for (port, up) in ports() {
            model.set_port(port, PortState { up, mtu: 1500 });
        }
        let mut cookies = HashMap::new();
        for filter in &case.filters {
            match case.dumped {
                true => model.filters.load(filter.clone()),
                false => model.filters.replace(filter.clone()),
            }
            cookies.insert(filter.id, cookie(filter));
        }
        Software { model, tracker: Tracker(case.connections.clone()), cookies, ways: HashMap::new() }
    }

    /// One more filter.
    pub fn add(&mut self, filter: &Filter) {
        self.model.filters.replace(filter.clone());
        self.cookies.insert(filter.id, cookie(filter));
    }

    /// A filter goes.
    pub fn remove(&mut self, filter: &Filter) {
        self.model.filters.remove(filter.id);
    }

    /// A connection gets another mark.
    pub fn mark(&mut self, connection: usize, mark: u32) -> Connection {
        self.tracker.0[connection].mark = mark;
        self.tracker.0[connection].clone()
    }

    /// A connection goes: to a zone that no filter names.
    pub fn gone(&mut self, connection: usize) {
        self.tracker.0[connection].zone = 0;
    }

    /// What software does with a packet.
    pub fn see(&mut self, spec: Spec) -> Seen {
        let frame = spec.frame();
        // A fragment waits in the model for others, which must not come from other packets of the universe.
        let outcome = match spec.is_fragment() {
            true => self.model.clone().receive(IN, &frame, 1, &mut self.tracker),
            false => self.model.receive(IN, &frame, 1, &mut self.tracker),
        };
        let mut way = Way::new();
        let mut hits = Vec::new();
        for hit in outcome.hits.iter().filter(|h| h.branch == 0) {
            way.push((hit.filter, hit.found.iter().map(|f| f.map(|f| (f.entry.0, f.direction))).collect()));
            let found = hit
                .found
                .iter()
                .map(|f| f.map(|f| Found { connection: ConnectionId(f.entry.0), direction: f.direction }));
            hits.push(Hit { filter: self.cookies[&hit.filter], found: found.collect() });
        }
        let number = self.ways.len();
        let connected = way.iter().flat_map(|(_, found)| found).any(Option::is_some);
        // The model also tells what comes in at a port whose filters take it up.
        let taken_up = |port, ingress| ingress && self.model.filters.is_filtered(port);
        let (decided, gone) = end(&outcome);
        let Outcome { verdict, key, sent, counted, hits: all, .. } = outcome;
        Seen {
            spec,
            frame,
            key,
            way: *self.ways.entry(way).or_insert(number),
            decided,
            missed: matches!(verdict, Verdict::Missed { .. }),
            guessed: all.iter().any(|h| h.guessed),
            connected,
            excluded: is_excluded(&key),
            shape: shape(&spec),
            sent: sent
                .into_iter()
                .filter(|s| !taken_up(s.port, s.ingress))
                .map(|s| (s.port, s.ingress, s.frame))
                .collect(),
            gone,
            counted: counted.into_iter().map(|c| (c.filter, c.action, c.bytes)).collect(),
            walk: Walk { port: IN, key, hits },
        }
    }

    /// What it does with each of these.
    pub fn see_all(&mut self, specs: &[Spec]) -> Vec<Seen> {
        specs.iter().map(|&spec| self.see(spec)).collect()
    }
}

/// Whether a filter decided, and what became of the packet.
fn end(outcome: &Outcome) -> (bool, Gone) {
    match &outcome.verdict {
        Verdict::Decided(Terminal::Held) => (false, Gone::Away),
        Verdict::Decided(Terminal::Pass) => (true, Gone::Passed),
        Verdict::Decided(Terminal::Trap) => (true, Gone::Trapped),
        Verdict::Decided(_) => (true, Gone::Away),
        // Into a port without filters.
        Verdict::Passed(_) => (!outcome.hits.is_empty(), Gone::Away),
        Verdict::Missed { .. } | Verdict::Undecidable { .. } => (false, Gone::Away),
    }
}

/// The same of what a table did.
pub fn applied(applied: Applied) -> (Vec<(Port, bool, Vec<u8>)>, Gone) {
    let gone = match applied.end {
        End::Taken | End::Dropped => Gone::Away,
        End::Passed(_) => Gone::Passed,
        End::Trapped(_) => Gone::Trapped,
    };
    (applied.sent.into_iter().map(|s| (s.port, s.ingress, s.frame)).collect(), gone)
}

/// How a packet is called in reports.
pub fn told(seen: &Seen) -> String {
    let key: Vec<_> =
        seen.key.fields().filter(|(f, _)| *f != Field::Indev).map(|(f, v)| format!("{f} {v:#x}")).collect();
    let hits: Vec<_> = seen
        .walk
        .hits
        .iter()
        .map(|h| {
            let found = h.found.iter().map(|f| match f {
                Some(f) => format!(" ct{} {:?}", f.connection.0, f.direction),
                None => " no-ct".into(),
            });
            format!("{:#x}{}", h.filter.0, found.collect::<String>())
        })
        .collect();
    let decided = if seen.decided { "" } else { " undecided" };
    format!("[{}] hits [{}]{decided}", key.join(" "), hits.join(", "))
}
