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

/// `skbedit inheritdsfield` drops a packet whose IP header is not whole, so a merged filter must not send one.
#[test]
fn skbedit_that_reads_the_ip_header_drops_what_lacks_it() {
    let mut world = World::new(Setting::default());
    let inherit = Skbedit { inherit_dsfield: true, ..Skbedit::default() };
    let edit = Action::new(ActionKind::Skbedit(inherit), Control::Pipe);
    let mut only = rule(0, 1, 3, 0, vec![edit, Action::redirect(OUT)]);
    only.filter.matches = Match::default();
    world.add(only);
    let whole = packet(proto::UDP, false);
    merged(&mut world, &whole);
    let cut = whole.frame(false).len() - 30;
    let cut = Packet { flaw: Flaw::Cut(cut as u8), ..whole };
    assert_eq!(world.packet(&cut).expect("the same as in software").len(), 0);
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
    let mut world = World::new(Setting::default());
    let sums = || Action::new(ActionKind::Csum(CsumFlags::empty()), Control::Pipe);
    let mut only = rule(0, 1, 3, 0, vec![sums(), sums(), Action::redirect(OUT)]);
    only.filter.matches = Match::default();
    world.add(only);
    let whole = packet(proto::UDP, false);
    let made = merged(&mut world, &whole);
    let names: Vec<_> = made.entry.actions.iter().map(|a| a.name()).collect();
    assert_eq!(names, ["csum", "mirred"], "one is enough");
    let cut = whole.frame(false).len() - 30;
    let cut = Packet { flaw: Flaw::Cut(cut as u8), ..whole };
    world.packet(&cut).expect("the same as in software");
    assert_eq!(world.handled, 1);
}
