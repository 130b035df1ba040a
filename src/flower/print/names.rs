//! Numbers that `tc` has names for. It takes what it prints; where it has no name it takes hexadecimal digits.

use crate::flower::{ethertype, filter::PROTOCOL_ALL};

/// Ethertypes (`protocol`, `vlan_ethtype`), found by asking iproute2 6.1 to show every one.
const ETHERTYPES: &[(u16, &str)] = &[
    (ethertype::NOVELL, "802_3"),
    (0x0002, "ax25"),
    (PROTOCOL_ALL, "all"),
    (ethertype::LLC, "802_2"),
    (0x0005, "snap"),
    (0x0006, "ddcmp"),
    (0x0007, "wan_ppp"),
    (0x0008, "ppp_mp"),
    (0x0009, "localtalk"),
    (0x000c, "can"),
    (0x0010, "ppptalk"),
    (0x0011, "tr_802_2"),
    (0x0015, "mobitex"),
    (0x0016, "control"),
    (0x0017, "irda"),
    (0x0018, "econet"),
    (0x0060, "loop"),
    (0x0200, "pup"),
    (0x0201, "pupat"),
    (ethertype::IPV4, "ip"),
    (0x0805, "x25"),
    (ethertype::ARP, "arp"),
    (0x08ff, "bpq"),
    (0x0a00, "ieeepup"),
    (0x0a01, "ieeepupat"),
    (0x6000, "dec"),
    (0x6001, "dna_dl"),
    (0x6002, "dna_rc"),
    (0x6003, "dna_rt"),
    (0x6004, "lat"),
    (0x6005, "diag"),
    (0x6006, "cust"),
    (0x6007, "sca"),
    (0x6558, "teb"),
    (ethertype::RARP, "rarp"),
    (0x809b, "atalk"),
    (0x80f3, "aarp"),
    (ethertype::VLAN, "802.1Q"),
    (0x8137, "ipx"),
    (ethertype::IPV6, "ipv6"),
    (ethertype::MPLS, "mpls_uc"),
    (ethertype::MPLS_MC, "mpls_mc"),
    (0x884c, "atmmpoa"),
    (0x8863, "ppp_disc"),
    (ethertype::PPPOE, "ppp_ses"),
    (0x8884, "atmfate"),
    (0x8892, "profinet"),
    (0x88a2, "aoe"),
    (0x88a4, "ethercat"),
    (ethertype::QINQ, "802.1ad"),
    (0x88ca, "tipc"),
    (0x88cc, "LLDP"),
];

/// PPP protocols (`ppp_proto`), found likewise.
const PPP: &[(u16, &str)] = &[
    (0x0021, "ip"),
    (0x0029, "at"),
    (0x002b, "ipx"),
    (0x002d, "vjc_comp"),
    (0x002f, "vjc_uncomp"),
    (0x003d, "mp"),
    (0x0057, "ipv6"),
    (0x00fb, "compfrag"),
    (0x00fd, "comp"),
    (0x0281, "mpls_uc"),
    (0x0283, "mpls_mc"),
    (0x8021, "ipcp"),
    (0x8029, "atcp"),
    (0x802b, "ipxcp"),
    (0x8057, "ipv6cp"),
    (0x80fb, "ccpfrag"),
    (0x80fd, "ccp"),
    (0xc021, "lcp"),
    (0xc023, "pap"),
    (0xc025, "lqr"),
    (0xc029, "cbcp"),
    (0xc223, "chap"),
];

fn named(names: &[(u16, &str)], value: u16) -> String {
    match names.binary_search_by_key(&value, |&(number, _)| number) {
        Ok(at) => names[at].1.to_owned(),
        Err(_) => format!("{value:#06x}"),
    }
}

/// An ethertype as `protocol` and `vlan_ethtype` have it.
pub(super) fn protocol(value: u16) -> String {
    named(ETHERTYPES, value)
}

/// An ethertype as `eth_type` has it: `tc` knows four names there, and `ipv4` is not `ip`.
pub(super) fn eth_type(value: u16) -> String {
    match value {
        ethertype::IPV4 => "ipv4".into(),
        ethertype::IPV6 | ethertype::ARP | ethertype::RARP => protocol(value),
        other => format!("{other:#06x}"),
    }
}

/// A PPP protocol.
pub(super) fn ppp_proto(value: u16) -> String {
    named(PPP, value)
}

/// The class that `skbedit priority` names, of two numbers of which 0 is left out.
pub(super) fn class(value: u32) -> String {
    match (value >> 16, value & 0xffff) {
        (0, 0) => "none".into(),
        (0xffff, 0xffff) => "root".into(),
        (0, minor) => format!(":{minor:x}"),
        (major, 0) => format!("{major:x}:"),
        (major, minor) => format!("{major:x}:{minor:x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_in_order() {
        for table in [ETHERTYPES, PPP] {
            assert!(table.is_sorted_by(|a, b| a.0 < b.0));
        }
    }

    #[test]
    fn words_are_tcs() {
        assert_eq!([0x88cc, 0x8035, 1, 3, 0x1234].map(protocol), ["LLDP", "rarp", "802_3", "all", "0x1234"]);
        assert_eq!([0x0800, 0x8035, 0x8847, 1].map(eth_type), ["ipv4", "rarp", "0x8847", "0x0001"]);
        assert_eq!([0x0021, 0xc021, 0x1235].map(ppp_proto), ["ip", "lcp", "0x1235"]);
        assert_eq!([0, 3, 0x3_0000, 0x1_0010, u32::MAX].map(class), ["none", ":3", "3:", "1:10", "root"]);
    }
}
