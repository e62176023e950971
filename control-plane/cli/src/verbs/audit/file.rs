//! `dwcp audit verify FILE`: an export, without server and database.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    process::ExitCode,
};

use control_plane_audit::{ExportError, ExportReport, ExportVerifier};

use super::{
    anchors::Anchors,
    bar::Bar,
    trust::{self, KeptHeads, Known},
    verify::{Against, Verification, exit, lines},
};
use crate::{
    failure::{Exit, Failure},
    output::Output,
};

pub(super) fn run(output: &Output, file: &Path, against: &Against) -> Result<ExitCode, Failure> {
    let verification = if file == Path::new("-") {
        verify(output, io::stdin().lock(), "standard input", against, None)?
    } else {
        let opened =
            File::open(file).map_err(|error| Failure::chain(format!("cannot read {}", file.display()), &error))?;
        verify(output, BufReader::with_capacity(1 << 20, opened), &file.display().to_string(), against, None)?
    };
    output.plain(&verification, |verification| lines(output, verification))?;
    Ok(exit(&verification))
}

/// Verifies an export; `at_worst` is how its key is known where nothing else speaks for it.
pub(super) fn verify(
    output: &Output,
    input: impl BufRead,
    name: &str,
    against: &Against,
    at_worst: Option<Known>,
) -> Result<Verification, Failure> {
    let verifier = match ExportVerifier::open(input) {
        Ok(verifier) => verifier,
        Err(error) => return refused(name, error),
    };
    let header = verifier.header().clone();
    let offered = match header.key() {
        Ok(key) => key,
        Err(error) => return refused(name, error),
    };
    let anchors = Anchors::load()?;
    let ca = against.ca.as_deref();
    let known = trust::known_key(&offered, &anchors, against.verifier_key.as_deref(), ca, &header.ca_signature)?;
    let known = match known {
        Ok(known) => known.or(at_worst).ok_or_else(|| no_key(name))?,
        Err(finding) => return Ok(found(&header.verifier_key, vec![finding])),
    };
    let head = match header.head(&offered) {
        Ok(head) => head,
        Err(error) => return refused(name, error),
    };
    let KeptHeads { heads: kept, older, findings: contradictions } =
        trust::kept_heads(&offered, &head, &anchors, &against.anchors)?;
    // An export may be older than what was seen since, so a head of a later epoch says nothing of it.
    drop(contradictions);
    let bar = Bar::new(output, header.next - header.first);
    let report = verifier.with_older(older).verify(&offered, kept, |records| {
        if records.is_multiple_of(1000) {
            bar.at(records);
        }
    });
    bar.end();
    match report {
        Ok(report) => Ok(verification(&report, &header.verifier_key, header.first, known)),
        Err(error) => refused(name, error),
    }
}

fn no_key(name: &str) -> Failure {
    Failure::usage(format!("whose signature shall count for {name}? The key in the file itself proves nothing"))
        .hint("give --key KEY (docs/audit.md), or --ca ca.pem of the fleet, or verify against the control plane once")
}

fn refused(name: &str, error: ExportError) -> Result<Verification, Failure> {
    match error {
        ExportError::Io(error) => Err(Failure::chain(format!("cannot read {name}"), &error)),
        ExportError::Version(_) => Err(Failure::new(Exit::Failed, format!("{name}: {error}"))),
        ExportError::Header(_) | ExportError::Head(_) => Ok(found("", vec![error.to_string()])),
    }
}

fn found(signed_by: &str, findings: Vec<String>) -> Verification {
    let finding_count = findings.len() as u64;
    Verification { findings, finding_count, signed_by: signed_by.to_owned(), ..Verification::default() }
}

fn verification(report: &ExportReport, signed_by: &str, first: u64, known: Known) -> Verification {
    Verification {
        restores: report.restores.iter().map(ToString::to_string).collect(),
        ok: report.is_clean(),
        events: report.records,
        root_hash: report.root.to_string(),
        findings: report.findings.iter().map(ToString::to_string).collect(),
        finding_count: report.finding_count,
        anchored_at: report.anchored.as_ref().map(|anchor| anchor.size),
        signed_by: signed_by.to_owned(),
        first: Some(first),
        head_size: Some(report.head.size),
        known: Some(known),
    }
}
