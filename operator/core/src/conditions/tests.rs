//! The owner is told what happened, to which object, and what to do.
