//! The recorder's netlink sockets: one for each family that listens, one that asks; and the `nlmon` device.

use super::tap::set_room;
use anyhow::{Context, Result, anyhow, bail};
use flowmerge::netlink::{self, Dump, Link, LinkNames, Message};
use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use nix::{errno::Errno, net::if_::if_nametoindex};
use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddress, UnixDatagram},
    },
};

/// Room for the longest datagram: the kernel's own dumps come in 32 KiB at most.
const ROOM: usize = 1 << 17;

/// Masks of the groups that are listened to: RTNLGRP_LINK and RTNLGRP_TC (which has qdiscs, chains, filters and actions), and
/// NFNLGRP_CONNTRACK_NEW, _UPDATE and _DESTROY.
const ROUTE_GROUPS: u32 = 1 | 1 << 3;
const CONNTRACK_GROUPS: u32 = 0b111;

/// A netlink socket.
pub struct Talk {
    socket: Socket,
    /// The netlink family.
    pub family: u16,
    buffer: Vec<u8>,
    sequence: u32,
}

/// What a socket has.
pub enum Heard {
    /// A datagram.
    Datagram(Vec<u8>),
    /// Nothing now.
    Nothing,
    /// Its buffer was full, and messages were lost.
    Overrun,
}

impl Talk {
    /// A socket that gets the notifications of a family.
    ///
    /// # Errors
    /// No such family in the kernel, or no CAP_NET_ADMIN for conntrack.
    pub fn listen(family: u16, room: usize) -> Result<Talk> {
        let groups = if family == netlink::ROUTE { ROUTE_GROUPS } else { CONNTRACK_GROUPS };
        let talk = Talk::open(family, groups)?;
        set_room(&talk, room).context("cannot size a netlink socket's buffer")?;
        talk.socket.set_non_blocking(true)?;
        Ok(talk)
    }

    /// A socket that asks.
    ///
    /// # Errors
    /// No such family in the kernel.
    pub fn ask(family: u16) -> Result<Talk> {
        Talk::open(family, 0)
    }

    fn open(family: u16, groups: u32) -> Result<Talk> {
        let name = if family == netlink::ROUTE { "rtnetlink" } else { "ctnetlink" };
        let protocol = if family == netlink::ROUTE { NETLINK_ROUTE } else { NETLINK_NETFILTER };
        let mut socket = Socket::new(protocol).with_context(|| format!("cannot open a socket of {name}"))?;
        socket.bind(&SocketAddr::new(0, groups)).map_err(|e| match e.raw_os_error() {
            Some(libc::EPERM) => lacks_net_admin(&format!("to listen to {name}")),
            _ => anyhow!(e).context(format!("cannot listen to {name}")),
        })?;
        Ok(Talk { socket, family, buffer: Vec::with_capacity(ROOM), sequence: 0 })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// The socket's.
    pub fn send(&mut self, mut request: Vec<u8>) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        netlink::number(&mut request, self.sequence);
        self.socket.send_to(&request, &SocketAddr::new(0, 0), 0).map(drop)
    }

    /// The next datagram; waits for it unless the socket listens.
    ///
    /// # Errors
    /// The socket's.
    pub fn hear(&mut self) -> Result<Heard> {
        self.buffer.clear();
        loop {
            return match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(length) if length > self.buffer.len() => {
                    bail!("a netlink datagram of {length} bytes, where at most {ROOM} were expected")
                }
                Ok(_) => Ok(Heard::Datagram(self.buffer.clone())),
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EAGAIN) => Ok(Heard::Nothing),
                    Some(libc::ENOBUFS) => Ok(Heard::Overrun),
                    _ => Err(e).context("cannot read from a netlink socket"),
                },
            };
        }
    }

    /// Sends a request and waits for its answer; the kernel's errno if it refuses.
    ///
    /// # Errors
    /// The socket's.
    pub fn call(&mut self, request: Vec<u8>) -> Result<Result<(), Errno>> {
        self.send(request)?;
        loop {
            let Heard::Datagram(bytes) = self.hear()? else { continue };
            for message in netlink::messages(&bytes) {
                let told = netlink::decode(self.family, message, &LinkNames::default());
                let Ok(netlink::Envelope { sequence, message: Message::Error { code }, .. }) = told else { continue };
                if sequence == self.sequence {
                    return Ok(if code == 0 { Ok(()) } else { Err(Errno::from_raw(-code)) });
                }
            }
        }
    }
}

impl AsFd for Talk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// All devices of this network namespace.
///
/// # Errors
/// The socket's.
pub fn links() -> Result<Vec<Link>> {
    let mut talk = Talk::ask(netlink::ROUTE)?;
    talk.send(Dump::Links.request())?;
    let mut links = Vec::new();
    loop {
        let Heard::Datagram(bytes) = talk.hear()? else { continue };
        for message in netlink::messages(&bytes) {
            match netlink::decode(netlink::ROUTE, message, &LinkNames::default()).map(|told| told.message) {
                Ok(Message::Link(link)) => links.push(link),
                Ok(Message::Done) => return Ok(links),
                Ok(Message::Error { code }) if code != 0 => {
                    return Err(Errno::from_raw(-code)).context("cannot list the devices");
                }
                _ => {}
            }
        }
    }
}

/// What takes a privilege that is not there.
fn lacks_net_admin(what: &str) -> anyhow::Error {
    anyhow!("CAP_NET_ADMIN is missing, which it takes {what} (run as root, or in a user and network namespace)")
}

/// An `nlmon` device of the recorder's own, up as long as this lives. (One that is there could be taken down by its owner.)
///
/// A recorder that is killed leaves its device behind. So each holds a socket of the device's name in the abstract namespace, which,
/// as devices do, belongs to the network namespace, and which ends with the process: a device whose socket is free is nobody's.
pub struct Monitor {
    talk: Talk,
    _owner: UnixDatagram,
    /// Its index.
    pub index: u32,
}

impl Monitor {
    /// Adds one under a name that is free.
    ///
    /// # Errors
    /// No CAP_NET_ADMIN, or a kernel without such devices.
    pub fn add() -> Result<Monitor> {
        let mut talk = Talk::ask(netlink::ROUTE)?;
        for number in 0..=u32::MAX {
            let name = format!("flowmerge{number}");
            let address = UnixAddress::from_abstract_name(&name).context("cannot name a socket")?;
            let owner = match UnixDatagram::bind_addr(&address) {
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => continue,
                owner => owner.with_context(|| format!("cannot bind a socket to the name {name}"))?,
            };
            let mut added = talk.call(netlink::add_monitor(&name))?;
            if added == Err(Errno::EEXIST)
                && let Some(left) = links()?.into_iter().find(|l| l.name == name && l.kind.as_deref() == Some("nlmon"))
            {
                // That it is gone meanwhile, or may not be removed, the second attempt tells.
                let _ = talk.call(netlink::remove_link(left.index))?;
                added = talk.call(netlink::add_monitor(&name))?;
            }
            match added {
                Ok(()) => {
                    let index = if_nametoindex(name.as_str()).with_context(|| format!("cannot find {name}"))?;
                    return Ok(Monitor { talk, _owner: owner, index });
                }
                Err(Errno::EEXIST) => {}
                Err(Errno::EPERM) => return Err(lacks_net_admin("to add an nlmon device")),
                Err(Errno::EOPNOTSUPP) => {
                    bail!("this kernel has no nlmon devices (CONFIG_NLMON), which tell when the kernel said something")
                }
                Err(e) => return Err(e).context("cannot add an nlmon device"),
            }
        }
        bail!("no name is free for an nlmon device")
    }

    /// Makes the kernel say something, which the device shows.
    ///
    /// # Errors
    /// The socket's.
    pub fn poke(&mut self) -> Result<()> {
        self.talk.call(netlink::no_operation())?.context("rtnetlink does not answer")
    }
}

impl Drop for Monitor {
    /// Nothing to be done if it is gone already.
    fn drop(&mut self) {
        let _ = self.talk.call(netlink::remove_link(self.index));
    }
}
