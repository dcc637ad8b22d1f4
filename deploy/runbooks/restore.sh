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

# vacant PART PLACE refuses a place where something is. A package creates empty folders.
vacant() {
  [ -n "$2" ] || fail "$config names no place for $1"
  [ ! -e "$2" ] || { [ -d "$1" ] && [ -d "$2" ] && [ -z "$(ls -A "$2")" ]; } || fail "$2 exists; move it away first, and restore again"
}

# put PART PLACE restores a file or a folder.
put() {
  run mkdir -p "$(dirname "$2")"
  if [ -d "$2" ]; then # keeps its owner
    run cp -R -- "$1/." "$2"
  else
    run cp -R -- "$1" "$2"
  fi
}

# guard NAME prints the place of the guard of a log.
guard() { setting "ct.logs.$(index_of "$1").embedded.guard"; }

# each COMMAND runs a command with each part of the backup and its place.
each() {
  [ ! -d "$from/ca" ] || "$1" "$from/ca" "$set"
  for file in "$from"/files/*; do
    place=$(setting "$(basename "$file")")
    [ -z "$place" ] || "$1" "$file" "$place"
  done
  [ ! -d "$from/audit" ] || "$1" "$from/audit" "$(setting audit.dir)"
  for copy in "$from"/ctlog/*; do
    [ -d "$copy" ] || continue
    name=$(basename "$copy")
    index=$(index_of "$name")
    [ -n "$index" ] || fail "$config has no log $name; keep its entry, so that monitors can read it and verifiers have its key"
    "$1" "$copy" "$(setting "ct.logs.$index.embedded.dir")"
  done
}

set=''
[ ! -d "$from/ca" ] || set=$(ca_set)
each vacant
for moved in "$from"/guard/*.json; do
  [ ! -e "$moved" ] || vacant "$moved" "$(guard "$(basename "$moved" .json)")"
done
each put
for file in "$from"/files/*; do
  [ -n "$(setting "$(basename "$file")")" ] || say "$(basename "$file") is not restored: $config does not have this key"
done
for copy in "$from"/ctlog/*; do
  [ -d "$copy" ] || continue
  name=$(basename "$copy")
  guard=$(guard "$name")
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
