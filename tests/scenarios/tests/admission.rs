//! Nobody unknown gets in: hosts by a join token that is good, nodes by a certificate of the fleet's own CA over a key that
//! is in the roster, operators by a token that is known. Who is put out is cut off at once.

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use control_plane_pki::FleetCa;
use dataplane_amst::{CloseReason, DialError, Endpoint, Limits, Options, TransportSettings};
use dataplane_identity::{CaFingerprint, Certificate, Identity, NodeKey};
use foundation_runtime::{Clock, TaskGroup};
use proto_model::NodeName;
use proto_rpc::{
    agent::{
        AgentMessage, EnrollRequest, EnrollResponse, Hello, HostFacts, ServerMessage, agent_message, server_message,
    },
    v1::{CreateOperatorTokenRequest, ListJoinTokensRequest, ListNodesRequest, Role},
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tests_harness::{
    Api, ControlPlane, ControlPlaneOptions, Fleet, FleetOptions, Ran, Scratch, Shown, agent_service, binary,
    certificate_refusal, eventually, fleet_keys, join_arguments,
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;

/// Far longer than anything here takes; only what fails waits for it.
const LIMIT: Duration = Duration::from_secs(60);
/// How soon who was put out must be cut off.
const CUT: Duration = Duration::from_secs(5);
const JOINERS: usize = 50;

fn control_plane(scratch: &Scratch) -> Result<ControlPlane> {
    // A second one finds it installed.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    ControlPlane::start(&scratch.path().join("cp"), ControlPlaneOptions::default())
}

/// A new join token's answer.
fn token(control_plane: &ControlPlane, arguments: &[&str]) -> Result<Value> {
    control_plane.cli()?.json(&[&["token", "create"], arguments].concat())
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value[field].as_str().with_context(|| format!("{field} in {value:#}"))
}

fn fingerprint(token: &Value) -> Result<CaFingerprint> {
    Ok(text(token, "caFingerprint")?.parse()?)
}

/// The reason in a status, with its code for messages.
fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    format!("{:?} {info}", status.code())
}

async fn enroll(
    endpoint: &str,
    ca: CaFingerprint,
    token: &str,
    key: &NodeKey,
    name: &str,
) -> Result<Result<EnrollResponse, Status>> {
    let mut client = agent_service(endpoint, ca, None).await?;
    let request = EnrollRequest {
        token: token.to_owned(),
        csr: key.csr_der()?,
        name: name.to_owned(),
        facts: Some(HostFacts::default()),
    };
    Ok(client.enroll(request).await.map(tonic::Response::into_inner))
}

/// What a session says first, and the rest of it; the sender keeps it open.
type Opened = (ServerMessage, Streaming<ServerMessage>, mpsc::Sender<AgentMessage>);

async fn session(endpoint: &str, ca: CaFingerprint, shown: Option<Shown>) -> Result<Opened, Status> {
    session_with(endpoint, ca, shown, None).await
}

async fn session_with(
    endpoint: &str,
    ca: CaFingerprint,
    shown: Option<Shown>,
    bearer: Option<&str>,
) -> Result<Opened, Status> {
    let refused = |error: anyhow::Error| Status::unavailable(format!("{error:#}"));
    let mut client = agent_service(endpoint, ca, shown).await.map_err(refused)?;
    let (sender, receiver) = mpsc::channel(4);
    let hello = AgentMessage { message: Some(agent_message::Message::Hello(Hello::default())) };
    sender.send(hello).await.map_err(|_closed| Status::internal("the stream was not taken"))?;
    let mut request = Request::new(ReceiverStream::new(receiver));
    if let Some(token) = bearer {
        let value = format!("Bearer {token}").parse().map_err(|_bytes| Status::internal("a token is ASCII"))?;
        request.metadata_mut().insert("authorization", value);
    }
    let mut stream = client.session(request).await?.into_inner();
    let first = stream.message().await?.ok_or_else(|| Status::aborted("it ended without a word"))?;
    Ok((first, stream, sender))
}

fn shown(key: &NodeKey, certificate: &[u8]) -> Result<Shown> {
    let key = PrivatePkcs8KeyDer::from(key.pkcs8_der().to_vec());
    Shown::new(vec![CertificateDer::from(certificate.to_vec())], key.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_use_token_lets_one_of_fifty_racing_joiners_in_and_that_one_again() -> Result<()> {
    let scratch = Scratch::new()?;
    let control_plane = control_plane(&scratch)?;
    let created = token(&control_plane, &[])?;
    let (endpoint, ca, secret) = (control_plane.grpc(), fingerprint(&created)?, text(&created, "token")?.to_owned());

    let mut race = JoinSet::new();
    for number in 0..JOINERS {
        let (endpoint, secret) = (endpoint.clone(), secret.clone());
        race.spawn(async move {
            let key = NodeKey::generate()?;
            let answer = enroll(&endpoint, ca, &secret, &key, &format!("racer-{number}")).await?;
            anyhow::Ok((key, answer))
        });
    }
    let mut joined = Vec::new();
    let mut refusals = BTreeSet::new();
    for outcome in race.join_all().await {
        match outcome? {
            (key, Ok(answer)) => joined.push((key, answer)),
            (_, Err(status)) => drop(refusals.insert(reason(&status))),
        }
    }
    assert_eq!(refusals, BTreeSet::from(["PermissionDenied JOIN_TOKEN_USED".to_owned()]));
    let names: Vec<_> = joined.iter().map(|(_, answer)| &answer.name).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let list = control_plane.cli()?.json(&["node", "list"])?;
    assert_eq!(list["nodes"].as_array().map(Vec::len), Some(1), "{list:#}");

    let (key, first) = joined.pop().context("one joined")?;
    let again = enroll(&endpoint, ca, &secret, &key, "another-name").await??;
    assert_eq!((again.uid, again.name, again.certificate), (first.uid, first.name, first.certificate));
    let stranger = enroll(&endpoint, ca, &secret, &NodeKey::generate()?, "late").await?;
    assert_eq!(stranger.map_err(|status| reason(&status)), Err("PermissionDenied JOIN_TOKEN_USED".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_unknown_expired_or_revoked_lets_nobody_in() -> Result<()> {
    let scratch = Scratch::new()?;
    let control_plane = control_plane(&scratch)?;
    let cli = control_plane.cli()?;
    let short = token(&control_plane, &["--ttl", "1s"])?;
    let revoked = token(&control_plane, &[])?;
    cli.ok(&["token", "revoke", text(&revoked["joinToken"], "name")?])?;
    let name = text(&short["joinToken"], "name")?;
    let mut seen = Value::Null;
    eventually("the token to expire", LIMIT, || {
        seen = cli.json(&["token", "list"])?;
        let all = seen["joinTokens"].as_array().into_iter().flatten();
        Ok(all.clone().any(|token| token["name"] == name && token["state"] == "EXPIRED").then_some(()))
    })
    .with_context(|| format!("{seen:#}"))?;

    let (endpoint, ca) = (control_plane.grpc(), fingerprint(&short)?);
    // Of the right form, and never made.
    let unknown = control_plane_pki::JoinSecret::generate()?;
    for (secret, expected) in [
        (unknown.expose().as_str(), "Unauthenticated JOIN_TOKEN_UNKNOWN"),
        (text(&short, "token")?, "PermissionDenied JOIN_TOKEN_EXPIRED"),
        (text(&revoked, "token")?, "PermissionDenied JOIN_TOKEN_REVOKED"),
        ("dwcp1.guess", "InvalidArgument INVALID_ARGUMENT"),
    ] {
        let answer = enroll(&endpoint, ca, secret, &NodeKey::generate()?, "guest").await?;
        assert_eq!(answer.map_err(|status| reason(&status)), Err(expected.to_owned()));
    }
    assert_eq!(cli.json(&["node", "list"])?["nodes"].as_array().map_or(0, Vec::len), 0);
    // Refusals are audited, together where they are many, and no secret is in the log.
    let events = eventually("the refusals in the audit log", LIMIT, || {
        let events = cli.json(&["audit", "list", "--filter", "action=node.enroll"])?;
        Ok(events.to_string().contains("refused").then_some(events))
    })?;
    for secret in [&short, &revoked] {
        assert!(!events.to_string().contains(text(secret, "token")?), "{events:#}");
    }
    Ok(())
}

fn join(control_plane: &ControlPlane, token: &Value, dir: &Path, name: &str) -> Result<Ran> {
    let arguments = join_arguments(control_plane, token, dir, name)?;
    Ok(Command::new(binary("dwcp-agent")?).args(arguments).output().context("run dwcp-agent join")?.into())
}

#[test]
fn a_join_with_a_wrong_fingerprint_says_so_in_a_sentence_and_leaves_nothing() -> Result<()> {
    let scratch = Scratch::new()?;
    let control_plane = control_plane(&scratch)?;
    let created = token(&control_plane, &[])?;
    let mut wrong = created.clone();
    wrong["caFingerprint"] = format!("sha256:{}", "ab".repeat(32)).into();
    let dir = scratch.path().join("host");
    let refused = join(&control_plane, &wrong, &dir, "host")?;
    assert_ne!(refused.code, 0, "{refused:?}");
    assert_eq!(refused.stderr.trim().lines().count(), 1, "{refused:?}");
    for part in ["refusing to go on", &control_plane.grpc(), &"ab".repeat(32), text(&created, "caFingerprint")?] {
        assert!(refused.stderr.contains(part.trim_start_matches("sha256:")), "{part} in {refused:?}");
    }
    assert!(!refused.stderr.contains(text(&created, "token")?), "{refused:?}");
    for credential in ["node.crt", "trust.bin", "roster.bin", "enrolment.json"] {
        assert!(!dir.join(credential).exists(), "{credential} was written");
    }
    // The token was not sent, so it is as good as before.
    let joined = join(&control_plane, &created, &dir, "host")?;
    assert_eq!(joined.code, 0, "{joined:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_only_for_a_present_node_of_this_very_fleet() -> Result<()> {
    let scratch = Scratch::new()?;
    let control_plane = control_plane(&scratch)?;
    let created = token(&control_plane, &[])?;
    let (endpoint, ca) = (control_plane.grpc(), fingerprint(&created)?);
    let key = NodeKey::generate()?;
    let node = enroll(&endpoint, ca, text(&created, "token")?, &key, "host").await??;

    let (welcome, ..) = session(&endpoint, ca, Some(shown(&key, &node.certificate)?)).await?;
    assert!(matches!(welcome.message, Some(server_message::Message::Welcome(_))), "{welcome:?}");

    let none = session(&endpoint, ca, None).await.err().context("nobody's session")?;
    assert_eq!(reason(&none), "Unauthenticated CREDENTIALS_MISSING");
    let admin = fs::read_to_string(control_plane.admin_token_file())?;
    let operator = session_with(&endpoint, ca, None, Some(admin.trim())).await.err().context("an operator's")?;
    assert_eq!(reason(&operator), "Unauthenticated CREDENTIALS_MISSING");

    // A CA of the same name certifies the very node's uid and key: its signature is another's.
    let keys = fleet_keys(&control_plane).await?;
    let (now, uid) = (Clock::system().utc(), node.uid.parse::<uuid::Uuid>()?);
    let namesake = FleetCa::generate(&keys.fleet().to_string(), now)?;
    let forged = namesake.issue_node(uid, &key.csr_der()?, now)?;
    // The fleet's own CA certifies another key for the node, as if it had been replaced.
    let other_key = NodeKey::generate()?;
    let replaced = keys.ca().issue_node(uid, &other_key.csr_der()?, now)?;
    // The fleet's own CA certifies a server.
    let server = keys.ca().issue_server(&control_plane_pki::ServerNames::default(), now)?;
    for (who, shown) in [
        ("another CA of the same name", shown(&key, &forged.der)?),
        ("a server", Shown::new(server.chain, server.key.into())?),
    ] {
        let alert = certificate_refusal(&endpoint, ca, shown).await?.with_context(|| format!("{who} got in"))?;
        assert!(alert.contains("fatal alert"), "{who}: {alert}");
    }
    let replaced = session(&endpoint, ca, Some(shown(&other_key, &replaced.der)?)).await.err();
    assert_eq!(replaced.map(|status| reason(&status)).as_deref(), Some("Unauthenticated CREDENTIALS_REFUSED"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_node_is_cut_off_at_once_and_only_a_token_for_its_name_gives_its_place_away() -> Result<()> {
    let scratch = Scratch::new()?;
    let control_plane = control_plane(&scratch)?;
    let cli = control_plane.cli()?;
    let created = token(&control_plane, &[])?;
    let (endpoint, ca) = (control_plane.grpc(), fingerprint(&created)?);
    let key = NodeKey::generate()?;
    let node = enroll(&endpoint, ca, text(&created, "token")?, &key, "host").await??;
    let (_, mut stream, _sender) = session(&endpoint, ca, Some(shown(&key, &node.certificate)?)).await?;

    cli.ok(&["node", "delete", "host", "--yes"])?;
    let end = timeout(CUT, async { while let Some(Ok(_)) = stream.next().await {} }).await;
    ensure!(end.is_ok(), "the session of a deleted node lived on for {CUT:?}");
    // It never gets a session again; its certificate is refused as soon as the server has read who is out.
    let refused = async {
        loop {
            ensure!(session(&endpoint, ca, Some(shown(&key, &node.certificate)?)).await.is_err(), "it came back");
            let refusal = certificate_refusal(&endpoint, ca, shown(&key, &node.certificate)?).await?;
            if let Some(refusal) = refusal.filter(|refusal| refusal.contains("CertificateRevoked")) {
                return Ok(refusal);
            }
        }
    };
    timeout(CUT, refused).await.context("its certificate is still taken")??;

    let with = async |arguments: &[&str], key: &NodeKey, name: &str| {
        let created = token(&control_plane, arguments)?;
        let answer = enroll(&endpoint, ca, text(&created, "token")?, key, name).await?;
        anyhow::Ok(answer.map_err(|status| reason(&status)))
    };
    let fresh = NodeKey::generate()?;
    assert_eq!(with(&[], &key, "elsewhere").await?.err().as_deref(), Some("AlreadyExists KEY_USED"));
    assert_eq!(with(&[], &fresh, "host").await?.err().as_deref(), Some("AlreadyExists NAME_TAKEN"));
    // An admin frees a name; an operator may not, and nobody that of a node that is there.
    let other = with(&[], &NodeKey::generate()?, "other").await?;
    ensure!(other.is_ok_and(|other| other.name == "other"));
    assert_eq!(cli.run(&["node", "free", "other"])?.code, 7);
    cli.ok(&["node", "delete", "other", "--yes"])?;
    assert_eq!(with(&[], &NodeKey::generate()?, "other").await?.err().as_deref(), Some("AlreadyExists NAME_TAKEN"));
    let made = cli.json(&["operator", "create", "otto", "--role", "operator"])?;
    let otto = scratch.path().join("otto.token");
    fs::write(&otto, text(&made, "token")?)?;
    assert_eq!(cli.clone().with("DWCP_TOKEN_FILE", &otto).run(&["node", "free", "other"])?.code, 6);
    cli.ok(&["node", "free", "other"])?;
    assert_eq!(cli.run(&["node", "free", "other"])?.code, 3);
    let freed = with(&[], &NodeKey::generate()?, "other").await?;
    ensure!(freed.is_ok_and(|freed| freed.name == "other"), "the name is free");
    assert_eq!(
        cli.json(&["audit", "list", "--filter", "action=node.free_name"])?["auditEvents"].as_array().map(Vec::len),
        Some(1)
    );
    let rebuilt = with(&["--node", "host"], &fresh, "ignored").await?;
    let rebuilt = rebuilt.map_err(|reason| anyhow::anyhow!("the rebuilt host was refused: {reason}"))?;
    assert_eq!(rebuilt.name, "host");
    let (welcome, ..) = session(&endpoint, ca, Some(shown(&fresh, &rebuilt.certificate)?)).await?;
    assert!(matches!(welcome.message, Some(server_message::Message::Welcome(_))), "{welcome:?}");
    assert_eq!(cli.json(&["audit", "verify"])?["ok"], true);
    Ok(())
}

/// The credentials of a stopped agent, copied to where a thief has them.
fn stolen(from: &Path, to: &Path) -> Result<Identity> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)?.flatten() {
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Identity::open(to)?.context("the agent has joined")
}

async fn quic(identity: &Identity) -> Result<(Endpoint, TaskGroup)> {
    let tasks = TaskGroup::new("stranger");
    let options = Options {
        listen: "127.0.0.1:0".parse()?,
        sockets: 1,
        identity: identity.clone(),
        settings: TransportSettings::default(),
        limits: Limits::default(),
    };
    Ok((Endpoint::bind(options, Clock::system(), tasks.clone()).await?, tasks))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_quic_port_takes_no_stranger_and_drops_who_was_deleted() -> Result<()> {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let agents = ["site-a", "site-b"].map(str::to_owned).to_vec();
    let mut fleet = Fleet::start(&FleetOptions { agents, ..FleetOptions::default() })?;
    let peer = fleet.agents[1].quic().parse()?;
    // Until site-a has the roster with site-b in it.
    let dir = fleet.agents[0].dir().to_path_buf();
    let name: NodeName = "site-b".parse()?;
    let key = eventually("site-a to know site-b", LIMIT, || {
        let known = Identity::open(&dir)?.context("site-a has joined")?;
        Ok(known.membership().by_name(&name).map(|member| member.public_key))
    })?;
    fleet.agents[0].stop()?;
    let thief = stolen(&dir, &fleet.scratch.path().join("thief"))?;

    // The same uid, key and roster, but a certificate of another CA of the same name.
    let stranger = stolen(&dir, &fleet.scratch.path().join("stranger"))?;
    let now = Clock::system().utc();
    let namesake = FleetCa::generate(&thief.trust().bundle().fleet.to_string(), now)?;
    let forged = namesake.issue_node(thief.uid().uuid(), &stranger.key().csr_der()?, now)?;
    stranger.renewed(Certificate::parse(forged.der)?)?;
    let (endpoint, tasks) = quic(&stranger).await?;
    let refused = endpoint.session(key, &[peer]).await.err().context("a stranger got in")?;
    assert!(matches!(refused, DialError::Refused(_)), "a stranger is refused, not unreachable: {refused}");
    tasks.shutdown(CUT).await?;

    let (endpoint, _tasks) = quic(&thief).await?;
    let session = endpoint.session(key, &[peer]).await?;
    session.ping().await?;
    fleet.cli()?.ok(&["node", "delete", "site-a", "--yes"])?;
    let closed = timeout(CUT, session.wait_closed()).await;
    let closed = closed.with_context(|| format!("the session of a deleted node lived on for {CUT:?}"))?;
    assert_eq!(closed.reason, CloseReason::NotAMember);
    let back = endpoint.session(key, &[peer]).await.err().context("a deleted node came back")?;
    assert!(matches!(back, DialError::Refused(_)), "{back}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_is_who_has_a_known_token_and_may_do_what_its_role_says() -> Result<()> {
    let scratch = Scratch::new()?;
    let control_plane = control_plane(&scratch)?;
    let (endpoint, ca) = (control_plane.grpc(), control_plane.ca());
    let guess = control_plane_pki::OperatorSecret::generate()?;
    for guess in [guess.expose().as_str(), "dwcpo1.guess", "x"] {
        let api = Api::with_token(&endpoint, &ca, guess)?;
        let refused = api.nodes().list_nodes(ListNodesRequest::default()).await.err().context("a guess got in")?;
        assert_eq!(reason(&refused), "Unauthenticated CREDENTIALS_REFUSED");
    }
    let made = control_plane.cli()?.json(&["operator", "create", "watcher", "--role", "viewer"])?;
    let viewer = Api::with_token(&endpoint, &ca, text(&made, "token")?)?;
    viewer.nodes().list_nodes(ListNodesRequest::default()).await?;
    viewer.join_tokens().list_join_tokens(ListJoinTokensRequest::default()).await?;
    let raise = CreateOperatorTokenRequest {
        display_name: "myself".to_owned(),
        role: Role::Admin.into(),
        ..CreateOperatorTokenRequest::default()
    };
    let refused =
        viewer.operator_tokens().create_operator_token(raise).await.err().context("a viewer made an admin")?;
    assert_eq!(reason(&refused), "PermissionDenied ROLE_TOO_LOW");
    let token: &Value = &made["operatorToken"];
    control_plane.cli()?.ok(&["operator", "revoke", text(token, "name")?])?;
    let refused = viewer.nodes().list_nodes(ListNodesRequest::default()).await.err().context("revoked, and let in")?;
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    Ok(())
}
