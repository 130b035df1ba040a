//! `ct nat` on bytes (`net/netfilter/nf_nat_proto.c`): one end of a packet is made that of another tuple, and checksums are
//! mended for what changed. A checksum that was wrong stays wrong; SCTP's is computed anew, and so is that of an ICMP
//! error, whose inner packet is translated too.

use super::{extension, show};
use crate::{
    bytes::{array, be16, byte, put},
    checksum::{fold, mend, pseudo, sctp, sum},
    skb::Summed,
};
use flowmerge::conntrack::{Connection, Direction, Tuple, proto};
use std::net::IpAddr;

/// Which end of a packet is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The source.
    Src,
    /// The destination.
    Dst,
}

impl End {
    pub(super) fn other(self) -> End {
        match self {
            End::Src => End::Dst,
            End::Dst => End::Src,
        }
    }
}

/// Which ends of a connection's original packets are translated (`IPS_SRC_NAT`, `IPS_DST_NAT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) src: bool,
    pub(super) dst: bool,
}

impl Status {
    pub(super) fn of(connection: &Connection) -> Status {
        let (from, to) = (connection.original, connection.translated(Direction::Original));
        let src = (from.src, from.src_port) != (to.src, to.src_port);
        // An identifier belongs to neither end: whichever was translated, it is put in.
        let dst_port = if has_ports(from.proto) { from.dst_port != to.dst_port } else { from.src_port != to.src_port };
        Status { src, dst: from.dst != to.dst || dst_port }
    }

    pub(super) fn any(self) -> bool {
        self.src || self.dst
    }

    /// Whether this end of a packet of that direction is translated: in the reply direction it is the other one.
    pub(super) fn changes(self, end: End, direction: Direction) -> bool {
        match (end, direction) {
            (End::Src, Direction::Original) | (End::Dst, Direction::Reply) => self.src,
            _ => self.dst,
        }
    }
}

fn has_ports(number: u8) -> bool {
    !matches!(number, proto::ICMP | proto::ICMPV6)
}

/// Translates one end of the IP packet at the start of `packet` (`nf_nat_manip_pkt`). `None`: too short, to be dropped.
pub(super) fn translate(packet: &mut [u8], connection: &Connection, direction: Direction, end: End) -> Option<()> {
    manipulate(packet, 0, &connection.translated(direction), end)
}

/// Translates one end of an ICMP error about a packet of the connection, and the opposite end of the packet inside it
/// (`nf_nat_icmp_reply_translation`, `nf_nat_icmpv6_reply_translation`). `None`: to be dropped.
pub(super) fn translate_error(
    packet: &mut [u8],
    connection: &Connection,
    direction: Direction,
    end: End,
    summed: Summed,
) -> Option<()> {
    let ipv6 = connection.original.src.is_ipv6();
    let (_, at) = show::transport_of(packet, ipv6)?;
    let network = if ipv6 { 40 } else { 20 };
    packet.get(..at + 8 + network)?;
    if !show::icmp_is_sound(packet, ipv6, summed) {
        return None;
    }
    let status = Status::of(connection);
    let redirect = if ipv6 { 137 } else { 5 };
    if byte(packet, at)? == redirect && status.any() {
        return None;
    }
    if !status.changes(end, direction) {
        return Some(());
    }
    let opposite = connection.tuple(direction.opposite());
    manipulate(packet, at + 8, &opposite, end.other())?;
    put(packet, at + 2, &[0, 0])?;
    let from = match ipv6 {
        true => pseudo(address(packet, 8, true)?, address(packet, 24, true)?, proto::ICMPV6, packet.len() - at),
        false => 0,
    };
    let check = fold(sum(packet.get(at..)?, from));
    put(packet, at + 2, &check.to_be_bytes())?;
    // The packet itself is ICMP, whatever the connection is: its ports are not looked at.
    let target = Tuple { proto: if ipv6 { proto::ICMPV6 } else { proto::ICMP }, ..opposite.inverse() };
    manipulate(packet, 0, &target, end)
}

/// How far into a packet of the connection its translation looks; in an ICMP error, into the packet inside it.
pub(super) fn reach(packet: &[u8], connection: &Connection, about_error: bool) -> usize {
    let ipv6 = connection.original.src.is_ipv6();
    let behind = |packet: &[u8], number: u8| {
        let (_, at) = show::transport_of(packet, ipv6)?;
        let full = at + if number == proto::TCP { 20 } else { 12 };
        let has_more = matches!(number, proto::TCP | proto::SCTP | proto::DCCP) && full <= packet.len();
        Some(if has_more { full } else { at + 8 })
    };
    let reach = match about_error {
        false => behind(packet, connection.original.proto),
        true => show::transport_of(packet, ipv6).and_then(|(_, at)| {
            let inside = packet.get(at + 8..)?;
            Some(at + 8 + behind(inside, connection.original.proto)?)
        }),
    };
    reach.unwrap_or(0)
}

fn address(bytes: &[u8], at: usize, ipv6: bool) -> Option<IpAddr> {
    match ipv6 {
        true => array::<16>(bytes, at).map(IpAddr::from),
        false => array::<4>(bytes, at).map(IpAddr::from),
    }
}

/// Makes one end of the IP packet at `network` that of the target.
fn manipulate(bytes: &mut [u8], network: usize, target: &Tuple, end: End) -> Option<()> {
    let address = match end {
        End::Src => target.src,
        End::Dst => target.dst,
    };
    match address {
        IpAddr::V4(address) => {
            let header: [u8; 20] = array(bytes, network)?;
            let at = network + if end == End::Src { 12 } else { 16 };
            let old: [u8; 4] = array(bytes, at)?;
            let l4 = network + usize::from(header[0] & 0xf) * 4;
            l4_manipulate(bytes, l4, target, end, &old, &address.octets())?;
            let check = mend(be16(bytes, network + 10)?, &old, &address.octets());
            put(bytes, network + 10, &check.to_be_bytes())?;
            put(bytes, at, &address.octets())
        }
        IpAddr::V6(address) => {
            let header: [u8; 40] = array(bytes, network)?;
            let at = network + if end == End::Src { 8 } else { 24 };
            let old: [u8; 16] = array(bytes, at)?;
            // Without a transport header, or behind a later fragment's, the address alone changes.
            if let Some(found) = extension::skip(bytes, network + 40, header[6])
                && found.fragment & !7 == 0
            {
                l4_manipulate(bytes, found.at, target, end, &old, &address.octets())?;
            }
            put(bytes, at, &address.octets())
        }
    }
}

/// The transport header at `at`: the target's port, and a checksum mended for it and for the address that will change.
fn l4_manipulate(bytes: &mut [u8], at: usize, target: &Tuple, end: End, old: &[u8], new: &[u8]) -> Option<()> {
    let (port_at, port) = match end {
        End::Src => (at, target.src_port),
        End::Dst => (at + 2, target.dst_port),
    };
    let port = port.to_be_bytes();
    // The header that must be there, and for TCP and DCCP, whose inner headers in ICMP errors may be cut, where the
    // checksum is that is mended only if the whole header is there.
    let rest = bytes.len().saturating_sub(at);
    match target.proto {
        proto::UDP | proto::UDPLITE => {
            bytes.get(at..at + 8)?;
            let check = be16(bytes, at + 6)?;
            if check != 0 || target.proto == proto::UDPLITE {
                let check = mend(mend(check, old, new), &array::<2>(bytes, port_at)?, &port);
                let check = if check == 0 { 0xffff } else { check };
                put(bytes, at + 6, &check.to_be_bytes())?;
            }
            put(bytes, port_at, &port)
        }
        proto::TCP | proto::DCCP => {
            let (header, field) = if target.proto == proto::TCP { (20, 16) } else { (12, 6) };
            bytes.get(at..at + 8)?;
            let was: [u8; 2] = array(bytes, port_at)?;
            put(bytes, port_at, &port)?;
            if rest < header {
                return Some(());
            }
            let check = mend(mend(be16(bytes, at + field)?, old, new), &was, &port);
            put(bytes, at + field, &check.to_be_bytes())
        }
        proto::SCTP => {
            bytes.get(at..at + 8)?;
            put(bytes, port_at, &port)?;
            if rest < 12 {
                return Some(());
            }
            let check = sctp(bytes.get(at..)?);
            put(bytes, at + 8, &check)
        }
        proto::ICMP => {
            bytes.get(at..at + 8)?;
            // Only questions and answers have an identifier.
            if !matches!(byte(bytes, at)?, 0 | 8 | 13..=18) {
                return Some(());
            }
            identifier(bytes, at, target)
        }
        proto::ICMPV6 => {
            bytes.get(at..at + 8)?;
            let check = mend(be16(bytes, at + 2)?, old, new);
            put(bytes, at + 2, &check.to_be_bytes())?;
            match byte(bytes, at)? {
                128 | 129 => identifier(bytes, at, target),
                _ => Some(()),
            }
        }
        _ => Some(()),
    }
}

/// ICMP's identifier stands in the place of the source port, whichever end changes.
fn identifier(bytes: &mut [u8], at: usize, target: &Tuple) -> Option<()> {
    let identifier = target.src_port.to_be_bytes();
    let check = mend(be16(bytes, at + 2)?, &array::<2>(bytes, at + 4)?, &identifier);
    put(bytes, at + 2, &check.to_be_bytes())?;
    put(bytes, at + 4, &identifier)
}
