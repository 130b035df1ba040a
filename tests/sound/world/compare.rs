//! What is compared: ways, frames, connections, counts.

use super::{Made, World, add};
use crate::{
    bytes::without_checksums,
    packet::{Flaw, Packet},
    tracker::Tracker,
    wide,
};
use flowmerge::{
    conntrack::{ConnectionId, Direction, is_excluded, proto},
    flower::{
        Action, ActionKind, Control, Field, FilterId, Key, Port, Tunnel,
        action::{Mpls, PeditHeader, Skbmod},
        field::ip_flags,
    },
    hardware::Handled,
    merge::structure,
    table::overlap,
    walk,
};
use merge_model::{
    Verdict,
    conntrack::Info,
    outcome::{Found, Outcome, Terminal},
};
use proptest::{prop_assert, prop_assert_eq, test_runner::TestCaseError};

/// A hit: the filter, and what its `ct`s found.
pub type Step = (FilterId, Vec<Option<(ConnectionId, Direction)>>);

/// What the packets of a merged filter share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub port: Port,
    pub steps: Vec<Step>,
    /// The shape of the header stack: tags and their kinds, ethertype behind them, transport protocol, whether it is a fragment,
    /// the label stack's entries and their bottom, the tunnel's kind.
    pub shape: [u128; 8],
}

impl Way {
    pub fn of(port: Port, outcome: &Outcome) -> Way {
        let steps = outcome.hits.iter().filter(|h| h.branch == 0).map(|hit| {
            let found = hit.found.iter().map(|f| found(f, &outcome.key).map(|f| (f.connection, f.direction)));
            (hit.filter, found.collect())
        });
        let key = &outcome.key;
        let shape = [
            key.get(Field::NumOfVlans),
            key.get(Field::VlanTpid),
            key.get(Field::CvlanTpid),
            key.get(Field::EthType),
            key.get(Field::IpProto),
            key.get(Field::IpFlags) & ip_flags::FRAG,
            Field::MPLS.iter().fold(0, |all, e| all << 2 | key.get(e[0]) << 1 | key.get(e[3])),
            key.get(Field::EncAddrType),
        ];
        Way { port, steps: steps.collect(), shape }
    }

    /// Its first steps.
    fn until(&self, steps: usize) -> Way {
        Way { steps: self.steps.iter().take(steps).cloned().collect(), ..self.clone() }
    }

    /// Whether a connection is part of it.
    pub fn has_connection(&self) -> bool {
        self.steps.iter().flat_map(|s| &s.1).any(Option::is_some)
    }
}

/// What a driver records of a `ct`: neither a connection that is not committed, nor that which an ICMP error is about.
pub fn found(found: &Option<Found>, key: &Key) -> Option<walk::Found> {
    let icmp = matches!(key.get(Field::IpProto) as u8, proto::ICMP | proto::ICMPV6);
    let is_error = |info| icmp && matches!(info, Info::Related | Info::RelatedReply);
    let found = found.filter(|f| f.confirmed && !is_error(f.info))?;
    Some(walk::Found { connection: ConnectionId(found.entry.0), direction: found.direction })
}

/// Whether a filter ended the packet's walk.
pub fn decided(outcome: &Outcome) -> bool {
    match outcome.verdict {
        Verdict::Decided(_) => true,
        Verdict::Passed(_) => !outcome.hits.is_empty(),
        _ => false,
    }
}

/// Whether such a packet stays in software on a way with a connection.
pub fn excluded(way: &Way, key: &Key) -> bool {
    way.has_connection() && is_excluded(key)
}

/// A frame: the port, whether it goes into it, the bytes, and what it came through or is to go through.
type Frames = Vec<(Port, bool, Vec<u8>, Option<Tunnel>)>;

impl World {
    /// Whether two ways lead through the same filters with the same connections. A filter may have got other actions while the
    /// walk waited, without or with another `ct`.
    fn is_same(&self, a: &Way, b: &Way) -> bool {
        let filters = |way: &Way| way.steps.iter().map(|s| s.0).collect::<Vec<_>>();
        if self.setting.lazy { filters(a) == filters(b) } else { a.steps == b.steps }
    }

    /// The frames that the model sent.
    pub fn sent(&self, outcome: &Outcome) -> Frames {
        // The model also tells what is seen coming in at a port whose filters take it up.
        let taken_up = |s: &&merge_model::outcome::Sent| s.ingress && self.model.filters.is_filtered(s.port);
        let sent = outcome.sent.iter().filter(|s| !taken_up(s));
        sent.map(|s| (s.port, s.ingress, s.frame.clone(), s.tunnel.clone())).collect()
    }

    /// What a merged filter did with a packet is what the model did.
    pub(super) fn compare(
        &mut self,
        packet: &Packet,
        frame: &[u8],
        handled: &Handled,
        outcome: Outcome,
        before: Tracker,
    ) -> Result<(), TestCaseError> {
        let made = self.made.get(&handled.id).cloned();
        prop_assert!(made.is_some(), "{} was installed unseen", handled.id);
        let made = made.expect("just looked");
        let Made { entry, way, .. } = made.clone();
        let got: Frames = handled.sent.iter().map(|s| (s.port, s.ingress, s.frame.clone(), s.tunnel.clone())).collect();
        // Conntrack takes what is flawed for invalid, hardware does not see it: what a flawless packet does is asked for.
        // Where `csum` drops what is cut off, the table drops it, too, but counts it for what stands behind; where a transport header
        // is cut off behind a rewrite of it, flower sees nothing of it, written or not; and `skbmod` drops what has no 14 bytes behind
        // the Ethernet header. The whole packet may be another one to flower: the model is told not to mind.
        let cut_off = matches!(packet.flaw, Flaw::Cut(_)) && self.minds_the_end(&way);
        let flawed = packet.is_flawed() && way.has_connection() || cut_off;
        let dropped = self.is_dropped_by_csum(&outcome).then(|| self.sent(&outcome));
        let (outcome, less) = match flawed || dropped.is_some() {
            false => (outcome, 0),
            true => {
                self.flawed += 1;
                self.tracker = before.clone();
                match way.has_connection() {
                    true => {
                        let flawless = packet.flawless().frame(self.setting.padded);
                        (self.software(packet, &flawless), (flawless.len() - frame.len()) as u64)
                    }
                    false => (self.leniently(packet, frame), 0),
                }
            }
        };
        add(&mut self.counted, &outcome, less);
        prop_assert!(decided(&outcome), "{packet:?} handled by {entry:#?} but {outcome:#?}");
        let went = Way::of(packet.port, &outcome);
        // What a policer drops ends there.
        let policed =
            entry.actions.iter().any(|a| matches!(a.kind, ActionKind::Police(_)) && self.exceeded.contains(&a.index));
        let same = match policed {
            true => self.is_same(&went, &way.until(went.steps.len())),
            false => self.is_same(&went, &way),
        };
        prop_assert!(same, "{packet:?} went {went:?} but was handled by {made:#?}");
        prop_assert!(!excluded(&went, &outcome.key), "{packet:?} is excluded, but handled by {entry:#?}");
        prop_assert!(self.tracker.table() == before.table(), "{packet:?} changes a connection, handled by {entry:#?}");
        if let (Some(sent), false) = (&dropped, flawed) {
            prop_assert_eq!(&got, sent, "{:?} {:#?}", packet, entry);
            return Ok(());
        }
        let sent = self.sent(&outcome);
        let cut = matches!(packet.flaw, Flaw::Cut(_));
        if flawed && cut {
            // Its end is missing, and `csum` drops it.
            let sums = entry.actions.iter().any(|a| matches!(a.kind, ActionKind::Csum(_)));
            let ports = |frames: &Frames| frames.iter().map(|f| (f.0, f.1)).collect::<Vec<_>>();
            prop_assert!(sums || ports(&got) == ports(&sent), "{packet:?} {entry:#?} {got:?} {sent:?}");
        } else if flawed || self.setting.no_mend && !packet.sums_up() {
            let plain = |frames: Frames| -> Frames {
                frames.into_iter().map(|f| (f.0, f.1, without_checksums(&f.2), f.3)).collect()
            };
            prop_assert_eq!(plain(got), plain(sent), "{:?} {:#?} {:#?}", packet, entry, outcome.hits);
        } else {
            prop_assert_eq!(got, sent, "{:?} {:#?} {:#?}", packet, entry, outcome.hits);
        }
        Ok(())
    }

    /// What software would do with a packet that is cut off if it minded that as little as hardware does.
    fn leniently(&mut self, packet: &Packet, frame: &[u8]) -> Outcome {
        self.model.set_lenient(true);
        let outcome = self.software(packet, frame);
        self.model.set_lenient(false);
        outcome
    }

    /// Whether a filter of the way rewrites a transport header, or asks for more of a packet than it may have.
    fn minds_the_end(&self, way: &Way) -> bool {
        let minds = |a: &Action| match &a.kind {
            ActionKind::Skbmod(skbmod) => *skbmod != Skbmod::Ecn,
            ActionKind::Pedit(p) => p.keys.iter().any(|k| matches!(k.header, PeditHeader::Tcp | PeditHeader::Udp)),
            _ => false,
        };
        let of_way = |id: FilterId| way.steps.iter().any(|step| step.0 == id);
        self.filters.iter().any(|(rule, _)| of_way(rule.filter.id) && rule.filter.actions.iter().any(minds))
    }

    fn is_dropped_by_csum(&self, outcome: &Outcome) -> bool {
        let last = outcome.hits.iter().rfind(|h| h.branch == 0);
        let action = last.and_then(|hit| {
            let (rule, _) = self.filters.iter().find(|(r, _)| r.filter.id == hit.filter)?;
            rule.filter.actions.get(*hit.ran.last()?)
        });
        let sums = action.is_some_and(|a| matches!(a.kind, ActionKind::Csum(_)) && a.control != Control::Shot);
        sums && outcome.verdict == Verdict::Decided(Terminal::Drop)
    }

    /// Without shadows, a packet that takes the way of a merged filter, and is not excluded, matches it.
    pub(super) fn check_wide(&self, packet: &Packet, outcome: &Outcome, way: &Way) -> Result<(), TestCaseError> {
        if !self.setting.apart
            || excluded(way, &outcome.key)
            || self.setting.lazy
            || self.setting.layered
            || self.divides()
        {
            return Ok(());
        }
        let missed = self.made.values().find(|made| made.way == *way);
        prop_assert!(missed.is_none(), "{packet:?} takes the way of {missed:#?}, and does not match it");
        Ok(())
    }

    /// Whether packets of one way may need several merged filters: a filter compares what another adds to, so that several values of
    /// the arrived byte take one way, and no one mask has them all; or an action does to some what it does not do to others.
    fn divides(&self) -> bool {
        let divides = |kind: &ActionKind| match kind {
            ActionKind::Pedit(p) => p.keys.iter().any(|k| k.add),
            ActionKind::Mpls(mpls) => matches!(mpls, Mpls::DecTtl),
            ActionKind::Skbmod(skbmod) => matches!(skbmod, Skbmod::Swap | Skbmod::Ecn),
            ActionKind::Nat(_) => true,
            _ => false,
        };
        self.filters.iter().any(|(rule, _)| rule.filter.actions.iter().any(|a| divides(&a.kind)))
    }

    /// Merged filters that overlap describe the same way.
    pub(super) fn check_overlaps(&mut self) -> Result<(), TestCaseError> {
        let overlaps = self.merger.hardware().overlaps();
        prop_assert!(overlaps.is_empty(), "{overlaps:?}");
        let all: Vec<&Made> = self.made.values().collect();
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                if a.entry.port != b.entry.port
                    || !overlap(&a.entry.matches, &b.entry.matches)
                    || self.is_same(&a.way, &b.way)
                {
                    continue;
                }
                // There may be no such packet: headers contradict what the two ask for together.
                prop_assert!(!structure::meet(&a.entry.matches, &b.entry.matches), "{a:#?} {b:#?}");
                let packet = wide::in_both(a, b).or_else(|| wide::in_both(b, a));
                prop_assert!(packet.is_none(), "{packet:?} {a:#?} {b:#?}");
            }
        }
        Ok(())
    }
}
