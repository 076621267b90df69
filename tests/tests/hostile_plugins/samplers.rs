//! Samplers that do not come back, take too much, or choose what is not theirs.

use membrane_host::World;
use serde_json::{Value, json};

use crate::arena::{Arena, failed};
use crate::attack::{Attack, Outcome};

/// An attack in the call for one token, by a guest with this parameter.
fn mode(
    name: &'static str,
    mode: &'static str,
    tries: &'static str,
    says: &'static [&'static str],
) -> Attack {
    Attack { tries, says, ..stepping(name, json!({ "mode": mode })) }
}

/// One token by a guest, which must fail.
pub fn stepping(name: &'static str, parameters: Value) -> Attack {
    Attack::new(name, World::Sampler, "", &[], move |arena: &Arena| match sample(arena, parameters.clone()) {
        Ok(token) => Err(format!("it chose token {token}")),
        Err(error) => Ok(error),
    })
}

fn sample(arena: &Arena, parameters: Value) -> Result<u32, String> {
    let plugin = arena.guest("test-sampler", World::Sampler, parameters);
    plugin.and_then(|plugin| arena.step(&[plugin])).map_err(|error| error.to_string())
}

pub fn attacks() -> Vec<Attack> {
    vec![
        mode(
            "loop",
            "loop",
            "never comes back",
            &[
                "plugin `x`: sample ran out of fuel (150000000 units a call: limits.fuel_per_call in its profile entry)",
            ],
        ),
        mode(
            "loop in configure",
            "configure-loop",
            "never begins",
            &["plugin `x`: configure ran out of fuel (600000000"],
        ),
        mode(
            "work of the host",
            "host-work",
            "has the host sort for ever",
            &["plugin `x`: sample ran out of fuel"],
        ),
        mode(
            "memory",
            "memory",
            "takes all memory",
            &["plugin `x`: sample asked for more memory than its limit of 64 MiB"],
        ),
        mode("recursion", "recursion", "ends the host's stack", &["plugin `x`: sample recursed too deep"]),
        mode(
            "wide recursion",
            "wide-recursion",
            "ends its own stack",
            &["sample trapped: out of bounds memory access", "recursing too deep for the plugin's own stack"],
        ),
        mode(
            "panic with escapes",
            "panic",
            "writes to the terminal as it dies",
            &["sample trapped: unreachable", "purpose"],
        ),
        mode(
            "token beyond",
            "out-of-vocabulary",
            "chooses token 2^32 - 1",
            &[
                "plugin `x`: sample broke the contract: it chose token 4294967295; the vocabulary has 100 tokens",
            ],
        ),
        mode(
            "masked token",
            "masked",
            "chooses what is forbidden",
            &["it chose token 2, which is not in the running"],
        ),
        mode(
            "empty mask",
            "mask-all",
            "leaves no token",
            &["plugin `x`: sample failed: no token is left in the running"],
        ),
        mode(
            "logits that are NaN",
            "nan",
            "writes what can't be sorted",
            &["the logit of token 0 is not a number"],
        ),
        mode(
            "infinite logits",
            "infinite",
            "writes what can't be summed",
            &["plugin `x`: sample failed: ", "infin"],
        ),
        mode("too few logits", "few", "writes 5 logits", &["plugin `x`: sample failed: ", "5"]),
        mode(
            "bias that is NaN",
            "bias-nan",
            "spoils one logit",
            &["plugin `x`: sample failed: the bias of token 1 is NaN"],
        ),
        mode(
            "biases beyond",
            "bias-beyond",
            "adds to a token that there is not",
            &["plugin `x`: sample failed: ", "4294967295"],
        ),
        mode(
            "mask beyond",
            "mask-beyond",
            "masks a token that there is not",
            &["plugin `x`: sample failed: ", "4294967295"],
        ),
        Attack::new(
            "biases without end",
            World::Sampler,
            "adds the largest number, thrice",
            &["stays a number"],
            sum_of_biases,
        ),
        mode(
            "parameter that is NaN",
            "bad-parameter",
            "cuts at no number",
            &["top-p is NaN, which is not a finite number"],
        ),
        mode(
            "breakers",
            "breakers",
            "has 100,000 texts looked for",
            &["plugin `x`: sample failed: ", "breakers"],
        ),
        mode(
            "long text to encode",
            "encode",
            "has 2 MiB cut into tokens",
            &["plugin `x`: sample failed: ", "1048576"],
        ),
        mode(
            "texts too long to encode, for ever",
            "encode-forever",
            "has 2 MiB refused again and again",
            &["plugin `x`: sample ran out of fuel"],
        ),
        mode(
            "operations that do nothing, for ever",
            "apply-forever",
            "applies 100,000 empty lists of biases again and again",
            &["plugin `x`: sample ran out of fuel"],
        ),
        mode("long error", "long-error", "gives 48 MB of terminal titles", &["plugin `x`: sample "]),
        mode("longer error", "too-long-error", "gives 50 MiB", &["plugin `x`: sample "]),
        Attack::new(
            "flood of lines",
            World::Sampler,
            "logs 1,000 lines with escapes",
            &["256 of 1000 lines"],
            flood,
        ),
        Attack::new(
            "look at the prompt",
            World::Sampler,
            "reads tokens that it was not granted",
            &["sees nothing of the prompt"],
            prompt,
        ),
    ]
}

/// Biases that are finite each, and not in sum.
fn sum_of_biases(arena: &Arena) -> Outcome {
    match sample(arena, json!({ "mode": "bias-sum" })) {
        Err(error) => Ok(format!("{error}; every logit stays a number")),
        Ok(3) => Ok("the token is the likeliest, and its logit stays a number".into()),
        Ok(other) => Err(format!("token {other} was chosen")),
    }
}

fn flood(arena: &Arena) -> Outcome {
    arena.logged();
    sample(arena, json!({ "mode": "flood" }))?;
    let lines = arena.logged();
    let clean =
        |text: &str| text.len() <= 1024 + 3 && !text.contains(|c: char| c.is_control() || c == '\u{202e}');
    match lines.iter().find(|line| line.plugin != "x" || !clean(&line.text)) {
        Some(line) => Err(format!("a line that forges others: {line:?}")),
        None if lines.len() > 256 => Err(format!("{} lines", lines.len())),
        None => Ok(format!("{} of 1000 lines are shown, cut and without control characters", lines.len())),
    }
}

/// The guest chooses the last token of the history less one; what is not shown counts as none.
fn prompt(arena: &Arena) -> Outcome {
    let mut source = arena.source(
        World::Sampler,
        membrane_tests::guests::guest("test-sampler"),
        json!({ "mode": "count-prompt" }),
    );
    source.grants.remove(&membrane_host::Grant::PromptTokens);
    let seen = failed(arena.load(source, World::Sampler).and_then(|plugin| arena.step(&[plugin])));
    match seen {
        Ok(error) => Err(error),
        Err(given) if given == "it gave 1" => {
            Ok("it sees nothing of the prompt, and the one token behind it".into())
        }
        Err(given) => Err(format!("{given} tokens")),
    }
}
