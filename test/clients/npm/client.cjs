// SPDX-License-Identifier: Apache-2.0

// Signs and verifies with npm's sigstore packages, unmodified; NODE_PATH says where they are.
// Usage: node client.cjs REQUEST.json, where the request is one of
//
//   {"action": "sign", "blob", "token", "options"}            with sigstore.sign
//   {"action": "attest", "blob", "type", "token", "options"}  with sigstore.attest
//   {"action": "build", "blob", "token", "signingConfig", "bundleType", "type"}  with
//       @sigstore/sign and the services of a signing config; the last two are optional
//   {"action": "verify", "blob", "bundle", "options"}         with sigstore.verify
//
// blob, bundle and signingConfig are paths. All but the last print the bundle.
'use strict';

const fs = require('fs');
const sigstore = require('sigstore');
const { SigningConfig } = require('@sigstore/protobuf-specs');
const { bundleToJSON } = require('@sigstore/bundle');
const { bundleBuilderFromSigningConfig } = require('@sigstore/sign');

const readJSON = (path) => JSON.parse(fs.readFileSync(path, 'utf8'));

async function build(request) {
  const builder = bundleBuilderFromSigningConfig({
    signingConfig: SigningConfig.fromJSON(readJSON(request.signingConfig)),
    identityProvider: { getToken: async () => request.token },
    bundleType: request.bundleType || 'messageSignature',
  });
  return bundleToJSON(await builder.create({ data: fs.readFileSync(request.blob), type: request.type }));
}

async function main() {
  const request = readJSON(process.argv[2]);
  switch (request.action) {
    case 'sign':
      return sigstore.sign(fs.readFileSync(request.blob), { ...request.options, identityToken: request.token });
    case 'attest':
      return sigstore.attest(fs.readFileSync(request.blob), request.type, { ...request.options, identityToken: request.token });
    case 'build':
      return build(request);
    case 'verify': {
      const bundle = readJSON(request.bundle);
      // What a DSSE envelope signs is in the bundle; any other blob is handed over.
      const args = bundle.dsseEnvelope ? [] : [fs.readFileSync(request.blob)];
      await sigstore.verify(bundle, ...args, request.options);
      return { verified: true };
    }
    default:
      throw new Error(`no such action: ${request.action}`);
  }
}

main().then(
  (result) => console.log(JSON.stringify(result)),
  (err) => {
    console.error(err);
    process.exitCode = 1;
  },
);
