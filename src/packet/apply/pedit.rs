//! `pedit` on bytes, plain as TC does it (`net/sched/act_pedit.c`, `tcf_pedit_act`) or mending checksums as NAT does.

use super::{
    checksum::Mending,
    headers::{Network, Version},
};
use crate::flower::{
    action::{Pedit, PeditHeader, PeditKey},
    field::ip_proto as proto,
};

/// Rewrites the frame's words in order, up to the first key that fails; what was written before stays. A frame here has
/// its outermost VLAN tag taken off.
pub(super) fn rewrite(frame: &mut [u8], network: Network, pedit: &Pedit) {
    for key in &pedit.keys {
        let Some(at) = place(frame, network, key) else { return };
        // Looked up for each key, since a key may have moved a header.
        let mending = pedit.mend.then(|| Mending::of(frame, network)).flatten();
        // Bytes before the frame are headroom: they can be written, and nothing is seen of it.
        let byte = |i: usize| usize::try_from(at + i as isize).ok();
        let old: [u8; 4] = std::array::from_fn(|i| byte(i).map_or(0, |b| frame[b]));
        let new = word(key, old);
        for (i, value) in new.into_iter().enumerate() {
            if let Some(b) = byte(i) {
                frame[b] = value;
            }
        }
        if let (Some(mending), Ok(at)) = (mending, usize::try_from(at))
            && old != new
        {
            mending.mend(frame, at, old, new);
        }
    }
}

/// What the key makes of a word.
fn word(key: &PeditKey, old: [u8; 4]) -> [u8; 4] {
    let value = if key.add {
        let sum = u32::from_le_bytes(old).wrapping_add(u32::from_le_bytes(key.value));
        let sum = sum.to_le_bytes();
        std::array::from_fn(|i| sum[i] & !key.mask[i])
    } else {
        key.value
    };
    std::array::from_fn(|i| old[i] & key.mask[i] ^ value[i])
}

/// Where the key's word lies, from the start of the frame; less than 0 in front of it. `None` if the header is not
/// there or the word reaches beyond the end.
fn place(frame: &[u8], network: Network, key: &PeditKey) -> Option<isize> {
    let header = match key.header {
        PeditHeader::Ethernet => 0,
        PeditHeader::Network | PeditHeader::Ipv4 | PeditHeader::Ipv6 => network.at,
        PeditHeader::Tcp => transport(frame, network, proto::TCP)?,
        PeditHeader::Udp => transport(frame, network, proto::UDP)?,
    };
    let at = isize::try_from(header).ok()?.checked_add(key.offset as isize)?;
    (at + 4 <= isize::try_from(frame.len()).ok()?).then_some(at)
}

/// The transport header for `pedit`: under IPv4 what lies behind the header, of whatever protocol; under IPv6 only one
/// of that protocol.
fn transport(frame: &[u8], network: Network, proto: u8) -> Option<usize> {
    let transport = network.transport(frame)?;
    match network.version() {
        Version::V4 => Some(transport.at),
        _ if transport.proto == proto && !transport.later_fragment => Some(transport.at),
        _ => None,
    }
}
