# Completion of glance-cache, and of the tools that it replaces, for bash.
# Rendered from the parser by a test of the program; changes belong there.

_glance_cache() {
    local command=${1##*/} cur=$2 prev rest=$COMP_LINE word before= options= words=
    local -a line=()
    for word in "${COMP_WORDS[@]:0:COMP_CWORD}"; do
        # bash also splits words at "=" and ":"; what has no blank in front is part of the word before.
        if [[ ${#line[@]} -gt 0 && $rest != [[:space:]]* ]]; then
            line[-1]+=$word
        else
            line+=("$word")
        fi
        rest=${rest#*"$word"}
    done
    prev=${line[-1]}
    if [[ $rest != [[:space:]]* ]]; then
        prev=${prev%%=*}
        [[ $cur != = ]] || cur=
    fi
    line=("${line[@]//[\"\'\\]/}")

    if [[ $command == glance-cache ]]; then
        command=
        for word in "${line[@]:1}"; do
            [[ $word == -* ]] || { command=$word; break; }
        done
    fi
    if [[ -z $command ]]; then
        words="clean prune prefetch list status serve completion help"
        [[ $cur != -* ]] || words="--help -h --version -V"
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
        return
    fi

    case $prev in
    --lock-timeout | --splay | --forget-node | --rate-limit | --budget | --for | --stall-time | --invalid-grace | --node | --database | --now | --temp-grace | --nodes-port | --timeout | --os-image-url | --os-cloud | --jobs | -j | --older-than | --max-size | --target-size | --min-free | --min-age | --require | --min-rate | --reserve | --larger-than | --limit | --max-invalid | --max-stalled | --bind | --log-date-format | --syslog-log-facility)
        return
        ;;
    --cache-dir | --config-dir | --ironic-config-dir | --log-dir | --logdir)
        compopt -o dirnames
        return
        ;;
    --config-file | --sqlite-db | --database-file | --textfile | --log-file | --ironic-config-file | --keep-from | --on | --log-config-append | --log-config | --logfile)
        compopt -o default
        return
        ;;
    --driver)
        words="sqlite xattr centralized_db"
        ;;
    --format)
        case $command in
        status) words="text json prometheus" ;;
        *) case $command in
        list) words="table json jsonl csv value" ;;
        *) words="text json" ;;
        esac ;;
        esac
        ;;
    --color)
        words="auto always never"
        ;;
    --image | --keep)
        _glance_cache_ids cached
        return
        ;;
    --via)
        words="auto store api"
        ;;
    --state)
        words="tracked orphan ghost queued incomplete stalled invalid"
        before=${cur%"${cur##*,}"} cur=${cur##*,}
        ;;
    --sort)
        words="image state last-use modified size hits"
        ;;
    --columns)
        words="image state last-use modified size hits error name-bytes unusable node checksum cache kind links held-by priority directory file-system limit age-limit in-use reclaimable"
        before=${cur%"${cur##*,}"} cur=${cur##*,}
        ;;
    --shell_completion)
        words="bash zsh"
        ;;
    esac
    if [[ -n $words ]]; then
        mapfile -t COMPREPLY < <(compgen -P "$before" -W "$words" -- "$cur")
        return
    fi

    case $command in
    clean | prune | prefetch)
        options+=" --dry-run -n --lock-timeout --skip-if-locked --splay --format --all-nodes --nodes-port"
        ;;
    esac
    case $command in
    clean)
        options+=" --repair --forget-all --forget-node --verify --stall-time --invalid-grace"
        ;;
    esac
    case $command in
    clean | status)
        options+=" --rate-limit --budget --for --jobs -j"
        ;;
    esac
    case $command in
    clean | prune | prefetch | list | status)
        options+=" --cache-dir --driver --sqlite-db --node --database --database-file --ignore-other-index --color --verbose -v --textfile --now --timeout"
        ;;
    esac
    case $command in
    clean | prune | prefetch | list | status | serve)
        options+=" --config-file --config-dir --quiet -q"
        ;;
    esac
    case $command in
    clean | prune | prefetch | serve)
        options+=" --log-file --syslog --journal"
        ;;
    esac
    case $command in
    clean | prune | list | status)
        options+=" --all-caches --ironic-config-file --ironic-config-dir --temp-grace --os-cloud"
        ;;
    esac
    case $command in
    clean | prune)
        options+=" --os-image-url"
        ;;
    esac
    case $command in
    clean | prune | prefetch | list | status | serve | completion)
        options+=" --help -h"
        ;;
    esac
    case $command in
    prune)
        options+=" --image --older-than --everything --target-size --min-free --min-age --keep --keep-from --forget-all --stall-time --require --on --best-effort --jobs -j"
        ;;
    esac
    case $command in
    prune | prefetch | status)
        options+=" --max-size"
        ;;
    esac
    case $command in
    prune | list | status)
        options+=" --no-database"
        ;;
    esac
    case $command in
    prefetch)
        options+=" --enqueue --dequeue --dequeue-all --retry --jobs -j --require-checksum --via --rate-limit --min-rate --reserve --within-limit --make-room --stall-time --os-cloud"
        ;;
    esac
    case $command in
    list)
        options+=" --image --state --older-than --larger-than --limit --sort --reverse --all-nodes --images --columns --no-header --wide --bytes --human --format"
        ;;
    esac
    case $command in
    list | status)
        options+=" --os-image-url"
        ;;
    esac
    case $command in
    status)
        options+=" --check --max-invalid --max-stalled --all-nodes --verify --stall-time --bytes --format"
        ;;
    esac
    case $command in
    serve)
        options+=" --bind --check --allow-root --verbose -v"
        ;;
    esac
    case $command in
    glance-cache-cleaner | glance-cache-pruner | glance-cache-prefetcher)
        options+=" --help -h --version --config-file --config-dir --debug -d --nodebug --log-config-append --log-config --log-date-format --log-dir --logdir --log-file --logfile --syslog-log-facility --use-journal --nouse-journal --use-json --nouse-json --use-syslog --nouse-syslog --shell_completion"
        ;;
    esac
    if [[ $cur != -* ]]; then
        case $command in
        prefetch)
            _glance_cache_ids queued
            return
            ;;
        list)
            _glance_cache_ids cached
            return
            ;;
        completion)
            options="bash zsh fish"
            ;;
        help)
            options="clean prune prefetch list status serve completion help"
            ;;
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
}

# The ids that the program finds in the cache of this command line.
_glance_cache_ids() {
    mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" __ids "$1" -- "$cur" "${line[@]}" 2>/dev/null)
}

complete -F _glance_cache glance-cache glance-cache-cleaner glance-cache-pruner glance-cache-prefetcher
