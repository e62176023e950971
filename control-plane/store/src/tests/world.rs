//! A migrated database of one test, with a fleet in it, and hosts that want in.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use control_plane_pki::{JoinSecret, SealKey};
use ed25519_dalek::{Signer as _, SigningKey, pkcs8::EncodePrivateKey as _};
use foundation_runtime::{Clock, ManualClock, TaskGroup};
use proto_model::{HostFacts, Labels, NodeName, PublicKey};
use rustls_pki_types::PrivatePkcs8KeyDer;

use crate::{
    Context, Db, Keys, Options,
    enrolment::{self, Candidate, EnrolError, Enrolled, RenewError, Renewal},
    join_tokens::{self, NewJoinToken},
};

pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) db: Db,
    pub(crate) keys: Arc<Keys>,
    pub(crate) seal: Arc<SealKey>,
    pub(crate) clock: Clock,
    pub(crate) hand: ManualClock,
    pub(crate) tasks: TaskGroup,
}

/// A host with its key.
pub(crate) struct Host(pub(crate) SigningKey);

pub(crate) fn start_of_time() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).unwrap()
}

impl World {
    pub(crate) async fn new() -> Self {
        let url = tests_postgres::cluster().database();
        let (clock, hand) = Clock::manual(start_of_time());
        let tasks = TaskGroup::new("test");
        let seal = Arc::new(SealKey::generate().unwrap().0);
        let db = Db::connect(Options::new(&url), clock.clone(), &tasks).await.unwrap();
        db.migrate().await.unwrap();
        let keys = Keys::load_or_create(&db, &seal).await.unwrap();
        Self { url, db, keys, seal, clock, hand, tasks }
    }

    /// Another server over the same database.
    pub(crate) async fn another_server(&self) -> (Db, Arc<Keys>) {
        let db = Db::connect(Options::new(&self.url), self.clock.clone(), &self.tasks).await.unwrap();
        let keys = Keys::load_or_create(&db, &self.seal).await.unwrap();
        (db, keys)
    }

    pub(crate) async fn token(&self, max_uses: i32, name: Option<&str>) -> String {
        let new = NewJoinToken {
            ttl: TimeDelta::hours(1),
            max_uses,
            node_labels: Labels::from_pairs([("region", "north")]).unwrap(),
            relay: false,
            node_name: name.map(|name| name.parse().unwrap()),
        };
        let made =
            self.db.write("test", Context::system(), move |tx| Box::pin(join_tokens::create(tx, new))).await.unwrap();
        made.1.unwrap().expose().to_string()
    }

    pub(crate) async fn enrol(&self, host: &Host, token: &str, name: &str) -> Result<Enrolled, EnrolError> {
        enrol_over(&self.db, &self.keys, host, token, name).await
    }

    pub(crate) async fn node(&self, name: &str) -> Enrolled {
        let token = self.token(1, None).await;
        self.enrol(&Host::new(name), &token, name).await.unwrap()
    }

    pub(crate) async fn renew(&self, host: &Host, renewal: Renewal) -> Result<Enrolled, RenewError> {
        let (keys, _) = (self.keys.clone(), host);
        self.db
            .write("test", Context::system(), move |tx| {
                Box::pin(async move { enrolment::renew(tx, &keys, renewal).await })
            })
            .await
    }

    pub(crate) fn sql(&self, statement: &str) -> String {
        tests_postgres::cluster().sql(&self.url, statement)
    }
}

pub(crate) async fn enrol_over(
    db: &Db,
    keys: &Arc<Keys>,
    host: &Host,
    token: &str,
    name: &str,
) -> Result<Enrolled, EnrolError> {
    let candidate = Candidate {
        secret: JoinSecret::parse(token).unwrap(),
        csr: host.csr(),
        name: Some(name.parse::<NodeName>().unwrap()),
        facts: HostFacts { hostname: name.to_owned(), ..HostFacts::default() },
        remote: "192.0.2.7:50000".to_owned(),
    };
    let keys = Arc::clone(keys);
    db.write("test", Context::system(), move |tx| Box::pin(async move { enrolment::enrol(tx, &keys, candidate).await }))
        .await
}

impl Host {
    /// The same name gives the same key.
    pub(crate) fn new(name: &str) -> Self {
        Self(SigningKey::from_bytes(proto_model::Digest::sha256(name.as_bytes()).as_bytes()))
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey::try_from(self.0.verifying_key()).unwrap()
    }

    pub(crate) fn csr(&self) -> Vec<u8> {
        let pkcs8 = self.0.to_pkcs8_der().unwrap();
        let key = PrivatePkcs8KeyDer::from(pkcs8.as_bytes());
        let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519).unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        request.der().to_vec()
    }

    pub(crate) fn renewal(&self, uid: proto_model::NodeUid, time: DateTime<Utc>) -> Renewal {
        let (csr, time_ms) = (self.csr(), time.timestamp_millis());
        let message = proto_wire::renew::message(uid.uuid().as_bytes(), time_ms, &csr);
        Renewal { uid, signature: self.0.sign(&message).to_bytes(), csr, time_ms }
    }
}
