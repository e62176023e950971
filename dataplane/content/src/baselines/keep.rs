//! Keeping what a peer acknowledged.

use std::{collections::HashMap, fs::File, os::unix::fs::MetadataExt as _, vec};

use dataplane_local_store::PeerBaseline;
use proto_model::{Digest, NodeUid};

use super::{Baselines, Place, version};
use crate::{
    batch::{Added, Batch},
    policy::{Prospect, Version, Went},
    references::ReferencesError,
    store::ContentError,
};

/// Versions whose objects are made durable together.
const KEPT_AT_ONCE: usize = 256;

/// A version that a peer has in place, as it acknowledged.
#[derive(Debug)]
pub struct Acknowledged {
    /// Where, at the peer.
    pub place: Place,
    /// Here, open to be read.
    pub file: File,
    /// What the peer acknowledged.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// How it travelled.
    pub went: Went,
    /// Why a next version is likely.
    pub prospect: Prospect,
}

/// What became of versions that were to be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptNow {
    /// Kept: their blocks are shared with the file, or an equal object was there.
    pub shared: u64,
    /// Kept: copied.
    pub copied: u64,
    /// Kept: in the place of the version before, in whose copy what differs was written.
    pub followed: u64,
    /// Not copied: the policy has it so.
    pub left: u64,
    /// Not what the peer has any more.
    pub changed: u64,
    /// There was no room.
    pub no_room: u64,
    /// The file could not be read.
    pub unreadable: u64,
}

/// A version with what is noted of it.
#[derive(Debug)]
struct Candidate {
    acknowledged: Acknowledged,
    version: Version,
    copies: bool,
    /// The version before, where this one may take its place.
    follows: Option<Digest>,
}

/// A go through candidates.
#[derive(Debug)]
struct Round {
    batch: Batch,
    taken: Vec<PeerBaseline>,
    /// Versions in whose place others are.
    gone: Vec<Digest>,
    now: KeptNow,
}

/// What became of one candidate.
enum Outcome {
    Taken,
    /// In the place of the version before.
    Followed,
    Left,
    Changed,
    Unreadable,
    /// So much is missing.
    NoRoom(u64),
    /// It is larger than all that may be held.
    NeverFits,
}

impl Baselines {
    /// Keeps versions that a peer acknowledged as published, as far as the policy and the room allow: older ones of any peer go
    /// for them. A file that is not what was acknowledged any more is not kept.
    ///
    /// # Errors
    /// The rows or the store cannot be used.
    pub async fn keep(&self, peer: NodeUid, acknowledged: Vec<Acknowledged>) -> Result<KeptNow, ReferencesError> {
        let mut now = KeptNow::default();
        let mut rest = acknowledged.into_iter();
        loop {
            let some: Vec<_> = rest.by_ref().take(KEPT_AT_ONCE).collect();
            if some.is_empty() {
                return Ok(now);
            }
            now.add(self.keep_some(peer, some).await?);
        }
    }

    async fn keep_some(&self, peer: NodeUid, some: Vec<Acknowledged>) -> Result<KeptNow, ReferencesError> {
        let tasks = &self.references.tasks;
        let mut left = self.candidates(peer, some).await?.into_iter();
        let content = self.references.content.clone();
        let batch = tasks.blocking("begin to keep baselines", move || content.batch()).await??;
        let mut round = Round { batch, taken: Vec::new(), gone: Vec::new(), now: KeptNow::default() };
        let mut retried = false;
        loop {
            let went = tasks.blocking("keep baselines", move || round.go(peer, left)).await?;
            let Some((candidate, missing)) = went.stopped else {
                round = went.round;
                break;
            };
            (round, left) = (went.round, went.left);
            if retried || self.make_room(missing).await?.objects == 0 {
                metrics::counter!("dwcp_limit_hits_total", "limit" => "content.max_bytes").increment(1);
                round.now.no_room += 1;
                retried = false;
            } else {
                retried = true;
                left = std::iter::once(candidate).chain(left).collect::<Vec<_>>().into_iter();
            }
        }
        let Round { batch, taken, mut gone, now } = round;
        // What went from one place may have come to another.
        gone.retain(|gone| taken.iter().all(|row| row.digest != *gone));
        let added: Vec<Added> = tasks.blocking("make baselines durable", move || batch.commit()).await??;
        let dropped = self.references.rows.put_peer_baselines(taken, self.settings().versions).await?;
        // From here on the rows hold them.
        drop(added);
        self.references.remove_unneeded(dropped).await?;
        self.references.rows.drop_references_to(gone).await?;
        Ok(now)
    }

    /// What the policy says of each.
    async fn candidates(&self, peer: NodeUid, some: Vec<Acknowledged>) -> Result<Vec<Candidate>, ReferencesError> {
        let policy = self.settings().policy;
        let mut before: HashMap<Place, (Version, Digest)> = HashMap::new();
        let mut roots: HashMap<&str, Vec<Vec<u8>>> = HashMap::new();
        for one in &some {
            roots.entry(&one.place.root).or_default().push(one.place.path.clone());
        }
        for (root, paths) in roots {
            for row in self.rows(peer, root, &paths).await? {
                let known = (version(&row), row.digest);
                // The newest comes first.
                before.entry(Place { root: row.root, path: row.path }).or_insert(known);
            }
        }
        let now_ms = self.clock.unix_ms();
        let mut candidates = Vec::with_capacity(some.len());
        for acknowledged in some {
            let before = before.get(&acknowledged.place);
            let version = policy.next(before.map(|(version, _)| version), acknowledged.went, now_ms);
            let copies = policy.copies(before.map(|(version, _)| version), &version, acknowledged.prospect, now_ms);
            let follows = match before {
                Some((_, digest)) if !copies && policy.follows(acknowledged.prospect) => {
                    // Nobody else needs it.
                    (self.references.count(*digest).await? == 1).then_some(*digest)
                }
                Some(_) | None => None,
            };
            candidates.push(Candidate { acknowledged, version, copies, follows });
        }
        Ok(candidates)
    }
}

/// How far a go came.
struct Gone {
    round: Round,
    left: vec::IntoIter<Candidate>,
    /// One for which so many bytes are missing.
    stopped: Option<(Candidate, u64)>,
}

impl Round {
    fn go(mut self, peer: NodeUid, mut left: vec::IntoIter<Candidate>) -> Gone {
        while let Some(candidate) = left.next() {
            match self.keep(&candidate) {
                Outcome::NoRoom(missing) => {
                    return Gone { round: self, left, stopped: Some((candidate, missing)) };
                }
                Outcome::Taken => self.taken.push(row(peer, candidate)),
                Outcome::Followed => {
                    self.now.followed += 1;
                    self.gone.extend(candidate.follows);
                    self.taken.push(row(peer, candidate));
                }
                Outcome::Left => self.now.left += 1,
                Outcome::Changed => self.now.changed += 1,
                Outcome::Unreadable => self.now.unreadable += 1,
                Outcome::NeverFits => self.now.no_room += 1,
            }
        }
        Gone { round: self, left, stopped: None }
    }

    fn keep(&mut self, candidate: &Candidate) -> Outcome {
        let Acknowledged { file, digest, .. } = &candidate.acknowledged;
        match self.batch.share_file(file, *digest) {
            Ok(Some(_shared)) => {
                self.now.shared += 1;
                return Outcome::Taken;
            }
            Ok(None) if !candidate.copies => return self.follow(candidate),
            Ok(None) => {}
            Err(error) => return self.outcome(candidate, &error),
        }
        if occupied(file) > self.batch.max_bytes() {
            return Outcome::NeverFits;
        }
        match self.batch.add_file(file, Some(*digest)) {
            Ok(_digest) => {
                self.now.copied += 1;
                Outcome::Taken
            }
            Err(error) => self.outcome(candidate, &error),
        }
    }

    fn follow(&mut self, candidate: &Candidate) -> Outcome {
        let Acknowledged { file, digest, .. } = &candidate.acknowledged;
        let Some(older) = candidate.follows else { return Outcome::Left };
        match self.batch.follow(older, file, *digest) {
            Ok(Some(_digest)) => Outcome::Followed,
            Ok(None) => Outcome::Left,
            // What grew beyond the room waits for its next copy.
            Err(error) if error.missing_room().is_some() => Outcome::Left,
            Err(error) => self.outcome(candidate, &error),
        }
    }

    fn outcome(&self, candidate: &Candidate, error: &ContentError) -> Outcome {
        if let Some(missing) = error.missing_room() {
            // If all that is held went, it would not be enough: then nothing goes.
            let never = missing.bytes() > self.batch.held_bytes();
            let missing = missing.bytes().max(occupied(&candidate.acknowledged.file));
            return if never { Outcome::NeverFits } else { Outcome::NoRoom(missing) };
        }
        if matches!(error, ContentError::Changed { .. }) {
            return Outcome::Changed;
        }
        tracing::debug!(component = "content", %error, "a version cannot be kept");
        Outcome::Unreadable
    }
}

/// Bytes that a file takes of its file system.
fn occupied(file: &File) -> u64 {
    file.metadata().map_or(0, |data| data.blocks().saturating_mul(512))
}

fn row(peer: NodeUid, candidate: Candidate) -> PeerBaseline {
    let Candidate { acknowledged, version, .. } = candidate;
    PeerBaseline {
        peer,
        root: acknowledged.place.root,
        path: acknowledged.place.path,
        digest: acknowledged.digest,
        size: acknowledged.size,
        chain: version.chain,
        poor: version.poor,
        acknowledged_ms: version.acknowledged_ms,
    }
}

impl KeptNow {
    fn add(&mut self, other: Self) {
        self.shared += other.shared;
        self.copied += other.copied;
        self.followed += other.followed;
        self.left += other.left;
        self.changed += other.changed;
        self.no_room += other.no_room;
        self.unreadable += other.unreadable;
    }
}
