//! What a table can match and do. The merge refuses what it cannot; a driver says it of its hardware.

use super::{
    action::{Action, ActionKind, Control, Mpls, TunnelKey, Vlan},
    ethertype::is_vlan,
    field::Field,
    key::Key,
    masks::Masks,
    matches::Match,
};
use std::fmt;

/// What a table can match and do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The bits that can be compared.
    pub fields: Key,
    /// How they can be compared.
    pub masks: Masks,
    /// Whether port ranges can be compared.
    pub ranges: bool,
    /// What it can do.
    pub abilities: Abilities,
    /// What its byte counters count.
    pub counts: Counts,
    /// How many entries it holds, if that is known beforehand.
    pub size: Option<usize>,
}

bitflags::bitflags! {
    /// What a table can do with a packet.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Abilities: u32 {
        /// Send the packet out of a port.
        const REDIRECT = 1;
        /// Send a copy and go on.
        const MIRROR = 1 << 1;
        /// Send into a port rather than out of it.
        const INGRESS = 1 << 2;
        /// Drop.
        const DROP = 1 << 3;
        /// Give the packet to the CPU (`trap`).
        const TRAP = 1 << 4;
        /// Let the packet pass to the CPU's stack (`pass`, or a list of actions that ends).
        const PASS = 1 << 5;
        /// Set bits of a header.
        const SET = 1 << 6;
        /// Add to a word of a header.
        const ADD = 1 << 7;
        /// Mend checksums for what is set, as NAT does: a wrong one stays wrong.
        const MEND = 1 << 8;
        /// Compute checksums anew.
        const CSUM = 1 << 9;
        /// Take a VLAN tag off.
        const VLAN_POP = 1 << 10;
        /// Put a VLAN tag on.
        const VLAN_PUSH = 1 << 11;
        /// Change a VLAN tag.
        const VLAN_MODIFY = 1 << 12;
        /// Set metadata (`skbedit`), none of which leaves the machine.
        const METADATA = 1 << 13;
        /// Cut off what follows the IP datagram, as `ct` does.
        const TRIM = 1 << 14;
        /// Take an MPLS entry off.
        const MPLS_POP = 1 << 15;
        /// Put an MPLS entry on.
        const MPLS_PUSH = 1 << 16;
        /// Change the outer MPLS entry, its TTL by one.
        const MPLS_MODIFY = 1 << 17;
        /// Send through a tunnel.
        const ENCAP = 1 << 18;
        /// Forget the tunnel that the packet came through.
        const DECAP = 1 << 19;
        /// Take the Ethernet header off.
        const ETHERNET_POP = 1 << 20;
        /// Put an Ethernet header on.
        const ETHERNET_PUSH = 1 << 21;
        /// Use the policers that were made for filters to share, by index.
        const POLICE = 1 << 22;
    }
}

/// Which bytes of a frame a table counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counts {
    /// What TC counts in software at ingress: neither the Ethernet header nor the outermost VLAN tag.
    Ingress,
    /// The frame from the Ethernet header on, tags included, check sequence not.
    Frame,
}

impl Counts {
    /// What is counted for a frame as it arrived on the wire.
    pub fn bytes(self, frame: &[u8]) -> u64 {
        let tagged = frame.get(12..14).is_some_and(|b| is_vlan(u16::from_be_bytes([b[0], b[1]])));
        let left_out = match self {
            Counts::Frame => 0,
            Counts::Ingress if tagged => 18,
            Counts::Ingress => 14,
        };
        frame.len().saturating_sub(left_out) as u64
    }
}

/// Something that a table lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// It cannot compare these bits of a field.
    Field {
        /// The field.
        field: Field,
        /// The bits asked for that it lacks.
        bits: u128,
    },
    /// It compares a field only as a whole, or what is asked for only together with it ([`Masks`]), and not all of it is asked for.
    Whole(Field),
    /// It cannot compare a range of this field.
    Range(Field),
    /// It cannot do what an action asks for.
    Ability {
        /// Index of the action, from 0.
        action: usize,
        /// What it lacks.
        ability: Abilities,
    },
    /// An action that no table does.
    Action {
        /// Index of the action, from 0.
        action: usize,
        /// The action, in words.
        name: String,
    },
}

impl Capabilities {
    /// Everything that a merged filter can hold, without a bound.
    pub fn all() -> Capabilities {
        let mut fields = Key::ZERO;
        for &field in Field::ALL {
            fields.set(field, field.ones());
        }
        Capabilities {
            fields,
            masks: Masks::ANY,
            ranges: true,
            abilities: Abilities::all(),
            counts: Counts::Ingress,
            size: None,
        }
    }

    /// What Linux 6.1 does in software with a filter in front of the others of a port ([`Filter::in_front`](super::Filter::in_front)):
    /// flower has masks of its own kind, and TC has an action neither for mending
    /// checksums nor for cutting off what follows the datagram.
    pub fn tc() -> Capabilities {
        let mut all = Capabilities::all();
        for &field in Field::ALL.iter().filter(|field| field.is_conntrack()) {
            all.fields.set(field, 0);
        }
        all.masks = Masks::flower();
        all.abilities -= Abilities::MEND | Abilities::TRIM;
        // Later kernels' fields.
        [Field::EncFlags, Field::L2Miss, Field::CfmLevel, Field::CfmOpcode, Field::Spi]
            .into_iter()
            .for_each(|field| all.fields.set(field, 0));
        all
    }

    /// Whether the table can compare all of this.
    ///
    /// # Errors
    /// The first thing that it lacks, in the order of the field table.
    pub fn check_match(&self, matches: &Match) -> Result<(), Lacking> {
        for (field, mask) in matches.mask.fields() {
            let bits = mask & !self.fields.get(field);
            if bits != 0 {
                return Err(Lacking::Field { field, bits });
            }
        }
        if let Some(field) = self.masks.missing(matches) {
            return Err(Lacking::Whole(field));
        }
        match matches.ranges().next() {
            Some((field, _)) if !self.ranges => Err(Lacking::Range(field)),
            _ => Ok(()),
        }
    }

    /// Whether the table can do all of this.
    ///
    /// # Errors
    /// The first action that it cannot do, and why.
    pub fn check_actions(&self, actions: &[Action]) -> Result<(), Lacking> {
        for (index, action) in actions.iter().enumerate() {
            let ability = needed(index, action)? - self.abilities;
            if !ability.is_empty() {
                return Err(Lacking::Ability { action: index, ability });
            }
        }
        let passes = actions.last().is_none_or(|a| a.control == Control::Pipe);
        if passes && !self.abilities.contains(Abilities::PASS) {
            return Err(Lacking::Ability { action: actions.len(), ability: Abilities::PASS });
        }
        Ok(())
    }
}

/// What the action with this index takes.
///
/// # Errors
/// [`Lacking::Action`] if no table without chains and conntrack can do it.
pub fn needed(index: usize, action: &Action) -> Result<Abilities, Lacking> {
    let never = |name: String| Err(Lacking::Action { action: index, name });
    let kind = match &action.kind {
        // Kind 0 is no randomness.
        ActionKind::Gact { random } if random.is_none_or(|r| r.kind == 0) => Abilities::empty(),
        ActionKind::Mirred(m) => {
            let copies = m.mirror || action.control == Control::Pipe;
            let way = if copies { Abilities::MIRROR } else { Abilities::REDIRECT };
            if m.ingress { way | Abilities::INGRESS } else { way }
        }
        ActionKind::Pedit(p) => {
            let mut all = if p.mend { Abilities::MEND } else { Abilities::empty() };
            for key in &p.keys {
                if key.dynamic.is_some() {
                    return never("pedit at an offset read from the packet".into());
                }
                all |= if key.add { Abilities::ADD } else { Abilities::SET };
            }
            all
        }
        ActionKind::Csum(_) => Abilities::CSUM,
        ActionKind::Vlan(Vlan::Pop) => Abilities::VLAN_POP,
        ActionKind::Vlan(Vlan::Push { .. }) => Abilities::VLAN_PUSH,
        ActionKind::Vlan(Vlan::Modify { .. }) => Abilities::VLAN_MODIFY,
        ActionKind::Skbedit(_) => Abilities::METADATA,
        ActionKind::Vlan(Vlan::PopEthernet) => Abilities::ETHERNET_POP,
        ActionKind::Vlan(Vlan::PushEthernet { .. }) => Abilities::ETHERNET_PUSH,
        ActionKind::Mpls(Mpls::Pop { .. }) => Abilities::MPLS_POP,
        ActionKind::Mpls(Mpls::Push { .. }) => Abilities::MPLS_PUSH,
        ActionKind::Mpls(Mpls::Modify(_) | Mpls::DecTtl) => Abilities::MPLS_MODIFY,
        ActionKind::TunnelKey(TunnelKey::Set(_)) => Abilities::ENCAP,
        ActionKind::TunnelKey(TunnelKey::Unset) => Abilities::DECAP,
        ActionKind::Police(police) if police.shared => {
            return match (action.control, police.conform) {
                (Control::Shot, Control::Pipe) => Ok(Abilities::POLICE | Abilities::DROP),
                _ => never("police that does not drop what exceeds and pass on what conforms".into()),
            };
        }
        ActionKind::Police(_) => return never("police of one filter".into()),
        ActionKind::Gact { .. } => return never("gact random".into()),
        ActionKind::Mpls(Mpls::PushMac { .. }) => return never("mpls mac_push".into()),
        ActionKind::Ct(_)
        | ActionKind::Skbmod(_)
        | ActionKind::Nat(_)
        | ActionKind::Sample(_)
        | ActionKind::Other(_) => return never(action.name().into()),
    };
    let control = match action.control {
        Control::Pipe | Control::Stolen | Control::Queued => Abilities::empty(),
        Control::Ok => Abilities::PASS,
        Control::Shot => Abilities::DROP,
        Control::Trap => Abilities::TRAP,
        control => return never(format!("{} with control {control:?}", action.name())),
    };
    Ok(kind | control)
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lacking::Field { field, bits } if *bits == field.ones() => write!(f, "field {field} cannot be matched"),
            Lacking::Field { field, bits } => write!(f, "bits {bits:#x} of field {field} cannot be matched"),
            Lacking::Whole(field) => write!(f, "field {field} must be matched as a whole, and is not"),
            Lacking::Range(field) => write!(f, "a range of {field} cannot be matched"),
            Lacking::Ability { action, ability } => {
                let names = ability.iter_names().map(|(name, _)| name.to_lowercase().replace('_', " "));
                let names: Vec<_> = names.collect();
                write!(f, "action {action}: not supported: {}", names.join(", "))
            }
            Lacking::Action { action, name } => write!(f, "action {action}: {name} cannot be done in a table"),
        }
    }
}

impl std::error::Error for Lacking {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flower::{
        Port, Range,
        action::{Ct, Mirred},
    };

    #[test]
    fn what_lacks_is_named() {
        let mut table = Capabilities::all();
        table.fields.set(Field::IpTos, 0xfc);
        table.masks.whole.set(Field::VlanId, 0xfff);
        table.ranges = false;
        table.abilities -= Abilities::INGRESS | Abilities::PASS;
        let lacking = |m: &Match| table.check_match(m).expect_err("lacks").to_string();
        let mut m = Match::default().exact(Field::IpTos, 0);
        assert_eq!(lacking(&m), "bits 0x3 of field ip_tos cannot be matched");
        m = Match::default().with(Field::VlanId, 1, 3);
        assert_eq!(lacking(&m), "field vlan_id must be matched as a whole, and is not");
        assert_eq!(table.check_match(&Match::default().exact(Field::VlanId, 1)), Ok(()));
        m = Match::default();
        m.dst_range = Some(Range { min: 1, max: 2 });
        assert_eq!(lacking(&m), "a range of dst_port cannot be matched");

        let lacking = |a: &[Action]| table.check_actions(a).expect_err("lacks").to_string();
        let mirred = |ingress, mirror, control| {
            let port = Port(1);
            Action::new(ActionKind::Mirred(Mirred { port, ingress, mirror }), control)
        };
        assert_eq!(lacking(&[mirred(true, false, Control::Stolen)]), "action 0: not supported: ingress");
        assert_eq!(lacking(&[mirred(false, true, Control::Pipe)]), "action 1: not supported: pass");
        let ct = Action::new(ActionKind::Ct(Ct::default()), Control::Pipe);
        assert_eq!(lacking(&[ct]), "action 0: ct cannot be done in a table");
        let goto = Action::new(ActionKind::Gact { random: None }, Control::Goto(3));
        assert_eq!(lacking(&[goto]), "action 0: gact with control Goto(3) cannot be done in a table");
        assert_eq!(table.check_actions(&[mirred(false, false, Control::Stolen)]), Ok(()));
    }

    #[test]
    fn software_counts_neither_ethernet_nor_the_outer_tag() {
        let mut frame = [0; 64];
        assert_eq!(Counts::Ingress.bytes(&frame), 50);
        frame[12..14].copy_from_slice(&[0x81, 0]);
        assert_eq!((Counts::Ingress.bytes(&frame), Counts::Frame.bytes(&frame)), (46, 64));
    }
}
