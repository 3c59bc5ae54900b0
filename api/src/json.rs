//! Documents as JSON text. The door of sonic-rs, which copies text and looks for what must be escaped many bytes at a time.

use serde::Serialize;

use crate::problem::Problem;

/// Appends `document` to `bytes`.
///
/// # Errors
/// When it is no JSON, which no document of the door's is; `bytes` may then end with a part of it.
pub(crate) fn append(bytes: &mut Vec<u8>, document: &impl Serialize) -> Result<(), Problem> {
    sonic_rs::to_writer(bytes, document).map_err(|error| Problem::internal(&error))
}
