//! The worlds that are measured: filters, connections and packets, by number, so that nothing need be kept of them.
//!
//! [`World::pairs`] is for comparison with the baseline: two chains of as many filters each, every first one on to every last one, and
//! a connection through each pair in turn. [`World::five`] is a pipeline of five filters behind one another, with `ct nat` in the first:
//! one way for all connections, or, with `bits` of each chain's own field compared, a way for each.

use flowmerge::{
    conntrack::{Connection, ConnectionId, Direction, Tuple, proto, tuple::address_bits},
    flower::{
        Action, ActionKind, Control, Cookie, Field, Filter, FilterId, Hook, Key, Match, Port,
        action::{Ct, Nat},
        field::{addr_type, ct_state, tcp_flags},
    },
    walk::Found,
};
use smallvec::{SmallVec, smallvec};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where all packets come in.
pub const PORT: Port = Port(1);

/// A packet, and what software does with it.
#[derive(Clone, Debug)]
pub struct Packet {
    /// As it arrives, at [`PORT`].
    pub key: Key,
    /// The filters that it hits, and what `ct` found in them.
    pub hits: SmallVec<[(Cookie, Option<Found>); 5]>,
}

impl Packet {
    /// One that hits so many filters, the same ones again and again: to record, not to merge.
    pub fn longer(&self, hits: usize) -> Packet {
        Packet { key: self.key, hits: self.hits.iter().copied().cycle().take(hits).collect() }
    }
}

/// Filters, and the connections that may go through them.
#[derive(Clone, Copy, Debug)]
pub struct World {
    chains: Chains,
    ipv6: bool,
    zones: u8,
}

#[derive(Clone, Copy, Debug)]
enum Chains {
    Pairs(u32),
    Five { bits: u32 },
}

const FIVE: u32 = 5;

impl World {
    /// As many first filters and last ones, `ct nat` in the first; 1 to 256.
    pub fn pairs(each: u32) -> World {
        World { chains: Chains::Pairs(each), ipv6: false, zones: 1 }
    }

    /// Five filters for all, or 32 in each of five chains: connections 0 to 2^25 each take a way of their own.
    pub fn five(own_paths: bool) -> World {
        World { chains: Chains::Five { bits: if own_paths { 5 } else { 0 } }, ipv6: false, zones: 1 }
    }

    /// The same with IPv6; of [`World::five`] only.
    pub fn ipv6(self) -> World {
        World { ipv6: true, ..self }
    }

    /// The same with a second `ct` in the second chain, in another zone; of [`World::five`] only.
    pub fn two_zones(self) -> World {
        World { zones: 2, ..self }
    }

    /// The filters with their cookies, last chain first, as a controller that knows what it does puts them in.
    pub fn filters(&self) -> Vec<(Cookie, Filter)> {
        match self.chains {
            Chains::Pairs(each) => {
                let lasts = (0..each).map(|j| (self.last(j), self.pair_filter(1, j)));
                lasts.chain((0..each).map(|i| (Cookie(1 + u64::from(i)), self.pair_filter(0, i)))).collect()
            }
            Chains::Five { bits } => {
                let chain = |chain| (0..1 << bits).map(move |n| (chain, n));
                let all = (0..FIVE).rev().flat_map(chain);
                all.map(|(chain, n)| (five_cookie(bits, chain, n), self.five_filter(bits, chain, n))).collect()
            }
        }
    }

    /// A filter that all connections go through, where there is one: the last of the first pair, or the output.
    pub fn common(&self) -> Cookie {
        match self.chains {
            Chains::Pairs(_) => self.last(0),
            Chains::Five { bits } => five_cookie(bits, FIVE - 1, 0),
        }
    }

    fn last(&self, j: u32) -> Cookie {
        Cookie(1001 + u64::from(j))
    }

    fn pair_filter(&self, chain: u32, n: u32) -> Filter {
        let ip = self.ip().exact(Field::AddrType, addr_type::IPV4);
        let (matches, actions) = match chain {
            0 => (ip.with(Field::Ipv4Src, (10 << 24 | n << 16).into(), 0xffff_0000), vec![ct(5), goto(1)]),
            _ => {
                let behind = ip.with(Field::CtState, ESTABLISHED, ESTABLISHED);
                let net = u32::from(Ipv4Addr::new(172, 16, n as u8, 0));
                (behind.with(Field::Ipv4Dst, net.into(), 0xffff_ff00), vec![Action::redirect(Port(2 + n))])
            }
        };
        self.filter(chain, 1 + n, matches, actions)
    }

    fn five_filter(&self, bits: u32, chain: u32, n: u32) -> Filter {
        let (address, kind) = match self.ipv6 {
            false => (Field::Ipv4Src, addr_type::IPV4),
            true => (Field::Ipv6Src, addr_type::IPV6),
        };
        let (field, shift) = five_field(chain);
        let ones = (1u128 << bits) - 1;
        let matches = match (bits, field) {
            (0, _) => self.ip(),
            (_, Field::SrcPort) => {
                let tcp = self.ip().exact(Field::IpProto, proto::TCP.into());
                tcp.with(field, u128::from(n) << shift, ones << shift)
            }
            _ => self.ip().exact(Field::AddrType, kind).with(address, u128::from(n) << shift, ones << shift),
        };
        let behind = matches.with(Field::CtState, ESTABLISHED, ESTABLISHED);
        let (matches, actions) = match chain {
            0 => (matches, vec![ct(5), goto(1)]),
            4 => (behind, vec![Action::redirect(Port(2))]),
            1 if self.zones == 2 => (behind, vec![ct(6), goto(2)]),
            _ => (behind, vec![goto(chain + 1)]),
        };
        self.filter(chain, 1 + n, matches, actions)
    }

    fn filter(&self, chain: u32, handle: u32, matches: Match, actions: Vec<Action>) -> Filter {
        let id = FilterId { hook: Hook::Ingress(PORT), chain, prio: 2, protocol: self.ethertype(), handle };
        Filter::flower(id, matches, actions)
    }

    fn ethertype(&self) -> u16 {
        if self.ipv6 { 0x86dd } else { 0x0800 }
    }

    fn ip(&self) -> Match {
        let ethertype = self.ethertype().into();
        Match::default().exact(Field::Protocol, ethertype).exact(Field::EthType, ethertype)
    }

    /// A host of the clients', the service or the backends.
    fn address(&self, net: u8, host: u32) -> IpAddr {
        match self.ipv6 {
            false => Ipv4Addr::from(u32::from(net) << 24 | host).into(),
            true => Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(net) << 64 | u128::from(host)).into(),
        }
    }

    /// The `n`-th client: a service's address is translated to that of a backend.
    pub fn connections(&self, n: u64) -> SmallVec<[(ConnectionId, Connection); 2]> {
        let (src, src_port, backend) = match self.chains {
            Chains::Pairs(each) => {
                let each = u64::from(each);
                let (i, j, rest) = (n % each, n / each % each, n / each / each);
                let host = (i << 16 | j << 8 | (rest / 60_000)) as u32;
                (host, 1024 + (rest % 60_000) as u16, 0x10_0002 | (j as u32) << 8)
            }
            Chains::Five { bits: 0 } => ((n / 60_000) as u32, 1024 + (n % 60_000) as u16, 2),
            Chains::Five { bits } => {
                let part = |chain| (of_chain(bits, chain, n) as u64) << five_field(chain).1;
                let rest = n >> (FIVE * bits);
                let port = part(1) | part(2) | (1 + rest % 63) << 10;
                ((part(0) | part(3) | part(4) | (rest / 63) << 15) as u32, port as u16, 2)
            }
        };
        let original = Tuple {
            src: self.address(10, src),
            dst: self.address(192, 0xa8_0001),
            proto: proto::TCP,
            src_port,
            dst_port: 80,
        };
        let inside = Tuple { dst: self.address(172, backend), dst_port: 8000, ..original };
        let first = Connection::established(5, original, inside.inverse());
        match self.zones {
            1 => smallvec![(ConnectionId(n), first)],
            _ => smallvec![
                (ConnectionId(2 * n), first),
                (ConnectionId(2 * n + 1), Connection::established(6, inside, inside.inverse()))
            ],
        }
    }

    /// A packet from the `n`-th client.
    pub fn packet(&self, n: u64) -> Packet {
        let connections = self.connections(n);
        let t = connections[0].1.original;
        let (kind, src, dst) = match self.ipv6 {
            false => (addr_type::IPV4, Field::Ipv4Src, Field::Ipv4Dst),
            true => (addr_type::IPV6, Field::Ipv6Src, Field::Ipv6Dst),
        };
        let key = Key::ZERO
            .with(Field::Protocol, self.ethertype().into())
            .with(Field::EthType, self.ethertype().into())
            .with(Field::AddrType, kind)
            .with(Field::IpProto, proto::TCP.into())
            .with(Field::IpTtl, 64)
            .with(src, address_bits(t.src))
            .with(dst, address_bits(t.dst))
            .with(Field::SrcPort, t.src_port.into())
            .with(Field::DstPort, t.dst_port.into())
            .with(Field::TcpFlags, tcp_flags::ACK);
        let found = |at: usize| {
            let (connection, _) = *connections.get(at).map(|(id, c)| (id, c)).as_ref()?;
            Some(Found { connection: *connection, direction: Direction::Original })
        };
        let hits = match self.chains {
            Chains::Pairs(each) => {
                let each = u64::from(each);
                smallvec![(Cookie(1 + n % each), found(0)), (self.last((n / each % each) as u32), None)]
            }
            Chains::Five { bits } => (0..FIVE)
                .map(|chain| {
                    let found = if chain < self.zones.into() { found(chain as usize) } else { None };
                    (five_cookie(bits, chain, of_chain(bits, chain, n)), found)
                })
                .collect(),
        };
        Packet { key, hits }
    }
}

const ESTABLISHED: u128 = ct_state::TRACKED | ct_state::ESTABLISHED;

fn ct(zone: u16) -> Action {
    Action::new(ActionKind::Ct(Ct { zone, nat: Some(Nat::default()), ..Ct::default() }), Control::Pipe)
}

fn goto(chain: u32) -> Action {
    Action::gact(Control::Goto(chain))
}

/// What a chain of [`World::five`] compares, of IPv4 and from which bit on.
fn five_field(chain: u32) -> (Field, u32) {
    match chain {
        0 => (Field::Ipv4Src, 0),
        1 => (Field::SrcPort, 0),
        2 => (Field::SrcPort, 5),
        3 => (Field::Ipv4Src, 5),
        _ => (Field::Ipv4Src, 10),
    }
}

/// Which of a chain's filters the `n`-th client's packets hit.
fn of_chain(bits: u32, chain: u32, n: u64) -> u32 {
    (n >> (chain * bits)) as u32 & ((1 << bits) - 1)
}

fn five_cookie(bits: u32, chain: u32, n: u32) -> Cookie {
    Cookie(u64::from(chain << bits | n) + 1)
}

/// Numbers that look random, the same in each run.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// One that begins somewhere.
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below this number.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * u128::from(n)) >> 64) as u64
    }
}
