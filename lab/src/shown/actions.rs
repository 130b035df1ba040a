//! Actions, from tc's JSON into our words.
//!
//! | tc's JSON | our words | why |
//! | --- | --- | --- |
//! | `"prob":{"random_type":"none",..}` | nothing | it is there for every `gact` |
//! | `"csum":"iph, tcp"` | `csum ip4h and tcp` | as `tc filter add` takes it |
//! | `"mark":1,"mark_mask":"ff"` | `mark 0x1/0xff` | bits, as `ct_mark` |
//! | `"type":"5"`, `"6"` | `queued`, `repeat` | tc has no names for these |
//! | `"nat":"dst addr ::0.16.0.0"` | `nat dst addr ::10:0` | as in a match |
//! | `"vlan_action":"push",..,"priority":0` | no priority | none pushed is 0 |
//! | `"key_id":5` of `tunnel_key` | `id 5` | as `tc filter add` takes it |
//! | `"rate":100` of `sample` | `rate 1/100` | as tc shows it otherwise |
//! | `"type":"nat"` | `nat` | tc calls its kind so |
//! | `"old_addr":"10.0.0.0/32"` | `10.0.0.0` | tc tells the length of a mask from its other end; it is compared nowhere |
//! | police's two `"control_action"` | `conform-exceed drop/pipe` | the second one, if it is not `pass`, is of what conforms |
//! | `skbmod`'s words | in another order | no JSON at all, see [`super::mended`] |
//! | pedit's `"keys"` | `munge ip src set ..` | see [`super::rewrites`] |

use super::{
    Members,
    mended::skbmod,
    rewrites::{self, Rewrite},
    terms::{addresses, options, protocol},
};
use serde_json::Value;

/// Words of `police` that tc leaves out of its JSON, and the index, which is compared by itself.
const UNSAID_OF_POLICE: &[&str] = &["index", "rate", "burst", "mtu", "peakrate", "avrate"];

/// An action in our words.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Act {
    text: String,
    /// Of a `pedit`; its words are not in the text.
    rewrites: Option<Vec<Rewrite>>,
    index: Option<u64>,
    cookie: Option<String>,
}

/// What the kernel alone knows of an action.
const KERNELS: &[&str] = &[
    "order",
    "ref",
    "bind",
    "installed",
    "last_used",
    "first_used",
    "expires",
    "stats",
    "nkeys",
    "hw_stats",
    "used_hw_stats",
    "in_hw",
    "not_in_hw",
    "in_hw_count",
    "skip_hw",
    "skip_sw",
];

impl Act {
    /// From tc's. What is not known goes to `strange`.
    pub(super) fn of_tc(mut action: Members, number: u64, strange: &mut Vec<String>) -> Act {
        let order = action.number("order");
        if order != Some(number) {
            strange.push(format!("tc shows action {order:?} in the place of action {number}"));
        }
        let kind = action.text("kind").or_else(|| action.text("type")).unwrap_or_default();
        let mut act = Act { index: action.number("index"), cookie: action.text("cookie"), ..Act::default() };
        let goes_on = action.take("control_action").and_then(|value| control(&value));
        let goes_on = goes_on.unwrap_or_else(|| "without control".into());
        let mut words = vec![kind.clone()];
        let done = match kind.as_str() {
            "gact" => gact(&mut action, &goes_on, &mut words),
            "mirred" => mirred(&mut action, &mut words),
            "ct" => ct(&mut action, &mut words),
            "csum" => csum(&mut action, &mut words),
            "vlan" => vlan(&mut action, &mut words),
            "skbedit" => skbedit(&mut action, &mut words),
            "skbmod" => skbmod(&mut action, &mut words),
            "mpls" => mpls(&mut action, &mut words),
            "tunnel_key" => tunnel_key(&mut action, &mut words),
            "nat" => nat(&mut action, &mut words),
            "sample" => sample(&mut action, &mut words),
            "police" => police(&mut action, &goes_on, &mut words),
            "pedit" => {
                act.rewrites = rewrites::of_tc(&mut action);
                act.rewrites.as_ref().map(|_| ())
            }
            _ => Some(()),
        };
        if done.is_none() {
            strange.push(format!("tc shows an action {number}, {kind}, that is not understood here"));
        }
        if !matches!(kind.as_str(), "gact" | "police") {
            words.push(goes_on);
        }
        act.text = words.join(" ");
        let left = action.0.iter().filter(|(name, _)| !KERNELS.contains(&name.as_str()));
        strange.extend(
            left.map(|(name, value)| format!("action {number}: tc shows {name} {value}, which is not known here")),
        );
        act
    }

    /// From what we print behind `action order 1: `.
    pub(super) fn of_ours(text: &str) -> Act {
        let text = &said_of_ours(text);
        match text.strip_prefix("pedit ex ").and_then(rewrites::of_ours) {
            Some((rewrites, goes_on)) => {
                Act { text: format!("pedit {goes_on}"), rewrites: Some(rewrites), ..Act::default() }
            }
            None => Act { text: text.to_owned(), ..Act::default() },
        }
    }

    /// ` index 3 cookie ab01`.
    pub(super) fn add_rest(&mut self, rest: &str) {
        let words: Vec<&str> = rest.split_whitespace().collect();
        for pair in words.chunks(2) {
            match pair {
                ["index", index] => self.index = index.parse().ok(),
                ["cookie", cookie] => self.cookie = Some((*cookie).to_owned()),
                _ => self.text += &format!(" {}", pair.join(" ")),
            }
        }
    }

    /// How tc's words differ from ours.
    pub(super) fn differs(&self, ours: &Act) -> Option<String> {
        if self.text != ours.text {
            return Some(format!("tc has `{}`, we `{}`", self.text, ours.text));
        }
        if self.rewrites != ours.rewrites {
            return Some(format!("tc rewrites {:?}, we {:?}", self.rewrites, ours.rewrites));
        }
        if self.cookie != ours.cookie {
            return Some(format!("tc has cookie {:?}, we {:?}", self.cookie, ours.cookie));
        }
        let other = ours.index.filter(|_| self.index != ours.index);
        other.map(|index| format!("tc has index {:?}, we {index}", self.index))
    }
}

/// Our words without those that tc leaves out.
fn said_of_ours(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["police", ref rest @ ..] => {
            let pairs = rest.chunks(2).filter(|pair| !UNSAID_OF_POLICE.contains(&pair[0]));
            pairs.fold("police".into(), |all, pair| format!("{all} {}", pair.join(" ")))
        }
        ["nat", side, old, ref rest @ ..] => {
            let old = old.split('/').next().unwrap_or(old);
            format!("nat {side} {old} {}", rest.join(" "))
        }
        _ => text.to_owned(),
    }
}

/// How TC goes on.
fn control(value: &Value) -> Option<String> {
    let Value::Object(members) = value else { return None };
    let kind = members.get("type")?.as_str()?;
    Some(match members.len() {
        1 if kind == "5" => "queued".into(),
        1 if kind == "6" => "repeat".into(),
        1 => kind.to_owned(),
        2 if kind == "goto" => format!("goto chain {}", members.get("chain")?.as_u64()?),
        2 if kind == "jump" => format!("jump {}", members.get("jump")?.as_u64()?),
        _ => return None,
    })
}

fn gact(action: &mut Members, goes_on: &str, words: &mut Vec<String>) -> Option<()> {
    words.push(format!("action {goes_on}"));
    let prob = action.take("prob")?;
    let kind = prob.get("random_type")?.as_str()?;
    if kind != "none" {
        let other = control(prob.get("control_action")?)?;
        words.push(format!("random {kind} {other} {}", prob.get("val")?.as_u64()?));
    }
    Some(())
}

fn mirred(action: &mut Members, words: &mut Vec<String>) -> Option<()> {
    let (what, direction) = (action.text("mirred_action")?, action.text("direction")?);
    words.push(format!("{direction} {what} dev {}", action.text("to_dev")?));
    Some(())
}

fn ct(action: &mut Members, words: &mut Vec<String>) -> Option<()> {
    words.extend(action.text("action"));
    words.extend(action.number("zone").map(|zone| format!("zone {zone}")));
    words.extend(mark(action, "mark_mask"));
    words.extend(action.text("label").map(|label| format!("label {label}")));
    if let Some(nat) = action.text("nat") {
        words.push(if nat.is_empty() { "nat".into() } else { format!("nat {}", addresses(&nat)) });
    }
    Some(())
}

fn mark(action: &mut Members, mask: &str) -> Option<String> {
    let mark = action.number("mark")?;
    let mask = action.text(mask).map_or(String::new(), |mask| format!("/0x{mask}"));
    Some(format!("mark {mark:#x}{mask}"))
}

fn csum(action: &mut Members, words: &mut Vec<String>) -> Option<()> {
    let all = action.text("csum")?;
    let names = all.split(", ").map(|name| if name == "iph" { "ip4h" } else { name });
    words.push(names.collect::<Vec<_>>().join(" and "));
    Some(())
}

fn vlan(action: &mut Members, words: &mut Vec<String>) -> Option<()> {
    let what = action.text("vlan_action")?;
    words.push(what.clone());
    words.extend(action.text("protocol").map(|tpid| format!("protocol {}", protocol(&tpid))));
    words.extend(action.number("id").map(|id| format!("id {id}")));
    let priority = action.number("priority").filter(|&priority| what != "push" || priority != 0);
    words.extend(priority.map(|priority| format!("priority {priority}")));
    for name in ["dst_mac", "src_mac"] {
        words.extend(action.text(name).map(|mac| format!("{name} {mac}")));
    }
    Some(())
}

fn skbedit(action: &mut Members, words: &mut Vec<String>) -> Option<()> {
    words.extend(action.number("queue_mapping").map(|queue| format!("queue_mapping {queue}")));
    words.extend(action.text("priority").map(|class| format!("priority {class}")));
    words.extend(mark(action, "mask"));
    words.extend(action.text("ptype").map(|ptype| format!("ptype {ptype}")));
    words.extend(action.take("inheritdsfield").map(|_| "inheritdsfield".to_owned()));
    Some(())
}

fn mpls(action: &mut Members, words: &mut Vec<String>) -> Option<()> {
    words.push(action.text("mpls_action")?);
    words.extend(action.text("protocol").map(|ethertype| format!("protocol {}", protocol(&ethertype))));
    for name in ["label", "tc", "bos", "ttl"] {
        words.extend(action.number(name).map(|number| format!("{name} {number}")));
    }
    Some(())
}

fn tunnel_key(action: &mut Members, words: &mut Vec<String>) -> Option<()> {
    words.push(action.text("mode")?);
    for name in ["src_ip", "dst_ip"] {
        words.extend(action.text(name).map(|address| format!("{name} {}", addresses(&address))));
    }
    words.extend(action.number("key_id").map(|id| format!("id {id}")));
    words.extend(action.number("dst_port").map(|port| format!("dst_port {port}")));
    for kind in ["geneve", "vxlan", "erspan"] {
        if let Some(list) = action.take(&format!("{kind}_opts")) {
            words.push(format!("{kind}_opts {}", options(kind, &list)?));
        }
    }
    words.extend(action.text("flag"));
    for name in ["tos", "ttl"] {
        words.extend(action.number(name).map(|number| format!("{name} {number}")));
    }
    Some(())
}

fn nat(action: &mut Members, words: &mut Vec<String>) -> Option<()> {
    let old = action.text("old_addr")?;
    words.push(action.text("direction")?);
    words.push(old.split('/').next()?.to_owned());
    words.push(action.text("new_addr")?);
    Some(())
}

fn sample(action: &mut Members, words: &mut Vec<String>) -> Option<()> {
    words.push(format!("rate 1/{} group {}", action.number("rate")?, action.number("group")?));
    words.extend(action.number("trunc_size").map(|bytes| format!("trunc_size {bytes}")));
    Some(())
}

fn police(action: &mut Members, exceed: &str, words: &mut Vec<String>) -> Option<()> {
    for name in ["pkts_rate", "pkts_burst"] {
        words.extend(action.number(name).map(|number| format!("{name} {number}")));
    }
    let conform = action.take("control_action").and_then(|value| control(&value)).unwrap_or_else(|| "pass".into());
    words.push(format!("conform-exceed {exceed}/{conform}"));
    words.extend(action.number("overhead").filter(|&bytes| bytes != 0).map(|bytes| format!("overhead {bytes}")));
    words.extend(action.text("linklayer").map(|layer| format!("linklayer {layer}")));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(json: &str) -> (String, Vec<String>) {
        let mut strange = Vec::new();
        let json = format!(r#"{{"order":1,"control_action":{{"type":"pipe"}},{json}}}"#);
        let act = Act::of_tc(serde_json::from_str(&json).unwrap(), 1, &mut strange);
        (act.text, strange)
    }

    /// The rows of the table above.
    #[test]
    fn tcs_words_become_ours() {
        let none = r#""prob":{"random_type":"none","control_action":{"type":"pass"},"val":0}"#;
        let random = r#""prob":{"random_type":"determ","control_action":{"type":"goto","chain":3},"val":5}"#;
        for (json, ours) in [
            (format!(r#""kind":"gact",{none}"#), "gact action pipe"),
            (format!(r#""kind":"gact",{random}"#), "gact action pipe random determ goto chain 3 5"),
            (r#""kind":"csum","csum":"iph, tcp, udp""#.into(), "csum ip4h and tcp and udp pipe"),
            (r#""kind":"ct","zone":0,"mark":10,"mark_mask":"ff","nat":"""#.into(), "ct zone 0 mark 0xa/0xff nat pipe"),
            (
                r#""kind":"ct","action":"commit","zone":0,"nat":"dst addr ::0.16.0.0-::0.16.0.1 port 1-2""#.into(),
                "ct commit zone 0 nat dst addr ::10:0-::10:1 port 1-2 pipe",
            ),
            (r#""kind":"ct","action":"clear""#.into(), "ct clear pipe"),
            (
                r#""kind":"vlan","vlan_action":"push","id":6,"protocol":"[4660]","priority":0"#.into(),
                "vlan push protocol 0x1234 id 6 pipe",
            ),
            (
                r#""kind":"vlan","vlan_action":"modify","id":6,"protocol":"802.1Q","priority":0"#.into(),
                "vlan modify protocol 802.1Q id 6 priority 0 pipe",
            ),
            (
                r#""kind":"skbedit","mark":1,"mask":"ff","inheritdsfield":null"#.into(),
                "skbedit mark 0x1/0xff inheritdsfield pipe",
            ),
            (
                r#""kind":"mirred","mirred_action":"mirror","direction":"egress","to_dev":"p2""#.into(),
                "mirred egress mirror dev p2 pipe",
            ),
            (r#""kind":"mpls","mpls_action":"push","protocol":"mpls_uc","label":5,"ttl":9"#.into(), "mpls push protocol mpls_uc label 5 ttl 9 pipe"),
            (
                r#""kind":"tunnel_key","mode":"set","src_ip":"1.2.3.4","dst_ip":"1.2.3.5","key_id":5,"vxlan_opts":[{"gbp":7}],"flag":"csum""#.into(),
                "tunnel_key set src_ip 1.2.3.4 dst_ip 1.2.3.5 id 5 vxlan_opts 7 csum pipe",
            ),
            (r#""type":"nat","direction":"egress","old_addr":"1.2.3.4/32","new_addr":"1.2.3.5""#.into(), "nat egress 1.2.3.4 1.2.3.5 pipe"),
            (r#""kind":"sample","rate":100,"group":5"#.into(), "sample rate 1/100 group 5 pipe"),
            (r#""kind":"police","control_action":{"type":"drop"},"overhead":0"#.into(), "police conform-exceed pipe/drop"),
            (r#""kind":"police","pkts_rate":9,"overhead":14"#.into(), "police pkts_rate 9 conform-exceed pipe/pass overhead 14"),
        ] {
            assert_eq!(words(&json), (ours.to_owned(), vec![]));
        }
        // What the kernel alone knows is passed by, and nothing else.
        assert!(words(r#""kind":"ct","zone":1,"installed":7,"stats":{"bytes":1}"#).1.is_empty());
        assert_eq!(words(r#""kind":"ct","zone":"1""#).1.len(), 1);
        assert_eq!(words(r#""kind":"ct","zone":1,"helper":"ftp""#).1.len(), 1);
        assert!(!words(r#""kind":"mirred","to_dev":"p2""#).1.is_empty());
    }

    #[test]
    fn controls_are_named() {
        for (json, ours) in [
            (r#"{"type":"drop"}"#, Some("drop")),
            (r#"{"type":"5"}"#, Some("queued")),
            (r#"{"type":"6"}"#, Some("repeat")),
            (r#"{"type":"goto","chain":7}"#, Some("goto chain 7")),
            (r#"{"type":"jump","jump":2}"#, Some("jump 2")),
            (r#"{"type":"goto"}"#, Some("goto")),
            (r#"{"type":"drop","chain":7}"#, None),
            (r#""drop""#, None),
        ] {
            assert_eq!(control(&serde_json::from_str(json).unwrap()).as_deref(), ours, "{json}");
        }
    }
}
