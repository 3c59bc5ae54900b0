//! The commands of a batch, from bytes to what the engine takes: each by itself, so that a bad one disturbs no other.
//!
//! A document is passed over once to see where each command begins and ends, then each is read by itself, and its texts are copied once,
//! into the values that the rules keep. What an operation needs and knows is one table, which reading and the contract's schema share.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tidegate_stock::{Command, IdempotencyKey, Quantity, ReservationId};

use crate::bodies;
use crate::bounds;
use crate::call::Form;
use crate::fields::Number;
use crate::problem::Problem;
use crate::schema::{Hold, Identifier, ReservationIdText, Units, UnitsOrOne};
use crate::status::Code;

/// Most commands of a batch.
pub(crate) const COMMANDS_MAX: usize = 10_000;

/// A command that can be handed to the engine, or why not.
pub(crate) type ReadCommand = Result<(Command, Option<IdempotencyKey>), Problem>;

/// Says which reservation a text names; `None` for a text that was never given out.
pub(crate) type Unseal<'a> = &'a dyn Fn(&str) -> Option<ReservationId>;

/// Reads a batch. Fails as a whole when it is no batch at all: no JSON document of the form, or too few or too many commands.
pub(crate) fn read(unseal: Unseal<'_>, body: &[u8], form: Form) -> Result<Vec<ReadCommand>, Problem> {
    match form {
        Form::Json => read_document(unseal, body),
        Form::Lines => read_lines(unseal, body),
    }
}

/// The commands of a batch that [`read`] could read, as texts, in the same order.
pub(crate) fn texts(body: &[u8], form: Form) -> Result<Vec<&[u8]>, Problem> {
    match form {
        Form::Json => {
            let Document { commands: Commands(commands) } = bodies::object(body)?;
            Ok(commands.into_iter().map(|command| command.get().as_bytes()).collect())
        }
        Form::Lines => Ok(lines(body).collect()),
    }
}

/// The lines of a body that are not empty.
fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty())
}

fn read_document(unseal: Unseal<'_>, body: &[u8]) -> Result<Vec<ReadCommand>, Problem> {
    let Document { commands: Commands(commands) } = bodies::object(body)?;
    if commands.is_empty() {
        return Err(count_problem("none"));
    }
    Ok(commands.into_iter().map(|command| read_command(unseal, command.get().as_bytes())).collect())
}

fn read_lines(unseal: Unseal<'_>, body: &[u8]) -> Result<Vec<ReadCommand>, Problem> {
    match lines(body).count() {
        0 => return Err(count_problem("none")),
        1..=COMMANDS_MAX => {}
        count => return Err(count_problem(&count.to_string())),
    }
    Ok(lines(body).map(|line| read_command(unseal, line)).filter(|read| read.is_ok() || !mutant!(LineSwallowed)).collect())
}

/// Reads one command. What is wrong with it, be it that it is no JSON, is its own affair.
fn read_command(unseal: Unseal<'_>, text: &[u8]) -> ReadCommand {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let fields = deserializer.deserialize_any(FieldsVisitor).and_then(|fields| deserializer.end().map(|()| fields));
    fields.map_err(|error| Problem::invalid_request(format!("the command cannot be read: {error}")))?.command(unseal)
}

fn count_problem(count: &str) -> Problem {
    Problem::invalid_request(format!("the batch has {count} where 1 to {COMMANDS_MAX} commands are needed"))
}

/// A field of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Field {
    Op,
    Sku,
    Id,
    User,
    Quantity,
    HoldSeconds,
    Reference,
    IdempotencyKey,
}

impl Field {
    const ALL: [Self; 8] =
        [Self::Op, Self::Sku, Self::Id, Self::User, Self::Quantity, Self::HoldSeconds, Self::Reference, Self::IdempotencyKey];

    const fn name(self) -> &'static str {
        match self {
            Self::Op => "op",
            Self::Sku => "sku",
            Self::Id => "id",
            Self::User => "user",
            Self::Quantity => "quantity",
            Self::HoldSeconds => "hold_seconds",
            Self::Reference => "reference",
            Self::IdempotencyKey => "idempotency_key",
        }
    }
}

// A field is found by its number.
const _: () = {
    let mut number = 0;
    while number < Field::ALL.len() {
        assert!(Field::ALL[number] as usize == number);
        number += 1;
    }
};

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Reserve,
    Confirm,
    Release,
    Return,
    Extend,
}

impl Op {
    const ALL: [Self; 5] = [Self::Reserve, Self::Confirm, Self::Release, Self::Return, Self::Extend];

    const fn name(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Confirm => "confirm",
            Self::Release => "release",
            Self::Return => "return",
            Self::Extend => "extend",
        }
    }

    /// The fields that it needs besides `op`, and those that it may have.
    const fn fields(self) -> (&'static [Field], &'static [Field]) {
        match self {
            Self::Reserve => {
                (&[Field::Sku, Field::User], &[Field::Quantity, Field::HoldSeconds, Field::Reference, Field::IdempotencyKey])
            }
            Self::Confirm | Self::Release | Self::Return => (&[Field::Id], &[Field::Quantity, Field::IdempotencyKey]),
            Self::Extend => (&[Field::Id, Field::HoldSeconds], &[Field::IdempotencyKey]),
        }
    }
}

/// The value of a field, of whatever type.
#[derive(Debug, Default)]
enum FieldValue<'a> {
    #[default]
    Missing,
    Null,
    Text(Cow<'a, str>),
    Number(Number),
    Other(&'static str),
}

impl<'a> FieldValue<'a> {
    /// The value of a field that should be a number, whatever the number's size.
    fn of_number(raw: &'a RawValue) -> Result<Self, serde_json::Error> {
        Number::read(raw).map_or_else(|| serde_json::from_str(raw.get()), |number| Ok(Self::Number(number)))
    }
}

/// A command's fields as they came.
#[derive(Debug, Default)]
struct Fields<'a> {
    values: [FieldValue<'a>; Field::ALL.len()],
    /// What is wrong with the fields as such; the first thing.
    fault: Option<Problem>,
}

impl Fields<'_> {
    fn command(self, unseal: Unseal<'_>) -> ReadCommand {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let op = self.text(Field::Op)?.ok_or_else(|| missing(Field::Op))?;
        let op = Op::ALL.into_iter().find(|known| known.name() == op).ok_or_else(|| {
            let known = Op::ALL.map(Op::name).join(", ");
            Problem::invalid_request(format!("`op` is {op:?} where one of {known} is needed"))
        })?;
        let (needed, optional) = op.fields();
        for (field, value) in Field::ALL.into_iter().zip(&self.values).skip(1) {
            let is_there = !matches!(value, FieldValue::Missing);
            if is_there && !needed.contains(&field) && !optional.contains(&field) {
                return Err(Problem::invalid_request(format!("`{}` is no field of {}", field.name(), op.name())));
            }
            if !is_there && needed.contains(&field) {
                return Err(missing(field));
            }
        }
        // Types before bounds, as in every body.
        let text = |field| self.text(field);
        let (sku, id, user) = (text(Field::Sku)?, text(Field::Id)?, text(Field::User)?);
        let (reference, key) = (text(Field::Reference)?, text(Field::IdempotencyKey)?);
        let (quantity, hold_seconds) = (self.number(Field::Quantity)?, self.number(Field::HoldSeconds)?);
        for field in needed {
            if matches!(self.values[*field as usize], FieldValue::Null) {
                return Err(Problem::invalid_request(format!("`{}` is null where a value is needed", field.name())));
            }
        }

        let key = key.map(bounds::idempotency_key).transpose()?.filter(|_| !mutant!(BatchIgnoresKeys));
        let quantity = quantity.map(bounds::quantity).transpose()?;
        let hold_seconds = hold_seconds.map(|number| bounds::hold_seconds("hold_seconds", number)).transpose()?;
        let reservation = || {
            let id = id.and_then(unseal);
            id.ok_or_else(|| Problem::new(Code::UnknownReservation, "there is no reservation of this id"))
        };
        let settle = |command: fn(ReservationId, Option<Quantity>) -> Command| Ok((command(reservation()?, quantity), key.clone()));
        match op {
            Op::Reserve => {
                let command = Command::Reserve {
                    sku: bounds::sku(sku.ok_or_else(|| missing(Field::Sku))?)?,
                    user: bounds::user(user.ok_or_else(|| missing(Field::User))?)?,
                    quantity: quantity.unwrap_or(Quantity::ONE),
                    hold_seconds,
                    reference: reference.map(bounds::reference).transpose()?,
                };
                Ok((command, key))
            }
            Op::Confirm => settle(|reservation, quantity| Command::Confirm { reservation, quantity }),
            Op::Release => settle(|reservation, quantity| Command::Release { reservation, quantity }),
            Op::Return => settle(|reservation, quantity| Command::Return { reservation, quantity }),
            Op::Extend => {
                let hold_seconds = hold_seconds.ok_or_else(|| missing(Field::HoldSeconds))?;
                Ok((Command::Extend { reservation: reservation()?, hold_seconds }, key))
            }
        }
    }

    /// The text of a field; `None` where it is missing or null.
    fn text(&self, field: Field) -> Result<Option<&str>, Problem> {
        match &self.values[field as usize] {
            FieldValue::Missing | FieldValue::Null => Ok(None),
            FieldValue::Text(text) => Ok(Some(text)),
            other => Err(wrong_type(field, other, "a string")),
        }
    }

    /// The number of a field; `None` where it is missing or null.
    fn number(&self, field: Field) -> Result<Option<Number>, Problem> {
        match &self.values[field as usize] {
            FieldValue::Missing | FieldValue::Null => Ok(None),
            FieldValue::Number(number) => Ok(Some(*number)),
            other => Err(wrong_type(field, other, "a number")),
        }
    }
}

fn missing(field: Field) -> Problem {
    Problem::invalid_request(format!("the field `{}` is missing", field.name()))
}

fn wrong_type(field: Field, value: &FieldValue<'_>, needed: &str) -> Problem {
    let given = match value {
        FieldValue::Missing | FieldValue::Null => "null",
        FieldValue::Text(_) => "a string",
        FieldValue::Number(_) => "a number",
        FieldValue::Other(given) => given,
    };
    Problem::invalid_request(format!("`{}` is {given} where {needed} is needed", field.name()))
}

/// A batch as a document: `{"commands":[...]}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    #[serde(borrow)]
    commands: Commands<'a>,
}

/// The commands of a document, each of which is some JSON and no more is known of it.
struct Commands<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Commands<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CommandsVisitor;

        impl<'de> Visitor<'de> for CommandsVisitor {
            type Value = Commands<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an array in `commands`")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut commands = Vec::new();
                while let Some(command) = seq.next_element()? {
                    if commands.len() == COMMANDS_MAX {
                        return Err(A::Error::custom(format_args!(
                            "`commands` has more than {COMMANDS_MAX} where 1 to {COMMANDS_MAX} are needed"
                        )));
                    }
                    commands.push(command);
                }
                Ok(Commands(commands))
            }
        }

        deserializer.deserialize_seq(CommandsVisitor)
    }
}

/// Reads the fields of one command. Fails only where the JSON itself does.
struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a command")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<FieldName<'de>>()? {
            let fault = match name {
                FieldName::Known(field) if matches!(fields.values[field as usize], FieldValue::Missing) => {
                    fields.values[field as usize] = match field {
                        Field::Quantity | Field::HoldSeconds => {
                            FieldValue::of_number(map.next_value()?).map_err(A::Error::custom)?
                        }
                        _ => map.next_value()?,
                    };
                    continue;
                }
                FieldName::Known(field) => format!("the field `{}` is there more than once", field.name()),
                FieldName::Unknown(name) => format!("the field `{name}` is not known"),
            };
            map.next_value::<IgnoredAny>()?;
            fields.fault.get_or_insert_with(|| Problem::invalid_request(fault));
        }
        Ok(fields)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Fields<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(no_object())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Fields<'de>, E> {
        Ok(no_object())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Fields<'de>, E> {
        Ok(no_object())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Fields<'de>, E> {
        Ok(no_object())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Fields<'de>, E> {
        Ok(no_object())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Fields<'de>, E> {
        Ok(no_object())
    }

    fn visit_unit<E: Error>(self) -> Result<Fields<'de>, E> {
        Ok(no_object())
    }
}

fn no_object<'a>() -> Fields<'a> {
    Fields { fault: Some(Problem::invalid_request("the command is not a JSON object")), ..Fields::default() }
}

/// A field's name in a command.
enum FieldName<'a> {
    Known(Field),
    Unknown(Cow<'a, str>),
}

impl<'de> Deserialize<'de> for FieldName<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl<'de> Visitor<'de> for NameVisitor {
            type Value = FieldName<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a field's name")
            }

            fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(known(name).map_or(FieldName::Unknown(Cow::Borrowed(name)), FieldName::Known))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(known(name).map_or_else(|| FieldName::Unknown(Cow::Owned(name.to_owned())), FieldName::Known))
            }
        }

        fn known(name: &str) -> Option<Field> {
            Field::ALL.into_iter().find(|field| field.name() == name)
        }

        deserializer.deserialize_str(NameVisitor)
    }
}

impl<'de> Deserialize<'de> for FieldValue<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;

        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = FieldValue<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a value")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(FieldValue::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(FieldValue::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(FieldValue::Number(Number::Whole(number)))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                Ok(FieldValue::Number(u64::try_from(number).map_or(Number::Below(number), Number::Whole)))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                Ok(FieldValue::Number(Number::Other(number)))
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(FieldValue::Null)
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
                Ok(FieldValue::Other("a boolean"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(FieldValue::Other("an array"))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(FieldValue::Other("an object"))
            }
        }

        deserializer.deserialize_any(ValueVisitor)
    }
}

/// How a batch is written, made from the table that it is read by.
pub(crate) struct BatchBody;

impl JsonSchema for BatchBody {
    fn schema_name() -> Cow<'static, str> {
        "Batch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let commands = generator.subschema_for::<BatchCommand>();
        json_schema!({
            "type": "object",
            "description": "Commands, each of which stands alone. Those on one sku are decided in the order given.",
            "properties": {
                "commands": { "type": "array", "minItems": 1, "maxItems": COMMANDS_MAX, "items": commands },
            },
            "required": ["commands"],
            "additionalProperties": false,
        })
    }
}

/// How one command of a batch is written: as one line, or in a batch's list.
pub(crate) struct BatchCommand;

impl JsonSchema for BatchCommand {
    fn schema_name() -> Cow<'static, str> {
        "BatchCommand".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let operations: Vec<Value> = Op::ALL.map(|op| operation_schema(generator, op)).to_vec();
        json_schema!({ "description": "One command; its fields are those of the single call.", "oneOf": operations })
    }
}

fn operation_schema(generator: &mut SchemaGenerator, op: Op) -> Value {
    let (needed, optional) = op.fields();
    let mut properties = Map::new();
    properties.insert(Field::Op.name().to_owned(), serde_json::json!({ "type": "string", "const": op.name() }));
    for field in needed.iter().chain(optional) {
        let is_needed = needed.contains(field);
        let schema = match field {
            Field::Quantity if op == Op::Reserve => generator.subschema_for::<Option<UnitsOrOne>>(),
            Field::Quantity => generator.subschema_for::<Option<Units>>(),
            Field::HoldSeconds if is_needed => generator.subschema_for::<Hold>(),
            Field::HoldSeconds => generator.subschema_for::<Option<Hold>>(),
            Field::Id => generator.subschema_for::<ReservationIdText>(),
            _ if is_needed => generator.subschema_for::<Identifier>(),
            _ => generator.subschema_for::<Option<Identifier>>(),
        };
        properties.insert(field.name().to_owned(), schema.to_value());
    }
    let required: Vec<&str> = std::iter::once(&Field::Op).chain(needed).map(|field| field.name()).collect();
    serde_json::json!({
        "type": "object",
        "title": op.name(),
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}
