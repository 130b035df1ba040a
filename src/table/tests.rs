//! The order of classification and what a new filter makes stale, against the plain definitions that try all.

use super::{chain::*, overlap};
use crate::{
    flower::{Cookie, Field, Filter, FilterId, Hook, Match, Port, Range},
    merge::Order,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// The order of a chain by definition: lists in the order of insertion, and each question asked of all.
#[derive(Default)]
struct Plain {
    priorities: BTreeMap<u16, Vec<PlainGroup>>,
}

struct PlainGroup {
    filter: Filter,
    unknown: Option<Cookie>,
    dumped: bool,
    members: Vec<(Cookie, Filter, bool)>,
}

type Ranges = [Option<Range>; 2];

fn ranges(f: &Filter) -> Ranges {
    [f.matches.src_range, f.matches.dst_range]
}

impl PlainGroup {
    fn is_of(&self, cookie: Cookie, f: &Filter) -> bool {
        let mask = |f: &Filter| f.matches.mask.with(Field::Protocol, 0);
        let unknown = (!f.undecoded.is_empty()).then_some(cookie);
        (mask(&self.filter), ranges(&self.filter).map(|r| r.is_some()), self.unknown)
            == (mask(f), ranges(f).map(|r| r.is_some()), unknown)
    }

    fn first(&self, of: Ranges) -> Option<usize> {
        self.members.iter().position(|m| ranges(&m.1) == of)
    }

    fn is_dumped(&self, of: Ranges) -> bool {
        self.members.iter().any(|m| ranges(&m.1) == of && m.2)
    }
}

impl Plain {
    fn insert(&mut self, cookie: Cookie, filter: &Filter, dumped: bool, instead: Option<Cookie>) {
        let groups = self.priorities.entry(filter.id.prio).or_default();
        let mine = groups.iter().position(|g| g.is_of(cookie, filter)).unwrap_or_else(|| {
            let unknown = (!filter.undecoded.is_empty()).then_some(cookie);
            groups.push(PlainGroup { filter: filter.clone(), unknown, dumped, members: Vec::new() });
            groups.len() - 1
        });
        let group = &mut groups[mine];
        group.dumped |= dumped;
        match group.members.iter_mut().find(|m| Some(m.0) == instead) {
            Some(place) => *place = (cookie, filter.clone(), place.2),
            None => group.members.push((cookie, filter.clone(), dumped)),
        }
        for (i, group) in groups.iter_mut().enumerate() {
            group.members.retain(|m| if m.0 == cookie { i == mine } else { Some(m.0) != instead });
        }
        self.tidy();
    }

    fn remove(&mut self, cookie: Cookie) {
        for group in self.priorities.values_mut().flatten() {
            group.members.retain(|m| m.0 != cookie);
        }
        self.tidy();
    }

    fn tidy(&mut self) {
        self.priorities.values_mut().for_each(|groups| groups.retain(|g| !g.members.is_empty()));
    }

    fn in_front(&self, cookie: Cookie, filter: &Filter, from: u16) -> Vec<Neighbour> {
        let mut out = Vec::new();
        let mut push = |m: &(Cookie, Filter, bool), order, same: bool| {
            if overlap(&m.1.matches, &filter.matches) {
                out.push(Neighbour { cookie: m.0, order, on_arrival: m.1.skip_sw && !same });
            }
        };
        for (_, groups) in self.priorities.range(from.min(filter.id.prio)..filter.id.prio) {
            groups.iter().flat_map(|g| &g.members).for_each(|m| push(m, Order::Before, false));
        }
        let groups = &self.priorities[&filter.id.prio];
        let mine = groups.iter().position(|g| g.members.iter().any(|m| m.0 == cookie)).expect("it is there");
        for (i, group) in groups.iter().enumerate() {
            if i == mine {
                let me = ranges(filter);
                for m in group.members.iter().filter(|m| ranges(&m.1) != me) {
                    let other = ranges(&m.1);
                    let younger = group.first(other) > group.first(me);
                    if group.is_dumped(other) && (group.is_dumped(me) || younger) {
                        push(m, Order::Unknown, true);
                    } else if !younger {
                        push(m, Order::Before, true);
                    }
                }
                continue;
            }
            let both_unknown = group.unknown.is_some() && groups[..mine].iter().any(|g| g.unknown.is_some());
            let unknown = group.dumped && (i > mine || groups[mine].dumped) || i > mine && both_unknown;
            if unknown || i < mine {
                let order = if unknown { Order::Unknown } else { Order::Before };
                group.members.iter().for_each(|m| push(m, order, false));
            }
        }
        out
    }
}

fn filter() -> impl Strategy<Value = Filter> {
    let range = |often| prop::option::weighted(often, (0u16..3, 0u16..3));
    let rarely = || prop::bool::weighted(0.15);
    let bits = prop::sample::select(vec![0u128, 0, 0, 3, 31]);
    (1u16..3, bits, any::<u8>(), range(0.1), range(0.8), prop::bool::weighted(0.2), rarely(), rarely()).prop_map(
        |(prio, mask, value, src, dst, exact, skip_sw, undecoded)| {
            let range = |(min, wide)| Range { min, max: min + wide };
            let mut m = Match::default().exact(Field::Protocol, 0x800).with(Field::Ipv4Dst, value.into(), mask);
            if exact {
                m = m.exact(Field::DstPort, u128::from(value >> 5));
            } else {
                (m.src_range, m.dst_range) = (src.map(range), dst.map(range));
            }
            let id = FilterId { hook: Hook::Ingress(Port(1)), chain: 0, prio, protocol: 0x800, handle: 0 };
            let undecoded = if undecoded { vec!["TCA_FLOWER 99".to_string()] } else { Vec::new() };
            Filter { skip_sw, undecoded, ..Filter::flower(id, m, Vec::new()) }
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Filter, bool),
    /// In place of another, under its cookie or a new one; with the same mask, as in the kernel, or another.
    Replace(u8, Filter, bool, bool),
    Remove(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (filter(), prop::bool::weighted(0.2)).prop_map(|(f, dumped)| Step::Insert(f, dumped)),
        3 => (any::<u8>(), filter(), any::<bool>(), prop::bool::weighted(0.8))
            .prop_map(|(i, f, same, mask)| Step::Replace(i, f, same, mask)),
        2 => any::<u8>().prop_map(Step::Remove),
    ]
}

/// For each filter what stands in front of it.
fn all(chains: &mut Chains, filters: &BTreeMap<u64, Filter>) -> HashMap<Cookie, Vec<Neighbour>> {
    filters.iter().map(|(&c, f)| (Cookie(c), chains.in_front(Cookie(c), f, 0))).collect()
}

proptest! {
    #[test]
    fn the_order_is_that_of_the_definition(steps in prop::collection::vec(step(), 1..40), from in 0u16..4) {
        let (mut chains, mut plain) = (Chains::default(), Plain::default());
        let mut filters: BTreeMap<u64, Filter> = BTreeMap::new();
        let mut before = HashMap::new();
        for (next, step) in (0..).zip(steps) {
            let pick = |i: u8| filters.keys().copied().nth(i as usize % filters.len().max(1));
            let told;
            let mut new = None;
            match step {
                Step::Insert(f, dumped) => {
                    let inserted = if dumped { Inserted::Dumped } else { Inserted::Observed };
                    told = chains.insert(Cookie(next), &f, inserted, None);
                    plain.insert(Cookie(next), &f, dumped, None);
                    new = Some(Cookie(next));
                    filters.insert(next, f);
                }
                Step::Replace(i, f, same, mask) => {
                    let Some(old) = pick(i) else { continue };
                    let mut f = Filter { id: filters[&old].id, ..f };
                    if mask {
                        let (old, new) = (filters[&old].matches, f.matches);
                        let range = |old: Option<Range>, new: Option<Range>| old.and(new.or(old));
                        let key = new.key.and(&old.mask);
                        let (src_range, dst_range) =
                            (range(old.src_range, new.src_range), range(old.dst_range, new.dst_range));
                        f.matches = Match { key, mask: old.mask, src_range, dst_range };
                    }
                    let now = if same { old } else { next };
                    told = chains.insert(Cookie(now), &f, Inserted::Observed, Some(Cookie(old)));
                    plain.insert(Cookie(now), &f, false, Some(Cookie(old)));
                    new = Some(Cookie(now));
                    filters.remove(&old);
                    filters.insert(now, f);
                }
                Step::Remove(i) => {
                    let Some(old) = pick(i) else { continue };
                    told = chains.ordered_by(Cookie(old));
                    chains.remove(Cookie(old));
                    plain.remove(Cookie(old));
                    filters.remove(&old);
                }
            }
            let now = all(&mut chains, &filters);
            for (&c, f) in &filters {
                let cookie = Cookie(c);
                prop_assert_eq!(&now[&cookie], &plain.in_front(cookie, f, 0));
                prop_assert_eq!(chains.in_front(cookie, f, from), plain.in_front(cookie, f, from));
                let mut behind = chains.behind(cookie, f);
                behind.sort_by_key(|n| n.cookie);
                let mine = |(&other, in_front): (&Cookie, &Vec<Neighbour>)| {
                    let me = in_front.iter().find(|n| n.cookie == cookie)?;
                    Some(Neighbour { cookie: other, ..*me })
                };
                let mut definition: Vec<_> = now.iter().filter_map(mine).collect();
                definition.sort_by_key(|n| n.cookie);
                prop_assert_eq!(behind, definition);
                // What stands in front of a filter grows by the new one only, or else it is told.
                let Some(was): Option<&Vec<Neighbour>> = before.get(&cookie) else { continue };
                let grown = now[&cookie].iter().any(|n| Some(n.cookie) != new && !was.iter().any(|w| w.cookie == n.cookie));
                prop_assert!(!grown || Some(cookie) == new || told.contains(&cookie), "{cookie:?} {was:?} {now:?}");
            }
            before = now;
        }
        prop_assert_eq!(chains.any(Hook::Ingress(Port(1))), !filters.is_empty());
        for &c in filters.keys() {
            chains.remove(Cookie(c));
        }
        prop_assert!(!chains.any(Hook::Ingress(Port(1))));
    }
}
