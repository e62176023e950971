//! Nothing is received without the right to send it.

use chrono::TimeDelta;
use dataplane_transfer::{Received, SendAuthority, SendJob};
use ed25519_dalek::SigningKey;
use proto_model::{DirectRequest, Grant, Labels, PublicKey, TransferId, TransferOptions, TransferState};
use proto_wire::{
    Signed,
    frames::{Authority, Open, SenderFrame},
    grant,
};

use crate::{
    bed::{Bed, id, tree},
    liars::{Liar, Step},
};

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
    let fresh = || Grant { transfer: id(), ..grant.clone() };

    let forged = grant::sign(&SigningKey::from_bytes(&[7; 32]), &fresh());
    refused(&bed, SendJob { authority: SendAuthority::Grant(forged), traceparent: None }, "GRANT_INVALID").await;
    let past = grant.not_before - TimeDelta::days(2);
    let expired = Grant { not_before: past, not_after: past + TimeDelta::days(1), ..fresh() };
    refused(&bed, bed.job(&expired), "GRANT_EXPIRED").await;
    let stranger = PublicKey::from_bytes(bed.stranger.public_key().as_bytes()).unwrap();
    let elsewhere = Grant { destination: proto_model::GrantParty { key: stranger, ..grant.destination }, ..fresh() };
    refused(&bed, bed.job(&elsewhere), "GRANT_INVALID").await;
    let not_ours = Grant { source: proto_model::GrantParty { key: stranger, ..grant.source }, ..fresh() };
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
    let outcome = Liar::dial(&bed, bed.stranger.public_key()).run(vec![open]).await;
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
    let outcome = Liar::dial(&bed, bed.a.identity.public_key()).run(vec![open]).await;
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

/// What the receiver answers to an opening of A's that has this grant for this transfer.
async fn answer(bed: &Bed, grant: Signed, transfer: TransferId) -> String {
    let open = Open {
        transfer,
        authority: Authority::Grant(grant),
        traceparent: None,
        features: Vec::new(),
        segment_bytes: 64 << 10,
        order: 0,
    };
    let open = Step::Frame(SenderFrame::Open(Box::new(open)).encode());
    let outcome = Liar::dial(bed, bed.a.identity.public_key()).run(vec![open]).await;
    assert!(tree(&bed.b.root).is_empty());
    let Received::Refused(error) = outcome else { return format!("{outcome:?}") };
    error.reason
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receiver_believes_no_sender_about_its_grant() {
    let bed = bed();
    let good = bed.grant(&["data:/file"], "data:/", TransferOptions::default());
    let (now, hour) = (good.not_before, TimeDelta::hours(1));
    // For another transfer; of another fleet or epoch; for later; over; of a key of the fleet that signs other things.
    assert_eq!(answer(&bed, bed.sign(&good), id()).await, "GRANT_INVALID");
    let wrong = [
        (Grant { fleet: "0192f0c1-7e2a-4cc3-98c4-dc0c0c07398f".parse().unwrap(), ..good.clone() }, "GRANT_INVALID"),
        (Grant { epoch: 9.into(), ..good.clone() }, "GRANT_OF_OTHER_EPOCH"),
        (Grant { epoch: 0.into(), ..good.clone() }, "GRANT_OF_OTHER_EPOCH"),
        (Grant { not_before: now + hour, not_after: now + hour * 2, ..good.clone() }, "GRANT_NOT_YET_VALID"),
        (Grant { not_before: now - hour * 2, not_after: now - hour, ..good.clone() }, "GRANT_EXPIRED"),
        (Grant { source: good.destination, destination: good.source, ..good.clone() }, "GRANT_INVALID"),
    ];
    for (grant, reason) in wrong {
        assert_eq!(answer(&bed, bed.sign(&grant), grant.transfer).await, reason);
    }
    let entry = bed.fleet.roster_after(0.into()).entries[0].clone();
    assert_eq!(answer(&bed, entry, good.transfer).await, "GRANT_INVALID");
    // Widened: any bit of it changed, and another path put in its place.
    let signed = bed.sign(&good);
    for at in (0..signed.payload.len()).step_by(7) {
        let mut altered = signed.clone();
        altered.payload[at] ^= 1;
        assert_eq!(answer(&bed, altered, good.transfer).await, "GRANT_INVALID", "byte {at}");
    }
    let wider = Grant { options: TransferOptions { delete: true, ..TransferOptions::default() }, ..good.clone() };
    let swapped = Signed { payload: bed.sign(&wider).payload, ..signed };
    assert_eq!(answer(&bed, swapped, good.transfer).await, "GRANT_INVALID");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_ends_with_its_grant() {
    let bed = bed();
    let good = bed.grant(&["data:/x"], "data:/", TransferOptions::default());
    // Over for a while, but not yet for a clock that is five minutes late; in some seconds it is over for all.
    let not_after = foundation_runtime::Clock::system().utc() - TimeDelta::minutes(5) + TimeDelta::seconds(4);
    let grant = Grant { not_before: not_after - TimeDelta::hours(1), not_after, ..good };
    let open = crate::liars::opening(&bed, &grant);
    let outcome = Liar::dial(&bed, bed.a.identity.public_key()).run(vec![open]).await;
    let Received::Ended(report) = outcome else { panic!("{outcome:?}") };
    assert_eq!((report.state, report.error.unwrap().reason), (TransferState::Failed, "GRANT_EXPIRED".to_owned()));
}
