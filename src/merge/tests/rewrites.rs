//! `pedit`: which bytes may be rewritten, of which packets, and what is known of them afterwards.

use super::*;

/// The packet of a header, and the bytes of it that a filter may rewrite, from and to.
type Allowed<'a> = (PeditHeader, Key, &'a [(i32, i32)]);

fn udp(t: Tuple) -> Key {
    packet(Tuple { proto: proto::UDP, ..t }).with(Field::TcpFlags, 0)
}
fn v6() -> Key {
    let tcp = packet(tcp(H1, 1, H2, 2)).with(Field::Ipv4Src, 0).with(Field::Ipv4Dst, 0);
    tcp.with(Field::Protocol, 0x86dd).with(Field::EthType, 0x86dd).with(Field::AddrType, 3)
}
fn all() -> Match {
    Match::default()
}

#[test]
fn traps_17_what_decides_how_a_packet_is_read_is_not_rewritten() {
    let tcp = packet(tcp(H1, 1, H2, 2));
    let cases: [Allowed; 6] = [
        (PeditHeader::Ethernet, tcp, &[(0, 14)]),
        (PeditHeader::Ipv4, tcp, &[(1, 2), (4, 6), (8, 9), (10, 20)]),
        (PeditHeader::Network, tcp, &[(1, 2), (4, 6), (8, 9), (10, 20)]),
        (PeditHeader::Ipv6, v6(), &[(1, 4), (7, 40)]),
        (PeditHeader::Tcp, tcp, &[(0, 20)]),
        (PeditHeader::Udp, udp(self::tcp(H1, 1, H2, 2)), &[(0, 8)]),
    ];
    for (header, key, allowed) in cases {
        for byte in -4..44i32 {
            let i = byte.rem_euclid(4) as usize;
            let (mut mask, mut value) = ([0xff; 4], [0; 4]);
            (mask[i], value[i]) = (0, 0x11);
            // By what it retains, and by what it flips outside of that.
            for mask in [mask, [0xff; 4]] {
                let a = filter(0, 1, all(), &[pedit(header, byte - i as i32, mask, value), output()]);
                let done = Case::default().hit(&a).merged(&key);
                let want = allowed.iter().any(|&(from, to)| (from..to).contains(&byte));
                assert_eq!(
                    done.is_ok(),
                    want,
                    "{header:?} byte {byte}: {:?}",
                    done.map(|_| ()).map_err(|r| r.to_string())
                );
            }
        }
    }
    // A word that nothing is written to does no harm, but must lie where words lie.
    let nothing = |offset| filter(0, 1, all(), &[pedit(PeditHeader::Ipv4, offset, [0xff; 4], [0; 4]), output()]);
    assert!(Case::default().hit(&nothing(0)).merged(&tcp).is_ok());
    assert!(Case::default().hit(&nothing(2)).merged(&tcp).is_err());
}

#[test]
fn the_version_stays_and_the_traffic_class_may_change() {
    let tos = |mask, value| filter(0, 1, all(), &[pedit(PeditHeader::Ipv6, 0, mask, value), output()]);
    let merged = |f: &Filter| Case::default().hit(f).merged(&v6()).is_ok();
    assert!(merged(&tos([0xf0, 0x0f, 0xff, 0xff], [0x01, 0x20, 0, 0])));
    for (mask, value) in [([0x70, 0xff, 0xff, 0xff], [0; 4]), ([0xff; 4], [0x10, 0, 0, 0])] {
        assert!(!merged(&tos(mask, value)), "{mask:?} {value:?}");
    }
}

#[test]
fn a_header_that_the_packet_does_not_have_is_not_rewritten() {
    let t = tcp(H1, 1, H2, 2);
    let arp = packet(t).with(Field::Protocol, 0x806).with(Field::EthType, 0x806);
    let icmp = packet(t).with(Field::IpProto, 1);
    let port = [0, 0, 0xff, 0xff];
    let cases = [
        (PeditHeader::Ipv4, arp, false),
        (PeditHeader::Tcp, arp, false),
        (PeditHeader::Tcp, udp(t), false),
        (PeditHeader::Udp, packet(t), false),
        (PeditHeader::Udp, icmp, false),
        (PeditHeader::Tcp, packet(t), true),
        (PeditHeader::Udp, udp(t), true),
        (PeditHeader::Tcp, v6(), true),
    ];
    for (header, key, merges) in cases {
        let offset = if header == PeditHeader::Ipv4 { 12 } else { 0 };
        let a = filter(0, 1, all(), &[pedit(header, offset, port, [0, 9, 0, 0]), output()]);
        let done = Case::default().hit(&a).merged(&key);
        assert_eq!(done.is_ok(), merges, "{header:?} {key:?}");
        if let Ok((matches, _)) = done {
            assert_eq!(matches.mask.get(Field::IpFlags), 1, "fragments have no such header, or do not show it");
            assert_eq!(matches.mask.get(Field::IpProto), 0xff);
        }
    }
}

/// Where the header ends early flower reads 0, whatever was written there.
#[test]
fn an_ip_header_that_is_cut_off_is_not_taken_for_written() {
    let tos = pedit(PeditHeader::Ipv4, 0, [0xff, 0, 0xff, 0xff], [0, 0xb8, 0, 0]);
    let a = filter(0, 1, ip(), &[tos, goto(1)]);
    let b = filter(1, 1, ip().exact(Field::IpTos, 0xb8), &[output()]);
    let whole = packet(tcp(H1, 1, H2, 2));
    let (matches, _) = Case::default().hit(&a).hit(&b).merged(&whole).unwrap();
    assert!(!matches.fits(&Key::ZERO.with(Field::Protocol, 0x800).with(Field::EthType, 0x800)));
    // Flower tells the kind of addresses by one.
    let masks = Masks::flower();
    let (matches, _) = Case { masks, ..Case::default() }.hit(&a).hit(&b).merged(&whole).unwrap();
    assert_eq!((matches.mask.get(Field::Ipv4Src), masks.missing(&matches)), (1, None));
}

/// The kernel leaves the rest of a `pedit` undone from the first word on that the packet does not reach, whatever it would write.
#[test]
fn a_word_that_the_packet_may_not_reach_is_not_taken_for_nothing() {
    let t = tcp(H1, 1, H2, 2);
    let nothing =
        |header, offset| PeditKey { header, offset, mask: [0xff; 4], value: [0; 4], add: false, dynamic: None };
    let set = PeditKey { mask: [0; 4], value: H2, ..nothing(PeditHeader::Ipv4, 12) };
    for (header, offset, merges) in [
        (PeditHeader::Ipv4, 16, true),
        (PeditHeader::Ethernet, 12, true),
        (PeditHeader::Ipv4, 20, false),
        (PeditHeader::Ipv4, 400, false),
        (PeditHeader::Ipv4, -4, false),
        (PeditHeader::Ethernet, 16, false),
        (PeditHeader::Tcp, i32::MAX - 3, false),
        (PeditHeader::Tcp, i32::MIN, false),
    ] {
        let keys = vec![nothing(header, offset), set];
        let a = filter(
            0,
            1,
            all(),
            &[Action::new(ActionKind::Pedit(Pedit { keys, mend: false }), Control::Pipe), output()],
        );
        assert_eq!(Case::default().hit(&a).merged(&packet(t)).is_ok(), merges, "{header:?} {offset}");
    }
    let far = pedit(PeditHeader::Ipv4, i32::MAX, [0; 4], H2);
    assert!(Case::default().hit(&filter(0, 1, all(), &[far, output()])).merged(&packet(t)).is_err());
}

#[test]
fn the_network_header_is_called_by_its_name() {
    for (key, header) in [(packet(tcp(H1, 1, H2, 2)), PeditHeader::Ipv4), (v6(), PeditHeader::Ipv6)] {
        let a = filter(0, 1, all(), &[pedit(PeditHeader::Network, 16, [0; 4], H2), output()]);
        let (_, actions) = Case::default().hit(&a).merged(&key).unwrap();
        assert_eq!(actions[0], pedit(header, 16, [0; 4], H2));
    }
}

#[test]
fn an_offset_from_the_packet_is_refused() {
    let key = PeditKey {
        header: PeditHeader::Ipv4,
        offset: 12,
        mask: [0; 4],
        value: H2,
        add: false,
        dynamic: Some(crate::flower::action::PeditDynamic { at: 0, mask: 0xf, shift: 2 }),
    };
    let a =
        filter(0, 1, all(), &[Action::new(ActionKind::Pedit(Pedit { keys: vec![key], mend: false }), Control::Pipe)]);
    let refusal = Case::default().hit(&a).merged(&packet(tcp(H1, 1, H2, 2))).unwrap_err();
    assert!(matches!(refusal, Refusal::Action { .. }), "{refusal}");
}

#[test]
fn traps_1_every_field_is_known_by_what_was_written() {
    let t = tcp(H1, 1, H2, 2);
    let whole = [0; 4];
    let cases: [(PeditHeader, i32, [u8; 4], Field, u128, Key); 8] = [
        (PeditHeader::Ipv4, 12, [10, 0, 0, 9], Field::Ipv4Src, 0x0a000009, packet(t)),
        (PeditHeader::Ipv4, 16, [10, 0, 0, 9], Field::Ipv4Dst, 0x0a000009, packet(t)),
        (PeditHeader::Tcp, 0, [0, 7, 0, 8], Field::SrcPort, 7, packet(t)),
        (PeditHeader::Tcp, 0, [0, 7, 0, 8], Field::DstPort, 8, packet(t)),
        (PeditHeader::Udp, 0, [0, 7, 0, 8], Field::DstPort, 8, udp(t)),
        (PeditHeader::Tcp, 12, [0x50, 0x18, 0, 0], Field::TcpFlags, 0x18, packet(t)),
        (PeditHeader::Ethernet, 8, [2, 3, 4, 5], Field::EthSrc, 0x0000_0203_0405, packet(t)),
        (PeditHeader::Ipv6, 36, [0, 0, 0, 9], Field::Ipv6Dst, 9, v6()),
    ];
    for (header, offset, value, field, now, key) in cases {
        let a = filter(0, 1, all(), &[pedit(header, offset, whole, value), goto(1)]);
        for (asked, merges) in [(now, true), (now ^ 1, false)] {
            let b = filter(1, 1, all().exact(field, asked), &[output()]);
            let done = Case::default().hit(&a).hit(&b).fold(&key.with(field, key.get(field) & !0xffff_ffff | now));
            assert_eq!(done.is_ok(), merges, "{field} {done:?}");
        }
    }
}

#[test]
fn traps_2_a_sum_may_be_flipped_afterwards() {
    let down = add(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [255, 0, 0, 0]);
    let flip = pedit(PeditHeader::Ipv4, 8, [0xff; 4], [3, 0, 0, 0]);
    let a = filter(0, 1, ip(), &[down, flip, goto(1)]);
    // (66 - 1) ^ 3
    let b = filter(1, 1, ip().exact(Field::IpTtl, 66), &[output()]);
    let key = packet(tcp(H1, 1, H2, 2)).with(Field::IpTtl, 66);
    let (matches, _) = Case::default().hit(&a).hit(&b).merged(&key).unwrap();
    assert_eq!(matches, ip().exact(Field::IpTtl, 66));
}

#[test]
fn traps_2_an_addition_is_told_where_no_carry_comes_in() {
    let key = packet(tcp(H1, 0x0102, H2, 2));
    let folds = |action: &Action, field: Field, value| {
        let a = filter(0, 1, all(), &[action.clone(), goto(1)]);
        let b = filter(1, 1, all().exact(field, value), &[output()]);
        Case::default().hit(&a).hit(&b).fold(&key).map(|(path, _)| path.template.known.unpack())
    };
    // TOS is the second byte of its word, and nothing is added to the first, from which a little-endian machine carries.
    let tos = add(PeditHeader::Ipv4, 0, [0xff, 0, 0xff, 0xff], [0, 3, 0, 0]);
    assert_eq!(folds(&tos, Field::IpTos, 3).unwrap().key.get(Field::IpTos), 0);
    // Parts of the byte are retained.
    let part = add(PeditHeader::Ipv4, 8, [0xf0, 0xff, 0xff, 0xff], [1, 0, 0, 0]);
    assert!(matches!(folds(&part, Field::IpTtl, 65), Err(Refusal::Hidden { field: Field::IpTtl, .. })));
    // One byte of a port.
    let port = add(PeditHeader::Tcp, 0, [0, 0xff, 0xff, 0xff], [1, 0, 0, 0]);
    assert!(matches!(folds(&port, Field::SrcPort, 0x0202), Err(Refusal::Hidden { field: Field::SrcPort, .. })));
    assert!(folds(&port, Field::DstPort, 2).is_ok(), "the other port is not touched");
    let other = add(PeditHeader::Tcp, 0, [0xff, 0xff, 0, 0xff], [0, 0, 1, 0]);
    assert!(folds(&other, Field::SrcPort, 0x0102).is_ok(), "nor the one in front");
    let all_kept = add(PeditHeader::Tcp, 0, [0xff; 4], [1, 0, 0, 0]);
    assert!(folds(&all_kept, Field::DstPort, 2).is_ok());
}
