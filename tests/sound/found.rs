//! What the random runs have found, each as its smallest case, and what they meet too seldom.

use crate::{
    differences::{OUT, merged, packet, rule},
    packet::{Flaw, Packet},
    world::{Event, Setting, World},
};
use flowmerge::{
    conntrack::proto,
    flower::{
        Action, ActionKind, Control, Field, Match,
        action::{CsumFlags, Ct, Mpls, MplsEntry, Police, Skbedit, Skbmod, Vlan},
    },
};

/// One filter, of all packets, with these actions.
fn world_of(actions: Vec<Action>) -> World {
    let mut world = World::new(Setting::default());
    let mut only = rule(0, 2, 3, 0, actions);
    only.filter.matches = Match::default();
    world.add(only);
    world
}

/// All packets are edited by `skbedit inheritdsfield`, and sent.
fn inherits() -> World {
    let inherit = Skbedit { inherit_dsfield: true, ..Skbedit::default() };
    world_of(vec![Action::new(ActionKind::Skbedit(inherit), Control::Pipe), Action::redirect(OUT)])
}

/// The packet, cut off after so many bytes.
fn cut_after(whole: &Packet, bytes: usize) -> Packet {
    Packet { flaw: Flaw::Cut((whole.frame(false).len() - bytes) as u8), ..whole.clone() }
}

/// `skbedit inheritdsfield` drops a packet whose IP header is not whole, so a merged filter must not send one.
#[test]
fn skbedit_that_reads_the_ip_header_drops_what_lacks_it() {
    let mut world = inherits();
    let whole = packet(proto::UDP, false);
    merged(&mut world, &whole);
    let cut = cut_after(&whole, 30);
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
    let sums = || Action::new(ActionKind::Csum(CsumFlags::empty()), Control::Pipe);
    let mut world = world_of(vec![sums(), sums(), Action::redirect(OUT)]);
    let whole = packet(proto::UDP, false);
    let made = merged(&mut world, &whole);
    let names: Vec<_> = made.entry.actions.iter().map(|a| a.name()).collect();
    assert_eq!(names, ["csum", "mirred"], "one is enough");
    let cut = cut_after(&whole, 30);
    world.packet(&cut).expect("the same as in software");
    assert_eq!(world.handled, 1);
}

/// What is cut off is another packet than the whole one: here flower does not see the protocol that a filter in front asks for.
#[test]
fn what_is_cut_off_goes_its_own_way() {
    let sums = ActionKind::Csum(CsumFlags::ICMP);
    let edits = ActionKind::Skbmod(Skbmod::Swap);
    for kind in [sums, edits] {
        let mut world = world_of(vec![Action::new(kind, Control::Pipe), Action::redirect(OUT)]);
        let mut in_front = rule(0, 1, 0x800, 0, vec![Action::gact(Control::Shot)]);
        in_front.filter.matches.set(Field::IpProto, proto::UDP.into(), 0xff);
        world.add(in_front);
        merged(&mut world, &Packet { proto: proto::ICMP, ..packet(proto::UDP, false) });
        world.packet(&cut_after(&packet(proto::UDP, false), 26)).expect("as told");
        assert_eq!(world.handled, 1);
        world.finish().expect("counted as told");
    }
}

/// A walk that ends where `csum` drops is merged from what the filters say, and others like it are counted for what stands behind.
#[test]
fn what_csum_dropped_is_merged_as_if_it_had_not() {
    let sums = Action::new(ActionKind::Csum(CsumFlags::ICMP), Control::Pipe);
    let mut world = world_of(vec![sums, Action::redirect(OUT)]);
    let cut = cut_after(&packet(proto::UDP, true), 50);
    merged(&mut world, &cut);
    world.packet(&cut).expect("as told");
    assert_eq!(world.handled, 1);
    world.finish().expect("counted as told");
}

/// A wrong checksum stays wrong, and is not compared, also below a label that does not say that it is the last.
#[test]
fn a_wrong_checksum_below_a_stack_without_a_bottom() {
    let entry = MplsEntry { label: Some(2), tc: Some(1), bos: Some(false), ttl: Some(64) };
    let push = Action::new(ActionKind::Mpls(Mpls::Push { protocol: 0x8847, entry }), Control::Pipe);
    let ct = ActionKind::Ct(Ct { zone: 5, ..Ct::default() });
    let mut world = world_of(vec![Action::new(ct, Control::Pipe), push, Action::redirect(OUT)]);
    let right = packet(proto::UDP, false);
    merged(&mut world, &right);
    world.packet(&Packet { flaw: Flaw::L4, ..right }).expect("the same but for the checksum");
    assert_eq!(world.handled, 1);
}

/// Of a packet that a policer drops nobody knows what `ct` behind it would have found.
#[test]
fn a_ct_that_a_policer_kept_the_packet_from_is_named() {
    let police = Police { shared: true, conform: Control::Pipe, rate: 1000, burst: u32::MAX, ..Police::default() };
    let police = Action { index: 1, ..Action::new(ActionKind::Police(police), Control::Shot) };
    let ct = Action::new(ActionKind::Ct(Ct { zone: 5, ..Ct::default() }), Control::Pipe);
    let mut world = world_of(vec![police, ct, Action::redirect(OUT)]);
    world.happens(&Event::Police(1, false)).expect("no packet");
    let all = packet(proto::UDP, false);
    assert_eq!(world.packet(&all).expect("refused for a reason").len(), 0);
    assert_eq!(world.coverage.refused.get("unfit"), Some(&1), "{:?}", world.coverage.refused);
    world.happens(&Event::Police(1, true)).expect("no packet");
    merged(&mut world, &all);
}

/// Behind two tags the kernel looks for the protocol in the wrong place: what it then drops depends on bytes that nobody compares.
#[test]
fn skbedit_that_reads_the_ip_header_is_refused_behind_two_tags() {
    let mut world = inherits();
    let whole = Packet { tags: vec![(0x8100, 10), (0x8100, 11)], ..packet(proto::UDP, false) };
    assert_eq!(world.packet(&whole).expect("the same as in software").len(), 0);
    let refused = "unfit: the kernel looks behind a second tag in the wrong place";
    assert_eq!(world.coverage.refused.get(refused), Some(&1), "{:?}", world.coverage.refused);
    let cut = cut_after(&whole, 30);
    world.packet(&cut).expect("the same as in software");
    assert_eq!(world.handled, 0);
}
