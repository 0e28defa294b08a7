//! The placer under test: one answer, one home, healed doubles, and a rebuild that waits.
