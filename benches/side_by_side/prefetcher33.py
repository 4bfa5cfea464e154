"""The prefetcher of Glance 33, mended: prefetcher33.py ARGUMENTS OF THE TOOL

By itself it does not start: it asks for threads of eventlet, and Glance 33 has only native ones. That one
call is replaced. All the rest is the tool's own main().
"""

import sys

import glance.async_
from glance.cmd import cache_prefetcher

set_threadpool_model = glance.async_.set_threadpool_model
glance.async_.set_threadpool_model = lambda _: set_threadpool_model("native")
sys.argv[0] = "glance-cache-prefetcher"
sys.exit(cache_prefetcher.main())
