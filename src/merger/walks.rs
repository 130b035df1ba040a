//! A walk as the work takes it, whoever recorded it: a datapath, packed, or a caller, by name.

use super::Locked;
use crate::{
    conntrack::{ConnectionHandle, Direction},
    flower::{Cookie, Key, Port},
    table::{ConnectionEntry, WayKey},
    walk::{Recorded, Walk},
};
use smallvec::SmallVec;
use std::borrow::Cow;

/// Some connections, each once, in the order in which a walk meets them.
pub(super) type Handles = SmallVec<[ConnectionHandle; 2]>;
/// What is kept of them.
pub(super) type Entries<'a> = SmallVec<[&'a ConnectionEntry; 2]>;

/// A walk.
pub(super) struct View<'a> {
    pub port: Port,
    pub key: &'a Key,
    /// The filters hit.
    pub filters: Cow<'a, [Cookie]>,
    /// What each `ct` found, in order.
    pub found: SmallVec<[Found; 2]>,
    /// The connections found, so far as they are known.
    pub handles: Handles,
    /// When the walk was finished, in entered filters.
    pub epoch: u64,
}

/// What a `ct` of a walk found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The number of its hit.
    pub hit: u32,
    /// The connection, if any.
    pub met: Met,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Met {
    Nothing,
    /// Which of the walk's, and the packet's direction in it.
    Connection(u8, Direction),
    /// The caller's name for one that nobody knows.
    Unknown(u64),
}

impl<'a> View<'a> {
    /// A walk that a datapath recorded.
    #[inline]
    pub fn recorded(recorded: &'a Recorded) -> View<'a> {
        let steps = recorded.steps();
        let mut found = SmallVec::new();
        for (hit, met) in steps.all_met() {
            let met = met.map_or(Met::Nothing, |(index, direction)| Met::Connection(index, direction));
            found.push(Found { hit, met });
        }
        let mut handles = Handles::new();
        for handle in steps.connections() {
            handles.push(handle);
        }
        let filters = Cow::Borrowed(steps.filters());
        View { port: recorded.port, key: &recorded.key, filters, found, handles, epoch: steps.epoch() }
    }

    /// A walk of a caller, who has names for the connections.
    pub fn named(walk: &'a Walk, epoch: u64, handle: impl Fn(u64) -> Option<ConnectionHandle>) -> View<'a> {
        let (mut found, mut handles) = (SmallVec::new(), Handles::new());
        for (hit, all) in (0..).zip(&walk.hits) {
            for f in &all.found {
                let met = match f.map(|f| (handle(f.connection.0).ok_or(f.connection.0), f.direction)) {
                    None => Met::Nothing,
                    Some((Err(name), _)) => Met::Unknown(name),
                    Some((Ok(handle), direction)) => {
                        let known = handles.iter().position(|&h| h == handle);
                        let index = known.unwrap_or_else(|| {
                            handles.push(handle);
                            handles.len() - 1
                        });
                        // No walk meets so many.
                        u8::try_from(index).map_or(Met::Unknown(handle.bits()), |i| Met::Connection(i, direction))
                    }
                };
                found.push(Found { hit, met });
            }
        }
        let filters = walk.hits.iter().map(|hit| hit.filter).collect();
        View { port: walk.port, key: &walk.key, filters, found, handles, epoch }
    }

    /// What the `ct` actions of a hit found.
    pub fn found_at(&self, hit: usize) -> impl Iterator<Item = Met> {
        self.found.iter().filter(move |f| f.hit as usize == hit).map(|f| f.met)
    }

    /// The connections; `None` if one of them is not there.
    #[inline]
    pub fn entries<'l>(&self, locked: &'l Locked<'_>) -> Option<Entries<'l>> {
        let mut entries = Entries::new();
        for &handle in &self.handles {
            entries.push(locked.connection(handle)?);
        }
        Some(entries)
    }

    /// The walk's way; `None` if a connection is not known.
    #[inline]
    pub fn way_key(&self, entries: &Entries<'_>) -> Option<WayKey> {
        let mut key = WayKey::new(self.port, &self.filters);
        for found in &self.found {
            let ct = match found.met {
                Met::Nothing => None,
                Met::Connection(index, direction) => {
                    let [original, reply] = entries.get(usize::from(index))?.ct;
                    Some(if direction == Direction::Original { original } else { reply }.at(index))
                }
                Met::Unknown(_) => return None,
            };
            key.found(found.hit, ct);
        }
        Some(key)
    }
}
