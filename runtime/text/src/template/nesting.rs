//! How deep the syntax tree of a template will be, from its tokens alone.
//!
//! The engine's parser, its code generator, the rewriting and the freeing of a tree each recurse once for a
//! level. The parser limits brackets and blocks only: 30,000 times `not`, or `x.a.a.a`, or `{% elif %}` make
//! a tree as deep as they are many, and one of these steps overflows the stack, which ends the process.

use minijinja::machinery::{Token, Tokenizer, WhitespaceConfig};

use crate::error::TextError;
use crate::limits::TEMPLATE_NESTING;

/// Refuses a template whose tree would be deeper than [`TEMPLATE_NESTING`].
///
/// A template that isn't Jinja passes: the parser meets the same tokens and tells what is wrong.
pub(crate) fn check(source: &str, whitespace: WhitespaceConfig) -> Result<(), TextError> {
    let mut tokenizer = Tokenizer::new(source, super::NAME, false, Default::default(), whitespace);
    let mut depth = Depth::default();
    while let Ok(Some((token, span))) = tokenizer.next_token() {
        if depth.take(&token) > TEMPLATE_NESTING {
            let (line, max) = (usize::from(span.start_line), TEMPLATE_NESTING as u64);
            return Err(TextError::TemplateLimit { line, what: "levels of nesting", max });
        }
    }
    Ok(())
}

/// Levels of the tree that the tokens so far make, never less than the parser's.
#[derive(Debug, Default)]
struct Depth {
    /// Levels of each open block: one, and one for each `elif`, which the parser puts into the branch before.
    blocks: Vec<usize>,
    /// The tag that is being read.
    tag: Tag,
}

/// A `{{ ... }}` or a `{% ... %}`.
#[derive(Debug)]
struct Tag {
    /// Open brackets, and in front of them the tag itself.
    groups: Vec<Group>,
    /// The word that a statement starts with.
    keyword: Keyword,
    /// Whether there is an `=` outside of brackets: `{% set %}` without one is a block.
    assigns: bool,
}

/// What a statement does to the blocks that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keyword {
    /// Not read yet.
    Expected,
    /// A block begins.
    Opens,
    /// A block begins, if there is no `=`.
    Sets,
    /// Another branch of an `if`.
    Continues,
    /// A block ends.
    Closes,
    /// None of these.
    Plain,
}

/// What stands between two brackets.
#[derive(Debug, Default)]
struct Group {
    /// Operators since the last comma. Of each chain the parser makes a tree with a level for an operator.
    operators: usize,
    /// Levels of the deepest bracket that has been closed since the last comma.
    deepest: usize,
    /// Levels of the deepest part before the last comma.
    before: usize,
}

impl Group {
    fn levels(&self) -> usize {
        self.before.max(self.operators + self.deepest)
    }
}

impl Default for Tag {
    fn default() -> Self {
        Self { groups: vec![Group::default()], keyword: Keyword::Plain, assigns: false }
    }
}

impl Depth {
    /// Takes the next token and gives the levels at it.
    fn take(&mut self, token: &Token<'_>) -> usize {
        match token {
            Token::VariableStart => self.tag = Tag::default(),
            Token::BlockStart => self.tag = Tag { keyword: Keyword::Expected, ..Tag::default() },
            Token::Ident(word) if self.tag.keyword == Keyword::Expected => self.tag.keyword = keyword(word),
            Token::BlockEnd => self.end_statement(),
            _ => self.tag.take(token),
        }
        self.blocks.iter().sum::<usize>() + self.tag.levels()
    }

    fn end_statement(&mut self) {
        match self.tag.keyword {
            Keyword::Opens => self.blocks.push(1),
            Keyword::Sets if !self.tag.assigns => self.blocks.push(1),
            Keyword::Continues => {
                if let Some(levels) = self.blocks.last_mut() {
                    *levels += 1;
                }
            }
            Keyword::Closes => {
                self.blocks.pop();
            }
            _ => {}
        }
        self.tag = Tag::default();
    }
}

fn keyword(word: &str) -> Keyword {
    match word {
        "for" | "if" | "with" | "autoescape" | "filter" | "block" | "macro" | "call" => Keyword::Opens,
        "set" => Keyword::Sets,
        "elif" => Keyword::Continues,
        _ if word.starts_with("end") => Keyword::Closes,
        _ => Keyword::Plain,
    }
}

impl Tag {
    fn take(&mut self, token: &Token<'_>) {
        match token {
            // A call or a subscript is a level itself, and so is what stands in the brackets.
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => {
                self.count();
                self.groups.push(Group::default());
            }
            Token::ParenClose | Token::BracketClose | Token::BraceClose => self.close(),
            Token::Comma | Token::Colon => {
                if let Some(group) = self.groups.last_mut() {
                    *group = Group { before: group.levels(), ..Group::default() };
                }
            }
            Token::Assign => self.assigns |= self.groups.len() == 1,
            Token::Ident("and" | "or" | "not" | "in" | "is" | "if" | "else")
            | Token::Plus
            | Token::Minus
            | Token::Mul
            | Token::Div
            | Token::FloorDiv
            | Token::Pow
            | Token::Mod
            | Token::Dot
            | Token::Tilde
            | Token::Pipe
            | Token::Eq
            | Token::Ne
            | Token::Gt
            | Token::Gte
            | Token::Lt
            | Token::Lte => self.count(),
            _ => {}
        }
    }

    fn count(&mut self) {
        if let Some(group) = self.groups.last_mut() {
            group.operators += 1;
        }
    }

    fn close(&mut self) {
        if self.groups.len() > 1
            && let Some(closed) = self.groups.pop()
            && let Some(outer) = self.groups.last_mut()
        {
            outer.deepest = outer.deepest.max(closed.levels());
        }
    }

    /// Levels of the tag, should everything that is open be closed now.
    fn levels(&self) -> usize {
        self.groups
            .iter()
            .rev()
            .fold(0, |inner, group| group.before.max(group.operators + group.deepest.max(inner)))
    }
}
