//! Whether a segment lies in the window, and what it tells of the windows.
//!
//! The idea is Guido van Rooij's ("Real Stateful TCP Packet Filtering in IP Filter", 2001): whoever stands between two ends
//! can say of each direction up to where it has sent, and up to where the other end has room. A segment fits if some of it
//! can lie between these bounds, and what it acknowledges was sent, not all too long ago. Linux's form of it, with its
//! exceptions, is `tcp_in_window` in `net/netfilter/nf_conntrack_proto_tcp.c` (6.1.192); this is written from what that does.

use super::segment::{Offer, Segment, flag, is_before};
use flowmerge::conntrack::{Direction, TcpState};

/// What was seen of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Side {
    /// The number behind all that it has sent.
    pub(super) end: u32,
    /// The number behind all that the other end had room for.
    pub(super) limit: u32,
    /// The largest window that it has offered. 0: nothing is known of this side.
    pub(super) window: u32,
    /// The highest number that it has acknowledged, if it has.
    pub(super) acknowledged: Option<u32>,
    /// By how many bits its windows are shifted.
    pub(super) scale: u8,
    /// It offered to scale windows.
    pub(super) scales: bool,
    /// It takes selective acknowledgements.
    pub(super) sack: bool,
    /// Its segments are let through wherever they lie.
    pub(super) liberal: bool,
    /// It was the first to send a FIN.
    pub(super) closes: bool,
}

/// Where a segment lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the window, or let through as if it were.
    Inside,
    /// A little outside, in a way that happens: it passes and moves nothing.
    Beside,
    /// Outside.
    Outside,
}

/// How far back an acknowledgement may lie, at least.
const OLDEST: u32 = 66_000;

impl Side {
    /// As a first segment shows its sender.
    pub(super) fn first(segment: &Segment) -> Side {
        let window = u32::from(segment.window).max(1);
        let mut side = Side { end: segment.end, limit: segment.end, window, ..Side::default() };
        match segment.has(flag::SYN) {
            true => side.take_offer(segment.offer),
            false => {
                side.limit = side.limit.wrapping_add(window);
                (side.sack, side.liberal) = (true, true);
            }
        }
        side
    }

    /// The side that a connection picked up in its middle is yet to see.
    pub(super) fn unseen(picked_up: bool) -> Side {
        Side { sack: picked_up, liberal: picked_up, ..Side::default() }
    }

    /// Options are taken as a whole: what they lack is not offered any more, and what was remembered beside it goes, too.
    pub(super) fn take_offer(&mut self, offer: Option<Offer>) {
        let Some(offer) = offer else { return };
        self.scale = offer.scale.unwrap_or(0);
        self.scales = offer.scale.is_some();
        self.sack = offer.sack;
        (self.acknowledged, self.closes) = (None, false);
    }

    /// Forgets all but whether it is liberal.
    pub(super) fn reset(&mut self) {
        *self = Side { liberal: self.liberal, ..Side::default() };
    }

    /// What a segment acknowledges, where it cannot be judged.
    pub(super) fn acknowledge_blindly(&mut self, segment: &Segment) {
        if segment.has(flag::SYN) {
            self.acknowledged = None;
        }
        if segment.has(flag::ACK) {
            self.acknowledges(segment.ack);
        }
    }

    fn acknowledges(&mut self, ack: u32) {
        if self.acknowledged.is_none_or(|before| is_before(before, ack)) {
            self.acknowledged = Some(ack);
        }
    }

    fn outside(&self, place: Place) -> Place {
        if self.liberal { Place::Inside } else { place }
    }
}

/// A SYN (with or without ACK) says where its sender begins.
fn begin(sender: &mut Side, receiver: &mut Side, segment: &Segment, direction: Direction) {
    sender.end = segment.end;
    sender.limit = segment.end;
    sender.window = u32::from(segment.window).max(1);
    sender.take_offer(segment.offer);
    // Windows are scaled only if both ends offer it.
    if direction == Direction::Reply && !(sender.scales && receiver.scales) {
        (sender.scale, receiver.scale) = (0, 0);
    }
}

/// The first segment of a side of which nothing is known, in the middle of a connection.
fn pick_up(sender: &mut Side, receiver: &mut Side, segment: &Segment, sack: u32) {
    sender.end = segment.end;
    sender.window = (u32::from(segment.window) << sender.scale).max(1);
    sender.limit = segment.end.wrapping_add(sender.window);
    if receiver.window == 0 {
        (receiver.end, receiver.limit) = (sack, sack);
    } else if sack == receiver.end.wrapping_add(1) {
        // Most likely the answer to a keepalive, which is a byte behind.
        receiver.end = sack;
    }
}

/// A segment of `direction` arrives: says where it lies, and takes from it what it tells. With it, whether it was looked at
/// to the end, so that what it acknowledges is known to be sound.
pub(super) fn place(sides: &mut [Side; 2], segment: &Segment, direction: Direction, state: TcpState) -> (Place, bool) {
    let [original, reply] = sides;
    let (sender, receiver) = match direction {
        Direction::Original => (original, reply),
        Direction::Reply => (reply, original),
    };
    let syn = segment.has(flag::SYN);
    let (mut seq, mut end) = (segment.seq, segment.end);
    let mut ack = segment.ack;
    let mut sack = if receiver.sack { segment.sack } else { ack };
    let crosses = syn && !segment.has(flag::ACK);
    if sender.window == 0 {
        if syn {
            begin(sender, receiver, segment, direction);
            if crosses {
                return (Place::Inside, false);
            }
        } else {
            pick_up(sender, receiver, segment, sack);
        }
    } else if syn && is_before(sender.end, end) && matches!(state, TcpState::SynSent | TcpState::SynRecv) {
        // It starts anew, with other numbers.
        begin(sender, receiver, segment, direction);
        if crosses && direction == Direction::Reply {
            return (Place::Inside, false);
        }
    }
    // Without ACK, or in a reset that fills in nothing, nothing is acknowledged.
    if !segment.has(flag::ACK) || segment.has(flag::RST) && ack == 0 {
        (ack, sack) = (receiver.end, receiver.end);
    }
    if segment.has(flag::RST) && seq == 0 && state == TcpState::SynSent {
        // The answer to a SYN that has no number to go by.
        (seq, end) = (sender.end, sender.end);
    }
    let behind = |end: u32, receiver: &Side| is_before(receiver.end, end);
    let recent = is_before(receiver.end.wrapping_sub(sender.window.max(OLDEST)).wrapping_sub(1), sack);
    let lowest = sender.end.wrapping_sub(receiver.window).wrapping_sub(1);
    let reaches = is_before(lowest, end);
    if is_before(sender.limit, seq) {
        let excess = end.wrapping_sub(sender.limit).wrapping_add(1);
        let known = receiver.window != 0;
        if known && reaches && recent && excess <= receiver.window && !behind(sack, receiver) {
            // More than the window allows, as some stacks send: it may be acknowledged all the same.
            sender.end = end;
            return (sender.outside(Place::Beside), false);
        }
        return (sender.outside(Place::Outside), false);
    }
    if behind(sack, receiver) {
        return (sender.outside(Place::Outside), false);
    }
    if receiver.window != 0 && !reaches || !recent {
        return (sender.outside(Place::Beside), false);
    }
    let window = u32::from(segment.window) << if syn { 0 } else { sender.scale };
    learn(sender, receiver, segment, Numbers { end, ack, sack, window });
    (Place::Inside, true)
}

/// A segment's numbers, as far as they are taken to be its own.
struct Numbers {
    end: u32,
    ack: u32,
    sack: u32,
    window: u32,
}

fn learn(sender: &mut Side, receiver: &mut Side, segment: &Segment, at: Numbers) {
    sender.window = sender.window.max(at.window.wrapping_add(at.sack.wrapping_sub(at.ack)));
    if is_before(sender.end, at.end) {
        sender.end = at.end;
    }
    if segment.has(flag::ACK) {
        sender.acknowledges(at.ack);
    }
    if receiver.window != 0 && is_before(sender.limit, at.end) {
        receiver.window = receiver.window.wrapping_add(at.end.wrapping_sub(sender.limit));
    }
    let limit = at.sack.wrapping_add(at.window);
    if is_before(receiver.limit.wrapping_sub(1), limit) {
        // A closed window lets one byte through, to ask whether it is open again.
        receiver.limit = limit.wrapping_add(u32::from(at.window == 0));
    }
}
