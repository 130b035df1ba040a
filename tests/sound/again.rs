//! Idempotent: a merged filter, alone in a new world, is hit by its own packet, and merges to itself.

use crate::{
    packet::{Outer, Packet},
    tracker::Tracker,
    world::{Made, POLICERS, Setting, World, decided},
};
use flowmerge::{
    flower::{ActionKind, Cookie, Filter},
    hardware::{Entry, Memory},
    merger::Merger,
    packet::apply::{Trim, apply_through},
    table::Inserted,
    walk::{Hit, Walk},
};
use merge_model::{Arrival, Model, PortState};
use proptest::{prop_assert, prop_assert_eq, test_runner::TestCaseError};

/// A merged filter as one that TC could hold.
fn as_filter(entry: &Entry) -> Filter {
    Filter::alone(entry.port, 1, entry.matches, entry.actions.clone())
}

/// What is merged from a packet that hits the merged filter alone.
pub fn merged_again(setting: Setting, made: &Made) -> Result<Entry, TestCaseError> {
    let mut merger = Merger::new(Memory::new(setting.capabilities()));
    let filter = as_filter(&made.entry);
    merger.replace(Cookie(1), filter, Inserted::Observed).expect("memory removes");
    let hits = vec![Hit { filter: Cookie(1), found: Vec::new() }];
    merger.walk(Walk { port: made.entry.port, key: made.packet.key(), hits }).expect("the queue is long");
    let merged = merger.drain(0).walks.pop().expect("one walk").1;
    prop_assert!(merged.is_ok(), "{:?} of {made:#?}", merged.map(|m| m.id).map_err(|e| e.to_string()));
    let entry = merger.hardware().entries().pop();
    Ok(entry.expect("installed"))
}

/// The same match, the same actions, and for each of these packets that it matches the same frames.
pub fn check(world: &World, made: &Made, packets: &[&Packet]) -> Result<usize, TestCaseError> {
    let entry = &made.entry;
    let again = merged_again(world.setting, made)?;
    prop_assert_eq!(again.matches, entry.matches, "{:#?} is merged again to {:#?}", entry, again);
    // Without `mend`, a rewrite of addresses behind a `csum` may come out before it.
    if !world.setting.no_mend {
        prop_assert_eq!(&again.actions, &entry.actions, "{:#?}", entry);
    }
    let mends = entry.actions.iter().any(|a| matches!(&a.kind, ActionKind::Pedit(p) if p.mend));
    let mut model = Model::new();
    for port in 1..5 {
        model.set_port(flowmerge::flower::Port(port), PortState { up: true, mtu: 1500 });
    }
    POLICERS.for_each(|index| model.set_policer(index, true));
    model.filters.replace(as_filter(entry));
    let mut compared = 0;
    for packet in packets.iter().filter(|p| p.port == entry.port && entry.matches.fits(&p.key())) {
        let frame = packet.frame(false);
        let tunnel = packet.tunnel.map(Outer::tunnel);
        let applied = |e: &Entry| apply_through(&e.actions, Trim::Never, &frame, tunnel.as_ref()).expect("installed");
        let one = applied(entry);
        prop_assert_eq!(&applied(&again), &one, "{:?} {:#?} {:#?}", packet, entry, again);
        // TC itself knows no `pedit` that mends, and with two tags it looks for the network header in another place.
        if mends || packet.tags.len() > 1 || world.setting.no_mend {
            continue;
        }
        compared += 1;
        let arrival = Arrival { port: packet.port, frame: &frame, tunnel: tunnel.as_ref(), now: 1 };
        let outcome = model.arrive(arrival, &mut Tracker::new(&[]));
        prop_assert!(outcome.hits.len() == 1 && decided(&outcome), "{packet:?} does not hit {entry:#?}");
        let sent: Vec<_> = outcome.sent.into_iter().map(|s| (s.port, s.frame, s.tunnel)).collect();
        let one: Vec<_> = one.sent.into_iter().map(|s| (s.port, s.frame, s.tunnel)).collect();
        prop_assert_eq!(one, sent, "{:?} {:#?}", packet, entry);
    }
    Ok(compared)
}
