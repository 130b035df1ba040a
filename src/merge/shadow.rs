//! Shadows: filters that TC tries before a hit, as the arrived packet and the connections see them.
//!
//! At the hit the shadow's match is carried back to the arrived packet and to parameters, through the writes before it. What
//! is left is a list of *needs*: a packet that meets all of them is the shadow's. So a shadow is out as soon as one need is
//! contradicted, by what the match asks of the packet anyway, by how headers follow from each other, by the connection's
//! tuple, or by the cut.

use super::{
    asked::Asked,
    need::Needs,
    state::State,
    structure,
    symbol::{Source, Value},
    template::{self, Is},
};
use crate::flower::{Field, Filter, FilterId, Kind, Match, ethertype, field::ip_flags};

/// How a filter stands in front of a hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// TC tries it before.
    Before,
    /// Same priority, other mask, and nobody saw which came first.
    Unknown,
}

/// A filter in front of a hit, as the arrived packet sees it.
#[derive(Clone, Debug)]
pub struct Shadow {
    /// The filter that was hit.
    pub hit: FilterId,
    /// The one in front of it.
    pub filter: FilterId,
    /// How it stands there.
    pub order: Order,
    /// What of it is not understood.
    pub undecoded: Option<String>,
    /// What it depends on and cannot be told.
    pub hidden: Option<(Field, &'static str)>,
    /// What a packet must be for it.
    pub needs: Vec<Needs>,
}

impl Shadow {
    /// The shadow that `filter` is at this point of the walk; `None` if no packet of the walk can match it.
    pub fn new(state: &State, hit: FilterId, filter: &Filter, order: Order) -> Option<Shadow> {
        Shadow::seen(&|field| state.view(field), hit, filter, order)
    }

    /// The same, where the fields hold this.
    pub fn seen(view: &dyn Fn(Field) -> Value, hit: FilterId, filter: &Filter, order: Order) -> Option<Shadow> {
        let undecoded = match &filter.kind {
            Kind::Other(kind) => Some(kind.clone()),
            Kind::Flower => filter.undecoded.first().cloned(),
        };
        let shadow = Shadow::of(view, &filter.matches, hit)?;
        Some(Shadow { filter: filter.id, order, undecoded, ..shadow })
    }

    /// What meets this match, where the fields hold this.
    fn of(view: &dyn Fn(Field) -> Value, matches: &Match, hit: FilterId) -> Option<Shadow> {
        let mut needs = Vec::new();
        let mut hidden = None;
        for (field, want, mask) in matches.terms() {
            let value = view(field);
            if (want ^ value.flip) & mask & !value.kept != 0 {
                return None;
            }
            let kept = mask & value.kept;
            let want = (want ^ value.flip) & kept;
            match value.source {
                _ if kept == 0 => {}
                Source::Arrived(field) => needs.push(Needs::Bits { field, mask: kept, value: want }),
                Source::Sum(field, add) => needs.push(Needs::Sum { field, add, mask: kept, value: want }),
                Source::Param(param) => needs.push(Needs::Param(Is::Bits { param, mask: kept, value: want })),
                Source::Hidden(why) => hidden = Some((field, why)),
            }
        }
        for (field, range) in matches.ranges() {
            let value = view(field);
            let (kept, flip) = (value.kept as u16, value.flip as u16);
            match value.source {
                _ if !range.meets(!kept, flip) => return None,
                _ if kept == 0 => {}
                Source::Arrived(field) => needs.push(Needs::Range { field, kept, flip, range }),
                Source::Param(param) => needs.push(Needs::Param(Is::Within { param, kept, flip, range })),
                Source::Sum(..) => hidden = Some((field, "a byte of the port was added to")),
                Source::Hidden(why) => hidden = Some((field, why)),
            }
        }
        Some(Shadow { hit, filter: hit, order: Order::Before, undecoded: None, hidden, needs })
    }

    /// Packets that now have this value of a field: what an action does to them it did not do to this one. `None` if no packet of the
    /// walk has it.
    pub fn value(state: &State, filter: FilterId, field: Field, value: u128, mask: u128) -> Option<Shadow> {
        let asked = Match::default().with(field, value, mask);
        Shadow::of(&|field| state.view(field), &asked, filter)
    }

    /// Packets with a VLAN tag where the walk's packet has none. Whatever depends on that there depends on the whole of the
    /// ethertype; and what keeps out the two that are tags need not be all of it.
    pub fn tags(filter: FilterId, field: Field) -> [Shadow; 2] {
        [ethertype::VLAN, ethertype::QINQ].map(|tag| Shadow {
            hit: filter,
            filter,
            order: Order::Before,
            undecoded: None,
            hidden: None,
            needs: vec![Needs::Bits { field, mask: 0xffff, value: tag.into() }],
        })
    }

    /// Whether no packet of this match meets the needs.
    pub fn is_out(&self, asked: &Match) -> bool {
        self.needs
            .iter()
            .any(|need| need.field().is_some_and(|field| need.denied(asked.key.get(field), asked.mask.get(field))))
    }

    /// The same, by all that is known of headers and port ranges too.
    pub fn is_impossible(&self, asked: &Match) -> bool {
        if self.is_out(asked) {
            return true;
        }
        let mut needed = Match::default();
        for need in &self.needs {
            match *need {
                Needs::Bits { field, mask, value } => needed.set(field, value, mask),
                Needs::Range { field, kept: u16::MAX, flip: 0, range } => {
                    // Two of one field do not come from one filter.
                    needed.range_mut(field).get_or_insert(range);
                }
                _ => {}
            }
        }
        let Some(both) = asked.both(&needed) else { return true };
        let fragment = |m: &Match| m.key.get(Field::IpFlags) & ip_flags::FRAG != 0;
        if fragment(&needed) && !fragment(asked) {
            return !structure::is_possible(needed) || !structure::is_possible(structure::with_fragments(&both));
        }
        // What is needed alone is possible if it is together with more.
        !structure::is_possible(both)
    }

    /// What of the needs concerns parameters, by itself or because one of these terms compares the field with one.
    pub fn of_parameters(&self, asked: &Asked) -> Vec<Is> {
        let mut all = Vec::new();
        for need in &self.needs {
            match *need {
                Needs::Param(is) => all.push(is),
                Needs::Bits { field, mask, value } => {
                    for (term, mask) in template::terms_of(&asked.terms, field, mask) {
                        all.push(Is::Bits { param: term.param, mask, value: (value ^ term.flip) & mask });
                    }
                }
                Needs::Range { field, kept, flip, range } => {
                    if let Some((param, differ)) = asked.param_of(field) {
                        all.push(Is::Within { param, kept, flip: flip ^ differ as u16 & kept, range });
                    }
                }
                Needs::Sum { .. } => {}
            }
        }
        all
    }
}
