//! When certificates end: those that flags and variables name on this machine.

use super::{
    Args, Plan,
    finding::{Area, Report},
    machine::named,
    monitor,
};
use service::tls::{TlsError, certificates, ends};
use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
};

/// Variables that name certificates which are shown.
const SHOWN: [&str; 2] = ["WAYBILL_TLS_CERT", "WAYBILL_GATEWAY_CERT"];
/// Variables that name those of who signs.
const BELIEVED: [&str; 3] = ["WAYBILL_TLS_CA", "WAYBILL_TLS_CLIENT_CA", "WAYBILL_GATEWAY_CLIENT_CA"];

/// Every file with certificates.
pub(super) fn check(args: &Args, plan: &Plan, report: &mut Report) {
    let (shown, believed) = args.access.certificates();
    let files = |names: &[&str], more: Option<&PathBuf>| -> BTreeSet<PathBuf> {
        named(env::vars_os(), |name| names.contains(&name)).chain(more.cloned()).collect()
    };
    for path in files(&SHOWN, shown) {
        // Who shows it shows all that lead to who signed it.
        file(
            &path,
            Iterator::min,
            "put a new one in its place, with its key: docs/security.md",
            plan,
            report,
        );
    }
    for path in files(&BELIEVED, believed) {
        // While one takes the place of another both are there.
        let todo = "put a new one beside it, then certificates that it signs: docs/security.md";
        file(&path, Iterator::max, todo, plan, report);
    }
}

/// The end of a file is the first or the last of its certificates' ends.
fn file(
    path: &Path,
    which: fn(std::vec::IntoIter<jiff::Timestamp>) -> Option<jiff::Timestamp>,
    todo: &str,
    plan: &Plan,
    report: &mut Report,
) {
    let of = path.display().to_string();
    let found = match certificates(path) {
        Ok(found) => found,
        Err(error) => {
            let what = match error {
                TlsError::Read { error, .. } => error.to_string(),
                TlsError::Content { why, .. } => why,
                other @ TlsError::Unfit(_) => other.to_string(),
            };
            return report.find(Area::Credentials, of, what, "put the certificate there, in PEM");
        }
    };
    let known: Option<Vec<_>> = found.iter().map(ends).collect();
    if let Some(end) = known.and_then(|known| which(known.into_iter())) {
        return monitor::certificate(&of, end, todo, plan, report);
    }
    let todo = format!("openssl x509 -enddate -noout -in {of}");
    report.leave_open(Area::Credentials, of, "does not say when it ends", todo);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::plan;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use service::Clock;
    use std::fs;

    #[test]
    fn a_certificate_that_ends_soon_is_a_finding_and_what_to_do_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let pem = |year: i32, month: u8| {
            let mut params = CertificateParams::new(["orders".to_owned()]).unwrap();
            (params.not_before, params.not_after) =
                (date_time_ymd(2020, 1, 1), date_time_ymd(year, month, 1));
            params.self_signed(&key).unwrap().pem()
        };
        let mut plan = plan();
        plan.clock = Clock::manual("2030-06-15T00:00:00Z".parse().unwrap());
        let look = |text: &str, which: fn(std::vec::IntoIter<_>) -> _| {
            let path = dir.path().join("orders.pem");
            fs::write(&path, text).unwrap();
            let mut report = Report::default();
            file(&path, which, "make a new one", &plan, &mut report);
            serde_json::to_value(&report).unwrap()
        };
        let what = |report: &serde_json::Value| report["findings"][0]["what"].as_str().map(str::to_owned);
        let (past, soon, later) = (pem(2030, 6), pem(2030, 7), pem(2031, 1));
        for (text, says) in [
            (past.clone(), Some("its certificate ended at 2030-06-01T00:00:00Z")),
            (soon.clone(), Some("its certificate ends at 2030-07-01T00:00:00Z, in 16 days")),
            (later.clone(), None),
            // All of a chain have to go on.
            (format!("{later}{soon}"), Some("its certificate ends at 2030-07-01T00:00:00Z, in 16 days")),
            ("nothing".to_owned(), Some("no certificate in PEM")),
        ] {
            let report = look(&text, Iterator::min);
            assert_eq!(what(&report).as_deref(), says, "{report:#}");
            assert!(says.is_none() || report["findings"][0]["todo"].as_str().unwrap().len() > 5);
        }
        // Of who signs one is enough.
        assert_eq!(what(&look(&format!("{past}{later}"), Iterator::max)), None);
        assert!(what(&look(&format!("{past}{soon}"), Iterator::max)).unwrap().contains("2030-07-01"));
        let mut report = Report::default();
        file(&dir.path().join("nowhere"), Iterator::min, "make a new one", &plan, &mut report);
        assert_eq!(report.findings(), 1);
    }
}
