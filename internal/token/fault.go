package token

import (
	"errors"
	"net/http"

	"countersign.dev/internal/grant"
)

// The fixed texts of tokens.md 18.1 that this package says, beside those of a *grant.Refusal: no
// answer holds another.
const (
	textAuth       = "client authentication failed"
	textMethods    = "more than one client authentication method"
	textRepeated   = "parameter repeated"
	textQuery      = "parameter in query"
	textMalformed  = "malformed request"
	textGrant      = "grant not allowed for this client"
	textSubject    = "subject_token is not valid"
	textActor      = "actor_token is not valid"
	textTokenType  = "token type not supported"
	textDelegation = "delegation not permitted"
	textDepth      = "delegation chain too deep"
	textProof      = "proof is not valid"
	textRate       = "rate limit"
	textStore      = "store unavailable"
)

// detailRecord is the detail of a record whose token could not be written down, or not in time.
const detailRecord = "record"

// retryStore is how many seconds a client is told to wait for the store.
const retryStore = 5

// The error codes of tokens.md 3.
const (
	codeRequest     = "invalid_request"
	codeClient      = "invalid_client"
	codeUnauth      = "unauthorized_client"
	codeGrantType   = "unsupported_grant_type"
	codeTokenType   = "unsupported_token_type"
	codeDetails     = "invalid_authorization_details"
	codeRequestObj  = "request_not_supported"
	codeUnavailable = "temporarily_unavailable"
	codeServer      = "server_error"
)

// fault is an answer in OAuth's own error form (RFC 6749, section 5.2), and what its record says.
type fault struct {
	code   string
	text   string // of the fixed texts, or empty
	status int    // 0: by code
	reason string // of the record; "" is code
	detail string // of the record: why a credential failed, in words of 12.1 and 18.1
	retry  int    // seconds of Retry-After; 0: none
	allow  string // of a 405
}

// refuse is the fault of a code, with one of the fixed texts.
func refuse(code, text string) *fault { return &fault{code: code, text: text} }

// because sets the finer reason and the detail for the record.
func (f *fault) because(reason, detail string) *fault {
	f.reason, f.detail = reason, detail
	return f
}

// refused is the fault of what the directory would not give.
func refused(err error) *fault {
	if r, ok := errors.AsType[*grant.Refusal](err); ok {
		return refuse(r.Code, r.Text).because(r.Reason, "")
	}
	return refuse(codeServer, "")
}

// statusOf is the HTTP status of the fault.
func (f *fault) statusOf() int {
	switch {
	case f.status != 0:
		return f.status
	case f.code == codeClient:
		return http.StatusUnauthorized
	case f.code == codeUnavailable:
		return http.StatusServiceUnavailable
	case f.code == codeServer:
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

// busy is a limit that was reached: come again.
func busy() *fault {
	return &fault{code: codeUnavailable, text: textRate, status: http.StatusTooManyRequests, retry: 1, reason: reasonRate}
}

// unstored is a request that must write, and a store that cannot be written.
func unstored() *fault {
	return &fault{code: codeUnavailable, text: textStore, retry: retryStore}
}
