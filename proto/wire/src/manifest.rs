//! The manifest: what is in a tree, in pages of at most 1 MiB, in bytewise order of paths with folders as `name/` (D18).

use std::cmp::Ordering;

use prost::Message;
use proto_rpc::peer;

use crate::tree_path::{BadPath, TreePath, order};

/// A page as it is encoded. What a control frame may carry is a little more.
pub const MAX_PAGE_BYTES: usize = 1 << 20;
/// Entries of a page: an entry takes 20 bytes and more, so a page cannot hold more; a decoder's memory rests on it.
pub const MAX_PAGE_ENTRIES: usize = MAX_PAGE_BYTES / 16;
/// Pages of a tree: so many whatever their size, since the first ones may go out early, and from then on one for each
/// [`PAGE_SHARE`] bytes of all pages. What both ends keep of a page in memory rests on it.
pub const FREE_PAGES: u64 = 4096;
/// See [`FREE_PAGES`]: a page that is full has far more.
pub const PAGE_SHARE: u64 = 64 << 10;
/// Entries of a tree: 2^32, so that a bit for each is at most 512 MiB and an index is never near an overflow.
pub const MAX_ENTRIES: u64 = 1 << 32;
/// The size of a file: 2^56 bytes, so that no sum over a tree overflows.
pub const MAX_FILE_BYTES: u64 = 1 << 56;

/// Modification time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtime {
    /// Seconds since the Unix epoch.
    pub seconds: i64,
    /// Nanoseconds, below 10^9.
    pub nanos: u32,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
    },
    /// A folder.
    Folder,
    /// A symbolic link.
    Symlink {
        /// What it points to; any bytes, never followed.
        target: Vec<u8>,
    },
}

/// Words of a sketch.
pub const SKETCH_WORDS: usize = 8;

/// What a sender knows of versions of a file without reading it; in no digest of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// [`Versions::brief`] of the digest of the version that the receiver acknowledged last at this place and that the sender has kept;
    /// 0 for none.
    pub baseline: u64,
    /// The BLAKE3 of the file itself, where no version of its place was kept.
    pub root: Option<[u8; 32]>,
    /// The words of the sketch of a large file that is new to its sender, a word of 0 for none.
    pub sketch: Option<[u32; SKETCH_WORDS]>,
}

impl Versions {
    /// What is said of a digest where the other end knows the whole of it.
    #[must_use]
    pub fn brief(digest: &[u8; 32]) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = *digest;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

/// One entry of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the folder that receives.
    pub path: TreePath,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, without setuid, setgid and sticky.
    pub mode: u32,
    /// When it was last changed.
    pub mtime: Mtime,
    /// Of a file: how many of its bytes are holes, as far as its sender knows; a hint for room, in no digest of a tree.
    pub holes: u64,
    /// Of a file: what its sender knows of versions of it.
    pub versions: Versions,
}

impl Entry {
    /// Whether it is a folder.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        matches!(self.kind, Kind::Folder)
    }

    /// A file's bytes; 0 for what is none.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self.kind {
            Kind::File { size } => size,
            Kind::Folder | Kind::Symlink { .. } => 0,
        }
    }
}

/// Consecutive entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The number of the first entry, from 0 over all pages.
    pub first_index: u64,
    /// In order; at least one.
    pub entries: Vec<Entry>,
}

impl Page {
    /// A page that a [`PageReader`] took before, read back from this process's own disk: only its entries are checked.
    ///
    /// # Errors
    /// [`BadPage`], when the disk does not give back what was written.
    pub fn trusted(page: peer::ManifestPage) -> Result<Self, BadPage> {
        if page.first_index > MAX_ENTRIES {
            return Err(BadPage::Sequence);
        }
        let entries = (page.first_index..).zip(page.entries).map(|(index, entry)| decode_entry(entry, index));
        Ok(Self { first_index: page.first_index, entries: entries.collect::<Result<_, _>>()? })
    }
}

/// Why a page is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPage {
    /// The entry's path.
    #[error("entry {index}: {source}")]
    Path {
        /// The entry's number.
        index: u64,
        /// What is wrong with it.
        source: BadPath,
    },
    /// Of no kind, or with what its kind does not have.
    #[error("entry {0} is neither a file, a folder nor a symbolic link of the known form")]
    Kind(u64),
    /// Permission bits beyond 0777, nanoseconds beyond a second, a size beyond the bound.
    #[error("entry {0} has a mode, time or size out of range")]
    Range(u64),
    /// Not after the one before it.
    #[error("entry {0} does not come after the one before it")]
    Order(u64),
    /// Its folder is not in the tree.
    #[error("entry {0} lies in a folder that is not in the tree")]
    Orphan(u64),
    /// Empty, too many entries, or not the page that comes next.
    #[error("the page does not follow the one before it, or is empty or too large")]
    Sequence,
    /// See [`FREE_PAGES`].
    #[error("the manifest comes in too many small pages")]
    SmallPages,
}

/// Takes entries until a page is full.
#[derive(Debug, Default)]
pub struct PageBuilder {
    page: peer::ManifestPage,
    bytes: usize,
}

impl PageBuilder {
    /// Adds an entry; gives back the page that is full, if this one begins another.
    pub fn push(&mut self, entry: &Entry) -> Option<peer::ManifestPage> {
        let entry = encode_entry(entry);
        // Tag and length of the entry, and the page's own number, are at most 16 bytes together.
        let bytes = entry.encoded_len() + 16;
        let full = self.bytes + bytes > MAX_PAGE_BYTES || self.page.entries.len() == MAX_PAGE_ENTRIES;
        let done = if full { self.finish() } else { None };
        self.bytes += bytes;
        self.page.entries.push(entry);
        done
    }

    /// The page begun, if it has entries.
    pub fn finish(&mut self) -> Option<peer::ManifestPage> {
        if self.page.entries.is_empty() {
            return None;
        }
        let count = u64::try_from(self.page.entries.len()).unwrap_or(u64::MAX);
        let next = peer::ManifestPage { first_index: self.page.first_index + count, entries: Vec::new() };
        self.bytes = 0;
        Some(std::mem::replace(&mut self.page, next))
    }
}

pub(crate) fn encode_entry(entry: &Entry) -> peer::Entry {
    let (kind, size, target) = match &entry.kind {
        Kind::File { size } => (peer::EntryKind::File, *size, Vec::new()),
        Kind::Folder => (peer::EntryKind::Folder, 0, Vec::new()),
        Kind::Symlink { target } => (peer::EntryKind::Symlink, 0, target.clone()),
    };
    peer::Entry {
        path: entry.path.as_bytes().to_vec(),
        kind: kind.into(),
        size,
        mode: entry.mode,
        mtime_s: entry.mtime.seconds,
        mtime_ns: entry.mtime.nanos,
        target,
        holes: entry.holes,
        baseline: entry.versions.baseline,
        root: entry.versions.root.map(|root| root.to_vec()).unwrap_or_default(),
        sketch: entry.versions.sketch.map(|words| words.map(u32::to_le_bytes).concat()).unwrap_or_default(),
    }
}

pub(crate) fn decode_entry(entry: peer::Entry, index: u64) -> Result<Entry, BadPage> {
    let path = TreePath::parse(&entry.path).map_err(|source| BadPage::Path { index, source })?;
    let kind = match peer::EntryKind::try_from(entry.kind) {
        Ok(peer::EntryKind::File) if entry.target.is_empty() => Kind::File { size: entry.size },
        Ok(peer::EntryKind::Folder) if entry.target.is_empty() && entry.size == 0 => Kind::Folder,
        Ok(peer::EntryKind::Symlink) if is_target(&entry.target) && entry.size == 0 => {
            Kind::Symlink { target: entry.target }
        }
        _ => return Err(BadPage::Kind(index)),
    };
    let beyond = entry.size > MAX_FILE_BYTES || entry.holes > entry.size;
    if entry.mode & !0o777 != 0 || entry.mtime_ns >= 1_000_000_000 || beyond {
        return Err(BadPage::Range(index));
    }
    let root = if entry.root.is_empty() { None } else { Some(entry.root.as_slice()) };
    let root = root.map(|root| root.try_into().map_err(|_length| BadPage::Range(index))).transpose()?;
    let mtime = Mtime { seconds: entry.mtime_s, nanos: entry.mtime_ns };
    let sketch = match entry.sketch.as_chunks() {
        ([], []) => None,
        (words, []) => {
            let words: [[u8; 4]; SKETCH_WORDS] = words.try_into().map_err(|_length| BadPage::Range(index))?;
            Some(words.map(u32::from_le_bytes))
        }
        _ => return Err(BadPage::Range(index)),
    };
    let versions = Versions { baseline: entry.baseline, root, sketch };
    Ok(Entry { path, kind, mode: entry.mode, mtime, holes: entry.holes, versions })
}

fn is_target(target: &[u8]) -> bool {
    !target.is_empty() && target.len() < crate::tree_path::MAX_PATH_BYTES && !target.contains(&0)
}

/// Checks pages as they come: numbers without a gap, paths in order, every entry's folder before it.
#[derive(Debug, Default)]
pub struct PageReader {
    next_index: u64,
    bytes: u64,
    pages: u64,
    encoded_bytes: u64,
    last: Option<(TreePath, bool)>,
    /// Lengths of the beginnings of the last path that are paths of files or links: a folder of that name may still come in
    /// order, after names like `name-x`, and must not.
    taken: Vec<usize>,
    hasher: blake3::Hasher,
}

impl PageReader {
    /// Parses the next page.
    ///
    /// # Errors
    /// [`BadPage`]; nothing after that can be believed.
    pub fn next_page(&mut self, page: peer::ManifestPage) -> Result<Page, BadPage> {
        let first_index = page.first_index;
        if first_index != self.next_index || page.entries.is_empty() || page.entries.len() > MAX_PAGE_ENTRIES {
            return Err(BadPage::Sequence);
        }
        let encoded = page.encode_to_vec();
        self.pages += 1;
        self.encoded_bytes += u64::try_from(encoded.len()).unwrap_or(u64::MAX);
        if self.pages > FREE_PAGES + self.encoded_bytes / PAGE_SHARE {
            return Err(BadPage::SmallPages);
        }
        self.hasher.update(&encoded);
        let mut entries = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            let entry = decode_entry(entry, self.next_index)?;
            self.check_place(&entry)?;
            self.check_name(&entry)?;
            self.next_index += 1;
            self.bytes = self.bytes.checked_add(entry.size()).ok_or(BadPage::Range(self.next_index))?;
            self.last = Some((entry.path.clone(), entry.is_folder()));
            entries.push(entry);
        }
        if self.next_index > MAX_ENTRIES { Err(BadPage::Sequence) } else { Ok(Page { first_index, entries }) }
    }

    fn check_place(&self, entry: &Entry) -> Result<(), BadPage> {
        let index = self.next_index;
        let parent = entry.path.split().0;
        let Some((last, last_is_folder)) = &self.last else {
            return if parent.is_none() { Ok(()) } else { Err(BadPage::Orphan(index)) };
        };
        let here = (entry.path.as_bytes(), entry.is_folder());
        if order((last.as_bytes(), *last_is_folder), here) != Ordering::Less {
            return Err(BadPage::Order(index));
        }
        // In this order what lies in a folder follows it without a gap: the parent is the last entry or one of its folders.
        let in_tree = parent.is_none_or(|parent| {
            let is_last = *last_is_folder && last.as_bytes() == parent;
            let holds_last = last.as_bytes().strip_prefix(parent).is_some_and(|rest| rest.first() == Some(&b'/'));
            is_last || holds_last
        });
        if in_tree { Ok(()) } else { Err(BadPage::Orphan(index)) }
    }

    /// One path is one entry.
    fn check_name(&mut self, entry: &Entry) -> Result<(), BadPage> {
        let path = entry.path.as_bytes();
        let last = self.last.as_ref().map(|(last, _)| last.as_bytes()).unwrap_or_default();
        let common = last.iter().zip(path).take_while(|(left, right)| left == right).count();
        self.taken.retain(|taken| *taken <= common);
        if entry.is_folder() {
            let twice = self.taken.contains(&path.len());
            return if twice { Err(BadPage::Order(self.next_index)) } else { Ok(()) };
        }
        self.taken.push(path.len());
        Ok(())
    }

    /// Entries so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.next_index
    }

    /// Bytes of all files so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of all pages so far.
    #[must_use]
    pub fn encoded_bytes(&self) -> u64 {
        self.encoded_bytes
    }

    /// BLAKE3 over the encoded pages so far.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }
}

/// The digest of a tree: BLAKE3 over its entries in order. Of a file its root counts where its contents were moved; of one that
/// the receiver already held, size and time as both ends see them.
#[derive(Debug, Default)]
pub struct TreeHasher(blake3::Hasher);

impl TreeHasher {
    /// Adds the next entry; `root` is the BLAKE3 of a file whose contents were moved.
    pub fn push(&mut self, entry: &Entry, root: Option<&[u8; 32]>) {
        let entry = peer::Entry { holes: 0, baseline: 0, root: Vec::new(), sketch: Vec::new(), ..encode_entry(entry) };
        let message = entry.encode_length_delimited_to_vec();
        self.0.update(&message);
        match root {
            Some(root) => {
                self.0.update(&[1]).update(root);
            }
            None => {
                self.0.update(&[0]);
            }
        }
    }

    /// The digest of what was added.
    #[must_use]
    pub fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Entry {
        let path = TreePath::parse(path.as_bytes()).unwrap();
        let mtime = Mtime { seconds: -1, nanos: 999_999_999 };
        Entry { path, kind: Kind::File { size: 5 }, mode: 0o644, mtime, holes: 0, versions: Versions::default() }
    }

    fn folder(path: &str) -> Entry {
        Entry { kind: Kind::Folder, ..file(path) }
    }

    fn read(entries: &[Entry]) -> Result<Vec<Entry>, BadPage> {
        let mut builder = PageBuilder::default();
        let mut pages: Vec<_> = entries.iter().filter_map(|entry| builder.push(entry)).collect();
        pages.extend(builder.finish());
        let mut reader = PageReader::default();
        let mut all = Vec::new();
        for page in pages {
            assert!(page.encoded_len() <= MAX_PAGE_BYTES);
            all.extend(reader.next_page(page)?.entries);
        }
        Ok(all)
    }

    #[test]
    fn pages_come_back_as_they_went_and_stay_below_a_mebibyte() {
        let versions =
            Versions { baseline: u64::MAX, root: Some([9; 32]), sketch: Some([1, 0, 3, 4, 5, 6, 7, u32::MAX]) };
        let known = Entry { versions, ..file("y") };
        let link = Entry { kind: Kind::Symlink { target: b"../\xff".to_vec() }, ..file("z") };
        let mut entries: Vec<_> = (0..40_000).map(|n| file(&format!("{n:0>60}"))).collect();
        entries.extend([known, link]);
        assert_eq!(read(&entries).unwrap(), entries);
    }

    #[test]
    fn refuses_entries_out_of_order_and_without_their_folder() {
        assert!(read(&[folder("a"), file("a/b"), file("a-c")]).is_err());
        assert_eq!(
            read(&[file("a-c"), folder("a"), folder("a/b"), file("a/b/c"), file("a/d")]).map(|all| all.len()),
            Ok(5)
        );
        assert_eq!(read(&[file("a"), file("a")]), Err(BadPage::Order(1)));
        assert_eq!(read(&[file("a"), folder("a")]), Err(BadPage::Order(1)));
        assert_eq!(read(&[file("a"), file("a-"), file("a.b"), folder("a")]), Err(BadPage::Order(3)));
        assert_eq!(read(&[file("a"), file("a.b"), folder("a.c"), folder("b")]).map(|all| all.len()), Ok(4));
        assert_eq!(read(&[file("a"), file("a/b")]), Err(BadPage::Orphan(1)));
        assert_eq!(read(&[folder("a"), file("b/c")]), Err(BadPage::Orphan(1)));
        assert_eq!(read(&[file("b/c")]), Err(BadPage::Orphan(0)));
        assert_eq!(read(&[folder("a"), file("a/b/c")]), Err(BadPage::Orphan(1)));
    }

    #[test]
    fn refuses_pages_without_end_that_say_nothing() {
        let mut reader = PageReader::default();
        let mut page = |index: u64| {
            let entries = vec![encode_entry(&file(&format!("{index:0>8}")))];
            reader.next_page(peer::ManifestPage { first_index: index, entries })
        };
        // An entry of 30 bytes each: what is kept of a page would soon be more than the page.
        let first_refused = (0..2 * FREE_PAGES).find(|index| page(*index).is_err());
        assert!(first_refused.is_some_and(|index| (FREE_PAGES..FREE_PAGES + 10).contains(&index)), "{first_refused:?}");
    }

    #[test]
    fn refuses_setuid_dots_and_gaps() {
        assert_eq!(read(&[Entry { mode: 0o4755, ..file("a") }]), Err(BadPage::Range(0)));
        assert_eq!(read(&[Entry { holes: 6, ..file("a") }]), Err(BadPage::Range(0)));
        let page = |first_index, path: &[u8]| peer::ManifestPage {
            first_index,
            entries: vec![peer::Entry { path: path.to_vec(), ..encode_entry(&file("a")) }],
        };
        let dots = PageReader::default().next_page(page(0, b"../a"));
        assert_eq!(dots, Err(BadPage::Path { index: 0, source: BadPath::Dots }));
        let absolute = PageReader::default().next_page(page(0, b"/a"));
        assert_eq!(absolute, Err(BadPage::Path { index: 0, source: BadPath::EmptyPart }));
        assert_eq!(PageReader::default().next_page(page(1, b"a")), Err(BadPage::Sequence));
    }

    #[test]
    fn the_digest_of_a_tree_covers_names_contents_and_modes() {
        let digest = |entry: &Entry, root: Option<&[u8; 32]>| {
            let mut hasher = TreeHasher::default();
            hasher.push(entry, root);
            hasher.finish()
        };
        let base = digest(&file("a"), Some(&[1; 32]));
        assert_ne!(base, digest(&file("b"), Some(&[1; 32])));
        assert_ne!(base, digest(&file("a"), Some(&[2; 32])));
        assert_ne!(base, digest(&file("a"), None));
        assert_ne!(base, digest(&Entry { mode: 0o600, ..file("a") }, Some(&[1; 32])));
        let versions = Versions { baseline: 7, root: Some([9; 32]), sketch: Some([1; 8]) };
        assert_eq!(base, digest(&Entry { holes: 3, versions, ..file("a") }, Some(&[1; 32])));
    }
}
