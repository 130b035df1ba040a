//! The page `docs/coverage.md`: field by field and action by action what is read, told, modelled and merged, and why not.
//!
//! It is made from the code: each filter on it is encoded and decoded, run in the model and merged. The test fails if the page is
//! not what the code makes; `FLOWMERGE_PAGE=write cargo test -p flowmerge --test page` makes it anew.

mod actions;
mod fields;
mod notes;
mod run;
mod samples;

use notes::Notes;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/coverage.md");

const HEAD: &str = "\
# What of flower and its actions is covered

Made from the code: for each line a filter is encoded and decoded, run in the model of TC on a packet that it is about, and what came
of that is merged. Do not edit; a test compares. To make it anew:

    FLOWMERGE_PAGE=write cargo test -p flowmerge --test page

";

const FIELDS: &str = "\
## Fields

- **compared**: *whole* where flower knows no mask for it; under *any bits*; *its bits*, where the value is its own mask.
- **together with**: what flower wants compared before it looks at the field, or tells it by. Each line's filter compares that, too.
- **read**: a message of the kernel with it is understood in full. **told**: Linux 6.1 can be asked for it, and says it back.
- **modelled**: in software, a packet hits a filter that asks for what it has, and not one that asks for something else.
- **merged**: a merged filter compares it. *known*: it follows from the port, the protocol or the connection.
- **in front**: Linux 6.1 itself can take the merged filter, in front of those that it was made from.

";

const ACTIONS: &str = "\
## Actions

Each in a filter with a redirect to p2 behind it, where it does not end the list itself; the filter matches the headers that the
action is about.

- **told**, **modelled**: as above. What is not told is still read, where the kernel says it.
- **merged into**: the merged filter's actions in tc's words, for a table that can do everything. What comes to nothing is left
  out. `mend` is an addition: checksums are mended for what changes, as NAT does.
- **in front**: the same where Linux 6.1 takes it in front of the other filters; it can only compute checksums anew.

";

/// The page as the code has it.
fn page() -> String {
    let mut notes = Notes::default();
    let fields = fields::page(&mut notes);
    let actions = actions::page(&mut notes);
    format!("{HEAD}{FIELDS}{fields}{ACTIONS}{actions}## Why not\n\n{}", notes.told())
}

#[test]
fn the_page_is_what_the_code_makes() {
    let made = page();
    if std::env::var_os("FLOWMERGE_PAGE").is_some_and(|what| what == "write") {
        std::fs::write(PAGE, &made).expect("docs/ is there");
        return;
    }
    let there = std::fs::read_to_string(PAGE).expect("docs/coverage.md");
    let differs = made.lines().zip(there.lines()).find(|(made, there)| made != there);
    assert!(
        made == there,
        "docs/coverage.md is not what the code makes; FLOWMERGE_PAGE=write cargo test -p flowmerge --test page\n{differs:#?}"
    );
}
