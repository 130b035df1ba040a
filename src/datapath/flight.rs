//! The walks of packets whose notifications interleave, by the packet's name.
//!
//! Bounded: begun walks stand in a list by age, and when there is no room the oldest is given up, which is the one whose packet most
//! likely vanished without a word. They are found through chains by the name's bits. All of it is numbers of slots in memory that
//! was there before.

use crate::{
    flower::{Key, Port},
    walk::Recorded,
};

/// The driver's name for a packet while it is on its way: its address, say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId(pub u64);

/// No slot.
const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Slot {
    /// Of a walk on its way.
    packet: Option<PacketId>,
    /// The next in the chain; of a free slot the next free one.
    next: u32,
    newer: u32,
    older: u32,
    walk: Recorded,
}

#[derive(Debug)]
pub(super) struct Flight {
    slots: Box<[Slot]>,
    /// The first slot of each chain; a power of two of them.
    chains: Box<[u32]>,
    free: u32,
    newest: u32,
    oldest: u32,
    /// The slot asked for last: its packet's next notification is likely the next.
    last: u32,
}

impl Flight {
    pub(super) fn new(limit: usize) -> Flight {
        let limit = limit.clamp(1, 1 << 20) as u32;
        let slot = |n| Slot {
            packet: None,
            next: if n + 1 < limit { n + 1 } else { NONE },
            newer: NONE,
            older: NONE,
            walk: Recorded::default(),
        };
        let chains = vec![NONE; (2 * limit as usize).next_power_of_two()];
        Flight {
            slots: (0..limit).map(slot).collect(),
            chains: chains.into(),
            free: 0,
            newest: NONE,
            oldest: NONE,
            last: NONE,
        }
    }

    #[inline]
    fn chain(&self, packet: PacketId) -> usize {
        // Addresses end in zeros and begin alike.
        (packet.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & (self.chains.len() - 1)
    }

    #[inline]
    fn find(&mut self, packet: PacketId) -> Option<u32> {
        if self.slots.get(self.last as usize).is_some_and(|slot| slot.packet == Some(packet)) {
            return Some(self.last);
        }
        let mut at = self.chains[self.chain(packet)];
        while let Some(slot) = self.slots.get(at as usize) {
            if slot.packet == Some(packet) {
                self.last = at;
                return Some(at);
            }
            at = slot.next;
        }
        None
    }

    /// Begins a walk. Gives whether another one was given up for it.
    #[inline]
    pub(super) fn begin(&mut self, packet: PacketId, port: Port, key: &Key, epoch: u64) -> bool {
        let given_up = self.find(packet).or(if self.free == NONE { Some(self.oldest) } else { None });
        if let Some(at) = given_up {
            self.remove(at);
        }
        let (at, chain) = (self.free, self.chain(packet));
        let slot = &mut self.slots[at as usize];
        self.free = slot.next;
        slot.packet = Some(packet);
        slot.walk.begin(port, key, epoch);
        (slot.next, slot.older, slot.newer) = (self.chains[chain], self.newest, NONE);
        self.chains[chain] = at;
        match self.slots.get_mut(self.newest as usize) {
            Some(before) => before.newer = at,
            None => self.oldest = at,
        }
        (self.newest, self.last) = (at, at);
        given_up.is_some()
    }

    /// The packet's walk, if it is on its way.
    #[inline]
    pub(super) fn get(&mut self, packet: PacketId) -> Option<&mut Recorded> {
        let at = self.find(packet)?;
        Some(&mut self.slots[at as usize].walk)
    }

    /// Takes the packet's walk out. What it holds stays until the next walk begins.
    #[inline]
    pub(super) fn leave(&mut self, packet: PacketId) -> Option<&Recorded> {
        let at = self.find(packet)?;
        self.remove(at);
        Some(&self.slots[at as usize].walk)
    }

    fn remove(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        let Some(packet) = slot.packet.take() else { return };
        let (next, newer, older) = (slot.next, slot.newer, slot.older);
        slot.next = self.free;
        self.free = at;
        let chain = self.chain(packet);
        let mut link = &mut self.chains[chain];
        while *link != at && *link != NONE {
            link = &mut self.slots[*link as usize].next;
        }
        *link = next;
        match self.slots.get_mut(older as usize) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
        match self.slots.get_mut(newer as usize) {
            Some(slot) => slot.older = older,
            None => self.newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{flower::Cookie, walk::record::HITS};
    use proptest::prelude::*;

    /// What a walk was told; nothing of one that is too long.
    fn told(walk: &Recorded) -> Vec<Cookie> {
        if walk.steps.too_long() { vec![] } else { walk.steps.filters().to_vec() }
    }

    fn fits(filters: Vec<Cookie>) -> Vec<Cookie> {
        if filters.len() > HITS { vec![] } else { filters }
    }

    /// What the table should be: a list by age.
    #[derive(Default)]
    struct Plain(Vec<(PacketId, Vec<Cookie>)>);

    proptest! {
        /// Against a plain list: begun, hit, ended, given up, with few names and little room.
        #[test]
        fn as_a_plain_list(
            limit in 1usize..6,
            steps in prop::collection::vec((0u8..4, 0u64..8), 1..200),
        ) {
            let (mut flight, mut plain) = (Flight::new(limit), Plain::default());
            for (n, (what, name)) in steps.into_iter().enumerate() {
                let packet = PacketId(name << 6);
                let at = plain.0.iter().position(|(p, _)| *p == packet);
                match what {
                    0 => {
                        let full = plain.0.len() == limit;
                        let given_up = at.or(full.then_some(0)).map(|at| plain.0.remove(at));
                        plain.0.push((packet, vec![]));
                        prop_assert_eq!(flight.begin(packet, Port(1), &Key::ZERO, 0), given_up.is_some());
                    }
                    1 => {
                        let walk = flight.leave(packet).map(told);
                        prop_assert_eq!(walk, at.map(|at| fits(plain.0.remove(at).1)));
                    }
                    _ => {
                        let filter = Cookie(n as u64);
                        let known = flight.get(packet).map(|walk| walk.steps.hit(filter)).is_some();
                        let walk = at.map(|at| &mut plain.0[at].1);
                        prop_assert_eq!(known, walk.is_some());
                        walk.into_iter().for_each(|w| w.push(filter));
                    }
                }
            }
            for (packet, filters) in plain.0 {
                prop_assert_eq!(flight.leave(packet).map(told), Some(fits(filters)));
            }
            prop_assert_eq!((flight.oldest, flight.newest), (NONE, NONE));
        }
    }
}
