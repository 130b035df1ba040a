//! The frames that the kernel sent, and which received frame each of them is accounted to.
//!
//! A frame that the model sends is looked for among the recorded ones: same port, same bytes, recorded after the frame
//! that caused it, and not yet accounted to another. What remains when its time comes is the kernel's own: OVS sent it
//! for a frame that TC missed, or the stack forwarded one that TC let pass. It is excused if a missed or passed frame
//! within the second before it is its [`Identity`], else it is a difference.

use flowmerge::flower::Port;
use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    ops::Range,
};

/// How long after a missed frame OVS may still send it.
const SENT_FOR: u64 = 1_000_000_000;

/// What of a packet stays when it is forwarded: enough to say for which received frame another was sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The ARP body.
    Arp(Vec<u8>),
    /// Identification, protocol and total length.
    Ipv4 { id: u16, protocol: u8, length: u16 },
    /// Version, traffic class, flow label, payload length and next header.
    Ipv6([u8; 7]),
}

impl Identity {
    /// Of an Ethernet frame, under whatever VLAN tags it has. `None` for what is neither ARP nor IP.
    pub fn of(frame: &[u8]) -> Option<Identity> {
        let (ethertype, body) = network(frame)?;
        Some(match ethertype {
            0x0806 => {
                let addresses = 2 * (usize::from(*body.get(4)?) + usize::from(*body.get(5)?));
                Identity::Arp(body.get(..8 + addresses)?.to_vec())
            }
            0x0800 => {
                let header = body.first_chunk::<20>()?;
                Identity::Ipv4 {
                    id: u16::from_be_bytes([header[4], header[5]]),
                    protocol: header[9],
                    length: u16::from_be_bytes([header[2], header[3]]),
                }
            }
            0x86dd => Identity::Ipv6(*body.first_chunk()?),
            _ => return None,
        })
    }
}

/// The ethertype under the tags, and what follows it.
fn network(frame: &[u8]) -> Option<(u16, &[u8])> {
    let mut at = 12;
    loop {
        match u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?) {
            0x8100 | 0x88a8 | 0x9100 => at += 4,
            ethertype => return Some((ethertype, &frame[at + 2..])),
        }
    }
}

/// In how many bytes behind the Ethernet header two frames agree.
fn likeness(a: &[u8], b: &[u8]) -> usize {
    let body = |frame| network(frame).map_or(&[][..], |(_, body)| body);
    body(a).iter().zip(body(b)).filter(|(a, b)| a == b).count()
}

/// A frame that the kernel sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Position in the order of time.
    pub at: usize,
    /// Out of this port.
    pub port: Port,
    /// The whole frame.
    pub bytes: Vec<u8>,
}

/// A frame that TC did not decide, or let pass: whoever has it may send it on.
#[derive(Clone, Debug)]
struct Open<T> {
    time: u64,
    frame: Vec<u8>,
    /// How many frames were sent for it so far.
    answered: usize,
    what: T,
}

/// The account of one run.
#[derive(Debug)]
pub struct Ledger<T> {
    waiting: HashMap<(Port, Vec<u8>), VecDeque<usize>>,
    /// By time, of one identity.
    open: HashMap<Identity, VecDeque<Open<T>>>,
    /// The identities of all that are open, by time.
    until: VecDeque<(u64, Identity)>,
}

impl<T> Ledger<T> {
    /// An account of all frames that the kernel sent.
    pub fn new(sent: impl IntoIterator<Item = Sent>) -> Ledger<T> {
        let mut waiting: HashMap<_, VecDeque<usize>> = HashMap::new();
        for s in sent {
            waiting.entry((s.port, s.bytes)).or_default().push_back(s.at);
        }
        for positions in waiting.values_mut() {
            positions.make_contiguous().sort_unstable();
        }
        Ledger { waiting, open: HashMap::new(), until: VecDeque::new() }
    }

    /// Accounts a frame that the model sends at a position; where the kernel sent it too, if it did. The bytes of `random` may be
    /// any.
    pub fn expect(&mut self, at: usize, port: Port, bytes: &[u8], random: Option<Range<usize>>) -> Option<usize> {
        let mut take = |positions: &mut VecDeque<usize>| {
            let found = positions.iter().position(|&p| p > at)?;
            positions.remove(found)
        };
        let Some(random) = random else {
            let positions = self.waiting.get_mut(&(port, bytes.to_vec()));
            return positions.and_then(take);
        };
        let fits = |(other, frame): &(Port, Vec<u8>)| {
            let parts = |b: &[u8]| Some((b.get(..random.start)?.to_vec(), b.get(random.end..)?.to_vec()));
            *other == port && frame.len() == bytes.len() && parts(frame) == parts(bytes)
        };
        let mut candidates: Vec<_> = self.waiting.iter_mut().filter(|(k, _)| fits(k)).map(|(_, p)| p).collect();
        candidates.sort_by_key(|positions| positions.iter().find(|&&p| p > at).copied().unwrap_or(usize::MAX));
        candidates.into_iter().next().and_then(&mut take)
    }

    /// A received frame that was missed or passed.
    pub fn open(&mut self, time: u64, frame: &[u8], what: T) {
        while let Some((until, identity)) = self.until.pop_front() {
            if until >= time {
                self.until.push_front((until, identity));
                break;
            }
            if let Some(open) = self.open.get_mut(&identity) {
                open.pop_front();
                if open.is_empty() {
                    self.open.remove(&identity);
                }
            }
        }
        if let Some(identity) = Identity::of(frame) {
            self.until.push_back((time.saturating_add(SENT_FOR), identity.clone()));
            self.open.entry(identity).or_default().push_back(Open { time, frame: frame.to_vec(), answered: 0, what });
        }
    }

    /// What is open of the second before a time: the frames that may still be sent.
    pub fn still_open(&mut self, time: u64) -> impl Iterator<Item = &mut T> {
        let all = self.open.values_mut().flatten();
        all.filter(move |o| o.time <= time && time <= o.time.saturating_add(SENT_FOR)).map(|o| &mut o.what)
    }

    /// A frame that the kernel sent has its turn.
    pub fn settle(&mut self, sent: &Sent, time: u64) -> Settled<'_, T> {
        let positions = self.waiting.get_mut(&(sent.port, sent.bytes.clone()));
        let Some(i) = positions.as_ref().and_then(|p| p.iter().position(|&p| p == sent.at)) else {
            return Settled::Accounted;
        };
        if let Some(positions) = positions {
            positions.remove(i);
        }
        let open = Identity::of(&sent.bytes).and_then(|identity| self.open.get_mut(&identity));
        // Of several (every SYN+ACK has the identification 0) the one that is most alike, of equal ones the first in turn.
        open.into_iter()
            .flatten()
            .filter(|o| o.time <= time && time <= o.time.saturating_add(SENT_FOR))
            .min_by_key(|o| (Reverse(likeness(&o.frame, &sent.bytes)), o.answered))
            .map_or(Settled::Unaccounted, |o| {
                o.answered += 1;
                Settled::SentFor(&mut o.what)
            })
    }
}

/// Why the kernel sent a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Settled<'a, T> {
    /// The model sent it too.
    Accounted,
    /// For this missed or passed frame.
    SentFor(&'a mut T),
    /// Nothing accounts for it.
    Unaccounted,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(id: u16, tagged: bool) -> Vec<u8> {
        let mut frame = vec![0; 12];
        if tagged {
            frame.extend([0x81, 0, 0, 7]);
        }
        frame.extend([8, 0, 0x45, 0, 0, 40]);
        frame.extend(id.to_be_bytes());
        frame.extend([0, 0, 64, 17]);
        frame.resize(60, 0);
        frame
    }

    #[test]
    fn each_sent_frame_answers_for_one() {
        let sent = |at| Sent { at, port: Port(2), bytes: udp(7, false) };
        let all = [sent(1), sent(5)];
        let mut ledger = Ledger::new(all.clone());
        ledger.open(0, &udp(7, true), "missed");
        assert_eq!(ledger.expect(2, Port(2), &udp(7, false), None), Some(5));
        assert_eq!(ledger.expect(2, Port(2), &udp(7, false), None), None, "used up");
        assert_eq!(ledger.expect(0, Port(3), &udp(7, false), None), None, "other port");
        assert_eq!(ledger.settle(&all[0], 10), Settled::SentFor(&mut "missed"));
        assert_eq!(ledger.settle(&all[1], 10), Settled::Accounted);
        let late = Sent { at: 9, ..sent(9) };
        let mut ledger = Ledger::new([late.clone()]);
        ledger.open(0, &udp(7, true), "missed");
        assert_eq!(ledger.settle(&late, SENT_FOR + 1), Settled::Unaccounted);
    }

    #[test]
    fn of_frames_with_one_identity_the_most_alike_is_answered() {
        let with_port = |port, source| {
            let mut frame = udp(0, false);
            (frame[35], frame[29]) = (port, source);
            frame
        };
        let sent = |at, bytes| Sent { at, port: Port(2), bytes };
        // Translated on the way, the second as the first's retransmission came.
        let all = [3, 4, 5, 6].map(|at| sent(at, with_port([1, 2, 1, 1][at - 3], 9)));
        let mut ledger = Ledger::new(all.clone());
        for (what, port) in [("first", 1), ("second", 2), ("again", 1)] {
            ledger.open(0, &with_port(port, 7), what);
        }
        for (sent, what) in all.iter().zip(["first", "second", "again", "first"]) {
            let mut what = what;
            assert_eq!(ledger.settle(sent, 10), Settled::SentFor(&mut what));
        }
    }

    #[test]
    fn identity_survives_tags_and_translation() {
        assert_eq!(Identity::of(&udp(7, true)), Identity::of(&udp(7, false)));
        assert_ne!(Identity::of(&udp(8, true)), Identity::of(&udp(7, false)));
        assert_eq!(Identity::of(&[0; 13]), None);
        assert_eq!(Identity::of(&[0; 60]), None);
    }
}
