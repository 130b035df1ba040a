//! The rarer actions: label stacks, tunnels' keys, the stateless translation, the Ethernet header, policers and samples.

use super::{
    dice::Dice,
    universe::{Universe, host_v4},
};
use flowmerge::flower::{
    Action, ActionKind, Control, Tunnel,
    action::{Mpls, MplsEntry, Police, Sample, Skbmod, StatelessNat, TunnelKey},
    ethertype as et,
    tunnel::{Erspan, GeneveOption, TunnelFlags, TunnelOptions},
};
use std::net::IpAddr;

/// The first index of policers that filters share; the kernel gives those that have none lower ones.
const POLICERS: u32 = 5000;

/// Any of them; `ethertype` is what the packets mostly are.
pub fn rarer(dice: &mut Dice, universe: &Universe, ethertype: u16) -> Action {
    let labelled = et::is_mpls(ethertype);
    let kind = match dice.below(100) {
        _ if labelled && dice.percent(60) => mpls(dice, ethertype),
        0..30 => mpls(dice, ethertype),
        30..52 => tunnel_key(dice, universe),
        52..68 => nat(dice),
        68..82 => skbmod(dice),
        82..92 => return police(dice, universe),
        _ => ActionKind::Sample(Sample {
            rate: 1 + dice.below(3) as u32,
            group: 1,
            truncate: dice.percent(50).then(|| 20 + dice.below(100) as u32),
        }),
    };
    let control = if dice.percent(2) { Control::Continue } else { Control::Pipe };
    Action::new(kind, control)
}

/// A label. What a pop uncovers may be read as IPv4, and the kernel's `csum` sums up as many words as that says: none here.
pub fn label(dice: &mut Dice) -> u32 {
    let any = dice.bits(0xf_ffff) as u32;
    *dice.pick(&[5, 16, 0, 0xf_ffff, any]) & 0xf_0fff
}

/// An entry that says all that a new one must.
fn entry(dice: &mut Dice) -> MplsEntry {
    MplsEntry {
        label: Some(label(dice)),
        tc: dice.percent(50).then(|| dice.below(8) as u8),
        bos: dice.percent(15).then(|| dice.percent(50)),
        ttl: Some(*dice.pick(&[64, 255, 1, 2])),
    }
}

/// Something with a label stack.
pub fn mpls(dice: &mut Dice, ethertype: u16) -> ActionKind {
    let protocol = *dice.pick(&[et::MPLS, et::MPLS, et::MPLS_MC]);
    let behind = *dice.pick(&[et::IPV4, et::IPV4, et::IPV6, et::MPLS, 0x1234]);
    let many = if et::is_mpls(ethertype) { 10 } else { 30 };
    ActionKind::Mpls(match dice.below(many) {
        0..4 => Mpls::Pop { protocol: behind },
        4 | 5 => {
            let MplsEntry { label, tc, bos, ttl } = entry(dice);
            let some = |dice: &mut Dice| dice.percent(50);
            let (label, ttl) = (label.filter(|_| some(dice)), ttl.filter(|_| some(dice)));
            Mpls::Modify(MplsEntry { label, tc, bos, ttl })
        }
        6 | 7 => Mpls::DecTtl,
        8 => Mpls::PushMac { protocol, entry: entry(dice) },
        _ => Mpls::Push { protocol, entry: entry(dice) },
    })
}

/// A tunnel of the case, or none.
pub fn tunnel_key(dice: &mut Dice, universe: &Universe) -> ActionKind {
    ActionKind::TunnelKey(match dice.percent(20) {
        true => TunnelKey::Unset,
        false => TunnelKey::Set(Box::new(dice.pick(&universe.tunnels).clone())),
    })
}

/// A tunnel, as `tunnel_key` can say it.
pub fn tunnel(dice: &mut Dice) -> Tunnel {
    let v6 = dice.percent(30);
    let end = |dice: &mut Dice| -> IpAddr {
        let n = 1 + dice.below(3) as u8;
        if v6 { [0xfd09, 0, 0, 0, 0, 0, 0, n.into()].into() } else { [10, 9, 0, n].into() }
    };
    let option = |dice: &mut Dice| GeneveOption {
        class: *dice.pick(&[0x0102, 0x0103]),
        kind: *dice.pick(&[0x80, 1]),
        data: (0..4 * dice.between(1, 3)).map(|_| dice.below(3) as u8).collect(),
    };
    let options = match dice.below(6) {
        0 | 5 => TunnelOptions::Geneve((0..dice.between(1, 2)).map(|_| option(dice)).collect()),
        1 => TunnelOptions::Vxlan { gbp: 1 + dice.below(0xffff) as u32 },
        2 => TunnelOptions::Erspan(match dice.percent(50) {
            true => Erspan::Index(1 + dice.below(9) as u32),
            false => Erspan::Hardware { dir: dice.below(2) as u8, hwid: 1 + dice.below(9) as u8 },
        }),
        _ => TunnelOptions::None,
    };
    Tunnel {
        id: dice.percent(85).then(|| *dice.pick(&[5, 6, 0xff_ffff])),
        src: end(dice),
        dst: end(dice),
        src_port: 0,
        dst_port: *dice.pick(&[0, 4789, 6081]),
        tos: *dice.pick(&[0, 0, 0xb8]),
        ttl: *dice.pick(&[0, 64, 9]),
        flags: if dice.percent(70) { TunnelFlags::CSUM } else { TunnelFlags::empty() },
        options,
    }
}

fn nat(dice: &mut Dice) -> ActionKind {
    let mask = *dice.pick(&[u32::MAX, u32::MAX, 0xffff_fff0, 0xff00_0000, 0]);
    let host = |dice: &mut Dice| host_v4(1 + dice.below(5) as u128) as u32 & mask;
    let new = if dice.percent(50) { host(dice) } else { 0xc0a8_0707 & mask };
    ActionKind::Nat(StatelessNat { old: host(dice), new, mask, egress: dice.percent(50) })
}

fn skbmod(dice: &mut Dice) -> ActionKind {
    let mac = |dice: &mut Dice, percent| dice.percent(percent).then(|| [2, 0, 0, 0, 0, 5 + dice.below(3) as u8]);
    ActionKind::Skbmod(match dice.below(4) {
        0 => Skbmod::Ecn,
        1 => Skbmod::Swap,
        _ => Skbmod::Set {
            dst: mac(dice, 60),
            src: mac(dice, 60),
            ethertype: dice.percent(25).then(|| *dice.pick(&[0x1234, et::IPV4, et::MPLS])),
        },
    })
}

/// A policer whose verdict is sure: nothing is too much for it, or everything is, or that does not matter.
pub fn policer(dice: &mut Dice) -> (Police, Control) {
    let control = |dice: &mut Dice| *dice.pick(&[Control::Pipe, Control::Shot, Control::Ok, Control::Continue]);
    let open = Police {
        shared: false,
        conform: if dice.percent(70) { Control::Pipe } else { control(dice) },
        rate: 0,
        burst: 0,
        mtu: u32::MAX,
        peak_rate: 0,
        packet_rate: 0,
        packet_burst: 0,
        average_rate: 0,
        overhead: 0,
        link_layer: 0,
    };
    let exceed = control(dice);
    let free = 1 << 50;
    match dice.below(8) {
        0 => (Police { mtu: 1, ..open }, exceed),
        1 => (Police { mtu: dice.between(40, 120) as u32, ..open }, exceed),
        2 => (Police { rate: 1000, mtu: 2000, link_layer: 1, ..open }, exceed),
        3 => (Police { packet_rate: 1, ..open }, exceed),
        4 => (Police { rate: 100_000, burst: 15_625, mtu: 2000, link_layer: 1, ..open }, open.conform),
        5 => (Police { packet_rate: 1 << 31, packet_burst: 1_000_000, ..open }, exceed),
        _ => (Police { rate: free, burst: 10, mtu: 1 << 16, link_layer: 1, ..open }, exceed),
    }
}

/// One of the case's policers, or one of the filter's own.
fn police(dice: &mut Dice, universe: &Universe) -> Action {
    if dice.percent(30) {
        let (police, exceed) = policer(dice);
        return Action::new(ActionKind::Police(police), exceed);
    }
    let which = dice.below(universe.policers.len());
    let (police, exceed) = universe.policers[which];
    Action { index: POLICERS + which as u32, ..Action::new(ActionKind::Police(police), exceed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowmerge::flower::{Filter, Match, Port};
    use merge_model::{Model, Verdict, conntrack::observed::Tracker};

    /// Whatever the length, the model knows what they do: or the random part would tell of packets that cannot be decided.
    #[test]
    fn the_verdict_of_every_policer_is_sure() {
        let mut dice = Dice::new(1);
        for _ in 0..400 {
            let (police, exceed) = policer(&mut dice);
            let mut model = Model::new();
            let action = Action::new(ActionKind::Police(police), exceed);
            model.filters.replace(Filter::alone(Port(1), 1, Match::default(), vec![action]));
            for length in [14, 60, 1514] {
                let outcome = model.receive(Port(1), &vec![2; length], 1, &mut Tracker::default());
                assert!(!matches!(outcome.verdict, Verdict::Undecidable { .. }), "{police:?} {:?}", outcome.verdict);
            }
        }
    }

    #[test]
    fn no_label_looks_like_a_long_ipv4_header() {
        let mut dice = Dice::new(1);
        for _ in 0..400 {
            assert_eq!((label(&mut dice) << 12).to_be_bytes()[0] & 0xf, 0);
        }
    }
}
