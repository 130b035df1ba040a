//! Merged filters against the model: random pipelines and packets, the model as oracle.
//!
//! Each packet is offered to the table of merged filters first. If one matches, the model must have sent the same frames and
//! decided the packet too; else the model's walk is handed to the merger. At the end every action of every filter must have
//! counted what the model counted, in software and through merged filters together.

use flowmerge::{
    conntrack::{Connection, ConnectionId, Direction, TcpState, Tuple, proto},
    flower::{
        Action, ActionKind, Capabilities, Control, Cookie, Field, Filter, FilterId, Hook, Kind, Match, Port, Range,
        action::{CsumFlags, Ct, Mirred, Nat, Pedit, PeditHeader, PeditKey, Vlan},
        field::ct_state,
    },
    hardware::Memory,
    merger::{ConnectionEvent, Merger},
    table::Inserted,
    walk::{Found, Hit, Walk},
};
use merge_model::{
    Model, PortState, Verdict, checksum,
    conntrack::{Conntrack, EntryId, Info, Shown, Tracked},
};
use proptest::prelude::*;
use std::collections::HashMap;

const IN: Port = Port(1);

/// A tracker that knows established connections, and takes everything else for invalid.
struct Established {
    connections: Vec<Connection>,
}

impl Conntrack for Established {
    fn track(&mut self, zone: u16, shown: &Shown) -> Tracked {
        for (i, c) in self.connections.iter().enumerate().filter(|(_, c)| c.zone == zone) {
            for (tuple, info) in [(c.original, Info::Established), (c.reply, Info::EstablishedReply)] {
                if tuple == shown.tuple {
                    return Tracked::Entry(EntryId(i as u64), info);
                }
            }
        }
        Tracked::Invalid
    }
    fn connection(&self, entry: EntryId) -> &Connection {
        &self.connections[entry.0 as usize]
    }
    fn is_confirmed(&self, _: EntryId) -> bool {
        true
    }
    fn translate(&mut self, _: EntryId, _: &Nat) {}
    fn commit(&mut self, _: EntryId, _: Option<(u32, u32)>, _: Option<(u128, u128)>) -> bool {
        true
    }
    fn kill(&mut self, _: EntryId) {}
}

fn connections() -> Vec<Connection> {
    let host = |n: u8| [10, 0, 0, n].into();
    let tuple = |proto, src, src_port, dst, dst_port| Tuple {
        src: host(src),
        dst: host(dst),
        proto,
        src_port,
        dst_port,
    };
    let mut out = Vec::new();
    for zone in [5, 6] {
        for proto in [proto::TCP, proto::UDP] {
            for (original, inside) in [
                (tuple(proto, 1, 1000, 2, 80), tuple(proto, 1, 1000, 2, 80)),
                (tuple(proto, 1, 1001, 2, 80), tuple(proto, 1, 1001, 3, 8000)),
                (tuple(proto, 3, 1000, 2, 80), tuple(proto, 1, 1002, 2, 80)),
                (tuple(proto, 3, 1001, 2, 8000), tuple(proto, 1, 1003, 3, 80)),
            ] {
                out.push(Connection {
                    zone,
                    original,
                    reply: inside.inverse(),
                    tcp: (proto == proto::TCP).then_some(TcpState::Established),
                    seen_reply: true,
                    assured: true,
                    expected: false,
                    helper: false,
                    seqadj: false,
                    mark: u32::from(original.src_port),
                    labels: 0x10,
                });
            }
        }
    }
    // The same tuple must not stand twice in a zone.
    let mut seen = std::collections::HashSet::new();
    out.retain(|c| seen.insert((c.zone, c.original)) && seen.insert((c.zone, c.reply)));
    out
}

#[derive(Clone, Debug)]
struct Packet {
    tag: Option<u16>,
    proto: u8,
    src: u8,
    dst: u8,
    src_port: u16,
    dst_port: u16,
    ttl: u8,
    tos: u8,
    flags: u8,
    payload: u8,
    pad: u8,
}

impl Packet {
    fn frame(&self) -> Vec<u8> {
        let mut l4 = [self.src_port.to_be_bytes(), self.dst_port.to_be_bytes()].concat();
        let length = self.payload as u16;
        match self.proto {
            proto::TCP => l4.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, self.flags, 0, 9, 0, 0, 0, 0]),
            _ => l4.extend([(8 + length).to_be_bytes(), [0, 0]].concat()),
        }
        l4.extend((0..self.payload).collect::<Vec<_>>());
        let (src, dst) = ([10, 0, 0, self.src], [10, 0, 0, self.dst]);
        let at = if self.proto == proto::TCP { 16 } else { 6 };
        let pseudo = checksum::pseudo(src.into(), dst.into(), self.proto, l4.len());
        let check = !checksum::fold(checksum::sum(&l4, pseudo));
        l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
        let mut ip = vec![0x45, self.tos, 0, 0, 0x12, 0x34, 0x40, 0, self.ttl, self.proto, 0, 0];
        ip.extend([src, dst].concat());
        ip[2..4].copy_from_slice(&((20 + l4.len()) as u16).to_be_bytes());
        let check = !checksum::fold(checksum::sum(&ip, 0));
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        let mut out = vec![2, 0, 0, 0, 0, self.dst, 2, 0, 0, 0, 0, self.src];
        if let Some(tag) = self.tag {
            out.extend([[0x81, 0], tag.to_be_bytes()].concat());
        }
        out.extend([8, 0]);
        out.extend(ip);
        out.extend(l4);
        out.extend(vec![0; self.pad as usize]);
        out
    }
}

fn packet() -> impl Strategy<Value = Packet> {
    let port = prop_oneof![Just(80u16), Just(1000), Just(1001), Just(1002), Just(8000)];
    let tag = prop_oneof![3 => Just(None), 1 => prop_oneof![Just(10u16), Just(0x600a), Just(20)].prop_map(Some)];
    let flags = prop_oneof![4 => Just(0x10u8), 2 => Just(0x18), 1 => Just(2), 1 => Just(0x11)];
    let l4 = prop_oneof![2 => Just(proto::TCP), 1 => Just(proto::UDP)];
    (
        tag,
        l4,
        1u8..4,
        1u8..4,
        port.clone(),
        port,
        1u8..4,
        prop_oneof![Just(0u8), Just(4)],
        flags,
        0u8..12,
        0u8..3,
    )
        .prop_map(
            |(tag, proto, src, dst, src_port, dst_port, ttl, tos, flags, payload, pad)| Packet {
                tag,
                proto,
                src,
                dst,
                src_port,
                dst_port,
                ttl,
                tos,
                flags,
                payload,
                pad,
            },
        )
}

/// One comparison of a filter.
fn term() -> impl Strategy<Value = fn(&mut Match, u128)> {
    let terms: [fn(&mut Match, u128); 14] = [
        |m, v| m.set(Field::Ipv4Dst, 0x0a000000 | v & 3, u128::MAX),
        |m, v| m.set(Field::Ipv4Dst, v & 3, 1 << (v & 1)),
        |m, v| m.set(Field::Ipv4Src, 0x0a000000 | v & 3, u128::MAX),
        |m, v| m.set(Field::IpTtl, v & 3, 0xff),
        |m, v| m.set(Field::IpTtl, v & 3, v >> 2 & 7),
        |m, v| m.set(Field::IpTos, v & 4, 4),
        |m, v| m.set(Field::IpProto, if v & 1 == 0 { 6 } else { 17 }, 0xff),
        |m, v| {
            m.set(
                Field::DstPort,
                [80, 8000, 1000, 1001][v as usize & 3],
                [0xffff, 0xff, 0xffff, 8][v as usize >> 2 & 3],
            )
        },
        |m, v| m.set(Field::SrcPort, [80, 1000, 1001, 1002][v as usize & 3], u128::MAX),
        |m, v| {
            m.dst_range = Some(Range {
                min: (v as u16 & 3) * 100,
                max: 900 + (v as u16 >> 2) * 20,
            })
        },
        |m, v| m.set(Field::TcpFlags, v, 0x8 | v & 0x10),
        |m, v| m.set(Field::EthDst, v & 3, 3),
        |m, v| m.set(Field::CtMark, 1000 + (v & 1), if v & 2 == 0 { 0xffff } else { 1 }),
        |m, v| m.set(Field::CtZone, 5 + (v & 1), u128::MAX),
    ];
    prop::sample::select(terms.to_vec())
}

fn matches(tagged: bool, chain: u32) -> impl Strategy<Value = Match> {
    let states = vec![
        (0, 0),
        (0, 0),
        (
            ct_state::TRACKED | ct_state::ESTABLISHED,
            ct_state::TRACKED | ct_state::ESTABLISHED,
        ),
        (ct_state::ESTABLISHED, ct_state::ESTABLISHED | ct_state::REPLY),
        (ct_state::REPLY, ct_state::REPLY),
        (0, ct_state::TRACKED),
    ];
    let state = prop::sample::select(if chain == 0 { vec![(0, 0)] } else { states });
    (prop::collection::vec((term(), any::<u8>()), 0..3), state, any::<u8>()).prop_map(move |(terms, state, id)| {
        let protocol = if tagged { 0x8100 } else { 0x800 };
        let mut m = Match::default().exact(Field::Protocol, protocol);
        if tagged {
            m.set(Field::VlanTpid, 0x8100, 0xffff);
            if id & 1 == 0 {
                m.set(Field::VlanId, if id & 2 == 0 { 10 } else { 20 }, 0xfff);
            }
            if id & 4 == 0 {
                return m;
            }
            m.set(Field::VlanEthType, 0x800, 0xffff);
        }
        m.set(Field::EthType, 0x800, 0xffff);
        for (term, value) in terms {
            term(&mut m, value as u128);
        }
        // As flower wants it: ports need a protocol, addresses their kind.
        if [Field::SrcPort, Field::DstPort].iter().any(|&f| m.mask.get(f) != 0) || m.dst_range.is_some() {
            let proto = m.key.get(Field::IpProto).max(6);
            m.set(Field::IpProto, proto, 0xff);
        }
        if m.mask.get(Field::TcpFlags) != 0 {
            m.set(Field::IpProto, 6, 0xff);
        }
        if [Field::Ipv4Src, Field::Ipv4Dst].iter().any(|&f| m.mask.get(f) != 0) {
            m.set(Field::AddrType, 2, 0xffff);
        }
        m.set(Field::CtState, state.0, state.1);
        m
    })
}

fn key(header: PeditHeader, offset: i32, mask: [u8; 4], value: [u8; 4], add: bool) -> ActionKind {
    let keys = vec![PeditKey {
        header,
        offset,
        mask,
        value,
        add,
        dynamic: None,
    }];
    ActionKind::Pedit(Pedit { keys, mend: false })
}

fn middle() -> impl Strategy<Value = ActionKind> {
    let ct = (5u16..7, any::<bool>(), 0u8..8).prop_map(|(zone, nat, clear)| {
        ActionKind::Ct(Ct {
            zone,
            nat: nat.then(Nat::default),
            clear: clear == 0,
            ..Ct::default()
        })
    });
    let l3 = any::<[u8; 2]>().prop_map(|[v, what]| match what % 6 {
        0 => key(PeditHeader::Ipv4, 16, [0; 4], [10, 0, 0, v % 4], false),
        1 => key(
            PeditHeader::Ipv4,
            16,
            [0xff, 0xff, 0xff, 0xfc | v],
            [0, 0, 0, v & 3],
            false,
        ),
        2 => key(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [255, 0, 0, 0], true),
        3 => key(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [v % 4, 0, 0, 0], false),
        4 => key(PeditHeader::Ethernet, 0, [0; 4], [2, 0, 0, v], false),
        _ => key(PeditHeader::Ipv4, 4, [0, 0, 0xff, 0xff], [v, what, 0, 0], false),
    });
    let l4 = any::<[u8; 2]>().prop_map(|[v, what]| {
        let header = if what & 1 == 0 {
            PeditHeader::Tcp
        } else {
            PeditHeader::Udp
        };
        let port = [80u16, 8000, 1000, 1001][v as usize & 3].to_be_bytes();
        match what & 2 {
            0 => key(header, 0, [0, 0, 0xff, 0xff], [port[0], port[1], 0, 0], false),
            _ => key(header, 0, [0xff, 0xff, 0, 0], [0, 0, port[0], port[1]], false),
        }
    });
    let csum = (0u32..32).prop_map(|bits| ActionKind::Csum(CsumFlags::from_bits_truncate(bits)));
    let vlan = (0u8..4, any::<bool>()).prop_map(|(what, first)| {
        let id = if first { 10 } else { 20 };
        ActionKind::Vlan(match what {
            0 | 1 => Vlan::Pop,
            2 => Vlan::Push {
                protocol: 0x8100,
                id,
                prio: 2,
            },
            _ => Vlan::Modify {
                protocol: 0x8100,
                id,
                prio: first.then_some(5),
            },
        })
    });
    let mirror = (2u32..4).prop_map(|p| {
        ActionKind::Mirred(Mirred {
            port: Port(p),
            ingress: false,
            mirror: true,
        })
    });
    prop_oneof![4 => ct, 3 => l3, 2 => l4, 2 => csum, 1 => vlan, 1 => mirror]
}

fn filters() -> impl Strategy<Value = Vec<Filter>> {
    let end = |chain: u32| {
        prop_oneof![
            5 => (1u32..3).prop_map(move |more| Control::Goto(chain + more)),
            3 => Just(Control::Stolen),
            1 => Just(Control::Shot),
            1 => Just(Control::Ok),
            1 => Just(Control::Continue),
        ]
    };
    let one = (0u32..3, prop::bool::weighted(0.2)).prop_flat_map(move |(chain, tagged)| {
        let actions = prop::collection::vec(middle(), 0..3);
        (
            Just(chain),
            Just(tagged),
            1u16..4,
            matches(tagged, chain),
            actions,
            end(chain),
        )
    });
    prop::collection::vec(one, 1..9).prop_map(|all| {
        let mut out: Vec<Filter> = Vec::new();
        for (i, (chain, tagged, prio, matches, middle, end)) in all.into_iter().enumerate() {
            // A priority of a chain holds one protocol.
            let (prio, protocol) = if tagged { (prio + 3, 0x8100) } else { (prio, 0x800) };
            let id = FilterId {
                hook: Hook::Ingress(IN),
                chain,
                prio,
                protocol,
                handle: i as u32 + 1,
            };
            // Nor two filters of the same match.
            if out
                .iter()
                .any(|f| (f.id.chain, f.id.prio, f.matches) == (chain, prio, matches))
            {
                continue;
            }
            let output = ActionKind::Mirred(Mirred {
                port: Port(2),
                ingress: false,
                mirror: false,
            });
            let last = if end == Control::Stolen {
                output
            } else {
                ActionKind::Gact { random: None }
            };
            let middle = middle.into_iter().map(|kind| (kind, Control::Pipe));
            let actions = middle
                .chain([(last, end)])
                .map(|(kind, control)| Action {
                    kind,
                    control,
                    index: 0,
                    cookie: Vec::new(),
                })
                .collect();
            out.push(Filter {
                id,
                kind: Kind::Flower,
                matches,
                actions,
                skip_sw: false,
                skip_hw: false,
                undecoded: Vec::new(),
            });
        }
        out
    })
}

/// Runs the packets; gives how many were handled by merged filters, and how many walks were refused.
fn run(filters: &[Filter], packets: &[Packet]) -> Result<(usize, usize), TestCaseError> {
    let mut model = Model::new();
    let mut merger = Merger::new(Memory::new(Capabilities::all()));
    for port in 1..5 {
        model.set_port(Port(port), PortState { up: true, mtu: 1500 });
    }
    let mut tracker = Established {
        connections: connections(),
    };
    for (i, c) in tracker.connections.iter().enumerate() {
        merger
            .connection(ConnectionEvent::Is(ConnectionId(i as u64), c.clone()))
            .expect("memory removes");
    }
    let mut cookies = HashMap::new();
    for (i, filter) in filters.iter().enumerate() {
        model.filters.replace(filter.clone());
        merger
            .replace(Cookie(i as u64), filter.clone(), Inserted::Observed)
            .expect("memory removes");
        cookies.insert(filter.id, Cookie(i as u64));
    }
    let mut counted: HashMap<(FilterId, usize), (u64, u64)> = HashMap::new();
    let mut software = counted.clone();
    let (mut handled, mut refused) = (0, 0);
    for (now, packet) in packets.iter().enumerate() {
        let frame = packet.frame();
        let outcome = model.receive(IN, &frame, now as u64, &mut tracker);
        let sent: Vec<_> = outcome
            .sent
            .iter()
            .map(|s| (s.port, s.ingress, s.frame.clone()))
            .collect();
        let add = |to: &mut HashMap<(FilterId, usize), (u64, u64)>| {
            for c in &outcome.counted {
                let entry = to.entry((c.filter, c.action)).or_default();
                *entry = (entry.0 + 1, entry.1 + c.bytes);
            }
        };
        add(&mut counted);
        let decided = matches!(outcome.verdict, Verdict::Decided(_));
        if let Some(h) = merger.hardware().receive(IN, &frame, now as u64) {
            handled += 1;
            let entry = merger.hardware().entries().find(|e| e.id == h.id).cloned();
            prop_assert!(decided, "{packet:?} handled by {entry:#?} but {:?}", outcome.verdict);
            let got: Vec<_> = h.sent.into_iter().map(|s| (s.port, s.ingress, s.frame)).collect();
            prop_assert_eq!(got, sent, "{:?} {:#?} {:#?}", packet, entry, outcome.hits);
            continue;
        }
        add(&mut software);
        if !decided {
            continue;
        }
        let hits = outcome.hits.iter().map(|h| Hit {
            filter: cookies[&h.filter],
            found: h
                .found
                .iter()
                .map(|f| {
                    f.map(|f| Found {
                        connection: ConnectionId(f.entry.0),
                        direction: f.direction,
                    })
                })
                .collect(),
        });
        merger
            .walk(Walk {
                port: IN,
                key: outcome.key,
                hits: hits.collect(),
            })
            .expect("the queue is long");
        let merged = merger.drain().walks.pop().expect("one walk").1;
        match merged {
            Ok(merge) => {
                prop_assert!(
                    merge.installed,
                    "{packet:?} was not handled by what it is said to match"
                );
                let id = merger.hardware().lookup(IN, &outcome.key);
                prop_assert!(id.is_some(), "{packet:?} does not match what was merged from it");
            }
            Err(refusal) => {
                refused += 1;
                let expected = !matches!(
                    refusal.reason(),
                    "unknown-filter" | "unknown-connection" | "broken" | "stale"
                );
                prop_assert!(expected, "{packet:?}: {refusal}");
            }
        }
    }
    let overlaps = merger.hardware().overlaps();
    prop_assert!(overlaps.is_empty(), "{overlaps:?}");
    for filter in filters {
        let merged = merger.stats(cookies[&filter.id]);
        for (i, m) in merged.iter().enumerate() {
            let at = (filter.id, i);
            let (packets, bytes) = software.get(&at).copied().unwrap_or_default();
            let want = counted.get(&at).copied().unwrap_or_default();
            prop_assert_eq!(
                (packets + m.packets, bytes + m.bytes),
                want,
                "{} action {}",
                filter.id,
                i
            );
        }
    }
    Ok((handled, refused))
}

/// Packets that matter: those of the connections, in both directions, and any others.
fn packets() -> impl Strategy<Value = Vec<Packet>> {
    let known = (0..connections().len(), any::<bool>(), packet()).prop_map(|(i, reply, p)| {
        let all = connections();
        let c = &all[i];
        let t = c.tuple(if reply { Direction::Reply } else { Direction::Original });
        let last = |a: std::net::IpAddr| match a {
            std::net::IpAddr::V4(a) => a.octets()[3],
            _ => 0,
        };
        let (src, dst) = (last(t.src), last(t.dst));
        Packet {
            proto: t.proto,
            src,
            dst,
            src_port: t.src_port,
            dst_port: t.dst_port,
            ..p
        }
    });
    prop::collection::vec(prop_oneof![2 => known, 1 => packet()], 40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn a_merged_filter_does_what_its_walk_did(filters in filters(), packets in packets()) {
        run(&filters, &packets)?;
    }
}

/// The property must not hold for want of merging.
#[test]
fn the_generators_reach_merged_filters() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut handled, mut refused, mut all) = (0, 0, 0);
    for _ in 0..300 {
        let filters = filters().new_tree(&mut runner).expect("a pipeline").current();
        let packets = packets().new_tree(&mut runner).expect("packets").current();
        let (h, r) = run(&filters, &packets).expect("the property");
        (handled, refused, all) = (handled + h, refused + r, all + packets.len());
    }
    println!("{all} packets: {handled} handled by merged filters, {refused} walks refused");
    assert!(handled * 20 > all, "{handled} of {all}");
}
