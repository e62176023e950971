//! What a host is to send, and by what right.

use prost::Message;
use proto_model::{DirectRequest, PublicKey, RootPath, SyncId, Traceparent, TransferId, TransferOptions};
use proto_rpc::{agent as rpc, peer};
use proto_wire::{Signed, frames::Authority, grant, sync, sync::OpenSync};

use crate::{
    reason::end,
    receiver::{check_grant, check_sync_grant},
    service::Shared,
    stop::Stop,
};

/// What this host is to send.
#[derive(Clone, Debug, PartialEq)]
pub struct SendJob {
    /// By what right.
    pub authority: SendAuthority,
    /// The trace of the request.
    pub traceparent: Option<Traceparent>,
}

/// By what right something is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum SendAuthority {
    /// A grant, which names the receiver.
    Grant(Signed),
    /// A direct send.
    Direct {
        /// What is asked for.
        request: Box<DirectRequest>,
        /// Who receives.
        peer: PublicKey,
    },
    /// A run of a standing sync; whoever runs it keeps it, and begins it again after a restart.
    Sync(OpenSync),
}

/// A job whose right was checked.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    pub(super) id: TransferId,
    pub(super) peer: PublicKey,
    pub(super) sources: Vec<RootPath>,
    /// The folder that receives.
    pub(super) destination: RootPath,
    pub(super) options: TransferOptions,
    pub(super) not_after: Option<chrono::DateTime<chrono::Utc>>,
    pub(super) authority: Authority,
}

impl SendJob {
    /// The transfer's id, read without any check.
    #[must_use]
    pub fn transfer(&self) -> Option<TransferId> {
        match &self.authority {
            SendAuthority::Direct { request, .. } => Some(request.transfer),
            SendAuthority::Sync(open) => {
                let grant = rpc::SyncGrant::decode(open.grant.payload.as_slice()).ok()?.grant?;
                Some(grant.transfer_id.parse::<SyncId>().ok()?.run(open.run))
            }
            SendAuthority::Grant(signed) => {
                rpc::Grant::decode(signed.payload.as_slice()).ok().and_then(|grant| grant.transfer_id.parse().ok())
            }
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let (authority, key) = match &self.authority {
            SendAuthority::Grant(signed) => (peer::open::Authority::Grant(signed.clone().into()), Vec::new()),
            SendAuthority::Sync(open) => (peer::open::Authority::Sync(open.clone().into()), Vec::new()),
            SendAuthority::Direct { request, peer: key } => {
                (peer::open::Authority::Direct((**request).clone().into()), key.as_bytes().to_vec())
            }
        };
        let traceparent = self.traceparent.clone().map(String::from).unwrap_or_default();
        // The opening frame's form, with the peer's key among the features.
        let features = vec![hex::encode(key)];
        peer::Open { authority: Some(authority), traceparent, features, ..peer::Open::default() }.encode_to_vec()
    }

    /// What is kept: a damaged grant would end the transfer for good, so its digest stands first.
    pub(super) fn to_kept(&self) -> Vec<u8> {
        let bytes = self.to_bytes();
        [blake3::hash(&bytes).as_bytes().as_slice(), &bytes].concat()
    }

    pub(super) fn kept(bytes: &[u8]) -> Option<Self> {
        let (digest, bytes) = bytes.split_first_chunk::<{ blake3::OUT_LEN }>()?;
        (blake3::hash(bytes).as_bytes() == digest).then(|| Self::from_bytes(bytes)).flatten()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let open = peer::Open::decode(bytes).ok()?;
        let authority = match open.authority? {
            peer::open::Authority::Grant(signed) => SendAuthority::Grant(signed.try_into().ok()?),
            peer::open::Authority::Sync(open) => SendAuthority::Sync(open.try_into().ok()?),
            peer::open::Authority::Direct(request) => SendAuthority::Direct {
                request: Box::new(request.try_into().ok()?),
                peer: open.features.first()?.parse().ok()?,
            },
        };
        Some(Self { authority, traceparent: Traceparent::from_optional_text(&open.traceparent) })
    }
}

/// Checks the right to read here; the receiver checks its own side.
pub(super) fn check(shared: &Shared, job: &SendJob) -> Result<Checked, Stop> {
    match &job.authority {
        SendAuthority::Grant(signed) => {
            let bundle = shared.trust.bundle();
            let grant = match check_grant(shared, signed, shared.clock.utc(), |_| true) {
                // One for later is waited for.
                Err(stop) if stop.temporary => {
                    grant::open(bundle.grant_key.verifying_key(), signed).map_err(|_already_opened| stop)?
                }
                other => other?,
            };
            if grant.source.key != shared.key {
                return Err(Stop::final_(end::GRANT_INVALID, "the grant names another node as the sender"));
            }
            Ok(Checked {
                id: grant.transfer,
                peer: grant.destination.key,
                sources: grant.source_paths,
                destination: grant.destination_path,
                options: grant.options,
                not_after: Some(grant.not_after),
                authority: Authority::Grant(signed.clone()),
            })
        }
        SendAuthority::Sync(open) => {
            let bundle = shared.trust.bundle();
            let standing = match check_sync_grant(shared, &open.grant, shared.clock.utc(), |_| true) {
                Err(stop) if stop.temporary => {
                    sync::open(bundle.grant_key.verifying_key(), &open.grant).map_err(|_already_opened| stop)?
                }
                other => other?,
            };
            if standing.grant.source.key != shared.key {
                return Err(Stop::final_(end::GRANT_INVALID, "the grant names another node as the sender"));
            }
            tracing::Span::current().record("dwcp.sync", standing.name.as_str()).record("dwcp.sync.run", open.run);
            Ok(Checked {
                id: standing.sync().run(open.run),
                peer: standing.grant.destination.key,
                sources: standing.grant.source_paths,
                destination: standing.grant.destination_path,
                options: standing.grant.options,
                not_after: Some(standing.grant.not_after),
                authority: Authority::Sync(open.clone()),
            })
        }
        SendAuthority::Direct { request, peer } => Ok(Checked {
            id: request.transfer,
            peer: *peer,
            sources: request.source_paths.clone(),
            destination: request.destination_path.clone(),
            options: request.options.clone(),
            not_after: None,
            authority: Authority::Direct((**request).clone()),
        }),
    }
}
