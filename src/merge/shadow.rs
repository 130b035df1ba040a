//! Keeping shadows out: for every filter that TC tries before a hit, the merged match must be told apart from it.
//!
//! At the hit the shadow's match is carried back to the arrived packet and to parameters. Once the whole walk is folded, a
//! shadow is out already if the merged match contradicts it; if the connection's tuple contradicts it, that becomes a
//! condition of filling in and costs no bit; else a bit (for a range: a prefix) of the arrived packet, in which this packet
//! differs from the shadow, is added to the match: the *cut*. Bits are chosen greedily, the one that keeps out most shadows
//! first, and then each that is not needed is given back.

use super::{
    refusal::Refusal,
    state::State,
    symbol::Source,
    template::{Condition, Is, Template},
};
use crate::{
    conntrack::Connection,
    flower::{Field, Filter, FilterId, Key, Kind, Range},
};

/// Something that a packet must be for the shadow to take it.
#[derive(Clone, Copy, Debug)]
enum Needs {
    /// `arrived & mask == value`.
    Bits { field: Field, mask: u128, value: u128 },
    /// `(arrived + add) & mask == value`.
    Sum { field: Field, add: u8, mask: u128, value: u128 },
    /// The arrived port within the range.
    Range { field: Field, range: Range },
    /// Of a parameter.
    Param(Is),
}

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
    hit: FilterId,
    filter: FilterId,
    order: Order,
    undecoded: Option<String>,
    hidden: Option<(Field, &'static str)>,
    needs: Vec<Needs>,
}

impl Shadow {
    /// The shadow that `filter` is at this point of the walk; `None` if no packet of the walk can match it.
    pub fn new(state: &State, hit: FilterId, filter: &Filter, order: Order) -> Option<Shadow> {
        let mut needs = Vec::new();
        let mut hidden = None;
        for (field, want, mask) in filter.matches.terms() {
            let value = state.view(field);
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
        for (field, range) in filter.matches.ranges() {
            let value = state.view(field);
            match (value.source, value.kept, value.flip) {
                (_, 0, known) if !range.contains(known as u16) => return None,
                (_, 0, _) => {}
                (Source::Arrived(field), kept, 0) if kept == field.ones() => needs.push(Needs::Range { field, range }),
                (Source::Param(param), kept, 0) if kept == field.ones() => {
                    needs.push(Needs::Param(Is::Within { param, range }))
                }
                _ => hidden = Some((field, "parts of the port were rewritten")),
            }
        }
        let undecoded = match &filter.kind {
            Kind::Other(kind) => Some(kind.clone()),
            Kind::Flower => filter.undecoded.first().cloned(),
        };
        Some(Shadow { hit, filter: filter.id, order, undecoded, hidden, needs })
    }

    /// Out already: no packet that the template matches meets the shadow's needs.
    fn contradicted(&self, template: &Template) -> bool {
        let known = &template.known;
        self.needs.iter().any(|need| match *need {
            Needs::Bits { field, mask, value } => {
                let both = mask & known.mask.get(field);
                if (known.key.get(field) ^ value) & both != 0 {
                    return true;
                }
                // A port that the shadow names, outside of the range asked for.
                let range = known.ranges().find(|r| r.0 == field);
                mask == field.ones() && range.is_some_and(|(_, r)| !r.contains(value as u16))
            }
            Needs::Sum { field, add, mask, value } => {
                known.mask.get(field) == 0xff
                    && ((known.key.get(field) as u8).wrapping_add(add) as u128 ^ value) & mask != 0
            }
            Needs::Range { field, range } => {
                let (low, high) = block(known.key.get(field), known.mask.get(field));
                let asked = known.ranges().find(|r| r.0 == field).map(|r| r.1);
                let disjoint = |low, high| high < range.min || range.max < low;
                disjoint(low, high) || asked.is_some_and(|r| disjoint(r.min, r.max))
            }
            Needs::Param(_) => false,
        })
    }

    /// What of the needs concerns parameters, by itself or because the template compares the field with one.
    fn of_parameters(&self, template: &Template) -> Vec<Is> {
        let mut all = Vec::new();
        for need in &self.needs {
            match *need {
                Needs::Param(is) => all.push(is),
                Needs::Bits { field, mask, value } => {
                    for term in template.terms.iter().filter(|t| t.field == field && t.mask & mask != 0) {
                        let mask = term.mask & mask;
                        all.push(Is::Bits { param: term.param, mask, value: (value ^ term.flip) & mask });
                    }
                }
                Needs::Range { field, range } => {
                    if let Some((param, 0)) = template.param_of(field) {
                        all.push(Is::Within { param, range });
                    }
                }
                Needs::Sum { .. } => {}
            }
        }
        all
    }

    /// Whether pinning these bits of the field to the packet's keeps the shadow out.
    fn cut_by(&self, packet: &Key, cut: Cut) -> bool {
        self.needs.iter().any(|need| match *need {
            Needs::Bits { field, mask, value } => {
                field == cut.field && (packet.get(field) ^ value) & mask & cut.mask != 0
            }
            Needs::Sum { field, add, mask, value } => {
                field == cut.field
                    && cut.mask == 0xff
                    && ((packet.get(field) as u8).wrapping_add(add) as u128 ^ value) & mask != 0
            }
            Needs::Range { field, range } => {
                let (low, high) = block(packet.get(field), cut.mask);
                field == cut.field && (high < range.min || range.max < low)
            }
            Needs::Param(_) => false,
        })
    }

    /// The cuts that keep the shadow out, one bit or one prefix each.
    fn cuts(&self, packet: &Key) -> Vec<Cut> {
        let mut cuts = Vec::new();
        for need in &self.needs {
            match *need {
                Needs::Bits { field, mask, value } => {
                    let differ = (packet.get(field) ^ value) & mask;
                    let bits = (0..field.row().bits as u32).rev().filter(|b| differ >> b & 1 == 1);
                    cuts.extend(bits.map(|b| Cut { field, mask: 1 << b }));
                }
                Needs::Sum { field, .. } => cuts.push(Cut { field, mask: 0xff }),
                Needs::Range { field, .. } => {
                    let prefixes = (1..=16).map(|n| Cut { field, mask: 0xffff << (16 - n) & 0xffff });
                    cuts.extend(prefixes.filter(|&c| self.cut_by(packet, c)).take(1));
                }
                Needs::Param(_) => {}
            }
        }
        cuts.retain(|&c| self.cut_by(packet, c));
        cuts
    }
}

/// The lowest and highest port that agree with `value` under `mask`.
fn block(value: u128, mask: u128) -> (u16, u16) {
    ((value & mask) as u16, (value & mask | !mask & 0xffff) as u16)
}

/// Bits of one arrived field, pinned to the packet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cut {
    field: Field,
    mask: u128,
}

/// Keeps all shadows out of the template: adds conditions and the cut. `connections` are those of the walk at hand.
pub fn keep_out(
    shadows: &[Shadow],
    template: &mut Template,
    packet: &Key,
    connections: &[&Connection],
) -> Result<(), Refusal> {
    let mut left = Vec::new();
    for shadow in shadows {
        if shadow.contradicted(template) {
            continue;
        }
        let of_parameters = shadow.of_parameters(template);
        if of_parameters.iter().any(|is| !is.holds(connections)) {
            template.conditions.push(Condition::NotAll(of_parameters));
            continue;
        }
        let cuts = shadow.cuts(packet);
        let (filter, other) = (shadow.hit, shadow.filter);
        if shadow.order == Order::Unknown {
            return Err(Refusal::Unordered { filter, other });
        }
        if cuts.is_empty() {
            return Err(match (&shadow.undecoded, shadow.hidden) {
                (Some(what), _) => Refusal::ShadowUndecoded { filter, shadow: other, what: what.clone() },
                (None, Some((field, why))) => Refusal::Hidden { filter: other, field, why },
                (None, None) => Refusal::Stale { filter, shadow: other },
            });
        }
        left.push((shadow, cuts));
    }

    let mut chosen: Vec<Cut> = Vec::new();
    loop {
        let uncut: Vec<_> = left.iter().filter(|(s, _)| !chosen.iter().any(|&c| s.cut_by(packet, c))).collect();
        let candidates = uncut.iter().flat_map(|(_, cuts)| cuts.iter().copied());
        let worth = |cut: Cut| uncut.iter().filter(|(s, _)| s.cut_by(packet, cut)).count();
        // The most shadows; among equals the field first in the table, then the highest bit.
        let Some(best) = candidates.max_by_key(|&c| (worth(c), std::cmp::Reverse(c.field), c.mask)) else {
            break;
        };
        chosen.push(best);
    }
    let mut i = 0;
    while i < chosen.len() {
        let without = |c: &Cut| *c != chosen[i];
        let enough = left.iter().all(|(s, _)| chosen.iter().filter(|c| without(c)).any(|&c| s.cut_by(packet, c)));
        if enough {
            chosen.remove(i);
        } else {
            i += 1;
        }
    }
    for Cut { field, mask } in chosen {
        let possible = template.require(field, mask, packet.get(field) & mask);
        debug_assert!(possible, "the packet meets its own template");
    }
    Ok(())
}
