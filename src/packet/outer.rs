//! Outer packets: what a tunnel device takes off a frame, as Linux 6.1 does it.
//!
//! [`Encapsulation::outer`] reads a whole frame of the underlay: Ethernet, tags, IPv4 or IPv6, then UDP with VXLAN or Geneve, or GRE
//! with Ethernet or ERSPAN in it. It gives the metadata that the device keeps beside the inner frame (`vxlan_rcv`,
//! `geneve_rx`, `__ipgre_rcv`, `erspan_rcv`, each through `ip_tun_rx_dst` or `ipv6_tun_rx_dst`), and where that begins and ends.
//! What such a device drops is no outer packet. Not read, and so none either: outer packets in fragments; ERSPAN's first type, which
//! has no header; Geneve options that do not add up, or with reserved bits set, which the kernel takes as they are.
//!
//! The device may change the inner frame: it carries congestion marks over from the outer header (RFC 6040). [`Outer::received`] is
//! the frame as it comes out.

use super::dissect::{ETHERNET, VLAN, ethertype, is_vlan};
use crate::flower::tunnel::{Erspan, GeneveOption, Tunnel, TunnelFlags, TunnelOptions};
use std::{net::IpAddr, ops::Range};

/// How a device wraps Ethernet frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encapsulation {
    /// VXLAN over UDP.
    Vxlan {
        /// Destination port.
        port: u16,
        /// Whether the group policy extension is read and written.
        policy: bool,
    },
    /// Geneve over UDP.
    Geneve {
        /// Destination port.
        port: u16,
    },
    /// Ethernet in GRE.
    Gre {
        /// Over IPv6, not IPv4.
        ipv6: bool,
    },
    /// ERSPAN, types II and III, in GRE.
    Erspan {
        /// Over IPv6, not IPv4.
        ipv6: bool,
    },
}

/// A packet with a frame in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    /// What the device keeps of it.
    pub tunnel: Tunnel,
    /// Whether IPv4's "don't fragment" is set, which the device does not keep.
    pub dont_fragment: bool,
    /// Where the inner frame is.
    pub inner: Range<usize>,
}

const UDP: u8 = 17;
const GRE: u8 = 47;
/// IPv6 extension headers that stand in front of others: hop by hop, routing, destination.
const EXTENSIONS: [u8; 3] = [0, 43, 60];

/// Ethertypes in GRE and Geneve: an Ethernet frame, ERSPAN of type II, of type III.
const TEB: u16 = 0x6558;
const ERSPAN: [u16; 2] = [0x88be, 0x22eb];

/// Of VXLAN's first word: the identifier counts, the policy counts, and the bits that the policy extension may use.
const VXLAN_VNI: u32 = 0x0800_0000;
const VXLAN_POLICY: u32 = 0x8000_0000;
const VXLAN_POLICY_BITS: u32 = 0x80ff_ffff;
/// Of these: "do not learn" and "policy applied", where the kernel's metadata has them too, and the identifier.
const VXLAN_POLICY_KEPT: u32 = 0x0048_ffff;

/// Of GRE's first half word: checksum, routing, key, sequence number, and the version.
const GRE_CHECKSUM: u16 = 0x8000;
const GRE_ROUTING: u16 = 0x4000;
const GRE_KEY: u16 = 0x2000;
const GRE_SEQUENCE: u16 = 0x1000;
const GRE_VERSION: u16 = 0x0007;

impl Encapsulation {
    /// Reads a frame as a device of this kind would. `None` if the device would not take it.
    pub fn outer(&self, frame: &[u8]) -> Option<Outer> {
        let ip = Ip::of(frame)?;
        let outer = match *self {
            Encapsulation::Vxlan { port, policy } => ip.udp(port)?.vxlan(policy)?,
            Encapsulation::Geneve { port } => ip.udp(port)?.geneve()?,
            Encapsulation::Gre { ipv6 } if ip.is_ipv6() == ipv6 => ip.gre()?,
            Encapsulation::Erspan { ipv6 } if ip.is_ipv6() == ipv6 => ip.erspan()?,
            Encapsulation::Gre { .. } | Encapsulation::Erspan { .. } => return None,
        };
        (outer.inner.len() >= ETHERNET).then_some(outer)
    }
}

impl Outer {
    /// The inner frame of `frame`, from which this was read, as the device hands it on. `None` if it drops it: its sender
    /// does not know congestion marks, and it has one.
    pub fn received(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let mut inner = frame.get(self.inner.clone())?.to_vec();
        decapsulate(&mut inner, self.tunnel.tos & ECN)?;
        Some(inner)
    }
}

const ECN: u8 = 3;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// `INET_ECN_decapsulate`. The header is looked for right behind the Ethernet header, also where there is a tag.
fn decapsulate(inner: &mut [u8], outer: u8) -> Option<()> {
    let (kind, _) = network(inner)?;
    let header = inner.get_mut(ETHERNET..)?;
    // The bits and what they are shifted by, in the second byte of IPv4 and of IPv6.
    let (length, shift) = match kind {
        ethertype::IPV4 => (20, 0),
        ethertype::IPV6 => (40, 4),
        _ => return Some(()),
    };
    let byte = header.get(1)?;
    let mark = byte >> shift & ECN;
    let new = match (mark, outer) {
        (0, CE) => return None,
        (0, _) => return Some(()),
        (_, CE) => CE,
        (ECT_0, ECT_1) => ECT_1,
        _ => return Some(()),
    };
    if header.len() < length || new == mark {
        return Some(());
    }
    header[1] ^= (mark ^ new) << shift;
    if kind == ethertype::IPV4 {
        // The sum of the header stays what it was: the complement grows by as much as the mark falls.
        let check = u32::from(u16::from_be_bytes([header[10], header[11]]));
        let sum = check + if new > mark { 0xffff - u32::from(new - mark) } else { u32::from(mark - new) };
        header[10..12].copy_from_slice(&((sum + (sum >> 16)) as u16).to_be_bytes());
    }
    Some(())
}

/// The ethertype under the tags, and where its header begins.
fn network(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = ETHERNET;
    loop {
        match be16(frame, at - 2)? {
            tag if is_vlan(tag) => at += VLAN,
            kind => return Some((kind, at)),
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// An IP packet that is whole, and the metadata so far.
struct Ip<'a> {
    frame: &'a [u8],
    tunnel: Tunnel,
    dont_fragment: bool,
    protocol: u8,
    /// Where what it carries begins and ends.
    at: usize,
    end: usize,
}

impl<'a> Ip<'a> {
    fn of(frame: &'a [u8]) -> Option<Ip<'a>> {
        match network(frame)? {
            (ethertype::IPV4, at) => Ip::v4(frame, at),
            (ethertype::IPV6, at) => Ip::v6(frame, at),
            _ => None,
        }
    }

    fn v4(frame: &'a [u8], at: usize) -> Option<Ip<'a>> {
        let fixed: &[u8; 20] = frame.get(at..)?.first_chunk()?;
        let header = usize::from(fixed[0] & 0xf) * 4;
        let end = at + usize::from(be16(fixed, 2)?);
        let fragment = be16(fixed, 6)?;
        let is_whole = fixed[0] >> 4 == 4 && header >= 20 && at + header <= end && end <= frame.len();
        // More fragments, or an offset.
        if !is_whole || fragment & 0x3fff != 0 {
            return None;
        }
        let address = |at: usize| Some(IpAddr::from(*fixed.get(at..)?.first_chunk::<4>()?));
        let tunnel = received(address(12)?, address(16)?, fixed[1], fixed[8]);
        Some(Ip { frame, tunnel, dont_fragment: fragment & 0x4000 != 0, protocol: fixed[9], at: at + header, end })
    }

    fn v6(frame: &'a [u8], at: usize) -> Option<Ip<'a>> {
        let fixed: &[u8; 40] = frame.get(at..)?.first_chunk()?;
        let end = at + 40 + usize::from(be16(fixed, 4)?);
        if fixed[0] >> 4 != 6 || end > frame.len() {
            return None;
        }
        let address = |at: usize| Some(IpAddr::from(*fixed.get(at..)?.first_chunk::<16>()?));
        let tunnel = received(address(8)?, address(24)?, (be16(fixed, 0)? >> 4) as u8, fixed[7]);
        let (mut protocol, mut at) = (fixed[6], at + 40);
        while EXTENSIONS.contains(&protocol) {
            let extension: [u8; 2] = *frame.get(at..end)?.first_chunk()?;
            (protocol, at) = (extension[0], at + 8 + 8 * usize::from(extension[1]));
        }
        (at <= end).then_some(Ip { frame, tunnel, dont_fragment: false, protocol, at, end })
    }

    fn is_ipv6(&self) -> bool {
        self.tunnel.src.is_ipv6()
    }

    fn rest(&self) -> &'a [u8] {
        self.frame.get(self.at..self.end).unwrap_or_default()
    }

    /// Takes so many bytes off the front.
    fn pull(mut self, bytes: usize) -> Option<Self> {
        self.at += bytes;
        (self.at <= self.end).then_some(self)
    }

    fn outer(self) -> Option<Outer> {
        let Ip { tunnel, dont_fragment, at, end, .. } = self;
        Some(Outer { tunnel, dont_fragment, inner: at..end })
    }

    fn udp(mut self, port: u16) -> Option<Self> {
        let header: &[u8; 8] = self.rest().first_chunk()?;
        let length = usize::from(be16(header, 4)?);
        if self.protocol != UDP || be16(header, 2)? != port || length < 8 || length > self.end - self.at {
            return None;
        }
        self.end = self.at + length;
        (self.tunnel.src_port, self.tunnel.dst_port) = (be16(header, 0)?, port);
        self.tunnel.flags.set(TunnelFlags::CSUM, be16(header, 6)? != 0);
        self.pull(8)
    }

    fn vxlan(mut self, policy: bool) -> Option<Outer> {
        let (flags, id) = (be32(self.rest(), 0)?, be32(self.rest(), 4)?);
        let known = VXLAN_VNI | if policy { VXLAN_POLICY_BITS } else { 0 };
        if flags & VXLAN_VNI == 0 || flags & !known != 0 || id & 0xff != 0 {
            return None;
        }
        self.tunnel.id = Some(id >> 8);
        if policy && flags & VXLAN_POLICY != 0 {
            self.tunnel.options = TunnelOptions::Vxlan { gbp: flags & VXLAN_POLICY_KEPT };
        }
        self.pull(8)?.outer()
    }

    fn geneve(mut self) -> Option<Outer> {
        let (first, id) = (be32(self.rest(), 0)?, be32(self.rest(), 4)?);
        let (version, words, kind) = (first >> 30, (first >> 24 & 0x3f) as usize, first as u16);
        if version != 0 || kind != TEB {
            return None;
        }
        self.tunnel.id = Some(id >> 8);
        self.tunnel.flags.set(TunnelFlags::OAM, first & 1 << 23 != 0);
        self.tunnel.flags.set(TunnelFlags::CRITICAL, first & 1 << 22 != 0);
        let options = geneve_options(self.rest().get(8..8 + 4 * words)?)?;
        if !options.is_empty() {
            self.tunnel.options = TunnelOptions::Geneve(options);
        }
        self.pull(8 + 4 * words)?.outer()
    }

    /// GRE's header: the type of what is in it, and whether there is more of the header than its first word.
    fn gre_header(mut self) -> Option<(Self, u16, bool)> {
        let (flags, kind) = (be16(self.rest(), 0)?, be16(self.rest(), 2)?);
        if self.protocol != GRE || flags & (GRE_ROUTING | GRE_VERSION) != 0 {
            return None;
        }
        self.tunnel.flags.set(TunnelFlags::CSUM, flags & GRE_CHECKSUM != 0);
        let mut length = 4 + if flags & GRE_CHECKSUM != 0 { 4 } else { 0 };
        if flags & GRE_KEY != 0 {
            self.tunnel.id = Some(be32(self.rest(), length)?);
            length += 4;
        }
        if flags & GRE_SEQUENCE != 0 {
            length += 4;
        }
        Some((self.pull(length)?, kind, length > 4))
    }

    fn gre(self) -> Option<Outer> {
        match self.gre_header()? {
            (ip, TEB, _) => ip.outer(),
            _ => None,
        }
    }

    fn erspan(self) -> Option<Outer> {
        let (mut ip, kind, is_long) = self.gre_header()?;
        // The first type has neither sequence number nor a header of its own.
        if !ERSPAN.contains(&kind) || (kind == ERSPAN[0] && !is_long) {
            return None;
        }
        let base = be32(ip.rest(), 0)?;
        ip.tunnel.id = Some(base & 0x3ff);
        // Its own version counts, whatever GRE says.
        let (metadata, length) = match base >> 28 {
            1 => (Erspan::Index(be32(ip.rest(), 4)?), 8),
            2 => {
                let last = be16(ip.rest(), 10)?;
                (Erspan::Hardware { dir: (last >> 3 & 1) as u8, hwid: (last >> 4 & 0x3f) as u8 }, 12)
            }
            _ => return None,
        };
        ip.tunnel.options = TunnelOptions::Erspan(metadata);
        ip.pull(length)?.outer()
    }
}

/// The metadata of an IP packet.
fn received(src: IpAddr, dst: IpAddr, tos: u8, ttl: u8) -> Tunnel {
    let (flags, options) = (TunnelFlags::empty(), TunnelOptions::None);
    Tunnel { id: None, src, dst, src_port: 0, dst_port: 0, tos, ttl, flags, options }
}

fn geneve_options(mut bytes: &[u8]) -> Option<Vec<GeneveOption>> {
    let mut options = Vec::new();
    while let Some((&[c, d, kind, length], rest)) = bytes.split_first_chunk() {
        let (data, more) = rest.split_at_checked(4 * usize::from(length & 0x1f))?;
        if length > 0x1f {
            return None;
        }
        options.push(GeneveOption { class: u16::from_be_bytes([c, d]), kind, data: data.to_vec() });
        bytes = more;
    }
    bytes.is_empty().then_some(options)
}

#[cfg(test)]
mod tests;
