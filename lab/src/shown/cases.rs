//! Filters that say everything that [`flowmerge::netlink::encode_front`] can say, and some that `tc` itself has added.

mod nests;

use crate::case;
use flowmerge::flower::{
    Action, ActionKind, Control, Field, Filter, FilterId, Hook, Match, Range,
    action::{CsumFlags, Ct, Mirred, Nat, NatSide, Pedit, PeditDynamic, PeditHeader, PeditKey, Random, Skbedit, Vlan},
    ethertype as et,
    field::{addr_type, ct_state, ip_flags},
};

fn any() -> Match {
    Match::default()
}

/// What a merged filter compares first.
fn merged(ethertype: u16) -> Match {
    any().exact(Field::EthType, ethertype.into())
}

fn of_protocol(protocol: u16) -> Match {
    let m = any().exact(Field::Protocol, protocol.into());
    if et::is_vlan(protocol) {
        m.exact(Field::VlanTpid, protocol.into())
    } else {
        m.exact(Field::EthType, protocol.into())
    }
}

/// Without the filter's own protocol, which is `all`.
fn in_front(mut m: Match) -> Match {
    m.clear(Field::Protocol);
    m
}

fn tagged(tpid: u16, behind: u16) -> Match {
    of_protocol(tpid).exact(Field::VlanEthType, behind.into()).exact(Field::EthType, behind.into())
}

fn twice_tagged() -> Match {
    of_protocol(et::QINQ)
        .exact(Field::VlanEthType, et::VLAN.into())
        .exact(Field::CvlanTpid, et::VLAN.into())
        .exact(Field::CvlanEthType, et::IPV6.into())
        .exact(Field::EthType, et::IPV6.into())
}

fn ipv4(m: Match) -> Match {
    m.exact(Field::AddrType, addr_type::IPV4)
}

fn ipv6(m: Match) -> Match {
    m.exact(Field::AddrType, addr_type::IPV6)
}

fn proto(m: Match, proto: u128) -> Match {
    m.exact(Field::IpProto, proto)
}

const V4: u16 = et::IPV4;
const V6: u16 = et::IPV6;

/// Every field that Linux takes, exactly and under masks.
fn matches() -> Vec<Match> {
    use Field::*;
    let flags = |value, mask| merged(V4).with(IpFlags, value, mask);
    let state = |value, mask| merged(V4).with(CtState, value, mask);
    let mut all = vec![
        any(),
        merged(V4),
        merged(V6),
        merged(0x1234),
        of_protocol(0x1234),
        any().exact(Indev, case::port(2).0.into()),
        merged(V4).exact(EthDst, 0x0200_0000_0001).with(EthSrc, 0x0100_0000_0000, 0x0100_0000_0000),
        merged(V4).with(EthDst, 0xaabb_cc00_0000, 0xffff_ff00_0000).with(EthSrc, 0, 0xffff),
        // Addresses.
        ipv4(merged(V4)).exact(Ipv4Src, 0x0a00_0001).with(Ipv4Dst, 0x0a09_0000, 0xffff_0000),
        ipv4(merged(V4)).with(Ipv4Src, 0x0a00_0001, 0xff00_00ff).with(Ipv4Dst, 1, 1),
        ipv4(any()).exact(Ipv4Src, 0x0a00_0001),
        ipv6(merged(V6)).with(Ipv6Src, 0xfd << 120, 0xff << 120).exact(Ipv6Dst, 1),
        ipv6(merged(V6)).with(Ipv6Src, 0x10_0000, 0xffff_0000).exact(Ipv6Dst, 0x0a00_0001),
        ipv6(merged(V6)).with(Ipv6Src, 0xffff_0a00_0001, 0xffff_ffff_ffff).exact(Ipv6Dst, 0xffff_0a00_0001),
        // The IP header.
        merged(V4).exact(IpTos, 0xb8).exact(IpTtl, 64),
        merged(V6).with(IpTos, 0xb8, 0xfc).with(IpTtl, 0x40, 0xc0),
        flags(0, 1),
        flags(1, 3),
        flags(3, 3),
        flags(0, 2),
        // What is above it.
        proto(merged(V4), 6).exact(SrcPort, 80).with(DstPort, 0x50, 0xfff0).with(TcpFlags, 0x10, 0x17),
        proto(merged(V6), 6).exact(TcpFlags, 0x12),
        proto(merged(V6), 17).with(SrcPort, 0x8000, 0x8000).exact(DstPort, 53),
        proto(merged(V4), 132).exact(SrcPort, 1).with(DstPort, 2, 0xff),
        proto(merged(V4), 1).exact(IcmpType, 8).exact(IcmpCode, 0),
        proto(merged(V4), 1).with(IcmpType, 0x80, 0xa9).with(IcmpCode, 1, 0x0f),
        proto(merged(V6), 58).exact(IcmpType, 128).with(IcmpCode, 0, 0xf0),
        proto(merged(V4), 2),
        proto(merged(V6), 47),
        proto(merged(V4), 136),
        proto(merged(V4), 115).exact(L2tpv3Sid, 77),
        Match { src_range: Some(Range { min: 1, max: 10 }), ..proto(merged(V4), 6) },
        Match {
            src_range: Some(Range { min: 1000, max: 65535 }),
            dst_range: Some(Range { min: 79, max: 80 }),
            ..proto(merged(V6), 17)
        },
        Match { dst_range: Some(Range { min: 100, max: 1000 }), ..proto(merged(V4), 6).with(DstPort, 2, 6) },
        Match { src_range: Some(Range { min: 100, max: 1000 }), ..proto(merged(V4), 132).with(SrcPort, 2, 6) },
        // ARP.
        merged(et::ARP).exact(ArpSip, 0x0a00_0001).with(ArpTip, 0x0a00_0000, 0xff00_0000).exact(ArpOp, 1),
        merged(et::ARP).exact(ArpSha, 0x0200_0000_0001).with(ArpTha, 0x0200_0000_0000, 0xff00_0000_0000),
        merged(et::RARP).with(ArpOp, 1, 0xf1).with(ArpSip, 1, 3).with(ArpSha, 1, 1),
        of_protocol(et::ARP).exact(ArpOp, 2),
        of_protocol(et::RARP).exact(ArpOp, 3),
        // Tags.
        of_protocol(et::VLAN),
        of_protocol(et::VLAN).exact(VlanId, 100).exact(VlanPrio, 3),
        of_protocol(et::QINQ).exact(VlanId, 0).exact(VlanPrio, 0),
        tagged(et::VLAN, V4).exact(VlanId, 4095),
        tagged(et::VLAN, et::ARP).exact(ArpOp, 1),
        tagged(et::QINQ, 0x1234),
        ipv6(twice_tagged()).exact(VlanId, 10).exact(CvlanId, 20).exact(CvlanPrio, 7).exact(Ipv6Dst, 1),
        of_protocol(et::QINQ).exact(VlanEthType, et::VLAN.into()).exact(CvlanTpid, et::VLAN.into()).exact(CvlanId, 20),
        // Tags of merged filters, whose protocol is `all`.
        any().exact(NumOfVlans, 0),
        merged(V4).exact(NumOfVlans, 0),
        any().exact(NumOfVlans, 1),
        any().exact(NumOfVlans, 2),
        any().exact(NumOfVlans, 1).exact(VlanId, 5),
        any().exact(NumOfVlans, 2).exact(VlanId, 5).exact(CvlanId, 6).exact(CvlanPrio, 1),
        any().exact(VlanTpid, et::VLAN.into()).exact(VlanId, 5),
        any().exact(VlanTpid, et::VLAN.into()).exact(VlanId, 5).exact(VlanEthType, V4.into()).exact(EthType, V4.into()),
        any().exact(NumOfVlans, 1).exact(VlanEthType, V4.into()).exact(EthType, V4.into()),
        twice_tagged().exact(NumOfVlans, 2),
        any().exact(VlanTpid, et::VLAN.into()).exact(NumOfVlans, 1).exact(VlanId, 5),
        in_front(twice_tagged()).exact(VlanId, 5).exact(CvlanId, 6),
        in_front(of_protocol(et::QINQ)),
        // Conntrack.
        state(ct_state::TRACKED | ct_state::NEW, ct_state::TRACKED | ct_state::NEW),
        state(ct_state::TRACKED | ct_state::ESTABLISHED, 0x3f),
        state(0, ct_state::TRACKED),
        merged(V4).exact(CtZone, 5).exact(CtMark, 1).exact(CtLabels, 0x0201),
        merged(V6).with(CtZone, 5, 0xff).with(CtMark, 1, 0xff).with(CtLabels, 1 << 127, 1 << 127 | 1),
        // Tunnels.
        any()
            .exact(EncKeyId, 5)
            .exact(EncDstPort, 4789)
            .with(EncSrcPort, 0x10, 0xfff0)
            .exact(EncTos, 4)
            .with(EncTtl, 64, 0xc0),
        any().exact(EncAddrType, addr_type::IPV4).exact(EncIpv4Src, 0x0102_0304).with(
            EncIpv4Dst,
            0x0a00_0000,
            0xff00_0000,
        ),
        any().exact(EncAddrType, addr_type::IPV6).exact(EncIpv6Src, 1).with(EncIpv6Dst, 0xfd << 120, 0xff << 120),
        // The rest.
        any().exact(Hash, 5),
        any().with(Hash, 5, 0xff),
        any().exact(Protocol, et::PPPOE.into()).exact(PppoeSid, 7).exact(PppProto, 0x21).exact(EthType, V4.into()),
        any().exact(Protocol, et::PPPOE.into()).exact(PppProto, 0xc021).exact(EthType, et::PPPOE.into()),
        any().exact(Protocol, et::PPPOE.into()).exact(PppProto, 0x1235).exact(EthType, et::PPPOE.into()),
    ];
    // Ethertypes with names and without, alone and under a tag.
    for protocol in
        [et::ARP, et::RARP, et::MPLS, et::MPLS_MC, 0x8863, et::BATMAN, et::HSR, et::PRP, et::NOVELL, et::LLC, 0x8892]
    {
        all.extend([merged(protocol), of_protocol(protocol), tagged(et::VLAN, protocol)]);
    }
    all.extend(nests::matches());
    all
}

fn pipe(kind: ActionKind) -> Action {
    Action::new(kind, Control::Pipe)
}

fn ct(ct: Ct) -> Action {
    pipe(ActionKind::Ct(ct))
}

fn word(header: PeditHeader, offset: i32, value: u32, written: u32) -> PeditKey {
    PeditKey { header, offset, mask: (!written).to_be_bytes(), value: value.to_be_bytes(), add: false, dynamic: None }
}

fn add(key: PeditKey) -> PeditKey {
    PeditKey { add: true, ..key }
}

fn pedit(keys: &[PeditKey]) -> Action {
    pipe(ActionKind::Pedit(Pedit { keys: keys.to_vec(), mend: false }))
}

/// Every action that Linux takes.
fn actions() -> Vec<Vec<Action>> {
    use PeditHeader::*;
    let nat = |side, low: &str, high: &str, ports| {
        let addresses = Some((low.parse().unwrap(), high.parse().unwrap()));
        let nat = Some(Nat { side: Some(side), addresses, ports });
        ct(Ct { zone: 7, commit: true, nat, ..Ct::default() })
    };
    let edit = |skbedit| pipe(ActionKind::Skbedit(skbedit));
    let vlan = |vlan| pipe(ActionKind::Vlan(vlan));
    let csum = |flags| pipe(ActionKind::Csum(flags));
    let prio = |prio| edit(Skbedit { priority: Some(prio), ..Skbedit::default() });
    let send = |port, ingress, mirror, control| {
        Action::new(ActionKind::Mirred(Mirred { port: case::port(port), ingress, mirror }), control)
    };
    let random = |kind| {
        let random = Some(Random { kind, value: 5, control: Control::Shot });
        pipe(ActionKind::Gact { random })
    };
    let gact = Action::gact;
    vec![
        vec![],
        [Control::Pipe, Control::Jump(1), Control::Ok, Control::Reclassify, Control::Shot].map(gact).into(),
        [Control::Stolen, Control::Queued, Control::Repeat, Control::Trap, Control::Continue, Control::Goto(7)]
            .map(gact)
            .into(),
        vec![random(1), random(2)],
        vec![
            send(2, false, true, Control::Pipe),
            send(3, true, true, Control::Continue),
            send(2, false, false, Control::Stolen),
        ],
        vec![
            send(2, true, false, Control::Stolen),
            send(2, false, false, Control::Pipe),
            send(2, false, true, Control::Shot),
        ],
        vec![
            ct(Ct::default()),
            ct(Ct { zone: 5, nat: Some(Nat::default()), ..Ct::default() }),
            ct(Ct { clear: true, ..Ct::default() }),
        ],
        vec![
            ct(Ct {
                zone: 65535,
                commit: true,
                force: true,
                mark: Some((1, 0xff)),
                labels: Some((1, 0xff)),
                ..Ct::default()
            }),
            ct(Ct { commit: true, mark: Some((7, u32::MAX)), labels: Some((1 << 127, u128::MAX)), ..Ct::default() }),
        ],
        vec![
            nat(NatSide::Src, "10.0.0.1", "10.0.0.9", Some((1000, 2000))),
            nat(NatSide::Dst, "10.0.0.1", "10.0.0.1", Some((80, 80))),
            nat(NatSide::Src, "fd00::1", "fd00::9", None),
            nat(NatSide::Dst, "::10:0", "::10:0", None),
            ct(Ct {
                commit: true,
                nat: Some(Nat { side: Some(NatSide::Src), addresses: None, ports: None }),
                ..Ct::default()
            }),
            ct(Ct {
                commit: true,
                nat: Some(Nat { side: Some(NatSide::Dst), addresses: None, ports: Some((1, 2)) }),
                ..Ct::default()
            }),
        ],
        vec![
            pedit(&[
                word(Ethernet, 0, 0x0200_0000, u32::MAX),
                word(Ethernet, 4, 0x0001_0000, 0xffff_0000),
                word(Ethernet, 4, 0x0000_0200, 0x0000_ffff),
                word(Ethernet, 8, 0x0000_0002, u32::MAX),
                word(Ethernet, 12, 0x1234_0000, 0xffff_0000),
            ]),
            pedit(&[
                word(Ipv4, 0, 0x00b8_0000, 0x00fc_0000),
                word(Ipv4, 8, 0x4011_0000, 0xffff_0000),
                word(Ipv4, 12, 0x0102_0304, u32::MAX),
                word(Ipv4, 16, 0x0000_0004, 0x0000_000f),
                add(word(Ipv4, 8, 0xff00_0000, 0xff00_0000)),
            ]),
            pedit(&[
                word(Ipv6, 0, 0x0ff1_2345, 0x0fff_ffff),
                word(Ipv6, 4, 0x0010_1140, 0xffff_ffff),
                word(Ipv6, 8, 0xfd00_0000, u32::MAX),
                word(Ipv6, 12, 0, u32::MAX),
                word(Ipv6, 16, 0, u32::MAX),
                word(Ipv6, 20, 1, u32::MAX),
                word(Ipv6, 36, 0x43, 0xff),
                add(word(Ipv6, 4, 0xff, 0xff)),
            ]),
            pedit(&[
                word(Tcp, 0, 0x03e8_0050, u32::MAX),
                word(Tcp, 12, 0x0002_0000, 0x00ff_0000),
                word(Udp, 0, 53, 0xffff),
            ]),
        ],
        vec![
            // What is no field, or no plain write to one.
            pedit(&[word(Ipv4, 12, 1, u32::MAX), word(Ipv4, 12, 2, u32::MAX)]),
            pedit(&[add(word(Tcp, 0, 1, u32::MAX)), word(Tcp, 4, 0x55, 0xff), word(Udp, 4, 0, 0xffff)]),
            pedit(&[word(Ipv4, 12, 0xff, 0), word(Ipv4, 12, 0, 0), word(Tcp, 0, 0x0001_0001, 0xffff)]),
            pedit(&[word(Network, 12, 1, 0xff), word(Network, -4, 1, u32::MAX)]),
            pedit(&[PeditKey {
                dynamic: Some(PeditDynamic { at: 0, mask: 0x0f, shift: 2 }),
                ..word(Network, 20, 1, 0xff)
            }]),
            pedit(&[PeditKey {
                dynamic: Some(PeditDynamic { at: 0, mask: 0x0f, shift: 2 }),
                ..word(Tcp, 20, 1, 0xff)
            }]),
        ],
        vec![
            csum(CsumFlags::IPV4 | CsumFlags::TCP | CsumFlags::UDP),
            csum(CsumFlags::ICMP | CsumFlags::IGMP | CsumFlags::UDPLITE | CsumFlags::SCTP),
            csum(CsumFlags::SCTP),
        ],
        vec![
            vlan(Vlan::Pop),
            vlan(Vlan::Push { protocol: et::VLAN, id: 10, prio: 0 }),
            vlan(Vlan::Push { protocol: et::QINQ, id: 4094, prio: 7 }),
            vlan(Vlan::Modify { protocol: et::VLAN, id: 5, prio: None }),
            vlan(Vlan::Modify { protocol: et::QINQ, id: 5, prio: Some(0) }),
            vlan(Vlan::PopEthernet),
            vlan(Vlan::PushEthernet { dst: [2, 0, 0, 0, 0, 9], src: [2, 0, 0, 0, 0, 8] }),
        ],
        vec![
            edit(Skbedit {
                queue: Some(1),
                priority: Some(0x0001_0002),
                mark: Some((1, u32::MAX)),
                ptype: Some(0),
                inherit_dsfield: true,
            }),
            edit(Skbedit { mark: Some((1, 0xff)), ptype: Some(1), ..Skbedit::default() }),
            edit(Skbedit { ptype: Some(2), ..Skbedit::default() }),
            edit(Skbedit { ptype: Some(3), ..Skbedit::default() }),
        ],
        vec![prio(3), prio(0x0003_0000), prio(0), prio(u32::MAX), prio(0x0001_0010)],
        vec![Action { cookie: vec![0xab, 1], ..gact(Control::Ok) }, Action { index: 77, ..gact(Control::Shot) }],
    ]
    .into_iter()
    .chain(nests::actions())
    .collect()
}

/// One filter for each match and each list of actions.
pub(super) fn filters() -> Vec<Filter> {
    let with = |m: Match, actions| Filter::alone(case::port(1), 0, m, actions);
    let of_matches = matches().into_iter().map(|m| with(m, vec![Action::gact(Control::Shot)]));
    // No two filters of a priority may have the same match.
    let of_actions =
        actions().into_iter().zip(1..).map(|(actions, n)| with(merged(V4).exact(Field::EthSrc, n), actions));
    let mut protocols = Vec::new();
    let mut all: Vec<Filter> = of_matches.chain(of_actions).collect();
    for (filter, handle) in all.iter_mut().zip(1..) {
        // A priority has one protocol. Merged filters have the first priority.
        let prio = protocols.iter().position(|p| *p == filter.id.protocol).unwrap_or_else(|| {
            protocols.push(filter.id.protocol);
            protocols.len() - 1
        });
        filter.id.prio = 1 + prio as u16;
        filter.id.chain = handle % 3;
        filter.id.handle = handle;
        filter.skip_hw = handle % 2 == 0;
    }
    all
}

/// What `tc filter add dev p1 ingress chain 9` was told, and what that is.
pub(super) fn told_by_tc() -> Vec<(&'static str, Filter)> {
    use Field::*;
    use PeditHeader::*;
    let (shot, pass) = (|| Action::gact(Control::Shot), || Action::gact(Control::Ok));
    let send = |ingress, mirror, control| {
        Action::new(ActionKind::Mirred(Mirred { port: case::port(2), ingress, mirror }), control)
    };
    let all: Vec<(&str, Match, Vec<Action>)> = vec![
        (
            "protocol ip pref 1 flower ip_proto udp dst_ip 10.9.0.0/16 src_ip 10.0.0.1 src_port 80 dst_port 80/0xfff0 ip_tos 0xb8/0xfc \
             ip_ttl 64/0xf0 ip_flags nofrag action ct zone 5 nat pipe action goto chain 1",
            proto(ipv4(of_protocol(V4)), 17)
                .with(Ipv4Dst, 0x0a09_0000, 0xffff_0000)
                .exact(Ipv4Src, 0x0a00_0001)
                .exact(SrcPort, 80)
                .with(DstPort, 80, 0xfff0)
                .with(IpTos, 0xb8, 0xfc)
                .with(IpTtl, 64, 0xf0)
                .with(IpFlags, 0, ip_flags::FRAG),
            vec![ct(Ct { zone: 5, nat: Some(Nat::default()), ..Ct::default() }), Action::gact(Control::Goto(1))],
        ),
        (
            "protocol ip pref 1 flower ct_state +trk+est-rpl ct_zone 5 ct_mark 1/0xff ct_label 0102/ff02 \
             action ct commit force zone 7 mark 1/0xff label 01/ff nat src addr 10.0.0.1-10.0.0.9 port 1000-2000 \
             action mirred egress mirror dev p2 action mirred ingress redirect dev p2",
            of_protocol(V4)
                .with(CtState, ct_state::TRACKED | ct_state::ESTABLISHED, 0x2a)
                .exact(CtZone, 5)
                .with(CtMark, 1, 0xff)
                .with(CtLabels, 0x0201, 0x02ff),
            vec![
                ct(Ct {
                    zone: 7,
                    commit: true,
                    force: true,
                    mark: Some((1, 0xff)),
                    labels: Some((1, 0xff)),
                    nat: Some(Nat {
                        side: Some(NatSide::Src),
                        addresses: Some(([10, 0, 0, 1].into(), [10, 0, 0, 9].into())),
                        ports: Some((1000, 2000)),
                    }),
                    ..Ct::default()
                }),
                send(false, true, Control::Pipe),
                send(true, false, Control::Stolen),
            ],
        ),
        (
            "protocol ip pref 1 flower indev p1 dst_mac 02:00:00:00:00:01 src_mac 01:00:00:00:00:00/01:00:00:00:00:00 ip_proto tcp \
             tcp_flags 0x10/17 src_port 1-10 dst_port 5-6 action mirred egress redirect dev p2",
            Match {
                src_range: Some(Range { min: 1, max: 10 }),
                dst_range: Some(Range { min: 5, max: 6 }),
                ..proto(of_protocol(V4), 6)
                    .exact(Indev, case::port(1).0.into())
                    .exact(EthDst, 0x0200_0000_0001)
                    .with(EthSrc, 0x0100_0000_0000, 0x0100_0000_0000)
                    .with(TcpFlags, 0x10, 0x17)
            },
            vec![send(false, false, Control::Stolen)],
        ),
        (
            "protocol ipv6 pref 2 flower ip_proto icmpv6 type 128 code 0/240 dst_ip fd00::/8 action drop",
            proto(ipv6(of_protocol(V6)), 58).exact(IcmpType, 128).with(IcmpCode, 0, 240).with(
                Ipv6Dst,
                0xfd << 120,
                0xff << 120,
            ),
            vec![shot()],
        ),
        (
            "protocol arp pref 3 flower arp_sip 10.0.0.0/8 arp_tip 10.0.0.1 arp_op request arp_sha 02:00:00:00:00:01 \
             arp_tha 02:00:00:00:00:00/8 action pass",
            of_protocol(et::ARP)
                .with(ArpSip, 0x0a00_0000, 0xff00_0000)
                .exact(ArpTip, 0x0a00_0001)
                .exact(ArpOp, 1)
                .exact(ArpSha, 0x0200_0000_0001)
                .with(ArpTha, 0x0200_0000_0000, 0xff00_0000_0000),
            vec![pass()],
        ),
        (
            "protocol 802.1ad pref 4 flower vlan_id 100 vlan_prio 3 vlan_ethtype 802.1Q cvlan_id 7 cvlan_ethtype ipv6 src_ip ::1 \
             action vlan pop action vlan push id 6 action vlan modify id 5 action vlan push_eth dst_mac 02:00:00:00:00:09 \
             src_mac 02:00:00:00:00:08 action trap",
            ipv6(twice_tagged()).exact(VlanId, 100).exact(VlanPrio, 3).exact(CvlanId, 7).exact(Ipv6Src, 1),
            vec![
                pipe(ActionKind::Vlan(Vlan::Pop)),
                pipe(ActionKind::Vlan(Vlan::Push { protocol: et::VLAN, id: 6, prio: 0 })),
                pipe(ActionKind::Vlan(Vlan::Modify { protocol: et::VLAN, id: 5, prio: None })),
                pipe(ActionKind::Vlan(Vlan::PushEthernet { dst: [2, 0, 0, 0, 0, 9], src: [2, 0, 0, 0, 0, 8] })),
                Action::gact(Control::Trap),
            ],
        ),
        (
            "protocol all pref 5 flower num_of_vlans 1 action skbedit queue_mapping 1 priority :3 mark 1/0xff ptype host \
             action skbedit inheritdsfield action reclassify random determ drop 5 cookie ab01",
            any().exact(NumOfVlans, 1),
            vec![
                pipe(ActionKind::Skbedit(Skbedit {
                    queue: Some(1),
                    priority: Some(3),
                    mark: Some((1, 0xff)),
                    ptype: Some(0),
                    inherit_dsfield: false,
                })),
                pipe(ActionKind::Skbedit(Skbedit { inherit_dsfield: true, ..Skbedit::default() })),
                Action {
                    kind: ActionKind::Gact { random: Some(Random { kind: 2, value: 5, control: Control::Shot }) },
                    cookie: vec![0xab, 1],
                    ..Action::gact(Control::Reclassify)
                },
            ],
        ),
        (
            "protocol ip pref 1 flower ip_proto sctp action pedit ex munge eth dst set 02:00:00:00:00:01 munge ip src set 1.2.3.4 \
             munge ip ttl add 255 munge ip tos set 0xb8 retain 0xfc munge tcp sport set 80 munge udp dport set 53 pipe \
             action csum ip4h and tcp and udp pipe action pedit munge offset 12 u32 set 0x1 retain 0xff pipe action drop",
            proto(of_protocol(V4), 132),
            vec![
                pedit(&[
                    word(Ethernet, 0, 0x0200_0000, u32::MAX),
                    word(Ethernet, 4, 0x0001_0000, 0xffff_0000),
                    word(Ipv4, 12, 0x0102_0304, u32::MAX),
                    add(word(Ipv4, 8, 0xff00_0000, 0xff00_0000)),
                    word(Ipv4, 0, 0x00b8_0000, 0x00fc_0000),
                    word(Tcp, 0, 0x0050_0000, 0xffff_0000),
                    word(Udp, 0, 53, 0xffff),
                ]),
                pipe(ActionKind::Csum(CsumFlags::IPV4 | CsumFlags::TCP | CsumFlags::UDP)),
                pedit(&[word(Network, 12, 1, 0xff)]),
                shot(),
            ],
        ),
    ];
    let place =
        |protocol, prio, handle| FilterId { hook: Hook::Ingress(case::port(1)), chain: 9, prio, protocol, handle };
    let numbered = all.into_iter().zip(1..).map(|((line, m, actions), handle)| {
        let prio = line.split(' ').nth(3).and_then(|prio| prio.parse().ok()).unwrap_or(0);
        let alone = Filter::alone(case::port(1), handle, m, actions);
        (line, Filter { id: place(alone.id.protocol, prio, handle), ..alone })
    });
    numbered.collect()
}
