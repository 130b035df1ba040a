//! The one packet socket that sees everything: frames of all recorded ports, and on an `nlmon` device what the kernel says.
//!
//! It is bound to no device. A packet filter lets through the devices that count, by index, so that all that happens comes in
//! one queue, in the order in which the kernel worked; a socket for each device would leave that order to time stamps.

use anyhow::{Context, Result, bail};
use nix::{
    cmsg_space,
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType,
            getsockopt, recvmmsg, setsockopt, socket, sockopt,
        },
        time::TimeSpec,
    },
};
use socket2::{SockFilter, SockRef};
use std::{
    io::IoSliceMut,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

/// Packets taken with one system call.
const BATCH: usize = 32;
/// Room for each: more than the longest segment that the kernel passes before it is cut into frames.
const ROOM: usize = 1 << 17;
/// `struct tpacket_auxdata` (linux/if_packet.h).
const AUXDATA: usize = 20;

/// Bits of `tp_status`.
const TP_STATUS_CSUMNOTREADY: u32 = 1 << 3;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;

/// `SKF_AD_OFF + SKF_AD_IFINDEX`: where a filter loads the device's index from.
const INTERFACE: u32 = (-0x1000_i32 + 8) as u32;
/// `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JEQ | BPF_K`, the same with `BPF_JGT`, `BPF_RET | BPF_K`.
const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const RETURN: u16 = 0x06;
/// `BPF_MAXINSNS`.
const LONGEST_FILTER: usize = 4096;

mod options {
    //! Options that nix has not: with each packet what the kernel took off it, the VLAN tag; and what was lost so far.
    use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// `PACKET_AUXDATA` (packet(7)).
        AuxData,
        Both,
        libc::SOL_PACKET,
        super::PACKET_AUXDATA,
        bool
    );
    sockopt_impl!(
        /// `PACKET_STATISTICS` (packet(7)): since it was asked last, or opened.
        Statistics,
        GetOnly,
        libc::SOL_PACKET,
        libc::PACKET_STATISTICS,
        libc::tpacket_stats
    );
}
/// linux/if_packet.h.
const PACKET_AUXDATA: libc::c_int = 8;

/// A packet as the socket gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Index of the device.
    pub device: u32,
    /// Whether the machine sent it.
    pub outgoing: bool,
    /// Its protocol: on an `nlmon` device the netlink family.
    pub protocol: u16,
    /// Nanoseconds since 1970, by the kernel.
    pub time: u64,
    /// The packet, with the tag that the kernel took off.
    pub bytes: Vec<u8>,
    /// Its own length, should that be more.
    pub length: usize,
    /// A checksum in it is for the device to fill in, so that it is not what goes over the wire.
    pub unfinished: bool,
}

/// The socket.
pub struct Tap {
    socket: OwnedFd,
    buffer: Vec<u8>,
    /// Packets lost so far, as the socket counts them, modulo 2^32.
    dropped: u32,
    /// Packets lost since it was opened.
    pub lost: u64,
}

impl Tap {
    /// Opens it; nothing comes in until [`Tap::watch`].
    ///
    /// # Errors
    /// No CAP_NET_RAW.
    pub fn open(room: usize) -> Result<Tap> {
        Tap::of(Tap::socket()?, room)
    }

    /// A packet socket. Packets come in at once, of every device, and into a small buffer.
    fn socket() -> Result<OwnedFd> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let opened = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll);
        match opened {
            Err(Errno::EPERM | Errno::EACCES) => {
                bail!(
                    "CAP_NET_RAW is missing, which a packet socket takes (run as root, or in a user and network namespace)"
                )
            }
            opened => opened.context("cannot open a packet socket"),
        }
    }

    fn of(socket: OwnedFd, room: usize) -> Result<Tap> {
        let mut tap = Tap { socket, buffer: vec![0; BATCH * ROOM], dropped: 0, lost: 0 };
        tap.watch(&[], u32::MAX)?;
        set_room(&tap.socket, room).context("cannot size the packet socket's buffer")?;
        setsockopt(&tap.socket, sockopt::ReceiveTimestampns, &true).context("SO_TIMESTAMPNS")?;
        setsockopt(&tap.socket, sockopt::RxqOvfl, &1).context("SO_RXQ_OVFL")?;
        setsockopt(&tap.socket, options::AuxData, &true).context("PACKET_AUXDATA")?;
        // What came in before the filter was there, and what was lost then: the next packet will tell of that, too.
        while tap.take(&mut Vec::new())? {}
        tap.dropped = getsockopt(&tap.socket, options::Statistics).context("PACKET_STATISTICS")?.tp_drops;
        tap.lost = 0;
        Ok(tap)
    }

    /// From now on these devices' packets come in, by index, and those of devices with an index beyond `newest`. (The kernel counts
    /// indices up, so such a device is new: a port may have come back, and already have packets, before anyone knows.)
    ///
    /// # Errors
    /// So many devices that no filter holds them.
    pub fn watch(&self, devices: &[u32], newest: u32) -> Result<()> {
        let program = filter(devices, newest);
        if program.len() > LONGEST_FILTER {
            bail!("{} devices are more than a packet filter holds", devices.len());
        }
        SockRef::from(&self.socket).attach_filter(&program).context("cannot attach a packet filter")
    }

    /// Takes the packets that wait, up to a batch of them; whether there may be more.
    ///
    /// # Errors
    /// The socket's.
    pub fn take(&mut self, into: &mut Vec<Packet>) -> Result<bool> {
        // A header's lengths are the kernel's after a call, so that each call has new ones.
        let mut headers = MultiHeaders::<LinkAddr>::preallocate(BATCH, Some(cmsg_space!(TimeSpec, [u8; AUXDATA], u32)));
        let mut slices: Vec<_> = self.buffer.chunks_mut(ROOM).map(|room| [IoSliceMut::new(room)]).collect();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        let received = match recvmmsg(self.socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None) {
            Err(Errno::EAGAIN) => return Ok(false),
            // A device that was watched went down or away; the socket goes on.
            Err(Errno::EINTR | Errno::ENETDOWN) => return Ok(true),
            received => received.context("cannot read from the packet socket")?,
        };
        let mut count = 0;
        for message in received {
            count += 1;
            let Some(address) = message.address else { continue };
            let mut packet = Packet {
                device: address.ifindex() as u32,
                outgoing: address.pkttype() == libc::PACKET_OUTGOING,
                protocol: u16::from_be(address.protocol()),
                time: 0,
                bytes: message.iovs().next().unwrap_or_default().to_vec(),
                length: message.bytes,
                unfinished: false,
            };
            for ancillary in message.cmsgs().context("ancillary data of a packet")? {
                match ancillary {
                    ControlMessageOwned::ScmTimestampns(time) => packet.time = nanoseconds(time),
                    ControlMessageOwned::RxqOvfl(dropped) => {
                        self.lost += u64::from(dropped.wrapping_sub(self.dropped));
                        self.dropped = dropped;
                    }
                    ControlMessageOwned::Unknown(unknown)
                        if (unknown.cmsg_header.cmsg_level, unknown.cmsg_header.cmsg_type)
                            == (libc::SOL_PACKET, PACKET_AUXDATA) =>
                    {
                        complete(&mut packet, &unknown.data_bytes);
                    }
                    _ => {}
                }
            }
            into.push(packet);
        }
        Ok(count == BATCH)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sizes a socket's receive buffer: beyond the system's limit with CAP_NET_ADMIN, up to it without.
///
/// # Errors
/// The socket's.
pub fn set_room(socket: &impl AsFd, room: usize) -> nix::Result<()> {
    match setsockopt(socket, sockopt::RcvBufForce, &room) {
        Err(Errno::EPERM) => setsockopt(socket, sockopt::RcvBuf, &room),
        done => done,
    }
}

/// Nanoseconds; what lies before 1970 becomes 0.
pub fn nanoseconds(time: TimeSpec) -> u64 {
    let nanoseconds = i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec());
    u64::try_from(nanoseconds.max(0)).unwrap_or(u64::MAX)
}

/// Lets through the devices with these indices, and with any beyond `newest`.
fn filter(devices: &[u32], newest: u32) -> Vec<SockFilter> {
    let mut program = vec![SockFilter::new(LOAD, 0, 0, INTERFACE)];
    for &device in devices {
        program.push(SockFilter::new(JUMP_IF_EQUAL, 0, 1, device));
        program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    }
    program.push(SockFilter::new(JUMP_IF_GREATER, 0, 1, newest));
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}

/// Takes over what `struct tpacket_auxdata` says (host byte order): status, length, captured length, two offsets, the tag's control
/// information and type. The tag goes back behind the addresses, where the kernel took it from.
fn complete(packet: &mut Packet, auxdata: &[u8]) {
    let Some(auxdata) = auxdata.first_chunk::<AUXDATA>() else { return };
    let status = u32::from_ne_bytes([auxdata[0], auxdata[1], auxdata[2], auxdata[3]]);
    let tci = u16::from_ne_bytes([auxdata[16], auxdata[17]]);
    let tpid = match status & TP_STATUS_VLAN_TPID_VALID {
        0 => 0x8100,
        _ => u16::from_ne_bytes([auxdata[18], auxdata[19]]),
    };
    packet.unfinished = status & TP_STATUS_CSUMNOTREADY != 0;
    if status & TP_STATUS_VLAN_VALID != 0 && packet.bytes.len() >= 12 {
        let [t, t2] = tpid.to_be_bytes();
        let [c, c2] = tci.to_be_bytes();
        packet.bytes.splice(12..12, [t, t2, c, c2]);
        packet.length += 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(bytes: &[u8]) -> Packet {
        let (bytes, length) = (bytes.to_vec(), bytes.len());
        Packet { device: 1, outgoing: true, protocol: 0x800, time: 0, bytes, length, unfinished: false }
    }

    fn auxdata(status: u32, tci: u16, tpid: u16) -> Vec<u8> {
        [&status.to_ne_bytes()[..], &[0; 12], &tci.to_ne_bytes(), &tpid.to_ne_bytes()].concat()
    }

    #[test]
    fn tags_go_back_where_the_kernel_took_them_from() {
        let frame: Vec<u8> = (0..20).collect();
        let with = |status, tci, tpid| {
            let mut packet = packet(&frame);
            complete(&mut packet, &auxdata(status, tci, tpid));
            packet
        };
        let tagged = |tag: [u8; 4]| [&frame[..12], &tag, &frame[12..]].concat();
        assert_eq!(with(0x50, 0x200a, 0x88a8).bytes, tagged([0x88, 0xa8, 0x20, 0x0a]));
        assert_eq!(with(0x50, 0x200a, 0x88a8).length, 24);
        assert_eq!(with(0x10, 5, 0).bytes, tagged([0x81, 0, 0, 5]), "a kernel that does not tell the type");
        assert_eq!(with(0x50, 0, 0x8100).bytes, tagged([0x81, 0, 0, 0]), "a tag of zeros is a tag");
        assert_eq!(with(0, 7, 0x8100), packet(&frame));
        assert!(with(0x08, 0, 0).unfinished);
        let mut short = packet(&frame[..11]);
        complete(&mut short, &auxdata(0x50, 1, 0x8100));
        assert_eq!(short, packet(&frame[..11]));
        complete(&mut short, &[0x50; 19]);
        assert_eq!(short, packet(&frame[..11]));
    }

    /// Traffic may flow as the socket is opened, and fill the small buffer that it has at first.
    #[test]
    fn what_is_lost_before_the_filter_is_there_is_not_told() {
        // Where there is no CAP_NET_RAW nothing can be opened.
        let Ok(socket) = Tap::socket() else { return };
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let send = |count| {
            for _ in 0..count {
                udp.send_to(&[0; 1000], udp.local_addr().unwrap()).unwrap();
            }
        };
        // The default buffer holds some 200.
        send(2000);
        let mut tap = Tap::of(socket, 1 << 20).unwrap();
        let missing = tap.dropped;
        tap.watch(&[lo], u32::MAX).unwrap();
        send(3);
        let mut packets = Vec::new();
        while tap.take(&mut packets).unwrap() {}
        assert!(missing > 0 && packets.len() >= 6, "{missing} lost before, {} packets", packets.len());
        assert_eq!(tap.lost, 0);
    }

    #[test]
    fn times_are_nanoseconds_since_1970() {
        assert_eq!(nanoseconds(TimeSpec::new(1_700_000_000, 5)), 1_700_000_000_000_000_005);
        assert_eq!(nanoseconds(TimeSpec::new(-1, 0)), 0);
    }
}
