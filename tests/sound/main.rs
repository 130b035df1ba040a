//! Merged filters against the model: random pipelines and packets, the model as oracle.
//!
//! Each packet is offered to the table of merged filters first. If one matches, the model must have sent the same frames and
//! decided the packet too; else the model's walk is handed to the merger. In between filters come and go, connections leave,
//! come back and change, ports go down. Every action of every filter must have counted what the model counted, in software
//! and through merged filters together.
//!
//! `PROPTEST_CASES` says how many runs each property gets, `PROPTEST_RNG_SEED` from which seed, for the same runs again.

mod again;
mod bytes;
mod cast;
mod connections;
mod coverage;
mod differences;
mod events;
mod found;
mod generate;
mod packet;
mod packets;
mod rule;
mod tracker;
mod traps;
mod wide;
mod world;

use coverage::Coverage;
use events::{case, cases, fixed_cases};
use proptest::prelude::*;
use std::collections::BTreeMap;
use world::{Event, Setting, run, run_with};

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(2000), max_shrink_iters: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_merged_filter_does_what_its_walk_did(case in case()) {
        run(case.setting, &case.filters, &case.events)?;
    }
}

/// The property must not hold for want of merging, nor for want of anything to merge.
#[test]
fn the_generators_reach_all_that_can_be_reached() {
    let (mut handled, mut flawed, mut all, mut cast) = (0, 0, 0, 0);
    let mut coverage = Coverage::default();
    fixed_cases(cases(4000).max(4000), |case| {
        let world = run(case.setting, &case.filters, &case.events).expect("the property");
        coverage.add(&world.coverage);
        flawed += world.flawed;
        cast += world.merger.turned().cast;
        if !case.setting.lazy && !case.setting.tight {
            all += case.events.iter().filter_map(Event::packet).count();
            handled += world.handled;
        }
    });
    println!(
        "{all} packets, {handled} handled by merged filters; {flawed} flawed ones handled; {cast} paths cast\n{coverage}"
    );
    assert!(handled * 10 > all, "{handled} of {all}");
    let missed = coverage.missed();
    assert!(missed.is_empty(), "not reached: {missed:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(200), max_shrink_iters: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A merged filter is a walk of one. See [`again`].
    #[test]
    fn a_merged_filter_merges_to_itself(case in case()) {
        let packets: Vec<_> = case.events.iter().filter_map(Event::packet).collect();
        run_with(case.setting, &case.filters, &case.events, |world, made| {
            again::check(world, made, &packets).map(drop)
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(300), max_shrink_iters: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A path that is cast is the one that would be folded. See [`cast`].
    #[test]
    fn what_is_cast_is_what_is_folded(case in case(), seed in any::<u64>()) {
        let (mut dice, mut tally) = (cast::Dice(seed), cast::Tally::default());
        run_with(case.setting, &case.filters, &case.events, |world, made| {
            cast::check(world, made, &mut dice, &mut tally)
        })?;
    }
}

/// The property must not hold for want of casting, nor for want of anything that must not be cast.
#[test]
fn much_is_cast_and_much_is_not() {
    let (mut dice, mut tally) = (cast::Dice(0), cast::Tally::default());
    fixed_cases(cases(400), |case| {
        let made = |world: &mut world::World, made: &world::Made| cast::check(world, made, &mut dice, &mut tally);
        run_with(case.setting, &case.filters, &case.events, made).expect("the property");
    });
    println!("{tally}");
    assert!([tally.cast, tally.folded, tally.refused].iter().all(|&n| n > 200), "{tally}");
}

/// No bit of a merged match can be freed. See [`wide`]. With `SPARE=field` the smallest case of that field is printed.
#[test]
fn no_bit_of_a_merged_match_is_to_spare() {
    let mut proofs = BTreeMap::<wide::Proof, usize>::new();
    let mut explained = BTreeMap::<&str, usize>::new();
    let mut spare = BTreeMap::<String, (usize, usize, String)>::new();
    let mut sampled = 0;
    fixed_cases(cases(300), |case| {
        let setting = Setting { padded: false, lazy: false, dumped: false, layered: false, ..case.setting };
        let searched = run_with(setting, &case.filters, &case.events, |world, made| {
            if made.entry.id.0 % 2 == 0 {
                return Ok(());
            }
            sampled += 1;
            let mut search = wide::Search::new(world, made);
            for unit in wide::units(&made.entry.matches) {
                if let Some((proof, _)) = search.witness(unit) {
                    *proofs.entry(proof).or_default() += 1;
                } else if let Some(why) = wide::explained(unit, &made.entry.matches) {
                    *explained.entry(why).or_default() += 1;
                } else {
                    let (n, size, smallest) = spare.entry(unit.to_string()).or_insert((0, usize::MAX, String::new()));
                    *n += 1;
                    if world.filters.len() < *size {
                        let rules: String = world.filters.iter().map(|(r, _)| format!("  {:?}\n", r.told())).collect();
                        *size = world.filters.len();
                        *smallest = format!("{:?}\n{:?}\n{:?}\n{rules}", made.entry, made.packet, made.way);
                    }
                }
            }
            Ok(())
        });
        searched.expect("the property");
    });
    println!("{sampled} merged filters, proofs {proofs:?}, explained {explained:?}");
    let asked = std::env::var("SPARE").unwrap_or_else(|_| "no field".into());
    for (unit, (n, size, smallest)) in &spare {
        println!("SPARE {n} times {unit}, with {size} filters");
        if unit.contains(&asked) {
            println!("{smallest}");
        }
    }
    assert!(spare.is_empty(), "{} units are to spare", spare.len());
}
