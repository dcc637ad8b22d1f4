#!/bin/sh
# Give the key of an authority another password, while the server runs. It needs openssl.
#
#   key-password.sh -c mayfly.yaml -a ID
#
#   -n  print what would be done
#
# The key and its password are in the folder ID of the CA set, as key.pem and pass: as mayfly ca writes them. The old
# files stay beside the new ones, with the suffix .old, until you delete them. If the old password has leaked with the
# file of the key, another password does not help: use ca-key-leaked.sh.

. "$(dirname "$0")/lib.sh"

id=''
while getopts ':nc:a:h' option; do
  case $option in
  n) dry=1 ;;
  c) config=$OPTARG ;;
  a) id=$OPTARG ;;
  h) help && exit ;;
  *) invalid "unknown option, or an option without its value: -$OPTARG" ;;
  esac
done
shift $((OPTIND - 1))
[ $# = 0 ] || invalid "no argument is expected, found $1"
need -c "$config"
need -a "$id"
set=$(ca_set)
key=$set/$id/key.pem pass=$set/$id/pass
if [ ! -f "$key" ] || [ ! -f "$pass" ]; then
  fail "$key and $pass are expected"
fi
[ ! -e "$key.old" ] || fail "$key.old exists: delete the files of the last change first"
run cp -p -- "$key" "$key.old"
run cp -p -- "$pass" "$pass.old"
run cp -p -- "$key" "$key.new" # the owner and the mode of the old files stay
run cp -p -- "$pass" "$pass.new"
into "$pass.new" openssl rand -hex 32
into "$key.new" openssl pkcs8 -topk8 -in "$key" -passin "file:$pass" -passout "file:$pass.new" \
  -v2 aes-256-cbc -v2prf hmacWithSHA256 -iter 600000
run mv -- "$pass.new" "$pass"
run mv -- "$key.new" "$key"
if [ -z "$dry" ] && ! "$mayfly" ca check --set "$set"; then
  mv -- "$key.old" "$key"
  mv -- "$pass.old" "$pass"
  fail "the set with the new password does not load; the old files are back"
fi
say "when every server has taken the files, delete $key.old and $pass.old, and back up the new ones"
