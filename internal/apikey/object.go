package apikey

import "countersign.dev/internal/resource"

// Read is the record of an applied APIKey; since is the revision at which it came.
func Read(o resource.Object, since int64) (Record, error) {
	k, err := resource.APIKey(o)
	if err != nil {
		return Record{}, err
	}
	r := Record{
		Namespace: k.Namespace, Name: k.Name, Env: Env(k.Env), Owner: k.Owner,
		Scopes: k.Scopes, Audiences: k.Audiences, Routes: k.Routes, CIDRs: k.CIDRs, Expires: k.Expires,
		LimitClass: k.LimitClass, RevokeOnLeak: *k.RevokeOnLeak, Disabled: k.Disabled, Since: since,
	}
	for _, s := range k.Secrets {
		r.Secrets = append(r.Secrets, Secret(s))
	}
	return r, nil
}

// Document is the APIKey that a record is, to be applied.
func (r *Record) Document() ([]byte, error) {
	k := resource.Key{
		Namespace: r.Namespace, Name: r.Name, Env: string(r.Env), Owner: r.Owner,
		Scopes: r.Scopes, Audiences: r.Audiences, Routes: r.Routes, CIDRs: r.CIDRs, Expires: r.Expires,
		LimitClass: r.LimitClass, Disabled: r.Disabled,
	}
	if !r.RevokeOnLeak { // the default stays out of what people read
		k.RevokeOnLeak = new(false)
	}
	k.Secrets = r.secrets()
	return resource.KeyDocument(k)
}

// Rewrite gives an applied APIKey the secrets of the record; all else of it stays as it is written.
func (r *Record) Rewrite(o resource.Object) (resource.Object, error) {
	return resource.WithSecrets(o, r.secrets())
}

func (r *Record) secrets() (out []resource.KeySecret) {
	for _, s := range r.Secrets {
		out = append(out, resource.KeySecret{ID: s.ID, SHA256: s.SHA256, Until: s.Until.UTC()})
	}
	return out
}
