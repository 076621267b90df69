//! What the host needs to know of a model's vocabulary.

/// The vocabulary of a model. Whoever has the tokenizer implements it.
pub trait Vocabulary: Send + Sync {
    /// Number of tokens.
    fn size(&self) -> u32;
    /// The bytes of a token; none if it is not in the vocabulary.
    fn bytes_of(&self, token: u32) -> Option<&[u8]>;
    /// Tokens of a text, in which control-token look-alikes are plain text. The error is for the plugin.
    fn encode(&self, text: &str) -> Result<Vec<u32>, String>;
    /// Whether the token ends an answer.
    fn is_end(&self, token: u32) -> bool;
    /// A token that ends an answer, if the model has one.
    fn end_token(&self) -> Option<u32>;
}
