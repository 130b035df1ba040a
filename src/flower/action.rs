//! What a filter does: its actions in order, each with the control that says how to go on.
//!
//! The meanings are the kernel's (`net/sched/act_*.c`, `man tc-actions`). Addresses and ports are host integers read in
//! network order, as in the field table; `pedit` words are the four bytes as they lie in the packet.

use super::filter::Port;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Control {
    /// End classification, let the packet pass to the stack.
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
    /// Helper by name.
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
            ActionKind::Other(name) => name,
        }
    }
}
