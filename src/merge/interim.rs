use super::{path::Path, template::Template};
use crate::{conntrack::Connection, flower::{Key, Match}};

impl Path {
    pub fn fits(&self, packet: &Key, connections: &[&Connection]) -> bool {
        self.template.fits(packet, connections)
    }
}
impl Template {
    pub fn fits(&self, packet: &Key, connections: &[&Connection]) -> bool {
        self.fill(connections).is_some_and(|m| m.fits(packet))
    }
    pub fn may_overlap(&self, other: &Template) -> bool {
        self.known.both(&other.known).is_some()
    }
    pub fn constants(&self) -> Match {
        self.known
    }
}
