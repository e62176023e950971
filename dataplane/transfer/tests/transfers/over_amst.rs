//! The same over real QUIC on loopback.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use dataplane_amst::{Endpoint, Limits, TransportSettings};
use dataplane_identity::Identity;
use dataplane_transfer::{Connector, Link, LinkError, Sent, Transfers};
use foundation_runtime::{Clock, OnEnd, TaskGroup};
use futures::{FutureExt, future::BoxFuture};
use proto_model::{Grant, PublicKey, TransferOptions, TransferReport, TransferRole, TransferState};
use tokio::sync::watch;

use crate::bed::{Bed, Host, PATIENCE, noise, tree};

/// Dials one address.
pub(crate) struct Dial {
    pub(crate) endpoint: Endpoint,
    pub(crate) to: SocketAddr,
}

impl Connector for Dial {
    fn connect(&self, peer: PublicKey) -> BoxFuture<'_, Result<Link, LinkError>> {
        let failed = |message: String, temporary| LinkError { message, temporary };
        async move {
            let session = self.endpoint.session(peer, &[self.to]).await;
            let session = session.map_err(|error| failed(error.to_string(), error.is_temporary()))?;
            let channel = session.open_channel().await;
            let channel = channel.map_err(|error| failed(error.to_string(), error.is_temporary()))?;
            Ok(Link::of_channel(channel, Some(session)))
        }
        .boxed()
    }
}

pub(crate) async fn endpoint(
    identity: &Identity,
    tasks: &TaskGroup,
    sockets: usize,
    settings: TransportSettings,
) -> Endpoint {
    let options = dataplane_amst::Options {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        sockets,
        identity: identity.clone(),
        settings,
        limits: Limits::default(),
    };
    Endpoint::bind(options, Clock::system(), tasks.clone()).await.unwrap()
}

/// Takes every channel that is opened.
pub(crate) fn serve(endpoint: Endpoint, transfers: Transfers, tasks: &TaskGroup) {
    let group = tasks.clone();
    tasks.spawn("serve", OnEnd::Expected, async move {
        while let Some(incoming) = endpoint.next_channel().await {
            let transfers = transfers.clone();
            group.spawn("receive", OnEnd::Expected, async move {
                let link = Link::of_channel(incoming.channel, None);
                drop(Box::pin(transfers.receive(link, |_reports| {})).await);
            });
        }
    });
}

pub(crate) async fn send(bed: &Bed, from: &Host, connector: &Arc<dyn Connector>, grant: Grant) -> TransferReport {
    let (reports, _keep) = watch::channel(TransferReport::new(grant.transfer, TransferRole::Sender));
    let sent = from.transfers.send(bed.job(&grant), Arc::clone(connector), reports);
    match tokio::time::timeout(PATIENCE, Box::pin(sent)).await.unwrap() {
        Sent::Ended(report) => report,
        Sent::Interrupted(report) => panic!("interrupted: {report:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_crosses_and_comes_again_for_nothing() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let bed = Bed::new();
    for n in 0..300 {
        fs::create_dir_all(bed.a.root.join(format!("d{}", n % 7))).unwrap();
        fs::write(bed.a.root.join(format!("d{}/{n}", n % 7)), noise(n, usize::try_from(n * 37).unwrap())).unwrap();
    }
    fs::write(bed.a.root.join("large"), noise(1, 40 << 20)).unwrap();
    let of = async |host: &Host| endpoint(&host.identity, &host.tasks, 1, TransportSettings::default()).await;
    let (ours, theirs) = (of(&bed.a).await, of(&bed.b).await);
    serve(theirs.clone(), bed.b.transfers.clone(), &bed.b.tasks);
    let connector: Arc<dyn Connector> = Arc::new(Dial { endpoint: ours, to: theirs.local_addr() });
    let settings = |segment_bytes| dataplane_transfer::Settings { segment_bytes, ..crate::bed::settings() };
    bed.a.transfers.set_settings(settings(1 << 20));
    let grant = || bed.grant(&["data:/"], "data:/", TransferOptions::default());
    let first = send(&bed, &bed.a, &connector, grant()).await;
    assert_eq!(first.state, TransferState::Succeeded, "{first:?}");
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
    let path = first.path.unwrap();
    assert!(path.lanes >= 1 && path.streams >= 1 && path.remote_address == Some(theirs.local_addr()));

    let again = send(&bed, &bed.a, &connector, grant()).await;
    assert_eq!((again.state, again.progress.bytes_sent.bytes()), (TransferState::Succeeded, 0));

    // The longest segments travel in several pieces each.
    fs::remove_file(bed.b.root.join("large")).unwrap();
    bed.a.transfers.set_settings(settings(4 << 20));
    let large = send(&bed, &bed.a, &connector, grant()).await;
    assert_eq!(large.state, TransferState::Succeeded, "{large:?}");
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
    bed.a.tasks.shutdown(PATIENCE).await.unwrap();
    bed.b.tasks.shutdown(PATIENCE).await.unwrap();
}
