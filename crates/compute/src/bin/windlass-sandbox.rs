//! The sandbox helper: started by a host for each job, never by a person.

use std::process::ExitCode;

#[expect(
    clippy::print_stderr,
    reason = "a person who starts it by hand must learn that it is not for them"
)]
fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    windlass_compute::init_if_child();
    eprintln!("windlass-sandbox is started by a Windlass host for each job; it does nothing alone");
    ExitCode::from(2)
}
