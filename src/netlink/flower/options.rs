//! A tunnel's options in a filter: key and mask, each a nest that holds as many options as the other
//! (`fl_set_enc_opt`, `fl_dump_key_enc_opt`).
//!
//! Flower lays the options' bytes out as the packet's lie in memory and compares them under a mask. It builds that mask itself
//! where none is given, and always compares kind and length under themselves: only the bits that are set in them.

use super::{
    super::{
        attributes::{Attribute, Attributes},
        error::DecodeError,
        options::{self, GBP_MASK, OptionParts},
    },
    Said,
};
use crate::flower::{
    Field, Match,
    field::enc_options,
    tunnel::{Erspan, GeneveOption, TunnelOptions, option_field},
};

pub(super) const KEY: u16 = 84;
pub(super) const MASK: u16 = 85;

/// Bytes that a [`crate::flower::Key`] holds.
const HELD: usize = 16 * Field::OPTIONS.len();
/// Most bytes of options, in the kernel.
const MOST: usize = 255;

pub(super) fn read(
    flower: &Attributes,
    m: &mut Match,
    said: Said,
    undecoded: &mut Vec<String>,
) -> Result<(), DecodeError> {
    let Some(key) = flower.nested(KEY, "TCA_FLOWER_KEY_ENC_OPTS")? else { return Ok(()) };
    let in_one_nest = said == Said::Dumped;
    let key = options::read(&key, in_one_nest)?;
    let mask = match flower.nested(MASK, "TCA_FLOWER_KEY_ENC_OPTS_MASK")? {
        Some(mask) => options::read(&mask, in_one_nest)?,
        None => Vec::new(),
    };
    // The kernel refuses what the layout does; it has no such filters.
    let Some(laid) = lay(&key, &mask, said) else {
        undecoded.push("TCA_FLOWER_KEY_ENC_OPTS: not as flower takes them".into());
        return Ok(());
    };
    let length = laid.key.len();
    if length > HELD {
        undecoded.push(format!("TCA_FLOWER_KEY_ENC_OPTS of {length} bytes: {HELD} are compared here"));
    }
    m.set(Field::EncOptsType, laid.kind, laid.kind);
    m.set(Field::EncOptsLen, length as u128, length as u128);
    for (at, field) in Field::OPTIONS.into_iter().enumerate() {
        m.set(field, option_field(&laid.key, at), option_field(&laid.mask, at));
    }
    Ok(())
}

/// Options as flower compares them.
#[derive(Default)]
struct Laid {
    kind: u128,
    key: Vec<u8>,
    mask: Vec<u8>,
}

/// Lays out the options of a key, each under the mask at its place.
fn lay(key: &[OptionParts], mask: &[OptionParts], said: Said) -> Option<Laid> {
    let mut laid = Laid::default();
    let masks = mask.iter().map(Some).chain(std::iter::repeat(None));
    for (value, mask) in key.iter().zip(masks) {
        let (kind, value, mask) = match value {
            OptionParts::Geneve { class: Some(class), kind: Some(kind), data: Some(data) } => {
                geneve(GeneveOption { class: *class, kind: *kind, data: data.clone() }, mask)?
            }
            OptionParts::Vxlan { gbp: Some(gbp) } => vxlan(*gbp, mask, said)?,
            OptionParts::Erspan { .. } => erspan(value, mask)?,
            OptionParts::Gtp { pdu_type: Some(pdu_type), qfi: Some(qfi) } => gtp(*pdu_type, *qfi, mask)?,
            _ => return None,
        };
        // Several of Geneve's, of the others one.
        if laid.kind != 0 && (laid.kind != enc_options::GENEVE || kind != laid.kind) {
            return None;
        }
        laid.kind = kind;
        laid.key.extend(value);
        laid.mask.extend(mask);
    }
    (laid.kind != 0 && laid.key.len() <= MOST).then_some(laid)
}

/// Kind, bytes, and mask of one option; `None` where the kernel refuses it.
type One = Option<(u128, Vec<u8>, Vec<u8>)>;

fn geneve(value: GeneveOption, mask: Option<&OptionParts>) -> One {
    let (class, kind, data) = match mask {
        Some(OptionParts::Geneve { class, kind, data }) => (*class, *kind, data.clone()),
        Some(_) => return None,
        None => (None, None, None),
    };
    // The mask's length must be the same; so the length's mask is the length.
    let data = data.unwrap_or_else(|| vec![0xff; value.data.len()]);
    if data.len() != value.data.len() || !options::is_length(data.len()) {
        return None;
    }
    let mask = GeneveOption { class: class.unwrap_or(u16::MAX), kind: kind.unwrap_or(u8::MAX), data };
    Some((enc_options::GENEVE, value.bytes(), mask.bytes()))
}

/// Bits that VXLAN's policy does not have are left out of a key and of a mask that is given, and are compared where none is.
fn vxlan(gbp: u32, mask: Option<&OptionParts>, said: Said) -> One {
    let mask = match mask {
        Some(OptionParts::Vxlan { gbp }) => *gbp,
        Some(_) => return None,
        None => None,
    };
    let kept = if said == Said::Asked { GBP_MASK } else { u32::MAX };
    let mask = mask.map_or(u32::MAX, |mask| mask & kept);
    let bytes = |gbp: u32| gbp.to_be_bytes().to_vec();
    Some((enc_options::VXLAN, bytes(gbp & kept), bytes(mask)))
}

/// The mask has a version of its own, which says what of it is given; without a mask flower compares the lowest bit of the version
/// and nothing else.
fn erspan(value: &OptionParts, mask: Option<&OptionParts>) -> One {
    let OptionParts::Erspan { version, index, dir, hwid } = *value else { return None };
    let value = match version? {
        1 => Erspan::Index(index?),
        2 => Erspan::Hardware { dir: dir? & 1, hwid: hwid? & 0x3f },
        _ => return None,
    };
    let mask = match mask {
        Some(&OptionParts::Erspan { version, index, dir, hwid }) => match version.unwrap_or(1) {
            1 => Erspan::Index(index.unwrap_or(u32::MAX)),
            2 => Erspan::Hardware { dir: dir.unwrap_or(1) & 1, hwid: hwid.unwrap_or(u8::MAX) & 0x3f },
            _ => return None,
        },
        Some(_) => return None,
        None => Erspan::Index(0),
    };
    let bytes = |part| TunnelOptions::Erspan(part).bytes();
    Some((enc_options::ERSPAN, bytes(value), bytes(mask)))
}

fn gtp(pdu_type: u8, qfi: u8, mask: Option<&OptionParts>) -> One {
    let mask = match mask {
        Some(OptionParts::Gtp { pdu_type, qfi }) => [*pdu_type, *qfi],
        Some(_) => return None,
        None => [None, None],
    };
    Some((enc_options::GTP, vec![pdu_type, qfi], mask.map(|part| part.unwrap_or(u8::MAX)).to_vec()))
}

/// Asks for options, if there are words for what the match says of them.
pub(super) fn write(m: &Match, out: &mut Vec<Attribute>) {
    let Some((key, mask)) = TunnelOptions::asked(m) else { return };
    out.push(options::write(KEY, &options::parts(&key)));
    // All bits of VXLAN's policy are compared only where no mask is given.
    if mask != (TunnelOptions::Vxlan { gbp: u32::MAX }) {
        out.push(options::write(MASK, &options::parts(&mask)));
    }
}
