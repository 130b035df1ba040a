//! Tags on and off: what the fold holds of each field is what the dissector sees in the bytes.

use super::*;
use crate::{
    flower::{Port, action::Skbedit},
    merge::{
        state::State,
        symbol::{Source, Value},
    },
    packet::{
        apply::{End, Trim, apply},
        dissect::arrived,
    },
};
use proptest::prelude::*;

pub(super) fn frame(tags: &[(u16, u16)], v6: bool) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for (tpid, tci) in tags {
        f.extend([tpid.to_be_bytes(), tci.to_be_bytes()].concat());
    }
    if v6 {
        f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
        f.extend([7; 32]);
    } else {
        f.extend([8, 0, 0x45, 4, 0, 28, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    }
    f.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    f
}

/// What a value is for this packet; `None` where it cannot be told.
pub(super) fn now(value: Value, key: &Key) -> Option<u128> {
    let source = match value.source {
        _ if value.kept == 0 => 0,
        Source::Arrived(f) => key.get(f),
        Source::Sum(f, add) => u128::from((key.get(f) as u8).wrapping_add(add)),
        Source::Param(_) | Source::Hidden(_) => return None,
    };
    Some(source & value.kept ^ value.flip)
}

fn tag() -> impl Strategy<Value = (u16, u16)> {
    (prop::sample::select(vec![0x8100u16, 0x88a8]), any::<u16>())
}

fn ops() -> impl Strategy<Value = Vec<Vlan>> {
    let op = (0u8..3, tag(), any::<bool>()).prop_map(|(what, (protocol, tci), some)| {
        let (id, prio) = (tci & 0xfff, (tci >> 13) as u8);
        match what {
            0 => Vlan::Pop,
            1 => Vlan::Push { protocol, id, prio },
            _ => Vlan::Modify { protocol, id, prio: some.then_some(prio) },
        }
    });
    prop::collection::vec(op, 1..6)
}

proptest! {
    #![proptest_config(cases(1000))]
    #[test]
    fn what_is_held_is_what_the_dissector_sees(tags in prop::collection::vec(tag(), 0..4), v6 in any::<bool>(), ops in ops()) {
        let mut frame = frame(&tags, v6);
        let key = arrived(&frame);
        let mut state = State::new(Port(1), &key);
        let id = filter(0, 1, ip(), &[]).id;
        let mut tells = 0;
        for op in ops {
            if now(state.view(Field::Protocol), &key).is_none() {
                // Of a third tag nothing is known.
                let refused = state.vlan(id, op);
                prop_assert!(matches!(refused, Err(Refusal::Hidden { field: Field::Protocol, .. })), "{refused:?}");
                return Ok(());
            }
            state.vlan(id, op).expect("the outer tag is known");
            let action = Action::new(ActionKind::Vlan(op), Control::Pipe);
            let End::Passed(after) = apply(&[action], Trim::Never, &frame).expect("supported").end else {
                panic!("passed")
            };
            frame = after;
            let seen = arrived(&frame);
            for &field in Field::ALL.iter().filter(|&&f| f != Field::Indev) {
                if let Some(held) = now(state.view(field), &key) {
                    prop_assert_eq!(held, seen.get(field), "{} after {:?}", field, op);
                    tells += u32::from(matches!(field, Field::VlanId | Field::EthType));
                }
            }
            prop_assert!(state.template.known.fits(&key), "{:?}", state.template);
            if now(state.view(Field::Protocol), &key).is_some() {
                prop_assert_eq!(state.tagged(id), Ok([0x8100, 0x88a8].contains(&seen.get(Field::Protocol))));
            }
        }
        prop_assert!(tells > 0, "something can always be told");
    }
}

#[test]
fn an_inner_tag_counts_until_it_is_the_outer_one() {
    let vid = |n| (0x8100u16, n);
    // Tags on arrival, then pops and pushes: by how much longer it would count.
    let cases: [(&[_], &str, i64); 9] = [
        (&[], "", 0),
        (&[], "+", 0),
        (&[vid(1)], "-", 0),
        (&[vid(1)], "-+", 0),
        (&[vid(1)], "+-", 0),
        (&[vid(1), vid(2)], "-", -4),
        (&[vid(1), vid(2)], "--", -4),
        (&[vid(1), vid(2)], "-+", -4),
        (&[vid(1), vid(2)], "--+", -4),
    ];
    for (tags, ops, longer) in cases {
        let frame = frame(tags, false);
        let key = arrived(&frame);
        let mut state = State::new(Port(1), &key);
        let id = filter(0, 1, ip(), &[]).id;
        for op in ops.chars() {
            let op = if op == '-' { Vlan::Pop } else { Vlan::Push { protocol: 0x8100, id: 9, prio: 0 } };
            state.vlan(id, op).unwrap();
        }
        assert_eq!(state.longer(id), Ok(longer), "{tags:?} {ops}");
    }
}

#[test]
fn a_third_tag_is_not_told_unless_there_is_none() {
    let two = [(0x8100, 1), (0x8100, 2)];
    for (tags, last, told) in
        [(&two[..1], true, true), (&two[..1], false, false), (&two[..], false, false), (&two[..], true, false)]
    {
        let frame = frame(tags, false);
        let key = arrived(&frame);
        let mut state = State::new(Port(1), &key);
        let id = filter(0, 1, ip(), &[]).id;
        if last {
            // A filter has asked what is behind the tag.
            state.decide(id, Field::VlanEthType).unwrap();
        }
        state.vlan(id, Vlan::Pop).unwrap();
        assert_eq!(now(state.view(Field::CvlanId), &key).is_some(), told, "{tags:?} {last}");
        assert_eq!(now(state.view(Field::VlanId), &key), Some(key.get(Field::CvlanId)));
    }
}

#[test]
fn a_packet_without_a_tag_is_asked_no_more_than_that() {
    let modify = vlan(Vlan::Modify { protocol: 0x8100, id: 5, prio: None });
    let a = filter(0, 1, Match::default(), &[modify, output()]);
    for (protocol, bits) in [(0x0800u128, 1), (0x8808, 2)] {
        let key = packet(tcp(H1, 1, H2, 2)).with(Field::Protocol, protocol);
        let (matches, actions) = Case::default().hit(&a).merged(&key).unwrap();
        assert_eq!(actions, [output()]);
        assert_eq!(matches.mask.get(Field::Protocol).count_ones(), bits, "{protocol:#x} {matches:?}");
        for tag in [0x8100, 0x88a8] {
            assert!(!matches.fits(&key.with(Field::Protocol, tag)));
        }
    }
}

#[test]
fn skbedit_that_inherits_reads_the_ip_header() {
    let inherit = Skbedit { inherit_dsfield: true, ..Skbedit::default() };
    let edit = |e| Action::new(ActionKind::Skbedit(e), Control::Pipe);
    let a = filter(0, 1, Match::default().exact(Field::Protocol, 0x800), &[edit(inherit), output()]);
    let whole = packet(tcp(H1, 1, H2, 2));
    let (matches, _) = Case::default().hit(&a).merged(&whole).unwrap();
    assert_eq!(matches.mask.get(Field::AddrType), 0xffff);
    let refusal = Case::default().hit(&a).merged(&whole.with(Field::AddrType, 0)).unwrap_err();
    assert!(matches!(&refusal, Refusal::Unfit { action, .. } if action == "skbedit"), "{refusal}");
    let plain = Skbedit { mark: Some((1, u32::MAX)), ..Skbedit::default() };
    let a = filter(0, 1, Match::default().exact(Field::Protocol, 0x800), &[edit(plain), output()]);
    let (matches, _) = Case::default().hit(&a).merged(&whole).unwrap();
    assert_eq!(matches, a.matches);
}

#[test]
fn the_ip_header_is_found_where_it_was_before_the_tags() {
    let push = || vlan(Vlan::Push { protocol: 0x8100, id: 9, prio: 0 });
    let pop = || vlan(Vlan::Pop);
    let dst = pedit(PeditHeader::Ipv4, 16, [0; 4], H2);
    let two = [(0x88a8, 1), (0x8100, 2)];
    let cases: [(&[_], &[Action], bool); 6] = [
        (&[], &[push(), push(), push()], true),
        (&two[..1], &[push(), push()], true),
        // The kernel looks behind one tag only.
        (&two, &[], false),
        (&two, &[pop()], true),
        (&two, &[push(), pop(), pop()], true),
        (&two, &[push()], false),
    ];
    for (tags, tagging, merges) in cases {
        let a = filter(0, 1, Match::default(), &[tagging, &[dst.clone(), output()]].concat());
        let done = Case::default().hit(&a).merged(&arrived(&frame(tags, false)));
        assert_eq!(done.is_ok(), merges, "{tags:?} {tagging:?} {done:?}");
    }
}
