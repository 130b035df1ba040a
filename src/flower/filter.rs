//! A filter: its identity, its match, its actions, and what TC says of it besides.

use super::{action::Action, ethertype, field::Field, matches::Match};
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

    /// The same as it goes in front of the filters of a hook, in a priority of its own. One priority of a chain holds one protocol, so
    /// this is `all`; what the match asks of the protocol is told by the ethertype, the number of tags and the outer tag's own
    /// type. At a shared block's hook the port is told by `indev`.
    ///
    /// Flower cannot see there what carries a packet: IP in PPPoE, HSR or PRP frames has the ethertype of IP. Where such
    /// frames come in, something in front of this must keep them out.
    ///
    /// # Errors
    /// The field that cannot be told so: `protocol`, of a carrier like these or where bits of it are asked for; `eth_type` or
    /// `num_of_vlans`, if the match asks another of it.
    pub fn in_front(
        hook: Hook,
        port: Port,
        handle: u32,
        matches: Match,
        actions: Vec<Action>,
    ) -> Result<Filter, Field> {
        let mut told = matches;
        let mut tell = |field: Field, value: u128| {
            let (known, mask) = (told.key.get(field), told.mask.get(field));
            told.set(field, value, field.ones());
            if (known ^ value) & mask == 0 { Ok(()) } else { Err(field) }
        };
        match (matches.mask.get(Field::Protocol), matches.key.get(Field::Protocol) as u16) {
            (0, _) => {}
            (0xffff, tag @ (ethertype::VLAN | ethertype::QINQ)) => tell(Field::VlanTpid, tag.into())?,
            (0xffff, carrier) if ethertype::carries(carrier) => return Err(Field::Protocol),
            (0xffff, plain) => {
                tell(Field::EthType, plain.into())?;
                tell(Field::NumOfVlans, 0)?;
            }
            _ => return Err(Field::Protocol),
        }
        // Flower takes the type behind the last tag that is told for the innermost, and that of a tag for one more.
        for (behind, tag) in [(Field::VlanEthType, Field::CvlanTpid), (Field::CvlanEthType, Field::EthType)] {
            match matches.key.get(behind) {
                _ if matches.mask.get(behind) == 0 => {}
                kind if ethertype::is_vlan(kind as u16) => tell(tag, kind)?,
                kind => tell(Field::EthType, kind)?,
            }
        }
        if let Hook::Block(_) = hook {
            tell(Field::Indev, port.0.into())?;
        }
        told.clear(Field::Protocol);
        let id = FilterId { hook, chain: 0, prio: 1, protocol: PROTOCOL_ALL, handle };
        Ok(Filter::flower(id, told, actions))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_front_the_protocol_is_told_by_other_fields() {
        let port = Port(4);
        let front = |matches| Filter::in_front(Hook::Ingress(port), port, 7, matches, Vec::new());
        let of = |protocol: u16| Match::default().exact(Field::Protocol, protocol.into());
        let ip = front(of(ethertype::IPV4).exact(Field::Ipv4Dst, 1)).unwrap();
        let id = FilterId { hook: Hook::Ingress(port), chain: 0, prio: 1, protocol: PROTOCOL_ALL, handle: 7 };
        assert_eq!(ip.id, id);
        let plain = Match::default().exact(Field::EthType, 0x800).exact(Field::NumOfVlans, 0);
        assert_eq!(ip.matches, plain.exact(Field::Ipv4Dst, 1));
        let tagged = of(ethertype::VLAN).exact(Field::VlanId, 5).exact(Field::VlanEthType, 0x800);
        let want = Match::default().exact(Field::VlanTpid, 0x8100).exact(Field::VlanId, 5);
        assert_eq!(front(tagged).unwrap().matches, want.exact(Field::VlanEthType, 0x800).exact(Field::EthType, 0x800));
        assert_eq!(front(Match::default()).unwrap().matches, Match::default());
        let shared = Filter::in_front(Hook::Block(3), port, 7, Match::default(), Vec::new()).unwrap();
        assert_eq!(shared.matches, Match::default().exact(Field::Indev, 4));

        for carrier in [ethertype::PPPOE, ethertype::MPLS, ethertype::HSR] {
            assert_eq!(front(of(carrier)), Err(Field::Protocol));
        }
        assert_eq!(front(Match::default().with(Field::Protocol, 0x800, 0xff00)), Err(Field::Protocol));
        assert_eq!(front(of(ethertype::IPV4).exact(Field::EthType, 0x8847)), Err(Field::EthType), "MPLS in IP");
        assert_eq!(front(of(ethertype::IPV4).exact(Field::NumOfVlans, 1)), Err(Field::NumOfVlans));
    }
}
