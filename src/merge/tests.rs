//! The merge by hand-made walks. A case is a list of filters that a packet hits, and what comes of it.

mod checksums;
mod connections;
mod frames;
mod labels;
mod molds;
mod others;
mod ports;
mod rewrites;
mod shadows;
mod symbols;
mod tags;

use super::*;
use crate::{
    conntrack::{Connection, Direction, TcpState, Tuple, proto},
    flower::{
        Action, ActionKind, Control, Cookie, Field, Filter, FilterId, Hook, Key, Masks, Match, Port,
        action::{CsumFlags, Ct, Mirred, Nat, Pedit, PeditHeader, PeditKey, Vlan},
        field::{ct_state, tcp_flags},
    },
};

/// As many cases as `PROPTEST_CASES` says, or these.
pub fn cases(cases: u32) -> proptest::test_runner::Config {
    let told = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    proptest::test_runner::Config { cases: told.unwrap_or(cases), ..Default::default() }
}

const IN: Port = Port(1);
const OUT: Port = Port(2);

/// What there is at ports; nothing by default.
#[derive(Clone, Default)]
struct Around {
    down: Vec<Port>,
    egress: Vec<Port>,
    ingress: Vec<Port>,
    bound: Vec<(Port, u32)>,
}
impl Ports for Around {
    fn is_down(&self, port: Port) -> bool {
        self.down.contains(&port)
    }
    fn has_egress_filters(&self, port: Port) -> bool {
        self.egress.contains(&port)
    }
    fn has_ingress_filters(&self, port: Port) -> bool {
        self.ingress.contains(&port)
    }
    fn is_bound(&self, port: Port, block: u32) -> bool {
        self.bound.contains(&(port, block))
    }
}

fn goto(chain: u32) -> Action {
    Action::gact(Control::Goto(chain))
}
fn drop() -> Action {
    Action::gact(Control::Shot)
}
fn output() -> Action {
    Action::redirect(OUT)
}
fn ct(zone: u16, nat: bool) -> Action {
    Action::new(ActionKind::Ct(Ct { zone, nat: nat.then(Nat::default), ..Ct::default() }), Control::Pipe)
}
fn pedit(header: PeditHeader, offset: i32, mask: [u8; 4], value: [u8; 4]) -> Action {
    let keys = vec![PeditKey { header, offset, mask, value, add: false, dynamic: None }];
    Action::new(ActionKind::Pedit(Pedit { keys, mend: false }), Control::Pipe)
}
fn add(header: PeditHeader, offset: i32, mask: [u8; 4], value: [u8; 4]) -> Action {
    let keys = vec![PeditKey { header, offset, mask, value, add: true, dynamic: None }];
    Action::new(ActionKind::Pedit(Pedit { keys, mend: false }), Control::Pipe)
}
fn vlan(vlan: Vlan) -> Action {
    Action::new(ActionKind::Vlan(vlan), Control::Pipe)
}

fn ip() -> Match {
    Match::default().exact(Field::Protocol, 0x800).exact(Field::EthType, 0x800)
}
fn state(value: u128, mask: u128) -> Match {
    ip().with(Field::CtState, value, mask)
}

fn filter(chain: u32, prio: u16, matches: Match, actions: &[Action]) -> Filter {
    let id = FilterId { hook: Hook::Ingress(IN), chain, prio, protocol: 0x800, handle: 1 };
    Filter::flower(id, matches, actions.to_vec())
}

fn tcp(src: [u8; 4], src_port: u16, dst: [u8; 4], dst_port: u16) -> Tuple {
    Tuple { src: src.into(), dst: dst.into(), proto: proto::TCP, src_port, dst_port }
}

fn packet(t: Tuple) -> Key {
    use crate::conntrack::tuple::address_bits;
    Key::ZERO
        .with(Field::Protocol, 0x800)
        .with(Field::EthType, 0x800)
        .with(Field::EthDst, 0x0200_0000_0001)
        .with(Field::AddrType, 2)
        .with(Field::IpProto, t.proto as u128)
        .with(Field::IpTtl, 64)
        .with(Field::Ipv4Src, address_bits(t.src))
        .with(Field::Ipv4Dst, address_bits(t.dst))
        .with(Field::SrcPort, t.src_port as u128)
        .with(Field::DstPort, t.dst_port as u128)
        .with(Field::TcpFlags, if t.proto == proto::TCP { tcp_flags::ACK } else { 0 })
}

/// A walk over filters.
#[derive(Default)]
struct Case<'a> {
    hits: Vec<CaseHit<'a>>,
    around: Around,
    masks: Masks,
}

/// A filter, the filters in front of it, and the connections that its `ct`s found.
struct CaseHit<'a> {
    filter: &'a Filter,
    front: Vec<&'a Filter>,
    met: Vec<(&'a Connection, Direction)>,
}

impl<'a> Case<'a> {
    fn hit(self, filter: &'a Filter) -> Self {
        self.hit_with(filter, &[], &[])
    }
    fn hit_with(mut self, filter: &'a Filter, front: &[&'a Filter], met: &[(&'a Connection, Direction)]) -> Self {
        self.hits.push(CaseHit { filter, front: front.to_vec(), met: met.to_vec() });
        self
    }
    fn fold(&self, key: &Key) -> Result<(Path, Vec<&'a Connection>), Refusal> {
        self.folded(key).map_err(Refusal::from)
    }
    fn folded(&self, key: &Key) -> Result<(Path, Vec<&'a Connection>), Box<Refused>> {
        let mut connections: Vec<&Connection> = Vec::new();
        let mut steps = Vec::new();
        for (i, CaseHit { filter, front, met }) in self.hits.iter().enumerate() {
            let met = met.iter().map(|&(connection, direction)| {
                let index = connections.iter().position(|c| std::ptr::eq(*c, connection)).unwrap_or_else(|| {
                    connections.push(connection);
                    connections.len() - 1
                });
                Some(Met { index: index as u8, direction, connection })
            });
            let met = met.collect();
            let in_front = front.iter().map(|f| (*f, Order::Before)).collect();
            steps.push(Step { cookie: Cookie(i as u64), filter, in_front, met });
        }
        let scene =
            Scene { port: IN, key, steps, connections: connections.clone(), tell_tag: false, masks: &self.masks };
        Ok((fold(&scene, &self.around)?, connections))
    }
    fn merged(&self, key: &Key) -> Result<(Match, Vec<Action>), Refusal> {
        let (path, connections) = self.fold(key)?;
        let matches = path.matches(&connections).expect("its own packet");
        assert!(matches.fits(key), "a walk's packet matches its merged filter: {matches:?}");
        Ok((matches, path.actions(&connections, true).0))
    }
}

const H1: [u8; 4] = [10, 0, 0, 1];
const H2: [u8; 4] = [10, 0, 0, 2];
const VIP: [u8; 4] = [10, 0, 0, 50];

#[test]
fn a_lone_terminal_is_a_walk_of_one() {
    let f = filter(0, 1, ip().exact(Field::Ipv4Dst, 0x0a000002), &[output()]);
    let (matches, actions) = Case::default().hit(&f).merged(&packet(tcp(H1, 1, H2, 2))).unwrap();
    assert_eq!((matches, actions), (f.matches, vec![output()]));
}

#[test]
fn traps_1_a_rewritten_field_is_compared_with_what_was_written() {
    let dst = pedit(PeditHeader::Ipv4, 16, [0; 4], H2);
    let a = filter(0, 1, ip(), &[dst, goto(1)]);
    let hit = filter(1, 1, ip().exact(Field::Ipv4Dst, 0x0a000002), &[output()]);
    let miss = filter(1, 1, ip().exact(Field::Ipv4Dst, 0x0a000032), &[output()]);
    let key = packet(tcp(H1, 1, VIP, 2));
    let (matches, actions) = Case::default().hit(&a).hit(&hit).merged(&key).unwrap();
    assert_eq!(matches, ip().exact(Field::AddrType, 2), "the arrived destination does not matter");
    assert_eq!(actions.len(), 2);
    let refusal = Case::default().hit(&a).hit(&miss).merged(&key).unwrap_err();
    assert_eq!(refusal, Refusal::Impossible { filter: miss.id, field: Field::Ipv4Dst });
}

#[test]
fn traps_2_a_masked_rewrite_leaves_and_may_flip_the_other_bits() {
    // Keeps the low byte of the destination and flips its lowest bit.
    let a = filter(0, 1, ip(), &[pedit(PeditHeader::Ipv4, 16, [0, 0, 0, 0xff], [10, 0, 0, 1]), goto(1)]);
    let b = filter(1, 1, ip().exact(Field::Ipv4Dst, 0x0a000033), &[output()]);
    let (matches, _) = Case::default().hit(&a).hit(&b).merged(&packet(tcp(H1, 1, VIP, 2))).unwrap();
    assert_eq!(matches, ip().exact(Field::AddrType, 2).with(Field::Ipv4Dst, 0x32, 0xff));
}

#[test]
fn traps_2_add_is_told_where_it_is_one_whole_byte() {
    let ttl = add(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [255, 0, 0, 0]);
    let a = filter(0, 1, ip(), &[ttl, goto(1)]);
    let b = filter(1, 1, ip().exact(Field::IpTtl, 63), &[output()]);
    let (matches, _) = Case::default().hit(&a).hit(&b).merged(&packet(tcp(H1, 1, H2, 2))).unwrap();
    assert_eq!(matches, ip().exact(Field::IpTtl, 64));
    // Two bytes at once carry the wrong way round: not told.
    let ports = add(PeditHeader::Tcp, 0, [0, 0, 0xff, 0xff], [0, 1, 0, 0]);
    let a = filter(0, 1, ip(), &[ports, goto(1)]);
    let b = filter(1, 1, ip().exact(Field::SrcPort, 2), &[output()]);
    let refusal = Case::default().hit(&a).hit(&b).merged(&packet(tcp(H1, 1, H2, 2))).unwrap_err();
    assert!(matches!(refusal, Refusal::Hidden { field: Field::SrcPort, .. }), "{refusal}");
}

#[test]
fn traps_3_and_4_two_zones_the_second_tuple_is_carried_back() {
    // Zone 3 translates the service address to h2:8000; zone 4 tracks what comes out of that.
    let outside = tcp(H1, 1000, VIP, 80);
    let inside = tcp(H1, 1000, H2, 8000);
    let c3 = Connection::established(3, outside, inside.inverse());
    let c4 = Connection::established(4, inside, inside.inverse());
    let a = filter(0, 1, ip(), &[ct(3, true), goto(1)]);
    let b = filter(1, 1, state(ct_state::ESTABLISHED, ct_state::ESTABLISHED), &[ct(4, false), goto(2)]);
    let c = filter(2, 1, ip().exact(Field::DstPort, 8000).exact(Field::CtZone, 4), &[output()]);
    let original = Direction::Original;
    let case = Case::default().hit_with(&a, &[], &[(&c3, original)]).hit_with(&b, &[], &[(&c4, original)]).hit(&c);
    let (matches, actions) = case.merged(&packet(outside)).unwrap();
    let want = ip()
        .exact(Field::AddrType, 2)
        .exact(Field::IpProto, 6)
        .with(Field::IpFlags, 0, 1)
        .with(Field::TcpFlags, 0x10, 0x17)
        .exact(Field::Ipv4Src, 0x0a000001)
        .exact(Field::Ipv4Dst, 0x0a000032)
        .exact(Field::SrcPort, 1000)
        .exact(Field::DstPort, 80);
    assert_eq!(matches, want);
    let ActionKind::Pedit(p) = &actions[0].kind else { panic!("{actions:?}") };
    assert!(p.mend);
    let set = |header, offset, mask, value| PeditKey { header, offset, mask, value, add: false, dynamic: None };
    assert_eq!(
        p.keys,
        [set(PeditHeader::Ipv4, 16, [0; 4], H2), set(PeditHeader::Tcp, 0, [0xff, 0xff, 0, 0], [0, 0, 0x1f, 0x40]),]
    );
    assert_eq!(actions[1..], [output()]);

    // The same path serves another connection of the same way, but not one that leaves for another port.
    let (path, _) = case.fold(&packet(outside)).unwrap();
    let (o2, i2) = (tcp(H1, 1001, VIP, 80), tcp(H1, 1001, H2, 8000));
    let (d3, d4) = (Connection::established(3, o2, i2.inverse()), Connection::established(4, i2, i2.inverse()));
    assert!(path.matches(&[&d3, &d4]).unwrap().fits(&packet(o2)));
    let elsewhere = tcp(H1, 1001, H2, 8001);
    assert_eq!(path.matches(&[&Connection::established(3, o2, elsewhere.inverse()), &d4]), None);
}

#[test]
fn traps_4_source_nat_of_the_original_is_destination_nat_of_the_reply() {
    let original = tcp(H1, 1000, H2, 80);
    let reply = tcp(H2, 80, VIP, 2000);
    let c = Connection::established(7, original, reply);
    let a = filter(0, 1, ip(), &[ct(7, true), output()]);
    let case = Case::default().hit_with(&a, &[], &[(&c, Direction::Reply)]);
    let (_, actions) = case.merged(&packet(reply)).unwrap();
    let ActionKind::Pedit(p) = &actions[0].kind else { panic!("{actions:?}") };
    assert_eq!(p.keys[0], PeditKey { value: H1, offset: 16, ..p.keys[0] });
    assert_eq!((p.keys[1].mask, p.keys[1].value), ([0xff, 0xff, 0, 0], [0, 0, 0x03, 0xe8]));
}

#[test]
fn traps_5_every_bit_of_ct_state_counts() {
    let c = Connection::established(5, tcp(H1, 1, H2, 2), tcp(H1, 1, H2, 2).inverse());
    let a = filter(0, 1, ip().with(Field::CtState, 0, ct_state::TRACKED), &[ct(5, false), goto(1)]);
    let all = 0x3f;
    let yes = ct_state::TRACKED | ct_state::ESTABLISHED;
    for (want, direction, merges) in [
        (yes, Direction::Original, true),
        (yes | ct_state::REPLY, Direction::Original, false),
        (yes | ct_state::REPLY, Direction::Reply, true),
        (yes, Direction::Reply, false),
        (ct_state::TRACKED | ct_state::NEW, Direction::Original, false),
    ] {
        let b = filter(1, 1, state(want, all), &[output()]);
        let case = Case::default().hit_with(&a, &[], &[(&c, direction)]).hit(&b);
        let merged = case.merged(&packet(c.tuple(direction)));
        assert_eq!(merged.is_ok(), merges, "{want:#x} {direction:?} {merged:?}");
    }
}

#[test]
fn traps_6_force_on_a_reply_kills_the_connection_whatever_is_found_next() {
    let c = Connection::established(5, tcp(H1, 1, H2, 2), tcp(H1, 1, H2, 2).inverse());
    let next = Connection::established(5, tcp(H1, 7, H2, 2), tcp(H1, 7, H2, 2).inverse());
    let force = Action::new(ActionKind::Ct(Ct { zone: 5, force: true, ..Ct::default() }), Control::Pipe);
    let a = filter(0, 1, ip(), &[ct(5, false), force, output()]);
    let key = packet(c.reply);
    for found in [&c, &next] {
        let met = [(&c, Direction::Reply), (found, Direction::Reply)];
        let refusal = Case::default().hit_with(&a, &[], &met).merged(&key).unwrap_err();
        assert!(matches!(refusal, Refusal::Unfit { .. }), "{refusal}");
    }
}

#[test]
fn traps_7_a_ct_without_its_connection_breaks_the_walk() {
    let a = filter(0, 1, ip(), &[ct(5, false), output()]);
    let key = packet(tcp(H1, 1, H2, 2));
    assert!(Case::default().hit(&a).merged(&key).is_err());
}

#[test]
fn traps_8_mark_and_labels_are_conditions() {
    let t = tcp(H1, 1, H2, 2);
    let c = Connection { mark: 0x21, ..Connection::established(5, t, t.inverse()) };
    let a = filter(0, 1, ip(), &[ct(5, false), goto(1)]);
    let b = filter(1, 1, ip().with(Field::CtMark, 1, 0xf), &[output()]);
    let case = Case::default().hit_with(&a, &[], &[(&c, Direction::Original)]).hit(&b);
    let (path, _) = case.fold(&packet(t)).unwrap();
    assert!(path.matches(&[&c]).is_some());
    assert!(path.matches(&[&Connection { mark: 0x22, ..c }]).is_none());
}

#[test]
fn traps_9_tags_move_the_ethertypes() {
    let tagged = Match::default().exact(Field::Protocol, 0x8100).exact(Field::VlanId, 10);
    let a = filter(0, 1, tagged, &[vlan(Vlan::Pop), goto(1)]);
    let push = vlan(Vlan::Push { protocol: 0x8100, id: 30, prio: 3 });
    let b = filter(1, 1, ip().exact(Field::IpTtl, 64), &[push, goto(2)]);
    let behind =
        Match::default().exact(Field::Protocol, 0x8100).exact(Field::VlanId, 30).exact(Field::VlanEthType, 0x800);
    let c = filter(2, 1, behind, &[output()]);
    let key = packet(tcp(H1, 1, H2, 2))
        .with(Field::Protocol, 0x8100)
        .with(Field::VlanTpid, 0x8100)
        .with(Field::VlanId, 10)
        .with(Field::VlanEthType, 0x800)
        .with(Field::NumOfVlans, 1);
    let (matches, actions) = Case::default().hit(&a).hit(&b).hit(&c).merged(&key).unwrap();
    let want = tagged.exact(Field::VlanEthType, 0x800).exact(Field::EthType, 0x800).exact(Field::IpTtl, 64);
    assert_eq!(matches, want);
    let kinds: Vec<_> = actions.iter().map(|a| a.name()).collect();
    assert_eq!(kinds, ["vlan", "vlan", "mirred"]);
}

#[test]
fn traps_9_after_two_pushes_nothing_behind_the_outer_tag_is_told() {
    let push = vlan(Vlan::Push { protocol: 0x8100, id: 30, prio: 3 });
    let a = filter(0, 1, ip(), &[push.clone(), push, goto(1)]);
    let outer = Match::default().exact(Field::Protocol, 0x8100).exact(Field::VlanId, 30);
    let b = filter(1, 1, outer, &[output()]);
    let key = packet(tcp(H1, 1, H2, 2));
    assert!(Case::default().hit(&a).hit(&b).merged(&key).is_ok());
    let inner = filter(1, 1, outer.exact(Field::CvlanId, 30), &[output()]);
    let refusal = Case::default().hit(&a).hit(&inner).merged(&key).unwrap_err();
    assert!(matches!(refusal, Refusal::Hidden { field: Field::CvlanId, .. }), "{refusal}");
}

#[test]
fn traps_9_after_two_pushes_csum_ct_and_ports_are_refused() {
    let push = vlan(Vlan::Push { protocol: 0x8100, id: 30, prio: 3 });
    let port = pedit(PeditHeader::Tcp, 0, [0, 0, 0xff, 0xff], [0, 80, 0, 0]);
    let csum = Action::new(ActionKind::Csum(CsumFlags::IPV4), Control::Pipe);
    let t = tcp(H1, 1, H2, 2);
    let c = Connection::established(5, t, t.inverse());
    for lost in [port, csum, ct(5, false)] {
        let a = filter(0, 1, ip(), &[push.clone(), push.clone(), lost.clone(), output()]);
        let refusal = Case::default().hit_with(&a, &[], &[(&c, Direction::Original)]).merged(&packet(t)).unwrap_err();
        assert!(matches!(&refusal, Refusal::Unfit { action, .. } if action == lost.name()), "{refusal}");
    }
    let dst = pedit(PeditHeader::Ipv4, 16, [0; 4], H2);
    let a = filter(0, 1, ip(), &[push.clone(), push, dst, output()]);
    assert!(Case::default().hit(&a).merged(&packet(t)).is_ok(), "the IP header itself is found");
}

#[test]
fn traps_10_flags_that_a_filter_matches_join_the_exclusion() {
    let t = tcp(H1, 1, H2, 2);
    let c = Connection::established(5, t, t.inverse());
    let psh = filter(0, 1, ip().exact(Field::IpProto, 6).with(Field::TcpFlags, 8, 8), &[ct(5, false), output()]);
    let syn = filter(0, 1, ip().exact(Field::IpProto, 6).with(Field::TcpFlags, 2, 2), &[ct(5, false), output()]);
    let met = [(&c, Direction::Original)];
    let flags = |f| packet(t).with(Field::TcpFlags, f);
    let (matches, _) = Case::default().hit_with(&psh, &[], &met).merged(&flags(0x18)).unwrap();
    assert_eq!((matches.key.get(Field::TcpFlags), matches.mask.get(Field::TcpFlags)), (0x18, 0x1f));
    let refusal = Case::default().hit_with(&syn, &[], &met).merged(&flags(0x02)).unwrap_err();
    assert_eq!(refusal, Refusal::Excluded { filter: syn.id, field: Field::TcpFlags });
}

#[test]
fn traps_16_jump_starts_again_and_skips() {
    let jump = Action::gact(Control::Jump(2));
    assert_eq!(sequence(&[jump.clone(), drop(), output()]), Some(([0, 2].into_iter().collect(), Control::Stolen)));
    assert_eq!(sequence(&[jump.clone(), jump.clone(), jump.clone()]), None, "jumps onto itself for ever");
    let on = Action::new(ActionKind::Csum(CsumFlags::IPV4), Control::Jump(0));
    let a = filter(0, 1, ip(), &[on, jump, output()]);
    let refusal = Case::default().hit(&a).merged(&packet(tcp(H1, 1, H2, 2))).unwrap_err();
    assert!(matches!(&refusal, Refusal::Action { action, .. } if action == "csum"), "{refusal}");
    // What goes back, or chooses, is named rather than what jumps.
    use crate::flower::action::Random;
    let jump = Action::gact(Control::Jump(2));
    let again = Action::new(ActionKind::Csum(CsumFlags::IPV4), Control::Repeat);
    let dice = ActionKind::Gact { random: Some(Random { kind: 1, value: 2, control: Control::Ok }) };
    for (odd, name) in [(again, "csum"), (Action::new(dice, Control::Pipe), "gact")] {
        let edit = Action::new(ActionKind::Skbedit(Default::default()), Control::Jump(2));
        let a = filter(0, 1, ip(), &[jump.clone(), drop(), odd, edit, output()]);
        let refusal = Case::default().hit(&a).merged(&packet(tcp(H1, 1, H2, 2))).unwrap_err();
        assert!(matches!(&refusal, Refusal::Action { action, .. } if action == name), "{refusal}");
    }
    assert_eq!(
        sequence(&[ct(1, false)]),
        Some(([0].into_iter().collect(), Control::Ok)),
        "a list that runs out passes"
    );
}

#[test]
fn traps_21_the_gate() {
    let t = tcp(H1, 1, H2, 2);
    let a = filter(0, 1, ip(), &[ct(5, false), output()]);
    for c in [
        Connection { assured: false, ..Connection::established(5, t, t.inverse()) },
        Connection { tcp: Some(TcpState::FinWait), ..Connection::established(5, t, t.inverse()) },
        Connection { helper: true, ..Connection::established(5, t, t.inverse()) },
    ] {
        let case = Case::default().hit_with(&a, &[], &[(&c, Direction::Original)]);
        assert!(matches!(case.merged(&packet(t)), Err(Refusal::NotQualified { .. })));
    }
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let t = packet(tcp(H1, 1, H2, 2));
    let hit = filter(0, 2, ip(), &[output()]);
    let strange = Filter { undecoded: vec!["TCA_FLOWER 200".into()], ..filter(0, 1, ip(), &[output()]) };
    let refusal = Case::default().hit(&strange).merged(&t).unwrap_err();
    assert!(matches!(refusal, Refusal::Undecoded { .. }), "{refusal}");
    let refusal = Case::default().hit_with(&hit, &[&strange], &[]).merged(&t).unwrap_err();
    assert!(matches!(refusal, Refusal::ShadowUndecoded { .. }), "{refusal}");
    let sample = Action::new(ActionKind::Other("sample".into()), Control::Pipe);
    let sampled = filter(0, 1, ip(), &[sample, output()]);
    let refusal = Case::default().hit(&sampled).merged(&t).unwrap_err();
    assert!(refusal.to_string().contains("sample"), "{refusal}");
}

#[test]
fn a_walk_that_its_filters_do_not_lead_along_is_broken() {
    let a = filter(0, 1, ip(), &[goto(1)]);
    let b = filter(2, 1, ip(), &[output()]);
    let key = packet(tcp(H1, 1, H2, 2));
    assert_eq!(Case::default().hit(&a).hit(&b).merged(&key).unwrap_err(), Refusal::Broken { filter: b.id });
    assert_eq!(Case::default().hit(&a).merged(&key).unwrap_err(), Refusal::NoTerminal { filter: a.id });
}
