//! Finds nodes that one kernel can compute together, by structure. One file for each pattern.

mod attention;
mod cache_rows;
mod prefill;
mod projection;

pub(super) use attention::{Found, attentions};
pub(super) use cache_rows::cache_rows;
pub(super) use prefill::{Prefill, decompressions, prefills};
pub(super) use projection::{Projected, projections};
