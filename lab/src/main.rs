//! What runs inside the laboratory: cases in the kernel, and the same through the model.
//!
//! | file | what |
//! | --- | --- |
//! | `case` | a pipeline, and what is sent through it |
//! | `generate/` | random ones, from a seed |
//! | `traffic` | packets and answers, made up as a run goes |
//! | `ground`, `kernel` | ports, filters and frames in the kernel |
//! | `run` | one case, recorded |
//! | `mend` | fragments in the record, as they were sent |
//! | `judge` | the record against the model, and against the merge |
//! | `examine` | what must hold of each merged filter |
//! | `front` | merged filters in the kernel, in front of the others |
//! | `shown` | what `tc` shows of the filters in the kernel, against our printing |
//! | `shrink` | a case that fails, made small |
//! | `recorded` | a recorded run as a case |
//! | `random`, `own`, `said` | what the command does |

mod case;
mod coverage;
mod examine;
mod front;
mod generate;
mod ground;
mod judge;
mod kernel;
mod mend;
mod own;
mod random;
mod recorded;
mod run;
mod said;
mod shown;
mod shrink;
mod traffic;

use clap::{Parser, Subcommand};
use flowmerge_cli::exit;
use std::process::ExitCode;

/// The model against a real kernel. Runs inside the laboratory: see lab/run.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Random(random::Options),
    Case(own::Options),
    Regressions(own::Regressions),
    Said(said::Options),
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let outcome = match command {
        Command::Random(options) => random::compare(&options),
        Command::Case(options) => own::compare(&options),
        Command::Regressions(options) => own::again(&options),
        Command::Said(options) => said::compare(&options),
    };
    exit("flowmerge-lab", outcome)
}
