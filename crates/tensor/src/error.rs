//! What can go wrong.

use std::io;
use std::path::PathBuf;

use crate::DType;

/// A result whose error is a [`TensorError`].
pub type Result<T> = std::result::Result<T, TensorError>;

/// Everything this crate reports. Sizes are in elements unless a field says bytes.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// Text that is no element type's name.
    #[error("unknown element type {found:?}: expected f64, f32, f16, bf16, i32 or i64")]
    UnknownDType {
        /// The text.
        found: String,
    },
    /// More elements than this machine can address.
    #[error("shape {shape:?} has more elements than can be addressed")]
    ShapeTooLarge {
        /// The shape asked for.
        shape: Vec<usize>,
    },
    /// The allocator refused.
    #[error("cannot allocate {bytes} bytes for a tensor of shape {shape:?}")]
    OutOfMemory {
        /// The shape asked for.
        shape: Vec<usize>,
        /// The bytes asked for.
        bytes: usize,
    },
    /// A slice of values whose length is not the shape's.
    #[error("shape {shape:?} takes {expected} elements, got {got}")]
    ElementCount {
        /// The shape asked for.
        shape: Vec<usize>,
        /// The shape's element count.
        expected: usize,
        /// Elements given.
        got: usize,
    },
    /// A byte buffer whose length is not the shape's.
    #[error("{dtype} tensor of shape {shape:?} takes {expected} bytes, got {got}")]
    ByteCount {
        /// The element type asked for.
        dtype: DType,
        /// The shape asked for.
        shape: Vec<usize>,
        /// Bytes the shape takes.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// A typed view of a tensor of another type.
    #[error("expected elements of type {expected}, got {got}")]
    DTypeMismatch {
        /// The type or types the call takes.
        expected: &'static str,
        /// The tensor's type.
        got: DType,
    },
    /// An integer that does not fit 32 bits.
    #[error("element {index} is {value}: expected a value that fits i32")]
    IntegerRange {
        /// Row-major position of the element.
        index: usize,
        /// Its value.
        value: i64,
    },
    /// A reshape that changes the element count.
    #[error("cannot reshape {from:?} ({from_numel} elements) to {to:?} ({to_numel} elements)")]
    Reshape {
        /// The tensor's shape.
        from: Vec<usize>,
        /// Its element count.
        from_numel: usize,
        /// The shape asked for.
        to: Vec<usize>,
        /// The element count of that.
        to_numel: usize,
    },
    /// An axis the tensor does not have.
    #[error("axis {axis} of shape {shape:?}: expected an axis below {}", shape.len())]
    Axis {
        /// The axis asked for.
        axis: usize,
        /// The tensor's shape.
        shape: Vec<usize>,
    },
    /// A range that is backwards or ends past its axis.
    #[error("range {start}..{end} on axis {axis} of shape {shape:?} is not inside the axis")]
    SliceRange {
        /// The axis sliced.
        axis: usize,
        /// First index asked for.
        start: usize,
        /// One past the last index asked for.
        end: usize,
        /// The tensor's shape.
        shape: Vec<usize>,
    },
    /// Two tensors that should have one shape.
    #[error("shapes differ: expected {expected:?}, got {got:?}")]
    ShapeMismatch {
        /// The reference's shape.
        expected: Vec<usize>,
        /// The result's shape.
        got: Vec<usize>,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: a verb, such as "open".
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A folder, pipe or device where a regular file was expected.
    #[error("{}: expected a regular file", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// A file too large to read as a header or an index.
    #[error("{}: {found} bytes, at most {allowed} are allowed", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        found: u64,
        /// The most that are read.
        allowed: u64,
    },
    /// A file too short for safetensors' 8-byte header length.
    #[error("{}: truncated: a safetensors file has at least {expected} bytes, got {got}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The fewest bytes a file has.
        expected: u64,
        /// The bytes it has.
        got: u64,
    },
    /// A header longer than the file or than the format's limit.
    #[error("{}: header length {found}: at most {allowed} bytes are possible here", path.display())]
    HeaderLength {
        /// The file.
        path: PathBuf,
        /// The length it states, in bytes.
        found: u64,
        /// The most it may be: the rest of the file, or 100,000,000.
        allowed: u64,
    },
    /// A header that is no valid safetensors header.
    #[error("{}: bad safetensors header", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Why it was refused.
        source: serde_json::Error,
    },
    /// Tensor data cut short, or bytes after it.
    #[error("{}: the header describes {expected} bytes of tensor data, the file has {got}", path.display())]
    DataLength {
        /// The file.
        path: PathBuf,
        /// Bytes the header describes.
        expected: u64,
        /// Bytes after the header.
        got: u64,
    },
    /// A tensor that is not there.
    #[error("{}: no tensor {name:?}{}", path.display(), near_names(near))]
    MissingTensor {
        /// The file, or the checkpoint's folder.
        path: PathBuf,
        /// The name asked for.
        name: String,
        /// The names most like it, best first.
        near: Vec<String>,
    },
    /// A tensor of a type this crate has no [`DType`] for.
    #[error("{}: tensor {name:?} has element type {found}: expected F64, F32, F16, BF16, I32 or I64", path.display())]
    UnsupportedDType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type, as the file spells it.
        found: String,
    },
    /// A tensor of another shape than the caller needs.
    #[error("{}: tensor {name:?}: expected shape {expected:?}, got {got:?}", path.display())]
    TensorShape {
        /// The file, or the checkpoint's folder.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape asked for.
        expected: Vec<usize>,
        /// The shape it has.
        got: Vec<usize>,
    },
    /// A tensor in a file that cannot be held, for the reason in `source`.
    #[error("{}: tensor {name:?}", path.display())]
    TensorInFile {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Why.
        source: Box<TensorError>,
    },
    /// A folder with neither file a checkpoint starts from.
    #[error("{}: no checkpoint: expected model.safetensors or model.safetensors.index.json in this folder", path.display())]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
    },
    /// An index that is not valid JSON or has no `weight_map` of strings.
    #[error("{}: bad checkpoint index", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// Why it was refused.
        source: serde_json::Error,
    },
    /// A shard outside the checkpoint's folder.
    #[error("{}: weight_map places {tensor:?} in {found:?}: expected a file inside the folder, as a relative path without \"..\"", path.display())]
    ShardName {
        /// The index file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard's name.
        found: String,
    },
    /// A name that cannot be written to a file.
    #[error("{}: cannot write a tensor named {name:?}: names are unique and not \"__metadata__\"", path.display())]
    TensorName {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// More bytes of tensors than one file's offsets can count.
    #[error("{}: the tensors do not fit one file", path.display())]
    FileTooLong {
        /// The file.
        path: PathBuf,
    },
}

fn near_names(near: &[String]) -> String {
    match near {
        [] => String::new(),
        _ => format!("; near names: {}", near.join(", ")),
    }
}
