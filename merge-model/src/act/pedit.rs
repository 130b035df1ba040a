//! `pedit` (`net/sched/act_pedit.c`): words of the packet are rewritten.

use super::extension;
use crate::{
    bytes::{array, byte},
    skb::Skb,
};
use flowmerge::{
    conntrack::proto,
    flower::action::{Pedit, PeditHeader, PeditKey},
    packet::dissect::ethertype,
};

/// Room in front of the Ethernet header, into which a key may write without any effect. Drivers leave at least this much.
const HEADROOM: i64 = 64;

/// Rewrites word after word, up to the first that cannot be; where it is `lenient`, those behind as well.
pub(super) fn run(skb: &mut Skb, pedit: &Pedit, lenient: bool) {
    for key in &pedit.keys {
        if rewrite(skb, key).is_none() && !lenient {
            return;
        }
    }
}

fn rewrite(skb: &mut Skb, key: &PeditKey) -> Option<()> {
    let header = start(skb, key.header)?;
    let mut offset = i64::from(key.offset);
    if let Some(dynamic) = key.dynamic
        && dynamic.mask != 0
    {
        // `at` is a signed number to the kernel.
        let at = header + i64::from(dynamic.at as i32);
        in_reach(skb, at, 1)?;
        let read = usize::try_from(at).ok().and_then(|at| byte(&skb.bytes, at)).unwrap_or(0);
        offset += i64::from((u32::from(read) & dynamic.mask).checked_shr(dynamic.shift).unwrap_or(0));
        if offset % 4 != 0 {
            return None;
        }
    }
    let at = header + offset;
    in_reach(skb, at, 4)?;
    let Ok(at) = usize::try_from(at) else {
        // In the headroom, or across its end: only what falls into the packet counts.
        return write_partly(skb, at, key);
    };
    skb.pull(at + 4);
    let word = array(&skb.bytes, at)?;
    skb.bytes.get_mut(at..at + 4)?.copy_from_slice(&changed(word, key));
    Some(())
}

fn write_partly(skb: &mut Skb, at: i64, key: &PeditKey) -> Option<()> {
    let outside = usize::try_from(-at).ok()?.min(4);
    let mut word = [0; 4];
    for (to, from) in word[outside..].iter_mut().zip(&skb.bytes) {
        *to = *from;
    }
    let word = changed(word, key);
    for (to, from) in skb.bytes.iter_mut().zip(&word[outside..]) {
        *to = *from;
    }
    Some(())
}

/// The word after the key; sums are of the word as a little-endian machine loads it.
fn changed(word: [u8; 4], key: &PeditKey) -> [u8; 4] {
    let [word, mask, value] = [word, key.mask, key.value].map(u32::from_le_bytes);
    let value = match key.add {
        true => word.wrapping_add(value) & !mask,
        false => value,
    };
    (word & mask ^ value).to_le_bytes()
}

/// Where the header starts, from the Ethernet header. For IPv4 it is not looked whether TCP or UDP is there.
fn start(skb: &Skb, header: PeditHeader) -> Option<i64> {
    let l4 = match header {
        PeditHeader::Ethernet => return Some(0),
        PeditHeader::Network | PeditHeader::Ipv4 | PeditHeader::Ipv6 => return Some(skb.network as i64),
        PeditHeader::Tcp => proto::TCP,
        PeditHeader::Udp => proto::UDP,
    };
    let at = match skb.protocol {
        ethertype::IPV4 => {
            let header: [u8; 20] = array(&skb.bytes, skb.network)?;
            skb.network + usize::from(header[0] & 0xf) * 4
        }
        ethertype::IPV6 => extension::find(&skb.bytes, skb.network, l4)?,
        _ => return None,
    };
    Some(at as i64)
}

/// Whether `len` bytes at `at` lie in the packet or the room in front of it (`offset_valid`).
fn in_reach(skb: &Skb, at: i64, len: i64) -> Option<()> {
    (at >= -HEADROOM && at + len <= skb.bytes.len() as i64).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowmerge::flower::{Port, action::PeditDynamic};

    /// Ethernet and an IPv4 header, ttl 64, TCP, 10.0.0.1 > 10.0.0.2, eight bytes of payload.
    fn skb() -> Skb {
        let mut frame = vec![0u8; 12];
        frame.extend([8, 0]);
        frame.extend([0x45, 0, 0, 28, 0, 1, 0, 0, 64, 6, 0xab, 0xcd, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(1..=8u8);
        Skb::from_wire(Port(1), &frame).unwrap()
    }

    fn key(header: PeditHeader, offset: i32, mask: u32, value: u32, add: bool) -> PeditKey {
        PeditKey { header, offset, mask: mask.to_be_bytes(), value: value.to_be_bytes(), add, dynamic: None }
    }

    fn run_keys(skb: &mut Skb, keys: &[PeditKey]) {
        let keys = keys.to_vec();
        run(skb, &Pedit { keys, mend: false }, false);
    }

    #[test]
    fn bits_outside_the_mask_are_flipped() {
        let mut skb = skb();
        run_keys(&mut skb, &[key(PeditHeader::Ipv4, 8, 0x00ff_ffff, 0x3f01_0000, false)]);
        assert_eq!(skb.bytes[22..26], [0x3f, 6 ^ 1, 0xab, 0xcd]);
    }

    /// ttl - 1: 0xff added to the low byte of the word, the carry masked off. Adding 1 to the source port 0x01ff, whose first
    /// byte is the low one: 0x02ff, where the carry ought to have come from the other side.
    #[test]
    fn sums_carry_in_host_order() {
        let mut skb = skb();
        run_keys(&mut skb, &[key(PeditHeader::Ipv4, 8, 0x00ff_ffff, 0xff00_0000, true)]);
        assert_eq!(skb.bytes[22..26], [63, 6, 0xab, 0xcd]);
        skb.bytes[34..36].copy_from_slice(&[0x01, 0xff]);
        run_keys(&mut skb, &[key(PeditHeader::Tcp, 0, 0x0000_ffff, 0x0001_0000, true)]);
        assert_eq!(skb.bytes[34..36], [0x01, 0x00]);
    }

    #[test]
    fn a_key_that_fails_ends_the_list() {
        let mut skb = skb();
        let keys = [
            key(PeditHeader::Ethernet, -2, 0, 0x1122_3344, false),
            key(PeditHeader::Network, 24, 0, 0xdead_beef, false),
            key(PeditHeader::Network, 28, 0, 0, false),
            key(PeditHeader::Network, 12, 0, 0, false),
        ];
        run_keys(&mut skb, &keys);
        assert_eq!(skb.bytes[..4], [0x33, 0x44, 0, 0]);
        assert_eq!(skb.bytes[38..], [0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(skb.bytes[26..30], [10, 0, 0, 1]);
    }

    /// The header length, in words, as offset: `(0x45 & 0x0f) << 2` cannot be had by a shift to the right, but 0x45 & 0x40 >> 4
    /// is 4; an offset that is no multiple of four fails.
    #[test]
    fn an_offset_is_read_from_the_packet() {
        let dynamic = |mask| PeditKey {
            dynamic: Some(PeditDynamic { at: 0, mask, shift: 4 }),
            ..key(PeditHeader::Network, 8, 0, 0x0102_0304, false)
        };
        let mut skb = skb();
        run_keys(&mut skb, &[dynamic(0x40)]);
        assert_eq!(skb.bytes[26..30], [1, 2, 3, 4]);
        run_keys(&mut skb, &[PeditKey { offset: 9, ..dynamic(0x40) }]);
        assert_eq!(skb.bytes[27..31], [2, 3, 4, 10]);
    }
}
