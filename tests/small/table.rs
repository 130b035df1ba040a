//! The merger with its table in memory, and the packets that are offered to it.

use crate::{
    actions::{EXCEEDED, IN, POLICER},
    check::Failure,
    pipeline::{Case, ports},
    report::Stats,
    rng::Rng,
    truth::{Done, Gone, Seen, cookie, told},
};
use flowmerge::{
    conntrack::ConnectionId,
    flower::{Filter, FilterId},
    hardware::{Entry, Memory, MergedId},
    merge::Refusal,
    merger::{ConnectionEvent, Limits, Merger},
    packet::apply::End,
    table::Inserted,
};
use std::collections::HashMap;

/// Reasons for which no packet of a true record may be refused.
const JUNK: [&str; 8] =
    ["unknown-filter", "unknown-connection", "broken", "stale", "changed", "impossible", "undecoded", "hardware"];

/// The merger and what came of the packets.
pub struct Table {
    pub merger: Merger<Memory>,
    /// The packet from which each merged filter came.
    pub sources: HashMap<MergedId, usize>,
    /// A packet was refused for a limit.
    pub limited: bool,
    /// What the packets that were handled should have counted.
    counted: HashMap<(FilterId, usize), (u64, u64)>,
}

impl Table {
    /// A merger that knows the pipeline.
    pub fn new(case: &Case) -> Table {
        let limits = Limits { merged_per_way: case.per_way, ..Limits::default() };
        let merger = Merger::with_limits(Memory::default(), limits);
        merger.hardware().police(EXCEEDED, false);
        for (port, up) in ports() {
            merger.port(port, up).expect("memory removes");
        }
        for (i, c) in case.connections.iter().enumerate() {
            let is = ConnectionEvent::Is(ConnectionId(i as u64), *c);
            merger.connection(is).expect("memory removes");
        }
        // A dump comes in an order of its own.
        let filters: Vec<_> = match case.dumped {
            true => case.filters.iter().rev().collect(),
            false => case.filters.iter().collect(),
        };
        let inserted = if case.dumped { Inserted::Dumped } else { Inserted::Observed };
        for filter in filters {
            merger.replace(cookie(filter), filter.clone(), inserted).expect("memory removes");
        }
        Table { merger, sources: HashMap::new(), limited: false, counted: HashMap::new() }
    }

    /// Offers every packet, in this order, and merges what no merged filter matches.
    pub fn offer(&mut self, seen: &[Seen], order: &[usize], rng: &mut Rng, stats: &mut Stats) -> Result<(), Failure> {
        for &i in order {
            let packet = &seen[i];
            if self.handles(packet).is_some() {
                stats.count("packets handled by merged filters", 1);
                continue;
            }
            // Now and then a walk is told that ends in a miss.
            if !packet.decided && (!packet.missed || !rng.chance(5)) {
                continue;
            }
            self.merger.walk(packet.walk.clone()).expect("the queue is long");
            let outcome = self.merger.drain(0).walks.pop().expect("one walk").1;
            self.merged(seen, i, outcome.map(|m| (m.id, m.installed)), stats)?;
        }
        Ok(())
    }

    /// What the table does with a packet, if a merged filter matches it; it counts what software would have counted.
    pub fn handles(&mut self, packet: &Seen) -> Option<Done> {
        let handled = self.merger.hardware().receive_through(IN, &packet.frame, packet.tunnel.as_ref(), 1)?;
        for &(filter, action, bytes) in &packet.counted {
            let count = self.counted.entry((filter, action)).or_default();
            *count = (count.0 + 1, count.1 + bytes);
        }
        let gone = match handled.end {
            End::Taken | End::Dropped => Gone::Away,
            End::Passed(_) => Gone::Passed,
            End::Trapped(_) => Gone::Trapped,
        };
        let sent = handled.sent.into_iter().map(|s| (s.port, s.ingress, s.frame, s.tunnel));
        Some(Done { sent: sent.collect(), gone })
    }

    /// Packets exceed the other policer, too.
    pub fn exceed(&mut self) {
        self.merger.hardware().police(POLICER, false);
    }

    fn merged(
        &mut self,
        seen: &[Seen],
        i: usize,
        outcome: Result<(MergedId, bool), Refusal>,
        stats: &mut Stats,
    ) -> Result<(), Failure> {
        let packet = &seen[i];
        match outcome {
            Ok((id, installed)) => {
                if !packet.decided {
                    return Err(Failure::new("miss-merged", format!("{} was merged", told(packet))));
                }
                if !installed || self.merger.hardware().lookup(IN, &packet.key).is_none() {
                    let entry = self.entry(id);
                    let text = format!("{} is not matched by what was merged from it:\n{entry:#?}", told(packet));
                    return Err(Failure::new("own-packet", text));
                }
                self.sources.insert(id, i);
            }
            Err(refusal) => {
                let reason = refusal.reason();
                self.limited |= reason == "too-many";
                let detail = match &refusal {
                    Refusal::Action { action, why, .. } | Refusal::Unfit { action, why, .. } => {
                        format!("{reason} {action}: {why}")
                    }
                    Refusal::Hidden { why, .. } => format!("{reason}: {why}"),
                    _ => reason.to_string(),
                };
                stats.refusals.add(detail);
                // What an action drops has shown neither where the others go nor what a `ct` behind it would have found.
                let unfinished = packet.cut_short && reason == "broken";
                if JUNK.contains(&reason) && !packet.guessed && !unfinished {
                    return Err(Failure::new(reason, format!("{} was refused: {refusal}", told(packet))));
                }
                if reason == "no-terminal" && packet.decided && !packet.cut_short {
                    return Err(Failure::new(reason, format!("{} was refused: {refusal}", told(packet))));
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, id: MergedId) -> Option<Entry> {
        self.merger.hardware().entry(id)
    }

    /// All merged filters, in the order of their names.
    pub fn entries(&mut self) -> Vec<Entry> {
        let mut all: Vec<_> = self.merger.hardware().entries();
        all.sort_by_key(|e| e.id);
        all
    }

    /// Whether what the merged filters counted is what software would have counted for the same packets.
    pub fn counters(&mut self, filters: &[Filter]) -> Result<(), Failure> {
        for filter in filters {
            let counters = self.merger.stats(cookie(filter));
            for (i, c) in counters.iter().enumerate() {
                let want = self.counted.get(&(filter.id, i)).copied().unwrap_or_default();
                if (c.packets, c.bytes) != want {
                    let text = format!("{} action {i} counted {c:?}, and should have {want:?}", filter.id);
                    return Err(Failure::new("counters", text));
                }
            }
        }
        Ok(())
    }
}
