//! A tunnel's options as attributes. Flower and the action `tunnel_key` number them alike (`TCA_FLOWER_KEY_ENC_OPT_*`,
//! `TCA_TUNNEL_KEY_ENC_OPT_*`).
//!
//! The kernel takes one option of Geneve from each nest, and dumps all of them into one.

use super::{
    attributes::{Attribute, Attributes},
    error::DecodeError,
};
use crate::flower::tunnel::{Erspan, GeneveOption, TunnelOptions};

const GENEVE: u16 = 1;
const VXLAN: u16 = 2;
const ERSPAN: u16 = 3;
const GTP: u16 = 4;

const GENEVE_CLASS: u16 = 1;
const GENEVE_TYPE: u16 = 2;
const GENEVE_DATA: u16 = 3;
const VXLAN_GBP: u16 = 1;
const ERSPAN_VERSION: u16 = 1;
const ERSPAN_INDEX: u16 = 2;
const ERSPAN_DIR: u16 = 3;
const ERSPAN_HWID: u16 = 4;
const GTP_PDU_TYPE: u16 = 1;
const GTP_QFI: u16 = 2;

/// The bits of VXLAN's group policy that the kernel knows: the group, "policy applied", "do not learn".
pub(super) const GBP_MASK: u32 = 0x48_ffff;

/// One option: what of it is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OptionParts {
    Geneve { class: Option<u16>, kind: Option<u8>, data: Option<Vec<u8>> },
    Vxlan { gbp: Option<u32> },
    Erspan { version: Option<u8>, index: Option<u32>, dir: Option<u8>, hwid: Option<u8> },
    Gtp { pdu_type: Option<u8>, qfi: Option<u8> },
    Other,
}

/// Whether an option of Geneve may have so many bytes of data.
pub(super) fn is_length(bytes: usize) -> bool {
    (4..128).contains(&bytes) && bytes.is_multiple_of(4)
}

/// Reads options. `in_one_nest`: a nest of Geneve's holds one option after the other, not one.
pub(super) fn read(nest: &Attributes, in_one_nest: bool) -> Result<Vec<OptionParts>, DecodeError> {
    let mut all = Vec::new();
    for (kind, bytes) in nest.iter() {
        let parts = Attributes::parse("options of a tunnel", bytes)?;
        all.push(match kind {
            GENEVE if in_one_nest => {
                for part in parts.split_where_repeated() {
                    all.push(geneve(&part)?);
                }
                continue;
            }
            GENEVE => geneve(&parts)?,
            VXLAN => OptionParts::Vxlan { gbp: parts.u32(VXLAN_GBP)? },
            ERSPAN => OptionParts::Erspan {
                version: parts.u8(ERSPAN_VERSION)?,
                index: parts.u32_be(ERSPAN_INDEX)?,
                dir: parts.u8(ERSPAN_DIR)?,
                hwid: parts.u8(ERSPAN_HWID)?,
            },
            GTP => OptionParts::Gtp { pdu_type: parts.u8(GTP_PDU_TYPE)?, qfi: parts.u8(GTP_QFI)? },
            _ => OptionParts::Other,
        });
    }
    Ok(all)
}

fn geneve(parts: &Attributes) -> Result<OptionParts, DecodeError> {
    Ok(OptionParts::Geneve {
        class: parts.u16_be(GENEVE_CLASS)?,
        kind: parts.u8(GENEVE_TYPE)?,
        data: parts.get(GENEVE_DATA).map(<[u8]>::to_vec),
    })
}

/// Options of which everything is said.
pub(super) fn parts(options: &TunnelOptions) -> Vec<OptionParts> {
    match options {
        TunnelOptions::None => vec![],
        TunnelOptions::Geneve(list) => {
            let part = |option: &GeneveOption| OptionParts::Geneve {
                class: Some(option.class),
                kind: Some(option.kind),
                data: Some(option.data.clone()),
            };
            list.iter().map(part).collect()
        }
        TunnelOptions::Vxlan { gbp } => vec![OptionParts::Vxlan { gbp: Some(*gbp) }],
        TunnelOptions::Erspan(Erspan::Index(index)) => {
            vec![OptionParts::Erspan { version: Some(1), index: Some(*index), dir: None, hwid: None }]
        }
        TunnelOptions::Erspan(Erspan::Hardware { dir, hwid }) => {
            vec![OptionParts::Erspan { version: Some(2), index: None, dir: Some(*dir), hwid: Some(*hwid) }]
        }
        TunnelOptions::Gtp { pdu_type, qfi } => {
            vec![OptionParts::Gtp { pdu_type: Some(*pdu_type), qfi: Some(*qfi) }]
        }
    }
}

/// The attribute `kind` with these options, a nest for each.
pub(super) fn write(kind: u16, options: &[OptionParts]) -> Attribute {
    Attribute::nest(kind, options.iter().map(write_one).collect())
}

fn write_one(option: &OptionParts) -> Attribute {
    let mut out = Vec::new();
    let byte = |kind| move |value: u8| Attribute::new(kind, [value]);
    let kind = match option {
        OptionParts::Geneve { class, kind, data } => {
            out.extend(class.map(|class| Attribute::new(GENEVE_CLASS, class.to_be_bytes())));
            out.extend(kind.map(byte(GENEVE_TYPE)));
            out.extend(data.clone().map(|data| Attribute::new(GENEVE_DATA, data)));
            GENEVE
        }
        OptionParts::Vxlan { gbp } => {
            out.extend(gbp.map(|gbp| Attribute::new(VXLAN_GBP, gbp.to_ne_bytes())));
            VXLAN
        }
        OptionParts::Erspan { version, index, dir, hwid } => {
            out.extend(version.map(byte(ERSPAN_VERSION)));
            out.extend(index.map(|index| Attribute::new(ERSPAN_INDEX, index.to_be_bytes())));
            out.extend(dir.map(byte(ERSPAN_DIR)));
            out.extend(hwid.map(byte(ERSPAN_HWID)));
            ERSPAN
        }
        OptionParts::Gtp { pdu_type, qfi } => {
            out.extend(pdu_type.map(byte(GTP_PDU_TYPE)));
            out.extend(qfi.map(byte(GTP_QFI)));
            GTP
        }
        OptionParts::Other => 0,
    };
    Attribute::nest(kind, out)
}
