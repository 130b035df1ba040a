//! What fits what: a last filter behind a first one, and a connection on both.
//!
//! A match is carried through the first filter's actions: what they wrote is compared with what was written, and the rest with what the
//! first filter asks. Addresses and ports are the connection's affair, since `ct nat` may change them in between.

use flowmerge::{
    conntrack::{Tuple, proto, tuple::address_bits},
    flower::{
        Action, ActionKind, Control, Field, Filter, Match, Range,
        action::{Pedit, PeditHeader, PeditKey},
        field::{Header, addr_type, ct_state},
    },
    merge::program::{effect, pedit_header},
};
use std::net::IpAddr;

/// What a pair of filters comes to, whatever the connection.
#[derive(Debug)]
pub struct Tested {
    /// What both ask of the packet as it arrives, but for the last one's addresses and ports.
    arrived: Match,
    /// What the last one asks of addresses, ports and conntrack: field, value, mask.
    asked: Vec<(Field, u128, u128)>,
    ranges: Vec<(Field, Range)>,
    /// Whether `ct` translates.
    pub nat: bool,
    /// The first filter's actions, but for `ct` and what follows it.
    pub before: Vec<Action>,
    /// The last filter's actions.
    pub behind: Vec<Action>,
}

/// What the last filter sees of a connection.
pub struct Behind<'a> {
    pub tuple: &'a Tuple,
    pub reply: bool,
    pub mark: u32,
    pub labels: u128,
}

const ESTABLISHED: u128 = ct_state::TRACKED | ct_state::ESTABLISHED;

fn of_tuple(field: Field) -> bool {
    use Field::{DstPort, Ipv4Dst, Ipv4Src, Ipv6Dst, Ipv6Src, SrcPort};
    matches!(field, Ipv4Src | Ipv4Dst | Ipv6Src | Ipv6Dst | SrcPort | DstPort)
}

/// Tests a pair: its zone and what it comes to, if packets of a connection may pass both.
pub fn pair(first: &Filter, last: &Filter) -> Option<(u16, Tested)> {
    let Control::Goto(chain) = first.actions.last()?.control else { return None };
    if chain != last.id.chain || first.id.hook != last.id.hook {
        return None;
    }
    let at = first.actions.iter().position(|a| matches!(a.kind, ActionKind::Ct(_)))?;
    let ActionKind::Ct(ct) = &first.actions[at].kind else { return None };
    let before = &first.actions[..at];
    let mut tested = Tested {
        arrived: first.matches,
        asked: Vec::new(),
        ranges: last.matches.ranges().collect(),
        nat: ct.nat.is_some(),
        before: before.to_vec(),
        behind: last.actions.clone(),
    };
    let mut rest = Match::default();
    for (field, value, mask) in last.matches.terms() {
        let (written, to) = written(before, field)?;
        match field {
            Field::CtState if (value ^ ESTABLISHED) & mask & !ct_state::REPLY != 0 => return None,
            Field::CtState | Field::CtMark | Field::CtLabels => tested.asked.push((field, value, mask)),
            Field::CtZone if (value ^ u128::from(ct.zone)) & mask != 0 => return None,
            Field::CtZone => {}
            _ if (value ^ to) & mask & written != 0 => return None,
            _ if of_tuple(field) => {
                tested.asked.push((field, value, mask));
                let asked = first.matches.key.get(field) ^ value;
                if !tested.nat && asked & mask & first.matches.mask.get(field) != 0 {
                    return None;
                }
            }
            _ => rest.set(field, value, mask & !written),
        }
    }
    tested.arrived = tested.arrived.both(&rest)?;
    Some((ct.zone, tested))
}

/// The bits of a field that actions wrote, and what. `None` where this does not know, or where the tuple is written before `ct` looks at
/// it: such pairs are not merged.
fn written(actions: &[Action], field: Field) -> Option<(u128, u128)> {
    let (mut mask, mut value) = (0, 0);
    for action in actions {
        let ActionKind::Pedit(pedit) = &action.kind else { return None };
        for key in &pedit.keys {
            if key.add || key.dynamic.is_some() {
                return None;
            }
            for &place in field.row().places {
                let here = match (place.header, key.header) {
                    (Header::Ipv4 | Header::Ipv6, PeditHeader::Network) => true,
                    (header, of) => pedit_header(header) == Some(of),
                };
                let Some((kept, to)) = here.then(|| effect(key, field, place)).flatten() else { continue };
                if kept == field.ones() && to == 0 {
                    continue;
                }
                if of_tuple(field) {
                    return None;
                }
                mask |= field.ones() & !kept;
                value = value & kept ^ to;
            }
        }
    }
    Some((mask, value & mask))
}

/// A tuple as flower sees it: address kind, protocol, addresses and ports.
fn fields(tuple: &Tuple) -> [(Field, u128); 7] {
    let (ethertype, kind, src, dst) = match tuple.src {
        IpAddr::V4(_) => (0x0800, addr_type::IPV4, Field::Ipv4Src, Field::Ipv4Dst),
        IpAddr::V6(_) => (0x86dd, addr_type::IPV6, Field::Ipv6Src, Field::Ipv6Dst),
    };
    [
        (src, address_bits(tuple.src)),
        (dst, address_bits(tuple.dst)),
        (Field::SrcPort, tuple.src_port.into()),
        (Field::DstPort, tuple.dst_port.into()),
        (Field::IpProto, tuple.proto.into()),
        (Field::AddrType, kind),
        (Field::EthType, ethertype),
    ]
}

impl Tested {
    /// Whether packets of a connection's direction may pass both filters.
    pub fn fits(&self, tuple: &Tuple, behind: &Behind) -> bool {
        let arrived =
            |(field, value): (Field, u128)| (self.arrived.key.get(field) ^ value) & self.arrived.mask.get(field) == 0;
        if !fields(tuple).into_iter().all(arrived) {
            return false;
        }
        let port = |of: &Tuple, field| if field == Field::SrcPort { of.src_port } else { of.dst_port };
        self.arrived.ranges().all(|(field, range)| range.contains(port(tuple, field)))
            && self.asked.iter().all(|&(field, value, mask)| (behind.get(field) ^ value) & mask == 0)
            && self.ranges.iter().all(|&(field, range)| range.contains(port(behind.tuple, field)))
    }

    /// The match with the connection's tuple.
    pub fn with(&self, tuple: &Tuple) -> Match {
        let mut matches = self.arrived;
        for (field, value) in fields(tuple) {
            matches.set(field, value, field.ones());
        }
        // Both ports are asked for as they are.
        matches.src_range = None;
        matches.dst_range = None;
        matches
    }
}

impl Behind<'_> {
    fn get(&self, field: Field) -> u128 {
        let v4 = |address| if let IpAddr::V4(a) = address { u32::from(a).into() } else { 0 };
        let v6 = |address| if let IpAddr::V6(a) = address { a.into() } else { 0 };
        match field {
            Field::Ipv4Src => v4(self.tuple.src),
            Field::Ipv4Dst => v4(self.tuple.dst),
            Field::Ipv6Src => v6(self.tuple.src),
            Field::Ipv6Dst => v6(self.tuple.dst),
            Field::SrcPort => self.tuple.src_port.into(),
            Field::DstPort => self.tuple.dst_port.into(),
            Field::CtState => ESTABLISHED | if self.reply { ct_state::REPLY } else { 0 },
            Field::CtMark => self.mark.into(),
            Field::CtLabels => self.labels,
            _ => 0,
        }
    }
}

/// What turns the arrived tuple into the translated one, if they differ.
pub fn translation(arrived: &Tuple, translated: &Tuple) -> Option<Action> {
    if arrived == translated {
        return None;
    }
    let mut keys = Vec::with_capacity(4);
    let mut write = |header, offset, mask, value: u32| {
        keys.push(PeditKey { header, offset, mask, value: value.to_be_bytes(), add: false, dynamic: None });
    };
    let addresses = [(arrived.src, translated.src, 12, 8), (arrived.dst, translated.dst, 16, 24)];
    for (old, new, in_v4, in_v6) in addresses {
        match new {
            _ if old == new => {}
            IpAddr::V4(new) => write(PeditHeader::Ipv4, in_v4, [0; 4], new.into()),
            IpAddr::V6(new) => {
                for (i, word) in (0i32..).zip(new.octets().chunks_exact(4)) {
                    write(PeditHeader::Ipv6, in_v6 + 4 * i, [0; 4], word.iter().fold(0, |w, &b| w << 8 | u32::from(b)));
                }
            }
        }
    }
    let l4 = if arrived.proto == proto::UDP { PeditHeader::Udp } else { PeditHeader::Tcp };
    if arrived.src_port != translated.src_port {
        write(l4, 0, [0, 0, 0xff, 0xff], u32::from(translated.src_port) << 16);
    }
    if arrived.dst_port != translated.dst_port {
        write(l4, 0, [0xff, 0xff, 0, 0], translated.dst_port.into());
    }
    Some(Action::new(ActionKind::Pedit(Pedit { keys, mend: true }), Control::Pipe))
}
