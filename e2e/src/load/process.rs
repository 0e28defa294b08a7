//! What a process has used, from the kernel's procfs.
//!
//! Reads two files; judges nothing. Invariant: times are of all threads of the process.

use std::fs;
use std::time::Duration;

use anyhow::Context;

/// Clock ticks a second in `/proc/<pid>/stat`; Linux fixes `USER_HZ` at 100 for user space.
const TICKS_PER_SECOND: u64 = 100;

/// CPU time and memory of one process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub user: Duration,
    pub system: Duration,
    /// Resident memory, in bytes, now and at its largest since the process began.
    pub resident_bytes: u64,
    pub peak_bytes: u64,
}

impl Usage {
    /// Reads the usage of a process.
    ///
    /// # Errors
    /// When there is no such process, or it may not be read.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        // The command may hold spaces and brackets; the numbers begin after the last bracket.
        let (_, fields) = stat.rsplit_once(')').context("unexpected form of stat")?;
        let mut times = fields.split_whitespace().skip(11);
        let mut time = || -> anyhow::Result<Duration> {
            let ticks: u64 = times.next().context("stat is too short")?.parse()?;
            Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
        };
        let (user, system) = (time()?, time()?);
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let bytes = |key: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(key));
            let kilobytes = value.and_then(|text| text.split_whitespace().next()?.parse().ok());
            kilobytes.unwrap_or(0_u64) * 1024
        };
        let (resident_bytes, peak_bytes) = (bytes("VmRSS:"), bytes("VmHWM:"));
        Ok(Self { user, system, resident_bytes, peak_bytes })
    }

    /// CPU time since an earlier reading, and memory now.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Usage;

    #[test]
    fn reads_this_process() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident_bytes > 1 << 20);
        assert!(usage.peak_bytes >= usage.resident_bytes);
        assert!(Usage::of(u32::MAX).is_err());
    }
}
