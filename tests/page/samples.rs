//! A packet for each header that fields and actions are about.

use flowmerge::{
    conntrack::{Connection, Tuple, proto},
    flower::{
        Tunnel,
        tunnel::{GeneveOption, TunnelFlags, TunnelOptions},
    },
};
use merge_model::checksum;
use std::net::IpAddr;

/// A packet that comes in.
pub struct Sample {
    pub frame: Vec<u8>,
    pub tunnel: Option<Tunnel>,
}

fn plain(parts: &[&[u8]]) -> Sample {
    let ethernet: &[u8] = &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    Sample { frame: [&[ethernet], parts].concat().concat(), tunnel: None }
}

/// An IPv4 header in front of this; `fragment` is its word of flags and offset.
fn ipv4(proto: u8, fragment: u16, behind: &[u8]) -> Vec<u8> {
    let length = (20 + behind.len() as u16).to_be_bytes();
    let [f, g] = fragment.to_be_bytes();
    let mut head = vec![0x45, 0xb9, length[0], length[1], 0, 1, f, g, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let sum = checksum::fold(checksum::sum(&head, 0)).to_be_bytes();
    head[10..12].copy_from_slice(&sum);
    [&head, behind].concat()
}

/// A TCP header with its checksum, for conntrack looks at that.
fn tcp_between(src: IpAddr, dst: IpAddr) -> Vec<u8> {
    let mut head = vec![3, 0xe8, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 16, 0, 0, 0, 0, 0];
    let sum = checksum::sum(&head, checksum::pseudo(src, dst, proto::TCP, head.len()));
    head[16..18].copy_from_slice(&checksum::fold(sum).to_be_bytes());
    head
}

fn ipv4_tcp() -> Vec<u8> {
    ipv4(proto::TCP, 0, &tcp_between([10, 0, 0, 1].into(), [10, 0, 0, 2].into()))
}

/// TCP over IPv4.
pub fn tcp() -> Sample {
    plain(&[&[8, 0], &ipv4_tcp()])
}

/// TCP over IPv6.
pub fn tcp6() -> Sample {
    let [src, dst] = [1, 2].map(|n| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]);
    let tcp = tcp_between(src.into(), dst.into());
    plain(&[&[0x86, 0xdd, 0x6b, 0x80, 0, 0, 0, 20, proto::TCP, 64], &src, &dst, &tcp])
}

/// UDP over IPv4.
pub fn udp() -> Sample {
    plain(&[&[8, 0], &ipv4(proto::UDP, 0, &[3, 0xe8, 0, 80, 0, 8, 0, 0])])
}

/// ICMP.
pub fn icmp() -> Sample {
    plain(&[&[8, 0], &ipv4(proto::ICMP, 0, &[8, 1, 0, 0, 0, 1, 0, 1])])
}

/// The first fragment of a datagram.
pub fn fragment() -> Sample {
    plain(&[&[8, 0], &ipv4(proto::UDP, 0x2000, &[3, 0xe8, 0, 80, 0, 16, 0, 0])])
}

/// ARP.
pub fn arp() -> Sample {
    let (of, to) = ([2, 0, 0, 0, 0, 1, 10, 0, 0, 1], [2, 0, 0, 0, 0, 2, 10, 0, 0, 2]);
    plain(&[&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &of, &to])
}

/// TCP behind a tag.
pub fn tagged() -> Sample {
    plain(&[&[0x81, 0, 0x60, 5, 8, 0], &ipv4_tcp()])
}

/// TCP behind two tags.
pub fn two_tags() -> Sample {
    plain(&[&[0x88, 0xa8, 0x60, 5, 0x81, 0, 0x40, 6, 8, 0], &ipv4_tcp()])
}

/// IPv4 behind as many MPLS entries.
pub fn mpls(entries: u8) -> Sample {
    let entry = |n: u8| [0, 1, n << 4 | 2 | u8::from(n == entries), 64 - n];
    let labels: Vec<u8> = (1..=entries).flat_map(entry).collect();
    plain(&[&[0x88, 0x47], &labels, &ipv4_tcp()])
}

/// IPv4 in PPPoE.
pub fn pppoe() -> Sample {
    plain(&[&[0x88, 0x64, 0x11, 0, 0, 7, 0, 42, 0, 0x21], &ipv4_tcp()])
}

/// L2TPv3 over IPv4.
pub fn l2tp() -> Sample {
    plain(&[&[8, 0], &ipv4(115, 0, &[0, 0, 0, 9, 1, 2, 3, 4])])
}

/// ESP.
pub fn esp() -> Sample {
    plain(&[&[8, 0], &ipv4(50, 0, &[0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])])
}

/// Connectivity fault management.
pub fn cfm() -> Sample {
    plain(&[&[0x89, 2, 5 << 5, 3, 0, 4], &[0; 40]])
}

/// TCP that came through Geneve over IPv4, or IPv6, with all the options that a key holds.
pub fn through_tunnel(v6: bool) -> Sample {
    let host = |n: u8| if v6 { IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)]) } else { [172, 16, 0, n].into() };
    let option = |kind: u8| GeneveOption { class: 0x102, kind, data: (1..=12).map(|n| n ^ kind).collect() };
    let tunnel = Tunnel {
        id: Some(7),
        src: host(1),
        dst: host(2),
        src_port: 40000,
        dst_port: 6081,
        tos: 4,
        ttl: 64,
        flags: TunnelFlags::CSUM | TunnelFlags::OAM,
        options: TunnelOptions::Geneve((1..=4).map(option).collect()),
    };
    Sample { tunnel: Some(tunnel), ..tcp() }
}

/// The connection of [`tcp`] in zone 5, its source translated, with mark and labels; established, or only beginning.
pub fn connection(begun: bool) -> Connection {
    let [host, server, outside] = [1, 2, 9].map(|n| IpAddr::from([10, 0, 0, n]));
    let original = Tuple { src: host, dst: server, proto: proto::TCP, src_port: 1000, dst_port: 80 };
    let reply = Tuple { src: outside, ..original }.inverse();
    let there = match begun {
        true => Connection::new(5, original, reply),
        false => Connection::established(5, original, reply),
    };
    Connection { mark: 0x10, labels: 0x20, ..there }
}
