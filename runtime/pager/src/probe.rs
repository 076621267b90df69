//! How fast a disk reads, and which way of reading is the faster one here.
//!
//! Direct reads win on fast local disks, where copying through the page cache costs as much as the device;
//! they lose on some virtual disks and on disks without memory of their own. Nobody can tell without
//! measuring.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::arena::{Arena, Piece};
use crate::catalog::{BLOCK_BYTES, Catalog};
use crate::error::PagerError;
use crate::files::{Files, PagedFile};
use crate::os::{self, Hint};

/// Length of each read of a probe, in bytes.
const READ_BYTES: usize = 1 << 20;

/// Most reads of each kind when a pager chooses, and the longest time for them.
const CHOICE_READS: usize = 16;
const CHOICE_BUDGET: Duration = Duration::from_millis(50);

/// Buffered reads must be faster by this factor to be chosen: direct ones leave the processor to the kernels, and the page cache to
/// others. On a virtual disk where buffered reads alone were 1.38 times as fast, a model of four times the memory answered faster
/// with direct ones: prefill and decode by 8 %, the first token in half the time.
const BUFFERED_MUST_WIN_BY: f64 = 1.5;
/// Where all is read once and fits memory, the model is likely to be loaded again and the page cache to keep it, so that it is the direct
/// reads that must be faster by this factor. They are on fast disks, to which the copy costs more than the read, and four times so on
/// virtual ones that take a read page by page.
const DIRECT_MUST_WIN_BY: f64 = 1.5;
/// Places at which the page cache is asked for what is to be read.
const SAMPLES: usize = 256;
/// Less than this is read through the page cache where it is read once: a measurement would be a great part of it.
pub(crate) const LEAST_READ_ONCE: u64 = 128 << 20;

/// Whether direct reads are the better ones, at speeds in GB/s that were measured with nothing in the page cache. `once`: all is read
/// once and fits memory.
pub(crate) fn direct_is_better(direct: Rate, buffered: Rate, once: bool) -> bool {
    if once {
        direct.gb_s() >= buffered.gb_s() * DIRECT_MUST_WIN_BY
    } else {
        buffered.gb_s() < direct.gb_s() * BUFFERED_MUST_WIN_BY
    }
}

/// Longest time and most bytes for each of the three measurements of [`probe_disk`].
const DISK_BUDGET: Duration = Duration::from_millis(300);
const DISK_BYTES: u64 = 2 << 30;

/// Queue depth of the deep measurement of [`probe_disk`].
const DISK_DEPTH: usize = 4;

/// A measured speed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate {
    /// Bytes read.
    pub bytes: u64,
    /// Wall time, in nanoseconds.
    pub ns: u64,
}

impl Rate {
    /// GB (1e9 bytes) a second; 0 if nothing was read.
    pub fn gb_s(&self) -> f64 {
        if self.ns == 0 { 0.0 } else { self.bytes as f64 / self.ns as f64 }
    }
}

/// How a pager reads, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct IoChoice {
    /// Whether reads bypass the page cache.
    pub direct: bool,
    /// What decided it.
    pub reason: IoReason,
}

/// Why a pager reads as it does.
#[derive(Debug, Clone, PartialEq)]
pub enum IoReason {
    /// The configuration said so.
    Configured,
    /// All experts fit the arena, so that each is read once, and they are in the page cache already, or few, or the system does not
    /// tell where they are.
    EverythingFits,
    /// The system or the file system has no direct reads.
    NoDirectReads,
    /// The faster of two measurements on the model's own files.
    Measured {
        /// Speed of direct reads.
        direct: Rate,
        /// Speed of reads through the page cache, which was emptied for them.
        buffered: Rate,
    },
    /// A measurement failed; the text says why. The pager reads through the page cache, where failures are
    /// reported.
    ProbeFailed(String),
}

/// The speed of a disk, for people and reports.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DiskProbe {
    /// Direct reads of 1 MiB, four at a time, in GB/s; `None` where there are no direct reads.
    pub direct_gb_s: Option<f64>,
    /// Direct reads of 1 MiB, one at a time, in GB/s; `None` where there are no direct reads.
    pub direct_depth_1_gb_s: Option<f64>,
    /// Reads of 1 MiB through the page cache, emptied before, four at a time, in GB/s.
    pub buffered_gb_s: f64,
    /// Bytes read for these figures.
    pub bytes: u64,
}

impl DiskProbe {
    /// The best of the figures, in GB/s: the ceiling for a pager on this disk.
    pub fn ceiling_gb_s(&self) -> f64 {
        self.direct_gb_s.unwrap_or(0.0).max(self.direct_depth_1_gb_s.unwrap_or(0.0)).max(self.buffered_gb_s)
    }
}

/// A place to read from: a descriptor and a byte that is a multiple of the block.
type Spot<'a> = (&'a File, u64);

/// Measures the disk under a file with sequential reads, in about a second. Each figure has its own third of
/// the file, so that none profits from another's reads. Errors: [`PagerError::Open`],
/// [`PagerError::ProbeTooSmall`] below 3 MiB, [`PagerError::Read`].
pub fn probe_disk(path: &Path) -> Result<DiskProbe, PagerError> {
    let open_error = |source| PagerError::Open { path: path.to_owned(), source: Arc::new(source) };
    // Before it is opened: a pipe would wait for whoever writes to it.
    if !std::fs::metadata(path).map_err(open_error)?.is_file() {
        return Err(open_error(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
    }
    let file = PagedFile::open(path)?.file;
    let (bytes, read) = (file.metadata().map_err(open_error)?.len(), READ_BYTES as u64);
    let reads_each = bytes / 3 / read;
    if reads_each == 0 {
        return Err(PagerError::ProbeTooSmall { path: path.to_owned(), bytes, least: 3 * read });
    }
    let measured = |file: &File, third: u64, depth| {
        let first = third * reads_each * read;
        let spots: Vec<Spot> =
            (0..reads_each.min(DISK_BYTES / read)).map(|at| (file, first + at * read)).collect();
        os::hint(file, Hint::Drop { offset: first, bytes: reads_each * read });
        let rate = measure(&spots, depth, DISK_BUDGET);
        os::hint(file, Hint::Drop { offset: first, bytes: reads_each * read });
        let failed = |source| {
            let source = Arc::new(source);
            PagerError::Read { path: path.to_owned(), offset: first, bytes: reads_each * read, source }
        };
        rate.map_err(failed)
    };
    let mut probe = DiskProbe::default();
    if let Some(direct) = os::reopen_direct(&file) {
        // A file system may refuse direct reads only when one is tried.
        if let (Ok(shallow), Ok(deep)) = (measured(&direct, 0, 1), measured(&direct, 1, DISK_DEPTH)) {
            probe.direct_depth_1_gb_s = Some(shallow.gb_s());
            probe.direct_gb_s = Some(deep.gb_s());
            probe.bytes += shallow.bytes + deep.bytes;
        }
    }
    let buffered = measured(&file, 2, DISK_DEPTH)?;
    probe.buffered_gb_s = buffered.gb_s();
    probe.bytes += buffered.bytes;
    Ok(probe)
}

/// Whether a measurement can make it faster to read all experts once: there is enough to read, and most of it is known not to be in the
/// page cache.
pub(crate) fn worthwhile(files: &Files, catalog: &Catalog) -> bool {
    if catalog.bytes() < LEAST_READ_ONCE || !files.any_direct() || !files.knows_cache() {
        return false;
    }
    let parts = catalog.iter().flat_map(|(_, record)| &record.parts);
    let stride = (parts.clone().count() / SAMPLES).max(1);
    let sample: Vec<bool> = parts
        .step_by(stride)
        .map(|part| files.cached(part.file, part.offset, part.bytes.min(BLOCK_BYTES) as usize))
        .collect();
    sample.iter().filter(|&&cached| cached).count() * 2 < sample.len()
}

/// Chooses between direct and buffered reads by reading a few experts both ways, at the given queue depth, in
/// about a tenth of a second. `once`: all experts fit, so that each is read once.
pub(crate) fn choose(files: &Files, catalog: &Catalog, depth: usize, once: bool) -> IoChoice {
    let (direct, buffered) = spots(files, catalog);
    let rates = measure(&direct, depth, CHOICE_BUDGET)
        .and_then(|direct| Ok((direct, measure(&buffered, depth, CHOICE_BUDGET)?)));
    buffered.iter().for_each(drop_spot);
    match rates {
        Ok((direct, buffered)) => IoChoice {
            direct: direct_is_better(direct, buffered, once),
            reason: IoReason::Measured { direct, buffered },
        },
        Err(error) => IoChoice { direct: false, reason: IoReason::ProbeFailed(error.to_string()) },
    }
}

fn drop_spot(&(file, offset): &Spot) {
    os::hint(file, Hint::Drop { offset, bytes: READ_BYTES as u64 });
}

/// Places evenly spread over the experts, alternately for direct and for buffered reads, with nothing of them
/// in the page cache.
fn spots<'a>(files: &'a Files, catalog: &Catalog) -> (Vec<Spot<'a>>, Vec<Spot<'a>>) {
    let parts = catalog.iter().flat_map(|(_, record)| &record.parts);
    let pieces = |bytes: u64| bytes.div_ceil(READ_BYTES as u64);
    let all: u64 = parts.clone().map(|part| pieces(part.bytes)).sum();
    let stride = (all / (2 * CHOICE_READS as u64)).max(1);
    let (mut direct, mut buffered, mut at) = (Vec::new(), Vec::new(), 0u64);
    for part in parts {
        for piece in 0..pieces(part.bytes) {
            if at.is_multiple_of(stride) && buffered.len() < CHOICE_READS {
                let offset = part.offset + piece * READ_BYTES as u64;
                let offset = offset - offset % BLOCK_BYTES;
                let (cached, bypass) = files.descriptors(part.file);
                drop_spot(&(cached, offset));
                match bypass {
                    Some(bypass) if direct.len() <= buffered.len() => direct.push((bypass, offset)),
                    _ => buffered.push((cached, offset)),
                }
            }
            at += 1;
        }
    }
    (direct, buffered)
}

/// Reads at the spots with `depth` threads until all are read or the time is up.
fn measure(spots: &[Spot], depth: usize, budget: Duration) -> io::Result<Rate> {
    let depth = depth.clamp(1, spots.len().max(1));
    let memory = Arena::buffers(depth, READ_BYTES).map_err(io::Error::other)?;
    let buffer = |number| memory.write(number)?.piece(0..READ_BYTES);
    let buffers: Option<Vec<Piece>> = (0..depth).map(buffer).collect();
    let mut buffers = buffers.ok_or_else(|| io::Error::other("a buffer of the probe is in use"))?;
    // Touched before the clock starts: page faults are not the disk's.
    buffers.iter_mut().for_each(|buffer| buffer.bytes_mut().fill(0));
    let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let read = |buffer: &mut [u8]| -> io::Result<()> {
        while !stop.load(Ordering::Relaxed) && begun.elapsed() < budget {
            let Some(&(file, offset)) = spots.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let read = file.read_at(buffer, offset).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
            bytes.fetch_add(read as u64, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let mut threads = Vec::with_capacity(depth);
        for buffer in &mut buffers {
            threads.push(std::thread::Builder::new().spawn_scoped(scope, || read(buffer.bytes_mut()))?);
        }
        let died = |_| Err(io::Error::other("a thread of the probe died"));
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(died))
    })?;
    let ns = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Ok(Rate { bytes: bytes.into_inner(), ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_a_speed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let file = File::create(&path).unwrap();
        file.write_all_at(&vec![7; 12 << 20], 0).unwrap();
        file.sync_all().unwrap();
        let probe = probe_disk(&path).unwrap();
        assert!(probe.buffered_gb_s > 0.0 && probe.ceiling_gb_s() >= probe.buffered_gb_s);
        let thirds = if probe.direct_gb_s.is_some() { 3 } else { 1 };
        assert!(probe.bytes > 0 && probe.bytes <= thirds * (4 << 20), "{probe:?}");
    }

    #[test]
    fn the_better_way_depends_on_whether_all_is_read_once() {
        let rate = |gb: u64| Rate { bytes: gb, ns: 10 };
        let better =
            |direct, buffered| [false, true].map(|once| direct_is_better(rate(direct), rate(buffered), once));
        assert_eq!(better(10, 10), [true, false]);
        assert_eq!(better(15, 10), [true, true]);
        assert_eq!(better(10, 15), [false, false]);
    }

    #[test]
    fn small_files_and_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(probe_disk(folder.path()), Err(PagerError::Open { .. })));
        let path = folder.path().join("small");
        std::fs::write(&path, [0; 1000]).unwrap();
        assert!(matches!(probe_disk(&path), Err(PagerError::ProbeTooSmall { bytes: 1000, .. })));
        assert!(matches!(probe_disk(&folder.path().join("none")), Err(PagerError::Open { .. })));
    }
}
