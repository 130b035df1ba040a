//! Merged filters in front of the others: the kernel's own word that they are equivalent.
//!
//! When a case has run, its walks are merged once more, for a table that does what TC does ([`Capabilities::tc`]). What comes next
//! happens on the same ground, with the connections as they are:
//!
//! ```text
//!   packets that merged filters match ──► the case's filters ──► frames and counters, as software has them
//!   merged filters ──► installed: priority 1, protocol all, skip_hw; the kernel says back what it was told
//!   the same packets ──► merged filters ──► the same frames; what merged filters and filters count together is as before
//!   packets just beside ──► no merged filter counts them
//! ```
//!
//! Packets that merged filters match move no connection, so they may be sent any number of times. Those that TC in front judges
//! by less than software does (the known differences) are sent apart: for them the kernel must send what the library says that it
//! would, and software's frames must differ for the reason that the packet's own bytes give.

use crate::{
    case::{Case, Devices, Step},
    generate::{dice::Dice, packets, universe::Universe},
    ground::{Asked, Ground},
    mend::arrives,
    run::Ran,
};
use anyhow::{Context, Result};
use flowmerge::{
    flower::{
        Action, ActionKind, Capabilities, Counters, Counts as Counting, Field, Filter, FilterId, Hook, Match, Port,
    },
    hardware::MergedId,
    netlink::encode_front,
};
use flowmerge_cli::{
    record::Recorder,
    replay::{
        engine::Run,
        hardware,
        known::{Known, has_no_checksum, has_wrong_length, known, trailing, without_checksums},
        merging::Merging,
        offload::{Arrival, Offload},
        timeline::Timeline,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    time::Duration,
};

/// Packets that are made for each merged filter, besides those that differ in one bit of what it compares.
const AIMED: usize = 8;
/// Of each merged filter so many packets are sent at most, not counted those beside.
const EACH: usize = 24;

/// What the merged filters of a case came to in the kernel.
#[derive(Clone, Debug, Default)]
pub struct Front {
    /// Merged filters installed.
    pub installed: u64,
    /// Those that TC cannot be told, by why.
    pub untold: BTreeMap<String, u64>,
    /// Those at hooks whose priority 1 is someone else's.
    pub taken: u64,
    /// Packets sent through the case's filters and once more through merged ones.
    pub packets: u64,
    /// Packets sent that merged filters must not match.
    pub beside: u64,
    /// Frames compared.
    pub frames: u64,
    /// Counters of the case's filters that were compared.
    pub counters: u64,
    /// Packets for which software sent something else, for a known reason.
    pub known: BTreeMap<&'static str, u64>,
    /// Whether the kernel was told one of them otherwise than it is.
    pub spoiled: bool,
    /// What should not be, for a person to read.
    pub findings: Vec<String>,
    /// The record of all this, a pcapng.
    pub trace: Vec<u8>,
}

impl Front {
    /// Adds what another case came to, without findings and record.
    pub fn add(&mut self, other: &Front) {
        self.installed += other.installed;
        self.taken += other.taken;
        self.packets += other.packets;
        self.beside += other.beside;
        self.frames += other.frames;
        self.counters += other.counters;
        for (why, count) in &other.untold {
            *self.untold.entry(why.clone()).or_default() += count;
        }
        for (why, count) in &other.known {
            *self.known.entry(why).or_default() += count;
        }
    }
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Front { installed, taken, packets, beside, frames, counters, .. } = self;
        write!(
            f,
            "in the kernel: {installed} merged filters in front of the others, {packets} packets that they match sent "
        )?;
        write!(
            f,
            "with and without them and {beside} beside, {frames} frames and {counters} counters compared; not told:"
        )?;
        let taken = [("priority 1 is taken", taken)];
        let untold = self.untold.iter().map(|(why, count)| (why.as_str(), count));
        for (why, count) in untold.chain(taken) {
            write!(f, " {count} {why},")?;
        }
        write!(f, " known differences:")?;
        for (why, count) in &self.known {
            write!(f, " {count} {why},")?;
        }
        Ok(())
    }
}

/// A packet, and the merged filter that matches it.
struct Packet {
    port: Port,
    frame: Vec<u8>,
    merged: Option<u64>,
}

type Sent = (Port, Vec<u8>);
type Frames = Vec<Sent>;
type Counts = BTreeMap<FilterId, Vec<Counters>>;

/// Tries out what the case's walks merge to. `run` is what the model made of its record. `spoil` is a seed by which the kernel is told
/// one of the merged filters otherwise than it is: whoever looks closely notices that.
///
/// # Errors
/// The kernel cannot be asked.
pub fn try_out(ran: &mut Ran, timeline: &Timeline, run: &Run, spoil: Option<u64>) -> Result<Front> {
    let mut front = Front::default();
    let mut merging = Merging::into_table(Capabilities::tc());
    hardware(timeline, &mut merging, run);
    front.findings.extend(merging.failures.iter().map(|failure| format!("merging: {failure}")));
    let names = ran.ground.devices.names().to_vec();
    let mut recorder = Recorder::start(&names, Vec::new())?;
    let mut filters = told(&mut front, &merging, &mut ran.ground)?;
    if let Some(seed) = spoil {
        front.spoiled = spoiled(&mut filters, &ran.ground.devices, &mut Dice::new(seed));
    }
    if !filters.is_empty() {
        let mut trial = Trial { front: &mut front, ground: &mut ran.ground, merging, filters, recorder: &mut recorder };
        let (inside, beside) = trial.packets(&ran.case);
        trial.run(inside, beside)?;
    }
    front.trace = recorder.finish()?.0;
    Ok(front)
}

/// The merged filters that are there at the end of the run, as TC is told of them.
fn told(front: &mut Front, merging: &Merging, ground: &mut Ground) -> Result<BTreeMap<u64, Filter>> {
    let mut filters = BTreeMap::new();
    let mut taken: HashMap<Hook, bool> = HashMap::new();
    for (id, merged) in merging.merger().merged() {
        let Some(record) = merging.records.get(&id.0) else { continue };
        let (Some(hook), port) = (record.parents.first().map(|parent| parent.hook), record.walk.port) else { continue };
        let is_taken = match taken.get(&hook) {
            Some(&is_taken) => is_taken,
            None => {
                let there = ground.filters(hook)?;
                let is_taken = there.iter().any(|told| told.filter.id.chain == 0 && told.filter.id.prio == 1);
                *taken.entry(hook).or_insert(is_taken)
            }
        };
        if is_taken {
            front.taken += 1;
            continue;
        }
        let told = Filter::in_front(hook, port, id.0 as u32, merged.matches, merged.actions.clone());
        let told = told.map_err(|field| format!("{field} cannot be told in front")).and_then(|mut filter| {
            filter.skip_hw = true;
            encode_front(&filter, &ground.devices).map(|_| filter).map_err(|error| error.to_string())
        });
        match told {
            Ok(filter) => drop(filters.insert(id.0, filter)),
            Err(why) => *front.untold.entry(why).or_default() += 1,
        }
    }
    Ok(filters)
}

/// Makes one of the filters another one that the kernel takes: it compares less, sends elsewhere, or rewrites less.
fn spoiled(filters: &mut BTreeMap<u64, Filter>, devices: &Devices, dice: &mut Dice) -> bool {
    let mut all: Vec<&mut Filter> = filters.values_mut().collect();
    dice.shuffle(&mut all);
    all.into_iter().any(|filter| {
        let mut other = filter.clone();
        let terms: Vec<Field> = filter.matches.terms().map(|(f, ..)| f).filter(|f| !f.row().whole).collect();
        let other_port = |port: Port| devices.ports().find(|&other| other != port).unwrap_or(port);
        match dice.below(3) {
            0 if !terms.is_empty() => {
                let field = *dice.pick(&terms);
                other.matches.key.set(field, 0);
                other.matches.mask.set(field, 0);
            }
            1 => other.actions.retain(|action| !matches!(action.kind, ActionKind::Pedit(_))),
            _ => other.actions.iter_mut().for_each(|action| {
                if let ActionKind::Mirred(mirred) = &mut action.kind {
                    mirred.port = other_port(mirred.port);
                }
            }),
        }
        let is_other = other != *filter && encode_front(&other, devices).is_ok();
        if is_other {
            *filter = other;
        }
        is_other
    })
}

struct Trial<'a> {
    front: &'a mut Front,
    ground: &'a mut Ground,
    merging: Merging,
    /// The merged filters, by name, which is their handle.
    filters: BTreeMap<u64, Filter>,
    recorder: &'a mut Recorder<Vec<u8>>,
}

impl Trial<'_> {
    /// Packets of the run and new ones: those that merged filters in the kernel match, and those that none matches.
    fn packets(&mut self, case: &Case) -> (Vec<Packet>, Vec<Packet>) {
        // Always the same: a case that is run again shall come to the same.
        let mut dice = Dice::new(1);
        let universe = Universe::new(&mut dice);
        let mut all = Frames::new();
        for id in self.filters.keys() {
            let Some(record) = self.merging.records.get(id) else { continue };
            let port = record.walk.port;
            let near = packets::near(&mut dice, &universe, port, &record.filter.matches, AIMED);
            all.extend(near.into_iter().map(|frame| (port, frame)));
        }
        let sent = case.steps.iter().filter_map(|step| match step {
            Step::Frame(port, frame) => Some((*port, frame.clone())),
            _ => None,
        });
        all.extend(sent);
        let (mut inside, mut beside) = (Vec::new(), Vec::new());
        let mut each: HashMap<u64, usize> = HashMap::new();
        let mut seen = BTreeSet::new();
        for (port, frame) in all.into_iter().filter(|packet| arrives(&packet.1) && seen.insert(packet.clone())) {
            let merged = self.merging.peek(port, &frame).map(|(entry, _)| entry.id.0);
            match merged.filter(|id| self.filters.contains_key(id)) {
                Some(id) => {
                    let count = each.entry(id).or_default();
                    *count += 1;
                    if *count <= EACH {
                        inside.push(Packet { port, frame, merged });
                    }
                }
                // It matches one that TC cannot be told.
                None if merged.is_some() => {}
                None => beside.push(Packet { port, frame, merged }),
            }
        }
        (inside, beside)
    }

    fn run(&mut self, inside: Vec<Packet>, beside: Vec<Packet>) -> Result<()> {
        // Apart: what software judges by more than headers counts otherwise.
        let (plain, special): (Vec<_>, Vec<_>) = inside.into_iter().partition(|packet| is_plain(&packet.frame));
        let zero = self.counters()?;
        let plain_in_software = self.send(&plain)?;
        let counted = self.counters()?;
        let special_in_software = self.send(&special)?;
        self.install()?;
        self.front.packets += (plain.len() + special.len()) as u64;
        self.front.beside += beside.len() as u64;

        let start = self.counters()?;
        let merged = self.send(&plain)?;
        self.compare(&plain, &plain_in_software, &merged);
        let after = self.counters()?;
        self.own([&start, &after], &plain, &merged);
        self.sums([&zero, &counted], [&start, &after]);

        let merged = self.send(&special)?;
        self.compare(&special, &special_in_software, &merged);
        let last = self.counters()?;
        self.own([&after, &last], &special, &merged);

        let merged = self.send(&beside)?;
        let end = self.counters()?;
        self.own([&last, &end], &beside, &merged);
        Ok(())
    }

    /// Sends packets one by one; the frames that come out for each. `None` for one that did not come in.
    fn send(&mut self, packets: &[Packet]) -> Result<Vec<Option<Frames>>> {
        let mut all = Vec::with_capacity(packets.len());
        for packet in packets {
            let asked = self.ground.happen(&Step::Frame(packet.port, packet.frame.clone()))?;
            self.ground.settle()?;
            let mut out = Frames::new();
            self.recorder.take_and_show(Duration::ZERO, &mut |port, frame| out.push((port, frame.to_vec())))?;
            all.push((asked == Asked::Done).then_some(out));
        }
        Ok(all)
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
        Ok(())
    }

    /// Where the case's filters are.
    fn hooks(&self) -> BTreeSet<Hook> {
        self.merging.merger().table().filters().map(|(_, entry)| entry.filter.id.hook).collect()
    }

    /// What came out for packets in software, and with merged filters in front.
    fn compare(&mut self, packets: &[Packet], software: &[Option<Frames>], merged: &[Option<Frames>]) {
        for ((packet, software), merged) in packets.iter().zip(software).zip(merged) {
            let (Some(software), Some(merged)) = (software, merged) else { continue };
            let Packet { port, frame, .. } = packet;
            let arrival = Arrival { port: *port, frame, now: 1, software: None };
            let handled = self.merging.receive(arrival);
            let sent = handled.into_iter().flat_map(|handled| handled.sent).filter(|sent| !sent.ingress);
            let predicted: Frames = sent.map(|sent| (sent.port, sent.frame)).collect();
            self.front.frames += merged.len() as u64;
            if predicted != *merged {
                self.finds(packet, "the kernel does not what the library says that it would", &predicted, merged);
            } else if software != merged {
                match why(frame, software, merged) {
                    Some(why) => *self.front.known.entry(why).or_default() += 1,
                    None => self.finds(packet, "software and merged filter differ", software, merged),
                }
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
    fn own(&mut self, counts: [&Counts; 2], packets: &[Packet], sent: &[Option<Frames>]) {
        let table = self.merging.merger().table();
        let into = |action: &Action| matches!(action.kind, ActionKind::Mirred(mirred) if mirred.ingress);
        if table.filters().any(|(_, entry)| entry.filter.actions.iter().any(into)) {
            // They match what comes in at a port the other way, too.
            return;
        }
        let parents = |id: &u64| &self.merging.records[id].parents;
        let mut sums: BTreeMap<&Vec<FilterId>, [(u64, u64); 2]> = BTreeMap::new();
        // What has no action counts nothing.
        for (id, filter) in self.filters.iter().filter(|(_, filter)| !filter.actions.is_empty()) {
            let [_, got] = sums.entry(parents(id)).or_default();
            let since = since(counts, &filter.id, 0);
            *got = (got.0 + since.0, got.1 + since.1);
        }
        for (packet, _) in packets.iter().zip(sent).filter(|(_, sent)| sent.is_some()) {
            if let Some([want, _]) = packet.merged.and_then(|id| sums.get_mut(parents(&id))) {
                *want = (want.0 + 1, want.1 + Counting::Ingress.bytes(&packet.frame));
            }
        }
        for (parents, [want, got]) in sums.into_iter().filter(|(_, [want, got])| want != got) {
            let names: Vec<String> = parents.iter().map(|id| id.to_string()).collect();
            self.front.findings.push(format!(
                "merged filters of {} count {got:?} packets and bytes where {want:?} match them",
                names.join(" > ")
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
        let table = self.merging.merger().table();
        let mut given: HashMap<(FilterId, usize), (u64, u64)> = HashMap::new();
        for (&id, filter) in &self.filters {
            let Some(merged) = table.merged(MergedId(id)) else { continue };
            let (packets, bytes) = since(counts, &filter.id, 0);
            for parent in &table.path_of(merged).parents {
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

/// Packets and bytes that an action counted between two dumps.
fn since(counts: [&Counts; 2], id: &FilterId, action: usize) -> (u64, u64) {
    let of = |counts: &Counts| counts.get(id).and_then(|all| all.get(action)).copied().unwrap_or_default();
    let [from, to] = counts.map(of);
    (to.packets.wrapping_sub(from.packets), to.bytes.wrapping_sub(from.bytes))
}

/// Whether TC in front and software judge a packet by the same.
fn is_plain(frame: &[u8]) -> bool {
    trailing(frame) == 0
        && !has_wrong_length(frame)
        && !matches!(known(frame), Some(Known::Checksum | Known::Length))
        && !has_no_checksum(frame)
}

/// Why software may send something else for a packet than the merged filter that matches it.
fn why(frame: &[u8], software: &Frames, merged: &Frames) -> Option<&'static str> {
    if has_wrong_length(frame) {
        return Some("wrong length");
    }
    if known(frame) == Some(Known::Checksum) {
        return Some("wrong checksum");
    }
    let tail = &frame[frame.len() - trailing(frame)..];
    let none = has_no_checksum(frame);
    let same =
        |a: &[u8], b: &[u8]| a == b || is_other_zero(a, b) || none && without_checksums(a) == without_checksums(b);
    let whole = |(a, b): (&Sent, &Sent)| a.0 == b.0 && same(&a.1, &b.1);
    let cut: Frames = merged
        .iter()
        .zip(software)
        .map(|((port, frame), (_, short))| match frame.strip_suffix(tail) {
            Some(cut) if cut.len() == short.len() => (*port, cut.to_vec()),
            _ => (*port, frame.clone()),
        })
        .collect();
    match merged.len() == software.len() && software.iter().zip(&cut).all(whole) {
        true if cut != *merged => Some("trailing bytes"),
        true if none => Some("no checksum"),
        true => Some("the other zero of a checksum"),
        false => None,
    }
}

/// Whether two frames differ in nothing but a checksum that is 0 in one's complement, which can be written in two ways.
fn is_other_zero(a: &[u8], b: &[u8]) -> bool {
    let differ: Vec<usize> = (0..a.len().min(b.len())).filter(|&i| a[i] != b[i]).collect();
    let zeros = |frame: &[u8], byte| differ.iter().all(|&i| frame[i] == byte);
    without_checksums(a) == without_checksums(b) && (zeros(a, 0) && zeros(b, 0xff) || zeros(a, 0xff) && zeros(b, 0))
}

/// Whether the kernel's dump of a filter says what it was told, as far as Linux 6.1 says it back: not a tag's own type in a filter of
/// `protocol all`, without which the rest about tags cannot be read, and not the kind of addresses where none is named.
fn says(dump: &Filter, told: &Filter) -> bool {
    use Field::*;
    const TAGS: [Field; 8] = [VlanTpid, VlanId, VlanPrio, VlanEthType, CvlanTpid, CvlanId, CvlanPrio, CvlanEthType];
    let asks = |field: Field| told.matches.mask.get(field) != 0;
    let mut unsaid = Vec::new();
    if asks(VlanTpid) {
        unsaid.extend(TAGS);
    }
    if ![Ipv4Src, Ipv4Dst, Ipv6Src, Ipv6Dst].into_iter().any(asks) {
        unsaid.push(AddrType);
    }
    let said = |m: &Match| {
        let mut m = *m;
        for &field in &unsaid {
            m.key.set(field, 0);
            m.mask.set(field, 0);
        }
        m
    };
    let does = |filter: &Filter| filter.actions.iter().map(|a| (a.kind.clone(), a.control)).collect::<Vec<_>>();
    said(&dump.matches) == said(&told.matches)
        && does(dump) == does(told)
        && (dump.skip_sw, dump.skip_hw) == (told.skip_sw, told.skip_hw)
        && (dump.undecoded.is_empty() || asks(VlanTpid))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
