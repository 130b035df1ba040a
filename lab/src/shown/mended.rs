//! What tc prints of `skbmod`, made JSON: iproute2 6.1 prints words, the action's index and references among them, and of JSON only the
//! control.
//!
//! ```text
//! {"order":1skbmod ,"control_action":{"type":"pipe"}set etype 0x800 \n\t set dmac 02:.. \n\t index 3 ref 1 bind 1\n}
//! {"order":1,"kind":"skbmod","control_action":{"type":"pipe"},"words":"set etype 0x800 set dmac 02:..","index":3,"ref":1,"bind":1}
//! ```

use super::Members;
use std::borrow::Cow;

/// The beginning of such an action.
const KIND: &str = "skbmod ,\"control_action\":{";

/// The same as JSON.
pub(super) fn mended(printed: &str) -> Cow<'_, str> {
    if !printed.contains(KIND) {
        return Cow::Borrowed(printed);
    }
    let mut parts = printed.split(KIND);
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (control, rest) = part.split_once('}').unwrap_or((part, ""));
        let (words, rest) = rest.split_at(rest.find(['}', ',', '{']).unwrap_or(rest.len()));
        let words: Vec<&str> = words.split_whitespace().collect();
        let (words, numbers) = words.split_at(words.iter().position(|&word| word == "index").unwrap_or(words.len()));
        let words = words.join(" ");
        all += &format!(",\"kind\":\"skbmod\",\"control_action\":{{{control}}},\"words\":\"{words}\"");
        for pair in numbers.as_chunks::<2>().0 {
            all += &format!(",\"{}\":{}", pair[0], pair[1]);
        }
        all += rest;
    }
    Cow::Owned(all)
}

/// Its words in ours.
pub(super) fn skbmod(action: &mut Members, words: &mut Vec<String>) -> Option<()> {
    let all = action.text("words")?;
    let told: Vec<&str> = all.split(' ').collect();
    if let ["swap", "mac"] | ["ecn"] = told[..] {
        words.push(all);
        return Some(());
    }
    words.push("set".into());
    let (set, rest) = told.as_chunks::<3>();
    (rest.is_empty() && set.iter().all(|three| three[0] == "set")).then_some(())?;
    for name in ["dmac", "smac", "etype"] {
        let Some([_, _, value]) = set.iter().find(|three| three[1] == name) else { continue };
        words.push(match value.strip_prefix("0x") {
            Some(digits) => format!("{name} {:#06x}", u16::from_str_radix(digits, 16).ok()?),
            None => format!("{name} {value}"),
        });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::{super::actions::Act, *};

    /// As iproute2 6.1 prints it.
    #[test]
    fn what_is_no_json_is_mended() {
        let printed = "[{\"order\":1skbmod ,\"control_action\":{\"type\":\"pipe\"}set etype 0x800 \n\t \
                       set dmac 02:00:00:00:00:05 set smac 02:00:00:00:00:06 \n\t index 3 ref 1 bind 1\n,\
                       \"stats\":{\"bytes\":1}},{\"order\":2skbmod ,\"control_action\":{\"type\":\"goto\",\"chain\":1}\
                       swap mac \n\t index 2 ref 1 bind 1\n}]";
        let all: Vec<Members> = serde_json::from_str(&mended(printed)).unwrap();
        let mut strange = Vec::new();
        let acts = all.into_iter().zip(1..).map(|(action, number)| Act::of_tc(action, number, &mut strange));
        let acts: Vec<_> = acts.collect();
        let ours = [
            ("skbmod set dmac 02:00:00:00:00:05 smac 02:00:00:00:00:06 etype 0x0800 pipe", " index 3"),
            ("skbmod swap mac goto chain 1", " index 2"),
        ];
        for (act, (text, index)) in acts.iter().zip(ours) {
            let mut ours = Act::of_ours(text);
            ours.add_rest(index);
            assert_eq!(act.differs(&ours), None);
        }
        assert_eq!((acts.len(), strange), (2, vec![]));
        assert!(matches!(mended("[{}]"), Cow::Borrowed("[{}]")));
    }
}
