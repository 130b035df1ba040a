//! The MPLS stack of a filter: of the first entry in four attributes of its own, or of up to seven in a nest with their depths.
//!
//! An entry of which anything is asked, or nothing but that it is named in the nest, must be there: flower compares a bit for each
//! (`used_lses`). The kernel says the four attributes where they suffice.

use super::{
    super::{
        attributes::{Attribute, Attributes},
        error::DecodeError,
    },
    rows::Order,
};
use crate::flower::{Field, Match, ethertype};

pub(super) const OPTS: u16 = 99;
const LSE: u16 = 1;
const LSE_DEPTH: u16 = 1;

/// Label, traffic class, bottom of stack, TTL: as [`Field::MPLS`] has them behind the presence.
const PARTS: [Part; 4] = [
    Part { first: 70, stacked: 5, bytes: 4, order: Order::Host },
    Part { first: 69, stacked: 4, bytes: 1, order: Order::Network },
    Part { first: 68, stacked: 3, bytes: 1, order: Order::Network },
    Part { first: 67, stacked: 2, bytes: 1, order: Order::Network },
];

/// A part of an entry.
struct Part {
    /// Its attribute for the first entry.
    first: u16,
    /// Its attribute in the nest.
    stacked: u16,
    bytes: usize,
    order: Order,
}

/// Whether this module reads the attribute.
pub(super) fn knows(attribute: u16) -> bool {
    attribute == OPTS || PARTS.iter().any(|part| part.first == attribute)
}

fn looks_at(m: &Match) -> bool {
    ethertype::is_mpls(m.key.get(Field::EthType) as u16)
}

pub(super) fn read(flower: &Attributes, m: &mut Match, undecoded: &mut Vec<String>) -> Result<(), DecodeError> {
    if !looks_at(m) {
        return Ok(());
    }
    let Some(opts) = flower.nested(OPTS, "TCA_FLOWER_KEY_MPLS_OPTS")? else {
        let asked = PARTS.iter().any(|part| flower.has_any(&[part.first]));
        return if asked { read_entry(flower, &Field::MPLS[0], m, undecoded, |part| part.first) } else { Ok(()) };
    };
    for (kind, bytes) in opts.iter() {
        let entry = Attributes::parse("TCA_FLOWER_KEY_MPLS_OPTS_LSE", bytes)?;
        let depth = entry.u8(LSE_DEPTH)?.unwrap_or(0);
        match usize::from(depth).checked_sub(1).and_then(|at| Field::MPLS.get(at)) {
            Some(fields) if kind == LSE => read_entry(&entry, fields, m, undecoded, |part| part.stacked)?,
            _ => undecoded.push(format!("TCA_FLOWER_KEY_MPLS_OPTS {kind} of depth {depth}")),
        }
        let more = entry.iter().map(|(kind, _)| kind).filter(|&kind| kind > PARTS[0].stacked);
        undecoded.extend(more.map(|kind| format!("TCA_FLOWER_KEY_MPLS_OPT_LSE {kind}")));
    }
    Ok(())
}

/// `fields`: presence, and the four parts.
fn read_entry(
    from: &Attributes,
    fields: &[Field; 5],
    m: &mut Match,
    undecoded: &mut Vec<String>,
    attribute: fn(&Part) -> u16,
) -> Result<(), DecodeError> {
    m.set(fields[0], 1, 1);
    for (part, &field) in PARTS.iter().zip(&fields[1..]) {
        let Some(value) = from.bytes(attribute(part), part.bytes)? else { continue };
        let value = part.order.read(value);
        if value & !field.ones() != 0 {
            undecoded.push(format!("{field} {value:#x}"));
        }
        m.set(field, value, u128::MAX);
    }
    Ok(())
}

pub(super) fn write(m: &Match, out: &mut Vec<Attribute>) {
    let asked = |field: &Field| m.mask.get(*field) != 0;
    if !looks_at(m) || !Field::MPLS.iter().flatten().any(asked) {
        return;
    }
    let parts = |fields: &[Field; 5], attribute: fn(&Part) -> u16| -> Vec<Attribute> {
        let parts = PARTS.iter().zip(fields[1..].to_vec()).filter(|(_, field)| asked(field));
        let attributes =
            parts.map(|(part, field)| Attribute::new(attribute(part), part.order.write(m.key.get(field), part.bytes)));
        attributes.collect()
    };
    let first = parts(&Field::MPLS[0], |part| part.first);
    if !first.is_empty() && !Field::MPLS[1..].iter().flatten().any(asked) {
        out.extend(first);
        return;
    }
    let used = Field::MPLS.iter().zip(1u8..).filter(|(fields, _)| fields.iter().any(asked));
    let entries = used.map(|(fields, depth)| {
        let mut entry = vec![Attribute::new(LSE_DEPTH, [depth])];
        entry.extend(parts(fields, |part| part.stacked));
        Attribute::nest(LSE, entry)
    });
    out.push(Attribute::nest(OPTS, entries.collect()));
}
