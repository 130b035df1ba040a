//! Merged filters in front of the others: the kernel's own word that they are equivalent.
//!
//! When a case has run, its walks are merged once more, for a table that does what TC does ([`Capabilities::tc`]). What comes next
//! happens on the same ground, with the connections as they are:
//!
//! ```text
//!   packets that merged filters match ──► the case's filters ──► frames and counters, as software has them
//!   merged filters ──► installed: priority 1, protocol all, skip_hw; the kernel says back what it was told, and tc
//!                      shows it as we print it
//!   the same packets ──► merged filters ──► the same frames; what merged filters and filters count together is as before
//!   packets just beside ──► no merged filter counts them
//! ```
//!
//! Packets that merged filters match move no connection, so they may be sent any number of times. Those that TC in front judges
//! by less than software does (the known differences) are sent apart: for them the kernel must send what the library says that it
//! would, and software's frames must differ for the reason that the packet's own bytes give.

mod differ;
mod spoil;
mod trial;

use crate::{case::Devices, generate::dice::Dice, kernel::Stack, run::Ran};
use anyhow::Result;
use flowmerge::{
    flower::{Capabilities, Filter, Hook},
    netlink::encode_front,
};
use flowmerge_cli::{
    record::Recorder,
    replay::{engine::Run, hardware, merging::Merging, timeline::Timeline},
};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};
use trial::Trial;

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
    /// Filters at hooks at which tc dies, so that their words were not compared.
    pub deadly: u64,
    /// Packets that they match and that could not be sent: the port is down, or the frame too long.
    pub lost: u64,
    /// Whether the kernel was told one of them otherwise than it is.
    pub spoiled: bool,
    /// Filters, merged ones among them, that tc showed and whose words were compared with ours.
    pub shown: u64,
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
        self.shown += other.shown;
        self.deadly += other.deadly;
        self.lost += other.lost;
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
        let Front { installed, taken, packets, beside, frames, counters, shown, deadly, lost, .. } = self;
        write!(
            f,
            "{installed} merged filters in the kernel, in front of the others: {packets} packets that they match "
        )?;
        write!(f, "sent with and without them, {beside} beside, {frames} frames and {counters} counters compared, ")?;
        write!(f, "{shown} filters shown by tc")?;
        let list = |f: &mut fmt::Formatter, what: &str, of: &mut dyn Iterator<Item = (&str, u64)>| {
            let all: Vec<String> = of.filter(|(_, n)| *n > 0).map(|(why, n)| format!("{n} {why}")).collect();
            if all.is_empty() { Ok(()) } else { write!(f, "; {what}: {}", all.join(", ")) }
        };
        list(f, "known differences", &mut self.known.iter().map(|(why, n)| (*why, *n)))?;
        let untold = self.untold.iter().map(|(why, n)| (why.as_str(), *n));
        let others = [
            ("where priority 1 is taken", *taken),
            ("not shown, since tc dies of them", *deadly),
            ("packets at ports that are down", *lost),
        ];
        list(f, "left out", &mut untold.chain(others))
    }
}

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
    // What TC can be told has all that its table wants: none may be refused for what that cannot do.
    let refused = merging.refusals.get("hardware").into_iter().flat_map(BTreeMap::keys);
    front.findings.extend(refused.map(|sentence| format!("merging for TC: {sentence}")));
    let mut filters = told(&mut front, &merging, &ran.ground.devices);
    if filters.is_empty() {
        return Ok(front);
    }
    if let Some(seed) = spoil {
        front.spoiled = spoil::spoiled(&mut filters, &ran.ground.devices, &mut Dice::new(seed));
    }
    let names = ran.ground.devices.names().to_vec();
    let mut recorder = Recorder::start(&names, Vec::new())?;
    let mut trial = Trial {
        front: &mut front,
        ground: &mut ran.ground,
        merging,
        filters,
        recorder: &mut recorder,
        stack: Stack::open()?,
    };
    let (inside, beside) = trial.packets(&ran.case);
    trial.run(inside, beside)?;
    front.trace = recorder.finish()?.0;
    Ok(front)
}

/// The merged filters that are there at the end of the run, as TC is told of them.
fn told(front: &mut Front, merging: &Merging, devices: &Devices) -> BTreeMap<u64, Filter> {
    let mut filters = BTreeMap::new();
    let table = merging.merger().table();
    let others = table.filters().map(|(_, entry)| entry.filter.id);
    let taken: HashSet<Hook> = others.filter(|id| id.chain == 0 && id.prio == 1).map(|id| id.hook).collect();
    drop(table);
    for merged in merging.merger().merged() {
        let id = merged.id;
        let record = &merging.records[&id.0];
        let (hook, port) = (record.parents[0].hook, record.walk.port);
        if taken.contains(&hook) {
            front.taken += 1;
            continue;
        }
        let told = Filter::in_front(hook, port, id.0 as u32, merged.matches, merged.actions.clone());
        let told = told.map_err(|field| format!("{field} cannot be told in front")).and_then(|mut filter| {
            filter.skip_hw = true;
            encode_front(&filter, devices).map(|_| filter).map_err(|error| error.to_string())
        });
        match told {
            Ok(filter) => drop(filters.insert(id.0, filter)),
            Err(why) => *front.untold.entry(why).or_default() += 1,
        }
    }
    filters
}
