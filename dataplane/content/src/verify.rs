//! Whether objects are what their names say. A damaged one is set aside, for somebody to look at, and never served.

use std::{io, os::unix::fs::MetadataExt as _};

use dataplane_hde::ReadAt as _;
use proto_model::Digest;
use rustix::io::Errno;

use crate::{
    copy::{FromStart, hash},
    folders::{INDEX_END, occupied, place, stat_in},
    object::Object,
    shards::{Listed, for_each},
    store::{ContentError, ContentStore},
};

/// Damaged objects that are kept aside; those that were set aside first go first.
const MAX_ASIDE: usize = 4;
/// Larger ones are removed: what is kept to be looked at is bounded by bytes as well.
const MAX_ASIDE_BYTES: u64 = 64 << 20;

/// What was found of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is what its name says.
    Whole,
    /// It was not, or could not be read; it is set aside.
    Damaged,
    /// There is none.
    Absent,
}

/// What was found of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Objects that are whole.
    pub whole: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that are not.
    pub damaged: Vec<Digest>,
}

impl ContentStore {
    /// Reads an object.
    ///
    /// # Errors
    /// The store cannot be used.
    pub fn verify(&self, digest: Digest) -> Result<Verdict, ContentError> {
        match self.open_object(digest) {
            Ok(object) => self.verify_open(&object),
            Err(ContentError::Absent(_)) => Ok(Verdict::Absent),
            Err(ContentError::Io(error)) if is_damage(&error) => self.set_aside(digest, None),
            Err(error) => Err(error),
        }
    }

    /// Reads all objects of one of the 256 folders. Goes on as long as `goes_on` says so.
    ///
    /// # Errors
    /// The store cannot be used.
    pub fn verify_shard(&self, number: u8, goes_on: impl Fn() -> bool) -> Result<Verified, ContentError> {
        let mut verified = Verified::default();
        for digest in self.list(number)? {
            if !goes_on() {
                break;
            }
            match self.open_object(digest) {
                Ok(object) => match self.verify_open(&object)? {
                    Verdict::Whole => {
                        verified.whole += 1;
                        verified.bytes += object.size();
                    }
                    Verdict::Damaged => verified.damaged.push(digest),
                    Verdict::Absent => {}
                },
                Err(ContentError::Absent(_)) => {}
                Err(ContentError::Io(error)) if is_damage(&error) => {
                    self.set_aside(digest, None)?;
                    verified.damaged.push(digest);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(verified)
    }

    /// Reads all objects.
    ///
    /// # Errors
    /// The store cannot be used.
    pub fn verify_all(&self) -> Result<Verified, ContentError> {
        let mut all = Verified::default();
        for number in 0..=u8::MAX {
            let verified = self.verify_shard(number, || true)?;
            all.whole += verified.whole;
            all.bytes += verified.bytes;
            all.damaged.extend(verified.damaged);
        }
        Ok(all)
    }

    /// The objects of a folder.
    pub(crate) fn list(&self, number: u8) -> Result<Vec<Digest>, ContentError> {
        let opened = self.opened()?;
        let mut found = Vec::new();
        if let Some(folder) = opened.present_shard(number)? {
            for_each(&folder, number, |listed, _name| {
                if let Listed::Object(digest) = listed {
                    found.push(digest);
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    pub(crate) fn verify_open(&self, object: &Object) -> Result<Verdict, ContentError> {
        match hash(FromStart::new(object.file())) {
            Ok((found, _size)) if found == object.digest() => Ok(Verdict::Whole),
            Ok(_other) => self.set_aside(object.digest(), Some(object)),
            Err(error) if is_damage(&error) => self.set_aside(object.digest(), Some(object)),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets an object aside, if it is still the file that was looked at.
    fn set_aside(&self, digest: Digest, seen: Option<&Object>) -> Result<Verdict, ContentError> {
        let opened = self.opened()?;
        let (number, name) = place(digest);
        let Some(folder) = opened.present_shard(number)? else { return Ok(Verdict::Absent) };
        let mut locked = opened.shards.counted(&opened, number)?;
        let Some(stat) = stat_in(&folder, &name)? else { return Ok(Verdict::Absent) };
        if let Some(seen) = seen {
            let seen = seen.file().metadata()?;
            if (seen.dev(), seen.ino()) != (stat.st_dev, stat.st_ino) {
                // A whole one was put in its place meanwhile.
                return self.verify_again(digest, locked);
            }
        }
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let index = stat_in(&folder, &format!("{name}{INDEX_END}"))?;
        if size > MAX_ASIDE_BYTES || !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            opened.remove(digest, &folder, &mut locked)?;
        } else {
            opened.set_aside(digest, &folder, &name)?;
            opened.shards.removed(&mut locked, 1, occupied(&stat));
            if index.is_some() {
                opened.remove(digest, &folder, &mut locked)?;
            }
            drop(locked);
            let mut aside = opened.aside()?;
            aside.sort_by_key(|(_, stat)| stat.st_ctime);
            let surplus = aside.len().saturating_sub(MAX_ASIDE);
            for (name, _stat) in aside.iter().take(surplus) {
                opened.remove_aside(name)?;
            }
        }
        self.verified().remove(&digest);
        metrics::counter!("dwcp_content_damaged_total").increment(1);
        tracing::warn!(
            component = "content",
            object = %digest,
            folder = %self.path().join("damaged").display(),
            "an object of the content store was damaged on the disk; it is set aside, and what needs it travels anew"
        );
        Ok(Verdict::Damaged)
    }

    fn verify_again<T>(&self, digest: Digest, locked: T) -> Result<Verdict, ContentError> {
        drop(locked);
        self.verify(digest)
    }
}

/// What reading a damaged file ends with: the disk's own error, or no file in its place.
fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData || error.raw_os_error() == Some(Errno::IO.raw_os_error())
}
