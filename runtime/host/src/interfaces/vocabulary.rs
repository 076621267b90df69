//! The interface `vocabulary`.

use crate::bindings::sampler::membrane::plugin::vocabulary::Host;
use crate::limits::{MAX_ENCODE_BYTES, MAX_SHOWN_BYTES};
use crate::state::State;

/// A tokenizer takes about so many units for a byte of text.
const ENCODE_UNITS: usize = 100;

impl Host for State {
    fn size(&mut self) -> wasmtime::Result<u32> {
        Ok(self.vocabulary(1)?.size())
    }

    fn bytes_of(&mut self, token: u32) -> wasmtime::Result<Result<Vec<u8>, String>> {
        let vocabulary = self.vocabulary(10)?;
        let missing =
            || format!("token {token} is not in the vocabulary, which has {} tokens", vocabulary.size());
        Ok(vocabulary.bytes_of(token).map(<[u8]>::to_vec).ok_or_else(missing))
    }

    fn encode(&mut self, text: String) -> wasmtime::Result<Result<Vec<u32>, String>> {
        if text.len() > MAX_ENCODE_BYTES {
            self.charge(text.len())?;
            return Ok(Err(format!("the text has {} bytes; the limit is {MAX_ENCODE_BYTES}", text.len())));
        }
        let tokens = self.vocabulary(text.len() * ENCODE_UNITS)?.encode(&text);
        Ok(tokens.map_err(|error| crate::text::clean(&error, MAX_SHOWN_BYTES)))
    }

    fn is_end(&mut self, token: u32) -> wasmtime::Result<bool> {
        Ok(self.vocabulary(1)?.is_end(token))
    }

    fn end_token(&mut self) -> wasmtime::Result<Option<u32>> {
        Ok(self.vocabulary(1)?.end_token())
    }
}
