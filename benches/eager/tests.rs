//! Whether the baseline finds what it should.

use super::{Eager, Sink};
use crate::{
    walked::{Walked, path},
    world::World,
};
use flowmerge::{
    conntrack::{Connection, ConnectionId, Direction},
    flower::{
        Action, ActionKind, Control, Cookie, Counters, Field, Filter, Match, Port, Range,
        action::{Pedit, PeditHeader, PeditKey},
        field::ct_state,
    },
};
use std::collections::BTreeMap;

/// Hardware that knows what it holds, and counts when it is told to.
#[derive(Debug, Default)]
struct Known {
    installed: BTreeMap<u64, (Match, Vec<Action>, Counters)>,
}

impl Sink for Known {
    fn install(&mut self, id: u64, matches: &Match, actions: &[Action]) {
        assert!(self.installed.insert(id, (*matches, actions.to_vec(), Counters::default())).is_none());
    }

    fn remove(&mut self, id: u64) -> Counters {
        self.installed.remove(&id).expect("it was installed").2
    }

    fn read(&mut self, id: u64) -> Counters {
        self.installed[&id].2
    }
}

impl Known {
    fn pass(&mut self, packets: u64) {
        for (.., counters) in self.installed.values_mut() {
            counters.add(Counters { packets, bytes: 100 * packets, last_used: 7 });
        }
    }
}

fn eager(world: &World, change: impl Fn(Cookie, &mut Filter)) -> Eager<Known> {
    let mut eager = Eager::new(Known::default());
    for (cookie, mut filter) in world.filters() {
        change(cookie, &mut filter);
        assert!(eager.filter(cookie, filter));
    }
    eager
}

fn tell(eager: &mut Eager<Known>, id: ConnectionId, connection: &Connection) {
    for direction in [Direction::Original, Direction::Reply] {
        eager.connection(id, direction, connection);
    }
}

fn first(world: &World, n: u64) -> (ConnectionId, Connection) {
    world.connections(n).swap_remove(0)
}

/// Each connection is one merged filter, whatever comes first; it asks for the packets of the pair and the tuple, and does what both do.
#[test]
fn connections_fit_their_pair_only() {
    let world = World::pairs(4);
    for filters_last in [false, true] {
        let mut eager = Eager::new(Known::default());
        let connections = |eager: &mut Eager<Known>| {
            for n in 0..64 {
                let (id, connection) = first(&world, n);
                tell(eager, id, &connection);
                // Told again, it is the same.
                tell(eager, id, &connection);
            }
        };
        if filters_last {
            connections(&mut eager);
        }
        for (cookie, filter) in world.filters() {
            assert!(eager.filter(cookie, filter));
        }
        if !filters_last {
            connections(&mut eager);
        }
        assert_eq!(eager.merged(), 64);
        assert_eq!(eager.all().count(), 64);
        for n in 0..64 {
            let key = world.packet(n).key;
            let fit: Vec<_> = eager.sink.installed.values().filter(|(m, ..)| m.fits(&key)).collect();
            let [(_, actions, _)] = &fit[..] else { panic!("{} merged filters match", fit.len()) };
            let [Action { kind: ActionKind::Pedit(nat), .. }, out] = &actions[..] else { panic!("{actions:?}") };
            let backend = [172, 16, (n / 4 % 4) as u8, 2];
            assert_eq!(nat.keys[0].value, backend);
            assert_eq!((nat.keys[1].value, nat.keys[1].mask), ([0, 0, 31, 64], [255, 255, 0, 0]));
            assert_eq!(*out, Action::redirect(Port(2 + (n / 4 % 4) as u32)));
        }
    }
}

/// What it asks for is what merging by walks asks for, but for what must go on through conntrack, which it does not know.
#[test]
fn asks_what_merging_asks() {
    let world = World::pairs(1);
    let mut eager = eager(&world, |_, _| ());
    let (id, connection) = first(&world, 5);
    tell(&mut eager, id, &connection);
    let path = path(&Walked::new(&world, 5).scene(&[]));
    let mut asked = path.matches(&[&connection]).expect("the connection fits");
    let (actions, _) = path.actions(&[&connection], true);
    let (matches, done) = eager.all().next().expect("one merged filter");
    assert_eq!(done, actions);
    asked.clear(Field::TcpFlags);
    asked.clear(Field::IpFlags);
    // The filter's protocol tells both.
    let matches = [Field::EthType, Field::AddrType].into_iter().fold(*matches, |mut m, f| {
        m.clear(f);
        asked.clear(f);
        m
    });
    assert_eq!(matches, asked);
}

#[test]
fn what_the_first_filter_wrote_is_what_the_last_one_sees() {
    let ttl = |value, mask| PeditKey {
        header: PeditHeader::Ipv4,
        offset: 8,
        mask: [mask, 255, 255, 255],
        value: [value, 0, 0, 0],
        add: false,
        dynamic: None,
    };
    let world = World::pairs(1);
    // Asked of it as it arrives; written, with which bits kept; asked behind; whether both can be.
    let cases = [
        (None, ttl(9, 0), (9, 0xff), true),
        (None, ttl(9, 0), (8, 0xff), false),
        (Some(0x30), ttl(9, 0), (9, 0xff), true),
        (Some(0x30), ttl(9, 0xf0), (0x39, 0xff), true),
        (Some(0x30), ttl(9, 0xf0), (0x49, 0xff), false),
        (None, ttl(9, 0xf0), (0x49, 0xff), true),
    ];
    for (arrives, write, (value, mask), both) in cases {
        let mut eager = eager(&world, |_, filter| {
            if filter.id.chain == 0 {
                let pedit = Pedit { keys: vec![write], mend: false };
                filter.actions.insert(0, Action::new(ActionKind::Pedit(pedit), Control::Pipe));
                if let Some(arrives) = arrives {
                    filter.matches.set(Field::IpTtl, arrives, 0xff);
                }
            } else {
                filter.matches.set(Field::IpTtl, value, mask);
            }
        });
        let (id, connection) = first(&world, 0);
        tell(&mut eager, id, &connection);
        assert_eq!(eager.merged(), usize::from(both), "{arrives:?} {write:?} {value:#x}");
        if let Some((matches, actions)) = eager.all().next() {
            let kept = u128::from(write.mask[0]);
            let (want, of) = arrives.map_or((value & mask & kept, mask & kept), |ttl| (ttl, 0xff));
            assert_eq!((matches.key.get(Field::IpTtl), matches.mask.get(Field::IpTtl)), (want, of));
            assert_eq!(actions.len(), 3);
        }
    }
}

#[test]
fn what_the_last_filter_asks_of_the_connection_is_asked_of_it_translated() {
    let world = World::pairs(1);
    let ask = |change: &dyn Fn(&mut Filter), connection: &dyn Fn(&mut Connection)| {
        let mut eager = eager(&world, |_, f| {
            if f.id.chain == 1 {
                change(f)
            }
        });
        let (id, mut c) = first(&world, 0);
        connection(&mut c);
        tell(&mut eager, id, &c);
        eager.merged()
    };
    let same = |_: &mut Connection| ();
    assert_eq!(ask(&|f| f.matches.set(Field::DstPort, 8000, 0xffff), &same), 1);
    assert_eq!(ask(&|f| f.matches.set(Field::DstPort, 80, 0xffff), &same), 0);
    assert_eq!(ask(&|f| f.matches.dst_range = Some(Range { min: 7000, max: 8000 }), &same), 1);
    assert_eq!(ask(&|f| f.matches.dst_range = Some(Range { min: 7000, max: 7999 }), &same), 0);
    let reply = |want: u128| move |f: &mut Filter| f.matches.set(Field::CtState, want, ct_state::REPLY);
    assert_eq!(ask(&reply(0), &same), 1);
    assert_eq!(ask(&reply(ct_state::REPLY), &same), 0);
    assert_eq!(ask(&|f| f.matches.set(Field::CtState, ct_state::NEW, ct_state::NEW), &same), 0);
    let marked = |f: &mut Filter| f.matches.set(Field::CtMark, 3, 3);
    assert_eq!(ask(&marked, &|c| c.mark = 7), 1);
    assert_eq!(ask(&marked, &|c| c.mark = 5), 0);
    assert_eq!(ask(&|f| f.matches.set(Field::CtZone, 5, 0xffff), &same), 1);
    assert_eq!(ask(&|f| f.matches.set(Field::CtZone, 6, 0xffff), &same), 0);
    assert_eq!(ask(&|f| f.matches.set(Field::EthType, 0x86dd, 0xffff), &same), 0);
}

/// A filter, a connection or a change of it takes what was made of them, and nothing else; each count is handed up once.
#[test]
fn what_goes_takes_what_was_made_of_it() {
    let world = World::pairs(3);
    let mut eager = eager(&world, |_, _| ());
    for n in 0..90 {
        let (id, connection) = first(&world, n);
        tell(&mut eager, id, &connection);
    }
    eager.sink.pass(2);
    eager.read_all();
    eager.read_all();
    let packets = |eager: &Eager<Known>, cookie| eager.counters(cookie).map(|c| c.packets);
    assert_eq!(packets(&eager, Cookie(1)), Some(60), "30 connections, 2 packets each");
    eager.sink.pass(1);
    let gone = eager.destroy(Cookie(1)).expect("it was there");
    assert_eq!((gone.packets, gone.bytes, gone.last_used), (90, 9000, 7));
    assert_eq!((eager.merged(), eager.sink.installed.len()), (60, 60));
    assert_eq!(packets(&eager, Cookie(1001)), Some(70), "60, and 10 of what went");

    let (id, connection) = first(&world, 1);
    for direction in [Direction::Original, Direction::Reply] {
        eager.gone(id, direction, connection.zone);
    }
    assert_eq!((eager.merged(), eager.sink.installed.len()), (59, 59));
    // Another mark is another connection to what was made of it.
    let (id, mut connection) = first(&world, 2);
    connection.mark = 1;
    let before: Vec<_> = eager.sink.installed.keys().copied().collect();
    tell(&mut eager, id, &connection);
    let news = eager.sink.installed.keys().filter(|id| !before.contains(id)).count();
    assert_eq!((eager.merged(), eager.sink.installed.len(), news), (59, 59, 1));
    // It comes back: the connections are still known.
    let (cookie, filter) = world.filters().into_iter().find(|f| f.0 == Cookie(1)).expect("it is of this world");
    assert!(eager.filter(cookie, filter));
    assert_eq!((eager.merged(), eager.sink.installed.len()), (89, 89));
    for (cookie, _) in world.filters() {
        eager.destroy(cookie).expect("it was there");
    }
    assert_eq!((eager.merged(), eager.sink.installed.len()), (0, 0));
}
