//! A merged filter's actions on a frame's bytes, as a piece of hardware would execute them.
//!
//! The frame comes and goes as on the wire, its VLAN tags in the bytes. In between the outermost tag is kept apart, as
//! Linux keeps it (`skb->vlan_tci`), so that `vlan` and offsets from the Ethernet header mean what they mean in TC. The
//! network header lies behind all tags. Actions run in order, and a mirror sends the frame as it is at that point.
//!
//! What conntrack would do to the bytes is said in the merged filter's own terms: a translation is a `pedit` that mends
//! checksums ([`Pedit::mend`](crate::flower::action::Pedit)), and the cut behind the IP datagram that `ct` makes is asked
//! for by [`Trim`].

mod checksum;
mod headers;
mod pedit;

use crate::flower::{
    Action, ActionKind, Control, Lacking, Port, Tunnel,
    action::{Mpls, MplsEntry, TunnelKey, Vlan},
    capabilities::needed,
    ethertype::{is_mpls, is_vlan},
};
use headers::{ETHERNET, Network};

/// A frame that left the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The port.
    pub port: Port,
    /// Into the port, rather than out of it.
    pub ingress: bool,
    /// The frame as on the wire, from the Ethernet header, without check sequence.
    pub frame: Vec<u8>,
    /// The tunnel that it came through, or is to go through: of that, a tunnel device makes something.
    pub tunnel: Option<Tunnel>,
}

/// What became of the packet itself at the end of the actions; copies are in [`Applied::sent`] in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Redirected, or otherwise consumed.
    Taken,
    /// Dropped, by a `drop` or by an action that drops what it cannot do (`csum` of a cut-off packet).
    Dropped,
    /// Goes on to the CPU's stack, as this frame.
    Passed(Vec<u8>),
    /// Trapped to the CPU, as this frame.
    Trapped(Vec<u8>),
}

/// What the actions did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Frames sent, in order.
    pub sent: Vec<Sent>,
    /// What became of the packet.
    pub end: End,
}

/// When to cut off what follows the IP datagram, as `ct` does in software (`net/sched/act_ct.c`,
/// `tcf_ct_skb_network_trim`). Hardware may leave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Trim {
    /// Never: the way passed no `ct`.
    #[default]
    Never,
    /// Before the action with this index (from 0): `ct` stood there. What was sent earlier is sent in full length.
    Before(usize),
}

/// Executes the actions on a frame.
///
/// # Errors
/// An action that a merged filter cannot hold ([`needed`]), whatever the frame; nothing is sent then.
pub fn apply(actions: &[Action], trim: Trim, frame: &[u8]) -> Result<Applied, Lacking> {
    apply_through(actions, trim, frame, None)
}

/// The same for a frame that a tunnel device took out of an outer packet.
///
/// # Errors
/// As [`apply`].
pub fn apply_through(
    actions: &[Action],
    trim: Trim,
    frame: &[u8],
    tunnel: Option<&Tunnel>,
) -> Result<Applied, Lacking> {
    for (index, action) in actions.iter().enumerate() {
        needed(index, action)?;
    }
    let mut packet = Packet::arrived(frame);
    let mut sent = Vec::new();
    let mut tunnel = tunnel.cloned();
    for (index, action) in actions.iter().enumerate() {
        if trim == Trim::Before(index) {
            packet.trim();
        }
        let done = match &action.kind {
            ActionKind::Mirred(mirred) => {
                let (port, ingress, tunnel) = (mirred.port, mirred.ingress, tunnel.clone());
                sent.push(Sent { port, ingress, frame: packet.frame(), tunnel });
                true
            }
            ActionKind::Pedit(p) => {
                // A key that fails ends the action, not the packet.
                if let Some(network) = packet.network {
                    pedit::rewrite(&mut packet.bytes, network, p);
                }
                true
            }
            ActionKind::Csum(flags) => {
                packet.network.is_some_and(|network| checksum::recompute(&mut packet.bytes, network, *flags))
            }
            ActionKind::Vlan(vlan) => packet.vlan(*vlan),
            ActionKind::Mpls(mpls) => packet.mpls(*mpls),
            ActionKind::TunnelKey(TunnelKey::Set(to)) => {
                tunnel = Some((**to).clone());
                true
            }
            ActionKind::TunnelKey(TunnelKey::Unset) => {
                tunnel = None;
                true
            }
            _ => true,
        };
        let end = match action.control {
            _ if !done => End::Dropped,
            // What exceeds is none of ours to tell.
            _ if matches!(action.kind, ActionKind::Police(_)) => continue,
            Control::Pipe => continue,
            Control::Ok => End::Passed(packet.frame()),
            Control::Trap => End::Trapped(packet.frame()),
            Control::Stolen | Control::Queued => End::Taken,
            // `needed` let nothing else through.
            _ => End::Dropped,
        };
        return Ok(Applied { sent, end });
    }
    if trim == Trim::Before(actions.len()) {
        packet.trim();
    }
    let end = End::Passed(packet.frame());
    Ok(Applied { sent, end })
}

/// A frame whose outermost VLAN tag is kept apart.
struct Packet {
    /// The frame without its outermost tag.
    bytes: Vec<u8>,
    /// The outermost tag: its ethertype and its content.
    tag: Option<(u16, u16)>,
    /// The network header, behind all tags that are in the bytes; `None` if the frame ends before.
    network: Option<Network>,
}

impl Packet {
    fn arrived(frame: &[u8]) -> Packet {
        let mut packet = Packet { bytes: frame.to_vec(), tag: None, network: headers::network(frame) };
        packet.take_tag();
        packet
    }

    /// Moves a tag that stands first in the bytes out of them.
    fn take_tag(&mut self) {
        let tags = self.network.is_none_or(|network| network.at > ETHERNET);
        if tags
            && let Some(&[a, b, c, d]) = self.bytes.get(12..16)
            && is_vlan(u16::from_be_bytes([a, b]))
            && self.bytes.len() >= ETHERNET + 4
        {
            self.tag = Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])));
            self.bytes.drain(12..16);
            self.network = self.network.map(|network| Network { at: network.at - 4, ..network });
        }
    }

    /// The frame as on the wire.
    fn frame(&self) -> Vec<u8> {
        let mut frame = self.bytes.clone();
        if let Some(tag) = self.tag {
            insert_tag(&mut frame, tag);
        }
        frame
    }

    /// `net/sched/act_vlan.c`, `tcf_vlan_act`: pop and modify leave an untagged packet alone. False if it is dropped.
    fn vlan(&mut self, vlan: Vlan) -> bool {
        match vlan {
            Vlan::Pop => {
                self.tag = None;
                self.take_tag();
            }
            Vlan::Push { protocol, id, prio } => {
                if let Some(tag) = self.tag.replace((protocol, id | (prio as u16) << 13)) {
                    insert_tag(&mut self.bytes, tag);
                    self.network = self.network.map(|network| Network { at: network.at + 4, ..network });
                }
            }
            Vlan::Modify { protocol, id, prio } => {
                if let Some((tpid, tci)) = &mut self.tag {
                    *tpid = protocol;
                    *tci = *tci & !0x0fff | id;
                    if let Some(prio) = prio {
                        *tci = *tci & 0x1fff | (prio as u16) << 13;
                    }
                }
            }
            Vlan::PopEthernet => {
                let Some(network) = self.network.filter(|n| n.at == ETHERNET && self.tag.is_none()) else {
                    return false;
                };
                self.bytes.drain(..ETHERNET);
                self.network = Some(Network { at: 0, ..network });
            }
            Vlan::PushEthernet { dst, src } => {
                let Some(network) = self.network.filter(|n| n.at == 0 && self.tag.is_none()) else {
                    return false;
                };
                let header = [&dst[..], &src, &network.ethertype.to_be_bytes()].concat();
                self.bytes.splice(..0, header);
                self.network = Some(Network { at: ETHERNET, ..network });
            }
        }
        true
    }

    /// `net/sched/act_mpls.c`, `tcf_mpls_act`: pop leaves alone what is not MPLS, the others drop it.
    fn mpls(&mut self, mpls: Mpls) -> bool {
        let Some(Network { at, ethertype }) = self.network else { return false };
        let entry = self.bytes.get(at..).and_then(|b| b.first_chunk()).copied().map(u32::from_be_bytes);
        let entry = entry.filter(|_| is_mpls(ethertype));
        let (protocol, changed) = match (mpls, entry) {
            (Mpls::Push { protocol, entry }, _) => {
                let bottom = entry.bos.unwrap_or(!is_mpls(ethertype));
                let (_, new) = MplsEntry { bos: Some(bottom), ..entry }.write();
                self.bytes.splice(at..at, new.to_be_bytes());
                (protocol, None)
            }
            (Mpls::Pop { protocol }, Some(_)) => {
                self.bytes.drain(at..at + 4);
                (protocol, None)
            }
            (Mpls::Pop { .. }, None) => return !is_mpls(ethertype),
            (Mpls::Modify(entry), Some(old)) => {
                let (kept, written) = entry.write();
                (ethertype, Some(old & kept | written))
            }
            (Mpls::DecTtl, Some(old)) if old & 0xff != 1 => (ethertype, Some(old & !0xff | old.wrapping_sub(1) & 0xff)),
            (Mpls::Modify(_) | Mpls::DecTtl | Mpls::PushMac { .. }, _) => return false,
        };
        match changed {
            Some(entry) => self.bytes[at..at + 4].copy_from_slice(&entry.to_be_bytes()),
            // Without an Ethernet header there is no ethertype.
            None if at < ETHERNET => {}
            None => self.bytes[at - 2..at].copy_from_slice(&protocol.to_be_bytes()),
        }
        self.network = Some(Network { at, ethertype: protocol });
        true
    }

    /// Cuts off what follows the IP datagram.
    fn trim(&mut self) {
        if let Some(network) = self.network
            && let Some(length) = network.datagram_length(&self.bytes)
        {
            self.bytes.truncate(network.at + length);
        }
    }
}

fn insert_tag(frame: &mut Vec<u8>, (tpid, tci): (u16, u16)) {
    if frame.len() >= 12 {
        let [a, b] = tpid.to_be_bytes();
        let [c, d] = tci.to_be_bytes();
        frame.splice(12..12, [a, b, c, d]);
    }
}

#[cfg(test)]
mod tests;
