use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, path::PathBuf};

use proto_model::config::Root;

use super::{bind, service::resolve};

fn roots(folders: &[(&str, &str)]) -> BTreeMap<proto_model::RootName, Root> {
    let root = |path: &str| Root { path: PathBuf::from(path), read_only: false, accept: Vec::new() };
    folders.iter().map(|(name, path)| (name.parse().unwrap(), root(path))).collect()
}

#[test]
fn a_path_is_named_below_the_root_that_reaches_deepest() {
    let roots = roots(&[("srv", "/srv-of-a-test"), ("data", "/srv-of-a-test/data")]);
    assert_eq!(resolve(b"/srv-of-a-test/data/set", &roots).unwrap(), b"data:/set");
    assert_eq!(resolve(b"/srv-of-a-test/data/set/", &roots).unwrap(), b"data:/set/");
    assert_eq!(resolve(b"/srv-of-a-test/other", &roots).unwrap(), b"srv:/other");
    assert_eq!(resolve(b"/srv-of-a-test/data", &roots).unwrap(), b"data:/");
}

#[test]
fn a_path_below_no_root_is_refused_with_the_flag_that_opens_it() {
    let error = resolve(b"/somewhere/else", &roots(&[("data", "/srv-of-a-test/data")])).unwrap_err();
    assert!(error.message().contains("--root NAME=/somewhere"), "{}", error.message());
    assert!(resolve(b"/srv-of-a-test/data/../x", &roots(&[("data", "/srv-of-a-test/data")])).is_err());
    assert!(resolve(b"relative", &roots(&[("data", "/")])).is_err());
}

#[tokio::test]
async fn the_socket_is_for_its_owner_only_and_replaces_a_stale_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    drop(bind(&path, None).unwrap());
    let _listener = bind(&path, None).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(bind(&path, Some("no-such-group-anywhere")).is_err());
}
