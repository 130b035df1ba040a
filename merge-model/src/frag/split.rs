//! Cutting a reassembled packet into fragments again (`net/sched/sch_frag.c`, `ip_do_fragment`, `ip6_fragment`).
//!
//! No fragment is larger than the largest that came in, or than the port sends. While the buffer still is the list of what
//! came in, it falls apart where it was put together; once copied or made one piece, it is cut into the largest pieces.

use crate::{
    act::extension,
    bytes::{array, put},
    checksum::ipv4_header,
    skb::Skb,
};
use flowmerge::packet::dissect::ethertype;
/// The longest link header that the kernel keeps over fragmentation.
const LINK: usize = 18;

/// The smallest packet that any IPv6 link carries.
const IPV6_MTU: usize = 1280;

/// The fragments of `skb`, whose data start at its link header; `None` if it is dropped instead.
pub(crate) fn split(skb: &Skb, mtu: usize) -> Option<Vec<Skb>> {
    if skb.network > LINK {
        return None;
    }
    match skb.inner_protocol() {
        ethertype::IPV4 => split_ipv4(skb, mtu),
        ethertype::IPV6 => split_ipv6(skb, mtu),
        _ => None,
    }
}

/// Lengths of the payloads of the fragments. What the first piece has besides, headers that are cut off, too, belongs to it.
fn lengths(skb: &Skb, payload: usize, room: usize) -> Vec<usize> {
    let mut pieces = skb.pieces.clone().unwrap_or_default();
    let besides = payload.checked_sub(pieces.iter().sum());
    if let (Some(first), Some(besides)) = (pieces.first_mut(), besides) {
        *first += besides;
    }
    if besides.is_some()
        && let Some((_, all_but_last)) = pieces.split_last()
        && pieces.iter().all(|&len| len <= room)
        && all_but_last.iter().all(|&len| len % 8 == 0)
    {
        return pieces;
    }
    let mut left = payload;
    std::iter::from_fn(|| {
        let len = if left > room { room & !7 } else { left };
        left -= len;
        (len > 0).then_some(len)
    })
    .collect()
}

/// What is behind `payload`, cut: where each piece stands, its bytes, and whether more follow.
fn pieces(skb: &Skb, payload: usize, room: usize) -> Option<impl Iterator<Item = (usize, &[u8], bool)>> {
    let data = skb.bytes.get(payload..)?;
    let mut offset = 0;
    Some(lengths(skb, data.len(), room).into_iter().map(move |len| {
        let at = offset;
        offset += len;
        (at, &data[at..offset], offset < data.len())
    }))
}

fn split_ipv4(skb: &Skb, mtu: usize) -> Option<Vec<Skb>> {
    let at = skb.network;
    let header: [u8; 20] = array(&skb.bytes, at)?;
    let payload = at + usize::from(header[0] & 0xf) * 4;
    let room = mtu.min(skb.mru).checked_sub(payload - at)?;
    if room < 8 {
        return None;
    }
    let mut cuts = Vec::new();
    for (offset, piece, more) in pieces(skb, payload, room)? {
        let mut bytes = skb.bytes.get(..payload)?.to_vec();
        bytes.extend_from_slice(piece);
        let total = (bytes.len() - at) as u16;
        let field = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
        put(&mut bytes, at + 2, &total.to_be_bytes())?;
        put(&mut bytes, at + 6, &field.to_be_bytes())?;
        ipv4_header(&mut bytes, at);
        cuts.push(Skb { bytes, pieces: None, ..skb.clone() });
    }
    Some(cuts)
}

fn split_ipv6(skb: &Skb, mtu: usize) -> Option<Vec<Skb>> {
    const HEADER: usize = 8;
    if skb.mru > mtu {
        // Too big, which the kernel tells the sender.
        return None;
    }
    let at = skb.network;
    let (announced, payload) = extension::unfragmentable(&skb.bytes, at)?;
    let room = skb.mru.max(IPV6_MTU).checked_sub(payload - at + HEADER)?;
    if room < 8 {
        return None;
    }
    let number = *skb.bytes.get(announced)?;
    let mut cuts = Vec::new();
    for (offset, piece, more) in pieces(skb, payload, room)? {
        let mut bytes = skb.bytes.get(..payload)?.to_vec();
        *bytes.get_mut(announced)? = 44;
        let [high, low] = (offset as u16 | u16::from(more)).to_be_bytes();
        bytes.extend_from_slice(&[number, 0, high, low, 0, 0, 0, 0]);
        bytes.extend_from_slice(piece);
        let total = (bytes.len() - at - 40) as u16;
        put(&mut bytes, at + 4, &total.to_be_bytes())?;
        // The identification is the kernel's own.
        cuts.push(Skb { bytes, pieces: None, random: Some(payload + 4 - at), ..skb.clone() });
    }
    Some(cuts)
}
