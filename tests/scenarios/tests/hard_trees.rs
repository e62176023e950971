//! Trees that are hard to move: what can be moved arrives as it is, what cannot is listed, and nothing else suffers.

use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::stat::{Mode, SFlag, makedev, mknod},
    unistd::{Uid, mkfifo},
};
use proto_rpc::v1::{CreateTransferRequest, TransferSpec};
use serde_json::Value;
use tests_harness::{Fleet, FleetOptions, Ran, as_seen_by, digest_tree, eventually, fill_random, private_mounts};

/// Root without the right to pass over permissions, so that they hold for it too.
const NO_OVERRIDE: [&str; 3] =
    ["setpriv", "--inh-caps=-dac_override,-dac_read_search", "--bounding-set=-dac_override,-dac_read_search"];

fn as_owner() -> Vec<String> {
    if Uid::effective().is_root() { NO_OVERRIDE.map(str::to_owned).to_vec() } else { Vec::new() }
}

/// What was left out, as the answer has it: paths and reasons, in order.
fn issues(answer: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = answer["issues"].as_array().into_iter().flatten();
    let mut issues: Vec<_> = list.map(|issue| (text(&issue["path"]), text(&issue["reason"]))).collect();
    issues.sort();
    issues
}

fn parsed(ran: &Ran) -> Result<Value> {
    serde_json::from_str(&ran.stdout).with_context(|| format!("{}{}", ran.stdout, ran.stderr))
}

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64()).unwrap_or_default()
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(path, Permissions::from_mode(mode))?)
}

/// Everything that can be moved, however odd.
fn write_odd_tree(at: &Path) -> Result<()> {
    fs::create_dir_all(at.join("empty folder"))?;
    let names: [&[u8]; 9] =
        [&[b'n'; 255], b"new\nline", b"\x1b[31mred\x07", b"\xff\xfe\x80", b"-rf", b"--", b" ", b"a*?[b", b"\\x41"];
    for name in names {
        fs::write(at.join(OsStr::from_bytes(name)), name)?;
        // As a folder too.
        let folder = [b"d".as_slice(), name.get(1..).unwrap_or_default()].concat();
        fs::create_dir_all(at.join("folders").join(OsStr::from_bytes(&folder)))?;
        fs::write(at.join("folders").join(OsStr::from_bytes(&folder)).join("in it"), "x")?;
    }
    fs::write(at.join("empty"), "")?;
    // `set/odd` and 197 more, then a file: 200 parts.
    let deep = at.join(vec!["d"; 197].join("/"));
    fs::create_dir_all(&deep)?;
    fs::write(deep.join("bottom"), "deep")?;
    for (name, target) in
        [("loop-a", "loop-b"), ("loop-b", "loop-a"), ("self", "self"), ("up", ".."), ("dangling", "not/here")]
    {
        symlink(target, at.join(name))?;
    }
    symlink("/etc/passwd", at.join("outside"))?;
    symlink("empty folder", at.join("to-a-folder"))?;
    Ok(())
}

/// Everything that cannot: what the list must say of it.
fn write_bad_tree(at: &Path) -> Result<Vec<(String, String)>> {
    fs::create_dir_all(at.join("locked"))?;
    fs::write(at.join("locked/inner"), "never seen")?;
    fs::write(at.join("secret"), "never read")?;
    fs::write(at.join("fine"), "fine")?;
    mkfifo(&at.join("fifo"), Mode::S_IRUSR)?;
    drop(UnixListener::bind(at.join("socket"))?);
    fs::create_dir_all(at.join("mounted"))?;
    let too_deep = vec!["e"; 198].join("/");
    fs::create_dir_all(at.join(&too_deep))?;
    fs::write(at.join(&too_deep).join("below"), "too deep")?;
    let mut expected = vec![
        ("fifo", "SPECIAL_FILE"),
        ("locked", "UNREADABLE"),
        ("mounted", "OTHER_FILE_SYSTEM"),
        ("secret", "UNREADABLE"),
        ("socket", "SPECIAL_FILE"),
    ];
    if Uid::effective().is_root() {
        let device = mknod(&at.join("device"), SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3));
        // In a container without the right to make one there is none.
        if device.is_ok() {
            expected.push(("device", "SPECIAL_FILE"));
        }
    }
    mode(&at.join("locked"), 0)?;
    mode(&at.join("secret"), 0)?;
    let mut expected: Vec<_> =
        expected.into_iter().map(|(path, reason)| (format!("set/bad/{path}"), reason.to_owned())).collect();
    expected.push((format!("set/bad/{too_deep}/below"), "PATH_TOO_LONG".to_owned()));
    expected.sort();
    Ok(expected)
}

#[test]
fn odd_names_links_and_depths_arrive_and_what_cannot_be_sent_is_listed() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let (a, b) = (fleet.agents[0].root("data").join("set"), fleet.agents[1].root("data").join("in/set"));
    write_odd_tree(&a.join("odd"))?;
    let expected = write_bad_tree(&a.join("bad"))?;
    fleet.agents[0].stop()?;
    let mount = format!("mount -t tmpfs dwcp-trees '{}'\n", a.join("bad/mounted").display());
    fleet.agents[0].options_mut().runner = [private_mounts(&mount), as_owner()].concat();
    fleet.agents[0].restart()?;
    fleet.all_ready()?;
    let cli = fleet.cli()?;
    let ran = cli.run(&["-o", "json", "send", "--from", "site-a", "data:/set", "site-b:data:/in"])?;
    assert_eq!(ran.code, 4, "{}{}", ran.stdout, ran.stderr);
    let answer = parsed(&ran)?;
    assert_eq!(answer["state"], "SUCCEEDED_IN_PART", "{answer:#}");
    assert_eq!(issues(&answer), expected);
    assert_eq!(digest_tree(&a.join("odd"))?, digest_tree(&b.join("odd"))?);
    assert_eq!(fs::read(b.join("bad/fine"))?, b"fine");
    for missing in ["locked", "secret", "fifo", "socket", "device", "mounted"] {
        assert!(b.join("bad").join(missing).symlink_metadata().is_err(), "{missing}");
    }

    // People get the list too, with nothing in it that a terminal would obey.
    let shown = cli.run(&["send", "--from", "site-a", "data:/set", "site-b:data:/in"])?;
    assert_eq!(shown.code, 4, "{}{}", shown.stdout, shown.stderr);
    let text = format!("{}{}", shown.stdout, shown.stderr);
    assert!(text.contains("set/bad/fifo  SPECIAL_FILE") && !text.contains('\x1b'), "{text}");
    mode(&a.join("bad/locked"), 0o700)
}

#[test]
fn what_cannot_be_written_is_listed_and_left_as_it_is() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let (a, b) = (fleet.agents[0].root("data").join("set"), fleet.agents[1].root("data"));
    for path in ["folder-there", "kept/file", "fine", "large", "locked/x", "locked/y/z"] {
        fs::create_dir_all(a.join(path).parent().context("a parent")?)?;
        fs::write(a.join(path), path)?;
    }
    fs::create_dir_all(a.join("file-there"))?;
    fs::write(a.join("file-there/inner"), "inner")?;
    fill_random(&a.join("large"), 3_000_000, 1)?;
    // A folder where a file should be, the other way, and a folder that is not the agent's to write.
    let set = b.join("in/set");
    fs::create_dir_all(set.join("folder-there/precious"))?;
    fs::write(set.join("file-there"), "precious")?;
    fs::create_dir_all(set.join("large"))?;
    fs::create_dir_all(b.join("closed"))?;
    mode(&b.join("closed"), 0o555)?;
    fs::create_dir_all(b.join("frozen"))?;
    fleet.agents[1].stop()?;
    let frozen = b.join("frozen").display().to_string();
    let mounts = format!("mount -t tmpfs dwcp-trees '{frozen}'; mount -o remount,ro '{frozen}'\n");
    fleet.agents[1].options_mut().runner = [private_mounts(&mounts), as_owner()].concat();
    let frozen_root = ("frozen".to_owned(), b.join("frozen"));
    fleet.agents[1].options_mut().roots.push(frozen_root);
    fleet.agents[1].options_mut().arguments = vec!["--root".to_owned(), format!("shut={}:ro", b.display())];
    fleet.agents[1].restart()?;
    // A root that should be writable and is not is said at once; one that is for reading only is no trouble.
    // Another part may need a moment after a start, and say so before.
    let reason = eventually("what is wrong with the root to be said", Duration::from_secs(60), || {
        Ok(Some(fleet.degraded(1)?).filter(|reason| reason.contains("root frozen")))
    })?;
    assert!(reason.contains(&frozen) && !reason.contains("root shut"), "{reason}");
    let cli = fleet.cli()?;
    let send = |to: &str| cli.run(&["-o", "json", "send", "--from", "site-a", "data:/set", to]);

    let ran = send("site-b:data:/in")?;
    assert_eq!(ran.code, 4, "{}{}", ran.stdout, ran.stderr);
    let expected = [
        ("set/file-there", "TYPE_CONFLICT"),
        ("set/file-there/inner", "UNWRITABLE"),
        ("set/folder-there", "TYPE_CONFLICT"),
        ("set/large", "TYPE_CONFLICT"),
    ];
    assert_eq!(issues(&parsed(&ran)?), expected.map(|(path, reason)| (path.to_owned(), reason.to_owned())));
    assert_eq!(fs::read(set.join("file-there"))?, b"precious");
    assert!(set.join("folder-there/precious").is_dir());
    assert_eq!(fs::read(set.join("kept/file"))?, b"kept/file");

    // A destination that may not be written: nothing of it can be made, and the message has the path.
    let closed = send("site-b:data:/closed")?;
    assert_ne!(closed.code, 0);
    assert!(closed.stdout.contains("Permission denied"), "{}", closed.stdout);
    assert!(fs::read_dir(b.join("closed"))?.next().is_none());
    let frozen = parsed(&send("site-b:frozen:/new")?)?;
    assert_eq!(frozen["error"]["reason"], "DESTINATION_UNAVAILABLE", "{frozen:#}");
    assert!(frozen["error"]["message"].as_str().unwrap_or_default().contains("frozen:/new"), "{frozen:#}");
    let shut = send("site-b:shut:/in")?;
    assert!(shut.code == 2 && shut.stderr.contains("for reading only"), "{}{}", shut.stdout, shut.stderr);
    let hidden = digest_tree(&b)?.into_keys().filter(|path| path.ends_with(b".part")).count();
    assert_eq!(hidden, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_at_once_into_one_place_leave_whole_files_of_one_or_the_other() -> Result<()> {
    const FILES: u64 = 400;
    let fleet = Fleet::start(&FleetOptions::default())?;
    let (a, b) = (fleet.agents[0].root("data"), fleet.agents[1].root("data").join("in"));
    for (version, other) in [(1_u64, "left"), (2, "right")] {
        fs::create_dir_all(a.join(other).join("sub"))?;
        for n in 0..FILES {
            fill_random(&a.join(other).join(format!("sub/{n}")), n * 11 + version, version * 1000 + n)?;
        }
        fill_random(&a.join(other).join("large"), 6_000_000 + version, version)?;
        fs::write(a.join(other).join(format!("only-{other}")), other)?;
    }
    let cli = fleet.cli()?;
    let begin = |source: &str| -> Result<String> {
        let created = cli.json(&["send", "--from", "site-a", source, "site-b:data:/in", "--detach"])?;
        Ok(created["name"].as_str().context("a name")?.to_owned())
    };
    let end = |name: &str| -> Result<Value> {
        let ended = cli.json(&["transfer", "watch", name, "--timeout", "120s"])?;
        ensure!(ended["state"] == "SUCCEEDED", "{ended:#}");
        Ok(ended)
    };
    // Two different trees, and one of them twice.
    let names = [begin("data:/left/")?, begin("data:/right/")?, begin("data:/left/")?];
    for name in &names {
        end(name)?;
    }
    let (left, right, arrived) = (digest_tree(&a.join("left"))?, digest_tree(&a.join("right"))?, digest_tree(&b)?);
    for (path, shown) in &arrived {
        let whole = left.get(path) == Some(shown) || right.get(path) == Some(shown) || shown.starts_with("folder");
        assert!(whole, "{} is neither: {shown}", path.escape_ascii());
    }
    assert!(left.keys().chain(right.keys()).all(|path| arrived.contains_key(path)), "none is lost");
    assert!(arrived.contains_key(b"only-left".as_slice()) && arrived.contains_key(b"only-right".as_slice()));

    // Asked for twice under one id: it is one transfer.
    let spec = TransferSpec {
        source_node: "nodes/site-a".to_owned(),
        source_paths: vec!["data:/left".to_owned()],
        destination_node: "nodes/site-b".to_owned(),
        destination_path: "data:/once".to_owned(),
        ..TransferSpec::default()
    };
    let request = CreateTransferRequest {
        spec: Some(spec),
        request_id: uuid::Uuid::now_v7().to_string(),
        ..CreateTransferRequest::default()
    };
    let (mut one, mut two) = (fleet.control_plane.api()?.transfers(), fleet.control_plane.api()?.transfers());
    let (one, two) = tokio::join!(one.create_transfer(request.clone()), two.create_transfer(request));
    let (one, two) = (one?.into_inner(), two?.into_inner());
    assert_eq!(one.name, two.name);
    end(&one.name)?;
    assert_eq!(digest_tree(&a.join("left"))?, digest_tree(&fleet.agents[1].root("data").join("once/left"))?);
    Ok(())
}

#[test]
fn ten_sparse_gigabytes_travel_as_their_data_and_need_only_its_room() -> Result<()> {
    const BYTES: u64 = 10 << 30;
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let (a, b) = (fleet.agents[0].root("data").join("disk"), fleet.agents[1].root("data"));
    let sparse = File::create(&a)?;
    sparse.set_len(BYTES)?;
    for (at, seed) in [(0, 1), (5 << 30, 2), (BYTES - (1 << 20), 3)] {
        write_noise(&sparse, at, seed)?;
    }
    // 32 MiB in all, of which 8 stay free.
    fleet.agents[1].stop()?;
    let mount = format!("mount -t tmpfs -o size=32m dwcp-trees '{}'\n", b.display());
    fleet.agents[1].options_mut().runner = private_mounts(&mount);
    let config = fleet.scratch.path().join("site-b.yaml");
    fs::write(&config, "storage:\n  reserve: 8MiB\n")?;
    fleet.agents[1].options_mut().arguments = vec!["--config".to_owned(), config.display().to_string()];
    fleet.agents[1].restart()?;
    fleet.all_ready()?;
    let cli = fleet.cli()?;
    let send = || cli.json(&["send", "--from", "site-a", "data:/disk", "site-b:data:/", "--timeout", "120s"]);
    let sent = send()?;
    assert_eq!(sent["state"], "SUCCEEDED", "{sent:#}");
    assert!(number(&sent["progress"]["bytesSent"]) < 6 << 20, "{sent:#}");
    let there = as_seen_by(fleet.agents[1].process().pid(), &b.join("disk"));
    let stat = fs::metadata(&there)?;
    assert_eq!((stat.len(), stat.blocks() * 512), (BYTES, 3 << 20));
    same_data(&a, &there)?;

    // Over an older version: some data more, some of it gone.
    write_noise(&sparse, 7 << 30, 4)?;
    let hole = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
    nix::fcntl::fallocate(&sparse, hole, 5 << 30, 1 << 20)?;
    let again = send()?;
    assert_eq!(again["state"], "SUCCEEDED", "{again:#}");
    assert!(number(&again["progress"]["bytesSent"]) < 3 << 20, "{again:#}");
    assert_eq!(fs::metadata(&there)?.blocks() * 512, 3 << 20);
    same_data(&a, &there)
}

fn write_noise(file: &File, at: u64, seed: u64) -> Result<()> {
    let mut state = seed;
    let mut noise = Vec::with_capacity(1 << 20);
    while noise.len() < 1 << 20 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    Ok(file.write_all_at(&noise, at)?)
}

/// Compares what two sparse files hold, by their first bytes of each megabyte that either has data in.
fn same_data(left: &Path, right: &Path) -> Result<()> {
    let (one, two) = (File::open(left)?, File::open(right)?);
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for at in [0, 5 << 30, 7 << 30, (10 << 30) - (1 << 20), 3 << 30] {
        one.read_exact_at(&mut ours, at)?;
        two.read_exact_at(&mut theirs, at)?;
        ensure!(ours == theirs, "they differ at {at}");
    }
    let data = |file: &File| -> Result<Vec<i64>> {
        let (mut found, mut at) = (Vec::new(), 0);
        while let Ok(start) = nix::unistd::lseek(file, at, nix::unistd::Whence::SeekData) {
            at = nix::unistd::lseek(file, start, nix::unistd::Whence::SeekHole)?;
            found.extend([start, at]);
        }
        Ok(found)
    };
    ensure!(data(&one)? == data(&two)?, "their data lie elsewhere");
    Ok(())
}
