//! What merged filters have counted, in an array of its own beside their slots.
//!
//! All of it is read again and again, and of a merged filter nothing else is needed for that: so as few cache lines as possible are
//! touched. What a policer dropped, which few merged filters have, stands elsewhere.

use super::{
    PathId,
    slots::{NONE, Spread},
};
use crate::{
    flower::Counters,
    hardware::{Policed, Reading},
};
use smallvec::SmallVec;

/// Meters in a chunk, which never moves.
const CHUNK: usize = 1024;

/// What was counted, as the hardware counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    packets: u64,
    bytes: u64,
    last_used: u64,
    dropped: Policed,
    /// The last use by a packet that was not dropped, as far as one can tell.
    last_passed: u64,
}

/// Sums of what merged filters counted since they were last read, while neighbours share a path, as most do: so the parents are handed
/// one sum, and what the path says is looked up once.
#[derive(Debug, Default)]
pub struct Sums {
    path: Option<PathId>,
    sum: Sum,
    before: SmallVec<[(PathId, Sum); 4]>,
}

impl Sums {
    /// What is added to for a path.
    #[inline]
    fn of(&mut self, path: PathId) -> &mut Sum {
        if self.path != Some(path) {
            self.end_path();
            self.path = Some(path);
        }
        &mut self.sum
    }

    fn end_path(&mut self) {
        let sum = std::mem::take(&mut self.sum);
        if let Some(path) = self.path.filter(|_| sum.packets > 0) {
            self.before.push((path, sum));
        }
    }

    /// All of them.
    pub fn all(mut self) -> SmallVec<[(PathId, Sum); 4]> {
        self.end_path();
        self.before
    }
}

impl Sum {
    /// The same as TC counts. `bytes` turns packets and bytes into bytes as TC counts them.
    pub fn counted(&self, bytes: impl Fn(u64, u64) -> u64) -> Counted {
        let Sum { packets, last_used, dropped, .. } = *self;
        let all = Counters { packets, bytes: bytes(packets, self.bytes), last_used };
        let lost = bytes(dropped.packets, dropped.bytes);
        let passed = match packets.saturating_sub(dropped.packets) {
            0 => Counters::default(),
            packets => Counters { packets, bytes: all.bytes.saturating_sub(lost), last_used: self.last_passed },
        };
        Counted { all, passed }
    }
}

/// What merged filters have counted since they were last asked, as TC counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// All packets.
    pub all: Counters,
    /// Those that the policer passed on.
    pub passed: Counters,
}

/// What one merged filter has counted.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    packets: u64,
    bytes: u64,
    /// When it was last used; before its first use, when it was made.
    pub used: u64,
    /// Its path.
    pub path: PathId,
    /// Its packets in the last interval between two readings of everything.
    pub recent: u32,
    generation: u32,
    /// Whether it counts here.
    is_here: bool,
    /// Whether its policer has dropped something.
    is_policed: bool,
}

impl Meter {
    /// Of no merged filter.
    pub const NOBODY: Meter = Meter {
        packets: 0,
        bytes: 0,
        used: 0,
        path: PathId(NONE),
        recent: 0,
        generation: 0,
        is_here: false,
        is_policed: false,
    };

    /// Whether it has counted anything.
    pub fn was_used(&self) -> bool {
        self.packets > 0
    }

    /// What it has counted in all, as TC would have. `bytes` turns packets and bytes into bytes as TC counts them.
    pub fn counters(&self, bytes: impl Fn(u64, u64) -> u64) -> Counters {
        match *self {
            Meter { packets: 0, .. } => Counters::default(),
            Meter { packets, bytes: counted, used, .. } => {
                Counters { packets, bytes: bytes(packets, counted), last_used: used }
            }
        }
    }

    /// The hardware counts from 0 again.
    pub fn begin_anew(&mut self) {
        (self.packets, self.bytes) = (0, 0);
    }
}

/// The counts of a merged filter that is gone from everywhere but the hardware.
#[derive(Clone, Copy, Debug)]
pub struct Remains {
    meter: Meter,
    dropped: Policed,
}

impl Remains {
    /// Takes a reading over; what was counted since the last one.
    pub fn advance(&mut self, reading: &Reading) -> Sum {
        let mut sum = Sum::default();
        advance_policed(&mut self.meter, &mut self.dropped, reading, &mut sum);
        sum
    }

    /// As [`Meter::counters`].
    pub fn counters(&self, bytes: impl Fn(u64, u64) -> u64) -> Counters {
        self.meter.counters(bytes)
    }
}

/// Takes a reading over of what no policer dropped anything. How many packets came.
#[inline(always)]
fn advance(meter: &mut Meter, reading: &Reading, sum: &mut Sum) -> u64 {
    let packets = reading.packets.saturating_sub(meter.packets);
    if packets > 0 {
        sum.packets += packets;
        sum.bytes += reading.bytes.saturating_sub(meter.bytes);
        sum.last_used = sum.last_used.max(reading.last_used);
        (meter.packets, meter.bytes) = (reading.packets, reading.bytes);
        meter.used = meter.used.max(reading.last_used);
        meter.recent = meter.recent.saturating_add(packets.min(u32::MAX.into()) as u32);
    }
    packets
}

/// The same where a policer may have dropped something. `before`: what it had dropped.
fn advance_policed(meter: &mut Meter, before: &mut Policed, reading: &Reading, sum: &mut Sum) {
    let packets = advance(meter, reading, sum);
    if packets == 0 {
        return;
    }
    let dropped = reading.policed.packets.saturating_sub(before.packets);
    sum.dropped.packets += dropped;
    sum.dropped.bytes += reading.policed.bytes.saturating_sub(before.bytes);
    *before = reading.policed;
    if packets > dropped {
        sum.last_passed = sum.last_passed.max(reading.last_used);
    }
}

/// The meters of a shard's merged filters, by slot.
#[derive(Debug, Default)]
pub struct Meters {
    chunks: Vec<Vec<Meter>>,
    /// What policers dropped of those of which they have dropped something.
    policed: Spread<u32, Policed>,
}

impl Meters {
    /// A merged filter is in a slot, and counts from 0 on.
    pub fn begin(&mut self, slot: u32, generation: u32, path: PathId, now: u64) {
        let (chunk, at) = (slot as usize / CHUNK, slot as usize % CHUNK);
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, || vec![Meter::NOBODY; CHUNK]);
        }
        self.chunks[chunk][at] = Meter { used: now, path, generation, is_here: true, ..Meter::NOBODY };
    }

    /// It counts no more here.
    pub fn end(&mut self, slot: u32) {
        if let Some(meter) = self.get_mut(slot) {
            meter.is_here = false;
            if meter.is_policed {
                self.policed.remove(&slot);
            }
        }
    }

    /// The meter of a slot.
    pub fn get(&self, slot: u32) -> Option<&Meter> {
        self.chunks.get(slot as usize / CHUNK)?.get(slot as usize % CHUNK)
    }

    /// The meter of a slot.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Meter> {
        self.chunks.get_mut(slot as usize / CHUNK)?.get_mut(slot as usize % CHUNK)
    }

    /// Those that count here, of these slots: slot and generation.
    pub fn here(&self, slots: std::ops::Range<u32>, mut each: impl FnMut(u32, u32)) {
        let mut at = slots.start;
        while at < slots.end {
            let Some(chunk) = self.chunks.get(at as usize / CHUNK) else { return };
            let rest = &chunk[at as usize % CHUNK..];
            let rest = &rest[..rest.len().min((slots.end - at) as usize)];
            for (slot, meter) in (at..).zip(rest).filter(|(_, meter)| meter.is_here) {
                each(slot, meter.generation);
            }
            at += rest.len() as u32;
        }
    }

    /// Takes a reading over, if the merged filter of this name counts here, and adds what was counted since the last one. Its meter.
    #[inline]
    pub fn take(&mut self, slot: u32, generation: u32, reading: &Reading, sums: &mut Sums) -> Option<&Meter> {
        let meter = self.chunks.get_mut(slot as usize / CHUNK)?.get_mut(slot as usize % CHUNK)?;
        if meter.generation != generation || !meter.is_here {
            return None;
        }
        let sum = sums.of(meter.path);
        if reading.policed == Policed::default() && !meter.is_policed {
            if advance(meter, reading, sum) > 0 {
                sum.last_passed = sum.last_passed.max(reading.last_used);
            }
            return Some(meter);
        }
        let mut dropped = dropped_of(meter, &self.policed, slot);
        advance_policed(meter, &mut dropped, reading, sum);
        meter.is_policed = true;
        self.policed.insert(slot, dropped);
        Some(meter)
    }

    /// What is left to count when it is gone from here and not from hardware.
    pub fn remains(&self, slot: u32) -> Option<Remains> {
        let meter = *self.get(slot)?;
        Some(Remains { meter, dropped: dropped_of(&meter, &self.policed, slot) })
    }
}

/// What a policer had dropped when a merged filter was last read.
fn dropped_of(meter: &Meter, policed: &Spread<u32, Policed>, slot: u32) -> Policed {
    // One that began anew has nothing there, whatever stands there.
    let known = policed.get(&slot).filter(|_| meter.is_policed && meter.packets > 0);
    known.copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(packets: u64, bytes: u64, dropped: u64) -> Reading {
        let policed = Policed { packets: dropped, bytes: 100 * dropped };
        Reading { packets, bytes, last_used: packets, policed }
    }

    #[test]
    fn nothing_counts_twice_nor_for_another() {
        let mut meters = Meters::default();
        let path = PathId(7);
        meters.begin(1500, 3, path, 0);
        let took = |meters: &mut Meters, (slot, generation), reading| {
            let mut sums = Sums::default();
            let path = meters.take(slot, generation, &reading, &mut sums).map(|meter| meter.path)?;
            let all = sums.all();
            assert!(all.len() < 2 && all.iter().all(|(of, _)| *of == path));
            Some(all.first().map_or(Sum::default(), |(_, sum)| *sum))
        };
        let first = took(&mut meters, (1500, 3), reading(5, 500, 0)).expect("it is here");
        assert_eq!((first.packets, first.bytes), (5, 500));
        assert_eq!(took(&mut meters, (1500, 3), reading(4, 400, 0)), Some(Sum::default()), "an older reading");
        let more = took(&mut meters, (1500, 3), reading(9, 900, 3)).expect("it is here");
        assert_eq!((more.packets, more.dropped.packets, more.dropped.bytes), (4, 3, 300));
        let more = took(&mut meters, (1500, 3), reading(10, 1000, 4)).expect("it is here");
        assert_eq!((more.packets, more.dropped.packets, more.last_passed), (1, 1, 0));
        assert_eq!(took(&mut meters, (1500, 2), reading(20, 0, 0)), None);
        assert_eq!(took(&mut meters, (1, 0), reading(20, 0, 0)), None);
        let mut remains = meters.remains(1500).expect("a meter");
        meters.end(1500);
        assert_eq!(took(&mut meters, (1500, 3), reading(20, 0, 0)), None);
        let rest = remains.advance(&reading(12, 1200, 4));
        assert_eq!((rest.packets, rest.dropped.packets), (2, 0));
        // Who comes to the slot next begins at 0, and so does one that begins anew.
        meters.begin(1500, 4, path, 9);
        for _ in 0..2 {
            let sum = took(&mut meters, (1500, 4), reading(6, 600, 1)).expect("it is here");
            let counted = sum.counted(|packets, bytes| bytes - 14 * packets);
            assert_eq!((counted.all.packets, counted.all.bytes), (6, 600 - 6 * 14));
            assert_eq!((counted.passed.packets, counted.passed.bytes), (5, 500 - 5 * 14));
            meters.get_mut(1500).expect("a meter").begin_anew();
        }
        let mut here = Vec::new();
        meters.here(0..1501, |slot, generation| here.push((slot, generation)));
        meters.here(0..1500, |_, _| unreachable!());
        assert_eq!(here, [(1500, 4)]);
    }

    #[test]
    fn sums_are_by_path_and_neighbours_share_one() {
        let mut meters = Meters::default();
        let paths = [1, 1, 2, 3, 1].map(PathId);
        (0..).zip(paths).for_each(|(slot, path)| meters.begin(slot, 0, path, 0));
        let mut sums = Sums::default();
        for (slot, packets) in (0..).zip([1, 2, 4, 0, 8]) {
            assert!(meters.take(slot, 0, &reading(packets, 0, 0), &mut sums).is_some());
        }
        let all: Vec<_> = sums.all().iter().map(|(path, sum)| (path.0, sum.packets)).collect();
        assert_eq!(all, [(1, 3), (2, 4), (1, 8)]);
    }

    #[test]
    fn a_meter_is_small() {
        assert!(size_of::<Meter>() <= 40);
    }
}
