//! Symbolic values: what a field holds at some point of the walk, in terms of the packet as it arrived.
//!
//! A field's bits come from one *source*, a field of the arrived packet or a parameter (part of a connection), in place;
//! writes then fix some bits and may flip others. So a value is `(source & kept) ^ flip`: under `kept` the source shows
//! through, xored with `flip`; elsewhere `flip` is the value. Header pushes and pops move values from field to field.

use crate::{
    conntrack::{Connection, Direction, tuple::address_bits},
    flower::{Field, Port},
};

/// Which part of a connection a parameter is. Those of the tuple are of the packet's direction, before and (`New...`) after
/// translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Source address.
    Src,
    /// Destination address.
    Dst,
    /// Source port.
    SrcPort,
    /// Destination port.
    DstPort,
    /// Source address after translation.
    NewSrc,
    /// Destination address after translation.
    NewDst,
    /// Source port after translation.
    NewSrcPort,
    /// Destination port after translation.
    NewDstPort,
    /// Mark.
    Mark,
    /// Labels.
    Labels,
}

/// A parameter: a part of the n-th connection of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Param {
    /// Which connection of the path.
    pub connection: u8,
    /// Which direction the packet has in it.
    pub direction: Direction,
    /// Which part.
    pub part: Part,
}

impl Param {
    /// The parameter's value for these connections.
    pub fn value(self, connections: &[&Connection]) -> u128 {
        let connection = connections[self.connection as usize];
        let (tuple, new) = (|| connection.tuple(self.direction), || connection.translated(self.direction));
        match self.part {
            Part::Src => address_bits(tuple().src),
            Part::Dst => address_bits(tuple().dst),
            Part::SrcPort => tuple().src_port as u128,
            Part::DstPort => tuple().dst_port as u128,
            Part::NewSrc => address_bits(new().src),
            Part::NewDst => address_bits(new().dst),
            Part::NewSrcPort => new().src_port as u128,
            Part::NewDstPort => new().dst_port as u128,
            Part::Mark => connection.mark as u128,
            Part::Labels => connection.labels,
        }
    }
}

/// Where the kept bits of a value come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The same bits of a field of the arrived packet.
    Arrived(Field),
    /// An eight-bit field of the arrived packet plus a constant, modulo 256.
    Sum(Field, u8),
    /// The same bits of a parameter.
    Param(Param),
    /// Nobody can tell, for this reason.
    Hidden(&'static str),
}

/// A field's value at some point of the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    /// Where kept bits come from.
    pub source: Source,
    /// Bits that are the source's.
    pub kept: u128,
    /// Xored in: flips kept bits, is the value of the others.
    pub flip: u128,
}

const ADDED_TO_PARTS: &str = "a constant was added to a byte of which parts were rewritten";

impl Value {
    /// A field of the arrived packet, as it is.
    pub fn arrived(field: Field) -> Value {
        Value { source: Source::Arrived(field), kept: field.ones(), flip: 0 }
    }

    /// What a field holds as the packet comes in at this port.
    pub fn at_first(field: Field, port: Port) -> Value {
        match field {
            Field::Indev => Value::known(port.0.into()),
            _ if field.is_conntrack() => Value::known(0),
            _ => Value::arrived(field),
        }
    }

    /// A constant.
    pub fn known(value: u128) -> Value {
        Value { source: Source::Hidden("known"), kept: 0, flip: value }
    }

    /// A parameter, over the width of the field that holds it.
    pub fn param(param: Param, field: Field) -> Value {
        Value { source: Source::Param(param), kept: field.ones(), flip: 0 }
    }

    /// Not to be told, over the width of the field.
    pub fn hidden(why: &'static str, field: Field) -> Value {
        Value { source: Source::Hidden(why), kept: field.ones(), flip: 0 }
    }

    /// The value where no bit depends on anything.
    pub fn constant(&self) -> Option<u128> {
        (self.kept == 0).then_some(self.flip)
    }

    /// The value after `(old & mask) ^ xor`, as `pedit` writes.
    pub fn written(self, mask: u128, xor: u128) -> Value {
        Value { kept: self.kept & mask, flip: self.flip & mask ^ xor, ..self }
    }

    /// The value after adding a constant to a whole eight-bit field.
    pub fn plus(self, add: u8) -> Value {
        match (self.source, self.kept, self.flip) {
            (_, 0, known) => Value::known((known as u8).wrapping_add(add) as u128),
            (Source::Arrived(f), 0xff, 0) => Value { source: Source::Sum(f, add), ..self },
            (Source::Sum(f, before), 0xff, 0) => Value { source: Source::Sum(f, before.wrapping_add(add)), ..self },
            // Carries come from the lowest bit that is not known; what lies below it still is.
            (_, kept, known) => {
                let low = kept & kept.wrapping_neg() & 0xff;
                let low = low.wrapping_sub(1) & 0xff;
                let sum = u128::from((known as u8).wrapping_add(add));
                Value { source: Source::Hidden(ADDED_TO_PARTS), kept: 0xff & !low, flip: sum & low }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_compose() {
        let v = Value::arrived(Field::IpTos).written(0x0f, 0x50).written(0xf1, 0x01);
        // (x & 0x0f ^ 0x50) & 0xf1 ^ 0x01: of x only bit 0 is left, and it is flipped.
        assert_eq!(v, Value { source: Source::Arrived(Field::IpTos), kept: 0x01, flip: 0x51 });
        assert_eq!(v.written(0, 7).constant(), Some(7));
        let twice = Value::arrived(Field::IpTos).written(0xff, 1).written(0xff, 1);
        assert_eq!(twice, Value::arrived(Field::IpTos), "flipped twice");
    }

    #[test]
    fn sums_add_up() {
        let v = Value::arrived(Field::IpTtl).plus(255).plus(255);
        assert_eq!(v.source, Source::Sum(Field::IpTtl, 254));
        assert_eq!(Value::known(1).plus(255).constant(), Some(0));
        let partly = Value::arrived(Field::IpTtl).written(3, 4).plus(253);
        assert_eq!(partly, Value::hidden(ADDED_TO_PARTS, Field::IpTtl), "what was known of it was so before");
        let low = Value::arrived(Field::IpTtl).written(0xfc, 1).plus(255);
        assert_eq!((low.kept, low.flip), (0xfc, 0), "no carry reaches the low bits");
        let high = Value::arrived(Field::IpTtl).written(0xf0, 0).plus(1);
        assert_eq!(high, Value { source: Source::Hidden(ADDED_TO_PARTS), kept: 0xf0, flip: 1 });
    }
}
