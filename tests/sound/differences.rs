//! The known differences between a merged filter and software, each made on purpose and shown to be just that.
//!
//! All are of one kind: conntrack looks at what no table looks at, or a table cannot mend checksums. Wherever it could, the
//! merged filter does to the packet what software does to one without the flaw.

use crate::{
    bytes::{Headers, without_checksums},
    connections::connections,
    packet::{Flaw, Fragment, L3, Packet},
    packets::IN,
    rule::Rule,
    tracker::Tracker,
    world::{Made, Setting, World},
};
use flowmerge::{
    conntrack::{Connection, Direction, proto, tuple::address_bits},
    flower::{
        Action, ActionKind, Control, Field, Filter, FilterId, Hook, Match, Port,
        action::{CsumFlags, Ct, Nat, Skbmod},
        field::ct_state,
    },
    packet::apply::{Trim, apply},
};
use merge_model::{
    Verdict,
    conntrack::{Conntrack, EntryId, Shown, Tracked, Transport, tcp},
    outcome::{Outcome, Terminal},
};

/// What is established goes out of here, translated.
pub const OUT: Port = Port(2);
/// What is invalid goes out of here.
const INVALID: Port = Port(4);

pub fn rule(chain: u32, prio: u16, ethertype: u16, state: u128, actions: Vec<Action>) -> Rule {
    let id = FilterId { hook: Hook::Ingress(IN), chain, prio, protocol: ethertype, handle: 0 };
    let ip = Match::default().exact(Field::Protocol, ethertype.into()).exact(Field::EthType, ethertype.into());
    Rule { filter: Filter::flower(id, ip.with(Field::CtState, state, state), actions), blind: None }
}

/// A world whose packets go through `ct nat` in zone 5, and then out: one port for established ones, another for invalid ones.
pub fn world(setting: Setting) -> World {
    let mut world = World::new(setting);
    for (prio, ethertype) in [(1, 0x800), (11, 0x86dd)] {
        let ct = ActionKind::Ct(Ct { zone: 5, nat: Some(Nat::default()), ..Ct::default() });
        let track = vec![Action::new(ct, Control::Pipe), Action::gact(Control::Goto(1))];
        world.add(rule(0, prio, ethertype, 0, track));
        let (trk, est, inv) = (ct_state::TRACKED, ct_state::ESTABLISHED, ct_state::INVALID);
        world.add(rule(1, prio, ethertype, trk | est, vec![Action::redirect(OUT)]));
        world.add(rule(1, prio + 1, ethertype, trk | inv, vec![Action::redirect(INVALID)]));
    }
    world
}

/// A connection in zone 5 of which both address and port are translated, and its place.
fn connection(number: u8, v6: bool) -> (usize, Connection) {
    let all = connections().into_iter().enumerate();
    let mut fit = all.filter(|(_, c)| c.zone == 5 && c.original.proto == number && c.original.src.is_ipv6() == v6);
    fit.find(|(_, c)| c.reply != c.original.inverse()).expect("there is one")
}

pub fn packet(number: u8, v6: bool) -> Packet {
    let t = connection(number, v6).1.tuple(Direction::Original);
    Packet {
        port: IN,
        eth_dst: 0x0200_0000_0002,
        eth_src: 0x0200_0000_0001,
        tags: Vec::new(),
        labels: Vec::new(),
        tunnel: None,
        arp: [0; 2],
        l3: if v6 { L3::V6 } else { L3::V4 },
        tos: 0,
        ttl: 64,
        fragment: Fragment::None,
        extensions: Vec::new(),
        proto: number,
        src: address_bits(t.src),
        dst: address_bits(t.dst),
        src_port: t.src_port,
        dst_port: t.dst_port,
        flags: 0x10,
        kind: (0, 0),
        payload: 5,
        pad: 2,
        flaw: Flaw::None,
    }
}

/// Merges what a flawless packet does.
pub fn merged(world: &mut World, packet: &Packet) -> Made {
    let mut made = world.packet(packet).expect("the property");
    assert_eq!(made.len(), 1, "{packet:?} is merged");
    made.remove(0)
}

/// What the table sends, and what software does.
fn both(world: &mut World, packet: &Packet, frame: &[u8]) -> (Vec<u8>, Outcome) {
    let mut handled = world.merger.hardware().receive(packet.port, frame, 1).expect("a merged filter matches");
    assert_eq!((handled.sent.len(), handled.sent[0].port), (1, OUT));
    (handled.sent.remove(0).frame, world.software(packet, frame))
}

/// Each flaw that conntrack finds: software calls the packet invalid, the merged filter translates it like any other.
fn a_flaw_is_seen_by_software_alone(flaw: Flaw, protocols: &[u8], versions: &[bool], mended: impl Fn(&[u8], &[u8])) {
    for (&number, &v6) in protocols.iter().flat_map(|n| versions.iter().map(move |v| (n, v))) {
        let mut world = world(Setting::default());
        let right = packet(number, v6);
        merged(&mut world, &right);
        let wrong = Packet { flaw, ..right.clone() };
        let (good, software) = both(&mut world, &right, &right.frame(false));
        assert_eq!((software.sent[0].port, &software.sent[0].frame), (OUT, &good), "no difference without the flaw");
        let (bad, software) = both(&mut world, &wrong, &wrong.frame(false));
        assert_eq!(software.sent[0].port, INVALID, "{wrong:?}");
        assert_eq!(software.hits[0].found, [None]);
        assert_eq!(without_checksums(&bad), without_checksums(&good), "{wrong:?}");
        mended(&good, &bad);
    }
}

/// The checksum at `at` differs between the two frames: what was wrong stays wrong.
fn stays_wrong(good: &[u8], bad: &[u8]) {
    assert_ne!(good, bad, "the checksum is mended, not computed");
}

#[test]
fn known_difference_a_wrong_transport_checksum() {
    a_flaw_is_seen_by_software_alone(Flaw::L4, &[proto::TCP, proto::UDP], &[false, true], stays_wrong);
}

#[test]
fn known_difference_a_wrong_ip_checksum() {
    a_flaw_is_seen_by_software_alone(Flaw::Ip, &[proto::TCP, proto::UDP], &[false], stays_wrong);
}

#[test]
fn known_difference_a_wrong_length() {
    a_flaw_is_seen_by_software_alone(Flaw::Length, &[proto::UDP], &[false, true], |good, bad| {
        let l4 = Headers::of(good).expect("IP").l4;
        let length = |frame: &[u8]| u16::from_be_bytes([frame[l4 + 4], frame[l4 + 5]]);
        assert_eq!(length(bad), length(good) + 1);
    });
}

/// What is cut off at its end has no right checksum: software takes it for invalid, the merged filter sends what there is.
#[test]
fn known_difference_a_packet_cut_off() {
    for number in [proto::TCP, proto::UDP] {
        let mut world = world(Setting::default());
        let right = packet(number, false);
        merged(&mut world, &right);
        let cut = Packet { flaw: Flaw::Cut(3), ..right.clone() };
        let (good, _) = both(&mut world, &right, &right.frame(false));
        let (bad, software) = both(&mut world, &cut, &cut.frame(false));
        assert_eq!(software.sent[0].port, INVALID);
        assert_eq!(bad, good[..good.len() - 3]);
    }
}

/// A tracker that follows the windows of one connection.
struct Windows {
    tracker: Tracker,
    entry: usize,
    tcp: tcp::Tcp,
}

impl Conntrack for Windows {
    fn track(&mut self, zone: u16, shown: &Shown) -> Tracked {
        let found = self.tracker.track(zone, shown);
        let (Tracked::Entry(EntryId(id), info), Transport::Tcp(segment)) = (found, &shown.transport) else {
            return found;
        };
        match id as usize == self.entry
            && self.tcp.packet(segment, info.direction(), true, true) == tcp::Verdict::Invalid
        {
            true => Tracked::Invalid,
            false => found,
        }
    }
    fn connection(&self, entry: EntryId) -> &Connection {
        self.tracker.connection(entry)
    }
    fn is_confirmed(&self, entry: EntryId) -> bool {
        self.tracker.is_confirmed(entry)
    }
    fn translate(&mut self, entry: EntryId, nat: &Nat) {
        self.tracker.translate(entry, nat);
    }
    fn commit(&mut self, entry: EntryId, mark: Option<(u32, u32)>, labels: Option<(u128, u128)>) -> Option<EntryId> {
        self.tracker.commit(entry, mark, labels)
    }
    fn kill(&mut self, entry: EntryId) {
        self.tracker.kill(entry);
    }
}

/// Writes a sequence number and mends the checksum by building it anew.
fn with_sequence(packet: &Packet, sequence: u32) -> Vec<u8> {
    let mut frame = packet.frame(false);
    let l4 = Headers::of(&frame).expect("IP").l4;
    let sum = u16::from_be_bytes([frame[l4 + 16], frame[l4 + 17]]);
    let sum = merge_model::checksum::mend(sum, &frame[l4 + 4..l4 + 8], &sequence.to_be_bytes());
    frame[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
    frame[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A segment out of the window is invalid to software, and translated by the merged filter. No difference is left where the
/// connection was made liberal first, as it is to be.
#[test]
fn known_difference_the_sequence_window() {
    let mut world = world(Setting::default());
    let right = packet(proto::TCP, false);
    let (entry, connection) = connection(proto::TCP, false);
    merged(&mut world, &right);
    let segment = |flags, seq, ack| tcp::Segment {
        flags,
        seq,
        ack,
        end: seq + u32::from(flags & 2 != 0),
        window: 1000,
        sack: ack,
        offer: None,
    };
    let mut followed = tcp::Tcp::NEW;
    let (original, reply) = (Direction::Original, Direction::Reply);
    followed.packet(&segment(0x02, 100, 0), original, false, false);
    followed.packet(&segment(0x12, 500, 101), reply, false, false);
    followed.packet(&segment(0x10, 101, 501), original, true, false);
    let outside = with_sequence(&right, 0x4000_0000);
    let mut through = |tcp: tcp::Tcp| {
        let mut windows = Windows { tracker: Tracker::new(std::slice::from_ref(&connection)), entry: 0, tcp };
        world.model.receive(IN, &outside, 1, &mut windows)
    };
    let strict = through(followed);
    assert_eq!((strict.sent[0].port, &strict.hits[0].found[..]), (INVALID, &[None][..]));
    followed.be_liberal();
    let liberal = through(followed);
    let (sent, _) = both(&mut world, &right, &outside);
    assert_eq!((liberal.sent[0].port, &liberal.sent[0].frame), (OUT, &sent));
    assert!(world.tracker.entries[entry].alive);
}

/// Conntrack does not see, and so does not count or keep alive by, what a merged filter handles.
#[test]
fn known_difference_conntracks_own_accounting() {
    let mut world = world(Setting::default());
    let right = packet(proto::UDP, false);
    merged(&mut world, &right);
    let before = world.tracker.shown;
    let frame = right.frame(false);
    for _ in 0..3 {
        // As it is outside of tests: software gets what the table does not take.
        if world.merger.hardware().receive(right.port, &frame, 1).is_none() {
            world.software(&right, &frame);
        }
    }
    assert_eq!(world.tracker.shown, before);
    world.software(&right, &frame);
    assert_eq!(world.tracker.shown, before + 1);
}

/// `ct` cuts off what follows the IP datagram; a table that does not sends it along, and nothing else is different.
#[test]
fn known_difference_bytes_behind_the_datagram() {
    for (number, v6) in [(proto::TCP, false), (proto::UDP, true)] {
        let mut world = world(Setting { padded: true, ..Setting::default() });
        let right = packet(number, v6);
        let Made { entry, .. } = merged(&mut world, &right);
        let frame = right.frame(true);
        let (trimmed, software) = both(&mut world, &right, &frame);
        assert_eq!(software.sent[0].frame, trimmed, "a table that can do it");
        assert!(matches!(entry.trim, Trim::Before(_)));
        let left = apply(&entry.actions, Trim::Never, &frame).expect("supported").sent.remove(0).frame;
        assert_eq!(left, [&trimmed[..], &[0, 0]].concat());
    }
}

/// A table that cannot mend computes checksums anew: a packet that had none, over IPv6, gets one, and a wrong one becomes
/// right. All others are the same.
#[test]
fn known_difference_checksums_computed_rather_than_mended() {
    let setting = Setting { no_mend: true, ..Setting::default() };
    for (number, v6) in [(proto::TCP, false), (proto::TCP, true), (proto::UDP, false), (proto::UDP, true)] {
        let mut world = world(setting);
        let right = packet(number, v6);
        merged(&mut world, &right);
        let (good, software) = both(&mut world, &right, &right.frame(false));
        assert_eq!(software.sent[0].frame, good);
        let wrong = Packet { flaw: Flaw::L4, ..right.clone() };
        assert_eq!(both(&mut world, &wrong, &wrong.frame(false)).0, good, "a wrong one becomes right");
        let none = Packet { flaw: Flaw::NoChecksum, ..right.clone() };
        let (sent, software) = both(&mut world, &none, &none.frame(false));
        assert_eq!(software.verdict, Verdict::Decided(Terminal::Redirect));
        let expected = if v6 { &good } else { &software.sent[0].frame };
        assert_eq!(&sent, expected, "UDP over IPv6 gets one, all else is the same");
    }
}

/// `skbmod` drops a frame without 14 bytes behind the Ethernet header, whatever it writes; no table does.
#[test]
fn known_difference_skbmod_of_a_frame_that_has_hardly_anything() {
    let mut world = World::new(Setting::default());
    let swap = Action::new(ActionKind::Skbmod(Skbmod::Swap), Control::Pipe);
    world.add(rule(0, 1, 0x800, 0, vec![swap, Action::redirect(OUT)]));
    let right = packet(proto::TCP, false);
    merged(&mut world, &right);
    let whole = right.frame(false).len() as u8;
    for (left, frames) in [(28, 1), (27, 0)] {
        let cut = Packet { flaw: Flaw::Cut(whole - left), ..right.clone() };
        let frame = cut.frame(false);
        assert_eq!(frame.len(), usize::from(left));
        let handled = world.merger.hardware().receive(IN, &frame, 1).expect("a merged filter matches");
        assert_eq!((handled.sent.len(), world.software(&cut, &frame).sent.len()), (1, frames));
    }
}

/// `csum` drops a packet that is cut off, and so does the table. Software counts nothing for what stands behind it, though.
#[test]
fn known_difference_csum_of_a_packet_cut_off() {
    let mut world = World::new(Setting::default());
    let sums = Action::new(ActionKind::Csum(CsumFlags::TCP), Control::Pipe);
    world.add(rule(0, 1, 0x800, 0, vec![sums, Action::redirect(OUT)]));
    let right = packet(proto::TCP, false);
    merged(&mut world, &right);
    let cut = Packet { flaw: Flaw::Cut(3), ..right };
    let frame = cut.frame(false);
    let handled = world.merger.hardware().receive(IN, &frame, 1).expect("a merged filter matches");
    let software = world.software(&cut, &frame);
    assert_eq!((handled.sent.len(), software.sent.len()), (0, 0));
    assert_eq!(software.hits[0].ran, [0], "the redirect counts nothing");
    let cookie = world.filters[0].1;
    assert_eq!(world.merger.stats(cookie).iter().map(|c| c.packets).collect::<Vec<_>>(), [1, 1]);
}
