//! Reassembly (`net/ipv4/ip_fragment.c`, `net/ipv6/netfilter/nf_conntrack_reasm.c`, `net/ipv4/inet_fragment.c`).
//!
//! The packet that comes out has the first fragment's buffer, link header and tag included, and remembers the largest
//! fragment, so that it is not sent in larger ones.

use crate::{
    act::extension,
    bytes::{array, be16, put},
    checksum::ipv4_header,
    skb::Skb,
};
use std::{collections::HashMap, net::IpAddr};

/// How long fragments wait for the rest, in nanoseconds: 30 s for IPv4, 60 s for IPv6.
const TIMEOUT: [u64; 2] = [30_000_000_000, 60_000_000_000];

/// The largest IP packet, and the largest payload of an IPv6 one.
const LARGEST: usize = 65535;

/// All fragments that wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reassembly {
    queues: HashMap<Name, Queue>,
}

/// What fragments of one packet share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Name {
    zone: u16,
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    /// IPv4 only.
    proto: u8,
    /// For IPv6 multicast and link-local addresses.
    device: u32,
}

/// What became of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gathered {
    /// The packet is whole; or it is a fragment that reassembly will not take, and passes as it is.
    Whole,
    /// Kept.
    Held,
    /// Thrown away.
    Discarded,
}

/// The fragments of one packet.
#[derive(Clone, Debug, Default)]
struct Queue {
    fragments: Vec<Fragment>,
    /// Where the last byte that was seen ends; with `last`, the packet.
    end: usize,
    last: bool,
    /// The largest fragment, and the largest of those that must not be cut.
    largest: usize,
    largest_df: usize,
    /// One bit for each codepoint of congestion notification that was seen.
    ecn: u8,
    since: u64,
}

#[derive(Clone, Debug)]
struct Fragment {
    offset: usize,
    end: usize,
    skb: Skb,
    /// Where its payload starts in the buffer, and for IPv6 the place of the number that announces the fragment header.
    payload: usize,
    announced: usize,
}

/// Why a fragment does not go into its queue.
enum Misfit {
    /// It is there already.
    Duplicate,
    /// It is thrown away, and the queue with it.
    Kill,
    /// It is thrown away.
    Refuse,
}

impl Reassembly {
    /// Takes a fragment whose data start at its network header; `skb` is the whole packet if it is.
    pub(crate) fn gather(&mut self, skb: &mut Skb, zone: u16, ipv6: bool, now: u64) -> Gathered {
        let timeout = TIMEOUT[usize::from(ipv6)];
        let gathered = match ipv6 {
            false => self.gather_ipv4(skb, zone, now, timeout),
            true => self.gather_ipv6(skb, zone, now, timeout),
        };
        gathered.unwrap_or(Gathered::Discarded)
    }

    fn queue(&mut self, name: Name, now: u64, timeout: u64) -> &mut Queue {
        let fresh = Queue { since: now, ..Queue::default() };
        let queue = self.queues.entry(name).or_insert_with(|| fresh.clone());
        if now.saturating_sub(queue.since) >= timeout {
            *queue = fresh;
        }
        queue
    }

    fn gather_ipv4(&mut self, skb: &mut Skb, zone: u16, now: u64, timeout: u64) -> Option<Gathered> {
        let header: [u8; 20] = array(&skb.bytes, skb.data)?;
        let len = usize::from(header[0] & 0xf) * 4;
        let field = be16(&header, 6)?;
        let name = Name {
            zone,
            src: array::<4>(&header, 12)?.into(),
            dst: array::<4>(&header, 16)?.into(),
            id: be16(&header, 4)?.into(),
            proto: header[9],
            device: 0,
        };
        let queue = self.queue(name, now, timeout);
        let offset = usize::from(field & 0x1fff) * 8;
        let more = field & 0x2000 != 0;
        // The fragment ends with the buffer: it is cut to its IP length only afterwards.
        let mut end = (offset + skb.len()).checked_sub(len).unwrap_or(offset);
        if more {
            end &= !7;
        }
        let payload = skb.data + len;
        let done = queue.note_end(end, more).and_then(|()| {
            if end <= offset || payload > skb.bytes.len() {
                return Err(Misfit::Kill);
            }
            let mut skb = skb.clone();
            skb.bytes.truncate(payload + end - offset);
            queue.insert(Fragment { offset, end, skb, payload, announced: 0 })
        });
        match done {
            Ok(()) => {}
            Err(Misfit::Duplicate | Misfit::Refuse) => return Some(Gathered::Discarded),
            Err(Misfit::Kill) => {
                self.queues.remove(&name);
                return Some(Gathered::Discarded);
            }
        }
        queue.ecn |= 1 << (header[1] & 3);
        let size = end - offset + len;
        queue.largest = queue.largest.max(size);
        if field & 0x4000 != 0 {
            queue.largest_df = queue.largest_df.max(size);
        }
        if !queue.is_whole() {
            return Some(Gathered::Held);
        }
        let queue = self.queues.remove(&name)?;
        become_whole(skb, queue.into_ipv4()?);
        Some(Gathered::Whole)
    }

    fn gather_ipv6(&mut self, skb: &mut Skb, zone: u16, now: u64, timeout: u64) -> Option<Gathered> {
        let header: [u8; 40] = array(&skb.bytes, skb.data)?;
        let payload_len = usize::from(be16(&header, 4)?);
        let headers = extension::fragment_header(&skb.bytes, skb.network);
        // Reassembly leaves alone: a jumbo packet, no fragment header, one whose upper headers are cut.
        let (announced, at) = match headers {
            Some(found) if payload_len > 0 => found,
            _ => return Some(Gathered::Whole),
        };
        if extension::is_truncated(&skb.bytes, at) {
            return Some(Gathered::Whole);
        }
        let fragment: [u8; 8] = array(&skb.bytes, at)?;
        let src = array::<16>(&header, 8)?;
        let dst = array::<16>(&header, 24)?;
        let on_link = dst[0] == 0xff || dst[0] == 0xfe && dst[1] & 0xc0 == 0x80;
        let name = Name {
            zone,
            src: src.into(),
            dst: dst.into(),
            id: crate::bytes::be32(&fragment, 4)?,
            proto: 0,
            device: if on_link { skb.device.0 } else { 0 },
        };
        let queue = self.queue(name, now, timeout);
        let field = be16(&fragment, 2)?;
        let offset = usize::from(field & !7);
        let more = field & 1 != 0;
        let payload = at + 8;
        let end = (offset + payload_len).checked_sub(payload - skb.data - 40)?;
        if end > LARGEST {
            return Some(Gathered::Discarded);
        }
        if more && end % 8 != 0 {
            self.queues.remove(&name);
            return Some(Gathered::Whole);
        }
        // A packet that ends too early or too late is refused; only an overlap ends the queue.
        let noted = queue.note_end(end, more).map_err(|_| Misfit::Refuse);
        let done = noted.and_then(|()| {
            if end <= offset || payload > skb.bytes.len() {
                return Err(Misfit::Refuse);
            }
            let mut skb = skb.clone();
            skb.bytes.truncate(payload + end - offset);
            queue.insert(Fragment { offset, end: offset + skb.bytes.len() - payload, skb, payload, announced })
        });
        match done {
            Ok(()) => {}
            Err(Misfit::Duplicate) => return Some(Gathered::Held),
            Err(Misfit::Kill) => {
                self.queues.remove(&name);
                return Some(Gathered::Discarded);
            }
            Err(Misfit::Refuse) => return Some(Gathered::Discarded),
        }
        queue.ecn |= 1 << (be16(&header, 0)? >> 4 & 3);
        queue.largest = queue.largest.max(payload_len);
        if !queue.is_whole() {
            return Some(Gathered::Held);
        }
        let queue = self.queues.remove(&name)?;
        match queue.into_ipv6() {
            Some(whole) => {
                become_whole(skb, whole);
                Some(Gathered::Whole)
            }
            // It has gone, but the kernel says that it is in progress.
            None => Some(Gathered::Held),
        }
    }
}

/// The packet goes on in the first fragment's buffer, at the place and with the memory of the one that came last.
fn become_whole(skb: &mut Skb, whole: Skb) {
    *skb = Skb { device: skb.device, tunnel: skb.tunnel.take(), post_ct: skb.post_ct, zone: skb.zone, ..whole };
}

impl Queue {
    /// Whether where this fragment ends agrees with what is known of the packet's end.
    fn note_end(&mut self, end: usize, more: bool) -> Result<(), Misfit> {
        let wrong = match more {
            false => end < self.end || self.last && end != self.end,
            true => end > self.end && self.last,
        };
        if wrong {
            return Err(Misfit::Kill);
        }
        self.last |= !more;
        self.end = self.end.max(end);
        Ok(())
    }

    /// `inet_frag_queue_insert`: fragments must not overlap; one that lies wholly in what is there is a duplicate.
    fn insert(&mut self, fragment: Fragment) -> Result<(), Misfit> {
        let at = self.fragments.partition_point(|f| f.end <= fragment.offset);
        if self.fragments.get(at).is_none_or(|next| fragment.end <= next.offset) {
            self.fragments.insert(at, fragment);
            return Ok(());
        }
        let runs = self.fragments[at..].iter().scan(self.fragments[at].offset, |to, f| {
            (f.offset == *to).then(|| {
                *to = f.end;
                *to
            })
        });
        let covered = self.fragments[at].offset <= fragment.offset && runs.last().is_some_and(|to| fragment.end <= to);
        Err(if covered { Misfit::Duplicate } else { Misfit::Kill })
    }

    fn is_whole(&self) -> bool {
        let bytes: usize = self.fragments.iter().map(|f| f.end - f.offset).sum();
        self.last && self.fragments.first().is_some_and(|f| f.offset == 0) && bytes == self.end
    }

    /// What the packet's congestion bits gain, or `None` if fragments contradict each other (`ip_frag_ecn_table`).
    fn congestion(&self) -> Option<u8> {
        const NOT_CAPABLE: u8 = 1;
        const EXPERIENCED: u8 = 8;
        match self.ecn {
            NOT_CAPABLE | EXPERIENCED => Some(0),
            ecn if ecn & NOT_CAPABLE != 0 => None,
            ecn if ecn & EXPERIENCED != 0 => Some(3),
            _ => Some(0),
        }
    }

    /// The first fragment with the payloads of the others behind its own.
    fn join(self) -> Option<(Skb, usize, usize)> {
        let pieces: Vec<usize> = self.fragments.iter().map(|f| f.end - f.offset).collect();
        let mut fragments = self.fragments.into_iter();
        let Fragment { mut skb, payload, announced, .. } = fragments.next()?;
        for fragment in fragments {
            skb.bytes.extend_from_slice(fragment.skb.bytes.get(fragment.payload..)?);
        }
        skb.pieces = Some(pieces);
        Some((skb, payload, announced))
    }

    fn into_ipv4(self) -> Option<Skb> {
        let ecn = self.congestion()?;
        let (largest, uncut) = (self.largest.max(self.largest_df), self.largest == self.largest_df);
        let (mut skb, ..) = self.join()?;
        let len = u16::try_from(skb.len()).ok()?;
        skb.mru = largest;
        let at = skb.data;
        let tos = skb.bytes.get_mut(at + 1)?;
        *tos |= ecn;
        put(&mut skb.bytes, at + 2, &len.to_be_bytes())?;
        // Do not fragment: as the largest fragment said.
        put(&mut skb.bytes, at + 6, if uncut { &[0x40, 0] } else { &[0, 0] })?;
        ipv4_header(&mut skb.bytes, at);
        Some(skb)
    }

    fn into_ipv6(self) -> Option<Skb> {
        let ecn = self.congestion()?;
        let largest = self.largest;
        let (mut skb, payload, announced) = self.join()?;
        let header = payload.checked_sub(8)?;
        let len = skb.len().checked_sub(48).filter(|&len| len <= LARGEST)?;
        *skb.bytes.get_mut(announced)? = *skb.bytes.get(header)?;
        skb.bytes.drain(header..payload);
        skb.mru = 40 + largest;
        let at = skb.data;
        put(&mut skb.bytes, at + 4, &(len as u16).to_be_bytes())?;
        let class = skb.bytes.get_mut(at + 1)?;
        *class |= ecn << 4;
        Some(skb)
    }
}
