//! `dwcp audit export`: a stretch of the log as a file that verifies by itself.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, IsTerminal, Write},
    path::Path,
    process::ExitCode,
};

use control_plane_audit::{ExportHeader, record_line};
use foundation_merkle::Hash;
use proto_rpc::v1::{AuditExportHeader, ExportAuditEventsRequest, ExportAuditEventsResponse};

use super::{
    bar::Bar,
    file,
    trust::Known,
    verify::{Against, events, exit, lines},
};
use crate::{
    connection::Connection,
    failure::{Exit, Failure},
    output::Output,
    part::Part,
};

pub(super) async fn run(
    connection: &Connection,
    output: &Output,
    request: ExportAuditEventsRequest,
    out: &Path,
    against: &Against,
) -> Result<ExitCode, Failure> {
    let to_stdout = out == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        return Err(Failure::usage("an export is for a file or a pipe, not for a terminal: give -O FILE"));
    }
    let part = if to_stdout { None } else { Some(Part::create(out, 0o600)?) };
    let request = ExportAuditEventsRequest { leaves_only: true, ..request };
    let mut parts = connection.audit().export_audit_events(request).await?.into_inner();
    let header = parts.message().await?.and_then(|part| part.header);
    let header = header.ok_or_else(|| Failure::failed("the control plane sent no header"))?;
    let header = parse_header(header)?;
    let Some(part) = part else {
        return match write(output, &mut parts, &header, BufWriter::new(io::stdout().lock())).await {
            Err(WriteError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
            Err(error) => Err(error.failure("standard output")),
            Ok(_stdout) => Ok(ExitCode::SUCCESS),
        };
    };
    let name = out.display().to_string();
    let written = write(output, &mut parts, &header, BufWriter::with_capacity(1 << 20, &part.file)).await;
    drop(written.map_err(|error| error.failure(&name))?);
    let file = File::open(&part.path).map_err(|error| Failure::chain(format!("cannot read {name} again"), &error))?;
    let verification = file::verify(output, BufReader::new(file), &name, against, Some(Known::AtFirstSight))?;
    // Also what does not verify is kept: it is what the control plane said.
    part.keep(out)?;
    if !verification.ok {
        output.plain(&verification, |verification| lines(output, verification))?;
        return Ok(exit(&verification));
    }
    output.plain(&verification, |verification| {
        format!(
            "√ {}, from {} on, in {name}\nNext: dwcp audit verify {name}\n",
            events(verification.events),
            header.first
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn parse_header(header: AuditExportHeader) -> Result<ExportHeader, Failure> {
    let hashes = |hashes: Vec<Vec<u8>>| {
        let parsed: Option<Vec<Hash>> = hashes.iter().map(|hash| Hash::try_from(hash.as_slice()).ok()).collect();
        parsed.ok_or_else(|| Failure::failed("the control plane sent a proof that is none"))
    };
    let head = header.head.unwrap_or_default();
    Ok(ExportHeader {
        checkpoint: head.checkpoint,
        verifier_key: head.verifier_key,
        first: header.first_sequence,
        next: header.next_sequence,
        left: hashes(header.left)?,
        consistency: hashes(header.consistency)?,
        ca_signature: header.ca_signature,
    })
}

enum WriteError {
    Io(io::Error),
    Call(Failure),
}

impl WriteError {
    fn failure(self, name: &str) -> Failure {
        match self {
            Self::Io(error) => Failure::chain(format!("cannot write {name}"), &error),
            Self::Call(failure) => failure,
        }
    }
}

async fn write<W: Write>(
    output: &Output,
    parts: &mut tonic::Streaming<ExportAuditEventsResponse>,
    header: &ExportHeader,
    mut out: W,
) -> Result<W, WriteError> {
    out.write_all(header.line().as_bytes()).map_err(WriteError::Io)?;
    let bar = Bar::new(output, header.next.saturating_sub(header.first));
    let mut count = 0;
    while let Some(part) = parts.message().await.map_err(|status| WriteError::Call(status.into()))? {
        for event in &part.events {
            let hash: Hash = event.leaf_hash.parse().map_err(|_form| {
                let text =
                    format!("event {} has no hash that could be written: run `dwcp audit verify`", event.sequence);
                WriteError::Call(Failure::new(Exit::AuditFailed, text))
            })?;
            out.write_all(&record_line(&event.leaf, &hash)).map_err(WriteError::Io)?;
        }
        count += part.events.len() as u64;
        bar.at(count);
    }
    out.flush().map_err(WriteError::Io)?;
    bar.end();
    Ok(out)
}
