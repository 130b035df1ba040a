//! Connections (`struct nfgenmsg`, `CTA_*`; `net/netfilter/nf_conntrack_netlink.c`). Numbers are in network order.

use super::{
    attributes::Attributes,
    error::{DecodeError, Fault},
};
use crate::{
    conntrack::{Connection, TcpState, Tuple, proto},
    flower::Counters,
};
use netlink_packet_core::Emitable;
use netlink_packet_netfilter::NetfilterHeader;
use std::net::IpAddr;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_HELP: u16 = 5;
const CTA_TIMEOUT: u16 = 7;
const CTA_MARK: u16 = 8;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
const CTA_ID: u16 = 12;
const CTA_TUPLE_MASTER: u16 = 14;
const CTA_SEQ_ADJ_ORIG: u16 = 15;
const CTA_SEQ_ADJ_REPLY: u16 = 16;
const CTA_ZONE: u16 = 18;
const CTA_LABELS: u16 = 22;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_HELP_NAME: u16 = 1;
const CTA_COUNTERS_PACKETS: u16 = 1;
const CTA_COUNTERS_BYTES: u16 = 2;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;

/// The bits of [`ConnectionMessage::status`] (`IPS_*`).
pub mod status {
    /// Expected by another connection.
    pub const EXPECTED: u32 = 1;
    /// A packet of the reply direction was seen.
    pub const SEEN_REPLY: u32 = 1 << 1;
    /// Not to be dropped early.
    pub const ASSURED: u32 = 1 << 2;
    /// In the table.
    pub const CONFIRMED: u32 = 1 << 3;
    /// Its source is translated in the original direction.
    pub const SRC_NAT: u32 = 1 << 4;
    /// Its destination is translated in the original direction.
    pub const DST_NAT: u32 = 1 << 5;
    /// Sequence numbers are adjusted.
    pub const SEQ_ADJUST: u32 = 1 << 6;
    /// The source's translation, which may be none, was chosen.
    pub const SRC_NAT_DONE: u32 = 1 << 7;
    /// The destination's.
    pub const DST_NAT_DONE: u32 = 1 << 8;
    /// Leaving.
    pub const DYING: u32 = 1 << 9;
    /// A helper was assigned by hand.
    pub const HELPER: u32 = 1 << 13;
    /// In the kernel's own flow table (act_ct).
    pub const OFFLOAD: u32 = 1 << 14;
    /// And from there in hardware.
    pub const HW_OFFLOAD: u32 = 1 << 15;
}

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionEvent {
    /// It was confirmed.
    New,
    /// Something of it changed.
    Update,
    /// It is gone.
    Destroy,
    /// It was asked for.
    Dump,
}

/// A connection as a message tells it. An event tells what changed, so that what is absent means different things:
/// see the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionMessage {
    /// Zone; absent is 0. Of a connection with a zone in one direction only (nftables; act_ct makes none) that zone.
    pub zone: u16,
    /// Original direction.
    pub original: Tuple,
    /// Reply direction, by which any translation is known.
    pub reply: Tuple,
    /// Identifier; the next connection of the same tuple may have it again.
    pub id: Option<u32>,
    /// `IPS_*` bits, see [`status`].
    pub status: Option<u32>,
    /// TCP state; absent in an event that did not change it, and from the DESTROY of Linux before 5.10.
    pub tcp: Option<TcpState>,
    /// Seconds until it expires.
    pub timeout: Option<u32>,
    /// Mark; absent is 0, in events as in dumps.
    pub mark: Option<u32>,
    /// Labels, label bit 0 in bit 0: the same sixteen bytes and the same reading as of [`crate::flower::Field::CtLabels`] and
    /// of the labels of `ct`. Absent in a dump is 0, in an event unchanged.
    pub labels: Option<u128>,
    /// Name of the helper, if it has one.
    pub helper: Option<String>,
    /// The connection that expected this one; told in dumps and with `New`.
    pub master: Option<Tuple>,
    /// Sequence numbers are adjusted.
    pub has_seqadj: bool,
    /// Packets and bytes (from the IP header on) that conntrack counted in the original and in the reply direction, if it
    /// counts (`nf_conntrack_acct`); told in dumps and with `Destroy`. `last_used` is 0.
    pub counters: Option<(Counters, Counters)>,
}

impl ConnectionMessage {
    fn has_status(&self, bits: u32) -> bool {
        self.status.unwrap_or(0) & bits != 0
    }

    /// The connection, all of it, as a dump or a `New` tells it; what is absent is taken to be 0.
    pub fn to_connection(&self) -> Connection {
        Connection {
            zone: self.zone,
            original: self.original,
            reply: self.reply,
            tcp: self.tcp,
            seen_reply: self.has_status(status::SEEN_REPLY),
            assured: self.has_status(status::ASSURED),
            expected: self.has_status(status::EXPECTED),
            helper: self.helper.is_some() || self.has_status(status::HELPER),
            seqadj: self.has_seqadj,
            mark: self.mark.unwrap_or(0),
            labels: self.labels.unwrap_or(0),
        }
    }

    /// Brings a known connection up to date with an event of it: what an event may leave out stays as it was.
    pub fn update(&self, connection: &mut Connection) {
        let told = self.to_connection();
        *connection = Connection {
            tcp: told.tcp.or(connection.tcp),
            labels: self.labels.unwrap_or(connection.labels),
            seqadj: told.seqadj || connection.seqadj,
            ..told
        };
    }
}

/// Reads the payload of a conntrack message, `struct nfgenmsg` and attributes.
pub(super) fn decode(payload: &[u8]) -> Result<ConnectionMessage, DecodeError> {
    let short = Fault::Short { have: payload.len(), want: 4 };
    let header = NetfilterHeader::parse(payload).map_err(|_| DecodeError::new("struct nfgenmsg", short))?;
    let cta = Attributes::parse("CTA", &payload[header.buffer_len()..])?;
    let tuple = |kind| -> Result<Option<(Tuple, Option<u16>)>, DecodeError> {
        cta.nested(kind, "CTA_TUPLE")?.map(|nest| tuple(&nest)).transpose()
    };
    let needed = |attribute| DecodeError::new("CTA", Fault::Missing { attribute });
    let (original, original_zone) = tuple(CTA_TUPLE_ORIG)?.ok_or_else(|| needed(CTA_TUPLE_ORIG))?;
    let (reply, reply_zone) = tuple(CTA_TUPLE_REPLY)?.ok_or_else(|| needed(CTA_TUPLE_REPLY))?;
    let status = cta.u32_be(CTA_STATUS)?;
    let helper = cta.nested(CTA_HELP, "CTA_HELP")?.map(|help| help.text(CTA_HELP_NAME));
    Ok(ConnectionMessage {
        zone: cta.u16_be(CTA_ZONE)?.or(original_zone).or(reply_zone).unwrap_or(0),
        original,
        reply,
        id: cta.u32_be(CTA_ID)?,
        status,
        tcp: tcp_state(&cta)?,
        timeout: cta.u32_be(CTA_TIMEOUT)?,
        mark: cta.u32_be(CTA_MARK)?,
        labels: cta.array(CTA_LABELS)?.map(u128::from_le_bytes),
        helper: helper.map(Option::unwrap_or_default),
        master: tuple(CTA_TUPLE_MASTER)?.map(|(tuple, _)| tuple),
        has_seqadj: cta.has_any(&[CTA_SEQ_ADJ_ORIG, CTA_SEQ_ADJ_REPLY])
            || status.unwrap_or(0) & self::status::SEQ_ADJUST != 0,
        counters: counters(&cta, CTA_COUNTERS_ORIG)?.zip(counters(&cta, CTA_COUNTERS_REPLY)?),
    })
}

fn counters(cta: &Attributes, kind: u16) -> Result<Option<Counters>, DecodeError> {
    let Some(nest) = cta.nested(kind, "CTA_COUNTERS")? else {
        return Ok(None);
    };
    let number = |kind| nest.need(kind).map(u64::from_be_bytes);
    Ok(Some(Counters { packets: number(CTA_COUNTERS_PACKETS)?, bytes: number(CTA_COUNTERS_BYTES)?, last_used: 0 }))
}

/// A tuple, and the zone if it is that direction's alone.
fn tuple(nest: &Attributes) -> Result<(Tuple, Option<u16>), DecodeError> {
    let missing = |part, attribute| DecodeError::new(part, Fault::Missing { attribute });
    let ip = nest.nested(CTA_TUPLE_IP, "CTA_TUPLE_IP")?.ok_or_else(|| missing("CTA_TUPLE", CTA_TUPLE_IP))?;
    let l4 = nest.nested(CTA_TUPLE_PROTO, "CTA_TUPLE_PROTO")?.ok_or_else(|| missing("CTA_TUPLE", CTA_TUPLE_PROTO))?;
    let address = |v4: u16, v6: u16| match ip.array::<4>(v4)? {
        Some(address) => Ok(IpAddr::from(address)),
        None => ip.need::<16>(v6).map(IpAddr::from),
    };
    let [proto] = l4.need(1)?;
    let (src_port, dst_port) = match proto {
        proto::ICMP => icmp(&l4, 4)?,
        proto::ICMPV6 => icmp(&l4, 7)?,
        _ => (l4.u16_be(2)?.unwrap_or(0), l4.u16_be(3)?.unwrap_or(0)),
    };
    let tuple = Tuple { src: address(1, 3)?, dst: address(2, 4)?, proto, src_port, dst_port };
    Ok((tuple, nest.u16_be(CTA_TUPLE_ZONE)?))
}

/// Identifier, and type over code; the three attributes follow each other.
fn icmp(l4: &Attributes, first: u16) -> Result<(u16, u16), DecodeError> {
    let id = l4.u16_be(first)?.unwrap_or(0);
    let kind = l4.u8(first + 1)?.unwrap_or(0);
    let code = l4.u8(first + 2)?.unwrap_or(0);
    Ok((id, u16::from_be_bytes([kind, code])))
}

fn tcp_state(cta: &Attributes) -> Result<Option<TcpState>, DecodeError> {
    let Some(info) = cta.nested(CTA_PROTOINFO, "CTA_PROTOINFO")? else {
        return Ok(None);
    };
    let Some(tcp) = info.nested(CTA_PROTOINFO_TCP, "CTA_PROTOINFO_TCP")? else {
        return Ok(None);
    };
    let Some(state) = tcp.u8(CTA_PROTOINFO_TCP_STATE)? else {
        return Ok(None);
    };
    const STATES: [TcpState; 10] = [
        TcpState::None,
        TcpState::SynSent,
        TcpState::SynRecv,
        TcpState::Established,
        TcpState::FinWait,
        TcpState::CloseWait,
        TcpState::LastAck,
        TcpState::TimeWait,
        TcpState::Close,
        TcpState::SynSent2,
    ];
    let fault =
        Fault::Value { attribute: CTA_PROTOINFO_TCP_STATE, value: state.into(), expected: "a TCP state of 0 to 9" };
    let known = STATES.get(usize::from(state)).copied();
    known.ok_or_else(|| DecodeError::new("CTA_PROTOINFO_TCP", fault)).map(Some)
}
