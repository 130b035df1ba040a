//! Tunnels of a run: for each frame on a tunnel device the outer packet that it came in or left in, where that was recorded.
//!
//! A frame received on a tunnel device has the outer packet's time: the kernel stamps a packet once. (If the far end is the same
//! kernel's and sends TCP, it stamps twice: the packet still has the mark of its own time of departure.) One that is sent there
//! leaves in an outer packet a little later. In both cases the outer packet is known by the frame in it. What the device keeps of
//! it for a received frame is read from the outer packet; with which metadata the model sends a frame to a tunnel
//! device is compared with it.

use super::{
    known::headers,
    timeline::{Step, What},
};
use flowmerge::{
    flower::{
        Port,
        tunnel::{Tunnel, TunnelFlags, TunnelOptions},
    },
    netlink::{Message, TunnelDevice},
    packet::{
        dissect::{ethertype, is_vlan},
        outer::{Encapsulation, Outer},
    },
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How long after a frame its outer packet may leave: somebody may have to be asked for a MAC first.
const LEAVES_WITHIN: u64 = 1_000_000_000;

/// How long it takes at most from the outer packet to the frame, where that was stamped anew.
const COMES_OUT_WITHIN: u64 = 100_000_000;

/// The tunnels of a run, by the positions of steps.
#[derive(Debug, Default)]
pub struct Tunnels {
    received: HashMap<usize, Option<Tunnel>>,
    sent: HashMap<usize, Wrapped>,
    /// What left as the outer packet of a frame.
    outer: BTreeSet<usize>,
}

/// A frame sent to a tunnel device, and the outer packet that it left in.
#[derive(Clone, Debug)]
pub struct Wrapped {
    device: TunnelDevice,
    outer: Outer,
}

/// A recorded packet that some tunnel device could unwrap.
struct Candidate {
    at: usize,
    stamp: u64,
    encapsulation: Encapsulation,
    outer: Outer,
    taken: bool,
}

/// Candidates of one direction, by the frame in them.
type Candidates = HashMap<Vec<u8>, Vec<Candidate>>;

impl Tunnels {
    /// Of the steps of a run, at whose start these messages were told.
    pub fn new<'a>(start: impl Iterator<Item = &'a Message> + Clone, steps: &'a [Step]) -> Tunnels {
        let told = steps.iter().filter_map(|step| match &step.what {
            What::Told(envelope) => Some(&envelope.message),
            _ => None,
        });
        let device = |message: &Message| match message {
            Message::Link(link) => link.tunnel,
            _ => None,
        };
        let kinds: BTreeSet<_> = start.clone().chain(told).filter_map(device).map(|d| d.encapsulation).collect();
        let mut tunnels = Tunnels::default();
        if kinds.is_empty() {
            return tunnels;
        }
        let (mut incoming, mut outgoing) = candidates(&kinds, steps);
        let mut devices: BTreeMap<Port, TunnelDevice> = BTreeMap::new();
        let follow = |devices: &mut BTreeMap<_, _>, message: &Message| match message {
            Message::Link(link) => match link.tunnel {
                Some(device) => drop(devices.insert(Port(link.index), device)),
                None => drop(devices.remove(&Port(link.index))),
            },
            Message::LinkGone(link) => drop(devices.remove(&Port(link.index))),
            _ => {}
        };
        start.for_each(|message| follow(&mut devices, message));
        for (at, step) in steps.iter().enumerate() {
            match &step.what {
                What::Told(envelope) => follow(&mut devices, &envelope.message),
                What::Received(port, frame) => {
                    let Some(device) = devices.get(port).filter(|device| device.collects_metadata) else { continue };
                    let same = |c: &Candidate| c.stamp == step.stamp;
                    let earliest = step.stamp.saturating_sub(COMES_OUT_WITHIN);
                    let lately = |c: &Candidate| (earliest..step.stamp).contains(&c.stamp);
                    let outer = take(&mut incoming, frame, device.encapsulation, &[&same, &lately]);
                    tunnels.received.insert(at, outer.map(|outer| outer.outer.tunnel.clone()));
                }
                What::Sent(port, frame) => {
                    let Some(&device) = devices.get(port) else { continue };
                    let latest = step.time.saturating_add(LEAVES_WITHIN);
                    let fits = |c: &Candidate| (c.at > at && c.stamp <= latest) || c.stamp == step.stamp;
                    if let Some(outer) = take(&mut outgoing, frame, device.encapsulation, &[&fits]) {
                        tunnels.outer.insert(outer.at);
                        tunnels.sent.insert(at, Wrapped { device, outer: outer.outer.clone() });
                    }
                }
                _ => {}
            }
        }
        tunnels
    }

    /// What is known of the outer packet of a received frame: `None` if its device keeps nothing of it, and `Some(None)` if it does,
    /// and no such packet was recorded.
    pub fn received(&self, at: usize) -> Option<Option<&Tunnel>> {
        self.received.get(&at).map(Option::as_ref)
    }

    /// The outer packet of a frame that was sent to a tunnel device.
    pub fn sent(&self, at: usize) -> Option<&Wrapped> {
        self.sent.get(&at)
    }

    /// Whether a frame that was sent is the outer packet of one that was sent to a tunnel device.
    pub fn is_outer(&self, at: usize) -> bool {
        self.outer.contains(&at)
    }
}

/// What came in and what went out as outer packets of these kinds, by the inner frame as it is on the tunnel device.
fn candidates(kinds: &BTreeSet<Encapsulation>, steps: &[Step]) -> (Candidates, Candidates) {
    let (mut incoming, mut outgoing) = (Candidates::new(), Candidates::new());
    for (at, step) in steps.iter().enumerate() {
        let (frame, candidates, is_received) = match &step.what {
            What::Received(_, frame) => (frame, &mut incoming, true),
            What::Sent(_, frame) => (frame, &mut outgoing, false),
            _ => continue,
        };
        for &encapsulation in kinds {
            let Some(outer) = encapsulation.outer(frame) else { continue };
            let inner = if is_received { outer.received(frame) } else { Some(frame[outer.inner.clone()].to_vec()) };
            let Some(inner) = inner else { continue };
            let candidate = Candidate { at, stamp: step.stamp, encapsulation, outer, taken: false };
            candidates.entry(inner).or_default().push(candidate);
        }
    }
    (incoming, outgoing)
}

/// The first of a frame's outer packets that fits and was not taken before. What fits one demand goes before what fits a later one.
fn take<'a>(
    candidates: &'a mut Candidates,
    frame: &[u8],
    encapsulation: Encapsulation,
    demands: &[&dyn Fn(&Candidate) -> bool],
) -> Option<&'a Candidate> {
    let all = candidates.get_mut(frame)?;
    let is_one = |c: &Candidate| !c.taken && c.encapsulation == encapsulation;
    let at = demands.iter().find_map(|fits| all.iter().position(|c| is_one(c) && fits(c)))?;
    let found = all.get_mut(at)?;
    found.taken = true;
    Some(found)
}

/// What of an outer packet the metadata of the frame in it says: both of a frame's, where they can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// As a recorded packet has it.
    pub kernel: Tunnel,
    /// As the metadata says.
    pub model: Tunnel,
}

impl Wrapped {
    /// Holds metadata against the outer packet in which the kernel sent `frame`: `None` if that is what they say. What they leave to
    /// the device (UDP's source port, a time to live of 0, an address of zeros) may be anything.
    pub fn differs(&self, metadata: &Tunnel, frame: &[u8]) -> Option<Box<Said>> {
        let kernel = self.kernel();
        let mut model = metadata.clone();
        model.src_port = kernel.src_port;
        if model.src.is_unspecified() {
            model.src = kernel.src;
        }
        if model.ttl == 0 {
            model.ttl = kernel.ttl;
        }
        let mark = self.mark(frame).unwrap_or(kernel.tos & ECN);
        model.tos = model.tos & !ECN | mark;
        // One without a key has none outside either, where there need not be one.
        model.flags &= self.flags();
        match self.device.encapsulation {
            Encapsulation::Vxlan { port, policy } => {
                if model.dst_port == 0 {
                    model.dst_port = port;
                }
                // A policy of nothing is not written.
                if !policy || model.options == (TunnelOptions::Vxlan { gbp: 0 }) {
                    model.options = TunnelOptions::None;
                }
                model.id = model.id.or(Some(0));
            }
            // Geneve's port is the device's, whatever is asked for.
            Encapsulation::Geneve { port } => {
                model.dst_port = port;
                model.id = model.id.or(Some(0));
            }
            Encapsulation::Gre { .. } => {
                (model.dst_port, model.options) = (0, TunnelOptions::None);
                if metadata.tos == INHERIT {
                    model.tos = dsfield(frame) & !ECN | mark;
                }
            }
            Encapsulation::Erspan { .. } => {
                model.dst_port = 0;
                // Ten bits are for it.
                model.id = Some(model.id.unwrap_or(0) & 0x3ff);
            }
        }
        (model != kernel).then(|| Box::new(Said { kernel, model }))
    }

    /// The recorded packet, as far as metadata can say it.
    fn kernel(&self) -> Tunnel {
        let mut tunnel = self.outer.tunnel.clone();
        tunnel.flags.set(TunnelFlags::DONT_FRAGMENT, self.outer.dont_fragment);
        tunnel.flags &= self.flags();
        tunnel
    }

    /// The congestion mark that the outer header has for an inner frame (RFC 6040, section 4.1): the same, and ECT(0) for a packet that
    /// has met congestion already. `None` behind a tag and GRE: there Linux takes bytes of a MAC for the ethertype.
    fn mark(&self, frame: &[u8]) -> Option<u8> {
        let is_gre = matches!(self.device.encapsulation, Encapsulation::Gre { .. } | Encapsulation::Erspan { .. });
        let is_tagged = frame.get(12..14).is_some_and(|kind| is_vlan(u16::from_be_bytes([kind[0], kind[1]])));
        match dsfield(frame) & ECN {
            _ if is_gre && is_tagged => None,
            ECN => Some(2),
            mark => Some(mark),
        }
    }

    /// The flags that the packet shows.
    fn flags(&self) -> TunnelFlags {
        let v4 = if self.outer.tunnel.dst.is_ipv4() { TunnelFlags::DONT_FRAGMENT } else { TunnelFlags::empty() };
        v4 | match self.device.encapsulation {
            Encapsulation::Geneve { .. } => TunnelFlags::CSUM | TunnelFlags::OAM | TunnelFlags::CRITICAL,
            Encapsulation::Vxlan { .. } | Encapsulation::Gre { .. } => TunnelFlags::CSUM,
            Encapsulation::Erspan { .. } => TunnelFlags::empty(),
        }
    }
}

const ECN: u8 = 3;
/// A type of service that GRE takes for the inner packet's.
const INHERIT: u8 = 1;

/// Type of service or traffic class under whatever tags there are; 0 where there is none.
fn dsfield(frame: &[u8]) -> u8 {
    match headers(frame) {
        Some((ethertype::IPV4, &[_, second, ..])) => second,
        Some((ethertype::IPV6, &[first, second, ..])) => first << 4 | second >> 4,
        _ => 0,
    }
}
