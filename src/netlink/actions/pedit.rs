//! `pedit` (`net/sched/act_pedit.c`): words with their masks, and in the extended form the header and command of each.

use super::{Options, parameters};
use crate::{
    flower::{
        ActionKind,
        action::{Pedit, PeditDynamic, PeditHeader, PeditKey},
    },
    netlink::{
        attributes::{Attribute, Attributes},
        error::{DecodeError, Fault},
    },
};

const PARMS: u16 = 2;
const PARMS_EX: u16 = 4;
const KEYS_EX: u16 = 5;
const KEY_EX: u16 = 6;
const KEY_EX_HTYPE: u16 = 1;
const KEY_EX_CMD: u16 = 2;

/// `tc_gen`, number of keys, flags, two bytes of padding.
const HEAD: usize = 24;
/// `struct tc_pedit_key`: mask, value, offset, at, offset mask, shift.
const KEY: usize = 24;

const HEADERS: [PeditHeader; 6] = [
    PeditHeader::Network,
    PeditHeader::Ethernet,
    PeditHeader::Ipv4,
    PeditHeader::Ipv6,
    PeditHeader::Tcp,
    PeditHeader::Udp,
];

pub(super) fn decode(options: &Attributes) -> Result<Options, DecodeError> {
    let attribute = if options.has_any(&[PARMS_EX]) { PARMS_EX } else { PARMS };
    let (generic, head) = parameters::<HEAD>(options, attribute)?;
    let count = usize::from(head[20]);
    let all = options.bytes(attribute, HEAD + count * KEY)?.unwrap_or_default();
    let mut keys: Vec<PeditKey> = all[HEAD..].as_chunks::<KEY>().0.iter().map(key).collect();
    let mut undecoded = Vec::new();
    if let Some(extended) = options.nested(KEYS_EX, "TCA_PEDIT_KEYS_EX")? {
        let extended: Vec<_> = extended.iter().filter(|&(kind, _)| kind == KEY_EX).collect();
        if extended.len() != count {
            let fault = Fault::Value {
                attribute: KEYS_EX,
                value: extended.len() as u64,
                expected: "as many extensions as keys",
            };
            return Err(DecodeError::new("act_pedit", fault));
        }
        for (key, (_, bytes)) in keys.iter_mut().zip(extended) {
            let extension = Attributes::parse("TCA_PEDIT_KEY_EX", bytes)?;
            let header = extension.u16(KEY_EX_HTYPE)?.unwrap_or(0);
            let command = extension.u16(KEY_EX_CMD)?.unwrap_or(0);
            match HEADERS.get(usize::from(header)) {
                Some(&known) => key.header = known,
                None => undecoded.push(format!("act_pedit header {header}")),
            }
            match command {
                0 => key.add = false,
                1 => key.add = true,
                _ => undecoded.push(format!("act_pedit command {command}")),
            }
        }
    }
    for (kind, _) in options.iter().filter(|&(kind, _)| kind > KEY_EX) {
        undecoded.push(format!("act_pedit {kind}"));
    }
    Ok(Options { kind: ActionKind::Pedit(Pedit { keys, mend: false }), generic, undecoded })
}

fn key(bytes: &[u8; KEY]) -> PeditKey {
    let raw = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    let word = |at: usize| u32::from_ne_bytes(raw(at));
    // The kernel shifts by no more than 31.
    let dynamic = PeditDynamic { at: word(12), mask: word(16), shift: word(20).min(31) };
    PeditKey {
        header: PeditHeader::Network,
        offset: word(8) as i32,
        mask: raw(0),
        value: raw(4),
        add: false,
        dynamic: (dynamic.mask != 0).then_some(dynamic),
    }
}

pub(super) fn encode(pedit: &Pedit, mut parameters: Vec<u8>) -> Result<Vec<Attribute>, &'static str> {
    if pedit.mend {
        return Err("TC's pedit mends no checksums");
    }
    let count = u8::try_from(pedit.keys.len()).map_err(|_| "more than 255 keys")?;
    parameters.extend([count, 0, 0, 0]);
    for key in &pedit.keys {
        parameters.extend(key.mask);
        parameters.extend(key.value);
        parameters.extend(key.offset.to_ne_bytes());
        let dynamic = key.dynamic.map_or([0; 3], |d| [d.at, d.mask, d.shift]);
        parameters.extend(dynamic.into_iter().flat_map(u32::to_ne_bytes));
    }
    // What can be said in the old form `tc` says in the old form.
    if pedit.keys.iter().all(|key| key.header == PeditHeader::Network && !key.add) {
        return Ok(vec![Attribute::new(PARMS, parameters)]);
    }
    let extended = pedit.keys.iter().map(|key| {
        let header = HEADERS.iter().zip(0u16..).find(|&(&h, _)| h == key.header);
        let header = header.map_or(0, |(_, number)| number);
        let attributes = vec![
            Attribute::new(KEY_EX_HTYPE, header.to_ne_bytes()),
            Attribute::new(KEY_EX_CMD, u16::from(key.add).to_ne_bytes()),
        ];
        Attribute::nest(KEY_EX, attributes)
    });
    Ok(vec![Attribute::new(PARMS_EX, parameters), Attribute::nest(KEYS_EX, extended.collect())])
}
