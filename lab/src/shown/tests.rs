//! What tc 6.1 showed of the filters in `cases` lies in `captured.json`, an entry a line. The test `capture` makes it anew; it wants
//! to run inside:
//!
//! ```text
//! cargo test -p flowmerge-lab --no-run        # names the test's program
//! lab/run -- target/debug/deps/flowmerge_lab-... --ignored capture
//! ```

use super::{cases::*, *};
use crate::{
    case::{self, Case},
    ground::Ground,
};
use flowmerge::flower::{
    Action, ActionKind, Control, Field, Kind, Range,
    action::{
        CsumFlags, Ct, Mpls, MplsEntry, Nat, NatSide, Pedit, PeditHeader, PeditKey, Police, Random, Sample, Skbedit,
        Skbmod, TunnelKey, Vlan,
    },
    tunnel::{Tunnel, TunnelFlags, TunnelOptions},
};
use flowmerge::netlink::encode_front;
use std::{fs, path::Path};

const CAPTURED: &str = include_str!("captured.json");

fn parse_one(json: &str) -> Result<Shown> {
    let mut lists = parse(json)?;
    assert_eq!(lists.len(), 1);
    Ok(lists.remove(0))
}

fn names(port: Port) -> String {
    Devices::random().name_of(port)
}

#[test]
fn what_tc_showed_is_what_we_print() {
    let all = captured();
    for (one, filter) in &all {
        assert_eq!(disagreements(one, filter, &names), [""; 0], "{filter}");
    }
    assert_eq!(parse_one(CAPTURED).unwrap().0.len(), all.len(), "each is looked at");
}

/// All filters, each with what tc showed of it.
fn captured() -> Vec<(One, Filter)> {
    let shown = parse_one(CAPTURED).unwrap();
    let told = told_by_tc().into_iter().map(|(_, filter)| filter);
    filters().into_iter().chain(told).map(|filter| (shown.of(&filter.id).unwrap().clone(), filter)).collect()
}

fn must_differ(one: &One, filter: &Filter, changed: &Filter, what: &str) {
    assert_ne!(filter, changed, "{what} is a change");
    assert!(!disagreements(one, changed, &names).is_empty(), "{what} is not seen:\n{filter}\n{changed}");
}

/// Each comparison lost, with another value, under another mask.
#[test]
fn another_match_is_seen() {
    use Field::*;
    // What tc does not say, or not apart from others: see `terms`.
    let unsaid = [Protocol, AddrType, EncAddrType, VlanTpid, CvlanTpid, Hash, EncSrcPort, L2tpv3Sid, Mpls1];
    // And what Linux 6.1 does not know.
    let later = [L2Miss, CfmLevel, CfmOpcode, Spi, EncFlags];
    let mut seen = BTreeSet::new();
    for (one, filter) in captured() {
        let under_ip = matches!(filter.matches.key.get(EthType) as u16, 0x0800 | 0x86dd);
        for (field, value, mask) in filter.matches.terms() {
            if unsaid.contains(&field) || matches!(field, Ipv4Src | Ipv4Dst) && !under_ip {
                continue;
            }
            seen.insert(field);
            let lowest = mask & mask.wrapping_neg();
            for (value, mask) in [(0, 0), (value ^ lowest, mask), (value & !lowest, mask & !lowest)] {
                let mut changed = filter.clone();
                changed.matches.key.set(field, value);
                changed.matches.mask.set(field, mask);
                must_differ(&one, &filter, &changed, field.name());
            }
        }
        for (field, range) in filter.matches.ranges() {
            for other in
                [None, Some(Range { min: range.min + 1, ..range }), Some(Range { max: range.max - 1, ..range })]
            {
                let mut changed = filter.clone();
                *changed.matches.range_mut(field) = other;
                must_differ(&one, &filter, &changed, "a range");
            }
        }
        let mut more = filter.clone();
        more.matches.set(EthDst, 0x0200_0000_0077, u128::MAX);
        must_differ(&one, &filter, &more, "one more comparison");
    }
    let known = Field::ALL.iter().filter(|field| !unsaid.contains(field) && !later.contains(field));
    assert_eq!(known.filter(|field| !seen.contains(field)).collect::<Vec<_>>(), [&Field::Indev; 0], "not tried");
}

#[test]
fn another_place_or_flag_is_seen() {
    for (one, filter) in captured() {
        let change = |what: &str, by: &dyn Fn(&mut Filter)| {
            let mut changed = filter.clone();
            by(&mut changed);
            must_differ(&one, &filter, &changed, what);
        };
        change("the chain", &|f| f.id.chain += 1);
        change("the priority", &|f| f.id.prio += 1);
        change("the handle", &|f| f.id.handle += 1);
        change("the protocol", &|f| f.id.protocol ^= 0x0100);
        change("the kind", &|f| f.kind = Kind::Other("u32".into()));
        change("skip_hw", &|f| f.skip_hw ^= true);
        change("skip_sw", &|f| f.skip_sw ^= true);
    }
}

#[test]
fn another_list_of_actions_is_seen() {
    for (one, filter) in captured() {
        let change = |what: &str, actions: Vec<Action>| {
            must_differ(&one, &filter, &Filter { actions, ..filter.clone() }, what);
        };
        let all = &filter.actions;
        change("one more", all.iter().cloned().chain([Action::gact(Control::Pipe)]).collect());
        for at in 0..all.len() {
            let with = |action: Action| {
                let mut list = all.clone();
                list[at] = action;
                list
            };
            let action = &all[at];
            change("a lost action", all.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, a)| a.clone()).collect());
            change("the control", with(Action { control: Control::Jump(9), ..action.clone() }));
            change("the cookie", with(Action { cookie: vec![9], ..action.clone() }));
            change("the index", with(Action { index: 9999, ..action.clone() }));
            for kind in other_kinds(&action.kind) {
                change("the action", with(Action { kind, ..action.clone() }));
            }
            if at > 0 && all[at - 1] != *action {
                let mut list = all.clone();
                list.swap(at - 1, at);
                change("exchanged actions", list);
            }
        }
    }
}

/// The same with one thing changed.
fn other_kinds(kind: &ActionKind) -> Vec<ActionKind> {
    fn each<T: Clone>(of: &T, changes: &[&dyn Fn(&mut T)], make: fn(T) -> ActionKind) -> Vec<ActionKind> {
        let changed = changes.iter().map(|change| {
            let mut other = of.clone();
            change(&mut other);
            make(other)
        });
        changed.collect()
    }
    match kind {
        ActionKind::Gact { random: None } => vec![ActionKind::Gact { random: Some(CHANCE) }],
        ActionKind::Gact { random: Some(random) } => {
            let make = |random| ActionKind::Gact { random: Some(random) };
            let mut all = each(random, &[&|r| r.kind ^= 3, &|r| r.value += 1, &|r| r.control = Control::Ok], make);
            all.push(ActionKind::Gact { random: None });
            all
        }
        ActionKind::Mirred(mirred) => {
            each(mirred, &[&|m| m.port.0 += 1, &|m| m.ingress ^= true, &|m| m.mirror ^= true], ActionKind::Mirred)
        }
        ActionKind::Ct(ct) if ct.clear => each(ct, &[&|c| c.clear = false], ActionKind::Ct),
        ActionKind::Ct(ct) => {
            let nat = |c: &mut Ct, change: &dyn Fn(&mut Nat)| match &mut c.nat {
                Some(nat) => change(nat),
                none => *none = Some(Nat::default()),
            };
            let changes: &[&dyn Fn(&mut Ct)] = &[
                &|c| c.zone ^= 1,
                &|c| c.commit ^= true,
                &|c| c.force ^= true,
                &|c| c.clear = true,
                &|c| c.mark = Some(c.mark.map_or((1, 1), |(value, mask)| (value ^ 1, mask))),
                &|c| c.mark = Some(c.mark.map_or((1, 1), |(value, mask)| (value, mask ^ 2))),
                &|c| c.labels = Some(c.labels.map_or((1, 1), |(value, mask)| (value ^ 1, mask))),
                &|c| c.labels = Some(c.labels.map_or((1, 1), |(value, mask)| (value, mask ^ 2))),
                &|c| c.nat = if c.nat.is_some() { None } else { Some(Nat::default()) },
                &|c| {
                    nat(c, &|n| {
                        n.side = if n.side == Some(NatSide::Src) { Some(NatSide::Dst) } else { Some(NatSide::Src) }
                    })
                },
                &|c| nat(c, &|n| n.addresses = Some(([10, 9, 9, 1].into(), [10, 9, 9, 2].into()))),
                &|c| nat(c, &|n| n.ports = Some(n.ports.map_or((1, 1), |(low, high)| (low, high + 1)))),
            ];
            each(ct, changes, ActionKind::Ct)
        }
        ActionKind::Pedit(pedit) => {
            let mut all = Vec::new();
            for at in 0..pedit.keys.len() {
                let changes: &[&dyn Fn(&mut Pedit)] = &[
                    &|p| {
                        p.keys.remove(at);
                    },
                    &|p| p.keys.insert(at, PeditKey { value: [1, 2, 3, 4], mask: [0; 4], ..p.keys[at] }),
                    &|p| p.keys[at].value[3] ^= 1,
                    &|p| p.keys[at].mask[3] ^= 1,
                    &|p| p.keys[at].offset += 4,
                    &|p| p.keys[at].add ^= true,
                    &|p| {
                        p.keys[at].header =
                            if p.keys[at].header == PeditHeader::Tcp { PeditHeader::Udp } else { PeditHeader::Tcp }
                    },
                ];
                all.extend(each(pedit, changes, ActionKind::Pedit));
            }
            // What is written twice ends as the last says.
            let twice =
                pedit.keys.windows(2).position(|two| two[0].offset == two[1].offset && two[0].mask == two[1].mask);
            all.extend(
                twice.into_iter().flat_map(|at| each(pedit, &[&|p| p.keys.swap(at, at + 1)], ActionKind::Pedit)),
            );
            all
        }
        ActionKind::Csum(flags) => CsumFlags::all().iter().map(|flag| ActionKind::Csum(*flags ^ flag)).collect(),
        ActionKind::Vlan(vlan) => {
            let others = [
                Vlan::Pop,
                Vlan::PopEthernet,
                Vlan::Push { protocol: 0x8100, id: 10, prio: 0 },
                Vlan::Push { protocol: 0x8100, id: 11, prio: 0 },
                Vlan::Push { protocol: 0x8100, id: 10, prio: 1 },
                Vlan::Push { protocol: 0x88a8, id: 10, prio: 0 },
                Vlan::Modify { protocol: 0x8100, id: 5, prio: None },
                Vlan::Modify { protocol: 0x8100, id: 5, prio: Some(0) },
                Vlan::Modify { protocol: 0x88a8, id: 5, prio: Some(1) },
                Vlan::PushEthernet { dst: [2, 0, 0, 0, 0, 9], src: [2, 0, 0, 0, 0, 7] },
                Vlan::PushEthernet { dst: [2, 0, 0, 0, 0, 7], src: [2, 0, 0, 0, 0, 8] },
            ];
            others.into_iter().filter(|other| other != vlan).map(ActionKind::Vlan).collect()
        }
        ActionKind::Skbedit(skbedit) => {
            let changes: &[&dyn Fn(&mut Skbedit)] = &[
                &|s| s.queue = Some(s.queue.map_or(0, |queue| queue + 1)),
                &|s| s.priority = Some(s.priority.map_or(0, |priority| priority ^ 1)),
                &|s| s.mark = Some(s.mark.map_or((0, u32::MAX), |(mark, mask)| (mark ^ 1, mask))),
                &|s| s.mark = Some(s.mark.map_or((0, u32::MAX), |(mark, mask)| (mark, mask ^ 2))),
                &|s| s.ptype = Some(s.ptype.map_or(0, |ptype| ptype ^ 1)),
                &|s| s.inherit_dsfield ^= true,
            ];
            each(skbedit, changes, ActionKind::Skbedit)
        }
        ActionKind::Mpls(mpls) => {
            let entries = |entry: MplsEntry| {
                [
                    MplsEntry { label: entry.label.map(|label| label ^ 8), ..entry },
                    MplsEntry { tc: Some(entry.tc.map_or(0, |tc| tc ^ 1)), ..entry },
                    MplsEntry { bos: if entry.bos.is_some() { None } else { Some(true) }, ..entry },
                    MplsEntry { ttl: Some(entry.ttl.map_or(1, |ttl| ttl ^ 2)), ..entry },
                ]
            };
            let mut others = vec![Mpls::DecTtl, Mpls::Pop { protocol: 0x0800 }, Mpls::Pop { protocol: 0x86dd }];
            match *mpls {
                Mpls::Push { protocol, entry } => {
                    others.extend(entries(entry).map(|entry| Mpls::Push { protocol, entry }));
                    others.push(Mpls::PushMac { protocol, entry });
                    others.push(Mpls::Push { protocol: protocol ^ 0xf, entry });
                }
                Mpls::PushMac { protocol, entry } => {
                    others.extend(entries(entry).map(|entry| Mpls::PushMac { protocol, entry }));
                }
                Mpls::Modify(entry) => others.extend(entries(entry).map(Mpls::Modify)),
                Mpls::Pop { .. } | Mpls::DecTtl => {}
            }
            others.into_iter().filter(|other| other != mpls).map(ActionKind::Mpls).collect()
        }
        ActionKind::TunnelKey(TunnelKey::Unset) => vec![],
        ActionKind::TunnelKey(TunnelKey::Set(tunnel)) => {
            let changes: &[&dyn Fn(&mut Tunnel)] = &[
                &|t| t.id = t.id.map_or(Some(0), |id| Some(id ^ 1)),
                &|t| t.id = if t.id.is_some() { None } else { Some(7) },
                &|t| t.src = [10, 0, 0, 9].into(),
                &|t| t.dst = [10, 0, 0, 9].into(),
                &|t| t.dst_port ^= 1,
                &|t| t.tos ^= 4,
                &|t| t.ttl ^= 1,
                &|t| t.flags ^= TunnelFlags::CSUM,
                &|t| t.options = TunnelOptions::Vxlan { gbp: 1 },
                &|t| match &mut t.options {
                    TunnelOptions::Geneve(list) => list[0].data[0] ^= 1,
                    other => *other = TunnelOptions::Gtp { pdu_type: 0, qfi: 0 },
                },
            ];
            let mut all = each(&**tunnel, changes, |tunnel| ActionKind::TunnelKey(TunnelKey::Set(Box::new(tunnel))));
            all.push(ActionKind::TunnelKey(TunnelKey::Unset));
            all
        }
        // Nothing is said of the mask; of a policer's rate in bytes, its bursts and the like neither.
        ActionKind::Nat(nat) => each(nat, &[&|n| n.old ^= 1, &|n| n.new ^= 1, &|n| n.egress ^= true], ActionKind::Nat),
        ActionKind::Police(police) => {
            let changes: &[&dyn Fn(&mut Police)] = &[
                &|p| p.conform = if p.conform == Control::Pipe { Control::Ok } else { Control::Pipe },
                &|p| p.packet_rate += 1000,
                &|p| p.overhead += 1,
                &|p| p.link_layer = if p.link_layer == 2 { 1 } else { 2 },
            ];
            each(police, changes, ActionKind::Police)
        }
        ActionKind::Sample(sample) => {
            let truncate = |s: &mut Sample| s.truncate = Some(s.truncate.map_or(0, |bytes| bytes + 1));
            each(sample, &[&|s| s.rate += 1, &|s| s.group += 1, &truncate], ActionKind::Sample)
        }
        ActionKind::Skbmod(skbmod) => {
            let others = [
                Skbmod::Swap,
                Skbmod::Ecn,
                Skbmod::Set { dst: Some([2, 0, 0, 0, 0, 5]), src: None, ethertype: None },
                Skbmod::Set { dst: Some([2, 0, 0, 0, 0, 5]), src: None, ethertype: Some(0x801) },
                Skbmod::Set { dst: None, src: Some([2, 0, 0, 0, 0, 5]), ethertype: None },
            ];
            others.into_iter().filter(|other| other != skbmod).map(ActionKind::Skbmod).collect()
        }
        ActionKind::Other(_) => vec![],
    }
}

const CHANCE: Random = Random { kind: 2, value: 3, control: Control::Shot };

/// What tc shows and nothing here knows.
#[test]
fn strange_words_are_told() {
    let filter = filters().swap_remove(0);
    let line = CAPTURED.lines().find(|line| line.contains("\"handle\":1,")).unwrap();
    let entry = line.trim_start_matches('[').trim_end_matches([',', ']']).to_owned();
    let told = |entry: &str| {
        let shown = parse_one(&format!("[{entry}]")).unwrap();
        disagreements(shown.of(&filter.id).unwrap(), &filter, &names)
    };
    assert_eq!(told(&entry), [""; 0]);
    for (from, to) in [
        ("\"keys\":{", "\"keys\":{\"l2_miss\":1"),
        ("\"keys\":{", "\"keys\":{\"cfm\":{\"mdl\":1}"),
        ("\"keys\":", "\"classid\":\"1:2\",\"keys\":"),
        ("\"kind\":\"gact\"", "\"kind\":\"gact\",\"no_percpu\":true"),
        ("\"kind\":\"gact\"", "\"kind\":\"police\""),
        ("\"order\":1", "\"order\":2"),
        ("\"type\":\"drop\"", "\"type\":\"drop\",\"chain\":1"),
    ] {
        let other = entry.replacen(from, to, 1);
        assert_ne!(other, entry, "{from} is there");
        assert!(!told(&other).is_empty(), "{to} is not told");
    }
}

#[test]
fn lists_are_read_or_refused() {
    let entry = |options: &str| format!("{{\"protocol\":\"all\",\"pref\":1,\"kind\":\"flower\",\"chain\":0{options}}}");
    let (head, one) = (entry(""), entry(",\"options\":{\"handle\":1,\"keys\":{}}"));
    let id = filters()[0].id;
    let id = FilterId { chain: 0, handle: 1, ..id };
    assert!(parse_one(&format!("[{head}]")).unwrap().of(&id).is_none());
    assert!(parse_one(&format!("[{head},{one}]")).unwrap().of(&id).is_some());
    assert!(parse(&format!("[{head},{one},{one}]")).is_err(), "two of one place");
    assert!(parse(&format!("[{head},{{]")).is_err());
    let several = parse(&format!("[{head},{one}]\n[]\n\n[{one}]\n")).unwrap();
    assert_eq!(several.iter().map(|list| list.of(&id).is_some()).collect::<Vec<_>>(), [true, false, true]);
}

#[test]
#[ignore = "makes captured.json anew, inside the laboratory"]
fn capture() {
    let devices = Devices::random();
    let mut ground = Ground::lay(devices.clone()).unwrap();
    ground.build(&mut Case::default()).unwrap();
    let mut all = filters();
    let answers = ground.ask(all.iter().map(|filter| encode_front(filter, &devices).unwrap()).collect()).unwrap();
    for (filter, answer) in all.iter().zip(answers) {
        assert_eq!(answer, Ok(()), "{filter}");
    }
    // A line about qdiscs says that they are there.
    let mut lines = "qdisc show dev p1\n".to_owned();
    for (line, filter) in told_by_tc() {
        // The handle stands before the classifier.
        lines += &format!("filter add dev p1 ingress chain 9 handle {:#x} {line}\n", filter.id.handle);
        all.push(filter);
    }
    ground.batch(&lines).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/shown/captured.json");
    let shown = show(&devices, &[Hook::Ingress(case::port(1))]).unwrap().expect("tc lives");
    fs::write(path, shown.replace("},{\"protocol\"", "},\n{\"protocol\"")).unwrap();
    assert_eq!(compare(&devices, &all).unwrap().differences, [""; 0]);
}
