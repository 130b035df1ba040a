//! What the actions have counted.
//!
//! TC counts per action, not per filter: filters whose actions have one index share them. So an action is known here by
//! its kind and index. It lives as long as a filter uses it, or for itself where it was made for itself (`tc actions add`);
//! a filter's replacement brings actions of its own, which begin at 0, and keeps those that it shares.

use flowmerge::flower::{Action, Counters, Filter};
use std::collections::HashMap;

/// An action's name in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Name {
    kind: String,
    index: u32,
}

impl Name {
    fn of(action: &Action) -> Name {
        Name { kind: action.name().to_string(), index: action.index }
    }
}

#[derive(Clone, Debug, Default)]
struct Account {
    counters: Counters,
    users: usize,
    /// Made for itself, by a command.
    standing: bool,
}

/// The counters of all actions.
#[derive(Clone, Debug, Default)]
pub struct Book {
    accounts: HashMap<Name, Account>,
}

impl Book {
    /// A filter comes, its actions having counted that much; what is known of an action already is kept.
    pub fn open(&mut self, filter: &Filter, counted: &[Counters]) {
        for (i, action) in filter.actions.iter().enumerate() {
            let account = self.accounts.entry(Name::of(action)).or_insert_with(|| Account {
                counters: counted.get(i).copied().unwrap_or_default(),
                ..Account::default()
            });
            account.users += 1;
        }
    }

    /// A filter's actions are known to have counted that much by now.
    pub fn set(&mut self, filter: &Filter, counted: &[Counters]) {
        for (action, &counters) in filter.actions.iter().zip(counted) {
            if let Some(account) = self.accounts.get_mut(&Name::of(action)) {
                account.counters = counters;
            }
        }
    }

    /// A filter goes.
    pub fn close(&mut self, filter: &Filter) {
        for action in &filter.actions {
            let name = Name::of(action);
            if let Some(account) = self.accounts.get_mut(&name) {
                account.users = account.users.saturating_sub(1);
                if account.users == 0 && !account.standing {
                    self.accounts.remove(&name);
                }
            }
        }
    }

    /// An action is made for itself, or changed.
    pub fn stand(&mut self, action: &Action, counted: Counters) {
        let account = self
            .accounts
            .entry(Name::of(action))
            .or_insert_with(|| Account { counters: counted, ..Account::default() });
        account.standing = true;
    }

    /// An action that was made for itself is deleted.
    pub fn fall(&mut self, kind: &str, index: u32) {
        let name = Name { kind: kind.to_string(), index };
        if let Some(account) = self.accounts.get_mut(&name) {
            account.standing = false;
            if account.users == 0 {
                self.accounts.remove(&name);
            }
        }
    }

    /// An action counts.
    pub fn count(&mut self, action: &Action, more: Counters) {
        if let Some(account) = self.accounts.get_mut(&Name::of(action)) {
            account.counters.add(more);
        }
    }

    /// What a filter's actions have counted.
    pub fn read(&self, filter: &Filter) -> Vec<Counters> {
        let of = |action| self.accounts.get(&Name::of(action)).map(|a| a.counters);
        filter.actions.iter().map(|a| of(a).unwrap_or_default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowmerge::flower::{ActionKind, Control, FilterId, Hook, Kind, Match, Port};

    fn filter(indices: &[u32]) -> Filter {
        Filter {
            id: FilterId { hook: Hook::Ingress(Port(1)), chain: 0, prio: 1, protocol: 0x0800, handle: 1 },
            kind: Kind::Flower,
            matches: Match::default(),
            actions: indices
                .iter()
                .map(|&index| Action {
                    kind: ActionKind::Gact { random: None },
                    control: Control::Shot,
                    index,
                    cookie: vec![],
                })
                .collect(),
            skip_sw: false,
            skip_hw: false,
            undecoded: vec![],
        }
    }

    #[test]
    fn shared_actions_outlive_a_filter_and_own_ones_do_not() {
        let (old, new, again) = (filter(&[1, 7]), filter(&[2, 7]), filter(&[1]));
        let mut book = Book::default();
        book.open(&old, &[]);
        book.count(&old.actions[0], Counters::one(100, 5));
        book.count(&old.actions[1], Counters::one(100, 5));
        book.open(&new, &[]);
        book.close(&old);
        let packets = |book: &Book, f| book.read(f).iter().map(|c| c.packets).collect::<Vec<_>>();
        assert_eq!(packets(&book, &new), [0, 1]);
        book.open(&again, &[]);
        assert_eq!(packets(&book, &again), [0], "the index was free again");
    }
}
