//! Packets for a pipeline: aimed at its filters, chain by chain, exactly or one bit beside; whole, in fragments, padded,
//! broken.

use super::{
    dice::Dice,
    spec::{Fault, Spec, ip},
    universe::Universe,
};
use crate::case::{self, Case};
use flowmerge::{
    flower::{Action, Control, Field, Filter, Hook, Match, Port, ethertype as et, field::ip_flags},
    packet::dissect::is_vlan,
};

/// The frames of one new packet: one, or if that may be its fragments.
pub fn fresh(dice: &mut Dice, universe: &Universe, case: &Case, may_be_cut: bool) -> (Port, Vec<Vec<u8>>) {
    let spec = aimed(dice, universe, case);
    (spec.port, frames(dice, spec, may_be_cut))
}

/// A packet's frames.
pub fn frames(dice: &mut Dice, mut spec: Spec, may_be_cut: bool) -> Vec<Vec<u8>> {
    // As few cases permit it, those get more.
    if is_ip(&spec) && may_be_cut && dice.percent(8) {
        spec.payload.resize(spec.payload.len() + dice.between(8, 60), 0x66);
        spec.key.set(Field::IpFlags, 0);
        let mut pieces = spec.fragments(8 * dice.between(1, 4));
        match dice.below(5) {
            0 => dice.shuffle(&mut pieces),
            1 => drop(pieces.remove(dice.below(pieces.len()))),
            2 => pieces.push(pieces[0].clone()),
            _ => {}
        }
        return pieces;
    }
    vec![spec.frame()]
}

/// A packet that some filter matches, or just not.
fn aimed(dice: &mut Dice, universe: &Universe, case: &Case) -> Spec {
    let port = where_in(dice, case);
    let mut spec = blank(dice, universe, port);
    let hook = match case.shared.iter().find(|(p, _)| *p == port) {
        Some(&(_, block)) => Hook::Block(block),
        None => Hook::Ingress(port),
    };
    let mut aims = Vec::new();
    let mut chain = Some(0);
    while let Some(at) = chain.filter(|_| aims.len() < 6 && dice.percent(90)) {
        let here: Vec<&Filter> = case.filters.iter().filter(|f| f.id.hook == hook && f.id.chain == at).collect();
        if here.is_empty() {
            break;
        }
        let filter = *dice.pick(&here);
        chain = goes_to(filter);
        aims.push(&filter.matches);
    }
    // What the first filter asks for counts most: it comes last.
    for m in aims.iter().rev() {
        meet(&mut spec, dice, m);
    }
    if !aims.is_empty() && dice.percent(35) {
        let m = *dice.pick(&aims);
        miss(&mut spec, dice, m);
    }
    settle(&mut spec);
    dress(&mut spec, dice);
    spec
}

/// Packets for a filter: so many that it matches; for each of its comparisons one that differs in a bit of that; one that is as
/// each of the `others` would have it, save for what this one compares; and one for each thing that conntrack, or software at
/// all, may judge a packet by.
pub fn near(
    dice: &mut Dice,
    universe: &Universe,
    port: Port,
    m: &Match,
    others: &[&Match],
    inside: usize,
) -> Vec<Vec<u8>> {
    let bits = compared(m).into_iter().map(|(field, mask)| Change::Bit(field, one_of(dice, mask)));
    let edges = m.ranges().flat_map(|(field, range)| {
        [range.min.wrapping_sub(1), range.max.wrapping_add(1)].map(|value| Change::To(field, value))
    });
    let bits: Vec<_> = bits.collect();
    let likes = others.iter().map(|other| Change::Like(other));
    let none = (0..inside).map(|_| Change::None);
    let changes: Vec<Change> = bits.into_iter().chain(edges).chain(likes).chain(JUDGED).chain(none).collect();
    let mut frame = |change: Change| {
        let mut spec = blank(dice, universe, port);
        if let Change::Like(other) = change {
            meet(&mut spec, dice, other);
        }
        meet(&mut spec, dice, m);
        if !change.is_of(&spec) {
            return None;
        }
        change.of_fields(&mut spec);
        settle(&mut spec);
        dress(&mut spec, dice);
        change.of_the_rest(&mut spec);
        Some(spec.frame())
    };
    changes.into_iter().filter_map(&mut frame).collect()
}

fn is_ip(spec: &Spec) -> bool {
    matches!(spec.key.get(Field::EthType) as u16, et::IPV4 | et::IPV6)
}

/// How a packet differs from others that a filter matches.
#[derive(Clone, Copy)]
enum Change<'a> {
    None,
    /// What a filter does not compare is as this would have it.
    Like(&'a Match),
    Bit(Field, u128),
    To(Field, u16),
    Fault(Fault),
    /// Bytes behind the datagram.
    Padding(usize),
    /// A TCP sequence number that is out of any window.
    FarOff,
}

const JUDGED: [Change; 12] = [
    // What opens and closes a connection, and what belongs to none.
    Change::To(Field::TcpFlags, 0x02),
    Change::To(Field::TcpFlags, 0x11),
    Change::To(Field::TcpFlags, 0x14),
    Change::To(Field::TcpFlags, 0x00),
    Change::Bit(Field::IpFlags, ip_flags::FRAG),
    Change::Bit(Field::IpFlags, ip_flags::FIRST),
    Change::Fault(Fault::Checksum),
    Change::Fault(Fault::IpChecksum),
    Change::Fault(Fault::NoChecksum),
    Change::Fault(Fault::Length(7)),
    Change::Padding(9),
    Change::FarOff,
];

impl Change<'_> {
    /// Whether a packet like this has what is to be changed.
    fn is_of(self, spec: &Spec) -> bool {
        match self {
            Change::To(Field::TcpFlags, _) | Change::FarOff => {
                is_ip(spec) && spec.key.get(Field::IpProto) as u8 == ip::TCP
            }
            Change::Bit(Field::IpFlags, _) | Change::Fault(_) => is_ip(spec),
            _ => true,
        }
    }

    fn of_fields(self, spec: &mut Spec) {
        match self {
            // A first fragment is one.
            Change::Bit(Field::IpFlags, ip_flags::FIRST) => {
                let flags = spec.key.get(Field::IpFlags) ^ ip_flags::FIRST;
                spec.key.set(Field::IpFlags, flags | ip_flags::FRAG);
            }
            Change::Bit(field, bit) => spec.key.set(field, spec.key.get(field) ^ bit),
            Change::To(field, value) => spec.key.set(field, value.into()),
            _ => {}
        }
    }

    fn of_the_rest(self, spec: &mut Spec) {
        match self {
            Change::Fault(fault) => spec.fault = Some(fault),
            Change::Padding(bytes) => spec.padding = bytes,
            Change::FarOff => spec.seq = spec.seq.wrapping_add(1 << 30),
            _ => {}
        }
    }
}

/// The fields that a filter compares and a packet can be changed in, with their masks.
fn compared(m: &Match) -> Vec<(Field, u128)> {
    let is_of_bytes = |f: Field| !f.is_conntrack() && !f.is_tunnel() && !matches!(f, Field::AddrType | Field::Indev);
    let terms = m.terms().filter(|(f, ..)| is_of_bytes(*f));
    terms.map(|(field, _, mask)| (field, mask)).collect()
}

fn one_of(dice: &mut Dice, mask: u128) -> u128 {
    let bits: Vec<u32> = (0..128).filter(|bit| mask >> bit & 1 != 0).collect();
    1 << dice.pick(&bits)
}

/// A port, mostly one with filters.
fn where_in(dice: &mut Dice, case: &Case) -> Port {
    let ports: Vec<Port> = case::ports().collect();
    if case.filters.is_empty() || dice.percent(5) {
        return *dice.pick(&ports);
    }
    let hook = dice.pick(&case.filters).id.hook;
    match hook {
        Hook::Ingress(port) => port,
        Hook::Egress(_) => *dice.pick(&ports),
        Hook::Block(block) => {
            let bound: Vec<Port> = case.shared.iter().filter(|(_, b)| *b == block).map(|&(p, _)| p).collect();
            if bound.is_empty() { ports[0] } else { *dice.pick(&bound) }
        }
    }
}

fn goes_to(filter: &Filter) -> Option<u32> {
    filter.actions.iter().find_map(|a: &Action| match a.control {
        Control::Goto(chain) => Some(chain),
        _ => None,
    })
}

/// A packet of the case's values.
pub fn blank(dice: &mut Dice, universe: &Universe, port: Port) -> Spec {
    let mut spec = Spec::new(port);
    for &field in Field::ALL {
        spec.key.set(field, universe.value(dice, field));
    }
    let labelled = dice.percent(universe.labelled_share);
    let ethertype = match dice.below(100) {
        _ if labelled => *dice.pick(&[et::MPLS, et::MPLS, et::MPLS_MC]),
        0..90 if dice.percent(universe.v6_share) => et::IPV6,
        0..90 => et::IPV4,
        90..95 => et::ARP,
        _ => 0x1234,
    };
    spec.key.set(Field::EthType, ethertype.into());
    let tags = match dice.percent(universe.tagged_share) {
        true => dice.between(1, 2),
        false => 0,
    };
    for field in [Field::VlanTpid, Field::CvlanTpid].into_iter().skip(tags) {
        spec.key.set(field, 0);
    }
    // A stack of labels, mostly with a bottom where it ends.
    let labels = *dice.pick(&[1, 1, 2, 3, 0, 7, 8, 9]);
    for (at, [present, _, _, bos, _]) in Field::MPLS.into_iter().enumerate() {
        spec.key.set(present, u128::from(at < labels));
        let is_bottom = at + 1 == labels;
        if dice.percent(90) {
            spec.key.set(bos, is_bottom.into());
        }
    }
    spec.deeper = labels.saturating_sub(Field::MPLS.len());
    spec.carried = *dice.pick(&[et::IPV4, et::IPV4, et::IPV6, 0]);
    if !dice.percent(universe.session_share) {
        spec.key.set(Field::PppProto, 0);
    }
    spec.key.set(Field::IpFlags, 0);
    spec.key.set(Field::VlanEthType, 0);
    spec.key.set(Field::CvlanEthType, 0);
    let opening = dice.percent(60) && spec.key.get(Field::IpProto) as u8 == ip::TCP;
    if opening {
        spec.key.set(Field::TcpFlags, 2);
    }
    spec.seq = if dice.percent(5) { u32::MAX - dice.below(3) as u32 } else { 1000 * dice.below(4) as u32 };
    spec.ack = if opening { 0 } else { 1000 * dice.below(4) as u32 };
    spec.window = *dice.pick(&[8192, 8192, 65535, 0, 64]);
    spec
}

/// Makes it a packet that this matches, as far as fields go.
fn meet(spec: &mut Spec, dice: &mut Dice, m: &Match) {
    for (field, value, mask) in m.terms().filter(|(f, ..)| !f.is_conntrack()) {
        spec.key.set(field, spec.key.get(field) & !mask | value);
    }
    let is_untagged = m.mask.get(Field::NumOfVlans) != 0 && m.key.get(Field::NumOfVlans) == 0;
    for field in [Field::VlanTpid, Field::CvlanTpid] {
        // A filter of untagged packets says so by its ethertype alone, or by the number of tags.
        if m.mask.get(field) == 0 && (is_untagged || m.mask.get(Field::Protocol) != 0) {
            spec.key.set(field, 0);
        }
    }
    if m.mask.get(Field::EthType) == 0 && m.mask.get(Field::Protocol) != 0 && m.mask.get(Field::VlanTpid) == 0 {
        spec.key.set(Field::EthType, m.key.get(Field::Protocol));
    }
    let says = |field, value: u16| m.mask.get(field) != 0 && m.key.get(field) == value.into();
    let in_session = [Field::Protocol, Field::VlanEthType, Field::CvlanEthType].iter().any(|&f| says(f, et::PPPOE));
    match in_session || m.mask.get(Field::PppProto) != 0 {
        true if spec.key.get(Field::PppProto) == 0 => spec.key.set(Field::PppProto, 0x21),
        false if m.mask.get(Field::Protocol) != 0 => spec.key.set(Field::PppProto, 0),
        _ => {}
    }
    for (field, range) in m.ranges() {
        let inside = dice.between(range.min.into(), range.max.into()) as u16;
        let port = *dice.pick(&[range.min, range.max, inside]);
        spec.key.set(field, port.into());
    }
}

/// Makes it a packet that just does not match.
fn miss(spec: &mut Spec, dice: &mut Dice, m: &Match) {
    let terms = compared(m);
    let ranges: Vec<_> = m.ranges().collect();
    if !ranges.is_empty() && dice.percent(50) {
        let (field, range) = *dice.pick(&ranges);
        let beside = if dice.percent(50) { range.min.wrapping_sub(1) } else { range.max.wrapping_add(1) };
        return Change::To(field, beside).of_fields(spec);
    }
    if terms.is_empty() {
        return;
    }
    let (field, mask) = *dice.pick(&terms);
    Change::Bit(field, one_of(dice, mask)).of_fields(spec);
}

/// Puts right what fields say of each other.
fn settle(spec: &mut Spec) {
    let tagged = |spec: &Spec, field| is_vlan(spec.key.get(field) as u16);
    for field in [Field::VlanTpid, Field::CvlanTpid] {
        if !tagged(spec, field) {
            spec.key.set(field, 0);
        }
    }
    if spec.key.get(Field::VlanTpid) == 0 {
        spec.key.set(Field::CvlanTpid, 0);
    }
    match spec.key.get(Field::PppProto) {
        0 => {}
        0x21 => spec.key.set(Field::EthType, et::IPV4.into()),
        0x57 => spec.key.set(Field::EthType, et::IPV6.into()),
        0x281 => spec.key.set(Field::EthType, et::MPLS.into()),
        0x283 => spec.key.set(Field::EthType, et::MPLS_MC.into()),
        _ => spec.key.set(Field::EthType, et::PPPOE.into()),
    }
    // An entry that is there has those above it, none of them the bottom.
    let present = |spec: &Spec, at: usize| spec.key.get(Field::MPLS[at][0]) != 0;
    if let Some(deepest) = (0..Field::MPLS.len()).rfind(|&at| present(spec, at)) {
        let gap = (0..deepest).find(|&at| !present(spec, at)).unwrap_or(deepest);
        for [is_there, _, _, bos, _] in &Field::MPLS[gap.saturating_sub(1)..deepest] {
            if gap < deepest {
                spec.key.set(*is_there, 1);
                spec.key.set(*bos, 0);
            }
        }
    }
    let v6 = spec.key.get(Field::EthType) as u16 == et::IPV6;
    match spec.key.get(Field::IpProto) as u8 {
        ip::ICMP if v6 => spec.key.set(Field::IpProto, ip::ICMPV6.into()),
        ip::ICMPV6 if !v6 => spec.key.set(Field::IpProto, ip::ICMP.into()),
        _ => {}
    }
}

/// What no field says: payload, options, padding, faults.
pub fn dress(spec: &mut Spec, dice: &mut Dice) {
    let length = match dice.below(20) {
        0..8 => 0,
        8..18 => dice.between(1, 40),
        18 => dice.between(41, 200),
        _ => dice.between(1000, 1440),
    };
    spec.payload = match spec.key.get(Field::IpProto) as u8 {
        ip::SCTP if dice.percent(85) => chunk(*dice.pick(&[1, 1, 0, 2, 3, 6, 7, 10, 14]), dice),
        _ => (0..length).map(|i| i as u8).collect(),
    };
    spec.id = dice.number() as u16;
    if dice.percent(4) {
        spec.ip_options = 4 * dice.between(1, 3);
    }
    if dice.percent(6) {
        spec.extensions = (0..dice.between(1, 2)).map(|_| *dice.pick(&[0, 60, 43, 60, 51])).collect();
    }
    if dice.percent(10) {
        spec.options = vec![2, 4, 5, 0xb4, 4, 2, 1, 1, 3, 3, dice.below(15) as u8, 1];
    }
    spec.padding = match dice.below(10) {
        0..6 => 60usize.saturating_sub(spec.frame().len()),
        6 => dice.between(1, 30),
        _ => 0,
    };
    if dice.percent(6) {
        spec.fault = Some(match dice.below(6) {
            0 => Fault::IpChecksum,
            1 | 2 => Fault::Checksum,
            3 => Fault::NoChecksum,
            4 => Fault::Length(dice.between(1, 20) as u16),
            // Of IPv4 options that are cut off, the kernel's `csum` sums up what happens to stand there.
            _ if spec.ip_options > 0 => Fault::IpChecksum,
            // What is left of a session might be no session.
            _ if spec.key.get(Field::PppProto) != 0 => Fault::Checksum,
            _ => Fault::Cut(dice.between(1, 60)),
        });
    }
}

/// An SCTP chunk.
pub fn chunk(kind: u8, dice: &mut Dice) -> Vec<u8> {
    let mut chunk = vec![kind, 0, 0, 20];
    chunk.extend((1 + dice.below(3) as u32).to_be_bytes());
    chunk.resize(20, 0);
    chunk
}
