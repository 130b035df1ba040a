//! A universe: which few bits of a packet are free, and every packet that there is then.
//!
//! A packet is a [`Spec`] of small parts. A universe names some of them with the values they take (a *dimension*); the
//! others are fixed. Its packets are all combinations, less those that differ in nothing that is on the wire. What else there
//! is to headers than IP's has universes of its own ([`World`]): all at once would leave too few bits to each.

use crate::{
    frame::WORDED,
    outer,
    part::{IP, LABELS, PARTS, Part, TUNNEL},
    rng::Rng,
};
use std::{collections::HashSet, net::IpAddr};

/// The fixed bits of both ports: the free ones are the lowest three.
pub const PORT: u16 = 0x50;
/// The fixed bits of a VLAN identifier: the free ones are the lowest two.
pub const VID: u16 = 0x10;

/// A packet: the value of each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spec(pub [u32; PARTS.len()]);

/// What a universe is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Tags, IP and what it carries.
    Ip,
    /// MPLS.
    Labels,
    /// What tunnel devices take off.
    Tunnels,
    /// ARP, CFM, Ethernet's own header, and IP without ports.
    Link,
    /// IPv4, and what rewrites it by what it is; policers.
    Rewrites,
}

/// The free parts with their values, and the others'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Universe {
    pub world: World,
    pub dims: Vec<(Part, Vec<u32>)>,
    pub base: Spec,
}

/// A tag of a byte: ethertype, identifier, priority.
pub fn tag(byte: u32) -> Option<(u16, u16, u16)> {
    let t = byte.checked_sub(1)? as u16;
    Some((if t & 4 == 0 { 0x8100 } else { 0x88a8 }, VID | t & 3, t >> 3 & 1))
}

/// The tags of a part's value, the outermost first.
pub fn tags(value: u32) -> impl Iterator<Item = (u16, u16, u16)> {
    value.to_le_bytes().into_iter().map_while(|byte| tag(byte.into()))
}

/// A host's address.
pub fn host(v6: bool, n: u8) -> IpAddr {
    match v6 {
        false => [10, 0, 0, n].into(),
        true => [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n].into(),
    }
}

/// How the labels are announced, by their part's value.
pub fn stacked(value: u32) -> u16 {
    if value & 8 == 0 { 0x8847 } else { 0x8848 }
}

/// The values of a free part.
fn values(world: World, part: Part, rng: &mut Rng) -> Vec<u32> {
    let low = |rng: &mut Rng, least: u32, most: u32| 1 << (least + rng.below(most - least + 1));
    // Every combination of some of these bits.
    let cube = |rng: &mut Rng, bits: &[u32], most: u32| {
        let mut bits = bits.to_vec();
        rng.shuffle(&mut bits);
        bits.truncate(1 + rng.below(most) as usize);
        bits.iter().fold(vec![0], |all, bit| all.iter().flat_map(|v| [*v, v | bit]).collect::<Vec<u32>>())
    };
    match part {
        Part::Src | Part::Dst => (0..low(rng, 1, 2)).collect(),
        Part::Mac | Part::SrcMac | Part::Sha | Part::Tha => vec![0, 1],
        Part::Stack => {
            let mut all = rng.pick(&[&[0, 1][..], &[1, 2], &[0, 1, 2], &[1, 2, 3], &[2, 3], &[1, 9], &[0, 2]]).to_vec();
            all.extend(rng.chance(8).then_some(10));
            all
        }
        // Labels, traffic class, TTL; seldom the bottom of the stack where it should not be.
        Part::Label1 | Part::Label2 | Part::Label3 => {
            let base = 0x1_0000 | rng.pick(&[0, 0, 64]);
            let bits = if rng.chance(25) { 0x100 } else { 0x1000 };
            let all = cube(rng, &[0x1000, 0x2000, 0x1000, 1, 2, 1, 2, 0x200, bits], 3);
            all.into_iter().map(|v| base | v).collect::<std::collections::BTreeSet<_>>().into_iter().collect()
        }
        Part::ArpOp => rng.pick(&[&[1, 2][..], &[1, 2, 3], &[2, 3], &[1, 0]]).to_vec(),
        Part::Cfm => cube(rng, &[1, 2, 0x100, 0x400], 2),
        Part::Spi => cube(rng, &[1, 2, 0x1_0000], 2).iter().map(|v| v | 0x10).collect(),
        Part::Outer => rng.pick(&[&[0, 4][..], &[0, 4], &[4, 6], &[0, 4, 6], &[0, 6]]).to_vec(),
        Part::EncId => (0..low(rng, 1, 2)).map(|v| outer::ID | v).collect(),
        Part::EncSrc | Part::EncDst => (0..low(rng, 1, 2)).collect(),
        Part::EncPort => (0..2).map(|v| u32::from(outer::PORT) | v).collect(),
        Part::EncTos => cube(rng, &[4, 0x20], 2),
        Part::EncTtl => rng.pick(&[&[0, 64][..], &[64, 66], &[0, 64, 66]]).to_vec(),
        Part::EncFlags => cube(rng, &[4, 8, 16], 2),
        Part::Options => {
            let mut all: Vec<u32> = (0..outer::KINDS).collect();
            rng.shuffle(&mut all);
            all.truncate(2 + rng.below(4) as usize);
            all
        }
        Part::Data => (0..low(rng, 1, 2)).collect(),
        Part::Ttl => {
            let base = rng.pick(&[0, 0, 64]);
            (0..low(rng, 2, 3)).map(|v| base | v).collect()
        }
        Part::Tos if matches!(world, World::Link | World::Rewrites) => cube(rng, &[1, 2, 0x20], 2),
        Part::Tos => cube(rng, &[1, 4, 0x20, 0x80], 2),
        Part::SrcPort | Part::DstPort => (0..low(rng, 1, 3)).map(|v| u32::from(PORT) | v).collect(),
        Part::Flags => cube(rng, &[8, 1, 2, 4, 0x10, 8], 3).iter().map(|v| v ^ 0x10).collect(),
        Part::Fragment => rng.pick(&[&[0, 1][..], &[0, 1, 2], &[0, 2]]).to_vec(),
        Part::Proto if world == World::Link => {
            rng.pick(&[&[6, 50][..], &[50, 51], &[115, 50], &[17, 115], &[50, 51, 115, 6]]).to_vec()
        }
        Part::Proto => rng.pick(&[&[6, 17][..], &[6, 17], &[17, 6, 7], &[6, 17, 16, 7], &[6, 7]]).to_vec(),
        Part::EtherType => {
            let (four, six, arp, cfm) = (0x800, 0x86dd, 0x806, 0x8902);
            if world == World::Link {
                return rng.pick(&[&[arp, four][..], &[arp, cfm], &[arp, six, four], &[arp, four, cfm]]).to_vec();
            }
            rng.pick(&[&[four, six][..], &[four, six], &[four, arp], &[four, six, arp], &[six, four, 0x88cc]]).to_vec()
        }
        Part::Tags => {
            let kinds = cube(rng, &[1, 2, 4, 8], 2);
            let mut all = vec![0];
            all.extend(kinds.iter().map(|t| t + 1));
            if rng.chance(50) {
                let inner = cube(rng, &[1, 4], 1);
                all.extend(kinds.iter().flat_map(|o| inner.iter().map(move |i| (i + 1) << 8 | (o + 1))));
            }
            if rng.chance(15) {
                all.push(0x01_01_01);
            }
            if rng.chance(20) {
                all.remove(0);
            }
            all
        }
    }
}

impl Spec {
    pub fn get(&self, part: Part) -> u32 {
        self.0[part as usize]
    }

    pub fn with(mut self, part: Part, value: u32) -> Spec {
        self.0[part as usize] = value;
        self
    }

    /// Whether conntrack would have to put it together first.
    pub fn is_fragment(&self) -> bool {
        self.get(Part::Fragment) != 0
    }

    /// Without what is not on the wire: parts of headers that the packet does not have.
    pub fn canonical(mut self) -> Spec {
        let ethertype = self.get(Part::EtherType);
        let mut absent = Vec::new();
        absent.extend(&LABELS[(self.get(Part::Stack) as usize & 7).min(LABELS.len())..]);
        if !matches!(ethertype, 0x800 | 0x86dd) {
            let ip = IP.into_iter().filter(|p| ethertype != 0x806 || !matches!(p, Part::Src | Part::Dst));
            absent.extend(ip);
        }
        if ethertype != 0x806 {
            absent.extend([Part::ArpOp, Part::Sha, Part::Tha]);
        }
        if ethertype != 0x8902 {
            absent.push(Part::Cfm);
        }
        if self.get(Part::Outer) == 0 {
            absent.extend(TUNNEL);
        }
        self = absent.into_iter().fold(self, |spec, part| spec.with(part, 0));
        if self.get(Part::Options) == 0 {
            self = self.with(Part::Data, 0);
        }
        if !WORDED.contains(&self.get(Part::Proto)) || self.is_fragment() {
            self = self.with(Part::Spi, 0);
        }
        if !matches!(self.get(Part::Proto), 6 | 17) || self.is_fragment() {
            self = self.with(Part::SrcPort, 0).with(Part::DstPort, 0);
        }
        if self.get(Part::Proto) != 6 || self.is_fragment() {
            self = self.with(Part::Flags, 0);
        }
        self
    }
}

impl Universe {
    /// One of at most so many packets. `few`: of few tuples, so that many of them have a connection.
    pub fn random(world: World, rng: &mut Rng, most: usize, few: bool) -> Universe {
        let base = Spec([0; PARTS.len()])
            .with(Part::EtherType, if rng.chance(80) { 0x800 } else { 0x86dd })
            .with(Part::Src, 1)
            .with(Part::Dst, rng.pick(&[0, 1]))
            .with(Part::Ttl, rng.pick(&[1, 64]))
            .with(Part::Proto, rng.pick(&[6, 6, 17]))
            .with(Part::SrcPort, PORT.into())
            .with(Part::DstPort, (PORT + 1).into())
            .with(Part::Flags, 0x10)
            .with(Part::Tags, rng.pick(&[0, 0, 0, 1, 5]))
            .with(Part::ArpOp, 1)
            .with(Part::Spi, 0x10);
        let base = LABELS.into_iter().fold(base, |base, label| base.with(label, 0x1_0040));
        let base = match world {
            World::Ip => base,
            World::Labels => base.with(Part::Stack, rng.pick(&[0, 1, 1, 2, 9])).with(Part::Tags, rng.pick(&[0, 0, 1])),
            World::Tunnels => base
                .with(Part::Outer, rng.pick(&[0, 4, 4, 4, 6]))
                .with(Part::EncId, outer::ID)
                .with(Part::EncPort, outer::PORT.into())
                .with(Part::EncTtl, 64)
                .with(Part::Options, rng.below(outer::KINDS)),
            World::Link => base
                .with(Part::EtherType, rng.pick(&[0x806, 0x806, 0x800, 0x86dd, 0x8902]))
                .with(Part::Proto, rng.pick(&[6, 17, 50, 51, 115])),
            World::Rewrites => base.with(Part::EtherType, rng.pick(&[0x800, 0x800, 0x800, 0x86dd])),
        };
        let mut parts = PARTS.to_vec();
        rng.shuffle(&mut parts);
        // Headers that come and go leave little room for what filters compare in them.
        let often = |part: &Part| match (world, part) {
            (World::Ip, Part::Tags) => 40,
            (World::Ip, Part::EtherType | Part::Fragment | Part::Mac) => 25,
            (World::Ip, Part::Flags) => 40,
            (World::Ip, Part::Src | Part::Dst | Part::SrcPort | Part::DstPort | Part::Proto) if few => 55,
            (World::Ip, part) if IP.contains(part) => 100,
            (World::Labels, Part::Stack | Part::Label1) => 85,
            (World::Labels, Part::Label2) => 55,
            (World::Labels, Part::Label3) => 20,
            (World::Labels, Part::Tags | Part::EtherType | Part::Ttl | Part::Dst) => 20,
            (World::Tunnels, Part::Outer | Part::EncId | Part::Options | Part::Data) => 70,
            (World::Tunnels, part) if TUNNEL.contains(part) => 30,
            (World::Tunnels, Part::Dst | Part::Ttl | Part::Tags) => 20,
            (World::Link, Part::EtherType | Part::ArpOp | Part::Src | Part::Dst | Part::Proto | Part::Spi) => 60,
            (World::Link, Part::Sha | Part::Tha | Part::Mac | Part::SrcMac | Part::Cfm | Part::Tags | Part::Tos) => 40,
            (World::Link, Part::Fragment) => 10,
            (World::Rewrites, Part::Src | Part::Dst) => 80,
            (World::Rewrites, Part::Tos) => 60,
            (World::Rewrites, Part::Mac | Part::Ttl | Part::Proto | Part::EtherType | Part::DstPort) => 20,
            (World::Rewrites, Part::Tags | Part::Fragment) => 10,
            _ => 0,
        };
        parts.retain(|part| rng.chance(often(part)));
        let mut universe = Universe { world, dims: Vec::new(), base };
        let mut size = 1;
        for part in parts {
            let mut values = values(world, part, rng);
            if few && matches!(part, Part::Src | Part::Dst | Part::SrcPort | Part::DstPort) && rng.chance(70) {
                values.truncate(2);
            }
            if size * values.len() <= most {
                size *= values.len();
                universe.dims.push((part, values));
            }
        }
        universe
    }

    /// The ethertypes that the network header may have: behind labels too, and those of labels.
    pub fn networks(&self) -> Vec<u16> {
        let mut all: Vec<u16> = self.values(Part::EtherType).into_iter().map(|e| e as u16).collect();
        if self.world == World::Labels {
            // Pushes put them there as well.
            all.extend([0x8847, 0x8847, 0x8848]);
        }
        all
    }

    /// The outermost ethertypes that packets arrive with.
    pub fn protocols(&self) -> Vec<u16> {
        let mut all = Vec::new();
        for outer in self.values(Part::Tags) {
            for labels in self.values(Part::Stack) {
                match (tag(outer & 0xff), labels & 7) {
                    (Some((tpid, ..)), _) => all.push(tpid),
                    (None, 0) => all.extend(self.values(Part::EtherType).into_iter().map(|e| e as u16)),
                    (None, _) => all.push(stacked(labels)),
                }
            }
        }
        all
    }

    /// The values of a part.
    pub fn values(&self, part: Part) -> Vec<u32> {
        let free = self.dims.iter().find(|d| d.0 == part);
        free.map_or_else(|| vec![self.base.get(part)], |d| d.1.clone())
    }

    /// Whether a part is free.
    pub fn is_free(&self, part: Part) -> bool {
        self.dims.iter().any(|d| d.0 == part)
    }

    /// Every packet.
    pub fn packets(&self) -> Vec<Spec> {
        let mut all = vec![self.base];
        for (part, values) in &self.dims {
            all = all.iter().flat_map(|s| values.iter().map(|v| s.with(*part, *v))).collect();
        }
        let mut seen = HashSet::new();
        all.into_iter().map(Spec::canonical).filter(|s| seen.insert(*s)).collect()
    }
}
