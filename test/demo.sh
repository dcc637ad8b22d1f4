#!/bin/sh
# Shows the main job on this machine, with Go only: mayfly dev on a free port, a certificate over REST
# and one over gRPC, what is in it, and a refusal. Nothing remains afterwards.
set -eu
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
world=
stop() {
  if [ -n "$world" ]; then kill "$world" && wait "$world" || true; fi
  rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT TERM

${GO:-go} build -o "$dir/mayfly" ./cmd/mayfly
mayfly() { "$dir/mayfly" "$@"; }

"$dir/mayfly" dev --listen 127.0.0.1:0 >"$dir/out" 2>"$dir/log" &
world=$!
url=
while [ -z "$url" ]; do
  kill -0 "$world" 2>/dev/null || { cat "$dir/log"; exit 1; }
  sleep 0.1
  url=$(sed -n 's/^ready: //p' "$dir/out")
done
echo "A development world runs at $url: OpenID provider, CA, Certificate Transparency log."

mayfly token --url "$url" --email person@example.com >"$dir/token"
mayfly request --url "$url" --token-file "$dir/token" --key "$dir/key.pem" --certificate "$dir/chain.pem"
printf '\nA certificate over REST, by a signed challenge:\n\n'
mayfly inspect "$dir/chain.pem"

printf '\nOne over gRPC, by a certificate signing request:\n\n'
mayfly request --url "$url" --grpc --csr --token-file "$dir/token" --key "$dir/key2.pem" | mayfly inspect

printf '\nA token for another audience gets none:\n\n'
mayfly token --url "$url" --claim aud=another >"$dir/token"
if mayfly request --url "$url" --token-file "$dir/token" --key "$dir/key3.pem"; then exit 1; fi
