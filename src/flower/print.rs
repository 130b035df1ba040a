//! Filters, matches and actions in the words of `tc` (iproute2 6.1; `man tc-flower`, `tc-pedit`, `tc-ct`, ...).
//!
//! [`printed`] takes what is to be printed and who knows the ports' names. `{}` is one line for lists, `{:#}` what can be
//! copied:
//!
//! | | `{}` | `{:#}` |
//! | --- | --- | --- |
//! | [`Filter`] | `p1 chain 0 pref 2 handle 0x1 ip  ip_proto udp dst_ip 10.9.0.0/16  -> goto chain 1` | several lines, as `tc filter show` |
//! | [`Match`] | `eth_type ipv4 ip_proto udp dst_ip 10.9.0.0/16` | the same, a field a line |
//! | `[Action]` | `ct zone 5 nat, goto chain 1` | `action ct zone 5 nat pipe action goto chain 1` |
//! | [`Action`] | `ct zone 5 nat` | `ct zone 5 nat pipe` |
//!
//! Without names, `Display` of the types themselves calls ports `if4`. Fields stand in the order of the field table, and
//! one that `tc` cannot say (`protocol` within a match, `addr_type`, `vlan_tpid`) is left out where another one printed, or
//! the filter's protocol, implies it. Nor can `tc` say the `mend` of a translation, a mask where it knows none, or a word of
//! a header that is no field: those are printed in its manner. (`eth_type` it shows, but takes from `protocol`.)

mod actions;
mod fields;
mod names;
mod options;
mod pedit;
mod rates;

use super::{Action, Filter, Hook, Kind, Match, Port};
use std::fmt;

/// Knows the names of ports.
pub trait Names {
    /// The name of a port.
    fn port(&self, port: Port) -> String;
}

/// Names ports by their ifindex.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers;

impl Names for Numbers {
    fn port(&self, port: Port) -> String {
        port.to_string()
    }
}

impl<F: Fn(Port) -> String> Names for F {
    fn port(&self, port: Port) -> String {
        self(port)
    }
}

/// Something to print, and the names of the ports in it.
#[derive(Clone, Copy)]
pub struct Printed<'a, T: ?Sized> {
    what: &'a T,
    names: &'a dyn Names,
}

/// Prints something with the names of its ports.
pub fn printed<'a, T: ?Sized>(what: &'a T, names: &'a dyn Names) -> Printed<'a, T> {
    Printed { what, names }
}

impl fmt::Display for Printed<'_, Filter> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() { self.shown(f) } else { self.brief(f) }
    }
}

impl Printed<'_, Filter> {
    fn brief(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Filter { id, matches, .. } = self.what;
        let protocol = names::protocol(id.protocol);
        let place = format!("{} chain {} pref {} handle {:#x}", self.hook(), id.chain, id.prio, id.handle);
        write!(f, "{place} {protocol}")?;
        let mut terms = fields::terms(matches, self.names, Some(id.protocol));
        // The protocol says it already.
        let eth_type = names::eth_type(id.protocol);
        terms.retain(|t| t.name != "eth_type" || t.value != eth_type);
        let words = terms.iter().map(ToString::to_string).chain(self.remarks());
        for (i, word) in words.enumerate() {
            let space = if i == 0 { "  " } else { " " };
            write!(f, "{space}{word}")?;
        }
        write!(f, "  -> {}", printed(self.what.actions.as_slice(), self.names))
    }

    fn shown(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Filter { id, kind, matches, .. } = self.what;
        let place = match id.hook {
            Hook::Ingress(port) => format!("dev {} ingress", self.names.port(port)),
            Hook::Egress(port) => format!("dev {} egress", self.names.port(port)),
            Hook::Block(block) => format!("block {block}"),
        };
        let kind = match kind {
            Kind::Flower => "flower",
            Kind::Other(name) => name,
        };
        write!(
            f,
            "filter {place} protocol {} pref {} {kind} chain {} handle {:#x}",
            names::protocol(id.protocol),
            id.prio,
            id.chain,
            id.handle
        )?;
        for term in fields::terms(matches, self.names, Some(id.protocol)) {
            write!(f, "\n  {term}")?;
        }
        for remark in self.remarks() {
            write!(f, "\n  {remark}")?;
        }
        for (i, action) in self.what.actions.iter().enumerate() {
            write!(f, "\n\taction order {}: ", i + 1)?;
            actions::shown(f, action, self.names)?;
            // A filter that is not in the kernel has actions without an index.
            let index = (action.index != 0).then(|| format!(" index {}", action.index));
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let cookie = (!action.cookie.is_empty()).then(|| format!(" cookie {}", hex(&action.cookie)));
            let more: String = index.into_iter().chain(cookie).collect();
            if !more.is_empty() {
                write!(f, "\n\t{more}")?;
            }
        }
        Ok(())
    }

    fn hook(&self) -> String {
        match self.what.id.hook {
            Hook::Ingress(port) => self.names.port(port),
            Hook::Egress(port) => format!("{} egress", self.names.port(port)),
            Hook::Block(block) => format!("block {block}"),
        }
    }

    /// What is neither match nor action.
    fn remarks(&self) -> impl Iterator<Item = String> {
        let filter = self.what;
        let flag = |set: bool, name: &str| set.then(|| name.to_string());
        let kind = match &filter.kind {
            Kind::Flower => None,
            Kind::Other(name) => Some(format!("({name}, match not known)")),
        };
        let undecoded = filter.undecoded.iter().map(|what| format!("(not understood: {what})"));
        [kind, flag(filter.skip_sw, "skip_sw"), flag(filter.skip_hw, "skip_hw")].into_iter().flatten().chain(undecoded)
    }
}

impl fmt::Display for Printed<'_, Match> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = fields::terms(self.what, self.names, None);
        let between = if f.alternate() { "\n" } else { " " };
        if terms.is_empty() {
            return f.write_str("any");
        }
        for (i, term) in terms.iter().enumerate() {
            write!(f, "{}{term}", if i == 0 { "" } else { between })?;
        }
        Ok(())
    }
}

impl fmt::Display for Printed<'_, Action> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        actions::inline(f, self.what, self.names, f.alternate())
    }
}

impl fmt::Display for Printed<'_, [Action]> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.what.is_empty() && !f.alternate() {
            return f.write_str("pass");
        }
        for (i, action) in self.what.iter().enumerate() {
            let before = match (f.alternate(), i) {
                (false, 0) => "",
                (false, _) => ", ",
                (true, 0) => "action ",
                (true, _) => " action ",
            };
            f.write_str(before)?;
            actions::inline(f, action, self.names, f.alternate())?;
        }
        Ok(())
    }
}

macro_rules! display_with_numbers {
    ($($kind:ty),*) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&printed(self, &Numbers), f)
            }
        }
    )*};
}
display_with_numbers!(Filter, Match, Action);

#[cfg(test)]
mod tests;
