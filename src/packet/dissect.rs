//! Bytes to a flower key, exactly as Linux 6.1 does it at a TC hook.
//!
//! Three things make the key: the path of a frame to the hook (`eth_type_trans`, then `skb_vlan_untag`, which moves the outer
//! tag out of the bytes into the *accelerated* tag), flower's own preparation (`fl_classify`), and the flow dissector
//! (`net/core/flow_dissector.c`, `__skb_flow_dissect` with `STOP_BEFORE_ENCAP`). The dissector does not start from the Ethernet
//! header but from the buffer's protocol and network offset, which actions may leave in odd places: after two `vlan push`
//! the protocol says VLAN while the network offset still is that of the IP header, and so the second tag is read from there.
//! Hence [`dissect`] works on a [`View`] of the buffer as it is at that moment; [`arrived`] makes the view of a new frame.
//!
//! CFM and the SPI are read as later kernels do (Linux 6.5, 6.6). The fields that do not come from bytes (`indev`, `ct_*`, `enc_*`,
//! `hash`, `l2_miss`) are left 0.

use crate::flower::{
    Field, Key,
    field::{addr_type, ip_flags},
};

pub use crate::flower::ethertype::{self, is_vlan};
use ethertype as et;

/// IP protocol numbers that the dissector knows.
mod ip {
    pub const HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const DCCP: u8 = 33;
    pub const IPV6: u8 = 41;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const DEST: u8 = 60;
    pub const L2TP: u8 = 115;
    pub const SCTP: u8 = 132;
    pub const UDPLITE: u8 = 136;
    pub const MPLS: u8 = 137;
}

/// Length of an Ethernet header without tags.
pub const ETHERNET: usize = 14;

/// Length of a VLAN tag.
pub const VLAN: usize = 4;

/// How many headers the dissector goes back for (`MAX_FLOW_DISSECT_HDRS`).
const HEADERS: u32 = 15;

/// How many MPLS entries it reads (`FLOW_DIS_MPLS_MAX`).
const MPLS_ENTRIES: u32 = Field::MPLS.len() as u32;

/// A VLAN tag beside the bytes, as hardware strips it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Ethertype of the tag itself, 0x8100 or 0x88a8.
    pub protocol: u16,
    /// Priority (3 bits), drop-eligible (1), identifier (12).
    pub tci: u16,
}

impl Tag {
    /// The identifier.
    pub fn id(self) -> u16 {
        self.tci & 0x0fff
    }

    /// The priority.
    pub fn prio(self) -> u16 {
        self.tci >> 13
    }
}

/// A packet buffer at a TC hook.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The bytes, from the Ethernet header to the end.
    pub bytes: &'a [u8],
    /// The accelerated tag.
    pub tag: Option<Tag>,
    /// The ethertype that the buffer says it carries (`skb->protocol`): not counting the accelerated tag.
    pub protocol: u16,
    /// Where the network header starts in `bytes`.
    pub network: usize,
}

/// A key and where its headers lie in the view's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dissected {
    /// The key.
    pub key: Key,
    /// Start of the last network header that was read (IPv4 or IPv6), or of what follows the Ethernet header and tags.
    pub network: usize,
    /// Where dissection stopped: the transport header, where there is one. Not beyond the end.
    pub transport: usize,
}

/// What the kernel takes as protocol where the header says `said`: a length becomes 802.3 or 802.2, by the two bytes behind it.
pub fn protocol_of(said: u16, behind: Option<[u8; 2]>) -> u16 {
    match (said, behind) {
        (0x0600.., _) => said,
        (_, Some([0xff, 0xff])) => et::NOVELL,
        _ => et::LLC,
    }
}

impl<'a> View<'a> {
    /// A frame as it comes in from the wire, or `None` if the kernel drops it before TC: without a whole Ethernet header, or
    /// with a tag that has less than two bytes behind it.
    ///
    /// The outer tag stays in `bytes` (its addresses stand where they always do), the network offset is behind it.
    pub fn arrived(frame: &'a [u8]) -> Option<View<'a>> {
        let protocol = protocol_of(be16(frame, 12)?, array(frame, ETHERNET));
        let untagged = View { bytes: frame, tag: None, protocol, network: ETHERNET };
        if !is_vlan(protocol) {
            return Some(untagged);
        }
        let behind = array(frame, ETHERNET + VLAN)?;
        Some(View {
            tag: Some(Tag { protocol, tci: be16(frame, ETHERNET)? }),
            protocol: protocol_of(be16(frame, ETHERNET + 2)?, Some(behind)),
            network: ETHERNET + VLAN,
            ..untagged
        })
    }

    /// The protocol that TC compares with a filter's (`skb_protocol`): that of the accelerated tag, if there is one.
    pub fn outer_protocol(&self) -> u16 {
        self.tag.map_or(self.protocol, |tag| tag.protocol)
    }
}

/// The key of a frame as on the wire, tags in its bytes. A frame that never reaches TC (see [`View::arrived`]) has no fields
/// but those of its Ethernet header.
pub fn arrived(frame: &[u8]) -> Key {
    match View::arrived(frame) {
        Some(view) => dissect(&view).key,
        None => {
            let mut key = Key::ZERO;
            addresses(frame, &mut key);
            let protocol = be16(frame, 12).unwrap_or(0);
            key.set(Field::Protocol, protocol.into());
            key.set(Field::EthType, protocol.into());
            key
        }
    }
}

/// Whether the dissector goes on with another ethertype, another IP protocol, or is at its end.
enum Next {
    Ethertype,
    IpProtocol,
    Done,
}

/// The key of a buffer.
pub fn dissect(view: &View) -> Dissected {
    let mut dissector = Dissector {
        view,
        key: Key::ZERO,
        proto: view.outer_protocol(),
        at: view.network,
        network: view.network,
        ip_proto: 0,
        tags: 0,
        labels: 0,
        encapsulated: false,
        headers: 0,
    };
    addresses(view.bytes, &mut dissector.key);
    dissector.key.set(Field::Protocol, dissector.proto.into());
    // `None`: the header was bad; the key keeps what was read before it.
    let _ = dissector.run();
    dissector.key.set(Field::EthType, dissector.proto.into());
    dissector.key.set(Field::IpProto, dissector.ip_proto.into());
    Dissected { key: dissector.key, network: dissector.network, transport: dissector.at.min(view.bytes.len()) }
}

fn addresses(bytes: &[u8], key: &mut Key) {
    key.set(Field::EthDst, int(bytes, 0, 6).unwrap_or(0));
    key.set(Field::EthSrc, int(bytes, 6, 6).unwrap_or(0));
}

struct Dissector<'a> {
    view: &'a View<'a>,
    key: Key,
    proto: u16,
    at: usize,
    network: usize,
    ip_proto: u8,
    tags: u8,
    labels: u32,
    encapsulated: bool,
    headers: u32,
}

impl Dissector<'_> {
    fn run(&mut self) -> Option<()> {
        loop {
            match self.ethertype()? {
                Next::Ethertype if self.allowed() => continue,
                Next::IpProtocol => {}
                _ => return Some(()),
            }
            loop {
                let next = self.ip_protocol();
                // Ports are looked for after every header, a bad one too, by the protocol that it names.
                if self.key.get(Field::IpFlags) == 0 {
                    self.ports();
                }
                match next? {
                    Next::IpProtocol if self.allowed() => continue,
                    Next::Ethertype if self.allowed() => break,
                    _ => return Some(()),
                }
            }
        }
    }

    fn allowed(&mut self) -> bool {
        self.headers += 1;
        self.headers <= HEADERS
    }

    fn ethertype(&mut self) -> Option<Next> {
        let bytes = self.view.bytes;
        match self.proto {
            et::IPV4 => self.ipv4(),
            et::IPV6 => self.ipv6(),
            et::VLAN | et::QINQ => self.vlan(),
            et::PPPOE => self.pppoe(),
            et::MPLS | et::MPLS_MC => self.mpls(),
            et::ARP | et::RARP => self.arp(),
            et::CFM => {
                // Level and version share a byte, the operation is the next.
                let header: [u8; 2] = array(bytes, self.at)?;
                self.key.set(Field::CfmLevel, u128::from(header[0] >> 5));
                self.key.set(Field::CfmOpcode, header[1].into());
                Some(Next::Done)
            }
            et::BATMAN => {
                // Unicast (type 0x40) of version 15: ten bytes, then an Ethernet header.
                let header: [u8; 24] = array(bytes, self.at)?;
                if header[0] != 0x40 || header[1] != 15 {
                    return None;
                }
                self.proto = be16(&header, 22)?;
                self.at += header.len();
                self.encapsulated = true;
                Some(Next::Ethertype)
            }
            et::HSR | et::PRP => {
                let tag: [u8; 6] = array(bytes, self.at)?;
                self.proto = be16(&tag, 4)?;
                self.at += tag.len();
                Some(Next::Ethertype)
            }
            _ => None,
        }
    }

    fn ipv4(&mut self) -> Option<Next> {
        let header: [u8; 20] = array(self.view.bytes, self.at)?;
        let words = usize::from(header[0] & 0xf);
        if words < 5 {
            return None;
        }
        self.network = self.at;
        self.at += words * 4;
        self.ip_proto = header[9];
        self.key.set(Field::AddrType, addr_type::IPV4);
        self.key.set(Field::Ipv4Src, int(&header, 12, 4)?);
        self.key.set(Field::Ipv4Dst, int(&header, 16, 4)?);
        self.key.set(Field::IpTos, header[1].into());
        self.key.set(Field::IpTtl, header[8].into());
        let fragment = be16(&header, 6)?;
        if fragment & 0x3fff == 0 {
            return Some(Next::IpProtocol);
        }
        self.fragment(fragment & 0x1fff == 0);
        Some(Next::Done)
    }

    fn ipv6(&mut self) -> Option<Next> {
        let header: [u8; 40] = array(self.view.bytes, self.at)?;
        self.network = self.at;
        self.at += header.len();
        self.ip_proto = header[6];
        self.key.set(Field::AddrType, addr_type::IPV6);
        self.key.set(Field::Ipv6Src, int(&header, 8, 16)?);
        self.key.set(Field::Ipv6Dst, int(&header, 24, 16)?);
        self.key.set(Field::IpTos, (be16(&header, 0)? >> 4 & 0xff).into());
        self.key.set(Field::IpTtl, header[7].into());
        Some(Next::IpProtocol)
    }

    fn fragment(&mut self, first: bool) {
        let first = if first { ip_flags::FIRST } else { 0 };
        let flags = self.key.get(Field::IpFlags) | ip_flags::FRAG | first;
        self.key.set(Field::IpFlags, flags);
    }

    fn vlan(&mut self) -> Option<Next> {
        let tpid = self.proto;
        let tag = match self.view.tag {
            Some(tag) if self.tags == 0 => {
                self.proto = self.view.protocol;
                tag
            }
            _ => {
                let tci = be16(self.view.bytes, self.at)?;
                self.proto = be16(self.view.bytes, self.at + 2)?;
                self.at += VLAN;
                Tag { protocol: tpid, tci }
            }
        };
        if !self.encapsulated {
            let tags = self.key.get(Field::NumOfVlans) + 1;
            self.key.set(Field::NumOfVlans, tags);
        }
        use Field::*;
        let [tpid_field, id, prio, behind] = match self.tags {
            0 => [VlanTpid, VlanId, VlanPrio, VlanEthType],
            1 => [CvlanTpid, CvlanId, CvlanPrio, CvlanEthType],
            _ => return Some(Next::Ethertype),
        };
        self.tags += 1;
        self.key.set(tpid_field, tpid.into());
        self.key.set(id, tag.id().into());
        self.key.set(prio, tag.prio().into());
        self.key.set(behind, self.proto.into());
        Some(Next::Ethertype)
    }

    fn pppoe(&mut self) -> Option<Next> {
        let header: [u8; 8] = array(self.view.bytes, self.at)?;
        // Version 1, type 1, code 0 (session data).
        if header[0] != 0x11 || header[1] != 0 {
            return None;
        }
        let ppp = be16(&header, 6)?;
        self.at += header.len();
        let inside = match ppp {
            0x0021 => Some(et::IPV4),
            0x0057 => Some(et::IPV6),
            0x0281 => Some(et::MPLS),
            0x0283 => Some(et::MPLS_MC),
            _ if ppp & 0x0101 == 1 => None,
            _ => return None,
        };
        self.key.set(Field::PppoeSid, int(&header, 2, 2)?);
        self.key.set(Field::PppProto, ppp.into());
        Some(match inside {
            Some(proto) => {
                self.proto = proto;
                Next::Ethertype
            }
            None => Next::Done,
        })
    }

    fn mpls(&mut self) -> Option<Next> {
        let index = self.labels;
        self.labels += 1;
        let entry = int(self.view.bytes, self.at, 4);
        self.at += 4;
        if index >= MPLS_ENTRIES {
            return Some(Next::Done);
        }
        let entry = entry?;
        let [present, label, tc, bos, ttl] = Field::MPLS[index as usize];
        for (field, value) in [(present, 1), (label, entry >> 12), (tc, entry >> 9), (bos, entry >> 8), (ttl, entry)] {
            self.key.set(field, value);
        }
        Some(if entry >> 8 & 1 == 1 { Next::Done } else { Next::Ethertype })
    }

    fn arp(&mut self) -> Option<Next> {
        let header: [u8; 8] = array(self.view.bytes, self.at)?;
        // Ethernet, IPv4, six and four bytes, request or reply.
        if header[..7] != [0, 1, 8, 0, 6, 4, 0] || !matches!(header[7], 1 | 2) {
            return None;
        }
        let body: [u8; 20] = array(self.view.bytes, self.at + header.len())?;
        self.key.set(Field::ArpOp, header[7].into());
        self.key.set(Field::ArpSha, int(&body, 0, 6)?);
        self.key.set(Field::ArpSip, int(&body, 6, 4)?);
        self.key.set(Field::ArpTha, int(&body, 10, 6)?);
        self.key.set(Field::ArpTip, int(&body, 16, 4)?);
        Some(Next::Done)
    }

    fn ip_protocol(&mut self) -> Option<Next> {
        let bytes = self.view.bytes;
        match self.ip_proto {
            ip::GRE | ip::IPIP | ip::IPV6 => {}
            ip::HOP | ip::ROUTING | ip::DEST if self.proto == et::IPV6 => {
                let header: [u8; 2] = array(bytes, self.at)?;
                self.ip_proto = header[0];
                self.at += (usize::from(header[1]) + 1) * 8;
                return Some(Next::IpProtocol);
            }
            ip::FRAGMENT if self.proto == et::IPV6 => {
                let header: [u8; 8] = array(bytes, self.at)?;
                self.ip_proto = header[0];
                self.at += header.len();
                self.fragment(be16(&header, 2)? & 0xfff8 == 0);
            }
            ip::MPLS => {
                self.proto = et::MPLS;
                return Some(Next::Ethertype);
            }
            ip::TCP => {
                if let Some(header) = array::<20>(bytes, self.at)
                    && header[12] >> 4 >= 5
                {
                    self.key.set(Field::TcpFlags, int(&header, 12, 2)?);
                }
            }
            ip::ICMP | ip::ICMPV6 => {
                if let Some(header) = array::<8>(bytes, self.at) {
                    self.key.set(Field::IcmpType, header[0].into());
                    self.key.set(Field::IcmpCode, header[1].into());
                }
            }
            ip::ESP => self.spi::<8>(0),
            ip::AH => self.spi::<12>(4),
            ip::L2TP => {
                if let Some(session) = int(bytes, self.at, 4) {
                    self.key.set(Field::L2tpv3Sid, session);
                }
            }
            _ => {}
        }
        Some(Next::Done)
    }

    /// The SPI, at `offset` in a header of which the first `LEN` bytes must be there.
    fn spi<const LEN: usize>(&mut self, offset: usize) {
        if let Some(spi) = array::<LEN>(self.view.bytes, self.at).and_then(|header| int(&header, offset, 4)) {
            self.key.set(Field::Spi, spi);
        }
    }

    fn ports(&mut self) {
        // `proto_ports_offset`; what ESP and AH have there is their SPI.
        let offset = match self.ip_proto {
            ip::TCP | ip::UDP | ip::DCCP | ip::ESP | ip::SCTP | ip::UDPLITE => Some(0),
            ip::AH => Some(4),
            _ => None,
        };
        let ports = offset.and_then(|offset| int(self.view.bytes, self.at + offset, 4)).unwrap_or(0);
        self.key.set(Field::SrcPort, ports >> 16);
        self.key.set(Field::DstPort, ports);
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// Up to sixteen bytes as an integer in network order.
fn int(bytes: &[u8], at: usize, len: usize) -> Option<u128> {
    let bytes = bytes.get(at..)?.get(..len)?;
    Some(bytes.iter().fold(0, |value, &byte| value << 8 | u128::from(byte)))
}

#[cfg(test)]
mod tests;
