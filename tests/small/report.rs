//! What a run covered, for a person to read, and for an assertion that it reached everything.

use flowmerge::flower::{Action, ActionKind, Control, Filter};
use std::{collections::BTreeMap, fmt};

/// Counts by name.
#[derive(Clone, Debug, Default)]
pub struct Tally(BTreeMap<String, u64>);

impl Tally {
    pub fn add(&mut self, name: impl Into<String>) {
        *self.0.entry(name.into()).or_default() += 1;
    }

    fn join(&mut self, other: Tally) {
        for (name, n) in other.0 {
            *self.0.entry(name).or_default() += n;
        }
    }

    /// Those of these names that nothing begins with.
    pub fn lacking<'a>(&self, names: &[&'a str]) -> Vec<&'a str> {
        names.iter().copied().filter(|name| !self.0.keys().any(|k| k.starts_with(name))).collect()
    }
}

/// What was covered.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Numbers of everything that has no other place.
    pub counts: Tally,
    /// Fields that filters hit by merged packets compare, actions and controls that they run, reasons of refusals.
    pub fields: Tally,
    pub actions: Tally,
    pub controls: Tally,
    pub refusals: Tally,
    /// Fields that merged filters compare.
    pub merged: Tally,
}

/// What a run of the default length must have met.
const REFUSALS: &[&str] = &[
    "no-hits",
    "no-terminal",
    "too-long",
    "action gact",
    "action police",
    "action sample",
    "unfit ct",
    "unfit pedit",
    "unfit csum",
    "unfit vlan",
    "unfit mpls: it drops a packet of which it counts the TTL down",
    "unfit mpls: it puts a label between the tags",
    "hidden: it lies behind an MPLS label",
    "unordered",
    "no-connection",
    "not-qualified",
    "changes-connection",
    "excluded",
    "egress-filters",
    "forks",
    "too-many",
];
const ACTIONS: &[&str] = &[
    "gact",
    "redirect egress",
    "redirect ingress",
    "mirror egress",
    "mirror ingress",
    "pedit set",
    "pedit masked",
    "pedit xor",
    "pedit add",
    "csum",
    "vlan push",
    "vlan pop",
    "vlan modify",
    "vlan pop_eth",
    "vlan push_eth",
    "skbedit",
    "skbmod set",
    "skbmod swap",
    "skbmod ecn",
    "mpls push",
    "mpls pop",
    "mpls modify",
    "mpls dec_ttl",
    "tunnel_key set",
    "tunnel_key unset",
    "nat",
    "police",
    "ct nat",
    "ct commit",
    "ct force",
    "ct clear",
];
const CONTROLS: &[&str] =
    &["pipe", "stolen", "goto", "drop", "pass", "continue", "jump", "trap", "queued", "reclassify", "end of list"];
const FIELDS: &[&str] = &[
    "indev",
    "protocol",
    "dst_mac",
    "src_mac",
    "eth_type",
    "num_of_vlans",
    "vlan_id masked",
    "vlan_prio",
    "vlan_ethtype",
    "cvlan_tpid",
    "cvlan_id",
    "cvlan_ethtype",
    "ip_proto",
    "ip_tos masked",
    "ip_ttl masked",
    "ip_flags",
    "src_ip masked",
    "dst_ip masked",
    "src_ip6",
    "dst_ip6",
    "src_port range",
    "src_port masked",
    "dst_port range",
    "dst_port masked",
    "tcp_flags",
    "spi",
    "l2tpv3_sid",
    "arp_op",
    "arp_sip",
    "arp_tip",
    "arp_sha",
    "arp_tha",
    "cfm_",
    "mpls_lse1",
    "mpls_label",
    "mpls_bos",
    "mpls_ttl",
    "mpls_lse2",
    "mpls2_label",
    "mpls2_bos",
    "mpls_lse3",
    "enc_key_id",
    "enc_addr_type",
    "enc_dst_ip",
    "enc_dst_port",
    "enc_tos",
    "enc_ttl",
    "enc_flags",
    "enc_opts_type masked",
    "enc_opts_len masked",
    "enc_opts0",
    "l2_miss",
    "ct_state",
    "ct_mark",
    "ct_label",
];
/// What must have happened.
const COUNTS: &[&str] = &[
    "policers exceeded later",
    "packets that a policer dropped in a merged filter",
    "merged filters of Labels",
    "merged filters of Tunnels",
    "merged filters of Link",
    "merged filters of Rewrites",
    "units needed for packets beside the universe",
];

impl Stats {
    /// What a run of the default length should have met and did not.
    pub fn lacking(&self) -> Vec<&'static str> {
        let refusals = self.refusals.lacking(REFUSALS);
        let (actions, controls) = (self.actions.lacking(ACTIONS), self.controls.lacking(CONTROLS));
        [refusals, actions, controls, self.fields.lacking(FIELDS), self.counts.lacking(COUNTS)].concat()
    }

    pub fn join(&mut self, other: Stats) {
        self.counts.join(other.counts);
        self.fields.join(other.fields);
        self.actions.join(other.actions);
        self.controls.join(other.controls);
        self.refusals.join(other.refusals);
        self.merged.join(other.merged);
    }

    pub fn count(&mut self, what: &str, n: usize) {
        *self.counts.0.entry(what.into()).or_default() += n as u64;
    }

    /// A filter of a merged walk, with the actions that ran.
    pub fn filter(&mut self, filter: &Filter) {
        for (field, _, mask) in filter.matches.terms() {
            let part = if mask == field.ones() { "" } else { " masked" };
            self.fields.add(format!("{field}{part}"));
        }
        filter.matches.ranges().for_each(|(field, _)| self.fields.add(format!("{field} range")));
        for action in &filter.actions {
            self.actions.add(name(action));
            self.controls.add(control(action.control));
        }
        if filter.actions.last().is_none_or(|a| a.control == Control::Pipe) {
            self.controls.add("end of list");
        }
    }
}

fn name(action: &Action) -> String {
    match &action.kind {
        ActionKind::Mirred(m) => {
            let what = if m.mirror { "mirror" } else { "redirect" };
            format!("{what} {}", if m.ingress { "ingress" } else { "egress" })
        }
        ActionKind::Ct(ct) if ct.clear => "ct clear".into(),
        ActionKind::Ct(ct) if ct.force => "ct force".into(),
        ActionKind::Ct(ct) if ct.commit => "ct commit".into(),
        ActionKind::Ct(ct) if ct.nat.is_some() => "ct nat".into(),
        ActionKind::Pedit(p) => {
            let add = p.keys.iter().any(|k| k.add);
            let masked = p.keys.iter().any(|k| k.mask.iter().any(|&m| m != 0 && m != 0xff));
            let flip = p.keys.iter().any(|k| !k.add && std::iter::zip(k.mask, k.value).any(|(m, v)| m & v != 0));
            format!(
                "pedit {}",
                if add {
                    "add"
                } else if flip {
                    "xor"
                } else if masked {
                    "masked"
                } else {
                    "set"
                }
            )
        }
        _ => action.form().into(),
    }
}

fn control(control: Control) -> &'static str {
    match control {
        Control::Ok => "pass",
        Control::Reclassify => "reclassify",
        Control::Shot => "drop",
        Control::Pipe => "pipe",
        Control::Stolen => "stolen",
        Control::Queued => "queued",
        Control::Repeat => "repeat",
        Control::Trap => "trap",
        Control::Continue => "continue",
        Control::Goto(_) => "goto",
        Control::Jump(_) => "jump",
        Control::Other(_) => "other",
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), (*name).clone()));
        let all: Vec<_> = all.iter().map(|(name, n)| format!("{name} {n}")).collect();
        f.write_str(&all.join(", "))
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, n) in &self.counts.0 {
            writeln!(f, "{n:>10}  {what}")?;
        }
        writeln!(f, "fields compared on merged walks: {}", self.fields)?;
        writeln!(f, "actions: {}", self.actions)?;
        writeln!(f, "controls: {}", self.controls)?;
        writeln!(f, "refusals: {}", self.refusals)?;
        write!(f, "fields of merged filters: {}", self.merged)
    }
}
