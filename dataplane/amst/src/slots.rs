//! The streams that a session may send at once, handed out in turn to its channels, so that a channel with a thousand pieces
//! waiting does not keep one with a single piece from its turn.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Hands out slots. Clones hand out the same.
#[derive(Clone, Debug)]
pub(crate) struct Slots(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    capacity: usize,
    used: usize,
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
    pub(crate) fn new(capacity: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            capacity,
            used: 0,
            closed: false,
            waiting: HashMap::new(),
            turns: VecDeque::new(),
        })))
    }

    /// A slot for a channel, when it is its turn; none once closed. Cancel safe.
    pub(crate) async fn acquire(&self, channel: u64) -> Option<Slot> {
        let receiver = {
            let mut state = self.lock();
            if state.closed {
                return None;
            }
            if state.used < state.capacity && state.turns.is_empty() {
                state.used += 1;
                return Some(Slot(self.clone()));
            }
            let (sender, receiver) = oneshot::channel();
            let queue = state.waiting.entry(channel).or_default();
            queue.push_back(sender);
            if queue.len() == 1 {
                state.turns.push_back(channel);
            }
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

    /// Sends everybody away who waits.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
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
                let Some(sender) = state.next_in_turn() else { return };
                state.used += 1;
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
        let slots = Slots::new(1);
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
        let slots = Slots::new(1);
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
    async fn more_slots_serve_those_who_wait_and_closing_sends_them_away() {
        let slots = Slots::new(1);
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
