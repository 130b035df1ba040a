//! A frame's way through the hooks: classification, chain by chain, and the sending that actions ask for.
//!
//! `net/sched/cls_api.c` (`__tcf_classify`), `net/sched/act_api.c` (`tcf_action_exec`), `net/core/dev.c` (`sch_handle_ingress`,
//! `sch_handle_egress`), `net/sched/sch_frag.c`.

use crate::{
    act::{After, Control},
    conntrack::{Conntrack, Info},
    frag::{Reassembly, split},
    outcome::{Counted, Hit, Outcome, Sent, Terminal, Verdict},
    skb::Skb,
    table::{FilterTable, Search},
};
use flowmerge::{
    flower::{
        Field, Filter, Hook, Key, Kind, Port, Tunnel,
        field::ct_state::{ESTABLISHED, INVALID, NEW, RELATED, REPLY, TRACKED},
    },
    packet::{arrived, dissect, dissect::VLAN},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// How many gotos and reclassifies a packet may take (`max_reclassify_loop`).
const RESTARTS: u32 = 16;

/// How many packets from egress hooks to ingress are taken up for one frame. The kernel has no such limit: filters that go round
/// this way keep it busy for ever.
const ROUNDS: usize = 256;

/// What the model must know of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortState {
    /// Administratively up, and with carrier: `mirred` sends to no other port.
    pub up: bool,
    /// The largest IP packet it sends; only packets that `ct` reassembled are cut to it.
    pub mtu: usize,
}

/// A frame that comes in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The port.
    pub port: Port,
    /// The frame, as on the wire.
    pub frame: &'a [u8],
    /// What a tunnel device took off it, where that keeps an account of it (`external`).
    pub tunnel: Option<&'a Tunnel>,
    /// When: nanoseconds of any clock that does not go back.
    pub now: u64,
}

/// TC's state: ports, filters, policers, and the fragments that wait for others.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The filters.
    pub filters: FilterTable,
    ports: HashMap<Port, PortState>,
    /// Those of which it was said how they judge.
    pub(crate) policers: HashMap<u32, bool>,
    pub(crate) lenient: bool,
    pub(crate) fragments: Reassembly,
}

impl Model {
    /// Without ports and filters.
    pub fn new() -> Model {
        Model::default()
    }

    /// Adds a port, or changes it.
    pub fn set_port(&mut self, port: Port, state: PortState) {
        self.ports.insert(port, state);
    }

    /// Takes a port away; its filters are not touched.
    pub fn remove_port(&mut self, port: Port) {
        self.ports.remove(&port);
    }

    /// From now on packets that are cut off are treated as hardware does, not as Linux: what `csum` and `skbmod` would drop goes on,
    /// and `pedit` leaves out words that are not there and writes those behind. It tells what stands behind.
    pub fn set_lenient(&mut self, lenient: bool) {
        self.lenient = lenient;
    }

    /// A port's state, if it is there.
    pub fn port(&self, port: Port) -> Option<PortState> {
        self.ports.get(&port).copied()
    }

    /// Takes a frame, as on the wire, that came in on a port, and through no tunnel, at `now` (nanoseconds of any clock that does
    /// not go back).
    pub fn receive(&mut self, port: Port, frame: &[u8], now: u64, tracker: &mut dyn Conntrack) -> Outcome {
        self.arrive(Arrival { port, frame, tunnel: None, now }, tracker)
    }

    /// Takes a frame that may have come through a tunnel.
    pub fn arrive(&mut self, arrival: Arrival, tracker: &mut dyn Conntrack) -> Outcome {
        let Arrival { port, frame, tunnel, now } = arrival;
        let mut walk = Walk {
            model: self,
            tracker,
            now,
            verdict: Verdict::Missed { port, chain: 0 },
            undecidable: None,
            hits: Vec::new(),
            sent: Vec::new(),
            counted: Vec::new(),
            nesting: 0,
            branches: 0,
            later: VecDeque::new(),
        };
        if let Some(skb) = Skb::from_wire(port, frame) {
            walk.ingress(Skb { tunnel: tunnel.cloned(), ..skb }, 0);
        }
        for _ in 0..ROUNDS {
            match walk.later.pop_front() {
                Some((skb, branch)) => walk.ingress(skb, branch),
                None => break,
            }
        }
        if !walk.later.is_empty()
            && let Some(hit) = walk.hits.last()
        {
            walk.undecidable.get_or_insert(Verdict::Undecidable {
                filter: hit.filter,
                why: "its packets go round without end".into(),
            });
        }
        Outcome {
            verdict: walk.undecidable.unwrap_or(walk.verdict),
            key: Tunnel::tell(tunnel, arrived(frame)).with(Field::Indev, port.0.into()),
            hits: walk.hits,
            sent: walk.sent,
            counted: walk.counted,
        }
    }
}

/// One received frame and all that comes of it.
pub(crate) struct Walk<'a> {
    pub(crate) model: &'a mut Model,
    pub(crate) tracker: &'a mut dyn Conntrack,
    pub(crate) now: u64,
    verdict: Verdict,
    undecidable: Option<Verdict>,
    pub(crate) hits: Vec<Hit>,
    sent: Vec<Sent>,
    counted: Vec<Counted>,
    /// `mirred` actions under way.
    pub(crate) nesting: u32,
    branches: u32,
    /// Packets that went from an egress hook to a port's ingress: the kernel takes them up afterwards.
    later: VecDeque<(Skb, u32)>,
}

/// Where a packet is: what an action needs to know of the hit that it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    /// Position in the walk's hits.
    pub(crate) hit: usize,
    /// The action's position in its filter.
    pub(crate) action: usize,
    /// The packet, see [`Hit::branch`].
    pub(crate) branch: u32,
}

/// How classification at a hook ended.
enum Ended {
    /// No filter decided; in that chain.
    Missed(u32),
    /// An action did.
    Decided(Terminal),
    /// An action took the packet, and has seen to its verdict.
    Taken,
}

impl Walk<'_> {
    /// The packet's own verdict; copies have none.
    pub(crate) fn settle(&mut self, branch: u32, verdict: Verdict) {
        if branch == 0 {
            self.verdict = verdict;
        }
    }

    fn undecidable(&mut self, filter: &Filter, why: String) -> Ended {
        let filter = filter.id;
        self.undecidable.get_or_insert(Verdict::Undecidable { filter, why });
        Ended::Taken
    }

    /// A number for a copy.
    pub(crate) fn branch(&mut self) -> u32 {
        self.branches += 1;
        self.branches
    }

    /// Counts a run of an action.
    pub(crate) fn count(&mut self, at: At, skb: &Skb) {
        if let Some(hit) = self.hits.get_mut(at.hit) {
            hit.ran.push(at.action);
            self.counted.push(Counted { filter: hit.filter, action: at.action, bytes: skb.pkt_len as u64 });
        }
    }

    /// Gives a packet to a port's ingress: now, or where the kernel puts it into a queue, later.
    pub(crate) fn deliver(&mut self, skb: Skb, branch: u32, now: bool) {
        let (frame, tunnel) = (skb.received_frame(), skb.tunnel.clone());
        self.sent.push(Sent { port: skb.device, frame, ingress: true, tunnel, random: None });
        match now {
            true => self.ingress(skb, branch),
            false => self.later.push_back((skb, branch)),
        }
    }

    /// A packet at a port's ingress.
    fn ingress(&mut self, mut skb: Skb, branch: u32) {
        let port = skb.device;
        if skb.receive().is_err() {
            return self.settle(branch, Verdict::Missed { port, chain: 0 });
        }
        if !self.model.filters.has_filters(Hook::Ingress(port)) {
            return self.settle(branch, Verdict::Passed(port));
        }
        skb.at_ingress = true;
        skb.pkt_len = skb.len();
        skb.post_ct = false;
        skb.mru = 0;
        match self.classify(&mut skb, Hook::Ingress(port), branch) {
            Ended::Missed(chain) => self.settle(branch, Verdict::Missed { port, chain }),
            Ended::Decided(terminal) => self.settle(branch, Verdict::Decided(terminal)),
            Ended::Taken => {}
        }
    }

    /// Sends a packet out of its port, in fragments if `ct` put it together from such and it is too long. Whether it went: a
    /// fragment that the egress hook drops takes those behind it along.
    pub(crate) fn send(&mut self, mut skb: Skb, branch: u32) -> bool {
        self.settle(branch, Verdict::Decided(Terminal::Redirect));
        if skb.mru == 0 || skb.len() <= skb.mru + 14 {
            return self.egress(skb, branch);
        }
        let Some(state) = self.model.port(skb.device) else {
            return false;
        };
        skb.reset_mac();
        match split(&skb, state.mtu) {
            Some(fragments) => fragments.into_iter().all(|fragment| self.egress(fragment, branch)),
            None => {
                self.settle(branch, Verdict::Decided(Terminal::Drop));
                false
            }
        }
    }

    /// A packet at a port's egress; false if it is dropped there.
    fn egress(&mut self, mut skb: Skb, branch: u32) -> bool {
        let port = skb.device;
        skb.reset_mac();
        skb.at_ingress = false;
        skb.pkt_len = skb.len();
        if self.model.filters.has_filters(Hook::Egress(port)) {
            skb.post_ct = false;
            skb.mru = 0;
            match self.classify(&mut skb, Hook::Egress(port), branch) {
                Ended::Missed(_) | Ended::Decided(Terminal::Pass) => {}
                Ended::Decided(terminal) => {
                    self.settle(branch, Verdict::Decided(terminal));
                    return terminal != Terminal::Drop;
                }
                Ended::Taken => return true,
            }
        }
        let tag = if skb.tag.is_some() { VLAN } else { 0 };
        self.sent.push(Sent {
            port,
            frame: skb.frame(),
            ingress: false,
            tunnel: skb.tunnel,
            random: skb.random.map(|at| skb.network + at + tag).map(|at| at..at + 4),
        });
        true
    }

    fn classify(&mut self, skb: &mut Skb, side: Hook, branch: u32) -> Ended {
        let hook = self.model.filters.hook(side);
        let mut chain = 0;
        let mut restarts = 0;
        'chain: loop {
            let mut after = None;
            loop {
                let Some((prio, priority)) = self.model.filters.priority_after(hook, chain, after) else {
                    return Ended::Missed(chain);
                };
                after = Some(prio);
                if !priority.takes(skb.outer_protocol()) {
                    continue;
                }
                let (filter, guessed) = match priority.search(&key(skb, &*self.tracker)) {
                    Search::None => continue,
                    Search::Hit { filter, guessed } => (filter, guessed),
                    Search::Unknown(filter) => {
                        let why = match (filter.undecoded.first(), &filter.kind) {
                            (Some(attribute), _) => format!("{attribute} was not decoded"),
                            (None, Kind::Flower) => "the packet's hash is not known".into(),
                            (None, kind) => format!("its classifier is {kind:?}"),
                        };
                        return self.undecidable(&filter, why);
                    }
                };
                self.hits.push(Hit {
                    filter: filter.id,
                    port: skb.device,
                    branch,
                    ran: Vec::new(),
                    found: Vec::new(),
                    guessed,
                });
                let to = match self.actions(skb, &filter, branch) {
                    After::Taken => return Ended::Taken,
                    After::Unknown(why) => return self.undecidable(&filter, why),
                    After::Control(control) => match control {
                        Control::Continue => continue,
                        Control::Reclassify => 0,
                        Control::Goto(to) => to,
                        // A jump over all that is left ends the list, as `pipe` does.
                        Control::Ok | Control::Pipe | Control::Jump(_) => return Ended::Decided(Terminal::Pass),
                        Control::Shot => return Ended::Decided(Terminal::Drop),
                        Control::Stolen | Control::Queued => return Ended::Decided(Terminal::Stolen),
                        Control::Trap => return Ended::Decided(Terminal::Trap),
                        Control::Repeat | Control::Other(_) => {
                            return self.undecidable(&filter, format!("its control is {control:?}"));
                        }
                    },
                };
                restarts += 1;
                if restarts > RESTARTS {
                    return Ended::Decided(Terminal::Drop);
                }
                chain = to;
                continue 'chain;
            }
        }
    }

    /// Runs a filter's actions (`tcf_action_exec`).
    fn actions(&mut self, skb: &mut Skb, filter: &Arc<Filter>, branch: u32) -> After {
        // TCA_ACT_MAX_PRIO jumps, and 32 runs of an action that repeats itself.
        let (mut jumps, mut skip) = (32, 0);
        let mut at = At { hit: self.hits.len() - 1, action: 0, branch };
        let mut control = Control::Ok;
        'restart: loop {
            for (position, action) in filter.actions.iter().enumerate() {
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                at.action = position;
                let mut repeats = 32;
                control = loop {
                    match self.act(skb, action, at) {
                        After::Control(Control::Repeat) => {
                            repeats -= 1;
                            if repeats == 0 {
                                return After::Control(Control::Ok);
                            }
                        }
                        After::Control(control) => break control,
                        ended => return ended,
                    }
                };
                match control {
                    Control::Pipe => {}
                    Control::Jump(count) => {
                        skip = count as usize & 0x1ff;
                        jumps -= 1;
                        if skip == 0 || skip > filter.actions.len() || jumps == 0 {
                            return After::Control(Control::Ok);
                        }
                        continue 'restart;
                    }
                    other => return After::Control(other),
                }
            }
            return After::Control(control);
        }
    }
}

/// The key that flower sees at this moment.
fn key(skb: &Skb, tracker: &dyn Conntrack) -> Key {
    let mut key = dissect(&skb.view()).key;
    if skb.tunnel.is_some() {
        key = Tunnel::tell(skb.tunnel.as_ref(), key);
    }
    key.set(Field::Indev, skb.iif.0.into());
    match skb.ct {
        Some((entry, info)) => {
            let connection = tracker.connection(entry);
            let state = match info {
                Info::New => NEW,
                Info::Established => ESTABLISHED,
                Info::EstablishedReply => ESTABLISHED | REPLY,
                Info::Related => RELATED,
                Info::RelatedReply => RELATED | REPLY,
            };
            key.set(Field::CtState, TRACKED | state);
            key.set(Field::CtZone, connection.zone.into());
            key.set(Field::CtMark, connection.mark.into());
            key.set(Field::CtLabels, connection.labels);
        }
        None if skb.post_ct => {
            key.set(Field::CtState, TRACKED | INVALID);
            key.set(Field::CtZone, skb.zone.into());
        }
        None => {}
    }
    key
}

#[cfg(test)]
mod tests;
