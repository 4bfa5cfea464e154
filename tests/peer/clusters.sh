#!/bin/bash
# Private clusters of database servers for the tests, and what stands before them:
#
#   clusters.sh galera DIR SQL-PORT x 3, then for each node the PORTs of its group, of its parts and of its whole copy
#   clusters.sh pair DIR PORT-OF-THE-PRIMARY PORT-OF-THE-STANDBY
#   clusters.sh haproxy DIR PORT
#   clusters.sh pgbouncer DIR PORT
#
# With "remove" as the last argument, DIR goes at the end. Everything listens on 127.0.0.1 alone and is kept in DIR; run
# as root, the servers run as nobody. Prints "ready" when all of them answer, and kills them when its standard input
# ends, however the test process ends. DIR/N.pid is the process of the server N, counted from 1. Lines on standard input
# are requests, and each is answered with "ready" as soon as the server is on its way:
#
#   start N    starts the server N again, with what it had
#   join N     starts the node N of galera with nothing: it takes everything from the node 1
#
# galera: three nodes with the user g, password "s3cret", and a database glance.
# pair: PostgreSQL, the same user; the standby is streamed to, and the primary waits for it in every COMMIT.
# haproxy, pgbouncer: DIR/haproxy.cfg, or DIR/pgbouncer.ini, are there already.
set -eu
kind=$1 dir=$2
shift 2
ports=("$@") remove=
if [ "${ports[-1]}" = remove ]; then
    remove=yes
    unset 'ports[-1]'
fi
export PATH=$PATH:/usr/sbin:/sbin:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
as=""
if [ "$(id -u)" = 0 ]; then
    chown nobody "$dir"
    as="setpriv --reuid=nobody --regid=nogroup --clear-groups"
fi
cd "$dir"

stop() {
    local file
    for file in "$dir"/*.pid; do kill -KILL "$(cat "$file")" 2>/dev/null || true; done
    wait 2>/dev/null || true
    cd /
    [ -z "$remove" ] || rm -rf "$dir"
}
trap stop EXIT

# run N LOG PROGRAM ARGUMENT...: starts the server N.
run() {
    local n=$1 log=$2
    shift 2
    $as "$@" </dev/null >>"$log" 2>&1 &
    echo $! >"$n.pid"
}

# answers PORT: waits until somebody listens there.
answers() {
    for _ in $(seq 300); do
        { exec 3<>/dev/tcp/127.0.0.1/"$1"; } 2>/dev/null && return
        sleep 0.05
    done
    exit 1
}

# -- Galera --

node() { # node N OPTION...: the command of a node
    local n=$1 group="" other
    shift
    for other in 1 2 3; do group="$group,127.0.0.1:${ports[other * 3]}"; done
    local options="base_host=127.0.0.1;base_port=${ports[n * 3]};gmcast.listen_addr=tcp://127.0.0.1:${ports[n * 3]}"
    options="$options;ist.recv_addr=127.0.0.1:${ports[n * 3 + 1]};gcache.size=32M;gcache.page_size=32M"
    # The pauses of a local network: a node that died is known to have died after two seconds.
    options="$options;evs.keepalive_period=PT0.3S;evs.join_retrans_period=PT0.3S;evs.suspect_timeout=PT2S"
    options="$options;evs.inactive_timeout=PT4S;evs.install_timeout=PT4S"
    command=(mariadbd --no-defaults --datadir="$dir/$n" --socket="$dir/s$n" --port="${ports[n - 1]}" --bind-address=127.0.0.1
        --pid-file="$dir/own-pid$n" --log-error="$dir/error$n.log" --innodb-log-file-size=8M --innodb-buffer-pool-size=64M
        --innodb-flush-log-at-trx-commit=2 --skip-name-resolve --binlog-format=ROW --innodb-autoinc-lock-mode=2
        --wsrep-on=ON --wsrep-provider=/usr/lib/galera/libgalera_smm.so --wsrep-cluster-address="gcomm://${group#,}"
        --wsrep-node-address=127.0.0.1 --wsrep-node-name="n$n" --wsrep-sst-receive-address="127.0.0.1:${ports[n * 3 + 2]}"
        --wsrep-sst-donor=n1 --wsrep-provider-options="$options" "$@")
}

on_node() { mariadb --no-defaults -uroot -S "$dir/s$1" -Nse "$2"; }

synced() {
    for _ in $(seq 600); do
        [ "$(on_node "$1" "SHOW STATUS LIKE 'wsrep_local_state_comment'" 2>/dev/null | cut -f 2)" != Synced ] || return 0
        sleep 0.05
    done
    exit 1
}

up_galera() {
    mariadb-install-db --no-defaults ${as:+--user=nobody} --datadir="$dir/1" --auth-root-authentication-method=normal --skip-test-db \
        --innodb-log-file-size=8M >install.log 2>&1
    local n
    node 1 --wsrep-new-cluster
    run 1 out.log "${command[@]}"
    synced 1
    on_node 1 "CREATE DATABASE glance; CREATE USER g@'127.0.0.1' IDENTIFIED BY 's3cret';
        GRANT ALL ON *.* TO g@'127.0.0.1' WITH GRANT OPTION"
    kill -TERM "$(cat 1.pid)"
    wait "$(cat 1.pid)" || true
    # The others begin with what the first one has, so that little is left to send.
    for n in 2 3; do cp -a 1 $n && rm -f $n/galera.cache $n/gvwstate.dat; done
    node 1 --wsrep-new-cluster
    run 1 out.log "${command[@]}"
    synced 1
    for n in 2 3; do
        node $n --wsrep-sst-method=rsync
        run $n out.log "${command[@]}"
    done
    synced 2
    synced 3
}

start_galera() {
    local found
    node "$1" --wsrep-recover --log-error="$dir/recover$1.log"
    $as "${command[@]}" </dev/null >>out.log 2>&1 || true
    found=$(sed -n 's/.*Recovered position: *//p' "recover$1.log" | tail -1)
    node "$1" --wsrep-sst-method=rsync ${found:+--wsrep-start-position="$found"}
    run "$1" out.log "${command[@]}"
}

join_galera() {
    rm -rf "$1"
    $as mkdir "$1"
    node "$1" --wsrep-sst-method=rsync
    run "$1" out.log "${command[@]}"
}

# -- A primary and a standby --

start_pair() {
    rm -f "$1/postmaster.pid"
    run "$1" error.log postgres -D "$dir/$1" -p "${ports[$1 - 1]}" -k "$dir" -c listen_addresses=127.0.0.1 -c fsync=off \
        -c wal_level=replica -c hot_standby=on -c cluster_name="n$1"
}

listens() { # listens N DATABASE: waits until the server lets somebody into the database
    for _ in $(seq 300); do
        ! PGPASSWORD=s3cret psql -q -h 127.0.0.1 -p "${ports[$1 - 1]}" -U g -d "$2" -c 'SELECT 1' >/dev/null 2>&1 || return 0
        sleep 0.05
    done
    exit 1
}

up_pair() {
    echo "s3cret" >password
    $as initdb -D "$dir/1" -U g -A scram-sha-256 --pwfile="$dir/password" -E UTF8 --locale=C.UTF-8 -N >install.log 2>&1
    echo "host replication g 127.0.0.1/32 scram-sha-256" >>1/pg_hba.conf
    start_pair 1
    listens 1 postgres
    PGPASSWORD=s3cret $as pg_basebackup -h 127.0.0.1 -p "${ports[0]}" -U g -D "$dir/2" -R -X stream -c fast >>install.log 2>&1
    start_pair 2
    listens 2 postgres
    PGPASSWORD=s3cret psql -q -h 127.0.0.1 -p "${ports[0]}" -U g -d postgres -c "ALTER SYSTEM SET synchronous_standby_names = '*'" \
        -c 'SELECT pg_reload_conf()' -c 'CREATE DATABASE glance' >/dev/null
    # The standby has written it before the primary says so, and applies it afterwards.
    listens 2 glance
}

# -- What stands before a server --

start_haproxy() {
    run 1 haproxy.log haproxy -db -f "$dir/haproxy.cfg"
    answers "${ports[0]}"
}

start_pgbouncer() {
    run 1 pgbouncer.log pgbouncer "$dir/pgbouncer.ini"
    answers "${ports[0]}"
}

up_haproxy() { start_haproxy 1; }
up_pgbouncer() { start_pgbouncer 1; }

up_"$kind"
echo ready
while read -r request n; do
    "${request}_$kind" "$n"
    echo ready
done
