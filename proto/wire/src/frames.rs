//! Control frames between the two agents of a transfer, parsed and bounded.

mod convert;
mod count;
mod dictionaries;

use prost::Message;
use proto_model::{DirectRequest, InvalidField, PlannedChange, Traceparent, TransferId, TransferIssue};
use proto_rpc::peer as rpc;

use crate::{
    bench::BenchOpen,
    manifest::{BadPage, Entry},
    signed::{BadSignatureLength, Signed},
    sync::OpenSync,
};

/// A control frame: a manifest page of 1 MiB, and what stands around it.
pub const MAX_FRAME_BYTES: usize = (1 << 20) + (16 << 10);
/// Values of one repeated field in a frame, of all its messages together: as many as a page has entries, and more than any
/// other list has.
const MAX_REPEATED: usize = crate::manifest::MAX_PAGE_ENTRIES;
/// Features in an opening frame.
const MAX_FEATURES: usize = 32;
/// Lists of issues and planned changes are cut to this, so that the frame that carries both stays below its bound.
const MAX_LIST_BYTES: usize = 256 << 10;
/// Numbers in one frame of published files, or of small ones that are to come whole.
pub const MAX_PUBLISHED: usize = 4096;
/// Held segments in one frame, 44 bytes each.
pub const MAX_HELD: usize = 8192;
/// Dictionaries in one transfer; their numbers are from 1 on.
pub const MAX_DICTIONARIES: u32 = 32;
/// Bytes of a dictionary.
pub const MAX_DICTIONARY_BYTES: u32 = 112 << 10;
/// Bytes of signatures in one frame.
pub const MAX_SIGNATURE_BYTES: usize = 512 << 10;

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
    /// First of all, instead of [`SenderFrame::Open`]: the channel is a bench.
    Bench(Box<BenchOpen>),
    /// Dictionaries that may be used: numbers and digests.
    Dictionaries(Vec<(u32, [u8; 32])>),
    /// A dictionary that the receiver does not hold.
    Dictionary(DictionaryContents),
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
    /// Small files that could not be made of what was held; they are to come whole.
    ResendFiles(Vec<u64>),
    /// Which of the offered dictionaries are held.
    Dictionaries(HeldDictionaries),
}

/// By what right a transfer is opened.
#[derive(Clone, Debug, PartialEq)]
pub enum Authority {
    /// A grant; not yet checked.
    Grant(Signed),
    /// A direct send.
    Direct(DirectRequest),
    /// A run of a standing sync.
    Sync(OpenSync),
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
    /// Of the newest job that the sender was told of; 0 where it was told of none.
    pub order: u64,
}

/// The bytes of a dictionary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DictionaryContents {
    /// Which.
    pub number: u32,
    /// Its length.
    pub size: u32,
    /// An HDE container of it.
    pub container: Vec<u8>,
}

/// Numbers of dictionaries that a receiver holds, and of those that it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldDictionaries {
    /// Those that it holds.
    pub held: Vec<u32>,
    /// Those that it does not.
    pub missing: Vec<u32>,
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
    /// Its content-defined chunks, or some of them.
    pub signature: Vec<u8>,
    /// Its BLAKE3, where the sender may know it.
    pub baseline: Option<[u8; 32]>,
    /// Whether the receiver makes it of what it holds.
    pub made: bool,
    /// Whether the chunks are of another file, which is like this one.
    pub elsewhere: bool,
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
    /// A list with more values than any has.
    #[error("the control frame has a list with too many values")]
    TooMany,
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

pub(crate) fn bad(field: &str, why: &str) -> BadFrame {
    BadFrame::Field(InvalidField::new(field, why))
}

pub(crate) fn digest(field: &str, bytes: &[u8]) -> Result<[u8; 32], BadFrame> {
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
            Self::Bench(open) => Frame::Bench((*open).into()),
            Self::Dictionaries(offered) => Frame::Dictionaries(dictionaries::offered(offered)),
            Self::Dictionary(contents) => Frame::Dictionary(contents.into()),
        };
        rpc::SenderFrame { frame: Some(frame) }.encode_to_vec()
    }

    /// Parses a frame.
    ///
    /// # Errors
    /// [`BadFrame`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BadFrame> {
        use rpc::sender_frame::Frame;
        check(bytes, count::OF_SENDER)?;
        let frame = rpc::SenderFrame::decode(bytes).map_err(|_bytes| BadFrame::Encoding)?;
        Ok(match frame.frame.ok_or(BadFrame::Encoding)? {
            Frame::Open(open) => Self::Open(Box::new(open.try_into()?)),
            Frame::ManifestPage(page) => Self::Page(page),
            Frame::ManifestEnd(end) => Self::ManifestEnd(end.try_into()?),
            Frame::FileEnd(end) => Self::FileEnd(end.try_into()?),
            Frame::FileAborted(aborted) => Self::FileAborted(aborted.into()),
            Frame::Finish(finish) => Self::Finish { tree_digest: digest("tree_digest", &finish.tree_digest)? },
            Frame::Abort(abort) => Self::Abort(abort.into()),
            Frame::Bench(open) => Self::Bench(Box::new(open.try_into()?)),
            Frame::Dictionaries(offered) => Self::Dictionaries(dictionaries::parse_offered(&offered)?),
            Frame::Dictionary(contents) => Self::Dictionary(contents.try_into()?),
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
            Self::ResendFiles(indexes) => Frame::ResendFiles(rpc::ResendFiles { indexes }),
            Self::Dictionaries(held) => Frame::Dictionaries(held.into()),
        };
        rpc::ReceiverFrame { frame: Some(frame) }.encode_to_vec()
    }

    /// Parses a frame.
    ///
    /// # Errors
    /// [`BadFrame`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BadFrame> {
        use rpc::receiver_frame::Frame;
        check(bytes, count::OF_RECEIVER)?;
        let frame = rpc::ReceiverFrame::decode(bytes).map_err(|_bytes| BadFrame::Encoding)?;
        Ok(match frame.frame.ok_or(BadFrame::Encoding)? {
            Frame::Opened(opened) => Self::Opened(opened.try_into()?),
            Frame::Wanted(wanted) => Self::Wanted(wanted.try_into()?),
            Frame::Published(published) if published.indexes.len() <= MAX_PUBLISHED => {
                Self::Published(published.indexes)
            }
            Frame::ResendFiles(files) if files.indexes.len() <= MAX_PUBLISHED => Self::ResendFiles(files.indexes),
            Frame::Published(_) | Frame::ResendFiles(_) => return Err(bad("indexes", "are too many")),
            Frame::Resend(resend) => Self::Resend { file: resend.index, segment: resend.segment },
            Frame::Finished(finished) => Self::Finished(finished.try_into()?),
            Frame::Abort(abort) => Self::Abort(abort.into()),
            Frame::Dictionaries(held) => Self::Dictionaries(held.try_into()?),
            Frame::Progress(progress) => {
                Self::Progress { bytes_verified: progress.bytes_verified, files_published: progress.files_published }
            }
        })
    }
}

/// Refuses what would take far more memory than it has bytes, before anything is made of it.
fn check(bytes: &[u8], repeated: &[&[u32]]) -> Result<(), BadFrame> {
    if bytes.len() > MAX_FRAME_BYTES {
        return Err(BadFrame::TooLong(bytes.len()));
    }
    for path in repeated {
        if count::count(bytes, path).ok_or(BadFrame::Encoding)? > MAX_REPEATED {
            return Err(BadFrame::TooMany);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
