//! Storage that grows without ever moving what it holds: slots in chunks, and a map spread over many small ones. So the longest
//! pause for growth is that of one chunk or of one small map, whatever the number of entries.
//!
//! A slot is used again when it is free. A name made of its number and its *generation* tells whether it still holds what it held
//! when the name was given.

use hashbrown::HashMap;
use std::{
    hash::{BuildHasher, Hash},
    ops::Range,
};

/// Slots in a chunk.
const CHUNK: usize = 1024;

/// No slot.
pub const NONE: u32 = u32::MAX;

#[derive(Debug)]
enum Held<T> {
    /// With the next free one, or [`NONE`].
    Free(u32),
    Used(T),
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    held: Held<T>,
}

/// Entries by number.
#[derive(Debug)]
pub struct Slots<T> {
    chunks: Vec<Vec<Slot<T>>>,
    free: u32,
    len: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots { chunks: Vec::new(), free: NONE, len: 0 }
    }
}

impl<T> Slots<T> {
    /// Puts an entry into a free slot; its number and generation.
    pub fn insert(&mut self, value: T) -> (u32, u32) {
        self.len += 1;
        if self.free != NONE {
            let at = self.free;
            let slot = &mut self.chunks[at as usize / CHUNK][at as usize % CHUNK];
            if let Held::Free(next) = slot.held {
                self.free = next;
            }
            slot.held = Held::Used(value);
            return (at, slot.generation);
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let last = self.chunks.len() - 1;
        let chunk = &mut self.chunks[last];
        chunk.push(Slot { generation: 0, held: Held::Used(value) });
        ((last * CHUNK + chunk.len() - 1) as u32, 0)
    }

    /// Takes an entry out; its slot's generation is over.
    pub fn remove(&mut self, at: u32) -> Option<T> {
        let slot = self.chunks.get_mut(at as usize / CHUNK)?.get_mut(at as usize % CHUNK)?;
        if let Held::Free(_) = slot.held {
            return None;
        }
        let held = std::mem::replace(&mut slot.held, Held::Free(self.free));
        slot.generation = slot.generation.wrapping_add(1);
        self.free = at;
        self.len -= 1;
        match held {
            Held::Used(value) => Some(value),
            Held::Free(_) => None,
        }
    }

    #[inline]
    fn slot(&self, at: u32) -> Option<&Slot<T>> {
        self.chunks.get(at as usize / CHUNK)?.get(at as usize % CHUNK)
    }

    /// The entry in a slot.
    #[inline]
    pub fn get(&self, at: u32) -> Option<&T> {
        match &self.slot(at)?.held {
            Held::Used(value) => Some(value),
            Held::Free(_) => None,
        }
    }

    /// The entry in a slot.
    #[inline]
    pub fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        match &mut self.chunks.get_mut(at as usize / CHUNK)?.get_mut(at as usize % CHUNK)?.held {
            Held::Used(value) => Some(value),
            Held::Free(_) => None,
        }
    }

    /// The entry that had this name, if it is still there.
    #[inline]
    pub fn named(&self, at: u32, generation: u32) -> Option<&T> {
        match self.slot(at)? {
            Slot { generation: now, held: Held::Used(value) } if *now == generation => Some(value),
            _ => None,
        }
    }

    /// The entry that had this name, if it is still there.
    pub fn named_mut(&mut self, at: u32, generation: u32) -> Option<&mut T> {
        self.get_named_mut(at).filter(|(now, _)| *now == generation).map(|(_, value)| value)
    }

    /// The entry in a slot, with its generation.
    pub fn get_named_mut(&mut self, at: u32) -> Option<(u32, &mut T)> {
        match self.chunks.get_mut(at as usize / CHUNK)?.get_mut(at as usize % CHUNK)? {
            Slot { generation, held: Held::Used(value) } => Some((*generation, value)),
            _ => None,
        }
    }

    /// A slot's generation.
    #[inline]
    pub fn generation(&self, at: u32) -> Option<u32> {
        self.slot(at).map(|slot| slot.generation)
    }

    /// How many slots there are, free ones included.
    pub fn end(&self) -> u32 {
        let full = self.chunks.len().saturating_sub(1) * CHUNK;
        (full + self.chunks.last().map_or(0, Vec::len)) as u32
    }

    /// How many entries there are.
    pub fn count(&self) -> usize {
        self.len
    }

    /// All entries: number, generation, entry.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32, &T)> {
        let all = self.chunks.iter().flatten().enumerate();
        all.filter_map(|(at, slot)| match &slot.held {
            Held::Used(value) => Some((at as u32, slot.generation, value)),
            Held::Free(_) => None,
        })
    }
}

/// The part of a chunk that belongs to some slots, and the first's number.
fn part(chunk: usize, len: usize, slots: &Range<u32>) -> (Range<usize>, u32) {
    let (before, len) = (chunk * CHUNK, len);
    let start = (slots.start as usize).saturating_sub(before).min(len);
    let end = (slots.end as usize).saturating_sub(before).min(len).max(start);
    (start..end, (before + start) as u32)
}

fn chunks_of(slots: &Range<u32>, all: usize) -> Range<usize> {
    let end = (slots.end as usize).div_ceil(CHUNK).min(all);
    (slots.start as usize / CHUNK).min(end)..end
}

impl<T> Slots<T> {
    /// The entries in some slots, in order: number, generation, entry.
    pub fn each(&self, slots: Range<u32>, mut each: impl FnMut(u32, u32, &T)) {
        let all = chunks_of(&slots, self.chunks.len());
        for (i, chunk) in self.chunks[all.clone()].iter().enumerate() {
            let (part, first) = part(all.start + i, chunk.len(), &slots);
            for (at, slot) in (first..).zip(&chunk[part]) {
                if let Held::Used(value) = &slot.held {
                    each(at, slot.generation, value);
                }
            }
        }
    }

    /// The same, to change them.
    pub fn each_mut(&mut self, slots: Range<u32>, mut each: impl FnMut(u32, u32, &mut T)) {
        let all = chunks_of(&slots, self.chunks.len());
        for (i, chunk) in self.chunks[all.clone()].iter_mut().enumerate() {
            let (part, first) = part(all.start + i, chunk.len(), &slots);
            for (at, slot) in (first..).zip(&mut chunk[part]) {
                if let Held::Used(value) = &mut slot.held {
                    each(at, slot.generation, value);
                }
            }
        }
    }
}

/// How many small maps one is spread over.
const SMALL: usize = 64;

/// A map that never grows in one go.
#[derive(Debug)]
pub struct Spread<K, V> {
    hasher: foldhash::fast::RandomState,
    small: Vec<HashMap<K, V, foldhash::fast::RandomState>>,
}

impl<K, V> Default for Spread<K, V> {
    fn default() -> Spread<K, V> {
        let hasher = foldhash::fast::RandomState::default();
        let small = (0..SMALL).map(|_| HashMap::with_hasher(hasher.clone())).collect();
        Spread { hasher, small }
    }
}

impl<K: Hash + Eq, V> Spread<K, V> {
    fn of(&self, key: &K) -> usize {
        // The small maps use the low bits and the highest.
        (self.hasher.hash_one(key) >> 40) as usize % SMALL
    }

    /// What is under a key.
    #[inline]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.small[self.of(key)].get(key)
    }

    /// Puts something under a key; what was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let at = self.of(&key);
        self.small[at].insert(key, value)
    }

    /// Takes out what is under a key.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.of(key);
        self.small[at].remove(key)
    }

    /// How many keys there are.
    pub fn count(&self) -> usize {
        self.small.iter().map(HashMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again_under_other_names() {
        let mut slots = Slots::default();
        let names: Vec<_> = (0..3000).map(|n| slots.insert(n)).collect();
        assert_eq!((slots.count(), slots.end()), (3000, 3000));
        for &(at, generation) in &names[1000..2000] {
            assert_eq!(slots.named(at, generation), slots.get(at));
            assert!(slots.remove(at).is_some() && slots.remove(at).is_none());
        }
        let again: Vec<_> = (0..1000).map(|n| slots.insert(n)).collect();
        assert_eq!((slots.count(), slots.end()), (3000, 3000));
        for (at, generation) in again {
            assert_eq!(generation, 1);
            assert!(slots.named(at, 0).is_none() && slots.named_mut(at, 1).is_some());
        }
        assert_eq!(slots.iter().count(), 3000);
        for range in [0..3000, 0..9000, 1023..1025, 1000..2048, 2999..3000, 5..5, 4000..5000] {
            let (mut seen, mut changed) = (Vec::new(), Vec::new());
            slots.each(range.clone(), |at, generation, value| seen.push((at, generation, *value)));
            slots.each_mut(range.clone(), |at, generation, value| changed.push((at, generation, *value)));
            let right: Vec<_> =
                slots.iter().filter(|(at, ..)| range.contains(at)).map(|(a, g, v)| (a, g, *v)).collect();
            assert_eq!((&seen, &changed), (&right, &right), "{range:?}");
        }
        assert!(slots.remove(5000).is_none());
    }

    #[test]
    fn a_spread_map_is_a_map() {
        let mut map = Spread::default();
        for n in 0..10_000u64 {
            assert_eq!(map.insert(n, n + 1), None);
        }
        assert_eq!((map.count(), map.get(&77)), (10_000, Some(&78)));
        assert_eq!(map.insert(77, 0), Some(78));
        assert_eq!((map.remove(&77), map.remove(&77), map.count()), (Some(0), None, 9999));
        // No small map has much more than its share.
        assert!(map.small.iter().all(|small| small.len() < 2 * 10_000 / SMALL));
    }
}
