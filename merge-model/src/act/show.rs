//! What a packet shows to conntrack, and what conntrack refuses to look at.
//!
//! `nf_conntrack_in` at the PRE_ROUTING hook, which is the one `ct` says it is: there `nf_conntrack_checksum` (on by default) has
//! checksums verified, so that a corrupt packet has no connection.

use super::extension;
use crate::{
    bytes::{array, be16},
    checksum::{self, fold, pseudo, sum},
    conntrack::{Glimpse, Shown, Transport, dccp, sctp, tcp::Segment},
    skb::{Skb, Summed},
};
use flowmerge::{
    conntrack::{Tuple, proto},
    packet::dissect::ethertype,
};
use std::net::IpAddr;

/// What conntrack makes of a packet's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It is looked up.
    Shown(Shown),
    /// It has no connection.
    Invalid,
    /// Of a kind that is never tracked: neighbour discovery and multicast listener messages.
    Untracked,
}

/// Looks at the IP packet `packet`, which ends where its header says; what is known of its checksum becomes more.
pub(super) fn look(packet: &[u8], ipv6: bool, summed: &mut Summed) -> Look {
    let Some(l3) = L3::of(packet, 0, ipv6) else {
        return Look::Invalid;
    };
    let segment = packet.get(l3.at..).unwrap_or_default();
    match (l3.number, ipv6) {
        (proto::ICMP, false) => icmp(packet, &l3, segment, summed),
        (proto::ICMPV6, true) => icmpv6(packet, &l3, segment, summed),
        (proto::ICMP | proto::ICMPV6, _) => Look::Invalid,
        _ => transport(packet, &l3, segment, summed).map_or(Look::Invalid, Look::Shown),
    }
}

/// What a frame, as on the wire, shows to conntrack, tagged or not; `None` if conntrack does not look it up. For those who follow
/// a frame outside of TC.
pub fn shown(frame: &[u8]) -> Option<Shown> {
    let mut skb = Skb::untagged(frame)?;
    let ipv6 = match skb.protocol {
        ethertype::IPV4 => false,
        ethertype::IPV6 => true,
        _ => return None,
    };
    super::ct::trim(&mut skb, ipv6)?;
    match look(skb.packet(), ipv6, &mut Summed::No) {
        Look::Shown(shown) => Some(shown),
        Look::Invalid | Look::Untracked => None,
    }
}

/// What an IP packet shows to act_ct's flow table (`tcf_ct_flow_table_fill_tuple_ipv4`, `..._ipv6`). `None` for what the table
/// does not hold: other protocols, fragments, IPv4 options, IPv6 extension headers, a TTL at its end.
pub(super) fn glimpse(packet: &[u8], ipv6: bool) -> Option<Glimpse> {
    let (at, number, ttl) = match ipv6 {
        false => {
            let header: [u8; 20] = array(packet, 0)?;
            let plain = header[0] & 0xf == 5 && be16(&header, 6)? & 0x3fff == 0;
            plain.then_some((20, header[9], header[8]))?
        }
        true => {
            let header: [u8; 40] = array(packet, 0)?;
            (40, header[6], header[7])
        }
    };
    let segment = packet.get(at..)?;
    let ends = match number {
        proto::TCP => array::<20>(segment, 0)?[13] & 5 != 0,
        proto::UDP => false,
        _ => return None,
    };
    let address = |v4: usize, v6: usize| match ipv6 {
        false => array::<4>(packet, v4).map(IpAddr::from),
        true => array::<16>(packet, v6).map(IpAddr::from),
    };
    let (src_port, dst_port) = (be16(segment, 0)?, be16(segment, 2)?);
    let tuple = Tuple { src: address(12, 8)?, dst: address(16, 24)?, proto: number, src_port, dst_port };
    (ttl > 1).then_some(Glimpse { tuple, ends })
}

/// The network layer of a packet, possibly of one inside another.
struct L3 {
    src: IpAddr,
    dst: IpAddr,
    number: u8,
    /// Where the next layer starts.
    at: usize,
    /// The sum of an IPv4 header. The kernel verifies the checksum of what follows over the whole packet, in which a right
    /// header comes to nothing; behind a wrong one all else is wrong, too.
    header: u64,
}

impl L3 {
    /// `get_l4proto` and the addresses.
    fn of(bytes: &[u8], network: usize, ipv6: bool) -> Option<L3> {
        if ipv6 {
            let header: [u8; 40] = array(bytes, network)?;
            let end = extension::skip(bytes, network + 40, header[6])?;
            let address = |at| array::<16>(&header, at).map(IpAddr::from);
            return (end.fragment & !7 == 0).then_some(L3 {
                src: address(8)?,
                dst: address(24)?,
                number: end.number,
                at: end.at,
                header: 0,
            });
        }
        let header: [u8; 20] = array(bytes, network)?;
        let at = network + usize::from(header[0] & 0xf) * 4;
        let later_fragment = be16(&header, 6)? & 0x1fff != 0;
        let address = |at| array::<4>(&header, at).map(IpAddr::from);
        (!later_fragment && at > 0 && at <= bytes.len()).then_some(L3 {
            src: address(12)?,
            dst: address(16)?,
            number: header[9],
            at,
            header: sum(bytes.get(network..at).unwrap_or_default(), 0),
        })
    }

    /// The tuple (`nf_ct_get_tuple`).
    fn tuple(&self, bytes: &[u8]) -> Option<Tuple> {
        let (src_port, dst_port) = match self.number {
            proto::ICMP | proto::ICMPV6 => {
                let header: [u8; 8] = array(bytes, self.at)?;
                (be16(&header, 4)?, be16(&header, 0)?)
            }
            proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP | proto::DCCP => {
                (be16(bytes, self.at)?, be16(bytes, self.at + 2)?)
            }
            // GRE's call number counts only to a kernel with a helper for PPTP (`NF_CT_PROTO_GRE`).
            _ => (0, 0),
        };
        Some(Tuple { src: self.src, dst: self.dst, proto: self.number, src_port, dst_port })
    }

    /// Whether the checksum of the whole segment is right, as far as the kernel knows (`nf_checksum`).
    fn is_sound(&self, packet: &[u8], summed: &mut Summed) -> bool {
        let segment = packet.get(self.at..).unwrap_or_default();
        let pseudo = pseudo(self.src, self.dst, self.number, segment.len());
        let is_plain = self.number == proto::ICMP;
        if *summed == Summed::Right {
            return true;
        }
        if let Summed::Sum(total) = *summed {
            let right = match self.src.is_ipv6() {
                // The sum is of all that was there, and the header is taken from it as it is now.
                true => {
                    let header = packet.get(..self.at).unwrap_or_default();
                    fold(total + u64::from(fold(sum(header, 0))) + pseudo) == 0
                }
                false => is_plain && fold(total) == 0 || fold(total + pseudo) == 0,
            };
            if right {
                *summed = Summed::Right;
                return true;
            }
        }
        *summed = Summed::Sum(sum(packet, 0));
        match is_plain {
            true => fold(sum(segment, self.header)) == 0,
            false => self.verifies(segment, segment.len()),
        }
    }

    /// Whether the checksum of a segment of that length, with a pseudo header, is right over its first `covered` bytes.
    fn verifies(&self, segment: &[u8], covered: usize) -> bool {
        let from = self.header + pseudo(self.src, self.dst, self.number, segment.len());
        segment.get(..covered).is_some_and(|covered| fold(sum(covered, from)) == 0)
    }
}

fn transport(packet: &[u8], l3: &L3, segment: &[u8], summed: &mut Summed) -> Option<Shown> {
    let all = segment.len();
    let mut transport = Transport::Stateless;
    match l3.number {
        proto::TCP => {
            let read = Segment::read(segment)?;
            (l3.is_sound(packet, summed) && is_sane(read.flags)).then_some(())?;
            transport = Transport::Tcp(read);
        }
        proto::UDP => {
            let header: [u8; 8] = array(segment, 0)?;
            let len = usize::from(be16(&header, 4)?);
            let sound = (8..=all).contains(&len) && (header[6..8] == [0, 0] || l3.is_sound(packet, summed));
            sound.then_some(())?;
        }
        proto::UDPLITE => {
            let header: [u8; 8] = array(segment, 0)?;
            let covered = match be16(&header, 4)? {
                0 => all,
                covered => usize::from(covered),
            };
            // The kernel verifies it with UDP's number in the pseudo header.
            let as_udp = L3 { number: proto::UDP, ..*l3 };
            let sound = (8..=all).contains(&covered) && header[6..8] != [0, 0] && as_udp.verifies(segment, covered);
            sound.then_some(())?;
        }
        proto::SCTP => {
            let header: [u8; 12] = array(segment, 0)?;
            (*summed != Summed::No || header[8..12] == checksum::sctp(segment)).then_some(())?;
            *summed = Summed::Right;
            transport = Transport::Sctp(sctp::Packet::read(segment)?);
        }
        proto::DCCP => {
            let header: [u8; 12] = array(segment, 0)?;
            let len = usize::from(header[4]) * 4;
            let covered = match header[5] & 0xf {
                0 => all,
                words => (usize::from(words) - 1) * 4,
            };
            let sound = (12..=all).contains(&len) && covered <= all && l3.verifies(segment, covered);
            sound.then_some(())?;
            transport = Transport::Dccp(dccp::Packet::read(segment)?);
        }
        _ => {}
    }
    // Ports and the like lie at the segment's start.
    let tuple = L3 { at: 0, ..*l3 }.tuple(segment)?;
    Some(Shown { tuple, transport, inner: None })
}

/// Whether conntrack knows this combination of TCP flags (`tcp_valid_flags`); ECE, CWR and PSH do not matter.
fn is_sane(flags: u8) -> bool {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    const URG: u8 = 32;
    const NEITHER: u8 = 0x3f & !8;
    [SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG].contains(&(flags & NEITHER))
}

fn icmp(packet: &[u8], l3: &L3, segment: &[u8], summed: &mut Summed) -> Look {
    // NR_ICMP_TYPES is the highest that conntrack knows.
    let known = array::<8>(segment, 0).filter(|header| l3.is_sound(packet, summed) && header[0] <= 18);
    match known {
        None => Look::Invalid,
        Some([3 | 4 | 5 | 11 | 12, ..]) => error(packet, l3, l3.at + 8, false),
        Some(_) => question(packet, l3),
    }
}

fn icmpv6(packet: &[u8], l3: &L3, segment: &[u8], summed: &mut Summed) -> Look {
    let Some(header) = array::<8>(segment, 0).filter(|_| l3.is_sound(packet, summed)) else {
        return Look::Invalid;
    };
    match header[0] {
        130..=136 | 143 => Look::Untracked,
        137 => redirect(packet, l3, segment),
        128.. => question(packet, l3),
        _ => error(packet, l3, l3.at + 8, true),
    }
}

/// A neighbour redirect: an error message if it carries the packet it is about.
fn redirect(packet: &[u8], l3: &L3, segment: &[u8]) -> Look {
    const HEADER: usize = 40;
    if segment.len() < HEADER {
        return Look::Invalid;
    }
    if segment[1] != 0 {
        return question(packet, l3);
    }
    let from_link = matches!(l3.src, IpAddr::V6(src) if src.is_unicast_link_local());
    match array::<2>(segment, HEADER) {
        Some([kind, len]) if packet[7] == 255 && from_link && len > 0 => match kind {
            4 => error(packet, l3, l3.at + HEADER + 8, true),
            _ => question(packet, l3),
        },
        _ => Look::Invalid,
    }
}

/// A message of its own.
fn question(packet: &[u8], l3: &L3) -> Look {
    let shown =
        l3.tuple(packet).filter(has_inverse).map(|tuple| Shown { tuple, transport: Transport::Stateless, inner: None });
    shown.map_or(Look::Invalid, Look::Shown)
}

/// Whether there is an answer to this: of ICMP only some types have one (`invmap`).
fn has_inverse(tuple: &Tuple) -> bool {
    let kind = tuple.dst_port >> 8;
    match tuple.proto {
        proto::ICMP => matches!(kind, 0 | 8 | 13..=18),
        proto::ICMPV6 => matches!(kind, 128 | 129 | 139 | 140),
        _ => true,
    }
}

/// An error about the packet at `inner`.
fn error(packet: &[u8], l3: &L3, inner: usize, ipv6: bool) -> Look {
    let about = L3::of(packet, inner, ipv6).and_then(|l3| l3.tuple(packet)).filter(has_inverse);
    let shown = about.zip(l3.tuple(packet)).map(|(inner, tuple)| Shown {
        tuple,
        transport: Transport::Stateless,
        inner: Some(inner),
    });
    shown.map_or(Look::Invalid, Look::Shown)
}

/// The number of the transport header of an IP packet and where it is, if conntrack finds it.
pub(super) fn transport_of(packet: &[u8], ipv6: bool) -> Option<(u8, usize)> {
    L3::of(packet, 0, ipv6).map(|l3| (l3.number, l3.at))
}

/// Whether NAT takes the packet's ICMP checksum to be right. Conntrack has looked at it before; what was changed since is
/// found only if nothing is known of the checksum.
pub(super) fn icmp_is_sound(packet: &[u8], ipv6: bool, summed: Summed) -> bool {
    let is_sound = |l3: L3| l3.is_sound(packet, &mut Summed::No);
    summed != Summed::No || L3::of(packet, 0, ipv6).is_some_and(is_sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_shows_the_same_under_tags() {
        let udp = [&[0x1f, 0x40, 0, 53, 0, 8, 0, 0][..]].concat();
        let ip = [&[0x45, 0, 0, 28, 0, 7, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2][..], &udp].concat();
        let frame = |tags: &[u8]| [&[2; 12], tags, &[8, 0], &ip].concat();
        let plain = shown(&frame(&[])).expect("conntrack looks UDP up");
        assert_eq!((plain.tuple.src_port, plain.tuple.dst_port), (8000, 53));
        assert_eq!(shown(&frame(&[0x81, 0, 0, 5])), Some(plain.clone()));
        assert_eq!(shown(&frame(&[0x88, 0xa8, 0, 20, 0x81, 0, 0, 30])), Some(plain));
        assert_eq!(shown(&frame(&[0x81, 0])[..16]), None, "cut off");
    }
}
