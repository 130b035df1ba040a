//! Why a walk was not merged: one enum, each variant with the filter and the field or action it concerns, each printing
//! as a sentence for the engineer who reads it at night.

use crate::{
    conntrack::NotQualified,
    flower::{Cookie, Field, FilterId, Port},
};
use std::fmt;

/// Why a walk was not merged. The packet stays in software, which is always right.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// A hit names a filter that is not there (any more).
    #[error("hit {hit} names filter cookie {:#x}, which does not exist (any more)", cookie.0)]
    UnknownFilter {
        /// Position in the walk.
        hit: usize,
        /// The cookie.
        cookie: Cookie,
    },
    /// A `ct` in the walk names a connection that is not there (any more).
    #[error("{filter}: ct names connection {connection}, which does not exist (any more)")]
    UnknownConnection {
        /// The filter with the `ct`.
        filter: FilterId,
        /// The caller's id.
        connection: u64,
    },
    /// The walk has no hits.
    #[error("no filter matched the packet, so there is nothing to merge")]
    NoHits,
    /// The walk's last hit does not decide about the packet.
    #[error("{filter} is the last one that matched and sends the packet on, to where nothing matched it (a miss)")]
    NoTerminal {
        /// The last filter.
        filter: FilterId,
    },
    /// Longer than the limit.
    #[error("{filter} is hit number {} of {hits}: the limit is {limit} hits in a walk", limit + 1)]
    TooLong {
        /// The first filter beyond the limit.
        filter: FilterId,
        /// Hits of this walk.
        hits: usize,
        /// The limit.
        limit: usize,
    },
    /// A walk that does not follow from its filters: a hit where the one before leads elsewhere.
    #[error("{filter} was hit, but the hit before it does not lead there")]
    Broken {
        /// The filter.
        filter: FilterId,
    },
    /// Part of a filter was not understood.
    #[error("{filter}: {what} is not understood")]
    Undecoded {
        /// The filter.
        filter: FilterId,
        /// The attribute or classifier.
        what: String,
    },
    /// An action that a merged filter cannot carry.
    #[error("{filter}: action {action} cannot be merged: {why}")]
    Action {
        /// The filter.
        filter: FilterId,
        /// The action's name.
        action: String,
        /// What stands against it.
        why: &'static str,
    },
    /// An action that a merged filter cannot carry for packets like this one.
    #[error("{filter}: action {action} cannot be merged for such a packet: {why}")]
    Unfit {
        /// The filter.
        filter: FilterId,
        /// The action's name.
        action: String,
        /// What stands against it.
        why: &'static str,
    },
    /// The hardware cannot do one of the merged filter's actions, or match one of its fields, or has no place for it.
    #[error("the hardware refused the merged filter of the way that ends at {filter}: {why}")]
    Hardware {
        /// The way's last filter.
        filter: FilterId,
        /// Its reason.
        why: String,
    },
    /// What a filter asks for contradicts earlier filters or writes: the record does not fit the filters.
    #[error("{filter} matches on {field}, which earlier filters or actions of the walk make something else")]
    Impossible {
        /// The filter.
        filter: FilterId,
        /// The field.
        field: Field,
    },
    /// A field that the walk cannot tell any more.
    #[error("{filter} depends on {field}, which cannot be told at this point: {why}")]
    Hidden {
        /// The filter.
        filter: FilterId,
        /// The field.
        field: Field,
        /// What hides it.
        why: &'static str,
    },
    /// The packet could have hit another filter first, so the record does not fit the filters.
    #[error("{filter} was hit, but the packet should have hit {shadow} before it")]
    Stale {
        /// The filter hit.
        filter: FilterId,
        /// The one in front.
        shadow: FilterId,
    },
    /// A `skip_sw` filter behind another one that takes some of its packets: hardware knows no priorities.
    #[error(
        "{filter} is skip_sw and cannot be in hardware: {shadow} stands in front of it and takes some of its packets"
    )]
    Behind {
        /// The filter.
        filter: FilterId,
        /// The one in front.
        shadow: FilterId,
    },
    /// A `skip_sw` filter at an egress hook.
    #[error("{filter} is skip_sw at an egress hook: hardware decides about packets as they arrive")]
    AtEgress {
        /// The filter.
        filter: FilterId,
    },
    /// A filter in front of the hit is not understood, so nobody can say which packets it takes.
    #[error("{filter} stands behind {shadow}, of which {what} is not understood")]
    ShadowUndecoded {
        /// The filter hit.
        filter: FilterId,
        /// The one in front.
        shadow: FilterId,
        /// The attribute or classifier.
        what: String,
    },
    /// A filter in front of the hit compares what the walk cannot tell any more.
    #[error("{filter} stands behind {shadow}, which depends on {field}, and that cannot be told at this point: {why}")]
    ShadowHidden {
        /// The filter hit.
        filter: FilterId,
        /// The one in front.
        shadow: FilterId,
        /// The field.
        field: Field,
        /// What hides it.
        why: &'static str,
    },
    /// The packet matches two filters of one priority, and which was inserted first was not observed.
    #[error("the packet matches both {filter} and {other} in one priority, and which was inserted first is not known")]
    Unordered {
        /// The filter hit.
        filter: FilterId,
        /// The other.
        other: FilterId,
    },
    /// `ct` found no connection (new, invalid).
    #[error("{filter}: ct found no established connection for the packet")]
    NoConnection {
        /// The filter with the `ct`.
        filter: FilterId,
    },
    /// The gate.
    #[error("{filter}: {why}")]
    NotQualified {
        /// The filter with the `ct`.
        filter: FilterId,
        /// What the gate says.
        why: NotQualified,
    },
    /// `ct commit` would change the connection's mark or labels.
    #[error("{filter}: ct commit changes the connection's {field}")]
    ChangesConnection {
        /// The filter with the `ct`.
        filter: FilterId,
        /// `ct_mark` or `ct_label`.
        field: Field,
    },
    /// The packet is one of those that software must go on seeing (fragments, SYN, FIN, RST).
    #[error(
        "{filter}: the packet's {field} keeps it in software: conntrack has to see fragments, and the flags that open and close"
    )]
    Excluded {
        /// The filter whose `ct`, or rewrite of a port, must not meet such a packet.
        filter: FilterId,
        /// `ip_flags` or `tcp_flags`.
        field: Field,
    },
    /// The packet or its connections do not meet what the filters of their own walk ask.
    #[error("{filter} was hit, but {what} is not what it asks for: something changed since the hit")]
    Changed {
        /// The first filter that the packet would not have come by.
        filter: FilterId,
        /// What is otherwise.
        what: Otherwise,
    },
    /// Filters at the egress hook of an output port, which the walk does not carry.
    #[error("{filter} sends to {port}, which has filters at its egress hook")]
    EgressFilters {
        /// The filter.
        filter: FilterId,
        /// The port.
        port: Port,
    },
    /// A copy into a port that has filters of its own: the walk would fork.
    #[error("{filter} sends a copy into {port}, which has filters of its own")]
    Forks {
        /// The filter.
        filter: FilterId,
        /// The port.
        port: Port,
    },
    /// More merged filters for one way and its connections than the limit.
    #[error("the way that ends at {filter} has {limit} merged filters for these connections already, the limit")]
    TooMany {
        /// The way's last filter.
        filter: FilterId,
        /// The limit.
        limit: usize,
    },
    /// What stands in the hardware for packets like this one is on its way out.
    #[error("what the hardware has for packets that end at {filter} is being removed")]
    Leaving {
        /// The way's last filter.
        filter: FilterId,
    },
    /// The caller's policy keeps a connection in software.
    #[error("{filter}: the connection stays in software: {why}")]
    Policy {
        /// The filter.
        filter: FilterId,
        /// In the policy's words.
        why: &'static str,
    },
}

/// What about a packet is not what its own walk asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Otherwise {
    /// A field of the packet as it arrived.
    Field(Field),
    /// A connection's tuple, mark or labels.
    Connection,
}

impl fmt::Display for Otherwise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Otherwise::Field(field) => write!(f, "the packet's {field}"),
            Otherwise::Connection => f.write_str("the connection (its tuple, mark or labels)"),
        }
    }
}

/// How far a refusal reaches, that is, what may be remembered of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every walk over these filters.
    Way,
    /// Walks over these filters of packets like this one.
    Packet,
    /// These connections, or this moment only.
    Moment,
}

impl Refusal {
    /// An action that no merged filter can carry.
    pub(super) fn action(filter: FilterId, action: &str, why: &'static str) -> Refusal {
        let action = action.to_string();
        Refusal::Action { filter, action, why }
    }

    /// An action that a merged filter cannot carry for packets like this one.
    pub(super) fn unfit(filter: FilterId, action: &str, why: &'static str) -> Refusal {
        let action = action.to_string();
        Refusal::Unfit { filter, action, why }
    }

    /// A short name for counting, in kebab case.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::UnknownFilter { .. } => "unknown-filter",
            Refusal::UnknownConnection { .. } => "unknown-connection",
            Refusal::NoHits => "no-hits",
            Refusal::NoTerminal { .. } => "no-terminal",
            Refusal::TooLong { .. } => "too-long",
            Refusal::Broken { .. } => "broken",
            Refusal::Undecoded { .. } => "undecoded",
            Refusal::Action { .. } => "action",
            Refusal::Unfit { .. } => "unfit",
            Refusal::Hardware { .. } => "hardware",
            Refusal::Impossible { .. } => "impossible",
            Refusal::Hidden { .. } => "hidden",
            Refusal::Stale { .. } => "stale",
            Refusal::Behind { .. } => "behind",
            Refusal::AtEgress { .. } => "at-egress",
            Refusal::ShadowUndecoded { .. } => "shadow-undecoded",
            Refusal::ShadowHidden { .. } => "shadow-hidden",
            Refusal::Unordered { .. } => "unordered",
            Refusal::NoConnection { .. } => "no-connection",
            Refusal::NotQualified { .. } => "not-qualified",
            Refusal::ChangesConnection { .. } => "changes-connection",
            Refusal::Excluded { .. } => "excluded",
            Refusal::Changed { .. } => "changed",
            Refusal::EgressFilters { .. } => "egress-filters",
            Refusal::Forks { .. } => "forks",
            Refusal::TooMany { .. } => "too-many",
            Refusal::Leaving { .. } => "leaving",
            Refusal::Policy { .. } => "policy",
        }
    }

    /// The filter in front of a hit that is the reason: without it there is none.
    pub fn shadow(&self) -> Option<FilterId> {
        match *self {
            Refusal::ShadowUndecoded { shadow, .. } | Refusal::ShadowHidden { shadow, .. } => Some(shadow),
            Refusal::Unordered { other, .. } => Some(other),
            _ => None,
        }
    }

    /// How far it reaches.
    pub fn scope(&self) -> Scope {
        match self {
            Refusal::Undecoded { .. } | Refusal::Action { .. } | Refusal::TooLong { .. } => Scope::Way,
            Refusal::Unfit { .. }
            | Refusal::Impossible { .. }
            | Refusal::Hidden { .. }
            | Refusal::Excluded { .. }
            | Refusal::ShadowUndecoded { .. }
            | Refusal::ShadowHidden { .. }
            | Refusal::Unordered { .. }
            | Refusal::NoConnection { .. }
            | Refusal::NoTerminal { .. }
            | Refusal::EgressFilters { .. }
            | Refusal::Forks { .. } => Scope::Packet,
            // A connection may change, room be made; or the record does not fit, and another one may.
            Refusal::NoHits
            | Refusal::UnknownFilter { .. }
            | Refusal::UnknownConnection { .. }
            | Refusal::Broken { .. }
            | Refusal::Hardware { .. }
            | Refusal::Stale { .. }
            | Refusal::Behind { .. }
            | Refusal::AtEgress { .. }
            | Refusal::NotQualified { .. }
            | Refusal::ChangesConnection { .. }
            | Refusal::Changed { .. }
            | Refusal::TooMany { .. }
            | Refusal::Leaving { .. }
            | Refusal::Policy { .. } => Scope::Moment,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flower::Hook;

    fn id(handle: u32) -> FilterId {
        FilterId { hook: Hook::Ingress(Port(1)), chain: 0, prio: 1, protocol: 0x800, handle }
    }

    /// Each with its name, whether it names the filter in front as its reason, and how far it reaches.
    #[test]
    fn refusals_are_named_and_name() {
        use Refusal::*;
        let (filter, shadow, other, field, why) = (id(1), id(2), id(2), Field::IpTtl, "of this");
        let (action, what) = ("pedit".to_string(), "TCA 200".to_string());
        let gate = crate::conntrack::NotQualified::Helper;
        let all = [
            (NoHits, "no-hits", Scope::Moment),
            (UnknownFilter { hit: 3, cookie: Cookie(9) }, "unknown-filter", Scope::Moment),
            (UnknownConnection { filter, connection: 4 }, "unknown-connection", Scope::Moment),
            (NoTerminal { filter }, "no-terminal", Scope::Packet),
            (TooLong { filter, hits: 20, limit: 16 }, "too-long", Scope::Way),
            (Broken { filter }, "broken", Scope::Moment),
            (Undecoded { filter, what: what.clone() }, "undecoded", Scope::Way),
            (Action { filter, action: action.clone(), why }, "action", Scope::Way),
            (Unfit { filter, action, why }, "unfit", Scope::Packet),
            (Hardware { filter, why: why.into() }, "hardware", Scope::Moment),
            (Impossible { filter, field }, "impossible", Scope::Packet),
            (Hidden { filter, field, why }, "hidden", Scope::Packet),
            (Stale { filter, shadow }, "stale", Scope::Moment),
            (Behind { filter, shadow }, "behind", Scope::Moment),
            (AtEgress { filter }, "at-egress", Scope::Moment),
            (ShadowUndecoded { filter, shadow, what }, "shadow-undecoded", Scope::Packet),
            (ShadowHidden { filter, shadow, field, why }, "shadow-hidden", Scope::Packet),
            (Unordered { filter, other }, "unordered", Scope::Packet),
            (NoConnection { filter }, "no-connection", Scope::Packet),
            (NotQualified { filter, why: gate }, "not-qualified", Scope::Moment),
            (ChangesConnection { filter, field }, "changes-connection", Scope::Moment),
            (Excluded { filter, field }, "excluded", Scope::Packet),
            (Changed { filter, what: Otherwise::Field(field) }, "changed", Scope::Moment),
            (EgressFilters { filter, port: Port(7) }, "egress-filters", Scope::Packet),
            (Forks { filter, port: Port(7) }, "forks", Scope::Packet),
            (TooMany { filter, limit: 64 }, "too-many", Scope::Moment),
            (Leaving { filter }, "leaving", Scope::Moment),
            (Policy { filter, why }, "policy", Scope::Moment),
        ];
        let mut seen = std::collections::HashSet::new();
        for (refusal, reason, scope) in all {
            assert_eq!((refusal.reason(), refusal.scope()), (reason, scope));
            assert!(seen.insert(reason), "{reason} twice");
            let text = refusal.to_string();
            let of_no_filter = matches!(refusal, NoHits | UnknownFilter { .. });
            assert_eq!(text.contains(&filter.to_string()), !of_no_filter, "{text}");
            let in_front = reason.starts_with("shadow-") || reason == "unordered";
            assert_eq!(refusal.shadow(), in_front.then_some(shadow), "{text}");
        }
    }

    #[test]
    fn what_is_otherwise_is_told() {
        let filter = id(1);
        let told = |what| Refusal::Changed { filter, what }.to_string();
        assert!(
            told(Otherwise::Field(Field::IpTtl)).contains("the packet's ip_ttl"),
            "{}",
            told(Otherwise::Field(Field::IpTtl))
        );
        assert!(told(Otherwise::Connection).contains("connection"), "{}", told(Otherwise::Connection));
    }
}
