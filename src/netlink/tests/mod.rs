//! Filters made by hand, in the shape in which the kernel tells them and in which it is told; the recorded ones are tested
//! in `crate::trace`.

use super::{
    attributes::{Attribute, emit},
    *,
};
use crate::{
    conntrack::proto,
    flower::{
        Action, ActionKind, Control, Field, Filter, FilterId, Kind, Match, Port, Range,
        action::{
            CsumFlags, Ct, Mirred, Nat, NatSide, Pedit, PeditDynamic, PeditHeader, PeditKey, Random, Skbedit, Vlan,
        },
        field::addr_type,
        filter::PROTOCOL_ALL,
    },
};

mod kinds;
mod nests;

const INGRESS: u32 = 0xffff_fff2;

fn names() -> LinkNames {
    LinkNames(BTreeMap::from([(7, "p1".to_owned()), (8, "p2".to_owned())]))
}

/// A message of `struct tcmsg` and attributes.
fn tc(message_type: u16, index: u32, handle: u32, parent: u32, protocol: u16, attributes: &[Attribute]) -> Vec<u8> {
    let info = 1 << 16 | u32::from(protocol.to_be());
    let words = [0, index, handle, parent, info];
    let payload = [words.map(u32::to_ne_bytes).concat(), emit(attributes)].concat();
    let mut bytes = (16 + payload.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(message_type.to_ne_bytes());
    bytes.extend([0; 10]);
    bytes.extend(payload);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Attribute {
    Attribute::new(kind, value)
}

fn told(protocol: u16, options: Vec<Attribute>) -> FilterMessage {
    let attributes = [Attribute::text(1, "flower"), Attribute::nest(2, options)];
    let bytes = tc(44, 7, 1, INGRESS, protocol, &attributes);
    match decode(ROUTE, &bytes, &names()).unwrap().message {
        Message::Filter(message) => *message,
        other => panic!("{other:?}"),
    }
}

fn terms(message: &FilterMessage) -> Vec<(Field, u128, u128)> {
    assert_eq!(message.filter.undecoded, Vec::<String>::new());
    message.filter.matches.terms().collect()
}

fn filter(protocol: u16, matches: Match, actions: Vec<(ActionKind, Control)>) -> Filter {
    let protocol_term = if protocol == PROTOCOL_ALL { 0 } else { 0xffff };
    Filter {
        id: FilterId { hook: Hook::Egress(Port(8)), chain: 5, prio: 9, protocol, handle: 3 },
        kind: Kind::Flower,
        matches: matches.with(Field::Protocol, protocol.into(), protocol_term),
        actions: actions
            .into_iter()
            .zip(1..)
            .map(|((kind, control), index)| Action { kind, control, index, cookie: vec![index as u8; 5] })
            .collect(),
        skip_sw: false,
        skip_hw: true,
        undecoded: Vec::new(),
    }
}

#[track_caller]
fn survives(filter: &Filter) {
    let bytes = encode_filter(filter, &names()).unwrap();
    let envelope = decode(ROUTE, &bytes, &names()).unwrap();
    assert!(envelope.is_request());
    let Message::Filter(again) = envelope.message else { panic!("not a filter") };
    assert_eq!(again.filter, *filter);
}

fn ip(proto: u8) -> Match {
    Match::default().exact(Field::EthType, 0x0800).exact(Field::IpProto, proto.into())
}

#[test]
fn two_tags_are_told_by_the_types_inside() {
    // As fl_dump_key writes `protocol 802.1ad vlan_id 5 vlan_ethtype 802.1q cvlan_id 6 cvlan_ethtype ip`.
    let message = told(
        0x88a8,
        vec![
            attribute(8, &[8, 0]),
            attribute(23, &5u16.to_ne_bytes()),
            attribute(77, &6u16.to_ne_bytes()),
            attribute(25, &[0x81, 0]),
            attribute(79, &[8, 0]),
        ],
    );
    assert_eq!(
        terms(&message),
        [
            (Field::Protocol, 0x88a8, 0xffff),
            (Field::EthType, 0x0800, 0xffff),
            (Field::VlanTpid, 0x88a8, 0xffff),
            (Field::VlanId, 5, 0xfff),
            (Field::VlanEthType, 0x8100, 0xffff),
            (Field::CvlanTpid, 0x8100, 0xffff),
            (Field::CvlanId, 6, 0xfff),
            (Field::CvlanEthType, 0x0800, 0xffff),
        ]
    );
    survives(&message.filter);
    // With a count of tags no ethertype need be named.
    let counted = told(PROTOCOL_ALL, vec![attribute(102, &[2]), attribute(78, &[4])]);
    assert_eq!(terms(&counted), [(Field::NumOfVlans, 2, 0xff), (Field::CvlanPrio, 4, 7)]);
    survives(&counted.filter);
    // A tag that the protocol does not speak of: its type is not in the dump.
    let lost = told(PROTOCOL_ALL, vec![attribute(23, &5u16.to_ne_bytes())]);
    assert!(!lost.filter.is_decoded());
}

#[test]
fn flower_looks_at_nothing_behind_a_condition_that_is_not_met() {
    let port = attribute(19, &[0, 80]);
    // No IP protocol, then no IP at all.
    let no_proto = told(0x0800, vec![attribute(8, &[8, 0]), port.clone()]);
    assert_eq!(terms(&no_proto).len(), 2);
    let no_ip = told(0x0806, vec![attribute(8, &[8, 6]), attribute(9, &[proto::TCP]), port.clone()]);
    assert_eq!(terms(&no_ip).len(), 2);
    let tcp = told(0x0800, vec![attribute(8, &[8, 0]), attribute(9, &[proto::TCP]), port]);
    assert_eq!(terms(&tcp)[3], (Field::DstPort, 80, 0xffff));
    // An address brings its kind; a missing mask is all ones; key bits outside of the mask are dropped.
    let address = told(
        0x0800,
        vec![
            attribute(8, &[8, 0]),
            attribute(10, &[10, 0, 0, 1]),
            attribute(12, &[10, 1, 2, 3]),
            attribute(13, &[255, 255, 0, 0]),
        ],
    );
    assert_eq!(
        terms(&address)[2..],
        [
            (Field::AddrType, addr_type::IPV4, 0xffff),
            (Field::Ipv4Src, 0x0a00_0001, 0xffff_ffff),
            (Field::Ipv4Dst, 0x0a01_0000, 0xffff_0000),
        ]
    );
}

#[test]
fn conntrack_ranges_flags_and_devices() {
    let message = told(
        0x0800,
        vec![
            Attribute::text(2, "p2"),
            attribute(8, &[8, 0]),
            attribute(9, &[proto::UDP]),
            attribute(47, &[0, 0, 0, 0]),
            attribute(48, &[0, 0, 0, 1]),
            attribute(89, &[0, 10]),
            attribute(90, &[0, 20]),
            attribute(91, &9u16.to_ne_bytes()),
            attribute(92, &11u16.to_ne_bytes()),
            attribute(97, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80]),
        ],
    );
    assert_eq!(
        terms(&message),
        [
            (Field::Indev, 8, 0xffff_ffff),
            (Field::Protocol, 0x0800, 0xffff),
            (Field::EthType, 0x0800, 0xffff),
            (Field::IpProto, 17, 0xff),
            (Field::IpFlags, 0, 1),
            (Field::CtState, 9, 11),
            (Field::CtLabels, 1 | 1 << 127, u128::MAX),
        ]
    );
    assert_eq!(message.filter.matches.dst_range, Some(Range { min: 10, max: 20 }));
    survives(&message.filter);
}

#[test]
fn every_field_survives() {
    let v6 = Match::default().exact(Field::EthType, 0x86dd);
    let made = [
        (0x0800, ip(proto::TCP).with(Field::TcpFlags, 0x10, 0x17).with(Field::IpTos, 4, 0xfc)),
        (0x0800, ip(proto::SCTP).exact(Field::SrcPort, 7).with(Field::DstPort, 0x100, 0xff00)),
        (0x0800, ip(proto::ICMP).exact(Field::IcmpType, 8).exact(Field::IcmpCode, 0)),
        (0x0800, ip(115).exact(Field::L2tpv3Sid, 99)),
        (0x86dd, v6.exact(Field::IpProto, 58).exact(Field::IcmpType, 135)),
        (
            0x86dd,
            v6.exact(Field::AddrType, addr_type::IPV6)
                .with(Field::Ipv6Src, 0xfd00 << 112, 0xffff << 112)
                .exact(Field::IpTtl, 64),
        ),
        (
            0x0806,
            Match::default().exact(Field::EthType, 0x0806).exact(Field::ArpOp, 1).exact(Field::ArpSip, 5).with(
                Field::ArpTha,
                0xff << 40,
                0xff << 40,
            ),
        ),
        (
            0x8847,
            Match::default()
                .exact(Field::EthType, 0x8847)
                .exact(Field::Mpls1, 1)
                .exact(Field::MplsLabel, 0xabcde)
                .exact(Field::MplsTc, 5)
                .exact(Field::MplsBos, 1),
        ),
        (0x8864, Match::default().exact(Field::PppoeSid, 77)),
        (
            0x8864,
            Match::default()
                .exact(Field::PppProto, 0x21)
                .exact(Field::EthType, 0x0800)
                .exact(Field::IpProto, 6)
                .exact(Field::DstPort, 80),
        ),
        (
            PROTOCOL_ALL,
            Match::default()
                .exact(Field::EthDst, 0x0102_0304_0506)
                .exact(Field::EncKeyId, 0x1234)
                .exact(Field::EncAddrType, addr_type::IPV4)
                .exact(Field::EncIpv4Dst, 9)
                .exact(Field::EncDstPort, 4789)
                .with(Field::EncTos, 8, 0xf8)
                .with(Field::Hash, 1, 15)
                .with(Field::CtMark, 0x55, 0xff)
                .exact(Field::CtZone, 5),
        ),
    ];
    for (protocol, matches) in made {
        survives(&filter(protocol, matches, vec![]));
    }
}

#[test]
fn what_flower_would_take_otherwise_is_refused() {
    let refusal = |protocol, matches| encode_filter(&filter(protocol, matches, vec![]), &names()).unwrap_err();
    // A port without its IP protocol, an address without its kind, a tag of another type than the protocol's.
    let no_proto = Match::default().exact(Field::EthType, 0x0800).exact(Field::DstPort, 80);
    assert_eq!(refusal(0x0800, no_proto), EncodeError::Field(Field::DstPort));
    let no_kind = ip(proto::TCP).exact(Field::Ipv4Src, 1);
    assert_eq!(refusal(0x0800, no_kind), EncodeError::Field(Field::Ipv4Src));
    let other_tag = Match::default().exact(Field::VlanTpid, 0x88a8);
    assert_eq!(refusal(0x8100, other_tag), EncodeError::Field(Field::VlanTpid));
    // Flower has no mask for these.
    assert_eq!(
        refusal(0x0800, Match::default().exact(Field::EthType, 0x0800).with(Field::IpProto, 4, 6)),
        EncodeError::Field(Field::IpProto)
    );
    assert_eq!(refusal(3, Match::default().exact(Field::Indev, 99)), EncodeError::NoSuchDevice(99));
    let mut one_port = ip(proto::TCP);
    one_port.dst_range = Some(Range { min: 4, max: 4 });
    assert_eq!(refusal(0x0800, one_port), EncodeError::Range(Field::DstPort));
}

#[test]
fn in_front_the_kernel_compares_more_than_it_says_back() {
    let tagged = Match::default().exact(Field::VlanTpid, 0x8100).exact(Field::VlanId, 5);
    let tagged = filter(PROTOCOL_ALL, tagged, vec![]);
    assert_eq!(encode_filter(&tagged, &names()).unwrap_err(), EncodeError::Field(Field::VlanTpid));
    assert!(encode_front(&tagged, &names()).is_ok());
    // Told by an address of which no bit counts, the kind of addresses would match nothing: flower looks at it only where some
    // bit does.
    let kind = Match::default().exact(Field::EthType, 0x0800).exact(Field::AddrType, 2);
    let refused = encode_front(&filter(PROTOCOL_ALL, kind, vec![]), &names()).unwrap_err();
    assert_eq!(refused, EncodeError::Field(Field::AddrType));
    // What is not compared at all is refused there, too.
    let no_kind = ip(proto::TCP).exact(Field::Ipv4Src, 1);
    let refused = encode_front(&filter(PROTOCOL_ALL, no_kind, vec![]), &names()).unwrap_err();
    assert_eq!(refused, EncodeError::Field(Field::Ipv4Src));
}

#[test]
fn every_action_survives() {
    let key = PeditKey {
        header: PeditHeader::Network,
        offset: -14,
        mask: [0, 0xff, 0xff, 0],
        value: [1, 0, 0, 2],
        add: false,
        dynamic: Some(PeditDynamic { at: 0, mask: 0xf00_0000, shift: 22 }),
    };
    let tcp = PeditKey { header: PeditHeader::Tcp, add: true, dynamic: None, ..key };
    let nat = |side, addresses, ports| {
        let nat = Some(Nat { side, addresses, ports });
        ActionKind::Ct(Ct { nat, ..Ct::default() })
    };
    let (low, high) = ([10, 0, 0, 1].into(), [10, 0, 0, 9].into());
    let six = std::net::IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let vlan = |vlan| (ActionKind::Vlan(vlan), Control::Pipe);
    let random = Some(Random { kind: 2, value: 10, control: Control::Shot });
    let committed = Ct {
        zone: 5,
        commit: true,
        force: true,
        // Value bits outside of the mask are set all the same.
        mark: Some((0x1ff, 0xff)),
        labels: Some((1 << 127 | 1, 1 << 127 | 3)),
        ..Ct::default()
    };
    let cleared = Ct { clear: true, ..Ct::default() };
    let mirred = |ingress, mirror| ActionKind::Mirred(Mirred { port: Port(8), ingress, mirror });
    let actions = vec![
        (ActionKind::Gact { random }, Control::Jump(2)),
        (ActionKind::Pedit(Pedit { keys: vec![key], mend: false }), Control::Pipe),
        (ActionKind::Pedit(Pedit { keys: vec![key, tcp], mend: false }), Control::Pipe),
        (ActionKind::Csum(CsumFlags::IPV4 | CsumFlags::UDP), Control::Pipe),
        (ActionKind::Ct(committed), Control::Pipe),
        (ActionKind::Ct(cleared), Control::Ok),
        (nat(Some(NatSide::Src), Some((low, high)), Some((1000, 2000))), Control::Pipe),
        (nat(Some(NatSide::Dst), Some((six, six)), None), Control::Pipe),
        (nat(None, None, None), Control::Pipe),
        vlan(Vlan::Pop),
        vlan(Vlan::Push { protocol: 0x88a8, id: 4094, prio: 7 }),
        vlan(Vlan::Modify { protocol: 0x8100, id: 1, prio: None }),
        vlan(Vlan::PopEthernet),
        vlan(Vlan::PushEthernet { dst: [1; 6], src: [2; 6] }),
        (
            ActionKind::Skbedit(Skbedit {
                queue: Some(1),
                priority: Some(2),
                mark: Some((3, 0xff)),
                ptype: Some(0),
                inherit_dsfield: true,
            }),
            Control::Pipe,
        ),
        (mirred(true, true), Control::Pipe),
        (mirred(false, false), Control::Stolen),
        (mirred(true, false), Control::Continue),
        (ActionKind::Gact { random: None }, Control::Goto(0x0fff_ffff)),
    ];
    survives(&filter(0x0800, ip(proto::TCP), actions));
}

#[test]
fn what_an_action_cannot_say_is_refused() {
    let refused = |kind, control| {
        let filter = filter(0x0800, ip(proto::TCP), vec![(kind, control)]);
        let error = encode_filter(&filter, &names()).unwrap_err();
        assert!(matches!(error, EncodeError::Action { position: 1, .. }), "{error}");
    };
    let helper = Some("ftp".to_owned());
    refused(ActionKind::Ct(Ct { helper, ..Ct::default() }), Control::Pipe);
    refused(ActionKind::Pedit(Pedit { keys: vec![], mend: true }), Control::Pipe);
    // `clear` makes act_ct look at nothing else; a goto has 28 bits.
    let both = Ct { clear: true, zone: 4, ..Ct::default() };
    refused(ActionKind::Ct(both), Control::Pipe);
    refused(ActionKind::Gact { random: None }, Control::Goto(1 << 28));
    refused(ActionKind::Other("police".to_owned()), Control::Pipe);
}

#[test]
fn what_is_not_understood_is_named() {
    let simple = Attribute::nest(1, vec![Attribute::text(1, "simple"), Attribute::nest(2, vec![])]);
    let queues = Attribute::nest(
        2,
        vec![Attribute::text(1, "skbedit"), Attribute::nest(2, vec![attribute(2, &[0; 20]), attribute(10, &[1, 0])])],
    );
    let message = told(
        0x0800,
        vec![
            attribute(8, &[8, 0]),
            attribute(84, &[]),
            attribute(120, &[0]),
            attribute(86, &[0; 4]),
            Attribute::text(2, "gone"),
            Attribute::nest(3, vec![queues, simple]),
        ],
    );
    assert_eq!(
        message.filter.undecoded,
        [
            "TCA_FLOWER_INDEV gone: no such device",
            "TCA_FLOWER_KEY_ENC_OPTS: not as flower takes them",
            "TCA_FLOWER 120",
            "act_simple",
            "act_skbedit 10",
        ]
    );
    assert_eq!(message.filter.actions[0].kind, ActionKind::Other("simple".to_owned()));
}

#[test]
fn counters_are_those_of_software_and_hardware_together() {
    let basic = |bytes: u64, packets: u32| [&bytes.to_ne_bytes()[..], &packets.to_ne_bytes(), &[0; 4]].concat();
    let stats = vec![
        attribute(1, &basic(1000, 2)),
        attribute(8, &(2u64 + (1 << 32)).to_ne_bytes()),
        attribute(7, &basic(500, 1)),
        attribute(8, &(1u64 + (1 << 32)).to_ne_bytes()),
    ];
    let times = [0u64, 3, 0, 9].map(u64::to_ne_bytes).concat();
    let gact = vec![
        Attribute::text(1, "gact"),
        Attribute::nest(4, stats),
        Attribute::nest(2, vec![attribute(2, &[0; 20]), attribute(1, &times)]),
    ];
    let message = told(0x0800, vec![Attribute::nest(3, vec![Attribute::nest(1, gact)])]);
    let counters = message.counters[0];
    assert_eq!((counters.bytes, counters.packets), (1000, 2 + (1 << 32)));
    assert_eq!(message.idle, [Some(30_000_000)]);
}

#[test]
fn hooks_priorities_and_chains() {
    let flower = [Attribute::text(1, "flower"), attribute(11, &4u32.to_ne_bytes())];
    let read = |bytes: Vec<u8>| decode(ROUTE, &bytes, &names()).unwrap().message;
    let hook_of = |index, parent| match read(tc(45, index, 0, parent, 0x0800, &flower)) {
        Message::FiltersGone { hook, chain: 4, prio: 1, protocol: 0x0800 } => Some(hook),
        Message::Other { message_type: 45 } => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(hook_of(7, INGRESS), Some(Hook::Ingress(Port(7))));
    assert_eq!(hook_of(7, 0xffff_fff3), Some(Hook::Egress(Port(7))));
    assert_eq!(hook_of(7, 0xffff_0000), Some(Hook::Ingress(Port(7))));
    assert_eq!(hook_of(u32::MAX, 22), Some(Hook::Block(22)));
    assert_eq!(hook_of(7, 0x0001_0000), None);
    assert!(matches!(read(tc(44, 7, 0, INGRESS, 0x0800, &flower)), Message::Priority { chain: 4, .. }));
    let chain = read(tc(101, 7, 0, 0xffff_0000, 0, &flower));
    let owner = ChainOwner::Device(Port(7));
    assert_eq!(chain, Message::ChainGone { owner, chain: 4 });
    let matchall = [Attribute::text(1, "matchall"), Attribute::nest(2, vec![])];
    let Message::Filter(other) = read(tc(44, 7, 1, INGRESS, 3, &matchall)) else { panic!() };
    assert_eq!(other.filter.kind, Kind::Other("matchall".to_owned()));
    assert!(!other.filter.is_decoded());
}

#[test]
fn faults_are_told_with_their_place() {
    let fault = |bytes: &[u8]| decode(ROUTE, bytes, &names()).unwrap_err().to_string();
    let whole =
        tc(44, 7, 1, INGRESS, 0x0800, &[Attribute::text(1, "flower"), Attribute::nest(2, vec![attribute(8, &[8])])]);
    assert_eq!(fault(&whole), "RTM_NEWTFILTER, TCA_FLOWER: attribute 8 has 1 bytes where 2 were expected");
    assert_eq!(
        fault(&whole[..whole.len() - 1]),
        format!("RTM_NEWTFILTER, header: {} bytes where {} were expected", whole.len() - 1, whole.len())
    );
    let mut overrun = whole.clone();
    overrun[36] = 200;
    assert_eq!(fault(&overrun), "RTM_NEWTFILTER, TCA: an attribute runs past the end of its 24 bytes, at byte 0");
}

/// A kernel's own order of names is the judge of our numbers: `enum` in `include/uapi/linux/pkt_cls.h`.
#[test]
fn attributes_have_the_kernels_numbers() {
    let mpls = told(0x8847, vec![attribute(8, &[0x88, 0x47]), attribute(70, &0xabcdeu32.to_ne_bytes())]);
    assert_eq!(terms(&mpls)[3], (Field::MplsLabel, 0xabcde, 0xfffff));
    let hash = told(PROTOCOL_ALL, vec![attribute(100, &7u32.to_ne_bytes()), attribute(101, &15u32.to_ne_bytes())]);
    assert_eq!(terms(&hash), [(Field::Hash, 7, 15)]);
    let pppoe = told(0x8864, vec![attribute(103, &[0, 9]), attribute(104, &[0, 0x57]), attribute(8, &[0x86, 0xdd])]);
    assert_eq!(
        terms(&pppoe)[1..],
        [(Field::EthType, 0x86dd, 0xffff), (Field::PppoeSid, 9, 0xffff), (Field::PppProto, 0x57, 0xffff),]
    );
    let l2tp = told(0x0800, vec![attribute(8, &[8, 0]), attribute(9, &[115]), attribute(105, &[0, 0, 0, 3])]);
    assert_eq!(terms(&l2tp)[3], (Field::L2tpv3Sid, 3, 0xffff_ffff));
}
