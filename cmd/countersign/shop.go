package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// The shop of `demo`: five ordinary HTTP programs that know nothing of identities, policies or
// TLS. They call each other by name through HTTP_PROXY, as any program does, and listen where
// they are told. Each is a process of its own: `countersign shop ROLE`, a hidden command.
//
//	web      → orders             GET /orders/<n>, and POST /orders after every fourth
//	orders   → inventory          GET /stock/<n> for each order asked for
//	orders   → payments           POST /payments for each order placed
//	intruder → payments           POST /payments, which nobody allowed

const (
	webEvery      = 25 * time.Millisecond
	intruderEvery = 100 * time.Millisecond
	shopCall      = 5 * time.Second // longest time for one call
)

// shop runs one role until ctx ends or a signal comes.
func shop(ctx context.Context, role string, args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	flags := flag.NewFlagSet("shop "+role, flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "", "the `address` to serve on, for orders, payments and inventory")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "shop %s: unexpected argument %q\n", role, flags.Arg(0))
		return 2
	}
	// The default transport: whatever the environment says of proxies holds.
	s := &shopRole{name: role, client: &http.Client{Timeout: shopCall}, out: stdout, err: stderr}
	return s.run(ctx, *listen)
}

// shopRole is one program of the shop.
type shopRole struct {
	name     string
	client   *http.Client
	out, err io.Writer
}

func (s *shopRole) run(ctx context.Context, listen string) int {
	mux := http.NewServeMux()
	switch s.name {
	case "web":
		return s.loop(ctx, webEvery, s.browse)
	case "intruder":
		return s.loop(ctx, intruderEvery, s.intrude)
	case "orders":
		mux.HandleFunc("GET /orders/{n}", s.showOrder)
		mux.HandleFunc("POST /orders", s.placeOrder)
	case "payments":
		mux.HandleFunc("POST /payments", func(w http.ResponseWriter, _ *http.Request) {
			answer(w, http.StatusCreated, `{"paid":true}`)
		})
	case "inventory":
		mux.HandleFunc("GET /stock/{n}", func(w http.ResponseWriter, r *http.Request) {
			answer(w, http.StatusOK, fmt.Sprintf(`{"article":%q,"stock":12}`, r.PathValue("n")))
		})
	default:
		fmt.Fprintf(s.err, "shop: no role %q; web, orders, payments, inventory, intruder\n", s.name)
		return 2
	}
	if listen == "" {
		fmt.Fprintf(s.err, "shop %s: --listen is missing\n", s.name)
		return 2
	}
	if err := s.serve(ctx, listen, mux); err != nil {
		fmt.Fprintf(s.err, "shop %s: %v\n", s.name, err)
		return 1
	}
	return 0
}

// serve answers on an address until ctx ends, and lets what is under way finish.
func (s *shopRole) serve(ctx context.Context, listen string, h http.Handler) error {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%s listens on %s\n", s.name, ln.Addr())
	srv := &http.Server{Handler: h, ReadHeaderTimeout: shopCall}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err = srv.Shutdown(grace); err != nil {
		err = srv.Close()
	}
	<-ended
	return err
}

// loop makes call after call, and says on stderr when their outcome changes.
func (s *shopRole) loop(ctx context.Context, every time.Duration, call func(ctx context.Context, n int) string) int {
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := ""
	for n := 1; ; n++ {
		if got := call(ctx, n); got != last && ctx.Err() == nil {
			fmt.Fprintf(s.err, "%s: %s\n", s.name, got)
			last = got
		}
		select {
		case <-ctx.Done():
			return 0
		case <-tick.C:
		}
	}
}

// browse is a customer: four looks at an order, then a new one.
func (s *shopRole) browse(ctx context.Context, n int) string {
	method, url := "GET", fmt.Sprintf("http://orders/orders/%d", n%1000)
	if n%5 == 0 {
		method, url = "POST", "http://orders/orders"
	}
	status, err := s.call(ctx, method, url)
	switch {
	case err != nil:
		return err.Error()
	case status/100 != 2:
		return fmt.Sprintf("%s %s: %d", method, url, status)
	}
	return "orders are shown and placed"
}

// intrude tries what nobody allowed it to do, and goes on when it is refused.
func (s *shopRole) intrude(ctx context.Context, _ int) string {
	status, err := s.call(ctx, "POST", "http://payments/payments")
	switch {
	case err != nil:
		return err.Error()
	case status/100 == 2:
		return "a payment was taken that nobody allowed"
	}
	return fmt.Sprintf("refused with %d, as it should be", status)
}

func (s *shopRole) showOrder(w http.ResponseWriter, r *http.Request) {
	s.relay(w, r, "GET", "http://inventory/stock/"+r.PathValue("n"), http.StatusOK)
}

func (s *shopRole) placeOrder(w http.ResponseWriter, r *http.Request) {
	s.relay(w, r, "POST", "http://payments/payments", http.StatusCreated)
}

// relay answers with status if the call that the order needs goes well.
func (s *shopRole) relay(w http.ResponseWriter, r *http.Request, method, url string, status int) {
	got, err := s.call(r.Context(), method, url)
	if err != nil || got/100 != 2 {
		answer(w, http.StatusBadGateway, `{"error":"another part of the shop did not answer"}`)
		return
	}
	answer(w, status, `{"order":"fine"}`)
}

func (s *shopRole) call(ctx context.Context, method, url string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	// Read to the end, so that the connection is used again.
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)); err != nil {
		return 0, err
	}
	return resp.StatusCode, nil
}

func answer(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintln(w, body)
}
