//! A failing case made small: filters, actions, terms, connections, dimensions are left out as long as it fails in the same way.

use crate::{
    check::{Failure, run},
    part::PARTS,
    pipeline::{Case, Later},
    report::Stats,
    unit::is_whole,
};
use flowmerge::flower::{
    Filter,
    print::{Numbers, printed},
};

/// How a case fails. A panic of the code under test is a failure like any other.
pub fn fails(case: &Case) -> Option<Failure> {
    let run = || run(case, &mut Stats::default()).err();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run))
        .unwrap_or_else(|_| Some(Failure::new("panic", "it panics".into())))
}

/// The smallest case found that fails in the same way.
pub fn shrunk(case: &Case, failure: Failure) -> (Case, Failure) {
    let (mut case, mut failure) = (case.clone(), failure);
    loop {
        let smaller = smaller(&case).into_iter().find_map(|c| {
            let f = fails(&c).filter(|f| f.kind == failure.kind)?;
            Some((c, f))
        });
        match smaller {
            Some(found) => (case, failure) = found,
            None => return (case, failure),
        }
    }
}

fn smaller(case: &Case) -> Vec<Case> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Case)| {
        let mut c = case.clone();
        change(&mut c);
        all.push(c);
    };
    if !matches!(case.later, Later::Nothing) {
        with(&|c| c.later = Later::Nothing);
    }
    if case.dumped {
        with(&|c| c.dumped = false);
    }
    for i in 0..case.filters.len() {
        with(&|c| {
            c.filters.remove(i);
        });
    }
    for i in 0..case.connections.len() {
        with(&|c| {
            c.connections.remove(i);
        });
    }
    for i in 0..case.universe.dims.len() {
        with(&|c| {
            let (part, values) = c.universe.dims.remove(i);
            c.universe.base = c.universe.base.with(part, values[0]);
        });
        for value in 0..case.universe.dims[i].1.len() {
            if case.universe.dims[i].1.len() > 1 {
                with(&|c| {
                    c.universe.dims[i].1.remove(value);
                });
            }
        }
    }
    for (i, filter) in case.filters.iter().enumerate() {
        let mut less = lesser(filter);
        less.retain(|f| case.filters.iter().all(|g| (g.id.prio, g.matches) != (f.id.prio, f.matches) || g.id == f.id));
        for f in less {
            with(&|c| c.filters[i] = f.clone());
        }
    }
    if let Later::Add(filter) = &case.later {
        for f in lesser(filter) {
            with(&|c| c.later = Later::Add(Box::new(f.clone())));
        }
    }
    all
}

/// The filter without an action, a field, a bit of a field.
fn lesser(filter: &Filter) -> Vec<Filter> {
    let mut all = Vec::new();
    for i in 0..filter.actions.len() {
        let mut f = filter.clone();
        f.actions.remove(i);
        all.push(f);
    }
    let m = &filter.matches;
    for (field, mask) in m.mask.fields() {
        if m.mask.fields().any(|(f, _)| f.row().prerequisite == Some(field))
            || field == flowmerge::flower::Field::Protocol
        {
            continue;
        }
        let lowest = mask & mask.wrapping_neg();
        for bits in [mask, mask & !lowest, lowest] {
            if bits == 0 || bits != mask && (is_whole(field) || field.row().whole) {
                continue;
            }
            let mut f = filter.clone();
            f.matches.mask.set(field, mask & !bits);
            f.matches.key.set(field, m.key.get(field) & !bits);
            all.push(f);
        }
    }
    for (src, dst) in [(None, m.dst_range), (m.src_range, None)] {
        if (src, dst) != (m.src_range, m.dst_range) {
            let mut f = filter.clone();
            (f.matches.src_range, f.matches.dst_range) = (src, dst);
            all.push(f);
        }
    }
    all
}

/// A case in tc's words.
pub fn told(case: &Case) -> String {
    let filters: String = case.filters.iter().map(|f| format!("  {}\n", printed(f, &Numbers))).collect();
    let connections: String = case
        .connections
        .iter()
        .enumerate()
        .map(|(i, c)| format!("  ct{i}: {c} mark {} labels {:#x}\n", c.mark, c.labels))
        .collect();
    let dims: Vec<_> = case.universe.dims.iter().map(|(part, values)| format!("{part:?} {values:x?}")).collect();
    let later = match &case.later {
        Later::Nothing => String::new(),
        Later::Add(f) => format!("later added:\n  {}\n", printed(&**f, &Numbers)),
        Later::Mark(i, mark) => format!("later ct{i} has mark {mark}\n"),
        Later::Gone(i) => format!("later ct{i} is gone\n"),
        Later::Exceed => format!("later all packets exceed policer {}\n", crate::actions::POLICER),
        Later::Remove(handle) => format!("later removed: handle {handle:#x}\n"),
    };
    let dumped = if case.dumped { " (dumped, order unknown)" } else { "" };
    let base: Vec<_> =
        PARTS.into_iter().map(|part| (part, case.universe.base.get(part))).filter(|b| b.1 != 0).collect();
    let base: Vec<_> = base.iter().map(|(part, value)| format!("{part:?} {value:x}")).collect();
    format!(
        "filters{dumped}:\n{filters}connections:\n{connections}free: {}\nfixed: {}\n{later}",
        dims.join(", "),
        base.join(", ")
    )
}
