//! The units of a match: what can be freed of it by itself.
//!
//! A unit is one bit of a field; for the fields that name a header it is all bits asked of the field at once; of a range it is
//! either end. A unit of a field that is the prerequisite of another field asked for is exempt.

use flowmerge::flower::{Field, Key, Match};
use std::fmt;

/// One unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    Bit(Field, u8),
    Whole(Field),
    Lowest(Field),
    Highest(Field),
}

/// Whether a field names a header.
pub fn is_whole(field: Field) -> bool {
    use Field::*;
    matches!(field, Protocol | EthType | VlanTpid | VlanEthType | CvlanTpid | CvlanEthType | AddrType | EncAddrType)
}

impl Unit {
    pub fn field(self) -> Field {
        match self {
            Unit::Bit(f, _) | Unit::Whole(f) | Unit::Lowest(f) | Unit::Highest(f) => f,
        }
    }

    /// Whether flower wants the unit's field for another one that is asked for.
    pub fn is_exempt(self, of: &Match) -> bool {
        let asked = of.mask.fields().map(|(f, _)| f).chain(of.ranges().map(|(f, _)| f));
        asked.into_iter().any(|f| f != self.field() && f.row().prerequisite == Some(self.field()))
    }
}

/// All units of a match.
pub fn units(of: &Match) -> Vec<Unit> {
    let mut all = Vec::new();
    for (field, mask) in of.mask.fields() {
        if is_whole(field) {
            all.push(Unit::Whole(field));
        } else {
            all.extend((0..field.row().bits).filter(|b| mask >> b & 1 == 1).map(|b| Unit::Bit(field, b)));
        }
    }
    for (field, range) in of.ranges() {
        all.extend((range.min > 0).then_some(Unit::Lowest(field)));
        all.extend((range.max < u16::MAX).then_some(Unit::Highest(field)));
    }
    all
}

/// The one unit that keeps a packet out of a match; `None` if none or several do.
pub fn sole(of: &Match, key: &Key) -> Option<Unit> {
    let mut found = None;
    let mut keep = |unit: Unit| found.replace(unit).is_none();
    for (field, mask) in of.mask.fields() {
        let differ = (of.key.get(field) ^ key.get(field)) & mask;
        let ok = match differ {
            0 => true,
            _ if is_whole(field) => keep(Unit::Whole(field)),
            d if d & (d - 1) == 0 => keep(Unit::Bit(field, d.trailing_zeros() as u8)),
            _ => return None,
        };
        if !ok {
            return None;
        }
    }
    for (field, range) in of.ranges() {
        let port = key.get(field) as u16;
        if port < range.min && !keep(Unit::Lowest(field)) || port > range.max && !keep(Unit::Highest(field)) {
            return None;
        }
    }
    found
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unit::Bit(field, bit) => write!(f, "bit {bit} of {field}"),
            Unit::Whole(field) => write!(f, "{field}"),
            Unit::Lowest(field) => write!(f, "the lowest {field}"),
            Unit::Highest(field) => write!(f, "the highest {field}"),
        }
    }
}
