//! `ct` (`net/sched/act_ct.c`, `tcf_ct_fill_params`).

use super::{Options, parameters};
use crate::{
    conntrack::proto,
    flower::{
        ActionKind,
        action::{Ct, Nat, NatSide},
    },
    netlink::{
        attributes::{Attribute, Attributes},
        error::DecodeError,
    },
};
use std::net::IpAddr;

const PARMS: u16 = 1;
const ACTION: u16 = 3;
const ZONE: u16 = 4;
const MARK: u16 = 5;
const MARK_MASK: u16 = 6;
const LABELS: u16 = 7;
const LABELS_MASK: u16 = 8;
const NAT_IPV4_MIN: u16 = 9;
const NAT_IPV4_MAX: u16 = 10;
const NAT_IPV6_MIN: u16 = 11;
const NAT_IPV6_MAX: u16 = 12;
const NAT_PORT_MIN: u16 = 13;
const NAT_PORT_MAX: u16 = 14;
/// From Linux 6.3 on.
const HELPER_NAME: u16 = 16;
const HELPER_FAMILY: u16 = 17;
const HELPER_PROTO: u16 = 18;

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

const COMMIT: u16 = 1;
const FORCE: u16 = 2;
const CLEAR: u16 = 4;
const NAT: u16 = 8;
const NAT_SRC: u16 = 16;
const NAT_DST: u16 = 32;

pub(super) fn decode(options: &Attributes) -> Result<Options, DecodeError> {
    let (generic, _) = parameters::<20>(options, PARMS)?;
    let bits = options.u16(ACTION)?.unwrap_or(0);
    let mut ct = Ct { commit: bits & COMMIT != 0, force: bits & FORCE != 0, clear: bits & CLEAR != 0, ..Ct::default() };
    let mut undecoded = Vec::new();
    // With `clear` the kernel looks at nothing else.
    if !ct.clear {
        ct.zone = options.u16(ZONE)?.unwrap_or(0);
        ct.mark = options.u32(MARK)?.zip(options.u32(MARK_MASK)?.or(Some(u32::MAX)));
        ct.labels = labels(options, LABELS)?.zip(labels(options, LABELS_MASK)?.or(Some(u128::MAX)));
        // Under an empty mask nothing is set, and the kernel does not tell it back.
        ct.mark = ct.mark.filter(|&(_, mask)| mask != 0);
        ct.labels = ct.labels.filter(|&(_, mask)| mask != 0);
        if bits & NAT != 0 {
            ct.nat = Some(nat(options, bits)?);
        }
        ct.helper = helper(options, &mut undecoded)?;
    }
    if bits & (NAT_SRC | NAT_DST) == NAT_SRC | NAT_DST {
        undecoded.push("act_ct: both sides translated".into());
    }
    if bits >> 6 != 0 {
        undecoded.push(format!("act_ct action {bits:#x}"));
    }
    for (kind, _) in options.iter().filter(|&(kind, _)| kind > HELPER_PROTO) {
        undecoded.push(format!("act_ct {kind}"));
    }
    Ok(Options { kind: ActionKind::Ct(ct), generic, undecoded })
}

/// As tc has it, `ipv4-tcp-ftp`: family, protocol and name.
fn helper(options: &Attributes, undecoded: &mut Vec<String>) -> Result<Option<String>, DecodeError> {
    let Some(name) = options.text(HELPER_NAME) else { return Ok(None) };
    let (family, protocol) = (options.u8(HELPER_FAMILY)?, options.u8(HELPER_PROTO)?);
    let family = family.map(|family| match family {
        NFPROTO_IPV4 => "ipv4".to_owned(),
        NFPROTO_IPV6 => "ipv6".to_owned(),
        other => {
            undecoded.push(format!("act_ct helper of family {other}"));
            other.to_string()
        }
    });
    let protocol = protocol.map(|protocol| match protocol {
        proto::TCP => "tcp".to_owned(),
        proto::UDP => "udp".to_owned(),
        other => other.to_string(),
    });
    Ok(Some(family.into_iter().chain(protocol).chain([name]).collect::<Vec<_>>().join("-")))
}

/// Labels lie in memory with label bit 0 first, as in [`crate::flower::Field::CtLabels`] and in ctnetlink.
fn labels(options: &Attributes, kind: u16) -> Result<Option<u128>, DecodeError> {
    Ok(options.array(kind)?.map(u128::from_le_bytes))
}

fn nat(options: &Attributes, bits: u16) -> Result<Nat, DecodeError> {
    let side = match (bits & NAT_SRC != 0, bits & NAT_DST != 0) {
        (true, _) => NatSide::Src,
        (false, true) => NatSide::Dst,
        (false, false) => return Ok(Nat::default()),
    };
    let v4 = |kind| options.array::<4>(kind).map(|a| a.map(IpAddr::from));
    let v6 = |kind| options.array::<16>(kind).map(|a| a.map(IpAddr::from));
    // A missing upper end is the lower one.
    let addresses = match (v4(NAT_IPV4_MIN)?, v6(NAT_IPV6_MIN)?) {
        (Some(min), _) => Some((min, v4(NAT_IPV4_MAX)?.unwrap_or(min))),
        (None, Some(min)) => Some((min, v6(NAT_IPV6_MAX)?.unwrap_or(min))),
        (None, None) => None,
    };
    let ports = match options.u16_be(NAT_PORT_MIN)? {
        Some(min) => Some((min, options.u16_be(NAT_PORT_MAX)?.unwrap_or(min))),
        None => None,
    };
    Ok(Nat { side: Some(side), addresses, ports })
}

pub(super) fn encode(ct: &Ct, parameters: Vec<u8>) -> Result<Vec<Attribute>, &'static str> {
    if ct.helper.is_some() {
        return Err("Linux 6.1 would leave the helper out without a word");
    }
    let mut bits = 0;
    for (set, bit) in [(ct.commit, COMMIT), (ct.force, FORCE), (ct.clear, CLEAR)] {
        bits |= if set { bit } else { 0 };
    }
    let mut out = vec![Attribute::new(PARMS, parameters)];
    if let Some(nat) = &ct.nat {
        bits |= NAT;
        bits |= match nat.side {
            Some(NatSide::Src) => NAT_SRC,
            Some(NatSide::Dst) => NAT_DST,
            None => 0,
        };
        match nat.addresses {
            Some((IpAddr::V4(min), IpAddr::V4(max))) => {
                out.push(Attribute::new(NAT_IPV4_MIN, min.octets()));
                out.push(Attribute::new(NAT_IPV4_MAX, max.octets()));
            }
            Some((IpAddr::V6(min), IpAddr::V6(max))) => {
                out.push(Attribute::new(NAT_IPV6_MIN, min.octets()));
                out.push(Attribute::new(NAT_IPV6_MAX, max.octets()));
            }
            Some(_) => return Err("a range of addresses from IPv4 to IPv6 or back"),
            None => {}
        }
        if let Some((min, max)) = nat.ports {
            out.push(Attribute::new(NAT_PORT_MIN, min.to_be_bytes()));
            out.push(Attribute::new(NAT_PORT_MAX, max.to_be_bytes()));
        }
    }
    out.push(Attribute::new(ACTION, bits.to_ne_bytes()));
    if !ct.clear {
        out.push(Attribute::new(ZONE, ct.zone.to_ne_bytes()));
    }
    if let Some((value, mask)) = ct.mark {
        out.push(Attribute::new(MARK, value.to_ne_bytes()));
        out.push(Attribute::new(MARK_MASK, mask.to_ne_bytes()));
    }
    if let Some((value, mask)) = ct.labels {
        out.push(Attribute::new(LABELS, value.to_le_bytes()));
        out.push(Attribute::new(LABELS_MASK, mask.to_le_bytes()));
    }
    Ok(out)
}
