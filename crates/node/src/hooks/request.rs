//! A hook that makes an HTTP request.

use std::time::Duration;

use serde_json::json;

use super::{HookError, Occasion, Point};
use crate::config::Method;

/// Makes the request; its answer's body is not looked at.
pub(super) fn make(
    point: Point,
    method: Method,
    url: &str,
    occasion: &Occasion,
    timeout: Duration,
) -> Result<(), HookError> {
    let hook = point.key();
    // A proxy is for the program's way out, and a hook is mostly for the program itself.
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .proxy(None)
        .build()
        .into();
    let answer = match method {
        Method::Get => agent.get(url).call(),
        Method::Post => {
            let mut body = json!(occasion);
            body["hook"] = json!(hook);
            agent.post(url).header("content-type", "application/json").send(body.to_string())
        }
    };
    match answer {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(HookError::Answer { hook, url: url.to_owned(), status: answer.status().as_u16() }),
        Err(ureq::Error::Timeout(_)) => Err(HookError::Timeout { hook, timeout, last_line: String::new() }),
        Err(source) => Err(HookError::Request { hook, url: url.to_owned(), source: Box::new(source) }),
    }
}
