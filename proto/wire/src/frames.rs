//! Control frames between the two agents of a transfer, parsed and bounded.

use prost::Message;
use proto_model::{DirectRequest, InvalidField, PlannedChange, Traceparent, TransferId, TransferIssue};
use proto_rpc::{peer as rpc, v1};

use crate::{
    hde::MAX_SEGMENT_BYTES,
    manifest::{BadPage, Entry, decode_entry, encode_entry},
    piece::MIN_SEGMENT_BYTES,
    signed::{BadSignatureLength, Signed},
};

/// A control frame: a manifest page of 1 MiB, and what stands around it.
pub const MAX_FRAME_BYTES: usize = (1 << 20) + (16 << 10);
/// Features in an opening frame.
const MAX_FEATURES: usize = 32;
/// Lists of issues and planned changes are cut to this, so that the frame that carries both stays below its bound.
const MAX_LIST_BYTES: usize = 256 << 10;
/// Numbers in one frame of published files.
pub const MAX_PUBLISHED: usize = 4096;
/// Held segments and digests of blocks in one frame: 44 and 32 bytes each.
pub const MAX_HELD: usize = 8192;
/// See [`MAX_HELD`].
pub const MAX_BASIS_DIGEST_BYTES: usize = 512 << 10;

/// From the sender.
#[derive(Clone, Debug, PartialEq)]
pub enum SenderFrame {
    /// First of all.
    Open(Box<Open>),
    /// A page of the tree; checked by `manifest::PageReader`.
    Page(rpc::ManifestPage),
    /// There are no further pages.
    ManifestEnd(ManifestEnd),
    /// All segments of a file have been handed to the transport.
    FileEnd(FileEnd),
    /// A file cannot be read as promised.
    FileAborted(FileAborted),
    /// All files have been ended or aborted.
    Finish {
        /// The digest of the tree as the sender holds it.
        tree_digest: [u8; 32],
    },
    /// The sender gives up.
    Abort(Abort),
}

/// From the receiver.
#[derive(Clone, Debug, PartialEq)]
pub enum ReceiverFrame {
    /// Go on.
    Opened(Opened),
    /// What is needed of a manifest page.
    Wanted(Wanted),
    /// Files that are in place, durable.
    Published(Vec<u64>),
    /// A segment that did not verify.
    Resend {
        /// The file's number.
        file: u64,
        /// The segment's number in it.
        segment: u64,
    },
    /// The tree is in place.
    Finished(Finished),
    /// The receiver refuses or gives up.
    Abort(Abort),
    /// How far the receiver is.
    Progress {
        /// Bytes verified.
        bytes_verified: u64,
        /// Files in place.
        files_published: u64,
    },
}

/// By what right a transfer is opened.
#[derive(Clone, Debug, PartialEq)]
pub enum Authority {
    /// A grant; not yet checked.
    Grant(Signed),
    /// A direct send.
    Direct(DirectRequest),
}

/// Opens a transfer in a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    /// Which transfer.
    pub transfer: TransferId,
    /// By what right.
    pub authority: Authority,
    /// The sender's trace.
    pub traceparent: Option<Traceparent>,
    /// Names of optional features that the sender can use.
    pub features: Vec<String>,
    /// Bytes of a segment: a power of two.
    pub segment_bytes: u32,
}

/// The receiver's consent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Of those offered.
    pub features: Vec<String>,
    /// How many encoded bytes may be under way at once.
    pub receive_window_bytes: u64,
    /// Whether the receiver has an unfinished journal of this transfer.
    pub resuming: bool,
}

/// There are no further pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestEnd {
    /// How many entries there are.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// BLAKE3 over the encoded pages.
    pub digest: [u8; 32],
    /// Entries left out at the source; as many as fit.
    pub issues: Vec<TransferIssue>,
    /// How many were left out.
    pub issue_count: u64,
    /// Whether the entries are the contents of source folders.
    pub contents: bool,
    /// Whether a source folder could not be listed whole.
    pub incomplete: bool,
}

/// What is needed of a manifest page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Files that need contents.
    pub files: Vec<WantedFile>,
    /// The page is answered whole.
    pub page_complete: bool,
    /// Bytes of files of this page that need none.
    pub equal_bytes: u64,
    /// How many files these are.
    pub equal_files: u64,
}

/// A file that needs contents, or a part of what is said of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedFile {
    /// Its number in the manifest.
    pub file: u64,
    /// Segments that the receiver holds, with their values.
    pub held: Vec<(u64, [u8; 32])>,
    /// Bytes of the receiver's old version that may be referred to.
    pub basis_bytes: u64,
    /// Bytes of a block of it.
    pub basis_block_bytes: u32,
    /// The number of the first block in this frame.
    pub basis_first_block: u64,
    /// Digests of blocks.
    pub basis_digests: Vec<u8>,
    /// Whether more of this file follows in the next frame.
    pub more: bool,
}

/// All segments of a file have been handed to the transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEnd {
    /// Its number in the manifest.
    pub file: u64,
    /// BLAKE3 of the whole.
    pub root: [u8; 32],
    /// How often reading began anew.
    pub attempt: u8,
    /// As it was read, where that differs from the manifest.
    pub entry: Option<Entry>,
}

/// A file cannot be read as promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAborted {
    /// Its number in the manifest.
    pub file: u64,
    /// For example `CHANGED_WHILE_READ`.
    pub reason: String,
    /// In a sentence.
    pub message: String,
}

/// The tree is in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The digest of the tree, as the receiver holds it.
    pub tree_digest: [u8; 32],
    /// Entries left out at the destination; as many as fit.
    pub issues: Vec<TransferIssue>,
    /// How many were left out there.
    pub issue_count: u64,
    /// Entries deleted.
    pub deleted: u64,
    /// For a dry run; as many as fit.
    pub planned_changes: Vec<PlannedChange>,
}

/// The end, without success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abort {
    /// For programs, for example `GRANT_EXPIRED`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Whether it is worth trying again.
    pub temporary: bool,
}

/// Why bytes are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// Longer than [`MAX_FRAME_BYTES`].
    #[error("a control frame of {0} bytes is too long")]
    TooLong(usize),
    /// Not an encoded message, or one of the future.
    #[error("the control frame cannot be decoded, or is of a kind that is not known")]
    Encoding,
    /// A field out of range.
    #[error("the control frame is not valid: {0}")]
    Field(#[from] InvalidField),
    /// An entry that is none.
    #[error("the control frame is not valid")]
    Entry(#[from] BadPage),
    /// Not a signature.
    #[error("the control frame is not valid")]
    Signature(#[from] BadSignatureLength),
}

fn bad(field: &str, why: &str) -> BadFrame {
    BadFrame::Field(InvalidField::new(field, why))
}

fn digest(field: &str, bytes: &[u8]) -> Result<[u8; 32], BadFrame> {
    bytes.try_into().map_err(|_length| bad(field, "is not 32 bytes long"))
}

impl SenderFrame {
    /// The frame's bytes.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        use rpc::sender_frame::Frame;
        let frame = match self {
            Self::Open(open) => Frame::Open((*open).into()),
            Self::Page(page) => Frame::ManifestPage(page),
            Self::ManifestEnd(end) => Frame::ManifestEnd(end.into()),
            Self::FileEnd(end) => Frame::FileEnd(end.into()),
            Self::FileAborted(aborted) => Frame::FileAborted(aborted.into()),
            Self::Finish { tree_digest } => Frame::Finish(rpc::Finish { tree_digest: tree_digest.to_vec() }),
            Self::Abort(abort) => Frame::Abort(abort.into()),
        };
        rpc::SenderFrame { frame: Some(frame) }.encode_to_vec()
    }

    /// Parses a frame.
    ///
    /// # Errors
    /// [`BadFrame`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BadFrame> {
        use rpc::sender_frame::Frame;
        check_length(bytes)?;
        let frame = rpc::SenderFrame::decode(bytes).map_err(|_bytes| BadFrame::Encoding)?;
        Ok(match frame.frame.ok_or(BadFrame::Encoding)? {
            Frame::Open(open) => Self::Open(Box::new(open.try_into()?)),
            Frame::ManifestPage(page) => Self::Page(page),
            Frame::ManifestEnd(end) => Self::ManifestEnd(end.try_into()?),
            Frame::FileEnd(end) => Self::FileEnd(end.try_into()?),
            Frame::FileAborted(aborted) => Self::FileAborted(aborted.into()),
            Frame::Finish(finish) => Self::Finish { tree_digest: digest("tree_digest", &finish.tree_digest)? },
            Frame::Abort(abort) => Self::Abort(abort.into()),
        })
    }
}

impl ReceiverFrame {
    /// The frame's bytes.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        use rpc::receiver_frame::Frame;
        let frame = match self {
            Self::Opened(opened) => Frame::Opened(opened.into()),
            Self::Wanted(wanted) => Frame::Wanted(wanted.into()),
            Self::Published(indexes) => Frame::Published(rpc::Published { indexes }),
            Self::Resend { file, segment } => Frame::Resend(rpc::Resend { index: file, segment }),
            Self::Finished(finished) => Frame::Finished(finished.into()),
            Self::Abort(abort) => Frame::Abort(abort.into()),
            Self::Progress { bytes_verified, files_published } => {
                Frame::Progress(rpc::Progress { bytes_verified, files_published })
            }
        };
        rpc::ReceiverFrame { frame: Some(frame) }.encode_to_vec()
    }

    /// Parses a frame.
    ///
    /// # Errors
    /// [`BadFrame`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BadFrame> {
        use rpc::receiver_frame::Frame;
        check_length(bytes)?;
        let frame = rpc::ReceiverFrame::decode(bytes).map_err(|_bytes| BadFrame::Encoding)?;
        Ok(match frame.frame.ok_or(BadFrame::Encoding)? {
            Frame::Opened(opened) => Self::Opened(opened.try_into()?),
            Frame::Wanted(wanted) => Self::Wanted(wanted.try_into()?),
            Frame::Published(published) if published.indexes.len() <= MAX_PUBLISHED => {
                Self::Published(published.indexes)
            }
            Frame::Published(_) => return Err(bad("indexes", "are too many")),
            Frame::Resend(resend) => Self::Resend { file: resend.index, segment: resend.segment },
            Frame::Finished(finished) => Self::Finished(finished.try_into()?),
            Frame::Abort(abort) => Self::Abort(abort.into()),
            Frame::Progress(progress) => {
                Self::Progress { bytes_verified: progress.bytes_verified, files_published: progress.files_published }
            }
        })
    }
}

fn check_length(bytes: &[u8]) -> Result<(), BadFrame> {
    if bytes.len() > MAX_FRAME_BYTES { Err(BadFrame::TooLong(bytes.len())) } else { Ok(()) }
}

impl From<Open> for rpc::Open {
    fn from(open: Open) -> Self {
        let authority = match open.authority {
            Authority::Grant(signed) => rpc::open::Authority::Grant(signed.into()),
            Authority::Direct(request) => rpc::open::Authority::Direct(request.into()),
        };
        Self {
            transfer_id: open.transfer.to_string(),
            authority: Some(authority),
            traceparent: open.traceparent.map(String::from).unwrap_or_default(),
            features: open.features,
            segment_bytes: open.segment_bytes,
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
        };
        let segment_bytes = open.segment_bytes;
        if !segment_bytes.is_power_of_two() || !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&segment_bytes) {
            return Err(bad("segment_bytes", "is not a power of two from 64 KiB to 4 MiB"));
        }
        if open.features.len() > MAX_FEATURES {
            return Err(bad("features", "are too many"));
        }
        let traceparent = Traceparent::from_optional_text(&open.traceparent);
        Ok(Self { transfer, authority, traceparent, features: open.features, segment_bytes })
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
            basis_digests: file.basis_digests,
            basis_block_bytes: file.basis_block_bytes,
            basis_first_block: file.basis_first_block,
            more: file.more,
        }
    }
}

impl TryFrom<rpc::WantedFile> for WantedFile {
    type Error = BadFrame;

    fn try_from(file: rpc::WantedFile) -> Result<Self, BadFrame> {
        if file.held.len() > MAX_HELD || file.basis_digests.len() > MAX_BASIS_DIGEST_BYTES {
            return Err(bad("files", "say more than one frame may"));
        }
        if !file.basis_digests.len().is_multiple_of(32) {
            return Err(bad("basis_digests", "are not 32 bytes each"));
        }
        let held = file.held.into_iter();
        Ok(Self {
            file: file.index,
            held: held
                .map(|held| Ok((held.number, digest("held", &held.chaining_value)?)))
                .collect::<Result<_, BadFrame>>()?,
            basis_bytes: file.basis_size,
            basis_block_bytes: file.basis_block_bytes,
            basis_first_block: file.basis_first_block,
            basis_digests: file.basis_digests,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_come_back_as_they_went() {
        let end = ManifestEnd {
            entries: 3,
            bytes: 4,
            digest: [5; 32],
            issues: vec![TransferIssue { path: b"a\xff".to_vec(), reason: "X".into(), message: "y".into() }],
            issue_count: 1,
            contents: true,
            incomplete: true,
        };
        let file_end = FileEnd { file: 7, root: [8; 32], attempt: 1, entry: None };
        for frame in [
            SenderFrame::ManifestEnd(end),
            SenderFrame::FileEnd(file_end),
            SenderFrame::Finish { tree_digest: [9; 32] },
        ] {
            assert_eq!(SenderFrame::decode(&frame.clone().encode()), Ok(frame));
        }
        let wanted = Wanted {
            files: vec![WantedFile { file: 1, held: vec![(2, [3; 32])], more: true, ..WantedFile::default() }],
            page_complete: true,
            equal_bytes: 4,
            equal_files: 5,
        };
        for frame in [
            ReceiverFrame::Wanted(wanted),
            ReceiverFrame::Published(vec![1, 2]),
            ReceiverFrame::Resend { file: 1, segment: 2 },
            ReceiverFrame::Abort(Abort { reason: "X".into(), message: "y".into(), temporary: true }),
        ] {
            assert_eq!(ReceiverFrame::decode(&frame.clone().encode()), Ok(frame));
        }
    }

    #[test]
    fn lists_are_cut_so_that_the_frame_stays_in_its_bound() {
        let issue = TransferIssue { path: vec![0xff; 4000], reason: "UNREADABLE".into(), message: "m".repeat(500) };
        let finished = Finished {
            tree_digest: [0; 32],
            issues: vec![issue; 1000],
            issue_count: 1000,
            deleted: 0,
            planned_changes: Vec::new(),
        };
        let bytes = ReceiverFrame::Finished(finished).encode();
        assert!(bytes.len() <= MAX_FRAME_BYTES);
        assert!(matches!(ReceiverFrame::decode(&bytes), Ok(ReceiverFrame::Finished(f)) if f.issue_count == 1000));
    }

    proptest! {
        #[test]
        fn takes_any_bytes_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(SenderFrame::decode(&bytes));
            drop(ReceiverFrame::decode(&bytes));
        }
    }
}
