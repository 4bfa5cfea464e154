#!/bin/bash
# Private OpenStack services for the tests, behind uWSGI:
#
#   openstack.sh keystone DIR PORT [remove]
#   openstack.sh glance DIR PORT [remove]
#
# They listen on 127.0.0.1 alone and keep everything in DIR. Prints "ready" when they answer, and stops them when its
# standard input ends, however the test process ends. With remove, DIR goes then. SIGUSR1 to the process whose id is in
# DIR/keeper starts a service again that was stopped; DIR/pid is the master's.
#
# PYTHON is the one that has the service and uWSGI.
#
# keystone: projects admin, service and demo; users admin (admin in admin), glance (admin and service in service), demo
# (member in demo), reader (reader in demo), manager (manager in demo), each with the password NAMEpw. DIR/extra.conf is
# added to its configuration when it is there.
#
# glance: DIR/etc/glance-api.conf is there already. PROCESSES (1) with 4 threads each.
#
# uWSGI drops kept connections. So each answer says that its connection ends, as in the configuration that Glance's
# documents have for uWSGI: clients in Python, among them Glance as a client of Keystone, do not repeat a request.
set -eu
kind=$1 dir=$2 port=$3 remove=${4:-}
bin=${PYTHON%/*}
cd "$dir"
child=
stop() {
    kill -CONT "$child" 2>/dev/null || true
    kill -TERM "$child" 2>/dev/null || true
    { sleep 5 && kill -KILL "$child"; } 2>/dev/null &
    watch=$!
    wait "$child" 2>/dev/null || true
    kill $watch 2>/dev/null || true
    cd /
    [ "$remove" != remove ] || rm -rf "$dir"
}
trap stop EXIT

# uWSGI closes each connection and does not say so: a client that keeps it for its next request may lose that one.
uwsgi() { # uwsgi ENVIRONMENT-VARIABLE... -- OPTION...
    local variables=()
    while [ "$1" != -- ]; do variables+=("$1") && shift; done
    shift
    env "${variables[@]}" "$bin/uwsgi" --http-socket 127.0.0.1:"$port" --add-header 'Connection: close' --master \
        --threads 4 --enable-threads --lazy-apps --die-on-term \
        --listen 100 --pidfile "$dir/pid" "$@" </dev/null >>uwsgi.log 2>&1 &
    child=$!
}

prepare_keystone() {
    mkdir -p fernet cred
    cat >keystone.conf <<C
[DEFAULT]
log_file = $dir/keystone.log
[database]
connection = sqlite:///$dir/keystone.sqlite
[fernet_tokens]
key_repository = $dir/fernet
[credential]
key_repository = $dir/cred
[identity]
password_hash_algorithm = bcrypt
password_hash_rounds = 4
[cache]
enabled = false
C
    [ ! -e extra.conf ] || cat extra.conf >>keystone.conf
    local manage=("$bin/keystone-manage" --config-file "$dir/keystone.conf")
    local owner=(--keystone-user "$(id -un)" --keystone-group "$(id -gn)")
    local url=http://127.0.0.1:$port/v3/
    {
        "${manage[@]}" db_sync
        "${manage[@]}" fernet_setup "${owner[@]}"
        "${manage[@]}" credential_setup "${owner[@]}"
        "${manage[@]}" bootstrap --bootstrap-password adminpw --bootstrap-public-url "$url" \
            --bootstrap-internal-url "$url" --bootstrap-admin-url "$url" --bootstrap-region-id RegionOne
    } >>setup.log 2>&1
}

start_keystone() {
    uwsgi OS_KEYSTONE_CONFIG_DIR="$dir" OS_KEYSTONE_CONFIG_FILES=keystone.conf -- --processes 1 --module keystone.wsgi.api:application
    answers "/v3"
}

populate_keystone() {
    "$PYTHON" - "http://127.0.0.1:$port/v3" <<'P'
import json, sys, urllib.request

base = sys.argv[1]


def call(method, path, token=None, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, method=method, data=data, headers={"Content-Type": "application/json"})
    if token:
        request.add_header("X-Auth-Token", token)
    with urllib.request.urlopen(request) as answer:
        text = answer.read()
        return answer.headers, json.loads(text) if text else None


admin = {"user": {"name": "admin", "domain": {"id": "default"}, "password": "adminpw"}}
scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
auth = {"auth": {"identity": {"methods": ["password"], "password": admin}, "scope": scope}}
token = call("POST", "/auth/tokens", None, auth)[0]["X-Subject-Token"]
roles = {role["name"]: role["id"] for role in call("GET", "/roles", token)[1]["roles"]}
projects = {}
for name in ("service", "demo"):
    project = {"project": {"name": name, "domain_id": "default"}}
    projects[name] = call("POST", "/projects", token, project)[1]["project"]["id"]
for user, project, granted in (
    ("glance", "service", ("service", "admin")),
    ("demo", "demo", ("member",)),
    ("reader", "demo", ("reader",)),
    ("manager", "demo", ("manager",)),
):
    body = {"user": {"name": user, "password": user + "pw", "domain_id": "default"}}
    made = call("POST", "/users", token, body)[1]["user"]["id"]
    for role in granted:
        call("PUT", f"/projects/{projects[project]}/users/{made}/roles/{roles[role]}", token)
P
}

prepare_glance() { "$bin/glance-manage" --config-file "$dir/etc/glance-api.conf" db_sync >>setup.log 2>&1; }

start_glance() {
    uwsgi OS_GLANCE_CONFIG_DIR="$dir/etc" -- --processes "${PROCESSES:-1}" --http-chunked-input --http-auto-chunked \
        --module glance.wsgi.api:application
    answers /versions
}

# answers PATH: waits until it does.
answers() {
    for _ in $(seq 400); do
        if { exec 3<>/dev/tcp/127.0.0.1/"$port"; } 2>/dev/null; then
            printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1:%s\r\n\r\n' "$1" "$port" >&3
            case $(head -n 1 <&3 2>/dev/null) in *" 200 "*) return ;; esac
        fi
        sleep 0.05
    done
    exit 1
}

echo $$ >keeper
prepare_"$kind"
start_"$kind"
[ "$kind" != keystone ] || populate_keystone
trap start_"$kind" USR1
echo ready
until read -r _; [ $? -le 128 ]; do :; done
