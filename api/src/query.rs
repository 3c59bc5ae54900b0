//! The parameters of a query: those that the route knows, each at most once. The door of form-urlencoded.

use http::{Method, Uri};
use tidegate_stock::UserId;

use crate::bounds::invalid_identifier;
use crate::labels::Route;
use crate::problem::Problem;

/// Most entries of a page.
pub(crate) const PAGE_MAX: usize = 1_000;
/// Entries of a page where the caller does not say.
pub(crate) const PAGE_DEFAULT: usize = 100;

/// A request's parameters.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(&'static str, String)>);

impl Query {
    /// Reads the parameters of a request. Where nobody looks at them, whatever is there is let be.
    pub(crate) fn read(uri: &Uri, route: Route, method: &Method) -> Result<Self, Problem> {
        let (Some(text), Some(known)) = (uri.query(), route.parameters(method)) else { return Ok(Self::default()) };
        let mut read: Vec<(&'static str, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            let Some(known) = known.iter().find(|known| **known == name) else { return Err(unknown(&name, known)) };
            if read.iter().any(|(name, _)| name == known) {
                return Err(Problem::invalid_request(format!("the parameter `{known}` is there more than once")));
            }
            read.push((known, value.into_owned()));
        }
        Ok(Self(read))
    }

    /// The value of a parameter.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
    }

    /// How many entries a page may have: `limit`, 1 to [`PAGE_MAX`], or [`PAGE_DEFAULT`].
    pub(crate) fn limit(&self) -> Result<usize, Problem> {
        let Some(text) = self.text("limit") else { return Ok(PAGE_DEFAULT) };
        let number = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).and_then(|text| text.parse().ok());
        number.filter(|number| (1..=PAGE_MAX).contains(number)).ok_or_else(|| {
            let needed = format!("where a whole number from 1 to {PAGE_MAX} is needed");
            Problem::invalid_request(format!("the parameter `limit` is {text:?} {needed}"))
        })
    }

    /// The user of whom entries are asked for.
    pub(crate) fn user(&self) -> Result<Option<UserId>, Problem> {
        let user = self.text("user").map(UserId::new).transpose();
        user.map_err(|error| invalid_identifier("the parameter user", error))
    }
}

fn unknown(name: &str, known: &[&str]) -> Problem {
    if known.is_empty() {
        return Problem::invalid_request(format!("the parameter `{name}` is not known: this call takes none"));
    }
    let known = known.join(", ");
    Problem::invalid_request(format!("the parameter `{name}` is not known, only {known}"))
}
