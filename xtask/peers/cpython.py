"""CPython's multiprocessing doing what the benchmarks do.

    cpython.py [NEAR FAR]

Reads lines `FUNCTION N`, does that N times, answers the nanoseconds it took. Ends at the end of its input. NEAR and
FAR are the cores for this process and for the process at the other end.
"""
import multiprocessing as mp
import os
import pickle
import sys
import time

PAUSE = 150e-6
MESSAGE = b"x" * 16
LARGE = b"x" * (64 * 1024)
FUNCTIONS = {}


def function(name):
    def register(f):
        FUNCTIONS[name] = f
        return f
    return register


def clock():
    return int(time.perf_counter() * 1e9)


def repeat(n, once):
    start = clock()
    for _ in range(n):
        once()
    return clock() - start


def repeat_asleep(n, once):
    """Waits, awake, before each time until the far side has surely fallen asleep; the wait is not counted."""
    total = 0
    for _ in range(n):
        end = time.perf_counter() + PAUSE
        while time.perf_counter() < end:
            pass
        start = clock()
        once()
        total += clock() - start
    return total


def pin(core):
    if core is not None:
        os.sched_setaffinity(0, {core})


def nothing():
    pass


def identity(x):
    return x


def starter(method):
    def run(n):
        context = mp.get_context(method)

        def once():
            process = context.Process(target=nothing)
            process.start()
            process.join()
        return repeat(n, once)
    return run


for method in ("fork", "forkserver", "spawn"):
    FUNCTIONS["process." + method] = starter(method)


def echo(connection, core):
    pin(core)
    while True:
        connection.send_bytes(connection.recv_bytes())


def sink(connection, core):
    """Takes as many messages as the first one says, and confirms the last."""
    pin(core)
    while True:
        for _ in range(int(connection.recv_bytes())):
            connection.recv_bytes()
        connection.send_bytes(b"")


def queue_echo(inbox, outbox, core):
    pin(core)
    while True:
        outbox.put(inbox.get())


def queue_sink(inbox, outbox, core):
    pin(core)
    while True:
        for _ in range(inbox.get()):
            inbox.get()
        outbox.put(None)


kept = {}


def once_made(key, make):
    if key not in kept:
        kept[key] = make()
    return kept[key]


def far_side(target, *args):
    process = mp.get_context("fork").Process(target=target, args=args + (FAR,), daemon=True)
    process.start()
    return process


def piped(target):
    def make():
        near, far = mp.Pipe()
        far_side(target, far)
        return near
    return once_made(target, make)


def queued(target, kind):
    def make():
        context = mp.get_context("fork")
        there, back = getattr(context, kind)(), getattr(context, kind)()
        far_side(target, there, back)
        return there, back
    return once_made((target, kind), make)


def pipe_once():
    pipe = piped(echo)

    def once():
        pipe.send_bytes(MESSAGE)
        pipe.recv_bytes()
    return once


def queue_once(kind):
    there, back = queued(queue_echo, kind)

    def once():
        there.put(MESSAGE)
        back.get()
    return once


FUNCTIONS["pipe.roundtrip"] = lambda n: repeat(n, pipe_once())
FUNCTIONS["pipe.roundtrip.asleep"] = lambda n: repeat_asleep(n, pipe_once())
for name, kind in (("queue", "Queue"), ("simplequeue", "SimpleQueue")):
    FUNCTIONS[name + ".roundtrip"] = lambda n, kind=kind: repeat(n, queue_once(kind))
    FUNCTIONS[name + ".roundtrip.asleep"] = lambda n, kind=kind: repeat_asleep(n, queue_once(kind))


def pipe_throughput(n, message):
    pipe = piped(sink)
    start = clock()
    pipe.send_bytes(str(n).encode())
    for _ in range(n):
        pipe.send_bytes(message)
    pipe.recv_bytes()
    return clock() - start


def queue_throughput(n, kind, message):
    there, back = queued(queue_sink, kind)
    start = clock()
    there.put(n)
    for _ in range(n):
        there.put(message)
    back.get()
    return clock() - start


for name, message in ((".throughput", MESSAGE), (".throughput.64KiB", LARGE)):
    FUNCTIONS["pipe" + name] = lambda n, m=message: pipe_throughput(n, m)
    FUNCTIONS["queue" + name] = lambda n, m=message: queue_throughput(n, "Queue", m)
    FUNCTIONS["simplequeue" + name] = lambda n, m=message: queue_throughput(n, "SimpleQueue", m)


@function("lock.uncontended")
def lock_uncontended(n):
    lock = once_made("lock", mp.Lock)

    def once():
        with lock:
            pass
    return repeat(n, once)


@function("bytes.8MiB")
def bytes_8mib(n):
    data = once_made("8MiB", lambda: b"x" * (8 << 20))

    def once():
        assert len(pickle.loads(pickle.dumps(data, pickle.HIGHEST_PROTOCOL))) == len(data)
    return repeat(n, once)


def pool():
    return once_made("pool", lambda: mp.get_context("fork").Pool(2))


def pool_run(n, run):
    workers = pool()
    start = clock()
    count = run(workers, range(n))
    taken = clock() - start
    assert count == n
    return taken


FUNCTIONS["pool.map.chunk1"] = lambda n: pool_run(n, lambda w, items: len(w.map(identity, items, chunksize=1)))
FUNCTIONS["pool.map.default"] = lambda n: pool_run(n, lambda w, items: len(w.map(identity, items)))
FUNCTIONS["pool.imap_unordered"] = lambda n: pool_run(n, lambda w, items: sum(1 for _ in w.imap_unordered(identity, items)))


@function("pool.apply")
def pool_apply(n):
    workers = pool()
    return repeat(n, lambda: workers.apply(identity, (1,)))


@function("value.update")
def value_update(n):
    value = once_made("value", lambda: mp.Value("Q", 0))

    def add():
        with value.get_lock():
            value.value += 1

    return repeat(n, add)


NEAR = FAR = None
if __name__ == "__main__":
    if len(sys.argv) == 3:
        NEAR, FAR = int(sys.argv[1]), int(sys.argv[2])
        pin(NEAR)
    for line in sys.stdin:
        name, count = line.split()
        print(FUNCTIONS[name](int(count)), flush=True)
    if "pool" in kept:
        kept["pool"].terminate()
        kept["pool"].join()
