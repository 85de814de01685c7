"""CPython's multiprocessing doing what the benchmarks do.

    cpython.py [NEAR FAR]

Reads lines `FUNCTION N`, does that N times, answers the nanoseconds it took; what looks at memory answers bytes. Ends at the end of its input. NEAR and
FAR are the cores for this process and for the process at the other end.
"""
import ctypes
import multiprocessing as mp
import multiprocessing.managers
import os
import pickle
import sys
import time

PAUSE = 150e-6
MESSAGE = b"x" * 16
LARGE = b"x" * (64 * 1024)
SIZES = {"1KiB": b"x" * 1024, "64KiB": LARGE, "1MiB": b"x" * (1 << 20)}
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


def pipe_once(message=MESSAGE):
    pipe = piped(echo)

    def once():
        pipe.send_bytes(message)
        pipe.recv_bytes()
    return once


def queue_once(kind, message=MESSAGE):
    there, back = queued(queue_echo, kind)

    def once():
        there.put(message)
        back.get()
    return once


FUNCTIONS["pipe.roundtrip"] = lambda n: repeat(n, pipe_once())
FUNCTIONS["pipe.roundtrip.asleep"] = lambda n: repeat_asleep(n, pipe_once())
for name, kind in (("queue", "Queue"), ("simplequeue", "SimpleQueue")):
    FUNCTIONS[name + ".roundtrip"] = lambda n, kind=kind: repeat(n, queue_once(kind))
    FUNCTIONS[name + ".roundtrip.asleep"] = lambda n, kind=kind: repeat_asleep(n, queue_once(kind))


for name, message in SIZES.items():
    FUNCTIONS["pipe.roundtrip." + name] = lambda n, m=message: repeat(n, pipe_once(m))
    FUNCTIONS["queue.roundtrip." + name] = lambda n, m=message: repeat(n, queue_once("Queue", m))


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


def producer(items, orders, core):
    pin(core)
    while True:
        for _ in range(orders.get()):
            items.put(MESSAGE)


def consumer(items, orders, done, core):
    pin(core)
    while True:
        for _ in range(orders.get()):
            items.get()
        done.put(None)


def queue_many(n, kind, each):
    """So many producers, and as many consumers, each a process."""
    def make():
        context = mp.get_context("fork")
        items, puts, gets, done = [getattr(context, kind)() for _ in range(4)]
        for _ in range(each):
            far_side(producer, items, puts)
            far_side(consumer, items, gets, done)
        return puts, gets, done
    puts, gets, done = once_made(("many", kind, each), make)
    parts = [n * (i + 1) // each - n * i // each for i in range(each)]
    start = clock()
    for part in parts:
        gets.put(part)
        puts.put(part)
    for _ in parts:
        done.get()
    return clock() - start


for name, kind in (("queue", "Queue"), ("simplequeue", "SimpleQueue")):
    for each in (1, 2, 4):
        FUNCTIONS["%s.many.%d" % (name, 2 * each)] = lambda n, k=kind, e=each: queue_many(n, k, e)


@function("lock.uncontended")
def lock_uncontended(n):
    lock = once_made("lock", mp.Lock)

    def once():
        with lock:
            pass
    return repeat(n, once)


def lock_user(lock, number, orders, done, core):
    pin(core)
    while True:
        for _ in range(orders.get()):
            with lock:
                number.value += 1
        done.put(None)


@function("lock.contended")
def lock_contended(n):
    """This process and another one, half of it each."""
    def make():
        context = mp.get_context("fork")
        lock, number = context.Lock(), context.RawValue(ctypes.c_uint64)
        orders, done = context.SimpleQueue(), context.SimpleQueue()
        far_side(lock_user, lock, number, orders, done)
        return lock, number, orders, done
    lock, number, orders, done = once_made("contended", make)
    start = clock()
    orders.put(n // 2)
    for _ in range(n - n // 2):
        with lock:
            number.value += 1
    done.get()
    return clock() - start


@function("semaphore.uncontended")
def semaphore_uncontended(n):
    semaphore = once_made("semaphore", lambda: mp.Semaphore(1))

    def once():
        semaphore.acquire()
        semaphore.release()
    return repeat(n, once)


def event_echo(ping, pong, core):
    pin(core)
    while True:
        ping.wait()
        ping.clear()
        pong.set()


def event_once():
    def make():
        ping, pong = mp.Event(), mp.Event()
        far_side(event_echo, ping, pong)
        return ping, pong
    ping, pong = once_made("events", make)

    def once():
        ping.set()
        pong.wait()
        pong.clear()
    return once


def turn(condition, near, mine):
    """Gives the turn to the other side, and waits until it comes back."""
    with condition:
        near.value = not mine
        condition.notify()
        condition.wait_for(lambda: near.value == mine)


def turn_echo(condition, near, core):
    pin(core)
    with condition:
        condition.wait_for(lambda: not near.value)
    while True:
        turn(condition, near, False)


def turn_once():
    def make():
        condition, near = mp.Condition(), mp.RawValue("b", 1)
        far_side(turn_echo, condition, near)
        return condition, near
    condition, near = once_made("turns", make)
    return lambda: turn(condition, near, True)


for name, once in (("event", event_once), ("condition", turn_once)):
    FUNCTIONS[name + ".pingpong"] = lambda n, once=once: repeat(n, once())
    FUNCTIONS[name + ".pingpong.asleep"] = lambda n, once=once: repeat_asleep(n, once())


@function("bytes.8MiB")
def bytes_8mib(n):
    data = once_made("8MiB", lambda: b"x" * (8 << 20))

    def once():
        assert len(pickle.loads(pickle.dumps(data, pickle.HIGHEST_PROTOCOL))) == len(data)
    return repeat(n, once)


def pool():
    return once_made("pool", lambda: mp.get_context("fork").Pool(2))


def executor():
    from concurrent.futures import ProcessPoolExecutor
    return once_made("executor", lambda: ProcessPoolExecutor(2))


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


@function("executor.map.chunk1")
def executor_map(n):
    workers = executor()
    start = clock()
    assert len(list(workers.map(identity, range(n)))) == n
    return clock() - start


def pool_apply():
    workers = pool()
    return lambda: workers.apply(identity, (1,))


def executor_submit():
    workers = executor()
    return lambda: workers.submit(identity, 1).result()


FUNCTIONS["pool.apply"] = lambda n: repeat(n, pool_apply())
FUNCTIONS["pool.apply.asleep"] = lambda n: repeat_asleep(n, pool_apply())
FUNCTIONS["executor.submit"] = lambda n: repeat(n, executor_submit())
FUNCTIONS["executor.submit.asleep"] = lambda n: repeat_asleep(n, executor_submit())


def pool_made(then):
    def once():
        workers = mp.get_context("fork").Pool(2)
        then(workers)
        workers.terminate()
        workers.join()
    return once


FUNCTIONS["pool.create"] = lambda n: repeat(n, pool_made(lambda workers: None))
FUNCTIONS["pool.create.first_result"] = lambda n: repeat(n, pool_made(lambda workers: workers.apply(identity, (1,))))


@function("pool.map.8MiB")
def pool_map_8mib(n):
    data = once_made("8MiB", lambda: b"x" * (8 << 20))
    workers = pool()
    start = clock()
    for result in workers.imap(identity, [data] * n):
        assert len(result) == len(data)
    return clock() - start


CELLS = 64
CELL = 1 << 20
array = None


def touch(cell):
    array[cell * CELL] = 1


@function("pool.shared_array")
def pool_shared_array(n):
    """An array that the workers inherit: one element of each of its 64 parts is written."""
    global array
    if array is None:
        array = mp.get_context("fork").RawArray("B", CELLS * CELL)
    workers = once_made("array's pool", lambda: mp.get_context("fork").Pool(2))
    start = clock()
    for _ in range(n):
        workers.map(touch, range(CELLS), chunksize=1)
    return clock() - start


def on_processor(pid):
    with open("/proc/%d/schedstat" % pid) as file:
        return int(file.read().split()[0])


def own_time():
    """Of this process, with all its threads."""
    return int(time.process_time() * 1e9)


@function("pool.idle")
def pool_idle(n):
    """Nanoseconds on a processor, of this process and its workers, in a second without work."""
    workers = pool()
    pids = [process.pid for process in workers._pool]
    before, start = own_time() + sum(map(on_processor, pids)), time.perf_counter()
    time.sleep(0.5)
    used = own_time() + sum(map(on_processor, pids)) - before
    return int(used / (time.perf_counter() - start)) * n


def private_memory(pid):
    with open("/proc/%d/smaps_rollup" % pid) as file:
        lines = (line.split() for line in file if line.startswith("Private_"))
        return sum(int(words[1]) for words in lines) * 1024


@function("memory.worker")
def memory_worker(n):
    workers = pool()
    workers.map(identity, range(1000))
    return max(private_memory(process.pid) for process in workers._pool) * n


def manager():
    def make():
        made = multiprocessing.managers.SyncManager(ctx=mp.get_context("fork"))
        made.start(pin, (FAR,))
        return made
    return once_made("manager", make)


def dictionary():
    def make():
        made = manager().dict()
        made[1] = 2
        return made
    return once_made("dictionary", make)


def dict_set():
    hosted = dictionary()

    def once():
        hosted[1] = 2
    return once


def dict_get():
    hosted = dictionary()

    def once():
        assert hosted[1] == 2
    return once


for name, once in (("set", dict_set), ("get", dict_get)):
    FUNCTIONS["manager.dict." + name] = lambda n, once=once: repeat(n, once())
    FUNCTIONS["manager.dict." + name + ".asleep"] = lambda n, once=once: repeat_asleep(n, once())


def client(hosted, orders, done, core):
    while True:
        for number in range(orders.get()):
            if number % 2:
                hosted[1] = 2
            else:
                assert hosted[1] == 2
        done.put(None)


@function("manager.clients.8")
def manager_clients(n):
    """Eight processes that get and set in turns."""
    def make():
        context = mp.get_context("fork")
        hosted, orders, done = dictionary(), context.SimpleQueue(), context.SimpleQueue()
        for _ in range(8):
            far_side(client, hosted, orders, done)
        return orders, done
    orders, done = once_made("clients", make)
    start = clock()
    for i in range(8):
        orders.put(n * (i + 1) // 8 - n * i // 8)
    for _ in range(8):
        done.get()
    return clock() - start


@function("manager.bulk.8MiB")
def manager_bulk(n):
    data = once_made("8MiB", lambda: b"x" * (8 << 20))
    hosted = dictionary()

    def once():
        hosted["large"] = data
        assert len(hosted["large"]) == len(data)
    return repeat(n, once)


def manager_memory():
    server, hosted = manager()._process.pid, manager().dict()
    before, count = private_memory(server), 1000000
    for first in range(0, count, 50000):
        hosted.update({i: i.to_bytes(100, "little") for i in range(first, first + 50000)})
    return (private_memory(server) - before) // count


# Bytes of the server for each of a million entries of 100 bytes.
FUNCTIONS["manager.memory"] = lambda n: once_made("manager.memory", manager_memory) * n


@function("value.update")
def value_update(n):
    value = once_made("value", lambda: mp.Value(ctypes.c_uint64, 0))

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
    for name in ("pool", "array's pool"):
        if name in kept:
            kept[name].terminate()
            kept[name].join()
    if "executor" in kept:
        kept["executor"].shutdown()
    if "manager" in kept:
        kept["manager"].shutdown()
