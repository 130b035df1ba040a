//! `mpls` (`net/sched/act_mpls.c`, `include/uapi/linux/tc_act/tc_mpls.h`).

use super::{Options, PARMS, parameters, unknown, word, wrong};
use crate::{
    flower::{
        ActionKind,
        action::{Mpls, MplsEntry},
        ethertype,
    },
    netlink::{
        attributes::{Attribute, Attributes},
        error::DecodeError,
    },
};

const PROTO: u16 = 4;
const LABEL: u16 = 5;
const TC: u16 = 6;
const TTL: u16 = 7;
const BOS: u16 = 8;

const POP: u32 = 1;
const PUSH: u32 = 2;
const MODIFY: u32 = 3;
const DEC_TTL: u32 = 4;
const MAC_PUSH: u32 = 5;

pub(super) fn decode(options: &Attributes) -> Result<Options, DecodeError> {
    let (generic, parameters) = parameters::<24>(options, PARMS)?;
    // The kernel says a protocol of every kind, also where it has none.
    let protocol = options.u16_be(PROTO)?.unwrap_or(ethertype::MPLS);
    let entry = MplsEntry {
        label: options.u32(LABEL)?,
        tc: options.u8(TC)?,
        bos: options.u8(BOS)?.map(|bos| bos != 0),
        ttl: options.u8(TTL)?.filter(|&ttl| ttl != 0),
    };
    let mpls = match word(&parameters, 20) {
        POP => Mpls::Pop { protocol },
        PUSH => Mpls::Push { protocol, entry },
        MAC_PUSH => Mpls::PushMac { protocol, entry },
        MODIFY => Mpls::Modify(entry),
        DEC_TTL => Mpls::DecTtl,
        other => return Err(wrong("act_mpls", other, "1 to 5, pop, push, modify, dec_ttl or mac_push")),
    };
    Ok(Options { kind: ActionKind::Mpls(mpls), generic, undecoded: unknown("mpls", options, BOS) })
}

pub(super) fn encode(mpls: Mpls, mut parameters: Vec<u8>) -> Result<Vec<Attribute>, &'static str> {
    let (what, protocol, entry) = match mpls {
        Mpls::Pop { protocol } => (POP, Some(protocol), MplsEntry::default()),
        Mpls::Push { protocol, entry } => (PUSH, Some(protocol), entry),
        Mpls::PushMac { protocol, entry } => (MAC_PUSH, Some(protocol), entry),
        Mpls::Modify(entry) => (MODIFY, None, entry),
        Mpls::DecTtl => (DEC_TTL, None, MplsEntry::default()),
    };
    if matches!(what, PUSH | MAC_PUSH) {
        if entry.label.is_none() {
            return Err("the kernel pushes no entry without a label");
        }
        if entry.ttl.is_none() {
            return Err("the kernel gives an entry that has no TTL one of its own");
        }
        if !protocol.is_some_and(ethertype::is_mpls) {
            return Err("the kernel pushes an entry under an ethertype of MPLS only");
        }
    }
    if entry.label.is_some_and(|label| label > 0xf_ffff || label == 3) || entry.tc.is_some_and(|tc| tc > 7) {
        return Err("no such label or traffic class");
    }
    parameters.extend(what.to_ne_bytes());
    let mut out = vec![Attribute::new(PARMS, parameters)];
    out.extend(protocol.map(|protocol| Attribute::new(PROTO, protocol.to_be_bytes())));
    out.extend(entry.label.map(|label| Attribute::new(LABEL, label.to_ne_bytes())));
    out.extend(entry.tc.map(|tc| Attribute::new(TC, [tc])));
    out.extend(entry.ttl.map(|ttl| Attribute::new(TTL, [ttl])));
    out.extend(entry.bos.map(|bos| Attribute::new(BOS, [u8::from(bos)])));
    Ok(out)
}
