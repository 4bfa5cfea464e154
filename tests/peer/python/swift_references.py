"""What Glance's own code makes of a file of Swift's accounts (swift_store_config_file).

Reads one JSON object a line from stdin, {"references": TEXT}, and writes one a line to stdout, in the same order: the
accounts by their names, or "refused" where the driver does not start with the file. An address has https:// where it has no
scheme, as the driver takes it. An account without a user and a project in its `user` is left out: the driver cannot log in.
"""

import importlib
import json
import logging
import os
import sys
import tempfile
import warnings

del sys.path[0]  # this directory, in which this file would be found for the package of its name
warnings.simplefilter("ignore")

from glance_store._drivers.swift import utils  # noqa: E402

logging.disable(logging.CRITICAL)


class Group:
    swift_store_auth_version = "3"


class Conf:
    glance_store = Group()

    def __init__(self, path):
        self.glance_store.swift_store_config_file = path

    def find_file(self, path):
        return path


def account(found):
    address = found["auth_address"]
    if not address:
        return None
    if not address.startswith(("http://", "https://")):
        address = "https://" + address
    credential = (found.get("application_credential_id"), found.get("application_credential_secret"))
    user, key = found.get("user"), found.get("key")
    if not all(credential):
        credential = (None, None)
        parts = (user or "").split(":")
        if len(parts) != 2 or not all(parts) or not key:
            return None
    else:
        user = key = None

    def domain(kind):
        return [found[kind + "_domain_id"] or None, found[kind + "_domain_name"] or None]

    domains = {
        kind: value if any(value := domain(kind)) else ["default", None] for kind in ("user", "project")
    }
    return {
        "auth_address": address, "user": user, "key": key, "id": credential[0], "secret": credential[1],
        "user_domain": domains["user"], "project_domain": domains["project"],
    }


def answer(text):
    importlib.reload(utils)  # its parser remembers what it has read
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", delete=False) as file:
        file.write(text)
    try:
        params = utils.SwiftParams(Conf(file.name)).params
    except Exception:
        return "refused"
    finally:
        os.unlink(file.name)
    accounts = {name: account(found) for name, found in params.items()}
    return {name: found for name, found in accounts.items() if found}


for line in sys.stdin:
    sys.stdout.write(json.dumps(answer(json.loads(line)["references"])) + "\n")
    sys.stdout.flush()
