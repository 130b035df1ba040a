//! The workers' side: the queues of all datapaths, and batches out of them.
//!
//! A batch is taken by copying words, so that no lock is held while its walks are judged, and the rings are free again at once. The mark
//! that a connection's walk is queued goes when that walk *was* judged: as the next one is asked for, or with the batch; so also
//! when a worker panics over it.

use super::{Became, Bell, Counts, Datapath, Turned, packed, ring::Ring};
use crate::{
    glance::Glance,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    walk::Recorded,
};

/// What each datapath has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Walks handed over and not taken out, of usual length: 32 words each.
    pub queue: usize,
    /// Walks that lie inside each other.
    pub nested: usize,
    /// Walks by their packets' names, at once.
    pub in_flight: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { queue: 1024, nested: 8, in_flight: 64 }
    }
}

const WORDS_OF_A_WALK: usize = 32;

/// What a datapath and the workers share.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) ring: Ring,
    pub(super) counts: Counts,
    gone: AtomicBool,
}

impl Queue {
    /// Nothing more will be written.
    pub(super) fn writer_is_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }
}

/// What became of walks, and how many vanished.
type Past = ([u64; Became::COUNT], u64);

/// Where all datapaths hand over what is new.
#[derive(Debug)]
pub struct Inbox {
    glance: Arc<Glance>,
    bell: Bell,
    limits: Limits,
    queues: RwLock<Vec<Arc<Queue>>>,
    /// How many filters have been entered.
    epoch: AtomicU64,
    /// Which queue comes first in the next batch.
    first: AtomicUsize,
    /// What was counted by datapaths that are no more.
    past: Mutex<Past>,
}

impl Inbox {
    /// One without datapaths.
    pub fn new(glance: Arc<Glance>, bell: Bell, limits: Limits) -> Inbox {
        Inbox {
            glance,
            bell,
            limits,
            queues: RwLock::new(Vec::new()),
            epoch: AtomicU64::new(0),
            first: AtomicUsize::new(0),
            past: Mutex::new(([0; Became::COUNT], 0)),
        }
    }

    /// What the datapaths see.
    pub fn glance(&self) -> &Arc<Glance> {
        &self.glance
    }

    /// How many filters have been entered.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// One more filter is entered, and gets its number.
    pub fn next_epoch(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What wakes the workers.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// A datapath for one more processor.
    pub fn datapath(self: &Arc<Inbox>) -> Datapath {
        let ring = Ring::new(self.limits.queue * WORDS_OF_A_WALK, packed::LONGEST);
        let queue = Arc::new(Queue { ring, counts: Counts::new(), gone: AtomicBool::new(false) });
        self.queues.write().push(Arc::clone(&queue));
        Datapath::new(self, queue, &self.limits)
    }

    /// An empty batch, to be filled over and over.
    pub fn batch(&self) -> Batch {
        Batch { glance: Arc::clone(&self.glance), words: Vec::new(), at: 0, walk: Recorded::default(), open: false }
    }

    /// Fills the batch with up to so many walks, oldest first of each datapath. What is left in it counts as judged. Gives how
    /// many it took: 0 also while other workers are at all queues that are not empty.
    pub fn take(&self, batch: &mut Batch, walks: usize) -> usize {
        batch.clear();
        let (mut taken, mut gone) = (0, false);
        let queues = self.queues.read();
        let first = self.first.fetch_add(1, Ordering::Relaxed);
        for n in 0..queues.len() {
            let queue = &queues[first.wrapping_add(n) % queues.len()];
            // Asked before it is read: nothing is written afterwards.
            let last = queue.gone.load(Ordering::Acquire);
            taken += queue.ring.read(&mut batch.words, walks - taken, packed::length).unwrap_or(0);
            gone |= last && queue.ring.is_empty();
        }
        drop(queues);
        if gone {
            self.bury();
        }
        taken
    }

    /// Forgets the queues of datapaths that are no more.
    fn bury(&self) {
        let mut past = self.past.lock();
        self.queues.write().retain(|queue| {
            let stays = !queue.gone.load(Ordering::Acquire) || !queue.ring.is_empty();
            if !stays {
                for (sum, count) in past.0.iter_mut().zip(&queue.counts.became) {
                    *sum += count.load(Ordering::Relaxed);
                }
                past.1 += queue.counts.vanished.load(Ordering::Relaxed);
            }
            stays
        });
    }

    /// Whether nothing is handed over that was not taken.
    pub fn is_empty(&self) -> bool {
        self.queues.read().iter().all(|queue| queue.ring.is_empty())
    }

    /// A worker that is awake wants to sleep. If this gives true it may: the bell rings when something is handed over. When it wakes, for
    /// whatever reason, it says so ([`Bell::up`]). If false there is work, and it is awake still.
    pub fn doze(&self) -> bool {
        self.bell.down();
        let sleeps = self.is_empty();
        if !sleeps {
            self.bell.up();
        }
        sleeps
    }

    /// How many walks came to this end.
    pub fn count(&self, became: Became) -> u64 {
        self.sum(|past| past.0[became as usize], |counts| &counts.became[became as usize])
    }

    /// What was dropped for want of room.
    pub fn turned(&self) -> Turned {
        Turned {
            queue: self.count(Became::Full),
            too_long: self.count(Became::TooLong),
            too_deep: self.count(Became::TooDeep),
            vanished: self.sum(|past| past.1, |counts| &counts.vanished),
        }
    }

    fn sum(&self, past: impl Fn(&Past) -> u64, of: impl Fn(&Counts) -> &AtomicU64) -> u64 {
        // Held, so that no queue is buried in between.
        let before = self.past.lock();
        let queues = self.queues.read();
        past(&before) + queues.iter().map(|queue| of(&queue.counts).load(Ordering::Relaxed)).sum::<u64>()
    }
}

/// Walks that were taken out together.
#[derive(Debug)]
pub struct Batch {
    glance: Arc<Glance>,
    words: Vec<u64>,
    at: usize,
    walk: Recorded,
    /// Whether `walk` was given out and not settled.
    open: bool,
}

impl Batch {
    /// The next walk. The one before was judged: what was decided of it is known to the [`Glance`] by now, if it is to be.
    pub fn next_walk(&mut self) -> Option<&Recorded> {
        self.settle();
        let words = &self.words[self.at..];
        let words = words.get(..packed::length(*words.first()?))?;
        packed::read(words, &mut self.walk)?;
        self.at += words.len();
        self.open = true;
        Some(&self.walk)
    }

    fn settle(&mut self) {
        let steps = &self.walk.steps;
        if std::mem::take(&mut self.open)
            && let (Some(connection), Some(direction)) = (steps.first(), steps.first_direction())
        {
            self.glance.judged(connection, direction);
        }
    }

    fn clear(&mut self) {
        while self.next_walk().is_some() {}
        self.words.clear();
        self.at = 0;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.clear();
    }
}
