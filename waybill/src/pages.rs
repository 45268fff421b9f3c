//! How large the pages are in which Linux gives memory.
//!
//! A gateway alone needs little of it, in many small pieces: of pages of two megabytes most would be empty. Everything else
//! is faster with them.

/// Whether what is taken from now on may come in huge pages. What was taken before stays as it is, so they are forbidden
/// before the command line is read, which takes memory too.
pub(crate) fn allow_huge(allowed: bool) {
    // A kernel that refuses leaves them as they are. That could not be said: there is no log yet.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(!allowed);
    #[cfg(not(target_os = "linux"))]
    let _ = allowed;
}
