//! What a driver calls for each packet: records walks, recognises those that something was decided of, and hands the others over.
//!
//! **The idea.** Each processor (or receive queue, or thread) has a [`Datapath`] of its own, and no two calls into one overlap. It
//! writes down hits without looking anything up. When a walk ends, one look without a lock ([`Glance`]) tells what most walks
//! are: merged, refused, waiting for a worker. Only what is new is copied, into memory that was there before (`ring`), for workers to
//! take in batches from the [`Inbox`]. If there is no room the walk is dropped, never the packet, and counted.
//!
//! **Three forms of one walk**, as drivers differ:
//! - A [`Record`] on the caller's stack, which borrows the packet's key: [`Datapath::finish`]. The fastest; packets that are sent again from
//!   inside TC nest as the calls do.
//! - [`begin`](Datapath::begin), [`hit`](Datapath::hit), [`found`](Datapath::found), [`end`](Datapath::end): the datapath keeps the walk, and
//!   what begins inside it, on a stack (`nested`).
//! - The same with a name for the packet ([`begin_of`](Datapath::begin_of) and so on), where notifications of several packets interleave and
//!   a packet may vanish without a word: a bounded table, in which the oldest walk makes room (`flight`).
//!
//! None of it blocks or allocates; all that is turned away is counted ([`Turned`]).

mod bell;
mod flight;
mod inbox;
#[cfg(test)]
mod interleaved;
mod nested;
mod packed;
mod ring;
#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests;

pub use bell::Bell;
pub use flight::PacketId;
pub use inbox::{Batch, Inbox, Limits};

use crate::{
    conntrack::{ConnectionHandle, Direction},
    flower::{Cookie, Key, Port},
    glance::{Glance, Glimpse, way_of},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    walk::{Record, Steps},
};
use flight::Flight;
use inbox::Queue;
use nested::Nested;
use ring::Writer;

/// What became of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
// In the order of `Glimpse`, of which most are made: so that costs nothing.
pub enum Became {
    /// Nothing to do: a merged filter matches the packet.
    Merged,
    /// Nothing to do: such packets were refused.
    Refused,
    /// A walk like it is with the workers already.
    Queued,
    /// A connection that it found does not qualify.
    NotQualified,
    /// The policy does not find its connection worth a merge yet.
    NotYet,
    /// Its connection waits for the hardware.
    Waiting,
    /// It names a connection that is gone.
    Gone,
    /// The workers have it.
    HandedOver,
    /// Dropped: the workers are too far behind.
    Full,
    /// Dropped: more hits, findings or connections than a walk may have.
    TooLong,
    /// Dropped: more walks nested than a stack holds.
    TooDeep,
    /// Nothing to do: no filter was hit.
    NoHits,
    /// Nothing to do: no such walk is on its way; perhaps it had to make room.
    Unknown,
}

impl Became {
    /// How many there are.
    pub const COUNT: usize = Became::Unknown as usize + 1;
}

impl From<Glimpse> for Became {
    #[inline]
    fn from(glimpse: Glimpse) -> Became {
        match glimpse {
            Glimpse::Merged => Became::Merged,
            Glimpse::Refused => Became::Refused,
            Glimpse::Queued => Became::Queued,
            Glimpse::NotQualified => Became::NotQualified,
            Glimpse::NotYet => Became::NotYet,
            Glimpse::Waiting => Became::Waiting,
            Glimpse::Gone => Became::Gone,
            Glimpse::New => Became::HandedOver,
        }
    }
}

/// What was dropped for want of room, walks each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turned {
    /// Dropped because the queue was full.
    pub queue: u64,
    /// Dropped because they had more hits, findings or connections than a record has room for.
    pub too_long: u64,
    /// Dropped because too many were nested.
    pub too_deep: u64,
    /// On their way when they had to make room for another, or when their packet's name was used again: vanished, most likely.
    pub vanished: u64,
}

/// What one datapath counts: written by it alone, read by anyone.
#[derive(Debug)]
struct Counts {
    became: [AtomicU64; Became::COUNT],
    vanished: AtomicU64,
}

impl Counts {
    fn new() -> Counts {
        Counts { became: [0; Became::COUNT].map(AtomicU64::new), vanished: AtomicU64::new(0) }
    }

    /// There is one writer, so that a load and a store are enough.
    #[inline]
    fn count(counter: &AtomicU64) {
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

/// One processor's datapath.
#[derive(Debug)]
pub struct Datapath {
    exit: Exit,
    nested: Nested,
    flight: Flight,
}

impl Datapath {
    fn new(inbox: &Arc<Inbox>, queue: Arc<Queue>, limits: &Limits) -> Datapath {
        let exit = Exit {
            glance: Arc::clone(inbox.glance()),
            inbox: Arc::clone(inbox),
            queue,
            writer: Writer::new(),
            recent: [Recent::default(); RECENT],
        };
        Datapath { exit, nested: Nested::new(limits.nested), flight: Flight::new(limits.in_flight) }
    }

    /// A packet came in, with this key before any action: its walk, to be told of and then [finished](Datapath::finish), or dropped.
    #[inline]
    pub fn record<'k>(&self, port: Port, key: &'k Key) -> Record<'k> {
        Record::new(port, key, self.exit.inbox.epoch())
    }

    /// A walk came to its end, with its last hit.
    #[inline]
    pub fn finish(&mut self, record: &Record<'_>) -> Became {
        self.exit.leave(record.port, record.key, &record.steps)
    }

    /// A packet came in, with this key before any action. Inside another walk the new one is nested.
    #[inline]
    pub fn begin(&mut self, port: Port, key: &Key) {
        self.nested.begin(port, key, self.exit.inbox.epoch());
    }

    /// The packet of the innermost walk matched this filter.
    #[inline]
    pub fn hit(&mut self, filter: Cookie) {
        if let Some(walk) = self.nested.innermost() {
            walk.steps.hit(filter);
        }
    }

    /// The next `ct` action of the last filter hit in the innermost walk found this connection ([`Record::found`]).
    #[inline]
    pub fn found(&mut self, connection: Option<ConnectionHandle>, direction: Direction) {
        if let Some(walk) = self.nested.innermost() {
            walk.steps.found(connection, direction);
        }
    }

    /// The innermost walk came to its end.
    #[inline]
    pub fn end(&mut self) -> Became {
        match self.nested.leave() {
            Ok(walk) => self.exit.leave(walk.port, &walk.key, &walk.steps),
            Err(became) => self.exit.counted(became),
        }
    }

    /// The innermost walk is not to be looked at.
    pub fn abandon(&mut self) {
        if let Err(became) = self.nested.leave() {
            self.exit.counted(became);
        }
    }

    /// A packet came in, with this key before any action. A walk of the same name that did not end is given up.
    #[inline]
    pub fn begin_of(&mut self, packet: PacketId, port: Port, key: &Key) {
        if self.flight.begin(packet, port, key, self.exit.inbox.epoch()) {
            Counts::count(&self.exit.queue.counts.vanished);
        }
    }

    /// The packet matched this filter.
    #[inline]
    pub fn hit_of(&mut self, packet: PacketId, filter: Cookie) {
        if let Some(walk) = self.flight.get(packet) {
            walk.steps.hit(filter);
        }
    }

    /// The next `ct` action of the last filter that the packet hit found this connection ([`Record::found`]).
    #[inline]
    pub fn found_of(&mut self, packet: PacketId, connection: Option<ConnectionHandle>, direction: Direction) {
        if let Some(walk) = self.flight.get(packet) {
            walk.steps.found(connection, direction);
        }
    }

    /// The packet's walk came to its end.
    #[inline]
    pub fn end_of(&mut self, packet: PacketId) -> Became {
        match self.flight.leave(packet) {
            Some(walk) => self.exit.leave(walk.port, &walk.key, &walk.steps),
            None => self.exit.counted(Became::Unknown),
        }
    }

    /// The packet's walk is not to be looked at.
    pub fn abandon_of(&mut self, packet: PacketId) {
        if self.flight.leave(packet).is_none() {
            self.exit.counted(Became::Unknown);
        }
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        self.exit.queue.writer_is_gone();
    }
}

/// Where walks leave: what is known of them, and the way to the workers.
#[derive(Debug)]
struct Exit {
    glance: Arc<Glance>,
    inbox: Arc<Inbox>,
    queue: Arc<Queue>,
    writer: Writer,
    recent: [Recent; RECENT],
}

/// A walk without a connection that was handed over: which way, and where it stands in the ring.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    way: u64,
    at: usize,
}

/// How many walks without a connection are remembered to have been handed over.
const RECENT: usize = 64;

impl Exit {
    #[inline]
    fn counted(&mut self, became: Became) -> Became {
        Counts::count(&self.queue.counts.became[became as usize]);
        became
    }

    /// A walk is over. Not part of its callers: with registers of its own it takes half the time.
    #[inline(never)]
    fn leave(&mut self, port: Port, key: &Key, steps: &Steps) -> Became {
        let became = if steps.too_long() {
            Became::TooLong
        } else if steps.filters().is_empty() {
            Became::NoHits
        } else {
            match self.glance.look(port, key, steps) {
                Glimpse::New => self.hand_over(port, key, steps),
                known => known.into(),
            }
        };
        self.counted(became)
    }

    // Apart from the way of those that are recognised, which is to be short.
    #[inline(never)]
    fn hand_over(&mut self, port: Port, key: &Key, steps: &Steps) -> Became {
        let ring = &self.queue.ring;
        let first = steps.first();
        let (way, recent) = if first.is_some() {
            (0, 0)
        } else {
            // No connection is there to be marked. While the last one of the same number is in the ring, one is enough.
            let way = way_of(port, steps);
            let recent = way as usize % RECENT;
            let Recent { way: last, at } = self.recent[recent];
            if last == way && at.wrapping_sub(ring.head()) as isize >= 0 {
                return Became::Queued;
            }
            (way, recent)
        };
        let Some(at) = packed::write(&mut self.writer, ring, port, key, steps) else {
            if let (Some(connection), Some(direction)) = (first, steps.first_direction()) {
                self.glance.judged(connection, direction);
            }
            return Became::Full;
        };
        if first.is_none() {
            self.recent[recent] = Recent { way, at };
        }
        self.inbox.bell().told();
        Became::HandedOver
    }
}
