//! Needs: what a filter's comparison asks of the arrived packet or of a parameter, carried back through the writes before it.
//!
//! Of a need that masks cannot express (a range, a sum) one can still say whether all packets with certain bits meet it, or none
//! does. The bits that make sure of it are chosen by [`bits::fewest`](super::bits::fewest).

use super::template::Is;
use crate::flower::{Field, Range};

/// Something that a packet must be, for a filter to take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// `arrived & mask == value`.
    Bits {
        /// The arrived field.
        field: Field,
        /// The bits.
        mask: u128,
        /// Their value.
        value: u128,
    },
    /// `(arrived + add) & mask == value`, of an eight-bit field.
    Sum {
        /// The arrived field.
        field: Field,
        /// What is added.
        add: u8,
        /// The bits.
        mask: u128,
        /// Their value.
        value: u128,
    },
    /// The arrived port, `kept & port ^ flip`, within the range.
    Range {
        /// The arrived field.
        field: Field,
        /// Its bits that are left.
        kept: u16,
        /// The value of the others, and what is flipped.
        flip: u16,
        /// The range.
        range: Range,
    },
    /// Of a parameter.
    Param(Is),
}

impl Needs {
    /// The arrived field.
    pub fn field(&self) -> Option<Field> {
        match *self {
            Needs::Bits { field, .. } | Needs::Sum { field, .. } | Needs::Range { field, .. } => Some(field),
            Needs::Param(_) => None,
        }
    }

    /// Whether no packet that has these bits of the field (`key` under `mask`) meets the need.
    pub fn denied(&self, key: u128, known: u128) -> bool {
        match *self {
            Needs::Bits { mask, value, .. } => (key ^ value) & mask & known != 0,
            Needs::Sum { add, mask, value, .. } => !(0..256u128)
                .any(|x| (x ^ key) & known == 0 && (u128::from((x as u8).wrapping_add(add)) ^ value) & mask == 0),
            Needs::Range { kept, flip, range, .. } => {
                let known = known as u16 & kept;
                !range.meets(known | !kept, key as u16 & known ^ flip)
            }
            Needs::Param(_) => false,
        }
    }

    /// Whether every packet that has these bits of the field meets the need.
    pub fn granted(&self, key: u128, known: u128) -> bool {
        match *self {
            Needs::Bits { mask, value, .. } => mask & !known == 0 && (key ^ value) & mask == 0,
            Needs::Sum { add, mask, value, .. } => (0..256u128)
                .all(|x| (x ^ key) & known != 0 || (u128::from((x as u8).wrapping_add(add)) ^ value) & mask == 0),
            Needs::Range { kept, flip, range, .. } => {
                let known = known as u16 & kept;
                range.covers(known | !kept, key as u16 & known ^ flip)
            }
            Needs::Param(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a packet with this value of the field meets the need, as it is defined.
    fn meets(need: &Needs, x: u128) -> bool {
        match *need {
            Needs::Bits { mask, value, .. } => x & mask == value,
            Needs::Sum { add, mask, value, .. } => ((x + u128::from(add)) % 256) & mask == value,
            Needs::Range { kept, flip, range, .. } => range.contains(x as u16 & kept ^ flip),
            Needs::Param(_) => false,
        }
    }

    /// Denied and granted are what all packets with some bits have in common, tried one by one.
    #[test]
    fn what_no_packet_meets_is_denied_and_what_all_meet_is_granted() {
        let mut state = 7u32;
        let mut dice = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            u128::from(state >> 24)
        };
        let (mut denied, mut granted) = ([0; 3], [0; 3]);
        for i in 0..6000 {
            let (mask, key) = (dice(), dice());
            let known = if i & 1 == 0 { dice() } else { dice() | dice() };
            let port = Field::DstPort;
            let (kind, need) = match i % 3 {
                0 => (0, Needs::Bits { field: Field::IpTtl, mask, value: dice() & mask }),
                1 => (1, Needs::Sum { field: Field::IpTtl, add: dice() as u8, mask, value: dice() & mask }),
                _ => {
                    let (a, b) = (dice() as u16, dice() as u16);
                    let (kept, flip) = (mask as u16, dice() as u16);
                    (2, Needs::Range { field: port, kept, flip, range: Range { min: a.min(b), max: a.max(b) } })
                }
            };
            // Of a port only the low bits are free here.
            let known = if kind == 2 { known | 0xff00 } else { known };
            let packets: Vec<u128> = (0..256u128).filter(|x| (x ^ key) & known == 0).collect();
            let (none, all) = (!packets.iter().any(|&x| meets(&need, x)), packets.iter().all(|&x| meets(&need, x)));
            assert_eq!((need.denied(key, known), need.granted(key, known)), (none, all), "{need:?} {key:x} {known:x}");
            denied[kind] += u32::from(none);
            granted[kind] += u32::from(all);
        }
        assert!(denied.iter().chain(&granted).all(|&n| n > 50), "{denied:?} {granted:?}");
    }
}
