//! Files that an interruption does not undo.
//!
//! While a file is written, the end of each piece that is on the disk is noted with its BLAKE3 digest. Whoever comes back reads the pieces,
//! believes those that have their digests, and goes on behind them. At the end all pieces are read once more, from the disk itself
//! where the system allows it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use memmap2::MmapMut;

use super::unfinished::{Piece, Unfinished};
use super::{BUFFER_BYTES, Planned, TensorSink, pad, put};
use crate::error::FormatError;
use crate::tensor::TensorInfo;

/// A piece has at least so many bytes, but for the last: each waits for the disk.
const PIECE_BYTES: u64 = if cfg!(test) { 5000 } else { 256 << 20 };
/// Reads around the page cache start, end and land on multiples of it, bytes.
const DISK_BLOCK: usize = 4096;
/// Bytes that are read at a time when pieces are compared.
const READ_BYTES: usize = 4 << 20;

/// What is being done to a file, for people who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// What an earlier call wrote is read.
    Finding,
    /// It is written.
    Writing,
    /// What was written is read back.
    Comparing,
}

impl Planned<'_> {
    /// Writes the file, or what an interrupted call has left to be written. `fill` is told from which byte of a tensor on; `progress`
    /// up to which byte of the file a step has come.
    pub fn write_resumably<E: From<FormatError>>(
        &self,
        unfinished: &mut Unfinished,
        progress: &mut dyn FnMut(Step, u64),
        mut fill: impl FnMut(&TensorInfo, u64, &mut TensorSink<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let file = MadeFile::open(self.path)?;
        let good = self.good(&file, unfinished.pieces(), progress)?;
        let mut position = good.last().map_or(0, |piece| piece.end);
        let failed = |source| FormatError::Write { path: self.path.to_owned(), source };
        // Of what stands behind, nobody knows what it is; a full disk needs the room.
        file.file.set_len(position).map_err(failed)?;
        unfinished.keep(good.len())?;
        let mut sink = Pieces::new(&file.file, position, unfinished, progress).map_err(failed)?;
        if position == 0 {
            put(&mut sink, self.path, &self.header)?;
            position = self.header.len() as u64;
        }
        for tensor in self.tensors {
            let end = tensor.offset + tensor.bytes;
            if end <= position {
                continue;
            }
            let given = position.saturating_sub(tensor.offset);
            pad(&mut sink, self.path, tensor.offset.saturating_sub(position))?;
            let mut tensor_sink = TensorSink { sink: &mut sink, path: self.path, tensor, given };
            fill(tensor, given, &mut tensor_sink)?;
            tensor_sink.complete()?;
            position = end;
        }
        pad(&mut sink, self.path, self.bytes - position)?;
        sink.finish().map_err(failed)?;
        let found = file.digests(unfinished.pieces(), Step::Comparing, progress)?;
        if let Some(piece) = unfinished.pieces().get(found) {
            return Err(FormatError::ReadBack { path: self.path.to_owned(), end: piece.end }.into());
        }
        Ok(file.file.sync_all().map_err(failed)?)
    }

    /// The pieces that are where they were written.
    fn good(
        &self,
        file: &MadeFile<'_>,
        pieces: &[Piece],
        progress: &mut dyn FnMut(Step, u64),
    ) -> Result<Vec<Piece>, FormatError> {
        let mut begin = 0;
        let possible = |piece: &&Piece| {
            let from = std::mem::replace(&mut begin, piece.end);
            piece.end > from && piece.end >= self.header.len() as u64 && piece.end <= self.bytes
        };
        let possible: Vec<Piece> = pieces.iter().take_while(possible).cloned().collect();
        let good = file.digests(&possible, Step::Finding, progress)?;
        Ok(possible[..good].to_vec())
    }
}

/// The file that is being written.
struct MadeFile<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> MadeFile<'a> {
    fn open(path: &'a Path) -> Result<Self, FormatError> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let options = || {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(flags).clone()
        };
        let file =
            options().open(path).map_err(|source| FormatError::Open { path: path.to_owned(), source })?;
        Ok(Self { path, file })
    }

    /// How many of the pieces, from the first on, have their digests. One that is looked for and that the disk can't give any more
    /// is to be made again.
    fn digests(
        &self,
        pieces: &[Piece],
        step: Step,
        progress: &mut dyn FnMut(Step, u64),
    ) -> Result<usize, FormatError> {
        let reader = DiskReader::open(self.path, &self.file);
        let mut reader = reader.map_err(|source| FormatError::Open { path: self.path.to_owned(), source })?;
        let mut begin = 0;
        for (number, piece) in pieces.iter().enumerate() {
            let bytes = piece.end - begin;
            let failed =
                |source| FormatError::Read { path: self.path.to_owned(), offset: begin, bytes, source };
            match reader.digest(begin, piece.end) {
                Ok(digest) if digest == piece.digest => {}
                Ok(_) => return Ok(number),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(number),
                Err(error) if step == Step::Finding && error.raw_os_error() == Some(libc::EIO) => {
                    return Ok(number);
                }
                Err(source) => return Err(failed(source)),
            }
            begin = piece.end;
            progress(step, begin);
        }
        Ok(pieces.len())
    }
}

/// Reads what is on the disk rather than what the system keeps of it, where it can.
struct DiskReader<'a> {
    direct: Option<File>,
    buffered: &'a File,
    /// In huge pages where these are to be had: some disks read into small ones at a fraction of their speed.
    bytes: MmapMut,
}

impl<'a> DiskReader<'a> {
    fn open(path: &Path, buffered: &'a File) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        let direct = {
            let flags = libc::O_DIRECT | libc::O_NOFOLLOW;
            OpenOptions::new().read(true).custom_flags(flags).open(path).ok()
        };
        #[cfg(not(target_os = "linux"))]
        let direct = {
            let _ = path;
            None
        };
        let bytes = MmapMut::map_anon(READ_BYTES)?;
        #[cfg(target_os = "linux")]
        let _ = bytes.advise(memmap2::Advice::HugePage);
        Ok(Self { direct, buffered, bytes })
    }

    /// The digest of the bytes from `begin` to `end`.
    fn digest(&mut self, begin: u64, end: u64) -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        let mut at = begin;
        while at < end {
            let lead = (at % DISK_BLOCK as u64) as usize;
            let wanted = (end - at).min((READ_BYTES - lead) as u64) as usize;
            hasher.update(self.read(at - lead as u64, lead + wanted)?.get(lead..).unwrap_or_default());
            at += wanted as u64;
        }
        Ok(hasher.finalize())
    }

    /// So many bytes from a block on.
    fn read(&mut self, block: u64, bytes: usize) -> io::Result<&[u8]> {
        let whole = ..bytes.next_multiple_of(DISK_BLOCK);
        let direct = self.direct.as_ref().map(|file| read_up_to(file, &mut self.bytes[whole], block));
        match direct {
            Some(Ok(read)) if read >= bytes => {}
            // What the disk can't give must not come out of the cache.
            Some(Err(error)) if error.kind() != io::ErrorKind::InvalidInput => return Err(error),
            _ => {
                self.direct = None;
                self.buffered.read_exact_at(&mut self.bytes[..bytes], block)?;
            }
        }
        Ok(&self.bytes[..bytes])
    }
}

/// Reads until `buf` is full or the file ends.
fn read_up_to(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64)? {
            0 => break,
            read => done += read,
        }
        // The next read of a file that ends within a block would not be aligned.
        if !done.is_multiple_of(DISK_BLOCK) {
            break;
        }
    }
    Ok(done)
}

/// Writes a file and notes its pieces. One ends only where a call of `write_all` does, so that what is behind can be made by itself.
struct Pieces<'a> {
    file: BufWriter<&'a File>,
    unfinished: &'a mut Unfinished,
    progress: &'a mut dyn FnMut(Step, u64),
    hasher: blake3::Hasher,
    /// Where the piece begins, and how far it is written.
    begin: u64,
    position: u64,
}

impl<'a> Pieces<'a> {
    fn new(
        mut file: &'a File,
        position: u64,
        unfinished: &'a mut Unfinished,
        progress: &'a mut dyn FnMut(Step, u64),
    ) -> io::Result<Self> {
        file.seek(SeekFrom::Start(position))?;
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Self { file, unfinished, progress, hasher: blake3::Hasher::new(), begin: position, position })
    }

    fn end_piece(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()?;
        self.begin = self.position;
        let digest = std::mem::take(&mut self.hasher).finalize();
        self.unfinished.add(Piece { end: self.position, digest })
    }

    fn finish(mut self) -> io::Result<()> {
        if self.position > self.begin { self.end_piece() } else { Ok(()) }
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.position += bytes.len() as u64;
        (self.progress)(Step::Writing, self.position);
        if self.position - self.begin >= PIECE_BYTES { self.end_piece() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::dtype::DType;
    use crate::shape::Shape;
    use crate::tensor::Values;

    const TENSORS: u64 = 3;
    /// A tensor is written in so many runs of so many bytes, three to a piece; behind it there is a gap.
    const RUNS: u64 = 5;
    const RUN: u64 = PIECE_BYTES / 3 + 10;
    const GAP: u64 = 28;
    const HEADER: u64 = 64;

    fn tensors() -> Vec<TensorInfo> {
        let tensor = |number: u64| TensorInfo {
            name: number.to_string(),
            dtype: DType::I8,
            shape: Shape::new(&[RUNS * RUN]).unwrap(),
            file: 0,
            offset: HEADER + number * (RUNS * RUN + GAP),
            bytes: RUNS * RUN,
            values: Values::AsStored,
        };
        (0..TENSORS).map(tensor).collect()
    }

    /// Writes the file until so many runs were asked for. Gives their numbers.
    fn write(out: &Path, until: usize) -> (Vec<u64>, Result<(), FormatError>) {
        write_watched(out, until, &mut |_, _| {})
    }

    /// The same; `watch` is told how it goes on.
    fn write_watched(
        out: &Path,
        until: usize,
        watch: &mut dyn FnMut(Step, u64),
    ) -> (Vec<u64>, Result<(), FormatError>) {
        let (tensors, mut asked) = (tensors(), Vec::new());
        let mut unfinished = Unfinished::begin(out, b"source").unwrap();
        let path = unfinished.model();
        let bytes = tensors[TENSORS as usize - 1].offset + RUNS * RUN + GAP;
        let planned = Planned { path: &path, header: vec![9; HEADER as usize], tensors: &tensors, bytes };
        let (mut last, mut steps) = (0, Vec::new());
        let mut progress = |step, at| {
            watch(step, at);
            steps.push(step);
            last = at;
        };
        let result = planned.write_resumably(&mut unfinished, &mut progress, |tensor, from, sink| {
            assert!(from.is_multiple_of(RUN), "a piece ends where a run does");
            for run in from / RUN..RUNS {
                if asked.len() == until {
                    return Err(FormatError::Changed { path: out.to_owned() });
                }
                let number = tensor.name.parse::<u64>().unwrap() * RUNS + run;
                asked.push(number);
                sink.put(&[number as u8].repeat(RUN as usize))?;
            }
            Ok(())
        });
        if result.is_ok() {
            assert_eq!((last, steps.last()), (bytes, Some(&Step::Comparing)));
            assert!(fs::read(&path).unwrap() == expected());
        }
        (asked, result)
    }

    fn expected() -> Vec<u8> {
        let run = |number: u64| [number as u8].repeat(RUN as usize);
        let tensor =
            |number: u64| (number * RUNS..(number + 1) * RUNS).flat_map(run).chain([0; GAP as usize]);
        vec![9; HEADER as usize].into_iter().chain((0..TENSORS).flat_map(tensor)).collect()
    }

    fn paths(room: &tempfile::TempDir) -> [PathBuf; 3] {
        ["out", "out.unfinished/model", "out.unfinished/log"].map(|name| room.path().join(name))
    }

    #[test]
    fn what_is_on_the_disk_is_not_made_again() {
        let room = tempfile::tempdir().unwrap();
        let [out, ..] = paths(&room);
        for (until, asked) in [(4, 0..4), (2, 3..5), (0, 3..3), (9, 3..12), (99, 12..15), (99, 15..15)] {
            let (found, result) = write(&out, until);
            assert_eq!((found, result.is_ok()), (asked.collect(), until == 99));
        }
    }

    #[test]
    fn what_is_not_as_it_was_written_is_made_again() {
        /// Changes what an interrupted call has left.
        type Damage = fn(&Path, &Path);
        let cases: [(Damage, u64); 9] = [
            (|_, _| {}, 6),
            (|model, _| flip(model, HEADER + 6), 0),
            (|model, _| flip(model, HEADER + 3 * RUN + 5), 3),
            (|model, _| cut(model, 4 * RUN), 3),
            (|model, _| lengthen(model, 20 * RUN), 6),
            (|model, _| fs::remove_file(model).unwrap(), 0),
            (|_, log| cut(log, 10), 3),
            (|_, log| flip(log, fs::metadata(log).unwrap().len() - 10), 3),
            (|_, log| cut(log, 2 * 70), 0),
        ];
        for (number, (damage, good)) in cases.into_iter().enumerate() {
            let room = tempfile::tempdir().unwrap();
            let [out, model, log] = paths(&room);
            write(&out, 8).1.unwrap_err();
            damage(&model, &log);
            let (asked, result) = write(&out, 99);
            result.unwrap();
            assert_eq!(asked, (good..TENSORS * RUNS).collect::<Vec<_>>(), "{number}");
        }
    }

    fn flip(path: &Path, place: u64) {
        let mut bytes = fs::read(path).unwrap();
        bytes[place as usize] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    fn cut(path: &Path, less: u64) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() - less).unwrap();
    }

    fn lengthen(path: &Path, more: u64) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() + more).unwrap();
    }

    #[test]
    fn what_is_read_back_otherwise_is_an_error() {
        let room = tempfile::tempdir().unwrap();
        let [out, model, _] = paths(&room);
        let mut begun = false;
        let damaged = write_watched(&out, 99, &mut |step, _| {
            // The first piece is on the disk by then, and is not written again.
            if step == Step::Writing && !begun && fs::metadata(&model).unwrap().len() > 9 * RUN {
                begun = true;
                flip(&model, HEADER + 6);
            }
        });
        assert!(matches!(damaged.1, Err(FormatError::ReadBack { .. })), "{:?}", damaged.1);
        assert_eq!(write(&out, 99).0, (0..TENSORS * RUNS).collect::<Vec<_>>());
    }

    #[test]
    fn logs_that_say_what_can_not_be_are_not_believed() {
        let room = tempfile::tempdir().unwrap();
        let [out, _, log] = paths(&room);
        write(&out, 8).1.unwrap_err();
        let good = fs::read_to_string(&log).unwrap();
        let lines: Vec<&str> = good.split_inclusive('\n').collect();
        let (title, digest) = (lines[..2].concat(), lines[2].split_once(' ').unwrap().1);
        let all = u64::MAX;
        for end in [0, 1, HEADER - 1, all, 5000, all / 2] {
            fs::write(&log, format!("{title}{end} {digest}{end} {digest}")).unwrap();
            assert_eq!(write(&out, 1).0, [0], "{end}");
        }
        // A piece that is there, and is less than the header.
        fs::write(&log, format!("{title}32 {}\n", blake3::hash(&[9; 32]).to_hex())).unwrap();
        let (asked, result) = write(&out, 99);
        result.unwrap();
        assert_eq!(asked[0], 0);
    }

    #[test]
    fn what_the_disk_gives_back_otherwise_is_found() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("file");
        let made = MadeFile::open(&path).unwrap();
        made.file.write_all_at(&[1; 10_000], 0).unwrap();
        let piece = |end, bytes: &[u8]| Piece { end, digest: blake3::hash(bytes) };
        let good = [piece(5000, &[1; 5000]), piece(9000, &[1; 4000])];
        let mut told = Vec::new();
        assert_eq!(made.digests(&good, Step::Finding, &mut |_, at| told.push(at)).unwrap(), 2);
        assert_eq!(told, [5000, 9000]);
        let other = [good[0].clone(), piece(9000, &[2; 4000])];
        assert_eq!(made.digests(&other, Step::Comparing, &mut |_, _| {}).unwrap(), 1);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_piece_that_the_disk_can_not_give_is_made_again() {
        // At 0 a process has no memory; reading it is the error of a bad sector.
        let path = Path::new("/proc/self/mem");
        let made = MadeFile { path, file: File::open(path).unwrap() };
        let lost = [Piece { end: 5000, digest: blake3::hash(b"") }];
        assert_eq!(made.digests(&lost, Step::Finding, &mut |_, _| {}).unwrap(), 0);
        let compared = made.digests(&lost, Step::Comparing, &mut |_, _| {});
        assert!(matches!(compared, Err(FormatError::Read { .. })), "{compared:?}");
    }
}
