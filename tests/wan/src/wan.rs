//! The path between two places.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::Result;
use foundation_runtime::Clock;

use crate::{
    device::Device,
    link::{Direction, Link},
    namespace::Place,
    pump::Pump,
    report::{Report, Verdict},
};

/// A path that runs until it is dropped; its interfaces go with it.
#[derive(Debug)]
pub struct Wan {
    there: Pump,
    back: Pump,
    clock: Clock,
    counts_since: Mutex<Instant>,
}

impl Wan {
    /// Joins two places by a path that is alike in both directions. Each gets an interface `to-NAME` with its address
    /// (`10.77.0.1/24`), as a cable would.
    ///
    /// # Errors
    /// This is not root, or the kernel refuses.
    pub fn between(first: (&impl Place, &str), second: (&impl Place, &str), link: Link) -> Result<Self> {
        let back = Link { seed: seed_back(link.seed), ..link.clone() };
        Self::directed(first, second, link, back)
    }

    /// As [`Self::between`], with a link of its own for the way back.
    ///
    /// # Errors
    /// As there.
    pub fn directed(first: (&impl Place, &str), second: (&impl Place, &str), there: Link, back: Link) -> Result<Self> {
        let one = Arc::new(Device::new(first.0.network(), &format!("to-{}", second.0.name()), first.1)?);
        let two = Arc::new(Device::new(second.0.network(), &format!("to-{}", first.0.name()), second.1)?);
        let clock = Clock::system();
        let start = clock.now();
        Ok(Self {
            there: Pump::start(Direction::There, Arc::clone(&one), Arc::clone(&two), there, start)?,
            back: Pump::start(Direction::Back, two, one, back, start)?,
            clock,
            counts_since: Mutex::new(start),
        })
    }

    /// Changes both directions, from now on.
    pub fn change(&self, change: impl Fn(&mut Link)) {
        self.there.change(&change);
        self.back.change(&change);
    }

    /// The link as it is now, in one direction.
    #[must_use]
    pub fn link(&self, direction: Direction) -> Link {
        match direction {
            Direction::There => self.there.link(),
            Direction::Back => self.back.link(),
        }
    }

    /// Changes one.
    pub fn change_one(&self, direction: Direction, change: impl Fn(&mut Link)) {
        match direction {
            Direction::There => self.there.change(&change),
            Direction::Back => self.back.change(&change),
        }
    }

    /// Begins to count anew, as if the path had just been made with this link; what is on its way arrives.
    ///
    /// # Errors
    /// The interfaces' own counts cannot be read.
    pub fn count_anew(&self, link: &Link) -> Result<()> {
        self.there.count_anew(link.clone())?;
        self.back.count_anew(Link { seed: seed_back(link.seed), ..link.clone() })?;
        *self.counts_since() = self.clock.now();
        Ok(())
    }

    fn counts_since(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.counts_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was counted so far.
    ///
    /// # Errors
    /// The interfaces' own counts cannot be read.
    pub fn report(&self) -> Result<Report> {
        let (there, back) = (self.there.report()?, self.back.report()?);
        let verdict = Verdict::of([&there, &back]);
        Ok(Report {
            verdict,
            seconds: self.clock.now().duration_since(*self.counts_since()).as_secs_f64(),
            real_time: self.there.real_time && self.back.real_time,
            there,
            back,
        })
    }
}

/// The way back has dice of its own.
fn seed_back(seed: u64) -> u64 {
    seed ^ 0xbac
}
