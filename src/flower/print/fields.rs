//! The terms of a match, each as `name value[/mask]`.

use super::{
    Names,
    names::{eth_type, ppp_proto, protocol},
};
use crate::flower::{
    Field, Match, Port,
    field::{addr_type, ct_state, ip_flags},
};
use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

/// A term of a match.
pub(super) struct Term {
    /// As tc calls it; it makes no difference between the two kinds of IP addresses.
    pub name: &'static str,
    /// With its mask.
    pub value: String,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.value)
    }
}

/// How a field's value is written.
enum Style {
    Decimal,
    Hex,
    Mac,
    Ipv4,
    Ipv6,
    /// A number that has a name, as `eth_type` has it (`ipv4`), or others (`ip`).
    Named(fn(u16) -> String),
    IpProto,
    AddrType,
    ArpOp,
    /// A decimal number under a decimal mask: tc takes no other.
    DecimalMask,
    Port,
    /// `+trk-new`.
    Signed(&'static [(u128, &'static str)]),
    /// `frag/nofirstfrag`.
    Negated(&'static [(u128, &'static str)]),
    /// Bytes in the order of label bits, as hexadecimal digits.
    Labels,
}

const CT_STATES: &[(u128, &str)] = &[
    (ct_state::TRACKED, "trk"),
    (ct_state::NEW, "new"),
    (ct_state::ESTABLISHED, "est"),
    (ct_state::RELATED, "rel"),
    (ct_state::INVALID, "inv"),
    (ct_state::REPLY, "rpl"),
];
const IP_FLAGS: &[(u128, &str)] = &[(ip_flags::FRAG, "frag"), (ip_flags::FIRST, "firstfrag")];

/// Field by field what is not a plain number.
fn style(field: Field) -> Style {
    use Field::*;
    match field {
        Indev => Style::Port,
        EthDst | EthSrc | ArpSha | ArpTha => Style::Mac,
        Ipv4Src | Ipv4Dst | EncIpv4Src | EncIpv4Dst | ArpSip | ArpTip => Style::Ipv4,
        Ipv6Src | Ipv6Dst | EncIpv6Src | EncIpv6Dst => Style::Ipv6,
        EthType => Style::Named(eth_type),
        Protocol | VlanTpid | VlanEthType | CvlanTpid | CvlanEthType => Style::Named(protocol),
        PppProto => Style::Named(ppp_proto),
        AddrType | EncAddrType => Style::AddrType,
        IpProto => Style::IpProto,
        ArpOp => Style::ArpOp,
        IcmpType | IcmpCode => Style::DecimalMask,
        CtState => Style::Signed(CT_STATES),
        IpFlags => Style::Negated(IP_FLAGS),
        CtLabels => Style::Labels,
        IpTos | TcpFlags | EncTos | CtMark | Hash => Style::Hex,
        _ => Style::Decimal,
    }
}

/// The terms of a match in the order of the field table, without those that others or the protocol `said` imply.
pub(super) fn terms(matches: &Match, names: &dyn Names, said: Option<u16>) -> Vec<Term> {
    let mut terms = Vec::new();
    for &field in Field::ALL {
        let (value, mask) = (matches.key.get(field), matches.mask.get(field));
        let name = field.name().strip_suffix('6').unwrap_or(field.name());
        if mask != 0 && !is_implied(matches, field, said) {
            let value = write_value(field, value, mask, names);
            terms.push(Term { name, value });
        }
        if let Some((_, range)) = matches.ranges().find(|&(f, _)| f == field) {
            let value = format!("{}-{}", range.min, range.max);
            terms.push(Term { name, value });
        }
    }
    terms
}

/// Whether another term, or the protocol that is said besides, leaves no doubt about this one.
fn is_implied(matches: &Match, field: Field, said: Option<u16>) -> bool {
    let exact = |f: Field| (matches.mask.get(f) == f.ones()).then(|| matches.key.get(f));
    let names = |f: Field| matches.mask.get(f) != 0;
    let Some(value) = exact(field) else { return false };
    match field {
        Field::Protocol => said.map(u128::from) == Some(value) || exact(Field::EthType) == Some(value),
        Field::VlanTpid => said.map(u128::from) == Some(value) || exact(Field::Protocol) == Some(value),
        Field::CvlanTpid => exact(Field::VlanEthType) == Some(value),
        Field::AddrType => match value {
            addr_type::IPV4 => names(Field::Ipv4Src) || names(Field::Ipv4Dst) || exact(Field::EthType) == Some(0x0800),
            addr_type::IPV6 => names(Field::Ipv6Src) || names(Field::Ipv6Dst) || exact(Field::EthType) == Some(0x86dd),
            _ => false,
        },
        Field::EncAddrType => match value {
            addr_type::IPV4 => names(Field::EncIpv4Src) || names(Field::EncIpv4Dst),
            addr_type::IPV6 => names(Field::EncIpv6Src) || names(Field::EncIpv6Dst),
            _ => false,
        },
        _ => false,
    }
}

fn write_value(field: Field, value: u128, mask: u128, names: &dyn Names) -> String {
    let whole = mask == field.ones();
    let number = |text: String| if whole { text } else { format!("{text}/{mask:#x}") };
    // A word for the whole field, digits for a part of it.
    let word = |text: String| if whole { text } else { format!("{value:#x}/{mask:#x}") };
    match style(field) {
        Style::Decimal => number(value.to_string()),
        Style::Hex => number(format!("{value:#x}")),
        Style::Mac => prefixed(field, mask, mac(value), mac),
        Style::Ipv4 => prefixed(field, mask, ipv4(value), ipv4),
        Style::Ipv6 => prefixed(field, mask, ipv6(value), ipv6),
        Style::Named(name) => word(name(value as u16)),
        Style::IpProto => word(ip_proto(value as u8)),
        Style::AddrType => word(match value {
            addr_type::IPV4 => "ipv4".into(),
            addr_type::IPV6 => "ipv6".into(),
            other => other.to_string(),
        }),
        Style::ArpOp if whole && value == 1 => "request".into(),
        Style::ArpOp if whole && value == 2 => "reply".into(),
        Style::ArpOp | Style::DecimalMask if whole => value.to_string(),
        Style::ArpOp | Style::DecimalMask => format!("{value}/{mask}"),
        Style::Port => word(names.port(Port(value as u32))),
        Style::Signed(bits) => {
            let sign = |set| if set { "+" } else { "-" };
            flags(bits, value, mask, |set, name| format!("{}{name}", sign(set))).concat()
        }
        Style::Negated(bits) => {
            let no = |set| if set { "" } else { "no" };
            flags(bits, value, mask, |set, name| format!("{}{name}", no(set))).join("/")
        }
        Style::Labels => labels(value, mask),
    }
}

/// Each bit of the mask, by name or else by value.
fn flags(bits: &[(u128, &str)], value: u128, mask: u128, say: impl Fn(bool, &str) -> String) -> Vec<String> {
    let named = bits.iter().fold(0, |all, (bit, _)| all | bit);
    let known = bits.iter().filter(|(bit, _)| mask & bit != 0);
    let mut all: Vec<_> = known.map(|(bit, name)| say(value & bit != 0, name)).collect();
    for bit in (0..128).map(|i| 1 << i).filter(|bit| mask & !named & bit != 0) {
        all.push(say(value & bit != 0, &format!("{bit:#x}")));
    }
    all
}

/// An address with its mask: none, a prefix length, or in the manner of the address.
fn prefixed(field: Field, mask: u128, address: String, write: fn(u128) -> String) -> String {
    let bits = u32::from(field.row().bits);
    let length = (mask << (128 - bits)).leading_ones();
    match length {
        all if all == bits => address,
        length if length == mask.count_ones() => format!("{address}/{length}"),
        _ => format!("{address}/{}", write(mask)),
    }
}

pub(super) fn mac(value: u128) -> String {
    let bytes = value.to_be_bytes();
    let digits: Vec<_> = bytes[10..].iter().map(|b| format!("{b:02x}")).collect();
    digits.join(":")
}

pub(super) fn ipv4(value: u128) -> String {
    Ipv4Addr::from(value as u32).to_string()
}

pub(super) fn ipv6(value: u128) -> String {
    Ipv6Addr::from(value).to_string()
}

/// Labels as tc writes them: the byte with label bits 0 to 7 first.
pub(super) fn labels(value: u128, mask: u128) -> String {
    let digits = |v: u128| v.to_le_bytes().map(|b| format!("{b:02x}")).concat();
    match mask {
        u128::MAX => digits(value),
        _ => format!("{}/{}", digits(value), digits(mask)),
    }
}

fn ip_proto(value: u8) -> String {
    use crate::flower::field::ip_proto as proto;
    match value {
        proto::ICMP => "icmp".into(),
        proto::TCP => "tcp".into(),
        proto::UDP => "udp".into(),
        proto::ICMPV6 => "icmpv6".into(),
        proto::SCTP => "sctp".into(),
        115 => "l2tp".into(),
        other => format!("{other:#x}"),
    }
}
