//! Cells and footnotes.

/// Footnotes in the order in which they are first referred to.
#[derive(Default)]
pub struct Notes(Vec<String>);

impl Notes {
    /// A cell that says so, or that refers to why not.
    pub fn cell(&mut self, what: Result<&str, String>) -> String {
        match what {
            Ok(word) => word.to_owned(),
            Err(why) => format!("no{}", self.mark(&why)),
        }
    }

    /// The reference to a note.
    pub fn mark(&mut self, text: &str) -> String {
        let known = self.0.iter().position(|note| note == text);
        let index = known.unwrap_or_else(|| {
            self.0.push(text.to_owned());
            self.0.len() - 1
        });
        format!("[^{}]", index + 1)
    }

    /// The notes themselves.
    pub fn told(&self) -> String {
        self.0.iter().zip(1..).map(|(note, n)| format!("[^{n}]: {}\n", escaped(note))).collect()
    }
}

/// Text in a table's cell.
pub fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "\\<")
}

/// A table.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut out = row(head.iter().map(ToString::to_string).collect());
    out += &row(head.iter().map(|_| "---".to_owned()).collect());
    rows.iter().for_each(|cells| out += &row(cells.clone()));
    out
}
