"""Glance's own cleaner, pruner and prefetcher in one process: live_tools.py CONF DIR

Each in turn, as their commands run them, but without a second's start for each. The prefetcher of Glance 33 does not start
by itself: its command asks for a kind of threads that is no more. Prints how often each ran, and the kinds of errors that
ended one. Makes DIR/working when it has started, and goes on until there is DIR/over.
"""

import json
import os
import sys
import time
from collections import Counter

import glance.async_
import glance_store
from glance.common import config
from glance.image_cache import cleaner, prefetcher, pruner
from oslo_log import log as logging

conf, root = sys.argv[1:]
logging.register_options(config.CONF)
sys.argv = ["glance-cache-pruner", "--config-file", conf]
config.parse_cache_args()
logging.setup(config.CONF, "glance")
config.CONF.import_opt("enabled_backends", "glance.common.config")
glance.async_.set_threadpool_model("native")
glance_store.register_store_opts(config.CONF)
glance_store.create_multi_stores(config.CONF)
tools = [cleaner.Cleaner(), pruner.Pruner(), prefetcher.Prefetcher()]
counts = Counter()
open(f"{root}/working", "w").close()
while not os.path.exists(f"{root}/over"):
    for tool in tools:
        try:
            tool.run()
            counts[type(tool).__name__] += 1
        except Exception as error:
            counts[f"{type(tool).__name__}: {type(error).__name__}"] += 1
    time.sleep(0.05)
print(json.dumps(counts))
