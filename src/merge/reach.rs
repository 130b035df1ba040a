//! Whether a filter that comes later could take packets of a path that was folded without it.
//!
//! A path remembers what the fields held at each of its hits, as far as that is not what the packet brought. So the new filter is
//! carried back to the arrived packet as it would have been in the fold; if the path's match contradicts it there, no packet of
//! the path is the new filter's, and the path can stay. If it is the connections that contradict it, the path can stay with that
//! for a condition, as if it had been folded with the new filter there.

use super::{
    asked::Asked,
    path::Path,
    shadow::{Order, Shadow},
    template::Is,
};
use crate::flower::Filter;

/// Whether `filter`, were TC to try it before the path's hit of this number, could take packets of the path: those of connections
/// for which all of these hold. `None`: no packets. For hits that the path does not have: none.
pub fn may_reach(path: &Path, hit: usize, filter: &Filter) -> Option<Vec<Is>> {
    let seen = &path.course.seen;
    if hit >= seen.hits() {
        return None;
    }
    let view = |field| seen.view(hit, field, path.port);
    let shadow = Shadow::seen(&view, filter.id, filter, Order::Before)?;
    let asked = Asked {
        known: path.template.known.unpack(),
        terms: path.template.terms().collect(),
        conditions: path.template.conditions.iter().collect(),
        ..Asked::default()
    };
    (!shadow.is_impossible(&asked.known)).then(|| shadow.of_parameters(&asked))
}
