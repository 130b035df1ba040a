//! Connections as conntrack knows them, and the gate: which of them may be merged.
//!
//! The gate is act_ct's own (`net/sched/act_ct.c`, `tcf_ct_flow_table_process_conn`), less what a flower filter cannot
//! pin. It is one function, [`Connection::qualifies`], so that recording, merging and reporting cannot disagree.

mod handle;
pub mod tuple;

pub use handle::ConnectionHandle;
pub use tuple::{Direction, Tuple, proto};

use crate::flower::{
    Field, Key,
    field::{ip_flags, tcp_flags},
};
use std::fmt;

/// The caller's name for a connection while it lives; may be used again for another one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Conntrack's state of a TCP connection (`enum tcp_conntrack`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcpState {
    /// No packet yet.
    None,
    /// SYN seen.
    SynSent,
    /// SYN and ACK seen.
    SynRecv,
    /// Handshake complete.
    Established,
    /// FIN seen.
    FinWait,
    /// The other side acknowledged the FIN.
    CloseWait,
    /// Both FINs seen.
    LastAck,
    /// Both FINs acknowledged.
    TimeWait,
    /// Reset, or gone.
    Close,
    /// SYNs from both sides.
    SynSent2,
}

/// A conntrack entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Zone.
    pub zone: u16,
    /// The packets of the original direction, before any translation.
    pub original: Tuple,
    /// The packets of the reply direction, before they are translated back.
    pub reply: Tuple,
    /// For TCP.
    pub tcp: Option<TcpState>,
    /// A packet of the reply direction was seen (`IPS_SEEN_REPLY`).
    pub seen_reply: bool,
    /// `IPS_ASSURED`.
    pub assured: bool,
    /// Expected by another connection (`IPS_EXPECTED`).
    pub expected: bool,
    /// Has a helper.
    pub helper: bool,
    /// Has sequence numbers adjusted.
    pub seqadj: bool,
    /// Mark.
    pub mark: u32,
    /// Labels; bit 0 is label bit 0.
    pub labels: u128,
}

/// Why a connection may not be merged (yet).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NotQualified {
    /// Not TCP or UDP: flower cannot match its tuple, or cannot see its close.
    Protocol(u8),
    /// TCP that is not in the established state.
    NotEstablished,
    /// TCP that is not assured.
    NotAssured,
    /// UDP without a packet in the reply direction.
    NoReply,
    /// A helper reads its packets.
    Helper,
    /// Its sequence numbers are adjusted.
    SequenceAdjusted,
    /// Its packets look alike in both directions.
    OwnReply,
}

/// The TCP flags that decide whether a packet of an established connection may bypass conntrack, and their value where it may:
/// software goes on seeing what opens and closes.
pub const TCP_BYPASS: (u128, u128) =
    (tcp_flags::ACK | tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST, tcp_flags::ACK);

/// Whether a packet of an established connection must go through conntrack: fragments, and TCP that moves the state.
pub fn is_excluded(packet: &Key) -> bool {
    let (mask, value) = TCP_BYPASS;
    let tcp = packet.get(Field::IpProto) == u128::from(proto::TCP);
    packet.get(Field::IpFlags) & ip_flags::FRAG != 0 || tcp && packet.get(Field::TcpFlags) & mask != value
}

impl Connection {
    /// A connection of which nothing is known but its tuples: no reply seen, no state, mark and labels 0.
    pub fn new(zone: u16, original: Tuple, reply: Tuple) -> Connection {
        Connection {
            zone,
            original,
            reply,
            tcp: (original.proto == proto::TCP).then_some(TcpState::None),
            seen_reply: false,
            assured: false,
            expected: false,
            helper: false,
            seqadj: false,
            mark: 0,
            labels: 0,
        }
    }

    /// One with packets seen in both directions; TCP's handshake complete.
    pub fn established(zone: u16, original: Tuple, reply: Tuple) -> Connection {
        let unanswered = Connection::new(zone, original, reply);
        Connection { tcp: unanswered.tcp.map(|_| TcpState::Established), seen_reply: true, assured: true, ..unanswered }
    }

    /// The tuple of one direction.
    pub fn tuple(&self, direction: Direction) -> Tuple {
        match direction {
            Direction::Original => self.original,
            Direction::Reply => self.reply,
        }
    }

    /// What `ct nat` makes of a packet of this direction: the inverse of the other direction's tuple.
    pub fn translated(&self, direction: Direction) -> Tuple {
        self.tuple(direction.opposite()).inverse()
    }

    /// The gate.
    pub fn qualifies(&self) -> Result<(), NotQualified> {
        if self.helper {
            return Err(NotQualified::Helper);
        }
        if self.seqadj {
            return Err(NotQualified::SequenceAdjusted);
        }
        // In which direction conntrack finds a packet of such a tuple does not follow from the packet.
        if self.original == self.reply {
            return Err(NotQualified::OwnReply);
        }
        match self.original.proto {
            proto::TCP if self.tcp != Some(TcpState::Established) => Err(NotQualified::NotEstablished),
            proto::TCP if !self.assured => Err(NotQualified::NotAssured),
            proto::TCP => Ok(()),
            proto::UDP if !self.seen_reply => Err(NotQualified::NoReply),
            proto::UDP => Ok(()),
            other => Err(NotQualified::Protocol(other)),
        }
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "zone {} {}", self.zone, self.original)?;
        if self.reply != self.original.inverse() {
            write!(f, " translated to {}", self.translated(Direction::Original))?;
        }
        Ok(())
    }
}

impl fmt::Display for NotQualified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotQualified::Protocol(proto::ICMP | proto::ICMPV6) => {
                f.write_str("ICMP: flower cannot match the identifier, so its connection cannot be told apart")
            }
            NotQualified::Protocol(p) => write!(f, "IP protocol {p}: only TCP and UDP connections are merged"),
            NotQualified::NotEstablished => f.write_str("the TCP connection is not established"),
            NotQualified::NotAssured => f.write_str("the TCP connection is not assured"),
            NotQualified::NoReply => f.write_str("no reply was seen on the UDP connection"),
            NotQualified::Helper => f.write_str("a conntrack helper reads the connection"),
            NotQualified::OwnReply => f.write_str("the connection's packets look alike in both directions"),
            NotQualified::SequenceAdjusted => f.write_str("conntrack adjusts the connection's sequence numbers"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a packet from 10.0.0.1:80 to 10.0.0.1:80 Linux finds either direction: the flow table the original one, a lookup
    /// the reply's.
    #[test]
    fn a_connection_that_is_its_own_reply_does_not_qualify() {
        let host = "10.0.0.1".parse().expect("an address");
        let tuple = Tuple { src: host, dst: host, proto: proto::UDP, src_port: 80, dst_port: 80 };
        let own = Connection::established(5, tuple, tuple);
        assert_eq!(own.qualifies(), Err(NotQualified::OwnReply));
        let other = Tuple { dst_port: 81, ..tuple };
        assert_eq!(Connection::established(5, other, other.inverse()).qualifies(), Ok(()));
    }
}
