//! TC's own calls: filters, ports, blocks. They take turns, as the kernel makes them.
//!
//! Each has three parts. The table is changed in one go, so that nobody merges what no longer holds: what is new stands beside what
//! is doomed from then on. What is doomed leaves the hardware. Then those are told, or tried again, who waited for that.

use super::{Displaced, Merger, NotRemoved, ReplaceError, alone::Alone, told_of};
use crate::{
    flower::{Cookie, Counters, Filter, Hook, Port},
    hardware::{Hardware, HardwareError},
    sync::atomic::Ordering::Relaxed,
    table::{Inserted, Table},
};

impl<H: Hardware> Merger<H> {
    /// TC has a filter, new or in place of one of the same cookie or the same identity. What derived from that one, and
    /// what the new one shadows, leaves the hardware. Its counters begin at 0. A `skip_sw` filter, which no walk will ever
    /// name, is installed at once. Gives the `skip_sw` filters that had to leave the hardware, since this one stands in front of
    /// them; they come back when it goes.
    ///
    /// # Errors
    /// The hardware did not remove a merged filter, or a `skip_sw` filter cannot be installed.
    pub fn replace(&self, cookie: Cookie, filter: Filter, inserted: Inserted) -> Result<Vec<Displaced>, ReplaceError> {
        let mut turn = self.control.lock();
        let now = self.now();
        let mut failed = Vec::new();
        let told = turn.displaced.len();
        let (id, skip_sw) = (filter.id, filter.skip_sw);
        let mut before = None;
        let mut closed = Vec::new();
        let mut table = self.table.write();
        let instead = table.cookie(id);
        for old in [Some(cookie), instead].into_iter().flatten() {
            let keeps_place = Some(old) == instead;
            if !keeps_place {
                let reordered = table.chains.ordered_by(old);
                forget(&mut table, &mut turn, &reordered);
            }
            turn.free(old);
            self.last_refused.lock().remove(&old);
            let Some(entry) = table.remove_filter(old, keeps_place) else { continue };
            if entry.filter.skip_sw {
                // It is no longer missing anywhere.
                turn.due(old);
            }
            if keeps_place {
                before = Some((old, entry));
            } else {
                closed.push(entry.account);
                forgive_emptied(&mut table, entry.filter.id.hook);
            }
        }
        if !table.chains.any(id.hook) {
            // Until now packets were sent there unseen.
            let ports = table.ports_of(id.hook);
            table.forget_sends(&ports);
        }
        self.enter(&mut table, &mut turn, cookie, filter, inserted, instead, None);
        self.sweep_out(table, now, &mut turn, &mut failed);
        let replaced: Vec<_> = before.iter().map(|(_, e)| e.account).chain(closed.iter().copied()).collect();
        self.remove_stuck_of(&replaced, now, &mut failed);
        let refused = match skip_sw {
            true if failed.is_empty() => self.install_alone(&mut turn, cookie, now, &mut failed).err(),
            _ => None,
        };
        let mut table = self.table.write();
        if skip_sw && (refused.is_some() || !failed.is_empty()) {
            // As TC does: the old one stays.
            closed.extend(table.remove_filter(cookie, before.is_some()).map(|e| e.account));
            forgive_emptied(&mut table, id.hook);
            // Nor is it missing anywhere, or what had its cookie before.
            turn.due(cookie);
            if let Some((old, entry)) = before.take() {
                // Its counts go on, also those of what is still in hardware.
                self.enter(&mut table, &mut turn, old, entry.filter, inserted, Some(cookie), Some(entry.account));
                turn.due(old);
            }
        }
        if let Some((old, entry)) = before {
            // What it had been given is told when TC destroys it; under its own name it begins anew.
            match old == cookie {
                true => closed.push(entry.account),
                false => closed.extend(table.retire(old, entry.account)),
            }
        }
        self.sweep_out(table, now, &mut turn, &mut failed);
        self.settle(&mut turn, now);
        self.close(closed);
        told_of(failed)?;
        match refused {
            Some(refusal) => Err(ReplaceError::SkipSw(refusal)),
            None => Ok(turn.displaced.get(told..).unwrap_or_default().to_vec()),
        }
    }

    /// TC removed a filter. When this returns nothing derived from it is in hardware, and its last counts are returned.
    ///
    /// # Errors
    /// The hardware did not remove a merged filter. Then the counts are kept until `destroy` is called again,
    /// and all is gone. That may be one that it was asked to remove before, for another reason.
    pub fn destroy(&self, cookie: Cookie) -> Result<Vec<Counters>, NotRemoved> {
        let mut turn = self.control.lock();
        let now = self.now();
        let mut failed = Vec::new();
        let account = self.take(&mut turn, &[cookie], now, &mut failed).pop().flatten();
        self.settle(&mut turn, now);
        self.tell_stuck(account.as_slice(), &mut failed);
        if let (Some(account), false) = (account, failed.is_empty()) {
            // Asked again when that is gone, it tells what has been counted until then.
            self.close(self.table.write().retire(cookie, account).into_iter().collect());
            return Err(NotRemoved(failed));
        }
        let counters = account.and_then(|account| self.ledger.lock().close(account));
        Ok(counters.unwrap_or_default().into_vec())
    }

    /// TC removed a whole priority of a chain, with one message (RTM_DELTFILTER with handle 0): each filter with its last counts.
    ///
    /// # Errors
    /// The hardware did not remove a merged filter. Then the counts of all are kept, each until [`destroy`](Merger::destroy) is called
    /// of it.
    pub fn destroy_priority(
        &self,
        hook: Hook,
        chain: u32,
        prio: u16,
    ) -> Result<Vec<(Cookie, Vec<Counters>)>, NotRemoved> {
        self.destroy_where(|f| (f.id.hook, f.id.chain, f.id.prio) == (hook, chain, prio))
    }

    /// A hook is gone with all its filters: its qdisc was removed, or its port. Each filter with its last counts.
    ///
    /// # Errors
    /// As [`destroy_priority`](Merger::destroy_priority).
    pub fn destroy_hook(&self, hook: Hook) -> Result<Vec<(Cookie, Vec<Counters>)>, NotRemoved> {
        self.destroy_where(|f| f.id.hook == hook)
    }

    fn destroy_where(&self, which: impl Fn(&Filter) -> bool) -> Result<Vec<(Cookie, Vec<Counters>)>, NotRemoved> {
        let mut turn = self.control.lock();
        let now = self.now();
        let mut failed = Vec::new();
        let mut cookies: Vec<Cookie> =
            self.table.read().filters().filter(|(_, e)| which(&e.filter)).map(|(cookie, _)| cookie).collect();
        cookies.sort_unstable();
        let accounts = self.take(&mut turn, &cookies, now, &mut failed);
        self.settle(&mut turn, now);
        self.tell_stuck(&accounts.iter().flatten().copied().collect::<Vec<_>>(), &mut failed);
        if !failed.is_empty() {
            let mut table = self.table.write();
            let kept = cookies.into_iter().zip(accounts).filter_map(|(cookie, account)| Some((cookie, account?)));
            let before = kept.filter_map(|(cookie, account)| table.retire(cookie, account)).collect();
            drop(table);
            self.close(before);
            return Err(NotRemoved(failed));
        }
        let mut ledger = self.ledger.lock();
        let closed = accounts.into_iter().map(|account| account.and_then(|a| ledger.close(a)).unwrap_or_default());
        let told = cookies.into_iter().zip(closed.map(|c| c.into_vec())).collect();
        Ok(told)
    }

    /// Tells of what was to leave the hardware before, has not, and derives from filters with these accounts.
    fn tell_stuck(&self, accounts: &[crate::table::Account], failed: &mut Vec<HardwareError>) {
        if self.stuck_count.load(Relaxed) == 0 {
            return;
        }
        for stuck in self.stuck.lock().iter() {
            let derived = stuck.parents.iter().any(|(account, _)| accounts.contains(account));
            if derived && !failed.iter().any(|error| error.id() == stuck.id) {
                failed.push(stuck.error.clone());
            }
        }
    }

    /// Takes filters out, with all that derives from them; their accounts.
    fn take(
        &self,
        turn: &mut Alone,
        cookies: &[Cookie],
        now: u64,
        failed: &mut Vec<HardwareError>,
    ) -> Vec<Option<crate::table::Account>> {
        let mut table = self.table.write();
        let mut accounts = Vec::with_capacity(cookies.len());
        for &cookie in cookies {
            let reordered = table.chains.ordered_by(cookie);
            forget(&mut table, turn, &reordered);
            turn.free(cookie);
            self.last_refused.lock().remove(&cookie);
            let entry = table.remove_filter(cookie, false);
            if entry.as_ref().is_some_and(|e| e.filter.skip_sw) {
                // It is no longer missing anywhere.
                turn.due(cookie);
            }
            let hook = entry.as_ref().map(|e| e.filter.id.hook);
            accounts.push(entry.map(|e| e.account).or_else(|| table.take_retired(cookie)));
            if let Some(hook) = hook.filter(|&hook| !table.chains.any(hook)) {
                // What was refused because of filters there need not be any more.
                let ports = table.ports_of(hook);
                table.forget_sends(&ports);
            }
        }
        self.sweep_out(table, now, turn, failed);
        let all: Vec<_> = accounts.iter().copied().flatten().collect();
        self.remove_stuck_of(&all, now, failed);
        accounts
    }

    /// An action that filters share by its index was changed (RTM_NEWACTION), as `change` does it to each of the filter's actions: what
    /// derives from filters that have it leaves the hardware. Their counters go on. `change` tells whether it changed something.
    ///
    /// # Errors
    /// The hardware did not remove a merged filter.
    pub fn action_changed(&self, mut change: impl FnMut(&mut crate::flower::Action) -> bool) -> Result<(), NotRemoved> {
        self.change(|table, turn| {
            for cookie in table.change_actions(&mut change) {
                forget(table, turn, &[cookie]);
                if is_alone(table, cookie) {
                    turn.due(cookie);
                }
            }
        })
    }

    /// A port is up, with carrier, or not. Software sends nothing to a port that is down, and drops what is redirected there;
    /// what rests on the opposite leaves the hardware. A port that is gone is down, and its filters are destroyed
    /// ([`destroy_hook`](Merger::destroy_hook)).
    ///
    /// # Errors
    /// The hardware did not remove a merged filter.
    pub fn port(&self, port: Port, up: bool) -> Result<(), NotRemoved> {
        self.change(|table, _| {
            let changed = if up { table.down.remove(&port) } else { table.down.insert(port) };
            if changed {
                table.molds.clear();
                table.forget_sends(&[port]);
            }
        })
    }

    /// A shared block's filters stand at a side of a port (`Hook::Ingress` or `Hook::Egress`) from now on. Those that are `skip_sw`
    /// are installed there; what of them is not is told by [`displaced`](Merger::displaced).
    ///
    /// # Errors
    /// The hardware did not remove a merged filter that sends there.
    pub fn bind(&self, side: Hook, block: u32) -> Result<(), NotRemoved> {
        self.change(|table, turn| {
            table.blocks.entry(side).or_default().insert(block);
            table.molds.clear();
            if let (Hook::Ingress(port) | Hook::Egress(port), true) = (side, table.chains.any(Hook::Block(block))) {
                table.forget_sends(&[port]);
            }
            let all: Vec<Cookie> = table.chains.members(Hook::Block(block)).collect();
            all.into_iter().filter(|&c| is_alone(table, c)).for_each(|cookie| turn.due(cookie));
        })
    }

    /// They no longer do. What goes through the block's filters leaves the hardware, at its other ports as well: a redirect may
    /// lead from those to this one.
    ///
    /// # Errors
    /// The hardware did not remove a merged filter.
    pub fn unbind(&self, side: Hook, block: u32) -> Result<(), NotRemoved> {
        self.change(|table, turn| {
            table.molds.clear();
            if let Some(blocks) = table.blocks.get_mut(&side) {
                blocks.remove(&block);
                if blocks.is_empty() {
                    table.blocks.remove(&side);
                }
            }
            if let (Hook::Ingress(port) | Hook::Egress(port), true) = (side, table.chains.any(Hook::Block(block))) {
                table.forgive_at(port);
            }
            let members = table.chains.members(Hook::Block(block)).collect::<Vec<_>>();
            let (alone, others): (Vec<_>, Vec<_>) = members.into_iter().partition(|&c| is_alone(table, c));
            forget(table, turn, &others);
            if let Hook::Ingress(port) = side {
                let paths: Vec<_> = alone.iter().flat_map(|&c| table.paths_through(c)).collect();
                let there = |p: &_| table.entry(*p).is_some_and(|e| e.path.port == port);
                let paths: Vec<_> = paths.into_iter().filter(there).collect();
                paths.into_iter().for_each(|path| table.drop_path(path));
            }
            alone.into_iter().for_each(|cookie| turn.due(cookie));
        })
    }

    /// Changes the table, takes out what is doomed by it, and lets those go on that waited for it.
    fn change(&self, change: impl FnOnce(&mut Table, &mut Alone)) -> Result<(), NotRemoved> {
        let mut turn = self.control.lock();
        let now = self.now();
        let mut failed = Vec::new();
        let mut table = self.table.write();
        change(&mut table, &mut turn);
        self.sweep_out(table, now, &mut turn, &mut failed);
        self.settle(&mut turn, now);
        told_of(failed)
    }

    /// Gives the table back, and takes out what was doomed in it.
    pub(super) fn sweep_out(
        &self,
        mut table: crate::sync::RwLockWriteGuard<'_, Table>,
        now: u64,
        turn: &mut Alone,
        failed: &mut Vec<HardwareError>,
    ) {
        let doomed = table.take_doomed();
        for doom in &doomed {
            // A skip_sw filter whose merged filter goes while it stays is tried again.
            if let Some([parent]) = table.entry(doom.path).map(|e| &e.path.parents[..])
                && is_alone(&table, parent.cookie)
            {
                turn.due(parent.cookie);
            }
        }
        drop(table);
        if !doomed.is_empty() {
            self.carry_out(&doomed, now, failed);
        }
    }

    fn close(&self, accounts: Vec<crate::table::Account>) {
        let mut ledger = self.ledger.lock();
        accounts.into_iter().for_each(|account| drop(ledger.close(account)));
    }

    /// Enters a filter, with a new account unless it has one, and dooms what does not hold with it.
    #[allow(clippy::too_many_arguments)]
    fn enter(
        &self,
        table: &mut Table,
        turn: &mut Alone,
        cookie: Cookie,
        filter: Filter,
        inserted: Inserted,
        instead: Option<Cookie>,
        account: Option<crate::table::Account>,
    ) {
        let account = account.unwrap_or_else(|| self.ledger.lock().open(filter.actions.len()));
        let born = self.inbox.next_epoch();
        let reordered = table.insert_filter(cookie, filter, account, inserted, instead, born);
        if let Some(before) = table.take_retired(cookie) {
            self.ledger.lock().close(before);
        }
        forget(table, turn, &reordered);
        table.shadow(cookie);
    }
}

impl<H> Merger<H> {
    /// The latest time that was told.
    pub(super) fn now(&self) -> u64 {
        self.clock.load(Relaxed)
    }
}

fn is_alone(table: &Table, cookie: Cookie) -> bool {
    table.filter(cookie).is_some_and(|e| e.filter.skip_sw)
}

/// What was refused since a hook had filters, of which the last may have gone, need not be any more.
fn forgive_emptied(table: &mut Table, hook: Hook) {
    if !table.chains.any(hook) {
        table.ports_of(hook).into_iter().for_each(|port| table.forgive_at(port));
    }
}

/// Forgets the ways of filters that stay: what was folded of them no longer holds.
fn forget(table: &mut Table, turn: &mut Alone, filters: &[Cookie]) {
    table.forget(filters);
    filters.iter().for_each(|&cookie| turn.free(cookie));
}
