//! Ways, found by their keys, and lists of who takes part in what.
//!
//! There may be a way for each merged filter. So nothing here grows in one go: ways stand in [`Slots`], and their names are spread over small
//! tables, which grow by themselves without a look at the ways. And a filter that a million ways go through is left by one of them as fast as
//! by one of two: a [list](join) is in no order, and who is in it knows where.

use super::{
    PathId, Table, WayId, WayKey,
    refused::Remembered,
    slots::{NONE, Slots},
};
use crate::flower::{Cookie, FilterId};
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::hash::BuildHasher;

/// A way.
#[derive(Debug)]
pub(super) struct Way {
    pub key: WayKey,
    /// The youngest of its filters.
    pub born: u64,
    /// The last of its filters.
    pub last: Option<FilterId>,
    /// Where it stands among the ways of each of its filters.
    places: Places,
    /// Mostly one.
    pub paths: SmallVec<[u32; 4]>,
    /// What was found out about packets that are not merged.
    pub refused: Vec<Remembered>,
}

/// Small tables that keys are spread over.
const SMALL: usize = 256;

/// All ways.
#[derive(Debug)]
pub(super) struct Ways {
    all: Slots<Way>,
    /// The keys' hashes with their ways.
    by_key: Box<[HashTable<(u32, u32)>]>,
    hasher: foldhash::fast::RandomState,
}

impl Default for Ways {
    fn default() -> Ways {
        let by_key = (0..SMALL).map(|_| HashTable::new()).collect();
        Ways { all: Slots::default(), by_key, hasher: foldhash::fast::RandomState::default() }
    }
}

/// A hash for a small table, of what is kept of a key's. It wants the low bits and the highest.
#[inline]
fn small(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Ways {
    /// Which small table, and the hash that is kept.
    #[inline]
    fn hash(&self, key: &WayKey) -> (usize, u32) {
        let hash = self.hasher.hash_one(key.words());
        ((hash >> 32) as usize % SMALL, hash as u32)
    }

    #[inline]
    fn find_at(&self, (at, hash): (usize, u32), key: &WayKey) -> Option<u32> {
        let is_it = |&(of, way): &(u32, u32)| of == hash && self.all.get(way).is_some_and(|w| w.key == *key);
        self.by_key[at].find(small(hash), is_it).map(|&(_, way)| way)
    }

    /// The way of this key.
    #[inline]
    pub fn find(&self, key: &WayKey) -> Option<u32> {
        self.find_at(self.hash(key), key)
    }

    /// A way.
    #[inline]
    pub fn get(&self, way: u32) -> Option<&Way> {
        self.all.get(way)
    }

    /// A way.
    pub fn get_mut(&mut self, way: u32) -> Option<&mut Way> {
        self.all.get_mut(way)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Way> {
        self.all.iter().map(|(_, _, way)| way)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.count()
    }

    fn insert(&mut self, (at, hash): (usize, u32), way: Way) -> u32 {
        let (slot, _) = self.all.insert(way);
        self.by_key[at].insert_unique(small(hash), (hash, slot), |&(hash, _)| small(hash));
        slot
    }

    fn remove(&mut self, way: u32) -> Option<Way> {
        let (at, hash) = self.hash(&self.all.get(way)?.key);
        if let Ok(entry) = self.by_key[at].find_entry(small(hash), |&(_, w)| w == way) {
            entry.remove();
        }
        self.all.remove(way)
    }
}

/// Where somebody stands in each of some lists, in which they are once; [`NONE`] where they are in none.
pub(super) type Places = SmallVec<[u32; 6]>;

/// Puts somebody at the end of a list. Their place in it.
pub(super) fn join(list: &mut Vec<u32>, who: u32) -> u32 {
    list.push(who);
    (list.len() - 1) as u32
}

/// Takes somebody from their place in a list. Who stands there now.
pub(super) fn leave(list: &mut Vec<u32>, who: u32, place: u32) -> Option<u32> {
    let at = place as usize;
    if list.get(at) != Some(&who) {
        return None;
    }
    list.swap_remove(at);
    list.get(at).copied()
}

impl Table {
    /// The way of these filters and findings, if there is one.
    #[inline]
    pub fn find_way(&self, key: &WayKey) -> Option<WayId> {
        self.ways.find(key).map(WayId)
    }

    /// The way of these filters and findings, made if it is new. All its filters must exist.
    pub fn way(&mut self, key: WayKey) -> WayId {
        let hash = self.ways.hash(&key);
        if let Some(way) = self.ways.find_at(hash, &key) {
            return WayId(way);
        }
        let (mut born, mut last) = (0, None);
        for cookie in key.filters() {
            let entry = self.filters.get(&cookie);
            born = entry.map_or(born, |e| e.born.max(born));
            last = entry.map(|e| e.filter.id);
        }
        let (places, paths, refused) = (Places::new(), SmallVec::new(), Vec::new());
        let way = self.ways.insert(hash, Way { key, born, last, places, paths, refused });
        let Table { ways, filters, .. } = self;
        let Some(Way { key, places, .. }) = ways.get_mut(way) else { return WayId(way) };
        for (hit, cookie) in key.filters().enumerate() {
            let first = !key.filters().take(hit).any(|c| c == cookie);
            let entry = filters.get_mut(&cookie).filter(|_| first);
            places.push(entry.map_or(NONE, |entry| join(&mut entry.ways, way)));
        }
        WayId(way)
    }

    pub(super) fn remove_way(&mut self, way: u32) {
        let Some(Way { key, places, paths, refused, .. }) = self.ways.remove(way) else {
            return;
        };
        refused.into_iter().for_each(|r| self.retire_verdict(r.verdict));
        for path in paths {
            self.kill(PathId(path));
        }
        for (cookie, place) in key.filters().zip(places) {
            let Some(entry) = self.filters.get_mut(&cookie) else { continue };
            let Some(moved) = leave(&mut entry.ways, way, place).and_then(|other| self.ways.get_mut(other)) else {
                continue;
            };
            let hit = moved.key.filters().position(|c| c == cookie);
            if let Some(to) = hit.and_then(|hit| moved.places.get_mut(hit)) {
                *to = place;
            }
        }
    }

    /// Forgets the ways of a filter.
    pub fn forget_ways(&mut self, cookie: Cookie) {
        let ways = self.filters.get_mut(&cookie).map(|e| std::mem::take(&mut e.ways)).unwrap_or_default();
        for way in ways {
            self.remove_way(way);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_a_list_is_out_and_who_moves_is_told() {
        let mut list = Vec::new();
        assert_eq!([7, 8, 9].map(|who| join(&mut list, who)), [0, 1, 2]);
        assert_eq!(leave(&mut list, 7, 0), Some(9));
        assert_eq!(leave(&mut list, 8, 1), None);
        assert_eq!(leave(&mut list, 8, 1), None, "it is out");
        assert_eq!(leave(&mut list, 9, NONE), None, "it was in none");
        assert_eq!(list, [9]);
    }
}
