//! The rows that need a second thread, or that one slow call decides: two workers, the longest stall, adds during a cascade, and how long
//! the hardware waits for a walk that has ended.

use crate::{
    harness::{CHUNK, Running, Sizes, median, quantile},
    report::{Report, Row, count},
};
use flowmerge::flower::Cookie;
use flowmerge_bench::{clock::timed, world::World};
use nix::sys::resource::{UsageWho, getrusage};
use std::{
    hint::spin_loop,
    sync::{
        Barrier, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// All of them.
pub fn all(sizes: &Sizes, report: &mut Report) {
    let mut running = Running::with(World::five(false), sizes.many);
    two(sizes, &mut running, report);
    latency(sizes, &mut running, report);
    drop(running);
    during_cascade(sizes, report);
    stall(sizes, report);
}

/// Two threads that record, hand over and merge, each its own connections on one shared path, against one: in wall time, in turn.
fn two(sizes: &Sizes, running: &mut Running, report: &mut Report) {
    let (rounds, each) = if sizes.short { (3, 2 * CHUNK) } else { (15, 20 * CHUNK) };
    let mut round = |threads: u64| {
        let fresh = running.connect(threads * each);
        let packets: Vec<_> = fresh.clone().map(|n| running.packet(n)).collect();
        let start = Barrier::new(threads as usize + 1);
        let took = thread::scope(|scope| {
            for part in packets.chunks(each as usize) {
                let (start, subject) = (&start, &running.subject);
                scope.spawn(move || {
                    let mut datapath = subject.datapath();
                    start.wait();
                    for batch in part.chunks(256) {
                        batch.iter().for_each(|packet| datapath.finish(packet));
                        subject.work();
                    }
                });
            }
            start.wait();
            Instant::now()
        })
        .elapsed();
        running.settle(fresh);
        (threads * each) as f64 / took.as_secs_f64()
    };
    let speed_up = median((0..rounds).map(|_| round(1).recip() * round(2)));
    report.push(11, Row::factor("two threads, of one".into(), speed_up, None).at_least(1.7));
}

/// From the last hit to the hardware call, a worker polling.
fn latency(sizes: &Sizes, running: &mut Running, report: &mut Report) {
    let walks = if sizes.short { 500 } else { 20_000 };
    let fresh = running.connect(walks);
    let packets: Vec<_> = fresh.clone().map(|n| running.packet(n)).collect();
    let (subject, done) = (&running.subject, AtomicBool::new(false));
    subject.board.watch();
    let waits: Vec<_> = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                subject.work();
                spin_loop();
            }
        });
        let mut datapath = subject.datapath();
        let wait = |packet| {
            let before = subject.board.came();
            let hit = subject.board.now();
            datapath.finish(packet);
            while subject.board.came() == before {
                // The worker died: the scope tells of what.
                if subject.board.now() - hit > 1_000_000_000 {
                    return None;
                }
                spin_loop();
            }
            Some((subject.board.came() - hit) as f64)
        };
        let waits = packets.iter().map_while(wait).collect();
        done.store(true, Ordering::Relaxed);
        waits
    });
    assert_eq!(waits.len(), packets.len(), "the hardware was called for each");
    running.settle(fresh);
    let p50 = quantile(waits.iter().copied(), 0.5);
    report.push(14, Row::time("last hit to hardware call, p50, polling worker".into(), p50, Some(5000.0)));
    let p99 = quantile(waits.into_iter(), 0.99);
    report.push(14, Row::time("last hit to hardware call, p99".into(), p99, None));
}

/// Adds that are due at regular times, four times as far apart as one takes, with nothing else going on and while another thread destroys a
/// filter of which very much is made. Each is late by how long after it was due it is done: if one has to wait, so do those behind it.
fn during_cascade(sizes: &Sizes, report: &mut Report) {
    // Even connections go through the first filter that is destroyed, odd ones through the other.
    let world = World::pairs(2);
    let goes = world.filters().into_iter().find(|(cookie, _)| *cookie == Cookie(1)).expect("it is of this world");
    let mut running = Running::with(world, 2 * sizes.many);
    let (mut idle, mut busy, mut every) = (Vec::new(), Vec::new(), Duration::ZERO);
    for round in 0..if sizes.short { 3 } else { 8 } {
        for cascade in [false, true] {
            let fresh = running.connect(if sizes.short { 4_000 } else { 80_000 });
            let packets: Vec<_> = fresh.clone().filter(|n| n % 2 == 1).map(|n| running.packet(n)).collect();
            let (subject, ended, start) = (&running.subject, OnceLock::new(), Barrier::new(2));
            let late: Vec<f64> = thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    if cascade {
                        subject.destroy(goes.0);
                        ended.set(Instant::now()).expect("it ends once");
                    }
                });
                let mut datapath = subject.datapath();
                start.wait();
                let (mut due, mut taken, mut late) = (Instant::now(), taken_away(), Vec::new());
                for packet in &packets {
                    if ended.get().is_some_and(|ended| *ended < due) {
                        break;
                    }
                    while Instant::now() < due {
                        spin_loop();
                    }
                    datapath.finish(packet);
                    subject.work();
                    let now = Instant::now();
                    if now - due > LATE && taken_away() != taken {
                        // Another process had the processor: that is not the runtime's doing.
                        taken = taken_away();
                        due = now;
                    } else {
                        late.push((now - due).as_nanos() as f64);
                        due = if every.is_zero() { now } else { due + every };
                    }
                }
                late
            });
            match (round, cascade) {
                (0, false) => every = Duration::from_nanos(4 * median(late.into_iter()) as u64),
                (0, true) => {}
                (_, false) => idle.extend(late),
                (_, true) => busy.extend(late),
            }
            // What went comes back, and what was not merged is.
            if cascade {
                subject.filter(goes.0, goes.1.clone());
            }
            running.merge(fresh.clone());
            running.merge_again();
            running.settle(fresh);
        }
    }
    let [idle, busy] = [idle, busy].map(|all| quantile(all.into_iter(), 0.99));
    let what =
        format!("p99 of adds while a cascade of {} runs, of the idle one ({:.1} us)", count(sizes.many), idle / 1e3);
    report.push(13, Row::factor(what, busy / idle, None).at_most(2.0));
}

/// So late an add is if the processor was taken away.
const LATE: Duration = Duration::from_micros(20);

/// How often the processor was taken from this thread, which had not asked for it.
fn taken_away() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.involuntary_context_switches())
}

/// The longest single call, of this thread's processor time, while the tables grow to their full size and connections come and go: the
/// least of three runs, since what the runtime does happens in each, and what the machine does need not.
fn stall(sizes: &Sizes, report: &mut Report) {
    for (own_paths, of) in [(false, "one path"), (true, "paths of their own")] {
        let runs = [(); 3].map(|()| longest(World::five(own_paths), sizes.most / CHUNK));
        let (took, what) = runs.into_iter().min().unwrap_or_default();
        let what = format!("longest stall up to {} on {of} and under churn there ({what})", count(sizes.most));
        report.push(12, Row::time(what, took.as_nanos() as f64, Some(1e6)));
    }
}

fn longest(world: World, rounds: u64) -> (Duration, &'static str) {
    let mut running = Running::new(world);
    let mut datapath = running.subject.datapath();
    let mut longest = (Duration::ZERO, "");
    let mut call = |what, took: Duration| longest = longest.max((took, what));
    for round in 0..rounds + rounds / 4 {
        let fresh = running.expect(CHUNK);
        for n in fresh.clone() {
            for (id, connection) in running.world.connections(n) {
                call("a connection comes", timed(|| running.subject.connect(id, connection)));
            }
            let packet = running.packet(n);
            call("a walk ends", timed(|| datapath.finish(&packet)));
            call("a worker's turn with one walk", timed(|| running.subject.work()));
        }
        if round < rounds {
            running.stay(fresh);
            continue;
        }
        for old in running.leave(fresh) {
            for (id, _) in running.world.connections(old) {
                call("a connection goes", timed(|| running.subject.disconnect(id)));
            }
        }
    }
    assert_eq!(running.subject.merged() as u64, rounds * CHUNK);
    longest
}
