//! What became of a received frame.

use crate::conntrack::{EntryId, Info};
use flowmerge::{
    conntrack::Direction,
    flower::{FilterId, Key, Port, Tunnel},
};
use std::ops::Range;

/// What became of a received frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How the packet itself ended; copies do not matter, unless one of them is undecidable.
    pub verdict: Verdict,
    /// The frame's key on arrival, at its port, before any action, with what a tunnel device took off.
    pub key: Key,
    /// The filters hit, in order, copies' hits between the packet's own (see [`Hit::branch`]).
    pub hits: Vec<Hit>,
    /// The frames sent, in order, also those sent before a miss or a drop.
    pub sent: Vec<Sent>,
    /// What the actions counted, in order.
    pub counted: Vec<Counted>,
}

/// How a packet ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An action of a filter ended it.
    Decided(Terminal),
    /// The filters at a port's ingress were left without one deciding: in that chain, no filter matched, or none is there.
    /// Also a frame that the kernel drops before TC.
    Missed {
        /// The port; after a redirect to ingress not the one that the frame arrived on.
        port: Port,
        /// The chain.
        chain: u32,
    },
    /// The port has no filters: the packet goes to the stack, untouched or redirected there.
    Passed(Port),
    /// It cannot be known what the kernel does.
    Undecidable {
        /// The filter that matches or may match.
        filter: FilterId,
        /// What is not known of it.
        why: String,
    },
}

/// The end that a filter's action puts to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Terminal {
    /// Sent out of a port (`mirred redirect`).
    Redirect,
    /// Dropped.
    Drop,
    /// `trap`: consumed, in software.
    Trap,
    /// Consumed without being sent: `stolen`, `queued`.
    Stolen,
    /// `ok`, or the end of a list that says `pipe`: to the stack.
    Pass,
    /// A fragment that `ct` keeps until the others are here.
    Held,
}

/// A filter hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The filter.
    pub filter: FilterId,
    /// The port at which it was hit; a shared block does not tell.
    pub port: Port,
    /// 0 for the packet itself, also after a redirect; each copy that goes through filters of its own has another number.
    pub branch: u32,
    /// The actions that ran, by position, in order; one may run twice (`repeat`, `jump`).
    pub ran: Vec<usize>,
    /// What each `ct` action that ran found, `clear` included; `None` where the packet is left without a connection.
    pub found: Vec<Option<Found>>,
    /// Another filter of the same priority matches as well, and the order in which they were inserted is not known.
    pub guessed: bool,
}

/// The connection that a `ct` action found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The entry.
    pub entry: EntryId,
    /// The packet's direction in it.
    pub direction: Direction,
    /// How the packet stands to it; an ICMP error *about* the connection is `Related`.
    pub info: Info,
    /// Whether the entry was in the table before this action ran (`commit` may put it there).
    pub confirmed: bool,
}

/// A frame that left TC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The port.
    pub port: Port,
    /// The frame, as on the wire.
    pub frame: Vec<u8>,
    /// Given to the port's ingress instead of sent out of it: a receiver there sees it come in.
    pub ingress: bool,
    /// The tunnel that it came through, or is to go through. A device that is no tunnel makes nothing of it.
    pub tunnel: Option<Tunnel>,
    /// Bytes of the frame that the kernel fills at random (the identification of IPv6 fragments made anew); 0 here.
    pub random: Option<Range<usize>>,
}

/// One count of one action: one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The filter.
    pub filter: FilterId,
    /// The action's position in it.
    pub action: usize,
    /// Bytes: the packet's length at the hook, without Ethernet header and accelerated tag at ingress, with the header at
    /// egress; after reassembly by `ct` that of the whole packet.
    pub bytes: u64,
}
