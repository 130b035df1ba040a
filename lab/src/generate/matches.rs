//! A filter's match: its protocol and tags, then a few comparisons of what such packets have.

use super::{actions, dice::Dice, universe::Universe};
use flowmerge::flower::{
    Field, Match, Port, Range, Tunnel, ethertype as et,
    field::{addr_type, ct_state},
    tunnel::{Erspan, TunnelOptions, option_field},
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
        let ip = match dice.below(100) {
            n if n < universe.labelled_share => *dice.pick(&[et::MPLS, et::MPLS, et::MPLS_MC]),
            n if n >= 100 - universe.session_share => et::PPPOE,
            _ => ip,
        };
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
            // That there is PPPoE is told by what carries it.
            _ if ip == et::PPPOE => Shape::plain(ip),
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
        // Of a session flower compares what PPP carries, if it is told that.
        if shape.ethertype != et::PPPOE {
            m.set(Field::EthType, shape.ethertype.into(), 0xffff);
        }
    }
    m
}

/// Adds up to `most` comparisons.
pub fn refine(m: &mut Match, dice: &mut Dice, universe: &Universe, shape: Shape, most: usize) {
    for _ in 0..dice.between(0, most) {
        let Some(field) = comparable(m, dice, shape) else { continue };
        let value = universe.value(dice, field);
        // What is compared under what PPP carries stays under it.
        if field != Field::PppProto || m.mask.get(Field::AddrType) == 0 && m.mask.get(Field::IpProto) == 0 {
            compare(m, dice, universe, field, value);
        }
    }
    // The kernel does not say back that there is a session, and nothing of it.
    if shape.ethertype == et::PPPOE && m.mask.get(Field::PppProto) == 0 {
        m.set(Field::PppoeSid, universe.value(dice, Field::PppoeSid), u128::MAX);
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
        115 => &[L2tpv3Sid],
        1 | 58 => &[IcmpType, IcmpType, IcmpCode],
        _ => &[IpProto],
    };
    let carried = match (shape.ethertype, m.key.get(EthType) as u16) {
        (et::PPPOE, carried @ (et::IPV4 | et::IPV6)) if dice.percent(60) => carried,
        (ethertype, _) => ethertype,
    };
    Some(match carried {
        et::IPV4 | et::IPV6 => {
            let (src, dst) = if carried == et::IPV4 { (Ipv4Src, Ipv4Dst) } else { (Ipv6Src, Ipv6Dst) };
            match dice.below(10) {
                0..4 => *dice.pick(transport),
                4..7 => *dice.pick(&[src, dst]),
                _ => *dice.pick(&[IpProto, IpTos, IpTtl, IpFlags]),
            }
        }
        et::MPLS | et::MPLS_MC => {
            let deep = dice.below(Field::MPLS.len());
            let entry = dice.weighted(&[(5, 0), (3, 1), (1, 2), (5, deep)]);
            let [present, label, tc, bos, ttl] = Field::MPLS[entry];
            *dice.pick(&[present, label, label, tc, bos, ttl])
        }
        et::PPPOE => *dice.pick(&[PppoeSid, PppProto]),
        et::ARP => *dice.pick(&[ArpSip, ArpTip, ArpOp, ArpSha, ArpTha]),
        _ => return None,
    })
}

/// Asks for a value of a field, or of some of its bits.
pub fn compare(m: &mut Match, dice: &mut Dice, universe: &Universe, field: Field, value: u128) {
    match field {
        Field::EncKeyId => m.set(field, value, u128::MAX),
        Field::PppProto => {
            m.set(field, value, u128::MAX);
            let carries = [(0x21, et::IPV4), (0x57, et::IPV6), (0x281, et::MPLS), (0x283, et::MPLS_MC)];
            match carries.into_iter().find(|(ppp, _)| *ppp == value) {
                Some((_, ethertype)) => m.set(Field::EthType, ethertype.into(), 0xffff),
                None => m.set(Field::EthType, et::PPPOE.into(), 0xffff),
            }
        }
        _ if field.row().whole => {
            m.set(field, value, u128::MAX);
            if let Some([present, ..]) = Field::MPLS.iter().find(|entry| entry.contains(&field)) {
                m.set(*present, 1, 1);
            }
        }
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
            if matches!(field, Field::EncIpv4Src | Field::EncIpv4Dst) {
                m.set(Field::EncAddrType, addr_type::IPV4, 0xffff);
            }
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

/// Comparisons of what does not depend on the packet's kind: where it came in, how many tags it has.
pub fn arrival(m: &mut Match, dice: &mut Dice, port: Port) {
    if dice.percent(5) {
        let other = actions::any_port(dice);
        m.set(Field::Indev, if dice.percent(70) { port } else { other }.0.into(), u128::MAX);
    }
    if dice.percent(4) {
        m.set(Field::NumOfVlans, dice.below(4) as u128, u128::MAX);
    }
}

/// Comparisons of the tunnel that a packet is to go through: mostly one of the case's.
pub fn tunnel(m: &mut Match, dice: &mut Dice, universe: &Universe) {
    let tunnel = dice.pick(&universe.tunnels).clone();
    of_tunnel(m, dice, universe, &tunnel);
}

/// Comparisons of this tunnel.
pub fn of_tunnel(m: &mut Match, dice: &mut Dice, universe: &Universe, tunnel: &Tunnel) {
    use Field::*;
    for _ in 0..dice.between(1, 3) {
        let (src, dst) = if tunnel.src.is_ipv4() { (EncIpv4Src, EncIpv4Dst) } else { (EncIpv6Src, EncIpv6Dst) };
        let field = *dice.pick(&[EncKeyId, EncKeyId, src, dst, dst, EncDstPort, EncTos, EncTtl]);
        let told = tunnel.fields().into_iter().find(|(f, _)| *f == field).map_or(0, |(_, value)| value);
        let value = if dice.percent(85) { told } else { universe.value(dice, field) };
        match field {
            EncKeyId => m.set(field, value, u128::MAX),
            EncIpv4Src | EncIpv4Dst => {
                m.set(EncAddrType, addr_type::IPV4, u128::MAX);
                m.set(field, value, universe.mask(dice, field));
            }
            EncIpv6Src | EncIpv6Dst => {
                m.set(EncAddrType, addr_type::IPV6, u128::MAX);
                m.set(field, value, universe.mask(dice, field));
            }
            _ => m.set(field, value, universe.mask(dice, field)),
        }
    }
    if dice.percent(40) {
        options(m, dice, &tunnel.options);
    }
}

/// A comparison with a tunnel's options, as flower makes it: of lengths it compares the bits that are set in them.
fn options(m: &mut Match, dice: &mut Dice, options: &TunnelOptions) {
    let bytes = options.bytes();
    let mut mask = vec![0xff; bytes.len()];
    match options {
        TunnelOptions::Geneve(list) => {
            let mut at = 0;
            for option in list {
                mask[at + 3] = bytes[at + 3];
                let data = at + 4..at + 4 + option.data.len();
                if dice.percent(30) {
                    mask[data.start] = 0xf0;
                }
                at = data.end;
            }
        }
        TunnelOptions::Vxlan { .. } => mask = 0x0048_ffff_u32.to_be_bytes().to_vec(),
        TunnelOptions::Erspan(Erspan::Index(_)) => mask = [&bytes[..4], &[0xff; 4], &[0; 4]].concat(),
        TunnelOptions::Erspan(_) => mask = [&bytes[..4], &[0; 6], &[3, 0xf8]].concat(),
        _ => {}
    }
    if bytes.is_empty() {
        return;
    }
    m.set(Field::EncOptsType, options.kind(), options.kind());
    m.set(Field::EncOptsLen, bytes.len() as u128, bytes.len() as u128);
    for (index, field) in Field::OPTIONS.into_iter().enumerate() {
        m.set(field, option_field(&bytes, index), option_field(&mask, index));
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
