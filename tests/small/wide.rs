//! Wide: no unit of a merged filter to spare, and without shadows every packet of the way is matched.
//!
//! A unit is needed if freeing it lets in a packet that does not take the way or is excluded. Whether it is needed for the
//! header shape alone, which is part of a way, is counted apart. A unit that no packet of the universe misses by itself
//! cannot be judged. What a packet of the universe does not justify may be justified by one that differs from it in bits which
//! the universe has fixed (a filter that compares a high bit of a sum); so before a unit is blamed, such packets are tried.

use crate::{
    check::{Failure, is_excluded, takes},
    part::{IP, Part, place},
    pipeline::Case,
    report::Stats,
    rng::Rng,
    toward,
    truth::{Seen, Software, does, key_of, told},
    unit::{Unit, sole, units},
    universe::Spec,
    unseen,
};
use flowmerge::{
    flower::{Field, Key, Match},
    hardware::Entry,
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
    if unseen::is_unseen(case, entry, from) {
        stats.count("merged filters of which nobody sees what their units are for", 1);
        return Ok(());
    }
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
    let Some((part, shift, bits)) = place(field) else { return false };
    let bit_of_part = u32::from(bit) + shift;
    let misses_alone = |spec: Spec| sole(of, &key_of(spec)) == Some(unit);
    let turned = |spec: Spec| misses_alone(spec.with(part, spec.get(part) ^ 1 << bit_of_part));
    let matched = || seen.iter().filter(|p| of.fits(&p.key)).map(|p| p.spec);
    if bit >= bits || matched().take(4).any(turned) {
        return false;
    }
    // A fragment, or what is not IP, shows no ports whose bits could be turned over.
    let whole = |s: Spec| [s, s.with(Part::Fragment, 0)];
    let ip = |s: Spec| [s, s.with(Part::EtherType, 0x800), s.with(Part::EtherType, 0x86dd)];
    let l4 = |s: Spec| [6, 17, 50, 51, 115].map(|proto| s.with(Part::Proto, proto)).into_iter().chain([s]);
    // What has no labels, no tunnel, no ARP shows nothing of them.
    if !IP.contains(&part) || matches!(field, Field::ArpSip | Field::ArpTip) {
        let mut rng = Rng::new(0);
        let both = |s: Spec| [s, s.with(part, s.get(part) ^ 1 << bit_of_part)];
        let others = matched().take(8).flat_map(toward::with_headers);
        let mut others = others.flat_map(|s| [s, toward::matching(s, of, &mut rng)]).flat_map(both);
        // Entries far behind share a part, so that none of their bits is turned over alone.
        return part != Part::Label3 && !others.any(misses_alone);
    }
    let variants = |s: Spec| whole(s).into_iter().flat_map(ip).flat_map(l4).filter(|s| of.fits(&key_of(*s)));
    // Of a range, the ports that are matched need not be those with the bit turned over.
    let ranged = of.ranges().any(|(f, _)| f == field);
    let mut others = matched().take(if ranged { 2 } else { 0 }).flat_map(|s| (0..256).map(move |v| s.with(part, v)));
    !matched().take(16).flat_map(variants).any(turned) && !others.any(misses_alone)
}

/// How a first fragment with this packet's ports looks to hardware that reads them.
fn shown(spec: Spec) -> Key {
    let whole = key_of(spec.with(Part::Fragment, 0));
    let l4 = [Field::SrcPort, Field::DstPort, Field::TcpFlags, Field::Spi, Field::L2tpv3Sid];
    l4.iter().fold(key_of(spec.with(Part::Fragment, 1)), |key, &f| key.with(f, whole.get(f)))
}

fn need(entry: &Entry, from: &Seen, packet: &Seen) -> Need {
    let same = || does(&entry.actions, entry.trim, packet).as_ref() == Some(&packet.done);
    let counts = |seen: &Seen| seen.counted.iter().map(|c| (c.0, c.1)).collect::<Vec<_>>();
    if !takes(packet, from) || counts(packet) != counts(from) || is_excluded(packet, from) || packet.guessed || !same()
    {
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
    let aimed = (0..600).any(|_| {
        let mut spec = packets[rng.below(packets.len() as u32) as usize].spec;
        for _ in 0..1 + rng.below(2) {
            spec = toward::filter(spec, &case.filters[rng.below(case.filters.len() as u32) as usize], &mut rng);
        }
        if rng.chance(40) {
            // What a rewrite flips.
            spec = toward::flipped(spec, case.universe.world, &mut rng);
        }
        if rng.chance(30) {
            spec = spec.with(Part::Fragment, 0);
        }
        if rng.chance(25) {
            spec = toward::odd(spec, case.universe.world, &mut rng);
        }
        tried(spec, software)
    });
    aimed || packets.iter().take(4).any(|p| toward::beside(p.spec, case.universe.world).any(|s| tried(s, software)))
}

/// Without shadows, every packet of the way and of its shape that is not excluded is matched.
pub fn whole_way(case: &Case, entry: &Entry, from: &Seen, seen: &[Seen], stats: &mut Stats) -> Result<(), Failure> {
    if !case.is_disjoint() || !unseen::values_are_told(case) {
        return Ok(());
    }
    stats.count("merged filters whose whole way is matched", 1);
    let of_way = |p: &&Seen| takes(p, from) && p.shape == from.shape && !is_excluded(p, from);
    match seen.iter().filter(of_way).find(|p| !entry.matches.fits(&p.key)) {
        Some(left_out) => Err(Failure::of("whole-way", entry, from, &format!("it leaves out {}", told(left_out)))),
        None => Ok(()),
    }
}
