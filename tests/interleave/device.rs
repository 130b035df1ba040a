//! The hardware of these tests: a table that lets other threads in at each call, fails when told to, and keeps its own books of what
//! it handled for whom.
//!
//! Its lock is std's: the checker does not see it, and nobody is let in while it is held. What others may see of a call happens in
//! one step, with room for them before and behind.

use flowmerge::{
    flower::{ActionKind, Capabilities, Key, Match, Port, action::Mirred},
    hardware::{Hardware, HardwareError, MergedId, Offer, Reading},
};
use shuttle::thread::yield_now;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Bytes of each packet, as TC counts them.
pub const BYTES: u64 = 100;

/// How an install goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It failed.
    Failed,
    /// Nobody knows, and it is in.
    UnsureIn,
    /// Nobody knows, and it is not.
    UnsureOut,
}

#[derive(Debug)]
struct Slot {
    port: Port,
    matches: Match,
    /// Where it sends to.
    out: u32,
    parents: Vec<u64>,
    /// Source port and mark of the connections that it was filled in with.
    rests: Vec<(u16, u32)>,
    packets: u64,
    /// As far as these were told.
    told: u64,
}

#[derive(Debug, Default)]
struct Inner {
    slots: BTreeMap<MergedId, Slot>,
    names: BTreeSet<MergedId>,
    /// Packets by filter and by where its merged filter sent them.
    handled: BTreeMap<(u64, u32), u64>,
    /// Packets of each merged filter.
    totals: BTreeMap<MergedId, u64>,
    installs: VecDeque<Fault>,
    removals_fail: usize,
    reads_fail: usize,
    size: Option<usize>,
    down: bool,
}

/// The table.
#[derive(Debug, Default)]
pub struct Device(Mutex<Inner>);

impl Device {
    /// An empty table that holds so many.
    pub fn of_size(size: Option<usize>) -> Device {
        Device(Mutex::new(Inner { size, ..Inner::default() }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next installs go like this.
    pub fn fail_installs(&self, faults: &[Fault]) {
        self.inner().installs.extend(faults);
    }

    /// So many removals fail.
    pub fn fail_removals(&self, count: usize) {
        self.inner().removals_fail = count;
    }

    /// So many readings fail.
    pub fn fail_reads(&self, count: usize) {
        self.inner().reads_fail = count;
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        let mut inner = self.inner();
        inner.installs.clear();
        (inner.removals_fail, inner.reads_fail) = (0, 0);
    }

    /// A packet arrives. Whether the table handled it.
    pub fn receive(&self, port: Port, key: &Key) -> bool {
        yield_now();
        let mut inner = self.inner();
        let inner = &mut *inner;
        let takes = |s: &Slot| s.port == port && s.matches.key.agrees(key, &s.matches.mask);
        let mut all = inner.slots.iter_mut().filter(|(_, slot)| takes(slot));
        let Some((&id, slot)) = all.next() else { return false };
        let others: Vec<_> = all.filter(|(_, other)| other.out != slot.out).collect();
        assert!(others.is_empty(), "the table has no order, and {id} and {others:?} do not do the same");
        slot.packets += 1;
        slot.parents.iter().for_each(|&parent| *inner.handled.entry((parent, slot.out)).or_default() += 1);
        *inner.totals.entry(id).or_default() += 1;
        true
    }

    /// What is in the table.
    pub fn ids(&self) -> Vec<MergedId> {
        self.inner().slots.keys().copied().collect()
    }

    /// What derives from a filter, or from that of the name that sent here.
    pub fn derived(&self, cookie: u64, out: Option<u32>) -> Vec<MergedId> {
        let derives = |s: &Slot| s.parents.contains(&cookie) && out.is_none_or(|out| out == s.out);
        self.inner().slots.iter().filter(|(_, s)| derives(s)).map(|(&id, _)| id).collect()
    }

    /// What rests on a connection as it was with this mark, or at all.
    pub fn resting(&self, port: u16, mark: Option<u32>) -> Vec<MergedId> {
        let rests = |s: &Slot| s.rests.iter().any(|&(p, m)| p == port && mark.is_none_or(|mark| mark == m));
        self.inner().slots.iter().filter(|(_, s)| rests(s)).map(|(&id, _)| id).collect()
    }

    /// Packets that were handled for a filter, or for that of the name that sent here.
    pub fn handled(&self, cookie: u64, out: Option<u32>) -> u64 {
        let inner = self.inner();
        let all = inner.handled.iter().filter(|((c, o), _)| *c == cookie && out.is_none_or(|out| out == *o));
        all.map(|(_, packets)| packets).sum()
    }

    /// Those of a filter were told, and begin at 0.
    pub fn close(&self, cookie: u64) {
        self.inner().handled.retain(|&(c, _), _| c != cookie);
    }

    /// Packets that a merged filter handled, as far as they were not lost.
    pub fn total(&self, id: MergedId) -> u64 {
        self.inner().totals.get(&id).copied().unwrap_or_default()
    }

    /// The merged filters that handled packets.
    pub fn used(&self) -> Vec<MergedId> {
        self.inner().totals.iter().filter(|(_, packets)| **packets > 0).map(|(&id, _)| id).collect()
    }

    /// All is lost, with what was counted and not told; nothing is installed until it is [`up`](Device::up).
    pub fn lose_all(&self) {
        let mut inner = self.inner();
        inner.down = true;
        for (id, slot) in std::mem::take(&mut inner.slots) {
            let lost = slot.packets - slot.told;
            for &parent in &slot.parents {
                if let Some(handled) = inner.handled.get_mut(&(parent, slot.out)) {
                    *handled = handled.saturating_sub(lost);
                }
            }
            // It may come again, and counts from 0 then.
            inner.totals.remove(&id);
            inner.names.remove(&id);
        }
    }

    /// It is back.
    pub fn up(&self) {
        self.inner().down = false;
    }
}

/// Fails as often as is left.
fn busy(left: &mut usize, id: MergedId) -> Result<(), HardwareError> {
    match left.checked_sub(1) {
        Some(less) => {
            *left = less;
            Err(HardwareError::Failed { id, reason: "busy".into() })
        }
        None => Ok(()),
    }
}

impl Slot {
    fn reading(&mut self) -> Reading {
        self.told = self.packets;
        Reading { packets: self.packets, bytes: BYTES * self.packets, last_used: self.packets, ..Reading::default() }
    }
}

impl Hardware for Device {
    fn capabilities(&self) -> Capabilities {
        Capabilities { size: self.inner().size, ..Capabilities::all() }
    }

    fn install(&self, offer: &Offer<'_>) -> Result<(), HardwareError> {
        let entry = offer.entry();
        let id = entry.id;
        let out = entry.actions.iter().find_map(|action| match &action.kind {
            ActionKind::Mirred(Mirred { port, .. }) => Some(port.0),
            _ => None,
        });
        let slot = Slot {
            port: entry.port,
            matches: entry.matches,
            out: out.unwrap_or_default(),
            parents: offer.path.parents.iter().map(|p| p.cookie.0).collect(),
            rests: offer.connections.iter().map(|c| (c.original.src_port, c.mark)).collect(),
            packets: 0,
            told: 0,
        };
        yield_now();
        let done = {
            let mut inner = self.inner();
            assert!(!inner.slots.contains_key(&id), "{id} is offered and is there");
            match inner.installs.pop_front() {
                _ if inner.down => Err(HardwareError::Failed { id, reason: "resetting".into() }),
                Some(Fault::Failed) => Err(HardwareError::Failed { id, reason: "busy".into() }),
                Some(Fault::UnsureOut) => Err(HardwareError::Unsure { id, reason: "no answer".into() }),
                fault => match inner.size.filter(|&size| inner.slots.len() >= size) {
                    Some(size) => Err(HardwareError::Full { id, size }),
                    None => {
                        assert!(inner.names.insert(id), "{id} is a name that was used before");
                        inner.slots.insert(id, slot);
                        match fault {
                            Some(_) => Err(HardwareError::Unsure { id, reason: "no answer".into() }),
                            None => Ok(()),
                        }
                    }
                },
            }
        };
        yield_now();
        done
    }

    fn remove(&self, id: MergedId) -> Result<Reading, HardwareError> {
        yield_now();
        let done = {
            let mut inner = self.inner();
            busy(&mut inner.removals_fail, id)
                .and_then(|()| inner.slots.remove(&id).map(|mut s| s.reading()).ok_or(HardwareError::Missing { id }))
        };
        yield_now();
        done
    }

    fn read(&self, ids: &[MergedId], each: &mut dyn FnMut(MergedId, Result<Reading, HardwareError>)) {
        for &id in ids {
            yield_now();
            let read = {
                let mut inner = self.inner();
                busy(&mut inner.reads_fail, id)
                    .and_then(|()| inner.slots.get_mut(&id).map(Slot::reading).ok_or(HardwareError::Missing { id }))
            };
            each(id, read);
        }
        yield_now();
    }
}
