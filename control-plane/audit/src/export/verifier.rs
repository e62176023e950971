//! Reads an export line by line, in bounded memory, and says what was done to it.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, BufRead, Read as _},
};

use foundation_merkle::{Checkpoint, Frontier, Hash, VerifierKey, leaf_hash, verify_consistency};

use super::{ExportError, ExportHeader, HASH_DIGITS, MAX_HEADER_BYTES, MAX_RECORD_BYTES, parse_record_line};
use crate::{Anchor, Record, Restore};

/// The most findings that are kept.
const MAX_FINDINGS: usize = 100;

/// A record's line without its line feed.
const MAX_LINE_BYTES: usize = MAX_RECORD_BYTES + HASH_DIGITS + 32;

/// Something that is wrong with an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportFinding {
    /// Where, counted from 1.
    pub line: u64,
    /// What.
    pub problem: String,
}

/// What a verification of an export came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportReport {
    /// How many records were read.
    pub records: u64,
    /// The root of the log as it was after the last record.
    pub root: Hash,
    /// The signed head that covers the records.
    pub head: Checkpoint,
    /// What is wrong; the first hundred.
    pub findings: Vec<ExportFinding>,
    /// How many things are wrong.
    pub finding_count: u64,
    /// The largest head that was kept elsewhere and that the records agree with.
    pub anchored: Option<Anchor>,
    /// Restores that the records tell of.
    pub restores: Vec<Restore>,
}

/// Verifies an export: [`Self::open`] reads the header, [`Self::verify`] the rest.
#[derive(Debug)]
pub struct ExportVerifier<R> {
    input: R,
    header: ExportHeader,
    /// The line that is read next, from 1.
    line: u64,
    older: Vec<(u64, Anchor)>,
}

impl<R: BufRead> ExportVerifier<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// There is none.
    pub fn open(mut input: R) -> Result<Self, ExportError> {
        let mut line = Vec::new();
        match read_line(&mut input, &mut line, MAX_HEADER_BYTES)? {
            Line::Whole => {}
            Line::End => return Err(ExportError::Header("the file is empty")),
            Line::Cut => return Err(ExportError::Header("the file ends within it")),
            Line::TooLong => return Err(ExportError::Header("it is too long")),
        }
        Ok(Self { input, header: ExportHeader::parse(&line)?, line: 2, older: Vec::new() })
    }

    /// The header, not believed yet.
    pub fn header(&self) -> &ExportHeader {
        &self.header
    }

    /// Compares also with heads that were seen in earlier epochs, by epoch: up to the head that was restored the records must be theirs. Where
    /// the restore itself is not in the file, nothing is known of them.
    #[must_use]
    pub fn with_older(mut self, older: Vec<(u64, Anchor)>) -> Self {
        self.older = older;
        self
    }

    /// Reads every line, and compares with the head that this key must have signed, and with heads that were kept elsewhere. `progress`
    /// hears how many records were read.
    ///
    /// # Errors
    /// The file cannot be read, or the head is not signed by the key. What is wrong with the records is no error, but a finding.
    pub fn verify(
        mut self,
        key: &VerifierKey,
        anchors: Vec<Anchor>,
        mut progress: impl FnMut(u64),
    ) -> Result<ExportReport, ExportError> {
        let head = self.header.head(key)?;
        let mut stretch = Stretch::new(&self.header, anchors, std::mem::take(&mut self.older))?;
        let mut line = Vec::new();
        loop {
            match read_line(&mut self.input, &mut line, MAX_LINE_BYTES)? {
                Line::End => break,
                Line::Cut => {
                    stretch.find(self.line, "the file ends within this line: it was truncated");
                    break;
                }
                Line::TooLong => stretch.find(self.line, "it is longer than any record"),
                Line::Whole => stretch.take(self.line, &line),
            }
            self.line += 1;
            progress(stretch.records);
        }
        Ok(stretch.finish(self.line, &self.header, head))
    }
}

/// A head of an earlier epoch.
struct Older {
    epoch: u64,
    anchor: Anchor,
    /// Whether the records up to its size are others; unknown before they were read.
    differs: bool,
}

/// The records so far.
struct Stretch {
    frontier: Frontier,
    records: u64,
    /// The number of the record that belongs next.
    expected: u64,
    next: u64,
    anchors: VecDeque<Anchor>,
    anchored: Option<Anchor>,
    older: Vec<Older>,
    restores: Vec<Restore>,
    findings: Vec<ExportFinding>,
    finding_count: u64,
}

impl Stretch {
    fn new(header: &ExportHeader, mut anchors: Vec<Anchor>, older: Vec<(u64, Anchor)>) -> Result<Self, ExportError> {
        let frontier = Frontier::from_parts(header.first, header.left.clone())
            .map_err(|_count| ExportError::Header("the hashes on the left do not fit the first record"))?;
        anchors.retain(|anchor| (header.first..=header.next).contains(&anchor.size));
        anchors.sort_by_key(|anchor| anchor.size);
        let mut stretch = Self {
            frontier,
            records: 0,
            expected: header.first,
            next: header.next,
            anchors: anchors.into(),
            anchored: None,
            older: older.into_iter().map(|(epoch, anchor)| Older { epoch, anchor, differs: false }).collect(),
            restores: Vec::new(),
            findings: Vec::new(),
            finding_count: 0,
        };
        stretch.compare_anchors(1);
        stretch.compare_older();
        Ok(stretch)
    }

    fn take(&mut self, line: u64, bytes: &[u8]) {
        let Some((said, leaf)) = parse_record_line(bytes) else {
            self.find(line, "it is not of the form of a record");
            return;
        };
        let hash = leaf_hash(leaf);
        if hash != said {
            self.find(line, "the record is damaged: its bytes do not have the hash that stands before them");
        }
        match Record::from_leaf(leaf) {
            Ok(record) if record.sequence == self.expected => {
                if let Some(restore) = Restore::of(&record) {
                    self.restored(line, restore);
                }
            }
            Ok(record) => {
                let (found, expected) = (record.sequence, self.expected);
                self.find(line, format!("record {found} stands where {expected} belongs"));
                self.expected = found;
            }
            Err(error) => self.find(line, error.to_string()),
        }
        self.expected = self.expected.saturating_add(1);
        if self.frontier.size() >= self.next {
            self.find(line, "it stands behind the last record that the header promises");
            return;
        }
        self.records = self.records.saturating_add(1);
        self.frontier.append(hash);
        self.compare_anchors(line);
        self.compare_older();
    }

    /// A new epoch begins: what was seen of those before must be what was restored, but for the end that is lost.
    fn restored(&mut self, line: u64, mut restore: Restore) {
        if self.restores.len() >= MAX_FINDINGS {
            return;
        }
        if restore.root != Some(self.frontier.root()) {
            self.find(line, "the records before this restore are not those that it says were restored");
        }
        let size = self.frontier.size();
        let (before, left) = std::mem::take(&mut self.older).into_iter().partition(|kept| kept.epoch < restore.epoch);
        self.older = left;
        let before: Vec<Older> = before;
        for kept in before {
            restore.lost = restore.lost.max(kept.anchor.size.saturating_sub(size));
            if kept.differs && kept.anchor.size <= size {
                self.find(line, format!("the records before this restore are not those of {}", kept.anchor.source));
            }
        }
        self.restores.push(restore);
    }

    fn compare_older(&mut self) {
        let size = self.frontier.size();
        if self.older.iter().all(|kept| kept.anchor.size != size) {
            return;
        }
        let root = self.frontier.root();
        for kept in self.older.iter_mut().filter(|kept| kept.anchor.size == size) {
            kept.differs = kept.anchor.root != root;
        }
    }

    fn compare_anchors(&mut self, line: u64) {
        while self.anchors.front().is_some_and(|anchor| anchor.size == self.frontier.size()) {
            let Some(anchor) = self.anchors.pop_front() else { return };
            if anchor.root == self.frontier.root() {
                self.anchored = Some(anchor);
            } else {
                self.find(line, format!("up to here the records are not those of {}", anchor.source));
            }
        }
    }

    fn finish(mut self, line: u64, header: &ExportHeader, head: Checkpoint) -> ExportReport {
        let root = self.frontier.root();
        if self.frontier.size() < header.next {
            let (size, next) = (self.frontier.size(), header.next);
            self.find(line, format!("the file ends before record {size}, and was to have records up to {}", next - 1));
        } else if self.frontier.size() == header.next
            && let Err(error) = verify_consistency(header.next, &root, head.size, &head.root, &header.consistency)
        {
            let text = match &self.anchored {
                Some(anchor) if anchor.size > header.first => {
                    format!("the records behind line {} are not those that were signed", anchor.size - header.first + 1)
                }
                Some(_) | None => "the records are not those that were signed".to_owned(),
            };
            // The header's proof is as much in doubt as the records.
            self.find(1, format!("{text} ({error})"));
        }
        ExportReport {
            records: self.records,
            root,
            head,
            findings: self.findings,
            finding_count: self.finding_count,
            anchored: self.anchored,
            restores: self.restores,
        }
    }

    fn find(&mut self, line: u64, problem: impl Into<String>) {
        self.finding_count = self.finding_count.saturating_add(1);
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(ExportFinding { line, problem: problem.into() });
        }
    }
}

enum Line {
    Whole,
    /// The file ends without a line feed.
    Cut,
    /// Read past, not kept.
    TooLong,
    End,
}

/// Reads a line without its line feed, of at most so many bytes; what is longer is read past and not kept.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>, max: usize) -> io::Result<Line> {
    line.clear();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let read = input.by_ref().take(limit).read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Line::Whole);
    }
    if read == 0 {
        return Ok(Line::End);
    }
    if line.len() <= max {
        return Ok(Line::Cut);
    }
    line.clear();
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(Line::TooLong);
        }
        let (used, over) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), false),
        };
        input.consume(used);
        if over {
            return Ok(Line::TooLong);
        }
    }
}

impl ExportReport {
    /// Whether the records are those that were signed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.finding_count == 0
    }
}

impl fmt::Display for ExportFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}
