//! The records that nodes put into the DHT, as the control plane keeps them for whoever cannot ask there.

use futures::FutureExt as _;
use prost::Message as _;
use proto_model::{NodeId, NodeRef, NodeUid, PublicKey};
use proto_rpc::agent as wire;
use sqlx::{PgConnection, Row as _};

use crate::{Db, Error, nodes};

/// A node's record, as it was put into the DHT, and where the control plane sees the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// The key that signs it.
    pub public_key: PublicKey,
    /// BEP 44 `seq`.
    pub seq: i64,
    /// BEP 44 `v`, before bencoding; empty where the node has sent none.
    pub value: Vec<u8>,
    /// BEP 44 signature; empty where the node has sent none.
    pub signature: Vec<u8>,
    /// Not signed by the node.
    pub observed_addresses: Vec<String>,
}

/// Keeps a node's record, unless a newer one is kept or it is not the node's own.
///
/// # Errors
/// The database failed.
pub async fn put(db: &Db, node: NodeUid, record: NodeRecord) -> Result<(), Error> {
    db.observe("node_records.put", move |tx| {
        async move {
            let Some(member) = nodes::find(tx, &NodeRef::Uid(node)).await? else { return Ok(()) };
            if member.public_key != record.public_key {
                tracing::warn!(node = %member.name, "Refused a node record: it is signed by another key than the node's");
                return Ok(());
            }
            let now = tx.now();
            sqlx::query(
                "INSERT INTO node_records (node, public_key, seq, value, signature, update_time) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (node) DO UPDATE \
                 SET public_key = $2, seq = $3, value = $4, signature = $5, update_time = $6 \
                 WHERE node_records.public_key <> $2 OR node_records.seq <= $3",
            )
            .bind(node.uuid())
            .bind(record.public_key.as_bytes().as_slice())
            .bind(record.seq)
            .bind(record.value)
            .bind(record.signature)
            .bind(now)
            .execute(tx.connection())
            .await?;
            Ok(())
        }
        .boxed()
    }).await
}

/// The records of those nodes that are in the fleet, by the id of their present key.
///
/// # Errors
/// The database failed.
pub async fn get(db: &Db, ids: &[NodeId]) -> Result<Vec<NodeRecord>, Error> {
    let ids: Vec<Vec<u8>> = ids.iter().map(|id| id.as_bytes().to_vec()).collect();
    db.read(move |connection| read(connection, ids).boxed()).await
}

async fn read(connection: &mut PgConnection, ids: Vec<Vec<u8>>) -> Result<Vec<NodeRecord>, Error> {
    let rows = sqlx::query(
        "SELECT n.public_key, n.facts, l.observed_addresses, r.seq, r.value, r.signature FROM nodes n \
         LEFT JOIN node_layers l ON l.node = n.uid \
         LEFT JOIN node_records r ON r.node = n.uid AND r.public_key = n.public_key \
         WHERE n.node_id = ANY($1) AND n.revoke_time IS NULL",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    let records = rows.iter().map(|row| {
        let key: &[u8] = row.try_get("public_key")?;
        let facts = wire::HostFacts::decode(row.try_get::<&[u8], _>("facts")?).unwrap_or_default();
        let mut observed_addresses: Vec<String> =
            row.try_get::<Option<_>, _>("observed_addresses")?.unwrap_or_default();
        observed_addresses.extend(facts.quic_addresses);
        observed_addresses.dedup();
        Ok(NodeRecord {
            public_key: PublicKey::try_from(key).map_err(|_bad| Error::Damaged("node"))?,
            seq: row.try_get::<Option<_>, _>("seq")?.unwrap_or_default(),
            value: row.try_get::<Option<_>, _>("value")?.unwrap_or_default(),
            signature: row.try_get::<Option<_>, _>("signature")?.unwrap_or_default(),
            observed_addresses,
        })
    });
    records.collect()
}
