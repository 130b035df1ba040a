//! A shard: some of the connections, and the merged filters that belong to them.
//!
//! A merged filter lives in the shard of its first connection, one without any in the shard of its path. It is found from three
//! sides: by its name, from its path (a list through the slots, begun in `heads`), and from each of its connections. Each shard has
//! a lock of its own; none is held while the hardware works.

use super::{
    CtKey, PathId,
    life::{self, Event, State},
    meter::{Meter, Meters, Remains, Sums},
    slots::{NONE, Slots, Spread},
};
use crate::{
    conntrack::{Connection, ConnectionHandle, ConnectionId, Direction, NotQualified},
    hardware::{MergedId, Reading},
    merge::Refusal,
};
use smallvec::SmallVec;

/// The connections of a merged filter, in the order in which the way meets them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Links {
    /// It rests on none.
    #[default]
    None,
    /// On one, as most do.
    One(ConnectionHandle),
    /// On several.
    Many(Box<[ConnectionHandle]>),
}

impl Links {
    /// Of these.
    #[inline]
    pub fn of(handles: &[ConnectionHandle]) -> Links {
        match handles {
            [] => Links::None,
            [one] => Links::One(*one),
            many => Links::Many(many.into()),
        }
    }

    /// As a list.
    #[inline]
    pub fn all(&self) -> &[ConnectionHandle] {
        match self {
            Links::None => &[],
            Links::One(one) => std::slice::from_ref(one),
            Links::Many(many) => many,
        }
    }
}

/// A connection and what hangs on it.
#[derive(Clone, Debug)]
pub struct ConnectionEntry {
    /// The caller's name for it.
    pub id: ConnectionId,
    handle: Option<ConnectionHandle>,
    /// What it is.
    pub connection: Connection,
    /// What a packet of the original direction finds in it, and of the reply's, for its way.
    pub ct: [CtKey; 2],
    /// Whether the gate lets it through.
    pub gate: Result<(), NotQualified>,
    /// Whether and when it is worth a merged filter.
    pub worth: Worth,
    /// Its walks that came to software, until it was worth it.
    pub seen: u32,
    /// Its walks that came to software in this interval.
    pub recent: u32,
    /// It was given back to software, on request.
    pub held: bool,
    /// Conntrack is liberal about its windows.
    pub liberal: bool,
    /// It ends, or changes: nothing is merged on it until what derived from it is gone.
    pub closing: bool,
    /// Why its last walk that was not merged was not.
    pub refused: Option<Box<Refusal>>,
    /// The merged filters that rest on it.
    pub merged: SmallVec<[MergedId; 2]>,
}

/// Whether and when a connection is worth a merged filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// From this many walks on that came to software; 0 and 1: at once.
    After(u32),
    /// Never, for this reason.
    Never(&'static str),
}

/// What packets of both directions find in a connection.
fn found_in(connection: &Connection) -> [CtKey; 2] {
    [Direction::Original, Direction::Reply].map(|direction| CtKey::of(connection, direction))
}

impl ConnectionEntry {
    /// It is this now.
    pub fn becomes(&mut self, connection: Connection) {
        self.gate = connection.qualifies();
        self.ct = found_in(&connection);
        self.connection = connection;
    }

    /// Why it is not worth a merged filter, or not yet.
    #[inline]
    pub fn not_worth(&self) -> Option<&'static str> {
        match self.worth {
            _ if self.held => Some("it was given back to software on request"),
            Worth::Never(why) => Some(why),
            // The first walk need not be counted.
            Worth::After(walks) if walks > 1 && self.seen < walks => Some("it has not brought enough packets yet"),
            Worth::After(_) => None,
        }
    }

    /// Whether its walks may be worth looking at, now or later.
    pub fn qualifies(&self) -> bool {
        self.gate.is_ok() && !self.held && !matches!(self.worth, Worth::Never(_))
    }

    /// Whether something may be merged on it now, and nothing has to be asked for.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.gate.is_ok() && !self.closing && self.not_worth().is_none()
    }

    /// Whether conntrack has to be made liberal about its windows first.
    #[inline]
    pub fn wants_liberal(&self) -> bool {
        self.connection.tcp.is_some() && !self.liberal
    }

    /// What keeps it out of hardware, in words.
    pub fn keeps_out(&self) -> Option<String> {
        let gate = self.gate.err().map(|why| why.to_string());
        gate.or_else(|| self.not_worth().map(str::to_string))
    }
}

/// A merged filter.
#[derive(Debug)]
pub struct Merged {
    /// Where it is in its life.
    pub state: State,
    /// How often the hardware could not install it.
    pub attempts: u8,
    linked: bool,
    /// Its path.
    pub path: PathId,
    next: u32,
    prev: u32,
    /// What it was filled in with.
    pub connections: Links,
}

impl Merged {
    /// Makes a step of its life.
    #[inline]
    pub fn step(&mut self, event: Event) {
        let next = life::next(self.state, event);
        debug_assert!(next.is_some(), "{:?} in {:?}", event, self.state);
        self.state = next.unwrap_or(self.state);
    }
}

/// Paths' first merged filters, by the paths' numbers.
#[derive(Debug, Default)]
struct Heads(Vec<Vec<u32>>);

const HEADS: usize = 4096;

impl Heads {
    #[inline]
    fn get(&self, path: PathId) -> u32 {
        let chunk = self.0.get(path.0 as usize / HEADS);
        chunk.and_then(|c| c.get(path.0 as usize % HEADS)).copied().unwrap_or(NONE)
    }

    #[inline]
    fn set(&mut self, path: PathId, head: u32) {
        let (chunk, at) = (path.0 as usize / HEADS, path.0 as usize % HEADS);
        if self.0.len() <= chunk {
            self.0.resize_with(chunk + 1, Vec::new);
        }
        let chunk = &mut self.0[chunk];
        if chunk.is_empty() {
            *chunk = vec![NONE; HEADS];
        }
        chunk[at] = head;
    }
}

/// One shard.
#[derive(Debug)]
pub struct Shard {
    /// How often the hardware has lost everything.
    epoch: u32,
    index: u8,
    shards: u8,
    connections: Slots<ConnectionEntry>,
    by_id: Spread<ConnectionId, u32>,
    merged: Slots<Merged>,
    /// What they count.
    meters: Meters,
    heads: Heads,
}

impl Shard {
    /// The shard of this number, of so many.
    pub fn new(index: u8, shards: u8) -> Shard {
        Shard {
            epoch: 0,
            index,
            shards,
            connections: Slots::default(),
            by_id: Spread::default(),
            merged: Slots::default(),
            meters: Meters::default(),
            heads: Heads::default(),
        }
    }

    /// The handle of a connection.
    pub fn handle(&self, id: ConnectionId) -> Option<ConnectionHandle> {
        let &slot = self.by_id.get(&id)?;
        self.connections.get(slot)?.handle
    }

    /// The connection.
    #[inline]
    pub fn connection(&self, handle: ConnectionHandle) -> Option<&ConnectionEntry> {
        self.connections.get(handle.slot()).filter(|entry| entry.handle == Some(handle))
    }

    /// The connection.
    #[inline]
    pub fn connection_mut(&mut self, handle: ConnectionHandle) -> Option<&mut ConnectionEntry> {
        self.connections.get_mut(handle.slot()).filter(|entry| entry.handle == Some(handle))
    }

    /// Enters a new connection, under the handle that `open` gives for its shard and slot: if it gives one.
    pub fn insert_connection(
        &mut self,
        id: ConnectionId,
        connection: Connection,
        worth: Worth,
        open: impl FnOnce(u8, u32) -> Option<ConnectionHandle>,
    ) -> Option<ConnectionHandle> {
        let entry = ConnectionEntry {
            id,
            handle: None,
            ct: found_in(&connection),
            gate: connection.qualifies(),
            connection,
            worth,
            seen: 0,
            recent: 0,
            held: false,
            liberal: false,
            closing: false,
            refused: None,
            merged: SmallVec::new(),
        };
        let (slot, _) = self.connections.insert(entry);
        let handle = open(self.index, slot);
        match self.connections.get_mut(slot).filter(|_| handle.is_some()) {
            Some(entry) => {
                entry.handle = handle;
                self.by_id.insert(id, slot);
            }
            None => drop(self.connections.remove(slot)),
        }
        handle
    }

    /// Takes a connection out.
    pub fn remove_connection(&mut self, handle: ConnectionHandle) -> Option<ConnectionEntry> {
        let id = self.connection(handle)?.id;
        if self.by_id.get(&id) == Some(&handle.slot()) {
            self.by_id.remove(&id);
        }
        self.connections.remove(handle.slot())
    }

    /// All connections.
    pub fn connections(&self) -> impl Iterator<Item = &ConnectionEntry> {
        self.connections.iter().map(|(_, _, entry)| entry)
    }

    /// How many connections there are.
    pub fn connection_count(&self) -> usize {
        self.connections.count()
    }

    #[inline]
    fn id(&self, slot: u32, generation: u32) -> MergedId {
        MergedId::new(generation, slot, self.index, self.shards)
    }

    /// Generation and slot, if it may be of this shard.
    #[inline]
    fn name(&self, id: MergedId) -> Option<(u32, u32)> {
        let (generation, slot, shard) = id.parts(self.shards)?;
        (shard == self.index).then_some((generation, slot))
    }

    fn slot(&self, id: MergedId) -> Option<u32> {
        let (generation, slot) = self.name(id)?;
        (self.merged.generation(slot) == Some(generation)).then_some(slot)
    }

    /// Enters a merged filter, which is about to be installed, and links it to its path and to those of its connections that are here.
    pub fn reserve(&mut self, path: PathId, connections: Links, now: u64) -> MergedId {
        let next = self.heads.get(path);
        let merged =
            Merged { state: State::Installing, attempts: 0, linked: true, path, next, prev: NONE, connections };
        let (slot, generation) = self.merged.insert(merged);
        self.meters.begin(slot, generation, path, now);
        if let Some(second) = self.merged.get_mut(next) {
            second.prev = slot;
        }
        self.heads.set(path, slot);
        self.id(slot, generation)
    }

    /// The merged filter.
    #[inline]
    pub fn merged(&self, id: MergedId) -> Option<&Merged> {
        let (generation, slot) = self.name(id)?;
        self.merged.named(slot, generation)
    }

    /// The merged filter.
    #[inline]
    pub fn merged_mut(&mut self, id: MergedId) -> Option<&mut Merged> {
        let (generation, slot) = self.name(id)?;
        self.merged.named_mut(slot, generation)
    }

    /// Takes a merged filter out of its path's list; it stays otherwise.
    pub fn unlink(&mut self, id: MergedId) {
        let Some(slot) = self.slot(id) else { return };
        let Some(merged) = self.merged.get_mut(slot).filter(|m| m.linked) else { return };
        merged.linked = false;
        let (path, next, prev) = (merged.path, merged.next, merged.prev);
        if let Some(next) = self.merged.get_mut(next) {
            next.prev = prev;
        }
        match self.merged.get_mut(prev) {
            Some(prev) => prev.next = next,
            None => self.heads.set(path, next),
        }
    }

    /// Takes merged filters out of the front of a path's list, at most so many; they stay otherwise. Whether the list is empty now.
    pub fn unlink_some(&mut self, path: PathId, most: usize, mut each: impl FnMut(MergedId, &mut Merged)) -> bool {
        let (index, shards) = (self.index, self.shards);
        let first = self.heads.get(path);
        let mut at = first;
        for _ in 0..most {
            let Some((generation, merged)) = self.merged.get_named_mut(at) else { break };
            merged.linked = false;
            each(MergedId::new(generation, at, index, shards), merged);
            at = merged.next;
        }
        if at != first {
            self.heads.set(path, at);
        }
        match self.merged.get_mut(at) {
            Some(now_first) => now_first.prev = NONE,
            None => return true,
        }
        false
    }

    /// Whether a merged filter is in its path's list.
    pub fn is_linked(&self, id: MergedId) -> bool {
        self.merged(id).is_some_and(|merged| merged.linked)
    }

    /// Takes a merged filter out altogether. Its connections are told by [`forget`](Shard::forget).
    pub fn free(&mut self, id: MergedId) -> Option<Merged> {
        let (generation, slot) = self.name(id)?;
        if self.merged.named(slot, generation)?.linked {
            self.unlink(id);
        }
        self.meters.end(slot);
        self.merged.remove(slot)
    }

    /// A connection of this shard no longer carries this merged filter.
    pub fn forget(&mut self, handle: ConnectionHandle, id: MergedId) {
        if let Some(entry) = self.connection_mut(handle)
            && let Some(at) = entry.merged.iter().position(|&other| other == id)
        {
            entry.merged.remove(at);
        }
    }

    /// The first merged filter of a path.
    pub fn first_of(&self, path: PathId) -> Option<MergedId> {
        let slot = self.heads.get(path);
        Some(self.id(slot, self.merged.generation(slot)?))
    }

    /// The one behind it in its path's list.
    pub fn after(&self, id: MergedId) -> Option<MergedId> {
        let next = self.merged(id)?.next;
        Some(self.id(next, self.merged.generation(next)?))
    }

    /// Takes a reading over, if the merged filter counts here, and adds what was counted since the last one. Its meter.
    #[inline]
    pub fn read(&mut self, id: MergedId, reading: &Reading, sums: &mut Sums) -> Option<&Meter> {
        let (generation, slot) = self.name(id)?;
        self.meters.take(slot, generation, reading, sums)
    }

    /// What a merged filter has counted, to go on where it is tracked from now on. It counts no more here.
    pub fn stop(&mut self, id: MergedId) -> Option<Remains> {
        let slot = self.slot(id)?;
        let remains = self.meters.remains(slot);
        self.meters.end(slot);
        remains
    }

    /// What a merged filter has counted.
    pub fn meter(&self, id: MergedId) -> Option<&Meter> {
        self.meters.get(self.slot(id)?)
    }

    /// What counts here from this slot on, and the slot to go on with.
    pub fn counting(&self, slot: u32, most: u32, mut each: impl FnMut(MergedId)) -> Option<u32> {
        let end = self.merged.end();
        let until = slot.saturating_add(most).min(end);
        self.meters.here(slot..until, |slot, generation| each(self.id(slot, generation)));
        (until < end).then_some(until)
    }

    /// The merged filters from this slot on, and the slot to go on with; nothing, if there are none.
    pub fn from(&self, slot: u32, most: u32, mut each: impl FnMut(MergedId, &Merged, &Meter)) -> Option<u32> {
        let end = self.merged.end();
        let until = slot.saturating_add(most).min(end);
        self.merged.each(slot..until, |at, generation, merged| {
            each(self.id(at, generation), merged, self.meters.get(at).unwrap_or(&Meter::NOBODY));
        });
        (until < end).then_some(until)
    }

    /// The same, to change them.
    pub fn from_mut(
        &mut self,
        slot: u32,
        most: u32,
        mut each: impl FnMut(MergedId, &mut Merged, &mut Meter),
    ) -> Option<u32> {
        let end = self.merged.end();
        let until = slot.saturating_add(most).min(end);
        let (index, shards) = (self.index, self.shards);
        let Shard { merged, meters, .. } = self;
        merged.each_mut(slot..until, |at, generation, merged| {
            if let Some(meter) = meters.get_mut(at) {
                each(MergedId::new(generation, at, index, shards), merged, meter);
            }
        });
        (until < end).then_some(until)
    }

    /// How many slots of merged filters there are.
    pub fn end(&self) -> u32 {
        self.merged.end()
    }

    /// A new interval begins for the connections from this slot on; the slot to go on with.
    pub fn begin_interval(&mut self, slot: u32, most: u32) -> Option<u32> {
        let end = self.connections.end();
        let until = slot.saturating_add(most).min(end);
        for at in slot..until {
            if let Some(entry) = self.connections.get_mut(at) {
                entry.recent = 0;
            }
        }
        (until < end).then_some(until)
    }

    /// How often the hardware has lost everything.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The hardware has lost everything.
    pub fn begin_epoch(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// How many merged filters there are, on their way in and out included.
    pub fn merged_count(&self) -> usize {
        self.merged.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paths_merged_filters_are_a_list_in_any_order_of_leaving() {
        let mut shard = Shard::new(1, 2);
        let path = PathId(5000);
        let ids: Vec<MergedId> = (0..5).map(|n| shard.reserve(path, Links::None, n)).collect();
        let other = shard.reserve(PathId(1), Links::None, 0);
        let list =
            |shard: &Shard| std::iter::successors(shard.first_of(path), |&id| shard.after(id)).collect::<Vec<_>>();
        assert_eq!(list(&shard), ids.iter().rev().copied().collect::<Vec<_>>());
        shard.free(ids[2]);
        shard.unlink(ids[4]);
        assert!(shard.merged(ids[4]).is_some() && shard.merged(ids[2]).is_none());
        shard.free(ids[0]);
        assert_eq!(list(&shard), [ids[3], ids[1]]);
        let again = shard.reserve(path, Links::None, 9);
        assert_ne!(again, ids[0]);
        assert_eq!(list(&shard), [again, ids[3], ids[1]]);
        let mut taken = Vec::new();
        assert!(!shard.unlink_some(path, 2, |id, _| taken.push(id)));
        assert_eq!((list(&shard), &taken[..]), (vec![ids[1]], &[again, ids[3]][..]));
        let front = shard.reserve(path, Links::None, 9);
        assert_eq!(list(&shard), [front, ids[1]]);
        shard.free(front);
        assert!(
            shard.unlink_some(path, 2, |id, _| taken.push(id)) && shard.unlink_some(path, 2, |_, _| unreachable!())
        );
        assert_eq!((list(&shard), &taken[..]), (vec![], &[again, ids[3], ids[1]][..]));
        for id in [again, ids[3], ids[1], ids[4]] {
            assert!(shard.free(id).is_some() && shard.free(id).is_none());
        }
        assert_eq!((list(&shard), shard.first_of(PathId(1)), shard.merged_count()), (vec![], Some(other), 1));
    }

    #[test]
    fn a_merged_filter_is_small() {
        assert!(std::mem::size_of::<Merged>() <= 40, "{}", std::mem::size_of::<Merged>());
    }
}
