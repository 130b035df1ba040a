//! What may be wrong with a message, and where.

use crate::flower::Field;

/// A message that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}, {part}: {fault}")]
pub struct DecodeError {
    /// The message, by the kernel's name (`RTM_NEWTFILTER`).
    pub message: &'static str,
    /// The part of it (`TCA_FLOWER`, `act_pedit`, `header`).
    pub part: &'static str,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with a part of a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Fewer bytes than the part needs.
    #[error("{have} bytes where {want} were expected")]
    Short {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        want: usize,
    },
    /// An attribute's value is too short for its type.
    #[error("attribute {attribute} has {have} bytes where {want} were expected")]
    AttributeShort {
        /// Attribute number.
        attribute: u16,
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        want: usize,
    },
    /// An attribute that does not fit into what holds it.
    #[error("an attribute runs past the end of its {length} bytes, at byte {offset}")]
    Overrun {
        /// Bytes that hold the attributes.
        length: usize,
        /// Where the attribute starts in them.
        offset: usize,
    },
    /// An attribute that the kernel always sends is not there.
    #[error("attribute {attribute} is missing")]
    Missing {
        /// Attribute number.
        attribute: u16,
    },
    /// A value that makes no sense.
    #[error("attribute {attribute} is {value:#x} where {expected} was expected")]
    Value {
        /// Attribute number.
        attribute: u16,
        /// Its value.
        value: u64,
        /// What would have been in order.
        expected: &'static str,
    },
    /// Neither NETLINK_ROUTE nor NETLINK_NETFILTER.
    #[error("netlink family {0} where 0 (route) or 12 (netfilter) was expected")]
    Family(u16),
}

impl DecodeError {
    /// A fault of a part; [`super::decode`] adds the message's name.
    pub(super) fn new(part: &'static str, fault: Fault) -> DecodeError {
        DecodeError { message: "netlink message", part, fault }
    }
}

/// A filter that cannot be said to TC so that Linux 6.1 would say the same back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A part of the filter is known by name only.
    #[error("{0} is known by name only")]
    Undecoded(String),
    /// Not a flower filter.
    #[error("a {0} filter: only flower filters can be sent")]
    Classifier(String),
    /// A device without a name.
    #[error("no device has the index {0}")]
    NoSuchDevice(u32),
    /// Flower has no way to ask for this comparison together with the others.
    #[error("flower cannot compare {0} in this way: the kernel would take the filter without it")]
    Field(Field),
    /// A port range that the kernel refuses.
    #[error("flower takes a range of {0} for TCP, UDP and SCTP only, with its end above its start")]
    Range(Field),
    /// An action that TC cannot be told.
    #[error("action {position} ({kind}): {reason}")]
    Action {
        /// Its place among the filter's actions, from 1.
        position: usize,
        /// Its kind.
        kind: String,
        /// Why not.
        reason: &'static str,
    },
}
