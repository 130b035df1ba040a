//! What an ICMP type is to conntrack (`nf_conntrack_proto_icmp.c`, `nf_conntrack_proto_icmpv6.c`).

use flowmerge::conntrack::{Tuple, proto};

/// The kinds of ICMP and ICMPv6 packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Icmp {
    /// About another packet, whose connection it belongs to.
    Error,
    /// May begin a connection.
    Query,
    /// Belongs to the connection of a query only.
    Answer,
    /// Never has a connection.
    Untracked,
}

impl Icmp {
    /// By the tuple's type and code.
    pub(super) fn of(tuple: &Tuple) -> Icmp {
        let [kind, code] = tuple.dst_port.to_be_bytes();
        match (tuple.proto, kind) {
            (proto::ICMP, 3 | 4 | 5 | 11 | 12) => Icmp::Error,
            (proto::ICMP, 8 | 13 | 15 | 17) => Icmp::Query,
            (proto::ICMP, 0 | 14 | 16 | 18) => Icmp::Answer,
            (proto::ICMPV6, 0..128) => Icmp::Error,
            // A redirect of another code is not looked into, and begins nothing.
            (proto::ICMPV6, 137) if code == 0 => Icmp::Error,
            (proto::ICMPV6, 128 | 139) => Icmp::Query,
            (proto::ICMPV6, 129 | 140) => Icmp::Answer,
            _ => Icmp::Untracked,
        }
    }
}
