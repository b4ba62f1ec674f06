//! What stands in a launch file, before any of the files that it names is opened.

use std::path::{Path, PathBuf};

use super::element::ElementType;
use super::json::{Field, Json, Object};
use super::{LaunchFileError, scalar};
use crate::machine::LaunchConfig;

/// A launch file's fields.
#[derive(Debug)]
pub(super) struct Description<'a> {
    pub ptx: PathBuf,
    pub entry: String,
    pub config: LaunchConfig,
    pub args: Vec<Arg<'a>>,
    pub reference: Option<ReferenceFile<'a>>,
}

/// An argument. Fields that name tensors are looked up later.
#[derive(Debug)]
pub(super) struct Arg<'a> {
    pub field: Field<'a>,
    pub kind: ArgKind<'a>,
}

#[derive(Debug)]
pub(super) enum ArgKind<'a> {
    Tensor(Field<'a>),
    Inout(Field<'a>),
    Output(OutputArg<'a>),
    /// A scalar's type and bytes.
    Scalar(&'static str, Vec<u8>),
}

/// An output as the launch file has it.
#[derive(Debug)]
pub(super) struct OutputArg<'a> {
    pub name: Field<'a>,
    pub element: ElementType,
    pub extents: Vec<usize>,
    pub shape: Field<'a>,
}

/// Where the expected outputs are.
#[derive(Debug)]
pub(super) struct ReferenceFile<'a> {
    pub file: Field<'a>,
    pub rel_l2: f64,
}

const FIELDS: [&str; 7] = ["ptx", "entry", "grid", "block", "dynamic_shared", "args", "reference"];
/// What an argument can be.
const KINDS: [&str; 5] = ["tensor", "inout", "output", "null", "tensor_map"];

pub(super) fn parse<'a>(file: &'a Path, json: &'a Json) -> Result<Description<'a>, LaunchFileError> {
    let name = String::new();
    let value = json;
    let all = Field { file, name, value }.object(&FIELDS)?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let path = "the path of a PTX file";
    let entry = "the name of a kernel";
    let args = "an array of arguments";
    let args = all.required("args", args)?.array(args)?;
    Ok(Description {
        ptx: folder.join(all.required("ptx", path)?.string(path)?),
        entry: all.required("entry", entry)?.string(entry)?.to_owned(),
        config: LaunchConfig {
            grid: extents(&all, "grid")?,
            block: extents(&all, "block")?,
            dynamic_shared: dynamic_shared(&all)?,
        },
        args: args.into_iter().map(argument).collect::<Result<_, _>>()?,
        reference: all.get("reference").map(|field| reference(&field)).transpose()?,
    })
}

fn extents(all: &Object<'_>, name: &str) -> Result<[u32; 3], LaunchFileError> {
    let expected = "an array of three whole numbers from 1 on";
    let field = all.required(name, expected)?;
    let items = field.array(expected)?;
    let [x, y, z] = items.as_slice() else {
        return Err(field.unexpected(expected));
    };
    let extent = |field: &Field<'_>| field.integer(1, u32::MAX.into()).map(|value| value as u32);
    Ok([extent(x)?, extent(y)?, extent(z)?])
}

fn dynamic_shared(all: &Object<'_>) -> Result<u32, LaunchFileError> {
    let field = all.get("dynamic_shared");
    field.map_or(Ok(0), |field| {
        field.integer(0, u32::MAX.into()).map(|value| value as u32)
    })
}

fn argument(field: Field<'_>) -> Result<Arg<'_>, LaunchFileError> {
    let kinds: Vec<&str> = KINDS.into_iter().chain(scalar::NAMES).collect();
    let fields: Vec<&str> = kinds.iter().copied().chain(["dtype", "shape"]).collect();
    let object = field.object(&fields)?;
    let mut found = object.names().filter(|name| kinds.contains(name));
    let (Some(kind), None) = (found.next(), found.next()) else {
        let found: Vec<&str> = object.names().collect();
        let found = format!("an object with [{}]", found.join(", "));
        return Err(field.wrong(found, format!("exactly one of {}", kinds.join(", "))));
    };
    let allowed: &[&str] = match kind {
        "output" => &["output", "dtype", "shape"],
        _ => &[kind],
    };
    let object = field.object(allowed)?;
    let value = object.required(kind, "a value")?;
    let kind = match kind {
        "tensor" => ArgKind::Tensor(value),
        "inout" => ArgKind::Inout(value),
        "output" => output(&object, &value)?,
        "null" => null(&value)?,
        "tensor_map" => {
            return Err(LaunchFileError::NotImplemented {
                path: value.file.to_owned(),
                field: value.name,
                what: "tensor maps of TMA",
            });
        }
        name => scalar_argument(name, &value)?,
    };
    Ok(Arg { field, kind })
}

fn output<'a>(object: &Object<'a>, name: &Field<'a>) -> Result<ArgKind<'a>, LaunchFileError> {
    let one_of = format!("one of {}", ElementType::names());
    let dtype = object.required("dtype", &one_of)?;
    let element = ElementType::parse(dtype.string(&one_of)?).ok_or_else(|| dtype.unexpected(one_of))?;
    let expected = "an array of whole numbers";
    let shape = object.required("shape", expected)?;
    let extent = |field: Field<'_>| field.integer(0, 1 << 48).map(|value| value as usize);
    let extents = shape.array(expected)?.into_iter().map(extent);
    Ok(ArgKind::Output(OutputArg {
        name: name.clone(),
        element,
        extents: extents.collect::<Result<_, _>>()?,
        shape,
    }))
}

/// The number says nothing, but it must be one.
fn null<'a>(value: &Field<'a>) -> Result<ArgKind<'a>, LaunchFileError> {
    match value.value {
        Json::Integer(_) | Json::Float(_) => Ok(ArgKind::Scalar("null", vec![0; 8])),
        _ => Err(value.unexpected("0")),
    }
}

fn scalar_argument<'a>(name: &str, value: &Field<'a>) -> Result<ArgKind<'a>, LaunchFileError> {
    let element = ElementType::parse(name).ok_or_else(|| value.unexpected(ElementType::names()))?;
    Ok(ArgKind::Scalar(element.name(), scalar::encode(element, value)?))
}

fn reference<'a>(field: &Field<'a>) -> Result<ReferenceFile<'a>, LaunchFileError> {
    let object = field.object(&["file", "rel_l2"])?;
    let expected = "a number from 0 on";
    let rel_l2 = object.required("rel_l2", expected)?;
    let value = match rel_l2.value {
        Json::Integer(value) => *value as f64,
        Json::Float(value) => *value,
        _ => return Err(rel_l2.unexpected(expected)),
    };
    if value < 0.0 {
        return Err(rel_l2.unexpected(expected));
    }
    Ok(ReferenceFile {
        file: object.required("file", "the path of a safetensors file")?,
        rel_l2: value,
    })
}
