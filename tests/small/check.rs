//! What must hold of a pipeline: everything is judged over all packets of its universe.

use crate::{
    again,
    pipeline::{Case, Later},
    report::Stats,
    rng::Rng,
    table::Table,
    truth::{Seen, Software, cookie, does, told},
    wide,
};
use flowmerge::{
    conntrack::ConnectionId,
    flower::{
        Field,
        print::{Numbers, printed},
    },
    hardware::Entry,
    merger::ConnectionEvent,
    table::Inserted,
};

/// What does not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which property.
    pub kind: &'static str,
    /// What differs.
    pub text: String,
}

impl Failure {
    pub fn new(kind: &'static str, text: String) -> Failure {
        Failure { kind, text }
    }

    /// Of a merged filter, and a packet.
    pub fn of(kind: &'static str, entry: &Entry, from: &Seen, text: &str) -> Failure {
        let (matches, actions) = (printed(&entry.matches, &Numbers), printed(entry.actions.as_slice(), &Numbers));
        let mask: Vec<_> = entry.matches.terms().map(|(f, v, m)| format!("{f} {v:#x}/{m:#x}")).collect();
        let text = format!("M: {matches}  -> {actions}\n   ({})\nfrom {}\n{text}", mask.join(" "), told(from));
        Failure::new(kind, text)
    }
}

/// Whether a packet takes the way of that one.
pub fn takes(packet: &Seen, way_of: &Seen) -> bool {
    packet.decided && packet.way == way_of.way
}

/// Whether software must go on seeing a packet of that one's way.
pub fn is_excluded(packet: &Seen, way_of: &Seen) -> bool {
    way_of.connected && packet.excluded
}

/// Runs a case; the first thing that does not hold.
pub fn run(case: &Case, stats: &mut Stats) -> Result<(), Failure> {
    let mut rng = Rng::new(!case.seed);
    let mut software = Software::new(case);
    let seen = software.see_all(&case.universe.packets());
    stats.count("pipelines", 1);
    stats.count("packets", seen.len());
    stats.count("packets that a filter decides", seen.iter().filter(|s| s.decided).count());
    let mut order: Vec<usize> = (0..seen.len()).collect();
    rng.shuffle(&mut order);

    let mut table = Table::new(case);
    table.offer(&seen, &order, &mut rng, stats)?;
    let entries = table.entries();
    stats.count("merged filters", entries.len());
    stats.count(&format!("merged filters of {:?}", case.universe.world), entries.len());
    note(case, &seen, &table, &entries, stats);
    for entry in &entries {
        let from = &seen[table.sources[&entry.id]];
        let matched = sound(entry, from, &seen, true)?;
        again::idempotent(case, entry, from, &matched, stats)?;
        wide::each_bit_is_needed(case, entry, from, &seen, &mut software, stats)?;
        wide::whole_way(case, entry, from, &seen, stats)?;
    }
    one_way(&seen, &entries, stats)?;
    table.counters(&case.filters)?;

    if rng.chance(40) {
        stats.count("pipelines merged in another order, too", 1);
        again::in_another_order(case, &seen, &mut table, &mut rng, stats)?;
    }
    later(case, &seen, &mut table, &mut software, &mut rng, stats)
}

fn note(case: &Case, seen: &[Seen], table: &Table, entries: &[Entry], stats: &mut Stats) {
    for entry in entries {
        entry.matches.terms().for_each(|(field, ..)| stats.merged.add(field.to_string()));
        entry.matches.ranges().for_each(|(field, _)| stats.merged.add(format!("{field} range")));
        for hit in &seen[table.sources[&entry.id]].walk.hits {
            if let Some(filter) = case.filters.iter().find(|f| cookie(f) == hit.filter) {
                stats.filter(filter);
            }
        }
    }
}

/// Every packet that a merged filter matches takes the way, is not excluded, and is sent as software sends it. Gives them.
fn sound<'a>(entry: &Entry, from: &Seen, seen: &'a [Seen], ordered: bool) -> Result<Vec<&'a Seen>, Failure> {
    let matched: Vec<_> = seen.iter().filter(|s| entry.matches.fits(&s.key)).collect();
    for packet in &matched {
        let fail = |kind, what: &str| Err(Failure::of(kind, entry, from, &format!("{what}: {}", told(packet))));
        if !takes(packet, from) {
            return fail("unsound", "it matches one that goes another way");
        }
        // Software does not tell the hash; what a match asks of it is decided.
        let hashed = entry.matches.mask.get(Field::Hash) != 0;
        if ordered && packet.guessed && !hashed {
            return fail("unsound", "it matches one whose way rests on an unknown order");
        }
        if is_excluded(packet, from) {
            return fail("unsound", "it matches one that software must see");
        }
        let done = does(&entry.actions, entry.trim, packet);
        if done.as_ref() != Some(&packet.done) {
            return fail("unsound", &format!("it does {done:x?} where software does {:x?}", packet.done));
        }
    }
    Ok(matched)
}

/// Merged filters that match the same packet describe the same way.
fn one_way(seen: &[Seen], entries: &[Entry], stats: &mut Stats) -> Result<(), Failure> {
    for packet in seen {
        let mut several = entries.iter().filter(|e| e.matches.fits(&packet.key));
        let first = several.next();
        if let (Some(first), Some(other)) = (first, several.next()) {
            stats.count("packets that several merged filters match", 1);
            let does = |e: &Entry| does(&e.actions, e.trim, packet);
            if does(first) != does(other) {
                return Err(Failure::of("order", first, packet, &format!("and {other:#?}")));
            }
        }
    }
    Ok(())
}

/// A filter or a connection comes, goes or changes: what is no longer right must be gone. Then the packets are merged once more.
fn later(
    case: &Case,
    before: &[Seen],
    table: &mut Table,
    software: &mut Software,
    rng: &mut Rng,
    stats: &mut Stats,
) -> Result<(), Failure> {
    let was = table.entries();
    let mut filters = case.filters.clone();
    match &case.later {
        Later::Nothing => return Ok(()),
        Later::Add(filter) => {
            stats.count("filters added later", 1);
            software.add(filter);
            table.merger.replace(cookie(filter), (**filter).clone(), Inserted::Observed).expect("memory removes");
            filters.push((**filter).clone());
        }
        Later::Remove(handle) => {
            let Some(filter) = case.filters.iter().find(|f| f.id.handle == *handle) else { return Ok(()) };
            stats.count("filters removed later", 1);
            software.remove(filter);
            table.merger.destroy(cookie(filter)).expect("memory removes");
            filters.retain(|f| f.id != filter.id);
        }
        Later::Mark(i, mark) => {
            let Some(connection) = (*i < case.connections.len()).then(|| software.mark(*i, *mark)) else {
                return Ok(());
            };
            stats.count("marks changed later", 1);
            let is = ConnectionEvent::Is(ConnectionId(*i as u64), connection);
            table.merger.connection(is).expect("memory removes");
        }
        Later::Exceed => return exceeded(case, before, table, software, stats),
        Later::Gone(i) => {
            if *i >= case.connections.len() {
                return Ok(());
            }
            stats.count("connections gone later", 1);
            software.gone(*i);
            table.merger.connection(ConnectionEvent::Gone(ConnectionId(*i as u64))).expect("memory removes");
        }
    }
    let specs: Vec<_> = before.iter().map(|s| s.spec).collect();
    let seen = software.see_all(&specs);
    let left = table.entries();
    for entry in &left {
        sound(entry, &before[table.sources[&entry.id]], &seen, false)
            .map_err(|f| Failure::new("later", format!("after {:?}: {}", case.later, f.text)))?;
    }
    for gone in was.iter().filter(|e| !left.iter().any(|l| l.id == e.id)) {
        let still = sound(gone, &before[table.sources[&gone.id]], &seen, false).is_ok();
        stats.count(if still { "removed needlessly by them" } else { "removed rightly by them" }, 1);
    }
    stats.count("kept", left.len());
    let mut order: Vec<usize> = (0..seen.len()).collect();
    rng.shuffle(&mut order);
    let mut quiet = Stats::default();
    table.offer(&seen, &order, rng, &mut quiet)?;
    for entry in &table.entries() {
        sound(entry, &seen[table.sources[&entry.id]], &seen, false)
            .map_err(|f| Failure::new("later", format!("merged after {:?}: {}", case.later, f.text)))?;
    }
    Ok(())
}

/// All packets exceed a policer from now on: what is in the table stays, and does what software does, and counts as it counts.
fn exceeded(
    case: &Case,
    before: &[Seen],
    table: &mut Table,
    software: &mut Software,
    stats: &mut Stats,
) -> Result<(), Failure> {
    stats.count("policers exceeded later", 1);
    software.exceed();
    table.exceed();
    let specs: Vec<_> = before.iter().map(|s| s.spec).collect();
    for packet in &software.see_all(&specs) {
        let Some(handled) = table.handles(packet) else { continue };
        stats.count("packets that a policer dropped in a merged filter", usize::from(packet.cut_short));
        if handled != packet.done {
            let text = format!("the table does {handled:x?} where software does {:x?}: {}", packet.done, told(packet));
            return Err(Failure::new("policed", text));
        }
    }
    table.counters(&case.filters)
}
