//! Outer packets made by hand; the replay of recorded ones is tested in the command.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// The smallest frame there is.
fn inner() -> Vec<u8> {
    [[2; 6], [4; 6]].concat().into_iter().chain([0x88, 0xb5]).collect()
}

fn ethernet(kind: u16, packet: &[u8]) -> Vec<u8> {
    [&[0xaa; 12][..], &kind.to_be_bytes(), packet].concat()
}

/// IPv4 from 10.0.0.1 to 10.0.0.2 with these bits of fragmentation, and something behind it.
fn v4_fragment(bits: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len() as u16).to_be_bytes();
    let bits = bits.to_be_bytes();
    let header =
        [0x45, 0x12, length[0], length[1], 0, 1, bits[0], bits[1], 63, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    ethernet(0x0800, &[&header[..], payload, &[0xff; 3]].concat())
}

fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    v4_fragment(0x4000, protocol, payload)
}

/// IPv6 from fd00::1 to fd00::2, with an extension header in front of what it carries, behind a tag.
fn v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len() as u16).to_be_bytes();
    let mut header = vec![0x61, 0x2f, 0xff, 0xff, length[0], length[1], 60, 62];
    for last in [1, 2] {
        header.extend([&[0xfd][..], &[0; 14], &[last]].concat());
    }
    let tagged = [&[0, 7, 0x86, 0xdd][..], &header, &[protocol, 0, 1, 4, 0, 0, 0, 0], payload].concat();
    ethernet(0x8100, &tagged)
}

fn udp(port: u16, check: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    [0x1234u16.to_be_bytes(), port.to_be_bytes(), length.to_be_bytes(), check.to_be_bytes()]
        .concat()
        .into_iter()
        .chain(payload.iter().copied())
        .collect()
}

fn with(header: &str, inner: &[u8]) -> Vec<u8> {
    [&hex(header)[..], inner].concat()
}

/// What is read of an outer packet, and that its inner frame is the one put in.
#[track_caller]
fn read(device: Encapsulation, frame: &[u8]) -> Tunnel {
    let outer = device.outer(frame).expect("the device takes it");
    assert_eq!(frame[outer.inner.clone()], inner());
    outer.tunnel
}

const VXLAN: Encapsulation = Encapsulation::Vxlan { port: 4789, policy: false };
const POLICY: Encapsulation = Encapsulation::Vxlan { port: 4789, policy: true };
const GENEVE: Encapsulation = Encapsulation::Geneve { port: 6081 };

fn vxlan(header: &str) -> Vec<u8> {
    v4(UDP, &udp(4789, 0, &with(header, &inner())))
}

fn geneve(header: &str) -> Vec<u8> {
    v4(UDP, &udp(6081, 1, &with(header, &inner())))
}

#[test]
fn the_metadata_is_that_of_ip_and_udp() {
    let got = read(VXLAN, &vxlan("08000000 00006400"));
    let expected = Tunnel {
        id: Some(100),
        src: [10, 0, 0, 1].into(),
        dst: [10, 0, 0, 2].into(),
        src_port: 0x1234,
        dst_port: 4789,
        tos: 0x12,
        ttl: 63,
        flags: TunnelFlags::empty(),
        options: TunnelOptions::None,
    };
    assert_eq!(got, expected, "no checksum, and \"don't fragment\" is not kept");
    assert!(VXLAN.outer(&vxlan("08000000 00006400")).unwrap().dont_fragment);
    let got = read(GENEVE, &v6(UDP, &udp(6081, 9, &with("00006558 00000700", &inner()))));
    let address = |last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]);
    let expected = Tunnel {
        id: Some(7),
        src: address(1),
        dst: address(2),
        dst_port: 6081,
        ttl: 62,
        flags: TunnelFlags::CSUM,
        ..expected
    };
    assert_eq!(got, expected);
}

#[test]
fn a_group_policy_is_read_by_a_device_that_has_it() {
    let options = |header| read(POLICY, &vxlan(header)).options;
    assert_eq!(options("88480101 00006400"), TunnelOptions::Vxlan { gbp: 0x0048_0101 });
    assert_eq!(options("88b70000 00006400"), TunnelOptions::Vxlan { gbp: 0 }, "there is one, and it is 0");
    assert_eq!(options("08480101 00006400"), TunnelOptions::None, "the flag that says so is missing");
    assert_eq!(options("08000000 00006400"), TunnelOptions::None);
}

#[test]
fn what_vxlan_does_not_know_it_drops() {
    for header in ["00000000 00006400", "08000000 00006401", "88000101 00006400", "0c000000 00006400"] {
        assert_eq!(VXLAN.outer(&vxlan(header)), None, "{header}");
    }
    assert_eq!(POLICY.outer(&vxlan("98000101 00006400")), None);
}

#[test]
fn geneve_has_options_in_order_and_flags() {
    let option = |class, kind, data: &str| GeneveOption { class, kind, data: hex(data) };
    let got = read(GENEVE, &geneve("04c06558 00000900 01028001 deadbeef 01030400 ffff0500"));
    let options = vec![option(0x0102, 0x80, "deadbeef"), option(0x0103, 4, ""), option(0xffff, 5, "")];
    assert_eq!(got.options, TunnelOptions::Geneve(options));
    assert_eq!(got.flags, TunnelFlags::CSUM | TunnelFlags::OAM | TunnelFlags::CRITICAL);
    assert_eq!(read(GENEVE, &geneve("00406558 00000900")).flags, TunnelFlags::CSUM | TunnelFlags::CRITICAL);
}

#[test]
fn geneve_that_is_not_read() {
    for (header, why) in [
        ("40006558 00000900", "another version"),
        ("00000800 00000900", "no Ethernet in it"),
        ("01006558 00000900 01028001", "an option longer than all of them"),
        ("01006558 00000900 01028020", "reserved bits"),
    ] {
        assert_eq!(GENEVE.outer(&geneve(header)), None, "{why}");
    }
}

#[test]
fn gre_has_a_key_or_none() {
    let read = |header| read(Encapsulation::Gre { ipv6: false }, &v4(GRE, &with(header, &inner())));
    assert_eq!((read("00006558").id, read("00006558").flags), (None, TunnelFlags::empty()));
    assert_eq!(read("20006558 00000064").id, Some(100));
    let all = read("b0006558 12340000 00000065 00000001");
    assert_eq!((all.id, all.flags, all.dst_port), (Some(101), TunnelFlags::CSUM, 0));
    let gre = |header, ipv6| Encapsulation::Gre { ipv6 }.outer(&v4(GRE, &with(header, &inner())));
    for header in ["40006558", "00016558", "00000800", "000088be"] {
        assert_eq!(gre(header, false), None, "{header}");
    }
    assert_eq!(gre("00006558", true), None, "over the other IP");
}

#[test]
fn erspan_has_its_identifier_and_metadata_in_its_own_header() {
    let read = |header| {
        let tunnel = read(Encapsulation::Erspan { ipv6: true }, &v6(GRE, &with(header, &inner())));
        (tunnel.id, tunnel.options)
    };
    let index = |index| TunnelOptions::Erspan(Erspan::Index(index));
    assert_eq!(read("100088be 00000001 10001c64 000fffff"), (Some(100), index(0xf_ffff)));
    let hardware = |dir, hwid| TunnelOptions::Erspan(Erspan::Hardware { dir, hwid });
    assert_eq!(read("100022eb 00000001 20000064 12345678 00008258"), (Some(100), hardware(1, 0x25)));
    assert_eq!(read("100022eb 00000001 10000001 00000007"), (Some(1), index(7)), "as its own version says");
    let erspan = |header| Encapsulation::Erspan { ipv6: true }.outer(&v6(GRE, &with(header, &inner())));
    assert_eq!(erspan("000088be"), None, "the first type");
    assert_eq!(erspan("100088be 00000001 30000001 00000007 00000000"), None, "a version that is not known");
}

#[test]
fn what_is_not_whole_is_no_outer_packet() {
    let whole = vxlan("08000000 00006400");
    // All but the three bytes behind the packet.
    for length in 0..whole.len() - 3 {
        assert_eq!(VXLAN.outer(&whole[..length]), None, "{length}");
    }
    let packet = udp(4789, 0, &with("08000000 00006400", &inner()));
    for (bits, is_one) in [(0, true), (0x2000, false), (1, false)] {
        assert_eq!(VXLAN.outer(&v4_fragment(bits, UDP, &packet)).is_some(), is_one, "{bits:#x}");
    }
    assert_eq!(VXLAN.outer(&v4(UDP, &udp(4788, 0, &packet[8..]))), None, "another port");
    assert_eq!(VXLAN.outer(&v4(6, &packet)), None, "not UDP");
    assert_eq!(VXLAN.outer(&v4(UDP, &packet[..packet.len() - 1])), None, "longer than its datagram");
    let short = udp(4789, 0, &with("08000000 00006400", &inner()[..13]));
    assert_eq!(VXLAN.outer(&v4(UDP, &short)), None, "no whole Ethernet header");
    // What follows the UDP datagram is not of the frame.
    assert_eq!(read(VXLAN, &v4(UDP, &[&packet[..], &[7; 5]].concat())).id, Some(100));
}

/// The complement of the sum of an IPv4 header.
fn sum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    (sum + (sum >> 16)) as u16
}

/// What comes out of a tunnel with this mark outside, of a frame with that inside: the second byte of the IP header.
fn marked(outer: u8, kind: u16, second: u8) -> Option<u8> {
    let mut header = match kind {
        0x0800 => hex("45000014 00010000 40110000 0a000001 0a000002"),
        _ => [&hex("60000000 00003b40")[..], &[0xfd; 32]].concat(),
    };
    header[1] = second;
    if kind == 0x0800 {
        let check = !sum(&header);
        header[10..12].copy_from_slice(&check.to_be_bytes());
    }
    let mut frame = v4(UDP, &udp(4789, 0, &with("08000000 00006400", &ethernet(kind, &header))));
    frame[ETHERNET + 1] = 0xb8 | outer;
    let got = VXLAN.outer(&frame).unwrap().received(&frame)?;
    let mut expected = ethernet(kind, &header);
    expected[15] = got[15];
    if kind == 0x0800 {
        assert_eq!(sum(&got[14..]), 0xffff, "the checksum is right");
        expected[24..26].copy_from_slice(&got[24..26]);
    }
    assert_eq!(got, expected, "nothing else changes");
    Some(got[15])
}

#[test]
fn congestion_marks_go_over_to_the_inner_frame() {
    // RFC 6040, figure 4, with the kernel's choice where none is prescribed: of each mark outside what becomes of 0, ECT(0), ECT(1),
    // CE inside.
    for (outer, become_) in [
        (0, [Some(0), Some(2), Some(1), Some(3)]),
        (2, [Some(0), Some(2), Some(1), Some(3)]),
        (1, [Some(0), Some(1), Some(1), Some(3)]),
        (3, [None, Some(3), Some(3), Some(3)]),
    ] {
        for (mark, expected) in [0, 2, 1, 3].into_iter().zip(become_) {
            assert_eq!(marked(outer, 0x0800, 0x28 | mark), expected.map(|m| 0x28 | m), "{outer} {mark}");
            assert_eq!(marked(outer, 0x86dd, 0x0f | mark << 4), expected.map(|m| 0x0f | m << 4), "{outer} {mark}");
        }
        assert_eq!(marked(outer, 0x88b5, 7), Some(7), "no IP, no mark");
    }
}
