use super::*;
use crate::flower::{
    ActionKind, Control, Field, FilterId, Range,
    action::{
        CsumFlags, Ct, Mirred, Mpls, MplsEntry, Nat, NatSide, Pedit, PeditDynamic, PeditHeader, PeditKey, Police,
        Sample, Skbedit, Skbmod, StatelessNat, TunnelKey, Vlan,
    },
    field::{addr_type, ct_state},
    tunnel::{Erspan, GeneveOption, Tunnel, TunnelFlags, TunnelOptions, option_field},
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
        (Field::Spi, 0x100, u128::MAX, "spi 0x100"),
        (Field::L2Miss, 1, u128::MAX, "l2_miss 1"),
        (Field::EncFlags, 4, 12, "enc_flags tuncsum/notundf"),
        (Field::NumOfVlans, 2, u128::MAX, "num_of_vlans 2"),
        (Field::L2tpv3Sid, 7, u128::MAX, "l2tpv3_sid 7"),
        (Field::Hash, 0x15, 0xff, "hash 0x15/0xff"),
        // No words of tc's: an entry that is not there, one of which nothing says that it is, options in part.
        (Field::Mpls6, 0, u128::MAX, "mpls_lse6 0"),
        (Field::Mpls2Label, 5, u128::MAX, "mpls2_label 5"),
        (Field::EncOptsType, 0x800, u128::MAX, "enc_opts_type 0x800"),
        (
            Field::EncOpts1,
            1 << 120,
            0xff << 120,
            "enc_opts1 0x1000000000000000000000000000000/0xff000000000000000000000000000000",
        ),
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
fn a_pedit_far_outside_of_the_packet_is_printed() {
    for (offset, text) in [(i32::MAX, "+2147483647"), (i32::MIN, "-2147483648")] {
        let add = PeditKey { add: true, offset, ..key(PeditHeader::Ipv4, 0, 0x0100_0000, 0xff00_0000) };
        let pedit = Pedit { keys: vec![add], mend: false };
        let text = format!("ipv4{text}: add 01000000 mask 00ffffff");
        assert!(action(ActionKind::Pedit(pedit), Control::Pipe).to_string().ends_with(&text));
    }
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
        action(ActionKind::Csum(CsumFlags::empty()), Control::Pipe),
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
         action csum pipe \
         action vlan push protocol 802.1Q id 10 priority 3 pipe \
         action skbedit queue_mapping 1 priority :3 mark 0x1 ptype host pipe \
         action mirred egress mirror dev p2 pipe \
         action mirred egress redirect dev p2"
    );
    assert_eq!(printed(&list[6..], &p).to_string(), "mirred egress mirror dev p2, mirred egress redirect dev p2");
    assert_eq!(mirred(false, Control::Pipe).to_string(), "mirred egress redirect dev if5 pipe");
    assert_eq!(goto(3).to_string(), "goto chain 3");
}

#[test]
fn a_label_stack_is_told_entry_by_entry() {
    let mpls = Match::default().exact(Field::Mpls1, 1).exact(Field::MplsLabel, 7).exact(Field::MplsTtl, 64);
    assert_eq!(mpls.to_string(), "mpls_label 7 mpls_ttl 64");
    let two =
        mpls.exact(Field::Mpls3, 1).exact(Field::Mpls3Tc, 3).exact(Field::Mpls3Bos, 0).exact(Field::EthType, 0x8847);
    assert_eq!(two.to_string(), "eth_type 0x8847 mpls lse depth 1 label 7 ttl 64 lse depth 3 tc 3 bos 0");
    assert_eq!(Match::default().exact(Field::Mpls1, 1).to_string(), "mpls lse depth 1");
    assert_eq!(Match::default().exact(Field::Mpls6, 1).to_string(), "mpls lse depth 6");
    let absent = two.exact(Field::Mpls4, 0);
    assert_eq!(
        absent.to_string(),
        "eth_type 0x8847 mpls_label 7 mpls_ttl 64 mpls_lse3 1 mpls3_tc 3 mpls3_bos 0 mpls_lse4 0"
    );
    let cfm = Match::default().exact(Field::CfmLevel, 5).exact(Field::CfmOpcode, 47);
    assert_eq!(cfm.to_string(), "cfm mdl 5 op 47");
}

#[test]
fn options_of_tunnels_are_tcs() {
    let show = |options: TunnelOptions, mask: TunnelOptions| {
        let (kind, key, mask) = (options.kind(), options.bytes(), mask.bytes());
        let length = key.len() as u128;
        let mut m = Match::default().exact(Field::EncKeyId, 5);
        m = m.with(Field::EncOptsType, kind, kind).with(Field::EncOptsLen, length, length);
        for (at, field) in Field::OPTIONS.into_iter().enumerate() {
            m.set(field, option_field(&key, at), option_field(&mask, at));
        }
        m.to_string().strip_prefix("enc_key_id 5 ").unwrap().to_owned()
    };
    let option = |class, kind, data: &[u8]| GeneveOption { class, kind, data: data.to_vec() };
    assert_eq!(
        show(
            TunnelOptions::Geneve(vec![option(0x102, 0x80, &[0, 0, 0, 1]), option(0x103, 1, &[0x11; 8])]),
            TunnelOptions::Geneve(vec![option(0xffff, 0xff, &[0xff; 4]), option(0xff00, 0xf, &[0xff; 8])]),
        ),
        "geneve_opts 0102:80:00000001,0100:01:1111111111111111/ffff:ff:ffffffff,ff00:0f:ffffffffffffffff"
    );
    let vxlan = |gbp| TunnelOptions::Vxlan { gbp };
    assert_eq!(show(vxlan(257), vxlan(0xffff)), "vxlan_opts 257/65535");
    let index = |index| TunnelOptions::Erspan(Erspan::Index(index));
    assert_eq!(show(index(2), index(u32::MAX)), "erspan_opts 1:2:0:0/1:4294967295:0:0");
    let hardware = |dir, hwid| TunnelOptions::Erspan(Erspan::Hardware { dir, hwid });
    assert_eq!(show(hardware(1, 63), hardware(1, 63)), "erspan_opts 2:0:1:63/2:0:1:63");
    let gtp = |pdu_type, qfi| TunnelOptions::Gtp { pdu_type, qfi };
    assert_eq!(show(gtp(1, 2), gtp(0xff, 0xff)), "gtp_opts 01:02/ff:ff");
}

/// As iproute2 6.1 shows them, but for what it shows on several lines.
#[test]
fn the_other_actions_are_tcs() {
    let show = |kind| action(kind, Control::Pipe).to_string();
    let entry = MplsEntry { label: Some(5), tc: Some(3), bos: None, ttl: Some(64) };
    let some = MplsEntry { bos: Some(false), ..MplsEntry::default() };
    for (mpls, text) in [
        (Mpls::Push { protocol: 0x8847, entry }, "mpls push protocol mpls_uc label 5 tc 3 ttl 64"),
        (Mpls::PushMac { protocol: 0x8848, entry }, "mpls mac_push protocol mpls_mc label 5 tc 3 ttl 64"),
        (Mpls::Pop { protocol: 0x0800 }, "mpls pop protocol ip"),
        (Mpls::Modify(some), "mpls modify bos 0"),
        (Mpls::DecTtl, "mpls dec_ttl"),
    ] {
        assert_eq!(show(ActionKind::Mpls(mpls)), text);
    }
    let tunnel = Tunnel {
        id: Some(5),
        src: [10, 0, 0, 1].into(),
        dst: [10, 0, 0, 2].into(),
        src_port: 0,
        dst_port: 6081,
        tos: 8,
        ttl: 64,
        flags: TunnelFlags::CSUM,
        options: TunnelOptions::Geneve(vec![GeneveOption { class: 0x102, kind: 0x80, data: vec![0, 0, 0, 1] }]),
    };
    let set = |tunnel| show(ActionKind::TunnelKey(TunnelKey::Set(Box::new(tunnel))));
    assert_eq!(
        set(tunnel.clone()),
        "tunnel_key set src_ip 10.0.0.1 dst_ip 10.0.0.2 id 5 dst_port 6081 geneve_opts 0102:80:00000001 csum tos 8 ttl 64"
    );
    let bare = Tunnel {
        id: None,
        dst_port: 0,
        tos: 0,
        ttl: 0,
        flags: TunnelFlags::DONT_FRAGMENT,
        options: TunnelOptions::Vxlan { gbp: 257 },
        ..tunnel
    };
    assert_eq!(set(bare), "tunnel_key set src_ip 10.0.0.1 dst_ip 10.0.0.2 vxlan_opts 257 nocsum nofrag");
    assert_eq!(show(ActionKind::TunnelKey(TunnelKey::Unset)), "tunnel_key unset");
    let nat = |mask, egress| show(ActionKind::Nat(StatelessNat { old: 0x0a00_0000, new: 0xc0a8_0000, mask, egress }));
    assert_eq!(nat(0xffff_ff00, false), "nat ingress 10.0.0.0/24 192.168.0.0");
    assert_eq!(nat(0xff00_00ff, true), "nat egress 10.0.0.0/255.0.0.255 192.168.0.0");
    let set = Skbmod::Set { dst: Some([2, 0, 0, 0, 0, 1]), src: Some([2; 6]), ethertype: Some(0x86dd) };
    assert_eq!(show(ActionKind::Skbmod(set)), "skbmod set dmac 02:00:00:00:00:01 smac 02:02:02:02:02:02 etype 0x86dd");
    assert_eq!(show(ActionKind::Skbmod(Skbmod::Swap)), "skbmod swap mac");
    assert_eq!(show(ActionKind::Skbmod(Skbmod::Ecn)), "skbmod ecn");
    let sample = Sample { rate: 100, group: 5, truncate: Some(64) };
    assert_eq!(show(ActionKind::Sample(sample)), "sample rate 1/100 group 5 trunc_size 64");
    let police = |police| action(ActionKind::Police(police), Control::Shot).to_string();
    let rate = Police { rate: 125_000, burst: 1_280_000, mtu: 2000, conform: Control::Pipe, ..Police::default() };
    assert_eq!(police(rate), "police rate 1Mbit burst 10240b mtu 2000b conform-exceed drop/pipe");
    let more = Police { shared: true, peak_rate: 250_000, overhead: 14, link_layer: 2, ..rate };
    assert_eq!(
        police(more),
        "police index 3 rate 1Mbit burst 10240b mtu 2000b peakrate 2Mbit conform-exceed drop/pipe overhead 14 linklayer atm"
    );
    let packets = Police { packet_rate: 1000, packet_burst: 7_812_500, mtu: 1500, ..Police::default() };
    assert_eq!(police(packets), "police mtu 1500b pkts_rate 1000 pkts_burst 500 conform-exceed drop/pass");
    let shown = format!("{:#}", Filter { actions: vec![action(ActionKind::Police(rate), Control::Shot)], ..filter() });
    assert!(shown.ends_with(
        "action order 1: police rate 1Mbit burst 10240b mtu 2000b conform-exceed drop/pipe\n\t index 3 cookie ab01"
    ));
}
