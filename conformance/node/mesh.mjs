// What the tests know of the mesh: set by node_test.go.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'

export const issuer = process.env.ISSUER
export const secret = process.env.SECRET
export const reports = 'https://reports.example'

/** The key of the client "batch", as the PKCS #8 text that every library takes. */
export const pkcs8 = () => readFileSync(process.env.KEY, 'utf8')

export const countersign = (...args) => execFileSync(process.env.COUNTERSIGN, args, { stdio: 'pipe' }).toString()

/** Another signature: its first character stands for other bits. */
export function tampered(token) {
  const at = token.lastIndexOf('.') + 1
  return token.slice(0, at) + (token[at] === 'A' ? 'B' : 'A') + token.slice(at + 1)
}
