//! What cannot be judged by the packets of a universe, and by those beside it: where it is not seen what a bit is for.

use crate::{
    actions::DOWN,
    pipeline::Case,
    truth::{Gone, Seen},
};
use flowmerge::{
    flower::{
        Action, ActionKind, Field, Filter, FilterId,
        action::{Mpls, PeditHeader, PeditKey, Skbmod, Vlan},
    },
    hardware::Entry,
};

/// Whether what an action does by the packet's own values is not seen, so that the bits of those values look as if they could be
/// spared:
/// - a policer that nothing passes stands before what is sent, or nothing is sent (of what goes to the stack the model tells only that
///   it does), or there is nothing behind the action that ran for some packets and not for others;
/// - something is written twice: the second time what the first had made of the packet's value is lost;
/// - it depends on what no frame shows, or on what is read behind a label that is not the bottom and has none behind it;
/// - a constant is added to a TTL that was written in part: what becomes of it the merge does not tell, and so keeps out by other
///   bits a filter that no such TTL meets;
/// - `nat` changes one bit: packets that have it changed already are merged with those that have not.
pub fn is_unseen(case: &Case, entry: &Entry, from: &Seen) -> bool {
    let ran: Vec<_> = from.counted.iter().filter_map(|&(id, action, _)| action_of(case, id, action)).collect();
    let any = |is: &dyn Fn(&Action) -> bool| ran.iter().any(|a| is(a));
    let twice = |is: &dyn Fn(&Action) -> bool| ran.iter().filter(|a| is(a)).count() > 1;
    let last = ran.last().map(|a| &a.kind);
    let is_sent = from.done.gone == Gone::Away
        && !from.done.sent.is_empty()
        && matches!(last, Some(ActionKind::Mirred(m)) if m.port != DOWN);
    let exceeded = |a: &Action| matches!(a.kind, ActionKind::Police(_)) && from.exceeded.contains(&a.index);
    entry.actions.iter().any(exceeded)
        || !is_sent && any(&by_value)
        || matches!(last, Some(ActionKind::Mpls(Mpls::DecTtl)))
        || any(&|a| matches!(a.kind, ActionKind::Skbmod(Skbmod::Swap))) && twice(&writes_ethernet)
        || any(&by_value) && twice(&writes_network)
        || any(&adds) && any(&writes_ttl_in_part)
        || any(&nats_one_bit)
        || case.filters.iter().any(asks_no_byte)
        || case.filters.iter().flat_map(|f| &f.actions).any(bottomless)
}

fn action_of(case: &Case, id: FilterId, action: usize) -> Option<&Action> {
    case.filters.iter().find(|f| f.id == id)?.actions.get(action)
}

fn by_value(action: &Action) -> bool {
    matches!(action.kind, ActionKind::Nat(_) | ActionKind::Skbmod(_))
}

fn writes_ethernet(action: &Action) -> bool {
    match &action.kind {
        ActionKind::Skbmod(skbmod) => *skbmod != Skbmod::Ecn,
        ActionKind::Pedit(p) => p.keys.iter().any(|k| k.header == PeditHeader::Ethernet),
        ActionKind::Vlan(vlan) => *vlan == Vlan::PopEthernet,
        _ => false,
    }
}

fn writes_network(action: &Action) -> bool {
    match &action.kind {
        ActionKind::Pedit(p) => p.keys.iter().any(|k| k.header != PeditHeader::Ethernet),
        ActionKind::Skbmod(skbmod) => *skbmod == Skbmod::Ecn,
        ActionKind::Nat(_) => true,
        ActionKind::Ct(ct) => ct.nat.is_some(),
        _ => false,
    }
}

fn keys(action: &Action) -> &[PeditKey] {
    if let ActionKind::Pedit(p) = &action.kind { &p.keys } else { &[] }
}

fn adds(action: &Action) -> bool {
    keys(action).iter().any(|k| k.add)
}

/// Whether it writes to the word that a TTL, of either version, is a part of.
fn writes_ttl_in_part(action: &Action) -> bool {
    keys(action).iter().any(|k| !k.add && matches!(k.offset, 4 | 8))
}

fn nats_one_bit(action: &Action) -> bool {
    matches!(&action.kind, ActionKind::Nat(nat) if ((nat.old ^ nat.new) & nat.mask).count_ones() == 1)
}

fn bottomless(action: &Action) -> bool {
    match &action.kind {
        ActionKind::Mpls(Mpls::Push { entry, .. } | Mpls::Modify(entry)) => entry.bos == Some(false),
        _ => false,
    }
}

fn asks_no_byte(filter: &Filter) -> bool {
    [Field::L2Miss, Field::Hash].iter().any(|&field| filter.matches.mask.get(field) != 0)
}

/// Whether what actions do depends on nothing that masks of the arrived packet do not tell: then one way is one merged filter.
pub fn values_are_told(case: &Case) -> bool {
    sums_are_told(case) && !case.filters.iter().flat_map(|f| &f.actions).any(chooses)
}

/// Whether what an action does depends on a value that no header's shape tells.
fn chooses(action: &Action) -> bool {
    matches!(
        action.kind,
        ActionKind::Mpls(Mpls::DecTtl) | ActionKind::Nat(_) | ActionKind::Skbmod(Skbmod::Swap | Skbmod::Ecn)
    )
}

/// Whether every sum is compared in bits that are a mask of what was added to, the lowest ones; and no rest of a port in a range.
fn sums_are_told(case: &Case) -> bool {
    let actions = || case.filters.iter().flat_map(|f| &f.actions);
    let low = |f: &Filter| {
        let mask = f.matches.mask.get(Field::IpTtl);
        mask & (mask + 1) == 0
    };
    // What is left of a port that was rewritten in part, and is in a range, no mask may tell.
    let ports = |k: &PeditKey| matches!(k.header, PeditHeader::Tcp | PeditHeader::Udp) && k.offset == 0;
    if actions().flat_map(keys).any(ports) && case.filters.iter().any(|f| f.matches.ranges().next().is_some()) {
        return false;
    }
    // A write to the word of a TTL may leave only the highest bits of a sum.
    let overwritten = actions().any(writes_ttl_in_part);
    !actions().any(adds) || case.filters.iter().all(low) && !overwritten
}
