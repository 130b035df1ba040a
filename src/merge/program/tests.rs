use super::*;

fn set(header: PeditHeader, offset: i32, mask: [u8; 4], value: [u8; 4]) -> PeditKey {
    PeditKey { header, offset, mask, value, add: false, dynamic: None }
}

#[test]
fn a_field_is_written_through_its_words() {
    let place = Field::EthSrc.row().places[0];
    let keys = words(Field::EthSrc, place, PeditHeader::Ethernet, 0x0102_0304_0506, Field::EthSrc.ones());
    assert_eq!(
        keys,
        [
            set(PeditHeader::Ethernet, 4, [0xff, 0xff, 0, 0], [0, 0, 1, 2]),
            set(PeditHeader::Ethernet, 8, [0; 4], [3, 4, 5, 6]),
        ]
    );
    let mut v = Value::arrived(Field::EthSrc);
    for key in &keys {
        v = write(v, key, Field::EthSrc, place);
    }
    assert_eq!(v.constant(), Some(0x0102_0304_0506));
}

#[test]
fn every_placed_field_survives_its_own_words() {
    for &field in Field::ALL {
        for &place in field.row().places {
            let Some(header) = pedit_header(place.header) else {
                continue;
            };
            let value = 0x0123_4567_89ab_cdef_0f1e_2d3c_4b5a_6978 & field.ones();
            let mut v = Value::arrived(field);
            for key in words(field, place, header, value, field.ones()) {
                v = write(v, &key, field, place);
            }
            assert_eq!(v.constant(), Some(value), "{field}");
        }
    }
}

#[test]
fn a_word_overlaps_a_field_if_writing_all_of_it_changes_the_field() {
    for &field in Field::ALL {
        for header in [PeditHeader::Ethernet, PeditHeader::Ipv4, PeditHeader::Ipv6, PeditHeader::Tcp] {
            for offset in (0..48).step_by(4) {
                let key = set(header, offset, [0; 4], [0; 4]);
                let there = field.row().places.iter().filter(|p| pedit_header(p.header) == Some(header));
                let changes = there.copied().any(|p| write(Value::arrived(field), &key, field, p).kept != field.ones());
                assert_eq!(overlaps(&key, field), changes, "{field} {header:?} {offset}");
            }
        }
    }
}

#[test]
fn writes_to_one_word_are_joined_and_dead_ones_dropped() {
    let ttl = PeditKey { add: true, ..set(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [255, 0, 0, 0]) };
    let mut builder = Builder::default();
    builder.rewrite(set(PeditHeader::Tcp, 0, [0, 0, 0xff, 0xff], [0, 80, 0, 0]), false);
    builder.rewrite(ttl, false);
    builder.checksum(CsumFlags::IPV4);
    builder.rewrite(set(PeditHeader::Tcp, 0, [0xff, 0xff, 0, 0], [0, 0, 0, 90]), false);
    builder.rewrite(set(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [7, 0, 0, 0]), false);
    builder.checksum(CsumFlags::IPV4 | CsumFlags::TCP);
    builder.send(Port(2), false);
    let program = builder.finish(Control::Shot);
    let keys = vec![
        set(PeditHeader::Tcp, 0, [0; 4], [0, 80, 0, 90]),
        set(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [7, 0, 0, 0]),
    ];
    let redirect = Mirred { port: Port(2), ingress: false, mirror: false };
    assert_eq!(
        program.instructions,
        [
            Instruction::Fixed(Box::new(ActionKind::Pedit(Pedit { keys, mend: false })), Control::Pipe),
            Instruction::Fixed(Box::new(ActionKind::Csum(CsumFlags::IPV4 | CsumFlags::TCP)), Control::Pipe),
            Instruction::Send(redirect, Control::Stolen),
        ]
        .into()
    );
}

#[test]
fn ethernet_is_rewritten_with_the_rest_before_the_checksums() {
    let port = set(PeditHeader::Tcp, 0, [0xff, 0xff, 0, 0], [0, 0, 0, 80]);
    let mac = set(PeditHeader::Ethernet, 0, [0; 4], [2, 0, 0, 0]);
    let mut builder = Builder::default();
    builder.rewrite(port, false);
    builder.checksum(CsumFlags::TCP);
    builder.rewrite(mac, false);
    builder.send(Port(2), false);
    let program = builder.finish(Control::Shot).instructions;
    let Instruction::Fixed(kind, _) = &program[0] else { panic!("{program:?}") };
    let ActionKind::Pedit(pedit) = &**kind else { panic!("{program:?}") };
    assert_eq!((&pedit.keys[..], program.len()), (&[mac, port][..], 3));
}

#[test]
fn what_is_never_sent_is_never_done() {
    let mut builder = Builder::default();
    builder.push(0x8100, 5, 0);
    builder.pop();
    builder.send(Port(2), false);
    builder.rewrite(set(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [7, 0, 0, 0]), false);
    builder.push(0x8100, 6, 0);
    assert_eq!(builder.finish(Control::Shot).instructions.len(), 1);
}
