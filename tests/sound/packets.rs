//! Connections, and the packets that do and do not belong to them.

use flowmerge::{
    conntrack::{Connection, Direction, Tuple, proto},
    flower::Port,
};
use merge_model::checksum;
use proptest::prelude::*;
use std::{collections::HashSet, net::IpAddr};

/// Where most packets come in, and the port that filters redirect into.
pub const IN: Port = Port(1);
/// It has filters of its own, or those of a shared block.
pub const INNER: Port = Port(3);

/// A host's address.
pub fn host(v6: bool, n: u8) -> IpAddr {
    match v6 {
        false => [10, 0, 0, n].into(),
        true => [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n].into(),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// The connections that conntrack knows: plain, and translated at either end, port and address.
pub fn connections() -> Vec<Connection> {
    let mut out = Vec::new();
    for (zone, v6) in [(5, false), (6, false), (5, true), (6, true)] {
        for proto in [proto::TCP, proto::UDP] {
            let tuple = |src, src_port, dst, dst_port| Tuple {
                src: host(v6, src),
                dst: host(v6, dst),
                proto,
                src_port,
                dst_port,
            };
            for (original, inside) in [
                (tuple(1, 1000, 2, 80), tuple(1, 1000, 2, 80)),
                (tuple(1, 1001, 2, 80), tuple(1, 1001, 3, 8000)),
                (tuple(3, 1000, 2, 80), tuple(1, 1002, 2, 80)),
                (tuple(3, 1001, 2, 8000), tuple(1, 1003, 3, 80)),
                // As the other zone leaves them.
                (tuple(1, 1001, 3, 8000), tuple(1, 1001, 3, 8000)),
                (tuple(1, 1002, 2, 80), tuple(1, 1002, 2, 80)),
                (tuple(1, 1003, 3, 80), tuple(1, 1003, 3, 80)),
            ] {
                out.push(Connection {
                    mark: u32::from(original.src_port),
                    labels: 0x10,
                    ..Connection::established(zone, original, inside.inverse())
                });
            }
        }
    }
    // The same tuple must not stand twice in a zone.
    let mut seen = HashSet::new();
    out.retain(|c| seen.insert((c.zone, c.original)) && seen.insert((c.zone, c.reply)));
    out
}

/// A packet.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Where it comes in.
    pub port: Port,
    v6: bool,
    tags: Vec<u16>,
    proto: u8,
    src: u8,
    dst: u8,
    src_port: u16,
    dst_port: u16,
    ttl: u8,
    tos: u8,
    flags: u8,
    payload: u8,
    pad: u8,
}

impl Packet {
    /// Its bytes; `padded`: some follow the IP datagram.
    pub fn frame(&self, padded: bool) -> Vec<u8> {
        let mut l4 = [self.src_port.to_be_bytes(), self.dst_port.to_be_bytes()].concat();
        match self.proto {
            proto::TCP => l4.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, self.flags, 0, 9, 0, 0, 0, 0]),
            _ => l4.extend([(8 + self.payload as u16).to_be_bytes(), [0, 0]].concat()),
        }
        l4.extend((0..self.payload).collect::<Vec<_>>());
        let mut out = vec![2, 0, 0, 0, 0, self.dst, 2, 0, 0, 0, 0, self.src];
        for tag in &self.tags {
            out.extend([[0x81, 0], tag.to_be_bytes()].concat());
        }
        let length = l4.len() as u16;
        if self.v6 {
            let flow = 0x6000_0000 | u32::from(self.tos) << 20;
            out.extend([0x86, 0xdd]);
            out.extend(flow.to_be_bytes());
            out.extend(length.to_be_bytes());
            out.extend([self.proto, self.ttl]);
        } else {
            out.extend([8, 0, 0x45, self.tos]);
            out.extend((20 + length).to_be_bytes());
            out.extend([0x12, 0x34, 0x40, 0, self.ttl, self.proto, 0, 0]);
        }
        out.extend([octets(host(self.v6, self.src)), octets(host(self.v6, self.dst))].concat());
        out.extend(l4);
        mend(&mut out);
        if padded {
            out.extend(vec![0; self.pad as usize]);
        }
        out
    }
}

/// Where the network header begins, and where the transport header.
pub fn headers(frame: &[u8]) -> Option<(usize, usize)> {
    let mut at = 12;
    while matches!(frame.get(at..at + 2)?, [0x81, 0] | [0x88, 0xa8]) {
        at += 4;
    }
    let l3 = at + 2;
    match frame[at..l3] {
        [8, 0] => Some((l3, l3 + 20)),
        [0x86, 0xdd] => Some((l3, l3 + 40)),
        _ => None,
    }
}

/// The places of a frame's checksums.
pub fn checksums(frame: &[u8]) -> Vec<usize> {
    let Some((l3, l4)) = headers(frame) else {
        return Vec::new();
    };
    let (v4, proto) = match l4 - l3 {
        20 => (true, frame.get(l3 + 9)),
        _ => (false, frame.get(l3 + 6)),
    };
    let mut out = Vec::new();
    out.extend(v4.then_some(l3 + 10));
    out.extend(proto.map(|&p| if p == proto::TCP { l4 + 16 } else { l4 + 6 }));
    out.retain(|&at| at + 2 <= frame.len());
    out
}

/// Computes all checksums.
pub fn mend(frame: &mut [u8]) {
    let places = checksums(frame);
    let Some((l3, l4)) = headers(frame) else { return };
    let v4 = l4 - l3 == 20;
    let length = match v4 {
        true => u16::from_be_bytes([frame[l3 + 2], frame[l3 + 3]]) as usize - 20,
        false => u16::from_be_bytes([frame[l3 + 4], frame[l3 + 5]]) as usize,
    };
    for at in places {
        frame[at..at + 2].fill(0);
        let sum = if at < l4 {
            checksum::sum(&frame[l3..l4], 0)
        } else {
            let address = |from: usize, n: usize| -> IpAddr {
                let bytes = &frame[from..from + n];
                match v4 {
                    true => <[u8; 4]>::try_from(bytes).expect("four").into(),
                    false => <[u8; 16]>::try_from(bytes).expect("sixteen").into(),
                }
            };
            let (src, dst, proto) = match v4 {
                true => (address(l3 + 12, 4), address(l3 + 16, 4), frame[l3 + 9]),
                false => (address(l3 + 8, 16), address(l3 + 24, 16), frame[l3 + 6]),
            };
            checksum::sum(&frame[l4..l4 + length], checksum::pseudo(src, dst, proto, length))
        };
        let check = checksum::fold(sum);
        frame[at..at + 2].copy_from_slice(&check.to_be_bytes());
    }
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let port = prop_oneof![Just(80u16), Just(1000), Just(1001), Just(1002), Just(8000)];
    let tag = || prop_oneof![Just(10u16), Just(0x600a), Just(20)];
    let tags = prop_oneof![
        8 => Just(vec![]),
        2 => tag().prop_map(|t| vec![t]),
        1 => (tag(), tag()).prop_map(|(a, b)| vec![a, b]),
    ];
    let flags = prop_oneof![4 => Just(0x10u8), 2 => Just(0x18), 1 => Just(2), 1 => Just(0x11)];
    let l4 = prop_oneof![2 => Just(proto::TCP), 1 => Just(proto::UDP)];
    let at = prop_oneof![9 => Just(IN), 1 => Just(INNER)];
    let ttl_tos = (1u8..4, prop_oneof![Just(0u8), Just(4)]);
    let ends = (1u8..4, 1u8..4, port.clone(), port);
    let tail = (flags, 0u8..12, 0u8..3);
    (at, prop::bool::weighted(0.25), tags, l4, ends, ttl_tos, tail).prop_map(
        |(port, v6, tags, proto, (src, dst, src_port, dst_port), (ttl, tos), (flags, payload, pad))| Packet {
            port,
            v6,
            tags,
            proto,
            src,
            dst,
            src_port,
            dst_port,
            ttl,
            tos,
            flags,
            payload,
            pad,
        },
    )
}

/// A packet of one of these connections, in one of its directions, or any other.
pub fn packet(of: Vec<usize>) -> impl Strategy<Value = Packet> {
    let known = (prop::sample::select(of), any::<bool>(), any_packet()).prop_map(|(i, reply, p)| {
        let t = connections()[i].tuple(if reply { Direction::Reply } else { Direction::Original });
        let last = |a: IpAddr| octets(a).last().copied().unwrap_or(0);
        Packet {
            v6: t.src.is_ipv6(),
            proto: t.proto,
            src: last(t.src),
            dst: last(t.dst),
            src_port: t.src_port,
            dst_port: t.dst_port,
            ..p
        }
    });
    prop_oneof![5 => known, 1 => any_packet()]
}
