//! What a merged filter takes of memory: by how much the process grows when connections that are known are merged.
//!
//! Each case runs in a process of its own, which begins empty: this program again, told by an environment variable what to do. What is
//! asked is the kernel's count of pages in memory, so that what the allocator and half-empty tables waste stands in it. Connections'
//! records are there before, and the hardware keeps nothing.

use crate::{
    harness::{Nowhere, Running, Sizes},
    report::{Report, Row, count},
};
use flowmerge::conntrack::Direction;
use flowmerge_bench::{eager::Eager, world::World};
use std::{env, fs, process::Command};

const ASKED: &str = "FLOWMERGE_MEMORY_CASE";

/// A case, as it is told to the process that measures it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    kind: &'static str,
    merged: u64,
}

const KINDS: [&str; 6] = ["shared", "own", "shared-ipv6", "own-ipv6", "shared-two", "eager"];

/// The case that this process is for, if it is for one.
pub fn asked() -> Option<Case> {
    let asked = env::var(ASKED).ok()?;
    let (kind, merged) = asked.split_once(' ')?;
    let kind = KINDS.into_iter().find(|k| *k == kind)?;
    Some(Case { kind, merged: merged.parse().ok()? })
}

impl Case {
    fn world(self) -> World {
        let world = World::five(self.kind.starts_with("own"));
        match self.kind {
            "eager" => World::pairs(1),
            "shared-two" => world.two_zones(),
            kind if kind.ends_with("ipv6") => world.ipv6(),
            _ => world,
        }
    }

    /// Bytes by which the process grows for each merged filter.
    pub fn measure(self) -> f64 {
        let world = self.world();
        let grown = if self.kind == "eager" {
            let mut eager = Eager::new(Nowhere::default());
            for (id, connection) in (0..self.merged).flat_map(|n| world.connections(n)) {
                eager.connection(id, Direction::Original, &connection);
            }
            let before = resident();
            world.filters().into_iter().for_each(|(cookie, filter)| assert!(eager.filter(cookie, filter)));
            assert_eq!(eager.merged() as u64, self.merged);
            resident() - before
        } else {
            let mut running = Running::new(world);
            let fresh = running.connect(self.merged);
            let before = resident();
            running.merge(fresh);
            assert_eq!(running.subject.merged() as u64, self.merged);
            resident() - before
        };
        grown / self.merged as f64
    }

    /// The same in a process of its own.
    fn apart(self) -> f64 {
        let own = env::current_exe().expect("this program is a file");
        let output = Command::new(own).env(ASKED, format!("{} {}", self.kind, self.merged)).output();
        let output = output.expect("this program runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{self:?}: {told}");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("it prints a number")
    }
}

/// Bytes of this process in memory.
fn resident() -> f64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("Linux tells");
    let rss = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).expect("it tells this");
    let kilobytes: f64 = rss.trim().trim_end_matches(" kB").parse().expect("a number");
    kilobytes * 1024.0
}

/// All cases.
pub fn all(sizes: &Sizes, report: &mut Report) {
    let merged = sizes.most;
    let [shared, own, shared_v6, own_v6, two, eager] = KINDS.map(|kind| Case { kind, merged }.apart());
    let mut push = |what: &str, bytes, baseline, goal| {
        let what = format!("memory per merged filter at {}{what}", count(merged));
        report.push(10, Row::bytes(what, bytes, baseline, goal));
    };
    push(", shared path", shared, Some(eager), Some(96.0));
    push(", each on its own path", own, Some(eager), Some(256.0));
    push(", more for IPv6, shared path", shared_v6 - shared, None, None);
    push(", more for IPv6, each on its own path", own_v6 - own, None, None);
    push(", more for a second tuple", two - shared, None, None);
}
