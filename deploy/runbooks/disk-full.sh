#!/bin/sh
# The disk of the audit log or of a log is full: show it, and make room without losing a record.
#
#   disk-full.sh -c mayfly.yaml              show the disks
#   disk-full.sh -c mayfly.yaml -s           delete the search indexes of the logs, which searches write again
#   disk-full.sh -c mayfly.yaml -a ARCHIVE   move all files of the audit log but the newest to another disk
#
#   -n  print what would be done
#
# Nothing else may be deleted: entries, tiles and the guard of a log are never superfluous.

. "$(dirname "$0")/lib.sh"

archive='' searches=''
while getopts ':nc:a:sh' option; do
  case $option in
  n) dry=1 ;;
  c) config=$OPTARG ;;
  a) archive=$OPTARG ;;
  s) searches=1 ;;
  h) help && exit ;;
  *) invalid "unknown option, or an option without its value: -$OPTARG" ;;
  esac
done
shift $((OPTIND - 1))
[ $# = 0 ] || invalid "no argument is expected, found $1"
need -c "$config"

audit=$(setting audit.dir)
setting 'ct.logs.*.embedded.dir' | while read -r dir; do
  say "log: $(df -Pk "$dir" | tail -n 1), $(du -sk "$dir" | cut -f 1) KiB of it this log"
  if [ -n "$searches" ]; then
    run rm -rf -- "$dir/search"
  fi
done
setting 'ct.logs.*.embedded.guard' | while read -r guard; do
  say "guard: $(df -Pk "$(dirname "$guard")" | tail -n 1)"
done
[ -n "$audit" ] || exit 0
say "audit: $(df -Pk "$audit" | tail -n 1), $(du -sk "$audit" | cut -f 1) KiB of it the audit log"
[ -n "$archive" ] || exit 0

run mkdir -p "$archive"
[ "$(cd "$archive" 2>/dev/null && pwd -P)" != "$(cd "$audit" && pwd -P)" ] || fail "$archive is the audit log itself"
set -- "$audit"/audit-*.jsonl # in the order of their records
while [ $# -gt 1 ]; do        # the server writes the newest
  name=$(basename "$1")
  # The copy is complete before the record disappears here. An earlier run may have stopped between the two.
  if [ -e "$archive/$name" ]; then
    cmp -- "$1" "$archive/$name" || fail "$archive/$name exists, and is another file"
  else
    run cp -- "$1" "$archive/$name.part"
    run sync "$archive/$name.part"
    run cmp -- "$1" "$archive/$name.part"
    run mv -- "$archive/$name.part" "$archive/$name"
  fi
  run rm -- "$1"
  shift
done
run "$mayfly" audit verify "$archive"
run "$mayfly" audit verify "$audit"
