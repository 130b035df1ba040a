//! What tests share: frames from hex, filters in a line, and a tracker with a few connections.

use crate::{
    Model, Outcome, PortState, Terminal, Verdict,
    conntrack::{Conntrack, EntryId, Info, Shown, Tracked},
};
use flowmerge::{
    conntrack::{Connection, Tuple, proto},
    flower::{
        Action, ActionKind, Control, Filter, FilterId, Hook, Match, Port,
        action::{Ct, Mirred, Nat},
    },
};

pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

pub fn action(kind: ActionKind, control: Control) -> Action {
    Action::new(kind, control)
}

pub fn gact(control: Control) -> Action {
    action(ActionKind::Gact { random: None }, control)
}

pub fn ct(ct: Ct, control: Control) -> Action {
    action(ActionKind::Ct(ct), control)
}

pub fn mirred(port: u32, ingress: bool, mirror: bool) -> Action {
    let port = Port(port);
    let mirred = Mirred { port, ingress, mirror };
    let control = if mirror { Control::Pipe } else { Control::Stolen };
    action(ActionKind::Mirred(mirred), control)
}

pub fn to(port: u32) -> Action {
    mirred(port, false, false)
}

/// A filter for all protocols; its handle is one more than those of its priority.
pub fn add(model: &mut Model, hook: Hook, chain: u32, prio: u16, matches: Match, actions: Vec<Action>) -> FilterId {
    let there = model.filters.filters().filter(|f| f.id.hook == hook && f.id.chain == chain);
    let id = FilterId { hook, chain, prio, protocol: 3, handle: there.count() as u32 + 1 };
    model.filters.replace(Filter::flower(id, matches, actions));
    id
}

/// Three ports, all up.
pub fn model() -> Model {
    let mut model = Model::new();
    for port in 1..=3 {
        model.set_port(Port(port), PortState { up: true, mtu: 1500 });
    }
    model
}

pub fn receive(model: &mut Model, tracker: &mut Tracker, frame: &str) -> Outcome {
    model.receive(Port(1), &hex(frame), 1_000_000_000, tracker)
}

/// Connections of one's own making, all that a packet can meet besides a new one.
#[derive(Default)]
pub struct Tracker {
    pub connections: Vec<(Connection, bool)>,
    pub killed: Vec<EntryId>,
}

impl Tracker {
    /// A confirmed connection that has seen a reply.
    pub fn add(&mut self, zone: u16, original: Tuple, reply: Tuple) -> EntryId {
        let connection = Connection { tcp: None, ..Connection::established(zone, original, reply) };
        self.connections.push((connection, true));
        EntryId(self.connections.len() as u64 - 1)
    }

    fn find(&self, zone: u16, tuple: Tuple) -> Option<(EntryId, bool)> {
        self.connections.iter().enumerate().find_map(|(at, (c, confirmed))| {
            let hit = *confirmed && c.zone == zone && (c.original == tuple || c.reply == tuple);
            hit.then_some((EntryId(at as u64), c.reply == tuple))
        })
    }
}

impl Conntrack for Tracker {
    fn track(&mut self, zone: u16, shown: &Shown) -> Tracked {
        if let Some(inner) = shown.inner {
            return match self.find(zone, inner.inverse()) {
                Some((entry, false)) => Tracked::Entry(entry, Info::Related),
                Some((entry, true)) => Tracked::Entry(entry, Info::RelatedReply),
                None => Tracked::Invalid,
            };
        }
        match self.find(zone, shown.tuple) {
            Some((entry, false)) => Tracked::Entry(entry, Info::Established),
            Some((entry, true)) => Tracked::Entry(entry, Info::EstablishedReply),
            None => {
                let entry = self.add(zone, shown.tuple, shown.tuple.inverse());
                self.connections[entry.0 as usize].1 = false;
                Tracked::Entry(entry, Info::New)
            }
        }
    }

    fn connection(&self, entry: EntryId) -> &Connection {
        &self.connections[entry.0 as usize].0
    }

    fn is_confirmed(&self, entry: EntryId) -> bool {
        self.connections[entry.0 as usize].1
    }

    fn translate(&mut self, entry: EntryId, nat: &Nat) {
        let connection = &mut self.connections[entry.0 as usize].0;
        if let Some((lowest, _)) = nat.addresses {
            connection.reply.dst = lowest;
        }
        if let Some((lowest, _)) = nat.ports {
            connection.reply.dst_port = lowest;
        }
    }

    fn commit(&mut self, entry: EntryId, mark: Option<(u32, u32)>, _: Option<(u128, u128)>) -> Option<EntryId> {
        let (connection, confirmed) = &mut self.connections[entry.0 as usize];
        if let Some((value, mask)) = mark {
            connection.mark = connection.mark & !mask | value;
        }
        *confirmed = true;
        Some(entry)
    }

    fn kill(&mut self, entry: EntryId) {
        self.connections[entry.0 as usize].1 = false;
        self.killed.push(entry);
    }
}

pub fn tuple(proto: u8, src: &str, dst: &str) -> Tuple {
    let [src, dst]: [std::net::SocketAddr; 2] = [src, dst].map(|end| end.parse().unwrap());
    Tuple { src: src.ip(), dst: dst.ip(), proto, src_port: src.port(), dst_port: dst.port() }
}

pub fn tcp(src: &str, dst: &str) -> Tuple {
    tuple(proto::TCP, src, dst)
}

/// The Ethernet addresses of frames that tests make.
pub const LINK: &str = "020000000002020000000001";

/// What comes out of a model whose port 1 has these actions in chain 0 and sends what goes on in chain 1 out of port 2.
pub fn through(actions: Vec<ActionKind>, frame: &str) -> Outcome {
    let mut model = model();
    let hook = Hook::Ingress(Port(1));
    let actions = actions.into_iter().map(|kind| action(kind, Control::Pipe));
    let actions = actions.chain([gact(Control::Goto(1))]).collect();
    add(&mut model, hook, 0, 1, Match::default(), actions);
    add(&mut model, hook, 1, 1, Match::default(), vec![to(2)]);
    receive(&mut model, &mut Tracker::default(), &format!("{LINK}{frame}"))
}

/// The only frame sent, without the addresses that all have.
#[track_caller]
pub fn sent(outcome: &Outcome) -> String {
    let [sent] = &outcome.sent[..] else { panic!("{} frames: {:?}", outcome.sent.len(), outcome.verdict) };
    let text: String = sent.frame.iter().map(|byte| format!("{byte:02x}")).collect();
    text.strip_prefix(LINK).unwrap_or(&text).to_string()
}

/// Whether the packet was dropped, and nothing sent.
pub fn dropped(outcome: &Outcome) -> bool {
    outcome.verdict == Verdict::Decided(Terminal::Drop) && outcome.sent.is_empty()
}
