use super::*;
use crate::{
    conntrack::ConnectionId,
    flower::{Field, Match},
    glance::{self, Decided, Verdict},
    walk::{Found, Hit, Walk},
};
use std::sync::atomic::AtomicUsize;

const PORT: Port = Port(1);

fn inbox(bell: Bell) -> Arc<Inbox> {
    let glance = Arc::new(Glance::new(glance::Limits::default()));
    Arc::new(Inbox::new(glance, bell, Limits { queue: 4, nested: 2, in_flight: 2 }))
}

fn connection(inbox: &Inbox, slot: u32) -> ConnectionHandle {
    let connection = inbox.glance().open(0, slot).expect("room");
    inbox.glance().qualify(connection, true);
    connection
}

fn finish(datapath: &mut Datapath, key: &Key, filter: u64, found: Option<ConnectionHandle>) -> Became {
    let mut record = Record::new(PORT, key);
    record.hit(Cookie(filter));
    record.found(found, Direction::Reply);
    datapath.finish(&record)
}

#[test]
fn a_walk_is_new_until_it_was_judged_and_recognised_afterwards() {
    let inbox = inbox(Bell::silent());
    let mut datapath = inbox.datapath();
    let connection = connection(&inbox, 5);
    let key = Key::ZERO.with(Field::EthType, 0x800).with(Field::Spi, 3);
    let mut see = || finish(&mut datapath, &key, 7, Some(connection));
    assert_eq!([see(), see()], [Became::HandedOver, Became::Queued]);
    let mut batch = inbox.batch();
    assert_eq!(inbox.take(&mut batch, 10), 1);
    let walk = batch.next_walk().expect("one");
    let expected = Walk {
        port: PORT,
        key,
        hits: vec![Hit {
            filter: Cookie(7),
            found: vec![Some(Found { connection: ConnectionId(5), direction: Direction::Reply })],
        }],
    };
    assert_eq!(walk.walk(|c| ConnectionId(c.slot().into())), expected);
    assert_eq!(see(), Became::Queued, "it is being judged");
    let asked = Match::default().exact(Field::EthType, 0x800);
    let verdict = Verdict::of(walk.port, walk.steps(), &asked, Decided::Merged);
    let id = inbox.glance().publish(&verdict).expect("room");
    assert!(inbox.glance().list(connection, None, id));
    assert!(batch.next_walk().is_none());
    assert_eq!([see(), see()], [Became::Merged; 2]);
    inbox.glance().retire(id);
    assert_eq!([see(), see()], [Became::HandedOver, Became::Queued]);
    // A batch that nobody looked into is judged all the same.
    assert_eq!(inbox.take(&mut batch, 10), 1);
    assert_eq!(inbox.take(&mut batch, 10), 0);
    assert_eq!(see(), Became::HandedOver);
    assert_eq!(inbox.take(&mut batch, 10), 1);
    drop(batch);
    assert_eq!(see(), Became::HandedOver);
    let counts = [Became::HandedOver, Became::Queued, Became::Merged].map(|b| inbox.count(b));
    assert_eq!(counts, [4, 3, 2]);
}

#[test]
fn a_full_queue_drops_walks_and_leaves_no_mark() {
    let inbox = inbox(Bell::silent());
    let mut datapath = inbox.datapath();
    let key = Key::from_words([1; crate::flower::key::WORDS]);
    let mut see = |slot| finish(&mut datapath, &key, 7, Some(connection(&inbox, slot)));
    let over = (0..).take_while(|&slot| see(slot) == Became::HandedOver).count();
    assert!(over >= 2, "{over}");
    assert_eq!(inbox.turned().queue, 1);
    let mut batch = inbox.batch();
    assert_eq!(inbox.take(&mut batch, 1), 1);
    drop(datapath);
    let mut rest = 0;
    while inbox.take(&mut batch, 1) == 1 {
        rest += 1;
    }
    assert_eq!((rest, inbox.turned().queue), (over - 1, 1), "a datapath that is gone is not forgotten");
    let mut again = inbox.datapath();
    let dropped = ConnectionHandle::new(0, over as u32, 1);
    assert_eq!(finish(&mut again, &key, 7, dropped), Became::HandedOver, "it is not marked");
    assert_eq!(inbox.count(Became::HandedOver), over as u64 + 1);
}

#[test]
fn one_walk_of_a_way_without_connections_is_in_the_queue() {
    let inbox = inbox(Bell::silent());
    let mut datapath = inbox.datapath();
    let mut see = |filter| finish(&mut datapath, &Key::ZERO, filter, None);
    assert_eq!(
        [see(1), see(1), see(2), see(1)],
        [Became::HandedOver, Became::Queued, Became::HandedOver, Became::Queued]
    );
    let mut batch = inbox.batch();
    assert_eq!(inbox.take(&mut batch, 1), 1);
    assert_eq!([see(1), see(2), see(1)], [Became::HandedOver, Became::Queued, Became::Queued]);
}

#[test]
fn walks_inside_each_other_are_kept_apart() {
    let inbox = inbox(Bell::silent());
    let mut datapath = inbox.datapath();
    let mut batch = inbox.batch();
    let mut filters = || {
        inbox.take(&mut batch, 1);
        batch.next_walk().map(|walk| (walk.port.0, walk.steps().filters().to_vec()))
    };
    assert_eq!(datapath.end(), Became::Unknown);
    datapath.begin(Port(1), &Key::ZERO);
    datapath.hit(Cookie(1));
    datapath.begin(Port(2), &Key::ZERO);
    datapath.hit(Cookie(2));
    datapath.begin(Port(3), &Key::ZERO);
    datapath.hit(Cookie(3));
    datapath.found(None, Direction::Original);
    assert_eq!(datapath.end(), Became::TooDeep);
    datapath.hit(Cookie(4));
    assert_eq!((datapath.end(), filters()), (Became::HandedOver, Some((2, vec![Cookie(2), Cookie(4)]))));
    datapath.begin(Port(4), &Key::ZERO);
    datapath.abandon();
    datapath.hit(Cookie(5));
    assert_eq!((datapath.end(), filters()), (Became::HandedOver, Some((1, vec![Cookie(1), Cookie(5)]))));
    datapath.begin(Port(5), &Key::ZERO);
    assert_eq!((datapath.end(), datapath.end()), (Became::NoHits, Became::Unknown));
    assert_eq!(inbox.turned().too_deep, 1);
}

#[test]
fn packets_that_interleave_are_kept_apart_and_one_that_vanished_makes_room() {
    let inbox = inbox(Bell::silent());
    let mut datapath = inbox.datapath();
    let [a, b, c] = [64, 128, 192].map(PacketId);
    datapath.begin_of(a, PORT, &Key::ZERO);
    datapath.begin_of(b, PORT, &Key::ZERO);
    datapath.hit_of(a, Cookie(1));
    datapath.hit_of(b, Cookie(2));
    datapath.begin_of(c, PORT, &Key::ZERO);
    datapath.hit_of(c, Cookie(3));
    datapath.hit_of(a, Cookie(9));
    assert_eq!((datapath.end_of(a), inbox.turned().vanished), (Became::Unknown, 1));
    datapath.begin_of(b, PORT, &Key::ZERO);
    datapath.hit_of(b, Cookie(4));
    assert_eq!(inbox.turned().vanished, 2, "its name was used again");
    assert_eq!(
        [datapath.end_of(c), datapath.end_of(b), datapath.end_of(b)],
        [Became::HandedOver, Became::HandedOver, Became::Unknown]
    );
    let mut batch = inbox.batch();
    inbox.take(&mut batch, 9);
    let mut filters = || batch.next_walk().map(|walk| walk.steps().filters().to_vec());
    assert_eq!([filters(), filters(), filters()], [Some(vec![Cookie(3)]), Some(vec![Cookie(4)]), None]);
    datapath.begin_of(a, PORT, &Key::ZERO);
    datapath.abandon_of(a);
    assert_eq!(datapath.end_of(a), Became::Unknown);
}

#[test]
fn what_is_too_long_is_counted_only() {
    let inbox = inbox(Bell::silent());
    let mut datapath = inbox.datapath();
    let key = Key::ZERO;
    let mut record = Record::new(PORT, &key);
    (0..17).for_each(|n| record.hit(Cookie(n)));
    assert_eq!(datapath.finish(&record), Became::TooLong);
    assert_eq!((inbox.turned().too_long, inbox.is_empty()), (1, true));
}

/// One ring for any number of walks while all sleep, none while one is awake.
#[test]
fn one_ring_wakes() {
    let rings = Arc::new(AtomicUsize::new(0));
    let rung = Arc::clone(&rings);
    let inbox = inbox(Bell::new(move || {
        rung.fetch_add(1, Ordering::Relaxed);
    }));
    let mut datapath = inbox.datapath();
    let mut filter = 0;
    let mut hand_over = || {
        filter += 1;
        let became = finish(&mut datapath, &Key::ZERO, filter, None);
        assert_eq!(became, Became::HandedOver);
        rings.load(Ordering::Relaxed)
    };
    assert_eq!([hand_over(), hand_over()], [1, 1]);
    inbox.bell().up();
    assert_eq!(hand_over(), 1);
    assert!(!inbox.doze(), "there is work");
    let mut batch = inbox.batch();
    assert_eq!(inbox.take(&mut batch, 9), 3);
    assert_eq!(hand_over(), 1);
    inbox.bell().up();
    assert_eq!(inbox.take(&mut batch, 9), 1);
    assert!(inbox.doze());
    assert_eq!(hand_over(), 1, "the other one is awake");
    assert_eq!(inbox.take(&mut batch, 9), 1);
    assert!(inbox.doze());
    assert_eq!([hand_over(), hand_over()], [2, 2]);
    // More sleep than were awake: still somebody is called.
    inbox.bell().down();
    assert_eq!(inbox.take(&mut batch, 9), 2);
    inbox.bell().up();
    assert!(inbox.doze());
    assert_eq!(hand_over(), 3);
}
