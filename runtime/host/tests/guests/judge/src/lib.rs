//! A policy that has the model judge each request, and asks what it should not as `act` says. It refuses with what it got.

use membrane_plugin::judge::{Question, score};
use membrane_plugin::policy::*;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    act: String,
}

struct Test(Parameters);

fn ask(question: &str, continuations: &[&str]) -> Result<Vec<f64>, String> {
    let continuations: Vec<String> = continuations.iter().map(|text| text.to_string()).collect();
    score(&Question::Text(question.to_owned()), &continuations)
}

impl Test {
    fn act(&self) -> Result<Vec<f64>, String> {
        match self.0.act.as_str() {
            "huge" => ask(&"x".repeat(65_537), &["a"]),
            "larger-than-memory" => ask(&"x".repeat(50 << 20), &["a"]),
            "many" => ask("x", &["a"; 10_000]),
            "none" => ask("x", &[]),
            "empty" => ask("x", &["a", ""]),
            "long" => ask("x", &[&"a".repeat(257)]),
            "no-messages" => score(&Question::Chat(Vec::new()), &["a".to_owned()]),
            "many-messages" => {
                let messages = (0..10_000).map(|_| Message::new(Role::User, "")).collect();
                score(&Question::Chat(messages), &["a".to_owned()])
            }
            "endless" => loop {
                ask("x", &["a"])?;
            },
            // Without looking at what comes of it.
            "endless-blindly" => loop {
                let _ = std::hint::black_box(ask(&"x".repeat(60_000), &["a"]));
            },
            // Looking only for the limit of bytes.
            "much" => loop {
                match ask(&"x".repeat(65_535), &["a"]) {
                    Err(why) if why.contains(" bytes in this answer") => break Err(why),
                    _ => {}
                }
            },
            "panic-between" => {
                ask("x", &["a"])?;
                panic!("on purpose");
            }
            "swallow" => ask("unknown", &["a"]).or(Ok(Vec::new())),
            _ => ask("x", &["a", "bb"]),
        }
    }
}

impl Policy for Test {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        let test = Self(parameters);
        if test.0.act == "configure" {
            ask("x", &["a"])?;
        }
        Ok(test)
    }

    fn request(&mut self, _: Vec<Message>) -> Result<RequestVerdict, String> {
        let message = match self.act() {
            Ok(scores) => format!("{scores:?}"),
            Err(why) => why,
        };
        Ok(RequestVerdict::Refuse(Refusal { message, reason: Reason::new("test:judge", "because") }))
    }
}

membrane_plugin::export_policy!(Test);
