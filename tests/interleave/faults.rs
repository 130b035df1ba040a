//! Hardware that fails, or loses everything, amid what the other tests do.

use crate::{
    check,
    device::Fault,
    world::{FIRST, LAST, OUT, Part, Setting, World},
};

const INSTALLS: [&[Fault]; 4] =
    [&[Fault::Failed], &[Fault::UnsureIn], &[Fault::UnsureOut], &[Fault::Failed, Fault::UnsureIn]];

/// Whom an install that goes wrong is set against.
const AGAINST: [Part; 7] = [
    |w| w.destroy(LAST),
    |w| w.destroy(FIRST),
    |w| w.gone(1000),
    |w| w.marked(1000, 7),
    |w| w.given_back(1000),
    |w| w.shadow(),
    |w| w.replace_last(OUT + 1),
];

fn any<T: Copy>(of: &[T]) -> T {
    use shuttle::rand::{Rng, thread_rng};
    of[thread_rng().gen_range(0..of.len())]
}

fn walked() -> World {
    World::new(Setting { shards: any(&[1, 2]), ..Setting::default() }, &[1000, 1001])
        .with_merged(&[1001])
        .with_walk(1000)
}

fn worked_twice(w: &World) {
    w.worked(1000);
    w.worked(1000);
}

#[test]
fn installs_that_fail_against_everything() {
    check(|| {
        let world = walked();
        world.merger.hardware().fail_installs(any(&INSTALLS));
        world.together([worked_twice, any(&AGAINST)]);
    });
}

#[test]
fn installs_and_removals_that_fail_against_everything() {
    check(|| {
        let world = walked();
        world.merger.hardware().fail_installs(any(&INSTALLS));
        world.merger.hardware().fail_removals(any(&[1, 2, 3]));
        world.together([worked_twice, any(&AGAINST)]);
    });
}

#[test]
fn removals_that_fail_against_two_at_once() {
    check(|| {
        let world = walked();
        world.merger.hardware().fail_removals(any(&[1, 2, 3]));
        world.together([worked_twice, any(&AGAINST), any(&AGAINST)]);
    });
}

/// What is stuck is tried again while others want to know of it.
#[test]
fn what_is_stuck_against_destroy() {
    check(|| {
        let world = walked();
        world.drain();
        world.merger.hardware().fail_removals(1);
        world.gone(1000);
        world.packet(1000);
        world.together([worked_twice, |w| w.destroy(LAST)]);
    });
}

#[test]
fn a_reset_against_an_install() {
    check(|| walked().together([worked_twice, |w| w.reset()]));
}

#[test]
fn a_reset_against_everything() {
    check(|| walked().together([worked_twice, |w| w.reset(), any(&AGAINST)]));
}

#[test]
fn a_reset_against_removals_that_fail() {
    check(|| {
        let world = walked();
        world.merger.hardware().fail_removals(any(&[1, 2]));
        world.together([|w| w.drain(), |w| w.reset(), any(&AGAINST)]);
    });
}

/// The table is full: the one that is to make room may not leave, the one that is to come may not come.
#[test]
fn displacements_that_fail_against_everything() {
    check(|| {
        let world = World::full(1001).with_walk(1000);
        match any(&[0, 1, 2]) {
            0 => world.merger.hardware().fail_removals(any(&[1, 2])),
            1 => world.merger.hardware().fail_installs(any(&INSTALLS)),
            _ => {}
        }
        world.together([worked_twice, any(&AGAINST), |w| w.gone(1001)]);
    });
}

#[test]
fn two_workers_and_hardware_that_fails() {
    check(|| {
        let world = walked();
        world.merger.hardware().fail_installs(any(&INSTALLS));
        world.together([
            worked_twice,
            |w| {
                w.walked(1000);
                w.worked(1000);
            },
            any(&AGAINST),
        ]);
    });
}
