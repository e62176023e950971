//! A bounded number of turns; the bound can be changed while turns are taken.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Turns. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    permits: Arc<Semaphore>,
    bound: Arc<Mutex<Bound>>,
}

#[derive(Debug)]
struct Bound {
    most: usize,
    /// Turns over the bound that were begun before it was lowered.
    over: usize,
}

/// A turn, until dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    permit: Option<OwnedSemaphorePermit>,
    turns: Turns,
}

impl Turns {
    pub(crate) fn new(most: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(most)), bound: Arc::new(Mutex::new(Bound { most, over: 0 })) }
    }

    /// The bound.
    pub(crate) fn most(&self) -> usize {
        self.lock().most
    }

    /// Another bound from now on; turns that were begun go on.
    pub(crate) fn set(&self, most: usize) {
        let mut bound = self.lock();
        let before = std::mem::replace(&mut bound.most, most);
        if most > before {
            let paid = bound.over.min(most - before);
            bound.over -= paid;
            self.permits.add_permits(most - before - paid);
        } else {
            bound.over += before - most - self.permits.forget_permits(before - most);
        }
    }

    /// A turn, when there is one. Cancel safe.
    pub(crate) async fn next(&self) -> Option<Turn> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        Some(Turn { permit: Some(permit), turns: self.clone() })
    }

    /// A turn, if there is one now.
    pub(crate) fn try_next(&self) -> Option<Turn> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some(Turn { permit: Some(permit), turns: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Bound> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut bound = self.turns.lock();
        if let (Some(permit), true) = (self.permit.take(), bound.over > 0) {
            bound.over -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_that_is_lowered_holds_as_turns_end() {
        let turns = Turns::new(3);
        let mut taken: Vec<Turn> = (0..3).map(|_| turns.try_next().unwrap()).collect();
        turns.set(1);
        taken.pop();
        taken.pop();
        assert!(turns.try_next().is_none(), "one is still taken");
        taken.pop();
        let one = turns.try_next().unwrap();
        assert!(turns.try_next().is_none());
        turns.set(2);
        assert!(turns.try_next().is_some());
        drop(one);
        turns.set(1);
        turns.set(4);
        assert_eq!(std::iter::repeat_with(|| turns.try_next()).take(9).flatten().collect::<Vec<_>>().len(), 4);
    }
}
