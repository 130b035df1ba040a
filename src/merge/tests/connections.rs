//! What `ct` does with the connection that it finds, and what NAT writes.

use super::*;

fn ct_with(edit: Ct) -> Action {
    Action::new(ActionKind::Ct(Ct { zone: 5, ..edit }), Control::Pipe)
}
/// The address and port of one end that the actions leave written, if they do.
fn written(actions: &[Action], header: PeditHeader, offset: i32) -> Option<[u8; 4]> {
    let mut keys = actions.iter().rev().flat_map(|a| match &a.kind {
        ActionKind::Pedit(p) => p.keys.clone(),
        _ => vec![],
    });
    keys.find(|k| (k.header, k.offset) == (header, offset)).map(|k| k.value)
}

#[test]
fn traps_3_what_was_written_before_ct_is_a_condition_on_the_tuple() {
    let dst = pedit(PeditHeader::Ipv4, 16, [0; 4], H2);
    let csum = Action::new(ActionKind::Csum(CsumFlags::IPV4 | CsumFlags::TCP), Control::Pipe);
    let a = filter(0, 1, ip(), &[dst, csum, ct(5, false), output()]);
    let to = |address| {
        let t = tcp(H1, 1, address, 2);
        Connection::established(5, t, t.inverse())
    };
    let c = to(H2);
    let case = Case::default().hit_with(&a, &[], &[(&c, Direction::Original)]);
    let (path, _) = case.fold(&packet(tcp(H1, 1, VIP, 2))).unwrap();
    assert!(path.matches(&[&c]).is_some());
    assert!(path.matches(&[&to(VIP)]).is_none(), "the packet no longer goes there");
}

#[test]
fn traps_3_the_second_connection_is_the_first_one_translated() {
    let first = Connection::established(5, tcp(H1, 1000, VIP, 80), tcp(H2, 80, H1, 1000));
    let second = |src_port| {
        let t = tcp(H1, src_port, H2, 80);
        Connection::established(6, t, t.inverse())
    };
    let c = second(1000);
    let a = filter(0, 1, ip(), &[ct(5, true), ct(6, false), output()]);
    let met = [(&first, Direction::Original), (&c, Direction::Original)];
    let (path, _) = Case::default().hit_with(&a, &[], &met).fold(&packet(first.original)).unwrap();
    assert!(path.matches(&[&first, &c]).is_some());
    assert!(path.matches(&[&first, &second(1001)]).is_none());
    let elsewhere = Connection { original: tcp(H1, 1000, VIP, 80), ..c };
    assert!(path.matches(&[&first, &elsewhere]).is_none());
}

#[test]
fn a_range_that_the_tuple_tells_is_asked_of_the_tuple() {
    let c = |port| {
        let t = tcp(H1, 1, H2, port);
        Connection::established(5, t, t.inverse())
    };
    let range = Match { dst_range: Some(crate::flower::Range { min: 5, max: 9 }), ..ip().exact(Field::IpProto, 6) };
    let a = filter(0, 1, range, &[ct(5, false), output()]);
    let inside = c(7);
    let case = Case::default().hit_with(&a, &[], &[(&inside, Direction::Original)]);
    let (path, _) = case.fold(&packet(inside.original)).unwrap();
    assert_eq!(path.template.known.dst_range, None);
    assert!(path.matches(&[&c(9)]).is_some() && path.matches(&[&c(10)]).is_none());
}

#[test]
fn traps_10_flags_are_judged_as_ct_sees_them() {
    let t = tcp(H1, 1, H2, 2);
    let c = Connection::established(5, t, t.inverse());
    // Somebody flips SYN before `ct`.
    let flip = pedit(PeditHeader::Tcp, 12, [0xff; 4], [0, 2, 0, 0]);
    let csum = Action::new(ActionKind::Csum(CsumFlags::TCP), Control::Pipe);
    let a = filter(0, 1, ip(), &[flip, csum, ct(5, false), output()]);
    let case = Case::default().hit_with(&a, &[], &[(&c, Direction::Original)]);
    let flags = |f| packet(t).with(Field::TcpFlags, f);
    let (matches, _) = case.merged(&flags(0x12)).unwrap();
    assert_eq!((matches.key.get(Field::TcpFlags), matches.mask.get(Field::TcpFlags)), (0x12, 0x17));
    let refusal = case.fold(&flags(0x10)).unwrap_err();
    assert_eq!(refusal, Refusal::Excluded { filter: a.id, field: Field::TcpFlags });
}

#[test]
fn the_same_zone_again_finds_the_same_connection() {
    let t = tcp(H1, 1, H2, 2);
    let c = Connection::established(5, t, t.inverse());
    let other = Connection::established(5, tcp(H1, 9, H2, 2), tcp(H1, 9, H2, 2).inverse());
    let a = filter(0, 1, ip(), &[ct(5, false), ct(5, false), output()]);
    let again = |second: (&Connection, Direction)| {
        let met = [(&c, Direction::Original), (second.0, second.1)];
        Case::default().hit_with(&a, &[], &met).fold(&packet(t)).map(|_| ())
    };
    assert_eq!(again((&c, Direction::Original)), Ok(()));
    for second in [(&c, Direction::Reply), (&other, Direction::Original)] {
        assert_eq!(again(second), Err(Refusal::Broken { filter: a.id }));
    }
    let elsewhere = Connection { zone: 6, ..c };
    let case = Case::default().hit_with(&a, &[], &[(&elsewhere, Direction::Original), (&c, Direction::Original)]);
    assert_eq!(case.fold(&packet(t)).unwrap_err(), Refusal::Broken { filter: a.id });
}

#[test]
fn force_keeps_a_connection_of_the_original_direction_and_ends_one_of_the_reply() {
    let t = tcp(H1, 1, H2, 2);
    let c = Connection::established(5, t, t.inverse());
    let a = filter(0, 1, ip(), &[ct(5, false), ct_with(Ct { force: true, ..Ct::default() }), output()]);
    for (direction, merged) in [(Direction::Original, true), (Direction::Reply, false)] {
        let case = Case::default().hit_with(&a, &[], &[(&c, direction), (&c, direction)]);
        assert_eq!(case.fold(&packet(c.tuple(direction))).is_ok(), merged, "{direction:?}");
    }
    // Where the packet has no connection yet, there is none to end.
    let first = filter(0, 1, ip(), &[ct_with(Ct { force: true, ..Ct::default() }), output()]);
    let case = Case::default().hit_with(&first, &[], &[(&c, Direction::Reply)]);
    assert!(case.fold(&packet(c.reply)).is_ok());
}

#[test]
fn traps_17_the_checksum_that_conntrack_looks_at_must_not_be_stale() {
    let port = |header| pedit(header, 0, [0, 0, 0xff, 0xff], [0, 9, 0, 0]);
    let csum = |flags| Action::new(ActionKind::Csum(flags), Control::Pipe);
    for (proto, header, flags) in
        [(proto::TCP, PeditHeader::Tcp, CsumFlags::TCP), (proto::UDP, PeditHeader::Udp, CsumFlags::UDP)]
    {
        let arrived = Tuple { proto, ..tcp(H1, 1, H2, 2) };
        let t = Tuple { src_port: 9, ..arrived };
        let c = Connection::established(5, t, t.inverse());
        let met = [(&c, Direction::Original)];
        let stale = filter(0, 1, ip(), &[port(header), ct(5, false), output()]);
        let refusal = Case::default().hit_with(&stale, &[], &met).fold(&packet(arrived)).unwrap_err();
        assert!(matches!(&refusal, Refusal::Unfit { action, .. } if action == "ct"), "{refusal}");
        let right = filter(0, 1, ip(), &[port(header), csum(flags), ct(5, false), output()]);
        assert!(Case::default().hit_with(&right, &[], &met).fold(&packet(arrived)).is_ok());
    }
}

#[test]
fn traps_4_nat_writes_the_end_that_it_translates_and_no_other() {
    // The destination's port is translated, its address is not.
    let t = tcp(H1, 1000, VIP, 80);
    let c = Connection::established(5, t, tcp(VIP, 8080, H1, 1000));
    let met = [(&c, Direction::Original); 2];
    let csum = Action::new(ActionKind::Csum(CsumFlags::IPV4 | CsumFlags::TCP), Control::Pipe);
    for (offset, left) in [(12, Some(H2)), (16, Some(VIP))] {
        // Between the lookup and the translation somebody writes an address.
        let write = pedit(PeditHeader::Ipv4, offset, [0; 4], H2);
        let a = filter(0, 1, ip(), &[ct(5, false), write, csum.clone(), ct(5, true), output()]);
        let (_, actions) = Case::default().hit_with(&a, &[], &met).merged(&packet(t)).unwrap();
        assert_eq!(written(&actions, PeditHeader::Ipv4, offset), left, "{actions:?}");
        assert_eq!(written(&actions, PeditHeader::Tcp, 0), Some([0, 0, 0x1f, 0x90]));
    }
    let plain = filter(0, 1, ip(), &[ct(5, true), output()]);
    let case = Case::default().hit_with(&plain, &[], &met[..1]);
    let (_, actions) = case.merged(&packet(t)).unwrap();
    assert_eq!([12, 16].map(|at| written(&actions, PeditHeader::Ipv4, at)), [None, None], "as it is already");
}

#[test]
fn traps_19_a_commit_must_leave_mark_and_labels_as_they_are_bit_by_bit() {
    let t = tcp(H1, 1, H2, 2);
    let commit =
        |mark, labels| filter(0, 1, ip(), &[ct_with(Ct { commit: true, mark, labels, ..Ct::default() }), output()]);
    let done = |f: &Filter, mark, labels| {
        let c = Connection { mark, labels, ..Connection::established(5, t, t.inverse()) };
        Case::default().hit_with(f, &[], &[(&c, Direction::Original)]).fold(&packet(t)).map(|_| ())
    };
    // The kernel sets what the value has outside of its mask, too.
    let f = commit(Some((0x30, 0x0f)), None);
    let changed = Err(Refusal::ChangesConnection { filter: f.id, field: Field::CtMark });
    assert_eq!(done(&f, 0x30, 0), Ok(()));
    assert_eq!(done(&f, 0x70, 0), Ok(()), "a bit that is none of either");
    assert_eq!((done(&f, 0x31, 0), done(&f, 0x10, 0)), (changed.clone(), changed));
    let f = commit(None, Some((2, 6)));
    let changed = Err(Refusal::ChangesConnection { filter: f.id, field: Field::CtLabels });
    assert_eq!(done(&f, 0, 0xa), Ok(()));
    assert_eq!((done(&f, 0, 6), done(&f, 0, 0)), (changed.clone(), changed));
    let none = commit(Some((0, 0)), Some((0, 0)));
    assert_eq!(done(&none, 9, 9), Ok(()), "under an empty mask nothing is set");
    let f = commit(None, Some((9, 1)));
    assert!(done(&f, 0, 9).is_err(), "a value outside of its mask");
}

#[test]
fn what_is_committed_is_a_condition_on_other_connections() {
    let t = tcp(H1, 1, H2, 2);
    let c = Connection { mark: 3, labels: 5, ..Connection::established(5, t, t.inverse()) };
    let commit = Ct { commit: true, mark: Some((1, 1)), labels: Some((4, 4)), ..Ct::default() };
    let a = filter(0, 1, ip(), &[ct_with(commit), output()]);
    let (path, _) = Case::default().hit_with(&a, &[], &[(&c, Direction::Original)]).fold(&packet(t)).unwrap();
    let fits = |mark, labels| path.matches(&[&Connection { mark, labels, ..c }]).is_some();
    assert_eq!([fits(3, 5), fits(1, 4), fits(2, 5), fits(3, 1)], [true, true, false, false]);
}
