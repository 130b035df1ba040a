//! A filter: its identity, its match, its actions, and what TC says of it besides.

use super::{action::Action, field::Field, matches::Match};
use std::fmt;

/// A device in its network namespace, by ifindex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(pub u32);

/// Where filters hang: a direction of a port, or a block that ports share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// The ingress side of a port (`clsact` or `ingress` qdisc).
    Ingress(Port),
    /// The egress side of a port (`clsact`).
    Egress(Port),
    /// A shared block, by index.
    Block(u32),
}

/// A filter's identity. Handles repeat from chain to chain and from priority to priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterId {
    /// Hook.
    pub hook: Hook,
    /// Chain (`recirc_id`).
    pub chain: u32,
    /// Priority; lower is tried first.
    pub prio: u16,
    /// Outermost ethertype, host order; 0x0003 is `all`.
    pub protocol: u16,
    /// Handle within chain and priority.
    pub handle: u32,
}

/// `protocol all` (`ETH_P_ALL`).
pub const PROTOCOL_ALL: u16 = 3;

/// The driver's name for a filter while it exists (`flow_cls_offload.cookie`); may be used again for another one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cookie(pub u64);

/// A TC filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Identity.
    pub id: FilterId,
    /// Classifier kind; only `flower` has a match.
    pub kind: Kind,
    /// Match. Holds the comparison with the filter's own protocol too (field `Protocol`), unless that is `all`.
    pub matches: Match,
    /// Actions in order.
    pub actions: Vec<Action>,
    /// Never looked at in software.
    pub skip_sw: bool,
    /// Never offered to hardware.
    pub skip_hw: bool,
    /// Attributes that were not understood, named as `TCA_FLOWER 84` or `act_ct 7`. Such a filter is never merged.
    pub undecoded: Vec<String>,
}

/// The classifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `cls_flower`.
    Flower,
    /// Any other: what it matches is not known.
    Other(String),
}

impl Filter {
    /// A flower filter, for software and hardware alike, with everything decoded.
    pub fn flower(id: FilterId, matches: Match, actions: Vec<Action>) -> Filter {
        Filter { id, kind: Kind::Flower, matches, actions, skip_sw: false, skip_hw: false, undecoded: Vec::new() }
    }

    /// The first filter of a port's ingress hook. Its protocol is what the match asks for, or `all` where that is not one.
    pub fn alone(port: Port, handle: u32, matches: Match, actions: Vec<Action>) -> Filter {
        let protocol = match matches.mask.get(Field::Protocol) {
            0xffff => matches.key.get(Field::Protocol) as u16,
            _ => PROTOCOL_ALL,
        };
        Filter::flower(FilterId { hook: Hook::Ingress(port), chain: 0, prio: 1, protocol, handle }, matches, actions)
    }

    /// Whether match and actions are known in full.
    pub fn is_decoded(&self) -> bool {
        self.undecoded.is_empty() && self.kind == Kind::Flower
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "if{}", self.0)
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hook::Ingress(p) => p.fmt(f),
            Hook::Egress(p) => write!(f, "{p} egress"),
            Hook::Block(b) => write!(f, "block {b}"),
        }
    }
}

impl fmt::Display for FilterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} chain {} pref {} handle {:#x}", self.hook, self.chain, self.prio, self.handle)
    }
}
