//! What the `flowmerge` command does, a module for each subcommand, so that the laboratory can do the same in its own process.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod record;
pub mod replay;

/// An error and its causes, from the outermost on; one that ends with its cause has said it.
pub fn in_words(error: &anyhow::Error) -> String {
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
