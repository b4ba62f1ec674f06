//! Finds nodes that one kernel can compute together, by structure. One file for each pattern.

mod attention;
mod cache_rows;
mod epilogue;
mod prefill;
mod projection;
mod up_projection;

pub(super) use attention::{Found, attentions};
pub(super) use cache_rows::cache_rows;
pub(super) use epilogue::epilogues;
pub(super) use prefill::{Prefill, decompressions, prefills};
pub(super) use projection::{Projected, projections};
pub(super) use up_projection::{UpProjected, up_projections};

#[cfg(test)]
mod tests;
