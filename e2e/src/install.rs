//! Installs the product on the bed the way its users do: helm for the charts, labels by the scope's
//! owner, kubectl for the sample. Decides nothing that a user could not have typed.
//!
//! Invariant: every step can be repeated.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::rand;
use livekit_contract::privacy::Private;

use crate::bed::{Bed, Error, Progress, Result, zone};
use crate::cache;
use crate::cast::Credentials;
use crate::images;
use crate::process::{Wait, run};

/// Namespace of the operator.
pub const OPERATOR_NAMESPACE: &str = "hemicycle-system";

/// The claim, and the volume, for the proof.
const PROOF_CLAIM: &str = "hemicycle-proof";

/// Short, so that a story sees several statements.
const PROOF_EVERY_SECONDS: u32 = 10;

/// Whom the operator runs as.
const OPERATOR_USER: u32 = 65_532;

/// The API key's name in what we install.
const API_KEY: &str = "visio";

/// Twice the shortest secret that the product accepts, written in hexadecimal.
const SECRET_BYTES: usize = 32;

/// Where the samples lie that users are shown.
#[must_use]
pub fn samples() -> PathBuf {
    cache::checkout().join("samples")
}

/// Installs both charts with the images of `archives`, of which the operator's at least was loaded,
/// and waits until the operator is ready. Images are named by digest, and of media pods no others
/// are allowed.
///
/// # Errors
/// If helm refuses or the operator does not become ready.
pub fn charts(bed: &Bed, archives: &[PathBuf], progress: Progress<'_>) -> Result<()> {
    definitions(bed, progress)?;
    proof_volume(bed)?;
    progress("helm upgrade --install hemicycle charts/hemicycle");
    let mut values = vec!["workloadPullPolicy=Never".to_owned(), "image.pullPolicy=Never".into()];
    values.push(format!("proof.volumeClaim={PROOF_CLAIM}"));
    values.push(format!("proof.everySeconds={PROOF_EVERY_SECONDS}"));
    // People read these logs.
    values.push("log.format=text".into());
    values.push("admission.images.digests=required".into());
    values.push("admission.images.prefixes={localhost/hemicycle/}".into());
    for (image, name) in
        [("image", "operator"), ("mediaNodeImage", "media-node"), ("gatewayImage", "gateway")]
    {
        let archive = archives.iter().find(|archive| archive.file_stem() == Some(name.as_ref()));
        let archive = archive.ok_or_else(|| Error::Unknown {
            name: format!("an image of {name}"),
            known: archives.iter().map(|path| path.display().to_string()).collect(),
        })?;
        values.push(format!("{image}.registry=localhost"));
        values.push(format!("{image}.digest={}", images::Reference::of(archive)?.digest));
    }
    helm(bed, "hemicycle", &values)
}

/// Where the proof lies, on the bed's own disk: the bed's machines share it, as they would share a
/// network file system.
fn proof_directory(bed: &Bed) -> PathBuf {
    bed.layout().state().join("proof")
}

/// A volume for the operator's replicas to share.
fn proof_volume(bed: &Bed) -> Result<()> {
    let directory = proof_directory(bed);
    fs::create_dir_all(&directory)
        .and_then(|()| chown(&directory, Some(OPERATOR_USER), Some(OPERATOR_USER)))
        .map_err(|source| Error::file("make", &directory, source))?;
    let manifest = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {OPERATOR_NAMESPACE}}}\n---\n\
         apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {PROOF_CLAIM}}}\nspec:\n  \
         capacity: {{storage: 1Gi}}\n  accessModes: [ReadWriteMany]\n  storageClassName: \"\"\n  \
         persistentVolumeReclaimPolicy: Retain\n  hostPath: {{path: {}, type: Directory}}\n---\n\
         apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {PROOF_CLAIM}, namespace: \
         {OPERATOR_NAMESPACE}}}\nspec:\n  accessModes: [ReadWriteMany]\n  storageClassName: \
         \"\"\n  volumeName: {PROOF_CLAIM}\n  resources: {{requests: {{storage: 1Gi}}}}\n",
        directory.display()
    );
    apply_text(bed, "proof-volume", &manifest).map(|_| ())
}

/// Installs the chart with the resource definitions.
///
/// # Errors
/// If helm refuses.
pub fn definitions(bed: &Bed, progress: Progress<'_>) -> Result<()> {
    progress("helm upgrade --install hemicycle-crds charts/hemicycle-crds");
    helm(bed, "hemicycle-crds", &[])
}

/// One template of the operator's chart as helm renders it with `values`.
///
/// # Errors
/// If helm refuses.
pub fn rendered(bed: &Bed, template: &str, values: &[&str]) -> Result<String> {
    let mut command = helm_program(bed);
    command.args(["template", "hemicycle"]).arg(cache::checkout().join("charts/hemicycle"));
    command.args(["--namespace", OPERATOR_NAMESPACE, "--show-only", template]);
    for value in values {
        command.args(["--set", value]);
    }
    run(&mut command)
}

fn helm_program(bed: &Bed) -> Command {
    let mut command = bed.enter(bed.tools().path("helm"));
    let homes = cache::directory().join("helm");
    for home in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(home, homes.join(home));
    }
    command
}

fn helm(bed: &Bed, chart: &str, values: &[String]) -> Result<()> {
    let mut command = helm_program(bed);
    command.args(["upgrade", "--install", chart]).arg(cache::checkout().join("charts").join(chart));
    command.args(["--namespace", OPERATOR_NAMESPACE, "--create-namespace"]);
    command.args(["--wait", "--timeout", "3m"]);
    for value in values {
        command.args(["--set", value]);
    }
    run(&mut command).map(|_| ())
}

/// Declares the sample scope and labels every Kubernetes node as lying in it, as its owner would.
///
/// # Errors
/// If the API server refuses.
pub fn scope(bed: &Bed, progress: Progress<'_>) -> Result<()> {
    progress("kubectl apply -f samples/qualificationscope.yaml");
    let name = apply(bed, &samples().join("qualificationscope.yaml"), None)?;
    for n in bed.layout().nodes() {
        let label = format!("topology.kubernetes.io/zone={}", zone(n));
        kubectl(bed, &["label", "--overwrite", "node", &format!("n{n}"), &label])?;
    }
    let pair = "jsonpath={.spec.nodeLabel.key}={.spec.nodeLabel.value}";
    let label = kubectl(bed, &["get", &name, "-o", pair])?;
    progress(&format!("kubectl label nodes --all {label}"));
    kubectl(bed, &["label", "--overwrite", "nodes", "--all", &label]).map(|_| ())
}

/// Makes a Secret with a fresh API key in `namespace` and returns the key.
///
/// # Errors
/// If the API server refuses.
pub fn credentials(bed: &Bed, namespace: &str, name: &str) -> Result<Credentials> {
    let mut bytes = [0_u8; SECRET_BYTES];
    rand::fill(&mut bytes).map_err(|_| Error::Crashed { what: "drawing a secret" })?;
    let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let manifest = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         stringData:\n  keys.yaml: |\n    {API_KEY}: {secret}\n"
    );
    apply_text(bed, "credentials", &manifest)?;
    Ok(Credentials { id: API_KEY.to_owned(), secret: Private::new(secret) })
}

/// Makes `namespace`, if it is not there.
///
/// # Errors
/// If the API server refuses.
pub fn namespace(bed: &Bed, namespace: &str) -> Result<()> {
    let text = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n");
    apply_text(bed, "namespace", &text).map(|_| ())
}

/// Removes every meeting cluster of `namespace` and waits until none of its media pods is left,
/// which hold ports of their Kubernetes nodes. Gateways take their time to send people elsewhere.
///
/// Before the namespace goes, because Kubernetes' namespace controller looks twice, five seconds
/// apart, and then again after half of the longest grace period of the pods that it still saw: a
/// media pod's is its drain budget.
///
/// # Errors
/// If one is still there after `seconds`.
pub fn remove_meeting_clusters(bed: &Bed, namespace: &str, seconds: u64) -> Result<()> {
    let timeout = format!("--timeout={seconds}s");
    kubectl(bed, &["-n", namespace, "delete", "meetingclusters", "--all", &timeout])?;
    let ours =
        ["get", "pods", "-n", namespace, "-l", "hemicycle.dev/component=media-node", "-o", "name"];
    Wait::new(&format!("the end of every media pod in {namespace}"), seconds)
        .until(|| kubectl(bed, &ours).is_ok_and(|said| said.trim().is_empty()))
}

/// Removes every meeting cluster of `namespace`, then the namespace, if it is there.
///
/// # Errors
/// If a pod or the namespace is still there after `seconds` each.
pub fn remove_namespace(bed: &Bed, namespace: &str, seconds: u64) -> Result<()> {
    // On a bare cluster nobody knows yet what a meeting cluster is, and kubectl would refuse.
    let there = ["get", "namespace", namespace, "--ignore-not-found", "-o", "name"];
    if kubectl(bed, &there)?.trim().is_empty() {
        return Ok(());
    }
    remove_meeting_clusters(bed, namespace, seconds)?;
    let timeout = format!("--timeout={seconds}s");
    kubectl(bed, &["delete", "namespace", namespace, "--ignore-not-found", &timeout])?;
    Ok(())
}

/// Applies a manifest that is made here.
///
/// # Errors
/// If the API server refuses.
pub fn apply_text(bed: &Bed, name: &str, text: &str) -> Result<String> {
    let path = bed.layout().state().join(format!("{name}.yaml"));
    fs::write(&path, text).map_err(|source| Error::file("write", &path, source))?;
    apply(bed, &path, None)
}

/// Applies a file and returns what it names, as in `meetingcluster.hemicycle.dev/visio`.
///
/// # Errors
/// If the API server refuses.
pub fn apply(bed: &Bed, file: &Path, namespace: Option<&str>) -> Result<String> {
    let file = file.display().to_string();
    let mut line = vec!["apply", "-o", "name", "-f", &file];
    line.extend(namespace.into_iter().flat_map(|namespace| ["-n", namespace]));
    kubectl(bed, &line).map(|said| said.trim().to_owned())
}

/// Waits for condition Ready of `object`.
///
/// # Errors
/// If it is not met within `seconds`; then with what the object says of itself.
pub fn ready(bed: &Bed, object: &str, namespace: &str, seconds: u64) -> Result<()> {
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    let what = format!("condition Ready of {object}");
    let met = Wait::new(&what, seconds).until(|| {
        let said = kubectl(bed, &["get", object, "-n", namespace, "-o", path]);
        said.is_ok_and(|text| text == "True")
    });
    met.map_err(|error| account(bed, object, namespace, &error))
}

/// Waits until a change of meeting cluster `object` has reached every gateway and the older ones
/// are gone: while both are there, a page of one loads its parts from another.
///
/// # Errors
/// If that takes longer than `seconds`; then with what the object says of itself.
pub fn rolled_out(bed: &Bed, object: &str, namespace: &str, seconds: u64) -> Result<()> {
    let progress = ".status.conditions[?(@.type==\"Progressing\")]";
    let path = format!(
        "jsonpath={{.metadata.generation}} {{{progress}.observedGeneration}} \
         {{{progress}.status}} {{.spec.gateway.replicas}}"
    );
    let gateways = "hemicycle.dev/component=gateway";
    let met = Wait::new(&format!("the roll-out of {object}"), seconds).until(|| {
        let said = kubectl(bed, &["get", object, "-n", namespace, "-o", &path]);
        let said = said.unwrap_or_default();
        let pods = kubectl(bed, &["get", "pods", "-n", namespace, "-l", gateways, "-o", "name"]);
        let pods = pods.map_or(0, |text| text.lines().count()).to_string();
        match said.split_whitespace().collect::<Vec<_>>().as_slice() {
            [generation, seen, "False", replicas] => generation == seen && *replicas == pods,
            _ => false,
        }
    });
    met.map_err(|error| account(bed, object, namespace, &error))
}

/// What the cluster says when a wait was in vain.
fn account(bed: &Bed, object: &str, namespace: &str, error: &Error) -> Error {
    let said = kubectl(bed, &["describe", object, "-n", namespace]).unwrap_or_default();
    let pods = kubectl(bed, &["get", "pods", "-A", "-o", "wide"]).unwrap_or_default();
    Error::Machine { what: format!("{error}\n{said}\n{pods}"), remedy: "see above" }
}

/// `kubectl` with `line`; its output.
///
/// # Errors
/// If it fails.
pub fn kubectl(bed: &Bed, line: &[&str]) -> Result<String> {
    let mut command: Command = bed.enter(bed.tools().path("kubectl"));
    // Conditions are looked at by thousands of calls, and of the processor's time that one takes
    // nearly half goes to collecting garbage of a process that ends at once.
    command.env("GOGC", "off").env("GOMAXPROCS", "1");
    run(command.args(line))
}
