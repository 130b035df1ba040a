//! A merger, its hardware, and what each call promises: looked at right when the call returns, in the thread that made it.

use crate::device::{BYTES, Device};
use flowmerge::{
    conntrack::{Connection, ConnectionId, Direction, Tuple, proto},
    flower::{
        Action, ActionKind, Control, Cookie, Field, Filter, FilterId, Hook, Key, Match, Port,
        action::Ct,
        field::{ct_state, tcp_flags},
    },
    glance,
    hardware::MergedId,
    merger::{ConnectionEvent, Merger, Removed, Settings},
    table::{Inserted, life::State},
    walk::{Found, Hit, Walk},
};
use shuttle::thread;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

const IN: Port = Port(1);
/// The way's first filter: `ct` and on to the other chain; or only the latter.
pub const FIRST: u64 = 10;
/// Its last one, which sends to [`OUT`].
pub const LAST: u64 = 11;
/// One in front of [`LAST`], which drops all that comes from source port 1000.
pub const FRONT: u64 = 12;
/// A `skip_sw` filter.
pub const ALONE: u64 = 20;
/// What comes in front of it.
pub const ASIDE_FRONT: u64 = 21;
/// Where these two are.
const ASIDE: Port = Port(7);
/// Where [`LAST`] sends to.
pub const OUT: u32 = 2;
/// The zone, as `ct` has it.
const ZONE: u16 = 5;
/// A time by which all that waits is due.
const FAR: u64 = 1 << 60;

/// What a test begins with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setting {
    /// How many shards; 0: one.
    pub shards: u8,
    /// How much the hardware holds; 0: any number.
    pub size: usize,
    /// How many merged filters may be; 0: any number.
    pub merged: usize,
    /// [`LAST`] tracks connections, too, in a zone of its own: each merged filter rests on two.
    pub double: bool,
    /// No connection tracking: the way has no connections, and one merged filter takes all.
    pub plain: bool,
}

/// A merger under test.
pub struct World {
    pub merger: Merger<Device>,
    plain: bool,
    double: bool,
    told: Mutex<Vec<Removed>>,
    reset: AtomicBool,
    /// How often each filter's end was asked for, and of which it was told before it had come.
    asked: Mutex<BTreeMap<u64, usize>>,
    loose: Mutex<BTreeSet<u64>>,
    /// How many replace [`LAST`].
    replacing: AtomicUsize,
    /// The counts of what sent to [`OUT`] are nobody's.
    replaced: AtomicBool,
}

/// One of the threads of a test.
pub type Part = fn(&World);

impl World {
    /// One with the way's two filters, and connections from these source ports.
    pub fn new(setting: Setting, ports: &[u16]) -> World {
        // Each run makes a merger, and each atomic in it is one of the checker's.
        let seen = glance::Limits { shards: 0, connections: 64, verdicts: 16, ways: 16 };
        let mut settings = Settings { shards: setting.shards.max(1), settled: 0, seen, ..Settings::default() };
        if setting.merged > 0 {
            settings.limits.merged = setting.merged;
        }
        let device = Device::of_size(Some(setting.size).filter(|&size| size > 0));
        let merger = Merger::with(device, settings);
        let world = World {
            merger,
            plain: setting.plain,
            double: setting.double,
            told: Mutex::default(),
            reset: false.into(),
            asked: Mutex::default(),
            loose: Mutex::default(),
            replacing: 0.into(),
            replaced: false.into(),
        };
        world.enter(FIRST, world.first());
        world.enter(LAST, world.last(OUT));
        if !setting.plain {
            ports.iter().for_each(|&port| world.connected(port));
        }
        world
    }

    /// One that tracks two connections, 1000 and 1001.
    pub fn tracked() -> World {
        World::new(Setting::default(), &[1000, 1001])
    }

    /// One whose table holds a single merged filter, which this connection has and did not use of late.
    pub fn full(port: u16) -> World {
        let world = World::new(Setting { size: 1, ..Setting::default() }, &[1000, 1001, 1002]);
        world.merged(port);
        world.merger.sweep(1);
        world.merger.sweep(2);
        world
    }

    /// It with merged filters of these connections.
    pub fn with_merged(self, ports: &[u16]) -> World {
        ports.iter().for_each(|&port| self.merged(port));
        self
    }

    /// It with a walk of this connection in the queue.
    pub fn with_walk(self, port: u16) -> World {
        self.walked(port);
        self
    }

    fn first(&self) -> Filter {
        let kind = match self.plain {
            true => ActionKind::Gact { random: None },
            false => ActionKind::Ct(Ct { zone: ZONE, ..Ct::default() }),
        };
        filter(IN, 0, 2, Match::default(), vec![Action::new(kind, Control::Pipe), Action::gact(Control::Goto(1))])
    }

    fn last(&self, out: u32) -> Filter {
        let established = Match::default().with(Field::CtState, ct_state::ESTABLISHED, ct_state::ESTABLISHED);
        let matches = if self.plain { Match::default() } else { established };
        let mut actions = vec![Action::redirect(Port(out))];
        if self.double {
            let ct = ActionKind::Ct(Ct { zone: ZONE + 1, ..Ct::default() });
            actions.insert(0, Action::new(ct, Control::Pipe));
        }
        filter(IN, 1, 2, matches, actions)
    }

    fn enter(&self, cookie: u64, filter: Filter) {
        self.merger.replace(Cookie(cookie), filter, Inserted::Observed).expect("entered");
    }

    fn connected(&self, port: u16) {
        self.merger.connection(ConnectionEvent::Is(name(port), connection(port))).expect("nothing to remove");
        if self.double {
            let second = Connection { zone: ZONE + 1, ..connection(port) };
            self.merger.connection(ConnectionEvent::Is(second_name(port), second)).expect("nothing to remove");
        }
    }

    /// A walk of this connection is handed in.
    pub fn walked(&self, port: u16) {
        let found = Some(Found { connection: name(port), direction: Direction::Original });
        let found = if self.plain { vec![] } else { vec![found] };
        let second = Some(Found { connection: second_name(port), direction: Direction::Original });
        let second = if self.double { vec![second] } else { vec![] };
        let hits = vec![Hit { filter: Cookie(FIRST), found }, Hit { filter: Cookie(LAST), found: second }];
        self.merger.walk(Walk { port: IN, key: key(port), hits }).expect("room in the queue");
    }

    /// What waits is worked on.
    pub fn drain(&self) {
        self.drain_at(self.merger.time());
    }

    fn drain_at(&self, now: u64) {
        let removed = self.merger.drain(now).removed;
        locked(&self.told).extend(removed);
    }

    /// A walk of this connection is handed in, and what waits is worked on.
    pub fn tried(&self, port: u16) {
        self.walked(port);
        self.drain();
    }

    /// The same where nothing stands in its way: it is merged, and handled a packet.
    pub fn merged(&self, port: u16) {
        self.tried(port);
        assert!(self.packet(port), "merged");
    }

    /// A packet of this connection arrives. Whether the hardware handled it.
    pub fn packet(&self, port: u16) -> bool {
        self.merger.hardware().receive(IN, &key(port))
    }

    /// What waits is worked on, and a packet of this connection arrives.
    pub fn worked(&self, port: u16) {
        self.drain();
        self.packet(port);
    }

    /// Packets of these connections arrive, whoever handles them.
    pub fn packets(&self, ports: &[u16]) {
        for &port in ports {
            self.packet(port);
        }
    }

    /// A filter goes. When that has worked, nothing that derives from it is in hardware, and what is told is all. Asked again after
    /// a failure it only tells what was counted until then.
    pub fn destroy(&self, cookie: u64) {
        *locked(&self.asked).entry(cookie).or_default() += 1;
        let Ok(counts) = self.merger.destroy(Cookie(cookie)) else { return };
        let derived = self.derived(cookie);
        if locked(&self.loose).contains(&cookie) {
            return;
        }
        let told = counts.first().map_or(0, |c| c.packets);
        let handled = self.handled(cookie);
        let replaced = cookie == LAST && self.replacing.load(Relaxed) > 0;
        if replaced || locked(&self.asked)[&cookie] > 1 && !(derived.is_empty() && told == handled) {
            // Which of the two it was told of nobody can tell.
            let all = self.merger.hardware().handled(cookie, None);
            assert!(told <= all, "told {told} of {all}");
            locked(&self.loose).insert(cookie);
            return;
        }
        assert_eq!(derived, [], "derived from {cookie}, which is destroyed");
        assert_eq!(told, handled, "of {cookie}, which is destroyed");
        assert!(counts.iter().all(|c| (c.packets, c.bytes) == (handled, BYTES * handled)), "{counts:?}");
        self.merger.hardware().close(cookie);
    }

    /// What derives from the filter that has this cookie now.
    fn derived(&self, cookie: u64) -> Vec<MergedId> {
        let device = self.merger.hardware();
        let mut derived = device.derived(cookie, None);
        if cookie == LAST && self.replaced.load(Relaxed) {
            let before = device.derived(cookie, Some(OUT));
            derived.retain(|id| !before.contains(id));
        }
        derived
    }

    /// Another filter takes the place and the cookie of [`LAST`], and sends elsewhere.
    pub fn replace_last(&self, out: u32) {
        self.replacing.fetch_add(1, Relaxed);
        let done = self.merger.replace(Cookie(LAST), self.last(out), Inserted::Observed);
        self.replaced.store(true, Relaxed);
        // Who asked before was told of what is stuck.
        let first = self.replacing.load(Relaxed) == 1 && !locked(&self.asked).contains_key(&LAST);
        if done.is_ok() && first {
            assert_eq!(self.merger.hardware().derived(LAST, Some(OUT)), [], "derived from what was replaced");
        }
    }

    /// [`FRONT`] comes, which takes the packets from source port 1000.
    pub fn shadow(&self) {
        let matches = Match::default().exact(Field::IpProto, proto::TCP.into()).exact(Field::SrcPort, 1000);
        let front = filter(IN, 1, 1, matches, vec![Action::gact(Control::Shot)]);
        if self.merger.replace(Cookie(FRONT), front, Inserted::Observed).is_ok() {
            // Those who asked before were told of what is stuck.
            let stuck = !self.merger.stuck().is_empty();
            assert!(stuck || !self.packet(1000), "the filter in front takes it");
        }
    }

    /// Conntrack says that a connection is gone.
    pub fn gone(&self, port: u16) {
        if self.merger.connection(ConnectionEvent::Gone(name(port))).is_ok() {
            assert_eq!(self.merger.hardware().resting(port, None), [], "on {port}, which is gone");
        }
    }

    /// Conntrack says that the one in the second zone is gone.
    pub fn second_gone(&self, port: u16) {
        if self.merger.connection(ConnectionEvent::Gone(second_name(port))).is_ok() {
            assert_eq!(self.merger.hardware().resting(port, None), [], "on {port}, which is gone");
        }
    }

    /// A `skip_sw` filter comes, at a port of its own: it is in hardware at once.
    pub fn alone(&self) {
        if self.alone_or_not() {
            assert!(self.merger.hardware().receive(ASIDE, &key(1000)), "software does not have it");
        }
    }

    /// The same where the hardware may have lost it again. Whether it was entered.
    pub fn alone_or_not(&self) -> bool {
        let actions = vec![Action::redirect(Port(OUT))];
        let alone = Filter { skip_sw: true, ..filter(ASIDE, 0, 2, Match::default(), actions) };
        self.merger.replace(Cookie(ALONE), alone, Inserted::Observed).is_ok()
    }

    /// A filter comes in front of that, which leaves.
    pub fn in_front(&self) {
        let ttl = Match::default().exact(Field::IpTtl, 1);
        let front = filter(ASIDE, 0, 1, ttl, vec![Action::gact(Control::Shot)]);
        if self.merger.replace(Cookie(ASIDE_FRONT), front, Inserted::Observed).is_ok() {
            assert_eq!(self.merger.hardware().derived(ALONE, None), [], "another is in front");
        }
    }

    /// Conntrack says that a connection's mark has changed.
    pub fn marked(&self, port: u16, mark: u32) {
        let now = Connection { mark, ..connection(port) };
        if self.merger.connection(ConnectionEvent::Is(name(port), now)).is_ok() {
            assert_eq!(self.merger.hardware().resting(port, Some(0)), [], "on what {port} was");
        }
    }

    /// Conntrack tells of a connection, in which nothing has changed that something rests on.
    pub fn refreshed(&self, port: u16) {
        self.merger.connection(ConnectionEvent::Is(name(port), connection(port))).expect("nothing to remove");
    }

    /// A connection is given back to software.
    pub fn given_back(&self, port: u16) {
        if self.merger.give_back(name(port)).is_ok() {
            assert_eq!(self.merger.hardware().resting(port, None), [], "on {port}, which was given back");
        }
    }

    /// Packets that the hardware handled for a filter.
    fn handled(&self, cookie: u64) -> u64 {
        let device = self.merger.hardware();
        let all = device.handled(cookie, None);
        let others = cookie == LAST && self.replaced.load(Relaxed);
        all - if others { device.handled(cookie, Some(OUT)) } else { 0 }
    }

    /// What is told of a filter never runs backwards, and is never more than there was.
    pub fn stats(&self, cookie: u64) {
        let mut before = 0;
        for _ in 0..2 {
            let told = self.merger.stats(Cookie(cookie)).first().map_or(0, |c| c.packets);
            let handled = self.handled(cookie);
            assert!(before <= told && told <= handled, "told {before}, then {told}, of {handled}");
            before = told;
        }
    }

    /// What the hardware handled for a filter has been told, since nothing that derives from it is left.
    pub fn is_told(&self, cookie: u64) {
        let told = self.merger.counted(Cookie(cookie)).first().map_or(0, |c| c.packets);
        assert_eq!(told, self.handled(cookie), "of {cookie}, from which nothing derives");
    }

    /// The hardware loses everything, and says so.
    pub fn reset(&self) {
        self.reset.store(true, Relaxed);
        self.merger.hardware().lose_all();
        self.merger.reset(self.merger.time());
        self.merger.hardware().up();
    }

    /// Runs these at once, then looks at what is left.
    pub fn together<const N: usize>(self, parts: [Part; N]) {
        self.at_once(parts).end();
    }

    /// Runs these at once.
    pub fn at_once<const N: usize>(self, parts: [Part; N]) -> Arc<World> {
        let world = Arc::new(self);
        let threads = parts.map(|part| {
            let world = Arc::clone(&world);
            thread::spawn(move || part(&world))
        });
        for thread in threads {
            thread.join().expect("ends");
        }
        world
    }

    /// What must be true at the end of everything.
    pub fn end(&self) {
        let (merger, device) = (&self.merger, self.merger.hardware());
        device.heal();
        for step in 1..=8 {
            self.drain_at(FAR + (step << 40));
        }
        let snapshot = merger.snapshot();
        assert_eq!((snapshot.stuck.len(), snapshot.waiting, snapshot.queue), (0, 0, 0), "left over");
        assert!(snapshot.merged.iter().all(|m| m.state == State::Installed), "{:?}", snapshot.merged);
        let tracked: Vec<MergedId> = snapshot.merged.iter().map(|m| m.id).collect();
        assert_eq!(device.ids(), tracked, "in hardware, and tracked");
        assert_eq!(merger.merged_count(), tracked.len());
        for (id, _, rests, _) in &snapshot.connections {
            let rest = snapshot.merged.iter().filter(|m| m.connections.contains(id)).count();
            assert_eq!(*rests, rest, "links of {id:?}");
        }
        merger.read_all();
        for (cookie, ..) in &snapshot.filters {
            for counter in merger.counted(*cookie) {
                assert_eq!(counter.packets, self.handled(cookie.0), "of {cookie:?}");
            }
        }
        locked(&self.asked).clear();
        self.replacing.store(0, Relaxed);
        [FIRST, LAST, FRONT, ALONE, ASIDE_FRONT].into_iter().for_each(|cookie| self.destroy(cookie));
        for (id, ..) in snapshot.connections {
            merger.connection(ConnectionEvent::Gone(id)).expect("nothing to remove");
        }
        let table = merger.table();
        assert_eq!((table.way_count(), table.path_count()), (0, 0), "ways and paths");
        drop(table);
        assert_eq!(device.ids(), []);
        let left = (merger.merged_count(), merger.account_count(), merger.connection_count());
        assert_eq!(left, (0, 0, 0), "merged filters, accounts, connections");
        self.drain();
        self.each_was_told_once();
    }

    /// What left the hardware was told once, with all that it counted.
    fn each_was_told_once(&self) {
        let mut told = BTreeMap::new();
        for removed in locked(&self.told).iter() {
            assert_eq!(told.insert(removed.id, removed.counters.packets), None, "{} was told twice", removed.id);
        }
        if self.reset.load(Relaxed) {
            return;
        }
        let device = self.merger.hardware();
        for (&id, &packets) in &told {
            assert_eq!(packets, device.total(id), "{id}");
        }
        assert!(device.used().iter().all(|id| told.contains_key(id)), "not told");
    }
}

fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name(port: u16) -> ConnectionId {
    ConnectionId(port.into())
}

fn second_name(port: u16) -> ConnectionId {
    ConnectionId(u64::from(port) + (1 << 16))
}

fn connection(port: u16) -> Connection {
    let (src, dst) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let tuple = Tuple { src, dst, proto: proto::TCP, src_port: port, dst_port: 80 };
    Connection::established(ZONE, tuple, tuple.inverse())
}

fn filter(port: Port, chain: u32, prio: u16, matches: Match, actions: Vec<Action>) -> Filter {
    let id = FilterId { hook: Hook::Ingress(port), chain, prio, protocol: 0x800, handle: 1 };
    let matches = matches.exact(Field::Protocol, 0x800).exact(Field::EthType, 0x800);
    Filter::flower(id, matches, actions)
}

fn key(port: u16) -> Key {
    let mut frame = vec![0u8; 14 + BYTES as usize];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&(BYTES as u16).to_be_bytes());
    frame[22] = 64;
    frame[23] = proto::TCP;
    frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    frame[34..36].copy_from_slice(&port.to_be_bytes());
    frame[36..38].copy_from_slice(&80u16.to_be_bytes());
    frame[46..48].copy_from_slice(&[0x50, tcp_flags::ACK as u8]);
    flowmerge::packet::arrived(&frame)
}
