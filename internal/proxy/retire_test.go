package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// A port that is retired takes nothing more at once; what is under way there ends by itself, and its connection with
// it; who waits too long is left to stop.
func TestRetire(t *testing.T) {
	began, end := make(chan struct{}, 2), make(chan struct{})
	h := newHouse(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			began <- struct{}{}
			<-end
		}
		echo(w, r)
	})}, toAPI())
	token := bearerLine(h.id.foreign())
	idle, idleReader := dialRaw(t, h.http, "GET / HTTP/1.1\nHost: shop.test\n"+token+"\n\n")
	if status, _, _ := answerOf(t, idleReader); status != 200 {
		t.Fatal(status)
	}
	_, slow := dialRaw(t, h.http, "GET /slow HTTP/1.1\nHost: shop.test\n"+token+"\n\n")
	<-began

	wait := h.a.Retire("edge1")
	if c, err := net.Dial("tcp", h.http); err == nil {
		c.Close()
		t.Error("a retired port takes connections")
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wait(short)
	if !errors.Is(short.Err(), context.DeadlineExceeded) {
		t.Error("it does not wait for what is under way")
	}
	if _, err := idleReader.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection lives on: %v", err)
	}
	idle.Close()
	close(end)
	wait(t.Context())
	status, _, _ := answerOf(t, slow)
	if status != 200 {
		t.Errorf("what was under way got %d", status)
	}
	if _, err := slow.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("its connection lives on: %v", err)
	}
	h.a.Retire("nobody")(t.Context())
}
