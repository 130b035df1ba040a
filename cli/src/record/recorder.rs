//! The recorder: sockets in, blocks of a trace out.
//!
//! It begins to listen, then dumps what is there, so that nothing is between; all that comes meanwhile is recorded. At the end it
//! dumps once more while frames go on to be recorded, and then shuts the packet socket: what the kernel counted up to the
//! place of a filter's dump is what the frames before that place made. When notifications were lost (ENOBUFS), the trace gets a
//! whole dump, marked as such ([`Snapshot::Again`]), and whoever reads it finds what changed: the trace holds nothing but what
//! the kernel said. Nothing is kept but the identities of filters, for the progress line.
//!
//! Actions made for themselves (`tc actions add`) are not dumped: a filter's dump and its notifications carry all attributes and
//! counters of its actions, also of those that it shares by index, and a change of one is told (RTM_NEWACTION). What an action of
//! that kind counts for filters of ports that are not recorded is not known to whoever reads the trace.
//!
//! A received fragment that `ct` reassembles may be recorded with bytes that the kernel changed afterwards: a packet socket's copy
//! shares its data with the packet that goes on, and reassembly of a packet without other users works in place.

use super::{
    order::{Item, Order, Told},
    ports::{Change, Ports, is_ethernet},
    talk::{self, Heard, Monitor, Talk},
    tap::{Packet, Tap, nanoseconds},
};
use anyhow::{Context, Result, bail};
use flowmerge::{
    flower::{ActionKind, FilterId, Hook, Port},
    netlink::{self, ConnectionEvent, Dump, Event, Link, LinkNames, Message, Names, Qdisc},
    trace::{Direction, Snapshot, Writer},
};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::utsname::uname,
    time::{ClockId, clock_gettime},
};
use std::{collections::BTreeSet, io::Write, os::fd::AsFd, thread, time::Duration};

/// Sizes of the sockets' buffers in bytes, as the kernel counts (it adds overhead, and charges some 800 bytes for the
/// smallest packet).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// Of the socket that has frames and the copies of netlink messages.
    pub packets: usize,
    /// Of each of the two sockets that have notifications.
    pub notifications: usize,
}

impl Default for Buffers {
    fn default() -> Buffers {
        Buffers { packets: 128 << 20, notifications: 64 << 20 }
    }
}

/// What a recording has come to so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Frames written.
    pub frames: u64,
    /// Netlink messages written, dumps included.
    pub messages: u64,
    /// Filters that are there.
    pub filters: u64,
    /// Connections that are there, as far as the kernel tells.
    pub connections: u64,
    /// Frames and messages that the kernel could not hand over: the packet socket's buffer was full.
    pub lost: u64,
    /// How often notifications were lost, a notification socket's buffer being full; each time all is dumped anew.
    pub overruns: u64,
    /// Messages without the kernel's time: they bear the time at which they were read.
    pub untimed: u64,
    /// What else whoever reads the trace should know.
    pub warnings: Vec<String>,
}

/// A recording under way.
pub struct Recorder<W: Write> {
    out: Writer<W>,
    tap: Tap,
    monitor: Monitor,
    listeners: [Talk; 2],
    askers: [Talk; 2],
    order: Order,
    /// The ports as heard, and as written: a message is written somewhat later than it is heard.
    ports: Ports,
    written: Ports,
    /// Frames whose checksum was left to the device, by port.
    unfinished: Vec<u64>,
    /// What became of ports since [`Recorder::news`] was called.
    news: Vec<String>,
    /// Devices that a dump showed, or of which something came meanwhile.
    present: BTreeSet<u32>,
    /// All devices, as told so far, and the highest index that one had.
    names: LinkNames,
    newest: u32,
    filters: BTreeSet<FilterId>,
    /// The dump from which filters and connections are counted.
    counted: Option<Snapshot>,
    /// Ports that filters redirect packets into.
    entered: BTreeSet<Port>,
    /// What filters can hang on, from the last dump of qdiscs.
    hooks: BTreeSet<Hook>,
    /// All is to be dumped: notifications were lost, or a device became a port that was there before, maybe with filters.
    stale: bool,
    /// No more frames are taken.
    ending: bool,
    progress: Progress,
}

/// How long a message may take from its copy on the `nlmon` device, which comes first, to the socket.
const LAG: u64 = 50_000_000;

/// Packets that one round takes at most, so that a flood does not fill the memory.
const ROUND: usize = 1 << 14;

impl<W: Write> Recorder<W> {
    /// Opens the sockets, writes the head and the first dumps into `out`.
    ///
    /// # Errors
    /// A port that does not exist, a privilege that is missing, an output that cannot be written. Nothing is written before the
    /// sockets are open.
    pub fn start(ports: &[String], out: W) -> Result<Recorder<W>> {
        Recorder::with_buffers(ports, Buffers::default(), out)
    }

    /// The same with other buffers.
    ///
    /// # Errors
    /// As of [`Recorder::start`].
    pub fn with_buffers(ports: &[String], buffers: Buffers, out: W) -> Result<Recorder<W>> {
        let devices = find(ports)?;
        let mut tap = Tap::open(buffers.packets)?;
        let [route, netfilter] = [netlink::ROUTE, netlink::NETFILTER];
        let mut monitor = Monitor::add()?;
        await_stamps(&mut tap, &mut monitor)?;
        // Only then, so that the device shows all that they get.
        let listeners = [Talk::listen(route, buffers.notifications)?, Talk::listen(netfilter, buffers.notifications)?];
        let ports = Ports::new(&devices);
        let monitor_index = monitor.index;
        let out = Writer::new(out, &ports.names(), &system()).context("cannot write the trace")?;
        let mut recorder = Recorder {
            out,
            tap,
            monitor,
            listeners,
            askers: [Talk::ask(route)?, Talk::ask(netfilter)?],
            order: Order::default(),
            written: ports.clone(),
            unfinished: vec![0; devices.len()],
            ports,
            news: Vec::new(),
            present: BTreeSet::new(),
            names: LinkNames::default(),
            newest: monitor_index,
            filters: BTreeSet::new(),
            counted: None,
            entered: BTreeSet::new(),
            hooks: BTreeSet::new(),
            stale: false,
            ending: false,
            progress: Progress::default(),
        };
        recorder.watch()?;
        recorder.snapshot(Snapshot::Start)?;
        Ok(recorder)
    }

    /// Takes what has come in; waits at most `timeout` for the first. Zero: does not wait. Comes back early when a signal does.
    ///
    /// # Errors
    /// A socket that fails, an output that cannot be written.
    pub fn take(&mut self, timeout: Duration) -> Result<()> {
        self.take_and_show(timeout, &mut |_, _| {})
    }

    /// The same, and shows each frame that went out of a port, by the port's index, as soon as it is seen.
    ///
    /// # Errors
    /// As of [`Recorder::take`].
    pub fn take_and_show(&mut self, timeout: Duration, show: &mut dyn FnMut(Port, &[u8])) -> Result<()> {
        if !timeout.is_zero() {
            let [route, netfilter] = &self.listeners;
            let mut sockets = [self.tap.as_fd(), route.as_fd(), netfilter.as_fd()]
                .map(|socket| PollFd::new(socket, PollFlags::POLLIN));
            match poll(&mut sockets, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e).context("cannot wait for packets"),
            }
        }
        self.round(u64::MAX, show)?;
        self.mend()
    }

    /// What it has come to so far.
    pub fn progress(&self) -> Progress {
        let mut progress = self.progress.clone();
        progress.lost = self.tap.lost;
        progress.filters = self.filters.len() as u64;
        for port in self.entered.iter().filter(|port| !self.written.ever(port.0)) {
            let name = self.names.name(port.0).unwrap_or_else(|| port.to_string());
            progress
                .warnings
                .push(format!("filters redirect packets into {name}, which is not recorded: name it, too"));
        }
        for (port, count) in self.written.names().iter().zip(&self.unfinished).filter(|(_, count)| **count > 0) {
            progress.warnings.push(format!(
                "{count} of {port}'s frames had their checksum left to the device, so that other bytes go over the wire: \
                 turn that off before recording (ethtool -K {port} tx off)"
            ));
        }
        progress
    }

    /// What became of ports since this was called last: whether they went, came back, were renamed.
    pub fn news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// Hands what was recorded on to the system, so that it is there should the process be killed.
    ///
    /// # Errors
    /// The output's.
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().context("cannot write the trace")
    }

    /// Takes what is still there, dumps again, hands back the writer and the sums.
    ///
    /// # Errors
    /// As of [`Recorder::take`].
    pub fn finish(mut self) -> Result<(W, Progress)> {
        self.round(u64::MAX, &mut |_, _| {})?;
        self.mend()?;
        self.snapshot(Snapshot::End)?;
        // No more frames; then no more messages, whose copies are all in the queue now.
        self.ending = true;
        self.watch()?;
        self.listen()?;
        // The socket tells of loss with the next packet, so there shall be one more.
        self.monitor.poke()?;
        let mut packets = Vec::new();
        while self.tap.take(&mut packets)? {}
        self.put(packets, true, u64::MAX)?;
        let mut progress = self.progress();
        progress.warnings.extend(self.news());
        if progress.lost > 0 {
            self.out.lost(now()?, progress.lost).context("cannot write the trace")?;
        }
        self.flush()?;
        Ok((self.out.into_inner(), progress))
    }

    /// Tells the packet socket which devices count.
    fn watch(&self) -> Result<()> {
        if self.ending {
            return self.tap.watch(&[self.monitor.index], u32::MAX);
        }
        let devices: Vec<u32> = self.ports.indices().chain([self.monitor.index]).collect();
        self.tap.watch(&devices, self.newest)
    }

    /// What may be missing is dumped.
    fn mend(&mut self) -> Result<()> {
        if std::mem::take(&mut self.stale) {
            self.snapshot(Snapshot::Again)?;
        }
        Ok(())
    }

    /// Takes what has come in. What the kernel said from `open` on (nanoseconds) may not have been read yet.
    fn round(&mut self, open: u64, show: &mut dyn FnMut(Port, &[u8])) -> Result<()> {
        // First what was told, so that its copies are among the packets.
        self.listen()?;
        let (mut packets, mut more) = (Vec::new(), true);
        while more && packets.len() < ROUND {
            more = self.tap.take(&mut packets)?;
        }
        for packet in packets.iter().filter(|p| p.outgoing && p.device != self.monitor.index) {
            show(Port(packet.device), &packet.bytes);
        }
        let until = open.min(now()?.saturating_sub(LAG));
        self.put(packets, !more, until)
    }

    /// Puts packets and what was told together, and writes what is certain. `emptied` if these are all packets that there were.
    fn put(&mut self, packets: Vec<Packet>, emptied: bool, until: u64) -> Result<()> {
        if emptied {
            self.order.emptied();
        }
        for packet in packets {
            let monitor = packet.device == self.monitor.index;
            self.order.see(packet, monitor);
        }
        if until < u64::MAX {
            self.listen()?;
        }
        for item in self.order.settle(until) {
            match item {
                Item::Frame(packet) => self.frame(&packet)?,
                Item::Messages(told, time) => self.messages(&told, time)?,
            }
        }
        Ok(())
    }

    /// Reads all notifications that are there.
    fn listen(&mut self) -> Result<()> {
        for i in 0..self.listeners.len() {
            loop {
                match self.listeners[i].hear()? {
                    Heard::Nothing => break,
                    Heard::Overrun => {
                        self.stale = true;
                        self.progress.overruns += 1;
                    }
                    Heard::Datagram(bytes) => {
                        let family = self.listeners[i].family;
                        self.learn(family, &bytes)?;
                        self.order.tell(Told { family, bytes, snapshot: None });
                    }
                }
            }
        }
        Ok(())
    }

    /// Follows the devices: a port may go and come back under another index.
    fn learn(&mut self, family: u16, bytes: &[u8]) -> Result<()> {
        if family != netlink::ROUTE {
            return Ok(());
        }
        let newest = self.newest;
        let mut changes = Vec::new();
        for message in netlink::messages(bytes) {
            // RTM_NEWLINK and RTM_DELLINK; the others cost more to read.
            if !matches!(message[4..6], [16 | 17, 0] | [0, 16 | 17]) {
                continue;
            }
            let Ok(told) = netlink::decode(family, message, &self.names) else { continue };
            let (Message::Link(Link { index, .. }) | Message::LinkGone(Link { index, .. })) = told.message else {
                continue;
            };
            let was_there = self.names.name(index).is_some() && self.ports.of(index).is_none();
            self.names.learn(&told.message);
            changes.extend(self.ports.follow(&told.message));
            if let Message::Link(_) = told.message {
                self.present.insert(index);
                self.newest = self.newest.max(index);
                // It may have filters that nobody told of.
                self.stale |= was_there && self.ports.of(index).is_some();
            }
        }
        if self.newest > newest || !changes.is_empty() { self.changed(&changes) } else { Ok(()) }
    }

    fn changed(&mut self, changes: &[Change]) -> Result<()> {
        self.news.extend(changes.iter().map(ToString::to_string));
        self.watch()
    }

    /// Dumps everything: devices and qdiscs, of each recorded port chains and filters of both sides, its own and those of the
    /// blocks that it shares; connections last.
    fn snapshot(&mut self, what: Snapshot) -> Result<()> {
        self.counted = None;
        self.present.clear();
        self.dump(Dump::Links, what)?;
        let gone = self.ports.keep(&self.present);
        self.changed(&gone)?;
        self.hooks.clear();
        self.dump(Dump::Qdiscs, what)?;
        for hook in self.hooks.clone() {
            self.dump(Dump::Chains(hook), what)?;
            self.dump(Dump::Filters(hook), what)?;
        }
        self.dump(Dump::Connections, what)
    }

    fn dump(&mut self, dump: Dump, snapshot: Snapshot) -> Result<()> {
        // The kernel says of some dumps that something changed under them.
        const TRIES: usize = 5;
        for _ in 0..TRIES {
            if !self.dump_once(dump, snapshot).with_context(|| format!("cannot dump {}", in_words(dump)))? {
                return Ok(());
            }
        }
        self.progress.warnings.push(format!("the dump of {} changed while it was made", in_words(dump)));
        Ok(())
    }

    /// Whether something changed while it was made.
    fn dump_once(&mut self, dump: Dump, snapshot: Snapshot) -> Result<bool> {
        let (family, asker) = (dump.family(), usize::from(dump.family() == netlink::NETFILTER));
        self.askers[asker].send(dump.request())?;
        let mut interrupted = false;
        loop {
            // The kernel makes the next datagram while this one is read.
            let open = now()?;
            let Heard::Datagram(bytes) = self.askers[asker].hear()? else { continue };
            let mut done = false;
            for message in netlink::messages(&bytes) {
                // Not read but for its flags and what it takes to go on.
                let flags = u16::from_ne_bytes([message[6], message[7]]);
                interrupted |= flags & NLM_F_DUMP_INTR != 0;
                match netlink::decode(family, message, &self.names).map(|told| told.message) {
                    Ok(Message::Done) => done = true,
                    Ok(Message::Error { code }) if code != 0 => return Err(Errno::from_raw(-code).into()),
                    Ok(Message::Qdisc(qdisc)) => self.hooks.extend(self.hooks_of(&qdisc)),
                    _ => {}
                }
            }
            self.learn(family, &bytes)?;
            self.order.tell(Told { family, bytes, snapshot: Some(snapshot) });
            self.round(open, &mut |_, _| {})?;
            if done {
                return Ok(interrupted);
            }
        }
    }

    /// What filters can hang on at a qdisc of a recorded port.
    fn hooks_of(&self, qdisc: &Qdisc) -> Vec<Hook> {
        let port = Port(qdisc.index);
        let ingress = qdisc.ingress_block.map_or(Hook::Ingress(port), Hook::Block);
        let egress = qdisc.egress_block.map_or(Hook::Egress(port), Hook::Block);
        match qdisc.kind.as_str() {
            _ if self.ports.of(qdisc.index).is_none() => vec![],
            "ingress" => vec![ingress],
            "clsact" => vec![ingress, egress],
            _ => vec![],
        }
    }

    fn frame(&mut self, packet: &Packet) -> Result<()> {
        // Of a device that was a port until just before, or is not yet one, as far as is written.
        let Some(port) = self.written.of(packet.device) else { return Ok(()) };
        let direction = if packet.outgoing { Direction::Outbound } else { Direction::Inbound };
        self.unfinished[port] += u64::from(packet.unfinished && packet.outgoing);
        self.progress.frames += 1;
        self.out.frame(port, packet.time, direction, &packet.bytes, packet.length).context("cannot write the trace")
    }

    fn messages(&mut self, told: &Told, time: Option<u64>) -> Result<()> {
        if told.snapshot.is_some() && self.counted != told.snapshot {
            self.counted = told.snapshot;
            self.filters.clear();
            self.progress.connections = 0;
        }
        for message in netlink::messages(&told.bytes) {
            self.progress.messages += 1;
            self.progress.untimed += u64::from(time.is_none());
            if let Ok(envelope) = netlink::decode(told.family, message, &self.names) {
                self.count(&envelope.message);
                self.written.follow(&envelope.message);
            }
        }
        let time = time.map_or_else(now, Ok)?;
        self.out.messages(told.family, time, &told.bytes, told.snapshot).context("cannot write the trace")
    }

    /// Keeps count of what is there.
    fn count(&mut self, message: &Message) {
        match message {
            Message::Filter(told) => {
                if told.event == Event::Gone {
                    self.filters.remove(&told.filter.id);
                    return;
                }
                self.filters.insert(told.filter.id);
                let entered = told.filter.actions.iter().filter_map(|action| match action.kind {
                    ActionKind::Mirred(mirred) if mirred.ingress => Some(mirred.port),
                    _ => None,
                });
                self.entered.extend(entered);
            }
            Message::FiltersGone { hook, chain, prio, .. } => {
                self.filters.retain(|id| (id.hook, id.chain, id.prio) != (*hook, *chain, *prio));
            }
            Message::QdiscGone(qdisc) if matches!(qdisc.kind.as_str(), "clsact" | "ingress") => {
                self.forget(Port(qdisc.index));
            }
            Message::LinkGone(link) => self.forget(Port(link.index)),
            Message::Connection { event: ConnectionEvent::New | ConnectionEvent::Dump, .. } => {
                self.progress.connections += 1;
            }
            Message::Connection { event: ConnectionEvent::Destroy, .. } => {
                self.progress.connections = self.progress.connections.saturating_sub(1);
            }
            _ => {}
        }
    }

    /// A port's own filters go with its qdisc.
    fn forget(&mut self, port: Port) {
        self.filters.retain(|id| ![Hook::Ingress(port), Hook::Egress(port)].contains(&id.hook));
    }
}

/// The devices of these names, or other names by which the kernel knows them; each once.
fn find(ports: &[String]) -> Result<Vec<Link>> {
    let links = talk::links()?;
    let mut found: Vec<Link> = Vec::new();
    for name in ports {
        let index = match if_nametoindex(name.as_str()) {
            Ok(index) => index,
            Err(Errno::ENODEV) => bail!("there is no port {name}"),
            Err(e) => return Err(e).with_context(|| format!("cannot find port {name}")),
        };
        let link = links.iter().find(|link| link.index == index);
        let link = link.with_context(|| format!("there is no port {name}"))?;
        if !is_ethernet(link) {
            bail!("port {name}: its packets are not Ethernet frames (ARPHRD_* {})", link.link_layer);
        }
        if found.iter().all(|other| other.index != index) {
            found.push(link.clone());
        }
    }
    Ok(found)
}

/// linux/netlink.h.
const NLM_F_DUMP_INTR: u16 = 0x10;

/// Waits until the kernel stamps packets: it begins a moment after the first socket asked for it, and until then a packet's time
/// is that of reading it.
fn await_stamps(tap: &mut Tap, monitor: &mut Monitor) -> Result<()> {
    tap.watch(&[monitor.index], u32::MAX)?;
    // A second is far more than it takes; a kernel that never stamps is recorded with the times of reading.
    for _ in 0..1000 {
        monitor.poke()?;
        let asked = now()?;
        let mut packets = Vec::new();
        while tap.take(&mut packets)? {}
        if packets.first().is_some_and(|packet| packet.time <= asked) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn in_words(dump: Dump) -> String {
    match dump {
        Dump::Links => "devices".to_owned(),
        Dump::Qdiscs => "qdiscs".to_owned(),
        Dump::Chains(hook) => format!("the chains of {hook}"),
        Dump::Filters(hook) => format!("the filters of {hook}"),
        Dump::Connections => "connections".to_owned(),
    }
}

/// Nanoseconds since 1970, by the clock that the kernel stamps packets with.
fn now() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_REALTIME).context("cannot read the clock")?;
    Ok(nanoseconds(time))
}

/// The kernel's name and release.
fn system() -> String {
    let Ok(name) = uname() else { return "Linux".to_owned() };
    format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy())
}
