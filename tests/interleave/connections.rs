//! Conntrack's events against installs, and against what a person asks for.

use crate::{
    check,
    world::{LAST, Setting, World},
};

fn two() -> World {
    World::new(Setting { shards: 2, ..Setting::default() }, &[1000, 1001])
}

#[test]
fn an_install_against_the_death_of_its_connection() {
    check(|| two().with_walk(1000).together([|w| w.worked(1000), |w| w.gone(1000)]));
}

#[test]
fn an_install_on_a_known_path_against_the_death_of_its_connection() {
    check(|| {
        two().with_merged(&[1001]).with_walk(1000).together([|w| w.worked(1000), |w| w.gone(1000), |w| w.tried(1000)])
    });
}

fn worked_and_tried(w: &World) {
    w.worked(1000);
    w.tried(1000);
}

#[test]
fn an_install_against_a_change_of_its_connection() {
    check(|| two().with_walk(1000).together([worked_and_tried, |w| w.marked(1000, 7)]));
}

#[test]
fn an_install_against_giving_back() {
    check(|| two().with_walk(1000).together([worked_and_tried, |w| w.given_back(1000)]));
}

/// Conntrack tells of it while it is being given back: that gives nobody leave to merge it.
#[test]
fn giving_back_against_an_event_that_changes_nothing() {
    check(|| two().with_merged(&[1000]).together([|w| w.given_back(1000), |w| w.refreshed(1000), |w| w.tried(1000)]));
}

#[test]
fn giving_back_against_a_change() {
    check(|| two().with_merged(&[1000]).together([|w| w.given_back(1000), |w| w.marked(1000, 7), |w| w.tried(1000)]));
}

#[test]
fn giving_back_and_taking_back_against_death() {
    check(|| {
        two().with_merged(&[1000]).together([
            |w| {
                w.given_back(1000);
                w.merger.take_back(flowmerge::conntrack::ConnectionId(1000));
            },
            |w| w.gone(1000),
            |w| w.tried(1000),
        ])
    });
}

/// Both want it out, for reasons of their own.
#[test]
fn the_death_of_a_connection_against_destroy() {
    check(|| {
        two().with_merged(&[1000, 1001]).together([|w| w.gone(1000), |w| w.destroy(LAST), |w| w.packets(&[1000, 1001])])
    });
}

/// A connection of the same name comes at once; the walk that was handed in is of either.
#[test]
fn an_install_against_a_connection_that_dies_and_comes_again() {
    check(|| {
        two().with_walk(1000).together([
            |w| w.worked(1000),
            |w| {
                w.gone(1000);
                w.refreshed(1000);
                w.tried(1000);
            },
        ])
    });
}

/// A merged filter that rests on two connections, in two shards.
fn double() -> World {
    World::new(Setting { shards: 4, double: true, ..Setting::default() }, &[1000, 1001])
}

#[test]
fn an_install_on_two_connections_against_the_death_of_both() {
    check(|| double().with_walk(1000).together([|w| w.worked(1000), |w| w.gone(1000), |w| w.second_gone(1000)]));
}

#[test]
fn the_death_of_one_of_two_connections_against_destroy() {
    check(|| {
        double().with_merged(&[1000, 1001]).together([
            |w| w.second_gone(1000),
            |w| w.destroy(LAST),
            |w| {
                w.gone(1001);
                w.second_gone(1001);
            },
        ])
    });
}

#[test]
fn removals_on_two_connections_that_fail() {
    check(|| {
        let world = double().with_merged(&[1000]).with_walk(1001);
        world.merger.hardware().fail_removals(1);
        world.together([
            |w| w.second_gone(1000),
            |w| w.given_back(1000),
            |w| {
                w.drain();
                w.merger.read_all();
            },
        ]);
    });
}
