//! act_ct's flow table (`net/sched/act_ct.c`, `net/netfilter/nf_flow_table_core.c`; 6.1.192): a connection that has come so
//! far goes into it after any `ct` action of its zone, whatever else that action does. From then on its packets get their
//! connection from the table. Conntrack does not see them: no checksum is verified, no window or state moves.
//!
//! - TCP goes in established and assured, by a packet of its own, and has both its sides made liberal about windows for
//!   good. UDP goes in as soon as it is confirmed, by an ICMP error about it too; but until it is assured its packets are
//!   shown to conntrack all the same. A helper or adjusted sequence numbers keep a connection out.
//! - FIN and RST, sound or not, take it out, and TCP's windows are forgotten; it comes back if it is still established
//!   after that packet. So does half a minute without a packet.

use super::{EntryId, Tracker};
use crate::conntrack::{Glimpse, Info};
use flowmerge::{
    conntrack::{Direction, TcpState, proto},
    netlink::ConnectionMessage,
};

/// How long a connection stays in the table without a packet (`nf_flowtable_tcp_timeout`, `nf_flowtable_udp_timeout`), with
/// the time that the collector takes to notice.
const IDLE: u64 = 31_000_000_000;

/// What a UDP connection must last to be assured by the next packet, with the clock's coarseness.
pub(super) const STREAM: u64 = 2_020_000_000;

impl Tracker {
    pub(super) fn bypassing(&mut self, zone: u16, glimpse: &Glimpse) -> Option<(EntryId, Info)> {
        let (id, direction) = self.find(zone, glimpse.tuple)?;
        let now = self.now;
        // OVS's own datapath knows nothing of this table.
        let used = self.entry(id).offloaded.filter(|_| !self.resuming)?;
        if glimpse.ends || now.saturating_sub(used) > IDLE {
            self.tear_down(id);
            return None;
        }
        self.entry(id).offloaded = Some(now);
        if self.expired(id, zone, glimpse.tuple) || !self.entries[&id].connection.assured {
            return None;
        }
        self.entry(id).touched = Some(now);
        self.passage.moved.push((zone, id));
        let c = &self.entries[&id].connection;
        let info = match direction {
            Direction::Reply if c.original == c.reply => Info::Established,
            Direction::Original if self.entries[&id].connection.seen_reply => Info::Established,
            Direction::Original => Info::New,
            Direction::Reply => Info::EstablishedReply,
        };
        Some((id, info))
    }

    /// It keeps what its state gives it to live, less what it had in the table: a closed one, by a reset that only conntrack
    /// saw, ends there and then, which is told.
    fn tear_down(&mut self, id: EntryId) {
        let entry = self.entry(id);
        entry.offloaded = None;
        (entry.told, entry.touched) = (None, None);
        entry.tcp.forget_windows();
    }

    /// A dump tells of a connection in the table; of TCP then not the state, which it must have got in with.
    pub(super) fn was_offloaded(&mut self, id: EntryId, told: &ConnectionMessage) {
        self.update(id, |entry| {
            // When it was used last is not told, and it may be used soon.
            entry.offloaded = Some(u64::MAX);
            entry.tcp.correct(told.tcp.unwrap_or(TcpState::Established));
            entry.tcp.be_liberal();
        });
    }

    pub(super) fn offloading(&mut self, id: EntryId, info: Info) {
        let (now, resuming) = (self.now, self.resuming);
        let entry = self.entry(id);
        let c = &entry.connection;
        let ready = match c.original.proto {
            proto::TCP => {
                let own = matches!(info, Info::Established | Info::EstablishedReply);
                own && c.assured && c.tcp == Some(TcpState::Established)
            }
            proto::UDP => entry.confirmed,
            _ => false,
        };
        if ready && !resuming && !entry.dead && !c.helper && !c.seqadj && entry.offloaded.is_none() {
            entry.offloaded = Some(now);
            entry.tcp.be_liberal();
        }
    }
}
