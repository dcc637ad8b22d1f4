#!/bin/sh
# Back up a mayfly server: configuration, CA set, embedded logs and audit log.
#
#   backup.sh -c mayfly.yaml DIR              while the server runs; DIR must not exist
#   backup.sh -c mayfly.yaml -p LAST DIR      the same; full tiles of the backup LAST are linked, not copied
#   backup.sh -m -c mayfly.yaml DIR           move: the server has stopped for ever, and continues elsewhere
#
#   -n  print what would be copied
#
# Run it as the server's user; as root where mayfly signer has the keys. DIR holds the CA's keys and their
# passwords: encrypt it, and keep it offline. The root key is never copied. A log's guard is copied with -m alone, which also takes it away here, so that
# no two machines sign for one log.

. "$(dirname "$0")/lib.sh"

previous='' move=''
while getopts ':nmc:p:h' option; do
  case $option in
  n) dry=1 ;;
  m) move=1 ;;
  c) config=$OPTARG ;;
  p) previous=$OPTARG ;;
  h) help && exit ;;
  *) invalid "unknown option, or an option without its value: -$OPTARG" ;;
  esac
done
shift $((OPTIND - 1))
need -c "$config"
[ $# = 1 ] || invalid "one folder is expected, found $#"
to=$1
[ ! -e "$to" ] || fail "$to exists; a backup is never written over another one"
[ -z "$previous" ] || [ -f "$previous/SHA256SUMS" ] || fail "$previous is no complete backup: it has no SHA256SUMS"
setting issuers >/dev/null
set=''
[ -z "$(setting ca.set)" ] || set=$(ca_set)
for file in ${set:+"$set" "$set"/*/*}; do
  case $file in "$set"/root/*) continue ;; esac
  [ -r "$file" ] || [ ! -e "$file" ] || fail "$file is not readable: run this as root, if the keys belong to the user of mayfly signer"
done

# take_guard moves the guard of a stopped log into the backup.
take_guard() {
  state=$("$mayfly" ctlog status --config "$config" --name "$1") || fail "log $1 takes no entry; a move needs a log that works"
  printf '%s\n' "$state" | grep -q '^Written by *nobody' || fail "a server writes log $1: stop it first, and never start it again"
  run mkdir -p "$to/guard"
  run mv -- "$2" "$2.moved"
  run cp -- "$2.moved" "$to/guard/$1.json"
}

run mkdir -p "$to"
# The log first: each of its entries then has its intent in the audit log, and its authority in the CA set.
for name in $(setting 'ct.logs.*.embedded.name'); do
  index=$(index_of "$name")
  [ -z "$move" ] || take_guard "$name" "$(setting "ct.logs.$index.embedded.guard")"
  run mkdir -p "$to/ctlog"
  if [ -n "$previous" ] && [ -d "$previous/ctlog/$name" ]; then
    run cp -Rl -- "$previous/ctlog/$name" "$to/ctlog/$name"
  fi
  run "$mayfly" ctlog copy --config "$config" --name "$name" "$to/ctlog/$name"
done

audit=$(setting audit.dir)
if [ -n "$audit" ]; then
  run mkdir -p "$to/audit"
  run cp -- "$audit"/audit-*.jsonl "$to/audit/"
  into "$to/audit-verified" "$mayfly" audit verify "$to/audit"
fi

if [ -n "$set" ]; then
  run mkdir -p "$to/ca"
  run cp -L -- "$(setting ca.set)" "$to/ca/ca.yaml" # before the files that it names, which are never removed
  for file in "$set"/*; do
    case $(basename "$file") in
    ca.yaml) ;;
    root) say "$file is not copied: keep the root offline, with a backup of its own" ;;
    *) run cp -RL -- "$file" "$to/ca/" ;;
    esac
  done
  into "$to/trust-bundle.pem" "$mayfly" ca bundle --set "$to/ca"
  if [ -z "$(setting ca.signer_socket)" ]; then # otherwise the keys belong to the user of mayfly signer
    run "$mayfly" ca check --set "$to/ca"
  fi
fi

run mkdir -p "$to/files"
"$mayfly" config show --config "$config" | while read -r key _; do
  case $key in
  issuers | tls.certificate | tls.key | ca.file.chain | ca.file.key | ca.file.password_file | ct.logs.*.public_key | \
    ct.logs.*.token_file | ct.logs.*.ca_file | ct.logs.*.embedded.key | trace.headers_file | oidc.proxy_ca_file | audit.hmac_key_file)
    file=$(setting "$key")
    [ -z "$file" ] || run cp -L -- "$file" "$to/files/$key"
    ;;
  esac
done
run cp -L -- "$config" "$to/mayfly.yaml"
[ -n "$dry" ] && exit
(cd "$to" && find . -type f ! -path './guard/*' ! -path ./sums -exec sha256sum {} + >sums && mv sums SHA256SUMS)
say "complete: $to; restore it on another machine once a month (docs/backup.md#test-a-restore)"
