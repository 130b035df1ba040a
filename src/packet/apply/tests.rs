use super::*;
use crate::flower::{
    action::{CsumFlags, Mirred, Pedit, PeditHeader, PeditKey},
    field::ip_proto as proto,
};
use proptest::prelude::*;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

fn send(port: u32, mirror: bool) -> Action {
    let control = if mirror { Control::Pipe } else { Control::Stolen };
    let port = Port(port);
    Action::new(ActionKind::Mirred(Mirred { port, ingress: false, mirror }), control)
}

fn set(header: PeditHeader, offset: i32, value: u32, written: u32) -> PeditKey {
    PeditKey { header, offset, mask: (!written).to_be_bytes(), value: value.to_be_bytes(), add: false, dynamic: None }
}

fn pedit(keys: Vec<PeditKey>, mend: bool) -> Action {
    Action::new(ActionKind::Pedit(Pedit { keys, mend }), Control::Pipe)
}

fn csum() -> Action {
    Action::new(ActionKind::Csum(CsumFlags::all()), Control::Pipe)
}

/// An Ethernet frame with these tags, without checksums.
fn frame(tags: &[(u16, u16)], v6: bool, proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for (tpid, tci) in tags {
        f.extend(tpid.to_be_bytes());
        f.extend(tci.to_be_bytes());
    }
    let length = payload.len() as u16;
    if v6 {
        f.extend(IPV6.to_be_bytes());
        f.extend([0x60, 0, 0, 0]);
        f.extend(length.to_be_bytes());
        f.extend([proto, 64]);
        f.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        f.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    } else {
        f.extend(IPV4.to_be_bytes());
        f.extend([0x46, 0]); // one word of options
        f.extend((24 + length).to_be_bytes());
        f.extend([0, 1, 0x40, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 0]);
    }
    f.extend(payload);
    f
}

/// A transport header with ports 1000 and 80, checksum not 0 but not right either, and data.
fn segment(proto: u8, data: &[u8]) -> Vec<u8> {
    let mut s = vec![0x03, 0xe8, 0, 80];
    match proto {
        proto::TCP => s.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 2, 0, 0xab, 0xcd, 0, 0]),
        proto::ICMPV6 => s = vec![128, 0, 0xab, 0xcd, 0, 1, 0, 2],
        _ => {
            s.extend((8 + data.len() as u16).to_be_bytes());
            s.extend([0xab, 0xcd]);
        }
    }
    s.extend(data);
    s
}

fn sent(actions: &[Action], frame: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut all = actions.to_vec();
    all.push(send(9, false));
    let applied = apply(&all, Trim::Never, frame).expect("supported");
    applied.sent.into_iter().map(|s| (s.port.0, s.frame)).collect()
}

fn one(actions: &[Action], frame: &[u8]) -> Vec<u8> {
    sent(actions, frame).pop().expect("redirected").1
}

/// A translation of both ends, as a merged filter writes it.
fn translation(v6: bool, proto: u8, addresses: [u32; 2], ports: u32) -> Vec<PeditKey> {
    let mut keys = match v6 {
        false => {
            vec![set(PeditHeader::Ipv4, 12, addresses[0], u32::MAX), set(PeditHeader::Ipv4, 16, addresses[1], u32::MAX)]
        }
        true => {
            vec![set(PeditHeader::Ipv6, 16, addresses[0], u32::MAX), set(PeditHeader::Ipv6, 36, addresses[1], u32::MAX)]
        }
    };
    match proto {
        proto::TCP => keys.push(set(PeditHeader::Tcp, 0, ports, u32::MAX)),
        proto::UDP | proto::UDPLITE => keys.push(set(PeditHeader::Udp, 0, ports & 0xffff, 0xffff)),
        _ => {}
    }
    keys
}

fn checksum_at(v6: bool, proto: u8) -> usize {
    14 + if v6 { 40 } else { 24 }
        + match proto {
            proto::TCP => 16,
            proto::ICMPV6 => 2,
            _ => 6,
        }
}

fn value(frame: &[u8], at: usize) -> u16 {
    headers::be16(frame, at).expect("within")
}

prop_compose! {
    /// IPv6 or not, and a protocol. Under IPv6 `pedit udp` would not find UDP-Lite's ports.
    fn kind()(
        v6: bool,
        proto in prop::sample::select(vec![proto::TCP, proto::UDP, proto::UDPLITE, proto::ICMPV6]),
    ) -> (bool, u8) {
        match proto {
            proto::ICMPV6 => (true, proto),
            proto::UDPLITE => (false, proto),
            _ => (v6, proto),
        }
    }
}

proptest! {
    #[test]
    fn mending_equals_recomputing(
        (v6, proto) in kind(),
        data in prop::collection::vec(any::<u8>(), 0..50),
        addresses: [u32; 2],
        ports: u32,
    ) {
        let right = one(&[csum()], &frame(&[], v6, proto, &segment(proto, &data)));
        let keys = translation(v6, proto, addresses, ports);
        let mended = one(&[pedit(keys.clone(), true)], &right);
        let recomputed = one(&[pedit(keys, false), csum()], &right);
        prop_assert_eq!(mended, recomputed);
    }

    #[test]
    fn a_wrong_checksum_stays_wrong_by_the_same_difference(
        (v6, proto) in kind(),
        off in 1u16..0xffff,
        addresses: [u32; 2],
        ports: u32,
    ) {
        let at = checksum_at(v6, proto);
        let right = one(&[csum()], &frame(&[], v6, proto, &segment(proto, b"data")));
        let mut wrong = right.clone();
        let bad = (u32::from(value(&right, at)) + u32::from(off)) % 0xffff;
        wrong[at..at + 2].copy_from_slice(&(bad as u16).to_be_bytes());
        prop_assume!(proto != proto::UDP || bad != 0);
        let keys = translation(v6, proto, addresses, ports);
        let mended = one(&[pedit(keys.clone(), true)], &wrong);
        let recomputed = one(&[pedit(keys, false), csum()], &wrong);
        let difference = (u32::from(value(&mended, at)) + 0xffff - u32::from(value(&recomputed, at)) % 0xffff) % 0xffff;
        prop_assert_eq!(difference, u32::from(off));
    }

    #[test]
    fn nothing_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..90),
        kind in prop::sample::select(vec![IPV4, IPV6, 0x8100]),
        offset in -20i32..80,
        header in prop::sample::select(vec![
            PeditHeader::Network, PeditHeader::Ethernet, PeditHeader::Tcp, PeditHeader::Udp,
        ]),
        add: bool,
    ) {
        let mut frame = vec![0; 12];
        frame.extend(kind.to_be_bytes());
        frame.extend(bytes);
        let key = PeditKey { add, ..set(header, offset, 0x0102_0304, u32::MAX) };
        let pop = Action::new(ActionKind::Vlan(Vlan::Pop), Control::Pipe);
        let actions = [pedit(vec![key], true), csum(), pedit(vec![key], false), pop];
        for trim in [Trim::Never, Trim::Before(1)] {
            apply(&actions, trim, &frame).expect("supported");
        }
    }
}

#[test]
fn checksums_are_those_of_other_stacks() {
    // Scapy's `IP()/TCP()`, and the sums that it gives.
    let mut f = vec![0; 12];
    f.extend([8, 0]);
    f.extend([0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
    f.extend([0, 20, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0]);
    let out = one(&[csum()], &f);
    assert_eq!((value(&out, 24), value(&out, 50)), (0x7ccd, 0x917c));
    // CRC-32C's check value; in SCTP it goes out least significant byte first, over what follows the datagram too.
    assert_eq!(checksum::crc32c(b"123456789"), 0xe306_9283);
    let mut f = f[..14].to_vec();
    f.extend([0x45, 0, 0, 32, 0, 1, 0, 0, 64, 132, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
    f.extend([0; 13]);
    let out = one(&[csum()], &f);
    assert_eq!(out[42..46], checksum::crc32c(&[0; 13]).to_le_bytes());
}

#[test]
fn udp_without_checksum_stays_without_and_none_becomes_zero() {
    let mut none = frame(&[], false, proto::UDP, &segment(proto::UDP, b"xy"));
    none[44..46].fill(0);
    let keys = translation(false, proto::UDP, [1, 2], 3);
    assert_eq!(value(&one(&[pedit(keys.clone(), true)], &none), 44), 0);
    assert_eq!(value(&one(&[csum()], &none), 44), 0);
    // Data chosen so that the sum is 0xffff, once computed and once mended.
    let sum = value(&one(&[csum()], &frame(&[], false, proto::UDP, &segment(proto::UDP, &[0, 0]))), 44);
    let f = frame(&[], false, proto::UDP, &segment(proto::UDP, &sum.to_be_bytes()));
    assert_eq!(value(&one(&[csum()], &f), 44), 0xffff);
    let mut other = f.clone();
    other[41] = 81;
    let other = one(&[csum()], &other);
    let back = pedit(vec![set(PeditHeader::Udp, 0, 80, 0xffff)], true);
    assert_eq!(value(&other, 44), 0xfffe);
    assert_eq!(value(&one(&[back], &other), 44), 0xffff);
}

#[test]
fn plain_pedit_leaves_checksums_and_adds_to_the_raw_word() {
    let f = one(&[csum()], &frame(&[], false, proto::TCP, &segment(proto::TCP, b"")));
    let ttl = PeditKey { add: true, ..set(PeditHeader::Ipv4, 8, 0xff00_0000, 0xff00_0000) };
    let out = one(&[pedit(vec![ttl], false)], &f);
    assert_eq!(out[22], 63);
    assert_eq!(value(&out, 24), value(&f, 24));
    assert_eq!(out[23..], f[23..]);
    // The same with mending: the header is right again, the TCP checksum does not know of the TTL.
    let mended = one(&[pedit(vec![ttl], true)], &f);
    assert_eq!(mended, one(&[csum()], &out));
    // Kept bits can be flipped, and a carry goes to the right, for the word is little-endian.
    let flip = set(PeditHeader::Ipv4, 12, 0xff, 0);
    assert_eq!(one(&[pedit(vec![flip], false)], &f)[29], 1 ^ 0xff);
    let carry = PeditKey { add: true, ..set(PeditHeader::Tcp, 0, 0x0000_ff00, 0xffff_ffff) };
    let out = one(&[pedit(vec![carry], false)], &f);
    assert_eq!(out[38..42], [3, 0xe8, 0xff, 80]);
}

#[test]
fn a_key_out_of_bounds_ends_its_action_only() {
    let f = frame(&[], false, proto::UDP, &segment(proto::UDP, b""));
    let keys = |offset| {
        vec![
            set(PeditHeader::Ipv4, 12, 0, u32::MAX),
            set(PeditHeader::Udp, offset, 0, u32::MAX),
            set(PeditHeader::Ipv4, 16, 0, u32::MAX),
        ]
    };
    let out = one(&[pedit(keys(5), false), pedit(vec![set(PeditHeader::Ethernet, 0, 7, 0xff)], false)], &f);
    assert_eq!(out[26..34], [0, 0, 0, 0, 10, 0, 0, 2]);
    assert_eq!(out[3], 7);
    assert_eq!(one(&[pedit(keys(4), false)], &f)[26..34], [0; 8]);
    // IPv6 knows what it looks for, IPv4 does not.
    let v6 = frame(&[], true, proto::UDP, &segment(proto::UDP, b"0123456789ab"));
    let tcp = vec![set(PeditHeader::Tcp, 0, 0, u32::MAX)];
    assert_eq!(one(&[pedit(tcp.clone(), false)], &v6), v6);
    assert_ne!(one(&[pedit(tcp, false)], &f), f);
}

#[test]
fn ipv6_extension_headers_are_skipped() {
    // Hop-by-hop, destination options, then UDP.
    let mut payload = vec![60, 0, 1, 4, 0, 0, 0, 0, proto::UDP, 0, 1, 4, 0, 0, 0, 0];
    payload.extend(segment(proto::UDP, b"data"));
    let f = one(&[csum()], &frame(&[], true, 0, &payload));
    assert_ne!(value(&f, 14 + 40 + 16 + 6), 0xabcd);
    let keys = translation(true, proto::UDP, [5, 6], 7);
    let mended = one(&[pedit(keys.clone(), true)], &f);
    assert_eq!(value(&mended, 14 + 40 + 16 + 2), 7);
    assert_eq!(mended, one(&[pedit(keys, false), csum()], &f));
}

#[test]
fn tags_move_and_mirrors_send_what_is_there() {
    let vlan = |v| Action::new(ActionKind::Vlan(v), Control::Pipe);
    let push = |id| vlan(Vlan::Push { protocol: 0x8100, id, prio: 1 });
    let modify = vlan(Vlan::Modify { protocol: 0x88a8, id: 7, prio: None });
    let body = segment(proto::UDP, b"data");
    let tagged = |tags: &[(u16, u16)]| frame(tags, false, proto::UDP, &body);
    let out = sent(
        &[
            modify.clone(),
            vlan(Vlan::Pop),
            push(5),
            send(1, true),
            push(6),
            modify,
            send(2, true),
            vlan(Vlan::Pop),
            vlan(Vlan::Pop),
        ],
        &tagged(&[]),
    );
    assert_eq!(
        out,
        [(1, tagged(&[(0x8100, 0x2005)])), (2, tagged(&[(0x88a8, 0x2007), (0x8100, 0x2005)])), (9, tagged(&[])),]
    );
    // Behind two tags the network header is still found.
    let double = tagged(&[(0x88a8, 1), (0x8100, 2)]);
    assert_eq!(one(&[pedit(vec![set(PeditHeader::Ipv4, 12, 0, u32::MAX)], true)], &double)[34..38], [0; 4]);
}

#[test]
fn the_end_is_what_the_actions_say() {
    let f = frame(&[], false, proto::UDP, &segment(proto::UDP, b""));
    let end = |actions: &[Action]| apply(actions, Trim::Never, &f).expect("supported").end;
    let gact = |control| Action::new(ActionKind::Gact { random: None }, control);
    assert_eq!(end(&[]), End::Passed(f.clone()));
    assert_eq!(end(&[gact(Control::Shot), send(1, false)]), End::Dropped);
    assert_eq!(end(&[gact(Control::Trap)]), End::Trapped(f.clone()));
    assert_eq!(end(&[send(1, false), gact(Control::Shot)]), End::Taken);
    // `csum` drops what is shorter than it says, copies sent before are out.
    let cut = &f[..f.len() - 1];
    let applied = apply(&[send(1, true), csum(), send(2, false)], Trim::Never, cut).expect("supported");
    assert_eq!((applied.sent.len(), applied.end), (1, End::Dropped));
    // What follows the datagram goes where `ct` stood.
    let mut long = f.clone();
    long.extend([0; 6]);
    let out = apply(&[send(1, true), send(2, false)], Trim::Before(1), &long).expect("supported");
    assert_eq!((&out.sent[0].frame, &out.sent[1].frame), (&long, &f));
    // No table can run these.
    let error = apply(&[send(1, true), gact(Control::Goto(2))], Trim::Never, &f).expect_err("chains");
    assert_eq!(error.to_string(), "action 1: gact with control Goto(2) cannot be done in a table");
}

/// Every frame in the recorded runs has the right checksums, so that `csum` leaves it as Linux made it.
#[test]
fn recorded_frames_keep_their_checksums() {
    for name in ["ovs-firewall", "ovs-nat", "tc-dnat", "tc-rewrite"] {
        let path = format!("{}/fixtures/{name}.pcapng", env!("CARGO_MANIFEST_DIR"));
        let trace = crate::trace::read(path.as_ref(), &mut |_, _| {}).expect("a fixture");
        let mut frames = 0;
        for record in &trace.records {
            if let crate::trace::Body::Frame { bytes, .. } = &record.body {
                assert_eq!(one(&[csum()], bytes), *bytes, "{name}");
                frames += 1;
            }
        }
        assert!(frames > 50, "{name}");
    }
}
