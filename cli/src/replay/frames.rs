//! `--frames`: one JSON line for each received frame, so that anyone can check with a tool of their own.

use super::{
    engine::{Fate, Received, Run},
    timeline::Timeline,
};
use flowmerge::flower::{FilterId, Hook};
use serde::Serialize;
use std::io::{self, Write};

#[derive(Serialize)]
struct Line<'a> {
    run: &'a str,
    frame: u64,
    port: String,
    verdict: &'a str,
    hits: Vec<Hit>,
    merged: Option<u64>,
    sent: Vec<Sent>,
}

#[derive(Serialize)]
struct Hit {
    #[serde(flatten)]
    hook: Place,
    chain: u32,
    prio: u16,
    handle: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    Port(String),
    Block(u32),
}

#[derive(Serialize)]
struct Sent {
    port: String,
    hex: String,
}

/// Writes the lines of a run.
pub fn write(out: &mut impl Write, name: &str, run: &Run, timeline: &Timeline) -> io::Result<()> {
    for received in &run.received {
        serde_json::to_writer(&mut *out, &line(name, received, timeline))?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn line<'a>(run: &'a str, received: &Received, timeline: &Timeline) -> Line<'a> {
    let hit = |id: &FilterId| Hit {
        hook: match id.hook {
            Hook::Ingress(port) | Hook::Egress(port) => Place::Port(timeline.name_of(port)),
            Hook::Block(block) => Place::Block(block),
        },
        chain: id.chain,
        prio: id.prio,
        handle: id.handle,
    };
    Line {
        run,
        frame: received.number,
        port: timeline.name_of(received.port),
        verdict: match received.fate {
            Fate::Decided => "decided",
            Fate::Missed => "missed",
            Fate::Handled => "handled",
        },
        hits: received.hits.iter().map(hit).collect(),
        merged: received.merged,
        sent: received
            .sent
            .iter()
            .map(|(port, frame)| Sent { port: timeline.name_of(*port), hex: hex(frame) })
            .collect(),
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
