//! Labels, tunnels, ARP, and the actions that only some pipelines have.

use super::fields::Pick;
use crate::{
    packet::{OPTION, Outer},
    world::POLICERS,
};
use flowmerge::flower::{
    Action, ActionKind, Control, Field, Match,
    action::{Mpls, MplsEntry, PeditHeader, PeditKey, Police, Sample, Skbmod, StatelessNat, TunnelKey, Vlan},
    field::{addr_type, enc_options},
};
use proptest::prelude::*;

/// An action with its control: `pipe`, but for a policer, of which that is what becomes of packets that exceed.
pub fn action(kind: ActionKind) -> Action {
    match &kind {
        ActionKind::Police(police) => {
            let (index, shared) = (police.packet_burst as u32, police.shared);
            let control = if police.rate == 1 { Control::Pipe } else { Control::Shot };
            Action { index: if shared { index } else { 9 }, ..Action::new(kind, control) }
        }
        _ => Action::new(kind, Control::Pipe),
    }
}

/// What `mpls` does.
pub fn labels() -> BoxedStrategy<ActionKind> {
    let entry =
        (1u32..4, prop::option::of(0u8..2), prop::option::of(any::<bool>()), prop::sample::select(vec![1u8, 2, 64]));
    entry
        .prop_flat_map(|(label, tc, bos, ttl)| {
            let entry = MplsEntry { label: Some(label), tc, bos: bos.filter(|_| tc.is_some()), ttl: Some(ttl) };
            let some = MplsEntry { label: Some(label).filter(|_| tc.is_none()), bos, ttl: Some(ttl).filter(|&t| t > 1), tc };
            let protocol = if label == 3 && ttl == 2 { 0x8848 } else { 0x8847 };
            prop_oneof![
                6 => Just(Mpls::Push { protocol, entry }),
                4 => prop::sample::select(vec![0x8847u16, 0x8847, 0x800, 0x86dd]).prop_map(|protocol| Mpls::Pop { protocol }),
                4 => Just(Mpls::Modify(some)),
                4 => Just(Mpls::DecTtl),
                1 => Just(Mpls::PushMac { protocol, entry }),
            ]
        })
        .prop_map(ActionKind::Mpls)
        .boxed()
}

/// Tunnels, the stateless nat, `skbmod`, policers, samples, the Ethernet header.
pub fn others() -> BoxedStrategy<ActionKind> {
    let tunnel = (5u32..8, any::<bool>(), prop::sample::select(vec![0, 0, OPTION | 5])).prop_map(|(id, v6, option)| {
        let outer = Outer { id, v6, dst_port: 6081, ttl: 64, options: [option, 0], ..Outer::NONE };
        let outer = Outer { src: 0xc000_0201, dst: 0xc000_0202, ..outer };
        ActionKind::TunnelKey(TunnelKey::Set(Box::new(outer.tunnel())))
    });
    let nat = (1u32..4, 1u32..4, prop::sample::select(vec![u32::MAX, 0xffff_fffc, 1]), any::<bool>()).prop_map(
        |(old, new, mask, egress)| {
            let host = |n| 0x0a00_0000 | n;
            ActionKind::Nat(StatelessNat { old: host(old), new: host(new), mask, egress })
        },
    );
    let mac = || prop::option::of((1u8..4).prop_map(|n| [2, 0, 0, 0, 0, n]));
    let set = (mac(), mac(), prop::option::of(Just(0x88b5u16))).prop_map(|(dst, src, ethertype)| Skbmod::Set {
        dst,
        src,
        ethertype,
    });
    let skbmod = prop_oneof![3 => set, 1 => Just(Skbmod::Swap), 2 => Just(Skbmod::Ecn)].prop_map(ActionKind::Skbmod);
    let police = (POLICERS, 0u8..12).prop_map(|(index, odd)| {
        let conform = if odd == 1 { Control::Ok } else { Control::Pipe };
        // The index is told by the packets' burst, which nobody reads: see `action`.
        ActionKind::Police(Police {
            shared: odd != 0,
            conform,
            rate: if odd == 2 { 1 } else { 1000 },
            burst: u32::MAX,
            mtu: u32::MAX,
            packet_burst: index.into(),
            ..Police::default()
        })
    });
    prop_oneof![
        6 => tunnel,
        3 => Just(ActionKind::TunnelKey(TunnelKey::Unset)),
        6 => nat,
        6 => skbmod,
        4 => police,
        1 => Just(ActionKind::Sample(Sample { rate: 100, group: 1, truncate: None })),
        3 => Just(ActionKind::Vlan(Vlan::PopEthernet)),
        4 => (1u8..4).prop_map(|n| ActionKind::Vlan(Vlan::PushEthernet { dst: [2, 0, 0, 0, 0, n], src: [4; 6] })),
    ]
    .boxed()
}

fn word(offset: i32, mask: [u8; 4], value: [u8; 4]) -> PeditKey {
    PeditKey { header: PeditHeader::Network, offset, mask, value, add: false, dynamic: None }
}

/// Words of an ARP packet.
pub fn arp() -> impl Strategy<Value = PeditKey> {
    any::<[u8; 2]>().prop_map(|[v, what]| match what % 6 {
        0 => word(4, [0xff, 0xff, 0xff, 0], [0, 0, 0, 1 + v % 2]),
        1 => word(8, [0; 4], [2, 0, 0, v]),
        2 => word(12, [0xff, 0xff, 0, 0], [0, 0, 10, 0]),
        3 => word(16, [0, 0, 0xff, 0xff], [0, v % 4, 0, 0]),
        4 => word(24, [0xff, 0xff, 0xff, v], [0, 0, 0, !v & 3]),
        // What decides how it is read.
        _ => word(4, [0xff, 0xff, 0xff, 0], [0, 0, 0, 3]),
    })
}

/// Words of a label stack.
pub fn entry() -> impl Strategy<Value = PeditKey> {
    any::<[u8; 2]>().prop_map(|[v, what]| match what % 5 {
        0 => word(0, [0xff, 0xff, 0xff, 0], [0, 0, 0, v | 2]),
        1 => word(0, [0, 0, 0x0f, 0xff], [0, 0, 0x10 * (v % 4), 0]),
        2 => word(0, [0xff, 0xff, 0xf1, 0xff], [0, 0, 2 * (v % 8), 0]),
        3 => PeditKey { add: true, ..word(0, [0xff, 0xff, 0xff, 0], [0, 0, 0, v]) },
        _ => word(0, [0xff, 0xff, 0xfe, 0xff], [0; 4]),
    })
}

/// A comparison of ARP.
pub fn of_arp(m: &mut Match, n: usize, pick: Pick) {
    const HOSTS: [u128; 3] = [0x0a00_0001, 0x0a00_0002, 0x0a00_0003];
    match n % 5 {
        0 => pick.compare(m, Field::ArpOp, &[1, 2]),
        1 => pick.compare(m, Field::ArpSip, &HOSTS),
        2 => pick.compare(m, Field::ArpTip, &HOSTS),
        3 => pick.compare(m, Field::ArpSha, &[0x0200_0000_0001]),
        _ => pick.compare(m, Field::ArpTha, &[0]),
    }
}

/// A comparison of the label stack.
pub fn of_labels(m: &mut Match, n: usize, pick: Pick) {
    let [present, label, tc, bottom, ttl] = Field::MPLS[[0, 0, 0, 1, 1, 2][pick.value as usize % 6]];
    m.set(present, 1, 1);
    match n % 6 {
        0 => m.set(label, 1 + u128::from(pick.mask % 3), label.ones()),
        1 => m.set(tc, u128::from(pick.mask & 1), tc.ones()),
        2 => m.set(bottom, u128::from(pick.mask & 1), 1),
        3 | 4 => m.set(ttl, [1, 2, 64, 63][pick.mask as usize % 4], ttl.ones()),
        _ => {}
    }
}

/// Seldom, unless what is `carried` is asked for, what a packet came through.
pub fn tunnel(m: &mut Match, pick: Pick, carried: bool) {
    let rare = (pick.bits >> 64) as u8;
    let often = if carried { 128 } else { 24 };
    if rare >= often {
        return;
    }
    let rare = rare % 24;
    let kind = if pick.bits >> 80 & 1 == 0 { addr_type::IPV6 } else { addr_type::IPV4 };
    let [src, dst] = match kind {
        addr_type::IPV4 => [Field::EncIpv4Src, Field::EncIpv4Dst],
        _ => [Field::EncIpv6Src, Field::EncIpv6Dst],
    };
    let host = 0xc000_0201 + u128::from(pick.mask & 1);
    m.set(Field::EncKeyId, 5 + u128::from(rare % 3), Field::EncKeyId.ones());
    match rare / 3 {
        0 => m.set(src, host, if pick.mask & 2 == 0 { src.ones() } else { 3 }),
        1 => m.set(dst, host, if pick.mask & 2 == 0 { dst.ones() } else { 3 }),
        2 => pick.compare(m, Field::EncDstPort, &[6081]),
        3 => pick.compare(m, Field::EncSrcPort, &[0, 4000]),
        4 => pick.compare(m, Field::EncTos, &[0, 1]),
        5 => pick.compare(m, Field::EncTtl, &[64, 63]),
        // Flower compares the length of options under itself.
        6 | 7 => {
            m.set(Field::EncOptsType, enc_options::GENEVE, enc_options::GENEVE);
            m.set(Field::EncOptsLen, 8, 8);
            m.set(Field::EncOpts0, 0x0102_8001 << 96, 0xffff_ff01 << 96);
            let data = u128::from(pick.mask & 3) + 4;
            m.set(Field::EncOpts0, data << 64, 0xffff_ffff << 64);
        }
        _ => {}
    }
    if m.mask.get(src) != 0 || m.mask.get(dst) != 0 {
        m.set(Field::EncAddrType, kind, 0xffff);
    }
}
