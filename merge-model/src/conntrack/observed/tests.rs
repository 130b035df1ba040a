use super::*;
use crate::conntrack::{Glimpse, Transport, tcp::Segment};
use flowmerge::conntrack::TcpState;
use flowmerge::flower::action::NatSide;

const SYN: u8 = 2;
const ACK: u8 = 16;

fn tuple(proto: u8) -> Tuple {
    Tuple { src: [10, 0, 0, 1].into(), dst: [10, 0, 0, 2].into(), proto, src_port: 1000, dst_port: 80 }
}

fn shown(tuple: Tuple, flags: u8) -> Shown {
    let transport = match tuple.proto {
        proto::TCP => Transport::Tcp(Segment { flags, ..Segment::default() }),
        _ => Transport::Stateless,
    };
    Shown { tuple, transport, inner: None }
}

fn report(event: ConnectionEvent, zone: u16, original: Tuple) -> Report {
    Report {
        event,
        by_hand: false,
        connection: ConnectionMessage {
            zone,
            original,
            reply: original.inverse(),
            id: None,
            status: None,
            tcp: None,
            timeout: None,
            mark: None,
            labels: None,
            helper: None,
            master: None,
            has_seqadj: false,
            counters: Default::default(),
        },
    }
}

fn at(at: usize, report: Report) -> Reported {
    Reported { at, time: at as u64 * 1000, report }
}

fn entry(tracked: Tracked) -> (EntryId, Info) {
    match tracked {
        Tracked::Entry(id, info) => (id, info),
        Tracked::Invalid => panic!("invalid"),
    }
}

#[test]
fn the_translation_comes_from_the_report_behind_the_frame() {
    let t = tuple(proto::TCP);
    let mut born = report(ConnectionEvent::New, 3, t);
    born.connection.reply.dst = [10, 0, 0, 100].into();
    born.connection.reply.dst_port = 4242;
    let mut tracker = Tracker::new([], [at(1, born.clone())]);
    tracker.begin(0, 0, 2);
    let (id, info) = entry(tracker.track(3, &shown(t, SYN)));
    assert_eq!((info, tracker.is_confirmed(id)), (Info::New, false));
    let nat = Nat { side: Some(NatSide::Src), ..Nat::default() };
    tracker.translate(id, &nat);
    assert_eq!(tracker.connection(id).translated(Direction::Original).src_port, 4242);
    assert_eq!(tracker.commit(id, Some((7, 0xff)), None), Some(id));
    tracker.begin(2, 2000, 3);
    let (same, info) = entry(tracker.track(3, &shown(born.connection.reply, SYN | ACK)));
    assert_eq!((same, info), (id, Info::EstablishedReply));
    // The other zone knows nothing of it.
    assert_eq!(tracker.track(4, &shown(born.connection.reply, SYN | ACK)), Tracked::Invalid);
    let kinds: Vec<_> = tracker.changes().iter().map(|c| c.kind).collect();
    assert_eq!(kinds[0], ChangeKind::Created);
    assert!(kinds[1..].iter().all(|&k| k == ChangeKind::Updated));
}

#[test]
fn in_a_burst_the_reports_stand_behind_the_later_frames() {
    let mut others = tuple(proto::UDP);
    others.src_port = 2000;
    let tuples = [tuple(proto::UDP), others];
    let births = tuples.map(|t| {
        let mut born = report(ConnectionEvent::New, 3, t);
        born.connection.reply.dst_port = t.src_port + 1;
        born
    });
    let mut tracker = Tracker::new([], births.into_iter().enumerate().map(|(i, b)| at(i + 2, b)));
    let nat = Nat { side: Some(NatSide::Src), ports: Some((1, 5)), ..Nat::default() };
    for (i, t) in tuples.into_iter().enumerate() {
        tracker.begin(i, i as u64 * 1000, if i == 0 { 1 } else { 4 });
        let (id, _) = entry(tracker.track(3, &shown(t, 0)));
        tracker.translate(id, &nat);
        assert_eq!(tracker.commit(id, None, None), Some(id));
        assert_eq!(tracker.connection(id).translated(Direction::Original).src_port, t.src_port + 1);
    }
    tracker.advance(4);
    assert_eq!(tracker.connections().count(), 2);
}

#[test]
fn a_late_report_with_another_translation_is_another_packets() {
    let t = tuple(proto::UDP);
    let mut born = report(ConnectionEvent::New, 3, t);
    born.connection.reply.dst = [10, 0, 0, 5].into();
    let mut tracker = Tracker::new([], [at(4, born)]);
    let to = |host, ports| {
        let address = [10, 0, 0, host].into();
        Nat { side: Some(NatSide::Src), addresses: Some((address, address)), ports }
    };
    // The first one's translation was taken, so it was dropped, and the second one's is what the report tells.
    for (place, nat, goes_on) in [(0, to(4, Some((443, 443))), false), (3, to(5, None), true)] {
        tracker.begin(place, place as u64 * 1000, if place == 0 { 3 } else { 5 });
        let (id, _) = entry(tracker.track(3, &shown(t, 0)));
        tracker.translate(id, &nat);
        assert_eq!(tracker.commit(id, None, None).is_some(), goes_on);
    }
}

/// A translation that ends up on another connection's tuple: that one serves the packet if no translation was chosen for it.
#[test]
fn whose_tuple_is_taken_gets_the_other_entry_or_is_dropped() {
    let host = |n: u8| [10, 0, 0, n].into();
    for (proto, chosen, serves) in
        [(proto::UDP, 0, true), (47, 0, true), (proto::UDP, status::SRC_NAT_DONE, false), (proto::TCP, 0, false)]
    {
        let mut first = tuple(proto);
        (first.src_port, first.dst_port) = (7, 7);
        let mut there = report(ConnectionEvent::New, 3, first);
        there.connection.status = Some(chosen);
        let mut tracker = Tracker::new([there], []);
        let (other, _) = tracker.find(3, first).unwrap();
        // From the second host to itself: with its destination translated, its answers would be the first one's packets.
        let late = Tuple { src: first.dst, dst: first.dst, ..first };
        tracker.begin(0, 0, 1);
        let (id, _) = entry(tracker.track(3, &shown(late, SYN)));
        tracker.translate(id, &Nat { side: Some(NatSide::Dst), addresses: Some((host(1), host(1))), ports: None });
        assert_eq!(tracker.commit(id, None, None), serves.then_some(other), "protocol {proto}, status {chosen:#x}");
    }
}

#[test]
fn a_late_report_is_not_that_of_a_connection_whose_tuple_was_taken() {
    // The second packet's answers would be the first one's packets, so it was dropped; when the first was over, a third came.
    let first = tuple(proto::TCP);
    let mut nat = report(ConnectionEvent::New, 3, first);
    nat.connection.reply.src = [10, 0, 0, 5].into();
    let late = first.inverse();
    let mut tracker = Tracker::new([nat], [at(4, report(ConnectionEvent::New, 3, late))]);
    tracker.begin(0, 0, 2);
    let (id, _) = entry(tracker.track(3, &shown(late, SYN)));
    assert_eq!(tracker.commit(id, None, None), None);
}

/// The kernel chose one of several addresses, and nobody was told, since the entry of another served the packet.
#[test]
fn an_unreported_choice_is_made_as_the_kernel_makes_it() {
    let host = |n: u8| [10, 0, 0, n].into();
    let t = Tuple { src_port: 0, dst_port: 0, ..tuple(47) };
    let there = |n| report(ConnectionEvent::New, 3, Tuple { src: host(n), dst: host(1), ..t });
    let mut tracker = Tracker::new([there(5), there(8)], []);
    tracker.begin(0, 0, 1);
    let (id, _) = entry(tracker.track(3, &shown(t, 0)));
    tracker.translate(id, &Nat { side: Some(NatSide::Dst), addresses: Some((host(5), host(9))), ports: None });
    assert_eq!(tracker.connection(id).translated(Direction::Original).dst, host(5));
    let served = tracker.find(3, Tuple { src: host(5), dst: host(1), ..t }).map(|(id, _)| id);
    assert_eq!(tracker.commit(id, None, None), served);
}

/// Of a connection in act_ct's flow table the kernel does not tell TCP's state: it is established.
#[test]
fn a_dump_tells_what_is_in_the_flow_table() {
    let t = tuple(proto::TCP);
    let mut there = report(ConnectionEvent::New, 3, t);
    there.connection.status = Some(status::SEEN_REPLY | status::ASSURED | status::CONFIRMED | status::OFFLOAD);
    let mut tracker = Tracker::new([there], []);
    tracker.begin(0, 5_000_000_000, 1);
    for tuple in [t.inverse(), t] {
        let glimpse = Glimpse { tuple, ends: false };
        assert!(tracker.bypass(3, &glimpse).is_some(), "it is in the table");
    }
    assert_eq!(tracker.bypass(3, &Glimpse { tuple: t, ends: true }), None);
    let (id, info) = entry(tracker.track(3, &shown(t.inverse(), ACK)));
    assert_eq!(info, Info::EstablishedReply);
    assert_eq!(tracker.connection(id).tcp, Some(TcpState::Established));
}

#[test]
fn an_expired_connection_is_another_one() {
    let t = tuple(proto::UDP);
    let gone = report(ConnectionEvent::Destroy, 5, t);
    let mut dump = report(ConnectionEvent::New, 5, t);
    dump.connection.status = Some(status::SEEN_REPLY);
    let mut tracker = Tracker::new([dump], [at(1, gone), at(2, report(ConnectionEvent::New, 5, t))]);
    let (&old, _) = tracker.entries.iter().next().unwrap();
    tracker.begin(0, 0, 3);
    let (id, info) = entry(tracker.track(5, &shown(t, 0)));
    assert_eq!(info, Info::New);
    assert_ne!(id, old);
    assert_eq!(tracker.commit(id, None, None), Some(id));
    tracker.begin(3, 3000, 4);
    assert_eq!(tracker.find(5, t), Some((id, Direction::Original)));
}

#[test]
fn a_missed_frame_moves_each_connection_once() {
    // OVS commits the SYN's connection; the FIN is tracked by TC, missed, and comes out again.
    let t = tuple(proto::TCP);
    let mut tracker = Tracker::new([], [at(1, report(ConnectionEvent::New, 5, t))]);
    tracker.begin(0, 0, 1);
    let (first, _) = entry(tracker.track(5, &shown(t, SYN)));
    tracker.missed();
    tracker.begin(2, 2000, 3);
    let (id, _) = entry(tracker.track(5, &shown(t.inverse(), SYN | ACK)));
    assert_eq!(id, first);
    tracker.track(5, &shown(t, ACK));
    let passage = {
        tracker.begin(3, 3000, 4);
        tracker.track(5, &shown(t, ACK | 1));
        tracker.missed()
    };
    tracker.resume(&passage, 4, 4000, 5);
    tracker.track(5, &shown(t, ACK | 1));
    assert_eq!(tracker.connection(id).tcp, Some(TcpState::FinWait));
    assert!(tracker.connection(id).assured);
}

#[test]
fn a_missed_answer_comes_through_its_zones_one_after_the_other() {
    let t = tuple(proto::UDP);
    let born = |zone| report(ConnectionEvent::New, zone, t);
    let mut tracker = Tracker::new([born(6), born(7)], []);
    let answer = shown(t.inverse(), 0);
    assert!(tracker.is_answer(&answer) && !tracker.is_answer(&shown(t, 0)));
    let info = |tracker: &mut Tracker, zone| entry(tracker.track(zone, &shown(t, 0))).1;
    // It comes at 1 and is missed; OVS takes it through zone 6, and before zone 7 another packet comes.
    tracker.begin(1, 1000, 3);
    let mut passage = tracker.missed();
    tracker.resume(&passage, 2, 2000, 3);
    assert_eq!(entry(tracker.track(6, &answer)).1, Info::EstablishedReply);
    passage.join(tracker.missed());
    tracker.begin(3, 3000, 5);
    assert_eq!([6, 7].map(|zone| info(&mut tracker, zone)), [Info::Established, Info::New]);
    tracker.resume(&passage, 4, 4000, 5);
    for zone in [6, 7] {
        tracker.track(zone, &answer);
    }
    tracker.begin(5, 5000, 6);
    assert_eq!([6, 7].map(|zone| info(&mut tracker, zone)), [Info::Established, Info::Established]);
}

#[test]
fn what_this_frame_has_begun_is_not_over_when_it_comes_round() {
    let t = tuple(proto::UDP);
    let mut tracker = Tracker::new([], [at(1, report(ConnectionEvent::New, 5, t))]);
    tracker.begin(0, 1000, 2);
    let (id, info) = entry(tracker.track(5, &shown(t, 0)));
    assert_eq!(tracker.commit(id, None, None), Some(id));
    tracker.offload(id, info);
    // A copy of it goes to a port's ingress, and through the zone again.
    assert_eq!(entry(tracker.track(5, &shown(t, 0))), (id, Info::New));
}

#[test]
fn an_icmp_error_is_related_to_what_it_is_about() {
    let t = tuple(proto::UDP);
    let mut tracker = Tracker::new([report(ConnectionEvent::New, 5, t)], []);
    tracker.begin(0, 0, 1);
    let unreachable = Tuple { src: t.dst, dst: t.src, proto: proto::ICMP, src_port: 0, dst_port: 0x0303 };
    let mut error = shown(unreachable, 0);
    error.inner = Some(t);
    assert_eq!(entry(tracker.track(5, &error)).1, Info::RelatedReply);
    error.tuple.dst = [10, 0, 0, 9].into();
    assert_eq!(tracker.track(5, &error), Tracked::Invalid);
}

/// Each waits for OVS to commit it; none may cost the others time.
#[test]
fn many_missed_connections_wait_at_once() {
    const MANY: u64 = 20_000;
    let of = |i: u64| Tuple { src: [10, 1, (i >> 8) as u8, i as u8].into(), ..tuple(proto::UDP) };
    let born = (0..MANY).map(|i| at((MANY + i) as usize, report(ConnectionEvent::New, 3, of(i))));
    let mut tracker = Tracker::new([], born);
    let first = (0..MANY).map(|i| {
        tracker.begin(i as usize, i * 1000, i as usize + 1);
        let (id, _) = entry(tracker.track(3, &shown(of(i), 0)));
        tracker.missed();
        id
    });
    let first: Vec<_> = first.collect();
    tracker.advance(2 * MANY as usize);
    let confirmed = first.iter().filter(|&&id| tracker.is_confirmed(id)).count();
    assert_eq!(confirmed, MANY as usize, "the connections continue as they began");
}

const FIN: u8 = 1;

fn glimpse(tuple: Tuple, flags: u8) -> Glimpse {
    Glimpse { tuple, ends: flags & FIN != 0 }
}

/// As `ct commit` does with a packet: what the flow table says of it, else what conntrack says; then commit and offload.
fn through(tracker: &mut Tracker, tuple: Tuple, flags: u8) -> (Option<Info>, Info) {
    let bypass = tracker.bypass(5, &glimpse(tuple, flags)).map(|(_, info)| info);
    let (id, info) = entry(match bypass {
        Some(info) => Tracked::Entry(tracker.find(5, tuple).unwrap().0, info),
        None => tracker.track(5, &shown(tuple, flags)),
    });
    assert_eq!(tracker.commit(id, None, None), Some(id));
    if bypass.is_none() {
        tracker.offload(id, info);
    }
    (bypass, info)
}

#[test]
fn an_established_tcp_connection_is_not_shown_to_conntrack_until_it_ends() {
    let t = tuple(proto::TCP);
    let mut tracker = Tracker::new([], []);
    tracker.begin(0, 0, 1);
    let opening =
        [(t, SYN), (t.inverse(), SYN | ACK), (t, ACK)].map(|(tuple, flags)| through(&mut tracker, tuple, flags).0);
    assert_eq!(opening, [None; 3]);
    assert_eq!(through(&mut tracker, t, ACK).0, Some(Info::Established));
    assert_eq!(through(&mut tracker, t.inverse(), ACK).0, Some(Info::EstablishedReply));
    // Another zone's table does not have it.
    assert_eq!(tracker.bypass(6, &glimpse(t, ACK)), None);
    // A corrupt FIN takes it out, and the next packet puts it in again.
    assert_eq!(tracker.bypass(5, &glimpse(t, FIN | ACK)), None);
    assert_eq!(through(&mut tracker, t, ACK), (None, Info::Established));
    assert_eq!(through(&mut tracker, t, ACK).0, Some(Info::Established));
    // So does half a minute of silence.
    tracker.begin(1, 40_000_000_000, 2);
    assert_eq!(through(&mut tracker, t, ACK), (None, Info::Established));
    // A sound FIN takes it out for good.
    assert_eq!(through(&mut tracker, t, FIN | ACK), (None, Info::Established));
    assert_eq!(through(&mut tracker, t, ACK), (None, Info::Established));
    assert_eq!(through(&mut tracker, t, ACK), (None, Info::Established));
}

#[test]
fn udp_bypasses_conntrack_once_it_has_lasted() {
    let t = tuple(proto::UDP);
    let mut tracker = Tracker::new([], []);
    tracker.begin(0, 0, 1);
    assert_eq!(through(&mut tracker, t, 0), (None, Info::New));
    assert_eq!(through(&mut tracker, t.inverse(), 0), (None, Info::EstablishedReply));
    assert_eq!(through(&mut tracker, t, 0), (None, Info::Established));
    tracker.begin(1, 3_000_000_000, 2);
    assert_eq!(through(&mut tracker, t, 0), (None, Info::Established));
    assert_eq!(through(&mut tracker, t, 0), (Some(Info::Established), Info::Established));
}

/// From an address and port to the same: both tuples are one, and the kernel finds the reply's.
#[test]
fn a_packet_to_its_own_sender_is_a_reply() {
    let own = Tuple { dst: [10, 0, 0, 1].into(), dst_port: 1000, ..tuple(proto::UDPLITE) };
    let mut tracker = Tracker::new([], [at(1, report(ConnectionEvent::New, 5, own))]);
    tracker.begin(0, 0, 1);
    assert_eq!(through(&mut tracker, own, 0).1, Info::New);
    tracker.begin(2, 2000, 3);
    assert_eq!(through(&mut tracker, own, 0).1, Info::EstablishedReply);
    assert_eq!(tracker.connections().count(), 1);
}

/// A reply met by `ct force`: it is told that the connection saw a reply, then that it ended.
#[test]
fn a_connection_ended_by_force_was_not_over_and_does_not_come_back() {
    let t = tuple(proto::UDP);
    let told = |event| Report {
        connection: ConnectionMessage { timeout: Some(30), ..report(event, 5, t).connection },
        ..report(event, 5, t)
    };
    let reports = [
        at(1, told(ConnectionEvent::New)),
        at(3, told(ConnectionEvent::Update)),
        at(4, told(ConnectionEvent::Destroy)),
    ];
    let mut tracker = Tracker::new([], reports);
    tracker.begin(0, 0, 2);
    assert_eq!(through(&mut tracker, t, 0).1, Info::New);
    tracker.begin(2, 2000, 5);
    let (id, info) = entry(tracker.track(5, &shown(t.inverse(), 0)));
    assert_eq!(info, Info::EstablishedReply);
    tracker.kill(id);
    tracker.begin(5, 5000, 6);
    assert_eq!(tracker.connections().count(), 0);
}
