//! What `ct commit` makes of a connection: its translation, and its place in the table (`net/netfilter/nf_nat_core.c`,
//! `__nf_conntrack_confirm`).
//!
//! Where the kernel has a choice, the report of the birth tells what it chose. That there is none tells that another connection
//! had the tuple: the packet is dropped, or the other's entry serves it.

use super::{
    AT_ONCE, Report, Tracker,
    choice::{choose, in_family},
};
use crate::conntrack::EntryId;
use flowmerge::{
    conntrack::{Tuple, proto},
    flower::action::{Nat, NatSide},
    netlink::{ConnectionEvent, ConnectionMessage},
};

/// How many frames the kernel takes from a device at once (`NAPI_POLL_WEIGHT`).
const BURST: usize = 64;

impl Tracker {
    /// The report of the birth of this frame's connection, if it commits it. Frames are stamped as they are queued, so in a burst
    /// the next ones stand before what this one causes. Such a late report may also be that of another packet's connection: its
    /// reply tuple must be one that this may get, and nobody else's, and it must not stand behind what later frames have caused.
    pub(super) fn committed(
        &self,
        zone: u16,
        original: Tuple,
        may_get: impl Fn(&Tuple) -> bool,
    ) -> Option<&ConnectionMessage> {
        let (r, before) = self.reports.birth(zone, original)?;
        let birth = &r.report.connection;
        let is_late = r.at >= self.horizon;
        let is_free = |tuple| !self.by_tuple.contains_key(&(zone, tuple));
        let is_its = || {
            r.time <= self.now.saturating_add(AT_ONCE)
                && may_get(&birth.reply)
                && is_free(birth.original)
                && is_free(birth.reply)
                && !before.filter(|r| r.at >= self.horizon).take(BURST).any(|r| self.is_news(&r.report, zone))
        };
        (!is_late || is_its()).then_some(birth)
    }

    /// Whether this is the birth of a connection in that zone which no frame so far has begun.
    fn is_news(&self, report: &Report, zone: u16) -> bool {
        let c = &report.connection;
        let name = (c.zone, c.original);
        report.event == ConnectionEvent::New
            && c.zone == zone
            && !self.by_tuple.contains_key(&name)
            && !self.waiting.contains_key(&name)
    }

    /// Chooses the reply tuple that a translation gives a new connection.
    pub(super) fn translating(&mut self, id: EntryId, nat: &Nat) {
        let entry = &self.entries[&id];
        let Some(side) = nat.side.filter(|&side| !entry.confirmed && !entry.translated[side as usize]) else {
            return;
        };
        let c = &entry.connection;
        let chosen = self.committed(c.zone, c.original, |reply| may_become(nat, side, reply)).map(|birth| birth.reply);
        let choice = nat.addresses.is_some_and(|(low, high)| low != high) || nat.ports.is_some();
        let guessed = chosen.is_none() && choice;
        let mut reply = c.reply;
        match (chosen, side) {
            (Some(chosen), NatSide::Src) => {
                (reply.dst, reply.dst_port) = (chosen.dst, chosen.dst_port);
                if matches!(reply.proto, proto::ICMP | proto::ICMPV6) {
                    (reply.dst_port, reply.src_port) = (c.reply.dst_port, chosen.src_port);
                }
            }
            // After the destination the source is bound too, for good.
            (Some(chosen), NatSide::Dst) => reply = chosen,
            (None, _) => reply = unreported(c.zone, reply, nat, side),
        }
        let entry = self.entry(id);
        entry.connection.reply = reply;
        entry.guessed |= guessed;
        entry.translated[side as usize] = true;
        entry.translated[NatSide::Src as usize] |= side == NatSide::Dst;
    }

    /// Puts a connection into the table, or changes the one that is there; the entry that the packet has afterwards, or `None`
    /// if conntrack drops it.
    pub(super) fn committing(
        &mut self,
        id: EntryId,
        mark: Option<(u32, u32)>,
        labels: Option<(u128, u128)>,
    ) -> Option<EntryId> {
        self.update(id, |entry| {
            let c = &mut entry.connection;
            // The kernel does not mask the values again: a mark's bits are added, labels' are flipped.
            if let Some((value, mask)) = mark.filter(|&(_, mask)| mask != 0) {
                c.mark = c.mark & !mask | value;
            }
            if let Some((value, mask)) = labels.filter(|&(_, mask)| mask != 0) {
                c.labels = c.labels & !mask ^ value;
            }
        });
        if self.entries[&id].confirmed {
            return Some(id);
        }
        let c = self.entries[&id].connection;
        match self.committed(c.zone, c.original, |&reply| reply == c.reply).map(|birth| birth.reply) {
            Some(reply) => self.entry(id).connection.reply = reply,
            None => {
                let of = |tuple| self.by_tuple.get(&(c.zone, tuple)).copied();
                if let Some(first) = of(c.original).or(of(c.reply)) {
                    return self.clash(id, first, of(c.reply));
                }
                // Nobody was told of it, so the tuple that it got is another's.
                if self.entries[&id].guessed {
                    return None;
                }
            }
        }
        self.confirm(id);
        Some(id)
    }

    /// Another's tuples are these, which was first (`nf_ct_resolve_clash`): the entry that serves the packet. That is the first
    /// one's if no translation was chosen for it, or the same; or its own, if answers to it can be told.
    fn clash(&mut self, id: EntryId, first: EntryId, answers: Option<EntryId>) -> Option<EntryId> {
        let serves = |other: EntryId| {
            let (one, other) = (&self.entries[&id].connection, &self.entries[&other]);
            let same = (one.original, one.reply) == (other.connection.original, other.connection.reply);
            !other.dead && (same || other.translated == [false; 2])
        };
        let c = &self.entries[&id].connection;
        if matches!(c.original.proto, proto::TCP | proto::ICMP | proto::ICMPV6 | proto::SCTP | proto::DCCP) {
            return None;
        }
        match answers {
            _ if serves(first) => Some(first),
            Some(other) => Some(other).filter(|&other| serves(other)),
            // The kernel keeps it for a second, for answers alone, and tells nobody; here it is forgotten behind the packet.
            None => Some(id),
        }
    }
}

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, proto::TCP | proto::UDP | proto::SCTP | proto::UDPLITE | proto::DCCP)
}

/// The reply tuple of a translation that was never reported: what the range itself says.
fn unreported(zone: u16, reply: Tuple, nat: &Nat, side: NatSide) -> Tuple {
    // Ports without addresses are no range to act_ct.
    let Some((low, high)) = nat.addresses else { return reply };
    let is_source = side == NatSide::Src;
    let port = if is_source { reply.dst_port } else { reply.src_port };
    let port = match nat.ports.filter(|_| has_ports(reply.proto)) {
        Some((low, high)) if !(low..=high).contains(&port) => low,
        _ => port,
    };
    let address = choose(zone, &reply.inverse(), is_source, low, high);
    match is_source {
        true => Tuple { dst: address, dst_port: port, ..reply },
        false => Tuple { src: address, src_port: port, ..reply },
    }
}

/// Whether a connection that is translated like this can have that reply tuple.
fn may_become(nat: &Nat, side: NatSide, reply: &Tuple) -> bool {
    let (address, port) = match side {
        NatSide::Src => (reply.dst, reply.dst_port),
        NatSide::Dst => (reply.src, reply.src_port),
    };
    let ipv6 = reply.src.is_ipv6();
    let of = |(low, high)| (in_family(low, ipv6)..=in_family(high, ipv6)).contains(&address);
    let addresses = nat.addresses.is_none_or(of);
    let ports = nat.ports.filter(|_| nat.addresses.is_some() && has_ports(reply.proto));
    addresses && ports.is_none_or(|(low, high)| (low..=high).contains(&port))
}
