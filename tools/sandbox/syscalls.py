"""Every system call that the filter knows, in the groups that it treats alike: name, number on x86-64, on aarch64.

A call that is in no group doesn't exist for the program (ENOSYS). That holds for calls of future kernels too, and lets
C libraries fall back to older ones, which EPERM would not.
"""


def _table(text: str) -> dict[str, tuple[int | None, int | None]]:
    def number(word: str) -> int | None:
        return None if word == "-" else int(word)

    rows = (row.split() for row in text.split(";"))
    return {name: (number(x86_64), number(aarch64)) for name, x86_64, aarch64 in rows}


FREE = _table(
    "read 0 63; write 1 64; readv 19 65; writev 20 66; pread64 17 67; pwrite64 18 68; preadv 295 69; pwritev 296 70;"
    "preadv2 327 286; pwritev2 328 287; lseek 8 62; close 3 57; close_range 436 436; dup 32 23; dup2 33 -; dup3 292 24;"
    "pipe 22 -; pipe2 293 59; stat 4 -; fstat 5 80; lstat 6 -; newfstatat 262 79; statx 332 291; access 21 -;"
    "faccessat 269 48; faccessat2 439 439; readlink 89 -; readlinkat 267 78; getcwd 79 17; chdir 80 49; fchdir 81 50;"
    "getdents 78 -; getdents64 217 61; statfs 137 43; fstatfs 138 44; poll 7 -; ppoll 271 73; select 23 -;"
    "pselect6 270 72; epoll_create 213 -; epoll_create1 291 20; epoll_ctl 233 21; epoll_wait 232 -; epoll_pwait 281 22;"
    "epoll_pwait2 441 441; eventfd2 290 19; brk 12 214; mmap 9 222; mprotect 10 226; munmap 11 215; mremap 25 216;"
    "madvise 28 233; msync 26 227; set_robust_list 273 99; rseq 334 293; set_tid_address 218 96;"
    "arch_prctl 158 -; exit 60 93; exit_group 231 94; wait4 61 260; waitid 247 95; restart_syscall 219 128;"
    "rt_sigaction 13 134; rt_sigprocmask 14 135; rt_sigreturn 15 139; rt_sigpending 127 136; rt_sigtimedwait 128 137;"
    "rt_sigsuspend 130 133; sigaltstack 131 132; pause 34 -; alarm 37 -; setitimer 38 103; getitimer 36 102;"
    "nanosleep 35 101; clock_nanosleep 230 115; clock_gettime 228 113; clock_getres 229 114; gettimeofday 96 169;"
    "time 201 -; times 100 153; getpid 39 172; getppid 110 173; gettid 186 178; getuid 102 174; geteuid 107 175;"
    "getgid 104 176; getegid 108 177; getresuid 118 148; getresgid 120 150; getgroups 115 158; getpgrp 111 -;"
    "getpgid 121 155; getsid 124 156; capget 125 90; getrusage 98 165; getrlimit 97 163; sysinfo 99 179; uname 63 160;"
    "umask 95 166; getrandom 318 278; getcpu 309 168; getpriority 140 141; sched_yield 24 124;"
    "sched_getaffinity 204 123; sched_getparam 143 121; sched_getscheduler 145 120; sched_get_priority_max 146 125;"
    "sched_get_priority_min 147 126; shutdown 48 210; getsockname 51 204; getpeername 52 205; recvfrom 45 207"
)
"""Reading, own memory, own signals, clocks, and what is open already."""

FILTERED = _table(
    "open 2 -; openat 257 56; clone 56 220; kill 62 129; tgkill 234 131; rt_sigqueueinfo 129 138;"
    "rt_tgsigqueueinfo 297 240; fcntl 72 25; ioctl 16 29; prctl 157 167; prlimit64 302 261; socketpair 53 199;"
    "getsockopt 55 209; sendto 44 206; futex 202 98"
)
"""Allowed or refused by their arguments."""

REFUSED = _table(
    "socket 41 198; connect 42 203; bind 49 200; listen 50 201; accept 43 202; accept4 288 242; sendmsg 46 211;"
    "recvmsg 47 212; sendmmsg 307 269; recvmmsg 299 243; setsockopt 54 208; fork 57 -; vfork 58 -; execve 59 221;"
    "execveat 322 281; tkill 200 130; pidfd_open 434 434; pidfd_getfd 438 438; pidfd_send_signal 424 424;"
    "ptrace 101 117; process_vm_readv 310 270; process_vm_writev 311 271; process_madvise 440 440; kcmp 312 272;"
    "setrlimit 160 164; setpriority 141 140; sched_setaffinity 203 122; sched_setscheduler 144 119;"
    "sched_setparam 142 118; sched_setattr 314 274; ioprio_set 251 30; setuid 105 146; setgid 106 144;"
    "setreuid 113 145; setregid 114 143; setresuid 117 147; setresgid 119 149; setfsuid 122 151; setfsgid 123 152;"
    "setgroups 116 159; capset 126 91; setpgid 109 154; setsid 112 157; personality 135 92; seccomp 317 277;"
    "chroot 161 51; pivot_root 155 41; mount 165 40; umount2 166 39; unshare 272 97; setns 308 268;"
    "memfd_create 319 279; memfd_secret 447 447; shmget 29 194; shmat 30 196; shmctl 31 195; semget 64 190;"
    "semop 65 193; semctl 66 191; msgget 68 186; msgsnd 69 189; msgrcv 70 188; msgctl 71 187; mq_open 240 180;"
    "mlock 149 228; mlock2 325 284; mlockall 151 230; inotify_init 253 -; inotify_init1 294 26;"
    "inotify_add_watch 254 27; fanotify_init 300 262; keyctl 250 219; add_key 248 217; request_key 249 218;"
    "bpf 321 280; perf_event_open 298 241; userfaultfd 323 282; io_uring_setup 425 425; io_uring_enter 426 426;"
    "io_uring_register 427 427; io_setup 206 0; timer_create 222 107; name_to_handle_at 303 264;"
    "open_by_handle_at 304 265; syslog 103 116; settimeofday 164 170; clock_settime 227 112; adjtimex 159 171;"
    "clock_adjtime 305 266; sethostname 170 161; setdomainname 171 162; reboot 169 142; init_module 175 105;"
    "finit_module 313 273; delete_module 176 106; swapon 167 224; swapoff 168 225; acct 163 89; flock 73 32;"
    "sync 162 81; syncfs 306 267"
)
"""Answered with EPERM, which the program understands better than ENOSYS. `memfd_create` is among them because pages
behind a memfd count against no limit of the process."""

CHANGES = _table(
    "creat 85 -; unlink 87 -; unlinkat 263 35; rename 82 -; renameat 264 38; renameat2 316 276; mkdir 83 -;"
    "mkdirat 258 34; rmdir 84 -; link 86 -; linkat 265 37; symlink 88 -; symlinkat 266 36; truncate 76 45;"
    "ftruncate 77 46; fallocate 285 47; fsync 74 82; fdatasync 75 83; sendfile 40 71; copy_file_range 326 285"
)
"""EROFS without a scratch directory; with one, landlock says where they work."""

METADATA = _table(
    "mknod 133 -; mknodat 259 33; chmod 90 -; fchmod 91 52; fchmodat 268 53; fchmodat2 452 452; chown 92 -;"
    "fchown 93 55; lchown 94 -; fchownat 260 54; utime 132 -; utimes 235 -; utimensat 280 88; futimesat 261 -;"
    "setxattr 188 5; lsetxattr 189 6; fsetxattr 190 7; removexattr 197 14; lremovexattr 198 15; fremovexattr 199 16"
)
"""EROFS always: landlock doesn't say where a mode, an owner, a time or an attribute may be changed."""

FALL_BACK = _table("openat2 437 437; clone3 435 435")
"""ENOSYS by intention: their flags lie behind a pointer, where no filter can look, and libraries fall back."""

GROUPS = (FREE, FILTERED, REFUSED, CHANGES, METADATA, FALL_BACK)
