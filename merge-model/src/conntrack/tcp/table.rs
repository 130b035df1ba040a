//! The states of a connection, and what moves it from one to the next: the kernel's `tcp_conntracks`.

use super::segment::flag;
use flowmerge::conntrack::{Direction, TcpState};

/// What a segment is to conntrack, by its flags alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
}

impl Sort {
    /// `None` for combinations of flags that no sane stack sends; such packets are invalid in every state.
    pub(super) fn of(flags: u8) -> Option<Sort> {
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
pub(super) enum Next {
    To(TcpState),
    /// Let through, state kept: who knows whether we or the ends are out of step.
    Ignore,
    Invalid,
}

/// The table of transitions.
pub(super) fn next(direction: Direction, sort: Sort, state: TcpState) -> Next {
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
