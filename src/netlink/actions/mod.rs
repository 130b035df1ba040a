//! `TCA_ACT_*` <-> [`Action`], with what each action has counted.
//!
//! A list of actions is a nest of numbered attributes; each holds the kind's name, the kind's own options, a cookie and the
//! counters (`net/sched/act_api.c`). The kinds' options are read and written by the sibling modules; a new kind is a
//! module and two lines in [`options`] and [`options_of`].

mod ct;
mod mpls;
mod pedit;
mod plain;
mod police;
mod tunnel_key;

use super::{
    attributes::{Attribute, Attributes},
    error::{DecodeError, EncodeError, Fault},
};
use crate::flower::{Action, ActionKind, Control, Counters};

const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const INDEX: u16 = 3;
const STATS: u16 = 4;
const COOKIE: u16 = 6;
/// Everything up to `TCA_ACT_IN_HW_COUNT` is understood; what is not listed above only describes.
const LAST: u16 = 10;

/// The parameters' attribute of most kinds; 1 holds the times.
const PARMS: u16 = 2;

const STATS_BASIC: u16 = 1;
const STATS_BASIC_HW: u16 = 7;
const STATS_PKT64: u16 = 8;

/// Nanoseconds in a tick of `struct tcf_t` (USER_HZ is 100).
const TICK: u64 = 10_000_000;

/// An action as a message tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionMessage {
    /// The action.
    pub action: Action,
    /// What it has counted, in software and hardware together. `last_used` is 0: a message says how long ago, not when.
    pub counters: Counters,
    /// Nanoseconds between its last packet and the message, in steps of 10 ms; `None` if it had none.
    pub idle: Option<u64>,
    /// Attributes not understood, as in [`crate::flower::Filter::undecoded`].
    pub undecoded: Vec<String>,
}

/// What a kind's options say.
struct Options {
    kind: ActionKind,
    generic: Generic,
    undecoded: Vec<String>,
}

/// `tc_gen`, with which every kind's parameters begin: index, capabilities, action, reference and bind counts.
#[derive(Clone, Copy)]
struct Generic {
    index: u32,
    control: Control,
}

impl Generic {
    /// `bytes`: at least the twenty of `tc_gen`.
    fn read(bytes: &[u8; 20]) -> Generic {
        let [i0, i1, i2, i3, _, _, _, _, a0, a1, a2, a3, ..] = *bytes;
        Generic { index: u32::from_ne_bytes([i0, i1, i2, i3]), control: control(i32::from_ne_bytes([a0, a1, a2, a3])) }
    }

    fn write(self) -> Vec<u8> {
        let mut bytes = self.index.to_ne_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(verdict(self.control).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes
    }
}

/// Reads `N` bytes of parameters, of which the first twenty are `tc_gen`.
fn parameters<const N: usize>(options: &Attributes, kind: u16) -> Result<(Generic, [u8; N]), DecodeError> {
    Ok((Generic::read(&options.need(kind)?), options.need(kind)?))
}

/// The four bytes at `at` as the kernel's integer. `at` is a constant inside of the array.
fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The attributes numbered above `last`, named.
fn unknown(name: &str, options: &Attributes, last: u16) -> Vec<String> {
    let unknown = options.iter().filter(|&(attribute, _)| attribute > last);
    unknown.map(|(attribute, _)| format!("act_{name} {attribute}")).collect()
}

/// A number of what a kind is to do, in its parameters.
fn wrong(part: &'static str, value: u32, expected: &'static str) -> DecodeError {
    DecodeError::new(part, Fault::Value { attribute: PARMS, value: value.into(), expected })
}

const GOTO_CHAIN: i32 = 2 << 28;
const JUMP: i32 = 1 << 28;
const EXTENDED: i32 = (1 << 28) - 1;

/// A `TC_ACT_*` number.
fn control(verdict: i32) -> Control {
    match verdict {
        -1 => Control::Continue,
        0 => Control::Ok,
        1 => Control::Reclassify,
        2 => Control::Shot,
        3 => Control::Pipe,
        4 => Control::Stolen,
        5 => Control::Queued,
        6 => Control::Repeat,
        8 => Control::Trap,
        v if v & !EXTENDED == GOTO_CHAIN => Control::Goto((v & EXTENDED) as u32),
        v if v & !EXTENDED == JUMP => Control::Jump((v & EXTENDED) as u32),
        other => Control::Other(other),
    }
}

fn verdict(control: Control) -> i32 {
    match control {
        Control::Continue => -1,
        Control::Ok => 0,
        Control::Reclassify => 1,
        Control::Shot => 2,
        Control::Pipe => 3,
        Control::Stolen => 4,
        Control::Queued => 5,
        Control::Repeat => 6,
        Control::Trap => 8,
        Control::Goto(chain) => GOTO_CHAIN | chain as i32,
        Control::Jump(actions) => JUMP | actions as i32,
        Control::Other(verdict) => verdict,
    }
}

/// Reads a list of actions, in their order.
pub(super) fn decode(list: &Attributes) -> Result<Vec<ActionMessage>, DecodeError> {
    let mut numbered: Vec<_> = list.iter().collect();
    numbered.sort_by_key(|&(number, _)| number);
    numbered.into_iter().map(|(_, bytes)| decode_one(&Attributes::parse("TCA_ACT", bytes)?)).collect()
}

fn decode_one(action: &Attributes) -> Result<ActionMessage, DecodeError> {
    let kind = action.text(KIND).unwrap_or_default();
    let mut options = match action.nested(OPTIONS, "options of an action")? {
        Some(options) => self::options(&kind, &options)?,
        // A terse dump, or the removal of an action, tells no more than the kind.
        None => None,
    }
    .unwrap_or_else(|| Options {
        undecoded: vec![format!("act_{kind}")],
        kind: ActionKind::Other(kind.clone()),
        generic: Generic { index: 0, control: Control::Pipe },
    });
    if let (0, Some(index)) = (options.generic.index, action.u32(INDEX)?) {
        options.generic.index = index;
    }
    let unknown = action.iter().filter(|&(attribute, _)| attribute > LAST);
    let mut undecoded = options.undecoded;
    undecoded.extend(unknown.map(|(attribute, _)| format!("TCA_ACT {attribute}")));
    let counters = match action.nested(STATS, "TCA_ACT_STATS")? {
        Some(stats) => counters(&stats)?,
        None => Counters::default(),
    };
    let idle = match action.nested(OPTIONS, "options of an action")? {
        Some(options) if counters.packets > 0 => last_use(&kind, &options),
        _ => None,
    };
    Ok(ActionMessage {
        action: Action {
            kind: options.kind,
            control: options.generic.control,
            index: options.generic.index,
            cookie: action.get(COOKIE).unwrap_or_default().to_vec(),
        },
        counters,
        idle,
        undecoded,
    })
}

/// The kinds that are understood.
fn options(kind: &str, options: &Attributes) -> Result<Option<Options>, DecodeError> {
    Ok(Some(match kind {
        "gact" => plain::gact(options)?,
        "mirred" => plain::mirred(options)?,
        "csum" => plain::csum(options)?,
        "vlan" => plain::vlan(options)?,
        "skbedit" => plain::skbedit(options)?,
        "ct" => ct::decode(options)?,
        "pedit" => pedit::decode(options)?,
        "skbmod" => plain::skbmod(options)?,
        "mpls" => mpls::decode(options)?,
        "tunnel_key" => tunnel_key::decode(options)?,
        "nat" => plain::nat(options)?,
        "police" => police::decode(options)?,
        "sample" => plain::sample(options)?,
        _ => return Ok(None),
    }))
}

/// `TCA_STATS_BASIC` counts software and hardware together. Packets beyond 32 bits follow in an attribute of their own, which
/// follows `TCA_STATS_BASIC_HW` in the same way: it belongs to the one before it.
fn counters(stats: &Attributes) -> Result<Counters, DecodeError> {
    let mut counters = Counters::default();
    if let Some(basic) = stats.array::<12>(STATS_BASIC)? {
        let [b0, b1, b2, b3, b4, b5, b6, b7, p @ ..] = basic;
        counters.bytes = u64::from_ne_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
        counters.packets = u32::from_ne_bytes(p).into();
    }
    let before_hardware = stats.iter().take_while(|&(kind, _)| kind != STATS_BASIC_HW);
    if before_hardware.into_iter().any(|(kind, _)| kind == STATS_PKT64) {
        // The first of its number, where `u64` would take the last.
        if let Some(packets) =
            stats.iter().find(|&(kind, _)| kind == STATS_PKT64).and_then(|(_, value)| value.first_chunk().copied())
        {
            counters.packets = u64::from_ne_bytes(packets);
        }
    }
    Ok(counters)
}

/// Time since the last packet, from the kind's `struct tcf_t` (install, last use, expiry, first use).
fn last_use(kind: &str, options: &Attributes) -> Option<u64> {
    let attribute = match kind {
        "ct" | "csum" | "nat" => 2,
        "police" => police::TM,
        _ => 1,
    };
    let times = options.get(attribute)?;
    let ticks = u64::from_ne_bytes(*times.get(8..)?.first_chunk()?);
    ticks.checked_mul(TICK)
}

/// The attribute that holds these actions, or what of them TC cannot be told.
pub(super) fn encode(kind: u16, actions: &[Action]) -> Result<Attribute, EncodeError> {
    let mut list = Vec::new();
    for (action, number) in actions.iter().zip(1u16..) {
        let refuse = |reason| EncodeError::Action { position: number.into(), kind: action.name().to_owned(), reason };
        let generic = Generic { index: action.index, control: action.control };
        let options = options_of(&action.kind, generic).map_err(refuse)?;
        let mut attributes = vec![Attribute::text(KIND, action.name()), Attribute::nest(OPTIONS, options)];
        if !action.cookie.is_empty() {
            attributes.push(Attribute::new(COOKIE, action.cookie.clone()));
        }
        let attribute = Attribute::nest(number, attributes);
        // As the kernel would read it: a value that does not fit shows as a difference.
        let bytes = super::attributes::emit(std::slice::from_ref(&attribute));
        let taken = Attributes::parse("TCA_ACT", &bytes).and_then(|list| decode(&list));
        if !taken.is_ok_and(|taken| taken.len() == 1 && taken[0].action == *action && taken[0].undecoded.is_empty()) {
            return Err(refuse("the kernel would take it otherwise"));
        }
        list.push(attribute);
    }
    Ok(Attribute::nest(kind, list))
}

fn options_of(kind: &ActionKind, generic: Generic) -> Result<Vec<Attribute>, &'static str> {
    let parameters = generic.write();
    Ok(match kind {
        ActionKind::Gact { random } => plain::gact_options(*random, parameters),
        ActionKind::Mirred(mirred) => plain::mirred_options(*mirred, parameters),
        ActionKind::Csum(flags) => plain::csum_options(*flags, parameters),
        ActionKind::Vlan(vlan) => plain::vlan_options(*vlan, parameters),
        ActionKind::Skbedit(skbedit) => plain::skbedit_options(*skbedit, parameters),
        ActionKind::Ct(ct) => ct::encode(ct, parameters)?,
        ActionKind::Pedit(pedit) => pedit::encode(pedit, parameters)?,
        ActionKind::Skbmod(skbmod) => plain::skbmod_options(*skbmod, parameters)?,
        ActionKind::Mpls(mpls) => mpls::encode(*mpls, parameters)?,
        ActionKind::TunnelKey(key) => tunnel_key::encode(key, parameters)?,
        ActionKind::Nat(nat) => plain::nat_options(*nat, parameters),
        ActionKind::Police(police) => police::encode(police, generic)?,
        ActionKind::Sample(sample) => plain::sample_options(*sample, parameters),
        ActionKind::Other(_) => return Err("known by name only"),
    })
}
