//! The molds that folds have left ([`Mold`]), by what ways must share for a path to be cast for one in the mold of another.
//!
//! A mold holds as long as the same ports are up and the same hooks have filters. Which filters these are is no matter: those of a way
//! are held against the mold one by one, and what stands in front of them is looked up each time.

use super::{Chains, FilterEntry, Map, Table, Way, WayId, WayKey};
use crate::{
    conntrack::Connection,
    flower::{ActionKind, Cookie, Filter, Key},
    merge::{Family, Mold, Path},
};
use smallvec::SmallVec;
use std::hash::{BuildHasher, Hasher};

/// Most molds; when there are so many they are all forgotten.
const MOLDS: usize = 1024;

/// Most molds for ways that look alike; the oldest makes room.
const ALIKE: usize = 8;

/// Molds.
#[derive(Debug, Default)]
pub struct Molds {
    all: Map<u64, Vec<Kept>>,
    count: usize,
    /// What [`Chains::hooks`](super::Chains::hooks) was when these were made.
    hooks: u64,
    hasher: foldhash::fast::RandomState,
}

#[derive(Debug)]
struct Kept {
    /// Of the way that was folded.
    key: WayKey,
    mold: Mold,
}

impl Molds {
    /// What was folded of ports no longer holds.
    pub fn clear(&mut self) {
        self.all.clear();
        self.count = 0;
    }

    fn hash(&self, key: &WayKey, hits: &[(Cookie, &Filter, Family)]) -> u64 {
        let mut hash = self.hasher.build_hasher();
        hash.write_u32(key.port().0);
        for (_, filter, family) in hits {
            let last = filter.actions.last();
            let to = last.and_then(|a| if let ActionKind::Mirred(to) = a.kind { Some(to.port.0) } else { None });
            hash.write_u64(family.0.rotate_left(32) ^ u64::from(to.unwrap_or_default()));
        }
        hash.finish()
    }
}

type Hits<'a> = SmallVec<[(Cookie, &'a Filter, Family); 8]>;

/// The filters of a way, if nothing in front takes their packets. Where TC goes on behind a priority, a fold asks for less.
fn in_families<'a>(chains: &mut Chains, filters: &'a Map<Cookie, FilterEntry>, key: &WayKey) -> Option<Hits<'a>> {
    let mut hits = Hits::new();
    for cookie in key.filters() {
        let filter = &filters.get(&cookie)?.filter;
        hits.push((cookie, filter, chains.first(cookie, filter)?));
    }
    Some(hits)
}

impl Table {
    /// A new path for a way, if a fold of another way tells it.
    pub fn cast(&mut self, way: WayId, packet: &Key, connections: &[&Connection]) -> Option<Path> {
        if self.molds.hooks != self.chains.hooks() {
            self.molds.clear();
            self.molds.hooks = self.chains.hooks();
        }
        if self.molds.count == 0 {
            return None;
        }
        let Table { molds, chains, ways, filters, .. } = self;
        let key = &ways.get(way.0)?.key;
        let hits = in_families(chains, filters, key)?;
        let all = molds.all.get(&molds.hash(key, &hits))?;
        let cast = |kept: &Kept| kept.mold.cast(hits.iter().copied(), packet, connections);
        all.iter().filter(|kept| kept.key.is_like(key)).find_map(cast)
    }

    /// The families of a way's filters, if no other takes packets in front of them: else there is no mold.
    pub fn families(&mut self, way: WayId) -> SmallVec<[Family; 8]> {
        let Table { chains, ways, filters, .. } = self;
        let hits = ways.get(way.0).and_then(|way| in_families(chains, filters, &way.key));
        hits.into_iter().flatten().map(|(_, _, family)| family).collect()
    }

    /// Keeps what the fold of a way has left.
    pub fn keep_mold(&mut self, way: WayId, mold: Mold) {
        let Table { molds, chains, ways, filters, .. } = self;
        let Some(Way { key, .. }) = ways.get(way.0) else { return };
        let Some(hits) = in_families(chains, filters, key) else { return };
        let hash = molds.hash(key, &hits);
        if molds.count == MOLDS {
            molds.clear();
        }
        let all = molds.all.entry(hash).or_default();
        if all.len() == ALIKE {
            all.remove(0);
            molds.count -= 1;
        }
        molds.count += 1;
        all.push(Kept { key: key.clone(), mold });
    }
}
