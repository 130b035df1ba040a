//! What a person wants to see of a replay.

use super::{
    engine::{Difference, Received, Run},
    frames::hex,
    merging::Merging,
    timeline::Timeline,
    totals::{Compared, Totals},
};
use flowmerge::flower::{Counters, Filter, FilterId, Hook, Port, print::printed};
use std::{
    collections::BTreeMap,
    io::{self, Write},
};

/// Writes the filters of the run: each hook's chains, and what the filters in them do.
pub fn filters(out: &mut impl Write, timeline: &Timeline, filters: &BTreeMap<FilterId, Filter>) -> io::Result<()> {
    let names = |port: Port| timeline.name_of(port);
    let mut place = None;
    for filter in filters.values() {
        let here = (filter.id.hook, filter.id.chain);
        if place.replace(here) != Some(here) {
            let count = filters.values().filter(|f| (f.id.hook, f.id.chain) == here).count();
            let plural = if count == 1 { "" } else { "s" };
            writeln!(
                out,
                "{} chain {}: {count} filter{plural}",
                hook(timeline, here.0),
                here.1
            )?;
        }
        writeln!(out, "    {}", printed(filter, &names))?;
        for what in &filter.undecoded {
            writeln!(out, "      not decoded: {what}")?;
        }
    }
    writeln!(out)
}

/// Writes the merged filters of the run, and the refusals.
pub fn merged(out: &mut impl Write, timeline: &Timeline, merging: &Merging) -> io::Result<()> {
    let names = |port: Port| timeline.name_of(port);
    for (id, record) in &merging.records {
        writeln!(out, "merged filter {id}")?;
        for line in format!("{:#}", printed(&record.filter, &names)).lines() {
            writeln!(out, "    {line}")?;
        }
        let parents: Vec<_> = record.parents.iter().map(|id| filter_name(timeline, *id)).collect();
        writeln!(out, "    parents    {}", parents.join(" > "))?;
        for connection in &record.connections {
            writeln!(out, "    connection {connection}")?;
        }
        let Counters { packets, bytes, .. } = record.counters;
        writeln!(out, "    handled    {packets} packets {bytes} bytes\n")?;
    }
    for (refusal, count) in &merging.refusals {
        let plural = if *count == 1 { "" } else { "s" };
        writeln!(
            out,
            "refused    {count} walk{plural}: {}",
            with_names(refusal, timeline)
        )?;
    }
    for failure in &merging.failures {
        writeln!(out, "failed     {}", with_names(failure, timeline))?;
    }
    writeln!(out)
}

/// Puts the ports' names where the library, which does not know them, writes `if3`.
fn with_names(text: &str, timeline: &Timeline) -> String {
    let word = |word: &str| {
        let name = word
            .strip_prefix("if")
            .and_then(|index| index.parse().ok())
            .map(|index| timeline.name_of(Port(index)));
        name.unwrap_or_else(|| word.to_string())
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Writes what differs from the kernel.
pub fn differences(out: &mut impl Write, timeline: &Timeline, name: &str, run: &Run) -> io::Result<()> {
    for difference in &run.differences {
        match difference {
            Difference::NotSent {
                number,
                port,
                expected,
                got,
            } => {
                let port = timeline.name_of(*port);
                writeln!(
                    out,
                    "DIFFERENCE ({name}): packet {number} should have sent another frame out of {port}"
                )?;
                writeln!(out, "    expected  {}", hex(expected))?;
                match got {
                    Some(got) => writeln!(out, "    got       {}", hex(got))?,
                    None => writeln!(out, "    got       nothing")?,
                }
                walk(out, timeline, run.received.iter().find(|r| r.number == *number))?;
            }
            Difference::Unaccounted { number, port, got } => {
                let port = timeline.name_of(*port);
                writeln!(
                    out,
                    "DIFFERENCE ({name}): packet {number} went out of {port}, and nothing says why"
                )?;
                writeln!(out, "    expected  nothing")?;
                writeln!(out, "    got       {}", hex(got))?;
            }
            Difference::Counters { filter, expected, got } => {
                writeln!(
                    out,
                    "DIFFERENCE ({name}): the counters of {}",
                    filter_name(timeline, *filter)
                )?;
                writeln!(out, "    expected  {}", counters(expected))?;
                let got = got.as_deref().map_or("no such filter".to_string(), counters);
                writeln!(out, "    got       {got}")?;
            }
        }
    }
    Ok(())
}

/// Writes the sums.
pub fn totals(out: &mut impl Write, totals: &Totals) -> io::Result<()> {
    let Totals {
        filters,
        software,
        walks,
        merged,
        hardware,
        ..
    } = totals;
    writeln!(
        out,
        "filters   {} seen, {} not decoded",
        filters.seen, filters.undecoded
    )?;
    writeln!(
        out,
        "software  {} received: {} decided, {} missed; {}",
        software.received,
        software.decided,
        software.missed,
        compared(&software.result)
    )?;
    writeln!(
        out,
        "walks     {} recorded on {} paths; {} established, {} of them merged",
        walks.recorded, walks.paths, walks.established, walks.established_merged
    )?;
    let refused: u64 = merged.refused.values().sum();
    writeln!(out, "merged    {} installed, {refused} walks refused", merged.installed)?;
    for (reason, count) in &merged.refused {
        writeln!(out, "          {count} {reason}")?;
    }
    writeln!(
        out,
        "hardware  {} handled, {} left to software; {}",
        hardware.handled,
        hardware.software,
        compared(&hardware.result)
    )
}

fn compared(c: &Compared) -> String {
    format!(
        "{} of {} frames and {} of {} filters' counters identical",
        c.identical, c.frames, c.counters_identical, c.counters
    )
}

fn walk(out: &mut impl Write, timeline: &Timeline, received: Option<&Received>) -> io::Result<()> {
    let Some(received) = received else { return Ok(()) };
    write!(out, "    walk      {}", timeline.name_of(received.port))?;
    for hit in &received.hits {
        write!(out, " > {}", filter_name(timeline, *hit))?;
    }
    if let Some(merged) = received.merged {
        write!(out, " > merged filter {merged}")?;
    }
    if let Some(doubt) = &received.doubt {
        write!(out, " > not known: {doubt}")?;
    }
    writeln!(out)
}

fn filter_name(timeline: &Timeline, id: FilterId) -> String {
    format!(
        "{} chain {} pref {} handle {:#x}",
        hook(timeline, id.hook),
        id.chain,
        id.prio,
        id.handle
    )
}

fn hook(timeline: &Timeline, hook: Hook) -> String {
    match hook {
        Hook::Ingress(port) => timeline.name_of(port),
        Hook::Egress(port) => format!("{} egress", timeline.name_of(port)),
        Hook::Block(block) => format!("block {block}"),
    }
}

fn counters(counters: &[Counters]) -> String {
    let each: Vec<_> = counters
        .iter()
        .map(|c| format!("{} packets {} bytes", c.packets, c.bytes))
        .collect();
    each.join(", ")
}
