//! Which system calls a job may make.
//!
//! The list names what is refused, so new programs run: making namespaces and mounts, changing the
//! kernel, reaching other machines' sockets families, pushing input into terminals. Two programs,
//! since one can give one answer: *not permitted*, and *not implemented* where programs then fall
//! back by themselves. Calls of the x32 table are refused as a whole: nothing is built for it, and
//! it would need every rule twice. Calls of another architecture kill the process.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

/// Refused whatever the arguments.
const NOT_PERMITTED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

#[cfg(target_arch = "x86_64")]
const NOT_PERMITTED_HERE: &[libc::c_long] = &[
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
];
#[cfg(not(target_arch = "x86_64"))]
const NOT_PERMITTED_HERE: &[libc::c_long] = &[];

/// Said to be unknown: `clone3` hides its flags from the filter, and C libraries then use `clone`.
const NOT_IMPLEMENTED: &[libc::c_long] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
];

/// Flags of `clone` and `unshare` that make a namespace.
const NEW_NAMESPACE: &[libc::c_int] = &[
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// `ioctl` numbers that put input into a terminal. Compared as 32 bits, as the kernel does.
const TERMINAL_INPUT: &[u64] = &[0x5412, 0x541C, 0x541D];

/// Which kinds of sockets a job may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sockets {
    /// Of this machine only; for where no network namespace keeps the rest away.
    Local,
    /// Local, internet and netlink; never those that go around network namespaces, as vsock does.
    Internet,
}

/// Why the filter could not be made.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// Returns the programs, each instruction packed into one number.
pub(super) fn programs(sockets: Sockets) -> Result<Vec<Vec<u64>>, Error> {
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = NOT_PERMITTED
        .iter()
        .chain(NOT_PERMITTED_HERE)
        .map(|nr| (*nr, Vec::new()))
        .collect();
    for nr in [libc::SYS_clone, libc::SYS_unshare] {
        refused.insert(
            nr,
            each(NEW_NAMESPACE, |flag| {
                let flag = flag.unsigned_abs().into();
                (
                    0,
                    SeccompCmpArgLen::Qword,
                    SeccompCmpOp::MaskedEq(flag),
                    flag,
                )
            })?,
        );
    }
    refused.insert(
        libc::SYS_ioctl,
        each(TERMINAL_INPUT, |number| {
            (1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *number)
        })?,
    );
    let families: &[libc::c_int] = match sockets {
        Sockets::Local => &[libc::AF_UNIX],
        Sockets::Internet => &[
            libc::AF_UNIX,
            libc::AF_INET,
            libc::AF_INET6,
            libc::AF_NETLINK,
        ],
    };
    let other_family = families
        .iter()
        .map(|f| {
            condition(
                0,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::Ne,
                f.unsigned_abs().into(),
            )
        })
        .collect::<Result<Vec<_>, _>>()?;
    refused.insert(libc::SYS_socket, vec![SeccompRule::new(other_family)?]);
    let unknown = NOT_IMPLEMENTED.iter().map(|nr| (*nr, Vec::new())).collect();
    Ok(vec![
        pack(&without_x32(compile(refused, libc::EPERM)?)),
        pack(&compile(unknown, libc::ENOSYS)?),
    ])
}

type Compared = (u8, SeccompCmpArgLen, SeccompCmpOp, u64);

/// One rule for each item: any of them is enough.
fn each<T>(items: &[T], compared: impl Fn(&T) -> Compared) -> Result<Vec<SeccompRule>, Error> {
    items
        .iter()
        .map(|item| {
            let (index, length, operator, value) = compared(item);
            Ok(SeccompRule::new(vec![condition(
                index, length, operator, value,
            )?])?)
        })
        .collect()
}

fn condition(
    index: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(index, length, operator, value)?)
}

fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, Error> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let answer = SeccompAction::Errno(errno.unsigned_abs());
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)?.try_into()?)
}

/// Puts a refusal of every call number with the x32 bit in front of a program.
#[cfg(target_arch = "x86_64")]
fn without_x32(program: BpfProgram) -> BpfProgram {
    const X32_BIT: u32 = 0x4000_0000;
    let answer = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    let instruction = |code: u32, jt, jf, k| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut all = vec![
        // The number is the first word of `seccomp_data`; another architecture goes on to the check
        // that kills it.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 4),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            3,
            0xC000_003E,
        ),
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32_BIT),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, answer),
    ];
    all.extend(program);
    all
}

#[cfg(not(target_arch = "x86_64"))]
fn without_x32(program: BpfProgram) -> BpfProgram {
    program
}

fn pack(program: &[sock_filter]) -> Vec<u64> {
    program
        .iter()
        .map(|i| {
            u64::from(i.code) << 48 | u64::from(i.jt) << 40 | u64::from(i.jf) << 32 | u64::from(i.k)
        })
        .collect()
}

/// Installs a packed program on this thread, for good.
pub(super) fn install(packed: &[u64]) -> Result<(), seccompiler::Error> {
    let program: BpfProgram = packed
        .iter()
        .map(|n| {
            let bytes = n.to_be_bytes();
            sock_filter {
                code: u16::from_be_bytes([bytes[0], bytes[1]]),
                jt: bytes[2],
                jf: bytes[3],
                k: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            }
        })
        .collect();
    seccompiler::apply_filter(&program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_fit_into_the_kernels_limit() {
        for sockets in [Sockets::Local, Sockets::Internet] {
            for program in programs(sockets).unwrap() {
                assert!((5..4_096).contains(&program.len()), "{}", program.len());
            }
        }
    }
}
