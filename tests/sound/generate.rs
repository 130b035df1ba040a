//! Random pipelines: some chains linked on purpose, and other filters among them.

use crate::packets::{IN, INNER};
use flowmerge::flower::{
    Action, ActionKind, Control, Field, Filter, FilterId, Hook, Match, Port, Range,
    action::{CsumFlags, Ct, Mirred, Nat, Pedit, PeditHeader, PeditKey, Vlan},
    field::ct_state,
};
use proptest::prelude::*;

/// What a filter's protocol is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    V4,
    V6,
    Tagged,
    All,
}

impl Protocol {
    /// As TC has it, and what keeps its priorities apart: a priority of a chain holds one protocol.
    fn number(self) -> (u16, u16) {
        match self {
            Protocol::V4 => (0x800, 0),
            Protocol::V6 => (0x86dd, 10),
            Protocol::Tagged => (0x8100, 20),
            Protocol::All => (3, 30),
        }
    }
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        6 => Just(Protocol::V4),
        2 => Just(Protocol::V6),
        2 => Just(Protocol::Tagged),
        1 => Just(Protocol::All),
    ]
}

const FD: u128 = 0xfd << 120;

/// One comparison of a filter.
fn term() -> impl Strategy<Value = fn(&mut Match, u128)> {
    let terms: [fn(&mut Match, u128); 16] = [
        |m, v| m.set(Field::Ipv4Dst, 0x0a000000 | v & 3, u128::MAX),
        |m, v| m.set(Field::Ipv4Dst, v & 3, 1 << (v & 1)),
        |m, v| m.set(Field::Ipv4Src, 0x0a000000 | v & 3, u128::MAX),
        |m, v| m.set(Field::IpTtl, v & 3, 0xff),
        |m, v| m.set(Field::IpTtl, v & 3, v >> 2 & 7),
        |m, v| m.set(Field::IpTos, v & 4, 4),
        |m, v| m.set(Field::IpProto, if v & 1 == 0 { 6 } else { 17 }, 0xff),
        |m, v| {
            m.set(
                Field::DstPort,
                [80, 8000, 1000, 1001][v as usize & 3],
                [0xffff, 0xff, 0xffff, 8][v as usize >> 2 & 3],
            )
        },
        |m, v| m.set(Field::SrcPort, [80, 1000, 1001, 1002][v as usize & 3], u128::MAX),
        |m, v| m.dst_range = Some(Range { min: (v as u16 & 3) * 100, max: 900 + (v as u16 >> 2) * 20 }),
        |m, v| m.set(Field::TcpFlags, v, 0x8 | v & 0x10),
        |m, v| m.set(Field::EthDst, v & 3, 3),
        |m, v| m.set(Field::CtMark, 1000 + (v & 1), if v & 2 == 0 { 0xffff } else { 1 }),
        |m, v| m.set(Field::Ipv6Dst, FD | v & 3, if v & 4 == 0 { u128::MAX } else { 3 }),
        |m, v| m.set(Field::CtLabels, v & 0x30, 0x10 | v & 0x20),
        |m, v| m.set(Field::CtZone, 5 + (v & 1), u128::MAX),
    ];
    prop::sample::select(terms.to_vec())
}

/// A filter's match. `plain`: what links chains, and asks for little.
fn matches(protocol: Protocol, chain: u32, plain: bool, rare: bool) -> impl Strategy<Value = Match> {
    let (trk, est) = (ct_state::TRACKED, ct_state::ESTABLISHED);
    let states = vec![
        (0, 0),
        (0, 0),
        (trk | est, trk | est),
        (est, est | ct_state::REPLY),
        (ct_state::REPLY, ct_state::REPLY),
        (0, trk),
    ];
    let states = match (chain, plain) {
        (0, _) => vec![(0, 0)],
        (_, true) => vec![(0, 0), (0, 0), (trk | est, trk | est)],
        _ => states,
    };
    let terms = prop::collection::vec((term(), any::<u8>()), if plain { 0..=usize::from(rare) } else { 0..=2 });
    (terms, prop::sample::select(states), any::<u8>(), any::<bool>()).prop_map(move |(terms, state, id, v6)| {
        let mut m = Match::default();
        let v6 = match protocol {
            Protocol::V4 => false,
            Protocol::V6 => true,
            Protocol::Tagged | Protocol::All => v6,
        };
        let ethertype = if v6 { 0x86dd } else { 0x800 };
        if protocol != Protocol::All {
            m.set(Field::Protocol, protocol.number().0.into(), 0xffff);
        }
        if protocol == Protocol::Tagged {
            m.set(Field::VlanTpid, 0x8100, 0xffff);
            if id & 1 == 0 {
                m.set(Field::VlanId, if id & 2 == 0 { 10 } else { 20 }, 0xfff);
            }
            if id & 4 == 0 {
                return m;
            }
            m.set(Field::VlanEthType, ethertype, 0xffff);
        }
        m.set(Field::CtState, state.0, state.1);
        if protocol == Protocol::All && id & 3 != 0 {
            return m;
        }
        m.set(Field::EthType, ethertype, 0xffff);
        for (term, value) in terms {
            term(&mut m, value as u128);
        }
        // As flower wants it: ports need a protocol, addresses their kind and ethertype.
        let (own, other) = match v6 {
            false => ([Field::Ipv4Src, Field::Ipv4Dst], [Field::Ipv6Src, Field::Ipv6Dst]),
            true => ([Field::Ipv6Src, Field::Ipv6Dst], [Field::Ipv4Src, Field::Ipv4Dst]),
        };
        for field in other {
            m.key.set(field, 0);
            m.mask.set(field, 0);
        }
        if [Field::SrcPort, Field::DstPort].iter().any(|&f| m.mask.get(f) != 0) || m.dst_range.is_some() {
            let proto = m.key.get(Field::IpProto).max(6);
            m.set(Field::IpProto, proto, 0xff);
        }
        if m.mask.get(Field::TcpFlags) != 0 {
            m.set(Field::IpProto, 6, 0xff);
        }
        if own.iter().any(|&f| m.mask.get(f) != 0) {
            m.set(Field::AddrType, if v6 { 3 } else { 2 }, 0xffff);
        }
        m
    })
}

fn key(header: PeditHeader, offset: i32, mask: [u8; 4], value: [u8; 4], add: bool) -> ActionKind {
    let keys = vec![PeditKey { header, offset, mask, value, add, dynamic: None }];
    ActionKind::Pedit(Pedit { keys, mend: false })
}

/// An action before the last.
fn middle(plain: bool) -> BoxedStrategy<ActionKind> {
    let ct = (5u16..7, any::<bool>(), 0u8..12).prop_map(|(zone, nat, what)| {
        ActionKind::Ct(Ct {
            zone,
            nat: nat.then(Nat::default),
            clear: what == 0,
            commit: what & 6 == 2,
            force: what == 4,
            mark: (what == 2).then_some((1000, 0xffff)),
            labels: (what == 3).then_some((0x10, 0xf0)),
            ..Ct::default()
        })
    });
    let l3 = any::<[u8; 2]>().prop_map(|[v, what]| match what % 9 {
        0 => key(PeditHeader::Ipv4, 16, [0; 4], [10, 0, 0, v % 4], false),
        1 => key(PeditHeader::Ipv4, 16, [0xff, 0xff, 0xff, 0xfc | v], [0, 0, 0, v & 3], false),
        2 => key(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [255, 0, 0, 0], true),
        3 => key(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [v % 4, 0, 0, 0], false),
        4 => key(PeditHeader::Ethernet, 0, [0; 4], [2, 0, 0, v], false),
        5 => key(PeditHeader::Ipv6, 36, [0, 0, 0, 0], [0, 0, 0, v % 4], false),
        6 => key(PeditHeader::Ipv6, 4, [0xff, 0xff, 0xff, 0], [0, 0, 0, v % 4], false),
        7 => key(PeditHeader::Network, 4, [0xff, 0xff, 0xff, 0], [0, 0, 0, v % 4], true),
        _ => key(PeditHeader::Ipv4, 4, [0, 0, 0xff, 0xff], [v, what, 0, 0], false),
    });
    let l4 = any::<[u8; 2]>().prop_map(|[v, what]| {
        let header = if what & 1 == 0 { PeditHeader::Tcp } else { PeditHeader::Udp };
        let port = [80u16, 8000, 1000, 1001][v as usize & 3].to_be_bytes();
        match what & 2 {
            0 => key(header, 0, [0, 0, 0xff, 0xff], [port[0], port[1], 0, 0], false),
            _ => key(header, 0, [0xff, 0xff, 0, 0], [0, 0, port[0], port[1]], false),
        }
    });
    let csum = (0u32..32).prop_map(|bits| ActionKind::Csum(CsumFlags::from_bits_truncate(bits)));
    let vlan = (0u8..4, any::<bool>()).prop_map(|(what, first)| {
        let id = if first { 10 } else { 20 };
        ActionKind::Vlan(match what {
            0 | 1 => Vlan::Pop,
            2 => Vlan::Push { protocol: 0x8100, id, prio: 2 },
            _ => Vlan::Modify { protocol: 0x8100, id, prio: first.then_some(5) },
        })
    });
    let mirror = (2u32..5, 0u8..6)
        .prop_map(|(p, what)| ActionKind::Mirred(Mirred { port: Port(p), ingress: what == 0, mirror: true }));
    prop_oneof![if plain { 1 } else { 4 } => ct, 3 => l3, if plain { 1 } else { 4 } => l4, 2 => csum, 1 => vlan, 1 => mirror].boxed()
}

/// The last action of a filter: `gact`, or a redirect.
fn last(control: Control, to: u8) -> Action {
    let out = |port, ingress| ActionKind::Mirred(Mirred { port: Port(port), ingress, mirror: false });
    match (control, to) {
        (Control::Stolen, 0) => Action::new(out(INNER.0, true), Control::Stolen),
        (Control::Stolen, 1) => Action::new(out(4, true), Control::Stolen),
        (Control::Stolen, _) => Action::new(out(2, false), Control::Stolen),
        _ => Action::new(ActionKind::Gact { random: None }, control),
    }
}

/// Whether an action suits what filters of this protocol match, as far as that is plain to see.
fn suits(kind: &ActionKind, protocol: Protocol) -> bool {
    let ActionKind::Pedit(pedit) = kind else { return true };
    match pedit.keys[0].header {
        PeditHeader::Ipv4 => protocol == Protocol::V4 && pedit.keys[0].offset != 4,
        PeditHeader::Ipv6 => protocol == Protocol::V6,
        PeditHeader::Network => protocol != Protocol::All,
        _ => true,
    }
}

/// A filter; its handle is told later. `plain`: a link of a line.
fn filter(plain: bool, inner: bool, chain: u32, protocol: Protocol) -> BoxedStrategy<Filter> {
    let on = if chain < 2 { 4 } else { 0 };
    let other = u32::from(!plain);
    let end = prop_oneof![
        on => (1..3 - u32::from(plain)).prop_map(move |more| Control::Goto(chain + more)),
        if plain && on > 0 { 1 } else { 3 } => Just(Control::Stolen),
        other => Just(Control::Shot),
        other => Just(Control::Ok),
        other => Just(Control::Continue),
    ];
    let tracks =
        prop::option::weighted(if plain { [0.7, 0.2, 0.01][chain as usize] } else { 0.01 }, (5u16..7, any::<bool>()));
    let matches = any::<u8>().prop_flat_map(move |rare| matches(protocol, chain, plain, rare < 80));
    let middle = (tracks, prop::collection::vec(middle(plain), 0..3));
    (matches, middle, end, 0u8..8, 1u16..4)
        .prop_map(move |(matches, (tracks, middle), end, to, prio)| {
            let (number, apart) = protocol.number();
            let ct =
                tracks.map(|(zone, nat)| ActionKind::Ct(Ct { zone, nat: nat.then(Nat::default), ..Ct::default() }));
            let middle = middle.into_iter().filter(|kind| !plain || suits(kind, protocol));
            let actions = ct.into_iter().chain(middle).map(|kind| Action::new(kind, Control::Pipe));
            // Nothing goes round.
            let last = last(end, if inner { to.max(1) } else { to });
            let id = FilterId {
                hook: Hook::Ingress(if inner { INNER } else { IN }),
                chain,
                prio: prio + apart,
                protocol: number,
                handle: 0,
            };
            Filter::flower(id, matches, actions.chain([last]).collect())
        })
        .boxed()
}

fn any_filter(plain: bool) -> impl Strategy<Value = Filter> {
    (prop::bool::weighted(0.2), 0u32..3, protocol())
        .prop_flat_map(move |(inner, chain, protocol)| filter(plain, inner, chain, protocol))
}

/// A filter for each of chains 0 to 2.
fn line(inner: bool, protocol: Protocol) -> BoxedStrategy<Vec<Filter>> {
    let link = move |chain| filter(true, inner, chain, protocol);
    (link(0), link(1), link(2)).prop_map(|(a, b, c)| vec![a, b, c]).boxed()
}

/// Lines of chains, no two of them alike.
pub fn lines() -> impl Strategy<Value = Vec<Filter>> {
    let maybe = |often, inner, protocol| prop::option::weighted(often, line(inner, protocol));
    let outer = (
        maybe(0.9, false, Protocol::V4),
        maybe(0.7, false, Protocol::V6),
        maybe(0.7, false, Protocol::Tagged),
        maybe(0.2, false, Protocol::All),
    );
    let inner = (maybe(0.5, true, Protocol::V4), maybe(0.3, true, Protocol::All));
    (outer, inner).prop_map(|((a, b, c, d), (e, f))| [a, b, c, d, e, f].into_iter().flatten().flatten().collect())
}

/// A pipeline: lines of chains, and other filters among them.
pub fn filters() -> impl Strategy<Value = Vec<Filter>> {
    (lines(), prop::collection::vec(any_filter(false), 0..5)).prop_map(|(lines, others)| [lines, others].concat())
}

/// A filter that comes later.
pub fn later() -> impl Strategy<Value = Filter> {
    prop_oneof![any_filter(true), any_filter(false)]
}
