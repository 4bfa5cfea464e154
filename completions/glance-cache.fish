# Completion of glance-cache, and of the tools that it replaces, for fish.
# Rendered from the parser by a test of the program; changes belong there.

# The ids that the program finds in the cache of this command line.
function __glance_cache_ids
    set -l line (commandline -opc)
    set -l word (string replace -r -- '^--[^=]*=' '' (commandline -ct))
    command $line[1] __ids $argv[1] -- "$word" $line 2>/dev/null
end

# The directories for a word, which may be behind the "=" of an option.
function __glance_cache_directories
    __fish_complete_directories (commandline -ct | string replace -r '^--[^=]*=' '')
end

complete -c glance-cache -n __fish_use_subcommand -f
complete -c glance-cache -n __fish_use_subcommand -s h -l help -d 'Print help'
complete -c glance-cache -n __fish_use_subcommand -s V -l version -d 'Print version'
complete -c glance-cache -n __fish_use_subcommand -a clean -d 'Remove invalid and stalled entries'
complete -c glance-cache -n __fish_use_subcommand -a prune -d 'Remove least recently used images until the cache fits its limit'
complete -c glance-cache -n __fish_use_subcommand -a prefetch -d 'Fetch images into the cache ahead of their first use'
complete -c glance-cache -n __fish_use_subcommand -a list -d 'List what is in the cache'
complete -c glance-cache -n __fish_use_subcommand -a status -d 'Show the state of the cache'
complete -c glance-cache -n __fish_use_subcommand -a completion -d 'Print the completion script of a shell'
complete -c glance-cache -n __fish_use_subcommand -a help -d 'Print this message or the help of the given subcommand(s)'
complete -c glance-cache -n '__fish_seen_subcommand_from clean' -f
complete -c glance-cache -n '__fish_seen_subcommand_from prune' -f
complete -c glance-cache -n '__fish_seen_subcommand_from prefetch' -f -a '(__glance_cache_ids queued)'
complete -c glance-cache -n '__fish_seen_subcommand_from list' -f -a '(__glance_cache_ids cached)'
complete -c glance-cache -n '__fish_seen_subcommand_from status' -f
complete -c glance-cache -n '__fish_seen_subcommand_from completion' -f -a "bash zsh fish"
complete -c glance-cache -n '__fish_seen_subcommand_from help' -f -a 'clean prune prefetch list status completion help'

complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch' -l dry-run -s n -d 'Show what would be done and why, and change nothing'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch' -l lock-timeout -x -d 'Time to wait for a lock that another process holds, or for a busy index'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch' -l skip-if-locked -d 'If the lock is taken, do nothing and exit with 0'
complete -c glance-cache -n '__fish_seen_subcommand_from clean' -l repair -d 'Repair the index'
complete -c glance-cache -n '__fish_seen_subcommand_from clean' -l forget-all -d 'With --repair: forget rows even if most of the images in the index are missing'
complete -c glance-cache -n '__fish_seen_subcommand_from clean' -l forget-node -x -d 'Only remove a decommissioned node and its rows from the central database'
complete -c glance-cache -n '__fish_seen_subcommand_from clean' -l stall-time -x -d 'Age at which incomplete entries are removed'
complete -c glance-cache -n '__fish_seen_subcommand_from clean' -l invalid-grace -x -d 'Age at which invalid entries are removed'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch list status' -l cache-dir -x -a '(__glance_cache_directories)' -d 'The cache directory [default: image_cache_dir]'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch list status' -l config-file -r -F -d 'Read this file instead of the default ones'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch list status' -l config-dir -x -a '(__glance_cache_directories)' -d 'Read the *.conf files in this directory instead of the default directories'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch list status' -l driver -x -a "sqlite xattr centralized_db" -d 'Type of the index [default: image_cache_driver, or detected from the directory]'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch list status' -l sqlite-db -r -F -d 'File of the sqlite index, relative to the cache directory [default: image_cache_sqlite_db]'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch list status' -l node -x -d 'URL of this node in the central database [default: worker_self_reference_url]'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch list status' -l database -x -d 'URL of the central database, without a password [default: connection in section database]'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch list status' -l database-file -r -F -d 'Read the URL of the central database, with its password, from this file'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch list status' -l color -x -a "auto\t'On a terminal that has colours' always never" -d 'Use colours: auto, always or never'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch list status' -l quiet -s q -d 'Print only errors'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch list status' -l verbose -s v -d 'Print what is done and why'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch list status' -l now -x -d 'Use this as the current time, to preview a later run'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch status' -l format -x -a "text json" -d 'Print the result as text or as json'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune list status' -l all-caches -d 'Include every image cache of this host'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune list status' -l ironic-config-file -r -F -d 'Read Ironic\'s configuration from this file instead of the default ones'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune list status' -l ironic-config-dir -x -a '(__glance_cache_directories)' -d 'Read Ironic\'s configuration from the *.conf files in this directory'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune list status' -l temp-grace -x -d 'In Ironic\'s caches, treat the files of a download as stale after this long without activity'
complete -c glance-cache -n '__fish_seen_subcommand_from clean prune prefetch list status completion' -l help -s h -d 'Print help (see more with \'--help\')'
complete -c glance-cache -n '__fish_seen_subcommand_from prune prefetch status' -l max-size -x -d 'Limit of the cache [default: image_cache_max_size]'
complete -c glance-cache -n '__fish_seen_subcommand_from prune' -l target-size -x -d 'Once over the limit, prune down to this size'
complete -c glance-cache -n '__fish_seen_subcommand_from prune' -l min-free -x -d 'Keep at least this much of the file system free'
complete -c glance-cache -n '__fish_seen_subcommand_from prune' -l min-age -x -d 'Keep images cached or used within this time'
complete -c glance-cache -n '__fish_seen_subcommand_from prune' -l keep -x -a '(__glance_cache_ids cached)' -d 'Keep this image; may be repeated'
complete -c glance-cache -n '__fish_seen_subcommand_from prune' -l keep-from -r -F -d 'Keep the images listed in this file'
complete -c glance-cache -n '__fish_seen_subcommand_from prune' -l forget-all -d 'Forget rows even if most of the images in the index are missing'
complete -c glance-cache -n '__fish_seen_subcommand_from prune' -l stall-time -x -d 'If the disk is too full to change the index, first remove incomplete entries that are older than this'
complete -c glance-cache -n '__fish_seen_subcommand_from prune' -l require -x -d 'Make sure that this much of a file system is free'
complete -c glance-cache -n '__fish_seen_subcommand_from prune' -l on -r -F -d 'With --require: a path on that file system'
complete -c glance-cache -n '__fish_seen_subcommand_from prune' -l best-effort -d 'With --require: remove images even if they cannot free enough'
complete -c glance-cache -n '__fish_seen_subcommand_from prefetch' -l enqueue -d 'Only put the images into the queue'
complete -c glance-cache -n '__fish_seen_subcommand_from prefetch' -l retry -d 'Retry images that failed before'
complete -c glance-cache -n '__fish_seen_subcommand_from prefetch' -l jobs -s j -x -d 'Number of images to fetch at a time'
complete -c glance-cache -n '__fish_seen_subcommand_from prefetch' -l require-checksum -d 'Skip images whose record has neither a hash nor a checksum'
complete -c glance-cache -n '__fish_seen_subcommand_from prefetch' -l rate-limit -x -d 'Fetch no more than this per second'
complete -c glance-cache -n '__fish_seen_subcommand_from prefetch' -l reserve -x -d 'Keep this much disk space free'
complete -c glance-cache -n '__fish_seen_subcommand_from prefetch' -l within-limit -d 'Skip images that would put the cache over its limit'
complete -c glance-cache -n '__fish_seen_subcommand_from prefetch' -l make-room -d 'If space is short, remove images as prune does'
complete -c glance-cache -n '__fish_seen_subcommand_from prefetch' -l stall-time -x -d 'Take over an image that another process began to cache but has not written to for this long'
complete -c glance-cache -n '__fish_seen_subcommand_from list' -l image -x -a '(__glance_cache_ids cached)' -d 'Show only this image, as ID does'
complete -c glance-cache -n '__fish_seen_subcommand_from list' -l state -x -a '(__fish_complete_list , "printf tracked\norphan\nghost\nqueued\nincomplete\nstalled\ninvalid\ncached\n")' -d 'Show only entries in these states'
complete -c glance-cache -n '__fish_seen_subcommand_from list' -l older-than -x -d 'Show only what was not used for this long'
complete -c glance-cache -n '__fish_seen_subcommand_from list' -l larger-than -x -d 'Show only what is larger than this'
complete -c glance-cache -n '__fish_seen_subcommand_from list' -l limit -x -d 'Show only the first entries'
complete -c glance-cache -n '__fish_seen_subcommand_from list' -l sort -x -a "image state last-use modified size hits" -d 'Sort the entries by this key'
complete -c glance-cache -n '__fish_seen_subcommand_from list' -l reverse -d 'Reverse the order'
complete -c glance-cache -n '__fish_seen_subcommand_from list' -l all-nodes -d 'Instead list the images in the central database, of all nodes'
complete -c glance-cache -n '__fish_seen_subcommand_from list' -l images -d 'With --all-caches, list the images of the caches and what holds them'
complete -c glance-cache -n '__fish_seen_subcommand_from list' -l columns -x -a '(__fish_complete_list , "printf image\nstate\nlast-use\nmodified\nsize\nhits\nerror\nname-bytes\nnode\nchecksum\ncache\nkind\nlinks\nheld-by\npriority\ndirectory\nfile-system\nlimit\nage-limit\nin-use\nreclaimable\n")' -d 'Show these columns, in this order'
complete -c glance-cache -n '__fish_seen_subcommand_from list' -l no-header -d 'Print no line with the names of the columns'
complete -c glance-cache -n '__fish_seen_subcommand_from list' -l wide -d 'Do not fit the table to the terminal'
complete -c glance-cache -n '__fish_seen_subcommand_from list' -l format -x -a "table\t'For people' json\t'One object for programs' jsonl\t'An object for each entry, on a line of its own' csv\t'Comma-separated values' value\t'Bare values with blanks between them, without a header'" -d 'Print the list as table, json, jsonl, csv or value'
complete -c glance-cache -n '__fish_seen_subcommand_from list status' -l bytes -d 'Show sizes in bytes'
complete -c glance-cache -n '__fish_seen_subcommand_from list status' -l human -d 'Show sizes in KiB, MiB and so on'
complete -c glance-cache -n '__fish_seen_subcommand_from status' -l check -d 'Exit with 1 if the cache is over its limit or needs attention'
complete -c glance-cache -n '__fish_seen_subcommand_from status' -l all-nodes -d 'Instead sum up all nodes in the central database'
complete -c glance-cache -n '__fish_seen_subcommand_from status' -l stall-time -x -d 'Count incomplete entries as stalled after this long without a write'

complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -f
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l help -s h -d 'show this help and exit'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l version -d 'show the version and exit'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l config-file -r -F -d 'read this file instead of the default files'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l config-dir -x -a '(__glance_cache_directories)' -d 'read the *.conf files in this directory'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l debug -s d -d 'also log debug messages'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l nodebug -d 'the opposite of --debug'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l log-config-append -l log-config -r -F -d 'ignored: a Python logging configuration'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l log-date-format -x -d 'format of the time in log lines'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l log-dir -l logdir -x -a '(__glance_cache_directories)' -d 'directory of log files with a relative path'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l log-file -l logfile -r -F -d 'log to this file'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l syslog-log-facility -x -d 'facility of syslog messages, such as LOG_USER'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l use-journal -d 'log to the systemd journal'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l nouse-journal -d 'the opposite of --use-journal'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l use-json -d 'write log lines as JSON'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l nouse-json -d 'the opposite of --use-json'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l use-syslog -d 'log to syslog'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l nouse-syslog -d 'the opposite of --use-syslog'
complete -c glance-cache-cleaner -c glance-cache-pruner -c glance-cache-prefetcher -l shell_completion -x -a "bash zsh" -d 'print a completion script for bash or zsh'
