//! rtnetlink and ctnetlink messages <-> filters, connections, devices. No sockets: bytes in, bytes out.
//!
//! [`decode`] reads one message, dumped or notified; [`encode_filter`] and its like write requests. The crates
//! give the headers and the attribute iterator; the attributes are read here, since what counts is that nothing is lost:
//! whatever of a filter is not understood is named in [`crate::flower::Filter::undecoded`], and the rest is read as the kernel reads it.
//!
//! | file | what |
//! | --- | --- |
//! | `attributes` | attributes, read and written |
//! | `flower/` | a filter's match: the table of flower's attributes |
//! | `actions/` | a filter's actions and their counters |
//! | `options` | a tunnel's options, of a match and of an action |
//! | `filter` | filters, priorities, chains |
//! | `link` | devices and qdiscs |
//! | `connection` | conntrack |
//! | `request` | what is asked of the kernel |
//! | `dump` | dumps, and the device that shows the kernel's messages |

mod actions;
mod attributes;
mod connection;
mod dump;
mod error;
mod filter;
mod flower;
mod link;
mod options;
mod request;
#[cfg(test)]
mod tests;

pub use actions::ActionMessage;
pub use connection::{ConnectionEvent, ConnectionMessage, status};
pub use dump::{Dump, add_monitor, no_operation, number, remove_link};
pub use error::{DecodeError, EncodeError, Fault};
pub use filter::{ChainOwner, FilterMessage};
pub use link::{Link, Qdisc, TunnelDevice};
pub use request::{
    encode_clsact, encode_filter, encode_front, encode_link_state, encode_no_clsact, encode_removal, encode_replacement,
};

use crate::flower::Hook;
use attributes::Attributes;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_MULTIPART, NLM_F_REQUEST, NetlinkBuffer};
use std::collections::BTreeMap;

/// `NETLINK_ROUTE`.
pub const ROUTE: u16 = 0;
/// `NETLINK_NETFILTER`.
pub const NETFILTER: u16 = 12;

/// Devices' names and indices: flower names a device where the kernel compares an index.
pub trait Names {
    /// The index of the device with this name.
    fn index(&self, name: &str) -> Option<u32>;
    /// The name of the device with this index.
    fn name(&self, index: u32) -> Option<String>;
}

/// The devices seen so far, by index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkNames(BTreeMap<u32, String>);

impl LinkNames {
    /// Follows a device that came, changed its name, or went.
    pub fn learn(&mut self, message: &Message) {
        match message {
            Message::Link(link) => drop(self.0.insert(link.index, link.name.clone())),
            Message::LinkGone(link) => drop(self.0.remove(&link.index)),
            _ => {}
        }
    }
}

impl Names for LinkNames {
    fn index(&self, name: &str) -> Option<u32> {
        self.0.iter().find(|&(_, n)| n == name).map(|(&index, _)| index)
    }

    fn name(&self, index: u32) -> Option<String> {
        self.0.get(&index).cloned()
    }
}

/// A message with what its netlink header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The netlink family that it came in: [`ROUTE`] or [`NETFILTER`].
    pub family: u16,
    /// `NLM_F_*`. A notification repeats the flags of the request that caused it.
    pub flags: u16,
    /// Sequence number: of the request that it answers or was caused by, else 0.
    pub sequence: u32,
    /// Port of the socket that asked, 0 if the kernel sent the message of its own.
    pub port_id: u32,
    /// What it says.
    pub message: Message,
}

impl Envelope {
    /// Whether it is part of a dump.
    pub fn is_dump(&self) -> bool {
        self.flags & NLM_F_MULTIPART != 0
    }

    /// Whether it is a request to the kernel, which an observer sees too, rather than word from it. (The kernel's word carries
    /// the flags of a request, too, but then the requester's port.) A program that fills in its own port looks like the kernel.
    pub fn is_request(&self) -> bool {
        self.flags & NLM_F_REQUEST != 0 && self.port_id == 0
    }
}

/// There, or no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Added, changed, or dumped.
    New,
    /// Gone.
    Gone,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A device is there or has changed.
    Link(Link),
    /// A device is gone.
    LinkGone(Link),
    /// A queueing discipline is there or has changed.
    Qdisc(Qdisc),
    /// A queueing discipline is gone, and its filters with it, without a message each.
    QdiscGone(Qdisc),
    /// A chain is there.
    Chain {
        /// Where.
        owner: ChainOwner,
        /// Its index.
        chain: u32,
    },
    /// A chain is gone. Its filters were told before, unless its qdisc or block went.
    ChainGone {
        /// Where.
        owner: ChainOwner,
        /// Its index.
        chain: u32,
    },
    /// A priority is there; a dump tells each before its filters.
    Priority {
        /// Hook.
        hook: Hook,
        /// Chain.
        chain: u32,
        /// Priority.
        prio: u16,
        /// Its filters' protocol.
        protocol: u16,
        /// Classifier.
        kind: String,
    },
    /// A filter is there, or gone.
    Filter(Box<FilterMessage>),
    /// All filters of a priority are gone (RTM_DELTFILTER with handle 0; `tcf_chain_flush` sends one for each priority).
    FiltersGone {
        /// Hook.
        hook: Hook,
        /// Chain.
        chain: u32,
        /// Priority.
        prio: u16,
        /// Its filters' protocol.
        protocol: u16,
    },
    /// Actions were added, changed or removed by themselves, not with a filter (RTM_NEWACTION, RTM_DELACTION).
    Actions {
        /// What happened to them.
        event: Event,
        /// The actions.
        actions: Vec<ActionMessage>,
    },
    /// All actions of a kind that no filter uses are gone.
    ActionsFlushed {
        /// The kind.
        kind: String,
    },
    /// A connection.
    Connection {
        /// What happened to it.
        event: ConnectionEvent,
        /// The connection.
        connection: Box<ConnectionMessage>,
    },
    /// The end of a dump.
    Done,
    /// The answer to a request: 0 for success, else a negative errno.
    Error {
        /// The number.
        code: i32,
    },
    /// Anything else: a message that is not of interest here, or a filter that hangs on neither side of a device.
    Other {
        /// `nlmsg_type`.
        message_type: u16,
    },
}

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const TCA_ACT_TAB: u16 = 1;

/// Reads one message, header included, of netlink family `family` ([`ROUTE`] or [`NETFILTER`]). Bytes behind its length are left
/// alone. `names` turns the device that a filter names into an index.
pub fn decode(family: u16, bytes: &[u8], names: &dyn Names) -> Result<Envelope, DecodeError> {
    let fault = |have, want| DecodeError::new("header", Fault::Short { have, want });
    if bytes.len() < 16 {
        return Err(fault(bytes.len(), 16));
    }
    let buffer = NetlinkBuffer::new(bytes);
    let (length, message_type, flags) = (buffer.length() as usize, buffer.message_type(), buffer.flags());
    let message = name(family, message_type);
    if length < 16 || length > bytes.len() {
        let cut = fault(bytes.len(), length.max(16));
        return Err(DecodeError { message, ..cut });
    }
    let payload = &bytes[16..length];
    let content = match (family, message_type) {
        (_, NLMSG_ERROR) => payload
            .first_chunk()
            .map(|code| Message::Error { code: i32::from_ne_bytes(*code) })
            .ok_or_else(|| fault(payload.len(), 4)),
        (_, NLMSG_DONE) => Ok(Message::Done),
        (ROUTE, _) => route(message_type, payload, names),
        (NETFILTER, _) => netfilter(message_type, flags, payload),
        _ => Err(DecodeError::new("header", Fault::Family(family))),
    };
    Ok(Envelope {
        family,
        flags,
        sequence: buffer.sequence_number(),
        port_id: buffer.port_number(),
        message: content.map_err(|e| DecodeError { message, ..e })?,
    })
}

/// The messages of a datagram, each with its header, until one that lies about its length.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, _) = glance(bytes)?;
        let message = bytes.get(..length).filter(|m| m.len() >= 16)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// How long a message says that it is, and whether it is a request (as [`Envelope::is_request`]): what it takes to leave it
/// unread. `None` if it has not even a header.
pub(crate) fn glance(bytes: &[u8]) -> Option<(usize, bool)> {
    bytes.first_chunk::<16>()?;
    let buffer = NetlinkBuffer::new(bytes);
    let is_request = buffer.flags() & NLM_F_REQUEST != 0 && buffer.port_number() == 0;
    Some((buffer.length() as usize, is_request))
}

/// The kernel's name of the messages that are read.
fn name(family: u16, message_type: u16) -> &'static str {
    match (family, message_type) {
        (_, NLMSG_ERROR) => "NLMSG_ERROR",
        (ROUTE, 16) => "RTM_NEWLINK",
        (ROUTE, 17) => "RTM_DELLINK",
        (ROUTE, 36) => "RTM_NEWQDISC",
        (ROUTE, 37) => "RTM_DELQDISC",
        (ROUTE, filter::RTM_NEWTFILTER) => "RTM_NEWTFILTER",
        (ROUTE, filter::RTM_DELTFILTER) => "RTM_DELTFILTER",
        (ROUTE, 48) => "RTM_NEWACTION",
        (ROUTE, 49) => "RTM_DELACTION",
        (ROUTE, 100) => "RTM_NEWCHAIN",
        (ROUTE, 101) => "RTM_DELCHAIN",
        (NETFILTER, 0x100) => "IPCTNL_MSG_CT_NEW",
        (NETFILTER, 0x102) => "IPCTNL_MSG_CT_DELETE",
        _ => "netlink message",
    }
}

fn route(message_type: u16, payload: &[u8], names: &dyn Names) -> Result<Message, DecodeError> {
    let other = Message::Other { message_type };
    Ok(match message_type {
        16 => link::decode(payload)?.map_or(other, Message::Link),
        17 => link::decode(payload)?.map_or(other, Message::LinkGone),
        36 => Message::Qdisc(link::qdisc(payload)?),
        37 => Message::QdiscGone(link::qdisc(payload)?),
        filter::RTM_NEWTFILTER => filter::decode(Event::New, payload, names)?.unwrap_or(other),
        filter::RTM_DELTFILTER => filter::decode(Event::Gone, payload, names)?.unwrap_or(other),
        48 => actions_changed(Event::New, payload)?,
        49 => actions_changed(Event::Gone, payload)?,
        100 => {
            let (owner, chain) = filter::chain(payload)?;
            Message::Chain { owner, chain }
        }
        101 => {
            let (owner, chain) = filter::chain(payload)?;
            Message::ChainGone { owner, chain }
        }
        _ => other,
    })
}

/// `struct tcamsg` (four bytes), then the actions.
fn actions_changed(event: Event, payload: &[u8]) -> Result<Message, DecodeError> {
    let short = Fault::Short { have: payload.len(), want: 4 };
    let attributes = payload.get(4..).ok_or_else(|| DecodeError::new("struct tcamsg", short))?;
    let root = Attributes::parse("TCA_ROOT", attributes)?;
    let Some(list) = root.nested(TCA_ACT_TAB, "TCA_ACT_TAB")? else {
        let actions = Vec::new();
        return Ok(Message::Actions { event, actions });
    };
    // A flush is told by kind, under the number 0 that no action has.
    if let Some(flushed) = list.nested(0, "TCA_ACT")? {
        let kind = flushed.text(1).unwrap_or_default();
        return Ok(Message::ActionsFlushed { kind });
    }
    let actions = actions::decode(&list)?;
    Ok(Message::Actions { event, actions })
}

fn netfilter(message_type: u16, flags: u16, payload: &[u8]) -> Result<Message, DecodeError> {
    let event = match message_type {
        0x100 if flags & NLM_F_MULTIPART != 0 => ConnectionEvent::Dump,
        0x100 if flags & NLM_F_CREATE != 0 => ConnectionEvent::New,
        0x100 => ConnectionEvent::Update,
        0x102 => ConnectionEvent::Destroy,
        _ => return Ok(Message::Other { message_type }),
    };
    let connection = Box::new(connection::decode(payload)?);
    Ok(Message::Connection { event, connection })
}
