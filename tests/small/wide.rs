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
    universe::{PARTS, PORT, Part, Spec},
};
use flowmerge::{
    flower::{Action, ActionKind, Field, Match},
    hardware::Entry,
    packet::{apply::apply, arrived},
};
use std::collections::BTreeMap;

/// How a unit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// Only packets that do the same are let in.
    None,
    /// Those that go the way with other headers.
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
            stats.count("units out of the universe", 1);
            continue;
        };
        let need = packets.iter().map(|p| need(entry, from, p)).max();
        match need {
            Some(Need::Way) => stats.count("units needed", 1),
            _ if is_needed_outside(entry, from, unit, packets, software, case.seed) => {
                stats.count("units needed for packets beside the universe", 1);
            }
            Some(Need::Shape) => {
                stats.count("units needed for the header shape alone", 1);
                stats.merged.add(format!("{} for its shape alone", unit.field()));
            }
            _ => {
                let text = format!("{unit} is not needed: without it {} others match, as {}", packets.len(), told(packets[0]));
                return Err(Failure::of("wide", entry, from, &text));
            }
        }
    }
    Ok(())
}

fn need(entry: &Entry, from: &Seen, packet: &Seen) -> Need {
    let same = || {
        let done = apply(&entry.actions, entry.trim, &packet.frame).map(applied).ok();
        done == Some((packet.sent.clone(), packet.gone))
    };
    if !takes(packet, from) || is_excluded(packet, from) {
        Need::Way
    } else if packet.shape != from.shape {
        Need::Shape
    } else if packet.guessed || !same() {
        Need::Way
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
    seed: u64,
) -> bool {
    let mut rng = Rng::new(seed ^ 0x51);
    let mut tried = |spec: Spec, software: &mut Software| {
        let key = arrived(&spec.frame()).with(Field::Indev, IN.0.into());
        sole(&entry.matches, &key) == Some(unit) && need(entry, from, &software.see(spec)) == Need::Way
    };
    for packet in packets.iter().take(4) {
        for (part, values) in [(Part::Ttl, 256), (Part::Tos, 256), (Part::Src, 64), (Part::Dst, 64)] {
            if (0..values).any(|v| tried(packet.spec.with(part, v), software)) {
                return true;
            }
        }
        for part in [Part::SrcPort, Part::DstPort] {
            let ports = (0..256).chain((8..16).map(|b| 1 << b)).chain([u32::from(u16::MAX)]);
            if ports.into_iter().any(|v| tried(packet.spec.with(part, v), software)) {
                return true;
            }
        }
    }
    (0..1500).any(|_| {
        let spec = packets[rng.below(packets.len() as u32) as usize].spec;
        tried(beside(spec, &mut rng), software)
    })
}

/// A packet with some parts changed, also to what the universe does not have.
fn beside(mut spec: Spec, rng: &mut Rng) -> Spec {
    for part in PARTS {
        if !rng.chance(30) {
            continue;
        }
        let low = rng.below(8);
        let value = match part {
            Part::Tags => rng.pick(&[0, 1 + rng.clone().below(16), 0x0101 + rng.clone().below(16)]),
            Part::EtherType => rng.pick(&[0x800, 0x800, 0x86dd, 0x806, 0x88cc]),
            Part::Mac => low & 1,
            Part::Src | Part::Dst => low & 3,
            Part::Ttl => rng.pick(&[low, 64 + low, 0xf8 + low, rng.clone().below(256)]),
            Part::Tos => rng.below(256),
            Part::Proto => rng.pick(&[6, 6, 17, 17, 7, 16, 1]),
            Part::SrcPort | Part::DstPort => u32::from(PORT) + low,
            Part::Flags => 0x10 ^ rng.below(32),
            Part::Fragment => rng.below(3),
        };
        spec = spec.with(part, value);
    }
    spec.canonical()
}

/// Without shadows, every packet of the way and of its shape that is not excluded is matched.
pub fn whole_way(
    case: &Case,
    entry: &Entry,
    from: &Seen,
    seen: &[Seen],
    stats: &mut Stats,
) -> Result<(), Failure> {
    if !case.is_disjoint() || !sums_are_told(case) {
        return Ok(());
    }
    stats.count("merged filters whose whole way is matched", 1);
    let of_way = |p: &&Seen| takes(p, from) && p.shape == from.shape && !is_excluded(p, from);
    match seen.iter().filter(of_way).find(|p| !entry.matches.fits(&p.key)) {
        Some(left_out) => {
            Err(Failure::of("whole-way", entry, from, &format!("it leaves out {}", told(left_out))))
        }
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
