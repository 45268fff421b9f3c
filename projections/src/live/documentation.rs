//! How the documentation of an API tells what can be followed: like the query that it begins with.

use super::{
    LiveModel,
    routes::{LAST_EVENT_ID, STREAM, UNTIL},
};
use crate::View;
use utoipa::openapi::{
    ContentBuilder, ObjectBuilder, OpenApi, PathItem, RefOr, Required, Response, ResponseBuilder, Responses,
    path::{HttpMethod, Operation, Parameter, ParameterBuilder, ParameterIn},
    schema::{SchemaType, Type},
};
use utoipa_axum::router::OpenApiRouter;

/// Adds what follows each query beside it, and the socket.
pub(super) fn document(mut router: OpenApiRouter, view: &View) -> OpenApiRouter {
    let api = router.get_openapi_mut();
    for model in view.live.models {
        if model.single {
            add(api, model, model.one, &["asOf"]);
        }
        if let Some(many) = model.many {
            let left_out = ["cursor", "minAge", "stuck", "asOf"];
            add(api, model, many, &left_out);
        }
    }
    if !view.live.models.is_empty() {
        socket(api, view);
    }
    router
}

fn add(api: &mut OpenApi, model: &LiveModel, query: &str, left_out: &[&str]) {
    let known = api.paths.paths.get(query).and_then(|path| path.get.clone());
    // A test asks for every one of them.
    let Some(mut operation) = known else { return };
    let summary = operation.summary.take().unwrap_or_default();
    operation.summary = Some(format!("{summary}: now, and whenever it changes"));
    operation.description = Some(format!(
        "Server-sent events: `snapshot` with the answer of `GET {query}`, then `live`, and from then on `change` with each \
         {} that has changed, as it is now, and `removed`. `reset` says that what was told before is worth nothing any more. \
         `bye` says why the answer ends. The `id` of an event is where to go on: docs/subscriptions.md.",
        model.name
    ));
    operation.operation_id = operation.operation_id.map(|id| format!("{id}_stream"));
    let parameters = operation.parameters.get_or_insert_default();
    parameters.retain(|parameter| match parameter {
        RefOr::T(parameter) => !left_out.contains(&parameter.name.as_str()),
        RefOr::Ref(_) => true,
    });
    let id = "The `id` of the last event that was seen: go on behind it.";
    parameters.push(text(LAST_EVENT_ID, ParameterIn::Query, id, None));
    parameters.push(text("Last-Event-ID", ParameterIn::Header, id, None));
    let until = "`live` ends the answer when everything there is was told.";
    parameters.push(text(UNTIL, ParameterIn::Query, until, Some("live")));
    // Of one event, as OpenAPI has it for streams.
    let events = ContentBuilder::new().schema(Some(ObjectBuilder::new().schema_type(Type::Object))).build();
    let events = ResponseBuilder::new().description("Events").content("text/event-stream", events);
    let responses = &mut operation.responses.responses;
    responses.insert("200".to_owned(), RefOr::T(events.build()));
    refuse(&mut operation.responses, "400", "The path, a header or a parameter cannot be read");
    refuse(&mut operation.responses, "422", "A parameter or the cursor cannot be accepted");
    refuse(&mut operation.responses, "401", "No access token was sent, or it is not good");
    refuse(&mut operation.responses, "403", "The principal may not do this");
    refuse(&mut operation.responses, "429", "The user follows as much as one user may");
    refuse(&mut operation.responses, "503", "As many follow as may, or the read model or the feed is away");
    put(api, &format!("{query}{STREAM}"), operation);
}

fn socket(api: &mut OpenApi, view: &View) {
    let mut known = api.paths.paths.values().filter_map(|path| path.get.as_ref());
    let known = known.rfind(|operation| operation.security.is_some()).cloned();
    let Some(mut operation) = known else { return };
    (operation.parameters, operation.responses) = (None, Responses::new());
    let names = view.live.models.iter().map(|model| model.name).collect::<Vec<_>>().join(", ");
    operation.summary = Some("A WebSocket for any number of subscriptions".to_owned());
    operation.description =
        Some(format!("What can be followed: {names}. The messages are in docs/subscriptions.md."));
    operation.operation_id = Some(format!("{}_socket", view.name));
    let switched = Response::new("The connection is a WebSocket");
    operation.responses.responses.insert("101".to_owned(), RefOr::T(switched));
    refuse(&mut operation.responses, "400", "A header cannot be read");
    refuse(&mut operation.responses, "401", "No access token was sent, or it is not good");
    refuse(&mut operation.responses, "403", "The principal may not do this");
    refuse(&mut operation.responses, "426", "The request asks for no WebSocket");
    refuse(&mut operation.responses, "503", "The keys of access tokens are away");
    put(api, view.live.socket, operation);
}

fn put(api: &mut OpenApi, path: &str, operation: Operation) {
    api.paths.paths.insert(path.to_owned(), PathItem::new(HttpMethod::Get, operation));
}

/// A problem, where the query does not have it already.
fn refuse(responses: &mut Responses, status: &str, description: &str) {
    let problem = utoipa::openapi::Ref::from_schema_name("Problem");
    let content = ContentBuilder::new().schema(Some(problem)).build();
    let response =
        ResponseBuilder::new().description(description).content("application/problem+json", content);
    let entry = responses.responses.entry(status.to_owned());
    entry.or_insert_with(|| RefOr::T(response.build()));
}

fn text(name: &str, place: ParameterIn, description: &str, only: Option<&str>) -> RefOr<Parameter> {
    let schema =
        ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(only.map(|only| [only]));
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema));
    RefOr::T(parameter.build())
}
