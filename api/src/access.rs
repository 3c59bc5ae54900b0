//! Who may make a call: held against the table of needs in [`Route::need`], before anything else of the request is looked at.
//!
//! What a caller without a key learns is that a path exists, and nothing of what is behind it.

use http::header::ORIGIN;
use http::{HeaderMap, Method};
use tidegate_engine::{ActorName, Clock, SystemClock};

use crate::door::Door;
use crate::keys::presented;
use crate::labels::{Need, Route};
use crate::problem::Problem;
use crate::status::Code;
use crate::time::Shown;

/// Lets a request for `route` in, or says why not. Returns who acts; nobody where everybody may ask.
pub(crate) fn admit(door: &Door, route: Route, method: &Method, headers: &HeaderMap) -> Result<Option<ActorName>, Problem> {
    let need = route.need(method);
    let is_open = need == Some(Need::Nothing) || (route == Route::Metrics && door.shows_metrics_to_all());
    if is_open {
        return Ok(None);
    }
    let Some(keys) = door.keys() else {
        // A page of some web site, open in a browser on this machine, must not act as whoever sits there.
        if headers.contains_key(ORIGIN) {
            let detail = "requests with an origin header, which web pages send, are not taken while no API keys are configured";
            return Err(Problem::new(Code::Forbidden, detail));
        }
        return Ok(Some(door.loopback_actor()));
    };
    let unauthenticated = |detail| Problem::new(Code::Unauthenticated, detail);
    let key = presented(headers).map_err(unauthenticated)?;
    let key = keys.find(key).ok_or_else(|| unauthenticated("the API key is not known"))?;
    if let Some(end) = key.expires_at()
        && SystemClock.now() >= end
        && !mutant!(ExpiredKeyOpens)
    {
        return Err(Problem::new(Code::Unauthenticated, format!("the API key {} expired at {}", key.actor, Shown(end))));
    }
    // Where the path does not know the method, a key is enough to hear so.
    if let Some(Need::Role(role)) = need
        && !key.may(role)
        && !(mutant!(RoleSkipped) && route == Route::Archive)
    {
        return Err(Problem::new(Code::Forbidden, format!("the API key {} has not the role {}", key.actor, role.word())));
    }
    Ok(Some(key.actor.clone()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderValue;
    use http::header::AUTHORIZATION;
    use prometheus_client::registry::Registry;
    use tempfile::TempDir;

    use super::*;
    use crate::keys::KeyHash;
    use crate::options::{AccessOptions, HttpOptions};

    fn door(keys_file: Option<std::path::PathBuf>) -> Arc<Door> {
        let access = AccessOptions { keys_file, ..AccessOptions::default() };
        Door::new(HttpOptions::default(), access, Registry::default()).unwrap()
    }

    fn actor(door: &Door, headers: &HeaderMap) -> ActorName {
        admit(door, Route::Confirm, &Method::POST, headers).unwrap().unwrap()
    }

    #[test]
    fn who_acts_is_the_keys_name_of_which_there_is_one_copy() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("keys.toml");
        let entry = format!("[[key]]\nname = \"shop\"\nroles = [\"frontend\"]\nsha256 = \"{}\"\n", KeyHash::of(b"a-key"));
        std::fs::write(&path, entry).unwrap();
        let door = door(Some(path));
        let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("Bearer a-key"))]);
        let (first, second) = (actor(&door, &headers), actor(&door, &headers));
        assert_eq!(first.as_str(), "shop");
        assert!(std::ptr::eq(first.as_str(), second.as_str()));
    }

    #[test]
    fn without_keys_the_loopback_acts() {
        assert_eq!(actor(&door(None), &HeaderMap::new()).as_str(), "loopback");
    }
}
