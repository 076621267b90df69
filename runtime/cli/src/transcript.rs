//! `membrane audit show` and `export`: the answers of a log, for people and for programs.

use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use membrane_audit::text::Texts;
use membrane_audit::verify::{FindingKind, Trusted, verify};
use membrane_audit::{
    Behaviour, Content, Digest, Event, Judgement, RecordedAnswer, Sealed, Swap, Swapped, Transcript, Verdict,
};
use membrane_profile::Kind;
use serde_json::{Value, json};

use crate::printer;
use crate::report::{one_line, printable};

/// Reads a log, or of its answers one. A torn last line is left out, and that is said.
fn read(log: &Path, answer: Option<u64>) -> Result<Transcript> {
    let transcript = Transcript::read(log, answer)?;
    if let Some(line) = transcript.torn {
        let place = one_line(&format!("{}:{line}", log.display()));
        eprintln!(
            "note: {place}: this last line is not whole and is left out: its writer was killed, or is still writing"
        );
    }
    Ok(transcript)
}

/// Reads a log that verifies, but for a torn last line. `otherwise`: what comes of it if it does not.
pub fn verified(log: &Path, answer: Option<u64>, otherwise: &str) -> Result<Transcript> {
    let report = verify(log, &Trusted::default())?;
    let changed = report.findings.iter().find(|finding| finding.kind != FindingKind::Torn);
    let what = changed.map(|finding| finding.what.as_str()).unwrap_or_default();
    ensure!(
        changed.is_none() && report.more_findings == 0,
        "{}: the log was changed ({what}); `membrane audit verify` says where. {otherwise}",
        log.display()
    );
    read(log, answer)
}

/// Lists the answers of a log, or what happened in one.
pub fn show(log: &Path, answer: Option<u64>, as_json: bool) -> Result<ExitCode> {
    let transcript = read(log, answer)?;
    for recorded in &transcript.answers {
        if as_json {
            printer::json(&summary(&transcript, recorded))?;
        } else {
            let mut out = stdout().lock();
            writeln!(out, "{}", line(&transcript, recorded))?;
            if answer.is_some() {
                details(&transcript, recorded, &mut out)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(transcript: &Transcript, answer: &RecordedAnswer) -> Value {
    let count = |kind: fn(&Event) -> bool| answer.events.iter().filter(|event| kind(event)).count();
    json!({
        "answer": answer.number,
        "at_ms": answer.at_ms,
        "model": transcript.models.get(&answer.start.model).map(|model| &model.path),
        "profile": transcript.behaviours.get(&answer.start.behaviour).map(|behaviour| &behaviour.profile),
        "profile_digest": transcript.behaviours.get(&answer.start.behaviour).map(|behaviour| behaviour.digest),
        "seed": answer.start.seed,
        "rounds": count(|event| matches!(event, Event::Round(_))),
        "tokens": answer.tokens(),
        "tool_calls": count(|event| matches!(event, Event::Tool(_))),
        "verdicts": answer.verdicts().collect::<Vec<_>>(),
        "swaps": answer.swaps().collect::<Vec<_>>(),
        "reason": answer.end().map(|end| &end.reason),
    })
}

fn line(transcript: &Transcript, answer: &RecordedAnswer) -> String {
    let summary = summary(transcript, answer);
    let text = |key: &str| summary[key].as_str().unwrap_or("?").to_owned();
    let end = answer.end().map_or("not ended: the program was killed, or is not done", |end| &end.reason);
    one_line(&format!(
        "answer {}  {}  {} tokens in {} rounds, {} verdicts, {} tool calls{}, profile {}, seed {}: {end}",
        answer.number,
        utc(answer.at_ms),
        summary["tokens"],
        summary["rounds"],
        answer.verdicts().count(),
        summary["tool_calls"],
        match answer.swaps().count() {
            0 => String::new(),
            swaps => format!(", {swaps} reloads"),
        },
        text("profile"),
        answer.start.seed,
    ))
}

fn details(transcript: &Transcript, answer: &RecordedAnswer, out: &mut impl Write) -> Result<()> {
    if let Some(model) = transcript.models.get(&answer.start.model) {
        writeln!(out, "  model {} ({})", one_line(&model.path), one_line(&model.architecture))?;
        for file in &model.files {
            match file.whole {
                Some(whole) if file.remembered => writeln!(out, "    {whole} (remembered)")?,
                Some(whole) => writeln!(out, "    {whole}")?,
                None => writeln!(out, "    header {}", file.header)?,
            }
        }
    }
    let engine = &answer.start.engine;
    let (version, set) = (one_line(&engine.version), one_line(&engine.instruction_set));
    let activations = match &engine.activations {
        Some(integers) => one_line(integers),
        None if engine.reference => "f32".into(),
        None => "int16".into(),
    };
    writeln!(out, "  engine {version}, {set}, activations {activations}, context {}", engine.context)?;
    behaviour(transcript, answer.start.behaviour, out)?;
    for event in &answer.events {
        match event {
            Event::Round(round) => writeln!(out, "  round: a prompt of {} tokens", round.tokens)?,
            // What policies were shown behind the last token, as before a judgement.
            Event::Tokens(tokens) if tokens.count == 0 => {}
            Event::Tokens(tokens) => {
                let by: Vec<&str> = tokens.by.iter().map(|(name, _)| name.as_str()).collect();
                let last = tokens.first.saturating_add(tokens.count);
                writeln!(out, "  tokens {} to {last} by {}", tokens.first, one_line(&by.join(", ")))?;
            }
            Event::Verdict(made) => writeln!(out, "  {}", verdict(made))?,
            Event::Judgement(made) => writeln!(out, "  {}", judgement(made))?,
            Event::Tool(tool) => {
                let name = tool.name.as_deref().unwrap_or("(not offered)");
                let outcome = match (tool.made, tool.ok) {
                    (false, _) => "not made",
                    (true, true) => "made",
                    (true, false) => "made, failed",
                };
                writeln!(out, "  tool {}: {outcome}", one_line(name))?;
            }
            Event::Rewind(rewind) => writeln!(out, "  goes on behind {} other tokens", rewind.tokens)?,
            Event::Swap(swap) => {
                writeln!(out, "  {}", one_line(&reload(transcript, swap)))?;
                for swapped in &swap.plugins {
                    writeln!(out, "    {}", one_line(&exchange(swapped)))?;
                }
            }
            Event::End(end) => writeln!(out, "  end: {}", one_line(&end.reason))?,
        }
    }
    Ok(())
}

fn behaviour(transcript: &Transcript, number: u64, out: &mut impl Write) -> Result<()> {
    let Some(behaviour) = transcript.behaviours.get(&number) else { return Ok(()) };
    writeln!(out, "  profile {} {}", one_line(&behaviour.profile), behaviour.digest)?;
    for plugin in &behaviour.plugins {
        let version = plugin.version.as_deref().unwrap_or("no version");
        let text = format!("{} {} {version}, {}", plugin.kind, plugin.name, plugin.digest);
        let grants = if plugin.grants.is_empty() {
            String::new()
        } else {
            format!(", grants {}", plugin.grants.join(", "))
        };
        let isolation = plugin.isolation.as_ref().map_or(String::new(), |mode| format!(", isolation {mode}"));
        writeln!(out, "    {}", one_line(&(text + &grants + &isolation)))?;
        for authority in &plugin.authority {
            writeln!(out, "      may {}", one_line(authority))?;
        }
    }
    Ok(())
}

/// A reload in one line.
fn reload(transcript: &Transcript, swap: &Swap) -> String {
    let Swap { token, behaviour, rolled_back, .. } = swap;
    let what = if *rolled_back {
        "a plugin failed, and its version before is back"
    } else {
        "plugins are exchanged"
    };
    let profile = transcript.behaviours.get(behaviour);
    let profile =
        profile.map_or(String::new(), |known| format!(", profile {} {}", known.profile, known.digest));
    format!("from token {token} {what}{profile}")
}

/// What became of a plugin in one line.
fn exchange(swapped: &Swapped) -> String {
    let Swapped { kind, plugin, from, to, effect, state } = swapped;
    let version = |digest: Option<Digest>| digest.map_or("nothing".to_owned(), |digest| digest.to_string());
    let state = if *state { ", with its state" } else { "" };
    format!("{kind} {plugin}: {} becomes {}, {effect}{state}", version(*from), version(*to))
}

fn verdict(verdict: &Verdict) -> String {
    let Verdict { policy, hook, verdict, clause, tokens, .. } = verdict;
    let place = tokens.map_or(String::new(), |span| format!(", tokens {} to {}", span.start, span.end));
    one_line(&format!("policy {policy}, {hook}: {verdict} by {clause}{place}"))
}

/// What the model judged for a policy, in one line.
fn judgement(judgement: &Judgement) -> String {
    let Judgement { policy, tokens, scores, .. } = judgement;
    let scores = match scores {
        Some(scores) => scores.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        None => "no scores".to_owned(),
    };
    one_line(&format!("judged for policy {policy}, {tokens} tokens: {scores}"))
}

/// Writes answers with what is kept of them: what people saw, and only on demand what policies `withheld`.
pub fn export(log: &Path, answer: Option<u64>, as_json: bool, withheld: bool) -> Result<ExitCode> {
    let transcript = read(log, answer)?;
    let texts = Texts::beside(log)?;
    for recorded in &transcript.answers {
        if as_json {
            printer::json(&exported(&transcript, recorded, texts.as_ref(), withheld))?;
        } else {
            markdown(&transcript, recorded, texts.as_ref(), withheld, &mut stdout().lock())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn exported(
    transcript: &Transcript,
    answer: &RecordedAnswer,
    texts: Option<&Texts>,
    withheld: bool,
) -> Value {
    let content = |sealed: &Sealed| texts.and_then(|texts| texts.get(&sealed.digest));
    let judged = has_policies(transcript, answer);
    let hidden = !withheld && holds_withheld(transcript, answer);
    let event = |event: &Event| {
        let mut value = serde_json::to_value(event).unwrap_or_default();
        if let (Some(object), Some(content)) = (value.as_object_mut(), event.sealed().and_then(content)) {
            object.insert("content".into(), serde_json::to_value(content).unwrap_or_default());
        }
        if !withheld {
            leave_out(event, judged, &mut value);
        }
        if hidden && let (Event::Round(_), Some(object)) = (event, value.as_object_mut()) {
            object.remove("content");
            object.get_mut("round").and_then(Value::as_object_mut).map(|round| round.remove("ids"));
            unsalt(&mut value, "round", "prompt");
        }
        value
    };
    let mut start = json!({ "start": answer.start });
    if hidden && answer.start.raw {
        unsalt(&mut start, "start", "request");
    }
    let others = answer.swaps().map(|swap| swap.behaviour).chain(answer.start.before);
    let behaviours: BTreeMap<u64, Option<&Behaviour>> =
        others.map(|number| (number, transcript.behaviours.get(&number))).collect();
    json!({
        "answer": answer.number,
        "at_ms": answer.at_ms,
        "model": transcript.models.get(&answer.start.model),
        "behaviour": transcript.behaviours.get(&answer.start.behaviour),
        "behaviours": behaviours,
        "start": start["start"],
        "request": content(&answer.start.request).filter(|_| !(hidden && answer.start.raw)),
        "events": answer.events.iter().map(event).collect::<Vec<_>>(),
    })
}

/// Whether policies stood between the model and the person, or can't be told not to have.
pub fn has_policies(transcript: &Transcript, answer: &RecordedAnswer) -> bool {
    let mut behaviours = answer.swaps().map(|swap| swap.behaviour).chain([answer.start.behaviour]);
    let policy = |plugin: &membrane_audit::Plugin| plugin.kind == Kind::Policy.as_str();
    behaviours.any(|number| {
        transcript.behaviours.get(&number).is_none_or(|behaviour| behaviour.plugins.iter().any(policy))
    })
}

/// Whether what the model read may have what policies withheld: the context of an agent's generation holds the model's own words of
/// earlier ones, whatever the agent was shown of them.
fn holds_withheld(transcript: &Transcript, answer: &RecordedAnswer) -> bool {
    let behaviour = transcript.behaviours.get(&answer.start.behaviour);
    let agent = |plugin: &membrane_audit::Plugin| plugin.kind == Kind::Agent.as_str();
    has_policies(transcript, answer) && behaviour.is_none_or(|behaviour| behaviour.plugins.iter().any(agent))
}

/// Takes the salt out of what a record has the digest of: with it likely texts could be tried.
fn unsalt(value: &mut Value, record: &str, sealed: &str) {
    let sealed = value.get_mut(record).and_then(|record| record.get_mut(sealed));
    if let Some(sealed) = sealed.and_then(Value::as_object_mut) {
        sealed.remove("salt");
    }
}

/// Takes what no policy has released out of an event: what the model wrote, asked for and would have got, and, where
/// policies `judged`, what a plugin said that failed.
fn leave_out(event: &Event, judged: bool, value: &mut Value) {
    match event {
        Event::Tokens(_) | Event::Rewind(_) => {
            let tokens = matches!(event, Event::Tokens(_));
            let (kind, sealed) = if tokens { ("tokens", "text") } else { ("rewind", "prompt") };
            unsalt(value, kind, sealed);
            if let Some(record) = value[kind].as_object_mut() {
                record.remove("ids");
            }
            if let Some(object) = value.as_object_mut() {
                object.remove("content");
            }
        }
        Event::Tool(_) => {
            unsalt(value, "tool", "call");
            if let Some(call) = value["content"]["call"].as_object_mut() {
                call.retain(|key, _| matches!(key.as_str(), "made" | "read"));
            }
        }
        // What was judged is what is not released yet.
        Event::Judgement(_) => {
            unsalt(value, "judgement", "text");
            if let Some(record) = value["judgement"].as_object_mut() {
                record.remove("ids");
            }
            if let Some(object) = value.as_object_mut() {
                object.remove("content");
            }
        }
        Event::End(_) if judged => {
            unsalt(value, "end", "text");
            if let Some(end) = value["content"]["end"].as_object_mut() {
                end.remove("error");
            }
        }
        Event::Round(_) | Event::Verdict(_) | Event::Swap(_) | Event::End(_) => {}
    }
}

fn markdown(
    transcript: &Transcript,
    answer: &RecordedAnswer,
    texts: Option<&Texts>,
    withheld: bool,
    out: &mut impl Write,
) -> Result<()> {
    writeln!(out, "# Answer {}\n\n{}\n", answer.number, line(transcript, answer))?;
    let mut block = |title: &str, text: &str| -> Result<()> {
        writeln!(out, "## {}\n", one_line(title))?;
        for line in printable(text).lines() {
            writeln!(out, "    {line}")?;
        }
        Ok(writeln!(out)?)
    };
    let content = |sealed: &Sealed| texts.and_then(|texts| texts.get(&sealed.digest));
    let hidden = answer.start.raw && !withheld && holds_withheld(transcript, answer);
    if hidden {
        block("context", "is left out: it may have what policies withheld")?;
    } else if let Some(Content::Request(request)) = content(&answer.start.request) {
        for message in &request.messages {
            let part = |key: &str| message[key].as_str().unwrap_or_default();
            block(part("role"), part("content"))?;
        }
    }
    let told = withheld || !has_policies(transcript, answer);
    let mut verdicts = 0;
    for event in &answer.events {
        match event.sealed().and_then(content) {
            Some(Content::Call(call)) => {
                match call.made.as_ref().or(withheld.then_some(&call.asked)) {
                    Some(asked) => block(&format!("asks for {}", asked.name), &asked.arguments)?,
                    None => block("asks for a tool", "and is not given it")?,
                }
                block("reads", call.read.as_deref().unwrap_or_default())?;
            }
            Some(Content::End(end)) => {
                block("released", &end.released)?;
                let error = end.error.as_deref().filter(|_| told);
                if let Some(message) = end.message.as_deref().or(error) {
                    block("instead of the rest", message)?;
                }
            }
            _ => {}
        }
        if let Event::Verdict(made) = event {
            verdicts += 1;
            block(&format!("verdict {verdicts}"), &verdict(made))?;
        }
        if let Event::Swap(swap) = event {
            let plugins: Vec<String> = swap.plugins.iter().map(exchange).collect();
            block(&reload(transcript, swap), &plugins.join("\n"))?;
        }
    }
    if content(&answer.start.request).is_none() {
        block("texts", "are not kept, or were erased")?;
    }
    Ok(())
}

/// A time as people read it, UTC.
fn utc(at_ms: u64) -> String {
    let (days, seconds) = ((at_ms / 86_400_000) as i64, at_ms / 1000 % 86_400);
    // Years that begin in March, so that a leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{of_month:02} {hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use membrane_audit::{
        Answer, Call, CallText, End, Engine, Keep, Log, LogOptions, Plugin, Record, RequestText, Rewind,
        Salt, Tokens, Tool,
    };

    use super::*;

    fn behaviour(plugins: Vec<Plugin>) -> Behaviour {
        Behaviour { profile: "default".into(), digest: Digest::of(b"profile"), plugins }
    }

    fn start(behaviour: u64, request: Sealed) -> Answer {
        let engine = Engine {
            version: "1".into(),
            instruction_set: "scalar".into(),
            reference: false,
            activations: None,
            kv_cache: None,
            context: 8,
        };
        Answer {
            model: 1,
            behaviour,
            before: None,
            engine,
            seed: 1,
            max_tokens: None,
            raw: false,
            now: 0,
            constraint: None,
            request,
        }
    }

    #[test]
    fn policies_that_join_in_the_middle_of_an_answer_count() {
        let guard = Plugin {
            kind: "policy".into(),
            name: "guard".into(),
            digest: Digest::of(b"guard"),
            version: None,
            location: "guard".into(),
            parameters: serde_json::Map::new(),
            grants: Vec::new(),
            authority: Vec::new(),
            fuel_per_call: 1,
            memory_bytes: 1,
            wall_ms: None,
            isolation: None,
        };
        let behaviours = BTreeMap::from([(1, behaviour(Vec::new())), (2, behaviour(vec![guard]))]);
        let transcript = Transcript { behaviours, ..Transcript::default() };
        let request = Sealed { digest: Digest::of(b"request"), salt: None };
        let mut answer = RecordedAnswer { number: 3, at_ms: 0, start: start(1, request), events: Vec::new() };
        assert!(!has_policies(&transcript, &answer));
        let swap = Swap { answer: 3, token: 0, behaviour: 2, rolled_back: false, plugins: Vec::new() };
        answer.events.push(Event::Swap(swap));
        assert!(has_policies(&transcript, &answer));
    }

    #[test]
    fn what_is_left_out_of_an_export_can_not_be_found_by_trying() {
        let sealed = || Sealed { digest: Digest::of(b"text"), salt: Some(Salt::random().unwrap()) };
        let tokens = Tokens {
            answer: 1,
            first: 0,
            count: 1,
            ids: Some(vec![7]),
            by: vec![("greedy".into(), 1)],
            probabilities: vec![None],
            text: sealed(),
        };
        let end = End { answer: 1, reason: "stop".into(), rounds: 1, tokens: 1, text: sealed() };
        for event in [
            Event::Tokens(tokens),
            Event::Rewind(Rewind { answer: 1, tokens: 1, ids: Some(vec![7]), prompt: sealed() }),
            Event::Tool(Tool { answer: 1, name: None, made: false, ok: false, call: sealed() }),
            Event::End(end),
        ] {
            let mut value = serde_json::to_value(&event).unwrap();
            assert!(value.to_string().contains("salt"), "{value}");
            leave_out(&event, true, &mut value);
            assert!(!value.to_string().contains("salt") && !value.to_string().contains("ids"), "{value}");
        }
    }

    /// What the model writes, and what a plugin names, is in the document and none of its structure.
    #[test]
    fn names_of_others_begin_no_section_and_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let options = LogOptions { program: "test 1".into(), keep: Keep::Text, key: None };
        let mut log = Log::open(&path, options).unwrap();
        let behaviour = log.append(&Record::Behaviour(behaviour(Vec::new()))).unwrap();
        let request = Content::Request(RequestText { messages: Vec::new(), grammar: None });
        let request = log.seal(&request).unwrap();
        let answer = log.append(&Record::Answer(start(behaviour, request))).unwrap();
        let forged = "x\n\n## released\n\n    forged";
        let asked = Call { name: forged.into(), arguments: "{}\n\n## released".into() };
        let call = CallText { asked, made: None, result: None, read: None };
        let call = log.seal(&Content::Call(call)).unwrap();
        log.append(&Record::Tool(Tool { answer, name: None, made: false, ok: false, call })).unwrap();
        let made = Verdict {
            answer,
            policy: "guard".into(),
            hook: "output".into(),
            verdict: "stop".into(),
            clause: forged.into(),
            offset_bytes: None,
            tokens: None,
        };
        assert_eq!(verdict(&made).lines().count(), 1);
        let (transcript, texts) = (read(&path, None).unwrap(), Texts::beside(&path).unwrap());
        let mut out = Vec::new();
        markdown(&transcript, &transcript.answers[0], texts.as_ref(), true, &mut out).unwrap();
        let document = String::from_utf8(out).unwrap();
        assert!(document.contains("## asks for x  ## released      forged\n"), "{document}");
        assert!(!document.contains("\n## released"), "{document}");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00Z");
        assert_eq!(utc(951_782_399_000), "2000-02-28 23:59:59Z");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00Z");
        assert_eq!(utc(1_764_115_200_000), "2025-11-26 00:00:00Z");
        assert_eq!(utc(4_107_542_400_000), "2100-03-01 00:00:00Z");
    }
}
