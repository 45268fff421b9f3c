//! The HTTP command of notifications: what operators do about one.

use super::{Notification, NotificationCommand};
use crate::{
    Key,
    http::{self, Api, Call, CallHeaders, Done, Nothing, Optional, Recorded, Refused, Unknown},
};
use axum::{extract::State, response::Response};
use events::notifications::NotificationId;
use service::{Problem, auth::Denied, extract::Path};
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The endpoints.
pub(super) fn routes(api: Api) -> OpenApiRouter {
    http::router().routes(routes!(redeliver)).with_state(Arc::new(api))
}

/// Send a notification again
///
/// Whether it was sent or given up. Asked for again while it is under way it is sent once more and not twice. The
/// recipient's preferences hold as ever.
#[utoipa::path(
    post, path = "/notifications/{id}/redeliver", tag = "notifications", security(("bearer" = [])),
    params(("id" = String, Path, description = "The notification: the id of an event, `_` and a channel",
        example = "018f3f5e-0000-7000-8000-000000000001_email"), CallHeaders), request_body = Option<Nothing>,
    responses(Recorded, Unknown, Denied, Refused)
)]
async fn redeliver(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(id): Path<NotificationId>,
    Optional(body): Optional<Nothing>,
) -> Result<Response, Problem> {
    let command =
        call.of_operator()?.command(&api.clock, format_args!("POST /notifications/{id}/redeliver"), &body);
    let done = Done::recorded(format!("/notifications/{id}"));
    api.apply(command, Key::<Notification>::new(&id), done, NotificationCommand::Redeliver).await
}
