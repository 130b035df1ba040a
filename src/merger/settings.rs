//! What a caller can choose: limits, times, and which connections are worth it. Each limit has a counter of what it turned away.

use crate::{
    conntrack::{Connection, ConnectionId},
    datapath, glance,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    table::shard::Worth,
};
use std::fmt;

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

/// A caller's policy: asked when a connection is told, or told anew.
pub type Policy = Box<dyn Fn(&Connection) -> Worth + Send + Sync>;

/// Conntrack, as far as the merger asks something of it.
pub trait Conntrack: Send + Sync {
    /// Makes conntrack liberal about a TCP connection's windows in both directions, as act_ct does when it offloads one
    /// (`IP_CT_TCP_FLAG_BE_LIBERAL`): it will not see the data any more, and would call the close invalid. Asked for before the
    /// connection's first merged filter is installed, with no lock held.
    ///
    /// # Errors
    /// Then the connection stays in software.
    fn make_liberal(&self, id: ConnectionId, connection: &Connection) -> Result<(), String>;
}

/// Conntrack that is liberal already, of each connection or by `nf_conntrack_tcp_be_liberal`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Liberal;

impl Conntrack for Liberal {
    fn make_liberal(&self, _: ConnectionId, _: &Connection) -> Result<(), String> {
        Ok(())
    }
}

/// All that a caller can choose. Times are in nanoseconds of the caller's clock.
pub struct Settings {
    /// The limits.
    pub limits: Limits,
    /// What datapaths have room to see; its `shards` are those below.
    pub seen: glance::Limits,
    /// What each datapath has room for.
    pub datapath: datapath::Limits,
    /// Called by a datapath when a walk was handed over and no worker is awake: it must not block. `None`: workers of the library's
    /// ([`Workers`](super::Workers)) are woken, other callers look for work by themselves.
    pub wake: Option<Box<dyn Fn() + Send + Sync>>,
    /// Shards of connections and merged filters: several threads that merge seldom meet in one of many. 1 to 255.
    pub shards: u8,
    /// Which connections are worth it.
    pub policy: Policy,
    /// Who makes connections liberal.
    pub conntrack: Box<dyn Conntrack>,
    /// How long to wait before hardware that failed twice is asked again; twice as long after each further failure.
    pub backoff: u64,
    /// The longest wait.
    pub backoff_most: u64,
    /// How often an install is tried before it is given up.
    pub attempts: u8,
    /// A merged filter not used for this long is taken out; `None`: never.
    pub idle: Option<u64>,
    /// How long a merged filter is safe from being displaced by a busier one when the table is full.
    pub settled: u64,
    /// How long conntrack keeps an established TCP connection (`nf_conntrack_tcp_timeout_established`).
    pub tcp_timeout: u64,
    /// How long it keeps a UDP connection with packets in both directions (`nf_conntrack_udp_timeout_stream`).
    pub udp_timeout: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            limits: Limits::default(),
            seen: glance::Limits { connections: 1 << 22, ..glance::Limits::default() },
            datapath: datapath::Limits::default(),
            wake: None,
            shards: 8,
            policy: Box::new(|_| Worth::After(1)),
            conntrack: Box::new(Liberal),
            backoff: SECOND / 1000,
            backoff_most: SECOND,
            attempts: 5,
            idle: None,
            settled: SECOND,
            tcp_timeout: 432_000 * SECOND,
            udp_timeout: 120 * SECOND,
        }
    }
}

impl Settings {
    /// The defaults, with these limits.
    pub fn with_limits(limits: Limits) -> Settings {
        Settings { limits, ..Settings::default() }
    }

    /// How long to wait after this many failures in a row.
    pub(super) fn wait(&self, failures: u8) -> u64 {
        match failures {
            0 | 1 => 0,
            n => self.backoff.checked_shl(u32::from(n) - 2).unwrap_or(u64::MAX).min(self.backoff_most),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("limits", &self.limits).field("shards", &self.shards).finish_non_exhaustive()
    }
}

macro_rules! tallies {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What happened how often.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Turned {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The same while it is being counted.
        #[derive(Debug, Default)]
        pub(super) struct Tallies {
            $(pub $name: Tally,)*
        }

        impl Tallies {
            pub fn told(&self) -> Turned {
                Turned { $($name: self.$name.told(),)* }
            }
        }

        impl Turned {
            /// Each with its name, for metrics.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

tallies! {
    /// Walks dropped because the queue was full.
    queue,
    /// Connections beyond what there is room for: nothing is merged on them.
    connections,
    /// Walks refused because their way had enough merged filters.
    merged_per_way,
    /// Walks refused because there were enough merged filters.
    merged,
    /// Installs that the hardware declined because its table was full, and nothing in it was less busy.
    full,
    /// Merged filters that made room for busier ones.
    displaced,
    /// Merged filters taken out because they were idle.
    idle,
    /// Calls into the hardware that failed.
    faults,
    /// Installs given up after all attempts.
    given_up,
    /// New paths that were not folded, but cast in the mold of another.
    cast,
    /// Merged filters installed.
    installed,
    /// Merged filters that left the hardware.
    left,
}

/// A counter.
#[derive(Debug, Default)]
pub(super) struct Tally(AtomicU64);

impl Tally {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn one(&self) {
        self.add(1);
    }

    pub fn told(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
