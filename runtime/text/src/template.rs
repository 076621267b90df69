//! Chat templates: Jinja source from a model file, rendered as the models' makers do it with Python.
//!
//! The template is untrusted. It can reach nothing but the conversation, and [`crate::limits`] bounds its
//! instructions, its memory and its output.

mod environment;
mod meter;
mod namespace;
mod nesting;
mod operators;
mod python;
mod rewrite;

use std::error::Error as _;
use std::sync::Arc;

use minijinja::machinery::{CodeGenerator, Vm, WhitespaceConfig, make_string_output, parse};
use minijinja::{AutoEscape, Error, ErrorKind, Value};
use serde_json::Map;

use crate::conversation::{Conversation, Reads};
use crate::error::{Result, TextError};
use crate::limits::{MAX_PROMPT_BYTES, MAX_TEMPLATE_BYTES, TEMPLATE_FUEL};
use crate::prompt::Prompt;

use environment::environment;
use meter::{Meter, Stop};

const NAME: &str = "chat_template";

/// What the makers of models render their templates with.
const WHITESPACE: WhitespaceConfig =
    WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };

/// A model's chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: Arc<str>,
    /// That for conversations with tools, where it is another, or why it can't be read.
    tool_use: Option<std::result::Result<Arc<str>, String>>,
}

impl ChatTemplate {
    /// Reads a template.
    ///
    /// Errors: it is too long or too deep, isn't Jinja, or has statements that chat templates don't have, such
    /// as `include`.
    pub fn new(source: &str) -> Result<Self> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(TextError::TemplateTooLong { bytes: source.len(), max: MAX_TEMPLATE_BYTES });
        }
        let source = without_generation_tags(source);
        nesting::check(&source, WHITESPACE)?;
        compile(&source).map_err(failure)?;
        Ok(Self { source: source.into(), tool_use: None })
    }

    /// With another template for conversations with tools, as some models have it under the name `tool_use`. If it can't be read, that
    /// is an error of such conversations alone.
    pub fn with_tool_use(self, source: &str) -> Self {
        let template = Self::new(source).map(|template| template.source);
        Self { tool_use: Some(template.map_err(|error| error.to_string())), ..self }
    }

    /// The template of a conversation.
    fn of(&self, conversation: &Conversation<'_>) -> Result<Self> {
        let source = match self.tool_use.as_ref().filter(|_| !conversation.tools.is_empty()) {
            None => &self.source,
            Some(Ok(source)) => source,
            Some(Err(message)) => {
                return Err(TextError::Template { line: 0, message: format!("that for tools: {message}") });
            }
        };
        Ok(Self { source: source.clone(), tool_use: None })
    }

    /// The prompt for a conversation, as text.
    ///
    /// Errors: the template fails, refuses the conversation or goes beyond a limit. To encode the prompt
    /// safely use [`ChatTemplate::render_prompt`].
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String> {
        let template = self.of(conversation)?;
        let variables = conversation.variables(template.reads(), &|text: &str| text.to_owned());
        template.render_variables(&variables, conversation.now)
    }

    /// The prompt for a conversation, to be encoded by [`crate::Tokenizer::encode_prompt`].
    pub fn render_prompt(&self, conversation: &Conversation<'_>) -> Result<Prompt> {
        Prompt::render(self.of(conversation)?, conversation)
    }

    pub(crate) fn reads(&self) -> Reads {
        Reads::of(&self.source)
    }

    pub(crate) fn render_variables(
        &self,
        variables: &Map<String, serde_json::Value>,
        now: i64,
    ) -> Result<String> {
        let input_bytes = variables.iter().map(|(key, value)| (key.len() + weight(value)) as u64).sum();
        let meter = Meter::new(input_bytes);
        let text = self.evaluate(&meter, Value::from_serialize(variables), now).map_err(failure)?;
        let max = MAX_PROMPT_BYTES.saturating_add(input_bytes.saturating_mul(8));
        if text.len() as u64 > max {
            return Err(TextError::TemplateLimit { line: 0, what: "bytes of output", max });
        }
        Ok(text)
    }

    fn evaluate(&self, meter: &Meter, root: Value, now: i64) -> std::result::Result<String, Error> {
        let env = environment(meter, now);
        let (instructions, blocks) = compile(&self.source)?;
        let mut text = String::new();
        let mut output = make_string_output(&mut text);
        Vm::new(&env).eval(&instructions, root, &blocks, &mut output, AutoEscape::None)?;
        Ok(text)
    }
}

type Compiled<'a> = (
    minijinja::machinery::Instructions<'a>,
    std::collections::BTreeMap<&'a str, minijinja::machinery::Instructions<'a>>,
);

fn compile(source: &str) -> std::result::Result<Compiled<'_>, Error> {
    let tree = rewrite::statement(&parse(source, NAME, Default::default(), WHITESPACE)?)?;
    let mut code = CodeGenerator::new(NAME, source);
    code.compile_stmt(&tree);
    Ok(code.finish())
}

/// About how many bytes a JSON value holds.
fn weight(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => text.len() + 16,
        serde_json::Value::Array(items) => items.iter().map(weight).sum::<usize>() + 16,
        serde_json::Value::Object(members) => {
            members.iter().map(|(key, value)| key.len() + weight(value)).sum::<usize>() + 16
        }
        _ => 16,
    }
}

fn failure(error: Error) -> TextError {
    let line = error.line().unwrap_or(0);
    if error.kind() == ErrorKind::OutOfFuel {
        return TextError::TemplateLimit { line, what: "instructions", max: TEMPLATE_FUEL };
    }
    let mut source = error.source();
    while let Some(cause) = source {
        match cause.downcast_ref::<Stop>() {
            Some(Stop::Raised(message)) => {
                return TextError::Raised { message: message.chars().take(1024).collect() };
            }
            Some(&Stop::Limit(what, max)) => return TextError::TemplateLimit { line, what, max },
            None => source = cause.source(),
        }
    }
    let message = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    TextError::Template { line, message: message.chars().take(1024).collect() }
}

/// The source with `{% generation %}` blocks, which mark what a model is trained on and change nothing here,
/// as conditions that always hold.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let sign = usize::from(tag.starts_with(['-', '+']));
        let space = tag[sign..].len() - tag[sign..].trim_start().len();
        let word = &tag[sign + space..];
        out.push_str(&tag[..sign + space]);
        rest = word;
        for (name, instead) in [("generation", "if true"), ("endgeneration", "endif")] {
            if let Some(after) = word.strip_prefix(name)
                && after.trim_start().starts_with(['%', '-', '+'])
            {
                out.push_str(instead);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}
