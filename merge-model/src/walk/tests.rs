//! Whole walks.

use super::*;
use crate::testing::{Tracker, action, add, ct, gact, hex, mirred, model, receive, to};
use flowmerge::flower::{
    Action, ActionKind, FilterId, Match,
    action::{Ct, Vlan},
};

const IP: &str = "45000020000900000c1166b60a0000010a000002 58595a5b5c5d5e5f60616263";
const LINK: &str = "020000000002020000000001";

fn frame(rest: &str) -> String {
    format!("{LINK}{rest}{IP}")
}

fn all(model: &mut Model, side: Hook, actions: Vec<Action>) -> FilterId {
    add(model, side, 0, 1, Match::default(), actions)
}

fn run(actions: Vec<Action>, input: &str) -> Outcome {
    let mut model = model();
    all(&mut model, Hook::Ingress(Port(1)), actions);
    receive(&mut model, &mut Tracker::default(), input)
}

fn out(outcome: &Outcome) -> Vec<(u32, String)> {
    let text = |sent: &Sent| {
        let hex: String = sent.frame.iter().map(|b| format!("{b:02x}")).collect();
        let rest = hex.strip_prefix(LINK).unwrap_or(&hex).to_string();
        let ip = IP.replace(' ', "");
        (sent.port.0, rest.strip_suffix(&ip).unwrap_or(&rest).to_string())
    };
    outcome.sent.iter().map(text).collect()
}

#[test]
fn sixteen_restarts_pass_and_the_seventeenth_drops() {
    for (limit, verdict) in [(16, Verdict::Decided(Terminal::Redirect)), (17, Verdict::Decided(Terminal::Drop))] {
        let mut model = model();
        let hook = Hook::Ingress(Port(1));
        for chain in 0..limit {
            let next = gact(Control::Goto(chain + 1));
            add(&mut model, hook, chain, 1, Match::default(), vec![next]);
        }
        add(&mut model, hook, limit, 1, Match::default(), vec![to(2)]);
        assert_eq!(receive(&mut model, &mut Tracker::default(), &frame("0800")).verdict, verdict);
    }
    let missed = run(vec![gact(Control::Goto(7))], &frame("0800")).verdict;
    assert_eq!(missed, Verdict::Missed { port: Port(1), chain: 7 });
}

#[test]
fn continue_leaves_the_rest_of_its_priority_out() {
    let mut model = model();
    let hook = Hook::Ingress(Port(1));
    add(&mut model, hook, 0, 1, Match::default(), vec![gact(Control::Continue)]);
    let ip = Match::default().exact(Field::EthType, 0x0800);
    add(&mut model, hook, 0, 1, ip, vec![gact(Control::Shot)]);
    add(&mut model, hook, 0, 2, ip, vec![to(2)]);
    let outcome = receive(&mut model, &mut Tracker::default(), &frame("0800"));
    assert_eq!(outcome.verdict, Verdict::Decided(Terminal::Redirect));
    assert_eq!(outcome.hits.len(), 2);
}

#[test]
fn jumps_and_repeats() {
    // Jumps over the first two: the third is reached and the list ends.
    let jump = vec![mirred(2, false, true), gact(Control::Jump(2)), gact(Control::Trap)];
    let outcome = run(jump, &frame("0800"));
    assert_eq!(outcome.hits[0].ran, [0, 1, 2]);
    assert_eq!(outcome.verdict, Verdict::Decided(Terminal::Trap));
    let outcome = run(vec![gact(Control::Repeat), gact(Control::Shot)], &frame("0800"));
    assert_eq!(outcome.counted.len(), 32);
    assert_eq!(outcome.verdict, Verdict::Decided(Terminal::Pass));
}

#[test]
fn mirrors_send_the_packet_as_it_is_there_and_count_what_came() {
    let push = |id| {
        let push = Vlan::Push { protocol: 0x8100, id, prio: 3 };
        action(ActionKind::Vlan(push), Control::Pipe)
    };
    let pop = action(ActionKind::Vlan(Vlan::Pop), Control::Pipe);
    let mirror = || mirred(3, false, true);
    let actions = vec![push(5), mirror(), push(6), mirror(), pop.clone(), pop, to(2)];
    let outcome = run(actions, &frame("0800"));
    let expected = [(3, "810060050800"), (3, "8100600681006005 0800"), (2, "0800")];
    assert_eq!(out(&outcome), expected.map(|(port, rest)| (port, rest.replace(' ', ""))));
    assert!(outcome.counted.iter().all(|c| c.bytes == 32) && outcome.counted.len() == 7);
    // The outer tag is no part of the length, an inner one is.
    let outcome = run(vec![to(2)], &frame("88a80001 81000002 0800"));
    assert_eq!(outcome.counted[0].bytes, 36);
    assert_eq!(out(&outcome), [(2, "88a80001810000020800".to_string())]);
}

#[test]
fn vlan_modify_and_pop_with_tags_in_the_bytes() {
    let modify = Vlan::Modify { protocol: 0x88a8, id: 9, prio: None };
    let modify = action(ActionKind::Vlan(modify), Control::Pipe);
    let pop = action(ActionKind::Vlan(Vlan::Pop), Control::Pipe);
    let outcome = run(vec![pop.clone(), modify.clone(), to(2)], &frame("88a8a001 8100b002 0800"));
    assert_eq!(out(&outcome), [(2, "88a8b0090800".to_string())]);
    let outcome = run(vec![modify, pop, to(2)], &frame("0800"));
    assert_eq!(out(&outcome), [(2, "0800".to_string())]);
}

#[test]
fn ethernet_header_off_and_on() {
    let off = action(ActionKind::Vlan(Vlan::PopEthernet), Control::Pipe);
    let on = Vlan::PushEthernet { dst: [2, 0, 0, 0, 0, 2], src: [2, 0, 0, 0, 0, 1] };
    let on = action(ActionKind::Vlan(on), Control::Pipe);
    let outcome = run(vec![off.clone(), mirred(3, false, true), on, to(2)], &frame("0800"));
    assert_eq!(out(&outcome), [(3, String::new()), (2, "0800".to_string())]);
    let tagged = run(vec![off, to(2)], &frame("81000001 0800"));
    assert_eq!(tagged.verdict, Verdict::Decided(Terminal::Drop));
}

#[test]
fn a_redirect_to_ingress_goes_on_in_the_filters_of_its_target() {
    let mut model = model();
    all(&mut model, Hook::Ingress(Port(1)), vec![mirred(2, true, false)]);
    let from_2 = Match::default().exact(Field::Indev, 2);
    add(&mut model, Hook::Ingress(Port(2)), 0, 1, from_2, vec![to(3)]);
    let egress = add(&mut model, Hook::Egress(Port(3)), 0, 1, from_2, vec![gact(Control::Ok)]);
    let mut tracker = Tracker::default();
    let outcome = receive(&mut model, &mut tracker, &frame("0800"));
    assert_eq!(outcome.verdict, Verdict::Decided(Terminal::Redirect));
    assert_eq!(out(&outcome), [(2, "0800".to_string()), (3, "0800".to_string())]);
    assert!(outcome.sent[0].ingress && !outcome.sent[1].ingress);
    let bytes: Vec<u64> = outcome.counted.iter().map(|c| c.bytes).collect();
    assert_eq!((outcome.hits[2].filter, bytes), (egress, vec![32, 32, 46]));
    // Without filters there, it is the stack's.
    model.filters.remove_hook(Hook::Ingress(Port(2)));
    let outcome = receive(&mut model, &mut tracker, &frame("0800"));
    assert_eq!(outcome.verdict, Verdict::Passed(Port(2)));
    // Back and forth: the fifth redirect inside another is one too many.
    all(&mut model, Hook::Ingress(Port(2)), vec![mirred(1, true, false)]);
    let outcome = receive(&mut model, &mut tracker, &frame("0800"));
    assert_eq!(outcome.verdict, Verdict::Decided(Terminal::Drop));
    assert_eq!((outcome.hits.len(), outcome.sent.len(), outcome.counted.len()), (5, 4, 4));
}

#[test]
fn a_port_that_is_down_gets_nothing() {
    let down = PortState { up: false, mtu: 1500 };
    let mut model = model();
    model.set_port(Port(3), down);
    all(&mut model, Hook::Ingress(Port(1)), vec![mirred(3, false, true), mirred(9, false, true), to(3)]);
    let outcome = receive(&mut model, &mut Tracker::default(), &frame("0800"));
    assert_eq!(outcome.verdict, Verdict::Decided(Terminal::Drop));
    assert_eq!((outcome.sent.len(), outcome.counted.len()), (0, 3));
}

#[test]
fn what_is_not_known_is_said() {
    let outcome = run(vec![action(ActionKind::Other("police".into()), Control::Pipe), to(2)], &frame("0800"));
    assert!(matches!(outcome.verdict, Verdict::Undecidable { why, .. } if why.contains("police")));
}

/// Out of a port whose egress filters give the packet to an ingress that sends it out there again.
#[test]
fn a_circle_over_egress_ends() {
    let mut model = model();
    for port in [1, 3] {
        all(&mut model, Hook::Ingress(Port(port)), vec![to(2)]);
    }
    all(&mut model, Hook::Egress(Port(2)), vec![mirred(3, true, false)]);
    let outcome = receive(&mut model, &mut Tracker::default(), &frame("0800"));
    assert!(matches!(outcome.verdict, Verdict::Undecidable { why, .. } if why.contains("without end")));
}

/// A UDP datagram in fragments of 48 bytes by scapy.
const FRAGMENTS: [&str; 3] = [
    "020000000002020000000001080045000044000920004011469e0a0000010a00000200010002006c4f43
     000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021222324252627",
    "02000000000202000000000108004500004400092006401146980a0000010a000002
     28292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f5051525354555657",
    "0200000000020200000000010800450000200009000c401166b60a0000010a00000258595a5b5c5d5e5f60616263",
];

/// `ct` keeps fragments until all are here; then the whole packet goes on, counted whole, and is cut as it came.
#[test]
fn fragments_are_put_together_and_cut_again() {
    let mut model = model();
    let hook = Hook::Ingress(Port(1));
    let zone = Ct { zone: 5, ..Ct::default() };
    all(&mut model, hook, vec![ct(zone, Control::Goto(1))]);
    let ports = Match::default().exact(Field::DstPort, 2).exact(Field::IpFlags, 0);
    add(&mut model, hook, 1, 1, ports, vec![to(2)]);
    let mut tracker = Tracker::default();
    for order in [[0, 1, 2], [2, 0, 1]] {
        for held in &order[..2] {
            let outcome = receive(&mut model, &mut tracker, FRAGMENTS[*held]);
            assert_eq!(outcome.verdict, Verdict::Decided(Terminal::Held));
        }
        let last = receive(&mut model, &mut tracker, FRAGMENTS[order[2]]);
        assert_eq!(last.verdict, Verdict::Decided(Terminal::Redirect));
        let sent: Vec<_> = last.sent.iter().map(|sent| sent.frame.clone()).collect();
        assert_eq!(sent, FRAGMENTS.map(hex));
        assert_eq!(last.counted[1].bytes, 128);
    }
    // Half a minute later what waits is forgotten.
    let late = |model: &mut Model, tracker: &mut Tracker, n: usize, now| {
        model.receive(Port(1), &hex(FRAGMENTS[n]), now, tracker).verdict
    };
    late(&mut model, &mut tracker, 0, 0);
    late(&mut model, &mut tracker, 1, 1);
    let verdict = late(&mut model, &mut tracker, 2, 30_000_000_000);
    assert_eq!(verdict, Verdict::Decided(Terminal::Held));
}

/// The egress hook drops one, and those behind it are not sent: the first took the rest along.
#[test]
fn a_fragment_that_is_dropped_at_egress_takes_those_behind_it_along() {
    for (matches, sent) in [
        (Match::default().exact(Field::IpFlags, 3), 0),
        (Match::default().exact(Field::IpFlags, 1), 1),
        (Match::default().exact(Field::IpFlags, 0), 3),
    ] {
        let mut model = model();
        all(&mut model, Hook::Ingress(Port(1)), vec![ct(Ct { zone: 5, ..Ct::default() }, Control::Pipe), to(2)]);
        add(&mut model, Hook::Egress(Port(2)), 0, 1, matches, vec![gact(Control::Shot)]);
        let mut tracker = Tracker::default();
        let last =
            FRAGMENTS.map(|fragment| receive(&mut model, &mut tracker, fragment)).into_iter().next_back().unwrap();
        assert_eq!(last.sent.len(), sent);
        assert_eq!(last.hits.len(), if sent == 3 { 1 } else { 2 });
    }
}

/// Cut, flipped and shifted frames through every action there is: whatever comes out, nothing panics.
#[test]
fn junk_does_no_harm() {
    use flowmerge::flower::action::{
        CsumFlags, Mpls, MplsEntry, Nat, NatSide, Pedit, PeditHeader, PeditKey, Skbmod, StatelessNat,
    };
    let mut seed = 1u32;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below
    };
    let seeds = [
        FRAGMENTS[0].to_string(),
        frame("88a80001 81000002 0800"),
        frame("8100000188a8000281000003 86dd"),
        format!(
            "{LINK}86dd60000000002000400000000000000000000000000000000000000000000000000000000000000000{}",
            "2c00".repeat(16)
        ),
        format!(
            "{LINK}86dd60000000001c3a40fd000000000000000000000000000001fd0000000000000000000000000000020300c14a0007000160000000"
        ),
    ];
    let pedit = |header, offset| {
        let key = PeditKey { header, offset, mask: [0; 4], value: [0x45, 0xff, 0, 0x3c], add: true, dynamic: None };
        ActionKind::Pedit(Pedit { keys: vec![key], mend: false })
    };
    let nat = Nat {
        side: Some(NatSide::Dst),
        addresses: Some(([192, 0, 2, 1].into(), [192, 0, 2, 1].into())),
        ports: Some((7, 7)),
    };
    let push = Vlan::Push { protocol: 0x8100, id: 1, prio: 1 };
    let modify = Vlan::Modify { protocol: 0x88a8, id: 1, prio: Some(1) };
    let on = Vlan::PushEthernet { dst: [0; 6], src: [0; 6] };
    let commit = Ct { commit: true, nat: Some(nat), ..Ct::default() };
    let mut soup: Vec<ActionKind> = [Vlan::Pop, push, modify, Vlan::PopEthernet, on].map(ActionKind::Vlan).into();
    soup.extend([PeditHeader::Ethernet, PeditHeader::Network, PeditHeader::Tcp].map(|header| pedit(header, 0)));
    soup.extend([pedit(PeditHeader::Udp, -60), ActionKind::Csum(CsumFlags::all())]);
    soup.extend([ActionKind::Ct(Ct::default()), ActionKind::Ct(commit)]);
    soup.extend([mirred(2, false, true), mirred(3, true, true)].map(|mirror| mirror.kind));
    let entry = MplsEntry { label: Some(5), ..MplsEntry::default() };
    soup.extend(
        [Mpls::Pop { protocol: 0x0800 }, Mpls::Pop { protocol: 0x8847 }, Mpls::Modify(entry), Mpls::DecTtl]
            .map(ActionKind::Mpls),
    );
    soup.extend(
        [Mpls::Push { protocol: 0x8847, entry }, Mpls::PushMac { protocol: 0x8848, entry }].map(ActionKind::Mpls),
    );
    let set = Skbmod::Set { dst: Some([1; 6]), src: Some([2; 6]), ethertype: Some(0x86dd) };
    soup.extend([set, Skbmod::Swap, Skbmod::Ecn].map(ActionKind::Skbmod));
    soup.extend([true, false].map(|egress| ActionKind::Nat(StatelessNat { old: 0, new: 7, mask: 0xff, egress })));
    for _ in 0..3_000 {
        let mut model = model();
        let mut tracker = Tracker::default();
        let actions = (0..6).map(|_| action(soup[random(soup.len())].clone(), Control::Pipe));
        let mut actions: Vec<Action> = actions.collect();
        actions.push(mirred(3, random(2) == 0, false));
        all(&mut model, Hook::Ingress(Port(1)), actions);
        all(&mut model, Hook::Ingress(Port(3)), vec![action(soup[random(soup.len())].clone(), Control::Pipe), to(2)]);
        all(&mut model, Hook::Egress(Port(2)), vec![action(soup[random(soup.len())].clone(), Control::Pipe)]);
        let mut bytes = hex(&seeds[random(seeds.len())]);
        for _ in 0..random(4) {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        bytes.truncate(random(bytes.len() * 2));
        for now in 0..2 {
            model.receive(Port(1), &bytes, now, &mut tracker);
        }
    }
}

mod tunnels;
