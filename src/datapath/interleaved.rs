//! Datapaths against workers: every walk handed over is taken out once, no mark stays behind, nobody sleeps on.

use super::*;
use crate::{
    glance,
    sync::{Condvar, Mutex, check, thread},
};

const KEY: Key = Key::ZERO;

fn inbox(bell: Bell) -> Arc<Inbox> {
    let limits = glance::Limits { shards: 1, connections: 2, verdicts: 1, ways: 1 };
    let glance = Arc::new(Glance::new(limits));
    Arc::new(Inbox::new(glance, bell, Limits { queue: 1, nested: 1, in_flight: 1 }))
}

fn finish(datapath: &mut Datapath, filter: u64, connection: Option<ConnectionHandle>) -> Became {
    let mut record = Record::new(Port(1), &KEY);
    record.hit(Cookie(filter));
    record.found(connection, Direction::Reply);
    datapath.finish(&record)
}

/// Takes out all there is.
fn drain(inbox: &Inbox) -> usize {
    let mut batch = inbox.batch();
    let taken = inbox.take(&mut batch, 9);
    std::iter::from_fn(|| batch.next_walk().map(|_| ())).count().min(taken)
}

/// Two datapaths see packets of one connection while a worker takes walks out. When all is taken out, the next packet is new again.
#[test]
fn no_mark_is_left_behind() {
    check(|| {
        let inbox = inbox(Bell::silent());
        let connection = inbox.glance().open(0, 0).expect("room");
        inbox.glance().qualify(connection, true);
        let mut one = inbox.datapath();
        let mut other = inbox.datapath();
        let there = thread::spawn(move || finish(&mut other, 1, Some(connection)));
        let here = finish(&mut one, 1, Some(connection));
        let mut taken = drain(&inbox);
        let both = [here, there.join().expect("ends")];
        taken += drain(&inbox);
        let over = both.iter().filter(|&&b| b == Became::HandedOver).count();
        assert_eq!((over, over + both.iter().filter(|&&b| b == Became::Queued).count()), (taken, 2));
        assert_eq!(finish(&mut one, 1, Some(connection)), Became::HandedOver);
    });
}

/// What lets a worker sleep, and wakes it.
struct Bed {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bed {
    fn sleep(&self) {
        let mut rung = self.rung.lock();
        while !std::mem::take(&mut *rung) {
            self.changed.wait(&mut rung);
        }
    }
}

fn bell() -> (Arc<Bed>, Bell) {
    let bed = Arc::new(Bed { rung: Mutex::new(false), changed: Condvar::new() });
    let rings = Arc::clone(&bed);
    let bell = Bell::new(move || {
        *rings.rung.lock() = true;
        rings.changed.notify_one();
    });
    (bed, bell)
}

/// A worker that sleeps whenever there is nothing gets all that is handed over: if a wake-up were missed, it would sleep on.
#[test]
fn no_wake_up_is_missed() {
    check(|| {
        let (bed, bell) = bell();
        let inbox = inbox(bell);
        let mut datapath = inbox.datapath();
        let worker = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || {
                inbox.bell().up();
                let mut left = 2;
                loop {
                    left -= drain(&inbox);
                    if left == 0 {
                        return;
                    }
                    if inbox.doze() {
                        bed.sleep();
                        inbox.bell().up();
                    }
                }
            })
        };
        for filter in 1..3 {
            assert_eq!(finish(&mut datapath, filter, None), Became::HandedOver);
        }
        worker.join().expect("ends");
    });
}

/// The same with a tail that is moved by a plain store: loom must find the wake-up that is missed, else the test above proves nothing.
#[test]
#[cfg(feature = "loom")]
#[should_panic(expected = "deadlock")]
fn a_plain_store_misses_a_wake_up() {
    use crate::sync::atomic::AtomicUsize;
    check(|| {
        let (bed, bell) = bell();
        let shared = Arc::new((bell, AtomicUsize::new(0)));
        let worker = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (bell, tail) = &*shared;
                bell.up();
                bell.down();
                if tail.load(Ordering::Acquire) == 0 {
                    bed.sleep();
                }
            })
        };
        shared.1.store(1, Ordering::Release);
        shared.0.told();
        worker.join().expect("ends");
    });
}
