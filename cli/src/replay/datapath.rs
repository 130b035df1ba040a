//! The datapath as the kernel's messages describe it: ports, blocks, filters, and what their actions counted. Every
//! message brings the model, the counters and the hardware up to date.

use super::{counters::Book, offload::Offload};
use flowmerge::{
    flower::{Action, ActionKind, Cookie, Counters, Field, Filter, FilterId, Hook, Port, action::Mirred},
    netlink::{ActionMessage, Event, FilterMessage, Link, Message, Qdisc},
};
use merge_model::{Model, PortState};
use std::collections::{BTreeMap, BTreeSet};

/// The datapath.
#[derive(Default)]
pub struct Datapath {
    /// TC itself.
    pub model: Model,
    /// What the actions counted in software.
    pub book: Book,
    filters: BTreeMap<FilterId, Known>,
    blocks: BTreeMap<Hook, u32>,
    cookies: u64,
    /// Different filters so far.
    pub seen: u64,
    /// Those of them that were not decoded whole.
    pub undecoded: u64,
}

struct Known {
    cookie: Cookie,
    filter: Filter,
    /// What hardware had counted for its actions when that was last added.
    read: Vec<Counters>,
}

impl Datapath {
    /// Takes a message over; `dumped` if it tells what was there before.
    pub fn apply(&mut self, message: &Message, dumped: bool, hardware: &mut dyn Offload) {
        match message {
            Message::Link(link) => self.link(link, hardware),
            Message::LinkGone(link) => {
                let port = Port(link.index);
                self.model.remove_port(port);
                hardware.port(port, false);
                self.unbind(port, hardware);
            }
            Message::Qdisc(qdisc) => self.bind(qdisc, hardware),
            Message::QdiscGone(qdisc) if matches!(qdisc.kind.as_str(), "clsact" | "ingress") => {
                self.unbind(Port(qdisc.index), hardware);
            }
            Message::Filter(message) => match message.event {
                Event::New => self.filter(message, dumped, hardware),
                Event::Gone => self.remove(message.filter.id, hardware),
            },
            Message::FiltersGone { hook, chain, prio, .. } => {
                self.remove_all(|id| (id.hook, id.chain, id.prio) == (*hook, *chain, *prio), hardware);
            }
            Message::Actions { event, actions } => actions.iter().for_each(|a| self.action(*event, a, hardware)),
            _ => {}
        }
    }

    /// The filter of a hit.
    pub fn cookie(&self, id: FilterId) -> Option<Cookie> {
        Some(self.filters.get(&id)?.cookie)
    }

    /// The filters, by identity.
    pub fn filters(&self) -> impl Iterator<Item = &Filter> {
        self.filters.values().map(|known| &known.filter)
    }

    /// Whether a filter that a frame may meet, which comes in on this port, compares anything of its tunnel.
    pub fn looks_at_tunnel(&self, port: Port) -> bool {
        let mut hooks = vec![Hook::Ingress(port)];
        let mut at = 0;
        while let Some(&side) = hooks.get(at) {
            at += 1;
            let hook = self.blocks.get(&side).map_or(side, |&block| Hook::Block(block));
            for filter in self.filters().filter(|filter| filter.id.hook == hook || filter.id.hook == side) {
                if filter.matches.terms().any(|(field, ..)| Field::TUNNEL.contains(&field)) {
                    return true;
                }
                let next = filter.actions.iter().filter_map(|action| match action.kind {
                    ActionKind::Mirred(Mirred { port, ingress: true, .. }) => Some(Hook::Ingress(port)),
                    ActionKind::Mirred(Mirred { port, .. }) => Some(Hook::Egress(port)),
                    _ => None,
                });
                for hook in next {
                    if !hooks.contains(&hook) {
                        hooks.push(hook);
                    }
                }
            }
        }
        false
    }

    /// An action of a filter counts in software.
    pub fn count(&mut self, id: FilterId, action: usize, more: Counters) {
        if let Some(action) = self.filters.get(&id).and_then(|k| k.filter.actions.get(action)) {
            self.book.count(action, more);
        }
    }

    /// Adds what hardware has counted for the filters that are there since it was asked last.
    pub fn read_hardware(&mut self, hardware: &mut dyn Offload) {
        for known in self.filters.values_mut() {
            let now = hardware.stats(known.cookie);
            add(&mut self.book, known, &now);
            known.read = now;
        }
    }

    /// A filter of the start, not in hardware yet, had counted that much at this point.
    pub fn recount(&mut self, told: &FilterMessage) {
        if self.filters.get(&told.filter.id).is_some_and(|k| k.filter == told.filter) {
            self.book.set(&told.filter, &told.counters);
        }
    }

    /// What a filter's actions have counted, if there is such a filter.
    pub fn read(&self, id: FilterId) -> Option<Vec<Counters>> {
        Some(self.book.read(&self.filters.get(&id)?.filter))
    }

    fn link(&mut self, link: &Link, hardware: &mut dyn Offload) {
        let state = PortState { up: link.up && link.carrier, mtu: link.mtu as usize };
        self.model.set_port(Port(link.index), state);
        hardware.port(Port(link.index), state.up);
    }

    fn bind(&mut self, qdisc: &Qdisc, hardware: &mut dyn Offload) {
        let port = Port(qdisc.index);
        for (side, block) in [(Hook::Ingress(port), qdisc.ingress_block), (Hook::Egress(port), qdisc.egress_block)] {
            if let Some(block) = block {
                self.blocks.insert(side, block);
                self.model.filters.bind(side, block);
                hardware.bind(side, block);
            }
        }
    }

    /// A port's qdisc goes, with the filters of the port and of each block that no other port is bound to.
    fn unbind(&mut self, port: Port, hardware: &mut dyn Offload) {
        let mut gone = BTreeSet::new();
        for side in [Hook::Ingress(port), Hook::Egress(port)] {
            gone.insert(side);
            if let Some(block) = self.blocks.remove(&side) {
                self.model.filters.unbind(side);
                hardware.unbind(side, block);
                if !self.blocks.values().any(|&b| b == block) {
                    gone.insert(Hook::Block(block));
                }
            }
        }
        self.remove_all(|id| gone.contains(&id.hook), hardware);
    }

    fn filter(&mut self, message: &FilterMessage, dumped: bool, hardware: &mut dyn Offload) {
        let filter = &message.filter;
        let old = self.filters.get(&filter.id);
        // The same filter with the same actions: a block's, told for each of its devices, or an echo.
        if old.is_some_and(|known| known.filter == *filter) {
            return;
        }
        self.seen += 1;
        self.undecoded += u64::from(!filter.is_decoded());
        self.book.open(filter, &message.counters);
        match dumped {
            true => self.model.filters.load(filter.clone()),
            false => self.model.filters.replace(filter.clone()),
        }
        self.cookies += 1;
        let cookie = Cookie(self.cookies);
        let known = Known { cookie, filter: filter.clone(), read: Vec::new() };
        match self.filters.insert(filter.id, known) {
            Some(old) => {
                let last = hardware.replace(old.cookie, cookie, filter);
                self.end(&old, &last);
            }
            None => hardware.add(cookie, filter, dumped),
        }
    }

    fn remove_all(&mut self, gone: impl Fn(&FilterId) -> bool, hardware: &mut dyn Offload) {
        let gone: Vec<FilterId> = self.filters.keys().filter(|id| gone(id)).copied().collect();
        for id in gone {
            self.remove(id, hardware);
        }
    }

    fn remove(&mut self, id: FilterId, hardware: &mut dyn Offload) {
        self.model.filters.remove(id);
        if let Some(known) = self.filters.remove(&id) {
            let last = hardware.destroy(known.cookie);
            self.end(&known, &last);
        }
    }

    /// A filter is over: what hardware counted for it last goes to the actions, which others may share.
    fn end(&mut self, known: &Known, last: &[Counters]) {
        add(&mut self.book, known, last);
        self.book.close(&known.filter);
    }

    /// An action changes under the filters that use it.
    fn action(&mut self, event: Event, told: &ActionMessage, hardware: &mut dyn Offload) {
        if event == Event::Gone {
            self.book.fall(told.action.name(), told.action.index);
            return;
        }
        self.book.stand(&told.action, told.counters);
        let users: Vec<FilterId> =
            self.filters().filter(|f| f.actions.iter().any(|a| is_same(a, &told.action))).map(|f| f.id).collect();
        for id in users {
            let Some(known) = self.filters.get(&id) else { continue };
            let mut filter = known.filter.clone();
            for action in filter.actions.iter_mut().filter(|a| is_same(a, &told.action)) {
                *action = told.action.clone();
            }
            filter.undecoded.extend(told.undecoded.iter().cloned());
            if filter == known.filter {
                continue;
            }
            self.book.open(&filter, &[]);
            self.model.filters.replace(filter.clone());
            self.cookies += 1;
            let cookie = Cookie(self.cookies);
            let last = hardware.replace(known.cookie, cookie, &filter);
            if let Some(old) = self.filters.insert(id, Known { cookie, filter, read: Vec::new() }) {
                self.end(&old, &last);
            }
        }
    }
}

/// Adds what hardware has counted by now for a filter's actions, beyond what was added before.
fn add(book: &mut Book, known: &Known, now: &[Counters]) {
    for (i, (action, &now)) in known.filter.actions.iter().zip(now).enumerate() {
        let before = known.read.get(i).copied().unwrap_or_default();
        let more = Counters {
            packets: now.packets.saturating_sub(before.packets),
            bytes: now.bytes.saturating_sub(before.bytes),
            last_used: now.last_used,
        };
        book.count(action, more);
    }
}

/// Whether two actions are one in the kernel.
fn is_same(a: &Action, b: &Action) -> bool {
    a.index == b.index && a.name() == b.name()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::offload::{Arrival, Handled};
    use flowmerge::{
        flower::{Action, Match},
        walk::Walk,
    };
    use merge_model::conntrack::observed::Change;

    /// Hardware that has counted so much, for every filter.
    struct Counted(u64);

    impl Counted {
        fn all(&self) -> Vec<Counters> {
            vec![Counters { packets: self.0, bytes: 100 * self.0, last_used: 5 }]
        }
    }

    impl Offload for Counted {
        fn add(&mut self, _: Cookie, _: &Filter, _: bool) {}
        fn replace(&mut self, _: Cookie, _: Cookie, _: &Filter) -> Vec<Counters> {
            self.all()
        }
        fn destroy(&mut self, _: Cookie) -> Vec<Counters> {
            self.all()
        }
        fn bind(&mut self, _: Hook, _: u32) {}
        fn unbind(&mut self, _: Hook, _: u32) {}
        fn port(&mut self, _: Port, _: bool) {}
        fn connection(&mut self, _: &Change) {}
        fn walk(&mut self, _: Walk) {}
        fn receive(&mut self, _: Arrival) -> Option<Handled> {
            None
        }
        fn stats(&mut self, _: Cookie) -> Vec<Counters> {
            self.all()
        }
    }

    /// The last dump goes on while frames come: what the first port's filters are compared with is read before the next port.s.
    #[test]
    fn what_hardware_counted_is_added_once() {
        let id = |handle| FilterId { hook: Hook::Ingress(Port(1)), chain: 0, prio: 1, protocol: 0x0800, handle };
        // They share the action of index 7.
        let shared = Action { index: 7, ..Action::redirect(Port(2)) };
        let mut datapath = Datapath::default();
        for handle in [1, 2] {
            let filter = Filter::flower(id(handle), Match::default(), vec![shared.clone()]);
            let told =
                FilterMessage { event: Event::New, filter, counters: Vec::new(), idle: Vec::new(), in_hardware: false };
            datapath.filter(&told, false, &mut Counted(0));
        }
        let packets = |datapath: &Datapath| datapath.read(id(2)).map(|counted| (counted[0].packets, counted[0].bytes));
        datapath.read_hardware(&mut Counted(3));
        assert_eq!(packets(&datapath), Some((6, 600)));
        datapath.read_hardware(&mut Counted(3));
        assert_eq!(packets(&datapath), Some((6, 600)), "no frame came");
        datapath.read_hardware(&mut Counted(4));
        assert_eq!(packets(&datapath), Some((8, 800)));
        datapath.remove(id(1), &mut Counted(5));
        assert_eq!(packets(&datapath), Some((9, 900)), "the last of one that goes");
    }
}
