//! The model as a judge, for policies that were granted it (`judge`): how likely it finds short texts behind a question.

pub use crate::bindings::policy::membrane::plugin::judge::Question;

/// The natural logarithm of the probability of each continuation behind a question, in their order. Not in
/// [`Policy::new`](crate::policy::Policy::new), and at most 2,048 times an answer. Errors: a limit of the contract, a question
/// that the context can't hold, a conversation for a model without a chat template. Where the model fails or is not there,
/// this does not return: the hook ends, as after a panic.
pub fn score(question: &Question, continuations: &[String]) -> Result<Vec<f64>, String> {
    crate::bindings::policy::membrane::plugin::judge::score(question, continuations)
}
