//! What the packet socket saw, and what the recorder's own netlink sockets got, put together: one sequence of frames and
//! messages, the messages with the kernel's time. Pure: no sockets, no clock.
//!
//! The own sockets are the authority on what the kernel said, since they tell when something of it was lost. On the `nlmon`
//! device the same message is seen with its time and its place among the frames, once for each of its receivers, each time the
//! same bytes, among much that the recorder did not get: other programs' requests, dumps and answers.
//!
//! The kernel shows a message on `nlmon` right before it queues it at the receiver. So when the own sockets have been read, then
//! the packet socket until it is empty, a copy of each message read is there: the first copy is the message's time and place, the
//! other receivers' are dropped, also those that come right behind it only after the packet socket was read. Were several
//! messages of the same bytes read at once, their copies are dealt out evenly, since all have the same receivers. A copy without
//! a message is dropped once it is so old that its message would have been read; until then it waits, and everything behind it.
//! A message without a copy is untimed.

use super::tap::Packet;
use flowmerge::{netlink, trace::Snapshot};
use std::collections::{HashMap, VecDeque};

/// A datagram from an own netlink socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The netlink family.
    pub family: u16,
    /// One message, or several of a dump.
    pub bytes: Vec<u8>,
    /// What dump it is of; `None` for a notification.
    pub snapshot: Option<Snapshot>,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A frame of a port.
    Frame(Packet),
    /// Messages, with the kernel's time if it is known.
    Messages(Told, Option<u64>),
}

/// The sequence.
#[derive(Default)]
pub struct Order {
    /// What the packet socket saw, oldest first.
    seen: VecDeque<Seen>,
    /// What was told and has no copy so far; and whether the packet socket has been emptied since.
    told: VecDeque<(Told, bool)>,
    /// What was paired last, and its time.
    lately: HashMap<Content, u64>,
}

/// A netlink family and a datagram.
type Content = (u16, Vec<u8>);

/// Nanoseconds within which the kernel has given a message to all of its receivers.
const BURST: u64 = 50_000;

enum Seen {
    Frame(Packet),
    /// A copy of a message, which may be the recorder's.
    Copy(Packet),
    /// A copy that is.
    Mine(Told, u64),
    /// A copy that is another receiver's.
    Theirs,
}

impl Order {
    /// The packet socket saw a packet; `monitor` if it was on the `nlmon` device.
    pub fn see(&mut self, packet: Packet, monitor: bool) {
        match monitor {
            false => self.seen.push_back(Seen::Frame(packet)),
            true if may_be_told(&packet) => self.seen.push_back(Seen::Copy(packet)),
            true => {}
        }
    }

    /// An own socket got a datagram.
    pub fn tell(&mut self, told: Told) {
        self.told.push_back((told, false));
    }

    /// The packet socket was empty just now, the own sockets being read afterwards.
    pub fn emptied(&mut self) {
        self.told.iter_mut().for_each(|(_, emptied)| *emptied = true);
    }

    /// Hands out what is certain. Copies from before `until` (nanoseconds) belong to what was told, or to nobody. To be
    /// called when the own sockets have been read after the packet socket; what they got then ([`Order::tell`] behind
    /// [`Order::emptied`]) may wait for its copy.
    pub fn settle(&mut self, until: u64) -> Vec<Item> {
        self.pair();
        let mut items = Vec::new();
        while let Some(seen) = self.seen.pop_front() {
            match seen {
                Seen::Frame(packet) => items.push(Item::Frame(packet)),
                Seen::Mine(told, time) => items.push(Item::Messages(told, Some(time))),
                Seen::Theirs => {}
                Seen::Copy(packet) if packet.time < until => {}
                waits => {
                    self.seen.push_front(waits);
                    break;
                }
            }
        }
        let (untimed, waiting): (VecDeque<_>, _) = self.told.drain(..).partition(|(_, emptied)| *emptied);
        self.told = waiting;
        items.extend(untimed.into_iter().map(|(told, _)| Item::Messages(told, None)));
        items
    }

    /// Gives each message that was told its copy.
    fn pair(&mut self) {
        if self.told.is_empty() {
            return;
        }
        // The copies of each message, by place.
        let mut copies: HashMap<Content, Vec<usize>> = HashMap::new();
        for (told, _) in &self.told {
            copies.entry((told.family, told.bytes.clone())).or_default();
        }
        for (i, seen) in self.seen.iter_mut().enumerate() {
            let Seen::Copy(packet) = seen else { continue };
            let content = (packet.protocol, std::mem::take(&mut packet.bytes));
            if self.lately.get(&content).is_some_and(|time| packet.time.abs_diff(*time) < BURST) {
                *seen = Seen::Theirs;
                continue;
            }
            if let Some(places) = copies.get_mut(&content) {
                places.push(i);
            }
            packet.bytes = content.1;
        }
        let mut wanted: HashMap<(u16, &[u8]), usize> = HashMap::new();
        for (told, _) in &self.told {
            *wanted.entry((told.family, &told.bytes)).or_default() += 1;
        }
        let mut firsts: HashMap<Content, VecDeque<usize>> = HashMap::new();
        let mut theirs = Vec::new();
        for (content, places) in copies {
            let wanted = wanted.get(&(content.0, &content.1[..])).copied().unwrap_or(1);
            let each = (places.len() / wanted).max(1);
            let (mine, rest): (Vec<_>, Vec<_>) =
                places.into_iter().enumerate().partition(|(i, _)| i % each == 0 && i / each < wanted);
            theirs.extend(rest.into_iter().map(|(_, place)| place));
            firsts.insert(content, mine.into_iter().map(|(_, place)| place).collect());
        }
        self.lately.clear();
        for (told, emptied) in std::mem::take(&mut self.told) {
            let content = (told.family, told.bytes.clone());
            match firsts.get_mut(&content).and_then(VecDeque::pop_front) {
                Some(place) => {
                    if let Seen::Copy(packet) = &self.seen[place] {
                        let time = packet.time;
                        // A dump has one receiver. (The kernel may dump a chain twice, within microseconds.)
                        if told.snapshot.is_none() {
                            self.lately.insert(content, time);
                        }
                        self.seen[place] = Seen::Mine(told, time);
                    }
                }
                None => self.told.push_back((told, emptied)),
            }
        }
        for place in theirs {
            self.seen[place] = Seen::Theirs;
        }
    }
}

/// Whether a message could be one that the recorder gets: of its families, and no request of a program. (A request with the
/// program's own port looks like word from the kernel, and is dropped for want of a message.)
fn may_be_told(packet: &Packet) -> bool {
    let field = |at: usize| packet.bytes.get(at..at + 2).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    let (Some(kind), Some(flags), Some(port)) = (field(4), field(6), packet.bytes.get(12..16)) else {
        return false;
    };
    let known = match packet.protocol {
        netlink::ROUTE => kind < 16 || matches!(kind, 16 | 17 | 36 | 37 | 40 | 41 | 44 | 45 | 48 | 49 | 100 | 101),
        netlink::NETFILTER => kind < 16 || kind >> 8 == 1,
        _ => false,
    };
    known && !(flags & 1 != 0 && port == [0; 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RTM_NEWTFILTER of port `port` with a body.
    fn message(port: u32, body: &[u8]) -> Vec<u8> {
        let length = 16 + body.len() as u32;
        let head = [&length.to_ne_bytes()[..], &44u16.to_ne_bytes(), &5u16.to_ne_bytes(), &[0; 4]].concat();
        [&head[..], &port.to_ne_bytes(), body].concat()
    }

    fn packet(time: u64, bytes: &[u8]) -> Packet {
        let (bytes, length) = (bytes.to_vec(), bytes.len());
        Packet { device: 1, outgoing: true, protocol: netlink::ROUTE, time, bytes, length, unfinished: false }
    }

    fn told(bytes: &[u8]) -> Told {
        Told { family: netlink::ROUTE, bytes: bytes.to_vec(), snapshot: None }
    }

    /// Times of frames (negative) and messages, and whether the messages have one.
    fn times(items: &[Item]) -> Vec<i64> {
        items
            .iter()
            .map(|item| match item {
                Item::Frame(packet) => -(packet.time as i64),
                Item::Messages(_, time) => time.map_or(i64::MAX, |time| time as i64),
            })
            .collect()
    }

    #[test]
    fn a_message_stands_where_its_first_copy_was_seen() {
        let (a, b) = (message(7, b"a"), message(7, b"b"));
        let mut order = Order::default();
        order.tell(told(&a));
        order.tell(told(&b));
        order.see(packet(10, b"frame"), false);
        for (time, bytes) in [(30, &a), (31, &a), (20, &b), (21, &b)] {
            order.see(packet(time, bytes), true);
        }
        order.see(packet(5, b"stamped when it was queued"), false);
        order.emptied();
        // The order is the socket's, whatever the times.
        assert_eq!(times(&order.settle(100)), [-10, 30, 20, -5]);
        assert!(order.seen.is_empty() && order.told.is_empty());
    }

    #[test]
    fn messages_of_the_same_bytes_share_their_copies_evenly() {
        let a = message(7, b"again");
        let mut order = Order::default();
        order.tell(told(&a));
        order.tell(told(&a));
        for time in [10, 11, 12, 500, 501, 502] {
            order.see(packet(time, &a), true);
        }
        order.emptied();
        assert_eq!(times(&order.settle(1000)), [10, 500]);
    }

    #[test]
    fn copies_for_others_that_come_late_are_not_taken_for_the_next_of_the_same_bytes() {
        let a = message(7, b"again");
        let mut order = Order::default();
        order.tell(told(&a));
        order.see(packet(1_000_000, &a), true);
        order.see(packet(1_001_000, &a), true);
        order.emptied();
        assert_eq!(times(&order.settle(0)), [1_000_000]);
        order.see(packet(1_002_000, &a), true);
        order.see(packet(9_000_000, &a), true);
        order.see(packet(9_001_000, &a), true);
        order.tell(told(&a));
        order.emptied();
        assert_eq!(times(&order.settle(0)), [9_000_000]);
    }

    #[test]
    fn a_dump_may_say_the_same_twice_at_once() {
        let a = message(7, b"a chain");
        let dump = || Told { snapshot: Some(Snapshot::End), ..told(&a) };
        let mut order = Order::default();
        let mut items = Vec::new();
        for time in [1_000_000, 1_030_000] {
            order.tell(dump());
            order.see(packet(time, &a), true);
            order.emptied();
            items.extend(order.settle(0));
        }
        assert_eq!(times(&items), [1_000_000, 1_030_000]);
    }

    #[test]
    fn a_copy_waits_for_its_message_and_all_behind_it_wait_too() {
        let a = message(7, b"a");
        let mut order = Order::default();
        order.see(packet(10, b"before"), false);
        order.see(packet(90, &a), true);
        order.see(packet(91, b"behind"), false);
        order.emptied();
        assert_eq!(times(&order.settle(80)), [-10]);
        order.tell(told(&a));
        order.emptied();
        assert_eq!(times(&order.settle(85)), [90, -91]);
        // A copy for somebody else.
        order.see(packet(100, &a), true);
        order.see(packet(101, b"behind"), false);
        assert_eq!(times(&order.settle(100)), [] as [i64; 0]);
        assert_eq!(times(&order.settle(101)), [-101]);
    }

    #[test]
    fn a_message_without_a_copy_is_untimed_but_not_before_the_packets_have_been_read() {
        let a = message(7, b"a");
        let mut order = Order::default();
        order.emptied();
        order.tell(told(&a));
        assert_eq!(order.settle(100), []);
        order.emptied();
        assert_eq!(times(&order.settle(100)), [i64::MAX]);
    }

    #[test]
    fn dumps_keep_their_part_and_other_programs_talk_is_left_out() {
        let (mine, theirs) = (message(7, b"mine"), message(0, b"a request"));
        let mut order = Order::default();
        let dump = Told { snapshot: Some(Snapshot::End), ..told(&mine) };
        order.tell(dump.clone());
        order.see(packet(50, &theirs), true);
        order.see(Packet { protocol: 16, ..packet(51, &mine) }, true);
        order.see(packet(52, b"short"), true);
        order.see(packet(53, &mine), true);
        order.emptied();
        assert_eq!(order.settle(10), [Item::Messages(dump, Some(53))]);
        assert!(order.seen.is_empty() && order.told.is_empty());
    }
}
