//! The cut: the bits of the arrived packet that keep shadows out.
//!
//! Most shadows contradict what the walk asks of its packets anyway. Those that contradict the connection's tuple cost no bit
//! and become a condition of filling in. For each of the others this packet differs from it in some bit (for a range or a
//! sum: in some set of bits, of which none can be spared). The one that keeps out most shadows is taken first, until none
//! is left; then each bit is given back without which all still stay out. Of a field that the table compares only as a whole, the
//! whole is one bit.

use super::{
    asked::Asked,
    bits,
    need::Needs,
    refusal::Refusal,
    shadow::{Order, Shadow},
    template::Condition,
};
use crate::{
    conntrack::Connection,
    flower::{Field, Key, Masks, Match},
};
use hashbrown::HashMap;

/// Bits of one arrived field, pinned to the packet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Cut {
    field: Field,
    mask: u128,
}

/// The ways to keep a shadow out: single bits, or sets of them.
fn cuts(shadow: &Shadow, asked: &Match, packet: &Key, masks: &Masks) -> Vec<Cut> {
    let mut cuts = Vec::new();
    for need in &shadow.needs {
        let Some(field) = need.field() else { continue };
        let (now, known) = (packet.get(field), asked.mask.get(field));
        if !masks.shows(field, packet) || !need.denied(now, field.ones()) {
            continue;
        }
        match *need {
            _ if masks.is_whole(field) => cuts.push(Cut { field, mask: field.ones() }),
            Needs::Bits { mask, value, .. } => {
                let differ = (now ^ value) & mask;
                let bits = (0..field.row().bits as u32).rev().filter(|b| differ >> b & 1 == 1);
                cuts.extend(bits.map(|b| Cut { field, mask: 1 << b }));
            }
            _ => {
                let mask = bits::fewest(field.row().bits.into(), known, |mask| need.denied(now, mask));
                cuts.push(Cut { field, mask });
            }
        }
    }
    cuts
}

/// Keeps all shadows out of the template: adds conditions and the cut. `packet` and `connections` are those of the walk at
/// hand.
///
/// # Errors
/// A shadow that this packet does not differ from. The template then asks for what packets and connections have of which the
/// same must be said.
pub fn keep_out(
    shadows: &[Shadow],
    template: &mut Asked,
    packet: &Key,
    connections: &[&Connection],
    masks: &Masks,
) -> Result<(), Refusal> {
    let (mut left, mut conditions) = (Vec::new(), Vec::new());
    for shadow in shadows {
        if shadow.is_impossible(&template.known) {
            continue;
        }
        let of_parameters = shadow.of_parameters(template);
        if of_parameters.iter().any(|is| !is.holds(connections)) {
            template.conditions.push(Condition::NotAll(of_parameters));
            continue;
        }
        let cuts = cuts(shadow, &template.known, packet, masks);
        if cuts.is_empty() {
            template.conditions.extend(of_parameters.into_iter().map(Condition::Holds));
            for need in &shadow.needs {
                let Some(field) = need.field() else { continue };
                let mask = if let Needs::Bits { mask, .. } = *need { mask } else { field.ones() };
                template.require(field, mask, packet.get(field));
            }
            return Err(why(shadow, unseen(shadow, packet, masks)));
        }
        left.push((shadow, cuts));
        conditions.extend(of_parameters.into_iter().map(Condition::Holds));
    }
    // Connections that keep such a shadow out by themselves have a path of their own, without that cut.
    template.conditions.extend(conditions);
    let mut asked = template.known;
    let chosen = choose(&left);
    for &Cut { field, mask } in &chosen {
        asked.set(field, packet.get(field), mask);
    }
    give_back(&mut asked, &chosen, &left, masks);
    for (field, mask) in asked.mask.fields() {
        let possible = template.require(field, mask, asked.key.get(field));
        debug_assert!(possible, "the packet meets its own template");
    }
    Ok(())
}

/// A field in which the packet differs from the shadow, and which the table cannot compare in packets like this.
fn unseen(shadow: &Shadow, packet: &Key, masks: &Masks) -> Option<Field> {
    let differs = |need: &Needs| need.field().filter(|&field| need.denied(packet.get(field), field.ones()));
    shadow.needs.iter().filter_map(differs).find(|&field| !masks.shows(field, packet))
}

/// Why a shadow that the packet does not differ from was not hit, or not in what the table sees.
fn why(shadow: &Shadow, unseen: Option<Field>) -> Refusal {
    let (filter, other) = (shadow.hit, shadow.filter);
    let unseen = unseen.map(|field| (field, "the table does not see it in packets like this"));
    match (&shadow.undecoded, shadow.hidden.or(unseen), shadow.order) {
        (Some(what), ..) => Refusal::ShadowUndecoded { filter, shadow: other, what: what.clone() },
        (None, Some((field, why)), _) => Refusal::ShadowHidden { filter, shadow: other, field, why },
        (None, None, Order::Unknown) => Refusal::Unordered { filter, other },
        (None, None, Order::Before) => Refusal::Stale { filter, shadow: other },
    }
}

/// Takes the cut that keeps out most shadows, until none is left; among equals the field first in the table, then the highest bit.
fn choose(left: &[(&Shadow, Vec<Cut>)]) -> Vec<Cut> {
    let mut keeps_out: HashMap<Cut, Vec<usize>, foldhash::fast::RandomState> = HashMap::default();
    for (i, (_, cuts)) in left.iter().enumerate() {
        for &cut in cuts {
            keeps_out.entry(cut).or_default().push(i);
        }
    }
    let mut worth: HashMap<Cut, usize, foldhash::fast::RandomState> =
        keeps_out.iter().map(|(&cut, shadows)| (cut, shadows.len())).collect();
    let mut out = vec![false; left.len()];
    let mut chosen = Vec::new();
    while let Some((&best, _)) = worth
        .iter()
        .filter(|(_, n)| **n > 0)
        .max_by_key(|(cut, n)| (**n, std::cmp::Reverse(cut.mask.count_ones()), std::cmp::Reverse(cut.field), cut.mask))
    {
        chosen.push(best);
        for &i in &keeps_out[&best] {
            if std::mem::replace(&mut out[i], true) {
                continue;
            }
            for cut in &left[i].1 {
                *worth.entry(*cut).or_default() -= 1;
            }
        }
    }
    chosen
}

/// Gives each bit of the cut back without which all shadows still stay out.
fn give_back(asked: &mut Match, chosen: &[Cut], left: &[(&Shadow, Vec<Cut>)], masks: &Masks) {
    for &Cut { field, mask } in chosen {
        let bits = (0..field.row().bits).map(|bit| 1u128 << bit).filter(|bit| mask & bit != 0);
        let parts: Vec<u128> = if masks.is_whole(field) { vec![mask] } else { bits.collect() };
        for bits in parts {
            let mut less = *asked;
            less.mask.set(field, asked.mask.get(field) & !bits);
            less.key.set(field, asked.key.get(field) & !bits);
            if left.iter().all(|(shadow, _)| shadow.is_impossible(&less)) {
                *asked = less;
            }
        }
    }
}
