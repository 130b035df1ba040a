//! Conntrack as the model's `ct` action sees it: one trait, so that the same execution runs on what a trace showed
//! ([`observed`]) and on a tracker of our own for properties.

pub mod dccp;
pub mod observed;
pub mod sctp;
pub mod tcp;

use flowmerge::{
    conntrack::{Connection, Direction, Tuple},
    flower::action::Nat,
};

/// An entry of the tracker, confirmed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(pub u64);

/// What a packet shows to conntrack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its tuple as it is at this point.
    pub tuple: Tuple,
    /// What its transport header says.
    pub transport: Transport,
    /// For an ICMP or ICMPv6 error: the tuple of the packet inside it.
    pub inner: Option<Tuple>,
}

/// What conntrack reads behind the IP header, besides the tuple.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A TCP header.
    Tcp(tcp::Segment),
    /// SCTP's tag and chunks.
    Sctp(sctp::Packet),
    /// DCCP's packet type.
    Dccp(dccp::Packet),
    /// Nothing: the protocol has no states.
    Stateless,
}

/// What a packet shows to act_ct's flow table, which looks before conntrack does, and less closely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glimpse {
    /// Its tuple.
    pub tuple: Tuple,
    /// It is TCP's FIN or RST, which takes the connection out of the table.
    pub ends: bool,
}

/// How a packet stands to its connection (`enum ip_conntrack_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Info {
    /// First packets, no reply yet.
    New,
    /// Original direction, a reply was seen.
    Established,
    /// Reply direction.
    EstablishedReply,
    /// Expected, no reply yet; or an ICMP error about the original direction's packets (see `Shown::inner`).
    Related,
    /// An ICMP error in reply direction.
    RelatedReply,
}

impl Info {
    /// The packet's direction.
    pub fn direction(self) -> Direction {
        match self {
            Info::New | Info::Established | Info::Related => Direction::Original,
            Info::EstablishedReply | Info::RelatedReply => Direction::Reply,
        }
    }
}

/// What conntrack made of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tracked {
    /// No entry: `+trk+inv`.
    Invalid,
    /// An entry, maybe a new one that is not confirmed.
    Entry(EntryId, Info),
}

/// A connection tracker.
pub trait Conntrack {
    /// `nf_conntrack_in`: finds the packet's entry or makes an unconfirmed one, and moves its state on.
    fn track(&mut self, zone: u16, shown: &Shown) -> Tracked;
    /// Whether the last packet tracked was looked at twice, since it opened a closed connection again.
    fn reopened(&self) -> bool {
        false
    }
    /// The entry, with reply tuple, mark and labels as they are now.
    fn connection(&self, entry: EntryId) -> &Connection;
    /// Whether the entry is in the table.
    fn is_confirmed(&self, entry: EntryId) -> bool;
    /// `ct nat` on an unconfirmed entry: chooses its reply tuple. Not called for confirmed ones.
    fn translate(&mut self, entry: EntryId, nat: &Nat);
    /// `ct commit`: sets mark and labels (value, mask) and confirms. The entry that the packet has afterwards, which is another
    /// one if that was first; `None` if conntrack drops the packet.
    fn commit(&mut self, entry: EntryId, mark: Option<(u32, u32)>, labels: Option<(u128, u128)>) -> Option<EntryId>;
    /// `ct force` on a connection met in reply direction.
    fn kill(&mut self, entry: EntryId);
    /// `tcf_ct_flow_table_lookup`: a packet of a connection in the zone's flow table is not shown to conntrack. Trackers
    /// without a flow table show it all.
    fn bypass(&mut self, _zone: u16, _glimpse: &Glimpse) -> Option<(EntryId, Info)> {
        None
    }
    /// `tcf_ct_flow_table_process_conn`: the packet has been through `ct`, and its connection may go into the flow table.
    fn offload(&mut self, _entry: EntryId, _info: Info) {}
}
