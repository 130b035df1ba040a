//! A reader against writers: what was decided is neither taken for something else nor for longer than it holds.

use super::*;
use crate::{
    flower::{Cookie, Match},
    sync::{Arc, atomic::AtomicBool, check, thread},
    walk::Record,
};

const LIMITS: Limits = Limits { shards: 1, connections: 2, verdicts: 1, ways: 1 };
const KEY: Key = Key::ZERO;

/// A walk of one hit, on which a connection was found.
fn walk(filter: u64, connection: Option<ConnectionHandle>) -> Steps {
    let mut record = Record::new(Port(1), &KEY, 0);
    record.hit(Cookie(filter));
    if connection.is_some() {
        record.found(connection, Direction::Original);
    }
    record.steps().clone()
}

fn verdict(filter: u64, connection: Option<ConnectionHandle>) -> Verdict {
    Verdict::of(Port(1), &walk(filter, connection), &Match::default(), Decided::Merged)
}

fn merged(glance: &Glance, filter: u64, connection: Option<ConnectionHandle>) -> bool {
    glance.look(Port(1), &KEY, &walk(filter, connection)) == Glimpse::Merged
}

/// One slot, used for one way and then for another: the first is not seen after it was retired, the second not before it was shown.
fn used_again(listed: bool) {
    check(move || {
        let glance = Arc::new(Glance::new(LIMITS));
        let connection = listed.then(|| glance.open(0, 0).expect("room"));
        // The table tells it from the first only by what the slot says.
        let tag = |filter| way_of(Port(1), &walk(filter, connection)) >> 56;
        let other = (2..).find(|&filter| tag(filter) == tag(1)).expect("there are but 256");
        let publish = move |glance: &Glance, filter: u64| glance.publish(&verdict(filter, connection)).expect("room");
        let show = move |glance: &Glance, id: VerdictId| {
            let shown = match connection {
                Some(connection) => glance.list(connection, None, id),
                None => glance.show(id),
            };
            assert!(shown);
        };
        let first = publish(&glance, 1);
        show(&glance, first);
        let retired = Arc::new(AtomicBool::new(false));
        let begun = Arc::new(AtomicBool::new(false));
        let writer = {
            let (glance, retired, begun) = (Arc::clone(&glance), Arc::clone(&retired), Arc::clone(&begun));
            thread::spawn(move || {
                glance.retire(first);
                retired.store(true, Ordering::Release);
                if let Some(connection) = connection {
                    glance.unlist(connection, None, first);
                }
                let second = publish(&glance, other);
                begun.store(true, Ordering::Relaxed);
                show(&glance, second);
            })
        };
        let gone = retired.load(Ordering::Acquire);
        assert!(!(merged(&glance, 1, connection) && gone), "seen after it was retired");
        if merged(&glance, other, connection) {
            assert!(begun.load(Ordering::Relaxed), "seen before it was shown");
        }
        writer.join().expect("ends");
        assert!(!merged(&glance, 1, connection), "stays");
        assert!(merged(&glance, other, connection), "is not found");
    });
}

#[test]
fn a_verdict_in_a_slot_used_again_by_a_connection() {
    used_again(true);
}

#[test]
fn a_verdict_in_a_slot_used_again_by_way() {
    used_again(false);
}

/// A packet of a connection that is gone is not taken for one of the next connection in its place, for which its way is merged.
#[test]
fn a_connection_in_a_place_used_again() {
    check(|| {
        let glance = Arc::new(Glance::new(LIMITS));
        let old = glance.open(0, 0).expect("room");
        let id = glance.publish(&verdict(1, Some(old))).expect("room");
        let writer = {
            let glance = Arc::clone(&glance);
            thread::spawn(move || {
                glance.close(old);
                let new = glance.open(0, 0).expect("room");
                assert!(glance.list(new, None, id));
                new
            })
        };
        assert!(!merged(&glance, 1, Some(old)), "that is another connection's");
        let new = writer.join().expect("ends");
        assert_eq!(glance.look(Port(1), &KEY, &walk(1, Some(old))), Glimpse::Gone);
        assert!(merged(&glance, 1, Some(new)));
    });
}

/// A verdict that is listed and shown by some while it is retired by another is let go of in the end: its slot can be used again.
#[test]
fn no_slot_is_lost() {
    check(|| {
        let glance = Arc::new(Glance::new(LIMITS));
        let connection = glance.open(0, 0).expect("room");
        let refused = Verdict::of(Port(1), &walk(1, None), &Match::default(), Decided::Refused);
        let id = glance.publish(&refused).expect("room");
        let other = {
            let glance = Arc::clone(&glance);
            thread::spawn(move || {
                glance.show(id);
                glance.list(connection, None, id);
            })
        };
        glance.retire(id);
        other.join().expect("ends");
        glance.close(connection);
        assert!(glance.publish(&refused).is_some(), "the slot is held still");
    });
}
