//! The field table: every field that a flower filter can match, in one place.
//!
//! Decoding, encoding, printing, dissecting and merging all read this table; none of them keeps a list of its own.
//! A field has a tc name, a width in bits, the places where its bits lie in a packet (none for what is derived,
//! such as "is a fragment"), and its *prerequisite*: the field that flower wants matched before this one means
//! anything (`net/sched/cls_flower.c`, `fl_set_key`; `man tc-flower`). Some flower compares as a *whole* only.
//!
//! Values are plain integers: the field's bytes read in network byte order. So `10.0.0.1` is `0x0a00_0001`, and bit 0 is
//! the last bit on the wire. A field whose header is absent reads 0 (the dissector clears its key first).

use std::fmt;

/// A header in which fields lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Header {
    /// Ethernet, from the destination address; only its twelve address bytes have a fixed place under tags.
    Ethernet,
    /// IPv4 without its options.
    Ipv4,
    /// The fixed IPv6 header.
    Ipv6,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP and ICMPv6.
    Icmp,
}

/// Where a field's bits lie: the header and the distance of the field's first bit from the header's first bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The header.
    pub header: Header,
    /// Bits from the start of the header.
    pub bit: u16,
}

/// One row of the field table.
#[derive(Debug)]
pub struct Row {
    /// The name that `tc` prints, or one in its manner where it prints none.
    pub name: &'static str,
    /// Width in bits, 1 to 128.
    pub bits: u8,
    /// Where the field lies in a packet; several where several headers carry it.
    pub places: &'static [Place],
    /// The field that must be matched for this one to be looked at.
    pub prerequisite: Option<Field>,
    /// Whether flower compares all of it or nothing: no mask goes with it.
    pub whole: bool,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $field:ident = $name:literal, $bits:literal $($whole:ident)?,
        [$($header:ident $at:literal),*], $pre:expr;)*) => {
        /// A field of the flower key. The order is that of the table.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Field { $($(#[$doc])* $field),* }

        impl Field {
            /// All fields, in the order of the table.
            pub const ALL: &'static [Field] = &[$(Field::$field),*];
        }

        const TABLE: &[Row] = &[$(Row {
            name: $name, bits: $bits, prerequisite: $pre,
            places: &[$(Place { header: Header::$header, bit: $at }),*],
            whole: matches!(stringify!($($whole)?).as_bytes(), b"whole"),
        }),*];
    };
}

use Field::*;
fields! {
    /// The device that the packet came in on (ifindex), as flower's `indev`.
    Indev = "indev", 32 whole, [], None;
    /// The filter's own protocol: the outermost ethertype as TC sees it. 0 in the mask stands for `all`.
    Protocol = "protocol", 16 whole, [], None;
    /// Ethernet destination.
    EthDst = "dst_mac", 48, [Ethernet 0], None;
    /// Ethernet source.
    EthSrc = "src_mac", 48, [Ethernet 48], None;
    /// The innermost ethertype that the dissector reached (`basic.n_proto`).
    EthType = "eth_type", 16 whole, [], None;
    /// Number of VLAN tags.
    NumOfVlans = "num_of_vlans", 8 whole, [], None;
    /// Ethertype of the outer VLAN tag itself.
    VlanTpid = "vlan_tpid", 16 whole, [], None;
    /// Outer VLAN identifier.
    VlanId = "vlan_id", 12 whole, [], Some(VlanTpid);
    /// Outer VLAN priority.
    VlanPrio = "vlan_prio", 3 whole, [], Some(VlanTpid);
    /// The ethertype behind the outer VLAN tag.
    VlanEthType = "vlan_ethtype", 16 whole, [], Some(VlanTpid);
    /// Ethertype of the inner VLAN tag itself.
    CvlanTpid = "cvlan_tpid", 16 whole, [], Some(VlanTpid);
    /// Inner VLAN identifier.
    CvlanId = "cvlan_id", 12 whole, [], Some(CvlanTpid);
    /// Inner VLAN priority.
    CvlanPrio = "cvlan_prio", 3 whole, [], Some(CvlanTpid);
    /// The ethertype behind the inner VLAN tag.
    CvlanEthType = "cvlan_ethtype", 16 whole, [], Some(CvlanTpid);
    /// Kind of the network addresses: 2 IPv4, 3 IPv6, 0 neither. A filter that names an address compares it.
    AddrType = "addr_type", 16 whole, [], Some(EthType);
    /// IP protocol; for IPv6 the one behind hop-by-hop, routing and destination headers.
    IpProto = "ip_proto", 8 whole, [Ipv4 72, Ipv6 48], Some(EthType);
    /// Type of service or traffic class, with the ECN bits.
    IpTos = "ip_tos", 8, [Ipv4 8, Ipv6 4], Some(EthType);
    /// Time to live or hop limit.
    IpTtl = "ip_ttl", 8, [Ipv4 64, Ipv6 56], Some(EthType);
    /// Fragment flags: bit 0 is a fragment, bit 1 is a first one.
    IpFlags = "ip_flags", 2, [], None;
    /// IPv4 source.
    Ipv4Src = "src_ip", 32, [Ipv4 96], Some(AddrType);
    /// IPv4 destination.
    Ipv4Dst = "dst_ip", 32, [Ipv4 128], Some(AddrType);
    /// IPv6 source.
    Ipv6Src = "src_ip6", 128, [Ipv6 64], Some(AddrType);
    /// IPv6 destination.
    Ipv6Dst = "dst_ip6", 128, [Ipv6 192], Some(AddrType);
    /// Source port of TCP, UDP or SCTP.
    SrcPort = "src_port", 16, [Tcp 0, Udp 0, Sctp 0], Some(IpProto);
    /// Destination port of TCP, UDP or SCTP.
    DstPort = "dst_port", 16, [Tcp 16, Udp 16, Sctp 16], Some(IpProto);
    /// TCP flags with the three reserved bits and NS (`tcp_flag_word` under `0x0fff`).
    TcpFlags = "tcp_flags", 12, [Tcp 100], Some(IpProto);
    /// ICMP or ICMPv6 type.
    IcmpType = "type", 8, [Icmp 0], Some(IpProto);
    /// ICMP or ICMPv6 code.
    IcmpCode = "code", 8, [Icmp 8], Some(IpProto);
    /// ARP sender protocol address.
    ArpSip = "arp_sip", 32, [], Some(EthType);
    /// ARP target protocol address.
    ArpTip = "arp_tip", 32, [], Some(EthType);
    /// ARP operation, its low byte.
    ArpOp = "arp_op", 8, [], Some(EthType);
    /// ARP sender hardware address.
    ArpSha = "arp_sha", 48, [], Some(EthType);
    /// ARP target hardware address.
    ArpTha = "arp_tha", 48, [], Some(EthType);
    /// Label of the first MPLS entry.
    MplsLabel = "mpls_label", 20 whole, [], Some(EthType);
    /// Traffic class of the first MPLS entry.
    MplsTc = "mpls_tc", 3 whole, [], Some(EthType);
    /// Bottom-of-stack bit of the first MPLS entry.
    MplsBos = "mpls_bos", 1 whole, [], Some(EthType);
    /// TTL of the first MPLS entry.
    MplsTtl = "mpls_ttl", 8 whole, [], Some(EthType);
    /// Tunnel key.
    EncKeyId = "enc_key_id", 32 whole, [], None;
    /// Kind of the tunnel's addresses, as `AddrType`.
    EncAddrType = "enc_addr_type", 16 whole, [], None;
    /// Tunnel IPv4 source.
    EncIpv4Src = "enc_src_ip", 32, [], Some(EncAddrType);
    /// Tunnel IPv4 destination.
    EncIpv4Dst = "enc_dst_ip", 32, [], Some(EncAddrType);
    /// Tunnel IPv6 source.
    EncIpv6Src = "enc_src_ip6", 128, [], Some(EncAddrType);
    /// Tunnel IPv6 destination.
    EncIpv6Dst = "enc_dst_ip6", 128, [], Some(EncAddrType);
    /// Tunnel UDP source port.
    EncSrcPort = "enc_src_port", 16, [], None;
    /// Tunnel UDP destination port.
    EncDstPort = "enc_dst_port", 16, [], None;
    /// Tunnel type of service.
    EncTos = "enc_tos", 8, [], None;
    /// Tunnel TTL.
    EncTtl = "enc_ttl", 8, [], None;
    /// Connection state after `ct`: new 1, established 2, related 4, tracked 8, invalid 16, reply 32.
    CtState = "ct_state", 16, [], None;
    /// Conntrack zone after `ct`.
    CtZone = "ct_zone", 16, [], None;
    /// Connection mark.
    CtMark = "ct_mark", 32, [], None;
    /// Connection labels; bit 0 is label bit 0.
    CtLabels = "ct_label", 128, [], None;
    /// Receive hash.
    Hash = "hash", 32, [], None;
    /// PPPoE session.
    PppoeSid = "pppoe_sid", 16 whole, [], Some(EthType);
    /// PPP protocol.
    PppProto = "ppp_proto", 16 whole, [], Some(EthType);
    /// L2TPv3 session.
    L2tpv3Sid = "l2tpv3_sid", 32 whole, [], Some(IpProto);
}

impl Field {
    /// How many fields there are.
    pub const COUNT: usize = TABLE.len();

    /// The field's row.
    pub const fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The tc name.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// All ones over the field's width.
    pub const fn ones(self) -> u128 {
        u128::MAX >> (128 - self.row().bits as u32)
    }

    /// Whether the field comes from conntrack and is known only after a `ct` action.
    pub const fn is_conntrack(self) -> bool {
        matches!(self, CtState | CtZone | CtMark | CtLabels)
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The values of [`Field::AddrType`] and [`Field::EncAddrType`] (`FLOW_DISSECTOR_KEY_IPV4_ADDRS`, `..._IPV6_ADDRS`).
pub mod addr_type {
    /// IPv4.
    pub const IPV4: u128 = 2;
    /// IPv6.
    pub const IPV6: u128 = 3;
}

/// The values of [`Field::IpProto`] that matter here.
pub mod ip_proto {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// GRE.
    pub const GRE: u8 = 47;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// L2TP.
    pub const L2TP: u8 = 115;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDPLITE: u8 = 136;
}

/// The bits of [`Field::IpFlags`] (`TCA_FLOWER_KEY_FLAGS_*`).
pub mod ip_flags {
    /// Any fragment.
    pub const FRAG: u128 = 1;
    /// A first fragment.
    pub const FIRST: u128 = 2;
}

/// The bits of [`Field::CtState`] (`TCA_FLOWER_KEY_CT_FLAGS_*`).
pub mod ct_state {
    /// No reply was seen yet.
    pub const NEW: u128 = 1;
    /// A reply was seen.
    pub const ESTABLISHED: u128 = 2;
    /// Expected by another connection, or an ICMP error about one.
    pub const RELATED: u128 = 4;
    /// Went through `ct`.
    pub const TRACKED: u128 = 8;
    /// Conntrack made nothing of it.
    pub const INVALID: u128 = 16;
    /// In the reply direction.
    pub const REPLY: u128 = 32;
}

/// The bits of [`Field::TcpFlags`].
pub mod tcp_flags {
    /// FIN.
    pub const FIN: u128 = 1;
    /// SYN.
    pub const SYN: u128 = 2;
    /// RST.
    pub const RST: u128 = 4;
    /// ACK.
    pub const ACK: u128 = 16;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_widths_are_sane() {
        let mut seen = std::collections::HashSet::new();
        for &f in Field::ALL {
            assert!(seen.insert(f.name()), "{f} twice");
            assert!((1..=128).contains(&f.row().bits), "{f}");
            assert_eq!(f.ones().count_ones(), f.row().bits as u32);
        }
        assert_eq!(Field::ALL.len(), Field::COUNT);
    }
}
