//! `--memory auto`, the default: what is free is the ceiling, experts are paged where not all fit in it, and what can't be held is
//! refused with the numbers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::budget;
use crate::program::{Ended, MOE, command, fixture, membrane};

const MIB: u64 = 1 << 20;

#[test]
fn what_was_decided_is_told_to_people_and_programs() {
    let model = fixture(MOE);
    let run =
        |arguments: &[&str]| membrane(&[&["run", &model, "Hello", "-n", "1"], arguments].concat()).good();
    for arguments in [&[][..], &["--memory", "auto"]] {
        let told = run(arguments).stderr;
        let line = told.lines().find(|line| line.starts_with("memory: auto, ")).expect(&told);
        assert!(line.contains(" free, less a margin of "), "{line}");
        let plan = run(&[arguments, &["--json"]].concat()).events()[0]["plan"].clone();
        let number = |name: &str| plan["automatic"][name].as_u64().unwrap();
        assert_eq!(plan["budget"].as_u64().unwrap(), number("budget"));
        assert_eq!(number("budget") + number("margin"), number("free"));
    }
    for memory in ["none", "1GiB"] {
        let ended = run(&["--memory", memory, "--json"]);
        assert!(ended.events()[0]["plan"]["automatic"].is_null());
        assert!(!ended.stderr.contains("auto"), "{}", ended.stderr);
    }
}

/// Where little is free, what plugins may take is set aside of it as of a size that somebody gave.
#[test]
fn plugins_take_of_what_is_free_what_they_take_of_the_same_size() {
    let group = match Group::with_limit(2 << 30) {
        Ok(group) => group,
        Err(why) => return eprintln!("skipped: no control group can be made here, {why}"),
    };
    let model = fixture(MOE);
    let plan = |memory: &str| {
        let arguments =
            ["run", &model, "Hello", "-n", "1", "--tool", "calculator", "--json", "--memory", memory];
        group.run(&arguments).good().events()[0]["plan"].clone()
    };
    let auto = plan("auto");
    let budget = auto["budget"].as_u64().unwrap();
    let by_hand = plan(&budget.to_string());
    assert_eq!(by_hand["budget"], budget);
    for name in ["reserve", "expert_slots", "prefill_chunk"] {
        assert!(auto[name].is_u64(), "{name}: {auto}");
        assert_eq!(auto[name], by_hand[name], "{name}");
    }
    assert!(auto["reserve"].as_u64().unwrap() < 64 * MIB, "{auto}");
    assert!(plan("none")["reserve"].as_u64().unwrap() >= 64 * MIB, "what plugins get elsewhere");
}

#[test]
fn one_size_is_enough_but_for_measurements() {
    let model = fixture(MOE);
    membrane(&["run", &model, "Hello", "--memory", "1GiB,2GiB"]).failed_saying(&["--memory", "one size"]);
    membrane(&["run", &model, "Hello", "--memory", "much"]).failed_saying(&["--memory", "much", "auto"]);
}

/// A control group of this test, removed in the end.
struct Group {
    folder: PathBuf,
    usage: &'static str,
}

impl Group {
    /// Error: why there can be none here.
    fn with_limit(bytes: u64) -> Result<Self, String> {
        let one = Path::new("/sys/fs/cgroup/memory");
        let two = Path::new("/sys/fs/cgroup");
        let (parent, limit, usage) = match one.join("memory.limit_in_bytes").exists() {
            true => (one, "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
            false => (two, "memory.max", "memory.peak"),
        };
        let folder = parent.join(format!("membrane-auto-{}-{bytes}", std::process::id()));
        let told = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::create_dir(&folder).map_err(told)?;
        let group = Self { folder: folder.clone(), usage };
        fs::write(folder.join(limit), bytes.to_string()).map_err(told)?;
        fs::write(folder.join("memory.swap.max"), "0").unwrap_or_default();
        Ok(group)
    }

    /// Runs the program within.
    fn run(&self, arguments: &[&str]) -> Ended {
        let inside = command(arguments);
        let mut shell = Command::new("/bin/sh");
        let entrance = self.folder.join("cgroup.procs");
        shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(entrance);
        shell.arg(inside.get_program()).args(inside.get_args());
        shell.envs(inside.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.output().expect("a shell starts").into()
    }

    fn peak(&self) -> Option<u64> {
        fs::read_to_string(self.folder.join(self.usage)).ok()?.trim().parse().ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process may still be on its way out.
        for _ in 0..50 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn in_a_control_group_experts_are_paged_or_the_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = budget::model(folder.path());
    let model = model.to_str().unwrap();
    let arguments =
        ["run", model, budget::PROMPT, "-n", "24", "--ctx", "256", "--sampler", "greedy", "--json"];
    let wanted = membrane(&[&arguments[..], &["--memory", "none"]].concat()).good().answer();
    let (mut paged, mut refused, mut whole) = (0, 0, 0);
    for limit in (60..=420).step_by(20).map(|mib| mib * MIB) {
        let group = match Group::with_limit(limit) {
            Ok(group) => group,
            Err(why) => return eprintln!("skipped: no control group can be made here, {why}"),
        };
        let ended = group.run(&arguments);
        let case = format!("a limit of {} MiB: {}", limit / MIB, ended.stderr);
        if ended.code == Some(2) {
            ended.failed_saying(&[
                "this model takes at least",
                "the control group of this process has",
                "take a smaller model",
            ]);
            // With 256 tokens there is nothing to be won there.
            assert!(!ended.stderr.contains("--ctx"), "{case}");
            refused += 1;
            continue;
        }
        assert_eq!(ended.code, Some(0), "{case}");
        assert_eq!(ended.answer(), wanted, "{case}");
        let plan = &ended.events()[0]["plan"];
        let budget = plan["automatic"]["budget"].as_u64().unwrap();
        assert_eq!(plan["automatic"]["limited_by"]["control_group"]["limit"], limit, "{case}");
        let peak = ended.end()["stats"]["peak_memory_bytes"].as_u64().unwrap();
        assert!(budget < limit && peak <= budget, "{case}: a peak of {peak} bytes of {budget}");
        assert!(group.peak().is_none_or(|peak| peak <= limit), "{case}");
        match plan["expert_slots"].as_u64() < plan["experts"].as_u64() {
            true => paged += 1,
            false => whole += 1,
        }
    }
    assert!(refused > 0 && paged > 0 && whole > 0, "{refused} refused, {paged} paged, {whole} in memory");
}
