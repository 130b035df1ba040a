//! `ct` (`net/sched/act_ct.c`, `tcf_ct_act`).
//!
//! The order matters and is the kernel's: fragments are put together, the packet is cut to its IP length, a connection of the
//! same zone is kept, else the packet is shown to conntrack; then it is translated, and committed.

use super::{
    After, Control, extension,
    nat::{self, End, Status},
    show::{self, Look},
};
use crate::{
    bytes::{be16, byte},
    conntrack::{EntryId, Info, Tracked},
    frag::Gathered,
    outcome::{Found, Terminal, Verdict},
    skb::{Skb, Summed},
    walk::{At, Walk},
};
use flowmerge::{
    conntrack::{Direction, proto},
    flower::action::{Ct, Nat, NatSide},
    packet::dissect::ethertype,
};

/// What ends the action early.
enum Stop {
    /// The packet is dropped.
    Drop,
    /// A fragment is kept.
    Held,
    /// A fragment is thrown away, which TC does not call a drop.
    Discarded,
}

impl Walk<'_> {
    pub(super) fn ct(&mut self, skb: &mut Skb, ct: &Ct, control: Control, at: At) -> After {
        let stop = self.track(skb, ct, at);
        let terminal = match stop {
            Ok(()) => return After::Control(control),
            Err(Stop::Drop) => {
                self.found(at, None);
                return After::Control(Control::Shot);
            }
            Err(Stop::Held) => Terminal::Held,
            Err(Stop::Discarded) => Terminal::Drop,
        };
        self.found(at, None);
        self.settle(at.branch, Verdict::Decided(terminal));
        After::Taken
    }

    fn found(&mut self, at: At, found: Option<Found>) {
        if let Some(hit) = self.hits.get_mut(at.hit) {
            hit.found.push(found);
        }
    }

    fn track(&mut self, skb: &mut Skb, ct: &Ct, at: At) -> Result<(), Stop> {
        if ct.clear {
            skb.post_ct = false;
            if skb.ct.take().is_some() {
                skb.untracked = true;
            }
            self.found(at, None);
            return Ok(());
        }
        let ipv6 = match skb.inner_protocol() {
            ethertype::IPV4 => false,
            ethertype::IPV6 => true,
            _ => return Err(Stop::Drop),
        };
        // From here the data start at the network header.
        let link = skb.network as isize - skb.data as isize;
        skb.data = skb.network;
        let whole = self.gather(skb, ct.zone, ipv6)?;
        trim(skb, ipv6).ok_or(Stop::Drop)?;
        self.take_cached(skb, ct);
        let bypassing = match skb.ct {
            Some(_) => None,
            None => show::glimpse(skb.packet(), ipv6).and_then(|glimpse| self.tracker.bypass(ct.zone, &glimpse)),
        };
        skb.ct = skb.ct.or(bypassing);
        if skb.ct.is_none() {
            skb.untracked = false;
            if let Some((proto::SCTP, at)) = show::transport_of(skb.packet(), ipv6)
                && skb.summed == Summed::No
                && at + 12 <= skb.len()
            {
                // To verify its checksum.
                skb.pull(skb.data + at + 12);
            }
            skb.ct = match show::look(skb.bytes.get(skb.data..).unwrap_or_default(), ipv6, &mut skb.summed) {
                Look::Invalid => None,
                Look::Untracked => {
                    skb.untracked = true;
                    None
                }
                Look::Shown(shown) => {
                    let tracked = self.tracker.track(ct.zone, &shown);
                    if self.tracker.reopened() {
                        // Its checksum was verified once more, by what the first time left.
                        skb.summed = Summed::Right;
                    }
                    match tracked {
                        Tracked::Invalid => None,
                        Tracked::Entry(entry, info) => Some((entry, info)),
                    }
                }
            };
        }
        let found = skb.ct.map(|(entry, info)| Found {
            entry,
            direction: info.direction(),
            info,
            confirmed: self.tracker.is_confirmed(entry),
        });
        self.found_or_dropped(skb, ct, at, found, ipv6)?;
        if let Some((entry, info)) = skb.ct.filter(|_| bypassing.is_none()) {
            self.tracker.offload(entry, info);
        }
        skb.data = skb.data.checked_add_signed(-link).ok_or(Stop::Drop)?;
        skb.post_ct = true;
        skb.zone = ct.zone;
        if whole {
            skb.pkt_len = skb.len();
        }
        Ok(())
    }

    /// Translates and commits, and notes what was found if that does not drop the packet.
    fn found_or_dropped(
        &mut self,
        skb: &mut Skb,
        ct: &Ct,
        at: At,
        found: Option<Found>,
        ipv6: bool,
    ) -> Result<(), Stop> {
        if let Some(Found { entry, info, .. }) = found {
            if let Some(nat) = &ct.nat {
                self.nat(skb, ct, nat, entry, info, ipv6).ok_or(Stop::Drop)?;
            }
            if ct.commit {
                let entry = self.tracker.commit(entry, ct.mark, ct.labels).ok_or(Stop::Drop)?;
                skb.ct = Some((entry, info));
            }
        }
        self.found(at, found);
        Ok(())
    }

    /// `tcf_ct_handle_fragments`: whether the packet was put together from fragments now.
    fn gather(&mut self, skb: &mut Skb, zone: u16, ipv6: bool) -> Result<bool, Stop> {
        if skb.ct.is_some() || skb.untracked {
            return Ok(false);
        }
        if !is_fragment(skb, ipv6).ok_or(Stop::Drop)? {
            return Ok(false);
        }
        match self.model.fragments.gather(skb, zone, ipv6, self.now) {
            Gathered::Whole => Ok(true),
            Gathered::Held => Err(Stop::Held),
            Gathered::Discarded => Err(Stop::Discarded),
        }
    }

    /// `tcf_ct_skb_nfct_cached`: the connection that the packet has stays if it is of the zone; `force` wants it in its
    /// original direction, too, and kills one that is not.
    fn take_cached(&mut self, skb: &mut Skb, ct: &Ct) {
        let Some((entry, info)) = skb.ct else {
            return;
        };
        let same_zone = self.tracker.connection(entry).zone == ct.zone;
        let backwards = ct.force && info.direction() == Direction::Reply;
        if same_zone && backwards && self.tracker.is_confirmed(entry) {
            self.tracker.kill(entry);
        }
        if !same_zone || backwards {
            skb.ct = None;
            skb.untracked = true;
        }
    }

    /// `tcf_ct_act_nat`. `None`: the packet is dropped.
    fn nat(&mut self, skb: &mut Skb, ct: &Ct, nat: &Nat, entry: EntryId, info: Info, ipv6: bool) -> Option<()> {
        let status = Status::of(self.tracker.connection(entry));
        let direction = info.direction();
        let end = match nat.side {
            _ if info != Info::New && status.any() && (info != Info::Related || ct.commit) => match direction {
                Direction::Original if status.src => End::Src,
                Direction::Original => End::Dst,
                Direction::Reply if status.src => End::Dst,
                Direction::Reply => End::Src,
            },
            Some(NatSide::Src) => End::Src,
            Some(NatSide::Dst) => End::Dst,
            None => return Some(()),
        };
        let about_error = matches!(info, Info::Related | Info::RelatedReply) && is_icmp(skb, ipv6);
        let fresh = matches!(info, Info::New | Info::Related | Info::RelatedReply);
        if !about_error && fresh && !self.tracker.is_confirmed(entry) {
            self.tracker.translate(entry, nat);
        }
        self.nat_end(skb, entry, info, about_error, end)?;
        let status = Status::of(self.tracker.connection(entry));
        if status.src && status.dst {
            self.nat_end(skb, entry, info, about_error, end.other())?;
        }
        Some(())
    }

    /// `ct_nat_execute`: one end, where the connection has it translated.
    fn nat_end(&self, skb: &mut Skb, entry: EntryId, info: Info, about_error: bool, end: End) -> Option<()> {
        let connection = self.tracker.connection(entry);
        let before = skb.packet().to_vec();
        let direction = info.direction();
        let changes = Status::of(connection).changes(end, direction);
        if changes {
            skb.pull(skb.data + nat::reach(skb.packet(), connection, about_error));
        }
        let packet = skb.bytes.get_mut(skb.data..)?;
        if about_error {
            nat::translate_error(packet, connection, direction, end, skb.summed)?;
        } else if changes {
            nat::translate(packet, connection, direction, end)?;
            if connection.original.proto == proto::SCTP {
                skb.summed = Summed::No;
            }
        }
        skb.summed.keep(&before, skb.bytes.get(skb.data..)?);
        Some(())
    }
}

/// Whether a packet is a fragment; nothing if its header is cut off (`tcf_ct_ipv4_is_fragment`, `tcf_ct_ipv6_is_fragment`).
pub(crate) fn is_fragment(skb: &Skb, ipv6: bool) -> Option<bool> {
    match ipv6 {
        false => be16(&skb.bytes, skb.network + 6).filter(|_| skb.len() >= 20).map(|field| field & 0x3fff != 0),
        true => extension::is_fragment(&skb.bytes, skb.network).filter(|_| skb.len() >= 40),
    }
}

/// Whether the packet is of the ICMP that goes with its IP version.
fn is_icmp(skb: &Skb, ipv6: bool) -> bool {
    match ipv6 {
        false => byte(&skb.bytes, skb.data + 9) == Some(proto::ICMP),
        true => show::transport_of(skb.packet(), true).is_some_and(|(number, _)| number == proto::ICMPV6),
    }
}

/// Cuts off what follows the IP packet (`tcf_ct_skb_network_trim`). `None` if there is no whole header.
pub(super) fn trim(skb: &mut Skb, ipv6: bool) -> Option<()> {
    let len = match ipv6 {
        false => usize::from(be16(&skb.bytes, skb.data + 2)?),
        true => 40 + usize::from(be16(&skb.bytes, skb.data + 4)?),
    };
    let before = skb.packet().to_vec();
    skb.bytes.truncate(skb.data + len);
    skb.summed.keep(&before, skb.bytes.get(skb.data..)?);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Outcome,
        testing::{Tracker, add, ct as ct_action, gact, hex, model, receive, tcp, to, tuple},
    };
    use flowmerge::conntrack::Tuple;
    use flowmerge::flower::{
        Field, Hook, Match, Port,
        field::ct_state::{INVALID, NEW, TRACKED},
    };

    // Frames by scapy: a TCP segment, the same from 192.0.2.1:2000, an ICMP error about the latter, about the former.
    const TCP: &str = "02000000000202000000000108004500002c00050000400666c50a0000010a000002
        03e800500000000100000002501020009ed0000064617461";
    const TCP_OUT: &str = "02000000000202000000000108004500002c000500004006aec4c00002010a000002
        07d00050000000010000000250102000e2e7000064617461";
    const ERROR: &str = "020000000002020000000001080045000038000600004001aeb50a000009c0000201
        0304f4da000000004500002c000500004006aec4c00002010a00000207d0005000000001";
    const ERROR_IN: &str = "02000000000202000000000108004500003800060000400166b60a0000090a000001
        0304f8c2000000004500002c00050000400666c50a0000010a00000203e8005000000001";
    const PING6: &str = "02000000000202000000000186dd60000000000b3a40fd000000000000000000000000000001
        fd0000000000000000000000000000028000c14a00070001616263";
    const PING6_OUT: &str = "02000000000202000000000186dd60000000000b3a40fd000000000000000000000000000009
        fd0000000000000000000000000000028000c14100080001616263";
    const SCTP: &str = "02000000000202000000000108004500002400010000408466530a0000010a000002
        0001000200000003c866090e0b000004";

    fn zone(zone: u16) -> Ct {
        Ct { zone, ..Ct::default() }
    }

    fn nat() -> Ct {
        Ct { nat: Some(Nat::default()), ..zone(5) }
    }

    /// Runs one `ct`, then sends the packet out of port 2 as it is.
    fn through(ct: Ct, tracker: &mut Tracker, frame: &str) -> Outcome {
        let mut model = model();
        let actions = vec![ct_action(ct, Control::Pipe), to(2)];
        add(&mut model, Hook::Ingress(Port(1)), 0, 1, Match::default(), actions);
        receive(&mut model, tracker, frame)
    }

    fn translated() -> Tracker {
        let mut tracker = Tracker::default();
        tracker.add(5, tcp("10.0.0.1:1000", "10.0.0.2:80"), tcp("10.0.0.2:80", "192.0.2.1:2000"));
        tracker
    }

    #[test]
    fn source_nat_and_its_reply_are_what_scapy_makes() {
        let out = through(nat(), &mut translated(), TCP);
        assert_eq!(out.sent[0].frame, hex(TCP_OUT));
        let found = out.hits[0].found[0].unwrap();
        assert!(found.confirmed && found.direction == Direction::Original);
        // The other way: a connection whose reply direction has these packets.
        let mut reply = Tracker::default();
        reply.add(5, tcp("10.0.0.2:80", "192.0.2.1:2000"), tcp("10.0.0.1:1000", "10.0.0.2:80"));
        let out = through(nat(), &mut reply, TCP);
        assert_eq!(out.sent[0].frame, hex(TCP_OUT));
        assert_eq!(out.hits[0].found[0].unwrap().direction, Direction::Reply);
    }

    #[test]
    fn an_icmp_error_is_translated_inside_and_out() {
        let out = through(nat(), &mut translated(), ERROR);
        assert_eq!(out.hits[0].found[0].unwrap().info, Info::RelatedReply);
        assert_eq!(out.sent[0].frame, hex(ERROR_IN));
    }

    #[test]
    fn ping_over_ipv6_has_address_and_identifier_changed() {
        let original = Tuple { dst_port: 0x8000, ..tuple(proto::ICMPV6, "[fd00::1]:7", "[fd00::2]:0") };
        let reply = Tuple { dst_port: 0x8100, ..tuple(proto::ICMPV6, "[fd00::2]:8", "[fd00::9]:0") };
        let mut tracker = Tracker::default();
        tracker.add(5, original, reply);
        assert_eq!(through(nat(), &mut tracker, PING6).sent[0].frame, hex(PING6_OUT));
    }

    #[test]
    fn sctp_is_verified_and_computed_anew() {
        let original = tuple(proto::SCTP, "10.0.0.1:1", "10.0.0.2:2");
        let mut tracker = Tracker::default();
        tracker.add(5, original, tuple(proto::SCTP, "10.0.0.2:2", "10.0.0.1:9"));
        let frame = through(nat(), &mut tracker, SCTP).sent.remove(0).frame;
        assert_eq!(frame[34..36], [0, 9]);
        assert_eq!(frame[42..46], crate::checksum::sctp(&frame[34..]));
        let wrong = SCTP.replace("c866", "c867");
        assert_eq!(through(nat(), &mut tracker, &wrong).hits[0].found, [None]);
    }

    #[test]
    fn commit_confirms_and_translates_a_new_connection() {
        let commit = Ct {
            commit: true,
            mark: Some((7, 0xff)),
            nat: Some(Nat {
                side: Some(NatSide::Src),
                addresses: Some(([192, 0, 2, 1].into(), [192, 0, 2, 1].into())),
                ports: Some((2000, 2000)),
            }),
            ..zone(5)
        };
        let mut tracker = Tracker::default();
        let out = through(commit, &mut tracker, TCP);
        assert_eq!(out.sent[0].frame, hex(TCP_OUT));
        assert!(!out.hits[0].found[0].unwrap().confirmed);
        assert!(tracker.connections[0].1 && tracker.connections[0].0.mark == 7);
    }

    /// Padding goes; what is corrupt has no connection, but the zone; what is not IP is dropped.
    #[test]
    fn cut_invalid_or_dropped() {
        let state = |value| Match::default().exact(Field::CtState, value).exact(Field::CtZone, 5);
        let mut model = model();
        let hook = Hook::Ingress(Port(1));
        add(&mut model, hook, 0, 1, Match::default(), vec![ct_action(zone(5), Control::Goto(1))]);
        add(&mut model, hook, 1, 1, state(TRACKED | INVALID), vec![to(2)]);
        add(&mut model, hook, 1, 2, state(TRACKED | NEW), vec![to(3)]);
        let mut port_of = |frame: &str| {
            let out = receive(&mut model, &mut Tracker::default(), frame);
            out.sent.first().map(|sent| (sent.port.0, sent.frame.len()))
        };
        assert_eq!(port_of(TCP), Some((3, 58)));
        assert_eq!(port_of(&format!("{TCP}0000")), Some((3, 58)));
        // A wrong checksum; SYN and FIN; a neighbour solicitation.
        assert_eq!(port_of(&TCP.replace("9ed0", "9ed1")), Some((2, 58)));
        assert_eq!(port_of(&TCP.replace("50102000", "50032000")), Some((2, 58)));
        assert_eq!(port_of(&PING6.replace("8000c14a", "8700ba4a")), Some((2, 65)));
        let arp = "020000000002020000000001080600010800060400010200000000010a0000010000000000000a000002";
        assert_eq!(port_of(arp), None);
    }

    #[test]
    fn the_connection_found_before_stays_in_its_zone_only() {
        let mut tracker = Tracker::default();
        let t = tcp("10.0.0.1:1000", "10.0.0.2:80");
        tracker.add(5, t, t.inverse());
        let reply_first = tracker.add(6, t.inverse(), t);
        let mut model = model();
        let hook = Hook::Ingress(Port(1));
        let force = Ct { force: true, ..zone(6) };
        let clear = Ct { clear: true, ..Ct::default() };
        let actions = vec![
            ct_action(zone(5), Control::Pipe),
            ct_action(zone(5), Control::Pipe),
            ct_action(zone(6), Control::Pipe),
            ct_action(force, Control::Pipe),
            ct_action(clear, Control::Goto(1)),
        ];
        add(&mut model, hook, 0, 1, Match::default(), actions);
        let cleared = Match::default().exact(Field::CtState, 0).exact(Field::CtZone, 0);
        add(&mut model, hook, 1, 1, cleared, vec![gact(Control::Ok)]);
        let out = receive(&mut model, &mut tracker, TCP);
        let entries = out.hits[0].found.iter().map(|f| f.map(|f| (f.entry.0, f.confirmed)));
        // `force` killed the one of zone 6, met in reply direction, and began another.
        let expected = [Some((0, true)), Some((0, true)), Some((1, true)), Some((2, false)), None];
        assert_eq!(entries.collect::<Vec<_>>(), expected);
        assert_eq!(tracker.killed, [reply_first]);
        assert_eq!(out.verdict, Verdict::Decided(Terminal::Pass));
    }
}
