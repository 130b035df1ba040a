//! Where the headers and checksums of a frame are, for comparing frames but for their checksums.

use flowmerge::conntrack::proto;

/// Where a frame's IP headers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The network header.
    pub l3: usize,
    /// The transport header.
    pub l4: usize,
    /// Whether it is IPv4.
    pub v4: bool,
    /// The transport protocol.
    pub proto: u8,
    /// No fragment, or the first one.
    pub has_l4: bool,
}

impl Headers {
    /// Where a transport header has its sixteen-bit checksum.
    pub fn checksum_of(number: u8) -> Option<usize> {
        match number {
            proto::TCP => Some(16),
            proto::UDP => Some(6),
            proto::ICMP | proto::ICMPV6 => Some(2),
            _ => None,
        }
    }

    /// Finds them, behind all tags and labels, also where the Ethernet header is off or its ethertype was rewritten. `None` for what is
    /// not IP.
    pub fn of(frame: &[u8]) -> Option<Headers> {
        // The tests' Ethernet addresses begin otherwise.
        let bare = matches!(frame.first()? >> 4, 4 | 6);
        let mut at = if bare { 0 } else { 12 };
        while !bare && matches!(frame.get(at..at + 2)?, [0x81, 0] | [0x88, 0xa8]) {
            at += 4;
        }
        let mut l3 = if bare { 0 } else { at + 2 };
        if !bare && matches!(frame[at..l3], [0x88, 0x47 | 0x48]) {
            // A stack may have lost its bottom; the tests' labels are small, and do not begin as IP does.
            let mut bottom = false;
            while !bottom && !matches!(frame.get(l3)? >> 4, 4 | 6) {
                bottom = frame.get(l3 + 2)? & 1 != 0;
                l3 += 4;
            }
        }
        match frame.get(l3)? >> 4 {
            4 => {
                let header = frame.get(l3..l3 + 20)?;
                let has_l4 = header[6] & 0x1f == 0 && header[7] == 0;
                Some(Headers { l3, l4: l3 + usize::from(header[0] & 0xf) * 4, v4: true, proto: header[9], has_l4 })
            }
            6 => {
                let mut number = *frame.get(l3 + 6)?;
                let (mut l4, mut has_l4) = (l3 + 40, true);
                while matches!(number, 0 | 43 | 44 | 51 | 60) {
                    let header = frame.get(l4..l4 + 8)?;
                    has_l4 &= number != 44 || header[2] == 0 && header[3] & 0xf8 == 0;
                    number = header[0];
                    l4 += 8;
                }
                Some(Headers { l3, l4, v4: false, proto: number, has_l4 })
            }
            _ => None,
        }
    }
}

/// The frame with its checksums, and UDP's length, taken out.
pub fn without_checksums(frame: &[u8]) -> Vec<u8> {
    let mut out = frame.to_vec();
    let Some(headers) = Headers::of(frame) else { return out };
    let mut clear = |at: usize, n: usize| {
        if let Some(field) = out.get_mut(at..at + n) {
            field.fill(0);
        }
    };
    if headers.v4 {
        clear(headers.l3 + 10, 2);
    }
    if let (true, Some(at)) = (headers.has_l4, Headers::checksum_of(headers.proto)) {
        clear(headers.l4 + at, 2);
        if headers.proto == proto::UDP {
            clear(headers.l4 + 4, 2);
        }
    }
    out
}
