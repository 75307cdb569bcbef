package workloadapi

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
)

const maxHint = 1024 // bytes, SPIFFE Workload API 5.2.1

// svidResponse renders the whole state: all identities or an error (identity.md 6.3).
func svidResponse(st State) (*workload.X509SVIDResponse, error) {
	bundle, err := bundleOf(st)
	if err != nil {
		return nil, err
	}
	if len(st.SVIDs) == 0 {
		return nil, errors.New("there is neither an identity nor a refusal")
	}
	r := &workload.X509SVIDResponse{}
	hints := map[string]bool{}
	for _, v := range st.SVIDs {
		if len(v.Chain) == 0 || len(v.Key) == 0 {
			return nil, fmt.Errorf("SVID %q is not complete", v.ID)
		}
		hint := v.Hint
		if hint == "" || len(hint) > maxHint || hints[hint] { // unique among those given (5.2.1)
			hint = ""
		}
		hints[hint] = true
		r.Svids = append(r.Svids, &workload.X509SVID{
			SpiffeId: v.ID, X509Svid: slices.Concat(v.Chain...), X509SvidKey: v.Key, Bundle: bundle, Hint: hint,
		})
	}
	return r, nil
}

// bundlesResponse says of the bundle what svidResponse says of it at the same moment.
func bundlesResponse(st State) (*workload.X509BundlesResponse, error) {
	bundle, err := bundleOf(st)
	if err != nil {
		return nil, err
	}
	return &workload.X509BundlesResponse{Bundles: map[string][]byte{"spiffe://" + st.TrustDomain: bundle}}, nil
}

func bundleOf(st State) ([]byte, error) {
	bundle := slices.Concat(st.Bundle...)
	if len(bundle) == 0 || st.TrustDomain == "" {
		return nil, errors.New("the trust domain has no bundle")
	}
	return bundle, nil
}
