//! Requests to the kernel, many in one datagram, each with its answer; and the frames that hosts put on the cables.

use crate::case::Devices;
use anyhow::{Context, Result, bail};
use flowmerge::{
    flower::{Hook, Port},
    netlink::{self, Dump, FilterMessage, Message, Names},
};
use netlink_sys::{Socket, SocketAddr, protocols};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto, socket},
};
use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::{Read, Seek},
    os::fd::{AsRawFd, OwnedFd},
    thread::yield_now,
    time::{Duration, Instant},
};

const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16;
/// Bytes of requests in one datagram.
const DATAGRAM: usize = 1 << 16;

/// A socket for requests.
pub struct Kernel {
    route: Socket,
    sequence: u32,
}

impl Kernel {
    /// Opens it.
    pub fn open() -> Result<Kernel> {
        let open = || {
            let mut route = Socket::new(protocols::NETLINK_ROUTE)?;
            route.bind_auto()?;
            route.connect(&SocketAddr::new(0, 0))?;
            Ok::<_, std::io::Error>(Kernel { route, sequence: 0 })
        };
        open().context("an rtnetlink socket")
    }

    /// Asks rtnetlink for all of these, in order; the answer to each.
    ///
    /// # Errors
    /// The socket fails; a refusal of the kernel's is no such error.
    pub fn ask(&mut self, mut requests: Vec<Vec<u8>>) -> Result<Vec<Result<(), Errno>>> {
        let mut answers = Vec::with_capacity(requests.len());
        while !requests.is_empty() {
            let mut size = 0;
            let fit = requests.iter().take_while(|r| {
                size += r.len();
                size <= DATAGRAM
            });
            let count = fit.count().max(1);
            let batch: Vec<_> = requests.drain(..count).collect();
            answers.extend(converse(&self.route, &mut self.sequence, batch)?);
        }
        Ok(answers)
    }

    /// The filters of a hook, of all chains, with their counters.
    ///
    /// # Errors
    /// The socket fails, or the kernel says what cannot be read.
    pub fn filters(&mut self, hook: Hook, names: &dyn Names) -> Result<Vec<FilterMessage>> {
        let mut request = Dump::Filters(hook).request();
        self.sequence = self.sequence.wrapping_add(1);
        netlink::number(&mut request, self.sequence);
        self.route.send(&request, 0).context("sending to netlink")?;
        let mut filters = Vec::new();
        loop {
            let (bytes, _) = self.route.recv_from_full().context("receiving from netlink")?;
            for message in netlink::messages(&bytes) {
                match netlink::decode(netlink::ROUTE, message, names)?.message {
                    Message::Filter(told) => filters.push(*told),
                    Message::Done | Message::Error { .. } => return Ok(filters),
                    _ => {}
                }
            }
        }
    }

    /// As [`Kernel::ask`], where a refusal is an error that names what was asked.
    pub fn must(&mut self, what: &str, requests: Vec<Vec<u8>>) -> Result<()> {
        for answer in self.ask(requests)? {
            answer.with_context(|| format!("the kernel refuses: {what}"))?;
        }
        Ok(())
    }
}

/// Sends requests and waits for their answers.
fn converse(socket: &Socket, sequence: &mut u32, requests: Vec<Vec<u8>>) -> Result<Vec<Result<(), Errno>>> {
    let first = sequence.wrapping_add(1);
    let mut datagram = Vec::new();
    for mut request in requests.iter().cloned() {
        *sequence = sequence.wrapping_add(1);
        request[8..12].copy_from_slice(&sequence.to_ne_bytes());
        request.resize(request.len().next_multiple_of(4), 0);
        datagram.extend(request);
    }
    socket.send(&datagram, 0).context("sending to netlink")?;
    let mut answers: Vec<Option<Result<(), Errno>>> = vec![None; requests.len()];
    while answers.iter().any(Option::is_none) {
        let (bytes, _) = socket.recv_from_full().context("receiving from netlink")?;
        let mut rest = &bytes[..];
        while rest.len() > HEADER {
            let u32_at = |at: usize| rest.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b));
            let (Some(length), Some(number)) = (u32_at(0), u32_at(8)) else { break };
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            if kind == NLMSG_ERROR {
                let code = u32_at(HEADER).context("an answer without a number")? as i32;
                let place = number.wrapping_sub(first) as usize;
                let Some(answer) = answers.get_mut(place) else {
                    bail!("an answer to request {number}, which was not sent")
                };
                *answer = Some(if code == 0 { Ok(()) } else { Err(Errno::from_raw(-code)) });
            }
            rest = rest.get((length as usize).next_multiple_of(4).max(HEADER)..).unwrap_or_default();
        }
    }
    Ok(answers.into_iter().flatten().collect())
}

/// Waits until frames may go through devices. A device whose cable was put in after it was set up throws all frames away, without
/// a word, until the kernel's link watch has had its turn (`noop_qdisc`; `linkwatch_do_dev`); then it is said to be running.
pub fn wait_until_running(names: &BTreeSet<String>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let all = getifaddrs().context("the devices' state")?;
        let running = all.filter(|interface| interface.flags.contains(InterfaceFlags::IFF_RUNNING));
        let running: BTreeSet<String> = running.map(|interface| interface.interface_name).collect();
        let Some(waiting) = names.difference(&running).next() else { return Ok(()) };
        if Instant::now() > end {
            bail!("{waiting} is up, and after 10 s still not running");
        }
        yield_now();
    }
}

/// Frames that were put on cables and that the kernel has not looked at yet. Mostly there are none: it does so before the call that
/// sends returns; but while its own thread for that work is awake (`ksoftirqd`) all is left to it, as long as this process runs.
pub struct Backlog(File);

impl Backlog {
    /// Opens it.
    pub fn open() -> Result<Backlog> {
        Ok(Backlog(File::open(SOFTNET).context(SOFTNET)?))
    }

    /// Waits until there are none.
    pub fn wait_until_empty(&mut self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while self.length().context(SOFTNET)? > 0 {
            if Instant::now() > end {
                bail!("the kernel has frames that it does not look at for 10 s");
            }
            // To the kernel's own thread, which has the work; no need to sleep.
            yield_now();
        }
        Ok(())
    }

    fn length(&mut self) -> Result<u64> {
        let mut text = String::new();
        self.0.rewind()?;
        self.0.read_to_string(&mut text)?;
        backlog(&text)
    }
}

/// A line for each processor, of numbers; the twelfth is the length of its queues (`softnet_seq_show`).
const SOFTNET: &str = "/proc/net/softnet_stat";

fn backlog(text: &str) -> Result<u64> {
    let lengths = text.lines().map(|line| {
        let word = line.split_whitespace().nth(11).context("a line without the length of the queue")?;
        Ok(u64::from_str_radix(word, 16)?)
    });
    lengths.sum()
}

/// What hosts send through: a packet socket, and the hosts' devices.
pub struct Cables {
    socket: OwnedFd,
    hosts: HashMap<Port, LinkAddr>,
}

impl Cables {
    /// Opens the socket. The devices must be there.
    pub fn open(devices: &Devices) -> Result<Cables> {
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).context("a packet socket")?;
        let mut addresses: HashMap<String, LinkAddr> = HashMap::new();
        for interface in getifaddrs().context("the devices' addresses")? {
            if let Some(link) = interface.address.and_then(|address| address.as_link_addr().copied()) {
                addresses.insert(interface.interface_name, link);
            }
        }
        let mut hosts = HashMap::new();
        for port in devices.ports() {
            let name = Devices::host_name(port);
            let link = addresses.get(&name).with_context(|| format!("there is no device {name}"))?;
            hosts.insert(port, *link);
        }
        Ok(Cables { socket, hosts })
    }

    /// Sends a frame into a port. False if its cable is not in, or the frame longer than it carries.
    pub fn send(&self, port: Port, frame: &[u8]) -> Result<bool> {
        match sendto(self.socket.as_raw_fd(), frame, &self.hosts[&port], MsgFlags::empty()) {
            Ok(_) => Ok(true),
            Err(Errno::ENETDOWN | Errno::ENXIO | Errno::ENOBUFS | Errno::EMSGSIZE) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("sending {} bytes into {port}", frame.len())),
        }
    }
}

/// What goes up to the machine's own stack: IP that TC lets pass. A socket for one protocol gets that alone, while one for all
/// protocols is given packets before TC.
pub struct Stack {
    sockets: [OwnedFd; 2],
    buffer: Vec<u8>,
}

impl Stack {
    /// Opens it; what comes from now on is kept.
    pub fn open() -> Result<Stack> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let open = |protocol| socket(AddressFamily::Packet, SockType::Raw, flags, protocol).context("a packet socket");
        let sockets = [open(SockProtocol::EthIp)?, open(SockProtocol::EthIpv6)?];
        Ok(Stack { sockets, buffer: vec![0; 1 << 16] })
    }

    /// Takes what has come, with the device that it seems to have come in at: without a tag, should it have had one.
    pub fn take(&mut self) -> Result<Vec<(Port, Vec<u8>)>> {
        let mut all = Vec::new();
        for socket in &self.sockets {
            loop {
                match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut self.buffer) {
                    Ok((length, Some(from))) => all.push((Port(from.ifindex() as u32), self.buffer[..length].to_vec())),
                    Ok((_, None)) => {}
                    Err(Errno::EAGAIN) => break,
                    Err(error) => return Err(error).context("packets of the stack"),
                }
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queues_of_all_processors_count() {
        let line = |length| format!("{}{length} 00000000\n", "00000007 ".repeat(11));
        assert_eq!(backlog(&(line("00000010") + &line("00000002"))).unwrap(), 18);
        assert!(backlog("00000010 00000002\n").is_err());
    }
}
