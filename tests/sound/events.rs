//! What happens in a run, at random.

use crate::{
    connections::connections,
    generate,
    packet::{Fragment, L3, Packet},
    packets::{self, packet},
    rule::Rule,
    tracker::STRICT,
    world::{Event, POLICERS, Setting, setting},
};
use flowmerge::{
    conntrack::proto,
    flower::{Action, ActionKind, Filter, Port},
};
use proptest::prelude::*;

/// A run.
#[derive(Clone, Debug)]
pub struct Case {
    pub filters: Vec<Rule>,
    pub events: Vec<Event>,
    pub setting: Setting,
}

/// What happens, mostly packets, many of them again and again, of few connections, most of them of this zone.
fn events(zone: u16) -> BoxedStrategy<Vec<Event>> {
    // The last eight do not qualify.
    let all = connections().len();
    let of_zone: Vec<usize> = (0..all - 8).filter(|&i| connections()[i].zone == zone).collect();
    let one = prop_oneof![30 => prop::sample::select(of_zone), 10 => 0..all - 8, 2 => all - 8..all];
    let some = prop::collection::vec(one, 1..5);
    some.prop_flat_map(|some| {
        let pool = prop::collection::vec(packet(some.clone()), 3..9);
        pool.prop_flat_map(move |pool| events_of(some.clone(), pool))
    })
    .boxed()
}

fn events_of(connections: Vec<usize>, pool: Vec<Packet>) -> BoxedStrategy<Vec<Event>> {
    let connection = prop::sample::select(connections.clone());
    let event = prop_oneof![
        40 => prop::sample::select(pool).prop_map(Event::Packet),
        8 => packet(connections).prop_map(Event::Packet),
        1 => generate::later().prop_map(Event::Add),
        1 => any::<u8>().prop_map(Event::Remove),
        1 => (any::<u8>(), generate::later(), any::<bool>()).prop_map(|(i, f, same)| Event::Replace(i, f, same)),
        1 => (connection.clone(), 1000u32..1003).prop_map(|(c, mark)| Event::Mark(c, mark)),
        1 => (connection.clone(), 0u128..4).prop_map(|(c, l)| Event::Labels(c, l << 4)),
        3 => (connection, prop::bool::weighted(0.8)).prop_map(|(c, there)| Event::There(c, there)),
        1 => (2u32..5, prop::bool::weighted(0.7)).prop_map(|(port, up)| Event::Port(port, up)),
        1 => prop::bool::weighted(0.7).prop_map(Event::Bound),
        1 => (POLICERS, prop::bool::weighted(0.7)).prop_map(|(index, conforms)| Event::Police(index, conforms)),
        3 => Just(Event::Drain),
    ];
    prop::collection::vec(event, 60).boxed()
}

/// The first `ct` of a filter is of this zone.
fn track_in(filter: &mut Filter, zone: u16) {
    let first = filter.actions.iter_mut().find_map(|a| match &mut a.kind {
        ActionKind::Ct(ct) => Some(ct),
        _ => None,
    });
    if let Some(ct) = first.filter(|ct| ct.zone != STRICT && !ct.clear) {
        ct.zone = zone;
    }
}

/// Without conntrack, and with packets that have no place beside it: fragments, ICMP, two tags.
fn untracked(filters: &mut [Rule], events: &mut [Event]) {
    for rule in filters {
        let actions = &mut rule.filter.actions;
        actions.retain(|a| !matches!(a.kind, ActionKind::Ct(_)));
        if actions.is_empty() {
            actions.push(Action::redirect(Port(2)));
        }
    }
    for event in events {
        let Event::Packet(packet) = event else { continue };
        // The same packet changes the same way.
        match (packet.src_port ^ packet.dst_port ^ u16::from(packet.payload)) % 8 {
            0 | 1 => packet.proto = if packet.l3 == L3::V6 { proto::ICMPV6 } else { proto::ICMP },
            2 => packet.fragment = Fragment::First,
            3 => packet.fragment = Fragment::Later,
            4 | 5 => packet.tags = vec![(0x8100, 0x600a), (0x8100, 10)],
            _ => {}
        }
    }
}

/// Any run.
pub fn case() -> BoxedStrategy<Case> {
    prop::bool::weighted(0.25).prop_flat_map(case_of).boxed()
}

fn case_of(carried: bool) -> BoxedStrategy<Case> {
    let index = any::<prop::sample::Index>;
    let narrow = prop::collection::vec((index(), index(), generate::pick()), 0..8);
    let odd = prop::bool::weighted(0.13);
    let zoned = (5u16..7).prop_flat_map(|zone| (Just(zone), events(zone)));
    (generate::filters(carried), zoned, setting(), narrow, odd)
        .prop_map(move |(mut filters, (zone, mut events), setting, narrow, odd)| {
            filters.iter_mut().filter(|r| r.filter.id.chain == 0).for_each(|rule| track_in(&mut rule.filter, zone));
            if odd {
                untracked(&mut filters, &mut events);
            }
            if carried {
                events.iter_mut().filter_map(Event::packet_mut).for_each(packets::carried);
            }
            // Some filters ask for more of what packets of the run have.
            let keys: Vec<_> = events.iter().filter_map(Event::packet).map(Packet::key).collect();
            let most = if odd { 8 } else { 2 };
            for (rule, key, pick) in narrow.into_iter().filter(|_| !keys.is_empty()).take(most) {
                let key = &keys[key.index(keys.len())];
                let matches = filters.iter_mut().map(|rule| &mut rule.filter.matches);
                let mut fit: Vec<_> = matches.filter(|m| m.fits(key)).collect();
                if !fit.is_empty() {
                    let at = rule.index(fit.len());
                    generate::narrow(fit[at], key, pick, odd);
                }
            }
            Case { filters, events, setting }
        })
        .boxed()
}

/// So many runs, the same each time.
pub fn fixed_cases(n: u32, mut with: impl FnMut(Case)) {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    for _ in 0..n {
        with(case().new_tree(&mut runner).expect("a case").current());
    }
}

/// As many as `PROPTEST_CASES` says, or this many.
pub fn cases(n: u32) -> u32 {
    let told = std::env::var("PROPTEST_CASES").ok();
    told.and_then(|n| n.parse().ok()).unwrap_or(n)
}
