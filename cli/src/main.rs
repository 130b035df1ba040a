//! The `flowmerge` command.
//!
//! `flowmerge record PORT... -o TRACE` and `flowmerge replay TRACE`: see [`record`] and [`replay`].

#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use flowmerge_cli::{exit, record, replay};
use std::process::ExitCode;

/// Merges connection-tracked, recirculating TC flower pipelines into single filters.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Record(record::Options),
    Replay(replay::Options),
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let outcome = match command {
        Command::Record(options) => record::run(&options),
        Command::Replay(options) => replay::run(&options),
    };
    exit("flowmerge", outcome)
}
