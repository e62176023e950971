//! A stolen agent key opens nothing: what is sent without a grant, or with one for something else, somebody else or another
//! time, is refused with its reason, and nothing is written.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use chrono::TimeDelta;
use dataplane_amst::{Endpoint, Limits, Options, Session, TransportSettings};
use dataplane_identity::Identity;
use ed25519_dalek::SigningKey;
use foundation_runtime::{Clock, TaskGroup};
use proto_model::{
    DirectRequest, Grant, GrantParty, NodeName, PublicKey, SyncGrant, SyncId, TransferId, TransferOptions,
};
use proto_wire::{
    Signed,
    frames::{Authority, Open, ReceiverFrame, SenderFrame},
    grant,
    sync::{OpenSync, SyncSource},
};
use tests_harness::{Fleet, FleetOptions, digest_tree, eventually, fleet_keys};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

/// An agent's key in the hands of a thief, and a session with the agent that is attacked.
struct Thief {
    identity: Identity,
    session: Session,
    victim: GrantParty,
    clock: Clock,
    _tasks: TaskGroup,
}

/// Stops the first agent, takes its credentials, and dials the second with them.
async fn thief(fleet: &mut Fleet) -> Result<Thief> {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let (dir, name): (_, NodeName) = (fleet.agents[0].dir().to_path_buf(), fleet.agents[1].name().parse()?);
    let victim = eventually("the thief's agent to know its victim", LIMIT, || {
        let known = Identity::open(&dir)?.context("the agent has joined")?;
        Ok(known.membership().by_name(&name).map(|member| GrantParty { uid: member.uid, key: member.public_key }))
    })?;
    fleet.agents[0].stop()?;
    let stolen = fleet.scratch.folder("stolen")?;
    for entry in fs::read_dir(&dir)?.flatten() {
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), stolen.join(entry.file_name()))?;
        }
    }
    let identity = Identity::open(&stolen)?.context("all of it was copied")?;
    let (clock, tasks) = (Clock::system(), TaskGroup::new("thief"));
    let options = Options {
        listen: "127.0.0.1:0".parse()?,
        sockets: 1,
        identity: identity.clone(),
        settings: TransportSettings::default(),
        limits: Limits::default(),
    };
    let endpoint = Endpoint::bind(options, clock.clone(), tasks.clone()).await?;
    let address: SocketAddr = fleet.agents[1].quic().parse()?;
    let session = endpoint.session(victim.key, &[address]).await?;
    Ok(Thief { identity, session, victim, clock, _tasks: tasks })
}

impl Thief {
    fn me(&self) -> GrantParty {
        GrantParty { uid: self.identity.uid(), key: self.identity.public_key() }
    }

    fn transfer(&self) -> TransferId {
        let random = *uuid::Uuid::new_v4().as_bytes();
        TransferId::from_parts(self.clock.unix_ms().unsigned_abs(), random.first_chunk().expect("16 bytes hold 10"))
    }

    /// What the control plane would have granted, had it been asked.
    fn grant(&self, destination: &str) -> Result<Grant> {
        let (bundle, now) = (self.identity.trust().bundle(), self.clock.utc());
        Ok(Grant {
            fleet: bundle.fleet,
            epoch: bundle.epoch,
            transfer: self.transfer(),
            source: self.me(),
            destination: self.victim,
            source_paths: vec!["data:/set".parse()?],
            destination_path: destination.parse()?,
            options: TransferOptions::default(),
            not_before: now - TimeDelta::minutes(1),
            not_after: now + TimeDelta::hours(1),
        })
    }

    /// Opens a transfer, and what came of it: `OPENED`, or the reason of the refusal.
    async fn open(&self, transfer: TransferId, authority: Authority) -> Result<String> {
        let open =
            Open { transfer, authority, traceparent: None, features: Vec::new(), segment_bytes: 1 << 20, order: 0 };
        let mut channel = self.session.open_channel().await?;
        channel.control_tx.send(&SenderFrame::Open(Box::new(open)).encode()).await?;
        let frame = timeout(LIMIT, channel.control_rx.recv()).await.context("no answer to the opening")??;
        match ReceiverFrame::decode(&frame.context("the channel ended without an answer")?)? {
            ReceiverFrame::Opened(_) => Ok("OPENED".to_owned()),
            ReceiverFrame::Abort(abort) => {
                ensure!(!abort.message.is_empty(), "{} says nothing", abort.reason);
                Ok(abort.reason)
            }
            other => anyhow::bail!("an opening is answered with {other:?}"),
        }
    }

    async fn present(&self, grant: &Grant, key: &SigningKey) -> Result<String> {
        self.open(grant.transfer, Authority::Grant(grant::sign(key, grant))).await
    }
}

/// A standing grant of a sync to the victim.
fn standing(thief: &Thief, destination: &str, serial: u64) -> Result<SyncGrant> {
    let mut grant = thief.grant(destination)?;
    grant.options.delete = true;
    Ok(SyncGrant { grant, name: "stolen".parse()?, serial, overwrite: 0 })
}

impl Thief {
    async fn run(&self, grant: &Signed, sync: &SyncGrant, run: u64) -> Result<String> {
        let opened = OpenSync { grant: grant.clone(), run, source: SyncSource::Contents };
        self.open(sync.sync().run(run), Authority::Sync(opened)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standing_grant_lets_in_only_the_runs_of_its_own_sync_in_order_and_by_the_newest_grant() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let keys = fleet_keys(&fleet.control_plane).await?;
    let cli = fleet.cli()?;
    // A sync that has run, and its grant, which lies on the sender's disk.
    let set = fleet.agents[0].root("data").join("set");
    fs::create_dir_all(&set)?;
    fs::write(set.join("file"), b"1")?;
    cli.json(&[
        "sync",
        "create",
        "--from",
        "site-a",
        "data:/set/",
        "site-b:data:/real",
        "--name",
        "real",
        "--every",
        "1h",
    ])?;
    let ran = eventually("the first run", LIMIT, || {
        let sync = cli.json(&["sync", "get", "real"])?;
        Ok((sync["state"] == "IN_STEP").then_some(sync))
    })?;
    let sync: SyncId = ran["uid"].as_str().context("an uid")?.parse()?;
    let kept = fs::read(fleet.agents[0].dir().join(format!("syncs/{sync}.json")))?;
    let kept: serde_json::Value = serde_json::from_slice(foundation_runtime::checked::open(&kept)?)?;
    let real = Signed::from_bytes(&hex::decode(kept["grant"].as_str().context("a grant")?)?)?;
    let of_real = proto_wire::sync::open(&keys.grant().verifying_key(), &real)?;
    let thief = thief(&mut fleet).await?;

    // A run that has ended is refused again, and so is its transfer under another number, or as no run at all.
    assert_eq!(thief.run(&real, &of_real, 1).await?, "ALREADY_FINISHED");
    let opened = |run| Authority::Sync(OpenSync { grant: real.clone(), run, source: SyncSource::Contents });
    assert_eq!(thief.open(sync.run(1), opened(2)).await?, "GRANT_INVALID");
    assert_eq!(thief.open(TransferId::new(sync.uuid()), Authority::Grant(real.clone())).await?, "GRANT_INVALID");
    // Altered, or signed by somebody else.
    let mut altered = real.clone();
    let last = altered.payload.last_mut().context("a payload")?;
    *last ^= 1;
    assert_eq!(thief.run(&altered, &of_real, 2).await?, "GRANT_INVALID");
    let mine = proto_wire::sync::sign(&SigningKey::from_bytes(&[5; 32]), &of_real);
    assert_eq!(thief.run(&mine, &of_real, 2).await?, "GRANT_INVALID");

    // What the control plane would sign: for others, or for a time that is over.
    let sign = |sync: &SyncGrant| proto_wire::sync::sign(keys.grant(), sync);
    let mut foreign = standing(&thief, "data:/in", 1)?;
    foreign.grant.source = stranger()?;
    assert_eq!(thief.run(&sign(&foreign), &foreign, 1).await?, "GRANT_INVALID");
    let mut elsewhere = standing(&thief, "data:/in", 1)?;
    elsewhere.grant.destination = stranger()?;
    assert_eq!(thief.run(&sign(&elsewhere), &elsewhere, 1).await?, "GRANT_INVALID");
    let mut over = standing(&thief, "data:/in", 1)?;
    over.grant.not_before -= TimeDelta::hours(9);
    over.grant.not_after -= TimeDelta::hours(8);
    assert_eq!(thief.run(&sign(&over), &over, 1).await?, "GRANT_EXPIRED");
    // A grant for one transfer is none for runs.
    let once = standing(&thief, "data:/in", 1)?;
    assert_eq!(thief.run(&grant::sign(keys.grant(), &once.grant), &once, 1).await?, "GRANT_INVALID");

    // Numbers only grow, and the newest grant counts.
    let first = standing(&thief, "data:/in", 4)?;
    assert_eq!(thief.run(&sign(&first), &first, 5).await?, "OPENED");
    assert_eq!(thief.run(&sign(&first), &first, 4).await?, "ALREADY_FINISHED");
    let older = SyncGrant { serial: 3, ..first.clone() };
    assert_eq!(thief.run(&sign(&older), &older, 6).await?, "GRANT_SUPERSEDED");
    fleet.agents[1].kill()?;
    fleet.agents[1].restart()?;
    let kept = fs::read_dir(fleet.agents[1].dir().join("transfers/syncs"))?.flatten();
    let states: Vec<_> = kept.filter_map(|entry| fs::read_to_string(entry.path().join("state")).ok()).collect();
    ensure!(states.iter().any(|state| state.contains("\"run\":5")), "{states:?}");
    Ok(())
}

/// What a node could do to a victim's root must leave no trace there.
fn untouched(root: &Path) -> Result<()> {
    let found: Vec<_> =
        digest_tree(root)?.into_keys().map(|path| String::from_utf8_lossy(&path).into_owned()).collect();
    assert!(found.is_empty(), "written: {found:?}");
    Ok(())
}

fn stranger() -> Result<GrantParty> {
    let key = SigningKey::from_bytes(&[7; 32]).verifying_key();
    Ok(GrantParty { uid: uuid::Uuid::new_v4().into(), key: PublicKey::try_from(key)? })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_key_without_the_right_grant_writes_nothing() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let keys = fleet_keys(&fleet.control_plane).await?;
    let thief = thief(&mut fleet).await?;
    let root = fleet.agents[1].root("data");
    let asked = thief.grant("data:/in")?;
    let other = stranger()?;
    let now = thief.clock.utc();

    // Without one: only the root's owner could have accepted it.
    let direct = DirectRequest {
        transfer: asked.transfer,
        source_paths: asked.source_paths.clone(),
        destination_path: asked.destination_path.clone(),
        options: TransferOptions::default(),
    };
    assert_eq!(thief.open(asked.transfer, Authority::Direct(direct)).await?, "NOT_ACCEPTED");
    // One that the thief signed itself: with its own key, and with one of its own making.
    assert_eq!(thief.present(&asked, thief.identity.key().signing_key()).await?, "GRANT_INVALID");
    assert_eq!(thief.present(&asked, &SigningKey::from_bytes(&[9; 32])).await?, "GRANT_INVALID");
    // A real one whose path was changed afterwards.
    let mut moved = grant::sign(keys.grant(), &asked);
    let elsewhere = grant::sign(keys.grant(), &Grant { destination_path: "data:/".parse()?, ..asked.clone() });
    moved.payload = elsewhere.payload;
    assert_eq!(thief.open(asked.transfer, Authority::Grant(moved)).await?, "GRANT_INVALID");
    // Real ones, for something else.
    for (what, grant, reason) in [
        ("another sender", Grant { source: other, ..asked.clone() }, "GRANT_INVALID"),
        ("another receiver", Grant { destination: other, ..asked.clone() }, "GRANT_INVALID"),
        ("another epoch", Grant { epoch: 77.into(), ..asked.clone() }, "GRANT_OF_OTHER_EPOCH"),
        ("another fleet", Grant { fleet: uuid::Uuid::new_v4().into(), ..asked.clone() }, "GRANT_INVALID"),
        ("no root of the host", Grant { destination_path: "vault:/".parse()?, ..asked.clone() }, "NO_SUCH_ROOT"),
        (
            "yesterday",
            Grant { not_before: now - TimeDelta::hours(2), not_after: now - TimeDelta::minutes(6), ..asked.clone() },
            "GRANT_EXPIRED",
        ),
        (
            "tomorrow",
            Grant { not_before: now + TimeDelta::hours(1), not_after: now + TimeDelta::hours(2), ..asked.clone() },
            "GRANT_NOT_YET_VALID",
        ),
    ] {
        assert_eq!(thief.present(&grant, keys.grant()).await?, reason, "a grant for {what}");
    }
    // For another transfer than the one that is opened.
    let signed = grant::sign(keys.grant(), &asked);
    assert_eq!(thief.open(thief.transfer(), Authority::Grant(signed)).await?, "GRANT_INVALID");
    untouched(&root)?;

    // With the right one it is let in, so that what refused the others was the grant.
    assert_eq!(thief.present(&asked, keys.grant()).await?, "OPENED");

    // What was refused stands in the audit log, on the word of who refused it, with a count and without what was sent.
    let cli = fleet.cli()?;
    let expired = eventually("the refusals in the audit log", LIMIT, || {
        let events = cli.json(&["audit", "list", "--filter", "action=transfer.refuse_peer,outcome=refused"])?;
        let events = events["auditEvents"].as_array().cloned().unwrap_or_default();
        Ok(events.into_iter().find(|event| event["detail"]["reason"] == "GRANT_EXPIRED"))
    })?;
    assert_eq!(expired["actor"], format!("node:{}", fleet.agents[1].name()));
    assert_eq!(expired["resource"], format!("nodes/{}", thief.me().uid));
    assert_eq!(expired["detail"]["count"], 1.0);
    Ok(())
}

/// The grant of a transfer, as the control plane stored it.
fn stored_grant(fleet: &Fleet, name: &str) -> Result<(TransferId, Signed)> {
    let id = name.strip_prefix("transfers/").context("a transfer's name")?;
    let query = format!("SELECT encode(grant_signature || grant_payload, 'hex') FROM transfers WHERE id = '{id}'");
    let row = tests_postgres::sql(&fleet.control_plane.database_url(), &query);
    Ok((id.parse()?, Signed::from_bytes(&hex::decode(row)?)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_transfers_grant_is_good_for_nothing_more() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let source = fleet.agents[0].root("data").join("set");
    fs::create_dir_all(&source)?;
    fs::write(source.join("file"), "contents")?;
    let cli = fleet.cli()?;
    let sent = cli.json(&["send", "--from", "site-a", "data:/set", "site-b:data:/in"])?;
    assert_eq!(sent["state"], "SUCCEEDED", "{sent:#}");
    let (transfer, signed) = stored_grant(&fleet, sent["name"].as_str().context("a name")?)?;
    let target = fleet.agents[1].root("data");
    fs::remove_dir_all(target.join("in"))?;

    let thief = thief(&mut fleet).await?;
    assert_eq!(thief.open(transfer, Authority::Grant(signed.clone())).await?, "ALREADY_FINISHED");
    // Nor after the receiver has been started anew: it remembers as long as the grant lasts.
    drop(thief);
    fleet.agents[1].stop()?;
    fleet.agents[1].restart()?;
    fleet.agents[0].restart()?;
    fs::remove_dir_all(fleet.scratch.path().join("stolen"))?;
    let thief = self::thief(&mut fleet).await?;
    assert_eq!(thief.open(transfer, Authority::Grant(signed)).await?, "ALREADY_FINISHED");
    untouched(&target)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_root_is_not_written_to_whoever_granted_it() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let root = fleet.agents[1].root("data");
    let read_only = format!("data={}:ro", root.display());
    fleet.agents[1].stop()?;
    fleet.agents[1].options_mut().roots.clear();
    fleet.agents[1].options_mut().arguments = vec!["--root".to_owned(), read_only];
    fleet.agents[1].restart()?;
    fleet.all_ready()?;
    let source = fleet.agents[0].root("data").join("set");
    fs::create_dir_all(&source)?;
    fs::write(source.join("file"), "contents")?;

    // By the operator, to whom it is said.
    let refused = fleet.cli()?.run(&["send", "--from", "site-a", "data:/set", "site-b:data:/in"])?;
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains("reading only"), "{refused:?}");
    // And past the control plane, with a grant in its name.
    let keys = fleet_keys(&fleet.control_plane).await?;
    let thief = thief(&mut fleet).await?;
    let reason = thief.present(&thief.grant("data:/in")?, keys.grant()).await?;
    assert_eq!(reason, "READ_ONLY_ROOT");
    untouched(&root)
}
