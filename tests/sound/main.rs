//! Merged filters against the model: random pipelines and packets, the model as oracle.
//!
//! Each packet is offered to the table of merged filters first. If one matches, the model must have sent the same frames and
//! decided the packet too; else the model's walk is handed to the merger. In between filters come and go, connections leave,
//! come back and change, ports go down. Every action of every filter must have counted what the model counted, in software
//! and through merged filters together.

mod generate;
mod packets;
mod world;

use packets::{Packet, packet};
use proptest::prelude::*;
use world::{Event, Setting, run};

/// What happens, mostly packets, many of them again and again, of few connections.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let connections = prop::collection::vec(0..packets::connections().len(), 1..5);
    connections.prop_flat_map(|connections| {
        let pool = prop::collection::vec(packet(connections.clone()), 3..9);
        pool.prop_flat_map(move |pool| events_of(connections.clone(), pool))
    })
}

fn events_of(connections: Vec<usize>, pool: Vec<Packet>) -> impl Strategy<Value = Vec<Event>> {
    let connection = prop::sample::select(connections.clone());
    let event = prop_oneof![
        40 => prop::sample::select(pool).prop_map(Event::Packet),
        8 => packet(connections).prop_map(Event::Packet),
        1 => generate::later().prop_map(Event::Add),
        1 => any::<u8>().prop_map(Event::Remove),
        1 => (any::<u8>(), generate::later(), any::<bool>()).prop_map(|(i, f, same)| Event::Replace(i, f, same)),
        1 => (connection.clone(), 1000u32..1003).prop_map(|(c, mark)| Event::Mark(c, mark)),
        1 => (connection.clone(), 0u128..4).prop_map(|(c, l)| Event::Labels(c, l << 4)),
        2 => (connection, prop::bool::weighted(0.7)).prop_map(|(c, there)| Event::There(c, there)),
        1 => (2u32..5, prop::bool::weighted(0.7)).prop_map(|(port, up)| Event::Port(port, up)),
        1 => prop::bool::weighted(0.7).prop_map(Event::Bound),
    ];
    prop::collection::vec(event, 60)
}

fn setting() -> impl Strategy<Value = Setting> {
    let rarely = || prop::bool::weighted(0.2);
    (rarely(), rarely(), rarely(), rarely(), any::<bool>())
        .prop_map(|(frames, no_mend, dumped, padded, shared)| Setting { frames, no_mend, dumped, padded, shared })
}

/// As many as `PROPTEST_CASES` says.
fn cases() -> u32 {
    let told = std::env::var("PROPTEST_CASES").ok();
    told.and_then(|n| n.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn a_merged_filter_does_what_its_walk_did(
        filters in generate::filters(), events in events(), setting in setting()
    ) {
        run(setting, &filters, &events)?;
    }
}

/// The property must not hold for want of merging.
#[test]
fn the_generators_reach_merged_filters() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut handled, mut refused, mut all) = (0, 0, 0);
    let mut reasons = std::collections::BTreeMap::<_, usize>::new();
    for _ in 0..200 {
        let filters = generate::filters().new_tree(&mut runner).expect("a pipeline").current();
        let events = events().new_tree(&mut runner).expect("events").current();
        let world = run(Setting::default(), &filters, &events).expect("the property");
        all += events.iter().filter(|e| matches!(e, Event::Packet(_))).count();
        handled += world.handled;
        refused += world.refused.len();
        for reason in world.refused {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    println!("{all} packets: {handled} handled by merged filters, {refused} walks refused {reasons:?}");
    assert!(handled * 6 > all, "{handled} of {all}");
}
