"""Formats log records with the real oslo.log.

Takes a JSON list of records; prints a JSON list of the lines that ContextFormatter or JSONFormatter makes
of them.
"""

import json
import logging
import os
import sys
import time

from oslo_config import cfg
from oslo_log import formatters
from oslo_log import log


def line(conf, asked):
    os.environ["TZ"] = asked["zone"]
    time.tzset()
    conf.set_override("logging_default_format_string", asked["format"])
    # Loggers of oslo.log put these into every record.
    extra = {"project": "glance", "version": "unknown", "extra_keys": ["project", "version"]}
    record = logging.getLogger(asked["name"]).makeRecord(
        asked["name"], asked["level"], asked["path"], asked["line"], asked["message"], (), None,
        asked["function"], extra)
    record.created = asked["time"]
    record.msecs = int(asked["time"] % 1 * 1000) + 0.0
    record.relativeCreated = asked["since_start"]
    record.process = asked["process"]
    if asked["json"]:
        formatter = formatters.JSONFormatter(datefmt=asked["date_format"])
    else:
        formatter = formatters.ContextFormatter(project="glance", datefmt=asked["date_format"], config=conf)
    return formatter.format(record)


def main():
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    conf([])
    print(json.dumps([line(conf, asked) for asked in json.loads(sys.argv[1])]))


main()
