//! What a new filter makes stale: the paths that were folded without it, and whose packets it could take.

use super::{Connections, PathEntry, PathId, Table};
use crate::{
    conntrack::Connection,
    flower::{Control, Cookie, Filter},
    hardware::MergedId,
    merge::{
        self, Order,
        template::{Condition, Is},
    },
};
use smallvec::SmallVec;
use std::collections::BTreeSet;

/// How many conditions a path is given after it was folded, since they stay when the filters go that they are for. Then it goes, to
/// be folded anew.
const LATER: usize = 64;

/// What a new filter shadows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shadowed {
    /// Paths with packets that it could take whatever their connections: they must go, with all their merged filters.
    pub paths: BTreeSet<PathId>,
    /// Merged filters of other paths that it could take packets of: they must go.
    pub merged: BTreeSet<MergedId>,
    /// Of these paths it could take packets of connections for which all of this holds: they are not to be filled in with such
    /// any more ([`Table::keep_out`]).
    pub conditions: Vec<(PathId, Vec<Is>)>,
}

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

    /// What must go because this filter came: it stands in front of hits of paths that were folded without it, and could take packets
    /// of theirs. All else of its chain stays, other paths of the same way too.
    pub fn shadowed_by(&mut self, cookie: Cookie) -> Shadowed {
        let mut shadowed = Shadowed::default();
        let Some(new) = self.filters.get(&cookie).map(|e| &e.filter) else {
            return shadowed;
        };
        for behind in self.chains.behind(cookie, new) {
            let Some(entry) = self.filters.get(&behind.cookie) else { continue };
            for &path in entry.ways.iter().flat_map(|&way| &self.ways[way].paths) {
                let PathEntry { path: folded, later, merged, .. } = &self.paths[path];
                for (hit, _) in folded.parents.iter().enumerate().filter(|(_, p)| p.cookie == behind.cookie) {
                    let before = hit.checked_sub(1).and_then(|i| self.filters.get(&folded.parents[i].cookie));
                    let from = before.map_or(0, |b| Table::next_from(&b.filter, &entry.filter));
                    if from > new.id.prio || hit > 0 && behind.on_arrival {
                        continue;
                    }
                    let Some(connections) = merge::may_reach(folded, hit, new) else { continue };
                    if connections.is_empty() || *later >= LATER {
                        shadowed.paths.insert(PathId(path));
                        continue;
                    }
                    shadowed
                        .merged
                        .extend(merged.iter().filter(|(c, _)| self.hold(&connections, c)).map(|(_, &id)| id));
                    shadowed.conditions.push((PathId(path), connections));
                }
            }
        }
        shadowed.conditions.retain(|(path, _)| !shadowed.paths.contains(path));
        shadowed
    }

    /// The paths that stay are not filled in any more for connections that the new filter reaches. Their merged filters for
    /// such connections must be gone.
    pub fn keep_out(&mut self, conditions: Vec<(PathId, Vec<Is>)>) {
        for (path, connections) in conditions {
            if let Some(entry) = self.paths.get_mut(path.0) {
                entry.path.template.conditions.push(Condition::NotAll(connections));
                entry.later += 1;
            }
        }
    }

    /// Whether all of this is so of connections. Of those that are not known any more nobody can tell.
    fn hold(&self, all: &[Is], connections: &Connections) -> bool {
        let known: SmallVec<[&Connection; 2]> = connections.iter().filter_map(|&c| self.connection(c)).collect();
        known.len() < connections.len() || all.iter().all(|is| is.holds(&known))
    }
}
