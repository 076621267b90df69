//! The interface `http`, by grant.

use std::time::Duration;

use ::http::Method;

use crate::bindings::tool::membrane::plugin::http as wit;
use crate::error::Cause;
use crate::limits::{MAX_REQUEST_MS, MAX_REQUESTS};
use crate::state::State;
use crate::web::{self, Failed, Request};

/// Units for a request beside those for its bytes.
const REQUEST_UNITS: usize = 100_000;

impl wit::Host for State {
    fn origins(&mut self) -> wasmtime::Result<Vec<String>> {
        self.charge(REQUEST_UNITS)?;
        Ok(self.authority.hosts().iter().map(|host| host.origin.to_string()).collect())
    }

    fn send(&mut self, request: wit::Request) -> wasmtime::Result<Result<wit::Response, String>> {
        let body = request.body.as_ref().map_or(0, Vec::len);
        self.charge(REQUEST_UNITS + request.url.len() + body)?;
        self.used.requests += 1;
        if self.used.requests > MAX_REQUESTS {
            return Err(
                self.end(Cause::Broke(format!("it sent more than the {MAX_REQUESTS} requests of one call")))
            );
        }
        let most = Duration::from_millis(MAX_REQUEST_MS);
        let time = self.time_left(most)?;
        let authority = self.authority.clone();
        match web::send(&authority, checked(request), time) {
            Ok(response) => {
                self.charge(response.body.len())?;
                Ok(Ok(answer(response)))
            }
            Err(Failed::Told(what)) => Ok(Err(what)),
            // It was the call's own time that was shorter.
            Err(Failed::TimedOut) if time < most => Err(self.out_of_time()),
            Err(Failed::TimedOut) => Ok(Err(format!("the request took longer than {MAX_REQUEST_MS} ms"))),
        }
    }
}

fn checked(request: wit::Request) -> Request {
    let method = match request.method {
        wit::Method::Get => Method::GET,
        wit::Method::Head => Method::HEAD,
        wit::Method::Post => Method::POST,
        wit::Method::Put => Method::PUT,
        wit::Method::Patch => Method::PATCH,
        wit::Method::Delete => Method::DELETE,
        wit::Method::Options => Method::OPTIONS,
    };
    let headers = request.headers.into_iter().map(|field| (field.name, field.value)).collect();
    Request { method, url: request.url, headers, body: request.body }
}

fn answer(response: web::Response) -> wit::Response {
    let field = |(name, value): (String, Vec<u8>)| wit::Field {
        name,
        value: String::from_utf8_lossy(&value).into_owned(),
    };
    let headers = response.headers.into_iter().map(field).collect();
    wit::Response { status: response.status, headers, body: response.body }
}
