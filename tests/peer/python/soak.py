"""A long load as that of live.py, with faults, and with checks while everybody pauses.

Usage: soak.py DIR PLAN

DIR and PLAN are those of live.py. PLAN also has: program (ours), round (seconds between two checks), and faults (the names of
the methods of Faults, one after the other).

A service of ours works beside the commands, as a container next to glance-api does. At each check nobody changes the cache: ours
mends what the faults left, and what it reports is compared with the directory and with the index. Prints what live.py prints,
and the faults, the checks and what they found.
"""

import contextlib
import faulthandler
import fcntl
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import live  # noqa: E402
import sqlalchemy  # noqa: E402

SERVICE = """
image_cache_stall_time = 30
[cache_api]
prune_interval = 5s
clean_interval = 20s
prefetch_interval = 15s
poll_interval = 1s
lock_timeout = 10s
"""

# What may be in a cache directory besides images.
KNOWN = {"cache.db", "cache.db-journal", "glance-cache-prune", "glance-cache-clean", "glance-cache-prefetch"}
KNOWN |= {"queue", "incomplete", "invalid", ".glance-cache"}
# Glance's xattr driver makes it at each start, and leaves it if it is killed then or the disk is full.
KNOWN |= {"checkme"}


class Gate:
    """Lets everybody in, but for the time of a check."""

    def __init__(self):
        self.condition, self.inside, self.closed = threading.Condition(), 0, False

    def __enter__(self):
        with self.condition:
            self.condition.wait_for(lambda: not self.closed)
            self.inside += 1

    def __exit__(self, *error):
        with self.condition:
            self.inside -= 1
            self.condition.notify_all()

    @contextlib.contextmanager
    def shut(self):
        with self.condition:
            self.closed = True
            self.condition.wait_for(lambda: self.inside == 0)
        yield
        with self.condition:
            self.closed = False
            self.condition.notify_all()


class Soak(live.Load):
    pause = 1

    def __init__(self, root, base, seconds):
        super().__init__(root, base, seconds)
        self.turn, self.running = Gate(), set()

    def one(self, command, arguments):
        run = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.running.add(run)
        out, err = run.communicate()
        self.running.discard(run)
        return {"command": command, "code": run.returncode, "out": out, "err": err}


class Faults:
    """Each is made, holds for some seconds, and is mended."""

    SECONDS = 4

    def __init__(self, root, plan, workers, load):
        self.root, self.plan, self.workers, self.load = root, plan, workers, load
        self.cache, self.done, self.wrong = f"{root}/cache", Counter(), []

    def run(self, over):
        try:
            self.go_on(over)
        except Exception as error:
            self.wrong.append(f"no more faults were made: {error!r}")

    def go_on(self, over):
        for name in self.forever(self.plan["faults"]):
            over.wait(self.SECONDS)
            if over.is_set():
                return
            # A check waits for the end of a fault.
            with self.load.turn:
                with contextlib.ExitStack() as stack:
                    getattr(self, name)(stack)
                    over.wait(self.SECONDS)
                self.done[name] += 1

    def forever(self, names):
        while True:
            yield from names

    def index_locked(self, stack):
        if self.plan["driver"] == "sqlite":
            db = stack.enter_context(contextlib.closing(sqlite3.connect(f"{self.cache}/cache.db", timeout=30)))
            db.execute("BEGIN EXCLUSIVE")
        else:
            db = self.session(stack)
            # A transaction that glance-api has left open keeps the lock from being taken, and this wait would keep
            # everybody else out.
            db.execute(sqlalchemy.text("SET SESSION lock_wait_timeout = 3"))
            try:
                db.execute(sqlalchemy.text("LOCK TABLES cached_images WRITE"))
            except sqlalchemy.exc.OperationalError:
                self.done["index_not_locked"] += 1

    def session(self, stack):
        """A session that ends with the fault, and its locks with it: no pool keeps it."""
        engine = sqlalchemy.create_engine(self.plan["database"], poolclass=sqlalchemy.pool.NullPool)
        return stack.enter_context(engine.connect())

    def lock_held(self, stack):
        file = stack.enter_context(open(f"{self.cache}/glance-cache-prune", "a"))
        fcntl.lockf(file, fcntl.LOCK_EX)

    def disk_full(self, stack):
        # Without a name, so that nobody takes it for an image.
        descriptor = os.open(self.cache, os.O_TMPFILE | os.O_RDWR, 0o600)
        stack.callback(os.close, descriptor)
        end, step = 0, 1 << 20
        while step >= 4096:
            try:
                os.posix_fallocate(descriptor, end, step)
                end += step
            except OSError:
                step //= 2

    def run_killed(self, stack):
        for run in random.sample(sorted(self.load.running, key=id), min(2, len(self.load.running))):
            run.kill()

    def worker_killed(self, stack):
        self.load.killed.append(time.monotonic())
        self.workers.replace(random.randrange(live.WORKERS))

    def connections_cut(self, stack):
        db = self.session(stack)
        query = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        for (number,) in db.execute(sqlalchemy.text(query)).all():
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
                db.execute(sqlalchemy.text(f"KILL {number}"))


class Service:
    """Ours, for as long as all of it lasts. What each check finds of it shows what it does not give back."""

    def __init__(self, program, conf, log):
        self.log = open(log, "w")
        arguments = [program, "serve", "--bind", "none", "--allow-root", "--config-file", conf]
        self.process = subprocess.Popen(arguments, stdout=self.log, stderr=self.log)

    def look(self):
        if self.process.poll() is not None:
            return {"descriptors": 0, "memory": 0, "children": 0}
        base = f"/proc/{self.process.pid}"
        with open(f"{base}/status") as status:
            memory = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
        with open(f"{base}/task/{self.process.pid}/children") as children:
            count = len(children.read().split())
        return {"descriptors": len(os.listdir(f"{base}/fd")), "memory": memory, "children": count}

    def freeze(self):
        """Waits for its operation, and keeps it from the next."""
        while True:
            self.process.send_signal(signal.SIGSTOP)
            if not self.look()["children"]:
                return
            self.process.send_signal(signal.SIGCONT)
            time.sleep(0.02)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


class Check:
    """Compares what ours reports with the directory and the index, while nobody else changes them."""

    def __init__(self, root, plan, conf):
        self.root, self.plan, self.conf, self.cache = root, plan, conf, f"{root}/cache"
        self.wrong, self.sums, self.last = [], Counter(), []

    def require(self, holds, what):
        if not holds:
            self.wrong.append(what)

    def ours(self, *words):
        command = [self.plan["program"], *words, "--config-file", self.conf, "--format", "json"]
        run = subprocess.run(command, capture_output=True, text=True)
        self.require(run.returncode == 0, f"{words} ended with {run.returncode}: {run.stdout}{run.stderr}")
        try:
            return json.loads(run.stdout)
        except ValueError:
            self.wrong.append(f"{words} printed {run.stdout}{run.stderr}")
            return Counter()

    def size(self):
        return sum(entry.stat().st_size for entry in os.scandir(self.cache) if len(entry.name) == 36)

    def make(self):
        self.settle()
        # Nothing is older than this: a crashed download is one by now.
        cleaned = self.ours("clean", "--repair", "--stall-time", "1s")
        before = self.size()
        pruned = self.ours("prune")
        after = self.size()
        figures = (pruned["cache_size_before"], pruned["total_bytes_pruned"], pruned["cache_size_after"])
        self.require(figures == (before, before - after, after), f"prune said {figures} of {before} and {after}")
        self.require(after <= self.plan["limit"], f"{after} bytes after a prune")
        self.sums += Counter(bytes=before - after, files=pruned["total_files_pruned"])
        self.sums += Counter(cleaned=cleaned["total_files_cleaned"], ghosts=pruned["ghosts_forgotten"])
        state = live.state(self.root, self.plan)
        self.require(not state["orphans"] and not state["ghosts"], f"orphans {state['orphans']}, ghosts {state['ghosts']}")
        self.require(not state["incomplete"], f"incomplete {state['incomplete']}")
        told = self.ours("status")
        self.require(told["tracked"] == {"count": state["files"], "bytes": after}, f"status said {told['tracked']}")
        listed = self.ours("list", "--state", "tracked")["cached_images"]
        self.require(len(listed) == state["files"], f"list named {len(listed)} images of {state['files']}")
        names = {name for name in os.listdir(self.cache) if len(name) != 36}
        self.require(names <= KNOWN, f"left in the cache: {sorted(names - KNOWN)}")

    def settle(self):
        """Waits until glance-api has done with what it fetches and publishes by itself."""
        end, seen = time.monotonic() + 20, None
        while time.monotonic() < end:
            entries = [(e.path, e.stat().st_size) for place in ("", "incomplete", "queue") for e in self.scan(place)]
            if seen == sorted(entries):
                return
            seen = sorted(entries)
            time.sleep(1.5)

    def scan(self, place):
        with contextlib.suppress(FileNotFoundError):
            yield from os.scandir(os.path.join(self.cache, place))


def watch(plan, load, service, check):
    """One check after each round. Returns what was seen of the service each time."""
    seen = []
    while time.monotonic() < load.end:
        time.sleep(min(plan["round"], max(0, load.end - time.monotonic())))
        with load.turn.shut():
            service.freeze()
            try:
                check.make()
            except Exception as error:
                check.wrong.append(f"the check was not made: {error!r}")
            seen.append(service.look())
            service.process.send_signal(signal.SIGCONT)
    return seen


def main(root, plan):
    plan["sections"] = SERVICE
    # Whatever hangs is shown where it hangs.
    faulthandler.dump_traceback_later(plan["seconds"] + 300, exit=True)
    live.configure(root, plan)
    conf = f"{root}/etc/glance-api.conf"
    workers = live.Workers(root)
    service = None
    try:
        load = Soak(root, workers.base, plan["seconds"])
        load.end = time.monotonic() + plan["seconds"]
        service = Service(plan["program"], conf, f"{root}/service.log")
        faults, check, over = Faults(root, plan, workers, load), Check(root, plan, conf), threading.Event()
        seen, runs = [], []
        others = [threading.Thread(target=faults.run, args=(over,))]
        others.append(threading.Thread(target=lambda: seen.extend(watch(plan, load, service, check))))
        for thread in others:
            thread.start()
        runs = load.run(conf, plan["beside"])
        over.set()
        for thread in others:
            thread.join()
        is_alive = service.process.poll() is None
        code = service.stop()
    finally:
        workers.stop()
        if service and service.process.poll() is None:
            service.process.kill()
    with open(f"{root}/service.log") as log:
        said = Counter(live.kind(line.split(": ", 1)[-1], root) for line in log)
    told = live.report(root, plan, load, runs)
    told["service"] = {"alive": is_alive, "code": code, "seen": seen, "said": said}
    told["check"] = {"count": len(seen), "wrong": check.wrong + faults.wrong, "sums": check.sums}
    json.dump({**told, "faults": faults.done}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
