//! What software judges and a table does not look at: the known differences of merged filters, by the packet's bytes.
//!
//! Conntrack finds no connection for a packet whose checksum or lengths are wrong, or that is outside of its connection's
//! sequence window, and `csum` drops what is too short to be summed up; a table that matches headers takes it for any other
//! packet. Such a packet is told apart here by its own bytes, so that nothing else passes under this name. In a replay it goes
//! to software, and is counted.

use flowmerge::{
    conntrack::proto,
    packet::dissect::{ETHERNET, VLAN, ethertype, is_vlan},
};
use merge_model::checksum::{fold, pseudo, sum};
use serde::Serialize;
use std::{fmt, net::IpAddr};

/// IGMP, which `csum` sums up.
const IGMP: u8 = 2;

/// Why software makes something else of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// The checksum of TCP or UDP is wrong, or that of the IPv4 header, over which the kernel sums up as well.
    Checksum,
    /// The IP, TCP or UDP header says another length than there is, or is cut off itself.
    Length,
    /// TCP outside of the window, as far as nothing else is wrong with it.
    Window,
    /// Bytes follow the datagram. `ct` cuts them off, and what is then redirected to a port's ingress is counted there without them.
    Trailing,
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Known::Checksum => "wrong checksum",
            Known::Length => "wrong length",
            Known::Window => "outside the TCP window",
            Known::Trailing => "trailing bytes counted at a second port",
        })
    }
}

/// Why conntrack may find no connection for a TCP or UDP packet that belongs to one. `None` if there is no reason known.
pub fn known(frame: &[u8]) -> Option<Known> {
    let packet = Packet::of(frame)?;
    if !matches!(packet.proto, proto::TCP | proto::UDP) {
        return None;
    }
    if !packet.has_its_length() {
        return Some(Known::Length);
    }
    if !packet.has_its_checksum() {
        return Some(Known::Checksum);
    }
    (packet.proto == proto::TCP).then_some(Known::Window)
}

/// Whether a frame holds less of an IP packet, or of its transport header, than they say.
pub fn has_wrong_length(frame: &[u8]) -> bool {
    match Packet::of(frame) {
        Some(packet) => !packet.has_its_length(),
        None => headers(frame).is_some_and(|(kind, _)| matches!(kind, ethertype::IPV4 | ethertype::IPV6)),
    }
}

/// Whether a frame is UDP without a checksum, as UDP may be.
pub fn has_no_checksum(frame: &[u8]) -> bool {
    Packet::of(frame).is_some_and(|packet| packet.has_none())
}

/// How many bytes follow the IP datagram, which `ct` cuts off.
pub fn trailing(frame: &[u8]) -> usize {
    Packet::of(frame).map_or(0, |packet| packet.trailing)
}

/// A frame with 0 for the checksums of IPv4, TCP and UDP.
pub fn without_checksums(frame: &[u8]) -> Vec<u8> {
    let mut out = frame.to_vec();
    let Some((kind, packet)) = headers(frame) else { return out };
    let at = frame.len() - packet.len();
    let mut clear = |from: usize| out.iter_mut().skip(from).take(2).for_each(|byte| *byte = 0);
    if kind == ethertype::IPV4 {
        clear(at + 10);
    }
    if let Some(Packet { proto, segment_at, .. }) = Packet::of(frame) {
        match proto {
            proto::TCP => clear(at + segment_at + 16),
            proto::UDP => clear(at + segment_at + 6),
            _ => {}
        }
    }
    out
}

/// The ethertype under the tags, and what follows it.
pub fn headers(frame: &[u8]) -> Option<(u16, &[u8])> {
    let mut at = ETHERNET;
    loop {
        match u16::from_be_bytes(*frame.get(at - 2..)?.first_chunk()?) {
            tag if is_vlan(tag) => at += VLAN,
            kind => return Some((kind, frame.get(at..)?)),
        }
    }
}

/// An IP packet whose own headers are all there.
struct Packet<'a> {
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    /// The sum of the IPv4 header, whose complement is 0 if its checksum is right.
    header: u64,
    /// The transport header and what follows, up to the end of the datagram.
    segment: &'a [u8],
    /// Where that begins in the packet.
    segment_at: usize,
    /// The datagram ends before its header says.
    cut: bool,
    trailing: usize,
}

impl<'a> Packet<'a> {
    fn of(frame: &'a [u8]) -> Option<Packet<'a>> {
        match headers(frame)? {
            (ethertype::IPV4, packet) => Packet::ipv4(packet),
            (ethertype::IPV6, packet) => Packet::ipv6(packet),
            _ => None,
        }
    }

    fn ipv4(packet: &'a [u8]) -> Option<Packet<'a>> {
        let fixed: &[u8; 20] = packet.first_chunk()?;
        let header = usize::from(fixed[0] & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        let address = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<4>()?));
        Some(Packet {
            src: address(12)?,
            dst: address(16)?,
            proto: fixed[9],
            header: sum(packet.get(..header)?, 0),
            segment: packet.get(header..total.min(packet.len())).unwrap_or_default(),
            segment_at: header,
            cut: total > packet.len() || total < header,
            trailing: packet.len().saturating_sub(total),
        })
    }

    fn ipv6(packet: &'a [u8]) -> Option<Packet<'a>> {
        let fixed: &[u8; 40] = packet.first_chunk()?;
        let total = 40 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        let address = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<16>()?));
        let (mut proto, mut at) = (fixed[6], 40);
        // Hop-by-hop, routing and destination options count their length in words of eight behind the first.
        while matches!(proto, 0 | 43 | 60) {
            let extension = packet.get(at..at + 2)?;
            proto = extension[0];
            at += 8 + 8 * usize::from(extension[1]);
        }
        Some(Packet {
            src: address(8)?,
            dst: address(24)?,
            proto,
            header: 0,
            segment: packet.get(at..total.min(packet.len())).unwrap_or_default(),
            segment_at: at,
            cut: total > packet.len() || total < at,
            trailing: packet.len().saturating_sub(total),
        })
    }

    fn has_its_length(&self) -> bool {
        let there = self.segment.len();
        let says = |at: usize| Some(usize::from(u16::from_be_bytes(*self.segment.get(at..)?.first_chunk()?)));
        !self.cut
            && match self.proto {
                proto::TCP => {
                    self.segment.get(12).is_some_and(|byte| (20..=there).contains(&(usize::from(byte >> 4) * 4)))
                }
                proto::UDP => says(4).is_some_and(|length| (8..=there).contains(&length)),
                proto::SCTP => there >= 12,
                proto::ICMP | proto::ICMPV6 | IGMP | proto::UDPLITE => there >= 8,
                _ => true,
            }
    }

    fn has_its_checksum(&self) -> bool {
        let from = self.header + pseudo(self.src, self.dst, self.proto, self.segment.len());
        self.has_none() || fold(sum(self.segment, from)) == 0
    }

    /// Of UDP, none at all is none that is wrong.
    fn has_none(&self) -> bool {
        self.proto == proto::UDP && self.segment.get(6..8) == Some(&[0, 0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame around this transport header, whose checksum stands at `check`.
    fn frame(proto: u8, mut segment: Vec<u8>, check: usize) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x81, 0, 0, 7, 8, 0]);
        let mut ip = vec![0x45, 0, 0, 20 + segment.len() as u8, 0, 0, 0, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        merge_model::checksum::ipv4_header(&mut ip, 0);
        let (src, dst) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let right = fold(sum(&segment, pseudo(src, dst, proto, segment.len())));
        segment[check..check + 2].copy_from_slice(&right.to_be_bytes());
        [frame, ip, segment].concat()
    }

    fn udp() -> Vec<u8> {
        frame(proto::UDP, vec![0, 80, 0, 81, 0, 10, 0, 0, 7, 7], 6)
    }

    fn tcp() -> Vec<u8> {
        let mut header = vec![0; 20];
        header[12] = 0x50;
        frame(proto::TCP, header, 16)
    }

    fn changed(frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
        let mut frame = frame;
        frame[at] = value;
        frame
    }

    #[test]
    fn each_fault_has_its_name() {
        const NETWORK: usize = ETHERNET + VLAN;
        const TRANSPORT: usize = NETWORK + 20;
        assert_eq!(known(&udp()), None, "there is nothing wrong with it");
        assert_eq!(known(&tcp()), Some(Known::Window), "only its connection can say what is");
        assert_eq!(known(&changed(udp(), TRANSPORT + 8, 0)), Some(Known::Checksum));
        assert_eq!(known(&changed(udp(), NETWORK + 8, 63)), Some(Known::Checksum), "the IP header's");
        assert_eq!(known(&changed(udp(), TRANSPORT + 5, 11)), Some(Known::Length));
        assert_eq!(known(&changed(tcp(), TRANSPORT + 12, 0x60)), Some(Known::Length));
        assert_eq!(known(&changed(tcp(), NETWORK + 3, 41)), Some(Known::Length), "it is cut off");
        assert_eq!(known(&changed(udp(), NETWORK + 9, 1)), None, "ICMP is not merged with a connection");
        assert!(has_wrong_length(&tcp()[..NETWORK + 12]) && has_wrong_length(&tcp()[..TRANSPORT + 19]));
        assert!(!has_wrong_length(&tcp()) && !has_wrong_length(&tcp()[..NETWORK - 2]), "no IP, no length of it");
        let mut none = udp();
        none[TRANSPORT + 6..TRANSPORT + 8].fill(0);
        assert_eq!(known(&none), None, "no checksum is none that is wrong");
        assert!(has_no_checksum(&none) && !has_no_checksum(&udp()));
    }

    #[test]
    fn checksums_alone_are_left_out() {
        let (right, mut wrong) = (tcp(), tcp());
        wrong[ETHERNET + VLAN + 11] ^= 1;
        wrong[ETHERNET + VLAN + 20 + 16] ^= 1;
        assert_eq!(without_checksums(&right), without_checksums(&wrong));
        wrong[ETHERNET + VLAN + 20 + 18] ^= 1;
        assert_ne!(without_checksums(&right), without_checksums(&wrong));
    }

    #[test]
    fn what_follows_the_datagram_is_not_its_own() {
        let padded = [udp(), vec![9; 5]].concat();
        assert_eq!((trailing(&padded), trailing(&udp())), (5, 0));
        assert_eq!(known(&padded), None);
    }
}
