//! No template overflows the stack, whatever it is deep in. An overflow ends the test program itself.

#![allow(clippy::unwrap_used)]

use std::thread;

use membrane_text::limits::{MAX_TEMPLATE_BYTES, TEMPLATE_NESTING};
use membrane_text::{ChatMessage, ChatTemplate, Conversation, Role, TextError};
use serde_json::Map;

/// What a template is given to be read and rendered, a quarter of what a thread has by default.
const STACK_BYTES: usize = 512 << 10;

/// Ways to be deep: what comes first, what is repeated, what stands in the middle, what is repeated behind
/// it, and what comes last.
const SHAPES: &[[&str; 5]] = &[
    ["{{ ", "not ", "x", "", " }}"],
    ["{{ ", "-", "1", "", " }}"],
    ["{{ ", "not -", "x", "", " }}"],
    ["{{ x", ".a", "", "", " }}"],
    ["{{ x", ".0", "", "", " }}"],
    ["{{ x", "[0]", "", "", " }}"],
    ["{{ x", "[1:]", "", "", " }}"],
    ["{{ x", "()", "", "", " }}"],
    ["{{ x", ".a()", "", "", " }}"],
    ["{{ x", "|trim", "", "", " }}"],
    ["{{ x", "|default(1)", "", "", " }}"],
    ["{{ x", " is defined", "", "", " }}"],
    ["{{ x", " is not none", "", "", " }}"],
    ["{{ x is eq ", "-", "1", "", " }}"],
    ["{{ x", "~x", "", "", " }}"],
    ["{{ x", "+x", "", "", " }}"],
    ["{{ 'a'", "+'a'", "", "", " }}"],
    ["{{ x", "*x", "", "", " }}"],
    ["{{ 1", "-1", "", "", " }}"],
    ["{{ 1", "/1", "", "", " }}"],
    ["{{ 1", "//1", "", "", " }}"],
    ["{{ 1", "%1", "", "", " }}"],
    ["{{ 1", "**1", "", "", " }}"],
    ["{{ 1", "**-1", "", "", " }}"],
    ["{{ x", " == x", "", "", " }}"],
    ["{{ x", " < x", "", "", " }}"],
    ["{{ x", " in x", "", "", " }}"],
    ["{{ x", " not in x", "", "", " }}"],
    ["{{ x", " and x", "", "", " }}"],
    ["{{ x", " or x", "", "", " }}"],
    ["{{ x", " and not x", "", "", " }}"],
    ["{{ x", " if x else x", "", "", " }}"],
    ["{{ x", " if x", "", "", " }}"],
    ["{{ x", " if x else (x", "", ")", " }}"],
    ["{{ x", " and (x", "", ")", " }}"],
    ["{{ ", "(", "x", ")", " }}"],
    ["{{ ", "(", "x", "+1)", " }}"],
    ["{{ ", "(", "x", ",)", " }}"],
    ["{{ ", "[", "x", "]", " }}"],
    ["{{ ", "[0, ", "x", ", 0]", " }}"],
    ["{{ ", "{'a':", "1", "}", " }}"],
    ["{{ ", "{", "1", ":1}", " }}"],
    ["{{ x", "[x", "", "]", " }}"],
    ["{{ x", "(x", "", ")", " }}"],
    ["{{ ", "dict(a=", "1", ")", " }}"],
    ["{{ ", "x(*", "x", ")", " }}"],
    ["{{ ", "x(**", "x", ")", " }}"],
    ["{{ x", "|default(x", "", ")", " }}"],
    ["{% if x %}", "{% elif x %}", "", "", "{% endif %}"],
    ["{% if x %}", "{% elif not x == 1 %}a", "", "", "{% else %}b{% endif %}"],
    ["", "{% if not x %}", "a", "{% endif %}", ""],
    ["", "{% if x %}{% elif not x %}", "a", "{% endif %}", ""],
    ["", "{% if x %}{% else %}", "a", "{% endif %}", ""],
    ["", "{% for x in [1] %}", "a", "{% endfor %}", ""],
    ["", "{% for x in [] %}{% else %}", "a", "{% endfor %}", ""],
    ["", "{% for x in [1] recursive %}", "a", "{% endfor %}", ""],
    ["", "{% with x = 1 %}", "a", "{% endwith %}", ""],
    ["", "{% set x %}", "a", "{% endset %}", ""],
    ["", "{% set x | upper %}", "a", "{% endset %}", ""],
    ["", "{% filter trim %}", "a", "{% endfilter %}", ""],
    ["{% filter trim", "|trim", " %}", "", "{% endfilter %}"],
    ["", "{% autoescape true %}", "a", "{% endautoescape %}", ""],
    ["", "{% macro m() %}", "a", "{% endmacro %}", ""],
    ["", "{% macro m() %}", "a", "{% endmacro %}{{ m() }}", ""],
    ["{% macro m() %}{{ caller() }}{% endmacro %}", "{% call m() %}", "a", "{% endcall %}", ""],
    ["", "{% block a %}", "a", "{% endblock %}", ""],
    ["", "{% generation %}", "a", "{% endgeneration %}", ""],
    ["{% set ", "(", "a", ")", " = 1 %}"],
    ["{% set a, ", "(", "b", ",)", " = 1 %}"],
    ["{% set a", ".a", "", "", " = 1 %}"],
    ["{% for ", "(", "a", ",)", " in x %}{% endfor %}"],
    ["{% with ", "(", "a", ",)", " = x %}{% endwith %}"],
    ["{% for a in x if ", "not ", "a", "", " %}{% endfor %}"],
    ["{% do x", ".a", "()", "", " %}"],
    ["{% call x", ".a", "()", "", " %}{% endcall %}"],
    ["{% macro m(a=", "[", "1", "]", ") %}{% endmacro %}{{ m() }}"],
];

fn deep([first, repeated, middle, behind, last]: &[&str; 5], times: usize) -> String {
    format!("{first}{}{middle}{}{last}", repeated.repeat(times), behind.repeat(times))
}

fn render(template: &ChatTemplate) -> Result<String, TextError> {
    let messages = [ChatMessage::new(Role::User, "Hi")];
    let conversation = Conversation {
        messages: &messages,
        tools: &[],
        add_generation_prompt: true,
        extra: &Map::new(),
        bos_token: "<s>",
        eos_token: "</s>",
        now: 0,
    };
    template.render(&conversation)
}

/// Runs on a stack of [`STACK_BYTES`].
fn on_a_small_stack(run: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK_BYTES);
        thread.spawn_scoped(scope, run).unwrap().join().unwrap();
    });
}

fn is_too_deep(error: &TextError) -> bool {
    match error {
        TextError::TemplateLimit { line: 1, what: "levels of nesting", max } => {
            *max == TEMPLATE_NESTING as u64
        }
        // The parser's own limit, for brackets and blocks.
        TextError::Template { message, .. } => message.contains("exceeds maximum recursion"),
        _ => false,
    }
}

#[test]
fn what_is_as_deep_as_a_template_may_be_long_is_refused() {
    on_a_small_stack(|| {
        for shape in SHAPES {
            let times = MAX_TEMPLATE_BYTES / (shape[1].len() + shape[3].len()) - 40;
            let error = ChatTemplate::new(&deep(shape, times)).expect_err(shape[1]);
            assert!(is_too_deep(&error), "{shape:?}: {error}");
            // Never closed, and cut in the middle.
            let open = [shape[0], &shape[1].repeat(times)].concat();
            assert!(is_too_deep(&ChatTemplate::new(&open).expect_err(shape[1])), "{shape:?}");
        }
    });
}

/// The depth at which a shape is refused is found by halving; one level less has to be read and rendered.
#[test]
fn what_is_as_deep_as_it_may_be_is_rendered() {
    on_a_small_stack(|| {
        for shape in SHAPES {
            let (mut passes, mut fails) = (1, 1000);
            while fails - passes > 1 {
                let middle = (passes + fails) / 2;
                match ChatTemplate::new(&deep(shape, middle)) {
                    Err(error) if is_too_deep(&error) => fails = middle,
                    _ => passes = middle,
                }
            }
            if let Ok(template) = ChatTemplate::new(&deep(shape, passes)) {
                let _ = render(&template);
            }
            assert!(passes >= TEMPLATE_NESTING / 4, "{shape:?}: only {passes}");
        }
    });
}

#[test]
fn depths_of_all_kinds_add_up() {
    on_a_small_stack(|| {
        // Each level is short of the limit: blocks, the branches in them, a chain in brackets behind a chain.
        let branches = format!("{{% if x %}}{}", "{% elif x %}".repeat(40)).repeat(60);
        let chains = format!("{{{{ {}x{} }}}}", "(".repeat(60), format!("{})", "+x".repeat(60)).repeat(60));
        let nots = format!("{{{{ {}x }}}}", format!("({}", "not ".repeat(60)).repeat(60));
        for template in [branches, chains, nots] {
            let error = ChatTemplate::new(&template).expect_err("it must be refused");
            assert!(is_too_deep(&error), "{error}");
        }
    });
}

#[test]
fn what_is_long_and_flat_is_no_deeper_for_it() {
    let list = format!("{{{{ [{}] | length }}}}", "1, ".repeat(5000));
    let tags = "{% if not x is defined %}a{% endif %}{% set y = x + 1 if x else [x.y] %}".repeat(1500);
    let captured = "{% set x %}{{ 'a' + 'b' }}{% endset %}".repeat(3000);
    for template in [list, tags, captured] {
        ChatTemplate::new(&template).unwrap();
    }
}

/// Ways to wrap a value in another one. The engine's own results are lazy and hold what they are made of.
const WRAPS: &[&str] = &[
    "x | reverse",
    "x | items",
    "x | dictsort",
    "x | groupby('a')",
    "[{'a': x}] | groupby('a')",
    "([{'a': x}] | groupby('a'))[0].list",
    "x | map('list')",
    "[y] | map('default', x)",
    "x | select",
    "x | unique",
    "x[1:]",
    "x[:1]",
    "x[::-1]",
    "x + x[:1]",
    "[x]",
    "{'a': x}",
    "dict(a=x)",
    "dict(x, a=x)",
    "namespace(a=x)",
    "x.items()",
    "x.keys()",
    "x.values()",
    "[x] | map('list')",
    "{'a': x}.values()",
    "{'a': x} | dictsort",
    "{x: 1}",
];

#[test]
fn values_that_wrap_values_are_read_and_freed() {
    on_a_small_stack(|| {
        for start in ["[1, 2, 3]", "{'a': [1]}", "[[1, 2], [3, 4]]"] {
            for wrap in WRAPS {
                let step = format!("{{% set x = {wrap} %}}");
                let many = step.repeat((MAX_TEMPLATE_BYTES - 200) / step.len());
                for end in ["", "{{ x }}{{ x == x }}{{ x | list | length }}"] {
                    let template = format!("{{% set x = {start} %}}{many}{end}");
                    let _ = render(&ChatTemplate::new(&template).unwrap());
                }
            }
        }
    });
}

/// Loops and macros hold values that they don't show.
#[test]
fn loops_and_macros_are_not_kept() {
    let chains = [
        "{% for j in [ns.x] %}{% set ns.x = loop %}{% endfor %}",
        "{% for j in [1] %}{% set c = loop.changed(ns.x) %}{% set ns.x = loop %}{% endfor %}",
        "{% set x = ns.x %}{% macro m() %}{{ x }}{% endmacro %}{% set ns.x = m %}",
        "{% set x = ns.x %}{% macro m() %}{{ x }}{% endmacro %}{% set ns.x = [{'a': m}] %}",
        "{% for j in [1] %}{% set ns.x = [u] | map('default', loop) %}{% endfor %}",
    ];
    on_a_small_stack(|| {
        for chain in chains {
            let template =
                format!("{{% set ns = namespace(x=1) %}}{{% for i in range(9999) %}}{chain}{{% endfor %}}");
            let error = ChatTemplate::new(&template).and_then(|template| render(&template));
            assert!(matches!(error, Err(TextError::Template { .. })), "{chain}: {error:?}");
        }
    });
}
