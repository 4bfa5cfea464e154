"""The real Glance, driven from the tests.

Reads one JSON request per line from standard input ({"op": name, ...}) and answers each with one line: {"ok": result} or
{"error": "Type: message"}. It lives as long as a test, because starting Glance costs more than a second.

Everything that makes, prunes, cleans, reads or lists a cache here is Glance's own code; only the clock is ours (`at`), so
that caches of any age can be made, and only stat(2) is used to look, so that looking moves no access time.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import sqlite3
import sys
import time
import uuid  # noqa: F401  (Glance needs it loaded before eventlet looks at the clock)
import warnings

warnings.simplefilter("ignore")
with contextlib.redirect_stderr(io.StringIO()):
    from glance import image_cache
    from glance.common import config as glance_config
    from glance.image_cache.drivers import sqlite as sqlite_driver
    from glance.image_cache.drivers import xattr as xattr_driver
    from oslo_concurrency import lockutils
    from oslo_config import cfg

CONF = cfg.CONF
CONF([], project="glance", default_config_files=[], default_config_dirs=[])


class Clock:
    """Stands for the time module in Glance's drivers: `at` is the time, or the real one where it is None."""

    at = None

    def time(self):
        return time.time() if self.at is None else self.at

    def __getattr__(self, name):
        return getattr(time, name)


clock = Clock()
sqlite_driver.time = clock
xattr_driver.time = clock


def cache(dir, driver, max_size=None, stall_time=None):
    """Glance's ImageCache on a directory."""
    CONF.set_override("image_cache_dir", dir)
    CONF.set_override("image_cache_driver", driver)
    CONF.set_override("image_cache_max_size", 10 << 30 if max_size is None else max_size)
    CONF.set_override("image_cache_stall_time", 86400 if stall_time is None else stall_time)
    lockutils.set_defaults(dir)
    opened = image_cache.ImageCache()
    assert opened.driver.__module__.endswith(driver), opened.driver.__module__
    return opened


def write(driver, image_id, size):
    with driver.open_for_write(image_id) as file:
        file.truncate(size)


def read(driver, image_id):
    with driver.open_for_read(image_id) as file:
        return len(file.read())


class Broken(Exception):
    pass


def make(dir, driver, images=(), queued=(), invalid=(), incomplete=(), base=None):
    """Makes a cache with Glance's driver.

    images: [id, size, epoch of last use, hits]; invalid and incomplete: [id, size, epoch]; queued: [id, epoch].
    """
    d = cache(dir, driver).driver
    for image_id, at in queued:
        assert d.queue_image(image_id)
        os.utime(d.get_image_filepath(image_id, "queue"), (at, at))
    for image_id, size, at in invalid:
        try:
            with d.open_for_write(image_id) as file:
                file.truncate(size)
                raise Broken("the download broke off: ünexpected")
        except Broken:
            os.utime(d.get_image_filepath(image_id, "invalid"), (at, at))
    for image_id, size, at, hits in images:
        clock.at = at
        write(d, image_id, size)
        for _ in range(hits):
            read(d, image_id)
        clock.at = None
        os.utime(d.get_image_filepath(image_id), (at, at))
    for image_id, size, at in incomplete:
        # What a glance-api that was killed in the middle of a download leaves behind.
        path = d.get_image_filepath(image_id, "incomplete")
        with open(path, "wb") as file:
            file.truncate(size)
        os.utime(path, (at, at))


def copy(source, target):
    """Copies a cache with every time and attribute, and moves no access time of the source."""
    os.mkdir(target)
    for entry in os.scandir(source):
        path = os.path.join(target, entry.name)
        seen = entry.stat(follow_symlinks=False)
        if entry.is_dir(follow_symlinks=False):
            copy(entry.path, path)
        else:
            with open(os.open(entry.path, os.O_RDONLY | os.O_NOATIME), "rb") as i, open(path, "wb") as o:
                if seen.st_blocks:
                    shutil.copyfileobj(i, o)
                o.truncate(seen.st_size)
                for name in os.listxattr(i.fileno()):
                    os.setxattr(o.fileno(), name, os.getxattr(i.fileno(), name))
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def dump(dir, driver):
    """What is in a cache: every file but the index and lock files, with size, times, attributes; every row."""
    files = {}
    for sub in ("", "incomplete", "invalid", "queue"):
        for entry in os.scandir(os.path.join(dir, sub)):
            if entry.is_file(follow_symlinks=False) and not entry.name.startswith(("cache.db", "glance-cache", "image_cache_db")):
                s = entry.stat()
                attributes = {name: os.getxattr(entry.path, name).decode() for name in os.listxattr(entry.path)}
                files[os.path.join(sub, entry.name)] = [s.st_size, s.st_atime_ns, s.st_mtime_ns, attributes]
    rows = []
    if driver == "sqlite":
        with contextlib.closing(sqlite3.connect(os.path.join(dir, "cache.db"))) as db:
            rows = db.execute("SELECT * FROM cached_images ORDER BY rowid").fetchall()
    return {"files": files, "rows": rows}


def prune(dir, driver, max_size):
    return list(cache(dir, driver, max_size).prune())


def clean(dir, driver, stall_time):
    cache(dir, driver, stall_time=stall_time).clean()


def listing(dir, driver):
    d = cache(dir, driver).driver
    return {"cached_images": d.get_cached_images(), "queued_images": d.get_queued_images()}


def use(dir, driver, gone, fresh):
    """Goes on using a cache: reads everything, caches anew what had gone and something fresh, prunes a little, empties it."""
    c = cache(dir, driver)
    d = c.driver
    before = {image["image_id"]: image["hits"] for image in d.get_cached_images()}
    for image_id, hits in before.items():
        assert d.is_cached(image_id), image_id
        assert read(d, image_id) == d.get_image_size(image_id)
        assert d.get_hit_count(image_id) == hits + 1, image_id
    for image_id in [*gone, fresh]:
        assert d.is_cacheable(image_id), image_id
        if not d.is_queued(image_id):
            assert c.queue_image(image_id)
        chunks = list(c.get_caching_iter(image_id, None, iter([b"x" * 500, b"y" * 500])))
        assert sum(map(len, chunks)) == 1000
        assert d.is_cached(image_id) and not d.is_queued(image_id), image_id
        assert d.get_hit_count(image_id) == 0, image_id
    expected = sorted([*before, *gone, fresh])
    assert sorted(i["image_id"] for i in d.get_cached_images()) == expected
    total = c.get_cache_size()
    files, size = cache(dir, driver, total - 1).prune()
    assert files >= 1 and c.get_cache_size() == total - size
    c.clean(0)
    c.delete_all_queued_images()
    left = len(d.get_cached_images())
    assert left == len(expected) - files
    return left


def go_on(dir, driver, fresh, connection=None, node=None):
    """Goes on with a cache that something was killed or failed in: whatever is there, Glance's driver has to cope with it."""
    CONF.set_override("worker_self_reference_url", node)
    if connection is not None:
        from glance.db.sqlalchemy import api
        from oslo_db import options

        api.clear_db_env()
        CONF.register_opts(options.database_opts, "database")
        CONF.set_override("connection", connection, "database")
    c = cache(dir, driver)
    d = c.driver
    for image in d.get_cached_images():
        if d.is_cached(image["image_id"]):
            read(d, image["image_id"])
    write(d, fresh, 10)
    assert d.is_cached(fresh) and fresh in [image["image_id"] for image in d.get_cached_images()]
    c.clean(0)
    oldest = d.get_least_recently_accessed()[0]
    d.delete_cached_image(oldest)
    assert oldest not in [image["image_id"] for image in d.get_cached_images()], oldest
    return c.get_cache_size()


def served(dir, driver, connection=None, node=None):
    """Serves every image that Glance lists, and tells of each: MD5 and size of what was read, hits before and after."""
    if connection:
        from oslo_db import options

        CONF.register_opts(options.database_opts, "database")
        CONF.set_override("connection", connection, group="database")
        CONF.set_override("worker_self_reference_url", node)
    d = cache(dir, driver).driver
    found = {}
    for image in d.get_cached_images():
        image_id = image["image_id"]
        if len(image_id) != 36:
            continue  # the xattr driver takes lock files for images
        assert d.is_cached(image_id) and not d.is_cacheable(image_id) and not d.is_queued(image_id), image_id
        digest = hashlib.md5()
        with d.open_for_read(image_id) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        assert d.get_image_size(image_id) == image["size"], image
        found[image_id] = [digest.hexdigest(), image["size"], image["hits"], d.get_hit_count(image_id)]
    return found


def slowly(dir, driver, image_id, pause, size=1000, fail=False):
    """Caches an image as a request of a client does, without asking whether somebody else is at it: it had asked before."""
    d = cache(dir, driver).driver
    try:
        with d.open_for_write(image_id) as file:
            file.write(b"g" * size)
            file.flush()
            time.sleep(pause)
            if fail:
                raise Broken("the client has gone")
    except Broken:
        pass


def one(dir, driver, action, image_id=None, size=1000):
    """One step of Glance's driver: read, write, queue or delete an image, or keep one open until told to go on."""
    d = cache(dir, driver).driver
    if action == "read":
        return read(d, image_id)
    if action == "write":
        return write(d, image_id, size)
    if action == "queue":
        return d.queue_image(image_id)
    if action == "delete":
        return d.delete_cached_image(image_id)
    raise ValueError(action)


held = {}


def lock(name, path):
    """Takes oslo's lock, as glance-api does around its calls, and keeps it."""
    held[name] = lockutils.lock(name, external=True, lock_path=path)
    held[name].__enter__()
    return os.getpid()


def unlock(name):
    held.pop(name).__exit__(None, None, None)


def traffic(dir, driver, ids, seconds, size):
    """Reads and caches images over and over, as a busy glance-api does; says how long the longest step took."""
    d = cache(dir, driver).driver
    end = time.time() + seconds
    steps = longest = fresh = 0
    errors = []
    while time.time() < end:
        image_id = ids[steps % len(ids)]
        start = time.time()
        try:
            if d.is_cached(image_id):
                read(d, image_id)
            else:
                write(d, image_id, size)
                fresh += 1
        except FileNotFoundError:
            pass  # pruned between the question and the read: Glance then serves it from the store
        except Exception as error:
            errors.append("%s: %s" % (type(error).__name__, error))
        longest = max(longest, time.time() - start)
        steps += 1
        time.sleep(0.002)
    return {"steps": steps, "cached_anew": fresh, "longest": longest, "errors": errors}


def parse(arguments, name, home, prog, environment):
    """What Glance's cache tools make of a command line, the files below a home, and an environment: one option's value."""
    was, argv = dict(os.environ), sys.argv
    os.environ.update(environment, HOME=home)
    sys.argv = ["/usr/bin/" + prog, *arguments]
    CONF.clear()
    for option in ("image_cache_dir", "image_cache_driver", "image_cache_max_size", "image_cache_stall_time"):
        CONF.clear_override(option)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            glance_config.parse_cache_args(arguments)
            return CONF[name]
    finally:
        os.environ.clear()
        os.environ.update(was)
        sys.argv = argv
        CONF.clear()
        CONF([], project="glance", default_config_files=[], default_config_dirs=[])


OPS = {f.__name__: f for f in (make, copy, dump, prune, clean, listing, use, go_on, served, slowly, one, lock, unlock, traffic, parse)}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that Glance prints gets between the answers
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": OPS[request.pop("op")](**request)}
        except BaseException as error:
            answer = {"error": "%s: %s" % (type(error).__name__, error)}
        print(json.dumps(answer), file=answers, flush=True)


main()
