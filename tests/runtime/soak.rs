//! The soak: connections come and go over a thousand filters, from six threads at once, while the hardware fails now and then.
//!
//! Two workers call `drain`, one thread destroys and enters filters, one tells of connections, one sends packets, one reads and ages.
//! While it runs: what is gone has left the hardware when the call returns, and counters do not run backwards. At the end: every
//! packet that the hardware handled has been counted once at each filter of its way, and nothing is left of anything. In a second
//! part the hardware is reset besides, and loses what was not read.
//!
//! `FLOWMERGE_SOAK=300`: seconds, instead of a few; best with `CARGO_PROFILE_DEV_OPT_LEVEL=2` and `-- --nocapture soak`. The seeds of
//! all choices are fixed; which thread comes first is not.

use super::faulty::Faulty;
use flowmerge::{
    conntrack::{Connection, ConnectionId, Direction, Tuple, proto},
    flower::{
        Action, ActionKind, Capabilities, Control, Cookie, Counters, Field, Filter, FilterId, Hook, Match, Port,
        action::Ct,
        field::{ct_state, tcp_flags},
    },
    merger::{ConnectionEvent, Limits, Merger, Settings},
    packet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        thread,
    },
    table::Inserted,
    walk::{Found, Hit, Walk},
};
use std::time::{Duration, Instant};

const IN: Port = Port(1);
const OUT: Port = Port(2);
/// Services, each with a filter in chain 0 and one in a chain of its own.
const SERVICES: u64 = 500;
/// Connections that are there at a time.
const ALIVE: u64 = 1500;
/// A filter is destroyed each time that so many packets came.
const PACKETS_PER_DESTROY: u64 = 20;
/// The hardware is not reset before it handled so many packets more: it is down for long where threads wait for a processor.
const PACKETS_PER_RESET: u64 = 50;
const MS: u64 = 1_000_000;

fn first(service: u64) -> Cookie {
    Cookie(service + 1)
}

fn second(service: u64) -> Cookie {
    Cookie(10_000 + service)
}

fn filters(service: u64) -> [Filter; 2] {
    let chain = 1 + service as u32;
    let id = |chain, handle| FilterId { hook: Hook::Ingress(IN), chain, prio: 2, protocol: 0x800, handle };
    let ip = Match::default().exact(Field::Protocol, 0x800).exact(Field::EthType, 0x800).exact(Field::IpProto, 6);
    let ct = Action::new(ActionKind::Ct(Ct { zone: 5, ..Ct::default() }), Control::Goto(chain));
    let established = ip.with(Field::CtState, ct_state::ESTABLISHED, ct_state::ESTABLISHED);
    let port = ip.exact(Field::DstPort, service_port(service).into());
    [
        Filter::flower(id(0, chain), port, vec![ct]),
        Filter::flower(id(chain, 1), established, vec![Action::redirect(OUT)]),
    ]
}

fn service_port(service: u64) -> u16 {
    2000 + service as u16
}

/// The service of the `n`-th connection.
fn service_of(n: u64) -> u64 {
    n % SERVICES
}

fn tuple(n: u64) -> Tuple {
    let client = n / SERVICES;
    let [.., b, c, d] = (client as u32).to_be_bytes();
    Tuple {
        src: [10, b, c, d].into(),
        dst: [11, 0, 0, 1].into(),
        proto: proto::TCP,
        src_port: 1000,
        dst_port: service_port(service_of(n)),
    }
}

fn frame(n: u64) -> Vec<u8> {
    let t = tuple(n);
    let mut f = vec![0u8; 54];
    f[12..18].copy_from_slice(&[8, 0, 0x45, 0, 0, 40]);
    f[22..24].copy_from_slice(&[64, proto::TCP]);
    let client = (n / SERVICES) as u32;
    f[26..30].copy_from_slice(&(10 << 24 | client & 0xff_ffff).to_be_bytes());
    f[30..34].copy_from_slice(&[11, 0, 0, 1]);
    f[34..36].copy_from_slice(&t.src_port.to_be_bytes());
    f[36..38].copy_from_slice(&t.dst_port.to_be_bytes());
    f[46..48].copy_from_slice(&[0x50, tcp_flags::ACK as u8]);
    f
}

fn connection(n: u64, mark: u32) -> Connection {
    Connection { mark, ..Connection::established(5, tuple(n), tuple(n).inverse()) }
}

/// xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// What threads share.
struct Soak {
    m: Merger<Faulty>,
    stop: AtomicBool,
    clock: AtomicU64,
    /// The youngest connection.
    youngest: AtomicU64,
    handled: AtomicU64,
    software: AtomicU64,
    merged: AtomicU64,
    refused: AtomicU64,
    destroyed: AtomicU64,
    resets: AtomicU64,
    /// What second filters told when they were destroyed.
    told: Mutex<Counters>,
}

/// When a thread ends, by a panic too, all do.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

impl Soak {
    fn new() -> Soak {
        let hardware = Faulty::new(Capabilities { size: Some(1200), ..Capabilities::all() }, 77);
        let limits = Limits { queue: 256, ..Limits::default() };
        let settings = Settings { limits, idle: Some(200 * MS), settled: 20 * MS, ..Settings::default() };
        let soak = Soak {
            m: Merger::with(hardware, settings),
            stop: AtomicBool::new(false),
            clock: AtomicU64::new(MS),
            youngest: AtomicU64::new(0),
            handled: AtomicU64::new(0),
            software: AtomicU64::new(0),
            merged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            destroyed: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            told: Mutex::new(Counters::default()),
        };
        for service in 0..SERVICES {
            let [one, two] = filters(service);
            soak.m.replace(first(service), one, Inserted::Observed).expect("entered");
            soak.m.replace(second(service), two, Inserted::Observed).expect("entered");
        }
        soak.m.hardware().set(|f| f.chance = 20);
        soak
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1000, Relaxed)
    }

    fn until(&self, mut each: impl FnMut()) {
        let _ends = Ends(&self.stop);
        while !self.stop.load(Relaxed) {
            each();
        }
    }

    /// Destroys a second filter, as often as it takes, and has its last counts.
    fn destroy(&self, service: u64) {
        let counters = loop {
            match self.m.destroy(second(service)) {
                Ok(counters) => break counters,
                Err(_) => drop(self.m.drain(self.clock.fetch_add(MS, Relaxed))),
            }
        };
        assert_eq!(counters.len(), 1);
        self.told.lock().add(counters[0]);
    }

    fn control(&self) {
        let mut random = Random(3);
        self.until(|| {
            // Not so often that nothing stays in hardware for a while.
            let packets = self.handled.load(Relaxed) + self.software.load(Relaxed);
            if self.destroyed.load(Relaxed) > packets / PACKETS_PER_DESTROY {
                return thread::yield_now();
            }
            let service = random.below(SERVICES);
            self.destroy(service);
            self.destroyed.fetch_add(1, Relaxed);
            let port = u128::from(service_port(service));
            for entry in self.m.hardware().memory.entries() {
                assert!(entry.matches.key.get(Field::DstPort) != port, "{entry:?} of a filter that is gone");
            }
            let [_, filter] = filters(service);
            self.m.replace(second(service), filter, Inserted::Observed).expect("nothing is in its way");
            if random.below(50) == 0 {
                for up in [false, true] {
                    let _ = self.m.port(OUT, up);
                }
            }
        });
    }

    fn connections(&self) {
        let mut random = Random(5);
        self.until(|| {
            let n = self.youngest.load(Relaxed) + 1;
            // Not so many that they are gone before hardware handles them.
            if n > ALIVE + self.merged.load(Relaxed) + self.refused.load(Relaxed) {
                return thread::yield_now();
            }
            let _ = self.m.connection(ConnectionEvent::Is(ConnectionId(n), connection(n, 0)));
            self.youngest.store(n, Relaxed);
            let alive = n.saturating_sub(random.below(ALIVE)).max(1);
            match random.below(20) {
                0 => drop(self.m.connection(ConnectionEvent::Is(ConnectionId(alive), connection(alive, n as u32)))),
                1 => drop(self.m.give_back(ConnectionId(alive)).map(|_| self.m.take_back(ConnectionId(alive)))),
                _ => {}
            }
            if let Some(old) = n.checked_sub(ALIVE) {
                let gone = self.m.connection(ConnectionEvent::Gone(ConnectionId(old)));
                let key = packet::arrived(&frame(old)).with(Field::Indev, IN.0.into());
                let there = self.m.hardware().memory.lookup(IN, &key);
                let stuck = there.is_some_and(|id| self.m.stuck().iter().any(|e| e.id() == id));
                let left = there.is_none() || stuck || self.m.hardware().memory.lookup(IN, &key).is_none();
                assert!(gone.is_err() || left, "{there:?} of a connection that is gone");
            }
        });
    }

    fn packets(&self) {
        let mut random = Random(7);
        self.until(|| {
            let youngest = self.youngest.load(Relaxed);
            if self.m.queued() > 100 {
                return thread::yield_now();
            }
            // Most are of few.
            let back = random.below(ALIVE + 50).min(random.below(ALIVE));
            let Some(n) = youngest.checked_sub(back).filter(|&n| n > 0) else { return };
            let frame = frame(n);
            for _ in 0..=random.below(4) {
                if self.m.hardware().memory.receive(IN, &frame, self.now()).is_some() {
                    self.handled.fetch_add(1, Relaxed);
                    continue;
                }
                self.software.fetch_add(1, Relaxed);
                let found = Some(Found { connection: ConnectionId(n), direction: Direction::Original });
                let one = Hit { filter: first(service_of(n)), found: vec![found] };
                let two = Hit { filter: second(service_of(n)), found: vec![] };
                self.m.walk(Walk { port: IN, key: packet::arrived(&frame), hits: vec![one, two] });
            }
        });
    }

    fn work(&self) {
        self.until(|| {
            for (_, outcome) in self.m.drain(self.now()).walks {
                let tally = if outcome.is_ok() { &self.merged } else { &self.refused };
                tally.fetch_add(1, Relaxed);
            }
            thread::yield_now();
        });
    }

    fn read(&self, resets: bool) {
        let mut random = Random(9);
        let mut last = vec![0; SERVICES as usize];
        self.until(|| {
            let service = random.below(SERVICES);
            let packets = self.m.stats(first(service))[0].packets;
            assert!(packets >= last[service as usize], "a counter runs backwards");
            last[service as usize] = packets;
            match random.below(200) {
                0 => self.m.sweep(self.now()),
                1 => drop(self.m.keep_alive(self.now())),
                2 if resets && self.handled.load(Relaxed) >= PACKETS_PER_RESET * (1 + self.resets.load(Relaxed)) => {
                    self.m.hardware().reset(|| {
                        thread::yield_now();
                        self.m.reset(self.now());
                    });
                    self.resets.fetch_add(1, Relaxed);
                }
                _ => {}
            }
        });
    }

    fn run(&self, time: Duration, resets: bool) {
        let begun = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| self.control());
            scope.spawn(|| self.connections());
            scope.spawn(|| self.packets());
            scope.spawn(|| self.work());
            scope.spawn(|| self.work());
            let reader = scope.spawn(|| self.read(resets));
            while begun.elapsed() < time && !self.stop.load(Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
            }
            self.stop.store(true, Relaxed);
            while !reader.is_finished() {
                let hangs = begun.elapsed() > time + Duration::from_secs(120);
                if hangs {
                    eprintln!("a thread hangs: {:?}", self.m.turned());
                    std::process::abort();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        self.end(resets);
        let told = |tally: &AtomicU64| tally.load(Relaxed);
        // Where nothing happened, everything balances.
        let happened = [&self.destroyed, &self.handled, &self.software, &self.merged, &self.refused].map(told);
        assert!(!happened.contains(&0), "{happened:?}");
        assert_eq!((told(&self.resets) > 0, self.m.hardware().failed() > 0), (resets, true), "resets and faults");
        println!(
            "soak{}: {:.1} s, {} connections, {} filters destroyed, {} packets in hardware and {} in software, {} walks \
             merged and {} refused {:?}, {} faults, {} resets; {:?}",
            if resets { " with resets" } else { "" },
            begun.elapsed().as_secs_f64(),
            told(&self.youngest),
            told(&self.destroyed),
            told(&self.handled),
            told(&self.software),
            told(&self.merged),
            told(&self.refused),
            self.m.refused(),
            self.m.hardware().failed(),
            told(&self.resets),
            self.m.turned(),
        );
    }

    /// The hardware works again, and everything goes.
    fn end(&self, resets: bool) {
        self.m.hardware().set(|f| *f = Default::default());
        let drain = || self.m.drain(self.clock.fetch_add(100_000 * MS, Relaxed));
        (0..3).for_each(|_| drop(drain()));
        assert_eq!(self.m.stuck(), []);
        let youngest = self.youngest.load(Relaxed);
        for n in youngest.saturating_sub(ALIVE)..=youngest {
            self.m.connection(ConnectionEvent::Gone(ConnectionId(n))).expect("removed");
        }
        assert_eq!((self.m.merged_count(), self.m.connection_count()), (0, 0));
        assert_eq!(self.m.hardware().memory.entries(), [], "in hardware, and nobody knows it");
        let mut firsts = Counters::default();
        for service in 0..SERVICES {
            let counters = self.m.destroy(first(service)).expect("removed");
            firsts.add(counters[0]);
            self.destroy(service);
        }
        let seconds = *self.told.lock();
        let handled = self.handled.load(Relaxed);
        assert_eq!((firsts.packets, firsts.bytes), (seconds.packets, seconds.bytes));
        match resets {
            false => assert_eq!(
                (firsts.packets, firsts.bytes),
                (handled, handled * 40),
                "what hardware counted and what parents have"
            ),
            true => assert!(firsts.packets <= handled, "{} of {handled}", firsts.packets),
        }
        (0..3).for_each(|_| drop(drain()));
        let snapshot = self.m.snapshot();
        assert_eq!((self.m.account_count(), snapshot.queue, snapshot.waiting), (0, 0, 0));
        let table = self.m.table();
        assert_eq!((table.path_count(), table.way_count(), table.filters().count()), (0, 0, 0));
        drop(table);
        if !resets {
            assert_eq!(self.m.hardware().wrong(), Vec::<String>::new());
        }
    }
}

fn seconds() -> f64 {
    std::env::var("FLOWMERGE_SOAK").ok().and_then(|s| s.parse().ok()).unwrap_or(6.0)
}

#[test]
fn soak_without_a_loss_every_packet_is_counted_once() {
    Soak::new().run(Duration::from_secs_f64(seconds() * 2.0 / 3.0), false);
}

#[test]
fn soak_with_resets_nothing_is_left_behind() {
    Soak::new().run(Duration::from_secs_f64(seconds() / 3.0), true);
}
