//! What conntrack reads of a TCP header: flags, numbers, window and the options that say how to read windows.

/// What conntrack reads of a TCP header, in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The flags byte: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// The sequence number behind this segment: data, SYN and FIN count.
    pub end: u32,
    /// The window as it stands in the header, not scaled.
    pub window: u16,
    /// The highest number acknowledged selectively (RFC 2018), or `ack` if none is higher.
    pub sack: u32,
    /// What the options offer; `None` without options.
    pub offer: Option<Offer>,
}

/// What a SYN's options offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Window scaling (RFC 7323), by so many bits, 14 at most.
    pub scale: Option<u8>,
    /// Selective acknowledgements.
    pub sack: bool,
}

/// The bits of the TCP flags byte.
pub(super) mod flag {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
    pub const URG: u8 = 32;
    pub const ECE: u8 = 64;
    pub const CWR: u8 = 128;
}

impl Segment {
    /// Reads a segment that ends where the IP packet does. `None` if it is shorter than its header says.
    pub fn read(bytes: &[u8]) -> Option<Segment> {
        let header = bytes.first_chunk::<20>()?;
        let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let options = bytes.get(20..usize::from(header[12] >> 4) * 4)?;
        let data = bytes.len() - 20 - options.len();
        let (flags, seq, ack) = (header[13], word(4), word(8));
        let length = data + usize::from(flags & flag::SYN != 0) + usize::from(flags & flag::FIN != 0);
        Some(Segment {
            flags,
            seq,
            ack,
            end: seq.wrapping_add(length as u32),
            window: u16::from_be_bytes([header[14], header[15]]),
            sack: highest(options, ack),
            offer: (!options.is_empty()).then(|| offer(options)),
        })
    }

    pub(super) fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

/// The options, each as its kind and value, up to the first that does not fit.
fn each(mut options: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    std::iter::from_fn(move || {
        while let [NOTHING, rest @ ..] = options {
            options = rest;
        }
        let (&kind, &len) = (options.first().filter(|&&kind| kind != END)?, options.get(1)?);
        let value = options.get(2..usize::from(len))?;
        options = &options[usize::from(len)..];
        Some((kind, value))
    })
}

fn offer(options: &[u8]) -> Offer {
    const SCALE: u8 = 3;
    const SACK_PERMITTED: u8 = 4;
    let mut offer = Offer::default();
    for option in each(options) {
        match option {
            (SCALE, &[scale]) => offer.scale = Some(scale.min(14)),
            (SACK_PERMITTED, []) => offer.sack = true,
            _ => {}
        }
    }
    offer
}

/// The highest right edge among the blocks of the first SACK option, if it lies behind the acknowledgement.
fn highest(options: &[u8], ack: u32) -> u32 {
    const SACK: u8 = 5;
    const BLOCK: usize = 8;
    let is_sack = |&(kind, value): &(u8, &[u8])| kind == SACK && !value.is_empty() && value.len().is_multiple_of(BLOCK);
    let blocks = each(options).find(is_sack).map(|(_, value)| value).unwrap_or_default();
    blocks.chunks_exact(BLOCK).fold(ack, |highest, block| {
        let edge = u32::from_be_bytes([block[4], block[5], block[6], block[7]]);
        if is_before(highest, edge) { edge } else { highest }
    })
}

/// Whether a sequence number comes before another, around the end of the numbers too.
pub(super) fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: u8, options: &[u8], data: usize) -> Option<Segment> {
        let mut bytes = vec![0, 1, 0, 2, 0, 0, 1, 0, 0, 0, 2, 0, 0x50 + (options.len() as u8 / 4 * 16), flags, 3, 4];
        bytes.extend([0; 4]);
        bytes.extend(options);
        bytes.resize(bytes.len() + data, 7);
        Segment::read(&bytes)
    }

    #[test]
    fn numbers_and_window() {
        let segment = read(flag::SYN | flag::FIN, &[], 5).unwrap();
        assert_eq!((segment.seq, segment.ack, segment.sack), (0x100, 0x200, 0x200));
        assert_eq!((segment.end, segment.window, segment.offer), (0x107, 0x304, None));
        assert_eq!(Segment::read(&[0x50; 19]), None);
        assert_eq!(Segment::read(&[0x60; 23]), None);
    }

    #[test]
    fn what_a_syn_offers() {
        let of = |options: &[u8]| read(flag::SYN, options, 0).unwrap().offer.unwrap();
        assert_eq!(of(&[2, 4, 5, 0xb4, 4, 2, 1, 3, 3, 7, 0, 0]), Offer { scale: Some(7), sack: true });
        assert_eq!(of(&[3, 3, 200, 0, 4, 2, 0, 0]), Offer { scale: Some(14), sack: false });
        // A length that makes no sense, or leads out of the options, ends them.
        assert_eq!(of(&[4, 2, 9, 1, 3, 3, 7, 1]), Offer { scale: None, sack: true });
        assert_eq!(of(&[4, 2, 9, 7, 3, 3, 7, 1]), Offer { scale: None, sack: true });
        assert_eq!(of(&[1, 1, 1, 4]), Offer::default());
    }

    #[test]
    fn the_highest_edge_acknowledged() {
        let of = |options: &[u8]| read(flag::ACK, options, 0).unwrap().sack;
        let block = |right: u32| [[0; 4], right.to_be_bytes()].concat();
        assert_eq!(of(&[&[1, 1, 5, 18][..], &block(0x900), &block(0x300)].concat()), 0x900);
        assert_eq!(of(&[&[1, 1, 5, 10][..], &block(0x100)].concat()), 0x200);
        assert_eq!(of(&[&[1, 1, 5, 9][..], &block(0x900)].concat()), 0x200);
        // Only the first such option counts.
        assert_eq!(of(&[&[1, 1, 5, 10][..], &block(0x300), &[1, 1, 5, 10], &block(0x900)].concat()), 0x300);
    }
}
