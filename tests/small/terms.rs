//! What filters compare beside tags and IP: labels, ARP, CFM, indexes, and what is told of an arrived packet by no byte of it.

use crate::{
    actions::{IN, INNER},
    outer,
    part::{LABELS, Part},
    rng::Rng,
    universe::{Universe, World},
};
use flowmerge::flower::{Field, Match, ethertype, field::ip_flags};

/// What does not lie in the bytes, or not behind an ethertype.
pub fn beside(universe: &Universe, rng: &mut Rng, m: &mut Match, plain: bool) {
    let world = universe.world;
    if world == World::Tunnels && rng.chance(if plain { 30 } else { 65 }) {
        outer::terms(rng, m, &universe.values(Part::Options));
    }
    let link = if world == World::Link { 12 } else { 1 };
    if !plain && rng.chance(link) {
        let mask = rng.pick(&[Field::EthSrc.ones(), 1, 2]);
        m.set(Field::EthSrc, (0x0200_0000_0004 | u128::from(rng.below(2))) & mask, mask);
    }
    if !plain && rng.chance(link) {
        m.set(Field::Indev, rng.pick(&[IN, IN, INNER]).0.into(), Field::Indev.ones());
    }
    if !plain && rng.chance(link) {
        m.set(Field::NumOfVlans, rng.below(3).into(), 0xff);
    }
    // Flower asks for these of any packet.
    if !plain && rng.chance(if world == World::Labels { 6 } else { 2 }) {
        m.set(Field::IpFlags, rng.below(2).into(), ip_flags::FRAG);
    }
    if !plain && rng.chance(link) && rng.chance(40) {
        match rng.below(3) {
            0 => m.set(Field::Hash, 7, 0xff),
            set => m.set(Field::L2Miss, u128::from(set == 1), 1),
        }
    }
}

/// Compares some of what is behind an ethertype that is not IP's.
pub fn behind(universe: &Universe, rng: &mut Rng, m: &mut Match, network: u16, plain: bool) {
    let many = if plain { u32::from(rng.chance(30)) } else { rng.pick(&[0, 1, 1, 1, 2, 2, 3]) };
    match network {
        ethertype::MPLS | ethertype::MPLS_MC => (0..many).for_each(|_| label(universe, rng, m)),
        ethertype::ARP => (0..many).for_each(|_| arp(rng, m)),
        ethertype::CFM => (0..many).for_each(|_| match rng.chance(50) {
            true => m.set(Field::CfmLevel, rng.pick(&[0, 1, 4, 5]), 7),
            false => m.set(Field::CfmOpcode, rng.below(4).into(), 0xff),
        }),
        _ => {}
    }
}

/// An entry, by its presence alone or by what is in it. Flower has no masks here.
fn label(universe: &Universe, rng: &mut Rng, m: &mut Match) {
    let most = universe.values(Part::Stack).into_iter().map(|n| n & 7).max().unwrap_or(0);
    let depth = match rng.below(24) {
        0 => most,
        1 => 3,
        _ => rng.below(most.max(1)),
    };
    let [present, label, tc, bottom, ttl] = Field::MPLS[depth as usize];
    m.set(present, 1, 1);
    // As packets arrive with it, or as actions make it.
    let word = rng.pick(&universe.values(LABELS[(depth as usize).min(LABELS.len() - 1)]));
    let as_pushed = rng.chance(30);
    // Where an entry is missed that is the bottom, IP's first word is read as one: of a packet that is so long.
    if rng.chance(6) {
        match rng.chance(50) {
            true => m.set(label, rng.pick(&[0x45000, 0x60000]), label.ones()),
            false => m.set(ttl, rng.pick(&[0x24, 0x28, 0x2c]), 0xff),
        }
        return;
    }
    let last = rng.pick(&universe.values(Part::Stack)) & 7 == depth + 1;
    match rng.below(10) {
        0..4 => m.set(label, if as_pushed { 0x10 + rng.below(4) } else { word >> 12 }.into(), label.ones()),
        4..6 => m.set(bottom, u128::from(last ^ (word & 0x100 != 0)), 1),
        6..9 => m.set(ttl, if as_pushed { rng.pick(&[0, 1, 2, 3, 63, 255]) } else { word & 0xff }.into(), 0xff),
        _ if rng.chance(50) => m.set(tc, rng.below(2).into(), 7),
        _ => {}
    }
}

fn arp(rng: &mut Rng, m: &mut Match) {
    let mask = rng.pick(&[u128::MAX, u128::MAX, 3, 1, 2]);
    let low = u128::from(rng.below(4));
    let (field, value) = match rng.below(10) {
        0..3 => (Field::ArpOp, low.max(1)),
        3..5 => (Field::ArpSip, 0x0a00_0000 | low),
        5..8 => (Field::ArpTip, 0x0a00_0000 | low),
        8 => (Field::ArpSha, 0x0200_0000_0000 | low & 1),
        _ => (Field::ArpTha, low & 1),
    };
    m.set(field, value & mask, mask & field.ones());
}

/// The word of ESP, AH or L2TP; their protocol goes with it.
pub fn word(universe: &Universe, rng: &mut Rng, m: &mut Match) {
    let worded: Vec<u32> = universe.values(Part::Proto).into_iter().filter(|p| *p > 17).collect();
    let proto = if worded.is_empty() { rng.pick(&[50, 51, 115]) } else { rng.pick(&worded) };
    let value = u128::from(0x10 | rng.pick(&[0u32, 1, 2, 3, 0x1_0000]));
    m.set(Field::IpProto, proto.into(), 0xff);
    m.clear(Field::Spi);
    m.clear(Field::L2tpv3Sid);
    match proto {
        115 => m.set(Field::L2tpv3Sid, value, Field::L2tpv3Sid.ones()),
        50 | 51 => {
            let mask = rng.pick(&[0xffff_ffff, 3, 1, 0x1_0001]);
            m.set(Field::Spi, value & mask, mask);
        }
        _ => {}
    }
}
