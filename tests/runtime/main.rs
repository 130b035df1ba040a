//! The runtime under everything that can happen to it: all calls of the `Merger` in any order, hardware that fails.
//!
//! [`machine`]: random sequences of calls against a slow and obvious [`model`], with the whole state compared after each.
//!
//! - `FLOWMERGE_RUNTIME=20000`: that many sequences instead of the default.
//!   `FLOWMERGE_RUNTIME=20000 CARGO_PROFILE_DEV_OPT_LEVEL=2 cargo test -p flowmerge --test runtime`.

mod faulty;
mod machine;
mod model;
mod universe;
