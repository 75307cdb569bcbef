import assert from 'node:assert/strict'
import { test } from 'node:test'
import { importPKCS8 } from 'jose'
import * as oauth from 'oauth4webapi'
import { issuer, pkcs8, reports, secret, tampered } from './mesh.mjs'

const url = new URL(issuer)
const ci = { client_id: 'ci' }
const basic = oauth.ClientSecretBasic(secret)

for (const algorithm of ['oidc', 'oauth2']) {
  test(`discovery, ${algorithm}`, async () => {
    const as = await oauth.processDiscoveryResponse(url, await oauth.discoveryRequest(url, { algorithm }))
    assert.equal(as.issuer, issuer)
  })
}

const as = await oauth.processDiscoveryResponse(url, await oauth.discoveryRequest(url))

async function issue(client, auth, parameters = {}) {
  const response = await oauth.clientCredentialsGrantRequest(as, client, auth, { audience: reports, ...parameters })
  return oauth.processClientCredentialsResponse(as, client, response)
}

const introspect = async (token) =>
  oauth.processIntrospectionResponse(as, ci, await oauth.introspectionRequest(as, ci, basic, token))

test('client credentials, ClientSecretBasic', async () => {
  const token = await issue(ci, basic)
  assert.equal(token.token_type, 'bearer')
  assert.equal(token.scope, 'reports:read')
})

test('client credentials, ClientSecretPost', async () => {
  assert.equal((await issue(ci, oauth.ClientSecretPost(secret), { scope: 'reports:write' })).scope, 'reports:write')
})

test('client credentials, PrivateKeyJwt', async () => {
  const key = await importPKCS8(pkcs8(), 'ES256')
  for (const auth of [oauth.PrivateKeyJwt(key), oauth.PrivateKeyJwt({ key, kid: '1' })]) {
    assert.ok((await issue({ client_id: 'batch' }, auth)).access_token)
  }
})

test('a wrong secret', async () => {
  await assert.rejects(issue(ci, oauth.ClientSecretBasic('css_wrong')), (err) => {
    // The library shows the challenge of a 401 in place of its body.
    assert.ok(err instanceof oauth.WWWAuthenticateChallengeError)
    assert.equal(err.cause[0].scheme, 'basic')
    return err.status === 401
  })
  await assert.rejects(issue(ci, oauth.ClientSecretPost('css_wrong')), { error: 'invalid_client', status: 401 })
})

test('a refused scope', async () => {
  await assert.rejects(issue(ci, basic, { scope: 'reports:none' }), { error: 'invalid_scope', status: 400 })
})

test('exchange, introspection, and revocation of both by the first', async () => {
  const first = await issue(ci, basic, { scope: 'reports:read reports:write' })
  const type = 'urn:ietf:params:oauth:token-type:access_token'
  const response = await oauth.genericTokenEndpointRequest(
    as, ci, basic, 'urn:ietf:params:oauth:grant-type:token-exchange',
    { subject_token: first.access_token, subject_token_type: type, audience: reports, scope: 'reports:read' },
  )
  const narrow = await oauth.processGenericTokenEndpointResponse(as, ci, response)
  assert.equal(narrow.issued_token_type, type)
  assert.equal(narrow.scope, 'reports:read')

  const { exp, iat, jti, ...active } = await introspect(narrow.access_token)
  assert.ok(exp > iat && jti)
  assert.deepEqual(active, { active: true, iss: issuer, sub: 'ci', aud: reports, client_id: 'ci', scope: 'reports:read', token_type: 'Bearer' })

  await oauth.processRevocationResponse(await oauth.revocationRequest(as, ci, basic, first.access_token))
  for (const token of [first, narrow]) {
    assert.deepEqual(await introspect(token.access_token), { active: false })
  }
})

test('validateJwtAccessToken', async () => {
  const { access_token } = await issue(ci, basic)
  const call = (token) => new Request(reports, { headers: { authorization: `Bearer ${token}` } })
  const claims = await oauth.validateJwtAccessToken(as, call(access_token), reports)
  assert.equal(claims.sub, 'ci')
  assert.equal(claims.client_id, 'ci')
  await assert.rejects(oauth.validateJwtAccessToken(as, call(tampered(access_token)), reports), /signature/)
  await assert.rejects(oauth.validateJwtAccessToken(as, call(access_token), 'https://archive.example'), /aud/)
})
