//! The kinds with few options: gact, mirred, csum, vlan, skbedit, skbmod, nat, sample (`net/sched/act_*.c`).

use super::{Generic, Options, PARMS, control, parameters, unknown, verdict, word, wrong};
use crate::{
    flower::{
        ActionKind, Port,
        action::{CsumFlags, Mirred, Random, Sample, Skbedit, Skbmod, StatelessNat, Vlan},
    },
    netlink::{
        attributes::{Attribute, Attributes},
        error::DecodeError,
    },
};

/// Options of this kind, with the attributes numbered above `last` named as not understood.
fn understood(name: &str, kind: ActionKind, generic: Generic, options: &Attributes, last: u16) -> Options {
    Options { kind, generic, undecoded: unknown(name, options, last) }
}

const GACT_PROB: u16 = 3;

pub(super) fn gact(options: &Attributes) -> Result<Options, DecodeError> {
    let (generic, _) = parameters::<20>(options, PARMS)?;
    let random = options.array::<8>(GACT_PROB)?.map(|[k0, k1, v0, v1, c @ ..]| Random {
        kind: u16::from_ne_bytes([k0, k1]),
        // The kernel makes 1 of 0.
        value: u16::from_ne_bytes([v0, v1]).max(1),
        control: control(i32::from_ne_bytes(c)),
    });
    // `PGACT_NONE` is no second control.
    let random = random.filter(|random| random.kind != 0);
    Ok(understood("gact", ActionKind::Gact { random }, generic, options, 4))
}

pub(super) fn gact_options(random: Option<Random>, parameters: Vec<u8>) -> Vec<Attribute> {
    let mut out = vec![Attribute::new(PARMS, parameters)];
    out.extend(random.map(|random| {
        let mut bytes = random.kind.to_ne_bytes().to_vec();
        bytes.extend(random.value.to_ne_bytes());
        bytes.extend(verdict(random.control).to_ne_bytes());
        Attribute::new(GACT_PROB, bytes)
    }));
    out
}

const EGRESS_REDIR: u32 = 1;
const EGRESS_MIRROR: u32 = 2;
const INGRESS_REDIR: u32 = 3;
const INGRESS_MIRROR: u32 = 4;

pub(super) fn mirred(options: &Attributes) -> Result<Options, DecodeError> {
    let (generic, parameters) = parameters::<28>(options, PARMS)?;
    let (ingress, mirror) = match word(&parameters, 20) {
        EGRESS_REDIR => (false, false),
        EGRESS_MIRROR => (false, true),
        INGRESS_REDIR => (true, false),
        INGRESS_MIRROR => (true, true),
        other => {
            return Err(wrong("act_mirred", other, "1 to 4, redirect or mirror to egress or ingress"));
        }
    };
    let mirred = Mirred { port: Port(word(&parameters, 24)), ingress, mirror };
    Ok(understood("mirred", ActionKind::Mirred(mirred), generic, options, 3))
}

pub(super) fn mirred_options(mirred: Mirred, mut parameters: Vec<u8>) -> Vec<Attribute> {
    let what = match (mirred.ingress, mirred.mirror) {
        (false, false) => EGRESS_REDIR,
        (false, true) => EGRESS_MIRROR,
        (true, false) => INGRESS_REDIR,
        (true, true) => INGRESS_MIRROR,
    };
    parameters.extend(what.to_ne_bytes());
    parameters.extend(mirred.port.0.to_ne_bytes());
    vec![Attribute::new(PARMS, parameters)]
}

const CSUM_PARMS: u16 = 1;

pub(super) fn csum(options: &Attributes) -> Result<Options, DecodeError> {
    let (generic, parameters) = parameters::<24>(options, CSUM_PARMS)?;
    let bits = word(&parameters, 20);
    let kind = ActionKind::Csum(CsumFlags::from_bits_truncate(bits));
    let mut options = understood("csum", kind, generic, options, 3);
    if CsumFlags::from_bits(bits).is_none() {
        options.undecoded.push(format!("act_csum flags {bits:#x}"));
    }
    Ok(options)
}

pub(super) fn csum_options(flags: CsumFlags, mut parameters: Vec<u8>) -> Vec<Attribute> {
    parameters.extend(flags.bits().to_ne_bytes());
    vec![Attribute::new(CSUM_PARMS, parameters)]
}

const VLAN_POP: u32 = 1;
const VLAN_PUSH: u32 = 2;
const VLAN_MODIFY: u32 = 3;
const VLAN_POP_ETH: u32 = 4;
const VLAN_PUSH_ETH: u32 = 5;
const VLAN_ID: u16 = 3;
const VLAN_PROTOCOL: u16 = 4;
const VLAN_PRIORITY: u16 = 6;
const VLAN_ETH_DST: u16 = 7;
const VLAN_ETH_SRC: u16 = 8;

pub(super) fn vlan(options: &Attributes) -> Result<Options, DecodeError> {
    let (generic, parameters) = parameters::<24>(options, PARMS)?;
    let protocol = options.u16_be(VLAN_PROTOCOL)?.unwrap_or(0x8100);
    let prio = options.u8(VLAN_PRIORITY)?;
    let id = options.u16(VLAN_ID)?.unwrap_or(0);
    let vlan = match word(&parameters, 20) {
        VLAN_POP => Vlan::Pop,
        VLAN_PUSH => Vlan::Push { protocol, id, prio: prio.unwrap_or(0) },
        VLAN_MODIFY => Vlan::Modify { protocol, id, prio },
        VLAN_POP_ETH => Vlan::PopEthernet,
        VLAN_PUSH_ETH => Vlan::PushEthernet { dst: options.need(VLAN_ETH_DST)?, src: options.need(VLAN_ETH_SRC)? },
        other => {
            return Err(wrong("act_vlan", other, "1 to 5, pop, push, modify, pop_eth or push_eth"));
        }
    };
    Ok(understood("vlan", ActionKind::Vlan(vlan), generic, options, 8))
}

pub(super) fn vlan_options(vlan: Vlan, mut parameters: Vec<u8>) -> Vec<Attribute> {
    let tag = |protocol: u16, id: u16, prio: Option<u8>| {
        let mut out =
            vec![Attribute::new(VLAN_ID, id.to_ne_bytes()), Attribute::new(VLAN_PROTOCOL, protocol.to_be_bytes())];
        out.extend(prio.map(|prio| Attribute::new(VLAN_PRIORITY, [prio])));
        out
    };
    let (what, rest) = match vlan {
        Vlan::Pop => (VLAN_POP, vec![]),
        Vlan::Push { protocol, id, prio } => (VLAN_PUSH, tag(protocol, id, Some(prio))),
        Vlan::Modify { protocol, id, prio } => (VLAN_MODIFY, tag(protocol, id, prio)),
        Vlan::PopEthernet => (VLAN_POP_ETH, vec![]),
        Vlan::PushEthernet { dst, src } => {
            let addresses = vec![Attribute::new(VLAN_ETH_DST, dst), Attribute::new(VLAN_ETH_SRC, src)];
            (VLAN_PUSH_ETH, addresses)
        }
    };
    parameters.extend(what.to_ne_bytes());
    let mut out = vec![Attribute::new(PARMS, parameters)];
    out.extend(rest);
    out
}

const SKBEDIT_PRIORITY: u16 = 3;
const SKBEDIT_QUEUE: u16 = 4;
const SKBEDIT_MARK: u16 = 5;
const SKBEDIT_PTYPE: u16 = 7;
const SKBEDIT_MASK: u16 = 8;
const SKBEDIT_FLAGS: u16 = 9;
const INHERIT_DSFIELD: u64 = 0x20;

pub(super) fn skbedit(options: &Attributes) -> Result<Options, DecodeError> {
    let (generic, _) = parameters::<20>(options, PARMS)?;
    let flags = options.u64(SKBEDIT_FLAGS)?.unwrap_or(0);
    let skbedit = Skbedit {
        queue: options.u16(SKBEDIT_QUEUE)?,
        priority: options.u32(SKBEDIT_PRIORITY)?,
        mark: options.u32(SKBEDIT_MARK)?.zip(options.u32(SKBEDIT_MASK)?.or(Some(u32::MAX))),
        ptype: options.u16(SKBEDIT_PTYPE)?,
        inherit_dsfield: flags & INHERIT_DSFIELD != 0,
    };
    // What comes after the flags is the upper end of queues chosen by hash, as is the flag 0x40.
    let kind = ActionKind::Skbedit(skbedit);
    let mut options = understood("skbedit", kind, generic, options, SKBEDIT_FLAGS);
    if flags & !INHERIT_DSFIELD != 0 {
        options.undecoded.push(format!("act_skbedit flags {flags:#x}"));
    }
    Ok(options)
}

pub(super) fn skbedit_options(skbedit: Skbedit, parameters: Vec<u8>) -> Vec<Attribute> {
    let mut out = vec![Attribute::new(PARMS, parameters)];
    let word = |kind| move |value: u32| Attribute::new(kind, value.to_ne_bytes());
    let half = |kind| move |value: u16| Attribute::new(kind, value.to_ne_bytes());
    out.extend(skbedit.priority.map(word(SKBEDIT_PRIORITY)));
    out.extend(skbedit.queue.map(half(SKBEDIT_QUEUE)));
    out.extend(skbedit.ptype.map(half(SKBEDIT_PTYPE)));
    if let Some((mark, mask)) = skbedit.mark {
        out.push(Attribute::new(SKBEDIT_MARK, mark.to_ne_bytes()));
        // The kernel tells a mask back only if it was given one; without, all bits are set.
        if mask != u32::MAX {
            out.push(Attribute::new(SKBEDIT_MASK, mask.to_ne_bytes()));
        }
    }
    if skbedit.inherit_dsfield {
        out.push(Attribute::new(SKBEDIT_FLAGS, INHERIT_DSFIELD.to_ne_bytes()));
    }
    out
}

const SKBMOD_DMAC: u16 = 3;
const SKBMOD_SMAC: u16 = 4;
const SKBMOD_ETYPE: u16 = 5;
const SKBMOD_PAD: u16 = 6;
const SKBMOD_F_SWAPMAC: u64 = 8;
const SKBMOD_F_ECN: u64 = 16;

pub(super) fn skbmod(options: &Attributes) -> Result<Options, DecodeError> {
    // The flags stand behind four bytes that make their place even.
    let (generic, parameters) = parameters::<32>(options, PARMS)?;
    let flags = u64::from_ne_bytes(*parameters.last_chunk().unwrap_or(&[0; 8]));
    let skbmod = match (flags & SKBMOD_F_ECN != 0, flags & SKBMOD_F_SWAPMAC != 0) {
        (true, _) => Skbmod::Ecn,
        (false, true) => Skbmod::Swap,
        (false, false) => Skbmod::Set {
            dst: options.array(SKBMOD_DMAC)?,
            src: options.array(SKBMOD_SMAC)?,
            ethertype: options.u16(SKBMOD_ETYPE)?,
        },
    };
    let mut options = understood("skbmod", ActionKind::Skbmod(skbmod), generic, options, SKBMOD_PAD);
    if flags >> 5 != 0 {
        options.undecoded.push(format!("act_skbmod flags {flags:#x}"));
    }
    Ok(options)
}

pub(super) fn skbmod_options(skbmod: Skbmod, mut parameters: Vec<u8>) -> Result<Vec<Attribute>, &'static str> {
    let (flags, set) = match skbmod {
        Skbmod::Set { dst: None, src: None, ethertype: None } => return Err("it would do nothing"),
        Skbmod::Set { dst, src, ethertype } => {
            let addresses = [(SKBMOD_DMAC, dst), (SKBMOD_SMAC, src)].into_iter();
            let mut set: Vec<_> = addresses.filter_map(|(kind, mac)| Some(Attribute::new(kind, mac?))).collect();
            set.extend(ethertype.map(|ethertype| Attribute::new(SKBMOD_ETYPE, ethertype.to_ne_bytes())));
            (0, set)
        }
        Skbmod::Swap => (SKBMOD_F_SWAPMAC, vec![]),
        Skbmod::Ecn => (SKBMOD_F_ECN, vec![]),
    };
    parameters.extend([0; 4]);
    parameters.extend(flags.to_ne_bytes());
    let mut out = vec![Attribute::new(PARMS, parameters)];
    out.extend(set);
    Ok(out)
}

const NAT_PARMS: u16 = 1;
const NAT_EGRESS: u32 = 1;

pub(super) fn nat(options: &Attributes) -> Result<Options, DecodeError> {
    let (generic, parameters) = parameters::<36>(options, NAT_PARMS)?;
    let address = |at| u32::from_be(word(&parameters, at));
    let flags = word(&parameters, 32);
    let nat = StatelessNat { old: address(20), new: address(24), mask: address(28), egress: flags & NAT_EGRESS != 0 };
    let mut options = understood("nat", ActionKind::Nat(nat), generic, options, 3);
    if flags & !NAT_EGRESS != 0 {
        options.undecoded.push(format!("act_nat flags {flags:#x}"));
    }
    Ok(options)
}

pub(super) fn nat_options(nat: StatelessNat, mut parameters: Vec<u8>) -> Vec<Attribute> {
    parameters.extend([nat.old, nat.new, nat.mask].into_iter().flat_map(u32::to_be_bytes));
    parameters.extend(u32::from(nat.egress).to_ne_bytes());
    vec![Attribute::new(NAT_PARMS, parameters)]
}

const SAMPLE_RATE: u16 = 3;
const SAMPLE_TRUNC_SIZE: u16 = 4;
const SAMPLE_GROUP: u16 = 5;
const SAMPLE_PAD: u16 = 6;

pub(super) fn sample(options: &Attributes) -> Result<Options, DecodeError> {
    let (generic, _) = parameters::<20>(options, PARMS)?;
    let sample = Sample {
        rate: options.need(SAMPLE_RATE).map(u32::from_ne_bytes)?,
        group: options.need(SAMPLE_GROUP).map(u32::from_ne_bytes)?,
        truncate: options.u32(SAMPLE_TRUNC_SIZE)?,
    };
    Ok(understood("sample", ActionKind::Sample(sample), generic, options, SAMPLE_PAD))
}

pub(super) fn sample_options(sample: Sample, parameters: Vec<u8>) -> Vec<Attribute> {
    let word = |kind| move |value: u32| Attribute::new(kind, value.to_ne_bytes());
    let mut out = vec![Attribute::new(PARMS, parameters), word(SAMPLE_RATE)(sample.rate)];
    out.extend(sample.truncate.map(word(SAMPLE_TRUNC_SIZE)));
    out.push(word(SAMPLE_GROUP)(sample.group));
    out
}
