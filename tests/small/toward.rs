//! Packets beside a universe: more like what a filter asks for, or with a value of a part that decides something.

use crate::{
    outer,
    part::{LABELS, Part, place},
    rng::Rng,
    universe::{Spec, World},
};
use flowmerge::flower::{ActionKind, Field, Filter, Match, ethertype, field::addr_type};

/// Sets some bits of a part.
fn set(spec: &mut Spec, part: Part, value: u32, mask: u32) {
    *spec = spec.with(part, spec.get(part) & !mask | value & mask);
}

fn is_vlan(ethertype: u32) -> bool {
    ethertype::is_vlan(ethertype as u16)
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

/// What is behind the tags becomes of this ethertype: labels, or what is there without them.
fn network(spec: &mut Spec, ethertype: u32) {
    let labels = spec.get(Part::Stack) & 7;
    if ethertype::is_mpls(ethertype as u16) {
        let multicast = if ethertype == u32::from(ethertype::MPLS) { 0 } else { 8 };
        *spec = spec.with(Part::Stack, labels.max(1) | multicast);
    } else {
        *spec = spec.with(Part::Stack, 0).with(Part::EtherType, ethertype);
    }
}

/// So many entries, or more, none in front of the last with the bottom of the stack.
fn deepen(spec: &mut Spec, depth: u32) {
    let labels = spec.get(Part::Stack);
    *spec = spec.with(Part::Stack, labels & 8 | (labels & 7).max(depth));
    for label in LABELS.into_iter().take(depth as usize - 1) {
        set(spec, label, 0, 0x100);
    }
}

/// A field that is a number of bits of a part.
fn plain(spec: &mut Spec, field: Field, value: u32, mask: u32) {
    let Some((part, shift, bits)) = place(field) else { return };
    let ones = u32::MAX >> (32 - u32::from(bits));
    let mut value = value;
    if let Some(depth) = Field::MPLS.iter().position(|entry| entry.contains(&field)) {
        deepen(spec, depth as u32 + 1);
        // It tells where the bottom is not where it should be.
        value ^= u32::from(shift == 8 && spec.get(Part::Stack) & 7 == depth as u32 + 1);
    }
    set(spec, part, value << shift, (mask & ones) << shift);
}

/// The packet, made more like what a filter asks for; a sum may stand between them.
pub fn filter(spec: Spec, filter: &Filter, rng: &mut Rng) -> Spec {
    let mut spec = matching(spec, &filter.matches, rng);
    for action in &filter.actions {
        if let ActionKind::Nat(nat) = &action.kind
            && rng.chance(50)
        {
            set(&mut spec, if nat.egress { Part::Src } else { Part::Dst }, nat.old, nat.mask & 0xff);
        }
    }
    spec
}

/// The same for a match alone.
pub fn matching(mut spec: Spec, m: &Match, rng: &mut Rng) -> Spec {
    for (field, value, mask) in m.terms() {
        let (low, low_mask) = (value as u32, mask as u32);
        match field {
            Field::EthType => network(&mut spec, low),
            Field::Protocol | Field::VlanTpid if is_vlan(low) => tagged(&mut spec, 0, low, 4),
            Field::VlanEthType | Field::CvlanTpid if is_vlan(low) => tagged(&mut spec, 8, low, 4),
            Field::CvlanEthType if is_vlan(low) => tagged(&mut spec, 16, low, 4),
            Field::VlanId => tagged(&mut spec, 0, low, low_mask & 3),
            Field::CvlanId => tagged(&mut spec, 8, low, low_mask & 3),
            Field::VlanPrio => tagged(&mut spec, 0, low << 3, low_mask << 3 & 8),
            Field::CvlanPrio => tagged(&mut spec, 8, low << 3, low_mask << 3 & 8),
            Field::NumOfVlans => spec = spec.with(Part::Tags, 0x01_01_01 & ((1 << (low.min(3) * 8)) - 1)),
            Field::Protocol => {
                spec = spec.with(Part::Tags, 0);
                network(&mut spec, low);
            }
            Field::IpTtl => {
                let before = low.wrapping_sub(rng.pick(&[0, 0, 255, 254, 253, 1, 2])) & 0xff;
                let more = rng.below(256) & !low_mask;
                let kept = if rng.chance(50) { more } else { spec.get(Part::Ttl) & !low_mask };
                spec = spec.with(Part::Ttl, before | kept);
            }
            Field::MplsTtl | Field::Mpls2Ttl | Field::Mpls3Ttl => {
                let before = low.wrapping_sub(rng.pick(&[0, 0, 255, 254, 1])) & 0xff;
                plain(&mut spec, field, before, 0xff);
            }
            Field::IpProto => {
                let fits: Vec<u32> =
                    [6, 17, 7, 16, 1, 50, 51, 115].into_iter().filter(|p| (p ^ low) & low_mask == 0).collect();
                if !fits.is_empty() {
                    spec = spec.with(Part::Proto, rng.pick(&fits));
                }
            }
            Field::IpFlags => {
                // What is to be a fragment is IP.
                if low & 1 != 0
                    && (spec.get(Part::Stack) & 7 != 0 || !matches!(spec.get(Part::EtherType), 0x800 | 0x86dd))
                {
                    spec = spec.with(Part::Stack, 0).with(Part::EtherType, 0x800);
                }
                spec = spec.with(Part::Fragment, [0, 2, 1, 1][(low & 3) as usize]);
            }
            Field::ArpOp => {
                let fits: Vec<u32> = [1, 2, 3].into_iter().filter(|op| (op ^ low) & low_mask == 0).collect();
                if !fits.is_empty() {
                    spec = spec.with(Part::ArpOp, rng.pick(&fits));
                }
            }
            _ if let Some(depth) = Field::MPLS.iter().position(|entry| entry[0] == field) => {
                let (labels, depth) = (spec.get(Part::Stack), depth as u32);
                match low {
                    0 => spec = spec.with(Part::Stack, labels & 8 | (labels & 7).min(depth)),
                    _ => deepen(&mut spec, depth + 1),
                }
            }
            Field::EncAddrType => {
                let kind = if value == addr_type::IPV6 { 6 } else { 4 };
                spec = spec.with(Part::Outer, if value == 0 { 0 } else { kind });
            }
            // Those of a filter fit each other: a tunnel that has them all, or some of them.
            Field::EncOptsType | Field::EncOptsLen | Field::EncOpts0 | Field::EncOpts1 => {
                spec = with_options(spec, m, rng);
            }
            _ => plain(&mut spec, field, low, low_mask),
        }
        if field.is_tunnel() && value != 0 && spec.get(Part::Outer) == 0 {
            spec = spec.with(Part::Outer, 4);
        }
    }
    if rng.chance(15) && spec.get(Part::Tags) >> 8 & 0xff != 0 {
        // A third tag, or a fourth, which no field but their number tells.
        spec = spec.with(Part::Tags, spec.get(Part::Tags) | rng.pick(&[0x01_00_00, 0x01_01_00_00]));
    }
    for (field, range) in m.ranges() {
        let part = if field == Field::SrcPort { Part::SrcPort } else { Part::DstPort };
        let near = rng.below(8).min(u32::from(range.max - range.min)) as u16;
        spec = spec.with(part, rng.pick(&[range.min + near, range.min, range.max - near, range.max]).into());
    }
    spec
}

/// Options that meet what a match asks of them.
fn with_options(spec: Spec, m: &Match, rng: &mut Rng) -> Spec {
    let fields = [Field::EncOptsType, Field::EncOptsLen, Field::EncOpts0, Field::EncOpts1];
    let meets = |spec: &Spec| {
        let told = spec.tunnel().map_or_else(Vec::new, |tunnel| tunnel.fields());
        told.iter().all(|(f, v)| !fields.contains(f) || (m.key.get(*f) ^ v) & m.mask.get(*f) == 0)
    };
    let spec = if spec.get(Part::Outer) == 0 { spec.with(Part::Outer, 4) } else { spec };
    let fit: Vec<Spec> = with_any_options(spec).filter(meets).collect();
    if fit.is_empty() { spec } else { rng.pick(&fit) }
}

fn with_any_options(spec: Spec) -> impl Iterator<Item = Spec> {
    let kinds = (0..outer::KINDS).map(move |kind| spec.with(Part::Options, kind));
    kinds.flat_map(|spec| (0..4).map(move |data| spec.with(Part::Data, data)))
}

/// The packet with other headers, each of which shows fields that it may not show.
pub fn with_headers(spec: Spec) -> impl Iterator<Item = Spec> {
    let outer = [spec, spec.with(Part::Outer, 4), spec.with(Part::Outer, 6)];
    let options = outer.into_iter().flat_map(|s| (0..outer::KINDS).map(move |kind| s.with(Part::Options, kind)));
    let labels = (1..=3).map(move |n| spec.with(Part::Stack, spec.get(Part::Stack) & 8 | n));
    let others = [0x806, 0x8902].map(|ethertype| spec.with(Part::EtherType, ethertype));
    let ip = [0x800, 0x86dd].map(|ethertype| spec.with(Part::EtherType, ethertype));
    let worded = ip.into_iter().flat_map(|s| [50, 51, 115].map(|proto| s.with(Part::Proto, proto)));
    let ops = others.into_iter().flat_map(|s| [1, 2].map(|op| s.with(Part::ArpOp, op)));
    // With none of the bits that addresses of ARP have here.
    let bare = |s: Spec| [(Part::Src, 0xa00), (Part::Dst, 0xa00), (Part::Sha, 0x200)].map(|(p, v)| s.with(p, v));
    let ops = ops.flat_map(move |s| bare(s).into_iter().chain([s]));
    options.chain(labels).chain(ops).chain(worded)
}

/// The packet with every value of parts in which few values decide, one part at a time.
pub fn beside(spec: Spec, world: World) -> impl Iterator<Item = Spec> {
    let low = |part: Part| (0..256).map(move |value| spec.with(part, value));
    let mut all: Vec<Spec> = [Part::Ttl, Part::Tos, Part::SrcPort, Part::DstPort].into_iter().flat_map(low).collect();
    if world == World::Labels {
        for label in LABELS {
            let word = spec.get(label);
            all.extend((0..256).map(|ttl| spec.with(label, word & !0xff | ttl)));
            all.extend([0x100, 0x200, 0x1000, 0x2000].map(|bit| spec.with(label, word ^ bit)));
        }
        all.extend((0..12).map(|stack| spec.with(Part::Stack, stack)));
    }
    if world == World::Tunnels {
        all.extend([0, 4, 6].into_iter().flat_map(|kind| with_any_options(spec.with(Part::Outer, kind))));
        all.extend([Part::EncId, Part::EncTos, Part::EncTtl, Part::EncFlags].into_iter().flat_map(low));
    }
    if matches!(world, World::Link | World::Rewrites) {
        all.extend([Part::ArpOp, Part::Src, Part::Dst].into_iter().flat_map(low));
        all.extend([6, 17, 1, 50, 51, 115].map(|proto| spec.with(Part::Proto, proto)));
    }
    all.into_iter()
}

/// The packet with one bit turned over.
pub fn flipped(spec: Spec, world: World, rng: &mut Rng) -> Spec {
    let ip = [Part::Ttl, Part::Tos, Part::Tos, Part::Src, Part::Dst, Part::SrcPort, Part::DstPort];
    let part = match world {
        World::Labels if rng.chance(60) => rng.pick(&LABELS),
        World::Tunnels if rng.chance(60) => rng.pick(&[Part::EncId, Part::EncDst, Part::EncSrc, Part::Data]),
        World::Link if rng.chance(60) => {
            rng.pick(&[Part::Mac, Part::SrcMac, Part::ArpOp, Part::Sha, Part::Tha, Part::Spi, Part::Cfm])
        }
        _ => rng.pick(&ip),
    };
    let bit = match part {
        Part::Tos | Part::Ttl => rng.below(8),
        Part::Label1 | Part::Label2 | Part::Label3 => rng.pick(&[0, 1, 2, 6, 7, 8, 9, 12, 13]),
        Part::Mac => 0,
        _ => rng.below(3),
    };
    spec.with(part, spec.get(part) ^ 1 << bit)
}
