//! A data set in TOML: `"NAME=SOURCE"` or `{ name = "NAME", source = "SOURCE" }`, one or a list.

use crate::tokens::data::DataSpec;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, value::MapAccessDeserializer},
};
use std::fmt;

/// A data set by name, with its file, folder or hub id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataSource(pub DataSpec);

/// The table form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    source: String,
}

impl Serialize for DataSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}={}", self.0.name, self.0.source))
    }
}

impl<'de> Deserialize<'de> for DataSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = DataSource;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("\"NAME=SOURCE\" or { name, source }")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<DataSource, E> {
                text.parse().map(DataSource).map_err(E::custom)
            }

            fn visit_map<M: de::MapAccess<'de>>(self, map: M) -> Result<DataSource, M::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                self.visit_str(&format!("{}={}", table.name, table.source)) // the same checks
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// One data set or a list of them.
pub(super) mod one_or_many {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(
        sources: &[DataSource],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        sources.serialize(serializer)
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<DataSource>, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Vec<DataSource>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("\"NAME=SOURCE\", { name, source } or a list of such")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                DataSource::deserialize(de::value::StrDeserializer::new(text)).map(|one| vec![one])
            }

            fn visit_map<M: de::MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
                DataSource::deserialize(MapAccessDeserializer::new(map)).map(|one| vec![one])
            }

            fn visit_seq<S: de::SeqAccess<'de>>(self, sequence: S) -> Result<Self::Value, S::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(sequence))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
