//! What was found out about packets that are not merged: kept with their way, until one of its filters changes, or the shadow goes, or the
//! port comes, that was the reason.

use super::{Table, WayId, ways::Way};
use crate::{
    flower::{Cookie, FilterId, Port},
    glance::{Decided, VerdictId},
    merge::{Refusal, Refused, template::Template},
};

/// A refusal, and what datapaths see of it.
#[derive(Debug)]
pub(super) struct Remembered {
    refused: Refused,
    pub verdict: Option<VerdictId>,
}

/// Most refusals that a way remembers; the oldest makes room.
const REFUSED: usize = 64;

impl Table {
    /// Why such a walk of the way is not merged, if that was found out. `fits`: whether the walk is like those that a template
    /// describes.
    pub fn refusal(&self, way: WayId, fits: impl Fn(&Template) -> bool) -> Option<&Refusal> {
        let mut all = self.ways.get(way.0).into_iter().flat_map(|way| &way.refused).map(|r| &r.refused);
        all.find(|r| r.others.as_ref().is_some_and(&fits)).map(|r| &r.refusal)
    }

    /// All that is remembered of walks that are not merged.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        self.ways.iter().flat_map(|way| &way.refused).map(|r| &r.refused.refusal)
    }

    /// Remembers why such walks of the way are not merged, until one of its filters changes or the shadow goes that was the
    /// reason.
    pub fn refuse(&mut self, way: WayId, refused: Refused) {
        if refused.others.is_none() {
            return;
        }
        if let Some(shadow) = refused.refusal.shadow() {
            self.refused_for.entry(shadow).or_default().insert(way.0);
        }
        for &port in &refused.targets {
            self.refused_at.entry(port).or_default().insert(way.0);
        }
        let verdict = self.show_refused(way, &refused);
        let Some(Way { refused: all, .. }) = self.ways.get_mut(way.0) else { return };
        let oldest = if all.len() == REFUSED { all.remove(0).verdict } else { None };
        all.push(Remembered { refused, verdict });
        self.retire_verdict(oldest);
    }

    /// Lets datapaths see what is refused of a way whatever the connections.
    fn show_refused(&self, way: WayId, refused: &Refused) -> Option<VerdictId> {
        let glance = self.glance.as_deref()?;
        let others = refused.others.as_ref().filter(|others| others.conditions.is_empty())?;
        let verdict = self.ways.get(way.0)?.key.verdict(&others.known.unpack(), Decided::Refused);
        let id = glance.publish(&verdict)?;
        glance.show(id);
        Some(id)
    }

    /// Forgets what was refused because this filter stands in front.
    pub fn forgive(&mut self, shadow: FilterId) {
        for way in self.refused_for.remove(&shadow).unwrap_or_default() {
            self.forgive_of(way, |refused| refused.refusal.shadow() == Some(shadow));
        }
    }

    /// Forgets what was refused of ways that would send to this port, or into it.
    pub fn forgive_at(&mut self, port: Port) {
        for way in self.refused_at.remove(&port).unwrap_or_default() {
            self.forgive_of(way, |refused| refused.targets.contains(&port));
        }
    }

    fn forgive_of(&mut self, way: u32, which: impl Fn(&Refused) -> bool) {
        let Some(refused) = self.ways.get_mut(way).map(|way| &mut way.refused) else { return };
        let gone: Vec<_> = refused.extract_if(.., |r| which(&r.refused)).map(|r| r.verdict).collect();
        gone.into_iter().for_each(|verdict| self.retire_verdict(verdict));
    }

    /// What is remembered of walks through a filter that are not merged.
    pub fn refusals_through(&self, cookie: Cookie) -> impl Iterator<Item = &Refusal> {
        let ways = self.filters.get(&cookie).into_iter().flat_map(|e| &e.ways);
        ways.filter_map(|&way| self.ways.get(way)).flat_map(|way| &way.refused).map(|r| &r.refused.refusal)
    }
}
