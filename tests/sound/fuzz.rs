//! The property of `main.rs` as a fuzz target: an input is the seed of a run, and edits of it.
//!
//! The seed makes a run as the property does, so that filters, packets and connections fit each other. The edits are what coverage
//! guides: any comparison of any field, any action at any place, any change of a packet, also those that the
//! generators weigh lightly or never make. See `fuzz/README.md`. The file lies here since a crate's root finds its modules beside it.

#![no_main]
// What only the tests use.
#![allow(dead_code)]

mod again;
mod bytes;
mod connections;
mod coverage;
mod edit;
mod events;
mod generate;
mod packet;
mod packets;
mod rule;
mod tracker;
mod wide;
mod world;

use edit::Input;
use libfuzzer_sys::fuzz_target;
use proptest::{
    prelude::ProptestConfig,
    strategy::{Strategy, ValueTree},
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};

fuzz_target!(|input: Input| {
    let mut seed = [1; 16];
    seed[..2].copy_from_slice(&input.seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::XorShift, &seed);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let mut case = events::case().new_tree(&mut runner).expect("a case").current();
    input.edits.iter().take(64).for_each(|edit| edit.apply(&mut case));
    if let Err(failure) = world::run(case.setting, &case.filters, &case.events) {
        let told = |rule: &rule::Rule| format!("{}  {:?}\n", rule.filter, rule.blind);
        let filters: String = case.filters.iter().map(told).collect();
        let events: String = case.events.iter().map(|event| format!("{event:?}\n")).collect();
        panic!("{failure}\n{:?}\n{filters}{events}", case.setting);
    }
});
