//! Kills in the middle of adding and collecting, a full disk, many small objects: in processes of their own, which are this
//! program again with a role.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use dataplane_content::{
    Acknowledged, Baselines, ContentStore, Limits, Place, References, Settings, Verdict,
    policy::{Copying, Policy, Prospect, Went},
};
use dataplane_local_store::LocalStore;
use foundation_runtime::{Clock, TaskGroup};
use proto_model::{ByteCount, Digest, NodeUid};

const ROLE: &str = "DWCP_TEST_CONTENT_DIR";
const ANY: Limits = Limits { max_bytes: ByteCount::gib(4), reserve: ByteCount::new(0), open_objects: 64 };

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// This program again, doing what the test of that name does in a folder.
fn role(name: &str, dir: &Path, before: &[&str]) -> Command {
    let own = std::env::current_exe().unwrap();
    let mut words = before.to_vec();
    let own = own.to_str().unwrap();
    words.extend([own, "--exact", name, "--nocapture", "--test-threads=1"]);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env(ROLE, dir).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// The folder of a role, in the process that has it.
fn folder() -> Option<PathBuf> {
    std::env::var_os(ROLE).map(PathBuf::from)
}

/// What a role says after so many lines; then it is killed.
fn said_until_killed(mut child: Child, lines: usize, then: Duration) -> Vec<String> {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut said = Vec::new();
    while said.iter().filter(|line: &&String| line.contains("held ")).count() < lines {
        let mut line = String::new();
        assert!(out.read_line(&mut line).unwrap() > 0, "it ended by itself: {said:?}");
        said.push(line);
    }
    // So that the kill comes at any point of the next.
    std::thread::sleep(then);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    said.extend(rest.lines().map(str::to_owned));
    said
}

/// Digests that it said were held; the last line may be cut.
fn held(said: &[String]) -> Vec<Digest> {
    let digest = |line: &String| line.split_once("held ")?.1.trim().split(' ').next()?.parse().ok();
    said.iter().filter_map(digest).collect()
}

fn say(digest: Digest) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "held {digest} ").and_then(|()| out.flush()).unwrap();
}

/// `DWCP_SEED`, or else always the same: campaigns look for more.
fn seed() -> u64 {
    let given = std::env::var("DWCP_SEED").ok();
    let seed = given.map_or(20_261_122, |seed| seed.parse().expect("DWCP_SEED is a number"));
    eprintln!("DWCP_SEED={seed}");
    seed
}

#[test]
fn role_adds() {
    let Some(dir) = folder() else { return };
    let store = ContentStore::open(&dir, ANY).unwrap();
    let start: u64 = fs::read_to_string(dir.join("start")).unwrap().parse().unwrap();
    for number in start.. {
        let mut batch = store.batch().unwrap();
        let count = [1, 3, 40][usize::try_from(number % 3).unwrap()];
        for object in 0..count {
            let bytes = noise(
                number * 1000 + object,
                usize::try_from(1 + (number * 7919 + object * 104_729) % 90_000).unwrap(),
            );
            batch.add_reader(bytes.as_slice()).unwrap();
        }
        for added in &batch.commit().unwrap() {
            say(added.digest);
        }
    }
}

#[test]
fn killed_while_adding_what_was_acknowledged_is_there_and_nothing_half() {
    let seed = seed();
    let dir = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for round in 0..8_u64 {
        fs::write(dir.path().join("start"), (seed % 1000 * 100_000 + round * 1000).to_string()).unwrap();
        let child = role("role_adds", dir.path(), &[]).spawn().unwrap();
        let (lines, pause) = (1 + usize::try_from((seed + round * 31) % 100).unwrap(), (seed * 7 + round * 13) % 40);
        all.extend(held(&said_until_killed(child, lines, Duration::from_millis(pause))));
        let store = ContentStore::open(dir.path(), ANY).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("content/incoming")).unwrap().count(), 0);
        for digest in &all {
            assert_eq!(store.verify(*digest).unwrap(), Verdict::Whole, "{digest}, round {round}");
        }
        let verified = store.verify_all().unwrap();
        assert!(verified.damaged.is_empty(), "{verified:?}");
        assert_eq!(store.stats().unwrap().objects, verified.whole);
    }
    assert!(all.len() > 8, "{}", all.len());
}

async fn baselines(dir: &Path, limits: Limits) -> (Baselines, ContentStore, TaskGroup) {
    let tasks = TaskGroup::new("test");
    let rows = LocalStore::open(dir, Clock::system(), &tasks).await.unwrap();
    let content = ContentStore::open(dir, limits).unwrap();
    let references = References::new(content.clone(), rows, tasks.clone());
    let policy = Policy { copying: Copying::Always, interval: Duration::ZERO, ..Policy::default() };
    let settings = Settings { policy, ..Settings::default() };
    (Baselines::new(references, Clock::system(), settings), content, tasks)
}

fn peer() -> NodeUid {
    uuid::Uuid::from_u128(7).to_string().parse().unwrap()
}

fn place(number: u64) -> Place {
    Place { root: "data".to_owned(), path: format!("file-{number}").into_bytes() }
}

/// Keeps versions of four files for ever, in a store that has room for some dozens.
#[tokio::test]
async fn role_keeps() {
    let Some(dir) = folder() else { return };
    let (baselines, _content, _tasks) = baselines(&dir, Limits { max_bytes: ByteCount::mib(1), ..ANY }).await;
    let start: u64 = fs::read_to_string(dir.join("start")).unwrap().parse().unwrap();
    for number in start.. {
        let bytes = noise(number, 30_000);
        let path = dir.join("source");
        fs::write(&path, &bytes).unwrap();
        let digest = Digest::blake3(&bytes);
        let one = Acknowledged {
            place: place(number % 4),
            file: File::open(&path).unwrap(),
            digest,
            size: 30_000,
            went: Went::Whole,
            prospect: Prospect::default(),
        };
        let now = baselines.keep(peer(), vec![one]).await.unwrap();
        assert_eq!(now.copied, 1, "{now:?}");
        say(digest);
        if number % 5 == 0 {
            baselines.clean().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_keeping_and_collecting_every_version_that_is_known_is_there() {
    let seed = seed();
    let dir = tempfile::tempdir().unwrap();
    for round in 0..8_u64 {
        fs::write(dir.path().join("start"), (seed % 1000 * 100_000 + round * 1000).to_string()).unwrap();
        let child = role("role_keeps", dir.path(), &[]).spawn().unwrap();
        let (lines, pause) = (3 + usize::try_from((seed + round * 17) % 20).unwrap(), (seed * 5 + round * 11) % 60);
        let said = tokio::task::spawn_blocking(move || said_until_killed(child, lines, Duration::from_millis(pause)));
        let acknowledged = held(&said.await.unwrap());
        let (baselines, content, tasks) = baselines(dir.path(), ANY).await;
        let mut known = Vec::new();
        for number in 0..4 {
            for kept in baselines.newest(peer(), &place(number)).await.unwrap() {
                assert_eq!(content.verify(kept.digest).unwrap(), Verdict::Whole, "round {round}");
                known.push(kept.digest);
            }
        }
        let last = acknowledged.last().unwrap();
        assert!(known.contains(last), "the last that was acknowledged is not known, round {round}");
        baselines.clean().await.unwrap();
        assert_eq!(baselines.count().await.unwrap(), u64::try_from(known.len()).unwrap(), "round {round}");
        let (objects, whole) = (content.stats().unwrap().objects, content.verify_all().unwrap().whole);
        assert_eq!((objects, whole), (u64::try_from(known.len()).unwrap(), objects), "round {round}");
        tasks.shutdown(Duration::from_secs(10)).await.unwrap();
    }
}

#[tokio::test]
async fn role_fills() {
    let Some(dir) = folder() else { return };
    let (baselines, content, _tasks) = baselines(&dir, Limits { reserve: ByteCount::mib(1), ..ANY }).await;
    let keep = async |number: u64, bytes: usize| {
        let (bytes, path) = (noise(number, bytes), dir.parent().unwrap().join("source"));
        fs::write(&path, &bytes).unwrap();
        let one = Acknowledged {
            place: place(number),
            file: File::open(&path).unwrap(),
            digest: Digest::blake3(&bytes),
            size: u64::try_from(bytes.len()).unwrap(),
            went: Went::Whole,
            prospect: Prospect::default(),
        };
        baselines.keep(peer(), vec![one]).await
    };
    // Older versions go for newer ones.
    for number in 0..40 {
        let now = keep(number, 1 << 20).await.unwrap();
        assert_eq!((now.copied, now.no_room), (1, 0), "{number}");
    }
    let before = content.verify_all().unwrap();
    assert!(before.damaged.is_empty() && before.whole >= 4, "{before:?}");
    // With what others fill the disk, nothing is kept, and nothing breaks.
    let stuffing = dir.join("stuffing");
    let mut file = File::create(&stuffing).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    content.set_limits(ANY);
    if let Ok(now) = keep(1000, 8 << 20).await {
        assert_eq!((now.copied, now.no_room), (0, 1));
    }
    let mut batch = content.batch().unwrap();
    assert!(batch.add_reader(noise(1001, 12 << 20).as_slice()).unwrap_err().missing_room().is_some());
    drop(batch);
    assert_eq!(fs::read_dir(dir.join("content/incoming")).unwrap().count(), 0);
    assert_eq!(content.verify_all().unwrap().damaged, []);
    fs::remove_file(&stuffing).unwrap();
    assert_eq!(keep(2000, 1 << 20).await.unwrap().copied, 1);
    say(Digest::blake3(b"done"));
}

#[test]
fn on_a_full_disk_older_versions_go_and_nothing_breaks() {
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let script = format!("mount -t tmpfs -o size=12m dwcp-content '{}'; exec \"$@\"", small.display());
    let mut before = vec!["unshare", "--mount"];
    if !rustix::process::geteuid().is_root() {
        before.push("--map-root-user");
    }
    before.extend(["sh", "-euc", &script, "sh"]);
    let output = role("role_fills", &small, &before).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("held "), "{said}");
}

/// Peak of the resident memory, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn role_many() {
    let Some(dir) = folder() else { return };
    let before = peak_kib();
    let store = ContentStore::open(&dir, ANY).unwrap();
    for from in (0..100_000_u64).step_by(4000) {
        let mut batch = store.batch().unwrap();
        for number in from..from + 4000 {
            batch.add_reader(number.to_le_bytes().as_slice()).unwrap();
        }
        assert_eq!(batch.commit().unwrap().len(), 4000);
    }
    // Counted anew, by one who goes through the folders.
    let stats = ContentStore::open(&dir, ANY).unwrap().stats().unwrap();
    assert_eq!(stats.objects, 100_000);
    println!("held {} grew by {} KiB", Digest::blake3(b"done"), peak_kib() - before);
}

#[test]
fn a_hundred_thousand_small_objects_take_little_memory() {
    // In memory, where there is such a place: to sync all of a disk that others write to takes its time.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_none| tempfile::tempdir()).unwrap();
    let output = role("role_many", dir.path(), &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let grew: u64 = said.split_once("grew by ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    println!("{grew} KiB");
    assert!(grew < 24 << 10, "{grew} KiB for 100,000 objects");
}

/// Bytes that are free on the file system of a folder.
fn free(dir: &Path) -> u64 {
    rustix::fs::syncfs(File::open(dir).unwrap()).unwrap();
    let stat = rustix::fs::statvfs(dir).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[tokio::test]
async fn role_shares() {
    let Some(dir) = folder() else { return };
    let (baselines, content, _tasks) = baselines(&dir, ANY).await;
    // Nothing is copied.
    let policy = Policy { copying: Copying::Never, ..Policy::default() };
    baselines.set_settings(Settings { policy, ..Settings::default() });
    let (bytes, path) = (noise(1, 32 << 20), dir.join("source"));
    fs::write(&path, &bytes).unwrap();
    let acknowledged = |digest| Acknowledged {
        place: place(1),
        file: File::open(&path).unwrap(),
        digest,
        size: 32 << 20,
        went: Went::Whole,
        prospect: Prospect::default(),
    };
    let before = free(&dir);
    let other = baselines.keep(peer(), vec![acknowledged(Digest::blake3(b"other"))]).await.unwrap();
    assert_eq!(other.changed, 1, "{other:?}");
    let now = baselines.keep(peer(), vec![acknowledged(Digest::blake3(&bytes))]).await.unwrap();
    assert_eq!(now.shared, 1, "{now:?}");
    let took = before.saturating_sub(free(&dir));
    assert!(took < 8 << 20, "{took} bytes for what is shared");
    // The source changes, the version does not.
    std::os::unix::fs::FileExt::write_all_at(&File::options().write(true).open(&path).unwrap(), b"changed", 0).unwrap();
    assert_eq!(content.verify(Digest::blake3(&bytes)).unwrap(), Verdict::Whole);
    say(Digest::blake3(b"done"));
}

/// Where the machine can make and mount a file system that shares blocks (root and `mkfs.btrfs`); ext4 and tmpfs cannot.
#[test]
fn a_version_shares_the_blocks_of_its_source_where_the_file_system_can() {
    let made = |image: &Path| Command::new("mkfs.btrfs").arg("-q").arg(image).status().is_ok_and(|made| made.success());
    let dir = tempfile::tempdir().unwrap();
    let (image, mounted) = (dir.path().join("image"), dir.path().join("mounted"));
    File::create(&image).unwrap().set_len(512 << 20).unwrap();
    fs::create_dir(&mounted).unwrap();
    let mount = format!("mount -t btrfs -o loop '{}' '{}'", image.display(), mounted.display());
    let can_mount = |mount: &str| {
        let tried = Command::new("unshare").args(["--mount", "sh", "-euc", mount]).stderr(Stdio::null()).status();
        tried.is_ok_and(|tried| tried.success())
    };
    if !rustix::process::geteuid().is_root() || !made(&image) || !can_mount(&mount) {
        println!("not tried: it needs root, mkfs.btrfs and a kernel that mounts btrfs");
        return;
    }
    let script = format!("{mount}; exec \"$@\"");
    let before = ["unshare", "--mount", "sh", "-euc", &script, "sh"];
    let output = role("role_shares", &mounted, &before).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("held "), "{said}");
}
