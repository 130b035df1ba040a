//! Worker threads of the library's own, for callers that have none: they drain, and sleep when there is nothing to do.

use super::Merger;
use crate::{
    hardware::Hardware,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        thread::{self, JoinHandle, Thread},
    },
};
use std::time::Duration;

/// How long a worker sleeps at most: what the hardware failed to do is tried again in time.
const NAP: Duration = Duration::from_millis(1);

/// The same where nothing is to be tried again.
const SLEEP: Duration = Duration::from_millis(100);

/// Wakes a worker.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    threads: OnceLock<Box<[Thread]>>,
    next: AtomicUsize,
}

impl Alarm {
    /// Wakes one, if there are any. Does not block.
    pub fn ring(&self) {
        let Some(threads) = self.threads.get() else { return };
        // All sleep, or it would not be rung: any will do.
        if let Some(thread) = threads.get(self.next.fetch_add(1, Relaxed) % threads.len().max(1)) {
            thread.unpark();
        }
    }
}

/// Threads that work for a merger until they are dropped.
#[derive(Debug)]
pub struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts so many threads. `clock` tells the time, in nanoseconds, as all other calls are told it. A merger may have workers once.
    pub fn start<H: Hardware + 'static>(
        merger: &Arc<Merger<H>>,
        threads: usize,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Workers {
        let stop = Arc::new(AtomicBool::new(false));
        let clock = Arc::new(clock);
        let threads: Vec<_> = (0..threads)
            .map(|_| {
                let (merger, stop, clock) = (Arc::clone(merger), Arc::clone(&stop), Arc::clone(&clock));
                thread::spawn(move || merger.work_until(&stop, &*clock))
            })
            .collect();
        let _ = merger.alarm.threads.set(threads.iter().map(|thread| thread.thread().clone()).collect());
        Workers { stop, threads }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // It panicked: its message is out already.
            let _ = thread.join();
        }
    }
}

impl<H: Hardware> Merger<H> {
    fn work_until(&self, stop: &AtomicBool, clock: &dyn Fn() -> u64) {
        self.inbox.bell().up();
        while !stop.load(Relaxed) {
            // What it tells is counted, and can be asked for.
            let _ = self.drain(clock());
            if self.has_work() || !self.inbox.doze() {
                continue;
            }
            // What came before the bell was down is there to be seen.
            if self.has_work() {
                self.inbox.bell().up();
                continue;
            }
            let waits = self.retries.lock().len() > 0 || !self.stuck.lock().is_empty();
            thread::park_timeout(if waits { NAP } else { SLEEP });
            self.inbox.bell().up();
        }
        self.inbox.bell().down();
    }

    fn has_work(&self) -> bool {
        !self.queue.lock().is_empty() || !self.inbox.is_empty()
    }
}
