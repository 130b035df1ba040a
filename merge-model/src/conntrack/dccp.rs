//! DCCP as conntrack follows it (`net/netfilter/nf_conntrack_proto_dccp.c`, 6.1.192; RFC 4340): from a packet's type, the
//! part its sender plays and the state before, to the state after, or to the verdict that it is none of the connection's.

use flowmerge::conntrack::Direction;

/// Packet types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Request,
    Response,
    Data,
    Ack,
    DataAck,
    CloseReq,
    Close,
    Reset,
    Sync,
    SyncAck,
}

const KINDS: [Kind; 10] = [
    Kind::Request,
    Kind::Response,
    Kind::Data,
    Kind::Ack,
    Kind::DataAck,
    Kind::CloseReq,
    Kind::Close,
    Kind::Reset,
    Kind::Sync,
    Kind::SyncAck,
];

/// What conntrack reads of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    kind: Kind,
}

impl Packet {
    /// Reads a packet whose checksum is right. `None` if it is too short for its type, of no known type, or lacks the long
    /// sequence numbers that most types must have.
    pub fn read(bytes: &[u8]) -> Option<Packet> {
        let header = bytes.first_chunk::<12>()?;
        let kind = *KINDS.get(usize::from(header[8] >> 1 & 0xf))?;
        let long = header[8] & 1 != 0;
        let may_be_short = matches!(kind, Kind::Data | Kind::Ack | Kind::DataAck);
        let behind = match kind {
            Kind::Data => 0,
            Kind::Request => 4,
            Kind::Response | Kind::Reset => 12,
            _ => 8,
        };
        let whole = bytes.len() >= 12 + if long { 4 } else { 0 } + behind;
        (whole && (long || may_be_short)).then_some(Packet { kind })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Request,
    Respond,
    PartOpen,
    Open,
    CloseReq,
    Closing,
    TimeWait,
}

enum Next {
    To(State),
    /// Let through, state kept.
    Ignore,
    Invalid,
}

fn next(client: bool, kind: Kind, state: State) -> Next {
    use {Kind as K, Next::*, State as S};
    match (kind, client) {
        (K::Request, _) if state == S::TimeWait => To(S::Request),
        (K::Request, true) if matches!(state, S::Request | S::Respond) => To(state),
        (K::Response, false) if matches!(state, S::Request | S::Respond) => To(S::Respond),
        (K::Response, _) if state == S::TimeWait => Invalid,
        (K::Request | K::Response | K::Sync | K::SyncAck, _) => Ignore,
        (K::Reset, true) if state == S::TimeWait => Ignore,
        (K::Reset, _) => To(S::TimeWait),
        (K::CloseReq, true) => Invalid,
        (_, _) if matches!(state, S::Request | S::TimeWait) => Invalid,
        (K::Ack | K::DataAck, true) => match state {
            S::Respond => To(S::PartOpen),
            _ => To(state),
        },
        (K::Close, true) => match state {
            S::Respond | S::Closing => Invalid,
            _ => To(S::Closing),
        },
        (K::Data, true) => match state {
            S::Respond | S::PartOpen => Invalid,
            _ => To(state),
        },
        (_, false) if state == S::Respond => Invalid,
        (K::CloseReq, false) => To(S::CloseReq),
        (_, false) if state == S::CloseReq => Invalid,
        (K::Close, false) => To(S::Closing),
        (K::Ack | K::Data | K::DataAck, false) => match state {
            S::PartOpen => To(S::Open),
            _ => To(state),
        },
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It belongs to the connection.
    Accept,
    /// As `Accept`, and the connection ends: a reset before any reply.
    Die,
    /// It does not.
    Invalid,
}

/// What conntrack remembers of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dccp {
    state: State,
    /// Who sends as the client does.
    client: Direction,
    last: (Kind, Direction),
}

impl Dccp {
    /// A connection's first packet. `None` if none begins with it.
    pub fn first(packet: &Packet) -> Option<Dccp> {
        let client = Direction::Original;
        (packet.kind == Kind::Request).then_some(Dccp { state: State::Request, client, last: (Kind::Request, client) })
    }

    /// A packet arrives; of a first one [`Dccp::first`] was taken before.
    pub fn packet(&mut self, packet: &Packet, direction: Direction, replied: bool) -> Verdict {
        let Packet { kind } = *packet;
        if kind == Kind::Reset && !replied {
            return Verdict::Die;
        }
        match next(self.client == direction, kind, self.state) {
            Next::Invalid => return Verdict::Invalid,
            Next::To(state) => {
                if state == State::Request {
                    // A connection that is over may begin anew the other way round.
                    self.client = direction;
                }
                self.state = state;
            }
            // The answer to a request that was let through: the ends agree.
            Next::Ignore if kind == Kind::Response && self.last == (Kind::Request, direction.opposite()) => {
                self.client = direction.opposite();
                self.state = State::Respond;
            }
            Next::Ignore => {}
        }
        self.last = (kind, direction);
        Verdict::Accept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Original as O, Reply as R};

    fn run(packets: &[(Kind, Direction)]) -> (Vec<Verdict>, State) {
        let mut dccp = Dccp::first(&Packet { kind: packets[0].0 }).unwrap();
        let mut replied = false;
        let verdicts = packets.iter().map(|&(kind, direction)| {
            let verdict = dccp.packet(&Packet { kind }, direction, replied);
            replied |= direction == R && verdict == Verdict::Accept;
            verdict
        });
        (verdicts.collect(), dccp.state)
    }

    const OPEN: [(Kind, Direction); 4] = [(Kind::Request, O), (Kind::Response, R), (Kind::Ack, O), (Kind::Data, R)];

    #[test]
    fn from_request_to_time_wait_and_the_other_way_round() {
        assert_eq!(run(&OPEN).1, State::Open);
        let rest = [(Kind::CloseReq, R), (Kind::Close, O), (Kind::Reset, R), (Kind::Request, R), (Kind::Response, O)];
        let (verdicts, state) = run(&[&OPEN[..], &rest].concat());
        assert_eq!(verdicts, [Verdict::Accept; 9]);
        assert_eq!(state, State::Respond);
    }

    #[test]
    fn only_a_request_begins_a_connection_and_a_reset_alone_ends_it() {
        for kind in KINDS {
            assert_eq!(Dccp::first(&Packet { kind }).is_some(), kind == Kind::Request);
        }
        assert_eq!(run(&[(Kind::Request, O), (Kind::Reset, R)]).0[1], Verdict::Die);
        assert_eq!(run(&[(Kind::Request, O), (Kind::Data, O)]).0[1], Verdict::Invalid);
    }

    #[test]
    fn too_short_or_with_short_numbers() {
        let read = |kind: u8, len| Packet::read(&[&[0; 8][..], &[kind << 1 | 1], &vec![0; len - 9_usize]].concat());
        assert!(read(0, 19).is_none() && read(0, 20).is_some());
        assert!(read(1, 27).is_none() && read(1, 28).is_some());
        assert!(read(2, 15).is_none() && read(2, 16).is_some());
        assert!(read(10, 40).is_none());
        assert!(Packet::read(&[0; 40]).is_none(), "a request needs the long numbers");
        assert!(Packet::read(&[&[0; 8][..], &[2 << 1, 0, 0, 0]].concat()).is_some());
    }
}
