//! Aligned f32 memory: the buffers of the CPU backend, and scratch that each thread keeps between operations.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

/// A cache line, also the widest vector register: no vector of a buffer's start straddles two lines.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Activations on the CPU: f32, contiguous, aligned to 64 bytes. Reads and writes as a slice.
#[derive(Clone, Default)]
pub struct CpuBuffer {
    lines: Vec<Line>,
    len: usize,
}

impl CpuBuffer {
    pub(super) fn zeros(len: usize) -> Self {
        let lines = vec![Line([0.0; 16]); len.div_ceil(16)];
        Self { lines, len }
    }

    /// Keeps the memory when shrinking, so that growing back costs nothing.
    pub(super) fn resize(&mut self, len: usize) {
        let lines = len.div_ceil(16).max(self.lines.len());
        self.lines.resize(lines, Line([0.0; 16]));
        self.len = len;
    }
}

impl Deref for CpuBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the lines are at least `len` initialised f32, contiguous because a line has no padding (64 bytes).
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for CpuBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl std::fmt::Debug for CpuBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

thread_local! {
    /// Scratch that is not in use. A stack, because a thread that waits inside an operation may be given another task.
    static SCRATCH: RefCell<Vec<CpuBuffer>> = const { RefCell::new(Vec::new()) };
}

/// Runs `body` with `len` f32 of unspecified content, kept for this thread's next call: an operation neither asks the system
/// for memory nor touches fresh pages once it has run at its largest size.
pub(super) fn with_scratch<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len {
        buffer = CpuBuffer::zeros(len);
    }
    let result = body(&mut buffer[..len]);
    SCRATCH.with_borrow_mut(|free| free.push(buffer));
    result
}

/// The first `len` elements, which leave `memory`.
pub(super) fn split_off<'m>(memory: &mut &'m mut [f32], len: usize) -> &'m mut [f32] {
    let (first, rest) = std::mem::take(memory).split_at_mut(len);
    *memory = rest;
    first
}
