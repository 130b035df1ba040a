//! TC executed on concrete bytes: the oracle of the tests, and the software path of the commands.
//!
//! A [`Model`] holds ports and filters. [`Model::receive`] takes a frame through them as Linux 6.1 would: the buffer with all
//! the state that actions read ([`Skb`]) is classified chain by chain (`walk`), each filter's actions run on its bytes (`act`),
//! and what comes out is an [`Outcome`]: how the walk ended, which filters it hit, the frames sent and the lengths counted.
//!
//! It is written from the kernel's meaning and shares no code with flowmerge's merge. Connections come from a
//! [`Conntrack`](conntrack::Conntrack), so that a run can be replayed on what a trace showed. What cannot be known - a
//! classifier that is not flower, an attribute that was not decoded, a packet's hash, `gact random`, what a policer has seen - ends
//! a walk as *undecidable*, with the filter's name: the model never guesses.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod act;
mod bytes;
pub mod checksum;
pub mod conntrack;
mod frag;
pub mod outcome;
pub mod skb;
pub mod table;
#[cfg(test)]
mod testing;
mod walk;

pub use act::shown;
pub use frag::Fragments;
pub use outcome::{Counted, Found, Hit, Outcome, Sent, Terminal, Verdict};
pub use skb::Skb;
pub use table::FilterTable;
pub use walk::{Arrival, Model, PortState};
