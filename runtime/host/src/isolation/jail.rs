//! What a process of a plugin gives up.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::resource::{Resource, setrlimit};
use nix::unistd;

use crate::isolation::Confinement;

/// Files that the process has: the stream to its host, and two that lead nowhere.
const OWN_FILES: i32 = 3;

/// Standard input, which becomes this process's only way out; nothing else reads it any more. Files that were inherited
/// by accident are closed.
pub fn standard_input() -> io::Result<OwnedFd> {
    close_others();
    io::stdin().as_fd().try_clone_to_owned()
}

/// Closes all files but the three standard ones. A host that is written in Rust leaves none open; what it was itself
/// started with, or other languages opened in it, it may.
fn close_others() {
    let listed = ["/proc/self/fd", "/dev/fd"].iter().find_map(|folder| std::fs::read_dir(folder).ok());
    let open: Vec<i32> = match listed {
        Some(files) => files.flatten().filter_map(|file| file.file_name().to_str()?.parse().ok()).collect(),
        None => (OWN_FILES..most_files()).collect(),
    };
    for file in open.into_iter().filter(|file| *file >= OWN_FILES) {
        // The list's own file is closed by now.
        let _ = unistd::close(file);
    }
}

/// One more than the highest number that a file can have.
fn most_files() -> i32 {
    let limit = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |limit| limit.0);
    i32::try_from(limit).unwrap_or(1 << 20)
}

/// Gives up all but computing with at most so many bytes of memory to write to. Errors: a step that every kernel has
/// was refused.
pub fn enter(data_bytes: u64) -> io::Result<Confinement> {
    // Of a group that starts with this process it leads one already; the host's terminal does not signal it then either.
    let _ = unistd::setsid();
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_FSIZE, 0, 0)?;
    setrlimit(Resource::RLIMIT_DATA, data_bytes, data_bytes)?;
    kernel::enter()
}

#[cfg(target_os = "linux")]
mod kernel {
    use std::collections::BTreeMap;
    use std::io;

    use landlock::{
        ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetStatus, Scope,
    };
    use nix::sys::signal::Signal;
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule,
    };

    use crate::isolation::Confinement;

    /// The rights that Landlock takes away, where the kernel knows them.
    const RIGHTS: ABI = ABI::V6;

    pub fn enter() -> io::Result<Confinement> {
        // A host that is gone already is noticed at the stream.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        nix::sys::prctl::set_no_new_privs()?;
        // What it wrote, and its memory, are for no other process of the user; nor does it leave a core file.
        nix::sys::prctl::set_dumpable(false)?;
        let landlock = landlock().map_err(io::Error::other)?;
        Ok(Confinement { landlock, seccomp: seccomp().map_err(io::Error::other)? })
    }

    /// Allows no file, no port, no socket of another process and no signal to one. None: the kernel has no Landlock.
    fn landlock() -> Result<Option<u32>, landlock::RulesetError> {
        let rules = Ruleset::default()
            .handle_access(AccessFs::from_all(RIGHTS))?
            .handle_access(AccessNet::from_all(RIGHTS))?
            .scope(Scope::from_all(RIGHTS))?;
        let status = rules.create()?.restrict_self()?;
        match (status.ruleset, status.landlock) {
            (RulesetStatus::NotEnforced, _) => Ok(None),
            (_, LandlockStatus::Available { effective_abi, kernel_abi }) => {
                let known = effective_abi as u32;
                Ok(Some(kernel_abi.and_then(|abi| u32::try_from(abi).ok()).unwrap_or(known)))
            }
            _ => Ok(None),
        }
    }

    /// Lets the system calls of [`rules`] through; any other fails with "operation not permitted". False: there is no
    /// filter for this processor, or the kernel has none.
    fn seccomp() -> Result<bool, seccompiler::BackendError> {
        let Ok(processor) = std::env::consts::ARCH.try_into() else { return Ok(false) };
        let refused = SeccompAction::Errno(libc::EPERM as u32);
        let filter = SeccompFilter::new(rules()?, refused, SeccompAction::Allow, processor)?;
        let program: BpfProgram = filter.try_into()?;
        Ok(seccompiler::apply_filter_all_threads(&program).is_ok())
    }

    /// What computing takes: memory, the stream, time, randomness, the end. There is no way to a new file, socket, process or
    /// thread among them.
    fn rules() -> Result<BTreeMap<libc::c_long, Vec<SeccompRule>>, seccompiler::BackendError> {
        let free = [
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_close,
            libc::SYS_mmap,
            libc::SYS_munmap,
            libc::SYS_mprotect,
            libc::SYS_mremap,
            libc::SYS_madvise,
            // On 64-bit ARM the engine makes code visible with it that is about to run.
            libc::SYS_membarrier,
            libc::SYS_brk,
            libc::SYS_futex,
            libc::SYS_sched_yield,
            libc::SYS_clock_gettime,
            libc::SYS_getrandom,
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigreturn,
            libc::SYS_sigaltstack,
            libc::SYS_restart_syscall,
            libc::SYS_getpid,
            libc::SYS_gettid,
            libc::SYS_exit,
            libc::SYS_exit_group,
        ];
        let mut rules: BTreeMap<_, _> = free.into_iter().map(|call| (call, Vec::new())).collect();
        // To itself: it is how a program aborts.
        let own = u64::from(std::process::id());
        let itself = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, own)?;
        rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![itself])?]);
        Ok(rules)
    }

    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    mod tests {
        use super::*;

        #[test]
        fn code_can_be_published_on_64_bit_arm() {
            assert_eq!(rules().unwrap().get(&libc::SYS_membarrier), Some(&Vec::new()));
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod kernel {
    use std::io;

    use crate::isolation::Confinement;

    pub fn enter() -> io::Result<Confinement> {
        Ok(Confinement { landlock: None, seccomp: false })
    }
}
