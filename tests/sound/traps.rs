//! Lines of TRAPS that want packets: each test is named after its line.
//!
//! What a packet does in the world is compared with software in each of these, as in the random runs. Lines without a test
//! here have theirs beside what they test, but for 18 (tunnels), 30 (interleaved hits), 31 (the kernel's flow table) and 33
//! (netlink), which belong to what comes later or to the recorder.

use crate::{
    differences::{OUT, merged, packet, rule, world},
    packet::{Flaw, Fragment, Packet},
    rule::{Blind, Rule},
    world::{Event, Setting, World},
};
use flowmerge::{
    conntrack::proto,
    flower::{Action, ActionKind, Control, Field, Port, action::Ct, field::ct_state},
    hardware::Memory,
    merger::{Limits, Merger},
};

/// A filter of chain 0 for IPv4.
fn first(prio: u16, actions: Vec<Action>) -> Rule {
    rule(0, prio, 0x800, 0, actions)
}

fn goto(chain: u32) -> Action {
    Action::gact(Control::Goto(chain))
}

fn refused(world: &World, reason: &str) -> usize {
    world.coverage.refused.get(reason).copied().unwrap_or_default()
}

/// Sends a packet; whether a merged filter handled it, and whether one was made.
fn send(world: &mut World, packet: &Packet) -> (bool, usize) {
    let before = world.handled;
    let made = world.packet(packet).expect("the same as in software").len();
    (world.handled > before, made)
}

#[test]
fn traps_11_no_fragment_shows_its_ports_and_what_is_absent_reads_0() {
    let mut world = World::new(Setting::default());
    let mut low = first(1, vec![Action::redirect(OUT)]);
    low.filter.matches.set(Field::IpProto, 6, 0xff);
    low.filter.matches.set(Field::DstPort, 0, 0xc000);
    world.add(low);
    let fragment = |fragment| Packet { fragment, dst_port: 0xc123, ..packet(proto::TCP, false) };
    assert_eq!(send(&mut world, &fragment(Fragment::First)), (false, 1));
    assert_eq!(send(&mut world, &fragment(Fragment::Later)), (true, 0));
    assert_eq!(send(&mut world, &fragment(Fragment::None)), (false, 0));
}

#[test]
fn traps_11_fragments_of_a_connection_stay_in_software() {
    for v6 in [false, true] {
        let mut world = world(Setting::default());
        let whole = packet(proto::UDP, v6);
        merged(&mut world, &whole);
        for fragment in [Fragment::First, Fragment::Later] {
            assert_eq!(send(&mut world, &Packet { fragment, ..whole.clone() }), (false, 0));
        }
    }
}

#[test]
fn traps_11_options_of_ipv6_are_read_over_and_authentication_is_not() {
    let mut world = world(Setting::default());
    let plain = packet(proto::UDP, true);
    merged(&mut world, &plain);
    let with = |extensions: &[u8]| Packet { extensions: extensions.to_vec(), ..plain.clone() };
    assert_eq!(send(&mut world, &with(&[0, 43, 60])), (true, 0));
    // Conntrack looks behind it, flower does not: there is nothing that could be matched.
    assert_eq!(send(&mut world, &with(&[51])), (false, 0));
}

#[test]
fn traps_13_a_miss_is_not_merged() {
    for actions in [vec![goto(9)], vec![goto(1)]] {
        let mut world = World::new(Setting::default());
        world.add(first(1, actions));
        // The chain is there, for others.
        world.add(rule(1, 1, 0x86dd, 0, vec![Action::redirect(OUT)]));
        assert_eq!(send(&mut world, &packet(proto::UDP, false)), (false, 0));
        assert!(world.made.is_empty());
    }
}

#[test]
fn traps_13_sixteen_gotos_pass_and_the_seventeenth_drops() {
    for (gotos, sent) in [(16, 1), (17, 0)] {
        let mut world = World::new(Setting::default());
        world.merger = Merger::with_limits(Memory::default(), Limits { hits: 32, ..Limits::default() });
        for chain in 0..gotos {
            world.add(rule(chain, 1, 0x800, 0, vec![goto(chain + 1)]));
        }
        world.add(rule(gotos, 1, 0x800, 0, vec![Action::redirect(OUT)]));
        let plain = packet(proto::UDP, false);
        let software = world.software(&plain, &plain.frame(false));
        assert_eq!(software.sent.len(), sent);
        let (_, made) = send(&mut world, &plain);
        assert_eq!((made, send(&mut world, &plain).0), (sent, sent == 1), "{gotos} gotos");
    }
}

#[test]
fn traps_14_the_new_and_the_established_branch_go_on_in_one_chain() {
    let mut world = World::new(Setting::default());
    let commit = |commit| ActionKind::Ct(Ct { zone: 6, commit, ..Ct::default() });
    let then = |kind, control| Action::new(kind, control);
    world.add(first(1, vec![then(commit(false), Control::Goto(1))]));
    let (trk, new, est) = (ct_state::TRACKED, ct_state::NEW, ct_state::ESTABLISHED);
    world.add(rule(1, 1, 0x800, trk | new, vec![then(commit(true), Control::Goto(2))]));
    world.add(rule(1, 2, 0x800, trk | est, vec![goto(2)]));
    world.add(rule(2, 1, 0x800, 0, vec![Action::redirect(OUT)]));
    let open = Packet { src_port: 7777, dst_port: 53, ..packet(proto::UDP, false) };
    let back = Packet { src: open.dst, dst: open.src, src_port: 53, dst_port: 7777, ..open.clone() };
    assert_eq!(send(&mut world, &open), (false, 0));
    assert_eq!(refused(&world, "no-connection"), 1);
    // The reply establishes it; each direction is merged along the other branch.
    assert_eq!(
        [&back, &open, &back, &open].map(|p| send(&mut world, p)),
        [(false, 1), (false, 1), (true, 0), (true, 0)]
    );
    assert!(world.made.values().all(|made| made.way.steps.len() == 3));
}

#[test]
fn traps_20_what_keeps_state_between_packets_is_refused_and_never_shared_out() {
    let mut world = World::new(Setting::default());
    let police = vec![Action::gact(Control::Pipe), Action::redirect(OUT)];
    world.add(Rule { blind: Some(Blind::Action(0)), ..first(1, police) });
    for _ in 0..2 {
        assert_eq!(send(&mut world, &packet(proto::UDP, false)), (false, 0));
    }
    assert_eq!(refused(&world, "action"), 2);
}

#[test]
fn traps_24_every_hit_counts_the_length_at_ingress_whatever_the_hardware_counts() {
    for frames in [false, true] {
        let mut world = World::new(Setting { frames, ..Setting::default() });
        let pop = Action::new(ActionKind::Vlan(flowmerge::flower::action::Vlan::Pop), Control::Pipe);
        let mut tagged = rule(0, 1, 0x8100, 0, vec![pop, goto(1)]);
        tagged.filter.matches = Default::default();
        tagged.filter.matches.set(Field::Protocol, 0x8100, 0xffff);
        world.add(tagged);
        world.add(rule(1, 1, 0x800, 0, vec![Action::redirect(OUT)]));
        let one = Packet { tags: vec![(0x8100, 10)], ..packet(proto::UDP, false) };
        let bytes = one.frame(false).len() as u64 - 18;
        merged(&mut world, &one);
        for _ in 0..3 {
            assert_eq!(send(&mut world, &one), (true, 0));
        }
        for (_, cookie) in world.filters.clone() {
            for counters in world.merger.stats(cookie) {
                assert_eq!((counters.packets, counters.bytes), (3, 3 * bytes));
            }
        }
        // One that takes its place begins at 0.
        let with = rule(1, 1, 0x800, 0, vec![Action::redirect(Port(4))]);
        world.happens(&Event::Replace(1, with, true)).expect("what was counted is settled");
        let cookie = world.filters[1].1;
        assert!(world.merger.stats(cookie).iter().all(|c| c.packets == 0));
        world.finish().expect("counts agree");
    }
}

#[test]
fn traps_29_the_same_tuple_in_two_zones_is_two_connections() {
    let mut world = World::new(Setting::default());
    let track = |zone| Action::new(ActionKind::Ct(Ct { zone, ..Ct::default() }), Control::Goto(1));
    let mut marked = first(1, vec![track(6)]);
    marked.filter.matches.set(Field::IpTos, 4, 4);
    world.add(marked);
    world.add(first(2, vec![track(5)]));
    world.add(rule(1, 1, 0x800, ct_state::TRACKED | ct_state::ESTABLISHED, vec![Action::redirect(OUT)]));
    // The first connection of each zone is the same.
    let all = crate::connections::connections();
    let six = all.iter().position(|c| c.zone == 6 && c.original == all[0].original).expect("there is one");
    let of = |tos| {
        let t = all[0].original;
        let bits = flowmerge::conntrack::tuple::address_bits;
        Packet {
            tos,
            src: bits(t.src),
            dst: bits(t.dst),
            src_port: t.src_port,
            dst_port: t.dst_port,
            flaw: Flaw::None,
            ..packet(t.proto, false)
        }
    };
    assert_eq!([of(0), of(4)].map(|p| send(&mut world, &p)), [(false, 1), (false, 1)]);
    world.happens(&Event::There(0, false)).expect("it goes");
    assert_eq!(world.made.len(), 1, "the other one stays");
    assert_eq!([of(0), of(4)].map(|p| send(&mut world, &p)), [(false, 0), (true, 0)]);
    world.happens(&Event::There(six, false)).expect("it goes");
    world.happens(&Event::There(0, true)).expect("it comes back");
    assert_eq!([of(4), of(0), of(0)].map(|p| send(&mut world, &p)), [(false, 0), (false, 1), (true, 0)]);
}
