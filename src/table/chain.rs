//! The order in which TC tries filters: chains, priorities, masks, ranges.
//!
//! Inside a priority flower tries masks in the order in which they were first inserted, and inside one mask port *ranges* in
//! the order of their insertion, by whichever filter (`fl_classify`, `fl_lookup_range`); everything else of one mask is
//! looked up by key, so that at most one fits. A dump comes by handle and tells none of these orders.
//!
//! A filter matters to another only if they overlap, and those that do are found through an index ([`overlap`](super::overlap)):
//! nothing here walks a chain, save for what asks for all of it.
//!
//! A `skip_sw` filter has its place in all this. Software finds it in its mask and then takes nothing from that mask, so that it
//! hides the filters behind it there; for all others it is not there. Hardware has it, for packets as they arrive.

use super::overlap::Bin;
use crate::{
    flower::{Cookie, Field, Filter, Hook, Key, Range},
    merge::{Family, Order},
};
use hashbrown::HashMap;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Whether a filter's insertion was seen, or found in a dump made later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// After all filters that were there before.
    Observed,
    /// At some time before the dump.
    Dumped,
}

/// A filter that stands in front of another, or behind it, and overlaps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The filter.
    pub cookie: Cookie,
    /// How sure it is which of them is in front.
    pub order: Order,
    /// The one in front is `skip_sw` and of another mask: it takes packets as they arrive, in hardware, and no others.
    pub on_arrival: bool,
}

/// All chains.
#[derive(Clone, Debug, Default)]
pub struct Chains {
    hooks: Map<Hook, Chained>,
    places: Map<Cookie, Place>,
    /// How many filters have been inserted, or taken out: the age of the next one.
    count: u64,
    /// How often a hook got its first filter or lost its last.
    changes: u64,
}

/// The chains of a hook.
#[derive(Clone, Debug, Default)]
struct Chained {
    filters: usize,
    chains: BTreeMap<u32, Chain>,
}

/// The filters of a chain, by priority.
#[derive(Clone, Debug, Default)]
struct Chain {
    priorities: BTreeMap<u16, Vec<Group>>,
    /// Another number after each change.
    changed: u64,
}

/// Where a filter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    hook: Hook,
    chain: u32,
    prio: u16,
    /// The age of its group, which is the group's name.
    group: u64,
    slot: usize,
    /// What the chain's `changed` was when nothing was found to stand in front.
    first: u64,
}

/// The filters of one priority that share a mask. A priority has them in the order of insertion.
#[derive(Clone, Debug)]
struct Group {
    shape: Shape,
    age: u64,
    inserted: Inserted,
    members: Bin<Member>,
    /// What of members has ranges, by these. A range is as old as the first filter that brought it.
    ranges: Map<Ranges, Ages>,
}

type Ranges = [Option<Range>; 2];

/// The filters of one range.
#[derive(Clone, Debug, Default)]
struct Ages {
    all: BTreeSet<u64>,
    dumped: usize,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    cookie: Cookie,
    ranges: Ranges,
    age: u64,
    inserted: Inserted,
    skip_sw: bool,
}

/// What makes two filters' masks the same mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    mask: Key,
    ranges: [bool; 2],
    /// Parts of the mask are not known, so that it is that of this filter alone. (The kernel tells no attribute that compares
    /// nothing: it is not the mask of a filter that is known in full.)
    unknown: Option<Cookie>,
}

impl Shape {
    fn of(cookie: Cookie, filter: &Filter) -> Shape {
        let mask = filter.matches.mask.with(Field::Protocol, 0); // the priority's own, not flower's
        // What is not understood of actions is no matter here.
        let of_match = |what: &String| !what.starts_with("act_") && !what.starts_with("TCA_ACT");
        let unknown = filter.undecoded.iter().any(of_match).then_some(cookie);
        Shape { mask, ranges: [filter.matches.src_range.is_some(), filter.matches.dst_range.is_some()], unknown }
    }
}

impl Chains {
    /// Adds a filter. `instead` is the one that it replaces and whose place it takes if the mask is the same. Gives the other
    /// filters that may stand behind more than before, because a mask or a range is older than it was.
    pub fn insert(
        &mut self,
        cookie: Cookie,
        filter: &Filter,
        inserted: Inserted,
        instead: Option<Cookie>,
    ) -> Vec<Cookie> {
        let (hook, chain, prio) = (filter.id.hook, filter.id.chain, filter.id.prio);
        self.count += 1;
        let age = self.count;
        self.changes += u64::from(!self.hooks.contains_key(&hook));
        let chained = self.hooks.entry(hook).or_default();
        let tried = chained.chains.entry(chain).or_default();
        tried.changed = age;
        let groups = tried.priorities.entry(prio).or_default();
        let shape = Shape::of(cookie, filter);
        let mine = groups.iter().position(|g| g.shape == shape).unwrap_or_else(|| {
            groups.push(Group::new(shape, age, inserted));
            groups.len() - 1
        });
        let mut place = Place { hook, chain, prio, group: groups[mine].age, slot: 0, first: 0 };
        let mut older = Vec::new();
        if inserted == Inserted::Dumped && groups[mine].inserted == Inserted::Observed {
            // The mask is as old as its oldest filter.
            groups[mine].inserted = Inserted::Dumped;
            older.extend(groups.iter().flat_map(|g| g.members.iter()).map(|m| m.cookie));
        }

        let mut member = Member {
            cookie,
            ranges: [filter.matches.src_range, filter.matches.dst_range],
            age,
            inserted,
            skip_sw: filter.skip_sw,
        };
        // What it replaces has no place but this one.
        let mut left = Vec::new();
        let known = groups[mine].age_of(member.ranges);
        for before in [instead, Some(cookie)].into_iter().flatten() {
            let found = self.places.get(&before).and_then(|&p| self.find(p));
            if found.is_some_and(|(group, m)| group.age != place.group || m.ranges != member.ranges) {
                older.extend(self.ordered_by(before));
            }
            let Some(old) = self.places.remove(&before) else { continue };
            if let Some(taken) = self.take(old) {
                if (old.hook, old.chain, old.prio, old.group) == (hook, chain, prio, place.group) {
                    (member.age, member.inserted) = (taken.age, taken.inserted);
                }
                left.push(old);
            }
        }
        if let Some(group) = self.group_mut(place) {
            group.enter(&member);
            if known.is_some() && known != group.age_of(member.ranges) {
                older.extend(group.members.iter().map(|m| m.cookie));
            }
            place.slot = group.members.insert(&filter.matches, member);
        }
        if let Some(chained) = self.hooks.get_mut(&hook) {
            chained.filters += 1;
        }
        self.places.insert(cookie, place);
        left.into_iter().for_each(|old| self.tidy(old));
        older.retain(|&c| c != cookie && Some(c) != instead);
        older
    }

    /// The other filters that will stand behind more than now when this one goes: those of its range, if it is the oldest of it.
    pub fn ordered_by(&self, cookie: Cookie) -> Vec<Cookie> {
        let Some((group, me)) = self.places.get(&cookie).and_then(|&p| self.find(p)) else {
            return Vec::new();
        };
        let ages = group.ranges.get(&me.ranges);
        if ages.is_none_or(|ages| ages.all.len() < 2 || ages.all.first() != Some(&me.age)) {
            return Vec::new();
        }
        let of_range = group.members.iter().filter(|m| m.ranges == me.ranges && m.cookie != cookie);
        of_range.map(|m| m.cookie).collect()
    }

    /// Takes a filter out; a mask goes with its last filter.
    pub fn remove(&mut self, cookie: Cookie) {
        if let Some(place) = self.places.remove(&cookie) {
            self.take(place);
            self.tidy(place);
        }
    }

    /// Whether a hook has filters.
    pub fn any(&self, hook: Hook) -> bool {
        self.hooks.contains_key(&hook)
    }

    /// A number that changes with every hook that gets filters or has none any more.
    pub fn hooks(&self) -> u64 {
        self.changes
    }

    /// The filters of a hook.
    pub fn members(&self, hook: Hook) -> impl Iterator<Item = Cookie> + '_ {
        let chains = self.hooks.get(&hook).into_iter().flat_map(|h| h.chains.values());
        chains.flat_map(|c| c.priorities.values()).flatten().flat_map(|g| g.members.iter()).map(|m| m.cookie)
    }

    /// The filters that TC tries before this one in its chain, from priority `from` on, and that overlap it. What does not
    /// overlap it takes none of its packets. Of what is not understood the part counts that is.
    pub fn in_front(&mut self, cookie: Cookie, filter: &Filter, from: u16) -> Vec<Neighbour> {
        self.neighbours(cookie, filter, from.min(filter.id.prio)..=filter.id.prio, true)
    }

    /// The family of a filter of which no other in front takes packets. Once found out, that is known until the chain changes.
    pub fn first(&mut self, cookie: Cookie, filter: &Filter) -> Option<Family> {
        let chain = self.hooks.get(&filter.id.hook).and_then(|h| h.chains.get(&filter.id.chain));
        let (changed, place) = (chain?.changed, self.places.get(&cookie)?);
        // The age of a group is of no other one.
        let family = Family(place.group);
        if place.first != changed {
            if !self.in_front(cookie, filter, 0).is_empty() {
                return None;
            }
            self.places.get_mut(&cookie)?.first = changed;
        }
        Some(family)
    }

    /// The filters that this one stands in front of, and that overlap it.
    pub fn behind(&mut self, cookie: Cookie, filter: &Filter) -> Vec<Neighbour> {
        self.neighbours(cookie, filter, filter.id.prio..=u16::MAX, false)
    }

    fn neighbours(
        &mut self,
        cookie: Cookie,
        filter: &Filter,
        priorities: RangeInclusive<u16>,
        in_front: bool,
    ) -> Vec<Neighbour> {
        let place = self.places.get(&cookie).copied();
        let chain = self.hooks.get_mut(&filter.id.hook).and_then(|h| h.chains.get_mut(&filter.id.chain));
        let mut out = Vec::new();
        for (&prio, groups) in chain.into_iter().flat_map(|c| c.priorities.range_mut(priorities.clone())) {
            let mine = place.filter(|p| p.prio == prio).and_then(|p| {
                let group = groups.iter().position(|g| g.age == p.group)?;
                Some(At { group, member: *groups[group].members.get(p.slot) })
            });
            for group in 0..groups.len() {
                // Without ranges no filter of a mask stands in front of another one of it.
                if mine.is_some_and(|m| m.group == group) && groups[group].shape.ranges == [false; 2] {
                    continue;
                }
                let slots = groups[group].members.overlapping(&filter.matches);
                let mut met: Vec<Member> = slots.into_iter().map(|slot| *groups[group].members.get(slot)).collect();
                met.retain(|m| m.cookie != cookie);
                met.sort_unstable_by_key(|m| m.age);
                for member in met {
                    let other = At { group, member };
                    let order = match mine {
                        Some(mine) if in_front => order(groups, other, mine),
                        Some(mine) => order(groups, mine, other),
                        None => (prio != filter.id.prio).then_some(Order::Before),
                    };
                    let Some(order) = order else { continue };
                    let skip_sw = if in_front { member.skip_sw } else { filter.skip_sw };
                    let on_arrival = skip_sw && mine.is_none_or(|m| m.group != group);
                    out.push(Neighbour { cookie: member.cookie, order, on_arrival });
                }
            }
        }
        out
    }

    fn find(&self, place: Place) -> Option<(&Group, &Member)> {
        let groups = self.hooks.get(&place.hook)?.chains.get(&place.chain)?.priorities.get(&place.prio)?;
        let group = groups.iter().find(|g| g.age == place.group)?;
        Some((group, group.members.get(place.slot)))
    }

    fn group_mut(&mut self, place: Place) -> Option<&mut Group> {
        let groups = self.hooks.get_mut(&place.hook)?.chains.get_mut(&place.chain)?.priorities.get_mut(&place.prio)?;
        groups.iter_mut().find(|g| g.age == place.group)
    }

    /// Takes a member out and leaves its group, even if it is empty then.
    fn take(&mut self, place: Place) -> Option<Member> {
        let group = self.group_mut(place)?;
        let member = group.members.remove(place.slot);
        group.leave(&member);
        self.count += 1;
        let changed = self.count;
        let chained = self.hooks.get_mut(&place.hook)?;
        chained.filters -= 1;
        if let Some(chain) = chained.chains.get_mut(&place.chain) {
            chain.changed = changed;
        }
        Some(member)
    }

    /// Drops what is empty at a place.
    fn tidy(&mut self, place: Place) {
        let Some(chained) = self.hooks.get_mut(&place.hook) else { return };
        if let Some(chain) = chained.chains.get_mut(&place.chain) {
            if let Some(groups) = chain.priorities.get_mut(&place.prio) {
                groups.retain(|g| g.members.len() > 0);
                if groups.is_empty() {
                    chain.priorities.remove(&place.prio);
                }
            }
            if chain.priorities.is_empty() {
                chained.chains.remove(&place.chain);
            }
        }
        if chained.filters == 0 {
            self.hooks.remove(&place.hook);
            self.changes += 1;
        }
    }
}

/// A member of one of a priority's groups.
#[derive(Clone, Copy)]
struct At {
    group: usize,
    member: Member,
}

/// Whether TC tries one filter of a priority before another, if it may.
fn order(groups: &[Group], front: At, behind: At) -> Option<Order> {
    if front.group == behind.group {
        return groups[front.group].order(front.member.ranges, behind.member.ranges);
    }
    let (f, b) = (&groups[front.group], &groups[behind.group]);
    let younger = front.group > behind.group;
    // What was dumped was there before, also before what was observed earlier than the dump.
    let dumped = f.inserted == Inserted::Dumped && (younger || b.inserted == Inserted::Dumped);
    // Of two masks that are not known in full the younger may be the older one.
    let joined = || {
        let older = groups[..behind.group].iter();
        younger && f.shape.unknown.is_some() && older.into_iter().any(|g| g.shape.unknown.is_some())
    };
    if dumped || joined() { Some(Order::Unknown) } else { (!younger).then_some(Order::Before) }
}

impl Group {
    fn new(shape: Shape, age: u64, inserted: Inserted) -> Group {
        Group { shape, age, inserted, members: Bin::new(&shape.mask, shape.ranges), ranges: Map::default() }
    }

    /// How members with one range stand to those with another: one is in front if its range was inserted before.
    fn order(&self, front: Ranges, behind: Ranges) -> Option<Order> {
        let ((f, f_dumped), (b, b_dumped)) = (self.age_of(front)?, self.age_of(behind)?);
        match front == behind {
            true => None,
            false if f_dumped && (b_dumped || f > b) => Some(Order::Unknown),
            false => (f < b).then_some(Order::Before),
        }
    }

    /// When a range was inserted, and whether it was found in a dump, and so perhaps before that.
    fn age_of(&self, ranges: Ranges) -> Option<(u64, bool)> {
        let ages = self.ranges.get(&ranges)?;
        Some((*ages.all.first()?, ages.dumped > 0))
    }

    fn enter(&mut self, member: &Member) {
        if self.shape.ranges != [false; 2] {
            let ages = self.ranges.entry(member.ranges).or_default();
            ages.all.insert(member.age);
            ages.dumped += usize::from(member.inserted == Inserted::Dumped);
        }
    }

    fn leave(&mut self, member: &Member) {
        let Some(ages) = self.ranges.get_mut(&member.ranges) else { return };
        ages.all.remove(&member.age);
        ages.dumped -= usize::from(member.inserted == Inserted::Dumped);
        if ages.all.is_empty() {
            self.ranges.remove(&member.ranges);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flower::{FilterId, Match, Port};

    fn filter(prio: u16, matches: Match) -> Filter {
        let id = FilterId { hook: Hook::Ingress(Port(1)), chain: 0, prio, protocol: 0x800, handle: 1 };
        Filter::flower(id, matches, Vec::new())
    }

    fn in_front(chains: &mut Chains, cookie: Cookie, filter: &Filter, from: u16) -> Vec<(Cookie, Order)> {
        chains.in_front(cookie, filter, from).into_iter().map(|n| (n.cookie, n.order)).collect()
    }

    fn ports(min: u16, max: u16, proto: u128) -> Match {
        Match { dst_range: Some(Range { min, max }), ..Match::default() }.exact(Field::IpProto, proto)
    }

    #[test]
    fn masks_come_in_the_order_of_insertion_and_go_with_their_last_filter() {
        let mut chains = Chains::default();
        let narrow = filter(2, Match::default().exact(Field::Ipv4Dst, 1));
        let wide = filter(2, Match::default().exact(Field::IpProto, 6));
        let first = filter(1, Match::default());
        let all = [(Cookie(1), &narrow), (Cookie(2), &wide), (Cookie(3), &first)];
        for (c, f) in all {
            chains.insert(c, f, Inserted::Observed, None);
        }
        let (before, me) = (Order::Before, Cookie(2));
        assert_eq!(in_front(&mut chains, me, &wide, 0), [(Cookie(3), before), (Cookie(1), before)]);
        assert_eq!(in_front(&mut chains, me, &wide, 2), [(Cookie(1), before)]);
        assert_eq!(in_front(&mut chains, Cookie(1), &narrow, 0), [(Cookie(3), before)]);
        chains.remove(Cookie(1));
        chains.insert(Cookie(4), &narrow, Inserted::Observed, None);
        assert_eq!(in_front(&mut chains, Cookie(4), &narrow, 2), [(me, before)], "the mask came back behind");
        for c in [Cookie(4), me, Cookie(3)] {
            chains.remove(c);
        }
        assert!(!chains.any(Hook::Ingress(Port(1))));
    }

    #[test]
    fn a_range_is_as_old_as_the_first_filter_that_brought_it() {
        // A (1-10, X), B (1-5, Y), C (1-10, Y): the packet Y:3 hits C.
        let mut chains = Chains::default();
        let (a, b, c) = (filter(1, ports(1, 10, 6)), filter(1, ports(1, 5, 17)), filter(1, ports(1, 10, 17)));
        for (cookie, f) in [(Cookie(1), &a), (Cookie(2), &b), (Cookie(3), &c)] {
            chains.insert(cookie, f, Inserted::Observed, None);
        }
        assert_eq!(in_front(&mut chains, Cookie(3), &c, 0), []);
        assert_eq!(in_front(&mut chains, Cookie(2), &b, 0), [(Cookie(3), Order::Before)], "A is of another protocol");
    }

    #[test]
    fn what_stands_behind_more_than_before_is_told_when_the_first_of_a_range_leaves_its_mask() {
        let mut chains = Chains::default();
        let (wide, narrow) = (filter(1, ports(1, 3, 6)), filter(1, ports(0, 1, 6)));
        for (cookie, f) in [(Cookie(1), &wide), (Cookie(2), &narrow), (Cookie(3), &wide)] {
            chains.insert(cookie, f, Inserted::Observed, None);
        }
        assert_eq!(in_front(&mut chains, Cookie(3), &wide, 0), []);
        let elsewhere = Filter { undecoded: vec!["TCA_FLOWER 99".into()], ..wide.clone() };
        assert_eq!(chains.insert(Cookie(4), &elsewhere, Inserted::Observed, Some(Cookie(1))), [Cookie(3)]);
        assert_eq!(in_front(&mut chains, Cookie(3), &wide, 0), [(Cookie(2), Order::Before)]);
    }

    #[test]
    fn a_dump_does_not_tell_the_order() {
        let mut chains = Chains::default();
        let narrow = filter(2, Match::default().exact(Field::Ipv4Dst, 1));
        let wide = filter(2, Match::default().exact(Field::IpProto, 6));
        chains.insert(Cookie(1), &narrow, Inserted::Dumped, None);
        chains.insert(Cookie(2), &wide, Inserted::Dumped, None);
        assert_eq!(in_front(&mut chains, Cookie(1), &narrow, 0), [(Cookie(2), Order::Unknown)]);
        assert_eq!(in_front(&mut chains, Cookie(2), &wide, 0), [(Cookie(1), Order::Unknown)]);
    }
}
