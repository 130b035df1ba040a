//! The same once more: a merged filter as a filter, and the packets in another order.

use crate::{
    actions::IN,
    check::Failure,
    pipeline::Case,
    report::Stats,
    rng::Rng,
    table::Table,
    truth::{Seen, Software, does},
};
use flowmerge::{
    flower::{ActionKind, Cookie, Field, Filter},
    hardware::{Entry, Memory},
    merger::Merger,
    table::Inserted,
    walk::{Hit, Walk},
};

/// A merged filter that is the only filter merges to itself.
pub fn idempotent(
    case: &Case,
    entry: &Entry,
    from: &Seen,
    matched: &[&Seen],
    stats: &mut Stats,
) -> Result<(), Failure> {
    let filter = Filter::alone(IN, 1, entry.matches, entry.actions.clone());
    let fail = |text: String| Err(Failure::of("idempotent", entry, from, &text));

    let mut merger = Merger::new(Memory::default());
    merger.replace(Cookie(1), filter.clone(), Inserted::Observed).expect("memory removes");
    let walk = Walk { port: IN, key: from.key, hits: vec![Hit { filter: Cookie(1), found: Vec::new() }] };
    merger.walk(walk).expect("the queue is long");
    if let Err(refusal) = merger.drain(0).walks.pop().expect("one walk").1 {
        return fail(format!("put in as a filter it is refused: {refusal}"));
    }
    let Some(again) = merger.hardware().entries().pop() else { return Ok(()) };
    if again.matches != entry.matches {
        return fail(format!("put in as a filter it merges to {:?}", again.matches));
    }
    stats.count("merged filters that merge to themselves", 1);
    // A translation mends checksums, which TC's own `pedit` does not.
    let mends = |kind: &ActionKind| matches!(kind, ActionKind::Pedit(p) if p.mend);
    let mut software = Software::of(std::slice::from_ref(&filter), case.connections.clone());
    let tracked = entry.actions.iter().any(|a| mends(&a.kind));
    let hashed = entry.matches.mask.get(Field::Hash) != 0;
    for packet in matched {
        if does(&again.actions, again.trim, packet).as_ref() != Some(&packet.done) {
            return fail(format!("put in as a filter it merges to {:?}", again.actions));
        }
        if !tracked && !hashed && !packet.spec.is_fragment() && software.see(packet.spec).done.sent != packet.done.sent
        {
            return fail("as a filter in software it sends other frames".into());
        }
    }
    Ok(())
}

/// The packets that merged filters handle do not depend on the order in which they came.
pub fn in_another_order(
    case: &Case,
    seen: &[Seen],
    first: &mut Table,
    rng: &mut Rng,
    stats: &mut Stats,
) -> Result<(), Failure> {
    let mut order: Vec<usize> = (0..seen.len()).collect();
    rng.shuffle(&mut order);
    let mut second = Table::new(case);
    second.offer(seen, &order, rng, &mut Stats::default())?;
    if first.limited || second.limited {
        return Ok(());
    }
    for packet in seen {
        let handled = [&mut *first, &mut second].map(|t| t.merger.hardware().lookup(IN, &packet.key));
        match handled {
            [Some(_), Some(_)] | [None, None] => {}
            [one, other] => {
                let text = format!(
                    "{} is merged in one order and not in another: {one:?} {other:?}",
                    crate::truth::told(packet)
                );
                return Err(Failure::new("order", text));
            }
        }
    }
    stats.count("packets handled alike in both orders", seen.len());
    Ok(())
}
