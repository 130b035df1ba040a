//! The values that a case plays with: few of each, so that filters and packets meet, and each beside a boundary of another.

use super::{dice::Dice, rarer};
use flowmerge::flower::{Control, Field, Tunnel, action::Police, ethertype as et};

/// Pools of values.
#[derive(Clone, Debug)]
pub struct Universe {
    v4: Vec<u128>,
    v6: Vec<u128>,
    macs: Vec<u128>,
    ports: Vec<u128>,
    /// The conntrack zones of the case.
    pub zones: Vec<u16>,
    /// Of a hundred packets and filters, so many are IPv6.
    pub v6_share: usize,
    /// Of a hundred, so many have a tag.
    pub tagged_share: usize,
    /// Of a hundred, so many have a label stack.
    pub labelled_share: usize,
    /// Of a hundred, so many are in a PPPoE session.
    pub session_share: usize,
    /// Of a hundred actions in the middle of a list, so many are of the rarer kinds.
    pub rarer_share: usize,
    /// The tunnels that the case's packets are to go through.
    pub tunnels: Vec<Tunnel>,
    /// The policers that the case's filters share.
    pub policers: Vec<(Police, Control)>,
}

/// Hosts' addresses.
pub fn host_v4(n: u128) -> u128 {
    0x0a00_0000 | n
}

/// The same, IPv6.
pub fn host_v6(n: u128) -> u128 {
    0xfd << 120 | n
}

impl Universe {
    /// The pools of a case.
    pub fn new(dice: &mut Dice) -> Universe {
        let some = |dice: &mut Dice, from: &[u128], least: usize| {
            let mut from = from.to_vec();
            dice.shuffle(&mut from);
            from.truncate(dice.between(least, from.len()));
            from
        };
        let hosts = [1, 2, 3, 4, 5, 0x100, 0x1_0001, 0xff_fffe];
        let v4 = some(dice, &hosts.map(host_v4), 2);
        let v6 = some(dice, &[1, 2, 3, 4, 5, 1 << 16, 1 << 64 | 1, 1 << 112 | 2].map(host_v6), 2);
        let macs = [
            0x0200_0000_0001,
            0x0200_0000_0002,
            0x0200_0000_0003,
            0x02aa_0000_0001,
            0xffff_ffff_ffff,
            0x0100_5e00_0001,
        ];
        let zones = match dice.below(4) {
            0 | 1 => vec![5],
            2 => vec![5, 6],
            _ => vec![0, 5, 65535],
        };
        Universe {
            v4,
            v6,
            macs: some(dice, &macs, 2),
            ports: some(dice, &[80, 443, 1000, 1001, 1002, 8000, 0, 1, 65535, 0x50ff], 3),
            zones,
            v6_share: *dice.pick(&[0, 20, 50, 100]),
            tagged_share: *dice.pick(&[0, 0, 20, 60]),
            labelled_share: *dice.pick(&[0, 0, 10, 60]),
            session_share: *dice.pick(&[0, 0, 0, 5, 30]),
            rarer_share: *dice.pick(&[0, 0, 10, 45]),
            tunnels: (0..3).map(|_| rarer::tunnel(dice)).collect(),
            policers: (0..3).map(|_| rarer::policer(dice)).collect(),
        }
    }

    /// A value of a field: mostly one that others use too.
    pub fn value(&self, dice: &mut Dice, field: Field) -> u128 {
        if let Some(part) = Field::MPLS.iter().find_map(|entry| entry.iter().position(|&f| f == field)) {
            return match part {
                1 => rarer::label(dice).into(),
                2 => *dice.pick(&[0, 3, 7]),
                4 => *dice.pick(&[64, 64, 1, 2, 255, 0]),
                _ => u128::from(dice.percent(50)),
            };
        }
        if field == Field::PppProto {
            return *dice.pick(&[0x21, 0x21, 0x57, 0x281, 0xc021]);
        }
        if field.is_tunnel() {
            let tunnel = dice.pick(&self.tunnels);
            let of_tunnel = tunnel.fields().into_iter().find(|(f, _)| *f == field);
            return of_tunnel.filter(|_| dice.percent(85)).map_or(0, |(_, value)| value);
        }
        if dice.percent(4) {
            return dice.bits(field.ones());
        }
        let from: &[u128] = match field {
            Field::EthDst | Field::EthSrc | Field::ArpSha | Field::ArpTha => &self.macs,
            Field::EthType | Field::Protocol => &[et::IPV4 as u128, et::IPV6 as u128, et::ARP as u128, 0x1234],
            Field::VlanEthType | Field::CvlanEthType => &[et::IPV4 as u128, et::IPV6 as u128, et::VLAN as u128],
            Field::VlanTpid | Field::CvlanTpid => &[et::VLAN as u128, et::VLAN as u128, et::QINQ as u128],
            Field::VlanId | Field::CvlanId => &[10, 11, 20, 0, 4095],
            Field::VlanPrio | Field::CvlanPrio => &[0, 1, 5, 7],
            Field::NumOfVlans => &[0, 1, 2],
            Field::IpProto => &[6, 6, 6, 6, 17, 17, 17, 17, 1, 1, 58, 58, 132, 132, 47, 136, 33, 2, 115, 137],
            Field::IpTos => &[0, 0, 4, 0x10, 0xb8, 3, 255],
            Field::IpTtl => &[64, 64, 63, 1, 0, 255, 128],
            Field::IpFlags => &[0, 0, 0, 1, 3],
            Field::Ipv4Src | Field::Ipv4Dst | Field::ArpSip | Field::ArpTip => &self.v4,
            Field::Ipv6Src | Field::Ipv6Dst => &self.v6,
            Field::SrcPort | Field::DstPort => &self.ports,
            Field::TcpFlags => &[0x10, 0x10, 0x18, 2, 0x12, 0x11, 4, 0x14, 0, 0x29, 0xc2, 0x110, 0x30],
            Field::IcmpType => &[8, 0, 128, 129, 3, 11, 13, 17, 135, 133, 1, 2],
            Field::IcmpCode => &[0, 0, 1, 3, 255],
            Field::ArpOp => &[1, 2, 3],
            Field::PppoeSid => &[1, 2, 0x1234],
            Field::L2tpv3Sid => &[1, 0xbeef, 0],
            Field::CtMark => &[0, 1, 2, 0xff, 0x8000_0000],
            Field::CtLabels => &[0, 1, 0x10, 1 << 127, 0xff << 32],
            Field::CtZone => return u128::from(*dice.pick(&self.zones)),
            _ => &[0, 1],
        };
        *dice.pick(from)
    }

    /// A mask of a field: the whole of it, a prefix, some bits, one bit.
    pub fn mask(&self, dice: &mut Dice, field: Field) -> u128 {
        let ones = field.ones();
        let bits = usize::from(field.row().bits);
        match dice.below(100) {
            0..60 => ones,
            60..78 => ones & !(ones >> dice.between(1, bits.saturating_sub(1).max(1))),
            78..88 => 1 << dice.below(bits),
            88..96 => dice.bits(ones) | 1,
            _ => ones >> dice.below(bits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_masks_fit_their_fields() {
        let mut dice = Dice::new(3);
        let universe = Universe::new(&mut dice);
        for &field in Field::ALL {
            for _ in 0..200 {
                assert_eq!(universe.value(&mut dice, field) & !field.ones(), 0, "{field}");
                let mask = universe.mask(&mut dice, field);
                assert!(mask != 0 && mask & !field.ones() == 0, "{field} {mask:#x}");
            }
        }
    }
}
