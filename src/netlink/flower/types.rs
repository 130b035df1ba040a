//! Ethertypes: where what the kernel dumps is not what it was told.

use super::{
    super::{
        attributes::{Attribute, Attributes},
        error::DecodeError,
    },
    CVLAN_ETH_TYPE, ETH_TYPE, NUM_OF_VLANS, PPP_PROTO, PPPOE_SID, Said, VLAN_ETH_TYPE,
    rows::Tags,
};
use crate::flower::{Field, Match, ethertype, filter::PROTOCOL_ALL};

/// The ethertypes as flower was told them. Of a tagged filter the kernel dumps the innermost type as `ETH_TYPE`, never the
/// outer tag's own; that one is the filter's protocol, as `tc` and OVS have it. Of a PPPoE filter it dumps the type
/// behind PPP, if any. So the telling is worked out from the dump; a filter as told gives itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Types {
    eth: Option<u16>,
    vlan: Option<u16>,
    cvlan: Option<u16>,
}

impl Types {
    pub(super) fn read(flower: &Attributes, protocol: u16, said: Said) -> Result<Types, DecodeError> {
        match said {
            Said::Dumped => Types::told(flower, protocol),
            Said::Asked => Ok(Types {
                eth: flower.u16_be(ETH_TYPE)?,
                vlan: flower.u16_be(VLAN_ETH_TYPE)?,
                cvlan: flower.u16_be(CVLAN_ETH_TYPE)?,
            }),
        }
    }

    fn told(flower: &Attributes, protocol: u16) -> Result<Types, DecodeError> {
        let dumped = flower.u16_be(ETH_TYPE)?;
        let vlans = flower.u8(NUM_OF_VLANS)?.unwrap_or(0);
        let pppoe = protocol == ethertype::PPPOE || flower.has_any(&[PPPOE_SID, PPP_PROTO]);
        let mut types =
            Types { eth: dumped, vlan: flower.u16_be(VLAN_ETH_TYPE)?, cvlan: flower.u16_be(CVLAN_ETH_TYPE)? };
        let tagged = ethertype::is_vlan(protocol) || vlans > 0;
        types.eth = match tagged {
            true => (protocol != PROTOCOL_ALL).then_some(protocol),
            false => dumped.filter(|&eth| !ethertype::is_vlan(eth)),
        };
        if pppoe {
            match (tagged, types.vlan) {
                (false, _) => types.eth = Some(ethertype::PPPOE),
                (true, Some(vlan)) if ethertype::is_vlan(vlan) => types.cvlan = Some(ethertype::PPPOE),
                (true, _) => types.vlan = Some(ethertype::PPPOE),
            }
        }
        Ok(types)
    }

    /// The same from a match, for telling.
    pub(super) fn of(m: &Match) -> Types {
        let asked = |field: Field| (m.mask.get(field) != 0).then(|| m.key.get(field) as u16);
        let pppoe = [Field::PppoeSid, Field::PppProto].iter().any(|&f| m.mask.get(f) != 0)
            || m.key.get(Field::Protocol) as u16 == ethertype::PPPOE;
        let (vlan, cvlan) = (asked(Field::VlanEthType), asked(Field::CvlanEthType));
        let innermost = match asked(Field::EthType) {
            _ if vlan.is_some() || cvlan.is_some() => None,
            _ if pppoe => Some(ethertype::PPPOE),
            eth_type => eth_type,
        };
        Types { eth: asked(Field::VlanTpid).or(innermost), vlan, cvlan }
    }

    /// The same as the kernel dumps it: an ethertype behind a tag only together with the innermost one.
    pub(super) fn dumped(m: &Match) -> Types {
        let asked = |field: Field| (m.mask.get(field) != 0).then(|| m.key.get(field) as u16);
        let eth = asked(Field::EthType);
        let inner = eth.and(asked(Field::CvlanEthType)).is_some();
        let outer = eth.and(asked(Field::VlanEthType)).filter(|_| !inner);
        Types { eth, vlan: outer.or(asked(Field::CvlanTpid)), cvlan: eth.filter(|_| inner) }
    }

    pub(super) fn write(self) -> Vec<Attribute> {
        let all = [(ETH_TYPE, self.eth), (VLAN_ETH_TYPE, self.vlan), (CVLAN_ETH_TYPE, self.cvlan)];
        all.into_iter().filter_map(|(kind, ethertype)| Some(Attribute::new(kind, ethertype?.to_be_bytes()))).collect()
    }

    /// What flower makes of them: comparisons of tags and of the innermost type.
    pub(super) fn apply(self, m: &mut Match) -> Tags {
        let vlans = m.key.get(Field::NumOfVlans);
        let mut compare = |field: Field, value: u16| m.set(field, value.into(), field.ones());
        let mut tags = Tags { outer: false, inner: false };
        match self.eth {
            Some(eth) if vlans == 0 && !ethertype::is_vlan(eth) => compare(Field::EthType, eth),
            None if vlans == 0 => {}
            tpid => {
                tags.outer = true;
                tpid.into_iter().filter(|&t| t != 0).for_each(|t| compare(Field::VlanTpid, t));
                self.vlan.into_iter().for_each(|t| compare(Field::VlanEthType, t));
            }
        }
        match self.vlan {
            _ if !tags.outer => {}
            Some(vlan) if vlans <= 1 && !ethertype::is_vlan(vlan) => compare(Field::EthType, vlan),
            None if vlans <= 1 => {}
            tpid => {
                tags.inner = true;
                tpid.into_iter().filter(|&t| t != 0).for_each(|t| compare(Field::CvlanTpid, t));
                if let Some(cvlan) = self.cvlan {
                    compare(Field::CvlanEthType, cvlan);
                    compare(Field::EthType, cvlan);
                }
            }
        }
        tags
    }
}

/// A PPPoE filter compares the session and what PPP carries, and takes the ethertype from the latter or from nowhere. It also compares
/// that there is PPPoE, for which there is no field: it must follow from the others.
pub(super) fn set_pppoe(flower: &Attributes, m: &mut Match, undecoded: &mut Vec<String>) -> Result<(), DecodeError> {
    let numbers = [flower.u16_be(PPPOE_SID)?, flower.u16_be(PPP_PROTO)?];
    let tells = |field| m.key.get(field) as u16 == ethertype::PPPOE;
    let follows = [Field::Protocol, Field::VlanEthType, Field::CvlanEthType].into_iter().any(tells);
    if !follows && numbers.into_iter().flatten().all(|number| number == 0) {
        undecoded.push("TCA_FLOWER_KEY_PPPOE_SID 0: that there is PPPoE is compared as well".into());
    }
    if let Some(session) = numbers[0] {
        m.set(Field::PppoeSid, session.into(), u128::MAX);
    }
    let Some(carried) = numbers[1] else {
        m.clear(Field::EthType);
        return Ok(());
    };
    m.set(Field::PppProto, carried.into(), u128::MAX);
    let behind = match carried {
        0x0021 => ethertype::IPV4,
        0x0057 => ethertype::IPV6,
        0x0281 => ethertype::MPLS,
        0x0283 => ethertype::MPLS_MC,
        _ => return Ok(()),
    };
    m.set(Field::EthType, behind.into(), u128::MAX);
    Ok(())
}
