import assert from 'node:assert/strict'
import { test } from 'node:test'
import { importPKCS8 } from 'jose'
import * as client from 'openid-client'
import { issuer, pkcs8, reports, secret } from './mesh.mjs'

const audience = reports

for (const [name, id, auth] of [
  ['its default, the secret in the body', 'ci', secret],
  ['ClientSecretBasic', 'ci', client.ClientSecretBasic(secret)],
  ['PrivateKeyJwt', 'batch', client.PrivateKeyJwt(await importPKCS8(pkcs8(), 'ES256'))],
]) {
  test(`discovery and client credentials, ${name}`, async () => {
    const config = typeof auth === 'string'
      ? await client.discovery(new URL(issuer), id, auth)
      : await client.discovery(new URL(issuer), id, undefined, auth)
    assert.equal(config.serverMetadata().issuer, issuer)
    const token = await client.clientCredentialsGrant(config, { audience, scope: 'reports:read' })
    assert.equal(token.scope, 'reports:read')
    assert.ok(token.expiresIn() > 200)

    assert.equal((await client.tokenIntrospection(config, token.access_token)).sub, id)
    await client.tokenRevocation(config, token.access_token)
    assert.deepEqual(await client.tokenIntrospection(config, token.access_token), { active: false })
  })
}
