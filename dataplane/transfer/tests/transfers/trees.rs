//! What arrives is what was sent, and what is there already is not sent.

use std::{
    fs::{self, File, FileTimes, Permissions},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
    time::{Duration, SystemTime},
};

use proto_model::{PlannedAction, TransferOptions, TransferState};

use crate::bed::{Bed, noise, tree};

fn put(path: &Path, contents: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
    age(path, 1_600_000_000);
}

fn age(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
    let times = FileTimes::new().set_modified(time).set_accessed(time);
    File::options().read(true).open(path).unwrap().set_times(times).unwrap();
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A tree with every kind of entry.
fn make(at: &Path) {
    put(&at.join("small"), b"small\n");
    put(&at.join("empty"), b"");
    put(&at.join("large.bin"), &noise(1, 3_500_001));
    put(&at.join("text/long.txt"), "a line of text that repeats itself\n".repeat(40_000).as_bytes());
    put(&at.join("text-beside"), b"sorted between");
    put(&at.join("deep/er/and/deeper/x"), b"x");
    put(&at.join(std::ffi::OsStr::from_bytes(b"n\xffot\nutf8")), b"bytes");
    for n in 0..700 {
        put(&at.join(format!("many/{n}")), &noise(n, usize::try_from(n).unwrap() * 3));
    }
    fs::create_dir_all(at.join("void")).unwrap();
    symlink("large.bin", at.join("link")).unwrap();
    symlink("../../nowhere/\u{fc}", at.join("deep/dangling")).unwrap();
    let sparse = File::create(at.join("sparse")).unwrap();
    sparse.set_len(16 << 20).unwrap();
    sparse.write_all_at(&noise(9, 100_000), 5 << 20).unwrap();
    drop(sparse);
    mode(&at.join("small"), 0o640);
    mode(&at.join("deep/er/and/deeper/x"), 0o400);
    mode(&at.join("void"), 0o555);
    for folder in ["deep/er", "void", "text", "deep", "many"] {
        age(&at.join(folder), 1_500_000_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_every_kind_arrives_as_it_is() {
    let bed = Bed::new();
    let from = bed.a.root.join("set");
    make(&from);
    age(&from, 1_500_000_000);
    let (report, wires) = bed.send(&["data:/set"], "data:/in", TransferOptions::default()).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    let (sent, arrived) = (tree(&bed.a.root), tree(&bed.b.root.join("in")));
    assert_eq!(arrived, sent);
    assert_eq!(
        fs::metadata(bed.b.root.join("in/set/sparse")).unwrap().blocks() * 512 / 1024 / 1024,
        0,
        "holes are kept"
    );
    assert!(report.tree_digest.is_some());
    assert_eq!(report.progress.bytes_done, report.progress.bytes_total);
    assert_eq!(report.progress.files_done, report.progress.files_total);
    // The text shrinks, the zeros do not travel.
    assert!(wires.bytes()[0] < 5_500_000, "{:?}", wires.bytes());
    assert!(bed.a.leftovers().is_empty() && bed.b.leftovers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_send_moves_nearly_nothing_and_a_changed_block_about_a_block() {
    let bed = Bed::new();
    make(&bed.a.root);
    let options = TransferOptions::default;
    let (first, _) = bed.send(&["data:/"], "data:/", options()).await;
    assert_eq!(first.state, TransferState::Succeeded, "{first:?}");
    let (second, wires) = bed.send(&["data:/"], "data:/", options()).await;
    assert_eq!((second.state, wires.bytes()), (TransferState::Succeeded, vec![0]));
    assert_eq!(second.progress.bytes_reused, second.progress.bytes_total);

    let large = File::options().write(true).open(bed.a.root.join("large.bin")).unwrap();
    large.write_all_at(b"changed", 1_000_000).unwrap();
    drop(large);
    let (third, wires) = bed.send(&["data:/"], "data:/", options()).await;
    assert_eq!(third.state, TransferState::Succeeded, "{third:?}");
    // The chunk that changed, and 2 KiB around it.
    assert!((200..6_000).contains(&wires.bytes()[0]), "{:?}", wires.bytes());
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));

    // Contents that differ behind an equal size and time are found only when asked for.
    let modified = fs::metadata(bed.a.root.join("large.bin")).unwrap().modified().unwrap();
    let large = File::options().write(true).open(bed.b.root.join("large.bin")).unwrap();
    large.write_all_at(b"spoiled", 2_000_000).unwrap();
    large.set_times(FileTimes::new().set_modified(modified)).unwrap();
    drop(large);
    let (blind, _) = bed.send(&["data:/"], "data:/", options()).await;
    assert_eq!(blind.state, TransferState::Succeeded);
    assert_ne!(tree(&bed.a.root), tree(&bed.b.root));
    let (seen, wires) = bed.send(&["data:/"], "data:/", TransferOptions { checksum: true, ..options() }).await;
    assert_eq!(seen.state, TransferState::Succeeded, "{seen:?}");
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
    assert!(wires.bytes()[0] < 2_000_000, "{:?}", wires.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_slashes_say_where_things_land() {
    let bed = Bed::new();
    put(&bed.a.root.join("dir/file"), b"1");
    put(&bed.a.root.join("lone"), b"2");
    let send = async |sources: &[&str], destination| {
        let (report, _) = bed.send(sources, destination, TransferOptions::default()).await;
        assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    };
    send(&["data:/dir", "data:/lone"], "data:/own").await;
    send(&["data:/dir"], "data:/own-too/").await;
    send(&["data:/dir"], "data:/").await;
    send(&["data:/dir/"], "data:/contents").await;
    send(&["data:/dir/"], "data:/contents-too/").await;
    send(&["data:/"], "data:/all").await;
    send(&["data:/dir/file"], "data:/one").await;
    let there = |path: &str| bed.b.root.join(path).is_file();
    assert!(there("own/dir/file") && there("own/lone") && there("own-too/dir/file") && there("dir/file"));
    assert!(there("contents/file") && there("contents-too/file") && there("all/dir/file") && there("one/file"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_sources_with_an_entry_of_one_name_the_first_is_sent() {
    let bed = Bed::new();
    for (path, bytes) in [("one/a", b"one"), ("one/c/x", b"one"), ("two/a/y", b"two"), ("two/b", b"two")] {
        put(&bed.a.root.join(path), bytes);
    }
    for path in ["two/c", "three/c"] {
        put(&bed.a.root.join(path), b"not");
    }
    let sources = ["data:/one/", "data:/two/", "data:/three/c"];
    let (report, _) = bed.send(&sources, "data:/in", TransferOptions::default()).await;
    assert_eq!(report.state, TransferState::SucceededInPart, "{report:?}");
    let issues: Vec<_> = report.issues.iter().map(|issue| (issue.path.as_slice(), issue.reason.as_str())).collect();
    let expected = [(b"a".as_slice(), "SAME_NAME"), (b"c", "SAME_NAME"), (b"c", "SAME_NAME")];
    assert_eq!(issues, expected);
    let there: Vec<_> = tree(&bed.b.root.join("in")).into_keys().collect();
    assert_eq!(there, [b"a".as_slice(), b"b", b"c", b"c/x"].map(<[u8]>::to_vec));
    assert_eq!(fs::read(bed.b.root.join("in/a")).unwrap(), b"one");
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_spares_what_lies_beside_the_source_unless_contents_were_asked_for() {
    let delete = || TransferOptions { delete: true, ..TransferOptions::default() };
    let cases: [(&[&str], &str, bool); 9] = [
        (&["data:/dir"], "data:/", true),
        (&["data:/dir"], "data:/in", true),
        (&["data:/dir"], "data:/in/", true),
        (&["data:/dir", "data:/lone"], "data:/", true),
        (&["data:/lone"], "data:/", true),
        (&["data:/lone/"], "data:/in/", true),
        (&["data:/dir/"], "data:/in", false),
        (&["data:/dir/"], "data:/", false),
        (&["data:/"], "data:/in/", false),
    ];
    for (sources, destination, spared) in cases {
        let bed = Bed::new();
        put(&bed.a.root.join("dir/file"), b"1");
        put(&bed.a.root.join("lone"), b"2");
        let at = bed.b.root.join(destination.trim_start_matches("data:/"));
        put(&at.join("beside/precious"), b"3");
        put(&at.join("alone"), b"4");
        put(&at.join("dir/gone"), b"5");
        let (report, _) = bed.send(sources, destination, delete()).await;
        assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
        let both = [at.join("beside/precious"), at.join("alone")].map(|path| path.is_file());
        assert_eq!(both, [spared; 2], "{sources:?} to {destination}");
        let sent_dir = sources.contains(&"data:/dir");
        assert_eq!(at.join("dir/gone").is_file(), spared && !sent_dir, "{sources:?} to {destination}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_left_out_and_said() {
    let bed = Bed::new();
    put(&bed.a.root.join("set/fine"), b"fine");
    put(&bed.a.root.join("set/notes.tmp"), b"excluded");
    put(&bed.a.root.join("set/tool"), b"tool");
    mode(&bed.a.root.join("set/tool"), 0o6755);
    let pipe = bed.a.root.join("set/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    put(&bed.a.root.join("set/folder/inner"), b"inner");
    put(&bed.a.root.join("set/plain"), b"plain");
    // A file where a folder should be, and the other way.
    put(&bed.b.root.join("in/set/folder"), b"a file");
    put(&bed.b.root.join("in/set/plain/x"), b"a folder");
    let exclude = vec!["*.tmp".parse().unwrap()];
    let (report, _) =
        bed.send(&["data:/set"], "data:/in", TransferOptions { exclude, ..TransferOptions::default() }).await;
    assert_eq!(report.state, TransferState::SucceededInPart, "{report:?}");
    let mut issues: Vec<_> = report.issues.iter().map(|issue| (issue.path.as_slice(), issue.reason.as_str())).collect();
    issues.sort_unstable();
    let expected = [
        (b"set/folder".as_slice(), "TYPE_CONFLICT"),
        (b"set/folder/inner", "UNWRITABLE"),
        (b"set/pipe", "SPECIAL_FILE"),
        (b"set/plain", "TYPE_CONFLICT"),
    ];
    assert_eq!(issues, expected);
    assert_eq!(report.issue_count, 4);
    let at = bed.b.root.join("in/set");
    assert_eq!(fs::read(at.join("fine")).unwrap(), b"fine");
    assert_eq!(fs::metadata(at.join("tool")).unwrap().mode() & 0o7777, 0o755, "neither setuid nor setgid");
    assert!(!at.join("notes.tmp").exists() && !at.join("pipe").exists());
    assert_eq!(fs::read(at.join("folder")).unwrap(), b"a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_removes_what_the_source_does_not_have_and_spares_what_is_excluded() {
    let bed = Bed::new();
    put(&bed.a.root.join("dir/kept"), b"kept");
    put(&bed.a.root.join("dir/sub/kept"), b"kept");
    for extra in
        ["in/dir/gone", "in/dir/sub/gone", "in/dir/old/a/b", "in/dir/spared.log", "in/dir/logs/x.log", "in/beside"]
    {
        put(&bed.b.root.join(extra), b"extra");
    }
    put(&bed.b.outside.join("precious"), b"precious");
    symlink(&bed.b.outside, bed.b.root.join("in/dir/way-out")).unwrap();
    let options = TransferOptions {
        delete: true,
        exclude: vec!["*.log".parse().unwrap()],
        dry_run: true,
        ..TransferOptions::default()
    };
    let before = tree(&bed.b.root);
    let (dry, wires) = bed.send(&["data:/dir"], "data:/in", options.clone()).await;
    assert_eq!(dry.state, TransferState::Succeeded, "{dry:?}");
    assert_eq!((tree(&bed.b.root), wires.bytes()), (before, vec![0]), "a dry run moves nothing");
    let mut planned: Vec<_> =
        dry.planned_changes.iter().map(|change| (change.path.as_slice(), change.action)).collect();
    planned.sort_by_key(|(path, _)| path.to_vec());
    let expected = [
        (b"dir/gone".as_slice(), PlannedAction::Delete),
        (b"dir/kept", PlannedAction::Create),
        (b"dir/old", PlannedAction::Delete),
        (b"dir/old/a", PlannedAction::Delete),
        (b"dir/old/a/b", PlannedAction::Delete),
        (b"dir/sub/gone", PlannedAction::Delete),
        (b"dir/sub/kept", PlannedAction::Create),
        (b"dir/way-out", PlannedAction::Delete),
    ];
    assert_eq!(planned, expected);

    let (report, _) = bed.send(&["data:/dir"], "data:/in", TransferOptions { dry_run: false, ..options }).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    let left: Vec<_> = tree(&bed.b.root.join("in")).into_keys().map(|path| String::from_utf8(path).unwrap()).collect();
    let expected =
        ["beside", "dir", "dir/kept", "dir/logs", "dir/logs/x.log", "dir/spared.log", "dir/sub", "dir/sub/kept"];
    assert_eq!(left, expected);
    assert_eq!(report.progress.files_deleted, 6);
    assert_eq!(fs::read(bed.b.outside.join("precious")).unwrap(), b"precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compared_by_contents_and_equal_is_not_sent() {
    let bed = Bed::new();
    make(&bed.a.root);
    let checked = || TransferOptions { checksum: true, ..TransferOptions::default() };
    let (first, _) = bed.send(&["data:/"], "data:/", checked()).await;
    assert_eq!(first.state, TransferState::Succeeded, "{first:?}");
    let before = fs::metadata(bed.b.root.join("many/500")).unwrap().ino();
    let (second, wires) = bed.send(&["data:/"], "data:/", checked()).await;
    assert_eq!(second.state, TransferState::Succeeded, "{second:?}");
    assert_eq!(fs::metadata(bed.b.root.join("many/500")).unwrap().ino(), before, "what is equal stays as it is");
    assert_eq!(second.progress.files_done, second.progress.files_total);
    assert!(wires.bytes()[0] < 20_000, "{:?}", wires.bytes());

    // One small file differs behind an equal size and time; of another only the mode does.
    let spoiled = bed.b.root.join("many/600");
    fs::write(&spoiled, noise(77, 1800)).unwrap();
    age(&spoiled, 1_600_000_000);
    mode(&bed.b.root.join("many/601"), 0o600);
    let (third, wires) = bed.send(&["data:/"], "data:/", checked()).await;
    assert_eq!(third.state, TransferState::Succeeded, "{third:?}");
    assert!((1800..22_000).contains(&wires.bytes()[0]), "{:?}", wires.bytes());
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_goes_through_folders_of_any_size() {
    let bed = Bed::new();
    // More than are compared at once, in the tree and beside it.
    let (kept, extra) = (300, 70_000);
    for n in 0..kept {
        put(&bed.a.root.join(format!("dir/{n}")), b"");
        put(&bed.a.root.join(format!("dir/{n}.d/x")), b"");
    }
    for n in 0..extra {
        let name = format!("dir/extra-{n}");
        fs::create_dir_all(bed.b.root.join("dir")).unwrap();
        File::create(bed.b.root.join(name)).unwrap();
    }
    put(&bed.b.root.join("dir/old/deep/er"), b"gone");
    let options = TransferOptions { delete: true, ..TransferOptions::default() };
    let (report, _) = bed.send(&["data:/"], "data:/", options).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(report.progress.files_deleted, extra + 3);
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
}
