//! IPv6 extension headers, as the kernel walks them (`net/ipv6/exthdrs_core.c`).

use crate::bytes::{be16, byte};
use flowmerge::conntrack::proto;

/// Next header numbers.
mod next {
    pub const HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTH: u8 = 51;
    pub const NONE: u8 = 59;
    pub const DEST: u8 = 60;
}

/// Whether this number is one of an extension header (`ipv6_ext_hdr`).
fn is_extension(number: u8) -> bool {
    use next::*;
    matches!(number, HOP | ROUTING | FRAGMENT | AUTH | NONE | DEST)
}

/// Where the headers end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Number of the header there.
    pub(crate) number: u8,
    /// Where it starts.
    pub(crate) at: usize,
    /// The offset field of a fragment header on the way; the walk ends at that of a later fragment.
    pub(crate) fragment: u16,
}

/// Skips extension headers from `at` on, of which the first is a `number` (`ipv6_skip_exthdr`).
pub(crate) fn skip(bytes: &[u8], mut at: usize, mut number: u8) -> Option<End> {
    let mut fragment = 0;
    while is_extension(number) {
        if number == next::NONE {
            return None;
        }
        let len = length(bytes, at, number)?;
        if number == next::FRAGMENT {
            fragment = be16(bytes, at + 2)?;
            if fragment & !7 != 0 {
                break;
            }
        }
        number = byte(bytes, at)?;
        at += len;
    }
    Some(End { number, at, fragment })
}

/// Where the header `target` starts in the IPv6 packet at `network` (`ipv6_find_hdr`).
pub(crate) fn find(bytes: &[u8], network: usize, target: u8) -> Option<usize> {
    let mut number = byte(bytes, network + 6)?;
    let mut at = network + 40;
    bytes.get(network..at)?;
    while number != target {
        if !is_extension(number) || number == next::NONE {
            return None;
        }
        let len = length(bytes, at, number)?;
        if number == next::FRAGMENT && be16(bytes, at + 2)? & !7 != 0 {
            return None;
        }
        number = byte(bytes, at)?;
        at += len;
        bytes.get(..at)?;
    }
    Some(at)
}

/// Whether the packet at `network` has a fragment header; `None` if its headers are broken (`ipv6_find_hdr` for any).
pub(crate) fn is_fragment(bytes: &[u8], network: usize) -> Option<bool> {
    let mut number = byte(bytes, network + 6)?;
    let mut at = network + 40;
    let mut fragment = false;
    while is_extension(number) && number != next::NONE {
        let len = length(bytes, at, number)?;
        let behind = byte(bytes, at)?;
        if number == next::FRAGMENT {
            fragment = true;
            if be16(bytes, at + 2)? & !7 != 0 {
                // What follows is not a header, but must be one by its number.
                let last = !is_extension(behind) || behind == next::NONE;
                return last.then_some(true);
            }
        }
        number = behind;
        at += len;
        bytes.get(..at)?;
    }
    Some(fragment)
}

/// A fragment header, and the place of the number that announces it (`find_prev_fhdr`).
pub(crate) fn fragment_header(bytes: &[u8], network: usize) -> Option<(usize, usize)> {
    let mut announced = network + 6;
    let mut at = network + 40;
    loop {
        match byte(bytes, announced)? {
            next::FRAGMENT => return (at <= bytes.len()).then_some((announced, at)),
            next::NONE => return None,
            number if is_extension(number) => {
                let len = length(bytes, at, number)?;
                announced = at;
                at += len;
            }
            _ => return None,
        }
    }
}

/// Whether a first fragment lacks part of its headers (`ipv6frag_thdr_truncated`); `at` is its fragment header.
pub(crate) fn is_truncated(bytes: &[u8], at: usize) -> bool {
    let Some(end) = skip(bytes, at, next::FRAGMENT) else {
        return false;
    };
    let header = match end.number {
        proto::TCP => 20,
        proto::UDP | proto::ICMPV6 => 8,
        _ => 1,
    };
    end.fragment & !7 == 0 && end.at + header > bytes.len()
}

/// Where a fragment header goes into the packet at `network`: behind what routers read (`ip6_find_1stfragopt`). With it the
/// place of the number that shall announce it.
pub(crate) fn unfragmentable(bytes: &[u8], network: usize) -> Option<(usize, usize)> {
    let mut announced = network + 6;
    let mut at = network + 40;
    let mut routing = false;
    loop {
        match byte(bytes, announced)? {
            next::HOP => {}
            next::ROUTING => routing = true,
            // Of a mobile node's home address, which also stays in front, Linux's default knows nothing.
            next::DEST if !routing => {}
            _ => return (at <= bytes.len()).then_some((announced, at)),
        }
        let len = (usize::from(byte(bytes, at + 1)?) + 1) * 8;
        announced = at;
        at += len;
    }
}

fn length(bytes: &[u8], at: usize, number: u8) -> Option<usize> {
    let said = usize::from(byte(bytes, at + 1)?);
    Some(match number {
        next::FRAGMENT => 8,
        next::AUTH => (said + 2) * 4,
        _ => (said + 1) * 8,
    })
}
