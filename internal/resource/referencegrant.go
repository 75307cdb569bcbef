package resource

import (
	"time"

	"countersign.dev/internal/route"
)

var grantShape = crdShape("ReferenceGrant", func(*shape) {})

// ReferenceGrant is the value of an accepted ReferenceGrant.
func ReferenceGrant(o Object, created time.Time, generation int64) (route.Grant, error) {
	spec, err := specOf[struct{ From, To []refSpec }](o, "ReferenceGrant")
	if err != nil {
		return route.Grant{}, err
	}
	out := route.Grant{Meta: meta(o, created, generation)}
	for _, f := range spec.From {
		out.From = append(out.From, route.GrantFrom{Kind: route.Kind{Group: f.Group, Kind: f.Kind}, Namespace: f.Namespace})
	}
	for _, t := range spec.To {
		out.To = append(out.To, route.GrantTo{Kind: route.Kind{Group: t.Group, Kind: t.Kind}, Name: t.Name})
	}
	return out, nil
}
