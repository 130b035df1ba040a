//! What a packet does to its connection by its protocol.

use super::{Entry, EntryId, Tracker, offload};
use crate::conntrack::{
    Transport, dccp,
    dccp::Dccp,
    sctp,
    sctp::Sctp,
    tcp::{Segment, Tcp, Verdict},
};
use flowmerge::conntrack::{Direction, TcpState, proto};

impl Tracker {
    pub(super) fn transport(&mut self, id: EntryId, transport: &Transport, direction: Direction) -> Verdict {
        match transport {
            Transport::Tcp(segment) => self.tcp(id, segment, direction),
            Transport::Sctp(packet) => self.sctp(id, packet, direction),
            Transport::Dccp(packet) => self.dccp(id, packet, direction),
            Transport::Stateless => self.stateless(id),
        }
    }

    /// Of UDP, packets both ways for two seconds assure a connection.
    fn stateless(&mut self, id: EntryId) -> Verdict {
        let now = self.now;
        let entry = self.entry(id);
        let c = &entry.connection;
        let lasts = entry.born.is_some_and(|born| now.saturating_sub(born) > offload::STREAM);
        if c.original.proto == proto::UDP && c.seen_reply && !c.assured && lasts {
            self.update(id, |entry| entry.connection.assured = true);
        }
        Verdict::Accept
    }

    fn tcp(&mut self, id: EntryId, segment: &Segment, direction: Direction) -> Verdict {
        let resuming = self.resuming;
        let entry = self.entry(id);
        if resuming {
            // In OVS a packet may meet conntrack more often than is known.
            entry.tcp.lose_track();
        }
        if entry.tcp.state == TcpState::None && direction == Direction::Reply {
            // Committed by OVS, which does not report how far it was.
            entry.tcp = Tcp::seen_in(TcpState::SynSent);
        }
        let (replied, assured) = (entry.connection.seen_reply, entry.connection.assured);
        let mut verdict = Verdict::Invalid;
        self.update(id, |entry| {
            verdict = entry.tcp.packet(segment, direction, replied, assured);
            entry.connection.assured |= verdict == Verdict::Assure;
        });
        verdict
    }

    /// Whether the entry's states are followed: it is new, or they were from its first packet on.
    fn is_followed(&mut self, id: EntryId, known: impl Fn(&Entry) -> bool) -> bool {
        let resuming = self.resuming;
        let entry = self.entry(id);
        if resuming {
            (entry.sctp, entry.dccp) = (None, None);
        }
        !resuming && (!entry.confirmed || known(entry))
    }

    fn sctp(&mut self, id: EntryId, packet: &sctp::Packet, direction: Direction) -> Verdict {
        if !self.is_followed(id, |entry| entry.sctp.is_some()) {
            return Verdict::Accept;
        }
        let entry = self.entry(id);
        let Some(mut state) = entry.sctp.filter(|_| entry.confirmed).or_else(|| Sctp::first(packet)) else {
            return Verdict::Invalid;
        };
        let verdict = state.packet(packet, direction);
        entry.sctp = Some(state);
        match verdict {
            sctp::Verdict::Accept => Verdict::Accept,
            sctp::Verdict::Assure => {
                self.update(id, |entry| entry.connection.assured = true);
                Verdict::Accept
            }
            sctp::Verdict::Invalid => Verdict::Invalid,
        }
    }

    fn dccp(&mut self, id: EntryId, packet: &dccp::Packet, direction: Direction) -> Verdict {
        if !self.is_followed(id, |entry| entry.dccp.is_some()) {
            return Verdict::Accept;
        }
        let entry = self.entry(id);
        let Some(mut state) = entry.dccp.filter(|_| entry.confirmed).or_else(|| Dccp::first(packet)) else {
            return Verdict::Invalid;
        };
        let verdict = state.packet(packet, direction, entry.connection.seen_reply);
        entry.dccp = Some(state);
        match verdict {
            dccp::Verdict::Accept => Verdict::Accept,
            dccp::Verdict::Die => Verdict::Die,
            dccp::Verdict::Invalid => Verdict::Invalid,
        }
    }
}
