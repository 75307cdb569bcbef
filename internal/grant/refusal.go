package grant

// Refusal is a token that may not be issued: an OAuth error code with one of the fixed texts
// of tokens.md 18.1, and the finer reason for the record.
type Refusal struct {
	Code   string // invalid_target, invalid_scope, invalid_request, unauthorized_client
	Text   string
	Reason string // for the record: may_act, actor_cycle, chain_depth, delegation; "" is Code
}

func (r *Refusal) Error() string { return r.Code + ": " + r.Text }

func noTarget() error {
	return &Refusal{Code: "invalid_target", Text: "audience or resource is required"}
}
func badTarget() error { return &Refusal{Code: "invalid_target", Text: "target not allowed"} }
func badScope() error  { return &Refusal{Code: "invalid_scope", Text: "scope not allowed"} }
func badGrant() error {
	return &Refusal{Code: "unauthorized_client", Text: "grant not allowed for this client"}
}
func notPermitted() error {
	return &Refusal{Code: "invalid_request", Text: "delegation not permitted", Reason: "delegation"}
}
func alreadyActs() error {
	return &Refusal{Code: "invalid_request", Text: "actor already in delegation chain", Reason: "actor_cycle"}
}
func tooDeep() error {
	return &Refusal{Code: "invalid_request", Text: "delegation chain too deep", Reason: "chain_depth"}
}
