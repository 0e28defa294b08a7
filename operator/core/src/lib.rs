//! Decides for the operator. Pure: no kube, tokio, clock, randomness or environment.
