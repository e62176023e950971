//! Whether an opening is consented to: every check before anything is read or made (D16, D17).

use chrono::{DateTime, TimeDelta, Utc};
use proto_model::{Digest, Grant, PublicKey, RootPath, SyncGrant, TransferId, TransferOptions, TransferRole};
use proto_wire::{
    frames::{Authority, Open},
    grant, sync,
    sync::{OpenSync, SyncSource},
};

use super::remains::{sender_of, was_accepted_by};
use crate::{confine::Folder, orders::paused, reason::end, service::Shared, stop::Stop};

/// Clocks may differ by this much (D4).
pub(crate) const SKEW: TimeDelta = TimeDelta::minutes(5);

/// What was consented to.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) transfer: TransferId,
    /// Whose it is.
    pub(crate) sender: PublicKey,
    pub(crate) options: TransferOptions,
    /// Where it is received.
    pub(crate) destination: RootPath,
    /// The folder that receives; none only where a dry run has nothing to compare with.
    pub(crate) target: Option<Folder>,
    /// The end of the grant.
    pub(crate) not_after: Option<DateTime<Utc>>,
    /// BLAKE3 of the grant, where there is one.
    pub(crate) grant: Option<Digest>,
    /// Of which sync it is a run.
    pub(crate) sync: Option<AdmittedRun>,
}

/// A run of a sync that was consented to, and has not begun.
#[derive(Debug)]
pub(crate) struct AdmittedRun {
    pub(crate) grant: SyncGrant,
    pub(crate) run: u64,
    pub(crate) order: u64,
    source: SyncSource,
}

/// What a checked authority lets be done.
struct Right {
    options: TransferOptions,
    destination: RootPath,
    not_after: Option<DateTime<Utc>>,
    grant: Option<Digest>,
    sync: Option<AdmittedRun>,
}

/// Checks an opening of this peer.
pub(crate) fn admit(shared: &Shared, peer: PublicKey, open: &Open) -> Result<Admitted, Stop> {
    let right = match &open.authority {
        Authority::Grant(signed) => {
            // What was accepted before the control plane was restored goes on by the right that it was accepted by.
            let accepted_by = Digest::blake3(&signed.payload);
            let at_hand = |grant: &Grant| was_accepted_by(shared, grant.transfer, accepted_by);
            let grant = check_grant(shared, signed, shared.clock.utc(), at_hand)?;
            if grant.transfer != open.transfer {
                return Err(invalid("the grant is for another transfer"));
            }
            if grant.destination.key != shared.key {
                return Err(invalid("the grant names another node as the receiver"));
            }
            if grant.source.key != peer {
                return Err(invalid("the grant names another node as the sender"));
            }
            shared.roots.load().writable(&grant.destination_path)?;
            Right {
                options: grant.options,
                destination: grant.destination_path,
                not_after: Some(grant.not_after),
                grant: Some(accepted_by),
                sync: None,
            }
        }
        Authority::Sync(run) => of_sync(shared, peer, open, run)?,
        Authority::Direct(request) => {
            if request.transfer != open.transfer {
                return Err(invalid("the request is for another transfer"));
            }
            let member = shared.trust.membership().by_key(&peer);
            let member = member.ok_or_else(|| Stop::final_(end::NOT_ACCEPTED, "the sender is not in the fleet"))?;
            shared.roots.load().accepting(&request.destination_path, &member)?;
            if sender_of(shared, request.transfer).is_some_and(|sender| sender != peer) {
                // A direct send chooses its own name, and must not take another's.
                return Err(Stop::final_(end::NOT_ACCEPTED, "the transfer of this name is another node's"));
            }
            let request = request.clone();
            Right {
                options: request.options,
                destination: request.destination_path,
                not_after: None,
                grant: None,
                sync: None,
            }
        }
    };
    not_ended(shared, open.transfer)?;
    if let Some(over) = deadline_over(&right.options, shared.clock.utc()) {
        return Err(over);
    }
    let of_control_plane = right.grant.is_some() && right.sync.is_none();
    if of_control_plane && shared.orders.holds(open.transfer, open.order) {
        return Err(paused());
    }
    let target = target(shared, &right.destination, right.options.dry_run)?;
    let Right { options, destination, not_after, grant, sync } = right;
    Ok(Admitted { transfer: open.transfer, sender: peer, options, destination, target, not_after, grant, sync })
}

/// Checks a run of a sync: the standing grant, whom it binds, and whether this run may be opened now.
fn of_sync(shared: &Shared, peer: PublicKey, open: &Open, opened: &OpenSync) -> Result<Right, Stop> {
    let accepted_by = Digest::blake3(&opened.grant.payload);
    let standing = check_sync_grant(shared, &opened.grant, shared.clock.utc(), |standing| {
        shared.syncs.was_accepted_by(standing.sync(), accepted_by)
    })?;
    if !sync::is_run(&standing, opened.run, open.transfer) {
        return Err(invalid("the transfer is not the run of the sync that it says"));
    }
    if standing.grant.destination.key != shared.key {
        return Err(invalid("the grant names another node as the receiver"));
    }
    if standing.grant.source.key != peer {
        return Err(invalid("the grant names another node as the sender"));
    }
    shared.roots.load().writable(&standing.grant.destination_path)?;
    shared.syncs.check(&standing, opened.run, open.order)?;
    Ok(Right {
        options: standing.grant.options.clone(),
        destination: standing.grant.destination_path.clone(),
        not_after: Some(standing.grant.not_after),
        grant: Some(accepted_by),
        sync: Some(AdmittedRun { grant: standing, run: opened.run, order: open.order, source: opened.source }),
    })
}

/// Refuses the first run of a sync where something stands already at what would be its own, unless an operator wants it so.
pub(super) fn check_first_run(shared: &Shared, admitted: &Admitted) -> Result<(), Stop> {
    let (Some(run), Some(target)) = (&admitted.sync, &admitted.target) else { return Ok(()) };
    if shared.syncs.has_begun(run.grant.sync()) || shared.syncs.may_overwrite(&run.grant) {
        return Ok(());
    }
    let unavailable = |error: std::io::Error| {
        let message = format!("{} cannot be looked at: {error}", admitted.destination);
        Stop::final_(end::DESTINATION_UNAVAILABLE, message)
    };
    let name = run.grant.grant.source_paths.first().and_then(|path| path.path.file_name());
    let excludes = crate::exclude::Excludes::new(&admitted.options.exclude);
    let excludes = excludes.map_err(|error| Stop::final_(end::BAD_PATTERN, error.to_string()))?;
    let found = match (run.source, name) {
        // Others' files may lie beside it; its own name is looked at when it is compared.
        (SyncSource::OneFile, _) => None,
        (SyncSource::FolderByName, Some(name)) => match target.stat(name).map_err(unavailable)? {
            Some(there) if crate::confine::kind(&there) == rustix::fs::FileType::Directory => {
                first_of(&target.folder(name).map_err(unavailable)?, &excludes, Some(name)).map_err(unavailable)?
            }
            Some(_) => Some(name.to_vec()),
            None => None,
        },
        (SyncSource::FolderByName | SyncSource::Contents, _) => {
            first_of(target, &excludes, None).map_err(unavailable)?
        }
    };
    let Some(found) = found else { return Ok(()) };
    let sync = &run.grant.name;
    let message = format!(
        "{} has other contents, for example {}: the first run of {sync} would replace and delete them. `dwcp sync run {sync} --overwrite` \
         does so; or empty the folder, or delete the sync and create it for another one",
        admitted.destination,
        proto_model::escape(&found),
    );
    Err(Stop::final_(end::DESTINATION_NOT_EMPTY, message))
}

/// A name in a folder that is not excluded.
fn first_of(
    folder: &Folder,
    excludes: &crate::exclude::Excludes,
    below: Option<&[u8]>,
) -> std::io::Result<Option<Vec<u8>>> {
    for name in folder.names()? {
        let name = name?.name;
        let path = below.map_or_else(|| name.clone(), |below| [below, &name].join(&b'/'));
        if !excludes.covers(&path) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Checks all of a standing grant that does not depend on which end asks.
pub(crate) fn check_sync_grant(
    shared: &Shared,
    signed: &proto_wire::Signed,
    now: DateTime<Utc>,
    at_hand: impl FnOnce(&SyncGrant) -> bool,
) -> Result<SyncGrant, Stop> {
    let bundle = shared.trust.bundle();
    let standing = sync::open(bundle.grant_key.verifying_key(), signed).map_err(|error| invalid(error.to_string()))?;
    check_bounds(shared, &standing.grant, now, |_| at_hand(&standing))?;
    Ok(standing)
}

/// Whether the deadline is over, also by a clock that is ahead of the sender's: that one says so first, and more.
pub(super) fn deadline_over(options: &TransferOptions, now: DateTime<Utc>) -> Option<Stop> {
    let deadline = options.deadline.filter(|deadline| *deadline + SKEW < now)?;
    Some(Stop::final_(end::DEADLINE_EXCEEDED, format!("the deadline ({deadline}) passed at the receiver")))
}

/// Refuses a transfer that has ended here (D16).
pub(super) fn not_ended(shared: &Shared, transfer: TransferId) -> Result<(), Stop> {
    let ended = shared.folder.end(transfer, TransferRole::Receiver);
    match ended.map_err(|error| shared.own("receiver", &error))? {
        Some(ended) => {
            Err(Stop::final_(end::ALREADY_FINISHED, format!("this transfer has ended here before: {}", ended.state)))
        }
        None => Ok(()),
    }
}

/// Checks all of a grant that does not depend on which end asks. One of an earlier epoch holds for a transfer that is at hand: the
/// control plane that made it may still run beside the restored one, and begins nothing here any more (D12).
pub(crate) fn check_grant(
    shared: &Shared,
    signed: &proto_wire::Signed,
    now: DateTime<Utc>,
    at_hand: impl FnOnce(&Grant) -> bool,
) -> Result<Grant, Stop> {
    let bundle = shared.trust.bundle();
    let grant = grant::open(bundle.grant_key.verifying_key(), signed).map_err(|error| invalid(error.to_string()))?;
    check_bounds(shared, &grant, now, at_hand)?;
    Ok(grant)
}

/// Of which fleet, of which epoch, and when.
fn check_bounds(
    shared: &Shared,
    grant: &Grant,
    now: DateTime<Utc>,
    at_hand: impl FnOnce(&Grant) -> bool,
) -> Result<(), Stop> {
    let bundle = shared.trust.bundle();
    if grant.fleet != bundle.fleet {
        return Err(invalid("the grant is of another fleet"));
    }
    if grant.epoch > bundle.epoch {
        let message = format!(
            "the control plane was restored (epoch {}), and this host is still in epoch {}: the transfer goes on by itself when \
             this host has reached the control plane (`dwcp node list`)",
            grant.epoch, bundle.epoch
        );
        return Err(Stop::temporary(end::GRANT_OF_OTHER_EPOCH, message));
    }
    if grant.epoch < bundle.epoch && !at_hand(grant) {
        let message = format!(
            "the grant is of epoch {}, and the control plane was restored since (epoch {}): the transfer goes on by itself with a \
             new grant; if `dwcp transfer get {}` does not know it, send it again",
            grant.epoch, bundle.epoch, grant.transfer
        );
        return Err(Stop::temporary(end::GRANT_OF_OTHER_EPOCH, message));
    }
    if now < grant.not_before - SKEW {
        let message = format!("the grant begins at {}; check this host's clock", grant.not_before);
        return Err(Stop::temporary(end::GRANT_NOT_YET_VALID, message));
    }
    if !grant.is_valid_at(now, SKEW) {
        let message = format!("the grant ended at {}; ask for the transfer again", grant.not_after);
        return Err(Stop::final_(end::GRANT_EXPIRED, message));
    }
    Ok(())
}

fn invalid(message: impl Into<String>) -> Stop {
    Stop::final_(end::GRANT_INVALID, message)
}

/// Opens the folder that receives; what is missing of it is made, but for a dry run.
fn target(shared: &Shared, path: &RootPath, dry_run: bool) -> Result<Option<Folder>, Stop> {
    let unavailable = |error: std::io::Error| {
        if crate::stop::is_full(&error) {
            return Stop::of_file_system(&format!("{path} at the receiver"), "destination", None, &error);
        }
        let message =
            format!("{path} cannot be opened or made: {error}; it is a folder, reached without symbolic links");
        Stop::final_(end::DESTINATION_UNAVAILABLE, message)
    };
    let opened = shared.roots.load().open(&path.root);
    let mut folder = opened.map_err(|stop| Stop::final_(end::DESTINATION_UNAVAILABLE, stop.message))?;
    for part in path.path.parts() {
        let next = match folder.granted(part) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && dry_run => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                match folder.make_folder(part) {
                    Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(unavailable(error)),
                    Ok(()) | Err(_) => {}
                }
                let made = folder.granted(part).map_err(unavailable)?;
                // A folder that nobody described gets the mode that mkdir would give it.
                made.set_own_mode(0o755).map_err(unavailable)?;
                folder.sync().map_err(unavailable)?;
                made
            }
            other => other.map_err(unavailable)?,
        };
        folder = next;
    }
    Ok(Some(folder))
}
