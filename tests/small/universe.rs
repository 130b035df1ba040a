//! A universe: which few bits of a packet are free, and every packet that there is then.
//!
//! A packet is a [`Spec`] of twelve small parts. A universe names some of them with the values they take (a *dimension*); the
//! others are fixed. Its packets are all combinations, less those that differ in nothing that is on the wire.

use crate::rng::Rng;
use flowmerge::conntrack::proto;
use merge_model::checksum;
use std::{collections::HashSet, net::IpAddr};

/// The fixed bits of both ports: the free ones are the lowest three.
pub const PORT: u16 = 0x50;
/// The fixed bits of a VLAN identifier: the free ones are the lowest two.
pub const VID: u16 = 0x10;

/// A part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The tags, a byte each, the outermost in the lowest byte: see [`tag`].
    Tags,
    /// The innermost ethertype.
    EtherType,
    /// The last bits of the Ethernet destination.
    Mac,
    /// The last bits of the source address.
    Src,
    /// The last bits of the destination address.
    Dst,
    Ttl,
    Tos,
    Proto,
    SrcPort,
    DstPort,
    Flags,
    /// 0 whole, 1 the first fragment, 2 a later one.
    Fragment,
}

/// All parts.
pub const PARTS: [Part; 12] = [
    Part::Tags,
    Part::EtherType,
    Part::Mac,
    Part::Src,
    Part::Dst,
    Part::Ttl,
    Part::Tos,
    Part::Proto,
    Part::SrcPort,
    Part::DstPort,
    Part::Flags,
    Part::Fragment,
];

/// A packet: the value of each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spec(pub [u32; PARTS.len()]);

/// The free parts with their values, and the others'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Universe {
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

/// The values of a free part.
fn values(part: Part, rng: &mut Rng) -> Vec<u32> {
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
        Part::Mac => vec![0, 1],
        Part::Ttl => {
            let base = rng.pick(&[0, 0, 64]);
            (0..low(rng, 2, 3)).map(|v| base | v).collect()
        }
        Part::Tos => cube(rng, &[1, 4, 0x20, 0x80], 2),
        Part::SrcPort | Part::DstPort => (0..low(rng, 1, 3)).map(|v| u32::from(PORT) | v).collect(),
        Part::Flags => cube(rng, &[8, 1, 2, 4, 0x10, 8], 3).iter().map(|v| v ^ 0x10).collect(),
        Part::Fragment => rng.pick(&[&[0, 1][..], &[0, 1, 2], &[0, 2]]).to_vec(),
        Part::Proto => rng.pick(&[&[6, 17][..], &[6, 17], &[17, 6, 7], &[6, 17, 16, 7], &[6, 7]]).to_vec(),
        Part::EtherType => {
            let (four, six, arp) = (0x800, 0x86dd, 0x806);
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
        if !matches!(self.get(Part::EtherType), 0x800 | 0x86dd) {
            for part in [Part::Src, Part::Dst, Part::Ttl, Part::Tos, Part::Proto, Part::Fragment] {
                self = self.with(part, 0);
            }
        }
        if !matches!(self.get(Part::Proto), 6 | 17) || self.is_fragment() {
            self = self.with(Part::SrcPort, 0).with(Part::DstPort, 0);
        }
        if self.get(Part::Proto) != 6 || self.is_fragment() {
            self = self.with(Part::Flags, 0);
        }
        self
    }

    /// Its bytes, with right checksums.
    pub fn frame(&self) -> Vec<u8> {
        let part = |part: Part| self.get(part);
        let mut out = vec![2, 0, 0, 0, 0, 2 | part(Part::Mac) as u8, 2, 0, 0, 0, 0, 1];
        for (tpid, id, prio) in tags(part(Part::Tags)) {
            out.extend([tpid.to_be_bytes(), (prio << 13 | id).to_be_bytes()].concat());
        }
        let ethertype = part(Part::EtherType) as u16;
        out.extend(ethertype.to_be_bytes());
        let v6 = match ethertype {
            0x800 => false,
            0x86dd => true,
            0x806 => {
                out.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
                return out;
            }
            _ => {
                out.extend([0; 30]);
                return out;
            }
        };
        let (src, dst) = (host(v6, part(Part::Src) as u8), host(v6, part(Part::Dst) as u8));
        let l4 = self.transport(src, dst);
        let (ttl, tos, proto) = (part(Part::Ttl) as u8, part(Part::Tos) as u8, part(Part::Proto) as u8);
        let octets = |a: IpAddr| match a {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        let addresses = [octets(src), octets(dst)].concat();
        // The more-fragments bit, or an offset of eight bytes.
        let fragment = part(Part::Fragment);
        if v6 {
            let header = if fragment == 0 { 0 } else { 8 };
            out.extend((0x6000_0000 | u32::from(tos) << 20).to_be_bytes());
            out.extend((l4.len() as u16 + header).to_be_bytes());
            out.extend([if fragment == 0 { proto } else { 44 }, ttl]);
            out.extend(addresses);
            if fragment != 0 {
                out.extend([proto, 0, 0, if fragment == 1 { 1 } else { 8 }, 0, 0, 0, 7]);
            }
        } else {
            let at = out.len();
            out.extend([0x45, tos]);
            out.extend((20 + l4.len() as u16).to_be_bytes());
            let field: u16 = [0x4000, 0x2000, 1][fragment as usize];
            out.extend([0x12, 0x34]);
            out.extend(field.to_be_bytes());
            out.extend([ttl, proto, 0, 0]);
            out.extend(addresses);
            let check = checksum::fold(checksum::sum(&out[at..], 0));
            out[at + 10..at + 12].copy_from_slice(&check.to_be_bytes());
        }
        out.extend(l4);
        out
    }

    fn transport(&self, src: IpAddr, dst: IpAddr) -> Vec<u8> {
        let part = |part: Part| self.get(part);
        let proto = part(Part::Proto) as u8;
        let ports = [part(Part::SrcPort) as u16, part(Part::DstPort) as u16];
        let mut l4 = ports.map(u16::to_be_bytes).concat();
        let at = match proto {
            proto::TCP => {
                l4.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, part(Part::Flags) as u8, 0, 9, 0, 0, 0, 0]);
                16
            }
            proto::UDP => {
                l4.extend([0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
                6
            }
            _ => return vec![0; 24],
        };
        let check = checksum::fold(checksum::sum(&l4, checksum::pseudo(src, dst, proto, l4.len())));
        l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
        if self.is_fragment() {
            // A multiple of eight.
            l4.resize(24, 0);
        }
        l4
    }
}

impl Universe {
    /// One of at most so many packets. `few`: of few tuples, so that many of them have a connection.
    pub fn random(rng: &mut Rng, most: usize, few: bool) -> Universe {
        let base = Spec([0; PARTS.len()])
            .with(Part::EtherType, if rng.chance(80) { 0x800 } else { 0x86dd })
            .with(Part::Src, 1)
            .with(Part::Dst, rng.pick(&[0, 1]))
            .with(Part::Ttl, rng.pick(&[1, 64]))
            .with(Part::Proto, rng.pick(&[6, 6, 17]))
            .with(Part::SrcPort, PORT.into())
            .with(Part::DstPort, (PORT + 1).into())
            .with(Part::Flags, 0x10)
            .with(Part::Tags, rng.pick(&[0, 0, 0, 1, 5]));
        let mut parts = PARTS.to_vec();
        rng.shuffle(&mut parts);
        // Headers that come and go leave little room for what filters compare in them.
        let often = |part: &Part| match part {
            Part::Tags => 40,
            Part::EtherType | Part::Fragment | Part::Mac => 25,
            Part::Flags => 40,
            Part::Src | Part::Dst | Part::SrcPort | Part::DstPort | Part::Proto if few => 55,
            _ => 100,
        };
        parts.retain(|part| rng.chance(often(part)));
        let mut universe = Universe { dims: Vec::new(), base };
        let mut size = 1;
        for part in parts {
            let mut values = values(part, rng);
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
