//! The system calls of the program: the errors that each can meet, and those that cannot fail.

/// The errors of each call. Not `brk`, which reports its failure otherwise than strace can.
pub(super) const ERRORS: &[(&str, &[&str])] = &[
    ("open", &["EIO", "EACCES", "EMFILE", "EINTR"]),
    ("openat", &["EIO", "EACCES", "EMFILE", "EINTR"]),
    ("stat", &["EIO", "EACCES"]),
    ("lstat", &["EIO", "EACCES"]),
    ("fstat", &["EIO"]),
    ("newfstatat", &["EIO", "EACCES"]),
    ("statx", &["EIO", "EACCES"]),
    ("access", &["EIO", "EACCES"]),
    ("faccessat", &["EIO", "EACCES", "EPERM"]),
    ("statfs", &["EIO", "EINTR"]),
    ("fstatfs", &["EIO", "EINTR"]),
    ("getdents64", &["EIO", "EACCES"]),
    ("readlink", &["EIO", "EACCES"]),
    ("readlinkat", &["EIO", "EACCES"]),
    ("getcwd", &["EACCES", "ENOENT"]),
    ("read", &["EIO", "EINTR"]),
    ("pread64", &["EIO", "EINTR"]),
    ("lseek", &["EIO"]),
    ("write", &["EIO", "ENOSPC", "EINTR"]),
    ("pwrite64", &["EIO", "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EINTR"]),
    ("ftruncate", &["EIO", "ENOSPC", "EINTR"]),
    ("fallocate", &["EIO", "ENOSPC", "EINTR"]),
    ("copy_file_range", &["EIO", "ENOSPC", "EDQUOT", "EFBIG", "EXDEV", "EOPNOTSUPP", "EINTR"]),
    ("ioctl", &["EIO", "ENOSPC", "EOPNOTSUPP"]),
    ("fsync", &["EIO", "ENOSPC", "EDQUOT", "EINTR"]),
    ("fdatasync", &["EIO", "ENOSPC", "EDQUOT", "EINTR"]),
    ("fcntl", &["EIO", "EACCES", "EAGAIN", "ENOLCK", "EINTR"]),
    ("flock", &["EIO", "EAGAIN", "ENOLCK", "EINTR"]),
    ("mmap", &["ENOMEM"]),
    ("mprotect", &["ENOMEM"]),
    ("mremap", &["ENOMEM"]),
    ("unlink", &["EIO", "EACCES", "EROFS", "EBUSY"]),
    ("unlinkat", &["EIO", "EACCES", "EROFS", "EBUSY"]),
    ("rename", &["EIO", "EACCES", "ENOSPC", "EROFS"]),
    ("renameat", &["EIO", "EACCES", "ENOSPC", "EROFS"]),
    ("renameat2", &["EIO", "EACCES", "ENOSPC", "EROFS"]),
    ("linkat", &["EIO", "EACCES", "ENOSPC", "EMLINK"]),
    ("mkdirat", &["EIO", "EACCES", "ENOSPC", "EROFS"]),
    ("fchown", &["EIO", "EPERM"]),
    ("fchmod", &["EIO", "EPERM"]),
    ("utimensat", &["EIO", "EPERM"]),
    ("setxattr", &["EIO", "ENOSPC", "EOPNOTSUPP"]),
    ("fsetxattr", &["EIO", "ENOSPC", "EOPNOTSUPP"]),
    ("getxattr", &["EIO", "EACCES", "EOPNOTSUPP"]),
    ("lgetxattr", &["EIO", "EACCES", "EOPNOTSUPP"]),
    ("fgetxattr", &["EIO", "EACCES", "EOPNOTSUPP"]),
    ("setgroups", &["EPERM"]),
    ("rt_sigaction", &["EINVAL"]),
    ("close", &["EIO", "EINTR"]),
    ("clone", &["EAGAIN"]),
    ("clone3", &["EAGAIN"]),
    ("socket", &["EMFILE", "EACCES"]),
    ("connect", &["ECONNREFUSED", "ETIMEDOUT", "EINTR"]),
    ("getsockopt", &["ENOBUFS"]),
    ("setsockopt", &["ENOBUFS"]),
    ("sendto", &["ECONNRESET", "EPIPE", "EINTR"]),
    ("writev", &["ECONNRESET", "EPIPE", "EINTR"]),
    ("recvfrom", &["ECONNRESET", "EINTR"]),
    ("shutdown", &["ENOTCONN"]),
    ("poll", &["ENOMEM", "EINTR"]),
    ("epoll_create1", &["EMFILE"]),
    ("epoll_ctl", &["ENOMEM"]),
    ("epoll_wait", &["EINTR"]),
    ("eventfd2", &["EMFILE"]),
    ("getrandom", &["EINTR"]),
];
/// Calls that cannot fail, or whose failing means nothing.
#[rustfmt::skip]
pub(super) const NEVER_FAIL: &[&str] = &[
    "brk", "exit", "exit_group", "futex", "geteuid", "getpid", "gettid", "madvise", "munmap", "prctl", "rseq",
    "rt_sigprocmask", "sched_getaffinity", "sched_yield", "set_robust_list", "setfsgid", "setfsuid", "sigaltstack",
];
/// Further ways for calls that would make or write something.
pub(super) const WRITING: &[&str] = &["ENOSPC", "EROFS", "EDQUOT"];

/// Returns true for a call of a thread's start, or of the runtime of the clients for PostgreSQL and HTTP: neither
/// expects a failure there.
pub(super) fn is_the_runtimes(call: &str, line: &str) -> bool {
    match call {
        // The stack for signals, and the page before it.
        "mmap" => line.contains("PROT_READ|PROT_WRITE") && line.contains("MAP_STACK"),
        "mprotect" => line.contains("PROT_NONE"),
        "epoll_create1" | "epoll_ctl" | "eventfd2" => true,
        _ => line.contains("anon_inode:[event"),
    }
}
