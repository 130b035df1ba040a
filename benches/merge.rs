//! What merging costs: a walk on a new path, on a known path, and one that is merged already, without real hardware.
//!
//! `cargo bench -p flowmerge`. Times wobble from machine to machine; compare lines of one run with each other.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use flowmerge::{
    conntrack::{Connection, ConnectionId, Direction, Tuple, proto, tuple::address_bits},
    flower::{
        Action, ActionKind, Capabilities, Control, Cookie, Field, Filter, FilterId, Hook, Key, Match, Port,
        action::{Ct, Nat},
        field::{ct_state, tcp_flags},
    },
    hardware::{Hardware, HardwareError, MergedId, Offer, Reading},
    merger::{ConnectionEvent, Limits, Merger},
    table::Inserted,
    walk::{Found, Hit, Walk},
};

/// Hardware that takes everything at once.
struct Instant;

impl Hardware for Instant {
    fn capabilities(&self) -> Capabilities {
        Capabilities::all()
    }
    fn install(&self, _: &Offer<'_>) -> Result<(), HardwareError> {
        Ok(())
    }
    fn remove(&self, _: MergedId) -> Result<Reading, HardwareError> {
        Ok(Reading::default())
    }
    fn read(&self, ids: &[MergedId], each: &mut dyn FnMut(MergedId, Result<Reading, HardwareError>)) {
        ids.iter().for_each(|&id| each(id, Ok(Reading::default())));
    }
}

/// Five filters: `ct nat` in chain 0, established in the next three, output in the last.
fn pipeline() -> Vec<Filter> {
    let established = ct_state::TRACKED | ct_state::ESTABLISHED;
    (0..5u32)
        .map(|chain| {
            let ip = Match::default().exact(Field::Protocol, 0x800).exact(Field::EthType, 0x800);
            let (matches, actions) = match chain {
                0 => {
                    let ct = Ct { zone: 5, nat: Some(Nat::default()), ..Ct::default() };
                    let goto = Action::gact(Control::Goto(1));
                    (ip, vec![Action::new(ActionKind::Ct(ct), Control::Pipe), goto])
                }
                4 => (ip, vec![Action::redirect(Port(2))]),
                n => {
                    let goto = Action::gact(Control::Goto(n + 1));
                    (ip.with(Field::CtState, established, established), vec![goto])
                }
            };
            let id = FilterId { hook: Hook::Ingress(Port(1)), chain, prio: 2, protocol: 0x800, handle: 1 };
            Filter::flower(id, matches, actions)
        })
        .collect()
}

fn connection(n: u32) -> Connection {
    let src = u32::from_be_bytes([10, 1, 0, 0]) + n / 50_000;
    let src_port = 1024 + (n % 50_000) as u16;
    let original = Tuple {
        src: std::net::Ipv4Addr::from(src).into(),
        dst: [10, 0, 0, 50].into(),
        proto: proto::TCP,
        src_port,
        dst_port: 80,
    };
    let inside = Tuple { dst: [10, 0, 0, 2].into(), dst_port: 8000, ..original };
    Connection::established(5, original, inside.inverse())
}

fn walk(n: u32) -> Walk {
    let t = connection(n).original;
    let key = Key::ZERO
        .with(Field::Protocol, 0x800)
        .with(Field::EthType, 0x800)
        .with(Field::AddrType, 2)
        .with(Field::IpProto, proto::TCP as u128)
        .with(Field::Ipv4Src, address_bits(t.src))
        .with(Field::Ipv4Dst, address_bits(t.dst))
        .with(Field::SrcPort, t.src_port as u128)
        .with(Field::DstPort, t.dst_port as u128)
        .with(Field::TcpFlags, tcp_flags::ACK);
    let found = Found { connection: ConnectionId(n as u64), direction: Direction::Original };
    let hits = (0..5u64)
        .map(|i| Hit { filter: Cookie(i), found: if i == 0 { vec![Some(found)] } else { Vec::new() } })
        .collect();
    Walk { port: Port(1), key, hits }
}

/// A merger with the pipeline, and that many connections merged.
fn merger(merged: u32) -> Merger<Instant> {
    let mut m = Merger::with_limits(Instant, Limits { queue: usize::MAX, merged: usize::MAX, ..Limits::default() });
    for (i, filter) in pipeline().into_iter().enumerate() {
        m.replace(Cookie(i as u64), filter, Inserted::Observed).expect("removes");
    }
    for n in 0..merged {
        m.connection(ConnectionEvent::Is(ConnectionId(n as u64), connection(n))).expect("removes");
        m.walk(walk(n)).expect("room");
    }
    let refused = m.drain(0).walks.into_iter().find_map(|w| w.1.err());
    assert_eq!(refused, None);
    m
}

fn add(m: &mut Merger<Instant>, walk: Walk) {
    m.walk(walk).expect("room");
    let merged = m.drain(0).walks.remove(0).1;
    assert_eq!(merged.err(), None);
}

fn benches(c: &mut Criterion) {
    c.bench_function("new path, 5 filters and a connection", |b| {
        let fresh = || {
            let mut m = merger(0);
            m.connection(ConnectionEvent::Is(ConnectionId(0), connection(0))).expect("removes");
            (m, walk(0))
        };
        b.iter_batched(
            fresh,
            |(mut m, w)| {
                add(&mut m, w);
                m
            },
            BatchSize::SmallInput,
        );
    });
    for merged in [10_000, 100_000] {
        let mut m = merger(merged);
        let mut n = merged;
        c.bench_function(&format!("known path, {merged} merged"), |b| {
            let next = || {
                n += 1;
                (ConnectionEvent::Is(ConnectionId(n as u64), connection(n)), walk(n))
            };
            let both = std::cell::RefCell::new((&mut m, next));
            b.iter_batched(
                || {
                    let (m, next) = &mut *both.borrow_mut();
                    let (event, walk) = next();
                    m.connection(event).expect("removes");
                    walk
                },
                |w| add(both.borrow_mut().0, w),
                BatchSize::SmallInput,
            );
        });
        c.bench_function(&format!("already merged, {merged} merged"), |b| {
            b.iter_batched(|| walk(merged / 2), |w| add(&mut m, w), BatchSize::SmallInput);
        });
    }
}

criterion_group! {
    name = all;
    // Short, as each sample of a known path leaves its merged filters behind.
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(200)).measurement_time(std::time::Duration::from_millis(500));
    targets = benches
}
criterion_main!(all);
