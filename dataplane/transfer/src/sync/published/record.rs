//! One record of a published file, on disk and in memory.

use rustix::fs::Stat;

/// Bytes of a record, on disk.
pub(super) const RECORD_BYTES: usize = 96;

/// A path, by the first half of its BLAKE3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PathKey([u8; 16]);

impl PathKey {
    pub(crate) fn of(path: &[u8]) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(path).as_bytes()[..16]);
        Self(key)
    }

    /// Its beginning: records lie in this order.
    pub(super) fn head(self) -> u64 {
        let mut head = [0; 8];
        head.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(head)
    }
}

/// A file as it lies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// Seconds and nanoseconds.
    pub(crate) modified: (i64, u32),
    /// The same; none for an intent, since nobody knows it before the file is in place.
    pub(crate) changed: Option<(i64, u32)>,
}

impl Stamp {
    pub(crate) fn of(stat: &Stat) -> Self {
        let time = |seconds, nanos| (seconds, u32::try_from(nanos).unwrap_or_default());
        Self {
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: Some(time(stat.st_ctime, stat.st_ctime_nsec)),
        }
    }

    /// Whether a file is the one that was written down, as far as its stamp says; none where only the contents can tell: a mode, a link's count or
    /// a name changed, or more.
    pub(super) fn is(&self, now: &Self) -> Option<bool> {
        if (self.inode, self.size, self.modified) != (now.inode, now.size, now.modified) {
            return Some(false);
        }
        match self.changed {
            Some(_) if self.changed != now.changed => None,
            Some(_) | None => Some(true),
        }
    }
}

/// A file as it was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) stamp: Stamp,
    /// BLAKE3; none where the file was found equal, and never read here.
    pub(super) digest: Option<[u8; 32]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Noted,
    Intent,
}

/// A kind, a key, a stamp, a digest, and a check over all of it.
pub(super) fn encode(kind: Kind, key: PathKey, record: Option<Record>) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[0] = match (kind, record) {
        (Kind::Noted, Some(_)) => 1,
        (Kind::Noted, None) => 2,
        (Kind::Intent, Some(_)) => 3,
        (Kind::Intent, None) => 4,
    };
    bytes[4..20].copy_from_slice(&key.0);
    if let Some(Record { stamp, digest }) = record {
        bytes[1] = u8::from(stamp.changed.is_some());
        bytes[2] = u8::from(digest.is_some());
        bytes[20..28].copy_from_slice(&stamp.inode.to_le_bytes());
        bytes[28..36].copy_from_slice(&stamp.size.to_le_bytes());
        bytes[36..44].copy_from_slice(&stamp.modified.0.to_le_bytes());
        bytes[44..48].copy_from_slice(&stamp.modified.1.to_le_bytes());
        let changed = stamp.changed.unwrap_or_default();
        bytes[48..56].copy_from_slice(&changed.0.to_le_bytes());
        bytes[56..60].copy_from_slice(&changed.1.to_le_bytes());
        bytes[60..92].copy_from_slice(&digest.unwrap_or_default());
    }
    let check = check(&bytes);
    bytes[92..].copy_from_slice(&check);
    bytes
}

fn check(bytes: &[u8; RECORD_BYTES]) -> [u8; 4] {
    let mut check = [0; 4];
    check.copy_from_slice(&blake3::hash(&bytes[..92]).as_bytes()[..4]);
    check
}

/// None where the bytes are damaged.
pub(super) fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<(Kind, PathKey, Option<Record>)> {
    fn part<const N: usize>(bytes: &[u8; RECORD_BYTES], at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&bytes[at..at + N]);
        out
    }
    if check(bytes) != part(bytes, 92) {
        return None;
    }
    let kind = match bytes[0] {
        1 | 2 => Kind::Noted,
        3 | 4 => Kind::Intent,
        _ => return None,
    };
    let stamp = Stamp {
        inode: u64::from_le_bytes(part(bytes, 20)),
        size: u64::from_le_bytes(part(bytes, 28)),
        modified: (i64::from_le_bytes(part(bytes, 36)), u32::from_le_bytes(part(bytes, 44))),
        changed: (bytes[1] == 1).then(|| (i64::from_le_bytes(part(bytes, 48)), u32::from_le_bytes(part(bytes, 56)))),
    };
    let digest = (bytes[2] == 1).then(|| part(bytes, 60));
    Some((kind, PathKey(part(bytes, 4)), matches!(bytes[0], 1 | 3).then_some(Record { stamp, digest })))
}

/// Reads any bytes as a record.
pub(crate) fn read_any_record(bytes: &[u8]) {
    if let Some(bytes) = bytes.first_chunk() {
        let _record = decode(bytes);
    }
}
