//! What happens in a run, at random.

use crate::{
    connections::connections,
    generate,
    packet::Packet,
    packets::packet,
    rule::Rule,
    world::{Event, Setting, setting},
};
use proptest::prelude::*;

/// A run.
#[derive(Clone, Debug)]
pub struct Case {
    pub filters: Vec<Rule>,
    pub events: Vec<Event>,
    pub setting: Setting,
}

/// What happens, mostly packets, many of them again and again, of few connections.
fn events() -> BoxedStrategy<Vec<Event>> {
    // The last eight do not qualify.
    let all = connections().len();
    let one = prop_oneof![20 => 0..all - 8, 1 => all - 8..all];
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
        2 => (connection, prop::bool::weighted(0.8)).prop_map(|(c, there)| Event::There(c, there)),
        1 => (2u32..5, prop::bool::weighted(0.7)).prop_map(|(port, up)| Event::Port(port, up)),
        1 => prop::bool::weighted(0.7).prop_map(Event::Bound),
        3 => Just(Event::Drain),
    ];
    prop::collection::vec(event, 60).boxed()
}

/// Any run.
pub fn case() -> BoxedStrategy<Case> {
    (generate::filters(), events(), setting())
        .prop_map(|(filters, events, setting)| Case { filters, events, setting })
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
