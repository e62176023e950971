use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use dataplane_identity::{Identity, testing::TestFleet};
use foundation_runtime::{Clock, TaskGroup};

use super::*;
use crate::{Endpoint, Limits, Options};

async fn endpoint(identity: &Identity, lanes: u32) -> Endpoint {
    let options = Options {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        sockets: 3,
        identity: identity.clone(),
        settings: TransportSettings { lanes, ..TransportSettings::default() },
        limits: Limits::default(),
    };
    Endpoint::bind(options, Clock::system(), TaskGroup::new("test")).await.unwrap()
}

async fn until(what: impl Fn() -> bool) {
    let met = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), met).await.unwrap();
}

#[tokio::test]
async fn who_dialled_opens_and_retires_lanes_as_the_other_end_wants_within_its_own_bounds() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let fleet = TestFleet::new();
    let (a, b) = (fleet.node(dirs[0].path(), "a"), fleet.node(dirs[1].path(), "b"));
    fleet.share([&a, &b]);
    let (here, there) = (endpoint(&a, 0).await, endpoint(&b, 0).await);
    let session = here.session(b.public_key(), &[there.local_addr()]).await.unwrap();
    let theirs = there.present_session(&a.public_key()).unwrap();
    // Eight are more than the dialler has sockets.
    for (wanted, lanes) in [(2, 2), (8, 3), (1, 1), (3, 3)] {
        theirs.0.outbox.want_lanes(wanted);
        until(|| session.lane_count() == lanes && theirs.lane_count() == lanes).await;
    }
    // A fixed number is fixed, and holds at once.
    here.retune(TransportSettings { lanes: 2, ..here.settings() }).unwrap();
    until(|| session.lane_count() == 2 && theirs.lane_count() == 2).await;
    theirs.0.outbox.want_lanes(3);
    session.ping().await.unwrap();
    assert!(session.lane_count() == 2 && session.closed().is_none());
}
