//! A trace in the order in which it is replayed: what was there at the start, then step by step what happened, and what
//! the kernel had counted at the end.
//!
//! The dumps before the last frame are the state at the start, the dump after it is the answer. Ports are interfaces that
//! the link messages give an index.

use anyhow::{Context, Result, bail};
use flowmerge::{
    flower::{ActionKind, FilterId, Hook, Port},
    netlink::{Envelope, FilterMessage, Message},
    trace::{Body, Direction, ETHERNET, Trace},
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
    /// Whether Open vSwitch's own datapath is there to take what TC leaves.
    pub has_ovs: bool,
    /// The state at the start.
    pub start: Vec<Envelope>,
    /// Position of the first step after it was told.
    pub ready: usize,
    /// What happened, by time.
    pub steps: Vec<Step>,
    /// The filters of the last dump, each once.
    pub last: Vec<FilterMessage>,
}

/// Something that happened.
pub struct Step {
    /// Number of the packet in the file.
    pub number: u64,
    /// Nanoseconds.
    pub time: u64,
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
        let port_of = |name: &str| names.iter().find(|(_, n)| *n == name).map(|(port, _)| *port);
        let ports: Vec<Option<Port>> =
            interfaces.iter().map(|i| port_of(&i.name).filter(|_| i.link_type == ETHERNET)).collect();
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
        // A dump is as old as its first message.
        let (mut ready, mut dump) = (0, None);
        for (i, record) in records.into_iter().enumerate() {
            let what = match record.body {
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
                            Message::Filter(filter) if at > 0 => steps.insert(
                                at,
                                Step { number: record.number, time: record.time, what: What::Counted(filter.clone()) },
                            ),
                            _ => {}
                        }
                        ready = steps.len();
                        start.push(envelope);
                    }
                    continue;
                }
                Body::Message(envelope) => What::Told(envelope),
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
                    let port = ports[record.interface].with_context(|| {
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
            steps.push(Step { number: record.number, time: record.time, what });
        }
        if !answered {
            bail!(
                "no dump of filters behind the last frame, at packet {packets}: the counters to compare with are missing"
            );
        }
        Ok(Timeline {
            name,
            packets,
            names,
            recorded: ports.into_iter().flatten().collect(),
            filtered,
            has_ovs,
            start,
            ready,
            steps,
            last: last.into_values().collect(),
        })
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

    fn ingress_targets(&self) -> BTreeSet<Port> {
        let told = self.steps.iter().filter_map(|step| match &step.what {
            What::Told(envelope) => Some(&envelope.message),
            _ => None,
        });
        told.chain(self.start.iter().map(|envelope| &envelope.message))
            .filter_map(|message| match message {
                Message::Filter(filter) => Some(&filter.filter.actions),
                _ => None,
            })
            .flatten()
            .filter_map(|action| match action.kind {
                ActionKind::Mirred(m) if m.ingress => Some(m.port),
                _ => None,
            })
            .collect()
    }

    /// A port's name.
    pub fn name_of(&self, port: Port) -> String {
        self.names.get(&port).cloned().unwrap_or_else(|| port.to_string())
    }
}
