//! Keys worked out by hand from the kernel's dissector.

use super::*;
use Field::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// The whole key of a frame, without the Ethernet addresses, which are the same in all.
#[track_caller]
fn sees(frame: &str, fields: &[(Field, u128)]) {
    let key = arrived(&hex(&format!("020000000002 020000000001 {frame}")));
    let expected = fields.iter().fold(Key::ZERO, |key, &(f, v)| key.with(f, v));
    let expected = expected.with(EthDst, 0x020000000002).with(EthSrc, 0x020000000001);
    assert_eq!(key, expected);
}

const TCP: &str = "4500 0028 0001 0000 4006 66ca 0a000001 0a000002
    03e8 0050 00000000 00000000 5fc2 2000 76e8 0000";

fn tcp(protocol: u128) -> Vec<(Field, u128)> {
    vec![
        (Protocol, protocol),
        (EthType, 0x0800),
        (AddrType, 2),
        (IpProto, 6),
        (IpTtl, 64),
        (Ipv4Src, 0x0a000001),
        (Ipv4Dst, 0x0a000002),
        (SrcPort, 1000),
        (DstPort, 80),
        (TcpFlags, 0xfc2),
    ]
}

#[test]
fn tags_are_counted_and_the_first_two_read() {
    sees(&format!("0800 {TCP}"), &tcp(0x0800));
    let outer = [(VlanTpid, 0x88a8), (VlanId, 100), (VlanPrio, 5), (VlanEthType, 0x8100)];
    let inner = [(CvlanTpid, 0x8100), (CvlanId, 7), (CvlanPrio, 1), (CvlanEthType, 0x0800), (NumOfVlans, 2)];
    let two = [&tcp(0x88a8)[..], &outer, &inner].concat();
    sees(&format!("88a8 a064 8100 2007 0800 {TCP}"), &two);
    let three = [&two[..], &[(CvlanEthType, 0x8100), (NumOfVlans, 3)]].concat();
    sees(&format!("88a8 a064 8100 2007 8100 0001 0800 {TCP}"), &three);
    // The inner tag is cut.
    let cut = [(Protocol, 0x88a8), (EthType, 0x8100), (NumOfVlans, 1)];
    sees("88a8 a064 8100 2007", &[&cut[..], &outer].concat());
    // Too short for its outer tag to be taken off: the kernel drops it.
    sees("88a8 a064 8100", &[(Protocol, 0x88a8), (EthType, 0x88a8)]);
}

#[test]
fn fragments_have_no_ports_and_no_flags() {
    let mut fields = tcp(0x0800);
    fields.retain(|(f, _)| !matches!(f, SrcPort | DstPort | TcpFlags));
    fields.push((IpFlags, 1));
    sees(&format!("0800 {}", TCP.replace("0001 0000 4006", "0001 0001 4006")), &fields);
    fields.push((IpFlags, 3));
    sees(&format!("0800 {}", TCP.replace("0001 0000 4006", "0001 2000 4006")), &fields);
}

#[test]
fn a_bad_or_cut_header_leaves_what_was_read_before() {
    let mut fields = tcp(0x0800);
    fields.retain(|(f, _)| *f != TcpFlags);
    // Data offset 4, then a header cut behind its ports.
    sees(&format!("0800 {}", TCP.replace("5fc2", "4fc2")), &fields);
    sees(&format!("0800 {}", &TCP[..TCP.find("00000000").unwrap()]), &fields);
    sees("0800 4400 0028", &[(Protocol, 0x0800), (EthType, 0x0800)]);
    sees("88b5 0102", &[(Protocol, 0x88b5), (EthType, 0x88b5)]);
    sees("0010 4242", &[(Protocol, 4), (EthType, 4)]);
    sees("0010 ffff", &[(Protocol, 1), (EthType, 1)]);
    assert_eq!(arrived(&[]), Key::ZERO);
}

const IPV6: &str = "fd000000000000000000000000000001 fd000000000000000000000000000002";

fn ipv6(proto: u128, ttl: u128) -> Vec<(Field, u128)> {
    vec![
        (Protocol, 0x86dd),
        (EthType, 0x86dd),
        (AddrType, 3),
        (IpProto, proto),
        (IpTtl, ttl),
        (Ipv6Src, 0xfd000000000000000000000000000001),
        (Ipv6Dst, 0xfd000000000000000000000000000002),
    ]
}

/// Options are skipped, AH is not; what stands for its ports is its SPI.
#[test]
fn ipv6_extension_headers() {
    let ports = |src, dst| [(IpTos, 0x2e), (SrcPort, src), (DstPort, dst)];
    let spi = [(Spi, 0x12345678)];
    sees(
        &format!("86dd 62e00000 0019 00 03 {IPV6} 3c00010400000000 1100010400000000 0005 0006 0009 8dcc 78"),
        &[&ipv6(17, 3)[..], &ports(5, 6)].concat(),
    );
    sees(
        &format!("86dd 62e00000 0018 33 40 {IPV6} 1101 0000 12345678 00000001 0005 0006 0009 8dcc 78"),
        &[&ipv6(51, 64)[..], &ports(0x1234, 0x5678), &spi].concat(),
    );
    let fragment = "0005 0006 0010 23dd 7878";
    sees(
        &format!("86dd 60000000 0018 2c 40 {IPV6} 1100 0001 00000007 {fragment}"),
        &[&ipv6(17, 64)[..], &[(IpFlags, 3)]].concat(),
    );
    sees(
        &format!("86dd 60000000 0018 2c 40 {IPV6} 1100 0009 00000007 {fragment}"),
        &[&ipv6(17, 64)[..], &[(IpFlags, 1)]].concat(),
    );
}

#[test]
fn what_is_not_ip() {
    sees(
        "0806 0001 0800 06 04 0002 020000000001 0a000001 020000000009 0a000002",
        &[
            (Protocol, 0x0806),
            (EthType, 0x0806),
            (ArpOp, 2),
            (ArpSip, 0x0a000001),
            (ArpTip, 0x0a000002),
            (ArpSha, 0x020000000001),
            (ArpTha, 0x020000000009),
        ],
    );
    sees(
        "8847 12345b07 45000014",
        &[
            (Protocol, 0x8847),
            (EthType, 0x8847),
            (Mpls1, 1),
            (MplsLabel, 0x12345),
            (MplsTc, 5),
            (MplsBos, 1),
            (MplsTtl, 7),
        ],
    );
    let mut pppoe = tcp(0x8864);
    pppoe.extend([(PppoeSid, 0x1234), (PppProto, 0x0021)]);
    sees(&format!("8864 1100 1234 002a 0021 {TCP}"), &pppoe);
}

/// Seven entries are read; the eighth is passed over, and need not be there. Without a bottom it goes on past the end.
#[test]
fn a_stack_of_labels() {
    let entry = |n: u32, bos: u32| format!("{:08x}", n << 12 | n << 9 | bos << 8 | (0x40 + n));
    let fields = |count: usize, bottom: Option<usize>| {
        let mut fields = vec![(Protocol, 0x8848), (EthType, 0x8848)];
        for (index, [present, label, tc, bos, ttl]) in Field::MPLS.into_iter().take(count).enumerate() {
            let n = index as u128;
            let is_bottom = u128::from(Some(index) == bottom);
            fields.extend([(present, 1), (label, n), (tc, n), (bos, is_bottom), (ttl, 0x40 + n)]);
        }
        fields
    };
    let stack = |count: u32| (0..count).map(|n| entry(n, 0)).collect::<String>();
    sees(&format!("8848 {}{} 4500", stack(2), entry(2, 1)), &fields(3, Some(2)));
    for count in [0, 1, 3, 7, 8, 9] {
        sees(&format!("8848 {}", stack(count)), &fields(count as usize, None));
    }
    sees(&format!("8848 {} {} {}", stack(6), entry(6, 1), stack(2)), &fields(7, Some(6)));
    // The third is cut.
    sees(&format!("8848 {} 0000", stack(2)), &fields(2, None));
    // In IP, as protocol 137: the ethertype is that of MPLS, and the IP header has been read.
    let carried = [(Protocol, 0x0800), (AddrType, 2), (IpProto, 137), (IpTtl, 64), (Ipv4Src, 1), (Ipv4Dst, 2)];
    let inside = [(EthType, 0x8847), (Mpls1, 1), (MplsLabel, 5), (MplsBos, 1)];
    sees("0800 45000018 00000000 40890000 00000001 00000002 00005100", &[&carried[..], &inside].concat());
}

#[test]
fn maintenance_frames_show_level_and_operation() {
    let cfm = [(Protocol, 0x8902), (EthType, 0x8902)];
    sees("8902 a1 2b 00 04", &[&cfm[..], &[(CfmLevel, 5), (CfmOpcode, 0x2b)]].concat());
    sees("8902 ff 00", &[&cfm[..], &[(CfmLevel, 7)]].concat());
    sees("8902 ff", &cfm);
    let tag = [(Protocol, 0x8100), (EthType, 0x8902), (NumOfVlans, 1), (VlanTpid, 0x8100), (VlanId, 9)];
    let behind = [(VlanEthType, 0x8902), (CfmLevel, 1), (CfmOpcode, 1)];
    sees("8100 0009 8902 2001", &[&tag[..], &behind].concat());
}

/// The whole header must be there (eight bytes of ESP, twelve of AH), while what stands for the ports needs itself only.
#[test]
fn the_security_index_of_ip() {
    let ip = |proto: u8| format!("0800 45000020 00000000 40{proto:02x}0000 00000001 00000002");
    let base = |proto| {
        [
            (Protocol, 0x0800),
            (EthType, 0x0800),
            (AddrType, 2),
            (IpProto, proto),
            (IpTtl, 64),
            (Ipv4Src, 1),
            (Ipv4Dst, 2),
        ]
    };
    let ports = [(SrcPort, 0x1122), (DstPort, 0x3344)];
    let whole = |proto| [&base(proto)[..], &ports, &[(Spi, 0x11223344)]].concat();
    sees(&format!("{} 11223344 00000001", ip(50)), &whole(50));
    sees(&format!("{} 11223344 000000", ip(50)), &[&base(50)[..], &ports].concat());
    sees(&format!("{} 06040000 11223344 00000001", ip(51)), &whole(51));
    sees(&format!("{} 06040000 11223344 000000", ip(51)), &[&base(51)[..], &ports].concat());
    sees(&format!("{} 11223344 00000001", ip(50)).replace("20 00000000 40", "20 00000001 40"), &{
        let mut fragment = base(50).to_vec();
        fragment.push((IpFlags, 1));
        fragment
    });
}

#[test]
fn sessions_of_pppoe_and_l2tp() {
    let pppoe = |ppp| [(Protocol, 0x8864), (PppoeSid, 0x1234), (PppProto, ppp)];
    // Link control: the ethertype stays that of PPPoE. Labels: it is theirs.
    sees("8864 1100 1234 0006 c021 0101", &[&pppoe(0xc021)[..], &[(EthType, 0x8864)]].concat());
    let label = [(EthType, 0x8847), (Mpls1, 1), (MplsLabel, 5), (MplsBos, 1)];
    sees("8864 1100 1234 0006 0281 00005100", &[&pppoe(0x0281)[..], &label].concat());
    // A code that is not of data, a compressed protocol, one that is cut.
    for bad in ["8864 1109 1234 0006 0021", "8864 1100 1234 0006 2145", "8864 1100 1234 0006 00"] {
        sees(bad, &[(Protocol, 0x8864), (EthType, 0x8864)]);
    }
    let ip = [(Protocol, 0x0800), (EthType, 0x0800), (AddrType, 2), (IpProto, 115), (IpTtl, 64), (Ipv4Dst, 2)];
    let l2tp = "0800 45000018 00000000 40730000 00000000 00000002";
    sees(&format!("{l2tp} 0000beef"), &[&ip[..], &[(L2tpv3Sid, 0xbeef)]].concat());
    sees(&format!("{l2tp} 0000be"), &ip);
}

/// After two pushes the protocol is VLAN while the network offset is that of the IP header: the second tag is read from
/// there, 0x4500 as its TCI and the total length as what follows.
#[test]
fn a_tag_in_the_bytes_is_read_from_the_network_offset() {
    let bytes = hex(&format!("020000000002 020000000001 8100 0005 0800 {TCP}"));
    let view = View { bytes: &bytes, tag: Some(Tag { protocol: 0x8100, tci: 6 }), protocol: 0x8100, network: 18 };
    let key = dissect(&view).key;
    let read = [VlanId, VlanEthType, CvlanId, CvlanPrio, CvlanEthType, EthType, IpProto];
    assert_eq!(read.map(|f| key.get(f)), [6, 0x8100, 0x500, 2, 0x28, 0x28, 0]);
}
