//! An entry of the tracker.

use crate::conntrack::{dccp::Dccp, sctp::Sctp, tcp::Tcp};
use flowmerge::conntrack::{Connection, TcpState, Tuple};

/// How coarse the kernel's clock of timeouts may be, in nanoseconds.
const TICK: u64 = 20_000_000;

/// A connection and what is remembered of it besides.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) connection: Connection,
    pub(super) tcp: Tcp,
    /// Of an SCTP association, if it was followed from its first packet on.
    pub(super) sctp: Option<Sctp>,
    /// The same of a DCCP connection.
    pub(super) dccp: Option<Dccp>,
    pub(super) confirmed: bool,
    /// Out of the table; kept until no packet can refer to it.
    pub(super) dead: bool,
    /// A report of its birth was taken over.
    pub(super) reported: bool,
    /// Sides whose translation was chosen: source, destination.
    pub(super) translated: [bool; 2],
    /// Its translation is one of several that the kernel may choose, and no report told which.
    pub(super) guessed: bool,
    /// In the flow table of act_ct, and when that was last used.
    pub(super) offloaded: Option<u64>,
    /// When its first packet came.
    pub(super) born: Option<u64>,
    /// When the kernel last told of it, and how long it had to live then, in nanoseconds.
    pub(super) told: Option<(u64, u64)>,
    /// When a packet last passed through it.
    pub(super) touched: Option<u64>,
    /// Of a missed frame: OVS may still commit it.
    pub(super) waiting: bool,
}

impl Entry {
    /// Unconfirmed, not translated.
    pub(super) fn new(zone: u16, original: Tuple) -> Entry {
        Entry {
            connection: Connection::new(zone, original, original.inverse()),
            tcp: Tcp::NEW,
            sctp: None,
            dccp: None,
            confirmed: false,
            dead: false,
            reported: false,
            translated: [false; 2],
            guessed: false,
            offloaded: None,
            born: None,
            told: None,
            touched: None,
            waiting: false,
        }
    }

    /// Whether it may have expired, as far as the kernel has told. A reset may have cut its life to ten seconds, which is not
    /// told, and a SYN that is sent again does not lengthen it.
    pub(super) fn may_be_over(&self, now: u64) -> bool {
        const SECOND: u64 = 1_000_000_000;
        let outlived = self.told.is_none_or(|(at, timeout)| now.saturating_sub(at) + TICK >= timeout.min(10 * SECOND));
        let rested = self.touched.is_none_or(|at| now.saturating_sub(at) + TICK >= SECOND);
        // From the flow table it may come back with no time left; but not by the frame that has just lengthened it.
        outlived
            && self.touched != Some(now)
            && (rested || self.offloaded.is_some() || self.connection.tcp == Some(TcpState::SynSent))
    }
}
