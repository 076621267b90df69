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

/// What of a file lies in the page cache, at the moment of asking.
pub(crate) struct PageCache {
    #[cfg(target_os = "linux")]
    map: memmap2::Mmap,
}

impl PageCache {
    /// `None` where the system does not tell: Linux answers the owner of a file and those who may write it, and claims to others that
    /// all of it is there (`mincore`, since 5.2).
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    pub fn of(file: &File) -> Option<Self> {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::MetadataExt;
        let path = std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        // SAFETY: neither call does anything to memory, and `path` is a string of C.
        let may_write = || unsafe { libc::access(path.as_ptr(), libc::W_OK) == 0 };
        let owner = file.metadata().ok()?.uid();
        // SAFETY: as above.
        if unsafe { libc::geteuid() } != owner && !may_write() {
            return None;
        }
        // SAFETY: the map is only asked about, and no byte of it is ever read, so that changes of the file do no harm.
        let map = unsafe { memmap2::Mmap::map(file) }.ok()?;
        Some(Self { map })
    }

    /// Whether every page of a range is there; an empty range is.
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    pub fn holds(&self, offset: u64, bytes: usize) -> bool {
        // SAFETY: the call takes no pointers.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let Ok(start) = usize::try_from(offset) else { return false };
        let Some(end) = start.checked_add(bytes).filter(|&end| end <= self.map.len()) else { return false };
        let start = start - start % page;
        let mut pages = vec![0u8; (end - start).div_ceil(page)];
        let first = self.map.as_ptr().wrapping_add(start);
        // SAFETY: the pages from `first`, which is the beginning of one, to `end` are of the map, and `pages` has a byte for each.
        let told = unsafe { libc::mincore(first as *mut libc::c_void, end - start, pages.as_mut_ptr()) } == 0;
        told && pages.iter().all(|page| page & 1 == 1)
    }

    /// Elsewhere nothing is known.
    #[cfg(not(target_os = "linux"))]
    pub fn of(_file: &File) -> Option<Self> {
        None
    }

    /// Elsewhere nothing is known.
    #[cfg(not(target_os = "linux"))]
    pub fn holds(&self, _offset: u64, _bytes: usize) -> bool {
        false
    }
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn the_page_cache_is_known() {
        const BYTES: usize = 1 << 20;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        std::fs::write(&path, vec![7; BYTES + 100]).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        let cache = PageCache::of(&file).unwrap();
        file.read_at(&mut vec![0; BYTES + 100], 0).unwrap();
        assert!(cache.holds(0, BYTES) && cache.holds(5001, BYTES - 4901) && cache.holds(3, 0));
        assert!(!cache.holds(0, BYTES + 101) && !cache.holds(u64::MAX, 2));
        hint(&file, Hint::Drop { offset: 0, bytes: 0 });
        if cache.holds(0, 1) {
            println!("the rest is skipped: this file system lies in memory");
            return;
        }
        assert!(!cache.holds(0, BYTES) && !cache.holds(BYTES as u64, 100));
        hint(&file, Hint::Random);
        file.read_at(&mut [0; 4096], 8192).unwrap();
        assert!(cache.holds(8192, 4096) && !cache.holds(8192, BYTES / 2));
    }
}
