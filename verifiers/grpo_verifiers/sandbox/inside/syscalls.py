"""Which system calls a guest may make, and their numbers on x86-64 and arm64.

Everything else fails with EPERM. Not here on purpose: sockets (only a pair of connected streams
can be made), sendmsg (a datagram to any address, descriptors), ptrace and process_vm_*, mounts and
namespaces, keyrings, bpf, io_uring, memfd_create and shared memory (not counted by rlimits),
pidfd_*, truncate by path (Landlock sees it from Linux 6.2 on only), personality, setting of ids,
times and hosts.

Sources: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux; a
call of None does not exist there (arm64 has only the newer one of each kind).
"""

from __future__ import annotations

from collections.abc import Mapping

Numbers = tuple[int, int | None]

MEMORY: Mapping[str, Numbers] = {
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "mremap": (25, 216), "msync": (26, 227), "mincore": (27, 232), "madvise": (28, 233),
    "membarrier": (324, 283),
}  # fmt: skip

FILES: Mapping[str, Numbers] = {
    "read": (0, 63), "write": (1, 64), "open": (2, None), "close": (3, 57), "stat": (4, None),
    "fstat": (5, 80), "lstat": (6, None), "lseek": (8, 62), "pread64": (17, 67),
    "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "access": (21, None),
    "dup": (32, 23), "dup2": (33, None), "sendfile": (40, 71), "flock": (73, 32),
    "fsync": (74, 82), "fdatasync": (75, 83), "ftruncate": (77, 46),
    "getdents": (78, None), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
    "rename": (82, None), "mkdir": (83, None), "rmdir": (84, None), "creat": (85, None),
    "link": (86, None), "unlink": (87, None), "symlink": (88, None), "readlink": (89, None),
    "umask": (95, 166),
    "statfs": (137, 43), "fstatfs": (138, 44), "readahead": (187, 213), "getxattr": (191, 8),
    "lgetxattr": (192, 9), "fgetxattr": (193, 10), "listxattr": (194, 11),
    "llistxattr": (195, 12), "flistxattr": (196, 13), "getdents64": (217, 61),
    "fadvise64": (221, 223), "openat": (257, 56), "mkdirat": (258, 34),
    "newfstatat": (262, 79), "unlinkat": (263, 35),
    "renameat": (264, 38), "linkat": (265, 37), "symlinkat": (266, 36), "readlinkat": (267, 78),
    "faccessat": (269, 48),
    "fallocate": (285, 47), "dup3": (292, 24), "preadv": (295, 69), "pwritev": (296, 70),
    "renameat2": (316, 276), "copy_file_range": (326, 285), "preadv2": (327, 286),
    "pwritev2": (328, 287), "statx": (332, 291), "close_range": (436, 436),
    "openat2": (437, 437), "faccessat2": (439, 439),
}  # fmt: skip

# Landlock does not look at these, so they are for jobs to which nothing outside belongs.
OWNERS: Mapping[str, Numbers] = {
    "chmod": (90, None), "fchmod": (91, 52), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "utime": (132, None), "utimes": (235, None), "fchownat": (260, 54),
    "futimesat": (261, None), "fchmodat": (268, 53), "utimensat": (280, 88),
    "fchmodat2": (452, 452),
}  # fmt: skip

WAITING: Mapping[str, Numbers] = {
    "poll": (7, None), "select": (23, None), "pause": (34, None), "nanosleep": (35, 101),
    "getitimer": (36, 102), "alarm": (37, None), "setitimer": (38, 103), "futex": (202, 98),
    "epoll_create": (213, None), "timer_create": (222, 107), "timer_settime": (223, 110),
    "timer_gettime": (224, 108), "timer_getoverrun": (225, 109), "timer_delete": (226, 111),
    "clock_nanosleep": (230, 115), "epoll_wait": (232, None), "epoll_ctl": (233, 21),
    "pselect6": (270, 72), "ppoll": (271, 73), "epoll_pwait": (281, 22), "eventfd": (284, None),
    "timerfd_create": (283, 85), "timerfd_settime": (286, 86), "timerfd_gettime": (287, 87),
    "eventfd2": (290, 19), "epoll_create1": (291, 20), "pipe": (22, None), "pipe2": (293, 59),
    "epoll_pwait2": (441, 441), "futex_waitv": (449, 449),
}  # fmt: skip

PROCESS: Mapping[str, Numbers] = {
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124), "getpid": (39, 172), "exit": (60, 93), "uname": (63, 160),
    "gettimeofday": (96, 169), "getrlimit": (97, 163), "getrusage": (98, 165),
    "sysinfo": (99, 179), "times": (100, 153), "getuid": (102, 174), "getgid": (104, 176),
    "geteuid": (107, 175), "getegid": (108, 177), "getppid": (110, 173), "getpgrp": (111, None),
    "getgroups": (115, 158), "getresuid": (118, 148), "getresgid": (120, 150),
    "getpgid": (121, 155), "getsid": (124, 156), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132),
    "getpriority": (140, 141), "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
    "setrlimit": (160, 164), "arch_prctl": (158, None), "gettid": (186, 178),
    "time": (201, None), "sched_getaffinity": (204, 123), "set_tid_address": (218, 96),
    "restart_syscall": (219, 128), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "exit_group": (231, 94), "set_robust_list": (273, 99), "getcpu": (309, 168),
    "getrandom": (318, 278), "rseq": (334, 293),
}  # fmt: skip

# Of pairs of connected sockets; no other can be made. recvmsg is how a job gets its descriptors.
PAIRS: Mapping[str, Numbers] = {
    "recvmsg": (47, 212), "recvfrom": (45, 207), "shutdown": (48, 210), "getsockname": (51, 204),
    "getpeername": (52, 205), "getsockopt": (55, 209),
}  # fmt: skip

# Allowed with some arguments only; see seccomp.py.
GUARDED: Mapping[str, Numbers] = {
    "ioctl": (16, 29), "fcntl": (72, 25), "clone": (56, 220), "clone3": (435, 435),
    "kill": (62, 129), "tgkill": (234, 131), "prctl": (157, 167), "prlimit64": (302, 261),
    "socketpair": (53, 199), "sendto": (44, 206),
}  # fmt: skip

# What a command may do besides: start processes and wait for them. Not setpriority and the like,
# which reach all processes of the same user.
COMMAND: Mapping[str, Numbers] = {
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "wait4": (61, 260), "waitid": (247, 95), "setpgid": (109, 154), "setsid": (112, 157),
    "capget": (125, 90), "mlock": (149, 228), "munlock": (150, 229), "get_mempolicy": (239, 236),
    "setsockopt": (54, 208), "pkey_alloc": (330, 289), "pkey_free": (331, 290),
    "pkey_mprotect": (329, 288),
}  # fmt: skip

PYTHON = (MEMORY, FILES, WAITING, PROCESS, PAIRS)
ALL: Mapping[str, Numbers] = {
    name: numbers
    for table in (*PYTHON, OWNERS, GUARDED, COMMAND)
    for name, numbers in table.items()
}
MACHINES = ("x86_64", "aarch64")  # as os.uname() says it


def number_of(name: str, machine: str) -> int | None:
    """The number of a call on a machine; None where the machine does not have it.

    Raises:
        KeyError: for a name that is not in the table.
        ValueError: for a machine that is not in `MACHINES`.
    """
    return ALL[name][MACHINES.index(machine)]
