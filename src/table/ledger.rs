//! The ledger: what merged filters counted for the actions of each filter.
//!
//! A filter has an *account* from the moment it is entered until its end is told to the caller with its last counts. Paths name
//! accounts, not cookies: a cookie may be used again for another filter while what derived from the first is being removed.

use super::{meter::Counted, slots::Slots};
use crate::{flower::Counters, merge::Parent};

/// The name of an account; of one that is closed it stays unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Account {
    at: u32,
    generation: u32,
}

impl Account {
    /// Of no filter.
    pub const NOBODY: Account = Account { at: u32::MAX, generation: 0 };
}

/// All accounts.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: Slots<Box<[Counters]>>,
}

impl Ledger {
    /// Opens an account for a filter of that many actions.
    pub fn open(&mut self, actions: usize) -> Account {
        let (at, generation) = self.accounts.insert(vec![Counters::default(); actions].into());
        Account { at, generation }
    }

    /// Closes it; its last counts, by action.
    pub fn close(&mut self, account: Account) -> Option<Box<[Counters]>> {
        self.accounts.named(account.at, account.generation)?;
        self.accounts.remove(account.at)
    }

    /// What the actions were given.
    pub fn of(&self, account: Account) -> &[Counters] {
        self.accounts.named(account.at, account.generation).map_or(&[], |counters| counters)
    }

    /// How many accounts are open.
    pub fn count(&self) -> usize {
        self.accounts.count()
    }

    /// Hands counters to filters: each action that the way runs counts them.
    pub fn hand<'a>(&mut self, parents: impl Iterator<Item = (Account, &'a Parent)>, counted: Counted) {
        if counted.all.packets == 0 {
            return;
        }
        for (account, parent) in parents {
            let Some(actions) = self.accounts.named_mut(account.at, account.generation) else { continue };
            let here = |counters: Counters| {
                let longer = parent.longer.saturating_mul(i64::try_from(counters.packets).unwrap_or(i64::MAX));
                Counters { bytes: counters.bytes.saturating_add_signed(longer), ..counters }
            };
            let (all, passed) = (here(counted.all), here(counted.passed));
            for (i, action) in actions.iter_mut().enumerate() {
                match (parent.ran >> i & 1, parent.behind >> i & 1) {
                    (0, _) => {}
                    (_, 0) => action.add(all),
                    _ => action.add(passed),
                }
            }
        }
    }
}
