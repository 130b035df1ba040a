//! What a run has come to: a field that no filter hit compares, or an action that none has, is a field or an action of which the
//! random part says nothing.

use flowmerge::{
    flower::{Action, Field, Filter, FilterId},
    netlink::Message,
};
use flowmerge_cli::replay::{
    engine::Run,
    timeline::{Timeline, What},
};
use std::collections::{BTreeMap, BTreeSet};

/// Fields of which no packet of the random part decides anything, and why.
const UNTRIED: &[(Field, &str)] = &[
    (Field::Hash, "nobody knows a packet's hash but the kernel"),
    (Field::EncSrcPort, "tunnel_key has none, and there are no tunnel devices"),
    (Field::EncFlags, "of later kernels"),
    (Field::EncOpts2, "the random part has no options as long as this"),
    (Field::EncOpts3, "likewise"),
    (Field::L2Miss, "of later kernels"),
    (Field::CfmLevel, "of later kernels"),
    (Field::CfmOpcode, "of later kernels"),
    (Field::Spi, "of later kernels"),
];

/// Actions that must be hit.
const ACTIONS: &[&str] = &[
    "gact",
    "mirred",
    "ct",
    "pedit",
    "csum",
    "vlan pop",
    "vlan push",
    "vlan modify",
    "vlan pop_eth",
    "vlan push_eth",
    "skbedit",
    "skbmod set",
    "skbmod swap",
    "skbmod ecn",
    "mpls pop",
    "mpls push",
    "mpls mac_push",
    "mpls modify",
    "mpls dec_ttl",
    "tunnel_key set",
    "tunnel_key unset",
    "nat",
    "police",
    "sample",
];

/// Fields and actions of filters that were hit, by name.
#[derive(Clone, Debug, Default)]
pub struct Coverage(BTreeSet<&'static str>);

impl Coverage {
    /// Of the filters hit in a run.
    pub fn of(timeline: &Timeline, run: &Run) -> Coverage {
        let told = timeline.steps.iter().filter_map(|step| match &step.what {
            What::Told(envelope) => Some(envelope),
            _ => None,
        });
        // A filter that takes the place of another is the one that counts from then on; here, as good as the other.
        let mut filters: BTreeMap<FilterId, &Filter> = BTreeMap::new();
        for envelope in timeline.start.iter().chain(told) {
            if let Message::Filter(told) = &envelope.message {
                filters.insert(told.filter.id, &told.filter);
            }
        }
        let hits = run.received.iter().flat_map(|received| &received.hits).filter_map(|id| filters.get(id));
        let mut coverage = Coverage::default();
        for filter in hits {
            let terms = filter.matches.terms().map(|(field, ..)| field);
            let ranges = filter.matches.ranges().map(|(field, _)| field);
            coverage.0.extend(terms.chain(ranges).map(|field| stands_for(field).name()));
            let forms = filter.actions.iter().map(Action::form);
            coverage.0.extend(ACTIONS.iter().filter(|&&name| forms.clone().any(|form| form == name)));
        }
        coverage
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Coverage) {
        self.0.extend(&other.0);
    }

    /// What is lacking.
    pub fn lacking(&self) -> Vec<&'static str> {
        let untried = |field: &Field| UNTRIED.iter().any(|(untried, _)| untried == field);
        let fields = Field::ALL.iter().filter(|field| !untried(field) && stands_for(**field) == **field);
        let fields = fields.map(|field| field.name());
        fields.chain(ACTIONS.iter().copied()).filter(|name| !self.0.contains(name)).collect()
    }
}

/// The fourth entry of the label stack stands for those below it, which are rare.
fn stands_for(field: Field) -> Field {
    let deep = Field::MPLS[4..].iter().find_map(|entry| entry.iter().position(|&f| f == field));
    deep.map_or(field, |part| Field::MPLS[3][part])
}
