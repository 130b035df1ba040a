//! Molds: a path for filters that another path was folded for, but for their values.
//!
//! Filters come in families: they stand in one chain, compare the same bits and do the same. What the fold makes of two ways through
//! the same families differs in values alone, and only in those of bits that are compared with the packet as it arrived. There the
//! values of all filters are the packet's own. So a fold leaves a *mold*, and for the next way a path is *cast*: the bits that any
//! value will do for (`plain`) are filled in from the packet; everything else must be what it was.
//!
//! A bit is plain if its field tells nothing of the shape of the packet, if the filters compare it where nobody wrote to it, and if
//! nothing that the fold decided hangs on it. What does hang on values of such a field is whether it is 0: that must stay.
//! Where filters stand in front of a hit, or a cut was needed, there is no mold.

use super::{
    fold::Scene,
    path::{Parent, Path},
    shadow::Shadow,
    state::State,
    structure,
    symbol::{Source, Value},
};
use crate::{
    conntrack::Connection,
    flower::{Action, ActionKind, Cookie, Field, Filter, Key, Kind, Match, Packed},
};
use smallvec::SmallVec;
use std::sync::Arc;

/// Fields of which no rule of the [structure](super::structure) looks at more than whether they are 0. Nor is any of them excluded
/// ([`State::exclude`]), by which what is asked besides the filters would depend on values: that are the flags of IP and TCP.
const FREE: [Field; 24] = [
    Field::EthDst,
    Field::EthSrc,
    Field::VlanId,
    Field::VlanPrio,
    Field::CvlanId,
    Field::CvlanPrio,
    Field::IpTos,
    Field::IpTtl,
    Field::Ipv4Src,
    Field::Ipv4Dst,
    Field::Ipv6Src,
    Field::Ipv6Dst,
    Field::SrcPort,
    Field::DstPort,
    Field::ArpSip,
    Field::ArpTip,
    Field::ArpSha,
    Field::ArpTha,
    Field::EncKeyId,
    Field::EncIpv4Src,
    Field::EncIpv4Dst,
    Field::EncIpv6Src,
    Field::EncIpv6Dst,
    Field::EncDstPort,
];

/// What folds of some ways have in common.
#[derive(Clone, Debug)]
pub struct Mold {
    hits: Box<[Hit]>,
    /// The zones of the connections.
    zones: SmallVec<[u16; 2]>,
    /// What a packet must be, besides: what the fold asked for and looked at.
    fixed: Packed,
    /// The bits that are filled in.
    plain: Key,
    /// Of each field of these what is asked for in the end, and whether that is 0.
    zero: SmallVec<[(Field, u128, bool); 4]>,
    /// The conditions that speak of such bits, and of which field.
    filled: Box<[(u16, Field)]>,
    /// The packet that was folded for.
    packet: Key,
    /// And its path.
    path: Path,
}

/// What stands for a hook, a chain and a mask, but for what the mask has of the protocol: equal if these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Family(pub u64);

/// Filters of a way, of which others may take the place.
#[derive(Clone, Debug)]
struct Hit {
    family: Family,
    /// Where the mask has bits: those that are plain, and the value of the others.
    words: Box<[(u8, u64, u64)]>,
    /// The protocol's own mask, which TC does not count among the others.
    protocol: u128,
    actions: Box<[Action]>,
}

impl Hit {
    fn new(family: Family, filter: &Filter, plain: &Key) -> Hit {
        let Match { key, mask, .. } = &filter.matches;
        let words = (0u8..).zip(mask.words()).filter(|(_, bits)| **bits != 0);
        let words = words.map(|(at, bits)| {
            let plain = plain.words()[usize::from(at)] & bits;
            (at, plain, key.words()[usize::from(at)] & !plain)
        });
        let (words, actions) = (words.collect(), filter.actions.as_slice().into());
        Hit { family, words, protocol: mask.get(Field::Protocol), actions }
    }

    /// Whether this one is of the family, and has the packet's values where any will do.
    fn takes(&self, family: Family, filter: &Filter, packet: &Key) -> bool {
        let words = |at: &u8| (filter.matches.key.words()[usize::from(*at)], packet.words()[usize::from(*at)]);
        let values = |(at, plain, fixed): &(u8, u64, u64)| {
            let (value, packet) = words(at);
            value == packet & plain | fixed
        };
        self.family == family
            && self.protocol == filter.matches.mask.get(Field::Protocol)
            && self.words.iter().all(values)
            && is_plain(filter)
            && self.actions.len() == filter.actions.len()
            && std::iter::zip(&self.actions, &filter.actions).all(|(a, b)| does_the_same(a, b))
    }
}

/// Whether it compares bits alone, and all of it is known.
fn is_plain(filter: &Filter) -> bool {
    let Match { src_range: None, dst_range: None, .. } = filter.matches else { return false };
    filter.kind == Kind::Flower && filter.undecoded.is_empty()
}

/// Whether an action does to a packet what another does: who counts it is no matter, but a policer is one by its index.
fn does_the_same(a: &Action, b: &Action) -> bool {
    a.kind == b.kind && a.control == b.control && (a.index == b.index || !matches!(a.kind, ActionKind::Police(_)))
}

/// Whether what an action does may hang on more than it looks at.
fn looks_around(action: &Action) -> bool {
    matches!(action.kind, ActionKind::Skbedit(edit) if edit.inherit_dsfield)
}

/// What a fold leaves besides the path.
pub(super) struct Left<'a> {
    pub state: &'a State<'a>,
    /// What was asked for before that was dropped which follows.
    pub asked: &'a Match,
    pub shadows: &'a [Shadow],
}

impl Mold {
    /// The mold that a fold leaves, if others may be cast in it.
    pub(super) fn new(scene: &Scene, families: &[Family], path: &Path, left: &Left<'_>) -> Option<Mold> {
        let Left { state, asked, shadows } = left;
        let is_plain = scene.steps.iter().all(|step| {
            step.in_front.is_empty() && is_plain(step.filter) && !step.filter.actions.iter().any(looks_around)
        });
        if !is_plain || families.len() != scene.steps.len() || asked.ranges().next().is_some() {
            return None;
        }
        // A field is looked at, or written to and compared then: what is compared there is not the packet's own.
        let mut bound = state.looked_at.get();
        for (hit, step) in scene.steps.iter().enumerate() {
            for (field, _) in step.filter.matches.mask.fields() {
                let value = path.course.seen.view(hit, field, path.port);
                if let Source::Arrived(from) | Source::Sum(from, _) = value.source
                    && value.kept != 0
                    && value != Value::arrived(field)
                {
                    bound |= 1 << from as u8;
                }
            }
        }
        let free = || FREE.into_iter().filter(|&field| bound >> field as u8 & 1 == 0);
        let (mut plain, mut hits) = (Key::ZERO, Vec::with_capacity(scene.steps.len()));
        for (hit, step) in scene.steps.iter().enumerate() {
            let mut mine = Key::ZERO;
            for field in free() {
                let mask = step.filter.matches.mask.get(field);
                if mask != 0 && path.course.seen.view(hit, field, path.port) == Value::arrived(field) {
                    mine.set(field, mask);
                    plain.set(field, plain.get(field) | mask);
                }
            }
            hits.push(Hit::new(families[hit], step.filter, &mine));
        }
        // All that is asked of a free field some filter asks.
        if free().any(|field| asked.mask.get(field) & !plain.get(field) != 0) {
            return None;
        }
        let mut fixed = **asked;
        free().for_each(|field| fixed.clear(field));
        // Shadows are out whatever the values.
        let told = structure::follows(&fixed);
        if !shadows.iter().all(|shadow| shadow.is_impossible_where(&fixed, told.as_ref())) {
            return None;
        }
        for &field in Field::ALL.iter().filter(|&&field| state.looked_at.get() >> field as u8 & 1 == 1) {
            fixed.set(field, scene.key.get(field), field.ones());
        }
        let zero = free().filter(|&field| asked.mask.get(field) != 0);
        let filled = state.template.both.iter().filter(|(_, field)| plain.get(*field) != 0);
        Some(Mold {
            hits: hits.into(),
            zones: scene.connections.iter().map(|c| c.zone).collect(),
            fixed: Packed::new(&fixed),
            plain,
            zero: zero.map(|field| (field, asked.mask.get(field), asked.key.get(field) == 0)).collect(),
            filled: filled.copied().collect(),
            packet: *scene.key,
            path: path.clone(),
        })
    }

    /// The path that a fold of these filters would give, if that can be told from this one. The packet comes in at the same port,
    /// nothing stands in front of the hits, each `ct` found what those of the mold did, and nothing has changed at any port.
    pub fn cast<'f>(
        &self,
        filters: impl Iterator<Item = (Cookie, &'f Filter, Family)> + Clone,
        packet: &Key,
        connections: &[&Connection],
    ) -> Option<Path> {
        let mut hits = self.hits.iter();
        let taken =
            filters.clone().all(|(_, filter, family)| hits.next().is_some_and(|h| h.takes(family, filter, packet)));
        let is_zero = |(field, mask, zero): &(Field, u128, bool)| (packet.get(*field) & mask == 0) == *zero;
        if !taken || hits.next().is_some() || !self.fixed.fits(packet) || !self.zero.iter().all(is_zero) {
            return None;
        }
        let same = |(zone, c): (&u16, &&Connection)| *zone == c.zone && c.qualifies().is_ok();
        if self.zones.len() != connections.len() || !std::iter::zip(&self.zones, connections).all(same) {
            return None;
        }
        let conditions = self.path.template.conditions.recast(&self.filled, &self.packet, packet);
        let template = self.path.template.recast(packet, &self.plain, conditions);
        if !template.fits(packet, connections) {
            return None;
        }
        let parents = std::iter::zip(&self.path.parents[..], filters);
        Some(Path {
            port: self.path.port,
            template,
            parents: parents.map(|(parent, (cookie, ..))| Parent { cookie, ..*parent }).collect(),
            course: Arc::clone(&self.path.course),
        })
    }
}
