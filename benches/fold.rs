//! What the merge itself costs, without tables around it: to fold a walk, to hold a path against a packet, to fill it in.
//!
//! `cargo bench --bench fold`. The walk is that of [`World::five`]: five filters, and a connection that is translated; then the same
//! with filters in front that have to be kept out.

use criterion::{Criterion, criterion_group, criterion_main};
use flowmerge::flower::{Action, Control, Field, Filter, FilterId, Hook, Match};
use flowmerge_bench::{
    walked::{Walked, path},
    world::{PORT, World},
};
use std::hint::black_box;

fn in_front(chain: u32, matches: Match, control: Control) -> Filter {
    let id = FilterId { hook: Hook::Ingress(PORT), chain, prio: 1, protocol: 0x800, handle: 1 };
    Filter::flower(id, matches, vec![Action::gact(control)])
}

fn ip() -> Match {
    Match::default().exact(Field::Protocol, 0x800).exact(Field::EthType, 0x800)
}

fn benches(c: &mut Criterion) {
    let walked = Walked::new(&World::five(false), 0);
    // One that another tuple has, one of another TTL, one of a tag, one of a port behind the translation, one of a TOS.
    let front = [
        in_front(0, ip().exact(Field::Ipv4Src, 0x0a00_0009), Control::Shot),
        in_front(0, ip().exact(Field::IpTtl, 1), Control::Trap),
        in_front(1, Match::default().exact(Field::VlanId, 7), Control::Shot),
        in_front(2, ip().exact(Field::DstPort, 22), Control::Shot),
        in_front(3, ip().with(Field::IpTos, 0xb8, 0xfc), Control::Goto(9)),
    ];
    let (key, connections) = (walked.key(), walked.connections());
    for (name, scene) in [("5 filters", walked.scene(&[])), ("5 filters, 5 in front", walked.scene(&front))] {
        c.bench_function(&format!("fold {name}, and a connection"), |b| b.iter(|| path(black_box(&scene))));
        let path = path(&scene);
        assert!(path.fits(key, &connections));
        c.bench_function(&format!("fits, {name}"), |b| b.iter(|| black_box(&path).fits(black_box(key), &connections)));
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
