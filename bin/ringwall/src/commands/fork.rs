//! `ringwall fork ID`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::create::seconds;
use super::snapshot::partly;
use crate::args::ForkArgs;
use crate::failure::Failure;
use crate::remote::wire::Forked;
use crate::{remote, ui};

/// Makes copies and prints their ids. Those that were made stay if another fails.
pub(crate) fn execute(args: &ForkArgs) -> Result<ExitCode, Failure> {
    let path = format!("/sandboxes/{}/fork", remote::encode(&args.id));
    let mut body = json!({ "count": args.count });
    if let Some(timeout) = args.timeout {
        body["timeout"] = seconds(timeout).into();
    }
    remote::run(async |service| {
        let (_, answers): (_, Vec<Value>) = service.post("a fork", &path, &body).await?;
        let mut has_failed = false;
        for answer in &answers {
            let forked: Forked = remote::read(answer.clone(), "a fork")?;
            match (forked.sandbox, forked.error) {
                (Some(made), _) if !args.json => ui::line(&made.sandbox_id),
                (Some(_), _) => {}
                (None, error) => {
                    has_failed = true;
                    let why = error.map_or_else(|| "no reason given".to_owned(), |error| error.message);
                    ui::note(&format!("a copy was not made: {why}"));
                }
            }
        }
        if args.json {
            ui::json(&answers)?;
        }
        Ok(partly(has_failed))
    })
}
