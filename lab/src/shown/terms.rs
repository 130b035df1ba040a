//! The terms of a match, from tc's JSON into our words.
//!
//! | tc's JSON | our words | why |
//! | --- | --- | --- |
//! | `"ip_tos":184`, `"ct_mark":1`, `"enc_tos":184` | `ip_tos 0xb8`, `ct_mark 0x1` | bits and not amounts; tc itself reads TOS in hexadecimal only |
//! | `"X_mask":"fc"` beside `"X"`; `"tcp_flags":"0x10/17"` | `/0xfc`, `/0x17` | tc leaves `0x` out, and reads it all the same |
//! | `"ip_proto":"2f"`, `"eth_type":"88cc"` | `0x2f`, `0x88cc` | hexadecimal without `0x` where there is no name |
//! | `"ip_proto":"73"` | `l2tp` | iproute2 6.1 does not know L2TP, later ones do |
//! | `"protocol":"[4660]"`, so `vlan_ethtype` and `ppp_proto` | `0x1234` | tc does not read its own brackets |
//! | `"::0.16.0.0"` | `::10:0` | the C library writes the last 32 bits of some addresses as IPv4; tc reads both |
//! | `"icmp_type"`, `"icmp_code"` | `type`, `code` | as `tc filter add` calls them, which does not take the others |
//! | `"src_port":{"start":1,"end":9}` | `src_port 1-9` | an object for a range |
//! | `"ip_flags":{"frag":false}` | `ip_flags nofrag` | an object for flags |
//! | `"mpls":[{"depth":2,"label":7},..]` | `mpls lse depth 2 label 7 ..` | a list of entries |
//! | `"geneve_opt_key":[{"class":258,..}],"geneve_opt_mask":[..]` | `geneve_opts 0102:80:00000001/ffff:..` | lists of options; so VXLAN's, ERSPAN's |
//!
//! What we print and tc has no word for is listed in [`UNSAID`].

use super::Members;
use serde_json::Value;
use std::net::Ipv6Addr;

/// When tc is silent of a term.
enum Silent {
    Always,
    /// Where the filter's `eth_type` is neither IPv4 nor IPv6.
    ButUnderIp,
}

/// Terms that tc does not show, and why.
const UNSAID: &[(&str, Silent, &str)] = &[
    (
        "vlan_tpid",
        Silent::Always,
        "it is the filter's protocol, but of a filter of `protocol all` it is not said at all",
    ),
    ("addr_type", Silent::Always, "the addresses tell it, without which it is not compared"),
    ("enc_addr_type", Silent::Always, "likewise"),
    ("src_ip", Silent::ButUnderIp, "flower compares it whatever the ethertype; tc wants to know the ethertype first"),
    ("dst_ip", Silent::ButUnderIp, "likewise"),
    ("hash", Silent::Always, "iproute2 6.1 has no word for it"),
    ("enc_src_port", Silent::Always, "likewise, though it has one for the destination"),
    ("l2tpv3_sid", Silent::Always, "iproute2 6.1 does not know L2TP, later ones do"),
    ("gtp_opts", Silent::Always, "iproute2 6.1 leaves them out of its JSON"),
];

/// Takes out what tc has no word for.
pub(super) fn drop_unsaid(terms: &mut Vec<String>) {
    let under_ip = terms.iter().any(|term| term == "eth_type ipv4" || term == "eth_type ipv6");
    // Behind a tag the kernel itself says that there is a session only with what PPP carries.
    let is_told = terms.iter().any(|term| term.starts_with("ppp_proto "));
    // Behind two tags it says what PPP carries in place of PPP.
    let carried = terms.iter().find_map(|term| term.strip_prefix("ppp_proto ")).map(str::to_owned);
    if let Some(carried) = carried.filter(|kind| matches!(&kind[..], "ip" | "ipv6" | "mpls_uc" | "mpls_mc")) {
        let session = terms.iter_mut().find(|term| *term == "cvlan_ethtype ppp_ses");
        session.into_iter().for_each(|term| *term = format!("cvlan_ethtype {carried}"));
    }
    terms.retain(|term| {
        let name = term.split(' ').next().unwrap_or(term);
        if !is_told && matches!(&term[..], "vlan_ethtype ppp_ses" | "cvlan_ethtype ppp_ses") {
            return false;
        }
        let row = UNSAID.iter().find(|(unsaid, ..)| *unsaid == name);
        row.is_none_or(|(_, silent, _)| matches!(silent, Silent::ButUnderIp) && under_ip)
    });
}

/// All terms; what is not known goes to `strange`.
pub(super) fn of_tc(mut keys: Members, terms: &mut Vec<String>, strange: &mut Vec<String>) {
    while let Some((name, value)) = (!keys.0.is_empty()).then(|| keys.0.remove(0)) {
        if let Some(kind) = name.strip_suffix("_opt_key") {
            let mask = keys.take(&format!("{kind}_opt_mask"));
            match (options(kind, &value), mask.as_ref().and_then(|mask| options(kind, mask))) {
                (Some(key), Some(mask)) => terms.push(format!("{kind}_opts {key}/{mask}")),
                _ => strange.push(format!("tc shows {name} {value}, which is not known here")),
            }
            continue;
        }
        let mask = keys.take(&format!("{name}_mask"));
        match term(&name, &value, mask.as_ref()) {
            Some(term) => terms.push(term),
            None => strange.push(format!("tc shows {name} {value}, which is not known here")),
        }
    }
}

fn term(name: &str, value: &Value, mask: Option<&Value>) -> Option<String> {
    let mask = match mask {
        None => String::new(),
        Some(mask) => format!("/0x{}", mask.as_str()?),
    };
    let name = match name {
        "icmp_type" => "type",
        "icmp_code" => "code",
        other => other,
    };
    let text = match (name, value) {
        ("ip_tos" | "enc_tos" | "ct_mark", Value::Number(bits)) => format!("{:#x}", bits.as_u64()?),
        ("ip_proto", Value::String(text)) if text == "73" => "l2tp".into(),
        ("ip_proto", Value::String(text)) => hexadecimal(text, 0),
        ("eth_type", Value::String(text)) => hexadecimal(text, 6),
        ("vlan_ethtype" | "cvlan_ethtype" | "ppp_proto", Value::String(text)) => protocol(text),
        ("src_ip" | "dst_ip" | "enc_src_ip" | "enc_dst_ip", Value::String(text)) => addresses(text),
        ("tcp_flags", Value::String(text)) => match text.split_once('/') {
            Some((flags, mask)) if mask != "fff" => format!("{flags}/0x{mask}"),
            Some((flags, _)) => flags.to_owned(),
            None => text.clone(),
        },
        ("src_port" | "dst_port", Value::Object(range)) if range.len() == 2 => {
            format!("{}-{}", range.get("start")?.as_u64()?, range.get("end")?.as_u64()?)
        }
        ("ip_flags", Value::Object(flags)) => {
            // serde_json keeps an object's members sorted: "firstfrag" comes before "frag".
            let known = ["frag", "firstfrag"];
            if flags.keys().any(|name| !known.contains(&name.as_str())) {
                return None;
            }
            let flag = |name: &&str| Some(format!("{}{name}", if flags.get(*name)?.as_bool()? { "" } else { "no" }));
            known.iter().filter_map(flag).collect::<Vec<_>>().join("/")
        }
        ("mpls", Value::Array(entries)) => {
            let entries = entries.iter().map(label_entry).collect::<Option<Vec<_>>>()?;
            entries.join(" ")
        }
        (_, Value::Number(number)) => number.to_string(),
        (_, Value::String(text)) => text.clone(),
        _ => return None,
    };
    Some(format!("{name} {text}{mask}"))
}

/// `lse depth 2 label 7`.
fn label_entry(entry: &Value) -> Option<String> {
    let members = entry.as_object()?;
    let known = ["depth", "label", "tc", "bos", "ttl"];
    let all = known.iter().filter_map(|name| Some(format!("{name} {}", members.get(*name)?.as_u64()?)));
    let all: Vec<_> = all.collect();
    (all.len() == members.len()).then(|| format!("lse {}", all.join(" ")))
}

/// A tunnel's options, as `tc filter add` takes them.
pub(super) fn options(kind: &str, list: &Value) -> Option<String> {
    let option = |option: &Value| {
        let members = option.as_object()?;
        let number = |name: &str| members.get(name)?.as_u64();
        let decimal = |names: &[&str]| {
            let numbers: Option<Vec<_>> = names.iter().map(|name| Some(number(name)?.to_string())).collect();
            (members.len() == names.len()).then_some(numbers?.join(":"))
        };
        match kind {
            "vxlan" => decimal(&["gbp"]),
            "erspan" => decimal(&["ver", "index", "dir", "hwid"]),
            "geneve" if members.len() == 3 => {
                let data = members.get("data")?.as_array()?;
                let data =
                    data.iter().map(|byte| Some(format!("{:02x}", byte.as_u64()?))).collect::<Option<String>>()?;
                Some(format!("{:04x}:{:02x}:{data}", number("class")?, number("type")?))
            }
            _ => None,
        }
    };
    let all: Option<Vec<_>> = list.as_array()?.iter().map(option).collect();
    Some(all?.join(","))
}

/// Addresses in a text, as Rust writes them.
pub(super) fn addresses(text: &str) -> String {
    let (mut all, mut word) = (String::new(), String::new());
    for c in text.chars().chain([' ']) {
        if !matches!(c, ' ' | '/' | '-') {
            word.push(c);
            continue;
        }
        all += &word.parse::<Ipv6Addr>().map_or(word, |address| address.to_string());
        all.push(c);
        word = String::new();
    }
    all.pop();
    all
}

/// Digits without `0x`, or a name.
fn hexadecimal(text: &str, width: usize) -> String {
    match u32::from_str_radix(text, 16) {
        Ok(number) => format!("{number:#0width$x}"),
        Err(_) => text.to_owned(),
    }
}

/// An ethertype by name, or in brackets where tc has no name for it.
pub(super) fn protocol(text: &str) -> String {
    let number =
        text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).and_then(|digits| digits.parse::<u16>().ok());
    number.map_or(text.to_owned(), |number| format!("{number:#06x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(json: &str) -> (Vec<String>, Vec<String>) {
        let (mut terms, mut strange) = (Vec::new(), Vec::new());
        of_tc(serde_json::from_str(json).unwrap(), &mut terms, &mut strange);
        (terms, strange)
    }

    /// The rows of the table above.
    #[test]
    fn tcs_words_become_ours() {
        for (json, ours) in [
            (r#"{"ip_tos":184,"ip_tos_mask":"fc"}"#, "ip_tos 0xb8/0xfc"),
            (r#"{"enc_tos":4}"#, "enc_tos 0x4"),
            (r#"{"ct_mark":1,"ct_mark_mask":"ff"}"#, "ct_mark 0x1/0xff"),
            (r#"{"ip_ttl":64,"ip_ttl_mask":"f0"}"#, "ip_ttl 64/0xf0"),
            (r#"{"tcp_flags":"0x10/17"}"#, "tcp_flags 0x10/0x17"),
            (r#"{"tcp_flags":"0x10/fff"}"#, "tcp_flags 0x10"),
            (r#"{"tcp_flags":"0x10"}"#, "tcp_flags 0x10"),
            (r#"{"ip_proto":"2f"}"#, "ip_proto 0x2f"),
            (r#"{"ip_proto":"02"}"#, "ip_proto 0x2"),
            (r#"{"ip_proto":"tcp"}"#, "ip_proto tcp"),
            (r#"{"ip_proto":"73"}"#, "ip_proto l2tp"),
            (r#"{"eth_type":"88cc"}"#, "eth_type 0x88cc"),
            (r#"{"eth_type":"1"}"#, "eth_type 0x0001"),
            (r#"{"eth_type":"arp"}"#, "eth_type arp"),
            (r#"{"vlan_ethtype":"[4660]"}"#, "vlan_ethtype 0x1234"),
            (r#"{"cvlan_ethtype":"ip"}"#, "cvlan_ethtype ip"),
            (r#"{"ppp_proto":"[17]"}"#, "ppp_proto 0x0011"),
            (r#"{"dst_ip":"::0.16.0.0/::255.255.0.0"}"#, "dst_ip ::10:0/::ffff:0"),
            (r#"{"enc_src_ip":"::ffff:10.0.0.1/64"}"#, "enc_src_ip ::ffff:10.0.0.1/64"),
            (r#"{"src_ip":"10.0.0.0/8"}"#, "src_ip 10.0.0.0/8"),
            (r#"{"icmp_type":"8"}"#, "type 8"),
            (r#"{"icmp_code":"1/240"}"#, "code 1/240"),
            (r#"{"src_port":{"start":1,"end":9}}"#, "src_port 1-9"),
            (r#"{"dst_port":80,"dst_port_mask":"fff0"}"#, "dst_port 80/0xfff0"),
            (r#"{"ip_flags":{"frag":false}}"#, "ip_flags nofrag"),
            (r#"{"ip_flags":{"frag":true,"firstfrag":false}}"#, "ip_flags frag/nofirstfrag"),
            (r#"{"mpls":[{"depth":1},{"depth":2,"label":7,"bos":0}]}"#, "mpls lse depth 1 lse depth 2 label 7 bos 0"),
            (
                r#"{"geneve_opt_key":[{"class":258,"type":128,"data":[0,1,2,3]}],"geneve_opt_mask":[{"class":1,"type":2,"data":[255]}]}"#,
                "geneve_opts 0102:80:00010203/0001:02:ff",
            ),
            (r#"{"vxlan_opt_key":[{"gbp":257}],"vxlan_opt_mask":[{"gbp":65535}]}"#, "vxlan_opts 257/65535"),
        ] {
            assert_eq!(words(json), (vec![ours.to_owned()], vec![]));
        }
        assert_eq!([protocol("[4660]"), protocol("ip"), protocol("[x]")], ["0x1234", "ip", "[x]"]);
        // Two of one name.
        let both = r#"{"dst_port":2,"dst_port_mask":"6","dst_port":{"start":100,"end":1000}}"#;
        assert_eq!(words(both).0, ["dst_port 2/0x6", "dst_port 100-1000"]);
        for strange in [
            r#"{"mpls":[{"depth":1,"x":2}]}"#,
            r#"{"vxlan_opt_key":[{"gbp":1}]}"#,
            r#"{"gtp_opt_key":[{"qfi":1}],"gtp_opt_mask":[{"qfi":1}]}"#,
            r#"{"ip_flags":{"other":true}}"#,
            r#"{"src_port":{"start":1}}"#,
            r#"{"vlan_id":null}"#,
        ] {
            assert_eq!(words(strange).1.len(), 1, "{strange}");
        }
    }

    /// The rows of [`UNSAID`], and nothing else.
    #[test]
    fn only_what_tc_never_says_is_left_out() {
        let left = |terms: &[&str]| {
            let mut terms = terms.iter().map(|&term| term.to_owned()).collect();
            drop_unsaid(&mut terms);
            terms
        };
        assert_eq!(
            left(&[
                "vlan_tpid 802.1Q",
                "vlan_id 5",
                "hash 0x5",
                "enc_src_port 1",
                "l2tpv3_sid 77",
                "gtp_opts 01:02/ff:ff"
            ]),
            ["vlan_id 5"]
        );
        assert_eq!(left(&["src_ip 10.0.0.1", "dst_ip ::1", "ip_proto udp"]), ["ip_proto udp"]);
        assert_eq!(left(&["eth_type arp", "src_ip 10.0.0.1"]), ["eth_type arp"]);
        for eth_type in ["eth_type ipv4", "eth_type ipv6"] {
            assert_eq!(left(&[eth_type, "src_ip 10.0.0.1"]), [eth_type, "src_ip 10.0.0.1"]);
        }
        assert_eq!(left(&["addr_type ipv4", "enc_addr_type ipv6", "eth_type 0x8847"]), ["eth_type 0x8847"]);
        assert_eq!(left(&["cvlan_tpid 802.1Q", "protocol 0x800/0xff00"]).len(), 2);
        assert_eq!(
            left(&["vlan_ethtype ppp_ses", "pppoe_sid 5", "vlan_ethtype ip"]),
            ["pppoe_sid 5", "vlan_ethtype ip"]
        );
        assert_eq!(left(&["vlan_ethtype ppp_ses", "ppp_proto ip"]).len(), 2);
        assert_eq!(left(&["cvlan_ethtype ppp_ses", "ppp_proto ip"]), ["cvlan_ethtype ip", "ppp_proto ip"]);
    }
}
