//! A path: what walks share, folded. A merged filter is a path and its connections.
//!
//! There may be as many paths as merged filters. What most of them have in common with others is kept behind [`Arc`]s: paths of one
//! way that differ by their cut alone share all but that ([`Path::share`]), and a caller may share more, as the parts can be compared
//! and hashed.

use super::{
    program::{self, Program},
    seen::Seen,
    template::Template,
};
use crate::{
    conntrack::Connection,
    flower::{Action, Cookie, Field, Key, Match, Port, ethertype},
    packet::apply::Trim,
};
use smallvec::SmallVec;
use std::sync::Arc;

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

/// What happens to a path's packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Course {
    /// What is done to them.
    pub program: Program,
    /// What each of the filters saw.
    pub seen: Seen,
    /// The ports that the filters send to, or into, up or down: when one changes, the path no longer holds.
    pub targets: SmallVec<[Port; 2]>,
}

/// A way and its cut, ready to be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Where its packets come in.
    pub port: Port,
    /// What they are.
    pub template: Template,
    /// The filters, in the order of the hits.
    pub parents: Arc<[Parent]>,
    /// What happens to them.
    pub course: Arc<Course>,
}

impl Path {
    /// The match for these connections; `None` if they do not meet the path's conditions.
    pub fn matches(&self, connections: &[&Connection]) -> Option<Match> {
        self.template.fill(connections)
    }

    /// Whether what [`matches`](Path::matches) gives for these connections matches the packet, without making it.
    #[inline]
    pub fn fits(&self, packet: &Key, connections: &[&Connection]) -> bool {
        self.template.fits(packet, connections)
    }

    /// Bytes of Ethernet header and outer tag, which TC does not count of a frame that arrives, where the path tells the tag.
    pub fn overhead(&self) -> u64 {
        let (mask, protocol) = self.template.known.get(Field::Protocol);
        let tagged = mask == 0xffff && ethertype::is_vlan(protocol as u16);
        if tagged { 18 } else { 14 }
    }

    /// Takes the parts that are the same from another path, so that they are kept once.
    pub fn share(&mut self, other: &Path) {
        self.template.share(&other.template);
        if self.parents == other.parents {
            self.parents = Arc::clone(&other.parents);
        }
        if self.course == other.course {
            self.course = Arc::clone(&other.course);
        }
    }

    /// The actions for these connections, and when to trim. `mend`: checksums can be mended; else they are computed anew
    /// after each translation.
    pub fn actions(&self, connections: &[&Connection], mend: bool) -> (Vec<Action>, Trim) {
        program::actions(&self.course.program, connections, mend)
    }
}
