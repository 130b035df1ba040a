//! What the random runs have found, each as its smallest case, and what they meet too seldom.

use crate::{
    differences::{OUT, merged, packet, rule},
    packet::{Flaw, Packet},
    world::{Setting, World},
};
use flowmerge::{
    conntrack::proto,
    flower::{
        Action, ActionKind, Control, Field, Match,
        action::{CsumFlags, Skbedit, Vlan},
    },
};

/// A world with one filter, which takes all packets.
fn of_one(actions: Vec<Action>) -> World {
    let mut world = World::new(Setting::default());
    let mut only = rule(0, 1, 3, 0, actions);
    only.filter.matches = Match::default();
    world.add(only);
    world
}

/// One whose filter takes the packet's priority from its IP header.
fn of_inheriting() -> World {
    let inherit = Skbedit { inherit_dsfield: true, ..Skbedit::default() };
    of_one(vec![Action::new(ActionKind::Skbedit(inherit), Control::Pipe), Action::redirect(OUT)])
}

/// The packet's first 30 bytes.
fn cut(whole: Packet) -> Packet {
    let cut = whole.frame(false).len() - 30;
    Packet { flaw: Flaw::Cut(cut as u8), ..whole }
}

/// `skbedit inheritdsfield` drops a packet whose IP header is not whole, so a merged filter must not send one.
#[test]
fn skbedit_that_reads_the_ip_header_drops_what_lacks_it() {
    let mut world = of_inheriting();
    let whole = packet(proto::UDP, false);
    merged(&mut world, &whole);
    assert_eq!(world.packet(&cut(whole)).expect("the same as in software").len(), 0);
    assert_eq!(world.handled, 0);
}

/// After a tag was pushed on a tagged packet nobody can tell whether a filter in front that looks behind the tags takes it.
#[test]
fn a_filter_in_front_that_looks_behind_two_tags_is_named() {
    let mut world = World::new(Setting::default());
    let tagged = |chain, prio, actions| {
        let mut rule = rule(chain, prio, 0x8100, 0, actions);
        rule.filter.matches = Match::default().exact(Field::Protocol, 0x8100);
        rule
    };
    let push = Action::new(ActionKind::Vlan(Vlan::Push { protocol: 0x8100, id: 20, prio: 0 }), Control::Pipe);
    world.add(tagged(0, 1, vec![push, Action::gact(Control::Goto(1))]));
    let mut in_front = tagged(1, 1, vec![Action::gact(Control::Shot)]);
    in_front.filter.matches.set(Field::IpTtl, 77, 0xff);
    world.add(in_front);
    world.add(tagged(1, 2, vec![Action::redirect(OUT)]));
    let packet = Packet { tags: vec![(0x8100, 10)], ..packet(proto::UDP, false) };
    assert_eq!(world.packet(&packet).expect("the same as in software").len(), 0);
    assert_eq!(world.coverage.refused.get("shadow-hidden"), Some(&1), "{:?}", world.coverage.refused);
}

/// `csum` drops a packet whose IP header is not whole, also one that is told to compute nothing.
#[test]
fn csum_of_nothing_drops_what_is_cut_off() {
    let sums = || Action::new(ActionKind::Csum(CsumFlags::empty()), Control::Pipe);
    let mut world = of_one(vec![sums(), sums(), Action::redirect(OUT)]);
    let whole = packet(proto::UDP, false);
    let made = merged(&mut world, &whole);
    let names: Vec<_> = made.entry.actions.iter().map(|a| a.name()).collect();
    assert_eq!(names, ["csum", "mirred"], "one is enough");
    world.packet(&cut(whole)).expect("the same as in software");
    assert_eq!(world.handled, 1);
}

/// Behind two tags the kernel looks for the protocol in the wrong place: what it then drops depends on bytes that nobody compares.
#[test]
fn skbedit_that_reads_the_ip_header_is_refused_behind_two_tags() {
    let mut world = of_inheriting();
    let whole = Packet { tags: vec![(0x8100, 10), (0x8100, 11)], ..packet(proto::UDP, false) };
    assert_eq!(world.packet(&whole).expect("the same as in software").len(), 0);
    let refused = "unfit: the kernel looks behind a second tag in the wrong place";
    assert_eq!(world.coverage.refused.get(refused), Some(&1), "{:?}", world.coverage.refused);
    world.packet(&cut(whole)).expect("the same as in software");
    assert_eq!(world.handled, 0);
}
