import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createRemoteJWKSet, decodeProtectedHeader, jwtVerify } from 'jose'
import { countersign, issuer, reports, secret, tampered } from './mesh.mjs'

const expected = { issuer, audience: reports, typ: 'at+jwt', algorithms: ['ES256'] }

async function issue(audience = reports) {
  const response = await fetch(`${issuer}/oauth2/token`, {
    method: 'POST',
    headers: { authorization: `Basic ${btoa(`ci:${secret}`)}` },
    body: new URLSearchParams({ grant_type: 'client_credentials', audience }),
  })
  assert.equal(response.status, 200)
  return (await response.json()).access_token
}

const { jwks_uri } = await (await fetch(`${issuer}/.well-known/oauth-authorization-server`)).json()

test('jwtVerify', async () => {
  const keys = createRemoteJWKSet(new URL(jwks_uri))
  const token = await issue()
  const { payload } = await jwtVerify(token, keys, expected)
  assert.equal(payload.client_id, 'ci')
  await assert.rejects(jwtVerify(tampered(token), keys, expected), { code: 'ERR_JWS_SIGNATURE_VERIFICATION_FAILED' })
  await assert.rejects(jwtVerify(token, keys, { ...expected, audience: 'x' }), { code: 'ERR_JWT_CLAIM_VALIDATION_FAILED' })
  const typed = await issue('https://legacy.example')
  await assert.rejects(jwtVerify(typed, keys, { ...expected, audience: 'https://legacy.example' }), { code: 'ERR_JWT_CLAIM_VALIDATION_FAILED', claim: 'typ' })
})

test('a scheduled rotation: the next key is read before it signs', async () => {
  countersign('token', 'rotate')
  const keys = createRemoteJWKSet(new URL(jwks_uri))
  const before = await issue()
  await jwtVerify(before, keys, expected)
  countersign('token', 'rotate', '--now')
  const after = await issue()
  assert.notEqual(decodeProtectedHeader(after).kid, decodeProtectedHeader(before).kid)
  for (const token of [before, after]) await jwtVerify(token, keys, expected)
})

test('a rotation at once: the set is read again for the unknown key', async () => {
  // By default the library waits 30 s between two reads.
  const keys = createRemoteJWKSet(new URL(jwks_uri), { cooldownDuration: 0 })
  const before = await issue()
  await jwtVerify(before, keys, expected)
  countersign('token', 'rotate', '--now')
  const after = await issue()
  assert.notEqual(decodeProtectedHeader(after).kid, decodeProtectedHeader(before).kid)
  for (const token of [before, after]) await jwtVerify(token, keys, expected)
})
