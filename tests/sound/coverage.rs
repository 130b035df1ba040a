//! What the runs have covered: fields compared and rewritten, actions and controls run inside merged ways, refusals met.

mod reach;

use crate::{rule::Rule, tracker::Tracker};
use flowmerge::{
    flower::{
        Action, ActionKind, Control, Cookie, Field, Match,
        action::{CsumFlags, PeditHeader, Skbmod, TunnelKey, Vlan},
        field::Header,
        tunnel::TunnelOptions,
    },
    merge::{Refusal, changes},
    table::overlap,
};
use merge_model::outcome::Outcome;
use std::{collections::BTreeMap, fmt};

type Counts = BTreeMap<String, usize>;

/// What the runs have covered.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// Fields that a filter of a merged way compares.
    pub matched: Counts,
    /// Fields that a filter in front of one of those compares.
    pub shadowed: Counts,
    /// Fields that a merged way writes to.
    pub rewritten: Counts,
    /// Actions that a merged way runs, with their controls.
    pub done: Counts,
    /// Refusals by reason, and by the reason's own reason.
    pub refused: Counts,
}

fn one(counts: &mut Counts, what: impl Into<String>) {
    *counts.entry(what.into()).or_default() += 1;
}

/// Names of bits, for fields of flags.
const BITS: [(Field, &[&str]); 2] =
    [(Field::CtState, &["new", "est", "rel", "trk", "inv", "rpl"]), (Field::IpFlags, &["frag", "firstfrag"])];

/// What a match compares: each field whole or in part, each flag set or unset, each range.
fn compared(counts: &mut Counts, matches: &Match) {
    for (field, value, mask) in matches.terms() {
        match BITS.iter().find(|b| b.0 == field) {
            Some((_, names)) => {
                for (i, name) in names.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1) {
                    one(counts, format!("{field} {}{name}", if value >> i & 1 == 1 { '+' } else { '-' }));
                }
            }
            None => one(counts, format!("{field}{}", if mask == field.ones() { "" } else { " masked" })),
        }
    }
    matches.ranges().for_each(|(field, _)| one(counts, format!("{field} range")));
}

fn control(control: Control) -> String {
    match control {
        Control::Goto(_) => "goto".into(),
        Control::Jump(_) => "jump".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// What an action is, in one name for each thing that it may do.
fn names(action: &Action) -> Vec<String> {
    let name = |s: &str| vec![s.to_string()];
    match &action.kind {
        ActionKind::Gact { .. } => vec![format!("gact {}", control(action.control))],
        ActionKind::Mirred(m) => {
            let to = if m.ingress { "ingress" } else { "egress" };
            let how = if m.mirror { "mirror" } else { "redirect" };
            vec![format!("mirred {to} {how} {}", control(action.control))]
        }
        ActionKind::Ct(ct) if ct.clear => name("ct clear"),
        ActionKind::Ct(ct) => {
            let ranged = ct.nat.as_ref().is_some_and(|n| n.side.is_some());
            let parts = [
                (true, "ct"),
                (ct.commit, "ct commit"),
                (ct.force, "ct force"),
                (ct.mark.is_some(), "ct mark"),
                (ct.labels.is_some(), "ct label"),
                (ct.nat.is_some() && !ranged, "ct nat"),
                (ranged, "ct nat range"),
            ];
            parts.iter().filter(|p| p.0).map(|p| p.1.to_string()).collect()
        }
        ActionKind::Pedit(p) => {
            let key = |k: &flowmerge::flower::action::PeditKey| {
                let flips = (0..4).any(|i| k.mask[i] & k.value[i] != 0);
                let masked = k.mask.iter().any(|&m| m != 0 && m != 0xff);
                let how = match (k.add, flips, masked) {
                    (true, ..) => "add",
                    (_, true, _) => "flip",
                    (_, _, true) => "masked",
                    _ => "set",
                };
                format!("pedit {} {how}", format!("{:?}", k.header).to_lowercase())
            };
            let several = (p.keys.len() > 1).then(|| "pedit of several keys".to_string());
            p.keys.iter().map(key).chain(several).collect()
        }
        ActionKind::Csum(flags) => {
            let all = flags.iter_names().map(|(n, _)| format!("csum {}", n.to_lowercase()));
            all.chain((*flags == CsumFlags::empty()).then(|| "csum of nothing".into())).collect()
        }
        ActionKind::Vlan(Vlan::Push { protocol, .. }) => vec![format!("vlan push {protocol:#x}")],
        ActionKind::Vlan(Vlan::Modify { protocol, prio, .. }) => {
            vec![format!("vlan modify {protocol:#x}{}", if prio.is_some() { " prio" } else { "" })]
        }
        ActionKind::Skbedit(s) => {
            let parts = [
                (s.queue.is_some(), "skbedit queue"),
                (s.priority.is_some(), "skbedit priority"),
                (s.mark.is_some(), "skbedit mark"),
                (s.ptype.is_some(), "skbedit ptype"),
                (s.inherit_dsfield, "skbedit inherit_dsfield"),
            ];
            parts.iter().filter(|p| p.0).map(|p| p.1.to_string()).collect()
        }
        ActionKind::Skbmod(Skbmod::Set { dst, src, ethertype }) => {
            let parts = [(dst.is_some(), "dmac"), (src.is_some(), "smac"), (ethertype.is_some(), "etype")];
            parts.iter().filter(|p| p.0).map(|p| format!("skbmod {}", p.1)).collect()
        }
        ActionKind::TunnelKey(TunnelKey::Set(tunnel)) if tunnel.options != TunnelOptions::None => {
            name("tunnel_key set with options")
        }
        ActionKind::Nat(nat) => name(if nat.egress { "nat egress" } else { "nat ingress" }),
        ActionKind::Other(_) => name("other"),
        _ => name(action.form()),
    }
}

/// The fields that an action writes to.
fn written(kind: &ActionKind) -> Vec<Field> {
    use Field::*;
    match kind {
        ActionKind::Vlan(Vlan::Modify { prio: None, .. }) => vec![VlanTpid, VlanId],
        ActionKind::Vlan(_) => vec![VlanTpid, VlanId, VlanPrio],
        ActionKind::Pedit(p) => {
            let is_there = |k: &flowmerge::flower::action::PeditKey, field: &Field| {
                let headers: &[Header] = match k.header {
                    PeditHeader::Ethernet => &[Header::Ethernet],
                    PeditHeader::Ipv4 => &[Header::Ipv4],
                    PeditHeader::Ipv6 => &[Header::Ipv6],
                    PeditHeader::Tcp => &[Header::Tcp],
                    PeditHeader::Udp => &[Header::Udp],
                    PeditHeader::Network => &[],
                };
                let touched = |i: usize| k.mask[i] != 0xff || k.value[i] != 0;
                field.row().places.iter().filter(|p| headers.contains(&p.header)).any(|place| {
                    let (from, to) = (i32::from(place.bit), i32::from(place.bit) + i32::from(field.row().bits));
                    (0..4).filter(|&i| touched(i)).any(|i| {
                        let bit = (k.offset + i as i32) * 8;
                        bit < to && from < bit + 8
                    })
                })
            };
            Field::ALL.iter().copied().filter(|f| p.keys.iter().any(|k| is_there(k, f))).collect()
        }
        _ => Vec::new(),
    }
}

impl Coverage {
    /// A walk was merged.
    pub fn merged(&mut self, filters: &[(Rule, Cookie)], outcome: &Outcome, tracker: &Tracker) {
        for hit in outcome.hits.iter().filter(|h| h.branch == 0) {
            let Some((rule, _)) = filters.iter().find(|(r, _)| r.filter.id == hit.filter) else {
                continue;
            };
            let filter = &rule.filter;
            compared(&mut self.matched, &filter.matches);
            for (other, _) in filters {
                let f = &other.told();
                let place = (f.id.hook, f.id.chain) == (filter.id.hook, filter.id.chain);
                if place && f.id != filter.id && f.id.prio <= filter.id.prio && overlap(&f.matches, &filter.matches) {
                    compared(&mut self.shadowed, &f.matches);
                    if !f.is_decoded() {
                        one(&mut self.shadowed, "not decoded");
                    }
                }
            }
            let mut found = hit.found.iter();
            for action in hit.ran.iter().filter_map(|&i| filter.actions.get(i)) {
                names(action).into_iter().for_each(|n| one(&mut self.done, n));
                written(&action.kind).into_iter().for_each(|f| one(&mut self.rewritten, f.name()));
                if action.control != Control::Pipe
                    && !matches!(action.kind, ActionKind::Gact { .. } | ActionKind::Mirred(_))
                {
                    one(&mut self.done, format!("{} with {}", action.name(), control(action.control)));
                }
                if let ActionKind::Ct(ct) = &action.kind
                    && let Some(Some(found)) = found.next()
                    && ct.nat.is_some()
                {
                    let connection = &tracker.entries[found.entry.0 as usize].connection;
                    let v6 = connection.original.src.is_ipv6();
                    let fields = match v6 {
                        false => [Field::Ipv4Src, Field::Ipv4Dst, Field::SrcPort, Field::DstPort],
                        true => [Field::Ipv6Src, Field::Ipv6Dst, Field::SrcPort, Field::DstPort],
                    };
                    let changed = changes(connection, found.direction);
                    for (field, _) in fields.iter().zip(changed).filter(|c| c.1) {
                        one(&mut self.rewritten, format!("{field} by nat"));
                    }
                    if changed.iter().filter(|&&c| c).count() == 4 {
                        one(&mut self.rewritten, "all four by nat");
                    }
                }
            }
        }
    }

    /// A walk was not.
    pub fn refused(&mut self, refusal: &Refusal) {
        one(&mut self.refused, refusal.reason());
        match refusal {
            Refusal::Action { why, .. } | Refusal::Unfit { why, .. } | Refusal::Hidden { why, .. } => {
                one(&mut self.refused, format!("{}: {why}", refusal.reason()));
            }
            Refusal::NotQualified { why, .. } => one(&mut self.refused, format!("not-qualified: {why}")),
            _ => {}
        }
    }

    /// Adds what another run has covered.
    pub fn add(&mut self, other: &Coverage) {
        let pairs = [
            (&mut self.matched, &other.matched),
            (&mut self.shadowed, &other.shadowed),
            (&mut self.rewritten, &other.rewritten),
            (&mut self.done, &other.done),
            (&mut self.refused, &other.refused),
        ];
        for (to, from) in pairs {
            from.iter().for_each(|(name, n)| *to.entry(name.clone()).or_default() += n);
        }
    }
}

impl Coverage {
    /// What should have been reached, and was not.
    pub fn missed(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut want = |counts: &Counts, title: &str, names: Vec<String>| {
            out.extend(names.into_iter().filter(|n| !counts.contains_key(n)).map(|n| format!("{title}: {n}")));
        };
        let compared = reach::compared();
        want(&self.matched, "compared", compared.iter().filter(|n| !reach::never_merged(n)).cloned().collect());
        want(&self.shadowed, "in front", compared);
        want(&self.shadowed, "in front", vec!["not decoded".into()]);
        want(&self.rewritten, "rewritten", reach::rewritten());
        want(&self.done, "done", reach::done());
        want(&self.refused, "refused", reach::refused());
        out
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (title, counts) in [
            ("compared by a filter of a merged way", &self.matched),
            ("compared by a filter in front of one", &self.shadowed),
            ("rewritten in a merged way", &self.rewritten),
            ("run in a merged way", &self.done),
            ("refused", &self.refused),
        ] {
            writeln!(f, "{title}:")?;
            for (name, n) in counts {
                writeln!(f, "  {n:7} {name}")?;
            }
        }
        Ok(())
    }
}
