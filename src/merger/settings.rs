//! Limits: each with a default, a setting, and a counter of what it turned away.

/// What the merger does not go beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Hits in a walk.
    pub hits: usize,
    /// Walks waiting to be merged.
    pub queue: usize,
    /// Merged filters of one way for the same connections; several are needed where shadows are cut off.
    pub merged_per_way: usize,
    /// Merged filters in all.
    pub merged: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { hits: 16, queue: 4096, merged_per_way: 64, merged: 1 << 20 }
    }
}

/// How often each limit turned something away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turned {
    /// Walks dropped because the queue was full.
    pub queue: u64,
    /// Walks refused because their way had enough merged filters.
    pub merged_per_way: u64,
    /// Walks refused because the table was full.
    pub merged: u64,
}
