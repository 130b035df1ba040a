//! What a merged filter matches, before a connection's values are filled in.
//!
//! Bits of the arrived packet are compared with constants (`known`) or with parameters (`terms`). What the walk asks of
//! parameters alone is a condition: a connection that does not meet it is not on this path.

use super::symbol::Param;
use crate::{
    conntrack::Connection,
    flower::{Field, Match, Range},
};

/// Bits of an arrived field that must equal a parameter's: `field & mask == (param ^ flip) & mask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Something that a parameter is or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    fn holds(&self, connections: &[&Connection]) -> bool {
        match self {
            Condition::Holds(is) => is.holds(connections),
            Condition::Same { a, b, mask, flip } => (a.value(connections) ^ b.value(connections) ^ flip) & mask == 0,
            Condition::NotAll(all) => !all.iter().all(|is| is.holds(connections)),
        }
    }
}

/// The match of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// Bits compared with constants, and port ranges.
    pub known: Match,
    /// Bits compared with parameters. No bit is in two terms, nor in a term and in `known`.
    pub terms: Vec<Term>,
    /// What is asked of the connections.
    pub conditions: Vec<Condition>,
}

impl Template {
    /// Asks for `field & mask == value`. False if that contradicts what is asked already.
    pub fn require(&mut self, field: Field, mask: u128, value: u128) -> bool {
        let known = self.known.mask.get(field) & mask;
        if (self.known.key.get(field) ^ value) & known != 0 {
            return false;
        }
        let mut free = mask & !known;
        for term in self.terms.iter().filter(|t| t.field == field && t.mask & mask != 0) {
            let mask = term.mask & mask;
            free &= !mask;
            let value = (value ^ term.flip) & mask;
            self.conditions.push(Condition::Holds(Is::Bits { param: term.param, mask, value }));
        }
        self.known.set(field, value, free);
        true
    }

    /// Asks for `field & mask == (param ^ flip) & mask`.
    pub fn require_param(&mut self, field: Field, mask: u128, param: Param, flip: u128) {
        let known = self.known.mask.get(field) & mask;
        if known != 0 {
            let value = (self.known.key.get(field) ^ flip) & known;
            self.conditions.push(Condition::Holds(Is::Bits { param, mask: known, value }));
        }
        let asked = mask & !known;
        let mut free = asked;
        for term in self.terms.iter().filter(|t| t.field == field && t.mask & asked != 0) {
            let mask = term.mask & asked;
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

    /// Asks for a port in a range. False if nothing is left of the ranges asked for.
    pub fn require_range(&mut self, field: Field, range: Range) -> bool {
        let slot = self.known.range_mut(field);
        let both = slot.map_or(Some(range), |r| r.both(range));
        *slot = both.or(*slot);
        both.is_some()
    }

    /// The parameter that the whole field is compared with, if it is one, and the bits in which they differ.
    pub fn param_of(&self, field: Field) -> Option<(Param, u128)> {
        self.terms.iter().find(|t| t.field == field && t.mask == field.ones()).map(|t| (t.param, t.flip))
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
        for term in &self.terms {
            filled.set(term.field, term.param.value(connections) ^ term.flip, term.mask);
        }
        // Where a part of a port is a parameter's, its value may tell a range, or be told by it.
        filled.settle_ranges().then_some(filled)
    }
}
