//! What `ct commit` makes of a connection: its translation, and its place in the table (`net/netfilter/nf_nat_core.c`,
//! `__nf_conntrack_confirm`).
//!
//! Where the kernel has a choice, the report of the birth tells what it chose; no report tells that it found nothing.

use super::{AT_ONCE, Tracker};
use crate::conntrack::EntryId;
use flowmerge::{
    conntrack::{Tuple, proto},
    flower::action::{Nat, NatSide},
    netlink::ConnectionMessage,
};

impl Tracker {
    /// The same for a frame that commits: stamped as they are queued, in a burst the next frames stand before what it causes.
    /// Such a late report may also be that of another packet's connection: its reply tuple must be one that this may get.
    pub(super) fn committed(
        &self,
        zone: u16,
        original: Tuple,
        may_get: impl Fn(&Tuple) -> bool,
    ) -> Option<&ConnectionMessage> {
        self.reports
            .iter()
            .take_while(|r| r.at < self.horizon || r.time <= self.now + AT_ONCE)
            .filter_map(|r| r.report.birth_of(zone, original).map(|birth| (r.at, birth)))
            .find_map(|(at, birth)| (at < self.horizon || may_get(&birth.reply)).then_some(birth))
    }

    /// Chooses the reply tuple that a translation gives a new connection.
    pub(super) fn translating(&mut self, id: EntryId, nat: &Nat) {
        let entry = &self.entries[&id];
        let Some(side) = nat.side else { return };
        if entry.confirmed || entry.translated[side as usize] {
            return;
        }
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
            // Never reported, so never confirmed, or before anyone listened: what the range itself says.
            (None, _) => {
                let (address, port) = match side {
                    NatSide::Src => (&mut reply.dst, &mut reply.dst_port),
                    NatSide::Dst => (&mut reply.src, &mut reply.src_port),
                };
                if let Some((low, high)) = nat.addresses
                    && !(low..=high).contains(address)
                {
                    *address = low;
                }
                // Ports without addresses are no range to act_ct.
                if let Some((low, high)) = nat.ports.filter(|_| nat.addresses.is_some() && has_ports(reply.proto))
                    && !(low..=high).contains(port)
                {
                    *port = low;
                }
            }
        }
        let entry = self.entry(id);
        entry.connection.reply = reply;
        entry.guessed |= guessed;
        entry.translated[side as usize] = true;
        entry.translated[NatSide::Src as usize] |= side == NatSide::Dst;
    }

    /// Puts a connection into the table, or changes the one that is there; false if conntrack drops the packet.
    pub(super) fn committing(&mut self, id: EntryId, mark: Option<(u32, u32)>, labels: Option<(u128, u128)>) -> bool {
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
            return true;
        }
        let c = self.entries[&id].connection.clone();
        let same_addresses = |reply: &Tuple| (reply.src, reply.dst) == (c.reply.src, c.reply.dst);
        match self.committed(c.zone, c.original, same_addresses).map(|birth| birth.reply) {
            Some(reply) => self.entry(id).connection.reply = reply,
            None => {
                let others: Vec<EntryId> =
                    [c.original, c.reply].iter().filter_map(|t| self.by_tuple.get(&(c.zone, *t)).copied()).collect();
                if let Some(other) = others.first() {
                    // Another packet was first. Its entry serves where it says the same and the protocol permits it.
                    let same = self.entries[other].connection.reply == c.reply
                        && self.entries[other].connection.original == c.original;
                    let stateful = [proto::TCP, proto::ICMP, proto::ICMPV6, proto::SCTP, proto::DCCP];
                    let permitted = !stateful.contains(&c.original.proto);
                    return same && permitted;
                }
                if self.entries[&id].guessed {
                    // Nobody was told of it, so the tuple that it got is another's: the kernel drops the packet.
                    return false;
                }
            }
        }
        self.confirm(id);
        true
    }
}

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, proto::TCP | proto::UDP | proto::SCTP | proto::UDPLITE | proto::DCCP)
}

/// Whether a connection that is translated like this can have that reply tuple.
fn may_become(nat: &Nat, side: NatSide, reply: &Tuple) -> bool {
    let (address, port) = match side {
        NatSide::Src => (reply.dst, reply.dst_port),
        NatSide::Dst => (reply.src, reply.src_port),
    };
    let addresses = nat.addresses.is_none_or(|(low, high)| (low..=high).contains(&address));
    let ports = nat.ports.filter(|_| nat.addresses.is_some() && has_ports(reply.proto));
    addresses && ports.is_none_or(|(low, high)| (low..=high).contains(&port))
}
