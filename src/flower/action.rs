//! What a filter does: its actions in order, each with the control that says how to go on.
//!
//! The meanings are the kernel's (`net/sched/act_*.c`, `man tc-actions`). Addresses and ports are host integers read in
//! network order, as in the field table; `pedit` words are the four bytes as they lie in the packet.

use super::{filter::Port, tunnel::Tunnel};
use std::net::IpAddr;

/// One action of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// What it does.
    pub kind: ActionKind,
    /// How TC goes on after it.
    pub control: Control,
    /// The kernel's index of the action, unique per kind; actions shared by index share their counters.
    pub index: u32,
    /// User cookie (`TCA_ACT_COOKIE`), up to 16 bytes; OVS puts the flow's unique id here.
    pub cookie: Vec<u8>,
}

/// How TC goes on after an action (`TC_ACT_*`, `include/uapi/linux/pkt_cls.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Control {
    /// End classification, let the packet pass to the stack.
    #[default]
    Ok,
    /// Start classification again at chain 0 of the hook.
    Reclassify,
    /// End, drop.
    Shot,
    /// Go on with the next action; after the last one the packet passes.
    Pipe,
    /// The action took the packet.
    Stolen,
    /// As `Stolen`.
    Queued,
    /// Run the same action again.
    Repeat,
    /// Give the packet to the CPU's own stack of a switch; in software it is consumed.
    Trap,
    /// Go on with the next priority (`TC_ACT_UNSPEC`).
    Continue,
    /// Go on in another chain of the same hook.
    Goto(u32),
    /// Start again at the first action and skip that many.
    Jump(u32),
    /// A value that this version does not know.
    Other(i32),
}

/// What an action does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionKind {
    /// `gact`: nothing but its control; with `random` another control with some probability.
    Gact {
        /// The second control and its odds, if any.
        random: Option<Random>,
    },
    /// `mirred`: send the packet, or a copy, out of a port or into one.
    Mirred(Mirred),
    /// `ct`: conntrack.
    Ct(Ct),
    /// `pedit`: rewrite words of the packet.
    Pedit(Pedit),
    /// `csum`: compute checksums anew.
    Csum(CsumFlags),
    /// `vlan`.
    Vlan(Vlan),
    /// `skbedit`: metadata of the packet, nothing of its bytes.
    Skbedit(Skbedit),
    /// `skbmod`: the Ethernet header, or the ECN bits.
    Skbmod(Skbmod),
    /// `mpls`.
    Mpls(Mpls),
    /// `tunnel_key`.
    TunnelKey(TunnelKey),
    /// `nat`: the stateless one.
    Nat(StatelessNat),
    /// `police`.
    Police(Police),
    /// `sample`: some packets are shown to user space. Never merged.
    Sample(Sample),
    /// A kind that is decoded by name only. Never merged.
    Other(String),
}

/// `gact random`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Random {
    /// `PGACT_NETRAND` 1 or `PGACT_DETERM` 2.
    pub kind: u16,
    /// One in this many packets takes `control`.
    pub value: u16,
    /// The other control.
    pub control: Control,
}

/// `mirred`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mirred {
    /// The target.
    pub port: Port,
    /// Into the port (its ingress) instead of out of it.
    pub ingress: bool,
    /// Send a copy and go on (`mirror`), rather than the packet itself.
    pub mirror: bool,
}

/// `ct` (`net/sched/act_ct.c`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ct {
    /// Zone.
    pub zone: u16,
    /// Confirm the connection.
    pub commit: bool,
    /// Make this direction the original one.
    pub force: bool,
    /// Forget the connection.
    pub clear: bool,
    /// Mark set at commit: value, mask.
    pub mark: Option<(u32, u32)>,
    /// Labels set at commit: value, mask.
    pub labels: Option<(u128, u128)>,
    /// Translation.
    pub nat: Option<Nat>,
    /// Helper, as tc names it: `ipv4-tcp-ftp`.
    pub helper: Option<String>,
}

/// What `ct nat` may do to a new connection; an old one is translated as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// `None`: only as an existing connection asks.
    pub side: Option<NatSide>,
    /// Lowest and highest address.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// Lowest and highest port.
    pub ports: Option<(u16, u16)>,
}

/// Which end a new connection's translation changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatSide {
    /// The source.
    Src,
    /// The destination.
    Dst,
}

/// `pedit`: rewrites, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pedit {
    /// The words.
    pub keys: Vec<PeditKey>,
    /// Whether the IP and L4 checksums are mended for what changes, as NAT does. TC's own `pedit` never does; a merged
    /// filter's translation does, where the hardware can.
    pub mend: bool,
}

/// One word of a `pedit`: `word = (word & mask) ^ value`, or for `add` `(word & mask) ^ ((word + value) & !mask)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeditKey {
    /// The header that `offset` counts from.
    pub header: PeditHeader,
    /// Bytes from the start of that header.
    pub offset: i32,
    /// The bits that stay, as bytes in packet order.
    pub mask: [u8; 4],
    /// The value, as bytes in packet order.
    pub value: [u8; 4],
    /// Add instead of set; the sum is of the raw word in host (little-endian) order.
    pub add: bool,
    /// An offset read from the packet, if any.
    pub dynamic: Option<PeditDynamic>,
}

/// `at`, `offmask`, `shift` of a legacy pedit key: the offset grows by `(packet[at] & mask) >> shift`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeditDynamic {
    /// Byte read, from the header's start.
    pub at: u32,
    /// Its mask.
    pub mask: u32,
    /// Shift to the right.
    pub shift: u32,
}

/// The header that a pedit offset counts from (`enum pedit_header_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeditHeader {
    /// Legacy: the network header, whatever it is.
    Network,
    /// Ethernet.
    Ethernet,
    /// IPv4 (the kernel checks nothing: the network header).
    Ipv4,
    /// IPv6 (likewise).
    Ipv6,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

bitflags::bitflags! {
    /// Which checksums `csum` computes (`TCA_CSUM_UPDATE_FLAG_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct CsumFlags: u32 {
        /// IPv4 header.
        const IPV4 = 1;
        /// ICMP and ICMPv6.
        const ICMP = 2;
        /// IGMP.
        const IGMP = 4;
        /// TCP.
        const TCP = 8;
        /// UDP.
        const UDP = 16;
        /// UDP-Lite.
        const UDPLITE = 32;
        /// SCTP.
        const SCTP = 64;
    }
}

/// `vlan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vlan {
    /// Take the outer tag off.
    Pop,
    /// Put a tag on.
    Push {
        /// 0x8100 or 0x88a8.
        protocol: u16,
        /// Identifier.
        id: u16,
        /// Priority.
        prio: u8,
    },
    /// Change the outer tag; the priority stays where none is given.
    Modify {
        /// 0x8100 or 0x88a8.
        protocol: u16,
        /// Identifier.
        id: u16,
        /// Priority, if it changes.
        prio: Option<u8>,
    },
    /// Take the Ethernet header off.
    PopEthernet,
    /// Put an Ethernet header on.
    PushEthernet {
        /// Destination.
        dst: [u8; 6],
        /// Source.
        src: [u8; 6],
    },
}

/// `skbedit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Skbedit {
    /// Queue.
    pub queue: Option<u16>,
    /// Priority.
    pub priority: Option<u32>,
    /// Mark and its mask.
    pub mark: Option<(u32, u32)>,
    /// Packet type (`PACKET_HOST` 0, ...).
    pub ptype: Option<u16>,
    /// Inherit the priority from the DS field.
    pub inherit_dsfield: bool,
}

/// `skbmod` (`net/sched/act_skbmod.c`). The kernel does one of these at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skbmod {
    /// Writes to the Ethernet header.
    Set {
        /// Destination.
        dst: Option<[u8; 6]>,
        /// Source.
        src: Option<[u8; 6]>,
        /// Ethertype, in the bytes only: TC goes on by the one that it knows.
        ethertype: Option<u16>,
    },
    /// Source and destination change places.
    Swap,
    /// An IP packet that is capable of ECN gets "congestion experienced", its checksum mended.
    Ecn,
}

/// `mpls` (`net/sched/act_mpls.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mpls {
    /// Take the outer entry off; leaves alone what is not MPLS.
    Pop {
        /// Ethertype of what is behind it.
        protocol: u16,
    },
    /// Put an entry on, behind the Ethernet header.
    Push {
        /// 0x8847 or 0x8848.
        protocol: u16,
        /// The entry. Where the bottom of stack is not given, it is set in front of what is not MPLS.
        entry: MplsEntry,
    },
    /// Put an entry on, in front of the Ethernet header.
    PushMac {
        /// 0x8847 or 0x8848.
        protocol: u16,
        /// The entry.
        entry: MplsEntry,
    },
    /// Change the outer entry; drops what is not MPLS.
    Modify(MplsEntry),
    /// Count the TTL of the outer entry down; drops what is not MPLS, and where nothing is left of it.
    DecTtl,
}

/// What `mpls` writes to an entry; the rest stays, or is 0 in a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MplsEntry {
    /// Label, 20 bits.
    pub label: Option<u32>,
    /// Traffic class, 3 bits.
    pub tc: Option<u8>,
    /// Bottom of stack.
    pub bos: Option<bool>,
    /// TTL, not 0.
    pub ttl: Option<u8>,
}

impl MplsEntry {
    /// The bits that are kept of an entry, and those that are written.
    pub fn write(&self) -> (u32, u32) {
        let parts = [
            (self.label, 0xf_ffff, 12),
            (self.tc.map(u32::from), 7, 9),
            (self.bos.map(u32::from), 1, 8),
            (self.ttl.map(u32::from), 0xff, 0),
        ];
        parts.into_iter().fold((u32::MAX, 0), |(kept, written), (value, ones, shift)| match value {
            Some(value) => (kept & !(ones << shift), written | (value & ones) << shift),
            None => (kept, written),
        })
    }
}

/// `tunnel_key` (`net/sched/act_tunnel_key.c`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelKey {
    /// The packet is to go through this tunnel.
    Set(Box<Tunnel>),
    /// It came through none, and is to go through none (`unset`, the kernel's `RELEASE`).
    Unset,
}

/// `nat` (`net/sched/act_nat.c`): an IPv4 address that is `old` under the mask gets `new` there, checksums mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatelessNat {
    /// The address looked for.
    pub old: u32,
    /// What it becomes.
    pub new: u32,
    /// The bits compared and written.
    pub mask: u32,
    /// The source address rather than the destination.
    pub egress: bool,
}

/// `police` (`net/sched/act_police.c`). The action's control is what becomes of a packet that exceeds the rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Police {
    /// Whether it exists beside this filter, so that others may share it by index.
    pub shared: bool,
    /// What becomes of a packet that conforms.
    pub conform: Control,
    /// Bytes a second; 0 none.
    pub rate: u64,
    /// Most at once, in the kernel's ticks of 64 ns.
    pub burst: u32,
    /// The largest packet that conforms, bytes; 0 is any in what is asked, the kernel tells another number.
    pub mtu: u32,
    /// Bytes a second that are never exceeded; 0 none.
    pub peak_rate: u64,
    /// Packets a second; 0 none.
    pub packet_rate: u64,
    /// Most packets at once, in ticks.
    pub packet_burst: u64,
    /// Bytes a second on the average; 0 none.
    pub average_rate: u32,
    /// Bytes that each packet counts more.
    pub overhead: u16,
    /// Link layer: 1 Ethernet, 2 ATM; 0 not said.
    pub link_layer: u8,
}

/// `sample` (`net/sched/act_sample.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sample {
    /// One packet in so many, by chance.
    pub rate: u32,
    /// The group that gets it.
    pub group: u32,
    /// How much of it, bytes.
    pub truncate: Option<u32>,
}

/// What an action has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes, as software TC counts them: the length at ingress, without Ethernet header and outer tag.
    pub bytes: u64,
    /// Last use, in nanoseconds of the caller's clock; 0 never.
    pub last_used: u64,
}

impl Counters {
    /// Adds packets and bytes; the later use stays.
    pub fn add(&mut self, other: Counters) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.last_used = self.last_used.max(other.last_used);
    }

    /// One packet of that many bytes at that time.
    pub fn one(bytes: u64, now: u64) -> Counters {
        Counters { packets: 1, bytes, last_used: now }
    }
}

impl Action {
    /// An action without an index (the kernel gives one) and without a cookie.
    pub fn new(kind: ActionKind, control: Control) -> Action {
        Action { kind, control, index: 0, cookie: Vec::new() }
    }

    /// A `gact`: nothing but a control.
    pub fn gact(control: Control) -> Action {
        Action::new(ActionKind::Gact { random: None }, control)
    }

    /// A redirect out of a port.
    pub fn redirect(port: Port) -> Action {
        let mirred = Mirred { port, ingress: false, mirror: false };
        Action::new(ActionKind::Mirred(mirred), Control::Stolen)
    }

    /// How TC goes on with a packet that the action has nothing against: its control, but for a policer, of which that is what becomes of
    /// packets that exceed.
    pub fn passed_on(&self) -> Control {
        match &self.kind {
            ActionKind::Police(police) => police.conform,
            _ => self.control,
        }
    }

    /// The kind's name, as `tc` has it.
    pub fn name(&self) -> &str {
        match &self.kind {
            ActionKind::Gact { .. } => "gact",
            ActionKind::Mirred(_) => "mirred",
            ActionKind::Ct(_) => "ct",
            ActionKind::Pedit(_) => "pedit",
            ActionKind::Csum(_) => "csum",
            ActionKind::Vlan(_) => "vlan",
            ActionKind::Skbedit(_) => "skbedit",
            ActionKind::Skbmod(_) => "skbmod",
            ActionKind::Mpls(_) => "mpls",
            ActionKind::TunnelKey(_) => "tunnel_key",
            ActionKind::Nat(_) => "nat",
            ActionKind::Police(_) => "police",
            ActionKind::Sample(_) => "sample",
            ActionKind::Other(name) => name,
        }
    }

    /// The same, and what it does where its kind does several things.
    pub fn form(&self) -> &str {
        match &self.kind {
            ActionKind::Vlan(Vlan::Pop) => "vlan pop",
            ActionKind::Vlan(Vlan::Push { .. }) => "vlan push",
            ActionKind::Vlan(Vlan::Modify { .. }) => "vlan modify",
            ActionKind::Vlan(Vlan::PopEthernet) => "vlan pop_eth",
            ActionKind::Vlan(Vlan::PushEthernet { .. }) => "vlan push_eth",
            ActionKind::Skbmod(Skbmod::Set { .. }) => "skbmod set",
            ActionKind::Skbmod(Skbmod::Swap) => "skbmod swap",
            ActionKind::Skbmod(Skbmod::Ecn) => "skbmod ecn",
            ActionKind::Mpls(Mpls::Pop { .. }) => "mpls pop",
            ActionKind::Mpls(Mpls::Push { .. }) => "mpls push",
            ActionKind::Mpls(Mpls::PushMac { .. }) => "mpls mac_push",
            ActionKind::Mpls(Mpls::Modify(_)) => "mpls modify",
            ActionKind::Mpls(Mpls::DecTtl) => "mpls dec_ttl",
            ActionKind::TunnelKey(TunnelKey::Set(_)) => "tunnel_key set",
            ActionKind::TunnelKey(TunnelKey::Unset) => "tunnel_key unset",
            _ => self.name(),
        }
    }
}
