//! Checked access to the fields of a JSON object: each reader either gives a value in range or says what is wrong.

use serde_json::{Map, Value};

use super::error::{ConfigError, shortened};

/// A JSON object with the path that names it in errors.
#[derive(Clone, Copy)]
pub(super) struct Section<'a> {
    pub file: &'a str,
    /// Empty, or the enclosing fields with a dot after each.
    pub path: &'a str,
    pub map: &'a Map<String, Value>,
}

/// Parses the text and checks that it is an object.
pub(super) fn parse_object(text: &str, file: &str) -> Result<Map<String, Value>, ConfigError> {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(ConfigError::Field {
            file: file.to_owned(),
            field: "the whole file".to_owned(),
            found: shown(&other),
            allowed: "a JSON object".to_owned(),
        }),
        Err(err) => Err(ConfigError::Json {
            file: file.to_owned(),
            line: err.line(),
            column: err.column(),
            near: text_before(text, err.line(), err.column()),
            reason: err.to_string(),
        }),
    }
}

/// The end of the line up to a fault (line and byte column from 1).
fn text_before(text: &str, line: usize, column: usize) -> String {
    const LONGEST: usize = 48;
    let Some(line) = line.checked_sub(1).and_then(|index| text.lines().nth(index)) else {
        return String::new();
    };
    let mut end = column.min(line.len());
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    let upto = line[..end].trim();
    let skip = upto.chars().count().saturating_sub(LONGEST);
    upto.chars().skip(skip).collect()
}

fn shown(value: &Value) -> String {
    shortened(&value.to_string())
}

impl<'a> Section<'a> {
    /// The value of a field; `None` where it is absent or null.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// The error for a field's value.
    pub fn refuse(&self, field: &str, found: &Value, allowed: impl Into<String>) -> ConfigError {
        ConfigError::Field {
            file: self.file.to_owned(),
            field: format!("{}{field}", self.path),
            found: shown(found),
            allowed: allowed.into(),
        }
    }

    /// The error for something known but not supported.
    pub fn unsupported(&self, what: impl Into<String>, supported: impl Into<String>) -> ConfigError {
        ConfigError::Unsupported {
            file: self.file.to_owned(),
            what: what.into(),
            supported: supported.into(),
        }
    }

    /// Refuses an explicit null where null means nothing.
    fn no_null(&self, field: &str, allowed: &str) -> Result<(), ConfigError> {
        match self.map.get(field) {
            Some(value) if value.is_null() => Err(self.refuse(field, value, allowed)),
            _ => Ok(()),
        }
    }

    /// An integer in `least..=most`, or `None` where the field is absent. Null is refused.
    pub fn integer(&self, field: &str, least: usize, most: usize) -> Result<Option<usize>, ConfigError> {
        self.no_null(field, &format!("an integer from {least} to {most}"))?;
        self.integer_or_null(field, least, most)
    }

    /// An integer in `least..=most`, or `None` where the field is absent or null.
    pub fn integer_or_null(&self, field: &str, least: usize, most: usize) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        let found = value.as_u64().and_then(|number| usize::try_from(number).ok());
        match found {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(self.refuse(field, value, format!("an integer from {least} to {most}"))),
        }
    }

    /// A number for which `ok` holds, or `None` where the field is absent or null.
    pub fn number(&self, field: &str, allowed: &str, ok: impl Fn(f64) -> bool) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if number.is_finite() && ok(number) => Ok(Some(number)),
            _ => Err(self.refuse(field, value, allowed)),
        }
    }

    /// A boolean, or `None` where the field is absent. Null is refused.
    pub fn boolean(&self, field: &str) -> Result<Option<bool>, ConfigError> {
        const ALLOWED: &str = "true or false";
        self.no_null(field, ALLOWED)?;
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        value
            .as_bool()
            .map(Some)
            .ok_or_else(|| self.refuse(field, value, ALLOWED))
    }

    /// A string, or `None` where the field is absent or null.
    pub fn string(&self, field: &str) -> Result<Option<&'a str>, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        value
            .as_str()
            .map(Some)
            .ok_or_else(|| self.refuse(field, value, "a string"))
    }

    /// An object, or `None` where the field is absent or null.
    pub fn object(&self, field: &str) -> Result<Option<&'a Map<String, Value>>, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        value
            .as_object()
            .map(Some)
            .ok_or_else(|| self.refuse(field, value, "an object or null"))
    }
}
