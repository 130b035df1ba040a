//! `csum` (`net/sched/act_csum.c`): checksums are computed anew, from what the packet then is.

use crate::{
    bytes::{be16, byte, put},
    checksum::{fold, ipv4_header, pseudo, sctp, sum},
    skb::{Skb, Summed},
};
use flowmerge::{
    conntrack::proto,
    flower::action::CsumFlags,
    packet::dissect::{VLAN, ethertype, is_vlan},
};
use std::net::IpAddr;

const IGMP: u8 = 2;

/// The next headers that `csum` steps over.
const HOP: u8 = 0;
const ROUTING: u8 = 43;
const DEST: u8 = 60;

/// Computes the checksums. False if the packet is to be dropped: it is shorter than its headers say.
pub(super) fn run(skb: &mut Skb, flags: CsumFlags) -> bool {
    let (data, mut protocol) = (skb.data, skb.outer_protocol());
    let mut accelerated = skb.tag.is_some();
    let mut tags = false;
    let done = loop {
        match protocol {
            ethertype::IPV4 => break ipv4(skb, flags),
            ethertype::IPV6 => break ipv6(skb, flags),
            _ if !is_vlan(protocol) => break true,
            _ if accelerated => {
                protocol = skb.protocol;
                accelerated = false;
            }
            // A tag in the bytes is looked for where the data start, and the network header moves behind it.
            _ => match be16(&skb.bytes, skb.data + 2) {
                Some(behind) => {
                    protocol = behind;
                    skb.data += VLAN;
                    skb.network = skb.data;
                    tags = true;
                }
                None => break false,
            },
        }
    };
    if tags {
        skb.data = data;
        skb.network = data;
    }
    done
}

/// A transport header whose checksum is to be computed.
struct Transport {
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    /// Where it starts.
    at: usize,
    /// Where the IP packet ends, by its header.
    end: usize,
}

fn ipv4(skb: &mut Skb, flags: CsumFlags) -> bool {
    let network = skb.network;
    let Some(header) = crate::bytes::array::<20>(&skb.bytes, network) else {
        return false;
    };
    let len = usize::from(header[0] & 0xf) * 4;
    let [s0, s1, s2, s3, d0, d1, d2, d3] = [12, 13, 14, 15, 16, 17, 18, 19].map(|at| header[at]);
    let transport = Transport {
        src: [s0, s1, s2, s3].into(),
        dst: [d0, d1, d2, d3].into(),
        proto: header[9],
        at: network + len,
        end: network + usize::from(u16::from_be_bytes([header[2], header[3]])),
    };
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    let done = later_fragment
        || match transport.proto {
            proto::ICMP if flags.contains(CsumFlags::ICMP) => transport.plain(skb, 8, 2, false),
            IGMP if flags.contains(CsumFlags::IGMP) => transport.plain(skb, 8, 2, false),
            proto => transport.common(skb, flags, proto),
        };
    if done && flags.contains(CsumFlags::IPV4) {
        ipv4_header(&mut skb.bytes, network);
    }
    done
}

fn ipv6(skb: &mut Skb, flags: CsumFlags) -> bool {
    let network = skb.network;
    let Some(header) = crate::bytes::array::<40>(&skb.bytes, network) else {
        return false;
    };
    let [src, dst] = [8, 24].map(|at| {
        let mut address = [0; 16];
        address.copy_from_slice(&header[at..at + 16]);
        IpAddr::from(address)
    });
    let mut payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut number = header[6];
    let mut at = network + 40;
    loop {
        let transport = |proto| Transport { src, dst, proto, at, end: network + 40 + payload };
        match number {
            HOP | ROUTING | DEST => {
                let Some(len) = byte(&skb.bytes, at + 1).map(|len| (usize::from(len) + 1) * 8) else {
                    return false;
                };
                let Some(options) = skb.bytes.get(at..at + len) else {
                    return false;
                };
                if number == HOP {
                    match jumbo(options) {
                        Ok(Some(len)) => payload = len,
                        Ok(None) => {}
                        Err(()) => return false,
                    }
                }
                number = options[0];
                at += len;
            }
            proto::ICMPV6 => {
                return !flags.contains(CsumFlags::ICMP) || transport(number).plain(skb, 8, 2, true);
            }
            other => return transport(other).common(skb, flags, other),
        }
        if byte(&skb.bytes, at).is_none() {
            return true;
        }
    }
}

/// The length in a jumbo option, if the hop-by-hop options have one.
fn jumbo(options: &[u8]) -> Result<Option<usize>, ()> {
    let mut at = 2;
    while options.len() - at > 1 {
        let len = match options[at] {
            0 => 1,
            0xc2 => {
                let len = usize::from(options[at + 1]) + 2;
                if len != 6 || options.len() - at < 6 || at & 3 != 2 {
                    return Err(());
                }
                return Ok(crate::bytes::be32(options, at + 2).map(|len| len as usize));
            }
            _ => usize::from(options[at + 1]) + 2,
        };
        if len > options.len() - at {
            break;
        }
        at += len;
    }
    Ok(None)
}

impl Transport {
    fn len(&self) -> usize {
        self.end.saturating_sub(self.at)
    }

    /// `tcf_csum_skb_nextlayer`: whether the IP packet is all there and holds the header.
    fn is_whole(&self, skb: &mut Skb, header: usize) -> bool {
        let whole = self.end <= skb.bytes.len() && self.at + header <= self.end;
        if whole {
            // The kernel makes it one piece to look at it.
            skb.pieces = None;
        }
        whole
    }

    /// The protocols that IPv4 and IPv6 share.
    fn common(&self, skb: &mut Skb, flags: CsumFlags, proto: u8) -> bool {
        match proto {
            proto::TCP if flags.contains(CsumFlags::TCP) => self.plain(skb, 20, 16, true),
            proto::UDP if flags.contains(CsumFlags::UDP) => self.udp(skb),
            proto::UDPLITE if flags.contains(CsumFlags::UDPLITE) => self.udp(skb),
            proto::SCTP if flags.contains(CsumFlags::SCTP) => {
                if !self.is_whole(skb, 12) {
                    return false;
                }
                // To the end of the buffer, whatever the IP header says.
                let check = sctp(&skb.bytes[self.at..]);
                skb.summed = Summed::No;
                put(&mut skb.bytes, self.at + 8, &check).is_some()
            }
            _ => true,
        }
    }

    /// A checksum at `field` over all of it.
    fn plain(&self, skb: &mut Skb, header: usize, field: usize, with_pseudo: bool) -> bool {
        if !self.is_whole(skb, header) {
            return false;
        }
        self.write(skb, field, [0, 0]);
        let from = match with_pseudo {
            true => pseudo(self.src, self.dst, self.proto, self.len()),
            false => 0,
        };
        let check = fold(sum(&skb.bytes[self.at..self.end], from));
        self.write(skb, field, check.to_be_bytes());
        skb.summed = Summed::No;
        true
    }

    fn write(&self, skb: &mut Skb, field: usize, check: [u8; 2]) {
        let _ = put(&mut skb.bytes, self.at + field, &check);
    }

    /// UDP and UDP-Lite. A length that does not fit leaves the packet, but without its checksum.
    fn udp(&self, skb: &mut Skb) -> bool {
        if !self.is_whole(skb, 8) {
            return false;
        }
        let lite = self.proto == proto::UDPLITE;
        let said = be16(&skb.bytes, self.at + 4).map_or(0, usize::from);
        let none = be16(&skb.bytes, self.at + 6) == Some(0);
        if none && !lite && self.src.is_ipv4() {
            skb.summed = Summed::No;
            return true;
        }
        self.write(skb, 6, [0, 0]);
        let covered = match said {
            0 if lite => self.len(),
            8.. if lite && said <= self.len() => said,
            _ if !lite && said == self.len() => said,
            _ => return true,
        };
        let from = pseudo(self.src, self.dst, self.proto, said);
        let check = fold(sum(&skb.bytes[self.at..self.at + covered], from));
        let check = if check == 0 { 0xffff } else { check };
        self.write(skb, 6, check.to_be_bytes());
        skb.summed = Summed::No;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowmerge::flower::Port;

    /// A UDP packet that scapy made: `IP(src="10.0.0.1",dst="10.0.0.2",id=1)/UDP(sport=1000,dport=2000)/b"hello"`.
    const UDP: &str = "4500002100010000401166c90a0000010a00000203e807d0000d9c4768656c6c6f";
    /// `IPv6(src="fd00::1",dst="fd00::2")/IPv6ExtHdrHopByHop()/TCP(sport=1,dport=2,flags="A",seq=7,ack=9)/b"x"`.
    const TCP6: &str = "60000000001d0040fd000000000000000000000000000001fd000000000000000000000000000002060001040000000000010002000000070000000950102000";

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    fn skb(protocol: [u8; 2], packet: &[u8]) -> Skb {
        let frame = [&[0; 12][..], &protocol, packet].concat();
        Skb::from_wire(Port(1), &frame).unwrap()
    }

    #[test]
    fn udp_and_its_ip_header() {
        let good = skb([8, 0], &hex(UDP));
        let mut skb = good.clone();
        skb.bytes[14 + 10] = 1;
        skb.bytes[14 + 26] = 1;
        assert!(run(&mut skb, CsumFlags::IPV4 | CsumFlags::UDP));
        assert_eq!(skb.bytes, good.bytes);
        // No checksum stays none; a length that does not fit loses it.
        skb.bytes[40..42].copy_from_slice(&[0, 0]);
        run(&mut skb, CsumFlags::UDP);
        assert_eq!(skb.bytes[40..42], [0, 0]);
        let mut short = good.clone();
        short.bytes[14 + 25] = 12;
        assert!(run(&mut short, CsumFlags::UDP));
        assert_eq!(short.bytes[40..42], [0, 0]);
        // A packet shorter than its header says is dropped.
        let mut cut = good.clone();
        cut.bytes.pop();
        assert!(!run(&mut cut, CsumFlags::UDP));
    }

    #[test]
    fn tcp_behind_an_ipv6_option_header() {
        let mut packet = hex(TCP6);
        packet.extend([0, 0, 0, 0, b'x']);
        let mut skb = skb([0x86, 0xdd], &packet);
        assert!(run(&mut skb, CsumFlags::TCP));
        let segment = &skb.bytes[14 + 48..];
        let ip = |last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]);
        assert_eq!(fold(sum(segment, pseudo(ip(1), ip(2), 6, segment.len()))), 0);
        assert_eq!(segment.len(), 21);
    }
}
