#!/bin/bash
# A private database server for the tests: database.sh mariadb|postgresql DIR PORT [remove]
#
# Listens on PORT of 127.0.0.1, of ::1 where there is one, and on a Unix socket in DIR, keeps everything in DIR, speaks TLS with
# a certificate for the two addresses (not for localhost) signed by DIR/ca.pem (DIR/expired.pem is one that has expired), and
# has the user g with the password "s3cret" and a database glance of his. Prints "ready" when it answers, writes the server's process id to DIR/pid, and stops when its standard input ends, however the test process ends.
# GLANCE_CACHE_TEST_MYSQL may name a directory with the files of another MariaDB or MySQL (tests/run makes it).
# Run as root, the server runs as nobody. An existing DIR/data is used as it is. With remove, DIR goes when the server has.
set -eu
kind=$1 dir=$2 port=$3
export PATH=$PATH:/usr/sbin:/sbin:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
as=""
if [ "$(id -u)" = 0 ]; then
    chown nobody "$dir"
    as="setpriv --reuid=nobody --regid=nogroup --clear-groups"
fi
cd "$dir"
if [ ! -e ca.pem ]; then
    new="openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    $new -x509 -days 2 -subj '/CN=test authority' -keyout ca.key -out ca.pem 2>/dev/null
    $new -x509 -days 2 -subj '/CN=another authority' -keyout other.key -out other.pem 2>/dev/null
    $new -subj '/CN=server' -keyout server.key -out server.csr 2>/dev/null
    printf 'subjectAltName=IP:127.0.0.1,IP:::1\n' >san
    sign="openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile san"
    $sign -days 2 -out server.pem 2>/dev/null
    $sign -days -1 -out expired.pem 2>/dev/null
    chmod 600 server.key
    [ -z "$as" ] || chown nobody server.key
fi
addresses=127.0.0.1
! grep -qs '^0*1 .* lo$' /proc/net/if_inet6 || addresses=127.0.0.1,::1
fresh=no
[ -e data ] || fresh=yes
case $kind in
mariadb)
    options=(--no-defaults --datadir="$dir/data" --log-error="$dir/error.log")
    first="CREATE DATABASE glance"
    for host in 127.0.0.1 ::1 localhost; do
        first="$first; CREATE USER g@'$host' IDENTIFIED BY 's3cret'; GRANT ALL ON *.* TO g@'$host' WITH GRANT OPTION"
    done
    program=(mariadbd)
    if [ -n "${GLANCE_CACHE_TEST_MYSQL:-}" ]; then
        # Its programs want the C library that came with them.
        usr=$GLANCE_CACHE_TEST_MYSQL/usr
        libraries=$usr/lib/$(uname -m)-linux-gnu
        program=("$libraries"/ld-linux-*.so.? --library-path "$libraries" "$usr/sbin/mysqld")
        [ -d "$usr/share/mariadb" ] && share=$usr/share/mariadb || share=$usr/share/mysql
        options+=(--basedir="$usr" --lc-messages-dir="$share" --character-sets-dir="$share/charsets")
    fi
    if [ -d "${share:-}" ] && [ "$share" = "$usr/share/mysql" ]; then
        options+=(--secure-file-priv= --innodb-redo-log-capacity=8M --mysqlx=OFF --skip-log-bin)
        [ $fresh = no ] || $as "${program[@]}" "${options[@]}" --initialize-insecure >install.log 2>&1
    elif [ -n "${share:-}" ]; then
        options+=(--innodb-log-file-size=8M --plugin-dir="$usr/lib/mysql/plugin")
        if [ $fresh = yes ]; then
            $as mkdir -p data/mysql
            {
                echo "USE mysql;"
                cat "$share"/mariadb_{system_tables,performance_tables,system_tables_data}.sql
            } | $as "${program[@]}" "${options[@]}" --bootstrap >install.log 2>&1
        fi
    else
        options+=(--innodb-log-file-size=8M)
        [ $fresh = no ] || mariadb-install-db --no-defaults ${as:+--user=nobody} --datadir="$dir/data" \
            --auth-root-authentication-method=normal --skip-test-db --innodb-log-file-size=8M >install.log 2>&1
    fi
    $as "${program[@]}" "${options[@]}" --socket="$dir/s" --port="$port" --bind-address=$addresses \
        --pid-file="$dir/own-pid" --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=2 \
        --skip-name-resolve --ssl-ca="$dir/ca.pem" --ssl-cert="$dir/server.pem" --ssl-key="$dir/server.key" \
        </dev/null >>install.log 2>&1 &
    server=$!
    sql() { mariadb --no-defaults -uroot -S "$dir/s" -e "$1"; }
    ;;
postgresql)
    echo "s3cret" >password
    [ $fresh = no ] || $as initdb -D "$dir/data" -U g -A scram-sha-256 --pwfile="$dir/password" -E UTF8 --locale=C.UTF-8 -N >install.log 2>&1
    $as postgres -D "$dir/data" -p "$port" -k "$dir" -c listen_addresses=$addresses -c fsync=off -c ssl=on -c ssl_ca_file="$dir/ca.pem" \
        -c ssl_cert_file="$dir/server.pem" -c ssl_key_file="$dir/server.key" </dev/null >error.log 2>&1 &
    server=$!
    sql() { PGPASSWORD=s3cret psql -q -h 127.0.0.1 -p "$port" -U g -d postgres -c "$1"; }
    first="CREATE DATABASE glance"
    ;;
esac
echo $server >pid
for _ in $(seq 300); do
    sql 'SELECT 1' >/dev/null 2>&1 && break
    sleep 0.1
done
[ $fresh = no ] || sql "$first"
echo ready
read -r _ || true
kill -CONT $server 2>/dev/null || true
if [ $kind = mariadb ]; then kill -TERM $server; else kill -INT $server; fi 2>/dev/null || true
wait $server 2>/dev/null || true
cd /
[ "${4:-}" != remove ] || rm -rf "$dir"
