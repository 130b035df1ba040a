//! What the fold has asked for so far: a template in the making, in which any field can be looked up at once.
//!
//! Bits of the arrived packet are asked to be a constant (`known`) or a parameter's (`terms`); where both are asked for, or two
//! parameters, one of them is left and the rest is a condition. So no bit is compared twice.

use super::{
    symbol::Param,
    template::{Condition, Is, Template, Term, terms_of},
};
use crate::{
    conntrack::Connection,
    flower::{Field, Key, Masks, Match, Range, field::addr_type},
};
use smallvec::SmallVec;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Bits compared with constants, and port ranges.
    pub known: Match,
    /// Bits compared with parameters. No bit is in two terms, nor in a term and in `known`.
    pub terms: SmallVec<[Term; 4]>,
    /// What is asked of the connections.
    pub conditions: Vec<Condition>,
    /// The conditions, by number, that came of bits of a field that were to be a constant's and a parameter's.
    pub both: SmallVec<[(u16, Field); 6]>,
}

impl Asked {
    /// The parameter that tells the whole field, if it is one, and the bits in which they differ.
    pub fn param_of(&self, field: Field) -> Option<(Param, u128)> {
        let (key, known) = (self.known.key.get(field), self.known.mask.get(field));
        let term = self.terms.iter().find(|t| t.field == field && t.mask | known == field.ones())?;
        // What was asked of the field before is asked of the parameter, too.
        let (mut flip, mut rest) = (term.flip, field.ones() & !term.mask);
        for condition in &self.conditions {
            if let Condition::Holds(Is::Bits { param, mask, value }) = *condition
                && param == term.param
            {
                flip |= (key ^ value) & mask & rest;
                rest &= !mask;
            }
        }
        (rest == 0).then_some((term.param, flip))
    }

    /// Asks for `field & mask == value`. False if that contradicts what is asked already.
    pub fn require(&mut self, field: Field, mask: u128, value: u128) -> bool {
        let known = self.known.mask.get(field) & mask;
        if (self.known.key.get(field) ^ value) & known != 0 {
            return false;
        }
        let mut free = mask & !known;
        if free == 0 {
            return true;
        }
        for (term, mask) in terms_of(&self.terms, field, free) {
            free &= !mask;
            self.agree(field, Is::Bits { param: term.param, mask, value: (value ^ term.flip) & mask });
        }
        self.known.set(field, value, free);
        true
    }

    /// What a parameter must be for a field to be the constant that is asked for, too.
    fn agree(&mut self, field: Field, is: Is) {
        self.both.push((self.conditions.len() as u16, field));
        self.conditions.push(Condition::Holds(is));
    }

    /// Asks for `field & mask == (param ^ flip) & mask`.
    pub fn require_param(&mut self, field: Field, mask: u128, param: Param, flip: u128) {
        let known = self.known.mask.get(field) & mask;
        if known != 0 {
            let value = (self.known.key.get(field) ^ flip) & known;
            self.agree(field, Is::Bits { param, mask: known, value });
        }
        let asked = mask & !known;
        let mut free = asked;
        for (term, mask) in terms_of(&self.terms, field, asked) {
            free &= !mask;
            if term.param != param || (term.flip ^ flip) & mask != 0 {
                let flip = (term.flip ^ flip) & mask;
                self.conditions.push(Condition::Same { a: term.param, b: param, mask, flip });
            }
        }
        if free != 0 {
            self.terms.push(Term { field, param, mask: free, flip: flip & free });
        }
    }

    /// Asks, besides, for what a table with these masks must compare along, as this packet has it. Whether there is such.
    pub fn complete(&mut self, masks: &Masks, packet: &Key) -> bool {
        if *masks == Masks::ANY {
            return false;
        }
        let (before, conditions) = (self.known.mask, self.conditions.len());
        while let Some(field) = masks.missing(&self.asked())
            && self.require(field, field.ones(), packet.get(field))
        {}
        // Flower compares the kind of addresses only with an address: one bit of it is enough.
        let asked = self.asked().mask;
        let [src, dst] = match packet.get(Field::AddrType) {
            addr_type::IPV6 => [Field::Ipv6Src, Field::Ipv6Dst],
            _ => [Field::Ipv4Src, Field::Ipv4Dst],
        };
        if masks.layered && asked.get(Field::AddrType) != 0 && asked.get(src) == 0 && asked.get(dst) == 0 {
            self.require(src, 1, packet.get(src) & 1);
        }
        self.known.mask != before || self.conditions.len() != conditions
    }

    /// All bits asked for; the value of those that parameters tell is not known.
    fn asked(&self) -> Match {
        let mut asked = self.known;
        for term in &self.terms {
            asked.set(term.field, 0, term.mask);
        }
        asked
    }

    /// Asks for a port in a range. False if nothing is left of the ranges asked for.
    pub fn require_range(&mut self, field: Field, range: Range) -> bool {
        let slot = self.known.range_mut(field);
        let both = slot.map_or(Some(range), |r| r.both(range));
        *slot = both.or(*slot);
        both.is_some()
    }

    /// Settles port ranges with what else is asked of the ports: a range of a port that a parameter tells becomes a condition. False
    /// if no port of a range has the bits asked for.
    pub fn settle_ranges(&mut self) -> bool {
        let ranges: Vec<_> = self.known.ranges().collect();
        for (field, range) in ranges {
            if let Some((param, flip)) = self.param_of(field) {
                let is = Is::Within { param, kept: u16::MAX, flip: flip as u16, range };
                self.conditions.push(Condition::Holds(is));
                *self.known.range_mut(field) = None;
            }
        }
        self.known.settle_ranges()
    }

    /// The match for these connections; `None` if they do not meet the conditions.
    pub fn fill(&self, connections: &[&Connection]) -> Option<Match> {
        if !self.conditions.iter().all(|c| c.holds(connections)) {
            return None;
        }
        let mut filled = self.known;
        self.terms.iter().for_each(|term| term.fill(&mut filled, connections));
        filled.settle_ranges().then_some(filled)
    }

    /// Whether what [`fill`](Asked::fill) gives for these connections matches the packet.
    pub fn fits(&self, packet: &Key, connections: &[&Connection]) -> bool {
        self.conditions.iter().all(|c| c.holds(connections))
            && self.known.fits(packet)
            && self.terms.iter().all(|term| term.holds(packet, connections))
    }

    /// All that is asked for, to be kept.
    pub fn template(&mut self) -> Template {
        Template::new(&self.known, &self.terms, std::mem::take(&mut self.conditions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        conntrack::{Direction, Tuple, proto},
        merge::{symbol::Part, tests::cases},
    };
    use proptest::prelude::*;

    /// One thing that is asked, as it is defined.
    #[derive(Clone, Copy, Debug)]
    enum Ask {
        Known(Field, u128, u128),
        Param(Field, u128, Param, u128),
        Range(Field, Range),
        Is(Is),
    }

    impl Ask {
        fn of(self, template: &mut Asked) -> bool {
            match self {
                Ask::Known(field, mask, value) => template.require(field, mask, value & mask),
                Ask::Param(field, mask, param, flip) => {
                    template.require_param(field, mask, param, flip & mask);
                    true
                }
                Ask::Range(field, range) => template.require_range(field, range),
                Ask::Is(is) => {
                    template.conditions.push(Condition::Holds(is));
                    true
                }
            }
        }
        fn holds(self, packet: &Key, connections: &[&Connection]) -> bool {
            match self {
                Ask::Known(field, mask, value) => (packet.get(field) ^ value) & mask == 0,
                Ask::Param(field, mask, param, flip) => {
                    (packet.get(field) ^ param.value(connections) ^ flip) & mask == 0
                }
                Ask::Range(field, range) => range.contains(packet.get(field) as u16),
                Ask::Is(Is::Bits { param, mask, value }) => param.value(connections) & mask == value,
                Ask::Is(Is::Within { param, kept, flip, range }) => {
                    range.contains(param.value(connections) as u16 & kept ^ flip)
                }
            }
        }
    }

    fn port() -> impl Strategy<Value = Field> {
        prop::sample::select(vec![Field::SrcPort, Field::DstPort])
    }

    fn param() -> impl Strategy<Value = Param> {
        let parts = vec![Part::SrcPort, Part::DstPort, Part::NewSrcPort, Part::NewDstPort];
        (0u8..2, any::<bool>(), prop::sample::select(parts)).prop_map(|(connection, reply, part)| {
            let direction = if reply { Direction::Reply } else { Direction::Original };
            Param { connection, direction, part }
        })
    }

    fn mask() -> impl Strategy<Value = u128> {
        prop_oneof![Just(0xffffu128), 0u128..8, Just(0xfffe)]
    }

    fn range() -> impl Strategy<Value = Range> {
        (0u16..8, 0u16..8).prop_map(|(a, b)| Range { min: a.min(b), max: a.max(b) })
    }

    fn ask() -> impl Strategy<Value = Ask> {
        prop_oneof![
            (port(), mask(), 0u128..8).prop_map(|(f, m, v)| Ask::Known(f, m, v)),
            (port(), mask(), param(), prop_oneof![Just(0u128), 0u128..8])
                .prop_map(|(f, m, p, x)| Ask::Param(f, m, p, x)),
            (port(), range()).prop_map(|(f, r)| Ask::Range(f, r)),
            (param(), mask(), 0u128..8).prop_map(|(param, mask, v)| Ask::Is(Is::Bits { param, mask, value: v & mask })),
            (param(), 0u16..8, 0u16..8, range()).prop_map(|(param, kept, flip, range)| Ask::Is(Is::Within {
                param,
                kept,
                flip,
                range
            })),
        ]
    }

    fn connection() -> impl Strategy<Value = Connection> {
        [0u16..4, 0..4, 0..4, 0..4].prop_map(|[a, b, c, d]| {
            let tuple = |src_port, dst_port| Tuple {
                src: [10, 0, 0, 1].into(),
                dst: [10, 0, 0, 2].into(),
                proto: proto::UDP,
                src_port,
                dst_port,
            };
            Connection::new(0, tuple(a, b), tuple(c, d))
        })
    }

    proptest! {
        #![proptest_config(cases(1000))]
        #[test]
        fn a_template_asks_for_all_that_was_asked_and_nothing_else(
            asks in prop::collection::vec(ask(), 1..5),
            connections in [connection(), connection()],
            settled in any::<bool>(),
        ) {
            let connections = [&connections[0], &connections[1]];
            let mut template = Asked::default();
            let mut possible = asks.iter().all(|ask| ask.of(&mut template));
            if settled {
                possible &= template.settle_ranges();
            }
            let filled = template.fill(&connections).filter(|_| possible);
            let packed = template.clone().template();
            prop_assert_eq!(packed.fill(&connections), template.fill(&connections));
            for (src, dst) in (0..8u128).flat_map(|s| (0..8u128).map(move |d| (s, d))) {
                let packet = Key::ZERO.with(Field::SrcPort, src).with(Field::DstPort, dst);
                let want = asks.iter().all(|ask| ask.holds(&packet, &connections));
                let got = filled.is_some_and(|m| m.fits(&packet));
                prop_assert_eq!(got, want, "{} {} {:?}", src, dst, template);
            }
        }
    }

    #[test]
    fn no_bit_is_asked_for_twice() {
        let param = |part| Param { connection: 0, direction: Direction::Original, part };
        let mut template = Asked::default();
        template.require_param(Field::DstPort, 0x0ff0, param(Part::DstPort), 0);
        assert!(template.require(Field::DstPort, 0x00ff, 0x0012));
        assert_eq!(template.known, Match::default().with(Field::DstPort, 2, 0xf));
        template.require_param(Field::DstPort, 0xffff, param(Part::NewDstPort), 0x1013);
        let masks: Vec<_> = template.terms.iter().map(|t| (t.param.part, t.mask, t.flip)).collect();
        assert_eq!(masks, [(Part::DstPort, 0x0ff0, 0), (Part::NewDstPort, 0xf000, 0x1000)]);
        let (a, b) = (param(Part::DstPort), param(Part::NewDstPort));
        let conditions = [
            Condition::Holds(Is::Bits { param: a, mask: 0x00f0, value: 0x0010 }),
            Condition::Holds(Is::Bits { param: b, mask: 0x000f, value: 0x0001 }),
            Condition::Same { a, b, mask: 0x0ff0, flip: 0x0010 },
        ];
        assert_eq!(template.conditions, conditions);
    }

    #[test]
    fn not_all_keeps_out_only_what_all_say() {
        let is = |n| Is::Bits {
            param: Param { connection: 0, direction: Direction::Original, part: Part::Mark },
            mask: n,
            value: n,
        };
        let not_all = Asked { conditions: vec![Condition::NotAll(vec![is(1), is(2)])], ..Asked::default() };
        let t = Tuple { src: [1; 4].into(), dst: [2; 4].into(), proto: proto::UDP, src_port: 1, dst_port: 2 };
        let fits = |mark| not_all.fill(&[&Connection { mark, ..Connection::new(0, t, t.inverse()) }]).is_some();
        assert_eq!([0, 1, 2, 3].map(fits), [true, true, true, false]);
    }
}
