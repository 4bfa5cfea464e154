#!/bin/bash
# Private servers of images for the tests: stores.sh nginx DIR HTTP-PORT HTTPS-PORT | ceph DIR MON-PORT MON-PORT-V1 S3-PORT  [remove]
#
# They listen on 127.0.0.1 alone and keep everything in DIR, which must be absolute and short (sockets of Ceph). Prints "ready"
# when they answer, and stops them when its standard input ends, however the test process ends. With remove, DIR goes then.
#
# nginx: serves DIR/www, over TLS with a certificate for localhost and 127.0.0.1 signed by DIR/ca.pem. The same files below
# /slow/ (2 MiB/s), /norange/, /auth/ (user u, password p@w); /redir/?to=URL redirects, /503/ is busy, /to/PORT/ passes requests on
# to another server here. DIR/pid is the master's,
# DIR/access.log has "METHOD URI STATUS BYTES RANGE" of each request. An nginx that was killed is started again by SIGUSR1 to
# this script's process, whose id is DIR/keeper.
#
# ceph: mon, one OSD in memory and radosgw. DIR/ceph.conf, the users admin and glance, a pool images; S3 with the keys AK and
# s3cret/+Key, and NOBODY and s3cret/+Key of a user who owns nothing. With KEYSTONE, the URL of a Keystone of the tests, radosgw
# takes its tokens for Swift, at /swift/v1/AUTH_PROJECT-ID.
set -eu
kind=$1 dir=$2 port=$3 port2=$4
case $kind in
nginx) remove=${5:-} ;;
ceph) port3=$5 remove=${6:-} ;;
esac
export PATH=$PATH:/usr/sbin:/sbin
cd "$dir"
children=()
stop() {
    for child in "${children[@]}"; do
        kill -CONT "$child" 2>/dev/null || true
        kill -TERM "$child" 2>/dev/null || true
        # An OSD says goodbye to its mon; who takes longer than that is ended.
        { sleep 5 && kill -KILL "$child"; } 2>/dev/null &
        watch=$!
        wait "$child" 2>/dev/null || true
        kill $watch 2>/dev/null || true
    done
    cd /
    [ "$remove" != remove ] || rm -rf "$dir"
}
trap stop EXIT

start_nginx() {
    own=""
    [ "$(id -u)" != 0 ] || own="user root;"
    mkdir -p www
    new="openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    $new -x509 -days 2 -subj '/CN=test authority' -keyout ca.key -out ca.pem 2>/dev/null
    $new -subj '/CN=localhost' -keyout server.key -out server.csr 2>/dev/null
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' >san
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.pem 2>/dev/null
    printf 'u:%s\n' "$(openssl passwd -apr1 p@w)" >htpasswd
    cat >nginx.conf <<C
$own
daemon off;
worker_processes 1;
pid $dir/pid;
error_log $dir/error.log;
events { worker_connections 256; }
http {
    log_format short '\$request_method \$request_uri \$status \$body_bytes_sent \$http_range';
    access_log $dir/access.log short;
    default_type application/octet-stream;
    client_body_temp_path $dir/t1; proxy_temp_path $dir/t2; fastcgi_temp_path $dir/t3; uwsgi_temp_path $dir/t4; scgi_temp_path $dir/t5;
    sendfile on;
    server {
        listen 127.0.0.1:$port;
        listen 127.0.0.1:$port2 ssl;
        ssl_certificate $dir/server.pem;
        ssl_certificate_key $dir/server.key;
        root $dir/www;
        location /slow/ { alias $dir/www/; limit_rate 2m; }
        location /norange/ { alias $dir/www/; max_ranges 0; }
        location /auth/ { alias $dir/www/; auth_basic images; auth_basic_user_file $dir/htpasswd; }
        location /redir/ { return 302 \$arg_to; }
        location /503/ { return 503; }
        location ~ ^/to/([0-9]+)(/.*)\$ { proxy_pass http://127.0.0.1:\$1\$2\$is_args\$args; }
    }
}
C
    again_nginx
}

again_nginx() {
    nginx -p "$dir" -e "$dir/error.log" -c "$dir/nginx.conf" </dev/null >/dev/null 2>&1 &
    children=($!)
    for _ in $(seq 300); do
        (: </dev/tcp/127.0.0.1/"$port2") 2>/dev/null && return
        sleep 0.02
    done
    exit 1
}

start_ceph() {
    mkdir -p mon osd rgw run log crash
    export CEPH_CONF=$dir/ceph.conf CEPH_ARGS=
    fsid=$(cat /proc/sys/kernel/random/uuid)
    mons="[v2:127.0.0.1:$port,v1:127.0.0.1:$port2]"
    # The interval is what makes it fast. The OSD's size is that of memory it may take, not takes.
    cat >ceph.conf <<C
[global]
fsid = $fsid
mon host = $mons
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = $dir/\$name.keyring
run dir = $dir/run
admin socket =
log file = $dir/log/\$name.log
log to stderr = false
err to stderr = true
crash dir = $dir/crash
mon data = $dir/mon
osd data = $dir/osd
mon data avail warn = 1
mon data avail crit = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 2000
paxos propose interval = 0.05
paxos min wait = 0.01
osd heartbeat grace = 60
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
osd memory target = 1073741824
rgw frontends = beast endpoint=127.0.0.1:$port3
rgw data = $dir/rgw
rgw enable gc threads = false
rgw enable lc threads = false
rgw enable quota threads = false
C
    # Without KEYSTONE there is S3 alone.
    [ -z "${KEYSTONE:-}" ] || cat >>ceph.conf <<C
rgw keystone url = ${KEYSTONE%/v3}
rgw keystone api version = 3
rgw keystone admin user = glance
rgw keystone admin password = glancepw
rgw keystone admin project = service
rgw keystone admin domain = Default
rgw keystone accepted roles = admin, member
rgw keystone token cache size = 0
rgw swift account in url = true
C
    quiet() { "$@" >>log/setup.log 2>&1; }
    quiet ceph-authtool -C client.admin.keyring -g -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
    quiet ceph-authtool -C mon.keyring -g -n mon. --cap mon 'allow *'
    cp mon.keyring mon.a.keyring
    quiet ceph-authtool mon.keyring --import-keyring client.admin.keyring
    quiet monmaptool --create --fsid "$fsid" --addv a "$mons" monmap
    quiet ceph-mon --mkfs -i a --monmap "$dir/monmap" --keyring "$dir/mon.keyring"
    ceph-mon -f -i a </dev/null >/dev/null 2>&1 &
    mon=$!
    children=($mon)
    osd=$(cat /proc/sys/kernel/random/uuid) key=$(ceph-authtool --gen-print-key)
    echo "{\"cephx_secret\": \"$key\"}" >secret
    quiet ceph osd new "$osd" -i secret
    quiet ceph-authtool -C osd.0.keyring --name osd.0 --add-key "$key"
    quiet ceph-osd -i 0 --mkfs --osd-uuid "$osd"
    ceph-osd -f -i 0 </dev/null >/dev/null 2>&1 &
    children=($! $mon)
    for _ in $(seq 300); do
        ceph osd dump -f json 2>/dev/null | grep -q '"up":1' && break
        sleep 0.05
    done
    quiet ceph osd pool create images 8
    quiet rbd pool init images
    quiet ceph auth get-or-create client.glance mon 'profile rbd' osd 'profile rbd pool=images' -o client.glance.keyring
    quiet ceph auth get-or-create client.rgw mon 'allow rw' osd 'allow rwx' -o client.rgw.keyring
    radosgw -f -n client.rgw </dev/null >/dev/null 2>&1 &
    children=($! "${children[@]}")
    for _ in $(seq 600); do
        (: </dev/tcp/127.0.0.1/"$port3") 2>/dev/null && break
        sleep 0.05
    done
    for user in AK NOBODY; do
        quiet radosgw-admin -n client.rgw user create --uid=$user --display-name=$user --access-key=$user --secret-key=s3cret/+Key
    done
}

echo $$ >keeper
start_"$kind"
trap again_nginx USR1
echo ready
until read -r _; [ $? -le 128 ]; do :; done
