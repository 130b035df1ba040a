//! `skip_sw` filters: in hardware at once, at all ports, and only while nothing in front of them overlaps them.

use super::*;
use crate::flower::{
    Capabilities, Range,
    action::{Pedit, PeditHeader, PeditKey},
};

fn nothing() -> ActionKind {
    ActionKind::Gact { random: None }
}

fn ttl(ttl: u128) -> Match {
    Match::default().exact(Field::IpTtl, ttl)
}

fn drop(prio: u16, matches: Match) -> Filter {
    filter(u32::from(prio), 0, prio, matches, nothing(), Control::Shot)
}

fn hard(prio: u16, matches: Match) -> Filter {
    Filter { skip_sw: true, ..drop(prio, matches) }
}

fn out(prio: u16, matches: Match) -> Filter {
    filter(u32::from(prio), 0, prio, matches, nothing(), Control::Pipe)
}

fn lone(cookie: u64, port: u16, ttl: u8) -> Walk {
    let key = crate::packet::arrived(&frame(port, ttl));
    Walk { port: IN, key, hits: vec![Hit { filter: Cookie(cookie), found: vec![] }] }
}

fn in_hardware(m: &mut Merger<Memory>, port: Port, ttl: u8) -> bool {
    m.hardware().receive(port, &frame(3, ttl), 1).is_some()
}

#[test]
fn what_is_merged_behind_it_is_kept_out_of_it() {
    for first in [true, false] {
        let mut m = merger();
        if first {
            m.replace(Cookie(1), hard(1, ttl(1)), Inserted::Observed).unwrap();
        }
        m.replace(Cookie(2), out(2, Match::default()), Inserted::Observed).unwrap();
        merge(&mut m, lone(2, 3, 64)).unwrap();
        if !first {
            m.replace(Cookie(1), hard(1, ttl(1)), Inserted::Observed).unwrap();
            assert_eq!(m.drain(0).removed.len(), 1, "it was folded without it");
            merge(&mut m, lone(2, 3, 64)).unwrap();
        }
        assert_eq!((m.hardware().len(), m.hardware().overlaps()), (2, vec![]));
        assert_eq!(m.hardware().receive(IN, &frame(3, 64), 1).unwrap().sent.len(), 1);
        assert_eq!(m.hardware().receive(IN, &frame(3, 1), 1).unwrap().sent.len(), 0);
        assert!(matches!(merge(&mut m, lone(2, 3, 1)), Err(Refusal::Stale { .. })));
    }
}

#[test]
fn traps_32_a_filter_in_front_displaces_it_until_it_goes() {
    let mut m = merger();
    m.replace(Cookie(1), hard(5, Match::default().exact(Field::IpProto, 6)), Inserted::Observed).unwrap();
    let alone = m.merged()[0].id;
    assert_eq!(m.replace(Cookie(2), drop(6, ttl(1)), Inserted::Observed), Ok(vec![]), "behind it");
    let elsewhere = Match::default().exact(Field::IpProto, 17);
    assert_eq!(m.replace(Cookie(3), drop(4, elsewhere), Inserted::Observed), Ok(vec![]), "of other packets");
    assert!(in_hardware(&mut m, IN, 64));

    let why = Refusal::Behind { filter: hard(5, ttl(1)).id, shadow: drop(3, ttl(1)).id };
    let displaced = vec![Displaced { cookie: Cookie(1), side: Hook::Ingress(IN), why }];
    assert_eq!(m.replace(Cookie(4), drop(3, ttl(1)), Inserted::Observed), Ok(displaced.clone()));
    assert!(m.hardware().is_empty() && !in_hardware(&mut m, IN, 64), "it is out when replace returns");
    assert_eq!(m.displaced(), displaced);
    let drained = m.drain(0);
    assert_eq!((drained.removed[0].id, drained.displaced), (alone, displaced.clone()));
    assert_eq!(m.drain(0), Drained::default(), "told once");
    assert_eq!(m.displaced(), displaced, "and remembered");

    // Another one in front: when one goes, the other still is there. The counts go on.
    m.replace(Cookie(5), drop(2, ttl(2)), Inserted::Observed).unwrap();
    m.destroy(Cookie(4)).unwrap();
    assert!(m.hardware().is_empty());
    m.replace(Cookie(6), drop(2, Match::default().exact(Field::IpProto, 17)), Inserted::Observed).unwrap();
    assert!(in_hardware(&mut m, IN, 64), "what was in front is another filter now");
    assert_eq!((m.displaced().len(), m.stats(Cookie(1))[0].packets), (0, 2));
    m.destroy(Cookie(1)).unwrap();
    assert!(m.hardware().is_empty());
}

#[test]
fn of_two_that_overlap_the_one_in_front_is_in_hardware() {
    let mut m = merger();
    m.replace(Cookie(1), hard(5, Match::default()), Inserted::Observed).unwrap();
    let displaced = m.replace(Cookie(2), hard(4, ttl(1)), Inserted::Observed).unwrap();
    assert_eq!(displaced.iter().map(|d| d.cookie).collect::<Vec<_>>(), [Cookie(1)]);
    assert!(in_hardware(&mut m, IN, 1) && !in_hardware(&mut m, IN, 64));
    m.destroy(Cookie(2)).unwrap();
    assert!(in_hardware(&mut m, IN, 1) && in_hardware(&mut m, IN, 64));
}

#[test]
fn it_takes_packets_as_they_arrive_and_no_others() {
    let mut m = merger();
    let keys = vec![PeditKey {
        header: PeditHeader::Ipv4,
        offset: 8,
        mask: [0, 0xff, 0xff, 0xff],
        value: [1, 0, 0, 0],
        add: false,
        dynamic: None,
    }];
    let again = filter(1, 0, 1, ttl(64), ActionKind::Pedit(Pedit { keys, mend: false }), Control::Reclassify);
    m.replace(Cookie(1), again, Inserted::Observed).unwrap();
    m.replace(Cookie(3), out(3, ttl(1)), Inserted::Observed).unwrap();
    let hit = |c| Hit { filter: Cookie(c), found: vec![] };
    let walk = Walk { hits: vec![hit(1), hit(3)], ..lone(1, 3, 64) };
    merge(&mut m, walk.clone()).unwrap();
    // Software does not see it; it does not take out what comes by with a written TTL.
    m.replace(Cookie(2), hard(2, ttl(1)), Inserted::Observed).unwrap();
    assert_eq!(m.hardware().len(), 2);
    assert!(!merge(&mut m, walk).unwrap().installed);
    assert_eq!(m.hardware().receive(IN, &frame(3, 64), 1).unwrap().sent.len(), 1);
    assert_eq!(m.hardware().receive(IN, &frame(3, 1), 1).unwrap().sent.len(), 0);
}

#[test]
fn traps_12_in_its_own_mask_it_hides_the_ranges_behind_it_from_software() {
    let range = |min, max| Match { src_range: Some(Range { min, max }), ..Match::default() }.exact(Field::IpProto, 6);
    let mut m = merger();
    m.replace(Cookie(1), hard(1, range(1, 5)), Inserted::Observed).unwrap();
    let wide = Filter { id: crate::flower::FilterId { handle: 2, ..drop(1, ttl(1)).id }, ..out(1, range(1, 10)) };
    let goto = filter(9, 0, 2, Match::default(), nothing(), Control::Reclassify);
    m.replace(Cookie(2), wide, Inserted::Observed).unwrap();
    m.replace(Cookie(3), goto, Inserted::Observed).unwrap();
    assert!(matches!(merge(&mut m, lone(2, 3, 64)), Err(Refusal::Stale { .. })));
    merge(&mut m, lone(2, 7, 64)).unwrap();
    assert_eq!(m.hardware().overlaps(), []);
    // Not only as it arrives: a second time round it hides them too.
    let hit = |c| Hit { filter: Cookie(c), found: vec![] };
    let twice = Walk { hits: vec![hit(3), hit(2)], ..lone(1, 3, 64) };
    assert!(matches!(merge(&mut m, twice), Err(Refusal::Stale { .. })));
}

#[test]
fn a_blocks_skip_sw_filters_are_installed_where_it_is_bound() {
    let mut m = merger();
    let at = |f: Filter| Filter { id: crate::flower::FilterId { hook: Hook::Block(7), ..f.id }, ..f };
    m.replace(Cookie(1), at(hard(1, ttl(1))), Inserted::Observed).unwrap();
    assert!(m.hardware().is_empty(), "it is bound nowhere");
    for port in [IN, Port(2)] {
        m.bind(Hook::Ingress(port), 7).unwrap();
        assert!(in_hardware(&mut m, port, 1));
    }
    assert_eq!(m.hardware().len(), 2);
    m.unbind(Hook::Ingress(Port(2)), 7).unwrap();
    assert!(in_hardware(&mut m, IN, 1) && !in_hardware(&mut m, Port(2), 1));
    assert_eq!(m.drain(0).removed.len(), 1, "at the other port it stays");

    // Where it cannot be, that is told, and forgotten with the binding.
    m.hardware().fail_next_install("busy");
    m.bind(Hook::Ingress(Port(3)), 7).unwrap();
    let missing = m.displaced().remove(0);
    assert_eq!((missing.cookie, missing.side), (Cookie(1), Hook::Ingress(Port(3))));
    assert_eq!(m.drain(0).displaced, std::slice::from_ref(&missing));
    assert!(in_hardware(&mut m, Port(3), 1) && m.displaced().is_empty(), "drain tries again");
    m.bind(Hook::Egress(Port(2)), 7).unwrap();
    assert_eq!(m.displaced().remove(0).side, Hook::Egress(Port(2)));
    m.unbind(Hook::Egress(Port(2)), 7).unwrap();
    assert_eq!(m.displaced().len(), 0);
    m.destroy(Cookie(1)).unwrap();
    assert!(m.hardware().is_empty());
}

#[test]
fn it_is_at_all_ports_or_refused_and_what_it_replaces_stays() {
    let mut m = Merger::new(Memory::new(Capabilities { size: Some(3), ..Capabilities::all() }));
    let at = |f: Filter| Filter { id: crate::flower::FilterId { hook: Hook::Block(7), ..f.id }, ..f };
    for port in [IN, Port(2)] {
        m.bind(Hook::Ingress(port), 7).unwrap();
    }
    m.replace(Cookie(1), at(hard(1, ttl(1))), Inserted::Observed).unwrap();
    let refused = m.replace(Cookie(2), at(hard(2, ttl(2))), Inserted::Observed).unwrap_err();
    assert!(matches!(refused, ReplaceError::SkipSw(Refusal::Hardware { .. })), "{refused}");
    assert_eq!(m.hardware().len(), 2, "no half of it is left");
    // In place of the first, but a table cannot match a range of what has none: the first stays, counts and all.
    in_hardware(&mut m, IN, 1);
    let sample =
        Filter { actions: vec![Action::new(ActionKind::Other("sample".into()), Control::Shot)], ..at(hard(1, ttl(2))) };
    for cookie in [Cookie(1), Cookie(3)] {
        let refused = m.replace(cookie, sample.clone(), Inserted::Observed).unwrap_err();
        assert!(matches!(refused, ReplaceError::SkipSw(Refusal::Action { .. })), "{refused}");
        assert!(in_hardware(&mut m, IN, 1) && in_hardware(&mut m, Port(2), 1));
        assert_eq!(m.table().filter(Cookie(1)).unwrap().filter.matches, hard(1, ttl(1)).matches);
    }
    assert_eq!(m.destroy(Cookie(3)).unwrap(), [], "it never was there");
    assert_eq!(m.destroy(Cookie(1)).unwrap()[0].packets, 5);
}

#[test]
fn a_port_that_goes_down_does_not_take_it_along() {
    let m = merger();
    m.replace(Cookie(1), Filter { skip_sw: true, ..out(1, ttl(1)) }, Inserted::Observed).unwrap();
    for (up, sent) in [(false, 0), (true, 1)] {
        m.port(Port(2), up).unwrap();
        assert_eq!(m.hardware().receive(IN, &frame(3, 1), 1).unwrap().sent.len(), sent);
    }
}

#[test]
fn traps_32_what_would_be_in_hardware_for_some_of_its_packets_only_is_refused() {
    let m = merger();
    let mut all = hard(1, Match::default());
    all.id.protocol = 3;
    all.matches = Match::default();
    let network = PeditKey {
        header: PeditHeader::Network,
        offset: 8,
        mask: [0xff; 4],
        value: [1, 0, 0, 0],
        add: false,
        dynamic: None,
    };
    all.actions[0].kind = ActionKind::Pedit(Pedit { keys: vec![network], mend: false });
    assert!(matches!(m.replace(Cookie(1), all, Inserted::Observed), Err(ReplaceError::SkipSw(_))));
    assert!(m.hardware().is_empty() && m.table().filter(Cookie(1)).is_none());
    // Whether it is tagged decides, where hardware counts whole frames.
    let m = Merger::new(Memory::new(Capabilities { counts: crate::flower::Counts::Frame, ..Capabilities::all() }));
    let mut any = hard(1, Match::default());
    any.matches = Match::default();
    let refused = m.replace(Cookie(1), any, Inserted::Observed);
    assert!(
        matches!(refused, Err(ReplaceError::SkipSw(Refusal::Hidden { field: Field::Protocol, .. }))),
        "{refused:?}"
    );
}

#[test]
fn a_filter_of_its_identity_takes_its_place() {
    let mut m = merger();
    m.replace(Cookie(1), hard(1, ttl(1)), Inserted::Observed).unwrap();
    in_hardware(&mut m, IN, 1);
    // TC calls with the new cookie before it destroys the old one; software takes the packets from now on.
    m.replace(Cookie(2), drop(1, ttl(1)), Inserted::Observed).unwrap();
    assert!(m.hardware().is_empty());
    assert_eq!(m.destroy(Cookie(1)).unwrap()[0].packets, 1);
    m.replace(Cookie(3), hard(1, ttl(2)), Inserted::Observed).unwrap();
    assert!(in_hardware(&mut m, IN, 2) && m.table().filter(Cookie(2)).is_none());
}

#[test]
fn what_the_hardware_does_not_remove_keeps_it_out_and_is_tried_again() {
    let mut m = merger();
    m.replace(Cookie(1), hard(5, ttl(1)), Inserted::Observed).unwrap();
    m.hardware().fail_removals(Some("busy"));
    let error = m.replace(Cookie(2), drop(4, ttl(1)), Inserted::Observed).unwrap_err();
    assert!(matches!(error, ReplaceError::NotRemoved(_)), "{error}");
    assert_eq!(m.displaced().iter().map(|d| d.cookie).collect::<Vec<_>>(), [Cookie(1)]);
    m.destroy(Cookie(2)).unwrap();
    assert_eq!((m.hardware().len(), m.displaced().len()), (1, 1), "the old entry should be gone and is not");
    m.hardware().fail_removals(None);
    assert_eq!((m.drain(0).removed.len(), m.displaced().len()), (1, 0));
    assert!(in_hardware(&mut m, IN, 1) && m.hardware().len() == 1);
    // A new one is not entered while what it takes the place of is in hardware.
    m.hardware().fail_removals(Some("busy"));
    assert!(m.replace(Cookie(3), hard(5, ttl(2)), Inserted::Observed).is_err());
    assert!(m.table().filter(Cookie(3)).is_none() && m.table().filter(Cookie(1)).is_some());
}

/// No walk brings it again: what waits after a reset is there once, and what the hardware then declines is told, and tried again.
#[test]
fn after_a_reset_it_comes_back_once_or_is_told() {
    let mut m = Merger::new(Memory::new(Capabilities { size: Some(1), ..Capabilities::all() }));
    let side = Hook::Ingress(IN);
    m.bind(side, 7).unwrap();
    let id = FilterId { hook: Hook::Block(7), ..hard(1, ttl(1)).id };
    m.replace(Cookie(1), Filter { id, ..hard(1, ttl(1)) }, Inserted::Observed).unwrap();
    m.hardware().lose_all();
    m.reset(0);
    m.bind(side, 7).unwrap();
    m.drain(0);
    assert_eq!((m.merged_count(), m.hardware().len(), m.displaced()), (1, 1, vec![]));
    // It comes back to a table that another has filled.
    m.hardware().lose_all();
    m.reset(0);
    let in_its_place = crate::hardware::Entry { id: MergedId(1 << 40), ..entry_of(&m) };
    m.hardware().put(in_its_place).unwrap();
    m.drain(0);
    assert_eq!((m.merged_count(), m.displaced().len()), (0, 1));
    m.hardware().lose_all();
    m.drain(0);
    assert!(in_hardware(&mut m, IN, 1) && m.displaced().is_empty());
}

fn entry_of(m: &Merger<Memory>) -> crate::hardware::Entry {
    let merged = &m.merged()[0];
    let (id, matches, actions) = (merged.id, merged.matches, merged.actions.clone());
    crate::hardware::Entry { id, port: IN, matches, actions, trim: crate::hardware::Trim::Never }
}

#[test]
fn one_that_is_gone_is_not_missing_anywhere() {
    let m = merger();
    m.replace(Cookie(1), drop(1, ttl(1)), Inserted::Observed).unwrap();
    m.replace(Cookie(2), hard(2, ttl(2)), Inserted::Observed).unwrap();
    m.replace(Cookie(3), hard(3, ttl(3)), Inserted::Observed).unwrap();
    m.replace(Cookie(4), drop(0, Match::default()), Inserted::Observed).unwrap();
    assert_eq!(m.displaced().len(), 2);
    m.destroy(Cookie(2)).unwrap();
    assert_eq!(m.displaced().len(), 1);
    // Neither when a filter that itself cannot go in has its cookie.
    m.hardware().fail_next_install("busy");
    let id = FilterId { prio: 0, handle: 77, ..hard(0, ttl(9)).id };
    assert!(m.replace(Cookie(3), Filter { id, ..hard(0, ttl(9)) }, Inserted::Observed).is_err());
    assert_eq!(m.displaced(), []);
}

#[test]
fn what_stays_since_another_did_not_take_its_place_gets_its_last_counts() {
    let mut m = merger();
    m.replace(Cookie(1), hard(5, ttl(1)), Inserted::Observed).unwrap();
    m.hardware().fail_removals(Some("busy"));
    assert!(m.replace(Cookie(2), hard(5, ttl(1)), Inserted::Observed).is_err());
    assert!(in_hardware(&mut m, IN, 1), "it is still there, and counts");
    m.hardware().fail_removals(None);
    assert_eq!(m.drain(0).removed[0].counters.packets, 1);
    assert_eq!(m.counted(Cookie(1))[0].packets, 1);
}
