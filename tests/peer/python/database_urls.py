"""What the real SQLAlchemy makes of database URLs: one JSON string a line from stdin, one JSON object a line to stdout.

The answer is {"error": "..."} when SQLAlchemy refuses the URL or has no such dialect, else its parts.
"""

import json
import sys

from sqlalchemy.engine import make_url

DIALECTS = ("mysql", "mariadb", "postgresql", "sqlite")


def parts(text):
    # oslo.config strips the values of options.
    url = make_url(text.strip())
    if url.drivername.split("+")[0] not in DIALECTS:
        raise ValueError("another dialect")
    query = {key: [value] if isinstance(value, str) else list(value) for key, value in url.query.items()}
    return {
        "user": url.username, "password": url.password, "host": url.host, "port": url.port, "database": url.database,
        "query": query,
    }


for line in sys.stdin:
    try:
        answer = parts(json.loads(line))
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
