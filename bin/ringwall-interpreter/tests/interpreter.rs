//! Tests of the real program, with real kernels where `RINGWALL_TEST_PYTHON` names a python that has ipykernel (and
//! bash_kernel); without, they say `SKIPPED`.

#[path = "interpreter/harness.rs"]
mod harness;

#[path = "interpreter/contexts.rs"]
mod contexts;
#[path = "interpreter/environment.rs"]
mod environment;
#[path = "interpreter/failures.rs"]
mod failures;
#[path = "interpreter/languages.rs"]
mod languages;
#[path = "interpreter/output.rs"]
mod output;
#[path = "interpreter/requests.rs"]
mod requests;
