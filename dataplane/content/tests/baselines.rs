//! Versions: kept as the policy has it, never of a file that changed, gone without harm.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::DateTime;
use dataplane_content::{
    Acknowledged, Baselines, ContentError, ContentStore, FileStat, KeptNow, Limits, Place, Published, References,
    Settings,
    policy::{Copying, Policy, Prospect, Went},
};
use dataplane_local_store::LocalStore;
use foundation_runtime::{Clock, ManualClock, TaskGroup};
use proto_model::{ByteCount, Digest, NodeUid};

const REPLACED: Prospect = Prospect { is_standing: false, replaced: true };
const DELTA: Went = Went::Delta { plain: 1000, encoded: 10 };

struct Host {
    dir: tempfile::TempDir,
    tasks: TaskGroup,
    rows: LocalStore,
    content: ContentStore,
    baselines: Baselines,
    hand: ManualClock,
}

impl Host {
    async fn new(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tasks = TaskGroup::new("test");
        let (clock, hand) = Clock::manual(DateTime::from_timestamp(1_800_000_000, 0).unwrap());
        let rows = LocalStore::open(dir.path(), clock.clone(), &tasks).await.unwrap();
        let content = ContentStore::open(dir.path(), limits).unwrap();
        let references = References::new(content.clone(), rows.clone(), tasks.clone());
        let baselines = Baselines::new(references, clock, Settings::default());
        Self { dir, tasks, rows, content, baselines, hand }
    }

    fn set(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.baselines.settings();
        change(&mut settings);
        self.baselines.set_settings(settings);
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// One version of a file in its place at a peer.
    async fn keep(&self, peer: NodeUid, name: &str, bytes: &[u8], went: Went, prospect: Prospect) -> KeptNow {
        let path = self.file("source", bytes);
        let one = acknowledged(&path, name, bytes, went, prospect);
        self.baselines.keep(peer, vec![one]).await.unwrap()
    }

    async fn newest(&self, peer: NodeUid, name: &str) -> Vec<Digest> {
        let kept = self.baselines.newest(peer, &place(name)).await.unwrap();
        kept.iter().map(|kept| kept.digest).collect()
    }
}

fn place(name: &str) -> Place {
    Place { root: "data".to_owned(), path: name.as_bytes().to_vec() }
}

fn acknowledged(path: &Path, name: &str, bytes: &[u8], went: Went, prospect: Prospect) -> Acknowledged {
    let size = u64::try_from(bytes.len()).unwrap();
    let file = File::open(path).unwrap();
    Acknowledged { place: place(name), file, digest: Digest::blake3(bytes), size, went, prospect }
}

fn peer(number: u128) -> NodeUid {
    uuid::Uuid::from_u128(number).to_string().parse().unwrap()
}

fn limits() -> Limits {
    Limits { max_bytes: ByteCount::mib(64), reserve: ByteCount::new(0), open_objects: 8 }
}

#[tokio::test]
async fn the_newest_versions_of_a_place_are_kept_and_older_ones_go() {
    let host = Host::new(limits()).await;
    let versions: Vec<Vec<u8>> = (0..4_u8).map(|version| vec![version; 5000]).collect();
    for bytes in &versions {
        let now = host.keep(peer(1), "a", bytes, Went::Whole, REPLACED).await;
        assert_eq!(now, KeptNow { copied: 1, ..KeptNow::default() });
        host.hand.advance(Duration::from_secs(300));
    }
    let digest = |version: usize| Digest::blake3(&versions[version]);
    assert_eq!(host.newest(peer(1), "a").await, [digest(3), digest(2)]);
    assert_eq!(host.content.stats().unwrap().objects, 2);
    assert!(host.newest(peer(2), "a").await.is_empty() && host.newest(peer(1), "b").await.is_empty());
    let object = host.baselines.open(digest(3)).unwrap();
    let mut bytes = vec![0; 5000];
    object.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes, versions[3]);
    // Another peer's need keeps an object that the first one's place has no more.
    host.keep(peer(2), "b", &versions[2], Went::Whole, REPLACED).await;
    host.hand.advance(Duration::from_secs(300));
    host.keep(peer(1), "a", b"five", Went::Whole, REPLACED).await;
    assert_eq!(host.newest(peer(1), "a").await, [Digest::blake3(b"five"), digest(3)]);
    assert_eq!(host.newest(peer(2), "b").await, [digest(2)]);
    assert_eq!(host.baselines.references().count(digest(2)).await.unwrap(), 1);
    // Age takes all.
    host.hand.advance(Duration::from_secs(31 * 86_400));
    assert_eq!(host.baselines.clean().await.unwrap().objects, 3);
    assert_eq!((host.baselines.count().await.unwrap(), host.content.stats().unwrap().objects), (0, 0));
    host.tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_file_that_changed_since_the_peer_had_it_is_not_kept() {
    let host = Host::new(limits()).await;
    let path = host.file("source", b"newer");
    let one = acknowledged(&path, "a", b"older", Went::Whole, REPLACED);
    let now = host.baselines.keep(peer(1), vec![one]).await.unwrap();
    assert_eq!(now, KeptNow { changed: 1, ..KeptNow::default() });
    assert!(host.newest(peer(1), "a").await.is_empty());
    assert_eq!(host.content.stats().unwrap().objects, 0);
}

#[tokio::test]
async fn what_is_copied_and_how_often_follows_the_policy() {
    let host = Host::new(limits()).await;
    let first = host.keep(peer(1), "a", b"one", Went::Whole, Prospect::default()).await;
    assert_eq!(first.left, 1, "a first send, not of a sync");
    host.set(|settings| settings.policy = Policy { copying: Copying::Always, max_chain: 2, ..settings.policy });
    assert_eq!(host.keep(peer(1), "a", b"one", Went::Whole, Prospect::default()).await.copied, 1);
    assert_eq!(host.keep(peer(1), "a", b"two", DELTA, Prospect::default()).await.left, 1, "within the interval");
    // What the store has already costs nothing.
    assert_eq!(host.keep(peer(2), "b", b"one", Went::Whole, Prospect::default()).await.shared, 1);
    host.hand.advance(Duration::from_secs(300));
    assert_eq!(host.keep(peer(1), "a", b"two", DELTA, Prospect::default()).await.copied, 1);
    let may_refer = async || host.baselines.newest(peer(1), &place("a")).await.unwrap()[0].may_refer;
    assert!(may_refer().await);
    host.hand.advance(Duration::from_secs(300));
    host.keep(peer(1), "a", b"three", DELTA, Prospect::default()).await;
    assert!(!may_refer().await, "max_delta_chain");
    host.hand.advance(Duration::from_secs(300));
    host.keep(peer(1), "a", b"four", Went::Whole, Prospect::default()).await;
    assert!(may_refer().await);
}

#[tokio::test]
async fn older_versions_go_for_newer_ones_and_what_can_never_fit_takes_nothing_away() {
    let host = Host::new(Limits { max_bytes: ByteCount::mib(1), ..limits() }).await;
    let bytes = |seed: u8| vec![seed; 300_000];
    for seed in 1..=6_u8 {
        let now = host.keep(peer(1), &format!("file-{seed}"), &bytes(seed), Went::Whole, REPLACED).await;
        assert_eq!((now.copied, now.no_room), (1, 0), "{seed}");
        assert!(host.content.stats().unwrap().bytes <= 1 << 20);
        host.hand.advance(Duration::from_secs(1));
    }
    assert!(host.newest(peer(1), "file-1").await.is_empty());
    assert_eq!(host.newest(peer(1), "file-6").await.len(), 1);
    let before = host.content.stats().unwrap();
    let never = host.keep(peer(1), "large", &vec![9; 2 << 20], Went::Whole, REPLACED).await;
    assert_eq!(never.no_room, 1);
    assert_eq!(host.content.stats().unwrap(), before);
    // A bound that was lowered holds after the next cleaning.
    host.content.set_limits(Limits { max_bytes: ByteCount::kib(400), ..limits() });
    host.baselines.clean().await.unwrap();
    assert_eq!(host.content.stats().unwrap().objects, 1);
    assert_eq!(host.newest(peer(1), "file-6").await.len(), 1);
}

#[tokio::test]
async fn without_its_rows_nobody_needs_an_object_and_without_its_object_a_row_is_forgotten() {
    let host = Host::new(limits()).await;
    for seed in 0..5_u8 {
        host.keep(peer(1), &format!("file-{seed}"), &[seed; 5000], Went::Whole, REPLACED).await;
    }
    let gone = Digest::blake3(&[0; 5000]);
    let name = gone.to_string();
    fs::remove_file(host.dir.path().join("content/objects").join(&name[..2]).join(&name[2..])).unwrap();
    assert!(host.newest(peer(1), "file-0").await.is_empty(), "an object that was removed by others");
    assert!(matches!(host.baselines.open(gone), Err(ContentError::Absent(_))));
    assert_eq!(host.baselines.clean().await.unwrap().objects, 0);
    assert_eq!(host.baselines.count().await.unwrap(), 4);
    assert_eq!(host.content.stats().unwrap().objects, 4, "counted again");
    fs::remove_file(host.rows.path()).unwrap();
    assert_eq!(host.baselines.count().await.unwrap(), 0);
    assert_eq!(host.baselines.clean().await.unwrap().objects, 4);
    assert_eq!(host.keep(peer(1), "file-1", b"again", Went::Whole, REPLACED).await.copied, 1);
}

#[tokio::test]
async fn what_is_being_added_while_others_collect_stays() {
    let host = Host::new(limits()).await;
    let references = host.baselines.references();
    let mut batch = host.content.batch().unwrap();
    let digest = batch.add_reader(b"new".as_slice()).unwrap();
    let added = batch.commit().unwrap();
    assert_eq!(references.collect().await.unwrap().objects, 0, "nobody refers to it yet");
    references.refer("track", added).await.unwrap();
    assert_eq!(references.collect().await.unwrap().objects, 0);
    // Two names: the object goes with the last.
    let mut batch = host.content.batch().unwrap();
    batch.add_reader(b"new".as_slice()).unwrap();
    references.refer("other", batch.commit().unwrap()).await.unwrap();
    assert_eq!(references.count(digest).await.unwrap(), 2);
    assert_eq!(references.release("track").await.unwrap().objects, 0);
    assert_eq!(references.of("other").await.unwrap(), [digest]);
    assert_eq!(references.release("other").await.unwrap().objects, 1);
    // Dropped before anybody referred to it.
    let mut batch = host.content.batch().unwrap();
    batch.add_reader(b"nobody's".as_slice()).unwrap();
    drop(batch.commit().unwrap());
    assert_eq!(references.collect().await.unwrap().objects, 1);
}

#[tokio::test]
async fn a_published_file_is_known_without_reading_until_it_is_touched() {
    let host = Host::new(limits()).await;
    let path = host.file("published", b"version");
    let stat = |path: &Path| FileStat::from(&fs::metadata(path).unwrap());
    let digest = Digest::blake3(b"version");
    let noted = Published { path: b"a/\xff".to_vec(), stat: stat(&path), digest };
    host.baselines.published("data", vec![noted]).await.unwrap();
    let held = async |path_there: &[u8]| {
        let stat = stat(&path);
        host.baselines.held("data", path_there, stat).await.unwrap()
    };
    // The clock of this test is years ahead of the file system's.
    let found = held(b"a/\xff").await.unwrap();
    assert!(found.digest == digest && found.is_certain);
    assert_eq!(held(b"a/b").await, None);
    assert_eq!(host.baselines.held("other", b"a/\xff", stat(&path)).await.unwrap(), None);
    assert_eq!(host.baselines.by_digest("data", digest).await.unwrap(), [(b"a/\xff".to_vec(), stat(&path))]);
    assert!(host.baselines.by_digest("other", digest).await.unwrap().is_empty(), "only within one root");
    // Another file of the same size and time in its place.
    let mtime = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(host.dir.path().join("other"), b"VERSION").unwrap();
    File::options().write(true).open(host.dir.path().join("other")).unwrap().set_modified(mtime).unwrap();
    fs::rename(host.dir.path().join("other"), &path).unwrap();
    assert_eq!(held(b"a/\xff").await, None);
}

#[tokio::test]
async fn ten_thousand_versions_are_kept_and_found_in_batches() -> io::Result<()> {
    let host = Host::new(limits()).await;
    let path = host.file("source", b"same");
    let one = |number: usize| acknowledged(&path, &format!("f{number}"), b"same", Went::Whole, REPLACED);
    for from in (0..10_000).step_by(500) {
        let some = (from..from + 500).map(one).collect();
        host.baselines.keep(peer(1), some).await.unwrap();
    }
    let paths: Vec<Vec<u8>> = (0..10_001).map(|number| format!("f{number}").into_bytes()).collect();
    let found = host.baselines.newest_of(peer(1), "data", &paths).await.unwrap();
    assert!(found[..10_000].iter().all(|kept| kept.len() == 1) && found[10_000].is_empty());
    assert_eq!(host.content.stats().unwrap().objects, 1);
    Ok(())
}

const SYNC: Prospect = Prospect { is_standing: true, replaced: false };

/// A file of pages, of which some are other ones in each version.
fn pages(version: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..4_000_000_u32).map(|at| u8::try_from((at / 4096) % 251).unwrap()).collect();
    for page in 0..usize::from(version) {
        bytes[page * 50_000] = 255 - version;
    }
    bytes
}

#[tokio::test]
async fn a_standing_syncs_versions_follow_one_another_in_one_copy() {
    let host = Host::new(limits()).await;
    let first = host.keep(peer(1), "a", &pages(0), Went::Whole, SYNC).await;
    assert_eq!(first.copied, 1);
    let held = host.content.stats().unwrap().bytes;
    let inode = |bytes: &[u8]| {
        use std::os::unix::fs::MetadataExt as _;
        host.content.open_verified(Digest::blake3(bytes)).map(|object| object.file().metadata().unwrap().ino()).unwrap()
    };
    let file = inode(&pages(0));
    for version in 1..4 {
        host.hand.advance(Duration::from_secs(1));
        let now = host.keep(peer(1), "a", &pages(version), DELTA, SYNC).await;
        assert_eq!(now, KeptNow { followed: 1, ..KeptNow::default() }, "version {version}");
        assert_eq!(host.newest(peer(1), "a").await, [Digest::blake3(&pages(version))]);
        assert_eq!(inode(&pages(version)), file, "the same copy");
        assert_eq!(host.content.stats().unwrap().bytes, held);
    }
    assert_eq!(host.baselines.count().await.unwrap(), 1);
    // It grows and shrinks.
    host.hand.advance(Duration::from_secs(1));
    let longer = [pages(4), vec![9; 10_000]].concat();
    assert_eq!(host.keep(peer(1), "a", &longer, DELTA, SYNC).await.followed, 1);
    inode(&longer);
    host.hand.advance(Duration::from_secs(1));
    assert_eq!(host.keep(peer(1), "a", &longer[..3_000_001], DELTA, SYNC).await.followed, 1);
    inode(&longer[..3_000_001]);
    // What is read is left alone, and so is what another peer needs, and what is no sync's.
    let newest = Digest::blake3(&longer[..3_000_001]);
    host.hand.advance(Duration::from_secs(1));
    let reader = host.content.open_verified(newest).unwrap();
    assert_eq!(host.keep(peer(1), "a", &pages(5), DELTA, SYNC).await.left, 1);
    let mut bytes = vec![0; 3_000_001];
    dataplane_hde::ReadAt::read_at(&reader, 0, &mut bytes).unwrap();
    assert_eq!(Digest::blake3(&bytes), newest);
    drop(reader);
    assert_eq!(host.keep(peer(1), "a", &pages(5), DELTA, REPLACED).await.left, 1);
    host.keep(peer(2), "b", &longer[..3_000_001], Went::Whole, SYNC).await;
    assert_eq!(host.keep(peer(1), "a", &pages(5), DELTA, SYNC).await.left, 1);
    assert_eq!(host.newest(peer(2), "b").await, [newest]);
    host.tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_version_that_is_another_file_is_not_written_over_the_one_before() {
    let host = Host::new(limits()).await;
    host.keep(peer(1), "a", &pages(0), Went::Whole, SYNC).await;
    let other = vec![1; 4_000_000];
    assert_eq!(host.keep(peer(1), "a", &other, DELTA, SYNC).await, KeptNow { left: 1, ..KeptNow::default() });
    // The one before is of no use to anybody; its place is copied anew when that is due.
    assert!(host.newest(peer(1), "a").await.is_empty());
    assert_eq!(fs::read_dir(host.content.path().join("incoming")).unwrap().count(), 0);
    assert_eq!(host.content.stats().unwrap().bytes, 0);
    assert_eq!(host.keep(peer(1), "a", &other, DELTA, SYNC).await.left, 1);
    host.hand.advance(Duration::from_secs(300));
    assert_eq!(host.keep(peer(1), "a", &other, DELTA, SYNC).await.copied, 1);
    // A file that changed meanwhile is not what the peer has.
    let path = host.file("source", &pages(1));
    let one = acknowledged(&path, "a", &other, DELTA, SYNC);
    host.file("source", &pages(2));
    let now =
        host.baselines.keep(peer(1), vec![Acknowledged { digest: Digest::blake3(b"else"), ..one }]).await.unwrap();
    assert_eq!((now.followed, now.copied), (0, 0));
    host.tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn what_has_another_name_besides_is_not_written_to() {
    let host = Host::new(limits()).await;
    host.keep(peer(1), "a", &pages(0), Went::Whole, SYNC).await;
    let copy = host.dir.path().join("copy");
    let digest = Digest::blake3(&pages(0)).to_string();
    fs::hard_link(host.content.path().join("objects").join(&digest[..2]).join(&digest[2..]), &copy).unwrap();
    assert_eq!(host.keep(peer(1), "a", &pages(1), DELTA, SYNC).await.left, 1);
    assert_eq!(fs::read(&copy).unwrap(), pages(0));
    assert_eq!(host.newest(peer(1), "a").await, [Digest::blake3(&pages(0))]);
    host.tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn two_files_that_change_their_names_are_both_kept() {
    let host = Host::new(limits()).await;
    for (name, version) in [("a", 0), ("b", 1)] {
        host.keep(peer(1), name, &pages(version), Went::Whole, SYNC).await;
    }
    let both = [("a", "first", 2), ("b", "second", 0)].map(|(name, file, version)| {
        acknowledged(&host.file(file, &pages(version)), name, &pages(version), DELTA, SYNC)
    });
    host.hand.advance(Duration::from_secs(1));
    let now = host.baselines.keep(peer(1), both.into()).await.unwrap();
    assert_eq!(now.followed, 2, "{now:?}");
    for (name, version) in [("a", 2), ("b", 0)] {
        assert_eq!(host.newest(peer(1), name).await.first(), Some(&Digest::blake3(&pages(version))), "{name}");
    }
    host.tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}
