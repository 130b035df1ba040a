//! The record of one packet: how it arrived, and the filters that it hit, with the connections found on the way.
//!
//! In two forms: a [`Walk`] owns what it says and is easily made; a [`Record`] is what the datapath writes while the packet is on
//! its way ([`record`]).

pub mod record;

pub use record::{Record, Recorded, Steps};

use crate::{
    conntrack::{ConnectionId, Direction},
    flower::{Cookie, Key, Port},
};

/// What a `ct` action found for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Found {
    /// The connection.
    pub connection: ConnectionId,
    /// The direction of this packet in it.
    pub direction: Direction,
}

/// One filter matched by the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The filter.
    pub filter: Cookie,
    /// For each `ct` action of the filter that the packet ran, in order and `clear` included, what it found; `None` where
    /// there is no confirmed connection (new, invalid, cleared).
    pub found: Vec<Option<Found>>,
}

/// A walk: one packet's way through the filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The port the packet came in on.
    pub port: Port,
    /// The packet as it arrived, before any action.
    pub key: Key,
    /// The filters hit, in order. The last one is the terminal.
    pub hits: Vec<Hit>,
}
