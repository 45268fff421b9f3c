//! How instances are chosen, checked and left out, as the configuration says it.

use super::{CheckPolicy, EjectionPolicy, UpstreamPolicy};
use crate::section::Section;
use service::{breaker, config::Span};

/// Reads the sections `breaker`, `health` and `ejection` of the configuration; each number has a default.
pub(crate) fn read(file: &mut Section<'_>) -> UpstreamPolicy {
    let mut section =
        |name: &str, read: fn(&mut Section<'_>, &mut UpstreamPolicy), policy: &mut UpstreamPolicy| {
            let table = file.optional::<toml::Table>(name).unwrap_or_default();
            let mut section = Section::new(name, table, file.faults());
            read(&mut section, policy);
            section.finish();
        };
    let mut policy = UpstreamPolicy::default();
    section("breaker", breaker, &mut policy);
    section("health", health, &mut policy);
    section("ejection", ejection, &mut policy);
    policy
}

fn breaker(section: &mut Section<'_>, policy: &mut UpstreamPolicy) {
    let breaker::Policy { window, minimum, error_percent, open_for } = &mut policy.breaker;
    span(section, "window", window);
    number(section, "minimum", minimum, 1..=u32::MAX);
    number(section, "errors", error_percent, 1..=100);
    span(section, "open", open_for);
}

fn health(section: &mut Section<'_>, policy: &mut UpstreamPolicy) {
    let CheckPolicy { every, timeout, rise, fall } = &mut policy.check;
    span(section, "every", every);
    span(section, "timeout", timeout);
    number(section, "rise", rise, 1..=u32::MAX);
    number(section, "fall", fall, 1..=u32::MAX);
}

fn ejection(section: &mut Section<'_>, policy: &mut UpstreamPolicy) {
    let EjectionPolicy { failures, base, percent, refused } = &mut policy.ejection;
    number(section, "failures", failures, 1..=u32::MAX);
    span(section, "base", base);
    number(section, "percent", percent, 0..=100);
    span(section, "refused", refused);
}

fn span(section: &mut Section<'_>, key: &str, value: &mut std::time::Duration) {
    match section.optional(key) {
        Some(Span(span)) if span.is_zero() => section.fault(key, "no time at all"),
        Some(Span(span)) => *value = span,
        None => {}
    }
}

fn number(section: &mut Section<'_>, key: &str, value: &mut u32, range: std::ops::RangeInclusive<u32>) {
    match section.optional::<u32>(key) {
        Some(number) if !range.contains(&number) => {
            section.fault(key, format!("is at least {} and at most {}", range.start(), range.end()));
        }
        Some(number) => *value = number,
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::config::Faults;
    use std::time::Duration;

    fn parse(text: &str) -> (UpstreamPolicy, String) {
        let mut faults = Faults::default();
        let mut file = Section::new("", text.parse().unwrap(), &mut faults);
        let policy = read(&mut file);
        file.finish();
        (policy, faults.to_string())
    }

    #[test]
    fn what_is_not_said_has_the_default_and_every_fault_is_named() {
        assert_eq!(parse("").0, UpstreamPolicy::default());
        let policy = parse("breaker.open = '5s'\nhealth.fall = 3\nejection.percent = 30").0;
        assert_eq!(policy.breaker.open_for, Duration::from_secs(5));
        assert_eq!((policy.check.fall, policy.ejection.percent), (3, 30));
        assert_eq!(policy.breaker.minimum, 10);
        let faults = parse("breaker.errors = 101\nhealth.every = '0s'\nhealth.rise = 0\nejection.x = 1").1;
        for key in ["breaker.errors", "health.every", "health.rise", "ejection.x"] {
            assert!(faults.contains(key), "{key} is missing in {faults}");
        }
    }

    #[test]
    fn the_table_of_routes_says_what_the_defaults_are() {
        let (_, said) =
            include_str!("../../routes.toml").split_once("as it is without these lines\n").unwrap();
        let said: Vec<_> = said.lines().map(|line| line.trim_start_matches('#').trim_start()).collect();
        let said = said.join("\n");
        let (policy, faults) = parse(&said);
        assert_eq!((policy, faults.lines().count()), (UpstreamPolicy::default(), 1), "{faults}");
        for key in
            ["window", "minimum", "errors", "open", "every", "timeout", "rise", "fall", "failures", "base"]
        {
            assert!(said.contains(&format!("\n{key} = ")), "{key} is not said");
        }
    }
}
