//! The library's own name for a connection, which leads to its place without a look-up.
//!
//! The driver keeps it beside its connection (64 bits) and records it with each packet. A place is used again for another
//! connection; the generation tells them apart, until it comes round after 16 million connections in one place.

use std::{fmt, num::NonZeroU64};

/// Where the library keeps a connection: shard (8 bits), slot (32), and the generation of what is there (24, never 0).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionHandle(NonZeroU64);

const GENERATION_BITS: u32 = 24;
const SLOT_BITS: u32 = 32;

impl ConnectionHandle {
    /// The highest generation; after it comes 1.
    pub const LAST_GENERATION: u32 = (1 << GENERATION_BITS) - 1;

    /// The handle with these parts; `None` if the generation is 0 or too high.
    pub fn new(shard: u8, slot: u32, generation: u32) -> Option<ConnectionHandle> {
        if generation == 0 || generation > Self::LAST_GENERATION {
            return None;
        }
        let place = u64::from(shard) << SLOT_BITS | u64::from(slot);
        NonZeroU64::new(place << GENERATION_BITS | u64::from(generation)).map(ConnectionHandle)
    }

    /// The handle with these bits, as [`bits`](ConnectionHandle::bits) gave them; `None` if no handle has them.
    #[inline]
    pub fn from_bits(bits: u64) -> Option<ConnectionHandle> {
        let handle = NonZeroU64::new(bits).map(ConnectionHandle)?;
        (handle.generation() != 0).then_some(handle)
    }

    /// All of it, for a driver to keep.
    #[inline]
    pub fn bits(self) -> u64 {
        self.0.get()
    }

    /// The shard.
    #[inline]
    pub fn shard(self) -> u8 {
        (self.0.get() >> (SLOT_BITS + GENERATION_BITS)) as u8
    }

    /// The slot in the shard.
    #[inline]
    pub fn slot(self) -> u32 {
        (self.0.get() >> GENERATION_BITS) as u32
    }

    /// Which of the connections that were there.
    #[inline]
    pub fn generation(self) -> u32 {
        self.0.get() as u32 & Self::LAST_GENERATION
    }

    /// Shard and slot together, 40 bits.
    #[inline]
    pub(crate) fn place(self) -> u64 {
        self.0.get() >> GENERATION_BITS
    }
}

impl fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}.{}", self.shard(), self.slot(), self.generation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_and_no_handle_is_of_generation_0() {
        for (shard, slot, generation) in [(0, 0, 1), (255, u32::MAX, ConnectionHandle::LAST_GENERATION), (3, 70_000, 9)]
        {
            let handle = ConnectionHandle::new(shard, slot, generation).expect("in range");
            assert_eq!((handle.shard(), handle.slot(), handle.generation()), (shard, slot, generation));
            assert_eq!(handle.place(), u64::from(shard) << 32 | u64::from(slot));
            assert_eq!(ConnectionHandle::from_bits(handle.bits()), Some(handle));
        }
        assert_eq!(ConnectionHandle::new(1, 1, 0), None);
        assert_eq!(ConnectionHandle::new(1, 1, 1 << 24), None);
        assert_eq!(ConnectionHandle::from_bits(1 << 24), None);
        assert_eq!(size_of::<Option<ConnectionHandle>>(), 8);
    }
}
