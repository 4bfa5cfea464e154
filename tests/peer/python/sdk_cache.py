"""Calls everything about the cache that openstacksdk has, and prints what comes: sdk_cache.py CACHED OTHER.

The cloud is that of the environment. The image CACHED is in the cache, the image OTHER is not.
"""

import json
import sys
import time

import openstack

cached, other = sys.argv[1:]
image = openstack.connect().image


def show(name, call):
    try:
        answer = call()
    except openstack.exceptions.HttpException as error:
        answer = f"{error.status_code}: {error.details}"
    print(json.dumps([name, answer]), flush=True)


def listed():
    cache = image.get_image_cache()
    rows = [[row["image_id"], row["size"], row["hits"]] for row in cache.cached_images]
    return [sorted(rows, key=lambda row: row[1]), cache.queued_images]


def queued():
    image.queue_image(other)
    end = time.monotonic() + 30
    while time.monotonic() < end and len(listed()[0]) < 2:
        time.sleep(0.05)
    return listed()


show("list", listed)
show("prune", image.prune_cache)
show("clean", image.clean_cache)
show("queue", queued)
show("nodes", lambda: image.cached_image_nodes(other))
show("delete", lambda: image.cache_delete_image(other))
show("list", listed)
show("clear queue", lambda: image.clear_cache("queue"))
show("list", listed)
show("clear", image.clear_cache)
show("list", listed)
show("delete again", lambda: image.cache_delete_image(other, ignore_missing=False))
show("delete unknown", lambda: image.cache_delete_image("11111111-1111-4111-8111-111111111111", ignore_missing=False))
