//! Large files that an interruption does not undo.
//!
//! Bytes go to `PATH.part`, and to `PATH.part.log` a line for each piece of it that is on the disk: the tensors that are whole then,
//! where the piece ends, and its BLAKE3 digest. Whoever comes back reads the pieces, believes those that have their digests, and goes on
//! behind them. At the end all pieces are read once more, from the disk itself where the system allows it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{BUFFER_BYTES, Planned, TensorSink, pad, put, with_ending};
use crate::error::FormatError;
use crate::tensor::TensorInfo;

/// A piece has at least so many bytes, but for the last: each waits for the disk.
const PIECE_BYTES: u64 = if cfg!(test) { 5000 } else { 64 << 20 };
/// Reads around the page cache start, end and land on multiples of it, bytes.
const DISK_BLOCK: usize = 4096;
/// Bytes that are read at a time when pieces are compared.
const READ_BYTES: usize = 4 << 20;
/// Bytes of the longest log that is read: a line has about 90, and a piece at least [`PIECE_BYTES`].
const LOG_BYTES: u64 = 1 << 20;

/// A piece that is on the disk.
#[derive(Clone)]
struct Piece {
    /// Tensors that are whole with it.
    tensors: usize,
    /// Where it ends in the file.
    end: u64,
    digest: blake3::Hash,
}

impl Planned<'_> {
    /// Writes the file, or what an interrupted call has left to be written; what is written when this one fails stays. `source` says
    /// what the bytes come from: pieces from another source are written again.
    pub fn write_resumably<E: From<FormatError>>(
        &self,
        source: &[u8],
        mut fill: impl FnMut(&TensorInfo, &mut TensorSink<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Begun { part, mut log, mut pieces } = self.begin(source)?;
        let failed = |source| FormatError::Write { path: part.path.clone(), source };
        let last = pieces.last().cloned();
        let (done, mut position) = last.map_or((0, 0), |piece| (piece.tensors, piece.end));
        let mut sink = Hashing { inner: &part.file, hasher: blake3::Hasher::new(), bytes: 0 };
        sink.inner.set_len(position).map_err(failed)?;
        sink.inner.seek(SeekFrom::Start(position)).map_err(failed)?;
        let mut sink = BufWriter::with_capacity(BUFFER_BYTES, sink);
        if position == 0 {
            put(&mut sink, self.path, &self.header)?;
            position = self.header.len() as u64;
        }
        for (number, tensor) in self.tensors.iter().enumerate().skip(done) {
            self.tensor(&mut sink, &mut position, tensor, &mut fill)?;
            let last = number + 1 == self.tensors.len();
            if last {
                pad(&mut sink, self.path, self.bytes - position)?;
                position = self.bytes;
            }
            sink.flush().map_err(failed)?;
            if last || sink.get_ref().bytes >= PIECE_BYTES {
                part.file.sync_data().map_err(failed)?;
                let piece = Piece { tensors: number + 1, end: position, digest: sink.get_mut().end_piece() };
                log.add(&piece)?;
                pieces.push(piece);
            }
        }
        sink.flush().map_err(failed)?;
        drop(sink);
        part.compare(&pieces)?;
        part.file.sync_all().map_err(failed)?;
        fs::rename(&part.path, self.path).map_err(failed)?;
        // It is of no more use, and harms nobody.
        let _ = fs::remove_file(&log.path);
        Ok(())
    }

    /// Opens what is there of the file, and finds out how much of it is good.
    fn begin(&self, source: &[u8]) -> Result<Begun, FormatError> {
        let part = PartFile::open(with_ending(self.path, ".part"))?;
        let mut whole = blake3::Hasher::new();
        whole.update(&(source.len() as u64).to_le_bytes()).update(source).update(&self.header);
        let title = whole.finalize();
        let path = with_ending(self.path, ".part.log");
        let mut pieces = Log::read(&path, &title).unwrap_or_default();
        let fits = |piece: &Piece| match self.tensors.get(piece.tensors.wrapping_sub(1)) {
            Some(tensor) if piece.tensors == self.tensors.len() => {
                piece.end == self.bytes && tensor.offset < piece.end
            }
            Some(tensor) => piece.end == tensor.offset + tensor.bytes,
            None => false,
        };
        let ascending = |index: usize| index == 0 || pieces[index - 1].tensors < pieces[index].tensors;
        let told = (0..pieces.len()).take_while(|&index| fits(&pieces[index]) && ascending(index)).count();
        pieces.truncate(told);
        let good = part.good(&pieces)?;
        pieces.truncate(good);
        let log = Log::begin(path, &title, &pieces)?;
        Ok(Begun { part, log, pieces })
    }
}

/// A file that is being written, and what of it is on the disk.
struct Begun {
    part: PartFile,
    log: Log,
    pieces: Vec<Piece>,
}

/// The unfinished file. One process at a time has it.
struct PartFile {
    path: PathBuf,
    file: File,
}

impl PartFile {
    fn open(path: PathBuf) -> Result<Self, FormatError> {
        let failed = |source| FormatError::Open { path: path.clone(), source };
        // A link planted under the name leads nowhere, and a pipe holds nobody up.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let options = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).custom_flags(flags);
            options
        };
        let file = options().open(&path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(FormatError::NotAFile { path, found: "something else" });
        }
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => {
                let source = io::Error::new(io::ErrorKind::WouldBlock, "another process is writing it");
                Err(failed(source))
            }
            // Not every file system has locks.
            Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(Self { path, file }),
        }
    }

    /// How many of the pieces have their digests.
    fn good(&self, pieces: &[Piece]) -> Result<usize, FormatError> {
        let failed = |source| FormatError::Write { path: self.path.clone(), source };
        if self.file.metadata().map_err(failed)?.len() < pieces.last().map_or(0, |piece| piece.end) {
            return Ok(0);
        }
        let mut reader = DiskReader::open(&self.path, &self.file).map_err(failed)?;
        let mut begin = 0;
        for (number, piece) in pieces.iter().enumerate() {
            if reader.digest(begin, piece.end).map_err(failed)? != piece.digest {
                return Ok(number);
            }
            begin = piece.end;
        }
        Ok(pieces.len())
    }

    /// Error: a piece is not on the disk as it was written.
    fn compare(&self, pieces: &[Piece]) -> Result<(), FormatError> {
        let good = self.good(pieces)?;
        if good == pieces.len() {
            return Ok(());
        }
        let message = format!(
            "what was written up to byte {} was read back otherwise; the disk is faulty",
            pieces[good].end
        );
        Err(FormatError::Write { path: self.path.clone(), source: io::Error::other(message) })
    }
}

/// Reads what is on the disk rather than what the system keeps of it, where it can.
struct DiskReader<'a> {
    direct: Option<File>,
    buffered: &'a File,
    bytes: Vec<u8>,
}

impl<'a> DiskReader<'a> {
    fn open(path: &Path, buffered: &'a File) -> io::Result<Self> {
        let flags = libc::O_DIRECT | libc::O_NOFOLLOW;
        let direct = OpenOptions::new().read(true).custom_flags(flags).open(path).ok();
        Ok(Self { direct, buffered, bytes: vec![0; READ_BYTES + 2 * DISK_BLOCK] })
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
        let start = self.bytes.as_ptr().align_offset(DISK_BLOCK).min(DISK_BLOCK);
        let whole = start..start + bytes.next_multiple_of(DISK_BLOCK);
        let direct = self.direct.as_ref().map(|file| read_up_to(file, &mut self.bytes[whole], block));
        if !direct.is_some_and(|read| read.is_ok_and(|read| read >= bytes)) {
            self.direct = None;
            self.buffered.read_exact_at(&mut self.bytes[start..start + bytes], block)?;
        }
        Ok(&self.bytes[start..start + bytes])
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

/// Hands on bytes and takes their digest.
struct Hashing<'a> {
    inner: &'a File,
    hasher: blake3::Hasher,
    /// Since the last piece.
    bytes: u64,
}

impl Hashing<'_> {
    fn end_piece(&mut self) -> blake3::Hash {
        self.bytes = 0;
        std::mem::take(&mut self.hasher).finalize()
    }
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The pieces that are on the disk.
struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// The pieces of a log under this title, as far as its lines are whole.
    fn read(path: &Path, title: &blake3::Hash) -> Option<Vec<Piece>> {
        let mut text = String::new();
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
        file.take(LOG_BYTES).read_to_string(&mut text).ok()?;
        let mut lines = text.split_inclusive('\n').map_while(|line| line.strip_suffix('\n'));
        if lines.next()? != title.to_hex().as_str() {
            return None;
        }
        let piece = |line: &str| {
            let mut words = line.split(' ');
            let (tensors, end) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some(Piece { tensors, end, digest: blake3::Hash::from_hex(words.next()?).ok()? })
        };
        Some(lines.map_while(piece).collect())
    }

    /// A new log, which has these pieces.
    fn begin(path: PathBuf, title: &blake3::Hash, pieces: &[Piece]) -> Result<Self, FormatError> {
        let failed = |source| FormatError::Open { path: path.clone(), source };
        let _ = fs::remove_file(&path);
        let file = File::create_new(&path).map_err(failed)?;
        let mut log = Self { path, file };
        log.line(&title.to_hex())?;
        pieces.iter().try_for_each(|piece| log.add(piece))?;
        Ok(log)
    }

    fn add(&mut self, piece: &Piece) -> Result<(), FormatError> {
        self.line(&format!("{} {} {}", piece.tensors, piece.end, piece.digest.to_hex()))
    }

    fn line(&mut self, line: &str) -> Result<(), FormatError> {
        writeln!(self.file, "{line}").map_err(|source| FormatError::Write { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::dtype::DType;
    use crate::shape::Shape;
    use crate::tensor::Values;

    const TENSORS: usize = 5;
    /// More than a piece; with a gap behind each.
    const BYTES: u64 = PIECE_BYTES + 100;

    fn tensors() -> Vec<TensorInfo> {
        let tensor = |number: u64| TensorInfo {
            name: number.to_string(),
            dtype: DType::I8,
            shape: Shape::new(&[BYTES]).unwrap(),
            file: 0,
            offset: 64 + number * (BYTES + 28),
            bytes: BYTES,
            values: Values::AsStored,
        };
        (0..TENSORS as u64).map(tensor).collect()
    }

    /// Writes the file up to tensor number `until`. Gives the names of those that were asked for.
    fn write(path: &Path, source: &[u8], until: usize) -> (Vec<String>, Result<(), FormatError>) {
        let (tensors, mut asked) = (tensors(), Vec::new());
        let bytes = tensors[TENSORS - 1].offset + BYTES + 28;
        let planned = Planned { path, header: vec![9; 64], tensors: &tensors, bytes };
        let result = planned.write_resumably(source, |tensor, sink| {
            if asked.len() == until {
                return Err(FormatError::Changed { path: path.to_owned() });
            }
            asked.push(tensor.name.clone());
            let number: u8 = tensor.name.parse().unwrap();
            (0..BYTES)
                .step_by(50)
                .try_for_each(|at| sink.put(&vec![number + source[0]; (BYTES - at).min(50) as usize]))
        });
        (asked, result)
    }

    fn expected(source: u8) -> Vec<u8> {
        let tensor = |number: u8| [vec![number + source; BYTES as usize], vec![0; 28]].concat();
        [vec![9; 64], (0..TENSORS as u8).flat_map(tensor).collect()].concat()
    }

    fn paths(folder: &tempfile::TempDir) -> [PathBuf; 3] {
        ["out", "out.part", "out.part.log"].map(|name| folder.path().join(name))
    }

    #[test]
    fn what_was_written_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let [out, part, log] = paths(&folder);
        for (until, asked) in [(2, &["0", "1"][..]), (0, &[]), (1, &["2"]), (9, &["3", "4"])] {
            assert!(!out.exists());
            let (found, result) = write(&out, b"a", until);
            assert_eq!(
                (found, result.is_ok()),
                (asked.iter().map(|name| name.to_string()).collect(), until == 9)
            );
        }
        assert!(fs::read(&out).unwrap() == expected(b'a'));
        assert!(!part.exists() && !log.exists());
    }

    #[test]
    fn what_is_not_as_it_was_written_is_written_again() {
        /// Changes what an interrupted call has left.
        type Damage = fn(&Path, &Path);
        let cases: [(Damage, &[u8], usize); 8] = [
            (|_, _| {}, b"a", 3),
            (|_, _| {}, b"b", 0),
            (|part, _| flip(part, 70), b"a", 0),
            (|part, _| flip(part, 64 + BYTES + 28 + 5), b"a", 1),
            (|part, _| OpenOptions::new().write(true).open(part).unwrap().set_len(BYTES).unwrap(), b"a", 0),
            (|_, log| flip(log, 3), b"a", 0),
            (|_, log| fs::remove_file(log).unwrap(), b"a", 0),
            (|_, log| cut(log, 10), b"a", 2),
        ];
        for (number, (damage, source, whole)) in cases.into_iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let [out, part, log] = paths(&folder);
            write(&out, b"a", 3).1.unwrap_err();
            damage(&part, &log);
            let (asked, result) = write(&out, source, 9);
            result.unwrap();
            assert_eq!(asked.len(), TENSORS - whole, "{number}");
            assert!(fs::read(&out).unwrap() == expected(source[0]), "{number}");
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

    #[test]
    fn logs_that_say_what_can_not_be_are_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let [out, part, log] = paths(&folder);
        write(&out, b"a", 3).1.unwrap_err();
        let good = fs::read_to_string(&log).unwrap();
        let (title, pieces) = good.split_once('\n').unwrap();
        let digest = pieces.split(' ').nth(2).unwrap().lines().next().unwrap();
        let all = "18446744073709551615";
        for pieces in [
            String::new(),
            format!("0 0 {digest}\n"),
            format!("0 {all} {digest}\n"),
            format!("{all} {all} {digest}\n"),
            format!("{TENSORS} {all} {digest}\n"),
            format!("1 {all} {digest}\n"),
            format!("-1 64 {digest}\n1 2\n"),
        ] {
            fs::write(&log, format!("{title}\n{pieces}")).unwrap();
            assert_eq!(write(&out, b"a", 1).0, ["0"], "{pieces}");
            assert!(!out.exists() && part.exists());
        }
        write(&out, b"a", 9).1.unwrap();
        assert!(fs::read(&out).unwrap() == expected(b'a'));
    }

    #[test]
    fn links_and_other_writers_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let [out, part, log] = paths(&folder);
        let victim = folder.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        symlink(&victim, &part).unwrap();
        assert!(matches!(write(&out, b"a", 9).1, Err(FormatError::Open { .. })));
        fs::remove_file(&part).unwrap();
        symlink(&victim, &log).unwrap();
        write(&out, b"a", 9).1.unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");

        fs::remove_file(&out).unwrap();
        let other = PartFile::open(part.clone()).unwrap();
        let error = write(&out, b"a", 9).1.unwrap_err().to_string();
        assert!(error.contains("another process is writing it"), "{error}");
        drop(other);
        write(&out, b"a", 9).1.unwrap();
    }

    #[test]
    fn what_the_disk_gives_back_otherwise_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let [_, part, _] = paths(&folder);
        let file = PartFile::open(part).unwrap();
        file.file.write_all_at(&[1; 10_000], 0).unwrap();
        let piece = |tensors, end, bytes: &[u8]| Piece { tensors, end, digest: blake3::hash(bytes) };
        let good = piece(1, 5000, &[1; 5000]);
        file.compare(&[good.clone(), piece(2, 9000, &[1; 4000])]).unwrap();
        let error = file.compare(&[good, piece(2, 9000, &[2; 4000])]).unwrap_err().to_string();
        assert!(error.contains("byte 9000 was read back otherwise"), "{error}");
    }
}
