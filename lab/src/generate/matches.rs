//! A filter's match: its protocol and tags, then a few comparisons of what such packets have.

use super::{dice::Dice, universe::Universe};
use flowmerge::flower::{
    Field, Match, Range, ethertype as et,
    field::{addr_type, ct_state},
};

/// What a filter's protocol is, and what stands under its tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The filter's protocol, as TC has it: 3 is `all`.
    pub protocol: u16,
    /// The ethertypes of the tags that the filter asks for, outermost first: the protocol, and the one under it.
    pub tags: [u16; 2],
    /// The ethertype behind them, 0 where the filter does not ask.
    pub ethertype: u16,
}

impl Shape {
    /// Filters that ask for the ethertype alone.
    pub fn plain(ethertype: u16) -> Shape {
        Shape { protocol: ethertype, tags: [0, 0], ethertype }
    }

    /// Whether it is IP.
    pub fn is_ip(self) -> bool {
        matches!(self.ethertype, et::IPV4 | et::IPV6)
    }

    /// Any.
    pub fn any(dice: &mut Dice, universe: &Universe) -> Shape {
        let ip = if dice.percent(universe.v6_share) { et::IPV6 } else { et::IPV4 };
        let tag = *dice.pick(&[et::VLAN, et::VLAN, et::QINQ]);
        if dice.percent(universe.tagged_share / 2) {
            let inner = if dice.percent(25) { *dice.pick(&[et::VLAN, et::QINQ]) } else { 0 };
            let ethertype = if dice.percent(75) { ip } else { 0 };
            return Shape { protocol: tag, tags: [tag, inner], ethertype };
        }
        match dice.below(100) {
            0..82 => Shape::plain(ip),
            82..86 => Shape::plain(et::ARP),
            86..88 => Shape::plain(0x1234),
            88..94 => Shape { protocol: 3, tags: [0, 0], ethertype: 0 },
            _ => Shape { protocol: 3, tags: [0, 0], ethertype: ip },
        }
    }
}

/// The match of a shape's filters, with nothing compared but the shape.
pub fn base(shape: Shape) -> Match {
    let mut m = Match::default();
    if shape.protocol != 3 {
        m.set(Field::Protocol, shape.protocol.into(), 0xffff);
    }
    for (tag, field) in shape.tags.into_iter().zip([Field::VlanTpid, Field::CvlanTpid]) {
        if tag != 0 {
            m.set(field, tag.into(), 0xffff);
        }
    }
    if shape.ethertype != 0 {
        let behind = match shape.tags {
            [0, _] => None,
            [_, 0] => Some(Field::VlanEthType),
            _ => Some(Field::CvlanEthType),
        };
        if let Some(field) = behind {
            m.set(field, shape.ethertype.into(), 0xffff);
        }
        if shape.tags[1] != 0 {
            m.set(Field::VlanEthType, shape.tags[1].into(), 0xffff);
        }
        m.set(Field::EthType, shape.ethertype.into(), 0xffff);
    }
    m
}

/// Adds up to `most` comparisons.
pub fn refine(m: &mut Match, dice: &mut Dice, universe: &Universe, shape: Shape, most: usize) {
    for _ in 0..dice.between(0, most) {
        let Some(field) = comparable(m, dice, shape) else { continue };
        let value = universe.value(dice, field);
        compare(m, dice, universe, field, value);
    }
}

/// A field that such packets have.
fn comparable(m: &Match, dice: &mut Dice, shape: Shape) -> Option<Field> {
    use Field::*;
    if shape.tags[0] != 0 && dice.percent(35) {
        return Some(*match shape.tags[1] {
            0 => dice.pick(&[VlanId, VlanPrio]),
            _ => dice.pick(&[VlanId, VlanPrio, CvlanId, CvlanPrio]),
        });
    }
    if dice.percent(8) {
        return Some(*dice.pick(&[EthDst, EthSrc]));
    }
    let transport: &[Field] = match m.key.get(IpProto) as u8 {
        6 => &[SrcPort, DstPort, DstPort, TcpFlags],
        17 | 132 => &[SrcPort, DstPort, DstPort],
        1 | 58 => &[IcmpType, IcmpType, IcmpCode],
        _ => &[IpProto],
    };
    Some(match shape.ethertype {
        et::IPV4 | et::IPV6 => {
            let (src, dst) = if shape.ethertype == et::IPV4 { (Ipv4Src, Ipv4Dst) } else { (Ipv6Src, Ipv6Dst) };
            match dice.below(10) {
                0..4 => *dice.pick(transport),
                4..7 => *dice.pick(&[src, dst]),
                _ => *dice.pick(&[IpProto, IpTos, IpTtl, IpFlags]),
            }
        }
        et::ARP => *dice.pick(&[ArpSip, ArpTip, ArpOp, ArpSha, ArpTha]),
        _ => return None,
    })
}

/// Asks for a value of a field, or of some of its bits.
pub fn compare(m: &mut Match, dice: &mut Dice, universe: &Universe, field: Field, value: u128) {
    match field {
        Field::IpProto => m.set(field, value, 0xff),
        Field::VlanId | Field::VlanPrio | Field::CvlanId | Field::CvlanPrio => m.set(field, value, u128::MAX),
        Field::IpFlags => {
            let mask = if value == 0 { *dice.pick(&[1, 2, 3]) } else { 3 };
            m.set(field, value, mask);
        }
        Field::SrcPort | Field::DstPort if dice.percent(35) => {
            let from = value as u16;
            let range = match dice.below(4) {
                0 => Range { min: from.saturating_sub(1), max: from.max(1) },
                1 => Range { min: from.min(65534), max: 65535 },
                2 => Range { min: 1.min(from), max: from.max(2) },
                _ => Range { min: from.min(65000), max: from.min(65000) + 1 + dice.below(500) as u16 },
            };
            let place = if field == Field::SrcPort { &mut m.src_range } else { &mut m.dst_range };
            *place = (range.min < range.max).then_some(range);
        }
        _ => {
            if matches!(field, Field::Ipv4Src | Field::Ipv4Dst) {
                m.set(Field::AddrType, addr_type::IPV4, 0xffff);
            }
            if matches!(field, Field::Ipv6Src | Field::Ipv6Dst) {
                m.set(Field::AddrType, addr_type::IPV6, 0xffff);
            }
            m.set(field, value, universe.mask(dice, field));
        }
    }
    // A range and a comparison of the same port are two filters' work.
    if m.src_range.is_some() {
        m.clear(Field::SrcPort);
    }
    if m.dst_range.is_some() {
        m.clear(Field::DstPort);
    }
}

/// Comparisons of what conntrack found, as likely behind `ct` as they are sensible there.
pub fn conntrack(m: &mut Match, dice: &mut Dice, universe: &Universe) {
    use ct_state::*;
    let states = [
        (TRACKED | NEW, TRACKED | NEW),
        (TRACKED | ESTABLISHED, TRACKED | ESTABLISHED),
        (TRACKED | ESTABLISHED, TRACKED | ESTABLISHED | NEW),
        (TRACKED | INVALID, TRACKED | INVALID),
        (TRACKED, TRACKED | INVALID),
        (TRACKED | ESTABLISHED | REPLY, TRACKED | ESTABLISHED | REPLY),
        (ESTABLISHED, ESTABLISHED | REPLY),
        (REPLY, REPLY),
        (0, REPLY),
        (TRACKED, TRACKED),
        (0, TRACKED),
        (RELATED, RELATED),
        (0, INVALID | RELATED),
    ];
    if dice.percent(70) {
        let (value, mask) = *dice.pick(&states);
        m.set(Field::CtState, value, mask);
    }
    for (field, percent) in [(Field::CtZone, 8), (Field::CtMark, 15), (Field::CtLabels, 12)] {
        if dice.percent(percent) {
            let value = universe.value(dice, field);
            m.set(field, value, universe.mask(dice, field));
        }
    }
}
