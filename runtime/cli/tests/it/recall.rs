//! Which experts a run used is kept for the next one, which changes no token.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::budget::{self, PROMPT};
use crate::program::{Ended, command};

/// A user's folder with a model that is larger than the memory that it gets.
struct Desk {
    folder: tempfile::TempDir,
    model: PathBuf,
    /// What it gets.
    memory: String,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = budget::model(folder.path());
        let memory = (budget::least(&model) + 8 * budget::MIB).to_string();
        let desk = Self { folder, model, memory };
        // What compiles the plugins takes memory once.
        desk.run_model(desk.model.to_str().unwrap(), &["--memory", "none"]).good();
        assert!(desk.kept().is_empty(), "a model that fits keeps nothing");
        desk
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        self.run_model(self.model.to_str().unwrap(), &[&["--memory", &self.memory], arguments].concat())
    }

    /// Whether a run says that it reads what earlier ones used.
    fn recalls(&self, arguments: &[&str]) -> bool {
        let model = self.model.to_str().unwrap();
        let common = ["run", model, "Hello", "-n", "2", "--ctx", "256", "--sampler", "greedy"];
        let ended = self.program(&[&common[..], &["--memory", &self.memory], arguments].concat()).good();
        ended.stderr.contains("experts of earlier runs")
    }

    fn run_model(&self, model: &str, arguments: &[&str]) -> Ended {
        let common = ["run", model, PROMPT, "-n", "8", "--ctx", "256", "--sampler", "greedy", "--json"];
        self.program(&[&common[..], arguments].concat())
    }

    fn program(&self, arguments: &[&str]) -> Ended {
        let mut command = command(arguments);
        command.env("XDG_CACHE_HOME", self.folder.path().join("cache")).output().unwrap().into()
    }

    /// The files of usage.
    fn kept(&self) -> Vec<PathBuf> {
        let folder = self.folder.path().join("cache/membrane/usage");
        fs::read_dir(folder).map(|all| all.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
    }
}

/// Tokens that the first layer is said to have seen.
fn tokens(path: &Path) -> u64 {
    let kept: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let group = &kept["groups"][0];
    let uses: u64 = group["uses"].as_array().unwrap().iter().map(|uses| uses.as_u64().unwrap()).sum();
    let tokens = group["tokens"].as_u64().unwrap();
    assert!(uses > tokens, "each token uses several experts: {group}");
    tokens
}

#[test]
fn runs_add_up_in_a_file_of_the_users_own_and_their_tokens_stay_the_same() {
    let desk = Desk::new();
    let first = desk.run(&[]).good();
    let [file] = &desk.kept()[..] else { panic!("{:?}", desk.kept()) };
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let (prompt, after_one) = (first.events()[1]["prompt_tokens"].as_u64().unwrap(), tokens(file));
    assert!(after_one >= prompt, "{after_one} tokens of a prompt of {prompt}");
    let second = desk.run(&[]).good();
    assert_eq!(second.answer(), first.answer());
    assert_eq!(desk.kept().len(), 1);
    assert!(tokens(file) >= after_one + prompt, "{} after {after_one}", tokens(file));
}

#[test]
fn without_it_nothing_is_kept_nor_read() {
    let desk = Desk::new();
    let first = desk.run(&["--recall", "off"]).good();
    assert!(desk.kept().is_empty() && !desk.recalls(&[]));
    desk.run(&[]).good();
    assert!(desk.recalls(&[]) && !desk.recalls(&["--recall", "off"]));
    let before = fs::read(&desk.kept()[0]).unwrap();
    assert_eq!(desk.run(&["--recall", "off"]).good().answer(), first.answer());
    assert_eq!(fs::read(&desk.kept()[0]).unwrap(), before);
}

#[test]
fn a_file_that_says_nonsense_is_no_obstacle() {
    let desk = Desk::new();
    let wanted = desk.run(&[]).good().answer();
    let file = desk.kept().remove(0);
    let other_shape = r#"{"model":"m","groups":[{"tokens":3,"uses":[1,2,3]}]}"#;
    let whole = fs::read_to_string(&file).unwrap();
    let kept: Value = serde_json::from_str(&whole).unwrap();
    let mut greatest = kept.clone();
    for group in greatest["groups"].as_array_mut().unwrap() {
        group["tokens"] = 1.into();
        group["uses"].as_array_mut().unwrap().fill(u64::MAX.into());
    }
    let large = "x".repeat(5 << 20);
    for text in ["", "[]", "{", "null", other_shape, &greatest.to_string(), &whole[..whole.len() / 2], &large]
    {
        fs::write(&file, text).unwrap();
        assert_eq!(desk.run(&[]).good().answer(), wanted, "{:.60}", text);
        assert!(tokens(&file) > 0);
    }
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_eq!(desk.run(&[]).good().answer(), wanted);
    assert_eq!(desk.kept(), [file], "nothing else is left in the folder");
}
