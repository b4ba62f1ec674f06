//! Fused Multi-head Latent Attention for any shape: MlaLayer, PagedKvCache, DecodeAttention.
