//! What is written and sent, in how many actions, and with which checksums.

use super::*;
use crate::{
    flower::action::Skbedit,
    merge::program::{Builder, Instruction, left_stale},
    packet::apply::Trim,
};

fn word(header: PeditHeader, offset: i32, mask: [u8; 4], value: [u8; 4]) -> PeditKey {
    PeditKey { header, offset, mask, value, add: false, dynamic: None }
}

#[test]
fn only_what_is_written_leaves_a_checksum_stale() {
    use PeditHeader::{Ethernet, Ipv4, Ipv6, Tcp, Udp};
    let (none, l4) = (CsumFlags::empty(), CsumFlags::TCP | CsumFlags::UDP);
    for (header, offset, mask, value, stale) in [
        (Ipv4, 12, [0xff; 4], [0; 4], none),
        (Ipv4, 12, [0xff; 4], [0, 0, 0, 1], CsumFlags::IPV4 | l4),
        (Ipv4, 16, [0xff, 0xff, 0xff, 0], [0; 4], CsumFlags::IPV4 | l4),
        (Ipv4, 8, [0, 0xff, 0xff, 0xff], [9, 0, 0, 0], CsumFlags::IPV4),
        (Ipv4, 8, [0xff; 4], [0; 4], none),
        (Tcp, 0, [0xff; 4], [0; 4], none),
        (Ipv6, 8, [0xff; 4], [0; 4], none),
        (Ipv6, 4, [0xff, 0xff, 0xff, 0], [0; 4], none),
        (Ipv6, 8, [0; 4], [0; 4], l4),
        (Ipv6, 36, [0xff, 0xff, 0xff, 0], [0; 4], l4),
        (Tcp, 16, [0xff, 0xff, 0xff, 0], [0; 4], CsumFlags::TCP),
        (Udp, 0, [0; 4], [0; 4], CsumFlags::UDP),
        (Udp, 0, [0xff; 4], [0; 4], none),
        (Ethernet, 0, [0; 4], [0; 4], none),
    ] {
        assert_eq!(left_stale(&word(header, offset, mask, value)), stale, "{header:?} {offset} {mask:?} {value:?}");
    }
}

#[test]
fn a_word_that_is_cleared_is_written_and_one_that_is_left_alone_is_not() {
    let written = |mask, value| {
        let mut builder = Builder::default();
        builder.rewrite(word(PeditHeader::Ipv4, 8, mask, value), false);
        builder.send(OUT, false);
        builder.finish(Control::Shot).instructions.len() == 2
    };
    assert!(written([0, 0xff, 0xff, 0xff], [0; 4]) && written([0xff; 4], [1, 0, 0, 0]));
    let keys = |a: &Action| if let ActionKind::Pedit(p) = &a.kind { p.keys.len() } else { 0 };
    let nothing = pedit(PeditHeader::Ipv4, 4, [0xff; 4], [0; 4]);
    let a = filter(0, 1, ip(), &[nothing, pedit(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [0; 4]), output()]);
    let (_, actions) = Case::default().hit(&a).merged(&packet(tcp(H1, 1, H2, 2))).unwrap();
    assert_eq!(actions.iter().map(keys).collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn a_checksum_before_its_length_is_rewritten_is_computed() {
    let mut builder = Builder::default();
    builder.checksum(CsumFlags::UDP);
    builder.rewrite(word(PeditHeader::Udp, 4, [0, 0, 0xff, 0xff], [0, 9, 0, 0]), false);
    builder.checksum(CsumFlags::UDP);
    builder.send(OUT, false);
    let names = |i: &Instruction| match i {
        Instruction::Fixed(kind, _) => Action::new(kind.clone(), Control::Pipe).name().to_string(),
        Instruction::Translate { .. } => "translate".into(),
        Instruction::Policed(action) => action.name().to_string(),
    };
    let names: Vec<_> = builder.finish(Control::Shot).instructions.iter().map(names).collect();
    assert_eq!(names, ["csum", "pedit", "csum", "mirred"]);
}

/// The names of a translation's actions and of what follows, where checksums are only computed anew.
fn anew(steps: &[Action]) -> Vec<String> {
    let t = tcp(H1, 1000, VIP, 80);
    let c = Connection::established(3, t, tcp(H2, 80, H1, 1000));
    let actions = [&[ct(3, true)], steps, &[output()]].concat();
    let a = filter(0, 1, ip(), &actions);
    let (path, connections) = Case::default().hit_with(&a, &[], &[(&c, Direction::Original)]).fold(&packet(t)).unwrap();
    let name = |a: &Action| match &a.kind {
        ActionKind::Csum(flags) => format!("{flags:?}"),
        _ => a.name().to_string(),
    };
    path.actions(&connections, false).0.iter().map(name).collect()
}

#[test]
fn checksums_are_computed_together_unless_something_must_stay_stale() {
    let csum = |flags| Action::new(ActionKind::Csum(flags), Control::Pipe);
    let ttl = pedit(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [9, 0, 0, 0]);
    let id = pedit(PeditHeader::Ipv4, 4, [0, 0, 0xff, 0xff], [9, 9, 0, 0]);
    let (ipv4, both) = ("CsumFlags(IPV4)", "CsumFlags(IPV4 | TCP)");
    assert_eq!(anew(&[]), ["pedit", both, "mirred"]);
    assert_eq!(anew(&[csum(CsumFlags::TCP)]), ["pedit", both, "mirred"]);
    assert_eq!(anew(&[ttl.clone(), csum(CsumFlags::IPV4)]), ["pedit", "pedit", both, "mirred"]);
    // Nobody asks for the header's checksum behind these two.
    let stale = anew(&[ttl, id, csum(CsumFlags::TCP)]);
    assert_eq!(stale, ["pedit", ipv4, "pedit", "CsumFlags(TCP)", "mirred"]);
    // What is added to a checksum carries by what it is.
    let carry = add(PeditHeader::Tcp, 16, [0xff, 0xff, 0, 0xff], [0, 5, 1, 0]);
    assert_eq!(anew(&[carry, csum(CsumFlags::TCP)]), ["pedit", both, "pedit", "CsumFlags(TCP)", "mirred"]);
    let beside = add(PeditHeader::Tcp, 4, [0, 0xff, 0xff, 0xff], [1, 0, 0, 0]);
    assert_eq!(anew(&[beside, csum(CsumFlags::TCP)]), ["pedit", "pedit", both, "mirred"]);
    let set = pedit(PeditHeader::Tcp, 16, [0xff, 0xff, 0, 0xff], [0, 0, 1, 0]);
    assert_eq!(anew(&[set, csum(CsumFlags::TCP)]), ["pedit", "pedit", both, "mirred"]);
}

#[test]
fn a_word_that_is_mended_after_it_was_written_comes_after() {
    let plain = word(PeditHeader::Ipv4, 12, [0; 4], H1);
    for (offset, mended_first) in [(12, false), (16, true)] {
        let mut builder = Builder::default();
        builder.rewrite(plain, false);
        builder.rewrite(word(PeditHeader::Ipv4, offset, [0; 4], H2), true);
        builder.send(OUT, false);
        let mends = |i: &Instruction| matches!(i, Instruction::Fixed(ActionKind::Pedit(p), _) if p.mend);
        let program = builder.finish(Control::Shot);
        assert_eq!(mends(&program.instructions[0]), mended_first, "{offset}");
        assert_eq!(program.instructions.len(), 3);
    }
}

#[test]
fn metadata_is_set_once_and_the_packet_type_waits_for_the_stack() {
    let edit = |e| Action::new(ActionKind::Skbedit(e), Control::Pipe);
    let none = Skbedit::default();
    let first = Skbedit { mark: Some((1, 1)), priority: Some(4), ptype: Some(0), ..none };
    let second = Skbedit { mark: Some((2, 2)), queue: Some(7), inherit_dsfield: true, ..none };
    let copy = Action::new(ActionKind::Mirred(Mirred { port: Port(3), ingress: false, mirror: true }), Control::Pipe);
    let actions = [edit(first), edit(second), copy.clone(), edit(none), Action::gact(Control::Ok)];
    let a = filter(0, 1, ip(), &actions);
    let (_, merged) = Case::default().hit(&a).merged(&packet(tcp(H1, 1, H2, 2))).unwrap();
    let both = Skbedit { priority: Some(4), ..second };
    let ptype = Skbedit { ptype: Some(0), ..none };
    assert_eq!(merged, [edit(both), copy, edit(ptype), Action::gact(Control::Ok)]);
    let into = Action::new(ActionKind::Mirred(Mirred { port: OUT, ingress: true, mirror: false }), Control::Stolen);
    let a = filter(0, 1, ip(), &[edit(first), into.clone()]);
    let (_, merged) = Case::default().hit(&a).merged(&packet(tcp(H1, 1, H2, 2))).unwrap();
    assert_eq!(merged, [edit(first), into], "what is let in goes to the stack, too");
}

#[test]
fn the_first_ct_cuts_off_what_follows() {
    let t = tcp(H1, 1, H2, 2);
    let c = Connection::established(5, t, t.inverse());
    let copy = Action::new(ActionKind::Mirred(Mirred { port: Port(3), ingress: false, mirror: true }), Control::Pipe);
    for (actions, trim) in [
        (vec![output()], Trim::Never),
        (vec![ct(5, false), output()], Trim::Before(0)),
        (vec![copy.clone(), ct(5, false), copy.clone(), ct(5, false), output()], Trim::Before(1)),
    ] {
        let a = filter(0, 1, ip(), &actions);
        let met = [(&c, Direction::Original); 2];
        let (path, connections) = Case::default().hit_with(&a, &[], &met).fold(&packet(t)).unwrap();
        assert_eq!(path.actions(&connections, true).1, trim, "{actions:?}");
    }
}

#[test]
fn traps_16_a_mirror_sends_the_packet_as_it_is_there() {
    let dst = pedit(PeditHeader::Ipv4, 16, [0; 4], H2);
    let mirror = Action::new(ActionKind::Mirred(Mirred { port: Port(3), ingress: false, mirror: true }), Control::Pipe);
    let src = pedit(PeditHeader::Ipv4, 12, [0; 4], H2);
    let a = filter(0, 1, ip(), &[dst.clone(), mirror.clone(), src, drop()]);
    let (_, actions) = Case::default().hit(&a).merged(&packet(tcp(H1, 1, VIP, 2))).unwrap();
    let redirect =
        Action::new(ActionKind::Mirred(Mirred { port: Port(3), ingress: false, mirror: false }), Control::Stolen);
    assert_eq!(
        actions,
        [dst, redirect],
        "what comes behind the last send is not done, and a mirror before a drop redirects"
    );
}

#[test]
fn traps_17_mended_and_recomputed_checksums_are_two_things() {
    let t = tcp(H1, 1000, VIP, 80);
    let c = Connection::established(3, t, tcp(H2, 80, H1, 1000));
    let csum = Action::new(ActionKind::Csum(CsumFlags::IPV4), Control::Pipe);
    let ttl = pedit(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [9, 0, 0, 0]);
    let a = filter(0, 1, ip(), &[ct(3, true), ttl, csum.clone(), output()]);
    let case = Case::default().hit_with(&a, &[], &[(&c, Direction::Original)]);
    let (path, connections) = case.fold(&packet(t)).unwrap();
    let names = |mend| path.actions(&connections, mend).0.iter().map(|a| a.name().to_string()).collect::<Vec<_>>();
    assert_eq!(names(true), ["pedit", "pedit", "csum", "mirred"]);
    // The TTL is no part of TCP's checksum: one `csum` is enough for both.
    assert_eq!(names(false), ["pedit", "pedit", "csum", "mirred"]);
    assert_eq!(path.actions(&connections, false).0[2].kind, ActionKind::Csum(CsumFlags::IPV4 | CsumFlags::TCP));
}

#[test]
fn traps_17_what_is_left_stale_stays_stale_where_checksums_are_computed_anew() {
    let t = tcp(H1, 1000, VIP, 80);
    let c = Connection::established(3, t, tcp(H2, 80, H1, 1000));
    let ttl = pedit(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [9, 0, 0, 0]);
    let met = [(&c, Direction::Original); 2];
    // Between the lookup and the translation, without `csum`: written when the rest has been computed.
    let late = filter(0, 1, ip(), &[ct(3, false), ttl.clone(), ct(3, true), output()]);
    let (path, connections) = Case::default().hit_with(&late, &[], &met).fold(&packet(t)).unwrap();
    let actions = path.actions(&connections, false).0;
    let names: Vec<_> = actions.iter().map(|a| a.name().to_string()).collect();
    assert_eq!((names, &actions[2]), (["pedit", "csum", "pedit", "mirred"].map(String::from).to_vec(), &ttl));
    assert!(!path.course.program.must_mend());
    // A copy leaves in between: it is written before, and would be righted.
    let copy = Action::new(ActionKind::Mirred(Mirred { port: Port(3), ingress: false, mirror: true }), Control::Pipe);
    let sent = filter(0, 1, ip(), &[ct(3, false), ttl, copy, ct(3, true), output()]);
    let (path, _) = Case::default().hit_with(&sent, &[], &met).fold(&packet(t)).unwrap();
    assert!(path.course.program.must_mend());
}

#[test]
fn what_no_checksum_covers_is_written_with_the_translation() {
    let t = tcp(H1, 1000, VIP, 80);
    let c = Connection::established(3, t, tcp(H2, 80, H1, 1000));
    let mac = pedit(PeditHeader::Ethernet, 0, [0; 4], [2, 0, 0, 9]);
    let ttl = pedit(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [9, 0, 0, 0]);
    let a = filter(0, 1, ip(), &[ct(3, true), mac, ttl, output()]);
    let case = Case::default().hit_with(&a, &[], &[(&c, Direction::Original)]);
    let (path, connections) = case.fold(&packet(t)).unwrap();
    let headers = |mend| {
        let keys = |a: &Action| match &a.kind {
            ActionKind::Pedit(p) => p.keys.iter().map(|k| k.header).collect(),
            _ => vec![],
        };
        path.actions(&connections, mend).0.iter().map(keys).collect::<Vec<_>>()
    };
    use PeditHeader::{Ethernet, Ipv4};
    let translation = vec![Ethernet, Ipv4];
    assert_eq!(headers(true), [translation.clone(), vec![Ipv4], vec![]]);
    assert_eq!(headers(false), [translation, vec![], vec![Ipv4], vec![]]);
}

#[test]
fn a_write_that_mends_folds_to_itself() {
    let key = PeditKey { header: PeditHeader::Ipv4, offset: 16, mask: [0; 4], value: H2, add: false, dynamic: None };
    let mended = Action::new(ActionKind::Pedit(Pedit { keys: vec![key], mend: true }), Control::Pipe);
    let a = filter(0, 1, ip(), &[mended.clone(), output()]);
    let (_, actions) = Case::default().hit(&a).merged(&packet(tcp(H1, 1, VIP, 2))).unwrap();
    assert_eq!(actions, [mended, output()]);
}

#[test]
fn traps_19_commit_on_an_established_connection_must_change_nothing() {
    let t = tcp(H1, 1, H2, 2);
    let c = Connection { mark: 1, ..Connection::established(5, t, t.inverse()) };
    let commit = |mark| {
        let ct = Ct { zone: 5, commit: true, mark: Some((mark, 0xff)), ..Ct::default() };
        filter(0, 1, ip(), &[Action::new(ActionKind::Ct(ct), Control::Pipe), output()])
    };
    let (same, other) = (commit(1), commit(2));
    let met = [(&c, Direction::Original)];
    assert!(Case::default().hit_with(&same, &[], &met).merged(&packet(t)).is_ok());
    let refusal = Case::default().hit_with(&other, &[], &met).merged(&packet(t)).unwrap_err();
    assert_eq!(refusal, Refusal::ChangesConnection { filter: other.id, field: Field::CtMark });
}

#[test]
fn traps_17_a_stale_checksum_before_ct_is_refused() {
    // Whoever rewrites the TTL and computes no checksum has `ct` find nothing; the packet at hand had that TTL already.
    let ttl = pedit(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [64, 0, 0, 0]);
    let csum = Action::new(ActionKind::Csum(CsumFlags::IPV4), Control::Pipe);
    let t = tcp(H1, 1, H2, 2);
    let c = Connection::established(5, t, t.inverse());
    let key = packet(t);
    for (actions, merged) in
        [(vec![ttl.clone(), ct(5, false), output()], false), (vec![ttl, csum, ct(5, false), output()], true)]
    {
        let f = filter(0, 1, ip(), &actions);
        let case = Case::default().hit_with(&f, &[], &[(&c, Direction::Original)]);
        assert_eq!(case.merged(&key).is_ok(), merged);
    }
}
