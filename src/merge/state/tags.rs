//! Tags and the Ethernet header: what `vlan` does to the fields.
//!
//! A tag on or off moves what the tag fields name to other headers of the arrived packet; everything else stays.

use super::{State, TAGS, Value};
use crate::{
    flower::{ActionKind, Field, FilterId, action::Vlan, ethertype},
    merge::{asked::Asked, refusal::Refusal},
};

const THIRD_TAG: &str = "it is that of a third VLAN tag, which the arrived packet's key does not hold";
const NO_ETHERNET: &str = "the Ethernet header came off";

impl State<'_> {
    /// Runs a `vlan` action.
    pub fn vlan(&mut self, filter: FilterId, vlan: Vlan) -> Result<(), Refusal> {
        let tagged = self.tagged(filter)?;
        match vlan {
            Vlan::Pop if !tagged => {}
            Vlan::Pop => {
                self.program.pop();
                self.pop();
            }
            Vlan::Push { protocol, id, prio } => {
                self.must_have_ethernet(filter, "vlan")?;
                if tagged && self.network_before.is_none() {
                    self.network_before = Some([Field::Protocol, Field::VlanEthType].map(|f| self.view(f)));
                }
                self.program.push(protocol, id, prio);
                self.push(tagged, protocol, id, prio);
            }
            Vlan::Modify { .. } if !tagged => {}
            Vlan::Modify { protocol, id, prio } => {
                self.program.modify(protocol, id, prio);
                self.set(Field::Protocol, Value::known(protocol as u128));
                self.set(Field::VlanTpid, Value::known(protocol as u128));
                self.set(Field::VlanId, Value::known(id as u128));
                if let Some(prio) = prio {
                    self.set(Field::VlanPrio, Value::known(prio as u128));
                }
            }
            Vlan::PopEthernet => self.pop_ethernet(filter, tagged)?,
            Vlan::PushEthernet { dst, src } => self.push_ethernet(filter, dst, src)?,
        }
        Ok(())
    }

    fn push(&mut self, tagged: bool, protocol: u16, id: u16, prio: u8) {
        let before = TAGS.map(|f| self.held(f));
        self.pushed.push((before, self.skewed));
        let [outer, number, ..] = before;
        self.skewed |= tagged;
        for (field, value) in [
            (Field::Protocol, Value::known(protocol as u128)),
            (Field::NumOfVlans, number.plus(1)),
            (Field::VlanTpid, Value::known(protocol as u128)),
            (Field::VlanId, Value::known(id as u128)),
            (Field::VlanPrio, Value::known(prio as u128)),
            (Field::VlanEthType, outer),
            (Field::CvlanTpid, Value::known(0)),
            (Field::CvlanId, Value::known(0)),
            (Field::CvlanPrio, Value::known(0)),
            (Field::CvlanEthType, Value::known(0)),
        ] {
            self.set(field, value);
        }
    }

    fn pop(&mut self) {
        if let Some((before, skewed)) = self.pushed.pop() {
            // A label may have come between.
            let behind = self.held(Field::VlanEthType);
            for (field, value) in std::iter::zip(TAGS, before) {
                self.set(field, value);
            }
            self.set(Field::Protocol, behind);
            self.skewed = skewed;
            if !skewed {
                self.network_before = None;
            }
            return;
        }
        self.arrived_pops += 1;
        // An arrived tag: what was behind it moves out. An absent inner tag reads 0 before and after.
        let [_, number, _, _, _, behind, tpid, id, prio, inner] = TAGS.map(|f| self.held(f));
        let last = behind_is_last(&self.template);
        let third = |field| {
            if last { Value::known(0) } else { Value::hidden(THIRD_TAG, field) }
        };
        for (field, value) in [
            (Field::Protocol, behind),
            (Field::NumOfVlans, number.plus(255)),
            (Field::VlanTpid, tpid),
            (Field::VlanId, id),
            (Field::VlanPrio, prio),
            (Field::VlanEthType, inner),
            (Field::CvlanTpid, third(Field::CvlanTpid)),
            (Field::CvlanId, third(Field::CvlanId)),
            (Field::CvlanPrio, third(Field::CvlanPrio)),
            (Field::CvlanEthType, third(Field::CvlanEthType)),
        ] {
            self.set(field, value);
        }
    }

    /// By how many bytes the packet would count longer if it arrived again as it is now. TC counts from the network header on,
    /// so a tag pushed on another one, which goes into the bytes before that header, counts nothing; but an arrived inner
    /// tag counts until pops make it the outer one, which the kernel keeps beside the bytes. Labels count.
    pub fn longer(&mut self, filter: FilterId) -> Result<i64, Refusal> {
        let labels = 4 * self.labels_more;
        if self.arrived_pops == 0 {
            return Ok(labels);
        }
        let tagged = match self.pushed.first() {
            // Asked for when the tag went on.
            Some((before, _)) => ethertype::is_vlan(self.now(before[0]) as u16),
            None => self.tagged(filter)?,
        };
        Ok(labels - 4 * (self.arrived_pops - i64::from(!tagged)))
    }

    fn pop_ethernet(&mut self, filter: FilterId, tagged: bool) -> Result<(), Refusal> {
        if tagged || self.bare {
            let why = "it drops a packet with a VLAN tag or without an Ethernet header";
            return Err(Refusal::unfit(filter, "vlan", why));
        }
        self.bare = true;
        for field in [Field::EthDst, Field::EthSrc] {
            self.set(field, Value::hidden(NO_ETHERNET, field));
        }
        self.program.reshape(ActionKind::Vlan(Vlan::PopEthernet));
        Ok(())
    }

    fn push_ethernet(&mut self, filter: FilterId, dst: [u8; 6], src: [u8; 6]) -> Result<(), Refusal> {
        if !self.bare {
            let why = "it drops a packet that has an Ethernet header";
            return Err(Refusal::unfit(filter, "vlan", why));
        }
        self.bare = false;
        for (field, [a, b, c, d, e, f]) in [(Field::EthDst, dst), (Field::EthSrc, src)] {
            let address = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
            self.set(field, Value::known(address.into()));
        }
        self.program.reshape(ActionKind::Vlan(Vlan::PushEthernet { dst, src }));
        Ok(())
    }

    /// Refuses what writes to the Ethernet header, or beside it, while there is none.
    pub fn must_have_ethernet(&self, filter: FilterId, action: &str) -> Result<(), Refusal> {
        let why = "the Ethernet header is off";
        if self.bare { Err(Refusal::unfit(filter, action, why)) } else { Ok(()) }
    }
}

/// Whether the ethertype behind the arrived packet's outer tag is asked to be no tag's: then there is no second one.
fn behind_is_last(template: &Asked) -> bool {
    let known = &template.known;
    [Field::VlanEthType, Field::CvlanEthType]
        .into_iter()
        .any(|f| known.mask.get(f) == f.ones() && known.key.get(f) != 0 && !ethertype::is_vlan(known.key.get(f) as u16))
}
