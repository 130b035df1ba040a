//! The merge: walk -> path -> merged filter, or a refusal. A pure function: no locks, no I/O, no clock.
//!
//! **The idea.** A walk shows that *one* packet went through these filters. A merged filter claims it of *every* packet it
//! matches. So the walk's filters are run again, on a packet of which nothing is known but what has been asked for so far:
//! each bit of each field is a bit of the packet as it arrived, or known, or a bit of a connection ([`symbol`]). What a
//! filter compares is carried back through the writes before it to the arrived packet, and becomes part of the merged match
//! ([`template`]); what it does is gathered and emitted as the fewest actions that send the same frames ([`program`]).
//!
//! **Why bits are left out, and why some must not be.** A bit too many in the match is slow: the next packet of the same
//! connection misses, walks again and costs another merged filter. A bit too few is wrong: a packet is handled in a way
//! that software would not have taken. So a bit is asked for only if some filter, action or connection of the walk depends
//! on it, or if it keeps out a *shadow*, a filter that TC would have tried before one that was hit ([`shadow`], `cut`), and does not
//! follow from other bits anyway (`structure`). Filters
//! that overlap are legal TC, and no priorities are left in hardware that would resolve them.
//!
//! **Path and parameters.** What was folded does not hold the connection's addresses, ports, mark and labels, but names
//! for them. One fold serves all connections that take the same way; each further one only fills in its tuple
//! ([`path::Path::matches`]). Where a filter compares such a part with a constant, that is a condition on the connection.
//!
//! Exclusions (DESIGN, "The promise", 3): fragments, and for TCP everything but ACK set with SYN, FIN and RST clear, are asked
//! for at the first `ct` of each connection, so that conntrack goes on seeing what opens and closes.

pub mod asked;
mod bits;
pub mod conditions;
mod cut;
pub mod fold;
pub mod mold;
mod need;
pub mod path;
pub mod program;
pub mod reach;
pub mod refusal;
pub mod seen;
pub mod shadow;
pub mod state;
pub mod structure;
pub mod symbol;
pub mod template;

pub use fold::{Met, Ports, Refused, Scene, Step, changes, fold, fold_and_mold, sequence};
pub use mold::{Family, Mold};
pub use path::{Course, Parent, Path};
pub use reach::may_reach;
pub use refusal::{Otherwise, Refusal, Scope};
pub use shadow::Order;

#[cfg(test)]
mod tests;
