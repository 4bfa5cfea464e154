#!/bin/bash
# A private OpenStack Swift for the tests, behind a Keystone:
#
#   swift.sh swift DIR PROXY-PORT OBJECT-PORT CONTAINER-PORT ACCOUNT-PORT MEMCACHED-PORT [remove]
#
# All listen on 127.0.0.1 alone and keep everything in DIR, whose file system needs extended attributes. Prints "ready"
# when they answer, and stops them when its standard input ends, however the test process ends. With remove, DIR goes then.
#
# PYTHON is the one that has Swift; KEYSTONE is the URL of the Keystone (with /v3), in which the user glance of the project
# service may ask about tokens. DIR/proxy.log has a line for each request: method, path, status, bytes, range.
set -eu
dir=$2 proxy=$3 object=$4 container=$5 account=$6 memcached=$7 remove=${8:-}
bin=${PYTHON%/*}
cd "$dir"
children=()
stop() {
    for child in "${children[@]}"; do
        kill -TERM "$child" 2>/dev/null || true
        { sleep 5 && kill -KILL "$child"; } 2>/dev/null &
        watch=$!
        wait "$child" 2>/dev/null || true
        kill $watch 2>/dev/null || true
    done
    cd /
    [ "$remove" != remove ] || rm -rf "$dir"
}
trap stop EXIT

mkdir -p etc dev/d1 cache
cat >etc/swift.conf <<C
[swift-hash]
swift_hash_path_suffix = s
swift_hash_path_prefix = p
[storage-policy:0]
name = gold
default = yes
C

common() { # common PORT
    cat <<C
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $1
workers = 0
user = $(id -un)
swift_dir = $dir/etc
devices = $dir/dev
mount_check = false
recon_cache_path = $dir/cache
log_level = WARNING
C
}

storage() { # storage KIND PORT
    common "$2" >etc/"$1"-server.conf
    cat >>etc/"$1"-server.conf <<C
[pipeline:main]
pipeline = $1-server
[app:$1-server]
use = egg:swift#$1
disable_fallocate = true
C
    "$bin"/swift-ring-builder etc/"$1".builder create 4 1 1 >>setup.log
    "$bin"/swift-ring-builder etc/"$1".builder add r1z1-127.0.0.1:"$2"/d1 1 >>setup.log
    "$bin"/swift-ring-builder etc/"$1".builder rebalance >>setup.log
}
storage object "$object"
storage container "$container"
storage account "$account"

common "$proxy" >etc/proxy-server.conf
cat >>etc/proxy-server.conf <<C
[pipeline:main]
pipeline = catch_errors healthcheck cache listing_formats authtoken keystoneauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:$memcached
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
www_authenticate_uri = $KEYSTONE
auth_url = $KEYSTONE
auth_type = password
project_domain_id = default
user_domain_id = default
project_name = service
username = glance
password = glancepw
delay_auth_decision = true
token_cache_time = -1
[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = admin, member
reseller_prefix = KEY
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
C

own=
[ "$(id -u)" != 0 ] || own="-u root"
memcached $own -l 127.0.0.1 -p "$memcached" -m 16 </dev/null >>memcached.log 2>&1 &
children+=($!)
# The servers look for swift.conf in /etc/swift unless they are told otherwise.
run='import runpy, sys
from swift.common import utils
utils.set_swift_dir(sys.argv[1])
sys.argv[:] = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")'
for kind in object container account proxy; do
    "$PYTHON" -c "$run" "$dir/etc" "$bin/swift-$kind-server" "$dir/etc/$kind-server.conf" </dev/null >>$kind.log 2>&1 &
    children+=($!)
done

# answers PORT PATH: waits until something answers there.
answers() {
    for _ in $(seq 600); do
        if { exec 3<>/dev/tcp/127.0.0.1/"$1"; } 2>/dev/null; then
            printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1:%s\r\n\r\n' "$2" "$1" >&3
            case $(head -n 1 <&3 2>/dev/null) in HTTP*) return ;; esac
        fi
        sleep 0.05
    done
    exit 1
}
for port in "$object" "$container" "$account"; do answers "$port" /; done
answers "$proxy" /healthcheck
echo ready
until read -r _; [ $? -le 128 ]; do :; done
