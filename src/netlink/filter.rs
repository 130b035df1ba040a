//! Filters and chains (`struct tcmsg`, `TCA_*`; `net/sched/cls_api.c`).
//!
//! How a message names its hook: a filter of a shared block carries ifindex -1 and the block's index in place of the parent;
//! a filter of a device the parent that it was added under, `ffff:fff2` for ingress, `ffff:fff3` for egress, and under an
//! `ingress` qdisc also `ffff:0`.

use super::{
    ActionMessage, Event, Message, Names, actions,
    attributes::Attributes,
    error::{DecodeError, Fault},
    flower,
};
use crate::flower::{Counters, Filter, FilterId, Hook, Kind, Match, Port};
use netlink_packet_route::tc::{TcHandle, TcHeader};

pub(super) const KIND: u16 = 1;
pub(super) const OPTIONS: u16 = 2;
pub(super) const CHAIN: u16 = 11;

pub(super) const SKIP_HW: u32 = 1;
pub(super) const SKIP_SW: u32 = 2;
const IN_HW: u32 = 4;

pub(super) const RTM_NEWTFILTER: u16 = 44;
pub(super) const RTM_DELTFILTER: u16 = 45;

/// A filter as a message tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterMessage {
    /// Added, replaced, echoed or dumped (`New`), or gone.
    pub event: Event,
    /// The filter.
    pub filter: Filter,
    /// What each action has counted, in action order, software and hardware together. `last_used` is 0.
    pub counters: Vec<Counters>,
    /// For each action, nanoseconds between its last packet and the message; `None` if it had none.
    pub idle: Vec<Option<u64>>,
    /// Whether a driver took the filter (`TCA_CLS_FLAGS_IN_HW`).
    pub in_hardware: bool,
}

/// What a chain belongs to. A chain's messages name a device, but not which side of it: under `clsact` its ingress and its
/// egress side have chains of their own, and both are told with the qdisc's handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChainOwner {
    /// One side of a device.
    Device(Port),
    /// A shared block, by index.
    Block(u32),
}

/// The qdiscs that hooks belong to have the handle `ffff:`.
fn hook(header: &TcHeader) -> Option<Hook> {
    if header.index as u32 == TcHeader::TCM_IFINDEX_MAGIC_BLOCK {
        return Some(Hook::Block(header.parent.into()));
    }
    let port = Port(header.index as u32);
    match (header.parent.major, header.parent.minor) {
        (u16::MAX, TcHandle::MIN_EGRESS) => Some(Hook::Egress(port)),
        (u16::MAX, 0 | TcHandle::MIN_INGRESS) => Some(Hook::Ingress(port)),
        // A filter that feeds the classes of a queue.
        _ => None,
    }
}

pub(super) fn header(payload: &[u8]) -> Result<(TcHeader, Attributes<'_>), DecodeError> {
    let short = Fault::Short { have: payload.len(), want: 20 };
    let header = TcHeader::parse(payload).map_err(|_| DecodeError::new("struct tcmsg", short))?;
    Ok((header, Attributes::parse("TCA", &payload[20..])?))
}

pub(super) fn decode(event: Event, payload: &[u8], names: &dyn Names) -> Result<Option<Message>, DecodeError> {
    let (header, tca) = header(payload)?;
    let Some(hook) = hook(&header) else { return Ok(None) };
    let id = FilterId {
        hook,
        chain: tca.u32(CHAIN)?.unwrap_or(0),
        prio: (header.info >> 16) as u16,
        protocol: u16::from_be(header.info as u16),
        handle: header.handle.into(),
    };
    let kind = tca.text(KIND).unwrap_or_default();
    // A whole priority: the head of each in a dump, or the end of all its filters. The kernel tells a chain's flush as the end
    // of its priorities, one by one.
    if id.handle == 0 {
        let FilterId { hook, chain, prio, protocol, .. } = id;
        return Ok(Some(match event {
            Event::New => Message::Priority { hook, chain, prio, protocol, kind },
            Event::Gone => Message::FiltersGone { hook, chain, prio, protocol },
        }));
    }
    let message = match kind.as_str() {
        "flower" => match tca.nested(OPTIONS, "TCA_FLOWER")? {
            Some(options) => flower_filter(event, id, &options, names)?,
            None => other_filter(event, id, Kind::Flower, "TCA_OPTIONS is missing"),
        },
        _ => other_filter(event, id, Kind::Other(kind.clone()), &format!("cls_{kind}")),
    };
    Ok(Some(Message::Filter(Box::new(message))))
}

fn flower_filter(
    event: Event,
    id: FilterId,
    options: &Attributes,
    names: &dyn Names,
) -> Result<FilterMessage, DecodeError> {
    let mut undecoded = Vec::new();
    let matches = flower::decode(options, id.protocol, names, &mut undecoded)?;
    let flags = options.u32(flower::FLAGS)?.unwrap_or(0);
    let list = match options.nested(flower::ACT, "TCA_FLOWER_ACT")? {
        Some(list) => actions::decode(&list)?,
        None => Vec::new(),
    };
    let counters = list.iter().map(|a| a.counters).collect();
    let idle = list.iter().map(|a| a.idle).collect();
    let mut actions = Vec::with_capacity(list.len());
    for ActionMessage { action, undecoded: u, .. } in list {
        actions.push(action);
        undecoded.extend(u);
    }
    Ok(FilterMessage {
        event,
        filter: Filter {
            id,
            kind: Kind::Flower,
            matches,
            actions,
            skip_sw: flags & SKIP_SW != 0,
            skip_hw: flags & SKIP_HW != 0,
            undecoded,
        },
        counters,
        idle,
        in_hardware: flags & IN_HW != 0,
    })
}

/// A filter of which nothing is known but that it is there.
fn other_filter(event: Event, id: FilterId, kind: Kind, what: &str) -> FilterMessage {
    FilterMessage {
        event,
        filter: Filter {
            id,
            kind,
            matches: Match::default(),
            actions: Vec::new(),
            skip_sw: false,
            skip_hw: false,
            undecoded: vec![what.to_owned()],
        },
        counters: Vec::new(),
        idle: Vec::new(),
        in_hardware: false,
    }
}

/// The owner and the index of a chain.
pub(super) fn chain(payload: &[u8]) -> Result<(ChainOwner, u32), DecodeError> {
    let (header, tca) = header(payload)?;
    let owner = match header.index as u32 {
        TcHeader::TCM_IFINDEX_MAGIC_BLOCK => ChainOwner::Block(header.parent.into()),
        index => ChainOwner::Device(Port(index)),
    };
    Ok((owner, tca.u32(CHAIN)?.unwrap_or(0)))
}
