//! What is in hardware: in, out, and what it counted.
//!
//! A merged filter that the hardware does not give up is *stuck*: it may still handle packets. So it stays known, keeps its
//! packets from being merged again, and hands on what it counts to those parents that are left, until it is gone.

use super::{Merge, Merger, Outcome, Removed};
use crate::{
    conntrack::Connection,
    flower::{Cookie, Counts, Field, FilterId, Match, Port, ethertype},
    hardware::{Entry, Hardware, HardwareError, MergedId, Reading},
    merge::{Parent, Path, Refusal},
    table::{Connections, Merged, PathId, overlap},
};
use smallvec::SmallVec;

/// A merged filter that should be gone, but that the hardware did not remove.
#[derive(Debug)]
pub(super) struct Stuck {
    id: MergedId,
    port: Port,
    merged: Merged,
    parents: Vec<Parent>,
    overhead: u64,
}

impl<H: Hardware> Merger<H> {
    /// `filter`: the way's last one, to name in a refusal.
    pub(super) fn install(
        &mut self,
        filter: FilterId,
        port: Port,
        path: PathId,
        connections: Connections,
        matches: Match,
    ) -> Outcome {
        self.ids += 1;
        let id = MergedId(self.ids);
        let known: SmallVec<[&Connection; 2]> = connections.iter().filter_map(|&c| self.table.connection(c)).collect();
        let path_now = self.table.path(path);
        let rights = !self.mend && path_now.course.program.must_mend();
        let (actions, trim) = path_now.actions(&known, self.mend);
        drop(known);
        let entry = Entry { id, port, matches, actions, trim };
        let refused = |why: String| Refusal::Hardware { filter, why };
        if rights {
            let why =
                "it can only compute checksums anew, and would right one that pedit left stale before ct translated";
            return Err(refused(why.into()));
        }
        if let Some(stuck) = self.stuck.iter().find(|s| s.port == port && overlap(&s.merged.matches, &matches)) {
            return Err(refused(format!("{} should be gone, is not, and matches the same packets", stuck.id)));
        }
        if self.table.merged_count() >= self.limits.merged {
            self.turned.merged += 1;
            return Err(refused(format!("{} merged filters are the limit", self.limits.merged)));
        }
        self.hardware.install(&entry).map_err(|e| refused(e.to_string()))?;
        self.table.insert_merged(id, path, connections, matches, entry.actions);
        Ok(Merge { id, installed: true })
    }

    /// Takes merged filters out of hardware, their last readings to their parents.
    pub(super) fn remove(&mut self, merged: impl IntoIterator<Item = MergedId>, failed: &mut Vec<HardwareError>) {
        for id in merged {
            let removed = self.hardware.remove(id);
            if let Ok(reading) = removed {
                self.count(id, reading);
            }
            let path = self.table.merged(id).map(|m| self.table.path_of(m));
            let kept = path.map(|p| (p.port, p.parents.to_vec(), overhead(p)));
            let (Some((port, parents, overhead)), Some(merged)) = (kept, self.table.remove_merged(id)) else {
                continue;
            };
            match removed {
                Ok(_) | Err(HardwareError::Missing { .. }) => {
                    self.alone_no_more(&parents);
                    self.removed.push(Removed { id, counters: merged.counters });
                }
                Err(error) => {
                    self.alone_no_more(&parents);
                    failed.push(error);
                    self.stuck.push(Stuck { id, port, merged, parents, overhead });
                }
            }
        }
    }

    /// Tries again what the hardware would not remove.
    pub(super) fn remove_stuck(&mut self) {
        for mut stuck in std::mem::take(&mut self.stuck) {
            match self.hardware.remove(stuck.id) {
                Ok(reading) => {
                    let counts = self.counts;
                    let bytes = |packets, all| bytes(counts, stuck.overhead, packets, all);
                    let counted = stuck.merged.advance(reading, bytes);
                    self.table.hand(&stuck.parents, counted);
                }
                Err(HardwareError::Missing { .. }) => {}
                Err(_) => {
                    self.stuck.push(stuck);
                    continue;
                }
            }
            self.removed.push(Removed { id: stuck.id, counters: stuck.merged.counters });
        }
    }

    /// A filter is gone: what is stuck counts for it no more, also not for another one of its cookie.
    pub(super) fn orphan_stuck(&mut self, cookie: Cookie) {
        for stuck in &mut self.stuck {
            stuck.parents.retain(|p| p.cookie != cookie);
        }
    }

    pub(super) fn read(&mut self, id: MergedId) {
        if let Ok(reading) = self.hardware.read(id) {
            self.count(id, reading);
        }
    }

    pub(super) fn count(&mut self, id: MergedId, reading: Reading) {
        let counts = self.counts;
        self.table.count(id, reading, |path, packets, all| bytes(counts, overhead(path), packets, all));
    }
}

/// Bytes as TC counts them, of what the hardware counted.
fn bytes(counts: Counts, overhead: u64, packets: u64, bytes: u64) -> u64 {
    match counts {
        Counts::Ingress => bytes,
        Counts::Frame => bytes.saturating_sub(packets.saturating_mul(overhead)),
    }
}

/// Bytes of Ethernet header and outer tag, which TC does not count, where the path tells the tag.
fn overhead(path: &Path) -> u64 {
    let (known, protocol) = path.template.known.get(Field::Protocol);
    let tagged = known == 0xffff && ethertype::is_vlan(protocol as u16);
    if tagged { 18 } else { 14 }
}
