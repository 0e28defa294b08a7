//! Watches over the admission policies: one that was changed or deleted is put back at once, and
//! told. Decides nothing about their content.
//! Invariant: nothing is written while the API server holds what it made of our last write, so that
//! no default or normalisation of its own can make a loop; and what it made holds all that we
//! wrote.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    core::v1::ObjectReference,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::FieldsV1;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DynamicObject, ListParams, PostParams},
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        events::{Event, EventType, Recorder},
        watcher,
    },
};
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};

use super::policies::{Kind, Wanted};
use crate::{
    events,
    metrics::Metrics,
    reconcile::{error::is_conflict, failure, objects},
};

/// A look without a cause, should a watch have died silently.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Shortest pause between looks, doubled with each that fails: whoever fights over a policy with us
/// costs the API server this much and no more.
const PAUSE: Duration = Duration::from_secs(1);
/// How long tampering is told after it was repaired, in seconds: longer than monitoring looks away.
const TOLD_SECONDS: i64 = 60;
/// Events of a watch that are answered by one look.
const EVENTS_AT_ONCE: usize = 64;

/// How often the fields of what was put back are given up: beside it the API server writes a
/// policy's status, once when it has checked its types.
const DISOWN_TRIES: usize = 5;

/// Field manager of policies and bindings.
const FIELD_MANAGER: &str = "hemicycle-operator/admission";
/// Annotation on what was put back, with the time.
const PUT_BACK: &str = "hemicycle.dev/put-back";

/// Why a policy could not be kept.
#[derive(Debug, thiserror::Error)]
enum GuardError {
    #[error("the list of {plural} could not be read")]
    List { plural: String, source: kube::Error },
    #[error("could not {act} {object}")]
    Write { act: &'static str, object: String, source: kube::Error },
    #[error("the API server did not keep {object} as it was written: does it serve this version?")]
    Altered { object: String },
}

impl GuardError {
    /// Somebody wrote at the same time, such as the API server its status: nothing is known yet.
    fn is_race(&self) -> bool {
        matches!(self, Self::Write { source, .. } if is_conflict(source))
    }
}

/// What was done to a policy or binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It was not there.
    Deleted,
    /// Its spec was another.
    Changed,
}

impl fmt::Display for What {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Deleted => "deleted",
            Self::Changed => "changed",
        })
    }
}

/// Somebody else's hand on a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tamper {
    /// When it was repaired.
    pub at: Timestamp,
    /// Whether a policy or a binding.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// What was done to it.
    pub what: What,
}

/// What is known of the policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Whether all were as they must be at the last look; none: nobody looked yet.
    pub intact: Option<bool>,
    /// The last repair.
    pub last_tamper: Option<Tamper>,
    /// Why the last look could not make them so.
    pub fault: Option<String>,
}

/// Watches over the policies of one cluster.
#[derive(Debug)]
pub struct Guard {
    wanted: Vec<Wanted>,
    state: watch::Sender<State>,
}

/// What the watch needs.
#[derive(Clone)]
pub struct Keeper {
    /// For the API server.
    pub client: Client,
    /// For Events on policies and bindings.
    pub recorder: Recorder,
    /// Of the process.
    pub metrics: Arc<Metrics>,
}

/// What the API server made of a spec of ours, by kind and name.
type Canon = BTreeMap<(Kind, String), Value>;

impl Guard {
    /// Watches over nothing until [`Self::run`].
    #[must_use]
    pub fn new(wanted: Vec<Wanted>) -> Self {
        Self { wanted, state: watch::Sender::default() }
    }

    /// What is known, and every change of it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// What a person must know now: that a policy cannot be kept, or that one was tampered with
    /// within the last minute.
    #[must_use]
    pub fn trouble(&self, now: Timestamp) -> Option<String> {
        let state = self.state.borrow();
        if let Some(fault) = &state.fault {
            return Some(format!(
                "the admission policies are not in force as they must be: {fault}"
            ));
        }
        let Tamper { at, kind, name, what } = state.last_tamper.as_ref()?;
        let object = object_name(*kind, name);
        (now.as_second() - at.as_second() < TOLD_SECONDS).then(|| {
            format!(
                "{object} was {what} by somebody else and put back at {at:.0}: look in the audit \
                 log of the API server for who did it"
            )
        })
    }

    /// Puts back what was changed or deleted, until dropped. `leads` is asked before every write.
    pub async fn run(&self, keeper: &Keeper, leads: impl Fn() -> bool + Copy) {
        let mut events = std::pin::pin!(
            stream::select(
                stir::<ValidatingAdmissionPolicy>(&keeper.client),
                stir::<ValidatingAdmissionPolicyBinding>(&keeper.client),
            )
            .filter(|name| {
                let ours = name.as_ref().is_none_or(|name| self.is_ours(name));
                std::future::ready(ours)
            })
            .ready_chunks(EVENTS_AT_ONCE)
        );
        let (mut canon, mut failures) = (Canon::new(), 0_u32);
        loop {
            let looked = self.look(keeper, &mut canon, leads).await;
            let raced = looked.as_ref().is_err_and(GuardError::is_race);
            if !raced {
                failures = if looked.is_ok() { 0 } else { failures.saturating_add(1) };
                self.tell(keeper, looked);
            }
            sleep(PAUSE).await;
            if raced {
                continue;
            }
            let again = match failures {
                0 => LOOK_EVERY,
                _ => PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(LOOK_EVERY),
            };
            tokio::select! {
                _ = events.next() => {}
                () = sleep(again) => {}
            }
        }
    }

    fn is_ours(&self, name: &str) -> bool {
        self.wanted.iter().any(|wanted| wanted.name == name)
    }

    fn tell(&self, keeper: &Keeper, looked: Result<(), GuardError>) {
        keeper.metrics.admission.intact.set(i64::from(looked.is_ok()));
        let fault = looked.err().map(|error| failure::with_causes(&error));
        if let (Some(fault), true) = (&fault, self.state.borrow().fault != fault) {
            tracing::error!(fault, "the admission policies cannot be kept");
        }
        self.state.send_if_modified(|state| {
            let before = state.clone();
            state.intact = Some(fault.is_none());
            state.fault = fault;
            *state != before
        });
    }

    /// Compares every policy and binding with what it must be, and puts back what differs.
    async fn look(
        &self,
        keeper: &Keeper,
        canon: &mut Canon,
        leads: impl Fn() -> bool,
    ) -> Result<(), GuardError> {
        let mut first = Ok(());
        for kind in Kind::ALL {
            let api = Api::<DynamicObject>::all_with(keeper.client.clone(), &kind.resource());
            let listed = api
                .list(&ListParams::default())
                .await
                .map_err(|source| GuardError::List { plural: kind.resource().plural, source })?;
            let live: BTreeMap<String, DynamicObject> =
                listed.items.into_iter().map(|object| (object.name_any(), object)).collect();
            for wanted in self.wanted.iter().filter(|wanted| wanted.kind == kind) {
                if !leads() {
                    return first;
                }
                // One that cannot be kept must not cost the others.
                let kept = keep(&api, wanted, live.get(&wanted.name), canon).await;
                match kept {
                    Ok(None) => {}
                    Ok(Some(what)) => self.repaired(keeper, wanted, what).await,
                    Err(error) => first = first.and(Err(error)),
                }
            }
        }
        first
    }

    async fn repaired(&self, keeper: &Keeper, wanted: &Wanted, what: What) {
        let object = object_name(wanted.kind, &wanted.name);
        tracing::warn!(object, %what, "put back what guards the scopes");
        let label = format!("{}_{what}", wanted.kind.word());
        keeper.metrics.admission.repaired.with_label_values(&[&wanted.name, &label]).inc();
        let (at, kind, name) = (Timestamp::now(), wanted.kind, wanted.name.clone());
        self.state.send_modify(|state| {
            state.last_tamper = Some(Tamper { at, kind, name, what });
        });
        let resource = wanted.kind.resource();
        let about = ObjectReference {
            api_version: Some(resource.api_version),
            kind: Some(resource.kind),
            name: Some(wanted.name.clone()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Warning,
            reason: "PolicyPutBack".to_owned(),
            note: Some(format!(
                "{object} was {what} by somebody else and put back; the audit log says by whom"
            )),
            action: "PutBack".to_owned(),
            secondary: None,
        };
        if let Err(error) = events::publish(&keeper.recorder, &about, event).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, object, "an Event could not be written");
        }
    }
}

/// Names of what changed; none: anything may have.
fn stir<K>(client: &Client) -> impl stream::Stream<Item = Option<String>> + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + 'static,
    PartialObjectMeta<K>: Send,
{
    watcher(Api::<PartialObjectMeta<K>>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .filter_map(|event| {
            std::future::ready(match event {
                Ok(watcher::Event::Apply(object) | watcher::Event::Delete(object)) => {
                    Some(Some(object.name_any()))
                }
                Ok(watcher::Event::InitDone) => Some(None),
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the watch over the admission policies broke");
                    None
                }
            })
        })
}

/// Makes one policy or binding as it must be; says what was wrong with it.
async fn keep(
    api: &Api<DynamicObject>,
    wanted: &Wanted,
    live: Option<&DynamicObject>,
    canon: &mut Canon,
) -> Result<Option<What>, GuardError> {
    let key = (wanted.kind, wanted.name.clone());
    let Some(live) = live else {
        let made = create(api, wanted).await?;
        canon.insert(key, canonical(wanted, &made)?);
        return Ok(Some(What::Deleted));
    };
    if let Some(canon) = canon.get(&key) {
        if live.data["spec"] == *canon {
            return Ok(None);
        }
    } else {
        // What it would make of our spec, without writing it.
        let would = imagine(api, wanted, live).await?;
        let spec = canonical(wanted, &would)?;
        if live.data["spec"] == spec {
            canon.insert(key, spec);
            return Ok(None);
        }
    }
    let made = replace(api, wanted, live).await?;
    canon.insert(key, canonical(wanted, &made)?);
    Ok(Some(What::Changed))
}

/// The spec that the API server made of ours, if it kept all of it.
fn canonical(wanted: &Wanted, made: &DynamicObject) -> Result<Value, GuardError> {
    let spec = made.data["spec"].clone();
    if objects::contains(&spec, &wanted.spec) {
        return Ok(spec);
    }
    Err(GuardError::Altered { object: object_name(wanted.kind, &wanted.name) })
}

/// What a person calls a policy or binding.
fn object_name(kind: Kind, name: &str) -> String {
    format!("{} {name}", kind.resource().kind)
}

fn params(dry_run: bool) -> PostParams {
    PostParams { dry_run, field_manager: Some(FIELD_MANAGER.into()) }
}

async fn create(api: &Api<DynamicObject>, wanted: &Wanted) -> Result<DynamicObject, GuardError> {
    let mut object = DynamicObject::new(&wanted.name, &wanted.kind.resource());
    object.annotations_mut().insert(PUT_BACK.to_owned(), Timestamp::now().to_string());
    object.data = json!({"spec": wanted.spec});
    let made = api.create(&params(false), &object).await;
    let made = made.map_err(write_error("create", wanted))?;
    disown(api, made.clone()).await;
    Ok(made)
}

/// Writes the whole spec: server-side apply would leave what others had added, such as a condition
/// under which a policy does not hold.
async fn replace(
    api: &Api<DynamicObject>,
    wanted: &Wanted,
    live: &DynamicObject,
) -> Result<DynamicObject, GuardError> {
    let mut object = live.clone();
    object.annotations_mut().insert(PUT_BACK.to_owned(), Timestamp::now().to_string());
    object.data = json!({"spec": wanted.spec});
    let made = api.replace(&wanted.name, &params(false), &object).await;
    let made = made.map_err(write_error("put back", wanted))?;
    disown(api, made.clone()).await;
    Ok(made)
}

/// What the API server would make of our spec in place of that of `live`.
async fn imagine(
    api: &Api<DynamicObject>,
    wanted: &Wanted,
    live: &DynamicObject,
) -> Result<DynamicObject, GuardError> {
    let mut object = live.clone();
    object.data = json!({"spec": wanted.spec});
    let would = api.replace(&wanted.name, &params(true), &object).await;
    would.map_err(write_error("compare", wanted))
}

fn write_error(act: &'static str, wanted: &Wanted) -> impl FnOnce(kube::Error) -> GuardError {
    let object = object_name(wanted.kind, &wanted.name);
    move |source| GuardError::Write { act, object, source }
}

/// Leaves us the owner of nothing but our annotation: the chart's next version, which helm applies
/// server-side, would otherwise meet a conflict in every field that was put back.
async fn disown(api: &Api<DynamicObject>, mut object: DynamicObject) {
    let name = object.name_any();
    for tries_left in (0..DISOWN_TRIES).rev() {
        own_annotation_alone(&mut object);
        let written = api.replace(&name, &params(false), &object).await;
        let raced = tries_left > 0 && written.as_ref().is_err_and(is_conflict);
        // As it is by now, whoever wrote it: nothing but its owners is changed.
        let now = if raced { api.get(&name).await.map(Some) } else { written.map(|_| None) };
        match now {
            Ok(Some(now)) => object = now,
            Ok(None) => return,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, name, "helm may meet a conflict: its fields stay ours");
                return;
            }
        }
    }
}

fn own_annotation_alone(object: &mut DynamicObject) {
    let of_us = |manager: &Option<String>| manager.as_deref() == Some(FIELD_MANAGER);
    let annotation = json!({"f:metadata": {"f:annotations": {format!("f:{PUT_BACK}"): {}}}});
    for entry in object.managed_fields_mut().iter_mut().filter(|entry| of_us(&entry.manager)) {
        entry.fields_v1 = Some(FieldsV1(annotation.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn tampering_is_told_for_a_minute_and_a_fault_until_it_is_over() {
        let guard = Guard::new(Vec::new());
        assert_eq!(guard.trouble(at(0)), None, "nobody looked yet");
        let (at_100, kind, name) = (at(100), Kind::Policy, "hemicycle-pods".to_owned());
        guard.state.send_modify(|state| {
            state.last_tamper = Some(Tamper { at: at_100, kind, name, what: What::Deleted });
        });
        let told = guard.trouble(at(159)).expect("told");
        assert!(told.contains("hemicycle-pods was deleted"), "{told}");
        assert_eq!(guard.trouble(at(160)), None);
        guard.state.send_modify(|state| state.fault = Some("could not create".into()));
        assert!(guard.trouble(at(9_999)).is_some_and(|told| told.contains("could not create")));
    }
}
