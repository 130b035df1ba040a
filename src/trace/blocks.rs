//! pcapng blocks -> packets in file order, with their interfaces, times and directions.
//!
//! Framing is checked here, so that a file that ends early is told from a block that lies; the blocks' insides are
//! pcap-parser's work. Times and the byte order of options are ours: the parser takes `if_tsoffset` for little-endian and
//! knows no binary resolutions.

use super::{Direction, Interface, Snapshot, TraceFault, write::IN_ORDER};
use pcap_parser::{
    EnhancedPacketBlock, InterfaceDescriptionBlock, OptionCode, PcapNGOption, SimplePacketBlock,
    parse_enhancedpacketblock_be, parse_enhancedpacketblock_le, parse_interfacedescriptionblock_be,
    parse_interfacedescriptionblock_le, parse_sectionheaderblock_be, parse_sectionheaderblock_le,
    parse_simplepacketblock_be, parse_simplepacketblock_le, traits::PcapNGPacketBlock,
};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
pub(super) const EPB_FLAGS: u16 = 2;
const NANOSECONDS: u128 = 1_000_000_000;

/// A packet as the file has it.
pub(super) struct Packet<'a> {
    pub(super) number: u64,
    /// Where its block starts.
    pub(super) offset: usize,
    pub(super) time: u64,
    /// Index into the interfaces of the whole file.
    pub(super) interface: usize,
    pub(super) direction: Direction,
    pub(super) bytes: &'a [u8],
    pub(super) truncated: bool,
    pub(super) snapshot: Option<Snapshot>,
}

/// What an interface of the current section says about its packets.
struct Described {
    /// Index into the interfaces of the whole file.
    interface: usize,
    /// Units of time in a second.
    units: u128,
    /// Seconds to add.
    offset: i64,
    /// Longest capture, 0 for no limit.
    snap_length: u32,
}

/// All packets and interfaces of a file.
#[derive(Default)]
pub(super) struct Blocks<'a> {
    pub(super) interfaces: Vec<Interface>,
    pub(super) packets: Vec<Packet<'a>>,
    /// Whether every section says that its blocks stand in the order of processing.
    pub(super) in_order: bool,
    section: Vec<Described>,
    big_endian: bool,
}

impl<'a> Blocks<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Blocks<'a>, TraceFault> {
        if bytes.first_chunk() != Some(&SECTION_HEADER.to_be_bytes()) {
            return Err(TraceFault::NotPcapng { found: start(bytes) });
        }
        let mut blocks = Blocks { in_order: true, ..Blocks::default() };
        let mut offset = 0;
        while offset < bytes.len() {
            offset += blocks.block(&bytes[offset..], offset)?;
        }
        Ok(blocks)
    }

    fn number(&self) -> u64 {
        self.packets.len() as u64
    }

    fn bad(&self, offset: usize, expected: &'static str) -> TraceFault {
        let after = self.number();
        TraceFault::Block { offset, after, expected }
    }

    /// Takes the block at the start of `rest` and gives its length.
    fn block(&mut self, rest: &'a [u8], offset: usize) -> Result<usize, TraceFault> {
        let (after, have) = (self.number(), rest.len());
        let cut = |want| TraceFault::Cut { offset, after, have, want };
        let head: &[u8; 12] = rest.first_chunk().ok_or_else(|| cut(12))?;
        let [t0, t1, t2, t3, l0, l1, l2, l3, magic @ ..] = *head;
        // A section header's type reads the same in both orders; the magic number behind it tells which it is.
        if [t0, t1, t2, t3] == SECTION_HEADER.to_be_bytes() {
            self.big_endian = match magic {
                [0x1a, 0x2b, 0x3c, 0x4d] => true,
                [0x4d, 0x3c, 0x2b, 0x1a] => false,
                _ => return Err(self.bad(offset, "the byte order magic 0x1a2b3c4d in the section header")),
            };
            self.section.clear();
        }
        let kind = self.u32([t0, t1, t2, t3]);
        let length = self.u32([l0, l1, l2, l3]) as usize;
        if length < 12 || !length.is_multiple_of(4) {
            return Err(self.bad(offset, "a block length of at least 12, divisible by 4"));
        }
        let block = rest.get(..length).ok_or_else(|| cut(length))?;
        if block[length - 4..] != head[4..8] {
            return Err(self.bad(offset, "the block's length again at its end"));
        }
        match kind {
            SECTION_HEADER => self.section(block),
            INTERFACE_DESCRIPTION => self.interface(block, offset)?,
            ENHANCED_PACKET => self.enhanced(block, offset)?,
            SIMPLE_PACKET => self.simple(block, offset)?,
            _ => {}
        }
        Ok(length)
    }

    fn u32(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    /// Only its comment is of interest; a header that does not parse has none.
    fn section(&mut self, block: &[u8]) {
        let parsed = match self.big_endian {
            true => parse_sectionheaderblock_be(block),
            false => parse_sectionheaderblock_le(block),
        };
        self.in_order &=
            parsed.is_ok_and(|(_, header)| comments(&header.options).any(|comment| comment == IN_ORDER.as_bytes()));
    }

    fn interface(&mut self, block: &[u8], offset: usize) -> Result<(), TraceFault> {
        let parsed = match self.big_endian {
            true => parse_interfacedescriptionblock_be(block),
            false => parse_interfacedescriptionblock_le(block),
        };
        let (_, described): (_, InterfaceDescriptionBlock) =
            parsed.map_err(|_| self.bad(offset, "an interface description of at least 20 bytes"))?;
        let name = option(&described.options, OptionCode::IfName).unwrap_or_default();
        let interface = Interface {
            name: String::from_utf8_lossy(name).trim_end_matches('\0').to_owned(),
            link_type: described.linktype.0 as u16,
        };
        let shift = option(&described.options, OptionCode::IfTsoffset).and_then(|value| value.first_chunk());
        let shift = shift.map_or(0, |&bytes| match self.big_endian {
            true => i64::from_be_bytes(bytes),
            false => i64::from_le_bytes(bytes),
        });
        let units =
            units(described.if_tsresol).ok_or_else(|| self.bad(offset, "a time resolution of at most 10^-38 s"))?;
        // An interface of an earlier section goes on.
        let known = self.interfaces.iter().position(|i| *i == interface && !i.name.is_empty());
        let known = known.filter(|&index| self.section.iter().all(|d| d.interface != index));
        self.section.push(Described {
            interface: known.unwrap_or(self.interfaces.len()),
            units,
            offset: shift,
            snap_length: described.snaplen,
        });
        if known.is_none() {
            self.interfaces.push(interface);
        }
        Ok(())
    }

    fn described(&self, interface: u32, offset: usize) -> Result<&Described, TraceFault> {
        self.section.get(interface as usize).ok_or(TraceFault::Interface {
            packet: self.number() + 1,
            offset,
            interface,
            described: self.section.len(),
        })
    }

    fn enhanced(&mut self, block: &'a [u8], offset: usize) -> Result<(), TraceFault> {
        let parsed = match self.big_endian {
            true => parse_enhancedpacketblock_be(block),
            false => parse_enhancedpacketblock_le(block),
        };
        let (_, packet): (_, EnhancedPacketBlock) =
            parsed.map_err(|_| self.bad(offset, "a packet that fits into its block"))?;
        let described = self.described(packet.if_id, offset)?;
        let flags = option(&packet.options, OptionCode(EPB_FLAGS)).and_then(|value| value.first_chunk());
        let direction = match flags.map_or(0, |&bytes| self.u32(bytes)) & 3 {
            1 => Direction::Inbound,
            2 => Direction::Outbound,
            _ => Direction::Unknown,
        };
        let stamp = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
        self.packets.push(Packet {
            number: self.number() + 1,
            offset,
            time: described.nanoseconds(stamp),
            interface: described.interface,
            direction,
            bytes: packet.data.get(..packet.caplen as usize).unwrap_or(packet.data),
            truncated: packet.truncated(),
            snapshot: comments(&packet.options).find_map(Snapshot::of),
        });
        Ok(())
    }

    /// Has neither time nor direction; keeps its place in the file.
    fn simple(&mut self, block: &'a [u8], offset: usize) -> Result<(), TraceFault> {
        let parsed = match self.big_endian {
            true => parse_simplepacketblock_be(block),
            false => parse_simplepacketblock_le(block),
        };
        let (_, packet): (_, SimplePacketBlock) =
            parsed.map_err(|_| self.bad(offset, "a simple packet block of at least 16 bytes"))?;
        let described = self.described(0, offset)?;
        let snap_length = match described.snap_length {
            0 => u32::MAX,
            limit => limit,
        };
        let captured = packet.origlen.min(snap_length) as usize;
        let bytes = packet.data.get(..captured).ok_or_else(|| self.bad(offset, "a packet that fits into its block"))?;
        self.packets.push(Packet {
            number: self.number() + 1,
            offset,
            time: self.packets.last().map_or(0, |packet| packet.time),
            interface: described.interface,
            direction: Direction::Unknown,
            bytes,
            truncated: captured < packet.origlen as usize,
            snapshot: None,
        });
        Ok(())
    }
}

impl Described {
    /// A time stamp in nanoseconds since 1970; times before and beyond 64 bits become the nearest that there is.
    fn nanoseconds(&self, stamp: u64) -> u64 {
        let whole = u128::from(stamp) / self.units;
        let rest = u128::from(stamp) % self.units;
        // `rest` is below 2^64, so that the product fits.
        let time = whole * NANOSECONDS + rest * NANOSECONDS / self.units;
        let shifted = time as i128 + i128::from(self.offset) * NANOSECONDS as i128;
        u64::try_from(shifted.max(0)).unwrap_or(u64::MAX)
    }
}

/// `if_tsresol`: a power of ten, or with the highest bit of two.
fn units(resolution: u8) -> Option<u128> {
    match resolution {
        0x80.. => 2u128.checked_pow(u32::from(resolution & 0x7f)),
        _ => 10u128.checked_pow(u32::from(resolution)),
    }
}

fn option<'o>(options: &'o [PcapNGOption], code: OptionCode) -> Option<&'o [u8]> {
    let option = options.iter().find(|option| option.code == code)?;
    option.value.get(..usize::from(option.len))
}

fn comments<'o>(options: &'o [PcapNGOption]) -> impl Iterator<Item = &'o [u8]> {
    let comments = options.iter().filter(|option| option.code == OptionCode::Comment);
    comments.filter_map(|option| option.value.get(..usize::from(option.len)))
}

/// The first bytes of a file that is something else.
fn start(bytes: &[u8]) -> String {
    match bytes {
        [] => "an empty file".to_owned(),
        [0xd4, 0xc3, 0xb2, 0xa1, ..] | [0xa1, 0xb2, 0xc3, 0xd4, ..] | [0x4d, 0x3c, 0xb2, 0xa1, ..] => {
            "a classic pcap file".to_owned()
        }
        _ => {
            let hex: Vec<String> = bytes.iter().take(4).map(|b| format!("{b:02x}")).collect();
            hex.join(" ")
        }
    }
}
