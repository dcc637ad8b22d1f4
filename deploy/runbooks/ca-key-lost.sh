#!/bin/sh
# The CA's key is lost (a disk, an HSM, a password), and no other party has it: another authority signs.
#
#   ca-key-lost.sh -c mayfly.yaml -r ROOT -i NEW -o DIR   create the authority NEW below the root in the folder ROOT
#   ca-key-lost.sh -c mayfly.yaml -i NEW -o DIR           NEW is in the set already
#
#   -o  a folder for what verifiers need
#   -w  how many seconds to wait until this machine's server is ready (30); 0 does not wait
#   -n  print what would be done
#
# What the lost key has signed stays valid. If it may be in other hands, use ca-key-leaked.sh.

. "$(dirname "$0")/lib.sh"

root='' id='' out='' wait=30
while getopts ':nc:r:i:o:w:h' option; do
  case $option in
  n) dry=1 ;;
  c) config=$OPTARG ;;
  r) root=$OPTARG ;;
  i) id=$OPTARG ;;
  o) out=$OPTARG ;;
  w) wait=$OPTARG ;;
  h) help && exit ;;
  *) invalid "unknown option, or an option without its value: -$OPTARG" ;;
  esac
done
shift $((OPTIND - 1))
[ $# = 0 ] || invalid "no argument is expected, found $1"
need -c "$config"
need -i "$id"
need -o "$out"
set=$(ca_set)
"$mayfly" ca status --set "$set"
run mkdir -p "$out"
sign_with "$root" "$id"
say "copy $set to every server"
publish "$out"
if [ -z "$dry" ] && [ "$wait" -gt 0 ]; then
  await "$wait" "the server is ready" "$mayfly" status --url "$(ops)"
fi
say "verifiers refuse the new certificates until they have fetched the trust root"
