//! That it can be proven where a meeting ran: across a move between two media nodes, from what the
//! operator wrote, with the public key alone.

use anyhow::{Context as _, Result, ensure};
use e2e::story::{MeetingClusterBuilder, Scene, Story, tell};
use hemicycle_proof::{
    PublicKey, bundle,
    plain::{self, Lang},
};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Names the seconds for which the meeting goes on on each media node; ten minutes in all make 300.
const SECONDS_VARIABLE: &str = "HEMICYCLE_PROOF_SECONDS";
/// Long enough for two statements of each media node.
const SECONDS_DEFAULT: u64 = 22;
/// Where the operator keeps the proof.
const STORE: &str = "/var/lib/hemicycle-proof/proof";

fn seconds() -> Result<u64> {
    match std::env::var(SECONDS_VARIABLE) {
        Ok(text) => text.parse().with_context(|| format!("{SECONDS_VARIABLE} is {text}")),
        Err(_) => Ok(SECONDS_DEFAULT),
    }
}

/// The bundle, exported as a user would.
fn export(story: &Story, meeting_cluster: &str) -> Result<String> {
    let directory = format!("{STORE}/{}/{meeting_cluster}", story.namespace());
    let line = format!(
        "exec --namespace hemicycle-system deployment/hemicycle-operator -- /hemicycle-proof \
         export {directory}"
    );
    // `kubectl` trims what it says; a bundle's lines all end.
    Ok(story.kubectl(&line)?.trim_end().to_owned() + "\n")
}

/// Kubernetes nodes that a bundle which verifies speaks of.
fn places(text: &str, key: &PublicKey) -> BTreeSet<String> {
    let Ok(account) = bundle::verify(text.as_bytes(), key) else { return BTreeSet::new() };
    let told = plain::account(Lang::English, &account);
    (1..=9).map(|n| format!("n{n}")).filter(|name| told.contains(name.as_str())).collect()
}

#[test]
fn where_a_meeting_ran_is_proven_across_a_move() {
    tell("proof", |story| {
        let drain = json!({"deadlineSeconds": 2});
        let builder = MeetingClusterBuilder::new("visio").media_nodes(2).with("drain", drain);
        let Scene { meetings, mut people, media_node, .. } = builder.meet(story)?;
        let key = story.value(&meetings.object(), "{.status.facts.proofKey}");
        let key = PublicKey::parse(&key).context("status.facts.proofKey")?;
        let last = Duration::from_secs(seconds()?);

        people.through("the meeting goes on", 30, || lasts(story, last))?;
        let noticed = people.through("it moves to another media node", 30, || {
            story.kubectl(&format!("annotate medianode/{media_node} hemicycle.dev/drain=move"))?;
            let gone = format!("get medianode/{media_node} --ignore-not-found -o name");
            story.until("the first media node is empty and removed", 60, || {
                story.kubectl(&gone).is_ok_and(|it| it.is_empty())
            })?;
            Ok(())
        })?;
        ensure!(noticed.gone.is_empty(), "thrown out: {:?}", noticed.gone);
        people.through("the meeting goes on there", 30, || lasts(story, last))?;
        people.end();

        story.until("the proof speaks of both places", 60, || {
            export(story, "visio").is_ok_and(|text| places(&text, &key).len() >= 2)
        })?;
        let text = export(story, "visio")?;
        let account = bundle::verify(text.as_bytes(), &key);
        let account = account.map_err(|refused| {
            anyhow::anyhow!("it does not verify: {}", plain::refusal(Lang::English, &refused))
        })?;
        ensure!(account.participant_ms() > 0, "nobody was seen to meet");
        for lang in [Lang::English, Lang::French] {
            println!("{}", plain::account(lang, &account));
        }
        altered(&text, &key)
    });
}

/// Waits until the meeting has gone on for long enough: time itself is the condition.
fn lasts(story: &Story, last: Duration) -> Result<()> {
    let begun = Instant::now();
    let seconds = last.as_secs() + 30;
    story.until("it has gone on for long enough", seconds, || begun.elapsed() >= last)?;
    Ok(())
}

/// Whatever byte is changed, it shows. A sample of them: the property test has every one.
fn altered(text: &str, key: &PublicKey) -> Result<()> {
    for at in (0..text.len()).step_by(97) {
        let mut bytes = text.as_bytes().to_vec();
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1;
        }
        ensure!(bundle::verify(&bytes, key).is_err(), "byte {at} was changed unnoticed");
    }
    Ok(())
}
