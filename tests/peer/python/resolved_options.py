"""What the real oslo.config makes of a configuration, as Glance's cache tools set it up.

Reads one JSON object a line from stdin and writes one a line to stdout, in the same order:

    {"root": "/tmp/x", "program": "glance-cache-pruner", "args": ["--config-dir", "d"], "env": {"HOME": "/tmp/x/home"},
     "options": [["DEFAULT", "image_cache_dir"], ...]}

`root` stands for `/` where oslo.config looks into `/etc`. The answer is {"error": "..."} when the tool would not start,
else {"values": [...]}, one entry per option: {"value": "text" or null} or {"error": "..."}. Options that the real
tools do not register are {"unknown": true}.
"""

import json
import logging
import os
import sys
import warnings

del sys.path[0]  # this directory, in which this file would be found for the package of its name
warnings.simplefilter("ignore")

import glance.cmd.cache_pruner  # noqa: E402,F401  registers what the tools register
import glance.image_cache.drivers.centralized_db  # noqa: E402,F401
import glance.image_cache.drivers.sqlite  # noqa: E402,F401
from glance.common import config  # noqa: E402
from oslo_config import cfg  # noqa: E402
import glance_store  # noqa: E402
from oslo_db import options as database  # noqa: E402

config.CONF.register_opts(database.database_opts, group="database")
glance_store.register_opts(config.CONF)
logging.disable(logging.CRITICAL)
REAL_DIRS = cfg._get_config_dirs


def resolve(request):
    def dirs(project=None):
        return [request["root"] + d if d.split("/")[1] == "etc" else d for d in REAL_DIRS(project)]

    cfg._get_config_dirs = dirs
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["/usr/bin/" + request["program"]]
    try:
        config.parse_cache_args(request["args"])
    except (Exception, SystemExit) as error:
        return {"error": describe(error)}
    return {"values": [value(group, name) for group, name in request["options"]]}


def value(group, name):
    if group != "DEFAULT" and group not in config.CONF._groups:
        return {"unknown": True}  # Ironic's
    try:
        holder = config.CONF if group == "DEFAULT" else config.CONF[group]
        found = holder[name]
    except KeyError:
        return {"unknown": True}
    except Exception as error:
        # An option that exists fails with the same exception when its value refers to one that does not.
        opts = config.CONF._opts if group == "DEFAULT" else config.CONF._groups[group]._opts
        return {"error": describe(error)} if name in opts else {"unknown": True}
    return {"value": None if found is None else str(found)}


def describe(error):
    text = f"{type(error).__name__}: {error}"
    return text.encode("utf-8", "backslashreplace").decode()


for line in sys.stdin:
    sys.stdout.write(json.dumps(resolve(json.loads(line))) + "\n")
    sys.stdout.flush()
