//! A conntrack tuple: one direction of a connection, as its packets look.

pub use crate::flower::field::ip_proto as proto;

use crate::flower::{Field, Key, field::addr_type};
use std::{fmt, net::IpAddr};

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// As the first packet went.
    Original,
    /// Back.
    Reply,
}

impl Direction {
    /// The other one.
    pub fn opposite(self) -> Direction {
        match self {
            Direction::Original => Direction::Reply,
            Direction::Reply => Direction::Original,
        }
    }
}

/// One direction's addresses, protocol and ports. For ICMP `src_port` is the identifier and `dst_port` is type times
/// 256 plus code; other protocols without ports have 0 in both.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IP protocol.
    pub proto: u8,
    /// Source port, host order.
    pub src_port: u16,
    /// Destination port, host order.
    pub dst_port: u16,
}

impl Tuple {
    /// The tuple of an answer to this one. ICMP types change to those of the answer (echo 8 and 0, timestamp 13 and 14,
    /// information 15 and 16, mask 17 and 18; ICMPv6 128 and 129, 139 and 140); `nf_conntrack_proto_icmp.c`.
    pub fn inverse(&self) -> Tuple {
        let (src_port, dst_port) = match self.proto {
            proto::ICMP | proto::ICMPV6 => {
                let (kind, code) = ((self.dst_port >> 8) as u8, self.dst_port & 0xff);
                let answer = match (self.proto, kind) {
                    (proto::ICMP, 8) => 0,
                    (proto::ICMP, 0) => 8,
                    (proto::ICMP, 13) => 14,
                    (proto::ICMP, 14) => 13,
                    (proto::ICMP, 15) => 16,
                    (proto::ICMP, 16) => 15,
                    (proto::ICMP, 17) => 18,
                    (proto::ICMP, 18) => 17,
                    (proto::ICMPV6, 128) => 129,
                    (proto::ICMPV6, 129) => 128,
                    (proto::ICMPV6, 139) => 140,
                    (proto::ICMPV6, 140) => 139,
                    (_, other) => other,
                };
                (self.src_port, (answer as u16) << 8 | code)
            }
            _ => (self.dst_port, self.src_port),
        };
        Tuple { src: self.dst, dst: self.src, proto: self.proto, src_port, dst_port }
    }

    /// The tuple of a packet with this flower key, where the key says enough: TCP and UDP that are no fragments.
    pub fn of_key(key: &Key) -> Option<Tuple> {
        let proto = key.get(Field::IpProto) as u8;
        if !matches!(proto, proto::TCP | proto::UDP) || key.get(Field::IpFlags) != 0 {
            return None;
        }
        let (src, dst) = match key.get(Field::AddrType) {
            addr_type::IPV4 => (
                IpAddr::from((key.get(Field::Ipv4Src) as u32).to_be_bytes()),
                IpAddr::from((key.get(Field::Ipv4Dst) as u32).to_be_bytes()),
            ),
            addr_type::IPV6 => (
                IpAddr::from(key.get(Field::Ipv6Src).to_be_bytes()),
                IpAddr::from(key.get(Field::Ipv6Dst).to_be_bytes()),
            ),
            _ => return None,
        };
        let port = |f| key.get(f) as u16;
        Some(Tuple { src, dst, proto, src_port: port(Field::SrcPort), dst_port: port(Field::DstPort) })
    }
}

/// An address as an integer, read in network order.
pub fn address_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u32::from(a) as u128,
        IpAddr::V6(a) => u128::from(a),
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.proto {
            proto::ICMP => "icmp",
            proto::TCP => "tcp",
            proto::UDP => "udp",
            proto::DCCP => "dccp",
            proto::GRE => "gre",
            proto::ICMPV6 => "icmpv6",
            proto::SCTP => "sctp",
            proto::UDPLITE => "udplite",
            other => return write!(f, "proto {other} {} > {}", self.src, self.dst),
        };
        match self.proto {
            proto::ICMP | proto::ICMPV6 => write!(
                f,
                "{name} {} > {} id {} type {} code {}",
                self.src,
                self.dst,
                self.src_port,
                self.dst_port >> 8,
                self.dst_port & 0xff
            ),
            _ => write!(
                f,
                "{name} {} > {}",
                std::net::SocketAddr::new(self.src, self.src_port),
                std::net::SocketAddr::new(self.dst, self.dst_port)
            ),
        }
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverse_of_inverse_is_the_tuple() {
        let t = Tuple {
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
            proto: proto::TCP,
            src_port: 1000,
            dst_port: 80,
        };
        assert_eq!(t.inverse().to_string(), "tcp 10.0.0.2:80 > 10.0.0.1:1000");
        assert_eq!(t.inverse().inverse(), t);
        let ping = Tuple { proto: proto::ICMP, src_port: 7, dst_port: 0x0800, ..t };
        assert_eq!(ping.inverse().dst_port, 0);
        assert_eq!(ping.inverse().src_port, 7);
        assert_eq!(ping.inverse().inverse(), ping);
    }
}
