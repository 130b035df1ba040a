//! The filters as TC keeps them, and the search for the one that a packet hits.
//!
//! A hook has chains, a chain priorities, a priority one protocol and - this is flower's own, `net/sched/cls_flower.c` - a list
//! of *masks* in the order in which each was first used. Under a mask a packet finds its filter by its key, so the order of
//! filters does not matter there; but a mask with a port range tries the ranges in order of insertion. A mask goes with
//! its last filter; a filter that is replaced keeps its place.

use flowmerge::flower::{Field, Filter, FilterId, Hook, Key, Kind, Match, Port, filter::PROTOCOL_ALL};
use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

/// All filters, and the blocks that ports are bound to.
#[derive(Clone, Debug, Default)]
pub struct FilterTable {
    hooks: HashMap<Hook, BTreeMap<u32, Chain>>,
    /// A port's side, and the shared block that is its filters.
    bound: HashMap<Hook, u32>,
}

/// The priorities of a chain.
type Chain = BTreeMap<u16, Priority>;

/// One priority of a chain (`tcf_proto`).
#[derive(Clone, Debug)]
pub(crate) struct Priority {
    protocol: u16,
    masks: Vec<Mask>,
    /// Filters of which it is not known what they match.
    unknown: Vec<Arc<Filter>>,
    order_guessed: bool,
}

/// The filters of one mask.
#[derive(Clone, Debug)]
struct Mask {
    shape: Shape,
    filters: Vec<Arc<Filter>>,
}

/// What makes two filters use the same mask: the bits compared, and which ports are ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    mask: Key,
    src_range: bool,
    dst_range: bool,
}

impl Shape {
    /// Whether the packet's hash (`skb->hash`) is compared, which depends on where the packet has been.
    fn asks_hash(&self) -> bool {
        self.mask.get(Field::Hash) != 0
    }

    fn of(matches: &Match) -> Shape {
        Shape { mask: matches.mask, src_range: matches.src_range.is_some(), dst_range: matches.dst_range.is_some() }
    }
}

/// What a search in one priority came to.
#[derive(Clone, Debug)]
pub(crate) enum Search {
    /// No filter matches.
    None,
    /// This one does. With `guessed`, the answer rests on an order of insertion that was not observed.
    Hit { filter: Arc<Filter>, guessed: bool },
    /// This one may match: what it asks is not known, or the packet's hash, for which it asks.
    Unknown(Arc<Filter>),
}

impl FilterTable {
    /// An empty table.
    pub fn new() -> FilterTable {
        FilterTable::default()
    }

    /// Adds a filter, or replaces the one of the same identity in its place.
    pub fn replace(&mut self, filter: Filter) {
        self.insert(filter, false);
    }

    /// Adds a filter from a dump, which does not tell the order of insertion: it is taken to be that of the calls, and a hit
    /// that depends on it is marked as guessed for as long as the priority exists.
    pub fn load(&mut self, filter: Filter) {
        self.insert(filter, true);
    }

    fn insert(&mut self, filter: Filter, order_guessed: bool) {
        let FilterId { hook, chain, prio, .. } = filter.id;
        let chain = self.hooks.entry(hook).or_default().entry(chain).or_default();
        if chain.get(&prio).is_some_and(|p| p.protocol != filter.id.protocol) {
            // The kernel refuses that: the old priority has gone without our seeing it.
            chain.remove(&prio);
        }
        let priority = chain.entry(prio).or_insert_with(|| Priority {
            protocol: filter.id.protocol,
            masks: Vec::new(),
            unknown: Vec::new(),
            order_guessed: false,
        });
        priority.order_guessed |= order_guessed;
        priority.replace(filter);
    }

    /// Removes a filter. False if there is none.
    pub fn remove(&mut self, id: FilterId) -> bool {
        let Some(chains) = self.hooks.get_mut(&id.hook) else {
            return false;
        };
        let Some(chain) = chains.get_mut(&id.chain) else {
            return false;
        };
        let Some(priority) = chain.get_mut(&id.prio) else {
            return false;
        };
        let removed = priority.protocol == id.protocol && priority.remove(id.handle);
        if priority.is_empty() {
            chain.remove(&id.prio);
        }
        self.tidy(id.hook);
        removed
    }

    /// Removes a whole priority of a chain, or all of them.
    pub fn remove_priority(&mut self, hook: Hook, chain: u32, prio: Option<u16>) {
        if let Some(chains) = self.hooks.get_mut(&hook)
            && let Some(priorities) = chains.get_mut(&chain)
        {
            match prio {
                Some(prio) => drop(priorities.remove(&prio)),
                None => priorities.clear(),
            }
        }
        self.tidy(hook);
    }

    /// Removes all filters of a hook: its qdisc or its device has gone, or the last port has left the block.
    pub fn remove_hook(&mut self, hook: Hook) {
        self.hooks.remove(&hook);
    }

    fn tidy(&mut self, hook: Hook) {
        if let Some(chains) = self.hooks.get_mut(&hook) {
            chains.retain(|_, chain| !chain.is_empty());
            if chains.is_empty() {
                self.hooks.remove(&hook);
            }
        }
    }

    /// Makes a shared block the filters of one side of a port.
    pub fn bind(&mut self, side: Hook, block: u32) {
        self.bound.insert(side, block);
    }

    /// Undoes [`FilterTable::bind`].
    pub fn unbind(&mut self, side: Hook) {
        self.bound.remove(&side);
    }

    /// The hook whose filters a packet at this side of a port meets.
    pub fn hook(&self, side: Hook) -> Hook {
        self.bound.get(&side).map_or(side, |&block| Hook::Block(block))
    }

    /// Whether a packet at this side of a port meets any filters.
    pub fn has_filters(&self, side: Hook) -> bool {
        self.hooks.contains_key(&self.hook(side))
    }

    /// Whether packets that come in on the port meet any filters.
    pub fn is_filtered(&self, port: Port) -> bool {
        self.has_filters(Hook::Ingress(port))
    }

    /// All filters, by hook, chain and priority; within a priority by mask, in the order in which they are tried.
    pub fn filters(&self) -> impl Iterator<Item = &Filter> {
        let mut hooks: Vec<_> = self.hooks.iter().collect();
        hooks.sort_by_key(|(hook, _)| **hook);
        hooks
            .into_iter()
            .flat_map(|(_, chains)| chains.values())
            .flat_map(|chain| chain.values())
            .flat_map(|priority| priority.masks.iter().flat_map(|m| &m.filters).chain(&priority.unknown))
            .map(|filter| &**filter)
    }

    /// The filter of that identity.
    pub fn get(&self, id: FilterId) -> Option<&Filter> {
        let priority = self.hooks.get(&id.hook)?.get(&id.chain)?.get(&id.prio)?;
        let mut filters = priority.masks.iter().flat_map(|m| &m.filters).chain(&priority.unknown);
        filters.find(|f| f.id == id).map(|f| &**f)
    }

    /// The first priority of a chain after that one.
    pub(crate) fn priority_after(&self, hook: Hook, chain: u32, after: Option<u16>) -> Option<(u16, &Priority)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let chain = self.hooks.get(&hook)?.get(&chain)?;
        chain.range((from, Bound::Unbounded)).next().map(|(&prio, p)| (prio, p))
    }
}

impl Priority {
    /// Whether packets of this outermost protocol are looked at.
    pub(crate) fn takes(&self, protocol: u16) -> bool {
        self.protocol == protocol || self.protocol == PROTOCOL_ALL
    }

    fn is_empty(&self) -> bool {
        self.masks.is_empty() && self.unknown.is_empty()
    }

    fn replace(&mut self, filter: Filter) {
        let filter = Arc::new(filter);
        if !filter.is_decoded() {
            self.remove(filter.id.handle);
            return self.unknown.push(filter);
        }
        let shape = Shape::of(&filter.matches);
        if let Some(mask) = self.masks.iter_mut().find(|mask| mask.shape == shape) {
            match mask.filters.iter_mut().find(|f| f.id.handle == filter.id.handle) {
                Some(old) => {
                    *old = filter;
                    return;
                }
                // Mask by mask, a filter may not have been seen leaving: the new one comes first, lest the mask go with it.
                None => mask.filters.push(filter.clone()),
            }
            let handle = filter.id.handle;
            self.forget(|f| f.id.handle == handle && !Arc::ptr_eq(f, &filter));
            return;
        }
        self.remove(filter.id.handle);
        self.masks.push(Mask { shape, filters: vec![filter] });
    }

    fn remove(&mut self, handle: u32) -> bool {
        self.forget(|f| f.id.handle == handle)
    }

    fn forget(&mut self, gone: impl Fn(&Arc<Filter>) -> bool) -> bool {
        let mut any = false;
        let mut stays = |f: &Arc<Filter>| {
            any |= gone(f);
            !gone(f)
        };
        for mask in &mut self.masks {
            mask.filters.retain(&mut stays);
        }
        self.unknown.retain(&mut stays);
        self.masks.retain(|mask| !mask.filters.is_empty());
        any
    }

    /// The filter that a packet with this key hits (`fl_classify`).
    pub(crate) fn search(&self, key: &Key) -> Search {
        // What is known of a match that was not decoded in full can still exclude the packet.
        let maybe = |f: &&Arc<Filter>| f.kind != Kind::Flower || f.matches.fits(&of_hash(key, f));
        if let Some(filter) = self.unknown.iter().find(maybe).filter(|f| !f.skip_sw) {
            return Search::Unknown(filter.clone());
        }
        let mut hits = self.masks.iter().filter_map(|mask| Some((mask, mask.search(key)?)));
        let Some((mask, filter)) = hits.next() else {
            return Search::None;
        };
        if mask.shape.asks_hash() {
            return Search::Unknown(filter.clone());
        }
        let guessed = self.order_guessed && self.masks.iter().map(|mask| mask.matching(key)).sum::<usize>() > 1;
        Search::Hit { filter: filter.clone(), guessed }
    }
}

impl Mask {
    /// The filter found under this mask; with the hash in the mask, one that may be. One that is `skip_sw` hides others of its mask: the lookup is over with it.
    fn search(&self, key: &Key) -> Option<&Arc<Filter>> {
        if self.shape.asks_hash() {
            return self.filters.iter().find(|f| !f.skip_sw && f.matches.fits(&of_hash(key, f)));
        }
        let found = if self.shape.src_range || self.shape.dst_range {
            // The first filter whose ranges hold the ports lends them to a lookup by key *and* ranges, which may find another
            // filter with the same ranges (`fl_lookup_range`).
            self.filters.iter().find_map(|lender| {
                let mut ports = lender.matches.ranges();
                if !ports.all(|(field, range)| range.contains(key.get(field) as u16)) {
                    return None;
                }
                self.filters.iter().find(|f| {
                    f.matches.src_range == lender.matches.src_range
                        && f.matches.dst_range == lender.matches.dst_range
                        && f.matches.key.agrees(key, &self.shape.mask)
                })
            })
        } else {
            self.filters.iter().find(|f| f.matches.key.agrees(key, &self.shape.mask))
        };
        found.filter(|f| !f.skip_sw)
    }

    /// How many of its filters a packet matches.
    fn matching(&self, key: &Key) -> usize {
        self.filters.iter().filter(|f| f.matches.fits(&of_hash(key, f))).count()
    }
}

/// The key, if the packet had the hash that the filter asks for.
fn of_hash(key: &Key, filter: &Filter) -> Key {
    key.with(Field::Hash, filter.matches.key.get(Field::Hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowmerge::flower::{Field, Range};

    const HOOK: Hook = Hook::Ingress(Port(1));

    fn filter(handle: u32, matches: Match) -> Filter {
        Filter {
            id: FilterId { hook: HOOK, chain: 0, prio: 1, protocol: 0x0800, handle },
            kind: Kind::Flower,
            matches,
            actions: Vec::new(),
            skip_sw: false,
            skip_hw: false,
            undecoded: Vec::new(),
        }
    }

    fn hit(table: &FilterTable, key: Key) -> Option<(u32, bool)> {
        let (_, priority) = table.priority_after(HOOK, 0, None)?;
        match priority.search(&key) {
            Search::Hit { filter, guessed } => Some((filter.id.handle, guessed)),
            _ => None,
        }
    }

    #[test]
    fn the_mask_inserted_first_wins_and_goes_with_its_last_filter() {
        let wide = Match::default().with(Field::Ipv4Dst, 0x0a000000, 0xff000000);
        let narrow = Match::default().exact(Field::Ipv4Dst, 0x0a000001);
        let packet = Key::ZERO.with(Field::Ipv4Dst, 0x0a000001);
        let mut table = FilterTable::new();
        table.replace(filter(1, wide));
        table.replace(filter(2, narrow));
        assert_eq!(hit(&table, packet), Some((1, false)));
        // A replaced filter keeps its place.
        table.replace(filter(1, wide));
        assert_eq!(hit(&table, packet), Some((1, false)));
        // Removed and added again, its mask is the last one.
        assert!(table.remove(filter(1, wide).id));
        table.replace(filter(1, wide));
        assert_eq!(hit(&table, packet), Some((2, false)));
        // A dump does not tell.
        table.load(filter(3, Match::default()));
        assert_eq!(hit(&table, packet), Some((2, true)));
        table.remove_priority(HOOK, 0, Some(1));
        assert!(!table.is_filtered(Port(1)));
    }

    /// TRAPS 12: of A (1-10, X), B (1-5, Y), C (1-10, Y) the packet Y:3 hits C.
    #[test]
    fn ranges_are_tried_in_order_of_insertion_whoever_inserted_them() {
        let range =
            |max, dst| Match { dst_range: Some(Range { min: 1, max }), ..Match::default().exact(Field::Ipv4Dst, dst) };
        let mut table = FilterTable::new();
        table.replace(filter(1, range(10, 7)));
        table.replace(filter(2, range(5, 8)));
        table.replace(filter(3, range(10, 8)));
        let packet = |port| Key::ZERO.with(Field::Ipv4Dst, 8).with(Field::DstPort, port);
        assert_eq!(hit(&table, packet(3)), Some((3, false)));
        table.remove(filter(1, range(10, 7)).id);
        assert_eq!(hit(&table, packet(3)), Some((2, false)));
        assert_eq!(hit(&table, packet(7)), Some((3, false)));
        assert_eq!(hit(&table, packet(11)), None);
    }

    /// Of a filter that asks for the hash as well, it is known only that a packet does not match.
    #[test]
    fn a_hash_leaves_open_what_fits_otherwise() {
        let of = |dst| Match::default().exact(Field::Ipv4Dst, dst);
        let mut table = FilterTable::new();
        table.replace(filter(1, of(7)));
        table.replace(filter(2, of(7).exact(Field::Hash, 5)));
        table.replace(filter(3, of(8).exact(Field::Hash, 6)));
        table.replace(Filter { skip_sw: true, ..filter(4, of(9).exact(Field::Hash, 6)) });
        table.replace(filter(5, Match::default()));
        let found = |dst| {
            let (_, priority) = table.priority_after(HOOK, 0, None).unwrap();
            match priority.search(&Key::ZERO.with(Field::Ipv4Dst, dst)) {
                Search::Hit { filter, .. } => (filter.id.handle, true),
                Search::Unknown(filter) => (filter.id.handle, false),
                Search::None => (0, false),
            }
        };
        assert_eq!([7, 8, 9, 10].map(found), [(1, true), (3, false), (5, true), (5, true)]);
    }

    #[test]
    fn a_block_stands_in_for_a_port() {
        let mut table = FilterTable::new();
        let mut shared = filter(1, Match::default());
        shared.id.hook = Hook::Block(7);
        table.replace(shared);
        table.bind(HOOK, 7);
        assert!(table.is_filtered(Port(1)));
        table.unbind(HOOK);
        assert!(!table.is_filtered(Port(1)));
    }
}
