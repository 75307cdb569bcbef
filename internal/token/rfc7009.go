package token

import (
	"context"
	"net/http"
	"strings"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/revocation"
)

// revokeMargin is how many seconds an entry outlives the token that it revokes, for clocks that
// differ: what descends from a token ends with it (tokens.md 7.2, step 10).
const revokeMargin = 60

// kindRevoke is the kind of the record (audit.md 2.1).
const kindRevoke = "revoke"

// revoke is the endpoint of RFC 7009. The answer to success is 200 with an empty body.
func (s *Service) revoke(ctx context.Context, c *caller, f *form, rec *audit.Record) *fault {
	raw := f.One("token")
	switch {
	case raw == "":
		return refuse(codeRequest, textMalformed)
	case strings.HasPrefix(raw, "csk_"): // an API key: the admin API revokes these
		return refuse(codeTokenType, textTokenType)
	}
	t, reason := s.own(c, raw)
	switch {
	case reason == jose.Typ && s.isTransaction(c, raw):
		return refuse(codeTokenType, textTokenType)
	case reason != "": // RFC 7009, section 2.2: what is not valid needs no revocation
		return nil
	}
	rec.Kind, rec.Action, rec.Object = kindRevoke, "revoke", "jti/"+t.ID()
	rec.JTI, rec.RTI, rec.Sub = t.ID(), t.Root(), s.pseudonym(&issue{subject: t.Subject(), oiss: upstream(t)})
	if t.ClientID() != c.client.ClientID {
		return refuse(codeRequest, "").because("presenter", "")
	}
	if s.revoked(t) != jose.Revoked {
		_, err := appendEntry(ctx, s.o.Store, revocation.Entry{
			Kind: revocation.ByJTI, Val: t.ID(), At: c.now.Unix(), Until: t.Expires() + revokeMargin, Why: "RFC 7009",
		})
		if err != nil {
			s.o.Log.WarnContext(ctx, "revoking a token", "error", err)
			return unstored()
		}
	}
	rec.Decision, rec.Status, rec.Result = audit.Allow, http.StatusOK, audit.ResultOK
	if err := s.o.Records.Write(ctx, rec); err != nil { // said only once it is written down
		s.o.Log.ErrorContext(ctx, "recording a revocation", "error", err)
		return unstored().because("", detailRecord)
	}
	return nil
}

// isTransaction says whether a token is a transaction token of this service: it dies with its rti.
func (s *Service) isTransaction(c *caller, raw string) bool {
	check := jose.Check{Profile: jose.Txn, Issuer: s.o.Issuer, Keys: s.o.Keys()}
	_, err := check.Verify(c.now, raw)
	return err == nil
}

func upstream(t *jose.Token) string { iss, _ := t.Upstream(); return iss }
