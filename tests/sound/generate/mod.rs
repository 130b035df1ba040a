//! Random pipelines: some chains linked on purpose, and other filters among them.

mod actions;
mod fields;
mod more;

pub use fields::{narrow, pick};

use crate::{
    packets::{IN, INNER},
    rule::{Blind, Rule},
};
use flowmerge::flower::{
    Action, ActionKind, Control, Filter, FilterId, Hook, Match, Port,
    action::{Ct, Nat, Vlan},
};
use proptest::prelude::*;

/// What a filter's protocol is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    V4,
    V6,
    Tagged,
    QinQ,
    Arp,
    Mpls,
    All,
}

impl Protocol {
    /// As TC has it, and what keeps its priorities apart: a priority of a chain holds one protocol.
    fn number(self) -> (u16, u16) {
        match self {
            Protocol::V4 => (0x800, 0),
            Protocol::V6 => (0x86dd, 10),
            Protocol::Tagged => (0x8100, 20),
            Protocol::QinQ => (0x88a8, 24),
            Protocol::Arp => (0x806, 27),
            Protocol::Mpls => (0x8847, 28),
            Protocol::All => (3, 30),
        }
    }
}

fn protocol(carried: bool) -> impl Strategy<Value = Protocol> {
    let more = if carried { 12 } else { 1 };
    prop_oneof![
        12 => Just(Protocol::V4),
        4 => Just(Protocol::V6),
        4 => Just(Protocol::Tagged),
        1 => Just(Protocol::QinQ),
        more => Just(Protocol::Arp),
        more => Just(Protocol::Mpls),
        2 => Just(Protocol::All),
    ]
}

/// How a filter ends, by what its last action is.
fn end(plain: bool, chain: u32) -> BoxedStrategy<Control> {
    let on = if chain < 2 { 8 } else { 0 };
    let other = if plain { 0 } else { 2 };
    let rare = u32::from(!plain);
    prop_oneof![
        on => (1..3 - u32::from(plain)).prop_map(move |more| Control::Goto(chain + more)),
        if plain && on > 0 { 2 } else { 6 } => Just(Control::Stolen),
        other => Just(Control::Shot),
        other => Just(Control::Ok),
        other => Just(Control::Continue),
        rare => Just(Control::Trap),
        rare => Just(Control::Queued),
        rare => Just(Control::Pipe),
        rare => Just(Control::Reclassify),
        // To a chain that is not there.
        rare => Just(Control::Goto(9)),
    ]
    .boxed()
}

/// Seldom something else happens to the actions: a control in the middle, a jump, an action again and again.
fn bend(actions: &mut Vec<Action>, how: u8, v: u8) {
    let some = v as usize % actions.len();
    match how {
        0 => actions.insert(0, Action::gact(Control::Jump(u32::from(v) % 3 + 1))),
        1 if v < 64 => actions[some].control = Control::Repeat,
        2 => {
            let controls = [Control::Continue, Control::Ok, Control::Shot, Control::Trap, Control::Queued];
            actions[some].control = controls[v as usize / 16 % 5];
        }
        3 => actions.insert(some, Action::gact(Control::Pipe)),
        _ => {}
    }
}

fn blind() -> impl Strategy<Value = Option<Blind>> {
    let blind = prop_oneof![
        3 => any::<u8>().prop_map(Blind::Field),
        2 => any::<u8>().prop_map(Blind::Action),
        1 => Just(Blind::Random),
        1 => any::<u8>().prop_map(Blind::Control),
        1 => Just(Blind::Helper),
    ];
    prop::option::weighted(0.03, blind)
}

/// A filter; its handle is told later. `plain`: a link of a line.
fn filter(plain: bool, inner: bool, chain: u32, protocol: Protocol, carried: bool) -> BoxedStrategy<Rule> {
    let tracks =
        prop::option::weighted(if plain { [0.7, 0.2, 0.01][chain as usize] } else { 0.01 }, (5u16..7, any::<bool>()));
    let matches = any::<u8>().prop_flat_map(move |rare| fields::matches(protocol, chain, plain, rare < 50, carried));
    let middle = (tracks, prop::collection::vec(actions::middle(plain, protocol, carried), 0..3));
    let odd = (0u8..if plain { 50 } else { 24 }, 0u8..if plain { 120 } else { 20 }, any::<u8>());
    (matches, middle, end(plain, chain), 0u8..8, 1u16..4, odd, blind())
        .prop_map(move |(matches, (tracks, middle), end, to, prio, (odd, how, v), blind)| {
            let tracks = tracks.filter(|_| !plain || !matches!(protocol, Protocol::Arp | Protocol::Mpls));
            let ct =
                tracks.map(|(zone, nat)| ActionKind::Ct(Ct { zone, nat: nat.then(Nat::default), ..Ct::default() }));
            let middle = middle.into_iter().filter(|kind| !plain || actions::suits(kind, protocol));
            let all = ct.into_iter().chain(middle).map(more::action);
            // Nothing goes round.
            let last = actions::last(end, if inner { to.max(1) } else { to }, odd);
            let mut all: Vec<Action> = all.chain([last]).collect();
            bend(&mut all, how, v);
            let hook = Hook::Ingress(if inner { INNER } else { IN });
            Rule { filter: Filter::flower(id(hook, chain, prio, protocol), matches, all), blind }
        })
        .boxed()
}

fn id(hook: Hook, chain: u32, prio: u16, protocol: Protocol) -> FilterId {
    let (number, apart) = protocol.number();
    // A priority holds one protocol.
    let prio = if matches!(protocol, Protocol::QinQ | Protocol::Arp | Protocol::Mpls) { 1 } else { prio };
    FilterId { hook, chain, prio: prio + apart, protocol: number, handle: 0 }
}

fn any_filter(plain: bool, carried: bool) -> BoxedStrategy<Rule> {
    (prop::bool::weighted(0.2), 0u32..3, protocol(carried))
        .prop_flat_map(move |(inner, chain, protocol)| filter(plain, inner, chain, protocol, carried))
        .boxed()
}

/// A filter for each of chains 0 to 2.
fn line(inner: bool, protocol: Protocol, carried: bool) -> BoxedStrategy<Vec<Rule>> {
    let link = move |chain| filter(true, inner, chain, protocol, carried);
    (link(0), link(1), link(2), 0u8..16)
        .prop_map(move |(mut a, b, c, odd)| {
            // Tagged packets lose their tag and begin again.
            if odd == 0 && matches!(protocol, Protocol::Tagged | Protocol::QinQ) {
                let pop = Action::new(ActionKind::Vlan(Vlan::Pop), Control::Pipe);
                a.filter.actions = vec![pop, Action::gact(Control::Reclassify)];
            }
            vec![a, b, c]
        })
        .boxed()
}

/// Lines of chains, no two of them alike.
pub fn lines(carried: bool) -> BoxedStrategy<Vec<Rule>> {
    let more = |seldom: f64| if carried { 0.95 } else { seldom };
    let maybe = |often, inner, protocol| prop::option::weighted(often, line(inner, protocol, carried)).boxed();
    let outer = (
        maybe(0.95, false, Protocol::V4),
        maybe(0.9, false, Protocol::V6),
        maybe(0.85, false, Protocol::Tagged),
        maybe(0.2, false, Protocol::All),
        maybe(0.1, false, Protocol::QinQ),
        maybe(more(0.05), false, Protocol::Arp),
        maybe(more(0.05), false, Protocol::Mpls),
    );
    let inner = (maybe(0.5, true, Protocol::V4), maybe(0.3, true, Protocol::All));
    (outer, inner)
        .prop_map(|((a, b, c, d, q, r, m), (e, f))| {
            [a, b, c, d, q, r, m, e, f].into_iter().flatten().flatten().collect()
        })
        .boxed()
}

/// What stands elsewhere, seldom: a filter at the egress hook of a port, another classifier, a filter that is not in hardware.
fn elsewhere() -> impl Strategy<Value = Option<Rule>> {
    let egress = (2u32..5, any::<bool>()).prop_map(|(port, drops)| {
        let id = id(Hook::Egress(Port(port.max(3))), 0, 1, Protocol::All);
        let control = if drops { Control::Shot } else { Control::Ok };
        Rule { filter: Filter::flower(id, Match::default(), vec![Action::gact(control)]), blind: None }
    });
    let classifier = filter(false, false, 0, Protocol::All, false).prop_map(|mut rule| {
        rule.filter.id.prio = 5;
        rule.blind = Some(Blind::Classifier);
        rule
    });
    prop_oneof![
        20 => Just(None),
        1 => egress.prop_map(Some),
        1 => classifier.prop_map(Some),
    ]
}

/// A pipeline: lines of chains, and other filters among them.
/// `carried`: also for packets with label stacks, ARP, and packets through tunnels.
pub fn filters(carried: bool) -> BoxedStrategy<Vec<Rule>> {
    (lines(carried), prop::collection::vec(any_filter(false, carried), 0..5), elsewhere())
        .prop_map(|(lines, others, elsewhere)| lines.into_iter().chain(others).chain(elsewhere).collect())
        .boxed()
}

/// A filter that comes later.
pub fn later() -> BoxedStrategy<Rule> {
    prop_oneof![any_filter(true, false), any_filter(false, false)].boxed()
}
