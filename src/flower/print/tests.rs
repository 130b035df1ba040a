use super::*;
use crate::flower::{
    ActionKind, Control, Field, FilterId, Range,
    action::{CsumFlags, Ct, Mirred, Nat, NatSide, Pedit, PeditDynamic, PeditHeader, PeditKey, Skbedit, Vlan},
    field::{addr_type, ct_state},
};

fn action(kind: ActionKind, control: Control) -> Action {
    Action { kind, control, index: 3, cookie: vec![0xab, 1] }
}

fn goto(chain: u32) -> Action {
    action(ActionKind::Gact { random: None }, Control::Goto(chain))
}

fn ct() -> Action {
    let ct = Ct { zone: 5, nat: Some(Nat::default()), ..Ct::default() };
    action(ActionKind::Ct(ct), Control::Pipe)
}

fn udp() -> Match {
    Match::default()
        .exact(Field::Protocol, 0x0800)
        .exact(Field::EthType, 0x0800)
        .exact(Field::AddrType, addr_type::IPV4)
        .exact(Field::IpProto, 17)
        .with(Field::Ipv4Dst, 0x0a09_0000, 0xffff_0000)
}

fn filter() -> Filter {
    Filter {
        id: FilterId { hook: Hook::Ingress(Port(4)), chain: 0, prio: 2, protocol: 0x0800, handle: 1 },
        kind: Kind::Flower,
        matches: udp(),
        actions: vec![ct(), goto(1)],
        skip_sw: false,
        skip_hw: true,
        undecoded: Vec::new(),
    }
}

fn p(port: Port) -> String {
    format!("p{}", port.0 - 3)
}

#[test]
fn a_filter_in_one_line_and_in_many() {
    assert_eq!(
        printed(&filter(), &p).to_string(),
        "p1 chain 0 pref 2 handle 0x1 ip  ip_proto udp dst_ip 10.9.0.0/16 skip_hw  -> ct zone 5 nat, goto chain 1"
    );
    assert_eq!(
        format!("{:#}", printed(&filter(), &p)),
        "filter dev p1 ingress protocol ip pref 2 flower chain 0 handle 0x1
  eth_type ipv4
  ip_proto udp
  dst_ip 10.9.0.0/16
  skip_hw
\taction order 1: ct zone 5 nat pipe
\t index 3 cookie ab01
\taction order 2: gact action goto chain 1
\t index 3 cookie ab01"
    );
    let all = Filter {
        id: FilterId { hook: Hook::Block(22), protocol: 3, ..filter().id },
        kind: Kind::Other("u32".into()),
        matches: Match::default(),
        actions: Vec::new(),
        skip_hw: false,
        undecoded: vec!["TCA_FLOWER 84".into()],
        ..filter()
    };
    assert_eq!(
        all.to_string(),
        "block 22 chain 0 pref 2 handle 0x1 all  (u32, match not known) (not understood: TCA_FLOWER 84)  -> pass"
    );
}

#[test]
fn terms_are_tcs() {
    let show = |m: Match| m.to_string();
    let any = Match::default;
    assert_eq!(show(udp()), "eth_type ipv4 ip_proto udp dst_ip 10.9.0.0/16");
    assert_eq!(show(any()), "any");
    for (field, value, mask, text) in [
        (Field::EthDst, 0x0200_0000_0001, u128::MAX, "dst_mac 02:00:00:00:00:01"),
        (Field::EthDst, 0x0100_0000_0000, 0x0100_0000_0000, "dst_mac 01:00:00:00:00:00/01:00:00:00:00:00"),
        (Field::Ipv4Src, 0x0a00_0001, 0xff00_00ff, "src_ip 10.0.0.1/255.0.0.255"),
        (Field::Ipv6Src, 0xfd << 120, 0xff << 120, "src_ip fd00::/8"),
        (Field::EncIpv6Dst, 1, u128::MAX, "enc_dst_ip ::1"),
        (Field::CtState, ct_state::TRACKED | ct_state::ESTABLISHED, 0x2a, "ct_state +trk+est-rpl"),
        (Field::CtState, 0x40, 0x60, "ct_state -rpl+0x40"),
        (Field::CtZone, 5, u128::MAX, "ct_zone 5"),
        (Field::CtMark, 1, 0xff, "ct_mark 0x1/0xff"),
        (Field::CtLabels, 0x0201, u128::MAX, "ct_label 01020000000000000000000000000000"),
        (
            Field::CtLabels,
            1 << 127,
            1 << 127,
            "ct_label 00000000000000000000000000000080/00000000000000000000000000000080",
        ),
        (Field::IpFlags, 0, 1, "ip_flags nofrag"),
        (Field::IpFlags, 3, 3, "ip_flags frag/firstfrag"),
        (Field::TcpFlags, 0x10, 0x17, "tcp_flags 0x10/0x17"),
        (Field::IpProto, 47, u128::MAX, "ip_proto 0x2f"),
        (Field::IpTtl, 64, u128::MAX, "ip_ttl 64"),
        (Field::ArpOp, 1, u128::MAX, "arp_op request"),
        (Field::ArpOp, 3, u128::MAX, "arp_op 3"),
        (Field::ArpOp, 1, 0xf1, "arp_op 1/241"),
        (Field::IcmpType, 128, u128::MAX, "type 128"),
        (Field::IcmpCode, 0, 0xf0, "code 0/240"),
        (Field::DstPort, 80, 0xfff0, "dst_port 80/0xfff0"),
        (Field::EthType, 0x0800, 0xff00, "eth_type 0x800/0xff00"),
        (Field::AddrType, addr_type::IPV6, u128::MAX, "addr_type ipv6"),
        (Field::EthType, 0x8847, u128::MAX, "eth_type 0x8847"),
        (Field::Protocol, 0x88cc, u128::MAX, "protocol LLDP"),
        (Field::VlanEthType, 0x1234, u128::MAX, "vlan_ethtype 0x1234"),
        (Field::PppProto, 0xc021, u128::MAX, "ppp_proto lcp"),
    ] {
        assert_eq!(show(any().with(field, value, mask)), text);
    }
    let ranged = Match { src_range: Some(Range { min: 1, max: 10 }), ..any().exact(Field::Indev, 5) };
    assert_eq!(printed(&ranged, &p).to_string(), "indev p2 src_port 1-10");
    // Two tags: each ethertype names the next one, and is said once.
    let tagged = any()
        .exact(Field::Protocol, 0x88a8)
        .exact(Field::EthType, 0x86dd)
        .exact(Field::VlanTpid, 0x88a8)
        .exact(Field::VlanId, 100)
        .exact(Field::VlanEthType, 0x8100)
        .exact(Field::CvlanTpid, 0x8100)
        .exact(Field::CvlanEthType, 0x86dd);
    assert_eq!(show(tagged), "protocol 802.1ad eth_type ipv6 vlan_id 100 vlan_ethtype 802.1Q cvlan_ethtype ipv6");
}

fn key(header: PeditHeader, offset: i32, value: u32, written: u32) -> PeditKey {
    PeditKey { header, offset, mask: (!written).to_be_bytes(), value: value.to_be_bytes(), add: false, dynamic: None }
}

#[test]
fn pedit_names_the_fields_that_it_writes() {
    use PeditHeader::*;
    let show = |keys: &[PeditKey]| {
        let pedit = Pedit { keys: keys.to_vec(), mend: false };
        let text = action(ActionKind::Pedit(pedit), Control::Pipe).to_string();
        text.strip_prefix("pedit ex ").expect("its name").to_string()
    };
    let add = |k| PeditKey { add: true, ..k };
    // The two addresses share a word.
    let macs = [
        key(Ethernet, 0, 0x0200_0000, u32::MAX),
        key(Ethernet, 4, 0x0001_0000, 0xffff_0000),
        key(Ethernet, 4, 0x0000_0200, 0x0000_ffff),
        key(Ethernet, 8, 0x0000_0002, u32::MAX),
    ];
    assert_eq!(show(&macs), "munge eth dst set 02:00:00:00:00:01 munge eth src set 02:00:00:00:00:02");
    let v6 = [0xfd00_0000, 0, 0, 1].into_iter().zip([8, 12, 16, 20]);
    let v6: Vec<_> = v6.map(|(value, at)| key(Ipv6, at, value, u32::MAX)).collect();
    assert_eq!(show(&v6), "munge ip6 src set fd00::1");
    assert_eq!(show(&[key(Tcp, 0, 0x03e8_0050, u32::MAX)]), "munge tcp sport set 1000 munge tcp dport set 80");
    assert_eq!(show(&[key(Ipv4, 0, 0x00b8_0000, 0x00fc_0000)]), "munge ip tos set 0xb8 retain 0xfc");
    // Written twice: the order counts.
    let twice = [key(Ipv4, 12, 1, u32::MAX), key(Ipv4, 12, 2, u32::MAX)];
    assert_eq!(show(&twice), "munge ip src set 0.0.0.1 munge ip src set 0.0.0.2");
    assert_eq!(show(&[add(key(Ipv4, 8, 0xff00_0000, 0xff00_0000))]), "munge ip ttl add 255");
    assert_eq!(show(&[add(key(Ipv6, 4, 0xff, 0xff))]), "munge ip6 hoplimit add 255");
    // What is no field, or no plain write to one.
    assert_eq!(show(&[add(key(Tcp, 0, 1, 0xffff_ffff))]), "munge tcp+0: add 00000001 mask 00000000");
    assert_eq!(show(&[key(Ipv4, 12, 0xff, 0)]), "munge ipv4+12: val 000000ff mask ffffffff");
    assert_eq!(show(&[key(Network, 12, 1, u32::MAX)]), "munge offset 12 u32 set 0x00000001 retain 0xffffffff");
    let dynamic = PeditDynamic { at: 0, mask: 0x0f, shift: 2 };
    let moved = PeditKey { dynamic: Some(dynamic), ..key(Network, 0, 1, 0xff) };
    assert_eq!(show(&[moved]), "munge network+0 at 0 offmask 0xf shift 2: val 00000001 mask ffffff00");
}

#[test]
fn actions_are_tcs() {
    let mirred = |mirror, control| {
        let mirred = Mirred { port: Port(5), ingress: false, mirror };
        action(ActionKind::Mirred(mirred), control)
    };
    let nat = Ct {
        zone: 7,
        commit: true,
        mark: Some((1, 0xff)),
        nat: Some(Nat {
            side: Some(NatSide::Src),
            addresses: Some(([10, 0, 0, 1].into(), [10, 0, 0, 9].into())),
            ports: Some((1000, 1000)),
        }),
        ..Ct::default()
    };
    let mend = Pedit { keys: vec![key(PeditHeader::Udp, 0, 53, 0xffff)], mend: true };
    let push = Vlan::Push { protocol: 0x8100, id: 10, prio: 3 };
    let skbedit = Skbedit {
        queue: Some(1),
        priority: Some(3),
        mark: Some((1, u32::MAX)),
        ptype: Some(0),
        inherit_dsfield: false,
    };
    let list = [
        action(ActionKind::Ct(nat), Control::Pipe),
        action(ActionKind::Pedit(mend), Control::Pipe),
        action(ActionKind::Csum(CsumFlags::IPV4 | CsumFlags::UDP), Control::Pipe),
        action(ActionKind::Vlan(push), Control::Pipe),
        action(ActionKind::Skbedit(skbedit), Control::Pipe),
        mirred(true, Control::Pipe),
        mirred(false, Control::Stolen),
    ];
    assert_eq!(
        format!("{:#}", printed(&list[..], &p)),
        "action ct commit zone 7 mark 0x1/0xff nat src addr 10.0.0.1-10.0.0.9 port 1000 pipe \
         action pedit ex mend munge udp dport set 53 pipe \
         action csum ip4h and udp pipe \
         action vlan push protocol 802.1Q id 10 priority 3 pipe \
         action skbedit queue_mapping 1 priority :3 mark 0x1 ptype host pipe \
         action mirred egress mirror dev p2 pipe \
         action mirred egress redirect dev p2"
    );
    assert_eq!(printed(&list[5..], &p).to_string(), "mirred egress mirror dev p2, mirred egress redirect dev p2");
    assert_eq!(mirred(false, Control::Pipe).to_string(), "mirred egress redirect dev if5 pipe");
    assert_eq!(goto(3).to_string(), "goto chain 3");
}
