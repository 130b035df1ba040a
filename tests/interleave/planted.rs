//! Tests of the tests: the checker finds faults that are planted.

use crate::{
    run,
    world::{FIRST, LAST, Setting, World},
};
use flowmerge::merger::planted::{Fault, plant};
use shuttle::{
    FailurePersistence,
    scheduler::{PctScheduler, RandomScheduler, UncontrolledNondeterminismCheckScheduler},
};
use std::panic;

/// Whether a scenario fails under either scheduler.
fn fails(scenario: fn()) -> bool {
    const RUNS: usize = crate::RUNS;
    let silent = || FailurePersistence::None;
    let found = |run: &(dyn Fn() + panic::RefUnwindSafe)| panic::catch_unwind(run).is_err();
    found(&|| run(RandomScheduler::new_from_seed(crate::SEED, RUNS), silent(), scenario))
        || found(&|| run(PctScheduler::new_from_seed(crate::SEED, crate::CHANGES, RUNS), silent(), scenario))
}

/// Whether a fault is found, and nothing without it.
fn is_found(fault: Fault, scenario: fn()) {
    plant(None);
    assert!(!fails(scenario), "without the fault");
    plant(Some(fault));
    let found = fails(scenario);
    plant(None);
    assert!(found, "{fault:?} is not found");
}

#[test]
fn who_does_not_wait_is_found() {
    is_found(Fault::NotWaited, || {
        World::tracked().with_merged(&[1000]).together([|w| w.gone(1000), |w| w.destroy(LAST)])
    });
}

#[test]
fn counts_that_come_late_are_found() {
    is_found(Fault::FreedFirst, || {
        World::tracked().with_merged(&[1000]).together([
            |w| w.gone(1000),
            |w| {
                w.given_back(1000);
                w.is_told(FIRST);
            },
        ])
    });
}

#[test]
fn an_install_that_is_not_told_is_found() {
    is_found(Fault::NotRecalled, || World::tracked().with_walk(1000).together([|w| w.drain(), |w| w.destroy(LAST)]));
}

/// The same choices lead to the same run, so that a failure can be replayed.
#[test]
fn a_run_can_be_repeated() {
    let twice = UncontrolledNondeterminismCheckScheduler::new(RandomScheduler::new_from_seed(crate::SEED, 20));
    run(twice, FailurePersistence::Print, || {
        World::new(Setting { shards: 2, double: true, ..Setting::default() }, &[1000, 1001])
            .with_merged(&[1001])
            .with_walk(1000)
            .together([|w| w.drain(), |w| w.destroy(LAST), |w| w.shadow()]);
    });
}
