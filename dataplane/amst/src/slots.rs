//! The streams that a session may send at once, handed out in turn to its channels, so that a channel with a thousand pieces
//! waiting does not keep one with a single piece from its turn.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use foundation_runtime::Clock;
use tokio::sync::oneshot;

/// Hands out slots. Clones hand out the same.
#[derive(Clone, Debug)]
pub(crate) struct Slots(Arc<Mutex<State>>, Clock);

#[derive(Debug)]
struct State {
    capacity: usize,
    used: usize,
    /// The most that were used since that was last asked.
    most_used: usize,
    /// How long somebody waited since then, and since when somebody waits now.
    waited: Duration,
    waits_since: Option<Instant>,
    closed: bool,
    /// Who waits, by channel; no queue is empty.
    waiting: HashMap<u64, VecDeque<oneshot::Sender<Slot>>>,
    /// Channels that wait, in the order of their turns.
    turns: VecDeque<u64>,
}

/// The right to one stream, until dropped.
#[derive(Debug)]
pub(crate) struct Slot(Slots);

impl Slots {
    pub(crate) fn new(capacity: usize, clock: Clock) -> Self {
        let state = State {
            capacity,
            used: 0,
            most_used: 0,
            waited: Duration::ZERO,
            waits_since: None,
            closed: false,
            waiting: HashMap::new(),
            turns: VecDeque::new(),
        };
        Self(Arc::new(Mutex::new(state)), clock)
    }

    /// A slot for a channel, when it is its turn; none once closed. Cancel safe.
    pub(crate) async fn acquire(&self, channel: u64) -> Option<Slot> {
        let receiver = {
            let mut state = self.lock();
            if state.closed {
                return None;
            }
            if state.used < state.capacity && state.turns.is_empty() {
                state.take();
                return Some(Slot(self.clone()));
            }
            let (sender, receiver) = oneshot::channel();
            let queue = state.waiting.entry(channel).or_default();
            queue.push_back(sender);
            if queue.len() == 1 {
                state.turns.push_back(channel);
            }
            state.waits_since.get_or_insert_with(|| self.1.now());
            receiver
        };
        receiver.await.ok()
    }

    /// Changes how many there are; fewer come into force as used ones are given back.
    pub(crate) fn resize(&self, capacity: usize) {
        self.lock().capacity = capacity;
        self.hand_out();
    }

    pub(crate) fn capacity(&self) -> usize {
        self.lock().capacity
    }

    pub(crate) fn used(&self) -> usize {
        self.lock().used
    }

    /// The most that were used at once, and how long somebody waited for one, since this was last asked.
    pub(crate) fn use_since(&self) -> (usize, Duration) {
        let mut state = self.lock();
        if state.waits_since.is_some() {
            let now = self.1.now();
            state.nobody_waits(now);
            state.waits_since = Some(now);
        }
        let used = state.used;
        (mem::replace(&mut state.most_used, used), mem::take(&mut state.waited))
    }

    /// Sends everybody away who waits.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waits_since = None;
        state.turns.clear();
        state.waiting.clear();
    }

    fn hand_out(&self) {
        loop {
            let next = {
                let mut state = self.lock();
                if state.used >= state.capacity {
                    return;
                }
                let sender = state.next_in_turn();
                if state.turns.is_empty() {
                    state.nobody_waits(self.1.now());
                }
                let Some(sender) = sender else { return };
                state.take();
                sender
            };
            // Who went away in between gives the slot back by dropping it, outside of the lock.
            drop(next.send(Slot(self.clone())));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) {
        self.used += 1;
        self.most_used = self.most_used.max(self.used);
    }

    fn nobody_waits(&mut self, now: Instant) {
        let since = self.waits_since.take();
        self.waited += since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
    }

    fn next_in_turn(&mut self) -> Option<oneshot::Sender<Slot>> {
        while let Some(channel) = self.turns.pop_front() {
            let Some(queue) = self.waiting.get_mut(&channel) else { continue };
            while queue.front().is_some_and(oneshot::Sender::is_closed) {
                queue.pop_front();
            }
            let sender = queue.pop_front();
            if queue.is_empty() {
                self.waiting.remove(&channel);
            } else {
                self.turns.push_back(channel);
            }
            if sender.is_some() {
                return sender;
            }
        }
        None
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let mut state = self.0.lock();
            state.used -= 1;
            if state.turns.is_empty() {
                return;
            }
        }
        self.0.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use futures::{FutureExt, future::BoxFuture};

    use super::*;

    type Waiting = BoxFuture<'static, Option<Slot>>;

    fn wait(slots: &Slots, channel: u64) -> Waiting {
        let slots = slots.clone();
        let mut future = async move { slots.acquire(channel).await }.boxed();
        assert!((&mut future).now_or_never().is_none(), "there should be no slot");
        future
    }

    fn got(future: &mut Waiting) -> Option<Slot> {
        future.now_or_never().flatten()
    }

    #[tokio::test]
    async fn channels_take_turns_whatever_their_number_of_waiting_pieces() {
        let slots = Slots::new(1, Clock::system());
        let first = slots.acquire(1).await.unwrap();
        let mut busy: Vec<_> = (0..5).map(|_| wait(&slots, 1)).collect();
        let mut quiet = wait(&slots, 2);
        drop(first);
        let second = got(&mut busy[0]).unwrap();
        drop(second);
        assert!(got(&mut busy[1]).is_none());
        drop(got(&mut quiet).expect("the other channel's turn"));
        assert!(got(&mut busy[1]).is_some());
    }

    #[tokio::test]
    async fn who_went_away_loses_nothing_for_others() {
        let slots = Slots::new(1, Clock::system());
        let first = slots.acquire(1).await.unwrap();
        let gone = wait(&slots, 1);
        let mut stays = wait(&slots, 1);
        drop(gone);
        drop(first);
        let slot = got(&mut stays).unwrap();
        drop(slot);
        assert_eq!(slots.used(), 0);
    }

    #[tokio::test]
    async fn it_is_known_how_many_were_used_and_how_long_somebody_waited() {
        let (clock, hand) = Clock::manual(DateTime::UNIX_EPOCH);
        let slots = Slots::new(2, clock);
        let second = Duration::from_secs(1);
        let first = slots.acquire(1).await.unwrap();
        drop(slots.acquire(1).await);
        hand.advance(second);
        assert_eq!(slots.use_since(), (2, Duration::ZERO));
        let other = slots.acquire(1).await.unwrap();
        let mut waits = wait(&slots, 1);
        hand.advance(second);
        assert_eq!(slots.use_since(), (2, second));
        hand.advance(second);
        drop(other);
        drop(got(&mut waits).unwrap());
        hand.advance(second);
        assert_eq!(slots.use_since(), (2, second));
        drop(first);
        assert_eq!((slots.use_since().0, slots.use_since().0), (1, 0));
    }

    #[tokio::test]
    async fn more_slots_serve_those_who_wait_and_closing_sends_them_away() {
        let slots = Slots::new(1, Clock::system());
        let _first = slots.acquire(1).await.unwrap();
        let (mut second, mut third) = (wait(&slots, 1), wait(&slots, 2));
        slots.resize(2);
        assert!(got(&mut second).is_some());
        let _again = got(&mut third).unwrap();
        let fourth = wait(&slots, 3);
        slots.close();
        assert!(fourth.await.is_none());
        assert!(slots.acquire(1).await.is_none());
    }
}
