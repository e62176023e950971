//! What a running program asks of the kernel, by strace: to be read, and to be answered with errors.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests_harness::eventually;

const LIMIT: Duration = Duration::from_secs(30);
/// Calls that change files, or make changes durable.
const CALLS: &str = "openat,write,pwrite64,ftruncate,fallocate,fsync,fdatasync,syncfs,rename,renameat,renameat2";

/// strace beside a process, until dropped.
#[derive(Debug)]
pub struct Strace {
    child: Child,
    log: PathBuf,
}

/// An error that the kernel answers with.
#[derive(Clone, Debug)]
pub struct Injection {
    /// One call, or several with commas.
    pub calls: String,
    /// For example `EIO`.
    pub error: String,
    /// Which of the calls of each thread, from 1.
    pub when: u32,
}

/// A call, from its beginning to its end.
#[derive(Clone, Debug)]
pub struct Call {
    thread: u32,
    name: String,
    arguments: String,
    failed: bool,
    begin: usize,
    end: usize,
}

impl Strace {
    /// Attaches to a process; all that it asks for from then on is written to `log`.
    ///
    /// # Errors
    /// There is no strace, or it may not.
    pub fn attach(pid: u32, log: &Path, injection: Option<&Injection>) -> Result<Self> {
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-s", "24", "-p", &pid.to_string(), "-e", &format!("trace={CALLS}"), "-o"]).arg(log);
        if let Some(Injection { calls, error, when }) = injection {
            command.args(["-e", &format!("inject={calls}:error={error}:when={when}")]);
        }
        let said = log.with_extension("said");
        let out = fs::File::create(&said)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(out).spawn().context("strace")?;
        let mut strace = Self { child, log: log.to_path_buf() };
        eventually("strace to attach", LIMIT, || {
            if let Some(status) = strace.child.try_wait()? {
                bail!("strace ended with {status}: {}", fs::read_to_string(&said)?);
            }
            Ok(fs::read_to_string(&said)?.contains("attached").then_some(()))
        })?;
        Ok(strace)
    }

    /// Lets the process go, and gives what it asked for.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn finish(mut self) -> Result<Vec<Call>> {
        self.detach();
        read(&fs::read_to_string(&self.log)?)
    }

    fn detach(&mut self) {
        let pid = i32::try_from(self.child.id()).unwrap_or_default();
        if matches!(self.child.try_wait(), Ok(None)) {
            kill(Pid::from_raw(pid), Signal::SIGINT).unwrap_or_default();
            drop(self.child.wait());
        }
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.detach();
    }
}

fn read(text: &str) -> Result<Vec<Call>> {
    let mut calls: Vec<Call> = Vec::new();
    let mut open: HashMap<u32, Call> = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let (Ok(thread), rest) = (thread.parse(), rest.trim_start()) else { continue };
        if rest.starts_with("<...") {
            let Some(mut call) = open.remove(&thread) else { continue };
            let (_, rest) = rest.split_once("resumed>").unwrap_or_default();
            call.arguments.push_str(rest);
            (call.failed, call.end) = (failed(rest), number);
            calls.push(call);
        } else if let Some((name, arguments)) = rest.split_once('(') {
            let (name, begin) = (name.to_owned(), number);
            if let Some(arguments) = arguments.strip_suffix("<unfinished ...>") {
                let call = Call { thread, name, arguments: arguments.to_owned(), failed: true, begin, end: usize::MAX };
                open.insert(thread, call);
            } else {
                let failed = failed(arguments);
                calls.push(Call { thread, name, arguments: arguments.to_owned(), failed, begin, end: number });
            }
        }
    }
    calls.extend(open.into_values());
    calls.sort_by_key(|call| call.begin);
    ensure!(!calls.is_empty(), "strace saw nothing");
    Ok(calls)
}

fn failed(rest: &str) -> bool {
    rest.rsplit_once(" = ").is_none_or(|(_, answer)| answer.starts_with('-') || answer.starts_with('?'))
}

impl Call {
    /// The path of its first file descriptor.
    fn file(&self) -> &str {
        let path = self.arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        path.map(|(path, _)| path).unwrap_or_default()
    }

    fn is_write(&self) -> bool {
        matches!(self.name.as_str(), "write" | "pwrite64" | "ftruncate" | "fallocate")
    }

    fn is_sync(&self) -> bool {
        matches!(self.name.as_str(), "fsync" | "fdatasync" | "syncfs")
    }

    fn syncs(&self, path: &str) -> bool {
        self.name == "syncfs" || (self.is_sync() && self.file() == path)
    }

    /// Length and offset of a write at an offset.
    fn range(&self) -> Option<(&str, &str)> {
        let (arguments, _) = self.arguments.rsplit_once(')').filter(|_| self.name == "pwrite64")?;
        let (before, offset) = arguments.trim_end().rsplit_once(", ")?;
        Some((before.rsplit_once(", ")?.1, offset))
    }

    /// Where a rename leads from and to.
    fn renames(&self) -> Option<(String, String)> {
        if !self.name.starts_with("rename") {
            return None;
        }
        let mut names = self.arguments.split('"').skip(1).step_by(2);
        let (from, to) = (names.next()?, names.next()?);
        let mut folders = self.arguments.split('<').skip(1).filter_map(|rest| Some(rest.split_once('>')?.0));
        let mut within = |name: &str| {
            if name.starts_with('/') {
                name.to_owned()
            } else {
                format!("{}/{name}", folders.next().unwrap_or_default())
            }
        };
        Some((within(from), within(to)))
    }
}

/// What was counted, and what was not in order.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// Files that were received, and got their names.
    pub published: u32,
    /// Files of its own that were replaced.
    pub replaced: u32,
    /// Segments that were written down as held, in so many writes.
    pub journaled: u32,
    /// Ends of transfers that were written down.
    pub ended: u32,
    /// Of names that were in place then, in folders that could not be synced: no such end may be a success.
    pub in_vain: u32,
    /// What must not be.
    pub wrong: Vec<String>,
}

/// Checks the order of calls (D22): contents are durable before a name, names before they are spoken of; and what could not be
/// synced gets no name at all.
#[must_use]
pub fn check_order(calls: &[Call]) -> Order {
    let mut order = Order::default();
    let mut unsaid: Vec<(String, usize)> = Vec::new();
    for (at, call) in calls.iter().enumerate() {
        let earlier = &calls[..at];
        if let Some((from, to)) = call.renames().filter(|_| !call.failed) {
            let is_part =
                from.rsplit('/').next().is_some_and(|name| name.starts_with(".dwcp-") && name.ends_with(".part"));
            let is_own = from.ends_with(".new");
            if (is_part || is_own)
                && let Some(wrong) = not_durable(earlier, &from, call.begin)
            {
                order.wrong.push(format!("{to} gets its name, and {wrong}"));
            }
            if is_part {
                order.published += 1;
                unsaid.push((folder(&to).to_owned(), call.end));
            } else if is_own {
                order.replaced += 1;
                let mut after = calls[at + 1..].iter().filter(|next| next.thread == call.thread);
                let next = after.find(|next| next.name != "openat");
                if next.is_some_and(|next| !next.syncs(folder(&to))) {
                    order.wrong.push(format!("{to} is replaced, and its folder not synced: {next:?}"));
                }
            }
        }
        if call.name == "openat" && call.arguments.contains("transfers/ended/") && call.arguments.contains("O_CREAT") {
            order.ended += 1;
            for (folder, renamed) in unsaid.drain(..) {
                let tried = |sync: &&Call| sync.syncs(&folder) && sync.begin > renamed && sync.end < call.begin;
                let mut tries = earlier.iter().filter(tried).peekable();
                if tries.peek().is_some() && tries.clone().all(|sync| sync.failed) {
                    order.in_vain += 1;
                } else if !tries.any(|sync| !sync.failed) {
                    order.wrong.push(format!("an end is written down, and {folder} is not synced"));
                }
            }
        }
        if call.name == "write" && call.file().ends_with("/journal") && is_segment(&call.arguments) {
            order.journaled += 1;
            let mut before = earlier.iter().rev().filter(|before| before.thread == call.thread);
            // One that is in place by now is not found any more.
            let before = before.find(|before| before.name != "openat");
            let fine = |before: &Call| !before.failed && (before.is_sync() || before.file().ends_with("/journal"));
            if !before.is_some_and(fine) {
                order.wrong.push(format!("a segment is written down as held after {before:?}"));
            }
        }
    }
    order
}

/// Why a file's contents may not be on the disk before `begin`. What a failed flush covered counts as never written: it is to be
/// written and flushed again.
fn not_durable(earlier: &[Call], path: &str, begin: usize) -> Option<String> {
    let writes = || earlier.iter().filter(|call| call.is_write() && !call.failed && call.file() == path);
    let written = writes().map(|call| call.end).max()?;
    let flushes = || earlier.iter().filter(|call| call.syncs(path) && call.end < begin);
    for failed in flushes().filter(|call| call.failed) {
        let fine = flushes().filter(|call| !call.failed && call.end < failed.begin).map(|call| call.begin).max();
        let lost = |write: &&Call| write.end > fine.unwrap_or_default() && write.begin < failed.end;
        let again = |write: &Call| {
            writes().any(|later| later.begin > failed.end && later.range().is_some() && later.range() == write.range())
        };
        if let Some(write) = writes().filter(|call| call.name == "pwrite64").filter(lost).find(|write| !again(write)) {
            return Some(format!("{write:?} was not written again after {failed:?}"));
        }
    }
    let synced = flushes().any(|call| !call.failed && call.begin > written);
    (!synced).then(|| "was not synced after its last write".to_owned())
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map(|(folder, _)| folder).unwrap_or_default()
}

/// Whether what is written to a journal begins with the record of a segment: length, eight bytes of check, then its kind.
fn is_segment(arguments: &str) -> bool {
    let Some(text) = arguments.split('"').nth(1).filter(|_| !arguments.contains("\\\"")) else { return false };
    let mut bytes = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(char) = rest.next() {
        if char != '\\' {
            bytes.push(u32::from(char));
            continue;
        }
        let mut value = 0;
        match rest.next() {
            Some(digit) if digit.is_digit(8) => {
                value = digit.to_digit(8).unwrap_or_default();
                for _ in 0..2 {
                    if let Some(digit) = rest.peek().and_then(|char| char.to_digit(8)) {
                        value = value * 8 + digit;
                        rest.next();
                    }
                }
            }
            Some(letter) => value = u32::from(letter),
            None => {}
        }
        bytes.push(value);
    }
    bytes.get(10) == Some(&2)
}
