# shellcheck shell=sh
# What the runbooks have in common. Each runbook reads this file; it does nothing by itself.
#
# Exit codes of each runbook: 0 done, 1 a finding or a failure, 2 the command line is invalid.
set -eu
umask 077
mayfly=${MAYFLY:-mayfly} # the binary
dry=                     # not empty: -n, change nothing
config=
set= # the folder of the CA set

# help prints the comment at the top of the runbook.
help() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

# invalid ends the runbook: the command line is not understood.
invalid() {
  printf '%s: %s; -h prints the help\n' "$0" "$*" >&2
  exit 2
}

fail() {
  printf '%s: %s\n' "$0" "$*" >&2
  exit 1
}

say() { printf -- '- %s\n' "$*"; }

# run prints a command that changes something, and runs it unless -n is given.
run() {
  printf '+'
  printf ' %s' "$@"
  printf '\n'
  [ -n "$dry" ] || "$@"
}

# into FILE COMMAND… is run, with the output in a new file.
into() {
  file=$1
  shift
  printf '+'
  printf ' %s' "$@"
  printf ' > %s\n' "$file"
  [ -n "$dry" ] || "$@" >"$file" || fail "the command above failed; $file is incomplete"
}

# need OPTION VALUE refuses a missing option.
need() { [ -n "$2" ] || invalid "$1 is required"; }

# setting KEY prints the values of a key of the configuration; a * stands for any text.
setting() { "$mayfly" config show --config "$config" --key "$1"; }

# index_of NAME prints the index of an embedded log in ct.logs; nothing where there is none.
index_of() {
  literal=$(printf '%s' "$1" | sed 's/\./\\./g')
  "$mayfly" config show --config "$config" | sed -n "s/^ct\.logs\.\([0-9]*\)\.embedded\.name *\"\{0,1\}$literal\"\{0,1\} .*/\1/p"
}

# ops prints the URL of the ops listener of this machine's server.
ops() { printf 'http://%s\n' "$(setting listen.ops)"; }

# await SECONDS WHAT COMMAND… runs a command each second until it succeeds.
await() {
  left=$1 what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$left" -gt 0 ] || fail "$what: not within the time of -w"
    left=$((left - 1))
    sleep 1
  done
  say "$what"
}

# ca_set prints the folder of the CA set.
ca_set() {
  file=$(setting ca.set)
  [ -n "$file" ] || fail "$config has no ca.set: adopt the CA into a set first (docs/rotation.md#adopt-an-existing-ca)"
  dirname "$file"
}

# sign_with ROOT ID makes the authority ID sign now. Where ROOT is not empty, it is created below that root.
sign_with() {
  if [ -n "$1" ]; then
    run "$mayfly" ca add --set "$set" --root "$1" "$2"
  fi
  run "$mayfly" ca activate --set "$set" "$2" --at now --force
}

# publish DIR writes what verifiers need.
publish() {
  if [ -n "$(setting public_url)" ]; then
    into "$1/trusted_root.json" "$mayfly" trusted-root --config "$config"
    say "publish $1/trusted_root.json to all verifiers now (TUF, images with a built-in file)"
  else
    into "$1/trust-bundle.pem" "$mayfly" ca bundle --set "$set"
    say "publish $1/trust-bundle.pem to all verifiers now"
  fi
}
