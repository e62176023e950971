//! Objects: whole or not there, bounded, found when damaged, and nowhere but in their folder.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs::{self, File},
    io::{Read, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    thread,
};

use dataplane_content::{ContentError, ContentStore, Limits, Verdict};
use dataplane_hde::ReadAt as _;
use proptest::prelude::*;
use proto_model::{ByteCount, Digest};

const SMALL: Limits = Limits { max_bytes: ByteCount::mib(64), reserve: ByteCount::new(0), open_objects: 8 };

fn path_of(dir: &Path, digest: Digest) -> PathBuf {
    let name = digest.to_string();
    dir.join("content/objects").join(&name[..2]).join(&name[2..])
}

fn add(store: &ContentStore, bytes: &[u8]) -> Digest {
    let mut batch = store.batch().unwrap();
    batch.add_reader(bytes).unwrap();
    batch.commit().unwrap()[0].digest
}

fn read(store: &ContentStore, digest: Digest) -> Vec<u8> {
    let object = store.open_verified(digest).unwrap();
    let mut bytes = vec![0; usize::try_from(object.size()).unwrap()];
    object.read_at(0, &mut bytes).unwrap();
    bytes
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

#[test]
fn an_object_lies_under_its_digest_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path(), SMALL).unwrap();
    let digest = add(&store, b"hello");
    assert_eq!(digest, Digest::blake3(b"hello"));
    let path = path_of(dir.path(), digest);
    assert_eq!(fs::read(&path).unwrap(), b"hello");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    for folder in ["content", "content/objects", "content/incoming", "content/damaged"] {
        assert_eq!(mode(&dir.path().join(folder)), 0o700, "{folder}");
    }
    assert_eq!(read(&store, digest), b"hello");
    assert!(matches!(store.open_object(Digest::blake3(b"other")), Err(ContentError::Absent(_))));
    // Twice the same is once.
    add(&store, b"hello");
    assert_eq!(store.stats().unwrap().objects, 1);
    assert_eq!(fs::read_dir(dir.path().join("content/incoming")).unwrap().count(), 0);
}

#[test]
fn a_file_that_is_not_what_was_said_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path(), SMALL).unwrap();
    fs::write(dir.path().join("file"), b"new").unwrap();
    let file = File::open(dir.path().join("file")).unwrap();
    let mut batch = store.batch().unwrap();
    let refused = batch.add_file(&file, Some(Digest::blake3(b"old")));
    assert!(matches!(refused, Err(ContentError::Changed { .. })), "{refused:?}");
    // Whatever the file's own position is.
    (&file).read_to_end(&mut Vec::new()).unwrap();
    let digest = batch.add_file(&file, Some(Digest::blake3(b"new"))).unwrap();
    batch.commit().unwrap();
    assert_eq!(read(&store, digest), b"new");
    assert_eq!(store.stats().unwrap().objects, 1);
    assert_eq!(fs::read_dir(dir.path().join("content/incoming")).unwrap().count(), 0);
}

#[test]
fn zeros_become_holes() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path(), SMALL).unwrap();
    // Larger than all that the store may hold, but for its holes.
    let sparse = File::create(dir.path().join("sparse")).unwrap();
    sparse.set_len(256 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 100 << 20).unwrap();
    let mut batch = store.batch().unwrap();
    let digest = batch.add_file(&File::open(dir.path().join("sparse")).unwrap(), None).unwrap();
    batch.commit().unwrap();
    assert_eq!(store.open_object(digest).unwrap().size(), 256 << 20);
    assert_eq!(store.verify(digest).unwrap(), Verdict::Whole);
    assert!(store.stats().unwrap().bytes < 1 << 20, "{:?}", store.stats());
}

#[test]
fn a_damaged_object_is_set_aside_and_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path(), SMALL).unwrap();
    let (good, bad) = (add(&store, &noise(1, 100_000)), add(&store, &noise(2, 100_000)));
    read(&store, bad);
    let mut file = fs::OpenOptions::new().write(true).open(path_of(dir.path(), bad)).unwrap();
    file.write_all(b"flipped").unwrap();
    drop(file);
    // It was verified before; the file system says that it was touched since.
    assert!(matches!(store.open_verified(bad), Err(ContentError::Damaged(_))));
    assert!(!store.contains(bad).unwrap() && dir.path().join("content/damaged").join(bad.to_string()).exists());
    let verified = store.verify_all().unwrap();
    assert_eq!((verified.whole, verified.damaged.len()), (1, 0));
    let stats = store.stats().unwrap();
    assert_eq!((stats.objects, stats.damaged), (1, 1));
    // One that was cut short, and a folder in its place.
    File::options().write(true).open(path_of(dir.path(), good)).unwrap().set_len(7).unwrap();
    assert_eq!(store.verify_all().unwrap().damaged, [good]);
    fs::create_dir_all(path_of(dir.path(), good)).unwrap();
    assert!(store.open_verified(good).is_err());
    fs::remove_dir(path_of(dir.path(), good)).unwrap();
    // The same object, added again, is served again.
    add(&store, &noise(2, 100_000));
    assert_eq!(read(&store, bad), noise(2, 100_000));
}

#[test]
fn one_that_is_too_short_is_replaced_by_the_next_that_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path(), SMALL).unwrap();
    let digest = add(&store, b"whole");
    fs::write(path_of(dir.path(), digest), b"who").unwrap();
    add(&store, b"whole");
    assert_eq!(read(&store, digest), b"whole");
    assert_eq!(store.stats().unwrap().objects, 1);
}

#[test]
fn the_bound_by_bytes_holds_under_concurrent_adds() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { max_bytes: ByteCount::mib(8), ..SMALL };
    let store = ContentStore::open(dir.path(), limits).unwrap();
    let outcomes: Vec<(u64, u64)> = thread::scope(|scope| {
        let adders: Vec<_> = (0..8_u64)
            .map(|adder| {
                let store = store.clone();
                scope.spawn(move || {
                    let (mut added, mut refused) = (0, 0);
                    for object in 0..20 {
                        let mut batch = store.batch().unwrap();
                        match batch.add_reader(noise(adder * 100 + object, 200_000).as_slice()) {
                            Ok(_digest) => {
                                batch.commit().unwrap();
                                added += 1;
                            }
                            Err(ContentError::Full { .. }) => refused += 1,
                            Err(other) => panic!("{other}"),
                        }
                        let held = store.stats().unwrap().bytes;
                        assert!(held <= limits.max_bytes.bytes(), "{held}");
                    }
                    (added, refused)
                })
            })
            .collect();
        adders.into_iter().map(|adder| adder.join().unwrap()).collect()
    });
    let added: u64 = outcomes.iter().map(|outcome| outcome.0).sum();
    let refused: u64 = outcomes.iter().map(|outcome| outcome.1).sum();
    assert!(refused > 0 && added >= 30, "{added} added, {refused} refused");
    // What is counted is what lies there, also for one who counts anew.
    let counted = ContentStore::open(dir.path(), limits).unwrap().stats().unwrap();
    assert_eq!((counted.objects, counted.bytes), (added, store.stats().unwrap().bytes));
}

#[test]
fn the_reserve_of_the_file_system_is_left_free() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { reserve: ByteCount::gib(1 << 30), ..SMALL };
    let store = ContentStore::open(dir.path(), limits).unwrap();
    let refused = store.batch().unwrap().add_reader(b"x".as_slice());
    assert!(matches!(refused, Err(ContentError::NoSpace { .. })), "{refused:?}");
    store.set_limits(SMALL);
    add(&store, b"x");
}

#[test]
fn no_link_leads_out_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path(), SMALL).unwrap();
    let digest = Digest::blake3(b"linked");
    let path = path_of(dir.path(), digest);
    // A folder of objects that is a link.
    symlink(outside.path(), path.parent().unwrap()).unwrap();
    let mut batch = store.batch().unwrap();
    assert!(batch.add_reader(b"linked".as_slice()).and_then(|_| batch.commit().map(drop)).is_err());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    fs::remove_file(path.parent().unwrap()).unwrap();
    // An object that is a link to what is somebody else's.
    fs::write(outside.path().join("secret"), b"linked").unwrap();
    fs::create_dir(path.parent().unwrap()).unwrap();
    symlink(outside.path().join("secret"), &path).unwrap();
    assert!(store.open_object(digest).is_err());
    // The store's folder itself.
    let other = tempfile::tempdir().unwrap();
    symlink(outside.path(), other.path().join("content")).unwrap();
    assert!(ContentStore::open(other.path(), SMALL).is_err());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn a_folder_that_is_removed_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path(), SMALL).unwrap();
    let first = add(&store, b"first");
    for gone in ["content", "content/objects", "content/incoming"] {
        fs::remove_dir_all(dir.path().join(gone)).unwrap();
        if gone != "content/incoming" {
            assert!(matches!(store.open_object(first), Err(ContentError::Absent(_))), "{gone}");
            assert_eq!(store.stats().unwrap().objects, 0, "{gone}");
        }
        assert_eq!(add(&store, b"first"), first, "{gone}");
        assert_eq!(read(&store, first), b"first");
        assert_eq!(store.stats().unwrap().objects, 1, "{gone}");
    }
}

#[test]
fn open_objects_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path(), Limits { open_objects: 2, ..SMALL }).unwrap();
    let digest = add(&store, b"x");
    let held = [store.open_object(digest).unwrap(), store.open_object(digest).unwrap()];
    assert!(matches!(store.open_object(digest), Err(ContentError::TooManyOpen(2))));
    drop(held);
    store.open_object(digest).unwrap();
}

#[test]
fn an_index_lies_beside_its_object_and_a_torn_one_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path(), SMALL).unwrap();
    let digest = add(&store, b"object");
    assert_eq!(store.index(digest).unwrap(), None);
    store.keep_index(digest, b"one").unwrap();
    store.keep_index(digest, &noise(1, 10_000)).unwrap();
    assert_eq!(store.index(digest).unwrap().unwrap(), noise(1, 10_000));
    let path = path_of(dir.path(), digest).with_extension("anchors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..5000]).unwrap();
    assert_eq!(store.index(digest).unwrap(), None);
    // None without its object.
    let absent = Digest::blake3(b"absent");
    store.keep_index(absent, b"index").unwrap();
    assert_eq!(store.index(absent).unwrap(), None);
    let counted = ContentStore::open(dir.path(), SMALL).unwrap().stats().unwrap();
    assert_eq!(counted.objects, 1);
}

#[test]
fn what_is_half_written_is_removed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    drop(ContentStore::open(dir.path(), SMALL).unwrap());
    let left = dir.path().join("content/incoming/0123456789abcdef");
    fs::write(&left, b"half").unwrap();
    // Who only looks leaves it: another process may be writing it.
    drop(ContentStore::beside(dir.path(), SMALL).unwrap());
    assert!(left.exists());
    drop(ContentStore::open(dir.path(), SMALL).unwrap());
    assert!(!left.exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is added, in whatever batches, by files or readers: it is there, whole, once, and counted.
    #[test]
    fn what_was_added_is_there(batches in prop::collection::vec(prop::collection::vec((0_u64..12, 0_usize..70_000, any::<bool>()), 0..14), 1..5)) {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path(), SMALL).unwrap();
        let mut all = std::collections::BTreeMap::new();
        for objects in &batches {
            let mut batch = store.batch().unwrap();
            for (seed, size, by_file) in objects {
                // Zeros in the middle, at the end, or nothing but.
                let mut bytes = noise(*seed, *size);
                let from = size / 3 * usize::try_from(seed % 3).unwrap();
                bytes[from..].iter_mut().take(30_000).for_each(|byte| *byte = 0);
                let digest = if *by_file {
                    let path = dir.path().join("source");
                    fs::write(&path, &bytes).unwrap();
                    batch.add_file(&File::open(&path).unwrap(), None).unwrap()
                } else {
                    batch.add_reader(bytes.as_slice()).unwrap()
                };
                prop_assert_eq!(digest, Digest::blake3(&bytes));
                all.insert(digest, bytes);
            }
            let added = batch.commit().unwrap();
            prop_assert_eq!(added.len(), objects.len());
        }
        for (digest, bytes) in &all {
            prop_assert_eq!(&read(&store, *digest), bytes);
        }
        let verified = store.verify_all().unwrap();
        prop_assert_eq!(verified.whole, u64::try_from(all.len()).unwrap());
        let (stats, counted) = (store.stats().unwrap(), ContentStore::open(dir.path(), SMALL).unwrap().stats().unwrap());
        prop_assert_eq!((stats.objects, stats.bytes), (counted.objects, counted.bytes));
        prop_assert_eq!(fs::read_dir(dir.path().join("content/incoming")).unwrap().count(), 0);
    }
}
