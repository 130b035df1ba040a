//! The terms of a match, each as `name value[/mask]`.

use super::{
    Names,
    names::{eth_type, ppp_proto, protocol},
    options,
};
use crate::flower::{
    Field, Match, Port,
    field::{addr_type, ct_state, enc_flags, ip_flags},
    tunnel::TunnelOptions,
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
const ENC_FLAGS: &[(u128, &str)] = &[
    (enc_flags::CSUM, "tuncsum"),
    (enc_flags::DONT_FRAGMENT, "tundf"),
    (enc_flags::OAM, "tunoam"),
    (enc_flags::CRITICAL, "tuncrit"),
];

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
        EncFlags => Style::Negated(ENC_FLAGS),
        CtLabels => Style::Labels,
        IpTos | TcpFlags | EncTos | CtMark | Hash | Spi => Style::Hex,
        EncOptsType | EncOpts0 | EncOpts1 | EncOpts2 | EncOpts3 => Style::Hex,
        _ => Style::Decimal,
    }
}

/// The terms of a match in the order of the field table, without those that others or the protocol `said` imply.
pub(super) fn terms(matches: &Match, names: &dyn Names, said: Option<u16>) -> Vec<Term> {
    let mut terms = Vec::new();
    let groups = groups(matches);
    for &field in Field::ALL {
        // Of a group the first field that is there tells all.
        if let Some(group) = groups.iter().find(|group| group.tells(field)) {
            if field == group.fields[0] {
                terms.push(Term { name: group.name, value: group.value.clone() });
            }
            continue;
        }
        let (value, mask) = (matches.key.get(field), matches.mask.get(field));
        let name = field.name().strip_suffix('6').filter(|name| name.ends_with("ip")).unwrap_or(field.name());
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

/// Fields that tc tells together.
struct Group {
    fields: Vec<Field>,
    name: &'static str,
    value: String,
}

impl Group {
    fn tells(&self, field: Field) -> bool {
        self.fields.contains(&field)
    }
}

/// What of a match tc has words for that are of several fields.
fn groups(matches: &Match) -> Vec<Group> {
    [label_stack(matches), tunnel_options(matches), fault_management(matches)].into_iter().flatten().collect()
}

/// The label stack, unless only something of its first entry is asked for. Each entry of which anything is asked must be there.
fn label_stack(matches: &Match) -> Option<Group> {
    let asked = |field: &Field| matches.mask.get(*field) != 0;
    let used: Vec<_> = Field::MPLS.iter().zip(1..).filter(|(entry, _)| entry.iter().any(asked)).collect();
    let is_old = matches!(used[..], [(first, 1)] if first[1..].iter().any(asked));
    let is_said = |&(entry, _): &(&[Field; 5], i32)| {
        matches.key.get(entry[0]) == 1 && entry.iter().all(|f| !asked(f) || matches.mask.get(*f) == f.ones())
    };
    if used.is_empty() || is_old || !used.iter().all(is_said) {
        return None;
    }
    let entries = used.iter().map(|(entry, depth)| {
        let parts = ["label", "tc", "bos", "ttl"].into_iter().zip(&entry[1..]).filter(|(_, field)| asked(field));
        let parts: String = parts.map(|(name, &field)| format!(" {name} {}", matches.key.get(field))).collect();
        format!("lse depth {depth}{parts}")
    });
    let value = entries.collect::<Vec<_>>().join(" ");
    let fields = used.iter().flat_map(|(entry, _)| entry.iter().copied().filter(asked)).collect();
    Some(Group { fields, name: "mpls", value })
}

/// A tunnel's options: tc always tells their mask.
fn tunnel_options(matches: &Match) -> Option<Group> {
    let (key, mask) = TunnelOptions::asked(matches)?;
    let name = options::name(&key)?;
    let value = format!("{}/{}", options::value(&key), options::value(&mask));
    Some(Group { fields: OPTIONS.to_vec(), name, value })
}

const OPTIONS: [Field; 6] =
    [Field::EncOptsType, Field::EncOptsLen, Field::EncOpts0, Field::EncOpts1, Field::EncOpts2, Field::EncOpts3];

fn fault_management(matches: &Match) -> Option<Group> {
    let parts = [(Field::CfmLevel, "mdl"), (Field::CfmOpcode, "op")];
    let asked: Vec<_> = parts.into_iter().filter(|&(field, _)| matches.mask.get(field) != 0).collect();
    if asked.is_empty() || asked.iter().any(|&(field, _)| matches.mask.get(field) != field.ones()) {
        return None;
    }
    let values: Vec<_> = asked.iter().map(|&(field, name)| format!("{name} {}", matches.key.get(field))).collect();
    Some(Group { fields: asked.iter().map(|a| a.0).collect(), name: "cfm", value: values.join(" ") })
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
        // Of the first label's entry something else is asked, so it is there.
        Field::Mpls1 => value == 1 && Field::MPLS[0][1..].iter().any(|&f| names(f)),
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
