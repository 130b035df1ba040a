//! Random pipelines over a universe: a line of wide filters from chain to chain, others in front of and behind them, with
//! overlap or, now and then, without any.

use crate::{
    actions::{self, DOWN, Fits, GUARDED, IN, INNER},
    connections,
    part::{IP, Part},
    rng::Rng,
    terms,
    universe::{PORT, Universe, VID, World},
};
use flowmerge::{
    conntrack::Connection,
    flower::{
        Action, ActionKind, Control, Field, Filter, FilterId, Hook, Match, Range,
        action::Mirred,
        field::{addr_type, ct_state, ip_flags},
        filter::PROTOCOL_ALL,
    },
};

/// What happens once all packets have been merged.
#[derive(Clone, Debug)]
pub enum Later {
    Nothing,
    /// A filter is added.
    Add(Box<Filter>),
    /// The filter of that handle goes.
    Remove(u32),
    /// A connection gets this mark.
    Mark(usize, u32),
    /// A connection goes.
    Gone(usize),
    /// All packets exceed the policer to which they have conformed.
    Exceed,
}

/// A pipeline, and all that is tried with it.
#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    pub universe: Universe,
    pub connections: Vec<Connection>,
    /// In the order of their insertion.
    pub filters: Vec<Filter>,
    pub later: Later,
    /// Nobody saw in which order the filters were inserted.
    pub dumped: bool,
    /// How many merged filters one way may have.
    pub per_way: usize,
}

/// What the universes of seeds are about, in turns.
const WORLDS: [World; 8] =
    [World::Ip, World::Labels, World::Ip, World::Tunnels, World::Ip, World::Link, World::Ip, World::Rewrites];

/// The bits of a field that the universe leaves free, and one of its values.
fn some(universe: &Universe, rng: &mut Rng, part: Part, fixed: u32) -> (u128, u128) {
    let values = universe.values(part);
    let free = values.iter().fold(0, |bits, v| bits | (v ^ values[0]));
    let value = rng.pick(&values) | fixed;
    let full = u128::MAX;
    let mask = match rng.below(4) {
        0 | 1 => full,
        2 => u128::from(free),
        _ => {
            let some = free & ((1 + rng.below(7)) * 0x11);
            u128::from(if some == 0 { free } else { some })
        }
    };
    (u128::from(value), if free == 0 { full } else { mask })
}

fn range(rng: &mut Rng) -> Range {
    let at = |rng: &mut Rng| PORT + rng.below(8) as u16;
    let (a, b) = (at(rng), at(rng));
    match rng.below(6) {
        0 => Range { min: 0, max: a },
        1 => Range { min: a, max: u16::MAX },
        _ => Range { min: a.min(b), max: a.max(b) },
    }
}

/// Compares one part of the IP or transport headers.
fn term(universe: &Universe, rng: &mut Rng, m: &mut Match, part: Part, v6: bool) {
    let wide = if v6 { 0xfd << 120 } else { 0x0a00_0000 };
    let (value, mask) = some(universe, rng, part, 0);
    match part {
        Part::Src => m.set(if v6 { Field::Ipv6Src } else { Field::Ipv4Src }, wide | value, mask),
        Part::Dst => m.set(if v6 { Field::Ipv6Dst } else { Field::Ipv4Dst }, wide | value, mask),
        Part::Ttl if rng.chance(20) => {
            m.set(Field::IpTtl, rng.pick(&[0, 0, 0xff, 8, 64]), rng.pick(&[0x80, 0xf0, 8, 0x48]))
        }
        Part::Ttl => m.set(Field::IpTtl, value, mask),
        Part::Tos => m.set(Field::IpTos, value, mask),
        Part::Proto => m.set(Field::IpProto, value, 0xff),
        Part::SrcPort if rng.chance(35) => m.src_range = Some(range(rng)),
        Part::DstPort if rng.chance(35) => m.dst_range = Some(range(rng)),
        Part::SrcPort => m.set(Field::SrcPort, value, mask),
        Part::DstPort => m.set(Field::DstPort, value, mask),
        Part::Flags => m.set(Field::TcpFlags, value, mask & 0xff),
        Part::Fragment => {
            let first = rng.chance(20);
            let value = if rng.chance(70) { 0 } else { ip_flags::FRAG };
            m.set(Field::IpFlags, if first { ip_flags::FIRST | value } else { value }, if first { 3 } else { 1 });
        }
        Part::Spi => terms::word(universe, rng, m),
        _ => {}
    }
}

/// The tags' part of a match, from the outermost ethertype on; gives the ethertype that it settles on, if any.
fn tagged(universe: &Universe, rng: &mut Rng, m: &mut Match, outer: u16) -> Option<u16> {
    let levels = [
        [Field::VlanTpid, Field::VlanId, Field::VlanPrio, Field::VlanEthType],
        [Field::CvlanTpid, Field::CvlanId, Field::CvlanPrio, Field::CvlanEthType],
    ];
    let mut tpid = outer;
    for [own, id, prio, behind] in levels {
        m.set(own, tpid.into(), 0xffff);
        if rng.chance(if own == Field::VlanTpid { 45 } else { 75 }) {
            let mask = rng.pick(&[0xfff, 0xfff, 1, 2, 3]);
            m.set(id, u128::from(VID | rng.below(4) as u16), mask);
        }
        if rng.chance(15) {
            m.set(prio, u128::from(rng.below(2)), rng.pick(&[7, 1]));
        }
        if rng.chance(40) {
            return None;
        }
        let two = universe.values(Part::Tags).iter().any(|t| t >> 8 != 0);
        let next = match rng.chance(if two { 55 } else { 10 }) {
            true => rng.pick(&[0x8100, 0x88a8]),
            false => rng.pick(&universe.networks()),
        };
        m.set(behind, next.into(), 0xffff);
        if !matches!(next, 0x8100 | 0x88a8) {
            return Some(next);
        }
        tpid = next;
    }
    None
}

/// A match as flower takes it. `plain`: it asks for little.
fn matches(universe: &Universe, rng: &mut Rng, later: bool, protocol: u16, plain: bool) -> Match {
    let mut m = Match::default();
    let tracked = match (universe.world, later, plain) {
        (World::Ip, false, _) => 3,
        (World::Ip, true, true) => 20,
        (World::Ip, true, false) => 35,
        (_, later, _) => {
            if later {
                6
            } else {
                1
            }
        }
    };
    if rng.chance(tracked) {
        let (trk, est, rpl) = (ct_state::TRACKED, ct_state::ESTABLISHED, ct_state::REPLY);
        let (value, mask) = rng.pick(&[
            (trk | est, trk | est),
            (trk | est, trk | est),
            (0, rpl),
            (rpl, rpl),
            (0, trk),
            (est, est | rpl),
        ]);
        m.set(Field::CtState, value, mask);
    }
    if later && !plain && rng.chance(if universe.world == World::Ip { 20 } else { 3 }) {
        let v = u128::from(rng.below(4));
        match rng.below(3) {
            0 => m.set(Field::CtMark, v, rng.pick(&[3, 1, 2, 0xffff_ffff])),
            1 => m.set(Field::CtLabels, v << 4, rng.pick(&[0x30, 0x10])),
            _ => m.set(Field::CtZone, rng.pick(&[5, 6]), 0xffff),
        }
    }
    if rng.chance(if universe.is_free(Part::Mac) { 20 } else { 2 }) {
        m.set(Field::EthDst, 0x0200_0000_0002 | u128::from(rng.below(2)), rng.pick(&[0xffff_ffff_ffff, 1]));
    }
    if rng.chance(3) {
        m.set(Field::NumOfVlans, u128::from(rng.below(3)), 0xff);
    }
    terms::beside(universe, rng, &mut m, plain);
    let ethertype = match protocol {
        PROTOCOL_ALL => None,
        0x8100 | 0x88a8 => tagged(universe, rng, &mut m, protocol),
        other => Some(other),
    };
    if protocol != PROTOCOL_ALL {
        m.set(Field::Protocol, protocol.into(), 0xffff);
    }
    let Some(ethertype) = ethertype else { return m };
    m.set(Field::EthType, ethertype.into(), 0xffff);
    let v6 = match ethertype {
        0x800 => false,
        0x86dd => true,
        _ => {
            terms::behind(universe, rng, &mut m, ethertype, plain);
            return m;
        }
    };
    let free: Vec<_> = IP.into_iter().chain([Part::Spi]).filter(|&p| universe.is_free(p)).collect();
    for _ in 0..if plain { u32::from(rng.chance(30)) } else { rng.pick(&[0, 1, 1, 1, 2, 2, 3]) } {
        let part = if free.is_empty() || rng.chance(8) { rng.pick(&IP) } else { rng.pick(&free) };
        term(universe, rng, &mut m, part, v6);
    }
    // As flower wants it: ports and flags need their protocol, addresses their kind.
    let asks = |m: &Match, fields: &[Field]| fields.iter().any(|&f| m.mask.get(f) != 0);
    for (field, ranged) in [(Field::SrcPort, m.src_range.is_some()), (Field::DstPort, m.dst_range.is_some())] {
        if ranged {
            m.clear(field);
        }
    }
    if asks(&m, &[Field::SrcPort, Field::DstPort]) || m.ranges().next().is_some() {
        let proto =
            if m.key.get(Field::IpProto) == 17 || !asks(&m, &[Field::IpProto]) && rng.chance(30) { 17 } else { 6 };
        m.set(Field::IpProto, proto, 0xff);
    }
    if asks(&m, &[Field::TcpFlags]) {
        m.set(Field::IpProto, 6, 0xff);
    }
    if asks(&m, &[Field::Ipv4Src, Field::Ipv4Dst, Field::Ipv6Src, Field::Ipv6Dst]) {
        m.set(Field::AddrType, if v6 { addr_type::IPV6 } else { addr_type::IPV4 }, 0xffff);
    }
    m
}

impl Case {
    /// The pipeline of a seed.
    pub fn random(seed: u64) -> Case {
        let mut rng = Rng::new(seed);
        let most = rng.pick(&[48, 96, 128, 192, 256, 256, 256, 384, 512, 768]);
        let most = if rng.chance(2) { 4096 } else { most };
        let world = WORLDS[(seed % WORLDS.len() as u64) as usize];
        let connected = rng.chance(if world == World::Ip { 65 } else { 25 });
        let universe = Universe::random(world, &mut rng, most, connected);
        let connections = if connected { connections::random(&universe, &mut rng, 16) } else { Vec::new() };
        let mut case = Case {
            seed,
            universe,
            connections,
            filters: Vec::new(),
            later: Later::Nothing,
            dumped: rng.chance(8),
            per_way: if rng.chance(2) { 2 } else { 64 },
        };
        let disjoint = rng.chance(35);
        let chains = if world == World::Ip { 1 + rng.below(4) } else { rng.pick(&[1, 2, 2, 3]) };
        let mut hooks = Vec::new();
        if rng.chance(35) {
            hooks.push((Hook::Ingress(INNER), 1 + rng.below(2)));
        }
        if rng.chance(8) {
            hooks.push((Hook::Egress(GUARDED), 1));
        }
        hooks.push((Hook::Ingress(IN), chains));
        for (hook, chains) in hooks {
            let mut chain_of: Vec<u32> =
                (0..chains).flat_map(|chain| vec![chain; rng.below(if chain < 2 { 6 } else { 3 }) as usize]).collect();
            rng.shuffle(&mut chain_of);
            let tries = if disjoint { 6 } else { 1 };
            for (chain, plain) in chain_of.into_iter().map(|c| (c, false)).chain((0..chains).map(|c| (c, true))) {
                let mut tries =
                    (0..tries).map(|_| case.filter(&mut rng, hook, chain, chains, plain)).collect::<Vec<_>>();
                tries.retain(|f| case.has_place(f) && !(disjoint && case.overlaps(f)));
                if let Some(filter) = tries.into_iter().next() {
                    case.add(filter);
                }
            }
        }
        if rng.chance(60) {
            // A shadow where most packets pass.
            let hook = Hook::Ingress(IN);
            let chain = rng.below(chains);
            let mut filter = case.filter(&mut rng, hook, chain, chains, false);
            filter.id.handle = case.filters.len() as u32 + 1;
            let connection = |rng: &mut Rng| rng.below(case.connections.len() as u32) as usize;
            case.later = match rng.below(10) {
                0 | 1 => Later::Remove(1 + rng.below(case.filters.len() as u32)),
                4 | 5 if case.filters.iter().flat_map(|f| &f.actions).any(actions::is_policer) => Later::Exceed,
                2 if !case.connections.is_empty() => Later::Mark(connection(&mut rng), rng.below(4)),
                3 if !case.connections.is_empty() => Later::Gone(connection(&mut rng)),
                _ if case.has_place(&filter) => Later::Add(Box::new(filter)),
                _ => Later::Nothing,
            };
        }
        case
    }

    fn filter(&self, rng: &mut Rng, hook: Hook, chain: u32, chains: u32, plain: bool) -> Filter {
        // Whatever stands beside a filter that was not understood is undecidable to the model: it has its priorities alone.
        let undecoded = !plain && rng.chance(2);
        let prio = match (undecoded, plain) {
            (true, _) => rng.pick(&[1, 12]),
            (_, true) => 8 + rng.below(2) as u16,
            _ => 2 + rng.below(5) as u16,
        };
        let there = self.filters.iter().find(|f| (f.id.hook, f.id.chain, f.id.prio) == (hook, chain, prio));
        let known = self.universe.protocols();
        let protocol = match there {
            Some(f) => f.id.protocol,
            None => match rng.below(20) {
                0..4 => PROTOCOL_ALL,
                4..10 if plain => PROTOCOL_ALL,
                4 => 0x8100,
                5..8 if chain > 0 => rng.pick(&self.universe.networks()),
                _ => rng.pick(&known),
            },
        };
        let outer = hook == Hook::Ingress(IN);
        let mut matches = matches(&self.universe, rng, chain > 0 || !outer, protocol, plain);
        let ethertype = match matches.mask.get(Field::EthType) {
            0 => rng.pick(&known),
            _ => matches.key.get(Field::EthType) as u16,
        };
        let proto = match matches.mask.get(Field::IpProto) {
            0 => rng.pick(&self.universe.values(Part::Proto)),
            _ => matches.key.get(Field::IpProto) as u32,
        };
        let fits = Fits {
            world: self.universe.world,
            network: ethertype,
            v6: ethertype == 0x86dd,
            ip: matches!(ethertype, 0x800 | 0x86dd),
            tcp: proto == 6,
            tagged: self.universe.is_free(Part::Tags),
        };
        let connections = fits.ip && !self.connections.is_empty();
        let mut actions = actions::middle(rng, fits, plain, connections);
        if outer && self.filters.iter().any(|f| f.id.hook == Hook::Ingress(INNER)) && rng.chance(25) {
            let inner = Mirred { port: INNER, ingress: true, mirror: false };
            actions.push(Action::new(ActionKind::Mirred(inner), Control::Stolen));
        } else {
            actions.extend(actions::last(rng, chain, chains, plain));
        }
        if !plain && rng.chance(4) {
            // Classified again, as something else.
            let was = rng.pick(&self.universe.values(Part::Mac));
            matches.set(Field::EthDst, was.into(), 1);
            actions = vec![actions::turn_mac(was as u8 ^ 1), Action::gact(Control::Reclassify)];
        }
        let id = FilterId { hook, chain, prio, protocol, handle: 0 };
        let mut filter = Filter::flower(id, matches, actions);
        if undecoded {
            filter.undecoded.push("TCA_FLOWER 200".into());
        }
        filter
    }

    /// The kernel takes no two filters of one priority and the same match, and one protocol in a priority.
    fn has_place(&self, filter: &Filter) -> bool {
        let same =
            |f: &&Filter| (f.id.hook, f.id.chain, f.id.prio) == (filter.id.hook, filter.id.chain, filter.id.prio);
        self.filters.iter().filter(same).all(|f| f.matches != filter.matches && f.id.protocol == filter.id.protocol)
    }

    fn overlaps(&self, filter: &Filter) -> bool {
        let place = |f: &Filter| (f.id.hook, f.id.chain);
        self.filters.iter().any(|f| place(f) == place(filter) && may_overlap(&f.matches, &filter.matches))
    }

    fn add(&mut self, mut filter: Filter) {
        filter.id.handle = self.filters.len() as u32 + 1;
        self.filters.push(filter);
    }

    /// Whether no packet can match two filters of one chain. Then nothing is a shadow.
    pub fn is_disjoint(&self) -> bool {
        let place = |f: &Filter| (f.id.hook, f.id.chain);
        self.filters.iter().enumerate().all(|(i, a)| {
            let rest = self.filters[i + 1..].iter().filter(|b| place(a) == place(b));
            rest.into_iter().all(|b| !may_overlap(&a.matches, &b.matches))
        })
    }
}

/// Whether some key could match both.
fn may_overlap(a: &Match, b: &Match) -> bool {
    let fields = Field::ALL.iter().all(|&f| {
        let both = a.mask.get(f) & b.mask.get(f);
        (a.key.get(f) ^ b.key.get(f)) & both == 0
    });
    let apart =
        |x: Option<Range>, y: Option<Range>| matches!((x, y), (Some(x), Some(y)) if x.max < y.min || y.max < x.min);
    fields && !apart(a.src_range, b.src_range) && !apart(a.dst_range, b.dst_range)
}

/// The ports that are there, and whether they are up.
pub fn ports() -> impl Iterator<Item = (flowmerge::flower::Port, bool)> {
    (1..=6).map(flowmerge::flower::Port).map(|port| (port, port != DOWN))
}
