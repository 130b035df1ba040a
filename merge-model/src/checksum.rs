//! Internet checksums: computed, verified and mended; and SCTP's CRC.
//!
//! Mending (`csum_replace4`, RFC 1624) changes a checksum by what changed in the packet, so that a wrong one stays wrong.
//! All values are in host integers read in network order; a one's complement sum does not care.

use crate::bytes::{byte, put};
use std::net::IpAddr;

/// The one's complement sum of the bytes, on top of `sum`; an odd last byte counts as if a 0 followed.
pub fn sum(bytes: &[u8], sum: u64) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let pairs: u64 = pairs.iter().map(|&pair| u64::from(u16::from_be_bytes(pair))).sum();
    let rest = rest.first().map_or(0, |&byte| u64::from(byte) << 8);
    sum + pairs + rest
}

/// Folds a sum to its sixteen-bit complement (`csum_fold`).
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The sum of the pseudo header that TCP, UDP and ICMPv6 put in front (`csum_tcpudp_nofold`, `csum_ipv6_magic`).
pub fn pseudo(src: IpAddr, dst: IpAddr, proto: u8, len: usize) -> u64 {
    let address = |address| match address {
        IpAddr::V4(a) => sum(&a.octets(), 0),
        IpAddr::V6(a) => sum(&a.octets(), 0),
    };
    address(src) + address(dst) + u64::from(proto) + (len as u64 & 0xffff) + (len as u64 >> 16)
}

/// The checksum after `from` became `to`: both of one even length, and at even places of what is summed.
pub fn mend(check: u16, from: &[u8], to: &[u8]) -> u16 {
    debug_assert_eq!(from.len(), to.len());
    let away: u64 = from.as_chunks::<2>().0.iter().map(|&p| u64::from(!u16::from_be_bytes(p))).sum();
    fold(sum(to, u64::from(!check) + away))
}

/// Computes the checksum of the IPv4 header at `at` (`ip_send_check`). One that claims to be shorter than it can be gets its
/// first two bytes for a checksum, as the assembly of x86 leaves them there (`ip_fast_csum`).
pub fn ipv4_header(bytes: &mut [u8], at: usize) {
    let _ = put(bytes, at + 10, &[0, 0]);
    let len = byte(bytes, at).map_or(0, |first| usize::from(first & 0xf) * 4);
    if len <= 16
        && let Some(&[first, second, ..]) = bytes.get(at..)
    {
        let _ = put(bytes, at + 10, &[first, second]);
    } else if let Some(header) = bytes.get(at..at + len) {
        let check = fold(sum(header, 0));
        let _ = put(bytes, at + 10, &check.to_be_bytes());
    }
}

/// SCTP's checksum (CRC-32C) over `packet`, whose bytes 8 to 12 count as 0, as the bytes that stand there.
pub fn sctp(packet: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for (at, &byte) in packet.iter().enumerate() {
        crc ^= u32::from(if (8..12).contains(&at) { 0 } else { byte });
        for _ in 0..8 {
            crc = crc >> 1 ^ 0x82f6_3b78 & (crc & 1).wrapping_neg();
        }
    }
    (!crc).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071, section 3, and the check value of CRC-32C ("123456789", here around the four zeros).
    #[test]
    fn known_values() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes, 0)), !0xddf2);
        // 32 zeros: RFC 3720, B.4.
        assert_eq!(sctp(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
    }

    #[test]
    fn mending_equals_computing() {
        let mut bytes = [0x45, 0, 0, 0x54, 0xbe, 0xef, 0x40, 0, 0x40, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let mut check = fold(sum(&bytes, 0));
        for to in [[0u8, 0, 0, 0], [0xff; 4], [192, 168, 7, 9], [10, 0, 0, 1]] {
            let from: [u8; 4] = bytes[12..16].try_into().unwrap();
            bytes[12..16].copy_from_slice(&to);
            check = mend(check, &from, &to);
            assert_eq!(check, fold(sum(&bytes, 0)));
        }
    }
}
