//! The zstd library with a whole baseline as prefix: one frame, long distance matching, a window that reaches over all of it. What
//! zstd can do at best; its command line is of another version on most systems.

use std::{fs, io::Write as _, path::Path};

use anyhow::{Context, Result, anyhow};
use nix::sys::resource::UsageWho;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, compress_bound, get_error_name, get_frame_content_size};

use crate::child::Used;

/// The largest that the library takes.
const MAX_WINDOW_LOG: u32 = 31;

fn window_log(bytes: usize) -> u32 {
    (usize::BITS - bytes.leading_zeros()).clamp(20, MAX_WINDOW_LOG)
}

fn error(code: usize) -> anyhow::Error {
    anyhow!("zstd: {}", get_error_name(code))
}

/// One frame of `new`, with `old` as its prefix.
pub(crate) fn compress(old: &[u8], new: &[u8], level: i32) -> Result<Vec<u8>> {
    let mut context = CCtx::create();
    for parameter in [
        CParameter::CompressionLevel(level),
        CParameter::WindowLog(window_log(old.len() + new.len())),
        CParameter::EnableLongDistanceMatching(true),
    ] {
        context.set_parameter(parameter).map_err(error)?;
    }
    context.ref_prefix(old).map_err(error)?;
    let mut out = Vec::with_capacity(compress_bound(new.len()));
    context.compress2(&mut out, new).map_err(error)?;
    Ok(out)
}

/// What [`compress`] was given.
pub(crate) fn decompress(old: &[u8], encoded: &[u8]) -> Result<Vec<u8>> {
    let size = get_frame_content_size(encoded).ok().flatten().context("a frame that says its size")?;
    let mut context = DCtx::create();
    context.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).map_err(error)?;
    context.ref_prefix(old).map_err(error)?;
    let mut out = Vec::with_capacity(usize::try_from(size)?);
    context.decompress(&mut out, encoded).map_err(error)?;
    Ok(out)
}

/// One file to another; processor time and time that reading the inputs took.
///
/// A program that maps them spends next to nothing on that, so it does not count.
pub(crate) fn on_files(decode: bool, level: i32, baseline: &Path, file: &Path, out: &Path) -> Result<(f64, f64)> {
    let before = Used::now(UsageWho::RUSAGE_SELF)?;
    let (old, input) = (fs::read(baseline)?, fs::read(file)?);
    let reading = Used::now(UsageWho::RUSAGE_SELF)?.since(before);
    let made = if decode { decompress(&old, &input)? } else { compress(&old, &input, level)? };
    fs::File::create(out)?.write_all(&made)?;
    Ok(reading)
}
