//! What only the program that serves can look at, handed in from above.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// To be looked after.
    Warning,
    /// To be acted upon.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The category that it is shown in.
    pub category: &'static str,
    /// What should hold.
    pub description: &'static str,
    /// What was found instead, and what to do.
    pub trouble: Option<(Severity, String, &'static str)>,
}

type Look = Box<dyn Fn() -> Vec<Finding> + Send + Sync>;

/// Who looks, once that is known. Clones are the same one.
#[derive(Clone, Default)]
pub struct HostFindings(Arc<OnceLock<Look>>);

impl HostFindings {
    /// From now on these are the findings; the first to say so is heard.
    pub fn look_by(&self, look: impl Fn() -> Vec<Finding> + Send + Sync + 'static) {
        drop(self.0.set(Box::new(look)));
    }

    /// What is found now.
    #[must_use]
    pub fn now(&self) -> Vec<Finding> {
        self.0.get().map(|look| look()).unwrap_or_default()
    }
}

impl fmt::Debug for HostFindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostFindings").field("known", &self.0.get().is_some()).finish()
    }
}
