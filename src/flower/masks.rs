//! How a table compares fields: any bits of any field, or as flower does.
//!
//! Flower compares some fields as a whole only, and is *layered*: it looks at a field only where what stands before it in the packet is
//! compared, too (`net/sched/cls_flower.c`, `fl_set_key`). What a merged filter asks for is completed to that by what the packet at hand
//! has there: a part of a field by the rest, a field by its prerequisite, the innermost ethertype of a tagged packet by those in front.

use super::{
    ethertype::{self, is_vlan},
    field::{Field, addr_type, ip_proto},
    key::Key,
    matches::Match,
};

/// How fields can be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masks {
    /// The fields (all their bits) that are compared as a whole or not at all: no mask goes with them.
    pub whole: Key,
    /// Whether a field is compared only together with its prerequisite ([`Row::prerequisite`](super::field::Row::prerequisite)), and what
    /// is behind tags only together with the ethertypes of the tags.
    pub layered: bool,
}

impl Masks {
    /// Any bits of any field.
    pub const ANY: Masks = Masks { whole: Key::ZERO, layered: false };

    /// As flower.
    pub fn flower() -> Masks {
        let mut whole = Key::ZERO;
        for &field in Field::ALL.iter().filter(|field| field.row().whole) {
            whole.set(field, field.ones());
        }
        Masks { whole, layered: true }
    }

    /// Whether a field has no mask.
    pub fn is_whole(&self, field: Field) -> bool {
        self.whole.get(field) != 0
    }

    /// Whether a field can be compared of a packet like this: flower looks only at fields of headers that are there.
    pub fn shows(&self, field: Field, packet: &Key) -> bool {
        use Field::*;
        let get = |field| packet.get(field);
        let (ethertype, proto) = (get(EthType) as u16, get(IpProto) as u8);
        !self.layered
            || match field {
                VlanTpid | VlanId | VlanPrio | VlanEthType => get(VlanTpid) != 0,
                CvlanTpid | CvlanId | CvlanPrio | CvlanEthType => get(CvlanTpid) != 0,
                IpProto | IpTos | IpTtl => matches!(ethertype, ethertype::IPV4 | ethertype::IPV6),
                AddrType => get(AddrType) != 0,
                Ipv4Src | Ipv4Dst => get(AddrType) == addr_type::IPV4,
                Ipv6Src | Ipv6Dst => get(AddrType) == addr_type::IPV6,
                SrcPort | DstPort => matches!(proto, ip_proto::TCP | ip_proto::UDP | ip_proto::SCTP),
                TcpFlags => proto == ip_proto::TCP,
                IcmpType | IcmpCode => matches!(proto, ip_proto::ICMP | ip_proto::ICMPV6),
                ArpSip | ArpTip | ArpOp | ArpSha | ArpTha => matches!(ethertype, ethertype::ARP | ethertype::RARP),
                CfmLevel | CfmOpcode => ethertype == ethertype::CFM,
                Spi => matches!(proto, ip_proto::ESP | ip_proto::AH),
                // What flower can ask of options it asks of all of them.
                EncOptsType | EncOptsLen | EncOpts0 | EncOpts1 | EncOpts2 | EncOpts3 => false,
                _ if Field::MPLS.iter().flatten().any(|&f| f == field) => ethertype::is_mpls(ethertype),
                EncAddrType => get(EncAddrType) != 0,
                EncIpv4Src | EncIpv4Dst => get(EncAddrType) == addr_type::IPV4,
                EncIpv6Src | EncIpv6Dst => get(EncAddrType) == addr_type::IPV6,
                L2tpv3Sid => proto == ip_proto::L2TP,
                PppoeSid | PppProto => get(Protocol) as u16 == ethertype::PPPOE,
                _ => true,
            }
    }

    /// A field that must be asked for as a whole, since something of it or behind it is; `None` if nothing is missing.
    pub fn missing(&self, asked: &Match) -> Option<Field> {
        let lacks = |field: &Field| asked.mask.get(*field) != field.ones();
        let part = asked.mask.fields().map(|(field, _)| field).find(|&field| self.is_whole(field) && lacks(&field));
        if part.is_some() || !self.layered {
            return part;
        }
        let fields = asked.mask.fields().map(|(field, _)| field).chain(asked.ranges().map(|(field, _)| field));
        // Options are asked of with the length and the type that flower makes of them, or not at all.
        let fields = fields.filter(|field| !matches!(field, Field::EncOptsLen) && !Field::OPTIONS.contains(field));
        fields.filter_map(|field| field.row().prerequisite).find(lacks).or_else(|| behind_tags(asked).find(lacks))
    }
}

/// The ethertypes of tags in front of the innermost one, where that is asked of a packet with a tag.
fn behind_tags(asked: &Match) -> impl Iterator<Item = Field> {
    let is_asked = |field| asked.mask.get(field) != 0;
    let is_tag = |field| is_vlan(asked.key.get(field) as u16);
    let outer = is_asked(Field::EthType) && (is_tag(Field::Protocol) || is_tag(Field::VlanTpid));
    let inner = outer && is_tag(Field::VlanEthType);
    let outer = outer.then_some(Field::VlanEthType);
    outer.into_iter().chain(inner.then_some([Field::CvlanTpid, Field::CvlanEthType]).into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flower_shows_what_is_there() {
        let udp = Key::ZERO.with(Field::EthType, 0x0800).with(Field::AddrType, 2).with(Field::IpProto, 17);
        let shown = |field| Masks::flower().shows(field, &udp);
        use Field::*;
        assert!([EthSrc, EthType, NumOfVlans, IpTtl, Ipv4Src, SrcPort, IpFlags].into_iter().all(shown));
        assert!(![VlanId, Ipv6Src, TcpFlags, IcmpType, ArpOp, MplsTtl].into_iter().any(shown));
        assert!(Masks::ANY.shows(VlanId, &udp));
    }

    #[test]
    fn flower_wants_the_rest_of_a_field_and_what_stands_before_it() {
        let flower = Masks::flower();
        let ip = Match::default().exact(Field::EthType, 0x0800);
        let kind = ip.exact(Field::AddrType, 2);
        let tagged = ip.exact(Field::Protocol, 0x8100);
        let two = tagged.exact(Field::VlanEthType, 0x88a8);
        let mut range = ip;
        range.dst_range = Some(super::super::Range { min: 1, max: 2 });
        for (asked, missing) in [
            (ip.with(Field::IpProto, 4, 4), Some(Field::IpProto)),
            (ip.with(Field::Ipv4Src, 1, 1), Some(Field::AddrType)),
            (kind.with(Field::Ipv4Src, 1, 1), None),
            (Match::default().with(Field::IpTtl, 1, 1), Some(Field::EthType)),
            (range, Some(Field::IpProto)),
            (tagged, Some(Field::VlanEthType)),
            (tagged.exact(Field::VlanEthType, 0x0800), Some(Field::VlanTpid)),
            (tagged.exact(Field::VlanTpid, 0x8100).exact(Field::VlanEthType, 0x0800), None),
            (two.exact(Field::VlanTpid, 0x8100), Some(Field::CvlanTpid)),
            (two.exact(Field::VlanTpid, 0x8100).exact(Field::CvlanTpid, 0x88a8), Some(Field::CvlanEthType)),
            (Match::default().with(Field::EthSrc, 1, 1), None),
        ] {
            assert_eq!(flower.missing(&asked), missing, "{asked:?}");
            assert_eq!(Masks::ANY.missing(&asked), None);
        }
    }
}
