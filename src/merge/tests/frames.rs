//! A program sends the frames that the same steps send one by one: random steps, executed on bytes.

use super::*;
use crate::{
    flower::{
        action::{Mpls, MplsEntry, TunnelKey},
        tunnel::{Tunnel, TunnelFlags, TunnelOptions},
    },
    merge::{
        program::{self, Builder, To},
        symbol::{Param, Part},
    },
    packet::apply::{Applied, End, Trim, apply},
};
use proptest::prelude::*;

/// What happens to the packet.
#[derive(Clone, Debug)]
enum Step {
    Key(PeditKey, bool),
    Csum(CsumFlags),
    Translate(usize),
    /// Some bits only, as the stateless `nat` does.
    Partly(usize, u32),
    Label(Mpls),
    Tunnel(TunnelKey),
    Pop,
    Push(u16),
    Modify(u16, Option<u8>),
    Send(bool),
}

/// A field that NAT translates, what to, and the word of that: header, offset, mask, value.
type Translated = (Field, Part, PeditHeader, i32, [u8; 4], [u8; 4]);
const NAT: [Translated; 4] = [
    (Field::Ipv4Src, Part::NewSrc, PeditHeader::Ipv4, 12, [0; 4], [10, 9, 9, 1]),
    (Field::Ipv4Dst, Part::NewDst, PeditHeader::Ipv4, 16, [0; 4], [10, 9, 9, 2]),
    (Field::SrcPort, Part::NewSrcPort, PeditHeader::Tcp, 0, [0, 0, 0xff, 0xff], [0x12, 0x34, 0, 0]),
    (Field::DstPort, Part::NewDstPort, PeditHeader::Tcp, 0, [0xff, 0xff, 0, 0], [0, 0, 0x56, 0x78]),
];

fn connection(proto: u8) -> Connection {
    let original = Tuple { proto, ..tcp(H1, 1, H2, 2) };
    let translated = Tuple { proto, ..tcp([10, 9, 9, 1], 0x1234, [10, 9, 9, 2], 0x5678) };
    Connection::established(1, original, translated.inverse())
}

fn step() -> impl Strategy<Value = Step> {
    use PeditHeader::{Ethernet, Ipv4, Tcp};
    let places = vec![
        (Ethernet, 0),
        (Ethernet, 4),
        (Ethernet, 8),
        (Ipv4, 8),
        (Ipv4, 12),
        (Ipv4, 16),
        (Tcp, 0),
        (Tcp, 4),
        (Tcp, 12),
        (Tcp, 16),
    ];
    let byte = || prop_oneof![3 => Just(0xffu8), 3 => Just(0), 1 => any::<u8>()];
    let key = (prop::sample::select(places), [byte(), byte(), byte(), byte()], any::<[u8; 4]>(), 0u8..12).prop_map(
        |((header, offset), mut mask, mut value, what)| {
            if (header, offset) == (Ipv4, 8) {
                // Not the protocol; the checksum only now and then.
                mask[1] = 0xff;
                if what & 1 == 0 {
                    mask[2..].fill(0xff);
                }
            }
            if what & 2 == 0 {
                value = std::array::from_fn(|i| value[i] & !mask[i]);
            } else if (header, offset) == (Ipv4, 8) {
                value[1] = 0;
            }
            let key = PeditKey { header, offset, mask, value, add: what == 11, dynamic: None };
            // Nothing mends a checksum for a write to the checksum.
            Step::Key(key, what == 9 && !matches!((header, offset), (Ipv4, 8) | (Tcp, 16)))
        },
    );
    let flags = || [CsumFlags::IPV4, CsumFlags::TCP, CsumFlags::UDP];
    prop_oneof![
        5 => key,
        2 => prop::sample::subsequence(flags().to_vec(), 1..4).prop_map(|f| Step::Csum(f.into_iter().collect())),
        3 => (0usize..4).prop_map(Step::Translate),
        2 => (0usize..2, prop_oneof![Just(u32::MAX), any::<u32>()]).prop_map(|(i, mask)| Step::Partly(i, mask)),
        2 => label().prop_map(Step::Label),
        1 => prop_oneof![Just(TunnelKey::Unset), (1u32..4).prop_map(through)].prop_map(Step::Tunnel),
        1 => Just(Step::Pop),
        1 => (1u16..9).prop_map(Step::Push),
        1 => (1u16..9, prop::option::of(0u8..8)).prop_map(|(id, prio)| Step::Modify(id, prio)),
        2 => any::<bool>().prop_map(Step::Send),
    ]
}

fn label() -> impl Strategy<Value = Mpls> {
    let entry = (0u32..9, prop::option::of(1u8..4)).prop_map(|(label, ttl)| MplsEntry {
        label: Some(label),
        ttl,
        ..MplsEntry::default()
    });
    prop_oneof![
        3 => entry.clone().prop_map(|entry| Mpls::Push { protocol: 0x8847, entry }),
        2 => Just(Mpls::Pop { protocol: 0x8847 }),
        1 => entry.prop_map(Mpls::Modify),
        1 => Just(Mpls::DecTtl),
    ]
}

pub(super) fn through(id: u32) -> TunnelKey {
    let (src, dst) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
    let (flags, options) = (TunnelFlags::CSUM, TunnelOptions::None);
    TunnelKey::Set(Box::new(Tunnel {
        id: Some(id),
        src,
        dst,
        src_port: 0,
        dst_port: 4789,
        tos: 0,
        ttl: 0,
        flags,
        options,
    }))
}

/// A frame with right checksums.
fn frame(proto: u8, tag: Option<u16>) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    f.extend(tag.into_iter().flat_map(|tci| [0x81, 0, (tci >> 8) as u8, tci as u8]));
    f.extend([8, 0, 0x45, 0, 0, 60, 0, 1, 0x40, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    match proto {
        6 => f.extend([0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0, 9, 0, 0, 0, 0]),
        _ => f.extend([0, 1, 0, 2, 0, 40, 0, 1]),
    }
    while f.len() < 14 + 60 + tag.map_or(0, |_| 4) {
        f.push(f.len() as u8);
    }
    let csum = Action::new(ActionKind::Csum(CsumFlags::IPV4 | CsumFlags::TCP | CsumFlags::UDP), Control::Pipe);
    match apply(&[csum], Trim::Never, &f).expect("supported").end {
        End::Passed(right) => right,
        other => panic!("{other:?}"),
    }
}

/// The frames sent, and what is left for the CPU.
type Left = (Vec<(Port, Vec<u8>, Option<Tunnel>)>, Option<Vec<u8>>);

/// Mending and computing anew may leave the other one of the two zeros.
fn with_one_zero(applied: Applied) -> Left {
    let normal = |mut f: Vec<u8>| {
        let tags = (12..f.len()).step_by(4).take_while(|&i| f[i..i + 2] == [0x81, 0]).count();
        let mut ip = 14 + 4 * tags;
        if f[ip - 2..ip] == [0x88, 0x47] {
            let labels = (ip..f.len()).step_by(4).take_while(|&i| f[i + 2] & 1 == 0).count();
            ip += 4 * (labels + 1);
        }
        for at in [ip + 10, ip + 20 + if f[ip + 9] == 6 { 16 } else { 6 }] {
            if f[at..at + 2] == [0xff, 0xff] {
                f[at..at + 2].fill(0);
            }
        }
        f
    };
    let end = match applied.end {
        End::Passed(frame) | End::Trapped(frame) => Some(normal(frame)),
        End::Taken | End::Dropped => None,
    };
    (applied.sent.into_iter().map(|s| (s.port, normal(s.frame), s.tunnel)).collect(), end)
}

proptest! {
    #![proptest_config(cases(1500))]
    #[test]
    fn the_fewest_actions_send_the_same_frames(
        steps in prop::collection::vec(step(), 1..12),
        udp in any::<bool>(),
        tag in prop::option::of(0u16..0xffff),
        end in prop::sample::select(vec![Control::Shot, Control::Ok, Control::Trap]),
    ) {
        let proto = if udp { 17 } else { 6 };
        let c = connection(proto);
        let l4 = |key: PeditKey| match key.header {
            PeditHeader::Tcp if udp => PeditKey { header: PeditHeader::Udp, ..key },
            _ => key,
        };
        let mut builder = Builder::default();
        let mut one_by_one = Vec::new();
        let mut tags = usize::from(tag.is_some());
        let mut labels = Vec::new();
        for step in steps {
            let kind = match step {
                // UDP's lengths decide what `csum` does, and behind its header is payload.
                // What writes to headers behind a label, or to those that label hides, is refused.
                Step::Key(key, _) if !labels.is_empty() && key.header != PeditHeader::Ethernet => continue,
                Step::Csum(_) | Step::Translate(_) | Step::Partly(..) if !labels.is_empty() => continue,
                Step::Label(Mpls::Pop { .. } | Mpls::Modify(_)) if labels.is_empty() => continue,
                Step::Label(Mpls::DecTtl) if labels.last().is_none_or(|&ttl| ttl == 1) => continue,
                Step::Label(mpls) => {
                    let ttl = |entry: MplsEntry| entry.ttl.unwrap_or(0);
                    let mpls = match mpls {
                        Mpls::Push { entry, .. } => {
                            labels.push(ttl(entry));
                            mpls
                        }
                        Mpls::Pop { protocol } => {
                            labels.pop();
                            Mpls::Pop { protocol: if labels.is_empty() { 0x800 } else { protocol } }
                        }
                        Mpls::Modify(entry) => {
                            let top = labels.last_mut().expect("there is one");
                            *top = entry.ttl.unwrap_or(*top);
                            mpls
                        }
                        _ => {
                            let top = labels.last_mut().expect("there is one");
                            *top = top.wrapping_sub(1);
                            mpls
                        }
                    };
                    match mpls {
                        Mpls::Pop { protocol } => builder.unlabel(protocol),
                        _ => builder.reshape(ActionKind::Mpls(mpls)),
                    }
                    ActionKind::Mpls(mpls)
                }
                Step::Tunnel(key) => {
                    builder.tunnel(key.clone());
                    ActionKind::TunnelKey(key)
                }
                Step::Partly(i, bits) => {
                    let (field, _, header, offset, _, value) = NAT[i];
                    let value = std::array::from_fn(|n| value[n] & bits.to_be_bytes()[n]);
                    let covered = if udp { CsumFlags::UDP } else { CsumFlags::TCP };
                    let known = u32::from_be_bytes(value);
                    builder.translate(field, To::Known { mask: bits, value: known, covered });
                    let mask = (!bits).to_be_bytes();
                    let key = PeditKey { header, offset, mask, value, add: false, dynamic: None };
                    ActionKind::Pedit(Pedit { keys: vec![key], mend: true })
                }
                Step::Key(key, _) if udp && key.header == PeditHeader::Tcp && key.offset != 0 => continue,
                Step::Key(key, mend) => {
                    let (key, mend) = (l4(key), mend && !key.add);
                    builder.rewrite(key, mend);
                    ActionKind::Pedit(Pedit { keys: vec![key], mend })
                }
                Step::Csum(flags) => {
                    builder.checksum(flags);
                    ActionKind::Csum(flags)
                }
                Step::Translate(i) => {
                    let (field, part, header, offset, mask, value) = NAT[i];
                    builder.translate(field, To::Param(Param { connection: 0, direction: Direction::Original, part }));
                    let key = l4(PeditKey { header, offset, mask, value, add: false, dynamic: None });
                    ActionKind::Pedit(Pedit { keys: vec![key], mend: true })
                }
                Step::Pop | Step::Modify(..) if tags == 0 => continue,
                Step::Pop => {
                    tags -= 1;
                    builder.pop();
                    ActionKind::Vlan(Vlan::Pop)
                }
                Step::Push(id) => {
                    tags += 1;
                    builder.push(0x8100, id, 3);
                    ActionKind::Vlan(Vlan::Push { protocol: 0x8100, id, prio: 3 })
                }
                Step::Modify(id, prio) => {
                    builder.modify(0x8100, id, prio);
                    ActionKind::Vlan(Vlan::Modify { protocol: 0x8100, id, prio })
                }
                Step::Send(far) => {
                    let port = if far { Port(3) } else { OUT };
                    builder.send(port, false);
                    ActionKind::Mirred(Mirred { port, ingress: false, mirror: true })
                }
            };
            one_by_one.push(Action::new(kind, Control::Pipe));
        }
        one_by_one.push(Action::gact(end));
        let frame = frame(proto, tag);
        let want = apply(&one_by_one, Trim::Never, &frame).expect("supported");
        let program = builder.finish(end);
        let run = |mend| apply(&program::actions(&program, &[&c], mend).0, Trim::Never, &frame).expect("supported");
        let got = run(true);
        prop_assert_eq!(&got.sent, &want.sent);
        prop_assert_eq!(with_one_zero(got), with_one_zero(want.clone()));
        let few = program::actions(&program, &[&c], true).0;
        prop_assert!(few.len() <= one_by_one.len(), "{few:?}");
        let mends = |a: &Action| matches!(&a.kind, ActionKind::Pedit(p) if p.mend);
        if !program.must_mend() && !program::actions(&program, &[&c], false).0.iter().any(mends) {
            prop_assert_eq!(with_one_zero(run(false)), with_one_zero(want));
        }
    }
}
