//! The rows that processor time answers: what the datapath pays for a hit, the worker for a merged filter, TC for a filter that goes.

use crate::{
    harness::{Before, CHUNK, Measured, Running, Sizes, large, small},
    report::{Report, Row, count},
};
use criterion::Criterion;
use flowmerge::flower::Cookie;
use flowmerge_bench::{
    clock::{ThreadCpu, timed},
    subject::{PACKETS, QUEUE, Ready},
    world::World,
};

/// What the C port of the shipped driver's algorithm took to add a connection at 100,000, where the goals were set.
pub const REFERENCE: f64 = 1296.0;

/// Connections whose packets come again and again: what is looked at for them stays in the nearest cache, or does not. Powers of two.
const BUSY: [usize; 2] = [256, 16_384];

/// All of them.
pub fn all(criterion: &mut Criterion<ThreadCpu>, sizes: &Sizes, report: &mut Report) {
    let mut at = Vec::new();
    for (size, goals) in
        [(sizes.few, [None; 2]), (sizes.many, [Some(120.0), Some(60.0)]), (sizes.most, [Some(250.0), Some(120.0)])]
    {
        let mut running = Running::with(World::five(false), size);
        let mut before = Before::with(World::pairs(1), size);
        let known = adds(criterion, &format!("known path, {size} merged"), &mut running, &mut before);
        at.push((known.median(), known.baseline()));
        if size == sizes.many {
            report.scale = known.baseline().map_or(1.0, |ns| ns / REFERENCE);
        }
        report.push(
            5,
            Row::nanoseconds(format!("merge on a known path, at {}", count(size)), &known, goals[0]).times(10.0),
        );
        if size == sizes.few {
            hit(criterion, &mut running, report);
        }
        if size == sizes.many {
            connections(criterion, &mut running, size, report);
            hand_over(criterion, &mut running, report);
        } else {
            already(criterion, &mut running, size, report);
        }
        if size == sizes.most {
            counters(sizes, &running, &mut before, size, report);
        }
        if goals[1].is_some() {
            cascade(sizes, &running, &mut before, size, goals[1], report);
        }
    }
    let [(few, eager_few), _, (most, eager_most)] = at[..] else { return };
    let eager = eager_few.zip(eager_most).map(|(few, most)| most / few);
    let what = format!("growth of that from {} to {}", count(sizes.few), count(sizes.most));
    report.push(7, Row::factor(what, most / few, eager).at_most(3.0));
    for (size, goal) in [(sizes.many, 250.0), (sizes.most, 450.0)] {
        let mut running = Running::with(World::five(true), size);
        let mut before = Before::with(World::pairs(1), size);
        let new = adds(criterion, &format!("new path, {size} merged"), &mut running, &mut before);
        report
            .push(4, Row::nanoseconds(format!("merge on a new path, at {}", count(size)), &new, Some(goal)).times(5.0));
    }
    filters(criterion, sizes, report);
}

fn adds(criterion: &mut Criterion<ThreadCpu>, name: &str, running: &mut Running, before: &mut Before) -> Measured {
    small(criterion, name, |n| (running.add(n), Some(before.add(n))))
}

/// A hit recorded: the difference of long walks and short ones, since what begins and ends a walk stands in both.
fn hit(criterion: &mut Criterion<ThreadCpu>, running: &mut Running, report: &mut Report) {
    let busy = running.some(BUSY[0]);
    let longer = |n: u64, hits| running.subject.ready(running.world.packet(n).longer(hits));
    let [long, short] = [13, 3].map(|hits| busy.iter().map(|&n| longer(n, hits)).collect::<Vec<_>>());
    let mut datapath = running.subject.datapath();
    let mut abandon = |packets: &[Ready], n: u64| {
        timed(|| (0..n as usize).for_each(|i| datapath.abandon(&packets[i & (BUSY[0] - 1)])))
    };
    let hits = small(criterion, "record a hit", |n| (abandon(&long, n).saturating_sub(abandon(&short, n)) / 10, None));
    report.push(1, Row::nanoseconds("record a hit".into(), &hits, Some(1.0)));
}

/// Packets that are merged already: recorded, ended and recognised.
fn already(criterion: &mut Criterion<ThreadCpu>, running: &mut Running, size: u64, report: &mut Report) {
    for (busy, goal) in BUSY.into_iter().zip([Some(15.0), None]) {
        let packets: Vec<_> = running.some(busy).into_iter().map(|n| running.packet(n)).collect();
        let mut at = 0;
        let mut datapath = running.subject.datapath();
        let finished = small(criterion, &format!("already merged, {busy} busy of {size}"), |n| {
            let took = timed(|| {
                (at..at + n as usize).for_each(|i| datapath.finish(&packets[i & (busy - 1)]));
                running.subject.work();
            });
            at += n as usize;
            (took, None)
        });
        let what = format!("a packet of 5 hits already merged, {} busy of {}", count(busy as u64), count(size));
        report.push(2, Row::nanoseconds(what, &finished, goal));
    }
}

/// A new walk handed over, less what recording it takes.
fn hand_over(criterion: &mut Criterion<ThreadCpu>, running: &mut Running, report: &mut Report) {
    // One datapath for all, as a driver has it. What goes into its queue first goes into memory that nobody used yet: once round.
    let mut datapath = running.subject.datapath();
    let mut hand_over = |running: &mut Running, n: u64| {
        let fresh = running.connect(n);
        let packets: Vec<_> = fresh.clone().map(|n| running.packet(n)).collect();
        let recorded = timed(|| packets.iter().for_each(|packet| datapath.abandon(packet)));
        let finished = timed(|| packets.iter().for_each(|packet| datapath.finish(packet)));
        running.subject.work();
        running.settle(fresh);
        finished.saturating_sub(recorded)
    };
    // A walk is 16 words or so, its room in the queue 32.
    for _ in 0..3 * QUEUE as u64 / CHUNK {
        hand_over(running, CHUNK);
    }
    let measured = small(criterion, "hand over", |n| (hand_over(running, n), None));
    report.push(3, Row::nanoseconds("hand a new walk to the workqueue".into(), &measured, Some(20.0)));
}

/// What conntrack tells of a new connection. Not part of a merge: it is told when it becomes established. The baseline's add holds the same.
fn connections(criterion: &mut Criterion<ThreadCpu>, running: &mut Running, size: u64, report: &mut Report) {
    let measured = small(criterion, "a connection comes", |n| {
        let fresh = running.expect(n);
        let all: Vec<_> = fresh.clone().flat_map(|n| running.world.connections(n)).collect();
        let took = timed(|| all.into_iter().for_each(|(id, connection)| running.subject.connect(id, connection)));
        running.disconnect(fresh);
        (took, None)
    });
    report.push(5, Row::nanoseconds(format!("a connection comes, at {}", count(size)), &measured, None));
}

/// Everything is made of one filter, and it goes.
fn cascade(sizes: &Sizes, running: &Running, before: &mut Before, size: u64, goal: Option<f64>, report: &mut Report) {
    let rounds = if sizes.short || size == sizes.most { 3 } else { 7 };
    let removed = large(rounds, || {
        let (took, eager) = cascade_of(running, before, running.world.common(), before.world.common());
        assert_eq!((running.subject.merged(), before.eager.merged()), (0, 0));
        put_back(running, before);
        assert_eq!((running.subject.merged() as u64, before.eager.merged() as u64), (size, size));
        (size, took, Some(eager))
    });
    let what = format!("cascade, per merged filter, {} of {}", count(size), count(size));
    report.push(8, Row::nanoseconds(what, &removed, goal));
}

fn cascade_of(
    running: &Running,
    before: &mut Before,
    cookie: Cookie,
    eager: Cookie,
) -> (std::time::Duration, std::time::Duration) {
    (timed(|| running.subject.destroy(cookie)), timed(|| before.eager.destroy(eager)))
}

/// The filters that went come back, and all that was made of them.
fn put_back(running: &Running, before: &mut Before) {
    for (cookie, filter) in running.world.filters() {
        if running.subject.packets(cookie).is_none() {
            running.subject.filter(cookie, filter);
        }
    }
    running.merge_again();
    for (cookie, filter) in before.world.filters() {
        if before.eager.counters(cookie).is_none() {
            before.eager.filter(cookie, filter);
        }
    }
}

/// Every entry has counted, and all of it is handed up.
fn counters(sizes: &Sizes, running: &Running, before: &mut Before, size: u64, report: &mut Report) {
    let packets = |before: &Before| {
        let eager = before.eager.counters(before.world.common()).map(|c| c.packets);
        (running.subject.packets(running.world.common()), eager)
    };
    running.subject.read_all();
    before.eager.read_all();
    let read = large(if sizes.short { 3 } else { 9 }, || {
        let (ours, theirs) = packets(before);
        running.subject.board.pass();
        before.pass();
        let took = (size, timed(|| running.subject.read_all()), Some(timed(|| before.eager.read_all())));
        let up = |n: Option<u64>| n.map(|n| n + size * PACKETS);
        assert_eq!(packets(before), (up(ours), up(theirs)), "all that was counted came up");
        took
    });
    let what = format!("hand counters up, per merged filter, at {}", count(size));
    report.push(9, Row::nanoseconds(what, &read, Some(5.0)));
}

/// What more filters change, connections spread over all pairs of them; and a cascade of few among many.
fn filters(criterion: &mut Criterion<ThreadCpu>, sizes: &Sizes, report: &mut Report) {
    let mut at = Vec::new();
    for each in [1, 8, 32, 100] {
        let world = World::pairs(each);
        // At least one on each path, so that all are known.
        let size = sizes.many.max(u64::from(each * each));
        let mut running = Running::with(world, size);
        // So many pairs cost so much each time that the baseline gets no further in a reasonable time.
        let (eager_size, every) = match each {
            100 => (sizes.few / 10, 100),
            32 => (sizes.few, 20),
            _ => (size, 1),
        };
        let mut before = Before::with(world, eager_size);
        let name = format!("known path, {each}x{each} filters, {size} merged");
        let measured = small(criterion, &name, |n| {
            let part = n.div_ceil(every);
            let eager = before.add(part);
            (running.add(n), Some(eager.mul_f64(n as f64 / part as f64)))
        });
        at.push((measured.median(), measured.baseline()));
        let what = format!("merge on a known path, {each}x{each} filters, at {}", count(size));
        report.push(6, Row::nanoseconds(what, &measured, None));
        if each == 100 {
            let part = size / u64::from(each);
            let removed = large(3, || {
                let took = timed(|| running.subject.destroy(Cookie(1)));
                // About as many, since connections came and went at random.
                let removed = size - running.subject.merged() as u64;
                put_back(&running, &mut before);
                (removed, took, None)
            });
            let what = format!("cascade, per merged filter, {} of {}", count(part), count(size));
            report.push(8, Row::nanoseconds(what, &removed, Some(60.0)));
        }
    }
    let (Some(first), Some(last)) = (at.first(), at.last()) else { return };
    let eager = first.1.zip(last.1).map(|(one, all)| all / one);
    report.push(6, Row::factor("growth of that from 1x1 to 100x100".into(), last.0 / first.0, eager).at_most(1.5));
}
