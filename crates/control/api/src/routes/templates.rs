//! Templates: names and tags.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use ringwall_sandbox::service::ServiceError;

use super::body::{Body, Path};
use crate::app::App;
use crate::caller::Caller;
use crate::dto::{
    AliasBody, AnnouncedTemplate, NewTemplateBody, TagBody, TagInfoBody, TaggedBody, TemplateBody, UntagBody, time,
};
use crate::error::ApiError;

/// Announces a template, or a new build of one.
#[utoipa::path(post, path = "/v3/templates", request_body = NewTemplateBody, responses((status = 202, body = AnnouncedTemplate), (status = 400), (status = 409)))]
pub(crate) async fn announce_template(
    State(app): State<App>,
    Caller(owner): Caller,
    Body(body): Body<NewTemplateBody>,
) -> Result<(StatusCode, Json<AnnouncedTemplate>), ApiError> {
    let request = body.into_request()?;
    let tags = request.tags.clone();
    let (info, build) = app.sandboxes.new_template(&owner, request).await?;
    let announced = AnnouncedTemplate {
        template_id: info.id,
        build_id: build.0,
        public: info.is_public,
        names: vec![info.name.clone()],
        tags,
        aliases: vec![info.name],
    };
    Ok((StatusCode::ACCEPTED, Json(announced)))
}

/// The templates that the caller may use.
#[utoipa::path(get, path = "/templates", responses((status = 200, body = Vec<TemplateBody>)))]
pub(crate) async fn list_templates(
    State(app): State<App>,
    Caller(owner): Caller,
) -> Result<Json<Vec<TemplateBody>>, ApiError> {
    let found = app.sandboxes.templates(&owner).await?;
    let bodies = found
        .into_iter()
        .map(|info| TemplateBody::new(info, &app.config.envd_version));
    Ok(Json(bodies.collect()))
}

/// One template.
#[utoipa::path(get, path = "/templates/{id}", params(("id" = String, Path)), responses((status = 200, body = TemplateBody), (status = 404)))]
pub(crate) async fn get_template(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(id): Path<String>,
) -> Result<Json<TemplateBody>, ApiError> {
    let info = app.sandboxes.template(&owner, &id).await?;
    Ok(Json(TemplateBody::new(info, &app.config.envd_version)))
}

/// Removes a template or a snapshot. What runs on it keeps its layers.
#[utoipa::path(delete, path = "/templates/{id}", params(("id" = String, Path)), responses((status = 204), (status = 403), (status = 404)))]
pub(crate) async fn remove_template(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    app.sandboxes.remove_template(&owner, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a name stands for.
#[utoipa::path(get, path = "/templates/aliases/{alias}", params(("alias" = String, Path)), responses((status = 200, body = AliasBody), (status = 404)))]
pub(crate) async fn find_alias(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(alias): Path<String>,
) -> Result<Json<AliasBody>, ApiError> {
    let info = app.sandboxes.template(&owner, &alias).await?;
    Ok(Json(AliasBody {
        template_id: info.id,
        public: info.is_public,
    }))
}

/// Gives a build further tags.
#[utoipa::path(post, path = "/templates/tags", request_body = TagBody, responses((status = 201, body = TaggedBody), (status = 404)))]
pub(crate) async fn tag_template(
    State(app): State<App>,
    Caller(owner): Caller,
    Body(body): Body<TagBody>,
) -> Result<(StatusCode, Json<TaggedBody>), ApiError> {
    if body.tags.is_empty() {
        return Err(ServiceError::Invalid("tags: name at least one".to_owned()).into());
    }
    let tagged = app.sandboxes.tag(&owner, &body.target, body.tags.clone()).await?;
    let answer = TaggedBody {
        tags: body.tags,
        build_id: tagged.build,
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Takes tags away.
#[utoipa::path(delete, path = "/templates/tags", request_body = UntagBody, responses((status = 204), (status = 404)))]
pub(crate) async fn untag_template(
    State(app): State<App>,
    Caller(owner): Caller,
    Body(body): Body<UntagBody>,
) -> Result<StatusCode, ApiError> {
    app.sandboxes.untag(&owner, &body.name, body.tags).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The tags of a template.
#[utoipa::path(get, path = "/templates/{id}/tags", params(("id" = String, Path)), responses((status = 200, body = Vec<TagInfoBody>), (status = 404)))]
pub(crate) async fn list_tags(
    State(app): State<App>,
    Caller(owner): Caller,
    Path(id): Path<String>,
) -> Result<Json<Vec<TagInfoBody>>, ApiError> {
    let info = app.sandboxes.template(&owner, &id).await?;
    let tags = info.tags.into_iter().map(|tag| TagInfoBody {
        tag: tag.tag,
        build_id: tag.build,
        created_at: time(tag.created_ms),
    });
    Ok(Json(tags.collect()))
}
