//! The façade with the in-memory table: what derives from what, and that nothing stale stays.

mod alone;
mod shadows;
mod stale;

use super::*;
use crate::{
    conntrack::{Direction, TcpState, Tuple, proto},
    flower::{
        Action, ActionKind, Control, Field, Filter, FilterId, Hook, Key, Match, Port,
        action::{Ct, Pedit, PeditHeader, PeditKey, Police},
        field::{ct_state, tcp_flags},
    },
    hardware::Memory,
    table::Inserted,
    walk::{Found, Hit},
};

const IN: Port = Port(1);
const FRAME: u64 = 100;

fn merger() -> Merger<Memory> {
    Merger::new(Memory::new(crate::flower::Capabilities::all()))
}

fn filter(handle: u32, chain: u32, prio: u16, matches: Match, kind: ActionKind, control: Control) -> Filter {
    let id = FilterId { hook: Hook::Ingress(IN), chain, prio, protocol: 0x800, handle };
    let matches = matches.exact(Field::Protocol, 0x800).exact(Field::EthType, 0x800);
    let last = match control {
        Control::Pipe => Action::redirect(Port(2)),
        other => Action::gact(other),
    };
    Filter::flower(id, matches, vec![Action::new(kind, Control::Pipe), last])
}

/// Chain 0: `ct zone 5`, on to chain 1. Chain 1: established, output.
fn firewall(m: &mut Merger<Memory>) {
    let ct = ActionKind::Ct(Ct { zone: 5, ..Ct::default() });
    let established = Match::default().with(Field::CtState, ct_state::ESTABLISHED, ct_state::ESTABLISHED);
    let nothing = ActionKind::Gact { random: None };
    let chain0 = filter(1, 0, 2, Match::default(), ct, Control::Goto(1));
    let chain1 = filter(1, 1, 2, established, nothing, Control::Pipe);
    m.replace(Cookie(10), chain0, Inserted::Observed).unwrap();
    m.replace(Cookie(11), chain1, Inserted::Observed).unwrap();
}

fn tuple(port: u16) -> Tuple {
    Tuple { src: [10, 0, 0, 1].into(), dst: [10, 0, 0, 2].into(), proto: proto::TCP, src_port: port, dst_port: 80 }
}

fn connection(port: u16) -> Connection {
    Connection::established(5, tuple(port), tuple(port).inverse())
}

fn frame(port: u16, ttl: u8) -> Vec<u8> {
    let mut f = vec![0u8; 14 + FRAME as usize];
    f[12..14].copy_from_slice(&[8, 0]);
    f[14] = 0x45;
    f[16..18].copy_from_slice(&(FRAME as u16).to_be_bytes());
    f[22] = ttl;
    f[23] = proto::TCP;
    f[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    f[34..36].copy_from_slice(&port.to_be_bytes());
    f[36..38].copy_from_slice(&80u16.to_be_bytes());
    f[46..48].copy_from_slice(&[0x50, tcp_flags::ACK as u8]);
    f
}

fn key(port: u16) -> Key {
    crate::packet::arrived(&frame(port, 64))
}

fn walk(port: u16) -> Walk {
    let found = Some(Found { connection: ConnectionId(port as u64), direction: Direction::Original });
    let hits = vec![Hit { filter: Cookie(10), found: vec![found] }, Hit { filter: Cookie(11), found: vec![] }];
    Walk { port: IN, key: key(port), hits }
}

fn merge(m: &mut Merger<Memory>, walk: Walk) -> Outcome {
    m.walk(walk).unwrap();
    m.drain(0).walks.pop().unwrap().1
}

fn established(m: &mut Merger<Memory>, port: u16) -> Merge {
    m.connection(ConnectionEvent::Is(ConnectionId(port as u64), connection(port))).unwrap();
    merge(m, walk(port)).unwrap()
}

#[test]
fn a_connection_is_merged_once_and_counted_at_every_parent() {
    let mut m = merger();
    firewall(&mut m);
    let first = established(&mut m, 1000);
    assert!(first.installed);
    assert_eq!(merge(&mut m, walk(1000)), Ok(Merge { installed: false, ..first }));
    for now in [7, 8, 9] {
        let handled = m.hardware().receive(IN, &frame(1000, 3), now).unwrap();
        assert_eq!((handled.id, handled.sent.len()), (first.id, 1));
    }
    assert!(m.hardware().receive(IN, &frame(1001, 3), 10).is_none());
    let three = Counters { packets: 3, bytes: 3 * FRAME, last_used: 9 };
    for cookie in [Cookie(10), Cookie(11)] {
        assert_eq!(m.stats(cookie), [three; 2]);
        assert_eq!(m.stats(cookie), [three; 2], "a reading counts once");
    }
}

#[test]
fn traps_20_what_a_policer_drops_counts_up_to_it() {
    let mut m = merger();
    let nothing = || ActionKind::Gact { random: None };
    let police = Police { shared: true, conform: Control::Pipe, rate: 1000, burst: 1, ..Police::default() };
    let police = Action { index: 7, ..Action::new(ActionKind::Police(police), Control::Shot) };
    let mut first = filter(1, 0, 2, Match::default(), nothing(), Control::Goto(1));
    first.actions.insert(1, police);
    m.replace(Cookie(10), first, Inserted::Observed).unwrap();
    m.replace(Cookie(11), filter(1, 1, 2, Match::default(), nothing(), Control::Pipe), Inserted::Observed).unwrap();
    let hits = [10, 11].map(|cookie| Hit { filter: Cookie(cookie), found: vec![] }).to_vec();
    merge(&mut m, Walk { port: IN, key: key(1000), hits }).unwrap();
    for (now, conforms) in [(1, true), (2, false), (3, true), (4, false), (5, false)] {
        m.hardware().police(7, conforms);
        let handled = m.hardware().receive(IN, &frame(1000, 64), now).unwrap();
        assert_eq!(handled.sent.len(), usize::from(conforms));
    }
    let counted = |packets| Counters { packets, bytes: packets * FRAME, last_used: 5 };
    assert_eq!(m.stats(Cookie(10)), [counted(5), counted(5), counted(2)]);
    assert_eq!(m.stats(Cookie(11)), [counted(2); 2]);
    m.hardware().receive(IN, &frame(1000, 64), 6).unwrap();
    assert_eq!(m.stats(Cookie(11)), [counted(2); 2], "all of it was dropped");
}

#[test]
fn one_path_serves_all_connections() {
    let mut m = merger();
    firewall(&mut m);
    for port in 1000..1010 {
        assert!(established(&mut m, port).installed);
    }
    assert_eq!((m.table().path_count(), m.merged().len()), (1, 10));
}

#[test]
fn traps_25_the_last_reading_comes_before_the_removal() {
    let mut m = merger();
    firewall(&mut m);
    established(&mut m, 1000);
    m.hardware().receive(IN, &frame(1000, 3), 5).unwrap();
    let counts = m.destroy(Cookie(11)).unwrap();
    assert_eq!(counts, [Counters { packets: 1, bytes: FRAME, last_used: 5 }; 2]);
    assert!(m.hardware().is_empty());
    assert_eq!(m.stats(Cookie(10))[0].packets, 1, "the other parent keeps what it was given");
}

#[test]
fn traps_26_a_dead_cookie_breaks_the_walk_and_a_reused_one_is_another_filter() {
    let mut m = merger();
    firewall(&mut m);
    m.connection(ConnectionEvent::Is(ConnectionId(1000), connection(1000))).unwrap();
    m.walk(walk(1000)).unwrap();
    m.destroy(Cookie(11)).unwrap();
    assert_eq!(m.drain(0).walks[0].1, Err(Refusal::UnknownFilter { hit: 1, cookie: Cookie(11) }));
    let drop = filter(1, 1, 2, Match::default(), ActionKind::Gact { random: None }, Control::Shot);
    m.replace(Cookie(11), drop, Inserted::Observed).unwrap();
    merge(&mut m, walk(1000)).unwrap();
    assert!(m.hardware().receive(IN, &frame(1000, 3), 5).unwrap().sent.is_empty());
}

#[test]
fn a_replaced_filter_takes_its_merged_filters_with_it_and_begins_at_0() {
    let mut m = merger();
    firewall(&mut m);
    established(&mut m, 1000);
    m.hardware().receive(IN, &frame(1000, 3), 5).unwrap();
    let drop = filter(1, 1, 2, Match::default(), ActionKind::Gact { random: None }, Control::Shot);
    // TC calls with the new cookie before it destroys the old one.
    m.replace(Cookie(12), drop, Inserted::Observed).unwrap();
    assert!(m.hardware().is_empty());
    assert_eq!(m.stats(Cookie(12))[0], Counters::default());
    assert_eq!(m.destroy(Cookie(11)).unwrap()[0].packets, 1, "the old one's last counts come with its destroy");
    assert!(m.table().filter(Cookie(12)).is_some());
}

#[test]
fn traps_16_a_redirect_to_a_port_that_is_down_drops() {
    let mut m = merger();
    firewall(&mut m);
    established(&mut m, 1000);
    m.port(Port(3), false).unwrap();
    assert_eq!(m.hardware().len(), 1);
    for (up, frames) in [(false, 0), (true, 1)] {
        m.port(Port(2), up).unwrap();
        assert!(m.hardware().is_empty());
        merge(&mut m, walk(1000)).unwrap();
        let handled = m.hardware().receive(IN, &frame(1000, 3), 5).unwrap();
        assert_eq!(handled.sent.len(), frames);
    }
}

#[test]
fn traps_23_a_filter_added_in_front_takes_out_what_it_shadows_and_no_more() {
    let mut m = merger();
    firewall(&mut m);
    established(&mut m, 1000);
    let drop = |prio, matches: Match| filter(9, 1, prio, matches, ActionKind::Gact { random: None }, Control::Shot);
    m.replace(Cookie(20), drop(3, Match::default()), Inserted::Observed).unwrap();
    let other = Match::default().with(Field::CtState, 0, ct_state::ESTABLISHED);
    m.replace(Cookie(21), drop(1, other), Inserted::Observed).unwrap();
    assert_eq!(m.hardware().len(), 1, "neither behind nor contradicting");
    m.replace(Cookie(22), drop(1, Match::default().exact(Field::IpTtl, 1)), Inserted::Observed).unwrap();
    assert!(m.hardware().is_empty());
    merge(&mut m, walk(1000)).unwrap();
    assert!(m.hardware().receive(IN, &frame(1000, 64), 5).is_some());
    assert!(m.hardware().receive(IN, &frame(1000, 1), 5).is_none(), "the shadow's packets stay in software");
}

#[test]
fn traps_27_a_connection_that_leaves_takes_its_merged_filters_only() {
    for leave in [
        ConnectionEvent::Gone(ConnectionId(1000)),
        ConnectionEvent::Is(ConnectionId(1000), Connection { tcp: Some(TcpState::FinWait), ..connection(1000) }),
        ConnectionEvent::Is(ConnectionId(1000), Connection { mark: 1, ..connection(1000) }),
        ConnectionEvent::Is(ConnectionId(1000), Connection { reply: tuple(7).inverse(), ..connection(1000) }),
    ] {
        let mut m = merger();
        firewall(&mut m);
        established(&mut m, 1000);
        established(&mut m, 1001);
        m.connection(leave).unwrap();
        assert_eq!(m.hardware().len(), 1);
        assert!(m.hardware().receive(IN, &frame(1001, 3), 5).is_some());
    }
}

#[test]
fn traps_28_a_refused_way_is_remembered_until_a_filter_changes() {
    let mut m = merger();
    let sample = |kind: &str| filter(1, 0, 1, Match::default(), ActionKind::Other(kind.into()), Control::Pipe);
    m.replace(Cookie(1), sample("sample"), Inserted::Observed).unwrap();
    let lone = || Walk { port: IN, key: key(1), hits: vec![Hit { filter: Cookie(1), found: vec![] }] };
    let first = merge(&mut m, lone());
    assert!(matches!(first, Err(Refusal::Action { .. })));
    assert_eq!(merge(&mut m, lone()), first);
    let csum = ActionKind::Csum(crate::flower::action::CsumFlags::IPV4);
    m.replace(Cookie(1), filter(1, 0, 1, Match::default(), csum, Control::Pipe), Inserted::Observed).unwrap();
    assert!(merge(&mut m, lone()).is_ok());
}

#[test]
fn a_removal_that_fails_is_told_and_tried_again() {
    let mut m = merger();
    firewall(&mut m);
    let merged = established(&mut m, 1000);
    m.hardware().fail_removals(Some("busy"));
    let error = m.connection(ConnectionEvent::Gone(ConnectionId(1000))).unwrap_err();
    assert!(error.to_string().contains(&merged.id.to_string()), "{error}");
    // The tuple comes back, but not into hardware beside the entry that would not go; and that one counts on.
    m.connection(ConnectionEvent::Is(ConnectionId(1000), connection(1000))).unwrap();
    assert!(matches!(merge(&mut m, walk(1000)), Err(Refusal::Hardware { .. })));
    m.hardware().receive(IN, &frame(1000, 3), 5).unwrap();
    m.hardware().fail_removals(None);
    let counters = Counters { packets: 1, bytes: FRAME, last_used: 5 };
    assert_eq!(m.drain(0).removed, [], "not so soon after the second failure");
    assert_eq!(m.drain(1_000_000).removed, [Removed { id: merged.id, counters }]);
    assert_eq!(m.stats(Cookie(10)), [counters; 2]);
    assert!(merge(&mut m, walk(1000)).is_ok());
}

#[test]
fn limits_turn_away_and_say_so() {
    let limits = Limits { queue: 1, merged: 1, ..Limits::default() };
    let mut m = Merger::with_limits(Memory::new(crate::flower::Capabilities::all()), limits);
    firewall(&mut m);
    established(&mut m, 1000);
    m.connection(ConnectionEvent::Is(ConnectionId(1001), connection(1001))).unwrap();
    assert!(m.walk(walk(1001)).is_some());
    assert!(m.walk(walk(1001)).is_none());
    assert!(matches!(m.drain(0).walks[0].1, Err(Refusal::Hardware { .. })));
    assert_eq!(m.turned(), Turned { queue: 1, merged: 1, installed: 1, ..Turned::default() });
}

#[test]
fn traps_32_a_skip_sw_filter_is_installed_at_once_or_refused() {
    let m = merger();
    let drop = |handle, prio, matches: Match| {
        filter(handle, 0, prio, matches, ActionKind::Gact { random: None }, Control::Shot)
    };
    let tcp = Match::default().exact(Field::IpProto, 6);
    let hard = Filter { skip_sw: true, ..drop(1, 2, tcp) };
    m.replace(Cookie(1), hard.clone(), Inserted::Observed).unwrap();
    assert!(m.hardware().receive(IN, &frame(1, 1), 1).is_some());
    m.destroy(Cookie(1)).unwrap();
    assert!(m.hardware().is_empty());
    m.replace(Cookie(2), drop(2, 1, Match::default().exact(Field::IpTtl, 1)), Inserted::Observed).unwrap();
    let refused = m.replace(Cookie(1), hard, Inserted::Observed).unwrap_err();
    assert!(matches!(refused, ReplaceError::SkipSw(Refusal::Behind { .. })), "{refused}");
    let ct = ActionKind::Ct(Ct { zone: 5, ..Ct::default() });
    let recirculates = Filter { skip_sw: true, ..filter(3, 0, 1, tcp, ct, Control::Goto(1)) };
    assert!(m.replace(Cookie(3), recirculates, Inserted::Observed).is_err());
    assert!(m.hardware().is_empty() && m.table().filter(Cookie(3)).is_none());
}

#[test]
fn a_first_filter_at_a_port_that_is_sent_to_takes_out_what_sends_there() {
    let mut m = merger();
    firewall(&mut m);
    established(&mut m, 1000);
    let mut egress = filter(1, 0, 1, Match::default(), ActionKind::Gact { random: None }, Control::Shot);
    egress.id.hook = Hook::Egress(Port(2));
    m.replace(Cookie(30), egress, Inserted::Observed).unwrap();
    assert!(m.hardware().is_empty());
    assert!(matches!(merge(&mut m, walk(1000)), Err(Refusal::EgressFilters { port: Port(2), .. })));
    m.destroy(Cookie(30)).unwrap();
    assert!(merge(&mut m, walk(1000)).is_ok());
}

#[test]
fn what_could_not_be_removed_with_a_priority_tells_its_last_counts_when_destroyed_again() {
    let mut m = merger();
    firewall(&mut m);
    let merge = established(&mut m, 1000);
    m.hardware().fail_removals(Some("busy"));
    m.hardware().receive(IN, &frame(1000, 64), 7).unwrap();
    let error = m.destroy_priority(Hook::Ingress(IN), 0, 2).unwrap_err();
    assert_eq!(error.0[0].id(), merge.id);
    m.hardware().receive(IN, &frame(1000, 64), 8).unwrap();
    m.hardware().fail_removals(None);
    m.drain(0);
    let two = Counters { packets: 2, bytes: 2 * FRAME, last_used: 8 };
    assert_eq!(m.destroy(Cookie(10)), Ok(vec![two; 2]));
    assert_eq!((m.destroy(Cookie(11)), m.account_count()), (Ok(vec![two; 2]), 0));
}

#[test]
fn what_was_stuck_before_is_named_when_its_filter_is_destroyed() {
    let mut m = merger();
    firewall(&mut m);
    let merge = established(&mut m, 1000);
    m.hardware().fail_removals(Some("busy"));
    assert!(m.give_back(ConnectionId(1000)).is_err());
    m.hardware().receive(IN, &frame(1000, 64), 8).unwrap();
    for _ in 0..2 {
        let error = m.destroy(Cookie(10)).expect_err("it is in hardware");
        assert_eq!(error.0.iter().map(HardwareError::id).collect::<Vec<_>>(), [merge.id]);
    }
    m.hardware().fail_removals(None);
    m.drain(0);
    let one = Counters { packets: 1, bytes: FRAME, last_used: 8 };
    assert_eq!(m.destroy(Cookie(10)), Ok(vec![one; 2]));
}

#[test]
fn a_newcomer_that_is_not_busier_finds_the_table_full() {
    let mut m = Merger::new(Memory::new(Capabilities { size: Some(1), ..Capabilities::all() }));
    firewall(&mut m);
    let busy = established(&mut m, 1000);
    (0..5).for_each(|now| drop(m.hardware().receive(IN, &frame(1000, 64), now).unwrap()));
    m.sweep(10);
    for port in [1001, 1002] {
        m.connection(ConnectionEvent::Is(ConnectionId(port as u64), connection(port))).unwrap();
        assert!(matches!(merge(&mut m, walk(port)), Err(Refusal::Hardware { .. })));
    }
    assert_eq!((m.turned().full, m.turned().displaced, m.is_merged(busy.id)), (2, 0, true));
}

/// The device was reset, something was installed, and then the reset was told.
#[test]
fn what_was_installed_before_a_reset_was_told_is_not_left_behind() {
    let mut m = merger();
    firewall(&mut m);
    established(&mut m, 1000);
    m.reset(0);
    m.drain(0);
    assert_eq!((m.hardware().len(), m.merged_count()), (0, 0), "it is in hardware, and nobody knows it");
    assert!(merge(&mut m, walk(1000)).unwrap().installed);
}
