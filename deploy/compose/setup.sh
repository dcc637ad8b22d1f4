#!/usr/bin/env bash
# Creates the keys and configurations of compose.yaml, once: ./setup.sh. It never replaces a file.
#
# Variables, each after its default; a client must reach the services by these URLs:
#   MAYFLY_URL=http://mayfly:5555  DEX_URL=http://dex:5556/dex  REKOR_URL=http://rekor:3003  TSA_URL=http://tsa:3004
#   EMAIL=person@example.com       the person that Dex knows; PASSWORD is asked for, or created
#   MAYFLY=                                                how mayfly's commands run: by default in its container
#   BCRYPT="docker run --rm -i docker.io/library/httpd:2.4-alpine htpasswd -niBC 10 x"   prints x:HASH of standard input
#   CONFIG=/setup STATE=/var/lib/mayfly                    where they see config/mayfly and state/mayfly
set -euo pipefail
cd "$(dirname "$0")"
umask 077
: "${MAYFLY_URL:=http://mayfly:5555}" "${DEX_URL:=http://dex:5556/dex}" "${REKOR_URL:=http://rekor:3003}" "${TSA_URL:=http://tsa:3004}"
: "${EMAIL:=person@example.com}" "${CONFIG:=/setup}" "${STATE:=/var/lib/mayfly}"
: "${BCRYPT:=docker run --rm -i docker.io/library/httpd:2.4-alpine htpasswd -niBC 10 x}"
: "${LISTEN:=0.0.0.0}" "${HTTP_PORT:=5555}" "${OPS_PORT:=2112}"
for existing in .env config secrets state; do
  [ ! -e $existing ] || { echo "$PWD/$existing exists: this was set up before. Move it away to begin again; its keys are lost with it" >&2; exit 1; }
done
host() { local rest=${1#*://}; rest=${rest%%/*}; echo "${rest%%:*}"; }
mkdir -p config/mayfly/ca config/tsa secrets state/{mayfly,dex,rekor,prometheus,grafana}
owner=$(id -u):$(id -g)
[ "$(id -u)" != 0 ] || owner=65532:65532 # no container runs as root
own() { [ "$(id -u)" != 0 ] || chown -R "$owner" config secrets state; }
cat > .env <<TEXT
# Written by setup.sh; docker compose reads it.
OWNER=$owner
REKOR_HOST=$(host "$REKOR_URL")
TEXT

# Rekor's key: P-256, the kind that every client verifies.
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out secrets/rekor.key 2>/dev/null
openssl pkey -in secrets/rekor.key -pubout -outform DER -out config/rekor.pub

# The timestamp authority's chain: its root's key signs once, and is not kept.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout "$work/root.key" -days 3650 -subj "/O=mayfly/CN=timestamp root" \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -out "$work/root.pem" 2>/dev/null
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout secrets/tsa.key -subj "/O=mayfly/CN=timestamp authority" -out "$work/tsa.csr" 2>/dev/null
printf 'keyUsage=critical,digitalSignature\nextendedKeyUsage=critical,timeStamping\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' > "$work/extensions"
openssl x509 -req -in "$work/tsa.csr" -CA "$work/root.pem" -CAkey "$work/root.key" -days 3649 -extfile "$work/extensions" -set_serial "0x$(openssl rand -hex 16 | sed 's/^./1/')" -out "$work/tsa.pem" 2>/dev/null
cat "$work/tsa.pem" "$work/root.pem" > config/tsa/chain.pem

# Passwords: of Grafana's admin, and of the person that Dex knows.
openssl rand -hex 16 | tr -d '\n' > secrets/grafana-password
if [ -z "${PASSWORD:-}" ] && [ -t 0 ]; then read -rsp "Password for $EMAIL (empty: a random one): " PASSWORD; echo; fi
printf %s "${PASSWORD:-$(openssl rand -hex 16)}" > secrets/dex-password
cat > config/dex.yaml <<TEXT
# Dex (https://dexidp.io). For production replace enablePasswordDB and staticPasswords by connectors: LDAP, SAML, GitHub, Google, …
issuer: $DEX_URL
storage: {type: sqlite3, config: {file: /var/lib/dex/dex.db}} # signing keys survive a restart
web: {http: 0.0.0.0:5556}
telemetry: {http: 127.0.0.1:5558} # health and metrics
oauth2: {skipApprovalScreen: true, passwordConnector: local} # passwordConnector: a token by curl, without a browser (docs/compose.md)
staticClients:
  - {id: sigstore, name: sigstore, public: true} # public: cosign holds no secret; loopback redirects are permitted
enablePasswordDB: true
staticPasswords:
  - email: $EMAIL
    userID: "$(openssl rand -hex 8)"
    username: ${EMAIL%@*}
    hash: "$($BCRYPT < secrets/dex-password | cut -d: -f2)"
TEXT

# mayfly: the CA, its log, and the entries of Rekor and the timestamp authority in trusted_root.json.
base64_of() { openssl base64 -A; }
der() { openssl x509 -in "$1" -outform DER | base64_of; }
now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
cat > config/mayfly/issuers.yaml <<TEXT
oidc-issuers:
  $DEX_URL:
    issuer-url: $DEX_URL
    client-id: sigstore
    type: email
    allowed-email-domains: [${EMAIL#*@}]
TEXT
cat > config/mayfly/mayfly.yaml <<TEXT
# mayfly serve (docs/configuration.md).
listen: # one port for REST and gRPC; ops only inside of the network
  http: $LISTEN:$HTTP_PORT
  grpc: $LISTEN:$HTTP_PORT
  ops: $LISTEN:$OPS_PORT
public_url: $MAYFLY_URL # in the documents for signers and verifiers
issuers: issuers.yaml # read again when it changes
oidc: {insecure_hosts: [$(host "$DEX_URL")]} # Dex speaks http inside of this network; remove it with https
ca: {set: ca/ca.yaml}
ct:
  logs:
    - embedded:
        name: "2026"
        dir: $STATE/ctlog/2026
        guard: $STATE/ctlog-guard/2026.json # for production on another disk
        key: $STATE/ctlog-2026.key
        origin: $(host "$MAYFLY_URL")/ctlog/2026
audit: {dir: $STATE/audit}
shutdown: {grace: 0s, drain: 20s}
trust: # copied into trusted_root.json and signing_config.v0.2.json
  timestamp_authorities:
    - subject: {organization: mayfly, commonName: timestamp authority}
      uri: $TSA_URL/api/v1/timestamp
      certChain: {certificates: [{rawBytes: $(der "$work/tsa.pem")}, {rawBytes: $(der "$work/root.pem")}]}
      validFor: {start: "$now"}
  tlogs:
    - baseUrl: $REKOR_URL
      hashAlgorithm: SHA2_256
      publicKey:
        rawBytes: $(base64_of < config/rekor.pub)
        keyDetails: PKIX_ECDSA_P256_SHA_256
        validFor: {start: "$now"}
      logId: {keyId: $(openssl dgst -sha256 -binary config/rekor.pub | base64_of)}
TEXT
# The commands of mayfly write into the configuration. compose.yaml mounts it read-only, and of two mounts of one path
# compose takes the first: so it is also mounted elsewhere.
mayfly() {
  if [ -n "${MAYFLY:-}" ]; then $MAYFLY "$@"; else docker compose run --rm --no-deps -T --volume "$PWD/config/mayfly:$CONFIG" mayfly "$@"; fi
}
own
mayfly ca init "$CONFIG/ca" >&2
mayfly ctlog init --config "$CONFIG/mayfly.yaml" > config/ctlog-2026.pub
mv config/mayfly/ca/root secrets/ca-root
own
echo "Done. Take secrets/ca-root offline. Then: docker compose up -d --wait" >&2
