"""A real glance-api that serves, caches, queues and deletes, while others work in the same cache.

Usage: live.py DIR PLAN

DIR is ours, and empty but for a file system that may be mounted at DIR/cache. PLAN is a JSON object: driver, seconds, limit (of the cache, in bytes), database (the URL of one that has
Glance's tables; an SQLite file would not do for several processes), beside: lists of commands, each run in a loop, all at once.
In a command {conf} is glance-api's configuration file, and {some} are some of the images, so many arguments. A command with
{root} in it says that it works by making the file {root}/working, which is waited for, and goes on until there is {root}/over.

glance-api is several processes on one port, as behind uwsgi, each with threads. Everything that is served is compared with
what was stored. Prints one JSON object: what the clients did and met, what each run of a command printed, the kinds of
warnings and errors in glance-api's log and how often each, and how files and the index agreed at the end.
"""

import contextlib
import hashlib
import json
import logging
import os
import random
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
import wsgiref.simple_server
from collections import Counter

import sqlalchemy

IMAGES = 40
SIZE = 256 * 1024
WORKERS = 2
CLIENTS = 4

OPERATIONS = {"get": 58, "abandon": 6, "drop": 12, "queue": 8, "enqueue": 10, "replace": 6}


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True
    request_queue_size = 64


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *args):
        pass


def configure(root, plan):
    for name in ("etc", "cache", "store", "staging", "tasks"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    paste = os.path.join(sys.prefix, "etc/glance/glance-api-paste.ini")
    with open(paste) as source, open(f"{root}/etc/api-paste.ini", "w") as target:
        target.write(source.read())
    rules = (
        "default add_image get_image get_images upload_image download_image modify_image delete_image publicize_image "
        "cache_image cache_list cache_delete manage_image_cache"
    )
    with open(f"{root}/etc/policy.yaml", "w") as policy:
        policy.writelines(f'"{rule}": ""\n' for rule in rules.split())
    with open(f"{root}/etc/glance-api.conf", "w") as conf:
        conf.write(f"""
[DEFAULT]
log_file = {root}/glance.log
image_cache_dir = {root}/cache
image_cache_driver = {plan["driver"]}
image_cache_max_size = {plan["limit"]}
worker_self_reference_url = {node(root)}
enabled_backends = fs:file
[database]
connection = {plan["database"]}
[paste_deploy]
flavor = caching
config_file = {root}/etc/api-paste.ini
[oslo_concurrency]
lock_path = {root}
{plan.get("sections", "")}
[glance_store]
default_backend = fs
[fs]
filesystem_store_datadir = {root}/store
[os_glance_staging_store]
filesystem_store_datadir = {root}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {root}/tasks
[oslo_policy]
policy_file = {root}/etc/policy.yaml
enforce_scope = false
enforce_new_defaults = false
""")


def node(root):
    return f"http://{os.path.basename(root)}:9292"


def kind(text, root):
    """What a message is about, without what is different each time."""
    text = str(text).strip().split("\n")[0].replace(root, "DIR")
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    return re.sub(r"\b(0x[0-9a-f]+|\d+(\.\d+)?)\b", "N", text)[:130]


class Kinds(logging.Handler):
    """Writes down what glance-api warns of and fails with."""

    def __init__(self, root):
        super().__init__(logging.WARNING)
        self.root = root
        self.file = open(f"{root}/kinds-{os.getpid()}", "a", buffering=1)

    def emit(self, record):
        self.tell(record.levelname, record.name, record.getMessage(), record.exc_info)

    def tell(self, level, who, message, error):
        told = kind(message, self.root)
        if error and error[0]:
            level = "ERROR"
            told += f" | {error[0].__name__}: {kind(error[1], self.root)}"
        self.file.write(json.dumps(f"{level} {who}: {told}") + "\n")


def worker(root, descriptor):
    os.environ["OS_GLANCE_CONFIG_DIR"] = f"{root}/etc"
    sys.argv = ["glance-api"]
    from glance.wsgi.api import application

    kinds = Kinds(root)
    logging.getLogger().addHandler(kinds)
    # What an application raises while its answer is under way is the server's to log.
    wsgiref.simple_server.ServerHandler.log_exception = lambda self, error: kinds.tell(
        "ERROR", "server", "the answer broke off", error
    )
    server = Server(("127.0.0.1", 0), Quiet, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=descriptor)
    server.server_name, server.server_port = "127.0.0.1", server.socket.getsockname()[1]
    server.setup_environ()
    server.set_app(application)
    open(f"{root}/up-{os.getpid()}", "w").close()
    server.serve_forever()


class Workers:
    """glance-api's processes."""

    def __init__(self, root):
        self.root = root
        self.listening = socket.socket()
        self.listening.bind(("127.0.0.1", 0))
        self.listening.listen(64)
        self.base = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.processes = [self.start() for _ in range(WORKERS)]
        while not all(self.is_up(process) for process in self.processes):
            if any(process.poll() is not None for process in self.processes):
                sys.exit(open(f"{root}/stderr").read())
            time.sleep(0.05)

    def start(self):
        descriptor = self.listening.fileno()
        arguments = [sys.executable, "-I", "-B", "-W", "ignore", __file__, self.root, str(descriptor)]
        with open(f"{self.root}/stderr", "a") as stderr:
            return subprocess.Popen(arguments, pass_fds=[descriptor], stdout=stderr, stderr=stderr)

    def is_up(self, process):
        return os.path.exists(f"{self.root}/up-{process.pid}")

    def replace(self, place):
        """Kills one as the kernel does when memory is short, and starts another."""
        self.processes[place].kill()
        self.processes[place].wait()
        self.processes[place] = self.start()

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()


def call(method, url, body=None, kind="application/json"):
    request = urllib.request.Request(url, method=method, data=body, headers={"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


class Load:
    """The clients, and what works beside."""

    # What each operation of a client and each command beside happens in.
    turn = contextlib.nullcontext()
    # Seconds between two commands beside.
    pause = 0

    def __init__(self, root, base, seconds):
        self.root, self.base, self.cache = root, base, f"{root}/cache"
        self.digests, self.contents, self.end, self.over = {}, {}, None, f"{root}/over"
        self.seconds = seconds
        self.done, self.damaged, self.met = Counter(), [], Counter()
        # When processes of glance-api were killed.
        self.killed = []
        self.owned = [[self.new() for _ in range(IMAGES // CLIENTS)] for _ in range(CLIENTS)]

    def new(self):
        name = str(uuid.uuid4())
        data = random.randbytes(SIZE + random.randrange(SIZE))
        record = {"id": name, "name": name, "disk_format": "raw", "container_format": "bare"}
        call("POST", f"{self.base}/v2/images", json.dumps(record).encode())
        call("PUT", f"{self.base}/v2/images/{name}/file", data, "application/octet-stream")
        self.digests[name], self.contents[name] = hashlib.sha256(data).hexdigest(), data
        return name

    def some(self):
        return random.sample([name for own in self.owned for name in own], 8)

    def is_there(self, place, name):
        return os.path.exists(os.path.join(self.cache, place, name))

    def quiet(self, own, place, *directories):
        """Two requests that cache the same image at once write to one file in Glance itself, which may then serve a mixture:
        each image is one client's, who waits until Glance has done with it, and takes a new one if it does not."""
        end = time.monotonic() + 1
        while any(self.is_there(directory, own[place]) for directory in directories):
            if time.monotonic() > end:
                self.done["given up"] += 1
                self.replace(own, place)
                return
            time.sleep(0.005)

    def get(self, own, place):
        name, start = own[place], time.monotonic()
        data = call("GET", f"{self.base}/v2/images/{name}/file")
        self.done["bytes"] += len(data)
        if hashlib.sha256(data).hexdigest() == self.digests[name]:
            pass
        elif self.contents[name].startswith(data) and any(start < at < time.monotonic() for at in self.killed):
            # An image that glance-api caches while it serves it comes without a length.
            self.met["get: cut off with its process"] += 1
        else:
            self.damaged.append(self.damage(name, data))
        self.quiet(own, place, "incomplete")

    def damage(self, name, data):
        """What is wrong with the bytes that were served, and where."""
        stored = self.contents[name]
        same = next((n for n, (a, b) in enumerate(zip(data, stored)) if a != b), min(len(data), len(stored)))
        zeros = len(data) - len(data.rstrip(b"\0"))
        left = time.monotonic() - self.end
        return f"{name}: {len(data)} bytes of {len(stored)}, the first {same} right, the last {zeros} zero, at {left:.1f} s"

    def abandon(self, own, place):
        name = own[place]
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(("127.0.0.1", int(self.base.rsplit(":", 1)[1])))
        client.sendall(f"GET /v2/images/{name}/file HTTP/1.0\r\n\r\n".encode())
        client.recv(1000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        self.quiet(own, place, "incomplete")

    def drop(self, own, place):
        call("DELETE", f"{self.base}/v2/cache/{own[place]}")

    def queue(self, own, place):
        name = own[place]
        # What is there already Glance would fetch again, and have a file without a row.
        if self.is_there("", name) or self.is_there("incomplete", name):
            self.done["queue"] -= 1
            return
        call("PUT", f"{self.base}/v2/cache/{name}")
        self.quiet(own, place, "queue", "incomplete")

    def enqueue(self, own, place):
        """As Glance's driver queues it, but for a prefetcher."""
        name = own[place]
        if not self.is_there("", name) and not self.is_there("incomplete", name):
            open(f"{self.cache}/queue/{name}", "w").close()

    def replace(self, own, place):
        old, own[place] = own[place], self.new()
        del self.contents[old]
        call("DELETE", f"{self.base}/v2/images/{old}")

    def client(self, own):
        while time.monotonic() < self.end:
            operation = random.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
            try:
                with self.turn:
                    getattr(self, operation)(own, random.randrange(len(own)))
                self.done[operation] += 1
            except urllib.error.HTTPError as error:
                self.met[f"{operation}: {error.code} {error.reason}"] += 1
            except Exception as error:
                self.met[f"{operation}: {type(error).__name__}"] += 1

    def beside(self, conf, commands, runs):
        while not os.path.exists(self.over):
            for command in commands:
                arguments = []
                for argument in command:
                    arguments += self.some() if argument == "{some}" else [argument.format(conf=conf, root=self.root)]
                with self.turn:
                    runs.append(self.one(command, arguments))
                time.sleep(self.pause)

    def one(self, command, arguments):
        run = subprocess.run(arguments, capture_output=True, text=True)
        return {"command": command, "code": run.returncode, "out": run.stdout, "err": run.stderr}

    def run(self, conf, beside):
        runs = []
        others = [threading.Thread(target=self.beside, args=(conf, commands, runs)) for commands in beside]
        for thread in others:
            thread.start()
        patience = time.monotonic() + 120
        waited = "{root}" in json.dumps(beside)
        while waited and not os.path.exists(f"{self.root}/working") and time.monotonic() < patience:
            time.sleep(0.05)
        self.end = time.monotonic() + self.seconds
        clients = [threading.Thread(target=self.client, args=(own,)) for own in self.owned]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        open(self.over, "w").close()
        for thread in others:
            thread.join()
        return runs


def tracked(root, plan):
    """The images that the index knows."""
    cache = f"{root}/cache"
    if plan["driver"] == "xattr":
        names = [name for name in os.listdir(cache) if len(name) == 36]
        return {name for name in names if "user.hits" in os.listxattr(f"{cache}/{name}")}
    if plan["driver"] == "sqlite":
        db = sqlalchemy.create_engine(f"sqlite:///{cache}/cache.db").connect()
        return set(db.scalars(sqlalchemy.text("SELECT image_id FROM cached_images")))
    db = sqlalchemy.create_engine(plan["database"]).connect()
    ours = "SELECT image_id FROM cached_images JOIN node_reference USING (node_reference_id) WHERE node_reference_url = :url"
    return set(db.scalars(sqlalchemy.text(ours), {"url": node(root)}))


def state(root, plan):
    cache = f"{root}/cache"
    files = {name for name in os.listdir(cache) if len(name) == 36}
    rows = tracked(root, plan)
    places = {place: os.listdir(f"{cache}/{place}") for place in ("incomplete", "invalid", "queue")}
    return {"files": len(files), "orphans": sorted(files - rows), "ghosts": sorted(rows - files), **places}


def main(root, plan):
    configure(root, plan)
    workers = Workers(root)
    try:
        load = Load(root, workers.base, plan["seconds"])
        runs = load.run(f"{root}/etc/glance-api.conf", plan["beside"])
        time.sleep(1)
    finally:
        workers.stop()
    json.dump(report(root, plan, load, runs), sys.stdout)


def report(root, plan, load, runs):
    end = state(root, plan)
    for entry in os.scandir(f"{root}/cache"):
        if entry.name in load.digests:
            with open(entry.path, "rb") as file:
                if hashlib.sha256(file.read()).hexdigest() != load.digests[entry.name]:
                    load.damaged.append(f"in the cache: {entry.name}")
    kinds = Counter()
    for name in os.listdir(root):
        if name.startswith("kinds-"):
            with open(f"{root}/{name}") as lines:
                kinds.update(json.loads(line) for line in lines)
    return {"done": load.done, "damaged": load.damaged, "met": load.met, "runs": runs, "kinds": kinds, "end": end}


if __name__ == "__main__":
    if sys.argv[2].isdigit():
        worker(sys.argv[1], int(sys.argv[2]))
    else:
        main(sys.argv[1], json.loads(sys.argv[2]))
