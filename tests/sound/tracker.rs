//! A connection tracker of the tests' own: what conntrack does as far as filters can see it, without windows and timeouts.
//!
//! Zone 7 knows nobody whom it was not told of: what is unknown there is invalid. The other zones take up connections, also
//! in the middle.

use flowmerge::{
    conntrack::{Connection, Direction, TcpState, Tuple, proto},
    flower::action::{Nat, NatSide},
};
use merge_model::conntrack::{Conntrack, EntryId, Info, Shown, Tracked, Transport};

/// The zone that takes up nothing.
pub const STRICT: u16 = 7;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A connection, and whether it is in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub connection: Connection,
    /// Committed.
    pub confirmed: bool,
    /// It was not removed.
    pub alive: bool,
}

/// The tracker. An entry's id is its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracker {
    pub entries: Vec<Entry>,
    /// How many packets it was shown.
    pub shown: usize,
}

impl Tracker {
    pub fn new(connections: &[Connection]) -> Tracker {
        let entry = |c: &Connection| Entry { connection: *c, confirmed: true, alive: true };
        Tracker { entries: connections.iter().map(entry).collect(), shown: 0 }
    }

    fn find(&self, zone: u16, tuple: Tuple) -> Option<(EntryId, Direction)> {
        let there = |e: &&Entry| e.alive && e.confirmed && e.connection.zone == zone;
        let of = |i: usize, direction| Some((EntryId(i as u64), direction));
        self.entries.iter().enumerate().filter(|(_, e)| there(e)).find_map(|(i, e)| {
            if e.connection.original == tuple {
                of(i, Direction::Original)
            } else if e.connection.reply == tuple {
                of(i, Direction::Reply)
            } else {
                None
            }
        })
    }

    /// After a packet: what it opened and nobody committed is forgotten.
    pub fn sweep(&mut self) {
        for entry in self.entries.iter_mut().filter(|e| !e.confirmed) {
            entry.alive = false;
        }
    }

    /// The connections in the table.
    pub fn table(&self) -> Vec<Option<Connection>> {
        let there = |e: &Entry| (e.alive && e.confirmed).then_some(e.connection);
        let mut table: Vec<_> = self.entries.iter().map(there).collect();
        while table.last().is_some_and(Option::is_none) {
            table.pop();
        }
        table
    }

    fn begin(&mut self, zone: u16, shown: &Shown) -> Tracked {
        let mut connection = Connection::new(zone, shown.tuple, shown.tuple.inverse());
        if let Transport::Tcp(segment) = &shown.transport {
            connection.tcp = Some(match segment.flags & (SYN | ACK | FIN | RST) {
                SYN => TcpState::SynSent,
                // In the middle of it.
                ACK => TcpState::Established,
                _ => return Tracked::Invalid,
            });
        }
        if zone == STRICT {
            return Tracked::Invalid;
        }
        self.entries.push(Entry { connection, confirmed: false, alive: true });
        Tracked::Entry(EntryId(self.entries.len() as u64 - 1), Info::New)
    }
}

/// TCP's next state, without windows; `None` for what does not fit.
fn next(state: TcpState, direction: Direction, flags: u8) -> Option<TcpState> {
    use Direction::{Original, Reply};
    Some(match (flags & (SYN | ACK | FIN | RST), direction, state) {
        (f, ..) if f & RST != 0 => TcpState::Close,
        (SYN, Original, TcpState::SynSent | TcpState::SynRecv) => state,
        (SYN, ..) => return None,
        (f, Reply, TcpState::SynSent) if f == SYN | ACK => TcpState::SynRecv,
        (f, ..) if f & SYN != 0 => return None,
        (f, _, TcpState::Established | TcpState::CloseWait) if f & FIN != 0 => TcpState::FinWait,
        (_, Original, TcpState::SynRecv) => TcpState::Established,
        _ => state,
    })
}

impl Conntrack for Tracker {
    fn track(&mut self, zone: u16, shown: &Shown) -> Tracked {
        self.shown += 1;
        if let Some(inner) = shown.inner {
            return match self.find(zone, inner.inverse()) {
                Some((entry, Direction::Original)) => Tracked::Entry(entry, Info::Related),
                Some((entry, Direction::Reply)) => Tracked::Entry(entry, Info::RelatedReply),
                None => Tracked::Invalid,
            };
        }
        let Some((id, direction)) = self.find(zone, shown.tuple) else {
            return self.begin(zone, shown);
        };
        let connection = &mut self.entries[id.0 as usize].connection;
        if let (Transport::Tcp(segment), Some(state)) = (&shown.transport, connection.tcp) {
            let Some(next) = next(state, direction, segment.flags) else {
                return Tracked::Invalid;
            };
            connection.tcp = Some(next);
        }
        let answered = direction == Direction::Reply || connection.seen_reply;
        let established = matches!(connection.tcp, None | Some(TcpState::Established));
        if answered && established && shown.tuple.proto != proto::ICMP {
            connection.assured = connection.assured || connection.seen_reply || direction == Direction::Reply;
        }
        connection.seen_reply = answered;
        let info = match (direction, answered) {
            (Direction::Reply, _) => Info::EstablishedReply,
            (Direction::Original, true) => Info::Established,
            (Direction::Original, false) if connection.expected => Info::Related,
            (Direction::Original, false) => Info::New,
        };
        Tracked::Entry(id, info)
    }

    fn connection(&self, entry: EntryId) -> &Connection {
        &self.entries[entry.0 as usize].connection
    }

    fn is_confirmed(&self, entry: EntryId) -> bool {
        self.entries[entry.0 as usize].confirmed
    }

    fn translate(&mut self, entry: EntryId, nat: &Nat) {
        let reply = &mut self.entries[entry.0 as usize].connection.reply;
        let (address, port) = match nat.side {
            None => return,
            Some(NatSide::Src) => (&mut reply.dst, &mut reply.dst_port),
            Some(NatSide::Dst) => (&mut reply.src, &mut reply.src_port),
        };
        if let Some((lowest, _)) = nat.addresses.filter(|a| a.0.is_ipv4() == address.is_ipv4()) {
            *address = lowest;
        }
        if let (Some((lowest, _)), proto::TCP | proto::UDP) = (nat.ports, reply.proto) {
            *port = lowest;
        }
    }

    fn commit(&mut self, id: EntryId, mark: Option<(u32, u32)>, labels: Option<(u128, u128)>) -> Option<EntryId> {
        let entry = &self.entries[id.0 as usize];
        let Connection { zone, original, reply, .. } = entry.connection;
        if !entry.confirmed && [original, reply].into_iter().any(|tuple| self.find(zone, tuple).is_some()) {
            // Another one has its place.
            return None;
        }
        let entry = &mut self.entries[id.0 as usize];
        entry.confirmed = true;
        let connection = &mut entry.connection;
        if let Some((value, mask)) = mark {
            connection.mark = connection.mark & !mask | value;
        }
        if let Some((value, mask)) = labels {
            connection.labels = connection.labels & !mask | value & mask;
        }
        Some(id)
    }

    fn kill(&mut self, entry: EntryId) {
        self.entries[entry.0 as usize].alive = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::connections;

    /// A handshake, an end; a mark at commit.
    #[test]
    fn a_connection_opens_and_closes() {
        let c = &connections()[0];
        let tuple = Tuple { src_port: 7777, ..c.original };
        let mut tracker = Tracker::new(&[]);
        let mut see = |tuple, flags| {
            let segment = merge_model::conntrack::tcp::Segment { flags, ..Default::default() };
            let shown = Shown { tuple, transport: Transport::Tcp(segment), inner: None };
            let Tracked::Entry(id, info) = tracker.track(5, &shown) else { return None };
            if info == Info::New {
                assert_eq!(tracker.commit(id, Some((3, 3)), None), Some(id));
            }
            Some((info, tracker.connection(id).qualifies().is_ok(), tracker.connection(id).mark))
        };
        assert_eq!(see(tuple.inverse(), FIN | ACK), None);
        assert_eq!(see(tuple, SYN), Some((Info::New, false, 3)));
        assert_eq!(see(tuple.inverse(), SYN | ACK), Some((Info::EstablishedReply, false, 3)));
        assert_eq!(see(tuple, ACK), Some((Info::Established, true, 3)));
        assert_eq!(see(tuple, SYN), None);
        assert_eq!(see(tuple.inverse(), FIN | ACK), Some((Info::EstablishedReply, false, 3)));
    }
}
