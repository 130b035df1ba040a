//! What random filters compare: every field, whole and under masks, and ranges of ports.

use super::{Protocol, more};
use flowmerge::flower::{
    Field, Key, Match, Range,
    field::{addr_type, ct_state, ip_flags},
};
use proptest::prelude::*;

/// What is random about a term: which value, which mask, and bits for either.
#[derive(Clone, Copy, Debug)]
pub struct Pick {
    pub value: u8,
    pub mask: u8,
    pub bits: u128,
}

impl Pick {
    /// One of these.
    pub fn of(self, values: &[u128]) -> u128 {
        values[self.value as usize % values.len()]
    }

    /// The whole field, one bit, a prefix, or any bits.
    fn mask(self, field: Field) -> u128 {
        let width = u32::from(field.row().bits);
        match self.mask % 8 {
            0..4 => field.ones(),
            4 => 1 << (self.bits as u32 % width),
            5 => field.ones() & !(field.ones() >> (self.bits as u32 % width)),
            6 => self.bits & field.ones() | 1,
            // The low bits, in which the hosts differ.
            _ => 3,
        }
    }

    /// A comparison with one of these values, often such that it holds for one of the tests' packets.
    pub fn compare(self, m: &mut Match, field: Field, values: &[u128]) {
        m.set(field, self.of(values), self.mask(field));
    }

    fn range(self) -> Range {
        let min = self.of(&[0, 80, 80, 100, 1000, 8000]) as u16;
        let max = [80u16, 900, 940, 1001, 8000, 0xffff][self.mask as usize % 6];
        Range { min: min.min(max), max: min.max(max) }
    }
}

const HOST4: [u128; 3] = [0x0a000001, 0x0a000002, 0x0a000003];
const FD: u128 = 0xfd << 120;
const HOST6: [u128; 3] = [FD | 1, FD | 2, FD | 3];
const MAC: [u128; 3] = [0x0200_0000_0001, 0x0200_0000_0002, 0x0200_0000_0003];
const PORTS: [u128; 5] = [80, 1000, 1001, 1002, 8000];

/// One comparison.
type Term = fn(&mut Match, Pick);

/// Comparisons of what is behind the tags, those that often hold more than once.
const TERMS: [Term; 32] = [
    |m, p| p.compare(m, Field::Ipv4Dst, &HOST4),
    |m, p| p.compare(m, Field::Ipv4Dst, &HOST4),
    |m, p| p.compare(m, Field::Ipv4Src, &HOST4),
    |m, p| p.compare(m, Field::Ipv6Dst, &HOST6),
    |m, p| p.compare(m, Field::Ipv6Src, &HOST6),
    |m, p| p.compare(m, Field::IpTtl, &[1, 2, 3]),
    |m, p| m.set(Field::IpTtl, u128::from(p.value & 3), u128::from(p.mask & 7)),
    |m, p| p.compare(m, Field::IpTtl, &[0, 1, 2, 3]),
    |m, p| m.set(Field::IpTos, u128::from(p.value & 4), 4),
    |m, p| p.compare(m, Field::IpTos, &[0, 4, 0xb8]),
    |m, p| m.set(Field::IpProto, p.of(&[6, 6, 17, 17, 132]), 0xff),
    |m, p| m.set(Field::IpProto, p.of(&[6, 17]), 0xff),
    |m, p| p.compare(m, Field::DstPort, &PORTS),
    |m, p| m.set(Field::DstPort, p.of(&PORTS), [0xffff, 0xff, 8, 0xc000][p.mask as usize & 3]),
    |m, p| p.compare(m, Field::SrcPort, &PORTS),
    |m, p| m.dst_range = Some(p.range()),
    |m, p| m.dst_range = Some(Range { min: (p.value as u16 & 3) * 100, max: 900 + (p.mask as u16 & 7) * 20 }),
    |m, p| m.src_range = Some(p.range()),
    |m, p| m.set(Field::TcpFlags, u128::from(p.value), 0x8 | u128::from(p.mask & 0x10)),
    |m, p| p.compare(m, Field::TcpFlags, &[0x10, 0x18, 2, 0x50]),
    |m, p| m.set(Field::EthDst, u128::from(p.value & 3), 3),
    |m, p| p.compare(m, Field::EthDst, &MAC),
    |m, p| p.compare(m, Field::EthSrc, &MAC),
    |m, p| m.set(Field::CtMark, 1000 + u128::from(p.value & 1), if p.mask & 1 == 0 { 0xffff } else { 1 }),
    |m, p| p.compare(m, Field::CtMark, &[1000, 1001, 0, 1003]),
    |m, p| m.set(Field::CtLabels, u128::from(p.value) & 0x30, 0x10 | u128::from(p.mask) & 0x20),
    |m, p| p.compare(m, Field::CtLabels, &[0x10, 0x20, 0]),
    |m, p| p.compare(m, Field::CtZone, &[5, 6, 5, 6, 7, 0]),
    |m, p| {
        let flags = [(0, 1), (1, 1), (3, 3), (1, 3), (0, 3), (0, 2)][p.value as usize % 6];
        m.set(Field::IpFlags, flags.0, flags.1);
    },
    |m, p| {
        p.compare(m, Field::IcmpType, &[8, 0, 3]);
        if p.mask & 0x10 == 0 {
            p.compare(m, Field::IcmpCode, &[0, 1]);
        }
    },
    |m, p| m.set(Field::NumOfVlans, p.of(&[0, 0, 1, 2]), 0xff),
    |m, p| m.set(Field::Indev, p.of(&[1, 1, 1, 3]), u128::MAX),
];

/// Any.
pub fn pick() -> impl Strategy<Value = Pick> {
    (any::<u8>(), any::<u8>(), any::<u128>()).prop_map(|(value, mask, bits)| Pick { value, mask, bits })
}

fn term() -> impl Strategy<Value = (usize, Pick)> {
    (0..TERMS.len(), pick())
}

/// Adds a comparison that holds for a packet which matches so far, with what flower wants before it. `odd`: of what few packets
/// have, if this one has it.
pub fn narrow(m: &mut Match, key: &Key, pick: Pick, odd: bool) {
    use Field::*;
    let tags = [CvlanId, CvlanPrio, CvlanEthType];
    let mut rare: Vec<Field> = tags.into_iter().filter(|_| key.get(CvlanTpid) != 0).collect();
    rare.extend([IcmpType, IcmpCode].into_iter().filter(|_| matches!(key.get(IpProto), 1 | 58)));
    rare.extend((key.get(IpFlags) != 0).then_some(IpFlags));
    let always = [EthDst, EthSrc, NumOfVlans, Indev, IpFlags];
    let there = |f: &Field| key.get(*f) != 0 && f.row().prerequisite.is_some() && *f != AddrType;
    let fields: Vec<Field> = always.into_iter().chain(Field::ALL.iter().copied().filter(there)).collect();
    let fields = if odd && !rare.is_empty() { rare } else { fields };
    let field = fields[pick.value as usize % fields.len()];
    if m.ranges().any(|r| r.0 == field) {
        return;
    }
    let before = std::iter::successors(field.row().prerequisite, |f| f.row().prerequisite);
    before.for_each(|f| m.set(f, key.get(f), u128::MAX));
    let value = key.get(field);
    if matches!(field, SrcPort | DstPort) && pick.mask & 0x30 == 0 && m.mask.get(field) == 0 {
        let (below, above) = (pick.bits as u16 & 0x7f, (pick.bits >> 16) as u16 & 0x7f);
        let range = Range { min: (value as u16).saturating_sub(below), max: (value as u16).saturating_add(above) };
        *m.range_mut(field) = Some(range);
    } else {
        let mask = if matches!(field, NumOfVlans | Indev) { u128::MAX } else { pick.mask(field) };
        m.set(field, value, mask);
    }
}

/// State and mask: what pipelines ask for, and for others every bit set or not.
fn states(chain: u32, plain: bool) -> BoxedStrategy<(u128, u128)> {
    use ct_state::{ESTABLISHED, INVALID, NEW, RELATED, REPLY, TRACKED};
    let usual = match (chain, plain) {
        (0, _) => vec![(0, 0)],
        (_, true) => vec![(0, 0), (0, 0), (TRACKED | ESTABLISHED, TRACKED | ESTABLISHED)],
        _ => vec![
            (0, 0),
            (0, 0),
            (TRACKED | ESTABLISHED, TRACKED | ESTABLISHED),
            (ESTABLISHED, ESTABLISHED | REPLY),
            (REPLY, REPLY),
            (0, TRACKED),
            (TRACKED | NEW, TRACKED | NEW),
            (TRACKED | INVALID, TRACKED | INVALID),
            (TRACKED, TRACKED | NEW | INVALID),
            (RELATED, RELATED),
        ],
    };
    let usual = prop::sample::select(usual);
    match plain {
        // Any bits of what an established packet has.
        true if chain > 0 => prop_oneof![
            14 => usual,
            1 => (0u128..64).prop_map(|mask| ((TRACKED | ESTABLISHED) & mask, mask)),
        ]
        .boxed(),
        true => usual.boxed(),
        false => prop_oneof![
            4 => usual,
            1 => (0u128..64, 0u128..64).prop_map(|(state, mask)| (state & mask, mask)),
        ]
        .boxed(),
    }
}

/// The tags that a filter for tagged packets asks for. Gives the fields that hold the ethertype behind them.
fn tag(m: &mut Match, tpid: u16, ethertype: u128, pick: Pick) {
    let compare = |m: &mut Match, field: Field, value: u128, bit: u8| {
        if pick.value >> bit & 1 == 0 {
            m.set(field, value, Pick { mask: pick.mask.rotate_right(bit.into()), ..pick }.mask(field));
        }
    };
    m.set(Field::VlanTpid, tpid.into(), 0xffff);
    if pick.value & 1 == 0 {
        let mask = if pick.bits & 7 == 0 { pick.mask(Field::VlanId) } else { 0xfff };
        m.set(Field::VlanId, if pick.value & 2 == 0 { 10 } else { 20 }, mask);
    }
    if pick.value & 0x38 == 0x38 {
        compare(m, Field::VlanPrio, pick.of(&[0, 3, 5]), 6);
    }
    if pick.value & 4 == 0 {
        return;
    }
    match pick.mask & 0xc0 {
        0xc0 => {
            m.set(Field::VlanEthType, 0x8100, 0xffff);
            m.set(Field::CvlanTpid, 0x8100, 0xffff);
            compare(m, Field::CvlanId, if pick.mask & 1 == 0 { 10 } else { 20 }, 0);
            compare(m, Field::CvlanPrio, pick.of(&[0, 3, 5]), 1);
            if pick.mask & 2 == 0 {
                m.set(Field::CvlanEthType, ethertype, 0xffff);
            }
        }
        _ => m.set(Field::VlanEthType, ethertype, 0xffff),
    }
}

/// A filter's match. `plain`: what links chains, and asks for little.
pub fn matches(protocol: Protocol, chain: u32, plain: bool, rare: bool, carried: bool) -> BoxedStrategy<Match> {
    let few = rare || carried && matches!(protocol, Protocol::Arp | Protocol::Mpls);
    let terms = prop::collection::vec(term(), if plain { 0..=usize::from(few) } else { 0..=2 });
    (terms, states(chain, plain), pick(), any::<bool>())
        .prop_map(move |(terms, state, pick, v6)| {
            let mut m = Match::default();
            let v6 = match protocol {
                Protocol::V4 => false,
                Protocol::V6 => true,
                _ => v6,
            };
            let ethertype = if v6 { 0x86dd } else { 0x800 };
            more::tunnel(&mut m, pick, carried);
            if protocol != Protocol::All {
                m.set(Field::Protocol, protocol.number().0.into(), 0xffff);
            }
            match protocol {
                Protocol::Tagged => tag(&mut m, 0x8100, ethertype, pick),
                Protocol::QinQ => tag(&mut m, 0x88a8, ethertype, pick),
                _ => {}
            }
            let behind = [Field::VlanEthType, Field::CvlanEthType].map(|f| m.key.get(f)).contains(&ethertype);
            m.set(Field::CtState, state.0, state.1);
            match protocol {
                Protocol::All if pick.value & 3 != 0 => return common(m, &terms),
                Protocol::Tagged | Protocol::QinQ if !behind => return common(m, &terms),
                Protocol::Arp => {
                    m.set(Field::EthType, 0x806, 0xffff);
                    terms.iter().for_each(|&(n, pick)| more::of_arp(&mut m, n, pick));
                    return common(m, &terms);
                }
                Protocol::Mpls => {
                    m.set(Field::EthType, 0x8847, 0xffff);
                    terms.iter().for_each(|&(n, pick)| more::of_labels(&mut m, n, pick));
                    return common(m, &terms);
                }
                _ => {}
            }
            m.set(Field::EthType, ethertype, 0xffff);
            for (term, pick) in terms {
                TERMS[term](&mut m, pick);
            }
            allowed(&mut m, v6);
            m
        })
        .boxed()
}

/// Of the terms only those that need no IP header.
fn common(mut m: Match, terms: &[(usize, Pick)]) -> Match {
    let mut all = m;
    terms.iter().for_each(|&(term, pick)| TERMS[term](&mut all, pick));
    for field in [Field::EthDst, Field::EthSrc, Field::Indev, Field::CtMark, Field::CtZone, Field::NumOfVlans] {
        m.set(field, all.key.get(field), all.mask.get(field));
    }
    m
}

/// As flower wants it: ports need a protocol, addresses their kind and ethertype.
fn allowed(m: &mut Match, v6: bool) {
    let drop = |m: &mut Match, fields: &[Field]| {
        fields.iter().for_each(|&field| m.clear(field));
    };
    let (own, other) = match v6 {
        false => ([Field::Ipv4Src, Field::Ipv4Dst], [Field::Ipv6Src, Field::Ipv6Dst]),
        true => ([Field::Ipv6Src, Field::Ipv6Dst], [Field::Ipv4Src, Field::Ipv4Dst]),
    };
    drop(m, &other);
    let has = |m: &Match, fields: &[Field]| fields.iter().any(|&f| m.mask.get(f) != 0);
    if has(m, &[Field::IcmpType, Field::IcmpCode]) {
        drop(m, &[Field::SrcPort, Field::DstPort, Field::TcpFlags, Field::IpProto]);
        (m.src_range, m.dst_range) = (None, None);
        m.set(Field::IpProto, if v6 { 58 } else { 1 }, 0xff);
    }
    // Of one port a filter gives a range or a value.
    for (field, range) in [(Field::SrcPort, m.src_range), (Field::DstPort, m.dst_range)] {
        if range.is_some() {
            drop(m, &[field]);
        }
    }
    if has(m, &[Field::SrcPort, Field::DstPort]) || m.src_range.is_some() || m.dst_range.is_some() {
        let proto = m.key.get(Field::IpProto).max(6);
        m.set(Field::IpProto, proto, 0xff);
    }
    if has(m, &[Field::TcpFlags]) {
        m.set(Field::IpProto, 6, 0xff);
    }
    if has(m, &own) {
        m.set(Field::AddrType, if v6 { addr_type::IPV6 } else { addr_type::IPV4 }, 0xffff);
    }
    debug_assert!(m.mask.get(Field::IpFlags) & !(ip_flags::FRAG | ip_flags::FIRST) == 0);
}
