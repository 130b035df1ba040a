//! What the random runs have found, each as its smallest case.

use crate::{
    differences::{OUT, merged, packet, rule},
    packet::{Flaw, Packet},
    world::{Setting, World},
};
use flowmerge::{
    conntrack::proto,
    flower::{Action, ActionKind, Control, Match, action::Skbedit},
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
