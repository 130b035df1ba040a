//! Wide: whatever one bit of a merged match is freed, some packet comes in that must not.
//!
//! For each unit of the match a *witness* is looked for: a packet that matches but for that unit, and that is excluded, goes
//! another way, comes out other than the merged filter's actions would have it, or has other headers. The search begins with
//! the packet at hand, the unit changed; then gives it what the filters of the pipeline ask for in fields that the match
//! leaves free; then tries at random.
//!
//! A unit is one bit; for fields that name a header, all the bits asked of the field. Fields that are the prerequisite of
//! another one asked for are exempt, as flower wants them.

use crate::{
    packet::{Flaw, Fragment, HSR, L3, Outer, Packet},
    world::{Made, Way, World, decided, excluded},
};
use flowmerge::{
    flower::{Field, Filter, Match},
    packet::apply::apply_through,
};
use merge_model::{Arrival, Model};
use std::fmt;

/// How many random packets are tried for a unit.
const TRIES: usize = 200;

/// Fields whose bits say nothing one by one.
const NAMES: [Field; 9] = [
    Field::Protocol,
    Field::EthType,
    Field::VlanTpid,
    Field::VlanEthType,
    Field::CvlanTpid,
    Field::CvlanEthType,
    Field::AddrType,
    Field::NumOfVlans,
    Field::EncAddrType,
];

/// A part of a match that could be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    Bits(Field, u128),
    /// The ports below a range.
    Below(Field),
    /// The ports above it.
    Above(Field),
}

impl Unit {
    pub fn field(self) -> Field {
        match self {
            Unit::Bits(field, _) | Unit::Below(field) | Unit::Above(field) => field,
        }
    }

    /// The match without it.
    fn free(self, matches: &Match) -> Match {
        let mut m = *matches;
        match self {
            Unit::Bits(field, bits) => {
                m.mask.set(field, m.mask.get(field) & !bits);
                m.key.set(field, m.key.get(field) & !bits);
            }
            Unit::Below(field) => m.range_mut(field).iter_mut().for_each(|r| r.min = 0),
            Unit::Above(field) => m.range_mut(field).iter_mut().for_each(|r| r.max = u16::MAX),
        }
        m
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unit::Bits(field, bits) => write!(f, "{field} {bits:#x}"),
            Unit::Below(field) => write!(f, "{field} below its range"),
            Unit::Above(field) => write!(f, "{field} above its range"),
        }
    }
}

/// The fields that flower wants asked for before this one, and before those.
fn prerequisites(field: Field) -> Vec<Field> {
    std::iter::successors(field.row().prerequisite, |f| f.row().prerequisite).collect()
}

/// The units of a match.
pub fn units(m: &Match) -> Vec<Unit> {
    let ranged = |field| m.ranges().any(|r| r.0 == field);
    let asked = |field: Field| m.mask.get(field) != 0 || ranged(field);
    let exempt = |field| Field::ALL.iter().any(|&f| asked(f) && prerequisites(f).contains(&field));
    let mut out = Vec::new();
    for (field, mask) in m.mask.fields().filter(|&(f, _)| !exempt(f)) {
        match NAMES.contains(&field) {
            true => out.push(Unit::Bits(field, mask)),
            false => out.extend((0..128).filter(|b| mask >> b & 1 == 1).map(|b| Unit::Bits(field, 1 << b))),
        }
    }
    for (field, range) in m.ranges() {
        out.extend((range.min > 0).then_some(Unit::Below(field)));
        out.extend((range.max < u16::MAX).then_some(Unit::Above(field)));
    }
    out
}

/// Why a unit may be without a witness.
pub fn explained(unit: Unit, m: &Match) -> Option<&'static str> {
    let fragment = m.key.get(Field::IpFlags) != 0;
    let follows = unit.field() == Field::EthType && fragment;
    if unit == Unit::Bits(Field::EncOpts0, 1 << 96) {
        return Some("the length of an option, which flower compares along");
    }
    follows.then_some("of a fragment the ethertype follows from the protocol: nothing is read behind it")
}

/// Why a packet must not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// Software must go on seeing it.
    Excluded,
    /// It takes another way.
    Way,
    /// Other frames leave.
    Frames,
    /// It has other headers.
    Shape,
}

/// The search for the witnesses of one merged filter.
pub struct Search<'a> {
    world: &'a World,
    made: &'a Made,
    model: Model,
    filters: Vec<&'a Filter>,
    random: u64,
}

impl<'a> Search<'a> {
    pub fn new(world: &'a World, made: &'a Made) -> Search<'a> {
        let filters = world.filters.iter().map(|(rule, _)| &rule.filter).collect();
        let random = made.entry.id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Search { world, made, model: world.model.clone(), filters, random }
    }

    /// A witness for a unit.
    pub fn witness(&mut self, unit: Unit) -> Option<(Proof, Packet)> {
        let freed = unit.free(&self.made.entry.matches);
        let mut base = self.made.packet.flawless();
        base.pad = 0;
        let changed = self.changed(&base, unit);
        let mut shaped = None;
        let mut try_this = |search: &mut Self, packet: &Packet| match search.prove(&freed, packet) {
            // The last resort: everything else is the same.
            Some(Proof::Shape) => {
                shaped.get_or_insert_with(|| packet.clone());
                None
            }
            proof => proof.map(|proof| (proof, packet.clone())),
        };
        for packet in &changed {
            if let Some(found) = try_this(self, packet) {
                return Some(found);
            }
        }
        for filter in self.filters.clone() {
            for packet in changed.iter().take(8) {
                for more in [0, 1, 2, 255] {
                    let mut packet = packet.clone();
                    suit(&mut packet, filter, &freed, more);
                    if let Some(found) = try_this(self, &packet) {
                        return Some(found);
                    }
                    self.flip(&mut packet, unit);
                    if let Some(found) = try_this(self, &packet) {
                        return Some(found);
                    }
                    if !filter.matches.terms().any(|t| t.0 == Field::IpTtl) {
                        break;
                    }
                }
            }
        }
        for _ in 0..if changed.is_empty() { 0 } else { TRIES } {
            let packet = self.any(&changed, &freed, unit);
            if let Some(found) = try_this(self, &packet) {
                return Some(found);
            }
        }
        shaped.map(|packet| (Proof::Shape, packet))
    }

    /// Whether the packet matches but for what was freed, and why it should not.
    fn prove(&mut self, freed: &Match, packet: &Packet) -> Option<Proof> {
        let mut key = packet.key();
        let Made { entry, way, .. } = self.made;
        if packet.fragment == Fragment::First {
            // Much hardware shows the ports and flags of a first fragment, which flower does not.
            let whole = Packet { fragment: Fragment::None, ..packet.clone() };
            key = whole.key().with(Field::IpFlags, key.get(Field::IpFlags));
        }
        if !freed.fits(&key) || entry.matches.fits(&key) {
            return None;
        }
        if excluded(way, &key) {
            return Some(Proof::Excluded);
        }
        let frame = packet.frame(false);
        let mut tracker = self.world.tracker.clone();
        let tunnel = packet.tunnel.map(Outer::tunnel);
        let arrival = Arrival { port: packet.port, frame: &frame, tunnel: tunnel.as_ref(), now: 1 };
        let outcome = self.model.arrive(arrival, &mut tracker);
        let went = Way::of(packet.port, &outcome);
        if went.steps != way.steps || !decided(&outcome) {
            return Some(Proof::Way);
        }
        let applied = apply_through(&entry.actions, entry.trim, &frame, tunnel.as_ref()).expect("installed");
        let got: Vec<_> = applied.sent.into_iter().map(|s| (s.port, s.ingress, s.frame, s.tunnel)).collect();
        if got != self.world.sent(&outcome) {
            return Some(Proof::Frames);
        }
        (went.shape != way.shape).then_some(Proof::Shape)
    }

    /// The packet with the unit changed, in every manner that there is.
    fn changed(&self, base: &Packet, unit: Unit) -> Vec<Packet> {
        let key = base.key();
        let mut out = Vec::new();
        let mut set = |field: Field, value: u128| {
            let mut packet = base.clone();
            if packet.set(field, value) {
                out.push(packet.clone());
            }
            // What a fragment does not show, others do.
            if base.fragment != Fragment::None && field != Field::IpFlags {
                packet.fragment = Fragment::None;
                out.push(packet);
            }
        };
        match unit {
            Unit::Bits(field, bits) => {
                set(field, key.get(field) ^ bits);
                if field == Field::IpFlags {
                    [0, 1, 3].into_iter().for_each(|flags| set(field, flags));
                }
                if field == Field::IpProto {
                    [1, 6, 17, 58, 132, 47].into_iter().for_each(|number| set(field, number));
                }
                if field == Field::EncOptsLen {
                    set(field, 16);
                }
                if NAMES.contains(&field) || field == Field::IpProto || Field::MPLS.iter().any(|e| e[0] == field) {
                    out.extend(shapes(base));
                }
            }
            Unit::Below(field) | Unit::Above(field) => {
                let range = self.made.entry.matches.ranges().find(|r| r.0 == field).map(|r| r.1);
                let range = range.expect("a unit of the match");
                let ends = match unit {
                    Unit::Below(_) => [range.min - 1, 0, range.min / 2],
                    _ => [range.max + 1, u16::MAX, range.max / 2 + u16::MAX / 2],
                };
                ends.into_iter().for_each(|port| set(field, port.into()));
            }
        }
        out
    }

    /// Changes the unit's bits to the opposite of what the match asks for.
    fn flip(&self, packet: &mut Packet, unit: Unit) {
        if let Unit::Bits(field, bits) = unit {
            let now = packet.key().get(field) & !bits;
            packet.set(field, now | !self.made.entry.matches.key.get(field) & bits);
        }
    }

    fn next(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) as usize % below.max(1)
    }

    /// Something that may match: what some filters ask for, in some order.
    fn any(&mut self, changed: &[Packet], freed: &Match, unit: Unit) -> Packet {
        let mut packet = changed[self.next(changed.len())].clone();
        for _ in 0..1 + self.next(3) {
            let which = self.next(self.filters.len());
            let filter = self.filters[which];
            let more = [0, 0, 1, 2, 255][self.next(5)];
            suit(&mut packet, filter, freed, more);
        }
        if self.next(4) == 0 {
            let shapes = shapes(&packet);
            let fit: Vec<_> = shapes.into_iter().filter(|p| freed.fits(&p.key())).collect();
            if !fit.is_empty() {
                packet = fit[self.next(fit.len())].clone();
            }
        }
        if self.next(3) == 0 {
            let (field, value) = (Field::ALL[self.next(Field::COUNT)], self.next(usize::MAX) as u128);
            give(&mut packet, freed, field, value, field.ones());
        }
        if self.next(2) == 0 {
            self.flip(&mut packet, unit);
        }
        packet
    }
}

/// A packet that two merged filters match, made of one's packet and what the other asks for.
pub fn in_both(one: &Made, other: &Made) -> Option<Packet> {
    let (asked, wanted) = (&one.entry.matches, &other.entry.matches);
    let shapes = [shapes(&one.packet), shapes(&other.packet)].concat();
    shapes.into_iter().find_map(|mut packet| {
        packet.port = one.packet.port;
        for (field, value, mask) in asked.terms().chain(wanted.terms()).filter(|t| !NAMES.contains(&t.0)) {
            give(&mut packet, &Match::default(), field, value, mask);
        }
        for (field, range) in asked.ranges().chain(wanted.ranges()) {
            let port = (packet.key().get(field) as u16).clamp(range.min, range.max);
            give(&mut packet, &Match::default(), field, port.into(), 0xffff);
        }
        let key = packet.key();
        (asked.fits(&key) && wanted.fits(&key)).then_some(packet)
    })
}

/// Sets bits of a field that the match leaves free.
fn give(packet: &mut Packet, freed: &Match, field: Field, value: u128, mask: u128) {
    let now = packet.key().get(field);
    let mask = mask & !freed.mask.get(field);
    packet.set(field, now & !mask | value & mask);
}

/// Gives the packet what a filter asks for, in what the match leaves free; of a time to live so much more.
fn suit(packet: &mut Packet, filter: &Filter, freed: &Match, more: u8) {
    let settable = |f: Field| !f.is_conntrack() && !NAMES.contains(&f) && f != Field::Indev;
    for (field, value, mask) in filter.matches.terms().filter(|t| settable(t.0)) {
        let value = match field {
            Field::IpTtl => u128::from((value as u8).wrapping_add(more)),
            _ => value,
        };
        give(packet, freed, field, value, mask);
    }
    for (field, range) in filter.matches.ranges() {
        let asked = freed.ranges().find(|r| r.0 == field).map(|r| r.1);
        let (low, high) = asked.map_or((0, u16::MAX), |r| (r.min, r.max));
        let port = range.min.clamp(low, high.max(low));
        give(packet, freed, field, port.into(), 0xffff);
    }
}

/// The same packet with other headers: tags on and off, and other ethertypes.
fn shapes(base: &Packet) -> Vec<Packet> {
    let mut out = Vec::new();
    let tag = |i: usize, tpid| (tpid, base.tags.get(i).map_or(10, |t| t.1));
    let tpid = |i: usize| base.tags.get(i).map_or(0x8100, |t| t.0);
    for l3 in [base.l3, L3::V4, L3::V6, L3::Arp, L3::Other(0x88b5)] {
        for count in 0..4 {
            for swap in 0..4 {
                let other = |i: usize| if swap >> i & 1 == 1 { tpid(i) ^ 0x8100 ^ 0x88a8 } else { tpid(i) };
                let tags = (0..count).map(|i| tag(i, if i < 2 { other(i) } else { tpid(i) })).collect();
                out.push(Packet { tags, l3, ..base.clone() });
                if count == 0 {
                    break;
                }
            }
        }
    }
    // What is read on behind a tag of another kind; MPLS inside of IP; an IP header cut off.
    for i in 0..=base.tags.len() {
        let mut tags = base.tags.clone();
        tags.insert(i, (HSR, 0));
        out.push(Packet { tags, ..base.clone() });
    }
    // Labels in front, one more, one less; through a tunnel or not.
    let label = base.labels.first().copied().unwrap_or(0x1140);
    out.push(Packet { labels: [&[label & !0x100][..], &base.labels].concat(), ..base.clone() });
    out.push(Packet { labels: vec![label | 0x100], ..base.clone() });
    out.push(Packet { labels: Vec::new(), ..base.clone() });
    out.push(Packet { labels: base.labels.iter().skip(1).copied().collect(), ..base.clone() });
    out.push(Packet { tunnel: None, ..base.clone() });
    out.extend(
        [false, true]
            .map(|v6| Packet { tunnel: Some(Outer { v6, ..base.tunnel.unwrap_or(Outer::NONE) }), ..base.clone() }),
    );
    out.push(Packet { proto: 137, fragment: Fragment::None, ..base.clone() });
    let whole = base.frame(false).len();
    let l3 = 14 + 4 * (base.tags.len() + base.labels.len());
    let cuts = [14 + 4 * base.tags.len(), l3, l3 + 8, l3 + 20, l3 + 24].map(|left| whole.saturating_sub(left) as u8);
    out.extend(cuts.map(|n| Packet { flaw: Flaw::Cut(n), ..base.clone() }));
    out
}
