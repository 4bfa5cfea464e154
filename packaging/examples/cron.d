# For hosts without systemd timers: copy this to /etc/cron.d/glance-cache (cron reads no file there whose name has a dot).
# --splay spreads the load of many hosts that share a database or a store.
PATH=/usr/sbin:/usr/bin:/sbin:/bin

*/30 * * * *  glance  /usr/bin/glance-cache prune --skip-if-locked --splay 5m > /dev/null
5 0 * * *     glance  /usr/bin/glance-cache clean --skip-if-locked --splay 1h > /dev/null
25 * * * *    glance  /usr/bin/glance-cache prefetch --skip-if-locked --splay 15m > /dev/null
