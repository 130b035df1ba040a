//! Threads that merge the walks of a replay, as a driver's workers would: all of them ask for work all the time, also while the
//! replay's own thread makes TC's and conntrack's calls. The replay waits for the outcome of each walk, since the next frame may be
//! one that hardware handles then.

use flowmerge::{
    hardware::Memory,
    merger::{Merger, Outcome, Ticket},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How long a worker that found nothing to do rests, unless it is woken.
const REST: Duration = Duration::from_micros(100);

/// How long the replay waits before it looks whether a worker died.
const PATIENCE: Duration = Duration::from_secs(1);

/// The threads.
pub struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    outcomes: Receiver<(Ticket, Outcome)>,
}

impl Workers {
    /// So many threads that work for this merger until they are dropped.
    pub fn new(merger: &Arc<Merger<Memory>>, threads: usize) -> Workers {
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, outcomes) = channel();
        let worker = |_| {
            let (merger, stop, tell) = (Arc::clone(merger), Arc::clone(&stop), tell.clone());
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    let walks = merger.drain(0).walks;
                    if walks.is_empty() {
                        thread::park_timeout(REST);
                    }
                    for walk in walks {
                        if tell.send(walk).is_err() {
                            return;
                        }
                    }
                }
            })
        };
        Workers { threads: (0..threads).map(worker).collect(), stop, outcomes }
    }

    /// What became of a walk that was handed in; `None` if the worker that took it died.
    pub fn outcome(&self, ticket: Ticket) -> Option<Outcome> {
        self.threads.iter().for_each(|thread| thread.thread().unpark());
        loop {
            match self.outcomes.recv_timeout(PATIENCE) {
                Ok((told, outcome)) if told == ticket => return Some(outcome),
                Ok(_) => {}
                // A thread that has ended may have had this very walk.
                Err(RecvTimeoutError::Timeout) if !self.threads.iter().any(JoinHandle::is_finished) => {}
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}
