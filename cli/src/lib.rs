//! What the `flowmerge` command does, a module for each subcommand, so that the laboratory can do the same in its own process.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod record;
pub mod replay;
