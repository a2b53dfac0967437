//! The REST part's description, generated from the routes. `docs/openapi.json` is this text; CI compares them.

use utoipa::OpenApi;

use crate::routes;

/// Everything described.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ringwall",
        description = "Sandboxes as a service, spoken to by E2B's clients. Each call needs an API key as `X-API-Key`.",
        license(name = "Apache-2.0")
    ),
    paths(
        routes::create,
        routes::create_v1,
        routes::detail,
        routes::kill,
        routes::list,
        routes::list_v1,
        routes::connect,
        routes::resume,
        routes::pause,
        routes::set_timeout,
        routes::refresh,
        routes::set_network,
        routes::take_snapshot,
        routes::list_snapshots,
        routes::fork,
        routes::diff,
        routes::import_template,
        routes::metrics,
        routes::many_metrics,
        routes::logs_v1,
        routes::logs_v2,
        routes::announce_template,
        routes::list_templates,
        routes::get_template,
        routes::remove_template,
        routes::find_alias,
        routes::tag_template,
        routes::untag_template,
        routes::list_tags,
        routes::find_upload,
        routes::upload,
        routes::start_build,
        routes::build_status,
        routes::health,
        routes::metrics_page,
        routes::openapi,
    )
)]
struct Document;

/// Returns the description as JSON text.
#[must_use]
pub fn document() -> String {
    let mut text = Document::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}
