//! Verdicts: of which packets of a way something was decided, in slots that can be read while they are written.
//!
//! A slot has a sequence number, odd while it is being written. A reader compares word by word, and what it found counts only if the number
//! is the same afterwards; if not, nothing was recognised. It never tries again.
//!
//! ```text
//!          publish                    retire                         the last cell or table lets go
//!   free ──────────► held by its owner ─────► blank, held by some ──────────────────────────────────► free
//!                     ▲ hold / release │
//!                     └────────────────┘
//! ```
//!
//! Each cell that lists a verdict, and the table, hold its slot. A retired one is blank at once, and agrees with nothing.

use super::chunks::Chunks;
use crate::{
    conntrack::Direction,
    flower::{Cookie, Key, Match, Port, key::WORDS},
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering, fence},
    },
    walk::{
        Steps,
        record::{CONNECTIONS, FOUND, Findings, HITS},
    },
};

/// Words of a key that a verdict has room for.
const COMPARED: usize = 16;

/// Set while nothing new may hold the slot: it is retired, or free.
const RETIRED: u32 = 1 << 31;

/// What was decided about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// A merged filter matches it.
    Merged,
    /// It was refused, and would be again.
    Refused,
}

/// The name of a published verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VerdictId {
    index: u32,
    generation: u32,
}

impl VerdictId {
    pub(super) fn index(self) -> u32 {
        self.index
    }
}

/// What was decided about the packets of a way that agree with some bits. Which connections they are of it does not say.
#[derive(Clone, Debug)]
pub struct Verdict {
    decided: Decided,
    port: Port,
    /// More than there is room for.
    too_long: bool,
    hits: usize,
    filters: [Cookie; HITS],
    findings: Findings,
    compared: usize,
    /// Word of the key, mask, value.
    compare: [(u8, u64, u64); COMPARED],
}

impl Verdict {
    /// About packets that come in on this port; of a way without filters so far.
    pub fn new(port: Port, decided: Decided) -> Verdict {
        Verdict {
            decided,
            port,
            too_long: false,
            hits: 0,
            filters: [Cookie(0); HITS],
            findings: Findings::default(),
            compared: 0,
            compare: [(0, 0, 0); COMPARED],
        }
    }

    /// About the packets that go the way of a walk and agree with `matches` ([`compare`](Verdict::compare)).
    pub fn of(port: Port, steps: &Steps, matches: &Match, decided: Decided) -> Verdict {
        let mut verdict = Verdict::new(port, decided);
        steps.filters().iter().for_each(|&filter| verdict.hit(filter));
        verdict.findings = *steps.findings();
        verdict.too_long |= steps.too_long();
        verdict.compare(matches);
        verdict
    }

    /// The way's next filter.
    pub fn hit(&mut self, filter: Cookie) {
        match self.filters.get_mut(self.hits) {
            Some(slot) => {
                *slot = filter;
                self.hits += 1;
            }
            None => self.too_long = true,
        }
    }

    /// The next `ct` action of the last filter found this of the way's connections (by number), in this direction, or none.
    pub fn found(&mut self, found: Option<(usize, Direction)>) {
        let fits = found.is_none_or(|(index, _)| index < CONNECTIONS);
        let hit = self.hits.checked_sub(1).filter(|_| fits);
        let recorded = hit.is_some_and(|hit| self.findings.push(hit as u32, found));
        self.too_long |= !recorded;
    }

    /// Compares these bits of the arrived packet, and no others: all constants that the path asks for. Ranges of ports are left out, which
    /// follow from the filters that were hit.
    pub fn compare(&mut self, matches: &Match) {
        self.compared = 0;
        for (n, (&mask, &value)) in matches.mask.words().iter().zip(matches.key.words()).enumerate() {
            if mask == 0 {
                continue;
            }
            match self.compare.get_mut(self.compared) {
                Some(slot) => {
                    *slot = (n as u8, mask, value & mask);
                    self.compared += 1;
                }
                None => self.too_long = true,
            }
        }
    }
}

/// One way's number, by which the table finds it: not equal for all that differ.
#[inline]
pub(super) fn way_number(port: Port, filters: impl Iterator<Item = u64>, found: [u64; 2]) -> u64 {
    // The odd part of the golden ratio: carries each bit into many higher ones.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut number = u64::from(port.0) ^ found[0].rotate_left(17) ^ found[1].rotate_left(41);
    for filter in filters {
        number = (number.rotate_left(27) ^ filter).wrapping_mul(SPREAD);
    }
    number ^ number >> 32
}

const DECIDED: u32 = 16;
const FOUNDS: u32 = 8;
/// The bits of a head that a walk's own must equal: port, filters, findings.
const WAY: u64 = !(0xff << DECIDED);

#[inline]
fn head(port: Port, hits: usize, founds: usize) -> u64 {
    u64::from(port.0) << 32 | (founds as u64) << FOUNDS | hits as u64
}

/// The place of a verdict, in the order in which a reader compares it: one of five filters takes two lines of the cache. What only
/// writers look at is behind it, so that they do not take from readers the line they all begin with.
#[repr(C, align(64))]
#[derive(Debug)]
struct Slot {
    /// Odd while the rest is being written.
    sequence: AtomicU32,
    /// Counts verdicts.
    generation: AtomicU32,
    /// Port, what was decided (0: nothing), how many findings, how many filters.
    head: AtomicU64,
    found: [AtomicU64; FOUND / 8],
    /// Which words of the key are compared, a bit each.
    compared: AtomicU64,
    /// The filters; directly behind them mask and value of each word that is compared.
    words: [AtomicU64; HITS + 2 * COMPARED],
    way: AtomicU64,
    /// By how many it is held.
    holds: AtomicU32,
}

impl Default for Slot {
    fn default() -> Slot {
        Slot {
            sequence: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            head: AtomicU64::new(0),
            found: [const { 0 }; FOUND / 8].map(AtomicU64::new),
            compared: AtomicU64::new(0),
            words: [const { 0 }; HITS + 2 * COMPARED].map(AtomicU64::new),
            way: AtomicU64::new(0),
            holds: AtomicU32::new(RETIRED),
        }
    }
}

impl Slot {
    /// Writes the slot, which nobody else does meanwhile.
    fn write(&self, verdict: Option<&Verdict>) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        // Who sees anything of what follows sees that number too, after an acquire fence.
        fence(Ordering::Release);
        let put = |to: &AtomicU64, word| to.store(word, Ordering::Relaxed);
        match verdict {
            None => put(&self.head, 0),
            Some(v) => {
                let found = *v.findings.words();
                let filters = v.filters[..v.hits].iter().map(|filter| filter.0);
                let compare = &v.compare[..v.compared];
                put(&self.way, way_number(v.port, filters.clone(), found));
                let decided = match v.decided {
                    Decided::Merged => 1,
                    Decided::Refused => 2,
                };
                put(&self.head, head(v.port, v.hits, v.findings.len()) | decided << DECIDED);
                self.found.iter().zip(found).for_each(|(to, word)| put(to, word));
                put(&self.compared, compare.iter().fold(0, |bits, (word, ..)| bits | 1 << word));
                let words = filters.chain(compare.iter().flat_map(|&(_, mask, value)| [mask, value]));
                self.words.iter().zip(words).for_each(|(to, word)| put(to, word));
            }
        }
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// What was decided about such a packet, if the slot says anything of it and was not written meanwhile. What the caller loads
    /// afterwards is not older than what was read here. Not part of its callers' loops: so all it needs is in registers.
    #[inline(never)]
    fn agrees(&self, port: Port, key: &Key, steps: &Steps) -> Option<Decided> {
        let get = |from: &AtomicU64| from.load(Ordering::Relaxed);
        let sequence = self.sequence.load(Ordering::Acquire);
        let (filters, findings) = (steps.filters(), steps.findings());
        let is = get(&self.head);
        if (is ^ head(port, filters.len(), findings.len())) & WAY != 0 {
            return None;
        }
        let found = findings.words();
        let (first, compare) = self.words.split_at_checked(filters.len())?;
        if (get(&self.found[0]) ^ found[0]) | (get(&self.found[1]) ^ found[1]) != 0
            || first.iter().zip(filters).any(|(is, filter)| get(is) != filter.0)
        {
            return None;
        }
        let mut compared = get(&self.compared);
        for [mask, value] in compare.as_chunks().0 {
            if compared == 0 {
                break;
            }
            let word = key.words().get(compared.trailing_zeros() as usize)?;
            if word & get(mask) != get(value) {
                return None;
            }
            compared &= compared - 1;
        }
        fence(Ordering::Acquire);
        // Nor was it being written to begin with.
        if self.sequence.load(Ordering::Relaxed) != sequence & !1 {
            return None;
        }
        match is >> DECIDED & 0xff {
            1 => Some(Decided::Merged),
            2 => Some(Decided::Refused),
            _ => None,
        }
    }
}

/// All verdicts.
#[derive(Debug)]
pub(super) struct Verdicts {
    slots: Chunks<Slot>,
    places: Mutex<Places>,
}

#[derive(Debug)]
struct Places {
    free: Vec<u32>,
    /// How many were ever used.
    used: u32,
    limit: u32,
}

impl Verdicts {
    pub(super) fn new(limit: usize) -> Verdicts {
        // One number less than a cell's entry has bits for: there 0 is none.
        let limit = limit.min((1 << 24) - 2);
        let places = Places { free: Vec::new(), used: 0, limit: limit as u32 };
        Verdicts { slots: Chunks::new(limit), places: Mutex::new(places) }
    }

    #[inline(always)]
    pub(super) fn agrees(&self, index: u32, port: Port, key: &Key, steps: &Steps) -> Option<Decided> {
        self.slots.get(index as usize)?.agrees(port, key, steps)
    }

    /// Its owner holds it.
    pub(super) fn publish(&self, verdict: &Verdict) -> Option<VerdictId> {
        if verdict.too_long {
            return None;
        }
        let index = {
            let mut places = self.places.lock();
            match places.free.pop() {
                Some(index) => index,
                None if places.used < places.limit => {
                    places.used += 1;
                    places.used - 1
                }
                None => return None,
            }
        };
        let slot = self.slots.make(index as usize)?;
        let generation = slot.generation.load(Ordering::Relaxed).wrapping_add(1);
        slot.generation.store(generation, Ordering::Relaxed);
        slot.write(Some(verdict));
        slot.holds.store(1, Ordering::Release);
        Some(VerdictId { index, generation })
    }

    fn slot(&self, id: VerdictId) -> Option<&Slot> {
        let slot = self.slots.get(id.index as usize)?;
        (slot.generation.load(Ordering::Relaxed) == id.generation).then_some(slot)
    }

    /// Whether the slot is still this verdict's, be it retired.
    pub(super) fn is(&self, id: VerdictId) -> bool {
        self.slot(id).is_some()
    }

    pub(super) fn is_retired(&self, id: VerdictId) -> bool {
        self.slot(id).is_none_or(|slot| slot.holds.load(Ordering::Acquire) & RETIRED != 0)
    }

    /// Holds the verdict once more.
    pub(super) fn hold(&self, id: VerdictId) -> bool {
        self.hold_often(id, 1)
    }

    /// Holds the verdict so many times more, unless it was retired.
    pub(super) fn hold_often(&self, id: VerdictId, times: u32) -> bool {
        let Some(slot) = self.slots.get(id.index as usize) else { return false };
        let mut holds = slot.holds.load(Ordering::Relaxed);
        loop {
            if holds & RETIRED != 0 {
                return false;
            }
            match slot.holds.compare_exchange_weak(holds, holds + times, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(other) => holds = other,
            }
        }
        // Held, it stays what it is: perhaps another one.
        let same = self.is(id);
        if !same {
            self.release_often(id.index, times);
        }
        same
    }

    /// Lets go of it.
    pub(super) fn release(&self, index: u32) {
        self.release_often(index, 1);
    }

    /// Lets go of it so many times.
    pub(super) fn release_often(&self, index: u32, times: u32) {
        let Some(slot) = self.slots.get(index as usize).filter(|_| times > 0) else { return };
        if slot.holds.fetch_sub(times, Ordering::AcqRel) == RETIRED | times {
            self.places.lock().free.push(index);
        }
    }

    /// Blanks it, if that was not done. Its owner holds it still.
    pub(super) fn retire(&self, id: VerdictId) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        if slot.holds.fetch_or(RETIRED, Ordering::AcqRel) & RETIRED != 0 {
            return false;
        }
        slot.write(None);
        true
    }

    /// The number of its way, and whether it is one that a table may show: refused, or of walks that meet no connection.
    pub(super) fn way(&self, id: VerdictId) -> Option<(u64, bool)> {
        let slot = self.slot(id)?;
        let get = |from: &AtomicU64| from.load(Ordering::Relaxed);
        let connections = (get(&slot.found[0]) | get(&slot.found[1])) & 0x7070_7070_7070_7070;
        Some((get(&slot.way), get(&slot.head) >> DECIDED & 0xff == 2 || connections == 0))
    }
}

const _: () = assert!(WORDS <= 64, "a word says which words of a key are compared");
