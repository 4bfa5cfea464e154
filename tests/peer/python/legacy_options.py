"""Says what the real glance-cache-pruner makes of command lines.

Takes a JSON list of argument lists; prints a JSON list with, for each, "refused" (it ends with an error),
"printed" (it prints something and ends with 0) or the configuration sources in order and the values the
command line sets.
No configuration is read: that is another test's business.
"""

import contextlib
import io
import json
import sys

from oslo_config import cfg
from oslo_log import log

from glance.common import config

READ = []
NAMES = ("debug", "log_config_append", "log_date_format", "log_dir", "log_file", "syslog_log_facility",
         "use_journal", "use_json", "use_syslog")


def file_named(parser, namespace, values, option_string=None):
    READ.append("file " + values)


def dir_named(parser, namespace, values, option_string=None):
    READ.append("dir " + values)


def outcome(conf, args):
    READ.clear()
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        try:
            config.parse_cache_args(args)
        except SystemExit as end:
            return "refused" if end.code else "printed"
    values = {}
    for name in NAMES:
        with contextlib.suppress(KeyError):
            value = conf._namespace._get_cli_value([(None, name)])
            values[name] = str(value).lower() if isinstance(value, bool) else value
    return {"sources": list(READ), "values": values}


def main():
    sys.argv[0] = "glance-cache-pruner"
    conf = config.CONF
    log.register_options(conf)
    cfg._ConfigFileOpt.ConfigFileAction.__call__ = lambda self, *args: file_named(*args)
    cfg._ConfigDirOpt.ConfigDirAction.__call__ = lambda self, *args: dir_named(*args)
    cfg.find_config_files = lambda *args, **kwargs: []
    cfg.find_config_dirs = lambda *args, **kwargs: []
    print(json.dumps([outcome(conf, args) for args in json.loads(sys.argv[1])]))


main()
