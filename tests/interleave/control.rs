//! TC's calls against the work on walks, and against each other.

use crate::{
    check,
    device::Fault,
    world::{ALONE, ASIDE_FRONT, FIRST, FRONT, LAST, OUT, Setting, World},
};

fn plain() -> World {
    World::new(Setting { plain: true, ..Setting::default() }, &[])
}

fn walked_and_used(w: &World) {
    w.tried(1000);
    w.packet(1000);
}

#[test]
fn a_walk_against_destroy_of_its_last_filter() {
    check(|| World::tracked().together([walked_and_used, |w| w.destroy(LAST)]));
}

#[test]
fn a_walk_against_destroy_of_its_first_filter() {
    check(|| World::tracked().together([walked_and_used, |w| w.destroy(FIRST)]));
}

#[test]
fn a_walk_without_connections_against_destroy() {
    check(|| plain().with_walk(1000).together([|w| w.worked(1000), |w| w.destroy(LAST), |w| w.tried(1001)]));
}

/// The path is known: it is only filled in.
#[test]
fn an_install_on_a_known_path_against_destroy() {
    check(|| {
        World::tracked().with_merged(&[1000]).with_walk(1001).together([
            |w| w.worked(1001),
            |w| w.destroy(LAST),
            |w| w.packets(&[1000, 1000]),
        ])
    });
}

#[test]
fn an_install_against_a_new_shadow() {
    check(|| World::tracked().with_walk(1000).together([|w| w.worked(1000), |w| w.shadow()]));
}

/// The path stays for other connections, and is only not filled in any more for those that the shadow takes.
#[test]
fn installs_on_a_known_path_against_a_new_shadow() {
    check(|| {
        World::tracked().with_merged(&[1001]).with_walk(1000).together([
            |w| w.worked(1000),
            |w| w.shadow(),
            |w| {
                w.packet(1001);
                w.tried(1000);
            },
        ])
    });
}

#[test]
fn a_walk_without_connections_against_a_new_shadow_that_goes_again() {
    check(|| {
        plain().with_walk(1000).together([
            |w| {
                w.worked(1000);
                w.tried(1001);
            },
            |w| {
                w.shadow();
                w.destroy(FRONT);
            },
        ])
    });
}

/// The walk was handed in before: whatever the cookie is of now, it did not hit that.
#[test]
fn an_install_against_another_filter_of_the_same_cookie() {
    check(|| {
        World::tracked().with_walk(1000).together([
            |w| w.worked(1000),
            |w| {
                w.replace_last(OUT + 1);
                assert!(!w.packet(1000), "no walk hit what is there now");
            },
        ])
    });
}

#[test]
fn an_install_against_destroy_and_a_new_filter_of_the_same_cookie() {
    check(|| {
        World::tracked().with_merged(&[1001]).with_walk(1000).together([
            |w| w.worked(1000),
            |w| {
                w.destroy(LAST);
                w.replace_last(OUT + 1);
                assert!(!w.packet(1000) && !w.packet(1001), "no walk hit what is there now");
                w.tried(1000);
            },
        ])
    });
}

#[test]
fn two_parents_of_one_way_are_destroyed_at_once() {
    check(|| {
        World::tracked().with_merged(&[1000]).with_walk(1001).together([
            |w| w.destroy(FIRST),
            |w| w.destroy(LAST),
            |w| w.drain(),
        ])
    });
}

/// Both return only when it is gone, whoever takes it out.
#[test]
fn a_removal_that_is_under_way_is_waited_for() {
    check(|| {
        World::tracked().with_merged(&[1000, 1001]).together([
            |w| w.gone(1000),
            |w| w.destroy(LAST),
            |w| w.given_back(1001),
        ])
    });
}

#[test]
fn a_port_that_goes_down_and_comes_up_against_an_install() {
    check(|| {
        World::tracked().with_walk(1000).together([
            |w| w.worked(1000),
            |w| {
                let port = flowmerge::flower::Port(OUT);
                w.merger.port(port, false).expect("removed");
                assert!(w.merger.hardware().derived(LAST, Some(OUT)).is_empty(), "sends to a port that is down");
                w.merger.port(port, true).expect("removed");
            },
        ])
    });
}

/// Whoever looks at everything holds nobody up, and is held up by nobody for ever.
#[test]
fn a_look_inside_against_an_install_that_fails_and_destroy() {
    check(|| {
        let world = World::tracked().with_merged(&[1001]).with_walk(1000);
        world.merger.hardware().fail_installs(&[Fault::Failed]);
        world.together([
            |w| {
                w.merger.snapshot();
                w.merger.why(flowmerge::flower::Cookie(LAST));
                w.merger.keep_alive(1);
            },
            |w| w.worked(1000),
            |w| w.destroy(LAST),
        ]);
    });
}

/// It leaves when another comes in front, and comes back when that goes.
#[test]
fn a_skip_sw_filter_against_a_drain_and_a_sweep() {
    check(|| {
        plain().together([
            |w| {
                w.alone();
                w.in_front();
                w.destroy(ASIDE_FRONT);
                assert!(!w.merger.hardware().derived(ALONE, None).is_empty(), "it is back");
            },
            |w| w.drain(),
            |w| w.merger.sweep(1),
        ])
    });
}

#[test]
fn a_skip_sw_filter_that_fails_against_a_drain() {
    check(|| {
        let world = plain();
        world.merger.hardware().fail_removals(1);
        world.together([
            |w| {
                w.alone();
                w.merger.hardware().fail_installs(&[Fault::Failed, Fault::UnsureIn]);
                w.in_front();
                w.destroy(ASIDE_FRONT);
                w.destroy(ALONE);
            },
            |w| {
                w.drain();
                w.drain();
            },
            |w| w.stats(ALONE),
        ]);
    });
}

#[test]
fn a_skip_sw_filter_against_a_reset() {
    check(|| {
        plain().together([
            |w| {
                w.alone_or_not();
                w.destroy(ALONE);
            },
            |w| w.reset(),
            |w| w.drain(),
        ])
    });
}
