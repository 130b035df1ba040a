//! What happens besides packets: filters, connections, ports and blocks come, go and change.

use super::{BLOCK, Made, World, up};
use crate::{
    packet::Packet,
    packets::{IN, INNER},
    rule::Rule,
};
use flowmerge::{
    flower::{Cookie, Filter, FilterId, Hook, Port},
    table::{Inserted, overlap},
};
use proptest::test_runner::TestCaseError;

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    Packet(Packet),
    Add(Rule),
    Remove(u8),
    /// With this one's match, if that leaves the mask alone, and actions; `true`: under the same cookie.
    Replace(u8, Rule, bool),
    Mark(usize, u32),
    Labels(usize, u128),
    /// A connection leaves, or comes back.
    There(usize, bool),
    Port(u32, bool),
    /// Whether the shared block is bound at the inner port.
    Bound(bool),
    /// From now on packets conform to a policer's rate, or exceed it.
    Police(u32, bool),
    /// Walks that wait are merged.
    Drain,
}

impl Event {
    /// The packet, to be changed.
    pub fn packet_mut(&mut self) -> Option<&mut Packet> {
        match self {
            Event::Packet(packet) => Some(packet),
            _ => None,
        }
    }

    /// The packet, if it is one.
    pub fn packet(&self) -> Option<&Packet> {
        match self {
            Event::Packet(packet) => Some(packet),
            _ => None,
        }
    }
}

impl World {
    pub(super) fn bind(&mut self, bound: bool) {
        let side = Hook::Ingress(INNER);
        if bound {
            self.model.filters.bind(side, BLOCK);
            self.merger.bind(side, BLOCK).expect("memory removes");
        } else {
            self.model.filters.unbind(side);
            self.merger.unbind(side, BLOCK).expect("memory removes");
        }
    }

    /// The kernel takes no two filters of one priority and the same match, nor two kinds or protocols in one.
    fn is_taken(&self, filter: &Filter, but: Option<FilterId>) -> bool {
        let place = |f: &Filter| (f.id.hook, f.id.chain);
        self.filters.iter().map(|(r, _)| &r.filter).any(|f| {
            Some(f.id) != but
                && place(f) == place(filter)
                && (f.id.prio == filter.id.prio && (f.matches == filter.matches || f.id.protocol != filter.id.protocol)
                    || self.setting.apart && overlap(&f.matches, &filter.matches))
        })
    }

    pub fn add(&mut self, rule: Rule) {
        if let Some((rule, cookie)) = self.enter(rule) {
            self.model.filters.replace(rule.filter.clone());
            self.merger.replace(cookie, rule.told(), Inserted::Observed).expect("memory removes");
        }
    }

    /// Filters that were there before: the model knows their order, the merger hears of them the other way round.
    pub fn dump(&mut self, rules: &[Rule]) {
        let mut dumped: Vec<_> = rules.iter().filter_map(|f| self.enter(f.clone())).collect();
        for (rule, _) in &dumped {
            self.model.filters.load(rule.filter.clone());
        }
        dumped.reverse();
        for (rule, cookie) in dumped {
            self.merger.replace(cookie, rule.told(), Inserted::Dumped).expect("memory removes");
        }
    }

    fn enter(&mut self, mut rule: Rule) -> Option<(Rule, Cookie)> {
        let id = &mut rule.filter.id;
        if self.setting.shared && id.hook == Hook::Ingress(INNER) {
            id.hook = Hook::Block(BLOCK);
        }
        if self.is_taken(&rule.filter, None) {
            return None;
        }
        self.cookies += 1;
        rule.filter.id.handle = self.cookies as u32;
        let entered = (rule, Cookie(self.cookies));
        self.filters.push(entered.clone());
        Some(entered)
    }

    fn pick(&self, n: u8) -> Option<usize> {
        (!self.filters.is_empty()).then(|| n as usize % self.filters.len())
    }

    /// Gives what was merged.
    pub fn happens(&mut self, event: &Event) -> Result<Vec<Made>, TestCaseError> {
        match event {
            Event::Packet(packet) => return self.packet(packet),
            Event::Add(rule) => self.add(rule.clone()),
            Event::Remove(n) => {
                if let Some(i) = self.pick(*n) {
                    let (rule, cookie) = self.filters.remove(i);
                    self.model.filters.remove(rule.filter.id);
                    let counters = self.merger.destroy(cookie).expect("memory removes");
                    self.settle(&rule, &counters)?;
                }
            }
            Event::Replace(n, with, same) => {
                if let Some(i) = self.pick(*n) {
                    self.replace(i, with, *same)?;
                }
            }
            Event::Mark(i, mark) => self.tracker.entries[*i].connection.mark = *mark,
            Event::Labels(i, labels) => self.tracker.entries[*i].connection.labels = *labels,
            Event::There(i, there) => self.there(*i, *there),
            Event::Port(port, is) => {
                self.model.set_port(Port(*port), up(*is));
                self.merger.port(Port(*port), *is).expect("memory removes");
            }
            Event::Police(index, conforms) => {
                self.model.set_policer(*index, *conforms);
                self.merger.hardware().police(*index, *conforms);
                match conforms {
                    true => self.exceeded.remove(index),
                    false => self.exceeded.insert(*index),
                };
            }
            Event::Bound(bound) if self.setting.shared => self.bind(*bound),
            Event::Bound(_) => {}
            Event::Drain => {
                let made = self.drain()?;
                self.forget();
                return Ok(made);
            }
        }
        self.tell();
        self.forget();
        Ok(Vec::new())
    }

    /// A connection leaves, or comes back as it was at first, unless another one has its place.
    fn there(&mut self, i: usize, there: bool) {
        let first = crate::connections::connections()[i];
        let tuples = [first.original, first.reply];
        let other = |(j, e): (usize, &crate::tracker::Entry)| {
            let c = &e.connection;
            let same = tuples.contains(&c.original) || tuples.contains(&c.reply);
            j != i && e.alive && e.confirmed && c.zone == first.zone && same
        };
        let taken = self.tracker.entries.iter().enumerate().any(other);
        let entry = &mut self.tracker.entries[i];
        let comes_back = !entry.alive || entry.connection.qualifies().is_err();
        if !there {
            entry.alive = false;
        } else if comes_back && !taken {
            entry.alive = true;
            entry.connection = first;
        }
    }

    /// The kernel lets a filter be replaced by one of the same mask only.
    fn replace(&mut self, i: usize, with: &Rule, same: bool) -> Result<(), TestCaseError> {
        let (old, cookie) = self.filters[i].clone();
        if old.hides_match() || with.hides_match() {
            return Ok(());
        }
        let id = old.filter.id;
        let mut new =
            Rule { filter: Filter { actions: with.filter.actions.clone(), ..old.filter.clone() }, blind: with.blind };
        let (was, is) = (&old.filter.matches, &with.filter.matches);
        let ranges = |m: &flowmerge::flower::Match| (m.src_range.is_some(), m.dst_range.is_some());
        if with.filter.id.protocol == id.protocol && is.mask == was.mask && ranges(is) == ranges(was) {
            new.filter.matches = *is;
        }
        // What is behind a redirect does not redirect there again, and egress filters have few actions.
        let goes_round = id.hook != Hook::Ingress(IN) && with.filter.id.hook == Hook::Ingress(IN);
        if goes_round || self.is_taken(&new.filter, Some(id)) || matches!(id.hook, Hook::Egress(_)) {
            return Ok(());
        }
        self.model.filters.replace(new.filter.clone());
        if same {
            let counters = self.merger.stats(cookie);
            self.settle(&old, &counters)?;
            self.merger.replace(cookie, new.told(), Inserted::Observed).expect("memory removes");
            self.filters[i] = (new, cookie);
        } else {
            self.cookies += 1;
            let now = Cookie(self.cookies);
            self.merger.replace(now, new.told(), Inserted::Observed).expect("memory removes");
            let counters = self.merger.destroy(cookie).expect("memory removes");
            self.settle(&old, &counters)?;
            self.filters[i] = (new, now);
        }
        Ok(())
    }
}
