//! What the past adds to the documentation of a view: a parameter of the query of each thing, and its history.

use super::{AS_OF, Thing};
use serde_json::json;
use utoipa::openapi::{
    Content, ObjectBuilder, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder,
    path::{HttpMethod, Operation, Parameter, ParameterBuilder, ParameterIn, PathItem},
    schema::{Schema, Type},
    security::SecurityRequirement,
};

/// Adds what is asked about the past of these things.
pub(crate) fn document(api: &mut OpenApi, things: &[Thing]) {
    for thing in things {
        let item = api.paths.paths.get_mut(thing.path);
        let Some(present) = item.and_then(|item| item.get.as_mut()) else { continue };
        let history = history(thing, present);
        present.parameters.get_or_insert_default().push(as_of().into());
        refuse(present);
        let item = PathItem::new(HttpMethod::Get, history);
        api.paths.paths.insert(thing.history(), item);
    }
}

/// The history of a thing, which is asked for as the thing itself is.
fn history(thing: &Thing, present: &Operation) -> Operation {
    let mut history = present.clone();
    let kept = |parameter: &RefOr<Parameter>| match parameter {
        RefOr::T(parameter) => {
            parameter.parameter_in == ParameterIn::Path
                || ["after", "wait"].contains(&parameter.name.as_str())
        }
        RefOr::Ref(_) => true,
    };
    let parameters = present.parameters.iter().flatten().filter(|parameter| kept(parameter)).cloned();
    let page = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(100)).build();
    let text = ObjectBuilder::new().schema_type(Type::String).build();
    let yes_or_no = ObjectBuilder::new().schema_type(Type::Boolean).build();
    let changes = "Whether each event says what it changed: which parts of the answer became different.";
    let more = [
        query("diff", changes, yes_or_no),
        query("limit", "Events per page, 1 to 100; 20 unless said.", page),
        query("cursor", "`nextCursor` of the page before.", text),
    ];
    history.parameters = Some(parameters.chain(more.map(Into::into)).collect());
    let what = present.summary.as_deref().unwrap_or_default().to_lowercase();
    history.summary = Some(format!("Everything that happened to {what}"));
    let description = if thing.tells {
        "Oldest first: all of it, or page by page where `diff`, `limit` or `cursor` is given."
    } else {
        "Oldest first, page by page."
    };
    history.description = Some(description.to_owned());
    history.operation_id = present.operation_id.as_ref().map(|id| format!("{id}_history"));
    history.security = Some(vec![SecurityRequirement::new("bearer", [""; 0])]);
    history
        .responses
        .responses
        .insert("200".to_owned(), answer("What happened", "application/json", "History"));
    refuse(&mut history);
    history
}

fn as_of() -> Parameter {
    let text = "Show it as it was: as long as this was its version, or at this time. Of the answer the header \
                `Waybill-Version` says which version that is, `Waybill-As-Of` since when it was like this. Takes a token.";
    let example = json!("2026-01-31T12:00:00Z");
    query(AS_OF, text, ObjectBuilder::new().schema_type(Type::String).examples([example]).build())
}

fn query(name: &str, description: &str, schema: impl Into<Schema>) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema.into()))
        .build()
}

fn answer(description: &str, media: &str, schema: &str) -> RefOr<Response> {
    let content = Content::new(Some(Ref::from_schema_name(schema)));
    ResponseBuilder::new().description(description).content(media, content).build().into()
}

/// Whoever asks says who he is, and not everything can be told.
fn refuse(operation: &mut Operation) {
    for (status, description) in [
        ("401", "Without a token, or with one that is not good"),
        ("403", "This takes another role"),
        ("404", "There is no such thing, or it was not like that"),
        ("422", "A parameter cannot be accepted, or too much happened to it"),
        ("500", "An event of its past cannot be read"),
    ] {
        let problem = || answer(description, "application/problem+json", "Problem");
        operation.responses.responses.entry(status.to_owned()).or_insert_with(problem);
    }
}
