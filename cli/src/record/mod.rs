//! `flowmerge record PORT... -o TRACE`: a run of this machine's kernel, written down as it happens.
//!
//! [`Recorder`] does the work; the laboratory uses it in its own process.

mod recorder;

pub use recorder::{Progress, Recorder};
