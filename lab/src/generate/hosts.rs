//! Hosts that answer what arrives, so that connections come about, carry data and end: not a stack, but enough of one that
//! conntrack takes the packets for those of a connection. And now and then something no host would send.

use super::{
    dice::Dice,
    packets,
    spec::{Spec, ip},
};
use flowmerge::{
    flower::{Field, Port, ethertype as et},
    packet::dissect::{ETHERNET, VLAN, arrived, is_vlan},
};

mod flag {
    pub const FIN: u16 = 1;
    pub const SYN: u16 = 2;
    pub const RST: u16 = 4;
    pub const PSH: u16 = 8;
    pub const ACK: u16 = 16;
}

/// The answer to a frame that came out of `port`.
pub fn answer(dice: &mut Dice, port: Port, frame: &[u8]) -> Option<Spec> {
    let mut spec = mirrored(port, frame)?;
    let transport = transport(frame)?;
    let proto = spec.key.get(Field::IpProto) as u8;
    if dice.percent(4) && proto != ip::ICMP && proto != ip::ICMPV6 {
        return Some(error(dice, spec, frame));
    }
    packets::dress(&mut spec, dice);
    match proto {
        ip::TCP => tcp(&mut spec, dice, transport)?,
        ip::ICMP | ip::ICMPV6 => {
            let kind = match spec.key.get(Field::IcmpType) {
                8 => 0,
                128 => 129,
                13 => 14,
                _ => return None,
            };
            spec.key.set(Field::IcmpType, kind);
            spec.id = u16::from_be_bytes(*transport.get(4..)?.first_chunk()?);
        }
        ip::SCTP => sctp(&mut spec, dice, transport)?,
        _ => {}
    }
    Some(spec)
}

/// Whether an answer leaves both sides free to go on: UDP, or TCP that neither opens nor closes.
pub fn goes_on(frame: &[u8]) -> bool {
    let key = arrived(frame);
    let flags = key.get(Field::TcpFlags) as u16;
    match key.get(Field::IpProto) as u8 {
        ip::TCP => flags & (flag::ACK | flag::SYN | flag::FIN | flag::RST) == flag::ACK,
        ip::UDP => true,
        _ => false,
    }
}

/// The next packet of the one who sent this frame into `port`.
pub fn again(dice: &mut Dice, port: Port, frame: &[u8]) -> Option<Spec> {
    let mut spec = mirrored(port, frame)?;
    turn(&mut spec);
    let transport = transport(frame)?;
    packets::dress(&mut spec, dice);
    if spec.key.get(Field::IpProto) as u8 == ip::TCP {
        let (seq, ack) = numbers(transport)?;
        let flags = spec.key.get(Field::TcpFlags) as u16;
        let counted = u32::from(flags & flag::SYN != 0) + u32::from(flags & flag::FIN != 0);
        (spec.seq, spec.ack) = (seq.wrapping_add(data(frame, transport) + counted), ack);
        if dice.percent(70) {
            spec.key.set(Field::TcpFlags, u128::from(flag::ACK | if spec.payload.is_empty() { 0 } else { flag::PSH }));
        }
        odd(&mut spec, dice);
    }
    Some(spec)
}

/// A packet in the other direction, with the frame's tags.
fn mirrored(port: Port, frame: &[u8]) -> Option<Spec> {
    let key = arrived(frame);
    if !matches!(key.get(Field::EthType) as u16, et::IPV4 | et::IPV6) || key.get(Field::IpFlags) != 0 {
        return None;
    }
    let mut spec = Spec::new(port);
    spec.key = key;
    turn(&mut spec);
    spec.key.set(Field::IpTtl, 64);
    Some(spec)
}

fn turn(spec: &mut Spec) {
    use Field::*;
    for (a, b) in [(EthSrc, EthDst), (Ipv4Src, Ipv4Dst), (Ipv6Src, Ipv6Dst), (SrcPort, DstPort)] {
        let (x, y) = (spec.key.get(a), spec.key.get(b));
        spec.key.set(a, y);
        spec.key.set(b, x);
    }
}

/// The network header of a frame, under its tags.
fn network(frame: &[u8]) -> Option<&[u8]> {
    let mut at = ETHERNET;
    while is_vlan(u16::from_be_bytes(*frame.get(at - 2..)?.first_chunk()?)) {
        at += VLAN;
    }
    if frame.get(at - 2..at) == Some(&et::PPPOE.to_be_bytes()[..]) {
        at += 8;
    }
    frame.get(at..)
}

/// What follows the IP header; of IPv6 without extension headers.
fn transport(frame: &[u8]) -> Option<&[u8]> {
    let network = network(frame)?;
    match network.first()? >> 4 {
        4 => network.get(usize::from(network[0] & 0xf) * 4..),
        _ if matches!(network.get(6)?, 0 | 43 | 60 | 51 | 44) => None,
        _ => network.get(40..),
    }
}

fn numbers(tcp: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| Some(u32::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
    Some((number(4)?, number(8)?))
}

/// Bytes of data in a TCP segment, padding not counted.
fn data(frame: &[u8], tcp: &[u8]) -> u32 {
    let Some(network) = network(frame) else { return 0 };
    let there = match network.first().map(|first| first >> 4) {
        Some(4) => {
            usize::from(u16::from_be_bytes([network[2], network[3]])).saturating_sub(usize::from(network[0] & 0xf) * 4)
        }
        _ => usize::from(u16::from_be_bytes([network[4], network[5]])),
    };
    let header = tcp.get(12).map_or(20, |&byte| usize::from(byte >> 4) * 4);
    there.saturating_sub(header) as u32
}

fn tcp(spec: &mut Spec, dice: &mut Dice, segment: &[u8]) -> Option<()> {
    let (seq, ack) = numbers(segment)?;
    let flags = spec.key.get(Field::TcpFlags) as u16;
    let length = segment.len().saturating_sub(usize::from(segment.get(12)? >> 4) * 4) as u32;
    let counted = u32::from(flags & flag::SYN != 0) + u32::from(flags & flag::FIN != 0);
    let next = seq.wrapping_add(length + counted);
    let reply = match flags & (flag::SYN | flag::ACK | flag::FIN | flag::RST) {
        flag::SYN => {
            (spec.seq, spec.ack) = (5000, next);
            spec.payload.clear();
            if dice.percent(8) { flag::RST | flag::ACK } else { flag::SYN | flag::ACK }
        }
        f if f & flag::RST != 0 => return None,
        f if f & flag::FIN != 0 => {
            (spec.seq, spec.ack) = (ack, next);
            if dice.percent(60) { flag::FIN | flag::ACK } else { flag::ACK }
        }
        _ => {
            (spec.seq, spec.ack) = (ack, next);
            match dice.below(100) {
                0..86 => flag::ACK | if spec.payload.is_empty() { 0 } else { flag::PSH },
                86..94 => flag::FIN | flag::ACK,
                94..96 => flag::RST,
                _ => flag::ACK,
            }
        }
    };
    spec.key.set(Field::TcpFlags, reply.into());
    odd(spec, dice);
    Some(())
}

/// Now and then a number that does not fit, or flags that nobody sends.
fn odd(spec: &mut Spec, dice: &mut Dice) {
    match dice.below(60) {
        0 => spec.seq = spec.seq.wrapping_add(1 << dice.below(31)),
        1 => spec.seq = spec.seq.wrapping_sub(1 << dice.below(31)),
        2 => spec.ack = spec.ack.wrapping_add(1 << dice.below(31)),
        3 => spec.ack = spec.ack.wrapping_sub(1 << dice.below(31)),
        4 => {
            let flags = dice.bits(0xfff);
            spec.key.set(Field::TcpFlags, flags);
        }
        5 => spec.window = dice.below(3) as u16,
        _ => {}
    }
}

fn sctp(spec: &mut Spec, dice: &mut Dice, packet: &[u8]) -> Option<()> {
    const INIT: u8 = 1;
    const INIT_ACK: u8 = 2;
    const COOKIE_ECHO: u8 = 10;
    const COOKIE_ACK: u8 = 11;
    let tag = u32::from_be_bytes(*packet.get(4..)?.first_chunk()?);
    let initial = u32::from_be_bytes(*packet.get(16..)?.first_chunk()?);
    let (kind, with) = match *packet.get(12)? {
        INIT => (INIT_ACK, initial),
        INIT_ACK => (COOKIE_ECHO, initial),
        COOKIE_ECHO => (COOKIE_ACK, tag),
        7 => (8, tag),
        8 => (14, tag),
        _ => (*dice.pick(&[0, 3, 7, 6]), tag),
    };
    spec.seq = with;
    spec.payload = packets::chunk(kind, dice);
    Some(())
}

/// An ICMP error about a frame.
fn error(dice: &mut Dice, mut spec: Spec, frame: &[u8]) -> Spec {
    let network = network(frame).unwrap_or_default();
    spec.payload = network[..network.len().min(*dice.pick(&[28, 28, 60, 48, 20]))].to_vec();
    let v6 = spec.key.get(Field::EthType) as u16 == et::IPV6;
    let (proto, kind) = if v6 { (ip::ICMPV6, 1) } else { (ip::ICMP, *dice.pick(&[3, 11])) };
    spec.key.set(Field::IpProto, proto.into());
    spec.key.set(Field::IcmpType, kind);
    spec.key.set(Field::IcmpCode, 1);
    spec
}
