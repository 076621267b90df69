//! The few calls of the operating system that the standard library does not have. Linux first: elsewhere
//! files are read through the page cache, and the hints do nothing.

use std::fs::File;

/// The flag that makes reads bypass the page cache.
#[cfg(target_os = "linux")]
const DIRECT: i32 = libc::O_DIRECT;

/// A second descriptor of the same file, with flags of its own. It goes through `/proc`, which names the open
/// file and not its path, so a file that was replaced meanwhile is no danger.
#[cfg(target_os = "linux")]
fn reopen_with(file: &File, flags: i32) -> std::io::Result<File> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::options().read(true).custom_flags(flags).open(path)
}

/// The same file for reads through the page cache; hints given to it do not touch `file`. `None` where the
/// system has no way to do it.
pub(crate) fn reopen_buffered(file: &File) -> Option<File> {
    #[cfg(target_os = "linux")]
    return reopen_with(file, 0).ok();
    #[cfg(not(target_os = "linux"))]
    return { file }.try_clone().ok();
}

/// The same file for direct reads; `None` where the system or the file system has none.
pub(crate) fn reopen_direct(file: &File) -> Option<File> {
    #[cfg(target_os = "linux")]
    return reopen_with(file, DIRECT).ok();
    #[cfg(not(target_os = "linux"))]
    return { file }.metadata().ok().and(None);
}

/// What is expected of a file's page cache.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hint {
    /// No read-ahead beyond what is asked for.
    Random,
    /// Clean pages of the range are not needed again.
    Drop {
        /// First byte of the range.
        offset: u64,
        /// Its length.
        bytes: u64,
    },
}

/// Passes a hint to the system. A refusal changes nothing but speed and cache use, so there is nothing to
/// report.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub(crate) fn hint(file: &File, hint: Hint) {
    use std::os::fd::AsRawFd;
    let (offset, bytes, advice) = match hint {
        Hint::Random => (0, 0, libc::POSIX_FADV_RANDOM),
        Hint::Drop { offset, bytes } => (offset, bytes, libc::POSIX_FADV_DONTNEED),
    };
    let (Ok(offset), Ok(bytes)) = (libc::off_t::try_from(offset), libc::off_t::try_from(bytes)) else {
        return;
    };
    // SAFETY: the call takes no pointers; the descriptor is open as long as `file` is borrowed.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, bytes, advice) };
}

/// Hints are a matter of Linux.
#[cfg(not(target_os = "linux"))]
pub(crate) fn hint(_file: &File, _hint: Hint) {}
