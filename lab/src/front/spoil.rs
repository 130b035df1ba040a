//! A merged filter as it should not be, for a test of the test.

use crate::{case::Devices, generate::dice::Dice};
use flowmerge::{
    flower::{ActionKind, Field, Filter, Port},
    netlink::encode_front,
};
use std::collections::BTreeMap;

/// Makes one of the filters another one that the kernel takes: it compares less, sends elsewhere, or rewrites less.
pub fn spoiled(filters: &mut BTreeMap<u64, Filter>, devices: &Devices, dice: &mut Dice) -> bool {
    let mut all: Vec<&mut Filter> = filters.values_mut().collect();
    dice.shuffle(&mut all);
    all.into_iter().any(|filter| {
        let mut other = filter.clone();
        // No port of a fragment is seen, so that it makes no difference where one is asked for.
        let has_ports = [Field::SrcPort, Field::DstPort].iter().any(|&f| filter.matches.mask.get(f) != 0);
        let counts = |field: &Field| !field.row().whole && (!has_ports || *field != Field::IpFlags);
        let terms: Vec<Field> = filter.matches.terms().map(|(field, ..)| field).filter(counts).collect();
        let other_port = |port: Port| devices.ports().find(|&other| other != port).unwrap_or(port);
        match dice.below(3) {
            0 if !terms.is_empty() => {
                let field = *dice.pick(&terms);
                other.matches.clear(field);
            }
            1 => other.actions.retain(|action| !matches!(action.kind, ActionKind::Pedit(_))),
            _ => other.actions.iter_mut().for_each(|action| {
                if let ActionKind::Mirred(mirred) = &mut action.kind {
                    mirred.port = other_port(mirred.port);
                }
            }),
        }
        let is_other = other != *filter && encode_front(&other, devices).is_ok();
        if is_other {
            *filter = other;
        }
        is_other
    })
}
