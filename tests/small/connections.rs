//! Connections whose tuples lie inside a universe, plain and translated, in two zones; and the tracker that knows them.

use crate::{
    part::Part,
    rng::Rng,
    universe::{PORT, Universe, host},
};
use flowmerge::{
    conntrack::{Connection, Tuple, proto},
    flower::action::Nat,
};
use merge_model::conntrack::{Conntrack, EntryId, Info, Shown, Tracked};

/// The zones.
pub const ZONES: [u16; 2] = [5, 6];

/// A tracker that knows established connections, and takes everything else for invalid.
pub struct Tracker(pub Vec<Connection>);

impl Conntrack for Tracker {
    fn track(&mut self, zone: u16, shown: &Shown) -> Tracked {
        for (i, c) in self.0.iter().enumerate().filter(|(_, c)| c.zone == zone) {
            for (tuple, info) in [(c.original, Info::Established), (c.reply, Info::EstablishedReply)] {
                if tuple == shown.tuple {
                    return Tracked::Entry(EntryId(i as u64), info);
                }
            }
        }
        Tracked::Invalid
    }
    fn connection(&self, entry: EntryId) -> &Connection {
        &self.0[entry.0 as usize]
    }
    fn is_confirmed(&self, _: EntryId) -> bool {
        true
    }
    fn translate(&mut self, _: EntryId, _: &Nat) {}
    fn commit(&mut self, entry: EntryId, _: Option<(u32, u32)>, _: Option<(u128, u128)>) -> Option<EntryId> {
        Some(entry)
    }
    fn kill(&mut self, _: EntryId) {}
}

/// A tuple that packets of the universe have.
fn tuple(universe: &Universe, rng: &mut Rng) -> Option<Tuple> {
    let mut one = |part| rng.pick(&universe.values(part));
    let v6 = match one(Part::EtherType) {
        0x800 => false,
        0x86dd => true,
        _ => return None,
    };
    let proto = one(Part::Proto) as u8;
    matches!(proto, proto::TCP | proto::UDP).then(|| Tuple {
        src: host(v6, one(Part::Src) as u8),
        dst: host(v6, one(Part::Dst) as u8),
        proto,
        src_port: one(Part::SrcPort) as u16,
        dst_port: one(Part::DstPort) as u16,
    })
}

/// The tuple translated, at one end or both, address or port or both.
fn translated(t: Tuple, rng: &mut Rng) -> Tuple {
    let mut to = t;
    let mut low = |most| rng.below(most);
    let ends = low(4);
    let v6 = t.src.is_ipv6();
    if ends != 1 {
        to.dst = if low(3) > 0 { host(v6, low(4) as u8) } else { to.dst };
        to.dst_port = if low(2) > 0 { PORT | low(8) as u16 } else { to.dst_port };
    }
    if ends < 2 {
        to.src = if low(3) > 0 { host(v6, low(4) as u8) } else { to.src };
        to.src_port = if low(2) > 0 { PORT | low(8) as u16 } else { to.src_port };
    }
    to
}

/// At most so many.
pub fn random(universe: &Universe, rng: &mut Rng, most: u32) -> Vec<Connection> {
    let mut all: Vec<Connection> = Vec::new();
    for _ in 0..rng.below(most + 1) {
        // As the other zone leaves a packet.
        let before = (!all.is_empty() && rng.chance(40)).then(|| {
            let c = &all[rng.below(all.len() as u32) as usize];
            let tuples = [c.reply.inverse(), c.original.inverse(), c.original];
            (tuples[rng.below(3) as usize], ZONES[usize::from(c.zone == ZONES[0])])
        });
        let Some((t, zone)) = before.or_else(|| Some((tuple(universe, rng)?, rng.pick(&ZONES)))) else {
            continue;
        };
        let inside = if rng.chance(55) { translated(t, rng) } else { t };
        let (original, reply) = if rng.chance(60) { (t, inside.inverse()) } else { (inside.inverse(), t) };
        let taken =
            |c: &Connection| c.zone == zone && [original, reply].iter().any(|t| [c.original, c.reply].contains(t));
        if original == reply || all.iter().any(taken) {
            continue;
        }
        all.push(Connection {
            mark: rng.below(4),
            labels: u128::from(rng.below(4)) << 4,
            helper: rng.chance(3),
            ..Connection::established(zone, original, reply)
        });
    }
    all
}
