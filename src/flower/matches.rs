//! What a filter asks of a packet: a key under a mask, and port ranges.

use super::{field::Field, key::Key};

/// An inclusive range of a port field, in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// The lowest port that matches.
    pub min: u16,
    /// The highest port that matches.
    pub max: u16,
}

impl Range {
    /// Whether the range holds the port.
    pub fn contains(&self, port: u16) -> bool {
        (self.min..=self.max).contains(&port)
    }
}

/// Key, mask and port ranges of a filter. Bits of the key outside the mask are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Match {
    /// The values asked for.
    pub key: Key,
    /// The bits that are compared.
    pub mask: Key,
    /// Range of the source port.
    pub src_range: Option<Range>,
    /// Range of the destination port.
    pub dst_range: Option<Range>,
}

impl Match {
    /// Adds a comparison. Bits already asked for keep their place in the mask and take the new value.
    pub fn set(&mut self, field: Field, value: u128, mask: u128) {
        let mask = mask & field.ones();
        self.mask.set(field, self.mask.get(field) | mask);
        self.key.set(field, self.key.get(field) & !mask | value & mask);
    }

    /// The same, by value, for building.
    pub fn with(mut self, field: Field, value: u128, mask: u128) -> Match {
        self.set(field, value, mask);
        self
    }

    /// An exact comparison of the whole field.
    pub fn exact(self, field: Field, value: u128) -> Match {
        self.with(field, value, field.ones())
    }

    /// The port ranges with their fields.
    pub fn ranges(&self) -> impl Iterator<Item = (Field, Range)> {
        [(Field::SrcPort, self.src_range), (Field::DstPort, self.dst_range)]
            .into_iter()
            .filter_map(|(f, r)| Some((f, r?)))
    }

    /// The fields compared: field, value, mask.
    pub fn terms(&self) -> impl Iterator<Item = (Field, u128, u128)> + '_ {
        self.mask.fields().map(|(f, mask)| (f, self.key.get(f), mask))
    }

    /// Whether a packet with this key matches.
    pub fn fits(&self, packet: &Key) -> bool {
        self.key.agrees(packet, &self.mask)
            && self.ranges().all(|(field, range)| range.contains(packet.get(field) as u16))
    }
}
