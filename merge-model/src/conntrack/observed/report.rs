//! What ctnetlink says of connections, and when.

use flowmerge::netlink::{ConnectionEvent, ConnectionMessage};

/// A ctnetlink message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What happened.
    pub event: ConnectionEvent,
    /// Whether a command caused it (the message has a port) rather than the kernel itself.
    pub by_hand: bool,
    /// The connection.
    pub connection: ConnectionMessage,
}

/// A report and its place.
#[derive(Clone, Debug)]
pub struct Reported {
    /// Position in the trace's order of time.
    pub at: usize,
    /// Time in nanoseconds.
    pub time: u64,
    /// What was said.
    pub report: Report,
}
