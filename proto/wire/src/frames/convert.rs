//! Frames from and to their generated forms.

use prost::Message;
use proto_model::{InvalidField, PlannedChange, Traceparent, TransferIssue};
use proto_rpc::{peer as rpc, v1};

use super::{
    Abort, Authority, BadFrame, FileAborted, FileEnd, Finished, ManifestEnd, Open, Opened, Wanted, WantedFile, bad,
    digest,
};
use crate::{
    frames::{MAX_FEATURES, MAX_HELD, MAX_LIST_BYTES, MAX_SIGNATURE_BYTES},
    hde::MAX_SEGMENT_BYTES,
    manifest::{decode_entry, encode_entry},
    piece::MIN_SEGMENT_BYTES,
};

impl From<Open> for rpc::Open {
    fn from(open: Open) -> Self {
        let authority = match open.authority {
            Authority::Grant(signed) => rpc::open::Authority::Grant(signed.into()),
            Authority::Direct(request) => rpc::open::Authority::Direct(request.into()),
            Authority::Sync(run) => rpc::open::Authority::Sync(run.into()),
        };
        Self {
            transfer_id: open.transfer.to_string(),
            authority: Some(authority),
            traceparent: open.traceparent.map(String::from).unwrap_or_default(),
            features: open.features,
            segment_bytes: open.segment_bytes,
            order: open.order,
        }
    }
}

impl TryFrom<rpc::Open> for Open {
    type Error = BadFrame;

    fn try_from(open: rpc::Open) -> Result<Self, BadFrame> {
        let transfer = open.transfer_id.parse().map_err(|error| InvalidField::new("transfer_id", error))?;
        let authority = match open.authority.ok_or_else(|| InvalidField::missing("grant"))? {
            rpc::open::Authority::Grant(signed) => Authority::Grant(signed.try_into()?),
            rpc::open::Authority::Direct(request) => Authority::Direct(request.try_into()?),
            rpc::open::Authority::Sync(run) => Authority::Sync(run.try_into()?),
        };
        let segment_bytes = open.segment_bytes;
        if !segment_bytes.is_power_of_two() || !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&segment_bytes) {
            return Err(bad("segment_bytes", "is not a power of two from 64 KiB to 4 MiB"));
        }
        if open.features.len() > MAX_FEATURES {
            return Err(bad("features", "are too many"));
        }
        let traceparent = Traceparent::from_optional_text(&open.traceparent);
        Ok(Self { transfer, authority, traceparent, features: open.features, segment_bytes, order: open.order })
    }
}

impl From<Opened> for rpc::Opened {
    fn from(opened: Opened) -> Self {
        Self { features: opened.features, receive_window_bytes: opened.receive_window_bytes, resuming: opened.resuming }
    }
}

impl TryFrom<rpc::Opened> for Opened {
    type Error = BadFrame;

    fn try_from(opened: rpc::Opened) -> Result<Self, BadFrame> {
        if opened.features.len() > MAX_FEATURES {
            return Err(bad("features", "are too many"));
        }
        Ok(Self {
            features: opened.features,
            receive_window_bytes: opened.receive_window_bytes,
            resuming: opened.resuming,
        })
    }
}

/// As many as fit [`MAX_LIST_BYTES`] and the report that they end up in.
fn as_many_as_fit<T: Into<M>, M: Message>(items: Vec<T>, at_most: usize) -> Vec<M> {
    let mut room = MAX_LIST_BYTES;
    let fitting = items.into_iter().take(at_most).map(Into::into).take_while(move |item| {
        room = room.saturating_sub(item.encoded_len() + 8);
        room > 0
    });
    fitting.collect()
}

impl From<ManifestEnd> for rpc::ManifestEnd {
    fn from(end: ManifestEnd) -> Self {
        Self {
            entries: end.entries,
            bytes: end.bytes,
            digest: end.digest.to_vec(),
            issues: as_many_as_fit::<_, v1::TransferIssue>(end.issues, TransferIssue::MAX_REPORTED),
            issue_count: end.issue_count,
            contents: end.contents,
            incomplete: end.incomplete,
        }
    }
}

impl TryFrom<rpc::ManifestEnd> for ManifestEnd {
    type Error = BadFrame;

    fn try_from(end: rpc::ManifestEnd) -> Result<Self, BadFrame> {
        Ok(Self {
            entries: end.entries,
            bytes: end.bytes,
            digest: digest("digest", &end.digest)?,
            issues: issues(end.issues),
            issue_count: end.issue_count,
            contents: end.contents,
            incomplete: end.incomplete,
        })
    }
}

fn issues(issues: Vec<v1::TransferIssue>) -> Vec<TransferIssue> {
    issues.into_iter().take(TransferIssue::MAX_REPORTED).map(Into::into).collect()
}

impl From<Wanted> for rpc::Wanted {
    fn from(wanted: Wanted) -> Self {
        Self {
            files: wanted.files.into_iter().map(Into::into).collect(),
            page_complete: wanted.page_complete,
            equal_bytes: wanted.equal_bytes,
            equal_files: wanted.equal_files,
        }
    }
}

impl TryFrom<rpc::Wanted> for Wanted {
    type Error = BadFrame;

    fn try_from(wanted: rpc::Wanted) -> Result<Self, BadFrame> {
        Ok(Self {
            files: wanted.files.into_iter().map(WantedFile::try_from).collect::<Result<_, _>>()?,
            page_complete: wanted.page_complete,
            equal_bytes: wanted.equal_bytes,
            equal_files: wanted.equal_files,
        })
    }
}

impl From<WantedFile> for rpc::WantedFile {
    fn from(file: WantedFile) -> Self {
        let held = file.held.into_iter();
        Self {
            index: file.file,
            held: held.map(|(number, value)| rpc::HeldSegment { number, chaining_value: value.to_vec() }).collect(),
            basis_size: file.basis_bytes,
            signature: file.signature,
            baseline: file.baseline.map(|digest| digest.to_vec()).unwrap_or_default(),
            made: file.made,
            elsewhere: file.elsewhere,
            more: file.more,
        }
    }
}

impl TryFrom<rpc::WantedFile> for WantedFile {
    type Error = BadFrame;

    fn try_from(file: rpc::WantedFile) -> Result<Self, BadFrame> {
        if file.held.len() > MAX_HELD || file.signature.len() > MAX_SIGNATURE_BYTES {
            return Err(bad("files", "say more than one frame may"));
        }
        let baseline = if file.baseline.is_empty() { None } else { Some(digest("baseline", &file.baseline)?) };
        let held = file.held.into_iter();
        Ok(Self {
            file: file.index,
            held: held
                .map(|held| Ok((held.number, digest("held", &held.chaining_value)?)))
                .collect::<Result<_, BadFrame>>()?,
            basis_bytes: file.basis_size,
            signature: file.signature,
            baseline,
            made: file.made,
            elsewhere: file.elsewhere,
            more: file.more,
        })
    }
}

impl From<FileEnd> for rpc::FileEnd {
    fn from(end: FileEnd) -> Self {
        Self {
            index: end.file,
            root: end.root.to_vec(),
            attempt: end.attempt.into(),
            entry: end.entry.as_ref().map(encode_entry),
        }
    }
}

impl TryFrom<rpc::FileEnd> for FileEnd {
    type Error = BadFrame;

    fn try_from(end: rpc::FileEnd) -> Result<Self, BadFrame> {
        let attempt = u8::try_from(end.attempt).ok().filter(|attempt| *attempt <= 1);
        Ok(Self {
            file: end.index,
            root: digest("root", &end.root)?,
            attempt: attempt.ok_or_else(|| bad("attempt", "is neither 0 nor 1"))?,
            entry: end.entry.map(|entry| decode_entry(entry, end.index)).transpose()?,
        })
    }
}

impl From<FileAborted> for rpc::FileAborted {
    fn from(aborted: FileAborted) -> Self {
        Self { index: aborted.file, reason: aborted.reason, message: aborted.message }
    }
}

impl From<rpc::FileAborted> for FileAborted {
    fn from(aborted: rpc::FileAborted) -> Self {
        // Through the noun that cuts and escapes what comes from outside.
        let text =
            proto_model::TransferError::from(v1::TransferError { reason: aborted.reason, message: aborted.message });
        Self { file: aborted.index, reason: text.reason, message: text.message }
    }
}

impl From<Finished> for rpc::Finished {
    fn from(finished: Finished) -> Self {
        Self {
            tree_digest: finished.tree_digest.to_vec(),
            issues: as_many_as_fit::<_, v1::TransferIssue>(finished.issues, TransferIssue::MAX_REPORTED),
            issue_count: finished.issue_count,
            deleted: finished.deleted,
            planned_changes: as_many_as_fit::<_, v1::PlannedChange>(
                finished.planned_changes,
                PlannedChange::MAX_REPORTED,
            ),
        }
    }
}

impl TryFrom<rpc::Finished> for Finished {
    type Error = BadFrame;

    fn try_from(finished: rpc::Finished) -> Result<Self, BadFrame> {
        let changes = finished.planned_changes.into_iter().take(PlannedChange::MAX_REPORTED);
        Ok(Self {
            tree_digest: digest("tree_digest", &finished.tree_digest)?,
            issues: issues(finished.issues),
            issue_count: finished.issue_count,
            deleted: finished.deleted,
            planned_changes: changes.map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<Abort> for rpc::Abort {
    fn from(abort: Abort) -> Self {
        Self { reason: abort.reason, message: abort.message, temporary: abort.temporary }
    }
}

impl From<rpc::Abort> for Abort {
    fn from(abort: rpc::Abort) -> Self {
        let text = proto_model::TransferError::from(v1::TransferError { reason: abort.reason, message: abort.message });
        Self { reason: text.reason, message: text.message, temporary: abort.temporary }
    }
}
