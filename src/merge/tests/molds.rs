//! What is cast in the mold of another walk is what a fold gives.

use super::*;

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
    bits: Vec<(Field, u128)>,
    actions: Vec<Action>,
    ct: bool,
}

fn kin(dice: &mut Dice, chain: u32, last: bool) -> Kin {
    let all = [
        (Field::Ipv4Src, 0x300),
        (Field::Ipv4Dst, 0xff),
        (Field::SrcPort, 0x3),
        (Field::SrcPort, 0x1e),
        (Field::IpTos, 0xfc),
        (Field::IpTtl, 0xff),
        (Field::EthDst, 0xff),
        (Field::TcpFlags, 0x10),
        (Field::CtMark, 1),
    ];
    let (a, b) = (dice.below(9), dice.below(18));
    let mut bits = vec![all[a as usize]];
    bits.extend(all.get(b as usize).filter(|both| both.0 != bits[0].0));
    let ct_first = chain == 0 || dice.below(4) == 0;
    let mut actions: Vec<Action> = dice.one(&[
        vec![],
        vec![],
        vec![pedit(PeditHeader::Ipv4, 0, [0xff, 3, 0xff, 0xff], [0, 0x40, 0, 0])],
        vec![add(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [255, 0, 0, 0])],
        vec![vlan(Vlan::Push { protocol: 0x8100, id: 7, prio: 0 })],
        vec![ct(5, true)],
        vec![ct(5, false)],
    ]);
    let ct = ct_first && actions.iter().any(|a| matches!(a.kind, ActionKind::Ct(_)));
    if !ct {
        actions.retain(|a| !matches!(a.kind, ActionKind::Ct(_)));
    }
    actions.push(if last { dice.one(&[output(), drop()]) } else { goto(chain + 1) });
    Kin { family: Family(u64::from(chain * 1000 + a * 30 + b)), bits, actions, ct }
}

fn walk(dice: &mut Dice, kin: &[Kin]) -> (Vec<Filter>, Key, Connection) {
    let dst = [10, 0, 0, dice.one(&[0, 50, 51])];
    let original = tcp([10, 1, dice.below(4) as u8, 1], dice.below(40) as u16, dst, 80);
    let reply = tcp([10, 0, 0, 2], 8000, [10, 1, 0, 1], original.src_port);
    let reply = Tuple { dst: original.src, ..reply };
    let mark = dice.below(2);
    let connection = Connection { mark, ..Connection::established(5, original, reply) };
    let mut key =
        packet(original).with(Field::IpTos, dice.one(&[0, 0x20, 0x44])).with(Field::IpTtl, dice.one(&[0, 63, 64]));
    key.set(Field::EthDst, dice.one(&[0x0200_0000_0000, 0x0200_0000_0007]));
    if dice.below(20) == 0 {
        key.set(Field::TcpFlags, 0x12);
    }
    let filters = kin.iter().enumerate().map(|(chain, kin)| {
        let mut matches = ip();
        for &(field, mask) in &kin.bits {
            // As it arrived, or as something may have been written.
            let value = if dice.below(8) == 0 { dice.one(&[0, 0x40, 63, 1]) } else { key.get(field) };
            let value = if field == Field::CtMark { u128::from(mark) } else { value };
            matches.set(field, value, mask);
        }
        filter(chain as u32, 1, matches, &kin.actions)
    });
    (filters.collect(), key, connection)
}

#[test]
fn what_is_cast_is_what_would_be_folded() {
    let mut dice = Dice(1);
    let (mut cast, mut other, mut refused, mut conditions) = (0, 0, 0, 0);
    for _ in 0..20_000 {
        let hits = 1 + dice.below(3);
        let kin: Vec<Kin> = (0..hits).map(|chain| kin(&mut dice, chain, chain + 1 == hits)).collect();
        let families: Vec<Family> = kin.iter().map(|k| k.family).collect();
        let walks = [walk(&mut dice, &kin), walk(&mut dice, &kin)];
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
