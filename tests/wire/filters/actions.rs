//! Random actions.

use super::{GBP, Throws, erspan, geneve};
use flowmerge::flower::{
    Action, ActionKind, Control, Port,
    action::{
        CsumFlags, Ct, Mirred, Mpls, MplsEntry, Nat, NatSide, Pedit, PeditDynamic, PeditHeader, PeditKey, Police,
        Random, Sample, Skbedit, Skbmod, StatelessNat, TunnelKey, Vlan,
    },
    ethertype,
    tunnel::{Erspan, Tunnel, TunnelFlags, TunnelOptions},
};
use std::net::IpAddr;

/// How an action goes on.
fn control(throws: &mut Throws) -> Control {
    match throws.below(14) {
        0..=5 => Control::Pipe,
        6 => Control::Ok,
        7 => Control::Shot,
        8 => Control::Stolen,
        9 => Control::Trap,
        10 => Control::Goto(throws.below(1 << 28) as u32),
        11 => Control::Jump(1 + throws.below(4) as u32),
        12 => throws.pick(&[Control::Queued, Control::Repeat]),
        _ => throws.pick(&[Control::Reclassify, Control::Continue]),
    }
}

/// A control that is no chain: the second one of `gact` and `police`.
fn plain_control(throws: &mut Throws) -> Control {
    throws.pick(&[Control::Ok, Control::Pipe, Control::Shot, Control::Continue, Control::Reclassify])
}

/// An action, as the kernel takes it at that side of a port.
pub(super) fn random(throws: &mut Throws, ports: &[Port], egress: bool) -> Action {
    let kind = match throws.below(15) {
        0 => ActionKind::Gact {
            random: throws.maybe(30, |t| Random {
                kind: 1 + t.below(2) as u16,
                value: 1 + t.below(65535) as u16,
                control: plain_control(t),
            }),
        },
        1 => ActionKind::Mirred(Mirred {
            port: throws.pick(ports),
            ingress: throws.percent(50),
            mirror: throws.percent(50),
        }),
        2 | 3 => ActionKind::Ct(ct(throws)),
        4 => ActionKind::Pedit(pedit(throws)),
        5 => ActionKind::Csum(CsumFlags::from_bits_truncate(throws.word())),
        6 => ActionKind::Vlan(vlan(throws)),
        7 => ActionKind::Skbedit(skbedit(throws, egress)),
        8 => ActionKind::Skbmod(skbmod(throws)),
        9 => ActionKind::Mpls(mpls(throws)),
        10 | 11 => ActionKind::TunnelKey(tunnel_key(throws)),
        12 => ActionKind::Nat(StatelessNat {
            old: throws.word(),
            new: throws.word(),
            mask: throws.mask(0xffff_ffff) as u32,
            egress: throws.percent(50),
        }),
        13 => ActionKind::Police(police(throws)),
        _ => ActionKind::Sample(Sample {
            rate: 1 + throws.word() / 2,
            group: throws.below(4) as u32,
            truncate: throws.maybe(50, Throws::word),
        }),
    };
    let cookie = throws.below(17);
    Action { kind, control: control(throws), index: 0, cookie: throws.bytes(cookie) }
}

fn ct(throws: &mut Throws) -> Ct {
    if throws.percent(10) {
        return Ct { clear: true, ..Ct::default() };
    }
    let address = |throws: &mut Throws, is_v4: bool| match is_v4 {
        true => IpAddr::from(throws.word().to_be_bytes()),
        false => IpAddr::from(throws.bits(u128::MAX).to_be_bytes()),
    };
    let nat = |t: &mut Throws| {
        let is_v4 = t.percent(50);
        let side = t.maybe(75, |t| t.pick(&[NatSide::Src, NatSide::Dst]));
        let addresses = t.maybe(70, |t| (address(t, is_v4), address(t, is_v4)));
        let ports = t.maybe(50, |t| (t.half(), t.half()));
        if side.is_some() { Nat { side, addresses, ports } } else { Nat::default() }
    };
    Ct {
        zone: throws.half(),
        commit: throws.percent(60),
        force: throws.percent(20),
        clear: false,
        mark: throws.maybe(30, |t| (t.word(), t.mask(0xffff_ffff) as u32)),
        labels: throws.maybe(30, |t| (t.bits(u128::MAX), t.mask(u128::MAX))),
        nat: throws.maybe(50, nat),
        helper: None,
    }
}

fn pedit(throws: &mut Throws) -> Pedit {
    let legacy = throws.percent(40);
    let key = |throws: &mut Throws| {
        let at = PeditDynamic { at: throws.word() & 0x3f, mask: throws.mask(0xff) as u32, shift: throws.word() & 31 };
        let dynamic = throws.maybe(20, |_| at);
        let header = match legacy {
            true => PeditHeader::Network,
            false => throws.pick(&[
                PeditHeader::Network,
                PeditHeader::Ethernet,
                PeditHeader::Ipv4,
                PeditHeader::Ipv6,
                PeditHeader::Tcp,
                PeditHeader::Udp,
            ]),
        };
        PeditKey {
            header,
            // A fixed offset is that of a word.
            offset: (throws.below(40) as i32 - 4) * if dynamic.is_some() { 1 } else { 4 },
            mask: throws.word().to_be_bytes(),
            value: throws.word().to_be_bytes(),
            add: !legacy && throws.percent(25),
            dynamic,
        }
    };
    Pedit { keys: (0..1 + throws.below(4)).map(|_| key(throws)).collect(), mend: false }
}

fn vlan(throws: &mut Throws) -> Vlan {
    let protocol = throws.pick(&[ethertype::VLAN, ethertype::QINQ]);
    let id = throws.below(0xfff) as u16;
    let mac = |throws: &mut Throws| [throws.byte(), throws.byte(), throws.byte(), throws.byte(), throws.byte(), 1];
    match throws.below(5) {
        0 => Vlan::Pop,
        1 => Vlan::Push { protocol, id, prio: throws.below(8) as u8 },
        2 => Vlan::Modify { protocol, id, prio: throws.maybe(50, |t| t.below(8) as u8) },
        3 => Vlan::PopEthernet,
        _ => Vlan::PushEthernet { dst: mac(throws), src: mac(throws) },
    }
}

/// A queue is for the way out; at ingress only hardware has one.
fn skbedit(throws: &mut Throws, egress: bool) -> Skbedit {
    Skbedit {
        queue: throws.maybe(if egress { 40 } else { 0 }, |t| t.below(4) as u16),
        priority: Some(throws.word()),
        mark: throws.maybe(50, |t| (t.word(), t.mask(0xffff_ffff) as u32)),
        ptype: throws.maybe(40, |t| t.below(4) as u16),
        inherit_dsfield: throws.percent(30),
    }
}

fn skbmod(throws: &mut Throws) -> Skbmod {
    let mac = |throws: &mut Throws| [throws.byte(); 6];
    match throws.below(4) {
        0 => Skbmod::Swap,
        1 => Skbmod::Ecn,
        _ => Skbmod::Set {
            dst: Some(mac(throws)),
            src: throws.maybe(50, mac),
            ethertype: throws.maybe(50, Throws::half),
        },
    }
}

fn mpls(throws: &mut Throws) -> Mpls {
    let protocol = throws.pick(&[ethertype::MPLS, ethertype::MPLS_MC]);
    // 3 is implicit null, which no packet carries.
    let label = |t: &mut Throws| 4 + t.below(0xf_fffc) as u32;
    let mut entry = MplsEntry {
        label: throws.maybe(60, label),
        tc: throws.maybe(50, |t| t.below(8) as u8),
        bos: throws.maybe(50, |t| t.percent(50)),
        ttl: throws.maybe(50, |t| 1 + t.below(255) as u8),
    };
    let what = throws.below(5);
    if what < 2 {
        entry.label = entry.label.or(Some(16));
        entry.ttl = entry.ttl.or(Some(64));
    }
    match what {
        0 => Mpls::Push { protocol, entry },
        1 => Mpls::PushMac { protocol, entry },
        2 => Mpls::Modify(entry),
        3 => Mpls::Pop { protocol: throws.pick(&[ethertype::IPV4, ethertype::IPV6, ethertype::MPLS, 0x6558]) },
        _ => Mpls::DecTtl,
    }
}

fn tunnel_key(throws: &mut Throws) -> TunnelKey {
    if throws.percent(15) {
        return TunnelKey::Unset;
    }
    let is_v4 = throws.percent(50);
    let address = |throws: &mut Throws| match is_v4 {
        true => IpAddr::from(throws.word().to_be_bytes()),
        false => IpAddr::from(throws.bits(u128::MAX).to_be_bytes()),
    };
    let options = match throws.below(8) {
        0..=2 => TunnelOptions::Geneve(geneve(throws, 252)),
        3 => TunnelOptions::Vxlan { gbp: throws.word() & GBP },
        4 => TunnelOptions::Erspan(Erspan::Index(throws.word())),
        5 => erspan(throws),
        _ => TunnelOptions::None,
    };
    TunnelKey::Set(Box::new(Tunnel {
        id: throws.maybe(80, Throws::word),
        src: address(throws),
        dst: address(throws),
        src_port: 0,
        dst_port: throws.maybe(70, Throws::half).unwrap_or(0),
        tos: throws.maybe(50, Throws::byte).unwrap_or(0),
        ttl: throws.maybe(50, Throws::byte).unwrap_or(0),
        flags: if throws.percent(50) { TunnelFlags::CSUM } else { TunnelFlags::empty() },
        options,
    }))
}

fn police(throws: &mut Throws) -> Police {
    let rate = |t: &mut Throws| match t.percent(20) {
        true => (1 << 32) + u64::from(t.word()),
        false => 1 + u64::from(t.word()),
    };
    let (conform, burst, mtu) = (plain_control(throws), throws.word(), 1 + throws.word() / 2);
    let mut police = Police { conform, burst, mtu, ..Police::default() };
    match throws.below(4) {
        0 => {}
        1 => (police.packet_rate, police.packet_burst) = (rate(throws), throws.bits((1 << 57) - 1) as u64),
        _ => {
            police.rate = rate(throws);
            police.overhead = throws.maybe(30, Throws::half).unwrap_or(0);
            police.link_layer = throws.below(3) as u8;
            police.peak_rate = throws.maybe(40, rate).unwrap_or(0);
        }
    }
    police
}
