//! The merge under examination: the second run of a record, in which merged filters handle what they match, and what must hold
//! of each of them by the record's packets.
//!
//! *Sound* is the kernel's word: what merged filters send and count is compared with its frames and counters (`judge`), and each
//! packet handled must have taken the merged filter's way in software. Here the rest is looked at, as it happens:
//!
//! - *Order-free*: merged filters that a packet could match both of describe one way.
//! - *Idempotent*: a merged filter, as the only filter of a walk of one, merges to itself.
//! - *Wide*: of a way without shadows, a packet of one shape with the packet that was merged, and not excluded, is matched; save
//!   where what an action does hangs on the packet's bits: where it adds to a field no one mask says which sums another filter's mask
//!   takes, addresses that change places are told one by one, and some packets an action drops, or does nothing to.
//! - The known differences that the table in memory has not, since it does more than others: what would become of bytes behind
//!   the datagram in one that does not cut them off, and of wrong checksums in one that can only compute them anew.

use crate::case::does;
use flowmerge::{
    conntrack::is_excluded,
    flower::{
        Action, ActionKind, Cookie, Counters, Field, Filter, Hook, Key, Masks, Port,
        action::{Mpls, Skbmod},
        print::printed,
    },
    hardware::{MergedId, Sent, Trim},
    merge::{Refusal, Scene, Step, fold, structure},
    packet::apply::apply,
    table::overlap,
    walk::Walk,
};
use flowmerge_cli::replay::{
    known::{has_wrong_length, trailing, without_checksums},
    merging::{Merging, Record},
    offload::{Arrival, Handled, Offload},
};
use merge_model::conntrack::observed::Change;
use std::collections::HashMap;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Merged filters that were installed.
    pub merged: u64,
    /// Walks that went to software on a way that was merged already and has no shadows: excluded, or of another shape.
    pub beside: u64,
    /// Packets handled from which a table that cannot cut would not cut off what follows the datagram.
    pub trailing: u64,
    /// Packets handled whose checksums a table that computes them anew would leave otherwise: wrong ones right.
    pub recomputed: u64,
    /// What should not be, for a person to read.
    pub findings: Vec<String>,
}

/// The merge, and who looks at it.
#[derive(Default)]
pub struct Examiner {
    /// The merge.
    pub merging: Merging,
    /// What was found so far.
    pub tally: Tally,
    /// The merged filters of each list of filters that nothing shadowed when they were made.
    ways: HashMap<Vec<Cookie>, Vec<u64>>,
    /// The current packet is left to software for a known difference.
    left: bool,
}

impl Examiner {
    fn finds(&mut self, what: String) {
        self.tally.findings.push(what);
    }

    /// The merged filter in hardware that describes this walk and whose packet had the same shape, if nothing shadows the way.
    fn unshadowed(&self, walk: &Walk) -> Option<u64> {
        let merger = self.merging.merger();
        let same = |id: &&u64| {
            let record = &self.merging.records[*id];
            let there = merger.is_merged(MergedId(**id));
            there && is_same_way(&record.walk, walk) && shape(&record.walk.key) == shape(&walk.key)
        };
        let id = self.ways.get(&cookies(walk))?.iter().find(same)?;
        (!self.is_shadowed(walk) && !self.asks(walk)).then_some(*id)
    }

    /// Whether what some action of a walk does hangs on bits of the packet.
    fn asks(&self, walk: &Walk) -> bool {
        let table = self.merging.merger().table();
        let mut actions = walk.hits.iter().filter_map(|hit| table.filter(hit.filter)).flat_map(|e| &e.filter.actions);
        actions.any(|action| match &action.kind {
            ActionKind::Pedit(pedit) => pedit.keys.iter().any(|key| key.add),
            ActionKind::Skbmod(skbmod) => !matches!(skbmod, Skbmod::Set { .. }),
            ActionKind::Mpls(mpls) => !matches!(mpls, Mpls::Push { .. }),
            ActionKind::Nat(_) => true,
            _ => false,
        })
    }

    /// Whether filters stand in front of those of a walk that packets of both could match.
    fn is_shadowed(&self, walk: &Walk) -> bool {
        let table = self.merging.merger().table();
        walk.hits.iter().any(|hit| {
            let Some(filter) = table.filter(hit.filter).map(|entry| &entry.filter) else { return true };
            let is_shadow = |other: &Filter| {
                other.id != filter.id
                    && other.id.chain == filter.id.chain
                    && other.id.prio <= filter.id.prio
                    && overlap(&other.matches, &filter.matches)
            };
            let mut at_hook = table.chains.members(filter.id.hook);
            at_hook.any(|c| table.filter(c).is_some_and(|entry| is_shadow(&entry.filter)))
        })
    }

    /// A merged filter was installed.
    fn installed(&mut self, id: u64) {
        let Some(record) = self.merging.records.get(&id) else { return };
        let mut found = Vec::new();
        let others = self.merging.merger().merged().into_iter().filter(|other| other.id.0 != id);
        for other in others.filter_map(|other| self.merging.records.get(&other.id.0)) {
            if other.walk.port == record.walk.port
                && structure::meet(&other.filter.matches, &record.filter.matches)
                && !is_same_way(&other.walk, &record.walk)
            {
                let other = other.filter.id.handle;
                found.push(format!(
                    "not order-free: merged filters {other} and {id} overlap and describe different ways"
                ));
            }
        }
        found.extend(self.folded_again(record).err().map(|why| format!("not idempotent: merged filter {id} {why}")));
        if !self.is_shadowed(&record.walk) {
            self.ways.entry(cookies(&record.walk)).or_default().push(id);
        }
        self.tally.merged += 1;
        self.tally.findings.extend(found);
    }

    /// Folds a merged filter as the only filter of a walk of one.
    fn folded_again(&self, record: &Record) -> Result<(), String> {
        let Record { filter, walk, .. } = record;
        let step = Step { cookie: Cookie(0), filter, in_front: Vec::new(), met: Vec::new() };
        let scene = Scene {
            port: walk.port,
            key: &walk.key,
            steps: vec![step],
            connections: Vec::new(),
            tell_tag: false,
            masks: &Masks::ANY,
        };
        let path = fold(&scene, &*self.merging.merger().table())
            .map_err(|refused| format!("is refused: {}", refused.refusal))?;
        let matches = path.matches(&[]).ok_or("becomes one that matches nothing")?;
        let (actions, _) = path.actions(&[], true);
        if matches == filter.matches && does(&actions) == does(&filter.actions) {
            return Ok(());
        }
        let again = Filter { matches, actions, ..filter.clone() };
        let words = |filter| printed(filter, &|port: Port| port.to_string()).to_string();
        Err(format!("is {}\n    and becomes {}", words(filter), words(&again)))
    }

    /// What a table that does less would have made of a packet that this one handled.
    fn in_lesser_tables(&mut self, id: u64, arrival: &Arrival, handled: &[Sent]) {
        let Some((entry, _)) = self.merging.peek(arrival.port, arrival.frame, arrival.tunnel) else { return };
        let (actions, trim) = (entry.actions.clone(), entry.trim);
        let cut_off = trailing(arrival.frame);
        if trim != Trim::Never && cut_off > 0 {
            let uncut = apply(&actions, Trim::Never, arrival.frame).map(|applied| applied.sent).unwrap_or_default();
            let tail = &arrival.frame[arrival.frame.len() - cut_off..];
            let longer = |(a, b): (&Sent, &Sent)| a == b || a.frame.strip_suffix(tail) == Some(&b.frame);
            if uncut.len() != handled.len() || !uncut.iter().zip(handled).all(longer) {
                self.finds(format!("merged filter {id}: without a cut it sends more than bytes behind the datagram"));
            }
            self.tally.trailing += u64::from(uncut != handled);
        }
        let merger = self.merging.merger();
        let Some(merged) = merger.merged_by(MergedId(id)).filter(|_| actions.iter().any(mends)) else { return };
        let connections: Vec<_> = merged.connections.iter().filter_map(|&c| merger.connection_of(c)).collect();
        let (actions, trim) = merged.path.actions(&connections.iter().collect::<Vec<_>>(), false);
        let anew = apply(&actions, trim, arrival.frame).map(|applied| applied.sent).unwrap_or_default();
        if anew == handled {
            return;
        }
        self.tally.recomputed += 1;
        // Those that came wrong, that a rewrite without `csum` made so, or that were none; and of the two zeros the other one.
        let same = |(a, b): (&Sent, &Sent)| {
            (a.port, a.ingress, without_checksums(&a.frame)) == (b.port, b.ingress, without_checksums(&b.frame))
        };
        // What is too short to be summed up is dropped.
        let is_known = handled.iter().zip(&anew).all(same) && anew.len() == handled.len();
        if !is_known && !has_wrong_length(arrival.frame) {
            self.finds(format!("merged filter {id}: with checksums computed anew it sends other frames"));
        }
    }
}

impl Offload for Examiner {
    fn add(&mut self, cookie: Cookie, filter: &Filter, dumped: bool) {
        self.merging.add(cookie, filter, dumped);
    }

    fn replace(&mut self, old: Cookie, cookie: Cookie, filter: &Filter) -> Vec<Counters> {
        self.merging.replace(old, cookie, filter)
    }

    fn destroy(&mut self, cookie: Cookie) -> Vec<Counters> {
        self.merging.destroy(cookie)
    }

    fn bind(&mut self, side: Hook, block: u32) {
        self.merging.bind(side, block);
    }

    fn unbind(&mut self, side: Hook, block: u32) {
        self.merging.unbind(side, block);
    }

    fn port(&mut self, port: Port, up: bool) {
        self.merging.port(port, up);
    }

    fn connection(&mut self, change: &Change) {
        self.merging.connection(change);
    }

    fn walk(&mut self, walk: Walk) {
        if self.left {
            // A merged filter matches it; hardware would have had it.
            return self.merging.walk(walk);
        }
        let wide = self.unshadowed(&walk);
        let has_connection = walk.hits.iter().flat_map(|hit| &hit.found).any(Option::is_some);
        let excluded = has_connection && is_excluded(&walk.key);
        self.merging.walk(walk);
        match (wide, self.merging.last.take()) {
            (Some(_), _) if excluded => self.tally.beside += 1,
            (Some(_), Some(Err(Refusal::Unfit { .. }))) => self.tally.beside += 1,
            (Some(id), outcome) => {
                let outcome = match outcome {
                    Some(Ok(_)) => "another was needed".to_string(),
                    Some(Err(refusal)) => refusal.to_string(),
                    None => "it was dropped".to_string(),
                };
                self.finds(format!("not wide: merged filter {id} does not match a packet of its way: {outcome}"));
            }
            (None, Some(Ok(merge))) if merge.installed => self.installed(merge.id.0),
            (None, Some(Ok(merge))) => self.finds(format!("{} is said to match a packet that it does not", merge.id)),
            (None, _) => {}
        }
    }

    fn receive(&mut self, arrival: Arrival) -> Option<Handled> {
        let known = |merging: &Merging| merging.known.values().sum::<u64>();
        let before = known(&self.merging);
        let handled = self.merging.receive(arrival);
        self.left = known(&self.merging) > before;
        let handled = handled?;
        self.in_lesser_tables(handled.merged, &arrival, &handled.sent);
        Some(handled)
    }

    fn stats(&mut self, cookie: Cookie) -> Vec<Counters> {
        self.merging.stats(cookie)
    }
}

/// Whether an action is a translation, which mends checksums.
fn mends(action: &Action) -> bool {
    matches!(&action.kind, ActionKind::Pedit(pedit) if pedit.mend)
}

fn cookies(walk: &Walk) -> Vec<Cookie> {
    walk.hits.iter().map(|hit| hit.filter).collect()
}

fn is_same_way(a: &Walk, b: &Walk) -> bool {
    (a.port, &a.hits) == (b.port, &b.hits)
}

/// The header stack of a packet: its tags, what they hold, the transport protocol, whether it is a fragment.
fn shape(key: &Key) -> [u128; 7] {
    use Field::*;
    [Protocol, VlanTpid, CvlanTpid, EthType, AddrType, IpProto, IpFlags].map(|field| key.get(field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{otherwise, replay};
    use flowmerge::{flower::Match, netlink::Message};
    use flowmerge_cli::replay::{hardware, timeline::What};
    use std::{fs, path::Path};

    /// A fixture through the examiner, which is told of other filters.
    fn examined(name: &str, edit: fn(&mut Filter)) -> (Examiner, Vec<String>) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../fixtures/{name}.pcapng"));
        let (mut timeline, run) = replay(&fs::read(path).unwrap()).unwrap();
        let told = timeline.steps.iter_mut().filter_map(|step| match &mut step.what {
            What::Told(envelope) => Some(envelope),
            _ => None,
        });
        for envelope in timeline.start.iter_mut().chain(told) {
            if let Message::Filter(message) = &mut envelope.message {
                edit(&mut message.filter);
            }
        }
        let mut examiner = Examiner::default();
        let merged = hardware(&timeline, &mut examiner, &run);
        let otherwise = otherwise(&examiner, &run, &merged);
        (examiner, otherwise)
    }

    #[test]
    fn a_right_merge_gives_no_findings() {
        let (examiner, otherwise) = examined("tc-nat-both", |_| {});
        assert!(examiner.tally.merged > 5 && examiner.tally.findings.is_empty(), "{:?}", examiner.tally.findings);
        assert!(otherwise.is_empty());
    }

    #[test]
    fn a_merge_of_other_filters_is_found_out() {
        // All match all.
        let (_, otherwise) = examined("tc-overlap", |filter| {
            filter.matches = Match { key: Key::ZERO, mask: Key::ZERO, ..filter.matches }
        });
        assert!(otherwise.iter().any(|finding| finding.starts_with("not sound")), "{otherwise:?}");
    }
}
