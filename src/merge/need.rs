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
            Needs::Sum { add, mask, value, .. } => {
                known != 0
                    && !(0..256u128).any(|x| {
                        (x ^ key) & known == 0 && (u128::from((x as u8).wrapping_add(add)) ^ value) & mask == 0
                    })
            }
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
