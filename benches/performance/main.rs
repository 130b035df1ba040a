//! What the runtime costs, beside the baseline: `cargo bench`, some minutes; `cargo bench -- --quick`, less than one.
//!
//! It ends with one table: for each goal what was measured, what the baseline takes, and the ratio. Both are measured in turn in one run, in
//! processor time of the thread, medians. The goals' times were set on another machine: they are scaled by what the baseline takes
//! here. `FLOWMERGE_PAGE=write` puts the table into `docs/performance.md`.

mod harness;
mod memory;
mod report;
mod rows;
mod threads;

use harness::Sizes;
use report::Report;
use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    if let Some(asked) = memory::asked() {
        println!("{}", asked.measure());
        return ExitCode::SUCCESS;
    }
    let asked = |option: &str| std::env::args().any(|arg| arg == option);
    let sizes = Sizes::new(asked("--quick") || asked("--test"));
    let mut criterion = sizes.criterion();
    if asked("--list") {
        return ExitCode::SUCCESS;
    }
    let mut report = Report::new(sizes.short);
    memory::all(&sizes, &mut report);
    rows::all(&mut criterion, &sizes, &mut report);
    threads::all(&sizes, &mut report);
    criterion.final_summary();
    println!("\n{}\n\n{}", report::machine(), report.table());
    if std::env::var_os("FLOWMERGE_PAGE").is_some_and(|page| page == "write") {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
        if let Err(error) = report.write(&page) {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
