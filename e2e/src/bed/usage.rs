//! What the bed costs: processor time and memory by part, read from its cgroups.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::{Bed, Layout};

impl Bed {
    /// A table with one line a part.
    #[must_use]
    pub fn usage(&self) -> String {
        let nodes = self.layout.nodes().into_iter().map(|n| format!("n{n}"));
        let mut table = format!("{:<14} {:>10} {:>10}\n", "part", "cpu_s", "rss_MiB");
        for part in std::iter::once("control-plane".to_owned()).chain(nodes) {
            let group = self.layout.cgroup(&part);
            let cpu = number("cpuacct", &group, "cpuacct.usage", "") / 1e9;
            let memory = number("memory", &group, "memory.stat", "total_rss ") / 1_048_576.0;
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{part:<14} {cpu:>10.1} {memory:>10.0}");
        }
        table
    }
}

/// Anonymous memory of the script that runs on the bed in `layout`, and of all its beds, in MiB.
#[must_use]
pub fn memory_mib(layout: &Layout) -> u64 {
    let beds = layout.all_of_run().into_iter().map(|layout| layout.cgroup(""));
    let groups = beds.chain([layout.run_cgroup(), layout.aside_cgroup()]);
    let bytes = groups.map(|group| number("memory", &group, "memory.stat", "total_rss "));
    (bytes.sum::<f64>() / 1_048_576.0) as u64
}

/// The number after `word` in `file` of a cgroup, 0 where there is none.
fn number(controller: &str, group: &Path, file: &str, word: &str) -> f64 {
    let path = Path::new("/sys/fs/cgroup").join(controller).join(group).join(file);
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(word)?.trim().parse().ok());
    value.unwrap_or(0.0)
}
