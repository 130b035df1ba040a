//! What TC says, as plain data: fields, keys, matches, actions, filters. Nothing here does anything.

pub mod action;
pub mod capabilities;
pub mod ethertype;
pub mod field;
pub mod filter;
pub mod key;
pub mod masks;
pub mod matches;
pub mod packed;
pub mod print;
pub mod tunnel;

pub use action::{Action, ActionKind, Control, Counters};
pub use capabilities::{Capabilities, Counts, Lacking};
pub use field::Field;
pub use filter::{Cookie, Filter, FilterId, Hook, Kind, Port};
pub use key::Key;
pub use masks::Masks;
pub use matches::{Match, Range};
pub use packed::Packed;
pub use tunnel::Tunnel;
