"""What the real oslo.policy answers, as Glance sets it up.

Reads one JSON object a line from stdin and writes one a line to stdout, in the same order:

    {"config": "/tmp/x/glance-api.conf", "rule": "cache_prune", "callers": [{"user_id": "u", "roles": ["admin"]}, ...],
     "image": null or {"owner": "p", "visibility": "public", "extra_properties": {"colour": "red"}}}

The answer is {"answers": [true, false, "TypeError: ..."]}, one entry per caller: a text is the exception that Glance
would answer with an internal error. {"defaults": true} is answered with all of Glance's default rules instead.
"""

import datetime
import json
import logging
import sys
import warnings

del sys.path[0]  # this directory, in which this file would be found for the package of its name
warnings.simplefilter("ignore")

from glance import context, domain, policies  # noqa: E402
from glance.api import policy  # noqa: E402
from glance.common import config  # noqa: E402,F401
from oslo_config import cfg  # noqa: E402

logging.disable(logging.CRITICAL)


def answers(question):
    cfg.CONF(["--config-file", question["config"]], project="glance", prog="glance-api")
    try:
        enforcer = policy.Enforcer()
    except Exception as error:
        return [describe(error)] * len(question["callers"])
    return [answer(enforcer, question, caller) for caller in question["callers"]]


def answer(enforcer, question, caller):
    try:
        ctxt = context.RequestContext(policy_enforcer=enforcer, **caller)
        ctxt.roles = [role.lower() for role in ctxt.roles]
        target = {}
        if question["image"] is not None:
            now = datetime.datetime(2026, 11, 29)
            image = dict(question["image"])
            identity = image.pop("image_id")
            status = image.pop("status")
            target = policy.ImageTarget(domain.Image(identity, status, now, now, **image))
        return bool(enforcer.check(ctxt, question["rule"], target))
    except policy.policy.InvalidScope:
        return False
    except Exception as error:
        return describe(error)


def describe(error):
    text = f"{type(error).__name__}: {error}"
    return text.encode("utf-8", "backslashreplace").decode()


def defaults():
    return [
        [rule.name, rule.check_str, rule.scope_types, rule.deprecated_rule and
         [rule.deprecated_rule.name, rule.deprecated_rule.check_str]]
        for rule in policies.list_rules()
    ]


for line in sys.stdin:
    question = json.loads(line)
    found = {"defaults": defaults()} if question.get("defaults") else {"answers": answers(question)}
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
