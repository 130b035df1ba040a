//! Actions, with their arguments as `tc filter add` takes them.

use super::{
    Names,
    fields::{ipv4, labels, mac},
    names::{class, protocol},
    options,
    pedit::munges,
    rates,
};
use crate::flower::{
    Action, ActionKind, Control,
    action::{CsumFlags, Ct, Mpls, MplsEntry, Nat, NatSide, Sample, Skbedit, Skbmod, StatelessNat, TunnelKey, Vlan},
    tunnel::{Tunnel, TunnelFlags},
};
use std::fmt;

/// One action in a line. With `full`, how it goes on is said wherever tc might assume otherwise.
pub(super) fn inline(f: &mut fmt::Formatter<'_>, action: &Action, names: &dyn Names, full: bool) -> fmt::Result {
    if let ActionKind::Gact { random } = &action.kind {
        f.write_str(&control(action.control))?;
        if let Some(r) = random.filter(|r| r.kind != 0) {
            let kind = match r.kind {
                1 => "netrand".into(),
                2 => "determ".into(),
                other => other.to_string(),
            };
            write!(f, " random {kind} {} {}", control(r.control), r.value)?;
        }
        return Ok(());
    }
    f.write_str(&arguments(action, names))?;
    // tc's syntax has no place for the control of a redirect that takes the packet, as every redirect of its own does.
    let usual = match &action.kind {
        ActionKind::Mirred(m) if !m.mirror => action.control == Control::Stolen,
        // It has two, and says them among its arguments.
        ActionKind::Police(_) => true,
        _ => action.control == Control::Pipe && !full,
    };
    if usual { Ok(()) } else { write!(f, " {}", control(action.control)) }
}

/// As `tc filter show` introduces it, always with its control.
pub(super) fn shown(f: &mut fmt::Formatter<'_>, action: &Action, names: &dyn Names) -> fmt::Result {
    match &action.kind {
        ActionKind::Gact { .. } => {
            f.write_str("gact action ")?;
            inline(f, action, names, true)
        }
        ActionKind::Police(_) => f.write_str(&arguments(action, names)),
        _ => write!(f, "{} {}", arguments(action, names), control(action.control)),
    }
}

fn arguments(action: &Action, names: &dyn Names) -> String {
    let mut words = vec![action.name().to_string()];
    match &action.kind {
        ActionKind::Gact { .. } | ActionKind::Other(_) => {}
        ActionKind::Mirred(m) => {
            let hook = if m.ingress { "ingress" } else { "egress" };
            let verb = if m.mirror { "mirror" } else { "redirect" };
            words.push(format!("{hook} {verb} dev {}", names.port(m.port)));
        }
        ActionKind::Ct(ct) => ct_words(ct, &mut words),
        ActionKind::Pedit(pedit) => {
            words.push("ex".into());
            if pedit.mend {
                words.push("mend".into());
            }
            words.extend(munges(pedit).iter().map(|m| format!("munge {m}")));
        }
        ActionKind::Csum(flags) if flags.is_empty() => {}
        ActionKind::Csum(flags) => words.push(csum(*flags)),
        ActionKind::Vlan(vlan) => vlan_words(*vlan, &mut words),
        ActionKind::Skbedit(skbedit) => skbedit_words(skbedit, &mut words),
        ActionKind::Skbmod(skbmod) => skbmod_words(*skbmod, &mut words),
        ActionKind::Mpls(mpls) => mpls_words(*mpls, &mut words),
        ActionKind::TunnelKey(TunnelKey::Set(tunnel)) => tunnel_words(tunnel, &mut words),
        ActionKind::TunnelKey(TunnelKey::Unset) => words.push("unset".into()),
        ActionKind::Nat(nat) => nat_words(*nat, &mut words),
        ActionKind::Police(police) => {
            // One that others share is told by its index, too.
            words.extend((police.shared && action.index != 0).then(|| format!("index {}", action.index)));
            words.extend(rates::police(police, control(action.control), control(police.conform)));
        }
        ActionKind::Sample(sample) => sample_words(*sample, &mut words),
    }
    words.join(" ")
}

/// How TC goes on, in tc's words where it has one.
pub(super) fn control(control: Control) -> String {
    match control {
        Control::Ok => "pass".into(),
        Control::Reclassify => "reclassify".into(),
        Control::Shot => "drop".into(),
        Control::Pipe => "pipe".into(),
        Control::Stolen => "stolen".into(),
        Control::Queued => "queued".into(),
        Control::Repeat => "repeat".into(),
        Control::Trap => "trap".into(),
        Control::Continue => "continue".into(),
        Control::Goto(chain) => format!("goto chain {chain}"),
        Control::Jump(actions) => format!("jump {actions}"),
        Control::Other(value) => format!("control {value}"),
    }
}

fn ct_words(ct: &Ct, words: &mut Vec<String>) {
    if ct.clear {
        words.push("clear".into());
        return;
    }
    for (set, word) in [(ct.commit, "commit"), (ct.force, "force")] {
        if set {
            words.push(word.into());
        }
    }
    words.push(format!("zone {}", ct.zone));
    if let Some((value, mask)) = ct.mark {
        words.push(format!("mark {}", masked(value, mask)));
    }
    if let Some((value, mask)) = ct.labels {
        words.push(format!("label {}", labels(value, mask)));
    }
    if let Some(helper) = &ct.helper {
        words.push(format!("helper {helper}"));
    }
    if let Some(Nat { side, addresses, ports }) = &ct.nat {
        words.push("nat".into());
        match side {
            Some(NatSide::Src) => words.push("src".into()),
            Some(NatSide::Dst) => words.push("dst".into()),
            None => {}
        }
        words.extend(addresses.map(|(low, high)| format!("addr {}", range(low, high))));
        words.extend(ports.map(|(low, high)| format!("port {}", range(low, high))));
    }
}

fn range<T: PartialEq + fmt::Display>(low: T, high: T) -> String {
    if low == high { low.to_string() } else { format!("{low}-{high}") }
}

fn masked(value: u32, mask: u32) -> String {
    match mask {
        u32::MAX => format!("{value:#x}"),
        _ => format!("{value:#x}/{mask:#x}"),
    }
}

fn csum(flags: CsumFlags) -> String {
    let names = [
        (CsumFlags::IPV4, "ip4h"),
        (CsumFlags::ICMP, "icmp"),
        (CsumFlags::IGMP, "igmp"),
        (CsumFlags::TCP, "tcp"),
        (CsumFlags::UDP, "udp"),
        (CsumFlags::UDPLITE, "udplite"),
        (CsumFlags::SCTP, "sctp"),
    ];
    let set: Vec<_> = names.iter().filter(|(flag, _)| flags.contains(*flag)).collect();
    set.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(" and ")
}

fn vlan_words(vlan: Vlan, words: &mut Vec<String>) {
    let tag = |verb, tpid, id| format!("{verb} protocol {} id {id}", protocol(tpid));
    match vlan {
        Vlan::Pop => words.push("pop".into()),
        Vlan::Push { protocol: tpid, id, prio } => {
            words.push(tag("push", tpid, id));
            if prio != 0 {
                words.push(format!("priority {prio}"));
            }
        }
        Vlan::Modify { protocol: tpid, id, prio } => {
            words.push(tag("modify", tpid, id));
            words.extend(prio.map(|prio| format!("priority {prio}")));
        }
        Vlan::PopEthernet => words.push("pop_eth".into()),
        Vlan::PushEthernet { dst, src } => {
            words.push(format!("push_eth dst_mac {} src_mac {}", address(dst), address(src)));
        }
    }
}

fn skbedit_words(skbedit: &Skbedit, words: &mut Vec<String>) {
    words.extend(skbedit.queue.map(|queue| format!("queue_mapping {queue}")));
    words.extend(skbedit.priority.map(|priority| format!("priority {}", class(priority))));
    words.extend(skbedit.mark.map(|(value, mask)| format!("mark {}", masked(value, mask))));
    words.extend(skbedit.ptype.map(|ptype| {
        let name = match ptype {
            0 => "host".into(),
            1 => "broadcast".into(),
            2 => "multicast".into(),
            3 => "otherhost".into(),
            other => other.to_string(),
        };
        format!("ptype {name}")
    }));
    if skbedit.inherit_dsfield {
        words.push("inheritdsfield".into());
    }
}

fn address(bytes: [u8; 6]) -> String {
    mac(bytes.iter().fold(0, |all, &byte| all << 8 | u128::from(byte)))
}

fn skbmod_words(skbmod: Skbmod, words: &mut Vec<String>) {
    match skbmod {
        Skbmod::Set { dst, src, ethertype } => {
            words.push("set".into());
            words.extend(dst.map(|dst| format!("dmac {}", address(dst))));
            words.extend(src.map(|src| format!("smac {}", address(src))));
            words.extend(ethertype.map(|ethertype| format!("etype {ethertype:#06x}")));
        }
        Skbmod::Swap => words.push("swap mac".into()),
        Skbmod::Ecn => words.push("ecn".into()),
    }
}

fn mpls_words(mpls: Mpls, words: &mut Vec<String>) {
    let (verb, ethertype, entry) = match mpls {
        Mpls::Pop { protocol } => ("pop", Some(protocol), MplsEntry::default()),
        Mpls::Push { protocol, entry } => ("push", Some(protocol), entry),
        Mpls::PushMac { protocol, entry } => ("mac_push", Some(protocol), entry),
        Mpls::Modify(entry) => ("modify", None, entry),
        Mpls::DecTtl => ("dec_ttl", None, MplsEntry::default()),
    };
    words.push(verb.into());
    words.extend(ethertype.map(|ethertype| format!("protocol {}", protocol(ethertype))));
    words.extend(entry.label.map(|label| format!("label {label}")));
    words.extend(entry.tc.map(|tc| format!("tc {tc}")));
    words.extend(entry.bos.map(|bos| format!("bos {}", u8::from(bos))));
    words.extend(entry.ttl.map(|ttl| format!("ttl {ttl}")));
}

/// A source port, and flags but those of checksum and fragments, are nothing that tc can set; they are said in its manner.
fn tunnel_words(tunnel: &Tunnel, words: &mut Vec<String>) {
    words.push(format!("set src_ip {} dst_ip {}", tunnel.src, tunnel.dst));
    words.extend(tunnel.id.map(|id| format!("id {id}")));
    for (name, port) in [("src_port", tunnel.src_port), ("dst_port", tunnel.dst_port)] {
        words.extend((port != 0).then(|| format!("{name} {port}")));
    }
    words.extend(options::name(&tunnel.options).map(|name| format!("{name} {}", options::value(&tunnel.options))));
    words.push(if tunnel.flags.contains(TunnelFlags::CSUM) { "csum" } else { "nocsum" }.into());
    let others =
        [(TunnelFlags::DONT_FRAGMENT, "nofrag"), (TunnelFlags::OAM, "oam"), (TunnelFlags::CRITICAL, "critical")];
    words.extend(others.iter().filter(|(flag, _)| tunnel.flags.contains(*flag)).map(|(_, name)| name.to_string()));
    for (name, value) in [("tos", tunnel.tos), ("ttl", tunnel.ttl)] {
        words.extend((value != 0).then(|| format!("{name} {value}")));
    }
}

fn nat_words(nat: StatelessNat, words: &mut Vec<String>) {
    let side = if nat.egress { "egress" } else { "ingress" };
    let length = nat.mask.leading_ones();
    let mask = if length == nat.mask.count_ones() { length.to_string() } else { ipv4(nat.mask.into()) };
    words.push(format!("{side} {}/{mask} {}", ipv4(nat.old.into()), ipv4(nat.new.into())));
}

fn sample_words(sample: Sample, words: &mut Vec<String>) {
    words.push(format!("rate 1/{} group {}", sample.rate, sample.group));
    words.extend(sample.truncate.map(|bytes| format!("trunc_size {bytes}")));
}
