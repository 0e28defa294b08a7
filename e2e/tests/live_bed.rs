//! That the test bed behaves as a cluster of three machines does: what later tests rely on.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::install;
use e2e::story::{Story, tell};

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {matchLabels: {app: web}}
      containers:
      - name: web
        image: localhost/hemicycle-bed/busybox:1
        imagePullPolicy: Never
        command: [sh, -c]
        args: ['mkdir /tmp/w; echo $NODE > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w']
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  nodeSelector: {kubernetes.io/hostname: n2}
  terminationGracePeriodSeconds: 0
  containers:
  - name: echo
    image: localhost/hemicycle-bed/busybox:1
    imagePullPolicy: Never
    command: [udpecho, '9000']
    ports: [{containerPort: 9000, hostPort: 30900, protocol: UDP}]
";

fn apply(story: &Story, text: &str) -> Result<()> {
    let file = story.bed().layout().state().join("story.yaml");
    std::fs::write(&file, text)?;
    install::apply(story.bed(), &file, Some(story.namespace()))?;
    Ok(())
}

/// Runs a line of shell in a pod.
fn in_pod(story: &Story, pod: &str, line: &str) -> Result<String> {
    let words = ["-n", story.namespace(), "exec", pod, "--", "sh", "-c", line];
    Ok(install::kubectl(story.bed(), &words)?)
}

#[test]
fn pods_services_names_and_host_ports_work_as_on_machines() {
    tell("bed-network", |story| {
        apply(story, WEB)?;
        story.kubectl("rollout status deployment/web --timeout=90s")?;
        story.kubectl("wait --for=condition=Ready pod/echo --timeout=60s")?;
        let nodes = story.kubectl("get pods -l app=web -o jsonpath={.items[*].spec.nodeName}")?;
        let mut nodes: Vec<_> = nodes.split_whitespace().collect();
        nodes.sort_unstable();
        ensure!(nodes == ["n1", "n2", "n3"], "the pods run on {nodes:?}");
        story.say("three pods on three nodes");

        let pod = story.kubectl("get pods -l app=web -o jsonpath={.items[0].metadata.name}")?;
        let address = story.value("service/web", "{.spec.clusterIP}");
        let ask = format!("for i in $(busybox seq 30); do wget -qO- http://{address}/; done");
        story.until("the Service chooses each of them", 20, || {
            let answers = in_pod(story, pod.trim(), &ask).unwrap_or_default();
            nodes.iter().all(|node| answers.contains(node))
        })?;
        let name = format!("nslookup web.{}.svc.cluster.local", story.namespace());
        let answer = in_pod(story, pod.trim(), &name)?;
        ensure!(answer.contains(&address), "DNS says {answer}");
        story.say("it has a name");

        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        socket.send_to(b"hello", "198.18.0.12:30900")?;
        let mut buffer = [0_u8; 16];
        let (length, from) = socket.recv_from(&mut buffer).context("no UDP came back")?;
        ensure!(buffer.get(..length) == Some(b"hello"), "the bytes changed");
        ensure!(from.to_string() == "198.18.0.12:30900", "UDP came back from {from}");
        story.say("UDP to a hostPort comes back from the same address");
        Ok(())
    });
}

#[test]
fn a_nodes_credentials_touch_nothing_of_others() {
    tell("bed-identity", |story| {
        story.kubectl("create secret generic private --from-literal=a=b")?;
        let kubeconfig = story.bed().layout().kubeconfig("n1");
        let refusal = |line: &str| -> Result<String> {
            let mut command = Command::new("kubectl");
            command.arg("--kubeconfig").arg(&kubeconfig).args(["-n", story.namespace()]);
            let output = command.args(line.split(' ')).output()?;
            ensure!(!output.status.success(), "n1 was allowed to {line}");
            Ok(String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let label = "label node n1 x.node-restriction.kubernetes.io/qualified=true --overwrite";
        for (line, reason) in [
            ("label node n2 a=b", "only its own Node"),
            (label, "is not allowed to modify labels"),
            ("get secret private", "no relationship found"),
            ("create token default", "no relationship found"),
        ] {
            let said = refusal(line)?;
            ensure!(said.contains(reason), "{line}: {said}");
            story.say(&format!("n1 may not {line}"));
        }
        Ok(())
    });
}
