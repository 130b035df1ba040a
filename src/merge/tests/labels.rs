//! Labels, the Ethernet header, and the actions that come down to rewrites: what the fold holds of each field is what the dissector sees
//! in the bytes.

use super::{
    tags::{frame, now},
    *,
};
use crate::{
    flower::action::{CsumFlags, Mpls, MplsEntry, Police, Skbmod, StatelessNat, TunnelKey},
    merge::state::State,
    packet::{
        apply::{End, Trim, apply},
        dissect::arrived,
    },
};
use proptest::prelude::*;

/// Puts a label stack in front of what is behind the tags; what is behind its bottom then is not seen.
fn labelled(tags: &[(u16, u16)], labels: &[u32], bottom: bool) -> Vec<u8> {
    let mut frame = frame(tags, false);
    let at = 14 + 4 * tags.len();
    for (i, label) in labels.iter().enumerate().rev() {
        let last = bottom && i + 1 == labels.len();
        frame.splice(at..at, (label & !0x100 | u32::from(last) << 8).to_be_bytes());
    }
    if !labels.is_empty() {
        frame[at - 2..at].copy_from_slice(&[0x88, 0x47]);
    }
    frame
}

fn entry() -> impl Strategy<Value = MplsEntry> {
    (prop::option::of(0u32..9), prop::option::of(0u8..8), prop::option::of(any::<bool>()), prop::option::of(1u8..4))
        .prop_map(|(label, tc, bos, ttl)| MplsEntry { label, tc, bos, ttl })
}

fn op() -> impl Strategy<Value = Action> {
    let of = |kind| Action::new(kind, Control::Pipe);
    let protocol = || prop::sample::select(vec![0x8847u16, 0x8848, 0x0800, 0x0806]);
    let mpls = prop_oneof![
        3 => (prop::bool::ANY, entry()).prop_map(|(multicast, entry)| Mpls::Push {
            protocol: 0x8847 + u16::from(multicast),
            entry: MplsEntry { label: Some(entry.label.unwrap_or(7)), ttl: entry.ttl.or(Some(64)), ..entry },
        }),
        3 => protocol().prop_map(|protocol| Mpls::Pop { protocol }),
        2 => entry().prop_map(Mpls::Modify),
        1 => Just(Mpls::DecTtl),
    ];
    let set =
        (prop::option::of(any::<[u8; 6]>()), prop::option::of(any::<[u8; 6]>()), prop::option::of(Just(0x0800u16)))
            .prop_map(|(dst, src, ethertype)| Skbmod::Set { dst, src, ethertype });
    let old = prop::sample::select(vec![0x0a000001u32, 0x0a000002, 0x0a000003]);
    let nat = (old, any::<u32>(), prop::sample::select(vec![u32::MAX, 0xffff_ff00, 3, 0]), any::<bool>())
        .prop_map(|(old, new, mask, egress)| StatelessNat { old, new, mask, egress });
    prop_oneof![
        6 => mpls.prop_map(move |mpls| of(ActionKind::Mpls(mpls))),
        2 => prop_oneof![set, Just(Skbmod::Swap), Just(Skbmod::Ecn)].prop_map(move |s| of(ActionKind::Skbmod(s))),
        2 => nat.prop_map(move |nat| of(ActionKind::Nat(nat))),
        1 => (0u8..2).prop_map(|byte| pedit(PeditHeader::Network, 0, [0xff, 0xff, 0xff, 0], [0, 0, 0, 7 + byte])),
        1 => Just(vlan(Vlan::Pop)),
        1 => Just(vlan(Vlan::Push { protocol: 0x8100, id: 5, prio: 1 })),
        1 => Just(vlan(Vlan::PopEthernet)),
        1 => any::<[u8; 6]>().prop_map(|mac| vlan(Vlan::PushEthernet { dst: mac, src: [2; 6] })),
    ]
}

proptest! {
    #![proptest_config(cases(3000))]
    #[test]
    fn what_is_held_is_what_the_dissector_sees(
        tagged in any::<bool>(), labels in prop::collection::vec(any::<u32>(), 0..4), bottom in prop::bool::weighted(0.8),
        ops in prop::collection::vec(op(), 1..7),
    ) {
        let tags: &[_] = if tagged { &[(0x8100, 9)] } else { &[] };
        let frame = labelled(tags, &labels, bottom);
        let key = arrived(&frame);
        let mut state = State::new(Port(1), &key);
        let id = filter(0, 1, ip(), &[]).id;
        for op in ops {
            let done = match &op.kind {
                ActionKind::Mpls(mpls) => state.mpls(id, *mpls),
                ActionKind::Skbmod(skbmod) => state.skbmod(id, *skbmod),
                ActionKind::Nat(nat) => state.nat(id, *nat),
                ActionKind::Pedit(pedit) => state.pedit(id, pedit),
                ActionKind::Vlan(vlan) => state.vlan(id, *vlan),
                other => panic!("{other:?}"),
            };
            if done.is_err() {
                // What is asked for by then says which packets are refused for the same reason.
                prop_assert!(state.template.known.fits(&key), "{:?}", state.template);
                return Ok(());
            }
            // What was done so far, as hardware would do it.
            let actions = program::actions(&state.program.clone().finish(Control::Ok), &[], true).0;
            let End::Passed(after) = apply(&actions, Trim::Never, &frame).expect("supported").end else {
                panic!("passed: {actions:?}")
            };
            // TC goes by the ethertype that it knew before it was rewritten.
            if matches!(op.kind, ActionKind::Skbmod(Skbmod::Set { ethertype: Some(_), .. })) {
                return Ok(());
            }
            if !state.bare {
                let seen = arrived(&after);
                for &field in Field::ALL.iter().filter(|&&f| f != Field::Indev) {
                    if let Some(held) = now(state.view(field), &key) {
                        prop_assert_eq!(held, seen.get(field), "{} after {:?}: {:?}", field, &op, actions);
                    }
                }
            }
            prop_assert!(state.template.known.fits(&key), "{:?}", state.template);
        }
    }
}

fn on_labels(action: Mpls, matches: Match) -> [Filter; 2] {
    let a = filter(0, 1, Match::default(), &[Action::new(ActionKind::Mpls(action), Control::Pipe), goto(1)]);
    [a, filter(1, 1, matches, &[output()])]
}

#[test]
fn a_label_that_comes_off_shows_the_next() {
    let key = arrived(&labelled(&[], &[0x0001_1040, 0x0002_2041], true));
    let pop = Mpls::Pop { protocol: 0x8847 };
    let mpls = Match::default().exact(Field::EthType, 0x8847);
    let [a, b] = on_labels(pop, mpls.exact(Field::Mpls1, 1).exact(Field::MplsLabel, 0x22));
    let (matches, actions) = Case::default().hit(&a).hit(&b).merged(&key).unwrap();
    let want = Match::default().exact(Field::Protocol, 0x8847).exact(Field::Mpls2Label, 0x22);
    assert_eq!(matches, want.exact(Field::Mpls2, 1));
    assert_eq!(actions[0].kind, ActionKind::Mpls(pop));
    // Behind the last one is what nobody has seen.
    let [a, b] = on_labels(Mpls::Pop { protocol: 0x800 }, ip().exact(Field::IpTtl, 64));
    let refusal = Case::default().hit(&a).hit(&b).merged(&key).unwrap_err();
    assert!(matches!(refusal, Refusal::Hidden { field: Field::EthType, .. }), "{refusal}");
}

/// `csum` drops what is no whole IP header, and what stands behind it in the list then counts nothing.
#[test]
fn checksums_are_not_computed_behind_a_label_of_what_nobody_has_seen() {
    let key = arrived(&labelled(&[], &[0x0001_1140], true));
    let csum = Action::new(ActionKind::Csum(CsumFlags::UDP), Control::Pipe);
    for (protocol, merges) in [(0x0800, false), (0x86dd, false), (0x0806, true), (0x8847, true)] {
        let pop = Action::new(ActionKind::Mpls(Mpls::Pop { protocol }), Control::Pipe);
        let a = filter(0, 1, Match::default(), &[pop, csum.clone(), output()]);
        assert_eq!(Case::default().hit(&a).merged(&key).is_ok(), merges, "{protocol:#x}");
    }
    // What was put on and taken off again hides nothing.
    let key = arrived(&frame(&[], false));
    let push =
        Mpls::Push { protocol: 0x8847, entry: MplsEntry { label: Some(7), ttl: Some(64), ..MplsEntry::default() } };
    let on_and_off = [push, Mpls::Pop { protocol: 0x0800 }].map(|m| Action::new(ActionKind::Mpls(m), Control::Pipe));
    let a = filter(0, 1, ip(), &[&on_and_off[..], &[csum, output()]].concat());
    assert!(Case::default().hit(&a).merged(&key).is_ok());
}

#[test]
fn a_label_that_nobody_sees_is_not_pushed() {
    let push = |label| Mpls::Push { protocol: 0x8847, entry: MplsEntry { label: Some(label), ..MplsEntry::default() } };
    let pop = |protocol| Mpls::Pop { protocol };
    let act = |mpls| Action::new(ActionKind::Mpls(mpls), Control::Pipe);
    let mirror = Action::new(ActionKind::Mirred(Mirred { port: OUT, ingress: false, mirror: true }), Control::Pipe);
    let twice = vec![act(push(5)), act(push(6)), act(pop(0x8847)), act(pop(0x800)), output()];
    let seen = vec![act(push(5)), mirror, act(pop(0x800)), output()];
    let otherwise = vec![act(push(5)), act(pop(0x86dd)), output()];
    for (actions, left) in [(twice, 1), (seen, 4), (otherwise, 3)] {
        let a = filter(0, 1, ip(), &actions);
        let (_, merged) = Case::default().hit(&a).merged(&packet(tcp(H1, 1, H2, 2))).unwrap();
        assert_eq!(merged.len(), left, "{merged:?}");
    }
}

#[test]
fn a_ttl_that_would_run_out_is_kept_out() {
    let [a, b] = on_labels(Mpls::DecTtl, Match::default());
    let merged = |ttl: u32| Case::default().hit(&a).hit(&b).merged(&arrived(&labelled(&[], &[ttl], true)));
    for ttl in [0, 2, 3, 64, 255] {
        let (matches, _) = merged(ttl).unwrap();
        assert!(!matches.fits(&arrived(&labelled(&[], &[1], true))), "{ttl}");
        assert_eq!(matches.mask.get(Field::MplsTtl).count_ones(), 1, "{ttl}");
    }
    let refusal = merged(1).unwrap_err();
    assert!(refusal.to_string().contains("down to nothing"), "{refusal}");
}

#[test]
fn what_is_refused_for_its_label_says_nothing_of_packets_with_another_or_none() {
    let refused = |action, frame: &[u8]| {
        let [a, b] = on_labels(action, Match::default());
        Case::default().hit(&a).hit(&b).folded(&arrived(frame)).unwrap_err().others.unwrap().known.unpack()
    };
    let one = |ttl: u32| labelled(&[], &[ttl], true);
    let known = refused(Mpls::DecTtl, &one(1));
    assert!(known.fits(&arrived(&one(1))) && !known.fits(&arrived(&one(2))), "{known:?}");
    let known = refused(Mpls::Pop { protocol: 0x8100 }, &one(1));
    assert!(known.fits(&arrived(&one(2))) && !known.fits(&arrived(&frame(&[], false))), "{known:?}");
}

#[test]
fn a_stateless_nat_divides_those_that_it_changes_from_the_others() {
    let nat = StatelessNat { old: 0x0a00_0002, new: 0x0a00_0032, mask: u32::MAX, egress: false };
    let a = filter(0, 1, ip(), &[Action::new(ActionKind::Nat(nat), Control::Pipe), output()]);
    let merged = |dst| Case::default().hit(&a).merged(&packet(tcp(H1, 1, dst, 2))).unwrap();
    let (matches, actions) = merged(H2);
    assert_eq!(matches.mask.get(Field::Ipv4Dst), 0xffff_ffff);
    let ActionKind::Pedit(p) = &actions[0].kind else { panic!("{actions:?}") };
    assert!(p.mend && p.keys[0].value == VIP, "{p:?}");
    let (matches, actions) = merged([10, 0, 0, 3]);
    assert_eq!((matches.mask.get(Field::Ipv4Dst).count_ones(), actions.len()), (1, 1));
    assert!(!matches.fits(&packet(tcp(H1, 1, H2, 2))));
    // The new address too becomes the new one.
    let next = StatelessNat { new: nat.old | 1, ..nat };
    let a = filter(0, 1, ip(), &[Action::new(ActionKind::Nat(next), Control::Pipe), output()]);
    let (matches, _) = Case::default().hit(&a).merged(&packet(tcp(H1, 1, H2, 2))).unwrap();
    assert_eq!(matches.mask.get(Field::Ipv4Dst), 0xffff_fffe);
    // What would become what it is costs no bit.
    let same = StatelessNat { new: nat.old, ..nat };
    let a = filter(0, 1, ip(), &[Action::new(ActionKind::Nat(same), Control::Pipe), output()]);
    for dst in [H2, [10, 0, 0, 3]] {
        let (matches, actions) = Case::default().hit(&a).merged(&packet(tcp(H1, 1, dst, 2))).unwrap();
        assert_eq!((matches.mask.get(Field::Ipv4Dst), actions.len()), (0, 1));
    }
    let a = filter(0, 1, ip(), &[Action::new(ActionKind::Nat(nat), Control::Pipe), output()]);
    let error = packet(Tuple { proto: proto::ICMP, ..tcp(H1, 0, H2, 0) }).with(Field::IcmpType, 3);
    assert!(Case::default().hit(&a).merged(&error.with(Field::TcpFlags, 0)).is_err());
}

#[test]
fn congestion_is_written_to_what_is_capable_of_it() {
    let a = filter(0, 1, ip(), &[Action::new(ActionKind::Skbmod(Skbmod::Ecn), Control::Pipe), output()]);
    for (tos, mask, writes) in [(0x10, 3, false), (0x11, 1, true), (0x12, 2, true), (0x13, 2, true)] {
        let (matches, actions) =
            Case::default().hit(&a).merged(&packet(tcp(H1, 1, H2, 2)).with(Field::IpTos, tos)).unwrap();
        assert_eq!((matches.mask.get(Field::IpTos), actions.len() == 2), (mask, writes), "{tos:#x}");
    }
}

#[test]
fn addresses_that_change_places_are_told() {
    let a = filter(0, 1, Match::default(), &[Action::new(ActionKind::Skbmod(Skbmod::Swap), Control::Pipe), output()]);
    let frame = frame(&[], false);
    let (matches, actions) = Case::default().hit(&a).merged(&arrived(&frame)).unwrap();
    assert_eq!(matches.mask.get(Field::EthDst), Field::EthDst.ones());
    let sent = apply(&actions, Trim::Never, &frame).unwrap().sent.remove(0).frame;
    assert_eq!((&sent[..6], &sent[6..12]), (&frame[6..12], &frame[..6]));
}

#[test]
fn traps_18_a_tunnel_is_compared_as_it_was_set_and_sent_through() {
    let TunnelKey::Set(tunnel) = super::frames::through(5) else { panic!("set") };
    let set = Action::new(ActionKind::TunnelKey(TunnelKey::Set(tunnel.clone())), Control::Pipe);
    let unset = Action::new(ActionKind::TunnelKey(TunnelKey::Unset), Control::Pipe);
    let a = filter(0, 1, ip().exact(Field::EncKeyId, 4), &[unset.clone(), set.clone(), goto(1)]);
    let b = filter(1, 1, ip().exact(Field::EncKeyId, 5).exact(Field::EncDstPort, 4789), &[output()]);
    let key = packet(tcp(H1, 1, H2, 2)).with(Field::EncAddrType, 2).with(Field::EncKeyId, 4);
    let (matches, actions) = Case::default().hit(&a).hit(&b).merged(&key).unwrap();
    assert_eq!(matches, ip().exact(Field::EncKeyId, 4));
    assert_eq!(actions, [unset, set, output()]);
    let sent = apply(&actions, Trim::Never, &frame(&[], false)).unwrap().sent.remove(0);
    assert_eq!(sent.tunnel, Some(*tunnel));
    let c = filter(1, 1, ip().exact(Field::EncKeyId, 4), &[output()]);
    let refusal = Case::default().hit(&a).hit(&c).merged(&key).unwrap_err();
    assert_eq!(refusal, Refusal::Impossible { filter: c.id, field: Field::EncKeyId });
}

fn police(shared: bool, exceed: Control, conform: Control) -> Action {
    let police = Police { shared, conform, rate: 1000, burst: 1, ..Police::default() };
    Action { index: 7, ..Action::new(ActionKind::Police(police), exceed) }
}

#[test]
fn traps_20_a_policer_that_is_shared_stays_one() {
    let shared = police(true, Control::Shot, Control::Pipe);
    let a = filter(0, 1, ip(), &[shared.clone(), goto(1)]);
    let b = filter(1, 1, ip(), &[output()]);
    let key = packet(tcp(H1, 1, H2, 2));
    let (path, _) = Case::default().hit(&a).hit(&b).fold(&key).unwrap();
    assert_eq!(path.parents.iter().map(|p| (p.ran, p.behind)).collect::<Vec<_>>(), [(0b11, 0b10), (0b1, 0b1)]);
    assert_eq!(path.actions(&[], true).0, [shared.clone(), output()]);
    let refused = |actions: &[Action]| Case::default().hit(&filter(0, 1, ip(), actions)).merged(&key).unwrap_err();
    for (actions, why) in [
        (vec![police(false, Control::Shot, Control::Pipe), output()], "this filter's own"),
        (vec![police(true, Control::Pipe, Control::Pipe), output()], "does not drop what exceeds"),
        (vec![shared.clone(), shared, output()], "second policer"),
    ] {
        let refusal = refused(&actions).to_string();
        assert!(refusal.contains(why), "{refusal}");
    }
}

/// Of a packet with both bits of ECN one is asked for: the one that keeps a filter in front out, too.
#[test]
fn the_bit_of_congestion_that_is_asked_anyway_is_enough() {
    let ecn = filter(0, 2, ip(), &[Action::new(ActionKind::Skbmod(Skbmod::Ecn), Control::Pipe), output()]);
    for bit in [1, 2] {
        let front = filter(0, 1, ip().with(Field::IpTos, 0, bit), &[output()]);
        let case = Case::default().hit_with(&ecn, &[&front], &[]);
        let key = arrived(&frame(&[], false)).with(Field::IpTos, 3);
        assert_eq!(case.merged(&key).expect("merged").0.mask.get(Field::IpTos), bit);
    }
}
