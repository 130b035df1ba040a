//! Where packets go: controls, ports that are down or have filters of their own, and which actions count.

use super::*;

const THIRD: Port = Port(3);

fn mirred(port: Port, ingress: bool, mirror: bool, control: Control) -> Action {
    Action::new(ActionKind::Mirred(Mirred { port, ingress, mirror }), control)
}
fn mirror(port: Port) -> Action {
    mirred(port, false, true, Control::Pipe)
}
fn at(port: Port, f: Filter) -> Filter {
    Filter { id: FilterId { hook: Hook::Ingress(port), ..f.id }, ..f }
}
fn key() -> Key {
    packet(tcp(H1, 1, H2, 2))
}

/// Folded: what each filter ran, and the actions.
fn folded(filters: &[&Filter], around: Around) -> Result<(Vec<u32>, Vec<Action>), Refusal> {
    let case = filters.iter().fold(Case { around, ..Case::default() }, |case, f| case.hit(f));
    let (path, _) = case.fold(&key())?;
    Ok((path.parents.iter().map(|p| p.ran).collect(), path.actions(&[], true).0))
}

#[test]
fn each_control_leads_where_tc_leads() {
    let last = |control| Action::gact(control);
    for (control, chain, prio) in [(Control::Goto(3), 3, 1), (Control::Continue, 0, 2), (Control::Reclassify, 0, 1)] {
        let a = filter(0, 1, ip(), &[last(control)]);
        let b = filter(chain, prio, ip(), &[output()]);
        let (ran, actions) = folded(&[&a, &b], Around::default()).unwrap();
        assert_eq!((ran, actions), (vec![1, 1], vec![output()]), "{control:?}");
    }
    // In another chain than 0 they tell apart.
    let goto2 = filter(0, 1, ip(), &[goto(2)]);
    for (control, chain) in [(Control::Continue, 2), (Control::Reclassify, 0)] {
        let a = filter(2, 1, ip(), &[last(control)]);
        for (where_to, leads) in [(2, chain == 2), (0, chain == 0)] {
            let b = filter(where_to, 5, ip(), &[output()]);
            let done = folded(&[&goto2, &a, &b], Around::default());
            assert_eq!(done.is_ok(), leads, "{control:?} {where_to}: {done:?}");
        }
    }
    for (control, end) in [
        (Control::Shot, Control::Shot),
        (Control::Stolen, Control::Shot),
        (Control::Queued, Control::Shot),
        (Control::Trap, Control::Trap),
        (Control::Ok, Control::Ok),
    ] {
        let (_, actions) = folded(&[&filter(0, 1, ip(), &[last(control)])], Around::default()).unwrap();
        assert_eq!(actions, [last(end)], "{control:?}");
    }
}

#[test]
fn traps_16_which_actions_run_counts_bit_by_bit() {
    let a = filter(0, 1, ip(), &[Action::gact(Control::Jump(2)), drop(), mirror(THIRD), output(), drop()]);
    let (ran, actions) = folded(&[&a], Around::default()).unwrap();
    assert_eq!((ran, actions), (vec![0b1101], vec![mirror(THIRD), output()]));
}

#[test]
fn traps_16_a_port_that_is_down_takes_nothing_and_a_redirect_drops() {
    let down = || Around { down: vec![THIRD], ..Around::default() };
    let a = filter(0, 1, ip(), &[mirror(THIRD), output()]);
    assert_eq!(folded(&[&a], down()).unwrap(), (vec![0b11], vec![output()]));
    let a = filter(0, 1, ip(), &[mirror(OUT), mirred(THIRD, false, false, Control::Pipe), output()]);
    // The copy is all that is left, and what stands behind the redirect does not run.
    assert_eq!(folded(&[&a], down()).unwrap(), (vec![0b11], vec![output()]));
    let a = filter(0, 1, ip(), &[mirror(OUT), mirred(THIRD, true, false, Control::Stolen)]);
    let there = Around { ingress: vec![THIRD], ..down() };
    assert_eq!(folded(&[&a], there).unwrap(), (vec![0b11], vec![output()]), "it is not let in either");
}

#[test]
fn a_redirect_into_a_port_with_filters_goes_on_there_and_one_without_is_sent() {
    let into = |mirror, control| filter(0, 1, ip(), &[mirred(THIRD, true, mirror, control)]);
    let there = || Around { ingress: vec![THIRD], ..Around::default() };
    let inner = at(THIRD, filter(0, 1, ip(), &[output()]));
    let (ran, actions) = folded(&[&into(false, Control::Stolen), &inner], there()).unwrap();
    assert_eq!((ran, actions), (vec![1, 1], vec![output()]));
    let indev = at(THIRD, filter(0, 1, ip().exact(Field::Indev, 3), &[output()]));
    assert!(folded(&[&into(false, Control::Stolen), &indev], there()).is_ok(), "the port that it is in now");
    assert!(folded(&[&into(false, Control::Stolen), &inner], Around::default()).is_err());
    let sent = folded(&[&into(false, Control::Stolen)], Around::default()).unwrap().1;
    assert_eq!(sent, [mirred(THIRD, true, false, Control::Stolen)]);
    for copy in [into(true, Control::Pipe), into(false, Control::Pipe)] {
        let refusal = folded(&[&copy], there()).unwrap_err();
        assert_eq!(refusal, Refusal::Forks { filter: copy.id, port: THIRD });
    }
    let elsewhere = at(OUT, filter(0, 1, ip(), &[output()]));
    assert_eq!(
        folded(&[&into(false, Control::Stolen), &elsewhere], there()).unwrap_err(),
        Refusal::Broken { filter: elsewhere.id }
    );
}

#[test]
fn what_passes_in_another_port_is_not_merged() {
    let there = || Around { ingress: vec![THIRD], ..Around::default() };
    let into = filter(0, 1, ip(), &[mirred(THIRD, true, false, Control::Stolen)]);
    for end in [vec![Action::gact(Control::Ok)], vec![mirror(OUT)], vec![]] {
        let inner = at(THIRD, filter(0, 1, ip(), &end));
        let refusal = folded(&[&into, &inner], there()).unwrap_err();
        assert!(matches!(&refusal, Refusal::Action { filter, .. } if *filter == inner.id), "{refusal}");
    }
    let dropped = at(THIRD, filter(0, 1, ip(), &[drop()]));
    assert!(folded(&[&into, &dropped], there()).is_ok());
    // The same port once more is no other.
    let again = filter(0, 1, ip().exact(Field::IpTtl, 64), &[mirred(IN, true, false, Control::Stolen)]);
    let inner = filter(0, 2, ip(), &[Action::gact(Control::Ok)]);
    assert!(folded(&[&again, &inner], Around { ingress: vec![IN], ..Around::default() }).is_ok());
}

#[test]
fn conntrack_s_findings_do_not_enter_the_next_port() {
    let t = tcp(H1, 1, H2, 2);
    let c = Connection { mark: 7, labels: 7, ..Connection::established(5, t, t.inverse()) };
    let a = filter(0, 1, ip(), &[ct(5, false), mirred(THIRD, true, false, Control::Stolen)]);
    let around = Around { ingress: vec![THIRD], ..Around::default() };
    for (field, value) in [(Field::CtState, 0), (Field::CtZone, 0), (Field::CtMark, 0), (Field::CtLabels, 0)] {
        let inner = at(THIRD, filter(0, 1, ip().exact(field, value), &[output()]));
        let case = Case { around: around.clone(), ..Case::default() };
        let case = case.hit_with(&a, &[], &[(&c, Direction::Original)]).hit(&inner);
        assert!(case.fold(&key()).is_ok(), "{field}");
    }
}

#[test]
fn the_fifth_redirect_into_a_port_drops_and_does_not_count() {
    let ports = [IN, OUT, THIRD, Port(4), Port(5), Port(6)];
    let all = Around { ingress: ports.to_vec(), ..Around::default() };
    let edit = Action::new(ActionKind::Skbedit(Default::default()), Control::Pipe);
    let redirect = |i: usize| mirred(ports[i + 1], true, false, Control::Stolen);
    let hop = |i: usize| at(ports[i], filter(0, 1, ip(), &[edit.clone(), redirect(i)]));
    let hops: Vec<Filter> = (0..5).map(hop).collect();
    let (ran, actions) = folded(&hops.iter().collect::<Vec<_>>(), all).unwrap();
    assert_eq!((ran, actions), (vec![3, 3, 3, 3, 1], vec![drop()]));
}

#[test]
fn each_port_that_is_sent_to_is_remembered_once() {
    let a = filter(0, 1, ip(), &[mirror(THIRD), mirror(OUT), mirror(THIRD), output()]);
    let (path, _) = Case::default().hit(&a).fold(&key()).unwrap();
    assert_eq!(path.course.targets.as_slice(), [THIRD, OUT]);
}

#[test]
fn filters_at_an_egress_hook_are_named() {
    let around = Around { egress: vec![OUT], ..Around::default() };
    let a = filter(0, 1, ip(), &[output()]);
    assert_eq!(folded(&[&a], around.clone()).unwrap_err(), Refusal::EgressFilters { filter: a.id, port: OUT });
    let into = filter(0, 1, ip(), &[mirred(OUT, true, false, Control::Stolen)]);
    assert!(folded(&[&into], around).is_ok(), "into the port, not out of it");
}

#[test]
fn a_block_s_filters_are_at_the_ports_that_it_is_bound_to() {
    let mut a = filter(0, 1, ip(), &[output()]);
    a.id.hook = Hook::Block(9);
    let bound = |port| Around { bound: vec![(port, 9)], ..Around::default() };
    assert!(folded(&[&a], bound(IN)).is_ok());
    assert_eq!(folded(&[&a], bound(OUT)).unwrap_err(), Refusal::Broken { filter: a.id });
    let mut a = filter(0, 1, ip(), &[output()]);
    a.id.hook = Hook::Egress(IN);
    assert_eq!(folded(&[&a], Around::default()).unwrap_err(), Refusal::Broken { filter: a.id });
}
