//! What a merged filter matches, before a connection's values are filled in.
//!
//! Bits of the arrived packet are compared with constants (`known`) or with parameters (`terms`). What the walk asks of
//! parameters alone is a condition: a connection that does not meet it is not on this path.
//!
//! A template is kept for as long as its path, beside many others, and is held against every packet of its way. So it is packed:
//! nothing is in it for a field that is not compared, and what paths of one way have in common can be shared between them.

use super::{
    conditions::Conditions,
    symbol::{Param, Part},
};
use crate::{
    conntrack::{Connection, Direction, tuple::address_bits},
    flower::{Field, Key, Match, Packed, Range},
};
use smallvec::{SmallVec, smallvec};
use std::{net::IpAddr, sync::Arc};

/// Bits of an arrived field that must equal a parameter's: `field & mask == (param ^ flip) & mask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    /// The arrived field.
    pub field: Field,
    /// The parameter.
    pub param: Param,
    /// The bits.
    pub mask: u128,
    /// Bits in which they differ.
    pub flip: u128,
}

impl Term {
    /// Asks for what the parameter is of these connections.
    pub fn fill(&self, m: &mut Match, connections: &[&Connection]) {
        m.set(self.field, self.param.value(connections) ^ self.flip, self.mask);
    }

    /// Whether it holds of this packet, for these connections.
    pub fn holds(&self, packet: &Key, connections: &[&Connection]) -> bool {
        (packet.get(self.field) ^ self.param.value(connections) ^ self.flip) & self.mask == 0
    }
}

/// The terms of a field that compare some of these bits, and which.
pub fn terms_of(terms: &[Term], field: Field, mask: u128) -> SmallVec<[(Term, u128); 2]> {
    let of_field = terms.iter().filter(|t| t.field == field);
    of_field.map(|t| (*t, t.mask & mask)).filter(|(_, shared)| *shared != 0).collect()
}

/// Terms as they are kept. Most are those of a whole tuple, as `ct` pins it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Pinned {
    /// All four of a tuple: of the n-th connection, in a direction, whether it is IPv6.
    Tuple(u8, Direction, bool),
    /// A whole field.
    Whole(Field, Param),
    /// Any other.
    Part(Box<Term>),
}

/// The terms of a tuple.
fn tuple(connection: u8, direction: Direction, v6: bool) -> [Term; 4] {
    let [src, dst] = if v6 { [Field::Ipv6Src, Field::Ipv6Dst] } else { [Field::Ipv4Src, Field::Ipv4Dst] };
    let parts = [(src, Part::Src), (dst, Part::Dst), (Field::SrcPort, Part::SrcPort), (Field::DstPort, Part::DstPort)];
    parts.map(|(field, part)| Term { field, param: Param { connection, direction, part }, mask: field.ones(), flip: 0 })
}

impl Pinned {
    fn all(mut terms: &[Term]) -> Arc<[Pinned]> {
        let mut all: SmallVec<[Pinned; 4]> = SmallVec::new();
        while let Some((first, rest)) = terms.split_first() {
            let Term { field, param: Param { connection, direction, .. }, .. } = *first;
            let v6 = field == Field::Ipv6Src;
            if terms.starts_with(&tuple(connection, direction, v6)) {
                all.push(Pinned::Tuple(connection, direction, v6));
                terms = &terms[4..];
                continue;
            }
            all.push(match (first.mask, first.flip) == (field.ones(), 0) {
                true => Pinned::Whole(field, first.param),
                false => Pinned::Part(Box::new(*first)),
            });
            terms = rest;
        }
        all.into_iter().collect()
    }

    fn terms(&self) -> SmallVec<[Term; 4]> {
        match *self {
            Pinned::Tuple(connection, direction, v6) => tuple(connection, direction, v6).into(),
            Pinned::Whole(field, param) => smallvec![Term { field, param, mask: field.ones(), flip: 0 }],
            Pinned::Part(ref term) => smallvec![**term],
        }
    }

    fn fill(&self, m: &mut Match, connections: &[&Connection]) {
        match *self {
            Pinned::Tuple(connection, direction, v6) => {
                tuple(connection, direction, v6).iter().for_each(|term| term.fill(m, connections));
            }
            Pinned::Whole(field, param) => m.set(field, param.value(connections), field.ones()),
            Pinned::Part(ref term) => term.fill(m, connections),
        }
    }

    #[inline]
    fn holds(&self, packet: &Key, connections: &[&Connection]) -> bool {
        match *self {
            Pinned::Tuple(connection, direction, v6) => {
                let connection = connections[connection as usize];
                let tuple = if direction == Direction::Original { &connection.original } else { &connection.reply };
                let ports = packet.get(Field::SrcPort) as u16 == tuple.src_port
                    && packet.get(Field::DstPort) as u16 == tuple.dst_port;
                // As wide as the field, whatever the connection's addresses are.
                let is = |field: Field, address| (packet.get(field) ^ address_bits(address)) & field.ones() == 0;
                let addresses = match (v6, tuple.src, tuple.dst) {
                    (false, IpAddr::V4(src), IpAddr::V4(dst)) => {
                        packet.get(Field::Ipv4Src) as u32 == src.to_bits()
                            && packet.get(Field::Ipv4Dst) as u32 == dst.to_bits()
                    }
                    (false, src, dst) => is(Field::Ipv4Src, src) && is(Field::Ipv4Dst, dst),
                    (true, src, dst) => is(Field::Ipv6Src, src) && is(Field::Ipv6Dst, dst),
                };
                ports && addresses
            }
            Pinned::Whole(field, param) => (packet.get(field) ^ param.value(connections)) & field.ones() == 0,
            Pinned::Part(ref term) => term.holds(packet, connections),
        }
    }
}

/// Something that a parameter is or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Is {
    /// `param & mask == value`.
    Bits {
        /// The parameter.
        param: Param,
        /// The bits.
        mask: u128,
        /// Their value.
        value: u128,
    },
    /// A port, `param & kept ^ flip`, within a range.
    Within {
        /// The parameter.
        param: Param,
        /// Its bits that are left.
        kept: u16,
        /// The value of the others, and what is flipped.
        flip: u16,
        /// The range.
        range: Range,
    },
}

impl Is {
    /// Whether it holds for these connections.
    pub fn holds(&self, connections: &[&Connection]) -> bool {
        match *self {
            Is::Bits { param, mask, value } => param.value(connections) & mask == value,
            Is::Within { param, kept, flip, range } => range.contains(param.value(connections) as u16 & kept ^ flip),
        }
    }
}

/// What a path asks of its connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// This.
    Holds(Is),
    /// Two parameters agree: `a & mask == (b ^ flip) & mask`.
    Same {
        /// One.
        a: Param,
        /// The other.
        b: Param,
        /// The bits.
        mask: u128,
        /// Bits in which they differ.
        flip: u128,
    },
    /// Not all of these, which keeps a shadow out.
    NotAll(Vec<Is>),
}

impl Condition {
    pub(super) fn holds(&self, connections: &[&Connection]) -> bool {
        match self {
            Condition::Holds(is) => is.holds(connections),
            Condition::Same { a, b, mask, flip } => (a.value(connections) ^ b.value(connections) ^ flip) & mask == 0,
            Condition::NotAll(all) => !all.iter().all(|is| is.holds(connections)),
        }
    }
}

/// The match of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Template {
    /// Bits compared with constants, and port ranges.
    pub known: Packed,
    /// Bits compared with parameters. No bit is in two terms, nor in a term and in `known`.
    terms: Arc<[Pinned]>,
    /// What is asked of the connections.
    pub conditions: Conditions,
}

impl Template {
    /// A template of these parts.
    pub fn new(known: &Match, terms: &[Term], conditions: Vec<Condition>) -> Template {
        Template { known: Packed::new(known), terms: Pinned::all(terms), conditions: Conditions::new(conditions) }
    }

    /// Bits compared with parameters.
    pub fn terms(&self) -> impl Iterator<Item = Term> {
        self.terms.iter().flat_map(Pinned::terms)
    }

    /// The match for these connections; `None` if they do not meet the conditions.
    pub fn fill(&self, connections: &[&Connection]) -> Option<Match> {
        if !self.conditions.hold(connections) {
            return None;
        }
        let mut filled = self.known.unpack();
        self.terms.iter().for_each(|terms| terms.fill(&mut filled, connections));
        // Where a part of a port is a parameter's, its value may tell a range, or be told by it.
        filled.settle_ranges().then_some(filled)
    }

    /// Whether what [`fill`](Template::fill) gives for these connections matches the packet. Nothing is filled in for that.
    #[inline]
    pub fn fits(&self, packet: &Key, connections: &[&Connection]) -> bool {
        self.conditions.hold(connections)
            && self.known.fits(packet)
            && self.terms.iter().all(|term| term.holds(packet, connections))
    }

    /// Whether a packet could match both, by their constants and ranges: parameters may be anything.
    pub fn may_overlap(&self, other: &Template) -> bool {
        self.known.overlaps(&other.known)
    }

    /// The same with another packet's values of these bits, and with these conditions.
    pub(super) fn recast(&self, packet: &Key, bits: &Key, conditions: Conditions) -> Template {
        Template { known: self.known.recast(packet, bits), terms: Arc::clone(&self.terms), conditions }
    }

    /// Takes the parts that are the same from another template, so that they are kept once.
    pub fn share(&mut self, other: &Template) {
        if self.terms == other.terms {
            self.terms = Arc::clone(&other.terms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        conntrack::{Tuple, proto},
        merge::tests::cases,
    };
    use proptest::prelude::*;

    const PINNED: [(Field, [Part; 2]); 6] = [
        (Field::Ipv4Src, [Part::Src, Part::NewDst]),
        (Field::Ipv6Dst, [Part::Dst, Part::NewSrc]),
        (Field::SrcPort, [Part::SrcPort, Part::NewDstPort]),
        (Field::DstPort, [Part::DstPort, Part::NewSrcPort]),
        (Field::CtMark, [Part::Mark, Part::Mark]),
        (Field::CtLabels, [Part::Labels, Part::Labels]),
    ];

    fn param(part: Part) -> impl Strategy<Value = Param> {
        (0u8..2, any::<bool>()).prop_map(move |(connection, reply)| {
            let direction = if reply { Direction::Reply } else { Direction::Original };
            Param { connection, direction, part }
        })
    }

    fn mask() -> impl Strategy<Value = u128> {
        prop_oneof![3 => Just(u128::MAX), 1 => Just(1u128), 1 => Just(!1), 1 => Just(3 << 63)]
    }

    fn ports() -> impl Strategy<Value = Range> {
        (0u16..4, 0u16..4).prop_map(|(min, more)| Range { min, max: min + more })
    }

    fn is() -> impl Strategy<Value = Is> {
        let bits = (any::<prop::sample::Index>(), any::<[bool; 2]>(), mask(), 0u128..3);
        let bits = bits.prop_map(|(i, [new, reply], mask, value)| {
            let part = i.get(&PINNED).1[usize::from(new)];
            let direction = if reply { Direction::Reply } else { Direction::Original };
            Is::Bits { param: Param { connection: 0, direction, part }, mask, value: value & mask }
        });
        let within = (param(Part::SrcPort), 0u16..4, 0u16..4, ports());
        let within = within.prop_map(|(param, kept, flip, range)| Is::Within { param, kept, flip, range });
        prop_oneof![bits, within]
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let same = (param(Part::Src), param(Part::NewSrc), mask(), 0u128..2);
        prop_oneof![
            is().prop_map(Condition::Holds),
            same.prop_map(|(a, b, mask, flip)| Condition::Same { a, b, mask, flip }),
            prop::collection::vec(is(), 1..3).prop_map(Condition::NotAll),
        ]
    }

    fn connection() -> impl Strategy<Value = Connection> {
        (any::<bool>(), any::<[bool; 2]>(), [0u16..4, 0..4, 0..4, 0..4], 0u32..3, 0u128..3).prop_map(
            |(v6, addresses, [a, b, c, d], mark, labels)| {
                let address = |other: bool| match v6 {
                    true => (1u128 << 64 | u128::from(other)).to_be_bytes().into(),
                    false => [10, 0, 0, u8::from(other)].into(),
                };
                let [src, dst] = addresses.map(address);
                let tuple = |src, dst, src_port, dst_port| Tuple { src, dst, proto: proto::UDP, src_port, dst_port };
                let connection = Connection::new(0, tuple(src, dst, a, b), tuple(dst, src, c, d));
                Connection { mark, labels, ..connection }
            },
        )
    }

    /// No bit is compared twice, as the fold sees to it.
    fn template() -> impl Strategy<Value = Template> {
        let term = |(field, parts): (Field, [Part; 2])| {
            let param = prop::sample::select(parts.to_vec()).prop_flat_map(param);
            (param, mask(), prop_oneof![2 => Just(0u128), 1 => 0u128..2])
                .prop_map(move |(param, mask, flip)| (field, param, mask, flip))
        };
        let terms = prop::sample::subsequence(PINNED.to_vec(), 0..4)
            .prop_flat_map(move |fields| fields.into_iter().map(term).collect::<Vec<_>>());
        let known = prop::collection::vec((any::<prop::sample::Index>(), 0u128..3, mask()), 0..3);
        let conditions = prop::collection::vec(condition(), 0..2);
        let range = || prop::option::weighted(0.3, ports());
        let whole = prop::option::of((0u8..2, any::<[bool; 2]>()));
        let all = (terms, known, conditions, range(), range(), whole);
        all.prop_map(|(terms, known, conditions, src_range, dst_range, whole)| {
            let mut m = Match { src_range, dst_range, ..Match::default() };
            let whole = whole.map(|(connection, [reply, v6])| {
                tuple(connection, if reply { Direction::Reply } else { Direction::Original }, v6)
            });
            let whole = whole.as_ref().map_or(&[][..], |terms| terms);
            let is_free = |field: Field| whole.iter().all(|term| term.field != field);
            for (i, value, mask) in known {
                m.set([Field::IpTos, Field::SrcPort, Field::CtMark, Field::Ipv6Dst][i.index(4)], value, mask);
            }
            whole.iter().for_each(|term| m.clear(term.field));
            let terms = terms.into_iter().filter(|t| is_free(t.0)).map(|(field, param, mask, flip)| {
                let mask = mask & field.ones() & !m.mask.get(field);
                Term { field, param, mask, flip: flip & mask }
            });
            let terms = terms.filter(|term| term.mask != 0).chain(whole.iter().copied()).collect::<Vec<_>>();
            Template::new(&m, &terms, conditions)
        })
    }

    proptest! {
        #![proptest_config(cases(2000))]
        #[test]
        fn a_template_fits_what_its_match_fits(
            a in template(), b in template(), connections in [connection(), connection()],
            other in [0u16..6, 0..6], flip in (any::<prop::sample::Index>(), 0u128..2),
        ) {
            let connections = [&connections[0], &connections[1]];
            let filled = [&a, &b].map(|t| t.fill(&connections));
            for template in [&a, &b] {
                let terms: Vec<Term> = template.terms().collect();
                let same = Template::new(&template.known.unpack(), &terms, template.conditions.iter().collect());
                prop_assert_eq!(&same, template);
            }
            // What the parameters tell, what the constants tell besides, and packets next to these.
            let told = |mut key: Key, m: &Match| {
                m.terms().for_each(|(field, value, mask)| key.set(field, key.get(field) & !mask | value));
                key
            };
            let ports = Key::ZERO.with(Field::SrcPort, other[0].into()).with(Field::DstPort, other[1].into());
            let first = filled[0].iter().fold(ports, told);
            let both = filled.iter().flatten().fold(ports, told);
            for packet in [ports, first, both] {
                let near = *flip.0.get(&PINNED);
                for packet in [packet, packet.with(near.0, packet.get(near.0) ^ flip.1)] {
                    let fit = [&a, &b].map(|t| t.fits(&packet, &connections));
                    for (i, fits) in fit.into_iter().enumerate() {
                        let want = filled[i].is_some_and(|m| m.fits(&packet));
                        prop_assert_eq!(fits, want, "{:?} {:?}", [&a, &b][i], packet);
                    }
                    prop_assert!(fit != [true; 2] || a.may_overlap(&b), "{:?} {:?} {:?}", a, b, packet);
                }
            }
            prop_assert_eq!(a.may_overlap(&b), b.may_overlap(&a));
            prop_assert_eq!(a.may_overlap(&b), a.known.unpack().both(&b.known.unpack()).is_some());
        }
    }

    #[test]
    fn templates_share_what_is_the_same() {
        let param = Param { connection: 0, direction: Direction::Original, part: Part::SrcPort };
        let term = Term { field: Field::SrcPort, param, mask: 0xffff, flip: 0 };
        let port = |n| Match::default().exact(Field::DstPort, n);
        let mut a = Template::new(&port(1), &[term], vec![]);
        let b = Template::new(&port(2), &[term], vec![]);
        let before = a.clone();
        a.share(&b);
        assert!(Arc::ptr_eq(&a.terms, &b.terms));
        assert_eq!(a, before);
        a.share(&Template::default());
        assert_eq!(a, before);
        assert!(!a.may_overlap(&b) && a.may_overlap(&Template::default()));
    }
}
