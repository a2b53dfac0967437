//! The control plane: a file for each family of routes.

mod body;
mod logs;
mod meta;
mod sandboxes;
mod snapshots;
mod state;
mod template_builds;
mod templates;
mod unsupported;

use axum::Router;
use axum::routing::{delete, get, post, put};

use crate::app::App;

pub(crate) use logs::*;
pub(crate) use meta::*;
pub(crate) use sandboxes::*;
pub(crate) use snapshots::*;
pub(crate) use state::*;
pub(crate) use template_builds::*;
pub(crate) use templates::*;

/// First components of paths that belong to the control plane, whatever headers a request carries.
pub(crate) const PREFIXES: [&str; 13] = [
    "ringwall",
    "sandboxes",
    "v2",
    "v3",
    "templates",
    "snapshots",
    "volumes",
    "secrets",
    "teams",
    "uploads",
    "openapi.json",
    "events",
    "nodes",
];

/// All routes.
pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/sandboxes", post(create_v1).get(list_v1))
        .route("/v2/sandboxes", post(create).get(list))
        .route("/sandboxes/metrics", get(many_metrics))
        .route("/sandboxes/{id}", get(detail).delete(kill))
        .route("/sandboxes/{id}/connect", post(connect))
        .route("/v2/sandboxes/{id}/connect", post(connect))
        .route("/sandboxes/{id}/resume", post(resume))
        .route("/sandboxes/{id}/timeout", post(set_timeout))
        .route("/sandboxes/{id}/refreshes", post(refresh))
        .route("/sandboxes/{id}/pause", post(pause))
        .route("/sandboxes/{id}/metrics", get(metrics))
        .route("/sandboxes/{id}/network", put(set_network))
        .route("/sandboxes/{id}/logs", get(logs_v1))
        .route("/v2/sandboxes/{id}/logs", get(logs_v2))
        .route("/sandboxes/{id}/snapshots", post(take_snapshot))
        .route("/sandboxes/{id}/fork", post(fork))
        .route("/snapshots", get(list_snapshots))
        .route("/ringwall/diff", get(diff))
        .route("/ringwall/templates/{name}", put(import_template))
        .route("/templates", get(list_templates))
        .route("/v2/templates", get(list_templates))
        .route("/v3/templates", post(announce_template))
        .route("/templates/tags", post(tag_template).delete(untag_template))
        .route("/templates/aliases/{alias}", get(find_alias))
        .route("/templates/{id}", get(get_template).delete(remove_template))
        .route("/templates/{id}/tags", get(list_tags))
        .route("/templates/{id}/files/{hash}", get(find_upload))
        .route("/uploads/{owner}/{template}/{hash}", put(upload))
        .route("/v2/templates/{id}/builds/{build}", post(start_build))
        .route("/templates/{id}/builds/{build}/status", get(build_status))
        .route("/health", get(health))
        .route("/metrics", get(metrics_page))
        .route("/openapi.json", get(openapi))
        .route("/volumes", get(unsupported::volumes).post(unsupported::volumes))
        .route(
            "/volumes/{*rest}",
            get(unsupported::volumes).delete(unsupported::volumes),
        )
        .route("/secrets", get(unsupported::secrets).post(unsupported::secrets))
        .route(
            "/secrets/{*rest}",
            delete(unsupported::secrets).get(unsupported::secrets),
        )
        .route("/teams", get(unsupported::teams))
        .route("/teams/{*rest}", get(unsupported::teams))
        .fallback(unsupported::unknown)
        .method_not_allowed_fallback(unsupported::wrong_method)
        .with_state(app)
}
