//! Pipelines: *services*, through which connections come about in both directions, as a controller would build them; *relays*, where
//! filters see what others made of a packet (`relay`); and filters at random among them and in front of them.

use super::{
    actions::{self, track},
    dice::Dice,
    matches::{self, Shape},
    universe::Universe,
};
use crate::case::{self, Case};
use flowmerge::flower::{
    Action, ActionKind, Control, Field, Filter, FilterId, Hook, Match, Port,
    action::{CsumFlags, Ct, Mirred, Nat, Vlan},
    ethertype as et,
    field::ct_state::{ESTABLISHED, INVALID, NEW, TRACKED},
};
use std::collections::{BTreeMap, BTreeSet};

/// How a case's filters are drawn up.
pub struct Planner<'a> {
    pub(super) dice: &'a mut Dice,
    pub(super) universe: &'a Universe,
    shared: Vec<(Port, u32)>,
    /// How many chains the random filters use.
    chains: u32,
    filters: Vec<Filter>,
    /// The protocol of each priority of a chain: there is only one.
    protocols: BTreeMap<(Hook, u32, u16), u16>,
    handles: BTreeSet<(Hook, u32, u16, u32)>,
}

/// Linux 6.1 dies of fragments that `ct` gathers at an egress hook: a null device in `netif_skb_features`. And from there to a
/// port's ingress a packet can go round without end, which no limit on nesting stops.
pub fn may_stand_at_egress(action: &Action) -> bool {
    !matches!(action.kind, ActionKind::Ct(_) | ActionKind::Mirred(Mirred { ingress: true, .. }))
}

/// Takes out what asks for a tag on a frame without an Ethernet header: the record has no place for it.
fn headless(list: &mut Vec<Action>) {
    let mut has_header = true;
    list.retain(|action| {
        match action.kind {
            ActionKind::Vlan(Vlan::PopEthernet) => has_header = false,
            ActionKind::Vlan(Vlan::PushEthernet { .. }) => has_header = true,
            ActionKind::Vlan(_) => return has_header,
            _ => {}
        }
        true
    });
}

/// Takes out copies to a port's ingress before the packet goes on in other filters: coming round, each would make more.
fn breed_no_copies(list: &mut Vec<Action>) {
    let leads_on = |control: Control| {
        matches!(control, Control::Goto(_) | Control::Reclassify | Control::Repeat | Control::Continue)
    };
    let goes_on = |action: &Action| match &action.kind {
        ActionKind::Police(police) => leads_on(police.conform) || leads_on(action.control),
        _ => leads_on(action.control),
    };
    let into = |action: &Action| matches!(action.kind, ActionKind::Mirred(Mirred { ingress: true, .. }));
    if list.iter().any(goes_on) {
        list.retain(|action| !into(action) || action.control == Control::Stolen);
    }
}

/// Takes out what names an index for the second time: of a new one Linux 6.1 waits for itself, and for ever (`tcf_idr_check_alloc`).
fn name_once(list: &mut Vec<Action>) {
    let mut named = BTreeSet::new();
    list.retain(|action| action.index == 0 || named.insert(action.index));
}

impl<'a> Planner<'a> {
    /// Nothing so far.
    pub fn new(dice: &'a mut Dice, universe: &'a Universe) -> Planner<'a> {
        let mut shared = Vec::new();
        if dice.percent(25) {
            let mut ports: Vec<Port> = case::ports().collect();
            dice.shuffle(&mut ports);
            shared = ports.into_iter().take(dice.between(1, 3)).map(|port| (port, 7)).collect();
        }
        let chains = dice.between(1, 5) as u32;
        Planner {
            dice,
            universe,
            shared,
            chains,
            filters: Vec::new(),
            protocols: BTreeMap::new(),
            handles: BTreeSet::new(),
        }
    }

    /// A whole pipeline.
    pub fn plan(mut self) -> Case {
        for _ in 0..self.dice.weighted(&[(2, 0), (5, 1), (3, 2)]) {
            self.service();
        }
        for _ in 0..self.dice.weighted(&[(5, 0), (3, 1), (2, 2)]) {
            self.relay();
        }
        for _ in 0..self.dice.between(0, 14) {
            self.stray();
        }
        // In the order in which a controller comes to add them, which is not that of handles or priorities.
        self.dice.shuffle(&mut self.filters);
        Case { shared: self.shared, filters: self.filters, steps: Vec::new() }
    }

    /// A filter that comes later.
    pub fn later(case: &Case, dice: &'a mut Dice, universe: &'a Universe) -> Option<Filter> {
        let mut planner = Planner::new(dice, universe);
        planner.shared = case.shared.clone();
        for filter in &case.filters {
            let FilterId { hook, chain, prio, protocol, handle } = filter.id;
            planner.protocols.insert((hook, chain, prio), protocol);
            planner.handles.insert((hook, chain, prio, handle));
        }
        planner.stray();
        planner.filters.pop()
    }

    /// Where the filters of a port are.
    pub(super) fn hook(&self, port: Port) -> Hook {
        match self.shared.iter().find(|(p, _)| *p == port) {
            Some(&(_, block)) => Hook::Block(block),
            None => Hook::Ingress(port),
        }
    }

    /// Adds a filter, in the first priority from this one on that has its protocol.
    pub(super) fn add(&mut self, hook: Hook, chain: u32, mut prio: u16, shape: Shape, m: Match, actions: Vec<Action>) {
        while *self.protocols.entry((hook, chain, prio)).or_insert(shape.protocol) != shape.protocol {
            prio += 1;
        }
        let mut handle = 1 + self.dice.below(60) as u32;
        while !self.handles.insert((hook, chain, prio, handle)) {
            handle += 1;
        }
        let id = FilterId { hook, chain, prio, protocol: shape.protocol, handle };
        let mut filter = Filter::flower(id, m, actions);
        filter.skip_hw = self.dice.percent(50);
        self.filters.push(filter);
    }

    /// Two ports between which connections come about: `ct` in chain 0, a decision behind it, maybe a second zone, rewrites.
    fn service(&mut self) {
        let universe = self.universe;
        let mut ports: Vec<Port> = case::ports().collect();
        self.dice.shuffle(&mut ports);
        let v6 = self.dice.percent(universe.v6_share);
        let shape = Shape::plain(if v6 { et::IPV6 } else { et::IPV4 });
        let zone = *self.dice.pick(&universe.zones);
        let second = self.dice.percent(30).then(|| *self.dice.pick(&universe.zones));
        let nat = self.dice.percent(55);
        let base = 10 * (1 + self.dice.below(2) as u32);
        let proto = self.dice.percent(40).then(|| *self.dice.pick(&[6u128, 6, 17]));
        let mark = self.dice.percent(30).then(|| (1 + self.dice.below(3) as u32, u32::MAX));
        let labels = self.dice.percent(20).then_some((0x10, 0xff));
        let limit = |m: &mut Match| {
            if let Some(proto) = proto {
                m.set(Field::IpProto, proto, 0xff);
            }
        };
        for (this, other) in [(ports[0], ports[1]), (ports[1], ports[0])] {
            let hook = self.hook(this);
            let pipe = |kind| Action::new(kind, Control::Pipe);
            let mut m = matches::base(shape);
            limit(&mut m);
            if self.dice.percent(30) {
                m.set(Field::IpFlags, 0, 1);
            }
            if self.dice.percent(50) {
                m.set(Field::CtState, 0, TRACKED);
            }
            self.add(hook, 0, 40, shape, m, vec![pipe(track(zone, nat)), Action::gact(Control::Goto(base))]);

            let after = if second.is_some() { Action::gact(Control::Goto(base + 1)) } else { Action::redirect(other) };
            let behind = |state, mask| matches::base(shape).with(Field::CtState, state, mask);
            // Which side may open connections.
            if this == ports[0] || self.dice.percent(30) {
                let translation = nat.then(|| actions::translation(self.dice, v6, true));
                let commit = Ct { zone, commit: true, mark, labels, nat: translation, ..Ct::default() };
                let new = vec![pipe(ActionKind::Ct(commit)), after.clone()];
                self.add(hook, base, 40, shape, behind(TRACKED | NEW, TRACKED | NEW), new);
            }
            let mut established =
                behind(TRACKED | ESTABLISHED, TRACKED | ESTABLISHED | if self.dice.percent(50) { NEW } else { 0 });
            // What the first packet's commit said of the connection.
            let told = [
                (Field::CtZone, Some((zone.into(), 0xffff))),
                (Field::CtMark, mark.map(|(value, mask)| (value.into(), mask.into()))),
                (Field::CtLabels, labels),
            ];
            for (field, told) in told {
                if let Some((value, mask)) = told.filter(|_| self.dice.percent(20)) {
                    established.set(field, value, mask);
                }
            }
            let most = usize::from(self.dice.percent(20));
            matches::refine(&mut established, self.dice, universe, shape, most);
            self.add(hook, base, 40, shape, established, vec![after.clone()]);
            if self.dice.percent(60) {
                let end = if self.dice.percent(50) { Action::gact(Control::Shot) } else { Action::redirect(other) };
                self.add(hook, base, 41, shape, behind(TRACKED | INVALID, TRACKED | INVALID), vec![end]);
            }
            if let Some(second) = second {
                let commit =
                    Ct { zone: second, commit: true, nat: self.dice.percent(30).then(Nat::default), ..Ct::default() };
                let track = pipe(track(second, self.dice.percent(40)));
                self.add(
                    hook,
                    base + 1,
                    40,
                    shape,
                    matches::base(shape),
                    vec![track, Action::gact(Control::Goto(base + 2))],
                );
                let new = vec![pipe(ActionKind::Ct(commit)), Action::redirect(other)];
                self.add(hook, base + 2, 40, shape, behind(TRACKED | NEW, TRACKED | NEW), new);
                let mut last = Vec::new();
                if self.dice.percent(40) {
                    last.push(pipe(actions::pedit(self.dice, shape.ethertype, proto.unwrap_or(6) as u8)));
                    last.push(pipe(ActionKind::Csum(CsumFlags::IPV4 | CsumFlags::TCP | CsumFlags::UDP)));
                }
                last.push(Action::redirect(other));
                self.add(hook, base + 2, 40, shape, behind(ESTABLISHED | TRACKED, ESTABLISHED | TRACKED), last);
            }
        }
    }

    /// A filter somewhere.
    fn stray(&mut self) {
        let universe = self.universe;
        let port = actions::any_port(self.dice);
        let hook = match self.dice.percent(6) && !self.shared.iter().any(|(p, _)| *p == port) {
            true => Hook::Egress(port),
            false => self.hook(port),
        };
        // Among the services' chains too.
        let chain = match self.dice.below(10) {
            0..4 => 0,
            4..9 => self.dice.below(self.chains as usize) as u32,
            _ => *self.dice.pick(&[10, 11, 12, 20]),
        };
        let shape = Shape::any(self.dice, universe);
        let mut m = matches::base(shape);
        let most = *self.dice.pick(&[1, 2, 2, 3, 5]);
        matches::refine(&mut m, self.dice, universe, shape, most);
        if chain > 0 && self.dice.percent(60) {
            matches::conntrack(&mut m, self.dice, universe);
        }
        if self.dice.percent(if chain > 0 { universe.rarer_share } else { 3 }) {
            matches::tunnel(&mut m, self.dice, universe);
        }
        matches::arrival(&mut m, self.dice, port);
        let next: Vec<u32> = match chain {
            10.. => vec![chain + 1],
            _ => (0..self.chains).filter(|&c| c > chain || self.dice.percent(8)).collect(),
        };
        let proto = m.key.get(Field::IpProto) as u8;
        let mut list = Vec::new();
        if chain == 0 && self.dice.percent(40) {
            let zone = *self.dice.pick(&universe.zones);
            list.push(Action::new(track(zone, self.dice.percent(50)), Control::Pipe));
        }
        for _ in 0..self.dice.weighted(&[(5, 0), (3, 1), (2, 2), (1, 4)]) {
            list.push(actions::middle(self.dice, universe, shape.ethertype, proto));
        }
        list.push(actions::last(self.dice, &next));
        headless(&mut list);
        name_once(&mut list);
        breed_no_copies(&mut list);
        if matches!(hook, Hook::Egress(_)) {
            list.retain(may_stand_at_egress);
        }
        // Priority 1 is left free for merged filters (`front`).
        let prio = *self.dice.pick(&[2, 3, 3, 4, 40]);
        self.add(hook, chain, prio, shape, m, list);
    }
}
