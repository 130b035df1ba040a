//! Readings against removals: nothing is lost, nothing counts twice.

use crate::{
    check,
    world::{FIRST, LAST, World},
};

fn busy() -> World {
    World::tracked().with_merged(&[1000, 1001])
}

#[test]
fn statistics_against_destroy() {
    check(|| busy().together([|w| w.stats(FIRST), |w| w.destroy(LAST), |w| w.packets(&[1000, 1001])]));
}

#[test]
fn statistics_against_the_death_of_a_connection() {
    check(|| busy().together([|w| w.stats(LAST), |w| w.gone(1000), |w| w.packets(&[1000, 1000])]));
}

#[test]
fn reading_everything_against_destroy() {
    check(|| busy().together([|w| w.merger.read_all(), |w| w.destroy(LAST), |w| w.packets(&[1000, 1001])]));
}

#[test]
fn two_readings_at_once_against_destroy() {
    check(|| {
        busy().together([
            |w| {
                w.packet(1000);
                w.merger.read_all();
            },
            |w| {
                w.packet(1000);
                w.stats(LAST);
            },
            |w| w.destroy(FIRST),
        ])
    });
}

/// A sweep reads everything, and takes out what is idle.
#[test]
fn a_sweep_against_destroy() {
    check(|| busy().together([|w| w.merger.sweep(1), |w| w.destroy(LAST), |w| w.packets(&[1000])]));
}

#[test]
fn a_reading_against_removals_that_fail() {
    check(|| {
        let world = busy();
        world.merger.hardware().fail_removals(2);
        world.together([
            |w| {
                w.packet(1000);
                w.merger.read_all();
            },
            |w| w.gone(1000),
            |w| {
                w.packet(1000);
                w.drain();
            },
        ]);
    });
}

#[test]
fn readings_that_fail_against_destroy() {
    check(|| {
        let world = busy();
        world.merger.hardware().fail_reads(2);
        world.together([|w| w.stats(FIRST), |w| w.destroy(LAST), |w| w.packets(&[1000])]);
    });
}
