//! Crash points: places where a test lets the process die as by `kill -9`, before and after whatever stores, sends or
//! acknowledges. Where debug assertions are off, as in every release, they are nothing at all.
//!
//! `WAYBILL_CRASH_AT=<point>@<scope>:<count>` dies when that point is passed for the count-th time, and says so in the file
//! `WAYBILL_CRASH_MARK` before it does;
//! `WAYBILL_STALL_AT=<point>@<scope>:<milliseconds>` stands still for so long when that point is passed for the first time,
//! and leaves the same mark;
//! `WAYBILL_CRASH_LIST=<file>` writes down every point the first time it is passed.

/// A place where the process may be made to die. `scope` tells apart who passes it: a stream, a consumer.
#[cfg(not(debug_assertions))]
#[inline]
pub fn crash_point(_point: &'static str, _scope: &str) {}

#[cfg(debug_assertions)]
pub use armed::crash_point;

#[cfg(debug_assertions)]
mod armed {
    use std::{
        collections::HashSet,
        env, fs,
        io::Write,
        sync::{LazyLock, Mutex, PoisonError},
        time::Duration,
    };

    /// What the environment asks for.
    struct Armed {
        /// The point with its scope, and how often it has to be passed still.
        at: Option<(String, Mutex<u32>)>,
        /// The point with its scope, and how long it takes, once.
        stall: Option<(String, Mutex<Option<Duration>>)>,
        list: Option<(String, Mutex<HashSet<String>>)>,
    }

    static ARMED: LazyLock<Armed> = LazyLock::new(|| {
        let at = env::var("WAYBILL_CRASH_AT").ok().and_then(|text| {
            let (name, count) = text.rsplit_once(':')?;
            Some((name.to_owned(), Mutex::new(count.parse().ok()?)))
        });
        let list = env::var("WAYBILL_CRASH_LIST").ok().map(|file| (file, Mutex::default()));
        let stall = env::var("WAYBILL_STALL_AT").ok().and_then(|text| {
            let (name, millis) = text.rsplit_once(':')?;
            Some((name.to_owned(), Mutex::new(Some(Duration::from_millis(millis.parse().ok()?)))))
        });
        Armed { at, stall, list }
    });

    /// Says that this place was reached.
    fn leave_mark(at: &str) {
        if let Ok(mark) = env::var("WAYBILL_CRASH_MARK") {
            let _ = fs::write(mark, at);
        }
    }

    /// A place where the process may be made to die. `scope` tells apart who passes it: a stream, a consumer.
    pub fn crash_point(point: &'static str, scope: &str) {
        if let Some((at, left)) = &ARMED.at
            && at.split_once('@') == Some((point, scope))
        {
            let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
            *left = left.saturating_sub(1);
            if *left == 0 {
                // Whoever ends otherwise leaves none.
                leave_mark(at);
                // Nothing is flushed, dropped or told.
                std::process::abort();
            }
        }
        if let Some((at, time)) = &ARMED.stall
            && at.split_once('@') == Some((point, scope))
            && let Some(time) = time.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            leave_mark(at);
            std::thread::sleep(time);
        }
        if let Some((file, seen)) = &ARMED.list {
            let name = format!("{point}@{scope}");
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.insert(name.clone())
                && let Ok(mut file) = fs::File::options().append(true).create(true).open(file)
            {
                // A list that is not written is an empty matrix, which fails.
                let _ = writeln!(file, "{name}");
            }
        }
    }
}
