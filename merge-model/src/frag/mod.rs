//! Fragments: `ct` puts them together, and what was put together is cut again when it is sent.

mod reassemble;
mod split;

pub(crate) use reassemble::{Gathered, Reassembly};
pub(crate) use split::split;

use crate::{act::is_fragment, skb::Skb};
use flowmerge::packet::dissect::ethertype;
use std::borrow::Cow;

/// Fragments put together outside of TC: OVS's own datapath, too, shows conntrack whole packets. For those who follow frames
/// there.
#[derive(Clone, Debug, Default)]
pub struct Fragments(Reassembly);

impl Fragments {
    /// The frame itself if it is no fragment; with the last of its fragments the packet, without tags; before that nothing.
    pub fn whole<'a>(&mut self, frame: &'a [u8], now: u64) -> Option<Cow<'a, [u8]>> {
        let Some(mut skb) = Skb::untagged(frame) else { return Some(Cow::Borrowed(frame)) };
        let ipv6 = skb.protocol == ethertype::IPV6;
        if !ipv6 && skb.protocol != ethertype::IPV4 || is_fragment(&skb, ipv6) != Some(true) {
            return Some(Cow::Borrowed(frame));
        }
        match self.0.gather(&mut skb, 0, ipv6, now) {
            Gathered::Whole => Some(Cow::Owned(skb.received_frame())),
            Gathered::Held | Gathered::Discarded => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP datagram of ten fragments' worth at most, cut: each fragment's offset in units of 8, its payload, and whether more
    /// follow.
    fn cut(tag: &[u8], pieces: &[(u16, &[u8], bool)]) -> Vec<Vec<u8>> {
        let frame = |&(offset, payload, more): &(u16, &[u8], bool)| {
            let field = offset | if more { 0x2000 } else { 0 };
            let mut ip = vec![0x45, 0, 0, 20 + payload.len() as u8, 0, 7];
            ip.extend(field.to_be_bytes());
            ip.extend([64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            [&[2; 12], tag, &[8, 0], &ip, payload].concat()
        };
        pieces.iter().map(frame).collect()
    }

    #[test]
    fn the_last_fragment_makes_the_packet_whole() {
        for tag in [&[][..], &[0x81, 0, 0, 5]] {
            let frames = cut(tag, &[(1, &[2; 8], true), (0, &[1; 8], true), (2, &[3; 3], false)]);
            let mut fragments = Fragments::default();
            assert_eq!(fragments.whole(&frames[0], 0), None);
            assert_eq!(fragments.whole(&frames[1], 0), None);
            assert_eq!(fragments.whole(&frames[1], 0), None, "twice the same");
            let whole = fragments.whole(&frames[2], 0).unwrap();
            assert_eq!(whole[..14], [&[2; 12][..], &[8, 0]].concat());
            assert_eq!(whole[16..22], [0, 39, 0, 7, 0, 0], "its length, and no fragment");
            assert_eq!(whole[34..], [[1; 8].as_slice(), &[2; 8], &[3; 3]].concat());
        }
    }

    #[test]
    fn what_is_no_fragment_passes_as_it_is() {
        let whole = &cut(&[], &[(0, &[1; 8], false)])[0];
        let arp = [&[2; 12][..], &[8, 6], &[0; 28]].concat();
        for frame in [&whole[..], &arp, &whole[..20], &[1, 2, 3]] {
            assert_eq!(Fragments::default().whole(frame, 0), Some(Cow::Borrowed(frame)));
        }
    }
}
