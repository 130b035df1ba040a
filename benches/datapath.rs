//! What a packet costs in the datapath: recording its walk, recognising it, handing it over.
//!
//! `cargo bench --bench datapath`. Time of this thread on a processor, not of the clock on the wall: others may use the machine.
//! The goals in the names are those of one machine; compare lines of one run.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use flowmerge::{
    conntrack::{ConnectionHandle, Direction},
    datapath::{self, Became, Bell, Datapath, Inbox, PacketId},
    flower::{Cookie, Field, Key, Match, Port, field::tcp_flags},
    glance::{self, Decided, Glance, Verdict, VerdictId},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    walk::Record,
};
use flowmerge_bench::clock::{ThreadCpu, timed};
use std::{hint::black_box, time::Duration};

const PORT: Port = Port(1);

fn packet() -> Key {
    Key::ZERO
        .with(Field::EthDst, 0x0200_0000_0001)
        .with(Field::EthSrc, 0x0200_0000_0002)
        .with(Field::Protocol, 0x800)
        .with(Field::EthType, 0x800)
        .with(Field::AddrType, 2)
        .with(Field::IpProto, 6)
        .with(Field::IpTtl, 64)
        .with(Field::Ipv4Src, 0x0a00_0001)
        .with(Field::Ipv4Dst, 0x0a00_0002)
        .with(Field::SrcPort, 1024)
        .with(Field::DstPort, 80)
        .with(Field::TcpFlags, tcp_flags::ACK)
}

/// The constants that a path of `ct` and five filters asks for.
fn constants() -> Match {
    Match::default()
        .exact(Field::Protocol, 0x800)
        .exact(Field::EthType, 0x800)
        .exact(Field::AddrType, 2)
        .exact(Field::IpProto, 6)
        .with(Field::IpFlags, 0, 1)
        .with(Field::TcpFlags, tcp_flags::ACK, tcp_flags::ACK | tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST)
}

fn record(key: &Key, connection: Option<ConnectionHandle>) -> Record<'_> {
    let mut record = Record::new(PORT, key, 0);
    for n in 0..5 {
        record.hit(black_box(Cookie(0xffff_8880_0000_0000 | n << 8)));
        if n == 0 {
            record.found(connection, Direction::Original);
        }
    }
    record
}

struct World {
    glance: Arc<Glance>,
    inbox: Arc<Inbox>,
    datapath: Datapath,
    connections: Vec<ConnectionHandle>,
}

fn world(connections: usize, bell: Bell) -> World {
    let glance =
        Arc::new(Glance::new(glance::Limits { connections: connections.max(1), shards: 1, ..Default::default() }));
    let connections: Vec<_> = (0..connections as u32).map(|slot| glance.open(0, slot).expect("room")).collect();
    connections.iter().for_each(|&c| glance.qualify(c, true));
    let inbox = Arc::new(Inbox::new(Arc::clone(&glance), bell, datapath::Limits { queue: 8192, ..Default::default() }));
    let datapath = inbox.datapath();
    World { glance, inbox, datapath, connections }
}

impl World {
    fn merged(&self) -> VerdictId {
        let key = packet();
        let verdict =
            Verdict::of(PORT, record(&key, self.connections.first().copied()).steps(), &constants(), Decided::Merged);
        self.glance.publish(&verdict).expect("room")
    }
}

/// Numbers in no order that a processor could guess.
fn shuffled(n: usize) -> impl Iterator<Item = usize> {
    let mut state = 1u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    })
}

fn recording(c: &mut Criterion<ThreadCpu>) {
    let key = packet();
    c.bench_function("begin a record (part of a packet's 15 ns)", |b| {
        b.iter(|| black_box(Record::new(PORT, black_box(&key), 0)).port)
    });
    c.bench_function("record 16 hits (16 ns: 1 each)", |b| {
        b.iter_batched_ref(
            || Record::new(PORT, &key, 0),
            |record| (0..16).for_each(|n| black_box(&mut *record).hit(black_box(Cookie(n)))),
            BatchSize::SmallInput,
        );
    });
    c.bench_function("record a packet of 5 hits and a connection", |b| {
        b.iter(|| black_box(record(black_box(&key), ConnectionHandle::new(0, 7, 1))).port)
    });
}

fn recognising(c: &mut Criterion<ThreadCpu>) {
    let key = packet();
    for cells in [10_000, 1_000_000] {
        let mut w = world(cells, Bell::silent());
        let verdict = w.merged();
        assert!(w.connections.iter().all(|&c| w.glance.list(c, None, verdict)));
        let hot: Vec<_> = shuffled(cells).take(256).map(|n| w.connections[n]).collect();
        let all: Vec<_> = shuffled(cells).take(1 << 20).map(|n| w.connections[n]).collect();
        for (what, order) in [("256 of", &hot), ("any of", &all)] {
            let mut at = 0;
            c.bench_function(&format!("a packet of 5 hits, merged, {what} {cells} connections (15 ns)"), |b| {
                b.iter(|| {
                    at = (at + 1) & (order.len() - 1);
                    let record = record(black_box(&key), Some(order[at]));
                    assert_eq!(w.datapath.finish(&record), Became::Merged);
                });
            });
        }
        let mut at = 0;
        c.bench_function(&format!("the same on the datapath's stack, 256 of {cells}"), |b| {
            b.iter(|| {
                at = (at + 1) & (hot.len() - 1);
                w.datapath.begin(PORT, black_box(&key));
                for n in 0..5 {
                    w.datapath.hit(black_box(Cookie(0xffff_8880_0000_0000 | n << 8)));
                    if n == 0 {
                        w.datapath.found(Some(hot[at]), Direction::Original);
                    }
                }
                assert_eq!(w.datapath.end(), Became::Merged);
            });
        });
        c.bench_function(&format!("the same by the packet's name, 256 of {cells}"), |b| {
            b.iter(|| {
                at = (at + 1) & (hot.len() - 1);
                let packet = PacketId(0xffff_8880_1000_0000 | (at as u64) << 8);
                w.datapath.begin_of(packet, PORT, black_box(&key));
                for n in 0..5 {
                    w.datapath.hit_of(packet, black_box(Cookie(0xffff_8880_0000_0000 | n << 8)));
                    if n == 0 {
                        w.datapath.found_of(packet, Some(hot[at]), Direction::Original);
                    }
                }
                assert_eq!(w.datapath.end_of(packet), Became::Merged);
            });
        });
    }
    let mut w = world(0, Bell::silent());
    assert!(w.glance.show(w.merged()));
    c.bench_function("a packet of 5 hits without a connection, merged (15 ns)", |b| {
        b.iter(|| assert_eq!(w.datapath.finish(&record(black_box(&key), None)), Became::Merged));
    });
}

/// As many walks as there is room for.
const WALKS: usize = 4096;

/// Does something that many times, [`WALKS`] at the most in one go, which is told how many and says what they took.
fn in_goes(times: u64, mut some: impl FnMut(usize) -> Duration) -> Duration {
    let mut left = times as usize;
    let goes = std::iter::from_fn(|| {
        let now = left.min(WALKS);
        left -= now;
        (now > 0).then_some(now)
    });
    goes.map(&mut some).sum()
}

fn handing_over(c: &mut Criterion<ThreadCpu>) {
    let key = packet();
    // Each walk is of another connection, and is taken out between the measurements.
    let mut w = world(WALKS, Bell::silent());
    let mut batch = w.inbox.batch();
    let World { inbox, datapath, connections, .. } = &mut w;
    let mut hand_over = |walks: usize| {
        for &connection in &connections[..walks] {
            assert_eq!(datapath.finish(&record(&key, Some(connection))), Became::HandedOver);
        }
    };
    c.bench_function("a packet of 5 hits, new, handed over (20 ns more than recording)", |b| {
        b.iter_custom(|times| {
            in_goes(times, |walks| {
                let took = timed(|| hand_over(walks));
                assert_eq!(inbox.take(&mut batch, WALKS), walks);
                while batch.next_walk().is_some() {}
                took
            })
        });
    });
    c.bench_function("take a walk out, in batches of 64", |b| {
        b.iter_custom(|times| {
            in_goes(times, |walks| {
                hand_over(walks);
                timed(|| {
                    while inbox.take(&mut batch, 64) > 0 {
                        while let Some(walk) = batch.next_walk() {
                            black_box(walk);
                        }
                    }
                })
            })
        });
    });
}

/// What makes a wake-up safe, by itself: a store and a look whether someone sleeps.
fn fences(c: &mut Criterion<ThreadCpu>) {
    moved(c, "store, which may miss a wake-up", |tail, n| tail.store(n, Ordering::Release));
    moved(c, "swap", |tail, n| {
        tail.swap(n, Ordering::AcqRel);
    });
    moved(c, "store and full fence", |tail, n| {
        tail.store(n, Ordering::Release);
        fence(Ordering::SeqCst);
    });
}

fn moved(c: &mut Criterion<ThreadCpu>, how: &str, to: impl Fn(&AtomicU64, u64)) {
    let (tail, asleep) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut n = 0;
    c.bench_function(&format!("move a tail: {how}"), |b| {
        b.iter(|| {
            n += 1;
            to(&tail, n);
            asleep.load(Ordering::Relaxed) as u64 + n
        });
    });
}

criterion_group! {
    name = all;
    config = Criterion::default().with_measurement(ThreadCpu).sample_size(30).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
    targets = recording, recognising, handing_over, fences
}
criterion_main!(all);
