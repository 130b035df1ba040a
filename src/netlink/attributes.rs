//! Netlink attributes: a number, a length and a value, of which some hold further attributes.
//!
//! Read with netlink-packet-core's iterator and written through its `Nla` trait. The kernel sends numbers in host order unless
//! said otherwise; `_be` marks the others.

use super::error::{DecodeError, Fault};
use netlink_packet_core::{Emitable, NLA_F_NESTED, Nla, NlasIterator};

/// The attributes of one part of a message.
#[derive(Clone, Debug)]
pub(super) struct Attributes<'a> {
    /// The part, for errors.
    part: &'static str,
    list: Vec<(u16, &'a [u8])>,
}

impl<'a> Attributes<'a> {
    /// Takes the bytes apart; NLA_F_NESTED and NLA_F_NET_BYTEORDER are left out of the numbers.
    pub(super) fn parse(part: &'static str, bytes: &'a [u8]) -> Result<Attributes<'a>, DecodeError> {
        let mut list = Vec::new();
        let mut offset = 0;
        for attribute in NlasIterator::new(bytes) {
            let length = bytes.len();
            let attribute = attribute.map_err(|_| DecodeError::new(part, Fault::Overrun { length, offset }))?;
            let (kind, end) = (attribute.kind(), usize::from(attribute.length()));
            // `value()` would borrow from the iterator's item; the whole attribute borrows from the message.
            list.push((kind, &attribute.into_inner()[4..end]));
            offset += end.next_multiple_of(4);
        }
        Ok(Attributes { part, list })
    }

    /// All of them, as they stand.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &'a [u8])> + '_ {
        self.list.iter().copied()
    }

    /// Runs of them in which no number stands twice.
    pub(super) fn split_where_repeated(&self) -> Vec<Attributes<'a>> {
        let mut runs: Vec<Attributes<'a>> = Vec::new();
        for &(kind, value) in &self.list {
            match runs.last_mut().filter(|run| !run.has_any(&[kind])) {
                Some(run) => run.list.push((kind, value)),
                None => runs.push(Attributes { part: self.part, list: vec![(kind, value)] }),
            }
        }
        runs
    }

    /// An attribute's bytes. Of several with one number the last counts, as in the kernel.
    pub(super) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.list.iter().rev().find(|a| a.0 == kind).map(|a| a.1)
    }

    /// Whether any of these is there.
    pub(super) fn has_any(&self, kinds: &[u16]) -> bool {
        self.list.iter().any(|a| kinds.contains(&a.0))
    }

    /// The first `N` bytes of an attribute.
    pub(super) fn array<const N: usize>(&self, kind: u16) -> Result<Option<[u8; N]>, DecodeError> {
        match self.get(kind) {
            Some(value) => self.head(kind, value).map(Some),
            None => Ok(None),
        }
    }

    /// The first `N` bytes of an attribute that must be there.
    pub(super) fn need<const N: usize>(&self, kind: u16) -> Result<[u8; N], DecodeError> {
        self.array(kind)?.ok_or_else(|| DecodeError::new(self.part, Fault::Missing { attribute: kind }))
    }

    fn head<const N: usize>(&self, attribute: u16, value: &[u8]) -> Result<[u8; N], DecodeError> {
        let (have, want) = (value.len(), N);
        let fault = Fault::AttributeShort { attribute, have, want };
        value.first_chunk().copied().ok_or_else(|| DecodeError::new(self.part, fault))
    }

    /// The first `want` bytes of an attribute.
    pub(super) fn bytes(&self, kind: u16, want: usize) -> Result<Option<&'a [u8]>, DecodeError> {
        let Some(value) = self.get(kind) else { return Ok(None) };
        let fault = Fault::AttributeShort { attribute: kind, have: value.len(), want };
        let value = value.get(..want).ok_or_else(|| DecodeError::new(self.part, fault))?;
        Ok(Some(value))
    }

    pub(super) fn u8(&self, kind: u16) -> Result<Option<u8>, DecodeError> {
        Ok(self.array::<1>(kind)?.map(|b| b[0]))
    }

    pub(super) fn u16(&self, kind: u16) -> Result<Option<u16>, DecodeError> {
        Ok(self.array(kind)?.map(u16::from_ne_bytes))
    }

    pub(super) fn u32(&self, kind: u16) -> Result<Option<u32>, DecodeError> {
        Ok(self.array(kind)?.map(u32::from_ne_bytes))
    }

    pub(super) fn u64(&self, kind: u16) -> Result<Option<u64>, DecodeError> {
        Ok(self.array(kind)?.map(u64::from_ne_bytes))
    }

    pub(super) fn u16_be(&self, kind: u16) -> Result<Option<u16>, DecodeError> {
        Ok(self.array(kind)?.map(u16::from_be_bytes))
    }

    pub(super) fn u32_be(&self, kind: u16) -> Result<Option<u32>, DecodeError> {
        Ok(self.array(kind)?.map(u32::from_be_bytes))
    }

    /// Text up to its 0; what is not UTF-8 is replaced.
    pub(super) fn text(&self, kind: u16) -> Option<String> {
        let value = self.get(kind)?;
        let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }

    /// The attributes inside an attribute.
    pub(super) fn nested(&self, kind: u16, part: &'static str) -> Result<Option<Attributes<'a>>, DecodeError> {
        self.get(kind).map(|value| Attributes::parse(part, value)).transpose()
    }
}

/// An attribute to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attribute {
    kind: u16,
    value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Bytes(Vec<u8>),
    /// Sent with NLA_F_NESTED, as act_ct demands; the kernel's own dumps of filters leave it out.
    Nest(Vec<Attribute>),
}

impl Attribute {
    pub(super) fn new(kind: u16, value: impl Into<Vec<u8>>) -> Attribute {
        Attribute { kind, value: Value::Bytes(value.into()) }
    }

    pub(super) fn nest(kind: u16, attributes: Vec<Attribute>) -> Attribute {
        Attribute { kind, value: Value::Nest(attributes) }
    }

    /// Text with its closing 0.
    pub(super) fn text(kind: u16, text: &str) -> Attribute {
        Attribute::new(kind, [text.as_bytes(), &[0]].concat())
    }
}

impl Nla for Attribute {
    fn value_len(&self) -> usize {
        match &self.value {
            Value::Bytes(bytes) => bytes.len(),
            Value::Nest(attributes) => attributes.as_slice().buffer_len(),
        }
    }

    fn kind(&self) -> u16 {
        match self.value {
            Value::Bytes(_) => self.kind,
            Value::Nest(_) => self.kind | NLA_F_NESTED,
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match &self.value {
            Value::Bytes(bytes) => buffer.copy_from_slice(bytes),
            Value::Nest(attributes) => attributes.as_slice().emit(buffer),
        }
    }
}

/// The attributes as bytes.
pub(super) fn emit(attributes: &[Attribute]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}
