//! A sweep's table as CSV, Markdown, words, page and picture.

mod page;
mod picture;
mod tables;
mod words;

pub use page::{render, write};
pub use picture::picture;
pub use tables::{csv, markdown, terminal};
pub use words::{block_ranges, findings};

#[cfg(test)]
mod tests;
