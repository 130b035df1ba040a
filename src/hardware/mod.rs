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

use crate::flower::{Action, Match, Port};
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
    /// The device failed; a removal that failed leaves the entry installed, an install that failed does not.
    #[error("{id}: the device failed: {reason}")]
    Failed {
        /// The merged filter.
        id: MergedId,
        /// In the device's words.
        reason: String,
    },
}

/// A table in hardware, as a driver gives it.
pub trait Hardware {
    /// What the table can match and do. Does not change.
    fn capabilities(&self) -> Capabilities;

    /// Installs a merged filter; from the return on it may match.
    ///
    /// # Errors
    /// Then it is not installed.
    fn install(&mut self, entry: &Entry) -> Result<(), HardwareError>;

    /// Removes a merged filter and takes its last reading: nothing is counted after that.
    ///
    /// # Errors
    /// Then it may still be installed, but for [`HardwareError::Missing`].
    fn remove(&mut self, id: MergedId) -> Result<Reading, HardwareError>;

    /// Reads a merged filter's counters.
    ///
    /// # Errors
    /// If it is not installed, or the device fails.
    fn read(&mut self, id: MergedId) -> Result<Reading, HardwareError>;
}

impl HardwareError {
    /// The merged filter concerned.
    pub fn id(&self) -> MergedId {
        match self {
            HardwareError::Full { id, .. }
            | HardwareError::Exists { id }
            | HardwareError::Unsupported { id, .. }
            | HardwareError::Missing { id }
            | HardwareError::Failed { id, .. } => *id,
        }
    }
}

impl fmt::Display for MergedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "merged filter {}", self.0)
    }
}
