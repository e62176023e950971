//! What one end of a lane over TCP has sent and not heard of, and what it owes the other in answers. When the lane is over, each end says
//! how many pieces it took; so each piece was taken once, or goes by another way.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use super::record::Record;
use crate::frames::{Malformed, PieceHead};

/// Answers that wait to be written, at most. Pieces that are under way are as many as streams at most; whoever sends more and reads no
/// answers is cut off.
const MAX_ANSWERS: usize = 4096;

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The peer has all of it.
    Taken,
    /// Nobody wants it there.
    NotWanted,
    /// The lane is over and the peer does not have it.
    Back,
}

/// A piece that is to be sent.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) head: PieceHead,
    pub(crate) payload: Bytes,
    pub(crate) outcome: oneshot::Sender<Outcome>,
}

/// What is to be written next.
#[derive(Debug)]
pub(crate) enum Work {
    /// Answers, as they stand on the wire.
    Answers(Vec<u8>),
    /// A piece, of which it is heard later.
    Piece(PieceHead, Bytes),
}

/// The peer sends and reads no answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it sends pieces and takes no answers")]
pub(crate) struct TooMany;

/// Who asked may have gone.
fn tell(asker: oneshot::Sender<Outcome>, outcome: Outcome) {
    asker.send(outcome).ok();
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    state: Mutex<State>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct State {
    queued: VecDeque<Job>,
    /// Begun, in the order in which they were.
    under_way: VecDeque<oneshot::Sender<Outcome>>,
    answered: u64,
    answers: Vec<u8>,
    /// Pieces of the peer that came whole.
    taken: u64,
    ended: bool,
    /// What the peer says that it took.
    peer_took: Option<u64>,
}

impl Book {
    /// Sends a piece; comes back at once where the lane is over.
    pub(crate) fn send(&self, job: Job) {
        let mut state = self.lock();
        if state.ended {
            drop(state);
            tell(job.outcome, Outcome::Back);
            return;
        }
        state.queued.push_back(job);
        drop(state);
        self.bell.notify_one();
    }

    /// What is to be written next, if anything is.
    pub(crate) fn try_next(&self) -> Option<Work> {
        let mut state = self.lock();
        if !state.answers.is_empty() {
            return Some(Work::Answers(std::mem::take(&mut state.answers)));
        }
        let job = state.queued.pop_front()?;
        state.under_way.push_back(job.outcome);
        Some(Work::Piece(job.head, job.payload))
    }

    /// What was not begun goes by QUIC.
    pub(crate) fn give_back(&self) {
        let queued = std::mem::take(&mut self.lock().queued);
        queued.into_iter().for_each(|job| tell(job.outcome, Outcome::Back));
    }

    /// Waits until there is something to write. Cancel safe.
    pub(crate) async fn rings(&self) {
        self.bell.notified().await;
    }

    /// A piece of the peer came whole.
    pub(crate) fn answer(&self, wanted: bool) -> Result<(), TooMany> {
        let mut state = self.lock();
        if state.answers.len() >= MAX_ANSWERS {
            return Err(TooMany);
        }
        state.taken += 1;
        let record = if wanted { Record::Taken } else { Record::NotWanted };
        state.answers.extend_from_slice(&record.encode());
        drop(state);
        self.bell.notify_one();
        Ok(())
    }

    /// The peer says what became of the oldest piece.
    pub(crate) fn answered(&self, outcome: Outcome) -> Result<(), Malformed> {
        let mut state = self.lock();
        let sender = state.under_way.pop_front().ok_or(Malformed)?;
        state.answered += 1;
        drop(state);
        tell(sender, outcome);
        Ok(())
    }

    /// Pieces that the peer has not answered.
    pub(crate) fn under_way(&self) -> usize {
        let state = self.lock();
        state.under_way.len() + state.queued.len()
    }

    /// The lane is over at this end: nothing more is read or written. How many pieces of the peer came whole.
    pub(crate) fn end(&self) -> u64 {
        let mut state = self.lock();
        state.ended = true;
        let queued = std::mem::take(&mut state.queued);
        let taken = state.taken;
        let settled = state.settle();
        drop(state);
        queued.into_iter().for_each(|job| tell(job.outcome, Outcome::Back));
        settled.into_iter().for_each(|(sender, outcome)| tell(sender, outcome));
        taken
    }

    /// The lane is over at the other end, which took so many pieces.
    pub(crate) fn peer_ended(&self, took: u64) -> Result<(), Malformed> {
        let mut state = self.lock();
        let begun = state.answered + u64::try_from(state.under_way.len()).unwrap_or(u64::MAX);
        if took < state.answered || took > begun {
            return Err(Malformed);
        }
        state.peer_took.get_or_insert(took);
        let settled = state.settle();
        drop(state);
        settled.into_iter().for_each(|(sender, outcome)| tell(sender, outcome));
        Ok(())
    }

    /// The session is over: of no piece is anything heard any more.
    pub(crate) fn forget(&self) {
        let mut state = self.lock();
        state.ended = true;
        let forgotten = (std::mem::take(&mut state.queued), std::mem::take(&mut state.under_way));
        drop(state);
        // Who waits for them is woken, and holds the session.
        drop(forgotten);
    }

    /// Whether it is over, and no piece waits for the peer's word.
    pub(crate) fn is_settled(&self) -> bool {
        let state = self.lock();
        state.ended && state.under_way.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Once both ends are over: what became of all that was not answered.
    fn settle(&mut self) -> Vec<(oneshot::Sender<Outcome>, Outcome)> {
        let (true, Some(took)) = (self.ended, self.peer_took) else { return Vec::new() };
        let more = usize::try_from(took.saturating_sub(self.answered)).unwrap_or(usize::MAX);
        let outcome = |index| if index < more { Outcome::Taken } else { Outcome::Back };
        self.under_way.drain(..).enumerate().map(|(index, sender)| (sender, outcome(index))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(book: &Book, number: u64) -> oneshot::Receiver<Outcome> {
        let (outcome, receiver) = oneshot::channel();
        book.send(Job { head: PieceHead { channel: 0, number, length: 0 }, payload: Bytes::new(), outcome });
        receiver
    }

    fn outcomes(receivers: &mut [oneshot::Receiver<Outcome>]) -> Vec<Option<Outcome>> {
        receivers.iter_mut().map(|receiver| receiver.try_recv().ok()).collect()
    }

    #[test]
    fn of_a_lane_that_is_over_what_the_peer_took_is_taken_and_all_else_comes_back() {
        for peer_first in [false, true] {
            let book = Book::default();
            let mut sent: Vec<_> = (0..5).map(|number| send(&book, number)).collect();
            for _ in 0..4 {
                assert!(matches!(book.try_next(), Some(Work::Piece(..))));
            }
            book.answered(Outcome::NotWanted).unwrap();
            if peer_first {
                book.peer_ended(3).unwrap();
                assert!(sent[1..].iter_mut().all(|sent| sent.try_recv().is_err()), "an answer may still be read");
                book.answered(Outcome::Taken).unwrap();
                book.end();
            } else {
                book.end();
                assert!(!book.is_settled());
                book.peer_ended(3).unwrap();
            }
            let (taken, back) = (Some(Outcome::Taken), Some(Outcome::Back));
            let mut late = send(&book, 5);
            assert_eq!(late.try_recv(), Ok(Outcome::Back));
            assert!(book.is_settled());
            // The answered one was heard of before.
            assert_eq!(outcomes(&mut sent[1..]), [taken, taken, back, back]);
            assert_eq!(outcomes(&mut sent[..1]), [Some(Outcome::NotWanted)]);
        }
    }

    #[test]
    fn a_peer_that_took_what_was_not_sent_or_gives_back_what_it_took_is_refused() {
        let book = Book::default();
        let _sent: Vec<_> = (0..3).map(|number| send(&book, number)).collect();
        book.try_next().unwrap();
        book.try_next().unwrap();
        book.answered(Outcome::Taken).unwrap();
        assert_eq!((book.peer_ended(0), book.peer_ended(3)), (Err(Malformed), Err(Malformed)));
        book.answered(Outcome::Taken).unwrap();
        assert_eq!(book.answered(Outcome::Taken), Err(Malformed), "nothing is under way");
    }

    #[test]
    fn answers_go_before_pieces_and_are_bounded() {
        let book = Book::default();
        let _sent = send(&book, 0);
        book.answer(true).unwrap();
        book.answer(false).unwrap();
        let Some(Work::Answers(answers)) = book.try_next() else { unreachable!() };
        assert_eq!(answers, [Record::Taken.encode(), Record::NotWanted.encode()].concat());
        for _ in 0..MAX_ANSWERS {
            book.answer(true).unwrap();
        }
        assert_eq!(book.answer(true), Err(TooMany));
        assert_eq!(book.end(), 2 + u64::try_from(MAX_ANSWERS).unwrap());
    }
}
