//! What the runtime costs in instructions: the same number each time, so that a gate can rest on it. `benches/gate` runs it.
//!
//! Each is of [`N`] operations on [`N`] merged filters; what is set up before and taken down behind is not counted. Instructions know
//! nothing of caches: `cargo bench` measures those.

use flowmerge_bench::{
    subject::{Datapath, Ready, Subject},
    world::World,
};
use gungraun::{library_benchmark, library_benchmark_group, main};

const N: u64 = 1000;

/// The runtime, and what is done to it.
struct Prepared {
    subject: Subject,
    datapath: Datapath,
    world: World,
    packets: Vec<Ready>,
}

impl Prepared {
    /// Connections `0..N` merged.
    fn merged(world: World) -> Prepared {
        let subject = Subject::new(world.filters());
        let datapath = subject.datapath();
        let mut prepared = Prepared { subject, datapath, world, packets: Vec::new() };
        prepared.connect(0..N);
        prepared.hand_over();
        prepared.subject.work();
        assert_eq!(prepared.subject.merged() as u64, N);
        prepared
    }

    /// Connections come, and their packets are at hand.
    fn connect(&mut self, numbers: std::ops::Range<u64>) {
        for n in numbers.clone() {
            self.world.connections(n).into_iter().for_each(|(id, connection)| self.subject.connect(id, connection));
        }
        self.packets = numbers.map(|n| self.subject.ready(self.world.packet(n))).collect();
    }

    fn hand_over(&mut self) {
        self.packets.iter().for_each(|packet| self.datapath.finish(packet));
    }

    /// As many more come.
    fn new(world: World) -> Prepared {
        let mut prepared = Prepared::merged(world);
        prepared.connect(N..2 * N);
        prepared
    }

    /// They wait to be merged.
    fn waiting(world: World) -> Prepared {
        let mut prepared = Prepared::new(world);
        prepared.hand_over();
        prepared
    }

    /// Packets that hit many filters.
    fn long(world: World) -> Prepared {
        let mut prepared = Prepared::merged(world);
        let long = |n| prepared.subject.ready(prepared.world.packet(n).longer(10));
        prepared.packets = (0..N).map(long).collect();
        prepared
    }

    /// Each entry of the hardware has counted.
    fn counted(world: World) -> Prepared {
        let prepared = Prepared::merged(world);
        prepared.subject.read_all();
        prepared.subject.board.pass();
        prepared
    }
}

#[library_benchmark]
#[bench::ten_hits(args = (World::five(false)), setup = Prepared::long)]
fn record(mut prepared: Prepared) -> Prepared {
    prepared.packets.iter().for_each(|packet| prepared.datapath.abandon(packet));
    prepared
}

#[library_benchmark]
#[bench::merged(args = (World::five(false)), setup = Prepared::merged)]
fn already(mut prepared: Prepared) -> Prepared {
    prepared.hand_over();
    prepared.subject.work();
    prepared
}

#[library_benchmark]
#[bench::new(args = (World::five(false)), setup = Prepared::new)]
fn hand_over(mut prepared: Prepared) -> Prepared {
    prepared.hand_over();
    prepared
}

#[library_benchmark]
#[bench::known_path(args = (World::five(false)), setup = Prepared::waiting)]
#[bench::new_path(args = (World::five(true)), setup = Prepared::waiting)]
fn merge(prepared: Prepared) -> Prepared {
    prepared.subject.work();
    prepared
}

#[library_benchmark]
#[bench::all(args = (World::five(false)), setup = Prepared::merged)]
fn cascade(prepared: Prepared) -> Prepared {
    prepared.subject.destroy(prepared.world.common());
    prepared
}

#[library_benchmark]
#[bench::all(args = (World::five(false)), setup = Prepared::counted)]
fn counters(prepared: Prepared) -> Prepared {
    prepared.subject.read_all();
    prepared
}

library_benchmark_group!(name = runtime; benchmarks = record, already, hand_over, merge, cascade, counters);
main!(library_benchmark_groups = runtime);
