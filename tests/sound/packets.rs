//! The packets that do and do not belong to connections.

use crate::{
    connections::{connections, host},
    packet::{Flaw, Fragment, L3, OPTION, Outer, Packet},
};
use flowmerge::{
    conntrack::{Direction, proto, tuple::address_bits},
    flower::Port,
};
use proptest::prelude::*;

/// Where most packets come in, and the port that filters redirect into.
pub const IN: Port = Port(1);
/// It has filters of its own, or those of a shared block.
pub const INNER: Port = Port(3);

/// Tags, mostly none.
pub fn tags() -> impl Strategy<Value = Vec<(u16, u16)>> {
    let tag = || {
        let tci = prop_oneof![Just(10u16), Just(0x600a), Just(20), Just(0xa014)];
        (prop_oneof![5 => Just(0x8100u16), 1 => Just(0x88a8)], tci)
    };
    prop_oneof![
        28 => Just(vec![]),
        4 => tag().prop_map(|t| vec![t]),
        2 => (tag(), tag()).prop_map(|(a, b)| vec![a, b]),
        1 => (tag(), tag(), tag()).prop_map(|(a, b, c)| vec![a, b, c]),
    ]
}

/// What else an IP packet has: fragments, options and flaws are rare.
fn oddities() -> impl Strategy<Value = (Fragment, Vec<u8>, Flaw)> {
    let fragment = prop_oneof![80 => Just(Fragment::None), 1 => Just(Fragment::First), 1 => Just(Fragment::Later)];
    let extension = prop::sample::select(vec![0u8, 43, 60, 60, 51]);
    let extensions = prop_oneof![40 => Just(vec![]), 1 => prop::collection::vec(extension, 1..3)];
    let flaw = prop_oneof![
        90 => Just(Flaw::None),
        5 => Just(Flaw::NoChecksum),
        1 => Just(Flaw::L4),
        1 => Just(Flaw::Ip),
        1 => Just(Flaw::Length),
        1 => (1u8..40).prop_map(Flaw::Cut),
    ];
    (fragment, extensions, flaw)
}

/// Flags: an acknowledgement with or without data, and rarely what opens and closes, or anything.
fn flags() -> impl Strategy<Value = u16> {
    prop_oneof![
        32 => Just(0x10u16),
        16 => Just(0x18),
        4 => Just(0x50),
        1 => Just(2),
        1 => Just(0x12),
        1 => Just(0x11),
        1 => Just(0x14),
        1 => (0u16..0x1000).prop_map(|f| f & !7 | 0x10),
        1 => 0u16..0x1000,
    ]
}

/// A label stack, mostly none; seldom without a bottom, or with one too early.
fn labels() -> impl Strategy<Value = Vec<u32>> {
    let entry = (1u32..4, 0u32..2, prop::sample::select(vec![1u32, 2, 64, 255]))
        .prop_map(|(l, tc, ttl)| l << 12 | tc << 9 | ttl);
    let stack = (prop::collection::vec(entry, 1..4), 0u8..12).prop_map(|(mut stack, odd)| {
        let bottom = if odd == 0 { 0 } else { stack.len() - 1 };
        if odd != 1 {
            stack[bottom] |= 0x100;
        }
        stack
    });
    prop_oneof![14 => Just(vec![]), 1 => stack]
}

/// What a packet came through, mostly nothing.
fn outer() -> impl Strategy<Value = Option<Outer>> {
    let host = |n: u8| 0xc000_0200 | u128::from(n);
    let ends = (prop::bool::weighted(0.2), (1u8..3).prop_map(host), (1u8..3).prop_map(host));
    let option = || prop_oneof![2 => Just(0), 1 => Just(OPTION | 5), 1 => Just(OPTION | 6)];
    let rest = (prop::sample::select(vec![0, 4000]), 0u8..2, prop::sample::select(vec![64, 63]), [option(), option()]);
    let outer = (5u32..8, ends, rest).prop_map(|(id, (v6, src, dst), (src_port, tos, ttl, options))| Outer {
        id,
        v6,
        src,
        dst,
        src_port,
        dst_port: 6081,
        tos,
        ttl,
        options,
    });
    prop::option::weighted(0.2, outer)
}

/// What few pipelines look at: each packet has a label stack, or is ARP, or came through a tunnel.
pub fn carried(packet: &mut Packet) {
    // The same packet changes the same way.
    let how = packet.src_port ^ packet.dst_port ^ u16::from(packet.payload);
    let label = |depth: u16| {
        let ttl = [1, 2, 64, 64][(how >> depth & 3) as usize];
        u32::from(1 + (how >> 4 & 1)) << 12 | u32::from(how >> depth & 1) << 9 | ttl
    };
    match how % 8 {
        0..4 if packet.labels.is_empty() => {
            packet.labels = (0..1 + how % 3).map(label).collect();
            packet.labels.last_mut().into_iter().for_each(|last| *last |= 0x100);
        }
        4 | 5 => packet.l3 = L3::Arp,
        _ => {
            let outer =
                Outer { id: 5 + u32::from(how >> 3 & 1), v6: how & 16 != 0, dst_port: 6081, ttl: 64, ..Outer::NONE };
            packet.tunnel.get_or_insert(Outer { src: 0xc000_0201, dst: 0xc000_0202, ..outer });
        }
    }
    if packet.l3 == L3::Arp {
        packet.src &= 0xffff_ffff;
        packet.dst &= 0xffff_ffff;
    }
}

/// Any packet.
pub fn any_packet() -> BoxedStrategy<Packet> {
    let port = || prop_oneof![Just(80u16), Just(1000), Just(1001), Just(1002), Just(8000), any::<u16>()];
    let l3 = prop_oneof![
        24 => Just(L3::V4),
        8 => Just(L3::V6),
        1 => Just(L3::Arp),
        1 => Just(L3::Other(0x88b5)),
    ];
    let l4 = prop_oneof![
        8 => Just(proto::TCP),
        6 => Just(proto::UDP),
        1 => Just(proto::SCTP),
        1 => Just(proto::ICMP),
        1 => Just(proto::ICMPV6),
        1 => prop::sample::select(vec![2u8, 33, 47, 51, 136]),
    ];
    let at = prop_oneof![9 => Just(IN), 1 => Just(INNER)];
    let kind = (prop::sample::select(vec![8u8, 0, 3, 11, 1, 128, 129, 135]), 0u8..2);
    let tos = prop_oneof![2 => Just(0u8), 2 => Just(4), 1 => any::<u8>()];
    let head = (at, l3, l4, tags(), 1u8..4, tos).boxed();
    let ends = (1u8..4, 1u8..4, port(), port());
    let odd_address = prop_oneof![30 => Just(0u128), 1 => any::<u128>()];
    let dress = (labels(), outer());
    let tail = (flags(), 0u8..12, 0u8..3, kind, oddities(), odd_address, dress).boxed();
    (head, ends, tail)
        .prop_map(
            |(
                (port, l3, proto, tags, ttl, tos),
                (src, dst, src_port, dst_port),
                (flags, payload, pad, kind, (fragment, extensions, flaw), odd, (labels, tunnel)),
            )| {
                let v6 = l3 == L3::V6;
                Packet {
                    port,
                    eth_dst: 0x0200_0000_0000 | u64::from(dst) | (odd as u64 & 0xff00),
                    eth_src: 0x0200_0000_0000 | u64::from(src),
                    tags,
                    labels,
                    tunnel,
                    arp: [0x0200_0000_0001, 0],
                    l3,
                    tos,
                    ttl,
                    fragment,
                    extensions,
                    // The one that goes with the IP version, three times of four.
                    proto: match (proto, v6, odd & 3) {
                        (proto::ICMP, true, 0..3) => proto::ICMPV6,
                        (proto::ICMPV6, false, 0..3) => proto::ICMP,
                        _ => proto,
                    },
                    src: address_bits(host(v6, src)),
                    dst: (address_bits(host(v6, dst)) ^ odd) & if v6 { u128::MAX } else { 0xffff_ffff },
                    src_port,
                    dst_port,
                    flags,
                    kind,
                    payload,
                    pad,
                    flaw,
                }
            },
        )
        .boxed()
}

/// A packet of one of these connections, in one of its directions, or any other.
pub fn packet(of: Vec<usize>) -> BoxedStrategy<Packet> {
    let known = (prop::sample::select(of), any::<bool>(), any_packet()).prop_map(|(i, reply, p)| {
        let t = connections()[i].tuple(if reply { Direction::Reply } else { Direction::Original });
        Packet {
            l3: if t.src.is_ipv6() { L3::V6 } else { L3::V4 },
            proto: t.proto,
            src: address_bits(t.src),
            dst: address_bits(t.dst),
            src_port: t.src_port,
            dst_port: t.dst_port,
            kind: match t.proto {
                proto::ICMP => ((t.dst_port >> 8) as u8, t.dst_port as u8),
                _ => p.kind,
            },
            // AH hides the ports from flower, not from conntrack.
            ..p
        }
    });
    prop_oneof![16 => known, 1 => any_packet()].boxed()
}
