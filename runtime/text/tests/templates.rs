//! Chat templates render as Python renders them, and a hostile one gets nowhere.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::fixture;
use membrane_text::limits::{MAX_TEMPLATE_BYTES, TEMPLATE_FUEL};
use membrane_text::{ChatMessage, ChatTemplate, Conversation, Role, TextError, ToolCall};
use serde_json::{Map, Value, json};

const NOW: i64 = 1_767_225_600;

fn render(template: &str, messages: &[ChatMessage]) -> Result<String, TextError> {
    let conversation = Conversation {
        messages,
        tools: &[],
        add_generation_prompt: true,
        extra: &Map::new(),
        bos_token: "<s>",
        eos_token: "</s>",
        now: NOW,
    };
    ChatTemplate::new(template)?.render(&conversation)
}

fn user(text: &str) -> ChatMessage {
    ChatMessage::new(Role::User, text)
}

#[test]
fn conversations_with_tools_have_the_template_for_them() {
    let plain = ChatTemplate::new("{{ messages[0].content }}").unwrap();
    let template = plain.clone().with_tool_use("{{ tools[0].name }} {{ messages[0].content }}");
    let broken = plain.with_tool_use("{% for %}");
    let tools = [json!({"name": "add"})];
    for (tools, text) in [(&[][..], "Hi"), (&tools, "add Hi")] {
        let conversation = Conversation {
            messages: &[user("Hi")],
            tools,
            add_generation_prompt: true,
            extra: &Map::new(),
            bos_token: "<s>",
            eos_token: "</s>",
            now: NOW,
        };
        assert_eq!(template.render(&conversation).unwrap(), text);
        assert_eq!(template.render_prompt(&conversation).unwrap().text(), text);
        let error = broken.render_prompt(&conversation).map(drop).err().map(|error| error.to_string());
        assert_eq!(error.as_ref().is_some_and(|error| error.contains("that for tools")), !tools.is_empty());
    }
}

#[test]
fn real_templates_equal_python() {
    for model in fixture("chats.json").as_array().unwrap() {
        let template = ChatTemplate::new(model["template"].as_str().unwrap()).unwrap();
        for case in model["cases"].as_array().unwrap() {
            let messages: Vec<ChatMessage> = serde_json::from_value(case["messages"].clone()).unwrap();
            let conversation = Conversation {
                messages: &messages,
                tools: case["tools"].as_array().map_or(&[], Vec::as_slice),
                add_generation_prompt: case["agp"].as_bool().unwrap(),
                extra: case["extra"].as_object().unwrap(),
                bos_token: "<s>",
                eos_token: "</s>",
                now: NOW,
            };
            let found = template.render(&conversation).unwrap();
            assert_eq!(found, case["expected"].as_str().unwrap(), "{} {}", model["name"], case["case"]);
        }
    }
}

/// Each of these ended the thread in the library's own slices.
#[test]
fn slices_are_those_of_python() {
    for (slice, expected) in [
        ("''[::-1]", ""),
        ("'abc'[0:2:-1]", ""),
        ("'abc'[0:2:-9223372036854775807 - 1]", ""),
        ("'abc'[::-9223372036854775807 - 1]", "c"),
        ("'abc'[::9223372036854775807]", "a"),
        ("'abcde'[::-1]", "edcba"),
        ("'abcde'[-2::-2]", "db"),
        ("'abcde'[3:0:-1]", "dcb"),
        ("'abcde'[9:-9:-3]", "eb"),
        ("'abcde'[:0:-1]", "edcb"),
        ("'déjà'[-3:-1]", "éj"),
        ("[1, 2, 3][::-1]", "[3, 2, 1]"),
        ("[][::-1]", "[]"),
        ("[1, 2, 3][1:]", "[2, 3]"),
        ("[1, 2, 3][5:]", "[]"),
        ("nothing[1:]", "[]"),
        ("('a' * 3)[true:none]", "aa"),
    ] {
        assert_eq!(render(&format!("{{{{ {slice} }}}}"), &[]).unwrap(), expected, "{slice}");
    }
    for slice in ["'abc'[::0]", "'abc'['a':]", "7[1:]", "{'a': 1}[1:]"] {
        assert!(
            matches!(render(&format!("{{{{ {slice} }}}}"), &[]), Err(TextError::Template { .. })),
            "{slice}"
        );
    }
}

#[test]
fn the_environment_is_that_of_transformers() {
    let cases = [
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
        ("{{ strftime_now('%d %b %Y') }}", "01 Jan 2026"),
        ("{{ messages | length }} {{ messages[0].role }} {{ messages[0]['content'] }}", "1 user  Hi! "),
        ("{{ tools is none }} {{ x is defined }} {{ x }}|{{ none }}", "True False |None"),
        ("{{ messages[0].content.strip() }}|{{ 'a-b'.split('-')[1] }}", "Hi!|b"),
        (
            "{% set n = namespace(x=0) %}{% for i in range(4) %}{% set n.x = n.x + i %}{% endfor %}{{ n.x }}",
            "6",
        ),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "13"),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{{ {'a': [1, true, none, 'x\"']} }}", "{'a': [1, True, None, 'x\"']}"),
        ("{{ {'a': [1, true, none, 'x\"']} | tojson }}", r#"{"a": [1, true, null, "x\""]}"#),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{{ 'é<' | tojson }}{{ 'é' | tojson(ensure_ascii=true) }}", r#""é<""\u00e9""#),
        (
            "{{ ['é'] | tojson(true, 1) }}{{ ['é'] | tojson(2) }}{{ ['é'] | tojson(none) }}",
            "[\n \"\\u00e9\"\n][\"\\u00e9\"][\"é\"]",
        ),
        ("{{ {'b': 1, 'a': 2} | tojson(false, none, [';', '='], true) }}", r#"{"a"=2;"b"=1}"#),
        (
            "{{ 'a' ~ 1 ~ none ~ 1.0 }} {{ 'a' + 'b' }} {{ 'ab' * 2 }} {{ [1] + [2] }}",
            "a1None1.0 ab abab [1, 2]",
        ),
        ("  {% if true %}\n  x\n  {% endif %}\ny\n", "  x\ny"),
        ("a {%- generation %} b {%- endgeneration -%} c", "a bc"),
        ("{% macro m(x, y=2) %}{{ x }}{{ y }}{% endmacro %}{{ m(1) }}{{ m(1, y=3) }}", "1213"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x | upper }}", "A1"),
        ("{% set ns = namespace() %}{% set ns.x %}b{% endset %}{{ ns.x }}{{ ns.y }}", "b"),
        (
            "{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}{{ {'b': 1} | dictsort }}",
            "b1a2[['b', 1]]",
        ),
        (
            "{{ [1, 2] | map('string') | join(',') }} {{ messages | map(attribute='role') | list }}",
            "1,2 ['user']",
        ),
        (
            "{{ 'abc'[::-1] }} {{ [1, 2, 3][1:] }} {{ 'abc'[0] }} {{ -7 // 2 }} {{ 7 % 3 }}",
            "cba [2, 3] a -4 1",
        ),
        ("{{ 'x' in 'xyz' }} {{ 1 if false else 2 }} {{ 'a' is string and [] is iterable }}", "True 2 True"),
    ];
    for (template, expected) in cases {
        assert_eq!(render(template, &[user(" Hi! ")]).unwrap(), expected, "{template}");
    }
}

#[test]
fn tool_calls_have_ids_that_results_refer_to() {
    let call = |name: &str| ToolCall { name: name.into(), arguments: json!({"a": 1}) };
    let mut asking = ChatMessage::new(Role::Assistant, "");
    asking.tool_calls = vec![call("x"), call("y")];
    let result = |name: &str| ChatMessage { name: Some(name.into()), ..ChatMessage::new(Role::Tool, "1") };
    let template = concat!(
        "{% for m in messages %}{% for c in m.tool_calls %}{{ c.id }}={{ c.function.name }}",
        "{{ c.function.arguments | tojson }} {% endfor %}{{ m.tool_call_id }} {{ m.name }} {% endfor %}",
    );
    let found = render(template, &[asking, result("x"), result("y")]).unwrap();
    assert_eq!(found, r#"call00000=x{"a": 1} call00001=y{"a": 1}   call00000 x call00001 y "#);
}

#[test]
fn templates_that_add_arguments_to_texts_get_them_as_json() {
    let mut asking = ChatMessage::new(Role::Assistant, "");
    asking.tool_calls = vec![ToolCall { name: "x".into(), arguments: json!({"a": [1, "b"]}) }];
    let call = |written: &str| {
        let template = format!(
            "{{%- for m in messages -%}}{{%- for tool in m['tool_calls'] -%}}{written}{{%- endfor -%}}{{%- endfor -%}}"
        );
        render(&template, std::slice::from_ref(&asking)).unwrap()
    };
    // DeepSeek-R1's and V3.1's.
    let bare = "{{'```json' + '\\n' + tool['function']['arguments'] + '\\n' + '```'}}";
    assert_eq!(call(bare), "```json\n{\"a\":[1,\"b\"]}\n```");
    let last = "{{ tool['function']['name'] + tool['function']['arguments'] }}";
    assert_eq!(call(last), "x{\"a\":[1,\"b\"]}");
    // Kimi K2's and Qwen's.
    let asked = "{% set a = tool['function']['arguments'] %}{{ 'x' + (a if a is string else a | tojson) }}";
    assert_eq!(call(asked), "x{\"a\": [1, \"b\"]}");
    let either = "{% if tool['function']['arguments'] is string %}{{ 'x' + tool['function']['arguments'] }}{% else %}\
                  {{ tool['function']['arguments'] | tojson }}{% endif %}";
    assert_eq!(call(either), "{\"a\": [1, \"b\"]}");
}

#[test]
fn errors_name_the_line() {
    let line = |template: &str| match render(template, &[]) {
        Err(TextError::Template { line, .. }) => line,
        other => panic!("{other:?}"),
    };
    assert_eq!(line("a\n{% if %}"), 2);
    assert_eq!(line("a\nb\n{{ 'a' + 1 }}"), 3);
    assert_eq!(line("{{ x.y.z }}"), 1);
}

#[test]
fn a_refusal_of_the_template_is_told() {
    let found = render("{{ raise_exception('Roles must alternate') }}", &[]);
    assert_eq!(found, Err(TextError::Raised { message: "Roles must alternate".into() }));
}

/// Templates that would take all time or memory, and the one thing that they may do: fail.
const BOMBS: &[&str] = &[
    "{% for a in range(999) %}{% for b in range(999) %}{% for c in range(999) %}\
     {% endfor %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * 'a' }}",
    "{{ ('a' * 10**7) * 10**7 }}",
    "{{ [1] * 10**9 }}",
    "{{ ([1, 2] * (2**63 - 1)) | length }}",
    "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}",
    "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = namespace(x=ns.x) %}{% endfor %}",
    "{% set ns = namespace() %}{% set ns.a = [ns] %}{% set ns.b = [ns, ns] %}{{ ns.a | tojson }}",
    "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "{% for x in [[]] recursive %}{{ loop([[]]) }}{% endfor %}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ '{:{}}'.format(1, 999999999) }}",
    "{{ 'a\nb' | indent(10**9) }}",
    "{{ 'a\nb' | indent(width=10**9) }}",
    "{{ [1] | tojson(indent=10**9) }}",
    "{{ range(10**9) | list }}",
    "{% set l = range(99999) | list %}{% for i in range(99999) %}{% set x = l | sort | list %}{% endfor %}",
    "{% set s = 'a' * 10**6 %}{% for i in range(99999) %}{% if s == s ~ '' %}{% endif %}{% endfor %}",
    "{% set s = 'a' * 10**6 %}{% for i in range(99999) %}{% if 'b' in s %}{% endif %}{% endfor %}",
    "{% set s = 'a' * 10**6 %}{% for i in range(99999) %}{% set c = s[999999] %}{% endfor %}",
    "{% set s = 'a' * 10**6 %}{% for i in range(99999) %}{% set c = s[1:] %}{% endfor %}",
    "{% set s = 'a' * 10**6 %}{% for i in range(99999) %}{% set c = s is lower %}{% endfor %}",
    "{% set s = 'a' * 10**6 %}{% for i in range(99999) %}{% set c = s.split('a') %}{% endfor %}",
];

/// Ways to make a value twice as large, and what to start with. Sixty of them make one that no machine holds.
const DOUBLINGS: &[(&str, &str)] = &[
    ("'aaaa'", "{% set ns.s = ns.s ~ ns.s %}"),
    ("'aaaa'", "{% set ns.s = ns.s + ns.s %}"),
    ("'aaaa'", "{% set ns.s = ns.s * 2 %}"),
    ("[1]", "{% set ns.s = ns.s + ns.s %}"),
    ("[1]", "{% set ns.s = ns.s * 2 %}"),
    ("[1]", "{% set ns.s = [ns.s, ns.s] %}"),
    ("{}", "{% set ns.s = {'a': ns.s, 'b': ns.s} %}"),
    ("'a'", "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}"),
    ("'aa'", "{% set ns.s = ns.s | replace('a', 'aa') %}"),
    ("'aa'", "{% set ns.s = ns.s.replace('', 'aa') %}"),
    ("'aa'", "{% set ns.s = ns.s.join([ns.s, ns.s]) %}"),
    ("'aa'", "{% set ns.s = [ns.s, ns.s] | join %}"),
    ("'aa'", "{% set ns.s = '{}{}'.format(ns.s, ns.s) %}"),
    ("'\"'", "{% set ns.s = ns.s | tojson %}{% set ns.s = ns.s ~ ns.s %}"),
    ("'a'", "{% filter upper %}{{ ns.s }}{% endfilter %}{% set ns.s = ns.s ~ ns.s %}"),
];

/// Most memory that this process has held, bytes; none where the system doesn't tell.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[test]
fn bombs_fail_soon_and_small() {
    let literal = "{% for i in range(99999) %}".to_owned() + &"a".repeat(1000) + "{% endfor %}";
    let nested = "{% set x = dict(a=x) %}".repeat(5000);
    let doubling = |(start, step): &(&str, &str)| {
        format!("{{% set ns = namespace(s={start}) %}}{{% for i in range(60) %}}{step}{{% endfor %}}")
    };
    let bombs = BOMBS.iter().map(|bomb| bomb.to_string()).chain(DOUBLINGS.iter().map(doubling));
    for bomb in &bombs.chain([literal, nested]).collect::<Vec<String>>() {
        let start = Instant::now();
        let error = render(bomb, &[]).expect_err(bomb);
        assert!(
            matches!(error, TextError::TemplateLimit { .. } | TextError::Template { .. }),
            "{bomb}: {error}"
        );
        assert!(start.elapsed() < Duration::from_secs(3), "{bomb}: {:?}", start.elapsed());
        if let Some(peak) = peak_memory_bytes() {
            assert!(peak < 150 << 20, "{bomb}: {peak} bytes");
        }
    }
}

/// What compares two lists of 9,999 numbers, `a` and `b`, that are equal and not the same.
const COMPARISONS: &[&str] = &[
    "a == b",
    "[a] == [b]",
    "[a] < [b]",
    "a in [b]",
    "[a] is eq [b]",
    "a is in [b]",
    "[b].count(a)",
    "{a: 1}[b]",
    "{a: 1}.get(b)",
    "{a: 1, b: 2}",
    "[[a], [b]] | sort",
    "[[a], [b]] | unique",
    "[[a], [b]] | min",
    "[{'k': a}, {'k': b}] | groupby('k')",
    "{a: 1, b: 2} | dictsort",
    "[a] | select('eq', b)",
    "[[a]] | map('max')",
];

#[test]
fn comparisons_are_charged_for_all_that_they_read() {
    for comparison in COMPARISONS {
        let bomb = format!(
            "{{% set a = range(9999) | list %}}{{% set b = range(9999) | list %}}\
             {{% for i in range(9999) %}}{{% set x = {comparison} %}}{{% endfor %}}"
        );
        let start = Instant::now();
        let error = render(&bomb, &[]).expect_err(comparison);
        assert!(
            matches!(error, TextError::TemplateLimit { what: "bytes of work", .. }),
            "{comparison}: {error}"
        );
        assert!(start.elapsed() < Duration::from_secs(5), "{comparison}: {:?}", start.elapsed());
    }
}

#[test]
fn methods_of_loops_that_end_the_thread_are_refused() {
    for call in ["loop.cycle()", "loop.cycle(*[])", "loop.changed(1)"] {
        let error = render(&format!("{{% for x in [1] %}}{{{{ {call} }}}}{{% endfor %}}"), &[]).unwrap_err();
        assert!(error.to_string().contains("has no place in a chat template"), "{error}");
    }
}

#[test]
fn instructions_are_counted() {
    let bomb = "{% for a in range(99) %}{% for b in range(9999) %}{% if a and b and a and b %}{% endif %}\
                {% endfor %}{% endfor %}";
    let expected = TextError::TemplateLimit { line: 1, what: "instructions", max: TEMPLATE_FUEL };
    assert_eq!(render(bomb, &[]), Err(expected));
}

#[test]
fn counting_nothing_ends() {
    assert_eq!(render("{{ 'abc'.count('') }}", &[]).unwrap(), "4");
}

#[test]
fn templates_are_bounded() {
    let long = "x".repeat(50 << 20);
    let expected = TextError::TemplateTooLong { bytes: 50 << 20, max: MAX_TEMPLATE_BYTES };
    assert_eq!(ChatTemplate::new(&long).err(), Some(expected));
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(9999), ")".repeat(9999));
    assert!(ChatTemplate::new(&deep).is_err());
    let nested = "{% if true %}".repeat(9000);
    assert!(ChatTemplate::new(&nested).is_err());
}

/// Ways out of an unprotected Jinja: attributes of Python objects, other files, the host's functions.
#[test]
fn nothing_but_the_conversation_can_be_reached() {
    let probes = [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ ''|attr('__class__')|attr('__mro__') }}",
        "{{ self.__init__ }}{{ self._TemplateReference__context.x }}",
        "{{ lipsum.__globals__ }}",
        "{{ config.items() }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{% from '/etc/passwd' import x %}",
        "{% extends '/etc/passwd' %}",
        "{{ open('/etc/passwd') }}",
        "{{ get_flashed_messages() }}",
    ];
    for probe in probes {
        match render(probe, &[user("Hi")]) {
            Err(TextError::Template { .. }) => {}
            Ok(text) => assert_eq!(text, "", "{probe}"),
            Err(other) => panic!("{probe}: {other}"),
        }
    }
    assert_eq!(render("{{ ''.__class__ }}{{ x.__class__ is defined }}", &[]).ok(), None);
    assert_eq!(render("[{{ ''.__class__ }}]", &[]).unwrap(), "[]");
}

#[test]
fn long_conversations_are_within_the_limits() {
    let chats = fixture("chats.json");
    let qwen = chats.as_array().unwrap().iter().find(|model| model["name"] == "qwen3").unwrap();
    let template = ChatTemplate::new(qwen["template"].as_str().unwrap()).unwrap();
    let function = json!({"name": "f", "description": "d".repeat(500), "parameters": {}});
    let tool = json!({"type": "function", "function": function});
    let tools: Vec<Value> = vec![tool; 100];
    let mut messages = Vec::new();
    for turn in 0..1000 {
        messages.push(user(&format!("{turn} {}", "word ".repeat(400))));
        messages.push(ChatMessage::new(
            Role::Assistant,
            format!("<think>\nx\n</think>\n\n{}", "word ".repeat(400)),
        ));
    }
    let conversation = Conversation {
        messages: &messages,
        tools: &tools,
        add_generation_prompt: true,
        extra: &Map::new(),
        bos_token: "",
        eos_token: "",
        now: NOW,
    };
    assert!(template.render(&conversation).unwrap().len() > 4_000_000);
}

#[test]
fn reasoning_is_apart_for_templates_that_want_it() {
    let thought = ChatMessage::new(Role::Assistant, "<think>\nHm.\n</think>\n\nYes.");
    let render = |source: &str, message: &ChatMessage| render(source, std::slice::from_ref(message)).unwrap();
    let apart = "{{ messages[0].reasoning_content }}|{{ messages[0].content }}";
    assert_eq!(render(apart, &thought), "Hm.|Yes.");
    assert_eq!(render("{{ messages[0].thinking }}|{{ messages[0].content }}", &thought), "Hm.|Yes.");
    let by_itself = "{{ messages[0].content.split('</think>')[-1] }}{{ messages[0].reasoning_content }}";
    assert_eq!(render(by_itself, &thought), "\n\nYes.");
    assert_eq!(render("{{ messages[0].content }}", &thought), thought.content);
    let mut called = ChatMessage::new(Role::Assistant, "<think>\nHm.\n</think>\n\nI look.");
    called.tool_calls = vec![ToolCall { name: "add".into(), arguments: json!({}) }];
    assert_eq!(render("{{ messages[0].thinking }}|{{ messages[0].content }}", &called), "Hm.\n\nI look.|");
    assert_eq!(render(apart, &called), "Hm.|I look.");
    let said = ChatMessage::new(Role::User, thought.content.clone());
    assert_eq!(render(apart, &said), format!("|{}", said.content));
}

#[test]
fn ids_of_calls_name_the_tool_where_the_template_reads_it_from_there() {
    let call = |name: &str| ToolCall { name: name.into(), arguments: json!({}) };
    let mut asked = ChatMessage::new(Role::Assistant, "");
    asked.tool_calls = vec![call("add"), call("now")];
    let messages = [asked, ChatMessage::new(Role::Tool, "1"), ChatMessage::new(Role::Tool, "2")];
    let source = "{% for message in messages %}{% for call in message.tool_calls %}{{ call.id }} {% endfor %}\
                  {{ message.tool_call_id }};{% endfor %}";
    assert_eq!(render(source, &messages).unwrap(), "call00000 call00001 ;call00000;call00001;");
    let kimi = format!("{{# <|tool_call_argument_begin|> #}}{source}");
    assert_eq!(
        render(&kimi, &messages).unwrap(),
        "functions.add:0 functions.now:1 ;functions.add:0;functions.now:1;"
    );
}

#[test]
fn lists_in_a_namespace_can_be_changed() {
    let source = "{% set ns = namespace(ids=[1]) %}{% for x in [2, 3] %}{% set _ = ns.ids.append(x) %}{% endfor %}\
                  {{ ns.ids }}{% do ns.ids.append('a') %}{{ ns.ids|length }}{% set first = ns.ids[0] %}{{ first }}";
    assert_eq!(render(source, &[]).unwrap(), "[1, 2, 3]41");
    let queue = "{% set ns = namespace(ids=['a', 'b', 'c']) %}{% set first = ns.ids.pop(0) %}{{ first }}{{ ns.ids.pop() }}{{ ns.ids }}";
    assert_eq!(render(queue, &[]).unwrap(), "ac['b']");
    for (source, why) in [
        ("{% set ns = namespace(a=1) %}{% do ns.a.append(1) %}", "`a` of the namespace is no list"),
        ("{% set ns = namespace() %}{% do ns.a.append(1) %}", "`a` of the namespace is no list"),
        ("{% set ns = namespace(a=[]) %}{% do ns.a.pop() %}", "has no element -1 to take out"),
        ("{% do messages.a.append(1) %}", "only lists in a namespace can be changed"),
    ] {
        let error = render(source, &[]).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let endless =
        "{% set ns = namespace(a=[]) %}{% for x in range(100000) %}{% do ns.a.append(ns.a) %}{% endfor %}";
    assert!(matches!(
        render(endless, &[]),
        Err(TextError::TemplateLimit { .. } | TextError::Template { .. })
    ));
    let long =
        "{% set ns = namespace(a=[]) %}{% for x in range(100000) %}{% do ns.a.append(x) %}{% endfor %}";
    assert!(matches!(render(long, &[]), Err(TextError::TemplateLimit { .. } | TextError::Template { .. })));
}
