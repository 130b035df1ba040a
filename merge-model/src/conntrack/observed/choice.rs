//! Which address a translation takes from a range of several (`find_best_ips_proto` in `net/netfilter/nf_nat_core.c`): one that
//! follows from the packet's own, so that the same client keeps it, and that therefore can be told where no report does.
//!
//! The kernel hashes words as its machine loads them; what runs here is taken to have been recorded on a little-endian one.

use flowmerge::conntrack::Tuple;
use std::net::IpAddr;

/// An address as the kernel keeps any: sixteen bytes, of which IPv4 uses the first four.
type Words = [u32; 4];

/// The address that a packet of this tuple, in this zone, gets in the place of its source or its destination.
pub(super) fn choose(zone: u16, tuple: &Tuple, is_source: bool, low: IpAddr, high: IpAddr) -> IpAddr {
    let ipv6 = tuple.src.is_ipv6();
    let (low, high) = (words(low), words(high));
    let (src, mut dst) = (words(tuple.src), words(tuple.dst));
    if low == high {
        return address(low, ipv6);
    }
    let last = if ipv6 { 3 } else { 0 };
    let mut number = hash(&src, dst[last] ^ u32::from(zone));
    let mut chosen = if is_source { src } else { dst };
    let mut beneath = false;
    for at in 0..=last {
        // Below the highest in what stands in front, whatever follows is in the range.
        let (from, count) = match beneath {
            true => (0, u32::MAX),
            false => {
                let (from, to) = (low[at].swap_bytes(), high[at].swap_bytes());
                (from, to.wrapping_sub(from).wrapping_add(1))
            }
        };
        let part = (u64::from(number) * u64::from(count)) >> 32;
        chosen[at] = from.wrapping_add(part as u32).swap_bytes();
        beneath |= chosen[at] != high[at];
        if !is_source {
            dst[at] = chosen[at];
        }
        number ^= dst[at];
    }
    address(chosen, ipv6)
}

/// As the kernel reads an address of the other family: the bytes that there are.
pub(super) fn in_family(address_: IpAddr, ipv6: bool) -> IpAddr {
    address(words(address_), ipv6)
}

fn words(address: IpAddr) -> Words {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes = address.octets(),
    }
    std::array::from_fn(|at| u32::from_le_bytes(std::array::from_fn(|i| bytes[4 * at + i])))
}

fn address(words: Words, ipv6: bool) -> IpAddr {
    let bytes: [u8; 16] = std::array::from_fn(|i| words[i / 4].to_le_bytes()[i % 4]);
    match ipv6 {
        true => bytes.into(),
        false => [bytes[0], bytes[1], bytes[2], bytes[3]].into(),
    }
}

/// Bob Jenkins' `lookup3` (2006, public domain) of four words: the kernel's `jhash2`.
fn hash(words: &Words, seed: u32) -> u32 {
    const START: u32 = 0xdead_beef;
    let start = START.wrapping_add(4 << 2).wrapping_add(seed);
    let [mut a, mut b, mut c] = [0, 1, 2].map(|at| start.wrapping_add(words[at]));
    for (x, y, z, turn) in [(0, 2, 1, 4), (1, 0, 2, 6), (2, 1, 0, 8), (0, 2, 1, 16), (1, 0, 2, 19), (2, 1, 0, 4)] {
        let mut v = [a, b, c];
        v[x] = v[x].wrapping_sub(v[y]) ^ v[y].rotate_left(turn);
        v[y] = v[y].wrapping_add(v[z]);
        [a, b, c] = v;
    }
    a = a.wrapping_add(words[3]);
    for (x, y, turn) in [(2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24)] {
        let mut v = [a, b, c];
        v[x] = (v[x] ^ v[y]).wrapping_sub(v[y].rotate_left(turn));
        [a, b, c] = v;
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(zone: u16, src: &str, dst: &str, is_source: bool, low: &str, high: &str) -> String {
        let [src, dst, low, high] = [src, dst, low, high].map(|text| text.parse().unwrap());
        choose(zone, &Tuple { src, dst, proto: 2, src_port: 0, dst_port: 0 }, is_source, low, high).to_string()
    }

    /// What Linux 6.1 chose, in recorded runs.
    #[test]
    fn addresses_are_those_that_the_kernel_chooses() {
        let v4 = |src, dst| chosen(5, src, dst, false, "10.0.0.1", "10.0.0.3");
        assert_eq!(v4("10.0.0.5", "10.0.0.5"), "10.0.0.1");
        assert_eq!(v4("10.0.0.2", "10.1.0.1"), "10.0.0.2");
        assert_eq!(v4("10.0.0.5", "10.255.255.254"), "10.0.0.2");
        assert_eq!(chosen(5, "fd00:0:0:1::1", "fd01::2", true, "fd00::1", "fd00::3"), "fd00::3");
    }

    #[test]
    fn an_address_of_the_other_family_is_its_bytes() {
        assert_eq!(in_family([10, 0, 0, 4].into(), true).to_string(), "a00:4::");
        assert_eq!(chosen(5, "::1", "::2", false, "10.0.0.4", "10.0.0.4"), "a00:4::");
    }
}
