//! That a ticket opens the media node it was written for, while it is fresh, and no other: tried
//! on the real media pods by somebody who holds all that the operator's pod holds.
//!
//! The operator is away meanwhile, so that nobody else opens them. Harm if it fails: a pod that was
//! started off the path carries a meeting with what it was given by another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::install::OPERATOR_NAMESPACE;
use e2e::story::{MeetingClusterBuilder, OperatorAway, Story, tell};
use jiff::Timestamp;
use kube::Client;
use media_api::EPOCH_METADATA;
use media_api::ticket::Signer;
use media_api::v1::media_control_client::MediaControlClient;
use media_api::v1::{ClaimRequest, GrantRequest, ObserveRequest, RoomKey, Ticket};
use operator::fleet::channel;
use operator::pki::signing::{self, SigningKeys};
use operator::pki::trust::{TrustStore, Trusted};
use operator::pki::{Role, store};
use operator::reconcile::build::media_pod::CONTROL_PORT;
use operator_core::placement::GRANT_TTL_MS;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Code, Status};

const NAME: &str = "visio";

/// The longest that a ticket may live.
const LIFE_MS: u64 = 600_000;

/// What a clock is off by in these attempts.
const TWO_HOURS_MS: u64 = 7_200_000;

/// On one machine a media node answers at once.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// One who took the operator's certificate and its signing keys.
struct Thief {
    trusted: Arc<Trusted>,
    keys: SigningKeys,
    tenant: String,
}

impl Thief {
    async fn steal(namespace: &str) -> Result<Self> {
        let client = Client::try_default().await.context("no way to the API server")?;
        let authority = store::load_authority(&client, namespace, NAME).await?;
        let authority = authority.context("the meeting cluster has no authority")?;
        let keys = signing::ensure(&client, OPERATOR_NAMESPACE).await?;
        let trust = TrustStore::default();
        trust.put(namespace, NAME, &authority, Timestamp::now())?;
        let tenant = format!("{namespace}/{NAME}");
        let trusted = trust.get(&tenant).context("no certificate was issued")?;
        Ok(Self { trusted, keys, tenant })
    }
}

/// A media pod, as far as a ticket names it.
#[derive(Debug, Clone)]
struct Pod {
    name: String,
    uid: String,
    kubernetes_node: String,
    control: SocketAddr,
}

impl Pod {
    fn look(story: &Story, name: &str) -> Result<Self> {
        let of = |path: &str| story.value(&format!("pod/{name}"), path);
        let ip = of("{.status.podIP}").parse().with_context(|| format!("{name} has no address"))?;
        Ok(Self {
            name: name.to_owned(),
            uid: of("{.metadata.uid}"),
            kubernetes_node: of("{.spec.nodeName}"),
            control: SocketAddr::new(ip, CONTROL_PORT),
        })
    }

    /// What the operator would write for it now.
    fn ticket(&self, thief: &Thief, epoch: u64) -> Ticket {
        let now = unix_ms();
        Ticket {
            tenant: thief.tenant.clone(),
            media_node: self.name.clone(),
            pod_uid: self.uid.clone(),
            kubernetes_node: self.kubernetes_node.clone(),
            scope: "demo".to_owned(),
            evidence_level: "E0".to_owned(),
            not_before_unix_ms: now,
            expires_unix_ms: now + LIFE_MS,
            issued_epoch: epoch,
            serial: now,
        }
    }
}

fn unix_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default()
}

/// The control listener of one media pod, entered as the operator.
struct Door {
    client: MediaControlClient<Channel>,
    tenant: String,
    epoch: u64,
}

impl Door {
    async fn enter(thief: &Thief, pod: &Pod) -> Result<Self> {
        let name = thief.trusted.dns_name(&Role::MediaNode(&pod.name));
        let channel = channel::connect(&thief.trusted, pod.control, &name).await?;
        let mut client = channel::control(channel);
        // Nobody has been given this epoch, so the answer names the one that holds.
        let refused = client.observe(ObserveRequest { epoch: 0 }).await.err();
        let told = refused.as_ref().and_then(|status| status.metadata().get(EPOCH_METADATA));
        let told = told.and_then(|text| text.to_str().ok()?.parse().ok());
        let epoch = told.with_context(|| format!("no epoch was told: {refused:?}"))?;
        Ok(Self { client, tenant: thief.tenant.clone(), epoch })
    }

    /// Shows a ticket with a grant, as the operator does.
    async fn show(&mut self, ticket: Vec<u8>) -> Result<(), Status> {
        let epoch = self.epoch;
        let mut reports = self.client.observe(ObserveRequest { epoch }).await?.into_inner();
        let report = tokio::time::timeout(ANSWER_MAX, reports.message()).await;
        let report = report.map_err(|_| Status::deadline_exceeded("no report came"))??;
        let report = report.ok_or_else(|| Status::aborted("the reports ended"))?;
        let (incarnation, uptime_ms) = (report.incarnation, report.uptime_ms);
        let request = GrantRequest { epoch, ttl_ms: GRANT_TTL_MS, ticket, incarnation, uptime_ms };
        self.client.grant(request).await.map(|_| ())
    }

    /// Claims a room there, as the operator does before it sends anybody.
    async fn claim(&mut self, room: &str) -> Result<(), Status> {
        let room = RoomKey { tenant: self.tenant.clone(), name: room.to_owned() };
        let request = ClaimRequest { epoch: self.epoch, room: Some(room) };
        self.client.claim(request).await.map(|_| ())
    }
}

/// What is tried: by what name, which ticket, and what the refusal says.
type Attempt = (&'static str, Vec<u8>, &'static str);

fn attempts(thief: &Thief, own: &Pod, other: &Pod, epoch: u64) -> Result<Vec<Attempt>> {
    let signer = thief.keys.ticket();
    let changed = |change: fn(&mut Ticket)| {
        let mut ticket = own.ticket(thief, epoch);
        change(&mut ticket);
        signer.sign(&ticket)
    };
    let forger = SigningKeys::generate()?;
    let forged = |signer: &Signer| signer.sign(&own.ticket(thief, epoch));
    Ok(vec![
        ("another media node's", signer.sign(&other.ticket(thief, epoch)), "media_node"),
        (
            "one for a pod of the same name that is gone",
            changed(|it| it.pod_uid = "6f1d6a0e-0000-4000-8000-000000000000".to_owned()),
            "pod_uid",
        ),
        (
            "one for another Kubernetes node",
            changed(|it| it.kubernetes_node = "abroad".to_owned()),
            "kubernetes_node",
        ),
        ("one for another scope", changed(|it| it.scope = "elsewhere".to_owned()), "scope"),
        (
            "an old one",
            changed(|it| {
                it.not_before_unix_ms -= TWO_HOURS_MS;
                it.expires_unix_ms -= TWO_HOURS_MS;
            }),
            "expired",
        ),
        ("one of two hours", changed(|it| it.expires_unix_ms += TWO_HOURS_MS), "ten minutes"),
        ("one signed with another key", forged(forger.ticket()), "key"),
    ])
}

#[test]
fn a_ticket_opens_its_own_media_node_and_no_other() {
    tell("ticket", |story| {
        let meetings = MeetingClusterBuilder::new(NAME).media_nodes(2).serve(story)?;
        let mut pods = meetings.pods("media-node").into_iter();
        let own = Pod::look(story, &pods.next().context("no media node runs")?)?;
        let other = Pod::look(story, &pods.next().context("only one media node runs")?)?;
        let runtime = Runtime::new().context("cannot start threads")?;
        let thief = runtime.block_on(Thief::steal(story.namespace()))?;
        let _away = OperatorAway::send(story)?;
        let mut door = runtime.block_on(Door::enter(&thief, &own))?;
        // A grant without one takes away the one that it holds, good for minutes still.
        runtime.block_on(door.show(Vec::new())).context("a grant without a ticket was refused")?;
        let closed = runtime.block_on(door.claim("council")).err().context("no ticket opens it")?;
        ensure!(closed.message().contains("no ticket"), "closed for something else: {closed}");

        for (what, ticket, why) in attempts(&thief, &own, &other, door.epoch)? {
            let refused = runtime.block_on(door.show(ticket)).err();
            let said = refused.with_context(|| format!("{what} was taken"))?.message().to_owned();
            ensure!(said.contains(why), "{what} was refused for something else: {said}");
            let carried = runtime.block_on(door.claim("council"));
            let code = carried.err().map(|status| status.code());
            ensure!(code == Some(Code::Unavailable), "{what}: the claim ended with {code:?}");
            story.say(&format!("{what}: {said}"));
        }

        // What was wrong with all of them was the ticket; and here prevention ends.
        let genuine = thief.keys.ticket().sign(&own.ticket(&thief, door.epoch));
        runtime.block_on(door.show(genuine)).context("its own ticket was refused")?;
        runtime.block_on(door.claim("council")).context("its own ticket opens nothing")?;
        Ok(())
    });
}
