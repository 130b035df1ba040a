//! What a run must come to at least: `--at-least merged.installed=4`.
//!
//! A run in which nothing is merged cannot differ. Whoever keeps runs as tests says what each has to reach; a total is named as in
//! the object that `--json` prints, `merged.refused.changed` for one inside another.

use super::totals::Totals;
use anyhow::{Result, bail};
use serde_json::Value;
use std::{fmt, str::FromStr};

/// A total, and its least value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtLeast {
    name: String,
    number: u64,
    /// The number is of a hundred of the total that this one is a part of.
    percent: bool,
}

/// Totals that are a part of another.
const PARTS: [(&str, &str); 4] = [
    ("software.decided", "software.received"),
    ("software.missed", "software.received"),
    ("walks.established_merged", "walks.established"),
    ("hardware.handled", "software.received"),
];

/// Totals that have a number for each reason that came up, so that one that did not is 0.
const BY_REASON: [&str; 2] = ["merged.refused.", "hardware.known."];

impl FromStr for AtLeast {
    type Err = String;

    fn from_str(text: &str) -> Result<AtLeast, String> {
        let (name, number) = text.split_once('=').ok_or("not NAME=NUMBER, such as merged.installed=4")?;
        let (digits, percent) = number.strip_suffix('%').map_or((number, false), |digits| (digits, true));
        let number = digits.parse().map_err(|_| format!("not a number: {digits:?}"))?;
        if percent && whole_of(name).is_none() {
            let parts: Vec<_> = PARTS.iter().map(|(part, _)| *part).collect();
            return Err(format!("{name} is no part of another total; these are: {}", parts.join(", ")));
        }
        let wanted = AtLeast { name: name.to_owned(), number, percent };
        // So that a name that does not exist is found before a long run.
        wanted.missing(&Totals::default()).map_err(|e| e.to_string())?;
        Ok(wanted)
    }
}

impl AtLeast {
    /// What there is, if it is too little.
    ///
    /// # Errors
    /// No total has that name.
    pub fn missing(&self, totals: &Totals) -> Result<Option<u64>> {
        let totals = serde_json::to_value(totals)?;
        let got = value(&totals, &self.name)?;
        let enough = match whole_of(&self.name) {
            Some(whole) if self.percent => {
                u128::from(got) * 100 >= u128::from(self.number) * u128::from(value(&totals, whole)?)
            }
            _ => got >= self.number,
        };
        Ok((!enough).then_some(got))
    }
}

impl fmt::Display for AtLeast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.number)?;
        match whole_of(&self.name) {
            Some(whole) if self.percent => write!(f, "% of {whole}"),
            _ => Ok(()),
        }
    }
}

fn whole_of(part: &str) -> Option<&'static str> {
    PARTS.iter().find(|(name, _)| *name == part).map(|(_, whole)| *whole)
}

fn value(totals: &Value, name: &str) -> Result<u64> {
    match totals.pointer(&format!("/{}", name.replace('.', "/"))) {
        Some(Value::Number(number)) => Ok(number.as_u64().unwrap_or_default()),
        None if BY_REASON.iter().any(|group| name.strip_prefix(group).is_some_and(|reason| !reason.is_empty())) => {
            Ok(0)
        }
        _ => bail!("no number of that name in what --json prints: {name:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals() -> Totals {
        let mut totals = Totals::default();
        totals.software.received = 10;
        totals.hardware.handled = 6;
        totals.merged.installed = 4;
        totals.merged.refused.insert("not-qualified".to_owned(), 2);
        totals.hardware.known.insert("wrong checksum".to_owned(), 3);
        totals
    }

    fn missing(text: &str) -> Option<u64> {
        text.parse::<AtLeast>().unwrap().missing(&totals()).unwrap()
    }

    #[test]
    fn numbers_and_shares_are_least_values() {
        for (just, over, got) in [
            ("merged.installed=4", "merged.installed=5", 4),
            ("hardware.handled=60%", "hardware.handled=61%", 6),
            ("hardware.handled=6", "hardware.handled=7", 6),
            ("merged.refused.not-qualified=2", "merged.refused.not-qualified=3", 2),
            ("hardware.known.wrong checksum=3", "hardware.known.wrong checksum=4", 3),
            ("merged.refused.changed=0", "merged.refused.changed=1", 0),
        ] {
            assert_eq!(missing(just), None, "{just}");
            assert_eq!(missing(over), Some(got), "{over}");
        }
        assert_eq!(missing("walks.established_merged=100%"), None, "all of none");
    }

    #[test]
    fn what_is_no_total_is_told() {
        for (text, why) in [
            ("merged.installed", "NAME=NUMBER"),
            ("merged.installed=", "not a number"),
            ("merged.installed=-1", "not a number"),
            ("merged.installed=5%", "no part of another total; these are: software.decided, "),
            ("merged.installd=5", "\"merged.installd\""),
            ("merged.refused.=5", "no number of that name"),
            ("merged.refused=5", "no number of that name"),
            ("trace=5", "no number of that name"),
            ("=5", "no number of that name"),
        ] {
            let error = text.parse::<AtLeast>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn it_is_told_with_what_it_is_a_share_of() {
        let shown = |text: &str| text.parse::<AtLeast>().unwrap().to_string();
        assert_eq!(shown("hardware.handled=60%"), "hardware.handled=60% of software.received");
        assert_eq!(shown("merged.installed=4"), "merged.installed=4");
    }
}
