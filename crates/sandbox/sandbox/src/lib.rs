//! What a sandbox is, whatever tier it runs in: what was asked for ([`RunSpec`]), who can give it ([`Backend`]) and what came of it
//! ([`Report`]).
#![forbid(unsafe_code)]

mod backend;
mod report;
pub mod service;
mod spec;

pub use backend::{Backend, Unavailable};
pub use report::{
    ChangeSummary, Denial, ExitReason, Exposed, LimitReport, Protection, REPORT_VERSION, Report, Timings, Usage,
};
pub use spec::{Guest, RunSpec};
