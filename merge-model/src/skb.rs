//! The packet buffer, with all of the kernel's state about it that TC reads: `struct sk_buff` and its control block.
//!
//! The quirks are the point. TC at ingress works on a buffer whose outer VLAN tag is not in the bytes (`skb_vlan_untag`), whose
//! data start behind the Ethernet header, and whose network offset, header length and protocol are moved by some actions
//! and not by others (`net/core/skbuff.c`, `skb_vlan_push`, `skb_vlan_pop`). Later matches and actions read what is left.

use crate::{
    bytes::be16,
    checksum::{fold, sum},
    conntrack::{EntryId, Info},
};
use flowmerge::{
    flower::{Port, Tunnel, action::Vlan},
    packet::dissect::{ETHERNET, Tag, VLAN, View, is_vlan, protocol_of},
};

/// A packet in TC.
#[derive(Clone, Debug)]
pub struct Skb {
    /// The bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Where the data start: behind the Ethernet header at ingress, at it at egress.
    pub data: usize,
    /// Where the network header starts.
    pub network: usize,
    /// Length of the link header as it was taken last (`mac_len`).
    pub mac_len: usize,
    /// Ethertype of the bytes, not counting the accelerated tag (`skb->protocol`).
    pub protocol: u16,
    /// The accelerated tag.
    pub tag: Option<Tag>,
    /// The length that counters see (`qdisc_skb_cb(skb)->pkt_len`).
    pub pkt_len: usize,
    /// Whether it is at an ingress hook.
    pub at_ingress: bool,
    /// The device it is at.
    pub device: Port,
    /// The device it came from (`skb_iif`), flower's `indev`.
    pub iif: Port,
    /// What a tunnel device took off it, or `tunnel_key` put on (`skb_dst`, where that is metadata of a tunnel).
    pub tunnel: Option<Tunnel>,
    /// Connection and the packet's standing to it.
    pub ct: Option<(EntryId, Info)>,
    /// Conntrack was told to leave it alone, or had its connection taken away (`IP_CT_UNTRACKED`).
    pub untracked: bool,
    /// Whether a `ct` action ran here.
    pub post_ct: bool,
    /// Its zone.
    pub zone: u16,
    /// What is known of the bytes' checksum.
    pub summed: Summed,
    /// The largest fragment that a reassembled packet came in (`mru`), 0 for others.
    pub mru: usize,
    /// Lengths of the fragments' payloads, while the buffer still is a list of them. The first holds all headers, too.
    pub pieces: Option<Vec<usize>>,
    /// Where the kernel has put a number at random, of four bytes: from the network header on.
    pub random: Option<usize>,
}

/// What is known of the checksum of a packet's bytes (`skb->ip_summed`). Conntrack, which verifies checksums, goes by it in a
/// second zone: a `pedit` in between, which tells nobody, leaves the packet as sound as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Summed {
    /// Nothing (`CHECKSUM_NONE`).
    No,
    /// The sum of the IP packet (`CHECKSUM_COMPLETE`), or what was right before an edit.
    Sum(u64),
    /// It was found right (`CHECKSUM_UNNECESSARY`).
    Right,
}

impl Summed {
    /// The IP packet became another, and the kernel keeps account of that.
    pub fn keep(&mut self, before: &[u8], after: &[u8]) {
        if let Summed::Sum(total) = self {
            *total = u64::from(!fold(*total + u64::from(fold(sum(before, 0))) + sum(after, 0)));
        }
    }
}

/// An operation that the kernel refuses on this packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl Skb {
    /// A frame from the wire, as a driver hands it up; `None` if it has no whole Ethernet header.
    pub fn from_wire(port: Port, frame: &[u8]) -> Option<Skb> {
        let behind = frame.get(ETHERNET..ETHERNET + 2).map(|b| [b[0], b[1]]);
        Some(Skb {
            bytes: frame.to_vec(),
            data: ETHERNET,
            network: ETHERNET,
            mac_len: ETHERNET,
            protocol: protocol_of(be16(frame, 12)?, behind),
            tag: None,
            pkt_len: 0,
            at_ingress: true,
            device: port,
            iif: port,
            tunnel: None,
            ct: None,
            untracked: false,
            post_ct: false,
            zone: 0,
            summed: Summed::No,
            mru: 0,
            pieces: None,
            random: None,
        })
        .filter(|_| frame.len() >= ETHERNET)
    }

    /// A frame without its tags, the data at its network header: as OVS's own datapath shows it to conntrack.
    pub(crate) fn untagged(frame: &[u8]) -> Option<Skb> {
        let mut skb = Skb::from_wire(Port(0), frame)?;
        while is_vlan(skb.protocol) {
            skb.receive().ok()?;
            skb.tag = None;
        }
        Some(skb)
    }

    /// Bytes from the data pointer on (`skb->len`).
    pub fn len(&self) -> usize {
        self.bytes.len().saturating_sub(self.data)
    }

    /// Bytes up to `end` become one piece (`pskb_may_pull`): what the first fragment lacks comes from those behind it.
    pub fn pull(&mut self, end: usize) {
        let Some(pieces) = &mut self.pieces else { return };
        let payload = self.bytes.len().saturating_sub(pieces.iter().sum());
        let wanted = end.min(self.bytes.len()).saturating_sub(payload);
        let mut lacks = wanted.saturating_sub(pieces.first().copied().unwrap_or(0));
        if lacks == 0 {
            return;
        }
        if let Some((head, rest)) = pieces.split_first_mut() {
            *head += lacks;
            for piece in rest {
                let taken = lacks.min(*piece);
                *piece -= taken;
                lacks -= taken;
            }
        }
        pieces.retain(|&length| length > 0);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The data.
    pub fn packet(&self) -> &[u8] {
        self.bytes.get(self.data..).unwrap_or_default()
    }

    /// For the dissector.
    pub fn view(&self) -> View<'_> {
        View { bytes: &self.bytes, tag: self.tag, protocol: self.protocol, network: self.network }
    }

    /// `skb_protocol(skb, false)`.
    pub fn outer_protocol(&self) -> u16 {
        self.view().outer_protocol()
    }

    /// `skb_protocol(skb, true)`: the protocol behind all tags, as the kernel looks for it. Tags in the bytes are looked for
    /// at `mac_len - 4` counted from the *data*, so at ingress the kernel misses them and reads what is there; 0 if nothing.
    pub fn inner_protocol(&self) -> u16 {
        let mut protocol = self.protocol;
        if !is_vlan(protocol) {
            return protocol;
        }
        let mut depth = match self.mac_len {
            0 => ETHERNET,
            1..VLAN => return 0,
            len => len - VLAN,
        };
        // VLAN_MAX_DEPTH
        for _ in 0..7 {
            match be16(&self.bytes, self.data + depth + 2) {
                Some(behind) => protocol = behind,
                None => return 0,
            }
            depth += VLAN;
            if !is_vlan(protocol) {
                return protocol;
            }
        }
        0
    }

    /// What a device's receive path does before TC (`__netif_receive_skb_core`): the network header is where the data are,
    /// and an outer tag leaves the bytes. Refused where the kernel drops it: too little behind the tag.
    pub fn receive(&mut self) -> Result<(), Refused> {
        self.iif = self.device;
        self.network = self.data;
        self.mac_len = self.data;
        if self.tag.is_some() || !is_vlan(self.protocol) {
            return Ok(());
        }
        if self.len() < VLAN + 2 {
            return Err(Refused);
        }
        let tci = be16(&self.bytes, self.data).ok_or(Refused)?;
        self.tag = Some(Tag { protocol: self.protocol, tci });
        self.take_protocol(self.data + 2);
        // The addresses move up to the data; without a link header there is nothing to move.
        let from = self.data.checked_sub(2).filter(|&at| at > 0).unwrap_or(0);
        self.bytes.drain(from..from + VLAN);
        self.network = self.data;
        self.mac_len = self.data;
        Ok(())
    }

    /// `vlan_set_encap_proto`: takes the protocol that stands at `at`.
    fn take_protocol(&mut self, at: usize) {
        let behind = self.bytes.get(at + 2..at + 4).map(|b| [b[0], b[1]]);
        if let Some(said) = be16(&self.bytes, at) {
            self.protocol = protocol_of(said, behind);
        }
    }

    /// The frame as it goes on the wire: from the data on, the tag put back.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = self.packet().to_vec();
        if let Some(tag) = self.tag {
            insert_tag(&mut frame, tag);
        }
        frame
    }

    /// The frame as a receiver at the device's ingress sees it: from the Ethernet header on.
    pub fn received_frame(&self) -> Vec<u8> {
        Skb { data: 0, ..self.clone() }.frame()
    }

    /// Makes the data the start of the link header (`skb_reset_mac_header`).
    pub fn reset_mac(&mut self) {
        self.bytes.drain(..self.data.min(self.bytes.len()));
        self.network = self.network.saturating_sub(self.data);
        self.data = 0;
    }

    /// The `vlan` action's work (`tcf_vlan_act`), on a buffer at ingress or egress.
    pub fn vlan(&mut self, vlan: &Vlan) -> Result<(), Refused> {
        if self.at_ingress {
            self.data = self.data.checked_sub(self.mac_len).ok_or(Refused)?;
        }
        let done = match *vlan {
            Vlan::Pop => self.vlan_pop(),
            Vlan::Push { protocol, id, prio } => {
                self.vlan_push(Tag { protocol, tci: u16::from(prio) << 13 | id & 0x0fff })
            }
            Vlan::Modify { protocol, id, prio } => self.vlan_modify(protocol, id, prio),
            Vlan::PopEthernet => self.ethernet_pop(),
            Vlan::PushEthernet { dst, src } => self.ethernet_push(dst, src),
        };
        if self.at_ingress {
            self.data += self.mac_len;
        }
        done
    }

    fn vlan_push(&mut self, tag: Tag) -> Result<(), Refused> {
        if let Some(old) = self.tag {
            if self.data != 0 || self.bytes.len() < ETHERNET {
                return Err(Refused);
            }
            // The old tag goes into the bytes. The network header stays with its bytes, and the data will start behind
            // the tag: whoever reads the tag from the network offset reads the header behind it.
            insert_tag(&mut self.bytes, old);
            self.network += VLAN;
            self.mac_len += VLAN;
            self.protocol = old.protocol;
        }
        self.tag = Some(tag);
        Ok(())
    }

    fn vlan_pop(&mut self) -> Result<(), Refused> {
        if self.tag.take().is_none() {
            if !is_vlan(self.protocol) {
                return Ok(());
            }
            self.take_tag()?;
        }
        if is_vlan(self.protocol) {
            let protocol = self.protocol;
            let tci = self.take_tag()?;
            self.tag = Some(Tag { protocol, tci });
        }
        Ok(())
    }

    fn vlan_modify(&mut self, protocol: u16, id: u16, prio: Option<u8>) -> Result<(), Refused> {
        let tci = match self.tag.take() {
            Some(tag) => tag.tci,
            None if is_vlan(self.protocol) => self.take_tag()?,
            None => return Ok(()),
        };
        let mut tci = tci & !0x0fff | id;
        if let Some(prio) = prio {
            tci = tci & 0x1fff | u16::from(prio) << 13;
        }
        self.tag = Some(Tag { protocol, tci });
        Ok(())
    }

    /// `__skb_vlan_pop`: takes the outermost tag out of the bytes.
    fn take_tag(&mut self) -> Result<u16, Refused> {
        if self.data != 0 || self.bytes.len() < ETHERNET + VLAN {
            return Err(Refused);
        }
        let tci = be16(&self.bytes, ETHERNET).ok_or(Refused)?;
        self.take_protocol(ETHERNET + 2);
        self.bytes.drain(12..12 + VLAN);
        self.network = self.network.saturating_sub(VLAN).max(ETHERNET);
        self.mac_len = self.network;
        Ok(tci)
    }

    fn ethernet_pop(&mut self) -> Result<(), Refused> {
        let tagged = self.tag.is_some() || is_vlan(self.protocol);
        if self.len() < ETHERNET || tagged || self.network < self.data + ETHERNET {
            return Err(Refused);
        }
        self.data += ETHERNET;
        self.reset_mac();
        self.mac_len = self.network;
        Ok(())
    }

    fn ethernet_push(&mut self, dst: [u8; 6], src: [u8; 6]) -> Result<(), Refused> {
        if self.network != self.data || self.tag.is_some() {
            return Err(Refused);
        }
        self.reset_mac();
        let header = [&dst[..], &src, &self.protocol.to_be_bytes()].concat();
        self.bytes.splice(..0, header);
        self.network += ETHERNET;
        self.mac_len = self.network;
        Ok(())
    }
}

/// Puts a tag behind the addresses.
pub(crate) fn insert_tag(frame: &mut Vec<u8>, tag: Tag) {
    let at = frame.len().min(12);
    let [p, q] = tag.protocol.to_be_bytes();
    let [r, s] = tag.tci.to_be_bytes();
    frame.splice(at..at, [p, q, r, s]);
}
