//! The hardware as a driver gives it: a table of merged filters that count, and no order among them.
//!
//! [`Hardware`] is what a driver implements; [`Memory`] is a table in memory that handles frames itself: the default,
//! and the hardware of replays and tests. Merged filters that overlap do the same to a packet, so there are no
//! priorities.

mod memory;

pub use crate::{
    flower::{Capabilities, Counts, Lacking, capabilities::Abilities},
    packet::apply::{Sent, Trim},
};
pub use memory::{Handled, Memory};

use crate::{
    conntrack::Connection,
    flower::{Action, Match, Port},
    merge::Path,
};
use std::fmt;

/// The name of a merged filter while it is installed, chosen by whoever installs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MergedId(pub u64);

/// A merged filter as it goes into the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: MergedId,
    /// The port whose arriving frames it matches.
    pub port: Port,
    /// What it matches of them, as they arrive.
    pub matches: Match,
    /// What it does; no `ct`, no chains.
    pub actions: Vec<Action>,
    /// Where software would cut off what follows the IP datagram. Hardware that cannot may ignore it.
    pub trim: Trim,
}

/// A merged filter as it is offered: its path and its connections. Hardware with templates of matches and actions takes it as
/// that; other hardware asks for the [`entry`](Offer::entry).
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Its name.
    pub id: MergedId,
    /// The path: what all merged filters of it share.
    pub path: &'a Path,
    /// The connections that the path is filled in with.
    pub connections: &'a [&'a Connection],
    /// Whether the hardware can mend checksums ([`Abilities::MEND`]).
    pub mend: bool,
}

impl Offer<'_> {
    /// What it matches of the frames that arrive at the path's port.
    pub fn matches(&self) -> Match {
        // Nothing is offered whose conditions its connections do not meet.
        self.path.matches(self.connections).unwrap_or_default()
    }

    /// It as one filter.
    pub fn entry(&self) -> Entry {
        let (actions, trim) = self.path.actions(self.connections, self.mend);
        Entry { id: self.id, port: self.path.port, matches: self.matches(), actions, trim }
    }
}

/// What an entry has counted since it was installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Packets.
    pub packets: u64,
    /// Bytes, as [`Capabilities::counts`] says.
    pub bytes: u64,
    /// Last use, in nanoseconds of the caller's clock; 0 never.
    pub last_used: u64,
    /// What its policer dropped of these.
    pub policed: Policed,
}

/// What a policer dropped of an entry's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policed {
    /// Packets.
    pub packets: u64,
    /// Bytes, as [`Capabilities::counts`] says.
    pub bytes: u64,
}

/// What hardware did not do. Each names the merged filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HardwareError {
    /// The table is full.
    #[error("{id} not installed: the table is full, {size} entries")]
    Full {
        /// The merged filter.
        id: MergedId,
        /// The table's size.
        size: usize,
    },
    /// A merged filter of this name is installed.
    #[error("{id} not installed: there is one of this name")]
    Exists {
        /// The merged filter.
        id: MergedId,
    },
    /// The table cannot hold such an entry.
    #[error("{id} not installed: {lacking}")]
    Unsupported {
        /// The merged filter.
        id: MergedId,
        /// What the table lacks.
        lacking: Lacking,
    },
    /// No merged filter of this name is installed.
    #[error("{id} is not installed")]
    Missing {
        /// The merged filter.
        id: MergedId,
    },
    /// The device failed, maybe for a moment; a removal that failed leaves the entry installed, an install that failed does not.
    #[error("{id}: the device failed: {reason}")]
    Failed {
        /// The merged filter.
        id: MergedId,
        /// In the device's words.
        reason: String,
    },
    /// The device failed amid an install, so that the entry may be installed or not. It is removed, to be sure.
    #[error("{id}: the device failed, and may have installed it: {reason}")]
    Unsure {
        /// The merged filter.
        id: MergedId,
        /// In the device's words.
        reason: String,
    },
}

/// A table in hardware, as a driver gives it.
///
/// It is called from any thread that calls the merger, and from several at once; never with a lock of the library's held, so that it may
/// be slow. It must not call the merger itself.
pub trait Hardware: Send + Sync {
    /// What the table can match and do. Does not change.
    fn capabilities(&self) -> Capabilities;

    /// Installs a merged filter; from the return on it may match.
    ///
    /// # Errors
    /// Then it is not installed, but for [`HardwareError::Unsure`].
    fn install(&self, offer: &Offer<'_>) -> Result<(), HardwareError>;

    /// Removes a merged filter and takes its last reading: nothing is counted after that.
    ///
    /// # Errors
    /// Then it may still be installed, but for [`HardwareError::Missing`].
    fn remove(&self, id: MergedId) -> Result<Reading, HardwareError>;

    /// Puts a merged filter in the place of another, when the table is full: what came of the removal, and of the install, which is
    /// not tried if the removal failed.
    fn replace(&self, old: MergedId, offer: &Offer<'_>) -> (Result<Reading, HardwareError>, Result<(), HardwareError>) {
        match self.remove(old) {
            Ok(reading) => (Ok(reading), self.install(offer)),
            Err(HardwareError::Missing { id }) => (Err(HardwareError::Missing { id }), self.install(offer)),
            Err(error) => (Err(error.clone()), Err(error)),
        }
    }

    /// Reads the counters of many merged filters. Some may be on their way in or out: what is not installed is [`HardwareError::Missing`].
    /// Any other error is the device's failure, and counted as such.
    fn read(&self, ids: &[MergedId], each: &mut dyn FnMut(MergedId, Result<Reading, HardwareError>));
}

impl HardwareError {
    /// The merged filter concerned.
    pub fn id(&self) -> MergedId {
        match self {
            HardwareError::Full { id, .. }
            | HardwareError::Exists { id }
            | HardwareError::Unsupported { id, .. }
            | HardwareError::Missing { id }
            | HardwareError::Failed { id, .. }
            | HardwareError::Unsure { id, .. } => *id,
        }
    }
}

impl MergedId {
    /// The name of a slot's entry: `1, 2, ...` over all shards in the low half, how often the slot was used before in the high one.
    #[inline]
    pub(crate) fn new(generation: u32, slot: u32, shard: u8, shards: u8) -> MergedId {
        let number = u64::from(slot) * u64::from(shards) + u64::from(shard) + 1;
        MergedId(u64::from(generation) << 32 | number)
    }

    /// Generation, slot and shard; `None` for a name that none has.
    #[inline]
    pub(crate) fn parts(self, shards: u8) -> Option<(u32, u32, u8)> {
        let number = (self.0 as u32).checked_sub(1)?;
        let shards = u32::from(shards);
        // Every reading of a counter comes through here: a division would be a good part of it.
        let (slot, shard) = match shards.is_power_of_two() {
            true => (number >> shards.trailing_zeros(), number & (shards - 1)),
            false => (number / shards, number % shards),
        };
        Some(((self.0 >> 32) as u32, slot, shard as u8))
    }
}

impl fmt::Display for MergedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The second, third ... of a number is told apart.
        match (self.0 as u32, self.0 >> 32) {
            (number, 0) => write!(f, "merged filter {number}"),
            (number, before) => write!(f, "merged filter {number}/{}", before + 1),
        }
    }
}
