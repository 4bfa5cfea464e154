# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_glance_cache_global_optspecs
    string join \n h/help V/version
end

function __fish_glance_cache_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_glance_cache_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_glance_cache_using_subcommand
    set -l cmd (__fish_glance_cache_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c glance-cache -n "__fish_glance_cache_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c glance-cache -n "__fish_glance_cache_needs_command" -s V -l version -d 'Print version'
complete -c glance-cache -n "__fish_glance_cache_needs_command" -f -a "clean" -d 'Remove invalid and stalled entries'
complete -c glance-cache -n "__fish_glance_cache_needs_command" -f -a "prune" -d 'Remove least recently used images until the cache fits its limit'
complete -c glance-cache -n "__fish_glance_cache_needs_command" -f -a "prefetch" -d 'Fetch images into the cache ahead of their first use'
complete -c glance-cache -n "__fish_glance_cache_needs_command" -f -a "list" -d 'List what is in the cache'
complete -c glance-cache -n "__fish_glance_cache_needs_command" -f -a "status" -d 'Show the state of the cache'
complete -c glance-cache -n "__fish_glance_cache_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l lock-timeout -d 'How long to wait for a lock that another process holds, or for a busy index' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l forget-node -d 'Only remove a decommissioned node and its rows from the central database' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l stall-time -d 'Age at which incomplete entries are removed' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l invalid-grace -d 'Age at which invalid entries are removed' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l cache-dir -d 'The cache directory [default: image_cache_dir]' -r -f -a "(__fish_complete_directories)"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l config-file -d 'Read this file instead of the default ones' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l config-dir -d 'Read the *.conf files in this directory instead of the default directories' -r -f -a "(__fish_complete_directories)"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l driver -d 'Type of the index [default: image_cache_driver, or detected from the directory]' -r -f -a "sqlite\t''
xattr\t''
centralized_db\t''"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l sqlite-db -d 'File of the sqlite index, relative to the cache directory [default: image_cache_sqlite_db]' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l node -d 'URL of this node in the central database [default: worker_self_reference_url]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l database -d 'URL of the central database, without a password [default: connection in section database]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l database-file -d 'Read the URL of the central database, with its password, from this file' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l format -d 'Print the result as text or as json' -r -f -a "text\t'For people'
json\t'One object for programs'"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l now -d 'Use this as the current time, to preview a later run' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l ironic-config-file -d 'Read Ironic\'s configuration from this file instead of the default ones' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l ironic-config-dir -d 'Read Ironic\'s configuration from the *.conf files in this directory' -r -f -a "(__fish_complete_directories)"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l temp-grace -d 'In Ironic\'s caches, treat the files of a download as stale after this long without activity' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -s n -l dry-run -d 'Show what would be done and why, and change nothing'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l skip-if-locked -d 'If the lock is taken, do nothing and exit with 0'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l repair -d 'Repair the index'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l forget-all -d 'With --repair: forget rows even if most of the images in the index are missing'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -s q -l quiet -d 'Print only errors'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -s v -l verbose -d 'Print what is done and why'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l all-caches -d 'Include every image cache of this host'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l lock-timeout -d 'How long to wait for a lock that another process holds, or for a busy index' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l max-size -d 'Limit of the cache [default: image_cache_max_size]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l target-size -d 'Once over the limit, prune down to this size' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l min-free -d 'Keep at least this much of the file system free' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l min-age -d 'Keep images cached or used within this time' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l keep -d 'Keep this image; may be repeated' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l keep-from -d 'Keep the images listed in this file' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l stall-time -d 'If the disk is too full to change the index, first remove incomplete entries that are older than this' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l cache-dir -d 'The cache directory [default: image_cache_dir]' -r -f -a "(__fish_complete_directories)"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l config-file -d 'Read this file instead of the default ones' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l config-dir -d 'Read the *.conf files in this directory instead of the default directories' -r -f -a "(__fish_complete_directories)"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l driver -d 'Type of the index [default: image_cache_driver, or detected from the directory]' -r -f -a "sqlite\t''
xattr\t''
centralized_db\t''"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l sqlite-db -d 'File of the sqlite index, relative to the cache directory [default: image_cache_sqlite_db]' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l node -d 'URL of this node in the central database [default: worker_self_reference_url]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l database -d 'URL of the central database, without a password [default: connection in section database]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l database-file -d 'Read the URL of the central database, with its password, from this file' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l format -d 'Print the result as text or as json' -r -f -a "text\t'For people'
json\t'One object for programs'"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l now -d 'Use this as the current time, to preview a later run' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l ironic-config-file -d 'Read Ironic\'s configuration from this file instead of the default ones' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l ironic-config-dir -d 'Read Ironic\'s configuration from the *.conf files in this directory' -r -f -a "(__fish_complete_directories)"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l temp-grace -d 'In Ironic\'s caches, treat the files of a download as stale after this long without activity' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l require -d 'Make sure that this much of a file system is free' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l on -d 'With --require: a path on that file system' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -s n -l dry-run -d 'Show what would be done and why, and change nothing'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l skip-if-locked -d 'If the lock is taken, do nothing and exit with 0'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l forget-all -d 'Forget rows even if most of the images in the index are missing'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -s q -l quiet -d 'Print only errors'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -s v -l verbose -d 'Print what is done and why'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l all-caches -d 'Include every image cache of this host'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l best-effort -d 'With --require: remove images even if they cannot free enough'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l lock-timeout -d 'How long to wait for a lock that another process holds, or for a busy index' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -s j -l jobs -d 'Number of images to fetch at a time' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l rate-limit -d 'Fetch no more than this per second' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l reserve -d 'Keep this much disk space free' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l max-size -d 'Limit of the cache [default: image_cache_max_size]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l stall-time -d 'Take over an image that another process began to cache but has not written to for this long' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l cache-dir -d 'The cache directory [default: image_cache_dir]' -r -f -a "(__fish_complete_directories)"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l config-file -d 'Read this file instead of the default ones' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l config-dir -d 'Read the *.conf files in this directory instead of the default directories' -r -f -a "(__fish_complete_directories)"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l driver -d 'Type of the index [default: image_cache_driver, or detected from the directory]' -r -f -a "sqlite\t''
xattr\t''
centralized_db\t''"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l sqlite-db -d 'File of the sqlite index, relative to the cache directory [default: image_cache_sqlite_db]' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l node -d 'URL of this node in the central database [default: worker_self_reference_url]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l database -d 'URL of the central database, without a password [default: connection in section database]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l database-file -d 'Read the URL of the central database, with its password, from this file' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l format -d 'Print the result as text or as json' -r -f -a "text\t'For people'
json\t'One object for programs'"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l now -d 'Use this as the current time, to preview a later run' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -s n -l dry-run -d 'Show what would be done and why, and change nothing'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l skip-if-locked -d 'If the lock is taken, do nothing and exit with 0'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l enqueue -d 'Only put the images into the queue'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l retry -d 'Retry images that failed before'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l require-checksum -d 'Skip images whose record has neither a hash nor a checksum'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l within-limit -d 'Skip images that would put the cache over its limit'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l make-room -d 'If space is short, remove images as prune does'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -s q -l quiet -d 'Print only errors'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -s v -l verbose -d 'Print what is done and why'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l state -d 'Show only entries in these states' -r -f -a "cached\t'Images, with or without a row'
tracked\t'Images that the index knows'
orphan\t'Images without a row'
ghost\t'Rows whose image is missing'
queued\t'Images that wait to be fetched'
incomplete\t'Images that are being cached, or were when it failed'
invalid\t'Images that turned out to be wrong'"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l sort -d 'Sort the entries by this key' -r -f -a "image\t''
state\t''
last-use\t''
modified\t''
size\t''
hits\t''"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l image -d 'Instead list the nodes that have this image' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l cache-dir -d 'The cache directory [default: image_cache_dir]' -r -f -a "(__fish_complete_directories)"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l config-file -d 'Read this file instead of the default ones' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l config-dir -d 'Read the *.conf files in this directory instead of the default directories' -r -f -a "(__fish_complete_directories)"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l driver -d 'Type of the index [default: image_cache_driver, or detected from the directory]' -r -f -a "sqlite\t''
xattr\t''
centralized_db\t''"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l sqlite-db -d 'File of the sqlite index, relative to the cache directory [default: image_cache_sqlite_db]' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l node -d 'URL of this node in the central database [default: worker_self_reference_url]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l database -d 'URL of the central database, without a password [default: connection in section database]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l database-file -d 'Read the URL of the central database, with its password, from this file' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l format -d 'Print the result as text or as json' -r -f -a "text\t'For people'
json\t'One object for programs'"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l now -d 'Use this as the current time, to preview a later run' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l ironic-config-file -d 'Read Ironic\'s configuration from this file instead of the default ones' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l ironic-config-dir -d 'Read Ironic\'s configuration from the *.conf files in this directory' -r -f -a "(__fish_complete_directories)"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l temp-grace -d 'In Ironic\'s caches, treat the files of a download as stale after this long without activity' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l reverse -d 'Reverse the order'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l all-nodes -d 'Instead list the images in the central database, of all nodes'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -s q -l quiet -d 'Print only errors'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -s v -l verbose -d 'Print what is done and why'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l all-caches -d 'Include every image cache of this host'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l bytes -d 'Show sizes in bytes'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l human -d 'Show sizes in KiB, MiB and so on'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l max-size -d 'Limit of the cache [default: image_cache_max_size]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l stall-time -d 'Count incomplete entries as stalled after this long without a write' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l cache-dir -d 'The cache directory [default: image_cache_dir]' -r -f -a "(__fish_complete_directories)"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l config-file -d 'Read this file instead of the default ones' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l config-dir -d 'Read the *.conf files in this directory instead of the default directories' -r -f -a "(__fish_complete_directories)"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l driver -d 'Type of the index [default: image_cache_driver, or detected from the directory]' -r -f -a "sqlite\t''
xattr\t''
centralized_db\t''"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l sqlite-db -d 'File of the sqlite index, relative to the cache directory [default: image_cache_sqlite_db]' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l node -d 'URL of this node in the central database [default: worker_self_reference_url]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l database -d 'URL of the central database, without a password [default: connection in section database]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l database-file -d 'Read the URL of the central database, with its password, from this file' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l format -d 'Print the result as text or as json' -r -f -a "text\t'For people'
json\t'One object for programs'"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l now -d 'Use this as the current time, to preview a later run' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l ironic-config-file -d 'Read Ironic\'s configuration from this file instead of the default ones' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l ironic-config-dir -d 'Read Ironic\'s configuration from the *.conf files in this directory' -r -f -a "(__fish_complete_directories)"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l temp-grace -d 'In Ironic\'s caches, treat the files of a download as stale after this long without activity' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l check -d 'Exit with 1 if the cache is over its limit or needs attention'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l all-nodes -d 'Instead sum up all nodes in the central database'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -s q -l quiet -d 'Print only errors'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -s v -l verbose -d 'Print what is done and why'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l all-caches -d 'Include every image cache of this host'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l bytes -d 'Show sizes in bytes'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l human -d 'Show sizes in KiB, MiB and so on'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand help; and not __fish_seen_subcommand_from clean prune prefetch list status help" -f -a "clean" -d 'Remove invalid and stalled entries'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand help; and not __fish_seen_subcommand_from clean prune prefetch list status help" -f -a "prune" -d 'Remove least recently used images until the cache fits its limit'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand help; and not __fish_seen_subcommand_from clean prune prefetch list status help" -f -a "prefetch" -d 'Fetch images into the cache ahead of their first use'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand help; and not __fish_seen_subcommand_from clean prune prefetch list status help" -f -a "list" -d 'List what is in the cache'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand help; and not __fish_seen_subcommand_from clean prune prefetch list status help" -f -a "status" -d 'Show the state of the cache'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand help; and not __fish_seen_subcommand_from clean prune prefetch list status help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
