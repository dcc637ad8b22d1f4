#!/bin/sh
# Check a server before production: each line is ok, FAIL with what to do, or MANUAL with what a person must check.
#
#   preflight.sh -c mayfly.yaml
#
#   -b  the newest backup, which must be complete and at most a week old
#   -p  the process ID of the server; its limits are read. Without it, they are MANUAL
#   -o  offline: no issuer and no log is asked
#
# Run it on the server's machine, as its user, while the server runs. It changes nothing. The exit code is 1 if a
# line is FAIL. docs/checklist.md explains each line.

# shellcheck disable=SC2317 # check calls functions by their names
. "$(dirname "$0")/lib.sh"

backup='' pid='' online=--online
while getopts ':c:b:p:oh' option; do
  case $option in
  c) config=$OPTARG ;;
  b) backup=$OPTARG ;;
  p) pid=$OPTARG ;;
  o) online= ;;
  h) help && exit ;;
  *) invalid "unknown option, or an option without its value: -$OPTARG" ;;
  esac
done
shift $((OPTIND - 1))
[ $# = 0 ] || invalid "no argument is expected, found $1"
need -c "$config"

failed=0
ok() { printf 'ok      %s\n' "$*"; }
manual() { printf 'MANUAL  %s\n' "$*"; }
bad() {
  printf 'FAIL    %s\n' "$*"
  failed=1
}

# check TITLE REMEDY COMMAND… is ok if the command succeeds.
check() {
  title=$1 remedy=$2
  shift 2
  if "$@" >/dev/null 2>&1; then ok "$title"; else bad "$title: $remedy"; fi
}

# lines NUMBER KEY reports whether at least so many values of a key are set.
lines() { [ "$(setting "$2" | wc -l)" -ge "$1" ]; }
# one_of KEY… reports whether one of the keys is set.
one_of() {
  for key in "$@"; do
    if lines 1 "$key"; then return 0; fi
  done
  return 1
}
two_logs() { [ "$( (setting 'ct.logs.*.url' && setting 'ct.logs.*.embedded.name') | wc -l)" -ge 2 ]; }
private() {
  case $(setting listen.ops) in
  127.* | localhost:* | '[::1]:'* | 10.* | 192.168.* | 172.1[6-9].* | 172.2?.* | 172.3[01].*) ;;
  *) return 1 ;;
  esac
}
grace() { case $(setting shutdown.grace) in '' | 0 | 0s) return 1 ;; esac }
# without TEXT reports whether there is a state, and it lacks a line that begins so.
without() { [ -n "$state" ] && ! printf '%s\n' "$state" | grep -q "^$1"; }
root_away() { [ ! -e "$(dirname "$(setting ca.set)")/root" ]; }
guards_apart() {
  for name in $(setting 'ct.logs.*.embedded.name'); do
    case $("$mayfly" ctlog status --config "$config" --name "$name") in '' | *'same disk'*) return 1 ;; esac
  done
}
no_warnings() { ! printf '%s\n' "$checked" | grep -q 'warning: '; }
backup_whole() { (cd "$backup" && sha256sum --quiet -c SHA256SUMS) && [ -n "$(find "$backup/SHA256SUMS" -mtime -7)" ]; }
no_core() { grep -q '^Max core file size  *0 ' "/proc/$pid/limits"; }
descriptors() { [ "$(sed -n 's/^Max open files  *\([0-9]*\) .*/\1/p' "/proc/$pid/limits")" -ge 4096 ]; }
not_root() { [ "$(sed -n 's/^Uid:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$pid/status")" -gt 0 ]; }

# shellcheck disable=SC2086 # empty or one word
if checked=$("$mayfly" config check $online "$config" 2>&1); then
  ok "configuration, issuers and logs"
else
  bad "configuration: mayfly config check $online $config"
fi
check "no warnings" "mayfly config check lists them; accept each one deliberately" no_warnings
state=$("$mayfly" status --url "$(ops)" 2>/dev/null) && ready=1 || ready=
check "ready" "mayfly status --url $(ops)" [ -n "$ready" ]
check "no restart is pending" "the configuration file is not the one in use" without "The configuration file has changed"
check "clock synchronised" "install an NTP client (docs/operations.md#the-clock-is-wrong)" without "The kernel states"
check "CA set" "adopt the CA into a set, so that it can rotate (docs/rotation.md#adopt-an-existing-ca)" lines 1 ca.set
check "root offline" "take the folder root of the CA set to a machine without a network" root_away
check "audit log" "set audit.dir (docs/audit.md)" lines 1 audit.dir
check "two logs" "one outage of a log stops issuance (docs/ct.md)" two_logs
check "guard on another disk" "mayfly ctlog status warns (docs/ctlog.md#the-guard)" guards_apart
check "rate limits" "set rate_limits (docs/limits.md)" lines 1 'rate_limits.*.name'
check "TLS, or a proxy" "set tls, or trusted_proxies for what terminates TLS" one_of tls.certificate trusted_proxies
check "ops listener private" "listen.ops has no login: use a loopback or private address" private
check "grace" "set shutdown.grace, or each rollout loses requests (docs/operations.md#shutdown-and-rollouts)" grace
check "trust root" "set public_url, for trusted_root.json" lines 1 public_url
if [ -n "$pid" ]; then
  check "not root" "run the server as a user of its own" not_root
  check "no core dumps" "set LimitCORE=0: a core dump has the CA's key" no_core
  check "file descriptors" "set LimitNOFILE=4096 or more" descriptors
else
  manual "user, core dumps and file descriptors: -p PID"
fi
if [ -n "$backup" ]; then
  check "backup" "make one with backup.sh; it is damaged, or older than a week" backup_whole
else
  manual "backup: -b DIR"
fi
manual "restore tested on another machine (docs/backup.md#test-a-restore)"
manual "alerts loaded, and one fired as a test (docs/operations.md#alerts)"
manual "a monitor follows each log (docs/ctlog.md#read-the-log)"
manual "verifiers have the trust root, and a signature verified with it"
manual "the runbooks were rehearsed (docs/runbooks.md)"
exit $failed
