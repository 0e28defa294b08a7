//! The door: a cable named `hemicycle0` between the machine's network and the bed's bridge, so
//! that a person's browser reaches media nodes at their true addresses.
//!
//! It carries routes for 198.18.0.0/16 and 198.19.0.0/16 and nothing else; it goes with the bed.
//! The machine's end is 198.18.0.254. Where another bed has the door already, this one does
//! without.

use std::path::Path;
use std::process::Command;

use super::{Layout, Result};
use crate::process::{self, run, run_line};

const CABLE: &str = "hemicycle0";

/// Lays the cable, unless there is one.
pub(super) fn open(layout: &Layout) -> Result<()> {
    if Path::new("/sys/class/net").join(CABLE).exists() {
        return Ok(());
    }
    let Some(init) = process::read_pid(&layout.pid("outer")).and_then(process::child_of) else {
        return Ok(());
    };
    run_line(&format!("ip link add {CABLE} type veth peer name door netns {init}"))?;
    let inside = format!("-t {init} -n -- ip link set door master br0 up");
    run(Command::new("nsenter").args(inside.split(' ')))?;
    run_line(&format!("ip address add 198.18.0.254/24 dev {CABLE}"))?;
    run_line(&format!("ip link set {CABLE} up"))?;
    run_line(&format!("ip route add 198.19.0.0/16 via 198.18.0.1 dev {CABLE}"))?;
    Ok(())
}

/// Removes the cable if this bed laid it; the kernel has mostly done so already.
pub(super) fn close(layout: &Layout) {
    if layout.door_file().exists() && Path::new("/sys/class/net").join(CABLE).exists() {
        let _ = run_line(&format!("ip link delete {CABLE}"));
    }
}
