//! TCP as conntrack follows it: from the flags of a packet, its direction and the state before, to the state after.
//!
//! The kernel's is `net/netfilter/nf_conntrack_proto_tcp.c` (`nf_conntrack_tcp_packet`, `tcp_new`, `tcp_error`). This one
//! takes every packet to be inside the window: a known difference. Sequence numbers count where they say whether a reset
//! or the answer to a stray SYN is meant for this connection.
//!
//! That matters for resets above all. Once act_ct has put a connection into the kernel's flow table, conntrack sees no
//! more of its data, so that a reset seldom has the number that conntrack waits for: the connection stays established.

use flowmerge::conntrack::{Direction, TcpState};

/// What conntrack reads of a TCP header, in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The flags byte: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// The sequence number behind this segment: data, SYN and FIN count.
    pub end: u32,
}

/// The bits of the TCP flags byte.
mod flag {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
    pub const URG: u8 = 32;
    pub const ECE: u8 = 64;
    pub const CWR: u8 = 128;
}

/// What a segment is to conntrack, by its flags alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
}

impl Sort {
    /// `None` for combinations of flags that no sane stack sends; such packets are invalid in every state.
    fn of(flags: u8) -> Option<Sort> {
        use flag::*;
        let urgent = flags & URG != 0;
        Some(match flags & !(PSH | ECE | CWR | URG) {
            SYN => Sort::Syn,
            b if b == SYN | ACK && !urgent => Sort::SynAck,
            RST if !urgent => Sort::Rst,
            b if b == RST | ACK && !urgent => Sort::Rst,
            b if b == FIN | ACK => Sort::Fin,
            ACK => Sort::Ack,
            _ => return None,
        })
    }
}

/// What the table says of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    To(TcpState),
    /// Let through, state kept: who knows whether we or the ends are out of step.
    Ignore,
    Invalid,
}

/// The table of transitions.
fn next(direction: Direction, sort: Sort, state: TcpState) -> Next {
    use {Direction::*, Next::*, TcpState as S};
    match (sort, direction) {
        (Sort::Syn, Original) => match state {
            S::None | S::SynSent | S::TimeWait | S::Close => To(S::SynSent),
            S::SynSent2 => To(S::SynSent2),
            _ => Ignore,
        },
        (Sort::Syn, Reply) => match state {
            S::SynSent | S::SynSent2 => To(S::SynSent2),
            S::TimeWait => To(S::SynSent),
            _ => Invalid,
        },
        (Sort::SynAck, Original) => match state {
            S::SynRecv | S::SynSent2 => To(S::SynRecv),
            _ => Invalid,
        },
        (Sort::SynAck, Reply) => match state {
            S::None => Invalid,
            S::SynSent | S::SynSent2 => To(S::SynRecv),
            _ => Ignore,
        },
        (Sort::Fin, _) => match state {
            S::None | S::SynSent | S::SynSent2 => Invalid,
            S::SynRecv | S::Established => To(S::FinWait),
            S::FinWait | S::CloseWait | S::LastAck => To(S::LastAck),
            S::TimeWait | S::Close => To(state),
        },
        (Sort::Ack, _) => match (state, direction) {
            (S::None, Original) => To(S::Established),
            (S::None, Reply) => Invalid,
            (S::SynSent | S::SynSent2, Original) => Invalid,
            (S::SynSent | S::SynSent2, Reply) => Ignore,
            (S::SynRecv, Original) => To(S::Established),
            (S::SynRecv, Reply) => To(S::SynRecv),
            (S::FinWait | S::CloseWait, _) => To(S::CloseWait),
            (S::LastAck | S::TimeWait, _) => To(S::TimeWait),
            (S::Established | S::Close, _) => To(state),
        },
        (Sort::Rst, _) => match state {
            S::None => Invalid,
            _ => To(S::Close),
        },
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It belongs to the connection, whose state may have changed.
    Accept,
    /// As `Accept`, and the connection becomes assured: data or an acknowledgement in an established connection that has
    /// seen a reply.
    Assure,
    /// As `Accept`, and the connection ends at once: a reset before any reply was seen.
    Die,
    /// It does not belong to the connection.
    Invalid,
    /// A SYN on a closed connection: the old one goes, and the packet is looked up again.
    Reopen,
}

/// What conntrack remembers of a TCP connection besides its windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// The state.
    pub state: TcpState,
    last: Option<(Sort, Direction)>,
    /// Where the last ACK, or the last segment that was let through, ended.
    last_end: u32,
    /// The highest number that each direction acknowledged.
    acknowledged: [Option<u32>; 2],
    /// A FIN began an orderly close.
    closing: bool,
    /// SYNs crossed.
    simultaneous: bool,
    /// A SYN was let through in LAST_ACK: the next ACK of the other side is the answer to it, not to the FIN.
    challenged: bool,
}

impl Tcp {
    /// Before the first packet.
    pub const NEW: Tcp = Tcp {
        state: TcpState::None,
        last: None,
        last_end: 0,
        acknowledged: [None; 2],
        closing: false,
        simultaneous: false,
        challenged: false,
    };

    /// A connection first seen in that state. How it came there is not known; where it is over, an orderly close is assumed.
    pub fn seen_in(state: TcpState) -> Tcp {
        use TcpState as S;
        Tcp {
            state,
            closing: matches!(state, S::FinWait | S::CloseWait | S::LastAck | S::TimeWait | S::Close),
            ..Tcp::NEW
        }
    }

    /// Takes the state that the kernel reports, keeping what else is remembered where the two agree.
    pub fn correct(&mut self, state: TcpState) {
        if self.state != state {
            self.closing |= Tcp::seen_in(state).closing;
            self.state = state;
        }
    }

    /// A packet arrives. `replied` and `assured` are the connection's, before it.
    pub fn packet(&mut self, segment: Segment, direction: Direction, replied: bool, assured: bool) -> Verdict {
        use TcpState as S;
        let Some(sort) = Sort::of(segment.flags) else {
            return Verdict::Invalid;
        };
        let old = self.state;
        let answers_syn = self.last == Some((Sort::Syn, direction.opposite()));
        let mut new = match next(direction, sort, old) {
            Next::Invalid => return Verdict::Invalid,
            Next::To(S::SynSent) if matches!(old, S::TimeWait | S::Close | S::SynSent2) => {
                // A closed connection is opened again. If nobody closed it in order, nor this side by reset, the SYN
                // may be stray: it passes and changes nothing.
                if self.closing || self.last == Some((Sort::Rst, direction)) {
                    return Verdict::Reopen;
                }
                return self.ignore(sort, segment, direction);
            }
            // The answer to a SYN that was let through before: both ends agree, so we were out of step.
            Next::Ignore if sort == Sort::SynAck && answers_syn && segment.ack == self.last_end => {
                *self = Tcp::seen_in(S::SynSent);
                S::SynRecv
            }
            Next::Ignore => return self.ignore(sort, segment, direction),
            Next::To(S::TimeWait) if old == S::LastAck && sort == Sort::Ack && answers_syn && self.challenged => {
                self.challenged = false;
                return Verdict::Accept;
            }
            Next::To(S::Close) if sort == Sort::Rst => match self.reset(segment, direction, assured) {
                Some(state) => state,
                None => return Verdict::Invalid,
            },
            Next::To(state) => state,
        };
        match new {
            S::SynSent2 => self.simultaneous = true,
            S::SynRecv if direction == Direction::Reply && sort == Sort::Ack && self.simultaneous => {
                new = S::Established;
            }
            S::FinWait if old != new => self.closing = true,
            _ => {}
        }
        self.remember(sort, segment, direction);
        self.state = new;
        match (replied, sort) {
            (false, Sort::Rst) => Verdict::Die,
            (true, _) if !assured && new == S::Established && matches!(old, S::SynRecv | S::Established) => {
                Verdict::Assure
            }
            _ => Verdict::Accept,
        }
    }

    /// The state after a reset. `None`: it is older than what its receiver has acknowledged.
    fn reset(&self, segment: Segment, direction: Direction, assured: bool) -> Option<TcpState> {
        use TcpState as S;
        let established = self.state == S::Established && assured;
        let is_over = matches!(self.state, S::FinWait | S::CloseWait | S::LastAck | S::TimeWait | S::Close);
        let after_syn = matches!(self.last, Some((Sort::Syn, _)));
        let expected = self.acknowledged[direction.opposite() as usize].filter(|_| !is_over && !after_syn);
        let Some(expected) = expected else {
            return Some(S::Close);
        };
        if segment.seq == 0 && !established {
            return Some(S::Close);
        }
        if is_before(segment.seq, expected) {
            return None;
        }
        let follows = self.last == Some((Sort::Ack, direction)) && segment.seq == self.last_end;
        match !established || segment.seq == expected || follows {
            true => Some(S::Close),
            // Maybe not the other end's: its answer will tell.
            false => Some(self.state),
        }
    }

    fn remember(&mut self, sort: Sort, segment: Segment, direction: Direction) {
        self.last = Some((sort, direction));
        let acknowledged = &mut self.acknowledged[direction as usize];
        match sort {
            Sort::Syn => *acknowledged = None,
            Sort::SynAck => *acknowledged = Some(segment.ack),
            _ if segment.flags & flag::ACK != 0 && acknowledged.is_none_or(|a| is_before(a, segment.ack)) => {
                *acknowledged = Some(segment.ack);
            }
            _ => {}
        }
        if sort == Sort::Ack {
            self.last_end = segment.end;
        }
    }

    fn ignore(&mut self, sort: Sort, segment: Segment, direction: Direction) -> Verdict {
        self.last = Some((sort, direction));
        self.last_end = segment.end;
        if sort == Sort::Syn && direction == Direction::Original {
            self.challenged = self.state == TcpState::LastAck;
        }
        Verdict::Accept
    }
}

/// Whether a sequence number comes before another, around the end of the numbers too.
fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::{flag::*, *};
    use Direction::{Original as O, Reply as R};

    /// Both sides stay at number 0, so that all numbers fit.
    fn segment(flags: u8) -> Segment {
        Segment { flags, seq: 0, ack: 0, end: 0 }
    }

    /// Runs segments through a new connection: the verdicts, and the state at the end. As the tracker does, a packet of
    /// the reply direction that is accepted counts as a reply.
    fn run(segments: &[(u8, Direction)]) -> (Vec<Verdict>, TcpState) {
        let (mut tcp, mut replied, mut assured) = (Tcp::NEW, false, false);
        let verdicts = segments
            .iter()
            .map(|&(flags, direction)| {
                let verdict = tcp.packet(segment(flags), direction, replied, assured);
                replied |= direction == R && verdict != Verdict::Invalid;
                assured |= verdict == Verdict::Assure;
                verdict
            })
            .collect();
        (verdicts, tcp.state)
    }

    #[test]
    fn from_handshake_to_time_wait_and_again() {
        use Verdict::*;
        let (verdicts, state) = run(&[
            (SYN, O),
            (SYN | ACK, R),
            (ACK, O),
            (ACK | PSH, R),
            (FIN | ACK, O),
            (ACK, R),
            (FIN | ACK, R),
            (ACK, O),
            (SYN, O),
        ]);
        assert_eq!(verdicts, [Accept, Accept, Assure, Accept, Accept, Accept, Accept, Accept, Reopen]);
        assert_eq!(state, TcpState::TimeWait);
    }

    #[test]
    fn a_first_packet_may_be_a_syn_or_any_acknowledgement() {
        assert_eq!(run(&[(SYN | ECE | CWR, O)]), (vec![Verdict::Accept], TcpState::SynSent));
        assert_eq!(run(&[(ACK | PSH, O)]), (vec![Verdict::Accept], TcpState::Established));
        for invalid in [SYN | ACK, FIN | ACK, RST, RST | ACK, FIN, 0, SYN | FIN, FIN | PSH | URG] {
            assert_eq!(run(&[(invalid, O)]).0, [Verdict::Invalid], "{invalid:#x}");
        }
    }

    #[test]
    fn a_picked_up_connection_is_assured_by_the_packet_after_the_answer() {
        let (verdicts, state) = run(&[(ACK, O), (ACK, R), (ACK, O)]);
        assert_eq!(verdicts, [Verdict::Accept, Verdict::Accept, Verdict::Assure]);
        assert_eq!(state, TcpState::Established);
    }

    #[test]
    fn a_refused_connection_dies_or_closes() {
        assert_eq!(run(&[(SYN, O), (RST | ACK, R)]), (vec![Verdict::Accept, Verdict::Die], TcpState::Close));
        // The server refused an established one: the client's next SYN is let through, and the answer brings us in step.
        let (verdicts, state) = run(&[(SYN, O), (SYN | ACK, R), (ACK, O), (RST, R), (SYN, O), (SYN | ACK, R)]);
        assert!(!verdicts.contains(&Verdict::Reopen));
        assert_eq!(state, TcpState::SynRecv);
        // The client itself reset it: its SYN opens a new one.
        assert_eq!(run(&[(SYN, O), (SYN | ACK, R), (RST, O), (SYN, O)]).0[3], Verdict::Reopen);
    }

    #[test]
    fn a_challenge_answers_a_syn_not_the_last_fin() {
        let closed = [(SYN, O), (SYN | ACK, R), (ACK, O), (FIN | ACK, O), (FIN | ACK, R)];
        assert_eq!(run(&[&closed[..], &[(SYN, O), (ACK, R)]].concat()).1, TcpState::LastAck);
        assert_eq!(run(&[&closed[..], &[(ACK, O)]].concat()).1, TcpState::TimeWait);
    }

    #[test]
    fn a_reset_counts_if_its_number_is_the_one_acknowledged() {
        let mut tcp = Tcp::NEW;
        for (flags, direction) in [(SYN, O), (SYN | ACK, R), (ACK, O)] {
            tcp.packet(Segment { ack: 100, ..segment(flags) }, direction, true, false);
        }
        let reset = |seq| Segment { seq, ..segment(RST) };
        let after = |seq| {
            let mut tcp = tcp;
            (tcp.packet(reset(seq), O, true, true), tcp.state)
        };
        assert_eq!(after(100), (Verdict::Accept, TcpState::Close));
        assert_eq!(after(99), (Verdict::Invalid, TcpState::Established));
        assert_eq!(after(400), (Verdict::Accept, TcpState::Established));
    }
}
