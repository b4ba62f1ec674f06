//! Finds nodes that one kernel can compute together, by structure. One file for each pattern.

mod attention;
mod cache_rows;

pub(super) use attention::{Found, attentions};
pub(super) use cache_rows::cache_rows;
