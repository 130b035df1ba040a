//! A tunnel's options, of a match and of `tunnel_key`.

use crate::flower::tunnel::{Erspan, TunnelOptions};

/// As tc calls options of this kind.
pub(super) fn name(options: &TunnelOptions) -> Option<&'static str> {
    match options {
        TunnelOptions::None => None,
        TunnelOptions::Geneve(_) => Some("geneve_opts"),
        TunnelOptions::Vxlan { .. } => Some("vxlan_opts"),
        TunnelOptions::Erspan(_) => Some("erspan_opts"),
        TunnelOptions::Gtp { .. } => Some("gtp_opts"),
    }
}

/// Their values, or their masks.
pub(super) fn value(options: &TunnelOptions) -> String {
    match options {
        TunnelOptions::None => String::new(),
        TunnelOptions::Geneve(list) => {
            let option = list.iter().map(|option| {
                let data: String = option.data.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{:04x}:{:02x}:{data}", option.class, option.kind)
            });
            option.collect::<Vec<_>>().join(",")
        }
        TunnelOptions::Vxlan { gbp } => gbp.to_string(),
        TunnelOptions::Erspan(Erspan::Index(index)) => format!("1:{index}:0:0"),
        TunnelOptions::Erspan(Erspan::Hardware { dir, hwid }) => format!("2:0:{dir}:{hwid}"),
        TunnelOptions::Gtp { pdu_type, qfi } => format!("{pdu_type:02x}:{qfi:02x}"),
    }
}
