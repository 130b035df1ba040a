//! Which other packets of the way are refused with one.

use super::*;

fn others(case: &Case, key: &Key) -> Option<template::Template> {
    case.folded(key).expect_err("refused").others
}

#[test]
fn the_bit_that_keeps_a_packet_in_software_keeps_others_there() {
    let t = tcp(H1, 1, H2, 2);
    let c = Connection::established(5, t, t.inverse());
    let a = filter(0, 1, ip(), &[ct(5, false), output()]);
    let case = Case::default().hit_with(&a, &[], &[(&c, Direction::Original)]);
    for (flags, bit, value) in [(0x12, 2, 2), (0x01, 1, 1), (0x08, 0x10, 0), (0x1c, 4, 4)] {
        let others = others(&case, &packet(t).with(Field::TcpFlags, flags)).unwrap();
        assert_eq!(others.known.unpack(), Match::default().with(Field::TcpFlags, value, bit), "{flags:#x}");
        assert!(others.terms().next().is_none() && others.conditions.is_empty());
    }
    // The filter asks for PSH, and the packet has it: only that ACK is missing keeps it in software.
    let psh = ip().exact(Field::IpProto, 6).with(Field::TcpFlags, 8, 8);
    let a = filter(0, 1, psh, &[ct(5, false), output()]);
    let case = Case::default().hit_with(&a, &[], &[(&c, Direction::Original)]);
    let others = others(&case, &packet(t).with(Field::TcpFlags, 8)).unwrap();
    assert_eq!(others.known.unpack(), Match::default().with(Field::TcpFlags, 0, 0x10));
}

#[test]
fn what_was_asked_until_then_tells_others() {
    let udp_port = pedit(PeditHeader::Tcp, 0, [0, 0, 0xff, 0xff], [0, 80, 0, 0]);
    let modify = vlan(Vlan::Modify { protocol: 0x8100, id: 5, prio: None });
    let down = add(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [255, 0, 0, 0]);
    let a = filter(0, 1, Match::default().exact(Field::IpTos, 4), &[modify, down, goto(1)]);
    let b = filter(1, 1, Match::default().with(Field::IpTtl, 0x30, 0xf0), &[udp_port, output()]);
    let key = packet(tcp(H1, 1, H2, 2)).with(Field::IpProto, 17).with(Field::IpTos, 4).with(Field::IpTtl, 0x38);
    let case = Case::default().hit(&a).hit(&b);
    assert!(matches!(case.fold(&key).unwrap_err(), Refusal::Unfit { .. }));
    let known = others(&case, &key).unwrap().known.unpack();
    // Of the TTL the bits that make sure of the high half of the sum: 0x38 to 0x3f.
    let ip = Match::default().exact(Field::Protocol, 0x800).exact(Field::AddrType, 2);
    let want = ip.exact(Field::IpProto, 17).exact(Field::IpTos, 4).with(Field::IpTtl, 0x38, 0xf8);
    assert_eq!(known, want);
}

#[test]
fn some_refusals_are_of_the_whole_way_and_some_of_the_moment() {
    let t = tcp(H1, 1, H2, 2);
    let sample = Action::new(ActionKind::Other("sample".into()), Control::Pipe);
    let a = filter(0, 1, ip(), &[sample, output()]);
    assert_eq!(others(&Case::default().hit(&a), &packet(t)), Some(template::Template::default()));
    let closed = Connection { tcp: Some(TcpState::Close), ..Connection::established(5, t, t.inverse()) };
    let a = filter(0, 1, ip(), &[ct(5, false), output()]);
    let case = Case::default().hit_with(&a, &[], &[(&closed, Direction::Original)]);
    assert_eq!(others(&case, &packet(t)), None, "the connection may open again");
}

#[test]
fn a_shadow_that_cannot_be_told_is_the_reason_for_those_that_it_matches() {
    let t = tcp(H1, 1, H2, 2);
    let c = Connection { mark: 5, ..Connection::established(5, t, t.inverse()) };
    let a = filter(0, 1, ip(), &[ct(5, false), goto(1)]);
    let strange = ip().exact(Field::IpTos, 4).exact(Field::CtMark, 5);
    let strange = Filter { undecoded: vec!["TCA_FLOWER 200".into()], ..filter(1, 1, strange, &[output()]) };
    let b = filter(1, 2, ip(), &[output()]);
    let case = Case::default().hit_with(&a, &[], &[(&c, Direction::Original)]).hit_with(&b, &[&strange], &[]);
    let key = packet(t).with(Field::IpTos, 4);
    assert!(matches!(case.fold(&key).unwrap_err(), Refusal::ShadowUndecoded { .. }));
    let like = others(&case, &key).unwrap();
    let fits = |c: &Connection, tos| like.fill(&[c]).is_some_and(|m| m.fits(&packet(t).with(Field::IpTos, tos)));
    assert!(fits(&c, 4));
    assert!(!fits(&c, 0), "the shadow does not match it");
    assert!(!fits(&Connection { mark: 6, ..c }, 4), "nor this connection's");
}

#[test]
fn a_record_that_does_not_fit_names_the_first_filter_that_it_does_not_fit() {
    let t = tcp(H1, 1, H2, 2);
    let a = filter(0, 1, ip(), &[goto(1)]);
    let b = filter(1, 1, ip().exact(Field::IpTtl, 9), &[goto(2)]);
    let c = filter(2, 1, ip().exact(Field::IpTos, 9), &[output()]);
    let refusal = Case::default().hit(&a).hit(&b).hit(&c).fold(&packet(t)).unwrap_err();
    assert_eq!(refusal, Refusal::Changed { filter: b.id, what: Otherwise::Field(Field::IpTtl) });
    let mut range = ip().exact(Field::IpProto, 6);
    range.dst_range = Some(crate::flower::Range { min: 5, max: 9 });
    let d = filter(0, 1, range, &[output()]);
    let refusal = Case::default().hit(&d).fold(&packet(t)).unwrap_err();
    assert_eq!(refusal, Refusal::Changed { filter: d.id, what: Otherwise::Field(Field::DstPort) });
    let conn = Connection { mark: 1, ..Connection::established(5, t, t.inverse()) };
    let e = filter(0, 1, ip(), &[ct(5, false), goto(1)]);
    let f = filter(1, 1, ip().exact(Field::CtMark, 2), &[output()]);
    let case = Case::default().hit_with(&e, &[], &[(&conn, Direction::Original)]).hit(&f);
    let refusal = case.fold(&packet(t)).unwrap_err();
    assert_eq!(refusal, Refusal::Changed { filter: f.id, what: Otherwise::Connection });
}
