//! What the benchmarks share: the worlds that are measured, the runtime behind the few calls that they make, and the baseline.
//!
//! - `performance/`: what the runtime costs, beside the baseline. `cargo bench` ends with its table.
//! - `chain.rs`: what filters in one chain cost each other.
//! - `fold.rs`: what the merge itself costs, without tables.
//! - `datapath.rs`: what a packet costs in the datapath.
//! - `instructions.rs`: instruction counts, and `gate`, which compares them with the committed limits.
//!
//! `subject.rs` is the one file that knows the runtime's API.

pub mod clock;
pub mod eager;
pub mod subject;
pub mod walked;
pub mod world;
