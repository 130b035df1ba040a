//! One try: packets through the case's filters, merged filters in, the same packets again.

use super::{
    Front,
    differ::{is_plain, says, why},
};
use crate::{
    case::{Case, Step},
    generate::{dice::Dice, packets, universe::Universe},
    ground::{Asked, Ground},
    kernel::Stack,
    mend::arrives,
    shown,
};
use anyhow::{Context, Result};
use flowmerge::{
    flower::{ActionKind, Counters, Counts as Counting, Field, Filter, FilterId, Hook, Match, Port},
    hardware::MergedId,
    netlink::encode_front,
    packet::arrived,
};
use flowmerge_cli::{
    record::Recorder,
    replay::{
        hex,
        merging::{Merging, Record},
        offload::{Arrival, Offload},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

/// Packets that are made for each merged filter, besides those that differ in one bit of what it compares.
const AIMED: usize = 8;
/// Of each merged filter so many packets of the run are sent at most, besides those that are made for it.
const EACH: usize = 12;

/// A packet, and the merged filter that matches it.
pub struct Packet {
    port: Port,
    frame: Vec<u8>,
    merged: Option<u64>,
}

/// A frame that came out of a port.
pub type Sent = (Port, Vec<u8>);
/// What came out of ports, in order.
pub type Frames = Vec<Sent>;

/// What became of a packet.
#[derive(Default, PartialEq)]
struct Fate {
    /// What came out of ports.
    out: Frames,
    /// What went up to the machine's own stack, and from which port.
    up: Frames,
}

/// Whether the ethertype that flower sees is not the one behind the tags: in front one cannot be told from the other
/// (`Filter::in_front`).
fn carries(frame: &[u8]) -> bool {
    let key = arrived(frame);
    let behind = match key.get(Field::NumOfVlans) {
        0 => Field::Protocol,
        1 => Field::VlanEthType,
        _ => Field::CvlanEthType,
    };
    key.get(behind) != key.get(Field::EthType)
}

/// What the actions of filters have counted.
type Counts = BTreeMap<FilterId, Vec<Counters>>;

/// The merged filters of a case, and where they are tried.
pub struct Trial<'a> {
    pub front: &'a mut Front,
    pub ground: &'a mut Ground,
    pub merging: Merging,
    /// The merged filters, by name, which is their handle.
    pub filters: BTreeMap<u64, Filter>,
    pub recorder: &'a mut Recorder<Vec<u8>>,
    pub stack: Stack,
}

impl Trial<'_> {
    /// Packets of the run and new ones: those that merged filters in the kernel match, and those that none matches.
    pub fn packets(&mut self, case: &Case) -> (Vec<Packet>, Vec<Packet>) {
        // Always the same: a case that is run again shall come to the same.
        let mut dice = Dice::new(1);
        let universe = Universe::new(&mut dice);
        let mut all = Vec::new();
        for id in self.filters.keys() {
            let record = &self.merging.records[id];
            let port = record.walk.port;
            // As the kernel is told, save what is spoiled.
            let own = record.filter.matches;
            let told = Filter::in_front(record.parents[0].hook, port, 0, own, Vec::new());
            let aim = told.map_or(own, |filter| filter.matches);
            let near =
                packets::near(&mut dice, &universe, port, &aim, &self.others(record).iter().collect::<Vec<_>>(), AIMED);
            all.extend(near.into_iter().map(|frame| ((port, frame), true)));
        }
        let sent = case.steps.iter().filter_map(|step| match step {
            Step::Frame(port, frame) => Some(((*port, frame.clone()), false)),
            _ => None,
        });
        all.extend(sent);
        let (mut inside, mut beside) = (Vec::new(), Vec::new());
        let mut each: HashMap<u64, usize> = HashMap::new();
        let mut seen = BTreeSet::new();
        let may_be_sent = |frame: &[u8]| arrives(frame) && !carries(frame);
        for (packet, is_made) in all.into_iter().filter(|(packet, _)| may_be_sent(&packet.1)) {
            if !seen.insert(packet.clone()) {
                continue;
            }
            let (port, frame) = packet;
            let merged = self.merging.peek(port, &frame, None).map(|(entry, _)| entry.id.0);
            match merged.filter(|id| self.filters.contains_key(id)) {
                Some(id) => {
                    let count = each.entry(id).or_default();
                    *count += usize::from(!is_made);
                    if *count <= EACH || is_made {
                        inside.push(Packet { port, frame, merged });
                    }
                }
                // It matches one that is not in the kernel.
                None if merged.is_some() => {}
                None => beside.push(Packet { port, frame, merged }),
            }
        }
        (inside, beside)
    }

    /// What filters that are no parents of a merged filter compare, where packets of it come by.
    fn others(&self, record: &Record) -> Vec<Match> {
        let hooks: BTreeSet<Hook> = record.parents.iter().map(|parent| parent.hook).collect();
        let table = self.merging.merger().table();
        let filters = table.filters().map(|(_, entry)| &entry.filter);
        let others = filters.filter(|filter| hooks.contains(&filter.id.hook) && !record.parents.contains(&filter.id));
        others.map(|filter| filter.matches).collect()
    }

    /// Sends them with and without the merged filters, and compares.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn run(&mut self, inside: Vec<Packet>, beside: Vec<Packet>) -> Result<()> {
        // Apart: what software judges by more than headers counts otherwise.
        let (plain, special): (Vec<_>, Vec<_>) = inside.into_iter().partition(|packet| is_plain(&packet.frame));
        let zero = self.counters()?;
        let plain_in_software = self.send(&plain)?;
        let counted = self.counters()?;
        let special_in_software = self.send(&special)?;
        self.install()?;
        self.front.packets += (plain.len() + special.len()) as u64;

        let start = self.counters()?;
        let merged = self.send(&plain)?;
        self.compare(&plain, &plain_in_software, &merged);
        let after = self.counters()?;
        self.own([&start, &after], &come_in(&plain, &merged));
        self.sums([&zero, &counted], [&start, &after]);

        let merged = self.send(&special)?;
        self.compare(&special, &special_in_software, &merged);
        let last = self.counters()?;
        self.own([&after, &last], &come_in(&special, &merged));

        let beside = self.count(beside)?;
        self.front.beside += beside.len() as u64;
        let end = self.counters()?;
        self.own([&last, &end], &beside.iter().collect::<Vec<_>>());
        Ok(())
    }

    /// Sends packets one by one; what became of each. `None` for one that did not come in.
    fn send(&mut self, packets: &[Packet]) -> Result<Vec<Option<Fate>>> {
        let mut all = Vec::with_capacity(packets.len());
        // Whatever came up before is not theirs.
        self.stack.take()?;
        // Hosts have a stack, too: the same one.
        let ports: BTreeSet<Port> = self.ground.devices.ports().collect();
        for packet in packets {
            let came_in = self.happens(packet)?;
            self.ground.settle()?;
            let mut fate = Fate::default();
            self.recorder.take_and_show(Duration::ZERO, &mut |port, frame| fate.out.push((port, frame.to_vec())))?;
            fate.up = self.stack.take()?.into_iter().filter(|(port, _)| ports.contains(port)).collect();
            all.push(came_in.then_some(fate));
        }
        Ok(all)
    }

    /// Sends packets of which only the counters are looked at; those that came in.
    fn count(&mut self, packets: Vec<Packet>) -> Result<Vec<Packet>> {
        let mut all = Vec::with_capacity(packets.len());
        for (i, packet) in packets.into_iter().enumerate() {
            if self.happens(&packet)? {
                all.push(packet);
            }
            if i % 16 == 15 {
                self.ground.settle()?;
                self.recorder.take(Duration::ZERO)?;
            }
        }
        self.ground.settle()?;
        self.recorder.take(Duration::ZERO)?;
        Ok(all)
    }

    /// Sends a packet; whether it came in.
    fn happens(&mut self, packet: &Packet) -> Result<bool> {
        Ok(self.ground.happen(&Step::Frame(packet.port, packet.frame.clone()))? == Asked::Done)
    }

    /// What the actions of all filters have counted.
    fn counters(&mut self) -> Result<Counts> {
        let mut counts = Counts::new();
        for hook in self.hooks() {
            let told = self.ground.filters(hook)?.into_iter();
            counts.extend(told.map(|told| (told.filter.id, told.counters)));
        }
        Ok(counts)
    }

    /// Puts the merged filters in; the kernel's dump of each must be what it was told.
    fn install(&mut self) -> Result<()> {
        let requests = self.filters.values().map(|filter| encode_front(filter, &self.ground.devices));
        let requests = requests.collect::<Result<Vec<_>, _>>().context("a merged filter")?;
        let answers = self.ground.ask(requests)?;
        let refused: Vec<(u64, String)> = self
            .filters
            .keys()
            .zip(answers)
            .filter_map(|(&id, answer)| Some((id, answer.err()?.desc().to_string())))
            .collect();
        for (id, why) in refused {
            let words = self.filters.remove(&id).map(|filter| self.ground.words(&filter)).unwrap_or_default();
            self.front.findings.push(format!("the kernel refuses merged filter {id} ({why}): {words}"));
        }
        self.front.installed += self.filters.len() as u64;
        let hooks: BTreeSet<Hook> = self.filters.values().map(|filter| filter.id.hook).collect();
        let mut dumped = BTreeMap::new();
        for hook in hooks {
            dumped.extend(self.ground.filters(hook)?.into_iter().map(|told| (told.filter.id, told.filter)));
        }
        for filter in self.filters.values() {
            let found = match dumped.get(&filter.id) {
                None => Some("nothing".to_string()),
                Some(dump) => (!says(dump, filter)).then(|| self.ground.words(dump)),
            };
            if let Some(found) = found {
                let told = self.ground.words(filter);
                self.front.findings.push(format!("the kernel was told {told}\n    and dumps {found}"));
            }
        }
        let others: Vec<Filter> =
            self.merging.merger().table().filters().map(|(_, entry)| entry.filter.clone()).collect();
        let all: Vec<Filter> = others.into_iter().chain(self.filters.values().cloned()).collect();
        let compared = shown::compare(&self.ground.devices, &all)?;
        self.front.shown += compared.shown;
        self.front.deadly += compared.deadly;
        self.front.findings.extend(compared.differences);
        Ok(())
    }

    /// Where the case's filters are.
    fn hooks(&self) -> BTreeSet<Hook> {
        self.merging.merger().table().filters().map(|(_, entry)| entry.filter.id.hook).collect()
    }

    /// What became of packets in software, and with merged filters in front.
    fn compare(&mut self, packets: &[Packet], software: &[Option<Fate>], merged: &[Option<Fate>]) {
        for ((packet, software), merged) in packets.iter().zip(software).zip(merged) {
            let (Some(software), Some(merged)) = (software, merged) else {
                self.front.lost += 1;
                continue;
            };
            let Packet { port, frame, .. } = packet;
            let arrival = Arrival { port: *port, frame, tunnel: None, now: 1, software: None };
            let handled = self.merging.receive(arrival);
            let sent = handled.into_iter().flat_map(|handled| handled.sent).filter(|sent| !sent.ingress);
            let predicted: Frames = sent.map(|sent| (sent.port, sent.frame)).collect();
            self.front.frames += (merged.out.len() + merged.up.len()) as u64;
            if predicted != merged.out {
                self.finds(packet, "the kernel does not what the library says that it would", &predicted, &merged.out);
            } else if software.out != merged.out {
                match why(frame, &software.out, &merged.out) {
                    Some(why) => *self.front.known.entry(why).or_default() += 1,
                    None => self.finds(packet, "software and merged filter differ", &software.out, &merged.out),
                }
            } else if software.up != merged.up && is_plain(frame) {
                self.finds(packet, "software and merged filter let other packets pass", &software.up, &merged.up);
            }
        }
    }

    fn finds(&mut self, packet: &Packet, what: &str, want: &Frames, got: &Frames) {
        let words = |frames: &Frames| {
            let of = |(port, frame): &Sent| format!("{}: {}", self.ground.devices.name_of(*port), hex(frame));
            let all: Vec<String> = frames.iter().map(of).collect();
            if all.is_empty() { "nothing".into() } else { all.join("\n                ") }
        };
        let filter = packet.merged.and_then(|id| self.filters.get(&id)).map(|filter| self.ground.words(filter));
        let finding = format!(
            "{what}\n    {}\n    at {}: {}\n    expected    {}\n    got         {}",
            filter.unwrap_or_default(),
            self.ground.devices.name_of(packet.port),
            hex(&packet.frame),
            words(want),
            words(got)
        );
        self.front.findings.push(finding);
    }

    /// Merged filters count the packets that they match, and no others. Those that overlap are of one way: together.
    fn own(&mut self, counts: [&Counts; 2], packets: &[&Packet]) {
        // What is redirected into a port they match there, too, and nobody knows here what that is.
        let table = self.merging.merger().table();
        let actions = table.filters().flat_map(|(_, entry)| &entry.filter.actions);
        let entered: BTreeSet<Port> = actions
            .filter_map(|action| match action.kind {
                ActionKind::Mirred(mirred) => mirred.ingress.then_some(mirred.port),
                _ => None,
            })
            .collect();
        let is_known = |id: &u64| !entered.contains(&self.merging.records[id].walk.port);
        let way = |id: &u64| (self.merging.records[id].walk.port, &self.merging.records[id].parents);
        // Wanted and got.
        let mut sums: BTreeMap<_, [(u64, u64); 2]> = BTreeMap::new();
        // What has no action counts nothing.
        for (id, filter) in self.filters.iter().filter(|(id, filter)| !filter.actions.is_empty() && is_known(id)) {
            let [_, got] = sums.entry(way(id)).or_default();
            let since = since(counts, &filter.id, 0);
            *got = (got.0 + since.0, got.1 + since.1);
        }
        for packet in packets {
            if let Some([want, _]) = packet.merged.and_then(|id| sums.get_mut(&way(&id))) {
                *want = (want.0 + 1, want.1 + Counting::Ingress.bytes(&packet.frame));
            }
        }
        for (of, [want, got]) in sums.into_iter().filter(|(_, [want, got])| want != got) {
            let filters = self.filters.iter().filter(|(id, _)| way(id) == of);
            let words: Vec<String> = filters.map(|(_, filter)| self.ground.words(filter)).collect();
            self.front.findings.push(format!(
                "{got:?} packets and bytes are counted where {want:?} match\n    {}",
                words.join("\n    ")
            ));
        }
    }

    /// What software counted for packets is what filters, and merged filters for them, count together.
    fn sums(&mut self, software: [&Counts; 2], merged: [&Counts; 2]) {
        let given = self.given(merged);
        for (id, all) in software[1] {
            for i in 0..all.len() {
                let [want, own] = [software, merged].map(|counts| since(counts, id, i));
                let given = given.get(&(*id, i)).copied().unwrap_or_default();
                self.front.counters += 1;
                if want != (own.0 + given.0, own.1 + given.1) {
                    self.front.findings.push(format!(
                        "action {} of {id}: software counts {want:?} packets and bytes; with merged filters it counts {own:?} \
                         itself and they {given:?} for it",
                        i + 1
                    ));
                }
            }
        }
    }

    /// What merged filters have counted, handed up to the actions of the filters that they come from.
    fn given(&self, counts: [&Counts; 2]) -> HashMap<(FilterId, usize), (u64, u64)> {
        let merger = self.merging.merger();
        let table = merger.table();
        let mut given: HashMap<(FilterId, usize), (u64, u64)> = HashMap::new();
        for (&id, filter) in &self.filters {
            let Some(path) = merger.merged_by(MergedId(id)).map(|merged| merged.path) else { continue };
            let (packets, bytes) = since(counts, &filter.id, 0);
            for parent in path.parents.iter() {
                let Some(entry) = table.filter(parent.cookie) else { continue };
                for action in (0..32).filter(|i| parent.ran >> i & 1 == 1) {
                    let sum = given.entry((entry.filter.id, action)).or_default();
                    *sum = (sum.0 + packets, sum.1 + bytes.saturating_add_signed(parent.longer * packets as i64));
                }
            }
        }
        given
    }
}

/// The packets that came in.
fn come_in<'a>(packets: &'a [Packet], fates: &[Option<Fate>]) -> Vec<&'a Packet> {
    packets.iter().zip(fates).filter(|(_, fate)| fate.is_some()).map(|(packet, _)| packet).collect()
}

/// Packets and bytes that an action counted between two dumps.
fn since(counts: [&Counts; 2], id: &FilterId, action: usize) -> (u64, u64) {
    let of = |counts: &Counts| counts.get(id).and_then(|all| all.get(action)).copied().unwrap_or_default();
    let [from, to] = counts.map(of);
    (to.packets.wrapping_sub(from.packets), to.bytes.wrapping_sub(from.bytes))
}
