//! The opening that most stories share: a meeting cluster that is ready, two people in a room, and
//! where the room is. Judges nothing that comes after.

use anyhow::Result;

use super::{Gathering, MeetingClusterBuilder, Meetings, Story};

/// What a user is promised from `kubectl apply` on Kubernetes nodes that have the images.
const READY_SECONDS: u64 = 30;

/// A meeting that has begun.
pub struct Scene<'a> {
    /// The meeting cluster.
    pub meetings: Meetings<'a>,
    /// Two people in room `council`.
    pub people: Gathering<'a>,
    /// The media node that their media goes to.
    pub media_node: String,
    /// Number of the Kubernetes node under it.
    pub kubernetes_node: u8,
}

impl MeetingClusterBuilder {
    /// Applies it and waits until it is ready.
    ///
    /// # Errors
    /// If it is not in the time that users are promised.
    pub fn serve(self, story: &Story) -> Result<Meetings<'_>> {
        let meetings = self.apply(story)?;
        meetings.ready(READY_SECONDS)?;
        Ok(meetings)
    }

    /// The same, and two people meet in it.
    ///
    /// # Errors
    /// If they do not, or not on one media node.
    pub fn meet(self, story: &Story) -> Result<Scene<'_>> {
        let meetings = self.serve(story)?;
        let people = Gathering::begin(story, &meetings, "council", 2)?;
        let media_node = meetings.media_node_at(people.media_address()?.ip())?;
        let kubernetes_node = meetings.kubernetes_node_of(&media_node)?;
        story.say(&format!("{media_node} on Kubernetes node n{kubernetes_node} carries it"));
        Ok(Scene { meetings, people, media_node, kubernetes_node })
    }
}
