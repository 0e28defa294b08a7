//! Who takes part in a meeting on the bed: people in browsers and a program that uses the Python
//! package `livekit`. Starts them inside the bed and reads what they report; does not judge the
//! meeting.

mod browser;
mod program;
mod ticket;

pub use browser::{Browsers, Engine, Person, Visit};
pub use program::{Meeting, Program, go_program, python_packages, sdk_directory};
pub use ticket::{Credentials, join_token};
