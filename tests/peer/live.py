"""A real glance-api with its cache, serving, caching and counting hits, while a command runs in a loop beside it.

Usage: live.py DIR DRIVER SECONDS COMMAND [ARGUMENT ...]

DIR is empty and ours. COMMAND is run again and again; {cache} in its arguments is the cache directory. Every image that is
served is compared with what was stored. Prints one JSON object: what the clients and the command did, what each run of the
command printed, and the lines of glance-api's log that are errors.
"""

import hashlib
import json
import os
import random
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
import wsgiref.simple_server

IMAGES = 40
SIZE = 256 * 1024


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *args):
        pass


def configure(root, driver):
    for name in ("etc", "cache", "store", "staging", "tasks"):
        os.makedirs(f"{root}/{name}")
    paste = os.path.join(sys.prefix, "etc/glance/glance-api-paste.ini")
    with open(paste) as source, open(f"{root}/etc/api-paste.ini", "w") as target:
        target.write(source.read())
    rules = (
        "default add_image get_image get_images upload_image download_image modify_image delete_image publicize_image"
    )
    with open(f"{root}/etc/policy.yaml", "w") as policy:
        policy.writelines(f'"{rule}": ""\n' for rule in rules.split())
    with open(f"{root}/etc/glance-api.conf", "w") as conf:
        conf.write(f"""
[DEFAULT]
log_file = {root}/glance.log
image_cache_dir = {root}/cache
image_cache_driver = {driver}
image_cache_max_size = 1099511627776
worker_self_reference_url = http://127.0.0.1:1
enabled_backends = fs:file
[database]
connection = sqlite:///{root}/glance.sqlite
[paste_deploy]
flavor = caching
config_file = {root}/etc/api-paste.ini
[oslo_concurrency]
lock_path = {root}
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
    manage = os.path.join(os.path.dirname(sys.executable), "glance-manage")
    subprocess.run(
        [manage, "--config-file", f"{root}/etc/glance-api.conf", "db_sync"], check=True, capture_output=True
    )


def serve(root):
    os.environ["OS_GLANCE_CONFIG_DIR"] = f"{root}/etc"
    sys.argv = ["glance-api"]
    from glance.wsgi.api import application

    server = wsgiref.simple_server.make_server("127.0.0.1", 0, application, Server, Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def call(method, url, body=None, kind="application/json"):
    request = urllib.request.Request(url, method=method, data=body, headers={"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def store(base):
    images = {}
    for _ in range(IMAGES):
        name = str(uuid.uuid4())
        data = random.randbytes(SIZE + random.randrange(SIZE))
        record = {"id": name, "name": name, "disk_format": "raw", "container_format": "bare"}
        call("POST", f"{base}/v2/images", json.dumps(record).encode())
        call("PUT", f"{base}/v2/images/{name}/file", data, "application/octet-stream")
        images[name] = hashlib.sha256(data).hexdigest()
    return images


def main():
    root, driver, seconds, command = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:]
    configure(root, driver)
    base = serve(root)
    images = store(base)
    end = time.monotonic() + seconds
    served, damaged, failed, runs = [], [], [], []

    # Two requests that cache the same image at once trip over each other in Glance itself: each image to one client.
    clients = 3

    def client(number):
        own = list(images)[number::clients]
        while time.monotonic() < end:
            name = random.choice(own)
            try:
                data = call("GET", f"{base}/v2/images/{name}/file")
            except Exception as error:
                failed.append(f"{name}: {error}")
                continue
            served.append(name)
            if hashlib.sha256(data).hexdigest() != images[name]:
                damaged.append(name)

    def loop():
        names = {"root": root, "cache": f"{root}/cache", "ids": " ".join(images)}
        arguments = [argument.format(**names) for argument in command]
        while time.monotonic() < end:
            began = time.monotonic()
            run = subprocess.run(arguments, capture_output=True, text=True)
            took = time.monotonic() - began
            runs.append({"code": run.returncode, "stdout": run.stdout, "stderr": run.stderr, "seconds": took})
            time.sleep(0.05)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    threads.append(threading.Thread(target=loop))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for entry in os.scandir(f"{root}/cache"):
        if entry.name in images:
            with open(entry.path, "rb") as file:
                if hashlib.sha256(file.read()).hexdigest() != images[entry.name]:
                    damaged.append(f"in the cache: {entry.name}")
    with open(f"{root}/glance.log") as log:
        errors = [line.rstrip() for line in log if " ERROR " in line or " CRITICAL " in line]
    print(json.dumps({"served": len(served), "damaged": damaged, "failed": failed, "runs": runs, "errors": errors}))
    sys.stdout.flush()
    os._exit(0)


main()
