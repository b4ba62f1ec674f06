//! JSON values that know their place in the file, so that every error can name it.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::LaunchFileError;

/// A JSON value. Unlike serde_json's, an object that has a field twice is an error.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    String(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Integer(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut object: Vec<(String, Json)> = Vec::new();
        while let Some((name, value)) = items.next_entry::<String, Json>()? {
            // Objects of a launch file are small: a hostile one with many fields must not cost the square of them.
            if object.len() >= MAX_FIELDS {
                return Err(A::Error::custom(format_args!("more than {MAX_FIELDS} fields")));
            }
            if object.iter().any(|(other, _)| *other == name) {
                return Err(A::Error::custom(format_args!("field {name:?} twice")));
            }
            object.push((name, value));
        }
        Ok(Json::Object(object))
    }
}

/// Most fields of one object.
const MAX_FIELDS: usize = 64;
/// Most characters of a value that a message shows.
const MAX_SHOWN: usize = 60;

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => write!(f, "{value}"),
            Json::Integer(value) => write!(f, "{value}"),
            Json::Float(value) => write!(f, "{value:?}"),
            Json::String(value) => write!(f, "{:?}", shortened(value)),
            Json::Array(items) if items.is_empty() => f.write_str("[]"),
            Json::Array(items) if items.len() > 4 => write!(f, "an array of {}", items.len()),
            Json::Array(items) => {
                let items: Vec<String> = items.iter().map(Json::brief).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Json::Object(_) => f.write_str(&self.brief()),
        }
    }
}

impl Json {
    /// Without what lies inside of it.
    fn brief(&self) -> String {
        match self {
            Json::Array(_) => "[...]".to_owned(),
            Json::Object(fields) if fields.is_empty() => "{}".to_owned(),
            Json::Object(_) => "{...}".to_owned(),
            scalar => scalar.to_string(),
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    pub file: &'a Path,
    /// As in `args[3].shape`; empty for the whole file.
    pub name: String,
    pub value: &'a Json,
}

impl<'a> Field<'a> {
    /// That the value is not what it should be.
    pub(super) fn unexpected(&self, expected: impl Into<String>) -> LaunchFileError {
        self.wrong(self.value.to_string(), expected)
    }

    /// Likewise, with what was found in other words.
    pub(super) fn wrong(&self, found: impl Into<String>, expected: impl Into<String>) -> LaunchFileError {
        let name = if self.name.is_empty() { "the file" } else { &self.name };
        LaunchFileError::Field {
            path: self.file.to_owned(),
            field: name.to_owned(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    fn inner(&self, name: String, value: &'a Json) -> Field<'a> {
        let file = self.file;
        Field { file, name, value }
    }

    fn path_of(&self, field: &str) -> String {
        let field = shortened(field).escape_debug().to_string();
        match self.name.as_str() {
            "" => field,
            outer => format!("{outer}.{field}"),
        }
    }

    /// The fields of an object that has no others than these.
    pub(super) fn object(&self, allowed: &[&str]) -> Result<Object<'a>, LaunchFileError> {
        let Json::Object(fields) = self.value else {
            return Err(self.unexpected(format!("an object with {}", allowed.join(", "))));
        };
        if let Some((unknown, _)) = fields.iter().find(|(name, _)| !allowed.contains(&name.as_str())) {
            return Err(LaunchFileError::UnknownField {
                path: self.file.to_owned(),
                field: self.path_of(unknown),
                allowed: allowed.join(", "),
            });
        }
        Ok(Object {
            field: self.clone(),
            fields,
        })
    }

    pub(super) fn array(&self, expected: &str) -> Result<Vec<Field<'a>>, LaunchFileError> {
        let Json::Array(items) = self.value else {
            return Err(self.unexpected(expected));
        };
        let item = |(index, value)| self.inner(format!("{}[{index}]", self.name), value);
        Ok(items.iter().enumerate().map(item).collect())
    }

    pub(super) fn string(&self, expected: &str) -> Result<&'a str, LaunchFileError> {
        match self.value {
            Json::String(text) if !text.is_empty() => Ok(text),
            _ => Err(self.unexpected(expected)),
        }
    }

    pub(super) fn integer(&self, from: i128, to: i128) -> Result<i128, LaunchFileError> {
        match self.value {
            Json::Integer(value) if (from..=to).contains(value) => Ok(*value),
            _ => Err(self.unexpected(format!("a whole number from {from} to {to}"))),
        }
    }
}

/// An object's fields.
#[derive(Clone, Debug)]
pub(super) struct Object<'a> {
    pub field: Field<'a>,
    fields: &'a [(String, Json)],
}

impl<'a> Object<'a> {
    pub(super) fn get(&self, name: &str) -> Option<Field<'a>> {
        let (_, value) = self.fields.iter().find(|(other, _)| other == name)?;
        Some(self.field.inner(self.field.path_of(name), value))
    }

    pub(super) fn required(&self, name: &str, expected: &str) -> Result<Field<'a>, LaunchFileError> {
        self.get(name).ok_or_else(|| LaunchFileError::MissingField {
            path: self.field.file.to_owned(),
            field: self.field.path_of(name),
            expected: expected.to_owned(),
        })
    }

    /// The fields' names, as they stand in the file.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.fields.iter().map(|(name, _)| name.as_str())
    }
}
