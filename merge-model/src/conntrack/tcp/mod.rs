//! TCP as conntrack follows it: from a segment, its direction and the state before, to the state after, or to the verdict
//! that it is none of the connection's.
//!
//! The kernel's is `net/netfilter/nf_conntrack_proto_tcp.c` (`nf_conntrack_tcp_packet`, `tcp_new`; 6.1.192): a table of
//! states (`table`), windows of sequence numbers (`window`), and between the two the cases in which a SYN, a reset or an
//! acknowledgement may be meant for a connection that conntrack does not know (any more). Retransmissions, unacknowledged
//! data and closed windows only change how long an entry lives, which is not simulated, so they are not remembered.
//!
//! Of a connection that was not followed from its first packet on no windows are known: every segment fits. So it is, too,
//! once act_ct has put it into the kernel's flow table, for then both sides are let through wherever their segments lie.

mod segment;
mod table;
mod window;

pub use segment::{Offer, Segment};

use flowmerge::conntrack::{Direction, TcpState};
use segment::{flag, is_before};
use table::{Next, Sort, next};
use window::{Place, Side};

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

/// The last segment that was taken in, or let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    sort: Option<Sort>,
    direction: Direction,
    /// Numbers of the last ACK in the window, or of the last segment that was let through.
    end: u32,
    ack: u32,
    window: u16,
    /// What the last SYN that was let through offers.
    offer: Offer,
    /// It was let through in LAST_ACK: the next ACK of the other side is the answer to it, not to the FIN.
    challenged: bool,
    /// SYNs crossed.
    simultaneous: bool,
}

impl Last {
    const NONE: Last = Last {
        sort: None,
        direction: Direction::Original,
        end: 0,
        ack: 0,
        window: 0,
        offer: Offer { scale: None, sack: false },
        challenged: false,
        simultaneous: false,
    };

    fn is(&self, sort: Sort, direction: Direction) -> bool {
        (self.sort, self.direction) == (Some(sort), direction)
    }
}

/// What conntrack remembers of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// The state.
    pub state: TcpState,
    sides: [Side; 2],
    last: Last,
    /// Nothing is known of its windows.
    blind: bool,
}

/// What a segment does to the state, as far as the table and its exceptions go.
enum Step {
    /// To this state, from that one, if it lies in the window.
    Window(TcpState, TcpState),
    /// To this state, wherever it lies.
    Anywhere(TcpState),
    Done(Verdict),
}

impl Tcp {
    /// Before the first packet.
    pub const NEW: Tcp = Tcp {
        state: TcpState::None,
        sides: [Side {
            end: 0,
            limit: 0,
            window: 0,
            acknowledged: None,
            scale: 0,
            scales: false,
            sack: false,
            liberal: false,
            closes: false,
        }; 2],
        last: Last::NONE,
        blind: false,
    };

    /// A connection first seen in that state. How it came there is not known; where it is over, an orderly close is assumed.
    pub fn seen_in(state: TcpState) -> Tcp {
        let mut tcp = Tcp { state, blind: true, ..Tcp::NEW };
        tcp.sides[0].closes = is_over(state);
        tcp
    }

    /// Takes the state that the kernel reports. Where it is another, something moved the connection that was not seen.
    pub fn correct(&mut self, state: TcpState) {
        if self.state != state {
            self.sides[0].closes |= is_over(state);
            self.state = state;
            self.blind = true;
        }
    }

    /// Packets may have passed that were not seen: from now on every segment fits.
    pub fn lose_track(&mut self) {
        self.blind = true;
    }

    /// As act_ct does with a connection that goes into the flow table: its segments are let through wherever they lie.
    pub fn be_liberal(&mut self) {
        self.sides.iter_mut().for_each(|side| side.liberal = true);
    }

    /// As the flow table does with a connection that leaves it: its windows are forgotten.
    pub fn forget_windows(&mut self) {
        self.sides.iter_mut().for_each(|side| side.window = 0);
    }

    /// A packet arrives. `replied` and `assured` are the connection's, before it.
    pub fn packet(&mut self, segment: &Segment, direction: Direction, replied: bool, assured: bool) -> Verdict {
        use TcpState as S;
        let Some(sort) = Sort::of(segment.flags) else {
            return Verdict::Invalid;
        };
        if self.state == S::None && !self.blind {
            self.sides = [Side::first(segment), Side::unseen(!segment.has(flag::SYN))];
        }
        let (old, new) = match self.step(sort, segment, direction, replied, assured) {
            Step::Done(verdict) => return verdict,
            Step::Anywhere(new) => (self.state, new),
            Step::Window(old, new) => match self.place(sort, segment, direction) {
                Place::Inside => (old, new),
                Place::Beside => return Verdict::Accept,
                Place::Outside => {
                    self.outside(sort, direction, assured);
                    return Verdict::Invalid;
                }
            },
        };
        (self.last.sort, self.last.direction) = (Some(sort), direction);
        self.state = new;
        self.sides[direction as usize].closes |= old != new && new == S::FinWait;
        match (replied, sort) {
            (false, Sort::Rst) => Verdict::Die,
            (true, _) if !assured && new == S::Established && matches!(old, S::SynRecv | S::Established) => {
                Verdict::Assure
            }
            _ => Verdict::Accept,
        }
    }

    fn step(&mut self, sort: Sort, segment: &Segment, direction: Direction, replied: bool, assured: bool) -> Step {
        use TcpState as S;
        let old = self.state;
        let answers_syn = self.last.is(Sort::Syn, direction.opposite());
        let new = match next(direction, sort, old) {
            Next::Invalid => return Step::Done(Verdict::Invalid),
            // A closed connection is opened again. If nobody closed it in order, nor this side by reset, the SYN may be
            // stray: it passes and changes nothing.
            Next::To(S::SynSent) if matches!(old, S::TimeWait | S::Close | S::SynSent2) => {
                let ended = self.sides.iter().any(|side| side.closes) || self.last.is(Sort::Rst, direction);
                return match ended {
                    true => Step::Done(Verdict::Reopen),
                    false => self.ignore(sort, segment, direction),
                };
            }
            Next::Ignore if sort == Sort::SynAck && answers_syn && segment.ack == self.last.end => {
                self.join(direction);
                return Step::Window(S::SynSent, S::SynRecv);
            }
            Next::Ignore => return self.ignore(sort, segment, direction),
            Next::To(state) => state,
        };
        match (new, sort) {
            (S::TimeWait, Sort::Ack) if old == S::LastAck && answers_syn && self.last.challenged => {
                self.last.challenged = false;
                Step::Done(Verdict::Accept)
            }
            (S::SynSent2, _) => {
                self.last.simultaneous = true;
                Step::Window(old, new)
            }
            (S::SynRecv, Sort::Ack) if direction == Direction::Reply && self.last.simultaneous => {
                Step::Window(old, S::Established)
            }
            (S::Close, Sort::Rst) => self.reset(segment, direction, replied, assured),
            _ => Step::Window(old, new),
        }
    }

    /// The answer to a SYN that was let through before: both ends agree, so conntrack was out of step, and begins anew with
    /// what the SYN said.
    fn join(&mut self, direction: Direction) {
        let Last { end, window, offer, .. } = self.last;
        self.last.challenged = false;
        self.sides[self.last.direction as usize] = Side {
            end,
            limit: end,
            window: u32::from(window).max(1),
            scale: offer.scale.unwrap_or(0),
            scales: offer.scale.is_some(),
            sack: offer.sack,
            ..Side::default()
        };
        self.sides[direction as usize].reset();
        self.blind = false;
    }

    /// What a reset does.
    fn reset(&mut self, segment: &Segment, direction: Direction, replied: bool, assured: bool) -> Step {
        use TcpState as S;
        let old = self.state;
        // A closing connection's numbers may be those of an earlier one already.
        if is_over(old) {
            return Step::Anywhere(S::Close);
        }
        let mut new = S::Close;
        let expected = self.sides[direction.opposite() as usize].acknowledged;
        if let Some(expected) = expected.filter(|_| self.last.sort != Some(Sort::Syn)) {
            let established = old == S::Established && assured;
            // Without a number it answers a SYN that was let through.
            if segment.seq == 0 && !established {
                return Step::Window(old, S::Close);
            }
            if is_before(segment.seq, expected) {
                return Step::Done(Verdict::Invalid);
            }
            let follows = self.last.is(Sort::Ack, direction) && segment.seq == self.last.end;
            if !established || segment.seq == expected || follows {
                return Step::Window(old, S::Close);
            }
            // Maybe not the other end's: its answer will tell.
            new = old;
        }
        // A reset that answers what was let through is not held against the windows, of which that was no part.
        let answers =
            replied && self.last.is(Sort::Syn, direction.opposite()) || !assured && self.last.sort == Some(Sort::Ack);
        let challenge = old == S::SynSent && self.last.is(Sort::Ack, Direction::Reply);
        if answers && segment.ack == self.last.end || challenge && segment.seq == self.last.ack {
            return Step::Anywhere(new);
        }
        Step::Window(old, new)
    }

    fn place(&mut self, sort: Sort, segment: &Segment, direction: Direction) -> Place {
        let (place, to_the_end) = match self.blind {
            true => {
                self.sides[direction as usize].acknowledge_blindly(segment);
                (Place::Inside, true)
            }
            false => window::place(&mut self.sides, segment, direction, self.state),
        };
        if to_the_end && sort == Sort::Ack {
            let Segment { end, ack, window, .. } = *segment;
            self.last = Last { direction, end, ack, window, ..self.last };
        }
        place
    }

    /// A FIN or reset out of the window is remembered all the same, lest a dead connection live on for days.
    fn outside(&mut self, sort: Sort, direction: Direction, assured: bool) {
        let is_end = |sort| matches!(sort, Sort::Fin | Sort::Rst);
        let ends_both = self.last.direction != direction && self.last.sort.is_some_and(is_end);
        if assured && is_end(sort) && !ends_both {
            (self.last.sort, self.last.direction) = (Some(sort), direction);
        }
    }

    fn ignore(&mut self, sort: Sort, segment: &Segment, direction: Direction) -> Step {
        (self.last.sort, self.last.direction) = (Some(sort), direction);
        (self.last.end, self.last.window) = (segment.end, segment.window);
        if sort == Sort::Syn && direction == Direction::Original {
            self.last.offer = segment.offer.unwrap_or_default();
            self.last.challenged = self.state == TcpState::LastAck;
            self.last.simultaneous = false;
        }
        if sort == Sort::Ack && direction == Direction::Reply && self.state == TcpState::SynSent {
            self.last.ack = segment.ack;
        }
        Step::Done(Verdict::Accept)
    }
}

fn is_over(state: TcpState) -> bool {
    use TcpState as S;
    matches!(state, S::FinWait | S::CloseWait | S::LastAck | S::TimeWait | S::Close)
}

#[cfg(test)]
mod tests;
