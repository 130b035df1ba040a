//! What is cast in the mold of another walk is what a fold gives.

use super::*;
use crate::flower::action::{Police, Skbedit, Skbmod, StatelessNat};

/// Small numbers that look random, the same in each run.
struct Dice(u32);

impl Dice {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(self.0 >> 8) * u64::from(n)) >> 24) as u32
    }
    fn one<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u32) as usize].clone()
    }
}

/// What filters of a chain compare and do.
#[derive(Clone)]
struct Kin {
    family: Family,
    /// Whether they say of what protocol they are.
    ip: bool,
    bits: Vec<(Field, u128)>,
    actions: Vec<Action>,
    ct: bool,
}

const COMPARED: [(Field, u128); 16] = [
    (Field::Ipv4Src, 0x300),
    (Field::Ipv4Dst, 0xff),
    (Field::SrcPort, 0x3),
    (Field::SrcPort, 0x1e),
    (Field::IpTos, 0xfc),
    (Field::IpTos, 0x3),
    (Field::IpTtl, 0xff),
    (Field::IpTtl, 0xc0),
    (Field::EthDst, 0xff),
    (Field::EthSrc, 0xff),
    (Field::VlanId, 0x3),
    (Field::TcpFlags, 0x10),
    (Field::TcpFlags, 0x20),
    (Field::IpProto, 0xff),
    (Field::CtMark, 1),
    (Field::IpFlags, 1),
];

fn act(kind: ActionKind) -> Action {
    Action::new(kind, Control::Pipe)
}

fn what_is_done(dice: &mut Dice) -> Vec<Action> {
    let nat = |egress| StatelessNat { old: 0x0a00_0032, new: 0x0a00_0033, mask: !0, egress };
    let police = Police { shared: true, conform: Control::Pipe, rate: 1000, ..Police::default() };
    let police = Action { index: 1, ..Action::new(ActionKind::Police(police), Control::Shot) };
    dice.one(&[
        vec![],
        vec![],
        vec![pedit(PeditHeader::Ipv4, 0, [0xff, 3, 0xff, 0xff], [0, 0x40, 0, 0])],
        vec![pedit(PeditHeader::Ipv4, 16, [0xff, 0xff, 0xff, 0xf0], [0, 0, 0, 2])],
        vec![add(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [255, 0, 0, 0])],
        vec![vlan(Vlan::Push { protocol: 0x8100, id: 7, prio: 0 })],
        vec![vlan(Vlan::Pop)],
        vec![act(ActionKind::Skbmod(Skbmod::Swap))],
        vec![act(ActionKind::Skbmod(Skbmod::Ecn))],
        vec![act(ActionKind::Nat(nat(false))), act(ActionKind::Csum(CsumFlags::IPV4 | CsumFlags::TCP))],
        vec![act(ActionKind::Nat(nat(true)))],
        vec![act(ActionKind::Skbedit(Skbedit { inherit_dsfield: true, ..Skbedit::default() }))],
        vec![police],
        vec![ct(5, true)],
        vec![ct(5, true)],
        vec![ct(5, true)],
        vec![ct(5, false)],
        vec![ct(5, false)],
    ])
}

fn kin(dice: &mut Dice, chain: u32, last: bool) -> Kin {
    let mut mine = 0;
    let mut bits: Vec<(Field, u128)> = Vec::new();
    for _ in 0..dice.below(4) {
        let at = dice.below(16) as usize;
        if !bits.iter().any(|both| both.0 == COMPARED[at].0) {
            bits.push(COMPARED[at]);
            mine |= 1 << at;
        }
    }
    let ct_first = chain == 0 || dice.below(4) == 0;
    let mut actions = what_is_done(dice);
    if dice.below(3) == 0 {
        actions.extend(what_is_done(dice));
    }
    let ct = ct_first && actions.iter().filter(|a| matches!(a.kind, ActionKind::Ct(_))).count() == 1;
    if !ct {
        actions.retain(|a| !matches!(a.kind, ActionKind::Ct(_)));
    }
    actions.push(if last { dice.one(&[output(), drop()]) } else { goto(chain + 1) });
    Kin { family: Family(u64::from(chain) << 32 | mine), ip: dice.below(4) > 0, bits, actions, ct }
}

/// A walk through filters of these kinds; some ask what those of `before` do, whatever the packet is.
fn walk(dice: &mut Dice, kin: &[Kin], before: &[Filter]) -> (Vec<Filter>, Key, Connection) {
    let dst = [10, 0, 0, dice.one(&[0, 50, 51])];
    let original = tcp([10, 1, dice.below(4) as u8, 1], dice.below(40) as u16, dst, 80);
    let original = Tuple { proto: if dice.below(8) == 0 { proto::UDP } else { proto::TCP }, ..original };
    let reply = tcp([10, 0, 0, 2], 8000, [10, 1, 0, 1], original.src_port);
    let reply = Tuple { dst: original.src, proto: original.proto, ..reply };
    let mark = dice.below(2);
    let zone = if dice.below(30) == 0 { 6 } else { 5 };
    let connection = Connection { mark, ..Connection::established(zone, original, reply) };
    let tos = dice.one(&[0, 0, 0x20, 0x44, 0x22]);
    let mut key =
        packet(original).with(Field::IpTos, tos).with(Field::IpTtl, dice.one(&[0, 1, 63, 64, 65, 67, 99, 127, 192]));
    key.set(Field::EthDst, dice.one(&[0x0200_0000_0000, 0x0200_0000_0007]));
    key.set(Field::EthSrc, dice.one(&[0, 0x0200_0000_0007]));
    if original.proto == proto::TCP {
        key.set(Field::TcpFlags, dice.one(&[0x10, 0x10, 0x10, 0x30, 0, 0x12]));
    }
    if dice.below(20) == 0 {
        key.set(Field::IpFlags, 1);
    }
    let filters = kin.iter().enumerate().map(|(chain, kin)| {
        let mut matches = if kin.ip { ip() } else { Match::default() };
        for &(field, mask) in &kin.bits {
            // As it arrived, or as something may have been written.
            let value = if dice.below(8) == 0 { dice.one(&[0, 0x40, 63, 1, 7, 2, 51]) } else { key.get(field) };
            let same = before.get(chain).filter(|_| dice.below(6) == 0);
            let value = same.map_or(value, |filter| filter.matches.key.get(field));
            let value = if field == Field::CtMark { u128::from(mark) } else { value };
            matches.set(field, value, mask);
        }
        let mut filter = filter(chain as u32, 1, matches, &kin.actions);
        for action in &mut filter.actions {
            action.index += u32::from(dice.below(10) == 0);
        }
        filter
    });
    (filters.collect(), key, connection)
}

#[test]
fn what_is_cast_is_what_would_be_folded() {
    let mut dice = Dice(1);
    let (mut cast, mut other, mut refused, mut conditions) = (0, 0, 0, 0);
    for _ in 0..80_000 {
        let hits = 1 + dice.below(3);
        let kin: Vec<Kin> = (0..hits).map(|chain| kin(&mut dice, chain, chain + 1 == hits)).collect();
        let families: Vec<Family> = kin.iter().map(|k| k.family).collect();
        let first = walk(&mut dice, &kin, &[]);
        let second = walk(&mut dice, &kin, &first.0);
        let walks = [first, second];
        let folded = walks.each_ref().map(|(filters, key, connection)| {
            let met = Met { index: 0, direction: Direction::Original, connection };
            let steps = filters.iter().zip(&kin).zip(1..).map(|((filter, kin), n)| Step {
                cookie: Cookie(n),
                filter,
                in_front: Vec::new(),
                met: if kin.ct { vec![Some(met)] } else { Vec::new() },
            });
            let connections = if kin.iter().any(|k| k.ct) { vec![connection] } else { Vec::new() };
            let scene =
                Scene { port: IN, key, steps: steps.collect(), connections, tell_tag: false, masks: &Masks::ANY };
            (fold_and_mold(&scene, &families, &Around::default()), scene.connections)
        });
        let [(Ok((_, Some(mold))), _), (want, connections)] = &folded else { continue };
        let (filters, key, _) = &walks[1];
        let filters = (1..).map(Cookie).zip(filters).zip(&families).map(|((c, filter), family)| (c, filter, *family));
        match (mold.cast(filters, key, connections), want) {
            (Some(path), Ok((want, _))) => {
                assert_eq!(path, *want);
                cast += 1;
                conditions += usize::from(!path.template.conditions.is_empty());
            }
            (Some(path), Err(refused)) => panic!("cast {path:?} but {}", refused.refusal),
            (None, Ok(_)) => other += 1,
            (None, Err(_)) => refused += 1,
        }
    }
    assert!([cast, other, refused, conditions].iter().all(|&n| n > 300), "{cast} {other} {refused} {conditions}");
}

/// What the mold of the first of these walks gives for the second, and what a fold does.
fn cast_and_folded(walks: [(&[Filter], &Key); 2]) -> (Option<Path>, Option<Path>) {
    let all = |filters: &[Filter]| (0..filters.len() as u64).map(Family).collect::<Vec<_>>();
    let folded = walks.map(|(filters, key)| {
        let steps = (1..).map(Cookie).zip(filters);
        let steps = steps.map(|(cookie, filter)| Step { cookie, filter, in_front: Vec::new(), met: Vec::new() });
        let (steps, connections) = (steps.collect(), Vec::new());
        let scene = Scene { port: IN, key, steps, connections, tell_tag: false, masks: &Masks::ANY };
        fold_and_mold(&scene, &all(filters), &Around::default()).ok()
    });
    let [Some((_, Some(mold))), second] = folded else { panic!("no mold") };
    let (filters, key) = walks[1];
    let families = all(filters);
    let hits = (1..).map(Cookie).zip(filters).zip(&families).map(|((c, filter), family)| (c, filter, *family));
    (mold.cast(hits, key, &[]), second.map(|(path, _)| path))
}

/// A walk that cannot be: one filter asks for a bit that the next, behind a rewrite of others, asks otherwise.
#[test]
fn what_is_compared_again_behind_a_rewrite_is_no_value_to_fill_in() {
    let rewrite = pedit(PeditHeader::Ipv4, 0, [0xff, 3, 0xff, 0xff], [0, 0x40, 0, 0]);
    let first = |tos| filter(0, 1, ip().with(Field::IpTos, tos, 3), &[rewrite.clone(), goto(1)]);
    let second = filter(1, 1, ip().with(Field::IpTos, 2, 3), &[output()]);
    let packet = |tos| packet(tcp([10, 0, 0, 1], 1, [10, 0, 0, 2], 2)).with(Field::IpTos, tos);
    let [one, other] = [2, 1].map(|tos| [first(tos), second.clone()]);
    assert_eq!(cast_and_folded([(&one, &packet(2)), (&other, &packet(1))]), (None, None));
}

/// Which bits make sure of a part of a sum depends on the packet.
#[test]
fn of_a_sum_only_the_same_packet_is_cast() {
    let less = add(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [255, 0, 0, 0]);
    let first = filter(0, 1, ip(), &[less, goto(1)]);
    let filters = [first, filter(1, 1, ip().with(Field::IpTtl, 0x40, 0xc0), &[output()])];
    let packet = |ttl| packet(tcp([10, 0, 0, 1], 1, [10, 0, 0, 2], 2)).with(Field::IpTtl, ttl);
    let (mut cast, mut other) = (0, 0);
    for (a, b) in (65..=128).flat_map(|a| (60..140).map(move |b| (a, b))) {
        let (path, folded) = cast_and_folded([(&filters, &packet(a)), (&filters, &packet(b))]);
        assert!(path.is_none() || path == folded, "{a} {b}: {path:?} {folded:?}");
        *if path.is_some() { &mut cast } else { &mut other } += 1;
    }
    assert!(cast > 0 && other > 0, "{cast} {other}");
}

/// What a filter does hangs on how its actions end, too.
#[test]
fn a_filter_that_ends_otherwise_is_not_cast() {
    let packet = |host| packet(tcp([10, 0, 0, host], 1, [10, 0, 0, 99], 2));
    let of = |host, actions: &[Action]| [filter(0, 1, ip().with(Field::Ipv4Src, host, 0xff), actions)];
    let [dropped, trapped] = [&[drop()][..], &[Action::gact(Control::Trap)]];
    let (path, folded) = cast_and_folded([(&of(1, dropped), &packet(1)), (&of(2, dropped), &packet(2))]);
    assert!(path.is_some() && path == folded);
    let (path, folded) = cast_and_folded([(&of(1, dropped), &packet(1)), (&of(2, trapped), &packet(2))]);
    assert!(path.is_none() && folded.is_some());
}

/// `skbedit inheritdsfield` looks at a field that it does not compare.
#[test]
fn what_looks_at_more_than_it_compares_leaves_no_mold() {
    let edit = Skbedit { inherit_dsfield: true, ..Skbedit::default() };
    let inherit = [Action::new(ActionKind::Skbedit(edit), Control::Pipe), output()];
    let packet = packet(tcp([10, 0, 0, 1], 1, [10, 0, 0, 2], 2));
    let filter = filter(0, 1, ip(), &inherit);
    let step = Step { cookie: Cookie(1), filter: &filter, in_front: Vec::new(), met: Vec::new() };
    let (steps, connections) = (vec![step], Vec::new());
    let scene = Scene { port: IN, key: &packet, steps, connections, tell_tag: false, masks: &Masks::ANY };
    let (_, mold) = fold_and_mold(&scene, &[Family(1)], &Around::default()).expect("it can be merged");
    assert!(mold.is_none());
}
