"""What Glance's own code makes of a location.

Reads one JSON object a line from stdin and writes one a line to stdout, in the same order.

    {"url": "rbd://x"}                  -> {"parts": [...]} or {"refused": "..."}
    {"key": "...", "seal": "rbd://x"}   -> {"sealed": "..."}

The parts are those of the store driver's own parser; for http(s) they are of the request that its client library would send:
URL without credentials, fragment and percent codes, and the Authorization header. For swift they are the address, user, key,
container and object.
"""

import json
import sys
import urllib.parse
import warnings

del sys.path[0]  # this directory, in which this file would be found for the package of its name
warnings.simplefilter("ignore")

import logging  # noqa: E402

import requests  # noqa: E402
from glance.common import crypt  # noqa: E402
from glance_store._drivers import filesystem, http, rbd, s3  # noqa: E402
from glance_store._drivers.swift import store as swift  # noqa: E402

logging.disable(logging.CRITICAL)
DRIVERS = {
    "file": filesystem, "filesystem": filesystem, "http": http, "https": http, "rbd": rbd,
    "s3": s3, "s3+http": s3, "s3+https": s3,
    "swift": swift, "swift+http": swift, "swift+https": swift,
}


def parts(url):
    driver = DRIVERS[urllib.parse.urlparse(url).scheme]
    place = driver.StoreLocation({}, None)
    place.parse_uri(url)
    if driver is filesystem:
        return [place.path]
    if driver is rbd:
        return [place.pool, place.image, place.snapshot]
    if driver is s3:
        return [place.scheme, place.s3serviceurl, place.bucket, place.key]
    if driver is swift:
        return [place.swift_url, place.user, place.key, place.container, place.obj]
    request = requests.Request("GET", place.get_uri()).prepare()
    sent = urllib.parse.urlsplit(request.url)
    port = None if sent.port == {"http": 80, "https": 443}[sent.scheme] else sent.port
    target = urllib.parse.unquote(sent.path) + ("?" + urllib.parse.unquote(sent.query) if sent.query else "")
    return [sent.scheme, sent.hostname, port, target, request.headers.get("Authorization")]


def answer(question):
    if "seal" in question:
        return {"sealed": crypt.urlsafe_encrypt(question["key"], question["seal"])}
    try:
        return {"parts": parts(question["url"])}
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}


for line in sys.stdin:
    sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
    sys.stdout.flush()
