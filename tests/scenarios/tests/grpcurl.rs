//! The API as people find it with grpcurl, in both versions that they have: reflection, descriptions, errors, watches, and
//! the main job itself.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;
use tests_harness::{Fleet, FleetOptions, grpcurls};

const SERVICES: [&str; 9] = [
    "dwcp.v1.AuditService",
    "dwcp.v1.BenchService",
    "dwcp.v1.ConfigService",
    "dwcp.v1.JoinTokenService",
    "dwcp.v1.NodeService",
    "dwcp.v1.OperatorTokenService",
    "dwcp.v1.SystemService",
    "dwcp.v1.TransferService",
    "grpc.health.v1.Health",
];

#[test]
fn every_service_is_listed_described_and_answers() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let control_plane = &fleet.control_plane;
    for grpcurl in grpcurls() {
        let name = grpcurl.name();
        let list = grpcurl.run(control_plane, &[], &["list"])?;
        for service in SERVICES {
            assert!(list.stdout.contains(service), "{name}: {service} in {}{}", list.stdout, list.stderr);
            let described = grpcurl.run(control_plane, &[], &["describe", service])?;
            assert!(described.stdout.contains("rpc "), "{name}: {}{}", described.stdout, described.stderr);
        }
        for method in [
            "dwcp.v1.NodeService/ListNodes",
            "dwcp.v1.JoinTokenService/ListJoinTokens",
            "dwcp.v1.OperatorTokenService/ListOperatorTokens",
            "dwcp.v1.ConfigService/ListConfigs",
            "dwcp.v1.TransferService/ListTransfers",
            "dwcp.v1.AuditService/GetAuditHead",
            "dwcp.v1.SystemService/GetServerInfo",
            "dwcp.v1.SystemService/RunChecks",
            "grpc.health.v1.Health/Check",
        ] {
            let called = grpcurl.run(control_plane, &[], &[method])?;
            assert_eq!(called.code, 0, "{name} {method}: {}{}", called.stdout, called.stderr);
            let _: Value = serde_json::from_str(&called.stdout).with_context(|| called.stdout.clone())?;
            let local = grpcurl.run_local(control_plane, &[], &[method])?;
            assert_eq!(local.code, 0, "{name} local {method}: {}{}", local.stdout, local.stderr);
        }
    }
    Ok(())
}

#[test]
fn a_mistake_is_answered_with_the_field_that_is_wrong() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions { agents: vec!["site-a".to_owned()], ..FleetOptions::default() })?;
    for grpcurl in grpcurls() {
        let request = r#"{"spec":{"sourceNode":"nodes/site-a"}}"#;
        let wrong = grpcurl.run(&fleet.control_plane, &["-d", request], &["dwcp.v1.TransferService/CreateTransfer"])?;
        let text = format!("{}{}", wrong.stdout, wrong.stderr);
        assert!(text.contains("InvalidArgument"), "{}: {text}", grpcurl.name());
        assert!(text.contains("spec.source_paths"), "the violation names the field: {text}");
        let missing = grpcurl.run(
            &fleet.control_plane,
            &["-d", r#"{"name":"nodes/nobody"}"#],
            &["dwcp.v1.NodeService/GetNode"],
        )?;
        assert!(format!("{}{}", missing.stdout, missing.stderr).contains("NotFound"));
    }
    Ok(())
}

#[test]
fn a_transfer_is_made_and_watched_to_its_end() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let source = fleet.agents[0].root("data").join("set");
    fs::create_dir_all(&source)?;
    fs::write(source.join("file"), vec![7; 3_000_000])?;
    for (number, grpcurl) in grpcurls().into_iter().enumerate() {
        let request = serde_json::json!({
            "spec": {
                "sourceNode": "nodes/site-a",
                "sourcePaths": ["data:/set"],
                "destinationNode": "nodes/site-b",
                "destinationPath": format!("data:/from-grpcurl-{number}"),
            },
            "requestId": format!("00000000-0000-4000-8000-00000000000{number}"),
        })
        .to_string();
        let create = ["dwcp.v1.TransferService/CreateTransfer"];
        let created = grpcurl.run(&fleet.control_plane, &["-d", &request], &create)?;
        assert_eq!(created.code, 0, "{}{}", created.stdout, created.stderr);
        let created: Value = serde_json::from_str(&created.stdout)?;
        let repeated: Value =
            serde_json::from_str(&grpcurl.run(&fleet.control_plane, &["-d", &request], &create)?.stdout)?;
        assert_eq!(created["name"], repeated["name"], "a repeat with the same id is harmless");
        let watch = serde_json::json!({ "name": created["name"] }).to_string();
        let watched = grpcurl.run(
            &fleet.control_plane,
            &["-max-time", "60", "-d", &watch],
            &["dwcp.v1.TransferService/WatchTransfer"],
        )?;
        assert_eq!(watched.code, 0, "{}{}", watched.stdout, watched.stderr);
        assert!(watched.stdout.contains("\"SUCCEEDED\""), "{}", watched.stdout);
        let target = fleet.agents[1].root("data").join(format!("from-grpcurl-{number}/set/file"));
        assert_eq!(fs::read(target)?, vec![7; 3_000_000]);
    }
    Ok(())
}
