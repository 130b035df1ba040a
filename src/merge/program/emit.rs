//! A program's actions, as a connection's values are filled in.

use super::{Instruction, Program, To, decides_checksum, join, left_stale, pedit_header, words};
use crate::{
    conntrack::{Connection, proto},
    flower::{
        Action, ActionKind, Control,
        action::{CsumFlags, Pedit, PeditKey},
        field::Header,
    },
    packet::apply::Trim,
};

/// The actions of a merged filter for these connections, and when to trim.
pub fn actions(program: &Program, connections: &[&Connection], mend: bool) -> (Vec<Action>, Trim) {
    let mut out = Vec::with_capacity(program.instructions.len());
    let mut trim = Trim::Never;
    // Checksums to be computed with those that come next.
    let mut owed = CsumFlags::empty();
    // Whether the instruction has been done with the one before.
    let mut done = false;
    for (i, instruction) in program.instructions.iter().enumerate() {
        if program.trim == Some(i) {
            trim = Trim::Before(out.len());
        }
        if std::mem::take(&mut done) {
            continue;
        }
        let mut push = |kind, control| out.push(Action { kind, control, index: 0, cookie: Vec::new() });
        match instruction {
            Instruction::Send(mirred, control) => push(ActionKind::Mirred(*mirred), *control),
            Instruction::Fixed(kind, control) => match &**kind {
                ActionKind::Csum(flags) => push(ActionKind::Csum(*flags | std::mem::take(&mut owed)), *control),
                kind => push(kind.clone(), *control),
            },
            Instruction::Policed(action) => out.push((**action).clone()),
            Instruction::Translate { fields, .. } => {
                let mut keys = Vec::new();
                let mut csum = CsumFlags::empty();
                for &(field, to) in fields {
                    let (value, mask, covered) = match to {
                        To::Known { value, mask, covered } => (value.into(), mask.into(), covered),
                        To::Param(param) => {
                            let proto = connections[param.connection as usize].original.proto;
                            let covered = if proto == proto::TCP { CsumFlags::TCP } else { CsumFlags::UDP };
                            (param.value(connections), field.ones(), covered)
                        }
                    };
                    let l4 = if covered.contains(CsumFlags::TCP) { Header::Tcp } else { Header::Udp };
                    csum |= covered;
                    let places = field.row().places;
                    let place = places.iter().find(|p| p.header == l4).or(places.first());
                    let place = *place.expect("addresses and ports have places");
                    if place.header == Header::Ipv4 {
                        csum |= CsumFlags::IPV4;
                    }
                    let header = pedit_header(place.header).expect("IP, TCP and UDP have a pedit header");
                    for key in words(field, place, header, value, mask) {
                        join(&mut keys, key);
                    }
                }
                // What is written behind it and that no checksum here covers can be written with it.
                let rest = &program.instructions[i + 1..];
                let covered = |key: &PeditKey| match mend {
                    true => !left_stale(key).is_empty(),
                    false => left_stale(key).intersects(csum),
                };
                let (plain, rest) = match rest {
                    [Instruction::Fixed(kind, _), behind @ ..] => match &**kind {
                        ActionKind::Pedit(p) if !p.mend => (&p.keys[..], behind),
                        _ => (&[][..], rest),
                    },
                    _ => (&[][..], rest),
                };
                done = !plain.is_empty();
                let (late, mut early): (Vec<_>, Vec<_>) = plain.iter().partition(|key| covered(key));
                match early.is_empty() {
                    true => early = keys,
                    false => keys.into_iter().for_each(|key| join(&mut early, key)),
                }
                push(ActionKind::Pedit(Pedit { keys: early, mend }), Control::Pipe);
                let again = match rest {
                    // What adds to a checksum must find it as it is there.
                    _ if late.iter().any(|key| key.add && decides_checksum(key)) => None,
                    [Instruction::Fixed(kind, _), ..] => match **kind {
                        ActionKind::Csum(flags) => Some(flags),
                        _ => None,
                    },
                    _ => None,
                };
                let stale = late.iter().fold(CsumFlags::empty(), |all, key| all | left_stale(key));
                match again {
                    _ if mend => {}
                    // What is written in between must stay stale where it is not computed anew.
                    Some(again) if !stale.intersects(csum - again) => owed = csum,
                    again => push(ActionKind::Csum(csum - again.unwrap_or(CsumFlags::empty())), Control::Pipe),
                }
                if !late.is_empty() {
                    push(ActionKind::Pedit(Pedit { keys: late, mend: false }), Control::Pipe);
                }
            }
        }
    }
    (out, trim)
}
