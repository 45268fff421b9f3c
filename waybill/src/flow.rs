//! How orders are carried through, by flags and environment.

use crate::settings::Flag;
use commands::fulfilment::Times;
use events::orders::Workflow;
use service::config::{Settings, Span};

/// Flags of how orders are carried through.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "How orders are carried through")]
pub(crate) struct FlowArgs {
    /// What carries orders that do not say: choreography or orchestration [default: choreography]
    #[arg(long, value_name = "WORKFLOW", env = "WAYBILL_WORKFLOW")]
    workflow: Option<String>,
    /// How long stock is held for an order that is not paid [default: 15m]
    #[arg(long, value_name = "TIME", env = "WAYBILL_HOLD")]
    hold: Option<String>,
    /// How long every step of a saga may take to answer [default: 15s, shipping 30s]
    #[arg(long, value_name = "TIME", env = "WAYBILL_STEP_DEADLINE")]
    step_deadline: Option<String>,
    /// The first pause before a saga asks again; each one after is twice as long [default: 1s]
    #[arg(long, value_name = "TIME", env = "WAYBILL_STEP_PAUSE")]
    step_pause: Option<String>,
}

/// How orders are carried through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// What carries orders that do not say.
    pub workflow: Workflow,
    /// How long sagas and holds wait.
    pub times: Times,
}

impl FlowArgs {
    /// The flags by name, to be read together with those of the command.
    pub(crate) fn flags(&self) -> [Flag; 4] {
        [
            ("--workflow", self.workflow.clone()),
            ("--hold", self.hold.clone()),
            ("--step-deadline", self.step_deadline.clone()),
            ("--step-pause", self.step_pause.clone()),
        ]
    }
}

impl Flow {
    /// As the flags want it.
    pub(crate) fn read(flags: &mut Settings) -> Self {
        let workflow = flags.optional("--workflow").unwrap_or_default();
        let mut span = |name| flags.optional::<Span>(name).map(|Span(time)| time);
        let hold = span("--hold").unwrap_or_else(|| Times::default().hold);
        Self {
            workflow,
            times: Times { deadline: span("--step-deadline"), pause: span("--step-pause"), hold },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;
    use clap::Parser;
    use std::time::Duration;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flow: FlowArgs,
    }

    fn read(line: &str) -> Result<Flow, String> {
        let line = Line::parse_from(["waybill"].into_iter().chain(line.split_whitespace()));
        let mut flags = settings::flags(line.flow.flags());
        let flow = Flow::read(&mut flags);
        flags.finish(Some(flow)).map_err(|faults| faults.to_string())
    }

    #[test]
    fn choreography_and_a_quarter_of_an_hour_are_the_defaults() {
        let flow = read("").unwrap();
        assert_eq!((flow.workflow, flow.times.hold), (Workflow::Choreography, Duration::from_mins(15)));
        let flow =
            read("--workflow orchestration --hold 2s --step-deadline 100ms --step-pause 10ms").unwrap();
        assert_eq!(
            (flow.workflow, flow.times.deadline),
            (Workflow::Orchestration, Some(Duration::from_millis(100)))
        );
        let faults = read("--workflow dance --hold long --step-deadline x --step-pause y").unwrap_err();
        assert_eq!(faults.lines().count(), 5, "{faults}");
    }
}
