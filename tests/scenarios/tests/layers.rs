//! The folder is the architecture: imports go strictly to a lower level, the planes meet only where they may, and each
//! library is named in the one crate that wraps it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// A crate's plane and level, as ARCHITECTURE.md has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plane {
    Shared,
    Control,
    Data,
    Tests,
}

const LEVELS: [(&str, Plane, u8); 37] = [
    // Level 0 has an order of its own: foundation and rpc, then model, then wire.
    ("proto-rpc", Plane::Shared, 0),
    ("foundation-runtime", Plane::Shared, 0),
    ("foundation-merkle", Plane::Shared, 0),
    ("foundation-telemetry", Plane::Shared, 1),
    ("foundation-listener", Plane::Shared, 1),
    ("proto-model", Plane::Shared, 1),
    ("proto-wire", Plane::Shared, 2),
    ("control-plane-audit", Plane::Control, 10),
    ("control-plane-pki", Plane::Control, 10),
    ("control-plane-store", Plane::Control, 20),
    ("control-plane-fleet", Plane::Control, 30),
    ("control-plane-api", Plane::Control, 40),
    ("control-plane-console", Plane::Control, 40),
    ("control-plane-server", Plane::Control, 50),
    ("control-plane-cli", Plane::Control, 50),
    ("dataplane-identity", Plane::Data, 10),
    ("dataplane-hde", Plane::Data, 10),
    ("dataplane-local-store", Plane::Data, 10),
    ("dataplane-content", Plane::Data, 20),
    ("dataplane-dht", Plane::Data, 20),
    ("dataplane-amst", Plane::Data, 20),
    ("dataplane-transfer", Plane::Data, 30),
    ("dataplane-control-client", Plane::Data, 30),
    ("dataplane-agent", Plane::Data, 50),
    ("tests-postgres", Plane::Tests, 60),
    ("tests-wan", Plane::Tests, 55),
    ("tests-harness", Plane::Tests, 60),
    ("tests-scenarios", Plane::Tests, 70),
    ("tests-strangers", Plane::Tests, 65),
    ("tests-bench", Plane::Tests, 70),
    ("tests-dht", Plane::Tests, 70),
    ("tests-congestion", Plane::Tests, 70),
    ("tests-bench-wan", Plane::Tests, 70),
    ("tests-bench-hde", Plane::Tests, 70),
    ("tests-parsers", Plane::Tests, 70),
    ("tests-robustness", Plane::Tests, 70),
    ("tests-storm", Plane::Tests, 70),
];

/// The level-5 roots of the control plane may use these of the data plane.
const LENT: [&str; 3] = ["dataplane-dht", "dataplane-hde", "dataplane-identity"];

/// Libraries that one crate wraps for all others.
const WRAPPED: [(&str, &[&str]); 6] = [
    ("sqlx", &["control-plane-store", "dataplane-local-store"]),
    ("quinn", &["dataplane-amst"]),
    ("quinn-proto", &["dataplane-amst"]),
    ("mainline", &["dataplane-dht"]),
    ("zstd", &["dataplane-hde"]),
    ("opentelemetry-otlp", &["foundation-telemetry"]),
];

fn workspace() -> Result<Metadata> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    Ok(MetadataCommand::new().manifest_path(manifest).no_deps().other_options(["--offline".to_owned()]).exec()?)
}

fn dependencies(package: &Package) -> impl Iterator<Item = &str> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind != DependencyKind::Development)
        .map(|dependency| dependency.name.as_str())
}

#[test]
fn imports_go_strictly_to_a_lower_level_and_planes_meet_only_where_they_may() -> Result<()> {
    let levels: BTreeMap<_, _> = LEVELS.iter().map(|(name, plane, level)| (*name, (*plane, *level))).collect();
    let mut wrong = Vec::new();
    for package in workspace()?.workspace_packages() {
        let name = package.name.as_str();
        let (plane, level) = *levels.get(name).with_context(|| format!("{name} has no level; give it one here"))?;
        for dependency in dependencies(package) {
            let Some((other_plane, other_level)) = levels.get(dependency) else { continue };
            let lower = *other_level < level;
            let meets = *other_plane == Plane::Shared
                || *other_plane == plane
                || plane == Plane::Tests
                || (plane == Plane::Control && level == 50 && LENT.contains(&dependency));
            if !lower || !meets {
                wrong.push(format!("{name} may not import {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn each_crate_is_named_after_its_folder() -> Result<()> {
    let metadata = workspace()?;
    for package in metadata.workspace_packages() {
        let folder = package.manifest_path.parent().context("a manifest has a folder")?;
        let path = folder.strip_prefix(&metadata.workspace_root)?;
        assert_eq!(package.name.as_str(), path.as_str().replace('/', "-"));
    }
    Ok(())
}

#[test]
fn each_wrapped_library_is_named_in_its_wrapper_only() -> Result<()> {
    let mut wrong = Vec::new();
    for package in workspace()?.workspace_packages() {
        for (library, wrappers) in WRAPPED {
            let tests = package.name.starts_with("tests-");
            if !tests && !wrappers.contains(&package.name.as_str()) && dependencies(package).any(|d| d == library) {
                wrong.push(format!("{} may not name {library}", package.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}
