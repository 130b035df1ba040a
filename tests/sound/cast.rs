//! Cast: a path that is cast in the mold of another walk is the one that a fold gives.
//!
//! Each way that was merged is merged again in a merger of its own. Beside its filters are their *kin*: in the same places, with the same
//! masks and actions, but other values, as their packet has others. The kin's walk comes second, so that it may be cast; and in yet
//! another merger it comes first, and is folded. Both must come to the same path, and to the same entry in hardware; and nothing is cast
//! that a fold refuses. Now and then more differs: a mask, an action, what a connection is besides its tuple, a filter in front.

use crate::{
    packet::Packet,
    rule::Rule,
    world::{Made, World},
};
use flowmerge::{
    conntrack::{Connection, ConnectionId, Direction, TcpState, Tuple, proto, tuple::address_bits},
    flower::{ActionKind, Cookie, Field, Filter, FilterId, Hook, Key, Match, Port, Range},
    hardware::{Entry, Memory},
    merge::Path,
    merger::{ConnectionEvent, Merger, Outcome},
    table::Inserted,
    walk::{Found, Hit, Walk},
};
use proptest::{prop_assert, prop_assert_eq, test_runner::TestCaseError};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

/// How many kin each way gets.
const KIN: usize = 4;

/// Numbers that look random, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let a = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let b = (a ^ a >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        b ^ b >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Once in so many times.
    fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn one<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        if all.is_empty() { None } else { all.get(self.below(all.len())).cloned() }
    }

    /// Some of these bits.
    fn some(&mut self, bits: u128) -> u128 {
        let [a, b] = [self.next(), self.next()].map(u128::from);
        let some = (a << 64 | b) & bits;
        // Often few: most filters of a run compare few bits.
        if self.once_in(2) { some & some.wrapping_neg() } else { some }
    }
}

/// What became of the kin's walks.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many were on the path that was folded.
    pub known: usize,
    pub cast: usize,
    pub folded: usize,
    pub refused: usize,
    /// Cast, folded and refused, by what is another in the kin.
    pub by: BTreeMap<&'static str, [usize; 3]>,
    /// Of those that were cast.
    pub with: BTreeMap<&'static str, usize>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { known, cast, folded, refused, by, with } = self;
        writeln!(f, "walks of kin: {cast} cast, {folded} folded, {refused} refused, {known} of the same path")?;
        for (what, [cast, folded, refused]) in by {
            writeln!(f, "  {what}: {cast} cast, {folded} folded, {refused} refused")?;
        }
        write!(f, "of those cast {with:?}")
    }
}

/// What a way's walk is made of, besides the packet.
#[derive(Clone, Debug)]
struct Cast {
    filters: Vec<(Cookie, Filter)>,
    connections: BTreeMap<ConnectionId, (ConnectionId, Connection)>,
}

/// The kin of a way, and what is another in it.
#[derive(Debug)]
struct Kin {
    packet: Packet,
    /// For each filter of the way.
    filters: Vec<(Cookie, Filter)>,
    connections: BTreeMap<ConnectionId, (ConnectionId, Connection)>,
    /// Filters that are of neither.
    others: Vec<(Cookie, Filter)>,
    differs: BTreeSet<&'static str>,
}

/// The filters of a made one's way, as the merger was told, by age; `None` if one of them is gone.
fn of_way(world: &World, made: &Made) -> Option<Cast> {
    let ids: BTreeSet<FilterId> = made.way.steps.iter().map(|step| step.0).collect();
    let of_way = world.filters.iter().filter(|(rule, _)| ids.contains(&rule.filter.id));
    let filters: Vec<_> = of_way.map(|(rule, cookie)| (*cookie, rule.told())).collect();
    let found = made.way.steps.iter().flat_map(|step| &step.1).flatten().map(|found| found.0);
    let connections = found.map(|id| Some((id, (id, world.tracker.entries.get(id.0 as usize)?.connection))));
    (filters.len() == ids.len()).then_some(Cast { filters, connections: connections.collect::<Option<_>>()? })
}

/// A merger with these filters and connections, its ports and blocks as those of the world.
fn merger(world: &World, all: &[&Cast], others: &[(Cookie, Filter)]) -> Merger<Memory> {
    let merger = Merger::new(Memory::new(world.setting.capabilities()));
    let mut entered = BTreeSet::new();
    for (cookie, filter) in all.iter().flat_map(|cast| &cast.filters).chain(others) {
        if entered.insert(*cookie) {
            merger.replace(*cookie, filter.clone(), Inserted::Observed).expect("memory removes");
        }
    }
    for (id, connection) in all.iter().flat_map(|cast| cast.connections.values()) {
        merger.connection(ConnectionEvent::Is(*id, *connection)).expect("memory removes");
    }
    let (down, blocks) = {
        let table = world.merger.table();
        let down: Vec<Port> = table.down.iter().copied().collect();
        let blocks = table.blocks.iter().flat_map(|(&side, blocks)| blocks.iter().map(move |&block| (side, block)));
        (down, blocks.collect::<Vec<(Hook, u32)>>())
    };
    down.into_iter().for_each(|port| merger.port(port, false).expect("memory removes"));
    blocks.into_iter().for_each(|(side, block)| merger.bind(side, block).expect("memory removes"));
    merger
}

/// The walk of this packet through the way's filters, or through those in their places.
fn walk(world: &World, made: &Made, cast: &Cast, names: &BTreeMap<Cookie, Cookie>, key: Key) -> Walk {
    let hits = made.way.steps.iter().map(|(filter, found)| {
        let of_world = world.filters.iter().find(|(rule, _)| rule.filter.id == *filter).expect("of the way").1;
        let found = found
            .iter()
            .map(|found| found.map(|(id, direction)| Found { connection: cast.connections[&id].0, direction }));
        Hit { filter: names[&of_world], found: found.collect() }
    });
    Walk { port: made.way.port, key, hits: hits.collect() }
}

/// What is merged from a walk: the outcome, the new paths, and the entry in hardware.
fn merged(merger: &Merger<Memory>, walk: Walk) -> (Outcome, Vec<Arc<Path>>, Option<Entry>) {
    let before: Vec<_> = merger.table().all_paths().map(|(id, _)| id).collect();
    merger.walk(walk).expect("the queue is long");
    let outcome = merger.drain(0).walks.pop().expect("one walk").1;
    let table = merger.table();
    let new = table.all_paths().filter(|(id, _)| !before.contains(id)).map(|(_, entry)| Arc::clone(&entry.path));
    let entry = outcome.as_ref().ok().and_then(|merge| merger.hardware().entry(merge.id));
    (outcome, new.collect(), entry)
}

/// Holds what is cast for some kin of this way against what a fold gives.
pub fn check(world: &World, made: &Made, dice: &mut Dice, tally: &mut Tally) -> Result<(), TestCaseError> {
    let Some(way) = of_way(world, made) else { return Ok(()) };
    (0..KIN).try_for_each(|_| check_one(world, made, &way, Kin::of(world, made, &way, dice), tally))
}

fn check_one(world: &World, made: &Made, way: &Cast, kin: Kin, tally: &mut Tally) -> Result<(), TestCaseError> {
    let own = way.filters.iter().map(|f| (f.0, f.0)).collect();
    let names = std::iter::zip(&way.filters, &kin.filters).map(|(was, is)| (was.0, is.0)).collect();
    let others = Cast { filters: kin.filters.clone(), connections: kin.connections.clone() };
    let key = kin.packet.key();

    let both = merger(world, &[way, &others], &kin.others);
    if merged(&both, walk(world, made, way, &own, made.packet.key())).0.is_err() {
        return Ok(());
    }
    prop_assert_eq!(both.turned().cast, 0);
    let (second, cast_paths, cast_entry) = merged(&both, walk(world, made, &others, &names, key));
    let is_cast = both.turned().cast > 0;

    let alone = merger(world, &[&others], &kin.others);
    let (first, paths, entry) = merged(&alone, walk(world, made, &others, &names, key));
    prop_assert_eq!(alone.turned().cast, 0);
    if second.is_ok() && cast_paths.is_empty() {
        tally.known += 1;
        return Ok(());
    }
    let of = match (is_cast, &first) {
        (true, _) => 0,
        (false, Ok(_)) => 1,
        (false, Err(_)) => 2,
    };
    *[&mut tally.cast, &mut tally.folded, &mut tally.refused][of] += 1;
    kin.differs.iter().for_each(|what| tally.by.entry(what).or_default()[of] += 1);
    if !is_cast {
        return Ok(());
    }
    let told = || format!("{way:#?}\n{:?}\n{kin:#?}\n{key:?}", made.packet);
    if let Err(refusal) = first {
        return Err(TestCaseError::fail(format!("cast is {cast_paths:?}, but {refusal}\n{}", told())));
    }
    prop_assert!(
        cast_paths.len() == 1 && cast_paths == paths,
        "cast {:#?}\nfolded {:#?}\n{}",
        cast_paths,
        paths,
        told()
    );
    prop_assert!(second.is_ok(), "cast, but {:?}\n{}", second, told());
    let without_id = |entry: Option<Entry>| entry.map(|e| (e.port, e.matches, e.actions, e.trim));
    prop_assert_eq!(without_id(cast_entry), without_id(entry), "{}", told());
    let path = &paths[0];
    for (what, is) in [
        ("no connection", way.connections.is_empty()),
        ("two connections", way.connections.len() > 1),
        ("conditions", !path.template.conditions.is_empty()),
        ("one hit", path.parents.len() == 1),
        ("three hits or more", path.parents.len() > 2),
        ("another block or port's filters", way.filters.iter().any(|f| f.1.id.hook != way.filters[0].1.id.hook)),
        ("masks of flower", world.setting.layered),
    ] {
        *tally.with.entry(what).or_default() += usize::from(is);
    }
    Ok(())
}

/// Fields whose values may move into this one, itself first.
fn sources(field: Field) -> Vec<Field> {
    use Field::*;
    let more: &[Field] = match field {
        VlanId => &[CvlanId],
        VlanPrio => &[CvlanPrio],
        VlanTpid => &[CvlanTpid],
        CvlanId => &[VlanId],
        CvlanPrio => &[VlanPrio],
        Protocol => &[VlanEthType, EthType],
        VlanEthType => &[CvlanEthType, Protocol],
        EthSrc => &[EthDst],
        EthDst => &[EthSrc],
        Ipv4Src => &[Ipv4Dst],
        Ipv4Dst => &[Ipv4Src],
        Ipv6Src => &[Ipv6Dst],
        Ipv6Dst => &[Ipv6Src],
        SrcPort => &[DstPort],
        DstPort => &[SrcPort],
        _ => &[],
    };
    [&[field], more].concat()
}

/// The values of a connection that a filter may see in a field.
fn parts(connection: &Connection, field: Field) -> Vec<u128> {
    use Field::*;
    let tuples = [connection.original, connection.reply];
    match field {
        Ipv4Src | Ipv4Dst | Ipv6Src | Ipv6Dst => tuples.iter().flat_map(|t| [t.src, t.dst]).map(address_bits).collect(),
        SrcPort | DstPort => tuples.iter().flat_map(|t| [t.src_port, t.dst_port]).map(u128::from).collect(),
        CtMark => vec![connection.mark.into()],
        CtLabels => vec![connection.labels],
        CtZone => vec![connection.zone.into()],
        _ => Vec::new(),
    }
}

/// An address that becomes what became of it in the packet.
fn moved(address: IpAddr, fields: [[Field; 2]; 2], was: &Key, is: &Key) -> IpAddr {
    let fields = fields[usize::from(address.is_ipv6())];
    let same = fields.into_iter().find(|&field| was.get(field) == address_bits(address));
    same.map_or(address, |field| match address {
        IpAddr::V4(_) => IpAddr::from((is.get(field) as u32).to_be_bytes()),
        IpAddr::V6(_) => IpAddr::from(is.get(field).to_be_bytes()),
    })
}

impl Kin {
    fn of(world: &World, made: &Made, way: &Cast, dice: &mut Dice) -> Kin {
        let mut kin = Kin {
            packet: made.packet.clone(),
            filters: Vec::new(),
            connections: BTreeMap::new(),
            others: Vec::new(),
            differs: BTreeSet::new(),
        };
        kin.change_packet(way, dice);
        let (was, is) = (made.packet.key(), kin.packet.key());
        for (&id, (_, connection)) in &way.connections {
            let direction = made.way.steps.iter().flat_map(|s| &s.1).flatten().find(|f| f.0 == id).map(|f| f.1);
            let (name, now) = match dice.once_in(12) {
                true => {
                    kin.differs.insert("same connection");
                    (id, *connection)
                }
                false => (ConnectionId(id.0 + 1000), kin.connection(connection, direction, &was, &is, dice)),
            };
            kin.connections.insert(id, (name, now));
        }
        for (cookie, filter) in &way.filters {
            let mut now = filter.clone();
            kin.matches(&mut now.matches, &filter.matches, way, &was, &is, dice);
            if dice.once_in(10) {
                kin.change_action(&mut now, dice);
            }
            // Who counts its actions is no matter.
            if now == *filter && dice.once_in(2) {
                now.actions.iter_mut().filter(|a| !matches!(a.kind, ActionKind::Police(_))).for_each(|a| a.index += 7);
            }
            let same = now == *filter;
            if !same {
                now.id.handle += 1000;
            }
            kin.filters.push((Cookie(if same { cookie.0 } else { cookie.0 + 1000 }), now));
        }
        if dice.once_in(8) {
            kin.differs.insert("other filters");
            let all: Vec<&(Rule, Cookie)> = world.filters.iter().collect();
            let other = dice.one(&all).map(|(rule, cookie)| (Cookie(cookie.0), rule.told()));
            kin.others.extend(other);
        }
        if dice.once_in(16)
            && let Some((cookie, mut filter)) = dice.one(&kin.filters)
        {
            kin.differs.insert("a filter in front");
            (filter.id.prio, filter.id.handle) = (filter.id.prio.saturating_sub(1), filter.id.handle + 5000);
            for (field, value, mask) in filter.matches.terms().collect::<Vec<_>>() {
                match dice.below(4) {
                    0 => filter.matches.clear(field),
                    1 => filter.matches.set(field, value ^ dice.some(mask), mask),
                    _ => {}
                }
            }
            kin.others.push((Cookie(cookie.0 + 5000), filter));
        }
        kin
    }

    fn change_packet(&mut self, way: &Cast, dice: &mut Dice) {
        let told = |field: &Field| !field.is_conntrack() && *field != Field::Indev;
        let compared = way.filters.iter().flat_map(|(_, f)| f.matches.mask.fields().collect::<Vec<_>>());
        let compared: Vec<(Field, u128)> = compared.filter(|(field, _)| told(field)).collect();
        // Most of what is compared says what the packet is.
        let shape = |field: Field| {
            use Field::*;
            matches!(field, Protocol | EthType | VlanEthType | CvlanEthType | VlanTpid | CvlanTpid | NumOfVlans)
                || matches!(field, IpProto | IpFlags | AddrType | TcpFlags)
        };
        let free: Vec<(Field, u128)> = compared.iter().copied().filter(|(field, _)| !shape(*field)).collect();
        for _ in 0..[1, 1, 2, 3][dice.below(4)] {
            let any = || Field::ALL.iter().filter(|f| told(f)).map(|&f| (f, f.ones())).collect::<Vec<_>>();
            let one = match dice.below(16) {
                0 => dice.one(&any()),
                1 => dice.one(&compared),
                2 | 3 => {
                    use Field::*;
                    let often =
                        [Ipv4Src, Ipv4Dst, Ipv6Src, Ipv6Dst, SrcPort, DstPort, IpTos, IpTtl, EthDst, VlanId, TcpFlags];
                    dice.one(&often).map(|f| (f, f.ones()))
                }
                _ => dice.one(&free),
            };
            let Some((field, mask)) = one else { continue };
            let key = self.packet.key();
            let old = key.get(field);
            let (what, new) = match dice.below(16) {
                0 | 1 if old & mask != 0 => ("becomes 0", old & !mask),
                2 => ("as another", key.get(dice.one(&sources(field)).unwrap_or(field))),
                3 | 4 => ("any bits", old ^ dice.some(field.ones())),
                _ => ("bits compared", old ^ dice.some(mask)),
            };
            let what = if old & mask == 0 && new & mask != 0 { "was 0" } else { what };
            let what = if shape(field) { "shape" } else { what };
            let mut next = self.packet.clone();
            if next.set(field, new & field.ones()) && next.key() != key {
                self.packet = next;
                self.differs.insert(what);
            }
        }
    }

    fn connection(
        &mut self,
        was: &Connection,
        direction: Option<Direction>,
        old: &Key,
        new: &Key,
        dice: &mut Dice,
    ) -> Connection {
        use Field::*;
        let mut now = *was;
        let turn = |t: Tuple| {
            // What is at one end of the packet is looked for there first.
            let src = moved(t.src, [[Ipv4Src, Ipv4Dst], [Ipv6Src, Ipv6Dst]], old, new);
            let dst = moved(t.dst, [[Ipv4Dst, Ipv4Src], [Ipv6Dst, Ipv6Src]], old, new);
            let port = |port: u16, fields: [Field; 2]| {
                let same = fields.into_iter().find(|&field| old.get(field) == port.into());
                same.map_or(port, |field| new.get(field) as u16)
            };
            let (src_port, dst_port) = (port(t.src_port, [SrcPort, DstPort]), port(t.dst_port, [DstPort, SrcPort]));
            Tuple { src, dst, src_port, dst_port, ..t }
        };
        // The other direction looks at the packet from the other end.
        (now.original, now.reply) = match direction {
            Some(Direction::Reply) => (turn(was.original.inverse()).inverse(), turn(was.reply)),
            _ => (turn(was.original), turn(was.reply.inverse()).inverse()),
        };
        let proto = new.get(IpProto) as u8;
        if proto != was.original.proto && matches!(proto, proto::TCP | proto::UDP) {
            (now.original.proto, now.reply.proto) = (proto, proto);
            now.tcp = (proto == proto::TCP).then_some(TcpState::Established);
        }
        if dice.once_in(5) {
            self.differs.insert("translation");
            let other = if direction == Some(Direction::Reply) { &mut now.original } else { &mut now.reply };
            match dice.below(4) {
                0 => other.src_port ^= dice.some(0xffff) as u16,
                1 => other.dst_port ^= dice.some(0xffff) as u16,
                n => {
                    let address = if n == 2 { &mut other.src } else { &mut other.dst };
                    let bits = address_bits(*address) ^ dice.some(7);
                    *address = match address {
                        IpAddr::V4(_) => (bits as u32).to_be_bytes().into(),
                        IpAddr::V6(_) => bits.to_be_bytes().into(),
                    };
                }
            }
        }
        if dice.once_in(5) {
            self.differs.insert("mark");
            now.mark ^= dice.some(0x7ff) as u32;
        }
        if dice.once_in(5) {
            self.differs.insert("labels");
            now.labels ^= dice.some(0xff) << [0, 60, 100][dice.below(3)];
        }
        if dice.once_in(24) {
            self.differs.insert("zone");
            now.zone ^= 1;
        }
        now
    }

    /// What a filter of the kin asks: what the packet is now, wherever it asked what it was.
    fn matches(&mut self, now: &mut Match, of: &Match, way: &Cast, was: &Key, is: &Key, dice: &mut Dice) {
        let stays = dice.once_in(30);
        for (field, value, mask) in of.terms() {
            if stays {
                break;
            }
            let mut pairs: Vec<(u128, u128)> =
                sources(field).into_iter().map(|from| (was.get(from), is.get(from))).collect();
            for (id, (_, before)) in &way.connections {
                pairs.extend(std::iter::zip(parts(before, field), parts(&self.connections[id].1, field)));
            }
            pairs.retain(|(before, _)| (before ^ value) & mask == 0);
            let follows = if dice.once_in(8) { dice.one(&pairs) } else { pairs.first().copied() };
            let (before, after) = (was.get(field), is.get(field));
            let value = match follows {
                Some((_, after)) => after,
                // A constant was added, bits were written, or it was written to.
                None if field == Field::IpTtl && mask == 0xff && dice.once_in(2) => {
                    u128::from((value as u8).wrapping_sub(before as u8).wrapping_add(after as u8))
                }
                None if dice.once_in(2) => value ^ (before ^ after) & !(before ^ value),
                None => value,
            };
            now.set(field, value, mask);
        }
        let compared: Vec<(Field, u128, u128)> = now.terms().collect();
        if dice.once_in(30)
            && let Some((field, value, mask)) = dice.one(&compared)
        {
            self.differs.insert("one filter's value");
            now.set(field, value ^ dice.some(mask), mask);
        }
        if dice.once_in(40)
            && let Some((field, value, mask)) = dice.one(&compared)
        {
            self.differs.insert("mask");
            let field = if dice.once_in(2) && now.mask.get(Field::Protocol) != 0 { Field::Protocol } else { field };
            let (value, mask) = if field == Field::Protocol { (now.key.get(field), 0xffff) } else { (value, mask) };
            now.clear(field);
            now.set(field, value, mask & !dice.some(field.ones()));
        }
        for field in [Field::SrcPort, Field::DstPort] {
            if let Some(range) = now.range_mut(field)
                && dice.once_in(2)
            {
                self.differs.insert("range");
                *range = Range { max: range.max.saturating_add(1), ..*range };
            }
        }
    }

    fn change_action(&mut self, filter: &mut Filter, dice: &mut Dice) {
        if filter.actions.is_empty() {
            return;
        }
        let policer = filter.actions.iter().position(|a| matches!(a.kind, ActionKind::Police(_)));
        let at = policer.unwrap_or_else(|| dice.below(filter.actions.len()));
        let action = &mut filter.actions[at];
        let what = match &mut action.kind {
            ActionKind::Police(_) => {
                action.index ^= 3;
                "policer"
            }
            ActionKind::Pedit(pedit) if !pedit.keys.is_empty() && dice.once_in(2) => {
                let key = dice.below(pedit.keys.len());
                pedit.keys[key].value[3] ^= 1;
                "pedit"
            }
            ActionKind::Mirred(to) if dice.once_in(2) => {
                to.port.0 ^= 1;
                "mirred"
            }
            _ if dice.once_in(8) => {
                filter.actions.remove(at);
                "fewer actions"
            }
            _ => {
                action.index += 7;
                "index"
            }
        };
        self.differs.insert(what);
    }
}
