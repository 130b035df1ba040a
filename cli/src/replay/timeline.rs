//! A trace in the order in which it is replayed: what was there at the start, then step by step what happened, and what
//! the kernel had counted at the end.
//!
//! What a dump is for is told with it; in a trace that does not say so the dumps before the last frame are the state at the
//! start, the dump after it is the answer. A dump that was made since notifications were lost becomes the notifications
//! that were missed (`mended`). Ports are interfaces that the link messages give an index, which may change.

use super::{mended::Picture, tunnels::Tunnels};
use anyhow::{Context, Result, bail};
use flowmerge::{
    flower::{ActionKind, FilterId, Hook, Port, action::Mirred},
    netlink::{Envelope, FilterMessage, Message},
    trace::{Body, Direction, ETHERNET, Interface, Record, Snapshot, Trace},
};
use std::collections::{BTreeMap, BTreeSet};

/// A run.
pub struct Timeline {
    /// The trace's name.
    pub name: String,
    /// Packets in the file.
    pub packets: u64,
    /// Names of all devices.
    pub names: BTreeMap<Port, String>,
    /// The ports whose frames were recorded.
    pub recorded: BTreeSet<Port>,
    /// The ports that have filters at their ingress at some time of the run, their own or a shared block's.
    pub filtered: BTreeSet<Port>,
    /// The ports that nothing of the run can send to: no filter does, and no bridge or Open vSwitch has them. What leaves there
    /// is the machine's own.
    pub beside: BTreeSet<Port>,
    /// The outer packets of frames on tunnel devices.
    pub tunnels: Tunnels,
    /// Whether Open vSwitch's own datapath is there to take what TC leaves.
    pub has_ovs: bool,
    /// The state at the start.
    pub start: Vec<Envelope>,
    /// Position of the first step after it was told.
    pub ready: usize,
    /// What happened, by time.
    pub steps: Vec<Step>,
    /// The filters of the last dump, each once, of a trace that does not say where it stands among the frames.
    pub last: Vec<FilterMessage>,
}

/// Something that happened.
pub struct Step {
    /// Number of the packet in the file.
    pub number: u64,
    /// Nanoseconds; never less than before.
    pub time: u64,
    /// As recorded: a packet is stamped once, and where it comes up again, out of a tunnel, it has that time.
    pub stamp: u64,
    /// What.
    pub what: What,
}

/// What happened.
pub enum What {
    /// A frame came in.
    Received(Port, Vec<u8>),
    /// A frame went out.
    Sent(Port, Vec<u8>),
    /// The kernel told of something.
    Told(Envelope),
    /// So much had a filter of the start counted here: frames came while the state at the start was being told.
    Counted(Box<FilterMessage>),
    /// So much had a filter counted here, at the end: the answer.
    Last(Box<FilterMessage>),
}

impl Timeline {
    /// Puts a trace in order.
    ///
    /// # Errors
    /// A frame without a direction, cut short, or of a device that no message tells of, or no dump at the end.
    pub fn new(trace: Trace) -> Result<Timeline> {
        let Trace { name, interfaces, records } = trace;
        let mut names = BTreeMap::new();
        let mut blocks: BTreeMap<u32, BTreeSet<Port>> = BTreeMap::new();
        let mut hooks = BTreeSet::new();
        let mut has_ovs = false;
        for record in &records {
            match &record.body {
                Body::Message(Envelope { message, .. }) => match message {
                    Message::Link(link) => {
                        names.insert(Port(link.index), link.name.clone());
                        has_ovs |= link.kind.as_deref() == Some("openvswitch");
                    }
                    Message::Qdisc(qdisc) => {
                        if let Some(block) = qdisc.ingress_block {
                            blocks.entry(block).or_default().insert(Port(qdisc.index));
                        }
                    }
                    Message::Filter(f) => drop(hooks.insert(f.filter.id.hook)),
                    _ => {}
                },
                Body::Frame { .. } => {}
            }
        }
        let mut ports = Ports::new(&interfaces, &records);
        let recorded = ports.all(&records);
        let filtered = hooks
            .into_iter()
            .flat_map(|hook| match hook {
                Hook::Ingress(port) => BTreeSet::from([port]),
                Hook::Egress(_) => BTreeSet::new(),
                Hook::Block(block) => blocks.get(&block).cloned().unwrap_or_default(),
            })
            .collect();

        let is_frame = |body: &Body| matches!(body, Body::Frame { .. });
        let last_frame = records.iter().rposition(|r| is_frame(&r.body));
        let packets = records.iter().map(|r| r.number).max().unwrap_or_default();
        let (mut start, mut steps) = (Vec::new(), Vec::new());
        let mut last: BTreeMap<FilterId, FilterMessage> = BTreeMap::new();
        let mut answered = false;
        let says_dumps = records.iter().any(|record| record.snapshot.is_some());
        let mut picture = Picture::default();
        let (mut answers, mut time) = (BTreeSet::new(), 0);
        // A dump is as old as its first message.
        let (mut ready, mut dump) = (0, None);
        for (i, record) in records.into_iter().enumerate() {
            // A frame that was stamped as it was queued was worked on after what stands before it.
            time = record.time.max(time);
            let (number, stamp) = (record.number, record.time);
            if let Body::Message(envelope) = &record.body {
                ports.follow(&envelope.message);
            }
            let what = match record.body {
                Body::Message(envelope) if says_dumps && envelope.is_dump() => {
                    match (record.snapshot, &envelope.message) {
                        (Some(Snapshot::Start), message) => {
                            picture.follow(message);
                            if let Message::Filter(filter) = message
                                && !steps.is_empty()
                            {
                                steps.push(Step { number, time, stamp, what: What::Counted(filter.clone()) });
                            }
                            start.push(envelope);
                            ready = steps.len();
                        }
                        (Some(Snapshot::Again), _) => {
                            let missed = picture.mend(envelope);
                            steps.extend(missed.into_iter().map(|e| Step { number, time, stamp, what: What::Told(e) }));
                        }
                        (Some(Snapshot::End), Message::Filter(filter)) => {
                            if answers.insert(filter.filter.id) {
                                steps.push(Step { number, time, stamp, what: What::Last(filter.clone()) });
                            }
                        }
                        (Some(Snapshot::End), message) => answered |= *message == Message::Done,
                        (None, _) => {}
                    }
                    continue;
                }
                Body::Message(envelope) if envelope.is_dump() => {
                    let at_end = last_frame.is_none_or(|frame| i > frame);
                    answered |= at_end && envelope.message == Message::Done;
                    if at_end && let Message::Filter(filter) = &envelope.message {
                        last.insert(filter.filter.id, (**filter).clone());
                    }
                    if !at_end || last_frame.is_none() {
                        let at = *dump.get_or_insert(steps.len());
                        match &envelope.message {
                            Message::Done => dump = None,
                            Message::Filter(filter) if at > 0 => {
                                steps.insert(at, Step { number, time, stamp, what: What::Counted(filter.clone()) })
                            }
                            _ => {}
                        }
                        ready = steps.len();
                        start.push(envelope);
                    }
                    continue;
                }
                Body::Message(envelope) => {
                    picture.follow(&envelope.message);
                    What::Told(envelope)
                }
                Body::Frame { direction, bytes } => {
                    let interface = &interfaces[record.interface];
                    if record.truncated {
                        bail!(
                            "packet {} on {}: only {} bytes of the frame were recorded where all were expected",
                            record.number,
                            interface.name,
                            bytes.len()
                        );
                    }
                    let port = ports.of(&interface.name).with_context(|| {
                        format!(
                            "packet {}: no link message tells of device {}, on which it was recorded",
                            record.number, interface.name
                        )
                    })?;
                    match direction {
                        Direction::Inbound => What::Received(port, bytes),
                        Direction::Outbound => What::Sent(port, bytes),
                        Direction::Unknown => bail!(
                            "packet {} on {}: expected epb_flags to say inbound or outbound",
                            record.number,
                            interface.name
                        ),
                    }
                }
            };
            steps.push(Step { number, time, stamp, what });
        }
        if !answered {
            let place = if says_dumps { "at the end" } else { "behind the last frame" };
            bail!("no dump of filters {place}, at packet {packets}: the counters to compare with are missing");
        }
        let messages = start.iter().map(|envelope| &envelope.message);
        let tunnels = Tunnels::new(messages, &steps);
        let mut timeline = Timeline {
            name,
            packets,
            names,
            recorded,
            filtered,
            beside: BTreeSet::new(),
            tunnels,
            has_ovs,
            start,
            ready,
            steps,
            last: last.into_values().collect(),
        };
        timeline.beside = timeline.beside();
        Ok(timeline)
    }

    /// For each step the position of the next frame that came in from outside. What filters redirect to a port's ingress
    /// is seen there as received, and is no such frame; at a port that is such a target the two cannot be told apart.
    pub fn horizons(&self) -> Vec<usize> {
        let targets = self.ingress_targets();
        let mut next = self.steps.len();
        let mut horizons = vec![next; self.steps.len()];
        for (i, step) in self.steps.iter().enumerate().rev() {
            horizons[i] = next;
            if matches!(&step.what, What::Received(port, _) if !targets.contains(port)) {
                next = i;
            }
        }
        horizons
    }

    /// All that was told, at the start and then.
    fn told(&self) -> impl Iterator<Item = &Message> {
        let told = self.steps.iter().filter_map(|step| match &step.what {
            What::Told(envelope) => Some(&envelope.message),
            _ => None,
        });
        told.chain(self.start.iter().map(|envelope| &envelope.message))
    }

    /// Where filters send to.
    fn targets(&self) -> impl Iterator<Item = Mirred> {
        let actions = self.told().flat_map(|message| match message {
            Message::Filter(filter) => filter.filter.actions.iter().collect(),
            Message::Actions { actions, .. } => actions.iter().map(|told| &told.action).collect(),
            _ => Vec::new(),
        });
        actions.filter_map(|action| match action.kind {
            ActionKind::Mirred(mirred) => Some(mirred),
            _ => None,
        })
    }

    fn ingress_targets(&self) -> BTreeSet<Port> {
        self.targets().filter(|mirred| mirred.ingress).map(|mirred| mirred.port).collect()
    }

    fn beside(&self) -> BTreeSet<Port> {
        let targets = self.targets().map(|mirred| mirred.port).collect();
        let mut beside = &(&self.recorded - &self.filtered) - &targets;
        for message in self.told() {
            match message {
                Message::Link(link) if link.master.is_some() || link.kind.as_deref() == Some("openvswitch") => {
                    beside.remove(&Port(link.index));
                }
                Message::Filter(filter) => {
                    if let Hook::Egress(port) = filter.filter.id.hook {
                        beside.remove(&port);
                    }
                }
                _ => {}
            }
        }
        beside
    }

    /// Whether a frame that was sent, at this position, left by other ways than TC's and Open vSwitch's: as a tunnel's outer
    /// packet, or out of a port that they do not send to.
    pub fn is_machines_own(&self, at: usize, port: Port) -> bool {
        self.beside.contains(&port) || self.tunnels.is_outer(at)
    }

    /// A port's name.
    pub fn name_of(&self, port: Port) -> String {
        self.names.get(&port).cloned().unwrap_or_else(|| port.to_string())
    }
}

/// Which port an interface is: the device that has its name at this point of the run.
struct Ports {
    interfaces: BTreeSet<String>,
    now: BTreeMap<String, Port>,
}

impl Ports {
    /// Before the first message the first device that will be told of.
    fn new(interfaces: &[Interface], records: &[Record]) -> Ports {
        let interfaces = interfaces.iter().filter(|i| i.link_type == ETHERNET).map(|i| i.name.clone()).collect();
        let mut ports = Ports { interfaces, now: BTreeMap::new() };
        for (name, port) in ports.told(records) {
            ports.now.entry(name).or_insert(port);
        }
        ports
    }

    fn of(&self, name: &str) -> Option<Port> {
        self.now.get(name).copied()
    }

    fn follow(&mut self, message: &Message) {
        if let Message::Link(link) = message
            && self.interfaces.contains(&link.name)
        {
            self.now.insert(link.name.clone(), Port(link.index));
        }
    }

    /// All that an interface is at some time.
    fn all(&self, records: &[Record]) -> BTreeSet<Port> {
        self.told(records).into_iter().map(|(_, port)| port).collect()
    }

    fn told(&self, records: &[Record]) -> Vec<(String, Port)> {
        let links = records.iter().filter_map(|record| match &record.body {
            Body::Message(Envelope { message: Message::Link(link), .. }) => Some(link),
            _ => None,
        });
        links.filter(|l| self.interfaces.contains(&l.name)).map(|l| (l.name.clone(), Port(l.index))).collect()
    }
}
