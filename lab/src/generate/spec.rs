//! Packets from what flower sees of them: a [`Spec`] holds a value for each field of the field table, and what else a packet
//! needs, and becomes frames. So a packet that a filter matches, or just misses, is made by setting fields.

use flowmerge::{
    flower::{Field, Key, Port, ethertype as et, field::ip_flags},
    packet::dissect::ETHERNET,
};
use merge_model::checksum;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocols that have a header here.
pub mod ip {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const L2TP: u8 = 115;
    pub const SCTP: u8 = 132;
    pub const UDPLITE: u8 = 136;
    pub const MPLS: u8 = 137;
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The checksum of the IPv4 header.
    IpChecksum,
    /// The checksum of TCP, UDP, SCTP or ICMP.
    Checksum,
    /// The UDP checksum is 0: none.
    NoChecksum,
    /// The length in the IP or UDP header says this much more than there is.
    Length(u16),
    /// The frame ends early, by this many bytes.
    Cut(usize),
}

/// A packet. Fields of headers that it has not are left alone.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Where it comes in.
    pub port: Port,
    /// The fields that flower sees.
    pub key: Key,
    /// TCP sequence number, or the verification tag of SCTP.
    pub seq: u32,
    /// TCP acknowledgement number.
    pub ack: u32,
    /// TCP window.
    pub window: u16,
    /// TCP options, as they stand in the header: a multiple of four bytes.
    pub options: Vec<u8>,
    /// Identification of IPv4, ICMP and fragments.
    pub id: u16,
    /// Bytes behind the last header.
    pub payload: Vec<u8>,
    /// Bytes of IPv4 options, a multiple of four.
    pub ip_options: usize,
    /// IPv6 extension headers in front of the last header: hop-by-hop 0, routing 43, destination 60, authentication 51.
    pub extensions: Vec<u8>,
    /// Entries of the label stack behind those that flower sees.
    pub deeper: usize,
    /// What the label stack carries: an ethertype of IP, or 0 for the payload alone.
    pub carried: u16,
    /// Zeros behind the IP datagram.
    pub padding: usize,
    /// What is wrong with it.
    pub fault: Option<Fault>,
}

impl Spec {
    /// An empty Ethernet frame.
    pub fn new(port: Port) -> Spec {
        Spec {
            port,
            key: Key::ZERO,
            seq: 0,
            ack: 0,
            window: 8192,
            options: Vec::new(),
            id: 0,
            payload: Vec::new(),
            ip_options: 0,
            extensions: Vec::new(),
            deeper: 0,
            carried: 0,
            padding: 0,
            fault: None,
        }
    }

    /// Sets a field.
    #[cfg(test)]
    pub fn with(mut self, field: Field, value: u128) -> Spec {
        self.key.set(field, value);
        self
    }

    fn get(&self, field: Field) -> u128 {
        self.key.get(field)
    }

    fn u16(&self, field: Field) -> [u8; 2] {
        (self.get(field) as u16).to_be_bytes()
    }

    /// The frame. A fragment's is that of the first or of a later one, by its flags; see [`Spec::fragments`] for whole ones.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = self.ethernet();
        let at = frame.len();
        if et::is_mpls(self.get(Field::EthType) as u16) {
            frame.extend(self.labels());
        }
        let datagram = match self.network_type() {
            et::IPV4 => self.ipv4(),
            et::IPV6 => self.ipv6(),
            et::ARP => self.arp(),
            _ => self.payload.clone(),
        };
        self.session(&mut frame, datagram.len());
        frame.extend(datagram);
        debug_assert!(at >= ETHERNET);
        frame.resize(frame.len() + self.padding, 0);
        if let Some(Fault::Cut(bytes)) = self.fault {
            frame.truncate((frame.len().saturating_sub(bytes)).max(ETHERNET));
        }
        frame
    }

    /// Addresses, tags, and the ethertype.
    fn ethernet(&self) -> Vec<u8> {
        let mac = |field| (self.get(field) as u64).to_be_bytes()[2..].to_vec();
        let mut frame = [mac(Field::EthDst), mac(Field::EthSrc)].concat();
        let tags =
            [(Field::VlanTpid, Field::VlanPrio, Field::VlanId), (Field::CvlanTpid, Field::CvlanPrio, Field::CvlanId)];
        for (tpid, prio, id) in tags.into_iter().take_while(|&(tpid, ..)| self.get(tpid) != 0) {
            frame.extend(self.u16(tpid));
            frame.extend((((self.get(prio) as u16) << 13) | self.get(id) as u16).to_be_bytes());
        }
        frame.extend(self.u16(Field::EthType));
        frame
    }

    /// The ethertype of what stands behind tags, session and labels.
    fn network_type(&self) -> u16 {
        match self.get(Field::EthType) as u16 {
            ethertype if et::is_mpls(ethertype) => self.carried,
            ethertype => ethertype,
        }
    }

    fn labels(&self) -> Vec<u8> {
        let seen = Field::MPLS.into_iter().take_while(|[present, ..]| self.get(*present) != 0);
        let entries = seen.map(|[_, label, tc, bos, ttl]| {
            let [label, tc, bos, ttl] = [label, tc, bos, ttl].map(|field| self.get(field) as u32);
            label << 12 | tc << 9 | bos << 8 | ttl
        });
        // The last of those that are not seen is the bottom.
        let deeper = (0..self.deeper as u32).map(|n| n << 12 | u32::from(n + 1 == self.deeper as u32) << 8 | 0x40);
        entries.chain(deeper).flat_map(u32::to_be_bytes).collect()
    }

    /// What is in a PPPoE session gets its header, behind addresses and tags, in place of its ethertype.
    fn session(&self, frame: &mut Vec<u8>, behind: usize) {
        if self.get(Field::PppProto) == 0 {
            return;
        }
        let at = ETHERNET + 4 * self.tags();
        let length = (frame.len() - at + behind + 2) as u16;
        let [p, q] = et::PPPOE.to_be_bytes();
        let mut header = vec![p, q, 0x11, 0];
        header.extend(self.u16(Field::PppoeSid));
        header.extend(length.to_be_bytes());
        header.extend(self.u16(Field::PppProto));
        frame.splice(at - 2..at, header);
    }

    fn tags(&self) -> usize {
        [Field::VlanTpid, Field::CvlanTpid].into_iter().take_while(|&tpid| self.get(tpid) != 0).count()
    }

    fn arp(&self) -> Vec<u8> {
        let mac = |field| (self.get(field) as u64).to_be_bytes()[2..].to_vec();
        let address = |field| (self.get(field) as u32).to_be_bytes().to_vec();
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, self.get(Field::ArpOp) as u8];
        arp.extend(mac(Field::ArpSha));
        arp.extend(address(Field::ArpSip));
        arp.extend(mac(Field::ArpTha));
        arp.extend(address(Field::ArpTip));
        arp
    }

    /// Source and destination.
    fn addresses(&self) -> (IpAddr, IpAddr) {
        let v4 = |field| Ipv4Addr::from(self.get(field) as u32).into();
        let v6 = |field| Ipv6Addr::from(self.get(field)).into();
        match self.network_type() {
            et::IPV6 => (v6(Field::Ipv6Src), v6(Field::Ipv6Dst)),
            _ => (v4(Field::Ipv4Src), v4(Field::Ipv4Dst)),
        }
    }

    fn longer(&self) -> usize {
        match self.fault {
            Some(Fault::Length(more)) => usize::from(more),
            _ => 0,
        }
    }

    /// Fragment offset in units of eight bytes, and whether more follow.
    fn fragment(&self) -> Option<(u16, bool)> {
        let flags = self.get(Field::IpFlags);
        (flags & ip_flags::FRAG != 0).then_some(match flags & ip_flags::FIRST {
            0 => (2, self.id & 1 == 0),
            _ => (0, true),
        })
    }

    fn ipv4(&self) -> Vec<u8> {
        self.ipv4_with(self.fragment(), &self.segment())
    }

    fn ipv4_with(&self, fragment: Option<(u16, bool)>, segment: &[u8]) -> Vec<u8> {
        let header = 20 + self.ip_options;
        let (offset, more) = fragment.unwrap_or_default();
        let mut ip = vec![0x40 | (header / 4) as u8, self.get(Field::IpTos) as u8];
        ip.extend(((header + segment.len() + self.longer()) as u16).to_be_bytes());
        ip.extend(self.id.to_be_bytes());
        ip.extend((offset | u16::from(more) << 13).to_be_bytes());
        ip.extend([self.get(Field::IpTtl) as u8, self.get(Field::IpProto) as u8, 0, 0]);
        ip.extend((self.get(Field::Ipv4Src) as u32).to_be_bytes());
        ip.extend((self.get(Field::Ipv4Dst) as u32).to_be_bytes());
        // No-operation options.
        ip.resize(header, 1);
        checksum::ipv4_header(&mut ip, 0);
        if self.fault == Some(Fault::IpChecksum) {
            ip[10] ^= 1;
        }
        ip.extend(segment);
        ip
    }

    fn ipv6(&self) -> Vec<u8> {
        self.ipv6_with(self.fragment(), &self.segment())
    }

    fn ipv6_with(&self, fragment: Option<(u16, bool)>, segment: &[u8]) -> Vec<u8> {
        const FRAGMENT: u8 = 44;
        const AUTHENTICATION: u8 = 51;
        let mut body = Vec::new();
        let mut kinds = self.extensions.clone();
        kinds.extend(fragment.map(|_| FRAGMENT));
        let last = self.get(Field::IpProto) as u8;
        for (i, &kind) in kinds.iter().enumerate() {
            let next = kinds.get(i + 1).copied().unwrap_or(last);
            match (kind, fragment) {
                (FRAGMENT, Some((offset, more))) => {
                    body.extend([next, 0]);
                    body.extend((offset << 3 | u16::from(more)).to_be_bytes());
                    body.extend(u32::from(self.id).to_be_bytes());
                }
                // Sixteen bytes of it: the length counts words of four, less two.
                (AUTHENTICATION, _) => body.extend([next, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]),
                // Type 4 of routing, nothing left to route; padding of six bytes in the others.
                (43, _) => body.extend([next, 0, 4, 0, 0, 0, 0, 0]),
                _ => body.extend([next, 0, 1, 4, 0, 0, 0, 0]),
            }
        }
        body.extend(segment);
        let tos = self.get(Field::IpTos) as u8;
        let mut ip = vec![0x60 | tos >> 4, tos << 4, 0, 0];
        ip.extend(((body.len() + self.longer()) as u16).to_be_bytes());
        ip.extend([kinds.first().copied().unwrap_or(last), self.get(Field::IpTtl) as u8]);
        ip.extend(self.get(Field::Ipv6Src).to_be_bytes());
        ip.extend(self.get(Field::Ipv6Dst).to_be_bytes());
        ip.extend(body);
        ip
    }

    /// The transport header and what follows it.
    fn segment(&self) -> Vec<u8> {
        let ports = || [self.u16(Field::SrcPort), self.u16(Field::DstPort)].concat();
        let icmp = || [self.get(Field::IcmpType) as u8, self.get(Field::IcmpCode) as u8, 0, 0];
        let proto = self.get(Field::IpProto) as u8;
        let (mut segment, check) = match proto {
            ip::TCP => {
                let flags = self.get(Field::TcpFlags) as u16;
                let words = 5 + self.options.len() as u16 / 4;
                let mut tcp = ports();
                tcp.extend(self.seq.to_be_bytes());
                tcp.extend(self.ack.to_be_bytes());
                tcp.extend((words << 12 | flags & 0xfff).to_be_bytes());
                tcp.extend(self.window.to_be_bytes());
                tcp.extend([0; 4]);
                tcp.extend(&self.options);
                (tcp, 16)
            }
            ip::UDP | ip::UDPLITE => {
                let mut udp = ports();
                udp.extend(((8 + self.payload.len() + self.longer()) as u16).to_be_bytes());
                udp.extend([0, 0]);
                (udp, 6)
            }
            ip::SCTP => {
                let mut sctp = ports();
                sctp.extend(self.seq.to_be_bytes());
                sctp.extend([0; 4]);
                (sctp, 8)
            }
            ip::ICMP | ip::ICMPV6 => {
                let mut message = icmp().to_vec();
                message.extend(self.id.to_be_bytes());
                message.extend([0, 1]);
                (message, 2)
            }
            ip::L2TP => return [&(self.get(Field::L2tpv3Sid) as u32).to_be_bytes()[..], &self.payload].concat(),
            ip::MPLS => return [self.labels(), self.payload.clone()].concat(),
            _ => return self.payload.clone(),
        };
        segment.extend(&self.payload);
        self.sum_up(proto, check, &mut segment);
        segment
    }

    fn sum_up(&self, proto: u8, at: usize, segment: &mut [u8]) {
        if proto == ip::SCTP {
            let crc = checksum::sctp(segment);
            segment[at..at + 4].copy_from_slice(&crc);
        } else {
            let (src, dst) = self.addresses();
            let pseudo = match proto {
                ip::ICMP => 0,
                _ => checksum::pseudo(src, dst, proto, segment.len() + self.longer()),
            };
            let check = match (proto, checksum::fold(checksum::sum(segment, pseudo))) {
                (ip::UDP | ip::UDPLITE, 0) => u16::MAX,
                (_, check) => check,
            };
            segment[at..at + 2].copy_from_slice(&check.to_be_bytes());
        }
        match self.fault {
            Some(Fault::Checksum) => segment[at] ^= 0x20,
            Some(Fault::NoChecksum) if proto == ip::UDP => segment[at..at + 2].fill(0),
            _ => {}
        }
    }

    /// The frames of the whole datagram in pieces of that many bytes (a multiple of eight) each.
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let segment = self.segment();
        let pieces = segment.chunks(size).enumerate();
        let last = segment.len().div_ceil(size).saturating_sub(1);
        pieces
            .map(|(i, piece)| {
                let fragment = Some(((i * size / 8) as u16, i < last));
                let datagram = match self.get(Field::EthType) as u16 {
                    et::IPV6 => self.ipv6_with(fragment, piece),
                    _ => self.ipv4_with(fragment, piece),
                };
                let mut frame = self.ethernet();
                self.session(&mut frame, datagram.len());
                frame.extend(datagram);
                frame
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowmerge::packet::dissect::arrived;

    fn tcp(ethertype: u16) -> Spec {
        let mut spec = Spec::new(Port(1))
            .with(Field::EthDst, 0x0200_0000_0002)
            .with(Field::EthType, ethertype.into())
            .with(Field::VlanTpid, 0x8100)
            .with(Field::VlanId, 10)
            .with(Field::VlanPrio, 5)
            .with(Field::IpProto, 6)
            .with(Field::IpTtl, 64)
            .with(Field::SrcPort, 1000)
            .with(Field::DstPort, 80)
            .with(Field::TcpFlags, 0x12);
        match ethertype {
            et::IPV6 => spec.key.set(Field::Ipv6Dst, 0xfd << 120 | 2),
            _ => spec.key.set(Field::Ipv4Dst, 0x0a00_0002),
        }
        spec
    }

    #[test]
    fn flower_sees_what_was_set() {
        for ethertype in [et::IPV4, et::IPV6] {
            let spec = Spec { extensions: vec![60], ..tcp(ethertype) };
            let seen = arrived(&spec.frame());
            for &field in Field::ALL.iter().filter(|&&f| spec.key.get(f) != 0) {
                assert_eq!(seen.get(field), spec.key.get(field), "{field} {ethertype:#x}");
            }
        }
    }

    #[test]
    fn flower_sees_labels_and_sessions() {
        let mut spec = Spec { carried: et::IPV4, ..tcp(et::MPLS) };
        for (at, [present, label, tc, bos, ttl]) in Field::MPLS.into_iter().enumerate() {
            let bottom = u128::from(at == 6);
            for (field, value) in [(present, 1), (label, 5), (tc, 3), (bos, bottom), (ttl, 64)] {
                spec.key.set(field, value);
            }
        }
        let mut session = tcp(et::IPV4);
        session.key.set(Field::PppProto, 0x21);
        session.key.set(Field::PppoeSid, 7);
        let labels = Field::MPLS.as_flattened();
        let outside = [Field::EthDst, Field::EthType, Field::VlanId];
        let all: Vec<Field> = Field::ALL.iter().copied().filter(|&field| session.key.get(field) != 0).collect();
        for (spec, fields) in [(spec, [labels, &outside].concat()), (session, all)] {
            let seen = arrived(&spec.frame());
            for field in fields {
                assert_eq!(seen.get(field), spec.key.get(field), "{field}");
            }
        }
    }

    #[test]
    fn fragments_are_the_datagram_in_pieces() {
        let spec = Spec { payload: vec![7; 30], ..tcp(et::IPV4) };
        let pieces = spec.fragments(24);
        let lengths: Vec<usize> = pieces.iter().map(|p| p.len() - 18 - 20).collect();
        assert_eq!(lengths, [24, 24, 2]);
        let whole: Vec<u8> = pieces.iter().flat_map(|p| p[38..].to_vec()).collect();
        assert_eq!(whole, spec.frame()[38..]);
    }
}
