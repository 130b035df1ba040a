//! What a new filter makes stale: the paths that were folded without it, and whose packets it could take.

use super::{PathId, Table};
use crate::{
    flower::{Control, Cookie, Filter},
    merge::{self, Order},
};
use std::collections::BTreeSet;

impl Table {
    /// The filters that stand in front of a hit and overlap it, where `before` is the hit before it: those that TC tries since then,
    /// and for the first hit those that hardware tries.
    pub fn in_front(&mut self, cookie: Cookie, before: Option<Cookie>) -> Vec<(Cookie, Order)> {
        let Some(hit) = self.filters.get(&cookie).map(|e| &e.filter) else {
            return Vec::new();
        };
        let from = before.and_then(|c| self.filters.get(&c)).map_or(0, |b| Table::next_from(&b.filter, hit));
        let mut in_front = self.chains.in_front(cookie, hit, from);
        in_front.retain(|n| before.is_none() || !n.on_arrival);
        in_front.into_iter().map(|n| (n.cookie, n.order)).collect()
    }

    /// From which priority on TC looks for the hit that comes after this one in the same chain.
    fn next_from(before: &Filter, next: &Filter) -> u16 {
        // After `continue` it goes on behind the priority of the hit before; else it begins at the first.
        let continued = (before.id.hook, before.id.chain) == (next.id.hook, next.id.chain)
            && merge::sequence(&before.actions).is_some_and(|(_, end)| end == Control::Continue);
        if continued { before.id.prio.saturating_add(1) } else { 0 }
    }

    /// The paths that must go because this filter came: it stands in front of one of their hits and could take packets of theirs,
    /// as far as the path's match alone tells. All others of its chain stay, and so do other paths of the same way.
    pub fn shadowed_by(&mut self, cookie: Cookie) -> Vec<PathId> {
        let Some(new) = self.filters.get(&cookie).map(|e| &e.filter) else {
            return Vec::new();
        };
        let mut reached = BTreeSet::new();
        for behind in self.chains.behind(cookie, new) {
            let Some(entry) = self.filters.get(&behind.cookie) else { continue };
            for path in entry.ways.iter().flat_map(|&way| &self.ways[way].paths) {
                let parents = &self.paths[*path].path.parents;
                let reaches = (0..parents.len()).any(|hit| {
                    let before = hit.checked_sub(1).and_then(|i| self.filters.get(&parents[i].cookie));
                    let from = before.map_or(0, |b| Table::next_from(&b.filter, &entry.filter));
                    parents[hit].cookie == behind.cookie
                        && (hit == 0 || !behind.on_arrival)
                        && from <= new.id.prio
                        && merge::may_reach(&self.paths[*path].path, hit, new)
                });
                if reaches {
                    reached.insert(PathId(*path));
                }
            }
        }
        reached.into_iter().collect()
    }
}
