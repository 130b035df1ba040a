//! What a person wants to see of a replay.

use super::{
    engine::{Difference, Fate, Received, Run},
    frames::hex,
    merging::Merging,
    timeline::Timeline,
    totals::{Compared, Totals},
};
use flowmerge::flower::{Counters, Filter, FilterId, Hook, Port, Tunnel, print::printed, tunnel::TunnelOptions};
use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
};

/// Writes the filters of the run: each hook's chains, and what the filters in them do.
pub fn filters(out: &mut impl Write, timeline: &Timeline, filters: &BTreeMap<FilterId, Filter>) -> io::Result<()> {
    let names = |port: Port| timeline.name_of(port);
    let mut chains: BTreeMap<(Hook, u32), Vec<&Filter>> = BTreeMap::new();
    for filter in filters.values() {
        chains.entry((filter.id.hook, filter.id.chain)).or_default().push(filter);
    }
    for ((at, chain), filters) in chains {
        let place = format!("{} chain {chain}", hook(timeline, at));
        writeln!(out, "{place}: {}", many(filters.len() as u64, "filter"))?;
        for filter in filters {
            let line = printed(filter, &names).to_string();
            let line = line.strip_prefix(&place).unwrap_or(&line).trim_start();
            writeln!(out, "    {line}")?;
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
            writeln!(out, "    {}", line.replace('\t', "    "))?;
        }
        let parents = record.parents.iter().map(|id| filter_name(timeline, *id));
        let connections = record.connections.iter().cloned();
        let Counters { packets, bytes, .. } = record.counters;
        let handled = format!("{}, {}", many(packets, "packet"), many(bytes, "byte"));
        aligned(out, "parents", parents)?;
        aligned(out, "connection", connections)?;
        aligned(out, "handled", [handled])?;
        writeln!(out)?;
    }
    for (reason, sentences) in &merging.refusals {
        let walks = many(sentences.values().sum(), "walk");
        writeln!(out, "refused    {walks}: {reason}")?;
        for (sentence, count) in sentences {
            writeln!(out, "    {count:>6}  {}", with_names(sentence, &names))?;
        }
    }
    for failure in &merging.failures {
        writeln!(out, "failed     {}", with_names(failure, &names))?;
    }
    let has_more = !merging.refusals.is_empty() || !merging.failures.is_empty();
    if has_more { writeln!(out) } else { Ok(()) }
}

/// Writes lines under one word.
fn aligned(out: &mut impl Write, word: &str, lines: impl IntoIterator<Item = String>) -> io::Result<()> {
    for (i, line) in lines.into_iter().enumerate() {
        let word = if i == 0 { word } else { "" };
        writeln!(out, "    {word:<10} {line}")?;
    }
    Ok(())
}

fn many(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Puts the ports' names where the library, which does not know them, writes `if3`.
fn with_names(text: &str, names: &dyn Fn(Port) -> String) -> String {
    let part_of_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut named = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !part_of_word(c)).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        let port = word.strip_prefix("if").and_then(|index| index.parse().ok()).map(Port);
        match port {
            Some(port) => named += &names(port),
            None => named += word,
        }
        let mut tail = tail.chars();
        named.extend(tail.next());
        rest = tail.as_str();
    }
    named
}

/// Writes what the model did with each received frame, and whether the kernel sent the same. They are numbered from 1 as they came;
/// in brackets stand their numbers in the record, which differences name.
pub fn packets(out: &mut impl Write, timeline: &Timeline, run: &Run) -> io::Result<()> {
    // What the kernel sent instead, where it did not send that frame.
    let instead = |received: &Received, out_of: Port, frame: &[u8]| {
        run.differences.iter().find_map(|difference| match difference {
            Difference::NotSent { number, port, sent, kernel } => {
                (*number == received.number && *port == out_of && sent == frame).then_some(kernel)
            }
            _ => None,
        })
    };
    for (i, received) in run.received.iter().enumerate() {
        let fate = match received.fate {
            Fate::Decided => "decided",
            Fate::Missed => "missed",
            Fate::Handled => "handled",
        };
        writeln!(out, "packet {} ({}) {fate}: {}", i + 1, received.number, walk(timeline, received))?;
        for (port, frame) in &received.sent {
            let name = timeline.name_of(*port);
            match instead(received, *port, frame) {
                None => writeln!(out, "    model and kernel send out of {name}: {}", hex(frame))?,
                Some(kernel) => {
                    writeln!(out, "    model sends out of {name}:  {}", hex(frame))?;
                    let kernel = kernel.as_deref().map_or("nothing like it".to_owned(), hex);
                    writeln!(out, "    kernel sends out of {name}: {kernel}")?;
                }
            }
        }
        if received.sent.is_empty() {
            writeln!(out, "    model sends nothing")?;
        }
    }
    Ok(())
}

/// Writes what differs from the kernel, which is what was expected.
pub fn differences(out: &mut impl Write, timeline: &Timeline, name: &str, run: &Run) -> io::Result<()> {
    let numbers: HashMap<u64, &Received> = match run.differences.as_slice() {
        [] => HashMap::new(),
        _ => run.received.iter().map(|r| (r.number, r)).collect(),
    };
    for difference in &run.differences {
        let (what, expected, got, received) = match difference {
            Difference::NotSent { number, port, sent, kernel } => {
                let port = timeline.name_of(*port);
                let what = match kernel {
                    Some(_) => format!("packet {number} sends another frame out of {port} than in the kernel"),
                    None => format!("packet {number} sends a frame out of {port}, and the kernel sent none"),
                };
                let expected = kernel.as_deref().map_or("nothing".to_string(), hex);
                (what, expected, hex(sent), numbers.get(number))
            }
            Difference::Wrapped { number, port, said } => {
                let port = timeline.name_of(*port);
                let what = format!("packet {number} is to leave the tunnel device {port} otherwise than in the kernel");
                (what, outer(&said.kernel), outer(&said.model), numbers.get(number))
            }
            Difference::Unaccounted { number, port, kernel } => {
                let port = timeline.name_of(*port);
                let what = format!("the kernel sent packet {number} out of {port}, and nothing says why");
                (what, hex(kernel), "nothing".to_string(), None)
            }
            Difference::Counters { filter, expected, got } => {
                let what = format!("the counters of {}", filter_name(timeline, *filter));
                let got = got.as_deref().map_or("no such filter".to_string(), counters);
                (what, counters(expected), got, None)
            }
        };
        writeln!(out, "DIFFERENCE ({name}): {what}")?;
        writeln!(out, "    expected   {expected}")?;
        writeln!(out, "    got        {got}")?;
        if let Some(received) = received {
            writeln!(out, "    walk       {}", walk(timeline, received))?;
        }
    }
    if run.differences.is_empty() { Ok(()) } else { writeln!(out) }
}

/// What is known of an outer packet.
fn outer(tunnel: &Tunnel) -> String {
    let Tunnel { id, src, dst, src_port, dst_port, tos, ttl, flags, options } = tunnel;
    let id = id.map_or("none".to_string(), |id| id.to_string());
    let mut told = format!("id {id} from {src} port {src_port} to {dst} port {dst_port} tos {tos:#x} ttl {ttl}");
    if !flags.is_empty() {
        told += &format!(" flags {flags:?}");
    }
    if *options != TunnelOptions::None {
        told += &format!(" options {}", hex(&options.bytes()));
    }
    told
}

/// Writes the sums.
pub fn totals(out: &mut impl Write, totals: &Totals) -> io::Result<()> {
    let Totals { filters, software, walks, merged, hardware, .. } = totals;
    writeln!(out, "filters   {} seen, {} not decoded", filters.seen, filters.undecoded)?;
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
    writeln!(out, "merged    {} installed, {} refused", merged.installed, many(refused, "walk"))?;
    writeln!(
        out,
        "hardware  {} handled, {} left to software; {}",
        hardware.handled,
        hardware.software,
        compared(&hardware.result)
    )?;
    for (why, count) in &hardware.known {
        // Conntrack and `csum` read more of a packet than a table does.
        writeln!(out, "known     {} of a merged filter left to software: {why}", many(*count, "packet"))?;
    }
    Ok(())
}

fn compared(c: &Compared) -> String {
    let wrapped = match c.wrapped {
        0 => String::new(),
        n => format!(" ({n} with their outer packet)"),
    };
    format!(
        "{} of {} frames{wrapped} and {} of {} filters' counters identical",
        c.identical, c.frames, c.counters_identical, c.counters
    )
}

/// The way of a frame: the port, the filters that it hit, the merged filter.
fn walk(timeline: &Timeline, received: &Received) -> String {
    let mut steps = vec![timeline.name_of(received.port)];
    steps.extend(received.hits.iter().map(|hit| filter_name(timeline, *hit)));
    steps.extend(received.merged.map(|merged| format!("merged filter {merged}")));
    steps.extend(
        received
            .doubt
            .as_ref()
            .map(|doubt| format!("not known: {}", with_names(doubt, &|port| timeline.name_of(port)))),
    );
    steps.join(" > ")
}

fn filter_name(timeline: &Timeline, id: FilterId) -> String {
    format!("{} chain {} pref {} handle {:#x}", hook(timeline, id.hook), id.chain, id.prio, id.handle)
}

fn hook(timeline: &Timeline, hook: Hook) -> String {
    match hook {
        Hook::Ingress(port) => timeline.name_of(port),
        Hook::Egress(port) => format!("{} egress", timeline.name_of(port)),
        Hook::Block(block) => format!("block {block}"),
    }
}

fn counters(counters: &[Counters]) -> String {
    let each: Vec<_> =
        counters.iter().map(|c| format!("{}, {}", many(c.packets, "packet"), many(c.bytes, "byte"))).collect();
    each.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_names_wherever_they_stand() {
        let named = |text| with_names(text, &|port| format!("p{}", port.0));
        assert_eq!(
            named("if1 chain 0 sends to if2, which has filters: see if3"),
            "p1 chain 0 sends to p2, which has filters: see p3"
        );
        assert_eq!(named("iface if1x xif1 if ifé"), "iface if1x xif1 if ifé");
    }
}
