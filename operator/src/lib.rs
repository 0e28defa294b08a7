//! Acts for the operator: fetch, plan, build, apply; placer; lease.
