//! What the merge itself costs, without tables around it: to fold a walk, to hold a path against a packet, to fill it in.
//!
//! `cargo bench --bench fold`. The walk is that of [`flowmerge_bench::world`]: five filters, and a connection that is translated;
//! then the same with filters in front that have to be kept out.

use criterion::{Criterion, criterion_group, criterion_main};
use flowmerge::{
    conntrack::{Connection, Direction, Tuple, proto, tuple::address_bits},
    flower::{
        Action, ActionKind, Control, Cookie, Field, Filter, FilterId, Hook, Key, Masks, Match, Port,
        action::{Ct, Nat},
        field::{ct_state, tcp_flags},
    },
    merge::{Met, Order, Path, Ports, Scene, Step, fold},
};
use std::hint::black_box;

/// Ports without anything.
struct Plain;

impl Ports for Plain {
    fn is_down(&self, _: Port) -> bool {
        false
    }
    fn has_egress_filters(&self, _: Port) -> bool {
        false
    }
    fn has_ingress_filters(&self, _: Port) -> bool {
        false
    }
    fn is_bound(&self, _: Port, _: u32) -> bool {
        false
    }
}

fn filter(chain: u32, prio: u16, matches: Match, actions: Vec<Action>) -> Filter {
    Filter::flower(FilterId { hook: Hook::Ingress(Port(1)), chain, prio, protocol: 0x800, handle: 1 }, matches, actions)
}

fn ip() -> Match {
    Match::default().exact(Field::Protocol, 0x800).exact(Field::EthType, 0x800)
}

/// `ct nat` in chain 0, established in the next three, output in the last.
fn pipeline() -> Vec<Filter> {
    let established = ct_state::TRACKED | ct_state::ESTABLISHED;
    let filters = (0..5u32).map(|chain| {
        let goto = Action::gact(Control::Goto(chain + 1));
        let (matches, actions) = match chain {
            0 => {
                let ct = Ct { zone: 5, nat: Some(Nat::default()), ..Ct::default() };
                (ip(), vec![Action::new(ActionKind::Ct(ct), Control::Pipe), goto])
            }
            4 => (ip(), vec![Action::redirect(Port(2))]),
            _ => (ip().with(Field::CtState, established, established), vec![goto]),
        };
        filter(chain, 2, matches, actions)
    });
    filters.collect()
}

fn connection() -> Connection {
    let (src, dst) = ([10, 1, 0, 0].into(), [10, 0, 0, 50].into());
    let original = Tuple { src, dst, proto: proto::TCP, src_port: 1024, dst_port: 80 };
    let inside = Tuple { dst: [10, 0, 0, 2].into(), dst_port: 8000, ..original };
    Connection::established(5, original, inside.inverse())
}

fn packet(t: Tuple) -> Key {
    Key::ZERO
        .with(Field::Protocol, 0x800)
        .with(Field::EthType, 0x800)
        .with(Field::EthDst, 0x0200_0000_0001)
        .with(Field::AddrType, 2)
        .with(Field::IpProto, proto::TCP.into())
        .with(Field::IpTtl, 64)
        .with(Field::Ipv4Src, address_bits(t.src))
        .with(Field::Ipv4Dst, address_bits(t.dst))
        .with(Field::SrcPort, t.src_port.into())
        .with(Field::DstPort, t.dst_port.into())
        .with(Field::TcpFlags, tcp_flags::ACK)
}

/// What the table hands to the fold.
fn scene<'a>(filters: &'a [Filter], front: &'a [Filter], key: &'a Key, connection: &'a Connection) -> Scene<'a> {
    let met = Met { index: 0, direction: Direction::Original, connection };
    let steps = filters.iter().enumerate().map(|(i, filter)| Step {
        cookie: Cookie(i as u64),
        filter,
        in_front: front.iter().filter(|f| f.id.chain == filter.id.chain).map(|f| (f, Order::Before)).collect(),
        met: if i == 0 { vec![Some(met)] } else { Vec::new() },
    });
    let (steps, connections) = (steps.collect(), vec![connection]);
    Scene { port: Port(1), key, steps, connections, tell_tag: false, masks: &Masks::ANY }
}

fn path(scene: &Scene) -> Path {
    fold(scene, &Plain).unwrap_or_else(|refused| panic!("{}", refused.refusal))
}

fn benches(c: &mut Criterion) {
    let (filters, connection) = (pipeline(), connection());
    let key = packet(connection.original);
    // One that another tuple has, one of another TTL, one of a tag, one of a port behind the translation, one of a TOS.
    let front = [
        filter(0, 1, ip().exact(Field::Ipv4Src, 0x0a00_0009), vec![Action::gact(Control::Shot)]),
        filter(0, 1, ip().exact(Field::IpTtl, 1), vec![Action::gact(Control::Trap)]),
        filter(1, 1, Match::default().exact(Field::VlanId, 7), vec![Action::gact(Control::Shot)]),
        filter(2, 1, ip().exact(Field::DstPort, 22), vec![Action::gact(Control::Shot)]),
        filter(3, 1, ip().with(Field::IpTos, 0xb8, 0xfc), vec![Action::gact(Control::Goto(9))]),
    ];
    let (alone, shadowed) = (scene(&filters, &[], &key, &connection), scene(&filters, &front, &key, &connection));
    c.bench_function("fold 5 filters and a connection", |b| b.iter(|| path(black_box(&alone))));
    c.bench_function("fold 5 filters, 5 in front, and a connection", |b| b.iter(|| path(black_box(&shadowed))));
    for (name, scene) in [("5 filters", &alone), ("5 filters, 5 in front", &shadowed)] {
        let path = path(scene);
        let connections = [&connection];
        assert!(path.fits(&key, &connections));
        c.bench_function(&format!("fits, {name}"), |b| b.iter(|| black_box(&path).fits(black_box(&key), &connections)));
        c.bench_function(&format!("matches, {name}"), |b| b.iter(|| black_box(&path).matches(&connections)));
        c.bench_function(&format!("actions, {name}"), |b| b.iter(|| black_box(&path).actions(&connections, true)));
    }
}

criterion_group! {
    name = all;
    config = Criterion::default().warm_up_time(std::time::Duration::from_millis(300)).measurement_time(std::time::Duration::from_secs(2));
    targets = benches
}
criterion_main!(all);
