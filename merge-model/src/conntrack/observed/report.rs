//! What ctnetlink says of connections, and when.

use flowmerge::{
    conntrack::Tuple,
    netlink::{ConnectionEvent, ConnectionMessage},
};

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

impl Report {
    /// The connection, if it was born with this original tuple.
    pub(super) fn birth_of(&self, zone: u16, original: Tuple) -> Option<&ConnectionMessage> {
        let c = &self.connection;
        (self.event == ConnectionEvent::New && (c.zone, c.original) == (zone, original)).then_some(c)
    }
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

/// What tells a connection from others at one time; the kernel's identifier may be used again by the next generation.
pub(super) fn name(c: &ConnectionMessage) -> (u16, Tuple, Tuple) {
    (c.zone, c.original, c.reply)
}
