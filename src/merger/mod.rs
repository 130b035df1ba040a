//! The façade that a driver holds: filters and connections go in as TC and conntrack tell of them, walks as the datapath
//! finishes them; merged filters go to the hardware, their counts back to the filters.
//!
//! Single-threaded: the caller hands walks to [`Merger::walk`] and lets [`Merger::drain`] merge them. Everything that
//! takes merged filters out (a filter destroyed or replaced, a new shadow, a connection that leaves established) does so
//! before it returns, with the last reading handed to the parents first.

mod alone;
mod installed;
mod settings;
mod work;

pub use alone::Displaced;
pub use settings::{Limits, Turned};

use crate::{
    conntrack::{Connection, ConnectionId},
    flower::{Cookie, Counters, Counts, Filter, Hook, Masks, Port, capabilities},
    hardware::{Hardware, HardwareError, MergedId},
    merge::{Ports, Refusal},
    table::{Inserted, Merged, PathId, Table},
    walk::Walk,
};
use alone::Alone;
use hashbrown::{HashMap, HashSet};
use installed::Stuck;
use std::collections::VecDeque;

/// What became of a walk.
pub type Outcome = Result<Merge, Refusal>;

/// A walk that is in hardware now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The merged filter that handles packets like this one.
    pub id: MergedId,
    /// Whether it was installed for this walk, rather than there already.
    pub installed: bool,
}

/// The ticket of a walk handed in, told again with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What conntrack tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// There is a connection, or it changed.
    Is(ConnectionId, Connection),
    /// It is gone.
    Gone(ConnectionId),
}

/// A merged filter that left the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The merged filter.
    pub id: MergedId,
    /// What it counted in all, its parents have it already.
    pub counters: Counters,
}

/// What has happened since the last `drain`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// The walks handed in, in order.
    pub walks: Vec<(Ticket, Outcome)>,
    /// The merged filters that left the hardware, before the walks were merged.
    pub removed: Vec<Removed>,
    /// The `skip_sw` filters that left the hardware or did not come in at a port, and were not told by an error.
    pub displaced: Vec<Displaced>,
}

/// Merged filters that the hardware did not remove. They are tracked on, and each `drain` tries again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not removed from hardware, and tried again: {}", .0.iter().map(|e| e.to_string()).collect::<Vec<_>>().join("; "))]
pub struct NotRemoved(pub Vec<HardwareError>);

/// What `replace` did not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplaceError {
    /// The filter is entered, unless it is `skip_sw`, but what it takes the place of is still in hardware.
    #[error(transparent)]
    NotRemoved(#[from] NotRemoved),
    /// A `skip_sw` filter that cannot go into hardware. It is not entered: nobody would look at it. What it was to replace stays.
    #[error("a skip_sw filter that cannot go into hardware: {0}")]
    SkipSw(Refusal),
}

/// The library's façade.
pub struct Merger<H> {
    hardware: H,
    mend: bool,
    masks: Masks,
    counts: Counts,
    limits: Limits,
    turned: Turned,
    table: Table,
    /// The shared blocks at each side of a port.
    blocks: HashMap<Hook, HashSet<u32>>,
    down: HashSet<Port>,
    queue: VecDeque<(Ticket, Walk)>,
    tickets: u64,
    ids: u64,
    /// Entries that the hardware would not give up.
    stuck: Vec<Stuck>,
    removed: Vec<Removed>,
    alone: Alone,
}

impl<H: Hardware> Merger<H> {
    /// A merger for this hardware, with default limits.
    pub fn new(hardware: H) -> Merger<H> {
        Merger::with_limits(hardware, Limits::default())
    }

    /// A merger for this hardware.
    pub fn with_limits(hardware: H, limits: Limits) -> Merger<H> {
        let capabilities = hardware.capabilities();
        Merger {
            mend: capabilities.abilities.contains(capabilities::Abilities::MEND),
            masks: capabilities.masks,
            counts: capabilities.counts,
            hardware,
            limits,
            turned: Turned::default(),
            table: Table::default(),
            blocks: HashMap::new(),
            down: HashSet::new(),
            removed: Vec::new(),
            queue: VecDeque::new(),
            tickets: 0,
            ids: 0,
            stuck: Vec::new(),
            alone: Alone::default(),
        }
    }

    /// The hardware.
    pub fn hardware(&mut self) -> &mut H {
        &mut self.hardware
    }

    /// What the limits turned away.
    pub fn turned(&self) -> Turned {
        self.turned
    }

    /// TC has a filter, new or in place of one of the same cookie or the same identity. What derived from that one, and
    /// what the new one shadows, leaves the hardware. Its counters begin at 0. A `skip_sw` filter, which no walk will ever
    /// name, is installed at once. Gives the `skip_sw` filters that had to leave the hardware, since this one stands in front of
    /// them; they come back when it goes.
    ///
    /// # Errors
    /// The hardware did not remove a merged filter, or a `skip_sw` filter cannot be installed.
    pub fn replace(
        &mut self,
        cookie: Cookie,
        filter: Filter,
        inserted: Inserted,
    ) -> Result<Vec<Displaced>, ReplaceError> {
        let mut failed = Vec::new();
        let told = self.alone.displaced.len();
        let (id, skip_sw) = (filter.id, filter.skip_sw);
        let instead = self.table.cookie(id);
        let mut before = None;
        for old in [Some(cookie), instead].into_iter().flatten() {
            let keeps_place = Some(old) == instead;
            if !keeps_place {
                self.forget(self.table.chains.ordered_by(old), &mut failed);
            }
            self.remove(self.table.derived_from_filter(old), &mut failed);
            self.alone.free(old);
            let Some(entry) = self.table.remove_filter(old, keeps_place) else { continue };
            if old == cookie {
                self.orphan_stuck(old);
            } else {
                self.table.retire(old, entry.counters.clone());
            }
            if keeps_place {
                before = Some((old, entry));
            }
        }
        if !self.table.chains.any(id.hook) {
            // Until now packets were sent there unseen.
            self.forget_sends(&self.ports_of(id.hook), &mut failed);
        }
        self.enter(cookie, filter, inserted, instead, &mut failed);
        let refused = match skip_sw {
            true if failed.is_empty() => self.install_alone(cookie, &mut failed).err(),
            _ => None,
        };
        if skip_sw && (refused.is_some() || !failed.is_empty()) {
            // As TC does: the old one stays.
            self.table.remove_filter(cookie, before.is_some());
            if let Some((old, entry)) = before {
                let counters = entry.counters;
                self.enter(old, entry.filter, inserted, Some(cookie), &mut failed);
                self.table.restore(old, counters);
                self.alone.due(old);
            }
        }
        self.settle();
        told_of(failed)?;
        match refused {
            Some(refusal) => Err(ReplaceError::SkipSw(refusal)),
            None => Ok(self.alone.displaced[told..].to_vec()),
        }
    }

    /// Enters a filter, and forgets what does not hold with it.
    fn enter(
        &mut self,
        cookie: Cookie,
        filter: Filter,
        inserted: Inserted,
        instead: Option<Cookie>,
        failed: &mut Vec<HardwareError>,
    ) {
        let reordered = self.table.insert_filter(cookie, filter, inserted, instead);
        self.forget(reordered, failed);
        let shadowed = self.table.shadowed_by(cookie);
        self.forget_paths(shadowed.paths, failed);
        self.remove(shadowed.merged, failed);
        self.table.keep_out(shadowed.conditions);
    }

    /// Takes out what derives from filters that stay, and forgets their ways: what was folded of them no longer holds.
    fn forget(&mut self, filters: Vec<Cookie>, failed: &mut Vec<HardwareError>) {
        for cookie in filters {
            self.remove(self.table.derived_from_filter(cookie), failed);
            self.table.forget_ways(cookie);
            self.alone.free(cookie);
            // Others may stand before it now.
            if let Some(id) = self.table.filter(cookie).map(|e| e.filter.id) {
                self.table.forgive(id);
            }
        }
    }

    /// Takes out what is made of paths that no longer hold, and forgets them.
    fn forget_paths(&mut self, paths: impl IntoIterator<Item = PathId>, failed: &mut Vec<HardwareError>) {
        for path in paths {
            self.remove(self.table.merged_of_path(path).collect::<Vec<_>>(), failed);
            self.table.drop_path(path);
        }
    }

    /// Takes out what sends to these ports, or into them, and forgets the paths: what was folded of them no longer holds.
    fn forget_sends(&mut self, ports: &[Port], failed: &mut Vec<HardwareError>) {
        for &port in ports {
            let paths: Vec<_> = self.table.sending_to(port).collect();
            self.forget_paths(paths, failed);
            self.table.forgive_at(port);
        }
    }

    /// The ports at which a hook's filters stand.
    fn ports_of(&self, hook: Hook) -> Vec<Port> {
        match hook {
            Hook::Ingress(port) | Hook::Egress(port) => vec![port],
            Hook::Block(_) => self.sides_of(hook).into_iter().flat_map(|side| self.ports_of(side)).collect(),
        }
    }

    /// The sides of ports at which a hook's filters stand.
    fn sides_of(&self, hook: Hook) -> Vec<Hook> {
        match hook {
            Hook::Ingress(_) | Hook::Egress(_) => vec![hook],
            Hook::Block(block) => {
                self.blocks.iter().filter(|(_, b)| b.contains(&block)).map(|(&side, _)| side).collect()
            }
        }
    }

    /// TC removed a filter. When this returns nothing derived from it is in hardware, and its last counts are returned.
    ///
    /// # Errors
    /// The hardware did not remove a merged filter.
    pub fn destroy(&mut self, cookie: Cookie) -> Result<Vec<Counters>, NotRemoved> {
        let mut failed = Vec::new();
        self.remove(self.table.derived_from_filter(cookie), &mut failed);
        self.forget(self.table.chains.ordered_by(cookie), &mut failed);
        self.alone.free(cookie);
        let entry = self.table.remove_filter(cookie, false);
        let hook = entry.as_ref().map(|e| e.filter.id.hook);
        let counters = entry.map(|e| e.counters).or_else(|| self.table.take_retired(cookie));
        self.orphan_stuck(cookie);
        if let Some(hook) = hook.filter(|&hook| !self.table.chains.any(hook)) {
            // What was refused because of filters there need not be any more.
            self.forget_sends(&self.ports_of(hook), &mut failed);
        }
        self.settle();
        told_of(failed)?;
        Ok(counters.unwrap_or_default())
    }

    /// What merged filters counted for each action of a filter, read from the hardware now.
    pub fn stats(&mut self, cookie: Cookie) -> Vec<Counters> {
        for id in self.table.derived_from_filter(cookie) {
            self.read(id);
        }
        let counters = self.table.filter(cookie).map(|e| &e.counters);
        counters.or_else(|| self.table.retired(cookie)).cloned().unwrap_or_default()
    }

    /// A port is up, with carrier, or not. Software sends nothing to a port that is down, and drops what is redirected there;
    /// what rests on the opposite leaves the hardware.
    ///
    /// # Errors
    /// The hardware did not remove a merged filter.
    pub fn port(&mut self, port: Port, up: bool) -> Result<(), NotRemoved> {
        let mut failed = Vec::new();
        let changed = if up { self.down.remove(&port) } else { self.down.insert(port) };
        if changed {
            self.forget_sends(&[port], &mut failed);
        }
        self.settle();
        told_of(failed)
    }

    /// A shared block's filters stand at a side of a port (`Hook::Ingress` or `Hook::Egress`) from now on. Those that are `skip_sw`
    /// are installed there; what of them is not is told by [`displaced`](Merger::displaced).
    ///
    /// # Errors
    /// The hardware did not remove a merged filter that sends there.
    pub fn bind(&mut self, side: Hook, block: u32) -> Result<(), NotRemoved> {
        let mut failed = Vec::new();
        self.blocks.entry(side).or_default().insert(block);
        if let (Hook::Ingress(port) | Hook::Egress(port), true) = (side, self.table.chains.any(Hook::Block(block))) {
            self.forget_sends(&[port], &mut failed);
        }
        self.alone_at(Hook::Block(block));
        self.settle();
        told_of(failed)
    }

    /// They no longer do. What goes through the block's filters leaves the hardware, at its other ports as well: a redirect may
    /// lead from those to this one.
    ///
    /// # Errors
    /// The hardware did not remove a merged filter.
    pub fn unbind(&mut self, side: Hook, block: u32) -> Result<(), NotRemoved> {
        let mut failed = Vec::new();
        if let Some(blocks) = self.blocks.get_mut(&side) {
            blocks.remove(&block);
        }
        let alone = |c: &Cookie| self.table.filter(*c).is_some_and(|e| e.filter.skip_sw);
        let (alone, others): (Vec<_>, Vec<_>) = self.table.chains.members(Hook::Block(block)).partition(alone);
        self.forget(others, &mut failed);
        if let Hook::Ingress(port) = side {
            let there = |p: &PathId| self.table.path(*p).port == port;
            let paths = alone.iter().flat_map(|&c| self.table.paths_through(c)).filter(there).collect::<Vec<_>>();
            self.forget_paths(paths, &mut failed);
        }
        alone.into_iter().for_each(|cookie| self.alone.due(cookie));
        self.settle();
        told_of(failed)
    }

    /// Conntrack tells of a connection. Whatever rested on what it was leaves the hardware.
    ///
    /// # Errors
    /// The hardware did not remove a merged filter.
    pub fn connection(&mut self, event: ConnectionEvent) -> Result<(), NotRemoved> {
        let mut failed = Vec::new();
        match event {
            ConnectionEvent::Is(id, now) => {
                if self.table.connection(id).is_some_and(|before| rests_on_change(before, &now)) {
                    self.remove(self.table.derived_from_connection(id), &mut failed);
                }
                self.table.insert_connection(id, now);
            }
            ConnectionEvent::Gone(id) => {
                self.remove(self.table.derived_from_connection(id), &mut failed);
                self.table.remove_connection(id);
            }
        }
        told_of(failed)
    }

    /// A finished walk. It is merged by the next [`drain`](Merger::drain); `None` if the queue is full and it was dropped.
    pub fn walk(&mut self, walk: Walk) -> Option<Ticket> {
        if self.queue.len() >= self.limits.queue {
            self.turned.queue += 1;
            return None;
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.queue.push_back((ticket, walk));
        Some(ticket)
    }

    /// Tries again what the hardware would not remove, then merges the walks handed in.
    pub fn drain(&mut self) -> Drained {
        self.remove_stuck();
        self.alone.try_again();
        self.settle();
        let mut walks = Vec::with_capacity(self.queue.len());
        while let Some((ticket, walk)) = self.queue.pop_front() {
            let outcome = self.merge(&walk);
            walks.push((ticket, outcome));
        }
        let removed = std::mem::take(&mut self.removed);
        let displaced = std::mem::take(&mut self.alone.displaced);
        Drained { walks, removed, displaced }
    }

    /// All merged filters in hardware.
    pub fn merged(&self) -> impl Iterator<Item = (MergedId, &Merged)> {
        self.table.all_merged()
    }

    /// The table, to look things up in.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Reads all merged filters' counters and hands them to their parents.
    pub fn read_all(&mut self) {
        let all: Vec<_> = self.table.all_merged().map(|(id, _)| id).collect();
        for id in all {
            self.read(id);
        }
    }
}

impl<H> Merger<H> {
    /// Whether filters stand at a side of a port, its own or those of a shared block.
    fn has_filters(&self, side: Hook) -> bool {
        let mut blocks = self.blocks.get(&side).into_iter().flatten();
        self.table.chains.any(side) || blocks.any(|&b| self.table.chains.any(Hook::Block(b)))
    }
}

impl<H> Ports for Merger<H> {
    fn is_down(&self, port: Port) -> bool {
        self.down.contains(&port)
    }

    fn has_egress_filters(&self, port: Port) -> bool {
        self.has_filters(Hook::Egress(port))
    }

    fn has_ingress_filters(&self, port: Port) -> bool {
        self.has_filters(Hook::Ingress(port))
    }

    fn is_bound(&self, port: Port, block: u32) -> bool {
        self.blocks.get(&Hook::Ingress(port)).is_some_and(|blocks| blocks.contains(&block))
    }
}

fn told_of(failed: Vec<HardwareError>) -> Result<(), NotRemoved> {
    if failed.is_empty() { Ok(()) } else { Err(NotRemoved(failed)) }
}

/// Whether merged filters that rest on a connection must go when it becomes this.
fn rests_on_change(before: &Connection, now: &Connection) -> bool {
    now.qualifies().is_err()
        || (before.zone, before.original, before.reply) != (now.zone, now.original, now.reply)
        || (before.mark, before.labels) != (now.mark, now.labels)
}

#[cfg(test)]
mod tests;
