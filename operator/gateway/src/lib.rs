//! The public door: tokens, routing, pipes.
