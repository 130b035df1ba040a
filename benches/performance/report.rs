//! The table at the end: goal, measured, baseline, ratio; and the same as a page.

use crate::harness::Measured;
use comfy_table::{CellAlignment, Table, presets};
use std::{fmt::Write, fs, path::Path, process::Command};

/// What a goal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Nanoseconds,
    Bytes,
    Times,
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    what: String,
    unit: Unit,
    measured: Option<f64>,
    /// At most this much; times of other machines are scaled.
    goal: Option<f64>,
    /// At least this much instead.
    at_least: bool,
    baseline: Option<f64>,
    ratio: Option<f64>,
    /// How many times better than the baseline it has to be.
    times: Option<f64>,
}

/// All that was measured.
#[derive(Clone, Debug)]
pub struct Report {
    rows: Vec<(u8, Row)>,
    /// By how much this machine is slower than the one of the goals, now: by the baseline.
    pub scale: f64,
    short: bool,
}

impl Row {
    /// What an operation takes.
    pub fn nanoseconds(what: String, measured: &Measured, goal: Option<f64>) -> Row {
        let row = Row::new(what, Unit::Nanoseconds, measured.median(), measured.baseline());
        Row { goal, ratio: measured.ratio(), ..row }
    }

    /// A time that was not measured in operations.
    pub fn time(what: String, nanoseconds: f64, goal: Option<f64>) -> Row {
        Row { goal, ..Row::new(what, Unit::Nanoseconds, nanoseconds, None) }
    }

    /// Memory.
    pub fn bytes(what: String, measured: f64, baseline: Option<f64>, goal: Option<f64>) -> Row {
        Row { goal, ratio: baseline.map(|b| b / measured), ..Row::new(what, Unit::Bytes, measured, baseline) }
    }

    /// One thing measured by another.
    pub fn factor(what: String, measured: f64, baseline: Option<f64>) -> Row {
        Row::new(what, Unit::Times, measured, baseline)
    }

    fn new(what: String, unit: Unit, measured: f64, baseline: Option<f64>) -> Row {
        let measured = Some(measured);
        Row { what, unit, measured, goal: None, at_least: false, baseline, ratio: None, times: None }
    }

    /// The goal of a factor.
    pub fn at_most(self, goal: f64) -> Row {
        Row { goal: Some(goal), ..self }
    }

    /// The goal of a factor.
    pub fn at_least(self, goal: f64) -> Row {
        Row { goal: Some(goal), at_least: true, ..self }
    }

    /// It has to be so many times better than the baseline as well.
    pub fn times(self, times: f64) -> Row {
        Row { times: Some(times), ..self }
    }

    fn goal(&self, scale: f64) -> Option<f64> {
        self.goal.map(|goal| if self.unit == Unit::Nanoseconds { goal * scale } else { goal })
    }

    /// Whether the goals are met; none without one.
    fn met(&self, scale: f64) -> Option<bool> {
        let goal =
            self.goal(scale).zip(self.measured).map(|(goal, m)| if self.at_least { m >= goal } else { m <= goal });
        let times = self.times.zip(self.ratio).map(|(times, ratio)| ratio >= times);
        match (goal, times) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(true) && b.unwrap_or(true)),
        }
    }

    fn show(&self, value: f64) -> String {
        match self.unit {
            Unit::Times => format!("{value:.1}x"),
            Unit::Bytes => format!("{value:.0} B"),
            Unit::Nanoseconds => time(value),
        }
    }

    /// What stands in the columns.
    fn cells(&self, scale: f64) -> [String; 6] {
        let or_not = |text: Option<String>| text.unwrap_or_default();
        let goal = self.goal(scale).map(|g| format!("{}{}", if self.at_least { "≥ " } else { "" }, self.show(g)));
        let times = self.times.map(|t| format!("≥ {t:.0}x"));
        let ratio = self.ratio.map(|r| format!("{r:.1}x"));
        let met = self.met(scale).map(|met| if met { "yes" } else { "NO" }.to_owned());
        let goal = [goal, times].into_iter().flatten().collect::<Vec<_>>().join(", ");
        let measured = self.measured.map(|m| self.show(m));
        [
            self.what.clone(),
            goal,
            or_not(measured),
            or_not(met),
            or_not(self.baseline.map(|b| self.show(b))),
            or_not(ratio),
        ]
    }
}

const HEADS: [&str; 6] = ["what", "goal", "measured", "met", "baseline", "ratio"];

fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n < 10.0 => format!("{n:.1} ns"),
        n if n < 10_000.0 => format!("{n:.0} ns"),
        n if n < 10_000_000.0 => format!("{:.1} us", n / 1e3),
        n => format!("{:.1} ms", n / 1e6),
    }
}

/// A number with its thousands apart.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

impl Report {
    /// Nothing measured yet.
    pub fn new(short: bool) -> Report {
        Report { rows: Vec::new(), scale: 1.0, short }
    }

    /// A line, of the `place`-th row of the goals.
    pub fn push(&mut self, place: u8, row: Row) {
        let at = self.rows.partition_point(|(p, _)| *p <= place);
        self.rows.insert(at, (place, row));
    }

    /// The table as it ends the benchmarks.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header(HEADS);
        for (_, row) in &self.rows {
            table.add_row(row.cells(self.scale));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{table}\n{}", self.told())
    }

    /// How to read it.
    fn told(&self) -> String {
        let (met, of) = self
            .rows
            .iter()
            .filter_map(|(_, row)| row.met(self.scale))
            .fold((0, 0), |(met, of), yes| (met + u32::from(yes), of + 1));
        let mut told = format!(
            "{met} of {of} goals are met. Times are scaled by {:.2}: the baseline's add at 100,000, one pair, over 1296 ns, in this run.\n",
            self.scale
        );
        if self.short {
            told += "A short run: far fewer merged filters than the goals are about. It shows that everything works, and no more.\n";
        }
        told
    }

    /// Puts the table into a page, between the two marks that are there.
    ///
    /// # Errors
    /// The run was a short one, or the page cannot be read or written, or has no marks.
    pub fn write(&self, page: &Path) -> Result<(), String> {
        if self.short {
            return Err("a short run shows that everything works: its figures are not for the page".into());
        }
        let of = |e: std::io::Error| format!("{}: {e}", page.display());
        let text = fs::read_to_string(page).map_err(of)?;
        let (head, rest) = text.split_once(BEGIN).ok_or(format!("{}: no {BEGIN}", page.display()))?;
        let (_, tail) = rest.split_once(END).ok_or(format!("{}: no {END}", page.display()))?;
        let mut table = format!("| {} |\n| --- | ---: | ---: | --- | ---: | ---: |\n", HEADS.join(" | "));
        for (_, row) in &self.rows {
            let _ = writeln!(table, "| {} |", row.cells(self.scale).join(" | "));
        }
        fs::write(page, format!("{head}{BEGIN}\n{}\n\n{table}\n{}{END}{tail}", machine(), self.told())).map_err(of)
    }
}

const BEGIN: &str = "<!-- measured: cargo bench writes this -->";
const END: &str = "<!-- end -->";

/// The machine that it was measured on.
pub fn machine() -> String {
    let first = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once([':', '=']).map_or("", |(_, v)| v).trim().trim_matches('"').to_owned())
    };
    let unknown = || "unknown".to_owned();
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = first("/proc/meminfo", "MemTotal").and_then(|m| m.split_once(' ')?.0.parse::<u64>().ok()).unwrap_or(0);
    format!(
        "Measured on {} ({processors} of its processors, {:.0} GB), {}, Linux {}, {}, on {}.",
        first("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
        memory as f64 / 1e6,
        first("/etc/os-release", "PRETTY_NAME").unwrap_or_else(unknown),
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| unknown()).trim(),
        said("rustc", &["--version"]).unwrap_or_else(unknown),
        said("date", &["-u", "+%Y-%m-%d"]).unwrap_or_else(unknown),
    )
}
