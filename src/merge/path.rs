//! A path: what walks share, folded. A merged filter is a path and its connections.

use super::{
    program::{self, Program},
    symbol::Value,
    template::Template,
};
use crate::{
    conntrack::Connection,
    flower::{Action, Cookie, Field, Key, Match, Port},
    packet::apply::Trim,
};

/// A filter of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The filter.
    pub cookie: Cookie,
    /// Which of its actions the way runs: bit n is action n. These are the ones that count.
    pub ran: u32,
    /// Which of these are behind a policer: they do not count what it drops.
    pub behind: u32,
    /// By how many bytes the packet was longer there than on arrival: a redirect to ingress counts a tag that has gone behind
    /// another one.
    pub longer: i64,
}

/// What the fields held at a hit: those that were not as the packet brought them.
pub type Seen = Box<[(Field, Value)]>;

/// A way and its cut, ready to be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Where its packets come in.
    pub port: Port,
    /// What they are.
    pub template: Template,
    /// What is done to them.
    pub program: Program,
    /// The filters, in the order of the hits.
    pub parents: Vec<Parent>,
    /// What each of them saw.
    pub seen: Vec<Seen>,
    /// The ports that its filters send to, or into, up or down: when one changes, the path no longer holds.
    pub targets: Vec<Port>,
}

impl Path {
    /// The match for these connections; `None` if they do not meet the path's conditions.
    pub fn matches(&self, connections: &[&Connection]) -> Option<Match> {
        self.template.fill(connections)
    }

    /// Whether what [`matches`](Path::matches) gives for these connections matches the packet, without making it.
    pub fn fits(&self, packet: &Key, connections: &[&Connection]) -> bool {
        self.template.fits(packet, connections)
    }

    /// The actions for these connections, and when to trim. `mend`: checksums can be mended; else they are computed anew
    /// after each translation.
    pub fn actions(&self, connections: &[&Connection], mend: bool) -> (Vec<Action>, Trim) {
        program::actions(&self.program, connections, mend)
    }
}
