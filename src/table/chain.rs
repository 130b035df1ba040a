//! The order in which TC tries filters: chains, priorities, masks, ranges.
//!
//! Inside a priority flower tries masks in the order in which they were first inserted, and inside one mask port *ranges* in
//! the order of their insertion, by whichever filter (`fl_classify`, `fl_lookup_range`); everything else of one mask is
//! looked up by key, so that at most one fits. A dump comes by handle and tells none of these orders.

use crate::{
    flower::{Cookie, Field, Filter, Hook, Key, Range},
    merge::Order,
};
use hashbrown::HashMap;
use std::collections::BTreeMap;

/// Whether a filter's insertion was seen, or found in a dump made later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// After all filters that were there before.
    Observed,
    /// At some time before the dump.
    Dumped,
}

/// All chains.
#[derive(Clone, Debug, Default)]
pub struct Chains {
    chains: HashMap<(Hook, u32), BTreeMap<u16, Vec<Group>>, foldhash::fast::RandomState>,
}

/// The filters of one priority that share a mask, in the order of insertion.
#[derive(Clone, Debug)]
struct Group {
    mask: Shape,
    inserted: Inserted,
    members: Vec<Member>,
}

#[derive(Clone, Debug)]
struct Member {
    cookie: Cookie,
    ranges: [Option<Range>; 2],
    inserted: Inserted,
}

/// What makes two filters' masks the same mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    mask: Key,
    ranges: [bool; 2],
}

impl Shape {
    fn of(filter: &Filter) -> Shape {
        let mut mask = filter.matches.mask;
        mask.set(Field::Protocol, 0); // the priority's own, not flower's
        Shape { mask, ranges: [filter.matches.src_range.is_some(), filter.matches.dst_range.is_some()] }
    }
}

impl Chains {
    /// Adds a filter. `instead` is the one that it replaces and whose place it takes if the mask is the same.
    pub fn insert(&mut self, cookie: Cookie, filter: &Filter, inserted: Inserted, instead: Option<Cookie>) {
        let priority = self.chains.entry((filter.id.hook, filter.id.chain)).or_default();
        let groups = priority.entry(filter.id.prio).or_default();
        let mask = Shape::of(filter);
        let member = Member { cookie, ranges: [filter.matches.src_range, filter.matches.dst_range], inserted };
        let mine = groups.iter().position(|g| g.mask == mask).unwrap_or_else(|| {
            groups.push(Group { mask, inserted, members: Vec::new() });
            groups.len() - 1
        });
        let group = &mut groups[mine];
        if inserted == Inserted::Dumped {
            group.inserted = Inserted::Dumped; // the mask is as old as its oldest filter
        }
        match group.members.iter_mut().find(|m| Some(m.cookie) == instead) {
            Some(place) => *place = Member { inserted: place.inserted, ..member },
            None => group.members.push(member),
        }
        // What it replaces has no place but this one.
        for (i, group) in groups.iter_mut().enumerate() {
            let elsewhere = |m: &Member| m.cookie == cookie && i != mine;
            group.members.retain(|m| !elsewhere(m) && (m.cookie == cookie || Some(m.cookie) != instead));
        }
        groups.retain(|g| !g.members.is_empty());
    }

    /// The other filters of one priority whose order among themselves this one decides: those of its mask, if it has ranges.
    /// A range is as old as the first filter that brought it.
    pub fn ordered_by(&self, cookie: Cookie, filter: &Filter) -> Vec<Cookie> {
        let chain = self.chains.get(&(filter.id.hook, filter.id.chain));
        let mask = Shape::of(filter);
        let groups = chain.and_then(|c| c.get(&filter.id.prio)).into_iter().flatten();
        let members = groups.filter(|g| g.mask == mask && mask.ranges != [false; 2]).flat_map(|g| &g.members);
        members.map(|m| m.cookie).filter(|&c| c != cookie).collect()
    }

    /// Takes a filter out; a mask goes with its last filter.
    pub fn remove(&mut self, cookie: Cookie, filter: &Filter) {
        let place = (filter.id.hook, filter.id.chain);
        let Some(chain) = self.chains.get_mut(&place) else {
            return;
        };
        if let Some(groups) = chain.get_mut(&filter.id.prio) {
            for group in groups.iter_mut() {
                group.members.retain(|m| m.cookie != cookie);
            }
            groups.retain(|g| !g.members.is_empty());
            if groups.is_empty() {
                chain.remove(&filter.id.prio);
            }
        }
        if chain.is_empty() {
            self.chains.remove(&place);
        }
    }

    /// Whether a hook has filters.
    pub fn any(&self, hook: Hook) -> bool {
        self.chains.keys().any(|k| k.0 == hook)
    }

    /// The filters of a chain.
    pub fn members(&self, hook: Hook, chain: u32) -> impl Iterator<Item = Cookie> + '_ {
        let priorities = self.chains.get(&(hook, chain)).into_iter().flat_map(|c| c.values());
        priorities.flatten().flat_map(|g| &g.members).map(|m| m.cookie)
    }

    /// The filters that TC tries before this one in its chain, from priority `from` on, with how sure that is.
    pub fn in_front(&self, cookie: Cookie, filter: &Filter, from: u16) -> Vec<(Cookie, Order)> {
        let Some(chain) = self.chains.get(&(filter.id.hook, filter.id.chain)) else {
            return Vec::new();
        };
        let before = chain.range(from.min(filter.id.prio)..filter.id.prio).flat_map(|(_, groups)| groups);
        let mut out: Vec<_> = before.flat_map(|g| &g.members).map(|m| (m.cookie, Order::Before)).collect();
        let Some(groups) = chain.get(&filter.id.prio) else {
            return out;
        };
        let Some(mine) = groups.iter().position(|g| g.members.iter().any(|m| m.cookie == cookie)) else {
            return out;
        };
        for (i, group) in groups.iter().enumerate() {
            let order = match i {
                i if i == mine => {
                    out.extend(group.ranges_in_front(cookie));
                    continue;
                }
                // What was dumped was there before, also before what was observed earlier than the dump.
                i if group.inserted == Inserted::Dumped && (i > mine || groups[mine].inserted == group.inserted) => {
                    Order::Unknown
                }
                i if i < mine => Order::Before,
                _ => continue,
            };
            out.extend(group.members.iter().map(|m| (m.cookie, order)));
        }
        out
    }
}

impl Group {
    /// Members with other ranges, whose range was inserted before this one's.
    fn ranges_in_front(&self, cookie: Cookie) -> Vec<(Cookie, Order)> {
        if self.mask.ranges == [false; 2] {
            return Vec::new();
        }
        let first = |ranges| self.members.iter().position(|m| m.ranges == ranges);
        let Some(me) = self.members.iter().find(|m| m.cookie == cookie) else {
            return Vec::new();
        };
        let mine = first(me.ranges);
        let dumped = |ranges: [Option<Range>; 2]| {
            self.members.iter().filter(|m| m.ranges == ranges).any(|m| m.inserted == Inserted::Dumped)
        };
        let others = self.members.iter().filter(|m| m.ranges != me.ranges);
        others
            .filter_map(|m| {
                if dumped(m.ranges) && (dumped(me.ranges) || first(m.ranges) > mine) {
                    Some((m.cookie, Order::Unknown))
                } else {
                    (first(m.ranges) < mine).then_some((m.cookie, Order::Before))
                }
            })
            .collect()
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
        assert_eq!(chains.in_front(me, &wide, 0), [(Cookie(3), before), (Cookie(1), before)]);
        assert_eq!(chains.in_front(me, &wide, 2), [(Cookie(1), before)]);
        assert_eq!(chains.in_front(Cookie(1), &narrow, 0), [(Cookie(3), before)]);
        chains.remove(Cookie(1), &narrow);
        chains.insert(Cookie(4), &narrow, Inserted::Observed, None);
        assert_eq!(chains.in_front(Cookie(4), &narrow, 2), [(me, before)], "the mask came back behind");
        for (c, f) in [(Cookie(4), &narrow), (me, &wide), (Cookie(3), &first)] {
            chains.remove(c, f);
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
        assert_eq!(chains.in_front(Cookie(3), &c, 0), []);
        let in_front_of_b = [(Cookie(1), Order::Before), (Cookie(3), Order::Before)];
        assert_eq!(chains.in_front(Cookie(2), &b, 0), in_front_of_b);
    }

    #[test]
    fn a_dump_does_not_tell_the_order() {
        let mut chains = Chains::default();
        let narrow = filter(2, Match::default().exact(Field::Ipv4Dst, 1));
        let wide = filter(2, Match::default().exact(Field::IpProto, 6));
        chains.insert(Cookie(1), &narrow, Inserted::Dumped, None);
        chains.insert(Cookie(2), &wide, Inserted::Dumped, None);
        assert_eq!(chains.in_front(Cookie(1), &narrow, 0), [(Cookie(2), Order::Unknown)]);
        assert_eq!(chains.in_front(Cookie(2), &wide, 0), [(Cookie(1), Order::Unknown)]);
    }
}
