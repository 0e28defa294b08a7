//! Publishes Events about objects. Decides nothing: what is worth one is its caller's to know.
//! Invariant: no note is longer than the API server takes, so that none is lost for its length.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, Recorder};

/// Longest note of an Event that the API server takes, in bytes.
const NOTE_BYTES_MAX: usize = 1_024;

/// Publishes `event` about an object, its note cut to what the API server takes.
///
/// # Errors
/// When the API server does not take it.
pub async fn publish(
    recorder: &Recorder,
    about: &ObjectReference,
    mut event: Event,
) -> kube::Result<()> {
    event.reason = capitalised(&event.reason);
    if let Some(note) = &mut event.note {
        note.truncate(note.floor_char_boundary(NOTE_BYTES_MAX));
    }
    recorder.publish(&event, about).await
}

/// Reasons of Events begin with a capital letter by Kubernetes' custom.
fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
