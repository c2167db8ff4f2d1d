//! TensorBoard event files: what `tensorboard --logdir` draws a run's curves from.
//!
//! A file is a row of `TFRecord`s, each of which holds one `Event` in protobuf's encoding.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err::{File, OpenOptions};

/// An event file that is being written.
pub(crate) struct EventFile {
    file: File,
}

impl EventFile {
    /// Begins a new file in an existing folder, for a run that has done `iteration` steps.
    ///
    /// What older files of the folder say of later steps is dropped from the curves: TensorBoard
    /// takes a `SessionLog` with status `START` for a restart, and purges all it has read from that
    /// event's step on (`_CheckForRestartAndMaybePurge` in its `plugin_event_accumulator.py`). It
    /// takes a run's first `START` for the run's own beginning and purges nothing, so every file
    /// has one. Its faster loader heeds none of them: there a tag's older values go when the tag
    /// gets a value of the same or an earlier step (`data/server/run.rs`).
    pub(crate) fn create(folder: &Path, iteration: u64) -> std::io::Result<Self> {
        let now = since_epoch();
        let file = create_file(folder, now.as_secs())?;
        let mut events = Self { file };
        events.write(&file_version(now))?;
        events.write(&session_start(now, iteration + 1))?;
        Ok(events)
    }

    /// Writes values of one step, each under its tag, as `f32`. They reach the file at once.
    pub(crate) fn scalars(
        &mut self,
        iteration: u64,
        values: &[(&str, f64)],
    ) -> std::io::Result<()> {
        self.write(&scalars(since_epoch(), iteration, values))
    }

    fn write(&mut self, event: &Message) -> std::io::Result<()> {
        self.file.write_all(&record(&event.encoded))?;
        self.file.flush()
    }
}

/// Creates the file of a start at some second since 1970, or of the next second that has none:
/// TensorBoard reads a folder's files in the order of their names.
fn create_file(folder: &Path, mut seconds: u64) -> std::io::Result<File> {
    loop {
        let path = folder.join(format!("events.out.tfevents.{seconds:010}.retinanet"));
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => seconds += 1,
            file => return file,
        }
    }
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// An `Event` with its first two fields: the time in seconds since 1970, and the step
/// (`tensorflow/core/util/event.proto`).
fn event(time: Duration, step: u64) -> Message {
    Message::default()
        .double(1, time.as_secs_f64())
        .varint(2, step)
}

/// The event that every file begins with; it is of no step.
fn file_version(time: Duration) -> Message {
    Message::default()
        .double(1, time.as_secs_f64())
        .bytes(3, b"brain.Event:2")
}

/// The event after which older files count up to `step` only, `step` itself left out.
fn session_start(time: Duration, step: u64) -> Message {
    const START: u64 = 1;
    let session_log = Message::default().varint(1, START);
    event(time, step).bytes(7, &session_log.encoded)
}

/// An event with a `Summary` of one `Value` a scalar (`tensorflow/core/framework/summary.proto`).
fn scalars(time: Duration, step: u64, values: &[(&str, f64)]) -> Message {
    let summary = values
        .iter()
        .fold(Message::default(), |summary, &(tag, scalar)| {
            let value = Message::default()
                .bytes(1, tag.as_bytes())
                .float(2, scalar as f32);
            summary.bytes(1, &value.encoded)
        });
    event(time, step).bytes(5, &summary.encoded)
}

/// A `TFRecord`: length, checksum of the length, data, checksum of the data, all little-endian
/// (TensorFlow's `tsl/lib/io/record_writer.h`).
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc32c(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc32c(data).to_le_bytes());
    record
}

/// CRC-32C, turned and moved so that it may itself stand in data that is checked by CRC-32C
/// (`Mask` in TensorFlow's `tsl/lib/hash/crc32c.h`).
fn masked_crc32c(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// A message in protobuf's encoding (<https://protobuf.dev/programming-guides/encoding>), to which
/// fields are added by their numbers.
#[derive(Default)]
struct Message {
    encoded: Vec<u8>,
}

impl Message {
    fn varint(mut self, field: u64, value: u64) -> Self {
        self.key(field, 0);
        self.push_varint(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Self {
        self.key(field, 1);
        self.encoded.extend(value.to_le_bytes());
        self
    }

    /// A string, or a message in the message.
    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.key(field, 2);
        self.push_varint(value.len() as u64);
        self.encoded.extend(value);
        self
    }

    fn float(mut self, field: u64, value: f32) -> Self {
        self.key(field, 5);
        self.encoded.extend(value.to_le_bytes());
        self
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.push_varint(field << 3 | wire_type);
    }

    /// Seven bits a byte, the lowest first; all bytes but the last have the top bit set.
    fn push_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.encoded.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.encoded.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_millis(1_700_000_000_250);

    /// The bytes that `tensorboard` 2.21's own `RecordWriter` makes of the same events.
    const FILE_VERSION: &[u8] = b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22\
        \x09\0\0\x10\x40\xfc\x54\xd9\x41\x1a\x0dbrain.Event:2\x33\x8d\x2f\xe9";
    const START_AT_301: &[u8] = b"\x10\0\0\0\0\0\0\0\x95\xfb\xfe\x18\
        \x09\0\0\x10\x40\xfc\x54\xd9\x41\x10\xad\x02\x3a\x02\x08\x01\xcb\x79\xb9\x3b";
    const SCALARS_AT_90000: &[u8] = b"\x31\0\0\0\0\0\0\0\x9d\x83\x83\xe9\
        \x09\0\0\x10\x40\xfc\x54\xd9\x41\x10\x90\xbf\x05\x2a\x22\
        \x0a\x11\x0a\x0atrain/loss\x15\xcd\xcc\xcc\x3d\
        \x0a\x0d\x0a\x06val/AP\x15\0\0\0\0\x46\x2c\x5e\xdb";

    #[test]
    fn events_are_tensorboards_to_the_byte() {
        let scalars = scalars(TIME, 90_000, &[("train/loss", 0.1), ("val/AP", 0.0)]);
        assert_eq!(record(&file_version(TIME).encoded), FILE_VERSION);
        assert_eq!(record(&session_start(TIME, 301).encoded), START_AT_301);
        assert_eq!(record(&scalars.encoded), SCALARS_AT_90000);
    }

    #[test]
    fn all_is_in_the_file_at_once_and_a_resumed_run_starts_at_its_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path(), 300).unwrap();
        events
            .scalars(90_000, &[("train/loss", 0.1), ("val/AP", 0.0)])
            .unwrap();
        let written = fs_err::read(events.file.path()).unwrap();
        let (version, rest) = written.split_at(FILE_VERSION.len());
        let (start, scalars) = rest.split_at(START_AT_301.len());
        // The clock, and with it the checksum, differs.
        for (is, expected) in [
            (version, FILE_VERSION),
            (start, START_AT_301),
            (scalars, SCALARS_AT_90000),
        ] {
            assert_eq!(is.len(), expected.len());
            assert_eq!(is[..13], expected[..13]);
            assert_eq!(is[21..is.len() - 4], expected[21..expected.len() - 4]);
        }
    }

    #[test]
    fn a_file_that_is_there_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<_> = (0..3)
            .map(|_| create_file(folder.path(), 42).unwrap().path().to_owned())
            .map(|path| path.file_name().unwrap().to_owned())
            .collect();
        assert_eq!(
            names,
            [
                "events.out.tfevents.0000000042.retinanet",
                "events.out.tfevents.0000000043.retinanet",
                "events.out.tfevents.0000000044.retinanet",
            ]
        );
    }
}
