//! Edits of a run, for the fuzzer: each a few bytes of the input.

use crate::{
    connections::host,
    events::Case,
    packet::{Flaw, Fragment, L3, OPTION, Outer, Packet},
    packets::{IN, INNER},
    rule::Rule,
    world::Event,
};
use flowmerge::flower::{
    Action, ActionKind, Control, Field, Filter, Hook, Key as KeyOf, Match, Port, Range,
    action::{
        CsumFlags, Ct, Mirred, Mpls, MplsEntry, Nat, NatSide, Pedit, PeditDynamic, PeditHeader, PeditKey, Police,
        Sample, Skbedit, Skbmod, StatelessNat, TunnelKey, Vlan,
    },
    tunnel::{Erspan, GeneveOption, Tunnel, TunnelFlags, TunnelOptions},
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};

/// What the fuzzer's bytes say.
#[derive(Debug, Arbitrary)]
pub struct Input {
    pub seed: u16,
    pub edits: Vec<Edit>,
}

/// Which of a list, counted round.
type Index = u8;

/// One change of a run.
#[derive(Debug, Arbitrary)]
pub enum Edit {
    /// A filter compares a field, mostly with what a packet has there.
    Compare { filter: Index, packet: Index, field: Index, mask: Mask, flip: u8 },
    /// It compares a field no more.
    Free { filter: Index, field: Index },
    /// It compares a range of ports, around what a packet has.
    Range { filter: Index, packet: Index, dst: bool, below: u8, above: u8 },
    /// One more action.
    Act { filter: Index, at: Index, action: Act },
    /// One less.
    Omit { filter: Index, at: Index },
    /// An action's control.
    Control { filter: Index, at: Index, control: Index, n: u8 },
    /// Where a filter is.
    Place { filter: Index, chain: u8, prio: u8 },
    /// A filter like another.
    Copy { filter: Index, chain: u8, prio: u8 },
    /// One filter less.
    Without { filter: Index },
    /// A packet is otherwise.
    Packet { event: Index, change: Change },
    /// An event happens once more.
    Again { event: Index, at: Index },
    /// Only so many events happen.
    Until { events: u8 },
}

/// Which bits are compared.
#[derive(Debug, Arbitrary)]
pub enum Mask {
    All,
    Bit(u8),
    Prefix(u8),
    Any(u128),
}

impl Mask {
    fn of(&self, field: Field) -> u128 {
        let width = u32::from(field.row().bits);
        match *self {
            Mask::All => field.ones(),
            Mask::Bit(bit) => 1 << (u32::from(bit) % width),
            Mask::Prefix(bits) => field.ones() & !(field.ones() >> (u32::from(bits) % width)),
            Mask::Any(bits) => bits & field.ones(),
        }
    }
}

/// One change of a packet.
#[derive(Debug, Arbitrary)]
pub enum Change {
    Tag { protocol: bool, tci: u16 },
    Untag,
    Label(u32),
    Unlabel,
    Tunnel { v6: bool, end: u8, id: u8, tos: u8, ttl: u8, ports: [u8; 2], options: [u8; 2] },
    NoTunnel,
    Hardware([u8; 2]),
    L3(u16),
    Version,
    Tos(u8),
    Ttl(u8),
    Fragment(Index),
    Extension(u8),
    Proto(u8),
    Src(u8),
    Dst(u8),
    SrcPort(u16),
    DstPort(u16),
    Flags(u16),
    Kind(u8, u8),
    Payload(u8),
    Flaw(Index, u8),
    Port(Index),
}

impl Change {
    fn apply(&self, p: &mut Packet) {
        match *self {
            Change::Tag { protocol, tci } if p.tags.len() < 4 => {
                p.tags.insert(0, (if protocol { 0x88a8 } else { 0x8100 }, tci));
            }
            Change::Tag { .. } => {}
            Change::Untag => drop(p.tags.pop()),
            // Also with a bottom in front of others, or without any.
            Change::Label(entry) if p.labels.len() < 8 => p.labels.insert(0, entry),
            Change::Label(_) => p.labels.clear(),
            Change::Unlabel => drop(p.labels.pop()),
            Change::Tunnel { v6, end, id, tos, ttl, ports: [src_port, dst_port], options } => {
                let side = if v6 { 0xfd << 120 } else { 0xc000_0200 };
                p.tunnel = Some(Outer {
                    id: id.into(),
                    v6,
                    src: side | u128::from(end & 0xf),
                    dst: side | u128::from(end >> 4),
                    src_port: src_port.into(),
                    dst_port: dst_port.into(),
                    tos,
                    ttl,
                    options: options.map(|data| if data == 0 { 0 } else { OPTION | u64::from(data) }),
                });
            }
            Change::NoTunnel => p.tunnel = None,
            Change::Hardware([sender, target]) => p.arp = [sender.into(), target.into()],
            Change::L3(0x800) => p.l3 = L3::V4,
            Change::L3(0x86dd) => p.l3 = L3::V6,
            Change::L3(0x806) => p.l3 = L3::Arp,
            // What reads on behind it would read a description's few bytes for headers, which is no use.
            Change::L3(other) => p.l3 = L3::Other(other),
            Change::Version => p.l3 = if p.l3 == L3::V4 { L3::V6 } else { L3::V4 },
            Change::Tos(tos) => p.tos = tos,
            Change::Ttl(ttl) => p.ttl = ttl,
            Change::Fragment(n) => p.fragment = [Fragment::None, Fragment::First, Fragment::Later][n as usize % 3],
            Change::Extension(kind) if p.extensions.len() < 4 => p.extensions.push([0, 43, 60, 51][kind as usize % 4]),
            Change::Extension(_) => p.extensions.clear(),
            Change::Proto(proto) => p.proto = proto,
            Change::Src(byte) => p.src = p.src & !0xff | u128::from(byte),
            Change::Dst(byte) => p.dst = p.dst & !0xff | u128::from(byte),
            Change::SrcPort(port) => p.src_port = port,
            Change::DstPort(port) => p.dst_port = port,
            Change::Flags(flags) => p.flags = flags & 0xfff,
            Change::Kind(kind, code) => p.kind = (kind, code),
            Change::Payload(bytes) => p.payload = bytes % 64,
            Change::Flaw(n, bytes) => {
                let all = [Flaw::None, Flaw::NoChecksum, Flaw::L4, Flaw::Ip, Flaw::Length, Flaw::Cut(bytes % 60 + 1)];
                p.flaw = all[n as usize % 6];
            }
            Change::Port(n) => p.port = Port(u32::from(n) % 4 + 1),
        }
    }
}

/// An action, in a few bytes.
#[derive(Debug, Arbitrary)]
pub enum Act {
    Random { kind: u8, value: u8, control: Index },
    Mirred { port: u8, ingress: bool, mirror: bool },
    Ct { zone: u8, bits: u8, mark: Option<(u8, u8)>, labels: Option<(u8, u8)>, nat: Option<(Option<bool>, u8, u8)> },
    Pedit(Vec<Key>),
    Csum(u8),
    Vlan(Index, u16),
    Skbedit { what: Index, value: u8 },
    Skbmod { what: Index, value: u8 },
    Mpls { what: Index, label: Option<u16>, tc: Option<u8>, bos: Option<bool>, ttl: Option<u8> },
    Unset,
    Tunnel { id: Option<u8>, v6: bool, port: u8, tos: u8, ttl: u8, flags: u8, options: Options },
    Nat { old: u8, new: u8, mask: u8, egress: bool },
    Police { shared: bool, drops: bool },
    Sample(u8),
    Other,
}

/// A word of a `pedit`.
#[derive(Debug, Arbitrary)]
pub struct Key {
    header: Index,
    offset: i8,
    mask: [u8; 4],
    value: [u8; 4],
    add: bool,
    dynamic: Option<(u8, u8, u8)>,
}

/// Options of a tunnel.
#[derive(Debug, Arbitrary)]
pub enum Options {
    None,
    Geneve(Vec<(u8, u8, u8)>),
    Vxlan(u32),
    Index(u32),
    Hardware(bool, u8),
    Gtp(u8, u8),
}

fn control(index: Index, n: u8) -> Control {
    let n = u32::from(n);
    let all = [
        Control::Pipe,
        Control::Ok,
        Control::Shot,
        Control::Stolen,
        Control::Queued,
        Control::Trap,
        Control::Continue,
        Control::Reclassify,
        Control::Repeat,
        Control::Goto(n % 4),
        Control::Jump(n % 6),
        Control::Other(n as i32 + 20),
    ];
    all[index as usize % all.len()]
}

impl Key {
    fn key(&self) -> PeditKey {
        use PeditHeader::*;
        let dynamic = |(at, mask, shift): (u8, u8, u8)| PeditDynamic {
            at: at.into(),
            mask: mask.into(),
            shift: u32::from(shift) % 32,
        };
        PeditKey {
            header: [Network, Ethernet, Ipv4, Ipv6, Tcp, Udp][self.header as usize % 6],
            // Mostly whole words of a header.
            offset: i32::from(self.offset),
            mask: self.mask,
            value: self.value,
            add: self.add,
            dynamic: self.dynamic.map(dynamic),
        }
    }
}

impl Options {
    fn options(&self) -> TunnelOptions {
        match self {
            Options::None => TunnelOptions::None,
            Options::Geneve(all) => TunnelOptions::Geneve(
                all.iter()
                    .take(4)
                    .map(|&(class, kind, words)| GeneveOption {
                        class: class.into(),
                        kind,
                        data: vec![class ^ kind; usize::from(words % 8) * 4],
                    })
                    .collect(),
            ),
            Options::Vxlan(gbp) => TunnelOptions::Vxlan { gbp: *gbp },
            Options::Index(index) => TunnelOptions::Erspan(Erspan::Index(*index)),
            Options::Hardware(dir, hwid) => {
                TunnelOptions::Erspan(Erspan::Hardware { dir: (*dir).into(), hwid: hwid & 63 })
            }
            Options::Gtp(pdu_type, qfi) => TunnelOptions::Gtp { pdu_type: *pdu_type, qfi: *qfi },
        }
    }
}

impl Act {
    fn kind(&self) -> ActionKind {
        match *self {
            Act::Random { kind, value, control: next } => {
                let random = flowmerge::flower::action::Random {
                    kind: u16::from(kind % 3),
                    value: value.into(),
                    control: control(next, value),
                };
                ActionKind::Gact { random: Some(random) }
            }
            Act::Mirred { port, ingress, mirror } => {
                ActionKind::Mirred(Mirred { port: Port(u32::from(port) % 4 + 1), ingress, mirror })
            }
            Act::Ct { zone, bits, mark, labels, nat } => {
                let nat = nat.map(|(side, address, port)| Nat {
                    side: side.map(|src| if src { NatSide::Src } else { NatSide::Dst }),
                    addresses: (side.is_some() && address & 1 == 0).then(|| {
                        let address = host(address & 2 != 0, 7 + (address >> 2) % 3);
                        (address, address)
                    }),
                    ports: (side.is_some() && port & 1 == 0).then(|| (9000 + u16::from(port), 9000 + u16::from(port))),
                });
                ActionKind::Ct(Ct {
                    zone: u16::from(zone % 4) + 5,
                    clear: bits & 7 == 7,
                    commit: bits & 8 != 0 || nat.as_ref().is_some_and(|nat| nat.side.is_some()),
                    force: bits & 0x30 == 0x30,
                    mark: mark.map(|(value, mask)| (value.into(), mask.into())),
                    labels: labels.map(|(value, mask)| (value.into(), mask.into())),
                    nat,
                    ..Ct::default()
                })
            }
            Act::Pedit(ref keys) => {
                ActionKind::Pedit(Pedit { keys: keys.iter().take(4).map(Key::key).collect(), mend: false })
            }
            Act::Csum(bits) => ActionKind::Csum(CsumFlags::from_bits_truncate(bits.into())),
            Act::Vlan(what, tci) => {
                let (id, prio) = (tci & 0xfff, (tci >> 13) as u8);
                let protocol = if tci & 0x1000 == 0 { 0x8100 } else { 0x88a8 };
                ActionKind::Vlan(match what % 6 {
                    0 => Vlan::Pop,
                    1 => Vlan::Push { protocol, id, prio },
                    2 => Vlan::Modify { protocol, id, prio: Some(prio) },
                    3 => Vlan::Modify { protocol, id, prio: None },
                    4 => Vlan::PopEthernet,
                    _ => Vlan::PushEthernet { dst: [2; 6], src: [4; 6] },
                })
            }
            Act::Skbedit { what, value } => {
                let none = Skbedit::default();
                ActionKind::Skbedit(match what % 5 {
                    0 => Skbedit { queue: Some(value.into()), ..none },
                    1 => Skbedit { priority: Some(value.into()), ..none },
                    2 => Skbedit { mark: Some((value.into(), 0xff)), ..none },
                    3 => Skbedit { ptype: Some(u16::from(value) % 3), ..none },
                    _ => Skbedit { inherit_dsfield: true, ..none },
                })
            }
            Act::Skbmod { what, value } => ActionKind::Skbmod(match what {
                0 => Skbmod::Swap,
                1 => Skbmod::Ecn,
                bits => Skbmod::Set {
                    dst: (bits & 1 != 0).then_some([2, 0, 0, 0, 0, value]),
                    src: (bits & 2 != 0).then_some([2, 0, 0, 0, 1, value]),
                    ethertype: (bits & 12 == 12).then_some(if value & 1 == 0 { 0x800 } else { 0x88b5 }),
                },
            }),
            Act::Mpls { what, label, tc, bos, ttl } => {
                let entry = MplsEntry {
                    label: label.map(u32::from),
                    tc: tc.map(|tc| tc & 7),
                    bos,
                    ttl: ttl.map(|ttl| ttl.max(1)),
                };
                let full = MplsEntry { label: Some(entry.label.unwrap_or(16)), ..entry };
                let protocol = if what & 0x10 == 0 { 0x8847 } else { 0x8848 };
                ActionKind::Mpls(match what % 5 {
                    0 => Mpls::Pop { protocol: [0x800, 0x86dd, 0x8847, 0x8100][usize::from(what >> 4) % 4] },
                    1 => Mpls::Push { protocol, entry: full },
                    2 => Mpls::PushMac { protocol, entry: full },
                    3 => Mpls::Modify(entry),
                    _ => Mpls::DecTtl,
                })
            }
            Act::Unset => ActionKind::TunnelKey(TunnelKey::Unset),
            Act::Tunnel { id, v6, port, tos, ttl, flags, ref options } => {
                ActionKind::TunnelKey(TunnelKey::Set(Box::new(Tunnel {
                    id: id.map(u32::from),
                    src: host(v6, 1),
                    dst: host(v6, 2),
                    src_port: 0,
                    dst_port: if port & 1 == 0 { 0 } else { 4789 + u16::from(port) },
                    tos,
                    ttl,
                    flags: TunnelFlags::from_bits_truncate(flags),
                    options: options.options(),
                })))
            }
            Act::Nat { old, new, mask, egress } => ActionKind::Nat(StatelessNat {
                old: 0x0a00_0000 | u32::from(old),
                new: 0x0a00_0000 | u32::from(new),
                mask: if mask & 1 == 0 { u32::MAX } else { u32::MAX << (mask % 32) },
                egress,
            }),
            Act::Police { shared, drops } => ActionKind::Police(Police {
                shared,
                conform: if drops { Control::Pipe } else { Control::Ok },
                rate: 1_000_000_000,
                burst: u32::MAX,
                ..Police::default()
            }),
            Act::Sample(rate) => ActionKind::Sample(Sample { rate: u32::from(rate) + 1, group: 1, truncate: None }),
            Act::Other => ActionKind::Other("bpf".into()),
        }
    }
}

fn at<T>(list: &mut [T], index: Index) -> Option<&mut T> {
    let length = list.len();
    list.get_mut(usize::from(index) % length.max(1))
}

/// What flower wants compared before it looks at a field.
fn asks_before(m: &mut Match, field: Field, key: &KeyOf) {
    let before = std::iter::successors(field.row().prerequisite, |f| f.row().prerequisite);
    before.for_each(|f| m.set(f, key.get(f), u128::MAX));
}

/// Whether it is part of a tunnel's options.
fn options(field: Field) -> bool {
    matches!(field, Field::EncOptsType | Field::EncOptsLen) || Field::OPTIONS.contains(&field)
}

/// Compares a tunnel's options as flower does, which takes no part of them alone: the set bits of kind and length, and all the
/// bytes of Geneve, of each option's length the set bits.
fn compare_options(m: &mut Match, key: &KeyOf, flip: u8) {
    let length = key.get(Field::EncOptsLen);
    if length == 0 {
        return;
    }
    m.set(Field::EncOptsType, key.get(Field::EncOptsType), key.get(Field::EncOptsType));
    m.set(Field::EncOptsLen, length, length);
    let bytes = key.get(Field::EncOpts0);
    let lengths = 0x1f << 96 | 0x1f << 32;
    let there = u128::MAX << (128 - 8 * length.min(16));
    let mask = there & (!lengths | bytes);
    m.set(Field::EncOpts0, bytes ^ u128::from(flip) << 64, mask);
}

/// The filter's protocol is the one that its match asks for.
fn fits_protocol(filter: &mut Filter) {
    if filter.matches.mask.get(Field::Protocol) != 0 {
        filter.id.protocol = filter.matches.key.get(Field::Protocol) as u16;
    }
}

fn place(rule: &mut Rule, chain: u8, prio: u8) {
    let id = &mut rule.filter.id;
    (id.chain, id.prio) = (u32::from(chain) % 4, u16::from(prio) % 36 + 1);
}

/// The packets that are there, in order.
fn packets(case: &mut Case) -> Vec<&mut Packet> {
    let events = case.events.iter_mut();
    events.filter_map(|event| if let Event::Packet(packet) = event { Some(packet) } else { None }).collect()
}

impl Edit {
    pub fn apply(&self, case: &mut Case) {
        match *self {
            Edit::Compare { filter, packet, field, ref mask, flip } => {
                let field = Field::ALL[usize::from(field) % Field::COUNT];
                let Some(key) = at(&mut packets(case), packet).map(|packet| packet.key()) else { return };
                let Some(rule) = at(&mut case.filters, filter) else { return };
                let m = &mut rule.filter.matches;
                if m.ranges().any(|r| r.0 == field) {
                    return;
                }
                if options(field) {
                    compare_options(m, &key, flip);
                    return;
                }
                asks_before(m, field, &key);
                let mask = if field.row().whole { field.ones() } else { mask.of(field) };
                m.set(field, key.get(field) ^ u128::from(flip), mask);
                fits_protocol(&mut rule.filter);
            }
            Edit::Free { filter, field } => {
                let Some(rule) = at(&mut case.filters, filter) else { return };
                let fields: Vec<Field> = rule.filter.matches.mask.fields().map(|(field, _)| field).collect();
                let m = &mut rule.filter.matches;
                let needed = |f: Field| m.mask.fields().any(|(g, _)| g.row().prerequisite == Some(f));
                if let Some(&field) = fields.get(usize::from(field) % fields.len().max(1))
                    && field != Field::Protocol
                    && !needed(field)
                    && m.ranges().all(|(ranged, _)| ranged.row().prerequisite != Some(field))
                {
                    m.clear(field);
                }
            }
            Edit::Range { filter, packet, dst, below, above } => {
                let field = if dst { Field::DstPort } else { Field::SrcPort };
                let Some(key) = at(&mut packets(case), packet).map(|packet| packet.key()) else { return };
                let Some(rule) = at(&mut case.filters, filter) else { return };
                let m = &mut rule.filter.matches;
                if m.mask.get(field) != 0 || key.get(Field::IpProto) == 0 {
                    return;
                }
                asks_before(m, field, &key);
                let port = key.get(field) as u16;
                let (min, max) = (port.saturating_sub(below.into()), port.saturating_add(above.into()));
                *m.range_mut(field) = Some(Range { min, max });
                fits_protocol(&mut rule.filter);
            }
            Edit::Act { filter, at: place, ref action } => {
                let Some(rule) = at(&mut case.filters, filter) else { return };
                let inner = rule.filter.id.hook != Hook::Ingress(IN);
                let actions = &mut rule.filter.actions;
                let mut action = Action::new(action.kind(), Control::Pipe);
                if let ActionKind::Mirred(mirred) = &mut action.kind {
                    // Nothing goes round: copies of copies would keep the model busy, as they would the kernel.
                    mirred.ingress &= mirred.port == Port(4) || mirred.port == INNER && !inner;
                }
                actions.insert(usize::from(place) % (actions.len() + 1), action);
            }
            Edit::Omit { filter, at: place } => {
                let Some(rule) = at(&mut case.filters, filter) else { return };
                let actions = &mut rule.filter.actions;
                if actions.len() > 1 {
                    actions.remove(usize::from(place) % actions.len());
                }
            }
            Edit::Control { filter, at: place, control: next, n } => {
                let Some(rule) = at(&mut case.filters, filter) else { return };
                if let Some(action) = at(&mut rule.filter.actions, place) {
                    action.control = control(next, n);
                }
            }
            Edit::Place { filter, chain, prio } => {
                if let Some(rule) = at(&mut case.filters, filter) {
                    place(rule, chain, prio);
                }
            }
            Edit::Copy { filter, chain, prio } => {
                let copy = at(&mut case.filters, filter).cloned();
                if let Some(mut rule) = copy.filter(|_| case.filters.len() < 60) {
                    place(&mut rule, chain, prio);
                    case.filters.push(rule);
                }
            }
            Edit::Without { filter } => {
                if !case.filters.is_empty() {
                    case.filters.remove(usize::from(filter) % case.filters.len());
                }
            }
            Edit::Packet { event, ref change } => {
                if let Some(packet) = at(&mut packets(case), event) {
                    change.apply(packet);
                }
            }
            Edit::Again { event, at: place } => {
                if let Some(event) = at(&mut case.events, event).cloned() {
                    case.events.insert(usize::from(place) % (case.events.len() + 1), event);
                }
            }
            Edit::Until { events } => case.events.truncate(usize::from(events)),
        }
    }
}
