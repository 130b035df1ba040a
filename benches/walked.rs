//! A packet's walk by itself, with all that the fold is told of it: what the table looks up otherwise.

use crate::world::{PORT, Packet, World};
use flowmerge::{
    conntrack::{Connection, ConnectionId},
    flower::{Cookie, Filter, Key, Masks},
    merge::{Met, Order, Path, Scene, Step, fold},
    table::Table,
    walk::Found,
};
use smallvec::SmallVec;

/// The packet, the filters that it hits, in order, and the connections that it has to do with.
#[derive(Clone, Debug)]
pub struct Walked {
    packet: Packet,
    filters: Vec<Filter>,
    connections: SmallVec<[(ConnectionId, Connection); 2]>,
}

impl Walked {
    /// That of the `n`-th client's packet.
    ///
    /// # Panics
    /// If the packet hits what is no filter of the world.
    pub fn new(world: &World, n: u64) -> Walked {
        let (packet, filters) = (world.packet(n), world.filters());
        let filter = |hit: Cookie| filters.iter().find(|(cookie, _)| *cookie == hit).expect("it is of this world");
        let filters = packet.hits.iter().map(|(hit, _)| filter(*hit).1.clone()).collect();
        Walked { packet, filters, connections: world.connections(n) }
    }

    /// The packet as it arrives.
    pub fn key(&self) -> &Key {
        &self.packet.key
    }

    /// The connections.
    pub fn connections(&self) -> Vec<&Connection> {
        self.connections.iter().map(|(_, connection)| connection).collect()
    }

    /// For the fold, with these filters in front of those of their chains.
    pub fn scene<'a>(&'a self, front: &'a [Filter]) -> Scene<'a> {
        let met = |found: Found| {
            let index = self.connections.iter().position(|(id, _)| *id == found.connection)?;
            Some(Met { index: index as u8, direction: found.direction, connection: &self.connections[index].1 })
        };
        let steps = self.packet.hits.iter().zip(&self.filters).map(|(&(cookie, found), filter)| Step {
            cookie,
            filter,
            in_front: front.iter().filter(|f| f.id.chain == filter.id.chain).map(|f| (f, Order::Before)).collect(),
            met: found.map(met).into_iter().collect(),
        });
        let (steps, connections) = (steps.collect(), self.connections());
        Scene { port: PORT, key: self.key(), steps, connections, tell_tag: false, masks: &Masks::ANY }
    }
}

/// The path of it; nothing else hangs at its ports.
///
/// # Panics
/// If it is refused.
pub fn path(scene: &Scene<'_>) -> Path {
    fold(scene, &Table::default()).unwrap_or_else(|refused| panic!("{}", refused.refusal))
}
