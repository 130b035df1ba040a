//! Ethertypes that TC and the dissector know, in host order.

/// IPv4.
pub const IPV4: u16 = 0x0800;
/// ARP.
pub const ARP: u16 = 0x0806;
/// Reverse ARP.
pub const RARP: u16 = 0x8035;
/// B.A.T.M.A.N.
pub const BATMAN: u16 = 0x4305;
/// VLAN.
pub const VLAN: u16 = 0x8100;
/// IPv6.
pub const IPV6: u16 = 0x86dd;
/// MPLS.
pub const MPLS: u16 = 0x8847;
/// MPLS, multicast.
pub const MPLS_MC: u16 = 0x8848;
/// PPPoE session.
pub const PPPOE: u16 = 0x8864;
/// Parallel redundancy.
pub const PRP: u16 = 0x88fb;
/// Service VLAN.
pub const QINQ: u16 = 0x88a8;
/// Connectivity fault management.
pub const CFM: u16 = 0x8902;
/// Seamless redundancy.
pub const HSR: u16 = 0x892f;
/// The kernel's name for a length field before 0xffff (Novell).
pub const NOVELL: u16 = 0x0001;
/// The kernel's name for a length field before anything else.
pub const LLC: u16 = 0x0004;

/// Whether this is the ethertype of a VLAN tag (`eth_type_vlan`).
pub fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, VLAN | QINQ)
}

/// Whether this is the ethertype of a label stack (`eth_p_mpls`).
pub fn is_mpls(ethertype: u16) -> bool {
    matches!(ethertype, MPLS | MPLS_MC)
}

/// Whether a frame of this ethertype shows flower another one behind it, or another's frame shows this one: neither tells the other.
pub fn carries(ethertype: u16) -> bool {
    is_vlan(ethertype) || is_mpls(ethertype) || matches!(ethertype, PPPOE | BATMAN | HSR | PRP)
}
