//! The packet in mid-walk, symbolically: what each field holds, and what that asks of the arrived packet.

use super::{
    bits,
    need::Needs,
    program::{self, Builder},
    refusal::Refusal,
    structure,
    symbol::{Param, Source, Value},
    template::{Condition, Is, Template},
};
use crate::flower::{
    Field, FilterId, Key, Port, Range,
    action::{CsumFlags, Pedit, PeditHeader, PeditKey, Skbedit, Vlan},
    ethertype,
    field::{Header, ip_flags},
};

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
const THIRD_TAG: &str = "it is that of a third VLAN tag, which the arrived packet's key does not hold";
const PARTLY_ADDED: &str = "pedit add changed more of it than one whole byte";

/// What a field is compared with.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    /// A constant.
    Known(u128),
    /// A parameter.
    Param(Param),
}

/// The state of the fold.
pub struct State<'a> {
    arrived: &'a Key,
    values: [Value; Field::COUNT],
    /// Checksums that `pedit` left stale: conntrack takes such packets for invalid.
    pub stale: CsumFlags,
    /// How many tags that the packet arrived with were popped.
    arrived_pops: i64,
    /// For each pushed tag: the tag fields before, and whether headers behind the tags were hidden before.
    pushed: Vec<([Value; TAGS.len()], bool)>,
    /// Whether the dissector misses what is behind the tags.
    skewed: bool,
    /// The outer ethertype, and the one behind it, before the network header could no longer be found by them.
    network_before: Option<[Value; 2]>,
    /// What all this asks of the arrived packet.
    pub template: Template,
    /// What it asks that masks cannot express: of this, some bits of the packet make sure in the end.
    asks: Vec<Needs>,
    /// What was asked for because software must go on seeing the other packets.
    pub excluded: Vec<(Field, u128)>,
    /// Where an ethertype of the arrived packet must not be a tag's.
    pub untagged: Vec<(FilterId, Field)>,
    /// What was done.
    pub program: Builder,
}

impl<'a> State<'a> {
    /// The packet as it arrived.
    pub fn new(port: Port, arrived: &'a Key) -> State<'a> {
        let mut values: [Value; Field::COUNT] = std::array::from_fn(|i| Value::arrived(Field::ALL[i]));
        for &field in Field::ALL.iter().filter(|f| f.is_conntrack()) {
            values[field as usize] = Value::known(0);
        }
        values[Field::Indev as usize] = Value::known(port.0 as u128);
        State {
            arrived,
            values,
            stale: CsumFlags::empty(),
            arrived_pops: 0,
            pushed: Vec::new(),
            skewed: false,
            network_before: None,
            template: Template::default(),
            asks: Vec::new(),
            excluded: Vec::new(),
            untagged: Vec::new(),
            program: Builder::default(),
        }
    }

    /// The packet as it arrived.
    pub fn arrived(&self) -> &'a Key {
        self.arrived
    }

    /// What the field holds now, as flower would see it.
    pub fn view(&self, field: Field) -> Value {
        if !self.skewed {
            return self.values[field as usize];
        }
        let behind_tags = !TAGS[..6].contains(&field)
            && !matches!(field, Field::EthDst | Field::EthSrc | Field::Indev | Field::Hash)
            && !field.is_conntrack()
            && !field.name().starts_with("enc_");
        if behind_tags || field == Field::NumOfVlans {
            Value::hidden(TWO_TAGS, field)
        } else {
            self.values[field as usize]
        }
    }

    /// Sets what the field holds.
    pub fn set(&mut self, field: Field, value: Value) {
        self.values[field as usize] = value;
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
        let meets = (self.now(self.view(field)) ^ value) & mask == 0;
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
        let ip = edit.inherit_dsfield && matches!(self.network(filter)?, ethertype::IPV4 | ethertype::IPV6);
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

    /// By how many bytes the packet would count longer if it arrived again as it is now. TC counts from the network header on,
    /// so a tag pushed on another one, which goes into the bytes before that header, counts nothing; but an arrived inner
    /// tag counts until pops make it the outer one, which the kernel keeps beside the bytes.
    pub fn longer(&mut self, filter: FilterId) -> Result<i64, Refusal> {
        if self.arrived_pops == 0 {
            return Ok(0);
        }
        let tagged = match self.pushed.first() {
            // Asked for when the tag went on.
            Some((before, _)) => ethertype::is_vlan(self.now(before[0]) as u16),
            None => self.tagged(filter)?,
        };
        Ok(-4 * (self.arrived_pops - i64::from(!tagged)))
    }

    /// What a value is for this packet, 0 where that depends on a connection or cannot be told.
    fn now(&self, value: Value) -> u128 {
        let source = match value.source {
            Source::Arrived(from) => self.arrived.get(from),
            Source::Sum(from, add) => (self.arrived.get(from) as u8).wrapping_add(add) as u128,
            Source::Param(_) | Source::Hidden(_) => 0,
        };
        source & value.kept ^ value.flip
    }

    /// Runs a `vlan` action.
    pub fn vlan(&mut self, filter: FilterId, vlan: Vlan) -> Result<(), Refusal> {
        let tagged = self.tagged(filter)?;
        match vlan {
            Vlan::Pop if !tagged => {}
            Vlan::Pop => {
                self.program.pop();
                self.pop();
            }
            Vlan::Push { protocol, id, prio } => {
                if tagged && self.network_before.is_none() {
                    self.network_before = Some([Field::Protocol, Field::VlanEthType].map(|f| self.view(f)));
                }
                self.program.push(protocol, id, prio);
                self.push(tagged, protocol, id, prio);
            }
            Vlan::Modify { .. } if !tagged => {}
            Vlan::Modify { protocol, id, prio } => {
                self.program.modify(protocol, id, prio);
                self.set(Field::Protocol, Value::known(protocol as u128));
                self.set(Field::VlanTpid, Value::known(protocol as u128));
                self.set(Field::VlanId, Value::known(id as u128));
                if let Some(prio) = prio {
                    self.set(Field::VlanPrio, Value::known(prio as u128));
                }
            }
            Vlan::PopEthernet | Vlan::PushEthernet { .. } => {
                let why = "the Ethernet header comes off or on";
                return Err(Refusal::action(filter, "vlan", why));
            }
        }
        Ok(())
    }

    fn push(&mut self, tagged: bool, protocol: u16, id: u16, prio: u8) {
        let before = TAGS.map(|f| self.values[f as usize]);
        self.pushed.push((before, self.skewed));
        let [outer, number, ..] = before;
        self.skewed |= tagged;
        for (field, value) in [
            (Field::Protocol, Value::known(protocol as u128)),
            (Field::NumOfVlans, number.plus(1)),
            (Field::VlanTpid, Value::known(protocol as u128)),
            (Field::VlanId, Value::known(id as u128)),
            (Field::VlanPrio, Value::known(prio as u128)),
            (Field::VlanEthType, outer),
            (Field::CvlanTpid, Value::known(0)),
            (Field::CvlanId, Value::known(0)),
            (Field::CvlanPrio, Value::known(0)),
            (Field::CvlanEthType, Value::known(0)),
        ] {
            self.set(field, value);
        }
    }

    fn pop(&mut self) {
        if let Some((before, skewed)) = self.pushed.pop() {
            for (field, value) in std::iter::zip(TAGS, before) {
                self.set(field, value);
            }
            self.skewed = skewed;
            if !skewed {
                self.network_before = None;
            }
            return;
        }
        self.arrived_pops += 1;
        // An arrived tag: what was behind it moves out. An absent inner tag reads 0 before and after.
        let [_, number, _, _, _, behind, tpid, id, prio, inner] = TAGS.map(|f| self.values[f as usize]);
        let last = behind_is_last(&self.template);
        let third = |field| {
            if last { Value::known(0) } else { Value::hidden(THIRD_TAG, field) }
        };
        for (field, value) in [
            (Field::Protocol, behind),
            (Field::NumOfVlans, number.plus(255)),
            (Field::VlanTpid, tpid),
            (Field::VlanId, id),
            (Field::VlanPrio, prio),
            (Field::VlanEthType, inner),
            (Field::CvlanTpid, third(Field::CvlanTpid)),
            (Field::CvlanId, third(Field::CvlanId)),
            (Field::CvlanPrio, third(Field::CvlanPrio)),
            (Field::CvlanEthType, third(Field::CvlanEthType)),
        ] {
            self.set(field, value);
        }
    }

    /// Refuses what the kernel does in the wrong place, or not at all, after a tag was pushed on a tagged packet: it takes
    /// the inner tag's ethertype for that of the IP header, which the network offset still points at.
    pub fn must_read_ip(&self, filter: FilterId, action: &str) -> Result<(), Refusal> {
        let why = "after a tag was pushed on a tagged packet, the kernel does not find the IP header for it";
        if self.skewed { Err(Refusal::unfit(filter, action, why)) } else { Ok(()) }
    }

    /// Runs a `csum` action.
    pub fn checksum(&mut self, filter: FilterId, flags: CsumFlags) -> Result<(), Refusal> {
        self.must_read_ip(filter, "csum")?;
        self.program.checksum(flags);
        self.stale -= flags;
        Ok(())
    }

    /// Runs a `pedit` action.
    pub fn pedit(&mut self, filter: FilterId, pedit: &Pedit) -> Result<(), Refusal> {
        for key in &pedit.keys {
            self.rewrite(filter, key, pedit.mend)?;
        }
        Ok(())
    }

    fn rewrite(&mut self, filter: FilterId, key: &PeditKey, mend: bool) -> Result<(), Refusal> {
        let refuse = |why| Err(Refusal::unfit(filter, "pedit", why));
        if key.dynamic.is_some() {
            let why = "it takes an offset from the packet";
            return Err(Refusal::action(filter, "pedit", why));
        }
        let header = match key.header {
            PeditHeader::Ethernet => Header::Ethernet,
            PeditHeader::Network | PeditHeader::Ipv4 | PeditHeader::Ipv6 => match self.network(filter)? {
                ethertype::IPV4 => Header::Ipv4,
                ethertype::IPV6 => Header::Ipv6,
                _ => return refuse("it writes to the network header of a packet that is not IP"),
            },
            PeditHeader::Tcp | PeditHeader::Udp => {
                self.must_read_ip(filter, "pedit")?;
                let (number, header) = match key.header {
                    PeditHeader::Tcp => (6, Header::Tcp),
                    _ => (17, Header::Udp),
                };
                if !matches!(self.network(filter)?, ethertype::IPV4 | ethertype::IPV6) {
                    return refuse("it writes to a transport header of a packet that is not IP");
                }
                if self.decide(filter, Field::IpProto)? != number {
                    return refuse("it writes to a transport header that the packet does not have");
                }
                // Fragments have no transport header, or one that flower does not see.
                self.exclude(filter, Field::IpFlags, ip_flags::FRAG, 0)?;
                header
            }
        };
        let written: Vec<usize> = (0..4).filter(|&i| key.mask[i] != 0xff || key.value[i] != 0).collect();
        let length = match header {
            Header::Ethernet => 12,
            Header::Ipv4 | Header::Tcp => 20,
            Header::Ipv6 => 40,
            _ => 8,
        };
        if written.iter().any(|&i| key.offset + (i as i32) < 0 || key.offset + i as i32 >= length)
            || key.offset % 4 != 0
        {
            return refuse("it writes outside of the fixed part of a header");
        }
        let shapes = |byte: i32| match header {
            Header::Ipv4 => matches!(byte, 0 | 2 | 3 | 6 | 7 | 9),
            Header::Ipv6 => matches!(byte, 4..=6),
            _ => false,
        };
        let version =
            header == Header::Ipv6 && key.offset == 0 && (key.mask[0] & 0xf0 != 0xf0 || key.value[0] & 0xf0 != 0);
        if version || written.iter().any(|&i| shapes(key.offset + i as i32)) {
            return refuse("it rewrites what decides how the packet is read (version, lengths, fragments, protocol)");
        }
        for &field in Field::ALL {
            for &place in field.row().places.iter().filter(|p| p.header == header) {
                let before = self.values[field as usize];
                let after = match key.add {
                    false => program::write(before, key, field, place),
                    true => added(before, key, field, place.bit, &written),
                };
                self.set(field, after);
            }
        }
        let header = program::pedit_header(header).expect("only headers that pedit names");
        let key = PeditKey { header, ..*key };
        if !mend {
            self.stale |= program::left_stale(&key);
        }
        self.program.rewrite(key, mend);
        Ok(())
    }
}

/// Whether the ethertype behind the arrived packet's outer tag is asked to be no tag's: then there is no second one.
fn behind_is_last(template: &Template) -> bool {
    let known = &template.known;
    [Field::VlanEthType, Field::CvlanEthType]
        .into_iter()
        .any(|f| known.mask.get(f) == f.ones() && known.key.get(f) != 0 && !ethertype::is_vlan(known.key.get(f) as u16))
}

/// A field after an addition to the raw little-endian word: told exactly where it is one whole byte that nothing carries into.
fn added(before: Value, key: &PeditKey, field: Field, bit: u16, written: &[usize]) -> Value {
    let byte = |i: usize| (key.offset + i as i32) * 8;
    let (from, to) = (bit as i32, bit as i32 + field.row().bits as i32);
    let touched: Vec<usize> =
        written.iter().copied().filter(|&i| key.mask[i] != 0xff && byte(i) < to && byte(i) + 8 > from).collect();
    match touched[..] {
        [] => before,
        [i] if key.mask[i] == 0 && (byte(i), byte(i) + 8) == (from, to) && key.value[..i].iter().all(|&v| v == 0) => {
            before.plus(key.value[i])
        }
        _ => Value::hidden(PARTLY_ADDED, field),
    }
}
