//! `TCA_FLOWER_*` <-> [`Match`].
//!
//! One table ([`rows`]) says for each field which attributes carry it, how, and under which condition flower looks at them;
//! decoding and encoding both read it. Beside the table stand the ethertypes, where what the kernel dumps is not what it was
//! told ([`Types`]), the tunnel's and the packet's address kinds, `indev`, fragment flags and port ranges; and in nests of their own
//! the MPLS stack ([`mpls`]), the tunnel's options ([`options`]) and CFM.
//!
//! What is asked is read as Linux 6.1 does, which leaves out what only later kernels know; what is dumped may come from those, too.
//!
//! Source: `net/sched/cls_flower.c`, `fl_set_key` and `fl_dump_key`.

mod mpls;
mod options;
mod rows;
mod types;

use super::{
    Names,
    attributes::{Attribute, Attributes},
    error::{DecodeError, EncodeError},
};
use crate::{
    conntrack::proto,
    flower::{Field, Match, Range, ethertype, field::addr_type, filter::PROTOCOL_ALL},
};
use rows::{Guard, Tags, name, rows};
use types::{Types, set_pppoe};

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
const IN_HW_COUNT: u16 = 86;
const PORT_SRC_MIN: u16 = 87;
const PORT_SRC_MAX: u16 = 88;
const PORT_DST_MIN: u16 = 89;
const PORT_DST_MAX: u16 = 90;
const NUM_OF_VLANS: u16 = 102;
const PPPOE_SID: u16 = 103;
const PPP_PROTO: u16 = 104;
const CFM: u16 = 107;
const CFM_LEVEL: u16 = 1;
const CFM_OPCODE: u16 = 2;

/// Who says what a message holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// Whoever asks Linux 6.1 for a filter.
    Asked,
    /// The kernel, 6.1 or later.
    Dumped,
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
        set_pppoe(flower, &mut m, undecoded)?;
    }
    set_addr_type(flower, &mut m);
    mpls::read(flower, &mut m, undecoded)?;
    options::read(flower, &mut m, said, undecoded)?;
    if said == Said::Dumped {
        read_cfm(flower, &mut m, undecoded)?;
    }
    for row in rows(said) {
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
        // No packet has bits beyond the field's width. Flags are followed by flags of later kernels.
        let beyond = mask & !row.field.ones();
        let are_flags = matches!(row.field, Field::IpFlags | Field::EncFlags);
        if beyond & value != 0 || beyond != 0 && are_flags {
            undecoded.push(format!("{} {value:#x}/{mask:#x}", name(row.value)));
        }
        m.set(row.field, value, mask);
    }
    set_range(flower, &mut m, undecoded)?;
    let tabled = |kind: u16| rows(Said::Dumped).any(|row| row.value == kind || row.mask == kind);
    for (kind, _) in flower.iter() {
        #[rustfmt::skip]
        let known = matches!(kind, CLASSID | INDEV | ACT | ETH_TYPE | FLAGS | VLAN_ETH_TYPE | CVLAN_ETH_TYPE | IN_HW_COUNT
            | PORT_SRC_MIN..=PORT_DST_MAX | PPPOE_SID | PPP_PROTO | options::KEY | options::MASK | CFM);
        if !known && !tabled(kind) && !mpls::knows(kind) {
            undecoded.push(name(kind));
        }
    }
    Ok(m)
}

/// Connectivity fault management, of later kernels: level and opcode.
fn read_cfm(flower: &Attributes, m: &mut Match, undecoded: &mut Vec<String>) -> Result<(), DecodeError> {
    let Some(cfm) = flower.nested(CFM, "TCA_FLOWER_KEY_CFM")? else { return Ok(()) };
    if m.key.get(Field::EthType) as u16 != ethertype::CFM {
        return Ok(());
    }
    for (kind, field) in [(CFM_LEVEL, Field::CfmLevel), (CFM_OPCODE, Field::CfmOpcode)] {
        if let Some(value) = cfm.u8(kind)? {
            m.set(field, value.into(), u128::MAX);
        }
    }
    undecoded
        .extend(cfm.iter().filter(|&(kind, _)| kind > CFM_OPCODE).map(|(kind, _)| format!("{} {kind}", name(CFM))));
    Ok(())
}

fn write_cfm(m: &Match, out: &mut Vec<Attribute>) {
    let asked = [(CFM_LEVEL, Field::CfmLevel), (CFM_OPCODE, Field::CfmOpcode)]
        .into_iter()
        .filter(|&(_, field)| m.mask.get(field) != 0);
    let asked: Vec<_> = asked.map(|(kind, field)| Attribute::new(kind, [m.key.get(field) as u8])).collect();
    if !asked.is_empty() {
        out.push(Attribute::nest(CFM, asked));
    }
}

/// Naming an address compares the kind of addresses, too. With both kinds IPv4 counts in the packet, IPv6 in the tunnel.
fn set_addr_type(flower: &Attributes, m: &mut Match) {
    let named = |guard: Guard| rows(Said::Asked).any(|row| row.guard == guard && flower.has_any(&[row.value]));
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
    for (kind, field) in [(PPPOE_SID, Field::PppoeSid), (PPP_PROTO, Field::PppProto)] {
        if m.mask.get(field) != 0 {
            out.push(Attribute::new(kind, (m.key.get(field) as u16).to_be_bytes()));
        }
    }
    let tags = Tags { outer: true, inner: true };
    for row in rows(Said::Dumped) {
        let mask = m.mask.get(row.field);
        if mask == 0 || !row.guard.is_open(m, tags) {
            continue;
        }
        out.push(Attribute::new(row.value, row.order.write(m.key.get(row.field), row.bytes)));
        if row.mask != 0 {
            out.push(Attribute::new(row.mask, row.order.write(mask, row.bytes)));
        }
    }
    mpls::write(m, &mut out);
    options::write(m, &mut out);
    write_cfm(m, &mut out);
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
    let with = |types: Types| types.write().into_iter().chain(out.iter().cloned()).collect::<Vec<_>>();
    for &said in readers {
        let types = match said {
            Said::Asked => Types::of(m),
            Said::Dumped => Types::dumped(m),
        };
        check(m, protocol, names, &with(types), said)?;
    }
    Ok(with(Types::of(m)))
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
