//! A packet as a description, from which its bytes are built: every header that flower sees, and what conntrack dislikes.
//!
//! Tests change one field of the description, so that lengths and checksums stay right.

use crate::bytes::Headers;
use flowmerge::{
    conntrack::proto,
    flower::{
        Field, Key, Port, Tunnel,
        field::{addr_type, enc_options, ip_flags},
        tunnel::{GeneveOption, TunnelFlags, TunnelOptions},
    },
    packet::arrived,
};
use merge_model::checksum;
use std::net::IpAddr;

/// What follows the Ethernet header and the tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L3 {
    V4,
    V6,
    Arp,
    /// Nothing that TC knows.
    Other(u16),
}

impl L3 {
    /// Its ethertype.
    pub fn ethertype(self) -> u16 {
        match self {
            L3::V4 => 0x800,
            L3::V6 => 0x86dd,
            L3::Arp => 0x806,
            L3::Other(ethertype) => ethertype,
        }
    }
}

/// Whether the packet is a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    None,
    First,
    Later,
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// UDP without a checksum, which is nothing wrong.
    NoChecksum,
    /// The transport checksum.
    L4,
    /// The IPv4 header's checksum.
    Ip,
    /// UDP's length, longer than the datagram.
    Length,
    /// So many bytes are missing at the end.
    Cut(u8),
}

/// A tag of another kind (HSR, IEC 62439-3), two bytes longer, that the dissector reads on behind.
pub const HSR: u16 = 0x892f;

/// An outer packet, in few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    pub id: u32,
    pub v6: bool,
    pub src: u128,
    pub dst: u128,
    pub src_port: u16,
    pub dst_port: u16,
    pub tos: u8,
    pub ttl: u8,
    /// Geneve's options with a word of data each, as on the wire; 0 is none.
    pub options: [u64; 2],
}

/// An option with this data.
pub const OPTION: u64 = 0x0102_8001 << 32;

impl Outer {
    /// With nothing in it.
    pub const NONE: Outer =
        Outer { id: 0, v6: false, src: 0, dst: 0, src_port: 0, dst_port: 0, tos: 0, ttl: 0, options: [0; 2] };

    /// As TC has it.
    pub fn tunnel(self) -> Tunnel {
        let address = |bits: u128| match self.v6 {
            false => IpAddr::from((bits as u32).to_be_bytes()),
            true => IpAddr::from(bits.to_be_bytes()),
        };
        let option = |bits: &u64| {
            let [a, b, kind, _, data @ ..] = bits.to_be_bytes();
            GeneveOption { class: u16::from_be_bytes([a, b]), kind, data: data.to_vec() }
        };
        let all: Vec<_> = self.options.iter().filter(|&&bits| bits != 0).map(option).collect();
        Tunnel {
            id: Some(self.id),
            src: address(self.src),
            dst: address(self.dst),
            src_port: self.src_port,
            dst_port: self.dst_port,
            tos: self.tos,
            ttl: self.ttl,
            flags: TunnelFlags::empty(),
            options: if all.is_empty() { TunnelOptions::None } else { TunnelOptions::Geneve(all) },
        }
    }
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes in.
    pub port: Port,
    pub eth_dst: u64,
    pub eth_src: u64,
    /// Each tag's own ethertype and content, the outermost first.
    pub tags: Vec<(u16, u16)>,
    /// Entries of a label stack in front of what follows, the outermost first.
    pub labels: Vec<u32>,
    /// What a tunnel device took off it.
    pub tunnel: Option<Outer>,
    pub l3: L3,
    /// ARP's hardware addresses: the sender's, the target's.
    pub arp: [u64; 2],
    pub tos: u8,
    pub ttl: u8,
    pub fragment: Fragment,
    /// IPv6 extension headers; for IPv4 as many words of options.
    pub extensions: Vec<u8>,
    pub proto: u8,
    pub src: u128,
    pub dst: u128,
    /// Of ICMP the identifier, of an ICMP error the port of the packet inside.
    pub src_port: u16,
    pub dst_port: u16,
    /// All twelve bits.
    pub flags: u16,
    /// ICMP's type and code.
    pub kind: (u8, u8),
    pub payload: u8,
    pub pad: u8,
    pub flaw: Flaw,
}

impl Packet {
    pub fn addresses(&self) -> (IpAddr, IpAddr) {
        let address = |bits: u128| match self.l3 {
            L3::V6 => IpAddr::from(bits.to_be_bytes()),
            _ => IpAddr::from((bits as u32).to_be_bytes()),
        };
        (address(self.src), address(self.dst))
    }

    /// The packet with nothing wrong.
    pub fn flawless(&self) -> Packet {
        Packet { flaw: if self.is_flawed() { Flaw::None } else { self.flaw }, ..self.clone() }
    }

    /// Whether conntrack would find something wrong.
    pub fn is_flawed(&self) -> bool {
        let summed = Headers::checksum_of(self.proto).is_some() || self.proto == proto::SCTP;
        match self.flaw {
            Flaw::None | Flaw::NoChecksum => false,
            Flaw::L4 => summed,
            Flaw::Ip => self.l3 == L3::V4,
            Flaw::Length => self.proto == proto::UDP,
            Flaw::Cut(_) => true,
        }
    }

    /// Whether its checksum is not what one would compute.
    pub fn sums_up(&self) -> bool {
        let none = self.flaw == Flaw::NoChecksum && self.proto == proto::UDP && self.l3 == L3::V6;
        !self.is_flawed() && !none
    }

    /// As flower sees it when it arrives.
    pub fn key(&self) -> Key {
        let key = arrived(&self.frame(false)).with(Field::Indev, self.port.0.into());
        Tunnel::tell(self.tunnel.map(Outer::tunnel).as_ref(), key)
    }

    /// Its bytes; `padded`: some follow the IP datagram.
    pub fn frame(&self, padded: bool) -> Vec<u8> {
        let mut out = [&self.eth_dst.to_be_bytes()[2..], &self.eth_src.to_be_bytes()[2..]].concat();
        for (tpid, tci) in &self.tags {
            out.extend([tpid.to_be_bytes(), tci.to_be_bytes()].concat());
            out.extend([0; 2].iter().filter(|_| *tpid == HSR));
        }
        match self.labels[..] {
            [] => out.extend(self.l3.ethertype().to_be_bytes()),
            _ => out.extend([0x88, 0x47]),
        }
        out.extend(self.labels.iter().flat_map(|label| label.to_be_bytes()));
        match self.l3 {
            L3::Arp => out.extend(self.arp()),
            L3::Other(_) => out.extend([self.ttl, self.tos, 0, 1, 2, 3, 4, 5, 6, 7]),
            L3::V4 | L3::V6 => out.extend(self.ip()),
        }
        if padded {
            out.extend(vec![0; self.pad as usize]);
        }
        if let Flaw::Cut(n) = self.flaw {
            // The kernel drops what ends within a tag before TC sees it.
            let tagged = 16 + self.tags.len() * 6;
            let least = if self.tags.is_empty() { 14 } else { tagged };
            out.truncate(out.len().saturating_sub(n as usize).max(least));
        }
        out
    }

    fn arp(&self) -> Vec<u8> {
        let [sender, target] = self.arp.map(u64::to_be_bytes);
        let mut out = vec![0, 1, 8, 0, 6, 4, 0, 1 + self.kind.0 % 2];
        out.extend(&sender[2..]);
        out.extend((self.src as u32).to_be_bytes());
        out.extend(&target[2..]);
        out.extend((self.dst as u32).to_be_bytes());
        out
    }

    fn ip(&self) -> Vec<u8> {
        let mut l4 = self.l4();
        let (src, dst) = self.addresses();
        if self.flaw == Flaw::Length && self.proto == proto::UDP {
            let longer = l4.len() as u16 + 1;
            l4[4..6].copy_from_slice(&longer.to_be_bytes());
        }
        if let Some(at) = Headers::checksum_of(self.proto) {
            let sum = match self.proto {
                proto::ICMP => 0,
                _ => checksum::pseudo(src, dst, self.proto, l4.len()),
            };
            let mut check = checksum::fold(checksum::sum(&l4, sum));
            if self.proto == proto::UDP && check == 0 {
                check = 0xffff;
            }
            check = match self.flaw {
                Flaw::NoChecksum if self.proto == proto::UDP => 0,
                Flaw::L4 => check ^ 0x0104,
                _ => check,
            };
            l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
        } else if self.proto == proto::SCTP {
            let check = checksum::sctp(&l4);
            l4[8..12].copy_from_slice(&check);
            l4[8] ^= u8::from(self.flaw == Flaw::L4);
        }
        match self.l3 {
            L3::V6 => self.ipv6(&l4),
            _ => self.ipv4(&l4),
        }
    }

    fn ipv4(&self, l4: &[u8]) -> Vec<u8> {
        let words = 5 + self.extensions.len();
        let fragment: u16 = match self.fragment {
            Fragment::None => 0x4000,
            Fragment::First => 0x2000,
            Fragment::Later => 1,
        };
        let mut out = vec![0x40 | words as u8, self.tos];
        out.extend(((words * 4 + l4.len()) as u16).to_be_bytes());
        out.extend([0x12, 0x34]);
        out.extend(fragment.to_be_bytes());
        out.extend([self.ttl, self.proto, 0, 0]);
        out.extend((self.src as u32).to_be_bytes());
        out.extend((self.dst as u32).to_be_bytes());
        out.extend(vec![1; self.extensions.len() * 4]);
        let check = checksum::fold(checksum::sum(&out, 0)) ^ if self.flaw == Flaw::Ip { 0x0400 } else { 0 };
        out[10..12].copy_from_slice(&check.to_be_bytes());
        out.extend(l4);
        out
    }

    fn ipv6(&self, l4: &[u8]) -> Vec<u8> {
        let mut chain = self.extensions.clone();
        chain.extend((self.fragment != Fragment::None).then_some(44));
        chain.push(self.proto);
        let mut body = Vec::new();
        for pair in chain.windows(2) {
            body.extend(match pair[0] {
                44 => [pair[1], 0, 0, if self.fragment == Fragment::First { 1 } else { 8 }, 0, 0, 0, 7],
                // Authentication: eight bytes is (8 / 4 - 2) words.
                51 => [pair[1], 0, 0, 0, 0, 0, 0, 9],
                // Options of padding alone; a routing header with nowhere left to go.
                43 => [pair[1], 0, 0, 0, 0, 0, 0, 0],
                _ => [pair[1], 0, 1, 4, 0, 0, 0, 0],
            });
        }
        body.extend(l4);
        let mut out = (0x6000_0000 | u32::from(self.tos) << 20).to_be_bytes().to_vec();
        out.extend((body.len() as u16).to_be_bytes());
        out.extend([chain[0], self.ttl]);
        out.extend(self.src.to_be_bytes());
        out.extend(self.dst.to_be_bytes());
        out.extend(body);
        out
    }

    /// The transport header with its checksum 0, and what follows it.
    fn l4(&self) -> Vec<u8> {
        let ports = [self.src_port.to_be_bytes(), self.dst_port.to_be_bytes()].concat();
        let payload: Vec<u8> = (0..self.payload).collect();
        let head = match self.proto {
            proto::TCP => {
                let flags = (0x5000 | self.flags & 0xfff).to_be_bytes();
                [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 2], &flags, &[0, 9, 0, 0, 0, 0]].concat()
            }
            proto::UDP => [&ports[..], &(8 + u16::from(self.payload)).to_be_bytes(), &[0, 0]].concat(),
            // A COOKIE ACK.
            proto::SCTP => [&ports[..], &[0, 0, 0, 3, 0, 0, 0, 0, 0x0b, 0, 0, 4]].concat(),
            proto::ICMP | proto::ICMPV6 => {
                let id = self.src_port.to_be_bytes();
                let head = [self.kind.0, self.kind.1, 0, 0, id[0], id[1], 0, 1];
                let is_error = matches!((self.proto, self.kind.0), (proto::ICMP, 3 | 11) | (proto::ICMPV6, 1 | 3));
                let inner = if is_error { self.inner() } else { Vec::new() };
                [&head[..], &inner].concat()
            }
            _ => [&ports[..], &[0; 8]].concat(),
        };
        let is_icmp_error = head.len() > 8 && matches!(self.proto, proto::ICMP | proto::ICMPV6);
        if is_icmp_error || self.proto == proto::SCTP { head } else { [head, payload].concat() }
    }

    /// The beginning of the packet that an ICMP error is about: one that came from where the error goes to.
    fn inner(&self) -> Vec<u8> {
        let about = Packet {
            proto: if self.payload & 1 == 0 { proto::TCP } else { proto::UDP },
            src: self.dst,
            dst: self.src,
            tags: Vec::new(),
            fragment: Fragment::None,
            extensions: Vec::new(),
            flaw: Flaw::None,
            ..self.clone()
        };
        let header = if self.l3 == L3::V6 { 40 } else { 20 };
        about.ip()[..header + 8].to_vec()
    }

    /// Sets what a field of the arrived packet's key is read from. False where that takes another shape.
    pub fn set(&mut self, field: Field, value: u128) -> bool {
        use Field::*;
        let part = Field::MPLS.iter().enumerate().find_map(|(i, e)| Some((i, e.iter().position(|&f| f == field)?)));
        if let Some((i, part)) = part {
            return self.set_label(i, part, value as u32);
        }
        if field.is_tunnel() {
            return self.set_tunnel(field, value);
        }
        let tag = |tags: &mut Vec<(u16, u16)>, i: usize, of: Field| {
            let Some(tag) = tags.get_mut(i) else { return false };
            match of {
                VlanTpid => tag.0 = value as u16,
                VlanId => tag.1 = tag.1 & 0xf000 | value as u16,
                _ => tag.1 = tag.1 & 0x1fff | (value as u16) << 13,
            }
            true
        };
        match field {
            EthDst => self.eth_dst = value as u64,
            EthSrc => self.eth_src = value as u64,
            VlanTpid | VlanId | VlanPrio => return tag(&mut self.tags, 0, field),
            CvlanTpid => return tag(&mut self.tags, 1, VlanTpid),
            CvlanId => return tag(&mut self.tags, 1, VlanId),
            CvlanPrio => return tag(&mut self.tags, 1, VlanPrio),
            NumOfVlans => self.tags.resize(value as usize & 3, (0x8100, 10)),
            IpProto => self.proto = value as u8,
            IpTos => self.tos = value as u8,
            IpTtl => self.ttl = value as u8,
            IpFlags => {
                self.fragment = match value {
                    0 => Fragment::None,
                    ip_flags::FRAG => Fragment::Later,
                    _ => Fragment::First,
                }
            }
            Ipv4Src if self.l3 == L3::V4 => self.src = value,
            Ipv4Dst if self.l3 == L3::V4 => self.dst = value,
            Ipv6Src if self.l3 == L3::V6 => self.src = value,
            Ipv6Dst if self.l3 == L3::V6 => self.dst = value,
            SrcPort => self.src_port = value as u16,
            DstPort => self.dst_port = value as u16,
            TcpFlags => self.flags = value as u16,
            ArpOp if self.l3 == L3::Arp => self.kind.0 = (value as u8).wrapping_sub(1),
            ArpSha if self.l3 == L3::Arp => self.arp[0] = value as u64,
            ArpTha if self.l3 == L3::Arp => self.arp[1] = value as u64,
            ArpSip if self.l3 == L3::Arp => self.src = value,
            ArpTip if self.l3 == L3::Arp => self.dst = value,
            IcmpType => self.kind.0 = value as u8,
            IcmpCode => self.kind.1 = value as u8,
            Protocol | EthType if value == 0x8847 => {
                if self.labels.is_empty() {
                    self.labels = vec![0x1140];
                }
            }
            Protocol | EthType => {
                self.labels.clear();
                self.l3 = match value as u16 {
                    0x800 => L3::V4,
                    0x86dd => L3::V6,
                    0x806 => L3::Arp,
                    other => L3::Other(other),
                }
            }
            _ => return false,
        }
        true
    }

    /// A part of the n-th entry of the label stack: there or not, label, class, bottom, TTL.
    fn set_label(&mut self, n: usize, part: usize, value: u32) -> bool {
        let Some(entry) = self.labels.get_mut(n) else {
            // Where there is none, one can follow the last.
            let follows = part == 0 && value == 1 && n > 0 && n == self.labels.len();
            if follows {
                self.labels[n - 1] &= !0x100;
                self.labels.push(0x1140);
            }
            return follows;
        };
        let (mask, shift) = [(0, 0), (0xf_ffff, 12), (7, 9), (1, 8), (0xff, 0)][part];
        *entry = *entry & !(mask << shift) | (value & mask) << shift;
        if part == 0 && value == 0 {
            self.labels.truncate(n);
            self.labels.last_mut().into_iter().for_each(|last| *last |= 0x100);
        }
        true
    }

    fn set_tunnel(&mut self, field: Field, value: u128) -> bool {
        use Field::*;
        if field == EncAddrType && value == 0 {
            self.tunnel = None;
            return true;
        }
        let outer = self.tunnel.get_or_insert(Outer::NONE);
        match field {
            EncAddrType => outer.v6 = value == addr_type::IPV6,
            EncKeyId => outer.id = value as u32,
            EncIpv4Src | EncIpv6Src => outer.src = value,
            EncIpv4Dst | EncIpv6Dst => outer.dst = value,
            EncSrcPort => outer.src_port = value as u16,
            EncDstPort => outer.dst_port = value as u16,
            EncTos => outer.tos = value as u8,
            EncTtl => outer.ttl = value as u8,
            EncOptsLen => {
                let [first, second] = outer.options.map(|option| option.max(OPTION));
                outer.options = match (value & 8, value & 16) {
                    (8, _) => [first, 0],
                    (_, 16) => [first, second],
                    _ => [0; 2],
                };
            }
            EncOptsType if value & enc_options::GENEVE == 0 => outer.options = [0; 2],
            EncOptsType => outer.options[0] = outer.options[0].max(OPTION),
            EncOpts0 => outer.options = [value >> 64, value].map(|bits| bits as u64),
            _ => return false,
        }
        true
    }
}
