//! What a filter that comes later takes out, and what it leaves.

use super::*;
use crate::{
    flower::{
        Range,
        action::{Pedit, PeditHeader, PeditKey},
    },
    table::{Account, PathId},
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use std::collections::BTreeSet;

const H1: u128 = 0x0a00_0001;
const H2: u128 = 0x0a00_0002;
const VIP: u128 = 0x0a00_0032;

fn to(dst: u128) -> Match {
    Match::default().exact(Field::AddrType, 2).exact(Field::Ipv4Dst, dst)
}

fn write(header: PeditHeader, offset: i32, mask: [u8; 4], value: [u8; 4]) -> ActionKind {
    ActionKind::Pedit(Pedit {
        keys: vec![PeditKey { header, offset, mask, value, add: false, dynamic: None }],
        mend: false,
    })
}

fn nothing() -> ActionKind {
    ActionKind::Gact { random: None }
}

fn over(cookies: &[u64], key: Key) -> Walk {
    let hits = cookies.iter().map(|&c| Hit { filter: Cookie(c), found: vec![] }).collect();
    Walk { port: IN, key, hits }
}

#[test]
fn traps_23_what_a_new_filter_compares_is_what_was_written_before_it() {
    let vip = write(PeditHeader::Ipv4, 16, [0; 4], [10, 0, 0, 50]);
    // The new filter's destination and source, and whether merged packets could be its.
    for (matches, reaches) in [
        (to(H2), false),
        (to(VIP), true),
        (to(VIP).exact(Field::Ipv4Src, H1), true),
        (to(VIP).exact(Field::Ipv4Src, H2), false),
        (to(VIP).exact(Field::IpTtl, 1), true),
    ] {
        let mut m = merger();
        let source = Match::default().exact(Field::AddrType, 2).exact(Field::Ipv4Src, H1);
        m.replace(Cookie(1), filter(1, 0, 1, source, vip.clone(), Control::Goto(1)), Inserted::Observed).unwrap();
        let all = filter(1, 1, 5, Match::default(), nothing(), Control::Pipe);
        m.replace(Cookie(2), all, Inserted::Observed).unwrap();
        let merged = merge(&mut m, over(&[1, 2], key(7))).unwrap();
        assert_eq!(m.merged().len(), 1, "whatever was the destination");
        let new = filter(2, 1, 3, matches, nothing(), Control::Shot);
        m.replace(Cookie(3), new, Inserted::Observed).unwrap();
        let removed: Vec<_> = m.drain(0).removed.iter().map(|r| r.id).collect();
        assert_eq!(removed, if reaches { vec![merged.id] } else { vec![] }, "{matches:?}");
        assert_eq!(m.table().path_count(), usize::from(!reaches));
    }
}

#[test]
fn traps_23_of_a_way_the_paths_that_are_reached_go_and_the_others_stay() {
    let mut m = merger();
    // What is written depends on whether it is IPv4 or IPv6: two paths.
    let mut both = filter(1, 0, 9, Match::default(), write(PeditHeader::Ethernet, 0, [0; 4], [2; 4]), Control::Pipe);
    both.id.protocol = 3;
    both.matches = Match::default();
    both.actions.insert(1, Action::new(write(PeditHeader::Network, 8, [0xff; 4], [0; 4]), Control::Pipe));
    m.replace(Cookie(1), both, Inserted::Observed).unwrap();
    let v6 = Key::ZERO.with(Field::Protocol, 0x86dd).with(Field::EthType, 0x86dd).with(Field::AddrType, 3);
    let four = merge(&mut m, over(&[1], key(7))).unwrap();
    let six = merge(&mut m, over(&[1], v6)).unwrap();
    assert_eq!(m.table().path_count(), 2);
    let mut new = filter(2, 0, 8, Match::default(), nothing(), Control::Shot);
    new.id.protocol = 0x86dd;
    new.matches = Match::default().exact(Field::Protocol, 0x86dd).exact(Field::EthType, 0x86dd).exact(Field::IpTtl, 3);
    m.replace(Cookie(2), new, Inserted::Observed).unwrap();
    assert_eq!(m.drain(0).removed.iter().map(|r| r.id).collect::<Vec<_>>(), [six.id]);
    assert_eq!(merge(&mut m, over(&[1], key(8))), Ok(Merge { installed: false, ..four }));
    assert!(merge(&mut m, over(&[1], v6)).is_ok());
    assert_eq!(m.table().path_count(), 2);
}

#[test]
fn a_filter_that_is_not_understood_in_full_has_a_mask_of_its_own() {
    let mut m = merger();
    let narrower = Filter {
        undecoded: vec!["TCA_FLOWER 999".into()],
        ..filter(1, 0, 1, Match::default(), nothing(), Control::Shot)
    };
    m.replace(Cookie(1), narrower.clone(), Inserted::Observed).unwrap();
    m.replace(Cookie(2), filter(2, 0, 1, Match::default(), nothing(), Control::Pipe), Inserted::Observed).unwrap();
    assert!(matches!(merge(&mut m, over(&[2], key(7))), Err(Refusal::ShadowUndecoded { .. })));
    m.destroy(Cookie(1)).unwrap();
    // Now it comes behind.
    assert!(merge(&mut m, over(&[2], key(7))).is_ok());
    m.replace(Cookie(1), narrower, Inserted::Observed).unwrap();
    assert_eq!(m.hardware().len(), 1);
}

#[test]
fn traps_12_a_dump_that_makes_a_mask_older_takes_out_what_rested_on_its_age() {
    let mut m = merger();
    let tos = |tos| Match::default().exact(Field::IpTos, tos);
    let far = |tos_| tos(tos_).exact(Field::IpTtl, 1);
    m.replace(Cookie(1), filter(1, 0, 1, tos(0), nothing(), Control::Pipe), Inserted::Observed).unwrap();
    m.replace(Cookie(2), filter(2, 0, 1, far(0), nothing(), Control::Shot), Inserted::Observed).unwrap();
    merge(&mut m, over(&[1], key(7))).unwrap();
    assert!(m.hardware().receive(IN, &frame(7, 1), 1).is_some(), "the first mask comes first");
    // Of other packets; but now the second mask may have been there before, and with it the second filter.
    m.replace(Cookie(3), filter(3, 0, 1, far(4), nothing(), Control::Shot), Inserted::Dumped).unwrap();
    assert!(m.hardware().is_empty());
}

#[test]
fn traps_12_a_range_that_takes_an_older_place_comes_in_front() {
    let mut m = merger();
    let ports = |min, max, dst: u128| {
        let range = Match { src_range: Some(Range { min, max }), ..Match::default() };
        range.exact(Field::IpProto, 6).exact(Field::DstPort, dst)
    };
    for (cookie, matches) in [(1, ports(1, 10, 79)), (2, ports(1, 5, 80)), (3, ports(3, 8, 80))] {
        let f = filter(cookie as u32, 0, 1, matches, nothing(), Control::Pipe);
        m.replace(Cookie(cookie), f, Inserted::Observed).unwrap();
    }
    merge(&mut m, over(&[2], key(4))).unwrap();
    // Of other packets; but it is the first filter's place, and 3-8 is in front of 1-5 with it.
    let moved = filter(1, 0, 1, ports(3, 8, 79), nothing(), Control::Pipe);
    m.replace(Cookie(4), moved, Inserted::Observed).unwrap();
    assert!(m.hardware().is_empty());
    assert!(matches!(merge(&mut m, over(&[2], key(4))), Err(Refusal::Stale { .. })));
    assert!(merge(&mut m, over(&[3], key(4))).is_ok());
}

#[test]
fn a_path_that_goes_is_not_one_that_sends_any_more() {
    let mut m = merger();
    firewall(&mut m);
    established(&mut m, 1000);
    assert_eq!(m.table().sending_to(Port(2)).count(), 1);
    m.replace(Cookie(3), filter(3, 1, 1, Match::default(), nothing(), Control::Shot), Inserted::Observed).unwrap();
    assert_eq!((m.table().sending_to(Port(2)).count(), m.table().path_count()), (0, 0));
}

fn matches() -> impl Strategy<Value = Match> {
    let bits = |field: Field| {
        let mask = prop::sample::select(vec![0u128, 0, 1, 3]);
        (mask, any::<u8>()).prop_map(move |(mask, v)| (field, u128::from(v), mask))
    };
    let range = prop::option::weighted(0.2, (0u16..6, 0u16..4));
    let fields = (bits(Field::Ipv4Dst), bits(Field::Ipv4Src), bits(Field::IpTtl), bits(Field::IpTos));
    (fields, range, 0u128..8, 0u8..3).prop_map(|((a, b, c, d), range, port, exact)| {
        let m = [a, b, c, d].into_iter().fold(Match::default(), |m, (f, v, mask)| m.with(f, v, mask));
        let m = if exact == 0 { m.exact(Field::DstPort, port) } else { m };
        Match { dst_range: range.filter(|_| exact == 1).map(|(min, wide)| Range { min, max: min + wide }), ..m }
    })
}

/// Chain, priority, match, what is written, how it ends.
fn filters() -> impl Strategy<Value = Vec<(u32, u16, Match, Option<u8>, u8)>> {
    let writes = prop::option::of(any::<u8>());
    prop::collection::vec((0u32..3, 1u16..4, matches(), writes, any::<u8>()), 10..50)
}

fn made(handle: u32, (chain, prio, matches, writes, end): (u32, u16, Match, Option<u8>, u8)) -> Filter {
    let kind = match writes {
        None => nothing(),
        Some(v) if v & 1 == 0 => write(PeditHeader::Ipv4, 16, [0xff, 0xff, 0xff, 0xfc | v >> 2], [0, 0, 0, v >> 4 & 3]),
        Some(v) => write(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [v >> 4, 0, 0, 0]),
    };
    let end = match (chain, end % 8) {
        (_, 0 | 1) => Control::Shot,
        (_, 2) => Control::Continue,
        (0, 3) => Control::Reclassify,
        (0 | 1, _) => Control::Goto(chain + 1),
        _ => Control::Pipe,
    };
    let skip_sw = chain == 0 && end == Control::Shot && prio == 2;
    Filter { skip_sw, ..filter(handle, chain, prio, matches, kind, end) }
}

/// The filters that a packet hits in software, those of `made`.
fn hits(m: &mut Merger<Memory>, mut key: Key) -> Vec<u64> {
    let mut table = m.table.write();
    let (mut chain, mut from, mut out) = (0, 0, Vec::new());
    while out.len() < 6 {
        let there = |f: &Filter| f.id.chain == chain && f.id.prio >= from && f.matches.fits(&key);
        let fit: Vec<(Cookie, bool)> = table.filters().filter(|(_, e)| there(&e.filter)).map(skip_sw).collect();
        // Not the first hit: of skip_sw filters those count that hide others in their mask.
        let mut hidden = |c: Cookie| table.in_front(c, Some(c)).iter().any(|&(front, _)| fit.contains(&(front, true)));
        let seen: Vec<Cookie> = fit.iter().filter(|f| !f.1).map(|f| f.0).filter(|&c| !hidden(c)).collect();
        let hit = seen.iter().find(|&&c| !table.in_front(c, None).iter().any(|(front, _)| seen.contains(front)));
        let Some(filter) = hit.and_then(|&c| table.filter(c)).map(|e| &e.filter) else { break };
        out.extend(hit.map(|c| c.0));
        if let ActionKind::Pedit(pedit) = &filter.actions[0].kind {
            let PeditKey { offset, mask, value, .. } = pedit.keys[0];
            let (field, mask, value) = match offset {
                16 => (Field::Ipv4Dst, u128::from(u32::from_be_bytes(mask)), u128::from(u32::from_be_bytes(value))),
                _ => (Field::IpTtl, 0, u128::from(value[0])),
            };
            key.set(field, key.get(field) & mask ^ value);
        }
        (chain, from) = match filter.actions[1].control {
            Control::Goto(chain) => (chain, 0),
            Control::Continue => (chain, filter.id.prio + 1),
            Control::Reclassify => (0, 0),
            _ => break,
        };
    }
    out
}

fn skip_sw((cookie, entry): (Cookie, &crate::table::FilterEntry)) -> (Cookie, bool) {
    (cookie, entry.filter.skip_sw)
}

/// The filters that a packet hits where hardware is tried first, with the `skip_sw` filters in their place.
fn arrives(m: &mut Merger<Memory>, key: Key) -> Vec<u64> {
    let mut table = m.table.write();
    let there = |f: &Filter| f.id.chain == 0 && f.matches.fits(&key);
    let fit: Vec<(Cookie, bool)> = table.filters().filter(|(_, e)| there(&e.filter)).map(skip_sw).collect();
    let mut first = |c: Cookie| !table.in_front(c, None).iter().any(|(front, _)| fit.iter().any(|f| f.0 == *front));
    let first = fit.iter().copied().find(|f| first(f.0));
    drop(table);
    match first {
        Some((cookie, true)) => vec![cookie.0],
        _ => hits(m, key),
    }
}

#[derive(Clone, Debug)]
enum Change {
    Comes((u32, u16, Match, Option<u8>, u8)),
    Goes(u8),
    Becomes(u8, Match),
}

#[test]
fn what_a_merged_filter_takes_goes_its_way_whatever_comes_and_goes() {
    let mut runner = TestRunner::deterministic();
    let change = prop_oneof![
        4 => filters().prop_map(|f| Change::Comes(f[0])),
        2 => any::<u8>().prop_map(Change::Goes),
        1 => (any::<u8>(), matches()).prop_map(|(i, m)| Change::Becomes(i, m)),
    ];
    let strategy = (prop::collection::vec(change, 40), prop::collection::vec(any::<u8>(), 12));
    let all: Vec<Key> = (0..256u128)
        .map(|i| {
            let of = |field, shift: u32| (field, i >> shift & 3);
            let fields = [of(Field::Ipv4Dst, 0), of(Field::Ipv4Src, 2), of(Field::IpTtl, 4), of(Field::DstPort, 6)];
            fields.into_iter().fold(key(7), |key, (field, value)| key.with(field, value))
        })
        .collect();
    // A sixteenth of what `PROPTEST_CASES` says, each is much.
    let told = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    let cases = told.unwrap_or(256usize).div_ceil(16);
    let (mut taken, mut alone, mut displaced) = (0, 0, 0);
    for _ in 0..cases {
        let (changes, walks) = strategy.new_tree(&mut runner).expect("changes").current();
        let mut m = merger();
        for (next, change) in (1..).zip(changes) {
            let cookies: BTreeSet<Cookie> = m.table().filters().map(|(c, _)| c).collect();
            let pick = |i: u8| cookies.iter().copied().nth(i as usize % cookies.len().max(1));
            let place = |f: &Filter| (f.id.chain, f.id.prio, f.matches);
            let twice = |f: &Filter| m.table().filters().any(|(_, e)| place(&e.filter) == place(f));
            match change {
                Change::Comes(f) => {
                    let new = made(next, f);
                    if !twice(&new) {
                        // A skip_sw filter may be refused.
                        let done = m.replace(Cookie(next.into()), new.clone(), Inserted::Observed);
                        assert!(done.is_ok() || new.skip_sw, "{done:?}");
                    }
                }
                Change::Goes(i) => {
                    if let Some(cookie) = pick(i) {
                        m.destroy(cookie).unwrap();
                    }
                }
                Change::Becomes(i, matches) => {
                    let Some(cookie) = pick(i) else { continue };
                    let old = m.table().filter(cookie).unwrap().filter.clone();
                    let new = made(0, (old.id.chain, old.id.prio, matches, None, 0)).matches;
                    let new = Filter { matches: new, ..old.clone() };
                    // The kernel lets a filter be replaced by one of the same mask only.
                    let same = |m: &Match| (m.mask, m.src_range.is_some(), m.dst_range.is_some());
                    if same(&new.matches) == same(&old.matches) && !twice(&new) {
                        let done = m.replace(Cookie(next.into()), new, Inserted::Observed);
                        assert!(done.is_ok() || old.skip_sw, "{done:?}");
                    }
                }
            }
            for &i in &walks {
                let key = all[i as usize];
                let hits = hits(&mut m, key);
                let _ = merge(&mut m, over(&hits, key));
            }
            for key in &all {
                let Some(id) = m.hardware.lookup(IN, key) else { continue };
                let path = m.merged_by(id).expect("known").path;
                let parents: Vec<u64> = path.parents.iter().map(|p| p.cookie.0).collect();
                assert_eq!(parents, arrives(&mut m, *key), "{key:?}");
                taken += 1;
            }
            assert_eq!(m.hardware.overlaps(), []);
            let missing: BTreeSet<Cookie> = m.displaced().iter().map(|d| d.cookie).collect();
            for (cookie, _) in m.table().filters().map(skip_sw).filter(|f| f.1) {
                assert_ne!(missing.contains(&cookie), m.derived_from(cookie).len() == 1, "{cookie:?}");
                alone += 1;
            }
            displaced += missing.len();
        }
    }
    println!("{taken} packets taken, {alone} skip_sw filters in hardware, {displaced} displaced");
    assert!(taken > 400 * cases && alone > 3 * cases && displaced > cases / 4);
}

#[test]
fn trying_all_paths_finds_what_the_index_finds() {
    let mut runner = TestRunner::deterministic();
    let key = (0u128..4, 0u128..4, 0u128..4, 0u128..8).prop_map(|(dst, src, ttl, port)| {
        let key = key(7).with(Field::Ipv4Dst, dst).with(Field::Ipv4Src, src).with(Field::IpTtl, ttl);
        key.with(Field::DstPort, port)
    });
    let strategy = (filters(), prop::collection::vec(key, 20));
    let (mut stayed, mut gone, mut longer) = (0, 0, 0);
    for _ in 0..80 {
        let (filters, keys) = strategy.new_tree(&mut runner).expect("filters").current();
        let mut m = merger();
        for (cookie, f) in (1..).zip(filters) {
            let new = made(cookie, f);
            let cookie = Cookie(cookie.into());
            let place = |f: &Filter| (f.id.chain, f.id.prio, f.matches);
            if m.table().filters().any(|(_, e)| place(&e.filter) == place(&new)) {
                continue; // as the kernel does
            }
            let mut table = m.table.write();
            table.insert_filter(cookie, new.clone(), Account::NOBODY, Inserted::Observed, None, 0);
            let cookies: Vec<Cookie> = table.filters().map(|(c, _)| c).collect();
            let paths: BTreeSet<PathId> = cookies.iter().flat_map(|&c| table.paths_through(c)).collect();
            let mut reached = |path: &PathId| {
                let path = crate::sync::Arc::clone(&table.entry(*path).expect("there").path);
                (0..path.parents.len()).any(|hit: usize| {
                    let before = hit.checked_sub(1).map(|i| path.parents[i].cookie);
                    let in_front = table.in_front(path.parents[hit].cookie, before);
                    in_front.iter().any(|n| n.0 == cookie) && crate::merge::may_reach(&path, hit, &new).is_some()
                })
            };
            let all: Vec<PathId> = paths.iter().copied().filter(|path| reached(path)).collect();
            table.shadow(cookie);
            let doomed = table.take_doomed();
            drop(table);
            assert!(doomed.iter().all(|doom| doom.only.is_empty()));
            assert_eq!(doomed.iter().map(|doom| doom.path).collect::<Vec<_>>(), all);
            gone += all.len();
            stayed += paths.len() - all.len();
            m.carry_out(&doomed, 0, &mut Vec::new());
            for key in &keys {
                let hits = hits(&mut m, *key);
                let merged = merge(&mut m, over(&hits, *key));
                longer += usize::from(hits.len() > 1 && merged.is_ok_and(|m| m.installed));
            }
            assert_eq!(m.hardware().overlaps(), []);
        }
    }
    println!("{stayed} paths stayed, {gone} went; {longer} of several hits were merged");
    assert!(stayed > 1000 && gone > 100 && longer > 100);
}

#[test]
fn traps_23_connections_that_a_new_filter_does_not_reach_stay_merged() {
    let mut m = merger();
    firewall(&mut m);
    let ids: Vec<_> = (1000..1010).map(|port| established(&mut m, port).id).collect();
    let one = Match::default().exact(Field::IpProto, 6).exact(Field::SrcPort, 1003);
    let range = Match { src_range: Some(Range { min: 1005, max: 1006 }), ..one };
    let range = Match { mask: range.mask.with(Field::SrcPort, 0), key: range.key.with(Field::SrcPort, 0), ..range };
    // In chain 0 the ports are those that `ct` will pin; in chain 1 they have been.
    for (cookie, chain, matches, gone) in [(20, 0, one, &ids[3..4]), (21, 1, range, &ids[5..7])] {
        m.replace(Cookie(cookie), filter(9, chain, 1, matches, nothing(), Control::Shot), Inserted::Observed).unwrap();
        let mut removed: Vec<_> = m.drain(0).removed.iter().map(|r| r.id).collect();
        removed.sort_unstable_by_key(|id| ids.iter().position(|i| i == id));
        assert_eq!(removed, gone);
    }
    assert_eq!((m.hardware().len(), m.table().path_count()), (7, 1));
    // What comes later is told apart too.
    for (port, merges) in [(1003, false), (1005, false), (1004, true), (1011, true)] {
        m.connection(ConnectionEvent::Is(ConnectionId(port.into()), connection(port))).unwrap();
        let outcome = merge(&mut m, walk(port));
        assert_eq!(outcome.is_ok(), merges, "{port} {outcome:?}");
    }
    assert_eq!(m.table().path_count(), 1);
    // One that depends on more than the connection takes its packets only.
    m.replace(
        Cookie(22),
        filter(8, 0, 1, one.exact(Field::IpTtl, 1).exact(Field::SrcPort, 1004), nothing(), Control::Shot),
        Inserted::Observed,
    )
    .unwrap();
    assert_eq!(m.drain(0).removed.len(), 1);
    assert!(merge(&mut m, walk(1004)).unwrap().installed);
    assert!(
        m.hardware().receive(IN, &frame(1004, 64), 1).is_some()
            && m.hardware().receive(IN, &frame(1004, 1), 1).is_none()
    );
    assert!(m.hardware().receive(IN, &frame(1007, 1), 1).is_some());
}

#[test]
fn a_path_does_not_gather_conditions_for_ever() {
    let mut m = merger();
    firewall(&mut m);
    established(&mut m, 1000);
    let (mut most, mut removed) = (0, 0);
    for port in 2000..2200u16 {
        let one = Match::default().exact(Field::IpProto, 6).exact(Field::SrcPort, port.into());
        let new = filter(port.into(), 0, 1, one, nothing(), Control::Shot);
        m.replace(Cookie(port.into()), new, Inserted::Observed).unwrap();
        m.destroy(Cookie(port.into())).unwrap();
        removed += m.drain(0).removed.len();
        merge(&mut m, walk(1000)).unwrap();
        let conditions = m.merged().into_iter().map(|merged| merged.path.template.conditions.len());
        most = conditions.max().max(Some(most)).unwrap();
    }
    assert_eq!((m.hardware().len(), removed), (1, 3));
    assert!((60..70).contains(&most), "{most}");
}
