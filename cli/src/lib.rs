//! What the `flowmerge` command does, a module for each subcommand, so that the laboratory can do the same in its own process.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod record;
pub mod replay;

use std::process::ExitCode;

/// A program's exit status: 0 if all is well, 1 if something is to be looked at, 2 if it could not run, which is told.
pub fn exit(program: &str, outcome: anyhow::Result<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{program}: {}", in_words(&error));
            ExitCode::from(2)
        }
    }
}

/// An error and its causes, from the outermost on; one that ends with its cause has said it.
fn in_words(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text += ": ";
            text += &cause;
        }
    }
    text
}
