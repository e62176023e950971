//! Segments that are made of what is held here, in runs that are verified as one.

use dataplane_hde::Sources;
use proto_wire::piece::{Header, Known, Source, read_known};

use super::{
    contents::{Contents, wide},
    decoders::Worker,
    files::Target,
    held_here::HeldHere,
    incoming::{Holding, Incoming, begin, hold, put},
    state::{After, Receiving},
};
use crate::{reason::end, stop::Stop};

impl Incoming {
    /// Takes a list of runs.
    pub(super) fn known(
        &self,
        receiving: &Receiving,
        header: &Header,
        list: &[u8],
        worker: &mut Worker,
        after: &mut After,
    ) -> Result<(), Stop> {
        if blake3::hash(list).as_bytes() != &header.value {
            return Err(Stop::temporary(end::CORRUPTED, "a list of segments did not verify"));
        }
        for known in read_known(list)? {
            self.run(receiving, header, &known, worker, after)?;
        }
        Ok(())
    }

    fn run(
        &self,
        receiving: &Receiving,
        header: &Header,
        known: &Known,
        worker: &mut Worker,
        after: &mut After,
    ) -> Result<(), Stop> {
        let mut targets = Vec::new();
        for segment in known.segment..known.segment + u64::from(known.count) {
            // Where one is not needed any more, none of them is.
            let Some(target) = begin(receiving, &Header { segment, ..*header })? else { return Ok(()) };
            targets.push((segment, target));
        }
        let Some(held) = make(receiving, header.file, known, &targets, worker)? else { return Ok(()) };
        if held.len() == targets.len() && proves(known, &held) {
            let both = targets.iter().zip(&held);
            return both
                .into_iter()
                .try_for_each(|((_, target), held)| hold(receiving, header.file, target, held, after));
        }
        for (segment, target) in &targets {
            receiving.files().spoiled(header.file, target);
            self.resend(receiving, header.file, target, *segment, after)?;
        }
        Ok(())
    }
}

/// Makes the segments of a run in their places, as far as what they are made of can be read; none where they are not needed any more.
/// They are held only once they are proved.
fn make(
    receiving: &Receiving,
    file: u64,
    known: &Known,
    targets: &[(u64, Target)],
    worker: &mut Worker,
) -> Result<Option<Vec<Holding>>, Stop> {
    let (mut held, mut done) = (Vec::with_capacity(targets.len()), 0_u64);
    for (segment, target) in targets {
        let bytes = target.segments.len(*segment).unwrap_or_default();
        let room = worker.decoded.zeros(bytes);
        let (contents, reused) = match known.source {
            Source::Zeros => (Contents::Zeros(bytes), 0),
            Source::Basis { offset } => {
                let offset = offset.saturating_add(done);
                if HeldHere::of(receiving, file, &target.path).basis(offset, room).is_err() {
                    return Ok(Some(held));
                }
                (Contents::Bytes(&worker.decoded), wide(bytes))
            }
        };
        done += wide(bytes);
        let value = target.segments.value(*segment, &worker.decoded);
        // One alone is proved before it is written.
        if known.count == 1 && value != known.value {
            return Ok(Some(held));
        }
        if !put(receiving, file, target, *segment, contents)? {
            return Ok(None);
        }
        held.push(Holding::new((*segment, value), contents, reused));
    }
    Ok(Some(held))
}

fn proves(known: &Known, held: &[Holding]) -> bool {
    match held {
        [one] => one.segment.1 == known.value,
        several => {
            let mut values = blake3::Hasher::new();
            for held in several {
                values.update(&held.segment.1);
            }
            *values.finalize().as_bytes() == known.value
        }
    }
}
