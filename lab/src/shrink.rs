//! A case that fails, made small: fewer packets, fewer filters, fewer actions and comparisons, as long as it fails.

use crate::case::{Case, Step};
use flowmerge::flower::{Field, Filter};

/// The smallest case that was found, in at most so many trials. `fails` runs one.
pub fn shrink<E>(case: Case, trials: usize, fails: &mut dyn FnMut(&Case) -> Result<bool, E>) -> Result<Case, E> {
    let mut search = Search { best: case, left: trials, fails };
    loop {
        let before = size(&search.best);
        search.list(|case| &mut case.steps)?;
        search.list(|case| &mut case.filters)?;
        search.list(|case| &mut case.shared)?;
        search.filters()?;
        search.payloads()?;
        if search.left == 0 || size(&search.best) == before {
            return Ok(search.best);
        }
    }
}

fn size(case: &Case) -> usize {
    let filters =
        case.filters.iter().map(|f| 1 + f.actions.len() + f.matches.terms().count() + f.matches.ranges().count());
    let bytes: usize = case.steps.iter().map(|s| if let Step::Frame(_, frame) = s { frame.len() } else { 1 }).sum();
    filters.sum::<usize>() + bytes + case.steps.len() + case.shared.len()
}

struct Search<'a, E> {
    best: Case,
    left: usize,
    fails: &'a mut dyn FnMut(&Case) -> Result<bool, E>,
}

impl<E> Search<'_, E> {
    /// Tries a smaller case; whether it fails too.
    fn try_this(&mut self, case: Case) -> Result<bool, E> {
        if self.left == 0 {
            return Ok(false);
        }
        self.left -= 1;
        let fails = (self.fails)(&case)?;
        if fails {
            self.best = case;
        }
        Ok(fails)
    }

    /// Leaves parts of a list out, halves first.
    fn list<T>(&mut self, of: fn(&mut Case) -> &mut Vec<T>) -> Result<(), E> {
        let mut chunk = of(&mut self.best).len().div_ceil(2);
        while chunk > 0 {
            let mut at = of(&mut self.best).len();
            while at > 0 {
                let from = at.saturating_sub(chunk);
                let mut case = self.best.clone();
                drop(of(&mut case).drain(from..at.min(of(&mut self.best).len())));
                self.try_this(case)?;
                at = from;
            }
            chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
        }
        Ok(())
    }

    /// Makes each filter do less and ask for less.
    fn filters(&mut self) -> Result<(), E> {
        for i in 0..self.best.filters.len() {
            for action in (0..self.best.filters[i].actions.len()).rev() {
                self.change(i, |filter| drop(filter.actions.remove(action)))?;
            }
            let terms: Vec<Field> = self.best.filters[i].matches.terms().map(|(field, ..)| field).collect();
            for field in terms.into_iter().filter(|&f| f != Field::Protocol) {
                self.change(i, |filter| filter.matches.clear(field))?;
            }
            self.change(i, |filter| filter.matches.src_range = None)?;
            self.change(i, |filter| filter.matches.dst_range = None)?;
        }
        Ok(())
    }

    fn change(&mut self, i: usize, change: impl FnOnce(&mut Filter)) -> Result<bool, E> {
        let mut case = self.best.clone();
        change(&mut case.filters[i]);
        if case.filters[i] == self.best.filters[i] {
            return Ok(false);
        }
        self.try_this(case)
    }

    /// Cuts frames short where that changes nothing.
    fn payloads(&mut self) -> Result<(), E> {
        for i in 0..self.best.steps.len() {
            for keep in [60, 42, 34] {
                let mut case = self.best.clone();
                if let Step::Frame(_, frame) = &mut case.steps[i]
                    && frame.len() > keep
                {
                    frame.truncate(keep);
                    self.try_this(case)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::port;
    use flowmerge::flower::{Action, Control, FilterId, Hook, Match};
    use std::convert::Infallible;

    #[test]
    fn what_does_not_matter_goes() {
        let filter = |handle| {
            let id = FilterId { hook: Hook::Ingress(port(1)), chain: 0, prio: 1, protocol: 0x800, handle };
            let m = Match::default().exact(Field::Protocol, 0x800).exact(Field::IpTtl, 64).exact(Field::IpTos, 4);
            Filter::flower(id, m, vec![Action::gact(Control::Pipe), Action::gact(Control::Shot)])
        };
        let case = Case {
            shared: vec![(port(1), 7)],
            filters: (1..9).map(filter).collect(),
            steps: (0..100).map(|n| Step::Frame(port(1), vec![n; 80])).collect(),
        };
        // It takes filter 5 with its TTL, and packet 33 before packet 77.
        let mut fails = |case: &Case| {
            let has = |n: u8| case.steps.iter().position(|s| matches!(s, Step::Frame(_, f) if f[0] == n));
            let filter = case.filters.iter().find(|f| f.id.handle == 5);
            Ok::<_, Infallible>(
                has(33).zip(has(77)).is_some_and(|(a, b)| a < b)
                    && filter.is_some_and(|f| f.matches.mask.get(Field::IpTtl) != 0),
            )
        };
        let small = shrink(case, 10_000, &mut fails).unwrap();
        assert_eq!((small.steps.len(), small.filters.len(), small.shared.len()), (2, 1, 0));
        assert!(small.filters[0].actions.is_empty());
        assert_eq!(small.filters[0].matches.terms().count(), 2, "the protocol stays");
        assert!(small.steps.iter().all(|s| matches!(s, Step::Frame(_, f) if f.len() == 34)));
    }
}
