//! Filters in front of a hit, and what headers imply: how many bits they cost.

use super::*;

#[test]
fn a_packet_that_stays_in_software_chooses_no_cut() {
    let t = tcp(H1, 1, H2, 2);
    let c = Connection::established(5, t, t.inverse());
    let front = filter(0, 1, ip().exact(Field::IpProto, 6).with(Field::TcpFlags, 0x10, 0x10), &[drop()]);
    let hit = filter(0, 2, ip(), &[ct(5, false), output()]);
    let syn = packet(t).with(Field::TcpFlags, tcp_flags::SYN);
    let refusal = Case::default().hit_with(&hit, &[&front], &[(&c, Direction::Original)]).merged(&syn).unwrap_err();
    assert_eq!(refusal, Refusal::Excluded { filter: hit.id, field: Field::TcpFlags });
}

#[test]
fn a_field_without_a_mask_is_cut_as_a_whole() {
    let udp = filter(0, 1, ip().exact(Field::IpProto, 17), &[drop()]);
    let hit = filter(0, 2, ip(), &[output()]);
    let merged = |front, masks| {
        let case = Case { masks, ..Case::default() };
        case.hit_with(&hit, &[front], &[]).merged(&packet(tcp(H1, 1, H2, 2))).unwrap().0
    };
    let whole = Masks { whole: Key::ZERO.with(Field::IpProto, 0xff), layered: false };
    assert_eq!(merged(&udp, Masks::ANY).mask.get(Field::IpProto).count_ones(), 1);
    assert_eq!(merged(&udp, whole), hit.matches.exact(Field::IpProto, 6));
    // A bit of another field is cheaper.
    let elsewhere = filter(0, 1, udp.matches.with(Field::IpTtl, 1, 1), &[drop()]);
    assert_eq!(merged(&elsewhere, whole), hit.matches.with(Field::IpTtl, 0, 1));
}

#[test]
fn what_only_the_unseen_tells_apart_is_refused() {
    // The IP header is cut off; flower compares addresses by their kind, and has no word for none.
    let cut_off = Key::ZERO.with(Field::Protocol, 0x800).with(Field::EthType, 0x800);
    let front = filter(0, 1, ip().exact(Field::AddrType, 2).with(Field::Ipv4Dst, 0, 1), &[drop()]);
    let hit = filter(0, 2, ip(), &[output()]);
    let merged = |masks| {
        let case = Case { masks, ..Case::default() };
        case.hit_with(&hit, &[&front], &[]).merged(&cut_off).map(|(matches, _)| matches.mask.get(Field::AddrType) != 0)
    };
    assert_eq!(merged(Masks::ANY), Ok(true));
    let why = "the table does not see it in packets like this";
    let refusal = Refusal::ShadowHidden { filter: hit.id, shadow: front.id, field: Field::AddrType, why };
    assert_eq!(merged(Masks::flower()), Err(refusal));
}

#[test]
fn part_of_a_field_without_a_mask_is_asked_for_with_the_rest() {
    let hit = filter(0, 1, ip().with(Field::IpProto, 4, 4), &[output()]);
    let merged = |masks| {
        let case = Case { masks, ..Case::default() };
        case.hit(&hit).merged(&packet(tcp(H1, 1, H2, 2))).unwrap().0
    };
    assert_eq!(merged(Masks::ANY), hit.matches);
    assert_eq!(merged(Masks::flower()), ip().exact(Field::IpProto, 6));
}

#[test]
fn a_cut_that_settles_a_range_leaves_no_bit_that_it_tells() {
    let range = |min, max| {
        let mut m = ip().exact(Field::IpProto, 6);
        m.src_range = Some(crate::flower::Range { min, max });
        m
    };
    let hit = filter(0, 2, range(85, 87).with(Field::SrcPort, 1, 1), &[output()]);
    let front = filter(0, 1, ip().exact(Field::IpProto, 6).with(Field::SrcPort, 2, 2), &[drop()]);
    let (matches, _) = Case::default().hit_with(&hit, &[&front], &[]).merged(&packet(tcp(H1, 85, H2, 80))).unwrap();
    // Of 85 and 87 only 85 has not the bit 2.
    assert_eq!((matches.mask.get(Field::SrcPort), matches.src_range), (2, range(85, 87).src_range));
    let again = filter(0, 1, matches, &[output()]);
    assert_eq!(Case::default().hit(&again).merged(&packet(tcp(H1, 85, H2, 80))).unwrap().0, matches);
}

#[test]
fn a_range_that_a_part_of_the_tuple_tells_is_not_asked_for() {
    let mut range = ip().exact(Field::IpProto, 6);
    range.src_range = Some(crate::flower::Range { min: 82, max: 87 });
    // Bit 0 is written before `ct`, so that only the others are of the tuple.
    let odd = pedit(PeditHeader::Tcp, 0, [0xff, 0xfe, 0xff, 0xff], [0, 1, 0, 0]);
    let csum = Action::new(ActionKind::Csum(CsumFlags::TCP), Control::Pipe);
    let hit = filter(0, 1, range, &[odd, csum, ct(5, false), output()]);
    let t = tcp(H1, 83, H2, 80);
    let c = Connection::established(5, t, t.inverse());
    let met = [(&c, Direction::Original)];
    let (matches, _) = Case::default().hit_with(&hit, &[], &met).merged(&packet(tcp(H1, 82, H2, 80))).unwrap();
    assert_eq!((matches.key.get(Field::SrcPort), matches.mask.get(Field::SrcPort)), (82, 0xfffe));
    assert_eq!(matches.src_range, None);
}

#[test]
fn a_shadow_that_no_packet_can_match_costs_no_bit() {
    let mut fragment = ip().exact(Field::IpProto, 6).with(Field::IpFlags, 1, 1);
    fragment.dst_range = Some(crate::flower::Range { min: 86, max: 87 });
    let front = filter(0, 1, fragment, &[drop()]);
    let hit = filter(0, 2, ip(), &[output()]);
    let (matches, _) = Case::default().hit_with(&hit, &[&front], &[]).merged(&packet(tcp(H1, 1, H2, 2))).unwrap();
    assert_eq!(matches, hit.matches);
}

#[test]
fn traps_22_shadows_are_cut_off_with_no_bit_to_spare() {
    let wide = filter(0, 9, ip(), &[output()]);
    let net = filter(0, 1, ip().with(Field::Ipv4Dst, 0x0a000000, 0xffffff00), &[drop()]);
    let ttl = filter(0, 2, ip().exact(Field::IpTtl, 1), &[drop()]);
    let arp = filter(0, 3, Match::default().exact(Field::Protocol, 0x806), &[drop()]);
    let key = packet(tcp(H1, 1, [10, 0, 9, 9], 2));
    let case = Case::default().hit_with(&wide, &[&net, &ttl, &arp], &[]);
    let (matches, _) = case.merged(&key).unwrap();
    let bits = |f| matches.mask.get(f).count_ones();
    assert_eq!((bits(Field::Ipv4Dst), bits(Field::IpTtl)), (1, 1), "{matches:?}");
    for shadow in [&net, &ttl, &arp] {
        assert!(!crate::table::overlap(&matches, &shadow.matches));
    }
    // The packet that the shadow should have had: the record does not fit.
    let refusal = case.merged(&packet(tcp(H1, 1, H2, 2))).unwrap_err();
    assert_eq!(refusal, Refusal::Stale { filter: wide.id, shadow: net.id });
}

#[test]
fn traps_22_a_shadow_that_the_tuple_excludes_costs_no_bit() {
    let t = tcp(H1, 1000, H2, 80);
    let c = Connection::established(5, t, t.inverse());
    let shadow = filter(0, 1, ip().exact(Field::IpProto, 6).exact(Field::DstPort, 22), &[drop()]);
    let hit = filter(0, 2, ip(), &[ct(5, false), output()]);
    let case = Case::default().hit_with(&hit, &[&shadow], &[(&c, Direction::Original)]);
    let (path, _) = case.fold(&packet(t)).unwrap();
    assert_eq!(path.template.known.get(Field::DstPort).0, 0);
    let t22 = tcp(H1, 1000, H2, 22);
    assert!(path.matches(&[&Connection::established(5, t22, t22.inverse())]).is_none());
}

/// The bits of the destination that a packet of 10.0.0.0/8 needs, for which these, as value and mask, are in front.
fn cut_of(front: &[u128]) -> u128 {
    let dst = |bits| ip().with(Field::Ipv4Dst, bits, bits);
    let front: Vec<Filter> = front.iter().enumerate().map(|(i, &b)| filter(0, i as u16, dst(b), &[drop()])).collect();
    let hit = filter(0, 99, ip().with(Field::Ipv4Dst, 0x0a000000, 0xff000000), &[output()]);
    let case = Case::default().hit_with(&hit, &front.iter().collect::<Vec<_>>(), &[]);
    let (matches, _) = case.merged(&packet(tcp(H1, 1, [10, 0, 0, 0], 2))).unwrap();
    assert_eq!(matches.mask.get(Field::Ipv4Dst) & 0xff000000, 0xff000000, "what the filter asks for stays");
    matches.mask.get(Field::Ipv4Dst) & 0x00ffffff
}

#[test]
fn a_bit_that_keeps_out_several_shadows_is_taken_for_all_of_them() {
    assert_eq!(cut_of(&[0b101, 0b110]), 0b100);
    assert_eq!(cut_of(&[0b101, 0b011]), 0b001);
}

#[test]
fn a_bit_that_others_make_spare_is_given_back() {
    // Bit 0 keeps out most, and is taken first; those that need bits 1 and 2 make it spare.
    assert_eq!(cut_of(&[0b011, 0b1011, 0b101, 0b1101, 0b010, 0b100]), 0b110);
}

#[test]
fn a_bit_of_another_field_is_given_back_too() {
    // The same, where the bit that keeps out most is the source's.
    let both = |src: bool, dst: u128| {
        let m = ip().with(Field::Ipv4Dst, dst, dst);
        if src { m.with(Field::Ipv4Src, 2, 2) } else { m }
    };
    let front = [both(true, 1), both(true, 1 | 8), both(true, 4), both(true, 4 | 8), both(false, 1), both(false, 4)];
    let front: Vec<Filter> = (0..).zip(front).map(|(i, m)| filter(0, i, m, &[drop()])).collect();
    let hit = filter(0, 99, ip(), &[output()]);
    let case = Case::default().hit_with(&hit, &front.iter().collect::<Vec<_>>(), &[]);
    let (matches, _) = case.merged(&packet(tcp(H1, 1, [10, 0, 0, 0], 2))).unwrap();
    assert_eq!(matches, ip().with(Field::Ipv4Dst, 0, 5));
}

#[test]
fn what_is_known_of_a_shadow_does_not_hide_it() {
    // Both the address and the port have been written: the packet is the filter's in front, whatever it was.
    let dst = pedit(PeditHeader::Ipv4, 16, [0; 4], H2);
    let port = pedit(PeditHeader::Tcp, 0, [0xff, 0xff, 0, 0], [0, 0, 0, 80]);
    let tcp_only = ip().exact(Field::IpProto, 6);
    let a = filter(0, 1, tcp_only, &[dst, port, goto(1)]);
    let hit = filter(1, 5, tcp_only, &[output()]);
    let mut range = tcp_only;
    range.dst_range = Some(crate::flower::Range { min: 70, max: 90 });
    for front in [tcp_only.exact(Field::Ipv4Dst, 0x0a000002), range] {
        let front = filter(1, 1, front, &[drop()]);
        let refusal = Case::default().hit(&a).hit_with(&hit, &[&front], &[]).fold(&packet(tcp(H1, 1, VIP, 2)));
        assert_eq!(refusal.unwrap_err(), Refusal::Stale { filter: hit.id, shadow: front.id });
    }
}

#[test]
fn a_tag_that_was_pushed_does_not_hide_a_shadow() {
    let push = vlan(Vlan::Push { protocol: 0x8100, id: 9, prio: 0 });
    let a = filter(0, 1, ip(), &[push, goto(1)]);
    let hit = filter(1, 5, Match::default(), &[output()]);
    let front = filter(1, 1, Match::default().exact(Field::VlanId, 9), &[drop()]);
    let refusal = Case::default().hit(&a).hit_with(&hit, &[&front], &[]).fold(&packet(tcp(H1, 1, H2, 2)));
    assert_eq!(refusal.unwrap_err(), Refusal::Stale { filter: hit.id, shadow: front.id });
}

#[test]
fn a_sum_that_is_told_keeps_a_shadow_out() {
    use crate::merge::{need::Needs, shadow::Shadow};
    let id = filter(0, 1, ip(), &[]).id;
    let needs = vec![Needs::Sum { field: Field::IpTtl, add: 255, mask: 0xff, value: 7 }];
    let shadow = Shadow { hit: id, filter: id, order: Order::Before, undecoded: None, hidden: None, needs };
    for (ttl, out) in [(7, true), (8, false)] {
        let asked = Match::default().exact(Field::IpTtl, ttl);
        assert_eq!((shadow.is_out(&asked), shadow.is_impossible(&asked)), (out, out));
    }
}

#[test]
fn traps_11_ports_do_not_keep_fragments_out_and_tags_do() {
    let fragments = filter(0, 1, ip().with(Field::IpFlags, 1, 1), &[drop()]);
    let tagged = filter(0, 1, Match::default().with(Field::IpFlags, 1, 1).exact(Field::VlanId, 5), &[drop()]);
    let range = crate::flower::Range { min: 1, max: 9 };
    let ports = Match { dst_range: Some(range), ..ip().exact(Field::IpProto, 6) };
    for ports in [ports, Match { src_range: Some(range), dst_range: None, ..ports }] {
        let hit = filter(0, 2, ports, &[output()]);
        let asked = |front: &Filter| Case::default().hit_with(&hit, &[front], &[]).merged(&packet(tcp(H1, 2, H2, 2)));
        assert_eq!(asked(&fragments).unwrap().0, ports.with(Field::IpFlags, 0, 1));
        assert_eq!(asked(&tagged).unwrap().0, ports, "there is no tag");
    }
}

#[test]
fn a_shadow_of_other_headers_costs_no_bit() {
    let hit = filter(0, 2, ip().exact(Field::IpProto, 17), &[output()]);
    let syn = filter(0, 1, ip().with(Field::TcpFlags, 2, 2), &[drop()]);
    let udp = packet(Tuple { proto: proto::UDP, ..tcp(H1, 1, H2, 2) });
    let (matches, _) = Case::default().hit_with(&hit, &[&syn], &[]).merged(&udp).unwrap();
    assert_eq!(matches, hit.matches);
}

#[test]
fn a_range_of_a_port_that_the_tuple_tells_is_asked_of_the_tuple() {
    use crate::{
        flower::Range,
        merge::{
            asked::Asked,
            need::Needs,
            shadow::Shadow,
            symbol::{Param, Part},
            template::Is,
        },
    };
    let id = filter(0, 1, ip(), &[]).id;
    let range = Range { min: 1, max: 9 };
    let needs = vec![Needs::Range { field: Field::DstPort, kept: 0x0fff, flip: 1, range }];
    let shadow = Shadow { hit: id, filter: id, order: Order::Before, undecoded: None, hidden: None, needs };
    let param = Param { connection: 0, direction: Direction::Original, part: Part::DstPort };
    let mut template = Asked::default();
    template.require_param(Field::DstPort, 0xffff, param, 0x3003);
    let is = Is::Within { param, kept: 0x0fff, flip: 2, range };
    assert_eq!(shadow.of_parameters(&template), [is]);
    // The same where some of its bits were asked for before, and so of the tuple.
    let mut template = Asked::default();
    assert!(template.require(Field::DstPort, 0x0101, 0x0001));
    assert_eq!(shadow.of_parameters(&template), []);
    template.require_param(Field::DstPort, 0xffff, param, 0x3003);
    assert_eq!(shadow.of_parameters(&template), [is]);
}

/// A port of which a filter asked a bit, before the connection told all of it.
#[test]
fn a_range_that_the_tuple_contradicts_costs_no_bit_where_one_of_the_port_is_asked() {
    let t = tcp(H1, 83, H2, 81);
    let c = Connection::established(5, t, t.inverse());
    let mut range = ip().exact(Field::IpProto, 6).with(Field::IpTtl, 0, 1);
    range.src_range = Some(crate::flower::Range { min: 86, max: u16::MAX });
    let front = filter(0, 1, range, &[drop()]);
    let hit = filter(0, 2, ip().exact(Field::IpProto, 6).with(Field::SrcPort, 1, 1), &[ct(5, false), output()]);
    let case = Case::default().hit_with(&hit, &[&front], &[(&c, Direction::Original)]);
    let (matches, _) = case.merged(&packet(t).with(Field::IpTtl, 65)).unwrap();
    assert_eq!((matches.mask.get(Field::IpTtl), matches.mask.get(Field::SrcPort)), (0, 0xffff));
}

#[test]
fn a_later_filter_reaches_a_path_through_its_writes() {
    let t = tcp(H1, 1, VIP, 2);
    let c = Connection { mark: 3, ..Connection::established(5, t, t.inverse()) };
    let write = pedit(PeditHeader::Ipv4, 16, [0; 4], H2);
    let csum = Action::new(ActionKind::Csum(CsumFlags::IPV4 | CsumFlags::TCP), Control::Pipe);
    let a = filter(0, 1, ip(), &[ct(5, false), write, csum, goto(1)]);
    let b = filter(1, 5, ip(), &[output()]);
    let case = Case::default().hit_with(&a, &[], &[(&c, Direction::Original)]).hit(&b);
    let (path, connections) = case.fold(&packet(t)).unwrap();
    // Whether it may take packets of the path at this hit, and of this connection.
    let reaches = |hit, m: Match| {
        let later = filter(hit as u32, 0, m, &[drop()]);
        may_reach(&path, hit, &later).map(|is| is.iter().all(|is| is.holds(&connections)))
    };
    let dst = |a: [u8; 4]| ip().exact(Field::Ipv4Dst, u32::from_be_bytes(a).into());
    assert_eq!(reaches(0, dst(VIP)), Some(true));
    assert_eq!(reaches(0, dst(H2)), Some(false), "the tuple says otherwise");
    assert_eq!(reaches(1, dst(H2)), Some(true));
    assert_eq!(reaches(1, dst(VIP)), None, "it has been written by then");
    assert_eq!(reaches(1, ip().exact(Field::CtMark, 3)), Some(true));
    assert_eq!(reaches(1, ip().exact(Field::CtMark, 4)), Some(false));
    assert_eq!(reaches(0, ip().exact(Field::CtMark, 3)), None, "there is none before ct");
    assert_eq!(reaches(0, ip().exact(Field::Indev, 1)), Some(true));
    assert_eq!(reaches(0, ip().exact(Field::Indev, 2)), None);
    assert_eq!(reaches(0, ip().exact(Field::IpTtl, 9)), Some(true));
    assert_eq!(reaches(2, ip()), None, "no such hit");
}

#[test]
fn a_connection_that_keeps_a_shadow_out_by_itself_needs_no_cut() {
    let connection = |port| {
        let t = tcp(H1, 1000, H2, port);
        Connection::established(5, t, t.inverse())
    };
    let (near, far) = (connection(80), connection(81));
    let shadow = ip().exact(Field::IpProto, 6).exact(Field::DstPort, 80).exact(Field::IpTos, 4);
    let shadow = filter(0, 1, shadow, &[drop()]);
    let hit = filter(0, 2, ip(), &[ct(5, false), output()]);
    let case = Case::default().hit_with(&hit, &[&shadow], &[(&near, Direction::Original)]);
    let (path, _) = case.fold(&packet(near.original)).unwrap();
    assert_eq!(path.template.known.get(Field::IpTos).0.count_ones(), 1);
    assert!(path.matches(&[&near]).is_some());
    assert!(path.matches(&[&far]).is_none(), "it has a path of its own, without the cut");
}

#[test]
fn traps_11_a_fragment_that_meets_a_rewrite_of_ports_is_excluded() {
    let port = pedit(PeditHeader::Tcp, 0, [0, 0, 0xff, 0xff], [0, 80, 0, 0]);
    let tcp_only = ip().exact(Field::IpProto, 6);
    let a = filter(0, 1, tcp_only, &[port, Action::gact(Control::Continue)]);
    let b = filter(0, 2, tcp_only.with(Field::IpFlags, 1, 1), &[output()]);
    let fragment = packet(tcp(H1, 0, H2, 0)).with(Field::IpFlags, 1);
    let refusal = Case::default().hit(&a).hit(&b).merged(&fragment).unwrap_err();
    assert_eq!(refusal, Refusal::Excluded { filter: a.id, field: Field::IpFlags });
}

#[test]
fn traps_11_conntrack_sees_behind_an_authentication_header_and_flower_does_not() {
    let t = tcp(H1, 1, H2, 2);
    let c = Connection::established(5, t, t.inverse());
    let a = filter(0, 1, ip(), &[ct(5, false), output()]);
    let behind = packet(t).with(Field::IpProto, 51).with(Field::TcpFlags, 0);
    let refusal = Case::default().hit_with(&a, &[], &[(&c, Direction::Original)]).merged(&behind).unwrap_err();
    assert!(matches!(&refusal, Refusal::Unfit { action, .. } if action == "ct"), "{refusal}");
}

#[test]
fn traps_11_what_is_asked_of_fragments_asks_nothing_of_ports() {
    let port = filter(0, 1, ip().exact(Field::IpProto, 6).exact(Field::DstPort, 80), &[drop()]);
    let fragments = filter(0, 2, ip().with(Field::IpFlags, 1, 1), &[output()]);
    let fragment = packet(tcp(H1, 0, H2, 0)).with(Field::IpFlags, 1).with(Field::TcpFlags, 0);
    let (matches, _) = Case::default().hit_with(&fragments, &[&port], &[]).merged(&fragment).unwrap();
    assert_eq!(matches, fragments.matches);
    // Hardware may see the port of a first fragment, and must still leave it to the filter in front.
    let fragments = filter(0, 1, ip().with(Field::IpFlags, 1, 1), &[drop()]);
    let port = filter(0, 2, ip().exact(Field::IpProto, 6).exact(Field::DstPort, 80), &[output()]);
    let (matches, _) = Case::default().hit_with(&port, &[&fragments], &[]).merged(&packet(tcp(H1, 1, H2, 80))).unwrap();
    assert_eq!(matches, port.matches.with(Field::IpFlags, 0, 1));
}

#[test]
fn a_range_in_front_is_cut_off_by_no_bit_to_spare() {
    let mut range = ip().exact(Field::IpProto, 6);
    range.dst_range = Some(crate::flower::Range { min: 1, max: 10 });
    let shadow = filter(0, 1, range, &[drop()]);
    let hit = filter(0, 2, ip().exact(Field::IpProto, 6), &[output()]);
    let case = Case::default().hit_with(&hit, &[&shadow], &[]);
    let (matches, _) = case.merged(&packet(tcp(H1, 1, H2, 12))).unwrap();
    // What has the bits 8 and 4 is 12 or more, whatever its other bits are.
    assert_eq!((matches.key.get(Field::DstPort), matches.mask.get(Field::DstPort)), (12, 0x000c));
}
