//! Label stacks and tunnels' options; and the actions of which tc's JSON says less than the kernel tells.

use super::{any, merged, of_protocol, pipe};
use flowmerge::flower::{
    Action, ActionKind, Control, Field, Match,
    action::{Mpls, MplsEntry, Police, Sample, Skbmod, StatelessNat, TunnelKey},
    ethertype as et,
    tunnel::{Erspan, GeneveOption, Tunnel, TunnelFlags, TunnelOptions, option_field},
};

fn options(key: TunnelOptions, mask: TunnelOptions) -> Match {
    let (kind, key, mask) = (key.kind(), key.bytes(), mask.bytes());
    let length = key.len() as u128;
    let m = any().with(Field::EncOptsType, kind, kind).with(Field::EncOptsLen, length, length);
    let parts = Field::OPTIONS.into_iter().enumerate();
    parts.fold(m, |m, (at, field)| m.with(field, option_field(&key, at), option_field(&mask, at)))
}

fn geneve(list: &[(u16, u8, &[u8])]) -> TunnelOptions {
    let option = |&(class, kind, data): &(u16, u8, &[u8])| GeneveOption { class, kind, data: data.to_vec() };
    TunnelOptions::Geneve(list.iter().map(option).collect())
}

fn index(index: u32) -> TunnelOptions {
    TunnelOptions::Erspan(Erspan::Index(index))
}

fn hardware(dir: u8, hwid: u8) -> TunnelOptions {
    TunnelOptions::Erspan(Erspan::Hardware { dir, hwid })
}

/// An entry: present, and the parts that are given.
fn entry(m: Match, depth: usize, parts: [Option<u128>; 4]) -> Match {
    let fields = Field::MPLS[depth - 1];
    let given = fields[1..].iter().zip(parts).filter_map(|(field, part)| Some((*field, part?)));
    given.fold(m.exact(fields[0], 1), |m, (field, value)| m.exact(field, value))
}

pub(super) fn matches() -> Vec<Match> {
    let some = |m, depth| entry(m, depth, [Some(16 + depth as u128), Some(depth as u128), Some(0), Some(64)]);
    let deep = (2..=7).fold(merged(et::MPLS), some);
    vec![
        entry(merged(et::MPLS), 1, [Some(16), Some(1), Some(1), Some(64)]),
        entry(of_protocol(et::MPLS_MC), 1, [Some(1), None, None, None]),
        entry(entry(of_protocol(et::MPLS), 1, [Some(1), None, None, None]), 2, [None, Some(5), Some(1), None]),
        entry(merged(et::MPLS), 1, [None; 4]),
        entry(of_protocol(et::MPLS), 3, [None; 4]),
        deep,
        options(geneve(&[(0x102, 0x80, &[0, 0, 0, 1])]), geneve(&[(0xffff, 0xff, &[0xff; 4])])),
        options(
            geneve(&[(0x102, 0x80, &[0x11; 8]), (3, 1, &[7; 40])]),
            geneve(&[(0xff00, 0x8f, &[0xf0; 8]), (3, 0xff, &[0x0f; 40])]),
        ),
        options(TunnelOptions::Vxlan { gbp: 257 }, TunnelOptions::Vxlan { gbp: u32::MAX }),
        options(TunnelOptions::Vxlan { gbp: 257 }, TunnelOptions::Vxlan { gbp: 0xffff }),
        options(index(2), index(u32::MAX)),
        options(index(2), index(0xff)),
        options(hardware(1, 63), hardware(1, 63)),
        options(hardware(0, 0x21), hardware(1, 0x31)).exact(Field::EncKeyId, 7),
    ]
}

fn tunnel(options: TunnelOptions) -> Tunnel {
    Tunnel {
        id: Some(5),
        src: [10, 0, 0, 1].into(),
        dst: [10, 0, 0, 2].into(),
        src_port: 0,
        dst_port: 6081,
        tos: 8,
        ttl: 64,
        flags: TunnelFlags::CSUM,
        options,
    }
}

fn set(tunnel: Tunnel) -> Action {
    pipe(ActionKind::TunnelKey(TunnelKey::Set(Box::new(tunnel))))
}

pub(super) fn actions() -> Vec<Vec<Action>> {
    let mpls = |mpls| pipe(ActionKind::Mpls(mpls));
    let whole = MplsEntry { label: Some(5), tc: Some(3), bos: Some(true), ttl: Some(64) };
    let less = MplsEntry { label: Some(16), ttl: Some(255), ..MplsEntry::default() };
    let nat =
        |egress| pipe(ActionKind::Nat(StatelessNat { old: 0x0a00_0000, new: 0xc0a8_0000, mask: 0xffff_ff00, egress }));
    let skbmod = |skbmod| pipe(ActionKind::Skbmod(skbmod));
    let police = |police, control| Action::new(ActionKind::Police(police), control);
    let sample = |truncate| pipe(ActionKind::Sample(Sample { rate: 100, group: 5, truncate }));
    let rate = Police { rate: 125_000, burst: 1_280_000, mtu: 2000, link_layer: 1, ..Police::default() };
    let six = |last| std::net::Ipv6Addr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]).into();
    vec![
        vec![
            mpls(Mpls::Push { protocol: et::MPLS, entry: whole }),
            mpls(Mpls::PushMac { protocol: et::MPLS_MC, entry: less }),
            mpls(Mpls::Pop { protocol: et::IPV4 }),
            mpls(Mpls::Modify(whole)),
            mpls(Mpls::Modify(MplsEntry { bos: Some(false), ..MplsEntry::default() })),
            mpls(Mpls::DecTtl),
        ],
        vec![
            set(tunnel(geneve(&[(0x102, 0x80, &[0, 0, 0, 1]), (3, 1, &[7; 12])]))),
            set(Tunnel { flags: TunnelFlags::empty(), tos: 0, ttl: 0, ..tunnel(TunnelOptions::Vxlan { gbp: 257 }) }),
            set(Tunnel { id: None, dst_port: 0, src: six(1), dst: six(2), ..tunnel(TunnelOptions::None) }),
            set(tunnel(index(7))),
            set(tunnel(hardware(1, 63))),
            pipe(ActionKind::TunnelKey(TunnelKey::Unset)),
        ],
        vec![nat(false), nat(true)],
        vec![
            skbmod(Skbmod::Swap),
            skbmod(Skbmod::Ecn),
            skbmod(Skbmod::Set { dst: Some([2, 0, 0, 0, 0, 5]), src: None, ethertype: Some(0x800) }),
            skbmod(Skbmod::Set { dst: None, src: Some([2, 0, 0, 0, 0, 6]), ethertype: None }),
            Action { cookie: vec![7], ..skbmod(Skbmod::Swap) },
        ],
        vec![sample(None), sample(Some(64))],
        vec![
            police(rate, Control::Shot),
            police(Police { conform: Control::Pipe, overhead: 14, link_layer: 2, ..rate }, Control::Continue),
            police(
                Police { packet_rate: 1000, packet_burst: 7_812_500, mtu: 1500, ..Police::default() },
                Control::Reclassify,
            ),
        ],
    ]
}
