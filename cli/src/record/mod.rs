//! `flowmerge record PORT... -o TRACE`: a run of this machine's kernel, written down as it happens.
//!
//! [`Recorder`] does the work; the laboratory uses it in its own process.
//!
//! | file | what |
//! | --- | --- |
//! | `tap` | the packet socket: frames, and what an `nlmon` device shows, in one queue |
//! | `talk` | netlink sockets, and that device |
//! | `order` | which of what `nlmon` showed is word for the recorder, and its place and time |
//! | `ports` | which device each port is |
//! | `recorder` | all of it together |

mod order;
mod ports;
mod recorder;
mod talk;
mod tap;

pub use recorder::{Buffers, Progress, Recorder};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Record a run of this machine's kernel until Ctrl-C (SIGINT, SIGTERM or SIGHUP).
///
/// Records the frames on the named ports with their direction and the kernel's times, and what the kernel tells of devices, qdiscs,
/// chains, filters, actions and connections, with a dump at the start and one, with counters, at the end. The trace is for
/// `flowmerge replay`, and Wireshark opens it.
///
/// Takes CAP_NET_RAW (a packet socket) and CAP_NET_ADMIN (an nlmon device, which is added for the time of the recording, and
/// conntrack's events).
///
/// Exit status: 0 if all is recorded, 1 if something was lost on the way, 2 if it cannot be recorded.
#[derive(Args)]
pub struct Options {
    /// The ports, by name, in this network namespace.
    #[arg(required = true, value_name = "PORT")]
    ports: Vec<String>,
    /// Write the trace to this file; `-`: to stdout, as for `| wireshark -k -i -`.
    #[arg(short, long, value_name = "TRACE")]
    output: PathBuf,
    /// Buffer of the packet socket in bytes: what may wait while the file is written.
    #[arg(long, value_name = "BYTES", default_value_t = Buffers::default().packets)]
    packet_buffer: usize,
    /// Buffer of each netlink socket in bytes; when it is full, everything is dumped anew.
    #[arg(long, value_name = "BYTES", default_value_t = Buffers::default().notifications)]
    netlink_buffer: usize,
}

/// How long to wait for packets before looking whether to stop, and how often the line on the terminal changes and the file is
/// brought up to date.
const PAUSE: Duration = Duration::from_millis(200);

/// Records; whether all of it is there.
///
/// # Errors
/// A port that does not exist, a privilege that is missing, an output that cannot be written.
pub fn run(options: &Options) -> Result<bool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [consts::SIGINT, consts::SIGTERM, consts::SIGHUP] {
        // `nohup` has a recording outlive its terminal. (A shell without job control has all that it starts ignore SIGINT; whoever
        // sends that one all the same means it.)
        if signal == consts::SIGHUP && is_ignored(signal) {
            continue;
        }
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot take over a signal")?;
    }
    let to_stdout = options.output == Path::new("-");
    let name = if to_stdout { "stdout".to_owned() } else { options.output.display().to_string() };
    let is_new = !to_stdout && !options.output.exists();
    let out: Box<dyn Write> = if to_stdout {
        if io::stdout().is_terminal() {
            bail!("a trace is not for a terminal: -o FILE, or a pipe");
        }
        Box::new(io::stdout())
    } else {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&options.output);
        Box::new(Emptied { file: file.with_context(|| format!("{name}: cannot be written"))?, is_empty: false })
    };
    let buffers = Buffers { packets: options.packet_buffer, notifications: options.netlink_buffer };
    let out = BufWriter::with_capacity(1 << 16, out);
    let started = Recorder::with_buffers(&options.ports, buffers, out);
    let mut recorder = started.inspect_err(|_| {
        if is_new {
            // Nothing was recorded: no file either. That it stays behind is not worth a second message.
            let _ = fs::remove_file(&options.output);
        }
    })?;
    say(&format!("recording {}; Ctrl-C ends it", options.ports.join(", ")));
    let bar = line();
    let (mut shown, mut overruns) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        recorder.take(PAUSE).with_context(|| name.clone())?;
        if shown.elapsed() >= PAUSE {
            shown = Instant::now();
            recorder.flush().with_context(|| name.clone())?;
            let progress = recorder.progress();
            for news in recorder.news() {
                bar.suspend(|| say(&news));
            }
            if progress.overruns > overruns {
                bar.suspend(|| say("notifications were lost (ENOBUFS); everything was dumped anew"));
                overruns = progress.overruns;
            }
            bar.set_message(in_words(&progress));
        }
    }
    let (_, progress) = recorder.finish().with_context(|| name.clone())?;
    bar.finish_and_clear();
    if to_stdout {
        say(&in_words(&progress));
    } else {
        // Nobody reads it: the trace is there all the same.
        let _ = writeln!(io::stdout(), "{}", in_words(&progress));
    }
    for warning in warnings(&progress) {
        say(&warning);
    }
    Ok(progress.lost == 0 && progress.overruns == 0)
}

/// Whether the process was started with this signal ignored, as proc(5) tells in a mask.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// A line on stderr. That nobody reads it does not end a recording.
fn say(what: &str) {
    let _ = writeln!(io::stderr(), "flowmerge: {what}");
}

/// What is wrong with the sums.
fn warnings(progress: &Progress) -> Vec<String> {
    let Progress { lost, overruns, untimed, warnings, .. } = progress;
    let mut all = Vec::new();
    if *lost > 0 {
        all.push(format!("{lost} frames or messages were lost: --packet-buffer makes more room"));
    }
    if *overruns > 0 {
        all.push(format!(
            "notifications were lost {overruns} times, and everything dumped anew: what happened between is not known; \
             --netlink-buffer makes more room"
        ));
    }
    if *untimed > 0 {
        all.push(format!("{untimed} messages without the kernel's time: they bear that of reading them"));
    }
    all.extend(warnings.iter().cloned());
    all
}

fn in_words(progress: &Progress) -> String {
    let Progress { frames, messages, filters, connections, lost, .. } = progress;
    format!("{frames} frames, {messages} messages, {filters} filters, {connections} connections, {lost} lost")
}

/// The line on a terminal; elsewhere nothing is shown.
fn line() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{elapsed} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar
}

/// A file whose old contents go when something is written: a recording that cannot begin leaves it alone.
struct Emptied {
    file: File,
    is_empty: bool,
}

impl Write for Emptied {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_empty {
            // A pipe or a device cannot be emptied, and need not be.
            if self.file.metadata()?.is_file() {
                self.file.set_len(0)?;
            }
            self.is_empty = true;
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
