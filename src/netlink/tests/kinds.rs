//! Kinds of actions byte by byte, laid out as `act_*.c` dumps them, and what of them the kernel would take otherwise. That random
//! ones survive is tried in `tests/wire`.

use super::*;
use crate::flower::{
    action::{Mpls, MplsEntry, Police, Sample, Skbmod, StatelessNat, TunnelKey},
    tunnel::{Erspan, GeneveOption, Tunnel, TunnelFlags, TunnelOptions},
};

/// An action as told in a filter, and that it is the same when sent.
#[track_caller]
fn kind(name: &str, options: Vec<Attribute>) -> Action {
    let action = Attribute::nest(1, vec![Attribute::text(1, name), Attribute::nest(2, options)]);
    let message = told(PROTOCOL_ALL, vec![Attribute::nest(3, vec![action])]);
    assert_eq!(message.filter.undecoded, Vec::<String>::new());
    survives(&message.filter);
    message.filter.actions[0].clone()
}

/// Why an action is not sent.
#[track_caller]
fn refused(kind: ActionKind) -> &'static str {
    match encode_filter(&filter(PROTOCOL_ALL, Match::default(), vec![(kind, Control::Pipe)]), &names()) {
        Err(EncodeError::Action { position: 1, reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

const OTHERWISE: &str = "the kernel would take it otherwise";

/// `tc_gen` of index 5 and `pipe`, with one reference and one binding, and more.
fn parameters(more: &[&[u8]]) -> Vec<u8> {
    let gen_ = [5, 0, 3, 1, 1].map(u32::to_ne_bytes).concat();
    [gen_, more.concat()].concat()
}

fn number(kind: u16, value: u32) -> Attribute {
    attribute(kind, &value.to_ne_bytes())
}

#[test]
fn mpls() {
    let told = |what: u32, more: &[Attribute]| {
        let parms = attribute(2, &parameters(&[&what.to_ne_bytes()]));
        // Every kind is told with a protocol.
        kind("mpls", [&[parms, attribute(4, &[0x88, 0x48])], more].concat())
    };
    let label = number(5, 0xabcde);
    let pushed = told(2, &[label.clone(), attribute(6, &[3]), attribute(7, &[64]), attribute(8, &[1])]);
    let entry = MplsEntry { label: Some(0xabcde), tc: Some(3), bos: Some(true), ttl: Some(64) };
    assert_eq!(pushed.kind, ActionKind::Mpls(Mpls::Push { protocol: 0x8848, entry }));
    assert_eq!((pushed.index, pushed.control), (5, Control::Pipe));
    let bare = MplsEntry { label: Some(0xabcde), ttl: Some(64), ..MplsEntry::default() };
    let mac = told(5, &[label.clone(), attribute(7, &[64])]);
    assert_eq!(mac.kind, ActionKind::Mpls(Mpls::PushMac { protocol: 0x8848, entry: bare }));
    assert_eq!(told(1, &[]).kind, ActionKind::Mpls(Mpls::Pop { protocol: 0x8848 }));
    assert_eq!(told(4, &[]).kind, ActionKind::Mpls(Mpls::DecTtl));
    let modified = MplsEntry { bos: Some(false), ..MplsEntry::default() };
    assert_eq!(told(3, &[attribute(8, &[0])]).kind, ActionKind::Mpls(Mpls::Modify(modified)));
    for entry in [
        MplsEntry { ttl: None, ..bare },
        MplsEntry { label: None, ..bare },
        MplsEntry { label: Some(3), ..bare },
        MplsEntry { label: Some(1 << 20), ..bare },
        MplsEntry { tc: Some(8), ..bare },
        MplsEntry { ttl: Some(0), ..bare },
    ] {
        refused(ActionKind::Mpls(Mpls::Push { protocol: 0x8847, entry }));
    }
    refused(ActionKind::Mpls(Mpls::Push { protocol: 0x0800, entry: bare }));
}

#[test]
fn tunnel_key() {
    let told = |what: u32, more: &[Attribute]| {
        let parms = attribute(2, &parameters(&[&what.to_ne_bytes()]));
        kind("tunnel_key", [&[parms], more].concat())
    };
    assert_eq!(told(2, &[]).kind, ActionKind::TunnelKey(TunnelKey::Unset));
    let set = |more: &[Attribute]| match told(1, more).kind {
        ActionKind::TunnelKey(TunnelKey::Set(tunnel)) => *tunnel,
        other => panic!("{other:?}"),
    };
    let v4 = [attribute(3, &[10, 0, 0, 1]), attribute(4, &[10, 0, 0, 2])];
    let geneve = |class: u8, data: &[u8]| [attribute(1, &[1, class]), attribute(2, &[0x80]), attribute(3, data)];
    let list = Attribute::nest(1, [geneve(2, &[1; 4]), geneve(3, &[2; 8])].concat());
    let more = [
        attribute(7, &[0, 0, 0, 42]),
        attribute(9, &[0x17, 0xc1]),
        attribute(10, &[1]),
        Attribute::nest(11, vec![list]),
        attribute(12, &[8]),
        attribute(13, &[64]),
    ];
    let option = |class, data| GeneveOption { class, kind: 0x80, data };
    let expected = Tunnel {
        id: Some(42),
        src: [10, 0, 0, 1].into(),
        dst: [10, 0, 0, 2].into(),
        src_port: 0,
        dst_port: 6081,
        tos: 8,
        ttl: 64,
        flags: TunnelFlags::empty(),
        options: TunnelOptions::Geneve(vec![option(0x102, vec![1; 4]), option(0x103, vec![2; 8])]),
    };
    assert_eq!(set(&[&v4[..], &more].concat()), expected);
    let six = |last| std::net::IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    let v6 = [attribute(5, &octets), attribute(6, &octets)];
    let options = |option: Attribute| Attribute::nest(11, vec![option]);
    let hardware = Attribute::nest(3, vec![attribute(1, &[2]), attribute(3, &[1]), attribute(4, &[0x3f])]);
    let bare = Tunnel {
        id: None,
        src: six(0),
        dst: six(0),
        dst_port: 0,
        tos: 0,
        ttl: 0,
        flags: TunnelFlags::CSUM,
        options: TunnelOptions::Erspan(Erspan::Hardware { dir: 1, hwid: 0x3f }),
        ..expected
    };
    assert_eq!(set(&[&v6[..], &[attribute(10, &[0]), options(hardware)]].concat()), bare);
    let index = Attribute::nest(3, vec![attribute(1, &[1]), attribute(2, &[0, 0, 1, 0])]);
    assert_eq!(set(&[&v4[..], &[options(index)]].concat()).options, TunnelOptions::Erspan(Erspan::Index(0x100)));
    let gbp = Attribute::nest(2, vec![number(1, 0x8_0001)]);
    assert_eq!(set(&[&v4[..], &[options(gbp)]].concat()).options, TunnelOptions::Vxlan { gbp: 0x8_0001 });

    let refused = |tunnel: Tunnel| refused(ActionKind::TunnelKey(TunnelKey::Set(Box::new(tunnel))));
    let with = |options| Tunnel { options, ..bare.clone() };
    assert!(refused(Tunnel { flags: TunnelFlags::DONT_FRAGMENT, ..bare.clone() }).starts_with("Linux 6.1"));
    assert!(refused(with(TunnelOptions::Gtp { pdu_type: 1, qfi: 2 })).contains("GTP"));
    let three: Vec<_> = (0..3).map(|class| option(class, vec![0; 84])).collect();
    assert!(refused(with(TunnelOptions::Geneve(three))).contains("255"));
    assert!(refused(Tunnel { src: [10, 0, 0, 1].into(), ..bare.clone() }).contains("IPv4"));
    for tunnel in [
        Tunnel { src_port: 1, ..bare.clone() },
        Tunnel { flags: TunnelFlags::OAM, ..bare.clone() },
        with(TunnelOptions::Geneve(vec![])),
        with(TunnelOptions::Geneve(vec![option(1, vec![])])),
        with(TunnelOptions::Geneve(vec![option(1, vec![0; 6])])),
        with(TunnelOptions::Vxlan { gbp: 0x80_0000 }),
        with(TunnelOptions::Erspan(Erspan::Hardware { dir: 2, hwid: 0 })),
        with(TunnelOptions::Erspan(Erspan::Hardware { dir: 0, hwid: 0x40 })),
    ] {
        assert_eq!(refused(tunnel), OTHERWISE);
    }
}

/// From Linux 6.3 on a packet may be kept from being fragmented, and connections get helpers: read, and not asked of 6.1.
#[test]
fn what_later_kernels_do_is_read() {
    let message = |name: &str, options: Vec<Attribute>| {
        let action = Attribute::nest(1, vec![Attribute::text(1, name), Attribute::nest(2, options)]);
        told(PROTOCOL_ALL, vec![Attribute::nest(3, vec![action])])
    };
    let set = attribute(2, &parameters(&[&1u32.to_ne_bytes()]));
    let tunnel =
        message("tunnel_key", vec![set, attribute(3, &[1; 4]), attribute(4, &[2; 4]), attribute(14, &[])]).filter;
    let ActionKind::TunnelKey(TunnelKey::Set(key)) = &tunnel.actions[0].kind else { panic!() };
    assert_eq!((key.flags, tunnel.is_decoded()), (TunnelFlags::CSUM | TunnelFlags::DONT_FRAGMENT, true));
    let helper = vec![
        attribute(1, &parameters(&[])),
        Attribute::text(16, "ftp"),
        attribute(17, &[2]),
        attribute(18, &[proto::TCP]),
    ];
    let helped = message("ct", helper).filter;
    let ActionKind::Ct(ct) = &helped.actions[0].kind else { panic!() };
    assert_eq!(ct.helper.as_deref(), Some("ipv4-tcp-ftp"));
    for filter in [tunnel, helped] {
        assert!(matches!(encode_filter(&filter, &names()), Err(EncodeError::Action { .. })));
    }
}

#[test]
fn skbmod_nat_and_sample() {
    let skbmod = |flags: u64, more: &[Attribute]| {
        let parms = attribute(2, &parameters(&[&[0; 4], &flags.to_ne_bytes()]));
        kind("skbmod", [&[parms], more].concat()).kind
    };
    let set = Skbmod::Set { dst: Some([2, 0, 0, 0, 0, 1]), src: None, ethertype: Some(0x86dd) };
    let more = [attribute(3, &[2, 0, 0, 0, 0, 1]), attribute(5, &0x86ddu16.to_ne_bytes())];
    assert_eq!(skbmod(5, &more), ActionKind::Skbmod(set));
    assert_eq!(skbmod(8, &[]), ActionKind::Skbmod(Skbmod::Swap));
    assert_eq!(skbmod(16, &[]), ActionKind::Skbmod(Skbmod::Ecn));
    refused(ActionKind::Skbmod(Skbmod::Set { dst: None, src: None, ethertype: None }));

    let addresses: [&[u8]; 3] = [&[10, 1, 0, 0], &[192, 168, 0, 0], &[255, 255, 0, 0]];
    let nat = |flags: u32| {
        let parms = parameters(&[&addresses.concat(), &flags.to_ne_bytes()]);
        kind("nat", vec![attribute(1, &parms)]).kind
    };
    let expected = StatelessNat { old: 0x0a01_0000, new: 0xc0a8_0000, mask: 0xffff_0000, egress: false };
    assert_eq!(nat(0), ActionKind::Nat(expected));
    assert_eq!(nat(1), ActionKind::Nat(StatelessNat { egress: true, ..expected }));

    let sample = |more: &[Attribute]| {
        let all = [&[attribute(2, &parameters(&[])), number(3, 100), number(5, 7)], more].concat();
        kind("sample", all).kind
    };
    assert_eq!(sample(&[]), ActionKind::Sample(Sample { rate: 100, group: 7, truncate: None }));
    assert_eq!(sample(&[number(4, 64)]), ActionKind::Sample(Sample { rate: 100, group: 7, truncate: Some(64) }));
}

/// `struct tc_police`.
fn tc_police(rate: [u8; 12], peak: [u8; 12], references: u32, bindings: u32) -> Vec<u8> {
    let head = [5, 2, 0, 15_625, 2000].map(u32::to_ne_bytes).concat();
    [head, rate.to_vec(), peak.to_vec(), [references, bindings, 0].map(u32::to_ne_bytes).concat()].concat()
}

fn rate_spec(link_layer: u8, overhead: u16, rate: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[1] = link_layer;
    bytes[2..4].copy_from_slice(&overhead.to_ne_bytes());
    bytes[8..].copy_from_slice(&rate.to_ne_bytes());
    bytes
}

#[test]
fn police() {
    let told = |rate, peak, references, more: &[Attribute]| {
        let action = kind("police", [&[attribute(1, &tc_police(rate, peak, references, 1))], more].concat());
        assert_eq!((action.index, action.control), (5, Control::Shot));
        match action.kind {
            ActionKind::Police(police) => police,
            other => panic!("{other:?}"),
        }
    };
    let none = rate_spec(0, 0, 0);
    let plain = told(rate_spec(1, 14, 125_000), none, 1, &[]);
    let expected = Police { rate: 125_000, burst: 15_625, mtu: 2000, overhead: 14, link_layer: 1, ..Police::default() };
    assert_eq!(plain, expected);
    let more = [number(5, 3), attribute(8, &(1u64 << 40).to_ne_bytes()), attribute(9, &(1u64 << 41).to_ne_bytes())];
    let fast = told(rate_spec(1, 14, u32::MAX), rate_spec(1, 14, u32::MAX), 2, &more);
    let (rate, peak_rate) = (1 << 40, 1 << 41);
    assert_eq!(fast, Police { shared: true, conform: Control::Pipe, rate, peak_rate, ..expected });
    let packets = [attribute(10, &1000u64.to_ne_bytes()), attribute(11, &2000u64.to_ne_bytes())];
    let counted = Police { rate: 0, packet_rate: 1000, packet_burst: 2000, overhead: 0, link_layer: 0, ..expected };
    // Of a rate that is none, nothing counts.
    assert_eq!(told(rate_spec(1, 14, 0), rate_spec(2, 9, 7), 1, &packets), counted);
    assert_eq!(told(none, none, 2, &[number(4, 9)]).average_rate, 9);

    let refused = |police| refused(ActionKind::Police(police));
    for police in [
        Police { mtu: 0, ..expected },
        Police { packet_rate: 1, packet_burst: 1, ..expected },
        Police { packet_burst: 1, ..expected },
        Police { packet_burst: 1 << 57, ..counted },
        Police { average_rate: 1, ..expected },
        Police { conform: Control::Goto(1), ..expected },
    ] {
        assert_ne!(refused(police), OTHERWISE);
    }
    for police in [
        Police { rate: 0, ..expected },
        Police { overhead: 1, ..counted },
        Police { peak_rate: 5, ..counted },
        Police { link_layer: 16, ..expected },
    ] {
        assert_eq!(refused(police), OTHERWISE);
    }
    let message = |rate, peak| {
        let options = vec![attribute(1, &tc_police(rate, peak, 1, 0))];
        let action = Attribute::nest(1, vec![Attribute::text(1, "police"), Attribute::nest(2, options)]);
        super::told(PROTOCOL_ALL, vec![Attribute::nest(3, vec![action])]).filter
    };
    // One that stands alone.
    let alone = message(rate_spec(1, 0, 5), none);
    assert!(matches!(alone.actions[0].kind, ActionKind::Police(Police { shared: true, .. })));
    assert_eq!(message(rate_spec(1, 0, 5), rate_spec(2, 0, 5)).undecoded.len(), 1);
    let mut smallest = rate_spec(1, 0, 5);
    smallest[6] = 64;
    assert_eq!(message(smallest, none).undecoded, ["act_police mpu 64"]);
}

/// The kernel wants a table of times with every rate, and a cell that is not nothing (`qdisc_get_rtab`).
#[test]
fn a_rate_is_sent_with_its_table() {
    let police = Police { rate: 125_000, burst: 1, mtu: 2000, link_layer: 1, ..Police::default() };
    let filter = filter(PROTOCOL_ALL, Match::default(), vec![(ActionKind::Police(police), Control::Shot)]);
    let bytes = encode_filter(&filter, &names()).unwrap();
    let mut nest = Attributes::parse("TCA", &bytes[36..]).unwrap();
    for kind in [2, 3, 1, 2] {
        nest = nest.nested(kind, "").unwrap().unwrap();
    }
    let tbf = nest.get(1).unwrap();
    // 2000 bytes in cells of 8: tc's own choice.
    assert_eq!((tbf.len(), tbf[20], nest.get(2).unwrap().len()), (56, 3, 1024));
    let first = u32::from_ne_bytes(*nest.get(2).unwrap().first_chunk().unwrap());
    // 64 microseconds.
    assert_eq!(first, 64_000 / 64);
}
