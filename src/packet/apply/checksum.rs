//! Checksums: computed anew as `csum` does it, and mended for what changes as NAT does it.

use super::headers::{Network, Transport, Version, be16};
use crate::flower::{action::CsumFlags, field::ip_proto as proto};
use std::ops::Range;

/// The sum of 16-bit words in network order, not folded; an odd byte at the end counts as the high byte of a word.
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|w| u64::from(w[0]) << 8 | u64::from(w.get(1).copied().unwrap_or(0))).sum()
}

/// The checksum of a sum: folded, complemented. Of a sum that is not 0 it is never 0xffff, as in Linux (`csum_fold`).
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// `csum` (`net/sched/act_csum.c`). False if it drops the packet: cut off before what its headers promise.
pub(super) fn recompute(frame: &mut [u8], network: Network, flags: CsumFlags) -> bool {
    match network.version() {
        Version::V4 => recompute_ipv4(frame, network, flags).is_some(),
        Version::V6 => recompute_ipv6(frame, network, flags).is_some(),
        Version::Other => true,
    }
}

fn recompute_ipv4(frame: &mut [u8], network: Network, flags: CsumFlags) -> Option<()> {
    let at = network.at;
    frame.get(at..at + 20)?;
    let header = network.ipv4_header_length(frame)?;
    let transport = network.transport(frame)?;
    if !transport.later_fragment {
        let end = at + network.datagram_length(frame)?;
        let pseudo = sum(&frame[at + 12..at + 20]);
        recompute_transport(frame, transport.at..end, transport.proto, pseudo, Version::V4, flags)?;
    }
    if flags.contains(CsumFlags::IPV4) {
        frame.get(at..at + header)?;
        frame[at + 10..at + 12].fill(0);
        let check = fold(sum(&frame[at..at + header]));
        frame[at + 10..at + 12].copy_from_slice(&check.to_be_bytes());
    }
    Some(())
}

/// Unlike the dissector, `csum` stops at a fragment or authentication header.
fn recompute_ipv6(frame: &mut [u8], network: Network, flags: CsumFlags) -> Option<()> {
    let start = network.at;
    frame.get(start..start + 40)?;
    let pseudo = sum(&frame[start + 8..start + 40]);
    let (mut proto, mut at) = (frame[start + 6], start + 40);
    let mut end = start + network.datagram_length(frame)?;
    loop {
        match proto {
            0 | 43 | 60 => {
                let length = (usize::from(*frame.get(at + 1)?) + 1) * 8;
                let options = frame.get(at..at + length)?;
                if proto == 0
                    && let Some(jumbo) = jumbo_length(options)?
                {
                    end = (start + 40).checked_add(jumbo)?;
                }
                proto = frame[at];
                at += length;
                // Nothing behind the last header: nothing to do.
                if at >= frame.len() {
                    return Some(());
                }
            }
            _ => return recompute_transport(frame, at..end, proto, pseudo, Version::V6, flags),
        }
    }
}

/// The length that a jumbo option gives in a hop-by-hop header, `Some(None)` without one, `None` if it is malformed.
fn jumbo_length(header: &[u8]) -> Option<Option<usize>> {
    let mut at = 2;
    while header.len() > at + 1 {
        at += match header[at] {
            0 => 1,
            0xc2 => {
                let value = header.get(at + 2..at + 6)?.first_chunk::<4>()?;
                if header[at + 1] != 4 || at % 4 != 2 {
                    return None;
                }
                return Some(usize::try_from(u32::from_be_bytes(*value)).ok());
            }
            _ => usize::from(header[at + 1]) + 2,
        };
    }
    Some(None)
}

/// Where a protocol keeps its checksum, and how long its header is.
fn checksum_place(proto: u8, version: Version) -> Option<(CsumFlags, usize, usize)> {
    match (proto, version) {
        (proto::TCP, _) => Some((CsumFlags::TCP, 16, 20)),
        (proto::UDP, _) => Some((CsumFlags::UDP, 6, 8)),
        (proto::UDPLITE, _) => Some((CsumFlags::UDPLITE, 6, 8)),
        (proto::ICMP, Version::V4) | (proto::ICMPV6, Version::V6) => Some((CsumFlags::ICMP, 2, 8)),
        (proto::IGMP, Version::V4) => Some((CsumFlags::IGMP, 2, 8)),
        (proto::SCTP, _) => Some((CsumFlags::SCTP, 8, 12)),
        _ => None,
    }
}

fn recompute_transport(
    frame: &mut [u8],
    range: Range<usize>,
    proto: u8,
    addresses: u64,
    version: Version,
    flags: CsumFlags,
) -> Option<()> {
    let Some((flag, field, header)) = checksum_place(proto, version) else {
        return Some(());
    };
    if !flags.contains(flag) {
        return Some(());
    }
    if proto == proto::SCTP {
        // The checksum is over all that is there, trailing bytes too, whatever the IP length says.
        frame.get(range.clone())?;
        let at = range.start;
        let packet = frame.get_mut(at..).filter(|p| p.len() >= header && range.len() >= header)?;
        packet[field..field + 4].fill(0);
        let check = crc32c(packet).to_le_bytes();
        packet[field..field + 4].copy_from_slice(&check);
        return Some(());
    }
    let segment = frame.get_mut(range).filter(|s| s.len() >= header)?;
    let udp = matches!(proto, proto::UDP | proto::UDPLITE);
    let mut covered = segment.len();
    if udp {
        let length = usize::from(be16(segment, 4)?);
        let obscure = match proto {
            proto::UDP => length != covered,
            _ => length != 0 && !(8..=covered).contains(&length),
        };
        if proto == proto::UDP && version == Version::V4 && be16(segment, field)? == 0 {
            return Some(());
        }
        if obscure {
            // Linux has cleared the field by the time it notices.
            segment[field..field + 2].fill(0);
            return Some(());
        }
        if length != 0 {
            covered = length;
        }
    }
    // What the pseudo header says of the length: UDP-Lite puts its coverage there, also where that is 0.
    let said = if udp { usize::from(be16(segment, 4)?) } else { covered };
    let pseudo = match proto {
        proto::ICMP | proto::IGMP => 0,
        _ => addresses + u64::from(proto) + said as u64,
    };
    segment[field..field + 2].fill(0);
    let mut check = fold(sum(&segment[..covered]) + pseudo);
    if udp && check == 0 {
        check = 0xffff;
    }
    segment[field..field + 2].copy_from_slice(&check.to_be_bytes());
    Some(())
}

/// CRC-32C (RFC 9260, appendix A), bit by bit: frames with SCTP are rare.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

/// What is to be mended in a frame when words of it change (RFC 1624, equation 3; `net/netfilter/nf_nat_proto.c`).
pub(super) struct Mending {
    network: Network,
    /// The fields that a transport checksum covers, and where it stands.
    transport: Option<Covered>,
}

struct Covered {
    header: Transport,
    /// The checksum's first byte in the frame.
    field: usize,
}

impl Mending {
    /// `None` for a frame without an IP header.
    pub fn of(frame: &[u8], network: Network) -> Option<Mending> {
        let header = match network.version() {
            Version::V4 => 20,
            Version::V6 => 40,
            Version::Other => return None,
        };
        frame.get(network.at..network.at + header)?;
        let transport = network.transport(frame).filter(|t| !t.later_fragment).and_then(|header| {
            // SCTP's is no sum, and NAT computes it anew; the table's other protocols are not translated.
            let (_, field, length) =
                checksum_place(header.proto, network.version()).filter(|_| header.proto != proto::SCTP)?;
            frame.get(header.at..header.at + length)?;
            let field = header.at + field;
            Some(Covered { header, field })
        });
        Some(Mending { network, transport })
    }

    /// Mends for a word at `at` that was `old` and is `new`. The checksum fields themselves are not looked at.
    pub fn mend(&self, frame: &mut [u8], at: usize, old: [u8; 4], new: [u8; 4]) {
        let network = self.network.at;
        if self.network.version() == Version::V4 {
            let end = network + self.network.ipv4_header_length(frame).unwrap_or(20);
            let field = network + 10;
            if let Some(delta) = delta(network..end, field, at, old, new) {
                update(frame, field, delta);
            }
        }
        if let Some(Covered { header, field }) = &self.transport {
            let addresses = match self.network.version() {
                Version::V4 => network + 12..network + 20,
                _ => network + 8..network + 40,
            };
            let pseudo = match header.proto {
                proto::ICMP | proto::IGMP => None,
                _ => delta(addresses, *field, at, old, new),
            };
            let own = delta(header.at..frame.len(), *field, at, old, new);
            if pseudo.is_none() && own.is_none() {
                return;
            }
            // A UDP datagram without checksum stays so.
            if header.proto == proto::UDP && be16(frame, *field) == Some(0) {
                return;
            }
            update(frame, *field, pseudo.unwrap_or(0) + own.unwrap_or(0));
            if matches!(header.proto, proto::UDP | proto::UDPLITE) && be16(frame, *field) == Some(0) {
                frame[*field..*field + 2].fill(0xff);
            }
        }
    }
}

/// By how much the sum over `region` changes when the word at `at` does; `None` if it has no byte there. The two bytes
/// at `field`, the checksum, do not count.
fn delta(region: Range<usize>, field: usize, at: usize, old: [u8; 4], new: [u8; 4]) -> Option<i64> {
    let mut delta = None;
    for i in 0..4 {
        let byte = at + i;
        if region.contains(&byte) && !(field..field + 2).contains(&byte) {
            let weight = if (byte - region.start).is_multiple_of(2) { 256 } else { 1 };
            *delta.get_or_insert(0) += (i64::from(new[i]) - i64::from(old[i])) * weight;
        }
    }
    delta
}

/// Adds to the sum behind the checksum at `field`.
fn update(frame: &mut [u8], field: usize, delta: i64) {
    if let Some(&[a, b]) = frame.get(field..field + 2) {
        let sum = i64::from(!u16::from_be_bytes([a, b])) + delta;
        // Linux's sums are never 0, for they began with ones: a multiple of 0xffff is 0xffff, its checksum 0.
        let check = match sum.rem_euclid(0xffff) {
            0 => 0,
            sum => !(sum as u16),
        };
        frame[field..field + 2].copy_from_slice(&check.to_be_bytes());
    }
}
