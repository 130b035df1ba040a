//! Random filters of everything that flower and act can say: what the library tells the kernel, the kernel must say back.
//!
//! The filters are those of `tests/wire`, where they are decoded by another decoder. Most are put together as such filters are, and
//! the kernel must take them. The others are disturbed: the library refuses most of them, the kernel some of what is left, but
//! what it takes it must take as it is meant.

use crate::{case::Devices, ground::Ground};
use anyhow::{Context, Result};
use clap::Args;
use flowmerge::{
    flower::{
        Action, ActionKind, Control, Filter, FilterId, Hook, Kind, Match, Port, action::Police, filter::PROTOCOL_ALL,
        print::printed,
    },
    netlink::{FilterMessage, encode_clsact, encode_filter},
};
use random_filters::{Throws, expected, features, filter};
use std::collections::{BTreeMap, BTreeSet};

#[path = "../../tests/wire/filters/mod.rs"]
mod random_filters;

use crate::generate::dice::Dice;

/// Put random filters into the kernel, and compare what it says of them with what it was told.
///
/// Exit status: 0 if it says the same, 1 if it does not, 2 if it cannot run.
#[derive(Args)]
pub struct Options {
    /// How many filters.
    #[arg(long, default_value_t = 4000)]
    filters: usize,
    /// The seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Filters in one network.
const BATCH: usize = 500;
/// Differences that are shown.
const SHOWN: usize = 10;
/// In a run of so many filters each feature must be seen in so many.
const MANY: usize = 4000;
const LEAST: usize = 5;

#[derive(Default)]
struct Sums {
    taken: usize,
    /// Of those that do not belong together: what the library did not tell the kernel, and what the kernel did not take.
    not_told: usize,
    not_taken: usize,
    features: BTreeMap<String, usize>,
    differences: Vec<String>,
}

/// Runs; whether the kernel says what it was told.
///
/// # Errors
/// The laboratory's devices cannot be made, the kernel cannot be asked.
pub fn compare(options: &Options) -> Result<bool> {
    let mut dice = Dice::new(options.seed);
    let mut sums = Sums::default();
    let mut left = options.filters;
    while left > 0 {
        let count = left.min(BATCH);
        left -= count;
        batch(&mut dice, count, &mut sums)?;
    }
    shared_policers(&mut sums)?;
    sums.differences.iter().take(SHOWN).for_each(|difference| println!("{difference}"));
    let seen = |feature: &String| sums.features.get(feature).copied().unwrap_or(0);
    let rare: Vec<_> =
        expected().into_iter().chain(sums.features.keys().cloned()).filter(|f| seen(f) < LEAST).collect();
    let narrow = options.filters >= MANY && !rare.is_empty();
    if narrow {
        println!("too few filters with: {rare:?}");
    }
    println!(
        "{} filters in the kernel with {} fields, masks and forms of actions, as they were told; {} that do not belong together were \
         not told, {} not taken; {}",
        sums.taken,
        sums.features.len(),
        sums.not_told,
        sums.not_taken,
        match sums.differences.len() {
            0 => "no difference".to_owned(),
            count => format!("{count} DIFFERENT"),
        }
    );
    Ok(sums.differences.is_empty() && !narrow)
}

fn batch(dice: &mut Dice, count: usize, sums: &mut Sums) -> Result<()> {
    let mut ground = Ground::lay(Devices::random())?;
    let ports: Vec<Port> = ground.devices.ports().collect();
    let qdiscs = ports.iter().map(|&port| encode_clsact(port, None)).collect();
    ground.ask(qdiscs)?.into_iter().collect::<Result<Vec<_>, _>>().context("the ports' clsact qdiscs")?;
    let hooks = [Hook::Ingress(ports[0]), Hook::Egress(ports[1])];
    let mut asked: Vec<(Filter, bool)> = Vec::new();
    let mut requests = Vec::new();
    for prio in 1..=count as u16 {
        let id = FilterId { hook: *dice.pick(&hooks), chain: dice.below(3) as u32, prio, protocol: 0, handle: 1 };
        let (filter, regular) = filter(&mut Throws(&mut || dice.number()), id, &ports);
        match encode_filter(&filter, &ground.devices) {
            Ok(request) => {
                requests.push(request);
                asked.push((filter, regular));
            }
            Err(error) if regular => sums.differs(&ground, &filter, &format!("was not told: {error}")),
            Err(_) => sums.not_told += 1,
        }
    }
    let answers = ground.ask(requests)?;
    let mut told = BTreeMap::new();
    for hook in hooks {
        for message in ground.filters(hook)? {
            told.insert(message.filter.id, message);
        }
    }
    for ((filter, regular), answer) in asked.iter().zip(answers) {
        match answer {
            Ok(()) => sums.compare(&ground, filter, told.get(&filter.id)),
            Err(errno) if *regular => sums.differs(&ground, filter, &format!("the kernel does not take it: {errno}")),
            Err(_) => sums.not_taken += 1,
        }
    }
    Ok(())
}

/// Policers that exist beside filters, and that filters share by index: one that a filter names is told as it is, whatever else the
/// filter says of it, and told so it is the same again.
fn shared_policers(sums: &mut Sums) -> Result<()> {
    let mut ground = Ground::lay(Devices::random())?;
    let port = ground.devices.ports().next().context("a port")?;
    ground.batch(
        "qdisc add dev p1 clsact\n\
         actions add action police rate 10mbit burst 20k mtu 3000 overhead 14 conform-exceed drop/pipe index 7\n\
         actions add action police pkts_rate 1000 pkts_burst 50 mtu 3000 conform-exceed pipe/pass index 8\n",
    )?;
    for (index, prio) in [(7, 1), (8, 3)] {
        let any = Police { shared: true, mtu: 1, ..Police::default() };
        let action = Action { index, ..Action::new(ActionKind::Police(any), Control::Pipe) };
        let mut asked = Filter {
            id: FilterId { hook: Hook::Ingress(port), chain: 0, prio, protocol: PROTOCOL_ALL, handle: 1 },
            kind: Kind::Flower,
            matches: Match::default(),
            actions: vec![action],
            skip_sw: false,
            // As the policers are: the kernel binds none to a filter that goes elsewhere than they do.
            skip_hw: false,
            undecoded: Vec::new(),
        };
        for again in [false, true] {
            asked.id.prio = prio + u16::from(again);
            let request = encode_filter(&asked, &ground.devices).map_err(|error| anyhow::anyhow!("{error}"))?;
            ground.ask(vec![request])?.into_iter().collect::<Result<Vec<_>, _>>().context("a shared policer")?;
            let told = ground.filters(asked.id.hook)?.into_iter().find(|told| told.filter.id == asked.id);
            let told = told.context("the filter of a shared policer")?.filter;
            let is_shared = matches!(told.actions[..], [Action { kind: ActionKind::Police(p), index: i, .. }] if p.shared && i == index);
            if !is_shared || again && told != asked {
                sums.differs(&ground, &asked, &format!("asked {:?}\n  told  {:?}", asked.actions, told.actions));
            }
            sums.taken += 1;
            asked = told;
        }
    }
    Ok(())
}

impl Sums {
    fn compare(&mut self, ground: &Ground, asked: &Filter, told: Option<&FilterMessage>) {
        let Some(told) = told else { return self.differs(ground, asked, "the kernel does not tell it") };
        self.taken += 1;
        for feature in features(asked).into_iter().collect::<BTreeSet<_>>() {
            *self.features.entry(feature).or_default() += 1;
        }
        let mut told = told.filter.clone();
        // The kernel numbers the actions.
        told.actions.iter_mut().for_each(|action| action.index = 0);
        if told != *asked {
            let show = |filter: &Filter| format!("{:?} {:?} {:?}", filter.matches, filter.actions, filter.undecoded);
            let difference = format!("asked {}\n  told  {}", show(asked), show(&told));
            self.differs(ground, asked, &difference);
        }
    }

    fn differs(&mut self, ground: &Ground, filter: &Filter, how: &str) {
        let words = printed(filter, &|port| ground.devices.name_of(port)).to_string();
        self.differences.push(format!("{words}\n  {how}"));
    }
}
