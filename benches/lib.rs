//! What the benchmarks share: the worlds that are measured, the runtime behind the few calls that they make, and the baseline.
//!
//! - `performance/`: what the runtime costs, beside the baseline. `cargo bench` ends with its table.
//! - `chain.rs`: what filters in one chain cost each other.
//! - `instructions.rs`: instruction counts, and `gate`, which compares them with the committed limits.
//!
//! `subject.rs` is the one file that knows the runtime's API.

pub mod eager;
pub mod subject;
pub mod world;
