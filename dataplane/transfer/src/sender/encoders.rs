//! What encoding takes of this process's memory, however many transfers send: a few encoders that all of them share.

use std::sync::{Arc, Mutex, PoisonError};

use dataplane_hde::{Encoder, Encoding, Meter, OVERHEAD_BYTES, SegmentTooLong, SmallEncoder, Stands, Version};
use proto_wire::piece::HEADER_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::buffers::{Buffer, Buffers};

/// Before what is read: room for the piece's header, and for what encoding adds.
pub(super) const BEFORE_BYTES: usize = HEADER_BYTES + OVERHEAD_BYTES;

/// Threads that one transfer reads and encodes with.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16)
}

/// What one blocking thread encodes with.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) encoder: Encoder,
    pub(super) small: SmallEncoder,
    /// What was read, after [`BEFORE_BYTES`].
    pub(super) read: Buffer,
    buffers: Buffers,
}

impl Worker {
    /// What was read would come to so many bytes.
    pub(super) fn measure(&mut self, version: &Version, number: u64) -> Result<u64, SegmentTooLong> {
        let segment = self.read.bytes().get(BEFORE_BYTES..).unwrap_or_default();
        self.encoder.measure(version, number, segment)
    }

    /// Encodes what was read; before it there is room for the piece's header.
    pub(super) fn encode(&mut self, version: &Version, number: u64) -> Result<(Encoding, Buffer), SegmentTooLong> {
        let mut encoded = vec![0; HEADER_BYTES];
        let room = self.read.bytes().get_mut(HEADER_BYTES..).unwrap_or_default();
        let (encoding, stands) = self.encoder.encode_in_room(version, number, room, &mut encoded)?;
        Ok(match stands {
            Stands::InRoom => (encoding, std::mem::replace(&mut self.read, self.buffers.take())),
            Stands::Appended => (encoding, encoded.into()),
        })
    }
}

/// The encoders of a process: twice as many as threads that one transfer may use, so that one whose disk hangs leaves others
/// their share.
#[derive(Debug)]
pub(crate) struct Encoders {
    places: Arc<Semaphore>,
    kept: Mutex<Vec<Worker>>,
    buffers: Buffers,
    pub(super) meter: Option<Meter>,
}

/// The right to encode one segment.
#[derive(Debug)]
pub(super) struct EncoderPlace {
    _permit: OwnedSemaphorePermit,
}

impl Encoders {
    pub(crate) fn new(meter: Option<Meter>) -> Self {
        let places = Arc::new(Semaphore::new(2 * threads()));
        Self { places, kept: Mutex::default(), buffers: Buffers::default(), meter }
    }

    /// Waits for a place, in turn with all other transfers.
    pub(super) async fn place(&self) -> Option<EncoderPlace> {
        Arc::clone(&self.places).acquire_owned().await.ok().map(|permit| EncoderPlace { _permit: permit })
    }

    /// An encoder for whoever has a place.
    pub(super) fn take(&self, _place: &EncoderPlace) -> Worker {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| {
            let encoder = Encoder::new();
            let encoder = match &self.meter {
                Some(meter) => encoder.metered(meter.clone()),
                None => encoder,
            };
            Worker { encoder, small: SmallEncoder::new(), read: self.buffers.take(), buffers: self.buffers.clone() }
        })
    }

    /// Gives an encoder back, for the next one.
    pub(super) fn give(&self, worker: Worker) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
    }

    /// Gives their memory back to the system where nobody encodes now.
    pub(super) fn rest(&self) {
        if self.places.available_permits() == 2 * threads() {
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
            self.buffers.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn there_are_as_many_encoders_as_places_and_none_where_nobody_encodes() {
        let encoders = Encoders::new(None);
        let places: Vec<_> = (0..2 * threads()).map(|_| encoders.place().now_or_never().flatten().unwrap()).collect();
        assert!(encoders.place().now_or_never().is_none());
        let workers: Vec<_> = places.iter().map(|place| encoders.take(place)).collect();
        workers.into_iter().for_each(|worker| encoders.give(worker));
        encoders.rest();
        assert_eq!(encoders.kept.lock().unwrap().len(), 2 * threads(), "others encode");
        drop(places);
        encoders.rest();
        assert!(encoders.kept.lock().unwrap().is_empty());
    }
}
