//! The façade that a driver holds: filters and connections go in as TC and conntrack tell of them, walks as the datapath
//! finishes them; merged filters go to the hardware, their counts back to the filters.
//!
//! Single-threaded: the caller hands walks to [`Merger::walk`] and lets [`Merger::drain`] merge them. Everything that
//! takes merged filters out (a filter destroyed or replaced, a new shadow, a connection that leaves established) does so
//! before it returns, with the last reading handed to the parents first.

mod installed;
mod settings;
mod work;

pub use settings::{Limits, Turned};

use crate::{
    conntrack::{Connection, ConnectionId},
    flower::{Cookie, Counters, Counts, Filter, Hook, Port, capabilities},
    hardware::{Hardware, HardwareError, MergedId},
    merge::{self, Otherwise, Ports, Refusal, Scene, Step},
    table::{Connections, Inserted, Merged, Table, WayKey, overlap},
    walk::Walk,
};
use hashbrown::{HashMap, HashSet};
use installed::Stuck;
use smallvec::SmallVec;
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
}

/// Merged filters that the hardware did not remove. They are tracked on, and each `drain` tries again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not removed from hardware, and tried again: {}", .0.iter().map(|e| e.to_string()).collect::<Vec<_>>().join("; "))]
pub struct NotRemoved(pub Vec<HardwareError>);

/// What `replace` did not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplaceError {
    /// The filter is entered, but what it takes the place of is still in hardware.
    #[error(transparent)]
    NotRemoved(#[from] NotRemoved),
    /// A `skip_sw` filter that cannot go into hardware. It is not entered: nobody would look at it.
    #[error("a skip_sw filter that cannot go into hardware: {0}")]
    SkipSw(Refusal),
}

/// The library's façade.
pub struct Merger<H> {
    hardware: H,
    mend: bool,
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
    /// name, is installed at once.
    ///
    /// # Errors
    /// The hardware did not remove a merged filter, or a `skip_sw` filter cannot be installed.
    pub fn replace(&mut self, cookie: Cookie, filter: Filter, inserted: Inserted) -> Result<(), ReplaceError> {
        let mut failed = Vec::new();
        let same = |e: &Filter| e.id == filter.id;
        let members = || self.table.chains.members(filter.id.hook, filter.id.chain);
        let instead = members()
            .find(|&c| self.table.filter(c).is_some_and(|e| same(&e.filter)))
            .or_else(|| members().find(|&c| c == cookie));
        for old in [Some(cookie), instead].into_iter().flatten() {
            self.take_out(old, &mut failed);
            if Some(old) == instead && old != cookie {
                self.table.retire_filter(old);
            } else {
                let keep_place = self.table.filter(old).is_some_and(|e| same(&e.filter));
                self.table.remove_filter(old, keep_place);
                self.orphan_stuck(old);
            }
        }
        if !self.table.chains.any(filter.id.hook) {
            // Until now packets were sent there unseen.
            self.forget_sends(&self.ports_of(filter.id.hook), &mut failed);
        }
        self.table.insert_filter(cookie, filter, inserted, instead);
        self.forget(self.table.shadowed_by(cookie), &mut failed);
        told(failed)?;
        if self.table.filter(cookie).is_some_and(|e| e.filter.skip_sw) {
            self.install_alone(cookie).map_err(|refusal| {
                self.table.remove_filter(cookie, false);
                ReplaceError::SkipSw(refusal)
            })?;
        }
        Ok(())
    }

    /// Takes out what derives from a filter that goes or changes, and what rests on its place in the order of others.
    fn take_out(&mut self, cookie: Cookie, failed: &mut Vec<HardwareError>) {
        self.remove(self.table.derived_from_filter(cookie), failed);
        let entry = self.table.filter(cookie);
        let ordered = entry.map(|e| self.table.chains.ordered_by(cookie, &e.filter));
        self.forget(ordered.unwrap_or_default(), failed);
    }

    /// Takes out what derives from filters that stay, and forgets their ways: what was folded of them no longer holds.
    fn forget(&mut self, filters: Vec<Cookie>, failed: &mut Vec<HardwareError>) {
        for cookie in filters {
            self.remove(self.table.derived_from_filter(cookie), failed);
            self.table.forget_ways(cookie);
        }
    }

    /// Takes out what sends to these ports, or into them, and forgets the ways: what was folded of them no longer holds.
    fn forget_sends(&mut self, ports: &[Port], failed: &mut Vec<HardwareError>) {
        let (merged, ways) = self.table.sending_to(ports);
        self.remove(merged, failed);
        for way in ways {
            self.table.forget_way(way);
        }
    }

    /// The ports at which a hook's filters stand.
    fn ports_of(&self, hook: Hook) -> Vec<Port> {
        match hook {
            Hook::Ingress(port) | Hook::Egress(port) => vec![port],
            Hook::Block(block) => {
                let sides = self.blocks.iter().filter(|(_, b)| b.contains(&block)).map(|(&side, _)| side);
                sides.flat_map(|side| self.ports_of(side)).collect()
            }
        }
    }

    /// Installs a filter that software never looks at, as it is.
    fn install_alone(&mut self, cookie: Cookie) -> Result<(), Refusal> {
        let Some(filter) = self.table.filter(cookie).map(|e| e.filter.clone()) else {
            return Ok(());
        };
        let id = filter.id;
        if let Hook::Egress(port) = id.hook {
            return Err(Refusal::EgressFilters { filter: id, port });
        }
        let ports = self.ports_of(id.hook);
        // A packet that is to have a filter in front of this one would be taken by the hardware first.
        for other in self.table.chains.members(id.hook, id.chain) {
            let Some(shadow) = self.table.filter(other).map(|e| &e.filter) else {
                continue;
            };
            if shadow.id.prio <= id.prio && overlap(&shadow.matches, &filter.matches) {
                return Err(Refusal::Stale { filter: id, shadow: shadow.id });
            }
        }
        let mut key = filter.matches.key;
        for (field, range) in filter.matches.ranges() {
            key.set(field, range.min as u128);
        }
        for port in ports {
            let step = Step { cookie, filter: &filter, in_front: Vec::new(), met: Vec::new() };
            let tell_tag = self.counts == Counts::Frame;
            let scene = Scene { port, key: &key, steps: vec![step], connections: Vec::new(), tell_tag };
            let path = merge::fold(&scene, self)?;
            let changed = Refusal::Changed { filter: id, what: Otherwise::Connection };
            let matches = path.matches(&[]).ok_or(changed)?;
            let way = self.table.way(WayKey { port, steps: vec![(cookie, SmallVec::new())] });
            let path = self.table.add_path(way, path);
            self.install(id, port, path, Connections::new(), matches)?;
        }
        Ok(())
    }

    /// TC removed a filter. When this returns nothing derived from it is in hardware, and its last counts are returned.
    ///
    /// # Errors
    /// The hardware did not remove a merged filter.
    pub fn destroy(&mut self, cookie: Cookie) -> Result<Vec<Counters>, NotRemoved> {
        let mut failed = Vec::new();
        self.take_out(cookie, &mut failed);
        let entry = self.table.remove_filter(cookie, false);
        let hook = entry.as_ref().map(|e| e.filter.id.hook);
        let entry = entry.map(|e| e.counters);
        let counters = entry.or_else(|| self.table.take_retired(cookie));
        self.orphan_stuck(cookie);
        if let Some(hook) = hook.filter(|&hook| !self.table.chains.any(hook)) {
            // What was refused because of filters there need not be any more.
            self.forget_sends(&self.ports_of(hook), &mut failed);
        }
        told(failed)?;
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
        told(failed)
    }

    /// A shared block's filters stand at a side of a port (`Hook::Ingress` or `Hook::Egress`) from now on.
    ///
    /// # Errors
    /// The hardware did not remove a merged filter that sends there.
    pub fn bind(&mut self, side: Hook, block: u32) -> Result<(), NotRemoved> {
        let mut failed = Vec::new();
        self.blocks.entry(side).or_default().insert(block);
        if let (Hook::Ingress(port) | Hook::Egress(port), true) = (side, self.table.chains.any(Hook::Block(block))) {
            self.forget_sends(&[port], &mut failed);
        }
        told(failed)
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
        let filters = self.table.filters().filter(|(_, e)| e.filter.id.hook == Hook::Block(block));
        self.forget(filters.map(|(cookie, _)| cookie).collect(), &mut failed);
        told(failed)
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
        told(failed)
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
        let mut walks = Vec::with_capacity(self.queue.len());
        while let Some((ticket, walk)) = self.queue.pop_front() {
            let outcome = self.merge(&walk);
            walks.push((ticket, outcome));
        }
        let removed = std::mem::take(&mut self.removed);
        Drained { walks, removed }
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

fn told(failed: Vec<HardwareError>) -> Result<(), NotRemoved> {
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
