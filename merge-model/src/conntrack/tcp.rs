//! TCP as conntrack follows it: from the flags of a packet, its direction and the state before, to the state after.
//!
//! The kernel's is `net/netfilter/nf_conntrack_proto_tcp.c` (`nf_conntrack_tcp_packet`, `tcp_new`, `tcp_error`). This one
//! knows no sequence numbers: every packet is taken to be inside the window, and an acknowledgement to acknowledge what
//! it should. That is a known difference; a trace that says otherwise in its ctnetlink messages is believed.

use flowmerge::conntrack::{Direction, TcpState};

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
enum Segment {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
}

impl Segment {
    /// `None` for combinations of flags that no sane stack sends; such packets are invalid in every state.
    fn of(flags: u8) -> Option<Segment> {
        use flag::*;
        let urgent = flags & URG != 0;
        Some(match flags & !(PSH | ECE | CWR | URG) {
            SYN => Segment::Syn,
            b if b == SYN | ACK && !urgent => Segment::SynAck,
            RST if !urgent => Segment::Rst,
            b if b == RST | ACK && !urgent => Segment::Rst,
            b if b == FIN | ACK => Segment::Fin,
            ACK => Segment::Ack,
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
fn next(direction: Direction, segment: Segment, state: TcpState) -> Next {
    use {Direction::*, Next::*, TcpState as S};
    match (segment, direction) {
        (Segment::Syn, Original) => match state {
            S::None | S::SynSent | S::TimeWait | S::Close => To(S::SynSent),
            S::SynSent2 => To(S::SynSent2),
            _ => Ignore,
        },
        (Segment::Syn, Reply) => match state {
            S::SynSent | S::SynSent2 => To(S::SynSent2),
            S::TimeWait => To(S::SynSent),
            _ => Invalid,
        },
        (Segment::SynAck, Original) => match state {
            S::SynRecv | S::SynSent2 => To(S::SynRecv),
            _ => Invalid,
        },
        (Segment::SynAck, Reply) => match state {
            S::None => Invalid,
            S::SynSent | S::SynSent2 => To(S::SynRecv),
            _ => Ignore,
        },
        (Segment::Fin, _) => match state {
            S::None | S::SynSent | S::SynSent2 => Invalid,
            S::SynRecv | S::Established => To(S::FinWait),
            S::FinWait | S::CloseWait | S::LastAck => To(S::LastAck),
            S::TimeWait | S::Close => To(state),
        },
        (Segment::Ack, _) => match (state, direction) {
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
        (Segment::Rst, _) => match state {
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
    last: Option<(Segment, Direction)>,
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
        closing: false,
        simultaneous: false,
        challenged: false,
    };

    /// A connection first seen in that state. How it came there is not known; where it is over, an orderly close is assumed.
    pub fn seen_in(state: TcpState) -> Tcp {
        Tcp {
            state,
            closing: matches!(
                state,
                TcpState::FinWait | TcpState::CloseWait | TcpState::LastAck | TcpState::TimeWait | TcpState::Close
            ),
            ..Tcp::NEW
        }
    }

    /// Takes the state that the kernel reports, keeping what else is remembered where the two agree.
    pub fn correct(&mut self, state: TcpState) {
        if self.state != state {
            *self = Tcp {
                last: self.last,
                closing: self.closing || Tcp::seen_in(state).closing,
                simultaneous: self.simultaneous,
                ..Tcp::seen_in(state)
            };
        }
    }

    /// A packet with these flags arrives. `replied` and `assured` are the connection's, before it.
    pub fn packet(&mut self, flags: u8, direction: Direction, replied: bool, assured: bool) -> Verdict {
        use TcpState as S;
        let Some(segment) = Segment::of(flags) else {
            return Verdict::Invalid;
        };
        let old = self.state;
        let answered_syn = self.last == Some((Segment::Syn, direction.opposite()));
        let mut new = match next(direction, segment, old) {
            Next::Invalid => return Verdict::Invalid,
            Next::To(S::SynSent) if matches!(old, S::TimeWait | S::Close | S::SynSent2) => {
                // A closed connection is opened again. If nobody closed it in order, nor this side by reset, the SYN
                // may be stray: it passes and changes nothing.
                if self.closing || self.last == Some((Segment::Rst, direction)) {
                    return Verdict::Reopen;
                }
                return self.ignore(segment, direction);
            }
            // The answer to a SYN that was let through before: both ends agree, so we were out of step.
            Next::Ignore if segment == Segment::SynAck && answered_syn => {
                (self.closing, self.simultaneous, self.challenged) = (false, false, false);
                S::SynRecv
            }
            Next::Ignore => return self.ignore(segment, direction),
            Next::To(S::TimeWait)
                if old == S::LastAck && segment == Segment::Ack && answered_syn && self.challenged =>
            {
                self.challenged = false;
                return Verdict::Accept;
            }
            Next::To(state) => state,
        };
        match new {
            S::SynSent2 => self.simultaneous = true,
            S::SynRecv if direction == Direction::Reply && segment == Segment::Ack && self.simultaneous => {
                new = S::Established;
            }
            S::FinWait if old != new => self.closing = true,
            _ => {}
        }
        self.last = Some((segment, direction));
        self.state = new;
        match (replied, segment) {
            (false, Segment::Rst) => Verdict::Die,
            (true, _) if !assured && new == S::Established && matches!(old, S::SynRecv | S::Established) => {
                Verdict::Assure
            }
            _ => Verdict::Accept,
        }
    }

    fn ignore(&mut self, segment: Segment, direction: Direction) -> Verdict {
        self.last = Some((segment, direction));
        if segment == Segment::Syn && direction == Direction::Original {
            self.challenged = self.state == TcpState::LastAck;
        }
        Verdict::Accept
    }
}

#[cfg(test)]
mod tests {
    use super::{flag::*, *};
    use Direction::{Original as O, Reply as R};

    /// Runs segments through a new connection: the verdicts, and the state at the end. As the tracker does, a packet of
    /// the reply direction that is accepted counts as a reply.
    fn run(segments: &[(u8, Direction)]) -> (Vec<Verdict>, TcpState) {
        let (mut tcp, mut replied, mut assured) = (Tcp::NEW, false, false);
        let verdicts = segments
            .iter()
            .map(|&(flags, direction)| {
                let verdict = tcp.packet(flags, direction, replied, assured);
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
        assert_eq!(
            verdicts,
            [Accept, Accept, Assure, Accept, Accept, Accept, Accept, Accept, Reopen]
        );
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
        assert_eq!(
            run(&[(SYN, O), (RST | ACK, R)]),
            (vec![Verdict::Accept, Verdict::Die], TcpState::Close)
        );
        // The server refused an established one: the client's next SYN is let through, and the answer brings us in step.
        let (verdicts, state) = run(&[(SYN, O), (SYN | ACK, R), (ACK, O), (RST, R), (SYN, O), (SYN | ACK, R)]);
        assert!(!verdicts.contains(&Verdict::Reopen));
        assert_eq!(state, TcpState::SynRecv);
        // The client itself reset it: its SYN opens a new one.
        assert_eq!(
            run(&[(SYN, O), (SYN | ACK, R), (RST, O), (SYN, O)]).0[3],
            Verdict::Reopen
        );
    }

    #[test]
    fn a_challenge_answers_a_syn_not_the_last_fin() {
        let closed = [(SYN, O), (SYN | ACK, R), (ACK, O), (FIN | ACK, O), (FIN | ACK, R)];
        assert_eq!(run(&[&closed[..], &[(SYN, O), (ACK, R)]].concat()).1, TcpState::LastAck);
        assert_eq!(run(&[&closed[..], &[(ACK, O)]].concat()).1, TcpState::TimeWait);
    }
}
