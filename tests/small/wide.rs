//! Wide: no unit of a merged filter to spare, and without shadows every packet of the way is matched.
//!
//! A unit is needed if freeing it lets in a packet that does not take the way or is excluded. Whether it is needed for the
//! header shape alone, which is part of a way, is counted apart. A unit that no packet of the universe misses by itself
//! cannot be judged. What a packet of the universe does not justify may be justified by one that differs from it in bits which
//! the universe has fixed (a filter that compares a high bit of a sum); so before a unit is blamed, such packets are tried.

use crate::{
    actions::IN,
    check::{Failure, is_excluded, takes},
    pipeline::Case,
    report::Stats,
    rng::Rng,
    truth::{Seen, Software, applied, told},
    unit::{Unit, sole, units},
    universe::{Part, Spec},
};
use flowmerge::{
    flower::{Action, ActionKind, Field, Filter, Key, Match},
    hardware::Entry,
    packet::{apply::apply, arrived},
};
use std::collections::BTreeMap;

/// How a unit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// Only packets that do the same are let in.
    None,
    /// Those that do the same with other headers: its way has another shape.
    Shape,
    /// Those that do not go the way.
    Way,
}

/// No unit can be freed.
pub fn each_bit_is_needed(
    case: &Case,
    entry: &Entry,
    from: &Seen,
    seen: &[Seen],
    software: &mut Software,
    stats: &mut Stats,
) -> Result<(), Failure> {
    let mut let_in: BTreeMap<Unit, Vec<&Seen>> = BTreeMap::new();
    for packet in seen {
        if let Some(unit) = sole(&entry.matches, &packet.key) {
            let_in.entry(unit).or_default().push(packet);
        }
    }
    for unit in units(&entry.matches) {
        if unit.is_exempt(&entry.matches) {
            stats.count("units exempt", 1);
            continue;
        }
        let Some(packets) = let_in.get(&unit) else {
            if is_implied(&entry.matches, unit, seen) {
                let text = format!("{unit} is not needed: no packet misses by it alone");
                return Err(Failure::of("implied", entry, from, &text));
            }
            stats.count("units out of the universe", 1);
            continue;
        };
        let need = packets.iter().map(|p| need(entry, from, p)).max();
        match need {
            Some(Need::Way) => stats.count("units needed", 1),
            _ if is_needed_outside(entry, from, unit, packets, software, case) => {
                stats.count("units needed for packets beside the universe", 1);
            }
            Some(Need::Shape) => {
                stats.count("units needed for the header shape alone", 1);
                stats.merged.add(format!("{} for its shape alone", unit.field()));
            }
            _ => {
                let text =
                    format!("{unit} is not needed: without it {} others match, as {}", packets.len(), told(packets[0]));
                return Err(Failure::of("wide", entry, from, &text));
            }
        }
    }
    Ok(())
}

/// Whether the rest of the match implies this bit of a field: packets that are matched, and have it the other way round, miss
/// by something else, too. False where packets cannot be made that way.
fn is_implied(of: &Match, unit: Unit, seen: &[Seen]) -> bool {
    let Unit::Bit(field, bit) = unit else { return false };
    let (part, bits) = match field {
        Field::IpTtl => (Part::Ttl, 8),
        Field::IpTos => (Part::Tos, 8),
        Field::SrcPort => (Part::SrcPort, 16),
        Field::DstPort => (Part::DstPort, 16),
        Field::Ipv4Src | Field::Ipv6Src => (Part::Src, 8),
        Field::Ipv4Dst | Field::Ipv6Dst => (Part::Dst, 8),
        Field::TcpFlags => (Part::Flags, 8),
        _ => return false,
    };
    let misses_alone = |spec: Spec| sole(of, &key_of(spec)) == Some(unit);
    let turned = |spec: Spec| misses_alone(spec.with(part, spec.get(part) ^ 1 << bit));
    let matched = || seen.iter().filter(|p| of.fits(&p.key)).map(|p| p.spec);
    if bit >= bits || matched().take(4).any(turned) {
        return false;
    }
    // A fragment, or what is not IP, shows no ports whose bits could be turned over.
    let whole = |s: Spec| [s, s.with(Part::Fragment, 0)];
    let ip = |s: Spec| [s, s.with(Part::EtherType, 0x800), s.with(Part::EtherType, 0x86dd)];
    let l4 = |s: Spec| [s, s.with(Part::Proto, 6), s.with(Part::Proto, 17)];
    let variants = |s: Spec| whole(s).into_iter().flat_map(ip).flat_map(l4).filter(|s| of.fits(&key_of(*s)));
    // Of a range, the ports that are matched need not be those with the bit turned over.
    let ranged = of.ranges().any(|(f, _)| f == field);
    let mut others = matched().take(if ranged { 2 } else { 0 }).flat_map(|s| (0..256).map(move |v| s.with(part, v)));
    !matched().take(16).flat_map(variants).any(turned) && !others.any(misses_alone)
}

/// How a packet arrives.
fn key_of(spec: Spec) -> Key {
    arrived(&spec.canonical().frame()).with(Field::Indev, IN.0.into())
}

/// How a first fragment with this packet's ports looks to hardware that reads them.
fn shown(spec: Spec) -> Key {
    let whole = key_of(spec.with(Part::Fragment, 0));
    let l4 = [Field::SrcPort, Field::DstPort, Field::TcpFlags];
    l4.iter().fold(key_of(spec.with(Part::Fragment, 1)), |key, &f| key.with(f, whole.get(f)))
}

fn need(entry: &Entry, from: &Seen, packet: &Seen) -> Need {
    let same = || {
        let done = apply(&entry.actions, entry.trim, &packet.frame).map(applied).ok();
        done == Some((packet.sent.clone(), packet.gone))
    };
    if !takes(packet, from) || is_excluded(packet, from) || packet.guessed || !same() {
        Need::Way
    } else if packet.shape != from.shape {
        Need::Shape
    } else {
        Need::None
    }
}

/// Whether packets beside the universe, which the match lets in without this unit, need it.
fn is_needed_outside(
    entry: &Entry,
    from: &Seen,
    unit: Unit,
    packets: &[&Seen],
    software: &mut Software,
    case: &Case,
) -> bool {
    let mut rng = Rng::new(case.seed ^ 0x51);
    let tried = |spec: Spec, software: &mut Software| {
        // A fragment shows no ports to flower. To much hardware the first one does, and a match must be right there, too.
        let first = spec.with(Part::Fragment, 1);
        let seen_so = spec.is_fragment() && sole(&entry.matches, &shown(spec)) == Some(unit);
        let spec = if seen_so { first } else { spec }.canonical();
        (seen_so || sole(&entry.matches, &key_of(spec)) == Some(unit))
            && need(entry, from, &software.see(spec)) == Need::Way
    };
    for packet in packets.iter().take(4) {
        for (part, values) in [(Part::Ttl, 256), (Part::Tos, 256), (Part::SrcPort, 256), (Part::DstPort, 256)] {
            if (0..values).any(|v| tried(packet.spec.with(part, v), software)) {
                return true;
            }
        }
    }
    (0..600).any(|_| {
        let mut spec = packets[rng.below(packets.len() as u32) as usize].spec;
        for _ in 0..1 + rng.below(2) {
            spec = toward(spec, &case.filters[rng.below(case.filters.len() as u32) as usize], &mut rng);
        }
        if rng.chance(40) {
            // What a rewrite flips.
            let part = rng.pick(&[Part::Ttl, Part::Tos, Part::Tos, Part::Src, Part::Dst, Part::SrcPort, Part::DstPort]);
            let bit = rng.below(if matches!(part, Part::Tos | Part::Ttl) { 8 } else { 3 });
            spec = spec.with(part, spec.get(part) ^ 1 << bit);
        }
        if rng.chance(30) {
            spec = spec.with(Part::Fragment, 0);
        }
        tried(spec, software)
    })
}

/// Sets some bits of a part.
fn set(spec: &mut Spec, part: Part, value: u32, mask: u32) {
    *spec = spec.with(part, spec.get(part) & !mask | value & mask);
}

fn is_vlan(ethertype: u32) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8)
}

/// Sets some bits of a tag, which is put on if it is not there; an ethertype becomes its bit.
fn tagged(spec: &mut Spec, shift: u32, value: u32, mask: u32) {
    let value = match value {
        0x8100 => 0,
        0x88a8 => 4,
        other => other,
    };
    let tags = spec.get(Part::Tags);
    // No tag without those in front of it.
    let tags = (0..shift / 8).fold(tags, |t, i| if t >> (i * 8) & 0xff == 0 { t | 1 << (i * 8) } else { t });
    let tag = (tags >> shift & 0xff).saturating_sub(1) & !mask | value & mask;
    *spec = spec.with(Part::Tags, tags & !(0xff << shift) | (tag + 1) << shift);
}

/// The packet, made more like what a filter asks for; a sum may stand between them.
fn toward(mut spec: Spec, filter: &Filter, rng: &mut Rng) -> Spec {
    for (field, value, mask) in filter.matches.terms() {
        let (value, mask) = (value as u32, mask as u32);
        match field {
            Field::EthDst => set(&mut spec, Part::Mac, value, mask & 1),
            Field::EthType => set(&mut spec, Part::EtherType, value, 0xffff),
            Field::Protocol | Field::VlanTpid if is_vlan(value) => tagged(&mut spec, 0, value, 4),
            Field::VlanEthType | Field::CvlanTpid if is_vlan(value) => tagged(&mut spec, 8, value, 4),
            Field::CvlanEthType if is_vlan(value) => tagged(&mut spec, 16, value, 4),
            Field::VlanId => tagged(&mut spec, 0, value, mask & 3),
            Field::CvlanId => tagged(&mut spec, 8, value, mask & 3),
            Field::VlanPrio => tagged(&mut spec, 0, value << 3, mask << 3 & 8),
            Field::CvlanPrio => tagged(&mut spec, 8, value << 3, mask << 3 & 8),
            Field::NumOfVlans => spec = spec.with(Part::Tags, 0x01_01_01 & ((1 << (value.min(3) * 8)) - 1)),
            Field::Protocol => spec = spec.with(Part::Tags, 0).with(Part::EtherType, value),
            Field::Ipv4Src | Field::Ipv6Src => set(&mut spec, Part::Src, value, mask & 0xff),
            Field::Ipv4Dst | Field::Ipv6Dst => set(&mut spec, Part::Dst, value, mask & 0xff),
            Field::IpTtl => {
                let before = value.wrapping_sub(rng.pick(&[0, 0, 255, 254, 253, 1, 2])) & 0xff;
                let more = rng.below(256) & !mask;
                spec = spec.with(Part::Ttl, before | if rng.chance(50) { more } else { spec.get(Part::Ttl) & !mask });
            }
            Field::IpTos => set(&mut spec, Part::Tos, value, mask),
            Field::IpProto => {
                let fits: Vec<u32> = [6, 17, 7, 16, 1].into_iter().filter(|p| (p ^ value) & mask == 0).collect();
                if !fits.is_empty() {
                    spec = spec.with(Part::Proto, rng.pick(&fits));
                }
            }
            Field::SrcPort => set(&mut spec, Part::SrcPort, value, mask),
            Field::DstPort => set(&mut spec, Part::DstPort, value, mask),
            Field::TcpFlags => set(&mut spec, Part::Flags, value, mask),
            Field::IpFlags => spec = spec.with(Part::Fragment, [0, 2, 1, 1][(value & 3) as usize]),
            _ => {}
        }
    }
    if rng.chance(15) && spec.get(Part::Tags) >> 8 & 0xff != 0 {
        // A third tag, which no field but their number tells.
        spec = spec.with(Part::Tags, spec.get(Part::Tags) | 0x01_00_00);
    }
    for (field, range) in filter.matches.ranges() {
        let part = if field == Field::SrcPort { Part::SrcPort } else { Part::DstPort };
        let near = rng.below(8).min(u32::from(range.max - range.min)) as u16;
        spec = spec.with(part, rng.pick(&[range.min + near, range.min, range.max - near, range.max]).into());
    }
    spec
}

/// Without shadows, every packet of the way and of its shape that is not excluded is matched.
pub fn whole_way(case: &Case, entry: &Entry, from: &Seen, seen: &[Seen], stats: &mut Stats) -> Result<(), Failure> {
    if !case.is_disjoint() || !sums_are_told(case) {
        return Ok(());
    }
    stats.count("merged filters whose whole way is matched", 1);
    let of_way = |p: &&Seen| takes(p, from) && p.shape == from.shape && !is_excluded(p, from);
    match seen.iter().filter(of_way).find(|p| !entry.matches.fits(&p.key)) {
        Some(left_out) => Err(Failure::of("whole-way", entry, from, &format!("it leaves out {}", told(left_out)))),
        None => Ok(()),
    }
}

/// Whether every sum is compared in bits that are a mask of what was added to: the lowest ones.
fn sums_are_told(case: &Case) -> bool {
    let adds = |a: &Action| matches!(&a.kind, ActionKind::Pedit(p) if p.keys.iter().any(|k| k.add));
    let low = |m: &Match| {
        let mask = m.mask.get(Field::IpTtl);
        mask & (mask + 1) == 0
    };
    !case.filters.iter().flat_map(|f| &f.actions).any(adds) || case.filters.iter().all(|f| low(&f.matches))
}
