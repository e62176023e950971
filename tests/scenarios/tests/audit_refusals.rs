//! Every refusal that matters is in the audit log, once and with a count: a flood makes few rows, and nothing that a stranger sent gets
//! into one.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use control_plane_pki::{FleetCa, OperatorSecret};
use dataplane_identity::{CaFingerprint, NodeKey};
use foundation_runtime::Clock;
use proto_rpc::{
    agent::EnrollRequest,
    v1::{ListNodesRequest, ListOperatorTokensRequest},
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tests_harness::{
    Api, ControlPlane, ControlPlaneOptions, Scratch, Shown, agent_service, certificate_refusal, eventually_async,
};
use tests_postgres::{cluster, sql};
use tokio::task::JoinSet;

/// A deleted node is out everywhere within this.
const CUT: Duration = Duration::from_secs(5);
const FLOOD: u64 = 10_000;
const AT_ONCE: u64 = 50;
/// One more than one address may in a minute, and some.
const ENTRIES: u64 = 1_300;
const ENTRIES_PER_MINUTE: u64 = 1_200;

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value[field].as_str().with_context(|| format!("{field} in {value:#}"))
}

fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has memory")?;
    line.trim().trim_end_matches(" kB").parse().context("a number")
}

async fn flood(control_plane: &ControlPlane, token: &str, count: u64) -> Result<()> {
    let mut calls = JoinSet::new();
    for _ in 0..AT_ONCE {
        let api = Api::with_token(&control_plane.grpc(), &control_plane.ca(), token)?;
        calls.spawn(async move {
            for _ in 0..count / AT_ONCE {
                let refused = api.nodes().list_nodes(ListNodesRequest::default()).await;
                ensure!(refused.is_err_and(|status| status.code() == tonic::Code::Unauthenticated));
            }
            Ok(())
        });
    }
    calls.join_all().await.into_iter().collect()
}

fn shown(key: &NodeKey, certificate: &[u8]) -> Result<Shown> {
    let key = PrivatePkcs8KeyDer::from(key.pkcs8_der().to_vec());
    Shown::new(vec![CertificateDer::from(certificate.to_vec())], key.into())
}

/// Within seconds the port knows that the node is deleted, and refuses it `times` times.
async fn deleted_node_is_refused(
    endpoint: &str,
    ca: CaFingerprint,
    key: &NodeKey,
    certificate: &[u8],
    times: usize,
) -> Result<()> {
    eventually_async("the port to refuse a deleted node", CUT, || {
        let shown = shown(key, certificate);
        async { certificate_refusal(endpoint, ca, shown?).await }
    })
    .await?;
    for _ in 1..times {
        ensure!(certificate_refusal(endpoint, ca, shown(key, certificate)?).await?.is_some(), "a deleted node");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refusals_is_a_few_rows_with_a_count_and_no_secret() -> Result<()> {
    let scratch = Scratch::new()?;
    let url = cluster().database();
    let options = ControlPlaneOptions { database_url: Some(url.clone()), ..ControlPlaneOptions::default() };
    let mut control_plane = ControlPlane::start(&scratch.path().join("cp"), options)?;
    let (cli, endpoint) = (control_plane.cli()?, control_plane.grpc());
    let mut secrets = vec![fs::read_to_string(control_plane.admin_token_file())?.trim().to_owned()];

    // Tokens that are none, that nobody made, that were revoked; a role that is too low.
    let before = resident_kib(control_plane.process().pid())?;
    let guess = format!("dwcpo1.{}", "hunter2".repeat(20));
    flood(&control_plane, &guess, FLOOD).await?;
    let unknown = OperatorSecret::generate()?.expose().to_string();
    flood(&control_plane, &unknown, 1_000).await?;
    let grown = resident_kib(control_plane.process().pid())?.saturating_sub(before);
    eprintln!("{} refusals: resident memory grew by {grown} KiB", FLOOD + 1_000);
    ensure!(grown < 64 * 1024, "resident memory grew by {grown} KiB");
    let viewer = cli.json(&["operator", "create", "vera", "--role", "viewer"])?;
    let api = Api::with_token(&endpoint, &control_plane.ca(), text(&viewer, "token")?)?;
    for _ in 0..7 {
        let refused = api.operator_tokens().list_operator_tokens(ListOperatorTokensRequest::default()).await;
        ensure!(refused.is_err());
    }
    cli.ok(&["operator", "revoke", text(&viewer["operatorToken"], "name")?])?;
    for _ in 0..3 {
        ensure!(api.nodes().list_nodes(ListNodesRequest::default()).await.is_err());
    }
    secrets.extend([guess, unknown, text(&viewer, "token")?.to_owned()]);

    // Hosts: a token that is used up, a name that is taken, a key that is known; a certificate of somebody else, and of who was deleted.
    let created = cli.json(&["token", "create", "--max-uses", "3"])?;
    let ca: CaFingerprint = text(&created, "caFingerprint")?.parse()?;
    let token = text(&created, "token")?.to_owned();
    let mut service = agent_service(&endpoint, ca, None).await?;
    let mut enroll = async |token: &str, key: &NodeKey, name: &str| -> Result<_> {
        let request = EnrollRequest {
            token: token.to_owned(),
            csr: key.csr_der()?,
            name: name.to_owned(),
            ..EnrollRequest::default()
        };
        Ok(service.enroll(request).await)
    };
    let key = NodeKey::generate()?;
    let node = enroll(&token, &key, "host").await??.into_inner();
    ensure!(enroll(&token, &NodeKey::generate()?, "host").await?.is_err(), "the name is taken");
    let other = cli.json(&["token", "create"])?;
    let other = text(&other, "token")?.to_owned();
    ensure!(enroll(&other, &key, "host2").await?.is_err(), "the key is known");
    let (now, uid) = (Clock::system().utc(), node.uid.parse::<uuid::Uuid>()?);
    let forged = FleetCa::generate("stranger", now)?.issue_node(uid, &key.csr_der()?, now)?;
    for _ in 0..4 {
        ensure!(certificate_refusal(&endpoint, ca, shown(&key, &forged.der)?).await?.is_some(), "a stranger's CA");
    }
    cli.ok(&["node", "delete", "host", "--yes"])?;
    deleted_node_is_refused(&endpoint, ca, &key, &node.certificate, 5).await?;
    // More joins than one address may in a minute, with what is no token at all.
    let made = 3;
    for _ in 0..ENTRIES {
        ensure!(enroll("dwcp1.hunter2\u{1b}[2J", &key, "x").await?.is_err());
    }
    secrets.extend([token, other]);

    // What is still counted is written when the server stops.
    control_plane.stop()?;
    let rows = sql(
        &url,
        "SELECT action || ': ' || (detail->>'reason'), count(*), sum((detail->>'count')::bigint)
         FROM audit_events WHERE outcome = 'refused' GROUP BY 1 ORDER BY 1",
    );
    eprintln!("{rows}");
    let rows: BTreeMap<String, (u64, u64)> = rows
        .lines()
        .map(|row| {
            let mut cells = row.split('|');
            let mut next = || cells.next().context("three cells");
            Ok((next()?.to_owned(), (next()?.parse()?, next()?.parse()?)))
        })
        .collect::<Result<_>>()?;
    let joins = ENTRIES_PER_MINUTE - made;
    for (reason, count) in [
        ("call: not an operator token", FLOOD),
        ("call: an unknown token", 1_000),
        ("call: the role is too low", 7),
        ("call: an expired or revoked token", 3),
        ("connect: a certificate that is not a node's of this fleet", 4),
        ("connect: the certificate of a deleted node", 5),
        ("node.enroll: the name is taken or reserved", 1),
        ("node.enroll: the key is or was another node's", 1),
        ("node.enroll: not a join token", joins),
        ("node.enroll: too many calls from one address", ENTRIES - joins),
    ] {
        let found = rows.get(reason).with_context(|| format!("{reason} in {rows:?}"))?;
        ensure!(found.1 == count, "{reason}: {} counted of {count}", found.1);
        ensure!(found.0 <= 4, "{reason}: {} rows", found.0);
    }
    let all = sql(&url, "SELECT convert_from(leaf, 'UTF8'), actor, action, resource, detail FROM audit_events");
    for secret in &secrets {
        ensure!(!all.contains(secret.as_str()), "a secret is in the log");
    }
    ensure!(
        !all.contains("hunter2") && !all.chars().any(|c| c.is_control() && c != '\n'),
        "what was sent is in the log"
    );
    Ok(())
}
