//! Frames: four bytes of length (little-endian), then a message and what is behind it.

use std::io::{ErrorKind, Read, Write};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;

/// Memory for frames that is kept from one to the next, in bytes.
const KEPT_BYTES: usize = 1 << 20;

/// Why the other end can't be talked to any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The other end is closed.
    Closed,
    /// It took too long.
    Late,
    /// It said what it may not say.
    Rule(String),
}

/// Until when a frame must be there. Looked at whenever the stream has nothing for the time that it waits by itself,
/// and after every piece.
pub trait Deadline {
    /// Why to wait no longer; none if there is still time.
    fn over(&mut self) -> Option<Broken>;
}

/// A time.
impl Deadline for Instant {
    fn over(&mut self) -> Option<Broken> {
        (Instant::now() > *self).then_some(Broken::Late)
    }
}

/// No deadline: the process waits for its host.
impl Deadline for () {
    fn over(&mut self) -> Option<Broken> {
        None
    }
}

/// A stream of frames in both directions.
pub struct Frames<S> {
    stream: S,
    /// Bytes that were read and belong to frames to come, from `taken` on.
    ahead: Vec<u8>,
    taken: usize,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

impl<S: Read + Write> Frames<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, ahead: Vec::new(), taken: 0, incoming: Vec::new(), outgoing: Vec::new() }
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The stream, without what was read ahead.
    pub fn into_stream(self) -> S {
        self.stream
    }

    /// Sends a message with bytes behind it.
    pub fn send(&mut self, message: &impl Serialize, behind: &[u8]) -> Result<(), Broken> {
        let mut frame = std::mem::take(&mut self.outgoing);
        frame.clear();
        frame.extend_from_slice(&[0; 4]);
        let mut frame = postcard::to_extend(message, frame)
            .map_err(|error| Broken::Rule(format!("a message that can't be encoded: {error}")))?;
        frame.extend_from_slice(behind);
        let length = u32::try_from(frame.len() - 4)
            .map_err(|_| Broken::Rule(format!("a frame of {} bytes", frame.len())))?;
        frame[..4].copy_from_slice(&length.to_le_bytes());
        let sent = self.stream.write_all(&frame);
        frame.truncate(KEPT_BYTES);
        frame.shrink_to(KEPT_BYTES);
        self.outgoing = frame;
        sent.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Broken::Late,
            _ => Broken::Closed,
        })
    }

    /// Receives a message of at most `most` bytes, with the bytes behind it.
    pub fn receive<'a, M: Deserialize<'a>>(
        &'a mut self,
        most: usize,
        deadline: &mut impl Deadline,
    ) -> Result<(M, &'a [u8]), Broken> {
        let mut length = [0; 4];
        self.incoming.clear();
        self.fill(4, deadline)?;
        length.copy_from_slice(&self.incoming[..4]);
        let length = u32::from_le_bytes(length) as usize;
        if length > most {
            return Err(Broken::Rule(format!("a frame of {length} bytes; the limit is {most}")));
        }
        self.incoming.clear();
        self.incoming.shrink_to(KEPT_BYTES);
        self.fill(length, deadline)?;
        postcard::take_from_bytes(&self.incoming).map_err(|_| Broken::Rule("a malformed message".into()))
    }

    /// Takes so many bytes over into `incoming`. Memory grows with what has come, not with what was announced.
    fn fill(&mut self, bytes: usize, deadline: &mut impl Deadline) -> Result<(), Broken> {
        while self.incoming.len() < bytes {
            if self.taken == self.ahead.len() {
                self.read_ahead(deadline)?;
            }
            let there = &self.ahead[self.taken..];
            let piece = there.len().min(bytes - self.incoming.len());
            self.incoming.extend_from_slice(&there[..piece]);
            self.taken += piece;
        }
        Ok(())
    }

    fn read_ahead(&mut self, deadline: &mut impl Deadline) -> Result<(), Broken> {
        self.ahead.resize(READ_BYTES, 0);
        self.taken = 0;
        let read = loop {
            match self.stream.read(&mut self.ahead) {
                Ok(0) => break Err(Broken::Closed),
                Ok(bytes) => break Ok(bytes),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                        if let Some(broken) = deadline.over() {
                            break Err(broken);
                        }
                    }
                    _ => break Err(Broken::Closed),
                },
            }
        };
        self.ahead.truncate(*read.as_ref().unwrap_or(&0));
        read?;
        deadline.over().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    fn pair() -> (UnixStream, Frames<UnixStream>) {
        let (raw, own) = UnixStream::pair().unwrap();
        own.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        (raw, Frames::new(own))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(200)
    }

    #[test]
    fn frames_come_as_they_were_sent_however_they_are_cut() {
        let (raw, mut reader) = pair();
        let mut writer = Frames::new(raw);
        let texts: Vec<String> = [0, 1, 100, 70_000, 3].iter().map(|length| "x".repeat(*length)).collect();
        let sent = texts.clone();
        let thread = std::thread::spawn(move || {
            sent.iter().for_each(|text| writer.send(&text.len(), text.as_bytes()).unwrap());
        });
        for text in &texts {
            let (length, behind): (usize, &[u8]) = reader.receive(1 << 20, &mut soon()).unwrap();
            assert_eq!((length, behind), (text.len(), text.as_bytes()));
        }
        thread.join().unwrap();
        assert_eq!(reader.receive::<usize>(1 << 20, &mut soon()), Err(Broken::Closed));
    }

    #[test]
    fn what_is_announced_too_large_is_not_read() {
        let (mut raw, mut reader) = pair();
        raw.write_all(&u32::MAX.to_le_bytes()).unwrap();
        let Err(Broken::Rule(text)) = reader.receive::<u32>(1 << 20, &mut soon()) else { panic!() };
        assert_eq!(text, "a frame of 4294967295 bytes; the limit is 1048576");
    }

    #[test]
    fn half_a_frame_is_late_and_its_end_closed() {
        let (mut raw, mut reader) = pair();
        raw.write_all(&[100, 0, 0, 0, 1, 2, 3]).unwrap();
        assert_eq!(reader.receive::<u32>(1 << 20, &mut soon()), Err(Broken::Late));
        let (mut raw, mut reader) = pair();
        raw.write_all(&[100, 0, 0, 0, 1, 2, 3]).unwrap();
        drop(raw);
        assert_eq!(reader.receive::<u32>(1 << 20, &mut soon()), Err(Broken::Closed));
    }

    #[test]
    fn a_byte_now_and_then_does_not_put_the_deadline_off() {
        let (mut raw, mut reader) = pair();
        let thread = std::thread::spawn(move || {
            while raw.write_all(&[1]).is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let begun = Instant::now();
        assert_eq!(reader.receive::<u32>(usize::MAX, &mut soon()), Err(Broken::Late));
        assert!(begun.elapsed() < Duration::from_secs(5));
        drop(reader);
        thread.join().unwrap();
    }
}
