//! The runtime under everything that can happen to it: all calls of the `Merger` in any order, hardware that fails.
//!
//! [`machine`]: random sequences of calls against a slow and obvious [`model`], with the whole state compared after each.
//!
//! [`soak`]: many threads at once, for a while, with an end at which all must balance.
//!
//! - `FLOWMERGE_RUNTIME=20000`: that many sequences instead of the default.
//!   `FLOWMERGE_RUNTIME=20000 CARGO_PROFILE_DEV_OPT_LEVEL=2 cargo test -p flowmerge --test runtime machine`.
//! - `FLOWMERGE_SOAK=300`: the soaks last so many seconds together, instead of a few:
//!   `FLOWMERGE_SOAK=300 CARGO_PROFILE_DEV_OPT_LEVEL=2 cargo test -p flowmerge --test runtime -- --nocapture --test-threads 1 soak`.

mod faulty;
mod machine;
mod model;
mod soak;
mod universe;
