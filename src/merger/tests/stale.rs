//! What changes under merged filters, and under walks that wait to be merged.

use super::*;
use crate::{
    flower::{Range, action::Mirred},
    hardware::Reading,
};

fn ends(handle: u32, chain: u32, prio: u16, matches: Match, control: Control) -> Filter {
    let nothing = ActionKind::Gact { random: None };
    filter(handle, chain, prio, matches, nothing, control)
}

fn lone(cookie: u64, port: u16) -> Walk {
    Walk { port: IN, key: key(port), hits: vec![Hit { filter: Cookie(cookie), found: vec![] }] }
}

/// Ports are those of the frame's source.
fn range(min: u16, max: u16, dst: u128) -> Match {
    Match { src_range: Some(Range { min, max }), ..Match::default() }
        .exact(Field::IpProto, 6)
        .exact(Field::DstPort, dst)
}

#[test]
fn traps_12_a_range_that_loses_its_first_filter_moves_behind() {
    // Of A (1-10, X), B (1-5, Y), C (1-10, Y) the packet Y:3 hits C; without A it hits B.
    let mut m = merger();
    for (cookie, matches) in [(1, range(1, 10, 79)), (2, range(1, 5, 80)), (3, range(1, 10, 80))] {
        let f = ends(cookie as u32, 0, 1, matches, Control::Pipe);
        m.replace(Cookie(cookie), f, Inserted::Observed).unwrap();
    }
    merge(&mut m, lone(3, 3)).unwrap();
    m.destroy(Cookie(1)).unwrap();
    assert!(m.hardware().is_empty(), "what rested on the order is gone");
    assert!(matches!(merge(&mut m, lone(3, 3)), Err(Refusal::Stale { .. })));
    assert!(merge(&mut m, lone(2, 3)).is_ok());
}

#[test]
fn traps_12_a_filter_that_changes_its_mask_goes_behind_the_masks_that_are_there() {
    let mut m = merger();
    let tcp = Match::default().exact(Field::IpProto, 6);
    let far = Match::default().exact(Field::IpTtl, 1);
    m.replace(Cookie(1), ends(1, 0, 1, tcp, Control::Pipe), Inserted::Observed).unwrap();
    m.replace(Cookie(2), ends(2, 0, 1, far, Control::Shot), Inserted::Observed).unwrap();
    let wide = Match::default().exact(Field::IpTos, 0);
    m.replace(Cookie(1), ends(1, 0, 1, wide, Control::Pipe), Inserted::Observed).unwrap();
    merge(&mut m, lone(1, 3)).unwrap();
    assert!(m.hardware().receive(IN, &frame(3, 1), 1).is_none(), "that is the other filter's");
    assert!(m.hardware().receive(IN, &frame(3, 65), 1).is_some());
}

#[test]
fn traps_12_what_is_dumped_late_may_have_been_there_first() {
    let mut m = merger();
    let tcp = Match::default().exact(Field::IpProto, 6);
    let far = Match::default().exact(Field::IpTtl, 1);
    m.replace(Cookie(1), ends(1, 0, 1, tcp, Control::Pipe), Inserted::Observed).unwrap();
    m.replace(Cookie(2), ends(2, 0, 1, far, Control::Shot), Inserted::Dumped).unwrap();
    let mut of_both = lone(1, 3);
    of_both.key.set(Field::IpTtl, 1);
    for _ in 0..2 {
        assert!(matches!(merge(&mut m, of_both.clone()), Err(Refusal::Unordered { .. })));
    }
    // Whichever is first, a packet that only one of them matches hits that one.
    assert!(merge(&mut m, lone(1, 3)).is_ok());
    assert!(m.hardware().receive(IN, &frame(3, 1), 1).is_none(), "nobody knows whose that is");
    m.destroy(Cookie(2)).unwrap();
    assert!(merge(&mut m, of_both).is_ok(), "the reason is gone");
}

#[test]
fn traps_28_a_refused_walk_is_remembered_for_packets_like_it() {
    let mut m = merger();
    let port = PeditKey {
        header: PeditHeader::Tcp,
        offset: 0,
        mask: [0, 0, 0xff, 0xff],
        value: [0, 80, 0, 0],
        add: false,
        dynamic: None,
    };
    let pedit = ActionKind::Pedit(Pedit { keys: vec![port], mend: false });
    let f = filter(1, 0, 1, Match::default(), pedit, Control::Pipe);
    m.replace(Cookie(1), f, Inserted::Observed).unwrap();
    let mut udp = lone(1, 3);
    udp.key.set(Field::IpProto, 17);
    let remembered = |m: &Merger<Memory>| m.table().refusals().count();
    for i in 0..3 {
        let mut udp = udp.clone();
        udp.key.set(Field::IpTtl, i);
        assert!(matches!(merge(&mut m, udp), Err(Refusal::Unfit { .. })));
        assert_eq!(remembered(&m), 1, "the second is known by the first");
    }
    assert!(merge(&mut m, lone(1, 3)).is_ok(), "other packets of the way are not refused");
    m.destroy(Cookie(1)).unwrap();
    assert_eq!(remembered(&m), 0);
}

#[test]
fn traps_28_what_stays_in_software_is_remembered_too() {
    let mut m = merger();
    firewall(&mut m);
    established(&mut m, 1000);
    for (n, flags) in [(1, tcp_flags::SYN), (1, tcp_flags::SYN | tcp_flags::ACK), (2, tcp_flags::ACK | tcp_flags::FIN)]
    {
        let mut opens = walk(1000);
        opens.key.set(Field::TcpFlags, flags);
        assert!(matches!(merge(&mut m, opens), Err(Refusal::Excluded { field: Field::TcpFlags, .. })));
        assert_eq!(m.table().refusals().count(), n, "{flags:#x}");
    }
}

#[test]
fn traps_28_filters_at_a_port_that_go_are_no_reason_any_more() {
    let mut m = merger();
    m.replace(Cookie(1), ends(1, 0, 1, Match::default(), Control::Pipe), Inserted::Observed).unwrap();
    let mut egress = ends(2, 0, 1, Match::default(), Control::Ok);
    egress.id.hook = Hook::Egress(Port(2));
    m.replace(Cookie(2), egress, Inserted::Observed).unwrap();
    for _ in 0..2 {
        assert!(matches!(merge(&mut m, lone(1, 3)), Err(Refusal::EgressFilters { .. })));
        assert_eq!(m.table().refusals().count(), 1);
    }
    m.destroy(Cookie(2)).unwrap();
    assert!(merge(&mut m, lone(1, 3)).is_ok());
}

#[test]
fn traps_15_a_block_unbound_while_a_walk_waits() {
    let mut m = merger();
    let mut shared = ends(1, 0, 1, Match::default(), Control::Pipe);
    shared.id.hook = Hook::Block(7);
    m.replace(Cookie(1), shared, Inserted::Observed).unwrap();
    m.bind(Hook::Ingress(IN), 7).unwrap();
    assert!(merge(&mut m, lone(1, 3)).is_ok());
    m.walk(lone(1, 3)).unwrap();
    m.unbind(Hook::Ingress(IN), 7).unwrap();
    assert!(m.drain(0).walks[0].1.is_err());
    assert!(m.hardware().is_empty());
}

#[test]
fn traps_26_a_cookie_used_again_at_another_port() {
    let mut m = merger();
    firewall(&mut m);
    m.connection(ConnectionEvent::Is(ConnectionId(1000), connection(1000))).unwrap();
    m.walk(walk(1000)).unwrap();
    m.destroy(Cookie(11)).unwrap();
    let mut other = ends(1, 1, 2, Match::default(), Control::Pipe);
    other.id.hook = Hook::Ingress(Port(9));
    m.replace(Cookie(11), other, Inserted::Observed).unwrap();
    assert!(matches!(m.drain(0).walks[0].1, Err(Refusal::UnknownFilter { hit: 1, .. })));
}

#[test]
fn traps_16_the_fifth_mirred_in_another_drops() {
    let mut m = merger();
    let into = |from: u32, last: bool| {
        let mut f = ends(1, 0, 1, Match::default(), Control::Pipe);
        f.id.hook = Hook::Ingress(Port(from));
        f.actions[1].kind = ActionKind::Mirred(Mirred { port: Port(from + 1), ingress: !last, mirror: false });
        f
    };
    for last in [3u32, 4, 5] {
        for from in 1..=last {
            m.replace(Cookie(from as u64), into(from, from == last), Inserted::Observed).unwrap();
        }
        let hit = |c: u32| Hit { filter: Cookie(c as u64), found: vec![] };
        let hits = (1..=last).map(hit).collect();
        let walk = Walk { hits, ..lone(1, 3) };
        merge(&mut m, walk).unwrap();
        let sent = m.hardware().receive(IN, &frame(3, 3), 1).unwrap().sent;
        assert_eq!(sent.len(), usize::from(last < 5));
        let counted = m.stats(Cookie(last as u64));
        assert_eq!((counted[0].packets, counted[1].packets), (1, u64::from(last < 5)));
    }
}

#[test]
fn a_redirect_with_a_final_control_leaves_nothing_to_trap() {
    let mut m = merger();
    let mut f = ends(1, 0, 1, Match::default(), Control::Pipe);
    f.actions[1].control = Control::Trap;
    m.replace(Cookie(1), f, Inserted::Observed).unwrap();
    let merged = merge(&mut m, lone(1, 3)).unwrap();
    let actions = &m.merged_by(merged.id).unwrap().actions;
    assert_eq!((actions.len(), actions[0].control), (1, Control::Stolen));
}

#[test]
fn a_reading_below_what_the_headers_take_counts_no_bytes() {
    let capabilities =
        crate::flower::Capabilities { counts: crate::flower::Counts::Frame, ..crate::flower::Capabilities::all() };
    let mut m = Merger::new(Memory::new(capabilities));
    firewall(&mut m);
    let merged = established(&mut m, 1000);
    let reading = Reading { packets: 2, bytes: 20, last_used: 1, ..Reading::default() };
    removal::doom_one(&mut m.shard(m.shard_of_merged(merged.id)), merged.id);
    m.removed((merged.id, Ok(reading)), 1, &mut Vec::new());
    assert_eq!((m.counted(Cookie(10))[0].packets, m.counted(Cookie(10))[0].bytes), (2, 0));
}
