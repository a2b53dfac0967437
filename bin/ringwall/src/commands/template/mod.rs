//! `ringwall template`: listed, shown, removed, built.

mod build;
mod context;
mod dockerfile;
mod import;

use std::process::ExitCode;

use serde_json::Value;

use super::snapshot::partly;
use crate::args::TemplateCommand;
use crate::failure::Failure;
use crate::remote::wire::Template;
use crate::remote::{self, Service};
use crate::ui;

/// Does what is asked.
pub(crate) fn execute(command: TemplateCommand) -> Result<ExitCode, Failure> {
    match command {
        TemplateCommand::Ls { json } => list(json),
        TemplateCommand::Rm { names } => remote::run(async |service| remove_all(service, &names).await),
        TemplateCommand::Inspect { name } => inspect(&name),
        TemplateCommand::Build(args) => build::execute(*args),
    }
}

fn list(as_json: bool) -> Result<ExitCode, Failure> {
    remote::run(async |service| {
        let found: Vec<Value> = service.get("a list of templates", "/templates").await?;
        if as_json {
            ui::json(&found)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut rows = Vec::new();
        for item in found {
            let template: Template = remote::read(item, "a list of templates")?;
            rows.push(vec![
                template.names.join(","),
                template.template_id,
                template.build_status,
                if template.public { "all" } else { "own" }.to_owned(),
                template.spawn_count.to_string(),
                template.updated_at,
            ]);
        }
        ui::table(&["NAME", "ID", "STATUS", "FOR", "USED", "UPDATED"], &rows);
        Ok(ExitCode::SUCCESS)
    })
}

fn inspect(name: &str) -> Result<ExitCode, Failure> {
    let path = format!("/templates/{}", remote::encode(name));
    remote::run(async |service| {
        ui::json(&service.get::<Value>("a question about a template", &path).await?)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Removes templates or snapshots: to the service both are things to start from. One that can't be removed does not keep the others.
pub(super) async fn remove_all(service: &Service, names: &[String]) -> Result<ExitCode, Failure> {
    let mut failed: Option<Failure> = None;
    for name in names {
        match service.delete(&format!("/templates/{}", remote::encode(name))).await {
            Ok(()) => ui::note(&format!("{name} removed")),
            Err(error) => {
                if let Some(earlier) = failed.replace(error.into()) {
                    let _ = ui::failure(&earlier);
                }
            }
        }
    }
    failed.map_or(Ok(partly(false)), Err)
}
