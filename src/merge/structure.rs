//! How headers follow from each other: what a packet that has some fields cannot help having in others.
//!
//! A packet whose protocol is IPv4 has no VLAN tag and no IPv6 address. Flower compares fields that
//! are absent as 0, so a filter may ask for such things, and a shadow may need them. What follows anyway costs a merged match
//! nothing, and a shadow that contradicts it needs no cut.
//!
//! One thing is said with care: fragments show no ports, flags and types, to flower. To much hardware the first of them does. So
//! what is asked of fragments asks nothing of ports; but a match that asks for a port does not thereby keep fragments out
//! ([`with_fragments`]).
//!
//! All of this is what the kernel's dissector does (`net/core/flow_dissector.c`, as [`dissect`](mod@crate::packet::dissect) tells it), for
//! packets as they arrive. A property holds it against that.

use crate::flower::{
    Field, Match, Range, ethertype,
    field::{addr_type, enc_options, ip_flags, ip_proto},
    key::Fields,
};
use Field::*;
use smallvec::SmallVec;

static TAGS: Fields =
    Fields::new(&[NumOfVlans, VlanTpid, VlanId, VlanPrio, VlanEthType, CvlanTpid, CvlanId, CvlanPrio, CvlanEthType]);
static INNER_TAG: Fields = Fields::new(&[CvlanTpid, CvlanId, CvlanPrio, CvlanEthType]);
static BEHIND_INNER_TAG: Fields = Fields::new(&[CvlanId, CvlanPrio, CvlanEthType]);
static ARP: Fields = Fields::new(&[ArpSip, ArpTip, ArpOp, ArpSha, ArpTha]);
static V4: Fields = Fields::new(&[Ipv4Src, Ipv4Dst]);
static V6: Fields = Fields::new(&[Ipv6Src, Ipv6Dst]);
static PORTS: Fields = Fields::new(&[SrcPort, DstPort]);
static ICMP: Fields = Fields::new(&[IcmpType, IcmpCode]);
static PPPOE: Fields = Fields::new(&[PppoeSid, PppProto]);
static CFM: Fields = Fields::new(&[CfmLevel, CfmOpcode]);
static TUNNEL: Fields = Fields::new(&Field::TUNNEL);
static OUTER_V4: Fields = Fields::new(&[EncIpv4Src, EncIpv4Dst]);
static OUTER_V6: Fields = Fields::new(&[EncIpv6Src, EncIpv6Dst]);
static BEHIND_OPTIONS: Fields = Fields::new(&[EncOpts1, EncOpts2, EncOpts3]);
static OPTIONS: Fields = Fields::new(&[EncOptsType, EncOpts0, EncOpts1, EncOpts2, EncOpts3]);

/// Ethertypes of what may be a tag, or have tags behind it that are counted with those in front.
const TAGGED: [u16; 4] = [ethertype::VLAN, ethertype::QINQ, ethertype::HSR, ethertype::PRP];

/// The entries of the label stack from this one on.
static LABELS: [Fields; Field::MPLS.len() + 1] = {
    const ALL: &[Field] = Field::MPLS.as_flattened();
    [
        Fields::new(ALL),
        Fields::new(ALL.split_at(5).1),
        Fields::new(ALL.split_at(10).1),
        Fields::new(ALL.split_at(15).1),
        Fields::new(ALL.split_at(20).1),
        Fields::new(ALL.split_at(25).1),
        Fields::new(ALL.split_at(30).1),
        Fields::new(&[]),
    ]
};

/// What lies in the network header or behind it, but for what shows less.
static NETWORK: Fields = Fields::new(&[
    IpProto, IpTos, IpTtl, IpFlags, Ipv4Src, Ipv4Dst, Ipv6Src, Ipv6Dst, SrcPort, DstPort, TcpFlags, IcmpType,
]);

/// What is not there without an IP header.
static OF_IP: Fields = Fields::new(&[
    Ipv4Src, Ipv4Dst, Ipv6Src, Ipv6Dst, IpProto, IpTos, IpTtl, IpFlags, TcpFlags, L2tpv3Sid, Spi, SrcPort, DstPort,
    IcmpType, IcmpCode,
]);

/// What lies in the transport header.
static BEHIND: Fields = Fields::new(&[SrcPort, DstPort, TcpFlags, IcmpType, IcmpCode, L2tpv3Sid, Spi]);

static FLAGS: Fields = Fields::new(&[TcpFlags]);
static SESSION: Fields = Fields::new(&[L2tpv3Sid]);
static INDEX: Fields = Fields::new(&[Spi]);

/// Fields of which the dissector, or a tunnel, tells no other values than these.
const VALUES: [(Field, &[u128]); 6] = [
    (VlanTpid, &[0, ethertype::VLAN as u128, ethertype::QINQ as u128]),
    (CvlanTpid, &[0, ethertype::VLAN as u128, ethertype::QINQ as u128]),
    (AddrType, &[0, addr_type::IPV4, addr_type::IPV6]),
    (ArpOp, &[0, 1, 2]),
    (EncAddrType, &[0, addr_type::IPV4, addr_type::IPV6]),
    (EncOptsType, &[0, enc_options::GENEVE, enc_options::VXLAN, enc_options::ERSPAN, enc_options::GTP]),
];

/// What is known of a packet, and whether it has come to contradict itself.
struct Facts<'a> {
    all: &'a mut Match,
    possible: bool,
    more: bool,
}

impl Facts<'_> {
    /// The field's value, if all of it is known.
    fn is(&self, field: Field) -> Option<u128> {
        (self.all.mask.get(field) == field.ones()).then(|| self.all.key.get(field))
    }

    fn tell(&mut self, field: Field, mask: u128, value: u128) {
        let known = self.all.mask.get(field);
        self.possible &= (self.all.key.get(field) ^ value) & known & mask == 0;
        if mask & !known != 0 {
            self.all.set(field, value, mask & !known);
            self.more = true;
        }
    }

    fn absent(&mut self, fields: &Fields) {
        self.possible &= !self.all.key.any(fields);
        self.more |= self.all.mask.fill(fields);
    }

    /// What is behind the tags is this.
    fn network(&mut self, ethertype: u16) {
        // IP may carry MPLS (protocol 137), which then is the innermost ethertype.
        let common = !(ethertype ^ ethertype::MPLS);
        match ethertype {
            ethertype::IPV4 | ethertype::IPV6 => {
                self.tell(EthType, common.into(), (ethertype & common).into());
                self.ip(ethertype);
                self.absent(&ARP);
            }
            _ if is_last(ethertype) => {
                self.tell(EthType, 0xffff, ethertype.into());
                self.tell(AddrType, 0xffff, 0);
            }
            _ => return,
        }
        self.absent(&PPPOE);
    }

    /// There is no network header but, if it is whole, one of this kind.
    fn ip(&mut self, ethertype: u16) {
        let (kind, others) = if ethertype == ethertype::IPV4 { (addr_type::IPV4, &V6) } else { (addr_type::IPV6, &V4) };
        // What holds something is there.
        let holds = self.all.key.any(&NETWORK);
        self.tell(AddrType, if holds { 0xffff } else { 0xffff & !kind }, if holds { kind } else { 0 });
        self.possible &= self.is(AddrType).is_none_or(|k| k == 0 || k == kind);
        self.absent(others);
    }

    fn rules(&mut self) {
        self.values();
        // Tags, from the outside.
        if let Some(protocol) = self.is(Protocol).map(|p| p as u16) {
            match protocol {
                ethertype::VLAN | ethertype::QINQ => {
                    self.tell(VlanTpid, 0xffff, protocol.into());
                    self.possible &= self.is(NumOfVlans) != Some(0);
                    if !TAGGED.into_iter().any(|ethertype| self.may_be(VlanEthType, ethertype)) {
                        self.tell(NumOfVlans, 0xff, 1);
                    }
                }
                // They go on with another ethertype.
                ethertype::BATMAN | ethertype::HSR | ethertype::PRP => {}
                _ => {
                    self.absent(&TAGS);
                    self.network(protocol);
                }
            }
        }
        if self.is(VlanTpid) == Some(0) {
            self.absent(&TAGS);
        }
        if self.is(CvlanTpid) == Some(0) {
            self.absent(&BEHIND_INNER_TAG);
            self.tell(NumOfVlans, 0xfe, 0);
        }
        if let Some(behind) = self.ethertype(VlanEthType).filter(|&e| is_last(e)) {
            self.absent(&INNER_TAG);
            self.network(behind);
        }
        if let Some(behind) = self.ethertype(CvlanEthType).filter(|&e| is_last(e)) {
            self.network(behind);
        }
        // The network header.
        match self.ethertype(EthType) {
            Some(kind @ (ethertype::IPV4 | ethertype::IPV6)) => {
                self.ip(kind);
                self.absent(&ARP);
            }
            Some(ethertype::ARP) => self.tell(AddrType, 0xffff, 0),
            _ => {}
        }
        // It is read with the rest or not at all.
        if self.is(ArpOp) == Some(0) {
            self.absent(&ARP);
        }
        if let Some(innermost) = self.ethertype(EthType) {
            if innermost != ethertype::CFM {
                self.absent(&CFM);
            }
            if !ethertype::is_mpls(innermost) {
                self.absent(&LABELS[0]);
            }
        }
        self.labels();
        self.tunnel();
        match self.is(AddrType) {
            Some(0) => self.absent(&OF_IP),
            Some(addr_type::IPV4) => self.absent(&V6),
            Some(addr_type::IPV6) => self.absent(&V4),
            _ => {}
        }
        // What is behind it.
        if let Some(proto) = self.is(IpProto).map(|p| p as u8) {
            if proto != ip_proto::TCP {
                self.absent(&FLAGS);
            }
            if proto != ip_proto::L2TP {
                self.absent(&SESSION);
            }
            if !matches!(proto, ip_proto::ESP | ip_proto::AH) {
                self.absent(&INDEX);
            }
            if !matches!(proto, ip_proto::ICMP | ip_proto::ICMPV6) {
                self.absent(&ICMP);
            } else {
                self.absent(&PORTS);
            }
        }
        let (flags, known) = (self.all.key.get(IpFlags), self.all.mask.get(IpFlags));
        if flags & ip_flags::FIRST != 0 {
            self.tell(IpFlags, ip_flags::FRAG, ip_flags::FRAG);
        }
        if known & ip_flags::FRAG != 0 && flags & ip_flags::FRAG == 0 {
            self.tell(IpFlags, ip_flags::FIRST, 0);
        }
        if flags & ip_flags::FRAG != 0 {
            self.absent(&BEHIND);
        }
    }

    /// Bits in which all values agree that are left to a field.
    fn values(&mut self) {
        for (field, values) in VALUES {
            let (key, known) = (self.all.key.get(field), self.all.mask.get(field));
            if known == 0 {
                continue;
            }
            let left = || values.iter().filter(|&&value| (value ^ key) & known == 0);
            let (ones, zeros) = left().fold((field.ones(), field.ones()), |(o, z), &v| (o & v, z & !v));
            self.possible &= left().next().is_some();
            self.tell(field, ones ^ zeros, ones);
        }
    }

    /// An entry of the label stack is there behind one that is not the bottom, and only there.
    fn labels(&mut self) {
        if !self.all.mask.any(&LABELS[0]) {
            return;
        }
        for (depth, entry) in Field::MPLS.iter().enumerate() {
            let [present, _, _, bottom, _] = *entry;
            if entry.iter().any(|&field| self.all.key.get(field) != 0) {
                self.tell(present, 1, 1);
            }
            if self.is(present) == Some(1) && depth > 0 {
                let [above, _, _, bottom, _] = Field::MPLS[depth - 1];
                self.tell(above, 1, 1);
                self.tell(bottom, 1, 0);
            }
            if self.is(present) == Some(0) || self.is(bottom) == Some(1) {
                let gone = if self.is(present) == Some(0) { depth } else { depth + 1 };
                self.absent(&LABELS[gone]);
            }
        }
    }

    /// All that is known of a tunnel is known of one, with addresses of one kind.
    fn tunnel(&mut self) {
        match self.is(EncAddrType) {
            Some(0) => self.absent(&TUNNEL),
            Some(addr_type::IPV4) => self.absent(&OUTER_V6),
            Some(addr_type::IPV6) => self.absent(&OUTER_V4),
            _ => {}
        }
        let len = match self.is(EncOptsType) {
            Some(enc_options::VXLAN) => Some(4),
            Some(enc_options::ERSPAN) => Some(12),
            Some(enc_options::GTP) => Some(2),
            _ => None,
        };
        if let Some(len) = len {
            self.tell(EncOptsLen, EncOptsLen.ones(), len);
            self.tell(EncOpts0, u128::MAX >> (8 * len), 0);
            self.absent(&BEHIND_OPTIONS);
        }
        if self.is(EncOptsLen) == Some(0) {
            self.absent(&OPTIONS);
        }
    }

    fn may_be(&self, field: Field, ethertype: u16) -> bool {
        (self.all.key.get(field) ^ u128::from(ethertype)) & self.all.mask.get(field) == 0
    }

    fn ethertype(&self, field: Field) -> Option<u16> {
        self.is(field).map(|v| v as u16)
    }
}

/// The same without what stands in the transport header, which some see in fragments too.
pub fn with_fragments(asked: &Match) -> Match {
    let mut all = Match { src_range: None, dst_range: None, ..*asked };
    all.mask.clear(&BEHIND);
    all.key.clear(&BEHIND);
    all
}

/// Whether no other ethertype follows, whatever the header holds. 0 may be that there is no header.
fn is_last(ethertype: u16) -> bool {
    ethertype != 0 && !ethertype::carries(ethertype) || ethertype::is_mpls(ethertype)
}

/// What is asked for and all that follows from it for a packet as it arrives; `None` if no packet is like that.
pub fn follows(asked: &Match) -> Option<Match> {
    let mut all = *asked;
    tell(&mut all).then_some(all)
}

/// Adds all that follows from what is asked for. False if no packet is like that.
fn tell(all: &mut Match) -> bool {
    let mut facts = Facts { all, possible: true, more: true };
    while facts.more && facts.possible {
        facts.more = false;
        facts.rules();
    }
    let possible = facts.possible;
    let meets = |(f, range): (Field, Range)| range.meets(all.mask.get(f) as u16, all.key.get(f) as u16);
    possible && all.ranges().all(meets)
}

/// Whether a packet can be what is asked for. What it says is used up.
pub fn is_possible(mut asked: Match) -> bool {
    tell(&mut asked)
}

/// Whether a packet can match both, by their bits and port ranges and by what headers say of each other.
pub fn meet(a: &Match, b: &Match) -> bool {
    a.both(b).and_then(|both| follows(&both)).is_some()
}

/// Drops what follows from the rest of the match. Left is what flower has to be asked for another field to be looked at,
/// and `kept`: what the merge excludes on purpose, also where hardware might see more of a packet than flower does.
pub fn spare(asked: &mut Match, kept: &[(Field, u128)]) {
    let mut fields: SmallVec<[Field; 24]> = asked.mask.fields().map(|(field, _)| field).collect();
    for i in (0..fields.len()).rev() {
        let field = fields[i];
        // What follows is that something is absent, or one of these.
        let may_follow =
            asked.key.get(field) == 0 || matches!(field, EthType | VlanTpid | NumOfVlans | AddrType | IpFlags | Mpls1);
        let named = |f: Field| f.row().prerequisite == Some(field);
        if !may_follow || fields.iter().any(|&f| named(f)) || asked.ranges().any(|(f, _)| named(f)) {
            continue;
        }
        let kept = kept.iter().filter(|k| k.0 == field).fold(0, |all, k| all | k.1);
        // Flags follow from one another: bit by bit.
        let parts: &[u128] = if field == IpFlags { &[ip_flags::FRAG, ip_flags::FIRST] } else { &[u128::MAX] };
        for part in parts {
            let (mask, key) = (asked.mask.get(field), asked.key.get(field));
            let part = mask & part & !kept;
            if part == 0 {
                continue;
            }
            asked.mask.set(field, mask & !part);
            asked.key.set(field, key & !part);
            if !follows(asked).is_some_and(|told| told.mask.get(field) & part == part) {
                asked.mask.set(field, mask);
                asked.key.set(field, key);
            }
        }
        if asked.mask.get(field) == 0 {
            fields.remove(i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flower::tunnel::{Erspan, GeneveOption, Tunnel, TunnelFlags, TunnelOptions},
        merge::tests::cases,
        packet::dissect::arrived,
    };
    use proptest::prelude::*;
    use std::net::IpAddr;

    /// Frames of headers put together by chance, most of them in an order that makes sense.
    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let types = [0x0800u16, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x8847, 0x8864, 0x88fb, 0x4305, 0x88b5, 0x8902];
        let ethertype = || prop::sample::select(types.to_vec());
        let proto = prop::sample::select(vec![6u8, 17, 1, 58, 132, 0, 43, 44, 47, 50, 51, 60, 115, 137]);
        let tags = prop::collection::vec((prop::sample::select(vec![0x8100u16, 0x88a8]), 0u16..0x20), 0..3);
        let body =
            prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => Just(1), 1 => Just(6), 1 => any::<u8>()], 0..90);
        (tags, ethertype(), ethertype(), proto, body, prop::bool::weighted(0.2)).prop_map(
            |(tags, network, inner, proto, mut body, fragment)| {
                let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
                for (tpid, tci) in tags {
                    frame.extend([tpid.to_be_bytes(), tci.to_be_bytes()].concat());
                }
                frame.extend(network.to_be_bytes());
                let set = |body: &mut Vec<u8>, at: usize, value: &[u8]| {
                    if let Some(place) = body.get_mut(at..at + value.len()) {
                        place.copy_from_slice(value);
                    }
                };
                match network {
                    0x0800 => {
                        set(&mut body, 0, &[0x45]);
                        set(&mut body, 6, &[if fragment { 0x20 } else { 0 }, 0]);
                        set(&mut body, 9, &[proto]);
                    }
                    0x86dd => set(&mut body, 6, &[proto]),
                    0x0806 => set(&mut body, 0, &[0, 1, 8, 0, 6, 4, 0, 1]),
                    0x8864 => set(&mut body, 0, &[0x11, 0, 0, 1, 0, 0, 0, 0x21, 0x45]),
                    0x4305 => set(&mut body, 0, &[0x40, 15]),
                    0x88fb => set(&mut body, 4, &inner.to_be_bytes()),
                    _ => {}
                }
                frame.extend(body);
                frame
            },
        )
    }

    fn outer([id, kind, option, port]: [u8; 4]) -> Tunnel {
        let address = |n: u8| match kind % 2 {
            0 => IpAddr::from([10, 0, 0, n]),
            _ => IpAddr::from(u128::from(n).to_be_bytes()),
        };
        let options = match option % 6 {
            0 => TunnelOptions::None,
            1 => TunnelOptions::Vxlan { gbp: option.into() },
            2 => TunnelOptions::Gtp { pdu_type: option, qfi: option },
            3 => TunnelOptions::Erspan(Erspan::Hardware { dir: option & 1, hwid: option & 0x3f }),
            4 => TunnelOptions::Erspan(Erspan::Index(option.into())),
            _ => TunnelOptions::Geneve(vec![GeneveOption { class: 1, kind: 2, data: vec![option; 20] }]),
        };
        let flags = TunnelFlags::empty();
        let (id, src_port) = ((id != 0).then_some(id.into()), port.into());
        Tunnel {
            id,
            src: address(0),
            dst: address(id.unwrap_or(9) as u8),
            src_port,
            dst_port: 0,
            tos: 0,
            ttl: 0,
            flags,
            options,
        }
    }

    proptest! {
        #![proptest_config(cases(1500))]
        #[test]
        fn what_follows_holds_of_every_packet(
            frame in frame(), tunnel in prop::option::of(any::<[u8; 4]>()), fields in prop::collection::vec((prop::sample::select(Field::ALL.to_vec()), any::<bool>()), 1..6)
        ) {
            prop_assume!(crate::packet::dissect::View::arrived(&frame).is_some());
            let packet = Tunnel::tell(tunnel.map(outer).as_ref(), arrived(&frame));
            let mut asked = Match::default();
            for (field, whole) in fields {
                let mask = if whole { field.ones() } else { packet.get(field) };
                asked.set(field, packet.get(field), mask);
            }
            let told = follows(&asked);
            prop_assert!(told.is_some_and(|t| t.fits(&packet)), "{packet:?} {asked:?} {told:?}");
            let mut least = asked;
            spare(&mut least, &[]);
            prop_assert_eq!(follows(&least), told, "{:?} {:?}", asked, least);
        }
    }

    /// Pairs of which a packet can have each, but not both.
    #[test]
    fn headers_exclude_each_other() {
        let (v4, v6, arp) = (0x0800, 0x86dd, 0x0806);
        let pairs = [
            (
                (Protocol, v4),
                vec![(VlanId, 1), (NumOfVlans, 1), (EthType, v6), (AddrType, 3), (Ipv6Src, 1), (ArpOp, 1)],
            ),
            ((Protocol, v6), vec![(CvlanPrio, 1), (EthType, v4), (AddrType, 2), (Ipv4Dst, 1), (ArpSip, 1)]),
            ((Protocol, arp), vec![(EthType, v4), (AddrType, 2), (IpProto, 6), (MplsTc, 1), (VlanPrio, 1)]),
            ((Protocol, 0x88b5), vec![(VlanTpid, 0x8100), (CvlanId, 1)]),
            ((Protocol, 0x8100), vec![(VlanTpid, 0x88a8), (NumOfVlans, 0)]),
            ((VlanEthType, v4), vec![(CvlanId, 1), (EthType, v6), (AddrType, 3), (Ipv6Dst, 1)]),
            ((VlanEthType, arp), vec![(EthType, v4), (CvlanTpid, 0x8100), (IpTtl, 1)]),
            ((VlanEthType, 0x8902), vec![(CvlanTpid, 0x8100), (EthType, v4), (IpFlags, 1), (MplsLabel, 1)]),
            ((CvlanEthType, 0x88b5), vec![(EthType, v4), (AddrType, 3), (PppoeSid, 1), (CfmLevel, 1)]),
            ((CvlanEthType, v6), vec![(EthType, v4), (AddrType, 2), (Ipv4Src, 1)]),
            ((EthType, v4), vec![(AddrType, 3), (Ipv6Src, 1), (ArpTip, 1), (MplsLabel, 1)]),
            ((EthType, v6), vec![(AddrType, 2), (Ipv4Src, 1), (ArpOp, 1), (MplsTtl, 1)]),
            ((EthType, arp), vec![(AddrType, 2), (IpProto, 6), (IpTos, 1), (SrcPort, 1), (MplsBos, 1)]),
            ((AddrType, 0), vec![(Ipv4Src, 1), (Ipv6Dst, 1), (IpTtl, 1), (TcpFlags, 2), (DstPort, 1), (IcmpType, 1)]),
            ((AddrType, 2), vec![(Ipv6Dst, 1)]),
            ((AddrType, 3), vec![(Ipv4Dst, 1)]),
            ((IpProto, 17), vec![(TcpFlags, 2), (IcmpCode, 1)]),
            ((IpProto, 6), vec![(IcmpType, 1)]),
            ((IpProto, 1), vec![(SrcPort, 1), (TcpFlags, 1)]),
            ((IpProto, 58), vec![(DstPort, 1)]),
            ((Protocol, 0x8847), vec![(EthType, v4), (AddrType, 2), (IpProto, 6), (VlanId, 1)]),
            ((EthType, v4), vec![(Mpls1, 1), (Mpls3Ttl, 1), (CfmOpcode, 1)]),
            ((EthType, 0x8902), vec![(Mpls1, 1)]),
            ((Mpls1, 0), vec![(MplsBos, 1), (Mpls2, 1), (Mpls7Label, 1)]),
            ((MplsBos, 1), vec![(Mpls2, 1), (Mpls3Tc, 1), (Mpls1, 0)]),
            ((Mpls3, 1), vec![(MplsBos, 1), (Mpls1, 0)]),
            ((IpProto, 17), vec![(Spi, 1), (L2tpv3Sid, 1)]),
            ((EncAddrType, 0), vec![(EncKeyId, 1), (EncOpts3, 1), (EncTtl, 1), (EncIpv6Dst, 1)]),
            ((EncAddrType, 2), vec![(EncIpv6Src, 1)]),
            ((EncAddrType, 3), vec![(EncIpv4Dst, 1)]),
            ((EncOptsLen, 0), vec![(EncOpts0, 1), (EncOptsType, 0x800)]),
            ((EncOptsType, 0x1000), vec![(EncOptsLen, 8), (EncOpts0, 1 << 95), (EncOpts1, 1)]),
            ((EncOptsType, 0x4000), vec![(EncOptsLen, 4), (EncOpts0, 1 << 31), (EncOpts2, 1)]),
            ((EncOptsType, 0x8000), vec![(EncOptsLen, 4), (EncOpts0, 1 << 111), (EncOpts1, 1)]),
            ((IpFlags, 3), vec![(SrcPort, 1), (DstPort, 1), (TcpFlags, 2), (IcmpType, 1), (IcmpCode, 1)]),
        ];
        for (one, others) in pairs {
            let first = Match::default().exact(one.0, one.1);
            assert!(follows(&first).is_some());
            for (field, value) in others {
                assert!(follows(&Match::default().exact(field, value)).is_some());
                assert_eq!(follows(&first.exact(field, value)), None, "{one:?} and {field} {value:#x}");
            }
        }
        // No second tag is counted behind these, nor behind what has not the highest bit of a tag's ethertype.
        let tagged =
            |bits| Match::default().exact(Protocol, 0x88a8).exact(NumOfVlans, 2).with(VlanEthType, bits, 0x8000);
        for last in [v6, 0x4305, 0x88cc] {
            assert_eq!(follows(&tagged(last & 0x8000).exact(VlanEthType, last)), None);
        }
        assert_eq!(follows(&tagged(0)), None);
        assert!(follows(&tagged(0x8000)).is_some());
        // These go on with another ethertype.
        for protocol in [0x4305, 0x892f, 0x88fb] {
            assert!(follows(&Match::default().exact(Protocol, protocol).exact(VlanId, 5)).is_some());
        }
    }

    #[test]
    fn what_follows_costs_nothing_and_what_contradicts_is_impossible() {
        let ip = Match::default().exact(Protocol, 0x800);
        let mut asked = ip.exact(NumOfVlans, 0).exact(Ipv6Dst, 0).with(IpFlags, 0, 3);
        spare(&mut asked, &[(IpFlags, ip_flags::FRAG)]);
        assert_eq!(asked, ip.with(IpFlags, 0, ip_flags::FRAG));
        for other in [(EthType, 0x86dd), (VlanId, 5), (AddrType, addr_type::IPV6)] {
            assert_eq!(follows(&ip.exact(other.0, other.1)), None, "{other:?}");
        }
        // What is excluded on purpose stays, also if it is excluded twice and follows.
        let none = Match::default().exact(AddrType, 0).with(IpFlags, 0, 1);
        for (kept, left) in [(vec![(IpFlags, 1), (IpFlags, 1)], 1), (vec![(TcpFlags, 1)], 0)] {
            let mut least = none;
            spare(&mut least, &kept);
            assert_eq!(least.mask.get(IpFlags), left);
        }
        // Both tags' ethertypes have one bit that no other value has.
        let single = follows(&Match::default().with(CvlanTpid, 0, 0x8000)).unwrap();
        assert_eq!((single.mask.get(CvlanId), single.mask.get(NumOfVlans)), (0xfff, 0xfe));
        assert_eq!(follows(&Match::default().with(VlanTpid, 0, 0x8000).exact(NumOfVlans, 1)), None);
        assert_eq!(follows(&Match::default().with(ArpOp, 0, 3).exact(ArpTip, 1)), None);
        // A tunnel with addresses of either kind shows in one bit; operations and options are of one kind.
        for (bit, absent) in [((EncAddrType, 2), EncFlags), ((AddrType, 2), IpTtl)] {
            let told = follows(&Match::default().with(bit.0, 0, bit.1)).unwrap();
            assert_eq!(told.mask.get(absent), absent.ones());
        }
        for (field, one, other) in [(ArpOp, 1, 2), (EncOptsType, 0x800, 0x1000), (EncAddrType, 1, 4)] {
            let asked = Match::default().with(field, one, one);
            assert!(follows(&asked).is_some());
            assert_eq!(follows(&asked.with(field, one | other, one | other)), None, "{field}");
        }
        // IPv4 or the MPLS in it: all bits that the two share are known.
        assert_eq!(follows(&ip).unwrap().mask.get(EthType), 0x7fb8);
        let first = Match::default().with(IpFlags, 3, 3);
        let mut least = first;
        spare(&mut least, &[]);
        assert_eq!(least, Match::default().with(IpFlags, ip_flags::FIRST, ip_flags::FIRST));
        // An IP header of which something is not zero is there.
        let tos = ip.exact(EthType, 0x800).with(IpTos, 8, 8);
        let mut least = tos.exact(AddrType, addr_type::IPV4);
        spare(&mut least, &[]);
        assert_eq!(least, tos);
        let mut least = ip.exact(EthType, 0x800).with(IpTos, 0, 8).exact(AddrType, addr_type::IPV4);
        spare(&mut least, &[]);
        assert_eq!(least.mask.get(AddrType), 0xffff);
        // Asked for because addresses are: flower wants to be told.
        let tagged = Match::default().exact(Protocol, 0x8100).exact(VlanEthType, 0x86dd);
        let mut least = tagged.exact(NumOfVlans, 1);
        spare(&mut least, &[]);
        assert_eq!(least, tagged);
        let arp = Match::default().exact(VlanEthType, 0x806).exact(EthType, 0x806);
        let mut least = arp;
        spare(&mut least, &[]);
        assert_eq!(least, Match::default().exact(VlanEthType, 0x806));
        let asked = arp.exact(ArpOp, 1);
        let mut least = asked;
        spare(&mut least, &[]);
        assert_eq!(least, asked);
    }
}
