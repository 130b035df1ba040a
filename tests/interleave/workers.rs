//! Several threads that work on walks.

use crate::{
    check,
    world::{LAST, Part, Setting, World},
};

fn world(setting: Setting) -> World {
    World::new(setting, &[1000, 1001])
}

/// As many as there should be, each once.
fn there(w: &World, merged: usize) {
    assert_eq!((w.merger.hardware().ids().len(), w.merger.turned().installed), (merged, merged as u64));
}

#[test]
fn two_workers_on_one_path_and_one_connection() {
    check(|| world(Setting::default()).with_walk(1000).together([|w| w.drain(), |w| w.tried(1000)]));
}

/// The path is new to both.
#[test]
fn two_workers_make_one_merged_filter() {
    check(|| {
        let part: Part = |w| w.tried(1000);
        let world = world(Setting::default()).at_once([part, part]);
        there(&world, 1);
        world.end();
    });
}

#[test]
fn two_workers_on_two_connections() {
    check(|| {
        let parts: [Part; 2] = [|w| w.tried(1000), |w| w.tried(1001)];
        let world = world(Setting { shards: 2, ..Setting::default() }).at_once(parts);
        there(&world, 2);
        world.end();
    });
}

#[test]
fn two_workers_without_connections() {
    check(|| {
        world(Setting { plain: true, shards: 2, ..Setting::default() }).with_walk(1000).together([
            |w| w.drain(),
            |w| {
                w.tried(1001);
                w.packet(1000);
            },
        ])
    });
}

/// There is room for one.
#[test]
fn two_workers_at_the_limit() {
    check(|| {
        world(Setting { merged: 1, ..Setting::default() }).with_walk(1000).together([
            |w| w.drain(),
            |w| {
                w.tried(1001);
                assert!(w.merger.hardware().ids().len() <= 1);
            },
        ])
    });
}

#[test]
fn two_workers_against_destroy() {
    check(|| {
        world(Setting { shards: 2, ..Setting::default() }).with_walk(1000).with_walk(1001).together([
            |w| w.drain(),
            |w| w.drain(),
            |w| w.destroy(LAST),
        ])
    });
}

/// The newcomer takes the place of the one that is there: the next ones rest on that.
#[test]
fn displacement_against_statistics() {
    check(|| {
        let world = World::full(1000).at_once([|w| w.tried(1001), |w| w.stats(LAST)]);
        assert!(world.packet(1001) && !world.packet(1000), "one has left for the other");
        world.end();
    });
}

/// The one that is there goes besides.
#[test]
fn displacement_against_the_death_of_the_one_that_leaves() {
    check(|| {
        World::full(1000).with_walk(1001).together([|w| w.worked(1001), |w| w.gone(1000), |w| w.packets(&[1000])])
    });
}

#[test]
fn displacement_against_the_death_of_the_one_that_comes() {
    check(|| {
        World::full(1000).with_walk(1001).together([|w| w.worked(1001), |w| w.gone(1001), |w| w.packets(&[1000])])
    });
}

#[test]
fn displacement_against_destroy() {
    check(|| World::full(1000).with_walk(1001).together([|w| w.drain(), |w| w.destroy(LAST), |w| w.packets(&[1000])]));
}

/// Two newcomers for one place, and a sweep that looks for more.
#[test]
fn two_displacements_and_a_sweep() {
    check(|| World::full(1000).together([|w| w.tried(1001), |w| w.tried(1002), |w| w.merger.sweep(3)]));
}

/// A full table, and nothing in it is less busy: the newcomers stay out.
#[test]
fn newcomers_to_a_table_that_is_full_and_busy() {
    check(|| {
        let world = World::new(Setting { size: 1, ..Setting::default() }, &[1000, 1001, 1002]).with_merged(&[1000]);
        world.merger.sweep(1);
        let world = world.at_once([|w| w.tried(1001), |w| w.tried(1002)]);
        assert!(world.packet(1000), "it has stayed");
        assert_eq!(world.merger.turned().full, 2);
        world.end();
    });
}
