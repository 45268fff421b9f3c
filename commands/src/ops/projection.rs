//! What operators ask of a read model. The processes that project it carry it out, and say what became of it.

use crate::Aggregate;
use events::{
    Position,
    ops::{
        ProjectionDropRequested, ProjectionEvent, ProjectionRebuildCancelled, ProjectionRebuildRequested,
        ProjectionRollbackRequested,
    },
};
use jiff::Timestamp;
use std::convert::Infallible;

/// The aggregate.
#[derive(Debug)]
pub struct Projection;

/// What can be asked of the read model of a service.
#[derive(Clone, Debug)]
pub enum ProjectionCommand {
    /// Build it again, beside the one that serves.
    Rebuild {
        /// Whose.
        service: String,
        /// One table, or all of them.
        model: Option<String>,
        /// Where it begins in these streams.
        from: Vec<Position>,
        /// It begins with what was recorded then or later.
        from_time: Option<Timestamp>,
    },
    /// Give up what is being built.
    Cancel(String),
    /// Have the one back that served before.
    RollBack(String),
    /// Keep the one no longer that served before.
    Drop(String),
}

/// Whether it can be done is known where the tables are: here it is only recorded.
impl Aggregate for Projection {
    const KIND: events::Aggregate = events::Aggregate::Projection;
    const SCHEMA: &'static str = "projection/1";
    type State = ();
    type Command = ProjectionCommand;
    type Event = ProjectionEvent;
    type Rejection = Infallible;

    fn decide((): &(), command: ProjectionCommand) -> Result<Vec<ProjectionEvent>, Infallible> {
        Ok(vec![match command {
            ProjectionCommand::Rebuild { service, model, from, from_time } => {
                ProjectionRebuildRequested { service, model, from, from_time }.into()
            }
            ProjectionCommand::Cancel(service) => ProjectionRebuildCancelled { service }.into(),
            ProjectionCommand::RollBack(service) => ProjectionRollbackRequested { service }.into(),
            ProjectionCommand::Drop(service) => ProjectionDropRequested { service }.into(),
        }])
    }

    fn evolve((): (), _: &ProjectionEvent) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::testing::given;

    #[test]
    fn what_is_asked_is_recorded_whatever_was_asked_before() {
        let service = || "orders".to_owned();
        let rebuild = || ProjectionCommand::Rebuild {
            service: service(),
            model: None,
            from: vec!["ORDERS:4".parse().unwrap()],
            from_time: None,
        };
        let requested = || ProjectionRebuildRequested {
            service: service(),
            model: None,
            from: vec!["ORDERS:4".parse().unwrap()],
            from_time: None,
        };
        given::<Projection>([]).when(rebuild()).then([requested().into()]);
        given::<Projection>([requested().into()]).when(rebuild()).then([requested().into()]);
        let cancelled = ProjectionRebuildCancelled { service: service() };
        given::<Projection>([requested().into()])
            .when(ProjectionCommand::Cancel(service()))
            .then([cancelled.into()]);
        let rollback = ProjectionRollbackRequested { service: service() };
        given::<Projection>([]).when(ProjectionCommand::RollBack(service())).then([rollback.into()]);
        let dropped = ProjectionDropRequested { service: service() };
        given::<Projection>([]).when(ProjectionCommand::Drop(service())).then([dropped.into()]);
    }
}
