//! Recorded runs: one pcapng that holds what the kernel was told, what came in, what it sent out and what it counted.
//!
//! An Ethernet interface per port, named as the device, whose packets are marked inbound or outbound; and one of
//! LINKTYPE_NETLINK with every rtnetlink and ctnetlink message: a dump at the start, then notifications, at the end the dump
//! again. [`read`] gives all of it in order, messages decoded; [`Writer`] writes it. Nothing is executed here.
//!
//! What a dump is for stands in a comment on its packets ([`Snapshot`]), and that the blocks stand in the order in which the
//! kernel worked in one on the section. Where a file lacks these, as a recording by other means may, the order is that of
//! time, and dumps are told apart by their place.

mod blocks;
mod error;
#[cfg(test)]
mod tests;
mod write;

pub use error::{TraceError, TraceFault};
pub use write::Writer;

use crate::netlink::{self, Envelope, LinkNames, Message};
use blocks::{Blocks, Packet};
use std::{collections::BTreeMap, path::Path};

/// `LINKTYPE_ETHERNET`.
pub const ETHERNET: u16 = 1;
/// `LINKTYPE_NETLINK`.
pub const NETLINK: u16 = 253;

/// Bytes of the header that LINKTYPE_NETLINK puts in front of the messages; its last two are the netlink family.
const COOKED: usize = 16;

/// A recorded run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The file's name without directory and extension.
    pub name: String,
    /// The interfaces, of all sections; the same name and link type in a later section is the same interface.
    pub interfaces: Vec<Interface>,
    /// What was recorded: in the file's order if that is said to be the order in which the kernel worked, so that times may step
    /// back; else by time, of equal times in file order.
    pub records: Vec<Record>,
}

/// What packets were recorded on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The device's name.
    pub name: String,
    /// `LINKTYPE_*`.
    pub link_type: u16,
}

/// A frame, or a netlink message. A packet that holds several messages becomes as many records of one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Counts every packet of the file from 1, in file order, as Wireshark does.
    pub number: u64,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Index into [`Trace::interfaces`].
    pub interface: usize,
    /// Whether bytes at its end were not recorded.
    pub truncated: bool,
    /// Which dump it is part of, if the file says so.
    pub snapshot: Option<Snapshot>,
    /// What it is.
    pub body: Body,
}

/// What a dump is for: the recorder's comment on each of its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Snapshot {
    /// What was there at the start.
    Start,
    /// What is there after notifications were lost: all of it once more, connections last. What is in the dump and was not told, or
    /// was told otherwise, has come; what was told and is not in it is gone.
    Again,
    /// What is there at the end, with the kernel's counters as of this point.
    End,
}

impl Snapshot {
    const ALL: [Snapshot; 3] = [Snapshot::Start, Snapshot::Again, Snapshot::End];

    /// The comment that says so.
    fn comment(self) -> &'static str {
        match self {
            Snapshot::Start => "flowmerge: dump at the start",
            Snapshot::Again => "flowmerge: dump after an overrun",
            Snapshot::End => "flowmerge: dump at the end",
        }
    }

    fn of(comment: &[u8]) -> Option<Snapshot> {
        Snapshot::ALL.into_iter().find(|s| s.comment().as_bytes() == comment)
    }
}

/// What a record holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A frame on a port.
    Frame {
        /// Its way.
        direction: Direction,
        /// The frame from its Ethernet header on.
        bytes: Vec<u8>,
    },
    /// Word from the kernel.
    Message(Envelope),
}

/// A frame's way, as seen from the machine (`epb_flags`, bits 0 and 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Received.
    Inbound,
    /// Sent.
    Outbound,
    /// Not recorded.
    Unknown,
}

/// Reads a recorded run. `progress` is told the bytes done and their total, from time to time and at the end.
pub fn read(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Trace, TraceError> {
    let fail = |fault| TraceError { file: path.display().to_string(), fault };
    let bytes = std::fs::read(path).map_err(|e| fail(TraceFault::Unreadable(e)))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    parse(&name, &bytes, progress).map_err(fail)
}

/// The frames of any pcapng, in the order of time: each with its interface's name and its way. What else is in the file is
/// passed over.
pub fn read_frames(path: &Path) -> Result<Vec<(String, Direction, Vec<u8>)>, TraceError> {
    let fail = |fault| TraceError { file: path.display().to_string(), fault };
    let bytes = std::fs::read(path).map_err(|e| fail(TraceFault::Unreadable(e)))?;
    let Blocks { interfaces, mut packets, .. } = Blocks::parse(&bytes).map_err(fail)?;
    packets.sort_by_key(|packet| packet.time);
    let is_frame = |packet: &Packet| interfaces[packet.interface].link_type == ETHERNET;
    let frames = packets.iter().filter(|packet| is_frame(packet));
    Ok(frames.map(|p| (interfaces[p.interface].name.clone(), p.direction, p.bytes.to_vec())).collect())
}

/// As [`read`], from a file's contents; `name` stands for the file in errors.
pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Trace, TraceError> {
    parse(name, bytes, &mut |_, _| {}).map_err(|fault| TraceError { file: name.to_owned(), fault })
}

fn parse(name: &str, bytes: &[u8], progress: &mut dyn FnMut(u64, u64)) -> Result<Trace, TraceFault> {
    let Blocks { interfaces, mut packets, in_order, .. } = Blocks::parse(bytes)?;
    if interfaces.iter().all(|i| i.link_type != NETLINK) {
        let found: Vec<_> = interfaces.iter().map(|i| i.name.as_str()).collect();
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        return Err(TraceFault::NoNetlinkInterface { found });
    }
    if !in_order {
        packets.sort_by_key(|packet| packet.time);
    }
    let total = bytes.len() as u64;
    let (mut done, mut reported) = (0, 0);
    let mut reader = Reader::default();
    for packet in &packets {
        match interfaces[packet.interface].link_type {
            NETLINK => reader.netlink(packet)?,
            _ => reader.push(packet, Body::Frame { direction: packet.direction, bytes: packet.bytes.to_vec() }),
        }
        done += packet.bytes.len() as u64;
        if done - reported >= PROGRESS {
            reported = done;
            progress(done, total);
        }
    }
    reader.finish(packets.len() as u64)?;
    progress(total, total);
    Ok(Trace { name: name.to_owned(), interfaces, records: reader.records })
}

/// Bytes between two reports.
const PROGRESS: u64 = 1 << 16;

/// A dump that has begun.
struct Dump {
    what: &'static str,
    packet: u64,
    offset: usize,
    messages: u64,
}

/// The messages read so far, and what reading the next one takes.
#[derive(Default)]
struct Reader {
    records: Vec<Record>,
    /// The devices at this point of the run: a filter names one where the kernel compares an index.
    names: LinkNames,
    /// Dumps without an end yet, by family, port and sequence number.
    dumps: BTreeMap<(u16, u32, u32), Dump>,
    messages: u64,
}

impl Reader {
    fn push(&mut self, packet: &Packet, body: Body) {
        self.records.push(Record {
            number: packet.number,
            time: packet.time,
            interface: packet.interface,
            truncated: packet.truncated,
            snapshot: packet.snapshot,
            body,
        });
    }

    /// Takes the messages of a packet one by one. Other families' (an OVS datapath speaks generic netlink) and what programs
    /// asked of the kernel are not kept.
    fn netlink(&mut self, packet: &Packet) -> Result<(), TraceFault> {
        let (number, offset) = (packet.number, packet.offset);
        let short = TraceFault::CookedHeader { packet: number, offset, have: packet.bytes.len() };
        let header: &[u8; COOKED] = packet.bytes.first_chunk().ok_or(short)?;
        let family = u16::from_be_bytes([header[14], header[15]]);
        if !matches!(family, netlink::ROUTE | netlink::NETFILTER) {
            return Ok(());
        }
        let mut rest = &packet.bytes[COOKED..];
        while !rest.is_empty() {
            let fault = |source| TraceFault::Message { packet: number, offset, source };
            let here = rest;
            let (length, is_request) = netlink::glance(here).unwrap_or((here.len(), false));
            rest = here.get(length.max(16).next_multiple_of(4)..).unwrap_or_default();
            if is_request {
                continue;
            }
            let envelope = netlink::decode(family, here, &self.names).map_err(fault)?;
            self.follow(family, &envelope, packet);
            self.messages += 1;
            self.push(packet, Body::Message(envelope));
        }
        Ok(())
    }

    fn follow(&mut self, family: u16, envelope: &Envelope, packet: &Packet) {
        self.names.learn(&envelope.message);
        let key = (family, envelope.port_id, envelope.sequence);
        let what = match &envelope.message {
            Message::Done | Message::Error { .. } => {
                self.dumps.remove(&key);
                return;
            }
            _ if !envelope.is_dump() => return,
            Message::Link(_) => "devices",
            Message::Qdisc(_) => "qdiscs",
            Message::Chain { .. } => "chains",
            Message::Priority { .. } | Message::Filter(_) => "filters",
            Message::Actions { .. } => "actions",
            Message::Connection { .. } => "connections",
            _ => "something else",
        };
        let dump =
            self.dumps.entry(key).or_insert(Dump { what, packet: packet.number, offset: packet.offset, messages: 0 });
        dump.messages += 1;
    }

    fn finish(&self, packets: u64) -> Result<(), TraceFault> {
        if self.messages == 0 {
            return Err(TraceFault::NoMessages { packets });
        }
        match self.dumps.values().min_by_key(|dump| dump.packet) {
            None => Ok(()),
            Some(&Dump { what, packet, offset, messages }) => {
                Err(TraceFault::DumpCut { what, packet, offset, messages })
            }
        }
    }
}
