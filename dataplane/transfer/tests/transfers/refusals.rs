//! Nothing is received without the right to send it.

use chrono::TimeDelta;
use dataplane_transfer::{Received, SendAuthority, SendJob};
use ed25519_dalek::SigningKey;
use proto_model::{DirectRequest, Labels, PublicKey, TransferOptions, TransferState};
use proto_wire::grant;

use crate::bed::{Bed, id, tree};

fn bed() -> Bed {
    let bed = Bed::new();
    std::fs::write(bed.a.root.join("file"), b"contents").unwrap();
    bed
}

/// Sends, and expects to fail for this reason with nothing written at B.
async fn refused(bed: &Bed, job: SendJob, reason: &str) {
    let (report, wires) = bed.send_job(job, Vec::new()).await;
    assert_eq!(report.state, TransferState::Failed, "{report:?}");
    assert_eq!(report.error.as_ref().unwrap().reason, reason, "{report:?}");
    assert!(tree(&bed.b.root).is_empty());
    assert!(wires.bytes().iter().all(|bytes| *bytes == 0));
    assert!(bed.b.leftovers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_must_be_the_fleets_and_for_these_two_nodes_and_this_time() {
    let bed = bed();
    let grant = bed.grant(&["data:/file"], "data:/", TransferOptions::default());
    let fresh = || proto_model::Grant { transfer: id(), ..grant.clone() };

    let forged = grant::sign(&SigningKey::from_bytes(&[7; 32]), &fresh());
    refused(&bed, SendJob { authority: SendAuthority::Grant(forged), traceparent: None }, "GRANT_INVALID").await;
    let past = grant.not_before - TimeDelta::days(2);
    let expired = proto_model::Grant { not_before: past, not_after: past + TimeDelta::days(1), ..fresh() };
    refused(&bed, bed.job(&expired), "GRANT_EXPIRED").await;
    let epoch = proto_model::Grant { epoch: 7.into(), ..fresh() };
    refused(&bed, bed.job(&epoch), "GRANT_INVALID").await;
    let stranger = PublicKey::from_bytes(bed.stranger.public_key().as_bytes()).unwrap();
    let elsewhere =
        proto_model::Grant { destination: proto_model::GrantParty { key: stranger, ..grant.destination }, ..fresh() };
    refused(&bed, bed.job(&elsewhere), "GRANT_INVALID").await;
    let not_ours = proto_model::Grant { source: proto_model::GrantParty { key: stranger, ..grant.source }, ..fresh() };
    refused(&bed, bed.job(&not_ours), "GRANT_INVALID").await;
    let no_root = bed.grant(&["data:/file"], "nowhere:/", TransferOptions::default());
    refused(&bed, bed.job(&no_root), "NO_SUCH_ROOT").await;
    bed.b.set_roots(true, &[]);
    refused(&bed, bed.job(&fresh()), "READ_ONLY_ROOT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_grant_is_of_no_use_to_another_node() {
    let bed = bed();
    let grant = bed.grant(&["data:/file"], "data:/", TransferOptions::default());
    let open = crate::liars::opening(&bed, &grant);
    let outcome = crate::liars::Liar::dial(&bed, bed.stranger.public_key()).run(vec![open]).await;
    assert!(matches!(outcome, Received::Refused(error) if error.reason == "GRANT_INVALID"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_transfer_is_refused() {
    let bed = bed();
    let grant = bed.grant(&["data:/file"], "data:/", TransferOptions::default());
    let (report, _) = bed.send_job(bed.job(&grant), Vec::new()).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    // Its sender knows how it ended.
    let (again, wires) = bed.send_job(bed.job(&grant), Vec::new()).await;
    assert_eq!((again.state, again.tree_digest), (TransferState::Succeeded, report.tree_digest));
    assert!(wires.bytes().is_empty());
    let open = crate::liars::opening(&bed, &grant);
    let outcome = crate::liars::Liar::dial(&bed, bed.a.identity.public_key()).run(vec![open]).await;
    assert!(matches!(outcome, Received::Refused(error) if error.reason == "ALREADY_FINISHED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_send_needs_the_roots_own_word() {
    let bed = bed();
    let direct = || {
        let request = DirectRequest {
            transfer: id(),
            source_paths: vec!["data:/file".parse().unwrap()],
            destination_path: "data:/".parse().unwrap(),
            options: TransferOptions::default(),
        };
        let authority = SendAuthority::Direct { request: Box::new(request), peer: bed.b.identity.public_key() };
        SendJob { authority, traceparent: None }
    };
    refused(&bed, direct(), "NOT_ACCEPTED").await;
    bed.b.set_roots(false, &["c", "region=south"]);
    refused(&bed, direct(), "NOT_ACCEPTED").await;
    bed.fleet.enter(&bed.a.identity, "a", Labels::from_pairs([("region", "south")]).unwrap());
    bed.fleet.share([&bed.b.identity]);
    let (report, _) = bed.send_job(direct(), Vec::new()).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(std::fs::read(bed.b.root.join("file")).unwrap(), b"contents");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_on_bytes_and_a_reserve_hold_before_the_first_byte() {
    let bed = Bed::new();
    std::fs::write(bed.a.root.join("file"), vec![7; 1_000_000]).unwrap();
    let max_bytes = Some(proto_model::ByteCount::new(999_999));
    let grant = bed.grant(&["data:/file"], "data:/", TransferOptions { max_bytes, ..TransferOptions::default() });
    refused(&bed, bed.job(&grant), "TOO_MANY_BYTES").await;
    let reserve = proto_model::ByteCount::new(1 << 60);
    bed.b.transfers.set_settings(dataplane_transfer::Settings { reserve, ..crate::bed::settings() });
    let grant = bed.grant(&["data:/file"], "data:/", TransferOptions::default());
    refused(&bed, bed.job(&grant), "NO_SPACE").await;
}
