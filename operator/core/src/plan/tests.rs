//! Whole plans: the same input gives the same plan, and each held step says why.
