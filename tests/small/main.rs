//! The small world: random pipelines over a universe of a few free bits, every packet tried.
//!
//! A pipeline's universe leaves some 6 to 12 bits of a packet free: parts of addresses, TTL, TOS, ports, flags, tags, ethertypes,
//! IP protocol, fragment or not; or labels; or what a tunnel device took off; or ARP, CFM and Ethernet's own header. The model
//! says what software does with each packet of it. The packets are offered to the merger in any order, and whatever is merged is
//! judged over all of them: *sound*, *wide* (each bit is needed; without shadows the whole way is matched), *order-free*,
//! *idempotent*; refused for no reason that a true record never has; and right still after a filter came or went.
//!
//! - `FLOWMERGE_SMALL=20000`: that many pipelines instead of the default. A long run is four times faster optimised:
//!   `FLOWMERGE_SMALL=100000 CARGO_PROFILE_DEV_OPT_LEVEL=2 cargo test -p flowmerge --test small -- --nocapture`.
//! - `FLOWMERGE_SMALL_SEED=17`: this one alone, with all that is told of it. A failing pipeline tells its seed.
//! - `FLOWMERGE_SMALL_FROM=100000`: from this seed on. `FLOWMERGE_SMALL_FAILURES=20`: stop after so many, not at the first.
//! - `FLOWMERGE_SMALL_SHRINK=0`: a failing pipeline is not made smaller.

mod actions;
mod again;
mod check;
mod connections;
mod frame;
mod outer;
mod part;
mod pipeline;
mod report;
mod rng;
mod shrink;
mod table;
mod terms;
mod toward;
mod truth;
mod unit;
mod universe;
mod unseen;
mod wide;

use pipeline::Case;
use report::Stats;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Pipelines in a run of which nobody asked for more.
const DEFAULT: u64 = 4000;

fn told(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a seed; if it fails, in words.
fn failing(seed: u64, stats: &mut Stats) -> Option<String> {
    let case = Case::random(seed);
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check::run(&case, stats)));
    if matches!(run, Ok(Ok(()))) {
        return None;
    }
    let failure = shrink::fails(&case)?;
    if told("FLOWMERGE_SMALL_SHRINK") == Some(0) {
        return Some(format!("{}: seed {seed}", failure.kind));
    }
    let (small, failure) = shrink::shrunk(&case, failure);
    Some(format!(
        "{}: run it alone with FLOWMERGE_SMALL_SEED={seed}\n{}{}\n",
        failure.kind,
        shrink::told(&small),
        failure.text
    ))
}

#[test]
fn all_packets_of_thousands_of_pipelines() {
    if let Some(seed) = told("FLOWMERGE_SMALL_SEED") {
        println!("{}", shrink::told(&Case::random(seed)));
        let mut stats = Stats::default();
        let failure = failing(seed, &mut stats);
        println!("{stats}");
        assert!(failure.is_none(), "{}", failure.unwrap_or_default());
        return;
    }
    let from = told("FLOWMERGE_SMALL_FROM").unwrap_or(0);
    let many = told("FLOWMERGE_SMALL").unwrap_or(DEFAULT);
    let most = told("FLOWMERGE_SMALL_FAILURES").unwrap_or(1) as usize;
    let next = AtomicU64::new(from);
    let stop = AtomicBool::new(false);
    let work = || {
        let mut stats = Stats::default();
        let mut failures = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + many {
                break;
            }
            failures.extend(failing(seed, &mut stats));
            if failures.len() >= most {
                stop.store(true, Ordering::Relaxed);
            }
        }
        (stats, failures)
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let (mut stats, mut failures) = (Stats::default(), Vec::new());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let (s, f) = worker.join().expect("a worker");
            stats.join(s);
            failures.extend(f);
        }
    });
    println!("{stats}");
    assert!(failures.is_empty(), "{}", failures.join("\n----\n"));
    if many >= DEFAULT {
        assert!(stats.lacking().is_empty(), "nothing merged or refused with: {:?}", stats.lacking());
    }
}
