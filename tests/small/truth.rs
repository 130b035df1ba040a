//! The truth: what the model does with every packet of a universe.

use crate::{
    actions::{EXCEEDED, IN, POLICER},
    connections::Tracker,
    part::Part,
    pipeline::{Case, ports},
    universe::{Spec, stacked},
};
use flowmerge::{
    conntrack::{Connection, ConnectionId, Direction, is_excluded},
    flower::{Action, ActionKind, Control, Cookie, Field, Filter, FilterId, Key, Port, Tunnel},
    packet::{
        apply::{Applied, End, Trim, apply_through},
        arrived,
    },
    walk::{Found, Hit, Walk},
};
use merge_model::{Arrival, Model, Outcome, PortState, Terminal, Verdict};
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

/// A frame that went out of a port, or into it, and the tunnel that it is to go through.
pub type Sent = (Port, bool, Vec<u8>, Option<Tunnel>);

/// What was done with a packet: what software and a table must have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub sent: Vec<Sent>,
    pub gone: Gone,
}

/// The header shape: of tags the ethertypes, of labels how many the dissector reads and which is the bottom, the kind of ARP, the
/// ethertype, the IP protocol, whether it is a fragment.
pub type Shape = [u32; 6];

/// A packet, and what software does with it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub spec: Spec,
    pub frame: Vec<u8>,
    pub tunnel: Option<Tunnel>,
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
    /// An action dropped it, in the midst of others: the filters behind were not asked.
    pub cut_short: bool,
    pub shape: Shape,
    pub done: Done,
    /// The policers that all packets exceed.
    pub exceeded: &'static [u32],
    pub counted: Vec<(FilterId, usize, u64)>,
    pub walk: Walk,
}

/// Software with its filters and connections.
pub struct Software {
    model: Model,
    tracker: Tracker,
    cookies: HashMap<FilterId, Cookie>,
    ways: HashMap<Way, usize>,
    exceeded: &'static [u32],
}

/// The driver's name for a filter.
pub fn cookie(filter: &Filter) -> Cookie {
    Cookie(filter.id.handle.into())
}

fn shape(spec: &Spec, key: &Key) -> Shape {
    let tpids = spec.get(Part::Tags).to_le_bytes().map(|t| if t == 0 { 0 } else { 1 | (t - 1) & 4 });
    let tpids = u32::from_le_bytes(tpids);
    if spec.get(Part::Stack) & 7 > 0 {
        // What is behind labels nobody looks at, but as an entry where the stack has no bottom.
        let entries = Field::MPLS.map(|[present, _, _, bottom, _]| key.get(present) | key.get(bottom) << 1);
        let entries = entries.into_iter().fold(0, |all, entry| all << 2 | entry as u32);
        return [tpids, stacked(spec.get(Part::Stack)).into(), entries, 0, 0, 0];
    }
    let [ethertype, proto] = [Part::EtherType, Part::Proto].map(|part| spec.get(part));
    [tpids, ethertype, 0, key.get(Field::ArpOp) as u32, proto, spec.is_fragment().into()]
}

/// How a packet arrives.
pub fn key_of(spec: Spec) -> Key {
    let spec = spec.canonical();
    Tunnel::tell(spec.tunnel().as_ref(), arrived(&spec.frame())).with(Field::Indev, IN.0.into())
}

impl Software {
    /// Software as a case has it.
    pub fn new(case: &Case) -> Software {
        if !case.dumped {
            return Software::of(&case.filters, case.connections.clone());
        }
        let mut software = Software::of(&[], case.connections.clone());
        for filter in &case.filters {
            software.model.filters.load(filter.clone());
            software.cookies.insert(filter.id, cookie(filter));
        }
        software
    }

    /// Software with these filters, inserted in this order.
    pub fn of(filters: &[Filter], connections: Vec<Connection>) -> Software {
        let mut model = Model::new();
        for (port, up) in ports() {
            model.set_port(port, PortState { up, mtu: 1500 });
        }
        model.set_policer(POLICER, true);
        model.set_policer(EXCEEDED, false);
        let (cookies, ways) = (HashMap::new(), HashMap::new());
        let mut software = Software { model, tracker: Tracker(connections), cookies, ways, exceeded: &[EXCEEDED] };
        filters.iter().for_each(|filter| software.add(filter));
        software
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
        self.tracker.0[connection]
    }

    /// Packets exceed the other policer, too.
    pub fn exceed(&mut self) {
        self.model.set_policer(POLICER, false);
        self.exceeded = &[EXCEEDED, POLICER];
    }

    /// A connection goes: to a zone that no filter names.
    pub fn gone(&mut self, connection: usize) {
        self.tracker.0[connection].zone = 0;
    }

    /// What software does with a packet.
    pub fn see(&mut self, spec: Spec) -> Seen {
        let (frame, tunnel) = (spec.frame(), spec.tunnel());
        let arrival = Arrival { port: IN, frame: &frame, tunnel: tunnel.as_ref(), now: 1 };
        // A fragment waits in the model for others, which must not come from other packets of the universe.
        let outcome = match spec.is_fragment() {
            true => self.model.clone().arrive(arrival, &mut self.tracker),
            false => self.model.arrive(arrival, &mut self.tracker),
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
        let cut_short = self.is_cut_short(&outcome);
        let Outcome { verdict, key, sent, counted, hits: all, .. } = outcome;
        Seen {
            spec,
            shape: shape(&spec, &key),
            frame,
            tunnel,
            key,
            way: *self.ways.entry(way).or_insert(number),
            decided,
            missed: matches!(verdict, Verdict::Missed { .. }),
            guessed: all.iter().any(|h| h.guessed),
            connected,
            excluded: is_excluded(&key),
            cut_short,
            done: Done {
                sent: sent
                    .into_iter()
                    .filter(|s| !taken_up(s.port, s.ingress))
                    .map(|s| (s.port, s.ingress, s.frame, s.tunnel))
                    .collect(),
                gone,
            },
            exceeded: self.exceeded,
            counted: counted.into_iter().map(|c| (c.filter, c.action, c.bytes)).collect(),
            walk: Walk { port: IN, key, hits },
        }
    }

    /// Whether the last action that ran dropped it, though it is there for something else.
    fn is_cut_short(&self, outcome: &Outcome) -> bool {
        let last = outcome.hits.iter().rfind(|h| h.branch == 0);
        let action = last.and_then(|hit| self.model.filters.get(hit.filter)?.actions.get(*hit.ran.last()?));
        let dropped = outcome.verdict == Verdict::Decided(Terminal::Drop);
        dropped && action.is_some_and(|a| !matches!(a.kind, ActionKind::Mirred(_)) && a.passed_on() != Control::Shot)
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

/// What a table does with a packet that matches an entry with these actions.
pub fn does(actions: &[Action], trim: Trim, packet: &Seen) -> Option<Done> {
    let exceeds = |a: &Action| matches!(a.kind, ActionKind::Police(_)) && packet.exceeded.contains(&a.index);
    let dropped = actions.iter().position(exceeds);
    let actions = &actions[..dropped.unwrap_or(actions.len())];
    let Applied { sent, end } = apply_through(actions, trim, &packet.frame, packet.tunnel.as_ref()).ok()?;
    let gone = match end {
        _ if dropped.is_some() => Gone::Away,
        End::Taken | End::Dropped => Gone::Away,
        End::Passed(_) => Gone::Passed,
        End::Trapped(_) => Gone::Trapped,
    };
    Some(Done { sent: sent.into_iter().map(|s| (s.port, s.ingress, s.frame, s.tunnel)).collect(), gone })
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
