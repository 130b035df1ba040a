use super::*;
use crate::{
    flower::{Cookie, Field, Match},
    walk::Record,
};
use proptest::prelude::*;

const PORT: Port = Port(1);

fn limits() -> Limits {
    Limits { shards: 2, connections: 8, verdicts: 4, ways: 8 }
}

fn open(glance: &Glance, slot: u32) -> ConnectionHandle {
    let connection = glance.open(1, slot).expect("room");
    glance.qualify(connection, true);
    connection
}

type Findings<'a> = &'a [Option<(ConnectionHandle, Direction)>];

/// A walk of these filters; the first one has `ct` actions that found this.
fn walk(filters: &[u64], found: Findings<'_>) -> Steps {
    let key = Key::ZERO;
    let mut record = Record::new(PORT, &key);
    for (n, &filter) in filters.iter().enumerate() {
        record.hit(Cookie(filter));
        for found in found.iter().filter(|_| n == 0) {
            record.found(found.map(|f| f.0), found.map_or(Direction::Original, |f| f.1));
        }
    }
    record.steps().clone()
}

use Direction::{Original, Reply};

#[test]
fn only_what_goes_the_same_way_and_agrees_is_recognised() {
    let glance = Glance::new(limits());
    let (one, two, three) = (open(&glance, 0), open(&glance, 1), open(&glance, 2));
    let asked = Match::default().with(Field::TcpFlags, 0x10, 0x17).with(Field::Spi, 8, 8).exact(Field::EthDst, 5);
    let key = Key::ZERO.with(Field::TcpFlags, 0x18).with(Field::Spi, 9).with(Field::EthDst, 5);
    let found = [None, Some((one, Original)), Some((two, Reply)), Some((one, Original))];
    let steps = walk(&[7, 8, 9], &found);
    let id = glance.publish(&Verdict::of(PORT, &steps, &asked, Decided::Merged)).expect("room");
    assert_eq!(glance.look(PORT, &key, &steps), Glimpse::New, "listed nowhere");
    glance.judged(one, Original);
    assert!(glance.list(one, Some(two), id));
    let recognised = |port, key: &Key, steps: &Steps| {
        let seen = glance.look(port, key, steps);
        if let (Some(first), Some(direction)) = (steps.first(), steps.first_direction()) {
            glance.judged(first, direction);
        }
        seen == Glimpse::Merged
    };
    assert!(recognised(PORT, &key, &steps));
    assert!(recognised(PORT, &key.with(Field::IpTtl, 3), &steps), "nobody asked for it");
    assert!(!recognised(Port(2), &key, &steps));
    for (field, value) in [(Field::TcpFlags, 0x11), (Field::Spi, 1), (Field::EthDst, 0x1_0000_0005)] {
        assert!(!recognised(PORT, &key.with(field, value), &steps), "{field}");
    }
    for filters in [&[7, 8][..], &[7, 8, 10], &[7, 8, 9, 9], &[8, 8, 9]] {
        assert!(!recognised(PORT, &key, &walk(filters, &found)), "{filters:?}");
    }
    for n in 0..found.len() {
        for other in [None, Some((one, Reply)), Some((two, Original)), Some((three, found[n].map_or(Reply, |f| f.1)))] {
            let mut others = found;
            others[n] = other;
            assert_eq!(recognised(PORT, &key, &walk(&[7, 8, 9], &others)), others == found, "{others:?}");
        }
        assert!(!recognised(PORT, &key, &walk(&[7, 8, 9], &found[..n])));
    }
    assert!(!recognised(PORT, &key, &walk(&[7, 8, 9], &[found[1], found[0], found[2], found[3]])));
    let mut later = walk(&[7], &found[..3]);
    later.hit(Cookie(8));
    later.found(Some(one), Original);
    later.hit(Cookie(9));
    assert!(!recognised(PORT, &key, &later), "found by another filter");
    glance.unlist(one, None, id);
    assert!(recognised(PORT, &key, &steps), "with another connection it was not listed");
    glance.unlist(one, Some(two), id);
    assert!(!recognised(PORT, &key, &steps));
}

#[test]
fn a_connection_is_told_by_its_cell() {
    let glance = Glance::new(limits());
    let look = |c, d| glance.look(PORT, &Key::ZERO, &walk(&[1], &[Some((c, d))]));
    let one = glance.open(1, 0).expect("room");
    assert_eq!(look(one, Original), Glimpse::NotQualified);
    glance.qualify(one, true);
    glance.worth_at(one, 3);
    assert_eq!([look(one, Original), look(one, Reply)], [Glimpse::NotYet; 2]);
    assert_eq!((look(one, Original), glance.seen(one)), (Glimpse::New, Some(3)));
    assert_eq!((look(one, Original), look(one, Reply)), (Glimpse::Queued, Glimpse::New), "by direction");
    glance.judged(one, Original);
    glance.wait(one, Original, true);
    assert_eq!((look(one, Original), look(one, Reply)), (Glimpse::Waiting, Glimpse::Queued));
    glance.wait(one, Original, false);
    assert_eq!(look(one, Original), Glimpse::New);
    let other = open(&glance, 1);
    let both = walk(&[1], &[Some((other, Original)), Some((one, Original))]);
    glance.qualify(one, false);
    assert_eq!(glance.look(PORT, &Key::ZERO, &both), Glimpse::NotQualified, "the second one does not");
    glance.close(one);
    assert_eq!((look(one, Original), glance.seen(one)), (Glimpse::Gone, None));
    assert_eq!(glance.look(PORT, &Key::ZERO, &both), Glimpse::Gone);
    let next = glance.open(1, 0).expect("room");
    assert_eq!((next.slot(), next.shard(), next.generation()), (0, 1, 2));
    assert_eq!((look(one, Original), look(next, Original)), (Glimpse::Gone, Glimpse::NotQualified));
    glance.qualify(one, true);
    glance.close(one);
    assert_eq!(look(next, Original), Glimpse::NotQualified, "calls by the old handle do nothing");
    glance.qualify(next, true);
    assert_eq!(look(next, Original), Glimpse::New, "what was queued was another's");
    assert_eq!(
        (glance.open(1, 0), glance.open(1, 8), glance.open(2, 0), glance.open(0, u32::MAX)),
        (None, None, None, None)
    );
    assert_eq!(glance.turned().connections, 4);
}

#[test]
fn without_a_connection_by_way_and_refusals_for_all() {
    let glance = Glance::new(limits());
    let connection = open(&glance, 0);
    let plain = walk(&[1, 2], &[None]);
    let asked = Match::default().exact(Field::IpTtl, 1);
    let key = Key::ZERO.with(Field::IpTtl, 1);
    let id = glance.publish(&Verdict::of(PORT, &plain, &asked, Decided::Merged)).expect("room");
    assert_eq!(glance.look(PORT, &key, &plain), Glimpse::New);
    assert!(glance.show(id) && glance.show(id));
    assert_eq!(glance.look(PORT, &key, &plain), Glimpse::Merged);
    assert_eq!(glance.look(PORT, &Key::ZERO, &plain), Glimpse::New);
    glance.retire(id);
    assert_eq!(glance.look(PORT, &key, &plain), Glimpse::New);
    assert!(!glance.show(id), "retired");

    let met = walk(&[1, 2], &[Some((connection, Original))]);
    let merged = glance.publish(&Verdict::of(PORT, &met, &asked, Decided::Merged)).expect("room");
    assert!(!glance.show(merged), "it holds for the connections that list it");
    let refused = glance.publish(&Verdict::of(PORT, &met, &asked, Decided::Refused)).expect("room");
    assert!(glance.show(refused));
    assert_eq!(glance.look(PORT, &key, &met), Glimpse::Refused);
    assert_eq!(glance.look(PORT, &Key::ZERO, &met), Glimpse::New);
    assert!(glance.list(connection, None, merged));
    assert_eq!(glance.look(PORT, &key, &met), Glimpse::Merged, "what is listed comes first");
}

#[test]
fn what_has_no_room_is_counted_and_not_recognised() {
    let glance = Glance::new(limits());
    let connection = open(&glance, 0);
    let of = |n: u64| walk(&[n], &[Some((connection, Original))]);
    let verdict = |n| Verdict::of(PORT, &of(n), &Match::default(), Decided::Refused);
    let all: Match = Field::ALL.iter().fold(Match::default(), |m, &f| m.exact(f, 0));
    assert_eq!(glance.publish(&Verdict::of(PORT, &of(1), &all, Decided::Merged)), None, "too much to compare");
    let mut long = Verdict::new(PORT, Decided::Merged);
    (0..17).for_each(|n| long.hit(Cookie(n)));
    assert_eq!(glance.publish(&long), None);
    let ids: Vec<_> = (0..4).map(|n| glance.publish(&verdict(n)).expect("room")).collect();
    assert_eq!((glance.publish(&verdict(4)), glance.turned().verdicts), (None, 3));

    // A slot is used again only when no cell lists it.
    assert!(glance.list(connection, None, ids[0]));
    glance.retire(ids[0]);
    glance.retire(ids[0]);
    assert_eq!(glance.publish(&verdict(4)), None);
    assert!(!glance.list(connection, None, ids[0]));
    glance.unlist(connection, None, ids[0]);
    glance.unlist(connection, None, ids[0]);
    let again = glance.publish(&verdict(4)).expect("room");
    assert_eq!(glance.publish(&verdict(5)), None);
    assert!(!glance.list(connection, None, ids[0]), "the old name is not the new one's");
    glance.retire(ids[0]);
    assert!(glance.list(connection, None, again));
    assert_eq!(glance.look(PORT, &Key::ZERO, &of(4)), Glimpse::Refused);

    // A closed cell lets go of what it listed.
    glance.retire(again);
    assert_eq!(glance.publish(&verdict(5)), None);
    glance.close(connection);
    assert!(glance.publish(&verdict(5)).is_some());
}

#[test]
fn a_full_cell_and_a_full_place_give_up_one_for_the_next() {
    let glance = Glance::new(Limits { verdicts: 20, ..limits() });
    let connection = open(&glance, 0);
    let of = |n: u64| walk(&[n], &[Some((connection, Original))]);
    let ids: Vec<_> = (0..9)
        .map(|n| glance.publish(&Verdict::of(PORT, &of(n), &Match::default(), Decided::Refused)).expect("room"))
        .collect();
    let seen = |n| {
        let seen = glance.look(PORT, &Key::ZERO, &of(n));
        glance.judged(connection, Original);
        seen == Glimpse::Refused
    };
    assert!(ids.iter().all(|&id| glance.list(connection, None, id)));
    assert!(glance.list(connection, None, ids[8]), "it is already");
    assert_eq!((glance.turned().listed, (0..9).filter(|&n| seen(n)).count()), (4, 5));
    assert!(seen(8), "the newest stays");
    ids.iter().for_each(|&id| glance.unlist(connection, None, id));
    assert_eq!((0..9).filter(|&n| seen(n)).count(), 0);
    // There is one place.
    assert!(ids.iter().all(|&id| glance.show(id)));
    assert_eq!((glance.turned().shown, (0..9).filter(|&n| seen(n)).count()), (1, 8));
    assert!(seen(8));
    ids.iter().for_each(|&id| glance.retire(id));
    assert_eq!((0..9).filter(|&n| seen(n)).count(), 0);
    let room = (0..30).map_while(|n| glance.publish(&Verdict::of(PORT, &of(n), &Match::default(), Decided::Refused)));
    assert_eq!(room.count(), 20, "none is held still");
}

/// What a glance should know, looked up the slow way.
#[derive(Default)]
struct Plain {
    /// By place: the connection there, and what it lists.
    cells: [Option<(ConnectionHandle, Vec<usize>)>; 3],
    /// By number: the filter of its way, its name, whether it holds.
    verdicts: Vec<(u64, VerdictId, bool)>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Random calls of all kinds: what is recognised is what a plain list says, for every connection, past ones too.
    #[test]
    fn as_plain_lists_say(steps in prop::collection::vec((0u8..6, 0usize..3, 0usize..6), 1..120)) {
        let glance = Glance::new(limits());
        let (mut plain, mut past) = (Plain::default(), Vec::new());
        for (what, place, n) in steps {
            let verdict = n.checked_rem(plain.verdicts.len());
            match (what, &mut plain.cells[place], verdict) {
                (0, cell @ None, _) => *cell = Some((open(&glance, place as u32), vec![])),
                (1, cell @ Some(_), _) => {
                    let (connection, _) = cell.take().expect("there");
                    glance.close(connection);
                    past.push(connection);
                }
                (2, _, _) => {
                    let filter = n as u64;
                    let any = ConnectionHandle::new(0, 0, 1).map(|c| (c, Original));
                    let id = glance.publish(&Verdict::of(PORT, &walk(&[filter], &[any]), &Match::default(), Decided::Merged));
                    plain.verdicts.extend(id.map(|id| (filter, id, true)));
                }
                (3, Some((connection, listed)), Some(v)) => {
                    let (_, id, holds) = plain.verdicts[v];
                    prop_assert_eq!(glance.list(*connection, None, id), holds);
                    if holds && !listed.contains(&v) {
                        listed.push(v);
                    }
                }
                (4, Some((connection, listed)), Some(v)) => {
                    glance.unlist(*connection, None, plain.verdicts[v].1);
                    listed.retain(|&l| l != v);
                }
                (5, _, Some(v)) => {
                    glance.retire(plain.verdicts[v].1);
                    plain.verdicts[v].2 = false;
                }
                _ => {}
            }
            for filter in 0..6 {
                let merged = |connection| {
                    let seen = glance.look(PORT, &Key::ZERO, &walk(&[filter], &[Some((connection, Original))]));
                    glance.judged(connection, Original);
                    seen
                };
                for (connection, listed) in plain.cells.iter().flatten() {
                    let expected = listed.iter().any(|&v| plain.verdicts[v].0 == filter && plain.verdicts[v].2);
                    prop_assert_eq!(merged(*connection) == Glimpse::Merged, expected);
                }
                prop_assert!(past.iter().all(|&connection| merged(connection) == Glimpse::Gone));
            }
        }
        prop_assert_eq!(glance.turned().listed, 0, "four verdicts fit into a cell");
        // All is let go of: as many can be published as there is room for.
        plain.cells.iter().flatten().for_each(|(connection, _)| glance.close(*connection));
        plain.verdicts.iter().for_each(|v| glance.retire(v.1));
        let verdict = Verdict::new(PORT, Decided::Refused);
        prop_assert_eq!((0..9).map_while(|_| glance.publish(&verdict)).count(), 4);
    }
}
