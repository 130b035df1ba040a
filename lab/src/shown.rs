//! What `tc -j filter show` says of the filters in the kernel, against our own printing of them.
//!
//! ```text
//! {"keys":{"ip_tos":184,"ip_tos_mask":"fc",..},..} ── words ──► ip_tos 0xb8/0xfc ─┐
//!                                                                                 ├─ equal?
//! Filter ── `{:#}` of printed() ── read line by line ─────────► ip_tos 0xb8/0xfc ─┘
//! ```
//!
//! tc's JSON is put into our words ([`terms`] for matches, [`actions`], [`rewrites`] for the words of a `pedit`); then both must say
//! the same, nothing more and nothing less: place, protocol, kind, every term, `skip_sw` and `skip_hw`, every action in its order with
//! its arguments and its control. What is not compared is what only the kernel knows: counters, times, references, whether hardware
//! has the filter; and an action's index, where the filter has none of its own.
//!
//! Where tc and we write a thing differently on purpose, or tc (iproute2 6.1) is silent or wrong, stands in the tables of [`terms`]
//! and [`actions`], with the reason. Nothing else is passed by: what tc shows and is not known here counts as a disagreement.

mod actions;
#[cfg(test)]
mod cases;
mod mended;
mod rewrites;
mod terms;
#[cfg(test)]
mod tests;

use crate::case::Devices;
use actions::Act;
use anyhow::{Context, Result, bail};
use flowmerge::flower::{
    Filter, FilterId, Hook, Port,
    print::{Names, printed},
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::Write,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
};

/// The members of a JSON object, in their order. There may be several of one name: of a port that is compared and has a range,
/// too, tc shows both as `src_port`.
#[derive(Clone, Debug, Default)]
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Members, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut all = Vec::new();
                while let Some(member) = map.next_entry()? {
                    all.push(member);
                }
                Ok(Members(all))
            }
        }
        from.deserialize_map(All)
    }
}

impl Members {
    /// Takes the first of that name out.
    fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.remove(at).1)
    }

    /// Takes out what has to be a text.
    fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        }
    }

    /// Takes out what has to be a number; another value stays, and so is told of.
    fn number(&mut self, name: &str) -> Option<u64> {
        let at = self.0.iter().position(|(n, value)| n == name && value.is_u64())?;
        self.0.remove(at).1.as_u64()
    }
}

/// An entry of the list. Those without a handle stand for the head of a priority.
#[derive(Deserialize)]
struct Entry {
    protocol: String,
    pref: u16,
    kind: String,
    chain: u32,
    /// The shared block that it belongs to, where a device was asked about.
    block: Option<u32>,
    #[serde(default)]
    options: Options,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Options {
    handle: u32,
    indev: Option<String>,
    keys: Members,
    skip_sw: bool,
    skip_hw: bool,
    actions: Vec<Members>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// What tc says of one filter.
#[derive(Clone, Debug)]
pub struct One {
    kind: String,
    protocol: String,
    pref: u16,
    chain: u32,
    block: Option<u32>,
    options: Options,
}

/// What tc says of the filters of one hook.
#[derive(Clone, Debug, Default)]
pub struct Shown(BTreeMap<Place, One>);

/// Chain, priority, handle.
type Place = (u32, u16, u32);

fn place(id: &FilterId) -> Place {
    (id.chain, id.prio, id.handle)
}

impl Shown {
    /// What it says of this one.
    pub fn of(&self, id: &FilterId) -> Option<&One> {
        self.0.get(&place(id))
    }

    fn new(entries: Vec<Entry>) -> Result<Shown> {
        let mut all = BTreeMap::new();
        for Entry { protocol, pref, kind, chain, block, options } in entries {
            if options.handle == 0 {
                continue;
            }
            let place = (chain, pref, options.handle);
            if all.insert(place, One { kind, protocol, pref, chain, block, options }).is_some() {
                bail!("tc shows two filters with chain {}, pref {}, handle {:#x}", place.0, place.1, place.2);
            }
        }
        Ok(Shown(all))
    }
}

/// Reads what `tc -j filter show` printed, or a `tc -j -batch` of several: a list for each.
///
/// # Errors
/// It is no such JSON, or two filters of a list have one place.
pub fn parse(json: &str) -> Result<Vec<Shown>> {
    let json = mended::mended(json);
    let lists = serde_json::Deserializer::from_str(&json).into_iter::<Vec<Entry>>();
    lists.map(|list| Shown::new(list.context("what `tc -j filter show` printed")?)).collect()
}

/// A filter in our words.
#[derive(Debug, Default)]
struct Words {
    place: String,
    /// Terms of the match and remarks, sorted.
    terms: Vec<String>,
    actions: Vec<Act>,
    /// What could not be put into our words.
    strange: Vec<String>,
}

impl Words {
    /// From tc's.
    fn of_tc(one: &One) -> Words {
        let One { kind, protocol, pref, chain, options, .. } = one;
        let protocol = terms::protocol(protocol);
        let place = format!("protocol {protocol} pref {pref} {kind} chain {chain} handle {:#x}", options.handle);
        let mut words = Words { place, ..Words::default() };
        words.terms.extend(options.indev.iter().map(|name| format!("indev {name}")));
        terms::of_tc(options.keys.clone(), &mut words.terms, &mut words.strange);
        for (set, name) in [(options.skip_sw, "skip_sw"), (options.skip_hw, "skip_hw")] {
            words.terms.extend(set.then(|| name.to_owned()));
        }
        words.terms.sort();
        for (action, number) in options.actions.iter().zip(1..) {
            words.actions.push(Act::of_tc(action.clone(), number, &mut words.strange));
        }
        let known = |name: &String| matches!(name.as_str(), "in_hw" | "not_in_hw" | "in_hw_count");
        let others = options.others.iter().filter(|(name, _)| !known(name));
        words.strange.extend(others.map(|(name, value)| format!("tc shows {name} {value}, which is not known here")));
        words
    }

    /// From what we print.
    fn of_ours(printed: &str) -> Words {
        let mut words = Words::default();
        for (line, number) in printed.lines().zip(0..) {
            if number == 0 {
                // "filter dev p1 ingress protocol .."; the command that was asked names the hook.
                words.place = line.split_once(" protocol ").map_or(line.into(), |(_, rest)| format!("protocol {rest}"));
            } else if let Some(term) = line.strip_prefix("  ") {
                words.terms.push(term.to_owned());
            } else if let Some((_, text)) = line.strip_prefix("\taction order ").and_then(|rest| rest.split_once(": "))
            {
                words.actions.push(Act::of_ours(text));
            } else if let (Some(rest), Some(act)) = (line.strip_prefix("\t "), words.actions.last_mut()) {
                act.add_rest(rest);
            } else {
                words.strange.push(format!("we print {line:?}, which is not known here"));
            }
        }
        terms::drop_unsaid(&mut words.terms);
        words.terms.sort();
        words
    }
}

/// What tc's words and ours disagree about; empty if nothing.
pub fn disagreements(shown: &One, filter: &Filter, names: &dyn Names) -> Vec<String> {
    let theirs = Words::of_tc(shown);
    let ours = Words::of_ours(&format!("{:#}", printed(filter, names)));
    let mut all: Vec<String> = theirs.strange.into_iter().chain(ours.strange).collect();
    if theirs.place != ours.place {
        all.push(format!("tc has `{}`, we `{}`", theirs.place, ours.place));
    }
    let beyond = |these: &[String], those: &[String]| {
        let mut rest = these.to_vec();
        for term in those {
            if let Some(at) = rest.iter().position(|t| t == term) {
                rest.remove(at);
            }
        }
        rest
    };
    all.extend(beyond(&theirs.terms, &ours.terms).iter().map(|term| format!("only tc has `{term}`")));
    all.extend(beyond(&ours.terms, &theirs.terms).iter().map(|term| format!("only we have `{term}`")));
    if theirs.actions.len() != ours.actions.len() {
        all.push(format!("tc has {} actions, we {}", theirs.actions.len(), ours.actions.len()));
    }
    for ((theirs, ours), number) in theirs.actions.iter().zip(&ours.actions).zip(1..) {
        all.extend(theirs.differs(ours).map(|how| format!("action {number}: {how}")));
    }
    all
}

/// What tc shows of the filters of some hooks, against what we print.
#[derive(Debug, Default)]
pub struct Compared {
    /// Filters shown.
    pub shown: u64,
    /// Filters of hooks at which tc dies: iproute2 6.1 does of an IPv6 address with a mask that is no prefix, as soon as both are longer
    /// than 64 letters.
    pub deadly: u64,
    /// What it says otherwise than we would print, each with the filter.
    pub differences: Vec<String>,
}

/// Asks tc, once, what hangs at all ports' ingress and wherever else these filters do.
///
/// # Errors
/// tc cannot be run or prints no JSON.
pub fn compare(devices: &Devices, filters: &[Filter]) -> Result<Compared> {
    let hooks: BTreeSet<Hook> =
        filters.iter().map(|filter| filter.id.hook).chain(devices.ports().map(Hook::Ingress)).collect();
    let hooks: Vec<Hook> = hooks.into_iter().collect();
    let shown = match show(devices, &hooks)? {
        Some(text) => parse(&text)?.into_iter().map(Some).collect(),
        None => one_by_one(devices, &hooks)?,
    };
    if shown.len() != hooks.len() {
        bail!("tc was asked for {} lists of filters and gave {}", hooks.len(), shown.len());
    }
    let names = |port: Port| devices.name_of(port);
    let mut compared = Compared::default();
    let all = &mut compared.differences;
    for (hook, shown) in hooks.iter().zip(&shown) {
        let count = filters.iter().filter(|filter| filter.id.hook == *hook).count() as u64;
        let Some(shown) = shown else {
            compared.deadly += count;
            continue;
        };
        compared.shown += count;
        let mut places = BTreeSet::new();
        for filter in filters.iter().filter(|filter| filter.id.hook == *hook) {
            places.insert(place(&filter.id));
            let found = match shown.of(&filter.id) {
                Some(one) => disagreements(one, filter, &names),
                None => vec!["tc does not show it".to_owned()],
            };
            all.extend(found.into_iter().map(|what| format!("{}: {what}", printed(filter, &names))));
        }
        for ((chain, pref, handle), one) in shown.0.iter().filter(|(place, _)| !places.contains(place)) {
            // A port that shares a block shows what the block has, which is asked about by itself.
            if !one.block.is_some_and(|block| hooks.contains(&Hook::Block(block))) {
                all.push(format!(
                    "tc shows a filter that is not ours: {hook} chain {chain} pref {pref} handle {handle:#x}"
                ));
            }
        }
    }
    Ok(compared)
}

/// The hooks each by itself; nothing of one at which tc dies.
fn one_by_one(devices: &Devices, hooks: &[Hook]) -> Result<Vec<Option<Shown>>> {
    let of = |hook: &Hook| match show(devices, &[*hook])? {
        Some(text) => Ok(parse(&text)?.pop()),
        None => Ok(None),
    };
    hooks.iter().map(of).collect()
}

/// What tc prints for these hooks; nothing if it dies. A process costs 30 ms inside, so one prints all.
fn show(devices: &Devices, hooks: &[Hook]) -> Result<Option<String>> {
    let commands = hooks.iter().map(|hook| match hook {
        Hook::Ingress(port) => format!("filter show dev {} ingress\n", devices.name_of(*port)),
        Hook::Egress(port) => format!("filter show dev {} egress\n", devices.name_of(*port)),
        Hook::Block(block) => format!("filter show block {block}\n"),
    });
    let commands: String = commands.collect();
    let mut tc = Command::new("tc");
    let mut child = tc
        .args(["-j", "-s", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("tc")?;
    // A few lines: they fit into the pipe, whatever tc does.
    child.stdin.take().context("tc -batch")?.write_all(commands.as_bytes()).context("tc -batch")?;
    let output = child.wait_with_output().context("tc -batch")?;
    if output.status.signal().is_some() {
        return Ok(None);
    }
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !told.is_empty() {
        bail!("tc -j filter show: {}", told.trim_end());
    }
    String::from_utf8(output.stdout).map(Some).context("what `tc -j filter show` printed")
}
