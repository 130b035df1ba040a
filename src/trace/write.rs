//! Recorded runs, written: blocks of a pcapng as they come, nothing kept.
//!
//! The head says that the blocks stand in the order in which the kernel worked ([`IN_ORDER`]), which is not that of the time
//! stamps: with `net.core.netdev_tstamp_prequeue` at 1, its default, a received frame is stamped as it is queued, so that in a
//! burst the second frame's stamp lies before what the first one caused. The stamps stay the kernel's; the order is the file's.

use super::{Direction, ETHERNET, Interface, NETLINK, Snapshot};
use pcap_parser::{
    EnhancedPacketBlock, InterfaceDescriptionBlock, InterfaceStatisticsBlock, Linktype, OptionCode, PcapNGOption,
    SectionHeaderBlock, ToVec,
};
use std::{
    borrow::Cow,
    io::{self, Write},
};

/// The comment of a section whose blocks stand in the order in which the kernel worked.
pub(super) const IN_ORDER: &str = "flowmerge: blocks in the order of processing";

/// The tool's name and version, in the section's head.
const TOOL: &str = concat!("flowmerge ", env!("CARGO_PKG_VERSION"));

/// `if_tsresol`: nanoseconds.
const NANOSECONDS: u8 = 9;
/// `PACKET_OUTGOING` and `ARPHRD_NETLINK`, as libpcap writes in front of what it reads from `nlmon`.
const OUTGOING: u16 = 4;
const ARPHRD_NETLINK: u16 = 824;

/// Writes a trace: an Ethernet interface for each port, then one of LINKTYPE_NETLINK.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    interfaces: Vec<Interface>,
}

impl<W: Write> Writer<W> {
    /// Writes the head. `system` names the kernel, as `uname -sr` does.
    ///
    /// # Errors
    /// The output's.
    pub fn new(out: W, ports: &[String], system: &str) -> io::Result<Writer<W>> {
        let mut interfaces: Vec<Interface> =
            ports.iter().map(|name| Interface { name: name.clone(), link_type: ETHERNET }).collect();
        interfaces.push(Interface { name: "netlink".to_owned(), link_type: NETLINK });
        let mut writer = Writer { out, interfaces };
        let options = vec![
            option(OptionCode::Comment, IN_ORDER.as_bytes()),
            option(OptionCode::ShbOs, system.as_bytes()),
            option(OptionCode::ShbUserAppl, TOOL.as_bytes()),
        ];
        writer.block(SectionHeaderBlock {
            block_type: 0,
            block_len1: 0,
            bom: 0,
            major_version: 1,
            minor_version: 0,
            section_len: -1,
            options,
            block_len2: 0,
        })?;
        for i in 0..writer.interfaces.len() {
            let Interface { name, link_type } = writer.interfaces[i].clone();
            let block = InterfaceDescriptionBlock {
                block_type: 0,
                block_len1: 0,
                linktype: Linktype(i32::from(link_type)),
                reserved: 0,
                snaplen: 0,
                options: vec![
                    option(OptionCode::IfName, name.as_bytes()),
                    option(OptionCode::IfTsresol, &[NANOSECONDS]),
                ],
                block_len2: 0,
                if_tsresol: NANOSECONDS,
                if_tsoffset: 0,
            };
            writer.block(block)?;
        }
        Ok(writer)
    }

    /// Writes a frame of port `port` (its place in the list that [`Writer::new`] was given), from its Ethernet header on. `time` in
    /// nanoseconds since 1970; `length` is the frame's own, where not all of it is there.
    ///
    /// # Errors
    /// The output's.
    pub fn frame(
        &mut self,
        port: usize,
        time: u64,
        direction: Direction,
        bytes: &[u8],
        length: usize,
    ) -> io::Result<()> {
        let flags: u32 = match direction {
            Direction::Unknown => 0,
            Direction::Inbound => 1,
            Direction::Outbound => 2,
        };
        let flags = flags.to_le_bytes();
        self.packet(port, time, bytes, length, vec![option(OptionCode(super::blocks::EPB_FLAGS), &flags)])
    }

    /// Writes netlink messages of a family ([`crate::netlink::ROUTE`], [`crate::netlink::NETFILTER`]), one behind the other as a
    /// socket gives them; `snapshot` if they are part of a dump that the recorder asked for.
    ///
    /// # Errors
    /// The output's.
    pub fn messages(&mut self, family: u16, time: u64, bytes: &[u8], snapshot: Option<Snapshot>) -> io::Result<()> {
        let mut cooked = Vec::with_capacity(super::COOKED + bytes.len());
        cooked.extend(OUTGOING.to_be_bytes());
        cooked.extend(ARPHRD_NETLINK.to_be_bytes());
        cooked.extend([0; 10]);
        cooked.extend(family.to_be_bytes());
        cooked.extend(bytes);
        let options = snapshot.map(|s| option(OptionCode::Comment, s.comment().as_bytes())).into_iter().collect();
        self.packet(self.interfaces.len() - 1, time, &cooked, cooked.len(), options)
    }

    /// Says at the end how many frames and messages, of all interfaces together, the kernel could not hand over.
    ///
    /// # Errors
    /// The output's.
    pub fn lost(&mut self, time: u64, lost: u64) -> io::Result<()> {
        let lost = lost.to_le_bytes();
        self.block(InterfaceStatisticsBlock {
            block_type: 0,
            block_len1: 0,
            if_id: self.interfaces.len() as u32 - 1,
            ts_high: (time >> 32) as u32,
            ts_low: time as u32,
            options: vec![
                option(OptionCode::Comment, b"of all interfaces: one socket has them all"),
                option(OptionCode::IsbOsDrop, &lost),
            ],
            block_len2: 0,
        })
    }

    /// Hands what was written on to the system.
    ///
    /// # Errors
    /// The output's.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The output.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn packet(
        &mut self,
        interface: usize,
        time: u64,
        data: &[u8],
        length: usize,
        options: Vec<PcapNGOption>,
    ) -> io::Result<()> {
        self.block(EnhancedPacketBlock {
            block_type: 0,
            block_len1: 0,
            if_id: interface as u32,
            ts_high: (time >> 32) as u32,
            ts_low: time as u32,
            caplen: data.len() as u32,
            origlen: length as u32,
            data,
            options,
            block_len2: 0,
        })
    }

    fn block(&mut self, mut block: impl ToVec) -> io::Result<()> {
        let bytes = block.to_vec().map_err(|e| io::Error::other(e.to_string()))?;
        self.out.write_all(&bytes)
    }
}

/// An option; one longer than 64 KiB, which no name or comment here is, would be cut.
fn option(code: OptionCode, value: &[u8]) -> PcapNGOption<'_> {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    PcapNGOption { code, len: value.len() as u16, value: Cow::Borrowed(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        netlink::{Message, NETFILTER},
        trace::{Body, Trace, from_bytes},
    };

    /// NLMSG_DONE, port 7, sequence 1.
    fn done() -> Vec<u8> {
        [&20u32.to_ne_bytes()[..], &3u16.to_ne_bytes(), &2u16.to_ne_bytes(), &1u32.to_ne_bytes(), &7u32.to_ne_bytes()]
            .concat()
            .into_iter()
            .chain([0; 4])
            .collect()
    }

    fn written() -> Trace {
        let ports = ["p1".to_owned(), "port-2".to_owned()];
        let mut writer = Writer::new(Vec::new(), &ports, "Linux 6.1").unwrap();
        writer.messages(NETFILTER, 5, &done(), Some(Snapshot::Start)).unwrap();
        writer.frame(1, u64::MAX - 3, Direction::Inbound, b"abcde", 5).unwrap();
        writer.frame(0, 1, Direction::Outbound, b"abc", 9).unwrap();
        writer.messages(NETFILTER, 2, &done(), None).unwrap();
        writer.messages(NETFILTER, 2, &done(), Some(Snapshot::Again)).unwrap();
        writer.messages(NETFILTER, 3, &done(), Some(Snapshot::End)).unwrap();
        writer.lost(4, 12).unwrap();
        writer.flush().unwrap();
        from_bytes("w", &writer.into_inner()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_in_the_order_in_which_it_was_written() {
        let trace = written();
        let interfaces: Vec<_> = trace.interfaces.iter().map(|i| (i.name.as_str(), i.link_type)).collect();
        assert_eq!(interfaces, [("p1", ETHERNET), ("port-2", ETHERNET), ("netlink", NETLINK)]);
        let seen: Vec<_> = trace.records.iter().map(|r| (r.number, r.time, r.interface, r.truncated)).collect();
        assert_eq!(
            seen,
            [
                (1, 5, 2, false),
                (2, u64::MAX - 3, 1, false),
                (3, 1, 0, true),
                (4, 2, 2, false),
                (5, 2, 2, false),
                (6, 3, 2, false)
            ]
        );
        let frame = |i: usize| match &trace.records[i].body {
            Body::Frame { direction, bytes } => (*direction, bytes.as_slice()),
            Body::Message(message) => panic!("{message:?}"),
        };
        assert_eq!(frame(1), (Direction::Inbound, &b"abcde"[..]));
        assert_eq!(frame(2), (Direction::Outbound, &b"abc"[..]));
    }

    #[test]
    fn dumps_are_told_apart_by_their_part_in_the_run() {
        let trace = written();
        let dumps: Vec<_> = trace.records.iter().map(|r| r.snapshot).collect();
        let [start, again, end] = [Snapshot::Start, Snapshot::Again, Snapshot::End].map(Some);
        assert_eq!(dumps, [start, None, None, None, again, end]);
        let Body::Message(message) = &trace.records[0].body else { panic!() };
        assert_eq!((&message.message, message.port_id, message.sequence), (&Message::Done, 7, 1));
    }
}
