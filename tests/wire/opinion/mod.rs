//! What `netlink-bindings` makes of a filter's message: a decoder that is made from the kernel's own specification of netlink
//! (`Documentation/netlink/specs/tc.yaml`).
//!
//! It says attribute by attribute what is there, and what each is called; what flower makes of an attribute that is missing, and which
//! it does not look at, is not its matter. So its attributes are taken as terms, and must be ours. What the specification has wrong
//! or leaves as bytes is not compared, and counted:
//!
//! | what | why |
//! | --- | --- |
//! | `vlan_id`, `cvlan_id`, `mpls_label` | it takes them for big-endian (compared the other way round) |
//! | the class of `geneve_opts`, the index of `erspan_opts`, `vlan push protocol` | it does not (compared likewise) |
//! | `mpls_opts` | it takes the entries' attributes where the entries are (given to it one by one) |
//! | the identifier of `tunnel_key` | it takes 32 bits for 64 |
//! | `overhead` of `police` | one byte of two |
//! | several keys of a legacy `pedit` | it takes one |

mod actions;
mod terms;

use flowmerge::{
    flower::{Field, Filter},
    netlink::Names,
};
use netlink_bindings::tc::{OpNewtfilterDo, OptionsMsg};
use std::collections::BTreeSet;

/// Whether the other says anything of this field by itself.
pub fn speaks_of(field: Field) -> bool {
    !terms::goes_without_saying(field) && field != Field::Mpls1
}

/// What was compared.
#[derive(Debug, Default)]
pub struct Count {
    pub terms: usize,
    pub actions: usize,
    /// What the other does not say.
    pub unsaid: usize,
    pub fields: BTreeSet<Field>,
}

/// Fails if the other decoder reads something else than `filter` in these bytes.
#[track_caller]
pub fn agrees(bytes: &[u8], filter: &Filter, names: &dyn Names, count: &mut Count) {
    if let Err(difference) = compare(bytes, filter, names, count) {
        panic!("{filter}\n{:?}\n{difference}", filter.matches);
    }
}

/// # Errors
/// What the other decoder reads otherwise.
pub fn compare(bytes: &[u8], filter: &Filter, names: &dyn Names, count: &mut Count) -> Result<(), String> {
    // Behind the netlink header.
    let (header, attributes) = OpNewtfilterDo::decode_request(&bytes[16..]);
    let id = &filter.id;
    let told = (header.handle, header.info >> 16, u16::from_be(header.info as u16), attributes.get_chain().ok());
    if told != (id.handle, id.prio.into(), id.protocol, Some(id.chain)) {
        return Err(format!("{told:?}"));
    }
    let options = match attributes.get_options() {
        Ok(OptionsMsg::Flower(options)) => options,
        other => return Err(format!("options: {:?}", other.err())),
    };
    terms::compare(options, filter, names, count)?;
    actions::compare(options.get_act().into_iter().flatten(), &filter.actions, count)
}
