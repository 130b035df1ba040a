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
    /// ARP between Ethernet and IPv4 addresses.
    Arp,
    /// The MPLS label stack.
    Mpls,
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
    ArpSip = "arp_sip", 32, [Arp 112], Some(EthType);
    /// ARP target protocol address.
    ArpTip = "arp_tip", 32, [Arp 192], Some(EthType);
    /// ARP operation, its low byte.
    ArpOp = "arp_op", 8, [Arp 56], Some(EthType);
    /// ARP sender hardware address.
    ArpSha = "arp_sha", 48, [Arp 64], Some(EthType);
    /// ARP target hardware address.
    ArpTha = "arp_tha", 48, [Arp 144], Some(EthType);
    /// Whether there is a first MPLS entry.
    Mpls1 = "mpls_lse1", 1 whole, [], Some(EthType);
    /// Label of the first MPLS entry.
    MplsLabel = "mpls_label", 20 whole, [Mpls 0], Some(Mpls1);
    /// Traffic class of the first MPLS entry.
    MplsTc = "mpls_tc", 3 whole, [Mpls 20], Some(Mpls1);
    /// Bottom-of-stack bit of the first MPLS entry.
    MplsBos = "mpls_bos", 1 whole, [Mpls 23], Some(Mpls1);
    /// TTL of the first MPLS entry.
    MplsTtl = "mpls_ttl", 8 whole, [Mpls 24], Some(Mpls1);
    /// Whether there is a second MPLS entry.
    Mpls2 = "mpls_lse2", 1 whole, [], Some(EthType);
    /// Label of the second MPLS entry.
    Mpls2Label = "mpls2_label", 20 whole, [Mpls 32], Some(Mpls2);
    /// Traffic class of the second MPLS entry.
    Mpls2Tc = "mpls2_tc", 3 whole, [Mpls 52], Some(Mpls2);
    /// Bottom-of-stack bit of the second MPLS entry.
    Mpls2Bos = "mpls2_bos", 1 whole, [Mpls 55], Some(Mpls2);
    /// TTL of the second MPLS entry.
    Mpls2Ttl = "mpls2_ttl", 8 whole, [Mpls 56], Some(Mpls2);
    /// Whether there is a third MPLS entry.
    Mpls3 = "mpls_lse3", 1 whole, [], Some(EthType);
    /// Label of the third MPLS entry.
    Mpls3Label = "mpls3_label", 20 whole, [Mpls 64], Some(Mpls3);
    /// Traffic class of the third MPLS entry.
    Mpls3Tc = "mpls3_tc", 3 whole, [Mpls 84], Some(Mpls3);
    /// Bottom-of-stack bit of the third MPLS entry.
    Mpls3Bos = "mpls3_bos", 1 whole, [Mpls 87], Some(Mpls3);
    /// TTL of the third MPLS entry.
    Mpls3Ttl = "mpls3_ttl", 8 whole, [Mpls 88], Some(Mpls3);
    /// Whether there is a fourth MPLS entry.
    Mpls4 = "mpls_lse4", 1 whole, [], Some(EthType);
    /// Label of the fourth MPLS entry.
    Mpls4Label = "mpls4_label", 20 whole, [Mpls 96], Some(Mpls4);
    /// Traffic class of the fourth MPLS entry.
    Mpls4Tc = "mpls4_tc", 3 whole, [Mpls 116], Some(Mpls4);
    /// Bottom-of-stack bit of the fourth MPLS entry.
    Mpls4Bos = "mpls4_bos", 1 whole, [Mpls 119], Some(Mpls4);
    /// TTL of the fourth MPLS entry.
    Mpls4Ttl = "mpls4_ttl", 8 whole, [Mpls 120], Some(Mpls4);
    /// Whether there is a fifth MPLS entry.
    Mpls5 = "mpls_lse5", 1 whole, [], Some(EthType);
    /// Label of the fifth MPLS entry.
    Mpls5Label = "mpls5_label", 20 whole, [Mpls 128], Some(Mpls5);
    /// Traffic class of the fifth MPLS entry.
    Mpls5Tc = "mpls5_tc", 3 whole, [Mpls 148], Some(Mpls5);
    /// Bottom-of-stack bit of the fifth MPLS entry.
    Mpls5Bos = "mpls5_bos", 1 whole, [Mpls 151], Some(Mpls5);
    /// TTL of the fifth MPLS entry.
    Mpls5Ttl = "mpls5_ttl", 8 whole, [Mpls 152], Some(Mpls5);
    /// Whether there is a sixth MPLS entry.
    Mpls6 = "mpls_lse6", 1 whole, [], Some(EthType);
    /// Label of the sixth MPLS entry.
    Mpls6Label = "mpls6_label", 20 whole, [Mpls 160], Some(Mpls6);
    /// Traffic class of the sixth MPLS entry.
    Mpls6Tc = "mpls6_tc", 3 whole, [Mpls 180], Some(Mpls6);
    /// Bottom-of-stack bit of the sixth MPLS entry.
    Mpls6Bos = "mpls6_bos", 1 whole, [Mpls 183], Some(Mpls6);
    /// TTL of the sixth MPLS entry.
    Mpls6Ttl = "mpls6_ttl", 8 whole, [Mpls 184], Some(Mpls6);
    /// Whether there is a seventh MPLS entry.
    Mpls7 = "mpls_lse7", 1 whole, [], Some(EthType);
    /// Label of the seventh MPLS entry.
    Mpls7Label = "mpls7_label", 20 whole, [Mpls 192], Some(Mpls7);
    /// Traffic class of the seventh MPLS entry.
    Mpls7Tc = "mpls7_tc", 3 whole, [Mpls 212], Some(Mpls7);
    /// Bottom-of-stack bit of the seventh MPLS entry.
    Mpls7Bos = "mpls7_bos", 1 whole, [Mpls 215], Some(Mpls7);
    /// TTL of the seventh MPLS entry.
    Mpls7Ttl = "mpls7_ttl", 8 whole, [Mpls 216], Some(Mpls7);
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
    /// Tunnel flags, as [`enc_flags`] has them.
    EncFlags = "enc_flags", 6, [], None;
    /// Kind of the tunnel's options, as [`enc_options`] has them; 0 if there are none.
    EncOptsType = "enc_opts_type", 16, [], None;
    /// Length of the tunnel's options, bytes. Flower compares only the bits that are set in the length asked for.
    EncOptsLen = "enc_opts_len", 8, [], Some(EncOptsType);
    /// Bytes 0 to 15 of the tunnel's options, as [`Tunnel`](super::Tunnel) lays them out.
    EncOpts0 = "enc_opts0", 128, [], Some(EncOptsLen);
    /// Bytes 16 to 31 of the tunnel's options.
    EncOpts1 = "enc_opts1", 128, [], Some(EncOptsLen);
    /// Bytes 32 to 47 of the tunnel's options.
    EncOpts2 = "enc_opts2", 128, [], Some(EncOptsLen);
    /// Bytes 48 to 63 of the tunnel's options.
    EncOpts3 = "enc_opts3", 128, [], Some(EncOptsLen);
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
    /// Whether a bridge did not know the destination (Linux 6.5).
    L2Miss = "l2_miss", 1 whole, [], None;
    /// CFM maintenance domain level (Linux 6.5).
    CfmLevel = "cfm_mdl", 3 whole, [], Some(EthType);
    /// CFM opcode (Linux 6.5).
    CfmOpcode = "cfm_op", 8 whole, [], Some(EthType);
    /// Security parameter index of ESP or AH (Linux 6.6).
    Spi = "spi", 32, [], Some(IpProto);
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

    /// The entries of the MPLS stack, from the outermost on: present, label, traffic class, bottom of stack, TTL.
    pub const MPLS: [[Field; 5]; 7] = [
        [Mpls1, MplsLabel, MplsTc, MplsBos, MplsTtl],
        [Mpls2, Mpls2Label, Mpls2Tc, Mpls2Bos, Mpls2Ttl],
        [Mpls3, Mpls3Label, Mpls3Tc, Mpls3Bos, Mpls3Ttl],
        [Mpls4, Mpls4Label, Mpls4Tc, Mpls4Bos, Mpls4Ttl],
        [Mpls5, Mpls5Label, Mpls5Tc, Mpls5Bos, Mpls5Ttl],
        [Mpls6, Mpls6Label, Mpls6Tc, Mpls6Bos, Mpls6Ttl],
        [Mpls7, Mpls7Label, Mpls7Tc, Mpls7Bos, Mpls7Ttl],
    ];

    /// What is known of the tunnel that a packet came through, or is going to: not of its bytes.
    pub const TUNNEL: [Field; 17] = [
        EncKeyId,
        EncAddrType,
        EncIpv4Src,
        EncIpv4Dst,
        EncIpv6Src,
        EncIpv6Dst,
        EncSrcPort,
        EncDstPort,
        EncTos,
        EncTtl,
        EncFlags,
        EncOptsType,
        EncOptsLen,
        EncOpts0,
        EncOpts1,
        EncOpts2,
        EncOpts3,
    ];

    /// The tunnel's options, as far as a key holds them.
    pub const OPTIONS: [Field; 4] = [EncOpts0, EncOpts1, EncOpts2, EncOpts3];

    /// Whether the field is of the tunnel ([`Field::TUNNEL`]).
    pub const fn is_tunnel(self) -> bool {
        self as u8 >= EncKeyId as u8 && self as u8 <= EncOpts3 as u8
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

/// The bits of [`Field::EncFlags`] (`TCA_FLOWER_KEY_FLAGS_TUNNEL_*`, Linux 6.12; the two lowest are of other flags).
pub mod enc_flags {
    /// The outer packet has a checksum.
    pub const CSUM: u128 = 4;
    /// It is not to be fragmented.
    pub const DONT_FRAGMENT: u128 = 8;
    /// Operations, administration and maintenance.
    pub const OAM: u128 = 16;
    /// It has critical options.
    pub const CRITICAL: u128 = 32;
}

/// The values of [`Field::EncOptsType`] (`TUNNEL_*_OPT`, `include/net/ip_tunnels.h`).
pub mod enc_options {
    /// Geneve.
    pub const GENEVE: u128 = 0x0800;
    /// VXLAN's group policy.
    pub const VXLAN: u128 = 0x1000;
    /// ERSPAN.
    pub const ERSPAN: u128 = 0x4000;
    /// GTP.
    pub const GTP: u128 = 0x8000;
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
    /// ESP.
    pub const ESP: u8 = 50;
    /// AH.
    pub const AH: u8 = 51;
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
            assert_eq!(f.is_tunnel(), Field::TUNNEL.contains(&f), "{f}");
        }
        assert_eq!(Field::ALL.len(), Field::COUNT);
    }
}
