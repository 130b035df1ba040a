//! How a row is measured: subject and baseline in turn, a thousand operations at a time, so that what else the machine does meets both.
//!
//! Criterion decides how often and tells what it finds; the table takes the medians of the same measurements, and the ratio is the median
//! of the ratios of neighbours.

use criterion::{Criterion, SamplingMode};
use flowmerge::{
    conntrack::{ConnectionId, Direction},
    flower::{Action, Counters, Match},
};
use flowmerge_bench::{
    clock::{ThreadCpu, timed},
    eager::{Eager, Sink},
    subject::{PACKETS, Ready, Subject},
    world::{Dice, World},
};
use std::{hint::black_box, time::Duration};

/// Operations that are measured in one go.
pub const CHUNK: u64 = 1000;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Whether this is the short run, which shows that everything works and nothing else.
    pub short: bool,
    /// 10,000 merged filters.
    pub few: u64,
    /// 100,000.
    pub many: u64,
    /// A million.
    pub most: u64,
    /// Criterion's samples and time for each row.
    samples: usize,
    time: Duration,
}

impl Sizes {
    /// Those of the goals, or a tenth and less.
    pub fn new(short: bool) -> Sizes {
        let (few, many, most) = if short { (1_000, 5_000, 20_000) } else { (10_000, 100_000, 1_000_000) };
        let (samples, time) = if short { (10, 5) } else { (20, 150) };
        Sizes { short, few, many, most, samples, time: Duration::from_millis(time) }
    }

    /// Criterion as all rows have it.
    pub fn criterion(&self) -> Criterion<ThreadCpu> {
        Criterion::default()
            .with_measurement(ThreadCpu)
            .sample_size(self.samples)
            .warm_up_time(self.time / 3)
            .measurement_time(self.time)
            .configure_from_args()
    }
}

/// What was measured, nanoseconds an operation.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Of each chunk.
    pub subject: Vec<f64>,
    /// Of each chunk, the neighbour of the subject's.
    pub baseline: Vec<f64>,
}

impl Measured {
    /// The subject's median.
    pub fn median(&self) -> f64 {
        median(self.subject.iter().copied())
    }

    /// The baseline's median, where there is one.
    pub fn baseline(&self) -> Option<f64> {
        (!self.baseline.is_empty()).then(|| median(self.baseline.iter().copied()))
    }

    /// How many times faster than the baseline.
    pub fn ratio(&self) -> Option<f64> {
        let ratios = self.subject.iter().zip(&self.baseline).map(|(s, b)| b / s);
        (!self.baseline.is_empty()).then(|| median(ratios))
    }

    fn add(&mut self, operations: u64, subject: Duration, baseline: Option<Duration>) {
        let each = |d: Duration| d.as_nanos() as f64 / operations as f64;
        self.subject.push(each(subject));
        self.baseline.extend(baseline.map(each));
    }
}

/// The median; 0 of nothing.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value that so large a part is not above.
pub fn quantile(values: impl Iterator<Item = f64>, part: f64) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * part) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Measures an operation of which a thousand are done at a time. `chunk` does as many as it is told and says what they took, and what
/// as many of the baseline's did.
pub fn small(
    criterion: &mut Criterion<ThreadCpu>,
    name: &str,
    mut chunk: impl FnMut(u64) -> (Duration, Option<Duration>),
) -> Measured {
    let mut measured = Measured::default();
    let mut group = criterion.benchmark_group("add");
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let (mut left, mut all) = (iterations, Duration::ZERO);
            while left > 0 {
                let operations = left.min(CHUNK);
                let (subject, baseline) = chunk(operations);
                // A few are the warm-up's, and dearer for the clock.
                if operations == CHUNK {
                    measured.add(operations, subject, baseline);
                }
                all += subject;
                left -= operations;
            }
            all
        });
    });
    group.finish();
    if measured.subject.is_empty() {
        let (subject, baseline) = chunk(CHUNK);
        measured.add(CHUNK, subject, baseline);
    }
    measured
}

/// Measures something that takes a while and has to be set up again each time: a few rounds, by hand. Each says of how many operations it
/// was, what they took, and what the baseline took for as many.
pub fn large(rounds: u64, mut round: impl FnMut() -> (u64, Duration, Option<Duration>)) -> Measured {
    let mut measured = Measured::default();
    for _ in 0..rounds {
        let (operations, subject, baseline) = round();
        measured.add(operations, subject, baseline);
    }
    measured
}

/// Which connections there are, so that old ones can be taken at random and new ones are new.
#[derive(Debug)]
struct Population {
    live: Vec<u64>,
    next: u64,
    dice: Dice,
}

impl Population {
    fn new() -> Population {
        Population { live: Vec::new(), next: 0, dice: Dice::new(1) }
    }

    fn fresh(&mut self, count: u64) -> std::ops::Range<u64> {
        self.next += count;
        self.next - count..self.next
    }

    /// New ones take the place of old ones at random, which are given out.
    fn replace(&mut self, fresh: std::ops::Range<u64>) -> Vec<u64> {
        let Population { live, dice, .. } = self;
        let swap = |n| {
            let at = dice.below(live.len() as u64) as usize;
            std::mem::replace(&mut live[at], n)
        };
        fresh.map(swap).collect()
    }
}

/// The runtime with so many merged filters, and what comes and goes.
pub struct Running {
    /// The runtime.
    pub subject: Subject,
    /// Its filters and connections.
    pub world: World,
    population: Population,
}

impl Running {
    /// With the filters and nothing else.
    pub fn new(world: World) -> Running {
        Running { subject: Subject::new(world.filters()), world, population: Population::new() }
    }

    /// With so many merged filters.
    pub fn with(world: World, merged: u64) -> Running {
        let mut running = Running::new(world);
        running.grow(merged);
        running
    }

    /// So many more connections, merged.
    pub fn grow(&mut self, count: u64) {
        let fresh = self.connect(count);
        self.merge(fresh.clone());
        self.stay(fresh);
        assert_eq!(self.subject.merged(), self.population.live.len());
    }

    /// So many more connections, of which no packet came.
    pub fn connect(&mut self, count: u64) -> std::ops::Range<u64> {
        let fresh = self.expect(count);
        for n in fresh.clone() {
            self.world.connections(n).into_iter().for_each(|(id, c)| self.subject.connect(id, c));
        }
        fresh
    }

    /// Merges connections that are there.
    pub fn merge(&self, numbers: impl IntoIterator<Item = u64>) {
        let mut datapath = self.subject.datapath();
        for (i, n) in numbers.into_iter().enumerate() {
            datapath.finish(&self.packet(n));
            if i as u64 % CHUNK == CHUNK - 1 {
                self.subject.work();
            }
        }
        self.subject.work();
    }

    /// All connections' walks once more, behind a cascade.
    pub fn merge_again(&self) {
        self.merge(self.population.live.iter().copied());
    }

    /// Numbers of connections that are to come.
    pub fn expect(&mut self, count: u64) -> std::ops::Range<u64> {
        self.population.fresh(count)
    }

    /// New ones are there.
    pub fn stay(&mut self, fresh: std::ops::Range<u64>) {
        self.population.live.extend(fresh);
    }

    /// New ones are there, and these go for them.
    pub fn leave(&mut self, fresh: std::ops::Range<u64>) -> Vec<u64> {
        self.population.replace(fresh)
    }

    /// These go; nothing is made of them any more.
    pub fn disconnect(&self, numbers: impl IntoIterator<Item = u64>) {
        for n in numbers {
            self.world.connections(n).into_iter().for_each(|(id, _)| self.subject.disconnect(id));
        }
    }

    /// New connections are there, and as many at random go, so that it stays as large as it was.
    pub fn settle(&mut self, fresh: std::ops::Range<u64>) {
        let old = self.leave(fresh);
        self.disconnect(old);
        assert_eq!(self.subject.merged(), self.population.live.len());
    }

    /// Adds merged filters: what a worker's turn took, from the walks handed over to the last hardware call.
    pub fn add(&mut self, count: u64) -> Duration {
        let fresh = self.connect(count);
        let mut datapath = self.subject.datapath();
        fresh.clone().for_each(|n| datapath.finish(&self.packet(n)));
        let took = timed(|| self.subject.work());
        self.settle(fresh);
        took
    }

    /// A packet of a connection that is there.
    pub fn packet(&self, n: u64) -> Ready {
        self.subject.ready(self.world.packet(n))
    }

    /// So many connections at random.
    pub fn some(&mut self, count: usize) -> Vec<u64> {
        let Population { live, dice, .. } = &mut self.population;
        (0..count).map(|_| live[dice.below(live.len() as u64) as usize]).collect()
    }
}

/// The baseline's hardware: like the subject's.
#[derive(Debug, Default)]
pub struct Nowhere {
    passed: u64,
}

impl Sink for Nowhere {
    fn install(&mut self, id: u64, matches: &Match, actions: &[Action]) {
        black_box((id, matches, actions));
    }

    fn remove(&mut self, id: u64) -> Counters {
        self.read(id)
    }

    fn read(&mut self, id: u64) -> Counters {
        black_box(id);
        Counters { packets: self.passed, bytes: self.passed * 100, last_used: self.passed }
    }
}

/// The baseline with so many merged filters, and what comes and goes.
pub struct Before {
    /// The baseline.
    pub eager: Eager<Nowhere>,
    /// Its filters and connections.
    pub world: World,
    population: Population,
}

impl Before {
    /// With so many merged filters.
    pub fn with(world: World, merged: u64) -> Before {
        let eager = Eager::new(Nowhere::default());
        let mut before = Before { eager, world, population: Population::new() };
        for (cookie, filter) in world.filters() {
            assert!(before.eager.filter(cookie, filter));
        }
        let fresh = before.population.fresh(merged);
        for n in fresh.clone() {
            for (id, connection) in world.connections(n) {
                before.eager.connection(id, Direction::Original, &connection);
            }
        }
        before.population.live.extend(fresh);
        assert_eq!(before.eager.merged() as u64, merged);
        before
    }

    /// Adds connections, of each the direction that packets come in; as many at random go.
    pub fn add(&mut self, count: u64) -> Duration {
        let fresh = self.population.fresh(count);
        let connections: Vec<_> = fresh.clone().flat_map(|n| self.world.connections(n)).collect();
        let took = timed(|| {
            for (id, connection) in &connections {
                self.eager.connection(*id, Direction::Original, connection);
            }
        });
        for old in self.population.replace(fresh) {
            self.eager.gone(ConnectionId(old), Direction::Original, 5);
        }
        assert_eq!(self.eager.merged(), self.population.live.len());
        took
    }

    /// Packets come, as many for each as to the subject.
    pub fn pass(&mut self) {
        self.eager.sink.passed += PACKETS;
    }
}
