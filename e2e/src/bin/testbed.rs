//! The command `testbed`; see `e2e::bed::command`.

use std::process::ExitCode;

fn main() -> ExitCode {
    e2e::bed::command::main()
}
