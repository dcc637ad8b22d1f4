#!/bin/sh
# Restore what backup.sh has written, on a machine without a server.
#
#   restore.sh -c mayfly.yaml DIR
#
#   -c  where the configuration is, or is restored to; each other file goes where this configuration names it
#   -n  print what would be restored
#
# Run it as the server's user. Nothing that exists is replaced. A log of a backup that was made while the server
# ran is restored for reading and never signs again: add a new log with ctlog-new.sh. A log that was moved
# (backup.sh -m) continues, once.

. "$(dirname "$0")/lib.sh"

while getopts ':nc:h' option; do
  case $option in
  n) dry=1 ;;
  c) config=$OPTARG ;;
  h) help && exit ;;
  *) invalid "unknown option, or an option without its value: -$OPTARG" ;;
  esac
done
shift $((OPTIND - 1))
need -c "$config"
[ $# = 1 ] || invalid "one backup is expected, found $#"
from=$1
[ -f "$from/SHA256SUMS" ] || fail "$from is no complete backup: it has no SHA256SUMS"
(cd "$from" && sha256sum --quiet -c SHA256SUMS) || fail "the files above differ from what was backed up"
say "$from is complete"
if [ ! -e "$config" ]; then
  run mkdir -p "$(dirname "$config")"
  run cp -- "$from/mayfly.yaml" "$config"
  [ -z "$dry" ] || fail "-n needs the configuration at $config, which names the places of all other files"
fi

# put restores a file or a folder to a place where nothing is.
put() {
  [ ! -e "$2" ] || fail "$2 exists; move it away first"
  run mkdir -p "$(dirname "$2")"
  run cp -R -- "$1" "$2"
}

set=''
if [ -d "$from/ca" ]; then
  set=$(ca_set)
  put "$from/ca" "$set"
fi
for file in "$from"/files/*; do
  place=$(setting "$(basename "$file")")
  if [ -n "$place" ]; then
    put "$file" "$place"
  else
    say "$(basename "$file") is not restored: $config does not have this key"
  fi
done
if [ -d "$from/audit" ]; then
  put "$from/audit" "$(setting audit.dir)"
fi
for copy in "$from"/ctlog/*; do
  [ -d "$copy" ] || continue
  name=$(basename "$copy")
  index=$(index_of "$name")
  [ -n "$index" ] || fail "$config has no log $name; keep its entry, so that monitors can read it and verifiers have its key"
  put "$copy" "$(setting "ct.logs.$index.embedded.dir")"
  guard=$(setting "ct.logs.$index.embedded.guard")
  run mkdir -p "$(dirname "$guard")"
  if [ -f "$from/guard/$name.json" ]; then
    run mv -- "$from/guard/$name.json" "$from/guard/$name.json.restored" # only one restore may continue the log
    run cp -- "$from/guard/$name.json.restored" "$guard"
    say "log $name was moved: it continues here. Never start the server of the other machine again"
  else
    say "log $name is restored for reading. No guard may be put back: it would let the log give the places of lost entries"
    say "to other ones, which is a fork"
    say "add a new log: ctlog-new.sh -c $config -l NEW -o DIR"
  fi
done
[ -n "$dry" ] && exit
if [ -n "$set" ]; then
  "$mayfly" ca bundle --set "$set" | cmp - "$from/trust-bundle.pem" ||
    say "the trust bundle differs from that of the backup: an authority has expired since"
fi
if [ -d "$from/audit" ]; then
  head=$(sed -n 's/.*head \([0-9a-f]\{64\}\).*/\1/p' "$from/audit-verified")
  "$mayfly" audit verify "$(setting audit.dir)" --head "$head"
fi
say "restored. Next: mayfly config check $config"
