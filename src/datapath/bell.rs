//! Wakes a worker when there is work and all of them sleep: once, and never when one is awake, since a wake-up costs thousands of
//! times what handing over a walk does.
//!
//! One word: how many workers are awake, and whether the bell was rung since none was.
//!
//! ```text
//!           up                      down
//!   0 ───────────► n awake ───────────────────► n - 1 awake … 0
//!   │                 ▲
//!   │ told: ring      │ up
//!   ▼                 │
//!  rung ──────────────┘       told in any other state: nothing
//! ```
//!
//! A worker that goes to sleep says so first (`down`) and only then looks whether there is nothing to do; a datapath hands over first
//! and only then looks whether all sleep. How neither can miss the other: `ring`.

use crate::sync::atomic::{AtomicUsize, Ordering};
use std::fmt;

const RUNG: usize = 1 << (usize::BITS - 1);

/// Whether workers are awake, and how to wake one.
pub struct Bell {
    state: AtomicUsize,
    ring: Box<dyn Fn() + Send + Sync>,
}

impl Bell {
    /// A bell that wakes one worker by calling this. No worker is awake yet. It is called by datapaths: it must not block.
    pub fn new(ring: impl Fn() + Send + Sync + 'static) -> Bell {
        Bell { state: AtomicUsize::new(0), ring: Box::new(ring) }
    }

    /// A bell that never rings: the caller looks for work by itself.
    pub fn silent() -> Bell {
        Bell { state: AtomicUsize::new(1), ring: Box::new(|| ()) }
    }

    /// A worker is awake.
    pub fn up(&self) {
        self.change(|state| (state & !RUNG) + 1);
    }

    /// A worker is not awake any more. It must look for work once more before it sleeps.
    pub fn down(&self) {
        self.change(|state| state & RUNG | (state & !RUNG).saturating_sub(1));
    }

    fn change(&self, to: impl Fn(usize) -> usize) {
        let mut state = self.state.load(Ordering::Relaxed);
        while let Err(other) = self.state.compare_exchange_weak(state, to(state), Ordering::AcqRel, Ordering::Relaxed) {
            state = other;
        }
    }

    /// There is work.
    #[inline]
    pub fn told(&self) {
        if self.state.load(Ordering::Relaxed) == 0
            && self.state.compare_exchange(0, RUNG, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            (self.ring)();
        }
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.load(Ordering::Relaxed);
        f.debug_struct("Bell").field("awake", &(state & !RUNG)).field("rung", &(state & RUNG != 0)).finish()
    }
}
