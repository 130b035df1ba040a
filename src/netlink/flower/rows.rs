//! The table: for each field which attributes carry it, how, and under which condition flower looks at them.

use super::Said;
use crate::{
    conntrack::proto,
    flower::{
        Field, Match, ethertype,
        field::{addr_type, ip_proto},
    },
};

/// How a value's bytes lie in its attribute.
#[derive(Clone, Copy)]
pub(super) enum Order {
    /// Most significant first.
    Network,
    /// As the machine has it.
    Host,
    /// Sixteen bytes, least significant first on every machine (label bit 0 is bit 0 of the first byte).
    Labels,
}

/// When flower looks at an attribute.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    Always,
    /// There is an outer, an inner tag to match.
    Tag,
    InnerTag,
    /// The ethertype compared is IPv4 or IPv6.
    Ip,
    /// The addresses compared are of this kind.
    Addresses(u128),
    TunnelAddresses(u128),
    /// The IP protocol compared is this one.
    Proto(u8),
    /// And the ethertype this one.
    Icmp(u8, u16),
    Arp,
    /// The IP protocol compared is ESP or AH.
    Ipsec,
}

pub(super) struct Row {
    pub(super) field: Field,
    pub(super) value: u16,
    /// 0: none, the comparison is exact.
    pub(super) mask: u16,
    pub(super) bytes: usize,
    pub(super) order: Order,
    pub(super) guard: Guard,
}

macro_rules! rows {
    ($($guard:expr => { $($field:ident $value:literal / $mask:literal $order:ident $bytes:literal),* $(,)? })*) => {
        &[$($(Row {
            field: Field::$field, value: $value, mask: $mask, bytes: $bytes, order: Order::$order, guard: $guard,
        }),*),*]
    };
}

/// Attribute of value / attribute of mask, order, width in bytes; in the order in which flower reads them, since a guard
/// looks at fields read before.
#[rustfmt::skip]
const ROWS: &[Row] = rows! {
    Guard::Always => { EthDst 4/5 Network 6, EthSrc 6/7 Network 6, NumOfVlans 102/0 Network 1 }
    Guard::Tag => { VlanId 23/0 Host 2, VlanPrio 24/0 Network 1 }
    Guard::InnerTag => { CvlanId 77/0 Host 2, CvlanPrio 78/0 Network 1 }
    Guard::Ip => { IpProto 9/0 Network 1, IpTos 73/74 Network 1, IpTtl 75/76 Network 1 }
    Guard::Addresses(addr_type::IPV4) => { Ipv4Src 10/11 Network 4, Ipv4Dst 12/13 Network 4 }
    Guard::Addresses(addr_type::IPV6) => { Ipv6Src 14/15 Network 16, Ipv6Dst 16/17 Network 16 }
    Guard::Proto(proto::TCP) => { SrcPort 18/35 Network 2, DstPort 19/36 Network 2, TcpFlags 71/72 Network 2 }
    Guard::Proto(proto::UDP) => { SrcPort 20/37 Network 2, DstPort 21/38 Network 2 }
    Guard::Proto(proto::SCTP) => { SrcPort 41/39 Network 2, DstPort 42/40 Network 2 }
    Guard::Icmp(proto::ICMP, ethertype::IPV4) => { IcmpType 51/52 Network 1, IcmpCode 49/50 Network 1 }
    Guard::Icmp(proto::ICMPV6, ethertype::IPV6) => { IcmpType 55/56 Network 1, IcmpCode 53/54 Network 1 }
    Guard::Arp => {
        ArpSip 57/58 Network 4, ArpTip 59/60 Network 4, ArpOp 61/62 Network 1,
        ArpSha 63/64 Network 6, ArpTha 65/66 Network 6,
    }
    Guard::Proto(ip_proto::L2TP) => { L2tpv3Sid 105/0 Network 4 }
    Guard::TunnelAddresses(addr_type::IPV4) => { EncIpv4Src 27/28 Network 4, EncIpv4Dst 29/30 Network 4 }
    Guard::TunnelAddresses(addr_type::IPV6) => { EncIpv6Src 31/32 Network 16, EncIpv6Dst 33/34 Network 16 }
    Guard::Always => {
        EncKeyId 26/0 Network 4, EncSrcPort 43/44 Network 2, EncDstPort 45/46 Network 2,
        EncTos 80/81 Network 1, EncTtl 82/83 Network 1, Hash 100/101 Host 4,
        CtState 91/92 Host 2, CtZone 93/94 Host 2, CtMark 95/96 Host 4, CtLabels 97/98 Labels 16,
        IpFlags 47/48 Network 4,
    }
};

/// What kernels after Linux 6.1 have besides. 6.1 leaves these attributes out without a word.
#[rustfmt::skip]
const LATER: &[Row] = rows! {
    Guard::Always => { L2Miss 106/0 Network 1, EncFlags 110/111 Network 4 }
    Guard::Ipsec => { Spi 108/109 Network 4 }
};

/// The rows that this reader knows.
pub(super) fn rows(said: Said) -> impl Iterator<Item = &'static Row> {
    let later = match said {
        Said::Asked => &[],
        Said::Dumped => LATER,
    };
    ROWS.iter().chain(later)
}

/// An attribute's name, where tables of numbers would have to be looked into.
pub(super) fn name(attribute: u16) -> String {
    match attribute {
        super::options::KEY => "TCA_FLOWER_KEY_ENC_OPTS".into(),
        super::options::MASK => "TCA_FLOWER_KEY_ENC_OPTS_MASK".into(),
        super::mpls::OPTS => "TCA_FLOWER_KEY_MPLS_OPTS".into(),
        super::CFM => "TCA_FLOWER_KEY_CFM".into(),
        other => format!("TCA_FLOWER {other}"),
    }
}

impl Order {
    pub(super) fn read(self, bytes: &[u8]) -> u128 {
        let fold = |value: u128, byte: &u8| value << 8 | u128::from(*byte);
        match self {
            Order::Network => bytes.iter().fold(0, fold),
            Order::Host if cfg!(target_endian = "big") => bytes.iter().fold(0, fold),
            Order::Host | Order::Labels => bytes.iter().rev().fold(0, fold),
        }
    }

    pub(super) fn write(self, value: u128, bytes: usize) -> Vec<u8> {
        match self {
            Order::Network => value.to_be_bytes()[16 - bytes..].to_vec(),
            Order::Host if cfg!(target_endian = "big") => value.to_be_bytes()[16 - bytes..].to_vec(),
            Order::Host | Order::Labels => value.to_le_bytes()[..bytes].to_vec(),
        }
    }
}

/// Which tags a filter can match on.
#[derive(Clone, Copy)]
pub(super) struct Tags {
    pub(super) outer: bool,
    pub(super) inner: bool,
}

impl Guard {
    pub(super) fn is_open(self, m: &Match, tags: Tags) -> bool {
        let eth_type = m.key.get(Field::EthType) as u16;
        let ip_proto = m.key.get(Field::IpProto) as u8;
        match self {
            Guard::Always => true,
            Guard::Tag => tags.outer,
            Guard::InnerTag => tags.inner,
            Guard::Ip => matches!(eth_type, ethertype::IPV4 | ethertype::IPV6),
            Guard::Addresses(kind) => m.key.get(Field::AddrType) == kind,
            Guard::TunnelAddresses(kind) => m.key.get(Field::EncAddrType) == kind,
            Guard::Proto(proto) => ip_proto == proto,
            Guard::Icmp(proto, under) => ip_proto == proto && eth_type == under,
            Guard::Arp => matches!(eth_type, ethertype::ARP | ethertype::RARP),
            Guard::Ipsec => matches!(ip_proto, ip_proto::ESP | ip_proto::AH),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_mask_is_compared_as_a_whole() {
        let tabled: Vec<Field> = rows(Said::Dumped).map(|row| row.field).collect();
        for row in rows(Said::Dumped) {
            assert_eq!(row.field.row().whole, row.mask == 0, "{}", row.field);
        }
        // Beside the table only the tunnel's options have one.
        let options = |f: &Field| Field::OPTIONS.contains(f) || matches!(f, Field::EncOptsType | Field::EncOptsLen);
        assert!(Field::ALL.iter().all(|f| tabled.contains(f) || options(f) || f.row().whole));
    }
}
