//! What a filter does: actions in the middle of a list, and the one that ends it.

use super::{
    dice::Dice,
    rarer::rarer,
    universe::{Universe, host_v4, host_v6},
};
use crate::case;
use flowmerge::flower::{
    Action, ActionKind, Control, Port,
    action::{CsumFlags, Ct, Mirred, Nat, NatSide, Pedit, PeditDynamic, PeditHeader, PeditKey, Skbedit, Vlan},
    ethertype as et,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Any port.
pub fn any_port(dice: &mut Dice) -> Port {
    case::port(dice.between(1, case::PORTS as usize) as u32)
}

/// The `ct` that finds a packet's connection.
pub fn track(zone: u16, nat: bool) -> ActionKind {
    ActionKind::Ct(Ct { zone, nat: nat.then(Nat::default), ..Ct::default() })
}

/// Any `ct`.
pub fn ct(dice: &mut Dice, universe: &Universe, v6: bool) -> ActionKind {
    let zone = *dice.pick(&universe.zones);
    if dice.percent(8) {
        return ActionKind::Ct(Ct { clear: true, ..Ct::default() });
    }
    let commit = dice.percent(40);
    let set = |dice: &mut Dice, percent| commit && dice.percent(percent);
    ActionKind::Ct(Ct {
        zone,
        commit,
        force: set(dice, 12),
        mark: set(dice, 30)
            .then(|| (universe.value(dice, flowmerge::flower::Field::CtMark) as u32, *dice.pick(&[u32::MAX, 0xff, 1]))),
        labels: set(dice, 25).then(|| (*dice.pick(&[1u128, 0x10, 1 << 127]), *dice.pick(&[u128::MAX, 0xff, 1 << 127]))),
        nat: dice.percent(35).then(|| if commit { translation(dice, v6, false) } else { Nat::default() }),
        ..Ct::default()
    })
}

/// A translation for new connections.
/// `ports`: of TCP or UDP, whose ports it may choose.
pub fn translation(dice: &mut Dice, v6: bool, ports: bool) -> Nat {
    let side = match dice.below(5) {
        0 => return Nat::default(),
        1 | 2 => NatSide::Src,
        _ => NatSide::Dst,
    };
    let address = |n: u128| match v6 {
        false => IpAddr::V4(Ipv4Addr::from(host_v4(n) as u32)),
        true => IpAddr::V6(Ipv6Addr::from(host_v6(n))),
    };
    let low = 1 + dice.below(5) as u128;
    let high = if dice.percent(80) { low } else { low + 2 };
    let ports = (dice.percent(45) && ports).then(|| {
        let low = *dice.pick(&[8000u16, 80, 1000, 443, 60000]);
        (low, if dice.percent(60) { low } else { low + dice.below(40) as u16 })
    });
    Nat { side: Some(side), addresses: Some((address(low), address(high))), ports }
}

fn key(header: PeditHeader, offset: i32, mask: u32, value: u32) -> PeditKey {
    PeditKey { header, offset, mask: mask.to_be_bytes(), value: value.to_be_bytes(), add: false, dynamic: None }
}

/// A rewrite; `ethertype` is what the packets mostly are.
pub fn pedit(dice: &mut Dice, ethertype: u16, proto: u8) -> ActionKind {
    let keys = (0..dice.between(1, 3)).map(|_| rewrite(dice, ethertype, proto)).collect();
    ActionKind::Pedit(Pedit { keys, mend: false })
}

fn rewrite(dice: &mut Dice, ethertype: u16, proto: u8) -> PeditKey {
    let n = dice.below(6) as u32;
    let l4 = match proto {
        6 => PeditHeader::Tcp,
        17 => PeditHeader::Udp,
        _ => *dice.pick(&[PeditHeader::Tcp, PeditHeader::Udp]),
    };
    let port = u32::from(*dice.pick(&[80u16, 8000, 1000, 1001, 443]));
    let mut key = match dice.below(12) {
        0 => key(PeditHeader::Ethernet, 0, 0, 0x0200_0000 + n),
        1 => key(PeditHeader::Ethernet, 4, 0x0000_ffff, n << 16),
        2 => key(PeditHeader::Ethernet, 8, 0, 0xaa00 + n),
        3 | 4 => key(l4, 0, 0xffff_0000, port),
        5 => key(l4, 0, 0x0000_ffff, port << 16),
        6 => key(l4, *dice.pick(&[4, 8, 12, 16]), u32::MAX << dice.below(24), dice.bits(0xff) as u32),
        _ if ethertype == et::IPV6 => match dice.below(5) {
            0 => key(PeditHeader::Ipv6, 4, 0xffff_ff00, 63 + n),
            1 => key(PeditHeader::Ipv6, 36, 0, n),
            2 => key(PeditHeader::Ipv6, 20, 0xffff_ff00, n),
            3 => key(PeditHeader::Ipv6, 0, 0xf00f_ffff, 0x0b00_0000),
            _ => key(PeditHeader::Ipv6, 8, 0x00ff_ffff, 0xfd00_0000),
        },
        7 => key(PeditHeader::Ipv4, 8, 0x00ff_ffff, (63 + n) << 24),
        8 => PeditKey { add: true, ..key(PeditHeader::Ipv4, 8, 0x00ff_ffff, 0xff00_0000) },
        9 => key(PeditHeader::Ipv4, 16, 0, 0x0a00_0000 + n),
        10 => key(PeditHeader::Ipv4, 12, 0xffff_fff0, n),
        _ => key(*dice.pick(&[PeditHeader::Ipv4, PeditHeader::Network]), 0, 0xff03_ffff, 0x00b8_0000),
    };
    match dice.below(40) {
        // Bits under the mask are flipped, kept or not.
        0 => key.value[3] ^= 0x41,
        1 => key.add = true,
        // Anywhere, even past the end; but the length of the IP header stays, by which the kernel would sum up anything.
        2 => {
            let beyond = if key.header == PeditHeader::Ethernet { dice.below(3) } else { 1 + dice.below(15) };
            key.offset = 4 * beyond as i32;
        }
        // Where a byte of the packet says.
        3 if key.header != PeditHeader::Ethernet => {
            let at = dice.below(12) as u32;
            let (mask, shift) = (*dice.pick(&[0xff, 0x0c, 0xf0]), dice.below(4) as u32);
            key.offset = 20;
            key.dynamic = Some(PeditDynamic { at, mask, shift });
        }
        _ => {}
    }
    key
}

fn csum(dice: &mut Dice, proto: u8) -> ActionKind {
    let own = match proto {
        6 => CsumFlags::TCP,
        17 => CsumFlags::UDP,
        1 | 58 => CsumFlags::ICMP,
        132 => CsumFlags::SCTP,
        _ => CsumFlags::TCP | CsumFlags::UDP,
    };
    ActionKind::Csum(match dice.below(10) {
        0..5 => CsumFlags::IPV4 | own,
        5..7 => CsumFlags::IPV4,
        7 => own,
        _ => CsumFlags::from_bits_truncate(1 + dice.below(127) as u32),
    })
}

fn vlan(dice: &mut Dice) -> ActionKind {
    let protocol = *dice.pick(&[et::VLAN, et::VLAN, et::QINQ]);
    let id = *dice.pick(&[10u16, 11, 20, 1]);
    ActionKind::Vlan(match dice.below(14) {
        0..6 => Vlan::Pop,
        6..10 => Vlan::Push { protocol, id, prio: dice.below(8) as u8 },
        10..12 => Vlan::Modify { protocol, id, prio: dice.percent(50).then(|| dice.below(8) as u8) },
        12 => Vlan::PopEthernet,
        _ => Vlan::PushEthernet { dst: [2, 0, 0, 0, 0, 9], src: [2, 0, 0, 0, 0, 8] },
    })
}

fn skbedit(dice: &mut Dice) -> ActionKind {
    let mut edit = Skbedit::default();
    match dice.below(4) {
        0 => edit.mark = Some((dice.below(100) as u32, u32::MAX)),
        1 => edit.priority = Some(dice.below(8) as u32),
        2 => edit.ptype = Some(dice.below(4) as u16),
        _ => edit.queue = Some(0),
    }
    ActionKind::Skbedit(edit)
}

/// A mirror in the middle of a list.
fn mirror(dice: &mut Dice) -> ActionKind {
    ActionKind::Mirred(Mirred { port: any_port(dice), ingress: dice.percent(12), mirror: true })
}

/// What comes before the last action.
pub fn middle(dice: &mut Dice, universe: &Universe, ethertype: u16, proto: u8) -> Action {
    if dice.percent(universe.rarer_share) {
        return rarer(dice, universe, ethertype);
    }
    let kind = match dice.below(100) {
        0..14 => ct(dice, universe, ethertype == et::IPV6),
        14..46 => pedit(dice, ethertype, proto),
        46..64 => csum(dice, proto),
        64..76 => vlan(dice),
        76..86 => mirror(dice),
        86..92 => skbedit(dice),
        _ => ActionKind::Gact { random: None },
    };
    let control = match (&kind, dice.below(60)) {
        (_, 0) => Control::Jump(1 + dice.below(3) as u32),
        (_, 1) => Control::Continue,
        (ActionKind::Gact { .. }, 2) => Control::Reclassify,
        _ => Control::Pipe,
    };
    Action::new(kind, control)
}

/// The last action of a list that goes on in one of these chains, if there are any.
pub fn last(dice: &mut Dice, chains: &[u32]) -> Action {
    if !chains.is_empty() && dice.percent(62) {
        return Action::gact(Control::Goto(*dice.pick(chains)));
    }
    let out = |dice: &mut Dice, mirror, control| {
        let mirred = Mirred { port: any_port(dice), ingress: dice.percent(8), mirror };
        Action::new(ActionKind::Mirred(mirred), control)
    };
    match dice.below(100) {
        0..66 => out(dice, false, Control::Stolen),
        66..70 => out(dice, true, Control::Pipe),
        70..72 => out(dice, false, Control::Pipe),
        72..74 => out(dice, true, Control::Stolen),
        74..82 => Action::gact(Control::Shot),
        82..88 => Action::gact(Control::Ok),
        88..91 => Action::gact(Control::Continue),
        91..93 => Action::gact(Control::Pipe),
        93..95 => Action::gact(Control::Trap),
        95..96 => Action::gact(Control::Reclassify),
        96..97 => Action::gact(Control::Stolen),
        97..98 => Action::gact(Control::Queued),
        98..99 => Action::gact(Control::Repeat),
        _ => Action::gact(Control::Goto(77)),
    }
}
