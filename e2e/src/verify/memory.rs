//! How much memory a run took at its worst: looks once a second, from its beginning to its end.
//! Decides nothing about what is too much.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::bed::{Layout, memory_mib};

/// A compiler or a browser holds its peak longer.
const LOOK: Duration = Duration::from_secs(1);

/// The most that was seen so far.
#[derive(Debug)]
pub(super) struct Peak(Arc<AtomicU64>);

impl Peak {
    /// Begins to look, until the process ends.
    pub(super) fn watch() -> Self {
        let peak = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&peak);
        let layout = Layout::from_environment();
        std::thread::spawn(move || {
            loop {
                seen.fetch_max(memory_mib(&layout), Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        });
        Self(peak)
    }

    /// In MiB; 0 where the run has no cgroup of its own because no script started it.
    pub(super) fn mib(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
