//! `skip_sw` filters: software never hits them, so that no walk names them. They go into hardware at once and as they are, one merged
//! filter at each port of their hook.
//!
//! Hardware has no priorities. So one is there only while no filter in front of it overlaps it; and what is merged of filters behind
//! it is kept out of it, like out of any shadow, at the hit that the packet makes as it arrives. A filter that comes in
//! front later *displaces* it: it leaves the hardware before that filter is entered, and waits.
//!
//! ```text
//!              replace                      a filter in front comes, what it rests on changes
//!   (refused) ◄─────── (none) ──► in hardware ───────────────────────────────► due ──► tried at once
//!                                     ▲                                         ▲        │ refused
//!                                     │ installed                               │        ▼
//!                                     └───────── tried ◄─── that filter goes, or drain ── waiting
//! ```

use super::{Locked, Merger};
use crate::{
    flower::{Cookie, Counts, Field, Filter, Hook, Port},
    hardware::{Hardware, HardwareError},
    merge::{self, Order, Otherwise, Refusal, Scene, Step},
    table::{Table, WayKey, life::State},
};
use smallvec::smallvec;
use std::collections::{BTreeMap, BTreeSet};

/// A `skip_sw` filter that TC has and the hardware has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Displaced {
    /// The filter.
    pub cookie: Cookie,
    /// The side of a port at which it is missing.
    pub side: Hook,
    /// Why.
    pub why: Refusal,
}

/// Which `skip_sw` filters are not where they should be.
#[derive(Debug, Default)]
pub(super) struct Alone {
    waiting: BTreeMap<(Cookie, Hook), Refusal>,
    /// By the filter in front that keeps them out.
    kept_out: BTreeMap<Cookie, BTreeSet<Cookie>>,
    /// To be tried before the running call returns.
    due: BTreeSet<Cookie>,
    /// Those that were displaced and not told of yet.
    pub(super) displaced: Vec<Displaced>,
}

impl Alone {
    /// What was kept out by this filter, which goes or changes its place, is tried again.
    pub(super) fn free(&mut self, cookie: Cookie) {
        self.due.extend(self.kept_out.remove(&cookie).into_iter().flatten());
    }

    /// It is tried before the running call returns.
    pub(super) fn due(&mut self, cookie: Cookie) {
        self.due.insert(cookie);
    }

    /// All that no filter in front keeps out is tried again.
    pub(super) fn try_again(&mut self) {
        let kept_out = |why: &Refusal| matches!(why, Refusal::Behind { .. } | Refusal::Unordered { .. });
        self.due.extend(self.waiting.iter().filter(|(_, why)| !kept_out(why)).map(|(&(cookie, _), _)| cookie));
    }
}

impl<H> Merger<H> {
    /// The `skip_sw` filters that are not in hardware, where and why. They are tried again when the filter in front of them goes,
    /// and else with each [`drain`](Merger::drain).
    pub fn displaced(&self) -> Vec<Displaced> {
        let turn = self.control.lock();
        turn.waiting.iter().map(|(&(cookie, side), why)| Displaced { cookie, side, why: why.clone() }).collect()
    }
}

impl<H: Hardware> Merger<H> {
    /// Tries what is due.
    pub(super) fn settle(&self, turn: &mut Alone, now: u64) {
        while let Some(cookie) = turn.due.pop_first() {
            let (filter, sides) = {
                let table = self.table.read();
                let filter = table.filter(cookie).filter(|e| e.filter.skip_sw).map(|e| e.filter.clone());
                let sides = filter.as_ref().map(|f| table.sides_of(f.id.hook)).unwrap_or_default();
                (filter, sides)
            };
            let all = (cookie, Hook::Ingress(Port(0)))..=(cookie, Hook::Block(u32::MAX));
            let was: Vec<Hook> = turn.waiting.range(all).map(|(k, _)| k.1).collect();
            for &side in was.iter().filter(|side| !sides.contains(side)) {
                turn.waiting.remove(&(cookie, side));
            }
            let Some(filter) = filter else { continue };
            for side in sides {
                match self.install_at(turn, cookie, &filter, side, now) {
                    Ok(()) => {
                        turn.waiting.remove(&(cookie, side));
                    }
                    Err(why) => {
                        turn.waiting.insert((cookie, side), why.clone());
                        if !was.contains(&side) {
                            turn.displaced.push(Displaced { cookie, side, why });
                        }
                    }
                }
            }
        }
    }

    /// Installs a new `skip_sw` filter at all ports of its hook, or at none.
    pub(super) fn install_alone(
        &self,
        turn: &mut Alone,
        cookie: Cookie,
        now: u64,
        failed: &mut Vec<HardwareError>,
    ) -> Result<(), Refusal> {
        let (filter, sides) = {
            let table = self.table.read();
            let Some(filter) = table.filter(cookie).map(|e| e.filter.clone()) else {
                return Ok(());
            };
            let sides = table.sides_of(filter.id.hook);
            (filter, sides)
        };
        for side in sides {
            if let Err(refusal) = self.install_at(turn, cookie, &filter, side, now) {
                let mut table = self.table.write();
                table.forget_ways(cookie);
                self.sweep_out(table, now, turn, failed);
                turn.due.remove(&cookie);
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// What waited to be offered again and was turned down is tried once more, from the beginning, or told to be displaced.
    pub(super) fn recover(&self, turn: &mut Alone, now: u64) {
        let lost = std::mem::take(&mut *self.lost.lock());
        if lost.is_empty() {
            return;
        }
        let mut table = self.table.write();
        for path in lost {
            let empty = self.shard(self.shard_of_path(path)).first_of(path).is_none();
            if empty && table.entry(path).is_some_and(|e| e.alone) {
                table.drop_path(path);
            }
        }
        self.sweep_out(table, now, turn, &mut Vec::new());
    }

    /// Whether a `skip_sw` filter is in hardware at a port, or about to be.
    fn is_alone(&self, table: &Table, cookie: Cookie, port: Port) -> bool {
        let mut here = table.paths_through(cookie).filter(|&p| table.entry(p).is_some_and(|e| e.path.port == port));
        here.any(|path| {
            let shard = self.shard(self.shard_of_path(path));
            let first = shard.first_of(path).and_then(|id| shard.merged(id));
            first.is_some_and(|m| matches!(m.state, State::Installed | State::Waiting | State::Installing))
        })
    }

    /// Installs a `skip_sw` filter at one side of a port, if it is not there.
    fn install_at(
        &self,
        turn: &mut Alone,
        cookie: Cookie,
        filter: &Filter,
        side: Hook,
        now: u64,
    ) -> Result<(), Refusal> {
        let id = filter.id;
        let mut table = self.table.write();
        let port = match side {
            Hook::Ingress(port) if self.is_alone(&table, cookie, port) => return Ok(()),
            Hook::Ingress(port) => port,
            Hook::Egress(_) => return Err(Refusal::AtEgress { filter: id }),
            Hook::Block(_) => return Err(Refusal::Broken { filter: id }),
        };
        // A packet that is to have a filter in front of this one would be taken by the hardware first.
        let in_front = table.in_front(cookie, None);
        if let Some((other, order, shadow)) =
            in_front.iter().find_map(|&(c, order)| Some((c, order, table.filter(c)?.filter.id)))
        {
            turn.kept_out.entry(other).or_default().insert(cookie);
            return Err(match order {
                Order::Before => Refusal::Behind { filter: id, shadow },
                Order::Unknown => Refusal::Unordered { filter: id, other: shadow },
            });
        }
        let mut key = filter.matches.key;
        for (field, range) in filter.matches.ranges() {
            key.set(field, range.min.into());
        }
        let step = Step { cookie, filter, in_front: Vec::new(), met: Vec::new() };
        let tell_tag = self.capabilities.counts == Counts::Frame;
        let masks = &self.capabilities.masks;
        let scene = Scene { port, key: &key, steps: vec![step], connections: Vec::new(), tell_tag, masks };
        let path = merge::fold(&scene, &*table)?;
        let matches = path.matches(&[]).ok_or(Refusal::Changed { filter: id, what: Otherwise::Connection })?;
        // What depends on more of the packet than the filter matches would be in hardware for some of its packets only.
        let more = |f: &Field| matches.mask.get(*f) & !filter.matches.mask.get(*f) != 0;
        if let Some(&field) = Field::ALL.iter().find(|f| more(f)) {
            let why = "a skip_sw filter has no software that takes the packets for which it is something else";
            return Err(Refusal::Hidden { filter: id, field, why });
        }
        self.fits_hardware(id, &path, &[])?;
        let way = table.way(WayKey::new(port, &[cookie]));
        let path = table.add_path(way, path, true);
        let mut installs = self.installs(1);
        let index = self.shard_of_path(path);
        let mut locked = Locked(smallvec![(index, self.shard(index))]);
        let prepared = self.prepare(&table, (path, id), &[], &mut locked, &mut installs, now);
        drop(locked);
        drop(table);
        let installed = prepared.and_then(|()| self.install(&mut installs, now).unwrap_or(Err(Refusal::NoHits)));
        installed.map(|_| ()).inspect_err(|_| {
            let mut failed = Vec::new();
            let mut table = self.table.write();
            table.drop_path(path);
            let doomed = table.take_doomed();
            drop(table);
            self.carry_out(&doomed, now, &mut failed);
        })
    }
}
