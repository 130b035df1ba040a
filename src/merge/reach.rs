//! Whether a filter that comes later could take packets of a path that was folded without it.
//!
//! A path remembers what the fields held at each of its hits, as far as that is not what the packet brought. So the new filter is
//! carried back to the arrived packet as it would have been in the fold; if the path's match contradicts it there, no packet of
//! the path is the new filter's, and the path can stay. If it is the connections that contradict it, the path can stay with that
//! for a condition, as if it had been folded with the new filter there.

use super::{
    path::{Path, Seen},
    shadow::{Order, Shadow},
    state::State,
    symbol::Value,
    template::{Is, Term},
};
use crate::flower::{Field, Filter};

/// What the fields hold, save those that hold what they held when the packet came in.
pub(super) fn seen(state: &State) -> Seen {
    Field::ALL.iter().map(|&f| (f, state.view(f))).filter(|&(f, now)| now != at_first(f)).collect()
}

/// What a field holds at first (but `indev`, which is known and therefore always told).
fn at_first(field: Field) -> Value {
    if field.is_conntrack() { Value::known(0) } else { Value::arrived(field) }
}

/// Whether `filter`, were TC to try it before the path's hit of this number, could take packets of the path: those of connections
/// for which all of these hold. `None`: no packets. For hits that the path does not have: none.
pub fn may_reach(path: &Path, hit: usize, filter: &Filter) -> Option<Vec<Is>> {
    let seen = path.seen.get(hit)?;
    let view = |field| seen.iter().find(|(f, _)| *f == field).map_or_else(|| at_first(field), |&(_, now)| now);
    let shadow = Shadow::seen(&view, filter.id, filter, Order::Before)?;
    let terms: Vec<Term> = path.template.terms().collect();
    (!shadow.is_impossible(&path.template.known.unpack())).then(|| shadow.of_parameters(&terms))
}
