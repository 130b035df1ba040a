//! The library's threads under shuttle: the real code, its locks and atomics taken by a checker that chooses who goes on at each of
//! them, and says by which choices it came to a failure.
//!
//! ```text
//! cargo test -p flowmerge --features shuttle --test interleave
//! FLOWMERGE_INTERLEAVE=20000 cargo test --release -p flowmerge --features shuttle --test interleave
//! ```
//!
//! Each scenario sets two or three threads against each other, in hardware ([`device`]) that lets others in at each call. What a call
//! promises is looked at when it returns, and at the end that nothing is left over ([`world`]). Each is run so many times by random
//! choices, and as often by PCT: few changes of threads, at random places, which finds what needs a long pause of one of them. The
//! choices begin at the same seed each time; with `FLOWMERGE_INTERLEAVE`, which says how many runs, at another one each time.
//!
//! That the checker finds something is shown by faults that are planted ([`planted`]).

mod connections;
mod control;
mod counters;
mod device;
mod faults;
mod planted;
mod workers;
mod world;

use shuttle::{
    Config, FailurePersistence, Runner,
    scheduler::{PctScheduler, RandomScheduler, Scheduler},
};

/// Runs of a scenario by each of the two schedulers.
const RUNS: usize = 200;
/// How often PCT changes threads in a run.
const CHANGES: usize = 4;
const SEED: u64 = 0x6d65_7267_6572;

fn config(failures: FailurePersistence) -> Config {
    let mut config = Config::new();
    // Folding a path takes some of it.
    config.stack_size = 1 << 20;
    config.failure_persistence = failures;
    config.silence_warnings = true;
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    config
}

fn run(scheduler: impl Scheduler + 'static, failures: FailurePersistence, scenario: fn()) {
    Runner::new(scheduler, config(failures)).run(scenario);
}

/// Runs a scenario under both.
fn check(scenario: fn()) {
    let asked = std::env::var("FLOWMERGE_INTERLEAVE").ok();
    match asked.map(|runs| runs.parse().expect("FLOWMERGE_INTERLEAVE: a number of runs")) {
        None => {
            run(RandomScheduler::new_from_seed(SEED, RUNS), FailurePersistence::Print, scenario);
            run(PctScheduler::new_from_seed(SEED, CHANGES, RUNS), FailurePersistence::Print, scenario);
        }
        Some(runs) => {
            run(RandomScheduler::new(runs), FailurePersistence::Print, scenario);
            run(PctScheduler::new(CHANGES, runs), FailurePersistence::Print, scenario);
        }
    }
}
