"""What the real keystonemiddleware does with lines of [keystone_authtoken].

The argument is the directory of the certificates. The first line on stdout is an object with the addresses of
two servers that answer as Keystone does, "http" and "https". Then for each JSON string on stdin, which is a
section of a configuration, a line has the status of a request with a token, or the type of the error.
"""

import http.server
import json
import os
import ssl
import sys
import tempfile
import threading

import webob
from keystonemiddleware import auth_token
from oslo_config import cfg


class Keystone(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def base(self):
        scheme = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
        return f"{scheme}://{self.headers['Host']}"

    def send(self, status, body, headers=()):
        text = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(text))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def token(self):
        domain = {"id": "default", "name": "Default"}
        endpoints = [
            {"id": name, "interface": name, "region": "R", "region_id": "R", "url": self.base() + "/v3"}
            for name in ("public", "internal", "admin")
        ]
        token = {
            "methods": ["password"],
            "user": {"id": "u", "name": "u", "domain": domain},
            "project": {"id": "p", "name": "p", "domain": domain},
            "roles": [{"id": "r", "name": "admin"}],
            "catalog": [{"type": "identity", "name": "keystone", "id": "i", "endpoints": endpoints}],
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "expires_at": "2096-01-01T00:00:00.000000Z",
            "audit_ids": ["a"],
        }
        return {"token": token}

    def do_GET(self):
        links = [{"rel": "self", "href": self.base() + "/v3/"}]
        version = {"id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z", "links": links}
        if self.path.startswith("/v3/auth/tokens"):
            self.send(200, self.token())
        elif self.path.rstrip("/") == "/v3":
            self.send(200, {"version": version})
        else:
            self.send(300, {"versions": {"values": [version]}})

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send(201, self.token(), (("X-Subject-Token", "own"),))


def serve(context=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keystone)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"{'https' if context else 'http'}://localhost:{server.server_port}"


def outcome(section):
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(section)
        file.flush()
        conf = cfg.ConfigOpts()
        conf(args=[], default_config_files=[file.name], project="glance")
        try:
            answer = auth_token.filter_factory({}, oslo_config_config=conf)(webob.Response(status=200))
            request = webob.Request.blank("/v2/cache", headers={"X-Auth-Token": "a"})
            return request.get_response(answer).status_int
        except Exception as error:  # the type is the answer
            return type(error).__name__


certificates = sys.argv[1]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.path.join(certificates, "server.pem"), os.path.join(certificates, "server.key"))
print(json.dumps({"http": serve(), "https": serve(context)}), flush=True)
for line in sys.stdin:
    print(json.dumps(outcome(json.loads(line))), flush=True)
