//! That many rooms begin at once through several gateways, and none of them twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::cast::join_token;
use e2e::headless::{Histogram, Welcome, knock};
use e2e::story::{MeetingClusterBuilder, Meetings, tell};
use futures_util::{StreamExt as _, future::join_all, stream};
use serde_json::json;

/// Rooms that begin.
const ROOMS: usize = 1_000;

/// People who are the first in each of them, at the same moment.
const FIRST: usize = 5;

/// Rooms that begin at the same moment: what keeps two cores busy without starving anyone.
const ROOMS_AT_ONCE: usize = 25;

/// What was seen of one room: who let each of its people in, and after which time.
type Seen = (String, Vec<Result<(Welcome, Duration), String>>);

#[test]
fn a_thousand_rooms_begin_through_two_gateways_and_none_twice() {
    tell("rush", |story| {
        let capacity = json!({"minNodes": 3, "maxNodes": 3, "participantsPerNodeMax": 20_000});
        let resources = json!({"resources": {"cpuMillicores": 600, "memoryMebibytes": 256}});
        let builder = MeetingClusterBuilder::new("visio").gateways(2);
        let builder = builder.with("capacity", capacity).with("podTemplate", resources);
        let meetings = builder.serve(story)?;
        let doors = meetings.gateways();
        ensure!(doors.len() == 2, "not two gateways: {doors:?}");

        let began = Instant::now();
        let runtime = tokio::runtime::Runtime::new().context("cannot start threads")?;
        let rooms = runtime.block_on(rush(&meetings, &doors))?;
        let took = began.elapsed();

        let mut homes = BTreeMap::<String, usize>::new();
        let (mut twice, mut waits) = (Vec::new(), Histogram::default());
        for (room, seen) in &rooms {
            let failed: Vec<_> = seen.iter().filter_map(|one| one.as_ref().err()).collect();
            ensure!(failed.is_empty(), "{room} did not let everybody in: {failed:?}");
            seen.iter().flatten().for_each(|(_, waited)| waits.add(*waited));
            let homes_here: BTreeSet<_> = seen.iter().flatten().map(|(home, _)| home).collect();
            if homes_here.len() != 1 {
                twice.push(format!("{room}: {homes_here:?}"));
            }
            for home in homes_here {
                *homes.entry(home.media_node.clone()).or_default() += 1;
            }
        }
        ensure!(twice.is_empty(), "rooms that began twice: {}", twice.join("; "));
        ensure!(rooms.len() == ROOMS, "{} rooms of {ROOMS} began", rooms.len());
        story.say(&format!("homes: {homes:?}"));
        println!("figure: {}", figure(took, &waits));
        Ok(())
    });
}

fn figure(took: Duration, waits: &Histogram) -> String {
    let wait = |percent| waits.percentile(percent).unwrap_or_default();
    let rate = ROOMS as f64 / took.as_secs_f64();
    format!(
        "{ROOMS} rooms × {FIRST} first joins through two gateways in {:.1} s, {rate:.0} rooms/s, \
         none on two media nodes; joined after p50 {:.2?}, p99 {:.2?}",
        took.as_secs_f64(),
        wait(50.0),
        wait(99.0)
    )
}

/// Lets all rooms begin.
async fn rush(meetings: &Meetings<'_>, doors: &[String]) -> Result<Vec<Seen>> {
    let mut people = Vec::new();
    for n in 0..ROOMS {
        let room = format!("rush-{n}");
        let tokens = (0..FIRST)
            .map(|one| join_token(&meetings.credentials, &room, &format!("{room}-{one}")))
            .collect::<Result<Vec<_>, _>>()?;
        people.push((room, tokens));
    }
    let begun = stream::iter(people).map(|(room, tokens)| begin(doors, room, tokens));
    Ok(begun.buffer_unordered(ROOMS_AT_ONCE).collect().await)
}

/// Lets everybody into one room at the same moment, each through another gateway than the one
/// before.
async fn begin(doors: &[String], room: String, tokens: Vec<String>) -> Seen {
    let knocks = tokens.iter().zip(doors.iter().cycle()).map(|(token, door)| async move {
        knock(door, token).await.map_err(|error| error.to_string())
    });
    let seen = join_all(knocks).await;
    (room, seen)
}
