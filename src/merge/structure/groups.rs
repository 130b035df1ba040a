//! Fields that rules of the structure speak of together, as the words of a key that they are in.

use crate::flower::{
    Field::{self, *},
    key::Fields,
};

/// Fields that are absent together.
#[derive(Clone, Copy)]
pub(super) enum Group {
    Tags,
    InnerTag,
    BehindInnerTag,
    Arp,
    V4,
    V6,
    Ports,
    Icmp,
    Pppoe,
    Cfm,
    Tunnel,
    OuterV4,
    OuterV6,
    Options,
    BehindOptions,
    /// What is not there without an IP header.
    OfIp,
    /// What lies in the transport header.
    Behind,
    TcpFlags,
    Session,
    Spi,
    /// The entries of the label stack from this one on.
    Labels(u8),
}

const LABELS: &[Field] = Field::MPLS.as_flattened();

/// The fields of each group, by its number.
static GROUPS: [Fields; 28] = [
    Fields::new(&[NumOfVlans, VlanTpid, VlanId, VlanPrio, VlanEthType, CvlanTpid, CvlanId, CvlanPrio, CvlanEthType]),
    Fields::new(&[CvlanTpid, CvlanId, CvlanPrio, CvlanEthType]),
    Fields::new(&[CvlanId, CvlanPrio, CvlanEthType]),
    Fields::new(&[ArpSip, ArpTip, ArpOp, ArpSha, ArpTha]),
    Fields::new(&[Ipv4Src, Ipv4Dst]),
    Fields::new(&[Ipv6Src, Ipv6Dst]),
    Fields::new(&[SrcPort, DstPort]),
    Fields::new(&[IcmpType, IcmpCode]),
    Fields::new(&[PppoeSid, PppProto]),
    Fields::new(&[CfmLevel, CfmOpcode]),
    Fields::new(&Field::TUNNEL),
    Fields::new(&[EncIpv4Src, EncIpv4Dst]),
    Fields::new(&[EncIpv6Src, EncIpv6Dst]),
    Fields::new(&[EncOptsType, EncOpts0, EncOpts1, EncOpts2, EncOpts3]),
    Fields::new(&[EncOpts1, EncOpts2, EncOpts3]),
    Fields::new(&[
        Ipv4Src, Ipv4Dst, Ipv6Src, Ipv6Dst, IpProto, IpTos, IpTtl, IpFlags, TcpFlags, L2tpv3Sid, Spi, SrcPort, DstPort,
        IcmpType, IcmpCode,
    ]),
    Fields::new(&[SrcPort, DstPort, TcpFlags, IcmpType, IcmpCode, L2tpv3Sid, Spi]),
    Fields::new(&[TcpFlags]),
    Fields::new(&[L2tpv3Sid]),
    Fields::new(&[Spi]),
    Fields::new(LABELS),
    Fields::new(LABELS.split_at(5).1),
    Fields::new(LABELS.split_at(10).1),
    Fields::new(LABELS.split_at(15).1),
    Fields::new(LABELS.split_at(20).1),
    Fields::new(LABELS.split_at(25).1),
    Fields::new(LABELS.split_at(30).1),
    Fields::new(&[]),
];

impl Group {
    /// The group's place among all.
    pub(super) const fn number(self) -> usize {
        match self {
            Group::Tags => 0,
            Group::InnerTag => 1,
            Group::BehindInnerTag => 2,
            Group::Arp => 3,
            Group::V4 => 4,
            Group::V6 => 5,
            Group::Ports => 6,
            Group::Icmp => 7,
            Group::Pppoe => 8,
            Group::Cfm => 9,
            Group::Tunnel => 10,
            Group::OuterV4 => 11,
            Group::OuterV6 => 12,
            Group::Options => 13,
            Group::BehindOptions => 14,
            Group::OfIp => 15,
            Group::Behind => 16,
            Group::TcpFlags => 17,
            Group::Session => 18,
            Group::Spi => 19,
            Group::Labels(from) => 20 + from as usize,
        }
    }

    pub(super) fn fields(self) -> &'static Fields {
        &GROUPS[self.number()]
    }
}

/// What lies in the network header or behind it, but for what shows less.
pub(super) static NETWORK: Fields = Fields::new(&[
    IpProto, IpTos, IpTtl, IpFlags, Ipv4Src, Ipv4Dst, Ipv6Src, Ipv6Dst, SrcPort, DstPort, TcpFlags, IcmpType,
]);
