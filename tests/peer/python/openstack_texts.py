"""What PyYAML and keystonemiddleware make of texts.

Reads one JSON object a line from stdin and writes one a line to stdout, in the same order:

    {"yaml": "a: 1"}                      the document as nodes, or {"error": "..."}
    {"pattern": "/v2/*", "path": "/v2/x"} true if an access rule with this path allows a request of that path

A node is [tag, text] for a scalar, {"list": [...]} or {"mapping": [[key, value], ...]}.
"""

import json
import sys

del sys.path[0]

import yaml  # noqa: E402
from keystonemiddleware.auth_token import _path_matches  # noqa: E402


def shown(node):
    if isinstance(node, yaml.ScalarNode):
        return [node.tag.removeprefix("tag:yaml.org,2002:"), node.value]
    if isinstance(node, yaml.SequenceNode):
        return {"list": [shown(item) for item in node.value]}
    return {"mapping": [[shown(key), shown(value)] for key, value in node.value]}


def document(text):
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        # Finds what only the values show, such as a list as a key.
        yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as e:
        return {"error": str(e)}
    return ["null", ""] if node is None else shown(node)


for line in sys.stdin:
    question = json.loads(line)
    if "yaml" in question:
        answer = document(question["yaml"])
    else:
        answer = bool(_path_matches(question["path"], question["pattern"]))
    print(json.dumps(answer), flush=True)
