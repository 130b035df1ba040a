//! A packet through filters: by the model, and what the merge makes of it.

use crate::samples::{Sample, connection};
use flowmerge::{
    conntrack::{Connection, ConnectionId},
    flower::{
        Capabilities, Cookie, Field, Filter, FilterId, Hook, Key, Match, Port, Tunnel, action, filter::PROTOCOL_ALL,
    },
    hardware::{Entry, Memory},
    merge::Refusal,
    merger::{ConnectionEvent, Merger},
    netlink::{self, Names},
    packet,
    table::Inserted,
    walk::{Found, Hit, Walk},
};
use merge_model::{
    Arrival, Model, Outcome, PortState, Verdict,
    conntrack::{Conntrack, EntryId, Info, Shown, Tracked},
};

/// Where packets come in; they leave by the next.
pub const IN: Port = Port(1);
pub const OUT: Port = Port(2);

/// Devices are called `p1`, `p2`.
pub struct Ports;

impl Names for Ports {
    fn index(&self, name: &str) -> Option<u32> {
        name.strip_prefix('p')?.parse().ok()
    }
    fn name(&self, index: u32) -> Option<String> {
        Some(format!("p{index}"))
    }
}

/// Conntrack with one connection, to which every packet belongs.
struct One(Connection);

impl Conntrack for One {
    fn track(&mut self, zone: u16, _: &Shown) -> Tracked {
        let info = if self.0.seen_reply { Info::Established } else { Info::New };
        if zone == self.0.zone { Tracked::Entry(EntryId(0), info) } else { Tracked::Invalid }
    }
    fn connection(&self, _: EntryId) -> &Connection {
        &self.0
    }
    fn is_confirmed(&self, _: EntryId) -> bool {
        self.0.seen_reply
    }
    fn translate(&mut self, _: EntryId, _: &action::Nat) {}
    fn commit(&mut self, entry: EntryId, _: Option<(u32, u32)>, _: Option<(u128, u128)>) -> Option<EntryId> {
        Some(entry)
    }
    fn kill(&mut self, _: EntryId) {}
}

/// The key of a packet as it comes in.
pub fn key(sample: &Sample) -> Key {
    Tunnel::tell(sample.tunnel.as_ref(), packet::arrived(&sample.frame)).with(Field::Indev, IN.0.into())
}

/// A filter of a chain, with the protocol that its match asks for.
pub fn filter(chain: u32, prio: u16, matches: Match, actions: Vec<flowmerge::flower::Action>) -> Filter {
    let protocol = match matches.mask.get(Field::Protocol) {
        0 => PROTOCOL_ALL,
        _ => matches.key.get(Field::Protocol) as u16,
    };
    let id = FilterId { hook: Hook::Ingress(IN), chain, prio, protocol, handle: 1 };
    Filter::flower(id, matches, actions)
}

/// What the model does with a packet.
pub fn model(filters: &[Filter], sample: &Sample, begun: bool) -> Outcome {
    let mut model = Model::new();
    for port in [IN, OUT] {
        model.set_port(port, PortState { up: true, mtu: 1500 });
    }
    filters.iter().for_each(|filter| model.filters.replace(filter.clone()));
    let arrival = Arrival { port: IN, frame: &sample.frame, tunnel: sample.tunnel.as_ref(), now: 1 };
    model.arrive(arrival, &mut One(connection(begun)))
}

/// Why the model cannot tell.
pub fn undecidable(outcome: &Outcome) -> Option<String> {
    match &outcome.verdict {
        Verdict::Undecidable { why, .. } => Some(why.clone()),
        _ => None,
    }
}

/// What a walk is merged into for a table that can do so much, or why it is not.
pub fn merge(filters: &[Filter], outcome: &Outcome, begun: bool, table: Capabilities) -> Result<Entry, String> {
    let mut merger = Merger::new(Memory::new(table));
    for (filter, cookie) in filters.iter().zip(1..) {
        merger.replace(Cookie(cookie), filter.clone(), Inserted::Observed).expect("memory removes");
    }
    if !begun {
        merger.connection(ConnectionEvent::Is(ConnectionId(0), connection(false))).expect("memory removes");
    }
    let cookie = |id| Cookie(filters.iter().position(|f| f.id == id).map_or(0, |i| i as u64 + 1));
    let found = |f: &Option<merge_model::Found>| {
        let f = f.filter(|f| f.confirmed)?;
        Some(Found { connection: ConnectionId(f.entry.0), direction: f.direction })
    };
    let own = outcome.hits.iter().filter(|h| h.branch == 0);
    let mut hits: Vec<Hit> =
        own.map(|hit| Hit { filter: cookie(hit.filter), found: hit.found.iter().map(found).collect() }).collect();
    if hits.is_empty() {
        // What the model leaves open is for the merge to say.
        hits.push(Hit { filter: Cookie(1), found: Vec::new() });
    }
    merger.walk(Walk { port: IN, key: outcome.key, hits }).expect("there is room");
    let (_, merged) = merger.drain(0).walks.pop().expect("one walk was handed in");
    let merged = merged.map_err(|refusal| worded(&refusal, filters))?;
    let hardware = merger.hardware();
    assert!(hardware.lookup(IN, &outcome.key) == Some(merged.id), "what was merged does not match its packet");
    Ok(hardware.entry(merged.id).expect("installed").clone())
}

/// Whether TC can be told of a merged filter in front of the others.
pub fn told_in_front(entry: &Entry) -> Result<(), String> {
    let told = Filter::in_front(Hook::Ingress(IN), IN, 1, entry.matches, entry.actions.clone()).map_err(|field| {
        format!("in front of filters of other protocols the filter's own is `all`, and that leaves {field} untold")
    })?;
    netlink::encode_front(&told, &Ports).map(drop).map_err(|e| e.to_string())
}

/// A refusal in its own words, but for the names of filters, of which there are no others.
fn worded(refusal: &Refusal, filters: &[Filter]) -> String {
    let mut text = refusal.to_string();
    if let Refusal::Hardware { why, .. } = refusal {
        text = why.split_once(" not installed: ").map_or(why.as_str(), |(_, why)| why).to_owned();
    }
    for filter in filters {
        text = text.replace(&format!("{}: ", filter.id), "").replace(&filter.id.to_string(), "the filter");
    }
    text
}

/// What a filter must compare besides, so that flower takes the tags and the type behind them of a packet like this.
pub fn stack(key: &Key) -> Vec<Field> {
    use Field::*;
    let fields = [Protocol, VlanTpid, VlanEthType, CvlanTpid, CvlanEthType, EthType];
    fields.into_iter().filter(|&field| key.get(field) != 0).collect()
}
