"""Runs Glance's own functional tests of the Cache API; requests to /v2/cache are answered by the service.

functional.py BINARY REPORT, or functional.py - REPORT, which leaves all requests to Glance

Glance's tests call the API in their own process, without Keystone. Here a request to /v2/cache goes to a service on the
same cache directory, the same database and the same policy; all others stay where they are. A caller becomes a token
whose owner has the roles of its headers: the identity service is a double in this process, which says yes to tokens
that are roles. The report is a JSON object: for each test null or how it failed, and all requests to the service.
"""

import http.client
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import unittest
from urllib.parse import quote, unquote

binary, report = sys.argv[1:3]
# The tests look for files below it, as in a source tree.
import glance  # noqa: E402

os.chdir(os.path.dirname(os.path.dirname(glance.__file__)))

from oslo_config import cfg  # noqa: E402
from oslo_db import options as db_options  # noqa: E402
import webob  # noqa: E402
import yaml  # noqa: E402

from glance.tests import functional  # noqa: E402
from glance.tests.functional.v2 import test_cache_api  # noqa: E402
from glance.tests.functional.v2 import test_cache_api_policy  # noqa: E402

CONF = cfg.CONF
# Known to all of Glance's tests when they run together.
db_options.set_defaults(CONF)
TESTS = [test_cache_api.TestImageCache, test_cache_api_policy.TestCacheImagesPolicy]


class Identity(http.server.BaseHTTPRequestHandler):
    """A double of Keystone: a token is the roles of its owner."""

    protocol_version = "HTTP/1.0"

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def token(self, roles):
        domain = {"id": "default", "name": "Default"}
        url = "http://127.0.0.1:%d/v3" % self.server.server_address[1]
        endpoint = {"id": "e", "interface": "internal", "region": "R", "region_id": "R", "url": url}
        return {"token": {
            "methods": ["password"], "expires_at": "2099-01-01T00:00:00.000000Z", "issued_at": "2020-01-01T00:00:00.000000Z",
            "user": {"id": "f9a41d13-0c13-47e9-bee2-ce4e8bfe958e", "name": "tester", "domain": domain},
            "project": {"id": functional.SynchronousAPIBase.TENANT, "name": "tests", "domain": domain},
            "roles": [{"id": role, "name": role} for role in roles],
            "catalog": [{"type": "identity", "id": "k", "name": "keystone", "endpoints": [endpoint]}],
        }}

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(201, self.token(["service"]), [("X-Subject-Token", "service")])

    def do_GET(self):
        if "/auth/tokens" in self.path:
            roles = unquote(self.headers["X-Subject-Token"])[len("roles:"):]
            self.answer(200, self.token([role for role in roles.split(",") if role]))
        else:
            link = "http://127.0.0.1:%d/v3/" % self.server.server_address[1]
            self.answer(200, {"version": {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": link}]}})

    def log_message(self, *_):
        pass


identity = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Identity)
threading.Thread(target=identity.serve_forever, daemon=True).start()

CONFIGURATION = """
[DEFAULT]
image_cache_dir = {dir}
image_cache_driver = {driver}
image_cache_max_size = {max_size}
worker_self_reference_url = http://workerx
enabled_backends = store1:file,store2:file,store3:file
node_staging_uri = file://{root}/staging
[database]
connection = {database}
[glance_store]
default_backend = store1
[store1]
filesystem_store_datadir = {root}/store1
[store2]
filesystem_store_datadir = {root}/store2
[store3]
filesystem_store_datadir = {root}/store3
[oslo_concurrency]
lock_path = {dir}
[oslo_policy]
enforce_new_defaults = true
policy_file = {root}/cache-policy.yaml
[keystone_authtoken]
auth_type = password
auth_url = http://127.0.0.1:{port}
username = glance
password = secret
project_name = service
user_domain_name = Default
project_domain_name = Default
[cache_api]
bind_host = 127.0.0.1
bind_port = {own}
"""

RULES = ("cache_list", "cache_image", "cache_delete", "cache_clean", "cache_prune", "list_cached_nodes",
         "manage_image_cache")


class Service:
    """A service on the cache of a test."""

    def __init__(self, test):
        self.test, self.root = test, test.test_dir
        self.rules = None
        self.max_size = None
        self.process = None

    def policy(self):
        """Writes the rules that the test has set; the service reads them within a second."""
        rules = {name: str(check) for name, check in self.test.policy.rules.items()}
        # The rules of Glance's code come to light when they are first asked about; those of a test replace all.
        told = {name: text for name, text in rules.items() if name in RULES}
        if self.test.rules_were_set:
            told.update((name, "!") for name in RULES if name not in rules)
        if told != self.rules:
            path = os.path.join(self.root, "cache-policy.yaml")
            with open(path + ".new", "w") as file:
                yaml.safe_dump(told or {"unused": "!"}, file)
            os.rename(path + ".new", path)
            if self.process:
                time.sleep(1.1)
        self.rules = told

    def start(self):
        with http.client.socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.max_size = CONF.image_cache_max_size
        conf = os.path.join(self.root, "service.conf")
        with open(conf, "w") as file:
            file.write(CONFIGURATION.format(
                root=self.root, dir=CONF.image_cache_dir or "", driver=CONF.image_cache_driver,
                max_size=self.max_size, database=CONF.database.connection,
                port=identity.server_address[1], own=self.port))
        self.log = open(os.path.join(self.root, "service.log"), "w+")
        self.process = subprocess.Popen(
            [binary, "serve", "--allow-root", "--config-file", conf], stderr=self.log, stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": self.root})
        end = time.monotonic() + 10
        while time.monotonic() < end and self.process.poll() is None:
            try:
                http.client.HTTPConnection("127.0.0.1", self.port).connect()
                return
            except OSError:
                time.sleep(0.01)
        raise Exception("the service did not start: " + self.text())

    def text(self):
        self.log.seek(0)
        return self.log.read()[-2000:]

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(60)

    def ask(self, request):
        self.policy()
        if self.max_size not in (None, CONF.image_cache_max_size):
            self.stop()
            self.process = None
        if self.process is None:
            self.start()
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        passed = ("accept", "x-image-cache-clear-target")
        headers = {name: value for name, value in request.headers.items() if name.lower() in passed}
        headers["X-Auth-Token"] = "roles:" + quote(request.headers.get("X-Roles", ""))
        connection.request(request.method, request.path_qs, body=request.body or None, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        response = webob.Response(status=answer.status, body=body)
        response.headers["Content-Type"] = answer.getheader("Content-Type", "")
        asked.append([self.test.id().rsplit(".", 1)[1], request.method, request.path, answer.status])
        return response


asked = []
real_call = functional.SynchronousAPIBase._call_api


def call(test, request):
    is_cache = request.path == "/v2/cache" or request.path.startswith("/v2/cache/")
    if not is_cache or not CONF.image_cache_dir and not test.is_on:
        return real_call(test, request)
    if not hasattr(test, "service"):
        test.service = Service(test)
        test.addCleanup(test.service.stop)
    return test.service.ask(request)


if binary != "-":
    functional.SynchronousAPIBase._call_api = call
functional.SynchronousAPIBase.is_on = True
functional.SynchronousAPIBase.rules_were_set = False
for case in TESTS:
    def set_policy_rules(self, rules, real=case.set_policy_rules):
        self.rules_were_set = True
        real(self, rules)
    case.set_policy_rules = set_policy_rules

loader = unittest.TestLoader()
suite = unittest.TestSuite(loader.loadTestsFromTestCase(case) for case in TESTS)


class Result(unittest.TestResult):
    ended = {}

    def note(self, test, how):
        service = getattr(test, "service", None)
        log = service.text() if service and service.process and how else ""
        self.ended[test.id().rsplit(".", 1)[1]] = how and (how[-1500:] + log)

    def addSuccess(self, test):
        self.note(test, None)

    def addError(self, test, error):
        self.note(test, self._exc_info_to_string(error, test))

    def addFailure(self, test, error):
        self.note(test, self._exc_info_to_string(error, test))

    def addSkip(self, test, reason):
        self.note(test, "skipped: " + reason)


result = Result()
suite.run(result)
with open(report, "w") as file:
    json.dump({"tests": result.ended, "asked": asked}, file)
