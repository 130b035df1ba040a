//! The work on one walk: its way, the gate, a known path or a new one, and the install.

use super::{Merge, Merger, Outcome};
use crate::{
    conntrack::{Connection, ConnectionId},
    flower::{Cookie, Counts, FilterId},
    hardware::Hardware,
    merge::{self, Met, Order, Otherwise, Path, Refusal, Scene, Step, template::Template},
    table::{Connections, CtKey, Table, WayKey},
    walk::Walk,
};
use smallvec::SmallVec;

impl<H: Hardware> Merger<H> {
    pub(super) fn merge(&mut self, walk: &Walk) -> Outcome {
        let connections = distinct(walk);
        let (key, last) = self.way_key(walk, &connections)?;
        let way = self.table.way(key);
        self.gate(walk)?;
        let fills = |table: &Table, template: &Template| {
            let known: SmallVec<[&Connection; 2]> = connections.iter().filter_map(|&c| table.connection(c)).collect();
            template.fill(&known).filter(|m| m.fits(&walk.key))
        };
        let filled = |table: &Table, path: &Path| fills(table, &path.template);
        let table = &self.table;
        let found = table.paths(way).find_map(|(id, path)| Some((id, filled(table, path)?)));
        let (path, matches) = match found {
            Some(found) => found,
            None => {
                if let Some(refusal) = self.table.refusal(way, |others| fills(&self.table, others).is_some()) {
                    return Err(refusal.clone());
                }
                if table.merged_of_way(way, &connections) >= self.limits.merged_per_way {
                    self.turned.merged_per_way += 1;
                    return Err(Refusal::TooMany { filter: last, limit: self.limits.merged_per_way });
                }
                let fronts = self.fronts(walk);
                let folded = merge::fold(&self.scene(walk, &connections, &fronts), self);
                let path = match folded {
                    Ok(path) => path,
                    Err(refused) => {
                        let refusal = refused.refusal.clone();
                        self.table.refuse(way, *refused);
                        return Err(refusal);
                    }
                };
                let matches =
                    filled(&self.table, &path).ok_or(Refusal::Changed { filter: last, what: Otherwise::Connection })?;
                (self.table.add_path(way, path), matches)
            }
        };
        if let Some(id) = self.table.merged_of(path, &connections) {
            return Ok(Merge { id, installed: false });
        }
        self.install(last, walk.port, path, connections, matches)
    }

    /// The walk's way, if its filters and connections are all there, and its last filter.
    fn way_key(&self, walk: &Walk, connections: &Connections) -> Result<(WayKey, FilterId), Refusal> {
        let mut steps = Vec::with_capacity(walk.hits.len());
        let mut last = Err(Refusal::NoHits);
        for (hit, h) in walk.hits.iter().enumerate() {
            let cookie = h.filter;
            let filter = self.table.filter(cookie).ok_or(Refusal::UnknownFilter { hit, cookie })?.filter.id;
            if hit == self.limits.hits {
                return Err(Refusal::TooLong { filter, hits: walk.hits.len(), limit: hit });
            }
            last = Ok(filter);
            let mut found = SmallVec::new();
            for f in &h.found {
                let Some(f) = f else {
                    found.push(None);
                    continue;
                };
                let unknown = Refusal::UnknownConnection { filter, connection: f.connection.0 };
                let connection = self.table.connection(f.connection).ok_or(unknown)?;
                found.push(Some(CtKey {
                    index: index(connections, f.connection),
                    direction: f.direction,
                    ipv6: connection.original.src.is_ipv6(),
                    proto: connection.original.proto,
                    changes: merge::changes(connection, f.direction),
                }));
            }
            steps.push((cookie, found));
        }
        Ok((WayKey { port: walk.port, steps }, last?))
    }

    /// Each connection must qualify before anything is folded.
    fn gate(&self, walk: &Walk) -> Result<(), Refusal> {
        for hit in &walk.hits {
            let Some(filter) = self.table.filter(hit.filter).map(|e| e.filter.id) else {
                continue;
            };
            for found in hit.found.iter().flatten() {
                if let Some(connection) = self.table.connection(found.connection) {
                    connection.qualifies().map_err(|why| Refusal::NotQualified { filter, why })?;
                }
            }
        }
        Ok(())
    }

    /// What stands in front of each hit.
    fn fronts(&mut self, walk: &Walk) -> Vec<Vec<(Cookie, Order)>> {
        let mut before = None;
        let in_front = walk.hits.iter().map(|hit| {
            let front = self.table.in_front(hit.filter, before);
            before = Some(hit.filter);
            front
        });
        in_front.collect()
    }

    fn scene<'a>(&'a self, walk: &'a Walk, connections: &Connections, fronts: &[Vec<(Cookie, Order)>]) -> Scene<'a> {
        let mut steps = Vec::new();
        for (hit, front) in walk.hits.iter().zip(fronts) {
            let Some(entry) = self.table.filter(hit.filter) else {
                continue;
            };
            let in_front =
                front.iter().filter_map(|&(c, order)| Some((&self.table.filter(c)?.filter, order))).collect();
            let met = hit.found.iter().map(|f| {
                let f = (*f)?;
                let connection = self.table.connection(f.connection)?;
                Some(Met { index: index(connections, f.connection), direction: f.direction, connection })
            });
            steps.push(Step { cookie: hit.filter, filter: &entry.filter, in_front, met: met.collect() });
        }
        Scene {
            port: walk.port,
            key: &walk.key,
            steps,
            connections: connections.iter().filter_map(|&c| self.table.connection(c)).collect(),
            tell_tag: self.counts == Counts::Frame,
            masks: &self.masks,
        }
    }
}

/// The connections of a walk, each once, in the order in which it meets them.
fn distinct(walk: &Walk) -> Connections {
    let mut out = Connections::new();
    for found in walk.hits.iter().flat_map(|h| &h.found).flatten() {
        if !out.contains(&found.connection) {
            out.push(found.connection);
        }
    }
    out
}

fn index(connections: &Connections, id: ConnectionId) -> u8 {
    connections.iter().position(|&c| c == id).unwrap_or_default() as u8
}
