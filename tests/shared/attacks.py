"""What a hostile program might try, by name. Each runs after PRELUDE and is harmless to the machine if it succeeds.

`attempt(function, ...)` says GOT THROUGH when the call succeeds; most harm is seen from outside as well. The words
SECRET_FILE, FOLDER, PORT, ABSTRACT, OWNER and VICTIM (the last two are process ids) are filled in.
"""

PRELUDE = '''
import ctypes, fcntl, gc, mmap, os, resource, select, signal, socket, struct, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {numbers}

def call(name, *arguments):
    """A raw system call."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(NUMBERS.get(name, name)), *converted)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def attempt(function, *arguments, **named):
    try:
        value = function(*arguments, **named)
    except BaseException as error:
        print(type(error).__name__, str(error)[:80])
    else:
        print("GOT THROUGH", function, value)
'''

NETWORK = {
    "tcp connection": "attempt(socket.create_connection, ('127.0.0.1', PORT), 1)",
    "tcp connection by raw calls": "attempt(call, 'socket', 2, 1, 0)",
    "udp datagram": "attempt(lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT)))",
    "listening": "attempt(socket.create_server, ('127.0.0.1', 0))",
    "raw socket": "attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)",
    "netlink": "attempt(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "packet socket": "attempt(socket.socket, 17, socket.SOCK_RAW, 0)",
    "virtual machine's socket": "attempt(socket.socket, 40, socket.SOCK_STREAM, 0)",
    "socket by path": "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\nattempt(s.sendto, b'x', 'FOLDER/socket')",
    "socket by abstract name": "attempt(lambda: socket.socket(1, socket.SOCK_DGRAM).sendto(b'x', '\\0ABSTRACT'))",
    "datagram pair to a path": "attempt(lambda: socket.socketpair(1, 2)[0].sendto(b'x', 'FOLDER/socket'))",
    "stream pair to a path": "attempt(lambda: socket.socketpair()[0].sendto(b'x', 'FOLDER/socket'))",
    "seqpacket pair": "attempt(lambda: socket.socketpair(1, 5)[0].sendto(b'x', '\\0ABSTRACT'))",
    "sendmsg with an address": "attempt(lambda: socket.socketpair(1, 1)[0].sendmsg([b'x'], [], 0, '\\0ABSTRACT'))",
    "x32 call number": "attempt(call, 0x40000000 + NUMBERS['socket'], 2, 1, 0)",
    "urllib": "import urllib.request\nattempt(urllib.request.urlopen, 'http://127.0.0.1:PORT/', timeout=1)",
}

FILES = {
    "read a secret": "attempt(lambda: print(open('SECRET_FILE').read()))",
    "read through a directory's descriptor": "d = os.open('/', os.O_PATH)\n"
    "attempt(lambda: print(os.read(os.open('SECRET_FILE'[1:], os.O_RDONLY, dir_fd=d), 99)))",
    "read through a link to the root": "attempt(lambda: print(open('/proc/self/root' + 'SECRET_FILE').read()))",
    "read by a handle": "h = ctypes.create_string_buffer(struct.pack('Ii', 128, 0).ljust(256, b'\\0'))\n"
    "attempt(call, 'name_to_handle_at', -100, b'SECRET_FILE', h, ctypes.create_string_buffer(8), 0)",
    "read a leaked descriptor": "for d in range(3, 1024):\n    try:\n        print('GOT THROUGH', os.pread(d, 99, 0))\n"
    "    except OSError:\n        pass",
    "list a directory": "attempt(lambda: print(os.listdir('FOLDER')))",
    "read the password hashes": "attempt(lambda: open('/etc/shadow').read())",
    "read the disk": "for d in ('sda', 'vda', 'nvme0n1', 'mem', 'kmsg'): attempt(open, '/dev/' + d, 'rb')",
    "open a GPU": "for d in ('nvidia0', 'nvidiactl', 'dri/card0', 'kfd'): attempt(open, '/dev/' + d, 'rb')",
    "open devices": "for d in ('ptmx', 'tty', 'fuse', 'kvm', 'vsock', 'net/tun'): attempt(open, '/dev/' + d, 'r+b', 0)",
    "write a file": "attempt(open, 'FOLDER/new', 'w')",
    "append to a file": "attempt(open, 'SECRET_FILE', 'a')",
    "nameless file": "attempt(os.open, 'FOLDER', os.O_TMPFILE | os.O_RDWR)",
    "truncate by opening": "attempt(os.open, 'SECRET_FILE', os.O_RDONLY | os.O_TRUNC)",
    "truncate": "attempt(os.truncate, 'SECRET_FILE', 0)",
    "create by raw call": "attempt(call, 'creat' if 'creat' in NUMBERS else 'openat', b'FOLDER/new', 0o600, 0o600)",
    "open by openat2": "attempt(call, 'openat2', -100, b'FOLDER/new', struct.pack('QQQ', 0o101, 0o600, 0), 24)",
    "delete": "attempt(os.unlink, 'SECRET_FILE')",
    "rename": "attempt(os.rename, 'SECRET_FILE', 'FOLDER/renamed')",
    "make and remove directories": "attempt(os.mkdir, 'FOLDER/d')\nattempt(os.rmdir, 'FOLDER/empty')",
    "link": "attempt(os.link, 'SECRET_FILE', 'FOLDER/link')\nattempt(os.symlink, '/', 'FOLDER/symlink')",
    "special files": "attempt(os.mkfifo, 'FOLDER/fifo')\nattempt(os.mknod, 'FOLDER/node', 0o20666, 0x103)",
    "change the mode": "attempt(os.chmod, 'SECRET_FILE', 0o777)\nattempt(os.chmod, os.getcwd(), 0o777)",
    "change the owner": "attempt(os.chown, 'SECRET_FILE', os.getuid(), os.getgid())",
    "change the times": "attempt(os.utime, 'SECRET_FILE', (0, 0))\nattempt(os.utime, os.__file__)",
    "change an attribute": "attempt(os.setxattr, 'SECRET_FILE', 'user.a', b'x')",
    "lock a library": "f = open(os.__file__)\nattempt(fcntl.flock, f, fcntl.LOCK_EX)\n"
    "attempt(fcntl.lockf, f, fcntl.LOCK_SH)",
    "lease on a library": "attempt(fcntl.fcntl, open(os.__file__), 1024, fcntl.F_RDLCK)",
    "flags of a library's inode": "attempt(fcntl.ioctl, open(os.__file__), 0x40086602, struct.pack('i', 0x80))",
    "overwrite Python": "attempt(open, os.__file__, 'r+')\nattempt(open, ctypes.__file__ + 'c', 'w')",
    "delete Python": "attempt(os.rename, os.__file__, os.__file__ + 'x')",
    "watch a file": "attempt(call, 'inotify_init1', 0)\nattempt(call, 'fanotify_init', 0, 0)",
    "fill shared memory": "attempt(open, '/dev/shm/arpo-attack', 'wb')\n"
    "from multiprocessing import shared_memory\nattempt(shared_memory.SharedMemory, 'arpo-attack-2', True, 1 << 20)",
    "import from another directory": "sys.path.insert(0, 'FOLDER')\nattempt(__import__, 'evil')",
    "flush the disks": "attempt(call, 'sync')",
}

PROC = {
    "own environment": "print(dict(os.environ))\nattempt(lambda: print(open('/proc/self/environ').read()))",
    "C environment": "e = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, 'environ')\nprint([e[0]] if e else e)",
    "owner's environment": "attempt(lambda: print(open('/proc/OWNER/environ').read()))",
    "first process's environment": "attempt(lambda: print(open('/proc/1/environ').read()))",
    "helper's environment": "attempt(lambda: print(open(f'/proc/{os.getppid()}/environ').read()))",
    "owner's memory": "attempt(open, '/proc/OWNER/mem', 'rb')\nattempt(open, '/proc/OWNER/maps')",
    "owner's files": "attempt(os.listdir, '/proc/OWNER/fd')\nattempt(os.readlink, '/proc/OWNER/exe')",
    "own memory by /proc": "attempt(open, '/proc/self/mem', 'r+b')",
    "list of processes": "attempt(os.listdir, '/proc')",
    "kernel settings": "for f in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger'): attempt(open, f, 'w')",
    "control groups": "attempt(os.listdir, '/sys/fs/cgroup')\nattempt(open, '/sys/fs/cgroup/cgroup.procs', 'w')",
    "kernel log": "attempt(call, 'syslog', 3, ctypes.create_string_buffer(999), 999)",
    "owner's memory by a call": "b = ctypes.create_string_buffer(8)\n"
    "v = struct.pack('PN', ctypes.addressof(b), 8)\nattempt(call, 'process_vm_readv', OWNER, v, 1, v, 1, 0)",
    "write the helper's memory by a call": "b = ctypes.create_string_buffer(8)\n"
    "v = struct.pack('PN', ctypes.addressof(b), 8)\nattempt(call, 'process_vm_writev', os.getppid(), v, 1, v, 1, 0)",
    "trace the victim": "attempt(call, 'ptrace', 16, VICTIM, 0, 0)\nattempt(call, 'ptrace', 0x4206, VICTIM, 0, 0)",
    "steal a descriptor": "attempt(call, 'pidfd_open', OWNER, 0)\nattempt(call, 'pidfd_getfd', 3, 3, 0)",
    "a descriptor of a process by a socket": "a, b = socket.socketpair()\nattempt(a.getsockopt, socket.SOL_SOCKET, 77)",
    "links to other roots": "for p in ('/proc/OWNER/root', '/proc/OWNER/cwd', '/proc/1/root', '/proc/VICTIM/ns/net'):\n"
    "    attempt(os.stat, p)\n    attempt(os.chdir, p)",
    "compare processes": "attempt(call, 'kcmp', OWNER, OWNER, 0, 0, 0)",
}

PROCESSES = {
    "fork": "attempt(os.fork)",
    "fork by raw calls": "for n in ('fork', 'vfork'): attempt(call, n)\n"
    "attempt(call, 'clone', signal.SIGCHLD, 0, 0, 0, 0)",
    "clone with memory shared": "attempt(call, 'clone', 0x100 | 0x4000 | signal.SIGCHLD, 0, 0, 0, 0)",
    "clone3": "attempt(call, 'clone3', ctypes.create_string_buffer(struct.pack('Q', 0).ljust(88, b'\\0')), 88)",
    "fork bomb": "for _ in range(50):\n    if os.fork() == 0:\n        time.sleep(2)\n        os._exit(0)\n"
    "    print('GOT THROUGH')",
    "daemon": "attempt(os.setsid)\nif attempt(os.fork) == 0: time.sleep(60)",
    "subprocess": "attempt(subprocess.run, ['id'])\nattempt(subprocess.run, 'id', shell=True)",
    "shell": "print(os.system('echo GOT THROUGH'))\nattempt(os.popen, 'id')",
    "spawn": "attempt(os.posix_spawn, sys.executable, ['python'], {})\n"
    "attempt(os.spawnl, os.P_WAIT, '/bin/true', 'true')",
    "replace itself": "attempt(os.execv, '/bin/echo', ['echo', 'GOT THROUGH'])",
    "enormous argument list": "attempt(os.execv, '/bin/echo', ['x' * 100_000] * 20)",
    "run from memory": "attempt(lambda: os.execve(os.memfd_create('x'), ['x'], {}))\n"
    "attempt(call, 'execveat', 0, b'', 0, 0, 0x1000)",
    "multiprocessing": "import multiprocessing as m\nm.set_start_method('fork')\n"
    "attempt(lambda: m.Process(target=print).start())\nattempt(m.Pool, 2)",
    "terminal": "import pty\nattempt(pty.fork)",
    "many threads": "n = 0\nstop = threading.Event()\nthreading.stack_size(65536)\ntry:\n    while n < 1000:\n"
    "        threading.Thread(target=stop.wait, daemon=True).start()\n        n += 1\nexcept RuntimeError as e:\n"
    "    print(e)\nif n > 100: print('GOT THROUGH', n)\nstop.set()",
}

SIGNALS = {
    "kill the victim": "for s in (0, 9, 15, 19): attempt(os.kill, VICTIM, s)",
    "kill the owner": "for p in (OWNER, os.getppid(), 1): attempt(os.kill, p, 0)",
    "kill everybody": "attempt(os.kill, -1, 0)\nattempt(os.kill, 0, 0)\nattempt(os.kill, -2**31, 0)",
    "kill groups": "attempt(os.killpg, VICTIM, 9)\nattempt(os.killpg, OWNER, 0)\nattempt(os.kill, -VICTIM, 9)",
    "kill a thread": "attempt(call, 'tgkill', VICTIM, VICTIM, 9)\nattempt(call, 'tkill', VICTIM, 9)\n"
    "attempt(call, 'tgkill', -1, VICTIM, 9)",
    "queue a signal": "i = ctypes.create_string_buffer(struct.pack('iii', 9, 0, -1).ljust(128, b'\\0'))\n"
    "attempt(call, 'rt_sigqueueinfo', VICTIM, 9, i)\nattempt(call, 'rt_tgsigqueueinfo', VICTIM, VICTIM, 9, i)",
    "signal by a process descriptor": "attempt(call, 'pidfd_send_signal', 3, 9, 0, 0)",
    "signal by a file's owner": "a, b = socket.socketpair()\nattempt(fcntl.fcntl, a, 8, VICTIM)\n"
    "attempt(fcntl.fcntl, a, 10, 9)\nattempt(fcntl.ioctl, a, 0x8901, struct.pack('i', VICTIM))\n"
    "attempt(fcntl.fcntl, a, 15, struct.pack('ii', 1, VICTIM))\n"
    "fcntl.fcntl(a, fcntl.F_SETFL, os.O_NONBLOCK | 0o20000)\nb.send(b'x')",
    "signal by a timer": "e = struct.pack('Qiii', 0, 9, 4, VICTIM).ljust(64, b'\\0')\n"
    "attempt(call, 'timer_create', 0, ctypes.create_string_buffer(e), ctypes.create_string_buffer(8))",
    "outlive the helper": "attempt(call, 'prctl', 1, 0, 0, 0, 0)",
    "slow the victim down": "attempt(os.setpriority, os.PRIO_PROCESS, VICTIM, 19)\n"
    "attempt(os.setpriority, os.PRIO_USER, os.getuid(), 19)\nattempt(call, 'ioprio_set', 1, VICTIM, 3 << 13)",
    "move the victim": "attempt(os.sched_setaffinity, VICTIM, [0])\n"
    "attempt(os.sched_setscheduler, VICTIM, os.SCHED_IDLE, os.sched_param(0))",
    "limit the victim": "attempt(resource.prlimit, VICTIM, resource.RLIMIT_CPU, (1, 1))",
    "limit the owner": "attempt(resource.prlimit, OWNER, resource.RLIMIT_NOFILE, (3, 3))",
    "raise own limits": "for r in ('AS', 'CPU', 'FSIZE', 'NOFILE', 'NPROC', 'CORE'):\n"
    "    attempt(resource.setrlimit, getattr(resource, 'RLIMIT_' + r), (-1, -1))",
    "better priority": "attempt(os.nice, -5)\nattempt(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))",
}

KERNEL = {
    "io_uring": "attempt(call, 'io_uring_setup', 8, ctypes.create_string_buffer(120))",
    "bpf": "attempt(call, 'bpf', 0, ctypes.create_string_buffer(120), 120)",
    "perf": "attempt(call, 'perf_event_open', ctypes.create_string_buffer(120), 0, -1, -1, 0)",
    "userfaultfd": "attempt(call, 'userfaultfd', 1)",
    "keys": "attempt(call, 'keyctl', 0, -3, 1)\nattempt(call, 'add_key', b'user', b'arpo', b'x', 1, -4)",
    "namespaces": "attempt(call, 'unshare', 0x10000000)\nattempt(call, 'unshare', 0x20000)\n"
    "attempt(call, 'setns', 3, 0)",
    "mount": "attempt(call, 'mount', b'none', os.getcwd().encode(), b'tmpfs', 0, 0)\nattempt(os.chroot, '.')",
    "become root": "attempt(os.setuid, 0)\nattempt(os.setresgid, 0, 0, 0)\nattempt(os.setgroups, [0])",
    "capabilities": "h = ctypes.create_string_buffer(struct.pack('Ii', 0x20080522, 0))\n"
    "d = ctypes.create_string_buffer(24)\ncall('capget', h, d)\nif any(d.raw): print('GOT THROUGH', d.raw)\n"
    "attempt(call, 'capset', h, d)",
    "SysV objects": "attempt(call, 'shmget', 0x4152, 4096, 0o1600)\nattempt(call, 'semget', 0x4152, 1, 0o1600)\n"
    "attempt(call, 'msgget', 0x4152, 0o1600)",
    "POSIX queue": "attempt(call, 'mq_open', b'arpo', 0o102, 0o600, 0)",
    "memory files": "attempt(os.memfd_create, 'x')\nattempt(call, 'memfd_secret', 0)",
    "locked memory": "attempt(call, 'mlockall', 3)\nattempt(mmap.mmap, -1, 1 << 20, flags=0x2022)",
    "clock and name": "attempt(time.clock_settime, 0, time.time())\nattempt(socket.sethostname, socket.gethostname())",
    "another filter": "attempt(call, 'seccomp', 1, 0, 0)\nattempt(call, 'prctl', 22, 2, 0, 0, 0)",
    "personality": "attempt(call, 'personality', 0x40000)",
    "modules and swap": "attempt(call, 'init_module', 0, 0, b'')\nattempt(call, 'swapoff', b'/none')\n"
    "attempt(call, 'acct', b'/none')\nattempt(call, 'reboot', 0, 0, 0, 0)",
    "arguments with more than 32 bits": "high = 1 << 32\nattempt(call, 'kill', high | VICTIM, 9)\n"
    "attempt(call, high | NUMBERS['kill'], VICTIM, 9)\nattempt(call, 'fcntl', 1, high | 8, VICTIM)\n"
    "attempt(call, 'prctl', high | 1, 0, 0, 0, 0)\nattempt(call, 'clone', high * 256 | 17, 0, 0, 0, 0)\n"
    "attempt(call, 'openat', -100, b'FOLDER/new', high | 0o101, 0o600)\n"
    "attempt(call, 'sendto', 1, b'x', 1, 0, high, 16)\n"
    "attempt(call, 'prlimit64', 0, 7, high, 0)",
    "threads in other namespaces": "for f in (0x20000, 0x40000000, 0x02000000, 0x10000000):\n"
    "    attempt(call, 'clone', 0x10000 | 0x100 | 0x800 | f, 0, 0, 0, 0)",
    "a futex that others see": "page = ctypes.cast(libc.qsort, ctypes.c_void_p).value & ~4095\n"
    "value = ctypes.c_int.from_address(page).value\ntime_out = struct.pack('ll', 0, 50_000_000)\n"
    "for operation in (0, 1, 3, 4, 5, 9, 10, 256, 256 | 9):\n"
    "    attempt(call, 'futex', ctypes.c_void_p(page), operation, value, time_out, ctypes.c_void_p(page), -1)\n"
    "    try:\n        call('futex', ctypes.c_void_p(page), operation, value, time_out, None, -1)\n"
    "    except OSError as error:\n        if error.errno == 110: print('GOT THROUGH: waited', operation)",
    "unknown calls": "for n in [*range(424, 600), 999, 0x3FFFFFFF, -1]:\n"
    "    if n not in NUMBERS.values(): attempt(call, n, 0, 0, 0, 0)",
    "32-bit calls": "import platform\nif platform.machine() == 'x86_64':\n    m = mmap.mmap(-1, 4096, prot=7)\n"
    "    m.write(bytes.fromhex('53b802000000cd805bc3'))  # push rbx; mov eax, 2 (fork); int 0x80; pop rbx; ret\n"
    "    f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n"
    "    print('GOT THROUGH', f())",
}

RUNNER = {
    "leave a mark on an open file": "for d in (0, 1, 2): print(fcntl.fcntl(d, fcntl.F_GETFL) & os.O_APPEND)\n"
    "fcntl.fcntl(0, fcntl.F_SETFL, os.O_APPEND)",
    "write to the helper's socket": "for d in range(3, 1024):\n    try:\n"
    "        print('GOT THROUGH', os.write(d, b'{\"ended\": 1, \"exit_code\": 0}'), d)\n"
    "    except OSError:\n        pass",
    "find the helper's socket": "for o in gc.get_objects():\n    if isinstance(o, socket.socket) and o.fileno() >= 0:\n"
    "        attempt(o.send, b'{\"ended\": 1}')",
    "come out in the helper's code": "f = sys._getframe()\nwhile f:\n"
    "    f.f_globals['_exit'] = f.f_globals['_code_of'] = lambda *a: None\n    f = f.f_back\n"
    "os._exit = lambda c: None\n"
    "sys.exit(0)",
    "replace everything": "import builtins\nfor n in ('print', 'compile', 'exec', 'eval', 'isinstance', 'OSError'):\n"
    "    setattr(builtins, n, None)\n1 / 0",
    "replace the output": "sys.stdout = sys.stderr = sys.displayhook = None\n1 / 0",
    "close everything": "os.closerange(0, 1024)\nos.close(1)",
    "close the output and stay": "os.close(1)\nos.close(2)\ntime.sleep(60)",
    "crash": "ctypes.string_at(0)",
    "unmap": "libc.munmap(ctypes.c_void_p(id(None) & ~4095), 1 << 30)",
    "stop itself": "os.kill(os.getpid(), signal.SIGSTOP)",
    "ignore every signal": "for s in range(1, 65):\n    try:\n        signal.signal(s, signal.SIG_IGN)\n"
    "    except (OSError, ValueError):\n        pass\nwhile True: pass",
    "hang at the end": "import atexit\natexit.register(time.sleep, 60)",
    "hang in a thread": "threading.Thread(target=time.sleep, args=(60,)).start()",
    "hang in threads that compute": "def f():\n    while True: sum(range(1000))\n"
    "for _ in range(8): threading.Thread(target=f).start()",
    "regular expression": "import re\nre.match('(a+)+b', 'a' * 60)",
    "huge integer": "9 ** 9 ** 9",
    "deep recursion": "sys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()",
    "deep source": "eval('(' * 5000 + ')' * 5000)\n",
}

RESOURCES = {
    "4 GB at once": "b = bytearray(4 << 30)\nprint('GOT THROUGH')",
    "4 GB bit by bit": "b = []\nfor i in range(4096): b.append(bytearray(1 << 20))\nprint('GOT THROUGH')",
    "4 GB mapped": "attempt(mmap.mmap, -1, 4 << 30)",
    "pipes": "n = 0\ntry:\n    while n < 5000: os.pipe(); n += 1\nexcept OSError:\n    pass\n"
    "if n > 100: print('GOT THROUGH', n)",
    "wider pipes": "r, w = os.pipe()\nattempt(fcntl.fcntl, w, 1031, 1 << 20)",
    "wider sockets": "attempt(socket.socketpair()[0].setsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)",
    "descriptors in flight": "a, b = socket.socketpair()\nattempt(socket.send_fds, a, [b'x'], [a.fileno()])",
    "queued signals": "i = ctypes.create_string_buffer(struct.pack('iii', 40, 0, -1).ljust(128, b'\\0'))\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, range(34, 60))\n"
    "n = 0\ntry:\n    while n < 5000: call('rt_sigqueueinfo', os.getpid(), 40, i); n += 1\nexcept OSError:\n    pass\n"
    "if n > 100: print('GOT THROUGH', n)",
    "output of 200 MB": "for _ in range(200): os.write(1, b'x' * (1 << 20))\nprint('GOT THROUGH')",
    "output by many lines": "while True: print('x')",
    "processor time": "while True: pass",
}

ALL = NETWORK | FILES | PROC | PROCESSES | SIGNALS | KERNEL | RUNNER | RESOURCES

# With a scratch directory, in which they start.
SCRATCH = {
    "write through a link": "os.symlink('SECRET_FILE', 'link')\nattempt(open, 'link', 'a')\n"
    "attempt(os.truncate, 'link', 0)",
    "read through a link": "os.symlink('SECRET_FILE', 'link')\nattempt(lambda: print(open('link').read()))",
    "write outside": "attempt(open, 'FOLDER/new', 'w')\nattempt(open, os.__file__, 'r+')\n"
    "attempt(os.mkdir, 'FOLDER/d')",
    "truncate outside": "attempt(os.truncate, 'SECRET_FILE', 0)\n"
    "attempt(os.open, 'SECRET_FILE', os.O_RDONLY | os.O_TRUNC)",
    "remove outside": "attempt(os.unlink, 'SECRET_FILE')\nattempt(os.rmdir, 'FOLDER/empty')",
    "bring in and take out": "open('mine', 'w').close()\nattempt(os.rename, 'SECRET_FILE', 'secret')\n"
    "attempt(os.link, 'SECRET_FILE', 'secret')\nattempt(os.rename, 'mine', 'FOLDER/mine')\n"
    "attempt(os.link, 'mine', 'FOLDER/mine')",
    "change modes": "attempt(os.chmod, 'SECRET_FILE', 0o777)\nattempt(os.utime, 'SECRET_FILE', (0, 0))\n"
    "attempt(os.setxattr, 'SECRET_FILE', 'user.a', b'x')",
    "special files in scratch": "attempt(os.mkfifo, 'fifo')\nattempt(os.mknod, 'node', 0o20666, 0x103)\n"
    "attempt(socket.socket(socket.AF_UNIX).bind, 'socket')",
    "run a file of its own": "open('x', 'w').write('#!/bin/sh\\necho GOT\\\\ THROUGH')\nattempt(os.chmod, 'x', 0o755)\n"
    "attempt(os.execv, './x', ['x'])",
    "leave the mount": "attempt(call, 'umount2', os.getcwd().encode(), 2)\n"
    "attempt(os.listdir, '..')\nattempt(os.chroot, '.')",
    "fill the disk": "n = 0\ntry:\n    while n < 99: n += open(str(n), 'wb').write(bytes(1 << 20)) >> 20\n"
    "except OSError:\n    pass\nif n > 4: print('GOT THROUGH', n)",
    "many files": "n = 0\ntry:\n    while n < 20000: os.mkdir(str(n)); n += 1\nexcept OSError:\n    pass\n"
    "if n > 5000: print('GOT THROUGH', n)",
    "capabilities of the namespace": "attempt(socket.sethostname, socket.gethostname())\n"
    "attempt(os.setuid, 1)\nattempt(call, 'unshare', 0x10000000)\n"
    "attempt(call, 'mount', b'none', b'.', b'tmpfs', 0, 0)",
}
