//! `TCA_FLOWER_*` <-> [`Match`].
//!
//! One table ([`ROWS`]) says for each field which attributes carry it, how, and under which condition flower looks at them;
//! decoding and encoding both read it. Beside the table stand the ethertypes, where what the kernel dumps is not what it was
//! told ([`Types`]), the tunnel's and the packet's address kinds, `indev`, fragment flags and port ranges.
//!
//! Source: `net/sched/cls_flower.c`, `fl_set_key` and `fl_dump_key`.

use super::{
    Names,
    attributes::{Attribute, Attributes},
    error::{DecodeError, EncodeError},
};
use crate::{
    conntrack::proto,
    flower::{
        Field, Match, Range, ethertype,
        field::{addr_type, ip_proto},
        filter::PROTOCOL_ALL,
    },
};

/// How a value's bytes lie in its attribute.
#[derive(Clone, Copy)]
enum Order {
    /// Most significant first.
    Network,
    /// As the machine has it.
    Host,
    /// Sixteen bytes, least significant first on every machine (label bit 0 is bit 0 of the first byte).
    Labels,
}

/// When flower looks at an attribute.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
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
    Mpls,
    Arp,
}

struct Row {
    field: Field,
    value: u16,
    /// 0: none, the comparison is exact.
    mask: u16,
    bytes: usize,
    order: Order,
    guard: Guard,
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
    Guard::Mpls => { MplsTtl 67/0 Network 1, MplsBos 68/0 Network 1, MplsTc 69/0 Network 1, MplsLabel 70/0 Host 4 }
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

// Attributes outside of the table.
pub(super) const CLASSID: u16 = 1;
const INDEV: u16 = 2;
pub(super) const ACT: u16 = 3;
const ETH_TYPE: u16 = 8;
pub(super) const FLAGS: u16 = 22;
const VLAN_ID: u16 = 23;
const VLAN_PRIO: u16 = 24;
const VLAN_ETH_TYPE: u16 = 25;
const CVLAN_ID: u16 = 77;
const CVLAN_PRIO: u16 = 78;
const CVLAN_ETH_TYPE: u16 = 79;
pub(super) const IN_HW_COUNT: u16 = 86;
const PORT_SRC_MIN: u16 = 87;
const PORT_SRC_MAX: u16 = 88;
const PORT_DST_MIN: u16 = 89;
const PORT_DST_MAX: u16 = 90;
const NUM_OF_VLANS: u16 = 102;
const PPPOE_SID: u16 = 103;
const PPP_PROTO: u16 = 104;

/// Attributes that are known and not decoded, by name.
fn name(attribute: u16) -> String {
    match attribute {
        84 => "TCA_FLOWER_KEY_ENC_OPTS".into(),
        85 => "TCA_FLOWER_KEY_ENC_OPTS_MASK".into(),
        99 => "TCA_FLOWER_KEY_MPLS_OPTS".into(),
        other => format!("TCA_FLOWER {other}"),
    }
}

impl Order {
    fn read(self, bytes: &[u8]) -> u128 {
        let fold = |value: u128, byte: &u8| value << 8 | u128::from(*byte);
        match self {
            Order::Network => bytes.iter().fold(0, fold),
            Order::Host if cfg!(target_endian = "big") => bytes.iter().fold(0, fold),
            Order::Host | Order::Labels => bytes.iter().rev().fold(0, fold),
        }
    }

    fn write(self, value: u128, bytes: usize) -> Vec<u8> {
        match self {
            Order::Network => value.to_be_bytes()[16 - bytes..].to_vec(),
            Order::Host if cfg!(target_endian = "big") => value.to_be_bytes()[16 - bytes..].to_vec(),
            Order::Host | Order::Labels => value.to_le_bytes()[..bytes].to_vec(),
        }
    }
}

impl Guard {
    fn is_open(self, m: &Match, tags: Tags) -> bool {
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
            Guard::Mpls => matches!(eth_type, ethertype::MPLS | ethertype::MPLS_MC),
            Guard::Arp => matches!(eth_type, ethertype::ARP | ethertype::RARP),
        }
    }
}

/// Which tags a filter can match on.
#[derive(Clone, Copy)]
struct Tags {
    outer: bool,
    inner: bool,
}

/// The ethertypes as flower was told them. Of a tagged filter the kernel dumps the innermost type as `ETH_TYPE`, never the
/// outer tag's own; that one is the filter's protocol, as `tc` and OVS have it. Of a PPPoE filter it dumps the type
/// behind PPP, if any. So the telling is worked out from the dump; a filter as told gives itself.
#[derive(Clone, Copy, Debug, Default)]
struct Types {
    eth: Option<u16>,
    vlan: Option<u16>,
    cvlan: Option<u16>,
}

/// Who says what a message holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// Whoever asks the kernel for a filter.
    Asked,
    /// The kernel.
    Dumped,
}

impl Types {
    fn read(flower: &Attributes, protocol: u16, said: Said) -> Result<Types, DecodeError> {
        match said {
            Said::Dumped => Types::told(flower, protocol),
            Said::Asked => Ok(Types {
                eth: flower.u16_be(ETH_TYPE)?,
                vlan: flower.u16_be(VLAN_ETH_TYPE)?,
                cvlan: flower.u16_be(CVLAN_ETH_TYPE)?,
            }),
        }
    }

    fn told(flower: &Attributes, protocol: u16) -> Result<Types, DecodeError> {
        let dumped = flower.u16_be(ETH_TYPE)?;
        let vlans = flower.u8(NUM_OF_VLANS)?.unwrap_or(0);
        let pppoe = protocol == ethertype::PPPOE || flower.has_any(&[PPPOE_SID, PPP_PROTO]);
        let mut types =
            Types { eth: dumped, vlan: flower.u16_be(VLAN_ETH_TYPE)?, cvlan: flower.u16_be(CVLAN_ETH_TYPE)? };
        let tagged = ethertype::is_vlan(protocol) || vlans > 0;
        types.eth = match tagged {
            true => (protocol != PROTOCOL_ALL).then_some(protocol),
            false => dumped.filter(|&eth| !ethertype::is_vlan(eth)),
        };
        if pppoe {
            match (tagged, types.vlan) {
                (false, _) => types.eth = Some(ethertype::PPPOE),
                (true, Some(vlan)) if ethertype::is_vlan(vlan) => types.cvlan = Some(ethertype::PPPOE),
                (true, _) => types.vlan = Some(ethertype::PPPOE),
            }
        }
        Ok(types)
    }

    /// The same from a match, for telling.
    fn of(m: &Match) -> Types {
        let asked = |field: Field| (m.mask.get(field) != 0).then(|| m.key.get(field) as u16);
        let pppoe = [Field::PppoeSid, Field::PppProto].iter().any(|&f| m.mask.get(f) != 0)
            || m.key.get(Field::Protocol) as u16 == ethertype::PPPOE;
        let (vlan, cvlan) = (asked(Field::VlanEthType), asked(Field::CvlanEthType));
        let innermost = match asked(Field::EthType) {
            _ if vlan.is_some() || cvlan.is_some() => None,
            _ if pppoe => Some(ethertype::PPPOE),
            eth_type => eth_type,
        };
        Types { eth: asked(Field::VlanTpid).or(innermost), vlan, cvlan }
    }

    /// What flower makes of them: comparisons of tags and of the innermost type.
    fn apply(self, m: &mut Match) -> Tags {
        let vlans = m.key.get(Field::NumOfVlans);
        let mut compare = |field: Field, value: u16| m.set(field, value.into(), field.ones());
        let mut tags = Tags { outer: false, inner: false };
        match self.eth {
            Some(eth) if vlans == 0 && !ethertype::is_vlan(eth) => compare(Field::EthType, eth),
            None if vlans == 0 => {}
            tpid => {
                tags.outer = true;
                tpid.into_iter().filter(|&t| t != 0).for_each(|t| compare(Field::VlanTpid, t));
                self.vlan.into_iter().for_each(|t| compare(Field::VlanEthType, t));
            }
        }
        match self.vlan {
            _ if !tags.outer => {}
            Some(vlan) if vlans <= 1 && !ethertype::is_vlan(vlan) => compare(Field::EthType, vlan),
            None if vlans <= 1 => {}
            tpid => {
                tags.inner = true;
                tpid.into_iter().filter(|&t| t != 0).for_each(|t| compare(Field::CvlanTpid, t));
                if let Some(cvlan) = self.cvlan {
                    compare(Field::CvlanEthType, cvlan);
                    compare(Field::EthType, cvlan);
                }
            }
        }
        tags
    }
}

/// A PPPoE filter compares the session and what PPP carries, and takes the ethertype from the latter or from nowhere.
fn set_pppoe(flower: &Attributes, m: &mut Match) -> Result<(), DecodeError> {
    if let Some(session) = flower.u16_be(PPPOE_SID)? {
        m.set(Field::PppoeSid, session.into(), u128::MAX);
    }
    let Some(carried) = flower.u16_be(PPP_PROTO)? else {
        m.clear(Field::EthType);
        return Ok(());
    };
    m.set(Field::PppProto, carried.into(), u128::MAX);
    let behind = match carried {
        0x0021 => ethertype::IPV4,
        0x0057 => ethertype::IPV6,
        0x0281 => ethertype::MPLS,
        0x0283 => ethertype::MPLS_MC,
        _ => return Ok(()),
    };
    m.set(Field::EthType, behind.into(), u128::MAX);
    Ok(())
}

/// Reads the match of a filter with this protocol. What is not understood is named in `undecoded`.
pub(super) fn decode(
    flower: &Attributes,
    protocol: u16,
    names: &dyn Names,
    undecoded: &mut Vec<String>,
) -> Result<Match, DecodeError> {
    read(flower, protocol, names, undecoded, Said::Dumped)
}

fn read(
    flower: &Attributes,
    protocol: u16,
    names: &dyn Names,
    undecoded: &mut Vec<String>,
    said: Said,
) -> Result<Match, DecodeError> {
    let mut m = Match::default();
    if protocol != PROTOCOL_ALL {
        m.set(Field::Protocol, protocol.into(), u128::MAX);
    }
    if let Some(device) = flower.text(INDEV) {
        match names.index(&device) {
            Some(index) => m.set(Field::Indev, index.into(), u128::MAX),
            None => undecoded.push(format!("TCA_FLOWER_INDEV {device}: no such device")),
        }
    }
    if let Some(vlans) = flower.u8(NUM_OF_VLANS)? {
        m.set(Field::NumOfVlans, vlans.into(), u128::MAX);
    }
    let tags = Types::read(flower, protocol, said)?.apply(&mut m);
    if !tags.outer && flower.has_any(&[VLAN_ID, VLAN_PRIO, VLAN_ETH_TYPE]) {
        undecoded.push("TCA_FLOWER_KEY_VLAN: the outer tag's type is not the filter's protocol".into());
    }
    if !tags.inner && flower.has_any(&[CVLAN_ID, CVLAN_PRIO, CVLAN_ETH_TYPE]) {
        undecoded.push("TCA_FLOWER_KEY_CVLAN: there is no inner tag".into());
    }
    if m.key.get(Field::EthType) as u16 == ethertype::PPPOE {
        set_pppoe(flower, &mut m)?;
    }
    set_addr_type(flower, &mut m);
    for row in ROWS {
        let Some(value) = flower.bytes(row.value, row.bytes)? else {
            continue;
        };
        if !row.guard.is_open(&m, tags) {
            continue;
        }
        let ones = u128::MAX >> (128 - 8 * row.bytes);
        let mask = match row.mask {
            // Flower masks a tag's fields itself; of the other exact ones none is wider on the wire than it is.
            0 => row.field.ones(),
            mask => flower.bytes(mask, row.bytes)?.map_or(ones, |mask| row.order.read(mask)),
        };
        let value = row.order.read(value);
        // No packet has bits beyond the field's width. Fragment flags are followed by flags of later kernels.
        let beyond = mask & !row.field.ones();
        if beyond & value != 0 || beyond != 0 && row.field == Field::IpFlags {
            undecoded.push(format!("{} {value:#x}/{mask:#x}", name(row.value)));
        }
        m.set(row.field, value, mask);
    }
    set_range(flower, &mut m, undecoded)?;
    let tabled = |kind: u16| ROWS.iter().any(|row| row.value == kind || row.mask == kind);
    for (kind, _) in flower.iter() {
        #[rustfmt::skip]
        let known = matches!(kind, CLASSID | INDEV | ACT | ETH_TYPE | FLAGS | VLAN_ETH_TYPE | CVLAN_ETH_TYPE | IN_HW_COUNT
            | PORT_SRC_MIN..=PORT_DST_MAX | PPPOE_SID | PPP_PROTO);
        if !known && !tabled(kind) {
            undecoded.push(name(kind));
        }
    }
    Ok(m)
}

/// Naming an address compares the kind of addresses, too. With both kinds IPv4 counts in the packet, IPv6 in the tunnel.
fn set_addr_type(flower: &Attributes, m: &mut Match) {
    let named = |guard: Guard| ROWS.iter().any(|row| row.guard == guard && flower.has_any(&[row.value]));
    for kind in [addr_type::IPV6, addr_type::IPV4] {
        if named(Guard::Addresses(kind)) {
            m.set(Field::AddrType, kind, u128::MAX);
        }
    }
    for kind in [addr_type::IPV4, addr_type::IPV6] {
        if named(Guard::TunnelAddresses(kind)) {
            m.set(Field::EncAddrType, kind, u128::MAX);
        }
    }
}

fn takes_ranges(m: &Match) -> bool {
    let proto = m.key.get(Field::IpProto) as u8;
    matches!(proto, proto::TCP | proto::UDP | proto::SCTP)
}

fn set_range(flower: &Attributes, m: &mut Match, undecoded: &mut Vec<String>) -> Result<(), DecodeError> {
    let mut range = |min: u16, max: u16| match (flower.u16_be(min)?, flower.u16_be(max)?) {
        (Some(min), Some(max)) if min < max => Ok(Some(Range { min, max })),
        (None, None) => Ok(None),
        _ => {
            undecoded.push(format!("TCA_FLOWER {min} and {max}: not a range"));
            Ok(None)
        }
    };
    if takes_ranges(m) {
        m.src_range = range(PORT_SRC_MIN, PORT_SRC_MAX)?;
        m.dst_range = range(PORT_DST_MIN, PORT_DST_MAX)?;
    }
    Ok(())
}

/// The attributes that make flower compare what the match says; a match that not all of these readers would take whole is refused.
pub(super) fn encode(
    m: &Match,
    protocol: u16,
    names: &dyn Names,
    readers: &[Said],
) -> Result<Vec<Attribute>, EncodeError> {
    let mut out = Vec::new();
    if m.mask.get(Field::Indev) != 0 {
        let index = m.key.get(Field::Indev) as u32;
        let device = names.name(index).ok_or(EncodeError::NoSuchDevice(index))?;
        out.push(Attribute::text(INDEV, &device));
    }
    let types = Types::of(m);
    for (kind, ethertype) in [(ETH_TYPE, types.eth), (VLAN_ETH_TYPE, types.vlan), (CVLAN_ETH_TYPE, types.cvlan)] {
        out.extend(ethertype.map(|t| Attribute::new(kind, t.to_be_bytes())));
    }
    for (kind, field) in [(PPPOE_SID, Field::PppoeSid), (PPP_PROTO, Field::PppProto)] {
        if m.mask.get(field) != 0 {
            out.push(Attribute::new(kind, (m.key.get(field) as u16).to_be_bytes()));
        }
    }
    let tags = Tags { outer: true, inner: true };
    for row in ROWS {
        let mask = m.mask.get(row.field);
        if mask == 0 || !row.guard.is_open(m, tags) {
            continue;
        }
        out.push(Attribute::new(row.value, row.order.write(m.key.get(row.field), row.bytes)));
        if row.mask != 0 {
            out.push(Attribute::new(row.mask, row.order.write(mask, row.bytes)));
        }
    }
    for (range, field, min, max) in [
        (m.src_range, Field::SrcPort, PORT_SRC_MIN, PORT_SRC_MAX),
        (m.dst_range, Field::DstPort, PORT_DST_MIN, PORT_DST_MAX),
    ] {
        let Some(range) = range else { continue };
        if !takes_ranges(m) || range.min >= range.max {
            return Err(EncodeError::Range(field));
        }
        out.push(Attribute::new(min, range.min.to_be_bytes()));
        out.push(Attribute::new(max, range.max.to_be_bytes()));
    }
    readers.iter().try_for_each(|&said| check(m, protocol, names, &out, said))?;
    Ok(out)
}

/// Reads the attributes back as the kernel would, or who reads its dump. This is what keeps every field's conditions in one place: a
/// comparison that flower would drop or widen shows as a difference.
fn check(m: &Match, protocol: u16, names: &dyn Names, attributes: &[Attribute], said: Said) -> Result<(), EncodeError> {
    let bytes = super::attributes::emit(attributes);
    let mut undecoded = Vec::new();
    let taken = Attributes::parse("TCA_FLOWER", &bytes)
        .and_then(|flower| read(&flower, protocol, names, &mut undecoded, said))
        .unwrap_or_default();
    let differs = |&&f: &&Field| taken.mask.get(f) != m.mask.get(f) || taken.key.get(f) != m.key.get(f);
    match Field::ALL.iter().find(differs) {
        Some(&field) => Err(EncodeError::Field(field)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_mask_is_compared_as_a_whole() {
        let tabled: Vec<Field> = ROWS.iter().map(|row| row.field).collect();
        for row in ROWS {
            assert_eq!(row.field.row().whole, row.mask == 0, "{}", row.field);
        }
        // Beside the table nothing has one.
        assert!(Field::ALL.iter().all(|f| tabled.contains(f) || f.row().whole));
    }
}
