//! The fleet's keys: made once, sealed in the database with a key that is a file of each server (D7).

use std::{fmt, sync::Arc};

use control_plane_audit as audit;
use control_plane_pki::{CaError, FleetCa, SealError, SealKey};
use ed25519_dalek::SigningKey;
use foundation_merkle::{CheckpointError, Hash};
use proto_model::{Epoch, FleetId, PublicKey, TrustBundle};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{AuditKey, Context, Db, Error, Event, Tx};

const TABLE: &str = "keys";
const CA: &str = "ca";
const ROSTER: &str = "roster";
const GRANT: &str = "grant";
const AUDIT: &str = "audit";

/// The fleet's keys, opened.
pub struct Keys {
    fleet: FleetId,
    epoch: Epoch,
    ca: FleetCa,
    roster: SigningKey,
    grant: SigningKey,
    audit_verifier_key: String,
    audit_key_certificate: Vec<u8>,
}

/// The keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The database failed.
    #[error("the fleet's keys cannot be read from the database")]
    Database(#[from] Error),
    /// They are sealed with another key, or damaged.
    #[error("the fleet's keys cannot be opened with this server's seal.key; give it the file of the first server")]
    Sealed(#[from] SealError),
    /// The certificate authority is damaged.
    #[error("the fleet's certificate authority cannot be used")]
    Ca(#[from] CaError),
    /// A key is not what it should be.
    #[error("the fleet's {0} key is damaged")]
    Damaged(&'static str),
    /// The audit key's name cannot be used.
    #[error("the audit key cannot be used")]
    Audit(#[from] CheckpointError),
    /// There is no randomness.
    #[error("the system gives no randomness")]
    NoRandomness,
}

impl Keys {
    /// Opens the fleet's keys, or makes the fleet where there is none: its id, its keys, the audit log with its first record. Gives `db`
    /// the audit key. Safe when several servers start at once.
    ///
    /// # Errors
    /// The database failed, or the keys are sealed with another seal key.
    pub async fn load_or_create(db: &Db, seal: &Arc<SealKey>) -> Result<Arc<Self>, KeysError> {
        if let Some(keys) = Self::load(db, seal).await? {
            return Ok(keys);
        }
        let (making, sealing) = (db.clone(), Arc::clone(seal));
        db.write("create-fleet", Context::system(), move |tx| {
            Box::pin(async move { create(tx, &making, &sealing).await })
        })
        .await?;
        Self::load(db, seal).await?.ok_or(KeysError::Damaged("only"))
    }

    /// Opens the fleet's keys; none where there is no fleet. Gives `db` the audit key.
    ///
    /// # Errors
    /// The database failed, or the keys are sealed with another seal key.
    pub async fn load(db: &Db, seal: &SealKey) -> Result<Option<Arc<Self>>, KeysError> {
        let stored = db.read(|connection| Box::pin(Stored::read(connection))).await?;
        let Some((keys, audit_key)) = stored.map(|stored| stored.open(seal)).transpose()? else { return Ok(None) };
        db.set_audit_key(audit_key);
        Ok(Some(Arc::new(keys)))
    }

    /// The fleet's id: the trust domain.
    #[must_use]
    pub fn fleet(&self) -> FleetId {
        self.fleet
    }

    /// Counts restores.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The certificate authority.
    #[must_use]
    pub fn ca(&self) -> &FleetCa {
        &self.ca
    }

    /// `sha256:` and the CA's fingerprint.
    #[must_use]
    pub fn ca_fingerprint(&self) -> String {
        format!("sha256:{}", hex::encode(self.ca.fingerprint()))
    }

    /// Signs roster entries and heads.
    #[must_use]
    pub fn roster(&self) -> &SigningKey {
        &self.roster
    }

    /// Signs grants.
    #[must_use]
    pub fn grant(&self) -> &SigningKey {
        &self.grant
    }

    /// The audit log's verifier key, as C2SP writes it.
    #[must_use]
    pub fn audit_verifier_key(&self) -> &str {
        &self.audit_verifier_key
    }

    /// The CA's signature over the audit log's verifier key.
    #[must_use]
    pub fn audit_key_certificate(&self) -> &[u8] {
        &self.audit_key_certificate
    }

    /// What agents trust.
    #[must_use]
    pub fn trust_bundle(&self) -> TrustBundle {
        let public = |key: &SigningKey| {
            PublicKey::try_from(key.verifying_key()).expect("a key that was made by chance is not a weak one")
        };
        TrustBundle {
            fleet: self.fleet,
            ca_certificate: self.ca.certificate_der().to_vec(),
            roster_key: public(&self.roster),
            grant_key: public(&self.grant),
            audit_verifier_key: self.audit_verifier_key.clone(),
            epoch: self.epoch,
        }
    }
}

/// What the database holds of the keys.
pub(crate) struct Stored {
    fleet: String,
    epoch: i64,
    rows: Vec<(String, Vec<u8>, Vec<u8>)>,
}

impl Stored {
    /// Reads it; none where there is no fleet.
    pub(crate) async fn read(connection: &mut PgConnection) -> Result<Option<Self>, Error> {
        let fleet = sqlx::query_as("SELECT fleet_id, epoch FROM fleet").fetch_optional(&mut *connection).await?;
        let Some((fleet, epoch)) = fleet else { return Ok(None) };
        let rows = sqlx::query_as("SELECT name, sealed, public_part FROM keys").fetch_all(connection).await?;
        Ok(Some(Self { fleet, epoch, rows }))
    }

    /// Opens what is sealed.
    pub(crate) fn open(self, seal: &SealKey) -> Result<(Keys, AuditKey), KeysError> {
        let fleet: FleetId = self.fleet.parse().map_err(|_form| Error::Damaged("fleet id"))?;
        let epoch = u64::try_from(self.epoch).map_err(|_negative| Error::Damaged("epoch"))?;
        let row =
            |name: &'static str| self.rows.iter().find(|(found, ..)| found == name).ok_or(KeysError::Damaged(name));
        let signing_key = |name: &'static str| {
            let secret = seal.open(TABLE, name, &row(name)?.1)?;
            let secret: &[u8; 32] = secret.as_slice().try_into().map_err(|_length| KeysError::Damaged(name))?;
            Ok::<_, KeysError>(SigningKey::from_bytes(secret))
        };
        let (_, sealed, certificate) = row(CA)?;
        let ca = FleetCa::from_parts(certificate, &seal.open(TABLE, CA, sealed)?)?;
        let audit_key = AuditKey::new(&audit::key_name(&fleet.to_string()), signing_key(AUDIT)?)?;
        let audit_verifier_key = audit_key.verifier().to_string();
        let audit_key_certificate = ca.certify_audit_key(&audit_verifier_key)?;
        let keys = Keys {
            fleet,
            epoch: Epoch::new(epoch),
            ca,
            roster: signing_key(ROSTER)?,
            grant: signing_key(GRANT)?,
            audit_verifier_key,
            audit_key_certificate,
        };
        Ok((keys, audit_key))
    }
}

async fn create(tx: &mut Tx, db: &Db, seal: &SealKey) -> Result<(), KeysError> {
    // Of several servers that start at once one makes the fleet, and the others find it.
    sqlx::query("LOCK TABLE fleet IN EXCLUSIVE MODE").execute(tx.connection()).await.map_err(Error::from)?;
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM fleet)")
        .fetch_one(tx.connection())
        .await
        .map_err(Error::from)?;
    if exists {
        tx.discard();
        return Ok(());
    }
    let (fleet, now) = (FleetId::new(Uuid::new_v4()), tx.now());
    let epoch = Epoch::new(1);
    sqlx::query("INSERT INTO fleet (fleet_id, epoch, create_time) VALUES ($1, $2, $3)")
        .bind(fleet.to_string())
        .bind(1_i64)
        .bind(now)
        .execute(tx.connection())
        .await
        .map_err(Error::from)?;
    let ca = FleetCa::generate(&fleet.to_string(), now)?;
    insert(tx, seal, CA, &ca.key_pkcs8(), ca.certificate_der()).await?;
    for name in [ROSTER, GRANT] {
        let key = generate()?;
        insert(tx, seal, name, key.as_bytes(), key.verifying_key().as_bytes()).await?;
    }
    let key = generate()?;
    insert(tx, seal, AUDIT, key.as_bytes(), key.verifying_key().as_bytes()).await?;
    let key = AuditKey::new(&audit::key_name(&fleet.to_string()), key)?;
    begin_log(tx, &key, &audit::origin(&fleet.to_string(), epoch.value())).await?;
    tx.audit(
        Event::new("fleet.create", "fleet")
            .with("fleet_id", fleet.to_string())
            .with("ca_fingerprint", hex::encode(ca.fingerprint()))
            .with("audit_verifier_key", key.verifier().to_string()),
    );
    db.set_audit_key(key);
    Ok(())
}

async fn begin_log(tx: &mut Tx, key: &AuditKey, origin: &str) -> Result<(), KeysError> {
    let root = Hash::of_empty_tree();
    let checkpoint = key.sign(origin, 0, root)?;
    let now = tx.now();
    sqlx::query(
        "INSERT INTO audit_head (origin, verifier_key, size, frontier, root, checkpoint, time)
         VALUES ($1, $2, 0, '', $3, $4, $5)",
    )
    .bind(origin)
    .bind(key.verifier().to_string())
    .bind(root.0.as_slice())
    .bind(checkpoint)
    .bind(now)
    .execute(tx.connection())
    .await
    .map_err(Error::from)?;
    Ok(())
}

async fn insert(tx: &mut Tx, seal: &SealKey, name: &str, secret: &[u8], public: &[u8]) -> Result<(), KeysError> {
    let now = tx.now();
    sqlx::query("INSERT INTO keys (name, sealed, public_part, create_time) VALUES ($1, $2, $3, $4)")
        .bind(name)
        .bind(seal.seal(TABLE, name, secret)?)
        .bind(public)
        .bind(now)
        .execute(tx.connection())
        .await
        .map_err(Error::from)?;
    Ok(())
}

fn generate() -> Result<SigningKey, KeysError> {
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_unspecified| KeysError::NoRandomness)?;
    Ok(SigningKey::from_bytes(&secret))
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("fleet", &self.fleet).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}
