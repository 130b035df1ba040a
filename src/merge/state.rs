//! The packet in mid-walk, symbolically: what each field holds, and what that asks of the arrived packet.
//!
//! What actions do to the fields is in `tags` (headers that `vlan` takes off and puts on), `labels` (`mpls`) and `rewrite` (what stays in
//! its place).

use super::{
    asked::Asked,
    bits,
    need::Needs,
    program::Builder,
    refusal::Refusal,
    seen::Seen,
    shadow::Shadow,
    structure,
    symbol::{Param, Source, Value},
    template::{Condition, Is},
};
use crate::flower::{
    Field, FilterId, Key, Port, Range,
    action::{CsumFlags, Skbedit, TunnelKey},
    ethertype,
    tunnel::Tunnel,
};
use smallvec::SmallVec;
use std::cell::Cell;

mod labels;
mod rewrite;
mod tags;

/// Fields that a tag on or off moves. All others lie behind the tags, or before them.
const TAGS: [Field; 10] = [
    Field::Protocol,
    Field::NumOfVlans,
    Field::VlanTpid,
    Field::VlanId,
    Field::VlanPrio,
    Field::VlanEthType,
    Field::CvlanTpid,
    Field::CvlanId,
    Field::CvlanPrio,
    Field::CvlanEthType,
];

const TWO_TAGS: &str =
    "after a tag was pushed on a tagged packet, the kernel's dissector looks for the inner headers in the wrong place";
const PARTLY_ADDED: &str = "pedit add changed more of it than one whole byte";

/// Whether the field is of headers behind the tags.
fn lies_behind_tags(field: Field) -> bool {
    !TAGS.contains(&field)
        && !matches!(field, Field::EthDst | Field::EthSrc | Field::Indev | Field::Hash | Field::L2Miss)
        && !field.is_conntrack()
        && !field.is_tunnel()
}

/// What a field is compared with.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    /// A constant.
    Known(u128),
    /// A parameter.
    Param(Param),
}

/// What fields hold. Few hold anything but what the packet brought.
struct Values {
    /// Which of `set` is a field's, counted from 1; 0 if it holds what it held at first.
    at: [u8; Field::COUNT],
    set: SmallVec<[Value; 12]>,
    port: Port,
}

const _: () = assert!(Field::COUNT <= 128, "a bit for every field, and less than 256 places");

impl Values {
    fn new(port: Port) -> Values {
        Values { at: [0; Field::COUNT], set: SmallVec::new(), port }
    }

    fn get(&self, field: Field) -> Value {
        match self.at[field as usize] {
            0 => Value::at_first(field, self.port),
            at => self.set[usize::from(at) - 1],
        }
    }

    fn set(&mut self, field: Field, value: Value) {
        match self.at[field as usize] {
            0 => {
                self.set.push(value);
                self.at[field as usize] = self.set.len() as u8;
            }
            at => self.set[usize::from(at) - 1] = value,
        }
    }
}

/// The state of the fold.
pub struct State<'a> {
    arrived: &'a Key,
    values: Values,
    /// Checksums that `pedit` left stale: conntrack takes such packets for invalid.
    pub stale: CsumFlags,
    /// How many tags that the packet arrived with were popped.
    arrived_pops: i64,
    /// For each pushed tag: the tag fields before, and whether headers behind the tags were hidden before.
    pushed: Vec<([Value; TAGS.len()], bool)>,
    /// Whether the dissector misses what is behind the tags, and whether it did at the last hit.
    skewed: bool,
    skewed_seen: bool,
    /// The fields, as bits, that may hold something else than at the last hit.
    unseen: u128,
    port: Port,
    /// What the labels that were pushed hide, the outermost last.
    hidden: Vec<labels::Hidden>,
    /// How many labels more the packet has than it arrived with.
    labels_more: i64,
    /// Whether the Ethernet header is off.
    pub bare: bool,
    /// The outer ethertype, and the one behind it, before the network header could no longer be found by them.
    network_before: Option<[Value; 2]>,
    /// What all this asks of the arrived packet.
    pub template: Asked,
    /// What it asks that masks cannot express: of this, some bits of the packet make sure in the end.
    asks: Vec<Needs>,
    /// The fields of the arrived packet, as bits, whose values decided about more than what is asked for.
    pub looked_at: Cell<u128>,
    /// What was asked for because software must go on seeing the other packets.
    pub excluded: SmallVec<[(Field, u128); 4]>,
    /// Where an ethertype of the arrived packet must not be a tag's.
    pub untagged: Vec<(FilterId, Field)>,
    /// What must not be of a packet, for an action to do to it what it did to this one.
    pub shadows: Vec<Shadow>,
    /// What was done.
    pub program: Builder,
}

impl<'a> State<'a> {
    /// The packet as it arrived.
    pub fn new(port: Port, arrived: &'a Key) -> State<'a> {
        State {
            arrived,
            values: Values::new(port),
            stale: CsumFlags::empty(),
            arrived_pops: 0,
            pushed: Vec::new(),
            skewed: false,
            skewed_seen: false,
            unseen: 0,
            port,
            hidden: Vec::new(),
            labels_more: 0,
            bare: false,
            network_before: None,
            template: Asked::default(),
            asks: Vec::new(),
            looked_at: Cell::new(0),
            excluded: SmallVec::new(),
            untagged: Vec::new(),
            shadows: Vec::new(),
            program: Builder::default(),
        }
    }

    /// The packet as it arrived.
    pub fn arrived(&self) -> &'a Key {
        self.arrived
    }

    /// What the field holds now, as flower would see it.
    pub fn view(&self, field: Field) -> Value {
        match self.skewed && (lies_behind_tags(field) || TAGS[6..].contains(&field) || field == Field::NumOfVlans) {
            true => Value::hidden(TWO_TAGS, field),
            false => self.held(field),
        }
    }

    /// What the field holds now, also where flower would not see it.
    fn held(&self, field: Field) -> Value {
        self.values.get(field)
    }

    /// Sets what the field holds.
    pub fn set(&mut self, field: Field, value: Value) {
        self.values.set(field, value);
        self.unseen |= 1 << field as u8;
    }

    /// Notes what the next hit sees, where that may be something else than what the one before saw.
    pub fn see(&mut self, seen: &mut Seen) {
        let changed = std::mem::take(&mut self.unseen);
        let mut changed = if self.skewed == self.skewed_seen { changed } else { u128::MAX };
        self.skewed_seen = self.skewed;
        while let Some(&field) = Field::ALL.get(changed.trailing_zeros() as usize) {
            changed &= changed - 1;
            seen.change(self.port, field, self.view(field));
        }
        seen.hit();
    }

    /// Asks that `field & mask` be what is wanted, at this point of the walk.
    pub fn require(&mut self, filter: FilterId, field: Field, mask: u128, want: Want) -> Result<(), Refusal> {
        self.require_of(self.view(field), filter, field, mask, want)
    }

    /// The same, of a value that the field holds or has held.
    fn require_of(
        &mut self,
        value: Value,
        filter: FilterId,
        field: Field,
        mask: u128,
        want: Want,
    ) -> Result<(), Refusal> {
        let impossible = Refusal::Impossible { filter, field };
        let (kept, fixed) = (mask & value.kept, mask & !value.kept);
        let bits = |param, mask, value| Condition::Holds(Is::Bits { param, mask, value: value & mask });
        let conditions = &mut self.template.conditions;
        match want {
            Want::Known(known) if (known ^ value.flip) & fixed != 0 => return Err(impossible),
            Want::Param(param) if fixed != 0 => conditions.push(bits(param, fixed, value.flip)),
            _ => {}
        }
        if kept == 0 {
            return Ok(());
        }
        let possible = match (value.source, want) {
            (Source::Hidden(why), _) => return Err(Refusal::Hidden { filter, field, why }),
            (Source::Arrived(from), Want::Known(known)) => {
                self.template.require(from, kept, (known ^ value.flip) & kept)
            }
            (Source::Arrived(from), Want::Param(param)) => {
                self.template.require_param(from, kept, param, value.flip & kept);
                true
            }
            (Source::Param(param), Want::Known(known)) => {
                conditions.push(bits(param, kept, known ^ value.flip));
                true
            }
            (Source::Param(a), Want::Param(b)) => {
                conditions.push(Condition::Same { a, b, mask: kept, flip: value.flip & kept });
                true
            }
            (Source::Sum(field, add), Want::Known(known)) => {
                self.ask(Needs::Sum { field, add, mask: kept, value: (known ^ value.flip) & kept })
            }
            (Source::Sum(..), Want::Param(_)) => {
                return Err(Refusal::Hidden { filter, field, why: PARTLY_ADDED });
            }
        };
        if possible { Ok(()) } else { Err(impossible) }
    }

    /// Asks that `field & mask == value`, as software must go on seeing the others.
    pub fn exclude(&mut self, filter: FilterId, field: Field, mask: u128, value: u128) -> Result<(), Refusal> {
        self.excluded.push((field, mask));
        let excluded = Refusal::Excluded { filter, field };
        let meets = (self.of_packet(self.view(field)) ^ value) & mask == 0;
        match self.require(filter, field, mask, Want::Known(value)) {
            Err(Refusal::Impossible { .. }) => Err(excluded),
            Ok(()) if !meets => Err(excluded),
            done => done,
        }
    }

    /// Asks that a port be within a range.
    pub fn require_range(&mut self, filter: FilterId, field: Field, range: Range) -> Result<(), Refusal> {
        let value = self.view(field);
        let (kept, flip) = (value.kept as u16, value.flip as u16);
        let possible = match value.source {
            _ if kept == 0 => range.contains(flip),
            Source::Arrived(from) if (kept, flip) == (u16::MAX, 0) => self.template.require_range(from, range),
            Source::Arrived(field) => self.ask(Needs::Range { field, kept, flip, range }),
            Source::Param(param) => {
                let is = Is::Within { param, kept, flip, range };
                self.template.conditions.push(Condition::Holds(is));
                true
            }
            Source::Sum(..) => range.contains(self.decide(filter, field)? as u16),
            Source::Hidden(why) => return Err(Refusal::Hidden { filter, field, why }),
        };
        if possible { Ok(()) } else { Err(Refusal::Impossible { filter, field }) }
    }

    /// Asks for what masks cannot express. False if this packet is not like that.
    fn ask(&mut self, need: Needs) -> bool {
        self.asks.push(need);
        need.field().into_iter().for_each(|field| self.look_at(field));
        need.field().is_some_and(|field| need.granted(self.arrived.get(field), field.ones()))
    }

    /// Asks for bits of the packet that make sure of what masks cannot express, as few as it takes beside those asked for.
    pub fn settle_asks(&mut self) {
        for need in std::mem::take(&mut self.asks) {
            let Some(field) = need.field() else { continue };
            let (now, asked) = (self.arrived.get(field), self.template.known.mask.get(field));
            let mask = bits::fewest(field.row().bits.into(), asked, |mask| need.granted(now, mask));
            self.template.require(field, mask, now & mask);
        }
    }

    /// The field's value for this packet; what it depends on of the arrived packet is asked for.
    pub fn decide(&mut self, filter: FilterId, field: Field) -> Result<u128, Refusal> {
        self.decide_of(self.view(field), filter, field)
    }

    fn decide_of(&mut self, value: Value, filter: FilterId, field: Field) -> Result<u128, Refusal> {
        let now = self.now(value);
        self.require_of(value, filter, field, field.ones(), Want::Known(now))?;
        Ok(now)
    }

    /// Whether the packet has a tag now. Of one that has none only that is asked.
    pub fn tagged(&mut self, filter: FilterId) -> Result<bool, Refusal> {
        let value = self.view(Field::Protocol);
        let tagged = ethertype::is_vlan(self.now(value) as u16);
        match value.source {
            Source::Arrived(from) if value == Value::arrived(from) && !tagged => {
                self.untagged.push((filter, from));
                Ok(false)
            }
            _ => Ok(ethertype::is_vlan(self.decide(filter, Field::Protocol)? as u16)),
        }
    }

    /// The ethertype that the network header has, where `pedit` and `ct` find it: behind the outer tag only.
    pub fn network(&mut self, filter: FilterId) -> Result<u16, Refusal> {
        let outer_two = || [Field::Protocol, Field::VlanEthType].map(|f| self.view(f));
        let [outer, behind] = self.network_before.unwrap_or_else(outer_two);
        let mut ethertype = self.decide_of(outer, filter, Field::Protocol)? as u16;
        if ethertype::is_vlan(ethertype) {
            ethertype = self.decide_of(behind, filter, Field::VlanEthType)? as u16;
        }
        Ok(ethertype)
    }

    /// Runs a `skbedit` action. To inherit the priority it reads the IP header, and drops a packet that has not all of it.
    pub fn edit(&mut self, filter: FilterId, edit: Skbedit) -> Result<(), Refusal> {
        let network = if edit.inherit_dsfield { self.network(filter)? } else { 0 };
        if ethertype::is_vlan(network) {
            let why = "the kernel looks behind a second tag in the wrong place";
            return Err(Refusal::unfit(filter, "skbedit", why));
        }
        let ip = matches!(network, ethertype::IPV4 | ethertype::IPV6);
        // What is asked already may tell that it is whole, also where it cannot be read any more.
        let asked = structure::follows(&self.template.known);
        let is_whole = asked.is_some_and(|asked| asked.key.get(Field::AddrType) != 0);
        if ip && !is_whole && self.decide(filter, Field::AddrType)? == 0 {
            let why = "it drops a packet whose IP header is cut off";
            return Err(Refusal::unfit(filter, "skbedit", why));
        }
        self.program.edit(edit);
        Ok(())
    }

    /// Runs a `tunnel_key` action.
    pub fn tunnel(&mut self, key: &TunnelKey) {
        let tunnel: Option<&Tunnel> = match key {
            TunnelKey::Set(tunnel) => Some(tunnel),
            TunnelKey::Unset => None,
        };
        let told = Tunnel::tell(tunnel, Key::ZERO);
        Field::TUNNEL.into_iter().for_each(|field| self.set(field, Value::known(told.get(field))));
        self.program.tunnel(key.clone());
    }

    /// What a value is for this packet, 0 where that depends on a connection or cannot be told.
    fn now(&self, value: Value) -> u128 {
        if let Source::Arrived(from) | Source::Sum(from, _) = value.source
            && value.kept != 0
        {
            self.look_at(from);
        }
        self.of_packet(value)
    }

    fn look_at(&self, field: Field) {
        self.looked_at.set(self.looked_at.get() | 1 << field as u8);
    }

    /// The same, where no more hangs on it than what is asked for.
    fn of_packet(&self, value: Value) -> u128 {
        let source = match value.source {
            Source::Arrived(from) => self.arrived.get(from),
            Source::Sum(from, add) => (self.arrived.get(from) as u8).wrapping_add(add) as u128,
            Source::Param(_) | Source::Hidden(_) => 0,
        };
        source & value.kept ^ value.flip
    }

    /// Refuses what the kernel does in the wrong place, or not at all, after a tag was pushed on a tagged packet: it takes
    /// the inner tag's ethertype for that of the IP header, which the network offset still points at.
    pub fn must_read_ip(&self, filter: FilterId, action: &str) -> Result<(), Refusal> {
        let why = "after a tag was pushed on a tagged packet, the kernel does not find the IP header for it";
        if self.skewed { Err(Refusal::unfit(filter, action, why)) } else { Ok(()) }
    }
}
