//! `membrane replay`: recorded answers again. The whole generation, bit for bit; the decisions of policies alone,
//! without a model; or either under other plugins, with the first place that differs.

use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use membrane_audit::text::Texts;
use membrane_audit::{self as audit, Event, RecordedAnswer, Script, Transcript};
use membrane_engine::{KvFormat, Model, Precision, Prepared};
use membrane_generate::{
    Behaviour, Decided, Decisions, Difference, Generator, Replayed, Sameness, Versions, decide,
};
use membrane_host::{Component, Host, Plugin};
use membrane_profile::{
    Authority, ByteSize, Digest, Kind, LimitsSpec, Location, Origin, PluginArgument, Profile, ResolvedPlugin,
};
use serde::Serialize;

use crate::components::Components;
use crate::fingerprint::{self, Weights};
use crate::model::named;
use crate::options::MachineFlags;
use crate::report::{self, printable};
use crate::{printer, session, transcript};

/// Exit status where an answer comes out otherwise.
const DIFFERENT: u8 = 1;

#[derive(clap::Args)]
pub struct Args {
    /// The log
    log: PathBuf,
    /// Only this answer, by the number of its record; `membrane audit show` lists them
    #[arg(long, value_name = "N")]
    answer: Option<u64>,
    /// The model, if it is not where the log says
    #[arg(long, value_name = "MODEL", value_parser = named())]
    model: Option<PathBuf>,
    /// Replay the decisions of policies only, for which no model is needed
    #[arg(long, conflicts_with = "sampler")]
    decisions: bool,
    /// Policies in place of the recorded ones: what would they have decided? May be repeated
    #[arg(long, value_name = "PLUGIN")]
    policy: Vec<PluginArgument>,
    /// A sampler chain in place of the recorded one, shown each recorded token: what would it have chosen?
    #[arg(long, value_name = "PLUGIN")]
    sampler: Vec<PluginArgument>,
    /// The samplers and policies of this profile in place of the recorded ones
    #[arg(long, value_name = "PROFILE.toml", conflicts_with_all = ["policy", "sampler"])]
    profile: Option<PathBuf>,
    /// Look here, by digest, for recorded components that are not where the log says: a .wasm file, or a folder of
    /// them; may be repeated
    #[arg(long, value_name = "PATH")]
    components: Vec<PathBuf>,
    /// Show tokens as texts, too, of answers that policies looked at: what they withheld may be among them
    #[arg(long)]
    withheld: bool,
    #[command(flatten)]
    load: MachineFlags,
    /// Print one JSON object for each answer
    #[arg(long)]
    json: bool,
    /// Print nothing beside the results
    #[arg(short, long)]
    quiet: bool,
}

/// What came of an answer.
#[derive(Serialize)]
struct Outcome {
    answer: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<Replayed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decisions: Option<Compared>,
    /// What was not replayed, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<String>,
}

/// The decisions of an answer, then and now.
#[derive(Serialize)]
struct Compared {
    recorded: usize,
    now: usize,
    /// `unchanged`, `changed`, `newly-refused`, `newly-allowed`, or `cant-tell`.
    outcome: &'static str,
    /// Why it can't be told, if it can't.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
    /// The first verdict that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<Diverging>,
}

/// A verdict that differs.
#[derive(Serialize)]
struct Diverging {
    /// Its place among the verdicts, from 0.
    index: usize,
    recorded: Option<Decided>,
    now: Option<Decided>,
    /// The last token that the policy had been shown, and its recorded probability.
    token: Option<u64>,
    probability: Option<f32>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let transcript = transcript::verified(&args.log, args.answer, "It is not replayed")?;
    let texts = Texts::beside(&args.log)?;
    let quiet = args.quiet || args.json;
    let mut replaying = Replaying {
        args,
        transcript: &transcript,
        host: session::host(quiet)?,
        others: Others::read(args)?,
        components: Components::read(&args.components)?,
        plugins: BTreeMap::new(),
        behaviours: BTreeMap::new(),
        generator: None,
        ids: transcript
            .answers
            .iter()
            .any(|answer| Script::of(answer, texts.as_ref()).is_ok_and(|script| script.ids)),
        quiet,
    };
    let mut same = true;
    for answer in &transcript.answers {
        let script = Script::of(answer, texts.as_ref());
        let script =
            script.map_err(anyhow::Error::msg).with_context(|| format!("answer {}", answer.number))?;
        let outcome = replaying.answer(answer, &script)?;
        same &= outcome.same();
        if args.json {
            printer::json(&outcome)?;
        } else {
            write!(stdout().lock(), "{}", outcome.text())?;
        }
    }
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}

/// Plugins in place of the recorded ones.
struct Others {
    samplers: Option<Vec<ResolvedPlugin>>,
    policies: Option<Vec<ResolvedPlugin>>,
}

impl Others {
    fn read(args: &Args) -> Result<Self> {
        if let Some(path) = &args.profile {
            let profile = Profile::read(path)?;
            let samplers = Some(profile.samplers().to_vec());
            return Ok(Self { samplers, policies: Some(profile.policies().to_vec()) });
        }
        let profile = Profile::default_profile();
        let profile = profile.with_samplers(args.sampler.clone())?.with_policies(args.policy.clone())?;
        let given = |arguments: &[PluginArgument], list: &[ResolvedPlugin]| {
            (!arguments.is_empty()).then(|| list.to_vec())
        };
        Ok(Self {
            samplers: given(&args.sampler, profile.samplers()),
            policies: given(&args.policy, profile.policies()),
        })
    }
}

struct Replaying<'a> {
    args: &'a Args,
    transcript: &'a Transcript,
    host: Host,
    others: Others,
    components: Components,
    /// Recorded plugins, by their records' JSON.
    plugins: BTreeMap<String, Plugin>,
    /// By the number of the record.
    behaviours: BTreeMap<u64, Behaviour>,
    /// For the model, behaviour, context, precision and cache of the last answer.
    generator: Option<(Setting, Generator)>,
    /// Whether an answer of the log can be generated again.
    ids: bool,
    quiet: bool,
}

/// What answers must share to be generated again with one generator.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Setting {
    model: u64,
    behaviour: u64,
    context: u32,
    precision: Precision,
    kv: KvFormat,
}

impl Replaying<'_> {
    fn answer(&mut self, answer: &RecordedAnswer, script: &Script) -> Result<Outcome> {
        let mut outcome =
            Outcome { answer: answer.number, generation: None, decisions: None, left_out: Vec::new() };
        let behaviour = self.behaviour(answer.start.behaviour)?;
        let policies_only = self.others.policies.is_some() && self.others.samplers.is_none();
        let wants_generation = !self.args.decisions && !policies_only;
        let wants_decisions = self.others.samplers.is_none() || self.others.policies.is_some();
        // Recorded ones may have joined in its middle.
        let recorded = self.others.policies.is_none() && transcript::has_policies(self.transcript, answer);
        let decided = recorded || !behaviour.policies.is_empty() || !script.verdicts.is_empty();
        if wants_decisions && decided {
            if script.texts || self.args.decisions || policies_only {
                let others = self.others.policies.is_some();
                let versions = (!others).then(|| self.versions(answer, Kind::Policy)).transpose()?;
                let now = decide(&self.host, &behaviour.policies, answer.number, script, versions.as_ref())?;
                outcome.decisions = Some(compare(answer, script, &now, others));
            } else {
                let why = "decisions: texts were not kept (`--audit-keep text`), or were erased";
                outcome.left_out.push(why.to_owned());
            }
        }
        if wants_generation && self.ids && !script.ids {
            let why = "generation: token ids were not kept (`--audit-keep tokens`), or were erased";
            outcome.left_out.push(why.to_owned());
        } else if wants_generation {
            let path = self.model_path(answer)?;
            if !path.exists() && outcome.decisions.is_some() && self.args.model.is_none() {
                outcome.left_out.push(format!("generation: {} is not there; give --model", path.display()));
            } else {
                let others = self.others.samplers.is_some();
                let (sameness, versions) = match others {
                    true => (Sameness::Tokens, Versions::default()),
                    false => (Sameness::Bits, self.versions(answer, Kind::Sampler)?),
                };
                let generator = self.generator(answer, &path, behaviour)?;
                let seed = answer.start.seed;
                let mut generation = generator.replay(answer.number, seed, script, sameness, &versions)?;
                if let (Some(first), true) = (&mut generation.first, self.hides_texts(answer)) {
                    first.recorded.text.clear();
                    first.now.text.clear();
                }
                outcome.generation = Some(generation);
            }
        }
        if outcome.generation.is_none() && wants_decisions && !decided {
            outcome.left_out.push("decisions: there is no policy".to_owned());
        }
        Ok(outcome)
    }

    /// Whether what the model wrote is not to be shown: policies may have withheld it.
    fn hides_texts(&self, answer: &RecordedAnswer) -> bool {
        !self.args.withheld && transcript::has_policies(self.transcript, answer)
    }

    /// The plugins of an answer, or those in their place.
    fn behaviour(&mut self, number: u64) -> Result<Behaviour> {
        if let Some(known) = self.behaviours.get(&number) {
            return Ok(known.clone());
        }
        let recorded = self.transcript.behaviours.get(&number);
        let recorded = recorded.with_context(|| format!("the log has no behaviour {number}"))?;
        let mut behaviour = Behaviour::default();
        if !self.args.decisions {
            behaviour.samplers = match &self.others.samplers {
                Some(others) => others.iter().map(|other| load(&self.host, other)).collect::<Result<_>>()?,
                None => self.recorded(recorded, Kind::Sampler)?,
            };
        }
        behaviour.policies = match &self.others.policies {
            Some(others) => others.iter().map(|other| load(&self.host, other)).collect::<Result<_>>()?,
            None => self.recorded(recorded, Kind::Policy)?,
        };
        // Tools are not called again: a record has their results.
        self.behaviours.insert(number, behaviour.clone());
        Ok(behaviour)
    }

    /// The plugins of a kind in each behaviour that an answer took over in its middle, or would have gone back to.
    fn versions(&mut self, answer: &RecordedAnswer, kind: Kind) -> Result<Versions> {
        let exchanged = answer.swaps().map(|swap| (swap.behaviour, format!("from token {} on", swap.token)));
        let before = answer.start.before.map(|before| (before, "to be gone back to".to_owned()));
        let mut versions = Versions::new();
        for (number, when) in exchanged.chain(before) {
            if versions.contains_key(&number) {
                continue;
            }
            let recorded = self.transcript.behaviours.get(&number);
            let recorded = recorded.with_context(|| format!("the log has no behaviour {number}"))?;
            let mut behaviour = Behaviour::default();
            let plugins = self.recorded(recorded, kind).with_context(|| {
                format!("answer {} needs behaviour {number}, which was there {when}", answer.number)
            })?;
            match kind {
                Kind::Sampler => behaviour.samplers = plugins,
                Kind::Policy => behaviour.policies = plugins,
                Kind::Tool | Kind::Agent => {}
            }
            versions.insert(number, behaviour);
        }
        Ok(versions)
    }

    /// The plugins of a kind as they are recorded.
    fn recorded(&mut self, behaviour: &audit::Behaviour, kind: Kind) -> Result<Vec<Plugin>> {
        let mut plugins = Vec::new();
        for recorded in behaviour.plugins.iter().filter(|plugin| plugin.kind == kind.as_str()) {
            let key = serde_json::to_string(recorded)?;
            let plugin = match self.plugins.get(&key) {
                Some(plugin) => plugin.clone(),
                None => load_recorded(&self.host, recorded, kind, &self.components)?,
            };
            self.plugins.insert(key, plugin.clone());
            plugins.push(plugin);
        }
        Ok(plugins)
    }

    fn recorded_model(&self, answer: &RecordedAnswer) -> Result<&audit::Model> {
        let number = answer.start.model;
        self.transcript.models.get(&number).with_context(|| format!("the log has no model {number}"))
    }

    fn model_path(&self, answer: &RecordedAnswer) -> Result<PathBuf> {
        match &self.args.model {
            Some(path) => Ok(path.clone()),
            None => Ok(PathBuf::from(&self.recorded_model(answer)?.path)),
        }
    }

    /// A generator with the recorded model, checked against its digests.
    fn generator(
        &mut self,
        answer: &RecordedAnswer,
        path: &Path,
        behaviour: Behaviour,
    ) -> Result<&mut Generator> {
        let engine = &answer.start.engine;
        let setting = Setting {
            model: answer.start.model,
            behaviour: answer.start.behaviour,
            context: engine.context,
            precision: precision(engine)?,
            kv: kv_format(engine)?,
        };
        if self.generator.as_ref().is_none_or(|(known, _)| *known != setting) {
            let before = self.generator.take();
            let fits = |known: &Setting| Setting { behaviour: setting.behaviour, ..*known } == setting;
            let model = match before {
                Some((known, generator)) if fits(&known) => generator.model().clone(),
                // Dropped before another is loaded: both together may not fit.
                other => {
                    drop(other);
                    self.load(answer, path, &behaviour)?
                }
            };
            let generator = Generator::new(self.host.clone(), model, behaviour)?;
            self.generator = Some((setting, generator));
        }
        self.generator.as_mut().map(|(_, generator)| generator).context("no generator")
    }

    fn load(&self, answer: &RecordedAnswer, path: &Path, behaviour: &Behaviour) -> Result<Model> {
        let engine = &answer.start.engine;
        let reserve = behaviour.samplers.iter().map(session::instance_bytes).fold(0, u64::saturating_add);
        let mut options = self.args.load.load_options(reserve)?;
        options.context = options.context.or(Some(engine.context));
        options.precision = precision(engine)?;
        options.kv = kv_format(engine)?;
        let model = report::load(Prepared::open(path, &options)?, self.quiet)?;
        let recorded = self.recorded_model(answer)?;
        let weights = match recorded.files.iter().any(|file| file.whole.is_some()) {
            true => Weights::Whole,
            false => Weights::Header,
        };
        let found = fingerprint::model(&model, weights, self.quiet)?;
        check_model(recorded, &found)
            .with_context(|| format!("{} is not the recorded model", path.display()))?;
        if !self.quiet && engine.version != env!("CARGO_PKG_VERSION") {
            eprintln!("the answer was made by version {}, this is another", printable(&engine.version));
        }
        Ok(model)
    }
}

/// How activations were rounded. Errors: in a way that this version does not know.
fn precision(engine: &audit::Engine) -> Result<Precision> {
    match engine.activations.as_deref() {
        None if engine.reference => Ok(Precision::Reference),
        None => Ok(Precision::Int16),
        Some(name) => {
            let known =
                [Precision::Int8, Precision::Int8Groups].into_iter().find(|known| known.name() == name);
            known.with_context(|| {
                format!(
                    "the answer was made with activations in {}, which this version has not",
                    printable(name)
                )
            })
        }
    }
}

/// How keys and values were kept. Errors: in a way that this version does not know.
fn kv_format(engine: &audit::Engine) -> Result<KvFormat> {
    let Some(name) = &engine.kv_cache else { return Ok(KvFormat::F16) };
    KvFormat::from_name(name).with_context(|| {
        format!("the answer was made with a cache in {}, which this version has not", printable(name))
    })
}

/// Names what of a model is not as it is recorded.
fn check_model(recorded: &audit::Model, found: &audit::Model) -> Result<()> {
    let mut wrong = Vec::new();
    let mut compare = |what: &str, same: bool| {
        if !same {
            wrong.push(what.to_owned());
        }
    };
    compare("the number of files", recorded.files.len() == found.files.len());
    compare("the tokenizer", recorded.tokenizer == found.tokenizer);
    compare("the chat template", recorded.template == found.template);
    for (index, (was, is)) in recorded.files.iter().zip(&found.files).enumerate() {
        let file = index + 1;
        compare(&format!("the header of file {file}"), was.header == is.header);
        compare(&format!("the size of file {file}"), was.bytes == is.bytes);
        compare(&format!("file {file} as a whole"), was.whole.is_none() || was.whole == is.whole);
    }
    if !wrong.is_empty() {
        bail!("its digests differ: {}; give the recorded file with --model", wrong.join(", "));
    }
    Ok(())
}

/// A plugin as it is recorded. Errors: it is neither where it was nor among `components`.
fn load_recorded(
    host: &Host,
    recorded: &audit::Plugin,
    kind: Kind,
    components: &Components,
) -> Result<Plugin> {
    let path = recorded.location.contains('/') || recorded.location.ends_with(".wasm");
    let location = match path {
        true => Location::Path(PathBuf::from(&recorded.location)),
        false => Location::FirstParty(recorded.location.clone()),
    };
    let mut resolved = ResolvedPlugin {
        kind,
        name: recorded.name.clone(),
        location,
        parameters: recorded.parameters.clone(),
        grants: recorded.grants.clone(),
        // Tools are not called again: what they gave back is recorded.
        authority: Authority::default(),
        limits: LimitsSpec {
            fuel_per_call: Some(recorded.fuel_per_call),
            memory: Some(ByteSize(recorded.memory_bytes)),
            wall_ms: recorded.wall_ms,
        },
        // The record pins it, below.
        pin: None,
        publisher: None,
        unsigned: true,
        origin: Origin::CommandLine,
        isolation: None,
    };
    let digest = Digest::from_bytes(*recorded.digest.as_bytes());
    let mut component = Component::of(&resolved);
    if let Some(path) = components.of(digest)
        && component.as_ref().map_or(true, |found| found.digest != digest)
    {
        resolved.location = Location::Path(path.to_owned());
        component = Component::of(&resolved);
    }
    let (name, place) = (printable(&recorded.name), printable(&recorded.location));
    let hint =
        format!("Give the recorded component, or its folder, with --components, or another with --{kind}");
    let component =
        component.with_context(|| format!("{kind} `{name}`: the component {digest} is not there. {hint}"))?;
    ensure!(
        component.digest == digest,
        "{kind} `{name}` ({place}) is not the recorded one: it has the digest {}, recorded is {digest}. {hint}",
        component.digest,
    );
    session::load(host, &resolved, &component, None, &Behaviour::default())
}

/// Compares decisions. `others`: the policies are not the recorded ones, so their names don't count.
fn compare(answer: &RecordedAnswer, script: &Script, now: &Decisions, others: bool) -> Compared {
    let recorded: Vec<Decided> = script.verdicts.iter().map(Decided::from).collect();
    let same = |a: Option<&Decided>, b: Option<&Decided>| match (a, b) {
        (Some(a), Some(b)) => {
            (&a.hook, &a.verdict, &a.clause, a.offset_bytes)
                == (&b.hook, &b.verdict, &b.clause, b.offset_bytes)
                && (others || a.policy == b.policy)
        }
        (None, None) => true,
        _ => false,
    };
    let most = recorded.len().max(now.verdicts.len());
    let index = (0..most).find(|&index| !same(recorded.get(index), now.verdicts.get(index)));
    let refused = matches!(answer.events.last(), Some(Event::End(end)) if end.reason == "refused");
    let texts =
        script.end.as_ref().is_none_or(|end| end.released == now.released && end.message == now.refused);
    let outcome = match (refused, now.refused.is_some()) {
        _ if now.unknown.is_some() => "cant-tell",
        (false, true) => "newly-refused",
        (true, false) => "newly-allowed",
        _ if index.is_some() || !texts || now.first_swap.is_some() => "changed",
        _ => "unchanged",
    };
    let first = index.map(|index| {
        let (was, is) = (recorded.get(index).cloned(), now.verdicts.get(index).cloned());
        let token = [&was, &is].into_iter().flatten().filter_map(|decided| decided.token).min();
        let last = token.and_then(|token| script.tokens().nth(token.checked_sub(1)? as usize));
        Diverging {
            index,
            recorded: was,
            now: is,
            token,
            probability: last.and_then(|token| token.probability),
        }
    });
    Compared {
        recorded: recorded.len(),
        now: now.verdicts.len(),
        outcome,
        unknown: now.unknown.clone(),
        first,
    }
}

impl Outcome {
    fn same(&self) -> bool {
        self.generation.as_ref().is_none_or(Replayed::identical)
            && self.decisions.as_ref().is_none_or(|decisions| decisions.outcome == "unchanged")
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        if let Some(generation) = &self.generation {
            let Replayed { rounds, tokens, same, swaps, first, first_swap, judgements, .. } = generation;
            let swaps = if *swaps > 0 { format!(", {swaps} reloads") } else { String::new() };
            let judged = if *judgements > 0 { format!(", {judgements} judgements") } else { String::new() };
            lines.push(match (first, first_swap.as_ref().or(generation.first_judgement.as_ref())) {
                (None, None) => {
                    format!("generation: {tokens} tokens in {rounds} rounds{swaps}{judged}, identical")
                }
                (None, Some(what)) => format!("generation: {same} of {tokens} tokens are the same; {what}"),
                (Some(first), _) => {
                    format!("generation: {same} of {tokens} tokens are the same; {}", at(first))
                }
            });
        }
        if let Some(Compared { recorded, now, outcome, unknown, first }) = &self.decisions {
            lines.push(format!("decisions: {recorded} verdicts recorded, {now} now, {outcome}"));
            match unknown {
                Some(why) => lines.push(format!("can't tell: {why}")),
                None => lines.extend(first.iter().map(diverging)),
            }
        }
        lines.extend(self.left_out.iter().map(|what| format!("not replayed: {what}")));
        let line = |line: String| printable(&format!("answer {}: {line}", self.answer)) + "\n";
        lines.into_iter().map(line).collect()
    }
}

fn at(difference: &Difference) -> String {
    let Difference { index, recorded, now } = difference;
    let candidate = |candidate: &membrane_generate::Candidate| {
        let drawn = candidate.probability.map_or(String::new(), |p| format!(" drawn at {p:.4},"));
        let text = if candidate.text.is_empty() { "a token".into() } else { format!("{:?}", candidate.text) };
        format!(
            "{text} ({}, {}:{drawn} by the model {:.4}, place {})",
            candidate.token, candidate.by, candidate.model_probability, candidate.rank
        )
    };
    format!("the first difference is token {index}: recorded {}, now {}", candidate(recorded), candidate(now))
}

fn diverging(diverging: &Diverging) -> String {
    let verdict = |decided: &Option<Decided>| match decided {
        None => "nothing".to_owned(),
        Some(Decided { policy, hook, verdict, clause, .. }) => {
            format!("{policy}, {hook}: {verdict} by {clause}")
        }
    };
    let place = match (diverging.token, diverging.probability) {
        (Some(token), Some(probability)) => format!(" at token {token}, drawn at {probability:.4}"),
        (Some(token), None) => format!(" at token {token}"),
        (None, _) => String::new(),
    };
    let (recorded, now) = (verdict(&diverging.recorded), verdict(&diverging.now));
    format!("the first difference is verdict {}{place}: recorded {recorded}; now {now}", diverging.index)
}

fn load(host: &Host, resolved: &ResolvedPlugin) -> Result<Plugin> {
    session::load(host, resolved, &Component::of(resolved)?, None, &Behaviour::default())
}
