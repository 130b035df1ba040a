//! Values, needs and conditions against what they stand for: random values, evaluated packet by packet.

use super::*;
use crate::{
    flower::Range,
    merge::{
        need::Needs,
        shadow::Shadow,
        state::{State, Want},
        symbol::{Param, Part, Source, Value},
        template::{self, Is},
    },
};
use proptest::prelude::*;

const FIELDS: [Field; 3] = [Field::SrcPort, Field::DstPort, Field::IpTtl];

/// What a value is for a packet and connections.
fn now(value: Value, packet: &Key, connections: &[&Connection]) -> u128 {
    let source = match value.source {
        Source::Arrived(f) => packet.get(f),
        Source::Sum(f, add) => u128::from((packet.get(f) as u8).wrapping_add(add)),
        Source::Param(p) => p.value(connections),
        Source::Hidden(_) => 0,
    };
    source & value.kept ^ value.flip
}

fn mask() -> impl Strategy<Value = u128> {
    prop_oneof![3 => Just(0xffffu128), 1 => Just(0xfffc), 1 => Just(0xfff0), 1 => 0u128..8, 1 => Just(0)]
}

fn param() -> impl Strategy<Value = Param> {
    let parts = vec![Part::SrcPort, Part::DstPort, Part::NewSrcPort, Part::NewDstPort];
    (any::<bool>(), prop::sample::select(parts)).prop_map(|(reply, part)| {
        let direction = if reply { Direction::Reply } else { Direction::Original };
        Param { connection: 0, direction, part }
    })
}

fn value(field: Field) -> impl Strategy<Value = Value> {
    let ttl = field == Field::IpTtl;
    (0u8..4, mask(), 0u128..8, param(), any::<u8>(), any::<bool>()).prop_map(
        move |(what, mask, xor, param, add, flips)| {
            // As `pedit` writes: mostly only what it does not keep.
            let xor = if flips { xor } else { xor & !mask };
            let mask = mask & field.ones();
            match what {
                0 => Value::known(xor),
                1 if !ttl => Value::param(param, field).written(mask, xor),
                1 => Value::arrived(field).plus(add).written(mask, xor),
                2 => Value::arrived(field).written(mask, xor),
                _ => Value::arrived(field),
            }
        },
    )
}

fn matches() -> impl Strategy<Value = Match> {
    let term = (prop::sample::select(FIELDS.to_vec()), mask(), 0u128..8);
    let range = (0u16..8, 0u16..8).prop_map(|(a, b)| Range { min: a.min(b), max: a.max(b) });
    let ranges = (prop::option::weighted(0.3, range.clone()), prop::option::weighted(0.2, range));
    (prop::collection::vec(term, 0..3), ranges).prop_map(|(terms, (src_range, dst_range))| {
        let mut m = Match { src_range, dst_range, ..Match::default() };
        for (field, mask, value) in terms {
            m.set(field, value, mask);
        }
        m
    })
}

fn connection() -> impl Strategy<Value = Connection> {
    [0u16..8, 0..8, 0..8, 0..8]
        .prop_map(|[a, b, c, d]| Connection::established(0, tcp(H1, a, H2, b), tcp(H2, c, H1, d)))
}

/// Packets of all low ports, and TTLs around those that matter.
fn packets() -> impl Iterator<Item = Key> {
    let ttl = [0u128, 1, 2, 3, 4, 7, 8, 0x7f, 0x80, 0xfe, 0xff];
    let ports = (0..8u128).flat_map(|s| (0..8u128).map(move |d| (s, d)));
    ports.flat_map(move |(s, d)| {
        ttl.map(|t| Key::ZERO.with(Field::SrcPort, s).with(Field::DstPort, d).with(Field::IpTtl, t))
    })
}

fn state<'a>(values: &[Value; 3], arrived: &'a Key) -> State<'a> {
    let mut state = State::new(IN, arrived);
    for (field, value) in FIELDS.into_iter().zip(values) {
        state.set(field, *value);
    }
    state
}

/// Whether a filter with this match takes a packet whose fields hold these values.
fn takes(m: &Match, values: &[Value; 3], packet: &Key, connections: &[&Connection]) -> bool {
    let mut seen = *packet;
    for (field, value) in FIELDS.into_iter().zip(values) {
        seen.set(field, now(*value, packet, connections));
    }
    m.fits(&seen)
}

fn values() -> impl Strategy<Value = [Value; 3]> {
    (value(FIELDS[0]), value(FIELDS[1]), value(FIELDS[2])).prop_map(|(a, b, c)| [a, b, c])
}

/// Asks what a filter asks. False if that is impossible.
fn require(state: &mut State, m: &Match) -> bool {
    let id = filter(0, 1, ip(), &[]).id;
    let bits = m.terms().all(|(field, value, mask)| state.require(id, field, mask, Want::Known(value)).is_ok());
    bits && m.ranges().all(|(field, range)| state.require_range(id, field, range).is_ok())
}

proptest! {
    #![proptest_config(cases(600))]
    #[test]
    fn what_is_asked_of_the_arrived_packet_is_what_the_filter_asks(
        values in values(), m in matches(), c in connection(), pick in any::<prop::sample::Index>()
    ) {
        let all: Vec<Key> = packets().collect();
        let arrived = pick.get(&all);
        let mut state = state(&values, arrived);
        if !require(&mut state, &m) {
            prop_assert!(!takes(&m, &values, arrived, &[&c]), "{arrived:?} would be taken");
            return Ok(());
        }
        state.settle_asks();
        state.template.settle_ranges();
        let filled = state.template.fill(&[&c]);
        let own = takes(&m, &values, arrived, &[&c]);
        prop_assert_eq!(filled.is_some_and(|f| f.fits(arrived)), own, "{:?} {:?}", filled, state.template);
        // A sum, or a range of which parts were written, is told apart bit by bit: some others are left out, none let in.
        let whole = |v: &Value| !matches!(v.source, Source::Sum(..));
        let exact = values.iter().all(whole) && m.ranges().next().is_none();
        for packet in &all {
            let (got, want) = (filled.is_some_and(|f| f.fits(packet)), takes(&m, &values, packet, &[&c]));
            prop_assert!(!own || !got || want, "{packet:?} is let in: {filled:?}");
            prop_assert!(!exact || got == want, "{packet:?}: {got} {want} {filled:?}");
        }
    }

    #[test]
    fn a_shadow_needs_what_the_filter_asks(values in values(), m in matches(), c in connection()) {
        let arrived = Key::ZERO;
        let state = state(&values, &arrived);
        let front = filter(0, 1, m, &[]);
        let shadow = Shadow::new(&state, front.id, &front, Order::Before);
        let holds = |is: &Is| is.holds(&[&c]);
        for packet in packets() {
            let met = shadow.as_ref().is_some_and(|shadow| {
                shadow.needs.iter().all(|need| match need {
                    Needs::Param(is) => holds(is),
                    need => need.field().is_some_and(|f| need.granted(packet.get(f), f.ones())),
                })
            });
            prop_assert_eq!(met, takes(&m, &values, &packet, &[&c]), "{:?} {:?}", packet, shadow);
        }
    }

    #[test]
    fn a_tuple_that_contradicts_a_shadow_keeps_it_out(
        values in values(), asked in matches(), m in matches(), c in connection(), pins in [param(), param()], masks in [mask(), mask()]
    ) {
        let arrived = Key::ZERO;
        let mut state = state(&values, &arrived);
        let front = filter(0, 1, m, &[]);
        let Some(shadow) = Shadow::new(&state, front.id, &front, Order::Before) else { return Ok(()) };
        for (field, value, mask) in asked.terms() {
            if !state.template.require(field, mask, value) {
                return Ok(());
            }
        }
        for (i, flip) in [(0, 0), (1, 3)] {
            state.template.require_param(FIELDS[i], masks[i], pins[i], flip & masks[i]);
        }
        let Some(filled) = state.template.fill(&[&c]) else { return Ok(()) };
        let said = shadow.of_parameters(&state.template);
        let contradicted = said.iter().any(|is| !is.holds(&[&c]));
        let impossible = shadow.is_impossible(&filled);
        prop_assert!(shadow.is_impossible(&state.template.known) <= impossible);
        let mut taken = 0;
        for packet in packets().filter(|p| filled.fits(p)) {
            let takes = takes(&m, &values, &packet, &[&c]);
            taken += u32::from(takes);
            prop_assert!(!takes || !contradicted, "{packet:?} {said:?} {:?}", state.template);
            prop_assert!(!takes || !impossible, "{packet:?} {shadow:?} {filled:?}");
        }
        // The tuple is all there is to contradict: then it says so.
        let of_tuple = shadow.needs.iter().all(|need| match *need {
            Needs::Bits { field, mask, .. } => {
                let pinned = state.template.terms.iter().filter(|t| t.field == field).fold(0, |all, t| all | t.mask);
                mask & !pinned == 0
            }
            Needs::Range { field, .. } => state.template.param_of(field).is_some(),
            Needs::Param(_) => true,
            Needs::Sum { .. } => false,
        });
        if of_tuple && !contradicted && packets().any(|p| filled.fits(&p)) {
            prop_assert!(taken > 0, "{said:?} {shadow:?} {filled:?}");
        }
    }
}
