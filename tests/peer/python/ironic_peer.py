"""The real Ironic's image caches, driven from the tests.

Reads one JSON request per line from standard input ({"op": name, ...}) and answers each with one line: {"ok": result} or
{"error": "Type: message"}. Everything that caches, links and cleans here is Ironic's own code; only the clock is ours
(`at`), and images come from a small web server in this process, by Ironic's own HTTP image service.
"""

import http.server
import json
import os
import shutil
import signal
import sys
import threading
import time
import warnings

warnings.simplefilter("ignore")

from oslo_config import cfg

import ironic.conf  # noqa: F401
from ironic.conf import CONF

CONF([], project="ironic", default_config_files=[], default_config_dirs=[])

from ironic.common import images, utils
from ironic.drivers.modules import image_cache


class Clock:
    """Stands for the time module: `at` is the time, or the real one where it is None."""

    at = None

    def time(self):
        return time.time() if self.at is None else self.at

    def __getattr__(self, name):
        return getattr(time, name)


clock = Clock()
image_cache.time = clock


class Images(http.server.BaseHTTPRequestHandler):
    """Any path is an image; /BYTES/... has that many, and /BYTES/slow... never ends."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", self.path.split("/")[1])
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        size = int(self.path.split("/")[1])
        if "/slow" in self.path:
            self.wfile.write(b"x" * (size // 2))
            self.wfile.flush()
            time.sleep(3600)
        self.wfile.write(b"x" * size)

    def log_message(self, *args):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Images)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()


def href(path):
    return "http://127.0.0.1:%d/%s" % (server.server_address[1], path)


def cache(dir, size=1 << 40, ttl=1 << 30, force_raw=False):
    return image_cache.ImageCache(dir, size, ttl, disable_validation=True, force_raw=force_raw)


def clean_up(dir, size, ttl, amount=None, at=None):
    """Ironic's own cleaning of one cache."""
    clock.at = at
    cache(dir, size, ttl).clean_up(amount=amount)


def registered(dir, size, ttl):
    class Registered(image_cache.ImageCache):
        def __init__(self):
            super().__init__(dir, size, ttl)

    return Registered


def clean_up_caches(caches, directory, amount, at=None):
    """Ironic's own making of room. caches: [priority, dir, size, ttl]."""
    clock.at = at
    image_cache._cache_cleanup_list.clear()
    for priority, *rest in caches:
        image_cache.cleanup(priority)(registered(*rest))
    image_cache._clean_up_caches(directory, amount)


def clean_up_all(caches, at=None):
    clock.at = at
    image_cache._cache_cleanup_list.clear()
    for priority, *rest in caches:
        image_cache.cleanup(priority)(registered(*rest))
    image_cache.clean_up_all()


def priorities():
    """The caches a conductor registers, as (priority, class)."""
    code = (
        "from ironic.conf import CONF; CONF([], project='ironic', default_config_files=[], default_config_dirs=[])\n"
        "import ironic.conductor.manager\n"
        "from ironic.drivers.modules import image_cache\n"
        "import json; print(json.dumps([(p, c.__name__) for p, c in image_cache._cache_cleanup_list]))"
    )
    import subprocess

    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


OPTIONS = [
    ("pxe", "instance_master_path"),
    ("pxe", "tftp_master_path"),
    ("pxe", "image_cache_size"),
    ("pxe", "image_cache_ttl"),
    ("deploy", "iso_master_path"),
    ("deploy", "iso_cache_size"),
    ("deploy", "iso_cache_ttl"),
]


def options(args, environment):
    """What a conductor started with these arguments and this environment reads."""
    from ironic.common import config as ironic_config

    saved = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    program, sys.argv[0] = sys.argv[0], "/usr/bin/ironic-conductor"
    try:
        CONF.reset()
        ironic_config.parse_args(["/usr/bin/ironic-conductor", *args])
        return {f"{group}.{name}": CONF[group][name] for group, name in OPTIONS}
    finally:
        sys.argv[0] = program
        CONF.reset()
        os.environ.clear()
        os.environ.update(saved)
        CONF([], project="ironic", default_config_files=[], default_config_dirs=[])


def fetch(dir, image, dest):
    """Fetches an image as a conductor does, and returns its name in the cache."""
    clock.at = None
    cache(dir).fetch_image(href(image), dest)
    return os.stat(dest).st_nlink


def die(dir, image, dest, when):
    """Fetches in a child that is really killed: while it downloads, converts, or between linking and tidying up."""
    pid = os.fork()
    if pid == 0:
        def kill(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)

        def convert(href, path, path_tmp):
            with open(path + ".converted", "wb") as file:
                file.write(b"x" * 4096)
            kill()

        if when == "linked":
            utils.rmtree_without_raise = kill
        if when == "converting":
            images.force_raw_will_convert = lambda *args: True
            images.converted_size = lambda *args, **kwargs: 1
            images.image_to_raw = convert
        if when == "downloading":
            threading.Timer(1.0, kill).start()
        try:
            cache(dir, force_raw=when == "converting").fetch_image(href(image), dest)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status)


class Copies:
    """Stands for shutil: counts the copies that are made where a link could not be."""

    made = 0

    def copyfile(self, *args):
        Copies.made += 1
        return shutil.copyfile(*args)

    def __getattr__(self, name):
        return getattr(shutil, name)


def race(dir, image, dest, count, delay=0):
    """Fetches one image again and again, giving it up each time. Counts what went wrong.

    `lost`: the image was linked, its entry in the cache is gone and stays gone.
    `delay`: seconds that every link is held up, to widen the windows.
    """
    clock.at = None
    image_cache.shutil = Copies()
    link = os.link

    def slow_link(*args, **kwargs):
        time.sleep(delay)
        return link(*args, **kwargs)

    masters = cache(dir)
    os.link = slow_link if delay else link
    try:
        return fetches(masters, image, dest, count)
    finally:
        os.link = link


def fetches(masters, image, dest, count):
    tally = {"fetches": 0, "failed": 0, "lost": 0, "copied": 0, "errors": {}}
    for _ in range(count):
        tally["fetches"] += 1
        copies = Copies.made
        try:
            masters.fetch_image(href(image), dest)
        except Exception as error:
            tally["failed"] += 1
            name = type(error).__name__
            tally["errors"][name] = tally["errors"].get(name, 0) + 1
            if os.path.exists(dest):
                os.unlink(dest)
            continue
        here = os.stat(dest)
        deadline = time.time() + 2
        if Copies.made > copies:
            tally["copied"] += 1
            os.unlink(dest)
            continue
        while here.st_nlink < 2 and time.time() < deadline:
            time.sleep(0.002)
            here = os.stat(dest)
        if here.st_nlink < 2:
            tally["lost"] += 1
        os.unlink(dest)
    return tally


def race_cleaner(dir, seconds):
    """The real cleaning every 10 ms, for so long: the figure to compare with."""
    clock.at = time.time() + 86400
    masters = cache(dir, 0, 0)
    end = time.time() + seconds
    crashed = 0
    while time.time() < end:
        try:
            masters.clean_up()
        except Exception:
            crashed += 1
        time.sleep(0.01)
    clock.at = None
    return crashed


def main():
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": globals()[request.pop("op")](**request)}
        except Exception as error:
            answer = {"error": "%s: %s" % (type(error).__name__, error)}
        print(json.dumps(answer), flush=True)


main()
