//! Mutations of a pcapng file, block by block.

use crate::mutator::{Dice, bytes, datagram, list};

/// A pcapng file's blocks, changed in one place. What does not look like a file with the machine's own byte order is left to
/// libFuzzer.
pub fn file(data: &mut Vec<u8>, dice: &mut Dice) {
    let mut blocks = Vec::new();
    let mut rest = &data[..];
    while let Some(&[k0, k1, k2, k3, l0, l1, l2, l3]) = rest.first_chunk::<8>() {
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        if length < 12 || length > rest.len() || !length.is_multiple_of(4) {
            break;
        }
        blocks.push((u32::from_ne_bytes([k0, k1, k2, k3]), rest[8..length - 4].to_vec()));
        rest = &rest[length..];
    }
    if blocks.is_empty() {
        return bytes(data);
    }
    list(&mut blocks, dice, |(kind, body), dice| match (*kind, dice.below(8)) {
        (_, 0) => *kind = [0x0a0d_0d0a, 1, 2, 3, 4, 5, 6][dice.below(7)],
        (6, 1..=5) => packet(body, dice),
        _ => bytes(body),
    });
    data.clear();
    for (kind, body) in &blocks {
        let length = (12 + body.len().next_multiple_of(4)) as u32;
        data.extend(kind.to_ne_bytes());
        data.extend(length.to_ne_bytes());
        data.extend(body);
        data.resize(data.len().next_multiple_of(4), 0);
        data.extend(length.to_ne_bytes());
    }
}

/// The packet in a block of one (interface, time, lengths; packet; options).
fn packet(body: &mut Vec<u8>, dice: &mut Dice) {
    let Some(&[c0, c1, c2, c3]) = body.get(12..16).and_then(|b| b.first_chunk()) else { return bytes(body) };
    let captured = u32::from_ne_bytes([c0, c1, c2, c3]) as usize;
    let Some(packet) = body.get(20..20 + captured) else { return bytes(body) };
    // Behind the sixteen bytes of LINKTYPE_NETLINK's header, if it is that.
    let (mut packet, options) = (packet.to_vec(), body.get(20 + captured.next_multiple_of(4)..).map(<[u8]>::to_vec));
    if packet.len() > 32 && dice.below(8) > 0 {
        let mut messages = packet.split_off(16);
        datagram(&mut messages, dice);
        packet.extend(messages);
    } else {
        bytes(&mut packet);
    }
    let size = (packet.len() as u32).to_ne_bytes();
    body.truncate(12);
    body.extend([size, size].concat());
    body.extend(&packet);
    body.resize(body.len().next_multiple_of(4), 0);
    body.extend(options.unwrap_or_default());
}
