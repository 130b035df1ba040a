//! What may be wrong with a recorded run, and where.

use crate::netlink;

/// A file that could not be read as a recorded run.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {fault}")]
pub struct TraceError {
    /// The file.
    pub file: String,
    /// What is wrong with it.
    #[source]
    pub fault: TraceFault,
}

/// What is wrong. Offsets are bytes from the start of the file to the block, packets are numbered from 1 as Wireshark does.
#[derive(Debug, thiserror::Error)]
pub enum TraceFault {
    /// The file could not be read.
    #[error("cannot be read")]
    Unreadable(#[source] std::io::Error),
    /// Another kind of file.
    #[error("not a pcapng file: {found} where a section header block (0a 0d 0d 0a) was expected")]
    NotPcapng {
        /// What the file starts with.
        found: String,
    },
    /// The file ends inside of a block.
    #[error(
        "cut off in the block at byte {offset}, after packet {after}: {have} bytes of it where {want} were expected"
    )]
    Cut {
        /// Where the block starts.
        offset: usize,
        /// The last whole packet.
        after: u64,
        /// Bytes there.
        have: usize,
        /// Bytes of the block.
        want: usize,
    },
    /// A block that contradicts itself.
    #[error("bad block at byte {offset}, after packet {after}: expected {expected}")]
    Block {
        /// Where the block starts.
        offset: usize,
        /// The last whole packet.
        after: u64,
        /// What would have been in order.
        expected: &'static str,
    },
    /// A packet of an interface that was not described.
    #[error(
        "packet {packet} at byte {offset}: interface {interface} where one of {described} described ones was expected"
    )]
    Interface {
        /// The packet.
        packet: u64,
        /// Where its block starts.
        offset: usize,
        /// The interface that it names.
        interface: u32,
        /// How many there are in the section.
        described: usize,
    },
    /// No interface of LINKTYPE_NETLINK.
    #[error("no netlink interface (link type 253) was recorded: interfaces {found}")]
    NoNetlinkInterface {
        /// The interfaces that there are.
        found: String,
    },
    /// A netlink interface without a message.
    #[error("no rtnetlink or ctnetlink message in {packets} packets: the filters are not known")]
    NoMessages {
        /// Packets in the file.
        packets: u64,
    },
    /// A netlink packet shorter than its own header.
    #[error("packet {packet} at byte {offset}: {have} bytes where the 16 of a netlink packet's header were expected")]
    CookedHeader {
        /// The packet.
        packet: u64,
        /// Where its block starts.
        offset: usize,
        /// Its length.
        have: usize,
    },
    /// A message that could not be read.
    #[error("packet {packet} at byte {offset}: {source}")]
    Message {
        /// The packet.
        packet: u64,
        /// Where its block starts.
        offset: usize,
        /// What is wrong with the message.
        source: netlink::DecodeError,
    },
    /// A dump without its end.
    #[error(
        "the dump of {what} that starts with packet {packet} at byte {offset} has {messages} messages and no end (NLMSG_DONE)"
    )]
    DumpCut {
        /// What was dumped.
        what: &'static str,
        /// Its first packet.
        packet: u64,
        /// Where that block starts.
        offset: usize,
        /// How many messages of it there are.
        messages: u64,
    },
}
