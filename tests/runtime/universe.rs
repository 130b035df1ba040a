//! A small world: a dozen filters that belong together, eight connections, some thirty packets, and what software does with each.
//!
//! ```text
//! port 1, chain 0: skip_sw | drop 1001 | drop 1002..1003 | udp out | ct zone 5 ─► chain 1
//!         chain 1: mark 1 drop | mark 0 out | copy out, ct zone 6 ─► chain 2: out
//! block 9 (ports 2 and 5), chain 0: skip_sw | ct zone 5 nat ─► chain 1: copy out, out
//! egress hooks: drop udp at port 3 | block 9 at port 4
//! ```

use flowmerge::{
    conntrack::{Connection, ConnectionId, Direction, Tuple, is_excluded, proto},
    flower::{
        Action, ActionKind, Control, Cookie, Counts, Field, Filter, FilterId, Hook, Key, Match, Port, Range,
        action::{Ct, Mirred, Nat},
        field::{ct_state, tcp_flags},
    },
    merger::Worth,
    packet,
    walk::{Found, Hit, Walk},
};
use std::collections::{BTreeMap, BTreeSet};

pub const BLOCK: u32 = 9;
pub const FILTERS: usize = 13;
pub const CONNECTIONS: u64 = 8;
/// The action that filters share.
pub const SHARED: u32 = 7;
pub const OUT: [Port; 2] = [Port(3), Port(4)];
/// The ports that packets come in at.
pub const IN: [Port; 3] = [Port(1), Port(2), Port(5)];

/// The `n`-th filter. `shared`: where the shared action sends to.
pub fn filter(n: usize, shared: Port) -> Filter {
    let ip = Match::default().exact(Field::Protocol, 0x800).exact(Field::EthType, 0x800);
    let tcp = ip.exact(Field::IpProto, proto::TCP.into());
    let udp = ip.exact(Field::IpProto, proto::UDP.into());
    let est = tcp.with(Field::CtState, ct_state::ESTABLISHED, ct_state::ESTABLISHED);
    let range = |min, max| Some(Range { min, max });
    let ct = |zone, nat: bool, to| {
        let nat = nat.then(Nat::default);
        Action::new(ActionKind::Ct(Ct { zone, nat, ..Ct::default() }), Control::Goto(to))
    };
    let drop = || Action::gact(Control::Shot);
    let out = |port| Action::redirect(port);
    let both = || Action { index: SHARED, ..Action::redirect(shared) };
    let copy = || {
        let mirred = Mirred { port: OUT[1], ingress: false, mirror: true };
        Action::new(ActionKind::Mirred(mirred), Control::Pipe)
    };
    let (own, block, egress) = (Hook::Ingress(Port(1)), Hook::Block(BLOCK), Hook::Egress(OUT[0]));
    let (hook, chain, prio, matches, action) = match n {
        0 => (own, 0, 10, tcp, ct(5, false, 1)),
        1 => (own, 1, 10, est.exact(Field::CtMark, 0), both()),
        2 => (own, 1, 20, est, ct(6, false, 2)),
        3 => (own, 2, 10, est, both()),
        4 => (own, 0, 5, tcp.exact(Field::SrcPort, 1001), drop()),
        5 => (own, 0, 6, Match { dst_range: range(80, 81), ..udp }, out(OUT[0])),
        6 => (own, 0, 3, udp.exact(Field::SrcPort, 2000), out(OUT[1])),
        7 => (block, 0, 10, tcp, ct(5, true, 1)),
        8 => (block, 1, 10, est, out(OUT[0])),
        9 => (own, 1, 5, est.exact(Field::CtMark, 1), drop()),
        10 => (own, 0, 7, Match { src_range: range(1002, 1003), ..tcp }, drop()),
        11 => (block, 0, 2, udp.exact(Field::SrcPort, 2001), out(OUT[1])),
        _ => (egress, 0, 10, udp, drop()),
    };
    let id = FilterId { hook, chain, prio, protocol: 0x800, handle: 1 };
    let first = if matches!(n, 2 | 8) { copy() } else { Action::gact(Control::Pipe) };
    Filter { skip_sw: matches!(n, 6 | 11), ..Filter::flower(id, matches, vec![first, action]) }
}

/// Where a filter's packets leave themselves, if it sends them.
fn target(filter: &Filter) -> Option<Port> {
    filter.actions.iter().find_map(|a| match a.kind {
        ActionKind::Mirred(Mirred { port, mirror: false, .. }) => Some(port),
        _ => None,
    })
}

/// Whether a filter's packets, or copies of them, leave at a port.
pub fn sends(filter: &Filter, to: Port) -> bool {
    filter.actions.iter().any(|a| matches!(a.kind, ActionKind::Mirred(Mirred { port, .. }) if port == to))
}

/// Zone of the `n`-th connection, and the client's port.
fn place(n: u64) -> (u16, u16) {
    (if n < 4 { 5 } else { 6 }, 1000 + (n % 4) as u16)
}

/// The `n`-th connection, in one of its forms.
pub fn connection(n: u64, form: u8) -> Connection {
    let (zone, port) = place(n);
    let original = tuple([10, 0, 0, 1], port, [10, 0, 0, 2], 80);
    let is = Connection::established(zone, original, original.inverse());
    match form {
        0..=3 => is,
        4 => Connection { mark: 1, ..is },
        5 => Connection { labels: 1 << 70, ..is },
        6 => Connection { seen_reply: false, assured: false, ..is },
        7 => Connection { helper: true, ..is },
        _ => Connection { reply: tuple([10, 0, 0, 7], 8080, [10, 0, 0, 1], port), ..is },
    }
}

/// The connections of one client's port are not worth it, those of another only after some walks.
pub fn worth(connection: &Connection) -> Worth {
    match connection.original.src_port {
        1002 => Worth::After(3),
        1003 if connection.zone == 6 => Worth::Never("asked not to"),
        _ => Worth::After(1),
    }
}

fn tuple(src: [u8; 4], src_port: u16, dst: [u8; 4], dst_port: u16) -> Tuple {
    Tuple { src: src.into(), dst: dst.into(), proto: proto::TCP, src_port, dst_port }
}

/// A packet.
#[derive(Clone)]
pub struct Packet {
    pub port: Port,
    pub frame: Vec<u8>,
    pub key: Key,
    pub bytes: u64,
}

fn packet(port: Port, t: Tuple, flags: u128) -> Packet {
    let tcp = t.proto == proto::TCP;
    let long: u16 = if tcp { 40 } else { 28 };
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    f.extend(long.to_be_bytes());
    f.extend([0, 0, 0, 0, 64, t.proto, 0, 0]);
    for address in [t.src, t.dst] {
        if let std::net::IpAddr::V4(a) = address {
            f.extend(a.octets());
        }
    }
    f.extend(t.src_port.to_be_bytes());
    f.extend(t.dst_port.to_be_bytes());
    f.resize(14 + usize::from(long), 0);
    if tcp {
        f[46..48].copy_from_slice(&[0x50, flags as u8]);
    } else {
        f[38..40].copy_from_slice(&8u16.to_be_bytes());
    }
    let key = packet::arrived(&f).with(Field::Indev, port.0.into());
    Packet { port, bytes: Counts::Ingress.bytes(&f), frame: f, key }
}

/// All of them.
pub fn packets() -> Vec<Packet> {
    let mut all = Vec::new();
    for port in IN {
        for n in 0..4 {
            let form = |form| connection(n, form);
            all.push(packet(port, form(0).original, tcp_flags::ACK));
            all.push(packet(port, form(0).reply, tcp_flags::ACK));
            all.push(packet(port, form(8).reply, tcp_flags::ACK));
        }
        all.push(packet(port, connection(0, 0).original, tcp_flags::ACK | tcp_flags::FIN));
        for (src, dst) in [(2000, 80), (2001, 81), (2002, 81), (2002, 82)] {
            let t = Tuple { proto: proto::UDP, ..tuple([10, 0, 0, 1], src, [10, 0, 0, 2], dst) };
            all.push(packet(port, t, 0));
        }
    }
    all
}

/// The world as software sees it.
pub struct World<'a> {
    pub filters: &'a BTreeMap<Cookie, Filter>,
    /// The sides of ports at which the block is.
    pub bound: &'a BTreeSet<Hook>,
    pub down: &'a BTreeSet<Port>,
    pub connections: &'a BTreeMap<ConnectionId, Connection>,
}

/// What software does with a packet that some filter decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub hits: Vec<Hit>,
    /// Where it and its copies leave, and as what.
    pub sent: Vec<(Port, Option<Tuple>)>,
    /// Connections, each once.
    pub connections: Vec<ConnectionId>,
    /// It goes through conntrack whatever hardware could do.
    pub excluded: bool,
    /// There are filters at the egress hook of a port that it, or a copy, is sent to.
    pub filtered: bool,
}

impl Way {
    pub fn walk(&self, packet: &Packet) -> Walk {
        Walk { port: packet.port, key: packet.key, hits: self.hits.clone() }
    }

    pub fn cookies(&self) -> Vec<Cookie> {
        self.hits.iter().map(|hit| hit.filter).collect()
    }
}

impl World<'_> {
    /// Software's way with a packet; `None` if no filter decides it.
    pub fn way(&self, packet: &Packet) -> Option<Way> {
        let side = Hook::Ingress(packet.port);
        let hook = if self.bound.contains(&side) { Hook::Block(BLOCK) } else { side };
        let mut way =
            Way { hits: Vec::new(), sent: Vec::new(), connections: Vec::new(), excluded: false, filtered: false };
        let mut key = packet.key;
        let mut now = Tuple::of_key(&key);
        let mut chain = 0;
        loop {
            let here = self.filters.iter().filter(|(_, f)| (f.id.hook, f.id.chain, f.skip_sw) == (hook, chain, false));
            let first = here.filter(|(_, f)| f.matches.fits(&key)).min_by_key(|(_, f)| f.id.prio);
            let (&cookie, filter) = first?;
            let mut found = Vec::new();
            for action in &filter.actions {
                match &action.kind {
                    ActionKind::Ct(ct) => found.push(self.track(ct, &mut key, &mut now)),
                    ActionKind::Mirred(mirred) if !self.down.contains(&mirred.port) => {
                        way.sent.push((mirred.port, now));
                        way.filtered |= self.is_filtered(mirred.port);
                    }
                    _ => {}
                }
            }
            way.hits.push(Hit { filter: cookie, found: found.clone() });
            for f in found.into_iter().flatten() {
                if !way.connections.contains(&f.connection) {
                    way.connections.push(f.connection);
                }
            }
            match filter.actions.last()?.control {
                Control::Goto(to) => chain = to,
                _ => {
                    let at = target(filter).filter(|to| !self.down.contains(to)).map(Hook::Egress);
                    way.hits.extend(at.and_then(|at| self.egress(at, &key)));
                    way.excluded = !way.connections.is_empty() && is_excluded(&packet.key);
                    return Some(way);
                }
            }
        }
    }

    /// Whether there are filters at a port's egress hook.
    pub fn is_filtered(&self, port: Port) -> bool {
        let side = Hook::Egress(port);
        let bound = self.bound.contains(&side);
        self.filters.values().any(|f| f.id.hook == side || bound && f.id.hook == Hook::Block(BLOCK))
    }

    /// The filter of an egress hook's own that the packet itself hits there.
    fn egress(&self, hook: Hook, key: &Key) -> Option<Hit> {
        let (&cookie, _) = self.filters.iter().find(|(_, f)| f.id.hook == hook && f.matches.fits(key))?;
        Some(Hit { filter: cookie, found: Vec::new() })
    }

    /// A `ct` action.
    fn track(&self, ct: &Ct, key: &mut Key, now: &mut Option<Tuple>) -> Option<Found> {
        let all = self.connections.iter().filter(|(_, c)| c.zone == ct.zone);
        let met = all.flat_map(|(&id, c)| [(id, c, Direction::Original), (id, c, Direction::Reply)]);
        let found = met.clone().find(|(_, c, direction)| Some(c.tuple(*direction)) == *now);
        let mut state = ct_state::TRACKED;
        let (mut mark, mut labels) = (0, 0);
        match found {
            Some((_, c, direction)) => {
                state |= if c.seen_reply { ct_state::ESTABLISHED } else { ct_state::NEW };
                state |= if direction == Direction::Reply { ct_state::REPLY } else { 0 };
                (mark, labels) = (c.mark, c.labels);
                if ct.nat.is_some() {
                    let to = c.translated(direction);
                    *now = Some(to);
                    let bits = flowmerge::conntrack::tuple::address_bits;
                    key.set(Field::Ipv4Src, bits(to.src));
                    key.set(Field::Ipv4Dst, bits(to.dst));
                    key.set(Field::SrcPort, to.src_port.into());
                    key.set(Field::DstPort, to.dst_port.into());
                }
            }
            None => state |= ct_state::NEW,
        }
        key.set(Field::CtState, state);
        key.set(Field::CtZone, ct.zone.into());
        key.set(Field::CtMark, mark.into());
        key.set(Field::CtLabels, labels);
        found.map(|(connection, _, direction)| Found { connection, direction })
    }
}
