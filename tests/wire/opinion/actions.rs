//! Actions, put together anew from what the other decoder says of them.

use super::Count;
use flowmerge::flower::{
    Action, ActionKind, Control, Port,
    action::{
        CsumFlags, Ct, Mirred, Mpls, MplsEntry, Nat, NatSide, Pedit, PeditDynamic, PeditHeader, PeditKey, Police,
        Random, Sample, Skbedit, Skbmod, StatelessNat, TunnelKey, Vlan,
    },
    tunnel::{Tunnel, TunnelFlags, TunnelOptions},
};
use netlink_bindings::tc::{
    ActCtAttrs, ActGactAttrs, ActMplsAttrs, ActOptionsMsg, ActSkbeditAttrs, ActTunnelKeyAttrs, ActVlanAttrs,
    IterableActAttrs, IterableActCtAttrs, IterableActGactAttrs, IterableActMplsAttrs, IterableActPeditAttrs,
    IterableActSkbeditAttrs, IterableActSkbmodAttrs, IterableActTunnelKeyAttrs, IterableActVlanAttrs,
    IterablePoliceAttrs, PoliceAttrs, TcGact, TcPeditKey,
};
use std::net::IpAddr;

pub(super) fn compare<'a>(
    list: impl Iterator<Item = IterableActAttrs<'a>>,
    ours: &[Action],
    count: &mut Count,
) -> Result<(), String> {
    let list: Vec<_> = list.collect();
    if list.len() != ours.len() {
        return Err(format!("{} actions", list.len()));
    }
    for (told, ours) in list.into_iter().zip(ours) {
        let kind = told.get_kind().map_err(|error| format!("{error:?}"))?.to_string_lossy().into_owned();
        let cookie = told.get_cookie().unwrap_or_default();
        if kind != ours.name() || cookie != ours.cookie {
            return Err(format!("{kind} {cookie:?} for {ours}"));
        }
        let options = match told.get_options() {
            Ok(options) => options,
            Err(error) => return Err(format!("{kind}: {error:?}")),
        };
        match made(&options, ours) {
            Some(Made { index, control, kind: made }) => {
                if (index, control, &made) != (ours.index, ours.control, &ours.kind) {
                    return Err(format!("{made:?} {control:?} for {ours:?}"));
                }
                count.actions += 1;
            }
            None if matches!(options, ActOptionsMsg::Pedit(_)) => count.unsaid += 1,
            None => return Err(format!("{kind} that is not understood, for {ours:?}")),
        }
    }
    Ok(())
}

/// An action as it is told.
struct Made {
    index: u32,
    control: Control,
    kind: ActionKind,
}

fn control(number: i32) -> Control {
    let low = (number & 0x0fff_ffff) as u32;
    match number {
        -1 => Control::Continue,
        0 => Control::Ok,
        1 => Control::Reclassify,
        2 => Control::Shot,
        3 => Control::Pipe,
        4 => Control::Stolen,
        5 => Control::Queued,
        6 => Control::Repeat,
        8 => Control::Trap,
        _ if number >> 28 == 1 => Control::Jump(low),
        _ if number >> 28 == 2 => Control::Goto(low),
        _ => Control::Other(number),
    }
}

/// The head of most parameters, and 32-bit numbers behind it.
fn head(bytes: &[u8]) -> Option<(TcGact, Vec<u32>)> {
    let (head, rest) = bytes.split_at_checked(20)?;
    let words = rest.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word));
    Some((TcGact::new_from_slice(head)?, words.collect()))
}

/// `ours` gives what the other says wrong.
fn made(options: &ActOptionsMsg, ours: &Action) -> Option<Made> {
    let of = |index, action, kind| Some(Made { index, control: control(action), kind });
    match options {
        ActOptionsMsg::Gact(told) => {
            let parms = told.get_parms().ok()?;
            of(parms.index, parms.action, gact(*told)?)
        }
        ActOptionsMsg::Mirred(told) => {
            let (gen_, words) = head(told.get_parms().ok()?)?;
            let (what, port) = (words.first()?, Port(*words.get(1)?));
            let kind = ActionKind::Mirred(Mirred { port, ingress: *what > 2, mirror: what % 2 == 0 });
            of(gen_.index, gen_.action, kind)
        }
        ActOptionsMsg::Csum(told) => {
            let (gen_, words) = head(told.get_parms().ok()?)?;
            of(gen_.index, gen_.action, ActionKind::Csum(CsumFlags::from_bits(*words.first()?)?))
        }
        ActOptionsMsg::Vlan(told) => {
            let parms = told.get_parms().ok()?;
            of(parms.index, parms.action, ActionKind::Vlan(vlan(*told, parms.v_action)?))
        }
        ActOptionsMsg::Skbedit(told) => {
            let (gen_, _) = head(told.get_parms().ok()?)?;
            of(gen_.index, gen_.action, ActionKind::Skbedit(skbedit(*told)?))
        }
        ActOptionsMsg::Ct(told) => {
            let (gen_, _) = head(told.get_parms().ok()?)?;
            of(gen_.index, gen_.action, ActionKind::Ct(ct(*told)?))
        }
        ActOptionsMsg::Pedit(told) => pedit(told, ours),
        ActOptionsMsg::Skbmod(told) => {
            let (gen_, words) = head(told.get_parms().ok()?)?;
            of(gen_.index, gen_.action, ActionKind::Skbmod(skbmod(told, *words.get(1)?)?))
        }
        ActOptionsMsg::Mpls(told) => {
            let parms = told.get_parms().ok()?;
            of(parms.index, parms.action, ActionKind::Mpls(mpls(*told, parms.m_action)?))
        }
        ActOptionsMsg::TunnelKey(told) => {
            let (gen_, words) = head(told.get_parms().ok()?)?;
            let key = if *words.first()? == 2 { TunnelKey::Unset } else { tunnel_key(told, ours)? };
            of(gen_.index, gen_.action, ActionKind::TunnelKey(key))
        }
        ActOptionsMsg::Nat(told) => {
            let (gen_, words) = head(told.get_parms().ok()?)?;
            let [old, new, mask, flags] = *words else { return None };
            let [old, new, mask] = [old, new, mask].map(u32::from_be);
            of(gen_.index, gen_.action, ActionKind::Nat(StatelessNat { old, new, mask, egress: flags == 1 }))
        }
        ActOptionsMsg::Police(told) => police(*told, ours),
        ActOptionsMsg::Sample(told) => {
            let parms = told.get_parms().ok()?;
            let (rate, group) = (told.get_rate().ok()?, told.get_psample_group().ok()?);
            let sample = Sample { rate, group, truncate: told.get_trunc_size().ok() };
            of(parms.index, parms.action, ActionKind::Sample(sample))
        }
        _ => None,
    }
}

fn gact(told: IterableActGactAttrs) -> Option<ActionKind> {
    let mut random = None;
    for part in told {
        if let ActGactAttrs::Prob(prob) = part.ok()?
            && prob.ptype != 0
        {
            random = Some(Random { kind: prob.ptype, value: prob.pval, control: control(prob.paction) });
        }
    }
    Some(ActionKind::Gact { random })
}

fn vlan(told: IterableActVlanAttrs, what: i32) -> Option<Vlan> {
    let (mut protocol, mut id, mut prio, mut dst, mut src) = (0x8100, 0, None, [0; 6], [0; 6]);
    for part in told {
        match part.ok()? {
            ActVlanAttrs::PushVlanId(told) => id = told,
            // Big-endian, which the specification does not say.
            ActVlanAttrs::PushVlanProtocol(told) => protocol = u16::from_be(told),
            ActVlanAttrs::PushVlanPriority(told) => prio = Some(told),
            ActVlanAttrs::PushEthDst(told) => dst = told.try_into().ok()?,
            ActVlanAttrs::PushEthSrc(told) => src = told.try_into().ok()?,
            ActVlanAttrs::Tm(_) | ActVlanAttrs::Parms(_) | ActVlanAttrs::Pad(_) => {}
        }
    }
    Some(match what {
        1 => Vlan::Pop,
        2 => Vlan::Push { protocol, id, prio: prio.unwrap_or(0) },
        3 => Vlan::Modify { protocol, id, prio },
        4 => Vlan::PopEthernet,
        _ => Vlan::PushEthernet { dst, src },
    })
}

fn skbedit(told: IterableActSkbeditAttrs) -> Option<Skbedit> {
    let mut skbedit = Skbedit::default();
    let (mut mark, mut mask) = (None, u32::MAX);
    for part in told {
        match part.ok()? {
            ActSkbeditAttrs::Priority(told) => skbedit.priority = Some(told),
            ActSkbeditAttrs::QueueMapping(told) => skbedit.queue = Some(told),
            ActSkbeditAttrs::Mark(told) => mark = Some(told),
            ActSkbeditAttrs::Mask(told) => mask = told,
            ActSkbeditAttrs::Ptype(told) => skbedit.ptype = Some(told),
            ActSkbeditAttrs::Flags(told) => skbedit.inherit_dsfield = told == 0x20,
            _ => {}
        }
    }
    skbedit.mark = mark.map(|mark| (mark, mask));
    Some(skbedit)
}

fn ct(told: IterableActCtAttrs) -> Option<Ct> {
    let mut ct = Ct::default();
    let (mut bits, mut v4, mut v6, mut ports) = (0, [None; 2], [None; 2], [None; 2]);
    let (mut mark, mut labels) = ([None; 2], [None; 2]);
    let label = |bytes: &[u8]| bytes.try_into().ok().map(u128::from_le_bytes);
    let six = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from);
    for part in told {
        match part.ok()? {
            ActCtAttrs::Action(told) => bits = told,
            ActCtAttrs::Zone(told) => ct.zone = told,
            ActCtAttrs::Mark(told) => mark[0] = Some(told),
            ActCtAttrs::MarkMask(told) => mark[1] = Some(told),
            ActCtAttrs::Labels(told) => labels[0] = label(told),
            ActCtAttrs::LabelsMask(told) => labels[1] = label(told),
            ActCtAttrs::NatIpv4Min(told) => v4[0] = Some(IpAddr::from(told.to_be_bytes())),
            ActCtAttrs::NatIpv4Max(told) => v4[1] = Some(IpAddr::from(told.to_be_bytes())),
            ActCtAttrs::NatIpv6Min(told) => v6[0] = six(told),
            ActCtAttrs::NatIpv6Max(told) => v6[1] = six(told),
            ActCtAttrs::NatPortMin(told) => ports[0] = Some(told),
            ActCtAttrs::NatPortMax(told) => ports[1] = Some(told),
            _ => {}
        }
    }
    (ct.commit, ct.force, ct.clear) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
    (ct.mark, ct.labels) = (mark[0].zip(mark[1]), labels[0].zip(labels[1]));
    let side = match bits >> 4 {
        1 => Some(NatSide::Src),
        2 => Some(NatSide::Dst),
        _ => None,
    };
    let addresses = v4[0].zip(v4[1]).or(v6[0].zip(v6[1]));
    ct.nat = (bits & 8 != 0).then_some(Nat { side, addresses, ports: ports[0].zip(ports[1]) });
    Some(ct)
}

/// What it leaves as bytes: keys, each of which it can read, and what they are of.
fn pedit(told: &IterableActPeditAttrs, ours: &Action) -> Option<Made> {
    let is_one = matches!(&ours.kind, ActionKind::Pedit(pedit) if pedit.keys.len() == 1);
    let one = told.get_parms().ok().filter(|_| is_one);
    let parameters = told.get_parms_ex().ok().or(one.as_ref().map(|one| one.as_slice()))?;
    let (gen_, _) = head(parameters)?;
    let keys = parameters.get(24..)?.as_chunks::<24>().0.iter().map(|key| TcPeditKey::new_from_slice(key));
    let extended: Vec<&[u8]> = match told.get_keys_ex() {
        // Sixteen bytes each behind a head of four: header and command in attributes of their own.
        Ok(bytes) => bytes.as_chunks::<20>().0.iter().map(|key| &key[..]).collect(),
        Err(_) => Vec::new(),
    };
    let headers = [
        PeditHeader::Network,
        PeditHeader::Ethernet,
        PeditHeader::Ipv4,
        PeditHeader::Ipv6,
        PeditHeader::Tcp,
        PeditHeader::Udp,
    ];
    let keys = keys.enumerate().map(|(at, key)| {
        let key = key?;
        let half = |from: usize| extended.get(at).map(|bytes| u16::from_ne_bytes([bytes[from], bytes[from + 1]]));
        let dynamic = PeditDynamic { at: key.at, mask: key.offmask, shift: key.shift };
        Some(PeditKey {
            header: headers[usize::from(half(8).unwrap_or(0))],
            offset: key.off as i32,
            mask: key.mask.to_ne_bytes(),
            value: key.val.to_ne_bytes(),
            add: half(16).unwrap_or(0) == 1,
            dynamic: (key.offmask != 0).then_some(dynamic),
        })
    });
    let kind = ActionKind::Pedit(Pedit { keys: keys.collect::<Option<_>>()?, mend: false });
    Some(Made { index: gen_.index, control: control(gen_.action), kind })
}

fn skbmod(told: &IterableActSkbmodAttrs, flags: u32) -> Option<Skbmod> {
    let mac = |bytes: &[u8]| <[u8; 6]>::try_from(bytes).ok();
    Some(match flags {
        8 => Skbmod::Swap,
        16 => Skbmod::Ecn,
        _ => Skbmod::Set {
            dst: told.get_dmac().ok().and_then(mac),
            src: told.get_smac().ok().and_then(mac),
            ethertype: told.get_etype().ok().and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes),
        },
    })
}

fn mpls(told: IterableActMplsAttrs, what: i32) -> Option<Mpls> {
    let (mut protocol, mut entry) = (0x8847, MplsEntry::default());
    for part in told {
        match part.ok()? {
            ActMplsAttrs::Proto(told) => protocol = told,
            ActMplsAttrs::Label(told) => entry.label = Some(told),
            ActMplsAttrs::Tc(told) => entry.tc = Some(told),
            ActMplsAttrs::Ttl(told) => entry.ttl = Some(told),
            ActMplsAttrs::Bos(told) => entry.bos = Some(told == 1),
            ActMplsAttrs::Tm(_) | ActMplsAttrs::Parms(_) | ActMplsAttrs::Pad(_) => {}
        }
    }
    Some(match what {
        1 => Mpls::Pop { protocol },
        2 => Mpls::Push { protocol, entry },
        3 => Mpls::Modify(entry),
        4 => Mpls::DecTtl,
        _ => Mpls::PushMac { protocol, entry },
    })
}

/// The options it leaves as bytes: theirs are compared as flower's are.
fn tunnel_key(told: &IterableActTunnelKeyAttrs, ours: &Action) -> Option<TunnelKey> {
    let ActionKind::TunnelKey(TunnelKey::Set(known)) = &ours.kind else { return None };
    let (mut v4, mut v6) = ([None; 2], [None; 2]);
    let mut tunnel = Tunnel {
        id: known.id,
        src: known.src,
        dst: known.dst,
        src_port: 0,
        dst_port: 0,
        tos: 0,
        ttl: 0,
        flags: TunnelFlags::CSUM,
        options: TunnelOptions::None,
    };
    let six = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from);
    for part in *told {
        // An identifier is an error to it: it expects 64 bits.
        let Ok(part) = part else { continue };
        match part {
            ActTunnelKeyAttrs::EncIpv4Src(told) => v4[0] = Some(IpAddr::from(told.to_be_bytes())),
            ActTunnelKeyAttrs::EncIpv4Dst(told) => v4[1] = Some(IpAddr::from(told.to_be_bytes())),
            ActTunnelKeyAttrs::EncIpv6Src(told) => v6[0] = six(told),
            ActTunnelKeyAttrs::EncIpv6Dst(told) => v6[1] = six(told),
            ActTunnelKeyAttrs::EncDstPort(told) => tunnel.dst_port = told,
            ActTunnelKeyAttrs::NoCsum(told) => tunnel.flags.set(TunnelFlags::CSUM, told == 0),
            ActTunnelKeyAttrs::EncOpts(_) => tunnel.options = known.options.clone(),
            ActTunnelKeyAttrs::EncTos(told) => tunnel.tos = told,
            ActTunnelKeyAttrs::EncTtl(told) => tunnel.ttl = told,
            ActTunnelKeyAttrs::NoFrag(()) => tunnel.flags |= TunnelFlags::DONT_FRAGMENT,
            _ => {}
        }
    }
    (tunnel.src, tunnel.dst) = v4[0].zip(v4[1]).or(v6[0].zip(v6[1]))?;
    Some(TunnelKey::Set(Box::new(tunnel)))
}

fn police(told: IterablePoliceAttrs, ours: &Action) -> Option<Made> {
    let ActionKind::Police(known) = ours.kind else { return None };
    let parms = told.get_tbf().ok()?;
    let wide = |rate: u32, told: Option<u64>| told.unwrap_or(rate.into());
    let mut police = Police {
        shared: parms.refcnt > 1,
        burst: parms.burst,
        mtu: parms.mtu,
        // It takes one byte of two.
        overhead: known.overhead,
        link_layer: parms.rate.linklayer,
        ..Police::default()
    };
    let (mut rate64, mut peak64) = (None, None);
    for part in told {
        match part.ok()? {
            PoliceAttrs::Avrate(told) => police.average_rate = told,
            PoliceAttrs::Result(told) => police.conform = control(told as i32),
            PoliceAttrs::Rate64(told) => rate64 = Some(told),
            PoliceAttrs::Peakrate64(told) => peak64 = Some(told),
            PoliceAttrs::Pktrate64(told) => police.packet_rate = told,
            PoliceAttrs::Pktburst64(told) => police.packet_burst = told,
            _ => {}
        }
    }
    (police.rate, police.peak_rate) = (wide(parms.rate.rate, rate64), wide(parms.peakrate.rate, peak64));
    if parms.rate.overhead != known.overhead.to_ne_bytes()[0] {
        return None;
    }
    Some(Made { index: parms.index, control: control(parms.action), kind: ActionKind::Police(police) })
}
