//! That a thousand Kubernetes nodes and three hundred media nodes cost the API server what the
//! design promises; figures are printed.

use e2e::scale::{Shape, run};

#[test]
fn three_meeting_clusters_of_a_hundred_media_nodes() {
    run(Shape { meeting_clusters: 3, media_nodes_each: 100 })
        .unwrap_or_else(|error| panic!("{error:#}"));
}

/// The same number in one: to compare, by name and on a fresh bed.
#[test]
#[ignore = "a second measurement of minutes, run by name"]
fn one_meeting_cluster_of_three_hundred_media_nodes() {
    run(Shape { meeting_clusters: 1, media_nodes_each: 300 })
        .unwrap_or_else(|error| panic!("{error:#}"));
}
