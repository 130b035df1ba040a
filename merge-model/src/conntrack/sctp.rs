//! SCTP as conntrack follows it: from a packet's chunks and verification tag to the state after, or to the verdict that it is
//! none of the association's.
//!
//! The kernel's is `net/netfilter/nf_conntrack_proto_sctp.c` (6.1.192); what tags must say is RFC 9260, section 8.5. A
//! packet may carry several chunks. They are looked at in turn, and what the first ones did stands if a later one is bad.

use flowmerge::conntrack::Direction;

/// What conntrack reads of a packet, in host order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    tag: u32,
    chunks: Vec<Chunk>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunk {
    kind: u8,
    flags: u8,
    /// The tag that an INIT or its answer asks for, if the chunk is whole.
    init_tag: Option<u32>,
}

/// Chunk types.
mod kind {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const HEARTBEAT: u8 = 4;
    pub const HEARTBEAT_ACK: u8 = 5;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const ERROR: u8 = 9;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// In ABORT and SHUTDOWN COMPLETE: the tag is the receiver's, reflected.
const REFLECTED: u8 = 1;

impl Packet {
    /// Reads a packet that ends where the IP packet does. `None` if its chunks may not come together, or it has none.
    pub fn read(bytes: &[u8]) -> Option<Packet> {
        let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let tag = word(4)?;
        let mut chunks = Vec::new();
        let (mut at, mut alone) = (12, false);
        while let Some(&[kind, flags, high, low]) = bytes.get(at..at + 4) {
            alone |= matches!(kind, kind::INIT | kind::INIT_ACK | kind::SHUTDOWN_COMPLETE);
            let first = alone || matches!(kind, kind::COOKIE_ACK | kind::COOKIE_ECHO);
            let length = usize::from(u16::from_be_bytes([high, low]));
            if first && !chunks.is_empty() || length == 0 {
                return None;
            }
            // The header of INIT's parameters must be there as a whole.
            let init_tag = bytes.get(at + 4..at + 20).and_then(|_| word(at + 4));
            chunks.push(Chunk { kind, flags, init_tag });
            at += length.next_multiple_of(4);
        }
        (!chunks.is_empty()).then_some(Packet { tag, chunks })
    }

    fn has(&self, kinds: &[u8]) -> bool {
        self.chunks.iter().any(|chunk| kinds.contains(&chunk.kind))
    }
}

/// State of an association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    None,
    Closed,
    CookieWait,
    CookieEchoed,
    Established,
    ShutdownSent,
    ShutdownReceived,
    ShutdownAckSent,
    HeartbeatSent,
}

/// The state after a chunk; `None` if it may not come.
fn next(direction: Direction, kind: u8, state: State) -> Option<State> {
    use State as S;
    let original = direction == Direction::Original;
    let moves =
        matches!(kind, kind::INIT | kind::INIT_ACK | kind::HEARTBEAT..=kind::COOKIE_ACK | kind::SHUTDOWN_COMPLETE);
    if !moves {
        return Some(state);
    }
    Some(match (state, kind) {
        (S::None | S::HeartbeatSent, kind::SHUTDOWN_ACK) if original => S::ShutdownAckSent,
        (S::None | S::HeartbeatSent, kind::HEARTBEAT) if original => S::HeartbeatSent,
        (S::HeartbeatSent, kind::INIT) if original => S::CookieWait,
        (S::HeartbeatSent, kind::HEARTBEAT_ACK) if original => S::HeartbeatSent,
        (S::None | S::HeartbeatSent, _) if original => S::Closed,
        (S::HeartbeatSent, kind::HEARTBEAT) => S::HeartbeatSent,
        (S::HeartbeatSent, kind::HEARTBEAT_ACK) => S::Established,
        (S::None | S::HeartbeatSent, _) => return None,
        (_, kind::ABORT) => S::Closed,
        (S::Closed, kind::INIT_ACK) if !original => S::CookieWait,
        (S::CookieWait, kind::COOKIE_ECHO) => S::CookieEchoed,
        (S::CookieEchoed, kind::COOKIE_ACK) => S::Established,
        (S::CookieEchoed, kind::ERROR) if !original => S::Closed,
        (S::Established, kind::SHUTDOWN) if original => S::ShutdownSent,
        (S::Established, kind::SHUTDOWN) => S::ShutdownReceived,
        (S::ShutdownSent | S::ShutdownReceived, kind::INIT) if original => S::Closed,
        (S::ShutdownSent | S::ShutdownReceived, kind::SHUTDOWN_ACK) => S::ShutdownAckSent,
        (S::ShutdownAckSent, kind::SHUTDOWN_COMPLETE) => S::Closed,
        _ => state,
    })
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It belongs to the association.
    Accept,
    /// As `Accept`, and the association becomes assured.
    Assure,
    /// It does not.
    Invalid,
}

/// What conntrack remembers of an association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sctp {
    state: State,
    /// The tag that each direction's packets carry; 0: not known.
    tags: [u32; 2],
    /// An INIT of that direction is not yet answered.
    init: [bool; 2],
    /// A heartbeat with another tag went that way: the other end may have begun anew.
    strayed: Option<Direction>,
}

impl Sctp {
    /// An association's first packet. `None` if none begins with it.
    pub fn first(packet: &Packet) -> Option<Sctp> {
        if packet.has(&[kind::ABORT, kind::SHUTDOWN_COMPLETE, kind::COOKIE_ACK]) {
            return None;
        }
        let mut tags = [0, 0];
        for chunk in &packet.chunks {
            if next(Direction::Original, chunk.kind, State::None) == Some(State::None) {
                return None;
            }
            match chunk.kind {
                kind::INIT if packet.tag != 0 => return None,
                kind::INIT => tags[1] = chunk.init_tag?,
                kind::HEARTBEAT => tags[0] = packet.tag,
                kind::SHUTDOWN_ACK => tags[1] = packet.tag,
                _ => {}
            }
        }
        Some(Sctp { state: State::None, tags, init: [false; 2], strayed: None })
    }

    /// A packet arrives; of a first one [`Sctp::first`] was taken before.
    pub fn packet(&mut self, packet: &Packet, direction: Direction) -> Verdict {
        const JUDGED_BY_CHUNK: [u8; 7] = [
            kind::INIT,
            kind::SHUTDOWN_COMPLETE,
            kind::COOKIE_ECHO,
            kind::ABORT,
            kind::SHUTDOWN_ACK,
            kind::HEARTBEAT,
            kind::HEARTBEAT_ACK,
        ];
        let mut verdict = Verdict::Accept;
        if !packet.has(&JUDGED_BY_CHUNK) && packet.tag != self.tags[direction as usize] {
            return Verdict::Invalid;
        }
        let mut strays = false;
        for chunk in &packet.chunks {
            match self.tag(packet, chunk, direction, strays) {
                Some(Heed::Yes) => {}
                Some(Heed::No) => {
                    strays = true;
                    continue;
                }
                None => return Verdict::Invalid,
            }
            let Some((old, new)) = self.advance(chunk, direction, &mut strays) else {
                return Verdict::Invalid;
            };
            if old != new && new == State::Established {
                verdict = Verdict::Assure;
            }
        }
        verdict
    }

    /// Whether the tag is right for this chunk, and what it tells.
    fn tag(&mut self, packet: &Packet, chunk: &Chunk, direction: Direction, strays: bool) -> Option<Heed> {
        let (own, other) = (direction as usize, direction.opposite() as usize);
        let is_own = packet.tag == self.tags[own];
        let right = match chunk.kind {
            kind::INIT => packet.tag == 0,
            kind::ABORT | kind::SHUTDOWN_COMPLETE if chunk.flags & REFLECTED != 0 => packet.tag == self.tags[other],
            kind::ABORT | kind::SHUTDOWN_COMPLETE | kind::COOKIE_ECHO => is_own,
            kind::COOKIE_ACK => {
                self.init = [false; 2];
                true
            }
            kind::HEARTBEAT | kind::HEARTBEAT_ACK if self.tags[own] == 0 => {
                self.tags[own] = packet.tag;
                true
            }
            kind::HEARTBEAT | kind::HEARTBEAT_ACK if is_own => {
                self.strayed = None;
                true
            }
            kind::HEARTBEAT | kind::HEARTBEAT_ACK if packet.has(&[kind::DATA]) || strays => false,
            kind::HEARTBEAT => {
                self.strayed = Some(direction);
                return Some(Heed::No);
            }
            // The answer to a stray heartbeat: the association goes on with this tag.
            kind::HEARTBEAT_ACK if self.strayed == Some(direction.opposite()) => {
                self.strayed = None;
                (self.tags[own], self.tags[other]) = (packet.tag, 0);
                true
            }
            kind::HEARTBEAT_ACK => false,
            _ => true,
        };
        right.then_some(Heed::Yes)
    }

    /// The states before and after a chunk.
    fn advance(&mut self, chunk: &Chunk, direction: Direction, strays: &mut bool) -> Option<(State, State)> {
        let (own, other) = (direction as usize, direction.opposite() as usize);
        let old = self.state;
        let new = next(direction, chunk.kind, old)?;
        match chunk.kind {
            kind::INIT => {
                let tag = chunk.init_tag?;
                if old == State::None || self.tags[other] != tag {
                    self.init[other] &= !self.init[own];
                    self.init[own] = true;
                }
                self.tags[other] = tag;
                *strays |= (old, new) == (State::Closed, State::Closed);
            }
            kind::INIT_ACK => {
                let (tag, known) = (chunk.init_tag?, self.tags[other]);
                let unasked = !self.init[other] && known != 0;
                let collides = self.init == [true; 2];
                if (unasked || collides) && known != tag {
                    return None;
                }
                self.tags[other] = tag;
            }
            _ => {}
        }
        self.state = new;
        Some((old, new))
    }
}

/// Whether a chunk moves the state.
enum Heed {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Original as O, Reply as R};

    fn chunk(kind: u8, init_tag: u32) -> Vec<u8> {
        let mut chunk = vec![kind, 0, 0, 20];
        chunk.extend(init_tag.to_be_bytes());
        chunk.resize(20, 0);
        chunk
    }

    fn packet(tag: u32, chunks: &[(u8, u32)]) -> Packet {
        let mut bytes = vec![0; 4];
        bytes.extend(tag.to_be_bytes());
        bytes.resize(12, 0);
        chunks.iter().for_each(|&(kind, tag)| bytes.extend(chunk(kind, tag)));
        Packet::read(&bytes).unwrap()
    }

    fn established() -> Sctp {
        let mut sctp = Sctp::first(&packet(0, &[(kind::INIT, 7)])).unwrap();
        assert_eq!(sctp.packet(&packet(0, &[(kind::INIT, 7)]), O), Verdict::Accept);
        assert_eq!(sctp.packet(&packet(7, &[(kind::INIT_ACK, 9)]), R), Verdict::Accept);
        assert_eq!(sctp.packet(&packet(9, &[(kind::COOKIE_ECHO, 0)]), O), Verdict::Accept);
        assert_eq!(sctp.packet(&packet(7, &[(kind::COOKIE_ACK, 0)]), R), Verdict::Assure);
        sctp
    }

    #[test]
    fn from_init_to_shutdown() {
        let mut sctp = established();
        for (tag, kind, direction) in
            [(9, kind::SHUTDOWN, O), (7, kind::SHUTDOWN_ACK, R), (9, kind::SHUTDOWN_COMPLETE, O)]
        {
            assert_eq!(sctp.packet(&packet(tag, &[(kind, 0)]), direction), Verdict::Accept);
        }
        assert_eq!(sctp.state, State::Closed);
    }

    #[test]
    fn a_wrong_tag_is_invalid() {
        let mut sctp = established();
        assert_eq!(sctp.packet(&packet(7, &[(kind::DATA, 0)]), O), Verdict::Invalid);
        assert_eq!(sctp.packet(&packet(9, &[(kind::DATA, 0)]), O), Verdict::Accept);
        assert_eq!(sctp.packet(&packet(7, &[(kind::ABORT, 0)]), O), Verdict::Invalid);
        // One stray heartbeat passes, and its answer makes the tag the right one.
        assert_eq!(sctp.packet(&packet(8, &[(kind::HEARTBEAT, 0)]), O), Verdict::Accept);
        assert_eq!(sctp.packet(&packet(6, &[(kind::HEARTBEAT_ACK, 0)]), R), Verdict::Accept);
        assert_eq!(sctp.packet(&packet(6, &[(kind::DATA, 0)]), R), Verdict::Accept);
    }

    #[test]
    fn what_begins_no_association() {
        for kind in [kind::DATA, kind::ABORT, kind::COOKIE_ACK, kind::SHUTDOWN_COMPLETE] {
            assert_eq!(Sctp::first(&packet(5, &[(kind, 0)])), None, "{kind}");
        }
        assert_eq!(Sctp::first(&packet(5, &[(kind::INIT, 7)])), None);
        let answered = Sctp::first(&packet(5, &[(kind::HEARTBEAT, 0)])).map(|mut sctp| {
            sctp.packet(&packet(5, &[(kind::HEARTBEAT, 0)]), O);
            let wrong = sctp.packet(&packet(6, &[(kind::COOKIE_ECHO, 0)]), R);
            (wrong, sctp.packet(&packet(6, &[(kind::HEARTBEAT_ACK, 0)]), R))
        });
        assert_eq!(answered, Some((Verdict::Invalid, Verdict::Assure)));
    }

    #[test]
    fn chunks_that_may_not_come_together() {
        let read = |chunks: &[&[u8]]| Packet::read(&[&[0; 12][..], &chunks.concat()].concat()).map(|p| p.chunks.len());
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[&[0, 0, 0, 0]]), None);
        assert_eq!(read(&[&chunk(kind::INIT, 1), &chunk(kind::DATA, 0)]), None);
        assert_eq!(read(&[&chunk(kind::DATA, 0), &chunk(kind::COOKIE_ACK, 0)]), None);
        assert_eq!(read(&[&chunk(kind::COOKIE_ACK, 0), &chunk(kind::DATA, 0), &[3, 0]]), Some(2));
    }
}
