//! What a new filter makes stale: the paths that were folded without it, and whose packets it could take.

use super::{Doom, PathEntry, Table, WayId};
use crate::{
    flower::{Control, Cookie, Filter},
    merge::{self, Order, template::Condition},
    sync::Arc,
};
use std::collections::BTreeSet;

/// How many conditions a path is given after it was folded, since they stay when the filters go that they are for. Then it goes, to
/// be folded anew.
const LATER: usize = 64;

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

    /// Takes out what must go because this filter came: it stands in front of hits of paths that were folded without it, and could take
    /// packets of theirs. All else of its chain stays, other paths of the same way too. Of paths with packets that it could take
    /// whatever their connections all merged filters go; the others are not filled in any more for connections that it reaches.
    pub fn shadow(&mut self, cookie: Cookie) {
        let Some(new) = self.filters.get(&cookie).map(|e| &e.filter) else {
            return;
        };
        let mut gone = BTreeSet::new();
        let mut only = Vec::new();
        for behind in self.chains.behind(cookie, new) {
            let Some(entry) = self.filters.get(&behind.cookie) else { continue };
            for (path, path_entry) in entry.ways.iter().flat_map(|&way| self.paths(WayId(way))) {
                let PathEntry { path: folded, later, .. } = path_entry;
                for (hit, _) in folded.parents.iter().enumerate().filter(|(_, p)| p.cookie == behind.cookie) {
                    let before = hit.checked_sub(1).and_then(|i| self.filters.get(&folded.parents[i].cookie));
                    let from = before.map_or(0, |b| Table::next_from(&b.filter, &entry.filter));
                    if from > new.id.prio || hit > 0 && behind.on_arrival {
                        continue;
                    }
                    let Some(connections) = merge::may_reach(folded, hit, new) else { continue };
                    if connections.is_empty() || *later >= LATER {
                        gone.insert(path);
                    } else {
                        only.push(Doom::new(path, path_entry, connections));
                    }
                }
            }
        }
        only.retain(|doom| !gone.contains(&doom.path));
        gone.into_iter().for_each(|path| self.drop_path(path));
        for doom in only {
            if let Some(entry) = self.paths.get_mut(doom.path.0) {
                Arc::make_mut(&mut entry.path).template.conditions.push(Condition::NotAll(doom.only.clone()));
                entry.later += 1;
            }
            self.doomed.push(doom);
        }
    }
}
