"""Programs that try to get out of the sandbox, or to take more than their share.

Each prints what it got, after "WON", or leaves a trace that the test looks for. Placeholders:
@CANARY@ a folder outside with a file "secret"; @PORT@ a TCP and UDP listener on the loopback;
@ABSTRACT@ the name of an abstract socket; @CALLER@ the process id of the caller, in whose
environment there is SECRET_TOKEN.
"""

from __future__ import annotations

READS = {
    "open": "print('WON', open('@CANARY@/secret').read())",
    "os.open": "import os\nprint('WON', os.read(os.open('@CANARY@/secret', 0), 99))",
    "through a link": """
import os
os.symlink('@CANARY@', 'way')
print('WON', open('way/secret').read())
""",
    "hard link": "import os\nos.link('@CANARY@/secret', 'mine')\nprint('WON', open('mine').read())",
    "rename in": "import os\nos.rename('@CANARY@/secret', 'mine')\nprint('WON')",
    "mmap by libc": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
f = libc.open(b'@CANARY@/secret', 0)
buffer = ctypes.create_string_buffer(99)
if f >= 0 and libc.read(f, buffer, 99) > 0: print('WON', buffer.value)
""",
    "openat2": """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
how = struct.pack('QQQ', 0, 0, 0)
f = libc.syscall(437, -100, b'@CANARY@/secret', how, 24)
if f >= 0: print('WON', open(f).read())
""",
    "list": "import os\nprint('WON', os.listdir('@CANARY@'))",
    "list root": "import os\nprint('WON', os.listdir('/'))",
    "other jobs": """
import glob, os
for path in glob.glob(os.path.dirname(os.getcwd()) + '/*/*') + glob.glob('/tmp/*/*'):
    print('WON', open(path).read())
""",
    "installed packages": """
import glob, os
for root in ('/usr/lib/python3', '/usr/local/lib', os.path.dirname(os.__file__)):
    for path in glob.glob(root + '/**/*-packages/*/*.py', recursive=True):
        print('WON', path, open(path).read()[:9]); break
""",
    "parent's environment": """
import os
print('WON', open(f'/proc/{os.getppid()}/environ').read())
""",
    "parent's memory": """
import os
m = open(f'/proc/{os.getppid()}/maps').read()
print('WON', m[:50])
""",
    "caller's environment": "print('WON', open('/proc/@CALLER@/environ').read()[:99])",
    "any environment": """
import glob, os
for path in glob.glob('/proc/[0-9]*/environ'):
    if path.split('/')[2] != str(os.getpid()):
        if b'SECRET' in open(path, 'rb').read(): print('WON', path)
""",
    "process_vm_readv": """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(8)
class V(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
mine = V(ctypes.addressof(buffer), 8)
theirs = V(id(os), 8)
for pid in (os.getppid(), @CALLER@):
    got = libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)
    if got > 0: print('WON', got)
""",
    "own environment": """
import os
text = str(os.environ) + open('/proc/self/environ').read()
if 'SECRET' in text: print('WON', text)
""",
    "inherited descriptors": """
import os
for f in range(4, 4096):
    try: os.fstat(f); print('WON', f, os.readlink(f'/proc/self/fd/{f}'))
    except OSError: pass
""",
}

WRITES = {
    "file outside": "open('@CANARY@/written', 'w').write('x')",
    "append outside": "open('@CANARY@/secret', 'a').write('x')",
    "truncate outside": "import os\nos.truncate('@CANARY@/secret', 0)",
    "delete outside": "import os\nos.unlink('@CANARY@/secret')",
    "folder outside": "import os\nos.mkdir('@CANARY@/folder')",
    "socket outside": "import os\nos.mknod('@CANARY@/node', 0o140600)",
    "rename out": "import os\nopen('f', 'w').close()\nos.rename('f', '@CANARY@/written')",
    "link out": "import os\nopen('f', 'w').close()\nos.link('f', '@CANARY@/written')",
    "symbolic link out": "import os\nos.symlink('/etc/passwd', '@CANARY@/written')",
    "chmod outside": "import os\nos.chmod('@CANARY@/secret', 0o777)",
    "times outside": "import os\nos.utime('@CANARY@/secret', (5, 5))",
    "standard library": """
import os, sys
for folder in (*sys.path, '/tmp', '/var/tmp', '/dev/shm', '/run', os.path.dirname(os.getcwd())):
    try: open(folder + '/grpo_left_behind.py', 'w').write('WON = 1')
    except OSError: pass
os.unlink('grpo_left_behind.py') if os.path.exists('grpo_left_behind.py') else None
""",
    "by a shell": "import os\nos.system('touch @CANARY@/written')",
    "by posix_spawn": """
import os
os.posix_spawn('/usr/bin/touch', ['touch', '@CANARY@/written'], {})
""",
    "by libc": "import ctypes\nctypes.CDLL(None).system(b'touch @CANARY@/written')",
    "by exec": "import os\nos.execv('/usr/bin/touch', ['touch', '@CANARY@/written'])",
    "by io_uring": """
import ctypes
params = ctypes.create_string_buffer(120)
if ctypes.CDLL(None).syscall(425, 8, params) >= 0: open('@CANARY@/written', 'w')
print('WON' if ctypes.CDLL(None).syscall(425, 8, params) >= 0 else '')
""",
}

REACHES = {
    "tcp": """
import socket
s = socket.socket(); s.settimeout(1); s.connect(('127.0.0.1', @PORT@)); s.sendall(b'x')
""",
    "tcp over ipv6": """
import socket
s = socket.socket(socket.AF_INET6); s.settimeout(1)
s.connect(('::ffff:127.0.0.1', @PORT@)); s.sendall(b'x')
""",
    "udp": """
import socket
socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', @PORT@))
""",
    "abstract socket": """
import socket
s = socket.socket(socket.AF_UNIX); s.connect('\\0@ABSTRACT@'); s.sendall(b'x')
""",
    "datagram from a pair": """
import socket
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
a.sendto(b'x', '\\0@ABSTRACT@-d')
""",
    "sendmsg from a stream pair": """
import socket
a, b = socket.socketpair()
a.sendmsg([b'x'], [], 0, '\\0@ABSTRACT@-d')
""",
    "raw packets": "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW); print('WON')",
    "netlink": "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW); print('WON')",
    "vsock": "import socket\nsocket.socket(40, socket.SOCK_STREAM); print('WON')",
}

HARMS = {
    "signal the parent": """
import os, signal
for pid in (os.getppid(), @CALLER@):
    try: os.kill(pid, signal.SIGUSR1); print('WON', pid)
    except OSError: pass
""",
    "signal by pidfd": """
import os, signal
signal.pidfd_send_signal(os.pidfd_open(os.getppid()), signal.SIGUSR1); print('WON')
""",
    "signal by fcntl": """
import fcntl, os, signal
r, w = os.pipe()
fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid()); fcntl.fcntl(r, 10, int(signal.SIGUSR1))
fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK); os.write(w, b'x'); print('WON')
""",
    "signal by ioctl": """
import fcntl, os, struct
r, w = os.pipe()
fcntl.ioctl(r, 0x8901, struct.pack('i', os.getppid())); print('WON')
""",
    "queue a signal": """
import ctypes, os
info = ctypes.create_string_buffer(128)
for pid in (os.getppid(), @CALLER@):
    if ctypes.CDLL(None).syscall(129, pid, 10, info) == 0: print('WON')
""",
    "ptrace": """
import ctypes, os
for pid in (os.getppid(), @CALLER@):
    if ctypes.CDLL(None).ptrace(16, pid, 0, 0) == 0:
        print('WON'); ctypes.CDLL(None).ptrace(17, pid, 0, 0)
""",
    "priority of others": """
import os
for pid in (os.getppid(), @CALLER@):
    os.setpriority(os.PRIO_PROCESS, pid, 19); print('WON')
""",
    "limits of others": """
import resource, os
resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (5, 5)); print('WON')
""",
    "own limits": """
import resource
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2); print('WON')
""",
    "fork": "import os\nif os.fork() == 0: os._exit(0)\nprint('WON')",
    "vfork by libc": "import ctypes\nif ctypes.CDLL(None).syscall(58) >= 0: print('WON')",
    "clone3": """
import ctypes, struct
pid = ctypes.CDLL(None).syscall(435, struct.pack('QQQQQQQQ', 0, 0, 0, 0, 17, 0, 0, 0), 64)
if pid >= 0: print('WON', pid)
""",
    "user namespace": "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) == 0: print('WON')",
    "thread with namespace": """
import ctypes
if ctypes.CDLL(None).syscall(56, 0x50f00 | 0x10000000, 0, 0, 0, 0) >= 0: print('WON')
""",
    "mount": """
import ctypes
if ctypes.CDLL(None).mount(b'x', b'.', b'tmpfs', 0, 0) == 0: print('WON')
""",
    "chroot": "import os\nos.chroot('.'); print('WON')",
    "become root": """
import os
before = os.getuid()
os.setuid(0 if before else 1); print('WON')
""",
    "tighten the filter": """
import ctypes
if ctypes.CDLL(None).prctl(22, 1, 0, 0, 0) == 0: print('WON')
""",
    "outlive the parent": """
import ctypes
if ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0: print('WON')
""",
    "keyring": "import ctypes\nif ctypes.CDLL(None).syscall(250, 0, -3, 1) >= 0: print('WON')",
    "system v memory": """
import ctypes
if ctypes.CDLL(None).shmget(77, 4096, 0o1666) >= 0: print('WON')
""",
    "posix memory": """
from multiprocessing import shared_memory
print('WON', shared_memory.SharedMemory('grpo', create=True, size=10).name)
""",
    "memory file": "import os\nos.memfd_create('x'); print('WON')",
    "grow the input": "import os\nos.write(0, b'x'); print('WON')",
    "32-bit calls": """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex('b814000000cd80c3'))  # mov eax, getpid; int 0x80; ret
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
print('WON', call())
""",
    "x32 calls": """
import ctypes, os
print('WON' if ctypes.CDLL(None).syscall(0x40000000 + 39) == os.getpid() else '')
""",
}

# Of these the limits are looked at: the job must end in time, and the sandbox go on.
EXHAUSTS = {
    "memory at once": """
x = bytearray(1500 << 20)
for i in range(0, len(x), 4096): x[i] = 1
print('WON')
""",
    "memory by and by": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "shared mapping": "import mmap\nm = mmap.mmap(-1, 1500 << 20)\nprint('WON')",
    "loop": "while True: pass",
    "loop that catches all": """
import signal
for n in range(1, 65):
    try: signal.signal(n, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True:
    try:
        while True: pass
    except BaseException: pass
""",
    "sleep": "import time\ntime.sleep(1000)",
    "output": "import sys\nwhile True: sys.stdout.write('x' * 100_000)",
    "error output": "import sys\nwhile True: sys.stderr.write('x' * 100_000)",
    "large file": "f = open('f', 'wb')\nwhile True: f.write(bytes(1 << 20)); f.flush()",
    "many files": """
n = 0
while True:
    open(f'f{n}', 'w').write('x' * 100); n += 1
""",
    "deep folders": "import os\nwhile True: os.mkdir('d'); os.chdir('d')",
    "descriptors": "import os\nx = []\nwhile True: x.append(os.dup(1))",
    "threads": """
import threading, time
n = 0
threading.stack_size(1 << 15)
try:
    for _ in range(3000):
        threading.Thread(target=time.sleep, args=(20,), daemon=True).start(); n += 1
except Exception: pass
print('WON' if n > 1000 else n, flush=True)
import os; os._exit(0)
""",
    "recursion": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): return f()\nf()",
    "regular expression": "import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')",
    "large number": "x = 9 ** 9 ** 9",
    "segmentation fault": "import ctypes\nctypes.string_at(0)",
    "closed descriptors": "import os\nos.closerange(0, 100)\nwhile True: pass",
    "stopped": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "locked folder": """
import os
os.makedirs('a/b/c'); open('a/b/c/f', 'w').close()
for name in ('a/b', 'a', '.'): os.chmod(name, 0)
""",
}
