//! The door: a cable named `hemicycle0` between the machine's network and the bed's bridge, so
//! that a person's browser reaches media nodes at their true addresses.
//!
//! It carries routes for 198.18.0.0/16 and 198.19.0.0/16 and nothing else; it goes with the bed.
//! The machine's end is 198.18.0.254. Where another bed has the door already, this one does
//! without.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Bed, Error, Layout, Result};
use crate::cache;
use crate::process::{self, run, run_line};

const CABLE: &str = "hemicycle0";

/// Lays the cable, unless there is one.
pub(super) fn open(layout: &Layout) -> Result<()> {
    let lock = cache::lock("door");
    // Beds that start at the same time would both find none, and the second could not lay it.
    let _held = lock.map_err(|source| Error::file("lock", &cache::directory(), source))?;
    if Path::new("/sys/class/net").join(CABLE).exists() {
        return Ok(());
    }
    // A claim from before, of a cable that is gone.
    let _ = fs::remove_file(layout.door_file());
    let Some(init) = process::read_pid(&layout.pid("outer")).and_then(process::child_of) else {
        return Ok(());
    };
    layout.write(&layout.door_file(), CABLE)?;
    run_line(&format!("ip link add {CABLE} type veth peer name door netns {init}"))?;
    let inside = format!("-t {init} -n -- ip link set door master br0 up");
    run(Command::new("nsenter").args(inside.split(' ')))?;
    run_line(&format!("ip address add 198.18.0.254/24 dev {CABLE}"))?;
    run_line(&format!("ip link set {CABLE} up"))?;
    run_line(&format!("ip route add 198.19.0.0/16 via 198.18.0.1 dev {CABLE}"))?;
    Ok(())
}

impl Bed {
    /// Whether the machine reaches this bed: lays the cable if nobody has it by now. Without it,
    /// packets for the bed would take the machine's own way out.
    ///
    /// # Errors
    /// If the cable cannot be laid.
    pub fn open_door(&self) -> Result<bool> {
        open(&self.layout)?;
        Ok(self.layout.door_file().exists() && Path::new("/sys/class/net").join(CABLE).exists())
    }
}

/// Removes the cable if this bed laid it. The kernel does so too, but takes its time, and a bed
/// that is started meanwhile would count on a cable that is about to go.
pub(super) fn close(layout: &Layout) {
    if layout.door_file().exists() && Path::new("/sys/class/net").join(CABLE).exists() {
        let _ = run_line(&format!("ip link delete {CABLE}"));
    }
}
