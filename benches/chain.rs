//! What filters in one chain cost each other: a filter that comes and goes and overlaps nothing, and what stands in front of a hit,
//! with 1,000 and with 100,000 filters in the chain, of one mask and of a hundred; and what trying all would cost.
//!
//! `cargo bench --bench chain`. Compare lines of one run with each other: both should hardly grow.

use criterion::{Criterion, criterion_group, criterion_main};
use flowmerge::{
    flower::{Action, Control, Cookie, Field, Filter, FilterId, Hook, Match, Port, Range},
    hardware::Memory,
    merger::Merger,
    table::{Account, Inserted, Table, overlap},
};
use std::hint::black_box;

fn filter(prio: u16, handle: u32, matches: Match) -> Filter {
    let id = FilterId { hook: Hook::Ingress(Port(1)), chain: 0, prio, protocol: 0x800, handle };
    let matches = matches.exact(Field::Protocol, 0x800).exact(Field::EthType, 0x800);
    Filter::flower(id, matches, vec![Action::gact(Control::Shot)])
}

/// Filter `n` of the chain: to an address of its own, with a prefix of its mask, a priority per mask as OVS has it.
fn nth(n: u32, masks: u32) -> Filter {
    let of = n % masks;
    let matches = Match::default()
        .exact(Field::EthDst, 0x0200_0000_0000 | u128::from(n))
        .exact(Field::AddrType, 2)
        .with(Field::Ipv4Src, 0x0a00_0000, u128::from(u32::MAX << (of % 24)))
        .with(Field::IpTos, 0, u128::from(of / 24))
        .exact(Field::Ipv4Dst, u128::from(0x0b00_0000 + n));
    filter(10 + of as u16, n + 1, matches)
}

/// Asks less than any of them, and what none of them has.
fn stranger(prio: u16) -> Filter {
    let matches =
        Match::default().exact(Field::AddrType, 2).exact(Field::Ipv4Dst, 0x0c00_0001).exact(Field::IpProto, 6);
    let ports = Range { min: 80, max: 90 };
    filter(prio, 1 << 30, Match { dst_range: Some(ports), ..matches })
}

fn benches(c: &mut Criterion) {
    for (filters, masks) in [(1_000, 1), (100_000, 1), (1_000, 100), (100_000, 100)] {
        let what = format!("{filters} filters of {masks} masks");
        let m = Merger::new(Memory::default());
        for n in 0..filters {
            m.replace(Cookie(n.into()), nth(n, masks), Inserted::Observed).expect("removes");
        }
        let new = Cookie(u64::MAX);
        c.bench_function(&format!("replace and destroy in front of {what}"), |b| {
            b.iter(|| {
                m.replace(new, stranger(1), Inserted::Observed).expect("removes");
                m.destroy(new).expect("removes")
            });
        });
        c.bench_function(&format!("replace and destroy among {what}"), |b| {
            b.iter(|| {
                m.replace(new, nth(filters + 7, masks), Inserted::Observed).expect("removes");
                m.destroy(new).expect("removes")
            });
        });
        let mut table = Table::default();
        for n in 0..filters {
            table.insert_filter(Cookie(n.into()), nth(n, masks), Account::NOBODY, Inserted::Observed, None, 0);
        }
        table.insert_filter(new, stranger(1000), Account::NOBODY, Inserted::Observed, None, 0);
        c.bench_function(&format!("in front of a hit behind {what}"), |b| {
            b.iter(|| assert!(table.in_front(black_box(new), None).is_empty()));
        });
        if masks == 1 {
            let hit = stranger(1000).matches;
            c.bench_function(&format!("trying all {what}"), |b| {
                b.iter(|| {
                    let others = table.filters().filter(|(cookie, _)| *cookie != new);
                    assert_eq!(others.filter(|(_, e)| overlap(&e.filter.matches, black_box(&hit))).count(), 0);
                });
            });
        }
    }
}

criterion_group! {
    name = all;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(200)).measurement_time(std::time::Duration::from_millis(500));
    targets = benches
}
criterion_main!(all);
