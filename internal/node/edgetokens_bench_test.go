package node

import (
	"context"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/proxy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// BenchmarkEdgeTokenKept is what a request pays for an edge token that is at hand.
func BenchmarkEdgeTokenKept(b *testing.B) {
	s := newEdgeTokens(nil)
	s.life = b.Context()
	r := &proxy.Run{ID: spiffeid.RequireFromString(shopWeb)}
	c := alice(func(e *proxy.EdgeCall) { e.Text = strings.Repeat("eyJ.", 200) })
	_, err := s.kept.get(b.Context(), edgeKeyOf(r, &c), func(context.Context) (string, time.Duration, error) { return "token", time.Hour, nil })
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if text, err := s.get(b.Context(), r, c); err != nil || text != "token" {
			b.Fatal(text, err)
		}
	}
}
