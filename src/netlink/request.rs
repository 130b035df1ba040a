//! Requests: what a program that keeps filters asks of the kernel. Each is one message with `NLM_F_ACK`, sequence and port 0 for
//! the caller to fill in; several may go to the kernel in one datagram, and each gets an answer of its own.

use super::{
    Names, actions,
    attributes::{Attribute, emit},
    error::EncodeError,
    filter::{CHAIN, KIND, OPTIONS, RTM_DELTFILTER, RTM_NEWTFILTER, SKIP_HW, SKIP_SW},
    flower::{self, Said},
};
use crate::flower::{Filter, FilterId, Hook, Kind, Port};
use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader};
use netlink_packet_route::{
    link::{LinkFlags, LinkHeader},
    tc::{TcHandle, TcHeader},
};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const INGRESS_BLOCK: u16 = 13;

/// Adds this filter, as `tc filter add` would (`RTM_NEWTFILTER` with `NLM_F_CREATE | NLM_F_EXCL`).
///
/// An action's index is sent as it stands: 0 lets the kernel choose, another number shares the action that has it. A
/// handle of 0 lets the kernel choose as well. Nothing is sent that Linux 6.1 would not say back: a filter for which that
/// cannot be is refused.
pub fn encode_filter(filter: &Filter, names: &dyn Names) -> Result<Vec<u8>, EncodeError> {
    put_filter(filter, names, NLM_F_CREATE | NLM_F_EXCL, &[Said::Asked, Said::Dumped])
}

/// The same for a filter that its owner remembers ([`Filter::in_front`]): what Linux compares and does not say back is sent, too. That
/// is a tag's own type in a filter of `protocol all`.
pub fn encode_front(filter: &Filter, names: &dyn Names) -> Result<Vec<u8>, EncodeError> {
    put_filter(filter, names, NLM_F_CREATE | NLM_F_EXCL, &[Said::Asked])
}

/// Puts this filter in the place of the one with the same identity (`tc filter replace`). Flower takes no other mask there.
pub fn encode_replacement(filter: &Filter, names: &dyn Names) -> Result<Vec<u8>, EncodeError> {
    put_filter(filter, names, NLM_F_CREATE | NLM_F_REPLACE, &[Said::Asked, Said::Dumped])
}

fn put_filter(filter: &Filter, names: &dyn Names, flags: u16, readers: &[Said]) -> Result<Vec<u8>, EncodeError> {
    if let Kind::Other(kind) = &filter.kind {
        return Err(EncodeError::Classifier(kind.clone()));
    }
    if let Some(what) = filter.undecoded.first() {
        return Err(EncodeError::Undecoded(what.clone()));
    }
    let mut options = flower::encode(&filter.matches, filter.id.protocol, names, readers)?;
    let skip = u32::from(filter.skip_sw) * SKIP_SW + u32::from(filter.skip_hw) * SKIP_HW;
    if skip != 0 {
        options.push(Attribute::new(flower::FLAGS, skip.to_ne_bytes()));
    }
    if !filter.actions.is_empty() {
        options.push(actions::encode(flower::ACT, &filter.actions)?);
    }
    Ok(about_filter(RTM_NEWTFILTER, flags, filter.id, Some(options)))
}

/// Removes a filter.
pub fn encode_removal(id: FilterId) -> Vec<u8> {
    about_filter(RTM_DELTFILTER, 0, id, None)
}

fn about_filter(message_type: u16, flags: u16, id: FilterId, options: Option<Vec<Attribute>>) -> Vec<u8> {
    let mut attributes = vec![Attribute::text(KIND, "flower"), Attribute::new(CHAIN, id.chain.to_ne_bytes())];
    attributes.extend(options.map(|options| Attribute::nest(OPTIONS, options)));
    let header = TcHeader {
        handle: id.handle.into(),
        info: u32::from(id.prio) << 16 | u32::from(id.protocol.to_be()),
        ..at(id.hook)
    };
    about_tc(message_type, flags, header, &attributes)
}

/// How a request names a hook. (An `ingress` qdisc takes the parent of clsact's ingress side, too.)
pub(super) fn at(hook: Hook) -> TcHeader {
    let under = |minor| u32::from(u16::MAX) << 16 | u32::from(minor);
    let (index, parent) = match hook {
        Hook::Ingress(port) => (port.0, under(TcHandle::MIN_INGRESS)),
        Hook::Egress(port) => (port.0, under(TcHandle::MIN_EGRESS)),
        Hook::Block(block) => (TcHeader::TCM_IFINDEX_MAGIC_BLOCK, block),
    };
    TcHeader { index: index as i32, parent: parent.into(), ..TcHeader::default() }
}

/// Gives a port the qdisc that filters hang on (`clsact`), its ingress side bound to a shared block if one is named.
pub fn encode_clsact(port: Port, ingress_block: Option<u32>) -> Vec<u8> {
    let mut attributes = vec![Attribute::text(KIND, "clsact")];
    attributes.extend(ingress_block.map(|block| Attribute::new(INGRESS_BLOCK, block.to_ne_bytes())));
    about_tc(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, clsact(port), &attributes)
}

/// Takes that qdisc away, with all its filters.
pub fn encode_no_clsact(port: Port) -> Vec<u8> {
    about_tc(RTM_DELQDISC, 0, clsact(port), &[])
}

/// `ffff:` under `TC_H_CLSACT`.
fn clsact(port: Port) -> TcHeader {
    TcHeader {
        index: port.0 as i32,
        handle: TcHandle::from(0xffff_0000),
        parent: TcHandle::from(0xffff_fff1),
        ..TcHeader::default()
    }
}

fn about_tc(message_type: u16, flags: u16, header: TcHeader, attributes: &[Attribute]) -> Vec<u8> {
    let mut payload = vec![0; header.buffer_len()];
    header.emit(&mut payload);
    payload.extend(emit(attributes));
    request(message_type, flags, &payload)
}

/// Sets a device up or down.
pub fn encode_link_state(port: Port, up: bool) -> Vec<u8> {
    let header = LinkHeader {
        index: port.0,
        flags: if up { LinkFlags::Up } else { LinkFlags::empty() },
        change_mask: LinkFlags::Up,
        ..LinkHeader::default()
    };
    let mut payload = vec![0; header.buffer_len()];
    header.emit(&mut payload);
    request(RTM_NEWLINK, 0, &payload)
}

fn request(message_type: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    message(message_type, NLM_F_ACK | flags, payload)
}

/// Puts a netlink header in front; every request has NLM_F_REQUEST.
pub(super) fn message(message_type: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.message_type = message_type;
    header.flags = NLM_F_REQUEST | flags;
    let mut bytes = vec![0; header.buffer_len()];
    header.length = (bytes.len() + payload.len()) as u32;
    header.emit(&mut bytes);
    bytes.extend(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::{super::*, *};

    /// A request read as if the kernel had sent it.
    fn read(bytes: &[u8]) -> Message {
        decode(ROUTE, bytes, &LinkNames::default()).unwrap().message
    }

    #[test]
    fn requests_say_what_was_asked() {
        let port = Port(3);
        match read(&encode_clsact(port, Some(7))) {
            Message::Qdisc(qdisc) => assert_eq!((qdisc.index, qdisc.ingress_block), (3, Some(7))),
            other => panic!("{other:?}"),
        }
        assert!(matches!(read(&encode_no_clsact(port)), Message::QdiscGone(qdisc) if qdisc.index == 3));
        let id = FilterId { hook: Hook::Block(7), chain: 2, prio: 4, protocol: 0x800, handle: 9 };
        match read(&encode_removal(id)) {
            Message::Filter(told) => assert_eq!((told.event, told.filter.id), (Event::Gone, id)),
            other => panic!("{other:?}"),
        }
        let down = encode_link_state(port, false);
        assert_eq!(down[16 + 4..16 + 8], 3i32.to_ne_bytes());
        assert_eq!((&down[16 + 8..16 + 12], &down[16 + 12..]), (&[0; 4][..], &1u32.to_ne_bytes()[..]));
    }
}
