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
complete -c glance-cache -n "__fish_glance_cache_needs_command" -f -a "prune" -d 'Remove least recently used images until the cache is within its limit'
complete -c glance-cache -n "__fish_glance_cache_needs_command" -f -a "prefetch" -d 'Fetch images into the cache before anybody asks for them'
complete -c glance-cache -n "__fish_glance_cache_needs_command" -f -a "list" -d 'List what is in the cache'
complete -c glance-cache -n "__fish_glance_cache_needs_command" -f -a "status" -d 'Show how the cache is doing'
complete -c glance-cache -n "__fish_glance_cache_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l config-file -d 'Read this file instead of the default ones; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l config-dir -d 'Read the *.conf files in this directory, sorted; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l cache-dir -d 'The cache directory [default: image_cache_dir]' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l driver -d 'The kind of index [default: image_cache_driver, else what the directory shows]' -r -f -a "sqlite\t''
xattr\t''
centralized_db\t''"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l sqlite-db -d 'The file of the sqlite index, relative to the cache directory [default: image_cache_sqlite_db]' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l node -d 'This node\'s URL in the central database [default: worker_self_reference_url]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l database -d 'The central database, as a URL without a password [default: connection in the section database]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l database-file -d 'Read the central database\'s URL, password and all, from FILE' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l format -d 'How to print the result [default: json for clean, prune and prefetch, text for list and status]' -r -f -a "text\t'For people'
json\t'One object for programs'"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l now -d 'Take this for the time it is, in RFC 3339 or as epoch seconds: to try out what a later run would do' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l lock-timeout -d 'How long to wait for the lock that glance-api takes, too, and for a busy index' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l stall-time -d 'Leave incomplete entries alone that were written to less than this ago [default: image_cache_stall_time]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l invalid-grace -d 'Leave invalid entries alone that were written to less than this ago' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l forget-node -d 'Do nothing but drop the rows of a node that is gone for good from the central database, and the node itself' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l ironic-config-file -d 'Read Ironic\'s configuration from this file instead of the default ones; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l ironic-config-dir -d 'Read the *.conf files in this directory for Ironic\'s configuration; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l temp-grace -d 'In Ironic\'s caches, what a download left counts as stale when it showed no sign of life for this long' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -s q -l quiet -d 'Say nothing but errors'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -s v -l verbose -d 'Say what is done and why'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -s n -l dry-run -d 'Print what would be done, with a reason for each entry, and touch nothing'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l skip-if-locked -d 'When somebody else holds the lock, do nothing and exit with 0'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l repair -d 'Mend the index: forget rows without a file, adopt files without a row, drop rows whose id is no UUID'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l forget-all -d 'Forget the rows even when most of the index\'s images are not in the directory'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -l all-caches -d 'Every image cache of this host: Glance\'s, Ironic\'s master images, and those that configuration declares'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand clean" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l config-file -d 'Read this file instead of the default ones; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l config-dir -d 'Read the *.conf files in this directory, sorted; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l cache-dir -d 'The cache directory [default: image_cache_dir]' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l driver -d 'The kind of index [default: image_cache_driver, else what the directory shows]' -r -f -a "sqlite\t''
xattr\t''
centralized_db\t''"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l sqlite-db -d 'The file of the sqlite index, relative to the cache directory [default: image_cache_sqlite_db]' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l node -d 'This node\'s URL in the central database [default: worker_self_reference_url]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l database -d 'The central database, as a URL without a password [default: connection in the section database]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l database-file -d 'Read the central database\'s URL, password and all, from FILE' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l format -d 'How to print the result [default: json for clean, prune and prefetch, text for list and status]' -r -f -a "text\t'For people'
json\t'One object for programs'"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l now -d 'Take this for the time it is, in RFC 3339 or as epoch seconds: to try out what a later run would do' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l lock-timeout -d 'How long to wait for the lock that glance-api takes, too, and for a busy index' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l max-size -d 'The limit of the cache; a percentage is of the file system [default: image_cache_max_size]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l target-size -d 'Once the cache is over its limit, prune down to this; a percentage is of the limit' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l min-free -d 'Keep at least this much of the file system free; a percentage is of the file system' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l min-age -d 'Keep images that were cached or used less than this ago [default: 0; 10m with --require or --all-caches]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l require -d 'Make sure that this much is free, taking images from every cache of this host on that file system: expired ones first, then by priority of the cache. When all of them cannot give it, nothing is removed. A percentage is of the file system' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l on -d 'With --require, the file system that this file or directory is on [default: the Glance cache\'s]' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l ironic-config-file -d 'Read Ironic\'s configuration from this file instead of the default ones; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l ironic-config-dir -d 'Read the *.conf files in this directory for Ironic\'s configuration; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l temp-grace -d 'In Ironic\'s caches, what a download left counts as stale when it showed no sign of life for this long' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l keep -d 'Keep this image; may be repeated' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l keep-from -d 'Keep the images named in FILE, one id a line, # starts a comment; - is standard input' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l stall-time -d 'When the disk is too full for the index\'s journal, incomplete entries older than this go first [default: image_cache_stall_time]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -s q -l quiet -d 'Say nothing but errors'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -s v -l verbose -d 'Say what is done and why'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -s n -l dry-run -d 'Print what would be done, with a reason for each entry, and touch nothing'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l skip-if-locked -d 'When somebody else holds the lock, do nothing and exit with 0'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l best-effort -d 'With --require, take what there is even when it is not enough'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l all-caches -d 'Every image cache of this host: Glance\'s, Ironic\'s master images, and those that configuration declares'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -l forget-all -d 'Go on even when most of the index\'s images are not in the directory, and forget their rows'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prune" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l config-file -d 'Read this file instead of the default ones; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l config-dir -d 'Read the *.conf files in this directory, sorted; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l cache-dir -d 'The cache directory [default: image_cache_dir]' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l driver -d 'The kind of index [default: image_cache_driver, else what the directory shows]' -r -f -a "sqlite\t''
xattr\t''
centralized_db\t''"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l sqlite-db -d 'The file of the sqlite index, relative to the cache directory [default: image_cache_sqlite_db]' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l node -d 'This node\'s URL in the central database [default: worker_self_reference_url]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l database -d 'The central database, as a URL without a password [default: connection in the section database]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l database-file -d 'Read the central database\'s URL, password and all, from FILE' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l format -d 'How to print the result [default: json for clean, prune and prefetch, text for list and status]' -r -f -a "text\t'For people'
json\t'One object for programs'"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l now -d 'Take this for the time it is, in RFC 3339 or as epoch seconds: to try out what a later run would do' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -s j -l jobs -d 'How many images to fetch at a time' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l rate-limit -d 'Move no more than this in a second, all images together' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l reserve -d 'Leave this much of the file system free; a percentage is of the file system' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l max-size -d 'The limit of the cache; a percentage is of the file system [default: image_cache_max_size]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l stall-time -d 'Take over a half-cached image of somebody else\'s that was not written to for this long [default: image_cache_stall_time]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l lock-timeout -d 'How long to wait for the lock that glance-api takes, too, and for a busy index; an image that is fetched waits to be published as long as its fetch took, at least this long' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -s q -l quiet -d 'Say nothing but errors'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -s v -l verbose -d 'Say what is done and why'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -s n -l dry-run -d 'Print what would be done, with a reason for each entry, and touch nothing'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l skip-if-locked -d 'When somebody else holds the lock, do nothing and exit with 0'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l enqueue -d 'Only put the images into the queue, for a later run or for Glance'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l retry -d 'Try again what failed before and has not changed since'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l within-limit -d 'Do not fetch what would put the cache over its limit'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l make-room -d 'First remove least recently used images, as prune does, where the limit or the disk leaves no room; never what is queued or wanted by this run'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -l require-checksum -d 'Do not fetch an image whose record has neither a hash nor a checksum to verify it by'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand prefetch" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l config-file -d 'Read this file instead of the default ones; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l config-dir -d 'Read the *.conf files in this directory, sorted; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l cache-dir -d 'The cache directory [default: image_cache_dir]' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l driver -d 'The kind of index [default: image_cache_driver, else what the directory shows]' -r -f -a "sqlite\t''
xattr\t''
centralized_db\t''"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l sqlite-db -d 'The file of the sqlite index, relative to the cache directory [default: image_cache_sqlite_db]' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l node -d 'This node\'s URL in the central database [default: worker_self_reference_url]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l database -d 'The central database, as a URL without a password [default: connection in the section database]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l database-file -d 'Read the central database\'s URL, password and all, from FILE' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l format -d 'How to print the result [default: json for clean, prune and prefetch, text for list and status]' -r -f -a "text\t'For people'
json\t'One object for programs'"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l now -d 'Take this for the time it is, in RFC 3339 or as epoch seconds: to try out what a later run would do' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l state -d 'Show only entries in these states' -r -f -a "cached\t'Images, with or without a row'
tracked\t'Images that the index knows'
orphan\t'Images without a row'
ghost\t'Rows without an image'
queued\t''
incomplete\t''
invalid\t''"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l sort -d 'Order the entries' -r -f -a "image\t''
state\t''
last-use\t''
modified\t''
size\t''
hits\t''"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l image -d 'List the nodes that have this image instead' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l ironic-config-file -d 'Read Ironic\'s configuration from this file instead of the default ones; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l ironic-config-dir -d 'Read the *.conf files in this directory for Ironic\'s configuration; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l temp-grace -d 'In Ironic\'s caches, what a download left counts as stale when it showed no sign of life for this long' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -s q -l quiet -d 'Say nothing but errors'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -s v -l verbose -d 'Say what is done and why'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l bytes -d 'Show sizes in bytes [default when not on a terminal]'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l human -d 'Show sizes in KiB, MiB and so on [default on a terminal]'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l reverse -d 'Turn the order round'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l all-nodes -d 'List the images of all nodes of the central database instead'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -l all-caches -d 'Every image cache of this host: Glance\'s, Ironic\'s master images, and those that configuration declares'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l config-file -d 'Read this file instead of the default ones; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l config-dir -d 'Read the *.conf files in this directory, sorted; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l cache-dir -d 'The cache directory [default: image_cache_dir]' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l driver -d 'The kind of index [default: image_cache_driver, else what the directory shows]' -r -f -a "sqlite\t''
xattr\t''
centralized_db\t''"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l sqlite-db -d 'The file of the sqlite index, relative to the cache directory [default: image_cache_sqlite_db]' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l node -d 'This node\'s URL in the central database [default: worker_self_reference_url]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l database -d 'The central database, as a URL without a password [default: connection in the section database]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l database-file -d 'Read the central database\'s URL, password and all, from FILE' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l format -d 'How to print the result [default: json for clean, prune and prefetch, text for list and status]' -r -f -a "text\t'For people'
json\t'One object for programs'"
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l now -d 'Take this for the time it is, in RFC 3339 or as epoch seconds: to try out what a later run would do' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l max-size -d 'The limit of the cache; a percentage is of the file system [default: image_cache_max_size]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l stall-time -d 'Count incomplete entries as stalled that were not written to for this long [default: image_cache_stall_time]' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l ironic-config-file -d 'Read Ironic\'s configuration from this file instead of the default ones; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l ironic-config-dir -d 'Read the *.conf files in this directory for Ironic\'s configuration; may be repeated, later ones win' -r -F
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l temp-grace -d 'In Ironic\'s caches, what a download left counts as stale when it showed no sign of life for this long' -r
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -s q -l quiet -d 'Say nothing but errors'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -s v -l verbose -d 'Say what is done and why'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l bytes -d 'Show sizes in bytes [default when not on a terminal]'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l human -d 'Show sizes in KiB, MiB and so on [default on a terminal]'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l check -d 'Exit with 1 when the cache is over its limit or something needs attention'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l all-nodes -d 'Sum up all nodes of the central database instead'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -l all-caches -d 'Every image cache of this host: Glance\'s, Ironic\'s master images, and those that configuration declares'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand help; and not __fish_seen_subcommand_from clean prune prefetch list status help" -f -a "clean" -d 'Remove invalid and stalled entries'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand help; and not __fish_seen_subcommand_from clean prune prefetch list status help" -f -a "prune" -d 'Remove least recently used images until the cache is within its limit'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand help; and not __fish_seen_subcommand_from clean prune prefetch list status help" -f -a "prefetch" -d 'Fetch images into the cache before anybody asks for them'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand help; and not __fish_seen_subcommand_from clean prune prefetch list status help" -f -a "list" -d 'List what is in the cache'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand help; and not __fish_seen_subcommand_from clean prune prefetch list status help" -f -a "status" -d 'Show how the cache is doing'
complete -c glance-cache -n "__fish_glance_cache_using_subcommand help; and not __fish_seen_subcommand_from clean prune prefetch list status help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
