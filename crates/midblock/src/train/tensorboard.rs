//! TensorBoard event files.
//!
//! A file is a sequence of records: length (u64), its checksum (u32), an `Event` in protobuf's encoding, its checksum (u32),
//! little endian. The checksum is CRC-32C, rotated right by 15 bits, plus 0xa282ead8. Used fields, by number: `Event`
//! {wall_time 1: double, step 2: int64, file_version 3: string, summary 5, session_log 7}, `Summary` {value 1}, `Value` {tag 1:
//! string, simple_value 2: float}, `SessionLog` {status 1: START = 1}. A run that goes on begins a file of its own with a
//! `START` at its step: TensorBoard then drops what earlier files hold from that step on. Source: tensorboard's `event.proto`
//! and `summary.proto`, tensorflow's `record_writer.h`.

use super::{DriftMetrics, Evaluation, Observer, Outlook, StepMetrics};
use crate::{Error, Result};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Writes one event file.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: File,
}

impl TensorBoard {
    /// Begins a file in `dir`, named after the time and the process.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let (seconds, process) = (wall_time() as u64, std::process::id());
        let path = dir.join(format!("events.out.tfevents.{seconds:010}.midblock.{process}"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::io("create", &path))?;
        let mut board = Self { path, file };
        board.event(0, 3, b"brain.Event:2")?;
        Ok(board)
    }

    /// Writes an event with one field besides time and step.
    fn event(&mut self, step: u64, field: u8, content: &[u8]) -> Result<()> {
        let mut event = vec![0x09]; // field 1, eight bytes
        event.extend(wall_time().to_le_bytes());
        event.push(0x10); // field 2, varint
        varint(step, &mut event);
        bytes(field, content, &mut event);
        self.file
            .write_all(&record(&event))
            .map_err(Error::io("write", &self.path))
    }

    fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut entry = Vec::new();
            bytes(1, tag.as_bytes(), &mut entry);
            entry.push(0x15); // field 2, four bytes
            entry.extend((*value as f32).to_le_bytes());
            bytes(1, &entry, &mut summary);
        }
        self.event(step, 5, &summary)
    }
}

impl Observer for TensorBoard {
    fn begin(&mut self, outlook: &Outlook) -> Result<()> {
        match outlook.done {
            0 => Ok(()),
            done => self.event(done + 1, 7, &[0x08, 0x01]), // status: START
        }
    }

    fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        let values = [
            ("train/loss", metrics.loss),
            ("train/lr", metrics.lr),
            ("train/gradient_norm", metrics.gradient_norm),
            ("train/epoch", metrics.epoch),
            ("speed/tokens_per_s", metrics.tokens_per_s),
        ];
        let objective = metrics.other_objective().map(|value| ("train/objective", value));
        let mut values: Vec<_> = values.into_iter().chain(objective).collect();
        if let Some(carrier) = &metrics.carrier {
            values.push(("carrier/lambda", carrier.lambda));
            values.push(("carrier/loss_ema", carrier.loss_ema));
            values.extend(carrier.limit.map(|limit| ("carrier/limit", limit)));
            values.push(("carrier/active", carrier.active as f64));
            values.push(("carrier/active_share", carrier.active as f64 / carrier.masks as f64));
        }
        self.scalars(metrics.step, &values)
    }

    fn evaluation(&mut self, evaluation: &Evaluation) -> Result<()> {
        self.scalars(evaluation.step, &[("eval/loss", evaluation.loss)])
    }

    fn drift(&mut self, metrics: &DriftMetrics) -> Result<()> {
        let summary = metrics.summary();
        let values = [
            ("drift/rotation", summary.map(|summary| summary.rotation)),
            ("drift/largest_angle_deg", summary.map(|summary| summary.largest_deg)),
            (
                "drift/relative_change",
                summary.and_then(|summary| summary.relative_change),
            ),
            ("drift/share_inside", summary.and_then(|summary| summary.share_inside)),
            ("drift/mean_cka", metrics.mean_cka()),
        ];
        let defined: Vec<_> = values
            .iter()
            .filter_map(|(tag, value)| Some((*tag, (*value)?)))
            .collect();
        self.scalars(metrics.step, &defined)
    }
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// Protobuf's integers: seven bits a byte, the lowest first.
fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field of text, bytes or an inner message.
fn bytes(field: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(field << 3 | 2);
    varint(content.len() as u64, out);
    out.extend(content);
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let checksum = |bytes: &[u8]| {
        crc32c::crc32c(bytes)
            .rotate_right(15)
            .wrapping_add(0xa282_ead8)
            .to_le_bytes()
    };
    [&length[..], &checksum(&length), data, &checksum(data)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checksums by tensorboard 2.21, `masked_crc32c`.
    #[test]
    fn a_record_has_both_checksums() {
        let expected = [
            3, 0, 0, 0, 0, 0, 0, 0, 176, 153, 73, 14, b'a', b'b', b'c', 110, 87, 241, 33,
        ];
        assert_eq!(record(b"abc"), expected);
    }

    /// The bytes of a whole event but for its time, as protobuf's own encoder writes them.
    #[test]
    fn an_event_is_protobuf() {
        let folder = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::create(folder.path()).unwrap();
        let start = fs::read(&board.path).unwrap().len();
        board.scalars(300, &[("eval/loss", 1.5)]).unwrap();
        let bytes = fs::read(&board.path).unwrap();
        let event = &bytes[start + 12..bytes.len() - 4];
        assert_eq!(event[0], 9);
        let expected = b"\x10\xac\x02\x2a\x12\x0a\x10\x0a\x09eval/loss\x15\x00\x00\xc0\x3f";
        assert_eq!(&event[9..], expected);
    }

    #[test]
    fn integers_have_seven_bits_a_byte() {
        for (value, expected) in [
            (0, vec![0]),
            (127, vec![127]),
            (128, vec![0x80, 1]),
            (300, vec![0xac, 2]),
        ] {
            let mut out = Vec::new();
            varint(value, &mut out);
            assert_eq!(out, expected);
        }
    }
}
