//! What random filters do: every action and control, the common ones often.

use super::{Protocol, more};
use crate::packets::INNER;
use flowmerge::flower::{
    Action, ActionKind, Control, Port,
    action::{CsumFlags, Ct, Mirred, Nat, NatSide, Pedit, PeditDynamic, PeditHeader, PeditKey, Skbedit, Vlan},
};
use proptest::prelude::*;

/// One word of a `pedit`, set.
fn word(header: PeditHeader, offset: i32, mask: [u8; 4], value: [u8; 4]) -> PeditKey {
    PeditKey { header, offset, mask, value, add: false, dynamic: None }
}

fn pedit(keys: Vec<PeditKey>) -> ActionKind {
    ActionKind::Pedit(Pedit { keys, mend: false })
}

fn nat() -> impl Strategy<Value = Nat> {
    let side = prop_oneof![Just(NatSide::Src), Just(NatSide::Dst)];
    let to = (side, 7u8..9, prop::option::of(9000u16..9002), any::<bool>()).prop_map(|(side, host, port, v6)| {
        let address = crate::connections::host(v6, host);
        Nat { side: Some(side), addresses: Some((address, address)), ports: port.map(|p| (p, p)) }
    });
    prop_oneof![6 => Just(Nat::default()), 1 => to]
}

fn ct() -> BoxedStrategy<ActionKind> {
    let zone = prop_oneof![6 => 5u16..7, 1 => Just(7u16)];
    (zone, prop::option::of(nat()), 0u8..14)
        .prop_map(|(zone, nat, what)| {
            ActionKind::Ct(Ct {
                zone,
                clear: what == 0,
                commit: matches!(what, 2 | 3 | 10 | 11) || nat.as_ref().is_some_and(|n| n.side.is_some()),
                force: what == 4,
                mark: match what {
                    2 => Some((1000, 0xffff)),
                    10 => Some((1, 1)),
                    _ => None,
                },
                labels: (what == 3).then_some((0x10, 0xf0)),
                nat,
                ..Ct::default()
            })
        })
        .boxed()
}

/// Words of the network header: whole fields, some bits of them, additions, flips of bits that stay.
fn network() -> BoxedStrategy<PeditKey> {
    use PeditHeader::{Ethernet, Ipv4, Ipv6, Network};
    any::<[u8; 3]>()
        .prop_map(|[v, w, what]| {
            let add = |key| PeditKey { add: true, ..key };
            match what % 19 {
                0 => word(Ipv4, 16, [0; 4], [10, 0, 0, v % 4]),
                1 => word(Ipv4, 16, [0xff, 0xff, 0xff, 0xfc | v], [0, 0, 0, v & 3]),
                2 => add(word(Ipv4, 8, [0, 0xff, 0xff, 0xff], [255, 0, 0, 0])),
                3 => word(Ipv4, 8, [0, 0xff, 0xff, 0xff], [v % 4, 0, 0, 0]),
                4 => word(Ethernet, 0, [0; 4], [2, 0, 0, v]),
                5 => word(Ipv6, 36, [0; 4], [0, 0, 0, v % 4]),
                6 => word(Ipv6, 4, [0xff, 0xff, 0xff, 0], [0, 0, 0, v % 4]),
                7 => add(word(Network, 4, [0xff, 0xff, 0xff, 0], [0, 0, 0, v % 4])),
                8 => word(Ipv4, 4, [0, 0, 0xff, 0xff], [v, w, 0, 0]),
                9 => word(Ipv4, 12, [0; 4], [10, 0, 0, v % 4]),
                10 => word(Ipv6, 20, [0xff, 0xff, 0xff, w], [0, 0, 0, v % 4]),
                11 => word(Ethernet, 4, [v, 0xff, 0, w], [0, 0, w, v]),
                12 => word(Ethernet, 8, [0xff, 0xff, 0xff, v], [0, 0, 0, w & !v]),
                // Bits that stay are flipped.
                13 => word(Ipv4, 0, [0xff, 0xff, 0xff, 0xff], [0, v & 4, 0, 0]),
                14 => word(Ipv4, 12, [0xff; 4], [0, 0, 0, v % 4]),
                15 => add(word(Ipv6, 4, [0xff, 0xff, 0xff, 0], [0, 0, 0, 255])),
                16 => add(word(Ipv4, 16, [0xff, 0xff, 0, 0], [0, 0, v % 4, w % 4])),
                17 => word(Network, 8, [0, 0xff, 0xff, 0xff], [v % 4, 0, 0, 0]),
                _ => word(Ipv6, 0, [0xff, 0x0f | v, 0xff, 0xff], [0, v & 0x40, 0, 0]),
            }
        })
        .boxed()
}

/// Words of a transport header.
fn transport() -> impl Strategy<Value = PeditKey> {
    any::<[u8; 3]>().prop_map(|[v, w, what]| {
        let header = if what & 1 == 0 { PeditHeader::Tcp } else { PeditHeader::Udp };
        let port = [80u16, 8000, 1000, 1001][v as usize & 3].to_be_bytes();
        match what >> 1 & 7 {
            0 | 1 => word(header, 0, [0, 0, 0xff, 0xff], [port[0], port[1], 0, 0]),
            2 | 3 => word(header, 0, [0xff, 0xff, 0, 0], [0, 0, port[0], port[1]]),
            4 => word(header, 0, [0, 0, 0, 0], [port[0], port[1], w, v]),
            5 => word(header, 0, [0xff, 0xff, 0xff, w], [0, 0, 0, v & 3]),
            6 => word(PeditHeader::Tcp, 12, [0xff, !(v & 8), 0xff, 0xff], [0, w & 8, 0, 0]),
            _ => PeditKey { add: true, ..word(header, 0, [0xff, 0xff, 0xff, 0], [0, 0, 0, v & 1]) },
        }
    })
}

/// Words that no merge can carry: outside of the header, of what decides how the packet is read, at an offset from the packet.
fn unfit() -> impl Strategy<Value = PeditKey> {
    let dynamic = PeditDynamic { at: 0, mask: 0, shift: 0 };
    prop::sample::select(vec![
        word(PeditHeader::Ipv4, 20, [0xff; 4], [0, 0, 0, 1]),
        word(PeditHeader::Ipv4, 8, [0xff, 0, 0xff, 0xff], [0, 17, 0, 0]),
        word(PeditHeader::Ethernet, 12, [0xff; 4], [0, 0, 0, 0x10]),
        PeditKey { dynamic: Some(dynamic), ..word(PeditHeader::Ipv4, 16, [0; 4], [10, 0, 0, 2]) },
    ])
}

fn vlan() -> impl Strategy<Value = ActionKind> {
    let tpid = prop_oneof![4 => Just(0x8100u16), 1 => Just(0x88a8)];
    (0u8..5, tpid, any::<bool>()).prop_map(|(what, protocol, first)| {
        let id = if first { 10 } else { 20 };
        ActionKind::Vlan(match what {
            0 | 1 => Vlan::Pop,
            2 | 3 => Vlan::Push { protocol, id, prio: 2 },
            _ => Vlan::Modify { protocol, id, prio: first.then_some(5) },
        })
    })
}

fn skbedit() -> impl Strategy<Value = ActionKind> {
    (0u8..5, 0u16..4).prop_map(|(what, v)| {
        let none = Skbedit::default();
        ActionKind::Skbedit(match what {
            0 => Skbedit { queue: Some(v), ..none },
            1 => Skbedit { priority: Some(v.into()), ..none },
            2 => Skbedit { mark: Some((v.into(), 0xff)), ..none },
            3 => Skbedit { ptype: Some(v % 3), ..none },
            _ => Skbedit { inherit_dsfield: true, ..none },
        })
    })
}

/// An action before the last. `plain`: of a link of a line, which mostly merges.
pub fn middle(plain: bool, protocol: Protocol, carried: bool) -> BoxedStrategy<ActionKind> {
    let csum = (0u32..128).prop_map(|bits| ActionKind::Csum(CsumFlags::from_bits_truncate(bits)));
    let mirror = (2u32..5, 0u8..6)
        .prop_map(|(p, what)| ActionKind::Mirred(Mirred { port: Port(p), ingress: what == 0, mirror: true }));
    let several = prop::collection::vec(prop_oneof![4 => network(), 2 => transport()], 1..4).prop_map(pedit);
    let odd = unfit().prop_map(|key| pedit(vec![key]));
    let (labelled, asks) = (protocol == Protocol::Mpls, protocol == Protocol::Arp);
    let more = prop_oneof![
        if labelled { 40 } else { 4 } => more::labels(),
        5 => more::others(),
        if asks { 30 } else { 1 } => more::arp().prop_map(|key| pedit(vec![key])),
        if labelled { 8 } else { 0 } => more::entry().prop_map(|key| pedit(vec![key])),
    ];
    let often = if plain { 4 } else { 16 };
    prop_oneof![
        often => ct(),
        12 => network().prop_map(|key| pedit(vec![key])),
        if plain { 3 } else { 16 } => transport().prop_map(|key| pedit(vec![key])),
        3 => several,
        8 => csum,
        4 => vlan(),
        4 => mirror,
        2 => skbedit(),
        match (labelled || asks, carried) {
            (true, _) => 60,
            (_, true) => 14,
            _ => 2,
        } => more,
        if plain { 0 } else { 1 } => odd,
    ]
    .boxed()
}

/// The last action of a filter: `gact`, or a redirect with some control.
pub fn last(control: Control, to: u8, odd: u8) -> Action {
    let out = |port, ingress| ActionKind::Mirred(Mirred { port: Port(port), ingress, mirror: false });
    // A redirect with a control that is not final sends a copy, and a mirror may be final.
    let control_of_redirect = match odd {
        0 => Control::Shot,
        1 => Control::Queued,
        2 => Control::Trap,
        3 => Control::Ok,
        4 => Control::Pipe,
        5 => Control::Goto(2),
        _ => Control::Stolen,
    };
    match (control, to) {
        (Control::Stolen, 0) => Action::new(out(INNER.0, true), control_of_redirect),
        (Control::Stolen, 1) => Action::new(out(4, true), control_of_redirect),
        (Control::Stolen, 2) if odd & 1 == 1 => {
            let mirror = ActionKind::Mirred(Mirred { port: Port(2), ingress: false, mirror: true });
            Action::new(mirror, control_of_redirect)
        }
        (Control::Stolen, 6) if odd & 1 == 1 => Action::gact(Control::Stolen),
        (Control::Stolen, 7) => Action::new(out(4, false), control_of_redirect),
        (Control::Stolen, _) => Action::new(out(2, false), control_of_redirect),
        _ => Action::gact(control),
    }
}

/// Whether an action suits what filters of this protocol match, as far as that is plain to see.
pub fn suits(kind: &ActionKind, protocol: Protocol) -> bool {
    let ActionKind::Pedit(pedit) = kind else { return true };
    pedit.keys.iter().all(|key| match key.header {
        PeditHeader::Ipv4 => protocol == Protocol::V4 && (key.offset != 4 || key.mask[0] == 0xff),
        PeditHeader::Ipv6 => protocol == Protocol::V6,
        PeditHeader::Network => matches!(protocol, Protocol::V4 | Protocol::V6 | Protocol::Tagged),
        _ => true,
    })
}
