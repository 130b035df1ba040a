//! Over the recorded runs in `fixtures/`: everything in them decodes whole, and damage is told, never a panic.

use super::*;
use crate::{
    conntrack::TcpState,
    flower::{Field, Kind},
    netlink::{ConnectionEvent, decode, encode_filter},
};

const FIXTURES: [(&str, &[u8]); 4] = [
    ("ovs-firewall", include_bytes!("../../fixtures/ovs-firewall.pcapng")),
    ("ovs-nat", include_bytes!("../../fixtures/ovs-nat.pcapng")),
    ("tc-dnat", include_bytes!("../../fixtures/tc-dnat.pcapng")),
    ("tc-rewrite", include_bytes!("../../fixtures/tc-rewrite.pcapng")),
];

fn messages(trace: &Trace) -> impl Iterator<Item = &Envelope> {
    trace.records.iter().filter_map(|record| match &record.body {
        Body::Message(envelope) => Some(envelope),
        Body::Frame { .. } => None,
    })
}

#[test]
fn every_filter_decodes_whole_and_survives_being_sent() {
    for (name, bytes) in FIXTURES {
        let trace = from_bytes(name, bytes).unwrap();
        let mut names = LinkNames::default();
        let mut filters = 0;
        for envelope in messages(&trace) {
            names.learn(&envelope.message);
            let Message::Filter(told) = &envelope.message else {
                assert!(!matches!(envelope.message, Message::Other { .. }), "{envelope:?}");
                continue;
            };
            filters += 1;
            let filter = &told.filter;
            assert_eq!((&filter.kind, &filter.undecoded), (&Kind::Flower, &vec![]), "{name} {}", filter.id);
            assert_eq!(told.counters.len(), filter.actions.len());
            assert_eq!(filter.matches.key, filter.matches.key.and(&filter.matches.mask));
            let request = encode_filter(filter, &names).unwrap_or_else(|e| panic!("{name} {}: {e}", filter.id));
            let Message::Filter(again) = decode(netlink::ROUTE, &request, &names).unwrap().message else {
                panic!("{name} {}: not a filter", filter.id);
            };
            assert_eq!(again.filter, *filter, "{name}");
        }
        assert!(filters > 15, "{name}: {filters}");
    }
}

/// Numbers read with tshark and with the recorder's own scripts.
#[test]
fn frames_messages_and_times_are_where_wireshark_sees_them() {
    let (name, bytes) = FIXTURES[3];
    let trace = from_bytes(name, bytes).unwrap();
    let interfaces: Vec<_> = trace.interfaces.iter().map(|i| (i.name.as_str(), i.link_type)).collect();
    assert_eq!(interfaces, [("p1", 1), ("p2", 1), ("p3", 1), ("netlink", 253)]);
    assert!(trace.records.is_sorted_by_key(|record| record.time));
    assert!(trace.records.iter().all(|record| !record.truncated));
    assert_eq!(trace.records.len() as u64, trace.records.iter().map(|r| r.number).max().unwrap());
    let record = |number| trace.records.iter().find(|r| r.number == number).unwrap();
    let Body::Message(envelope) = &record(38).body else { panic!() };
    assert_eq!((envelope.flags, envelope.is_dump(), envelope.is_request()), (0x605, false, false));
    let Message::Filter(told) = &envelope.message else { panic!("{envelope:?}") };
    assert_eq!(told.filter.id.to_string(), "if10 chain 0 pref 1 handle 0x1");
    assert_eq!(told.filter.id.protocol, 0x8100);
    // The kernel tells 0800 as ethertype, 10 as identifier; the tag's own type is the protocol.
    let terms: Vec<_> = told.filter.matches.terms().collect();
    assert_eq!(
        terms,
        [
            (Field::Protocol, 0x8100, 0xffff),
            (Field::EthType, 0x0800, 0xffff),
            (Field::VlanTpid, 0x8100, 0xffff),
            (Field::VlanId, 10, 0xfff),
            (Field::VlanEthType, 0x0800, 0xffff),
        ]
    );
    assert!(told.filter.skip_hw);
}

#[test]
fn connections_are_told_with_their_zones_and_translations() {
    let trace = from_bytes(FIXTURES[2].0, FIXTURES[2].1).unwrap();
    let new: Vec<_> = messages(&trace)
        .filter_map(|envelope| match &envelope.message {
            Message::Connection { event: ConnectionEvent::New, connection } => Some(connection.to_connection()),
            _ => None,
        })
        .collect();
    assert_eq!(new.len(), 2);
    assert!(new.iter().all(|connection| connection.zone == 3));
    assert_ne!(new[0].reply, new[0].original.inverse());
}

/// The bytes of packets 54, 113 and 360 of `ovs-firewall`, read by hand.
#[test]
fn connections_are_told_to_the_last_bit() {
    let trace = from_bytes(FIXTURES[0].0, FIXTURES[0].1).unwrap();
    let told = |number| {
        let record = trace.records.iter().find(|r| r.number == number).unwrap();
        let Body::Message(envelope) = &record.body else { panic!() };
        let Message::Connection { event, connection } = &envelope.message else { panic!() };
        (*event, connection)
    };
    let (event, ping) = told(54);
    assert_eq!(event, ConnectionEvent::New);
    assert_eq!(ping.original.to_string(), "icmp 10.0.0.1 > 10.0.0.2 id 188 type 8 code 0");
    assert_eq!(ping.reply, ping.original.inverse());
    assert_eq!((ping.zone, ping.mark, ping.labels, ping.id), (5, Some(1), None, Some(0x8f05_2840)));
    let (event, tcp) = told(113);
    assert_eq!(event, ConnectionEvent::Update);
    assert_eq!(tcp.original.to_string(), "tcp 10.0.0.1:52964 > 10.0.0.2:8000");
    assert_eq!((tcp.tcp, tcp.status), (Some(TcpState::Established), Some(0xe)));
    assert_eq!(tcp.to_connection().qualifies(), Ok(()));
    let (event, closed) = told(360);
    assert_eq!(event, ConnectionEvent::Dump);
    assert_eq!(closed.tcp, Some(TcpState::TimeWait));
    let counted =
        closed.counters.map(|(original, reply)| (original.packets, original.bytes, reply.packets, reply.bytes));
    assert_eq!(counted, Some((25, 7308, 23, 7204)));
}

#[test]
fn a_file_that_is_something_else_is_told_so() {
    let fault = |bytes: &[u8]| from_bytes("x.pcapng", bytes).unwrap_err().to_string();
    assert_eq!(
        fault(b""),
        "x.pcapng: not a pcapng file: an empty file where a section header block (0a 0d 0d 0a) was expected"
    );
    assert!(fault(&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0]).contains("a classic pcap file"));
    let header = &FIXTURES[3].1[..28];
    assert_eq!(fault(header), "x.pcapng: no netlink interface (link type 253) was recorded: interfaces none");
}

#[test]
fn a_file_that_ends_early_is_told_so() {
    let (name, bytes) = FIXTURES[3];
    for length in (0..bytes.len()).step_by(97) {
        // Between the blocks of two frames it is a shorter run, and in order.
        let Err(error) = from_bytes(name, &bytes[..length]) else {
            continue;
        };
        match (length, error.fault) {
            (0..4, TraceFault::NotPcapng { .. }) => {}
            // At a block's end what can be missing is the rest of a dump, or everything.
            (_, TraceFault::Cut { have, want, offset, .. }) => {
                assert!(have < want && offset + have == length);
            }
            (_, TraceFault::DumpCut { .. } | TraceFault::NoMessages { .. } | TraceFault::NoNetlinkInterface { .. }) => {
            }
            (_, other) => panic!("{length}: {other}"),
        }
    }
    let trace = from_bytes(name, bytes).unwrap();
    let ends = messages(&trace).filter(|e| e.message == Message::Done).count();
    assert!(ends > 10);
    // Without the end of one dump, whichever it is, that dump is cut off.
    for (offset, length) in
        blocks(bytes).filter(|&(offset, length)| bytes[offset..offset + length].get(48..52) == Some(&[3, 0, 2, 0][..]))
    {
        let without = [&bytes[..offset], &bytes[offset + length..]].concat();
        match from_bytes(name, &without) {
            Err(TraceError { fault: TraceFault::DumpCut { .. }, .. }) => {}
            // A dump of nothing is its end alone.
            Ok(shorter) => assert_eq!(shorter.records.len() + 1, trace.records.len()),
            Err(other) => panic!("{other}"),
        }
    }
}

/// Offset and length of each block of a little-endian file.
fn blocks(bytes: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let length = u32::from_le_bytes(*bytes.get(offset + 4..)?.first_chunk()?) as usize;
        offset += length;
        Some((offset - length, length))
    })
}

#[test]
fn a_damaged_file_is_an_error_or_another_run_but_no_panic() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize
    };
    let mut refused = 0;
    for (name, bytes) in FIXTURES {
        for _ in 0..150 {
            let mut damaged = bytes.to_vec();
            for _ in 0..1 + random() % 8 {
                let at = random() % damaged.len();
                damaged[at] ^= 1 << (random() % 8);
            }
            let Ok(trace) = from_bytes(name, &damaged) else {
                refused += 1;
                continue;
            };
            let mut names = LinkNames::default();
            for envelope in messages(&trace) {
                names.learn(&envelope.message);
                if let Message::Filter(told) = &envelope.message {
                    // What can be sent reads back as it was.
                    if let Ok(request) = encode_filter(&told.filter, &names) {
                        let again = decode(netlink::ROUTE, &request, &names).unwrap();
                        let Message::Filter(again) = again.message else {
                            continue;
                        };
                        assert_eq!(again.filter, told.filter);
                    }
                }
            }
        }
    }
    assert!(refused > 0);
}

/// One section each way, microseconds and a shift, a packet cut short and one without a time: what the fixtures lack.
#[test]
fn byte_orders_resolutions_and_simple_packets() {
    let mut file = Vec::new();
    for big_endian in [false, true] {
        let u16 = |value: u16| {
            if big_endian { value.to_be_bytes() } else { value.to_le_bytes() }
        };
        let u32 = |value: u32| {
            if big_endian { value.to_be_bytes() } else { value.to_le_bytes() }
        };
        let mut block = |kind: u32, body: &[&[u8]]| {
            let body = body.concat();
            let length = u32(12 + body.len() as u32);
            file.extend([&u32(kind)[..], &length, &body, &length].concat());
        };
        let shift = if big_endian { 2i64.to_be_bytes() } else { 2i64.to_le_bytes() };
        block(0x0a0d_0d0a, &[&u32(0x1a2b_3c4d), &u16(1), &u16(0), &[0xff; 8]]);
        block(1, &[&u16(1), &u16(0), &u32(4), &u16(2), &u16(2), b"p1\0\0", &u16(14), &u16(8), &shift]);
        block(1, &[&u16(253), &u16(0), &u32(0), &u16(2), &u16(2), b"nl\0\0", &u16(9), &u16(1), &[0x8a, 0, 0, 0]]);
        block(0xbad, &[b"????"]);
        // 5 microseconds and 2 seconds; the flags say outbound.
        block(6, &[&u32(0), &u32(0), &u32(5), &u32(3), &u32(9), b"abc\0", &u16(2), &u16(4), &u32(2)]);
        block(3, &[&u32(9), b"wxyz"]);
        // NLMSG_DONE at 3 + 512/1024 s.
        let done = [&20u32.to_ne_bytes()[..], &3u16.to_ne_bytes(), &[0; 14]].concat();
        block(6, &[&u32(1), &u32(0), &u32(3 << 10 | 512), &u32(36), &u32(36), &[0; 16], &done]);
    }
    let trace = from_bytes("made", &file).unwrap();
    assert_eq!(trace.interfaces.len(), 2);
    let frame = |record: &Record| match &record.body {
        Body::Frame { direction, bytes } => Some((*direction, bytes.clone())),
        Body::Message(_) => None,
    };
    let seen: Vec<_> = trace.records.iter().map(|r| (r.number, r.time, r.truncated, frame(r))).collect();
    let outbound = Some((Direction::Outbound, b"abc".to_vec()));
    let simple = Some((Direction::Unknown, b"wxyz".to_vec()));
    assert_eq!(
        seen,
        [
            (1, 2_000_005_000, true, outbound.clone()),
            (2, 2_000_005_000, true, simple.clone()),
            (4, 2_000_005_000, true, outbound),
            (5, 2_000_005_000, true, simple),
            (3, 3_500_000_000, false, None),
            (6, 3_500_000_000, false, None),
        ]
    );
}
