//! Makes the bed whole before a story: what an earlier one broke runs again, and the cluster's own
//! controllers have caught up. Changes nothing in a bed that is whole.
//!
//! An API server that has just started refuses everybody's watch for a second, for it has not read
//! its roles yet; controller manager and kube-proxy then wait for up to a minute before they ask
//! again. Until then a new Service leads nowhere, although everything calls itself ready.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::bed::{Bed, Part, node_address};
use crate::install;
use crate::process::Wait;

/// Twice the longest wait of those who were refused.
const CAUGHT_UP_SECONDS: u64 = 120;

/// On one machine a port that leads somewhere answers at once.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// A Service before pods that every bed has: cluster DNS.
const PROBE: &str = "
apiVersion: v1
kind: Service
metadata: {name: probe, namespace: kube-system}
spec:
  type: NodePort
  selector: {k8s-app: kube-dns}
  ports: [{name: dns-tcp, port: 53, protocol: TCP}]
";

/// Starts whatever does not run, and waits until a new Service works.
///
/// # Errors
/// If something does not come back in time.
pub(super) fn whole(bed: &Bed) -> Result<()> {
    for part in Part::ALL {
        bed.start(part)?;
    }
    let answers = || install::kubectl(bed, &["get", "--raw", "/readyz"]).is_ok();
    Wait::new("the API server's readiness", 60).until(answers)?;
    for n in bed.layout().nodes() {
        bed.start_node(n)?;
        bed.wait_node_ready(n)?;
        install::kubectl(bed, &["uncordon", &format!("n{n}")])?;
    }
    caught_up(bed)
}

/// Makes a Service and waits until it leads to its pods from every Kubernetes node.
fn caught_up(bed: &Bed) -> Result<()> {
    let probe = ["-n", "kube-system", "service/probe"];
    let delete = [&["delete", "--ignore-not-found"][..], &probe].concat();
    install::kubectl(bed, &delete)?;
    install::apply_text(bed, "probe", PROBE)?;
    let path = "jsonpath={.spec.ports[0].nodePort}";
    let port = install::kubectl(bed, &[&["get", "-o", path][..], &probe].concat())?;
    let port: u16 = port.parse().context("the probe has no node port")?;
    let nodes = bed.layout().nodes();
    let targets = nodes.iter().map(|n| Ok(SocketAddr::new(node_address(*n).parse()?, port)));
    let targets = targets.collect::<Result<Vec<_>>>()?;
    let leads = |target: &SocketAddr| TcpStream::connect_timeout(target, ANSWER_MAX).is_ok();
    Wait::new("a new Service on every Kubernetes node", CAUGHT_UP_SECONDS)
        .log(bed.layout().log(Part::ControllerManager.name()))
        .until(|| targets.iter().all(leads))?;
    install::kubectl(bed, &delete)?;
    Ok(())
}
