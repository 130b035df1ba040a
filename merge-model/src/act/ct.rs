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
    skb::Skb,
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
        if skb.ct.is_none() {
            skb.untracked = false;
            skb.ct = match show::look(skb.packet(), ipv6) {
                Look::Invalid => None,
                Look::Untracked => {
                    skb.untracked = true;
                    None
                }
                Look::Shown(shown) => match self.tracker.track(ct.zone, &shown) {
                    Tracked::Invalid => None,
                    Tracked::Entry(entry, info) => Some((entry, info)),
                },
            };
        }
        let found = skb.ct.map(|(entry, info)| Found {
            entry,
            direction: info.direction(),
            info,
            confirmed: self.tracker.is_confirmed(entry),
        });
        self.found_or_dropped(skb, ct, at, found, ipv6)?;
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
            if ct.commit && !self.tracker.commit(entry, ct.mark, ct.labels) {
                return Err(Stop::Drop);
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
        let fragment = match ipv6 {
            false => be16(&skb.bytes, skb.network + 6)
                .filter(|_| skb.len() >= 20)
                .map(|field| field & 0x3fff != 0),
            true => extension::is_fragment(&skb.bytes, skb.network).filter(|_| skb.len() >= 40),
        };
        if !fragment.ok_or(Stop::Drop)? {
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
        let packet = skb.bytes.get_mut(skb.data..)?;
        let direction = info.direction();
        if about_error {
            return nat::translate_error(packet, connection, direction, end);
        }
        match Status::of(connection).changes(end, direction) {
            true => nat::translate(packet, connection, direction, end),
            false => Some(()),
        }
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
fn trim(skb: &mut Skb, ipv6: bool) -> Option<()> {
    let len = match ipv6 {
        false => usize::from(be16(&skb.bytes, skb.data + 2)?),
        true => 40 + usize::from(be16(&skb.bytes, skb.data + 4)?),
    };
    skb.bytes.truncate(skb.data + len);
    Some(())
}
