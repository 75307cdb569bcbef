package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

// R1: 1,000 routes come, change and go one by one while 8 callers ask without a pause and 100 streams are open: nothing
// fails, nothing is dropped.
func TestR1ThousandChanges(t *testing.T) {
	const streams, changes, callers = 100, 1000, 8
	release := make(chan struct{})
	h := newHouse(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "begun\n")
		if r.URL.Path != "/stream" {
			return
		}
		w.(http.Flusher).Flush()
		select {
		case <-release:
			_, _ = io.WriteString(w, "whole\n")
		case <-r.Context().Done():
		}
	})}, toAPI())
	h.admit(policy.Rule{})
	var open []*bufio.Reader
	for i, conn := 0, (*streamer)(nil); i < streams; i++ {
		if i%50 == 0 {
			conn = h.streamer(0)
		}
		req, _ := http.NewRequest("GET", "https://shop.test/stream", nil)
		resp, err := conn.RoundTrip(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(i, resp, err)
		}
		defer resp.Body.Close()
		open = append(open, bufio.NewReader(resp.Body))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wait sync.WaitGroup
	var asked atomic.Int64
	for range callers {
		wait.Go(func() {
			var tr http.Transport
			defer tr.CloseIdleConnections()
			for ctx.Err() == nil {
				req, _ := http.NewRequest("GET", "http://"+h.http+"/items", nil)
				req.Host = "shop.test"
				resp, err := tr.RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != 200 || string(body) != "begun\n" || err != nil {
					t.Errorf("%d %q, %v", resp.StatusCode, body, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	rules := []route.Rule{toAPI()}
	for i := range changes {
		switch i % 3 {
		case 0: // comes
			rules = append(rules[:1:1], toAPI(path(route.Prefix, fmt.Sprint("/r", i))))
		case 1: // changes
			rules = append(rules[:1:1], toAPI(path(route.Exact, fmt.Sprint("/e", i))))
		case 2: // goes
			rules = rules[:1]
		}
		h.serve(rules...)
	}
	for before := asked.Load(); asked.Load() < before+callers && !t.Failed(); { // the last revision serves
		time.Sleep(time.Millisecond)
	}
	cancel()
	wait.Wait()
	close(release)
	for i, s := range open {
		if all, err := io.ReadAll(s); err != nil || !strings.HasSuffix(string(all), "begun\nwhole\n") {
			t.Errorf("stream %d: %q, %v", i, all, err)
		}
	}
	t.Logf("%d requests during %d changes", asked.Load(), changes)
}
